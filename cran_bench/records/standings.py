"""Ranks with intervals, from simultaneous intervals of all differences between rows: on one dataset, or on several.

Rows that are equally good share a set of ranks, all of which the interval of each must contain (Mogstad, Romano, Shaikh
and Wilhelm, *Inference for Ranks with Applications to Mobility across Neighbourhoods and Academic Achievement across
Countries*, Review of Economic Studies 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit  # of scipy.stats, which takes half a second to import


@dataclass(frozen=True)
class Gaps:
    """All differences between K rows, with intervals that hold at once.

    Attributes:
        values: (K, K), row minus column.
        half: (K, K), half the lengths of their intervals.
        most: the largest difference that is possible.
    """

    values: NDArray[np.float64]
    half: NDArray[np.float64]
    most: float = np.inf

    @property
    def certain(self) -> NDArray[np.bool_]:
        """(K, K), whether a row is certainly better than a column: the whole interval is above zero."""
        return self.values - self.half > 0

    def to_best(self) -> NDArray[np.float64]:
        """(K, 3) each row minus the best of the others, and the bounds of its interval; these hold at once too.

        Above zero it is certainly the best row, below zero certainly not: then a rank above 1 (see `rank_intervals`).
        """
        values = self.values.copy()
        np.fill_diagonal(values, np.inf)
        low, high = values - self.half, (values + self.half).min(axis=1)
        to_best = np.where(high >= 0, low, np.inf).min(axis=1)  # the best row is one that is not behind
        low = np.where(np.isinf(to_best), low.min(axis=1), to_best)
        return np.stack([values.min(axis=1), low, high], axis=1).clip(-self.most, self.most)


@dataclass(frozen=True)
class Estimates:
    """A figure of K rows on the same data, with what is known of its errors.

    Attributes:
        values: (K,) means over seeds.
        draws: (draws, K) deviations from them on resamples of the images, the same for all rows.
        variance: (K,) variances of the means that are due to seeds.
        freedom: (K,) their degrees of freedom.
        images: number of images.
        resolution: how far apart equal values may be, by rounding.
        most: the largest difference that is possible.
    """

    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    variance: NDArray[np.float64]
    freedom: NDArray[np.float64]
    images: int
    resolution: float
    most: float = np.inf

    def scaled(self, zero: float, one: float) -> Estimates:
        """The estimates in percent of the way from one value of the figure to another."""
        factor = 100 / (one - zero)
        values, draws, variance = factor * (self.values - zero), factor * self.draws, factor**2 * self.variance
        return Estimates(values, draws, variance, self.freedom, self.images, factor * self.resolution)

    def gaps(self, level: float) -> Gaps:
        """All differences, with intervals that contain all true ones at once with probability 1 - `level`.

        Their common critical value is the quantile of the largest studentised deviation of any pair in a draw.
        Student's quantiles replace the normal ones, for images and for seeds, whose parts add in quadrature.
        """
        values, variance, rows = self.values, self.variance, len(self.values)
        noise = np.sqrt(variance) * np.random.default_rng(0).standard_normal(self.draws.shape)
        gaps, of_images, largest = values[:, None] - values, np.zeros((rows, rows)), np.zeros(len(self.draws))
        for row in range(1, rows):
            apart = self.draws[:, [row]] - self.draws[:, :row]
            of_images[row, :row] = of_images[:row, row] = apart.var(axis=0)
            spread = np.sqrt(of_images[row, :row] + variance[row] + variance[:row])
            spread += self.resolution  # it is 0 for equal rows
            apart += noise[:, [row]] - noise[:, :row]
            np.maximum(largest, (np.abs(apart) / spread).max(axis=1), out=largest)
        percentile = ndtr(np.quantile(largest, 1 - level))
        of_seeds, freedom = welch(*(np.stack(np.broadcast_arrays(x[:, None], x)) for x in (variance, self.freedom)))
        critical = [stdtrit(np.maximum(f, 1), percentile) for f in (self.images - 1, freedom)]
        of_images *= self.images / max(1, self.images - 1)  # the variance of resamples is that of their population
        return Gaps(gaps, np.sqrt(critical[0] ** 2 * of_images + critical[1] ** 2 * of_seeds), self.most)


@dataclass(frozen=True)
class Scored:
    """The scores of the same K rows in one table.

    Attributes:
        estimates: the scores.
        dataset: its name; tables of one dataset share one weight in a mean, and count as one draw of a dataset.
        split: names the images; resamples of different ones are independent.
    """

    estimates: Estimates
    dataset: str
    split: str


def mean_over(tables: Sequence[Scored]) -> Estimates:
    """The mean scores over datasets, each dataset's being the mean over its tables."""
    own, shares = [one.estimates for one in tables], weights([one.dataset for one in tables]).sum(axis=0)
    orders = {tables[0].split: np.arange(len(own[0].draws))}
    for one in tables:
        orders.setdefault(one.split, np.random.default_rng(len(orders)).permutation(len(own[0].draws)))
    draws = sum(w * x.draws[orders[one.split]] for w, x, one in zip(shares, own, tables, strict=True))
    variances = np.stack([w**2 * x.variance for w, x in zip(shares, own, strict=True)])
    variance, freedom = welch(variances, np.stack([x.freedom for x in own]))
    freedom = np.maximum(freedom, 1)  # it is 0 for rows that do not depend on the seed
    images, resolution = min(x.images for x in own), max(x.resolution for x in own)
    values = shares @ np.stack([x.values for x in own])
    return Estimates(values, np.asarray(draws), variance, freedom, images, resolution)


