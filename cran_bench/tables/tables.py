"""Tables of records: means and deviations over seeds, intervals over images, seconds per phase, and failed rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cran_bench.errors import BadInput, did_you_mean
from cran_bench.protocols import MEANING, PROTOCOLS
from cran_bench.ranking.contrasted import HEADLINE, Contrasted, kind_and_part
from cran_bench.ranking.metrics import small_set_notes
from cran_bench.ranking.precisions import CATEGORY_METRICS
from cran_bench.records.schema import DataInfo, Failure, FittedOn
from cran_bench.records.standings import Gaps, rank_intervals
from cran_bench.records.statistics import LEVEL, Interval, Sample, estimates, samples
from cran_bench.records.store import INTERVALS_UP_TO, Finished, folder_of
from cran_bench.records.tasks import CATEGORY, RECALL, Task, TaskName, tasks_of
from cran_bench.tables.figures import CORRELATED, HEADINGS, PHASES, UNSEEN, above, blind, heading, meaning
from cran_bench.tables.rows import (
    Row,
    commit_note,
    exposure_notes,
    fit_notes,
    folders_of,
    merge_notes,
    reference_notes,
)
from cran_bench.tables.typesetting import BY_IMPORTANCE, DATA_FORMATS, MAYBE, export, require_format, typeset

if TYPE_CHECKING:
    import pandas as pd

DATA = ("split_sha", "features", "extras", "fit_data", "labels", "contrasts", "judgments")
_OWN_DATA = {"category": "labels", "contrasts": "contrasts", "judgments": "judgments"}
"""The field of a group that holds the sha256 of a task's answers."""
_BOTH = {"medr": ("i2t_medr", "t2i_medr")}  # one readable column holds both


