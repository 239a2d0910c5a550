"""Extraction of image features to disk, in shards; it can be killed at any moment and then resumes."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cran_bench.dataset import Collection
from cran_bench.errors import BadInput
from cran_bench.frontend.features import DIGESTS, MANIFEST, SCHEMA, Features, declare, ids_sha, load_features
from cran_bench.frontend.front_end import ExtractionPlan, Picture, free_bytes
from cran_bench.frontend.interfaces import Precomputed
from cran_bench.images import UnreadableImage
from cran_bench.machine.ledger import Ledger
from cran_bench.machine.progress import duration, say, track
from cran_bench.machine.storage import clear_os_errors, locked, map_array, sha256_file, sha256_json, write_json

SHARD = 64
JOURNAL = "journal.json"
LONG = 16  # number of shards from which the duration is estimated in advance
PROBE = 12  # images timed for that estimate


@dataclass(frozen=True)
class Shard:
    """The features of consecutive images.

    Attributes:
        rows: the images.
        arrays: features by name, one row for each image.
        failed: why an image could not be used, by row.
    """

    rows: range
    arrays: Mapping[str, NDArray[Any]]
    failed: Mapping[int, str]


def image_digests(collection: Collection, cache: Path) -> list[str]:
    """Return the digest of every image; files that have not changed since the last time are not read."""
    digests = collection.images.digests(Ledger(cache / "digests"))
    return list(track(digests, "reading images", total=len(collection.images.ids)))


def extract(
    plan: ExtractionPlan, digests: list[str] | None = None, *, force: bool = False, skip_bad: bool = False
) -> Features:
    """Extract the features of all images of a plan, or load them if those of the same images are complete.

    Args:
        plan: images, front end and cache.
        digests: the digests of the images, as of `image_digests`; computed if None.
        force: extract the features again if they exist, and replace them.
        skip_bad: skip images that cannot be read instead of ending with an error.

    Raises:
        BadInput: images cannot be read (all others are extracted by then), images change meanwhile, or the disk is
            full.
    """
    collection = plan.collection
    digests = digests or image_digests(collection, plan.cache)
    folder, unfinished = plan.folder(collection.images_sha(digests)), plan.folder("")
    with locked(unfinished, "extracting these features"), locked(folder, "extracting these features"):
        if (folder / MANIFEST).exists() and not force:
            say(f"features of {collection.name} are already prepared: {folder}")
        else:
            if force and unfinished.exists():
                shutil.rmtree(unfinished)
            _Extraction(plan, digests, unfinished, skip_bad).run()
            with clear_os_errors(folder):
                if folder.exists():
                    shutil.rmtree(folder)
                unfinished.replace(folder)
                (folder / JOURNAL).unlink()
        declare(folder, {"backbone": plan.front_end.backbone_spec, "regions": plan.front_end.regions_spec})
    return load_features(folder, collection.images.ids)


def features_at(plan: ExtractionPlan, digests: list[str]) -> Features:
    """The features of a plan if they are complete, or else zeros in their place, of the same shapes and sources.

    Nothing is extracted or written, and no memory is taken up.
    """
    collection = plan.collection
    folder = plan.folder(collection.images_sha(digests))
    if (folder / MANIFEST).exists():
        return load_features(folder, collection.images.ids)
    blank = {name: np.broadcast_to(np.zeros((), dtype), shape) for name, (shape, dtype) in plan.shapes.items()}
    arrays = {name: {"shape": list(shape), "dtype": dtype} for name, (shape, dtype) in plan.shapes.items()}
    return Features(folder, _manifest(plan, digests, arrays, {}, 0.0), **blank)


def _manifest(
    plan: ExtractionPlan, digests: list[str], arrays: Mapping[str, Any], failed: Mapping[str, str], seconds: float
) -> dict[str, Any]:
    ids = plan.collection.images.ids
    return {
        "schema": SCHEMA,
        "dataset": plan.collection.name,
        **plan.specs,
        **plan.identity,
        "images": len(ids),
        "ids_sha": ids_sha(ids),
        "images_sha": plan.collection.images_sha(digests),
        "arrays": arrays,
        "failed": {row: ids[int(row)] for row in failed},
        "seconds": round(seconds, 1),
    }


class _Extraction:
    def __init__(self, plan: ExtractionPlan, digests: list[str], folder: Path, skip_bad: bool) -> None:
        self.plan, self.collection, self.front_end, self.folder = plan, plan.collection, plan.front_end, folder
        self.digests, self.skip_bad = digests, skip_bad
        n = len(digests)
        self.shards = {
            (rows := range(a, min(a + SHARD, n))): sha256_json(digests[a : rows.stop]) for a in range(0, n, SHARD)
        }

    def run(self) -> None:
        self._require_room()
        whole = self._allocate()
        done, spent, failed = self._journal() if whole else ({}, 0.0, {})
        n = len(self.collection.images.ids)
        todo = [rows for rows in self.shards if _name(rows) not in done]
        time_left = f", about {duration(self._seconds(todo))}" if len(todo) >= LONG else ""
        say(f"extracting {self.front_end.label} of {n:,} images, {self.plan.size / 1e6:,.0f} MB{time_left}")
        if done:
            say(f"resuming: {len(done)} of {len(self.shards)} shards are already done")
        unreadable: dict[int, str] = {}
        start = time.perf_counter()
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
                "replace them and prepare again, or skip them with cran-bench prepare ... --skip-bad"
            )
        self._finish(spent + time.perf_counter() - start, failed)

    def _seconds(self, shards: Sequence[range]) -> float:
        """Estimated duration of these shards in seconds, from a few images."""
        return self.front_end.seconds(self.collection, PROBE) / PROBE * sum(map(len, shards))

    def _require_room(self) -> None:
        written = sum(path.stat().st_blocks * 512 for path in self.folder.glob("*.npy"))
        needed, free = self.plan.size - written, free_bytes(self.folder)
        if needed > free:
            raise BadInput(
                f"these features need {needed / 1e9:,.2f} GB below {self.folder.parent}, but only "
                f"{free / 1e9:,.2f} GB are free: free some space, or choose another folder with --cache"
            )

    def _journal(self) -> tuple[dict[str, str], float, dict[str, str]]:
        """Digests of the finished shards whose images have not changed, the seconds spent, and the unreadable rows."""
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
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            say(f"{self.folder / JOURNAL} is damaged ({error}); restarting this extraction")
            return {}, 0.0, {}

    def _allocate(self) -> bool:
        """Create missing arrays, filled with zeros; return whether all arrays existed before."""
        whole = True
        with clear_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for left_by_a_kill in self.folder.glob(".*.part"):
                left_by_a_kill.unlink()
            for name, (shape, dtype) in self.plan.shapes.items():
                path = self.folder / f"{name}.npy"
                try:
                    whole &= map_array(path).shape == shape
                except (FileNotFoundError, ValueError):
                    whole = False
                    part = path.with_suffix(".npy.part")
                    try:
                        np.lib.format.open_memmap(part, mode="w+", dtype=np.dtype(dtype), shape=shape)
                        part.replace(path)
                    finally:
                        part.unlink(missing_ok=True)
        return whole

    def _write(self, shard: Shard) -> None:
        # Written to the file, not to the memory map: a full disk then raises an error instead of a signal.
        for name, values in shard.arrays.items():
            path = self.folder / f"{name}.npy"
            whole = map_array(path)
            assert isinstance(whole, np.memmap)
            row_bytes = whole.itemsize * int(np.prod(whole.shape[1:]))
            with clear_os_errors(path), path.open("r+b") as file:
                file.seek(whole.offset + shard.rows.start * row_bytes)
                file.write(np.ascontiguousarray(values, dtype=whole.dtype).tobytes())
                file.flush()
                os.fsync(file.fileno())

    def _computed(self, shards: list[range]) -> Iterator[Shard]:
        """Yield the shards in order; the images of the next one are read while the current one is embedded."""
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            waiting: list[list[Future[Picture | UnreadableImage | None]]] = []
            for k, rows in enumerate(shards):
                for ahead in shards[k + len(waiting) : k + 2]:
                    waiting.append([pool.submit(self.front_end.read, self.collection, row) for row in ahead])
                yield self._compute(rows, [picture.result() for picture in waiting.pop(0)], pool)

    def _compute(
        self, rows: range, pictures: list[Picture | UnreadableImage | None], pool: ThreadPoolExecutor
    ) -> Shard:
        ids = self.collection.images.ids
        failed = {
            row: str(error) for row, error in zip(rows, pictures, strict=True) if isinstance(error, UnreadableImage)
        }
        readable = {place: picture for place, picture in enumerate(pictures) if isinstance(picture, Picture)}
        try:
            arrays = self.front_end.features(ids, rows, readable, pool)
        except BadInput:
            if any(isinstance(part, Precomputed) for part in (self.front_end.backbone, self.front_end.proposer)):
                shutil.rmtree(self.folder)  # other files have another folder, so it would not be resumed
            raise
        for name in ("globals", "regions"):
            if name in arrays:
                bad = ~np.isfinite(arrays[name].reshape(len(rows), -1)).all(axis=1)
                arrays[name][bad] = 0
                reason = f"{self.front_end.backbone_spec} returns NaN or infinity"
                failed |= {rows[k]: f"{ids[rows[k]]}: {reason}" for k in np.flatnonzero(bad)}
        return Shard(rows, arrays, failed)

    def _finish(self, seconds: float, failed: Mapping[str, str]) -> None:
        if image_digests(self.collection, self.plan.cache) != self.digests:
            raise BadInput(f"images of {self.collection.name} changed while their features were extracted: try again")
        arrays = {
            name: {"shape": list(shape), "dtype": dtype, "sha256": sha256_file(self.folder / f"{name}.npy")}
            for name, (shape, dtype) in self.plan.shapes.items()
        }
        write_json(self.folder / DIGESTS, self.digests)
        write_json(self.folder / MANIFEST, _manifest(self.plan, self.digests, arrays, failed, seconds))


def _name(rows: range) -> str:
    return f"{rows.start}-{rows.stop}"
