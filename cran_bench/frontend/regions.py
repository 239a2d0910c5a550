"""Region proposers: which five boxes of an image count.  ``boxes``, ``grid``, ``nanodet:FILE``, ``npy:FILE``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cran_bench.dataset import Collection
from cran_bench.errors import BadInput, did_you_mean
from cran_bench.frontend.backbones import fields_of
from cran_bench.specs import Spec, build, parse_spec
from cran_bench.storage import sha256_bytes

if TYPE_CHECKING:
    from cran_bench.frontend.precomputed import PrecomputedRegions

REGIONS = 5


@dataclass(frozen=True)
class Proposals:
    """At most five boxes of one image, best first.

    Attributes:
        boxes: (k, 4) float32 x0 y0 x1 y1 as fractions of width and height, k <= 5.
        scores: (k,) float32.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]


class Proposer(Protocol):
    """Finds regions.  Where it gives fewer than five, the front end pads with the full image and masks the rest."""

    def identity(self) -> Mapping[str, Any]:
        """JSON values of everything that determines the boxes: name, options, sha256 of the weights."""
        ...

    def propose(self, row: int, image: Image.Image) -> Proposals:
        """The regions of image `row` of the collection."""
        ...


class Boxes:
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

    def propose(self, row: int, image: Image.Image) -> Proposals:
        """See Proposer."""
        return Proposals(self.boxes[row], np.ones(len(self.boxes[row]), np.float32))


@dataclass(frozen=True)
class Grid:
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

    def propose(self, row: int, image: Image.Image) -> Proposals:
        """See Proposer."""
        far = 1 - self.side
        corners = np.array([(far / 2, far / 2), (0, 0), (far, 0), (0, far), (far, far)])
        boxes = np.concatenate([corners, np.minimum(corners + self.side, 1)], axis=1)
        return Proposals(boxes.astype(np.float32), np.ones(REGIONS, np.float32))


def open_proposer(text: str, collection: Collection) -> Proposer | PrecomputedRegions | None:
    """The regions of a spec: ``boxes``, ``grid``, ``nanodet:FILE``, ``npy:FILE[boxes=FILE]``, or None for ``none``.

    Raises:
        BadInput: an unknown name or field, a missing file, or a collection without boxes.
    """
    spec = parse_spec(text)
    if spec.name not in PROPOSERS:
        raise BadInput(f"there are no regions '{spec.name}'{did_you_mean(spec.name, PROPOSERS)}")
    return PROPOSERS[spec.name](spec, collection)


def _none(spec: Spec, collection: Collection) -> None:
    _refuse_fields(spec)


def _boxes(spec: Spec, collection: Collection) -> Boxes:
    _refuse_fields(spec)
    return Boxes(collection)


def _grid(spec: Spec, collection: Collection) -> Grid:
    return build(Grid, fields_of(spec, file=False), spec.name)


def _nanodet(spec: Spec, collection: Collection) -> Proposer:
    from cran_bench.frontend.nanodet import NanoDet

    return build(NanoDet, fields_of(spec, file=True), spec.name)


def _npy(spec: Spec, collection: Collection) -> PrecomputedRegions:
    from cran_bench.frontend.precomputed import PrecomputedRegions

    return build(PrecomputedRegions, fields_of(spec, file=True), str(Spec("npy", spec.argument)))


def _refuse_fields(spec: Spec) -> None:
    if fields_of(spec, file=False):
        raise BadInput(f"regions '{spec.name}' have no fields; write {spec.name}, not {spec}")


PROPOSERS: dict[str, Callable[[Spec, Collection], Proposer | PrecomputedRegions | None]] = {
    "none": _none,
    "boxes": _boxes,
    "grid": _grid,
    "nanodet": _nanodet,
    "npy": _npy,
}
