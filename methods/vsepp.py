"""VSE++: visual-semantic embeddings trained on the hardest negative of each batch (Faghri et al., BMVC 2018).

    f(i) = W x_i / |W x_i|,     g(c) = h_n / |h_n|,   h_t = GRU(h_(t-1), w_t),     s(i, c) = f(i)' g(c)

    L = sum over pairs (i, c):  max_c' [a - s(i, c) + s(i, c')]_+  +  max_i' [a - s(i, c) + s(i', c)]_+

for a frozen image feature x_i and the embeddings w_1 ... w_n of the words of a text, all of which but x_i are learned;
c' and i' are the hardest negatives in a batch, never of the same image.  F. Faghri, D. Fleet, J. Kiros, S. Fidler,
"VSE++: improving visual-semantic embeddings with hard negatives", BMVC 2018; the sum over all negatives in place of the
maximum is R. Kiros, R. Salakhutdinov, R. Zemel, "Unifying visual-semantic embeddings with multimodal neural language
models", 2014.

Memory: the features of images where they are few, see docs/scaling.md; the word ids of all texts; and for each word of
a batch, 64 bytes for each dimension of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cran_bench import FeatureRows, Split, register

from ._hinges import PAPER, QUICK, HingeMethod, JointNetwork, WordTable
from ._linear import ImageScaling, scaled

FROZEN_IMAGES = PAPER | {"image": "l2", "warm_up": 0, "lr": 2e-4, "weight_decay": 0.0, "epochs": 30}
"""The paper's model of a frozen image network, with constants of its code where the paper has none."""


class ImageAndGRU(JointNetwork):
    """W for images of p numbers, and the GRU over initial word embeddings (V, d)."""

    def __init__(self, table: Tensor, p: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.words = WordTable(table)
        self.gru = nn.GRU(table.shape[1], dim, batch_first=True)
        self.W = nn.Linear(p, dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.W.weight)
        nn.init.zeros_(self.W.bias)

    def images(self, *features: Tensor) -> Tensor:
        (x,) = features
        return normalize(self.W(self.dropout(x)), dim=1)

    def texts(self, ids: Tensor, lengths: Tensor) -> Tensor:
        h, _ = self.gru(self.dropout(self.words(ids)))
        return normalize(h[torch.arange(len(h), device=h.device), lengths.long() - 1], dim=1)


@register(
    "vsepp",
    presets={"paper": FROZEN_IMAGES, "tuned": {}, "quick": QUICK},
    search={"lr": (5e-4, 1e-3, 2e-3), "margin": (0.1, 0.2, 0.3), "dropout": (0.1, 0.2, 0.4)},
)
@dataclass
class VSEPP(HingeMethod):
    """VSE++.

    Attributes:
        image: scaling of image features: unit length (`l2`), unit length of their signed square roots (`sqrt`), or
            `none`.
    """

    image: ImageScaling = "sqrt"

    def image_features(self, split: Split) -> tuple[FeatureRows | Tensor, ...]:
        return (split.image_rows.map(partial(scaled, how=self.image)),)

    def build(self, table: Tensor, p: int) -> JointNetwork:
        return ImageAndGRU(table, p, self.dim, self.dropout)
