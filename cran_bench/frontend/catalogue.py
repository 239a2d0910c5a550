"""From a spec to an image backbone or a region proposer.  A backend is imported when it is named."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from cran_bench.dataset import Collection
from cran_bench.errors import BadInput, did_you_mean
from cran_bench.frontend.interfaces import Backbone, PrecomputedImages, PrecomputedRegions, Proposer
from cran_bench.specs import Spec, build, parse_spec


class Entry(NamedTuple):
    """Where a backend is implemented, and what its spec takes.

    Attributes:
        module: below `cran_bench.frontend`.
        cls: name of the class; '' for no backend at all.
        takes: what follows the colon, ``file`` or ``model``; ``fields`` for options only; ``collection`` for neither,
            as everything comes with the data.
        example: a model's name, for the error message.
    """

    module: str
    cls: str
    takes: Literal["fields", "file", "model", "collection"] = "fields"
    example: str = ""


BACKBONES = {
    "pixels": Entry("images.pixels", "Pixels"),
    "onnx": Entry("images.onnx", "OnnxBackbone", "file"),
    "torchvision": Entry("images.torchvision", "TorchvisionBackbone", "model", "vgg19"),
    "npy": Entry("npy", "NpyImages", "file"),
    "data": Entry("feature_files", "DataImages", "collection"),
}
PROPOSERS = {
    "none": Entry("", "", "collection"),
    "boxes": Entry("regions.boxes", "Boxes", "collection"),
    "grid": Entry("regions.boxes", "Grid"),
    "nanodet": Entry("regions.nanodet", "NanoDet", "file"),
    "torchvision": Entry("regions.faster_rcnn", "FasterRCNN", "model", "fasterrcnn_resnet50_fpn_v2"),
    "paper": Entry("regions.faster_rcnn", "PaperRegions"),
    "selective_search": Entry("regions.selective_search", "SelectiveSearch"),
    "npy": Entry("npy", "NpyRegions", "file"),
    "data": Entry("feature_files", "DataRegions", "collection"),
}


def open_backbone(text: str, collection: Collection | None = None) -> Backbone | PrecomputedImages:
    """The image features of a spec, such as ``pixels``, ``onnx:FILE[tensor=NAME]``, ``torchvision:vgg19`` or ``data``.

    Raises:
        BadInput: an unknown name or field, a file that is missing or of another kind, or data without features.
    """
    spec = parse_spec(text)
    if spec.name not in BACKBONES:
        raise BadInput(f"there is no backbone '{spec.name}'{did_you_mean(spec.name, BACKBONES)}")
    return cast("Backbone | PrecomputedImages", _open(BACKBONES[spec.name], spec, collection))


def open_proposer(text: str, collection: Collection) -> Proposer | PrecomputedRegions | None:
    """The regions of a spec, such as ``boxes``, ``nanodet:FILE`` or ``paper``; None for ``none``.

    Raises:
        BadInput: an unknown name or field, a missing file, or a collection without boxes.
    """
    spec = parse_spec(text)
    if spec.name not in PROPOSERS:
        raise BadInput(f"there are no regions '{spec.name}'{did_you_mean(spec.name, PROPOSERS)}")
    return cast("Proposer | PrecomputedRegions | None", _open(PROPOSERS[spec.name], spec, collection))


def is_path(text: str) -> bool:
    """Whether a field that takes a file or a name holds a file."""
    return "/" in text or Path(text).suffix != ""


def _open(entry: Entry, spec: Spec, collection: Collection | None) -> Any:
    if entry.takes in ("fields", "collection") and spec.argument:
        raise BadInput(f"'{spec.name}' takes nothing after a colon, not '{spec.argument}'; write {spec.name}")
    if entry.takes == "collection" and spec.options:
        raise BadInput(f"'{spec.name}' has no fields; write {spec.name}, not {spec}")
    if entry.takes == "file" and not spec.argument:
        raise BadInput(f"'{spec.name}' needs a file; write {spec.name}:FILE")
    if entry.takes == "model" and not spec.argument:
        raise BadInput(f"'{spec.name}' needs the name of a network; write {spec.name}:{entry.example}")
    if not entry.cls:
        return None
    cls = getattr(import_module(f"cran_bench.frontend.{entry.module}"), entry.cls)
    if entry.takes == "collection":
        return cls.of(collection)
    given = dict(spec.options)
    if entry.takes != "fields":
        given[entry.takes] = spec.argument
    label = str(Spec(spec.name, spec.argument))
    return cls.open(given, label) if hasattr(cls, "open") else build(cls, given, label)
