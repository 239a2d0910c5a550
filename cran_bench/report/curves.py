"""Training curves, as numbers for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from cran_bench.records.archive import read_curves
from cran_bench.tables.rows import Row

from .details import Details

POINTS = 200
"""The most points of a line: of a longer one, as many that are evenly spaced, its ends included."""


def curve_contents(rows: Sequence[Row], details: Details) -> dict[str, Any]:
    """The training curves of the first seed of each row that has some, by its label.

    There is one plot per trained model, with the loss and a recall, or else with the first two columns that were
    recorded, by step or epoch.  Damaged files are left out, as by `Details.intact`.
    """
    found = {}
    for row in rows:
        run, of = row.runs[0], dict[str, list[dict[str, Any]]]()
        for point in details.intact(partial(read_curves, run.path)) or ():
            of.setdefault(point["trained"], []).append(point)
        plots = [plot for name, points in of.items() if (plot := _plot(name, points))["lines"]]
        if plots:
            found[row.label] = {"seed": run.record.seed, "plots": plots}
    return found


def _plot(name: str, points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    across = "epoch" if all(math.isnan(point.get("step", math.nan)) for point in points) else "step"
    lines = {}
    for column in points[0].keys() - {"trained", across} if across in points[0] else ():
        line = [(point[across], point[column]) for point in points if not math.isnan(point[column])]
        if len(line) > 1 and all(math.isfinite(number) for pair in line for number in pair):
            lines[column] = line
    gains = [column for column in ("rsum", "map", "i2t_r1", "explained") if column in lines]
    chosen = [column for column in ("loss", *gains[:1]) if column in lines]
    chosen = chosen or [column for column in points[0] if column in lines][:2]
    return {"name": name, "across": across, "lines": [_line(column, lines[column]) for column in chosen]}


def _line(name: str, points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    count = min(POINTS, len(points))
    kept = [points[round(place * (len(points) - 1) / (count - 1))] for place in range(count)]
    return {"name": name, "x": [x for x, _ in kept], "y": [float(f"{y:.4g}") for _, y in kept]}
