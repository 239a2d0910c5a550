"""All tables at a glance: methods x datasets, for each task and protocol, with ranks, means over datasets and costs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cran_bench.errors import BadInput, did_you_mean
from cran_bench.ranking.contrasted import FEW_PAIRS
from cran_bench.records.chance import chance_and_perfect
from cran_bench.records.schema import TESTED_ON
from cran_bench.records.standings import Scored, gaps_like_these, mean_over, rank_intervals, weights
from cran_bench.records.statistics import LEVEL, estimates
from cran_bench.records.store import INTERVALS_UP_TO
from cran_bench.tables.figures import UNSEEN, heading
from cran_bench.tables.paper import dataset_name
from cran_bench.tables.rows import EXPOSED, REFERENCE, Row, exposure_notes, merge_notes, reference_notes
from cran_bench.tables.tables import Table
from cran_bench.tables.typesetting import BEST, DATA_FORMATS, MAYBE, export, require_format, typeset

if TYPE_CHECKING:
    import pandas as pd

Rank: TypeAlias = tuple[int, int]
"""The lowest and the highest rank of an interval; 1 is the best."""

NOT_RUN, NO_FIGURE = "-", "none"
FRONTS = {"seconds": "time", "memory": "memory"}
_FIGURES = {
    "rsum": "rsum, the sum of the six recalls in percent",
    "mAP": "mAP, the mean average precision by category of both directions",
    "mean": "the mean over kinds of the share of balanced pairs, in percent, whose true caption scores higher",
    "tau-c": "tau-c with people's ratings, times 100",
    "mAP@R": "mAP@R with all right answers",
}
_HEADINGS = {"mean": "mean", "here": "here", "alike": "alike", "seconds": "fit s", "memory": "GB", "front": "front"}


@dataclass(frozen=True)
class Cell:
    """A row in one table.

    Attributes:
        value: the headline, a mean over seeds; NaN without one.
        score: percent of the way from chance to a perfect ranking; NaN without a value.
        text: the value with marks of what it is worth, or why there is none.
        status: ``ok``, ``failed`` or ``damaged``.
        rank: the interval of its rank in the table, if it has one.
        place: `best`, `maybe` or `behind`; '' without other ranked rows.
    """

    value: float
    score: float
    text: str
    status: str
    rank: Rank | None
    place: str

    def __str__(self) -> str:
        """The text with the rank and a mark for the best row and those that may be."""
        mark = {"best": f" {BEST}", "maybe": f" {MAYBE}"}.get(self.place, "")
        return f"{self.text} [{ranks_text(self.rank)}]{mark}" if self.rank else self.text


@dataclass(frozen=True)
class MeanScore:
    """The mean of a row that is ranked on all datasets, and its costs there.

    Attributes:
        score: mean over datasets.
        here: the interval of its rank on these datasets; None without ranks, as for the next.
        alike: that on datasets like these; None for a single dataset, too.
        seconds: of the fits, summed over the tables of the mean.
        memory: the most in any of them, in bytes.
        fronts: the costs, `seconds` and `memory`, for which no other row has both a mean as high and a cost as low.
    """

    score: float
    here: Rank | None
    alike: Rank | None
    seconds: float
    memory: int
    fronts: frozenset[str]


@dataclass(frozen=True)
class Standing:
    """A method in all tables of a task: a cell per table, None where it was not run, and its mean, if it has one.

    A reference, which is no method, has neither ranks nor a mean.
    """

    label: str
    cells: Sequence[Cell | None]
    mean: MeanScore | None
    is_reference: bool = False

    def contents(self) -> dict[str, Any]:
        """JSON values: an object for each cell, and the mean with its ranks and costs, null without one."""
        cells = [
            one and {"value": _rounded(one.value), "text": one.text, "rank": one.rank, "place": one.place}
            for one in self.cells
        ]
        mean = self.mean
        return {
            "label": self.label,
            "reference": self.is_reference,
            "cells": cells,
            "mean": _rounded(mean.score) if mean else None,
            "rankHere": mean and mean.here,
            "rankAlike": mean and mean.alike,
            "seconds": mean and _rounded(mean.seconds),
            "memory": mean and mean.memory,
            "front": [FRONTS[name] for name in FRONTS if mean and name in mean.fronts],
        }


@dataclass(frozen=True)
class TaskSummary:
    """All tables of one task and protocol, which are the columns."""

    tables: Sequence[Table]

    @property
    def title(self) -> str:
        """Task, protocol and folds."""
        group, kind = self.tables[0].group, self.tables[0].kind or "recall"
        folds = [f"mean of {group.folds} folds"] if group.folds else []
        return " · ".join([kind, f"protocol {group.protocol}", *folds])

    @property
    def headline(self) -> str:
        """The figure in the cells."""
        return self.tables[0].task.headline

    @property
    def is_quick(self) -> bool:
        """Whether the data are those of `--quick`, whose rows are not compared."""
        return self.tables[0].group.quick

    @cached_property
    def names(self) -> list[str]:
        """The headings of the columns: datasets, with a number where one has several tables."""
        labels = [table.group.dataset for table in self.tables]
        numbers = [labels[: place + 1].count(label) for place, label in enumerate(labels)]
        return [f"{x} ({k})" if labels.count(x) > 1 else x for x, k in zip(labels, numbers, strict=True)]

    @cached_property
    def complete(self) -> list[str]:
        """The labels of the rows that have a mean: those ranked in the largest table of every dataset."""
        first, *others = [self._ranked[place] for place in self._largest.values()]
        return [label for label in first if all(label in rows for rows in others)]

    @cached_property
    def counted(self) -> list[int]:
        """The places of the tables that means are over: the largest of each dataset, and those that have all rows."""
        others = [k for k, rows in enumerate(self._ranked) if self.complete and rows.keys() >= {*self.complete}]
        return sorted({*self._largest.values(), *others})

    @property
    def has_means(self) -> bool:
        """Whether means are over several tables."""
        return len(self.counted) > 1 and bool(self.complete)

    @cached_property
    def _ranked(self) -> list[dict[str, Row]]:
        return [{row.label: row for row in table.ranked} for table in self.tables]

    @cached_property
    def _largest(self) -> dict[str, int]:
        """The place of the table with most ranked rows of each dataset, the first of several."""
        order = sorted(range(len(self.tables)), key=lambda place: (len(self._ranked[place]), -place))
        return {self.tables[place].group.dataset: place for place in order}

    @cached_property
    def standings(self) -> list[Standing]:
        """The rows: those with a mean, the best first, then others, those in most tables first."""
        scales = [_scale(table) for table in self.tables]
        columns = [_cells(table, *scale) for table, scale in zip(self.tables, scales, strict=True)]
        labels, means = dict.fromkeys(label for column in columns for label in column), self._means(scales)
        references = {row.label for table in self.tables for row in table.rows if row.reference}
        rows = [
            Standing(label, [column.get(label) for column in columns], means.get(label), label in references)
            for label in labels
        ]
        return sorted(rows, key=lambda row: (-row.mean.score if row.mean else math.inf, row.cells.count(None)))

    def _means(self, scales: Sequence[tuple[float, float]]) -> dict[str, MeanScore]:
        """The means of the complete rows, given the headline at chance and if perfect for each table."""
        if not self.complete:
            return {}
        rows = [[self._ranked[place][label] for place in self.counted] for label in self.complete]
        scales = [scales[place] for place in self.counted]
        datasets = [_cluster(self.tables[place].group.dataset) for place in self.counted]
        values = np.array([[row.mean(self.headline) for row in cells] for cells in rows])
        scores = _score(values, *np.array(scales).T)
        means = scores @ weights(datasets).sum(axis=0)
        seconds = [sum(row.seconds("fit") for row in cells) for cells in rows]
        memory = [max(row.peak_memory for row in cells) for cells in rows]
        on = {"seconds": on_front(means, np.array(seconds)), "memory": on_front(means, np.array(memory))}
        here, alike = self._ranks(scales, datasets)
        return {
            label: MeanScore(
                score=float(means[k]),
                here=here[k],
                alike=alike[k],
                seconds=seconds[k],
                memory=memory[k],
                fronts=frozenset(name for name in on if on[name][k] and not self.is_quick),
            )
            for k, label in enumerate(self.complete)
        }

    def _ranks(
        self, scales: Sequence[tuple[float, float]], datasets: Sequence[str]
    ) -> tuple[Sequence[Rank | None], Sequence[Rank | None]]:
        """The intervals of the ranks of the complete rows' means, on these datasets and on datasets like these."""
        none: list[Rank | None] = [None] * len(self.complete)
        tables = [self.tables[place] for place in self.counted]
        if self.is_quick or not tables[0].has_intervals:
            return none, none
        scored = []
        for table, scale, dataset in zip(tables, scales, datasets, strict=True):
            found = estimates([table.samples[label] for label in self.complete]).scaled(*scale)
            scored.append(Scored(found, dataset, table.group.split_sha))
        certain, others = mean_over(scored).gaps(LEVEL).certain, gaps_like_these(scored, LEVEL)
        alike = none if others is None else _pairs(rank_intervals(certain, others.certain))
        return _pairs(rank_intervals(certain)), alike

    @property
    def notes(self) -> list[str]:
        """Sentences on what the cells are, and on what is missing."""
        rows, tables = [row for row in self.standings if not row.is_reference], self.tables
        named = list(zip(self.names, tables, strict=True))
        figure = heading(self.headline)
        lines = [f"Cells: {_FIGURES.get(figure, figure)}."]
        lines += [f"{name}: {t.title}. {t.group.inputs}" for name, t in named if name != t.group.dataset]
        if len(rows) > len(self.complete) and len(self._largest) > 1:
            lines.append(self._without_mean(len(rows)))
        if self.has_means and len(self.counted) < len(tables):
            left = [name for place, name in enumerate(self.names) if place not in self.counted]
            lines.append(f"Not in the mean, as rows that have one lack it: {', '.join(left)}.")
        if failed := sum(row.status != "ok" for table in tables for row in table.rows):
            many = "1 cell has" if failed == 1 else f"{failed} cells have"
            lines.append(f"{many} failed runs or damaged records: cran-bench table says why.")
        if single := [name for name, table in named if len(table.rank_intervals()) == 1]:
            lines.append(f"{', '.join(single)}: a single ranked row, whose rank is 1 of 1.")
        texts = [cell.text for row in rows for cell in row.cells if cell]
        if NO_FIGURE in texts:
            lines.append(f"{NO_FIGURE}: no kind of contrasts has {FEW_PAIRS} balanced pairs.")
        if any(UNSEEN in text for text in texts):
            lines.append(f"{UNSEEN} does not see the order of words, so that it was not tested and is not ranked.")
        if not tables[0].has_intervals:
            lines.append(f"No ranks for over {INTERVALS_UP_TO:,} records: select fewer.")
        for told in (reference_notes, exposure_notes):
            lines += dict.fromkeys(note for table in tables for note in told(table.rows))
        return lines + merge_notes([row for table in tables for row in table.rows], tables[0].folders)

    def _without_mean(self, rows: int) -> str:
        """A sentence on the rows that lack a dataset, and on the dataset without which most rows would have a mean."""
        of = {dataset: self._ranked[place].keys() for dataset, place in self._largest.items()}
        which = "both datasets" if len(of) == 2 else f"all {len(of)} datasets"
        without = f"{rows - len(self.complete)} of {rows} rows have no mean, as they are not ranked on {which}"
        if len(of) > 2:
            kept = {left: len(set.intersection(*(set(of[x]) for x in of if x != left))) for left in of}
            name = max(kept, key=lambda name: kept[name])
            without += f"; without {name}, {kept[name]} rows would have one" * (kept[name] > len(self.complete))
        return f"{without}."

    def contents(self, table_id: Callable[[Table], str]) -> dict[str, Any]:
        """The values of `Summary.contents`."""
        columns = [
            {"id": table_id(table), "name": name, "inMean": place in self.counted}
            for place, (name, table) in enumerate(zip(self.names, self.tables, strict=True))
        ]
        return {
            "title": self.title,
            "quick": self.is_quick,
            "figure": heading(self.headline),
            "columns": columns,
            "rows": [row.contents() for row in self.standings],
            "notes": self.notes,
        }

    def lines(self) -> list[dict[str, Any]]:
        """A line for each row and column, and for the mean of each row that has one."""
        group, figure, lines = self.tables[0].group, heading(self.headline), list[dict[str, Any]]()
        about = {"task": self.tables[0].task.name, "set": group.of, "protocol": group.protocol, "folds": group.folds}
        about["quick"] = group.quick
        for row in self.standings:
            own = {**about, "method": row.label, "status": "not run"}
            for place, (table, cell) in enumerate(zip(self.tables, row.cells, strict=True)):
                line = {
                    name: getattr(table.group, name) for name in ("dataset", "front_end", "vectors", "text_encoder")
                }
                line |= {"split_sha": table.group.split_sha[:12], "features_sha": table.features[0][:12]}
                line |= {"in_mean": place in self.counted, **own, "figure": figure}
                if cell:
                    line |= {"status": cell.status, "value": _rounded(cell.value), "score": _rounded(cell.score)}
                    line |= {**_ends("rank", cell.rank), "place": cell.place}
                    its = next(one for one in table.rows if one.label == row.label)
                    line |= {"fit_s": _rounded(its.seconds("fit")), "peak_memory": its.peak_memory or None}
                lines.append({**about, **line})
            if mean := row.mean:
                line = {**own, "status": "ok", "figure": "mean", "score": _rounded(mean.score)}
                line |= {**_ends("rank", mean.here), **_ends("alike", mean.alike)}
                line |= {"fit_s": _rounded(mean.seconds), "peak_memory": mean.memory}
                lines.append(line | {f"{name}_front": name in mean.fronts for name in FRONTS})
        return lines

    def text(self, style: str, width: int | None) -> str:
        """The table with its notes; see `cran_bench.tables.typesetting.typeset`."""
        rows, names = self.standings, {f"column {place}": name for place, name in enumerate(self.names)}
        marked = {row.label for table in self.tables for row in table.rows if row.exposures}
        marks = [f" {REFERENCE}" * row.is_reference + f" {EXPOSED}" * (row.label in marked) for row in rows]
        columns = {"method": [row.label + mark for row, mark in zip(rows, marks, strict=True)]}
        means = [row.mean for row in rows]
        if self.has_means:
            columns["mean"] = [f"{mean.score:z.1f}" if mean else NOT_RUN for mean in means]
            columns["here"] = [ranks_text(mean.here if mean else None) for mean in means]
            columns["alike"] = [ranks_text(mean.alike if mean else None) for mean in means]
        for place, column in enumerate(names):
            columns[column] = [str(row.cells[place] or NOT_RUN) for row in rows]
        columns["seconds"] = [f"{mean.seconds:.1f}" if mean else NOT_RUN for mean in means]
        columns["memory"] = [f"{mean.memory / 1e9:.1f}" if mean else NOT_RUN for mean in means]
        columns["front"] = [", ".join(FRONTS[x] for x in FRONTS if mean and x in mean.fronts) for mean in means]
        counted = [{f"column {place}"} for place in self.counted]
        others = [{column} for column in names if {column} not in counted]
        first = {"method", "mean", "here"} if self.has_means else {"method", *counted.pop(0)}
        importance = [first, *counted, {"alike"}, *others, {"front"}, {"seconds", "memory"}]
        warnings = ["quick: not for comparison"] * self.is_quick
        about = self.title, columns, self.notes, style, warnings, width
        return typeset(*about, importance, "--wide or -f csv", {**names, **_HEADINGS})


