"""CRAN: the sanity tests of its model and losses, what every open question of the paper changes, and its bad inputs."""

import math
import re
from collections import Counter
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from cran_bench import COSINE, DOT, Levels, MultiLevel
from cran_bench.dataset import Collection, ImageSource
from cran_bench.embeddings import region_pairs
from cran_bench.errors import BadInput
from cran_bench.frontend.features import Features
from cran_bench.frontend.text.characters import encode
from cran_bench.frontend.text.words import TextFrontEnd, tokenize
from cran_bench.methods.cca import CCA
from cran_bench.methods.cran import (
    CRAN,
    PRESETS,
    CRANBaseline,
    CRANEnsemble,
    CRANLocal,
    CRANPlus,
    CRANPlusBaseline,
    CRANPlusEnsemble,
    CRANPlusRelation,
    CRANRelation,
    alignment,
    batches,
)
from cran_bench.methods.cran.alignment import NEGATIVES, Alignment
from cran_bench.methods.cran.batches import Batches, nearest
from cran_bench.methods.cran.correlation import Correlation
from cran_bench.methods.cran.model import LENGTH, Attention, CharacterEncoder, Network, Scaling, Views, only
from cran_bench.methods.cran.pretraining import (
    CCATargetPredictor,
    PretrainedEncoder,
    WordPositionPredictor,
    words_of,
)
from cran_bench.methods.cran.recipe import (
    LEVELS,
    LITERAL,
    PAPER,
    PLUS,
    SIZES,
    BatchOptions,
    OptimiserOptions,
    PlusOptions,
    Recipe,
    Sizes,
)
from cran_bench.ranking.evaluation import as_queries
from cran_bench.ranking.metrics import Validation
from cran_bench.ranking.rank import rank
from cran_bench.registry import METHODS
from cran_bench.running import checks
from cran_bench.running.fits import FitStore, LentRun, fields_json
from cran_bench.specs import build, flat_values
from cran_bench.split import MissingFeature, Split
from cran_bench.toolbox.losses import margin_loss
from cran_bench.toolbox.training import Training

CPU = torch.device("cpu")
COLOURS = ("red", "green", "blue", "yellow", "purple", "black", "white", "pink")
PLACES = ("house", "tree", "river", "street", "beach", "field", "kitchen", "garden")


class NoImages(ImageSource):
    def __init__(self, count):
        self.ids = tuple(f"image{row}" for row in range(count))

    def read(self, row):
        raise NotImplementedError

    def digest(self, row):
        raise NotImplementedError


def make(captions, owner, count, splits, regions=True, mask=None):
    """Splits of images whose features are random but fixed for the words of their captions."""
    random = np.random.default_rng(0)
    sight = {word: random.normal(size=24) for word in (*COLOURS, *PLACES)}
    seen = np.zeros((count, 24))
    for text, row in zip(captions, owner, strict=True):
        seen[row] += sum((sight[word] for word in text.split() if word in sight), np.zeros(24))
    seen += 0.1 * random.normal(size=seen.shape)
    boxes = np.sort(random.random((count, 5, 2, 2)), axis=2).reshape(count, 5, 4)[..., [0, 1, 2, 3]]
    parts = seen[:, None] + random.normal(size=(count, 5, 24))
    extra = (
        {
            "regions": parts.astype(np.float32),
            "boxes": boxes.astype(np.float32),
            "scores": np.ones((count, 5), np.float32),
            "mask": np.ones((count, 5), bool) if mask is None else mask,
        }
        if regions
        else {}
    )
    collection = Collection("made", NoImages(count), captions, np.array(owner), splits)
    features = Features(Path("nowhere"), {}, seen.astype(np.float32), **extra)
    text = TextFrontEnd.fit(collection.captions_of(splits["train"])[0], "ppmi-svd[min_count=1]")
    return SimpleNamespace(**{n: Split(n, "captions", collection, features, text, device=CPU) for n in splits})


def sentences(count):
    return [f"a {COLOURS[k % 8]} {PLACES[k // 8 % 8]}" for k in range(count)]


