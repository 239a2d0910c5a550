"""Features of all captions of a collection by a text encoder, on disk; encoding can be killed and then resumes."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from cran_bench.dataset import Collection
from cran_bench.errors import BadInput, first_wrong
from cran_bench.frontend.features import UNFINISHED
from cran_bench.frontend.front_end import free_bytes, without_folders
from cran_bench.frontend.interfaces import PrecomputedTexts, TextEncoder
from cran_bench.frontend.sidecar import TRAINED_ON
from cran_bench.frontend.trained_on import declared
from cran_bench.machine.progress import duration, say, track
from cran_bench.machine.storage import clear_os_errors, locked, map_array, sha256_file, sha256_json, write_json

FOLDER = "texts"
"""Name of the folder of these features in the cache."""
SCHEMA = 1
"""To be raised with every change of the manifest or of how captions are encoded."""
SHARD = 1024  # captions that are encoded before they are written
PROBE = 32  # captions that are encoded to estimate the duration
APART = 0.1  # of its length, by which features of equal captions may differ, as an encoder may round by batch


class TextManifest(BaseModel):
    """What text features were made from: spec and identity of the encoder, digests of all captions and of the array."""

    encoder: str
    identity: dict[str, Any]
    captions_sha: str
    sha256: str = ""
    trained_on: list[str] | None = None

    def sources_sha(self) -> str:
        """Return the sha256 of the encoder and the captions."""
        return sha256_json({"schema": SCHEMA, "encoder": self.identity, "captions": self.captions_sha})


@dataclass(frozen=True)
class TextFeatures:
    """The features of all T captions of a collection, of which equal ones share a row, and perhaps of its N documents.

    Attributes:
        path: the file of the array.
        manifest: what the features were made from.
        array: (U, q) or (U + N, q) float32, the features of the distinct captions, then those given of the documents,
            memory-mapped.
        rows: (T,) int64, the row of each caption.
        encoder: encodes other texts; None if they cannot be encoded.
    """

    path: Path
    manifest: TextManifest
    array: NDArray[np.float32]
    rows: NDArray[np.int64]
    encoder: TextEncoder | None = None


@dataclass(frozen=True)
class Documents:
    """Features (N, q) of the documents of N images: those given, or else the captions' mean at unit length."""

    features: TextFeatures
    image_of: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.image_of[-1]) + 1, self.features.array.shape[1]

    def __getitem__(self, images: NDArray[np.int64]) -> NDArray[np.floating]:
        if len(given := given_documents(self.features)):
            return given[images]
        captions, first = captions_of(self.image_of, images)
        sums = np.add.reduceat(self.features.array[self.features.rows[captions]].astype(np.float64), first)
        return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True).clip(1e-30))


def given_documents(features: TextFeatures) -> NDArray[np.float32]:
    """Return (N, q) the features that are given of documents, or (0, q)."""
    return features.array[int(features.rows.max()) + 1 :]


