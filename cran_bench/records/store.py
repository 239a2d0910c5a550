"""The result store: a JSON record and a file of integer ranks per run, content-addressed and written atomically."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from cran_bench.errors import BadInput
from cran_bench.machine.progress import say
from cran_bench.machine.storage import (
    canonical_json,
    read_bounded,
    sha256_bytes,
    sha256_file,
    slug,
    write_atomically,
    write_json,
    write_text,
)
from cran_bench.protocols import Protocol
from cran_bench.ranking.metrics import Ranks
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.records.archive import MOST_TEXT, read_failure, read_ranks, read_record
from cran_bench.records.examples import Answers, Examples
from cran_bench.records.schema import ANSWERS, CURVES, ERROR, EXAMPLES, Address, DataInfo, Failure, Record
from cran_bench.registry import METHODS

INTERVALS_UP_TO = 5000  # records; reading and resampling the ranks of more would take minutes
_RUN = re.compile(r"(.+)-s(\d+)-[^-]+?(?:\.error)?\.json")

Curves: TypeAlias = Mapping[str, Sequence[Mapping[str, float]]]
"""The points of training curves, by the name of the trained model."""


@dataclass(frozen=True)
class Finished:
    """A finished run: its record, its ranks, which are read on first use, and the record's file, if it is stored."""

    record: Record
    read: Callable[[], RecordedRanks]
    path: Path = Path()

    @cached_property
    def ranks(self) -> RecordedRanks:
        """The integer ranks, with the answers to contrasts and judgments.

        Raises:
            BadInput: the file is missing or does not belong to the record.
        """
        return self.read()


