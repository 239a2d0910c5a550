"""Measured now against a committed reference: has anything moved by more than seeds and images explain?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from scipy.stats import t as student

from cran_bench.errors import BadInput
from cran_bench.ranking import Direction
from cran_bench.statistics import LEVEL
from cran_bench.tables import Group, Row, Table

from .verdict import Verdict, signed

DIRECTIONS: tuple[Direction, ...] = ("i2t", "t2i")
NAMES = {"i2t": "annotation", "t2i": "retrieval"}


def compare_with_reference(tables: Sequence[Table], reference: Sequence[Table]) -> list[Verdict]:
    """Every measured row against its reference, by the sum of recalls of each direction.

    A row has changed if the paired interval over images, and seeds, of the difference excludes zero, and the difference
    is more than seeds explain; both at 5 % for the whole table.  What went up has changed as well: a leak looks like
    progress.

    Raises:
        BadInput: the reference has nothing of this data and protocol, or has it of other data.
    """
    return [_judge(table, _counterpart(table.group, reference)) for table in tables]


def _counterpart(group: Group, reference: Sequence[Table]) -> Table:
    asked = ("dataset", "quick", "protocol", "folds")
    near = [t for t in reference if all(getattr(t.group, name) == getattr(group, name) for name in asked)]
    where = f"{group.dataset}, protocol {group.protocol}" + (f", {group.folds} folds" if group.folds else "")
    if not near:
        raise BadInput(f"the reference has no records of {where}: make some with cran-bench run --results REFERENCE")
    for table in near:
        if table.group == group:
            return table
    other = next(f.name for f in fields(Group) if getattr(near[0].group, f.name) != getattr(group, f.name))
    raise BadInput(
        f"records of {where} are of other data than the reference: {other.replace('_', ' ')} is "
        f"{getattr(group, other)}, there it is {getattr(near[0].group, other)}; they cannot be compared"
    )


def _judge(now: Table, then: Table) -> Verdict:
    before = {row.label: row for row in then.rows if row.records}
    both = [(row, before[row.label]) for row in now.rows if row.records and row.label in before]
    tests = max(1, len(both) * len(DIRECTIONS))
    lines, regressions, notes = [], [], []
    where = f"{now.group.dataset}, {now.group.protocol}"
    for row, old in both:
        for direction in DIRECTIONS:
            allowed = _allowed(row, old, list(before.values()), direction, LEVEL / tests)
            gap = row.sample.minus(old.sample, direction, LEVEL / tests)
            changed = gap.excludes_zero() and abs(gap.value) > allowed
            verdict = ("LOWER" if gap.value < 0 else "HIGHER") if changed else "same"
            values = [f"{r.sample.by_seed(direction).mean():.1f}" for r in (old, row)]
            interval = f"[{signed(gap.low)}, {signed(gap.high)}]"
            first = direction == DIRECTIONS[0]
            seeds = f"{len(old.records)} → {len(row.records)}" if first else ""
            name = row.label if first else ""
            lines.append(
                [name, seeds, NAMES[direction], *values, signed(gap.value), interval, f"{allowed:.1f}", verdict]
            )
            if changed:
                regressions.append(
                    f"REGRESSION {where}, {row.label}, {NAMES[direction]}: {values[1]}, the reference has {values[0]}; "
                    + ("see what leaks, or commit a new reference" if gap.value > 0 else "more than seeds explain")
                )
    for row in now.rows:
        if row.records and row.label not in before:
            lines.append([row.label, "", "", "none", f"{row.mean('rsum'):.1f} (rsum)", "", "", "", "no reference"])
        for failure in row.failures:
            regressions.append(f"REGRESSION {where}, {row.label}, seed {failure.seed} FAILED: {failure.error}")
    missing = [label for label in before if label not in {row.label for row in now.rows}]
    if missing:
        notes.append(f"Not run: {', '.join(missing)}.")
    if any(len(old.records) == 1 for _, old in both):
        notes.append("Rows with one seed in the reference: seeds are allowed what they do in the other rows.")
    notes.append(
        f"R@1 + R@5 + R@10; the interval is the paired bootstrap's at {100 * (1 - LEVEL / tests):.2f} % (5 % over the "
        "table); `seeds` is how far means of so many seeds may lie apart, by Student's t of the reference's seeds."
    )
    return Verdict(
        f"{now.title} · against the reference",
        ["method", "n", "direction", "reference", "now", "difference", "interval", "seeds", "verdict"],
        lines,
        notes,
        regressions,
    )


def _allowed(row: Row, old: Row, rows: Sequence[Row], direction: Direction, level: float) -> float:
    """How far the means of the seeds of two such rows may lie apart: Student's prediction interval.

    The variance is that of the row's own seeds in the reference or the mean over rows that seeds change, whichever is
    larger; nothing for a row that seeds do not change.
    """
    spread = {r.label: r.sample.by_seed(direction) for r in rows if len(r.records) > 1}
    own = spread.get(old.label)
    if own is not None and not np.ptp(own):
        return 0.0
    moving = [values for values in spread.values() if np.ptp(values)]
    if not moving:
        return 0.0
    pooled = float(np.mean([np.var(values, ddof=1) for values in moving]))
    variance = max(pooled, float(np.var(own, ddof=1)) if own is not None else 0.0)
    freedom = sum(len(values) - 1 for values in moving)
    quantile = float(student.ppf(1 - level / 2, freedom))
    return quantile * math.sqrt(variance * (1 / len(row.records) + 1 / len(old.records)))
