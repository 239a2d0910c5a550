"""``data``: precomputed features that come with a dataset instead of its images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cran_bench.dataset import Collection, ImageSource
from cran_bench.errors import BadInput
from cran_bench.frontend.interfaces import FULL_IMAGE, REGIONS, PrecomputedImages, PrecomputedRegions, RegionFeatures
from cran_bench.frontend.npy import open_array, rows_agree
from cran_bench.images import UnreadableImage
from cran_bench.machine.ledger import Ledger
from cran_bench.machine.storage import sha256_bytes

COMPARED = 64  # values of each row that show whether rows are repeated


@dataclass(frozen=True)
class FeatureFile:
    """A memory-mapped .npy file of image features, (rows, dim), or of region features, (rows, R, dim).

    Attributes:
        path: path of the file.
        array: the mapped array.
        repeats: number of consecutive rows of every image, equal up to rounding; the first is used.
        inode: number of the mapped file, as another one may have its path by now.
    """

    path: Path
    array: NDArray[Any]
    repeats: int = 1
    inode: int = 0

    @classmethod
    def open(cls, path: Path) -> FeatureFile:
        """Map a file.

        Raises:
            BadInput: the file is missing, or is not a numeric array with two or three axes.
        """
        if not path.is_file():
            raise BadInput(f"there is no {path.name} in {path.parent}")
        inode = path.stat().st_ino
        return cls(path, open_array(str(path), ("rows", "dim"), ("rows", "regions", "dim")), inode=inode)

    def __len__(self) -> int:
        return len(self.array) // self.repeats

    def repeated(self, repeats: int) -> int:
        """Return in how many groups of `repeats` rows the first values of all rows are equal up to rounding."""
        rows = self.array if self.array.ndim == 2 else self.array[:, 0]
        rows = rows[: len(rows) // repeats * repeats, :COMPARED]
        return int(rows_agree(rows.reshape(-1, repeats, rows.shape[1])).sum())

    def first_run(self) -> int:
        """Return how many rows at the front are equal to the first up to rounding, in all their values."""
        return next(
            (k for k in range(1, len(self.array)) if not rows_agree(self.array[None, [0, k]])[0]), len(self.array)
        )

    def rows(self, image: int) -> NDArray[Any]:
        """Return all rows of an image as stored: (repeats, dim) or (repeats, R, dim)."""
        rows: NDArray[Any] = self.array[image * self.repeats : (image + 1) * self.repeats]
        return rows

    def feature(self, image: int) -> NDArray[np.float32]:
        """Return the feature of an image: (dim,) or (R, dim) float32.

        Raises:
            BadInput: rows that should be identical differ, or a value is not finite.
        """
        rows, first = self.rows(image), image * self.repeats
        for k in range(1, len(rows)):
            if not rows_agree(rows[None, [0, k]])[0]:
                raise BadInput(
                    f"{self.path}: rows {first} and {first + k} belong to one image but differ; "
                    f"give one row per image, or {self.repeats} identical rows"
                )
        with np.errstate(over="ignore"):
            feature: NDArray[np.float32] = rows[0].astype(np.float32)
        if not np.isfinite(feature).all():
            raise BadInput(f"{self.path}: row {first} has a value that is not a finite float32; regenerate the file")
        return feature


class FeatureFiles(ImageSource):
    """N images of which only features are available.

    Args:
        ids: the N image ids.
        files: files of features that have the same shape except for the number of rows.
        places: for each image the index of its file in `files`, and the index of the image in that file.

    Raises:
        BadInput: the files have features of different shapes.
    """

    def __init__(self, ids: Sequence[str], files: Sequence[FeatureFile], places: Sequence[tuple[int, int]]) -> None:
        self.ids, self._files, self._places = ids, files, places
        self.shape: tuple[int, ...] = files[0].array.shape[1:]
        for file in files[1:]:
            if file.array.shape[1:] != self.shape:
                raise BadInput(
                    f"{file.path} has features of shape {file.array.shape[1:]}, but {files[0].path} of {self.shape}; "
                    "give files made with one network"
                )

    def read(self, row: int) -> Image.Image:
        """Raise UnreadableImage, as there are no images."""
        raise UnreadableImage(f"{self.ids[row]} has precomputed features but no image")

    def digest(self, row: int) -> str:
        file, image = self._places[row]
        rows = self._files[file].rows(image)
        return sha256_bytes(rows.dtype.str.encode() + rows.tobytes())

    def digests(self, ledger: Ledger) -> Iterator[str]:
        if type(self).digest is not FeatureFiles.digest:  # of a subclass, which may take more into account
            return super().digests(ledger)
        stats = [file.path.stat() for file in self._files]
        mapped = [s if s.st_ino == f.inode else None for f, s in zip(self._files, stats, strict=True)]
        keys = [f"{(f := self._files[file]).path.name} {f.repeats}*{k}" for file, k in self._places]
        return ledger.digests(self._files[0].path.parent, keys, (mapped[file] for file, _ in self._places), self.digest)

    def feature(self, row: int) -> NDArray[np.float32]:
        """Return the feature of an image: (dim,) or (R, dim) float32.

        Raises:
            BadInput: as for `FeatureFile.feature`.
        """
        file, image = self._places[row]
        return self._files[file].feature(image)

    def identity(self) -> dict[str, Any]:
        """Return the names and shapes of the files; their contents are covered by the digests of the images."""
        return {"name": "data", "files": {file.path.name: list(file.array.shape) for file in self._files}}


def _features_of(collection: Collection | None) -> FeatureFiles:
    if collection is None or not isinstance(collection.images, FeatureFiles):
        name = "this dataset" if collection is None else collection.name
        raise BadInput(f"{name} has images but no precomputed features; choose pixels or another backbone")
    return collection.images


@dataclass
class DataImages(PrecomputedImages):
    """The dataset's own global features; the mean over all regions if it has only region features."""

    source: FeatureFiles

    @classmethod
    def of(cls, collection: Collection | None) -> DataImages:
        """The features of a collection.

        Raises:
            BadInput: the collection has images, not features.
        """
        return cls(_features_of(collection))

    def __post_init__(self) -> None:
        self.dim = self.source.shape[-1]

    def identity(self) -> Mapping[str, Any]:
        return self.source.identity()

    def features(self, ids: Sequence[str], part: range | None = None) -> NDArray[np.float32]:
        rows = range(len(ids)) if part is None else part
        means = [self.source.feature(row).reshape(-1, self.dim).mean(axis=0) for row in rows]
        return np.array(means, np.float32).reshape(-1, self.dim)


@dataclass
class DataRegions(PrecomputedRegions):
    """The first five regions of each image; as the dataset has no boxes, each box is the whole image."""

    source: FeatureFiles

    @classmethod
    def of(cls, collection: Collection) -> DataRegions | None:
        """The regions of a collection; None if it has features of whole images only.

        Raises:
            BadInput: the collection has images, not features.
        """
        source = _features_of(collection)
        return cls(source) if len(source.shape) == 2 else None

    def __post_init__(self) -> None:
        self.dim = self.source.shape[-1]

    def identity(self) -> Mapping[str, Any]:
        return self.source.identity()

    def regions(self, ids: Sequence[str], part: range | None = None) -> RegionFeatures:
        rows = range(len(ids)) if part is None else part
        count = min(REGIONS, self.source.shape[0])
        features = np.zeros((len(rows), count, self.dim), np.float32)
        for place, row in enumerate(rows):
            features[place] = self.source.feature(row)[:count]
        return RegionFeatures.of(features, np.tile(np.array(FULL_IMAGE, np.float32), (len(rows), count, 1)))
