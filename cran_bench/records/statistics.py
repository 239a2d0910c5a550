"""Uncertainty of figures: bootstrap over images (the captions of one image are not independent) and over seeds.

An image is drawn with its texts, so that both directions change together.  The gallery is fixed: the average precisions
of queries of one category are correlated through the candidates they share, which makes intervals of mAP a little too
short.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, stdtrit  # of scipy.stats, which takes half a second to import

from cran_bench.errors import BadInput
from cran_bench.machine.progress import track
from cran_bench.ranking.metrics import Direction, Ranks
from cran_bench.records.standings import Estimates, welch
from cran_bench.records.tasks import RECALL, Task

DRAWS = 10_000
LEVEL = 0.05  # significance level of tests; intervals cover 1 - LEVEL

_BLOCK = 500  # draws per matrix product


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval (95 % unless another level is given)."""

    value: float
    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        """The lower and the upper bound."""
        return self.low, self.high

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
    """The F figures of a method with S seeds on N images, as measured and on bootstrap resamples of the images.

    Attributes:
        values: (S, F) figures of each seed, in the order and scale of the task.
        draws: (draws, F) means over seeds on images drawn with replacement, each image with all its captions.
        images: N.
        queries: the row of each text's own image, and what else ranks must agree in to be compared.
        task: what is measured.
    """

    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    images: int
    queries: Sequence[NDArray[Any]]
    task: Task

    def interval(self, figure: str) -> Interval:
        """The mean over seeds of a figure of the task, such as ``i2t_r1`` and ``rsum``, or ``i2t_map`` and ``map``.

        The interval covers the choice of images, and that of seeds if there are several.

        Raises:
            BadInput: the figure is unknown.
        """
        value = self._value(figure)
        draws = _widened(self.task.combined(self.draws, figure), value, [self._seeds(figure)])
        return Interval(value, *_percentiles(draws, LEVEL))

    def by_seed(self, figure: str) -> NDArray[np.float64]:
        """(S,) values of a figure, one per seed."""
        return self.task.combined(self.values, figure)

    def minus(self, other: Sample, figure: str, level: float = LEVEL) -> Difference:
        """The paired difference of this mean minus the other's, on the same draws of images; seeds are independent.

        Raises:
            BadInput: the two samples have different queries, or the figure is unknown.
        """
        if (self.images, self.task.figures) != (other.images, other.task.figures) or not _agree(
            self.queries, other.queries
        ):
            raise BadInput("a paired comparison needs ranks of the same queries: run both methods on the same data")
        value = self._value(figure) - other._value(figure)
        draws = self.task.combined(self.draws - other.draws, figure)
        draws = _widened(draws, value, [self._seeds(figure), other._seeds(figure)])
        opposite = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
        p = min(1.0, 2.0 * (opposite + 1) / (len(draws) + 1))
        return Difference(value, *_percentiles(draws, level), p)

    def _value(self, figure: str) -> float:
        return float(self.by_seed(figure).mean())

    def _seeds(self, figure: str) -> tuple[float, int]:
        """The variance of the mean due to seeds, and its degrees of freedom; (0, 1) if nothing depends on the seed.

        It includes the residual (interaction) variance of the images, which the draws contain as well: subtracting an
        estimate of it makes intervals too short wherever few seeds happen to agree.
        """
        values = self.by_seed(figure)
        return (float(values.var(ddof=1)) / len(values), len(values) - 1) if np.ptp(values) else (0.0, 1)


def sample(seeds: Sequence[Ranks], draws: int = DRAWS, task: Task = RECALL) -> Sample:
    """Compute the figures of one or several seeds, as measured and on bootstrap resamples of the images.

    Raises:
        BadInput: the seeds have different queries, or no average precisions for `category`.
    """
    return samples([seeds], draws, task)[0]


