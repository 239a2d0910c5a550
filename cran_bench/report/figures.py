"""Figures for papers: as wide as a column, in black, with texts as texts in SVG and embedded fonts in PDF."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cran_bench.comparison.with_paper import READINGS, PaperCell
from cran_bench.errors import BadInput, did_you_mean, escaped
from cran_bench.machine.extras import require
from cran_bench.machine.progress import track
from cran_bench.machine.storage import slug, write_atomically
from cran_bench.ranking.contrasted import HEADLINE
from cran_bench.records.tasks import DIRECTIONS
from cran_bench.tables.figures import heading
from cran_bench.tables.paper import DATASET_NAMES, PRESETS, dataset_name, paper_rows
from cran_bench.tables.summary import on_front
from cran_bench.tables.tables import Table

from .contents import table_ids
from .paper import SECTIONS, SameData, same_data

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 3.3  # inches: a column
PITCH = 0.13  # inches: a line of text
NAME, LINE = 26, 50  # characters of a line of a row's name, and below the axes
NAMED = 12  # the most names of a front that are listed
SIZES = "font.size", "axes.labelsize", "axes.titlesize", "legend.fontsize", "xtick.labelsize", "ytick.labelsize"
STYLE: dict[Any, Any] = {
    **dict.fromkeys(SIZES, 7),
    **{"font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "text.parse_math": False},
    **{"axes.spines.top": False, "axes.spines.right": False, "ytick.major.size": 0},
    **{"axes.linewidth": 0.6, "xtick.major.width": 0.6, "lines.linewidth": 0.8},
    **{"svg.fonttype": "none", "svg.hashsalt": "cran-bench", "pdf.fonttype": 42},
}
DATELESS = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
FILLED: dict[str, Any] = {"color": "black", "ms": 4, "mew": 0.8}
HOLLOW = FILLED | {"mfc": "white"}
BEST, ON_FRONT, BEHIND = FILLED | {"marker": "o"}, FILLED | {"marker": "D"}, HOLLOW | {"marker": "o"}
PRINTED = FILLED | {"marker": "|", "ms": 6}
MARKS: dict[str, dict[str, Any]] = {
    **{verdict: FILLED | {"marker": marker} for verdict, marker in (("same", "o"), ("above", "^"), ("below", "v"))},
    **{"REGRESSED": FILLED | {"marker": "x", "mew": 1.6}, "differs (copied)": FILLED | {"marker": "s"}},
    **{"informational": HOLLOW | {"marker": "D"}, "other protocol": HOLLOW | {"marker": "s"}},
    **{"shown": HOLLOW | {"marker": ">"}, "not comparable": HOLLOW | {"marker": "o"}},
}
"""Marks of measured recalls, by verdict; shapes are those of the page."""
TICKS = {
    **{1e-3: "1 ms", 1e-2: "10 ms", 0.1: "0.1 s", 1.0: "1 s", 10.0: "10 s", 60.0: "1 min", 600.0: "10 min"},
    **{3600.0: "1 h", 36000.0: "10 h", 360000.0: "100 h"},
}


def write_figures(tables: Sequence[Table], folder: Path, formats: Sequence[str] = ("svg", "pdf")) -> list[Path]:
    """Draw the headline of each table, its rows' quality against fit time, and the paper's tables with measured rows.

    The bytes depend on the records and the version of matplotlib only.

    Args:
        tables: of all tasks.
        folder: made if it is not there; files of the same names are replaced.
        formats: `svg` and `pdf`, one file each of every figure.

    Returns:
        The files written.

    Raises:
        BadInput: matplotlib is not installed, a format is unknown, or nothing can be drawn.
    """
    for name in formats:
        if name not in DATELESS:
            raise BadInput(f"figures are written as svg or pdf, not as '{name}'{did_you_mean(name, DATELESS)}")
    require("matplotlib", "report", "figures")
    import matplotlib as mpl

    drawings = [*_of_tables(tables), *_of_paper(tables)]
    if not drawings:
        raise BadInput("no table has a row with a headline to draw: run some methods on the dataset first")
    files = []
    for stem, draw in track(drawings, "drawing figures", total=len(drawings)):
        with mpl.rc_context(), warnings.catch_warnings():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure = draw()
            for ending in formats:
                files.append(folder / f"{stem}.{ending}")
                save = partial(figure.savefig, format=ending, metadata=DATELESS[ending])
                write_atomically(files[-1], save)
    return files


def _of_tables(tables: Sequence[Table]) -> Iterator[tuple[str, Callable[[], Figure]]]:
    for table_id, table in zip(table_ids(tables), tables, strict=True):
        if table.ranked:
            yield f"{table_id}-{slug(table.task.headline)}", partial(headline_figure, table)
        if len([row for row in table.ranked if row.seconds("fit") > 0]) > 1:
            yield f"{table_id}-seconds", partial(cost_figure, table)


def _of_paper(tables: Sequence[Table]) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """The paper's tables beside rows on their own data, or if there are none, beside those on each other data."""
    sets = same_data(tables)
    for number, dataset in SECTIONS:
        own = [data for data in sets if dataset_name(data.group.dataset) == dataset]
        for data in own or sets:
            ways = [
                [data.cells(row, preset, reading) for row in paper_rows(number, dataset)]
                for preset in PRESETS
                for reading in READINGS
            ]
            rows = max(ways, key=lambda rows: sum(cells[0].measured is not None for cells in rows))
            if any(cells[0].measured for cells in rows):
                way = f"{rows[0][0].preset}{'-captions' * (rows[0][0].reading == 'captions')}"
                yield f"paper-table{number}-{dataset}-beside-{data.id}-{way}", partial(paper_figure, rows, data)


