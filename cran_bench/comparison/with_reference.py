"""Comparison with a committed reference: has any row changed by more than seeds and images explain?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from cran_bench.errors import BadInput
from cran_bench.records.statistics import LEVEL, samples
from cran_bench.tables.figures import heading
from cran_bench.tables.rows import Row, merge_notes
from cran_bench.tables.tables import Table

from .verdict import Verdict, bounds, signed

VALUES = {
    "recall": "R@1 + R@5 + R@10",
    "category": "mean average precisions",
    "contrasts": "shares of balanced pairs, in percent",
    "judgments": "tau-c, times 100, and mAP@R, as fractions",
}


def compare_with_reference(tables: Sequence[Table], reference: Sequence[Table]) -> list[Verdict]:
    """Compare each row with its reference, by the sum of recalls or by what else the task is judged by.

    A row has changed if the paired interval of the difference over images and seeds excludes zero, and the difference
    is larger than seeds explain; both at 5 % for the whole table.  An increase counts as a change as well, because a
    leak of test data looks like progress.

    Raises:
        BadInput: the reference is of different data.
    """
    return [_compare(table, _counterpart(table, reference)) for table in tables]


def _counterpart(table: Table, reference: Sequence[Table]) -> Table | None:
    fields = ("dataset", "quick", "protocol", "folds", "of")
    alike = [t for t in reference if t.task.name == table.task.name]
    candidates = [t for t in alike if all(getattr(t.group, name) == getattr(table.group, name) for name in fields)]
    if not candidates:
        return None
    same = [t for t in candidates if _differs(table, t) is None]
    if same:
        return max(same, key=lambda t: len(t.rows))
    name, here, there = next(difference for difference in (_differs(table, t) for t in candidates) if difference)
    raise BadInput(
        f"records of {_where(table)} are of different data than the reference: {name} is {here}, "
        f"in the reference {there}; run on the same data, or commit a new reference"
    )


def _where(table: Table) -> str:
    group = table.group
    folds = f", {group.folds} folds" if group.folds else ""
    return f"{group.dataset}, protocol {group.protocol}{folds}" + f", {table.kind}" * bool(table.kind)


def _differs(table: Table, other: Table) -> tuple[str, str, str] | None:
    """The name and both values of the first field in which the data of two tables differ, or None.

    Features computed on another machine differ in their last bits, so equal sources count as equal features.
    """
    for name in ("split_sha", "front_end", "vectors", "extras", "fit_data", "labels", "contrasts", "judgments"):
        here, there = getattr(table.group, name), getattr(other.group, name)
        if here != there and here and there:  # older records do not name their extras
            return name.replace("_", " "), here, there
    if set(table.features) & set(other.features) or table.sources & other.sources:
        return None
    return "features sha", table.features[0], other.features[0]


def _compare(now: Table, then: Table | None) -> Verdict:
    before = {row.label: row for row in then.rows if row.records} if then else {}
    both = [(row, before[row.label]) for row in now.rows if row.records and row.label in before]
    task = now.task
    tests = max(1, len(both) * len(task.directions))
    drawn = samples([r.ranks for pair in both for r in pair], task=task) if both else []
    lines, regressions, notes = [], [], []
    where = f"{now.group.dataset}, {now.group.protocol}" + f", {now.kind}" * bool(now.kind)
    for place, (row, old) in enumerate(both):
        here, there = drawn[2 * place : 2 * place + 2]
        for word, figure in task.directions.items():
            digits = task.digits(figure)
            allowed = _allowed(row, old, list(before.values()), figure, LEVEL / tests)
            gap = here.minus(there, figure, LEVEL / tests)
            changed = gap.excludes_zero() and abs(gap.value) > allowed
            verdict = ("LOWER" if gap.value < 0 else "HIGHER") if changed else "same"
            values = [f"{one.by_seed(figure).mean():.{digits}f}" for one in (there, here)]
            is_first = figure == next(iter(task.directions.values()))
            head = [row.label, f"{len(old.records)} → {len(row.records)}"] if is_first else ["", ""]
            cells = signed(gap.value, digits), bounds(gap, digits), f"{allowed:.{digits}f}"
            lines.append([*head, word, *values, *cells, verdict])
            if changed:
                regressions.append(
                    f"REGRESSION {where}, {row.label}, {word}: {values[1]}, the reference has {values[0]}; "
                    + ("check for a leak, or commit a new reference" if gap.value > 0 else "more than seeds explain")
                )
    for row in now.rows:
        if row.records and row.label not in before:
            headline = f"{row.mean(task.headline):.{task.digits(task.headline)}f} ({heading(task.headline)})"
            lines.append([row.label, "", "", "none", headline, "", "", "", "no reference"])
        regressions += [f"REGRESSION {where}, {failure.sentence}" for failure in row.failures]
    damaged = [f for row in then.rows for f in row.failures if f.kind == "damaged"] if then else []
    regressions += [f"REGRESSION {where}, in the reference: {failure.sentence}" for failure in damaged]
    missing = [label for label in before if label not in {row.label for row in now.rows}]
    if missing:
        notes.append(f"Not run: {', '.join(missing)}.")
    if then is None:
        notes.append(f"The reference has no records of {_where(now)}.")
    elif not set(now.features) & set(then.features):
        notes.append("The features were computed elsewhere from the same sources: they may differ in their last bits.")
    if before and not any(len(row.records) > 1 for row in before.values()):
        notes.append("The reference has one seed per row: the tolerance covers the choice of images only.")
    elif any(len(old.records) == 1 for _, old in both):
        notes.append("Rows with one seed in the reference use the variance between seeds of the other rows.")
    notes += merge_notes(now.rows, now.folders)
    notes.append(
        f"Values are {VALUES[task.name]}; the interval is a paired bootstrap at {100 * (1 - LEVEL / tests):.2f} %, 5 % "
        "over the table; `seeds` is the largest difference that seeds explain, by Student's t of the reference's seeds."
    )
    return Verdict(
        f"{now.title} · against the reference",
        ["method", "n", "direction", "reference", "now", "difference", "interval", "seeds", "verdict"],
        lines,
        notes,
        regressions,
        len(both) * bool(task.directions),
    )


def _allowed(row: Row, old: Row, rows: Sequence[Row], figure: str, level: float) -> float:
    """The largest difference between two rows' means over seeds that seeds explain: Student's prediction interval.

    The variance is that of the row's own seeds in the reference or the mean over all rows that depend on the seed,
    whichever is larger, with the pooled degrees of freedom; 0 for a row that does not depend on the seed.
    """
    spread = {r.label: np.array(r.values(figure)) for r in rows if len(r.records) > 1}
    own = spread.get(old.label)
    if own is not None and not np.ptp(own):
        return 0.0
    varying = [values for values in spread.values() if np.ptp(values)]
    if not varying:
        return 0.0
    pooled = float(np.mean([np.var(values, ddof=1) for values in varying]))
    variance = max(pooled, float(np.var(own, ddof=1)) if own is not None else 0.0)
    quantile = float(stdtrit(sum(len(values) - 1 for values in varying), 1 - level / 2))
    return quantile * math.sqrt(variance * (1 / len(row.records) + 1 / len(old.records)))
