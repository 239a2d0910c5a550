"""How sure a number is: bootstrap over images, for captions of one image are not independent, and over seeds."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from cran_bench.errors import BadInput
from cran_bench.ranking import KS, Direction, Ranks

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
        draws: (draws, S, 6) on images drawn with replacement, each with all its captions.
        image_of: (T,) whose each text is.
    """

    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    image_of: NDArray[np.int64]

    def interval(self, figure: str) -> Interval:
        """A recall (``i2t_r1`` ... ``t2i_r10``) or a sum of them (``i2t``, ``t2i``, ``rsum``), the mean over seeds.

        With several seeds these are drawn anew too; with one the interval knows of images only.

        Raises:
            BadInput: an unknown figure.
        """
        return Interval(self._value(figure), *_percentiles(self._resampled(figure, 0), LEVEL))

    def deviation(self, figure: str) -> float:
        """Standard deviation over the draws."""
        return float(self._resampled(figure, 0).std())

    def by_seed(self, figure: str) -> NDArray[np.float64]:
        """(S,) the figure of each seed."""
        return np.asarray(self.values[:, _members(figure)].sum(axis=1))

    def minus(self, other: Sample, figure: str, level: float = LEVEL) -> Difference:
        """This mean less the other's, on the same draws of images and independent ones of seeds.

        Raises:
            BadInput: the two are not of the same queries, or an unknown figure.
        """
        if self.draws.shape[0] != other.draws.shape[0] or not np.array_equal(self.image_of, other.image_of):
            raise BadInput("a paired comparison needs ranks of the same queries; these were made on different data")
        off = self._resampled(figure, 0) - other._resampled(figure, 1)
        beyond = min(np.count_nonzero(off <= 0), np.count_nonzero(off >= 0))
        p = min(1.0, 2.0 * (beyond + 1) / (len(off) + 1))
        return Difference(self._value(figure) - other._value(figure), *_percentiles(off, level), p)

    def _value(self, figure: str) -> float:
        return float(self.by_seed(figure).mean())

    def _resampled(self, figure: str, stream: int) -> NDArray[np.float64]:
        """(draws,) the figure on each draw; `stream` tells apart the draws of seeds."""
        draws, seeds, _ = self.draws.shape
        shares = np.random.default_rng(stream).multinomial(seeds, np.full(seeds, 1.0 / seeds), size=draws) / seeds
        return np.asarray((self.draws[:, :, _members(figure)].sum(axis=2) * shares).sum(axis=1))


def sample(seeds: Sequence[Ranks], draws: int = DRAWS) -> Sample:
    """Recalls of the ranks of one seed or several, on the images as they are and drawn anew.

    Raises:
        BadInput: they are not ranks of the same queries.
    """
    first = seeds[0]
    images = len(first.i2t.better)
    for ranks in seeds:
        if len(ranks.i2t.better) != images or not np.array_equal(ranks.image_of, first.image_of):
            raise BadInput("a comparison needs ranks of the same queries; these were made on different data")
    hits = np.stack([_hits(ranks, figure) for ranks in seeds for figure in FIGURES], axis=1)
    queries = np.stack([np.ones(images), np.bincount(first.image_of, minlength=images)], axis=1)
    of_figure = [int(figure in SUMS["t2i"]) for _ in seeds for figure in FIGURES]

    def recalls(times: NDArray[np.float64]) -> NDArray[np.float64]:
        return (100.0 * (times @ hits) / (times @ queries)[:, of_figure]).reshape(-1, len(seeds), len(FIGURES))

    found = [recalls(times) for times in _blocks(images, draws)]
    return Sample(recalls(np.ones((1, images)))[0], np.concatenate(found), first.image_of)


def mcnemar(a: Sequence[Ranks], b: Sequence[Ranks], direction: Direction) -> float:
    """Two-sided p of equal R@1: McNemar's test, in the form for clusters of Durkalski et al. (Stat. Med. 2003).

    The statistic is (sum of d)^2 / (sum of d^2), with d of an image the hits of `a` less those of `b` over its queries
    (the mean over seeds); with one query an image it is McNemar's (b - c)^2 / (b + c).
    """
    figure = f"{direction}_r1"
    d = np.mean([_hits(ranks, figure) for ranks in a], axis=0) - np.mean([_hits(ranks, figure) for ranks in b], axis=0)
    spread = float(np.square(d).sum())
    return float(chi2.sf(float(d.sum()) ** 2 / spread, 1)) if spread else 1.0


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


def _percentiles(samples: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.percentile(samples, [50 * level, 100 - 50 * level])
    return float(low), float(high)
