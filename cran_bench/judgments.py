"""What people judged: answers that are right beside a caption's own image, and ratings of images with captions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cran_bench.errors import BadInput
from cran_bench.machine.storage import sha256_bytes

MOST_JUDGED = 1_000_000
_NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")


@dataclass(frozen=True)
class Qrels:
    """The right answers of some queries, in one direction.

    Attributes:
        query: (P,) int64, rows of queries in the collection: of images, or of captions.
        answer: (P,) int64, rows of right answers: of captions, or of images.
        grade: (P,) float64, how right an answer is, above 0; 1 where it is just right.

    The queries that are asked are those listed; all answers that are not listed are wrong.  Lists in place of arrays
    are converted.

    Raises:
        BadInput: the arrays differ in length, are empty, name a pair twice, or have a grade that is not above 0.
    """

    query: NDArray[np.int64]
    answer: NDArray[np.int64]
    grade: NDArray[np.float64]

    def __post_init__(self) -> None:
        _convert(self, ("query", "answer"), "grade")
        if not self.query.shape == self.answer.shape == self.grade.shape:
            sizes = f"{len(self.query):,}, {len(self.answer):,} and {len(self.grade):,}"
            raise BadInput(f"qrels have {sizes} queries, answers and grades: give one of each for a pair")
        if not 0 < len(self.query) <= MOST_JUDGED:
            raise BadInput(f"qrels have {len(self.query):,} pairs: give 1 to {MOST_JUDGED:,}")
        if not np.isfinite(self.grade).all() or self.grade.min() <= 0:
            raise BadInput(f"a grade of a right answer is {self.grade.min()}: give numbers above 0, and list no others")
        pairs = np.stack([self.query, self.answer])
        if pairs.min() < 0 or len(np.unique(pairs, axis=1).T) < len(self.query):
            raise BadInput("qrels name a pair twice, or a row below 0: give each pair once")

    def within(self, queries: NDArray[np.bool_], answers: NDArray[np.bool_]) -> Qrels | None:
        """Those with the queries (N,) and answers (T,), or the reverse, that are kept, of all rows; None if none is."""
        kept = queries[self.query] & answers[self.answer]
        return Qrels(self.query[kept], self.answer[kept], self.grade[kept]) if kept.any() else None


@dataclass(frozen=True)
class Relevance:
    """Right answers beyond a query's own, in either direction or both.

    Attributes:
        name: such as ``eccv``, ``cxc``, ``expert``: lower-case letters, digits and hyphens.
        i2t: the right captions of images, or None.
        t2i: the right images of captions, or None.
    """

    name: str
    i2t: Qrels | None
    t2i: Qrels | None

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.i2t is None and self.t2i is None:
            raise BadInput(f"the relevance '{self.name}' has no right answers: give those of images or of captions")

    def within(self, images: NDArray[np.bool_], captions: NDArray[np.bool_]) -> Relevance | None:
        """What is left with the images (N,) and captions (T,) that are kept, of all rows; None if nothing is."""
        i2t, t2i = self.i2t and self.i2t.within(images, captions), self.t2i and self.t2i.within(captions, images)
        return Relevance(self.name, i2t, t2i) if i2t or t2i else None


@dataclass(frozen=True)
class Judgments:
    """Ratings of J pairs of an image and a caption by R people, or by many, summed up as one.

    Attributes:
        name: such as ``expert`` or ``crowd``: lower-case letters, digits and hyphens.
        image: (J,) int64, rows of images in the collection.
        caption: (J,) int64, rows of captions.
        ratings: (J, R) float64, the higher, the better the caption describes the image.

    Lists in place of arrays are converted.

    Raises:
        BadInput: the arrays do not fit together, or a rating is not finite.
    """

    name: str
    image: NDArray[np.int64]
    caption: NDArray[np.int64]
    ratings: NDArray[np.float64]

    def __post_init__(self) -> None:
        _check_name(self.name)
        _convert(self, ("image", "caption"), "ratings")
        count = len(self.image)
        shape = self.ratings.shape
        if len(self.caption) != count or len(shape) != 2 or shape[0] != count or not shape[1]:
            raise BadInput(f"{self.name}: {count:,} images need as many captions, and (images, people) ratings")
        if not 0 < self.ratings.size <= MOST_JUDGED:
            raise BadInput(f"{self.name} has {self.ratings.size:,} ratings: give 1 to {MOST_JUDGED:,}")
        if not np.isfinite(self.ratings).all():
            raise BadInput(f"{self.name}: a rating is not finite; correct it or leave the pair out")

    def within(self, images: NDArray[np.bool_], captions: NDArray[np.bool_]) -> Judgments | None:
        """What is left with the images (N,) and captions (T,) that are kept, of all rows; None if nothing is."""
        kept = images[self.image] & captions[self.caption]
        rows = self.image[kept], self.caption[kept], self.ratings[kept]
        return Judgments(self.name, *rows) if kept.any() else None


def judgments_sha(*parts: Relevance | Judgments) -> str:
    """Return the sha256 of what people judged; '' without anything."""
    text = b""
    for part in parts:
        if isinstance(part, Relevance):
            some = {"i2t": part.i2t, "t2i": part.t2i}
            fields = {f"{way} {key}": x for way, of in some.items() if of for key, x in vars(of).items()}
        else:
            fields = {key: x for key, x in vars(part).items() if key != "name"}
        for key, values in fields.items():
            text += f"\0{type(part).__name__} {part.name} {key} {values.shape}\0".encode()
            text += np.ascontiguousarray(values).tobytes()
    return sha256_bytes(text) if text else ""


def _convert(part: Qrels | Judgments, rows: Sequence[str], numbers: str) -> None:
    """Make arrays of the fields that hold rows and of the one that holds numbers."""
    for name in rows:
        given = np.asarray(getattr(part, name))
        if given.ndim != 1 or (len(given) and given.dtype.kind not in "iu"):
            found = f"{given.dtype.name} of shape {given.shape}"
            raise BadInput(f"{name} of judgments is {found}: give a one-dimensional array of integers")
        object.__setattr__(part, name, given.astype(np.int64, copy=False))
    try:
        values = np.asarray(getattr(part, numbers), dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput(f"the {numbers} of judgments are not all numbers: give one for each pair and person") from None
    object.__setattr__(part, numbers, values)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadInput(f"judgments are named '{name}': use up to 24 lower-case letters, digits and hyphens")
