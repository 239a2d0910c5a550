"""Looks a results tree over: what a killed run left, what was changed by hand, and what has lost its other half.

Nothing is thrown away that was measured: what cannot be trusted is set aside, so that the next run makes it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cran_bench.errors import BadInput
from cran_bench.results import CURVES, ERROR, EXAMPLES, ResultStore, read_curves, read_examples, read_ranks, read_record
from cran_bench.storage import clear_os_errors, is_abandoned

ASIDE = "set-aside"


@dataclass(frozen=True)
class Complaint:
    """Something wrong with a file.

    Attributes:
        what: is wrong, in a sentence.
        is_litter: whether it may be deleted; else it is set aside.
    """

    path: Path
    what: str
    is_litter: bool = False


def examine(results: Path) -> Iterator[Complaint]:
    """Everything that is wrong below ``results/runs``.

    Raises:
        BadInput: there is no such folder.
    """
    root = ResultStore(results).root
    if not root.is_dir():
        raise BadInput(f"there are no records below {root}: make some with cran-bench run")
    for path in sorted(root.rglob("*")):
        if path.suffix == ".part":
            if is_abandoned(path):
                yield Complaint(path, "a write that never ended", is_litter=True)
        elif path.name.endswith(ERROR):
            if path.with_name(path.name.removesuffix(ERROR) + ".json").exists():
                yield Complaint(path, "an error of a run that has been finished since", is_litter=True)
        elif path.suffix == ".json" and not path.name.endswith(EXAMPLES):
            yield from _examine_record(path)
        elif path.suffix in (".npz", ".csv", ".json") and not _record_of(path).exists():
            yield Complaint(path, f"its record {_record_of(path).name} is not there")


def cure(complaints: list[Complaint], results: Path) -> Iterator[str]:
    """Delete litter and set the rest aside, below ``results/set-aside``; a sentence on each.

    Raises:
        BadInput: the folder cannot be written.
    """
    root = ResultStore(results).root
    for complaint in complaints:
        path = complaint.path
        with clear_os_errors(path):
            if complaint.is_litter:
                path.unlink(missing_ok=True)
                yield f"deleted {path}: {complaint.what}"
            else:
                aside = results / ASIDE / path.relative_to(root)
                aside.parent.mkdir(parents=True, exist_ok=True)
                path.replace(aside)
                yield f"set aside {path}: {complaint.what}"


def _examine_record(path: Path) -> Iterator[Complaint]:
    """A record with what lies beside it; where the record is bad its companions go with it."""
    try:
        record = read_record(path)
        read_ranks(path, record)
        if not path.stem.endswith(f"-s{record.seed}-{record.fingerprint[:12]}"):
            raise BadInput(f"{path} is named for another run than it is of")
    except BadInput as error:
        yield Complaint(path, str(error))
        beside = (path.with_suffix(".npz"), path.with_name(path.stem + CURVES), path.with_name(path.stem + EXAMPLES))
        yield from (Complaint(other, f"it goes with {path.name}") for other in beside if other.exists())
        return
    for read, ending in ((read_curves, CURVES), (read_examples, EXAMPLES)):
        try:
            read(path)
        except BadInput as error:
            yield Complaint(path.with_name(path.stem + ending), str(error))


def _record_of(path: Path) -> Path:
    """The record beside which ranks, curves or examples lie."""
    stem = next((path.name.removesuffix(end) for end in (CURVES, EXAMPLES) if path.name.endswith(end)), path.stem)
    return path.with_name(stem + ".json")
