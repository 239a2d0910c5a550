"""Categories that stand in for labels: what they are, what they are fitted on, and what cannot be had."""

import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer

from cran_bench.dataset import Collection
from cran_bench.errors import BadInput
from cran_bench.frontend.features import Features
from cran_bench.frontend.labels import fit_source
from cran_bench.frontend.regions.coco import CLASSES
from cran_bench.frontend.text.words import tokenize
from cran_bench.machine.fingerprint import code
from cran_bench.registry import DATASETS
from cran_bench.running import preparation
from cran_bench.running.fits.store import ASKED, LENT
from cran_bench.running.preparation import find_prepared
from cran_bench.split import MissingFeature, Split

CPU = torch.device("cpu")
NAMES = ("train", "val", "test")


def splits_of(collection, features, **options):
    return {name: Split(name, "captions", collection, features, None, CPU, **options) for name in NAMES}


def of(collection, images, **fields):
    """A collection of given lists of captions, the last two images of which are for validation and test."""
    captions, n = [text for texts in images for text in texts], len(images)
    splits = {"train": np.arange(n - 2), "val": np.array([n - 2]), "test": np.array([n - 1])}
    owners = np.repeat(np.arange(n), [len(texts) for texts in images])
    source = replace_ids(collection.images, n)
    return Collection("made", source, captions, owners, splits, **fields)


def replace_ids(images, count):
    return type("Few", (type(images),), {"ids": tuple(f"i{k}" for k in range(count))})()


def documents(collection, name):
    return collection.texts_of(collection.splits[name], "documents")[0]


# clusters -------------------------------------------------------------------------------------------------------


def test_clusters_are_those_of_k_means_on_tfidf(tiny):
    """With all dimensions kept the decomposition is a rotation, which changes no distance."""
    data = tiny.train._collection
    vectorizer = TfidfVectorizer(analyzer=tokenize).fit(documents(data, "train"))
    kmeans = KMeans(4, n_init=10, random_state=0).fit(vectorizer.transform(documents(data, "train")).toarray())
    splits = splits_of(data, tiny.train._features)
    for name, split in splits.items():
        rows = vectorizer.transform(documents(data, name)).toarray()
        nearest = np.linalg.norm(rows[:, None] - kmeans.cluster_centers_, axis=2).argmin(axis=1)
        labels = split.categories("clusters:4")
        assert labels.dtype == torch.uint8
        np.testing.assert_array_equal(labels, np.eye(4, dtype=np.uint8)[nearest])


def test_a_document_without_a_known_word_has_no_cluster(tiny):
    images = [["red dog"], ["red dog runs"], ["blue cat"], ["blue cat sits"], ["zebra"], ["blue cat"]]
    splits = splits_of(of(tiny.train._collection, images), None)
    labels = {name: split.categories("clusters:2").tolist() for name, split in splits.items()}
    dogs, _, cats, _ = labels["train"]
    assert labels["train"] == [dogs, dogs, cats, cats] and dogs != cats
    assert labels["val"] == [[0, 0]]
    assert labels["test"] == [cats]
    assert (
        splits_of(of(tiny.train._collection, images), None)["train"].categories("clusters:4").sum(0).tolist() == [1] * 4
    )


# keywords -------------------------------------------------------------------------------------------------------


def test_keywords_are_the_nouns_of_most_images(tiny):
    images = [
        ["A dog jumps over a log .", "The dog 's ball is red .", "dogs"],
        ["A cat does two jumps .", "A cat and a dog , a dog and a cat"],
        ["A t shirt", "a log"],
        ["A cat", "the bird jumps"],
        ["A dog"],
    ]
    collection = of(tiny.train._collection, images)
    split = splits_of(collection, None)["train"]
    # dog and cat: two images; ball, dogs, jumps, log, shirt: one, `log` in images 0 and 2; `t` is no word
    assert fit_source(collection, "keywords", 4).names == ["dog", "log", "ball", "cat"]
    assert split.categories("keywords:4").tolist() == [[1, 1, 1, 0], [1, 0, 0, 1], [0, 1, 0, 0]]
    assert sorted(fit_source(collection, "keywords", 7).names) == [
        "ball",
        "cat",
        "dog",
        "dogs",
        "jumps",
        "log",
        "shirt",
    ]
    assert splits_of(of(tiny.train._collection, images), None)["val"].categories("keywords:4").tolist() == [
        [0, 0, 0, 1]
    ]
    with pytest.raises(BadInput, match=r"keywords:8 asks for more words than the 7 nouns"):
        split.categories("keywords:8")


