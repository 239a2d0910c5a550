"""Uncertainty of figures: bootstrap over images (the captions of one image are not independent) and over seeds.

An image is drawn with its texts, so that both directions change together.  The gallery is fixed: the average precisions
of queries of one category are correlated through the candidates they share, which makes intervals of mAP a little too
short.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, ndtr, stdtrit  # of scipy.stats, which takes half a second to import

from cran_bench.errors import BadInput
from cran_bench.ranking.metrics import KS, Direction, Ranks
from cran_bench.ranking.precisions import CATEGORY_FIGURES

DRAWS = 10_000
LEVEL = 0.05  # significance level of tests; intervals cover 1 - LEVEL
FIGURES = tuple(f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in KS)
SUMS = {"i2t": FIGURES[:3], "t2i": FIGURES[3:], "rsum": FIGURES}

_BLOCK = 500  # draws per matrix product


@dataclass(frozen=True)
class Task:
    """What rows are measured by.

    Attributes:
        name: `recall` (the own texts or image are right) or `category` (all of the same category is right).
        figures: means over queries, for which intervals are computed.
        totals: figures that combine several of them, with these.
        keys: the figures that say most, the one by which rows are sorted and compared with the best last.
        columns: the figures in a table; `medr` has both medians.
        by_query: from ranks and one of `figures` to its (Q,) values, NaN for a query that does not count.
        is_mean: whether a total is the mean of its members; else their sum.
        scale: 100 for percent, 1 for fractions.
        digits: decimals of a figure.
        directions: the figure that stands for each direction.
    """

    name: str
    figures: tuple[str, ...]
    totals: Mapping[str, tuple[str, ...]]
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    by_query: Callable[[Ranks, str], NDArray[np.float64]]
    is_mean: bool
    scale: float
    digits: int
    directions: Mapping[Direction, str]

    @property
    def headline(self) -> str:
        """The figure by which rows are sorted, and compared with the best."""
        return self.keys[-1]

    def has(self, figure: str) -> bool:
        """Whether a figure has an interval."""
        return figure in self.figures or figure in self.totals

    def of(self, values: NDArray[np.float64], figure: str) -> NDArray[np.float64]:
        """(...) values of a figure or total from (..., F) values of `figures`.

        Raises:
            BadInput: the figure is unknown.
        """
        if not self.has(figure):
            raise BadInput(f"there is no figure '{figure}'; known: {', '.join((*self.figures, *self.totals))}")
        members = [self.figures.index(name) for name in self.totals.get(figure, (figure,))]
        return np.asarray(values[..., members].sum(axis=-1) / (len(members) if self.is_mean else 1))

    def by_image(self, ranks: Ranks, figure: str) -> NDArray[np.float64]:
        """(2, N) the sum over an image's queries in the figure's direction, and the number of those that count."""
        values, images = self.by_query(ranks, figure), len(ranks.i2t.better)
        known = ~np.isnan(values)
        both = np.stack([np.where(known, values, 0.0), known])
        if figure.startswith("i2t"):
            return both
        return np.stack([np.bincount(ranks.image_of, row, images) for row in both]).astype(np.float64)

    def labels(self, ranks: Ranks) -> NDArray[np.uint8] | None:
        """(N, C) the categories of each image; None if the task needs none."""
        return ranks.precisions.labels if self is CATEGORY and ranks.precisions else None


def _hits(ranks: Ranks, figure: str) -> NDArray[np.float64]:
    direction, k = figure.split("_r")
    hits: NDArray[np.float64] = getattr(ranks, direction).hits(int(k))
    return hits


def _average_precisions(ranks: Ranks, figure: str) -> NDArray[np.float64]:
    if ranks.precisions is None:
        raise BadInput("these ranks have no average precisions, as the data had no labels: run the method again")
    direction, name = figure.split("_")
    values: NDArray[np.float64] = getattr(getattr(ranks.precisions, direction), name.replace("map", "ap"))
    return values


RECALL = Task(
    "recall",
    FIGURES,
    SUMS,
    ("i2t_r1", "t2i_r1", "rsum"),
    (*FIGURES, "medr", "rsum", "twin_accuracy"),
    _hits,
    False,
    100.0,
    1,
    {"i2t": "i2t", "t2i": "t2i"},
)
CATEGORY = Task(
    "category",
    ("i2t_map", "t2i_map", "i2t_map50", "t2i_map50"),
    {"map": ("i2t_map", "t2i_map")},
    ("i2t_map", "t2i_map", "map"),
    CATEGORY_FIGURES,
    _average_precisions,
    True,
    1.0,
    3,
    {"i2t": "i2t_map", "t2i": "t2i_map"},
)
TASKS = RECALL, CATEGORY


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
        shares: (N, S, F) contribution of each image to `values`, times N.
        image_of: (T,) the row of each text's own image.
        labels: (N, C) the categories of each image; None for recalls.
        task: what is measured.
    """

    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    shares: NDArray[np.float64]
    image_of: NDArray[np.int64]
    labels: NDArray[np.uint8] | None = None
    task: Task = RECALL

    def interval(self, figure: str) -> Interval:
        """The mean over seeds of a figure of the task, such as ``i2t_r1`` and ``rsum``, or ``i2t_map`` and ``map``.

        The interval covers the choice of images, and that of seeds if there are several.

        Raises:
            BadInput: the figure is unknown.
        """
        value = self._value(figure)
        draws = _widened(self.task.of(self.draws, figure), value, [self._seeds(figure)])
        return Interval(value, *_percentiles(draws, LEVEL))

    def by_seed(self, figure: str) -> NDArray[np.float64]:
        """(S,) values of a figure, one per seed."""
        return self.task.of(self.values, figure)

    def minus(self, other: Sample, figure: str, level: float = LEVEL) -> Difference:
        """The paired difference of this mean minus the other's, on the same draws of images; seeds are independent.

        Raises:
            BadInput: the two samples have different queries, or the figure is unknown.
        """
        about = ((x.image_of, x.labels, x.task.name, len(x.shares)) for x in (self, other))
        if not all(np.array_equal(a, b) for a, b in zip(*about, strict=True)):
            raise BadInput("a paired comparison needs ranks of the same queries: run both methods on the same data")
        value = self._value(figure) - other._value(figure)
        draws = self.task.of(self.draws - other.draws, figure)
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
    images = len(first.i2t.better)
    labels = task.labels(first)
    for ranks in itertools.chain(*rows):
        same = np.array_equal(task.labels(ranks), labels)  # type: ignore[arg-type]
        if not (same and np.array_equal(ranks.image_of, first.image_of)):
            raise BadInput("a comparison needs ranks of the same queries: run the methods on the same data")
    every = [np.stack([[task.by_image(r, f)[0] for f in task.figures] for r in seeds]) for seeds in rows]
    every = [sums.transpose(2, 0, 1) for sums in every]
    queries = np.stack([task.by_image(first, figure)[1] for figure in task.figures], axis=1)
    columns = np.concatenate([*(sums.mean(axis=1) for sums in every), queries], axis=1)
    resampled = np.empty((len(rows), draws, len(task.figures)))
    for start, times in zip(range(0, draws, _BLOCK), _blocks(images, draws), strict=True):
        *sums, counts = np.split(times @ columns, len(rows) + 1, axis=1)
        resampled[:, start : start + len(times)] = [task.scale * drawn / np.maximum(counts, 1) for drawn in sums]
    shares = [task.scale * sums / queries.mean(axis=0) for sums in every]
    about = first.image_of, labels, task
    return [Sample(of.mean(axis=0), drawn, of, *about) for of, drawn in zip(shares, resampled, strict=True)]


