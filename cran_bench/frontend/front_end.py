"""The front end: image features computed by a backbone and a region proposer."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cran_bench.dataset import Collection
from cran_bench.errors import BadInput
from cran_bench.frontend.catalogue import is_path, open_backbone, open_proposer
from cran_bench.frontend.feature_files import FeatureFiles
from cran_bench.frontend.features import folder_name, ids_sha
from cran_bench.frontend.interfaces import (
    FULL_IMAGE,
    NO_CLASS,
    REGIONS,
    Backbone,
    PrecomputedImages,
    PrecomputedRegions,
    Proposer,
)
from cran_bench.frontend.sidecar import TRAINED_ON
from cran_bench.images import UnreadableImage
from cran_bench.machine.progress import duration
from cran_bench.specs import Spec, parse_spec

BATCH = 64

Arrays = dict[str, NDArray[Any]]


class Picture(NamedTuple):
    """A decoded image.

    Attributes:
        image: the image, or None if no regions are proposed on it.
        prepared: the backbone's input, or None if global features are precomputed.
    """

    image: Image.Image | None
    prepared: NDArray[Any] | None


@dataclass(frozen=True)
class ExtractionPlan:
    """The plan of an extraction, made before any image is read.

    Attributes:
        collection: the N images.
        front_end: the backbone and the region proposer.
        identity: JSON values that, with the images, determine the features.
        cache: the folder below which the features are stored.
        shapes: shape and dtype of every array.
    """

    collection: Collection
    front_end: FrontEnd
    identity: Mapping[str, Any]
    cache: Path
    shapes: Mapping[str, tuple[tuple[int, ...], str]]

    @property
    def specs(self) -> dict[str, str]:
        """The two specs as in the manifest, without folders."""
        front_end = self.front_end
        specs = {"images_with": front_end.backbone_spec, "regions_with": front_end.regions_spec}
        return {key: without_folders(spec) for key, spec in specs.items()}

    def folder(self, images_sha: str) -> Path:
        """The folder of the features of images with this content; for '' that in which they are extracted."""
        name = folder_name(self.identity, ids_sha(self.collection.images.ids), images_sha)
        return self.cache / "features" / name

    @property
    def size(self) -> int:
        """Size of all arrays in bytes."""
        return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.shapes.values())

    def forecast(self, probe: int = 12) -> tuple[str, bool]:
        """Estimate the disk space and time that the extraction needs here, from the first `probe` images.

        Returns:
            The text to print, and whether there is enough disk space.
        """
        n, free = len(self.collection.images.ids), free_bytes(self.cache)
        lines = [
            f"features by {self.front_end.label}: {n:,} images, {self.size / 1e9:,.2f} GB; "
            f"{free / 1e9:,.2f} GB are free" + ("" if self.size <= free else ": too little")
        ]
        tried = min(probe, n)
        seconds = self.front_end.seconds(self.collection, tried)
        lines.append(f"{tried} images took {seconds:.2f} s here: about {duration(seconds / tried * n)} for all")
        return "\n".join(lines), self.size <= free


@dataclass(frozen=True)
class FrontEnd:
    """A backbone and a region proposer, opened from the two specs given by the user.

    Attributes:
        backbone_spec: the spec of the backbone.
        regions_spec: the spec of the region proposer.
        backbone: the opened backbone, or precomputed features.
        proposer: the opened proposer, or precomputed regions; None for no regions.
    """

    backbone_spec: str
    regions_spec: str
    backbone: Backbone | PrecomputedImages
    proposer: Proposer | PrecomputedRegions | None

    @classmethod
    def open(cls, backbone_spec: str, regions_spec: str, collection: Collection) -> FrontEnd:
        """Open both specs.

        Raises:
            BadInput: a spec is unknown, a file is missing, or the two specs are incompatible.
        """
        backbone = open_backbone(backbone_spec, collection)
        proposer = open_proposer(regions_spec, collection)
        needs_crops = isinstance(proposer, Proposer) and proposer.crops_with is None and proposer.features_dim is None
        if isinstance(backbone, PrecomputedImages) and needs_crops:
            raise BadInput(
                f"'{backbone_spec}' holds precomputed features and cannot embed crops: "
                "use --regions npy:FILE[boxes=FILE] or --regions none"
            )
        front_end = cls(backbone_spec, regions_spec, backbone, proposer)
        if front_end.reads_images and isinstance(collection.images, FeatureFiles):
            raise BadInput(
                f"{collection.name} consists of features, without images for {backbone_spec} and {regions_spec}: "
                "leave out --backbone and --regions"
            )
        return front_end

    @property
    def reads_images(self) -> bool:
        """Whether images have to be read; False if all features are precomputed."""
        return isinstance(self.proposer, Proposer) or not isinstance(self.backbone, PrecomputedImages)

    def shapes(self, images: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return the shape and dtype of every array for a number of images."""
        shapes: dict[str, tuple[tuple[int, ...], str]] = {"globals": ((images, self.backbone.dim), "float32")}
        if self.proposer is not None:
            count, dim = self._regions()
            shapes |= {
                "regions": ((images, count, dim), "float32"),
                "boxes": ((images, count, 4), "float32"),
                "scores": ((images, count), "float32"),
                "mask": ((images, count), "bool"),
            }
        if isinstance(self.proposer, Proposer) and self.proposer.has_classes:
            shapes["classes"] = ((images, self.proposer.count), "int16")
        return shapes

    def _regions(self) -> tuple[int, int]:
        """Number of regions per image, and the dimension of their features."""
        if isinstance(self.proposer, Proposer):
            crops_with = self.proposer.crops_with or self.backbone
            return self.proposer.count, self.proposer.features_dim or crops_with.dim
        return (0, 0) if self.proposer is None else (REGIONS, self.proposer.dim)

    def identity(self) -> dict[str, Any]:
        """Return JSON values that, with the images, determine the features."""
        return {"backbone": dict(self.backbone.identity()), "proposer": proposer_identity(self.proposer)}

    @property
    def label(self) -> str:
        """The two specs, such as ``pixels + boxes``."""
        return f"{self.backbone_spec} + {self.regions_spec}"

    def plan(self, collection: Collection, cache: Path) -> ExtractionPlan:
        """Plan the extraction of a collection's features into a folder below `cache`."""
        return ExtractionPlan(collection, self, self.identity(), cache, self.shapes(len(collection.images.ids)))

    def seconds(self, collection: Collection, images: int) -> float:
        """Measure the seconds that the features of the first `images` images take, after a warm-up."""
        for rows in (range(1), range(images)):
            start = time.perf_counter()
            self.features_at(collection, rows)
        return time.perf_counter() - start

    def features_at(self, collection: Collection, rows: range) -> Arrays:
        """Compute the features of consecutive images of a collection; zeros for images that cannot be read."""
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            read = list(pool.map(lambda row: self.read(collection, row), rows))
            pictures = {place: picture for place, picture in enumerate(read) if isinstance(picture, Picture)}
            return self.features(collection.images.ids, rows, pictures, pool)

    def read(self, collection: Collection, row: int) -> Picture | UnreadableImage | None:
        """Read an image of a collection; return the error if that fails, and None if no images are needed."""
        if not self.reads_images:
            return None
        try:
            return self.picture(collection.images.read(row))
        except UnreadableImage as error:
            return error

    def picture(self, image: Image.Image) -> Picture:
        """Prepare a decoded image for `features`."""
        prepared = None if isinstance(self.backbone, PrecomputedImages) else self.backbone.prepare(image)
        return Picture(image if isinstance(self.proposer, Proposer) else None, prepared)

    def features(
        self, ids: Sequence[str], rows: range, pictures: Mapping[int, Picture], pool: ThreadPoolExecutor
    ) -> Arrays:
        """Compute the features of consecutive images; zeros for images missing from `pictures`.

        Args:
            ids: ids of all images of the collection.
            rows: the images to compute features for.
            pictures: decoded images by position in `rows`; empty if no images are needed.
            pool: threads that prepare the crops.
        """
        arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in self.shapes(len(rows)).items()}
        if isinstance(self.backbone, PrecomputedImages):
            arrays["globals"] = self.backbone.features(ids, rows)
        else:
            prepared = [picture.prepared for picture in pictures.values() if picture.prepared is not None]
            arrays["globals"][list(pictures)] = _embedded(self.backbone, prepared)
        if isinstance(self.proposer, PrecomputedRegions):
            regions = self.proposer.regions(ids, rows)
            arrays |= {name: getattr(regions, name) for name in ("regions", "boxes", "scores", "mask")}
        elif self.proposer is not None:
            images = {place: picture.image for place, picture in pictures.items() if picture.image is not None}
            self._add_regions(arrays, self.proposer, rows, images, pool)
        return arrays

    def features_of(self, image: Image.Image) -> Arrays:
        """Compute the features of a single image outside any collection."""
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            return self.features((), range(1), {0: self.picture(image)}, pool)

    def _add_regions(
        self,
        arrays: dict[str, NDArray[Any]],
        proposer: Proposer,
        rows: range,
        images: Mapping[int, Image.Image],
        pool: ThreadPoolExecutor,
    ) -> None:
        if proposer.has_classes:
            arrays["classes"][:] = NO_CLASS
        proposed = proposer.propose([rows[place] for place in images], list(images.values()))
        pictures: list[Image.Image] = []
        wanted: list[tuple[int, int]] = []  # position in the shard and region of each crop
        crops_with = proposer.crops_with or self.backbone
        for (place, image), proposals in zip(images.items(), proposed, strict=True):
            count = min(proposer.count, len(proposals.boxes))
            arrays["boxes"][place] = FULL_IMAGE
            arrays["boxes"][place, :count] = proposals.boxes[:count]
            arrays["scores"][place, :count] = proposals.scores[:count]
            arrays["mask"][place, :count] = True
            if proposals.classes is not None:
                arrays["classes"][place, :count] = proposals.classes[:count]
            if proposals.features is not None:
                arrays["regions"][place, :count] = proposals.features[:count]
                arrays["regions"][place, count:] = proposals.features[-1]
                continue
            if proposer.crops_with is None:
                arrays["regions"][place, count:] = arrays["globals"][place]
            elif count < proposer.count:
                pictures.append(image)
                wanted.append((place, count))
            for region in range(count):
                pictures.append(_crop(image, arrays["boxes"][place, region]))
                wanted.append((place, region))
        if pictures:
            assert not isinstance(crops_with, PrecomputedImages)
            vectors = _embedded(crops_with, pool.map(crops_with.prepare, pictures))
            for (place, region), vector in zip(wanted, vectors, strict=True):
                missing = not arrays["mask"][place, region]
                arrays["regions"][place, slice(region, None) if missing else region] = vector