@pytest.fixture(scope="module")
def data():
    """64 training images, each with another pair of words; validation and test hold the like."""
    count = 96
    captions = [text for k, s in enumerate(sentences(count)) for text in (s, f"{s} seen from afar"[: 20 + k % 12])]
    splits = {"train": np.arange(64), "val": np.arange(64, 80), "test": np.arange(80, 96)}
    return make(captions, np.repeat(np.arange(count), 2).tolist(), count, splits)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Fits that several tests share."""
    return tmp_path_factory.mktemp("fits")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(SIZES, "compact", Sizes((24, 32, 48), 32, 24))


def fitted(part, data, folder, seed=0):
    return FitStore(folder, {}, data.train, data.val, CPU).fitted(part, seed, "cran")


def made(cls, **options):
    """An instance with options by their own names, whatever groups they are in."""
    return build(cls, options, "cran")


def network(levels=LEVELS, seed=0, **fields):
    torch.manual_seed(seed)
    return Network(
        made(Recipe, **{"conv_bn": False, "dropout": 0.0, "mask_padding": True, "geometry": "relations", **fields}),
        levels,
        24,
        24,
    ).eval()


def views_of(split):
    return Views(split.images, split.regions, split.boxes, split.region_mask)


def embedded(split, levels=LEVELS, **fields):
    net = network(levels, **fields)
    with torch.no_grad():
        return net.images(views_of(split)), net.texts(net.read(split.chars(LENGTH)))


# the model ----------------------------------------------------------------------------------------------------------


def test_201_characters_become_198_66_63_21_and_18_steps():
    encoder = CharacterEncoder(made(Recipe, mask_padding=False))
    lengths = []
    for layer in encoder.convolutions:
        layer.register_forward_hook(lambda _, __, out: lengths.append(out.shape[3]))
    chars = torch.full((1, LENGTH), 3, dtype=torch.uint8)
    H, counts = encoder(chars)
    assert lengths == [63, 18] and (198 // 3, 63 // 3) == (66, 21)  # the first convolution is a table look-up
    assert H.shape[1] == encoder.steps == 18 and bool(counts.all())
    assert (encoder.field, encoder.stride) == (48, 9)
    assert CharacterEncoder(made(Recipe, third_pool=True)).steps == 8


def test_the_first_convolution_is_one_over_one_hot_characters():
    from cran_bench.methods.cran.model import one_hot_convolution

    layer = torch.nn.Conv2d(70, 5, (1, 4)).double()
    chars = torch.randint(0, 71, (3, 20), dtype=torch.uint8)
    one_hot = torch.nn.functional.one_hot(chars.long(), 71)[..., 1:].double().transpose(1, 2)[:, :, None]
    torch.testing.assert_close(one_hot_convolution(chars, layer), layer(one_hot))


def test_a_step_sees_48_characters():
    encoder = CharacterEncoder(made(Recipe, mask_padding=False, conv_bn=False)).eval()
    seen = []
    encoder.lstm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    chars = torch.full((1, LENGTH), 3, dtype=torch.uint8)
    encoder(chars)
    for place, steps in ((0, [0]), (47, [0, 1, 2, 3, 4, 5]), (200, [17])):
        other = chars.clone()
        other[0, place] = 20
        encoder(other)
        changed = (seen[-1] != seen[0]).any(dim=2)[0].nonzero().flatten().tolist()
        assert set(changed) <= set(steps) and changed


@pytest.mark.parametrize("third_pool", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_padding_is_computed_once_and_changes_nothing(mask, third_pool):
    torch.manual_seed(0)
    encoder = CharacterEncoder(made(Recipe, mask_padding=mask, conv_bn=True, third_pool=third_pool)).eval()
    chars = torch.from_numpy(encode(["a dog", "two brown dogs run over a wet field by the sea", ""]).copy())
    H, counts = encoder(chars[:, :46])
    whole = chars.clone()
    whole[2] = 7  # a text that fills every step, so that nothing is left out
    full, _ = encoder(whole)
    torch.testing.assert_close(H[:2], full[:2, : H.shape[1]])
    if mask:
        fewest = [1, 3, 1] if third_pool else [1, 6, 1]
        assert counts.sum(dim=1).tolist() == fewest and H.shape[1] == max(fewest)
    else:
        assert H.shape[1] == encoder.steps and bool(counts.all())


def test_full_size_has_the_parameters_of_the_paper():
    level = network(("global",), width="full").levels["global"]
    texts = [*level.encoder.parameters(), *level.text.parameters()]
    count = sum(p.numel() for p in texts if p.requires_grad)
    # The alphabet has 70 places; 40.75 million either way.
    assert count == (4 * 70 + 1) * 384 + (4 * 384 + 1) * 512 + (4 * 512 + 1) * 2048 + 4 * 2048 * 4097 + 2049 * 1024
    assert round(count / 1e6, 2) == 40.75


def test_attention_sums_to_one_and_is_the_mean_without_weights():
    H = torch.randn(3, 6, SIZES["compact"].lstm)
    counts = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]], dtype=torch.bool)
    attention = Attention(Recipe()).eval()
    a = attention.weights(H, counts)
    torch.testing.assert_close(a.sum(dim=1), torch.ones(3))
    assert bool((a[~counts] == 0).all())
    by_hand = torch.softmax(torch.tanh(H[0] @ attention.W_a.weight.T) @ attention.w.weight[0], dim=0)
    torch.testing.assert_close(a[0], by_hand)
    torch.nn.init.zeros_(attention.W_a.weight)
    torch.testing.assert_close(attention.weights(H, counts), counts / counts.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("normalise", ["l2", "none"])
@pytest.mark.parametrize("kind", ["ordered", "unordered", "all"])
def test_relations_are_a_layer_on_pairs_of_regions(data, kind, normalise):
    level = network(("relation",), relation_pairs=kind, normalise=normalise).levels["relation"]
    views = views_of(data.val)
    with torch.no_grad():
        found = level.images(views).relations
        x = level.inputs(views)
        j, k = region_pairs(5, kind).T
        W = torch.cat([level.first.weight, level.second.weight], dim=1)
        expected = torch.cat([x[:, j], x[:, k]], dim=2) @ W.T + level.second.bias
    if normalise == "l2":
        expected = torch.nn.functional.normalize(expected, dim=2)
    texts = torch.randn(7, SIZES["compact"].dim)
    scores = MultiLevel(top=3).scores(Levels(relations=found), Levels(relations=texts))
    brute = (expected @ texts.T).topk(3, dim=1).values.mean(dim=1)
    torch.testing.assert_close(scores, brute.double(), atol=1e-5, rtol=1e-5)
    assert len(j) == {"ordered": 20, "unordered": 10, "all": 25}[kind]


@pytest.mark.parametrize("name", ["local", "relation"])
def test_the_order_of_regions_does_not_matter(data, name):
    net = network((name,))
    views, order = views_of(data.val), torch.tensor([3, 0, 4, 2, 1])
    moved = Views(views.globals, views.regions[:, order], views.boxes[:, order], views.mask[:, order])
    texts = net.texts(net.read(data.val.chars(LENGTH)))
    eq11 = MultiLevel(top=3)
    torch.testing.assert_close(eq11.scores(net.images(views), texts), eq11.scores(net.images(moved), texts))
    one_order = network((name,), relation_pairs="unordered")
    if name == "relation":  # with one order of each pair only, it does
        before, after = (eq11.scores(one_order.images(v), texts) for v in (views, moved))
        assert not torch.allclose(before, after, atol=1e-4)


def test_the_mean_over_all_regions_is_the_plain_mean(data):
    images, texts = embedded(data.val, ("local",))
    scores = MultiLevel(top=5).scores(images, texts)
    torch.testing.assert_close(scores, (images.regions.double() @ texts.regions.double().T).mean(dim=1))


def test_absent_regions_never_count():
    mask = np.ones((96, 5), bool)
    mask[:, 2:] = False
    captions = sentences(96)
    splits = {"train": np.arange(64), "val": np.arange(64, 80), "test": np.arange(80, 96)}
    masked = make(captions, list(range(96)), 96, splits, mask=mask)
    whole = make(captions, list(range(96)), 96, splits)
    for name in ("local", "relation"):
        (a, texts), (b, _) = embedded(masked.val, (name,)), embedded(whole.val, (name,))
        eq11 = MultiLevel(top=3)
        assert not torch.allclose(eq11.scores(a, texts), eq11.scores(b, texts))
        if name == "local":
            members = b.regions[:, :2].double() @ texts.regions.double().T
        else:
            members = eq11.members(b, texts)["relations"][0][:, [0, 4]]  # the pairs (0, 1) and (1, 0)
        torch.testing.assert_close(eq11.scores(a, texts), members.mean(dim=1))


# the losses ---------------------------------------------------------------------------------------------------------


def test_the_loss_by_hand_on_three_pairs():
    scores = torch.tensor([[0.9, 0.2, 0.8], [0.1, 0.5, 0.6], [0.3, 0.4, 0.7]], dtype=torch.float64)
    owner, margin = torch.arange(3), 0.3
    image_negatives = [[max(0, margin - scores[t, t] + scores[i, t]) for i in range(3) if i != t] for t in range(3)]
    text_negatives = [[max(0, margin - scores[i, i] + scores[i, t]) for t in range(3) if t != i] for i in range(3)]
    both = np.mean(image_negatives) + np.mean(text_negatives)
    assert float(margin_loss(scores, owner, margin, "all")) == pytest.approx(both)
    hardest = np.mean(np.max(image_negatives, axis=1)) + np.mean(np.max(text_negatives, axis=1))
    assert float(margin_loss(scores, owner, margin, "hardest")) == pytest.approx(hardest)
    one_sided = float(margin_loss(scores, owner, margin, "all", text_negatives=False))
    assert one_sided == pytest.approx(np.mean(image_negatives))
    draws = [
        float(margin_loss(scores, owner, margin, "random", generator=torch.Generator().manual_seed(seed)))
        for seed in range(400)
    ]
    assert np.mean(draws) == pytest.approx(both, abs=0.03)
    assert {round(d, 6) for d in draws} <= {
        round((sum(a) + sum(b)) / 3, 6)
        for a in np.array(np.meshgrid(*image_negatives)).T.reshape(-1, 3)
        for b in np.array(np.meshgrid(*text_negatives)).T.reshape(-1, 3)
    }


@pytest.mark.parametrize("negatives", ["random", "all", "hardest"])
def test_the_loss_is_zero_beyond_the_margin_and_its_gradient_is_right(negatives):
    apart = torch.eye(4, dtype=torch.float64) * 2
    assert float(margin_loss(apart, torch.arange(4), 1.0, negatives)) == 0
    scores = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    owner = torch.tensor([0, 1, 1, 2])

    def loss(s):
        return margin_loss(s, owner, 0.7, negatives, generator=torch.Generator().manual_seed(1))

    assert torch.autograd.gradcheck(loss, (scores,))


@settings(max_examples=60, deadline=None)
@given(
    owner=st.lists(st.integers(0, 5), min_size=1, max_size=10), negatives=st.sampled_from(["random", "all", "hardest"])
)
def test_texts_of_one_image_are_never_negatives_of_each_other(owner, negatives):
    owner = torch.tensor(owner)
    scores = torch.zeros(len(owner), len(owner), requires_grad=True)
    loss = margin_loss(scores, owner, 1.0, negatives)
    loss.backward()
    same = (owner[:, None] == owner) & ~torch.eye(len(owner), dtype=torch.bool)
    assert bool((scores.grad[same] == 0).all())
    assert bool(torch.isfinite(scores.grad).all())
    lonely = len(set(owner.tolist())) == 1
    assert float(loss.detach()) == (0 if lonely else 2.0)


# training -----------------------------------------------------------------------------------------------------------


@pytest.mark.no_cover
@pytest.mark.parametrize("plus", [{}, {**PLUS, "ridge": (1e-3,), "frozen_encoder_epochs": 0}], ids=["cran", "plus"])
@pytest.mark.parametrize("level", LEVELS)
def test_64_pairs_are_learned_by_heart(data, tmp_path, level, plus):
    by_heart = {
        "max_epochs": 60,
        "patience": 0,
        "batch_size": 16,
        "caption_sampling": "first",
        "lr": 5e-3,
        "dropout": 0.0,
        "hard_negative_batches": 0.0,
        "attn_dropout": 0.0,
        "bucket": 1,
        "lr_decay": "step",
        "halve_every": 20,
        "weight_decay": 0.0,
    }
    one = made(Alignment, levels=(level,), **{**plus, **by_heart})
    train = data.train
    first = torch.arange(0, 128, 2)

    class Own(LentRun):
        """Scores the training pairs, which here stand for validation."""

        def score(self, images, texts, similarity=None):
            return Validation(**vars(rank(images, texts.rows(first), torch.arange(64), one.similarity).metrics()))

    store = FitStore(tmp_path, {}, train, train, CPU)
    torch.manual_seed(0)
    one.fit(train, train, Own(store, one, 0, "test", "", tmp_path / "x"))
    with torch.inference_mode():
        found = rank(one.embed_images(train), one.embed_texts(train).rows(first), torch.arange(64), one.similarity)
    assert (found.metrics().i2t_r1, found.metrics().t2i_r1) == (100.0, 100.0)


PLAIN = {"max_epochs": 2, "batch_size": 16}
SHORT = {
    **PLUS,
    **PLAIN,
    "frozen_encoder_epochs": 1,
    "restarts": 1,
    "pretraining_epochs": 1,
    "residual": "none",
}
"""Two epochs with every departure but the residual."""


def counted(function, counts):
    return lambda *given: counts.update([function.__name__]) or function(*given)


def test_training_goes_on_from_the_best_restart(data, tmp_path, monkeypatch):
    part = {**SHORT, "levels": ("relation",)}
    counts = Counter()
    for owner, name in ((alignment, "nearest"), (Scaling, "fit"), (Alignment, "_read")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name), counts))
    fit = fitted(made(Alignment, **{**part, "restarts": 3}), data, tmp_path)
    assert counts == {"nearest": 1, "fit": 1, "_read": 3}  # training and validation texts, and the latter unfrozen
    assert list(fit.curves) == ["word-positions, relation", *(f"relation, restart {k}" for k in range(3)), "relation"]
    tried = [fit.curves[f"relation, restart {k}"][0]["rsum"] for k in range(3)]
    best = int(np.argmax(tried))
    assert len(set(tried)) > 1 and fit.chose["restart"] == best and fit.chose["epoch"] <= 2
    fewer = fitted(made(Alignment, **{**part, "restarts": max(2, best + 1)}), data, tmp_path)
    for name, value in fit.part.state().items():
        torch.testing.assert_close(value, fewer.part.state()[name], rtol=0, atol=0)
    for path in tmp_path.glob("alignment-*"):
        path.unlink()
    monkeypatch.setattr(Training, "run", lambda self, run, train=Training.run: -train(self, run))
    other = fitted(made(Alignment, **{**part, "restarts": 3}), data, tmp_path)
    assert other.chose["restart"] == int(np.argmin(tried))
    assert any(not torch.equal(value, other.part.state()[name]) for name, value in fit.part.state().items())


def test_only_a_relation_level_with_a_frozen_encoder_has_restarts():
    assert made(Recipe, **{**PLUS, "restarts": 5}).of(("relation",))["plus"].restarts == 5
    assert made(Recipe, **{**PLUS, "restarts": 5}).of(("global",))["plus"].restarts == 1
    for idle in ({"text_init": "random"}, {"frozen_encoder_epochs": 0}):
        assert made(Recipe, **{**PLUS, "restarts": 5, **idle}).of(("relation",))["plus"].restarts == 1
    with pytest.raises(BadInput, match="restarts is at least 1, not 0"):
        made(Recipe, restarts=0)


@pytest.mark.parametrize("options", [PLAIN, SHORT], ids=["cran", "plus"])
def test_four_rows_cost_one_cran_and_are_sums_of_its_levels(data, tmp_path, options):
    rows = [fitted(made(cls, **options), data, tmp_path).part for cls in (CRAN, CRANLocal, CRANRelation, CRANBaseline)]
    assert len(list(tmp_path.glob("alignment-*.safetensors"))) == 3
    eq11 = MultiLevel(top=3)
    with torch.inference_mode():
        images, texts = rows[0].embed_images(data.test), rows[0].embed_texts(data.test)
        S = {level: eq11.scores(only(images, level), only(texts, level)) for level in LEVELS}
        for row in rows:
            scores = row.similarity.scores(row.embed_images(data.test), row.embed_texts(data.test))
            torch.testing.assert_close(scores, sum(S[level] for level in row.levels), atol=1e-5, rtol=1e-5)


def test_another_top_shares_the_global_level(data, tmp_path):
    for top in (1, 3):
        fitted(made(CRAN, top=top, **SHORT), data, tmp_path)
    assert len(list(tmp_path.glob("alignment-*.safetensors"))) == 1 + 2 * 2


def test_the_sum_can_be_weighted_and_evened_out(data, tmp_path):
    plain = fitted(made(CRAN, **SHORT), data, tmp_path).part
    weighted = fitted(made(CRAN, fusion_weights=(1.0, 0.0, 2.0), **SHORT), data, tmp_path).part
    evened = fitted(made(CRAN, fusion_norm="zscore", **SHORT), data, tmp_path).part
    with torch.inference_mode():
        images, texts = plain.embed_images(data.val), plain.embed_texts(data.val)
    S = {level: MultiLevel(top=3).scores(only(images, level), only(texts, level)) for level in LEVELS}
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(weighted.similarity.scores(images, texts), S["global"] + 2 * S["relation"], **close)
    expected = sum(S[level] / S[level].std() for level in LEVELS)
    torch.testing.assert_close(evened.similarity.scores(images, texts), expected, **close)
    again = fitted(made(CRAN, fusion_norm="zscore", **SHORT), data, tmp_path)
    assert again.reused and again.part.similarity == evened.similarity


def require_walked_to(chosen, rsum):
    """A weight is halved, or else doubled, up to four times from 1, as long as `rsum` grows."""
    by_weight = {2.0**power: rsum(2.0**power) for power in range(-4, 5)}
    if chosen < 1:
        walk = [2.0**-power for power in range(5)]
    elif chosen > 1:
        walk = [2.0**power for power in range(5)]
        assert by_weight[0.5] <= by_weight[1.0]
    else:
        walk = [1.0]
        assert max(by_weight[0.5], by_weight[2.0]) <= by_weight[1.0]
    walked = walk[: walk.index(chosen) + 1]
    assert all(by_weight[a] < by_weight[b] for a, b in pairwise(walked))
    beyond = walk[len(walked) : len(walked) + 1]
    assert all(by_weight[weight] <= by_weight[chosen] for weight in beyond)


def test_the_weights_of_the_sum_are_chosen_on_validation(data, tmp_path):
    fit = fitted(made(CRANRelation, fusion_weights=None, **SHORT), data, tmp_path)
    images, texts = fit.part.embed_images(data.val), fit.part.embed_texts(data.val)

    def rsum(weight):
        similarity = MultiLevel(True, top=3, weights=(1.0, 1.0, weight))
        with torch.inference_mode():
            return rank(images, texts, data.val.image_of, similarity).metrics().rsum

    chosen = fit.part.similarity.weights[2]
    assert fit.chose["weights"] == [1.0, 1.0, chosen, 0.0]
    require_walked_to(chosen, rsum)
    again = fitted(made(CRANRelation, fusion_weights=None, **SHORT), data, tmp_path)
    assert again.reused and again.part.similarity == fit.part.similarity


@pytest.mark.parametrize("seed", range(4))
def test_the_weight_of_the_residual_is_chosen_on_validation(data, folder, seed):
    fit = fitted(made(CRANBaseline, residual="cca", **PLAIN), data, folder, seed)
    terms = [fit.part.fitted[0], fitted(CCA(), data, folder, seed).part]
    with torch.inference_mode():
        images, texts = ([embed(data.val) for embed in side] for side in both_sides(terms))

    def rsum(weight):
        scores = COSINE.scores(images[0].globals, texts[0].globals) + weight * COSINE.scores(images[1], texts[1])
        return rank(scores.float(), torch.eye(len(data.val.texts)), data.val.image_of, DOT).metrics().rsum

    chosen = fit.chose["weights"][3]
    assert fit.chose["weights"][:3] == [1.0, 1.0, 1.0]
    require_walked_to(chosen, rsum)


def both_sides(parts):
    return [part.embed_images for part in parts], [part.embed_texts for part in parts]


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ((0, 0, 0), [1.0, 1.0, 1.0, 1.0]),
        ((-2, 3, 1), [1.0, 0.25, 8.0, 2.0]),
        ((4, -1, -3), [1.0, 16.0, 0.5, 0.125]),
        ((-9, 9, 9), [1.0, 1 / 16, 16.0, 16.0]),  # four steps at most
    ],
)
def test_weights_are_walked_by_powers_of_two(monkeypatch, best, expected):
    row = made(CRAN, residual="cca")
    monkeypatch.setattr(row, "image_terms", lambda split: (None, None))
    monkeypatch.setattr(row, "text_terms", lambda split: (None, None))

    class Lent:
        chosen = None

        def score(self, images, texts):
            far = sum(abs(math.log2(weight) - at) for weight, at in zip(row.weights[1:].tolist(), best, strict=True))
            return SimpleNamespace(criterion=-far)

        def chose(self, weights):
            self.chosen = weights

    lent = Lent()
    row._choose_weights(["local", "relation", "residual"], None, lent)
    assert lent.chosen == expected == row.weights.tolist()


def test_levels_trained_jointly_are_one_part(data, tmp_path):
    joint = fitted(made(CRAN, joint=True, **SHORT), data, tmp_path)
    assert list(joint.curves) == ["word-positions, global", "global+local+relation"]
    assert len(list(tmp_path.glob("alignment-*.safetensors"))) == 1
    shared = fitted(made(CRAN, joint=True, encoders="one", **SHORT), data, tmp_path).part
    net = shared.fitted[0].network.levels
    assert net["global"].encoder is net["local"].encoder is net["relation"].encoder
    loaded = fitted(made(CRAN, joint=True, encoders="one", **SHORT), data, tmp_path)
    assert loaded.reused
    with torch.inference_mode():
        torch.testing.assert_close(
            loaded.part.embed_texts(data.test).relations, shared.embed_texts(data.test).relations, atol=0, rtol=0
        )


# the residual and ensembles ----------------------------------------------------------------------------------------


def similarity_of(options):
    is_cosine = options.get("normalise") != "none" or options.get("sim") == "cos"
    return COSINE if is_cosine else DOT


UNITS = [{}, {"normalise": "none"}, {"normalise": "none", "sim": "cos"}]


@pytest.mark.parametrize("on_global", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("units", UNITS, ids=str)
def test_a_residual_is_a_fourth_term(data, folder, units, on_global):
    weights = (on_global, 1.0, 0.5)
    row = fitted(made(CRAN, residual="cca", fusion_weights=weights, **units, **PLAIN), data, folder).part
    cca = fitted(CCA(), data, folder)
    assert cca.reused  # the fit of the row `cca`
    row.weights[3] = 0.25
    levels, how = row.similarity, similarity_of(units)
    with torch.inference_mode():
        images, texts = row.embed_images(data.test), row.embed_texts(data.test)
        scores = levels.scores(images, texts)
        parts = dict(zip(LEVELS, row.fitted, strict=True))
        S = {
            name: MultiLevel(how.cosine, top=3).scores(part.embed_images(data.test), part.embed_texts(data.test))
            for name, part in parts.items()
        }
        i, t = cca.part.embed_images(data.test), cca.part.embed_texts(data.test)
    by_hand = sum(weight * S[level] for weight, level in zip(weights, LEVELS, strict=True))
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(scores, by_hand + 0.25 * COSINE.scores(i, t), **close)

    # of averages, the global level and CCA are one vector
    with torch.inference_mode():
        g, h = (getattr(parts["global"], f"embed_{side}")(data.test).globals.double() for side in ("images", "texts"))
        others = replace(texts, globals=None)
        queries, _ = as_queries("mean", texts, data.test.image_of, len(data.test), levels)
        others, _ = as_queries("mean", others, data.test.image_of, len(data.test), levels)
        expected = levels.scores(replace(images, globals=None), others)
    g, h = (x / x.norm(dim=1, keepdim=True) if how.cosine else x for x in (g, h))
    i, t = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (i, t))
    mean = [torch.stack([x[data.test.image_of == image].mean(dim=0) for image in range(len(g))]) for x in (h, t)]
    both = on_global * g @ mean[0].T + 0.25 * i @ mean[1].T
    if how.cosine:
        squares = on_global * mean[0].square().sum(dim=1) + 0.25 * mean[1].square().sum(dim=1)
        both = both * ((on_global + 0.25) / squares).sqrt()
    torch.testing.assert_close(levels.scores(images, queries), expected + both, **close)


def test_a_row_with_a_residual_is_stored_whole(data, folder):
    row = made(CRANRelation, residual="cca", **PLAIN)
    fitted(row, data, folder)
    again = fitted(made(CRANRelation, residual="cca", **PLAIN), data, folder)
    assert again.reused and again.part.similarity == row.similarity
    with torch.inference_mode():
        for side in ("embed_images", "embed_texts"):
            here, there = (getattr(part, side)(data.test) for part in (row, again.part))
            for a, b in zip(here.tensors(), there.tensors(), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_levels_are_trained_without_the_residual():
    rows = [made(CRAN, **PLUS), made(CRAN, **{**PLUS, "residual": "none"})]
    assert rows[0].alignments() == rows[1].alignments()
    assert [type(part) for part in rows[0].parts()] == [Alignment] * 3 + [CCA]
    assert [type(part) for part in rows[1].parts()] == [Alignment] * 3


@pytest.mark.parametrize("units", UNITS, ids=str)
def test_an_ensemble_is_the_mean_of_baselines_of_other_seeds(data, tmp_path, units):
    options = {**units, **PLAIN}
    alone = [fitted(made(CRANBaseline, **options), data, tmp_path, seed) for seed in (7, 3_000_007, 6_000_007)]
    trained = set(tmp_path.glob("alignment-*.safetensors"))
    fit = fitted(made(CRANEnsemble, members=3, **options), data, tmp_path, 7)
    assert len(trained) == 3 and len(set(tmp_path.glob("alignment-*.safetensors")) - trained) == 2

    def scores(part):
        return part.similarity.scores(part.embed_images(data.test), part.embed_texts(data.test))

    with torch.inference_mode():
        each = torch.stack([scores(row.part) for row in alone])
        torch.testing.assert_close(scores(fit.part), each.mean(dim=0), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(each[0], each[1], atol=1e-3)
    names = ("global", "global, member 1", "global, member 2")
    assert fit.curves == {name: row.curves["global"] for name, row in zip(names, alone, strict=True)}
    assert fit.chose == {
        key.replace("global", name): value
        for name, row in zip(names, alone, strict=True)
        for key, value in row.chose.items()
    }
    again = fitted(made(CRANEnsemble, members=3, **options), data, tmp_path, 7)
    assert again.reused
    for side in ("embed_images", "embed_texts"):
        with torch.inference_mode():
            torch.testing.assert_close(
                getattr(again.part, side)(data.test).globals, getattr(fit.part, side)(data.test).globals, rtol=0, atol=0
            )


def test_every_level_and_member_has_random_numbers_of_its_own():
    parts = [*CRAN().alignments(), *made(CRANEnsemble, members=3).alignments()[1:]]
    assert [part.draw for part in parts] == [0, 1, 2, 3, 6]
    plus = [*made(CRAN, **PLUS).alignments(), *made(CRANEnsemble, members=3, **PLUS).alignments()[1:]]
    assert [part.parts()[-1].draw for part in plus] == [0, 1, 2, 3, 6]


@pytest.mark.parametrize("text_init", ["random", "cca-targets"])
def test_levels_start_from_different_weights(data, tmp_path, text_init, monkeypatch):
    monkeypatch.setattr(alignment, "Training", FirstBatch)
    starts = []
    for levels in (("global",), ("local",)):
        part = made(Alignment, levels=levels, **{**PLAIN, "text_init": text_init, "pretraining_epochs": 1})
        fitted(part, data, tmp_path)
        starts.append({key.partition("encoder.")[2]: value for key, value in FirstBatch.last.weights.items()})
    assert not np.allclose(starts[0]["convolutions.1.weight"], starts[1]["convolutions.1.weight"])


def test_an_ensemble_has_the_residual_once(data, folder):
    row = fitted(made(CRANPlusEnsemble, residual="cca", members=2, **PLAIN), data, folder).part
    cca = fitted(CCA(), data, folder).part
    row.weights[3] = 0.5
    with torch.inference_mode():
        found = row.similarity.scores(row.embed_images(data.test), row.embed_texts(data.test))
        terms = [(part.embed_images(data.test).globals, part.embed_texts(data.test).globals) for part in row.fitted]
        expected = sum(COSINE.scores(*term) for term in terms) / 2
        expected += 0.5 * COSINE.scores(cca.embed_images(data.test), cca.embed_texts(data.test))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


class FirstBatch:
    """In place of a training: the weights before it, the first batch, and its loss."""

    last: "FirstBatch"

    def __init__(self, *, module, batches, loss, **_):
        self.module, self.batches, self.loss = module, batches, loss

    def run(self, run):
        FirstBatch.last = self
        self.module.train()
        self.weights = {key: value.double().numpy().copy() for key, value in self.module.state_dict().items()}
        generator = torch.Generator().manual_seed(5)
        self.owner, self.texts = next(iter(self.batches(1, generator)))
        self.draws = torch.Generator().manual_seed(generator.initial_seed() + NEGATIVES)
        self.value = float(self.loss((self.owner, self.texts)).detach())


def kept(x, p, training=True, inplace=False):
    """Dropout that leaves out every third column."""
    if not training or not p:
        return x
    return x * (torch.arange(x.shape[-1]) % 3 != 0) / (1 - p) if torch.is_tensor(x) else x * KEEP(x.shape[-1]) / (1 - p)


def KEEP(columns):
    return np.arange(columns) % 3 != 0


def texts_by_hand(chars, W, o, attends, trains):
    """(B, units) pooled steps of the texts: Section 3.1 and Eqs. 1 to 5, step by step."""
    stride, field, steps = (18, 66, 8) if o["third_pool"] else (9, 48, 18)
    length = [max([k + 1 for k, c in enumerate(row) if c], default=0) for row in chars]
    touched = [min(max(math.ceil(n / stride), 1), steps) for n in length]
    seen = max(touched) if o["mask_padding"] else min(max(touched) + 1, steps)
    x = np.eye(70)[chars[:, : stride * (seen - 1) + field].astype(int) - 1] * (
        chars[:, : stride * (seen - 1) + field, None] > 0
    )
    x = x[:, :, : W["convolutions.0.weight"].shape[1]]
    for layer, (size, step) in enumerate([(3, 3), (3, 3), (3, 2) if o["third_pool"] else (1, 1)]):
        kernel, bias = W[f"convolutions.{layer}.weight"].squeeze(2), W[f"convolutions.{layer}.bias"]
        x = np.stack(
            [sum(x[:, s + k] @ kernel[:, :, k].T for k in range(4)) + bias for s in range(x.shape[1] - 3)], axis=1
        )
        if o["conv_bn"]:
            running = W[f"norms.{layer}.running_mean"], W[f"norms.{layer}.running_var"]
            mean, var = (x.mean(axis=(0, 1)), x.var(axis=(0, 1))) if trains else running
            x = (x - mean) / np.sqrt(var + 1e-5) * W[f"norms.{layer}.weight"] + W[f"norms.{layer}.bias"]
        x = np.maximum(x, 0)
        x = np.stack([x[:, s : s + size].max(axis=1) for s in range(0, x.shape[1] - size + 1, step)], axis=1)
    if not o["mask_padding"]:
        x = np.concatenate([x, np.repeat(x[:, -1:], steps - seen, axis=1)], axis=1)
        touched = [steps] * len(chars)
    pooled = []
    for row, m in zip(x, touched, strict=True):
        H = row
        for layer in range(o["lstm_layers"]):
            units = W[f"lstm.weight_hh_l{layer}"].shape[1]
            h, c, out = np.zeros(units), np.zeros(units), []
            for step in H:
                gates = (
                    W[f"lstm.weight_ih_l{layer}"] @ step
                    + W[f"lstm.bias_ih_l{layer}"]
                    + W[f"lstm.weight_hh_l{layer}"] @ h
                )
                i, f, g, u = np.split(gates, 4)
                c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
                h = np.tanh(c) / (1 + np.exp(-u))
                out.append(h)
            H = out
        if attends:
            M = [np.tanh(W["W_a"] @ h if o["attn_proj"] else h) for h in H[:m]]
            u = np.array([W["w"][0] @ v for v in M])
            if o["attn_dropout"] and trains:
                u[~KEEP(len(u))] = -1e4
            a = np.exp(u - u.max()) / np.exp(u - u.max()).sum()
        else:
            a = np.full(m, 1 / m)
        pooled.append(sum(w * h for w, h in zip(a, H, strict=False)) / (m if attends and o["attn_div_m"] else 1))
    return np.array(pooled)


def scaled_by_hand(rows, train, o, given):
    """Image features after the fixed map of `image_scaling`, fitted on (N, dim) or (N, n, dim) training features."""
    flat = train.reshape(-1, train.shape[-1])
    if o["image_scaling"] == "l2":
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    if o["image_scaling"] == "standard":
        return (rows - flat.mean(axis=0)) / flat.std(axis=0)
    if o["image_scaling"] == "whiten":
        C = np.cov(flat.T)
        values, V = np.linalg.eigh(C)
        return (rows - flat.mean(axis=0)) @ (V / np.sqrt(values + o["ridge"][0] * values.max())) @ V.T
    if o["image_scaling"] == "cca":
        X, Y = given["images"], given["words"]  # one row a text
        Xc, Yc = X - X.mean(axis=0), Y - Y.mean(axis=0)
        roots = []
        for A in (Xc, Yc):
            C = A.T @ A / (len(A) - 1)
            values, V = np.linalg.eigh(C + o["ridge"][0] * np.linalg.norm(C, 2) * np.eye(len(C)))
            roots.append(V / np.sqrt(values) @ V.T)
        U, rho, _ = np.linalg.svd(roots[0] @ (Xc.T @ Yc / (len(X) - 1)) @ roots[1], full_matrices=False)
        W = roots[0] @ (U * rho)[:, : o["scaled_dim"]]
        W *= np.sign((W * given["map"]).sum(axis=0))  # directions have no sign
        return (rows - X.mean(axis=0)) @ W
    return rows


def images_by_hand(split, owner, level, W, o, cca_map):
    """(B, members, dim) embeddings of images: one, their regions, or their pairs of regions."""
    every = (split.images if level == "global" else split.regions).double().numpy()
    means = split.images if level == "global" else split.regions.mean(dim=1)
    given = {"images": means.double().numpy()[split.image_of], "words": split.tfidf(3000).toarray(), "map": cca_map}
    x = kept(scaled_by_hand(every[owner], every, o, given), o["dropout"])
    if o["geometry"] == "regions" or (o["geometry"] == "relations" and level == "relation"):
        x0, y0, x1, y1 = np.moveaxis(split.boxes.double().numpy()[owner], 2, 0)
        length = np.linalg.norm(scaled_by_hand(every, every, o, given), axis=-1).mean()
        boxes = np.stack([x0 + x1 - 1, y0 + y1 - 1, x1 - x0, y1 - y0], axis=2)
        x = np.concatenate([x, 1.5 * length * boxes], axis=2) if level != "global" else x
    if level == "relation":
        n = range(x.shape[1])
        belongs = {"ordered": lambda j, k: j != k, "unordered": lambda j, k: j < k, "all": lambda j, k: True}
        pairs = [(j, k) for j in n for k in n if belongs[o["relation_pairs"]](j, k)]
        layer = np.concatenate([W["first.weight"], W["second.weight"]], axis=1)
        x = np.stack(
            [np.concatenate([x[:, j], x[:, k]], axis=1) @ layer.T + W["second.bias"] for j, k in pairs], axis=1
        )
    else:
        x = x @ W["image.weight"].T + W["image.bias"]
    x = 1 / (1 + np.exp(-x)) if o["image_activation"] == "sigmoid" else x
    return x[:, None] if level == "global" else x


def loss_by_hand(first, split, level, o):
    """Eqs. 6 to 11 for one level, pair by pair."""
    W = {key.removeprefix(f"by_name.{level}."): value for key, value in first.weights.items()}
    encoder = {key.removeprefix("encoder."): value for key, value in W.items() if key.startswith("encoder.")}
    encoder |= {key.removeprefix("pooling.").removesuffix(".weight"): W[key] for key in W if key.startswith("pooling")}
    trains = o["text_init"] == "random" or not o["frozen_encoder_epochs"]
    owner, chars = first.owner.numpy(), split.chars(LENGTH)[first.texts].numpy()
    t = kept(texts_by_hand(chars, encoder, o, level != "global", trains), o["dropout"])
    t = t @ W["text.weight"].T + W["text.bias"]
    i = images_by_hand(split, owner, level, W, o, W["scaling.map"])
    if o["normalise"] == "l2":
        i, t = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (i, t))
    K = 1 if level == "global" else o["top_train"] or o["top"]
    s = np.array([[np.mean(sorted(members @ text)[-K:]) for text in t] for members in i])
    total, B = 0.0, range(len(owner))
    for by_text in (True, False) if o["bidirectional"] or level == "global" else (True,):
        chance = torch.rand(s.shape, generator=first.draws).numpy() if o["negatives"] == "random" else None
        for b in B:
            hinge = {k: max(0.0, o["margin"] - s[b, b] + (s[k, b] if by_text else s[b, k])) for k in B if k != b}
            if o["negatives"] == "random":
                value = hinge[max(hinge, key=lambda k: chance[b, k])]
            else:
                value = max(hinge.values()) if o["negatives"] == "hardest" else np.mean(list(hinge.values()))
            total += value / len(owner)
    return total


OPEN = {
    "batch_size": 12,
    "dropout": 0.0,
    "mask_padding": True,
    "geometry": "relations",
    "ridge": (1e-3,),
    "pretraining_epochs": 1,
}


@pytest.mark.parametrize(
    ("level", "changes"),
    [
        ("local", {"attn_div_m": True, "normalise": "none"}),  # A1; unit embeddings cancel it
        ("local", {"attn_proj": False}),  # A2
        ("local", {"attn_dim": 8}),
        ("local", {"attn_dropout": 0.5}),
        ("global", {"text_init": "word-positions"}),
        ("global", {"text_init": "cca-targets"}),
        ("global", {"text_init": "word-positions", "pretraining_epochs": 2}),
        ("global", {"text_init": "word-positions", "frozen_encoder_epochs": 0}),
        ("global", {"third_pool": True}),  # A5
        ("global", {"mask_padding": False}),  # A6
        ("global", {"lstm_layers": 2}),  # A7
        ("global", {"normalise": "none"}),  # A8
        ("global", {"margin": 1.0}),  # A8
        ("global", {"conv_bn": False}),  # A9
        ("global", {"image_activation": "sigmoid"}),  # A10
        ("relation", {"image_activation": "sigmoid"}),
        ("global", {"bidirectional": False}),  # A11; Eq. 7 stays
        ("local", {"bidirectional": False}),
        ("relation", {"bidirectional": False}),
        ("global", {"negatives": "random"}),  # A12
        ("global", {"negatives": "hardest", "warm_up": 0}),
        ("local", {"negatives": "hardest", "warm_up": 0, "bidirectional": False}),
        ("local", {"top_train": 1, "warm_up": 0}),  # A18
        ("local", {"top": 5}),
        ("relation", {"relation_pairs": "unordered"}),  # A19
        ("relation", {"relation_pairs": "all"}),
        ("global", {"image_scaling": "l2"}),
        ("global", {"image_scaling": "standard"}),
        ("local", {"image_scaling": "standard"}),
        ("global", {"image_scaling": "whiten"}),
        ("global", {"image_scaling": "cca"}),
        ("relation", {"image_scaling": "cca"}),
        ("global", {"image_scaling": "cca", "scaled_dim": 4}),
        ("global", {"image_scaling": "cca", "ridge": (1.0,)}),
        ("relation", {"geometry": "none"}),
        ("relation", {"geometry": "none", "mask_padding": False}),
        ("local", {"geometry": "regions"}),
        ("global", {"dropout": 0.5}),
        ("global", {"width": "full"}),
    ],
    ids=str,
)
def test_every_open_question_has_the_loss_computed_by_hand(data, tmp_path, monkeypatch, level, changes):
    """A2 to A25 that change the loss of a batch; those that change the batches are tested below."""
    monkeypatch.setitem(SIZES, "full", Sizes((32, 32, 32), 24, 16))
    monkeypatch.setattr(alignment, "Training", FirstBatch)
    monkeypatch.setattr(torch.nn.functional, "dropout", kept)
    if "attn_dropout" in changes:
        monkeypatch.setattr(torch, "rand_like", lambda u: torch.from_numpy(KEEP(u.shape[1])).double().expand_as(u))
    part = made(Alignment, levels=(level,), **{**OPEN, **changes})
    fit = fitted(part, data, tmp_path)
    first, options = FirstBatch.last, flat_values(part)
    assert first.value == pytest.approx(loss_by_hand(first, data.train, level, options), rel=1e-4)
    if "pretraining_epochs" in changes:
        assert len(fit.curves[f"word-positions, {level}"]) == 2


@pytest.mark.parametrize(
    ("level", "field", "value"),
    [("global", f, v) for f, v in (("top", 1), ("attn_proj", False), ("geometry", "none"), ("bidirectional", False))]
    + [
        ("local", "relation_pairs", "all"),
        ("local", "hard_negative_batches", 0.0),
        ("global", "hard_negatives_from", 3),
    ],
)
def test_what_a_level_does_not_read_does_not_change_its_fit(level, field, value):
    plus, other = made(Recipe, **PLUS), made(Recipe, **{**PLUS, field: value})
    assert other.of((level,)) == plus.of((level,))
    assert other.of(LEVELS) != plus.of(LEVELS)


@pytest.mark.parametrize(
    ("when", "field", "value"),
    [
        ({"text_init": "random"}, "pretraining_epochs", 2),
        ({"text_init": "random"}, "frozen_encoder_epochs", 2),
        ({"lr_decay": "linear"}, "halve_every", 2),
        ({"hard_negative_batches": 0.0}, "hard_negatives_from", 2),
        ({"hard_negative_batches": 0.0}, "hard_negative_group", 2),
        ({"negatives": "all"}, "warm_up", 2),
        ({"image_scaling": "l2", "text_init": "random"}, "scaled_dim", 2),
        ({"image_scaling": "none", "text_init": "random"}, "ridge", (0.5,)),
    ],
    ids=str,
)
def test_what_another_field_puts_out_of_use_does_not_change_a_fit(when, field, value):
    assert made(Recipe, **when, **{field: value}).of(LEVELS) == made(Recipe, **when).of(LEVELS)
    other = {
        "text_init": "pretrained",
        "lr_decay": "step",
        "hard_negative_batches": 0.5,
        "negatives": "hardest",
        "image_scaling": "cca",
    }
    use = {key: other[key] for key in when}
    assert made(Recipe, **use, **{field: value}).of(LEVELS) != made(Recipe, **use).of(LEVELS)


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ({"negatives": "all"}, 1),
        ({"negatives": "hardest", "warm_up": 3}, 4),
        ({"negatives": "hardest", "warm_up": 0}, 1),
        ({"negatives": "hardest", "warm_up": 0, "text_init": "cca-targets", "frozen_encoder_epochs": 6}, 7),
    ],
)
def test_patience_counts_from_the_first_epoch_in_which_nothing_changes_any_more(
    data, tmp_path, monkeypatch, fields, first
):
    class Seen(Training):
        def run(self, run):
            raise BadInput(f"counts from {self.patience_from}")

    monkeypatch.setattr(alignment, "Training", Seen)
    with pytest.raises(BadInput, match=rf"counts from {first}$"):
        plain = {"levels": ("global",), **SHORT, "text_init": "random", "hard_negative_batches": 0.0}
        fitted(made(Alignment, **{**plain, **fields}), data, tmp_path)


def test_no_restart_of_a_seed_has_the_numbers_of_another_seed(data, tmp_path, monkeypatch):
    drawn = []

    class Seen(Training):
        def run(self, run):
            drawn.append((torch.initial_seed(), self.is_trial))
            return len(drawn)

    monkeypatch.setattr(alignment, "Training", Seen)
    plain = {**SHORT, "levels": ("relation",), "restarts": 3}
    for seed in range(2):
        fitted(made(Alignment, **plain), data, tmp_path, seed)
    seeds = [seed for seed, is_trial in drawn if is_trial]
    assert len(set(seeds)) == len(seeds) == 6
    assert [seed for seed, is_trial in drawn if not is_trial] == [seeds[2], seeds[5]]  # the last was the best


def test_the_optimisers_differ_and_decay_their_rate(data, tmp_path):
    def losses(**fields):
        """The losses of three epochs; the weights are those of the best epoch, which may be the first."""
        settings = {"batch_size": 32, "patience": 0, "text_init": "random", "max_epochs": 3, **fields}
        curve = fitted(made(Alignment, levels=("global",), **settings), data, tmp_path).curves["global"]
        return [point["loss"] for point in curve]

    adam, by_step = losses(), losses(lr_decay="step")
    assert len(adam) == 3 and losses(lr_decay="step", halve_every=1)[0] == by_step[0]  # halved after the first epoch
    others = [{"lr_decay": "step", "halve_every": 1}, {"optimiser": "rmsprop"}, {"lr": 1e-2}]  # A14
    others += [{"weight_decay": 0.1}, {"clip": 1e-3}]
    curves = [adam, by_step, *(losses(**fields) for fields in others)]
    assert len(set(map(tuple, curves))) == len(curves)


@pytest.mark.parametrize(("normalise", "same"), [("l2", True), ("none", False)])
def test_cosine_differs_only_without_unit_embeddings(data, tmp_path, normalise, same):  # A16
    fields = {"normalise": normalise, **SHORT}
    rows = [fitted(made(CRANLocal, sim=sim, **fields), data, tmp_path).part for sim in ("dot", "cos")]
    with torch.inference_mode():
        scores = [row.similarity.scores(row.embed_images(data.val), row.embed_texts(data.val)) for row in rows]
    assert torch.allclose(*scores, atol=1e-5) == same


@pytest.mark.parametrize("options", [PLAIN, SHORT], ids=["cran", "plus"])
def test_one_seed_gives_one_result_and_another_another(data, tmp_path, options):
    def texts(folder, seed):
        part = fitted(made(CRANRelation, **options), data, tmp_path / folder, seed).part
        with torch.inference_mode():
            return part.embed_texts(data.test).relations

    assert torch.equal(texts("a", 0), texts("b", 0))
    assert not torch.equal(texts("a", 0), texts("a", 1))


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_stopped_training_goes_on_to_the_same_numbers(data, tmp_path, epoch, monkeypatch, capsys):
    part = {
        **SHORT,
        "levels": ("local",),
        "max_epochs": 4,
        "frozen_encoder_epochs": 2,
        "batch_size": 16,
        "dropout": 0.3,
        "patience": 0,
        "pretraining_epochs": 1,
    }
    straight = fitted(made(Alignment, **part), data, tmp_path / "straight")
    write = LentRun.checkpoint

    def stop(self, state, at=""):
        write(self, state, at)
        if at == f"after epoch {epoch} of at most 4":
            raise KeyboardInterrupt

    monkeypatch.setattr(LentRun, "checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        fitted(made(Alignment, **part), data, tmp_path / "stopped")
    monkeypatch.setattr(LentRun, "checkpoint", write)
    stopped = fitted(made(Alignment, **part), data, tmp_path / "stopped")
    assert f"resuming from the last checkpoint, after epoch {epoch} of at most 4" in capsys.readouterr().err
    assert stopped.curves == straight.curves
    for key, value in straight.part.state().items():
        assert torch.equal(value, stopped.part.state()[key]), key


def test_levels_start_from_a_pretrained_encoder(data, tmp_path):
    few = {**SHORT, "frozen_encoder_epochs": 2, "pretraining_epochs": 4}
    row = fitted(made(CRAN, **few), data, tmp_path)
    assert len(list(tmp_path.glob("pretrainedencoder-*.safetensors"))) == 3
    targets = {
        "cca-targets, global": "cosine",
        "cca-targets, local": "cosine",
        "word-positions, relation": "likelihood",
    }
    for name, criterion in targets.items():
        curve = row.curves[name]
        assert curve[-1][criterion] > curve[0][criterion] and len(curve) <= 4
    for part in row.part.fitted:  # as the encoders were frozen throughout
        (name, level), *_ = part.network.levels.items()
        assert part.plus.text_init == ("word-positions" if name == "relation" else "cca-targets")
        pretrained = fitted(part.parts()[-1], data, tmp_path)
        assert pretrained.reused
        known = pretrained.part.network.state_dict()
        for key, value in level.encoder.state_dict().items():
            assert torch.equal(value, known[key]), key
        if isinstance(level.pooling, Attention):
            assert not level.pooling.w.weight.any()  # a plain mean


def test_a_frozen_encoder_is_trained_after_the_first_epochs(data, tmp_path, monkeypatch):
    rising = iter(range(1, 10))
    monkeypatch.setattr(LentRun, "score", lambda *_: SimpleNamespace(i2t_r1=0, t2i_r1=0, curve={"rsum": next(rising)}))
    fit = fitted(made(Alignment, levels=("relation",), ridge=(1e-3,), **SHORT), data, tmp_path)
    assert fit.chose["epoch"] == 2
    level = fit.part.network.levels["relation"]
    known = fitted(fit.part.parts()[-1], data, tmp_path).part.network
    for (name, mine), theirs in zip(level.encoder.named_parameters(), known.parameters(), strict=True):
        assert torch.equal(mine, theirs) != mine.requires_grad, name
    assert level.pooling.w.weight.any()


def test_pretraining_depends_on_what_an_encoder_is_made_of():
    changes = [{"width": "full"}, {"third_pool": True}, {"mask_padding": True}, {"lstm_layers": 2}, {"conv_bn": False}]
    for change in ({}, *changes):
        recipe = made(Recipe, **change)
        one, other = CharacterEncoder(recipe), CharacterEncoder(Recipe(**recipe.of_encoder()))
        shapes = [{key: value.shape for key, value in e.state_dict().items()} for e in (one, other)]
        assert shapes[0] == shapes[1]
        assert (one.pools, one.mask_padding) == (other.pools, other.mask_padding)


def test_words_that_are_only_beyond_what_is_read(tmp_path):
    """A word that training has after character 201 alone, and validation before; texts without any word."""
    long = " ".join(sentences(64)[:20])
    captions = [f"{long} zebra" if k < 32 else ("..." if k % 2 else "a zebra house") for k in range(96)]
    splits = {"train": np.arange(40), "val": np.arange(40, 64), "test": np.arange(64, 96)}
    data = make(captions, list(range(96)), 96, splits)
    assert len(long) > LENGTH
    for text_init in ("word-positions", "cca-targets"):
        fit = fitted(made(PretrainedEncoder, text_init=text_init, pretraining_epochs=2, conv_bn=False), data, tmp_path)
        assert all(math.isfinite(value) for point in fit.curves[f"{text_init}, global"] for value in point.values())
    heard = words_of(data.train)
    words = [data.train._text.vocabulary[i] for i in heard.ids[0].tolist() if i >= 0]
    assert words == tokenize(long[:LENGTH].rpartition(" ")[0])


def test_cca_projects_texts_near_their_images(data, tmp_path):
    fit = fitted(Correlation((1e-3, 1e3), 4), data, tmp_path)
    X, Y = data.train.images[data.train.image_of].double().numpy(), data.train.tfidf(3000).toarray().astype(float)
    found = {}
    for ridge in (1e-3, 1e3):  # ridge CCA by whitening and singular values, on images repeated for each text
        Xc, Yc = X - X.mean(axis=0), Y - Y.mean(axis=0)
        whiten = []
        for A in (Xc, Yc):
            C = A.T @ A / (len(A) - 1)
            values, V = np.linalg.eigh(C + ridge * np.linalg.norm(C, 2) * np.eye(len(C)))
            whiten.append(V / np.sqrt(values) @ V.T)
        U, rho, Vt = np.linalg.svd(whiten[0] @ (Xc.T @ Yc / (len(X) - 1)) @ whiten[1])
        images = (data.val.images.double().numpy() - X.mean(axis=0)) @ whiten[0] @ (U[:, :4] * rho[:4])
        texts = (data.val.tfidf(3000) - Y.mean(axis=0)) @ whiten[1] @ (Vt.T[:, :4] * rho[:4])
        ranks = rank(torch.from_numpy(images), torch.from_numpy(texts), data.val.image_of, COSINE)
        found[ridge] = ranks.metrics().rsum, texts
    best = max(found, key=lambda ridge: found[ridge][0])
    assert fit.chose == {"ridge": best}
    sums = data.val.bow(3000) @ fit.part.words.numpy()
    length = np.linalg.norm(data.val.bow(3000).toarray() * idf_of(data.train), axis=1, keepdims=True)
    texts = sums / length - Y.mean(axis=0) @ (fit.part.words.numpy() / idf_of(data.train)[:, None])
    gram, expected = texts @ texts.T, found[best][1] @ found[best][1].T  # directions have no sign
    assert np.allclose(gram, expected, atol=1e-4 * np.abs(expected).max())
    again = fitted(Correlation((1e-3, 1e3), 4), data, tmp_path)
    assert again.reused and torch.equal(again.part.words, fit.part.words)


def idf_of(train):
    counts = train.bow(3000)
    return 1 + np.log((1 + counts.shape[0]) / (1 + (counts.toarray() > 0).sum(axis=0)))


def test_the_words_of_each_quarter(data, tmp_path):
    texts = words_of(data.train)
    for k in (0, 7, 100):
        words = tokenize(data.train.texts[k])
        found = [
            (data.train._text.vocabulary[i], q)
            for i, q in zip(texts.ids[k].tolist(), texts.quarters[k].tolist(), strict=True)
            if i >= 0
        ]
        assert found == [(word, place * 4 // len(words)) for place, word in enumerate(words)]
    recipe = made(Recipe, mask_padding=True)
    torch.manual_seed(0)
    targets = fitted(Correlation(recipe.plus.ridge, 4), data, tmp_path).part.words.float()
    positions, projections = (
        model.eval() for model in (WordPositionPredictor(recipe, len(targets)), CCATargetPredictor(recipe, targets))
    )
    few = texts.rows(torch.tensor([0, 7, 100]))
    losses, cosines = [], []
    with torch.no_grad():
        for row in range(3):
            predicted = {}
            for model in (positions, projections):
                H, counts = model.encoder(few.chars[row : row + 1])
                predicted[model] = model.layer(H[0, counts[0]].mean(dim=0))
            p = torch.softmax(predicted[positions].view(4, -1), dim=1)
            true = torch.zeros(4)
            for i, q in zip(few.ids[row], few.quarters[row], strict=True):
                if i >= 0:
                    losses.append(-math.log(p[q, i]))
                    true += targets[i]
            projected = predicted[projections]
            cosines.append(float(projected @ true / projected.norm() / true.norm()))
        assert float(positions.loss(few)) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
        assert float(projections.loss(few)) == pytest.approx(1 - sum(cosines) / 3, rel=1e-4)


def test_validation_chooses_the_ridge(data, tmp_path):
    fit = fitted(made(Alignment, levels=("global",), ridge=(1e-3, 1e4), **SHORT), data, tmp_path)
    assert fit.chose["cca.ridge"] == 1e-3
    alone = fitted(made(Alignment, levels=("global",), ridge=(1e-3,), **SHORT), data, tmp_path)
    assert torch.equal(alone.part.network.levels["global"].scaling.map, fit.part.network.levels["global"].scaling.map)


def test_averages_of_captions_are_unit_again(data, tmp_path):
    row = fitted(made(CRANBaseline, **SHORT), data, tmp_path).part
    with torch.inference_mode():
        images, texts = row.embed_images(data.test), row.embed_texts(data.test)
    queries, _ = as_queries("mean", texts, data.test.image_of, len(data.test), row.similarity)
    doubled = queries.map(lambda x: 2 * x)
    torch.testing.assert_close(row.similarity.scores(images, queries), row.similarity.scores(images, doubled))


def test_options_in_a_record_are_flat():
    row = METHODS.configure("cran[plus.restarts=3,joint=true]").build()
    assert (row.plus.restarts, row.fusion.joint) == (3, True)
    options = fields_json(row)
    listed = {"ridge": list(row.plus.ridge), "fusion_weights": list(row.fusion.fusion_weights)}
    assert options == flat_values(row) | listed and len(options) == 48
    assert (options["width"], options["restarts"]) == ("compact", 3)


def test_a_record_tells_what_validation_chose(data, tmp_path):
    chose = fitted(made(CRANRelation, **SHORT), data, tmp_path).chose
    assert {"global.epoch", "global.rsum", "relation.epoch", "relation.rsum"} <= set(chose)


def test_a_checkpoint_of_another_width_is_not_taken_up(data, tmp_path, monkeypatch, capsys):
    write = LentRun.checkpoint

    def stop(self, state, at=""):
        write(self, state, at)
        raise KeyboardInterrupt

    monkeypatch.setattr(LentRun, "checkpoint", stop)
    monkeypatch.setitem(SIZES, "full", Sizes((16, 16, 16), 16, 16))
    for width in ("full", "compact"):
        with pytest.raises(KeyboardInterrupt):
            fitted(made(Alignment, levels=("global",), width=width, **PLAIN), data, tmp_path / width)
    monkeypatch.setattr(LentRun, "checkpoint", write)
    (full,), (compact,) = ((tmp_path / width).glob("*.checkpoint") for width in ("full", "compact"))
    compact.write_bytes(full.read_bytes())
    fitted(made(Alignment, levels=("global",), **PLAIN), data, tmp_path / "compact")
    assert "the last checkpoint is of another configuration; fitting from the start" in capsys.readouterr().err


def test_weights_of_another_width_are_refused(data, tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "full", Sizes((16, 16, 16), 16, 16))
    state = fitted(made(CRANBaseline, **SHORT), data, tmp_path).part.state()
    with pytest.raises(BadInput, match="not those of levels global with width=full"):
        made(CRANBaseline, width="full", **SHORT).load(state)
    with pytest.raises(BadInput, match="other parts"):
        made(CRANBaseline, conv_bn=False, **SHORT).load(state)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(data, tmp_path, monkeypatch):
    calls = []

    def loss(*arguments):
        calls.append(0)
        return margin_loss(*arguments) * (float("nan") if len(calls) > 2 * 4 else 1.0)

    monkeypatch.setattr(alignment, "margin_loss", loss)
    with pytest.raises(BadInput, match=r"the loss became nan in epoch 3: lower .* is kept"):
        fitted(
            made(Alignment, levels=("global",), max_epochs=5, batch_size=16, caption_sampling="random"), data, tmp_path
        )
    (checkpoint,) = tmp_path.glob("*.checkpoint")
    assert load_file(checkpoint)["progress"][0] == 2
    assert not list(tmp_path.glob("alignment-*.safetensors"))


# batches ------------------------------------------------------------------------------------------------------------


def drawn(recipe, owner, neighbours=None, epoch=1):
    """The batches of an epoch, of which each holds different images with texts of theirs; text k is k % 9 long."""
    batches = Batches(recipe, torch.tensor(owner), torch.arange(len(owner)) % 9, neighbours)
    found = list(batches.epoch(epoch, torch.Generator().manual_seed(3)))
    for images, texts in found:
        assert torch.tensor(owner)[texts].tolist() == images.tolist()
        assert len(set(images.tolist())) == len(images)
    assert len(found) <= batches.steps
    return found


OWNER = [0, 0, 1, 2, 2, 2, 3, 4, 4, 5, 6, 6, 6, 6]


@pytest.mark.parametrize("size", [2, 3, 6, 7, 100])
def test_an_epoch_passes_over_all_images_once(size):
    found = drawn(made(Recipe, batch_size=size, caption_sampling="random"), OWNER)
    assert sorted(torch.cat([images for images, _ in found]).tolist()) == list(range(7))
    lengths = [len(images) for images, _ in found]
    assert max(lengths) - min(lengths) <= 1 and min(lengths) >= 2 and max(lengths) <= max(size, 3)


def test_captions_are_sampled_as_asked():
    whole = drawn(
        made(Recipe, batch_size=3, caption_sampling="all"), OWNER[:-1]
    )  # the fourth text of one image is alone
    assert sorted(torch.cat([texts for _, texts in whole]).tolist()) == list(range(len(OWNER) - 1))
    first = drawn(made(Recipe, batch_size=3, caption_sampling="first"), OWNER)
    assert sorted(torch.cat([texts for _, texts in first]).tolist()) == [0, 2, 3, 6, 7, 9, 10]
    seen = set()
    batches = Batches(
        made(Recipe, batch_size=3, caption_sampling="random"), torch.tensor(OWNER), torch.ones(len(OWNER))
    )
    for epoch in range(60):
        for _, texts in batches.epoch(epoch, torch.Generator().manual_seed(epoch)):
            seen |= set(texts.tolist())
    assert seen == set(range(len(OWNER)))


def test_a_bucket_deals_texts_of_a_length_together():
    owner = list(range(900))

    def spread(bucket):
        """Lengths in a batch, on average."""
        found = drawn(made(Recipe, batch_size=20, bucket=bucket, caption_sampling="first"), owner)
        assert sorted(torch.cat([texts for _, texts in found]).tolist()) == owner
        return sum(len(set((texts % 9).tolist())) for _, texts in found) / len(found)

    assert spread(1) > 7 and spread(9) < 3.5 and spread(45) < 2


def test_an_epoch_can_have_as_many_batches_as_there_are_images():  # A20
    assert len(drawn(made(Recipe, batch_size=3, epoch_mode="batches"), OWNER)) == 7


def test_images_with_more_captions_than_others_never_make_a_batch_of_one():
    owner = [row for row in range(40) for _ in range(5 if row else 7)]
    found = drawn(made(Recipe, batch_size=8, caption_sampling="all"), owner)
    assert min(len(images) for images, _ in found) >= 2
    assert sorted(torch.cat([texts for _, texts in found]).tolist()) == sorted(set(range(len(owner))) - missing(found))
    assert len(missing(found)) == 2


def missing(found):
    """The texts that no batch holds."""
    seen = set(torch.cat([texts for _, texts in found]).tolist())
    return set(range(max(seen) + 1)) - seen


def test_hard_negatives_are_the_nearest_and_meet_in_a_batch(monkeypatch):
    random = np.random.default_rng(0)
    middles = random.normal(size=(50, 8))
    features = np.repeat(middles, 4, axis=0) + 0.01 * random.normal(size=(200, 8))
    near = nearest(torch.from_numpy(features), 16)
    monkeypatch.setattr(batches, "BLOCK", 64)  # three tiles, and a smaller one
    assert torch.equal(nearest(torch.from_numpy(features), 16), near)
    similarity = features @ features.T / np.outer(*[np.linalg.norm(features, axis=1)] * 2)
    np.fill_diagonal(similarity, -np.inf)
    assert near.tolist() == np.argsort(-similarity, axis=1)[:, :16].tolist()
    recipe = made(
        Recipe,
        batch_size=20,
        hard_negative_batches=0.5,
        hard_negative_group=4,
        hard_negatives_from=3,
        caption_sampling="random",
    )
    owner = list(range(200))

    def together(epoch):
        """How many of a batch's images have all their neighbours with them, for each batch."""
        found = drawn(recipe, owner, near, epoch)
        assert sorted(torch.cat([images for images, _ in found]).tolist()) == owner
        return [sum(np.bincount(images.numpy() // 4) == 4) * 4 for images, _ in found]

    assert sorted(together(3))[5:] == [20] * 5 and max(sorted(together(3))[:5]) <= 4
    assert max(together(2)) <= 4


def test_training_never_looks_at_twins(data, tmp_path, monkeypatch):
    def of_validation(self):  # which `run.score` measures
        assert self.name == "val", "training looked at the twins"
        return torch.arange(len(self)) ^ 1

    row = made(CRANRelation, **{**SHORT, "hard_negative_batches": 1.0})
    without = fitted(row, data, tmp_path / "without")
    monkeypatch.setattr(Split, "twins", property(of_validation))
    fit = fitted(row, data, tmp_path / "with")
    assert "twins" in fit.curves["relation"][0] and "twins" not in without.curves["relation"][0]
    for key, value in fit.part.state().items():
        assert torch.equal(value, without.part.state()[key]), key


# bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cran[margin=-0.1]", "margin is a distance between scores, at least 0, not -0.1"),
        ("cran[top=0]", "top is at least 1, not 0"),
        ("cran[top_train=0]", "top_train is at least 1"),
        ("cran[lr=0]", "lr is above 0"),
        ("cran[dropout=1.5]", "dropout is a fraction from 0 to 1"),
        ("cran[dropout=1]", "leave nothing to learn from"),
        ("cran[image_scaling=whiten,ridge=0]", "use a ridge above 0"),
        ("cran[batch_size=1]", "batch_size is at least 2"),
        ("cran[width=ful]", "did you mean 'full'"),
        ("cran[encoders=one]", "add joint=true"),
        ("cran[fusion_weights=1|2]", "three numbers"),
        ("cran-ensemble[members=0]", "members is at least 1, not 0"),
        ("cran[margn=1]", "no field 'margn'; did you mean 'margin'"),
        ("cran:papre", "no preset 'papre'; did you mean 'paper'"),
    ],
)
def test_wrong_fields_are_refused(spec, message):
    with pytest.raises(BadInput, match=message):
        METHODS.configure(spec)


def test_top_beyond_the_regions_is_refused(data, tmp_path):
    with pytest.raises(BadInput, match=r"top is 6, but an image has 5 regions: use top=5 or less"):
        fitted(made(CRAN, top=6, **SHORT), data, tmp_path)
    fitted(made(CRANBaseline, top=6, **SHORT), data, tmp_path)


def test_data_without_regions_says_which_row_works(tmp_path):
    splits = {"train": np.arange(40), "val": np.arange(40, 50), "test": np.arange(50, 60)}
    bare = make(sentences(60), list(range(60)), 60, splits, regions=False)
    for cls in (CRAN, CRANLocal, CRANRelation):
        with pytest.raises(
            MissingFeature, match=r"levels global.* need regions.*--regions, or run a row with the global"
        ):
            fitted(made(cls, **SHORT), bare, tmp_path)
    fitted(made(CRANBaseline, **SHORT), bare, tmp_path)


def test_captions_of_unknown_characters(tmp_path, capsys):
    splits = {"train": np.arange(40), "val": np.arange(40, 50), "test": np.arange(50, 60)}
    some = [*sentences(59), "赤い家"]
    some[3], some[5] = "собака", "кот"
    some[7], some[8] = "a dog " * LENGTH, "b" * LENGTH
    odd = make(some, list(range(60)), 60, splits)
    part = fitted(made(CRANBaseline, **SHORT), odd, tmp_path).part
    said = capsys.readouterr().err
    assert "2 of 40 captions of the train split have no character that CRAN reads, the first is 'собака'" in said
    assert f"1 of 40 captions of the train split have over {LENGTH} characters, of which CRAN reads the first" in said
    with torch.inference_mode():
        assert bool(torch.isfinite(part.embed_texts(odd.test).globals).all())
    none = make(["собака"] * 60, list(range(60)), 60, splits)
    with pytest.raises(BadInput, match=r"none of the 40 captions .* has a character that CRAN reads"):
        fitted(made(CRANBaseline, **SHORT), none, tmp_path / "other")


def test_presets_and_labels():
    assert METHODS.configure("cran").label == "cran:tuned[width=compact]"
    assert METHODS.configure("cran:paper").label == "cran:paper[width=full]"
    assert METHODS.configure("cran:paper[width=compact,margin=0.2]").label == "cran:paper[margin=0.2,width=compact]"
    assert (
        METHODS.configure(METHODS.configure("cran-local[top=1]").label).label == "cran-local:tuned[top=1,width=compact]"
    )
    paper, literal = METHODS.configure("cran:paper").build(), METHODS.configure("cran:literal").build()
    assert paper == made(CRAN, **PAPER) and literal == made(CRAN, **LITERAL)
    assert (paper.loss.margin, paper.loss.top) == (1.0, 3)
    assert (paper.optimiser.lr, paper.optimiser.halve_every, paper.encoder.normalise) == (4e-4, 50, "l2")
    assert (literal.encoder.attn_div_m, literal.encoder.normalise, literal.loss.negatives) == (True, "none", "random")
    rows = {name: METHODS.get(name).paper_row for name in METHODS.names() if name.startswith("cran")}
    assert rows == {
        "cran": "CRAN",
        "cran-baseline": "CRAN-baseline",
        "cran-local": "CRAN-local",
        "cran-relation": "CRAN-relation",
        "cran-ensemble": None,
        "cran-plus": None,
        "cran-plus-baseline": None,
        "cran-plus-local": None,
        "cran-plus-relation": None,
        "cran-plus-ensemble": None,
    }
    assert METHODS.configure("cran-ensemble").label == "cran-ensemble:tuned[members=2,width=compact]"
    assert METHODS.configure("cran-plus").label == "cran-plus:tuned[width=compact]"


def names(*groups):
    return {field.name for group in groups for field in fields(group)}


TRAINING = {"conv_bn", "dropout", "normalise", "bidirectional", "negatives", "warm_up", "margin", "top_train"}
TRAINING |= names(OptimiserOptions, BatchOptions)
MODEL = {
    *("encoders", "attn_div_m", "attn_proj", "attn_dim", "third_pool", "mask_padding", "lstm_layers"),
    *("image_activation", "relation_pairs", "top", "joint", "sim", "fusion_weights", "fusion_norm"),
}
OFF = {
    "text_init": "random",
    "restarts": 1,
    "attn_dropout": 0.0,
    "image_scaling": "none",
    "geometry": "none",
    "hard_negative_batches": 0.0,
    "residual": "none",
}
CRANS = ("cran", "cran-baseline", "cran-local", "cran-relation", "cran-ensemble")


def test_every_option_is_of_the_model_or_its_training_or_a_departure():
    groups = [TRAINING, MODEL, {"width"}, names(PlusOptions)]
    assert sorted(name for group in groups for name in group) == sorted(flat_values(CRAN()))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", CRANS)
def test_presets_of_cran_are_the_papers_model(name, preset):
    row, paper = (flat_values(METHODS.configure(f"{name}:{preset}").build()) for preset in (preset, "paper"))
    assert {option: row[option] for option in OFF} == OFF
    assert {option: row[option] for option in names(PlusOptions)} == vars(PlusOptions())
    differing = {option for option in row if row[option] != paper[option]}
    if preset == "literal":  # the equations as printed, of which these two are not in the authors' other code
        assert differing == {"attn_div_m", "normalise"}
    else:
        assert differing <= TRAINING | {"width"}
    assert row["fusion_weights"] == (1.0, 1.0, 1.0) and paper["mask_padding"] is False


PLUS_CRANS = tuple(name.replace("cran", "cran-plus", 1) for name in CRANS)
READ_BY = {
    "mask_padding": LEVELS,
    "text_init": LEVELS,
    "restarts": ("relation",),
    "attn_dropout": ("local", "relation"),
    "image_scaling": LEVELS,
    "geometry": ("relation",),
    "hard_negative_batches": ("relation",),
    "residual": (),
}


def test_plus_is_the_recipe_of_cran_plus():
    departures = {*PLUS} - TRAINING
    assert departures == {*READ_BY} == {*OFF, "mask_padding"} and all(PLUS[name] != OFF.get(name) for name in PLUS)
    for name in PLUS_CRANS:
        row, plain = (METHODS.configure(each).build() for each in (name, name.replace("-plus", "", 1)))
        assert isinstance(row, type(plain))
        differing = {o: v for o, v in flat_values(row).items() if v != flat_values(plain)[o]}
        assert {*differing} - TRAINING == departures | {"fusion_weights"}
        assert {name: differing.get(name, PLUS[name]) for name in PLUS} == PLUS
        assert differing["fusion_weights"] is None


@pytest.mark.parametrize("departure", READ_BY)
def test_each_departure_is_one_switch(departure, data):
    plus = METHODS.configure("cran-plus").build()
    off = {**OFF, "mask_padding": False}[departure]
    value = str(off).lower()
    without = METHODS.configure(f"cran-plus[{departure}={value}]").build()
    assert flat_values(without) == flat_values(plus) | {departure: off}
    keys = [fingerprints(row, data) for row in (plus, without)]
    assert {level for level in LEVELS if keys[0][level] != keys[1][level]} == {*READ_BY[departure]}
    assert ("CCA" in keys[1]) == (departure != "residual") and keys[0].keys() - keys[1].keys() <= {"CCA"}


def test_the_page_on_cran_names_every_departure():
    page = (Path(__file__).parents[2] / "docs/cran.md").read_text()
    told = dict(re.findall(r"\| `cran-plus\[(\w+)=([^\]]+)\]` \|", page.replace("\\|", "|")))
    assert told.keys() == READ_BY.keys() | {"fusion_weights"}
    plain = flat_values(CRAN())
    for departure, value in told.items():
        assert flat_values(METHODS.configure(f"cran-plus[{departure}={value}]").build())[departure] == plain[departure]


def fingerprints(row, data):
    """Of the parts of a row, by name."""
    store = FitStore(Path("nowhere"), {}, data.train, data.val, CPU)
    return {getattr(part, "part_name", type(part).__name__): store.fingerprint(part, 0) for part in row.parts()}


def test_without_its_departures_cran_plus_is_cran(data):
    training = {name: value for name, value in PLUS.items() if name in TRAINING}
    for name in ("cran-plus", "cran-plus-baseline", "cran-plus-local", "cran-plus-relation"):
        cls, plain = METHODS.get(name).cls, METHODS.get(name.replace("-plus", "", 1)).cls
        off = made(cls, **{**PLUS, **OFF, "mask_padding": False})
        assert fingerprints(off, data) == fingerprints(made(plain, **training), data)


@pytest.mark.no_cover
@pytest.mark.parametrize("spec", ["cran-plus[text_init=random,{}]", "cran-ensemble[{}]"])
def test_a_row_keeps_every_promise(monkeypatch, tmp_path, spec):
    monkeypatch.setattr(checks, "DATASET", "scenes[train=100,val=20,test=60]")
    method = METHODS.configure(spec.format("max_epochs=6,batch_size=20,lr=0.005"))
    verdicts = checks.check_method(method, tmp_path, CPU)
    assert {v.promise: v.broken for v in verdicts} == {v.promise: None for v in verdicts}


# explanations -------------------------------------------------------------------------------------------------------


def test_an_explanation_adds_up_and_names_the_winners(data, tmp_path):
    row = fitted(made(CRAN, fusion_weights=(1.0, 2.0, 0.5), **SHORT), data, tmp_path).part
    image, text = 5, 3
    (found,) = row.explain(data.test, [(image, text)])
    with torch.inference_mode():
        images, texts = row.embed_images(data.test), row.embed_texts(data.test)
        total = row.similarity.scores(images.rows(slice(image, image + 1)), texts.rows(slice(text, text + 1)))
    assert found.scores["total"] == pytest.approx(float(total), abs=1e-5)
    assert found.scores["local"] == pytest.approx(2 * np.mean([score for _, score in found.regions]), abs=1e-6)
    assert found.scores["relation"] == pytest.approx(0.5 * np.mean([score for *_, score in found.pairs]), abs=1e-6)
    assert found.text == data.test.texts[text]
    assert set(found.attention) == {"local", "relation"}
    for weights in found.attention.values():
        assert len(weights) == len(found.text) and sum(weights) == pytest.approx(1)
    pairs = region_pairs(5).tolist()
    each = (images.regions[image] @ texts.regions[text]).tolist()
    assert [region for region, _ in found.regions] == sorted(range(5), key=lambda k: -each[k])[:3]
    assert all([first, second] in pairs for first, second, _ in found.pairs)


def test_a_row_explains_the_levels_it_has(data, tmp_path):
    (found,) = fitted(made(CRANBaseline, **SHORT), data, tmp_path).part.explain(data.test, [(0, 0)])
    assert set(found.scores) == {"global", "total"}
    assert (found.attention, found.regions, found.pairs) == ({}, [], [])


@pytest.mark.parametrize("units", UNITS, ids=str)
@pytest.mark.parametrize("cls", [CRANPlus, CRANPlusBaseline, CRANPlusRelation, CRANPlusEnsemble])
def test_an_explanation_names_the_residual(data, folder, cls, units):
    row = fitted(made(cls, residual="cca", **units, **PLAIN), data, folder).part
    row.weights[3] = 0.25
    pairs = [(5, 3), (2, 4)]  # a text of another image, and an own one
    found = row.explain(data.test, pairs)
    cca = fitted(CCA(), data, folder).part
    with torch.inference_mode():
        totals = row.similarity.scores(row.embed_images(data.test), row.embed_texts(data.test))
        residuals = 0.25 * COSINE.scores(cca.embed_images(data.test), cca.embed_texts(data.test))
    for (image, text), explanation in zip(pairs, found, strict=True):
        assert [*explanation.scores] == [*row.levels, "cca", "total"]
        assert explanation.scores["total"] == pytest.approx(float(totals[image, text]), abs=1e-6)
        assert explanation.scores["cca"] == pytest.approx(float(residuals[image, text]), abs=1e-6)
        terms = sum(value for name, value in explanation.scores.items() if name != "total")
        assert terms == pytest.approx(explanation.scores["total"], abs=1e-6)


def test_an_ensemble_is_explained_by_all_its_members(data, folder):
    row = fitted(made(CRANEnsemble, **PLAIN), data, folder).part
    (found,) = row.explain(data.test, [(5, 3)])
    with torch.inference_mode():
        each = [
            COSINE.scores(part.embed_images(data.test).globals, part.embed_texts(data.test).globals)[5, 3]
            for part in row.fitted
        ]
    assert abs(each[0] - each[1]) > 1e-4
    assert found.scores == pytest.approx({"global": float(sum(each)) / 2, "total": float(sum(each)) / 2}, abs=1e-6)
