"""``torchvision:fasterrcnn_resnet50_fpn_v2``: regions of a Faster R-CNN, with its features or those of their crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cran_bench.errors import BadInput
from cran_bench.frontend.images.torchvision import TorchvisionBackbone
from cran_bench.frontend.interfaces import Proposals, Proposer
from cran_bench.frontend.torchvision_network import Precision, build_network, sha256_of_state
from cran_bench.machine.environment import pick_device, require_bfloat16

AT_ONCE = 8  # images of a size in one pass
SPARE = 4  # detections asked for per one that is wanted, since some have no area


@dataclass
class FasterRCNN(Proposer):
    """The five best detections of an image, whatever their class, after suppression within each class.

    Attributes:
        model: name of a detection network of torchvision with a region-of-interest head.
        weights: a file with its state dict (.safetensors or .pth), or the name of weights that torchvision downloads.
        feature: what a region's feature is: `crop`, the image backbone on the cut-out region, or `box_head`, what the
            detector's own head makes of the region, pooled from its map.
        iou: two boxes of one class that overlap more than this are one object.
        threshold: least score of a box.
        precision: as for the backbone.
        device: where to compute; the only field that is not part of what the regions are.

    Raises:
        BadInput: no such network, or weights that are missing, damaged or of another network.
    """

    model: str
    weights: str = "DEFAULT"
    feature: Literal["crop", "box_head"] = "crop"
    iou: float = 0.5
    threshold: float = 0.0
    precision: Precision = "float32"
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.iou <= 1:
            raise ValueError(f"iou must be above 0 and at most 1, not {self.iou}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be at least 0 and below 1, not {self.threshold}")
        self._device = pick_device(self.device)
        if self.precision == "bfloat16":
            require_bfloat16(self._device)
        network = build_network(self.model, self.weights, "detection")
        if not hasattr(getattr(network, "roi_heads", None), "box_head"):
            raise BadInput(f"{self.model} has no head for regions; take fasterrcnn_resnet50_fpn_v2")
        self._sha256 = sha256_of_state(network)
        self._network = network.to(self._device)
        heads = network.roi_heads
        heads.nms_thresh, heads.score_thresh, heads.detections_per_img = self.iou, self.threshold, SPARE * self.count
        if self.feature == "box_head":
            self.features_dim = heads.box_predictor.cls_score.in_features

    def identity(self) -> Mapping[str, Any]:
        """See Proposer."""
        settings = ("model", "feature", "iou", "threshold", "precision")
        return {"name": "torchvision", "sha256": self._sha256, **{name: getattr(self, name) for name in settings}}

    def propose(self, rows: Sequence[int], images: Sequence[Image.Image]) -> list[Proposals]:
        """See Proposer."""
        found: dict[int, Proposals] = {}
        by_size: dict[tuple[int, int], list[int]] = {}
        for position, image in enumerate(images):
            by_size.setdefault(image.size, []).append(position)
        for positions in by_size.values():  # beside a larger image, one would be padded and see other borders
            for a in range(0, len(positions), AT_ONCE):
                some = positions[a : a + AT_ONCE]
                found |= zip(some, self._detect([images[position] for position in some]), strict=True)
        return [found[position] for position in range(len(images))]

    @torch.inference_mode()
    def _detect(self, images: Sequence[Image.Image]) -> list[Proposals]:
        network, heads = self._network, self._network.roi_heads
        pictures = [torch.from_numpy(np.array(image)).to(self._device).permute(2, 0, 1) / 255 for image in images]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            batch, _ = network.transform(pictures)
            maps = network.backbone(batch.tensors)
            proposals, _ = network.rpn(batch, maps)
            detections, _ = heads(maps, proposals, batch.image_sizes)
            kept = [_solid(found["boxes"], self.count) for found in detections]
            boxes = [found["boxes"][rows] for found, rows in zip(detections, kept, strict=True)]
            scores = [found["scores"][rows] for found, rows in zip(detections, kept, strict=True)]
            features = self._features(maps, boxes, batch.image_sizes) if self.feature == "box_head" else None
        return [
            Proposals(
                _as_array((b / b.new_tensor([width, height, width, height])).clamp(0, 1)),
                _as_array(scores[k]),
                None if features is None else _as_array(features[k]),
            )
            for k, (b, (height, width)) in enumerate(zip(boxes, batch.image_sizes, strict=True))
        ]

    def _features(self, maps: Any, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> list[Tensor]:
        """The head's vector of every box and, last, of the whole image."""
        heads = self._network.roi_heads
        asked = [
            torch.cat([b, b.new_tensor([[0, 0, width, height]])])
            for b, (height, width) in zip(boxes, sizes, strict=True)
        ]
        vectors: Tensor = heads.box_head(heads.box_roi_pool(maps, asked, sizes))
        return list(torch.split(vectors, [len(b) for b in asked]))


def _solid(boxes: Tensor, most: int) -> Tensor:
    """The first rows whose box is at least a pixel wide and high."""
    return ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(dim=1).nonzero().flatten()[:most]


def _as_array(x: Tensor) -> NDArray[np.float32]:
    return np.asarray(x.float().cpu().numpy())


@dataclass
class PaperRegions(Proposer):
    """``paper``: the boxes of a Faster R-CNN, and of each crop the fc7 of VGG-16, 4,096 numbers.

    The paper's detector was a Faster R-CNN on VGG-16, of which torchvision has no weights; its fc7 is of the region
    pooled from a map, ours of the region cut from the image.

    Attributes:
        detector: weights of fasterrcnn_resnet50_fpn_v2, a file or the name of torchvision's own.
        vgg16: weights of VGG-16, likewise.
        iou: as for FasterRCNN.
        precision: as for the backbone.
        device: where to compute.
    """

    detector: str = "DEFAULT"
    vgg16: str = "DEFAULT"
    iou: float = 0.5
    precision: Precision = "float32"
    device: str = "auto"

    def __post_init__(self) -> None:
        self._detector = FasterRCNN(
            "fasterrcnn_resnet50_fpn_v2",
            self.detector,
            iou=self.iou,
            precision=self.precision,
            device=self.device,
        )
        self.crops_with = TorchvisionBackbone("vgg16", self.vgg16, precision=self.precision, device=self.device)

    def identity(self) -> Mapping[str, Any]:
        """See Proposer."""
        assert self.crops_with is not None
        return {"name": "paper", "boxes": self._detector.identity(), "crops": self.crops_with.identity()}

    def propose(self, rows: Sequence[int], images: Sequence[Image.Image]) -> list[Proposals]:
        """See Proposer."""
        return self._detector.propose(rows, images)
