"""The scores of pairs that people rated: only their order is kept, which rank correlations need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """J pairs of an image and a caption that people rated, in the order of a method's scores.

    Attributes:
        image: (J,) int32, positions of images in the test split.
        caption: (J,) int32, positions of captions.
        rank: (J,) int32, dense rank of the pair's score among all J, from 0 for the lowest; equal scores share one.
        ratings: (J, R) float64, the ratings of R people.
    """

    image: NDArray[np.int32]
    caption: NDArray[np.int32]
    rank: NDArray[np.int32]
    ratings: NDArray[np.float64]

    ARRAYS: ClassVar[Mapping[str, Any]] = {
        **dict.fromkeys(("image", "caption", "rank"), np.int32),
        "ratings": np.float64,
    }
    """The arrays as which it is stored, with their types; `ratings` in one row."""

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """`ARRAYS` by name."""
        return {**vars(self), "ratings": self.ratings.ravel()}

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]], images: int, captions: int) -> Agreement:
        """What is stored as `arrays`, of a split of so many images and captions.

        Raises:
            ValueError: the arrays do not fit together, or name a pair that does not exist.
        """
        image, caption, rank = (arrays[name] for name in ("image", "caption", "rank"))
        people, rest = divmod(len(arrays["ratings"]), max(1, len(image)))
        if not len(image) or any(x.shape != image.shape for x in (caption, rank)) or rest or not people:
            raise ValueError("the ratings do not belong to the pairs")
        if min(image.min(), caption.min(), rank.min()) < 0 or image.max() >= images or caption.max() >= captions:
            raise ValueError("a rated pair does not exist")
        return Agreement(image, caption, rank, arrays["ratings"].reshape(len(image), people))
