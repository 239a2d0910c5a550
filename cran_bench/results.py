"""Result records: one JSON file and one file of integer ranks per run, content-addressed, whole or absent."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_magic
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)
from pydantic_core import from_json

from cran_bench.errors import BadInput, first_wrong
from cran_bench.examples import Examples
from cran_bench.progress import say
from cran_bench.protocols import Protocol, Unit
from cran_bench.ranks import Metrics, Ranks
from cran_bench.storage import (
    canonical_json,
    sha256_bytes,
    sha256_file,
    sha256_json,
    write_atomically,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
EXAMPLES, CURVES, ERROR = ".examples.json", ".curves.csv", ".error.json"  # endings beside a record, or in its place

EVERY_FIGURE = frozenset(("rsum", *(figure.name for figure in fields(Metrics))))

Curves: TypeAlias = Mapping[str, Sequence[Mapping[str, float]]]
"""Points of training curves, by what was trained."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Growing(_Strict):
    """Written without fields that records of before did not have, so that their checksums hold."""

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}


class DataInfo(_Growing):
    """What was ranked: the test split and the features it was seen through.

    Attributes:
        features_sha: of the arrays, byte by byte, which another processor or number of threads rounds otherwise.
        sources_sha: of what they were made of: images, ids, backbone and proposer; '' in records of before.
    """

    label: str
    quick: bool
    split_sha: str
    images: int
    captions: int
    front_end: str
    features_sha: str
    vectors: str
    sources_sha: str = ""

    @property
    def cell(self) -> tuple[str, bool, str, str, str, str]:
        """What tables keep apart."""
        made_of = self.sources_sha or self.features_sha
        return self.label, self.quick, self.front_end, self.vectors, self.split_sha, made_of


class MethodInfo(_Strict):
    """What ranked it."""

    label: str
    name: str
    preset: str
    paper_row: str | None
    parameters: dict[str, Any]
    chose: dict[str, Any]
    unit: Unit
    code_sha: str
    fit_fingerprint: str


class Seconds(_Strict):
    """Wall-clock seconds per phase; `features` and `fit` are those of the run that made them, also where reused."""

    features: float
    fit: float
    embed: float
    similarity: float
    rank: float


class SimilarityInfo(_Growing):
    """How pairs were scored, see `cran_bench.counting.Kernel`."""

    name: str
    kernel: str
    dtype: str
    bound: str = "exact"
    tolerance: float = 0.0
    rescored: int = 0
    error: float = 0.0


class Record(_Strict):
    """One run: dataset x protocol x method x preset x seed.

    Attributes:
        metrics: recalls in percent, ranks from 1, `rsum`, and `twin_accuracy` in percent where the data has twins.
        ties: queries whose rank depends on the order of ties.
        folds: 0 for the whole test split, else the number of folds `metrics` is the mean of.
        device: cpu or cuda, where it was embedded and ranked.
        peak_memory: largest resident set of the process up to this run, bytes.
        ranks_sha: sha256 of the file of ranks beside this one.
        checksum: sha256 of this record without the field itself.
    """

    schema_version: int = SCHEMA
    fingerprint: str
    data: DataInfo
    method: MethodInfo
    protocol: Protocol
    folds: int
    seed: int
    metrics: dict[str, float]
    ties: int
    seconds: Seconds
    similarity: SimilarityInfo
    device: str
    peak_memory: int
    environment: dict[str, Any]
    started: str
    ranks_sha: str
    checksum: str = ""

    @field_validator("metrics")
    @classmethod
    def _has_every_figure(cls, metrics: dict[str, float]) -> dict[str, float]:
        absent = EVERY_FIGURE - metrics.keys()
        if absent:
            raise ValueError(f"there is no {min(absent)}")
        return metrics

    def sealed(self) -> Record:
        """The same record with its checksum."""
        return self.model_copy(update={"checksum": self._sum()})

    def _sum(self) -> str:
        return sha256_json(self.model_dump(exclude={"checksum"}))


class Failure(_Strict):
    """A run that ended with an error; shown in tables, tried again next time."""

    schema_version: int = SCHEMA
    kind: Literal["failure"] = "failure"
    data: DataInfo
    method_label: str
    protocol: Protocol
    folds: int
    seed: int
    error: str
    traceback: str
    started: str
    environment: dict[str, Any]


@dataclass(frozen=True)
class Address:
    """Where a run's files lie: ``<dataset>/<protocol>/<method>-s<seed>-<fingerprint>``."""

    dataset: str
    protocol: Protocol
    folds: int
    method: str
    seed: int
    fingerprint: str

    def stem(self) -> Path:
        """Relative path without suffix."""
        folds = f"-{self.folds}folds" if self.folds else ""
        name = f"{_slug(self.method)}-s{self.seed}-{self.fingerprint[:12]}"
        return Path(_slug(self.dataset)) / f"{self.protocol}{folds}" / name


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
            import pandas as pd

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
        datasets, protocols, methods = (set(map(_slug, some)) for some in labels)
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