class ResultStore:
    """Reads and writes the records in the folder ``runs`` of a results folder."""

    def __init__(self, results: Path) -> None:
        self.root = results / "runs"

    def path(self, address: Address) -> Path:
        """The file of the record at an address."""
        return self._with(address, ".json")

    def path_of(self, record: Record) -> Path:
        """The file of a stored record."""
        data, method = record.data.label, record.method.label
        return self.path(Address(data, record.protocol, record.folds, method, record.seed, record.fingerprint))

    def find(self, address: Address) -> Record | None:
        """Return the record of a finished run, or None if there is none or its ranks are missing or do not match.

        Raises:
            BadInput: the record was changed after it was written, is of a newer schema, or is damaged, or its figures
                are not those of its ranks.
        """
        path = self.path(address)
        if not path.exists():
            return None
        record, file = read_record(path), path.with_suffix(".npz")
        if record.fingerprint != address.fingerprint:
            raise BadInput(f"{path} holds the record of another run (its fingerprint differs): delete it and run again")
        if not file.exists() or sha256_file(file) != record.ranks_sha:
            say(f"{file} does not match its record; running again")
            return None
        read_ranks(path, record)
        return record

    def now(self, address: Address, data: DataInfo) -> str:
        """The start time of a run: now, or one second after the newest record of its cell if the clock is behind it."""
        own, now = self.path(address), datetime.now(UTC).replace(microsecond=0)
        latest = now
        for path in own.parent.glob(f"{own.name.rpartition('-')[0]}-*.json"):
            if path != own and _ending(path.name) == ".json":
                with contextlib.suppress(BadInput, FileNotFoundError, ValueError, TypeError, OverflowError):
                    other = read_record(path)
                    if other.data.cell == data.cell:
                        latest = max(latest, datetime.fromisoformat(other.started) + timedelta(seconds=1))
        if latest > now:
            say(f"the system clock is behind an existing record of {address.method}; using its time + 1 s")
        return latest.astimezone(UTC).isoformat()

    def write(
        self,
        address: Address,
        record: Record,
        ranks: Ranks,
        curves: Curves | None = None,
        examples: Examples | None = None,
        answers: Answers | None = None,
    ) -> Record:
        """Store ranks, their companions and then the record, and delete an earlier error record."""
        data = _packed(ranks.arrays())
        sealed = record.model_copy(update={"ranks_sha": sha256_bytes(data)}).sealed()
        write_atomically(self._with(address, ".npz"), lambda file: file.write(data))
        if curves:
            import pandas as pd

            points = [{"trained": name, **point} for name, curve in curves.items() for point in curve]
            table = pd.DataFrame(points).to_csv(index=False, float_format="%.6g")
            write_text(self._with(address, CURVES), table)
        if examples:
            write_text(self._with(address, EXAMPLES), canonical_json(examples.model_dump(exclude_none=True)))
        if answers:
            packed = _packed(vars(answers))
            write_atomically(self._with(address, ANSWERS), lambda file: file.write(packed))
        write_json(self.path(address), sealed.model_dump())
        self._with(address, ERROR).unlink(missing_ok=True)
        return sealed

    def write_failure(self, address: Address, failure: Failure) -> None:
        """Store the error record of a run."""
        write_json(self._with(address, ERROR), failure.model_dump())

    def failure(self, address: Address) -> Failure | None:
        """Return the error record of a run, or None if it has not failed."""
        with contextlib.suppress(BadInput, FileNotFoundError):
            return read_failure(self._with(address, ERROR))
        return None

    def finished(self, address: Address, record: Record) -> Finished:
        """A stored record together with its ranks, which are read on first use."""
        return _finished(self.path(address), record)

    def runs(self, *chosen: Sequence[str], damaged: dict[Path, BadInput] | None = None) -> list[Finished]:
        """The finished runs of the given dataset, protocol and method labels; an empty sequence selects all.

        Records whose path shows that they do not match are not opened.  The errors of damaged ones are raised, or put
        into `damaged` by path.
        """
        runs = []
        for path in self._paths(".json", *chosen):
            with _collected(path, damaged):
                record = read_record(path)
                if _is_of((record.data.label, record.protocol, record.method.label), chosen):
                    runs.append(_finished(path, record))
        return runs

    def failures(self, *chosen: Sequence[str], damaged: dict[Path, BadInput] | None = None) -> list[Failure]:
        """The error records of the given labels, as in `runs`."""
        failures = []
        for path in self._paths(ERROR, *chosen):
            with _collected(path, damaged):
                failure = read_failure(path)
                if _is_of((failure.data.label, failure.protocol, failure.method_label), chosen):
                    failures.append(failure)
        return failures

    def read(self, *chosen: Sequence[str]) -> tuple[list[Finished], list[Failure]]:
        """The finished and the failed runs of the given labels; damaged records are failures that give the reason.

        Ranks are verified too, unless there are more than `INTERVALS_UP_TO` records.
        """
        damaged: dict[Path, BadInput] = {}
        runs = {run.path: run for run in self.runs(*chosen, damaged=damaged)}
        failures = self.failures(*chosen, damaged=damaged)
        for path, run in runs.items() if len(runs) <= INTERVALS_UP_TO else ():
            with _collected(path, damaged):
                _ = run.ranks
        labels: dict[str, str] = {}
        if damaged:
            plain = (f"{name}:{preset}" for name in METHODS.names() for preset in METHODS.describe(name).presets)
            known = itertools.chain(plain, *chosen, (run.record.method.label for run in runs.values()))
            labels = {slug(label): label for label in known}
        for path, error in damaged.items():
            near = [run.record for at, run in runs.items() if at.parent == path.parent]
            near.sort(key=lambda record: record.started)
            failures.append(_as_failure(path, error, [record.data for record in near], labels))
        return [run for path, run in runs.items() if path not in damaged], failures

    def _paths(self, ending: str, *labels: Sequence[str]) -> list[Path]:
        """Sorted files with an ending whose path matches one of the labels of each kind; no labels match all."""
        datasets, protocols, methods = (set(map(slug, chosen)) for chosen in (*labels, (), (), ())[:3])
        paths = []
        for folder in sorted(self.root.glob("*/*/")):
            if datasets and folder.parent.name not in datasets:
                continue
            if protocols and folder.name.partition("-")[0] not in protocols:
                continue
            names = sorted(entry.name for entry in os.scandir(folder) if _ending(entry.name) == ending)
            paths += [folder / name for name in names if not methods or name.rsplit("-s", 1)[0] in methods]
        return paths

    def _with(self, address: Address, suffix: str) -> Path:
        stem = self.root / address.stem()
        return stem.with_name(stem.name + suffix)


