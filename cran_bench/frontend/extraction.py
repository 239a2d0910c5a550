"""From images to features on disk, in shards: can be killed at any moment and goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cran_bench.dataset import Collection
from cran_bench.errors import BadInput
from cran_bench.frontend.backbones import Backbone, open_backbone
from cran_bench.frontend.features import MANIFEST, SCHEMA, Features, folder_name, ids_sha, load_features, read_manifest
from cran_bench.frontend.precomputed import PrecomputedImages, PrecomputedRegions
from cran_bench.frontend.regions import FULL_IMAGE, REGIONS, Proposer, open_proposer
from cran_bench.images import UnreadableImage
from cran_bench.progress import say, track
from cran_bench.specs import Spec, parse_spec
from cran_bench.storage import clear_os_errors, locked, sha256_file, sha256_json, write_json

SHARD = 64
BATCH = 64
JOURNAL = "journal.json"


@dataclass(frozen=True)
class FrontEnd:
    """How images become features: the two specs a user gives, opened."""

    images_with: str
    regions_with: str
    backbone: Backbone | PrecomputedImages
    proposer: Proposer | PrecomputedRegions | None

    @classmethod
    def open(cls, images_with: str, regions_with: str, collection: Collection) -> FrontEnd:
        """Open both specs.

        Raises:
            BadInput: an unknown spec, a missing file, or two that do not go together.
        """
        backbone = open_backbone(images_with)
        proposer = open_proposer(regions_with, collection)
        needs_crops = isinstance(proposer, Proposer) and proposer.crops_with is None and proposer.features_dim is None
        if isinstance(backbone, PrecomputedImages) and needs_crops:
            raise BadInput(
                f"'{images_with}' holds finished vectors and cannot embed crops: "
                "use --regions-with npy:FILE[boxes=FILE] or --regions-with none"
            )
        return cls(images_with, regions_with, backbone, proposer)

    @property
    def reads_images(self) -> bool:
        """Whether images are looked at, or all is precomputed."""
        return isinstance(self.proposer, Proposer) or not isinstance(self.backbone, PrecomputedImages)

    @property
    def regions(self) -> tuple[int, int]:
        """How many regions an image has, and the length of their features."""
        if isinstance(self.proposer, Proposer):
            crops_with = self.proposer.crops_with or self.backbone
            return self.proposer.count, self.proposer.features_dim or crops_with.dim
        return (0, 0) if self.proposer is None else (REGIONS, self.proposer.dim)

    def identity(self) -> dict[str, Any]:
        """JSON of everything that determines the features, but for the images."""
        return {"backbone": dict(self.backbone.identity()), "proposer": proposer_identity(self.proposer)}

    def folder(self, root: Path, collection: Collection) -> Path:
        """Where these features of these images lie below `root`."""
        return root / folder_name(self.identity(), ids_sha(collection.images.ids))


@dataclass(frozen=True)
class Shard:
    """What was computed of some consecutive images."""

    rows: range
    arrays: Mapping[str, NDArray[Any]]
    failed: Mapping[int, str]


def extract(
    collection: Collection, front_end: FrontEnd, root: Path, *, force: bool = False, skip_bad: bool = False
) -> Features:
    """Extract the features of every image of `collection` below `root`, or take them where they are finished.

    Args:
        collection: the images.
        front_end: backbone and region proposer.
        root: folder of this dataset's features.
        force: extract again even what is finished.
        skip_bad: leave out images that cannot be read instead of ending with an error.

    Raises:
        BadInput: images that cannot be read (all others are finished then), images that changed since, a full disk.
    """
    folder = front_end.folder(root, collection)
    with locked(folder, "extracting these features"):
        if force and folder.exists():
            shutil.rmtree(folder)
        digests = list(track(collection.digests(), "reading images", total=len(collection.images.ids)))
        images_sha = collection.images_sha(digests)
        if (folder / MANIFEST).exists():
            if read_manifest(folder)["images_sha"] != images_sha:
                raise BadInput(
                    f"the images of {collection.name} have changed since their features were extracted to {folder}: "
                    "prepare with --force to extract them again"
                )
            say(f"features of {collection.name} are prepared already: {folder}")
            return load_features(folder, collection.images.ids)
        job = _Extraction(collection, front_end, folder, digests, images_sha, skip_bad)
        job.run()
    return load_features(folder, collection.images.ids)


class _Picture(NamedTuple):
    """An image that was read, where regions are to be found in it, and as the backbone takes it."""

    image: Image.Image | None
    prepared: NDArray[Any] | None


class _Extraction:
    def __init__(
        self,
        collection: Collection,
        front_end: FrontEnd,
        folder: Path,
        digests: Sequence[str],
        images_sha: str,
        skip_bad: bool,
    ) -> None:
        self.collection, self.front_end, self.folder = collection, front_end, folder
        self.images_sha, self.skip_bad = images_sha, skip_bad
        n = len(collection.images.ids)
        self.shards = {
            (rows := range(a, min(a + SHARD, n))): sha256_json(digests[a : rows.stop]) for a in range(0, n, SHARD)
        }
        self.shapes: dict[str, tuple[tuple[int, ...], str]] = {"globals": ((n, front_end.backbone.dim), "float32")}
        if front_end.proposer is not None:
            count, dim = front_end.regions
            self.shapes |= {
                "regions": ((n, count, dim), "float32"),
                "boxes": ((n, count, 4), "float32"),
                "scores": ((n, count), "float32"),
                "mask": ((n, count), "bool"),
            }

    def run(self) -> None:
        whole = self._allocate()
        done, spent, failed = self._journal() if whole else ({}, 0.0, {})
        size = sum(np.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.shapes.values())
        n = len(self.collection.images.ids)
        made_with = f"{self.front_end.images_with} + {self.front_end.regions_with}"
        say(f"extracting {made_with} of {n:,} images, {size / 1e6:,.0f} MB")
        if done:
            say(f"going on: {len(done)} of {len(self.shards)} shards were finished before")
        unreadable: dict[int, str] = {}
        start = time.perf_counter()
        todo = [rows for rows in self.shards if _name(rows) not in done]
        for shard in track(self._computed(todo), "extracting", total=len(self.shards), done=len(done)):
            unreadable |= shard.failed
            self._write(shard)
            if shard.failed and not self.skip_bad:
                continue
            done[_name(shard.rows)] = self.shards[shard.rows]
            failed |= {str(row): reason for row, reason in shard.failed.items()}
            seconds = spent + time.perf_counter() - start
            write_json(
                self.folder / JOURNAL,
                {"done": done, "seconds": seconds, "failed": failed},
            )
        for reason in unreadable.values():
            say(f"  unusable: {reason}")
        if unreadable and not self.skip_bad:
            raise BadInput(
                f"{len(unreadable)} of {n} images cannot be used (listed above); all others are extracted: "
                "mend them and prepare again, or leave them out with --skip-bad"
            )
        self._finish(spent + time.perf_counter() - start, failed)

    def _journal(self) -> tuple[dict[str, str], float, dict[str, str]]:
        """Of the shards finished before whose images are the same still: their digests, seconds and unreadable rows."""
        try:
            journal = json.loads((self.folder / JOURNAL).read_text())
            done: dict[str, str] = {}
            failed: dict[str, str] = {}
            for rows, digest in self.shards.items():
                unreadable = {str(row): journal["failed"][str(row)] for row in rows if str(row) in journal["failed"]}
                if journal["done"].get(_name(rows)) == digest and (self.skip_bad or not unreadable):
                    done[_name(rows)] = digest
                    failed |= unreadable
            return done, float(journal["seconds"]), failed
        except FileNotFoundError:
            return {}, 0.0, {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            say(f"{self.folder / JOURNAL} is damaged ({error}); starting this extraction anew")
            return {}, 0.0, {}

    def _allocate(self) -> bool:
        """Whether every array was there already; those that were not are made, of zeros."""
        whole = True
        with clear_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for left_by_a_kill in self.folder.glob(".*.part"):
                left_by_a_kill.unlink()
            for name, (shape, dtype) in self.shapes.items():
                path = self.folder / f"{name}.npy"
                try:
                    whole &= np.load(path, mmap_mode="r", allow_pickle=False).shape == shape
                except (FileNotFoundError, EOFError, ValueError):
                    whole = False
                    part = path.with_suffix(".npy.part")
                    try:
                        np.lib.format.open_memmap(part, mode="w+", dtype=np.dtype(dtype), shape=shape)
                        part.replace(path)
                    finally:
                        part.unlink(missing_ok=True)
        return whole

    def _write(self, shard: Shard) -> None:
        # Plain writes, not stores to the map: a full disk is then an error and not a signal.
        for name, values in shard.arrays.items():
            path = self.folder / f"{name}.npy"
            whole = np.load(path, mmap_mode="r", allow_pickle=False)
            assert isinstance(whole, np.memmap)
            row_bytes = whole.itemsize * int(np.prod(whole.shape[1:]))
            with clear_os_errors(path), path.open("r+b") as file:
                file.seek(whole.offset + shard.rows.start * row_bytes)
                file.write(np.ascontiguousarray(values, dtype=whole.dtype).tobytes())
                file.flush()
                os.fsync(file.fileno())

    def _computed(self, shards: list[range]) -> Iterator[Shard]:
        """Shards in order; the images of the next are read while the present one is embedded."""
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            waiting: list[list[Future[_Picture | UnreadableImage | None]]] = []
            for k, rows in enumerate(shards):
                for ahead in shards[k + len(waiting) : k + 2]:
                    waiting.append([pool.submit(self._read, row) for row in ahead])
                yield self._compute(rows, [picture.result() for picture in waiting.pop(0)], pool)

    def _read(self, row: int) -> _Picture | UnreadableImage | None:
        backbone, proposer = self.front_end.backbone, self.front_end.proposer
        if not self.front_end.reads_images:
            return None
        try:
            image = self.collection.images.read(row)
        except UnreadableImage as error:
            return error
        prepared = None if isinstance(backbone, PrecomputedImages) else backbone.prepare(image)
        return _Picture(image if isinstance(proposer, Proposer) else None, prepared)

    def _compute(
        self, rows: range, pictures: list[_Picture | UnreadableImage | None], pool: ThreadPoolExecutor
    ) -> Shard:
        backbone, proposer, made_with = self.front_end.backbone, self.front_end.proposer, self.front_end.images_with
        arrays = {name: np.zeros((len(rows), *shape[1:]), dtype) for name, (shape, dtype) in self.shapes.items()}
        failed = {
            row: str(picture)
            for row, picture in zip(rows, pictures, strict=True)
            if isinstance(picture, UnreadableImage)
        }
        ids = self.collection.images.ids
        readable = {place: picture for place, picture in enumerate(pictures) if isinstance(picture, _Picture)}
        if isinstance(backbone, PrecomputedImages):
            arrays["globals"] = backbone.features(ids, rows)
        else:
            prepared = [picture.prepared for picture in readable.values() if picture.prepared is not None]
            arrays["globals"][list(readable)] = _embedded(backbone, prepared)
        if isinstance(proposer, PrecomputedRegions):
            found = proposer.regions(ids, rows)
            arrays |= {name: getattr(found, name) for name in ("regions", "boxes", "scores", "mask")}
        elif proposer is not None:
            images = {place: picture.image for place, picture in readable.items() if picture.image is not None}
            self._add_regions(arrays, proposer, rows, images, pool)
        for name in ("globals", "regions"):
            if name in arrays:
                bad = ~np.isfinite(arrays[name].reshape(len(rows), -1)).all(axis=1)
                arrays[name][bad] = 0
                failed |= {rows[k]: f"{ids[rows[k]]}: {made_with} gives NaN or infinity" for k in np.flatnonzero(bad)}
        return Shard(rows, arrays, failed)

    def _add_regions(
        self,
        arrays: dict[str, NDArray[Any]],
        proposer: Proposer,
        rows: range,
        images: Mapping[int, Image.Image],
        pool: ThreadPoolExecutor,
    ) -> None:
        proposals = proposer.propose([rows[place] for place in images], list(images.values()))
        pictures: list[Image.Image] = []
        wanted: list[tuple[int, int]] = []  # position in the shard and region of each picture
        crops_with = proposer.crops_with or self.front_end.backbone
        for (place, image), found in zip(images.items(), proposals, strict=True):
            count = min(proposer.count, len(found.boxes))
            arrays["boxes"][place] = FULL_IMAGE
            arrays["boxes"][place, :count] = found.boxes[:count]
            arrays["scores"][place, :count] = found.scores[:count]
            arrays["mask"][place, :count] = True
            if found.features is not None:
                arrays["regions"][place, :count] = found.features[:count]
                arrays["regions"][place, count:] = found.features[-1]
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

    def _finish(self, seconds: float, failed: Mapping[str, str]) -> None:
        arrays = {
            name: {"shape": list(shape), "dtype": dtype, "sha256": sha256_file(self.folder / f"{name}.npy")}
            for name, (shape, dtype) in self.shapes.items()
        }
        manifest = {
            "schema": SCHEMA,
            "dataset": self.collection.name,
            "images_with": without_folders(self.front_end.images_with),
            "regions_with": without_folders(self.front_end.regions_with),
            **self.front_end.identity(),
            "images": len(self.collection.images.ids),
            "ids_sha": ids_sha(self.collection.images.ids),
            "images_sha": self.images_sha,
            "arrays": arrays,
            "failed": {row: self.collection.images.ids[int(row)] for row in failed},
            "seconds": round(seconds, 1),
        }
        write_json(self.folder / MANIFEST, manifest)
        (self.folder / JOURNAL).unlink(missing_ok=True)


def _embedded(backbone: Backbone, prepared: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    """Features of prepared pictures, a batch at a time."""
    left = iter(prepared)
    parts = [np.zeros((0, backbone.dim), np.float32)]
    while batch := list(islice(left, BATCH)):
        parts.append(backbone.embed(np.stack(batch)))
    return np.concatenate(parts)


def _name(rows: range) -> str:
    return f"{rows.start}-{rows.stop}"


def _crop(image: Image.Image, box: NDArray[np.float32]) -> Image.Image:
    """The part of an image inside a box of fractions, at least one pixel wide and high."""
    width, height = image.size
    x0, y0 = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    x1, y1 = max(round(float(box[2]) * width), x0 + 1), max(round(float(box[3]) * height), y0 + 1)
    return image.crop((x0, y0, min(x1, width), min(y1, height)))


def proposer_identity(proposer: Proposer | PrecomputedRegions | None) -> dict[str, Any]:
    """JSON of what determines the regions."""
    return {"name": "none"} if proposer is None else dict(proposer.identity())


_FILES = ("ids", "boxes", "weights", "detector", "vgg16")  # options that name a file
_DOWNLOADED = {"torchvision": ("weights",), "paper": ("detector", "vgg16")}  # unless they name one


def files_of(text: str) -> list[str]:
    """What a spec needs from outside: its files, and the weights that it would download."""
    spec = parse_spec(text)
    named = {key: spec.options[key] for key in _FILES if key in spec.options}
    named |= {key: f"downloaded {key}" for key in _DOWNLOADED.get(spec.name, ()) if not _is_path(named.get(key, ""))}
    argument = [spec.argument] if spec.argument and spec.name not in _DOWNLOADED else []
    return argument + list(named.values())


def _is_path(text: str) -> bool:
    return "/" in text or Path(text).suffix != ""


def is_at_hand(text: str) -> bool:
    """Whether a spec can be opened with what is here: it needs no file, or those that exist."""
    return all(Path(file).exists() for file in files_of(text))


def without_folders(text: str) -> str:
    """``onnx:/data/net.onnx[tensor=a/b]`` -> ``onnx:net.onnx[tensor=a/b]``: labels name no machine's folders."""
    spec = parse_spec(text)
    options = {key: Path(value).name if key in _FILES else value for key, value in spec.options.items()}
    return str(Spec(spec.name, Path(spec.argument).name, options))
