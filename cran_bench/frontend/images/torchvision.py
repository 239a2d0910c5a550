"""``torchvision:NAME``: torchvision's image networks as backbones, with its weights or with weights from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from cran_bench.errors import BadInput, did_you_mean
from cran_bench.frontend.torchvision_network import (
    EXTRA,
    Precision,
    _first_line,
    _last_layer,
    build_network,
    sha256_of_state,
)
from cran_bench.machine.environment import pick_device, require_bfloat16
from cran_bench.machine.extras import require

SIDE = 256  # images are warped to SIDE x SIDE (CRAN, Section 4.1)
INPUT = 224  # side of the crops that the network takes
AT_ONCE = 64  # images in one pass
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in the order RGB


@dataclass
class TorchvisionBackbone:
    """``torchvision:vgg19``: the input of a classifier's last layer; for VGG the rectified fc7, as in the paper.

    An image is resized to 256 x 256 without keeping its aspect ratio, then cropped to 224 x 224.  Maps and tokens are
    averaged.

    Attributes:
        model: name of a classification network, such as vgg19, resnet152 or vit_b_16.
        weights: a file with its state dict (.safetensors or .pth), or the name of weights that torchvision downloads.
        node: name of another node, as in `torchvision.models.feature_extraction.get_graph_node_names`.
        relu: whether the feature is taken after the ReLU that precedes the last layer, or before it.
        crop: `center` for the centre crop, or `ten` for the average over centre, corners and their mirror images.
        precision: precision of matrix products and convolutions; `bfloat16` agrees within 1 % and needs hardware
            support.
        device: the device to compute on; the only field that does not affect the features' identity.
        dim: dimension of a feature.

    Raises:
        BadInput: there is no such network or node, or the weights are missing, damaged or of another network.
    """

    model: str
    weights: str = "DEFAULT"
    node: str | None = None
    relu: bool = True
    crop: Literal["center", "ten"] = "center"
    precision: Precision = "float32"
    device: str = "auto"
    dim: int = field(init=False)

    def __post_init__(self) -> None:
        if self.node is not None and not self.relu:
            raise ValueError("node already names the value to take; leave relu out")
        self._device = pick_device(self.device)
        if self.precision == "bfloat16":
            require_bfloat16(self._device)
        network = build_network(self.model, self.weights)
        self._sha256 = sha256_of_state(network)
        self._network = self._cut(network).to(self._device)
        self._scale = 255 * torch.tensor(STD, device=self._device)[:, None, None]
        self._shift = 255 * torch.tensor(MEAN, device=self._device)[:, None, None]
        try:
            self.dim = self._forward(torch.zeros(1, INPUT, INPUT, 3, dtype=torch.uint8)).shape[1]
        except BadInput:
            raise
        except Exception as error:  # networks of another input size raise many kinds of errors
            raise BadInput(
                f"{self.model} cannot be used with images of {INPUT} x {INPUT} pixels ({_first_line(error)}): "
                "choose another network, or other weights"
            ) from error

    def _cut(self, network: nn.Module) -> nn.Module:
        if self.node is not None:
            return _node(network, self.node, self.model)
        name = _last_layer(network)
        if not isinstance(network.get_submodule(name), nn.Linear):
            raise BadInput(f"the last layer of {self.model} is a convolution: name the node to take with node=NAME")
        network.set_submodule(name, nn.Identity())
        if not self.relu:
            holder = name.rpartition(".")[0]
            layers = list(network.get_submodule(holder).named_children())
            before = [(n, layer) for n, layer in layers[:-1] if not isinstance(layer, nn.Dropout)]
            in_order = isinstance(network.get_submodule(holder), nn.Sequential)
            if not in_order or not before or not isinstance(before[-1][1], nn.ReLU):
                raise ValueError(f"no ReLU directly precedes the last layer of {self.model}; leave relu out")
            network.set_submodule(f"{holder}.{before[-1][0]}", nn.Identity())
        return network

    def identity(self) -> Mapping[str, Any]:
        settings = ("model", "node", "relu", "crop", "precision")
        return {"name": "torchvision", "sha256": self._sha256, **{name: getattr(self, name) for name in settings}}

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop an image to (224, 224, 3) uint8 RGB, or to ten crops (10, 224, 224, 3)."""
        whole = np.array(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        room = SIDE - INPUT
        places = [(room // 2, room // 2)]
        if self.crop == "center":
            (y, x), *_ = places
            return whole[y : y + INPUT, x : x + INPUT]
        places += [(y, x) for y in (0, room) for x in (0, room)]
        crops = np.stack([whole[y : y + INPUT, x : x + INPUT] for y, x in places])
        return np.concatenate([crops, crops[:, :, ::-1]])

    def embed(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        images = torch.from_numpy(batch).reshape(-1, INPUT, INPUT, 3)
        parts = [self._forward(block) for block in torch.split(images, AT_ONCE)]
        features = torch.cat(parts) if parts else torch.zeros(0, self.dim)
        if self.crop == "ten":
            features = features.view(len(batch), -1, self.dim).mean(dim=1)
        return np.asarray(features.numpy())

    @torch.inference_mode()
    def _forward(self, images: Tensor) -> Tensor:
        """Embed images: (B, 224, 224, 3) uint8 to (B, dim) float32."""
        x = (images.to(self._device, non_blocking=True).permute(0, 3, 1, 2).float() - self._shift) / self._scale
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            output = self._network(x)
        values = next(iter(output.values())) if isinstance(output, dict) else output
        if not isinstance(values, Tensor):
            raise BadInput(f"node '{self.node}' of {self.model} is not a tensor; choose another")
        if values.dim() == 4:
            values = values.mean(dim=(2, 3))
        elif values.dim() == 3:
            values = values.mean(dim=1)
        if values.dim() != 2 or len(values) != len(images):
            raise BadInput(
                f"node '{self.node}' of {self.model} has shape {tuple(values.shape)} for {len(images)} images; "
                "choose one of shape (images, features[, height, width])"
            )
        return values.float().cpu()


def _node(network: nn.Module, node: str, model: str) -> nn.Module:
    extraction = require("torchvision.models.feature_extraction", *EXTRA)
    _, names = extraction.get_graph_node_names(network)
    if not any(name == node or name.startswith(node + ".") for name in names):
        raise BadInput(f"{model} has no node '{node}'{did_you_mean(node, names)}")
    cut: nn.Module = extraction.create_feature_extractor(network, [node])
    return cut.eval()
