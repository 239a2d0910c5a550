"""Corr-AE: correspondence autoencoder, a row of Tables 1 and 2.

    L = (1 - alpha) (|p - p^|^2 + |q - q^|^2) / 2 + alpha |h_I - h_T|^2 / 2

over what stacks of RBMs say of an image, p, and of a text, q, with one sigmoid layer h for each, from which p^ and q^
are rebuilt.  F. Feng, X. Wang, R. Li, "Cross-modal retrieval with correspondence autoencoder", ACM Multimedia 2014.
Cross-Corr-AE rebuilds q from h_I and p from h_T; Full-Corr-AE rebuilds both from each.

Memory: the features of images or regions where they are few, see docs/scaling.md; and for each image and text 4 bytes
for each unit of a stack.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cran_bench import register

from ._codes import PAPER, CodeMethod, Coder, at_least, explained


class CorrespondenceAutoencoder(Coder):
    """Two autoencoders and the distance of their codes.

    Args:
        p: inputs of the image.
        q: inputs of the text.
        units: of each code.
        alpha: weight of the distance.
        variant: what is rebuilt from a code: its own input (plain), the other's (cross), or both (full).
        is_real: whether inputs are real values; if not, probabilities.
    """

    def __init__(self, p: int, q: int, units: int, alpha: float, variant: str, is_real: bool) -> None:
        super().__init__()
        self.alpha, self.is_real = alpha, is_real
        self.encode_image, self.encode_text = nn.Linear(p, units), nn.Linear(q, units)
        own = {"image_image": (units, p), "text_text": (units, q)}
        other = {"image_text": (units, q), "text_image": (units, p)}
        rebuilt = own if variant == "plain" else other if variant == "cross" else own | other
        self.decoders = nn.ModuleDict({name: nn.Linear(*sizes) for name, sizes in rebuilt.items()})

    def image(self, p: Tensor) -> Tensor:
        """See Coder."""
        return torch.sigmoid(self.encode_image(p))

    def text(self, q: Tensor) -> Tensor:
        """See Coder."""
        return torch.sigmoid(self.encode_text(q))

    def codes(self, p: Tensor, q: Tensor) -> dict[str, Tensor]:
        """(n, K) of both sides."""
        return {"image": self.image(p), "text": self.text(q)}

    def rebuilt(self, codes: dict[str, Tensor], p: Tensor, q: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and what is rebuilt of them, pairs of (n, P) or of (n, Q)."""
        inputs = {"image": p, "text": q}
        for name, decoder in self.decoders.items():
            source, target = name.split("_")
            found = decoder(codes[source])
            yield inputs[target], found if self.is_real else torch.sigmoid(found)

    def loss(self, p: Tensor, q: Tensor, owner: Tensor, step: int) -> Tensor:
        """See Coder."""
        codes = self.codes(p, q)
        missed = [(rows - found).square().sum(dim=1).mean() for rows, found in self.rebuilt(codes, p, q)]
        distance = (codes["image"] - codes["text"]).square().sum(dim=1).mean()
        return 0.5 * ((1 - self.alpha) * torch.stack(missed).sum() + self.alpha * distance)

    def measures(self, p: Tensor, q: Tensor, owner: Tensor) -> dict[str, float]:
        """See Coder."""
        shares = [explained(found, rows) for rows, found in self.rebuilt(self.codes(p, q), p, q)]
        return {"explained": sum(shares) / len(shares)}


@register(
    "corr-ae",
    paper_row="Corr-AE",
    presets={
        "paper": {**PAPER, "units": 1024, "alpha": 0.7, "steps": 10_000},
        "tuned": {},
        "quick": {"stack_steps": 60, "steps": 100},
    },
)
@dataclass
class CorrAE(CodeMethod):
    """Hyper-parameters beyond those of every method on stacks.

    Attributes:
        units: of each code.
        alpha: weight of the distance between codes, the rest is that of rebuilding.
        variant: `plain`, `cross` or `full`.
    """

    units: int = 512
    alpha: float = 0.9
    variant: Literal["plain", "cross", "full"] = "plain"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "units")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is a share between 0 and 1, not {self.alpha}")

    def build(self, p: int, q: int) -> Coder:
        """See CodeMethod."""
        return CorrespondenceAutoencoder(p, q, self.units, self.alpha, self.variant, self.standardised)