@dataclass(frozen=True)
class Summary:
    """A summary of each task and protocol, and each set of contrasts or judgments."""

    tasks: Sequence[TaskSummary]

    @property
    def explanations(self) -> list[str]:
        """Sentences on the ranks, means and costs that there are."""
        lines, rows = list[str](), [row for task in self.tasks for row in task.standings]
        if any(cell and cell.rank for row in rows for cell in row.cells):
            lines.append(
                "[2-4]: the rank in the column is 2 to 4, of which 1 is the best. All intervals of a column hold at "
                f"once at 95 %, over images, and over seeds where rows have several. {BEST} has the highest value; "
                f"{MAYBE} may be the best, as its ranks begin with 1."
            )
        if any(task.has_means for task in self.tasks):
            lines.append(
                "Mean: of scores over the datasets, which weigh the same; a score is 0 at chance and 100 if the "
                "ranking is perfect. A mean hides where a row is bad, and datasets on which scores differ more decide "
                "more."
            )
            lines.append(
                "Here: ranks of the means, on these datasets, among the rows that have one; at once at 95 %, too. "
                "Alike: on all datasets like these, if these were a random sample of them; never narrower than here."
            )
        if any(row.mean and row.mean.fronts for row in rows):
            lines.append(
                "Front: no other row is as good for less time (fit s) or memory (GB, the peak of the process, which "
                "earlier rows may have raised), whatever machine each was run on."
            )
        return lines

    def contents(self, table_id: Callable[[Table], str]) -> list[dict[str, Any]]:
        """JSON values for each task: columns, rows of cells, means, ranks and costs, and notes.

        Args:
            table_id: gives the name of a table in links.
        """
        return [task.contents(table_id) for task in self.tasks]

    def frame(self) -> pd.DataFrame:
        """A line for each task, method and column, those not run included, and for each mean."""
        import pandas as pd

        frame = pd.DataFrame([line for task in self.tasks for line in task.lines()])
        whole = "rank_low", "rank_high", "alike_low", "alike_high", "peak_memory"
        return frame.astype({name: "Int64" for name in whole if name in frame})

    def render(self, style: str, width: int | None = None) -> str:
        """Format all tasks, and after them the explanations; CSV and JSON have the lines of `frame`.

        Raises:
            BadInput: an unknown format.
        """
        require_format(style)
        if style in DATA_FORMATS:
            return export(self.frame(), style)
        lines = self.explanations
        if style == "terminal" and width is not None:
            lines = [textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in lines]
        lines = [{"markdown": f"{line}  ", "latex": f"% {line}"}.get(style, line) for line in lines]
        return "\n".join([*(task.text(style, width) for task in self.tasks), *lines, ""])


