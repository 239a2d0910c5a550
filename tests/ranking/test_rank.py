from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cran_bench.embeddings import Levels, Relations
from cran_bench.errors import BadInput
from cran_bench.ranking import evaluation, filtering
from cran_bench.ranking.evaluation import evaluate
from cran_bench.ranking.filtering import Filtering
from cran_bench.ranking.metrics import KS, Counts, Metrics, Ranks, mean_metrics, small_set_notes
from cran_bench.ranking.problem import Clock, make_problem
from cran_bench.ranking.rank import rank, twin_accuracy
from cran_bench.ranking.reference import Reference
from cran_bench.ranking.tiles import Tiles
from cran_bench.similarity import COSINE, DOT, MultiLevel, Similarity


def count(scores, image_of):
    """Both directions by explicit loops: [(better, tied, right)] of every image and of every text."""
    n, t = scores.shape
    images, texts = [], []
    for i in range(n):
        best = max(scores[i, j] for j in range(t) if image_of[j] == i)
        wrong = [scores[i, j] for j in range(t) if image_of[j] != i]
        right = sum(scores[i, j] == best for j in range(t) if image_of[j] == i)
        images.append((sum(s > best for s in wrong), sum(s == best for s in wrong), right))
    for j in range(t):
        own = scores[image_of[j], j]
        wrong = [scores[i, j] for i in range(n) if i != image_of[j]]
        texts.append((sum(s > own for s in wrong), sum(s == own for s in wrong), 1))
    return images, texts


def triples(counts):
    return list(zip(counts.better.tolist(), counts.tied.tolist(), counts.right.tolist(), strict=True))


def owners(captions):
    return torch.repeat_interleave(torch.arange(len(captions)), torch.tensor(captions))


@st.composite
def tied_embeddings(draw, largest=3):
    """Vectors of small whole numbers, so that many scores tie exactly, and any number of captions per image."""
    captions = draw(st.lists(st.integers(1, 4), min_size=1, max_size=9))
    dim = draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sides = (random.integers(-largest, largest + 1, (rows, dim)) for rows in (len(captions), sum(captions)))
    images, texts = (torch.from_numpy(side.astype(np.float32)) for side in sides)
    image_of = owners(captions)
    if draw(st.booleans()):
        image_of = image_of[torch.from_numpy(random.permutation(len(image_of)))]
    return images, texts, image_of


@settings(deadline=None, max_examples=100)
@given(tied_embeddings(), st.sampled_from([1, 300, 1000, 5000, 1 << 20]))
def test_dot_products_are_counted_exactly(embeddings, tile_bytes):
    images, texts, image_of = embeddings
    ranks = rank(images, texts, image_of, DOT, backend=Reference(tile_bytes))
    of_images, of_texts = count(images.double().numpy() @ texts.double().numpy().T, image_of.tolist())
    assert triples(ranks.i2t) == of_images
    assert triples(ranks.t2i) == of_texts


@settings(deadline=None, max_examples=60)
@given(tied_embeddings(largest=2), st.sampled_from([1, 1000, 1 << 20]))
def test_cosines_are_counted_as_if_without_rounding(embeddings, tile_bytes):
    images, texts, image_of = embeddings
    ranks = rank(images, texts, image_of, COSINE, backend=Reference(tile_bytes))
    unit = [
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
        for x in (images.double().numpy(), texts.double().numpy())
    ]
    # Distinct cosines of such vectors are further apart than 1e-9.
    of_images, of_texts = count(np.round(unit[0] @ unit[1].T, 9) + 0.0, image_of.tolist())
    assert triples(ranks.i2t) == of_images
    assert triples(ranks.t2i) == of_texts


def test_more_texts_than_a_tile_holds():
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(-4, 5, (6, 3)).astype(np.float32))
    texts = torch.from_numpy(random.integers(-4, 5, (8195, 3)).astype(np.float32))
    image_of = torch.from_numpy(np.sort(random.integers(0, 6, 8195)))
    of_images, of_texts = count(images.double().numpy() @ texts.double().numpy().T, image_of.tolist())
    for tile_bytes in (1, 1 << 18, 1 << 28):
        ranks = rank(images, texts, image_of, DOT, backend=Reference(tile_bytes))
        assert triples(ranks.i2t) == of_images
        assert triples(ranks.t2i) == of_texts