def behind_best(rows: Mapping[str, Sample], figure: str = "", level: float = LEVEL) -> dict[str, Interval]:
    """Each row's mean minus the best of the other rows' means, by default of the task's headline.

    These are multiple comparisons with the best.

    All intervals hold at once with probability 1 - `level`, so rows that are equally good are told apart, by an
    interval below zero, in no more than that share of tables (Hsu, *Multiple Comparisons*, 1996).  They come from
    intervals for all pairs of rows, whose common critical value is the quantile of the largest studentised deviation of
    any pair in a draw.  Images are drawn for all rows at once; Student's quantiles replace the normal ones, those for
    seeds as in `minus`.  A row with one seed gets the mean variance over seeds of the rows that depend on them.
    """
    task = next(iter(rows.values())).task
    figure = figure or task.headline
    values = np.array([row._value(figure) for row in rows.values()])
    draws = np.stack([task.of(row.draws, figure) for row in rows.values()], axis=1) - values
    seeds = np.array([len(row.values) for row in rows.values()])
    variance, freedom = np.array([row._seeds(figure) for row in rows.values()]).T
    known = variance > 0
    if known.any():
        total, freedom[seeds == 1] = _welch(variance[known] * seeds[known], freedom[known])
        variance[seeds == 1] = total / known.sum()
    noise = np.sqrt(variance) * np.random.default_rng(0).standard_normal(draws.shape)
    gaps, of_images, largest = values[:, None] - values, np.zeros((len(rows), len(rows))), np.zeros(len(draws))
    for row in range(1, len(rows)):
        apart = draws[:, [row]] - draws[:, :row]
        of_images[row, :row] = of_images[:row, row] = apart.var(axis=0)
        spread = np.sqrt(of_images[row, :row] + variance[row] + variance[:row]) + 1e-11 * task.scale  # of equal rows, 0
        apart += noise[:, [row]] - noise[:, :row]
        np.maximum(largest, (np.abs(apart) / spread).max(axis=1), out=largest)
    percentile = ndtr(np.quantile(largest, 1 - level))
    of_seeds, freedom = _welch(*(np.stack(np.broadcast_arrays(x[:, None], x)) for x in (variance, freedom)))
    critical = [stdtrit(np.maximum(f, 1), percentile) for f in (len(next(iter(rows.values())).shares) - 1, freedom)]
    half = np.sqrt(critical[0] ** 2 * of_images + critical[1] ** 2 * of_seeds)
    np.fill_diagonal(gaps, np.inf)
    low, high = gaps - half, (gaps + half).min(axis=1)
    to_best = np.where(high >= 0, low, np.inf).min(axis=1)  # the best row is one that is not behind
    low = np.where(np.isinf(to_best), low.min(axis=1), to_best)
    bounds = np.stack([gaps.min(axis=1), low, high], axis=1).tolist()
    return {label: Interval(*interval) for label, interval in zip(rows, bounds, strict=True)}