# both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["clusters:5", "keywords:6"])
def test_labels_are_deterministic_and_know_training_texts_only(tiny, source):
    data = tiny.train._collection
    train = splits_of(data, None)["train"]
    labels = train.categories(source)
    torch.testing.assert_close(splits_of(data, None)["train"].categories(source), labels, rtol=0, atol=0)
    rows = data.splits["train"]
    is_train = np.isin(data.image_of, rows)
    other = [text if mine else "quite another zebra" for text, mine in zip(data.captions, is_train, strict=True)]
    torch.testing.assert_close(
        splits_of(replace(data, captions=other), None)["train"].categories(source), labels, rtol=0, atol=0
    )
    some = np.array([7, 2, 30])
    torch.testing.assert_close(train.take(some).categories(source), labels[some], rtol=0, atol=0)
    torch.testing.assert_close(train.asking(["a dog"]).categories(source), labels, rtol=0, atol=0)


def test_prepared_data_fits_a_source_once(quick_scenes, tmp_path, monkeypatch):
    counted = Counter()

    def fit(collection, kind, count):
        counted[kind, count] += 1
        return fit_source(collection, kind, count)

    monkeypatch.setattr(preparation, "fit_source", fit)
    own = find_prepared(DATASETS.configure(quick_scenes.spec), quick_scenes.data, quick_scenes.cache)
    for name in NAMES:
        for unit in ("captions", "documents"):
            assert own.split(name, unit, CPU).categories("clusters:3").sum() == len(own.split(name, unit, CPU))
    assert counted == {("clusters", 3): 1}
    other = replace(own, collection=replace(own.collection, captions=["a kite"] * len(own.collection.captions)))
    test = replace(own, test_on=other).split("test", "captions", CPU)
    assert test.texts[0] == "a kite" and not test.categories("keywords:5").any()
    assert own.split("test", "captions", CPU).categories("keywords:5").any()
    with_val = own.with_val_in_train
    assert len(with_val.split("train", "captions", CPU).categories("clusters:3")) > len(
        own.split("train", "captions", CPU)
    )
    assert counted["clusters", 3] == 2  # the last fit knows validation too


# detected -------------------------------------------------------------------------------------------------------


@pytest.fixture
def seen():
    """Features of six images with two regions each."""
    rows = np.zeros((6, 3), np.float32)
    classes = np.array([[0, 16], [16, 16], [0, -1], [79, 2], [-1, -1], [5, 5]], np.int16)
    scores = np.array([[0.9, 0.5], [0.41, 0.4], [0.4, 0.9], [0.8, 0.7], [0.9, 0.9], [0.1, 0.2]], np.float32)
    mask = np.array([[1, 1], [1, 1], [1, 1], [1, 0], [1, 1], [1, 1]], bool)
    boxes = np.tile(np.float32([0, 0, 1, 1]), (6, 2, 1))
    return Features(Path(), {}, rows, np.zeros((6, 2, 3), np.float32), boxes, scores, mask, classes)


def test_detected_are_the_classes_of_confident_regions(tiny, seen):
    split = splits_of(of(tiny.train._collection, [["a"]] * 6), seen)["train"]
    labels, names = split.categories("detected"), CLASSES
    assert labels.shape == (4, 80) and labels.dtype == torch.uint8
    assert [[names[k] for k in np.flatnonzero(row)] for row in labels] == [
        ["person", "dog"],
        ["dog"],
        [],
        ["toothbrush"],
    ]


def test_classes_do_not_change_the_fingerprint_of_features(seen):
    arrays = {name: {"shape": [6, 2], "dtype": "float32"} for name in ("globals", "scores")}
    keys = ("schema", "images_sha", "ids_sha", "backbone", "proposer", "failed")
    before = replace(seen, manifest={**dict.fromkeys(keys, 1), "arrays": arrays}, classes=None)
    after = replace(seen, manifest={**dict.fromkeys(keys, 1), "arrays": {**arrays, "classes": {"shape": [6, 2]}}})
    assert before.fingerprint() == after.fingerprint()
    changed = {**arrays, "scores": {"shape": [6, 2], "dtype": "float16"}}
    assert replace(after, manifest={**after.manifest, "arrays": changed}).fingerprint() != before.fingerprint()


