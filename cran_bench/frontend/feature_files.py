"""``data``: features that come with a dataset in place of its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cran_bench.dataset import Collection, ImageSource
from cran_bench.errors import BadInput
from cran_bench.frontend.interfaces import FULL_IMAGE, REGIONS, PrecomputedImages, PrecomputedRegions, RegionFeatures
from cran_bench.frontend.npy import open_array
from cran_bench.images import UnreadableImage
from cran_bench.machine.storage import sha256_bytes


@dataclass(frozen=True)
class FeatureFile:
    """A memory-mapped array, (rows, dim) of images or (rows, R, dim) of their regions.

    Attributes:
        path: of the .npy file.
        array: what it holds.
        repeats: rows of every image, one after the other and all alike.
    """

    path: Path
    array: NDArray[Any]
    repeats: int = 1

    @classmethod
    def open(cls, path: Path) -> FeatureFile:
        """Map a file.

        Raises:
            BadInput: it is missing, or no array of numbers with two or three axes.
        """
        if not path.is_file():
            raise BadInput(f"there is no {path.name} in {path.parent}")
        return cls(path, open_array(str(path), ("rows", "dim"), ("rows", "regions", "dim")))

    def __len__(self) -> int:
        return len(self.array) // self.repeats

    def rows(self, image: int) -> NDArray[Any]:
        """(repeats, ...) the rows of an image, as they lie in the file."""
        rows: NDArray[Any] = self.array[image * self.repeats : (image + 1) * self.repeats]
        return rows

    def feature(self, image: int) -> NDArray[np.float32]:
        """(dim,) or (R, dim) of an image.

        Raises:
            BadInput: rows that should be alike differ, or a value is not finite.
        """
        rows, first = self.rows(image), image * self.repeats
        for k in range(1, len(rows)):
            if not np.array_equal(rows[0], rows[k]):
                raise BadInput(
                    f"{self.path}: rows {first} and {first + k} belong to one image, but differ; there should be one "
                    f"row for each image, or {self.repeats} equal ones"
                )
        with np.errstate(over="ignore"):
            feature: NDArray[np.float32] = rows[0].astype(np.float32)
        if not np.isfinite(feature).all():
            raise BadInput(f"{self.path}: row {first} has a value that is not a finite float32; mend it")
        return feature


class FeatureFiles(ImageSource):
    """Images of which only features are there, in the order of the files.

    Args:
        ids: of all images.
        files: of equal shape but for their rows.
        places: for each image the position of its file, and its own position there.

    Raises:
        BadInput: files of different shape.
    """

    def __init__(self, ids: Sequence[str], files: Sequence[FeatureFile], places: Sequence[tuple[int, int]]) -> None:
        self.ids, self._files, self._places = ids, files, places
        self.shape: tuple[int, ...] = files[0].array.shape[1:]
        for file in files[1:]:
            if file.array.shape[1:] != self.shape:
                raise BadInput(
                    f"{file.path} has features of shape {file.array.shape[1:]}, but {files[0].path} of {self.shape}; "
                    "take files of one network"
                )

    def read(self, row: int) -> Image.Image:
        """See ImageSource."""
        raise UnreadableImage(f"of {self.ids[row]} there are features, but no picture")

    def digest(self, row: int) -> str:
        """See ImageSource."""
        file, image = self._places[row]
        return sha256_bytes(self._files[file].rows(image).tobytes())

    def newest(self) -> float:
        """See ImageSource."""
        return max(file.path.stat().st_mtime for file in self._files)

    def feature(self, row: int) -> NDArray[np.float32]:
        """(dim,) or (R, dim) of an image; see FeatureFile."""
        file, image = self._places[row]
        return self._files[file].feature(image)

    def identity(self) -> dict[str, Any]:
        """Names and shapes of the files; what they hold is in the images' digests."""
        return {"name": "data", "files": {file.path.name: list(file.array.shape) for file in self._files}}


def _features_of(collection: Collection | None) -> FeatureFiles:
    if collection is None or not isinstance(collection.images, FeatureFiles):
        name = "this dataset" if collection is None else collection.name
        raise BadInput(f"{name} comes with pictures and no features of its own; choose pixels, or another network")
    return collection.images


@dataclass
class DataImages(PrecomputedImages):
    """Global features as they come; where only regions do, the mean over all of them."""

    source: FeatureFiles

    @classmethod
    def of(cls, collection: Collection | None) -> DataImages:
        """Those of a collection.

        Raises:
            BadInput: it has pictures.
        """
        return cls(_features_of(collection))

    def __post_init__(self) -> None:
        self.dim = self.source.shape[-1]

    def identity(self) -> Mapping[str, Any]:
        """See PrecomputedImages."""
        return self.source.identity()

    def features(self, ids: Sequence[str], part: range | None = None) -> NDArray[np.float32]:
        """See PrecomputedImages."""
        rows = range(len(ids)) if part is None else part
        found = [self.source.feature(row).reshape(-1, self.dim).mean(axis=0) for row in rows]
        return np.array(found, np.float32).reshape(-1, self.dim)


@dataclass
class DataRegions(PrecomputedRegions):
    """The first five regions of each image; boxes do not come with them, so each counts as the whole image."""

    source: FeatureFiles

    @classmethod
    def of(cls, collection: Collection) -> DataRegions | None:
        """Those of a collection; None where its features are of whole images.

        Raises:
            BadInput: it has pictures.
        """
        source = _features_of(collection)
        return cls(source) if len(source.shape) == 2 else None

    def __post_init__(self) -> None:
        self.dim = self.source.shape[-1]

    def identity(self) -> Mapping[str, Any]:
        """See PrecomputedRegions."""
        return self.source.identity()

    def regions(self, ids: Sequence[str], part: range | None = None) -> RegionFeatures:
        """See PrecomputedRegions."""
        rows = range(len(ids)) if part is None else part
        found = min(REGIONS, self.source.shape[0])
        features = np.zeros((len(rows), REGIONS, self.dim), np.float32)
        mask = np.zeros((len(rows), REGIONS), bool)
        mask[:, :found] = True
        for place, row in enumerate(rows):
            features[place, :found] = self.source.feature(row)[:found]
        boxes = np.tile(np.array(FULL_IMAGE, np.float32), (len(rows), REGIONS, 1))
        return RegionFeatures(features, boxes, mask.astype(np.float32), mask)
