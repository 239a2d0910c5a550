"""Readers for arrays in .mat, .npz and .npy files, and checks of what they hold: features, categories, ids."""

from __future__ import annotations

import io
import math
import os
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence, Sized
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import read_array, read_array_header_1_0, read_array_header_2_0, read_magic
from numpy.typing import NDArray
from scipy import sparse
from scipy.io import loadmat, whosmat
from scipy.io.matlab import matfile_version

from cran_bench import BadInput, first_of

from ._annotations import LFS

MATRIX, COMPRESSED = 14, 15
TYPES = {*range(1, 8), 9, 12, 13, MATRIX, COMPRESSED, 16, 17, 18}
"""The types of elements in MATLAB files of version 5."""
NUMERIC = {"double", "single", "logical", "sparse", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64))}
"""MATLAB's types of numbers, as scipy names them."""


class FileArray(NamedTuple):
    """An array in a file.

    Attributes:
        path: the file.
        name: name of the array there.
        values: the array.
        inode: number of the file that was read.
    """

    path: Path
    name: str
    values: NDArray[Any]
    inode: int = 0

    @property
    def place(self) -> str:
        """The file and the name, as in ``train_img.mat (train_img)``."""
        return f"{self.path} ({self.name})"

    def numbers(self) -> NDArray[Any]:
        """Return the array.

        Raises:
            BadInput: it does not hold real numbers.
        """
        if self.values.dtype.kind not in "fiub":
            raise BadInput(f"{self.place} holds {self.values.dtype}; save it as a matrix of real numbers")
        return self.values

    def words(self) -> list[str]:
        """Return an array of text (n,) as a list.

        Raises:
            BadInput: it is no such array.
        """
        if self.values.dtype.kind != "U" or self.values.ndim != 1:
            found = f"{self.values.dtype} of shape {self.values.shape}"
            raise BadInput(f"{self.place} holds {found}; save it as a one-dimensional array of text")
        return [str(word) for word in self.values]

    def features(self) -> FileArray:
        """Return the array as (n, dim) float32.

        Raises:
            BadInput: it has another shape, or a value is not finite.
        """
        values = self.numbers()
        if values.ndim != 2 or not values.size:
            raise BadInput(f"{self.place} has the shape {values.shape}; features have the shape (pairs, dim)")
        with np.errstate(over="ignore"):
            rows = values.astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise BadInput(
                f"{self.place}: {len(bad)} of {len(rows)} rows have a value that is not a finite float32, the first is "
                f"row {bad[0]} (from 0); compute these features again, or leave the pairs out of all files"
            )
        return self._replace(values=rows)

    def integers(self) -> NDArray[np.int64]:
        """Return whole numbers (n,), or rows of zeros and ones (n, C).

        Raises:
            BadInput: the array has another shape or other values.
        """
        values = self.numbers()
        values = values.reshape(-1) if values.ndim == 2 and 1 in values.shape else values
        is_whole = values.ndim in (1, 2) and values.size and np.array_equal(values, np.rint(values))
        if not is_whole or not 0 <= values.min() <= values.max() <= (1e9 if values.ndim == 1 else 1):
            raise BadInput(
                f"{self.place} holds {values.dtype} of shape {values.shape}; expected a whole number from 0 for each "
                "pair, or rows of zeros and ones (all zeros where a pair has no category)"
            )
        return values.astype(np.int64)


