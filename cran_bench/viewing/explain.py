"""Explanations of a score, as text and as a drawing."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cran_bench.contract import Explanation
from cran_bench.viewing.drawing import require_drawable, write_png

if TYPE_CHECKING:
    from PIL.Image import Image

SHADES = " ░▒▓█"
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")
LINE = 60  # characters per line of text


def describe(explanation: Explanation) -> str:
    """The scores by level, the text with its attention weights, and the best regions and pairs, counted from 1."""
    width = max(map(len, explanation.scores))
    lines = [f"  {level:<{width}}  {score:8.4f}" for level, score in explanation.scores.items()]
    for level, weights in explanation.attention.items():
        lines += ["", f"{level} attention"]
        for first in range(0, len(explanation.text), LINE):
            part = slice(first, first + LINE)
            lines += [f"  {shaded(weights)[part]}".rstrip(), f"  {explanation.text[part]}"]
    if explanation.regions:
        best = ", ".join(f"{region + 1} ({score:.3f})" for region, score in explanation.regions)
        lines += ["", f"best regions        {best}"]
    if explanation.pairs:
        best = ", ".join(f"{first + 1} to {second + 1} ({score:.3f})" for first, second, score in explanation.pairs)
        lines += ["" if not explanation.regions else None, f"best region pairs   {best}"]  # type: ignore[list-item]
    return "\n".join(line for line in lines if line is not None)


def shaded(weights: Sequence[float]) -> str:
    """One of five shades per weight, the darkest for the largest weight; '' if no weight is positive."""
    values = np.asarray(weights, dtype=np.float64)
    if not len(values) or values.max() <= 0:
        return ""
    return "".join(SHADES[round(share)] for share in (len(SHADES) - 1) * values / values.max())


def draw(explanation: Explanation, image: Image, boxes: NDArray[np.float32] | None, title: str, path: Path) -> None:
    """Draw an image with its regions, the best pair as an arrow, the attention over the text, and the scores.

    Args:
        explanation: to be drawn.
        image: the scored image.
        boxes: (n, 4) corners x0 y0 x1 y1 as fractions, or None for methods without regions.
        title: above the image.
        path: a PNG file.

    Raises:
        BadInput: matplotlib is not installed, or the path does not end in .png.
    """
    require_drawable(path)
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    lines = textwrap.wrap(explanation.text, LINE, drop_whitespace=False) or [""]
    rows = max(1, len(explanation.attention))
    below = 0.6 + 0.28 * rows * (len(lines) + 1)
    figure = Figure(figsize=(8, 5 + below), layout="constrained")
    both: Any = figure.subfigures(2, 1, height_ratios=(5, below))
    top, bottom = both
    picture, bars = top.subplots(1, 2, width_ratios=(3, 2))
    picture.imshow(image)
    picture.set_axis_off()
    picture.set_title(title, fontsize=10)
    if boxes is not None:
        corners = boxes * np.array([image.width, image.height] * 2)
        winners = [region for region, _ in explanation.regions]
        for region, (x0, y0, x1, y1) in enumerate(corners):
            wins = region in winners
            colour = COLOURS[region % len(COLOURS)]
            width = 2.5 if wins else 0.8
            picture.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, lw=width, ec=colour))
            picture.text(x0, y0, f" {region + 1}", color=colour, va="top", weight="bold" if wins else "normal")
        for first, second, _ in explanation.pairs[:1]:
            middles = [(corners[k, :2] + corners[k, 2:]) / 2 for k in (first, second)]
            style = {"arrowstyle": "-|>", "lw": 2, "color": "black", "shrinkA": 0, "shrinkB": 0}
            picture.annotate("", xy=middles[1], xytext=middles[0], arrowprops=style)
    names = list(explanation.scores)
    values = [explanation.scores[name] for name in names]
    drawn = bars.barh(names[::-1], values[::-1], color=["0.3", *["0.65"] * (len(names) - 1)])
    bars.bar_label(drawn, fmt="%.3f", padding=3)
    bars.margins(x=0.25)
    bars.set_title("score by level", fontsize=10)
    bars.spines[["top", "right"]].set_visible(False)
    _draw_text(bottom.subplots(), explanation, lines)
    write_png(figure, path)


def _draw_text(axes: Any, explanation: Explanation, lines: list[str]) -> None:
    """Draw the text once per level with attention, shading each character by its weight."""
    axes.set_axis_off()
    attention = explanation.attention or {"": [0.0] * len(explanation.text)}
    height = len(attention) * (len(lines) + 1)
    axes.set_xlim(0, LINE)
    axes.set_ylim(height, 0)
    row = 0
    for level, weights in attention.items():
        if level:
            axes.text(0, row + 0.75, f"{level} attention", fontsize=9, style="italic")
        values = np.asarray(weights) / (max(weights, default=0) or 1)
        place = 0
        for line in lines:
            row += 1
            for column, character in enumerate(line):
                ground = {"facecolor": (1, 0.75, 0.2, float(values[place])), "edgecolor": "none"}
                axes.fill([column, column + 1, column + 1, column], [row, row, row + 0.95, row + 0.95], **ground)
                axes.text(column + 0.5, row + 0.7, character, ha="center", family="monospace", fontsize=9)
                place += 1
        row += 1