def gaps_like_these(tables: Sequence[Scored], level: float) -> Gaps | None:
    """Differences of mean scores over all datasets of which these are a sample; None for a single dataset.

    The D differences of two rows, one per dataset, are the observations of Student's t with D - 1 degrees of freedom.
    It holds its level though some datasets are measured less precisely (Ibragimov and Mueller, JBES 2010; normal
    observations of unequal variance).  Bonferroni's correction for all pairs makes the intervals hold at once: they
    are correlated in an unknown way, and there are fewer datasets than rows.
    """
    shares = weights([one.dataset for one in tables])
    datasets, rows = len(shares), len(tables[0].estimates.values)
    if datasets < 2:
        return None
    scores = datasets * shares @ np.stack([one.estimates.values for one in tables])
    apart = scores[:, :, None] - scores[:, None]
    critical = stdtrit(datasets - 1, 1 - level / max(2, rows * (rows - 1)))
    return Gaps(apart.mean(axis=0), critical * apart.std(axis=0, ddof=1) / np.sqrt(datasets))


def rank_intervals(*certain: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(K, 2) lowest and highest rank of each row: after all rows certainly better, before all certainly worse.

    Args:
        *certain: (K, K) whether a row is certainly better than a column, in several respects all of which it must be.
    """
    better = np.logical_and.reduce(certain)
    return np.stack([1 + better.sum(axis=0), len(better) - better.sum(axis=1)], axis=1)


def welch(variances: NDArray[np.float64], freedom: NDArray[np.float64]) -> tuple[Any, Any]:
    """The sum of independent variances along the first axis, and its degrees of freedom by Welch and Satterthwaite."""
    total = variances.sum(axis=0)
    return total, total**2 / np.maximum((variances**2 / freedom).sum(axis=0), 1e-300)


def weights(datasets: Sequence[str]) -> NDArray[np.float64]:
    """(D, tables) the weights of each dataset's tables, given the dataset of each table; all add up to one."""
    names = list(dict.fromkeys(datasets))
    of = np.array([[dataset == name for dataset in datasets] for name in names])
    return np.asarray(of / of.sum(axis=1, keepdims=True) / len(names))