@pytest.mark.parametrize("similarity", [COSINE, DOT])
@pytest.mark.parametrize("dim", [7, 300])
def test_the_tile_size_changes_nothing(similarity, dim):
    """Duplicated rows tie whatever the shape of the matrix product that scored them."""
    random = torch.Generator().manual_seed(dim)
    images = torch.randn(40, dim, generator=random)[torch.randint(40, (97,), generator=random)]
    texts = torch.randn(60, dim, generator=random)[torch.randint(60, (211,), generator=random)]
    image_of = torch.cat([torch.arange(97), torch.randint(97, (114,), generator=random)]).sort().values
    found = [
        rank(images, texts, image_of, similarity, backend=Reference(size)) for size in (1, 30_000, 200_000, 1 << 28)
    ]
    assert found[0].ties() > 100
    for other in found[1:]:
        assert triples(other.i2t) == triples(found[0].i2t)
        assert triples(other.t2i) == triples(found[0].t2i)


# one query --------------------------------------------------------------------------------------------------------


def one(better, tied, right):
    return Counts(*(np.array([value], dtype=np.int32) for value in (better, tied, right)))


@pytest.mark.parametrize("better", range(4))
@pytest.mark.parametrize("tied", range(5))
@pytest.mark.parametrize("right", range(1, 5))
def test_hits_and_ranks_are_means_over_all_orders_of_the_ties(better, tied, right):
    first = [min(places) for places in combinations(range(tied + right), right)]
    for k in range(1, 12):
        assert one(better, tied, right).hits(k)[0] == pytest.approx(np.mean([better + f < k for f in first]), abs=1e-12)
    assert one(better, tied, right).ranks()[0] == pytest.approx(np.mean([better + f + 1 for f in first]))


@given(st.integers(0, 5000), st.integers(0, 5000), st.sampled_from(KS))
def test_with_one_right_answer_the_chance_is_the_closed_formula(better, tied, k):
    assert one(better, tied, 1).hits(k)[0] == pytest.approx(min(1.0, max(0.0, (k - better) / (tied + 1))), abs=1e-12)


# known scorers ----------------------------------------------------------------------------------------------------


def constant(captions, value=1.0):
    return rank(torch.full((len(captions), 3), value), torch.ones(sum(captions), 3), owners(captions), COSINE)


@pytest.mark.parametrize("value", [1.0, 0.0])
@pytest.mark.parametrize("images", [1, 10, 23])
def test_a_constant_scorer_gets_chance_one_to_one(images, value):
    ranks = constant([1] * images, value)
    metrics = ranks.metrics().values()
    for direction in ("i2t", "t2i"):
        for k in KS:
            assert metrics[f"{direction}_r{k}"] == pytest.approx(100 * min(1, k / images))
        assert metrics[f"{direction}_medr"] == metrics[f"{direction}_meanr"] == pytest.approx((images + 1) / 2)
    assert ranks.ties() == (0 if images == 1 else 2 * images)


def test_a_constant_scorer_gets_chance_with_five_captions():
    n = 23
    metrics = constant([5] * n).metrics().values()
    for k in KS:
        assert metrics[f"t2i_r{k}"] == pytest.approx(100 * k / n)
        # k of 5n captions drawn without replacement, at least one of the five right ones among them
        assert metrics[f"i2t_r{k}"] == pytest.approx(100 * (1 - comb(5 * n - 5, k) / comb(5 * n, k)))
    assert metrics["i2t_r1"] == pytest.approx(100 / n)


def test_a_constant_scorer_gets_chance_with_uneven_captions():
    captions = [1, 2, 7, 3]
    metrics = constant(captions).metrics().values()
    assert metrics["i2t_r1"] == pytest.approx(100 / 4 * sum(c / 13 for c in captions))
    assert metrics["i2t_r5"] == pytest.approx(100 / 4 * sum(1 - comb(13 - c, 5) / comb(13, 5) for c in captions))


@pytest.mark.parametrize("similarity", [COSINE, DOT])
@pytest.mark.parametrize("captions", [[1] * 12, [5] * 12, [1, 4, 2, 9]])
def test_a_perfect_scorer_gets_everything(similarity, captions):
    images = torch.eye(len(captions))
    ranks = rank(images, images[owners(captions)], owners(captions), similarity)
    metrics = ranks.metrics()
    assert metrics.rsum == 600
    assert (metrics.i2t_medr, metrics.i2t_meanr, metrics.t2i_medr, metrics.t2i_meanr) == (1, 1, 1, 1)
    assert ranks.ties() == 0