def read_arrays(stem: Path, names: Sequence[str], dataset: str) -> dict[str, FileArray]:
    """Read arrays from ``stem.mat``, ``stem.npz`` or, if it is one array, ``stem.npy``.

    If one array is wanted and the file has one only, its name does not matter.

    Args:
        stem: path of the file without its ending.
        names: the arrays.
        dataset: name of the dataset, to say how its files are listed.

    Raises:
        BadInput: there is no such file, it cannot be read, or an array is missing.
    """
    path = first_of(stem.parent, *(stem.name + ending for ending in endings(names)))
    if path is None:
        raise BadInput(
            f"there is no {stem.name}{' or '.join(endings(names))} in {stem.parent}: pass --data DIR or set "
            f"CRAN_BENCH_DATA; cran-bench prepare {dataset} --check lists the files"
        )
    try:
        with path.open("rb") as file:
            inode, head = os.fstat(file.fileno()).st_ino, file.read(128)
        if head.startswith(LFS):
            raise BadInput(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull in its repository")
        if head.startswith((b"MATLAB 7.3", b"\x89HDF")):
            raise BadInput(
                f"{path} is a MATLAB file of version 7.3, which is HDF5: save it again in MATLAB with -v7, or write "
                f"{', '.join(names)} to {stem.name}.npz with numpy.savez"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of arrays that are there twice, of which the last counts
            found = _read(path, names)
    except BadInput:
        raise
    except Exception as error:  # damaged files raise errors of many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"{path} cannot be read ({reason}): it is cut short, damaged, too old or holds Python objects; copy it "
            "again, save it in MATLAB with -v7, or write its arrays with numpy.savez"
        ) from None
    if len(names) == 1 and len(found) == 1:
        found = {names[0]: next(iter(found.values()))}
    if absent := [name for name in names if name not in found]:
        there = ", ".join(sorted(found)) or "nothing"
        raise BadInput(f"{path} has no array {' and no '.join(absent)}, but {there}; save it under that name")
    arrays = {name: found[name].toarray() if sparse.issparse(found[name]) else found[name] for name in names}
    return {name: FileArray(path, name, values, inode) for name, values in arrays.items()}


def endings(names: Sequence[str]) -> tuple[str, ...]:
    """Return the endings that a file of these arrays may have."""
    return (".mat", ".npz", ".npy") if len(names) == 1 else (".mat", ".npz")


def _read(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """The arrays of a file by their names; None for those that are not wanted."""
    if path.suffix == ".npy":
        return {names[0]: _read_npy(path.read_bytes())}
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            there = [name.removesuffix(".npy") for name in archive.namelist()]
            wanted = _wanted(there, names)
            return {name: _read_npy(archive.read(f"{name}.npy")) if name in wanted else None for name in there}
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        if matfile_version(path)[0] != 1:
            raise ValueError("it is of version 4")
        _check_elements(data, 128, len(data), "<" if data[126:128] == b"IM" else ">")
    kinds = {name: kind for name, _, kind in whosmat(path) if not name.startswith("__")}
    wanted = _wanted([*kinds], names)
    if other := [name for name in wanted if kinds[name] not in NUMERIC]:
        kind = kinds[other[0]]
        raise BadInput(f"{path} ({other[0]}) is of MATLAB's type {kind}; save it as a matrix of real numbers")
    read = loadmat(path, variable_names=wanted)
    return {name: read.get(name) for name in kinds}


def _read_npy(data: bytes) -> NDArray[Any]:
    """The array in the bytes of a .npy file.

    Raises:
        ValueError: its header claims more than there is, or it holds Python objects.  numpy raises other types.
    """
    file = io.BytesIO(data)
    header = read_array_header_1_0 if read_magic(file) == (1, 0) else read_array_header_2_0
    shape, _, dtype = header(file)
    if math.prod(shape) * dtype.itemsize > len(data):
        raise ValueError(f"its header claims {dtype} of shape {shape} in {len(data):,} bytes")
    file.seek(0)
    array: NDArray[Any] = read_array(file, allow_pickle=False)
    return array


def _check_elements(data: mmap, start: int, end: int, order: str) -> None:
    """Check types and sizes of the elements in a MATLAB file between two places, before scipy trusts them.

    Raises:
        ValueError: a type is unknown, at which scipy would end the process, or an element does not end.
    """
    while start + 8 <= end:
        kind, size = struct.unpack_from(f"{order}II", data, start)
        is_small, kind = kind >> 16, kind & 0xFFFF
        if kind not in TYPES:
            raise ValueError(f"there is an element of the unknown type {kind} at byte {start}")
        if not is_small and start + 8 + size > end:
            raise ValueError(f"the element at byte {start} claims {size:,} bytes")
        if kind == MATRIX:
            _check_elements(data, start + 8, start + 8 + size, order)
        start += 8 if is_small else 8 + size + (0 if kind == COMPRESSED else -size % 8)


def _wanted(there: Sequence[str], names: Sequence[str]) -> list[str]:
    return [name for name in there if name in names or len(there) == len(names) == 1]


def check_rows(images: FileArray, others: Mapping[str, Sized]) -> None:
    """Check that there are as many texts, categories and ids as images.

    Args:
        images: features of the images.
        others: the other arrays, by their names.

    Raises:
        BadInput: there are not.
    """
    count, width = images.values.shape
    for name, rows in others.items():
        if len(rows) != count:
            advice = "are its rows and columns exchanged?" if len(rows) == width else "row k of each is of pair k"
            raise BadInput(f"{images.place} has {count} rows, but {name} has {len(rows)}; {advice}")


def stacked(tables: Sequence[FileArray]) -> NDArray[np.float32]:
    """Stack tables of features, one below the other.

    Raises:
        BadInput: their dimensions differ.
    """
    first = tables[0]
    for table in tables:
        if table.values.shape[1] != first.values.shape[1]:
            raise BadInput(
                f"{table.place} has {table.values.shape[1]} columns, but {first.place} has {first.values.shape[1]}; "
                "give features of one kind"
            )
    return first.values if len(tables) == 1 else np.concatenate([table.values for table in tables])
