"""Categories for data without category labels: clusters and words of the texts, or classes of detected objects.

``clusters:20`` are the clusters of a k-means of the training documents' tf-idf, reduced to 100 dimensions by a singular
value decomposition, with rows of unit length; an image belongs to the cluster whose centre is nearest to its document.
``keywords:300`` are the 300 nouns that stand in the captions of most training images.  ``detected`` are the classes
of the regions that an object detector is confident of.  What is fitted is fitted on training texts only.

The first two are functions of the texts, so retrieval by these categories does not test whether a method understands
texts: methods may learn from them, but no result is computed with them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cran_bench.dataset import Collection
from cran_bench.errors import BadInput, did_you_mean
from cran_bench.frontend.features import Features
from cran_bench.frontend.interfaces import NO_CLASS
from cran_bench.frontend.regions.coco import CLASSES
from cran_bench.frontend.text.tagging import tag, words_of
from cran_bench.frontend.text.words import TextFrontEnd
from cran_bench.machine.progress import say

SOURCES = {"given": "given", "clusters": "clusters:20", "keywords": "keywords:300", "detected": "detected"}
"""The kinds of sources, each with a usual one."""
DIMS = 100
CONFIDENT = 0.4
"""Detections count above this score."""
SEED = 0
MANY = 50_000  # captions that take longer than two seconds

Labels = NDArray[np.uint8]


def label_source(text: str) -> tuple[str, int]:
    """Split the name of a label source into its kind and its number of categories: ``clusters:20``; 0 without one.

    Raises:
        BadInput: there is no such source, or it needs a number of at least 2 and has another or none.
    """
    kind, colon, number = text.partition(":")
    if kind not in SOURCES:
        raise BadInput(f"there is no label source '{text}'{did_you_mean(kind, SOURCES)}")
    if ":" not in SOURCES[kind]:
        if colon:
            raise BadInput(f"the label source '{kind}' takes nothing after a colon, not '{number}'; write {kind}")
        return kind, 0
    if not re.fullmatch(r"[0-9]{1,6}", number) or int(number) < 2:
        raise BadInput(f"the label source '{text}' needs a number of categories from 2 on; write {SOURCES[kind]}")
    return kind, int(number)


@dataclass(frozen=True)
class Clusters:
    """The clusters of training documents; a document without any word of theirs belongs to none.

    Attributes:
        words: the vocabulary and idf of the training documents.
        svd: scikit-learn's decomposition of their tf-idf.
        kmeans: scikit-learn's clusters of the reduced rows.
    """

    words: TextFrontEnd
    svd: Any
    kmeans: Any

    @classmethod
    def fit(cls, texts: Sequence[str], count: int) -> Clusters:
        """Find `count` clusters of documents."""
        from sklearn.cluster import KMeans  # type: ignore[import-untyped]
        from sklearn.decomposition import TruncatedSVD  # type: ignore[import-untyped]

        words = TextFrontEnd.fit(texts)
        matrix = words.tfidf(texts).astype(np.float64)
        matrix = matrix[np.diff(matrix.indptr) > 0]
        ends = pairwise(matrix.indptr.tolist())
        different = len({(matrix.indices[a:b].tobytes(), matrix.data[a:b].tobytes()) for a, b in ends})
        if count > different:
            raise BadInput(
                f"labels=clusters:{count} asks for more clusters than the {different} different training documents; "
                "ask for fewer"
            )
        svd = TruncatedSVD(min(DIMS, *matrix.shape), random_state=SEED).fit(matrix)
        reduced = _unit(svd.transform(matrix))
        say(f"finding {count} clusters of {len(reduced):,} training documents")
        kmeans = KMeans(count, n_init=10, random_state=SEED).fit(reduced)
        return cls(words, svd, kmeans)

    def labels(self, collection: Collection, rows: NDArray[np.int64]) -> Labels:
        matrix = self.words.tfidf(collection.texts_of(rows, "documents")[0]).astype(np.float64)
        labels = np.zeros((len(rows), self.kmeans.n_clusters), np.uint8)
        known = np.flatnonzero(np.diff(matrix.indptr))
        if len(known):
            labels[known, self.kmeans.predict(_unit(self.svd.transform(matrix[known])))] = 1
        return labels


@dataclass(frozen=True)
class Keywords:
    """The most frequent nouns of training captions; an image has all those that its captions use as nouns."""

    names: Sequence[str]

    @classmethod
    def fit(cls, collection: Collection, rows: NDArray[np.int64], count: int) -> Keywords:
        """Find the `count` nouns of the captions of most images; of equally frequent ones the first in the alphabet."""
        frequency = Counter(noun for nouns in _nouns(collection, rows) for noun in nouns)
        if count > len(frequency):
            raise BadInput(
                f"labels=keywords:{count} asks for more words than the {len(frequency)} nouns of the training texts; "
                "ask for fewer"
            )
        return cls(sorted(frequency, key=lambda noun: (-frequency[noun], noun))[:count])

    def labels(self, collection: Collection, rows: NDArray[np.int64]) -> Labels:
        place = {name: column for column, name in enumerate(self.names)}
        labels = np.zeros((len(rows), len(place)), np.uint8)
        for row, nouns in enumerate(_nouns(collection, rows)):
            labels[row, [place[noun] for noun in nouns if noun in place]] = 1
        return labels


LabelSource = Clusters | Keywords


def fit_source(collection: Collection, kind: str, count: int) -> LabelSource:
    """Find `count` clusters or keywords of the training texts of a collection.

    Raises:
        BadInput: there are not as many different documents, or nouns in them.
    """
    rows = collection.splits["train"]
    if kind == "keywords":
        return Keywords.fit(collection, rows, count)
    return Clusters.fit(collection.texts_of(rows, "documents")[0], count)


def detected_labels(features: Features, rows: NDArray[np.int64]) -> Labels:
    """Return the MS-COCO classes of the regions of the images `rows` (n,): (n, 80), zeros and ones."""
    assert features.classes is not None and features.scores is not None and features.mask is not None
    classes, labels = features.classes[rows], np.zeros((len(rows), len(CLASSES)), np.uint8)
    image, region = np.nonzero(features.mask[rows] & (features.scores[rows] > CONFIDENT) & (classes != NO_CLASS))
    labels[image, classes[image, region]] = 1
    return labels


def _nouns(collection: Collection, rows: NDArray[np.int64]) -> list[set[str]]:
    """The nouns of at least two letters in the captions of each image."""
    texts, owners = collection.captions_of(rows)
    nouns: list[set[str]] = [set() for _ in rows]
    if len(texts) > MANY:
        say(f"looking for the nouns of {len(texts):,} captions")
    for text, image in zip(texts, owners.tolist(), strict=True):
        words = words_of(text)
        found = (word.removesuffix("'s") for word, kind in zip(words, tag(words), strict=True) if kind == "noun")
        nouns[image].update(noun for noun in found if len(noun) > 1)
    return nouns


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, np.finfo(np.float64).tiny))
