"""Data whose texts are features, with categories: what methods can read, what they choose by, and the last fit."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import cran_bench
from cran_bench import COSINE, Collection, FeatureFile, FeatureFiles, MissingFeature, register, register_dataset
from cran_bench.errors import BadInput
from cran_bench.records.tasks import CATEGORY, RECALL
from cran_bench.registry import DATASETS, METHODS
from cran_bench.running.fits import SharedFit
from cran_bench.running.preparation import find_prepared
from cran_bench.running.runner import Runner

CPU = torch.device("cpu")
SIZES = {"train": 30, "val": 12, "test": 18}


@dataclass
class Ridge:
    """Images mapped to texts by ridge regression; validation chooses the ridge."""

    ridge: tuple[float, ...] = (1e-3, 1.0, 1e3)

    similarity = COSINE
    refits = True

    def fit(self, train, val, run):
        best = -1.0
        X, Y = train.images.double(), train.text_features.double()
        for ridge in self.ridge:
            W = torch.linalg.solve(X.T @ X + ridge * torch.eye(X.shape[1]), X.T @ Y).float()
            criterion = run.score(val.images @ W, val.text_features).criterion
            if criterion > best:
                best, self.W = criterion, W
                run.chose(ridge=ridge, images=len(train))

    def embed_images(self, split):
        return split.images @ self.W

    def embed_texts(self, split):
        return split.text_features

    def state(self):
        return {"W": self.W}

    def load(self, state):
        self.W = state["W"]


@dataclass(frozen=True)
class Labelled:
    """Three noisy clusters of feature pairs, of 60 images and 60 texts."""

    refit: bool = False
    metric: str = "map"

    def load(self, data):
        random, n = np.random.default_rng(0), sum(SIZES.values())
        classes = np.arange(n) % 3
        latent = np.eye(3)[classes] + 0.5 * random.standard_normal((n, 3))
        images, texts = (latent @ random.standard_normal((3, d)) for d in (8, 5))
        np.save(data / "images.npy", images.astype(np.float32))
        ends = np.cumsum([0, *SIZES.values()])
        return Collection(
            name="labelled",
            images=FeatureFiles(
                [f"i{k}" for k in range(n)], [FeatureFile.open(data / "images.npy")], [(0, k) for k in range(n)]
            ),
            captions=[f"t{k}" for k in range(n)],
            image_of=np.arange(n),
            splits={name: np.arange(ends[k], ends[k + 1]) for k, name in enumerate(SIZES)},
            labels=np.eye(3, dtype=np.uint8)[classes],
            label_names=("red", "green", "blue"),
            text_features=texts,
            metric=self.metric,
            refit=self.refit,
        )

    def defaults(self):
        return {"backbone": "data", "regions": "none"}


@pytest.fixture
def data(tmp_path, plugins_of_its_own):
    register("ridge")(Ridge)
    register_dataset("labelled")(Labelled)

    def find(spec="labelled"):
        return find_prepared(DATASETS.configure(spec), tmp_path, tmp_path / "cache")

    return find


def run(data, methods, tmp_path, **options):
    return cran_bench.run(methods, data=tmp_path, cache=tmp_path / "cache", results=tmp_path / "results", **options)


def test_texts_are_the_features_of_the_data(data):
    split = data().split("test", "documents", CPU)
    assert not split.has_words and split.text_dim == 5 and split.text_features.dtype == torch.float32
    np.testing.assert_array_equal(split.text_features, data().collection.text_features[42:])
    np.testing.assert_array_equal(split.take(np.array([3, 1])).text_features, split.text_features[[3, 1]])
    assert split.labels.sum() == len(split) == len(split.texts) == 18


@pytest.mark.parametrize("read", ["chars", "bow", "tfidf", "mean_vectors", "word_counts", "token_vectors"])
def test_what_needs_words_says_that_there_are_none(data, read):
    with pytest.raises(MissingFeature, match="the texts of labelled are features: it has no words or characters"):
        getattr(data().split("test", "captions", CPU), read)()


def test_a_text_encoder_or_a_sentence_has_no_place(data, tmp_path, command):
    with pytest.raises(BadInput, match=r"the texts of labelled are features.*leave --text-encoder out"):
        run(data, "ridge", tmp_path, dataset="labelled", text_encoder="npy:none.npy")
    with pytest.raises(MissingFeature, match="features of its own texts only"):
        _ = data().split("test", "captions", CPU).asking(["a dog"]).text_features


def test_validation_maximises_the_metric_of_the_dataset_or_of_the_label(data, tmp_path):
    results = run(data, ["ridge", "ridge[metric=rsum]", "ridge[metric=map]"], tmp_path, dataset="labelled")
    assert not results.failures
    own, recall, precision = results.records
    assert [r.method.label for r in results.records] == ["ridge", "ridge[metric=rsum]", "ridge[metric=map]"]
    assert own.method.chose == precision.method.chose
    assert own.method.fit_fingerprint == precision.method.fit_fingerprint != recall.method.fit_fingerprint
    prepared = data()
    train, val = (prepared.split(name, "captions", CPU) for name in ("train", "val"))
    ridges, maps = Ridge().ridge, []
    for ridge in ridges:
        W = torch.linalg.solve(
            train.images.double().T @ train.images.double() + ridge * torch.eye(8),
            train.images.double().T @ train.text_features.double(),
        ).float()
        scores = torch.nn.functional.normalize(val.images @ W) @ torch.nn.functional.normalize(val.text_features).T
        same = val.labels.float() @ val.labels.float().T
        maps.append(
            np.mean(
                [
                    average_precision(s, r)
                    for x, y in ((scores, same), (scores.T, same))
                    for s, r in zip(x, y, strict=True)
                ]
            )
        )
    assert own.method.chose["ridge"] == ridges[int(np.argmax(maps))]


def average_precision(scores, relevant):
    hits = relevant[scores.argsort(descending=True)]
    return float((hits * hits.cumsum(0) / torch.arange(1, len(hits) + 1)).sum() / hits.sum())


def test_the_metric_map_needs_labels(data, tmp_path, quick_scenes):
    with pytest.raises(BadInput, match=r"metric is .maps.*map"):
        METHODS.configure("cca[metric=maps]")
    with pytest.raises(BadInput, match="it has no labels, which label_names and the metric map need"):
        replace(data().collection, labels=None)


def test_a_refit_uses_train_and_validation_with_the_chosen_fields(data, tmp_path):
    (once,) = run(data, "ridge", tmp_path, dataset="labelled").records
    (again,) = run(data, "ridge", tmp_path, dataset="labelled[refit=true]").records
    assert not once.method.refit and again.method.refit and once.method.chose == again.method.chose
    assert once.method.chose["images"] == 30 and once.fingerprint != again.fingerprint
    assert once.method.fit_fingerprint != again.method.fit_fingerprint
    prepared = data("labelled[refit=true]")
    fitted = Runner(prepared, tmp_path / "results", tmp_path / "cache", CPU).fitted(
        METHODS.configure("ridge"), 0, "captions"
    )
    X = torch.cat([prepared.split(name, "captions", CPU).images for name in ("train", "val")]).double()
    Y = torch.cat([prepared.split(name, "captions", CPU).text_features for name in ("train", "val")]).double()
    W = torch.linalg.solve(X.T @ X + once.method.chose["ridge"] * torch.eye(8), X.T @ Y)
    torch.testing.assert_close(fitted.W, W.float(), rtol=1e-4, atol=1e-5)


def test_records_have_the_figures_by_category(data, tmp_path):
    results = run(data, "ridge", tmp_path, dataset="labelled")
    (record,) = results.records
    (stored,) = results.store.runs()
    precisions = stored.ranks.precisions
    assert precisions.figures() == {name: record.metrics[name] for name in precisions.figures()}
    assert record.metrics["classes"] == 3 and precisions.labels.shape == (18, 3)
    split = data().split("test", "captions", CPU)
    np.testing.assert_array_equal(precisions.labels, split.labels)


def test_a_test_split_without_labels_has_recalls_only(data, tmp_path, monkeypatch, capsys):
    load = Labelled.load

    def without(self, folder):
        collection = load(self, folder)
        labels = collection.labels.copy()
        labels[collection.splits["test"]] = 0
        return replace(collection, labels=labels)

    monkeypatch.setattr(Labelled, "load", without)
    results = run(data, "ridge", tmp_path, dataset="labelled")
    (record,), (table,) = results.records, results.tables
    assert "map" not in record.metrics and record.metrics["rsum"] > 0
    assert table.task is RECALL and f"rsum {record.metrics['rsum']:.1f}" in capsys.readouterr().err


def test_the_dataset_of_the_test_says_what_is_shown(data, tmp_path, capsys):
    for shown, own, other in ((CATEGORY, "[metric=rsum]", ""), (RECALL, "", "[metric=rsum]")):
        results = run(data, "ridge", tmp_path, dataset=f"labelled{own}", test_on=f"labelled{other}")
        assert [table.task for table in results.tables] == [shown]
        assert ("mAP 0." in capsys.readouterr().err) == (shown is CATEGORY)


def test_a_refit_is_for_methods_that_declare_it(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Ridge, "refits", False)
    (record,) = run(data, "ridge", tmp_path, dataset="labelled[refit=true]").records
    assert not record.method.refit


@dataclass
class Scale:
    """A part that learns something of its own."""

    def fit(self, train, val, run):
        self.factor = train.images.std()

    def state(self):
        return {"factor": self.factor}

    def load(self, state):
        self.factor = state["factor"]


def test_a_method_with_parts_is_not_fitted_again(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Ridge, "parts", lambda self: [Scale()], raising=False)
    (record,) = run(data, "ridge", tmp_path, dataset="labelled[refit=true]").records
    assert not record.method.refit


def test_a_search_reads_words_as_the_last_fit_does(quick_scenes, tmp_path, command, monkeypatch):
    cca = "cca[dim=16,power=1,ridge_image=0.01,ridge_text=0.01]"
    load = DATASETS.get("scenes").cls.load
    monkeypatch.setattr(DATASETS.get("scenes").cls, "load", lambda *given: replace(load(*given), refit=True))
    prepared = find_prepared(DATASETS.configure(quick_scenes.spec), quick_scenes.data, quick_scenes.cache)
    runner = Runner(prepared, tmp_path / "results", quick_scenes.cache, CPU)
    method = METHODS.configure(cca)
    assert runner.data_of(method).text("captions").vocabulary != prepared.text("captions").vocabulary
    fitted, val = runner.fitted(method, 0, "captions"), runner.data_of(method).split("val", "captions", CPU)
    scores = COSINE.scores(fitted.embed_images(val), fitted.embed_texts(val.asking(["a red star"])))[:, 0]
    best = [val.image_ids[k] for k in scores.argsort(descending=True)[:3]]
    where = "--data", quick_scenes.data, "--cache", quick_scenes.cache
    said = command("search", "a red star", "-m", cca, "-d", quick_scenes.spec, "--split", "val", "-n", 3, *where)
    assert [name for name in re.findall(r"val-\w+", said.out)] == best


def test_a_process_that_helps_with_a_last_fit_has_its_data(data, tmp_path, monkeypatch):
    runner = Runner(data("labelled[refit=true]"), tmp_path / "results", tmp_path / "cache", CPU)
    for refit, images in ((True, 42), (False, 30)):
        seen = []
        monkeypatch.setattr(Ridge, "fit", lambda self, train, val, run, seen=seen: seen.append((len(train), len(val))))
        runner.help(SharedFit("captions", "map", refit, Ridge(), 0, "ridge"))
        assert seen == [(images, 12)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"text_features": np.zeros((60, 2))[:59]},
            "text_features is float64 of shape .59, 2.; give numbers, .60 texts",
        ),
        ({"text_features": np.full((60, 2), np.nan)}, "row 0 of text_features is not finite in float32"),
        ({"labels": np.full((60, 3), 2)}, "labels is int64 of shape .60, 3.; give zeros and ones"),
        ({"labels": np.zeros((60, 8001), int)}, "labels has 8,001 categories, and at most 8,000 are recorded"),
        ({"labels": np.zeros((59, 3), int)}, "labels has 59 rows for 60 images"),
        ({"label_names": ("red",)}, "label_names has 1 names for 3 categories"),
        ({"image_of": np.sort(np.arange(60) // 2 * 2)}, "one text per image"),
    ],
)
def test_wrong_features_and_labels_are_refused(data, change, sentence):
    with pytest.raises(BadInput, match=sentence):
        replace(data().collection, **change)


def test_labels_have_their_own_digest(data):
    prepared = data()
    permuted = replace(prepared.collection, labels=prepared.collection.labels[:, ::-1])
    assert permuted.labels_sha() != prepared.digests["labels_sha"] == prepared.collection.labels_sha()
    other = replace(prepared.collection, text_features=prepared.collection.text_features + 1)
    assert replace(prepared, collection=other).digests["extras_sha"] != prepared.digests["extras_sha"]
    assert replace(prepared, collection=permuted).digests["extras_sha"] == prepared.digests["extras_sha"]
    assert "features only" in prepared.collection.describe()
