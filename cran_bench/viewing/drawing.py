"""Checks and output shared by the drawings of explanations and of search results."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cran_bench.errors import BadInput, escaped
from cran_bench.machine.extras import require
from cran_bench.machine.storage import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require_drawable(path: Path) -> None:
    """Check that a drawing can be written to a path, before anything slow starts.

    Raises:
        BadInput: matplotlib is not installed, or the path does not end in .png.
    """
    if path.suffix.lower() != ".png":
        raise BadInput(f"drawings are written as PNG, so {path} should end in .png")
    require("matplotlib", "report", "drawings")


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, atomically; its texts are shown as they are, without mathematics."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(escaped(text.get_text(), "\n"))
    write_atomically(path, partial(figure.savefig, format="png", dpi=110))
