"""The tasks by which rows are measured: which figures they have, and what each figure is the mean of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cran_bench.errors import BadInput
from cran_bench.ranking.agreement import CORRELATIONS, weighted_correlations
from cran_bench.ranking.contrasted import CROSSED, HEADLINE, Contrasted, kind_and_part
from cran_bench.ranking.metrics import KS, Direction, Ranks
from cran_bench.ranking.precisions import CATEGORY_FIGURES
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.ranking.relevance import FIGURES as RETRIEVED

TaskName = Literal["recall", "category", "contrasts", "judgments"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
FIGURES = tuple(f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in KS)
SUMS = {"i2t": FIGURES[:3], "t2i": FIGURES[3:], "rsum": FIGURES}
DIRECTIONS: dict[Direction, str] = {"i2t": "annotation", "t2i": "retrieval"}

Means = Mapping[str, tuple[NDArray[Any], NDArray[np.float64]]]
"""By figure, the (M,) images and values of the queries or pairs that it is the mean of; NaN does not count."""


@dataclass(frozen=True)
class Task:
    """What rows are measured by.

    Attributes:
        name: `recall` (the own texts or image are right), `category` (all of the same category is right), `contrasts`
            (the true caption above a false one) or `judgments` (what people approved or rated).
        figures: means over queries or pairs, and `correlations`, for which intervals are computed.
        totals: figures that combine several of them, with these.
        keys: figures with intervals in the CSV, the one by which rows are sorted and compared with the best last.
        columns: the figures in a table; `medr` has both medians.
        means: what each figure is the mean of, by figure.
        queries: what ranks must agree in to be compared, beside `Ranks.image_of`.
        directions: the figures that are compared with a reference, by what they are called.
        is_mean: whether a total is the mean of its members; else their sum.
        fractions: figures that are fractions; others are in percent.
        correlations: from the ranks of S seeds and (D, N) times that images are drawn to the (S, D, C) values of the
            last figures, which are no means, times 100; None without them.
        of: name of the set of judgments.
        by_order: figures of contrasts that, for the most part, only the order of words decides.
    """

    name: TaskName
    figures: tuple[str, ...]
    totals: Mapping[str, tuple[str, ...]]
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    means: Callable[[Ranks], Means]
    queries: Callable[[Ranks], Sequence[NDArray[Any]]]
    directions: Mapping[str, str]
    is_mean: bool = True
    fractions: frozenset[str] = frozenset()
    correlations: Callable[[Sequence[Ranks], NDArray[np.uint8]], NDArray[np.float64]] | None = None
    of: str = ""
    by_order: frozenset[str] = frozenset()

    @property
    def rated(self) -> tuple[str, ...]:
        """The figures that are correlations; none in most tasks."""
        return self.figures[-len(CORRELATIONS) :] if self.correlations else ()

    @property
    def headline(self) -> str:
        """The figure by which rows are sorted, and compared with the best."""
        return self.keys[-1]

    @property
    def tested(self) -> tuple[str, ...]:
        """The figures in which two rows are tested against each other, the headline last; none without a headline."""
        some = self.totals.get(HEADLINE, ()) if self.name == HEADLINE else self.figures
        own = [self.headline] * self.has(self.headline)
        return (*(figure for figure in some if figure not in own), *own)

    def has(self, figure: str) -> bool:
        """Whether a figure has an interval."""
        return figure in self.figures or figure in self.totals

    def digits(self, figure: str) -> int:
        """The decimals of a figure in a table."""
        return 3 if figure in self.fractions else 1

    def perfect(self, figure: str) -> float:
        """The largest value of a figure: 600 of `rsum`, 1 of fractions, 100 of others."""
        members = len(self.totals.get(figure, (figure,)))
        return 1.0 if figure in self.fractions else 100.0 * (1 if self.is_mean else members)

    def combined(self, values: NDArray[np.float64], figure: str) -> NDArray[np.float64]:
        """(...) values of a figure or total from (..., F) values of `figures`.

        Raises:
            BadInput: the figure is unknown.
        """
        if not self.has(figure):
            raise BadInput(f"there is no figure '{figure}'; known: {', '.join((*self.figures, *self.totals))}")
        members = [self.figures.index(name) for name in self.totals.get(figure, (figure,))]
        return np.asarray(values[..., members].sum(axis=-1) / (len(members) if self.is_mean else 1))

    def values(self, ranks: Ranks) -> NDArray[np.float64]:
        """(F,) the figures of some ranks; NaN where nothing counts."""
        means = [values[~np.isnan(values)] for _, values in self.means(ranks).values()]
        found = [values.mean() if len(values) else np.nan for values in means]
        if self.correlations:
            once = np.ones((1, len(ranks.i2t.better)), dtype=np.uint8)
            found.extend(self.correlations([ranks], once)[0, 0])
        return np.array(found)

    def metrics(self, ranks: Ranks) -> dict[str, float]:
        """The totals and figures of some ranks, by name."""
        values = self.values(ranks)
        return {figure: float(self.combined(values, figure)) for figure in (*self.totals, *self.figures)}

    def by_image(self, ranks: Ranks) -> NDArray[np.float64]:
        """(M, 2, N) of each figure that is a mean, the sum over what belongs to an image, and the number of that."""
        images = len(ranks.i2t.better)
        of = [(of[known], values[known]) for of, values in self.means(ranks).values() for known in [~np.isnan(values)]]
        both = [[np.bincount(of, values, images), np.bincount(of, minlength=images)] for of, values in of]
        return np.array(both, dtype=np.float64).reshape(-1, 2, images)

    def counts(self, ranks: Ranks) -> dict[str, int]:
        """The number of queries or pairs of each figure that is a mean."""
        return {figure: int(np.count_nonzero(~np.isnan(values))) for figure, (_, values) in self.means(ranks).items()}


def tasks_of(name: TaskName, ranks: RecordedRanks) -> list[Task]:
    """The tasks of a name that ranks have figures of: none, one, or one for each set of judgments."""
    if name == "contrasts":
        return [contrasts_task(ranks.contrasts)] if ranks.contrasts else []
    if name == "judgments":
        return [judgments_task(of, ranks) for of in sorted({*ranks.relevant, *ranks.agreements})]
    return [RECALL] if name == "recall" else [CATEGORY] * (ranks.precisions is not None)


def evidence_metrics(ranks: RecordedRanks, correlations: bool = True) -> dict[str, float]:
    """The figures of contrasts and judgments by name, as records have them; correlations take most of the time."""
    names: tuple[TaskName, ...] = ("contrasts", "judgments")
    tasks = [task for name in names for task in tasks_of(name, ranks)]
    if not correlations:
        means = [task.figures[: len(task.figures) - len(task.rated)] for task in tasks]
        tasks = [replace(task, figures=some, correlations=None) for task, some in zip(tasks, means, strict=True)]
    return {figure: value for task in tasks for figure, value in task.metrics(ranks).items()}


def contrasts_task(contrasts: Contrasted) -> Task:
    """The task of contrasts of these kinds."""
    figures, ranked = contrasts.names, tuple(contrasts.ranked)
    order = ("balanced", *CROSSED, "same_words")
    parts = [name for part in order for name in figures if kind_and_part(name)[1] == part]
    alike = {name: contrasts.same_words[~np.isnan(contrasts.by_pair(name))].mean() for name in figures}
    by_order = {name for name, share in alike.items() if share > 0.5}
    return Task(
        "contrasts",
        tuple(figures),
        {HEADLINE: ranked} if ranked else {},
        (*figures, HEADLINE),
        tuple(dict.fromkeys((*[HEADLINE] * bool(ranked), *ranked, *parts, *figures))),
        partial(_shares, figures),
        lambda ranks: [np.array(x) for name, x in vars(_contrasts(ranks)).items() if name not in ("text", "crossed")],
        {"contrasts": HEADLINE} if ranked else {},
        by_order=frozenset({*by_order, HEADLINE} if by_order.intersection(ranked) else by_order),
    )


def judgments_task(of: str, ranks: RecordedRanks) -> Task:
    """The task of a set of judgments in the directions that these ranks have."""
    sides = sorted(ranks.relevant.get(of, ()))
    rated = tuple(f"{of}.{name}" for name in CORRELATIONS) if of in ranks.agreements else ()
    names = ("own_r1", *RETRIEVED)
    found = {name: tuple(f"{of}.{side}_{name}" for side in sides) for name in names}
    figures = tuple(f"{of}.{side}_{name}" for side in sides for name in names)
    both = [f"{of}.{side}_{name}" for side in reversed(sides) for name in ("own_r1", "r1")]
    totals = {f"{of}.map_r": found["map_r"]} if len(sides) > 1 else {}
    headline = f"{of}.tau_c" if rated else next(iter((*totals, *found["map_r"])))
    return Task(
        "judgments",
        (*figures, *rated),
        totals,
        (*(key for key in (*figures, *totals, *rated) if key != headline), headline),
        tuple(dict.fromkeys((headline, *both, *rated, *totals, *figures))),
        partial(_retrieved, of),
        partial(_judged, of),
        {**({"ratings": headline} if rated else {}), **{DIRECTIONS[side]: f"{of}.{side}_map_r" for side in sides}},
        fractions=frozenset(totals).union(*(found[name] for name, (_, scale) in RETRIEVED.items() if scale == 1)),
        correlations=partial(_correlations, of) if rated else None,
        of=of,
    )


def _hits(ranks: Ranks) -> Means:
    of = {"i2t": np.arange(len(ranks.i2t.better)), "t2i": ranks.image_of}
    return {f"{side}_r{k}": (of[side], 100.0 * getattr(ranks, side).hits(k)) for side in of for k in KS}


def _average_precisions(ranks: Ranks) -> Means:
    found = ranks.precisions
    if found is None:
        raise BadInput("these ranks have no average precisions, as the data had no labels: run the method again")
    images = np.arange(len(ranks.i2t.better))
    sides = ("i2t", images, found.i2t), ("t2i", ranks.image_of, found.t2i)
    names = {"map": "ap", "map50": "ap50"}
    return {f"{side}_{name}": (of, getattr(x, names[name])) for name in names for side, of, x in sides}


def _recorded(ranks: Ranks) -> RecordedRanks:
    return ranks if isinstance(ranks, RecordedRanks) else RecordedRanks(**vars(ranks))


def _contrasts(ranks: Ranks) -> Contrasted:
    contrasts = _recorded(ranks).contrasts
    if contrasts is None:
        raise BadInput("these ranks have no contrasts: run the method again with --contrasts")
    return contrasts


def _shares(figures: Sequence[str], ranks: Ranks) -> Means:
    contrasts = _contrasts(ranks)
    images = contrasts.drawn_with
    return {figure: (images, contrasts.by_pair(figure)) for figure in figures}


def _retrieved(of: str, ranks: Ranks) -> Means:
    means: dict[str, tuple[NDArray[Any], NDArray[np.float64]]] = {}
    for side, found in _recorded(ranks).relevant.get(of, {}).items():
        images = found.query if side == "i2t" else ranks.image_of[found.query]
        means[f"{of}.{side}_own_r1"] = images, 100.0 * getattr(ranks, side).take(found.query).hits(1)
        for name, (key, scale) in RETRIEVED.items():
            means[f"{of}.{side}_{name}"] = images, scale * getattr(found, key)
    return means


def _judged(of: str, ranks: Ranks) -> list[NDArray[Any]]:
    recorded = _recorded(ranks)
    found = [x for side in recorded.relevant.get(of, {}).values() for x in (side.query, side.right)]
    if of in recorded.agreements:
        found += [getattr(recorded.agreements[of], name) for name in ("image", "caption", "ratings")]
    return found


def _correlations(of: str, seeds: Sequence[Ranks], times: NDArray[np.uint8]) -> NDArray[np.float64]:
    known: dict[bytes, NDArray[np.float64]] = {}  # seeds of a closed form have the same scores
    rated = [_recorded(ranks).agreements[of] for ranks in seeds]
    for ranks, one in zip(seeds, rated, strict=True):
        if one.rank.tobytes() not in known:
            known[one.rank.tobytes()] = 100.0 * weighted_correlations(one, ranks.image_of, times)
    return np.stack([known[one.rank.tobytes()] for one in rated])


RECALL = Task(
    "recall",
    FIGURES,
    SUMS,
    ("i2t_r1", "t2i_r1", "rsum"),
    (*FIGURES, "medr", "rsum", "twin_accuracy"),
    _hits,
    lambda ranks: [],
    {"annotation": "i2t", "retrieval": "t2i"},
    is_mean=False,
)
CATEGORY = Task(
    "category",
    ("i2t_map", "t2i_map", "i2t_map50", "t2i_map50"),
    {"map": ("i2t_map", "t2i_map")},
    ("i2t_map", "t2i_map", "map"),
    CATEGORY_FIGURES,
    _average_precisions,
    lambda ranks: [ranks.precisions.labels] if ranks.precisions else [],
    {"annotation": "i2t_map", "retrieval": "t2i_map"},
    fractions=frozenset(CATEGORY_FIGURES),
)
