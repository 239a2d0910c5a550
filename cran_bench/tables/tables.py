"""Tables of records: means and deviations over seeds, intervals over images, seconds per phase, and failed rows."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from tabulate import tabulate

from cran_bench.errors import BadInput, did_you_mean, escaped
from cran_bench.protocols import MEANING, PROTOCOLS
from cran_bench.ranking.metrics import Ranks, small_set_notes
from cran_bench.ranking.precisions import CATEGORY_COUNTS, CATEGORY_FIGURES, CATEGORY_METRICS, CUT
from cran_bench.records.schema import DataInfo, Failure, FittedOn, Record
from cran_bench.records.statistics import (
    CATEGORY,
    FIGURES,
    RECALL,
    Interval,
    Sample,
    Task,
    behind_best,
    sample,
    samples,
)
from cran_bench.records.store import INTERVALS_UP_TO, Finished

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["terminal", "markdown", "csv", "latex", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
DATA_FORMATS = ("csv", "json")

_STYLE = {"terminal": "simple", "markdown": "pipe", "latex": "latex_booktabs"}
DATA = ("split_sha", "features", "extras", "fit_data", "labels")
MEDR = "MedR is the plain median of the ranks (vsepp and SCAN print floor(median of zero-based ranks) + 1)"
EXPOSED = "†"
"""Marks a row of which an encoder was trained on images or captions of the test split."""
PHASES = ("features", "fit", "embed", "similarity", "rank")
HEADINGS = {
    **{figure: figure.replace("_r", " R@") if figure.endswith("_r1") else f"R@{figure[5:]}" for figure in FIGURES},
    **{"medr": "MedR", "rsum": "rsum", "twin_accuracy": "twins", "behind_best": "behind best"},
    **dict(
        zip(
            CATEGORY_FIGURES, ("i2t mAP", "t2i mAP", "mAP", "i2t @50", "t2i @50", "i2t class", "t2i class"), strict=True
        )
    ),
    **{f"{phase}_s": f"{phase} s" for phase in PHASES[1:]},
}
"""Headings of the readable columns, by their names in the CSV (`medr` has both medians); others are as named."""

_BOTH = {"medr": ("i2t_medr", "t2i_medr")}  # one readable column holds both

LABELS = "method", "against"
"""Columns that hold labels of methods."""
_BY_IMPORTANCE = [  # columns of a group are shown together
    {"dataset", "method", *RECALL.keys, *CATEGORY.keys},
    *({"twin_accuracy"}, {"behind_best"}, {"i2t_r10", "t2i_r10"}, {"i2t_map50", "t2i_map50"}, {"i2t_r5", "t2i_r5"}),
    *({"i2t_class_map", "t2i_class_map"}, {"medr"}, {"measured"}, {"fit_s"}, {"embed_s", "similarity_s", "rank_s"}),
    {"commit"},
]


@dataclass(frozen=True)
class Group:
    """What the runs of one table have in common: data, front end and protocol.

    Attributes:
        features: sha256 of the sources of the features, or of the features themselves if these are unknown.
        extras: sha256 of labels, of the file of word vectors and of the sources of text features; '' without them.
        text_encoder: the encoder of texts; '' without one.
        fit_data: sha256 of the data of the fits if they were made on another dataset, else ''.
        labels: sha256 of the categories in a table by category, else ''.
    """

    dataset: str
    quick: bool
    front_end: str
    vectors: str
    protocol: str
    folds: int
    split_sha: str
    features: str
    extras: str
    text_encoder: str = ""
    fit_data: str = ""
    labels: str = ""

    @property
    def inputs(self) -> str:
        """A sentence that names what features were made with."""
        encoder = f", text encoder {self.text_encoder}" if self.text_encoder else ""
        return f"Front end {self.front_end}, word vectors {self.vectors}{encoder}."

    def data(self) -> Group:
        """The images and their features: the group without its protocol."""
        return replace(self, protocol="", folds=0)


@dataclass(frozen=True)
class Row:
    """One method with all its seeds.

    Attributes:
        runs: finished runs, one per seed, in order of seed.
        failures: failed runs.
        task: what it is measured by.
    """

    label: str
    runs: Sequence[Finished]
    failures: Sequence[Failure]
    task: Task = RECALL

    @property
    def records(self) -> list[Record]:
        """The records of the finished runs."""
        return [run.record for run in self.runs]

    def mean(self, figure: str) -> float:
        """Mean over seeds; NaN if none finished."""
        values = [record.metrics[figure] for record in self.records if figure in record.metrics]
        return float(np.mean(values)) if values else float("nan")

    def deviation(self, figure: str) -> float:
        """Sample standard deviation over seeds; NaN for fewer than two."""
        values = [record.metrics[figure] for record in self.records if figure in record.metrics]
        return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")

    def seconds(self, phase: str) -> float:
        """Mean seconds of a phase over seeds; NaN if none finished."""
        values = [getattr(record.seconds, phase) for record in self.records]
        return float(np.mean(values)) if values else float("nan")

    @property
    def exposures(self) -> list[str]:
        """A sentence for each of its encoders that was trained on images or captions of the test split."""
        return list(dict.fromkeys(sentence for record in self.records for sentence in record.exposures))

    @property
    def marked_label(self) -> str:
        """The label, with a mark if there are `exposures`."""
        return self.label + f" {EXPOSED}" * bool(self.exposures)

    @property
    def status(self) -> str:
        """``ok``, or ``failed`` or ``damaged`` if any seed is."""
        return min((failure.status for failure in self.failures), default="ok")

    @property
    def commits(self) -> list[str]:
        """The distinct commits of the records' code: 7 digits, with * if changes were uncommitted; - if unknown."""
        known = [str(record.environment.get("commit") or "-") for record in self.records]
        return sorted({commit[:7] + "*" * commit.endswith("+") for commit in known})

    @property
    def ranks(self) -> list[Ranks]:
        """The ranks of every seed."""
        return [run.ranks for run in self.runs]

    @cached_property
    def sample(self) -> Sample:
        """The bootstrap sample of the row's figures; the row must have a finished run."""
        return sample(self.ranks, task=self.task)


