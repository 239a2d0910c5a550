"""Pretraining of text encoders on the training texts, with a linear layer on the mean of the encoder's steps.

`cca-targets`: the encoder learns to predict the projection of the text by CCA with the images.  This saves the global
and the local level the many epochs that a contrastive loss takes to learn words from characters.

`word-positions`: the encoder learns to predict which words occur in which quarter of the text.  The relation level has
to know which object is named first.  An encoder that knows the objects too well leads it into a local minimum: the
level assigns roles by name (red things first, squares second), so that a scene and its twin get equal scores, and
small changes of the weights do not help.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from cran_bench import FIRST_WORD, Run, Split
from cran_bench.toolbox.training import Training, linear_decay

from .correlation import WORDS, Correlation
from .model import LENGTH, CharacterEncoder, Mean, in_blocks, lengths
from .recipe import LEVELS, Recipe

QUARTERS = 4
BATCH = 50
LEARNING_RATE = 2e-3
DRAWS_APART = 1_000_000  # between the seeds of a run's streams of random numbers


def seed_of(run: Run, draw: int) -> int:
    """The seed of one of a run's streams of random numbers; the first has the seed of the run."""
    return run.seed + DRAWS_APART * draw


class Words(NamedTuple):
    """Texts as characters, and the words to be predicted from them.

    Attributes:
        chars: (T, 201) uint8 characters.
        ids: (T, L) int64 rank of each word by frequency, -1 for none.
        quarters: (T, L) int64 quarter of the text in which each word occurs, from 0.
    """

    chars: Tensor
    ids: Tensor
    quarters: Tensor

    def rows(self, rows: Tensor, length: int = LENGTH) -> Words:
        """The texts at these positions, with their first `length` characters."""
        return Words(self.chars[rows, :length], self.ids[rows], self.quarters[rows])


def words_of(split: Split) -> Words:
    """The words of a split's texts; of texts longer than 201 characters, the words that end within these."""
    truncated = split.asking([t if len(t) <= LENGTH else t[:LENGTH].rpartition(" ")[0] for t in split.texts])
    ids, lengths = truncated.tokens
    ids = ids.long() - FIRST_WORD
    order = torch.arange(ids.shape[1], device=ids.device)
    quarters = order * QUARTERS // lengths.long()[:, None].clamp_min(1)
    known = ids.masked_fill(ids >= WORDS, -1).clamp_min(-1)
    return Words(split.chars(LENGTH), known, quarters.clamp_max(QUARTERS - 1))


class Predictor(nn.Module):
    """A text encoder, and a linear layer from the mean of its steps to the targets."""

    criterion: ClassVar[str]
    stop_at: ClassVar[float] = math.inf  # value of the criterion at which pretraining ends

    def __init__(self, recipe: Recipe, outputs: int) -> None:
        super().__init__()
        self.encoder = CharacterEncoder(recipe)
        self.mean = Mean()
        self.layer = nn.Linear(recipe.encoder.sizes.lstm, outputs)

    def forward(self, chars: Tensor) -> Tensor:
        """Predictions (T, outputs) for (T, 201) characters."""
        H, counts = self.encoder(chars)
        predicted: Tensor = self.layer((self.mean.weights(H, counts)[:, None] @ H).squeeze(1))
        return predicted

    def losses(self, texts: Words) -> Tensor:
        """The loss of each target."""
        raise NotImplementedError

    def loss(self, texts: Words) -> Tensor:
        """The mean loss; 0 where there is no target."""
        losses = self.losses(texts)
        return losses.sum() / max(1, len(losses))


class WordPositionPredictor(Predictor):
    """Predicts the words of each quarter; `likelihood` is the geometric mean of their probabilities, in percent."""

    criterion = "likelihood"

    def __init__(self, recipe: Recipe, words: int) -> None:
        super().__init__(recipe, QUARTERS * words)

    def losses(self, texts: Words) -> Tensor:
        """-log p(word | quarter) of every word."""
        log_p = torch.log_softmax(self(texts.chars).view(len(texts.ids), QUARTERS, -1), dim=2)
        text, position = (texts.ids >= 0).nonzero().T
        return -log_p[text, texts.quarters[text, position], texts.ids[text, position]]

    @staticmethod
    def quality(loss: float) -> float:
        """The criterion for a mean loss."""
        return 100 * math.exp(-loss)


