"""Recall@K and ranks from three integers per query.

For each query we store how many wrong candidates score better than the best right one, how many wrong candidates tie
with it, and how many right candidates tie with it (itself included).  Ties are resolved in expectation over random
order, so a constant scorer gets chance level and the order of candidates in memory does not matter.

Recall@K is, as usual in image-text retrieval, the share of queries with a right answer among the first K (a hit rate).
MedR is the plain median of ranks counted from 1; vsepp and SCAN print floor(median of zero-based ranks) + 1, which is
half a rank lower where the median falls between two ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cran_bench.ranking.precisions import Precisions

if TYPE_CHECKING:
    from cran_bench.ranking.problem import KernelInfo

KS = (1, 5, 10)
FEW_IMAGES = 50  # a test split with fewer is said to be small

Direction = Literal["i2t", "t2i"]


@dataclass(frozen=True)
class Counts:
    """The ranks of Q queries in one direction.

    Attributes:
        better: (Q,) int32, wrong candidates strictly better than the best right one.
        tied: (Q,) int32, wrong candidates tied with the best right one.
        right: (Q,) int32, right candidates tied with the best right one, itself included.
    """

    better: NDArray[np.int32]
    tied: NDArray[np.int32]
    right: NDArray[np.int32]

    def hits(self, k: int) -> NDArray[np.float64]:
        """(Q,) probability of a right answer among the first `k` when ties are ordered at random.

        With one right answer this is min(1, max(0, (k - better) / (tied + 1))).  With r tied right answers it is one
        minus the probability that all k - better remaining places go to wrong candidates (hypergeometric).
        """
        places = np.maximum(0, k - self.better.astype(np.float64))
        tied, right = self.tied.astype(np.float64), self.right.astype(np.float64)
        miss = np.ones(len(places))
        for place in range(min(k, int(tied.max(initial=0)) + 1)):  # beyond it nothing is left to miss
            left = tied - place
            miss = np.where(place < places, miss * np.clip(left / np.maximum(left + right, 1.0), 0.0, 1.0), miss)
        return np.where(places > 0, 1.0 - miss, 0.0)

    def ranks(self) -> NDArray[np.float64]:
        """(Q,) expected rank of the first right answer, counted from 1: better + tied / (right + 1) + 1."""
        return np.asarray(self.better + self.tied / (self.right + 1.0) + 1.0, dtype=np.float64)

    def take(self, queries: NDArray[np.int64]) -> Counts:
        """The counts of the given queries."""
        return Counts(self.better[queries], self.tied[queries], self.right[queries])


@dataclass(frozen=True)
class Ranks:
    """The ranks of N image queries and T text queries.

    Attributes:
        i2t: image annotation, N queries.
        t2i: image retrieval, T queries.
        image_of: (T,) int64, the row of each text's own image.
        kernel: how the candidates were counted; None for ranks read from a file.
        precisions: the average precisions by category; None without labels, and in older files.
    """

    i2t: Counts
    t2i: Counts
    image_of: NDArray[np.int64]
    kernel: KernelInfo | None = None
    precisions: Precisions | None = None

    ARRAYS: ClassVar = (
        "image_of",
        *(f"{side}_{name}" for side in ("i2t", "t2i") for name in ("better", "tied", "right")),
    )

    def metrics(self) -> Metrics:
        """Recalls in percent, and median and mean ranks counted from 1."""
        values: dict[str, float] = {}
        for direction, counts in (("i2t", self.i2t), ("t2i", self.t2i)):
            for k in KS:
                values[f"{direction}_r{k}"] = 100.0 * float(counts.hits(k).mean())
            values[f"{direction}_medr"] = float(np.median(counts.ranks()))
            values[f"{direction}_meanr"] = float(counts.ranks().mean())
        return Metrics(**values)

    def of_images(self, rows: NDArray[np.int64]) -> Ranks:
        """The ranks of the given images and of their texts."""
        texts = np.flatnonzero(np.isin(self.image_of, rows))
        return Ranks(self.i2t.take(rows), self.t2i.take(texts), self.image_of[texts], self.kernel)

    def ties(self) -> int:
        """The number of queries, in both directions, whose rank depends on the order of ties."""
        return int(np.count_nonzero(self.i2t.tied) + np.count_nonzero(self.t2i.tied))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The integers, and the average precisions, as named arrays, the form in which they are stored."""
        arrays: dict[str, NDArray[np.generic]] = {"image_of": self.image_of.astype(np.int32)}
        for direction, counts in (("i2t", self.i2t), ("t2i", self.t2i)):
            for name, array in vars(counts).items():
                arrays[f"{direction}_{name}"] = array
        return arrays | (self.precisions.arrays() if self.precisions else {})

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Ranks:
        """The ranks stored as `arrays`.

        Raises:
            ValueError: the arrays differ in their number of queries, or a text names an image that does not exist.
        """

        def counts(direction: str) -> Counts:
            return Counts(*(arrays[f"{direction}_{name}"] for name in ("better", "tied", "right")))

        ranks = Ranks(counts("i2t"), counts("t2i"), arrays["image_of"].astype(np.int64))
        images, texts = len(ranks.i2t.better), len(ranks.image_of)
        for side, count in ((ranks.i2t, images), (ranks.t2i, texts)):
            if not count or any(array.shape != (count,) or array.min() < 0 for array in vars(side).values()):
                raise ValueError(f"the counts are not those of {images:,} images and {texts:,} texts")
        if ranks.image_of.min() < 0 or ranks.image_of.max() >= images:
            raise ValueError(f"a text names an image outside 0 to {images - 1:,}")
        if "labels" not in arrays:
            return ranks
        precisions = Precisions.from_arrays(arrays, ranks.image_of)
        if len(precisions.labels) != images:
            raise ValueError(f"the average precisions are not those of {images:,} images and {texts:,} texts")
        return replace(ranks, precisions=precisions)


