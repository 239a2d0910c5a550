"""``npy:FILE``: precomputed features of images, regions or captions, read from memory-mapped .npy files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from cran_bench.dataset import Collection
from cran_bench.errors import BadInput
from cran_bench.frontend.interfaces import (
    REGIONS,
    PrecomputedImages,
    PrecomputedRegions,
    PrecomputedTexts,
    RegionFeatures,
)
from cran_bench.machine.ledger import noted_sha256
from cran_bench.machine.progress import say
from cran_bench.machine.storage import map_array, remedy

REPEATS = 5
ROUNDING = 1e-4  # of an image's largest value, by which repeated rows may differ
_CHUNK = 1024


class _Rows:
    """The rows of a .npy file, each of an image or a caption; cached, as a collection is read in parts."""

    file: str
    ids: str | None
    dim: int
    axes: ClassVar[tuple[str, ...]] = ("rows", "dim")
    owner, repeats = "image", REPEATS

    def __post_init__(self) -> None:
        self._array = open_array(self.file, self.axes)
        self.dim = self._array.shape[-1]
        self._found: tuple[Sequence[str], NDArray[np.int64]] = (), np.zeros(0, np.int64)

    def identity(self) -> Mapping[str, Any]:
        return self._identity

    @cached_property
    def _identity(self) -> Mapping[str, Any]:
        given = {own.name: vars(self)[own.name] for own in fields(cast("Any", self)) if own.init}
        paths = {name: value and Path(value) for name, value in given.items()}
        files = {name: path and {"file": path.name, "sha256": noted_sha256(path)} for name, path in paths.items()}
        return {"name": "npy", **files}

    def _rows(self, owners: Sequence[str], part: range | None = None) -> NDArray[np.int64]:
        """The rows of all owners, or of those at the positions `part`."""
        if self._found[0] is not owners:
            self._found = owners, self._find(owners)
        return self._found[1] if part is None else self._found[1][part.start : part.stop]

    def _find(self, owners: Sequence[str]) -> NDArray[np.int64]:
        """The row of each owner; of five rows, equal up to rounding, the first."""
        array, owner = self._array, self.owner
        if self.ids is None:
            if len(array) == len(owners):
                say(f"{self.file} has no ids=FILE: its rows are taken to be {owners[0]} to {owners[-1]}, in order")
                return np.arange(len(owners))
            if self.repeats == 1 or len(array) != self.repeats * len(owners):
                five = " (or five equal rows)" if self.repeats > 1 else ""
                raise BadInput(
                    f"{self.file} has {len(array)} rows for {len(owners)} {owner}s; give one row{five} per {owner} in "
                    "the order of the collection, or name the rows with ids=FILE"
                )
            groups = np.arange(len(array)).reshape(-1, self.repeats)
        else:
            names = self._names()
            if len(names) != len(array):
                raise BadInput(
                    f"{self.ids} names {len(names)} {owner}s, but {self.file} has {len(array)} rows; "
                    + remedy(Path(self.ids), "write one line per row")
                )
            rows: dict[str, list[int]] = {}
            for row, name in enumerate(names):
                rows.setdefault(name, []).append(row)
            counts = set(map(len, rows.values()))
            if counts not in ({1}, {self.repeats}):
                repeated = max(rows, key=lambda name: len(rows[name]))
                five = f", or every {owner} five times" if self.repeats > 1 else ""
                raise BadInput(f"{self.ids} names {repeated} {max(counts)} times; name every {owner} once{five}")
            missing = [name for name in owners if name not in rows]
            if missing:
                raise BadInput(
                    f"{len(missing)} of {len(owners)} {owner}s have no row in {self.ids}, the first is {missing[0]}; "
                    f"use the dataset's {owner} ids, or compute the missing features"
                )
            groups = np.array([rows[name] for name in owners], np.int64).reshape(len(owners), counts.pop())
        for start in range(0, len(groups), _CHUNK):
            part = groups[start : start + _CHUNK]
            first = array[part[:, 0]]
            for k in range(1, groups.shape[1]):
                same = rows_agree(np.stack([first, array[part[:, k]]], axis=1))
                if not same.all():
                    a, b = part[int(same.argmin()), [0, k]]
                    raise BadInput(
                        f"{self.file}: rows {a} and {b} should belong to one {owner} but differ; name the rows with "
                        "ids=FILE"
                    )
        return groups[:, 0]

    def _names(self) -> list[str]:
        """The id of the image or caption of each row; nothing without `ids`."""
        return _read_ids(self.ids)


@dataclass
class NpyImages(_Rows, PrecomputedImages):
    """``npy:FILE[ids=FILE]``: features of whole images, (rows, dim).

    The text file `ids` gives the image id of each row, one per line.  Without it the file has one row per image of the
    collection, in its order.  In both cases every image may be repeated five times, once per caption, as in the files
    of VSE++.

    Attributes:
        file: path of the .npy file.
        ids: path of the text file of image ids, or None.
        dim: dimension of a feature.

    Raises:
        BadInput: a file is missing, unreadable or of the wrong shape.
    """

    file: str
    ids: str | None = None
    dim: int = field(init=False)

    def features(self, ids: Sequence[str], part: range | None = None) -> NDArray[np.float32]:
        """Return the features of all images of a collection, or of those at the positions `part`: (N, dim).

        Raises:
            BadInput: an image has no row, repeated rows of an image differ, or a value is not finite.
        """
        return _gather(self._array, self._rows(ids, part), self.file)


@dataclass
class NpyRegions(_Rows, PrecomputedRegions):
    """``npy:FILE[boxes=FILE,ids=FILE]``: region features (rows, R, dim) and boxes (rows, R, 4), best first.

    The first five regions are used; missing regions and regions of zero area are masked.  Rows are assigned to images
    as in `NpyImages`.

    Attributes:
        file: path of the .npy file of features.
        boxes: path of the .npy file of boxes, x0 y0 x1 y1 as fractions of width and height.
        ids: path of the text file of image ids, or None.
        dim: dimension of a feature.

    Raises:
        BadInput: a file is missing, unreadable or of the wrong shape.
    """

    file: str
    boxes: str
    ids: str | None = None
    dim: int = field(init=False)
    axes = ("rows", "regions", "dim")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._boxes = open_array(self.boxes, ("rows", "regions", "4"))
        expected = (*self._array.shape[:2], 4)
        if self._boxes.shape != expected:
            raise BadInput(f"{self.boxes} should have shape {expected} to match {self.file}, not {self._boxes.shape}")

    def regions(self, ids: Sequence[str], part: range | None = None) -> RegionFeatures:
        """Return the regions of all images of a collection, or of those at the positions `part`.

        Raises:
            BadInput: as for `NpyImages.features`, or boxes are not corners given as fractions.
        """
        rows = self._rows(ids, part)
        boxes = _gather(self._boxes[:, :REGIONS], rows, self.boxes)
        if boxes.min() < 0 or boxes.max() > 1:
            raise BadInput(
                f"{self.boxes} has values from {boxes.min():g} to {boxes.max():g}, but boxes are fractions from 0 to "
                "1: divide x by the image's width and y by its height"
            )
        if np.any(boxes[..., 2:] < boxes[..., :2]):
            raise BadInput(f"{self.boxes} has boxes with x1 < x0 or y1 < y0; write x0 y0 x1 y1, not width and height")
        return RegionFeatures.of(_gather(self._array[:, :REGIONS], rows, self.file), boxes)


@dataclass
class NpyTexts(_Rows, PrecomputedTexts):
    """``npy:FILE[ids=FILE]``: features of captions, (rows, dim), and of documents.

    Each line of the text file `ids` gives the caption of a row: the id of its image and its number there from 0,
    ``1000.jpg#0``, and after a tab, if it is to be checked, the caption itself.  Without it the file has one row per
    caption of the collection, in its order.  A line with the id alone, ``1000.jpg``, gives the feature of the image's
    document, which replaces the mean of its captions' features; all images have one, or none.

    Attributes:
        file: path of the .npy file.
        ids: path of the text file of captions, or None.
        dim: dimension of a feature.

    Raises:
        BadInput: a file is missing, unreadable or of the wrong shape.
    """

    file: str
    ids: str | None = None
    dim: int = field(init=False)
    owner, repeats = "caption", 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._of: Collection | None = None

    def features(self, collection: Collection, captions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the features of the captions of a collection at the positions `captions` (n,): (n, dim).

        Raises:
            BadInput: the rows are not those of its captions and documents, or a value is not finite.
        """
        if self._of is not collection:
            keys, texts = collection.caption_keys(), [*collection.captions]
            if count := self.documents(collection):
                keys += collection.images.ids
                texts += collection.texts_of(np.arange(count), "documents")[0]
            for row, key, caption in zip(self._rows(keys).tolist(), keys, texts, strict=True):
                told = self._lines[row][1].split() if self._lines else []
                if told and told != caption.split():
                    raise BadInput(
                        f"{self.ids}: {key} is '{' '.join(told)}', but in {collection.name} it is '{caption}'; "
                        "give features of these captions"
                    )
            self._keys, self._of = keys, collection
        return _gather(self._array, self._rows(self._keys)[captions], self.file)

    def documents(self, collection: Collection) -> int:
        names, owners = {name for name, _ in self._lines}, collection.images.ids
        without = [name for name in owners if name not in names]
        if 0 < len(without) < len(owners):
            raise BadInput(
                f"{self.ids} has no line {without[0]}, as of {len(without)} of {len(owners)} images, for its document: "
                "name the documents of all images, or none"
            )
        return 0 if without else len(owners)

    @cached_property
    def _lines(self) -> list[tuple[str, str]]:
        """The key and the caption, or '', of each row; nothing without `ids`."""
        parts = [line.partition("\t") for line in _read_ids(self.ids)]
        return [(key, told) for key, _, told in parts]

    def _names(self) -> list[str]:
        return [key for key, _ in self._lines]