def test_random_scores_are_near_chance():
    random = torch.Generator().manual_seed(1)
    images, texts = torch.randn(400, 64, generator=random), torch.randn(2000, 64, generator=random)
    metrics = rank(images, texts, owners([5] * 400), DOT).metrics()
    assert metrics.t2i_r10 == pytest.approx(2.5, abs=1.5)
    assert metrics.i2t_r10 == pytest.approx(2.5, abs=4.0)
    assert metrics.t2i_meanr == pytest.approx(200.5, abs=15)


@settings(deadline=None, max_examples=25)
@given(tied_embeddings(), st.integers(0, 1000))
def test_the_order_of_images_and_captions_does_not_matter(embeddings, seed):
    images, texts, image_of = embeddings
    random = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randperm(len(x), generator=random) for x in (images, texts))
    position = torch.argsort(rows)
    before = rank(images, texts, image_of, COSINE).metrics().values()
    after = rank(images[rows], texts[columns], position[image_of[columns]], COSINE).metrics().values()
    assert after == pytest.approx(before)


def test_medians():
    counts = Counts(*(np.array(x, dtype=np.int32) for x in ([0, 3, 8, 1], [0, 1, 0, 2], [1, 1, 1, 2])))
    assert counts.ranks().tolist() == pytest.approx([1, 4.5, 9, 2 + 2 / 3])
    metrics = Ranks(counts, counts.take(np.array([0, 1, 2])), np.arange(3)).metrics()
    assert metrics.i2t_medr == pytest.approx((4.5 + 2 + 2 / 3) / 2)
    assert metrics.t2i_medr == 4.5
    assert metrics.t2i_meanr == pytest.approx(14.5 / 3)


def test_metrics_add_up():
    metrics = Metrics(1, 2, 3, 10, 11, 4, 5, 6, 20, 21)
    assert metrics.values()["rsum"] == metrics.rsum == 21
    mean = mean_metrics([metrics, Metrics(3, 2, 3, 10, 11, 4, 5, 6, 30, 21)])
    assert (mean.i2t_r1, mean.t2i_medr, mean.rsum) == (2, 25, 22)


FEW = "Only {} test images: one image is {} points of i2t recall."


@pytest.mark.parametrize(
    ("images", "texts", "one_to_one", "folds", "notes"),
    [
        (50, 250, False, 0, []),
        (49, 245, False, 0, [FEW.format(49, "2.0")]),
        (50, 50, True, 4, []),
        (
            50,
            250,
            False,
            25,
            [
                "i2t R@10: 100 for any method, with no more than 10 candidates in a fold.",
                "t2i R@5, R@10: 100 for any method, with no more than 2 candidates in a fold.",
            ],
        ),
        (
            60,
            61,
            False,
            30,
            [
                "i2t R@5, R@10: 100 for any method, with no more than 3 candidates in a fold.",
                "t2i R@5, R@10: 100 for any method, with no more than 2 candidates in a fold.",
            ],
        ),
        (50, 251, False, 25, ["t2i R@5, R@10: 100 for any method, with no more than 2 candidates in a fold."]),
        (
            8,
            8,
            True,
            0,
            [
                "i2t R@10: 100 for any method, with no more than 8 candidates in the test split.",
                "t2i R@10: 100 for any method, with no more than 8 candidates in the test split.",
                FEW.format(8, "12.5"),
            ],
        ),
    ],
)
def test_small_sets_are_noted(images, texts, one_to_one, folds, notes):
    assert small_set_notes(images, texts, one_to_one, folds) == notes


def test_stored_integers_come_back():
    random = np.random.default_rng(0)
    images, texts = (torch.from_numpy(random.integers(0, 2, (rows, 2)).astype(np.float32)) for rows in (5, 9))
    ranks = rank(images, texts, owners([1, 2, 3, 2, 1]), DOT)
    arrays = ranks.arrays()
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int32)}
    again = Ranks.from_arrays(arrays)
    assert triples(again.i2t) == triples(ranks.i2t)
    assert triples(again.t2i) == triples(ranks.t2i)
    assert again.image_of.tolist() == ranks.image_of.tolist() == [0, 1, 1, 2, 2, 2, 3, 3, 4]
    assert again.metrics() == ranks.metrics()


