"""Bimodal AE: bimodal deep autoencoder, a row of Tables 1 and 2.

    z = sigm(Wx x + Wy y + b),     loss (|x - x^|^2 + |y - y^|^2) / 2

where x and y are an image and a text encoded by stacks of RBMs, and x^ and y^ their reconstructions from z.  The inputs
in training are (x, y), (x, 0) and (0, y), and both sides are reconstructed from each; so the code of an image, z(x, 0),
and the code of a text, z(0, y), lie in one space.
J. Ngiam, A. Khosla, M. Kim, J. Nam, H. Lee, A. Ng, "Multimodal deep learning", ICML 2011.

Memory: the features of images or regions where they are few, see docs/scaling.md; and 4 bytes for each image or text
and each unit of a stack.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from cran_bench import register

from ._codes import PAPER, QUICK, CodeMethod, Coder, at_least, explained


class BimodalAutoencoder(Coder):
    """The joint layer and the layer that reconstructs.

    Args:
        p: dimension of the encoded image.
        q: dimension of the encoded text.
        units: units of the joint layer.
        is_real: whether the inputs are real values with mean 0; if not, they are probabilities.
    """

    def __init__(self, p: int, q: int, units: int, is_real: bool) -> None:
        super().__init__()
        self.p, self.q, self.is_real = p, q, is_real
        self.joint, self.decoder = nn.Linear(p + q, units), nn.Linear(units, p + q)

    def both(self, p: Tensor, q: Tensor) -> Tensor:
        """(n, K) codes of pairs."""
        return torch.sigmoid(self.joint(torch.cat([p, q], dim=1)))

    def image(self, p: Tensor) -> Tensor:
        return torch.sigmoid(linear(p, self.joint.weight[:, : self.p], self.joint.bias))

    def text(self, q: Tensor) -> Tensor:
        return torch.sigmoid(linear(q, self.joint.weight[:, self.p :], self.joint.bias))

    def reconstruct(self, codes: Tensor) -> Tensor:
        """Reconstruct (..., P + Q) inputs from (..., K) codes."""
        decoded: Tensor = self.decoder(codes)
        return decoded if self.is_real else torch.sigmoid(decoded)

    def loss(self, p: Tensor, q: Tensor, owner: Tensor, step: int) -> Tensor:
        Wx, Wy = torch.split(self.joint.weight, [self.p, self.q], dim=1)
        x, y = linear(p, Wx), linear(q, Wy)
        codes = torch.sigmoid(torch.stack([x + y, x, y]) + self.joint.bias)
        missed = self.reconstruct(codes) - torch.cat([p, q], dim=1)
        return 0.5 * missed.square().sum(dim=2).mean()

    def measures(self, p: Tensor, q: Tensor, owner: Tensor) -> dict[str, float]:
        """The explained variance of pairs, and of texts reconstructed from their image alone."""
        both, alone = self.reconstruct(self.both(p, q)), self.reconstruct(self.image(p))
        return {
            "explained": explained(both, torch.cat([p, q], dim=1)),
            "text_from_image": explained(alone[:, self.p :], q),
        }


@register(
    "bimodal-ae",
    paper_row="Bimodal AE",
    presets={
        "paper": {**PAPER, "steps": 20_000},
        "tuned": {},
        "quick": {**QUICK, "steps": 64},
    },
    search={"lr": (5e-4, 1e-3, 2e-3), "units": (256, 512, 1024), "weight_decay": (1e-5, 1e-4, 1e-3)},
)
@dataclass
class BimodalAE(CodeMethod):
    """Bimodal deep autoencoder.

    Attributes:
        units: units of the joint layer.
    """

    steps: int = 400
    units: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "units")

    def build(self, p: int, q: int) -> Coder:
        return BimodalAutoencoder(p, q, self.units, self.standardise_inputs)