@dataclass(frozen=True)
class Table:
    """Rows of one group.

    Attributes:
        has_intervals: whether ranks are read, for intervals and tests of the difference to the best row.
        apart: in which of `DATA` other tables with the same label, front end and protocol differ.
    """

    group: Group
    rows: Sequence[Row]
    has_intervals: bool = True
    apart: Sequence[str] = ()

    @property
    def task(self) -> Task:
        """What the rows are measured by."""
        return next((row.task for row in self.rows), RECALL)

    @property
    def title(self) -> str:
        """Dataset, protocol and size of the test split in one line."""
        group, facts = self.group, []
        for row in self.rows:
            for record in row.records:
                texts = "texts" if self.task is CATEGORY else "captions"
                facts = [f"{record.data.images:,} images, {record.data.captions:,} {texts}"]
                if group.folds:  # the images left over are not ranked
                    facts = [f"mean of {group.folds} folds of {record.data.images // group.folds:,} images"]
        shas = {name: getattr(group, name) for name in DATA} | {"features": self.features[0]}
        apart = [f"{_plain(name)} {shas[name][:8] or 'none'}" for name in self.apart]
        kind = ["by category"] * (self.task is CATEGORY)
        return " · ".join([group.dataset, f"protocol {group.protocol}", *facts, *kind, *apart])

    @property
    def sources(self) -> set[str]:
        """The distinct `sources_sha` of the records."""
        return {record.data.sources_sha for row in self.rows for record in row.records} - {""}

    @property
    def features(self) -> list[str]:
        """The distinct `features_sha` of the runs: several if machines rounded the same features differently."""
        of_failures = {failure.data.features_sha for row in self.rows for failure in row.failures}
        return sorted({record.data.features_sha for row in self.rows for record in row.records} | of_failures)

    @property
    def notes(self) -> list[str]:
        """Lines that explain the figures."""
        lines = [f"Protocol {self.group.protocol}: {MEANING[p]}." for p in PROTOCOLS if p == self.group.protocol]
        lines += self._meaning()
        lines.append(self.group.inputs)
        shas = " and ".join(sha[:12] for sha in self.features)
        also = " (from the same sources, rounded differently on another machine)" if len(self.features) > 1 else ""
        lines.append(f"Split sha {self.group.split_sha[:12]}, features sha {shas}{also}.")
        data = [record.data for row in self.rows for record in row.records]
        lines += sorted({_transfer(info, info.fitted_on) for info in data if info.fitted_on})
        if self.apart:
            kinds = " and ".join(map(_plain, self.apart))
            lines.append(f"Another table has this label but other data: they differ in {kinds}.")
        one_to_one = self.group.protocol != "captions"
        sizes = {(record.data.images, record.data.captions) for row in self.rows for record in row.records}
        small = [note for size in sizes for note in small_set_notes(*size, one_to_one, self.group.folds)]
        lines += small * (self.task is RECALL)
        if not self.has_intervals:
            lines.append(f"No intervals for over {INTERVALS_UP_TO:,} records: select fewer.")
        elif self.behind_best():
            over = "images and seeds" if self._has_seeds else "images (there is one seed)"
            lines.append(
                f"Behind best: {HEADINGS[self.task.headline]} minus the best other row's; the intervals over {over} "
                "hold at once at 95 %."
            )
            lines.append("≈ may be the best: its interval reaches zero (multiple comparisons with the best).")
            if self._has_seeds and any(len(row.records) == 1 for row in self.rows):
                lines.append("Here, rows with one seed get the mean variance over seeds of the rows with several.")
        if self._has_seeds:
            lines.append("± is the standard deviation over seeds.")
        lines += exposure_notes(self.rows) + fit_notes(self.rows)
        return [*lines, *commit_note(self.rows), *self._too_short()]

    def _meaning(self) -> list[str]:
        """What the figures are."""
        if self.task is not CATEGORY:
            return [f"Recall in percent; {MEDR}."]
        records = [record for row in self.rows for record in row.records]
        lines = [
            "Everything that shares a category with the query is right, its own partner included. mAP: mean average "
            "precision of the whole list, without interpolation, as a fraction, with ties in expectation.",
            f"@{CUT}: of the first {CUT}, divided by the right ones among them, so it says nothing of how many are "
            "found. Class: the mean over categories of their mean AP.",
            "Intervals are a little too short: the AP of queries of one category are correlated through the gallery.",
        ]
        for counts in {tuple(record.metrics[name] for name in CATEGORY_COUNTS) for record in records}:
            classes, images, texts = (f"{count:,.0f}" for count in counts)
            left = f"; without any, and left out: {images} image and {texts} text queries" if any(counts[1:]) else ""
            lines.append(f"{classes} {'category' if classes == '1' else 'categories'}{left}.")
        return lines

    @property
    def failed(self) -> list[str]:
        """A line for each failed or damaged run, with the reason."""
        return [failure.sentence for row in self.rows for failure in row.failures]

    def _too_short(self) -> list[str]:
        """What the training of `--quick` cannot show, by its own figures: relations, or CRAN above its baseline."""
        is_shown = self.group.quick and self.task is RECALL
        rows = {r.records[0].method.paper_row: r for r in reversed(self.rows) if r.records and is_shown}
        near = 98 / max((row.records[0].data.images for row in rows.values()), default=1) ** 0.5  # 95 %, in points
        relational = [rows[name] for name in ("CRAN", "CRAN-relation") if name in rows]
        chance = [row for row in relational if row.mean("twin_accuracy") <= 50 + near]
        lines = []
        if chance:
            twins = " and ".join(f"{row.label} {row.mean('twin_accuracy'):.1f} %" for row in chance)
            lines.append(f"So short a training cannot show what relations add: on twins, {twins} cannot be told from ")
            lines[0] += f"chance (50 ± {near:.1f} %); cran-bench run trains longer."
        if self.has_intervals and {"CRAN", "CRAN-baseline"} <= rows.keys():
            cran, baseline = (rows[name].label for name in ("CRAN", "CRAN-baseline"))
            if self.samples[cran].minus(self.samples[baseline], "rsum").low <= 0:
                lines.append(f"So short a training cannot show that {cran} has more rsum than {baseline}.")
        return lines

    @property
    def _has_seeds(self) -> bool:
        return any(len(row.records) > 1 for row in self.rows)

    @cached_property
    def samples(self) -> dict[str, Sample]:
        """Bootstrap samples of the rows with finished runs, by label."""
        finished = {row.label: row.ranks for row in self.rows if row.records}
        return dict(zip(finished, samples(list(finished.values()), task=self.task), strict=True))

    def behind_best(self) -> dict[str, Interval]:
        """Each finished row's headline minus the best other row's, without the best row; empty for `--quick`."""
        finished = [row for row in self.rows if row.records]
        if len(finished) < 2 or not self.has_intervals or self.group.quick:
            return {}
        best = max(finished, key=lambda row: row.mean(self.task.headline)).label
        return {label: gap for label, gap in self._behind.items() if label != best}

    @cached_property
    def _behind(self) -> dict[str, Interval]:
        return behind_best(self.samples)

    def frame(self) -> pd.DataFrame:
        """Every figure as a number, one line per method, as in the CSV."""
        import pandas as pd

        behind, decimals = self.behind_best(), self.task.digits + 3
        lines: list[dict[str, Any]] = []
        for row in self.rows:
            line: dict[str, Any] = {
                "dataset": self.group.dataset,
                "quick": self.group.quick,
                "front_end": self.group.front_end,
                "vectors": self.group.vectors,
                **({"text_encoder": self.group.text_encoder} if self.group.text_encoder else {}),
                "protocol": self.group.protocol,
                "folds": self.group.folds,
                "method": row.label,
                "seeds": " ".join(str(record.seed) for record in row.records),
                "status": row.status,
            }
            if any(other.exposures for other in self.rows):
                line["exposures"] = "; ".join(row.exposures)
            for figure in self._figures():
                line[figure] = round(row.mean(figure), decimals)
                if self._has_seeds:
                    line[f"{figure}_sd"] = round(row.deviation(figure), decimals)
            for figure in self.task.keys:
                if row.records and self.has_intervals:
                    bounds = self.samples[row.label].interval(figure)
                    line[f"{figure}_low"], line[f"{figure}_high"] = (round(x, decimals) for x in bounds.ends)
            if row.label in behind:
                gap = behind[row.label]
                line |= {"behind_best": round(gap.value, decimals)}
                line["behind_best_low"], line["behind_best_high"] = (round(x, decimals) for x in gap.ends)
            line |= {f"{phase}_s": round(row.seconds(phase), 4) for phase in PHASES}
            if row.records:
                record = row.records[0]
                line |= {
                    "split_sha": record.data.split_sha[:12],
                    "features_sha": record.data.features_sha[:12],
                    "unit": record.method.unit,
                    "kernel": record.similarity.kernel,
                    "cpu": record.environment.get("cpu"),
                    "gpu": record.environment.get("gpu"),
                    "device": record.device,
                    "torch": record.environment.get("torch"),
                    "commit": " ".join(row.commits),
                }
            lines.append(line)
        return pd.DataFrame(lines)

    def display(self, names: Sequence[str] = ()) -> dict[str, list[str]]:
        """The cells of the readable columns, by name: the given ones, or all that say something."""
        behind, figures = self.behind_best(), self._figures()
        columns = {"method": [row.marked_label for row in self.rows]}
        for figure in (name for name in self.task.columns if name != "twin_accuracy" or name in figures):
            columns[figure] = [self._cell(row, figure) for row in self.rows]
        if behind:
            columns["behind_best"] = [self._gap(row, behind.get(row.label)) for row in self.rows]
        for phase in PHASES[1:]:
            columns[f"{phase}_s"] = [f"{row.seconds(phase):.2f}" if row.records else "" for row in self.rows]
        columns["commit"] = [" ".join(row.commits) for row in self.rows]
        shown = names or [name for name in columns if name != "commit" or len(set(columns[name])) > 1]
        return {name: columns[name] for name in shown if name in columns}

    def _gap(self, row: Row, gap: Interval | None) -> str:
        if gap is None:
            return "best" if row.records else ""
        value, low, high = (f"{x:z.{self.task.digits}f}" for x in (gap.value, *gap.ends))
        return f"{value} [{low}, {high}]{' ≈' if gap.high >= 0 else '  '}"

    def _cell(self, row: Row, figure: str) -> str:
        if not row.records:
            return row.status
        if figure == "medr":
            return f"{row.mean('i2t_medr'):.4g} / {row.mean('t2i_medr'):.4g}"
        digits = self.task.digits
        text = f"{row.mean(figure):.{digits}f}"
        return f"{text} ± {row.deviation(figure):.{digits}f}" if len(row.records) > 1 else text

    def _figures(self) -> list[str]:
        """The metrics of the records that belong to the task, by name."""
        names = dict.fromkeys(name for row in self.rows for record in row.records for name in record.metrics)
        if self.task is CATEGORY:
            return [name for name in CATEGORY_METRICS if name in names]
        return [name for name in names if name not in CATEGORY_METRICS]