@dataclass(frozen=True)
class Group:
    """What the runs of one table have in common: data, front end and protocol.

    Attributes:
        features: sha256 of the sources of the features, or of the features themselves if these are unknown.
        extras: sha256 of labels, of the file of word vectors and of the sources of text features; '' without them.
        text_encoder: the encoder of texts; '' without one.
        fit_data: sha256 of the data of the fits if they were made on another dataset, else ''.
        labels: sha256 of the categories in a table by category, else ''.
        contrasts: sha256 of the contrasts in a table of contrasts, else ''.
        judgments: sha256 of the judgments in a table of judgments, else ''.
        of: spec of contrasts made from captions, or the name of a set of judgments; else ''.
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
    contrasts: str = ""
    judgments: str = ""
    of: str = ""

    @property
    def inputs(self) -> str:
        """A sentence that names what features were made with."""
        encoder = f", text encoder {self.text_encoder}" if self.text_encoder else ""
        return f"Front end {self.front_end}, word vectors {self.vectors}{encoder}."

    def data(self) -> Group:
        """The images and their features: the group without its protocol."""
        return replace(self, protocol="", folds=0)


@dataclass(frozen=True)
class Table:
    """Rows of one group.

    Attributes:
        has_intervals: whether ranks are read, for intervals and tests of the difference to the best row.
        apart: in which of `DATA` other tables with the same label, front end and protocol differ.
        folders: the folders of results that were read.
    """

    group: Group
    rows: Sequence[Row]
    has_intervals: bool = True
    apart: Sequence[str] = ()
    folders: Sequence[Path] = ()

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
        return " · ".join([group.dataset, f"protocol {group.protocol}", *facts, *[self.kind] * bool(self.kind), *apart])

    @property
    def kind(self) -> str:
        """What its rows are measured by, if not by recall."""
        other = f"{self.task.name} {self.group.of}".strip()
        return {"recall": "", "category": "by category"}.get(self.task.name, other)

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
        runs = [run for row in self.rows for run in row.runs]
        lines += meaning(self.task, runs, [row.label for row in self.rows if row.is_order_unseen])
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
            more = f"over {INTERVALS_UP_TO:,} records"
            lines.append(f"No intervals, and figures are not verified, for {more}: select fewer.")
        elif self.behind_best():
            over = "images and seeds" if self._has_seeds else "images (there is one seed)"
            lines.append(
                f"Behind best: {heading(self.task.headline)} minus the best other row's; the intervals over {over} "
                "hold at once at 95 %."
            )
            lines.append("≈ may be the best: its interval reaches zero (multiple comparisons with the best).")
            if self._has_seeds and any(len(row.records) == 1 for row in self.rows):
                lines.append("Here, rows with one seed get the mean variance over seeds of the rows with several.")
        if self._has_seeds:
            lines.append("± is the standard deviation over seeds.")
        lines += reference_notes(self.rows) + exposure_notes(self.rows)
        lines += fit_notes(self.rows) + merge_notes(self.rows, self.folders)
        return [*lines, *commit_note(self.rows), *self._too_short()]

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
        """Bootstrap samples of the rows with finished runs, by label; rows have them too."""
        drawn = samples([row.ranks for row in self.finished], task=self.task)
        for row, its in zip(self.finished, drawn, strict=True):
            vars(row).setdefault("sample", its)
        return {row.label: its for row, its in zip(self.finished, drawn, strict=True)}

    @property
    def finished(self) -> list[Row]:
        """The rows with finished runs."""
        return [row for row in self.rows if row.records]

    @cached_property
    def ranked(self) -> list[Row]:
        """The finished rows that are compared by the headline, the best first."""
        return [row for row in self.rows if row.is_ranked]

    def behind_best(self) -> dict[str, Interval]:
        """Each ranked row's headline minus the best other row's, without the best row; empty for `--quick`."""
        if len(self.ranked) < 2 or not self.has_intervals or self.group.quick:
            return {}
        best = max(self.ranked, key=lambda row: row.mean(self.task.headline)).label
        return {label: gap for label, gap in self._behind.items() if label != best}

    @cached_property
    def _behind(self) -> dict[str, Interval]:
        return {row.label: Interval(*gap) for row, gap in zip(self.ranked, self._gaps.to_best().tolist(), strict=True)}

    def rank_intervals(self) -> dict[str, tuple[int, int]]:
        """The interval of each ranked row's rank by the headline, the best being 1; empty for `--quick`.

        They hold at once, and a row may be the best if its interval begins with 1.
        """
        if not self.ranked or not self.has_intervals or self.group.quick:
            return {}
        found = rank_intervals(self._gaps.certain).tolist()
        return {row.label: (low, high) for row, (low, high) in zip(self.ranked, found, strict=True)}

    def places(self) -> dict[str, str]:
        """Whether each ranked row is ``best``, ``maybe`` the best, or ``behind``; empty without `behind_best`."""
        behind = self.behind_best()
        return {
            row.label: "best" if row.label not in behind else "maybe" if behind[row.label].high >= 0 else "behind"
            for row in self.ranked
            if behind
        }

    @cached_property
    def _gaps(self) -> Gaps:
        return estimates([self.samples[row.label] for row in self.ranked]).gaps(LEVEL)

    @cached_property
    def above(self) -> dict[str, list[str]]:
        """The cells of the lines above the methods, by column: those of text-only models in a table of contrasts."""
        return above(self._contrasts, self.task) if self._contrasts else {}

    @property
    def _contrasts(self) -> Contrasted | None:
        return self.finished[0].ranks[0].contrasts if self.finished and self.task.name == HEADLINE else None

    def frame(self) -> pd.DataFrame:
        """Every figure as a number, one line per method, as in the CSV."""
        import pandas as pd

        behind, task = self.behind_best(), self.task
        counts = {} if task in (RECALL, CATEGORY) else task.counts(self.finished[0].ranks[0])
        about = {
            "dataset": self.group.dataset,
            "quick": self.group.quick,
            "front_end": self.group.front_end,
            "vectors": self.group.vectors,
            **({"text_encoder": self.group.text_encoder} if self.group.text_encoder else {}),
            "protocol": self.group.protocol,
            "folds": self.group.folds,
            **({"set": self.group.of} if self.group.of else {}),
        }
        lines: list[dict[str, Any]] = []
        for row in self.rows:
            line: dict[str, Any] = {
                **about,
                "method": row.label,
                "seeds": " ".join(str(record.seed) for record in row.records),
                "status": row.status,
            }
            if any(other.reference for other in self.rows):
                line["reference"] = bool(row.reference)
            if any(other.exposures for other in self.rows):
                line["exposures"] = "; ".join(row.exposures)
            if len(self.folders) > 1:
                line["folder"] = "; ".join(map(str, row.folders))
            if self.above:
                line["order"] = "unseen" if row.is_order_unseen else "seen" if row.records else ""
            for figure in self.figures:
                line[figure] = round(row.mean(figure), task.digits(figure) + 3)
                if self._has_seeds:
                    line[f"{figure}_sd"] = round(row.deviation(figure), task.digits(figure) + 3)
            for figure in task.keys:
                if row.records and self.has_intervals and task.has(figure):
                    ends, decimals = self.samples[row.label].interval(figure).ends, task.digits(figure) + 3
                    line[f"{figure}_low"], line[f"{figure}_high"] = (round(x, decimals) for x in ends)
            line |= {f"{figure}_n": count for figure, count in counts.items()}
            if row.label in behind:
                gap, decimals = behind[row.label], task.digits(task.headline) + 3
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
        for label, means in (blind(self._contrasts, task) if self._contrasts else {}).items():
            rounded = {name: round(value, 4) for name, value in means.items() if name != "all"}
            lines.append({**about, "method": label, "seeds": "", "status": "text only", **rounded})
        return pd.DataFrame(lines).astype({f"{figure}_n": "Int64" for figure in counts})

    @property
    def importance(self) -> Sequence[Set[str]]:
        """Sets of columns that are shown together, the most important first."""
        task = self.task
        if task in (RECALL, CATEGORY):
            return BY_IMPORTANCE
        best = {"dataset", "method", task.headline}, {"behind_best"}
        if task.name == HEADLINE:
            of_kinds = [name for name in task.columns if name != HEADLINE]
            whole = [name for name in of_kinds if kind_and_part(name)[1] in ("", "same_words")]
            kinds = [name for name in of_kinds if name not in whole] or whole
            return [*best, *({name} for name in kinds), {*whole}.difference(kinds), {"commit"}]
        recalls = [{f"{task.of}.{side}_{name}" for name in ("own_r1", "r1")} for side in ("t2i", "i2t")]
        rated = {name for name in task.columns if name.endswith(CORRELATED)} - {task.headline}
        return [*best, *recalls, rated, {*task.columns}.difference(*best, *recalls, rated), {"commit"}]

    def display(self, names: Sequence[str] = ()) -> dict[str, list[str]]:
        """The cells of the readable columns, by name: the given ones, or all that say something."""
        behind, figures = self.behind_best(), self.figures
        columns = {"method": [row.marked_label for row in self.rows]}
        for figure in (name for name in self.task.columns if name != "twin_accuracy" or name in figures):
            columns[figure] = [self._cell(row, figure) for row in self.rows]
        if behind:
            columns["behind_best"] = [self._gap(row, behind.get(row.label)) for row in self.rows]
        for phase in PHASES[1:] if self.task in (RECALL, CATEGORY) else ():
            columns[f"{phase}_s"] = [f"{row.seconds(phase):.2f}" if row.records else "" for row in self.rows]
        columns["commit"] = [" ".join(row.commits) for row in self.rows]
        lines = len(self.above.get("method", ()))
        columns = {name: [*self.above.get(name, [""] * lines), *cells] for name, cells in columns.items()}
        shown = names or [name for name in columns if name != "commit" or len(set(columns[name][lines:])) > 1]
        return {name: columns[name] for name in shown if name in columns}

    def _gap(self, row: Row, gap: Interval | None) -> str:
        if gap is None:
            return "best" if row in self.ranked else ""
        digits = self.task.digits(self.task.headline)
        value, low, high = (f"{x:z.{digits}f}" for x in (gap.value, *gap.ends))
        return f"{value} [{low}, {high}] {MAYBE if gap.high >= 0 else ' '}"

    def _cell(self, row: Row, figure: str) -> str:
        if not row.records:
            return row.status
        if figure == "medr":
            return f"{row.mean('i2t_medr'):.4g} / {row.mean('t2i_medr'):.4g}"
        value, digits = row.mean(figure), self.task.digits(figure)
        if np.isnan(value):
            return ""
        text = f"{value:z.{digits}f}"
        if self.has_intervals and figure.endswith(CORRELATED):
            return "{} [{:z.1f}, {:z.1f}]".format(text, *self.samples[row.label].interval(figure).ends)
        text += f" ± {row.deviation(figure):.{digits}f}" * (len(row.records) > 1)
        return text + f" {UNSEEN}" * (row.is_order_unseen and figure in self.task.by_order)

    @property
    def figures(self) -> list[str]:
        """The metrics of the records that belong to the task, by name."""
        names = dict.fromkeys(name for row in self.rows for record in row.records for name in record.metrics)
        if self.task is RECALL:
            return [x for x in names if x not in CATEGORY_METRICS and x != HEADLINE and "." not in x]
        if self.task is CATEGORY:
            return [name for name in CATEGORY_METRICS if name in names]
        return [name for name in self.task.columns if self.task.has(name)]


def _plain(name: str) -> str:
    """What tables call one of the kinds of `DATA`."""
    return name.removesuffix("_sha").replace("_", " ")


def _transfer(data: DataInfo, fit: FittedOn) -> str:
    overlap = fit.remark(data.images, data.captions)
    return f"Fitted on {fit.label} (split sha {fit.split_sha[:12]}), tested elsewhere without a refit: {overlap}."


def build_tables(
    runs: Sequence[Finished], failures: Sequence[Failure], related: Sequence[Finished] = (), task: TaskName = "recall"
) -> list[Table]:
    """Group runs into tables; each seed shows its newest record, or its failure if it has none.

    Rows are sorted by the task's headline, the best first, references and those that do not see the order of words
    last; a damaged
    record hides others of its seed in its folder of results, which may be older.  No ranks are read for more than
    `INTERVALS_UP_TO` runs, except for contrasts and judgments.

    Args:
        runs: finished runs to show.
        failures: failed runs to show.
        related: other runs, which may reveal the sources of the same features.
        task: what rows are measured by; runs without its figures have no row.
    """
    known = [run.record.data for run in (*related, *runs) if run.record.data.sources_sha]
    sources = {data.features_sha: data.sources_sha for data in known}
    groups: dict[Group, dict[str, dict[int, list[Finished | Failure]]]] = {}
    tasks: dict[Group, Task] = {}
    for run, its in [(one, its) for one in runs for its in _tasks(one, task)]:
        record = run.record
        group = _group(record.data, record.protocol, record.folds, sources, its.name, its.of)
        tasks.setdefault(group, its)
        seeds = groups.setdefault(group, {}).setdefault(record.method.label, {})
        seeds.setdefault(record.seed, []).append(run)
    for failure in failures:
        group = _group(failure.data, failure.protocol, failure.folds, sources, task)
        if task in _OWN_DATA and not getattr(group, _OWN_DATA[task]):
            continue
        alike = [group] if task in ("recall", "category") else [g for g in groups if replace(g, of=group.of) == group]
        for one in alike:
            seeds = groups.setdefault(one, {}).setdefault(failure.method_label, {})
            seeds.setdefault(failure.seed, []).append(failure)
    usual = CATEGORY if task == "category" else RECALL
    rows = {
        group: [_row(label, seeds, tasks.get(group, usual)) for label, seeds in methods.items()]
        for group, methods in groups.items()
    }
    for of_group in rows.values():
        of_group.sort(key=_place)
    named: dict[Group, list[Group]] = {}
    for group in groups:
        bare: dict[str, Any] = dict.fromkeys(DATA, "")
        named.setdefault(replace(group, **bare), []).append(group)
    apart: dict[Group, tuple[str, ...]] = {}
    for alike in named.values():
        apart |= dict.fromkeys(alike, tuple(n for n in DATA if len({getattr(group, n) for group in alike}) > 1))
    folders, has_intervals = folders_of(*runs, *failures), len(runs) <= INTERVALS_UP_TO
    return [Table(group, rows[group], has_intervals, apart[group], folders) for group in groups]


def _place(row: Row) -> tuple[int, float]:
    value = row.mean(row.task.headline)
    is_apart = bool(row.reference) or (row.is_order_unseen and not row.is_ranked)
    return (int(is_apart) if row.records else 2, np.inf if np.isnan(value) else -value)


def _tasks(run: Finished, name: TaskName) -> list[Task]:
    """The tasks of a name that a run was measured by."""
    if name in ("recall", "category"):
        return [task for task in (RECALL, CATEGORY) if task.name == name and task.headline in run.record.metrics]
    recorded = run.record.data.contrasts_sha if name == HEADLINE else run.record.data.judgments_sha
    return tasks_of(name, run.ranks) if recorded else []


def _row(label: str, seeds: Mapping[int, Sequence[Finished | Failure]], task: Task) -> Row:
    """A row of the newest intact run of each seed, of the damaged ones, and of a failed one where there is no other."""
    runs, failures, others = list[Finished](), list[Failure](), list[Finished]()
    for _, some in sorted(seeds.items()):
        failed = [x for x in some if isinstance(x, Failure)]
        damaged = [failure for failure in failed if failure.kind == "damaged"]
        hidden = set(map(folder_of, damaged))
        intact = [x for x in some if isinstance(x, Finished) and folder_of(x) not in hidden]
        intact.sort(key=lambda run: run.record.started, reverse=True)
        runs += intact[:1]
        others += [run for run in intact[1:] if folder_of(run) != folder_of(intact[0])]
        failures += damaged or (failed[:1] if not intact else [])
    return Row(label, runs, failures, task, others)


def _group(
    data: DataInfo, protocol: str, folds: int, sources: Mapping[str, str], task: TaskName, of: str = ""
) -> Group:
    where = (data.label, data.quick, data.front_end, data.vectors)
    features = data.sources_sha or sources.get(data.features_sha) or data.features_sha
    fit_data = data.fitted_on.data_sha if data.fitted_on else ""
    more = data.split_sha, features, data.extras_sha, data.text_encoder, fit_data
    name = _OWN_DATA.get(task, "")
    answers = {name: getattr(data, f"{name}_sha")} if name else {}
    of = data.contrasts if task == HEADLINE else of
    return Group(*where, protocol, folds, *more, of=of, **answers)


def render(
    tables: Sequence[Table], style: str, names: Sequence[str] = (), width: int | None = None, failures: bool = True
) -> str:
    """Format tables as text: all columns, or those of the given names, and in a terminal only those that fit a width.

    With `failures`, notes say why runs failed.

    Raises:
        BadInput: an unknown format or column.
    """
    require_format(style)
    known: Iterable[str] = ("method", "commit", *HEADINGS, *(name for table in tables for name in table.display()))
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
        shown = table.title, table.display(names), notes, style, warnings, width, table.importance
        which = "" if table.task is RECALL else f"{table.task.name} "
        texts.append(typeset(*shown, f"cran-bench table {which}--wide"))
    return "\n".join(texts)
