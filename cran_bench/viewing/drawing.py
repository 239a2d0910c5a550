"""What drawings of explanations and of search results share."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cran_bench.errors import BadInput
from cran_bench.machine.extras import require
from cran_bench.machine.storage import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require_drawable(path: Path) -> None:
    """Refuse what `draw` cannot do, before anything long is begun.

    Raises:
        BadInput: matplotlib is not installed, or the file is to be no PNG.
    """
    if path.suffix.lower() != ".png":
        raise BadInput(f"the picture is written as PNG, so {path} should end in .png")
    require("matplotlib", "report", "drawings")


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    write_atomically(path, partial(figure.savefig, format="png", dpi=110))
