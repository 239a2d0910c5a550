"""Readers of records and of the files beside them, verified by checksums."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_magic
from numpy.typing import NDArray
from pydantic import ValidationError
from pydantic_core import from_json

from cran_bench.dataset import CATEGORIES_UP_TO
from cran_bench.errors import BadInput, first_wrong
from cran_bench.judgments import MOST_JUDGED
from cran_bench.machine.storage import read_bounded, sha256_bytes, sha256_json
from cran_bench.protocols import fold_rows
from cran_bench.ranking.metrics import Ranks, mean_metrics
from cran_bench.ranking.precisions import Precisions
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.records.examples import TOP, Answers, Examples
from cran_bench.records.schema import ANSWERS, CURVES, EXAMPLES, SCHEMA, Failure, Record
from cran_bench.records.tasks import evidence_metrics, tasks_of

MOST_ARRAYS = 500  # of contrasts and judgments
MOST_TEXT = 1 << 25  # bytes of a record, of examples and of curves
MOST_RANKS = 1 << 29  # bytes of all arrays of ranks
CLOSE = 1e-9  # relative; sums are rounded differently on other machines


def read_record(path: Path) -> Record:
    """Read a record and verify its checksum.

    Raises:
        BadInput: the record is damaged, unreadable, of a newer schema, or was changed after it was written.
        FileNotFoundError: there is no such file.
    """
    raw = _values(path, "a record", "delete it and run again")
    try:
        record = Record.model_validate(raw)
        own_sum = sha256_json({key: value for key, value in raw.items() if key != "checksum"})
    except (ValueError, RecursionError) as error:  # pydantic's, a number out of range, or too deep nesting
        raise BadInput(f"{path} is not a record ({first_wrong(error, 'record')}): delete it and run again") from error
    if record.checksum != own_sum:
        raise BadInput(
            f"{path} was changed after it was written (its checksum does not match): delete it and run again, "
            "or run with --force"
        )
    return record


def read_failure(path: Path) -> Failure:
    """Read an error record.

    Raises:
        BadInput: it is damaged, unreadable or of a newer schema.
        FileNotFoundError: there is no such file.
    """
    raw = _values(path, "an error record", "delete it")
    try:
        return Failure.model_validate({**raw, "path": path})
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not an error record ({first_wrong(error, 'record')}): delete it") from error


def _values(path: Path, kind: str, cure: str) -> dict[str, Any]:
    """The JSON object in a file of the present schema or an older one."""
    try:
        values: dict[str, Any] = from_json(read_bounded(path, MOST_TEXT), allow_inf_nan=False)
        schema = values.get("schema_version")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}; give read access or move it away") from error
    except (ValueError, AttributeError) as error:
        raise BadInput(f"{path} is not {kind} ({error}): {cure}") from error
    if isinstance(schema, int) and schema > SCHEMA:
        raise BadInput(f"{path} has schema {schema}, but this version reads schemas up to {SCHEMA}: upgrade cran-bench")
    return values


def read_ranks(path: Path, record: Record, correlations: bool = False) -> RecordedRanks:
    """Read the ranks beside a record, with the answers to contrasts and judgments, and verify the record's figures.

    Args:
        path: the record's file.
        record: its content.
        correlations: whether to verify correlations with people's ratings too, which takes longer than all else.

    Raises:
        BadInput: the file is missing, unreadable or does not belong to the record, or a figure of the record is not
            that of the ranks.
    """
    file = path.with_suffix(".npz")
    try:
        data = read_bounded(file, MOST_RANKS)
    except FileNotFoundError:
        raise BadInput(f"{file} is missing beside its record: run again with --force") from None
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}; give read access") from error
    if sha256_bytes(data) != record.ranks_sha:
        raise BadInput(f"{file} is not the file its record names (sha256 differs): run again with --force")
    try:
        ranks = RecordedRanks.from_arrays(_unpacked(data, max(record.data.images, record.data.captions)))
        wrong = _wrong_figure(record, ranks, correlations)
    except Exception as error:  # zipfile and numpy raise many types for a damaged file
        raise BadInput(f"{file} holds no ranks ({error}): run again with --force") from error
    if wrong:
        raise BadInput(f"{path} is damaged: {wrong}: run again with --force")
    return ranks


def _wrong_figure(record: Record, ranks: RecordedRanks, correlations: bool) -> str:
    """What shows that a record is not of these ranks; '' if nothing does.

    Twin accuracy does not follow from ranks.
    """
    data, images, texts = record.data, len(ranks.i2t.better), len(ranks.image_of)
    ranked = data.images - data.images % max(1, record.folds)  # folds leave the last images over
    asked = data.captions if record.protocol == "captions" else ranked
    if images != ranked or texts > asked or (texts < asked and ranked == data.images):
        of_data = f"{data.images:,} images and {data.captions:,} captions"
        return f"its data has {of_data}, but its ranks are of {images:,} images and {texts:,} texts"
    parts = [ranks.of_images(rows) for rows in fold_rows(images, record.folds)] if record.folds else [ranks]
    found = mean_metrics([part.metrics() for part in parts]).values() | evidence_metrics(ranks, correlations)
    found |= ranks.precisions.figures(record.folds) if ranks.precisions else {}
    found["number of ties"] = ranks.ties()
    rated = {name for task in tasks_of("judgments", ranks) for name in task.rated if not correlations}
    for name, value in {**record.metrics, "number of ties": record.ties}.items():
        if name == "twin_accuracy":
            if not 0 <= value <= 100:
                return f"its {name} is {value:.10g}, and not from 0 to 100"
        elif name not in rated:
            if name not in found:
                return f"its ranks give no {name}"
            if not math.isclose(value, found[name], rel_tol=CLOSE, abs_tol=CLOSE):
                return f"its {name} is {value:.10g}, but its ranks give {found[name]:.10g}"
    return ""


def read_examples(path: Path) -> Examples | None:
    """Read the example queries beside a record, or return None if there are none.

    Raises:
        BadInput: the file is damaged.
    """
    file = path.with_name(path.stem + EXAMPLES)
    if (data := _beside(file, MOST_TEXT)) is None:
        return None
    try:
        return Examples.model_validate_json(data)
    except ValidationError as error:
        raise BadInput(f"{file} holds no example queries ({first_wrong(error, 'record')}): delete it") from error


def read_answers(path: Path, record: Record) -> Answers | None:
    """Read the best answers beside a record, or return None if there are none.

    Raises:
        BadInput: the file is damaged or does not belong to the record.
    """
    file = path.with_name(path.stem + ANSWERS)
    images = record.data.images
    texts = record.data.captions if record.protocol == "captions" else images
    if (data := _beside(file, MOST_RANKS)) is None:
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            most = TOP * max(images, texts)
            arrays = {name: _array(archive, name, np.int32, most, 4 * most, (TOP,)) for name in ("i2t", "t2i")}
        return Answers.from_arrays(arrays, images, texts)
    except Exception as error:  # zipfile and numpy raise many types for a damaged file
        raise BadInput(f"{file} holds no answers ({error}): delete it") from error


def read_curves(path: Path) -> list[dict[str, Any]]:
    """Read the points of the training curves beside a record; none if there are none.

    Returns:
        The name of the curve as `trained`, and numbers by name, NaN if not recorded.

    Raises:
        BadInput: the file is damaged.
    """
    file, points = path.with_name(path.stem + CURVES), []
    if (data := _beside(file, MOST_TEXT)) is None:
        return []
    try:
        for row in csv.DictReader(data.decode().splitlines(), strict=True):
            points.append({"trained": row.pop("trained"), **{name: float(row[name] or "nan") for name in row}})
        if not points:
            raise ValueError("it is empty")
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise BadInput(f"{file} holds no training curves ({error}): delete it") from error
    return points


def _beside(file: Path, most: int) -> bytes | None:
    """The content of a file beside a record; None if there is none."""
    try:
        return read_bounded(file, most)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}; give read access or delete it") from error


def _unpacked(data: bytes, most: int) -> dict[str, NDArray[Any]]:
    """Unpack the arrays of a file of ranks, each of at most `most` numbers, or as many as there can be contrasts.

    Those of precisions, contrasts and judgments may be absent.

    Raises:
        ValueError: an array is larger (it is not unpacked) or of another type.  zipfile and numpy raise many other
            types.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        kinds = dict.fromkeys(Ranks.ARRAYS, np.int32)
        if "labels.npy" in archive.namelist():
            kinds |= Precisions.ARRAYS
        judged = RecordedRanks.types(name.removesuffix(".npy") for name in archive.namelist())
        if len(judged) > MOST_ARRAYS:
            raise ValueError(f"it has {len(judged)} arrays of judgments")
        kinds |= judged
        if (total := sum(archive.getinfo(f"{name}.npy").file_size for name in kinds)) > MOST_RANKS:
            raise ValueError(f"its arrays have {total:,} bytes, more than {MOST_RANKS:,}")
        for name, kind in kinds.items():
            size = np.dtype(kind).itemsize * (MOST_JUDGED if name in judged else most)
            size = CATEGORIES_UP_TO * (most // 8 + 1) if name == "labels" else size
            arrays[name] = _array(archive, name, kind, most, size)
    return arrays


def _array(
    archive: zipfile.ZipFile, name: str, kind: Any, most: int, size: int, row: tuple[int, ...] = ()
) -> NDArray[Any]:
    """Unpack an array of `most` numbers in `size` bytes, at most, of a type and with rows of a shape."""
    member = archive.getinfo(f"{name}.npy")
    if member.file_size > min(size, MOST_RANKS) + 1000:
        raise ValueError(f"{name} has {member.file_size:,} bytes for at most {most:,} numbers")
    unpacked = archive.read(member)
    start = 10 + int.from_bytes(unpacked[8:10], "little")
    shape, dtype = _header(unpacked[:start])
    array = np.frombuffer(unpacked, dtype, offset=start)
    if array.size != math.prod(shape) or len(shape) != 1 + len(row) or shape[1:] != row or dtype != kind:
        raise ValueError(f"{name} is not a list of {np.dtype(kind).name}")
    return array.reshape(shape).copy()


@lru_cache(maxsize=64)
def _header(text: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype in the header of a .npy file; hundreds of files share a few headers."""
    file = io.BytesIO(text)
    read_magic(file)
    shape, _, dtype = read_array_header_1_0(file)
    return shape, dtype
