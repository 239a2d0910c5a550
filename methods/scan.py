"""SCAN: stacked cross attention between regions and words (Lee et al., ECCV 2018).

Regions v_1 ... v_k are F r + b for frozen features r, and words e_1 ... e_n the mean states of a BiGRU over word
embeddings; all have unit length, and s_ij = v_i' e_j.  In the direction `t2i` every word attends to the regions:

    z_ij = [s_ij]_+ / sqrt(sum_j [s_ij]_+^2),     alpha_ij = exp(lambda_1 z_ij) / sum_i exp(lambda_1 z_ij)
    a_j = sum_i alpha_ij v_i,                     R_j = cos(e_j, a_j)

    S_lse = log(sum_j exp(lambda_2 R_j)) / lambda_2,     S_average = sum_j R_j / n

In the direction `i2t` every region attends to the words, with the roles of i and j exchanged.  The loss is that of
VSE++ with S in place of the cosine.  Since R_j = sum_i alpha_ij s_ij / |a_j| and |a_j|^2 = alpha_j' V V' alpha_j, the
products of regions with words, and of regions with regions, suffice.  K.-H. Lee, X. Chen, G. Hua, H. Hu, X. He,
"Stacked cross attention for image-text matching", ECCV 2018, Eqs. 1-10.

Memory: the features of regions where they are few, see docs/scaling.md; the word ids of all texts; the states of all
words of the validation texts; and for each word of a batch, 64 bytes for each dimension of the vectors and 64 for each
region of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from cran_bench import FeatureRows, Levels, Pairwise, Run, Split, register

from ._codes import at_least
from ._hinges import PAPER, QUICK, BiGRU, HingeMethod, JointNetwork, WordTable
from ._linear import ImageScaling, scaled

FROZEN_REGIONS = {
    **PAPER,
    **{"direction": "t2i", "attention": 9.0, "pooling": "average", "whole": False, "image": "none"},
    **{"warm_up": 0, "lr": 2e-4, "weight_decay": 0.0, "epochs": 30},
}
"""The paper's model with attention of words to regions; constants of its code where the paper has none."""
SHARE = 0.99  # of the training texts that are read to their end
TILE = 64, 64  # images and texts that are compared at once: their products stay in the caches


