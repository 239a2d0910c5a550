"""Tables of records: means and deviations over seeds, intervals over images, seconds per phase, and failed rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from tabulate import tabulate

from cran_bench.errors import BadInput
from cran_bench.protocols import MEANING, PROTOCOLS
from cran_bench.ranking.metrics import Ranks, small_set_notes
from cran_bench.records.schema import DataInfo, Failure, Record
from cran_bench.records.statistics import FIGURES, Interval, Sample, behind_best, sample, samples
from cran_bench.records.store import Finished

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["terminal", "markdown", "csv", "latex"]
FORMATS: tuple[Format, ...] = get_args(Format)

_STYLE = {"terminal": "simple", "markdown": "pipe", "latex": "latex_booktabs"}
INTERVALS_UP_TO = 5000  # records; reading and resampling the ranks of more would take minutes
DATA = ("split_sha", "features", "extras")
PHASES = ("features", "fit", "embed", "similarity", "rank")


@dataclass(frozen=True)
class Group:
    """What the runs of one table have in common: data, front end and protocol.

    Attributes:
        features: sha256 of the sources of the features, or of the features themselves if these are unknown.
        extras: sha256 of labels and of the file of word vectors; '' without both.
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

    def data(self) -> tuple[object, ...]:
        """The images and their features; the same for all protocols."""
        return (self.dataset, self.quick, self.front_end, self.vectors, self.split_sha, self.features, self.extras)


@dataclass(frozen=True)
class Row:
    """One method with all its seeds.

    Attributes:
        runs: finished runs, one per seed, in order of seed.
        failures: failed runs.
    """

    label: str
    runs: Sequence[Finished]
    failures: Sequence[Failure]

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
    def ranks(self) -> list[Ranks]:
        """The ranks of every seed."""
        return [run.ranks for run in self.runs]

    @cached_property
    def sample(self) -> Sample:
        """The bootstrap sample of the row's recalls; the row must have a finished run."""
        return sample(self.ranks)


