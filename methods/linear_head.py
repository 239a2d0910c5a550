"""linear-head: linear maps of frozen features to a common space, trained with the contrastive loss of CLIP.

    L = -(1 / 2B) sum_i [ log softmax_j(s x_i'y_j) at j = i  +  log softmax_j(s x_j'y_i) at j = i ]

over a batch of B different images with one text each.  x_i and y_i are the outputs of the maps for image i and its
text, at unit length; s = 1 / temperature is learned, and at most 100.  A. Radford et al., "Learning transferable visual
models from natural language supervision", ICML 2021, who train the encoders with it; here the encoders are frozen, so
the row is what one gets from a pair of encoders with a linear layer on each.  Embeddings are compared by cosine.

Memory: the features of images and of a text encoder where they are few, see docs/scaling.md; and a batch with its
scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from cran_bench import COSINE, register

from ._codes import at_least
from ._heads import SEARCH, HeadMethod, Heads

LARGEST_SCALE = 100.0
PAPER = {"dim": 1024, "dropout": 0.0, "batch_size": 32768, "lr": 5e-4, "weight_decay": 0.2, "epochs": 32, "patience": 0}


def info_nce(images: Tensor, texts: Tensor, log_scale: Tensor) -> Tensor:
    """The loss of B pairs, (B, D) and (B, D), whose images differ; `log_scale` is log s, a scalar or (1,)."""
    scores = log_scale.exp() * (normalize(images) @ normalize(texts).T)
    own = torch.arange(len(scores), device=scores.device)
    return (cross_entropy(scores, own) + cross_entropy(scores.T, own)) / 2


class ContrastiveHeads(Heads):
    """A head on each side, and log s, (1,)."""

    def __init__(self, inputs: tuple[int, int], method: LinearHead) -> None:
        super().__init__(inputs, method.hidden, method.dim, method.dropout)
        self.log_scale = nn.Parameter(torch.tensor([-math.log(method.temperature)]))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():  # of the parameter itself: clamped within the loss, it would have no gradient there
            self.log_scale.clamp_(max=math.log(LARGEST_SCALE))
        return info_nce(self.embed("image", x), self.embed("text", y), self.log_scale)


@register(
    "linear-head",
    presets={"paper": PAPER, "tuned": {}, "quick": {"epochs": 5, "batch_size": 50}},
    search=SEARCH,
)
@dataclass
class LinearHead(HeadMethod):
    """Heads trained by InfoNCE; `paper` has the constants of CLIP with a ResNet-50, without its warm-up.

    `tuned` was chosen on validation images of Flickr8k, with features of EfficientNet-Lite0 and MiniLM: dropout of 0.5
    counts most, larger batches and more dimensions do not help, and from CCA's projections training only overfits.

    Attributes:
        temperature: 1 / s at the start of training, at least 0.01.
    """

    temperature: float = 0.07

    similarity: ClassVar = COSINE

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1 / LARGEST_SCALE, "temperature")

    def build(self, inputs: tuple[int, int]) -> Heads:
        return ContrastiveHeads(inputs, self)