class RegionsAndWords(JointNetwork):
    """F and b for regions of p numbers, G for whole images, and the BiGRU over initial word embeddings (V, d).

    A region or word that does not exist is a zero vector.
    """

    def __init__(self, table: Tensor, p: int, whole: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.words = WordTable(table)
        self.gru = BiGRU(table.shape[1], dim)
        self.F = nn.Linear(p, dim)
        self.G = nn.Linear(whole, dim) if whole else None
        self.dropout = nn.Dropout(dropout)
        for linear in filter(None, (self.F, self.G)):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def images(self, *features: Tensor) -> Tensor:
        regions, exists, *whole = features
        exists = torch.where(exists.any(dim=1, keepdim=True), exists, True)  # padding is the whole image
        v = normalize(self.F(self.dropout(regions)), dim=2) * exists[:, :, None]
        if self.G is None:
            return v
        return torch.cat([normalize(self.G(self.dropout(whole[0])), dim=1)[:, None], v], dim=1)

    def texts(self, ids: Tensor, lengths: Tensor) -> Tensor:
        exists = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return normalize(self.gru(self.dropout(self.words(ids)), lengths), dim=2) * exists[:, :, None]


@register(
    "scan",
    presets={"paper": FROZEN_REGIONS, "tuned": {}, "quick": QUICK},
    search={"lr": (1e-3, 2e-3, 4e-3), "margin": (0.1, 0.2), "direction": ("t2i", "i2t"), "pooling": ("lse", "average")},
)
@dataclass
class SCAN(HingeMethod):
    """SCAN.

    Attributes:
        direction: `t2i` if words attend to regions, `i2t` if regions attend to words.
        pooling: how the cosines R become a score: the `average`, or `lse`, the logarithm of a sum of exponentials.
        attention: inverse temperature lambda_1 of the attention.
        sharpness: lambda_2 of `lse`; the larger it is, the more the best cosine counts.
        whole: whether the whole image is a further region, with a linear map of its own; the paper's images have 36
            regions, which cover it.
        image: scaling of features: unit length (`l2`), unit length of their signed square roots (`sqrt`), or `none`.
    """

    dim: int = 128
    warm_up: int = 1
    epochs: int = 6
    direction: Literal["t2i", "i2t"] = "i2t"
    pooling: Literal["lse", "average"] = "lse"
    attention: float = 4.0
    sharpness: float = 5.0
    whole: bool = True
    image: ImageScaling = "sqrt"

    directions: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "attention")
        if not self.sharpness > 0:
            raise ValueError(f"sharpness is above 0, not {self.sharpness:g}")

    @property
    def similarity(self) -> Pairwise:
        return Pairwise(self.score, tile=TILE)

    def score(self, images: Levels, texts: Levels) -> Tensor:
        """(I, T) scores S of sets of regions and of words; in float64, so that a score does not depend on the tile."""
        assert images.regions is not None and texts.regions is not None
        return self.compare(images.regions.double(), texts.regions.double()).float()

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        """(I, T) scores S of regions (I, k, D) and words (T, n, D)."""
        return self.attend(images, texts) if self.direction == "t2i" else self.attend(texts, images).T

    def attend(self, contexts: Tensor, queries: Tensor) -> Tensor:
        """(A, B) scores S where each of m vectors in B sets (B, m, D) attends to the k vectors of A sets (A, k, D)."""
        is_context, is_query = (exist | ~exist.any(dim=1, keepdim=True) for exist in (contexts.any(2), queries.any(2)))
        s = (contexts.flatten(0, 1) @ queries.flatten(0, 1).T).view(*is_context.shape, *is_query.shape)
        z = torch.relu(s)
        z = z / torch.linalg.vector_norm(z, dim=3, keepdim=True).clamp_min(1e-8)
        alpha = torch.softmax((self.attention * z).masked_fill(~is_context[:, :, None, None], -torch.inf), dim=1)
        mixed = (contexts @ contexts.mT) @ alpha.flatten(2)
        squares = (alpha * mixed.view_as(alpha)).sum(dim=1)
        R = (alpha * s).sum(dim=1) / squares.clamp_min(1e-12).sqrt()
        if self.pooling == "average":
            return R.sum(dim=2) / is_query.sum(dim=1)
        return torch.logsumexp((self.sharpness * R).masked_fill(~is_query, -torch.inf), dim=2) / self.sharpness

    def fit(self, train: Split, val: Split, run: Run) -> None:
        self.longest, self.size = self.longest_of(train), train.image_dim if self.whole else 0
        super().fit(train, val, run)

    def longest_of(self, train: Split) -> int:
        """Number of words beyond which words are left out, so that few long texts do not set the memory for all."""
        lengths = super().tokens(train)[1].sort().values
        return int(lengths[int(SHARE * (len(lengths) - 1))])

    def tokens(self, split: Split) -> tuple[Tensor, Tensor]:
        ids, lengths = super().tokens(split)
        return ids[:, : self.longest], lengths.clamp_max(self.longest)

    def image_features(self, split: Split) -> tuple[FeatureRows | Tensor, ...]:
        regions, *whole = (
            rows.map(partial(scaled, how=self.image))
            for rows in (split.region_rows, *([split.image_rows] if self.whole else []))
        )
        return regions, split.region_mask, *whole

    def build(self, table: Tensor, p: int) -> JointNetwork:
        return RegionsAndWords(table, p, self.size, self.dim, self.dropout)

    def embed_images(self, split: Split) -> Levels:
        """(N, k, D) regions."""
        return Levels(regions=self.image_vectors(split))

    def embed_texts(self, split: Split) -> Levels:
        """(T, longest, D) words."""
        words = torch.empty(len(split.texts), self.longest, self.dim, device=split.image_of.device)
        for rows, texts in self.text_vectors(split):
            words[rows] = pad(texts, (0, 0, 0, self.longest - texts.shape[1]))
        return Levels(regions=words)

    def memory(self, train: Split) -> int:
        """Bytes of the base, of products in a batch, and of validation texts, about a sixth of those of training."""
        longest, regions = self.longest_of(train), train.region_mask.shape[1] + self.whole
        products = 16 * self.batch_size**2 * regions * longest
        return super().memory(train) + 4 * (products + len(train.texts) // 6 * longest * self.dim)

    def state(self) -> dict[str, Tensor]:
        """The weights, the dimension of the features, and the number of words that are read."""
        return {**super().state(), "longest": torch.tensor(self.longest)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.longest = int(state["longest"])
        self.size = state["G.weight"].shape[1] if self.whole else 0
        super().load({name: value for name, value in state.items() if name != "longest"})
