"""Methods on the features of a text encoder, against the same matrices given directly."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from cran_bench.frontend.text.encoding import TextFeatures
from cran_bench.methods.cca import CCA
from cran_bench.methods.cfa import CFA
from cran_bench.registry import METHODS
from cran_bench.running.fits import FitStore
from cran_bench.similarity import COSINE
from cran_bench.split import MissingFeature, Split

CPU = torch.device("cpu")
DIM = 7


@pytest.fixture(scope="module")
def encoded(tiny):
    """The splits of `tiny` with features of captions that tell their words, of any length."""
    collection = tiny.train._collection
    random = np.random.default_rng(0)
    of_words = {word: random.normal(size=DIM) for text in collection.captions for word in text.split()}
    rows = np.array([sum(of_words[word] for word in text.split()) for text in collection.captions], np.float32)
    texts = TextFeatures(Path("nowhere"), None, rows, np.arange(len(rows)))
    front_end = tiny.train._features, tiny.train._words, CPU
    splits = ("train", "val", "test")
    return SimpleNamespace(**{n: Split(n, "captions", collection, *front_end, encoded=texts) for n in splits})


def fitted(method, data, run_on):
    method.fit(data.train, data.val, run_on(data.val, COSINE))
    return method


def given(encoded, plain_split, text):
    """The same images, with the matrix of texts that a method with this option should see."""

    def plain(split):
        rows = normalize(split.text_features)
        if text == "encoder+tfidf":
            rows = torch.cat([rows, torch.from_numpy(split.tfidf(9).toarray())], dim=1)
        return plain_split(split.images, rows, split.image_of)

    return SimpleNamespace(**{name: plain(getattr(encoded, name)) for name in ("train", "val", "test")})


@pytest.mark.parametrize("text", ["encoder", "encoder+tfidf"])
@pytest.mark.parametrize("kind", [CCA, CFA])
def test_the_matrices_are_those_of_the_encoder(encoded, plain_split, run_on, kind, text):
    options = {"dim": (4, 6), "power": (1.0,)}
    plain = given(encoded, plain_split, text)
    method = fitted(kind(text=text, vocabulary=9, **options), encoded, run_on)
    expected = fitted(kind(text="vectors", **options), plain, run_on)
    assert method.choice == expected.choice
    torch.testing.assert_close(method.mean_y, expected.mean_y)
    torch.testing.assert_close(method.embed_texts(encoded.test), expected.embed_texts(plain.test), atol=1e-5, rtol=1e-4)
    assert method.text_dim(encoded.train) == len(method.mean_y)


@pytest.mark.parametrize("text", ["encoder", "encoder+tfidf"])
@pytest.mark.parametrize("spec", ["cca", "cfa", "kcca", "kcca[solver=nystrom,columns=40]", "dcca:quick"])
def test_each_method_learns_and_comes_back(encoded, tmp_path, spec, text):
    head, _, rest = spec.partition("[")
    method = METHODS.configure(f"{head}[{f'{rest[:-1]},' if rest else ''}text={text}]")
    store = FitStore(tmp_path, {}, encoded.train, encoded.val, CPU)
    first, second = (store.fitted(method.build(), 0, method.label) for _ in range(2))
    assert second.reused and first.part.memory(encoded.train) > encoded.train.text_rows.held
    images, texts = first.part.embed_images(encoded.test), first.part.embed_texts(encoded.test)
    assert torch.equal(second.part.embed_texts(encoded.test), texts)
    scores = COSINE.scores(images, texts)
    own = scores[encoded.test.image_of, torch.arange(len(encoded.test.texts))]
    assert own.mean() > scores.mean() + 0.2


def test_without_a_text_encoder_a_method_says_what_it_needs(tiny, tmp_path):
    store = FitStore(tmp_path, {}, tiny.train, tiny.val, CPU)
    with pytest.raises(MissingFeature, match="tiny has no text encoder here; give one with --text-encoder"):
        store.fitted(CCA(text="encoder"), 0, "cca")
