"""Comparison with the paper: each recall with the printed one, and the paper's orders among rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cran_bench.protocols import Protocol
from cran_bench.records.statistics import LEVEL, Interval, holm
from cran_bench.records.tasks import DIRECTIONS, FIGURES
from cran_bench.tables.paper import (
    DATASET_NAMES,
    JUDGED,
    PRESETS,
    TABLES,
    TEST_PAIRS,
    PaperRow,
    dataset_name,
    find_row,
    matching,
    not_comparable,
    orders,
    paper_rows,
)
from cran_bench.tables.rows import Row, exposure_notes, merge_notes
from cran_bench.tables.tables import Table

from .verdict import Verdict, bounds, signed

BAND = 10.0  # points; a row has regressed if its recall is significantly more than this below the paper's
COPIED_BAND = 3.0  # points; a row that the paper copied from another is the same within this
READINGS = {"matching": "one to one (CRAN: mean, others: documents; copied rows: captions)", "captions": "captions"}
MISSING = "missing"
VERDICTS = {
    "same": "the 95 % interval of the difference reaches zero; if copied, within 3 points",
    "above": "significantly above the printed number",
    "below": "significantly below, but not significantly more than 10 points",
    "REGRESSED": "significantly more than 10 points below",
    "differs (copied)": "more than 3 points from a number that the paper copied from another",
    "informational": "not judged, as the printed number was most likely measured otherwise",
    "other protocol": "not judged, as the paper measured this row one to one",
    "shown": "not judged, as the preset tuned has its training chosen on validation",
    "not comparable": "measured on other data, or with other features, width or options",
}
"""What is said of a cell with a measured recall, and what it means."""


@dataclass(frozen=True)
class PaperCell:
    """A recall as the paper prints it, beside the measured one.

    Attributes:
        printed: the row of the paper.
        figure: which of the six recalls.
        preset: preset of the measured row.
        reading: one of `READINGS`.
        protocol: protocol of the measured row.
        row: the measured row, without records if it failed; None if there is none.
        measured: the measured recall in percent, with its interval; None without records.
        gap: measured minus printed; None without records, or if they are of different datasets.
        verdict: one of `VERDICTS`; without records `missing`, or the status of the row.
        why: the reason why the two are not comparable; '' if they are.
    """

    printed: PaperRow
    figure: str
    preset: str
    reading: str
    protocol: Protocol
    row: Row | None
    measured: Interval | None
    gap: Interval | None
    verdict: str
    why: str

    @property
    def value(self) -> float:
        """The printed recall in percent."""
        return self.printed.values[self.figure]


def paper_cells(printed: PaperRow, tables: Sequence[Table], preset: str, reading: str) -> dict[str, PaperCell]:
    """The six recalls of a row of the paper beside the measured ones, by figure.

    On another dataset than the printed one nothing is compared, and there are intervals only if the tables have them.

    Args:
        printed: the row of the paper.
        tables: of one dataset, with the same images and features.
        preset: preset of the measured row.
        reading: one of `READINGS`.
    """
    protocol = _protocol(printed.name, reading, printed)
    row = find_row(tables, printed.name, preset, protocol)
    dataset, records = dataset_name(tables[0].group.dataset), row.records if row else []
    is_same, why = dataset == printed.dataset, next(filter(None, map(not_comparable, records)), "")
    if records and not is_same:
        why = f"measured on {dataset}, but the paper's numbers are of {DATASET_NAMES[printed.dataset]}"
    cells = {}
    for figure in FIGURES:
        measured, gap, verdict = None, None, row.status if row else MISSING
        if row and records:
            has_interval = is_same or tables[0].has_intervals
            measured = row.sample.interval(figure) if has_interval else Interval(row.mean(figure), math.nan, math.nan)
            gap = _difference(measured, printed, figure) if is_same else None
            verdict = "not comparable"
            if gap and not why:
                verdict = _verdict(gap, printed.rules[figure[:3]], reading) if preset in JUDGED else "shown"
        cells[figure] = PaperCell(printed, figure, preset, reading, protocol, row, measured, gap, verdict, why)
    return cells


def compare_with_paper(tables: Sequence[Table]) -> list[Verdict]:
    """Compare the records of a dataset with each recall in the paper's tables and with the orders among its rows.

    Args:
        tables: of one dataset, with the same images and features.
    """
    dataset = dataset_name(tables[0].group.dataset)
    cells = [
        _cells(number, dataset, reading, preset, tables)
        for number, sets in TABLES.items()
        if dataset in sets
        for preset in PRESETS
        for reading in READINGS
    ]
    return [verdict for verdict in cells if verdict] + paper_orders(tables)


def paper_orders(tables: Sequence[Table]) -> list[Verdict]:
    """Check the paper's orders among rows, by preset and protocol; on other data, the orders of both its datasets.

    Only the presets of `JUDGED` under the matching protocol can regress, because tuning may legitimately reverse an
    order.

    Args:
        tables: of one dataset, with the same images and features.
    """
    dataset = dataset_name(tables[0].group.dataset)
    printed = {row.name: row for table, sets in TABLES.items() if dataset in sets for row in paper_rows(table, dataset)}
    names = [row.name for table in (1, 3) for row in paper_rows(table)]
    verdicts = []
    for preset in PRESETS:
        for reading in READINGS:
            rows = {
                name: row
                for name in names
                if (row := find_row(tables, name, preset, _protocol(name, reading, printed.get(name)))) and row.records
            }
            verdicts.append(_orders(tables[0], dataset, preset, reading, rows, printed))
    return [verdict for verdict in verdicts if verdict]


def _protocol(name: str, reading: str, printed: PaperRow | None) -> Protocol:
    if reading == "captions":
        return "captions"
    return printed.protocol if printed else matching(name)


def _cells(number: int, dataset: str, reading: str, preset: str, tables: Sequence[Table]) -> Verdict | None:
    lines: list[list[str]] = []
    notes, regressions, judged, shown = [], [], 0, list[Row]()
    for printed in paper_rows(number, dataset):
        if reading == printed.protocol == "captions":
            continue  # listed under the other reading
        cells = paper_cells(printed, tables, preset, reading)
        one = cells[FIGURES[0]]
        row, protocol = one.row, one.protocol
        for failure in row.failures if row else ():
            sentence = f"{protocol}, {failure.sentence}"
            notes.append(sentence)
            if "one_to_one" in printed.rules.values() and preset in JUDGED:
                regressions.append(f"REGRESSION {dataset}, {sentence}")
        if row is None or not row.records:
            lines.append([printed.name, protocol, "", *[""] * 6, one.verdict])
            continue
        judged += not one.why and preset in JUDGED
        if one.why:
            notes.append(f"{row.label} is not comparable: {one.why}.")
        notes += exposure_notes([row])
        shown.append(row)
        if len(row.records) == 1:
            notes.append(f"{row.label}: one seed, so its intervals cover the choice of images only.")
        for direction, word in DIRECTIONS.items():
            some = [cell for figure, cell in cells.items() if figure.startswith(direction)]
            distinct = list(dict.fromkeys(cell.verdict for cell in some))
            verdict = distinct[0] if len(distinct) == 1 else " / ".join(cell.verdict for cell in some)
            first = direction == "i2t"
            texts = [text for cell in some for text in _texts(cell)]
            lines.append([printed.name if first else "", protocol if first else "", word, *texts, verdict])
        regressions += [
            f"REGRESSION {dataset}, {row.label}, {protocol}, {cell.figure}: {row.mean(cell.figure):.1f}, the paper has "
            f"{cell.value:.1f}; significantly (95 %) more than {BAND:.0f} points below it"
            for cell in cells.values()
            if cell.verdict == "REGRESSED"
        ]
    if all(line[-1] == MISSING for line in lines):
        return None
    if any("shown" in line[-1] for line in lines):
        notes.append(f"Shown, not judged: preset {preset}, whose training was chosen on validation.")
    if any("other protocol" in line[-1] for line in lines):
        notes.append("Other protocol: the paper measured this row one to one, so it does not apply to captions.")
    return Verdict(
        f"Table {number} · {_title(tables[0])} · preset {preset} · {READINGS[reading]} · paper → measured, "
        "difference [95 %]",
        ["row", "protocol", "direction", "R@1", "", "R@5", "", "R@10", "", "verdict"],
        lines,
        [*dict.fromkeys(notes), *merge_notes(shown, tables[0].folders)],
        regressions,
        judged,
    )


def _title(table: Table) -> str:
    return f"{table.group.dataset} · {table.group.front_end} · {table.group.vectors}"


def _texts(cell: PaperCell) -> tuple[str, str]:
    """The printed and the measured recall, and their difference."""
    if cell.measured is None or cell.gap is None:
        return "", ""
    return f"{cell.value:.1f} → {cell.measured.value:.1f}", f"{signed(cell.gap.value)} {bounds(cell.gap)}"


def _difference(own: Interval, printed: PaperRow, figure: str) -> Interval:
    """Measured minus printed recall; the variance of the printed one is binomial in the number of test pairs."""
    paper = printed.values[figure]
    of_paper = 1.96 * math.sqrt(paper * (100 - paper) / TEST_PAIRS[printed.dataset])
    low, high = math.hypot(own.value - own.low, of_paper), math.hypot(own.high - own.value, of_paper)
    return Interval(own.value - paper, own.value - paper - low, own.value - paper + high)


def _verdict(gap: Interval, rule: str, reading: str) -> str:
    if rule == "informational":
        return "informational"
    if rule == "copied":
        return "same" if abs(gap.value) <= COPIED_BAND else "differs (copied)"
    if reading == "captions":
        return "other protocol"
    if gap.high < -BAND:
        return "REGRESSED"
    return ("above" if gap.value > 0 else "below") if gap.excludes_zero() else "same"


def _orders(
    table: Table, dataset: str, preset: str, reading: str, rows: Mapping[str, Row], printed: Mapping[str, PaperRow]
) -> Verdict | None:
    """Check the orders by rsum; None if there are no two rows to compare."""
    pairs = [(better, worse) for better, worse in orders(dataset) if better in rows and worse in rows]
    if not pairs:
        return None
    differences = [rows[better].sample.minus(rows[worse].sample, "rsum") for better, worse in pairs]
    lines, regressions, notes = [], [], []
    about, is_judged = f"preset {preset} · {READINGS[reading]}", preset in JUDGED
    for (better, worse), gap, p in zip(pairs, differences, holm([gap.p for gap in differences]), strict=True):
        both = [record for name in (better, worse) for record in rows[name].records]
        verdict = "not separable" if p >= LEVEL else "holds" if gap.value > 0 else "reversed"
        verdict = "not comparable" if printed and any(map(not_comparable, both)) else verdict
        in_paper = [signed(printed[better].rsum - printed[worse].rsum)] if printed else []
        lines.append([f"{better} > {worse}", *in_paper, signed(gap.value), bounds(gap), f"{p:.4f}", verdict])
        if verdict == "reversed" and is_judged and reading == "matching" and printed:
            regressions.append(
                f"REGRESSION {dataset}, {about}: {rows[better].label} has {-gap.value:.1f} less rsum than "
                f"{rows[worse].label}, but {printed[better].rsum - printed[worse].rsum:.1f} more in the paper"
            )
    if not printed:
        notes.append("The orders are those of Tables 1 to 3, on either of the paper's datasets.")
    elif not is_judged:
        notes.append(f"Shown, not judged: preset {preset}, whose training was chosen on validation.")
    return Verdict(
        f"The paper's orders on {_title(table)} · {about}",
        ["order", *["paper"] * bool(printed), "rsum", "95 % interval", "p (Holm)", "verdict"],
        lines,
        notes,
        regressions,
        sum(line[-1] != "not comparable" for line in lines) if is_judged or not printed else 0,
    )
