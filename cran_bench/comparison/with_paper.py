"""Comparison with the paper: each recall with the printed one, and the paper's orders among rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cran_bench.protocols import Protocol
from cran_bench.records.statistics import LEVEL, Interval, holm
from cran_bench.records.tasks import DIRECTIONS, FIGURES
from cran_bench.tables.paper import (
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
from cran_bench.tables.tables import Row, Table, exposure_notes, merge_notes

from .verdict import Verdict, bounds, signed

BAND = 10.0  # points; a row has regressed if its recall is significantly more than this below the paper's
COPIED_BAND = 3.0  # points; a row that the paper copied from another is the same within this
PRESETS = ("paper", "tuned")
READINGS = {"matching": "one to one (CRAN: mean, others: documents; copied rows: captions)", "captions": "captions"}


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

    Only preset `paper` under the matching protocol can regress, because tuning may legitimately reverse an order.

    Args:
        tables: of one dataset, with the same images and features.
    """
    dataset = dataset_name(tables[0].group.dataset)
    printed = {row.name: row for table, sets in TABLES.items() if dataset in sets for row in _rows(table, dataset)}
    names = [row.name for table in (1, 3) for row in paper_rows(table)]
    verdicts = []
    for preset in PRESETS:
        for reading in READINGS:
            rows = {
                name: row
                for name in names
                if (row := find_row(tables, name, preset, _protocol(name, reading, printed.get(name)))) and row.records
            }
            counts = preset == "paper" and reading == "matching"
            verdicts.append(
                _orders(tables[0], dataset, f"preset {preset} · {READINGS[reading]}", rows, printed, counts)
            )
    return [verdict for verdict in verdicts if verdict]


def _rows(table: int, dataset: str) -> list[PaperRow]:
    return [row for row in paper_rows(table) if row.dataset == dataset]


def _protocol(name: str, reading: str, printed: PaperRow | None) -> Protocol:
    if reading == "captions":
        return "captions"
    return printed.protocol if printed else matching(name)


def _cells(number: int, dataset: str, reading: str, preset: str, tables: Sequence[Table]) -> Verdict | None:
    lines: list[list[str]] = []
    notes, regressions, judged, shown = [], [], 0, list[Row]()
    for printed in _rows(number, dataset):
        if reading == printed.protocol == "captions":
            continue  # listed under the other reading
        protocol = _protocol(printed.name, reading, printed)
        row = find_row(tables, printed.name, preset, protocol)
        for failure in row.failures if row else ():
            sentence = f"{protocol}, {failure.sentence}"
            notes.append(sentence)
            if "one_to_one" in printed.rules.values():
                regressions.append(f"REGRESSION {dataset}, {sentence}")
        if row is None or not row.records:
            lines.append([printed.name, protocol, "", *[""] * 6, row.status if row else "missing"])
            continue
        reason = next(filter(None, (not_comparable(record) for record in row.records)), "")
        judged += not reason
        if reason:
            notes.append(f"{row.label} is not comparable: {reason}.")
        notes += exposure_notes([row])
        shown.append(row)
        if len(row.records) == 1:
            notes.append(f"{row.label}: one seed, so its intervals cover the choice of images only.")
        gaps = {figure: _difference(row, printed, figure) for figure in FIGURES}
        verdicts = {
            figure: _verdict(gap, printed.rules[figure[:3]], bool(reason), reading) for figure, gap in gaps.items()
        }
        for direction, word in DIRECTIONS.items():
            figures = [figure for figure in FIGURES if figure.startswith(direction)]
            cells = [
                text
                for figure in figures
                for text in (
                    f"{printed.values[figure]:.1f} → {row.mean(figure):.1f}",
                    f"{signed(gaps[figure].value)} {bounds(gaps[figure])}",
                )
            ]
            distinct = list(dict.fromkeys(verdicts[figure] for figure in figures))
            verdict = distinct[0] if len(distinct) == 1 else " / ".join(verdicts[figure] for figure in figures)
            first = direction == "i2t"
            lines.append([printed.name if first else "", protocol if first else "", word, *cells, verdict])
        regressions += [
            f"REGRESSION {dataset}, {row.label}, {protocol}, {figure}: {row.mean(figure):.1f}, the paper has "
            f"{printed.values[figure]:.1f}; significantly (95 %) more than {BAND:.0f} points below it"
            for figure, verdict in verdicts.items()
            if verdict == "REGRESSED"
        ]
    if all(line[-1] == "missing" for line in lines):
        return None
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


def _difference(row: Row, printed: PaperRow, figure: str) -> Interval:
    """Measured minus printed recall; the variance of the printed one is binomial in the number of test pairs."""
    paper, own = printed.values[figure], row.sample.interval(figure)
    of_paper = 1.96 * math.sqrt(paper * (100 - paper) / TEST_PAIRS[printed.dataset])
    low, high = math.hypot(own.value - own.low, of_paper), math.hypot(own.high - own.value, of_paper)
    return Interval(own.value - paper, own.value - paper - low, own.value - paper + high)


def _verdict(gap: Interval, rule: str, is_other: bool, reading: str) -> str:
    if is_other:
        return "not comparable"
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
    table: Table, dataset: str, reading: str, rows: Mapping[str, Row], printed: Mapping[str, PaperRow], counts: bool
) -> Verdict | None:
    """Check the orders by rsum; None if there are no two rows to compare."""
    pairs = [(better, worse) for better, worse in orders(dataset) if better in rows and worse in rows]
    if not pairs:
        return None
    differences = [rows[better].sample.minus(rows[worse].sample, "rsum") for better, worse in pairs]
    lines, regressions = [], []
    for (better, worse), gap, p in zip(pairs, differences, holm([gap.p for gap in differences]), strict=True):
        both = [record for name in (better, worse) for record in rows[name].records]
        verdict = "not separable" if p >= LEVEL else "holds" if gap.value > 0 else "reversed"
        verdict = "not comparable" if printed and any(map(not_comparable, both)) else verdict
        in_paper = [signed(printed[better].rsum - printed[worse].rsum)] if printed else []
        lines.append([f"{better} > {worse}", *in_paper, signed(gap.value), bounds(gap), f"{p:.4f}", verdict])
        if verdict == "reversed" and counts and printed:
            regressions.append(
                f"REGRESSION {dataset}, {reading}: {rows[better].label} has {-gap.value:.1f} less rsum than "
                f"{rows[worse].label}, but {printed[better].rsum - printed[worse].rsum:.1f} more in the paper"
            )
    return Verdict(
        f"The paper's orders on {_title(table)} · {reading}",
        ["order", *["paper"] * bool(printed), "rsum", "95 % interval", "p (Holm)", "verdict"],
        lines,
        [] if printed else ["The orders are those of Tables 1 to 3, on either of the paper's datasets."],
        regressions,
        sum(line[-1] != "not comparable" for line in lines),
    )