def open_array(file: str, *layouts: tuple[str, ...]) -> NDArray[Any]:
    """Map a .npy file of numbers that has as many axes as one of the layouts.

    Raises:
        BadInput: the file is missing, or its contents are of another kind or shape.
    """
    try:
        array = map_array(Path(file))
    except FileNotFoundError:
        raise BadInput(f"there is no file {file}; give the path of a .npy array") from None
    except (OSError, ValueError) as error:
        usual = "write it with numpy.save"
        raise BadInput(f"{file} is not a numeric .npy array ({error}); {remedy(Path(file), usual)}") from error
    if array.ndim not in map(len, layouts) or array.dtype.kind not in "fiu" or not array.size:
        shape = " or ".join(f"({', '.join(axes)})" for axes in layouts)
        raise BadInput(f"{file} should hold numbers of shape {shape}, not {array.dtype} of shape {array.shape}")
    return array


def rows_agree(groups: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether the rows of each group (n, k, ...) are equal up to rounding: (n,)."""
    agree: NDArray[np.bool_] = (groups == groups[:, :1]).reshape(len(groups), -1).all(axis=1)
    for k in np.flatnonzero(~agree):
        rows = groups[k].astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinite values, which are reported later
            agree[k] = np.abs(rows - rows[0]).max() <= ROUNDING * np.abs(rows[0]).max()
    return agree


def _read_ids(file: str | None) -> list[str]:
    if file is None:
        return []
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise BadInput(f"there is no file {file}; it should hold one id per line, in the order of the rows") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} is not UTF-8 text ({error}); it should hold one id per line") from error
    names = [line.strip() for line in lines]
    return names[: len(names) - 1] if not names[-1] else names


def _gather(array: NDArray[Any], rows: NDArray[np.int64], file: str) -> NDArray[np.float32]:
    """Read `rows` of `array` as float32, in chunks, checking that every value is finite."""
    out = np.empty((len(rows), *array.shape[1:]), np.float32)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        with np.errstate(over="ignore"):
            out[part] = array[rows[part]]
        finite = np.isfinite(out[part]).reshape(len(out[part]), -1).all(axis=1)
        if not finite.all():
            row = rows[part][finite.argmin()]
            raise BadInput(f"{file}: row {row} has a value that is not a finite float32; regenerate the file")
    return out
