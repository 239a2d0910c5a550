"""Image backbones: from a picture, or a crop of one, to a vector.

``pixels``, ``onnx:FILE``, ``torchvision:NAME``, ``npy:FILE`` and ``data``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cran_bench.dataset import Collection
from cran_bench.errors import BadInput, did_you_mean
from cran_bench.specs import Spec, build, parse_spec

if TYPE_CHECKING:
    from cran_bench.frontend.precomputed import PrecomputedImages


class Backbone(Protocol):
    """An image network that embeds whole images and crops alike."""

    @property
    def dim(self) -> int:
        """Length of a feature."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """JSON values of everything that determines the features: name, options, sha256 of the weights."""
        ...

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """One RGB picture as the array the network takes, all of one shape and dtype."""
        ...

    def embed(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """(B, ...) prepared pictures to (B, dim) features."""
        ...


def open_backbone(text: str, collection: Collection | None = None) -> Backbone | PrecomputedImages:
    """The image features of a spec, such as ``pixels``, ``onnx:FILE[tensor=NAME]``, ``torchvision:vgg19`` or ``data``.

    Raises:
        BadInput: an unknown name or field, a file that is missing or of another kind, or data without features.
    """
    spec = parse_spec(text)
    if spec.name not in BACKBONES:
        raise BadInput(f"there is no backbone '{spec.name}'{did_you_mean(spec.name, BACKBONES)}")
    return BACKBONES[spec.name](spec, collection)


def fields_of(spec: Spec, file: bool) -> dict[str, str]:
    """The fields of a spec, among them `file`, what stands behind the colon, for those that take one.

    Raises:
        BadInput: the file is not given, or something is that means nothing.
    """
    if not file and spec.argument:
        raise BadInput(f"'{spec.name}' takes nothing after a colon, not '{spec.argument}'; write {spec.name}")
    if file and not spec.argument:
        raise BadInput(f"'{spec.name}' needs a file; write {spec.name}:FILE")
    return {**spec.options, "file": spec.argument} if file else dict(spec.options)


def refuse_fields(spec: Spec) -> None:
    """Say that a spec takes nothing behind its name.

    Raises:
        BadInput: there is something.
    """
    if fields_of(spec, file=False):
        raise BadInput(f"'{spec.name}' has no fields; write {spec.name}, not {spec}")


def is_path(text: str) -> bool:
    """Whether a field that takes a file or a name holds a file."""
    return "/" in text or Path(text).suffix != ""


def model_and_fields(spec: Spec, example: str) -> dict[str, str]:
    """The fields of a spec, among them `model`, what stands behind the colon.

    Raises:
        BadInput: no model is given.
    """
    if not spec.argument:
        raise BadInput(f"'{spec.name}' needs the name of a network; write {spec.name}:{example}")
    return {**spec.options, "model": spec.argument}


def _pixels(spec: Spec, _: Collection | None) -> Backbone:
    from cran_bench.frontend.pixels import Pixels

    return build(Pixels, fields_of(spec, file=False), spec.name)


def _onnx(spec: Spec, _: Collection | None) -> Backbone:
    from cran_bench.frontend.onnx_models import OnnxBackbone

    return OnnxBackbone.open(spec.argument, fields_of(spec, file=True))


def _torchvision(spec: Spec, _: Collection | None) -> Backbone:
    from cran_bench.frontend.torchvision_models import TorchvisionBackbone

    return build(TorchvisionBackbone, model_and_fields(spec, "vgg19"), str(Spec(spec.name, spec.argument)))


def _npy(spec: Spec, _: Collection | None) -> PrecomputedImages:
    from cran_bench.frontend.precomputed import NpyImages

    return build(NpyImages, fields_of(spec, file=True), spec.name)


def _data(spec: Spec, collection: Collection | None) -> PrecomputedImages:
    from cran_bench.frontend.feature_files import DataImages

    refuse_fields(spec)
    return DataImages.of(collection)


BACKBONES: dict[str, Callable[[Spec, Collection | None], Backbone | PrecomputedImages]] = {
    "pixels": _pixels,
    "onnx": _onnx,
    "torchvision": _torchvision,
    "npy": _npy,
    "data": _data,
}