def summarise(tables: Sequence[Table], preset: str = "") -> Summary:
    """Arrange tables by task, protocol, folds and set of contrasts or judgments, those of `--quick` last and apart.

    Args:
        tables: of any datasets.
        preset: only rows of this preset; all if ''.

    Raises:
        BadInput: no row has this preset.
    """
    if preset:
        known = {row.spec.argument for table in tables for row in table.rows}
        if preset not in known:
            raise BadInput(f"no record has the preset '{preset}'{did_you_mean(preset, known)}")
        chosen = [replace(table, rows=[row for row in table.rows if row.spec.argument == preset]) for table in tables]
        tables = [table for table in chosen if table.rows]
    tasks: dict[tuple[object, ...], list[Table]] = {}
    for table in sorted(tables, key=lambda table: table.group.quick):
        group, task = table.group, table.task
        key = task.name, group.protocol, group.folds, group.quick, group.of, task.headline
        tasks.setdefault(key, []).append(table)
    return Summary([TaskSummary(some) for some in tasks.values()])


def on_front(quality: NDArray[np.float64], cost: NDArray[Any]) -> NDArray[np.bool_]:
    """(K,) whether no other row has a quality as high and a cost as low, and one of them better."""
    as_good, as_cheap = quality >= quality[:, None], cost <= cost[:, None]
    better = (quality > quality[:, None]) | (cost < cost[:, None])
    return np.asarray(~(as_good & as_cheap & better).any(axis=1))


