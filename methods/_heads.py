"""Base of linear-head and pcmepp: a head on frozen image features and one on text features, trained together.

Features are standardised by the moments of the training data; words of tf-idf share one deviation.  A batch holds an
image at most once, with one of its texts drawn at random, so every other text of the batch describes another image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from cran_bench import FeatureRows, Run, Split
from cran_bench.toolbox.kernels import BLOCK, Rows, by_blocks, dense, dense_blocks, require_varied
from cran_bench.toolbox.linalg import deviations
from cran_bench.toolbox.training import Training, linear_decay, shuffled, weights_and_biases

from ._codes import at_least
from ._linear import WORDS_BYTES, ImageScaling, scaled
from ._stacks import standardised

Side = Literal["image", "text"]
TextFeature = Literal["auto", "encoder", "tfidf", "vectors"]
SEARCH = {
    **{"lr": (2e-3, 5e-3, 1e-2), "dim": (128, 256, 512)},
    **{"dropout": (0.2, 0.4, 0.5, 0.6), "weight_decay": (1e-3, 1e-2, 1e-1)},
}


class Heads(nn.Module):
    """A head on each side: a linear map, or two with a GELU between them, and dropout on the inputs of each.

    Args:
        inputs: P and Q, the dimensions of image and text features.
        hidden: units of a hidden layer; 0 for none.
        outputs: dimension of a head's output.
        dropout: dropout rate.
    """

    def __init__(self, inputs: tuple[int, int], hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        for side, size in zip(("image", "text"), inputs, strict=True):
            self.register_buffer(f"{side}_moments", torch.stack([torch.zeros(size), torch.ones(size)]))
            layers: list[nn.Module] = []
            for a, b in pairwise((size, hidden, outputs) if hidden else (size, outputs)):
                layers += [nn.Dropout(dropout), nn.Linear(a, b), nn.GELU()]
            self.layers[side] = nn.Sequential(*layers[:-1])

    def embed(self, side: Side, rows: Tensor) -> Tensor:
        """(n, outputs) of (n, P) image or (n, Q) text features; a subclass gives what is compared, (n, D)."""
        outputs: Tensor = self.layers[side](standardised(rows, self.get_buffer(f"{side}_moments")))
        return outputs

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss, a scalar, of B different images (B, P) and a text of each (B, Q)."""
        raise NotImplementedError