def read_record(path: Path) -> Record:
    """Read and verify a record.

    Raises:
        BadInput: it is damaged, of a newer schema, or was changed after it was written.
    """
    try:
        raw = from_json(path.read_bytes(), allow_inf_nan=False)
        schema = raw.get("schema_version")
    except (ValueError, AttributeError) as error:
        raise BadInput(f"{path} is not a record ({error}): delete it and run again") from error
    if isinstance(schema, int) and schema > SCHEMA:
        raise BadInput(f"{path} has schema {schema}, this version reads up to {SCHEMA}: upgrade cran-bench")
    try:
        record = Record.model_validate(raw)
        own_sum = sha256_json({key: value for key, value in raw.items() if key != "checksum"})
    except ValidationError as error:
        raise BadInput(f"{path} is not a record ({_first(error)}): delete it and run again") from error
    except (ValueError, RecursionError) as error:  # a number beyond all bounds
        raise BadInput(f"{path} is not a record ({error}): delete it and run again") from error
    if record.checksum != own_sum:
        raise BadInput(
            f"{path} was changed after it was written (its checksum does not match): delete it and run again, "
            "or run with --force"
        )
    return record


def read_ranks(path: Path, record: Record) -> Ranks:
    """The integer ranks beside a record.

    Raises:
        BadInput: they are missing or not those of the record.
    """
    file = path.with_suffix(".npz")
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{file} is missing beside its record: run again with --force") from None
    if sha256_bytes(data) != record.ranks_sha:
        raise BadInput(f"{file} is not the file its record names (sha256 differs): run again with --force")
    try:
        return Ranks.from_arrays(_unpacked(data, max(record.data.images, record.data.captions)))
    except Exception as error:  # zipfile and numpy raise many kinds for a damaged file
        raise BadInput(f"{file} holds no ranks ({error}): run again with --force") from error


def read_examples(path: Path) -> Examples | None:
    """The example queries beside a record, or None where it has none.

    Raises:
        BadInput: they are damaged.
    """
    file = path.with_name(path.stem + EXAMPLES)
    if not file.exists():
        return None
    try:
        return Examples.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise BadInput(f"{file} holds no example queries ({_first(error)}): delete it") from error


def read_curves(path: Path) -> pd.DataFrame | None:
    """The training curves beside a record, a line per point with what was `trained`, or None where it has none.

    Raises:
        BadInput: they are damaged.
    """
    import pandas as pd

    file = path.with_name(path.stem + CURVES)
    if not file.exists():
        return None
    try:
        found = pd.read_csv(file)
        return found[["trained"]].join(found.drop(columns="trained").apply(pd.to_numeric))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise BadInput(f"{file} holds no training curves ({error}): delete it") from error


def _ending(name: str) -> str:
    """``.json`` of a record, or the longer ending of what lies beside it."""
    return next((ending for ending in (EXAMPLES, CURVES, ERROR) if name.endswith(ending)), Path(name).suffix)


def _is_of(labels: Sequence[str], chosen: Sequence[Sequence[str]]) -> bool:
    return all(not some or label in some for label, some in zip(labels, chosen, strict=True))


def _slug(label: str) -> str:
    """A label as a file name: ``cran:paper[top=5]`` -> ``cran-paper-top-5``."""
    slug = "-".join(filter(None, "".join(c if c.isalnum() or c in "._" else "-" for c in label).split("-")))
    return slug.lstrip(".") or "unnamed"  # `..` would be another folder


def _first(error: ValidationError) -> str:
    return first_wrong(error, "record")


def _unpacked(data: bytes, most: int) -> dict[str, NDArray[np.int32]]:
    """The arrays of a file of ranks, each of at most `most` integers; what claims to be larger is not unpacked.

    Raises:
        ValueError: one is larger, or holds something else.  zipfile and numpy raise many other kinds.
    """
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in Ranks.ARRAYS:
            member = archive.getinfo(f"{name}.npy")
            if member.file_size > 4 * most + 1000:
                raise ValueError(f"{name} has {member.file_size:,} bytes for at most {most:,} integers")
            unpacked = archive.read(member)
            start = 10 + int.from_bytes(unpacked[8:10], "little")
            shape, dtype = _header(unpacked[:start])
            array = np.frombuffer(unpacked, dtype, offset=start)
            if array.shape != shape or dtype != np.int32:
                raise ValueError(f"{name} is no list of 32-bit integers")
            arrays[name] = array.copy()
    return arrays


@lru_cache(maxsize=64)
def _header(text: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type in the header of a .npy file; hundreds of files have the same few."""
    file = io.BytesIO(text)
    read_magic(file)
    shape, _, dtype = read_array_header_1_0(file)
    return shape, dtype