@dataclass(frozen=True)
class Table:
    """Rows of one group.

    Attributes:
        has_intervals: whether ranks are read, for intervals and tests of the difference to the best row.
        has_failures: whether the notes say why runs failed.
        apart: in which of `DATA` other tables with the same label, front end and protocol differ.
    """

    group: Group
    rows: Sequence[Row]
    has_intervals: bool = True
    has_failures: bool = True
    apart: Sequence[str] = ()

    @property
    def title(self) -> str:
        """Dataset, protocol and size of the test split in one line."""
        group, facts = self.group, []
        for row in self.rows:
            for record in row.records:
                facts = [f"{record.data.images:,} images, {record.data.captions:,} captions"]
        folds = [f"mean of {group.folds} folds"] if group.folds else []
        shas = {"split_sha": group.split_sha, "features": self.features[0], "extras": group.extras}
        apart = [f"{name.removesuffix('_sha')} {shas[name][:8] or 'none'}" for name in self.apart]
        return " · ".join([group.dataset, f"protocol {group.protocol}", *folds, *facts, *apart])

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
        lines.append("Recall in percent; MedR is the plain median of the ranks.")
        lines.append(f"Front end {self.group.front_end}, word vectors {self.group.vectors}.")
        shas = " and ".join(sha[:12] for sha in self.features)
        also = " (from the same sources, rounded differently on another machine)" if len(self.features) > 1 else ""
        lines.append(f"Split sha {self.group.split_sha[:12]}, features sha {shas}{also}.")
        if self.apart:
            kinds = " and ".join(name.removesuffix("_sha") for name in self.apart)
            lines.append(f"Another table has this label but other data: they differ in {kinds}.")
        one_to_one = self.group.protocol != "captions"
        sizes = {(record.data.images, record.data.captions) for row in self.rows for record in row.records}
        lines += [note for size in sizes for note in small_set_notes(*size, one_to_one, self.group.folds)]
        if not self.has_intervals:
            lines.append(f"No intervals for over {INTERVALS_UP_TO:,} records: select fewer.")
        elif self.behind_best():
            over = "images and seeds" if self._has_seeds else "images (there is one seed)"
            lines.append(
                f"Behind best: rsum minus the best other row's; the intervals over {over} hold at once at 95 %."
            )
            lines.append("≈ may be the best: its interval reaches zero (multiple comparisons with the best).")
            if self._has_seeds and any(len(row.records) == 1 for row in self.rows):
                lines.append("In them, rows with one seed get the mean variance over seeds of the rows with several.")
        if self._has_seeds:
            lines.append("± is the standard deviation over seeds.")
        for row in self.rows if self.has_failures else ():
            lines += [f"{row.label} seed {f.seed} FAILED: {f.error}" for f in row.failures]
        return lines

    @property
    def _has_seeds(self) -> bool:
        return any(len(row.records) > 1 for row in self.rows)

    @cached_property
    def samples(self) -> dict[str, Sample]:
        """Bootstrap samples of the rows with finished runs, by label."""
        finished = {row.label: row.ranks for row in self.rows if row.records}
        return dict(zip(finished, samples(list(finished.values())), strict=True))

    def behind_best(self) -> dict[str, Interval]:
        """Each finished row's rsum minus the best other row's, without the best row; empty for `--quick`."""
        finished = [row for row in self.rows if row.records]
        if len(finished) < 2 or not self.has_intervals or self.group.quick:
            return {}
        best = max(finished, key=lambda row: row.mean("rsum")).label
        return {label: gap for label, gap in self._behind.items() if label != best}

    @cached_property
    def _behind(self) -> dict[str, Interval]:
        return behind_best(self.samples)

    def frame(self) -> pd.DataFrame:
        """Every figure as a number, one line per method, as in the CSV."""
        import pandas as pd

        behind = self.behind_best()
        lines: list[dict[str, Any]] = []
        for row in self.rows:
            line: dict[str, Any] = {
                "dataset": self.group.dataset,
                "quick": self.group.quick,
                "front_end": self.group.front_end,
                "vectors": self.group.vectors,
                "protocol": self.group.protocol,
                "folds": self.group.folds,
                "method": row.label,
                "seeds": " ".join(str(record.seed) for record in row.records),
                "status": "failed" if row.failures else "ok",
            }
            for figure in _figures(self.rows):
                line[figure] = round(row.mean(figure), 4)
                if self._has_seeds:
                    line[f"{figure}_sd"] = round(row.deviation(figure), 4)
            for figure in ("i2t_r1", "t2i_r1", "rsum"):
                if row.records and self.has_intervals:
                    bounds = self.samples[row.label].interval(figure)
                    line[f"{figure}_low"], line[f"{figure}_high"] = round(bounds.low, 4), round(bounds.high, 4)
            if row.label in behind:
                gap = behind[row.label]
                line |= {"behind_best": round(gap.value, 4)}
                line |= {"behind_best_low": round(gap.low, 4), "behind_best_high": round(gap.high, 4)}
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
                    "commit": record.environment.get("commit"),
                }
            lines.append(line)
        return pd.DataFrame(lines)

    def display(self) -> tuple[list[str], list[list[str]]]:
        """The table in readable form: headings, and a line of strings per method."""
        behind, twins = self.behind_best(), "twin_accuracy" in _figures(self.rows)
        headings = ["method", "i2t R@1", "R@5", "R@10", "t2i R@1", "R@5", "R@10", "MedR", "rsum"]
        headings += ["twins"] * twins + ["behind best"] * bool(behind)
        headings += [f"{phase} s" for phase in PHASES[1:]]
        lines = []
        for row in self.rows:
            line = [row.label, *(self._cell(row, figure) for figure in FIGURES)]
            line += [f"{row.mean('i2t_medr'):.4g} / {row.mean('t2i_medr'):.4g}" if row.records else "failed"]
            line += [self._cell(row, figure) for figure in ("rsum", *["twin_accuracy"] * twins)]
            if behind:
                gap = behind.get(row.label)
                best = "best" if row.records else ""
                near = " ≈" if gap and gap.high >= 0 else "  "
                line.append(f"{gap.value:z.1f} [{gap.low:z.1f}, {gap.high:z.1f}]{near}" if gap else best)
            line += [f"{row.seconds(phase):.2f}" if row.records else "" for phase in PHASES[1:]]
            lines.append(line)
        return headings, lines

    def _cell(self, row: Row, figure: str) -> str:
        if not row.records:
            return "failed"
        text = f"{row.mean(figure):.1f}"
        return f"{text} ± {row.deviation(figure):.1f}" if len(row.records) > 1 else text


