"""Word-CNN: a text's words, in their order, as 300 numbers, for methods that take a text as a vector.

    h = [max_t relu(W_3 x_{t:t+3} + b_3); max_t relu(W_4 x_{t:t+4} + b_4); max_t relu(W_5 x_{t:t+5} + b_5)]

Y. Kim, "Convolutional neural networks for sentence classification", EMNLP 2014, with the word vectors x learned further
("non-static").  Kim learns from classes; captions have none, so it learns to rank: h and the image, each through one
linear layer, are compared by cosine under a bidirectional margin loss (Kiros, Salakhutdinov, Zemel, 2014).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, normalize

from cran_bench import COSINE, Run, Split
from cran_bench.toolbox.kernels import by_blocks, dense_blocks
from cran_bench.toolbox.linalg import deviations
from cran_bench.toolbox.losses import margin_loss
from cran_bench.toolbox.training import Training, linear

WIDTHS = (3, 4, 5)
BLOCK = 1024
WORD_BYTES = 1000  # of a text's word ids and h


class Reader(nn.Module):
    """Words to h.

    Args:
        vectors: (V + 2, D) the word vectors to begin with.
        filters: of each width.
    """

    def __init__(self, vectors: Tensor, filters: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors.clone())
        self.layers = nn.ModuleList(nn.Conv1d(vectors.shape[1], filters, width) for width in WIDTHS)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """(T, L) token ids and (T,) lengths to (T, 3 filters).  Only windows within a text count, or its first."""
        room = max(WIDTHS) - ids.shape[1]
        x = self.vectors[nn.functional.pad(ids, (0, max(0, room)))].transpose(1, 2)
        found = []
        for width, layer in zip(WIDTHS, self.layers, strict=True):
            y = torch.relu(layer(x))
            last = (lengths - width).clamp_min(0)[:, None, None]
            found.append(y.masked_fill(torch.arange(y.shape[2], device=y.device) > last, 0.0).amax(dim=2))
        return torch.cat(found, dim=1)


class Ranker(nn.Module):
    """The reader, and a linear layer for each side."""

    def __init__(self, reader: Reader, dim: int, image_dim: int, space: int) -> None:
        super().__init__()
        self.reader = reader
        self.text, self.image = nn.Linear(dim, space), nn.Linear(image_dim, space)


@dataclass
class WordCNN:
    """The reader's training.

    Attributes:
        filters: of each width; Kim takes 100.
        dropout: share of h that a training step leaves out; Kim takes one half.
        space: dimensions in which images and texts are ranked.
        margin: of the loss.
        batch_size: texts of a step.
        lr: of Adam.
        epochs: passes over the training texts at most.
        patience: passes without a better rsum on validation before it ends.
    """

    filters: int = 100
    dropout: float = 0.5
    space: int = 300
    margin: float = 0.2
    batch_size: int = 128
    lr: float = 1e-3
    epochs: int = 30
    patience: int = 5

    part_name: ClassVar[str] = "word-cnn"

    @property
    def dim(self) -> int:
        """Of h."""
        return len(WIDTHS) * self.filters

    def memory(self, train: Split) -> int:
        """The features, if they are held; word ids; the vectors, their gradient and what Adam keeps of them."""
        words, numbers = train.vector_shape
        return train.image_rows.held + WORD_BYTES * len(train.texts) + 20 * words * numbers

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Learn to rank; keep the pass that is best on validation."""
        X, seen = (split.image_rows.map(partial(normalize, dim=1)) for split in (train, val))
        mean, deviation = deviations(dense_blocks(X, run.device))
        (ids, lengths), owner = train.tokens, train.image_of
        reader = Reader(train.token_vectors(), self.filters)
        model = Ranker(reader, self.dim, len(mean), self.space).to(run.device)
        steps = min(math.ceil(len(ids) / self.batch_size), max(1, len(ids) // 2))

        def batches(number: int, generator: torch.Generator) -> Iterator[Tensor]:
            for rows in torch.tensor_split(torch.randperm(len(ids), generator=generator), steps):
                yield rows.to(run.device)

        def loss(rows: Tensor) -> Tensor:
            longest = int(lengths[rows].max())
            h = dropout(model.reader(ids[rows, :longest].long(), lengths[rows]), self.dropout)
            images, texts = model.image((X[owner[rows]] - mean) / deviation), model.text(h)
            scores = normalize(images, dim=1) @ normalize(texts, dim=1).T
            return margin_loss(scores, owner[rows], self.margin, "all")

        def validate() -> dict[str, float]:
            self.reader = model.reader
            images = by_blocks(lambda x: model.image((x - mean) / deviation), seen, run.device)
            texts = model.text(self.embed_texts(val))
            return {"rsum": run.score(images, texts, COSINE).rsum}

        Training(
            module=model,
            optimizer=torch.optim.Adam(model.parameters(), lr=self.lr),
            steps=steps,
            batches=batches,
            loss=loss,
            validate=validate,
            epochs=self.epochs,
            patience=self.patience,
            rate=linear(self.epochs),
            clip=2.0,
        ).run(run)
        self.reader = model.reader.eval()

    def embed_texts(self, split: Split) -> Tensor:
        """(T, dim) float32, h of each text."""
        ids, lengths = split.tokens
        with torch.inference_mode():
            blocks = zip(torch.split(ids, BLOCK), torch.split(lengths, BLOCK), strict=True)
            return torch.cat([self.reader(some.long(), count) for some, count in blocks])

    def state(self) -> dict[str, Tensor]:
        """The reader's weights."""
        return dict(self.reader.state_dict())

    def load(self, state: dict[str, Tensor]) -> None:
        """See `state`."""
        self.reader = Reader(state["vectors"], self.filters).to(state["vectors"].device).eval()
        self.reader.load_state_dict(state)
