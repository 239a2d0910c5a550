"""Whether the paper's orders of methods hold in what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cran_bench.paper import PaperRow, not_comparable, orders
from cran_bench.statistics import LEVEL, holm
from cran_bench.tables import Row

from .verdict import Verdict, signed


def judge_orders(
    dataset: str, preset: str, reading: str, rows: Mapping[str, Row], printed: Mapping[str, PaperRow], counts: bool
) -> Verdict | None:
    """The paper's orders, by the sum of recalls, among rows of one preset; None where there are no two to compare.

    Args:
        dataset: whose orders are asked.
        preset: of the rows.
        reading: which protocols they are of, for the title.
        rows: by the paper's name, of the same images.
        printed: the paper's rows of this dataset; empty for another.
        counts: whether a reversal is a regression where both rows are comparable with the paper.
    """
    pairs = [(better, worse) for better, worse in orders(dataset) if better in rows and worse in rows]
    if not pairs:
        return None
    found = [rows[better].sample.minus(rows[worse].sample, "rsum") for better, worse in pairs]
    lines, regressions = [], []
    for (better, worse), difference, p in zip(pairs, found, holm([d.p for d in found]), strict=True):
        verdict = "not separable" if p >= LEVEL else "holds" if difference.value > 0 else "reversed"
        in_paper = signed(printed[better].rsum - printed[worse].rsum) if printed else ""
        interval = f"[{signed(difference.low)}, {signed(difference.high)}]"
        lines.append([f"{better} > {worse}", in_paper, signed(difference.value), interval, f"{p:.4f}", verdict])
        if verdict == "reversed" and counts and not any(_reasons([rows[better], rows[worse]])):
            regressions.append(
                f"REGRESSION {dataset}, {reading}: {rows[better].label} is {-difference.value:.1f} of rsum below "
                f"{rows[worse].label}; the paper has it {printed[better].rsum - printed[worse].rsum:.1f} above"
            )
    if not printed:
        for line in lines:
            del line[1]
    return Verdict(
        f"The paper's orders on {dataset} · preset {preset} · {reading}",
        ["order", *["paper"] * bool(printed), "rsum", "95 % interval", "p (Holm)", "verdict"],
        lines,
        [],
        regressions,
    )


def _reasons(rows: Sequence[Row]) -> list[str]:
    return [not_comparable(record) for row in rows for record, _ in row.records]
