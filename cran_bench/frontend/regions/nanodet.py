"""``nanodet:FILE``: regions from NanoDet-m, a detector of the 80 MS-COCO classes (RangiLyu, 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cran_bench.errors import BadInput
from cran_bench.frontend.interfaces import REGIONS, Proposals, Proposer
from cran_bench.frontend.onnx_network import ImageNetwork, load_model
from cran_bench.frontend.regions.suppression import suppress

BINS = 8
_MEAN = np.array([103.53, 116.28, 123.675], np.float32)
_STD = np.array([57.375, 57.12, 58.395], np.float32)


@dataclass
class NanoDet(Proposer):
    """The five highest-scoring detections of an image, of any class, after non-maximum suppression within each class.

    The image is resized to the network's square input without keeping its aspect ratio.  With threshold 0 almost every
    image has five boxes, the last ones with low scores; with a higher threshold the front end pads missing regions.

    Attributes:
        file: path of the model.
        iou: intersection over union above which the lower-scoring of two boxes of one class is suppressed.
        threshold: minimum score of a box.
        size: side of the network's input in pixels; needed if the model's input shape does not fix it.

    Raises:
        BadInput: the file is not a NanoDet-m model.
    """

    file: str
    iou: float = 0.5
    threshold: float = 0.0
    size: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.iou <= 1:
            raise ValueError(f"iou must be above 0 and at most 1, not {self.iou}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be at least 0 and below 1, not {self.threshold}")
        path = Path(self.file)
        model, self._sha256 = load_model(path)
        self._network = ImageNetwork.open(model, path.name, size=self.size)
        self.size = self._network.size
        outputs = self._network.run(np.zeros((1, self.size, self.size, 3), np.float32))
        try:
            decode(outputs, self.size)
        except ValueError as error:
            raise BadInput(f"{path} is not a NanoDet-m: {error}; use the model of the first NanoDet release") from None

    def identity(self) -> Mapping[str, Any]:
        settings = {"iou": self.iou, "threshold": self.threshold, "size": self.size}
        return {"name": "nanodet", "file": Path(self.file).name, "sha256": self._sha256, **settings}

    def propose(self, rows: Sequence[int], images: Sequence[Image.Image]) -> list[Proposals]:
        return [self._detect(image) for image in images]

    def _detect(self, image: Image.Image) -> Proposals:
        size = self._network.size
        rgb = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
        outputs = self._network.run(((rgb[..., ::-1] - _MEAN) / _STD)[None])
        boxes, scores, classes = decode(outputs, size)
        boxes = boxes.clip(0, size)
        usable = np.flatnonzero((scores >= self.threshold) & np.all(boxes[:, 2:] - boxes[:, :2] >= 1, axis=1))
        best = usable[suppress(boxes[usable], scores[usable], classes[usable], self.iou, REGIONS)]
        return Proposals((boxes[best] / size).astype(np.float32), scores[best])


def decode(
    outputs: Sequence[NDArray[np.float32]], size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]]:
    """Decode the network's outputs into one box, score and class for every cell of every map.

    Args:
        outputs: for each stride, scores (1, n, classes) and distributions (1, n, 4 * 8) of the distances from the
            cell's centre to the left, top, right and bottom side, in strides; n = (size / stride)^2; in any order.
        size: side of the network's input in pixels.

    Returns:
        Boxes (M, 4), x0 y0 x1 y1 in pixels of the input; highest scores (M,); and their classes (M,).

    Raises:
        ValueError: the outputs have other shapes.
    """
    shapes = [output.shape for output in outputs]
    sides = {o.shape[1]: o[0] for o in outputs if o.ndim == 3 and o.shape[0] == 1 and o.shape[2] == 4 * BINS}
    scores = {o.shape[1]: o[0] for o in outputs if o.ndim == 3 and o.shape[0] == 1 and o.shape[2] != 4 * BINS}
    grids = {n: round(n**0.5) for n in sides}
    if not sides or sides.keys() != scores.keys() or any(g * g != n or size % g for n, g in grids.items()):
        raise ValueError(f"expected scores (1, n, classes) and distributions (1, n, 32) for each stride, got {shapes}")
    boxes = []
    for n, grid in grids.items():
        stride = size / grid
        weights = np.exp(sides[n] - sides[n].max(axis=1, keepdims=True)).reshape(n, 4, BINS)
        distances = weights @ np.arange(BINS, dtype=np.float32) / weights.sum(axis=2) * stride
        y, x = np.divmod(np.arange(n), grid)
        centres = (np.stack([x, y], axis=1) + 0.5) * stride
        boxes.append(np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1))
    every = np.concatenate([scores[n] for n in grids])
    return np.concatenate(boxes).astype(np.float32), every.max(axis=1), every.argmax(axis=1)
