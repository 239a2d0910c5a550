"""Base of `vsepp`, `vse-infinity` and `scan`: networks for images and for sequences of words, trained by hinges.

    L = sum over the pairs (i, c) of a batch:  max_c' [a - s(i, c) + s(i, c')]_+  +  max_i' [a - s(i, c) + s(i', c)]_+

with s the cosine, unless the method has a score of its own, c' a text of another image, and i' another image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from cran_bench import COSINE, FIRST_WORD, Embedding, FeatureRows, Run, Similarity, Split
from cran_bench.toolbox.losses import margin_loss
from cran_bench.toolbox.training import Training, linear_decay

from ._codes import at_least

PAPER = {"dim": 1024, "word_init": "random", "dropout": 0.0, "margin": 0.2, "decay_at": 15, "patience": 0}
"""Constants of both papers."""
QUICK = {"dim": 128, "epochs": 4}
SEARCH = {"lr": (1e-3, 2e-3, 4e-3), "margin": (0.1, 0.2), "dropout": (0.1, 0.3), "negatives": ("hardest", "all")}
"""Where the hardest negatives draw all embeddings to one point, `all` do not."""
BLOCK = 256  # images or texts that are embedded at a time
POOL = 12  # batches whose texts are sorted by length together, so that few steps are padding


class WordTable(nn.Module):
    """A (V, d) table of word embeddings; row 0, for padding, stays zero, and row 1 stands for all words beyond V."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding(len(table), table.shape[1], padding_idx=0)
        self.table.weight = nn.Parameter(table)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) word ids to (B, L, d)."""
        embedded: Tensor = self.table(torch.where(ids < self.table.num_embeddings, ids, FIRST_WORD - 1))
        return embedded


class BiGRU(nn.Module):
    """A GRU in each direction, whose states are averaged."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.forth = nn.GRU(inputs, units, batch_first=True)
        self.back = nn.GRU(inputs, units, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, L, d) steps, of which the first `lengths` (B,) count, to (B, L, units); states beyond are arbitrary."""
        steps = torch.arange(x.shape[1], device=x.device)
        mirrored = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
        rows = torch.arange(len(x), device=x.device)[:, None]
        states: Tensor = (self.forth(x)[0] + self.back(x[rows, mirrored])[0][rows, mirrored]) / 2
        return states


class JointNetwork(nn.Module):
    """A network for images and one for texts, whose vectors have unit length."""

    def images(self, *features: Tensor) -> Tensor:
        """(B, D) embeddings of the features of B images, or (B, n, D) if a method compares sets of vectors."""
        raise NotImplementedError

    def texts(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """(B, D) or (B, L, D) embeddings of word ids (B, L), padded to the right, and lengths (B,) of at least 1."""
        raise NotImplementedError


@dataclass
class HingeMethod:
    """Fields and training of these methods.

    Attributes:
        dim: dimension D of the embeddings, and units of the recurrent network.
        word_dim: dimension of the word embeddings, unless they start from word vectors.
        word_init: initial word embeddings: `random`, or the `vectors` of the front end.
        min_count: times that a word occurs in the training texts, at least; words that are rarer share one embedding.
        dropout: dropout rate of image features and of word embeddings.
        margin: margin a of the hinges.
        negatives: the `hardest` negative of the batch for each image and text, or `all`, whose mean hinge is taken.
        warm_up: first epochs, in which `all` negatives are used: from embeddings that are still poor, the hardest ones
            can draw all images and texts to one point, where the loss is 2 a for each pair.
        batch_size: pairs of an image and a text in a batch; those of one image are never negatives of each other.
        lr: learning rate of AdamW.
        weight_decay: decoupled weight decay; without, AdamW is Adam.
        decay_at: epochs after which the learning rate is divided by 10; 0 to lower it linearly to 0 instead.
        clip: largest norm of a step's gradient, of the sum over the batch; 0 for no limit.
        epochs: largest number of epochs.
        patience: epochs without a better rsum on validation before training ends; 0 to train for all `epochs`.
    """

    dim: int = 256
    word_dim: int = 300
    word_init: Literal["random", "vectors"] = "vectors"
    min_count: int = 4
    dropout: float = 0.3
    margin: float = 0.1
    negatives: Literal["hardest", "all"] = "hardest"
    warm_up: int = 2
    batch_size: int = 128
    lr: float = 4e-3
    weight_decay: float = 1e-4
    decay_at: int = 0
    clip: float = 2.0
    epochs: int = 8
    patience: int = 4

    directions: ClassVar[int] = 1  # of the recurrent network

    def __post_init__(self) -> None:
        at_least(self, 1, "dim", "word_dim", "min_count", "epochs")
        at_least(self, 0, "margin", "warm_up", "weight_decay", "decay_at", "clip", "patience")
        at_least(self, 2, "batch_size")  # one pair alone has no negative
        for name in ("dropout", "size_augmentation"):
            if not 0 <= (rate := getattr(self, name, 0.0)) < 1:
                raise ValueError(f"{name} is at least 0 and below 1, not {rate:g}")
        if not self.lr > 0:
            raise ValueError(f"lr is above 0, not {self.lr:g}")

    @property
    def similarity(self) -> Similarity:
        return COSINE

    def image_features(self, split: Split) -> tuple[FeatureRows | Tensor, ...]:
        """Features of N images each, the arguments of `JointNetwork.images`; the first has vectors of p numbers."""
        raise NotImplementedError

    def build(self, table: Tensor, p: int) -> JointNetwork:
        """Build the network for initial word embeddings (V, d) and image features of p numbers."""
        raise NotImplementedError

    def tokens(self, split: Split) -> tuple[Tensor, Tensor]:
        """Word ids (T, L), L >= 1, and lengths (T,); a text without words counts as one word of zero embedding."""
        ids, lengths = split.tokens
        return nn.functional.pad(ids, (0, int(not ids.shape[1]))), lengths.clamp_min(1)

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        """(I, T) scores of the network's embeddings of I images and T texts."""
        return images @ texts.T

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Minimise L by AdamW; keep the epoch with the best rsum on validation."""
        (ids, lengths), owner, features = self.tokens(train), train.image_of, self.image_features(train)
        counts = lengths.cpu()
        self.p = features[0].shape[-1]
        network = self.network = self.build(self._initial_table(train, ids), self.p).to(run.device)
        negatives: Literal["hardest", "all"] = "all"

        def batches(epoch: int, generator: torch.Generator) -> Iterator[Tensor]:
            nonlocal negatives
            negatives = "all" if epoch <= self.warm_up else self.negatives
            return of_similar_length(counts, self.batch_size, generator)

        def loss(rows: Tensor) -> Tensor:
            longest = int(counts[rows].max())  # on the CPU, as a GPU would have to be waited for
            rows = rows.to(run.device, non_blocking=True)
            images = network.images(*(x[owner[rows]] for x in features))
            texts = network.texts(ids[rows, :longest].long(), lengths[rows])
            return len(rows) * margin_loss(self.compare(images, texts), owner[rows], self.margin, negatives)

        Training(
            module=network,
            optimizer=torch.optim.AdamW(network.parameters(), self.lr, weight_decay=self.weight_decay, fused=True),
            steps=math.ceil(len(ids) / self.batch_size),
            batches=batches,
            loss=loss,
            validate=lambda: run.score(self.embed_images(val), self.embed_texts(val)).curve,
            epochs=self.epochs,
            patience=self.patience,
            patience_from=self.warm_up + 1,
            rate=(lambda passed: 0.1 ** (passed // self.decay_at)) if self.decay_at else linear_decay(self.epochs),
            clip=self.clip,
        ).run(run)
        network.eval()

    def _initial_table(self, train: Split, ids: Tensor) -> Tensor:
        """(V, d) initial embeddings of padding, of unknown words, and of frequent words, which come first in `ids`."""
        frequent = torch.bincount(ids.flatten().cpu())[FIRST_WORD:] >= self.min_count
        rows = FIRST_WORD + int(frequent.sum())
        random = torch.empty(rows, self.word_dim).uniform_(-0.1, 0.1)
        table = random if self.word_init == "random" else train.token_vectors()[:rows]
        return table.index_fill(0, torch.zeros(1, dtype=torch.long, device=table.device), 0.0)

    def memory(self, train: Split) -> int:
        """Bytes of features, word ids, weights with their moments in Adam, and the steps of a batch of long texts."""
        ids, features = train.tokens[0], self.image_features(train)
        p, held = features[0].shape[-1], sum(x.held for x in features if isinstance(x, FeatureRows))
        width = train.vector_shape[1] if self.word_init == "vectors" else self.word_dim
        recurrent = 3 * self.directions * self.dim * (width + self.dim + 2)
        weights = recurrent + (int(ids.max()) + 1) * width + 2 * (p + self.dim) * self.dim
        step = self.batch_size * (2 * (p + width) + 16 * self.directions * self.dim)
        longest = max(ids.shape[1], math.prod(features[0].shape[1:]) // p)
        steps = 4 * longest * max(step, BLOCK * (p + width + 6 * self.dim))
        return held + 4 * ids.numel() + 300 * len(ids) + 28 * weights + steps

    def embed_images(self, split: Split) -> Embedding:
        """(N, D) image embeddings."""
        return self.image_vectors(split)

    def embed_texts(self, split: Split) -> Embedding:
        """(T, D) text embeddings."""
        embedded = torch.empty(len(split.texts), self.dim, device=split.image_of.device)
        for rows, texts in self.text_vectors(split):
            embedded[rows] = texts
        return embedded

    def image_vectors(self, split: Split) -> Tensor:
        """The network's embeddings of all images."""
        features = self.image_features(split)
        with torch.inference_mode():
            blocks = torch.split(torch.arange(len(split), device=split.image_of.device), BLOCK)
            return torch.cat([self.network.images(*(x[rows] for x in features)) for rows in blocks])

    def text_vectors(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield row numbers and the network's embeddings of texts, of similar length at a time."""
        ids, lengths = self.tokens(split)
        counts = lengths.cpu()
        for rows in torch.split(counts.argsort(stable=True), BLOCK):
            longest = int(counts[rows[-1:]].sum())  # 0 if there are no texts
            rows = rows.to(ids.device)
            with torch.inference_mode():
                texts = self.network.texts(ids[rows, : max(1, longest)].long(), lengths[rows])
            yield rows, texts

    def state(self) -> dict[str, Tensor]:
        """The weights, and the dimension of the image features."""
        return {**self.network.state_dict(), "p": torch.tensor(self.p)}

    def load(self, state: dict[str, Tensor]) -> None:
        weights = {name: value for name, value in state.items() if name != "p"}
        self.p = int(state["p"])
        table = weights["words.table.weight"]
        self.network = self.build(torch.zeros(table.shape), self.p).to(table.device).eval()
        self.network.load_state_dict(weights)


def of_similar_length(lengths: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield all rows once, in random batches of at most `batch_size` texts of similar length, given (T,) lengths."""
    batches: list[Tensor] = []
    for rows in torch.split(torch.randperm(len(lengths), generator=generator), POOL * batch_size):
        by_length = rows[lengths[rows].argsort(stable=True)]
        batches += torch.tensor_split(by_length, math.ceil(len(rows) / batch_size))
    for k in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[k]
