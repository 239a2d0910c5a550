"""Comparison with published mean average precisions by category."""

from __future__ import annotations

from collections.abc import Sequence

from cran_bench.records.schema import Record
from cran_bench.records.statistics import Interval
from cran_bench.tables.paper import PublishedRow, published_rows
from cran_bench.tables.rows import Row
from cran_bench.tables.tables import Table

from .verdict import Verdict, bounds, signed

BAND = 0.02  # a row has regressed if its mAP is significantly more than this below the published one
QUERIES = {"ucsd": 693, "pku": 462}  # test pairs of the splits of Wikipedia


def compare_with_published(table: Table, name: str) -> Verdict:
    """Compare the rows of a table by category with the published figures of a dataset."""
    rows = {row.label: row for row in table.rows if row.records}
    lines, notes, regressions, judged = [], [], [], 0
    for published in published_rows(name):
        row = rows.get(published.label)
        head = [published.row, published.preset or "-"]
        if row is None:
            printed = (f"{published.values[figure]:.3f}" for figure in table.task.directions.values())
            lines.append([*head, *(cell for value in printed for cell in (value, "")), published.provenance, "missing"])
            continue
        reason = next(filter(None, (_not_comparable(record, published) for record in row.records)), "")
        judged += not reason
        notes += [f"{row.label} is not comparable: {reason}."] * bool(reason)
        gaps = {word: _gap(row, published, figure) for word, figure in table.task.directions.items()}
        cells = [
            cell
            for word, figure in table.task.directions.items()
            for cell in (
                f"{published.values[figure]:.3f} → {row.mean(figure):.3f}",
                f"{signed(gaps[word].value, 3)} {bounds(gaps[word], 3)}",
            )
        ]
        fallen = [word for word, gap in gaps.items() if gap.high < -BAND]
        verdict = "not comparable" if reason else "informational" if published.is_quoted else "same"
        if verdict == "same" and fallen:
            verdict = "REGRESSED"
            regressions += [
                f"REGRESSION {table.group.dataset}, {row.label}, {word}: mAP is significantly (95 %) more "
                f"than {BAND} below {published.row}'s, {published.values[table.task.directions[word]]:.3f}"
                for word in fallen
            ]
        lines.append([*head, *cells, published.provenance, verdict])
    notes.append(
        "M: quoted without the paper at hand, so it is shown and never judged; C: printed with public code. Intervals "
        "are those of the measured figure, over the same features."
    )
    return Verdict(
        f"Published mAP · {table.title} · published → measured, difference [95 %]",
        ["row", "method", "annotation", "", "retrieval", "", "source", "verdict"],
        lines,
        list(dict.fromkeys(notes)),
        regressions,
        judged,
    )


def compare_published(tables: Sequence[Table], name: str) -> list[Verdict]:
    """`compare_with_published` of each table that has a published row."""
    verdicts = [compare_with_published(table, name) for table in tables]
    return [verdict for verdict in verdicts if any(line[-1] != "missing" for line in verdict.lines)]


def _gap(row: Row, published: PublishedRow, figure: str) -> Interval:
    own, printed = row.sample.interval(figure), published.values[figure]
    return Interval(own.value - printed, own.low - printed, own.high - printed)


def _not_comparable(record: Record, published: PublishedRow) -> str:
    """Why a record is not comparable with a published row; '' if it is."""
    if record.data.fitted_on:
        return "fitted on another dataset"
    if record.data.quick or record.folds:
        return "part of the data"
    queries = QUERIES[published.split]
    if record.data.images != queries:
        return f"{record.data.images:,} test pairs, but the split {published.split} has {queries}"
    return ""
