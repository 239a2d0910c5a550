"""Charts of the report: bars with intervals, seconds by phase, training curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from cran_bench.records.archive import read_curves
from cran_bench.records.store import ResultStore
from cran_bench.tables.figures import PHASES
from cran_bench.tables.tables import Row, Table

WIDTH, HEIGHT = 240, 90


def bars(table: Table, rows: Sequence[Row], figure: str, most: float) -> list[dict[str, Any]]:
    """A bar for each of some rows of a table that has the figure, in percent of `most`, with its interval if known."""
    drawn = []
    for row in rows:
        value = row.mean(figure)
        if math.isnan(value):
            continue
        digits = row.task.digits(figure)
        bar: dict[str, Any] = {"label": row.label, "text": f"{value:.{digits}f}", "share": max(0.0, 100 * value / most)}
        if row.task.has(figure):
            ends = table.samples[row.label].interval(figure).ends
            bar["low"], bar["high"] = (max(0.0, 100 * x / most) for x in ends)
            bar["text"] += " [{}, {}]".format(*(f"{x:.{digits - 1}f}" for x in ends))
        elif len(row.records) > 1:
            bar["text"] += f" ± {row.deviation(figure):.{digits}f}"
        drawn.append(bar)
    return drawn


def phases(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Seconds of each row by phase, in percent of the longest row's total."""
    shown = PHASES[1:]  # the features are shared by all rows
    seconds = {row.label: [row.seconds(phase) for phase in shown] for row in rows}
    longest = max((sum(values) for values in seconds.values()), default=0.0) or 1.0
    return [
        {
            "label": label,
            "text": f"{sum(values):,.1f} s",
            "parts": [
                {"phase": phase, "share": 100 * value / longest, "text": f"{phase} {value:,.2f} s"}
                for phase, value in zip(shown, values, strict=True)
            ],
        }
        for label, values in seconds.items()
    ]


def curves(rows: Sequence[Row], store: ResultStore) -> list[dict[str, Any]]:
    """Training curves of the first seed of each row that has some, one plot per trained model."""
    charts = []
    for row in rows:
        record = row.records[0]
        recorded, pictures = read_curves(store.path_of(record)), []
        if not recorded:
            continue
        for name, points in pd.DataFrame(recorded).groupby("trained", sort=False):
            across = "step" if "step" in points and points["step"].notna().any() else "epoch"
            lines = _lines(points, across)
            if lines:
                pictures.append({"name": str(name), "across": across, "lines": lines, "box": f"0 0 {WIDTH} {HEIGHT}"})
        if pictures:
            charts.append({"label": f"{row.label}, seed {record.seed}", "pictures": pictures})
    return charts


def _lines(points: pd.DataFrame, across: str) -> list[dict[str, str]]:
    """The loss and the recall as lines, each on its own scale; if neither is recorded, the first two columns."""
    if across not in points:
        return []
    columns = [str(c) for c in points if c not in ("trained", across) and points[c].notna().sum() > 1]
    losses = [name for name in columns if name == "loss"]
    gains = [name for name in ("rsum", "map", "i2t_r1", "explained") if name in columns]
    chosen: list[str] = [*losses, *gains[:1]] or columns[:2]
    lines = []
    for name in chosen:
        recorded = points[points[name].notna()]
        x, y = recorded[across].astype(float), recorded[name].astype(float)
        if not (x.map(math.isfinite).all() and y.map(math.isfinite).all()):
            continue
        width, height = (float(x.max() - x.min()) or 1.0), (float(y.max() - y.min()) or 1.0)
        vertices = [
            f"{4 + (WIDTH - 8) * (a - x.min()) / width:.1f},{HEIGHT - 6 - (HEIGHT - 12) * (b - y.min()) / height:.1f}"
            for a, b in zip(x, y, strict=True)
        ]
        text = f"{name} {y.iloc[0]:.4g} → {y.iloc[-1]:.4g}"
        lines.append({"name": name, "points": " ".join(vertices), "text": text})
    return lines
