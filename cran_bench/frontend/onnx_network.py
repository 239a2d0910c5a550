"""ONNX models: loading them, and running networks whose only input is an image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cran_bench.errors import BadInput
from cran_bench.machine.extras import require
from cran_bench.machine.storage import remedy

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession


_DTYPES: Mapping[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


def load_model(path: Path) -> tuple[ModelProto, str]:
    """Load an ONNX model with its external weights, if any; return it with one sha256 of all its files.

    Raises:
        BadInput: a file is missing or not an ONNX model, or the package `onnx` is not installed.
    """
    if not path.is_file():
        raise BadInput(f"there is no ONNX model {path}; give the path of a .onnx file")
    onnx = require("onnx", "onnx", "ONNX models")
    try:
        model = onnx.load(str(path), load_external_data=False)
        if not model.graph.node:
            raise ValueError("its graph is empty")
        tensors = [t for t in model.graph.initializer if t.external_data]
        parts = sorted({entry.value for t in tensors for entry in t.external_data if entry.key == "location"})
        digest = hashlib.sha256(path.read_bytes())
        for part in parts:
            if Path(part).is_absolute() or ".." in Path(part).parts or not (path.parent / part).is_file():
                raise ValueError(f"its weights {part} are not in the same folder")
            digest.update((path.parent / part).read_bytes())
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # protobuf and onnx raise many kinds for damaged files
        usual = remedy(path, "download or export it again")
        raise BadInput(f"{path} cannot be read as an ONNX model ({error}): {usual}") from error
    return model, digest.hexdigest()


def open_session(model: ModelProto, name: str) -> InferenceSession:
    """Open an onnxruntime session, on CUDA if available and with as many threads as torch uses.

    Raises:
        BadInput: onnxruntime is not installed, or cannot open the model, which the message calls `name`.
    """
    runtime = require("onnxruntime", "onnx", "ONNX models")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only: exported models cause many harmless warnings
    providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in runtime.get_available_providers()]
    try:
        return runtime.InferenceSession(model.SerializeToString(), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise BadInput(f"onnxruntime cannot open {name}: {error}") from error


@dataclass(frozen=True)
class ImageNetwork:
    """A network with one image input.

    Attributes:
        session: onnxruntime's session.
        model: name of the model in messages.
        input: name of the input.
        dtype: numpy dtype of the input.
        layout: order of the input's axes.
        size: side of the square image in pixels.
        batch: fixed batch size, or None for any.
    """

    session: InferenceSession
    model: str
    input: str
    dtype: Any
    layout: Literal["nchw", "nhwc"]
    size: int
    batch: int | None

    @classmethod
    def open(
        cls, model: ModelProto, name: str, layout: Literal["nchw", "nhwc"] | None = None, size: int | None = None
    ) -> ImageNetwork:
        """Open a loaded model; `layout` and `size` are needed where the shape of its input does not determine them.

        Raises:
            BadInput: the input is not one square RGB image, `size` contradicts it, or `layout` or `size` is needed.
        """
        session = open_session(model, name)
        inputs = session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(i.name for i in inputs)
            raise BadInput(f"{name} has {len(inputs)} inputs ({names}); choose a tensor that needs only the image")
        shape = [n if isinstance(n, int) and n > 0 else None for n in inputs[0].shape]
        takes = f"takes {inputs[0].type} of shape {inputs[0].shape}"
        wrong = f"{name} should take one square RGB image as float32, float16 or uint8, but {takes}; re-export it"
        if len(shape) != 4 or inputs[0].type not in _DTYPES:
            raise BadInput(wrong)
        if layout is None:
            if (shape[1] == 3) == (shape[3] == 3):
                raise BadInput(f"{name} {takes}, so the colour axis is ambiguous; set layout=nchw or layout=nhwc")
            layout = "nchw" if shape[1] == 3 else "nhwc"
        colours, height, width = (shape[1], shape[2], shape[3]) if layout == "nchw" else (shape[3], shape[1], shape[2])
        if colours not in (3, None) or (height and width and height != width):
            raise BadInput(wrong)
        side = height or width or size
        if side is None or side < 1:
            raise BadInput(f"{name} takes images of any size; set the size it was trained with, such as size=224")
        if size not in (None, side):
            raise BadInput(f"{name} takes images of {side} x {side} pixels, not size={size}; leave size out")
        return cls(session, name, inputs[0].name, _DTYPES[inputs[0].type], layout, side, shape[0])

    def run(self, images: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Return all outputs for `images` (B, size, size, 3); a fixed batch size must be at least B and is padded to.

        Raises:
            BadInput: the network fails.
        """
        missing = (self.batch or len(images)) - len(images)
        array = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images
        array = array.transpose(0, 3, 1, 2) if self.layout == "nchw" else array
        array = array.round().clip(0, 255) if self.dtype is np.uint8 else array
        try:
            outputs: list[NDArray[Any]] = self.session.run(
                None, {self.input: np.ascontiguousarray(array, dtype=self.dtype)}
            )
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise BadInput(f"{self.model} fails on an array of shape {array.shape}: {error}") from error
        return outputs