def captions_of(image_of: NDArray[np.int64], images: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the captions of `images`, image by image, and where those of each image begin among them."""
    begin, end = np.searchsorted(image_of, images, side="left"), np.searchsorted(image_of, images, side="right")
    first = np.cumsum(end - begin) - (end - begin)
    return np.arange((end - begin).sum()) + np.repeat(begin - first, end - begin), first


def encode(
    collection: Collection, encoder: TextEncoder | PrecomputedTexts, spec: str, cache: Path, force: bool = False
) -> TextFeatures:
    """Encode the captions of a collection, or load their features if these are complete.

    Args:
        collection: the captions.
        encoder: an encoder, or features computed elsewhere.
        spec: its spec, which may declare what it was trained on.
        cache: the folder below which features are stored.
        force: encode the captions again, and replace what is stored.

    Raises:
        BadInput: features computed elsewhere are not of these captions, an encoder returns NaN or another shape, or the
            disk is full.
    """
    manifest = _sources(collection, encoder, spec)
    label = manifest.encoder
    path = cache / FOLDER / f"{manifest.sources_sha()[:16]}.npy"
    unfinished = path.with_name(UNFINISHED + path.name)
    with locked(path, "encoding these captions"), clear_os_errors(path):
        if force or not path.exists():
            if force:
                unfinished.unlink(missing_ok=True)
            try:
                _write(collection, encoder, label, unfinished)
            except BadInput:
                if isinstance(encoder, PrecomputedTexts):  # other files have another name, so it would not be resumed
                    unfinished.unlink(missing_ok=True)
                raise
            path.unlink(missing_ok=True)  # so that a kill leaves no array beside the manifest of another
            manifest = manifest.model_copy(update={"sha256": sha256_file(unfinished)})
            write_json(path.with_suffix(".json"), manifest.model_dump())
            unfinished.replace(path)
        else:
            say(f"captions of {collection.name} are already encoded: {path}")
            manifest = read_text_manifest(path)
        if (names := declared(spec, manifest.trained_on)) != manifest.trained_on:
            write_json(path.with_suffix(".json"), {**manifest.model_dump(), TRAINED_ON: names})
    return load_texts(path, collection, None if isinstance(encoder, PrecomputedTexts) else encoder)


def _sources(collection: Collection, encoder: TextEncoder | PrecomputedTexts, spec: str) -> TextManifest:
    """The manifest of what `spec` makes of a collection's captions, without the digest of the array."""
    captions_sha = sha256_json(list(collection.captions))
    return TextManifest(encoder=without_folders(spec), identity=dict(encoder.identity()), captions_sha=captions_sha)


def texts_at(collection: Collection, encoder: TextEncoder | PrecomputedTexts, spec: str, cache: Path) -> TextFeatures:
    """The features of a collection's captions if they are complete, or else zeros in their place; nothing is encoded.

    Args:
        collection: the captions.
        encoder: an encoder, or features computed elsewhere.
        spec: its spec.
        cache: the folder below which features are stored.
    """
    manifest = _sources(collection, encoder, spec)
    path = cache / FOLDER / f"{manifest.sources_sha()[:16]}.npy"
    if path.exists():
        return load_texts(path, collection)
    rows, first = _distinct(collection)
    shape = len(first) + len(_documents(collection, encoder)), encoder.dim
    return TextFeatures(path, manifest, np.broadcast_to(np.zeros((), np.float32), shape), rows)


def _write(collection: Collection, encoder: TextEncoder | PrecomputedTexts, label: str, path: Path) -> None:
    """Write the features of the distinct captions, and of documents, after those that an earlier run has written."""
    rows, first = _distinct(collection)
    counted, documents = f"{len(first):,} captions", _documents(collection, encoder)
    counted += f" and {len(documents):,} documents" * bool(len(documents))
    again = np.setdiff1d(np.arange(len(rows)), first)
    for captions in np.split(again, range(SHARD, len(again), SHARD)) if isinstance(encoder, PrecomputedTexts) else ():
        own, other = (_features(collection, encoder, label, k) for k in (captions, first[rows[captions]]))
        apart = captions[np.linalg.norm(own - other, axis=1) > APART * np.linalg.norm(other, axis=1)]
        for caption in apart[:1]:
            keys = collection.caption_keys()
            raise BadInput(
                f"{label} differs between {keys[first[rows[caption]]]} and {keys[caption]}, whose captions are equal: "
                "give rows in the order of the captions, or ids=FILE"
            )
    first = np.append(first, documents)
    header, size = BytesIO(), 4 * encoder.dim * SHARD
    layout = {"descr": "<f4", "fortran_order": False, "shape": (len(first), encoder.dim)}
    np.lib.format.write_array_header_1_0(header, layout)
    with path.open("r+b" if path.exists() else "wb") as file:
        start = len(header.getvalue())
        done = max(0, path.stat().st_size - start) // size
        file.write(header.getvalue())
        file.truncate(file.seek(start + done * size))
        shards = range(done * SHARD, len(first), SHARD)
        say(f"encoding {counted} with {label}" + f", {done * SHARD:,} are done" * bool(done))
        for a in track(shards, "encoding", total=done + len(shards), done=done):
            features = _features(collection, encoder, label, first[a : a + SHARD])
            file.write(np.ascontiguousarray(features, "<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())


def _documents(collection: Collection, encoder: TextEncoder | PrecomputedTexts) -> NDArray[np.int64]:
    """The positions of the documents whose features are given, after those of the captions."""
    count = encoder.documents(collection) if isinstance(encoder, PrecomputedTexts) else 0
    return len(collection.captions) + np.arange(count)


def _features(
    collection: Collection, encoder: TextEncoder | PrecomputedTexts, label: str, captions: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The features of the captions of a collection at the positions `captions` (n,): (n, dim)."""
    if isinstance(encoder, PrecomputedTexts):
        return encoder.features(collection, captions)
    texts = [collection.captions[k] for k in captions.tolist()]
    rows = encoder.embed(texts)
    if rows.shape != (len(texts), encoder.dim) or not np.isfinite(rows).all():
        which = f"of shape {rows.shape}, not {(len(texts), encoder.dim)}" if np.isfinite(rows).all() else "with NaN"
        raise BadInput(f"{label} returns features {which}, for texts such as '{texts[0]}': use another encoder")
    return rows


def forecast_texts(
    collection: Collection, encoder: TextEncoder | PrecomputedTexts, label: str, cache: Path
) -> tuple[str, bool]:
    """Say how many captions there are to encode, and how long that will take here; return whether the disk has room.

    Raises:
        BadInput: as for `encode`, as far as a few captions show it.
    """
    first = _distinct(collection)[1]
    for some in (first[:1], first[:: -(-len(first) // PROBE)]):  # the first time loads the encoder
        start = time.perf_counter()
        _features(collection, encoder, label, some)
    left = duration((time.perf_counter() - start) / len(some) * len(first))
    size, free = 4 * (len(first) + len(_documents(collection, encoder))) * encoder.dim, free_bytes(cache)
    told = f"captions by {label}: {len(first):,} different ones, {size / 1e6:,.0f} MB, about {left}"
    return told + f"; {free / 1e6:,.0f} MB are free: too little" * (size > free), size <= free


def encoded_at(collection: Collection, identity: dict[str, Any], cache: Path) -> TextFeatures | None:
    """The stored features of a collection's captions by an encoder of that identity; None if there are none."""
    made = TextManifest(encoder="", identity=identity, captions_sha=sha256_json(list(collection.captions)))
    path = cache / FOLDER / f"{made.sources_sha()[:16]}.npy"
    return load_texts(path, collection) if path.exists() else None


def load_texts(path: Path, collection: Collection, encoder: TextEncoder | None = None) -> TextFeatures:
    """Map the text features of a collection's captions.

    Raises:
        BadInput: they are of other captions, or a file is missing or damaged.
    """
    manifest, (rows, first) = read_text_manifest(path), _distinct(collection)
    if manifest.captions_sha != sha256_json(list(collection.captions)):
        raise BadInput(f"{path} holds features of other captions: prepare {collection.name} again")
    try:
        array = map_array(path)
        sizes = len(first), len(first) + len(collection.images.ids)  # without documents and with them
        if array.dtype != np.float32 or array.ndim != 2 or len(array) not in sizes:
            raise ValueError(f"it holds {array.dtype} of shape {array.shape} for {len(first):,} captions")
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is damaged ({error}): prepare the dataset again with --force") from error
    return TextFeatures(path, manifest, array, rows, encoder)


def encoders_of(collection: Collection, cache: Path) -> list[str]:
    """Return the specs, without folders, of the encoders whose features of a collection's captions are stored."""
    own, found = sha256_json(list(collection.captions)), []
    for path in sorted((cache / FOLDER).glob("*.npy")):
        with suppress(BadInput):  # which the doctor reports
            manifest = read_text_manifest(path)
            found += [manifest.encoder] * (manifest.captions_sha == own)
    return [*dict.fromkeys(found)]


def read_text_manifest(path: Path) -> TextManifest:
    """Read the manifest beside the array of text features.

    Raises:
        BadInput: it is missing or damaged, or belongs to other features.
    """
    try:
        manifest = TextManifest.model_validate_json(path.with_suffix(".json").read_bytes())
        if path.stem != manifest.sources_sha()[:16]:
            raise ValueError("it is of other features")
    except (OSError, ValueError) as error:
        why = first_wrong(error, "the manifest")
        raise BadInput(f"the manifest of {path} is not usable ({why}): prepare again with --force") from error
    return manifest


def _distinct(collection: Collection) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each caption the number (T,) of its text, and for each text its first caption (U,)."""
    place: dict[str, int] = {}
    rows = np.array([place.setdefault(text, len(place)) for text in collection.captions])
    return rows, np.unique(rows, return_index=True)[1]
