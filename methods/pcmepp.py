"""PCME++: images and texts as normal distributions, matched by the expected squared distance of samples.

    d(v, t) = E |z_v - z_t|^2 = |mu_v - mu_t|^2 + |sigma_v^2|_1 + |sigma_t^2|_1,     z ~ N(mu, diag sigma^2)

    L = BCE(m, b - a d) + alpha BCE(m', b - a d) + beta KL(N(mu, diag sigma^2), N(0, I))

over all pairs of a batch of different images with one text each.  m is 1 for pairs that match and 0 for others; a and b
are learned.  m' is also 1 for pseudo-positives, texts that are at least as near to an image as its own, and likewise
images for a text.  The last two terms are means over both sides; L is half the loss of the authors' release.

S. Chun, "Improved probabilistic image-text representations", ICLR 2024, who trains the encoders with it; here mu, at
unit length, and log sigma^2 are linear in frozen features.  Left out are the paper's mixing of samples (MixUp and
CutMix of pixels) and averaging of weights, and AdamW stands for AdamP.

For retrieval, -d is the inner product of (mu_v, r_v, 1) and (2 mu_t, -1, -r_t), where r = |mu|^2 + |sigma^2|_1.

Memory: the features of images and of a text encoder where they are few, see docs/scaling.md; and a batch with its
distances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import normalize

from cran_bench import DOT, register

from ._codes import at_least
from ._heads import SEARCH, HeadMethod, Heads, Side

PAPER = {
    "dim": 1024,
    "dropout": 0.0,
    "batch_size": 128,
    "lr": 5e-4,
    "weight_decay": 1e-4,
    "clip": 2.0,
    "epochs": 25,
    "patience": 0,
    "scale": 5.0,
    "shift": 5.0,
}


class Gaussians(NamedTuple):
    """Normal distributions with diagonal covariance.

    Attributes:
        mean: (n, D), mu.
        log_variance: (n, D), log sigma^2.
    """

    mean: Tensor
    log_variance: Tensor

    def spread(self) -> Tensor:
        """(n, 1), |mu|^2 + |sigma^2|_1."""
        return (self.mean.square() + self.log_variance.exp()).sum(dim=1, keepdim=True)

    def divergence(self) -> Tensor:
        """KL divergence from N(0, I), a scalar: the mean over rows and dimensions."""
        return (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).mean() / 2

    def vectors(self, side: Side) -> Tensor:
        """(n, D + 2), such that the inner product of an image's and a text's is -d."""
        spread = self.spread()
        one = torch.ones_like(spread)
        return torch.cat([self.mean, spread, one] if side == "image" else [2 * self.mean, -one, -spread], dim=1)


def matching_loss(distances: Tensor, scale: Tensor, shift: Tensor, alpha: float) -> Tensor:
    """The first two terms of L for d of B images and B texts, (B, B), of which those of the same number match."""
    logits, own = shift - scale * distances, distances.diagonal()
    exact = torch.eye(len(logits), device=logits.device)
    match, texts, images = (bce(logits, m.to(logits)) for m in (exact, distances <= own[:, None], distances <= own))
    return match + alpha * (texts + images) / 2


class GaussianHeads(Heads):
    """Heads whose outputs are mu and log sigma^2; a and b, (1,)."""

    def __init__(self, inputs: tuple[int, int], method: PCMEPP) -> None:
        super().__init__(inputs, method.hidden, 2 * method.dim, method.dropout)
        self.a, self.b = (nn.Parameter(torch.tensor([start])) for start in (method.scale, method.shift))
        self.alpha, self.beta, self.offset = method.alpha, method.beta, method.log_variance

    def gaussians(self, side: Side, rows: Tensor) -> Gaussians:
        """The distributions of (n, P) image or (n, Q) text features."""
        mean, log_variance = super().embed(side, rows).chunk(2, dim=1)
        return Gaussians(normalize(mean), self.offset + log_variance)

    def embed(self, side: Side, rows: Tensor) -> Tensor:
        return self.gaussians(side, rows).vectors(side)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        v, t = self.gaussians("image", x), self.gaussians("text", y)
        distances = -v.vectors("image") @ t.vectors("text").T
        divergence = (v.divergence() + t.divergence()) / 2
        return matching_loss(distances, self.a, self.b, self.alpha) + self.beta * divergence


@register(
    "pcmepp",
    presets={"paper": PAPER, "tuned": {}, "quick": {"epochs": 5, "batch_size": 50}},
    search=SEARCH,
)
@dataclass
class PCMEPP(HeadMethod):
    """PCME++ on frozen features.

    Attributes:
        alpha: weight of pseudo-positives.
        beta: weight of the KL divergence.
        scale: a at the start of training, which barely moves it; the published 5 is too flat for frozen features.
        shift: b at the start of training; near 2 a - log(batch_size), so that pairs at random, which are about 2 apart,
            begin at the probability of a match.
        log_variance: log sigma^2 at the start of training, on average.
        clip: largest norm of a gradient; 0 for no limit, with which sigma^2 can grow beyond all bounds.
    """

    alpha: float = 0.1
    beta: float = 1e-4
    scale: float = 12.0
    shift: float = 18.0
    log_variance: float = -7.0
    clip: float = 0.5

    similarity: ClassVar = DOT

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "alpha", "beta", "scale")

    def build(self, inputs: tuple[int, int]) -> Heads:
        return GaussianHeads(inputs, self)
