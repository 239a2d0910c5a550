"""Tables 1 to 3 in the layout of the paper: measured recalls beside the printed ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cran_bench.errors import BadInput
from cran_bench.protocols import Protocol
from cran_bench.records.statistics import FIGURES
from cran_bench.specs import parse_spec
from cran_bench.tables.paper import DATASET_NAMES, TABLES, PaperRow, find_row, not_comparable, of_dataset, paper_rows
from cran_bench.tables.tables import Row, Table, typeset

HEADINGS = ("R@1", "R@5", "R@10")


def paper_table(
    number: int, tables: Sequence[Table], preset: str, protocol: Protocol | None, style: str, dataset: str | None = None
) -> str:
    """Format one of the paper's tables.

    Args:
        number: 1, 2 or 3.
        tables: all records.
        preset: preset of the measured rows; rows without records of it show `paper` or `tuned` instead.
        protocol: protocol of all rows, or None for the one that best matches each row of the paper.
        style: one of `cran_bench.tables.tables.FORMATS`.
        dataset: shows this dataset in the layout of the table, one of the paper's or another.

    Raises:
        BadInput: the number or format is unknown.
    """
    if number not in TABLES:
        raise BadInput(f"the paper has tables 1, 2 and 3, not {number}")
    sets = TABLES[number]
    name = parse_spec(dataset).name if dataset else None
    shown_sets = [name] if name in sets else sets[:1] if name else sets
    lines = [
        _measured(printed, of_dataset(tables, dataset or printed.dataset), preset, protocol)
        for printed in paper_rows(number)
        if printed.dataset in shown_sets
    ]
    if style == "csv":
        import pandas as pd

        return str(pd.DataFrame([line.numbers() for line in lines]).to_csv(index=False))
    is_other = name is not None and name not in sets
    headings = ["Dataset"] * (len(shown_sets) > 1) + ["Method"]
    headings += [f"{kind} {k}" for kind in ("annotation", "retrieval") for k in HEADINGS] + ["measured"]
    cells, last = [], ""
    for line in lines:
        shown = DATASET_NAMES[line.printed.dataset]
        cells.append([shown if shown != last else ""] * (len(shown_sets) > 1) + line.cells())
        last = shown
    what = dataset or " and ".join(DATASET_NAMES[shown] for shown in shown_sets)
    title = f"Table {number}: {what}. Image annotation and image retrieval, measured (printed)"
    notes = [note for line in lines for note in line.notes(is_other)]
    if is_other:
        printed_set = DATASET_NAMES[shown_sets[0]]
        notes.insert(0, f"The printed numbers are of {printed_set}, another dataset: they are not comparable.")
    if any(line.row is None for line in lines):
        notes.append("- is not measured.")
    return typeset(title, headings, cells, list(dict.fromkeys(notes)), style)


@dataclass(frozen=True)
class Line:
    """A row of the paper and the measured row that reproduces it.

    Attributes:
        printed: the row of the paper.
        row: the measured row, without records if it failed; None if there is none.
        protocol: protocol of the measured row.
    """

    printed: PaperRow
    row: Row | None
    protocol: Protocol

    @property
    def status(self) -> str:
        """One of `missing`, `failed`, `partly failed` and `ok`."""
        if self.row is None:
            return "missing"
        if not self.row.records:
            return "failed"
        return "partly failed" if self.row.failures else "ok"

    def cells(self) -> list[str]:
        """The row's name, six recalls, and the label and protocol of the measured row."""
        cells = []
        for figure in FIGURES:
            measured = {"missing": "-", "failed": "failed"}.get(self.status)
            measured = measured or f"{self.row.mean(figure) / 100:.3f}" if self.row else "-"
            cells.append(f"{measured} ({self.printed.values[figure] / 100:.3f})")
        return [self.printed.name, *cells, f"{self.row.label}, {self.protocol}" if self.row else ""]

    def numbers(self) -> dict[str, Any]:
        """The line as columns of a CSV file."""
        records = self.row.records if self.row else []
        line: dict[str, Any] = {
            "table": self.printed.table,
            "row": self.printed.name,
            "printed_dataset": self.printed.dataset,
            "dataset": records[0].data.label if records else "",
            "protocol": self.protocol,
            "method": self.row.label if self.row else "",
            "seeds": len(records),
            "status": self.status,
        }
        for figure in FIGURES:
            line[figure] = round(self.row.mean(figure) / 100, 4) if self.row and records else None
            line[f"{figure}_paper"] = round(self.printed.values[figure] / 100, 3)
        return line

    def notes(self, is_other: bool) -> list[str]:
        """Why the row is not comparable, which runs failed, and where the paper's numbers come from."""
        notes = []
        if self.row:
            if not is_other:
                reasons = {not_comparable(record) for record in self.row.records} - {""}
                notes += [f"{self.row.label} is not comparable: {reason}." for reason in sorted(reasons)]
            notes += [f"{f.method_label} seed {f.seed} FAILED: {f.error}" for f in self.row.failures]
        if set(self.printed.rules.values()) != {"one_to_one"}:
            notes.append(f"{self.printed.name} in the paper: {self.printed.provenance}.")
        return notes


def _measured(printed: PaperRow, tables: Sequence[Table], preset: str, protocol: Protocol | None) -> Line:
    used = protocol or printed.protocol
    for name in dict.fromkeys((preset, "paper", "tuned")):
        row = find_row(tables, printed.name, name, used)
        if row:
            return Line(printed, row, used)
    return Line(printed, None, used)