def test_stored_integers_that_do_not_fit_together_are_refused():
    arrays = rank(torch.eye(5), torch.eye(5), torch.arange(5), DOT).arrays()
    with pytest.raises(ValueError, match="a text names an image outside 0 to 4"):
        Ranks.from_arrays({**arrays, "image_of": arrays["image_of"] + 1})
    with pytest.raises(ValueError, match="not those of 5 images and 5 texts"):
        Ranks.from_arrays({**arrays, "t2i_tied": arrays["t2i_tied"][:4]})


@dataclass
class Doubling(Clock):
    """Reads 1, 2, 4, 8 and so on seconds, so that a sum of differences tells which readings it is made of."""

    reading: float = 0.5

    def now(self):
        self.reading *= 2
        return self.reading


TWO_TILES = Filtering(partial(Tiles, image_rows=40, text_rows=50), "proven")


@pytest.mark.parametrize(
    ("backend", "buffer", "scoring", "counting"),
    [
        ("reference", 0, 2 - 1, 4 - 2),  # positive pairs and one tile; its counts
        ("torch", 2500, 2 - 1, 4 - 2),  # also the sample for the bound; undecided pairs
        (TWO_TILES, 2000, (2 - 1) + (8 - 4), (4 - 2) + (16 - 8)),  # those of each tile
    ],
)
def test_the_clock_counts_scoring_and_counting_apart(backend, buffer, scoring, counting, monkeypatch):
    monkeypatch.setitem(filtering.BUFFERED_PAIRS, "cpu", buffer // 8)
    clock = Doubling(torch.device("cpu"))
    rank(torch.eye(50), torch.eye(50), torch.arange(50), DOT, clock, backend)
    assert (clock.similarity, clock.rank, clock.last) == (scoring, counting, None)
    monkeypatch.setattr(evaluation, "Clock", Doubling)
    found = evaluate(torch.eye(50), torch.eye(50), torch.arange(50), None, DOT, "captions", backend=backend)
    assert (found.clock.similarity, found.clock.rank) == (scoring, counting)


# twins ------------------------------------------------------------------------------------------------------------


def swap(pairs):
    return torch.arange(2 * pairs).view(pairs, 2).flip(1).flatten()


@pytest.mark.parametrize("noise", [0.0, 0.1, 10.0])
def test_equal_embeddings_of_twins_get_at_most_half(noise):
    pairs, captions = 20, 5
    random = torch.Generator().manual_seed(0)
    images = torch.eye(pairs).repeat_interleave(2, dim=0)
    image_of = owners([captions] * 2 * pairs)
    texts = images[image_of] + noise * torch.randn(len(image_of), pairs, generator=random)
    metrics = rank(images, texts, image_of, COSINE).metrics()
    assert max(metrics.i2t_r1, metrics.t2i_r1) <= 50 + 1e-9
    if noise < 1:
        assert metrics.t2i_r1 == pytest.approx(50)
        assert metrics.i2t_r1 == pytest.approx(50)
        assert metrics.t2i_r5 == pytest.approx(100)
    assert twin_accuracy(make_problem(images, texts, image_of, COSINE), swap(pairs)) == 50.0


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.lists(st.integers(1, 3), min_size=10, max_size=10), st.integers(0, 9999))
def test_twin_accuracy_against_a_loop(pairs, captions, seed):
    random = np.random.default_rng(seed)
    image_of = owners(captions[: 2 * pairs])
    images = torch.from_numpy(random.integers(-2, 3, (2 * pairs, 2)).astype(np.float32))
    texts = torch.from_numpy(random.integers(-2, 3, (len(image_of), 2)).astype(np.float32))
    wins = 0.0
    scores = images.numpy() @ texts.numpy().T
    for text, owner in enumerate(image_of.tolist()):
        own, other = scores[owner, text], scores[owner ^ 1, text]
        wins += 1.0 if own > other else 0.5 if own == other else 0.0
    found = twin_accuracy(make_problem(images, texts, image_of, DOT), swap(pairs))
    assert found == pytest.approx(100 * wins / len(image_of))


# refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("side", "name"), [(0, "image embeddings"), (1, "text embeddings")])
def test_values_that_are_not_finite_are_refused(bad, side, name):
    sides = [torch.ones(4, 3), torch.ones(4, 3)]
    sides[side][2, 1] = bad
    with pytest.raises(BadInput, match=rf"{name}: 1 of 4 vectors contain NaN or infinity, the first is 2"):
        rank(*sides, torch.arange(4), COSINE)  # type: ignore[call-arg]


