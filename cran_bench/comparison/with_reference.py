"""Measured now against a committed reference: has anything moved by more than seeds and images explain?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from cran_bench.errors import BadInput
from cran_bench.statistics import LEVEL
from cran_bench.tables import Row, Table

from .verdict import Verdict, bounds, signed
from .with_paper import DIRECTIONS


def compare_with_reference(tables: Sequence[Table], reference: Sequence[Table]) -> list[Verdict]:
    """Every measured row against its reference, by the sum of recalls of each direction.

    A row has changed if the paired interval over images, and seeds, of the difference excludes zero, and the difference
    is more than seeds explain; both at 5 % for the whole table.  What went up has changed as well: a leak looks like
    progress.

    Raises:
        BadInput: the reference has nothing of this data and protocol, or has it of other data.
    """
    return [_judge(table, _counterpart(table, reference)) for table in tables]


def _counterpart(table: Table, reference: Sequence[Table]) -> Table:
    group = table.group
    asked = ("dataset", "quick", "protocol", "folds")
    near = [t for t in reference if all(getattr(t.group, name) == getattr(group, name) for name in asked)]
    where = f"{group.dataset}, protocol {group.protocol}" + (f", {group.folds} folds" if group.folds else "")
    if not near:
        raise BadInput(f"the reference has no records of {where}: make some with cran-bench run --results REFERENCE")
    same = [t for t in near if _differs(table, t) is None]
    if same:
        return max(same, key=lambda t: len(t.rows))
    name, here, there = next(found for found in (_differs(table, t) for t in near) if found)
    raise BadInput(
        f"records of {where} are of other data than the reference: {name} is {here}, there it is {there}; "
        "they cannot be compared"
    )


def _differs(table: Table, other: Table) -> tuple[str, str, str] | None:
    """The first thing in which the data of two tables differs, here and there.

    Features that were computed elsewhere differ in their last bits, so what counts is what they were made of.
    """
    for name in ("split_sha", "front_end", "vectors"):
        here, there = getattr(table.group, name), getattr(other.group, name)
        if here != there:
            return name.replace("_", " "), here, there
    if set(table.features) & set(other.features) or table.sources & other.sources:
        return None
    return "features sha", table.features[0], other.features[0]


def _judge(now: Table, then: Table) -> Verdict:
    before = {row.label: row for row in then.rows if row.records}
    both = [(row, before[row.label]) for row in now.rows if row.records and row.label in before]
    tests = max(1, len(both) * len(DIRECTIONS))
    lines, regressions, notes = [], [], []
    where = f"{now.group.dataset}, {now.group.protocol}"
    for row, old in both:
        for direction, word in DIRECTIONS.items():
            allowed = _allowed(row, old, list(before.values()), direction, LEVEL / tests)
            gap = row.sample.minus(old.sample, direction, LEVEL / tests)
            changed = gap.excludes_zero() and abs(gap.value) > allowed
            verdict = ("LOWER" if gap.value < 0 else "HIGHER") if changed else "same"
            values = [f"{r.sample.by_seed(direction).mean():.1f}" for r in (old, row)]
            head = [row.label, f"{len(old.records)} → {len(row.records)}"] if word == "annotation" else ["", ""]
            lines.append([*head, word, *values, signed(gap.value), bounds(gap), f"{allowed:.1f}", verdict])
            if changed:
                regressions.append(
                    f"REGRESSION {where}, {row.label}, {word}: {values[1]}, the reference has {values[0]}; "
                    + ("see what leaks, or commit a new reference" if gap.value > 0 else "more than seeds explain")
                )
    for row in now.rows:
        if row.records and row.label not in before:
            lines.append([row.label, "", "", "none", f"{row.mean('rsum'):.1f} (rsum)", "", "", "", "no reference"])
        regressions += [
            f"REGRESSION {where}, {row.label}, seed {failure.seed} FAILED: {failure.error}" for failure in row.failures
        ]
    missing = [label for label in before if label not in {row.label for row in now.rows}]
    if missing:
        notes.append(f"Not run: {', '.join(missing)}.")
    if not set(now.features) & set(then.features):
        notes.append("Features of the same images by the same networks, computed elsewhere: they differ in last bits.")
    if not any(len(row.records) > 1 for row in before.values()):
        notes.append("The reference has one seed of each row: nothing is known of seeds, only images are allowed for.")
    elif any(len(old.records) == 1 for _, old in both):
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
        len(both),
    )


def _allowed(row: Row, old: Row, rows: Sequence[Row], direction: str, level: float) -> float:
    """How far the means of the seeds of two such rows may lie apart: Student's prediction interval.

    The variance is that of the row's own seeds in the reference or the mean over rows that seeds change, whichever is
    larger, with the degrees of freedom of all; nothing for a row that seeds do not change.
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
    quantile = float(stdtrit(sum(len(values) - 1 for values in moving), 1 - level / 2))
    return quantile * math.sqrt(variance * (1 / len(row.records) + 1 / len(old.records)))