def _embedded(backbone: Backbone, prepared: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    """Embed prepared images in batches: (B, dim)."""
    left = iter(prepared)
    parts = [np.zeros((0, backbone.dim), np.float32)]
    while batch := list(islice(left, BATCH)):
        parts.append(backbone.embed(np.stack(batch)))
    return np.concatenate(parts)


def _crop(image: Image.Image, box: NDArray[np.float32]) -> Image.Image:
    """Crop an image to a box given in fractions, at least one pixel wide and high."""
    width, height = image.size
    x0, y0 = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    x1, y1 = max(round(float(box[2]) * width), x0 + 1), max(round(float(box[3]) * height), y0 + 1)
    return image.crop((x0, y0, min(x1, width), min(y1, height)))


def differing(made: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """Name the values of a manifest that differ from those of a front end: ``the backbone's tensor``."""
    sides = ((side, key) for side in identity for key in made[side])
    return [f"the {side}'s {key}" for side, key in sides if made[side][key] != identity[side].get(key)]


def proposer_identity(proposer: Proposer | PrecomputedRegions | None) -> dict[str, Any]:
    """Return JSON values that, with the images, determine the regions."""
    return {"name": "none"} if proposer is None else dict(proposer.identity())


_FILES = ("ids", "boxes", "weights", "detector", "vgg16", "vocab")  # options that name a file
_WEIGHTS = {"torchvision": ("weights",), "paper": ("detector", "vgg16")}  # downloaded unless the option names a file


def files_of(text: str) -> list[str]:
    """Return the paths of all files named in a spec."""
    spec = parse_spec(text)
    weights = _WEIGHTS.get(spec.name)
    argument = [spec.argument] if spec.argument and weights is None else []
    options = {key: spec.options[key] for key in _FILES if key in spec.options}
    return argument + [file for key, file in options.items() if key not in (weights or ()) or is_path(file)]


def is_embedded(text: str) -> bool:
    """Whether a spec needs only this package and the data."""
    return parse_spec(text).name in ("pixels", "grid", "boxes", "data", "none")


def is_at_hand(text: str) -> bool:
    """Whether a spec can be opened offline: its files exist, and no weights have to be downloaded."""
    spec = parse_spec(text)
    downloads = any(not is_path(spec.options.get(key, "")) for key in _WEIGHTS.get(spec.name, ()))
    return not downloads and all(Path(file).exists() for file in files_of(text))


def without_folders(text: str) -> str:
    """Remove folders from the paths in a spec: ``onnx:/data/net.onnx[tensor=a/b]`` -> ``onnx:net.onnx[tensor=a/b]``.

    What the network was trained on is left out too, as it is no part of a label.
    """
    spec = parse_spec(text)
    kept = {key: value for key, value in spec.options.items() if key != TRAINED_ON}
    options = {key: Path(value).name if key in _FILES else value for key, value in kept.items()}
    return str(Spec(spec.name, Path(spec.argument).name, options))


def free_bytes(path: Path) -> int:
    """Return the free disk space in bytes at `path`, which need not exist yet."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