def _plain(name: str) -> str:
    """What tables call one of the kinds of `DATA`."""
    return name.removesuffix("_sha").replace("_", " ")


def _transfer(data: DataInfo, fit: FittedOn) -> str:
    overlap = fit.remark(data.images, data.captions)
    return f"Fitted on {fit.label} (split sha {fit.split_sha[:12]}), tested elsewhere without a refit: {overlap}."


def exposure_notes(rows: Iterable[Row]) -> list[str]:
    """A line on each encoder that was trained on images or captions of the test split, with the rows that use it."""
    of: dict[str, list[str]] = {}
    for row in rows:
        for sentence in row.exposures:
            of.setdefault(sentence, []).append(row.label)
    return [f"{EXPOSED} {', '.join(labels)}: {sentence}." for sentence, labels in of.items()]


def fit_notes(rows: Iterable[Row]) -> list[str]:
    """Lines on the trials of tuned rows, naming those that had fewer, and on rows fitted on validation too."""
    finished = [row for row in rows if row.records]
    of: dict[int, dict[str, int]] = {}
    for row in finished:
        for record in row.records:
            if about := record.method.tuning:
                of.setdefault(about.trials, {})[row.label] = sum(rsum is not None for rsum in about.rsum) or 1
    lines = []
    for trials, counts in of.items():
        which = "Each row" if len(counts) == len(finished) else ", ".join(counts)
        fewer = ", ".join(f"{label} {count}" for label, count in counts.items() if count < trials)
        lines.append(f"{which}: best of {trials} trials on validation{f'; fewer: {fewer}' * bool(fewer)}.")
    again = [row.label for row in finished if all(record.method.refit for record in row.records)]
    if again:
        which = "Each row" if len(again) == len(finished) else ", ".join(again)
        lines.append(f"{which}: fitted on train and validation together, with what validation chose from train alone.")
    return lines


