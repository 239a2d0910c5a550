"""Tables 1 to 3 in the paper's own shape: what was measured, with what was printed beside it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from cran_bench.comparison.with_paper import find_row
from cran_bench.errors import BadInput
from cran_bench.paper import DATASET_NAMES, TABLES, PaperRow, not_comparable, paper_rows
from cran_bench.protocols import Protocol
from cran_bench.results import Failure
from cran_bench.statistics import FIGURES
from cran_bench.tables import Row, Table, typeset

HEADINGS = ("R@1", "R@5", "R@10")


def paper_table(
    number: int, tables: Sequence[Table], preset: str, protocol: Protocol | None, style: str, dataset: str | None = None
) -> str:
    """One of the paper's tables as text.

    Args:
        number: 1, 2 or 3.
        tables: what is recorded.
        preset: which rows to take; where a row has none of it, `paper` or `tuned` stand in.
        protocol: of all rows, or None for the one that matches each printed row.
        style: one of `cran_bench.tables.FORMATS`.
        dataset: to show that data in this shape instead of the paper's own.

    Raises:
        BadInput: an unknown number or format.
    """
    if number not in TABLES:
        raise BadInput(f"the paper has tables 1, 2 and 3, not {number}")
    sets = TABLES[number]
    shown = [row for row in paper_rows(number) if dataset is None or row.dataset == sets[0]]
    found = [_measured(row, tables, preset, protocol, dataset or row.dataset) for row in shown]
    if style == "csv":
        return _csv(number, shown, found)
    headings = ["Dataset"] * (len(sets) > 1) + ["Method"]
    headings += [f"{kind} {k}" for kind in ("annotation", "retrieval") for k in HEADINGS] + ["measured"]
    lines, last = [], ""
    for printed, (row, used, failures) in zip(shown, found, strict=True):
        name = dataset or DATASET_NAMES[printed.dataset]
        line = [name if name != last else ""] * (len(sets) > 1) + [printed.name]
        for figure in FIGURES:
            ours = f"{row.mean(figure) / 100:.3f}" if row else "failed" if failures else "-"
            line.append(f"{ours} ({printed.values[figure] / 100:.3f})")
        lines.append([*line, f"{row.label}, {used}" if row else ""])
        last = name
    what = " and ".join([dataset] if dataset else [DATASET_NAMES[name] for name in sets])
    title = f"Table {number}: {what}. Image annotation and image retrieval, measured (printed)"
    return typeset(title, headings, lines, _notes(shown, found, dataset), style)


def _measured(
    printed: PaperRow, tables: Sequence[Table], preset: str, protocol: Protocol | None, dataset: str
) -> tuple[Row | None, Protocol, list[Failure]]:
    used = protocol or printed.protocol
    of_data = [table for table in tables if table.group.dataset.split("[")[0] == dataset.split("[")[0]]
    for name in dict.fromkeys((preset, "paper", "tuned")):
        row = find_row(of_data, printed.name, name, used)
        if row:
            return row, used, list(row.failures)
    plugin = printed.name.lower().replace(" ", "-").replace("+", "-")
    failures = [f for t in of_data if t.group.protocol == used for r in t.rows for f in r.failures]
    return None, used, [f for f in failures if f.method_label.partition(":")[0] == plugin]


def _notes(
    shown: Sequence[PaperRow], found: Sequence[tuple[Row | None, Protocol, list[Failure]]], dataset: str | None
) -> list[str]:
    notes = []
    if dataset:
        notes.append(
            f"The printed numbers are of {DATASET_NAMES[shown[0].dataset]}, another dataset: look, not compare."
        )
    for printed, (row, _, failures) in zip(shown, found, strict=True):
        reasons = {not_comparable(record) for record, _ in row.records} - {""} if row else set()
        if not dataset:
            notes += [f"{row.label} is not comparable: {reason}." for reason in sorted(reasons) if row]
        notes += [f"{failure.method_label} seed {failure.seed} FAILED: {failure.error}" for failure in failures]
        if set(printed.rules.values()) != {"one_to_one"}:
            notes.append(f"{printed.name} in the paper: {printed.provenance}.")
    if any(row is None for row, _, _ in found):
        notes.append("- is not measured.")
    return list(dict.fromkeys(notes))


def _csv(number: int, shown: Sequence[PaperRow], found: Sequence[tuple[Row | None, Protocol, list[Failure]]]) -> str:
    lines = []
    for printed, (row, used, failures) in zip(shown, found, strict=True):
        line = {"table": number, "dataset": printed.dataset, "row": printed.name, "protocol": used}
        line |= {"method": row.label if row else "", "seeds": len(row.records) if row else 0}
        line["status"] = "ok" if row else "failed" if failures else "missing"
        for figure in FIGURES:
            line[figure] = round(row.mean(figure) / 100, 4) if row else None
            line[f"{figure}_paper"] = printed.values[figure] / 100
        lines.append(line)
    return str(pd.DataFrame(lines).to_csv(index=False))
