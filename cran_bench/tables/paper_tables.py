"""Tables 1 to 3 in the layout of the paper: measured recalls beside the printed ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cran_bench.errors import BadInput
from cran_bench.protocols import Protocol
from cran_bench.records.tasks import FIGURES
from cran_bench.specs import parse_spec
from cran_bench.tables.paper import (
    DATASET_NAMES,
    PRESETS,
    TABLES,
    PaperRow,
    find_row,
    not_comparable,
    of_dataset,
    paper_rows,
)
from cran_bench.tables.rows import Row, commit_note, exposure_notes, merge_notes
from cran_bench.tables.tables import DATA, Group, Table
from cran_bench.tables.typesetting import DATA_FORMATS, export, typeset


def paper_table(
    number: int,
    tables: Sequence[Table],
    preset: str,
    protocol: Protocol | None,
    style: str,
    dataset: str | None = None,
    width: int | None = None,
) -> str:
    """Format one of the paper's tables.

    Args:
        number: 1, 2 or 3.
        tables: all records, possibly none.
        preset: preset of the measured rows; rows without records of it show another instead.
        protocol: protocol of all rows, or None for the one that best matches each row of the paper.
        style: one of `cran_bench.tables.tables.FORMATS`.
        dataset: shows this dataset in the layout of the table, one of the paper's or another.
        width: characters per line of the style `terminal`; None for any number.

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
    if style in DATA_FORMATS:
        import pandas as pd

        return export(pd.DataFrame([line.numbers() for line in lines]), style)
    is_other = name is not None and name not in sets
    names, columns = [DATASET_NAMES[line.printed.dataset] for line in lines], {}
    if len(shown_sets) > 1:
        columns["dataset"] = ["" if shown in names[:k] else shown for k, shown in enumerate(names)]
    cells = [line.cells() for line in lines]
    columns |= {column: [of[column] for of in cells] for column in cells[0]}
    what = dataset or " and ".join(DATASET_NAMES[shown] for shown in shown_sets)
    title = f"Table {number}: {what}. Image annotation and image retrieval, measured (printed)"
    notes = [note for line in lines for note in line.notes(is_other)]
    if is_other:
        printed_set = DATASET_NAMES[shown_sets[0]]
        notes.insert(0, f"The printed numbers are of {printed_set}, another dataset: they are not comparable.")
    if any(line.row is None for line in lines):
        notes.append("- is not measured.")
    rows = [line.row for line in lines if line.row]
    folders = tables[0].folders if tables else ()
    notes += [*_apart(lines), *exposure_notes(rows), *merge_notes(rows, folders), *commit_note(rows)]
    return typeset(title, columns, list(dict.fromkeys(notes)), style, width=width)


@dataclass(frozen=True)
class Line:
    """A row of the paper and the measured row that reproduces it.

    Attributes:
        printed: the row of the paper.
        row: the measured row, without records if it failed; None if there is none.
        protocol: protocol of the measured row.
        table: the table of that row.
    """

    printed: PaperRow
    row: Row | None
    protocol: Protocol
    table: Table | None = None

    @property
    def status(self) -> str:
        """One of `missing`, `failed`, `damaged`, `partly failed`, `partly damaged` and `ok`."""
        if self.row is None:
            return "missing"
        return f"partly {self.row.status}" if self.row.records and self.row.failures else self.row.status

    def cells(self) -> dict[str, str]:
        """The row's name, six recalls, and the label and protocol of the measured row, by column."""
        cells = {"method": self.printed.name}
        for figure in FIGURES:
            measured = "-" if self.row is None else self.status
            if self.row and self.row.records:
                measured = f"{self.row.mean(figure) / 100:.3f}"
            cells[figure] = f"{measured} ({self.printed.values[figure] / 100:.3f})"
        return cells | {"measured": f"{self.row.marked_label}, {self.protocol}" if self.row else "not measured"}

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
            **{name: getattr(records[0].data, name)[:12] if records else "" for name in ("split_sha", "features_sha")},
            "commit": " ".join(self.row.commits) if self.row else "",
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
            notes += [failure.sentence for failure in self.row.failures]
        if set(self.printed.rules.values()) != {"one_to_one"}:
            notes.append(f"{self.printed.name} in the paper: {self.printed.provenance}.")
        return notes


def _apart(lines: Sequence[Line]) -> list[str]:
    """Notes on the data of rows, where there are records of different data of one dataset."""
    notes = []
    for dataset in dict.fromkeys(line.printed.dataset for line in lines):
        rows: dict[Group, list[str]] = {}
        names = set[str]()
        for line in lines:
            if line.table and line.printed.dataset == dataset:
                rows.setdefault(line.table.group.data(), []).append(line.printed.name)
                names.update(line.table.apart)
        names.update(
            n
            for n in ("dataset", "front_end", "vectors", "text_encoder", *DATA)
            if len({getattr(g, n) for g in rows}) > 1
        )
        told = []
        for group, measured in rows.items():
            values = {n.removesuffix("_sha"): getattr(group, n)[: 8 if n in DATA else None] for n in sorted(names)}
            what = ", ".join(f"{n.replace('_', ' ')} {value or 'none'}" for n, value in values.items())
            told.append(f"{', '.join(measured)}: {what}")
        if names:
            notes.append(f"There are records of different data, not to be compared; shown are {'; '.join(told)}.")
    return notes


def _measured(printed: PaperRow, tables: Sequence[Table], preset: str, protocol: Protocol | None) -> Line:
    used = protocol or printed.protocol
    for name in dict.fromkeys((preset, *PRESETS)):
        row = find_row(tables, printed.name, name, used)
        if row:
            return Line(printed, row, used, next(t for t in tables if any(one is row for one in t.rows)))
    return Line(printed, None, used)
