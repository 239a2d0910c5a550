"""``yolox:FILE``: regions from YOLOX, a detector of the 80 MS-COCO classes (Ge et al., arXiv:2107.08430, 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cran_bench.frontend.regions.detector import Detections, OnnxDetector

STRIDES = (8, 16, 32)
PADDING = 114
_LARGEST = 20  # logarithm of the side of a box, in strides


class YOLOX(OnnxDetector):
    """YOLOX-nano or a larger one.  The image keeps its aspect ratio, in the upper left of a grey square.

    The network gives one row for each cell of the maps of all strides, (1, M, 5 + classes) with M the sum of
    (size / stride)^2: the box's centre relative to the cell (i, j) and the logarithm of its sides, in strides,

        centre = ((j, i) + offset) * stride,    sides = exp(logarithm) * stride,

    objectness and the scores of the classes given an object, whose product is the score.
    """

    name = "yolox"
    expected = ("a YOLOX", "use one of its releases, or export it with undecoded boxes")

    def prepare(self, image: Image.Image, size: int) -> tuple[NDArray[np.float32], tuple[int, int]]:
        scale = size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        pixels = np.full((size, size, 3), PADDING, np.float32)
        pixels[:height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))[..., ::-1]
        return pixels, (width, height)

    @staticmethod
    def count_classes(outputs: Sequence[NDArray[np.float32]]) -> int:
        return int(outputs[0].shape[2] - 5)

    @staticmethod
    def decode(outputs: Sequence[NDArray[np.float32]], size: int) -> Detections:
        """Decode the rows of all strides, the finest first.

        Raises:
            ValueError: the output has another shape, scores outside [0, 1], or boxes that are decoded already.
        """
        grids = [size // stride for stride in STRIDES]
        cells, shapes = sum(grid * grid for grid in grids), [output.shape for output in outputs]
        is_grid = size % STRIDES[-1] == 0 and [shape[:-1] for shape in shapes] == [(1, cells)]
        if not is_grid or shapes[0][2] < 6:
            raise ValueError(f"expected one output (1, {cells}, 5 + classes) for {size} x {size} pixels, got {shapes}")
        rows = outputs[0][0].astype(np.float32)
        if np.any((rows[:, 4:] < 0) | (rows[:, 4:] > 1)):
            raise ValueError("it has scores below 0 or above 1")
        if np.mean(rows[:, 2:4] > _LARGEST / 2) > 0.5:
            raise ValueError("its boxes are decoded already")
        corners = np.concatenate([np.stack(np.divmod(np.arange(g * g), g)[::-1], axis=1) for g in grids])
        strides = np.repeat(STRIDES, [g * g for g in grids])[:, None]
        centres = (rows[:, :2] + corners) * strides
        halves = np.exp(np.minimum(rows[:, 2:4], _LARGEST)) * strides / 2
        scores = rows[:, 4:5] * rows[:, 5:]
        boxes = np.concatenate([centres - halves, centres + halves], axis=1).astype(np.float32)
        return Detections(boxes, scores.max(axis=1), scores.argmax(axis=1))
