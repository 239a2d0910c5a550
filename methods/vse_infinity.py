"""VSE-infinity: regions and words pooled by learned weights of their ranks (Chen et al., CVPR 2021).

The generalised pooling operator (GPO) sorts each feature of a set in descending order, x_(1) >= ... >= x_(n), and takes
a weighted sum.  Its weights depend only on the rank k and the size n of the set, through the encoding p_k of k:

    pooled = sum_k theta_k x_(k),     theta = softmax(w' BiGRU(p_1 ... p_n) / tau)

Weights of 1/n are the mean, and a weight of 1 for k = 1 is the maximum.  Images are the pooled outputs F r + MLP(r) of
regions r, and texts the pooled states of a BiGRU over word embeddings, the mean of its directions; the loss is that of
VSE++, with all negatives in the first epochs and the hardest ones afterwards.  In training, a fifth of the regions and
of the words is left out at random (size augmentation).  J. Chen, H. Hu, H. Wu, Y. Jiang, C. Wang, "Learning the best
pooling strategy for visual semantic embedding", CVPR 2021.  The MLP has no batch normalisation here, which would see
absent regions.

Memory: the features of regions where they are few, see docs/scaling.md; the word ids of all texts; and for each word of
a batch, 128 bytes for each dimension of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from cran_bench import BadInput, FeatureRows, Split, register

from ._hinges import PAPER, QUICK, BiGRU, HingeMethod, JointNetwork, WordTable
from ._linear import ImageScaling, scaled

REGIONS_AND_BIGRU = {
    **PAPER,
    **{"whole": False, "image": "none", "warm_up": 1, "batch_size": 128},
    **{"lr": 5e-4, "weight_decay": 1e-4, "epochs": 25},
}
"""The paper's model of regions and a BiGRU, with constants of its code where the paper has none."""
CODE = 32  # dimension of p_k, and units of GPO's BiGRU
TAU = 0.1


class GPO(nn.Module):
    """The generalised pooling operator."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = BiGRU(CODE, CODE)
        self.w = nn.Linear(CODE, 1, bias=False)

    def weights(self, most: int) -> Tensor:
        """(most, most): row n - 1 has theta_1 ... theta_n for a set of n, and zeros."""
        ranks = torch.arange(most, device=self.w.weight.device)
        frequencies = 10_000 ** (-torch.arange(0, CODE, 2, device=ranks.device) / CODE)
        angles = ranks[:, None] * frequencies.to(self.w.weight.dtype)
        codes = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
        scores = self.w(self.decoder(codes.expand(most, -1, -1), ranks + 1)).squeeze(2) / TAU
        return torch.softmax(scores.masked_fill(ranks > ranks[:, None], -torch.inf), dim=1)

    def forward(self, x: Tensor, exists: Tensor) -> Tensor:
        """(B, D) pooled vectors of (B, L, D), of those that exist (B, L), at least one in each row."""
        size = exists.sum(dim=1, keepdim=True)
        values = x.masked_fill(~exists[:, :, None], -torch.inf).transpose(1, 2)
        ordered = values.sort(dim=2, descending=True).values
        ordered = ordered.masked_fill((torch.arange(x.shape[1], device=x.device) >= size)[:, None], 0.0)
        theta = self.weights(x.shape[1])[size.squeeze(1) - 1]
        return (ordered @ theta[:, :, None]).squeeze(2)


def thinned(exists: Tensor, rate: float) -> Tensor:
    """The mask (B, L) with elements left out at random at this rate; a row that would lose all keeps them."""
    kept = exists & (torch.rand(exists.shape, device=exists.device) >= rate)
    return torch.where(kept.any(dim=1, keepdim=True), kept, exists)


class PooledSets(JointNetwork):
    """F and the MLP for regions of p numbers, the BiGRU over initial word embeddings (V, d), and a GPO for each."""

    def __init__(self, table: Tensor, p: int, dim: int, dropout: float, size_augmentation: float) -> None:
        super().__init__()
        self.words = WordTable(table)
        self.F = nn.Linear(p, dim)
        self.mlp = nn.Sequential(nn.Linear(p, dim // 2), nn.ReLU(), nn.Linear(dim // 2, dim))
        self.gru = BiGRU(table.shape[1], dim)
        self.pool_regions, self.pool_words = GPO(), GPO()
        self.dropout = nn.Dropout(dropout)
        self.size_augmentation = size_augmentation

    def images(self, *features: Tensor) -> Tensor:
        regions, exists = features
        exists = torch.where(exists.any(dim=1, keepdim=True), exists, True)  # padding is the whole image
        if self.training:
            exists = thinned(exists, self.size_augmentation)
        r = self.dropout(regions)
        return normalize(self.pool_regions(self.F(r) + self.mlp(r), exists), dim=1)

    def texts(self, ids: Tensor, lengths: Tensor) -> Tensor:
        steps = torch.arange(ids.shape[1], device=ids.device)
        if self.training:
            kept = thinned(steps < lengths[:, None], self.size_augmentation)
            ids, lengths = ids.gather(1, (~kept).int().argsort(dim=1, stable=True)), kept.sum(dim=1)
        states = self.gru(self.dropout(self.words(ids)), lengths)
        return normalize(self.pool_words(states, steps < lengths[:, None]), dim=1)


@register(
    "vse-infinity",
    presets={"paper": REGIONS_AND_BIGRU, "tuned": {}, "quick": QUICK},
    search={"lr": (5e-4, 1e-3, 2e-3), "margin": (0.1, 0.2, 0.3), "dropout": (0.1, 0.2, 0.4)},
)
@dataclass
class VSEInfinity(HingeMethod):
    """VSE-infinity.

    Attributes:
        size_augmentation: rate at which regions and words are left out in training.
        whole: whether the whole image is pooled together with its regions; the paper's regions cover the image.
        image: scaling of features: unit length (`l2`), unit length of their signed square roots (`sqrt`), or `none`.
    """

    dim: int = 128
    dropout: float = 0.1
    batch_size: int = 64
    lr: float = 3e-3
    epochs: int = 5
    size_augmentation: float = 0.2
    whole: bool = True
    image: ImageScaling = "sqrt"

    directions: ClassVar[int] = 2

    def image_features(self, split: Split) -> tuple[FeatureRows | Tensor, ...]:
        regions, exists = split.region_rows.map(partial(scaled, how=self.image)), split.region_mask
        if not self.whole:
            return regions, exists
        whole, (n, most, p) = split.image_rows.map(partial(scaled, how=self.image)), regions.shape
        if whole.shape[1] != p:
            raise BadInput(
                f"vse-infinity pools regions with the whole image, but their features have {p} and {whole.shape[1]} "
                "numbers: set whole=false, or prepare both with the same backbone"
            )

        def read(index: slice | Tensor) -> Tensor:
            return torch.cat([regions[index], whole[index][:, None]], dim=1)

        return FeatureRows((n, most + 1, p), regions.held + whole.held, read), pad(exists, (0, 1), value=True)

    def build(self, table: Tensor, p: int) -> JointNetwork:
        return PooledSets(table, p, self.dim, self.dropout, self.size_augmentation)
