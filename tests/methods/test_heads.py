"""Heads on frozen features: what they read, their batches, and their standardised inputs."""

import numpy as np
import pytest
import torch

from cran_bench.errors import BadInput
from cran_bench.frontend.feature_rows import FeatureRows
from cran_bench.methods import _heads
from cran_bench.methods.linear_head import LinearHead
from cran_bench.methods.pcmepp import PCMEPP
from cran_bench.registry import METHODS
from cran_bench.similarity import COSINE
from cran_bench.toolbox.training import Training


def encoded(plain_split, images, texts, image_of=None):
    """A split with `texts` as the output of a text encoder, and their negatives as mean word vectors."""
    split = plain_split(images, texts, image_of)
    split.image_dim, split.text_dim, split.vector_shape = images.shape[1], texts.shape[1], (9, texts.shape[1])
    split.text_features = torch.as_tensor(texts)
    split.text_rows = FeatureRows(tuple(texts.shape), 0, split.text_features.__getitem__)
    split.vectors = -split.text_features
    return split


def trained(method, train, val, run):
    run.progress = lambda items, label, total, done=0: iter(items)
    run.log, run.checkpoint, run.resume = lambda **values: None, lambda state, at="": None, lambda: None
    method.fit(train, val, run)
    return method


@pytest.fixture
def planted(plain_split, run_on):
    """Train and val of a linear model with five shared dimensions, and a run; each image has two texts."""
    random = np.random.default_rng(0)
    A, B = random.normal(size=(5, 12)), random.normal(size=(5, 9))

    def split(n):
        z, owner = random.normal(size=(n, 5)), np.repeat(np.arange(n), 2)
        images = 3 + z @ A + 0.1 * random.normal(size=(n, 12))
        texts = z[owner] @ B + 0.1 * random.normal(size=(2 * n, 9))
        return encoded(plain_split, images.astype(np.float32), texts.astype(np.float32), owner)

    train, val = split(200), split(60)
    return train, val, run_on(val, COSINE)


@pytest.fixture
def training_of(tiny, run_on, monkeypatch):
    """``training_of(method)``: the training that a fit on `tiny` would run."""
    caught = []

    class Caught(Training):
        def run(self, run):
            caught.append(self)

    monkeypatch.setattr(_heads, "Training", Caught)

    def call(method):
        method.fit(tiny.train, tiny.val, run_on(tiny.val, COSINE))
        return caught[-1]

    return call


def test_a_batch_holds_an_image_once_with_a_text_of_its_own(tiny, training_of):
    training = training_of(LinearHead(text="tfidf", batch_size=25, dim=4))
    owner, n = tiny.train.image_of, len(tiny.train)
    epochs = [list(training.batches(epoch, torch.Generator().manual_seed(epoch))) for epoch in range(1, 40)]
    passes = round(len(owner) / n)
    assert {len(epoch) for epoch in epochs} == {training.steps} == {passes * 3} and passes > 1
    for images, texts in epochs[0]:
        assert len(set(images.tolist())) == len(images) and torch.equal(owner[texts], images)
    assert torch.bincount(torch.cat([images for images, _ in epochs[0]])).tolist() == [passes] * n
    drawn = torch.bincount(torch.cat([texts for epoch in epochs for _, texts in epoch]), minlength=len(owner))
    expected = 39 * passes / torch.bincount(owner)[owner]
    assert drawn.min() > 0 and ((drawn - expected).abs() < 5 * expected.sqrt()).all()


@pytest.mark.parametrize("text", ["tfidf", "vectors"])
def test_inputs_are_standardised_by_the_training_data(tiny, training_of, text):
    method = LinearHead(text=text, image="l2", dim=4)
    training_of(method)
    seen = tiny.train.images.numpy()
    rows = tiny.train.tfidf(3000).toarray() if text == "tfidf" else tiny.train.mean_vectors().numpy()
    for side, given in (("image", seen / np.linalg.norm(seen, axis=1, keepdims=True)), ("text", rows)):
        mean, deviation = method.heads.get_buffer(f"{side}_moments").numpy()
        np.testing.assert_allclose(mean, given.mean(axis=0), atol=1e-6)
        own = given.std(axis=0)
        common = np.full_like(own, np.sqrt(np.square(own).mean()))  # of all words of tf-idf
        np.testing.assert_allclose(deviation, common if (side, text) == ("text", "tfidf") else own, rtol=1e-4)
    layer = method.heads.layers["text"][1]
    of_numpy = (rows - mean) / deviation @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    np.testing.assert_allclose(method.embed_texts(tiny.train).numpy(), of_numpy, atol=1e-4)


@pytest.mark.parametrize(("text", "read"), [("auto", "encoder"), ("encoder", "encoder"), ("vectors", "vectors")])
def test_the_text_encoder_is_read_if_there_is_one(planted, text, read):
    train, val, run = planted
    trained(LinearHead(text=text, dim=3, epochs=1), train, val, run)
    assert run.choices["text"] == read
    whole = LinearHead(text=text).text_rows(train)[:4]
    torch.testing.assert_close(whole, train.text_features[:4] * (1 if read == "encoder" else -1))


def test_without_a_text_encoder_it_is_tfidf(planted):
    planted[0].text_dim = 0
    assert LinearHead().text_kind(planted[0]) == "tfidf"


@pytest.mark.parametrize("hidden", [0, 16])
@pytest.mark.parametrize("method", [LinearHead, PCMEPP])
def test_shared_dimensions_are_found(planted, method, hidden):
    train, val, run = planted
    run.similarity = method.similarity
    options = {"image": "none", "dim": 8, "dropout": 0.0, "batch_size": 50, "epochs": 15, "patience": 0, "lr": 1e-2}
    options |= {"scale": 5.0, "shift": 5.0} if method is PCMEPP else {}  # for eight dimensions
    fitted = trained(method(hidden=hidden, **options), train, val, run)
    assert run.score(fitted.embed_images(val), fitted.embed_texts(val)).rsum > 500  # chance is 53
    assert fitted.memory(train) > 0


@pytest.mark.parametrize("name", ["linear-head", "pcmepp"])
def test_a_fit_comes_back_from_the_store(comes_back, name):
    fitted = comes_back(f"{name}[text=tfidf,dim=8,epochs=2,batch_size=20]")
    assert fitted.chose["text"] == "tfidf"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("linear-head[batch_size=1]", "batch_size is at least 2, not 1"),
        ("linear-head[dropout=1]", "dropout is at least 0 and below 1, not 1"),
        ("linear-head[temperature=0.001]", "temperature is at least 0.01, not 0.001"),
        ("linear-head[text=encodr]", "encoder"),
        ("pcmepp[hidden=-1]", "hidden is at least 0, not -1"),
        ("pcmepp[alpha=-0.5]", "alpha is at least 0, not -0.5"),
    ],
)
def test_fields_out_of_range(spec, message):
    with pytest.raises(BadInput, match=message):
        METHODS.configure(spec)