def samples(rows: Sequence[Sequence[Ranks]], draws: int = DRAWS, task: Task = RECALL) -> list[Sample]:
    """`sample` of several methods; drawing for all of them at once takes a fifth of the time.

    Raises:
        BadInput: they are not ranks of the same queries, or have no average precisions for `category`.
    """
    first = rows[0][0]
    images, queries = len(first.i2t.better), [first.image_of, *task.queries(first)]
    for ranks in itertools.chain(*rows):
        if not _agree([ranks.image_of, *task.queries(ranks)], queries):
            raise BadInput("a comparison needs ranks of the same queries: run the methods on the same data")
    every = [np.stack([task.by_image(ranks) for ranks in seeds]) for seeds in rows]
    sums, counts = [x[:, :, 0] for x in every], every[0][0, :, 1].T
    size = counts.shape[1]
    columns = np.concatenate([*(x.mean(axis=0).T for x in sums), counts], axis=1)
    resampled = np.empty((len(rows), draws, len(task.figures)))
    values = [np.stack([task.values(ranks) for ranks in seeds]) for seeds in rows]
    for start, times in zip(range(0, draws, _BLOCK), _blocks(images, draws), strict=True):
        *drawn, known = np.split(times @ columns, len(rows) + 1, axis=1)
        for place, x in enumerate(drawn):  # a kind of contrasts may have so few images that none is drawn
            found = np.where(known > 0, x / np.maximum(known, 1), values[place][:, :size].mean(axis=0))
            resampled[place, start : start + len(times), :size] = found
    if task.correlations:
        for place, seeds in enumerate(track(rows, f"resampling the ratings of {task.of}", total=len(rows))):
            resampled[place, :, size:] = task.correlations(seeds, times_drawn(images, draws)).mean(axis=0)
    about = images, queries, task
    return [Sample(of, drawn, *about) for of, drawn in zip(values, resampled, strict=True)]


def _agree(queries: Sequence[NDArray[Any]], others: Sequence[NDArray[Any]]) -> bool:
    return len(queries) == len(others) and all(map(np.array_equal, queries, others))


def behind_best(rows: Mapping[str, Sample]) -> dict[str, Interval]:
    """Each row's headline minus the best of the other rows': multiple comparisons with the best.

    All intervals hold at once with probability 1 - `LEVEL`, so rows that are equally good are told apart, by an
    interval below zero, in no more than that share of tables (Hsu, *Multiple Comparisons*, 1996).
    """
    gaps = estimates(list(rows.values())).gaps(LEVEL).to_best().tolist()
    return {label: Interval(*gap) for label, gap in zip(rows, gaps, strict=True)}


def estimates(rows: Sequence[Sample]) -> Estimates:
    """The headline of several rows, for comparisons between all of them.

    A row with one seed gets the mean variance over seeds of the rows that depend on them.
    """
    task = rows[0].task
    figure = task.headline
    values = np.array([row._value(figure) for row in rows])
    draws = np.stack([task.combined(row.draws, figure) for row in rows], axis=1) - values
    seeds = np.array([len(row.values) for row in rows])
    variance, freedom = np.array([row._seeds(figure) for row in rows]).T
    known = variance > 0
    if known.any():
        total, freedom[seeds == 1] = welch(variance[known] * seeds[known], freedom[known])
        variance[seeds == 1] = total / known.sum()
    resolution = 1e-11 * (1.0 if figure in task.fractions else 100.0)
    most = task.perfect(figure) * (2 if task.correlations else 1)
    return Estimates(values, draws, variance, freedom, rows[0].images, resolution, most)


def mcnemar(a: Ranks, b: Ranks, direction: Direction) -> float:
    """Two-sided p value of McNemar's test of equal R@1, for clustered data (Durkalski et al., Stat. Med. 2003).

    The statistic is (sum of d)^2 / (sum of d^2), where d is the share of an image's queries that `a` answers right
    minus the share that `b` does; with one query per image it is McNemar's (b - c)^2 / (b + c).
    """
    place = RECALL.figures.index(f"{direction}_r1")
    (hits, queries), (others, _) = (RECALL.by_image(ranks)[place] for ranks in (a, b))
    d = (hits - others) / queries
    spread = float(np.square(d).sum())
    return float(chdtrc(1, float(d.sum()) ** 2 / spread)) if spread else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction (1979) of p values for multiple testing."""
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in corrected]


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


def _widened(draws: NDArray[np.float64], value: float, seeds: Sequence[tuple[float, int]]) -> NDArray[np.float64]:
    """Move sorted draws over images away from `value`, so that their percentiles at any level account for seeds too.

    Distances add in quadrature: that of a draw, and Student's t quantile of the same level times the deviation over
    seeds, whose variances and degrees of freedom are given (Welch's for several).  Unlike Satterthwaite's over images
    and seeds, such intervals hold their level whatever the share of the seeds (Graybill and Wang, JASA 1980).
    """
    variance, freedom = welch(*np.array(seeds, float).T)
    if not variance:
        return draws
    levels = (np.arange(len(draws)) + 0.5) / len(draws)
    of_seeds = np.sqrt(variance) * stdtrit(freedom, levels)
    return np.sort(value + np.copysign(np.hypot(np.sort(draws) - value, of_seeds), of_seeds))


def _percentiles(samples: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.percentile(samples, [50 * level, 100 - 50 * level])
    return float(low), float(high)
