"""Average precisions of a ranking by category, per query, and the figures that follow from them.

Everything that shares a category with the query is right, its own partner included.  AP is the mean precision at the
right candidates of the whole list, without interpolation; AP@50 that of the first 50 candidates, divided by the number
of right ones among them (0 if there are none).  It rewards one right candidate at the top and nothing after it, so it
is shown only beside AP.  Ties are resolved in expectation over random order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cran_bench.protocols import fold_rows

CUT = 50  # candidates of AP@50
CATEGORY_FIGURES = ("i2t_map", "t2i_map", "map", "i2t_map50", "t2i_map50", "i2t_class_map", "t2i_class_map")
CATEGORY_COUNTS = ("classes", "i2t_unlabelled", "t2i_unlabelled")
CATEGORY_METRICS = (*CATEGORY_FIGURES, *CATEGORY_COUNTS)
"""What a record of labelled data has beside recalls: fractions, and the numbers of categories and queries without."""


@dataclass(frozen=True)
class Precision:
    """The average precisions of Q queries in one direction.

    Attributes:
        ap: (Q,) float64 expected AP, a fraction; NaN for a query without a right candidate.
        ap50: (Q,) float64 expected AP@50, likewise.
        relevant: (Q,) int32, the number of right candidates.
    """

    ap: NDArray[np.float64]
    ap50: NDArray[np.float64]
    relevant: NDArray[np.int32]

    def take(self, queries: NDArray[np.int64]) -> Precision:
        """The average precisions of the given queries."""
        return Precision(self.ap[queries], self.ap50[queries], self.relevant[queries])

    def class_map(self, labels: NDArray[np.uint8]) -> float:
        """The mean over categories of the mean AP of their queries, whose categories are (Q, C); NaN without any."""
        known = self.relevant > 0
        queries = labels[known].sum(axis=0, dtype=np.int64)
        sums = self.ap[known] @ labels[known].astype(np.float64)
        return _mean(sums[queries > 0] / queries[queries > 0])


@dataclass(frozen=True)
class Precisions:
    """The average precisions of N image queries and T text queries.

    Attributes:
        i2t: of N image queries, which rank texts.
        t2i: of T text queries, which rank images.
        image_of: (T,) int64, the row of each text's own image.
        labels: (N, C) uint8, the categories of each image, 0 or 1; a text has those of its image.
    """

    i2t: Precision
    t2i: Precision
    image_of: NDArray[np.int64]
    labels: NDArray[np.uint8]

    ARRAYS: ClassVar[Mapping[str, Any]] = {
        **{f"{side}_{name}": np.float64 for side in ("i2t", "t2i") for name in ("ap", "ap50")},
        **{f"{side}_relevant": np.int32 for side in ("i2t", "t2i")},
        "labels": np.uint8,
    }
    """The arrays that are stored beside those of `Ranks`, with their types."""

    def figures(self, folds: int = 0) -> dict[str, float]:
        """Mean average precisions as fractions, the number of categories, and of queries without one per direction.

        The means leave out queries without a right candidate.  `i2t_map` and `t2i_map` weigh queries equally,
        `i2t_class_map` and `t2i_class_map` categories; `map` is the mean of the former two.  With `folds`, each figure
        is the mean over folds that were ranked separately.
        """
        parts = [self.of_images(rows) for rows in fold_rows(len(self.labels), folds)] if folds else [self]
        values: dict[str, float] = {}
        for side in ("i2t", "t2i"):
            of = [(getattr(part, side), part.labels if side == "i2t" else part.labels[part.image_of]) for part in parts]
            values[f"{side}_map"] = _mean(np.array([_mean(one.ap) for one, _ in of]))
            values[f"{side}_map50"] = _mean(np.array([_mean(one.ap50) for one, _ in of]))
            values[f"{side}_class_map"] = _mean(np.array([one.class_map(labels) for one, labels in of]))
        values["map"] = (values["i2t_map"] + values["t2i_map"]) / 2
        values["classes"] = float(self.labels.any(axis=0).sum())
        for side in SIDES:
            values[f"{side}_unlabelled"] = float((getattr(self, side).relevant == 0).sum())
        return {name: values[name] for name in CATEGORY_METRICS}

    def of_images(self, rows: NDArray[np.int64]) -> Precisions:
        """The average precisions of the given images, in increasing order, and of their texts."""
        texts = np.flatnonzero(np.isin(self.image_of, rows))
        owners = np.searchsorted(rows, self.image_of[texts])
        return Precisions(self.i2t.take(rows), self.t2i.take(texts), owners, self.labels[rows])

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """`ARRAYS` by name, the form in which they are stored; `labels` as bits, category by category."""
        sides = {f"{side}_{name}": x for side in ("i2t", "t2i") for name, x in vars(getattr(self, side)).items()}
        return {**sides, "labels": np.packbits(self.labels.T, axis=1).ravel()}

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]], image_of: NDArray[np.int64]) -> Precisions:
        """The average precisions stored as `arrays`.

        Raises:
            ValueError: the arrays differ in their number of queries, or hold what is no average precision.
        """
        i2t, t2i = (Precision(*(arrays[f"{side}_{name}"] for name in ("ap", "ap50", "relevant"))) for side in SIDES)
        images, texts = len(i2t.ap), len(image_of)
        for one, count in ((i2t, images), (t2i, texts)):
            known = one.relevant > 0
            if not count or any(x.shape != (count,) for x in vars(one).values()) or one.relevant.min() < 0:
                raise ValueError(f"the average precisions are not those of {images:,} images and {texts:,} texts")
            if not all(np.array_equal((x >= 0) & (x <= 1 + 1e-9), known) for x in (one.ap, one.ap50)):
                raise ValueError("an average precision is not between 0 and 1, or not missing where nothing is right")
        if not len(image_of) or image_of.max() >= images:
            raise ValueError(f"a text names an image outside 0 to {images - 1:,}")
        rows, rest = divmod(len(arrays["labels"]), -(-images // 8))
        if rest or not rows:
            raise ValueError(f"the labels are not those of {images:,} images")
        labels = np.unpackbits(arrays["labels"].reshape(rows, -1), axis=1, count=images).T
        return Precisions(i2t, t2i, image_of, np.ascontiguousarray(labels))


SIDES = "i2t", "t2i"


def _mean(values: NDArray[np.float64]) -> float:
    """The mean of what is no NaN; NaN if there is nothing."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
