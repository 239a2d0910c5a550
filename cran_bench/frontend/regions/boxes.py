"""Regions without a detector: the boxes that come with the data, or a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cran_bench.dataset import Collection
from cran_bench.errors import BadInput
from cran_bench.frontend.interfaces import REGIONS, Proposals, Proposer
from cran_bench.machine.storage import sha256_bytes


@dataclass(frozen=True)
class Boxes(Proposer):
    """``boxes``: the regions that come with the data, all with score 1.

    Attributes:
        boxes: (N, R, 4) float32, x0 y0 x1 y1 as fractions of width and height.
    """

    boxes: NDArray[np.float32]

    @classmethod
    def of(cls, collection: Collection) -> Boxes:
        """The boxes of a collection.

        Raises:
            BadInput: the collection has no boxes.
        """
        if collection.boxes is None:
            raise BadInput(f"{collection.name} comes without boxes; choose grid, nanodet:FILE or npy:FILE for regions")
        return cls(collection.boxes)

    def identity(self) -> Mapping[str, Any]:
        return {"name": "boxes", "sha256": sha256_bytes(np.ascontiguousarray(self.boxes).tobytes())}

    def propose(self, rows: Sequence[int], images: Sequence[Image.Image]) -> list[Proposals]:
        return [Proposals(self.boxes[row], np.ones(len(self.boxes[row]), np.float32)) for row in rows]


@dataclass(frozen=True)
class Grid(Proposer):
    """``grid``: the same five boxes for every image, at the centre and the four corners, all with score 1.

    Attributes:
        side: width and height of a box as a fraction of the image's.
    """

    side: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.side <= 1:
            raise ValueError(f"side must be above 0 and at most 1, not {self.side}")

    def identity(self) -> Mapping[str, Any]:
        return {"name": "grid", "side": self.side}

    def propose(self, rows: Sequence[int], images: Sequence[Image.Image]) -> list[Proposals]:
        far = 1 - self.side
        corners = np.array([(far / 2, far / 2), (0, 0), (far, 0), (0, far), (far, far)])
        boxes = np.concatenate([corners, np.minimum(corners + self.side, 1)], axis=1)
        return [Proposals(boxes.astype(np.float32), np.ones(REGIONS, np.float32))] * len(rows)
