"""Significance of differences between methods: paired bootstrap, McNemar's test of R@1, and Holm's correction."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast, get_args

from cran_bench.errors import BadInput, did_you_mean
from cran_bench.machine.progress import say
from cran_bench.ranking.contrasted import FEW_PAIRS
from cran_bench.ranking.metrics import Direction
from cran_bench.records.statistics import LEVEL, Interval, behind_best, holm, mcnemar
from cran_bench.records.tasks import RECALL
from cran_bench.tables.figures import heading
from cran_bench.tables.rows import Row, exposure_notes, merge_notes
from cran_bench.tables.tables import Group, Table
from cran_bench.tables.typesetting import DATA_FORMATS, export, typeset

from .verdict import bounds, signed

_BY_IMPORTANCE = (
    {"against", "figure", "rsum", "mAP", "mean", "tau-c", "mAP@R", "difference", "95 % interval", "verdict"},
    *({"p (Holm)"}, {"first", "other"}),
    *({"McNemar annotation", "McNemar retrieval"}, {"McNemar"}),
)


UNITS = {
    "recall": "in percentage points",
    "category": "of fractions",
    "contrasts": "in percentage points",
    "judgments": "in percentage points, or of fractions",
}
MCNEMAR = "McNemar annotation", "McNemar retrieval"


def significance_table(
    tables: Sequence[Table], labels: Sequence[str], style: str, across: bool = False, width: int | None = None
) -> str:
    """Compare the first method with each of the others, metric by metric; without labels, the best with all others.

    Args:
        tables: tables of one dataset and protocol.
        labels: of the methods.
        style: the format.
        across: compare rows with different features of the same test split too; rows are numbered by their features,
            and the best of the first method comes first.
        width: characters per line in a terminal.

    Raises:
        BadInput: a method has no records, the methods have different data, or the format is unknown.
    """
    together = {of: [table for table in tables if table.group.of == of] for of in [t.group.of for t in tables]}
    complete = {of: some for of, some in together.items() if {*labels} <= _finished(some)}
    found: list[_Tests] = []
    refused: list[BadInput] = []
    for some in (complete or together).values():
        try:
            found.append(_compared(some, labels, across))
        except BadInput as error:
            refused.append(error)
    if not found:
        raise refused[0]
    for one in refused:
        say(str(one))
    if style in DATA_FORMATS:
        import pandas as pd

        frames = [pd.DataFrame(tests.lines, columns=tests.headings) for tests in found]
        if len(found) > 1:
            frames = [frame.assign(set=tests.of) for frame, tests in zip(frames, found, strict=True)]
        csv = pd.concat(frames).to_csv(index=False)
        return csv if style == "csv" else export(pd.read_csv(io.StringIO(csv)), style)  # with numbers as such
    texts = []
    for tests in found:
        cells = {heading: [line[k] for line in tests.lines] for k, heading in enumerate(tests.headings)}
        texts.append(typeset(tests.title, cells, tests.notes, style, (), width, _BY_IMPORTANCE, "-f csv"))
    return "\n".join(texts)


@dataclass(frozen=True)
class _Tests:
    """The lines of a table of tests, its notes, and the set of contrasts or judgments that they are of."""

    title: str
    headings: list[str]
    lines: list[list[str]]
    notes: Sequence[str]
    of: str


def _compared(tables: Sequence[Table], labels: Sequence[str], across: bool) -> _Tests:
    """The tests of a set of contrasts or judgments, or of recalls."""
    _require_known(tables, labels)
    table, inputs = _across(tables, labels) if across else (_together(tables, labels), [])
    rows, task = {row.label: row for row in (table.finished if labels else table.ranked)}, table.task
    counted = [row for row in table.finished if (row.label in rows if labels else not row.is_ranked)]
    unseen = [row.label for row in counted if row.is_order_unseen]
    if not task.tested:
        raise BadInput(f"{table.title} has no kind with {FEW_PAIRS} balanced pairs, so that it ranks no method")
    if len(rows) < 2:
        ranked = f"ranks {len(rows)} of {len(table.finished)} methods, as others see no order of words"
        found = ranked if unseen and not labels else "has only one method"
        raise BadInput(f"{table.title} {found}: give at least two methods")
    if labels:
        first, *others = rows.values() if across else [rows[label] for label in labels]
        lines = _figure_by_figure(first, others)
        headings = ["against", "figure", "first", "other", "difference", "95 % interval", "p", "p (Holm)"]
        tests = ["McNemar"]
    else:
        first, *others = sorted(rows.values(), key=lambda row: -row.mean(task.headline))
        lines = _against_best(first, others, behind_best({label: table.samples[label] for label in rows}))
        headings, tests = ["against", heading(task.headline), "difference", "95 % interval"], list(MCNEMAR)
    if not lines:
        raise BadInput(f"{' and '.join(unseen)} see no order of words, so that nothing tests them: give other methods")
    headings += [*tests * (task is RECALL), "verdict"]
    seeds = [len(row.records) for row in (first, *others)]
    over = "images, and over seeds if a row has several" if max(seeds) > 1 else "images (there is one seed)"
    notes = [
        f"Differences are {first.label} minus the other method, {UNITS[task.name]}; the interval is over {over}.",
        f"Verdict: bootstrap p values at 5 %, with Holm's correction for the {len(lines)} tests in the table."
        if labels
        else "Verdict: multiple comparisons with the best; all intervals hold at once at 95 %, to the best other row.",
        *["McNemar: uncorrected p value of equal R@1 of the first seeds, with the captions of an image as one cluster."]
        * (task is RECALL),
        *[f"Not tested where the order of words decides, as they do not see it: {', '.join(unseen)}."] * bool(unseen),
        *(inputs or [table.group.inputs]),
        *exposure_notes([first, *others]),
        *merge_notes([first, *others], tables[0].folders),
        *table.failed,
    ]
    return _Tests(f"{first.label} · {table.title}", headings, lines, notes, table.group.of)


def _finished(tables: Sequence[Table]) -> set[str]:
    return {row.label for table in tables for row in table.finished}


def _require_known(tables: Sequence[Table], labels: Sequence[str]) -> None:
    """Require finished rows of the given labels, each of which is given once."""
    repeated = [label for label in labels if labels.count(label) > 1]
    if repeated:
        raise BadInput(f"{repeated[0]} is given twice: give each method once")
    finished = _finished(tables)
    for label in labels:
        if label not in finished:
            raise BadInput(f"there is no finished record of {label}{did_you_mean(label, finished)}")


def _across(tables: Sequence[Table], labels: Sequence[str]) -> tuple[Table, list[str]]:
    """The rows of the given methods with any features of one test split, and a line on each kind of features."""
    splits: dict[tuple[object, ...], list[tuple[Table, Row]]] = {}
    for table in tables:
        rows = [(table, row) for row in table.rows if row.records and (not labels or row.label in labels)]
        group = table.group
        answers = group.labels, group.contrasts, group.judgments
        splits.setdefault((group.quick, group.folds, group.split_sha, *answers), []).extend(rows)
    complete = [some for some in splits.values() if {*labels} <= {row.label for _, row in some}]
    if not complete:
        raise BadInput(f"{' and '.join(labels)} were measured on different test splits: run all of them on one")
    of_split = max(complete, key=len)
    kinds = list(dict.fromkeys(table.group for table, _ in of_split))
    of_split.sort(key=lambda found: (bool(labels) and found[1].label != labels[0], -_headline(found[1])))
    named = [replace(row, label=f"{row.label} ({kinds.index(table.group) + 1})") for table, row in of_split]
    lines = [f"({k}) {kind.inputs}" for k, kind in enumerate(kinds, 1)]
    if len({kind.inputs for kind in kinds}) < len(kinds):
        shas = [[sha[:8] for sha in (kind.features, kind.extras, kind.fit_data) if sha] for kind in kinds]
        lines = [f"{line[:-1]}, sha {' '.join(some)}." for line, some in zip(lines, shas, strict=True)]
    return Table(kinds[0], named), lines


def _together(tables: Sequence[Table], labels: Sequence[str]) -> Table:
    """The table that contains all given methods; if there are several, the one with most rows."""
    complete = [table for table in tables if set(labels) <= {row.label for row in table.rows if row.records}]
    if not complete:
        partial = [table for table in tables if any(row.label in labels and row.records for row in table.rows)]
        one, other = partial[0].group, partial[1].group
        name = next(field for field in Group.__dataclass_fields__ if getattr(one, field) != getattr(other, field))
        raise BadInput(
            f"{' and '.join(labels)} were measured on different data: {name.replace('_', ' ')} is {getattr(one, name)} "
            f"and {getattr(other, name)}; run all of them on the same data, or compare rows of one test split with "
            "--across"
        )
    return max(complete, key=lambda table: sum(bool(row.records) for row in table.rows))


def _figure_by_figure(first: Row, others: Sequence[Row]) -> list[list[str]]:
    task = first.task
    tested = [
        (other, figure)
        for other in others
        for figure in task.tested
        if not (figure in task.by_order and (first.is_order_unseen or other.is_order_unseen))
    ]
    differences = [first.sample.minus(other.sample, figure) for other, figure in tested]
    lines: list[list[str]] = []
    for (other, figure), gap, p in zip(tested, differences, holm([d.p for d in differences]), strict=True):
        is_r1, digits = task is RECALL and figure.endswith("_r1"), task.digits(figure)
        test = mcnemar(first.ranks[0], other.ranks[0], cast("Direction", figure[:3])) if is_r1 else None
        lines.append(
            [
                other.label if other.label not in {line[0] for line in lines} else "",
                figure.replace("_r", " R@") if task is RECALL else heading(figure),
                f"{first.mean(figure):.{digits}f}",
                f"{other.mean(figure):.{digits}f}",
                signed(gap.value, digits),
                bounds(gap, digits),
                f"{gap.p:.4f}",
                f"{p:.4f}",
                *["" if test is None else f"{test:.2g}"] * (task is RECALL),
                _verdict(gap.value, p),
            ]
        )
    return lines


def _against_best(best: Row, others: Sequence[Row], behind: Mapping[str, Interval]) -> list[list[str]]:
    gaps = [Interval(-gap.value, -gap.high, -gap.low) for gap in (behind[other.label] for other in others)]
    digits, tested = best.task.digits(best.task.headline), get_args(Direction) if best.task is RECALL else ()
    return [
        [
            other.label,
            f"{_headline(other):.{digits}f}",
            signed(gap.value, digits),
            bounds(gap, digits),
            *(f"{mcnemar(best.ranks[0], other.ranks[0], direction):.2g}" for direction in tested),
            "better" if gap.low > 0 else "not separable",
        ]
        for other, gap in zip(others, gaps, strict=True)
    ]


def _headline(row: Row) -> float:
    return row.mean(row.task.headline)


def _verdict(value: float, p: float) -> str:
    if p >= LEVEL:
        return "not separable"
    return "better" if value > 0 else "worse"