def commit_note(rows: Iterable[Row]) -> list[str]:
    """A line on the commits of the code that measured the rows; none if no commit is known."""
    commits = Counter(mark for row in rows for mark in row.commits)
    counts = ", ".join(f"{mark} {count}" for mark, count in commits.most_common())
    stars = " (*: with uncommitted changes)" if "*" in counts else ""
    many = f"Rows by the commit of the code: {counts}" if len(commits) > 1 else f"Code of commit {counts.split(' ')[0]}"
    return [f"{many}{stars}."] if set(commits) - {"-"} else []


def build_tables(
    runs: Sequence[Finished], failures: Sequence[Failure], related: Sequence[Finished] = (), task: Task = RECALL
) -> list[Table]:
    """Group runs into tables; each seed shows its newest record, or its failure if it has none.

    Rows are sorted by the task's headline, the best first; a damaged record hides others of its seed, which may be
    older.  No ranks are read for more than `INTERVALS_UP_TO` runs.

    Args:
        runs: finished runs to show.
        failures: failed runs to show.
        related: other runs, which may reveal the sources of the same features.
        task: what rows are measured by; runs on data without labels have no row by category.
    """
    known = [run.record.data for run in (*related, *runs) if run.record.data.sources_sha]
    sources = {data.features_sha: data.sources_sha for data in known}
    groups: dict[Group, dict[str, dict[int, Finished | Failure]]] = {}
    for run in (run for run in runs if task.headline in run.record.metrics):
        record = run.record
        group = _group(record.data, record.protocol, record.folds, sources, task)
        seeds = groups.setdefault(group, {}).setdefault(record.method.label, {})
        old = seeds.get(record.seed)
        if not isinstance(old, Finished) or old.record.started < record.started:
            seeds[record.seed] = run
    for failure in (failure for failure in failures if failure.data.labels_sha or task is not CATEGORY):
        group = _group(failure.data, failure.protocol, failure.folds, sources, task)
        seeds = groups.setdefault(group, {}).setdefault(failure.method_label, {})
        if failure.kind == "damaged" or failure.seed not in seeds:
            seeds[failure.seed] = failure
    rows = {group: [_row(label, seeds, task) for label, seeds in methods.items()] for group, methods in groups.items()}
    for of_group in rows.values():
        of_group.sort(key=lambda row: -row.mean(task.headline) if row.records else np.inf)
    named: dict[Group, list[Group]] = {}
    for group in groups:
        named.setdefault(replace(group, split_sha="", features="", extras="", fit_data="", labels=""), []).append(group)
    apart: dict[Group, tuple[str, ...]] = {}
    for alike in named.values():
        apart |= dict.fromkeys(alike, tuple(n for n in DATA if len({getattr(group, n) for group in alike}) > 1))
    return [Table(group, rows[group], len(runs) <= INTERVALS_UP_TO, apart=apart[group]) for group in groups]


