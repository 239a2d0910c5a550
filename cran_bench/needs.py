"""The files that a dataset needs: which of them exist, and where to download the others."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable


class Need(NamedTuple):
    """A file or folder that a dataset needs.

    Attributes:
        what: its name, or the names it may have.
        found: its path, or None if it is missing.
        source: where to download it.
        optional: whether the dataset can be loaded without it.
    """

    what: str
    found: Path | None
    source: str
    optional: bool = False


@runtime_checkable
class Needing(Protocol):
    """A dataset that can list the files it needs; optional."""

    def needs(self, data: Path) -> list[Need]:
        """List the files and folders needed below the folder `data`."""
        ...


def described(needs: list[Need]) -> str:
    """Return one line for each file: path and size if it exists, else where to download it."""
    width = max(len(need.what) for need in needs)
    lines = []
    for need in needs:
        if need.found is None:
            word, rest = ("optional" if need.optional else "missing"), need.source
        elif need.found.is_dir():
            word, rest = "exists", f"{sum(1 for _ in need.found.iterdir()):,} files in {need.found}"
        else:
            word, rest = "exists", f"{need.found.stat().st_size / 1000:,.0f} kB, {need.found}"
        lines.append(f"  {word:<8}  {need.what:<{width}}  {rest}")
    return "\n".join(lines)


def missing(needs: list[Need]) -> list[Need]:
    """Return the missing files without which the dataset cannot be loaded."""
    return [need for need in needs if need.found is None and not need.optional]


def first_of(folder: Path, *names: str) -> Path | None:
    """Return the path of the first of `names` that exists below `folder`, or None."""
    return next((folder / name for name in names if (folder / name).exists()), None)
