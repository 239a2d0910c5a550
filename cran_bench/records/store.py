"""Records below a folder: one JSON file and one file of integer ranks a run, content-addressed, whole or absent."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from pydantic import (
    ValidationError,
)

from cran_bench.errors import BadInput
from cran_bench.machine.progress import say
from cran_bench.machine.storage import (
    canonical_json,
    sha256_bytes,
    sha256_file,
    slug,
    write_atomically,
    write_json,
    write_text,
)
from cran_bench.ranking.metrics import Ranks
from cran_bench.records.archive import _first, read_ranks, read_record
from cran_bench.records.examples import Examples
from cran_bench.records.schema import CURVES, ERROR, EXAMPLES, Address, DataInfo, Failure, Record

Curves: TypeAlias = Mapping[str, Sequence[Mapping[str, float]]]
"""Points of training curves, by what was trained."""


@dataclass(frozen=True)
class Finished:
    """A finished run: its record, and its ranks, which are read when they are asked for."""

    record: Record
    read: Callable[[], Ranks]

    @cached_property
    def ranks(self) -> Ranks:
        """The integer ranks.

        Raises:
            BadInput: they are missing or not those of the record.
        """
        return self.read()


class ResultStore:
    """Records below a folder ``runs``."""

    def __init__(self, results: Path) -> None:
        self.root = results / "runs"

    def path(self, address: Address) -> Path:
        """The record's file."""
        return self._with(address, ".json")

    def path_of(self, record: Record) -> Path:
        """The file of a record that is stored here."""
        data, method = record.data.label, record.method.label
        return self.path(Address(data, record.protocol, record.folds, method, record.seed, record.fingerprint))

    def find(self, address: Address) -> Record | None:
        """The finished record at an address, or None where there is none or its ranks are missing or others.

        Raises:
            BadInput: it was changed by hand, is of a newer schema, or is damaged.
        """
        path = self.path(address)
        if not path.exists():
            return None
        record, file = read_record(path), path.with_suffix(".npz")
        if record.fingerprint != address.fingerprint:
            raise BadInput(f"{path} holds the record of another run (its fingerprint differs): delete it and run again")
        if not file.exists() or sha256_file(file) != record.ranks_sha:
            say(f"{file} is not what its record names; running again")
            return None
        return record

    def now(self, address: Address, data: DataInfo) -> str:
        """When a run starts: by the clock, but after the records of its cell, since the newest of them counts."""
        own, now = self.path(address), datetime.now(UTC).replace(microsecond=0)
        latest = now
        for path in own.parent.glob(f"{own.name.rpartition('-')[0]}-*.json"):
            if path != own and _ending(path.name) == ".json":
                with contextlib.suppress(BadInput, FileNotFoundError, ValueError, TypeError, OverflowError):
                    other = read_record(path)
                    if other.data.cell == data.cell:
                        latest = max(latest, datetime.fromisoformat(other.started) + timedelta(seconds=1))
        if latest > now:
            say(f"the clock says {now.isoformat()}, and a record of {address.method} is no older; counting from there")
        return latest.astimezone(UTC).isoformat()

    def write(
        self,
        address: Address,
        record: Record,
        ranks: Ranks,
        curves: Curves | None = None,
        examples: Examples | None = None,
    ) -> Record:
        """Store ranks, training curves, examples, then the record; a failure recorded earlier is removed."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **ranks.arrays())  # type: ignore[arg-type]
        data = buffer.getvalue()
        sealed = record.model_copy(update={"ranks_sha": sha256_bytes(data)}).sealed()
        write_atomically(self._with(address, ".npz"), lambda file: file.write(data))
        if curves:
            points = [{"trained": name, **point} for name, curve in curves.items() for point in curve]
            table = pd.DataFrame(points).to_csv(index=False, float_format="%.6g")
            write_text(self._with(address, CURVES), table)
        if examples:
            write_text(self._with(address, EXAMPLES), canonical_json(examples.model_dump(exclude_none=True)))
        write_json(self.path(address), sealed.model_dump())
        self._with(address, ERROR).unlink(missing_ok=True)
        return sealed

    def write_failure(self, address: Address, failure: Failure) -> None:
        """Store that a run failed, and how."""
        write_json(self._with(address, ERROR), failure.model_dump())

    def finished(self, address: Address, record: Record) -> Finished:
        """A record at an address, with its ranks to be read."""
        return Finished(record, partial(read_ranks, self.path(address), record))

    def runs(
        self, datasets: Sequence[str] = (), protocols: Sequence[str] = (), methods: Sequence[str] = ()
    ) -> list[Finished]:
        """Every finished run, or those of some datasets, protocols and methods, by their labels.

        Other records are not opened: the path says what a record is of.
        """
        chosen, found = (datasets, protocols, methods), []
        for path in self._paths(".json", *chosen):
            with contextlib.suppress(FileNotFoundError):  # taken away since, by another process
                record = read_record(path)
                if _is_of((record.data.label, record.protocol, record.method.label), chosen):
                    found.append(Finished(record, partial(read_ranks, path, record)))
        return found

    def failures(
        self, datasets: Sequence[str] = (), protocols: Sequence[str] = (), methods: Sequence[str] = ()
    ) -> list[Failure]:
        """Every recorded failure, or some of them, as `runs`."""
        chosen, found = (datasets, protocols, methods), []
        for path in self._paths(ERROR, *chosen):
            try:
                failure = Failure.model_validate_json(path.read_bytes())
            except FileNotFoundError:  # of a run that another process has just finished
                continue
            except ValidationError as error:
                raise BadInput(f"{path} is not an error record ({_first(error)}): delete it") from error
            if _is_of((failure.data.label, failure.protocol, failure.method_label), chosen):
                found.append(failure)
        return found

    def _paths(self, ending: str, *labels: Sequence[str]) -> list[Path]:
        """Files of that ending, in order, whose path fits one of the labels of each kind; none fits all."""
        datasets, protocols, methods = (set(map(slug, some)) for some in labels)
        found = []
        for place in sorted(self.root.glob("*/*/")):
            if datasets and place.parent.name not in datasets:
                continue
            if protocols and place.name.partition("-")[0] not in protocols:
                continue
            names = sorted(entry.name for entry in os.scandir(place) if _ending(entry.name) == ending)
            found += [place / name for name in names if not methods or name.rsplit("-s", 1)[0] in methods]
        return found

    def _with(self, address: Address, suffix: str) -> Path:
        stem = self.root / address.stem()
        return stem.with_name(stem.name + suffix)


def _ending(name: str) -> str:
    """``.json`` of a record, or the longer ending of what lies beside it."""
    return next((ending for ending in (EXAMPLES, CURVES, ERROR) if name.endswith(ending)), Path(name).suffix)


def _is_of(labels: Sequence[str], chosen: Sequence[Sequence[str]]) -> bool:
    return all(not some or label in some for label, some in zip(labels, chosen, strict=True))
