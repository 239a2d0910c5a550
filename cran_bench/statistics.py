"""How sure a number is: bootstrap over images, for captions of one image are not independent, and over seeds."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, ndtri, stdtrit  # of scipy.stats, which takes half a second to import

from cran_bench.errors import BadInput
from cran_bench.ranks import KS, Direction, Ranks

DRAWS = 10_000
LEVEL = 0.05  # of tests, and what intervals leave out
FIGURES = tuple(f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in KS)
SUMS = {"i2t": FIGURES[:3], "t2i": FIGURES[3:], "rsum": FIGURES}

_BLOCK = 500  # draws that are multiplied at a time


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval, of 95 % unless said otherwise, in the value's unit (percent points)."""

    value: float
    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference(Interval):
    """A difference, and how likely one as large is where there is none.

    Attributes:
        p: two-sided, from the share of draws on the other side of zero; at least 2 / (draws + 1).
    """

    p: float


@dataclass(frozen=True)
class Sample:
    """The recalls of a method, as they are and on images drawn anew.

    Attributes:
        values: (S, 6) of each seed, in percent, in the order of `FIGURES`.
        draws: (draws, 6) means over seeds, on images drawn with replacement, each with all its captions.
        shares: (N, S, 6) what each image adds to `values`, times N.
        image_of: (T,) whose each text is.
    """

    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    shares: NDArray[np.float64]
    image_of: NDArray[np.int64]

    def interval(self, figure: str) -> Interval:
        """A recall (``i2t_r1`` ... ``t2i_r10``) or a sum of them (``i2t``, ``t2i``, ``rsum``), the mean over seeds.

        The interval is of images, and of seeds where there are several.

        Raises:
            BadInput: an unknown figure.
        """
        value = self._value(figure)
        return Interval(value, *_percentiles(self._resampled(figure), LEVEL))

    def deviation(self, figure: str) -> float:
        """Standard deviation over images and seeds."""
        return float(self._resampled(figure).std())

    def by_seed(self, figure: str) -> NDArray[np.float64]:
        """(S,) the figure of each seed."""
        return np.asarray(self.values[:, _members(figure)].sum(axis=1))

    def minus(self, other: Sample, figure: str, level: float = LEVEL) -> Difference:
        """This mean less the other's, on the same draws of images; seeds are independent.

        Raises:
            BadInput: the two are not of the same queries, or an unknown figure.
        """
        if len(self.shares) != len(other.shares) or not np.array_equal(self.image_of, other.image_of):
            raise BadInput("a paired comparison needs ranks of the same queries; these were made on different data")
        chosen, value = _members(figure), self._value(figure) - other._value(figure)
        off = (self.draws - other.draws)[:, chosen].sum(axis=1)
        off = _widened(off, value, len(self.shares), [self._seeds(figure), other._seeds(figure)])
        beyond = min(np.count_nonzero(off <= 0), np.count_nonzero(off >= 0))
        p = min(1.0, 2.0 * (beyond + 1) / (len(off) + 1))
        return Difference(value, *_percentiles(off, level), p)

    def _value(self, figure: str) -> float:
        return float(self.by_seed(figure).mean())

    def _resampled(self, figure: str) -> NDArray[np.float64]:
        """(draws,) of images, as wide as images and seeds make it."""
        off = self.draws[:, _members(figure)].sum(axis=1)
        return _widened(off, self._value(figure), len(self.shares), [self._seeds(figure)])

    def _seeds(self, figure: str) -> tuple[float, int]:
        """What seeds add to the variance of the mean, and its degrees of freedom.

        By the analysis of variance of images crossed with seeds: the variance of the seeds' figures less the part of it
        that is chance of single queries, which the draws of images have already.
        """
        shares = self.shares[:, :, _members(figure)].sum(axis=2)
        images, seeds = shares.shape
        if seeds == 1 or not np.ptp(self.by_seed(figure)):
            return 0.0, 1
        rest = shares - shares.mean(axis=0) - shares.mean(axis=1, keepdims=True) + shares.mean()
        chance = float(np.square(rest).sum()) / ((images - 1) * (seeds - 1)) / images if images > 1 else 0.0
        return max(0.0, float(self.by_seed(figure).var(ddof=1)) - chance) / seeds, seeds - 1