def build_tables(
    runs: Sequence[Finished], failures: Sequence[Failure], related: Sequence[Finished] = ()
) -> list[Table]:
    """Group runs into tables; each seed shows its newest record, or its failure if it has none.

    Rows keep the given order.  No ranks are read for more than `INTERVALS_UP_TO` runs.

    Args:
        runs: finished runs to show.
        failures: failed runs to show.
        related: other runs, which may reveal the sources of the same features.
    """
    known = [run.record.data for run in (*related, *runs) if run.record.data.sources_sha]
    sources = {data.features_sha: data.sources_sha for data in known}
    groups: dict[Group, dict[str, dict[int, Finished | Failure]]] = {}
    for run in runs:
        record = run.record
        group = _group(record.data, record.protocol, record.folds, sources)
        seeds = groups.setdefault(group, {}).setdefault(record.method.label, {})
        old = seeds.get(record.seed)
        if not isinstance(old, Finished) or old.record.started < record.started:
            seeds[record.seed] = run
    for failure in failures:
        group = _group(failure.data, failure.protocol, failure.folds, sources)
        groups.setdefault(group, {}).setdefault(failure.method_label, {}).setdefault(failure.seed, failure)
    rows = {group: [_row(label, seeds) for label, seeds in methods.items()] for group, methods in groups.items()}
    named: dict[Group, list[Group]] = {}
    for group in groups:
        named.setdefault(replace(group, split_sha="", features="", extras=""), []).append(group)
    apart: dict[Group, tuple[str, ...]] = {}
    for alike in named.values():
        apart |= dict.fromkeys(alike, tuple(n for n in DATA if len({getattr(group, n) for group in alike}) > 1))
    return [Table(group, rows[group], len(runs) <= INTERVALS_UP_TO, apart=apart[group]) for group in groups]


def _row(label: str, seeds: Mapping[int, Finished | Failure]) -> Row:
    runs = [seeds[seed] for seed in sorted(seeds)]
    return Row(label, [r for r in runs if isinstance(r, Finished)], [r for r in runs if isinstance(r, Failure)])


def _group(data: DataInfo, protocol: str, folds: int, sources: Mapping[str, str]) -> Group:
    where = (data.label, data.quick, data.front_end, data.vectors)
    features = data.sources_sha or sources.get(data.features_sha) or data.features_sha
    return Group(*where, protocol, folds, data.split_sha, features, data.extras_sha)


def render(tables: Sequence[Table], style: str) -> str:
    """Format tables as text.

    Raises:
        BadInput: an unknown format.
    """
    require_format(style)
    if style == "csv":
        import pandas as pd

        frames = [table.frame() for table in tables]
        return str(pd.concat(frames).to_csv(index=False)) if frames else ""
    quick = {True: ["quick: not for comparison"], False: []}
    return "\n".join(
        typeset(table.title, *table.display(), table.notes, style, quick[table.group.quick]) for table in tables
    )


def typeset(
    title: str,
    headings: Sequence[str],
    lines: Sequence[Sequence[str]],
    notes: Sequence[str],
    style: str,
    warnings: Sequence[str] = (),
) -> str:
    """Format one table, except as CSV: title, body, notes.

    Raises:
        BadInput: an unknown format.
    """
    require_format(style)
    body = tabulate(
        [[cell.replace("|", r"\|") if style == "markdown" else cell for cell in line] for line in lines],
        headers=headings,
        tablefmt=_STYLE[style],
        disable_numparse=True,
        colalign=("left", *["right"] * (len(headings) - 1)),
    )
    if style == "markdown":
        heading = [f"### {title}", "", *[f"**{line}**\n" for line in warnings]]
        return "\n".join([*heading, body, "", *[f"{line}  " for line in notes], ""])
    if style == "latex":
        body = body.replace("≈", r"$\approx$")  # LaTeX lacks this character
        return "\n".join([*[f"% {line}" for line in (title, *warnings, *notes)], body, ""])
    return "\n".join([title, *warnings, "", body, "", *notes, ""])


def require_format(style: str) -> None:
    """Require one of `FORMATS`.

    Raises:
        BadInput: an unknown format.
    """
    if style not in FORMATS:
        page = "; cran-bench report writes an HTML page" if style.lower() == "html" else ""
        raise BadInput(f"there is no table format '{style}': choose {', '.join(FORMATS)}{page}")


def _figures(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for record in row.records for name in record.metrics))
