"""Regions from a detector in ONNX: all but the network's input and the meaning of its outputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cran_bench.errors import BadInput
from cran_bench.frontend.interfaces import REGIONS, Proposals, Proposer
from cran_bench.frontend.onnx_network import ImageNetwork, load_model
from cran_bench.frontend.regions.coco import CLASSES
from cran_bench.frontend.regions.suppression import suppress


class Detections(NamedTuple):
    """Boxes (M, 4), x0 y0 x1 y1 in pixels of the network's input; their highest scores (M,) and the classes (M,)."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.intp]


@dataclass
class OnnxDetector(Proposer):
    """The five highest-scoring detections of an image, of any class, after non-maximum suppression within each class.

    With threshold 0 almost every image has five boxes, the last ones with low scores; with a higher threshold the
    front end pads missing regions.

    Attributes:
        file: path of the model.
        iou: intersection over union above which the lower-scoring of two boxes of one class is suppressed.
        threshold: minimum score of a box.
        size: side of the network's input in pixels; needed if the model's input shape does not fix it.

    Raises:
        BadInput: the file is not a model of this kind.
    """

    name: ClassVar[str]
    expected: ClassVar[tuple[str, str]]  # the kind of model, and what to do about another

    file: str
    iou: float = 0.5
    threshold: float = 0.0
    size: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.iou <= 1:
            raise ValueError(f"iou must be above 0 and at most 1, not {self.iou}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be at least 0 and below 1, not {self.threshold}")
        path, (kind, remedy) = Path(self.file), self.expected
        model, self._sha256 = load_model(path)
        self._network = ImageNetwork.open(model, path.name, size=self.size)
        self.size = self._network.size
        outputs = self._network.run(np.zeros((1, self.size, self.size, 3), np.float32))
        try:
            self.decode(outputs, self.size)
        except ValueError as error:
            raise BadInput(f"{path} is not {kind}: {error}; {remedy}") from None
        self.has_classes = self.count_classes(outputs) == len(CLASSES)

    @staticmethod
    @abstractmethod
    def count_classes(outputs: Sequence[NDArray[np.float32]]) -> int:
        """Return how many classes the outputs distinguish."""

    @abstractmethod
    def prepare(self, image: Image.Image, size: int) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """Return the network's input, (size, size, 3), and the width and height that the image has there."""

    @staticmethod
    @abstractmethod
    def decode(outputs: Sequence[NDArray[np.float32]], size: int) -> Detections:
        """Decode the outputs for one image of `size` x `size` pixels.

        Raises:
            ValueError: they are not those of such a model.
        """

    def identity(self) -> Mapping[str, Any]:
        settings = {"iou": self.iou, "threshold": self.threshold, "size": self.size}
        return {"name": self.name, "file": Path(self.file).name, "sha256": self._sha256, **settings}

    def propose(self, rows: Sequence[int], images: Sequence[Image.Image]) -> list[Proposals]:
        return [self._detect(image) for image in images]

    def _detect(self, image: Image.Image) -> Proposals:
        pixels, extent = self.prepare(image, self._network.size)
        boxes, scores, classes = self.decode(self._network.run(pixels[None]), self._network.size)
        sides = np.array(extent * 2, np.float32)
        boxes = boxes.clip(0, sides)
        usable = np.flatnonzero((scores >= self.threshold) & np.all(boxes[:, 2:] - boxes[:, :2] >= 1, axis=1))
        best = usable[suppress(boxes[usable], scores[usable], classes[usable], self.iou, REGIONS)]
        known = classes[best].astype(np.int16) if self.has_classes else None
        return Proposals((boxes[best] / sides).astype(np.float32), scores[best], classes=known)