def headline_figure(table: Table) -> Figure:
    """Each ranked row's headline with its interval, the best at the top; filled if it may be the best."""
    rows, behind = table.ranked, table.behind_best()
    interval = ", with 95 % intervals" * table.has_intervals
    chance = "; the dotted line is chance" * (table.task.name == HEADLINE)
    below = _folded(f"{_data(table)}{interval}{chance}", LINE)
    figure, axes = _axes([row.marked_label for row in rows], below.count("\n") + 3 + bool(behind))
    for place, row in zip(axes.get_yticks(), rows, strict=True):
        gap = behind.get(row.label)
        if table.has_intervals:
            axes.plot(table.samples[row.label].interval(table.task.headline).ends, [place] * 2, color="black")
        axes.plot(row.mean(table.task.headline), place, **(BEHIND if gap and gap.high < 0 else BEST))
    if table.task.name == HEADLINE:
        axes.axvline(50, color="black", ls=":")
    axes.set_xlabel(heading(table.task.headline))
    _legend(figure, below, {"may be the best": BEST, "behind the best": BEHIND} if behind else {})
    return figure


def cost_figure(table: Table) -> Figure:
    """The headline of each ranked row against its fit time, with the Pareto front; names are drawn where there is room.

    Those on the front are also listed below.
    """
    from matplotlib.figure import Figure

    figure_of = table.task.headline
    rows = sorted((row for row in table.ranked if row.seconds("fit") > 0), key=lambda row: -row.mean(figure_of))
    points = {escaped(row.label): (row.seconds("fit"), row.mean(figure_of)) for row in rows}
    times, figures = np.array([*points.values()]).T
    on = dict(zip(points, on_front(figures, times).tolist(), strict=True))
    best = sorted((label for label in points if on[label]), key=points.__getitem__)
    more = f" (and {len(best) - NAMED} faster ones)" * (len(best) > NAMED)
    names = f"On the front, from fast to good: {', '.join(best[-NAMED:])}{more}"
    timeless = len(table.ranked) - len(rows)
    left_out = f"; without {timeless} of unknown fit time" if timeless else ""
    below = f"{_folded(_data(table) + left_out, LINE)}\n{_folded(names, LINE)}"
    figure = Figure(figsize=(WIDTH, 2.5 + PITCH * below.count("\n")), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", xlabel="fit time (logarithmic)", ylabel=heading(figure_of))
    axes.minorticks_off()
    for label, point in points.items():
        axes.plot(*point, clip_on=False, **(ON_FRONT if label in best else BEHIND))
    axes.margins(0.08, 0.2)
    low, high = axes.get_xlim()
    ticks: list[float] = []
    for tick in TICKS:  # so far apart that their texts are
        if low <= tick <= high and (not ticks or math.log(tick / ticks[-1]) > 0.12 * math.log(high / low)):
            ticks.append(tick)
    axes.set_xticks(ticks, [TICKS[tick] for tick in ticks])
    axes.set_xlim(low, high)
    x, y = zip(*(points[label] for label in best), strict=True)
    axes.step([*x, high], [*y, y[-1]], where="post", color="grey", zorder=1)
    _legend(figure, below, {"on the Pareto front": ON_FRONT, "behind it": BEHIND})
    _name(figure, axes, {label: points[label] for label in (*best, *(other for other in points if other not in best))})
    return figure


def paper_figure(rows: Sequence[Sequence[PaperCell]], data: SameData) -> Figure:
    """The six recalls of one of the paper's tables: printed, and measured with their intervals and verdicts.

    Args:
        rows: the cells of each row.
        data: where the measured rows are from.
    """
    from matplotlib.figure import Figure

    first = rows[0][0]
    verdicts = dict.fromkeys(cell.verdict for cells in rows for cell in cells if cell.measured)
    reasons = dict.fromkeys(cell.why for cells in rows for cell in cells if cell.measured and cell.why)
    what = f"Table {first.printed.table}, {DATASET_NAMES[first.printed.dataset]}, beside {data.title}, {first.preset}"
    protocols = dict.fromkeys(cells[0].protocol for cells in rows if cells[0].measured)
    text = f"{what}, {'/'.join(protocols)}, with 95 % intervals"
    notes = "\n".join(_folded(note, LINE) for note in (text, *(f"Not comparable: {reason}" for reason in reasons)))
    lines = notes.count("\n") + 4 + (len(verdicts) + 1) // 2
    figure = Figure(figsize=(WIDTH, PITCH * (2 * len(rows) + 8 + lines)), layout="constrained")
    grid = figure.subplots(len(DIRECTIONS), 3, sharex=True, sharey=True)
    for axes, cells in zip(grid.flat, zip(*rows, strict=True), strict=True):
        for place, cell in enumerate(cells):
            if cell.measured:
                axes.plot(cell.measured.ends, [place] * 2, color="black")
                axes.plot(cell.measured.value, place, clip_on=False, **MARKS[cell.verdict])
            axes.plot(cell.value, place, **PRINTED)
        direction, _, k = cells[0].figure.partition("_r")
        axes.set_title(f"{direction} R@{k}", pad=2)
        axes.set(xlim=(0, 100), xticks=[0, 50, 100], ylim=(len(rows) - 0.5, -0.5))
        axes.set_yticks(range(len(rows)), [cells[0].printed.name for cells in rows])
        axes.grid(axis="y", lw=0.3)
    _legend(figure, notes, {"printed": PRINTED} | {verdict: MARKS[verdict] for verdict in verdicts})
    return figure


def _name(figure: Figure, axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write the name of each point beside it, unless it would lie on a line, a name, or near another point."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    spots = {label: axes.transData.transform(point) for label, point in points.items()}
    pixel, taken = figure.dpi / 72, list[Bbox]()
    corners = axes.transData.transform(axes.lines[-1].get_xydata())
    lines = [Bbox([np.minimum(a, b) - pixel, np.maximum(a, b) + pixel]) for a, b in pairwise(corners)]
    for label, point in points.items():
        near = [Bbox([spot - 7 * pixel, spot + 7 * pixel]) for other, spot in spots.items() if other != label]
        for across, up in product((1, -1, 0), (0, 1, -1)):
            text = axes.annotate(
                label,
                point,
                (5 * across * (0.6 if up else 1), 5 * up),
                textcoords="offset points",
                ha=("center", "left", "right")[across],
                va=("center", "bottom", "top")[up],
                in_layout=False,
            )
            box = text.get_window_extent()
            inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            inside = inside and axes.bbox.containsy(box.y0) and axes.bbox.containsy(box.y1)
            if inside and (across or up) and not any(box.overlaps(other) for other in (*near, *lines, *taken)):
                taken.append(box)
                break
            text.remove()


def _axes(names: Sequence[str], lines: int) -> tuple[Figure, Axes]:
    """Axes with a name a row, from the top, and room for lines below."""
    from matplotlib.figure import Figure

    texts = [_folded(name, NAME) for name in names]
    heights = [1.1 + text.count("\n") for text in texts]
    places = [sum(heights[:row]) + height / 2 for row, height in enumerate(heights)]
    figure = Figure(figsize=(WIDTH, PITCH * (sum(heights) + lines + 2)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(places, texts)
    axes.set_ylim(sum(heights), 0)
    axes.grid(axis="y", lw=0.3)
    return figure, axes


def _folded(text: str, width: int) -> str:
    """A text in lines, broken at spaces, before brackets and after commas, or where nothing else is left."""
    parts = re.split(r"(?=\[)|(?<=[, ])", escaped(text))
    lines = [""]
    for piece in (part[start : start + width] for part in parts for start in range(0, len(part), width)):
        lines += [""] * (lines[-1] != "" and len((lines[-1] + piece).rstrip()) > width)
        lines[-1] += piece
    return "\n".join(map(str.rstrip, lines))


def _data(table: Table) -> str:
    """What a table is of: dataset, protocol, and the kind of figures if not recalls."""
    quick = "quick: not for comparison" * table.group.quick
    return ", ".join(filter(None, (table.group.dataset, table.group.protocol, table.kind, quick)))


def _legend(figure: Figure, text: str, marks: Mapping[str, Mapping[str, Any]]) -> None:
    """Below the axes, a text and what the marks mean."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], ls="none", label=name, **mark) for name, mark in marks.items()]
    where: dict[str, Any] = {"loc": "outside lower center", "ncols": 2, "frameon": False, "borderpad": 0}
    legend = figure.legend(handles=handles, title=text, title_fontsize=7, handletextpad=0.2, **where)
    legend.get_title().set_multialignment("center")