def read_folders(folders: Sequence[Path], *chosen: Sequence[str]) -> tuple[list[Finished], list[Failure]]:
    """The finished and the failed runs below folders of results, as `ResultStore.read` has those of one.

    Raises:
        BadInput: one of several folders has no folder ``runs``.
    """
    runs, failures = list[Finished](), list[Failure]()
    for folder in distinct(folders):
        store = ResultStore(folder)
        if len(folders) > 1 and not store.root.is_dir():
            raise BadInput(f"there are no records in {folder}: give folders of results, each with a folder runs")
        more, failed = store.read(*chosen)
        runs += more
        failures += failed
    return runs, failures


def folder_of(run: Finished | Failure) -> Path:
    """The folder of results in which a run is stored, as it was given; the current one if it is not stored."""
    return next(iter(run.path.parents[3:4]), Path())


def distinct(folders: Sequence[Path]) -> list[Path]:
    """The folders without those that are given again, by another name or through a link."""
    known: dict[Path, Path] = {}
    for folder in folders:
        known.setdefault(folder.resolve(), folder)
    return list(known.values())


def roots_of(folders: Sequence[Path]) -> str:
    """The folders of records below folders of results, as a sentence names them."""
    return " and ".join(str(ResultStore(folder).root) for folder in distinct(folders))


def _finished(path: Path, record: Record) -> Finished:
    return Finished(record, partial(read_ranks, path, record), path)


def _packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _ending(name: str) -> str:
    """The ending of a file's name: ``.json`` for a record, a longer one for the files beside it."""
    return next((ending for ending in (EXAMPLES, ANSWERS, CURVES, ERROR) if name.endswith(ending)), Path(name).suffix)


def _is_of(labels: Sequence[str], chosen: Sequence[Sequence[str]]) -> bool:
    return all(not some or label in some for label, some in zip(labels, chosen, strict=False))


@contextlib.contextmanager
def _collected(path: Path, damaged: dict[Path, BadInput] | None) -> Iterator[None]:
    """Put an error into `damaged`, unless that is None; a file that another process has just deleted is none."""
    try:
        yield
    except FileNotFoundError:
        return
    except BadInput as error:
        if damaged is None:
            raise
        damaged[path] = error


def _as_failure(path: Path, error: BadInput, near: list[DataInfo], labels: Mapping[str, str]) -> Failure:
    """A damaged record as a failure with a row in the table of its neighbours; its path tells which run it is.

    Args:
        path: the file.
        error: what is wrong.
        near: data of the records in the same folder, the newest last.
        labels: known labels of datasets and methods, by their form in paths.
    """
    run, folder = _RUN.fullmatch(path.name), path.parents[1].name
    name, seed = (run[1], int(run[2])) if run else (path.stem, 0)
    protocol, _, folds = path.parent.name.removesuffix("folds").partition("-")
    with contextlib.suppress(BadInput, ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError):
        raw = from_json(read_bounded(path, MOST_TEXT))
        labels = {slug(raw["method"]["label"]): str(raw["method"]["label"]), **labels}
        own = DataInfo.model_validate({name: x for name, x in raw["data"].items() if name in DataInfo.model_fields})
        if slug(own.label) == folder and (not near or own.cell in {data.cell for data in near}):
            near = [*near, own]
    unknown = dict.fromkeys(("split_sha", "front_end", "features_sha", "vectors"), "unknown")
    blank = {"label": labels.get(folder, folder), "quick": False, "images": 0, "captions": 0, **unknown}
    return Failure.model_construct(
        kind="damaged",
        data=near[-1] if near else DataInfo.model_validate(blank),
        method_label=labels.get(name, name),
        protocol=cast("Protocol", protocol),
        folds=int(folds) if folds.isdecimal() else 0,
        seed=seed,
        error=str(error),
        traceback="",
        started="",
        environment={},
        path=path,
    )