def _row(label: str, seeds: Mapping[int, Finished | Failure], task: Task) -> Row:
    runs = [seeds[seed] for seed in sorted(seeds)]
    return Row(label, [r for r in runs if isinstance(r, Finished)], [r for r in runs if isinstance(r, Failure)], task)


def _group(data: DataInfo, protocol: str, folds: int, sources: Mapping[str, str], task: Task) -> Group:
    where = (data.label, data.quick, data.front_end, data.vectors)
    features = data.sources_sha or sources.get(data.features_sha) or data.features_sha
    fit_data = data.fitted_on.data_sha if data.fitted_on else ""
    more = data.split_sha, features, data.extras_sha, data.text_encoder, fit_data
    return Group(*where, protocol, folds, *more, data.labels_sha if task is CATEGORY else "")


def render(
    tables: Sequence[Table], style: str, names: Sequence[str] = (), width: int | None = None, failures: bool = True
) -> str:
    """Format tables as text: all columns, or those of the given names, and in a terminal only those that fit a width.

    With `failures`, notes say why runs failed.

    Raises:
        BadInput: an unknown format or column.
    """
    require_format(style)
    known: Iterable[str] = ("method", "commit", *HEADINGS)
    if style in DATA_FORMATS:
        import pandas as pd

        frame = pd.concat([table.frame() for table in tables]) if tables else pd.DataFrame()
        if style == "json" and tables:
            frame["seeds"] = [[int(seed) for seed in seeds.split()] for seeds in frame["seeds"]]
        known = frame.columns
        names = [column for name in names for column in _BOTH.get(name, (name,))]
    for name in names:
        if name not in known:
            raise BadInput(f"there is no column '{name}'{did_you_mean(name, known)}")
    if style in DATA_FORMATS:
        return export(frame[list(names)] if names else frame, style)
    texts = []
    for table in tables:
        notes, warnings = table.notes + table.failed * failures, ["quick: not for comparison"] * table.group.quick
        texts.append(typeset(table.title, table.display(names), notes, style, warnings, width))
    return "\n".join(texts)


