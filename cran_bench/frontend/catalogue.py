"""The known backbones, region proposers and text encoders, and how a spec names one; each is imported when used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from cran_bench.dataset import Collection
from cran_bench.errors import BadInput, did_you_mean
from cran_bench.frontend.interfaces import (
    Backbone,
    PrecomputedImages,
    PrecomputedRegions,
    PrecomputedTexts,
    Proposer,
    TextEncoder,
)
from cran_bench.frontend.sidecar import TRAINED_ON, sidecar_options
from cran_bench.frontend.trained_on import UNTRAINED, declared
from cran_bench.specs import Spec, build, parse_spec


class Entry(NamedTuple):
    """The implementation of a backend and the form of its spec.

    Attributes:
        module: name of the module below `cran_bench.frontend`.
        cls: name of the class; '' for no backend.
        takes: what the spec gives: a ``file``, ``folder`` or ``model`` after the colon, ``fields`` only, or nothing if
            everything comes with the ``collection``.
        example: name of a model, for error messages.
    """

    module: str
    cls: str
    takes: Literal["fields", "file", "folder", "model", "collection"] = "fields"
    example: str = ""


BACKBONES = {
    "pixels": Entry("images.pixels", "Pixels"),
    "onnx": Entry("images.onnx", "OnnxBackbone", "file"),
    "torchvision": Entry("images.torchvision", "TorchvisionBackbone", "model", "vgg19"),
    "clip": Entry("hugging_face", "ClipImages", "folder"),
    "npy": Entry("npy", "NpyImages", "file"),
    "data": Entry("feature_files", "DataImages", "collection"),
}
PROPOSERS = {
    "none": Entry("", "", "collection"),
    "boxes": Entry("regions.boxes", "Boxes", "collection"),
    "grid": Entry("regions.boxes", "Grid"),
    "nanodet": Entry("regions.nanodet", "NanoDet", "file"),
    "yolox": Entry("regions.yolox", "YOLOX", "file"),
    "torchvision": Entry("regions.faster_rcnn", "FasterRCNN", "model", "fasterrcnn_resnet50_fpn_v2"),
    "paper": Entry("regions.faster_rcnn", "PaperRegions"),
    "selective_search": Entry("regions.selective_search", "SelectiveSearch"),
    "npy": Entry("npy", "NpyRegions", "file"),
    "data": Entry("feature_files", "DataRegions", "collection"),
}
TEXT_ENCODERS = {
    "npy": Entry("npy", "NpyTexts", "file"),
    "onnx": Entry("text.onnx", "OnnxTextEncoder", "file"),
    "transformers": Entry("hugging_face", "SentenceEncoder", "folder"),
    "clip": Entry("hugging_face", "ClipTexts", "folder"),
}


def open_backbone(text: str, collection: Collection | None = None) -> Backbone | PrecomputedImages:
    """Open the backbone of a spec, such as ``pixels``, ``onnx:FILE[tensor=NAME]``, ``torchvision:vgg19`` or ``data``.

    Raises:
        BadInput: the name or a field is unknown, a file is missing or of the wrong kind, or the data has no features.
    """
    return cast("Backbone | PrecomputedImages", _open("backbone", BACKBONES, text, collection))


def open_proposer(text: str, collection: Collection) -> Proposer | PrecomputedRegions | None:
    """Open the region proposer of a spec, such as ``boxes``, ``nanodet:FILE`` or ``paper``; None for ``none``.

    Raises:
        BadInput: the name or a field is unknown, a file is missing, or the collection has no boxes.
    """
    return cast("Proposer | PrecomputedRegions | None", _open("region proposer", PROPOSERS, text, collection))


def open_text_encoder(text: str, collection: Collection | None = None) -> TextEncoder | PrecomputedTexts:
    """Open the text encoder of a spec, such as ``npy:FILE[ids=FILE]`` or ``onnx:FILE[vocab=FILE]``.

    Raises:
        BadInput: the name or a field is unknown, a file is missing or of the wrong kind, or rows must be named.
    """
    return cast("TextEncoder | PrecomputedTexts", _open("text encoder", TEXT_ENCODERS, text, collection))


def is_path(text: str) -> bool:
    """Whether a field that takes a file or a name contains a path."""
    return "/" in text or Path(text).suffix != ""


def _open(kind: str, entries: Mapping[str, Entry], text: str, collection: Collection | None) -> Any:
    spec = parse_spec(text)
    if spec.name not in entries:
        suffix = Path(spec.name).suffix[1:]
        instead = f"; write {suffix}:{text.strip()}" if suffix in entries else did_you_mean(spec.name, entries)
        raise BadInput(f"there is no {kind} '{spec.name}'{instead}")
    entry = entries[spec.name]
    if entry.takes in ("fields", "collection") and spec.argument:
        raise BadInput(f"'{spec.name}' takes nothing after a colon, not '{spec.argument}'; write {spec.name}")
    options = {key: v for key, v in spec.options.items() if key != TRAINED_ON or spec.name in UNTRAINED}
    if entry.takes == "collection" and options:
        raise BadInput(f"'{spec.name}' has no fields; write {spec.name}, not {spec}")
    if entry.takes in ("file", "folder", "model") and not spec.argument:
        what = "the name of a network" if entry.takes == "model" else f"a {entry.takes}"
        raise BadInput(f"'{spec.name}' needs {what}; write {spec.name}:{entry.example or entry.takes.upper()}")
    declared(str(spec))  # reports a wrong declaration now
    if not entry.cls:
        return None
    cls = getattr(import_module(f"cran_bench.frontend.{entry.module}"), entry.cls)
    if entry.takes == "collection":
        return cls.of(collection)
    given = {**(sidecar_options(Path(spec.argument), cls) if entry.takes == "file" else {}), **options}
    if entry.takes != "fields":
        given[entry.takes] = spec.argument
    opened = build(cls, given, str(Spec(spec.name, spec.argument)))
    if collection is not None and not collection.as_listed and getattr(opened, "ids", "") is None:
        raise BadInput(
            f"{spec} needs ids=FILE, which names its rows, as {collection.name} has images or captions in "
            "another order than their list: by split, and by image"
        )
    return opened
