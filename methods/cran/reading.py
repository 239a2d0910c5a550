"""What the text encoders start from: one that learned, from the training texts alone, which words occur where.

Contrastive losses reward naming the right things long before they reward who is where: an encoder that begins at random
first becomes a bag of words, and there it stays, since a scene and its twin then gain and lose alike by every change.
One that tells the words of each quarter of a text apart lets a linear layer read who comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from cran_bench import Run, Split
from cran_bench.frontend.text import FIRST_WORD
from cran_bench.training import Training, linear

from .model import LENGTH, Mean, TextEncoder, in_blocks
from .recipe import Recipe

QUARTERS = 4
WORDS = 3000  # the most frequent training words
BATCH = 50
RATE = 2e-3


class Words(NamedTuple):
    """Texts as their characters, and the words to be told from them.

    Attributes:
        chars: (T, 201) uint8.
        ids: (T, L) int64, a word's place among the most frequent, -1 for none.
        quarters: (T, L) int64, in which quarter of its text a word stands.
    """

    chars: Tensor
    ids: Tensor
    quarters: Tensor

    def rows(self, rows: Tensor) -> Words:
        """Some texts."""
        return Words(*(x[rows] for x in self))


def words_of(split: Split) -> Words:
    """The words of a split's texts, as far as the encoder reads them."""
    split = split.asking([text[:LENGTH] for text in split.texts])
    ids, lengths = split.tokens
    ids = ids.long() - FIRST_WORD
    places = torch.arange(ids.shape[1], device=ids.device)
    quarters = places * QUARTERS // lengths.long()[:, None].clamp_min(1)
    return Words(split.chars(LENGTH), ids.masked_fill(ids >= WORDS, -1).clamp_min(-1), quarters.clamp_max(QUARTERS - 1))


class Teller(nn.Module):
    """A text encoder, and a linear layer from the mean of its steps to the words of each quarter."""

    def __init__(self, recipe: Recipe, words: int) -> None:
        super().__init__()
        self.encoder = TextEncoder(recipe)
        self.mean = Mean()
        self.words = nn.Linear(recipe.sizes.lstm, QUARTERS * words)

    def loss(self, texts: Words) -> Tensor:
        """Mean over words of -log p(word | its quarter)."""
        H, counts = self.encoder(texts.chars)
        pooled = (self.mean.weights(H, counts)[:, None] @ H).squeeze(1)
        logits = self.words(pooled).view(len(pooled), QUARTERS, -1)
        text, place = (texts.ids >= 0).nonzero().T
        log_p = torch.log_softmax(logits, dim=2)
        found: Tensor = -log_p[text, texts.quarters[text, place], texts.ids[text, place]].mean()
        return found


@dataclass
class Reading(Recipe):
    """A text encoder of a recipe's kind and size, for all levels to start from."""

    part_name: ClassVar[str] = "words"

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Learn to tell the words; keep the pass that tells those of validation best."""
        texts, unseen = words_of(train), words_of(val)
        teller = Teller(self, min(WORDS, int(texts.ids.max()) + 1)).to(run.device)
        touched = teller.encoder.touched(texts.chars).cpu()
        sizes = range(0, len(touched), BATCH)

        def batches(number: int, generator: torch.Generator) -> Iterator[Words]:
            """Texts of a length together, so that few steps are padding."""
            order = (touched + 2 * torch.rand(len(touched), generator=generator)).argsort()
            for k in torch.randperm(len(sizes), generator=generator).tolist():
                yield texts.rows(order[sizes[k] : sizes[k] + BATCH].to(run.device))

        def likelihood() -> dict[str, float]:
            losses = [teller.loss(unseen.rows(rows)) for rows in in_blocks(torch.arange(len(unseen.ids)), BATCH)]
            return {"words": 100 * float(torch.exp(-torch.stack(losses).mean()))}

        Training(
            module=teller,
            optimizer=torch.optim.AdamW([p for p in teller.parameters() if p.requires_grad], lr=RATE),
            steps=len(sizes),
            batches=batches,
            loss=teller.loss,
            validate=likelihood,
            criterion="words",
            epochs=self.start_passes,
            rate=linear(self.start_passes),
            clip=1.0,
        ).run(run)
        self.encoder = teller.encoder.eval()

    def state(self) -> dict[str, Tensor]:
        """The encoder's weights."""
        return dict(self.encoder.state_dict())

    def load(self, state: dict[str, Tensor]) -> None:
        """See `state`."""
        self.encoder = TextEncoder(self)
        self.encoder.load_state_dict(state)
        self.encoder.eval()