@dataclass(frozen=True)
class Metrics:
    """Recalls in percent, median and mean ranks counted from 1."""

    i2t_r1: float
    i2t_r5: float
    i2t_r10: float
    i2t_medr: float
    i2t_meanr: float
    t2i_r1: float
    t2i_r5: float
    t2i_r10: float
    t2i_medr: float
    t2i_meanr: float

    @property
    def rsum(self) -> float:
        """The sum of the six recalls, at most 600."""
        return self.i2t_r1 + self.i2t_r5 + self.i2t_r10 + self.t2i_r1 + self.t2i_r5 + self.t2i_r10

    def values(self) -> dict[str, float]:
        """All metrics by name, with `rsum`."""
        return {**asdict(self), "rsum": self.rsum}


@dataclass(frozen=True)
class Validation(Metrics):
    """The figures of the validation split.

    Attributes:
        map: mean average precision by category of both directions, from 0 to 1; None unless the run chooses by it.
        twins: the percentage of texts that score their own image above its twin; None if images have no twins.
    """

    map: float | None = None
    twins: float | None = None

    @property
    def criterion(self) -> float:
        """The figure to maximise: `rsum`, or 100 times `map` if the run chooses by mean average precision."""
        return self.rsum if self.map is None else 100.0 * self.map

    @property
    def curve(self) -> dict[str, float]:
        """The figure that is maximised, by its name, and `twins` if there are any, as a point of a training curve."""
        chosen = {"rsum": self.rsum} if self.map is None else {"map": self.map}
        return chosen if self.twins is None else {**chosen, "twins": self.twins}


def mean_metrics(metrics: list[Metrics]) -> Metrics:
    """The mean of each metric (over folds)."""
    names = asdict(metrics[0])
    return Metrics(**{name: float(np.mean([getattr(m, name) for m in metrics])) for name in names})


def small_set_notes(images: int, texts: int, one_to_one: bool, folds: int) -> list[str]:
    """Return notes on figures of `images` test images with `texts` captions that a small set makes trivial."""
    size, notes = images // max(1, folds), []
    per_fold = texts // images * size if texts % images == 0 else texts - images + size  # if uneven, at most
    for direction, count in (("i2t", size if one_to_one else per_fold), ("t2i", size)):
        if trivial := ", ".join(f"R@{k}" for k in KS if k >= count):
            where = "a fold" if folds else "the test split"
            notes.append(f"{direction} {trivial}: 100 for any method, with no more than {count} candidates in {where}.")
    if images < FEW_IMAGES:
        notes.append(f"Only {images} test images: one image is {100 / images:.1f} points of i2t recall.")
    return notes
