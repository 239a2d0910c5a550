"""What the text encoders start from: one that learned, from the training texts alone, which words occur where.

Contrastive losses reward naming the right things long before they reward who is where: an encoder that begins at random
first becomes a bag of words, and there it stays, since a scene and its twin then gain and lose alike by every change.
One that tells the words of each quarter of a text apart lets a linear layer read who comes first.
"""

from __future__ import annotations

import math
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
    """The words of a split's texts; of a text beyond 201 characters, those that are whole within them."""
    heard = split.asking([t if len(t) <= LENGTH else t[:LENGTH].rpartition(" ")[0] for t in split.texts])
    ids, lengths = heard.tokens
    ids = ids.long() - FIRST_WORD
    places = torch.arange(ids.shape[1], device=ids.device)
    quarters = places * QUARTERS // lengths.long()[:, None].clamp_min(1)
    known = ids.masked_fill(ids >= WORDS, -1).clamp_min(-1)
    return Words(split.chars(LENGTH), known, quarters.clamp_max(QUARTERS - 1))


class Teller(nn.Module):
    """A text encoder, and a linear layer from the mean of its steps to the words of each quarter."""

    def __init__(self, recipe: Recipe, words: int) -> None:
        super().__init__()
        self.encoder = TextEncoder(recipe)
        self.mean = Mean()
        self.words = nn.Linear(recipe.sizes.lstm, QUARTERS * words)

    def losses(self, texts: Words) -> Tensor:
        """-log p(word | its quarter) of every word."""
        H, counts = self.encoder(texts.chars)
        pooled = (self.mean.weights(H, counts)[:, None] @ H).squeeze(1)
        log_p = torch.log_softmax(self.words(pooled).view(len(pooled), QUARTERS, -1), dim=2)
        text, place = (texts.ids >= 0).nonzero().T
        return -log_p[text, texts.quarters[text, place], texts.ids[text, place]]

    def loss(self, texts: Words) -> Tensor:
        """The mean over words; 0 where there is none."""
        losses = self.losses(texts)
        return losses.sum() / max(1, len(losses))


@dataclass
class Reading(Recipe):
    """A text encoder of a recipe's kind and size, for all levels to start from."""

    part_name: ClassVar[str] = "reading"

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Learn to tell the words; keep the pass under which those of validation are likeliest.

        The curve's `likelihood` is the geometric mean of the probabilities of validation's words, in percent.
        """
        texts, unseen = words_of(train), words_of(val)
        teller = Teller(self, train.bow(WORDS).shape[1]).to(run.device)
        touched = teller.encoder.touched(texts.chars).cpu()
        steps = min(math.ceil(len(touched) / BATCH), max(1, len(touched) // 2))

        def batches(number: int, generator: torch.Generator) -> Iterator[Words]:
            """Texts of a length together, so that few steps are padding."""
            order = (touched + 2 * torch.rand(len(touched), generator=generator)).argsort()
            batches = torch.tensor_split(order, steps)
            for k in torch.randperm(steps, generator=generator).tolist():
                yield texts.rows(batches[k].to(run.device))

        def likelihood() -> dict[str, float]:
            rows = in_blocks(torch.arange(len(unseen.ids), device=run.device), BATCH)
            losses = torch.cat([teller.losses(unseen.rows(block)) for block in rows])
            return {"likelihood": 100 * math.exp(-float(losses.sum()) / max(1, len(losses)))}

        Training(
            module=teller,
            optimizer=torch.optim.Adam([p for p in teller.parameters() if p.requires_grad], lr=RATE),
            steps=steps,
            batches=batches,
            loss=teller.loss,
            validate=likelihood,
            criterion="likelihood",
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
        self.encoder = TextEncoder(self).to(next(iter(state.values())).device).eval()
        self.encoder.load_state_dict(state)
