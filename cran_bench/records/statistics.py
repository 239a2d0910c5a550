"""Uncertainty of recalls: bootstrap over images (the captions of one image are not independent) and over seeds."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, ndtri, stdtrit  # of scipy.stats, which takes half a second to import

from cran_bench.errors import BadInput
from cran_bench.ranking.metrics import KS, Direction, Ranks

DRAWS = 10_000
LEVEL = 0.05  # significance level of tests; intervals cover 1 - LEVEL
FIGURES = tuple(f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in KS)
SUMS = {"i2t": FIGURES[:3], "t2i": FIGURES[3:], "rsum": FIGURES}

_BLOCK = 500  # draws per matrix product


@dataclass(frozen=True)
class Interval:
    """A value in percentage points with its bootstrap interval (95 % unless another level is given)."""

    value: float
    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference(Interval):
    """A difference with its bootstrap interval and p value.

    Attributes:
        p: two-sided p value, from the share of draws on the other side of zero; at least 2 / (draws + 1).
    """

    p: float


@dataclass(frozen=True)
class Sample:
    """The recalls of a method with S seeds on N images, as measured and on bootstrap resamples of the images.

    Attributes:
        values: (S, 6) recalls of each seed in percent, in the order of `FIGURES`.
        draws: (draws, 6) means over seeds on images drawn with replacement, each image with all its captions.
        shares: (N, S, 6) contribution of each image to `values`, times N.
        image_of: (T,) the row of each text's own image.
    """

    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    shares: NDArray[np.float64]
    image_of: NDArray[np.int64]

    def interval(self, figure: str) -> Interval:
        """The mean over seeds of a recall (``i2t_r1`` ... ``t2i_r10``) or sum (``i2t``, ``t2i``, ``rsum``).

        The interval covers the choice of images, and that of seeds if there are several.

        Raises:
            BadInput: the figure is unknown.
        """
        value = self._value(figure)
        return Interval(value, *_percentiles(self._resampled(figure), LEVEL))

    def deviation(self, figure: str) -> float:
        """The standard deviation of a figure over images and seeds."""
        return float(self._resampled(figure).std())

    def by_seed(self, figure: str) -> NDArray[np.float64]:
        """(S,) values of a figure, one per seed."""
        return np.asarray(self.values[:, _members(figure)].sum(axis=1))

    def minus(self, other: Sample, figure: str, level: float = LEVEL) -> Difference:
        """The paired difference of this mean minus the other's, on the same draws of images; seeds are independent.

        Raises:
            BadInput: the two samples have different queries, or the figure is unknown.
        """
        if len(self.shares) != len(other.shares) or not np.array_equal(self.image_of, other.image_of):
            raise BadInput("a paired comparison needs ranks of the same queries: run both methods on the same data")
        chosen, value = _members(figure), self._value(figure) - other._value(figure)
        draws = (self.draws - other.draws)[:, chosen].sum(axis=1)
        draws = _widened(draws, value, len(self.shares), [self._seeds(figure), other._seeds(figure)])
        opposite = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
        p = min(1.0, 2.0 * (opposite + 1) / (len(draws) + 1))
        return Difference(value, *_percentiles(draws, level), p)

    def _value(self, figure: str) -> float:
        return float(self.by_seed(figure).mean())

    def _resampled(self, figure: str) -> NDArray[np.float64]:
        """(draws,) resampled values of a figure, with the variance due to images and seeds."""
        draws = self.draws[:, _members(figure)].sum(axis=1)
        return _widened(draws, self._value(figure), len(self.shares), [self._seeds(figure)])

    def _seeds(self, figure: str) -> tuple[float, int]:
        """The contribution of seeds to the variance of the mean, and its degrees of freedom.

        This is the two-way analysis of variance of images crossed with seeds: the variance between seeds minus the
        residual (interaction) variance, which the draws of images already contain.
        """
        shares = self.shares[:, :, _members(figure)].sum(axis=2)
        images, seeds = shares.shape
        if seeds == 1 or not np.ptp(self.by_seed(figure)):
            return 0.0, 1
        residual = shares - shares.mean(axis=0) - shares.mean(axis=1, keepdims=True) + shares.mean()
        within = float(np.square(residual).sum()) / ((images - 1) * (seeds - 1)) / images if images > 1 else 0.0
        return max(0.0, float(self.by_seed(figure).var(ddof=1)) - within) / seeds, seeds - 1


def sample(seeds: Sequence[Ranks], draws: int = DRAWS) -> Sample:
    """Compute the recalls of one or several seeds, as measured and on bootstrap resamples of the images.

    Raises:
        BadInput: the seeds have different queries.
    """
    return samples([seeds], draws)[0]


def samples(rows: Sequence[Sequence[Ranks]], draws: int = DRAWS) -> list[Sample]:
    """`sample` of several methods; drawing for all of them at once takes a fifth of the time.

    Raises:
        BadInput: they are not ranks of the same queries.
    """
    first = rows[0][0]
    images = len(first.i2t.better)
    for ranks in itertools.chain(*rows):
        if len(ranks.i2t.better) != images or not np.array_equal(ranks.image_of, first.image_of):
            raise BadInput("a comparison needs ranks of the same queries: run the methods on the same data")
    every = [np.stack([[_hits(r, f) for f in FIGURES] for r in seeds]).transpose(2, 0, 1) for seeds in rows]
    queries = np.stack([_queries(first, figure) for figure in FIGURES], axis=1)
    columns = np.concatenate([*(hits.mean(axis=1) for hits in every), queries], axis=1)
    resampled = np.empty((len(rows), draws, len(FIGURES)))
    for start, times in zip(range(0, draws, _BLOCK), _blocks(images, draws), strict=True):
        *sums, counts = np.split(times @ columns, len(rows) + 1, axis=1)
        resampled[:, start : start + len(times)] = [100.0 * drawn / counts for drawn in sums]
    shares = [100.0 * hits / queries.mean(axis=0) for hits in every]
    return [Sample(of.mean(axis=0), drawn, of, first.image_of) for of, drawn in zip(shares, resampled, strict=True)]


def mcnemar(a: Ranks, b: Ranks, direction: Direction) -> float:
    """Two-sided p value of McNemar's test of equal R@1, for clustered data (Durkalski et al., Stat. Med. 2003).

    The statistic is (sum of d)^2 / (sum of d^2), where d is the share of an image's queries that `a` answers right
    minus the share that `b` does; with one query per image it is McNemar's (b - c)^2 / (b + c).
    """
    figure = f"{direction}_r1"
    d = (_hits(a, figure) - _hits(b, figure)) / _queries(a, figure)
    spread = float(np.square(d).sum())
    return float(chdtrc(1, float(d.sum()) ** 2 / spread)) if spread else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction (1979) of p values for multiple testing."""
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in corrected]


