"""Extracted image features on disk: memory-mapped arrays, and a manifest that describes exactly what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, NonNegativeFloat, NonNegativeInt

from cran_bench.errors import BadInput, first_wrong
from cran_bench.frontend.sidecar import TRAINED_ON
from cran_bench.frontend.trained_on import declared, noted
from cran_bench.machine.progress import say
from cran_bench.machine.storage import canonical_json, map_array, sha256_bytes, sha256_json, write_json

MANIFEST = "manifest.json"
SCHEMA = 1
"""To be raised with every change of the manifest or of how images are read, cropped and embedded."""

DIGESTS = "digests.json"
"""Name of the file of the images' digests, from which messages tell which images have changed."""
UNFINISHED = "unfinished-"
"""Start of the name of a folder in which features are being extracted."""

_WHAT = ("schema", "images_sha", "ids_sha", "backbone", "proposer", "arrays", "failed")
_AXES = {"globals": 2, "regions": 3, "boxes": 3, "scores": 2, "mask": 2, "classes": 2}


class _Array(BaseModel):
    shape: list[NonNegativeInt] = Field(min_length=1)
    dtype: str


class _Manifest(BaseModel):
    dataset: str
    images_sha: str
    ids_sha: str
    images_with: str
    regions_with: str
    backbone: dict[str, Any]
    proposer: dict[str, Any]
    arrays: dict[Literal["globals", "regions", "boxes", "scores", "mask", "classes"], _Array]
    failed: dict[NonNegativeInt, str]
    seconds: NonNegativeFloat
    trained_on: dict[str, list[str] | None] = {}


@dataclass(frozen=True)
class Features:
    """The features of all N images of a collection, in its order, as memory-mapped arrays.

    Attributes:
        folder: the folder of the files.
        manifest: what the features were made from, and the shapes and digests of the arrays.
        globals: (N, D) float32, features of whole images.
        regions: (N, R, D) float32, features of regions, or None without regions, as for the next three.
        boxes: (N, R, 4) float32, x0 y0 x1 y1 as fractions of width and height.
        scores: (N, R) float32, the proposer's confidence.
        mask: (N, R) bool, False where the full image is used as padding.
        classes: (N, R) int16, classes among the 80 of MS-COCO, -1 for none; None if they are unknown.
    """

    folder: Path
    manifest: Mapping[str, Any]
    globals: NDArray[np.float32]
    regions: NDArray[np.float32] | None = None
    boxes: NDArray[np.float32] | None = None
    scores: NDArray[np.float32] | None = None
    mask: NDArray[np.bool_] | None = None
    classes: NDArray[np.int16] | None = None

    @property
    def label(self) -> str:
        """The two specs they were made with: ``onnx:mobilenet.onnx + nanodet:nanodet.onnx``."""
        return f"{self.manifest['images_with']} + {self.manifest['regions_with']}"

    @property
    def seconds(self) -> float:
        """Duration of the extraction in seconds."""
        return float(self.manifest["seconds"])

    @property
    def failed(self) -> list[int]:
        """Rows of images that could not be read and were skipped."""
        return sorted(int(row) for row in self.manifest["failed"])

    def fingerprint(self) -> str:
        """Return the sha256 of the arrays and of everything they were made from.

        The classes are left out, which boxes and scores of the same detector determine: features extracted before
        there were classes keep their fingerprint.
        """
        arrays = {name: about for name, about in self.manifest["arrays"].items() if name != "classes"}
        return sha256_json({**{key: self.manifest[key] for key in _WHAT}, "arrays": arrays})


def ids_sha(ids: Sequence[str]) -> str:
    """Return the sha256 of image ids in order."""
    return sha256_bytes("\n".join(ids).encode())


def folder_name(identity: Mapping[str, Any], ids: str, images: str) -> str:
    """Return the name of the folder for features of a front end.

    Args:
        identity: what `FrontEnd.identity` returns, or the manifest.
        ids: the `ids_sha` of the images.
        images: their `images_sha`; '' for the folder of an extraction, during which images may be replaced.
    """
    what = {key: identity[key] for key in ("backbone", "proposer")}
    name = sha256_json({**what, "ids": ids, "images": images, "schema": SCHEMA})[:16]
    return name if images else UNFINISHED + name


