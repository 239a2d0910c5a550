"""What a front end is put together from: image backbones, region proposers, and features computed elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Backbone(Protocol):
    """An image network that embeds whole images and crops alike."""

    @property
    def dim(self) -> int:
        """Length of a feature."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """JSON values of everything that determines the features: name, options, sha256 of the weights."""
        ...

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """One RGB picture as the array the network takes, all of one shape and dtype."""
        ...

    def embed(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """(B, ...) prepared pictures to (B, dim) features."""
        ...


REGIONS = 5


FULL_IMAGE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Proposals:
    """The boxes of one image, best first.

    Attributes:
        boxes: (k, 4) float32 x0 y0 x1 y1 as fractions of width and height.
        scores: (k,) float32.
        features: (k + 1, features_dim) float32 of the boxes and, last, of the whole image, or None.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    features: NDArray[np.float32] | None = None


class Proposer(ABC):
    """Finds regions.  Of more than `count` the front end takes the first; of fewer it pads with the full image, masked.

    Attributes:
        count: regions of an image.
        crops_with: the network that embeds what lies in a box; None for the one that embeds whole images.
        features_dim: length of the features that come with the boxes; None where crops are embedded.
    """

    count: int = REGIONS
    crops_with: Backbone | None = None
    features_dim: int | None = None

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """JSON values of everything that determines the regions: name, options, sha256 of the weights."""

    @abstractmethod
    def propose(self, rows: Sequence[int], images: Sequence[Image.Image]) -> list[Proposals]:
        """The regions of some images, given with their rows in the collection; each depends on its image alone."""


class PrecomputedImages(ABC):
    """Features of whole images.

    Attributes:
        dim: length of a feature.
    """

    dim: int

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """JSON values of everything that determines the features, but for the images."""

    @abstractmethod
    def features(self, ids: Sequence[str], part: range | None = None) -> NDArray[np.float32]:
        """(N, dim) features of the images `ids`, all of a collection, or only of those at the positions `part`."""


class PrecomputedRegions(ABC):
    """Features and boxes of five regions of every image.

    Attributes:
        dim: length of a feature.
    """

    dim: int

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """JSON values of everything that determines features and boxes, but for the images."""

    @abstractmethod
    def regions(self, ids: Sequence[str], part: range | None = None) -> RegionFeatures:
        """The regions of the images `ids`, all of a collection, or only of those at the positions `part`."""


@dataclass(frozen=True)
class RegionFeatures:
    """Five regions of each of N images.

    Attributes:
        regions: (N, 5, dim) float32 features, zero where masked.
        boxes: (N, 5, 4) float32 x0 y0 x1 y1 as fractions; the full image where masked.
        scores: (N, 5) float32, 1 for a region and 0 where masked.
        mask: (N, 5) bool, False where the files have no such region.
    """

    regions: NDArray[np.float32]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    mask: NDArray[np.bool_]
