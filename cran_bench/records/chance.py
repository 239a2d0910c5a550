"""What a scorer that cannot tell pairs apart reaches, and a perfect one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from cran_bench.protocols import fold_rows
from cran_bench.ranking.metrics import Counts, Ranks
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.records.tasks import Task


def chance_and_perfect(task: Task, ranks: RecordedRanks, folds: int = 0) -> tuple[float, float]:
    """The headline of a scorer that gives all pairs the same score, on these queries, and that of a perfect one.

    Ties are in expectation, so the former is chance.  Of correlations with ratings it is 0, and 100 is beyond reach
    where people disagree or give equal ratings.

    Args:
        task: what is measured.
        ranks: those of any row, for its queries.
        folds: number of folds that were ranked separately; 0 if all were ranked together.
    """
    perfect = task.perfect(task.headline)
    if task.name == "contrasts":
        return 50.0, perfect
    if task.correlations:
        return 0.0, perfect
    images = len(ranks.i2t.better)
    parts = fold_rows(images, folds) if folds else [np.arange(images)]
    own = np.bincount(ranks.image_of, minlength=images)
    texts, others = np.zeros(images, np.int64), np.ones(images, np.int64)
    for rows in parts:
        texts[rows], others[rows] = own[rows].sum(), len(rows)
    candidates = {"i2t": texts, "t2i": others[ranks.image_of]}
    if task.name == "recall":
        i2t, t2i = _all_tied(texts, own), _all_tied(candidates["t2i"], np.ones_like(ranks.image_of))
        return float(task.combined(task.values(Ranks(i2t, t2i, ranks.image_of)), task.headline)), perfect
    found = []
    if task.name == "category" and ranks.precisions:
        for side, of in candidates.items():
            right = getattr(ranks.precisions, side).relevant
            found.append(_expected(right, of, of)[right > 0].mean())
    for side, judged in ranks.relevant.get(task.of, {}).items():
        found.append(_expected(judged.right, candidates[side][judged.query], judged.right).mean())
    return float(np.mean(found)), perfect


def _all_tied(candidates: NDArray[Any], right: NDArray[Any]) -> Counts:
    tied = candidates - right
    return Counts(np.zeros_like(tied, np.int32), tied.astype(np.int32), right.astype(np.int32))


def _expected(right: NDArray[Any], candidates: NDArray[Any], first: NDArray[Any]) -> NDArray[np.float64]:
    """The expected average precision over the first candidates in random order, divided by the number of right ones.

    At place k a right candidate is found with probability right / candidates, and those before it are right with
    probability (right - 1) / (candidates - 1); sums of 1 / k are harmonic numbers.
    """
    harmonic = digamma(first + 1.0) + np.euler_gamma
    before = (right - 1) / np.maximum(candidates - 1, 1)
    return np.asarray((harmonic + (first - harmonic) * before) / candidates)
