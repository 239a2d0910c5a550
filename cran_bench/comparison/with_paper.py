"""Measured against printed, cell by cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from cran_bench.paper import TABLES, TEST_PAIRS, PaperRow, not_comparable, paper_rows
from cran_bench.protocols import Protocol
from cran_bench.specs import parse_spec
from cran_bench.statistics import FIGURES, Interval
from cran_bench.tables import Row, Table

from .orders import judge_orders
from .verdict import Verdict, signed

BAND = 10.0  # points below the printed recall from which a row that its authors measured has regressed
COPIED_BAND = 3.0  # points within which a copied row is called the same
PRESETS = ("paper", "tuned")
READINGS: dict[str, str] = {
    "matching": "one to one (CRAN: mean, others: documents; copied rows: captions)",
    "captions": "captions",
}


def compare_with_paper(tables: Sequence[Table], dataset: str) -> list[Verdict]:
    """Every cell of the paper's tables of a dataset, and the orders among its rows.

    Args:
        tables: records of the dataset, in whichever groups.
        dataset: `flickr30k` or `mscoco`.
    """
    verdicts = [
        _cells(number, dataset, reading, preset, tables)
        for number, sets in TABLES.items()
        if dataset in sets
        for preset in PRESETS
        for reading in READINGS
    ]
    return [verdict for verdict in verdicts if verdict] + paper_orders(tables, dataset)


def paper_orders(tables: Sequence[Table], dataset: str) -> list[Verdict]:
    """The paper's orders among the rows of a dataset, whichever it is, one verdict per preset and protocol.

    Only those of preset `paper` under the matching protocol can be a regression: a ridge that is chosen well may turn
    an order around, and rightly.
    """
    printed = {row.name: row for table, sets in TABLES.items() if dataset in sets for row in paper_rows(table)}
    names = [row.name for table in (1, 3) for row in paper_rows(table)]
    found = []
    for preset in PRESETS:
        for reading in READINGS:
            rows = {
                name: row
                for name in names
                if (row := find_row(tables, name, preset, _protocol(name, printed.get(name), reading)))
            }
            counts = preset == "paper" and reading == "matching" and bool(printed)
            found.append(judge_orders(dataset, preset, READINGS[reading], rows, printed, counts))
    return [verdict for verdict in found if verdict]


def find_row(tables: Iterable[Table], name: str, preset: str, protocol: Protocol) -> Row | None:
    """The finished row of a paper's row: of its preset without other options, the one with most seeds."""
    found = [
        row
        for table in tables
        if table.group.protocol == protocol and not table.group.folds
        for row in table.rows
        if row.records and row.records[0][0].method.paper_row == name and _is_plain(row.label, preset)
    ]
    return max(found, key=lambda row: len(row.records), default=None)


def _is_plain(label: str, preset: str) -> bool:
    spec = parse_spec(label)
    return spec.argument == preset and not set(spec.options) - {"width"}


def _protocol(name: str, printed: PaperRow | None, reading: str) -> Protocol:
    if reading == "captions":
        return "captions"
    if printed is not None:
        return printed.protocol
    return "mean" if name.startswith("CRAN") else "documents"


def _cells(number: int, dataset: str, reading: str, preset: str, tables: Sequence[Table]) -> Verdict | None:
    lines, notes, regressions = [], [], []
    for printed in paper_rows(number):
        protocol = _protocol(printed.name, printed, reading)
        row = find_row(tables, printed.name, preset, protocol) if printed.dataset == dataset else None
        if row is None:
            continue
        reason = next(filter(None, (not_comparable(record) for record, _ in row.records)), "")
        if reason:
            notes.append(f"{row.label} is not comparable: {reason}.")
        if len(row.records) == 1:
            notes.append(f"{row.label}: one seed, so its intervals are of images only.")
        line = [printed.name, protocol]
        verdicts = []
        for figure in FIGURES:
            gap = _difference(row, printed, figure)
            line.append(f"{printed.values[figure]:.1f} → {gap.value + printed.values[figure]:.1f}")
            line.append(f"{signed(gap.value)} [{signed(gap.low)}, {signed(gap.high)}]")
            verdicts.append(_verdict(gap, printed.rules[figure[:3]], bool(reason), reading == "captions"))
            if verdicts[-1] == "REGRESSED":
                regressions.append(
                    f"REGRESSION {dataset}, {row.label}, {protocol}, {figure}: {gap.value + printed.values[figure]:.1f}"
                    f", the paper has {printed.values[figure]:.1f}; at least {-gap.high:.1f} lower"
                )
        lines += _two_lines(line, verdicts)
    if not lines:
        return None
    if any(line[-1] == "other protocol" for line in lines):
        notes.append("Other protocol: a row that was measured one to one says nothing of captions.")
    return Verdict(
        f"Table {number} · {dataset} · preset {preset} · {READINGS[reading]} · paper → measured, difference, 95 %",
        ["row", "protocol", "direction", "R@1", "", "R@5", "", "R@10", "", "verdict"],
        lines,
        list(dict.fromkeys(notes)),
        regressions,
    )


def _two_lines(line: list[str], verdicts: list[str]) -> list[list[str]]:
    """Directions below each other, so that a terminal holds a row."""
    name, protocol, *cells = line
    return [
        [name, protocol, "annotation", *cells[:6], _joined(verdicts[:3])],
        ["", "", "retrieval", *cells[6:], _joined(verdicts[3:])],
    ]


def _joined(verdicts: Sequence[str]) -> str:
    return verdicts[0] if len(set(verdicts)) == 1 else " / ".join(verdicts)


def _difference(row: Row, printed: PaperRow, figure: str) -> Interval:
    """Measured less printed; the printed recall is of a sample of pairs as well, whose deviation is the binomial's."""
    paper = printed.values[figure]
    ours = row.sample.interval(figure)
    variance = row.sample.deviation(figure) ** 2 + paper * (100 - paper) / TEST_PAIRS[printed.dataset]
    half = 1.96 * math.sqrt(variance)
    return Interval(ours.value - paper, ours.value - paper - half, ours.value - paper + half)


def _verdict(gap: Interval, rule: str, is_other: bool, is_captions: bool) -> str:
    if is_other:
        return "not comparable"
    if rule == "informational":
        return "informational"
    if rule == "copied":
        return "same" if abs(gap.value) <= COPIED_BAND else "differs (copied)"
    if is_captions:
        return "other protocol"
    if gap.high < -BAND:
        return "REGRESSED"
    return ("above" if gap.value > 0 else "below") if gap.excludes_zero() else "same"
