"""Looks records, features and fits over: what a kill left, what was changed, and what has lost its other half.

Nothing is thrown away that was measured: what cannot be trusted is set aside, so that the next run makes it again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cran_bench.errors import BadInput
from cran_bench.frontend.features import MANIFEST, read_manifest
from cran_bench.machine.storage import clear_os_errors, is_abandoned, is_locked, sha256_file
from cran_bench.records.archive import read_curves, read_examples, read_ranks, read_record
from cran_bench.records.schema import CURVES, ERROR, EXAMPLES
from cran_bench.records.store import ResultStore
from cran_bench.running.fits import load_state

ASIDE = "set-aside"


@dataclass(frozen=True)
class Complaint:
    """Something wrong with a file.

    Attributes:
        path: of a file, or of the folder of features that is damaged.
        what: is wrong, in a sentence.
        home: the folder of results or the cache.
        is_litter: whether it may be deleted; else it is set aside.
    """

    path: Path
    what: str
    home: Path
    is_litter: bool = False


def examine_results(results: Path) -> Iterator[Complaint]:
    """Everything that is wrong below ``results/runs``."""
    root = ResultStore(results).root
    for path in sorted(root.rglob("*")):
        if path.suffix == ".part":
            yield from _examine_temporary(path, results)
        elif path.name.endswith(ERROR):
            if path.with_name(path.name.removesuffix(ERROR) + ".json").exists():
                yield Complaint(path, "an error of a run that has been finished since", results, is_litter=True)
        elif path.suffix == ".json" and not path.name.endswith(EXAMPLES):
            yield from _examine_record(path, results)
        elif path.suffix in (".npz", ".csv", ".json") and not _record_of(path).exists():
            yield Complaint(path, f"its record {_record_of(path).name} is not there", results)


def examine_cache(cache: Path) -> Iterator[Complaint]:
    """Everything that is wrong with features and fits; what goes on now, or next time, is not."""
    for manifest in sorted((cache / "features").glob(f"*/*/{MANIFEST}")):
        if is_locked(manifest.parent):
            continue
        try:
            for name, about in read_manifest(manifest.parent)["arrays"].items():
                if sha256_file(manifest.with_name(f"{name}.npy")) != about["sha256"]:
                    raise BadInput(f"{name}.npy was changed after it was written (its checksum does not match)")
        except BadInput as error:
            yield Complaint(manifest.parent, str(error), cache)
    for path in sorted((cache / "fits").glob("*")):
        if path.suffix == ".checkpoint" and path.with_suffix(".safetensors").exists():
            yield Complaint(path, "a checkpoint of a fit that has been finished since", cache, is_litter=True)
        elif path.suffix in (".safetensors", ".checkpoint"):
            try:
                load_state(path)
            except Exception as error:  # safetensors raises many kinds for a damaged file
                yield Complaint(path, f"it holds no fit ({error})", cache)
    for path in sorted(cache.rglob(".*.part")):
        yield from _examine_temporary(path, cache)


def cure(complaints: list[Complaint]) -> Iterator[str]:
    """Delete litter and set the rest aside, below ``set-aside`` of the same results or cache; a sentence on each.

    Raises:
        BadInput: the folder cannot be written.
    """
    for complaint in complaints:
        path, home = complaint.path, complaint.home
        with clear_os_errors(path):
            if complaint.is_litter:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                yield f"deleted {path}: {complaint.what}"
            else:
                aside = home / ASIDE / path.relative_to(home)
                aside.parent.mkdir(parents=True, exist_ok=True)
                if aside.is_dir():
                    shutil.rmtree(aside)  # set aside before
                path.replace(aside)
                yield f"set aside {path}: {complaint.what}"


def _examine_temporary(path: Path, home: Path) -> Iterator[Complaint]:
    if is_abandoned(path):
        yield Complaint(path, "a write that never ended", home, is_litter=True)


def _examine_record(path: Path, results: Path) -> Iterator[Complaint]:
    """A record with what lies beside it; where the record is bad its companions go with it."""
    try:
        record = read_record(path)
        read_ranks(path, record)
        if not path.stem.endswith(f"-s{record.seed}-{record.fingerprint[:12]}"):
            raise BadInput(f"{path} is named for another run than it is of")
    except BadInput as error:
        yield Complaint(path, str(error), results)
        beside = (path.with_suffix(".npz"), path.with_name(path.stem + CURVES), path.with_name(path.stem + EXAMPLES))
        yield from (Complaint(other, f"it goes with {path.name}", results) for other in beside if other.exists())
        return
    for read, ending in ((read_curves, CURVES), (read_examples, EXAMPLES)):
        try:
            read(path)
        except BadInput as error:
            yield Complaint(path.with_name(path.stem + ending), str(error), results)


def _record_of(path: Path) -> Path:
    """The record beside which ranks, curves or examples lie."""
    stem = next((path.name.removesuffix(end) for end in (CURVES, EXAMPLES) if path.name.endswith(end)), path.stem)
    return path.with_name(stem + ".json")