@dataclass
class HeadMethod:
    """Heads on frozen features.

    Attributes:
        image: scaling of image features before they are standardised: unit length (`l2`), unit length of their signed
            square roots (`sqrt`), or `none`.
        text: text feature: the output of the text encoder (`encoder`), `tfidf`, or the mean word vector (`vectors`);
            `auto` takes the text encoder if the data was prepared with one, else tf-idf.
        vocabulary: number of words of tf-idf, the most frequent ones.
        dim: dimensions of the common space.
        hidden: units of a hidden layer of each head; 0 for linear heads.
        dropout: dropout rate of each layer's inputs.
        batch_size: images in a batch, each with one text.
        lr: learning rate of AdamW, which falls linearly to 0 over `epochs`.
        weight_decay: weight decay of matrices.
        clip: largest norm of a gradient; 0 for no limit.
        epochs: largest number of epochs.  An epoch passes over the images as often as they have texts on average.
        patience: epochs without a better rsum on validation before training ends; 0 to train for all `epochs`.
    """

    image: ImageScaling = "sqrt"
    text: TextFeature = "auto"
    vocabulary: int = 3000
    dim: int = 256
    hidden: int = 0
    dropout: float = 0.5
    batch_size: int = 250
    lr: float = 5e-3
    weight_decay: float = 1e-2
    clip: float = 0.0
    epochs: int = 16
    patience: int = 4

    def __post_init__(self) -> None:
        at_least(self, 1, "vocabulary", "dim", "epochs")
        at_least(self, 2, "batch_size")  # one image has no negatives
        at_least(self, 0, "hidden", "lr", "weight_decay", "clip", "patience")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is at least 0 and below 1, not {self.dropout}")

    def build(self, inputs: tuple[int, int]) -> Heads:
        """Build the heads for features of P and Q dimensions."""
        raise NotImplementedError

    def image_rows(self, split: Split) -> FeatureRows:
        """(N, P) scaled image features."""
        return split.image_rows.map(partial(scaled, how=self.image))

    def text_kind(self, split: Split) -> TextFeature:
        """The text feature that is read, never `auto`."""
        return self.text if self.text != "auto" else "encoder" if split.text_dim else "tfidf"

    def text_rows(self, split: Split) -> Rows:
        """(T, Q) text features."""
        kind = self.text_kind(split)
        if kind == "vectors":
            return split.mean_vectors()
        return split.text_rows if kind == "encoder" else split.tfidf(self.vocabulary)

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Measure the moments of the features, then train the heads."""
        X, Y, owner = self.image_rows(train), self.text_rows(train), train.image_of.cpu()
        self.heads = self.build((X.shape[1], Y.shape[1])).to(run.device)
        for side, rows in (("image", X), ("text", Y)):
            require_varied(f"{side} features", rows)
            moments = self.heads.get_buffer(f"{side}_moments").copy_(deviations(dense_blocks(rows, run.device)))
            if side == "text" and self.text_kind(train) == "tfidf":  # by their own, rare words would be large
                moments[1] = moments[1].square().mean().sqrt()
        run.chose(text=self.text_kind(train))
        texts = torch.bincount(owner, minlength=len(train))
        first = texts.cumsum(0) - texts
        passes, count = round(len(owner) / len(train)), math.ceil(len(train) / self.batch_size)

        def batches(epoch: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
            for _ in range(passes):
                for images in shuffled(len(train), self.batch_size, count, generator):
                    drawn = torch.rand(len(images), generator=generator) * texts[images]
                    yield images, first[images] + drawn.long()

        def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
            return self.heads.loss(X[batch[0]], dense(Y[batch[1].numpy()]).to(run.device))

        def validate() -> dict[str, float]:
            learned = {name: float(x) for name, x in self.heads.named_parameters() if x.numel() == 1}
            return run.score(self.embed_images(val), self.embed_texts(val)).curve | learned

        Training(
            module=self.heads,
            optimizer=torch.optim.AdamW(weights_and_biases(self.heads, self.weight_decay), self.lr, fused=True),
            steps=passes * count,
            batches=batches,
            loss=loss,
            validate=validate,
            epochs=self.epochs,
            patience=self.patience,
            rate=linear_decay(self.epochs),
            clip=self.clip,
        ).run(run)
        self.heads.eval()

    def memory(self, train: Split) -> int:
        """Bytes of features, weights with their moments in AdamW, and a batch with its scores."""
        p, kind, size = train.image_dim, self.text_kind(train), min(self.batch_size, len(train))
        q = train.text_dim if kind == "encoder" else self.vocabulary if kind == "tfidf" else train.vector_shape[1]
        weights = 2 * (p + q + self.hidden) * max(self.hidden, self.dim)
        held = train.image_rows.held + (train.text_rows.held if kind == "encoder" else 0)
        held += len(train.texts) * (4 * q if kind == "vectors" else WORDS_BYTES)
        return held + 24 * weights + size * (16 * (p + q) + 64 * self.dim + 96 * size) + 32 * BLOCK * max(p, q)

    def embed_images(self, split: Split) -> Tensor:
        """(N, D) image embeddings."""
        with torch.inference_mode():
            return by_blocks(partial(self.heads.embed, "image"), self.image_rows(split), split.image_of.device)

    def embed_texts(self, split: Split) -> Tensor:
        """(T, D) text embeddings."""
        with torch.inference_mode():
            return by_blocks(partial(self.heads.embed, "text"), self.text_rows(split), split.image_of.device)

    def state(self) -> dict[str, Tensor]:
        """The heads, and the moments of the training data."""
        return dict(self.heads.state_dict())

    def load(self, state: dict[str, Tensor]) -> None:
        self.heads = self.build((state["image_moments"].shape[1], state["text_moments"].shape[1]))
        self.heads.load_state_dict(state)
        self.heads.to(state["image_moments"].device).eval()
