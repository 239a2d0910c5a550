"""Training curves, as numbers for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cran_bench.tables.tables import Row


def curve_contents(rows: Sequence[Row]) -> dict[str, Any]:
    """The training curves of the first seed of each row that has some."""
    return {}
