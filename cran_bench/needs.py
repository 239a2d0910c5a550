"""What a dataset is read from: which of its owners' files are there, and where the others are to be had."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable


class Need(NamedTuple):
    """A file or folder of the owners.

    Attributes:
        what: its name, or the names it may have.
        found: where it is; None where it is missing.
        source: where its owners offer it.
        optional: whether the dataset can be read without.
    """

    what: str
    found: Path | None
    source: str
    optional: bool = False


@runtime_checkable
class Needing(Protocol):
    """A dataset that can say what it is read from; optional."""

    def needs(self, data: Path) -> list[Need]:
        """What it is read from below the folder `data`."""
        ...


def described(needs: list[Need]) -> str:
    """A line for each: there, with its place and size, or missing, with where it is to be had."""
    width = max(len(need.what) for need in needs)
    lines = []
    for need in needs:
        if need.found is None:
            word, rest = ("left out" if need.optional else "missing"), need.source
        elif need.found.is_dir():
            word, rest = "there", f"{sum(1 for _ in need.found.iterdir()):,} files in {need.found}"
        else:
            word, rest = "there", f"{need.found.stat().st_size / 1000:,.0f} kB, {need.found}"
        lines.append(f"  {word:<8}  {need.what:<{width}}  {rest}")
    return "\n".join(lines)


def missing(needs: list[Need]) -> list[Need]:
    """Those without which the dataset cannot be read."""
    return [need for need in needs if need.found is None and not need.optional]


def first_of(folder: Path, *names: str) -> Path | None:
    """The first of some names that is there below a folder."""
    return next((folder / name for name in names if (folder / name).exists()), None)
