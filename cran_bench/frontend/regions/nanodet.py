"""``nanodet:FILE``: regions from NanoDet-m, a detector of the 80 MS-COCO classes (RangiLyu, 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cran_bench.frontend.regions.detector import Detections, OnnxDetector

BINS = 8
_MEAN = np.array([103.53, 116.28, 123.675], np.float32)
_STD = np.array([57.375, 57.12, 58.395], np.float32)


class NanoDet(OnnxDetector):
    """NanoDet-m.  The image is resized to the network's square input without keeping its aspect ratio.

    The network gives for each stride scores (1, n, classes) and distributions (1, n, 4 * 8) of the distances from the
    cell's centre to the left, top, right and bottom side, in strides; n = (size / stride)^2.
    """

    name = "nanodet"
    expected = ("a NanoDet-m", "use the model of the first NanoDet release")

    def prepare(self, image: Image.Image, size: int) -> tuple[NDArray[np.float32], tuple[int, int]]:
        rgb = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
        return (rgb[..., ::-1] - _MEAN) / _STD, (size, size)

    @staticmethod
    def count_classes(outputs: Sequence[NDArray[np.float32]]) -> int:
        return int(next(output.shape[2] for output in outputs if output.shape[2] != 4 * BINS))

    @staticmethod
    def decode(outputs: Sequence[NDArray[np.float32]], size: int) -> Detections:
        """Decode the scores and distributions of all strides, in any order.

        Raises:
            ValueError: the outputs have other shapes.
        """
        shapes = [output.shape for output in outputs]
        sides = {o.shape[1]: o[0] for o in outputs if o.ndim == 3 and o.shape[0] == 1 and o.shape[2] == 4 * BINS}
        scores = {o.shape[1]: o[0] for o in outputs if o.ndim == 3 and o.shape[0] == 1 and o.shape[2] != 4 * BINS}
        grids = {n: round(n**0.5) for n in sides}
        if not sides or sides.keys() != scores.keys() or any(g * g != n or size % g for n, g in grids.items()):
            raise ValueError(
                f"expected scores (1, n, classes) and distributions (1, n, 32) for each stride, got {shapes}"
            )
        boxes = []
        for n, grid in grids.items():
            stride = size / grid
            weights = np.exp(sides[n] - sides[n].max(axis=1, keepdims=True)).reshape(n, 4, BINS)
            distances = weights @ np.arange(BINS, dtype=np.float32) / weights.sum(axis=2) * stride
            y, x = np.divmod(np.arange(n), grid)
            centres = (np.stack([x, y], axis=1) + 0.5) * stride
            boxes.append(np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1))
        every = np.concatenate([scores[n] for n in grids])
        return Detections(np.concatenate(boxes).astype(np.float32), every.max(axis=1), every.argmax(axis=1))
