"""Word-CNN: a 300-dimensional text feature that depends on word order, for methods that take a text as a vector.

    h = [max_t relu(W_3 x_{t:t+3} + b_3); max_t relu(W_4 x_{t:t+4} + b_4); max_t relu(W_5 x_{t:t+5} + b_5)]

Y. Kim, "Convolutional neural networks for sentence classification", EMNLP 2014, with fine-tuned word vectors x
("non-static").  Kim trains on classes; captions have none, so the network is trained to rank: h and the image, each
after one linear layer, are compared by cosine under a bidirectional margin loss (Kiros, Salakhutdinov, Zemel, 2014).
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
from cran_bench.toolbox.training import Training, linear_decay

WIDTHS = (3, 4, 5)
BLOCK = 1024
WORD_BYTES = 1000  # memory for a text's word ids and h


class WordConvolutions(nn.Module):
    """The convolutions and max pooling that map words to h.

    Args:
        vectors: (V + 2, D) initial word vectors.
        filters: number of filters of each width.
    """

    def __init__(self, vectors: Tensor, filters: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors.clone())
        self.layers = nn.ModuleList(nn.Conv1d(vectors.shape[1], filters, width) for width in WIDTHS)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Map (T, L) token ids and (T,) lengths to (T, 3 filters); at least the first window of a text is used."""
        missing = max(WIDTHS) - ids.shape[1]
        x = self.vectors[nn.functional.pad(ids, (0, max(0, missing)))].transpose(1, 2)
        pooled = []
        for width, layer in zip(WIDTHS, self.layers, strict=True):
            y = torch.relu(layer(x))
            last = (lengths - width).clamp_min(0)[:, None, None]
            pooled.append(y.masked_fill(torch.arange(y.shape[2], device=y.device) > last, 0.0).amax(dim=2))
        return torch.cat(pooled, dim=1)


class Ranker(nn.Module):
    """The convolutions, and a linear layer for each side."""

    def __init__(self, reader: WordConvolutions, dim: int, image_dim: int, space: int) -> None:
        super().__init__()
        self.reader = reader
        self.text, self.image = nn.Linear(dim, space), nn.Linear(image_dim, space)


@dataclass
class WordCNN:
    """Training of the convolutions.

    Attributes:
        filters: number of filters of each width; Kim has 100.
        dropout: dropout rate of h; Kim has one half.
        space: dimensions of the space in which images and texts are compared.
        margin: margin of the loss.
        batch_size: texts in a batch.
        lr: learning rate of Adam.
        epochs: largest number of epochs.
        patience: epochs without a better rsum on validation before training ends.
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
        """Dimension of h."""
        return len(WIDTHS) * self.filters

    def memory(self, train: Split) -> int:
        """Bytes of image features, word ids, and word vectors with their gradient and moments in Adam."""
        words, numbers = train.vector_shape
        return train.image_rows.held + WORD_BYTES * len(train.texts) + 20 * words * numbers

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Minimise the margin loss; keep the epoch with the best rsum on validation."""
        X, seen = (split.image_rows.map(partial(normalize, dim=1)) for split in (train, val))
        mean, deviation = deviations(dense_blocks(X, run.device))
        (ids, lengths), owner = train.tokens, train.image_of
        counts = lengths.cpu()
        reader = WordConvolutions(train.token_vectors(), self.filters)
        model = Ranker(reader, self.dim, len(mean), self.space).to(run.device)
        steps = min(math.ceil(len(ids) / self.batch_size), max(1, len(ids) // 2))

        def batches(number: int, generator: torch.Generator) -> Iterator[Tensor]:
            yield from torch.tensor_split(torch.randperm(len(ids), generator=generator), steps)

        def loss(rows: Tensor) -> Tensor:
            longest = int(counts[rows].max())  # on the CPU, as a GPU would have to be waited for
            rows = rows.to(run.device, non_blocking=True)
            h = dropout(model.reader(ids[rows, :longest].long(), lengths[rows]), self.dropout)
            images, texts = model.image((X[owner[rows]] - mean) / deviation), model.text(h)
            scores = normalize(images, dim=1) @ normalize(texts, dim=1).T
            return margin_loss(scores, owner[rows], self.margin, "all")

        def validate() -> dict[str, float]:
            self.reader = model.reader
            images = by_blocks(lambda x: model.image((x - mean) / deviation), seen, run.device)
            texts = model.text(self.embed_texts(val))
            return run.score(images, texts, COSINE).curve

        Training(
            module=model,
            optimizer=torch.optim.Adam(model.parameters(), lr=self.lr, fused=True),
            steps=steps,
            batches=batches,
            loss=loss,
            validate=validate,
            epochs=self.epochs,
            patience=self.patience,
            rate=linear_decay(self.epochs),
            clip=2.0,
        ).run(run)
        self.reader = model.reader.eval()

    def embed_texts(self, split: Split) -> Tensor:
        """(T, dim) float32 features h."""
        ids, lengths = split.tokens
        with torch.inference_mode():
            blocks = zip(torch.split(ids, BLOCK), torch.split(lengths, BLOCK), strict=True)
            return torch.cat([self.reader(some.long(), count) for some, count in blocks])

    def state(self) -> dict[str, Tensor]:
        """The weights of the convolutions."""
        return dict(self.reader.state_dict())

    def load(self, state: dict[str, Tensor]) -> None:
        self.reader = WordConvolutions(state["vectors"], self.filters).to(state["vectors"].device).eval()
        self.reader.load_state_dict(state)
