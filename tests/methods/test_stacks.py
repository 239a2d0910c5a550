"""Stacks of RBMs: what goes in, that layers learn, and that they are trained once."""

import numpy as np
import pytest
import torch

from cran_bench.methods._stacks import LAYERS, SEGMENT, Stack, averaged, segments, standardise_, standardised
from cran_bench.running.fits import FitStore
from cran_bench.toolbox.linalg import deviations

STEPS = 300


@pytest.fixture
def store(tiny, tmp_path):
    return FitStore(tmp_path, {}, tiny.train, tiny.val, torch.device("cpu"))


def stack(side, hidden=(24,), steps=STEPS, features=None):
    is_seen = side in ("image", "region")
    features = features or ("none" if is_seen else "bow")
    return Stack(side, features, hidden, steps, lr_scale=20.0 if is_seen else 5.0, vocabulary=50, batch_size=20)


def test_images_are_standardised_and_texts_have_a_hundred_words(tiny, store):
    images = store.fitted(stack("image", steps=0), 0, "stack").part
    rows, owner = images._below(tiny.train)
    rows = rows[:]
    assert owner.tolist() == list(range(60))
    torch.testing.assert_close(rows.mean(dim=0), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.std(dim=0, correction=0), torch.ones(16), atol=1e-4, rtol=0)
    for features in ("bow", "tfidf"):
        texts = store.fitted(stack("text", steps=0, features=features), 0, "stack").part
        rows = texts._below(tiny.test)[0].toarray()
        np.testing.assert_allclose(rows.sum(axis=1), 100.0, rtol=1e-5)
        counts = getattr(tiny.test, features)(50).toarray()
        np.testing.assert_allclose(rows / 100, counts / counts.sum(axis=1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(
    ("side", "hidden"), [("image", (24, 12)), ("region", (24, 12)), ("text", (24,)), ("segment", (24,))]
)
def test_layers_learn_and_do_not_collapse(tiny, store, side, hidden):
    fit = store.fitted(stack(side, hidden), 0, "stack")
    assert list(fit.curves) == [f"{side} RBM {layer}" for layer in range(1, len(hidden) + 1)]
    for curve in fit.curves.values():
        assert curve[-1]["explained"] > max(0.02, curve[0]["explained"])
        assert curve[-1]["spread"] > 0.01
    codes = fit.part.codes(tiny.test)
    assert codes.shape == (len(tiny.test if fit.part.is_visual else tiny.test.texts), hidden[-1])
    assert float(codes.min()) >= 0 and float(codes.max()) <= 1 and float(codes.std(dim=0).mean()) > 0.01


def test_the_lower_layer_is_a_part_and_trained_once(tiny, store, tmp_path):
    below = store.fitted(stack("image"), 0, "stack")
    above = store.fitted(stack("image", (24, 12)), 0, "stack")
    assert below.fingerprint in above.costs and len(list(tmp_path.glob("stack-*.safetensors"))) == 2
    torch.testing.assert_close(above.part.lower.codes(tiny.test), below.part.codes(tiny.test), rtol=0, atol=0)


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_stack_comes_back_from_the_store(tiny, store, side):
    fitted, loaded = (store.fitted(stack(side, (24, 12)), 0, "stack") for _ in range(2))
    assert loaded.reused
    torch.testing.assert_close(loaded.part.codes(tiny.test), fitted.part.codes(tiny.test), rtol=0, atol=0)


def test_dead_dimensions_and_texts_without_a_word_do_no_harm(tiny, store):
    images = tiny.train.images
    try:
        tiny.train.images = torch.cat([images[:, :-1], torch.ones(len(images), 1)], dim=1)
        part = store.fitted(stack("image"), 3, "stack").part
        assert bool(torch.isfinite(part.codes(tiny.test)).all())
    finally:
        tiny.train.images = images
    for side in ("text", "segment"):
        part = store.fitted(stack(side), 0, "stack").part
        codes = part.codes(tiny.test.asking(["", "thing1 word2", "unheard of"]))
        mean = part.codes(tiny.train).mean(dim=0)
        torch.testing.assert_close(codes[[0, 2]], mean.expand(2, -1), atol=0.05, rtol=0)
        assert float((codes[1] - mean).abs().max()) > 0.05


def test_an_image_without_a_region_is_an_average_one(tiny, store):
    part = store.fitted(stack("region"), 0, "stack").part
    codes = part.codes(tiny.train)
    torch.testing.assert_close(codes[0], part.neutral, rtol=0, atol=0)
    torch.testing.assert_close(codes[0], codes[1:].mean(dim=0), atol=0.05, rtol=0)


def test_chains_grow():
    training = LAYERS["image"][1]
    assert [training.gibbs_steps(step) for step in (0, 14_999, 15_000, 19_999, 20_000)] == [1, 1, 2, 2, 3]


def test_without_steps_the_weights_are_as_drawn(tiny, store):
    part = store.fitted(stack("text", steps=0), 0, "stack").part
    assert not part.rbm.a.any() and not part.rbm.c.any()
    assert np.isclose(float(part.rbm.W.detach().std()), 0.01, rtol=0.1)


def test_codes_of_parts_are_averaged_by_their_owner():
    rows = torch.tensor([[1.0, 0], [3, 2], [5, 5]])
    for blocks in ([rows], [rows[:1], rows[1:]], [rows[:0], *rows[:, None]]):
        found = averaged(blocks, torch.tensor([0, 0, 2]), 4, torch.tensor([7.0, 8]))
        torch.testing.assert_close(found, torch.tensor([[2.0, 1], [7, 8], [5, 5], [7, 8]]))


def test_segments_of_texts():
    words = [f"w{k}" for k in range(SEGMENT + 2)]
    found, owner = segments([" ".join(words), "", "one two"])
    assert found == [" ".join(words[:SEGMENT]), " ".join(words[SEGMENT:]), "", "one two"] and owner == [0, 0, 1, 2]


def test_columns_are_standardised_and_those_that_do_not_vary_stay():
    rows = torch.tensor([[1.0, 7], [3, 7]])
    found, expected = deviations(rows.split(1)), torch.tensor([[-1.0, 0], [1, 0]])
    torch.testing.assert_close(standardised(rows, found), expected)
    torch.testing.assert_close(standardise_(rows, found), expected)
    assert rows.equal(expected)