def export(frame: pd.DataFrame, style: str) -> str:
    """Format a frame as CSV, or as JSON: a list of objects, with null where there is no value."""
    if style == "csv":
        return str(frame.to_csv(index=False)) if len(frame) else ""
    return json.dumps(json.loads(frame.to_json(orient="records")), indent=1, ensure_ascii=False)


def typeset(
    title: str,
    columns: Mapping[str, Sequence[str]],
    notes: Sequence[str],
    style: str,
    warnings: Sequence[str] = (),
    width: int | None = None,
    importance: Sequence[Set[str]] = _BY_IMPORTANCE,
) -> str:
    """Format one table, except as CSV or JSON: title, body, notes; in a terminal only the columns that fit a width.

    Columns of one set of `importance` are shown together; the most important set comes first.

    Raises:
        BadInput: an unknown format.
    """
    require_format(style)
    columns = {name: [escaped(cell, "") for cell in cells] for name, cells in columns.items()}
    if style == "terminal" and width is not None:
        columns, left_out = _fitted(columns, width, importance)
        fill = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False).fill
        title, *notes = map(fill, (title, *notes, *left_out))
    cells = [[cell.replace("|", r"\|") if style == "markdown" else cell for cell in of] for of in columns.values()]
    body = tabulate(
        list(zip(*cells, strict=True)),
        headers=[HEADINGS.get(name, name) for name in columns],
        tablefmt=_STYLE[style],
        disable_numparse=True,
        colalign=["left" if not k or name == "method" else "right" for k, name in enumerate(columns)],
    )
    if style == "markdown":
        heading = [f"### {title}", "", *[f"**{line}**\n" for line in warnings]]
        return "\n".join([*heading, body, "", *[f"{line}  " for line in notes], ""])
    if style == "latex":
        body = body.replace("≈", r"$\approx$")  # LaTeX lacks this character
        return "\n".join([*[f"% {line}" for line in (title, *warnings, *notes)], body, ""])
    return "\n".join([title, *warnings, "", body, "", *notes, ""])


