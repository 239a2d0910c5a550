"""Significance of differences between methods: paired bootstrap, McNemar's test of R@1, and Holm's correction."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast, get_args

from cran_bench.errors import BadInput, did_you_mean
from cran_bench.ranking.metrics import Direction
from cran_bench.records.statistics import LEVEL, RECALL, Interval, behind_best, holm, mcnemar
from cran_bench.tables.tables import DATA_FORMATS, HEADINGS, Group, Row, Table, export, exposure_notes, typeset

from .verdict import bounds, signed

_BY_IMPORTANCE = (
    *({"against", "figure", "rsum", "mAP", "difference", "95 % interval", "verdict"}, {"p (Holm)"}, {"first", "other"}),
    *({"McNemar annotation", "McNemar retrieval"}, {"McNemar"}),
)


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
    _require_known(tables, labels)
    table, inputs = _across(tables, labels) if across else (_together(tables, labels), [])
    rows, headline = {row.label: row for row in table.rows if row.records}, table.task.headline
    if len(rows) < 2:
        raise BadInput(f"{table.title} has only one method: give at least two methods")
    if labels:
        first, *others = rows.values() if across else [rows[label] for label in labels]
        lines = _figure_by_figure(first, others)
        headings = ["against", "figure", "first", "other", "difference", "95 % interval", "p", "p (Holm)"]
        tests = ["McNemar"]
    else:
        first = max(rows.values(), key=lambda row: row.mean(headline))
        others = sorted((row for row in rows.values() if row is not first), key=lambda row: -row.mean(headline))
        lines = _against_best(first, others, behind_best(table.samples))
        headings, tests = ["against", HEADINGS[headline], "difference", "95 % interval"], list(MCNEMAR)
    headings += [*tests * (table.task is RECALL), "verdict"]
    if style in DATA_FORMATS:
        import pandas as pd

        csv = pd.DataFrame(lines, columns=headings).to_csv(index=False)
        return csv if style == "csv" else export(pd.read_csv(io.StringIO(csv)), style)  # with numbers as such
    seeds = [len(row.records) for row in (first, *others)]
    over = "images, and over seeds if a row has several" if max(seeds) > 1 else "images (there is one seed)"
    unit = "in percentage points" if table.task is RECALL else "of fractions"
    notes = [
        f"Differences are {first.label} minus the other method, {unit}; the interval is over {over}.",
        f"Verdict: bootstrap p values at 5 %, with Holm's correction for the {len(lines)} tests in the table."
        if labels
        else "Verdict: multiple comparisons with the best; all intervals hold at once at 95 %, to the best other row.",
        *["McNemar: uncorrected p value of equal R@1 of the first seeds, with the captions of an image as one cluster."]
        * (table.task is RECALL),
        *(inputs or [table.group.inputs]),
        *exposure_notes([first, *others]),
    ]
    cells = {heading: [line[k] for line in lines] for k, heading in enumerate(headings)}
    return typeset(f"{first.label} · {table.title}", cells, [*notes, *table.failed], style, (), width, _BY_IMPORTANCE)


def _require_known(tables: Sequence[Table], labels: Sequence[str]) -> None:
    """Require finished rows of the given labels, each of which is given once."""
    repeated = [label for label in labels if labels.count(label) > 1]
    if repeated:
        raise BadInput(f"{repeated[0]} is given twice: give each method once")
    finished = {row.label for table in tables for row in table.rows if row.records}
    for label in labels:
        if label not in finished:
            raise BadInput(f"there is no finished record of {label}{did_you_mean(label, finished)}")


def _across(tables: Sequence[Table], labels: Sequence[str]) -> tuple[Table, list[str]]:
    """The rows of the given methods with any features of one test split, and a line on each kind of features."""
    splits: dict[tuple[object, ...], list[tuple[Table, Row]]] = {}
    for table in tables:
        rows = [(table, row) for row in table.rows if row.records and (not labels or row.label in labels)]
        group = table.group
        splits.setdefault((group.quick, group.folds, group.split_sha, group.labels), []).extend(rows)
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
    figures = (*task.figures, task.headline)
    tested = [(other, figure) for other in others for figure in figures]
    differences = [first.sample.minus(other.sample, figure) for other, figure in tested]
    lines = []
    for (other, figure), gap, p in zip(tested, differences, holm([d.p for d in differences]), strict=True):
        is_r1, digits = figure.endswith("_r1"), task.digits
        test = mcnemar(first.ranks[0], other.ranks[0], cast("Direction", figure[:3])) if is_r1 else None
        lines.append(
            [
                other.label if figure == figures[0] else "",
                figure.replace("_r", " R@") if task is RECALL else HEADINGS[figure],
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
    digits, tested = best.task.digits, get_args(Direction) if best.task is RECALL else ()
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
