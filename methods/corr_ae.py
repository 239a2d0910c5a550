"""Corr-AE: correspondence autoencoder, a row of Tables 1 and 2.

    L = (1 - alpha) (|p - p^|^2 + |q - q^|^2) / 2 + alpha |h_I - h_T|^2 / 2

where p and q are an image and a text encoded by stacks of RBMs, h_I and h_T their codes, one sigmoid layer each, and p^
and q^ their reconstructions from the codes.  F. Feng, X. Wang, R. Li, "Cross-modal retrieval with correspondence
autoencoder", ACM Multimedia 2014.  Cross-Corr-AE reconstructs q from h_I and p from h_T; Full-Corr-AE reconstructs both
from each code.

Memory: the features of images or regions where they are few, see docs/scaling.md; and 4 bytes for each image or text
and each unit of a stack.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cran_bench import register

from ._codes import PAPER, QUICK, CodeMethod, Coder, at_least, explained


class CorrespondenceAutoencoder(Coder):
    """Two autoencoders whose codes are drawn together.

    Args:
        p: dimension of the encoded image.
        q: dimension of the encoded text.
        units: units of each code.
        alpha: weight of the distance between codes.
        variant: what a code reconstructs: its own input (plain), that of the other side (cross), or both (full).
        is_real: whether the inputs are real values; if not, they are probabilities.
    """

    def __init__(self, p: int, q: int, units: int, alpha: float, variant: str, is_real: bool) -> None:
        super().__init__()
        self.alpha, self.is_real = alpha, is_real
        self.encode_image, self.encode_text = nn.Linear(p, units), nn.Linear(q, units)
        own = {"image_image": (units, p), "text_text": (units, q)}
        other = {"image_text": (units, q), "text_image": (units, p)}
        chosen = own if variant == "plain" else other if variant == "cross" else own | other
        self.decoders = nn.ModuleDict({name: nn.Linear(*sizes) for name, sizes in chosen.items()})

    def image(self, p: Tensor) -> Tensor:
        return torch.sigmoid(self.encode_image(p))

    def text(self, q: Tensor) -> Tensor:
        return torch.sigmoid(self.encode_text(q))

    def codes(self, p: Tensor, q: Tensor) -> dict[str, Tensor]:
        """(n, K) codes of both sides."""
        return {"image": self.image(p), "text": self.text(q)}

    def reconstruct(self, codes: dict[str, Tensor], p: Tensor, q: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and their reconstructions, pairs of (n, P) or of (n, Q)."""
        inputs = {"image": p, "text": q}
        for name, decoder in self.decoders.items():
            source, target = name.split("_")
            decoded = decoder(codes[source])
            yield inputs[target], decoded if self.is_real else torch.sigmoid(decoded)

    def loss(self, p: Tensor, q: Tensor, owner: Tensor, step: int) -> Tensor:
        codes = self.codes(p, q)
        missed = [(x - y).square().sum(dim=1).mean() for x, y in self.reconstruct(codes, p, q)]
        distance = (codes["image"] - codes["text"]).square().sum(dim=1).mean()
        return 0.5 * ((1 - self.alpha) * torch.stack(missed).sum() + self.alpha * distance)

    def measures(self, p: Tensor, q: Tensor, owner: Tensor) -> dict[str, float]:
        shares = [explained(y, x) for x, y in self.reconstruct(self.codes(p, q), p, q)]
        return {"explained": sum(shares) / len(shares)}


@register(
    "corr-ae",
    paper_row="Corr-AE",
    presets={
        "paper": {**PAPER, "units": 1024, "alpha": 0.7, "steps": 10_000},
        "tuned": {},
        "quick": {**QUICK, "lr": 2e-3, "steps": 100},
    },
    search={"lr": (5e-4, 1e-3, 2e-3), "units": (256, 512, 1024), "alpha": (0.7, 0.8, 0.9, 0.95)},
)
@dataclass
class CorrAE(CodeMethod):
    """Correspondence autoencoder.

    Attributes:
        units: units of each code.
        alpha: weight of the distance between codes; the reconstructions have weight 1 - alpha.
        variant: what a code reconstructs: its own input (`plain`), that of the other side (`cross`), or both (`full`).
    """

    units: int = 512
    alpha: float = 0.9
    variant: Literal["plain", "cross", "full"] = "plain"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "units")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is a fraction between 0 and 1, not {self.alpha}")

    def build(self, p: int, q: int) -> Coder:
        return CorrespondenceAutoencoder(p, q, self.units, self.alpha, self.variant, self.standardise_inputs)
