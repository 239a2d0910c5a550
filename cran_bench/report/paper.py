"""The paper's tables beside what was measured, as numbers for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from cran_bench.comparison.with_paper import READINGS, VERDICTS, PaperCell, paper_cells
from cran_bench.machine.storage import sha256_json, slug
from cran_bench.records.statistics import Interval
from cran_bench.records.tasks import FIGURES, RECALL
from cran_bench.tables.paper import DATASET_NAMES, PRESETS, TABLES, PaperRow, dataset_name, paper_rows
from cran_bench.tables.tables import Group, Table

from .contents import LONGEST, apart, table_ids

SECTIONS = [(number, dataset) for number, sets in TABLES.items() for dataset in sets]
"""The paper's tables by number and dataset, of which the third has two."""


def paper_contents(tables: Sequence[Table]) -> dict[str, Any]:
    """The paper's tables as printed, and for all data with recalls the rows that reproduce rows of the paper.

    Rows on data that the paper used have a verdict for each recall; other data have the reason why there is none.

    Args:
        tables: of all tasks; those of `--quick` are left out.
    """
    sets = [_set(data) for data in same_data(tables)]
    return {
        "figures": list(FIGURES),
        "presets": list(PRESETS),
        "readings": dict(READINGS),
        "verdicts": dict(VERDICTS),
        "tables": [
            {
                "number": number,
                "dataset": dataset,
                "title": DATASET_NAMES[dataset],
                "rows": [
                    {"name": row.name, "values": [row.values[x] for x in FIGURES], "provenance": row.provenance}
                    for row in paper_rows(number, dataset)
                ],
            }
            for number, dataset in SECTIONS
        ],
        "sets": [one for one in sets if one["rows"]],
    }


@dataclass(frozen=True)
class SameData:
    """The tables of recalls on the same images with the same features.

    Attributes:
        id: its name in links and files.
        title: dataset, and what tells it from others with that label.
        group: what the tables have in common.
        tables: by id.
    """

    id: str
    title: str
    group: Group
    tables: Mapping[str, Table]

    def cells(self, printed: PaperRow, preset: str, reading: str = "matching") -> list[PaperCell]:
        """The six recalls of a row of the paper beside those measured here."""
        return [*paper_cells(printed, [*self.tables.values()], preset, reading).values()]


def same_data(tables: Sequence[Table]) -> list[SameData]:
    """The tables of recalls by their data, without those of `--quick`.

    Args:
        tables: of all tasks.
    """
    found: dict[Group, dict[str, Table]] = {}
    for table_id, table in zip(table_ids(tables), tables, strict=True):
        if table.task is RECALL and not table.group.quick:
            found.setdefault(table.group.data(), {})[table_id] = table
    sets = []
    for told, (group, some) in zip(apart([*found], [one.dataset for one in found]), found.items(), strict=True):
        name = slug(group.dataset)
        if told or len(name) > LONGEST:
            name = f"{name[:LONGEST]}-{sha256_json(asdict(group))[:6]}"
        sets.append(SameData(name, ", ".join(filter(None, (group.dataset, told))), group, some))
    return sets


def _set(data: SameData) -> dict[str, Any]:
    """The rows that reproduce rows of the paper on some data, by preset, reading and name."""
    name, rows, why = dataset_name(data.group.dataset), dict[str, dict[str, Any]](), dict[str, str]()
    for printed in (row for section in SECTIONS for row in paper_rows(*section)):
        for preset, reading in product(PRESETS, READINGS):
            cells = data.cells(printed, preset, reading)
            if cells[0].row is None:
                continue
            row = rows.setdefault(f"{preset} {reading} {printed.name}", _row(data.tables, cells))
            if printed.dataset == name:
                row["why"], row["verdicts"] = cells[0].why, [cell.verdict for cell in cells]
                row["gaps"] = [_rounded(cell.gap) for cell in cells]
            elif cells[0].why:
                why[printed.dataset] = cells[0].why
    of = name if name in DATASET_NAMES else ""
    about = {"id": data.id, "title": data.title, "dataset": data.group.dataset, "of": of}
    return {**about, "why": why, "rows": rows}


def _row(tables: Mapping[str, Table], cells: Sequence[PaperCell]) -> dict[str, Any]:
    """Where a row is, and its recalls as tables have them, with the ends of their intervals."""
    row = cells[0].row
    assert row is not None
    return {
        "label": row.label,
        "table": next(table_id for table_id, table in tables.items() if any(one is row for one in table.rows)),
        "measured": [[row.mean(x.figure), *_rounded(x.measured)[1:]] if x.measured else [] for x in cells],
    }


def _rounded(interval: Interval | None) -> list[float | None]:
    """The value and the ends of an interval; None for ends that are unknown, and nothing for no interval."""
    numbers = [] if interval is None else [interval.value, *interval.ends]
    return [None if math.isnan(number) else round(number, 2) for number in numbers]
