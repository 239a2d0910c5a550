"""Reading records and what lies beside them, verified by their checksums."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.format import read_array_header_1_0, read_magic
from numpy.typing import NDArray
from pydantic import (
    ValidationError,
)
from pydantic_core import from_json

from cran_bench.errors import BadInput, first_wrong
from cran_bench.machine.storage import (
    sha256_bytes,
    sha256_json,
)
from cran_bench.ranking.metrics import Ranks
from cran_bench.records.examples import Examples
from cran_bench.records.schema import CURVES, EXAMPLES, SCHEMA, Record


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
    file = path.with_name(path.stem + CURVES)
    if not file.exists():
        return None
    try:
        found = pd.read_csv(file)
        return found[["trained"]].join(found.drop(columns="trained").apply(pd.to_numeric))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise BadInput(f"{file} holds no training curves ({error}): delete it") from error


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
            file = io.BytesIO(unpacked)
            read_magic(file)
            shape, _, dtype = read_array_header_1_0(file)
            array = np.frombuffer(unpacked, dtype, offset=file.tell())
            if array.shape != shape or dtype != np.int32:
                raise ValueError(f"{name} is no list of 32-bit integers")
            arrays[name] = array.copy()
    return arrays