def _fitted(
    columns: Mapping[str, Sequence[str]], width: int, importance: Sequence[Set[str]]
) -> tuple[dict[str, Sequence[str]], list[str]]:
    """The columns that fit into a width, the most important first, and a note on what was left out.

    Deviations of recalls are left out too, labels are folded, and 0.381 becomes .381.
    """
    shown, ranked = dict(columns), set[str]().union(*importance)
    if _width(shown) <= width:
        return shown, []
    for name in shown.keys() - {*LABELS, "rsum", "map", "behind_best"}:
        shown[name] = [re.sub(r"\b0(?=\.\d{3}[ )])", "", cell.partition(" ±")[0]) for cell in shown[name]]
    first = set[str]().union(*importance[:3]) - {*LABELS}
    room = max(24, width - 2 - _width({name: shown[name] for name in shown if name in first}))
    shown |= {name: [_folded(cell, room) for cell in shown[name]] for name in shown if name in LABELS}
    for name in shown.keys() & {*CATEGORY_FIGURES, "behind_best"}:
        shown[name] = [re.sub(r"\b0(?=\.\d{3}\b)", "", cell) for cell in shown[name]]
    kept: set[str] = set()
    for group in (*importance, *({name} for name in shown if name not in ranked)):
        if not kept or _width({name: shown[name] for name in shown if name in kept | group}) <= width:
            kept |= group
    left = [HEADINGS.get(name, name) for name in shown if name not in kept]
    for name, what in (("i2t_r1", "recalls"), ("i2t_map", "directions")):
        left += [f"± of {what}"] * any("±" in cell for cell in columns.get(name, ()))
    everything = "cran-bench table --wide" if importance is _BY_IMPORTANCE else "-f csv"
    note = f"Left out to fit {width} characters: {', '.join(dict.fromkeys(left))} ({everything} has all)."
    return {name: shown[name] for name in shown if name in kept}, [note] if left else []


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    lines = {name: [line for cell in cells for line in cell.split("\n")] for name, cells in columns.items()}
    widest = [max(len(HEADINGS.get(name, name)) + 2, *map(len, lines[name])) for name in lines]  # tabulate adds 2
    return sum(widest) + 2 * (len(widest) - 1)


def _folded(label: str, width: int) -> str:
    """A label in lines of at most this width, if its options are so short."""
    lines = [""]
    for piece in re.split(r"(?=\[)|(?<=,)", label):
        lines += ["  "] * (lines[-1] != "" and len(lines[-1] + piece) > width)
        lines[-1] += piece
    return "\n".join(lines)


def require_format(style: str) -> None:
    """Require one of `FORMATS`.

    Raises:
        BadInput: an unknown format.
    """
    if style not in FORMATS:
        page = "; cran-bench report writes an HTML page" if style.lower() == "html" else ""
        raise BadInput(f"there is no table format '{style}': choose {', '.join(FORMATS)}{page}")
