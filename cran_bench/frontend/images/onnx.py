"""``onnx:FILE``: any ONNX image network as a backbone, truncated at an inner tensor."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cran_bench.errors import BadInput, did_you_mean
from cran_bench.frontend.onnx_network import ImageNetwork, load_model

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


PENULTIMATE = "penultimate"
_CLASSIFIERS = {"MatMul", "Gemm", "Conv", "QLinearMatMul", "QLinearConv", "QGemm", "MatMulInteger", "ConvInteger"}
_QUANTISERS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass
class OnnxBackbone:
    """``onnx:FILE[tensor=NAME]``: one tensor of an ONNX image network as a feature vector.

    A four-dimensional tensor is averaged over its square map, a three-dimensional one (batch, tokens, features) over
    the tokens.  By default the feature is the model's first output, which for a classifier is the class scores;
    `tensor=penultimate` is the input of the last matrix product or convolution.  A JSON file beside the model may set
    the fields.  After construction every field holds the value in use.

    Attributes:
        file: path of the model.
        tensor: name of a tensor, or `penultimate`; by default the first output.
        size: side of the network's input in pixels; needed if the model's input shape does not fix it.
        layout: order of the input's axes; needed if the model's input shape does not fix it.
        channels: order of the colour channels.
        mean: three values to subtract, on the 0-255 scale and in the order of `channels`; by default 127.5 for nhwc
            networks, ImageNet's mean for nchw networks, and 0 for uint8 inputs.
        std: three values to divide by, given like `mean`; by default 127.5, ImageNet's standard deviation, or 1.
        crop: `warp` resizes to size x size; `center` resizes the short side to `resize` and crops the centre.
        resize: short side for `center` in pixels; by default size / 0.875.
        dim: dimension of a feature.

    Raises:
        BadInput: the file is not a usable image network, or has no such tensor.
    """

    file: str
    tensor: str | None = None
    size: int | None = None
    layout: Literal["nchw", "nhwc"] | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: Literal["warp", "center"] = "warp"
    resize: int | None = None
    dim: int = field(init=False)

    def __post_init__(self) -> None:
        for name, value in (("mean", self.mean), ("std", self.std)):
            if value is not None and len(value) != 3:
                raise ValueError(f"{name} takes three numbers separated by |, one for each colour, not {len(value)}")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be above 0")
        path = Path(self.file)
        model, self._sha256 = load_model(path)
        self.tensor = _find_tensor(model, self.tensor, path.name)
        _cut(model, self.tensor)
        self._network = ImageNetwork.open(model, path.name, self.layout, self.size)
        self.layout, self.size = self._network.layout, self._network.size
        self.resize = (self.resize or round(self.size / 0.875)) if self.crop == "center" else None
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize={self.resize} is smaller than the network's {self.size} pixels; make it larger")
        half = (127.5, 127.5, 127.5)
        mean, std = _IMAGENET if self.layout == "nchw" else (half, half)
        if self.channels == "bgr":
            mean, std = mean[::-1], std[::-1]
        if self._network.dtype is np.uint8:
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        self.mean, self.std = self.mean or mean, self.std or std
        self.dim = self.embed(np.zeros((2, self.size, self.size, 3), np.uint8)).shape[1]

    def identity(self) -> Mapping[str, Any]:
        settings = ("tensor", "size", "layout", "channels", "mean", "std", "crop", "resize")
        values = {name: getattr(self, name) for name in settings}
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
        return {"name": "onnx", "file": Path(self.file).name, "sha256": self._sha256, **values}

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop an image to (size, size, 3) uint8 RGB."""
        size = self._network.size
        if self.resize is None:
            return np.array(image.resize((size, size), Image.Resampling.BILINEAR))
        scale = self.resize / min(image.size)
        width, height = (max(self.resize, round(side * scale)) for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.array(resized.crop((left, top, left + size, top + size)))

    def embed(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Embed (B, size, size, 3) uint8 images: (B, dim) float32."""
        if not len(batch):
            return np.zeros((0, self.dim), np.float32)
        images = (batch[..., ::-1] if self.channels == "bgr" else batch).astype(np.float32)
        images -= np.asarray(self.mean, np.float32)
        images /= np.asarray(self.std, np.float32)
        step = self._network.batch or len(images)
        parts = [self._features(images[start : start + step]) for start in range(0, len(images), step)]
        return np.concatenate(parts)

    def _features(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        (values,) = self._network.run(images)
        if values.ndim < 2 or values.ndim > 4 or len(values) != (self._network.batch or len(images)):
            raise BadInput(
                f"tensor '{self.tensor}' of {Path(self.file).name} has shape {values.shape} for a batch of "
                f"{self._network.batch or len(images)}; choose one of shape (batch, features[, height, width])"
            )
        if values.ndim == 4:
            _, a, b, c = values.shape
            # nhwc networks mostly use nchw internally: the two equal axes are the map.
            channels_first = self.layout == "nchw" if (a == b) == (b == c) else b == c
            values = values.mean(axis=(2, 3) if channels_first else (1, 2), dtype=np.float32)
        elif values.ndim == 3:
            values = values.mean(axis=1, dtype=np.float32)
        return values[: len(images)].astype(np.float32, copy=False)


def _find_tensor(model: ModelProto, wanted: str | None, what: str) -> str:
    """The name of the tensor `wanted`, which must depend on the model's inputs."""
    graph = model.graph
    constant = {tensor.name for tensor in graph.initializer}
    live = {i.name for i in graph.input} - constant
    producer: dict[str, NodeProto] = {}
    data_input: dict[str, str] = {}  # always an earlier tensor, so that following it cannot loop
    for node in graph.node:
        if live.intersection(_reads(node)):
            outputs = [name for name in node.output if name and name not in live]
            producer.update(dict.fromkeys(outputs, node))
            data_input.update(dict.fromkeys(outputs, next((i for i in node.input if i in live), "")))
            live.update(outputs)
    if not graph.output:
        raise BadInput(f"{what} has no output; re-export it")
    first = str(graph.output[0].name)
    if wanted is None:
        return first
    if wanted in producer:
        return wanted
    if wanted != PENULTIMATE:
        near = difflib.get_close_matches(wanted, producer, n=1) or list(producer)[-4:]
        raise BadInput(f"{what} has no tensor '{wanted}'{did_you_mean(wanted, [PENULTIMATE, *near])}")

    name = first
    while name in producer and producer[name].op_type not in _CLASSIFIERS:
        name = data_input[name]
    if name not in producer:
        raise BadInput(
            f"{what} has no final matrix product or convolution, so tensor={PENULTIMATE} is undefined; name a tensor"
        )
    name = data_input[name]
    while name in producer and producer[name].op_type in _QUANTISERS:
        name = data_input[name]
    if name not in producer:
        raise BadInput(f"{what} has only one layer and so no {PENULTIMATE} tensor; leave tensor= out")
    return name


def _cut(model: ModelProto, tensor: str) -> None:
    """Reduce the model to the nodes that compute `tensor`, its new only output."""
    graph = model.graph
    needed = {tensor}
    for k in reversed(range(len(graph.node))):
        if needed.intersection(graph.node[k].output):
            needed.update(_reads(graph.node[k]))
        else:
            del graph.node[k]
    for items in (graph.input, graph.initializer):
        for k in reversed(range(len(items))):
            if items[k].name not in needed:
                del items[k]
    del graph.output[:]
    graph.output.add().name = tensor


def _reads(node: NodeProto) -> Iterator[str]:
    """All tensors that a node reads, including those read by its subgraphs (If, Loop)."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)
