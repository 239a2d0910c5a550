"""What all comparisons come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from cran_bench.records.statistics import Interval


@dataclass(frozen=True)
class Verdict:
    """A comparison, as people read it.

    Attributes:
        title: over the table.
        headings: of its columns.
        lines: of texts.
        notes: below it.
        regressions: a sentence each; none if all is well.
        judged: how many things were held against each other.
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


def signed(value: float) -> str:
    """With its sign, to a tenth."""
    return f"{value:+.1f}"


def bounds(interval: Interval) -> str:
    """``[+0.1, +2.3]``."""
    return f"[{signed(interval.low)}, {signed(interval.high)}]"