def test_values_that_are_not_finite_are_found_on_every_level():
    first, second = torch.ones(3, 2, 4), torch.ones(3, 2, 4)
    second[1, 0, 2] = torch.nan
    images = Levels(globals=torch.ones(3, 4), relations=Relations(first, second))
    texts = Levels(globals=torch.ones(3, 4), relations=torch.ones(3, 4))
    with pytest.raises(BadInput, match=r"image embeddings: 1 of 3 .* the first is 1"):
        rank(images, texts, torch.arange(3), MultiLevel())


def test_scores_that_overflow_are_refused():
    images, texts = torch.ones(3, 2, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)
    images[1], texts[1] = 1e200, 1e200
    with pytest.raises(BadInput, match="text 1 and its own image is not finite"):
        rank(images, texts, torch.arange(3), DOT)
    texts[1], texts[2] = 1, 1e200
    with pytest.raises(BadInput, match="image 1 and text 2 is not finite"):
        rank(images, texts, torch.arange(3), DOT)


def test_a_division_by_zero_in_a_norm_is_refused():
    norm = torch.ones(2, 2, 2)
    norm[1, 0, 1] = 0
    images = Levels(relations=Relations(torch.ones(2, 2, 3), torch.ones(2, 2, 3), norm))
    with pytest.raises(BadInput, match="not finite"):
        rank(images, Levels(relations=torch.ones(2, 3)), torch.arange(2), MultiLevel())


def test_an_image_without_text_is_refused():
    with pytest.raises(BadInput, match="image 1 has no text"):
        rank(torch.ones(3, 2), torch.ones(3, 2), torch.tensor([0, 0, 2]), COSINE)


@pytest.mark.parametrize(("images", "texts"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_rank_is_refused(images, texts):
    with pytest.raises(BadInput, match=f"{images} images and {texts} texts"):
        rank(torch.ones(images, 2), torch.ones(texts, 2), torch.zeros(texts, dtype=torch.int64), COSINE)


def test_owners_must_match_the_texts():
    with pytest.raises(BadInput, match="there are 3 texts and 2 entries"):
        rank(torch.ones(3, 2), torch.ones(3, 2), torch.arange(2), COSINE)


def test_other_dimensions_are_refused():
    with pytest.raises(BadInput, match="images have dimension 2 and texts 3"):
        rank(torch.ones(4, 2), torch.ones(4, 3), torch.arange(4), COSINE)


# memory -----------------------------------------------------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operation gave."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return found


@pytest.mark.parametrize("levels", [False, True])
def test_no_tensor_is_larger_than_the_tile_allows(levels, monkeypatch):
    n, t, d = 200, 600, 4
    random = torch.Generator().manual_seed(0)
    tile_bytes = 640_000
    images, texts = torch.randn(n, d, generator=random), torch.randn(t, d, generator=random)
    similarity = COSINE
    if levels:
        parts = torch.randn(n, 5, d, generator=random)
        images, similarity = Levels(images, parts, Relations(parts, parts)), MultiLevel()
        texts = Levels(texts, texts, texts)
    tiles = []
    whole = Similarity.scores

    def scores(self, left, right, lengths):
        found = whole(self, left, right, lengths)
        tiles.append(found.numel() * 8)
        return found

    monkeypatch.setattr(Similarity, "scores", scores)
    with LargestTensor() as largest:
        rank(images, texts, owners([3] * n), similarity, backend=Reference(tile_bytes))
    assert sum(tiles) == n * t * 8
    assert max(tiles) <= largest.bytes <= tile_bytes < n * t * 8


def test_an_owner_that_is_no_image_is_refused():
    with pytest.raises(BadInput, match="image_of contains row 2, but there are 2 images"):
        rank(torch.ones(2, 2), torch.ones(3, 2), torch.tensor([0, 1, 2]), COSINE)
    with pytest.raises(BadInput, match="image_of contains row -1, but there are 2 images"):
        rank(torch.ones(2, 2), torch.ones(2, 2), torch.tensor([-1, 0]), COSINE)


def test_one_huge_vector_does_not_tie_the_others():
    random = torch.Generator().manual_seed(0)
    images = torch.randn(100, 32, generator=random)
    texts = images + torch.randn(100, 32, generator=random)
    before = rank(images, texts, torch.arange(100), DOT)
    images[7], texts[7] = images[7] * 1e9, texts[7] * 1e9
    after = rank(images, texts, torch.arange(100), DOT)
    assert after.ties() == 0
    assert after.metrics().rsum > before.metrics().rsum / 2
