"""How sure a number is: paired bootstrap over images, because the captions of one image are not independent."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cran_bench.errors import BadInput
from cran_bench.ranking import KS, Ranks

DRAWS = 2000
FIGURES = tuple(f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in KS)


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % bootstrap interval, in the value's unit (percent points)."""

    value: float
    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def interval(seeds: Sequence[Ranks], figure: str, draws: int = DRAWS) -> Interval:
    """A recall (``i2t_r1`` ... ``t2i_r10``) or ``rsum``, the mean over `seeds`, with its 95 % interval over images.

    Images are drawn with replacement, each with all its captions; the spread over seeds is not part of the interval.

    Raises:
        BadInput: an unknown figure.
    """
    return _percentiles(*_mean_resampled(seeds, figure, draws))


def paired_difference(a: Sequence[Ranks], b: Sequence[Ranks], figure: str, draws: int = DRAWS) -> Interval:
    """The mean over seeds of `a` minus that of `b`, with its 95 % interval; both are resampled with the same images.

    Raises:
        BadInput: the two are not ranks of the same queries.
    """
    for ranks in (*a, *b):
        if not np.array_equal(ranks.image_of, a[0].image_of) or len(ranks.i2t.better) != len(a[0].i2t.better):
            raise BadInput("a paired comparison needs ranks of the same queries; these were made on different data")
    (left, value_a), (right, value_b) = _mean_resampled(a, figure, draws), _mean_resampled(b, figure, draws)
    return _percentiles(left - right, value_a - value_b)


def _mean_resampled(seeds: Sequence[Ranks], figure: str, draws: int) -> tuple[NDArray[np.float64], float]:
    found = [_resampled(ranks, figure, draws) for ranks in seeds]
    return np.mean([samples for samples, _ in found], axis=0), float(np.mean([value for _, value in found]))


def _resampled(ranks: Ranks, figure: str, draws: int) -> tuple[NDArray[np.float64], float]:
    """(draws,) values of the figure on resampled images, and its value on the images as they are."""
    n = len(ranks.i2t.better)
    weights = _weights(n, draws)
    names = FIGURES if figure == "rsum" else (figure,)
    samples, value = np.zeros(draws), 0.0
    for name in names:
        if name not in FIGURES:
            raise BadInput(f"there is no figure '{name}'; known: {', '.join(FIGURES)}, rsum")
        direction, k = name[:3], int(name[5:])
        if direction == "i2t":
            hits, owners = ranks.i2t.hits(k), np.arange(n, dtype=np.int64)
        else:
            hits, owners = ranks.t2i.hits(k), ranks.image_of
        per_image = np.bincount(owners, weights=hits, minlength=n)
        queries = np.bincount(owners, minlength=n)
        samples += 100.0 * (weights @ per_image) / (weights @ queries)
        value += 100.0 * hits.mean()
    return samples, float(value)


@functools.lru_cache(maxsize=1)
def _weights(n: int, draws: int) -> NDArray[np.float64]:
    """(draws, n): how often each of n images counts when n are drawn with replacement."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1.0 / n), size=draws).astype(np.float64)


def _percentiles(samples: NDArray[np.float64], value: float) -> Interval:
    low, high = np.percentile(samples, [2.5, 97.5])
    return Interval(value, float(low), float(high))
