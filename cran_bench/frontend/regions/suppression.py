"""Non-maximum suppression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def suppress(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], groups: NDArray[np.intp], iou: float, most: int
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression within groups.

    Args:
        boxes: (M, 4) x0 y0 x1 y1.
        scores: (M,) score of each box.
        groups: (M,) group of each box, such as its class; boxes of different groups never suppress each other.
        iou: intersection over union with a better box above which a box is suppressed.
        most: maximum number of boxes to keep.

    Returns:
        (k,) indices of the boxes kept, best first, k <= most.
    """
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    left = np.argsort(-scores, kind="stable")
    kept: list[np.intp] = []
    while len(left) and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(best)
        corner = np.maximum(boxes[best, :2], boxes[left, :2])
        shared = np.prod((np.minimum(boxes[best, 2:], boxes[left, 2:]) - corner).clip(0), axis=1)
        same = groups[left] == groups[best]
        left = left[~(same & (shared > iou * (areas[best] + areas[left] - shared)))]
    return np.array(kept, dtype=np.intp)
