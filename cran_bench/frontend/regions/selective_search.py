"""``selective_search``: OpenCV's Selective Search (Uijlings et al., IJCV 2013), which needs no trained network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from cran_bench.frontend.interfaces import Proposals, Proposer
from cran_bench.frontend.regions.suppression import suppress
from cran_bench.machine.extras import require

LONG_SIDE = 400  # pixels; larger images are downscaled to this before the search


@dataclass
class SelectiveSearch(Proposer):
    """Up to ten regions of an image, largest first, after non-maximum suppression.

    OpenCV returns the proposals in random order, so their area serves as the score.

    Attributes:
        regions: maximum number of regions per image; ten as in CCL (IEEE TMM 2018).
        iou: intersection over union above which the smaller of two regions is suppressed.
        least: minimum width and height of a region as a fraction of the image's.
        mode: search mode; `quality` uses more groupings and takes longer.
    """

    regions: int = 10
    iou: float = 0.5
    least: float = 0.1
    mode: Literal["fast", "quality"] = "fast"

    def __post_init__(self) -> None:
        if self.regions < 2:
            raise ValueError(f"regions must be at least 2, not {self.regions}")
        for name in ("iou", "least"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        self.count = self.regions
        self._cv2 = require("cv2.ximgproc", "images", "selective_search's regions")

    def identity(self) -> Mapping[str, Any]:
        settings = ("regions", "iou", "least", "mode")
        return {"name": "selective_search", **{name: getattr(self, name) for name in settings}}

    def propose(self, rows: Sequence[int], images: Sequence[Image.Image]) -> list[Proposals]:
        return [self._search(image) for image in images]

    def _search(self, image: Image.Image) -> Proposals:
        scale = min(1.0, LONG_SIDE / max(image.size))
        width, height = (max(1, round(side * scale)) for side in image.size)
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        search = self._cv2.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(pixels[..., ::-1]))
        if self.mode == "fast":
            search.switchToSelectiveSearchFast()
        else:
            search.switchToSelectiveSearchQuality()
        rectangles = np.unique(np.asarray(search.process(), np.float64).reshape(-1, 4), axis=0)  # x, y, width, height
        corners, extents = rectangles[:, :2], rectangles[:, 2:]
        boxes = np.concatenate([corners, corners + extents], axis=1) / [width, height, width, height]
        sides = boxes[:, 2:] - boxes[:, :2]
        usable = boxes[(sides.min(axis=1) >= self.least)].astype(np.float32)
        areas = np.prod(usable[:, 2:] - usable[:, :2], axis=1)
        kept = suppress(usable, areas, np.zeros(len(usable), np.intp), self.iou, self.count)
        return Proposals(usable[kept], areas[kept])