def mcnemar(a: Ranks, b: Ranks, direction: Direction) -> float:
    """Two-sided p value of McNemar's test of equal R@1, for clustered data (Durkalski et al., Stat. Med. 2003).

    The statistic is (sum of d)^2 / (sum of d^2), where d is the share of an image's queries that `a` answers right
    minus the share that `b` does; with one query per image it is McNemar's (b - c)^2 / (b + c).
    """
    figure = f"{direction}_r1"
    (hits, queries), (others, _) = RECALL.by_image(a, figure), RECALL.by_image(b, figure)
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
    variance, freedom = _welch(*np.array(seeds, float).T)
    if not variance:
        return draws
    levels = (np.arange(len(draws)) + 0.5) / len(draws)
    of_seeds = np.sqrt(variance) * stdtrit(freedom, levels)
    return np.sort(value + np.copysign(np.hypot(np.sort(draws) - value, of_seeds), of_seeds))


def _welch(variances: NDArray[np.float64], freedom: NDArray[np.float64]) -> tuple[Any, Any]:
    """The sum of independent variances along the first axis, and its degrees of freedom by Welch and Satterthwaite."""
    total = variances.sum(axis=0)
    return total, total**2 / np.maximum((variances**2 / freedom).sum(axis=0), 1e-300)


def _percentiles(samples: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.percentile(samples, [50 * level, 100 - 50 * level])
    return float(low), float(high)
