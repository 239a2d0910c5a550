"""Methods on the features of a text encoder, against the same matrices given directly."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from cran_bench.frontend.features import Features
from cran_bench.frontend.text.encoding import Documents, TextFeatures
from cran_bench.methods._stacks import Stack
from cran_bench.methods.cca import CCA
from cran_bench.methods.ccl import CCL
from cran_bench.methods.cfa import CFA
from cran_bench.methods.corr_ae import CorrAE
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
            rows = torch.cat([rows, torch.from_numpy(split.tfidf(9, True).toarray())], dim=1)
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


@pytest.mark.parametrize("hidden", [(12,), (12, 8)])
def test_a_stack_models_them_as_it_models_images(encoded, tmp_path, hidden):
    collection, texts = encoded.train._collection, encoded.train._encoded
    both = Features(Path(), {}, globals=np.float32(Documents(texts, collection.image_of)[np.arange(100)]))
    words = encoded.train._words
    train, val, test = (
        Split(name, "documents", collection, both, words, CPU, encoded=texts) for name in ("train", "val", "test")
    )
    store = FitStore(tmp_path, {}, train, val, CPU)
    given = {"steps": 100, "lr_scale": 50.0, "batch_size": 20}
    fitted, loaded = (store.fitted(Stack("text", "encoder", hidden, **given), 0, "stack") for _ in range(2))
    codes = fitted.part.codes(test)
    assert loaded.reused and torch.equal(loaded.part.codes(test), codes)
    lower, images = (
        fitted.part.lower or fitted.part,
        store.fitted(Stack("image", "l2", hidden[:1], **given), 0, "stack"),
    )
    torch.testing.assert_close(lower.codes(test), images.part.codes(test))
    assert float(lower.codes(test).std(dim=0).mean()) > 0.01
    assert fitted.part.memory(train) > train.text_rows.held


DEEP = "hidden_image=8,hidden_text=8,vocabulary=50,rbm_steps=3,units=8,steps=3"
CCL_TOO = "autoencoder_steps=3,code_units=8,joint_units=8,joint_steps=3"


@pytest.mark.parametrize("spec", ["corr-ae", "bimodal-ae", "multimodal-dbn", f"ccl[{CCL_TOO}]"])
def test_deep_rows_read_them(encoded, tiny, tmp_path, spec):
    name, _, options = spec.strip("]").partition("[")
    store, fits = FitStore(tmp_path, {}, encoded.train, encoded.val, CPU), {}
    for text in ("encoder", "tfidf"):
        method = METHODS.configure(f"{name}[{DEEP},text={text}{',' if options else ''}{options}]")
        fits[text] = store.fitted(method.build(), 0, method.label).part
    texts = [fit.embed_texts(encoded.test) for fit in fits.values()]
    assert torch.isfinite(texts[0]).all() and not torch.equal(*texts)
    with pytest.raises(MissingFeature, match="tiny has no text encoder here; give one with --text-encoder"):
        fits["encoder"].embed_texts(tiny.test)


def test_ccl_gives_segments_as_tfidf_and_a_text_encoder_reads_no_parts():
    coarse, fine = (stage.text for stage in CCL(text="encoder").input_encoder().autoencoders)
    assert [coarse, fine] == ["encoder", "tfidf"]
    with pytest.raises(ValueError, match="a text encoder reads whole texts: give text=tfidf or text=bow"):
        CorrAE(text="encoder", granularity="parts")
