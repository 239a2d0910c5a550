"""Bimodal AE: bimodal deep autoencoder, a row of Tables 1 and 2.

    z = sigm(Wx x + Wy y + b),     loss (|x - x^|^2 + |y - y^|^2) / 2

over what stacks of RBMs say of an image, x, and of a text, y, both rebuilt from z.  Training shows (x, y), (x, 0) and
(0, y), and always asks for both; so an image alone, z(x, 0), and a text alone, z(0, y), have codes in one space.
J. Ngiam, A. Khosla, M. Kim, J. Nam, H. Lee, A. Ng, "Multimodal deep learning", ICML 2011.

Memory: the features of images or regions where they are few, see docs/scaling.md; and for each image and text 4 bytes
for each unit of a stack.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cran_bench import register

from ._codes import PAPER, CodeMethod, Coder, at_least, explained


class BimodalAutoencoder(Coder):
    """The joint layer and the one that rebuilds.

    Args:
        p: inputs of the image.
        q: inputs of the text.
        units: of the joint layer.
        is_real: whether inputs are real values, and zero their mean; if not, probabilities.
    """

    def __init__(self, p: int, q: int, units: int, is_real: bool) -> None:
        super().__init__()
        self.p, self.q, self.is_real = p, q, is_real
        self.joint, self.decoder = nn.Linear(p + q, units), nn.Linear(units, p + q)

    def both(self, p: Tensor, q: Tensor) -> Tensor:
        """(n, K) codes of pairs."""
        return torch.sigmoid(self.joint(torch.cat([p, q], dim=1)))

    def image(self, p: Tensor) -> Tensor:
        """See Coder."""
        return self.both(p, p.new_zeros(len(p), self.q))

    def text(self, q: Tensor) -> Tensor:
        """See Coder."""
        return self.both(q.new_zeros(len(q), self.p), q)

    def rebuilt(self, codes: Tensor) -> Tensor:
        """(n, K) to (n, P + Q)."""
        found: Tensor = self.decoder(codes)
        return found if self.is_real else torch.sigmoid(found)

    def loss(self, p: Tensor, q: Tensor, owner: Tensor, step: int) -> Tensor:
        """See Coder."""
        codes = torch.cat([self.both(p, q), self.image(p), self.text(q)])
        missed = self.rebuilt(codes) - torch.cat([p, q], dim=1).repeat(3, 1)
        return 0.5 * missed.square().sum(dim=1).mean()

    def measures(self, p: Tensor, q: Tensor, owner: Tensor) -> dict[str, float]:
        """See Coder; also how well a text is rebuilt from its image alone."""
        both, alone = self.rebuilt(self.both(p, q)), self.rebuilt(self.image(p))
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
        "quick": {"stack_steps": 60, "steps": 64, "units": 256},
    },
)
@dataclass
class BimodalAE(CodeMethod):
    """Hyper-parameters beyond those of every method on stacks.

    Attributes:
        units: of the joint layer.
    """

    steps: int = 400
    units: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "units")

    def build(self, p: int, q: int) -> Coder:
        """See CodeMethod."""
        return BimodalAutoencoder(p, q, self.units, self.standardised)
