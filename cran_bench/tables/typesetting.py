"""Text of tables: for a terminal, as far as columns fit, as markdown, LaTeX, CSV or JSON."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Literal, get_args

from tabulate import tabulate

from cran_bench.errors import BadInput, escaped
from cran_bench.ranking.contrasted import HEADLINE
from cran_bench.ranking.precisions import CATEGORY_FIGURES
from cran_bench.records.tasks import CATEGORY, RECALL
from cran_bench.tables.figures import CORRELATED, UNSEEN, heading

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["terminal", "markdown", "csv", "latex", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
DATA_FORMATS = ("csv", "json")
BEST, MAYBE = "★", "≈"
"""Mark the row with the highest value, and others that may be the best."""
LABELS = "method", "against"
"""Columns that hold labels of methods."""
BY_IMPORTANCE = [  # columns of a group are shown together
    {"dataset", "method", *RECALL.keys, *CATEGORY.keys},
    *({"twin_accuracy"}, {"behind_best"}, {"i2t_r10", "t2i_r10"}, {"i2t_map50", "t2i_map50"}, {"i2t_r5", "t2i_r5"}),
    *({"i2t_class_map", "t2i_class_map"}, {"medr"}, {"measured"}, {"fit_s"}, {"embed_s", "similarity_s", "rank_s"}),
    {"commit"},
]
_STYLE = {"terminal": "simple", "markdown": "pipe", "latex": "latex_booktabs"}
_LATEX = {BEST: r"$\star$", MAYBE: r"$\approx$", UNSEEN: r"$\circ$"}  # which lacks these characters


def export(frame: pd.DataFrame, style: str) -> str:
    """Format a frame as CSV, or as JSON: a list of objects, with null where there is no value."""
    if style == "csv":
        return str(frame.to_csv(index=False)) if len(frame) else ""
    return json.dumps(json.loads(frame.to_json(orient="records")), indent=1, ensure_ascii=False)


def typeset(
    title: str,
    columns: Mapping[str, Sequence[str]],
    notes: Sequence[str],
    style: str,
    warnings: Sequence[str] = (),
    width: int | None = None,
    importance: Sequence[Set[str]] = BY_IMPORTANCE,
    everything: str = "cran-bench table --wide",
    headings: Mapping[str, str] | None = None,
) -> str:
    """Format one table, except as CSV or JSON: title, body, notes; in a terminal only the columns that fit a width.

    Columns of one set of `importance` are shown together; the most important set comes first.  A note says that
    `everything` has those left out.  `headings` are those of columns that `heading` does not know.

    Raises:
        BadInput: an unknown format.
    """
    require_format(style)
    named = {name: escaped((headings or {}).get(name) or heading(name), "") for name in columns}
    columns = {name: [escaped(cell, "") for cell in cells] for name, cells in columns.items()}
    if style == "terminal" and width is not None:
        columns, left_out = _fitted(columns, named, width, importance, everything)
        fill = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False).fill
        title, *notes = map(fill, (title, *notes, *left_out))
    lines = [[named[name] for name in columns], *zip(*columns.values(), strict=True)]
    cells = [[cell.replace("|", r"\|") if style == "markdown" else cell for cell in line] for line in lines]
    body = tabulate(
        cells[1:],
        headers=cells[0],
        tablefmt=_STYLE[style],
        disable_numparse=True,
        colalign=["left" if not k or name == "method" else "right" for k, name in enumerate(columns)],
    )
    if style == "markdown":
        head = [f"### {title}", "", *[f"**{line}**\n" for line in warnings]]
        return "\n".join([*head, body, "", *[f"{line}  " for line in notes], ""])
    if style == "latex":
        for mark, command in _LATEX.items():
            body = body.replace(mark, command)
        return "\n".join([*[f"% {line}" for line in (title, *warnings, *notes)], body, ""])
    return "\n".join([title, *warnings, "", body, "", *notes, ""])


def _fitted(
    columns: Mapping[str, Sequence[str]],
    headings: Mapping[str, str],
    width: int,
    importance: Sequence[Set[str]],
    everything: str,
) -> tuple[dict[str, Sequence[str]], list[str]]:
    """The columns that fit into a width, the most important first, and a note on what was left out.

    Deviations of recalls are left out too, labels are folded, and 0.381 becomes .381.
    """
    shown, ranked = dict(columns), set[str]().union(*importance)
    if _width(shown, headings) <= width:
        return shown, []
    for name in shown.keys() - {*LABELS, "rsum", "map", "behind_best"}:
        cells = [re.sub(r" ±[^○]*", " ", cell).rstrip() for cell in shown[name]]
        shown[name] = [re.sub(r"\b0(?=\.\d{3}[ )])", "", cell) for cell in cells]
    short = {name for name in shown if name.endswith(CORRELATED) and name not in importance[0]}
    for name in short | ({"behind_best"} & shown.keys() if {"behind_best"} in importance[:2] else set()):
        shown[name] = [re.sub(r" \[[^\]]*\]", "", cell) for cell in shown[name]]
    first = set[str]().union(*importance[:3]) - {*LABELS}
    room = max(24, width - 2 - _width({name: shown[name] for name in shown if name in first}, headings))
    shown |= {name: [_folded(cell, room) for cell in shown[name]] for name in shown if name in LABELS}
    for name in shown.keys() & {*CATEGORY_FIGURES, "behind_best"}:
        shown[name] = [re.sub(r"\b0(?=\.\d{3}\b)", "", cell) for cell in shown[name]]
    kept: set[str] = set()
    for group in (*importance, *({name} for name in shown if name not in ranked)):
        some = {name: shown[name] for name in shown if name in kept | group}
        if not kept or _width(some, headings) <= width:
            kept |= group
    left = [headings[name] for name in shown if name not in kept]
    for name, what in (("i2t_r1", "recalls"), ("i2t_map", "directions"), (HEADLINE, "shares")):
        left += [f"± of {what}"] * any("±" in cell for cell in columns.get(name, ()))
    note = f"Left out to fit {width} characters: {', '.join(dict.fromkeys(left))} ({everything} has all)."
    return {name: shown[name] for name in shown if name in kept}, [note] if left else []


def _width(columns: Mapping[str, Sequence[str]], headings: Mapping[str, str]) -> int:
    lines = {name: [line for cell in cells for line in cell.split("\n")] for name, cells in columns.items()}
    widest = [max(len(headings[name]) + 2, *map(len, lines[name])) for name in lines]  # tabulate adds 2
    return sum(widest) + 2 * (len(widest) - 1)


def _folded(label: str, width: int) -> str:
    """A label in lines of at most this width, if its options are so short."""
    lines = [""]
    for piece in re.split(r"(?=\[)|(?<=,)", label):
        lines += ["  "] * (lines[-1] != "" and len(lines[-1] + piece) > width)
        lines[-1] += piece
    return "\n".join(lines)


def require_format(style: str) -> None:
    """Require one of `FORMATS`.

    Raises:
        BadInput: an unknown format.
    """
    if style not in FORMATS:
        page = "; cran-bench report writes an HTML page" if style.lower() == "html" else ""
        raise BadInput(f"there is no table format '{style}': choose {', '.join(FORMATS)}{page}")