def load_features(folder: Path, ids: Sequence[str]) -> Features:
    """Map the features of a folder, after checking that they belong to the images `ids`.

    Raises:
        BadInput: the manifest is missing, has another schema, or is of other images or weights, or the arrays do not
            match it.
    """
    manifest = read_manifest(folder)
    if manifest["ids_sha"] != ids_sha(ids):
        raise BadInput(f"{folder} holds features of other images (their ids differ): prepare the dataset again")
    if folder_name(manifest, manifest["ids_sha"], manifest["images_sha"]) != folder.name:
        raise BadInput(
            f"{folder} holds features made of other images, weights or regions than its name implies: "
            "delete it and prepare the dataset again"
        )
    arrays: dict[str, NDArray[Any]] = {}
    wrong = [
        name
        for name, about in manifest["arrays"].items()
        if len(about["shape"]) != _AXES[name] or about["shape"][0] != len(ids)
    ]
    if wrong or "globals" not in manifest["arrays"] or any(int(row) >= len(ids) for row in manifest["failed"]):
        raise BadInput(
            f"{folder / MANIFEST} is damaged (not for {len(ids):,} images): prepare the dataset again with --force"
        )
    for name, about in manifest["arrays"].items():
        path = folder / f"{name}.npy"
        try:
            array = arrays[name] = map_array(path)
            if list(array.shape) != about["shape"] or array.dtype.name != about["dtype"]:
                said = f"but its manifest says {about['dtype']} of shape {tuple(about['shape'])}"
                raise ValueError(f"it holds {array.dtype} of shape {array.shape}, {said}")
        except (OSError, ValueError) as error:
            raise BadInput(f"{path} cannot be read ({error}): prepare the dataset again with --force") from error
    return Features(folder, manifest, **arrays)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder of features.

    Raises:
        BadInput: the manifest is missing, damaged or of another schema.
    """
    path = folder / MANIFEST
    try:
        manifest: Any = json.loads(path.read_text())
        if not isinstance(manifest, dict):
            raise ValueError("not a JSON object")
        if manifest.get("schema") == SCHEMA:
            _Manifest.model_validate(manifest)
            canonical_json(manifest)  # rejects NaN, which cannot be hashed
    except FileNotFoundError:
        raise BadInput(f"{folder} has no {MANIFEST}: its extraction is incomplete; run prepare again") from None
    except (ValueError, RecursionError, OSError) as error:
        why = first_wrong(error, "the manifest")
        raise BadInput(f"{path} is damaged ({why}): prepare the dataset again with --force") from error
    if manifest.get("schema") != SCHEMA:
        raise BadInput(
            f"{path} has schema {manifest.get('schema')}, but this version reads {SCHEMA}: prepare the dataset again"
        )
    return manifest


def declare(folder: Path, specs: Mapping[str, str]) -> None:
    """Note in the manifest of a folder what the encoders were trained on, as declared by their specs, given by role.

    Raises:
        BadInput: a declaration is wrong, or the manifest cannot be read or written.
    """
    before = noted(manifest := read_manifest(folder))
    now = before | {role: declared(spec, before.get(role)) for role, spec in specs.items()}
    if now != before:
        write_json(folder / MANIFEST, {**manifest, TRAINED_ON: now})


def prepared(cache: Path) -> dict[Path, dict[str, Any]]:
    """Return the folders of finished features below a cache, with their manifests; a damaged one is left out."""
    manifests = {}
    for path in sorted((cache / "features").glob(f"*/{MANIFEST}")):
        if not path.parent.name.startswith(UNFINISHED):
            try:
                manifests[path.parent] = read_manifest(path.parent)
            except BadInput as error:
                say(f"left out: {error}")
    return manifests


def read_digests(folder: Path) -> list[str]:
    """Return the digests of the images of a folder of features; none if they are missing or damaged."""
    try:
        return list(json.loads((folder / DIGESTS).read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        return []
