"""``selective_search``: regions by grouping pixels, without any learning (Uijlings et al., IJCV 2013), by OpenCV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from cran_bench.frontend.interfaces import Proposals, Proposer
from cran_bench.frontend.regions.suppression import suppress
from cran_bench.machine.extras import require

LONG_SIDE = 400  # pixels to which a larger image is reduced before it is searched


@dataclass
class SelectiveSearch(Proposer):
    """Up to ten regions of an image, the largest first, none overlapping one before it by more than `iou`.

    OpenCV gives its proposals in an order that it draws by lot; the area stands in for it, and is the score.

    Attributes:
        regions: how many; ten in CCL (IEEE TMM 2018).
        iou: largest overlap of two regions, intersection over union.
        least: side of the smallest region, as a fraction of the image's.
        mode: of the search; `quality` groups in more ways and takes longer.
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
        """See Proposer."""
        settings = ("regions", "iou", "least", "mode")
        return {"name": "selective_search", **{name: getattr(self, name) for name in settings}}

    def propose(self, rows: Sequence[int], images: Sequence[Image.Image]) -> list[Proposals]:
        """See Proposer."""
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
        found = np.unique(np.asarray(search.process(), np.float64).reshape(-1, 4), axis=0)  # x, y, width, height
        boxes = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1) / [width, height, width, height]
        sides = boxes[:, 2:] - boxes[:, :2]
        solid = boxes[(sides.min(axis=1) >= self.least)].astype(np.float32)
        areas = np.prod(solid[:, 2:] - solid[:, :2], axis=1)
        kept = suppress(solid, areas, np.zeros(len(solid), np.intp), self.iou, self.count)
        return Proposals(solid[kept], areas[kept])
