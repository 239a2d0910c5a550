"""What the text encoders start from: one that learned beforehand what its level needs, from a linear layer's errors.

`places`: where CCA puts the text, which is what the words say of the image.  It saves the global and local level the
many epochs in which a contrastive loss teaches characters to be words.  `words`: which words occur in which quarter of
the text.  The relation level needs to know who is named first, and may not know too well who is named: a level that
finds things by name settles on roles by name (red things first, squares second), under which a scene and its twin score
alike whatever is changed a little, and stays there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from cran_bench import Run, Split
from cran_bench.frontend.text import FIRST_WORD
from cran_bench.training import Training, linear

from .correlation import WORDS, Correlation
from .model import LENGTH, Mean, TextEncoder, in_blocks
from .recipe import Recipe

QUARTERS = 4
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
    order = torch.arange(ids.shape[1], device=ids.device)
    quarters = order * QUARTERS // lengths.long()[:, None].clamp_min(1)
    known = ids.masked_fill(ids >= WORDS, -1).clamp_min(-1)
    return Words(split.chars(LENGTH), known, quarters.clamp_max(QUARTERS - 1))


class Teller(nn.Module):
    """A text encoder, and a linear layer from the mean of its steps to what is to be told."""

    criterion: ClassVar[str]
    enough: ClassVar[float] = math.inf  # of the criterion

    def __init__(self, recipe: Recipe, outputs: int) -> None:
        super().__init__()
        self.encoder = TextEncoder(recipe)
        self.mean = Mean()
        self.layer = nn.Linear(recipe.sizes.lstm, outputs)

    def told(self, chars: Tensor) -> Tensor:
        """(T, 201) characters to (T, outputs)."""
        H, counts = self.encoder(chars)
        told: Tensor = self.layer((self.mean.weights(H, counts)[:, None] @ H).squeeze(1))
        return told

    def losses(self, texts: Words) -> Tensor:
        """One for each thing to be told."""
        raise NotImplementedError

    def loss(self, texts: Words) -> Tensor:
        """The mean; 0 where there is nothing to tell."""
        losses = self.losses(texts)
        return losses.sum() / max(1, len(losses))


class WordTeller(Teller):
    """Tells the words of each quarter; `likelihood` is the geometric mean of their probabilities, in percent."""

    criterion = "likelihood"

    def __init__(self, recipe: Recipe, words: int) -> None:
        super().__init__(recipe, QUARTERS * words)

    def losses(self, texts: Words) -> Tensor:
        """-log p(word | its quarter) of every word."""
        log_p = torch.log_softmax(self.told(texts.chars).view(len(texts.ids), QUARTERS, -1), dim=2)
        text, place = (texts.ids >= 0).nonzero().T
        return -log_p[text, texts.quarters[text, place], texts.ids[text, place]]

    @staticmethod
    def quality(loss: float) -> float:
        """The criterion at a mean loss."""
        return 100 * math.exp(-loss)


class PlaceTeller(Teller):
    """Tells where CCA puts a text; `cosine` is the mean of those between told and true.

    Args:
        places: (V, dim) where CCA puts each word.
    """

    criterion = "cosine"
    enough = 0.99

    def __init__(self, recipe: Recipe, places: Tensor) -> None:
        super().__init__(recipe, places.shape[1])
        self.places: Tensor
        self.register_buffer("places", places)

    def losses(self, texts: Words) -> Tensor:
        """1 - cosine of every text that has a word."""
        text, place = (texts.ids >= 0).nonzero().T
        true = self.places.new_zeros(len(texts.ids), self.places.shape[1])
        true.index_add_(0, text, self.places[texts.ids[text, place]])
        losses = 1 - cosine_similarity(self.told(texts.chars), true, dim=1)
        return losses[(texts.ids >= 0).any(dim=1)]

    @staticmethod
    def quality(loss: float) -> float:
        """The criterion at a mean loss."""
        return 1 - loss


@dataclass
class Reading(Recipe):
    """A text encoder of a recipe's kind and size, for all levels to start from that start alike: see `Recipe.start`."""

    @property
    def part_name(self) -> str:
        """See `cran_bench.fits.part_name`."""
        return self.start

    def parts(self) -> list[Correlation]:
        """Where CCA puts words, for `places`."""
        return [Correlation(self.ridge, self.scaled_dim)] if self.start == "places" else []

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Learn to tell; keep the pass that tells best what is said in validation's texts."""
        texts, unseen = words_of(train), words_of(val)
        if self.start == "places":
            places = run.part(Correlation(self.ridge, self.scaled_dim)).places.float()
            teller: PlaceTeller | WordTeller = PlaceTeller(self, places).to(run.device)
        else:
            teller = WordTeller(self, train.bow(WORDS).shape[1]).to(run.device)
        touched = teller.encoder.touched(texts.chars).cpu()
        steps = min(math.ceil(len(touched) / BATCH), max(1, len(touched) // 2))

        def batches(number: int, generator: torch.Generator) -> Iterator[Words]:
            """Texts of a length together, so that few steps are padding."""
            order = (touched + 2 * torch.rand(len(touched), generator=generator)).argsort()
            batches = torch.tensor_split(order, steps)
            for k in torch.randperm(steps, generator=generator).tolist():
                yield texts.rows(batches[k].to(run.device))

        def validate() -> dict[str, float]:
            rows = in_blocks(torch.arange(len(unseen.ids), device=run.device), BATCH)
            losses = torch.cat([teller.losses(unseen.rows(block)) for block in rows])
            return {teller.criterion: teller.quality(float(losses.sum()) / max(1, len(losses)))}

        Training(
            module=teller,
            optimizer=torch.optim.Adam([p for p in teller.parameters() if p.requires_grad], lr=RATE, fused=True),
            steps=steps,
            batches=batches,
            loss=teller.loss,
            validate=validate,
            criterion=teller.criterion,
            enough=teller.enough,
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
