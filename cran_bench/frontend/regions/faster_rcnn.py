"""``torchvision:fasterrcnn_resnet50_fpn_v2``: regions from a Faster R-CNN, with its features or features of crops."""

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
from cran_bench.frontend.regions.coco import PLACES
from cran_bench.frontend.torchvision_network import Precision, build_network, sha256_of_state
from cran_bench.machine.environment import pick_device, require_bfloat16

AT_ONCE = 8  # images of equal size in one pass
SPARE = 4  # detections requested per region, since some have no area


@dataclass
class FasterRCNN(Proposer):
    """The five highest-scoring detections of an image, of any class, after non-maximum suppression within each class.

    Attributes:
        model: name of a torchvision detection network with a region-of-interest head.
        weights: a file with its state dict (.safetensors or .pth), or the name of weights that torchvision downloads.
        feature: the feature of a region: `crop` embeds the cropped region with the image backbone, `box_head` takes
            the output of the detector's own head on the region.
        iou: intersection over union above which the lower-scoring of two boxes of one class is suppressed.
        threshold: minimum score of a box.
        precision: precision of matrix products and convolutions, as for the backbone.
        device: the device to compute on; the only field that does not affect the regions' identity.

    Raises:
        BadInput: there is no such network, or the weights are missing, damaged or of another network.
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
            raise BadInput(f"{self.model} has no region-of-interest head; use fasterrcnn_resnet50_fpn_v2")
        self._sha256 = sha256_of_state(network)
        self._network = network.to(self._device)
        heads = network.roi_heads
        heads.nms_thresh, heads.score_thresh, heads.detections_per_img = self.iou, self.threshold, SPARE * self.count
        if self.feature == "box_head":
            self.features_dim = heads.box_predictor.cls_score.in_features
        self.has_classes = heads.box_predictor.cls_score.out_features == len(PLACES)

    def identity(self) -> Mapping[str, Any]:
        settings = ("model", "feature", "iou", "threshold", "precision")
        return {"name": "torchvision", "sha256": self._sha256, **{name: getattr(self, name) for name in settings}}

    def propose(self, rows: Sequence[int], images: Sequence[Image.Image]) -> list[Proposals]:
        proposals: dict[int, Proposals] = {}
        by_size: dict[tuple[int, int], list[int]] = {}
        for position, image in enumerate(images):
            by_size.setdefault(image.size, []).append(position)
        for positions in by_size.values():  # in a batch with a larger image, padding would change the detections
            for a in range(0, len(positions), AT_ONCE):
                some = positions[a : a + AT_ONCE]
                proposals |= zip(some, self._detect([images[position] for position in some]), strict=True)
        return [proposals[position] for position in range(len(images))]

    @torch.inference_mode()
    def _detect(self, images: Sequence[Image.Image]) -> list[Proposals]:
        network, heads = self._network, self._network.roi_heads
        pixels = [torch.from_numpy(np.array(image)).to(self._device).permute(2, 0, 1) / 255 for image in images]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            batch, _ = network.transform(pixels)
            maps = network.backbone(batch.tensors)
            proposals, _ = network.rpn(batch, maps)
            detections, _ = heads(maps, proposals, batch.image_sizes)
            kept = [_with_area(one["boxes"], self.count) for one in detections]
            boxes = [one["boxes"][rows] for one, rows in zip(detections, kept, strict=True)]
            scores = [one["scores"][rows] for one, rows in zip(detections, kept, strict=True)]
            labels = [one["labels"][rows].cpu().numpy() for one, rows in zip(detections, kept, strict=True)]
            features = self._features(maps, boxes, batch.image_sizes) if self.feature == "box_head" else None
        return [
            Proposals(
                _as_array((b / b.new_tensor([width, height, width, height])).clamp(0, 1)),
                _as_array(scores[k]),
                None if features is None else _as_array(features[k]),
                PLACES[labels[k]] if self.has_classes else None,
            )
            for k, (b, (height, width)) in enumerate(zip(boxes, batch.image_sizes, strict=True))
        ]

    def _features(self, maps: Any, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> list[Tensor]:
        """The output of the box head for every box and, last, for the whole image."""
        heads = self._network.roi_heads
        extended = [
            torch.cat([b, b.new_tensor([[0, 0, width, height]])])
            for b, (height, width) in zip(boxes, sizes, strict=True)
        ]
        vectors: Tensor = heads.box_head(heads.box_roi_pool(maps, extended, sizes))
        return list(torch.split(vectors, [len(b) for b in extended]))


def _with_area(boxes: Tensor, most: int) -> Tensor:
    """The first `most` rows whose box is at least one pixel wide and high."""
    return ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(dim=1).nonzero().flatten()[:most]


def _as_array(x: Tensor) -> NDArray[np.float32]:
    return np.asarray(x.float().cpu().numpy())


@dataclass
class PaperRegions(Proposer):
    """``paper``: boxes from a Faster R-CNN, and the 4,096-dimensional fc7 of VGG-16 for each crop.

    The paper used a Faster R-CNN based on VGG-16, for which torchvision has no weights.  Its fc7 is computed from
    features pooled over the region; here it is computed from the cropped image.

    Attributes:
        detector: weights of fasterrcnn_resnet50_fpn_v2: a file, or the name of weights that torchvision downloads.
        vgg16: weights of VGG-16: a file, or the name of weights that torchvision downloads.
        iou: threshold of non-maximum suppression, as for `FasterRCNN`.
        precision: precision of matrix products and convolutions, as for the backbone.
        device: the device to compute on.
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
        self.has_classes = self._detector.has_classes
        self.crops_with = TorchvisionBackbone("vgg16", self.vgg16, precision=self.precision, device=self.device)

    def identity(self) -> Mapping[str, Any]:
        assert self.crops_with is not None
        return {"name": "paper", "boxes": self._detector.identity(), "crops": self.crops_with.identity()}

    def propose(self, rows: Sequence[int], images: Sequence[Image.Image]) -> list[Proposals]:
        return self._detector.propose(rows, images)
