"""Region proposers: which boxes of an image count, five unless they say otherwise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cran_bench.dataset import Collection
from cran_bench.errors import BadInput, did_you_mean
from cran_bench.frontend.backbones import Backbone, fields_of, model_and_fields, refuse_fields
from cran_bench.specs import Spec, build, parse_spec
from cran_bench.storage import sha256_bytes

if TYPE_CHECKING:
    from cran_bench.frontend.precomputed import PrecomputedRegions

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


class Boxes(Proposer):
    """``boxes``: the regions that come with the data, all with score 1.

    Raises:
        BadInput: the collection has none.
    """

    def __init__(self, collection: Collection) -> None:
        if collection.boxes is None:
            raise BadInput(
                f"{collection.name} has no boxes of its own; choose grid, nanodet:FILE or npy:FILE for regions"
            )
        self.boxes = collection.boxes

    def identity(self) -> Mapping[str, Any]:
        """See Proposer."""
        return {"name": "boxes", "sha256": sha256_bytes(np.ascontiguousarray(self.boxes).tobytes())}

    def propose(self, rows: Sequence[int], images: Sequence[Image.Image]) -> list[Proposals]:
        """See Proposer."""
        return [Proposals(self.boxes[row], np.ones(len(self.boxes[row]), np.float32)) for row in rows]


@dataclass(frozen=True)
class Grid(Proposer):
    """``grid``: the same five boxes for every image, the centre and the four corners, all with score 1.

    Attributes:
        side: side of a box as a fraction of the image's.
    """

    side: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.side <= 1:
            raise ValueError(f"side must be above 0 and at most 1, not {self.side}")

    def identity(self) -> Mapping[str, Any]:
        """See Proposer."""
        return {"name": "grid", "side": self.side}

    def propose(self, rows: Sequence[int], images: Sequence[Image.Image]) -> list[Proposals]:
        """See Proposer."""
        far = 1 - self.side
        corners = np.array([(far / 2, far / 2), (0, 0), (far, 0), (0, far), (far, far)])
        boxes = np.concatenate([corners, np.minimum(corners + self.side, 1)], axis=1)
        return [Proposals(boxes.astype(np.float32), np.ones(REGIONS, np.float32))] * len(rows)


def open_proposer(text: str, collection: Collection) -> Proposer | PrecomputedRegions | None:
    """The regions of a spec, such as ``boxes``, ``nanodet:FILE`` or ``paper``; None for ``none``.

    Raises:
        BadInput: an unknown name or field, a missing file, or a collection without boxes.
    """
    spec = parse_spec(text)
    if spec.name not in PROPOSERS:
        raise BadInput(f"there are no regions '{spec.name}'{did_you_mean(spec.name, PROPOSERS)}")
    return PROPOSERS[spec.name](spec, collection)


def _none(spec: Spec, collection: Collection) -> None:
    refuse_fields(spec)


def _boxes(spec: Spec, collection: Collection) -> Boxes:
    refuse_fields(spec)
    return Boxes(collection)


def _grid(spec: Spec, collection: Collection) -> Grid:
    return build(Grid, fields_of(spec, file=False), spec.name)


def _nanodet(spec: Spec, collection: Collection) -> Proposer:
    from cran_bench.frontend.nanodet import NanoDet

    return build(NanoDet, fields_of(spec, file=True), spec.name)


def _torchvision(spec: Spec, collection: Collection) -> Proposer:
    from cran_bench.frontend.faster_rcnn import FasterRCNN

    return build(FasterRCNN, model_and_fields(spec, "fasterrcnn_resnet50_fpn_v2"), str(Spec(spec.name, spec.argument)))


def _paper(spec: Spec, collection: Collection) -> Proposer:
    from cran_bench.frontend.faster_rcnn import PaperRegions

    return build(PaperRegions, fields_of(spec, file=False), spec.name)


def _selective_search(spec: Spec, collection: Collection) -> Proposer:
    from cran_bench.frontend.selective_search import SelectiveSearch

    return build(SelectiveSearch, fields_of(spec, file=False), spec.name)


def _npy(spec: Spec, collection: Collection) -> PrecomputedRegions:
    from cran_bench.frontend.precomputed import NpyRegions

    return build(NpyRegions, fields_of(spec, file=True), str(Spec("npy", spec.argument)))


def _data(spec: Spec, collection: Collection) -> PrecomputedRegions | None:
    from cran_bench.frontend.feature_files import DataRegions

    refuse_fields(spec)
    return DataRegions.of(collection)


PROPOSERS: dict[str, Callable[[Spec, Collection], Proposer | PrecomputedRegions | None]] = {
    "none": _none,
    "boxes": _boxes,
    "grid": _grid,
    "nanodet": _nanodet,
    "torchvision": _torchvision,
    "paper": _paper,
    "selective_search": _selective_search,
    "npy": _npy,
    "data": _data,
}