def ranks_text(rank: Rank | None) -> str:
    """An interval of ranks as text: ``2-4``, ``1``, or ``-`` without one."""
    if rank is None:
        return NOT_RUN
    return str(rank[0]) if rank[0] == rank[1] else f"{rank[0]}-{rank[1]}"


def _cluster(label: str) -> str:
    """The dataset of a label whose images are ranked, whatever its options."""
    return dataset_name(label.rpartition(TESTED_ON)[2])


def _scale(table: Table) -> tuple[float, float]:
    """The headline at chance and if perfect, for the table's queries."""
    if not table.ranked:
        return math.nan, math.nan
    return chance_and_perfect(table.task, table.ranked[0].ranks[0], table.group.folds)


def _score(value: Any, chance: Any, perfect: Any) -> Any:
    """The share, in percent, of the way from chance to a perfect ranking."""
    return 100 * (value - chance) / (perfect - chance)


def _cells(table: Table, chance: float, perfect: float) -> dict[str, Cell]:
    """The cells of a table by label."""
    headline, ranks, places, cells = table.task.headline, table.rank_intervals(), table.places(), {}
    for row in table.rows:
        value, rank = row.mean(headline), ranks.get(row.label)
        text = f"{value:z.{table.task.digits(headline)}f}" if not math.isnan(value) else NO_FIGURE
        text += f" {EXPOSED}" * bool(row.exposures) + f" {UNSEEN}" * (row.is_order_unseen and not row.is_ranked)
        text, status = (text, "ok") if row.records else (row.status, row.status)
        score = _score(value, chance, perfect)
        cells[row.label] = Cell(value, score, text, status, rank, places.get(row.label, ""))
    return cells


def _ends(name: str, rank: Rank | None) -> dict[str, int | None]:
    low, high = rank or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _pairs(found: NDArray[np.int64]) -> list[Rank | None]:
    return [(low, high) for low, high in found.tolist()]
