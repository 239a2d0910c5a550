"""Retrieval with several right answers: what is stored per query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

FIGURES: Mapping[str, tuple[str, float]] = {
    **{name: (name, 100.0) for name in ("r1", "r5", "r10")},
    **{name: (key, 1.0) for name, key in (("map_r", "ap"), ("rp", "rp"), ("ndcg", "ndcg"))},
}
"""The figures that are means over queries: for each the field of `Retrieved`, and what it is multiplied by."""


@dataclass(frozen=True)
class Retrieved:
    """How well Q queries find their right answers, in expectation over random order of ties.

    Attributes:
        query: (Q,) int32, positions of the queries in the test split, increasing.
        right: (Q,) int32, the number of right answers in the split, at least 1.
        r1: (Q,) float64, probability of a right answer first; `r5`, `r10` among the first five and ten.
        ap: (Q,) float64, AP@R: the sum of the precisions at the right answers among the first R = `right`, over R.
        rp: (Q,) float64, R-precision: the share of right answers among the first R.
        ndcg: (Q,) float64, normalised discounted cumulative gain of the whole list, with the grades as gains.
    """

    query: NDArray[np.int32]
    right: NDArray[np.int32]
    r1: NDArray[np.float64]
    r5: NDArray[np.float64]
    r10: NDArray[np.float64]
    ap: NDArray[np.float64]
    rp: NDArray[np.float64]
    ndcg: NDArray[np.float64]

    ARRAYS: ClassVar[Mapping[str, Any]] = {
        **dict.fromkeys(("query", "right"), np.int32),
        **dict.fromkeys(("r1", "r5", "r10", "ap", "rp", "ndcg"), np.float64),
    }

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]], queries: int) -> Retrieved:
        """What is stored as `arrays`, of a split with so many queries in this direction.

        Raises:
            ValueError: the arrays differ in length, or hold what is none of these figures.
        """
        values = {name: arrays[name] for name in Retrieved.ARRAYS}
        query, count = values["query"], len(values["query"])
        if not count or any(x.shape != (count,) for x in values.values()):
            raise ValueError("the figures of queries with several right answers differ in number")
        if query.min() < 0 or query.max() >= queries or np.any(np.diff(query) <= 0) or values["right"].min() < 1:
            raise ValueError("a query with several right answers does not exist, or has none")
        if not all(bool(((x >= 0) & (x <= 1 + 1e-9)).all()) for x in values.values() if x.dtype == np.float64):
            raise ValueError("a figure of a query with several right answers is not between 0 and 1")
        return Retrieved(**values)