def sample(seeds: Sequence[Ranks], draws: int = DRAWS) -> Sample:
    """Recalls of the ranks of one seed or several, on the images as they are and drawn anew.

    Raises:
        BadInput: they are not ranks of the same queries.
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
            raise BadInput("a comparison needs ranks of the same queries; these were made on different data")
    every = [np.stack([[_hits(r, f) for f in FIGURES] for r in seeds]).transpose(2, 0, 1) for seeds in rows]
    queries = np.stack([_queries(first, figure) for figure in FIGURES], axis=1)
    columns = np.concatenate([*(hits.mean(axis=1) for hits in every), queries], axis=1)
    found = np.empty((len(rows), draws, len(FIGURES)))
    for start, times in zip(range(0, draws, _BLOCK), _blocks(images, draws), strict=True):
        *sums, asked = np.split(times @ columns, len(rows) + 1, axis=1)
        found[:, start : start + len(times)] = [100.0 * drawn / asked for drawn in sums]
    shares = [100.0 * hits / queries.mean(axis=0) for hits in every]
    return [Sample(of.mean(axis=0), drawn, of, first.image_of) for of, drawn in zip(shares, found, strict=True)]


def mcnemar(a: Ranks, b: Ranks, direction: Direction) -> float:
    """Two-sided p of equal R@1 of two fits: McNemar's test, for clusters by Durkalski et al. (Stat. Med. 2003).

    The statistic is (sum of d)^2 / (sum of d^2), where d of an image is the share of its queries that `a` hits less
    that which `b` hits; with one query an image it is McNemar's (b - c)^2 / (b + c).
    """
    figure = f"{direction}_r1"
    d = (_hits(a, figure) - _hits(b, figure)) / _queries(a, figure)
    spread = float(np.square(d).sum())
    return float(chdtrc(1, float(d.sum()) ** 2 / spread)) if spread else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction (1979): p values that may all be held against one level."""
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in corrected]


def _members(figure: str) -> list[int]:
    """Places of a figure's terms in `FIGURES`."""
    if figure not in FIGURES and figure not in SUMS:
        raise BadInput(f"there is no figure '{figure}'; known: {', '.join((*FIGURES, *SUMS))}")
    return [FIGURES.index(name) for name in SUMS.get(figure, (figure,))]


def _hits(ranks: Ranks, figure: str) -> NDArray[np.float64]:
    """(N,) sum over an image's queries of a direction."""
    direction, k = figure.split("_r")
    if direction == "i2t":
        return ranks.i2t.hits(int(k))
    return np.bincount(ranks.image_of, ranks.t2i.hits(int(k)), len(ranks.i2t.better)).astype(np.float64)


def _queries(ranks: Ranks, figure: str) -> NDArray[np.float64]:
    """(N,) how many queries of the figure's direction each image has."""
    images = len(ranks.i2t.better)
    return np.ones(images) if figure.startswith("i2t") else np.bincount(ranks.image_of, minlength=images).astype(float)


def _blocks(images: int, draws: int) -> Iterator[NDArray[np.float64]]:
    times = times_drawn(images, draws)
    for start in range(0, draws, _BLOCK):
        yield times[start : start + _BLOCK].astype(np.float64)


@functools.lru_cache(maxsize=2)
def times_drawn(images: int, draws: int) -> NDArray[np.uint8]:
    """(draws, N): how often each of N images comes when N are drawn with replacement; the same in every run."""
    random, found = np.random.default_rng(0), np.empty((draws, images), dtype=np.uint8)
    for start in range(0, draws, _BLOCK):
        size = min(_BLOCK, draws - start)
        drawn = random.integers(0, images, (size, images)) + images * np.arange(size)[:, None]
        found[start : start + size] = np.bincount(drawn.ravel(), minlength=size * images).reshape(size, images)
    return found


def _widened(
    off: NDArray[np.float64], value: float, images: int, seeds: Sequence[tuple[float, int]]
) -> NDArray[np.float64]:
    """Draws of images, moved from `value` until they are as wide as images and seeds together.

    Student's quantile stands in for the normal one, with degrees of freedom by Satterthwaite: two seeds say little of
    how far seeds go, which matters only where that is far.
    """
    of_images, of_seeds = float(off.var()), sum(variance for variance, _ in seeds)
    if not of_seeds:
        return off
    total = of_images + of_seeds
    freedom = total**2 / (of_images**2 / max(1, images - 1) + sum(v**2 / f for v, f in seeds))
    wider = float(np.sqrt(total) * stdtrit(freedom, 1 - LEVEL / 2) / ndtri(1 - LEVEL / 2))
    if not of_images:
        return value + wider * ndtri((np.arange(len(off)) + 0.5) / len(off))
    return np.asarray(value + wider / np.sqrt(of_images) * (off - value))


def _percentiles(samples: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.percentile(samples, [50 * level, 100 - 50 * level])
    return float(low), float(high)