class CCATargetPredictor(Predictor):
    """Predicts the projection of a text by CCA; `cosine` is the mean cosine of prediction and target.

    Args:
        recipe: the options of the encoder.
        words: (V, dim) projection of each word by CCA.
    """

    criterion = "cosine"
    stop_at = 0.99

    def __init__(self, recipe: Recipe, words: Tensor) -> None:
        super().__init__(recipe, words.shape[1])
        self.words: Tensor
        self.register_buffer("words", words)

    def losses(self, texts: Words) -> Tensor:
        """1 - cosine of every text that has a word."""
        text, position = (texts.ids >= 0).nonzero().T
        targets = self.words.new_zeros(len(texts.ids), self.words.shape[1])
        targets.index_add_(0, text, self.words[texts.ids[text, position]])
        losses = 1 - cosine_similarity(self(texts.chars), targets, dim=1)
        return losses[(texts.ids >= 0).any(dim=1)]

    @staticmethod
    def quality(loss: float) -> float:
        """The criterion for a mean loss."""
        return 1 - loss


@dataclass
class PretrainedEncoder(Recipe):
    """A pretrained text encoder.

    Attributes:
        draw: number of its stream of random numbers, that of the level it is for.
    """

    draw: int = 0

    @property
    def part_name(self) -> str:
        """The name of its curve: what it predicts, and the level that it is for."""
        member, level = divmod(self.draw, len(LEVELS))
        return f"{self.plus.text_init}, {LEVELS[level]}" + f", member {member}" * bool(member)

    def parts(self) -> list[Correlation]:
        """The CCA whose projections of texts are the targets."""
        uses_cca = self.plus.text_init == "cca-targets"
        return [Correlation(self.plus.ridge, self.plus.scaled_dim)] if uses_cca else []

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Train the encoder; keep the epoch that predicts best for the validation texts."""
        seed = seed_of(run, self.draw)
        torch.manual_seed(seed)
        texts, unseen = words_of(train), words_of(val)
        if self.plus.text_init == "cca-targets":
            words = run.part(Correlation(self.plus.ridge, self.plus.scaled_dim)).words.float()
            model: CCATargetPredictor | WordPositionPredictor = CCATargetPredictor(self, words).to(run.device)
        else:
            model = WordPositionPredictor(self, train.bow(WORDS).shape[1]).to(run.device)
        long, unseen_long = lengths(texts.chars).cpu(), lengths(unseen.chars).cpu()
        touched = model.encoder.touched(long)
        steps = min(math.ceil(len(touched) / BATCH), max(1, len(touched) // 2))

        def batches(number: int, generator: torch.Generator) -> Iterator[Words]:
            """Texts of similar length together, so that few steps are padding."""
            order = (touched + 2 * torch.rand(len(touched), generator=generator)).argsort()
            batches = torch.tensor_split(order, steps)
            for k in torch.randperm(steps, generator=generator).tolist():
                yield texts.rows(batches[k].to(run.device), int(long[batches[k]].max()))

        def validate() -> dict[str, float]:
            blocks = in_blocks(torch.arange(len(unseen.ids)), BATCH)
            losses = torch.cat([model.losses(unseen.rows(block, int(unseen_long[block].max()))) for block in blocks])
            return {model.criterion: model.quality(float(losses.sum()) / max(1, len(losses)))}

        learned = [p for p in model.parameters() if p.requires_grad]
        Training(
            module=model,
            optimizer=torch.optim.Adam(learned, lr=LEARNING_RATE, fused=True),
            steps=steps,
            batches=batches,
            loss=model.loss,
            validate=validate,
            criterion=model.criterion,
            stop_at=model.stop_at,
            epochs=self.plus.pretraining_epochs,
            rate=linear_decay(self.plus.pretraining_epochs),
            clip=1.0,
            seed=seed,
        ).run(run)
        self.network = model.encoder.eval()

    def state(self) -> dict[str, Tensor]:
        """The encoder's weights."""
        return dict(self.network.state_dict())

    def load(self, state: dict[str, Tensor]) -> None:
        self.network = CharacterEncoder(self).to(next(iter(state.values())).device).eval()
        self.network.load_state_dict(state)