def _members(figure: str) -> list[int]:
    """Indices in `FIGURES` of the recalls that a figure is the sum of."""
    if figure not in FIGURES and figure not in SUMS:
        raise BadInput(f"there is no figure '{figure}'; known: {', '.join((*FIGURES, *SUMS))}")
    return [FIGURES.index(name) for name in SUMS.get(figure, (figure,))]


def _hits(ranks: Ranks, figure: str) -> NDArray[np.float64]:
    """(N,) expected hits of an image's queries in the figure's direction."""
    direction, k = figure.split("_r")
    if direction == "i2t":
        return ranks.i2t.hits(int(k))
    return np.bincount(ranks.image_of, ranks.t2i.hits(int(k)), len(ranks.i2t.better)).astype(np.float64)


def _queries(ranks: Ranks, figure: str) -> NDArray[np.float64]:
    """(N,) number of each image's queries in the figure's direction."""
    images = len(ranks.i2t.better)
    return np.ones(images) if figure.startswith("i2t") else np.bincount(ranks.image_of, minlength=images).astype(float)


def _blocks(images: int, draws: int) -> Iterator[NDArray[np.float64]]:
    times = times_drawn(images, draws)
    for start in range(0, draws, _BLOCK):
        yield times[start : start + _BLOCK].astype(np.float64)


@functools.lru_cache(maxsize=2)
def times_drawn(images: int, draws: int) -> NDArray[np.uint8]:
    """(draws, N) how often each of N images occurs when N are drawn with replacement; the same in every run."""
    random, times = np.random.default_rng(0), np.empty((draws, images), dtype=np.uint8)
    for start in range(0, draws, _BLOCK):
        size = min(_BLOCK, draws - start)
        drawn = random.integers(0, images, (size, images)) + images * np.arange(size)[:, None]
        times[start : start + size] = np.bincount(drawn.ravel(), minlength=size * images).reshape(size, images)
    return times


def _widened(
    draws: NDArray[np.float64], value: float, images: int, seeds: Sequence[tuple[float, int]]
) -> NDArray[np.float64]:
    """Scale draws over images about `value` so that their variance includes that of the seeds.

    Student's t quantile, with Satterthwaite's degrees of freedom, replaces the normal one, since the variance of a few
    seeds is poorly known.
    """
    of_images, of_seeds = float(draws.var()), sum(variance for variance, _ in seeds)
    if not of_seeds:
        return draws
    total = of_images + of_seeds
    freedom = total**2 / (of_images**2 / max(1, images - 1) + sum(v**2 / f for v, f in seeds))
    wider = float(np.sqrt(total) * stdtrit(freedom, 1 - LEVEL / 2) / ndtri(1 - LEVEL / 2))
    if not of_images:
        return value + wider * ndtri((np.arange(len(draws)) + 0.5) / len(draws))
    return np.asarray(value + wider / np.sqrt(of_images) * (draws - value))


def _percentiles(samples: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.percentile(samples, [50 * level, 100 - 50 * level])
    return float(low), float(high)
