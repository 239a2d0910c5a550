"""The interfaces of a front end's components: backbones, region proposers, text encoders, precomputed features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cran_bench.dataset import Collection


class Encoder(Protocol):
    """A network that embeds images or sentences."""

    @property
    def dim(self) -> int:
        """Dimension of a feature."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """Return JSON values of everything that determines the features: name, options, sha256 of the weights."""
        ...


class Backbone(Encoder, Protocol):
    """An image network that embeds whole images and crops."""

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """Convert an RGB image to the network's input, an array of fixed shape and dtype."""
        ...

    def embed(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Embed a batch (B, ...) of prepared images: (B, dim) features."""
        ...


REGIONS = 5
FULL_IMAGE = (0.0, 0.0, 1.0, 1.0)
NO_CLASS = -1


@dataclass(frozen=True)
class Proposals:
    """The region proposals of one image, best first.

    Attributes:
        boxes: (k, 4) float32, x0 y0 x1 y1 as fractions of width and height.
        scores: (k,) float32, confidence.
        features: (k + 1, features_dim) float32, features of the k boxes and of the whole image, or None.
        classes: (k,) int16, classes of the boxes among the 80 of MS-COCO, -1 for another one, or None.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    features: NDArray[np.float32] | None = None
    classes: NDArray[np.int16] | None = None


class Proposer(ABC):
    """A region proposer.

    The front end keeps the first `count` proposals of an image and pads fewer with the full image, masked.

    Attributes:
        count: number of regions per image.
        crops_with: the backbone that embeds the crops; None for the one that embeds whole images.
        features_dim: dimension of the features that the proposer returns; None if crops are embedded.
        has_classes: whether the proposals have classes.
    """

    count: int = REGIONS
    crops_with: Backbone | None = None
    features_dim: int | None = None
    has_classes: bool = False

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Return JSON values of everything that determines the regions: name, options, sha256 of the weights."""

    @abstractmethod
    def propose(self, rows: Sequence[int], images: Sequence[Image.Image]) -> list[Proposals]:
        """Propose regions for each image, given with its row in the collection, independently of the other images."""


class Precomputed(ABC):
    """Features computed elsewhere.

    Attributes:
        dim: dimension of a feature.
    """

    dim: int

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Return JSON values that, with the images or captions, determine the features, and the boxes of regions."""


class PrecomputedImages(Precomputed):
    """Precomputed features of whole images."""

    @abstractmethod
    def features(self, ids: Sequence[str], part: range | None = None) -> NDArray[np.float32]:
        """Return the features of all images of a collection, or of those at the positions `part`: (N, dim)."""


class PrecomputedRegions(Precomputed):
    """Precomputed features and boxes of five regions of every image."""

    @abstractmethod
    def regions(self, ids: Sequence[str], part: range | None = None) -> RegionFeatures:
        """Return the regions of all images of a collection, or of those at the positions `part`."""


class PrecomputedTexts(Precomputed):
    """Precomputed features of captions."""

    @abstractmethod
    def features(self, collection: Collection, captions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the features of the captions of a collection at the positions `captions` (n,): (n, dim).

        If there are features of documents, that of image i is at the position T + i, after the T captions.
        """

    def documents(self, collection: Collection) -> int:
        """Return N if there are features of the documents of all N images of a collection, else 0."""
        return 0


@dataclass(frozen=True)
class RegionFeatures:
    """Features and boxes of five regions of each of N images.

    Attributes:
        regions: (N, 5, dim) float32, features; zero where masked.
        boxes: (N, 5, 4) float32, x0 y0 x1 y1 as fractions of width and height; the full image where masked.
        scores: (N, 5) float32, 1 for a region and 0 where masked.
        mask: (N, 5) bool, False where the files have no such region.
    """

    regions: NDArray[np.float32]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    mask: NDArray[np.bool_]

    @classmethod
    def of(cls, features: NDArray[np.float32], boxes: NDArray[np.float32]) -> RegionFeatures:
        """Those of k <= 5 regions, (N, k, dim) with boxes (N, k, 4); a region without area is masked."""
        missing = ((0, 0), (0, REGIONS - features.shape[1]), (0, 0))
        regions, padded = np.pad(features, missing), np.pad(boxes, missing)
        mask = np.all(padded[..., 2:] > padded[..., :2], axis=2)
        regions[~mask], padded[~mask] = 0, FULL_IMAGE
        return cls(regions, padded, mask.astype(np.float32), mask)


class TextEncoder(Encoder, Protocol):
    """A network that embeds sentences."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts independently of each other: (n, dim) features."""
        ...
