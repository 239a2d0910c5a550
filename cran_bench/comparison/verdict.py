"""The result of a comparison, and the format of its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from cran_bench.records.statistics import Interval


@dataclass(frozen=True)
class Verdict:
    """The result of a comparison; its string is a table with notes.

    Attributes:
        title: heading of the table.
        headings: headings of the columns.
        lines: rows of cells.
        notes: sentences below the table.
        regressions: one sentence per regression.
        judged: number of rows or orders that were compared.
    """

    title: str
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    notes: Sequence[str]
    regressions: Sequence[str]
    judged: int

    def __str__(self) -> str:
        align = ["left", *["right"] * (len(self.headings) - 2), "left"]
        table = tabulate(self.lines, headers=self.headings, tablefmt="simple", disable_numparse=True, colalign=align)
        return "\n".join([self.title, "", table, "", *self.notes, *self.regressions, ""])


def signed(value: float, digits: int = 1) -> str:
    """A value with its sign, ``+0.1``."""
    return f"{value:+z.{digits}f}"


def bounds(interval: Interval, digits: int = 1) -> str:
    """The bounds of an interval, ``[+0.1, +2.3]``."""
    return f"[{signed(interval.low, digits)}, {signed(interval.high, digits)}]"