# what cannot be had ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("cluster:20", "there is no label source 'cluster:20'; did you mean 'clusters'"),
        ("Given", "there is no label source 'Given'; did you mean 'given'"),
        ("", "there is no label source ''"),
        ("clusters", "'clusters' needs a number of categories from 2 on; write clusters:20"),
        ("clusters:", "from 2 on; write clusters:20"),
        ("clusters:1", "from 2 on"),
        ("clusters:-3", "from 2 on"),
        ("clusters:2.5", "from 2 on"),
        ("keywords:many", "write keywords:300"),
        ("keywords:" + "9" * 5000, "write keywords:300"),
        ("detected:5", "'detected' takes nothing after a colon, not '5'; write detected"),
        ("given:", "takes nothing after a colon"),
        ("clusters:60", "more clusters than the 59 different training documents"),
        ("keywords:500", "nouns of the training texts"),
    ],
)
def test_wrong_sources(tiny, source, told):
    with pytest.raises(BadInput, match=told):
        tiny.train.categories(source)


def test_what_is_missing_is_told_with_what_would_do(tiny, seen):
    def sentence(split, source="given"):
        with pytest.raises(MissingFeature) as error:
            split.categories(source)
        return str(error.value)

    data = of(tiny.train._collection, [[word] for word in "abcdef"])
    plain, detected = splits_of(data, replace(seen, classes=None))["train"], splits_of(data, seen)["train"]
    assert sentence(plain) == "made has no category labels; say labels=clusters:20 or labels=keywords:300"
    end = "say labels=clusters:20, labels=keywords:300 or labels=detected"
    assert sentence(detected) == f"made has no category labels; {end}"
    without = sentence(plain, "detected")
    assert without.startswith("made was prepared without the classes of a detector; prepare it again with --force and")
    assert without.endswith(", or say labels=clusters:20 or labels=keywords:300")
    numbers = of(tiny.train._collection, [[word] for word in "abcdef"], text_features=np.ones((6, 2), np.float32))
    labelled = replace(numbers, labels=np.eye(6, dtype=np.uint8), label_names=tuple("uvwxyz"))
    assert sentence(splits_of(numbers, replace(seen, classes=None))["train"]) == "made has no category labels"
    for source in ("clusters:20", "keywords:300"):
        told = sentence(splits_of(labelled, seen)["train"], source)
        assert told == f"made has no words, which labels={source} needs; say labels=given or labels=detected"
    assert splits_of(labelled, seen)["train"].categories().tolist() == np.eye(6)[:4].tolist()


# fingerprints ---------------------------------------------------------------------------------------------------


@dataclass
class Learner:
    labels: str

    def fit(self, train, val, run):
        self.found = train.categories(self.labels)


@dataclass
class Other:
    def fit(self, train, val, run):
        self.found = train.images


def test_the_fingerprint_of_a_fit_covers_the_code_of_the_sources(tiny, seen):
    known = {(symbol.module, symbol.name) for symbol in code(Learner, *LENT, asked=ASKED).symbols}
    ran = set()

    def note(frame, event, _):
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith(("cran_bench.frontend", "cran_bench.split", "cran_bench.dataset")):
            ran.add((module, frame.f_code.co_qualname.partition(".<locals>")[0]))

    data = of(tiny.train._collection, [["a dog runs"], ["a boy sits"], ["a girl"], ["boys run"], ["dogs"], ["a cat"]])
    split = splits_of(data, seen)["train"]
    sys.setprofile(note)
    try:
        for source in ("clusters:2", "keywords:3", "detected"):
            Learner(source).fit(split, None, None)
    finally:
        sys.setprofile(None)
    named = {(module, name) for module, name in ran - known if not name.startswith("<")}
    assert {name for _, name in named if not name.endswith(("<lambda>", "__create_fn__"))} == set()
    assert len(ran & known) > 20
    others = {symbol.module for symbol in code(Other, *LENT, asked=ASKED).symbols}
    assert not [module for module in others if module.endswith(("frontend.labels", "tagging", "english", "coco"))]
