"""region-phrase: its score by loops, CCA as a special case, overlaps by hand, drawn pairs, and regions it learns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from cran_bench.dataset import Collection, ImageSource
from cran_bench.embeddings import Levels
from cran_bench.errors import BadInput
from cran_bench.frontend.features import Features
from cran_bench.frontend.text.words import TextFrontEnd
from cran_bench.methods._linear import scaled
from cran_bench.methods.cca import CCA
from cran_bench.methods.gmm_hglmm import GMMHGLMM
from cran_bench.methods.region_phrase import Pairs, RegionPhrase, bare, overlap
from cran_bench.ranking.rank import rank
from cran_bench.running.fits import FitStore
from cran_bench.split import MissingFeature, Split

THINGS = ["dog", "ball", "boat", "tree", "horse", "car"]
BOXES = np.float32([[0, 0, 0.5, 1], [0.5, 0, 1, 1], [0, 0, 1, 1]])


class NoImages(ImageSource):
    def __init__(self, count):
        self.ids = tuple(f"image{row}" for row in range(count))

    def read(self, row):
        raise NotImplementedError

    def digest(self, row):
        raise NotImplementedError


def splits_of(captions, owner, regions, images, mask=None, phrase_boxes=None):
    """The first two thirds of the images for training and validation, the others for testing."""
    n, count, _ = regions.shape
    rows = {"train": np.arange(n // 2), "val": np.arange(n // 2, 2 * n // 3), "test": np.arange(2 * n // 3, n)}
    data = Collection("toy", NoImages(n), captions, owner, rows, phrase_boxes=phrase_boxes)
    mask = np.ones((n, count), dtype=bool) if mask is None else mask
    boxes = np.broadcast_to(BOXES[:count], (n, count, 4)).copy()
    images, regions = images.astype(np.float32), regions.astype(np.float32)
    features = Features(Path("nowhere"), {}, images, regions, boxes, mask.astype(np.float32), mask)
    text = TextFrontEnd.fit(data.captions_of(rows["train"])[0], "ppmi-svd[min_count=1]")
    return {name: Split(name, "captions", data, features, text, torch.device("cpu")) for name in rows}


@pytest.fixture(scope="module")
def toy():
    """180 images of two things, each seen in one of two regions; the last region is sometimes none."""
    random = np.random.default_rng(0)
    things = np.array([random.permutation(6)[:2] for _ in range(180)])
    sight = random.normal(size=(6, 12))
    regions = sight[things] + 0.3 * random.normal(size=(180, 2, 12))
    captions = [f"a {THINGS[b]} is near the {THINGS[a]}" for a, b in things.tolist() for _ in range(2)]
    mask = np.ones((180, 2), dtype=bool)
    mask[100] = False
    boxes = [[(f"A {THINGS[thing]}", tuple(BOXES[k].tolist())) for k, thing in enumerate(own)] for own in things]
    owner = np.repeat(np.arange(180), 2)
    return splits_of(captions, owner, regions, regions.sum(axis=1) + random.normal(size=(180, 12)), mask, boxes)


@pytest.fixture(scope="module")
def plain():
    """Each image has one region, itself, and each caption is its only noun chunk."""
    random = np.random.default_rng(1)
    things, looks = random.integers(0, 6, 150), random.integers(0, 6, 150)
    colours = ["red", "green", "blue", "white", "black", "brown"]
    sight = random.normal(size=(12, 10))
    images = sight[things] + sight[6 + looks] + 0.5 * random.normal(size=(150, 10))
    captions = [f"{colours[a]} {THINGS[b]} number{row}" for row, (a, b) in enumerate(zip(looks, things, strict=True))]
    return splits_of(captions, np.arange(150), images[:, None], images)


def sets(count, most, dim=4, seed=0, shift=0.0):
    """Levels of `count` rows with 1 to `most` unit vectors each."""
    draw = torch.Generator().manual_seed(seed)
    vectors, wholes = (torch.randn(*shape, generator=draw) + shift for shape in ((count, most, dim), (count, dim)))
    sizes = torch.randint(1, most + 1, (count, 1), generator=draw)
    return Levels(normalize(wholes, dim=1), normalize(vectors, dim=2), mask=torch.arange(most) < sizes)


@pytest.fixture
def fit(tmp_path):
    """``fit(method, splits)``: the method fitted, and what it chose."""

    def fitted(method, data):
        store = FitStore(tmp_path, {}, data["train"], data["val"], torch.device("cpu"))
        found = store.fitted(method, 0, "region-phrase")
        return found.part, found.chose

    return fitted


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_a_score_is_that_of_loops_over_regions_and_phrases(exponent):
    method, images, texts = RegionPhrase(alpha=(0.7,), exponent=(exponent,)), sets(6, 5), sets(7, 4, seed=1)
    expected = np.empty((6, 7))
    for i in range(6):
        for t in range(7):
            v, p = (x.regions[k][x.mask[k]].double().numpy() for x, k in ((images, i), (texts, t)))
            best = [max(float(region @ phrase) for region in v) for phrase in p]
            whole = float(images.globals[i].double() @ texts.globals[t].double())
            expected[i, t] = 0.7 * whole + 0.3 * sum(best) / len(p) ** exponent
    found = method.score(images, texts)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=2e-7)


def test_scores_do_not_depend_on_the_tile_and_the_ranks_are_those_of_the_matrix():
    similarity, images, texts = RegionPhrase().similarity, sets(20, 5, 32), sets(60, 6, 32, seed=1)
    whole = similarity.scores(images, texts)
    for tile in ((20, 60), (1, 3), (7, 13)):
        assert torch.equal(replace(similarity, tile=tile).scores(images, texts), whole)
    owner = torch.arange(20).repeat_interleave(3)
    better = (whole > whole[owner, torch.arange(60)]).sum(dim=0)
    assert rank(images, texts, owner, similarity).t2i.better.tolist() == better.tolist()


def test_long_captions_are_favoured_without_g_punished_by_a_large_one_and_neither_with_1():
    images, texts = sets(40, 5, 16, shift=0.5), sets(400, 8, 16, seed=1, shift=0.5)
    count = texts.mask.sum(dim=1).double()

    def slope(exponent):
        scores = RegionPhrase(alpha=(0.0,), exponent=(exponent,)).score(images, texts).double().mean(dim=0)
        return float(torch.corrcoef(torch.stack([count, scores]))[0, 1])

    assert slope(0.0) > 0.9 and slope(2.0) < -0.7 and abs(slope(1.0)) < 0.1


@pytest.mark.parametrize(("text", "whole"), [("tfidf", CCA), ("hglmm", GMMHGLMM)])
def test_one_region_that_is_the_image_and_one_phrase_that_is_the_caption_are_cca(plain, fit, text, whole):
    assert plain["test"].phrases == [[caption] for caption in plain["test"].texts]
    constants = {"image": "l2", "dim": (8,), "power": (1.0,), "ridge_image": (0.01,), "ridge_text": (0.01,)}
    more = {"models": "hglmm", "fisher_dim": 20_000} if whole is GMMHGLMM else {}
    cca, _ = fit(whole(**constants, **more), plain)
    method, _ = fit(RegionPhrase(text=text, image="l2", ridge=0.01, dim=8, rounds=0, alpha=(0.0,)), plain)
    expected = cca.similarity.scores(cca.embed_images(plain["test"]), cca.embed_texts(plain["test"]))
    embeddings = method.embed_images(plain["test"]), method.embed_texts(plain["test"])
    torch.testing.assert_close(method.similarity.scores(*embeddings), expected, rtol=0, atol=2e-6)
    if text == "hglmm":  # whose CCA of wholes has the same constants
        method.weights = 0.6, 1.0
        torch.testing.assert_close(method.similarity.scores(*embeddings), expected, rtol=0, atol=2e-6)


def test_overlaps_by_hand():
    boxes = torch.tensor([[[0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 3, 2]], [[0, 0, 4, 4], [0, 0, 0, 0], [1, 1, 2, 2]]])
    others = torch.tensor([[0, 0, 2, 2], [0, 0, 2, 4]])
    expected = torch.tensor([[1, 1 / 7, 0], [0.5, 0, 1 / 8]])
    torch.testing.assert_close(overlap(boxes.float(), others.float()), expected)


def test_no_phrase_has_more_than_ten_pairs_and_no_pair_counts_twice():
    phrases = ["man"] * 500 + ["dog"] * 4 + ["ball"] * 12
    images = torch.cat(
        [torch.arange(250).repeat_interleave(2), torch.tensor([250, 250, 251, 252]), torch.arange(260, 272)]
    )
    pairs = Pairs(phrases, images, torch.full_like(images, -1))
    drawn = pairs.drawn(10, seed=0)
    kept = [*zip(drawn.phrases, drawn.images.tolist(), strict=True)]
    assert {phrase: drawn.phrases.count(phrase) for phrase in set(phrases)} == {"man": 10, "dog": 3, "ball": 10}
    assert len(set(kept)) == len(kept) and set(kept) <= {*zip(phrases, images.tolist(), strict=True)}
    assert drawn.images.tolist() == sorted(drawn.images.tolist())
    again, other = pairs.drawn(10, seed=0), pairs.drawn(10, seed=1)
    assert torch.equal(again.images, drawn.images) and not torch.equal(other.images, drawn.images)


def test_phrases_of_a_caption_are_its_noun_chunks_or_itself(toy):
    asked = toy["test"].asking(["a dog is near the red ball", "it runs", ""])
    assert asked.phrases == [["dog", "red ball"], ["it runs"], [""]]
    assert [bare(phrase) for phrase in ("Two young men", "A dog", "his", "the Red ball")] == [
        "two young men",
        "dog",
        "his",
        "red ball",
    ]


def test_phrases_find_the_regions_that_show_them(toy, fit):
    method, chose = fit(RegionPhrase(dim=6, ridge=0.01, rounds=3, per_phrase=40), toy)
    assert chose["pairs"] > 100 and chose["alpha"] in method.alpha
    train = toy["train"]
    pairs = method.mentioned(train)
    found = method.nearest(train, train.asking(pairs.phrases), pairs)
    phrases, images, boxes = train.phrase_boxes
    true = {(bare(p), i): int(b[0] > 0) for p, i, b in zip(phrases, images.tolist(), boxes, strict=True)}
    right = [true[p, i] == r for p, i, r in zip(pairs.phrases, pairs.images.tolist(), found.tolist(), strict=True)]
    assert np.mean(right) > 0.9


def test_each_round_is_cca_of_the_regions_that_the_last_one_found_nearest(toy, fit):
    train = toy["train"]
    first, second = (fit(RegionPhrase(dim=6, rounds=rounds), toy)[0] for rounds in (0, 1))
    pairs = first.mentioned(train).drawn(10, seed=0)
    regions = scaled(train.regions, "sqrt").double()
    torch.testing.assert_close(first.pairs.mean_x, regions[pairs.images].mean(dim=(0, 1)))
    nearest = first.nearest(train, train.asking(pairs.phrases), pairs)
    assert 0 < nearest.double().mean() < 1
    torch.testing.assert_close(second.pairs.mean_x, regions[pairs.images, nearest].mean(dim=0))


def test_annotated_phrases_are_learned_from_the_region_that_overlaps_their_box_most(toy, fit):
    method, train = RegionPhrase(boxes="annotated", dim=6, ridge=0.01, per_phrase=1000), toy["train"]
    phrases, images, boxes = train.phrase_boxes
    pairs = method.annotated(train)
    assert pairs.phrases == [bare(phrase) for phrase in phrases] and torch.equal(pairs.images, images)
    assert pairs.regions.tolist() == (boxes[:, 0] > 0).int().tolist()
    method, chose = fit(method, toy)
    assert chose["pairs"] == len(pairs.phrases) == 2 * len(train)
    scores = rank(
        method.embed_images(toy["test"]), method.embed_texts(toy["test"]), toy["test"].image_of, method.similarity
    )
    assert scores.metrics().rsum > 2.5 * 2 * 100 * (1 + 5 + 10) / len(toy["test"])


def test_boxes_that_no_region_overlaps_are_left_out(toy):
    collection, train = toy["train"]._collection, toy["train"]
    halves = [[("a dog", (0.0, 0.0, 0.5, 0.5)), ("a cat", (0.0, 0.0, 0.4, 0.4))]] * 2 + [[]] * 178
    train = Split(
        "train", "captions", replace(collection, phrase_boxes=halves), train._features, train._words, train._device
    )
    pairs = RegionPhrase().annotated(train)
    assert (pairs.phrases, pairs.images.tolist(), pairs.regions.tolist()) == (["dog", "dog"], [0, 1], [0, 0])
    none = replace(collection, phrase_boxes=[[("a dog", (0.0, 0.0, 0.1, 0.1))]] + [[]] * 179)
    with pytest.raises(BadInput, match=r"0 of 1 annotated boxes overlap a region by 0.5 or more: use a detector"):
        RegionPhrase().annotated(Split("train", "captions", none, train._features, train._words, train._device))
    with pytest.raises(BadInput, match="phrase_boxes has 1 rows for 180 images"):
        replace(collection, phrase_boxes=[[]])


def test_without_annotations_the_remedy_is_named(tiny):
    with pytest.raises(
        MissingFeature, match=r"tiny has no annotated boxes .*flickr30k\[phrases=true\], or boxes=assigned"
    ):
        RegionPhrase(boxes="annotated").annotated(tiny.train)


def test_an_image_without_regions_is_its_own_region_and_texts_are_read_to_the_longest(toy, fit):
    method, _ = fit(RegionPhrase(dim=6), toy)
    images = method.embed_images(toy["val"])
    assert images.mask[10].all() and images.mask.all()
    asked = toy["test"].asking(["a dog, a ball, a boat and a tree", "a dog", ""])
    texts = method.embed_texts(asked)
    assert texts.mask.tolist() == [[True, True], [True, False], [True, False]] and method.longest == 2
    alone = method.embed_texts(toy["test"].asking(["a dog"]))
    for own, other in zip(texts.tensors(), alone.tensors(), strict=True):
        torch.testing.assert_close(own[1], other[0])
    assert bool(torch.isfinite(method.score(images, texts)).all())


@pytest.mark.parametrize("options", ["", "text=hglmm,components=4,", "text=vectors,rounds=0,"])
def test_it_comes_back_from_the_store(tiny, comes_back, options):
    options = options.replace("components=4,", "")
    fitted = comes_back(f"region-phrase[{options}dim=8,alpha=0.5|0.9,exponent=1.0]")
    assert fitted.chose["alpha"] in (0.5, 0.9) and fitted.chose["exponent"] == 1.0


def test_memory_is_that_of_cca_and_of_the_phrases_at_least(tiny):
    sets = 8 * len(tiny.train.texts) // 6 * 16
    assert RegionPhrase(dim=16).memory(tiny.train) - CCA().memory(tiny.train) >= sets


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": -1.0}, "ridge is at least 0, not -1"),
        ({"per_phrase": 0}, "per_phrase is at least 1, not 0"),
        ({"alpha": (0.5, 1.5)}, "alpha is from 0 to 1"),
        ({"exponent": (-1.0,)}, "exponent at least 0"),
    ],
)
def test_fields_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        RegionPhrase(**options)
