"""What Bimodal AE, Multimodal DBN, Corr-AE and CCL share: a network that turns what stacks of RBMs say into codes.

Memory: what the stacks need, see `_stacks`, and what they say of the training data, 4 bytes for each image or text and
unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from cran_bench import COSINE, Run, Split
from cran_bench.contract import Part
from cran_bench.kernels import by_blocks, dense_blocks
from cran_bench.linalg import deviations
from cran_bench.states import below, with_prefix
from cran_bench.training import Training, gathering, passes, shuffled, slowed, weights_and_biases

from ._linear import ImageScaling
from ._stacks import Stack, Stacks, TextFeature, standardise_, standardised

LOOK = 1000  # validation pairs that a network's own measures are taken on
SAMPLE = 2000  # images, and texts, of the training data whose codes tell the mean that validation takes off

PAPER = {
    "image": "none",
    "text": "bow",
    "hidden_image": (2048, 1024),
    "hidden_text": (1024, 1024),
    "stack_steps": 50_000,
    "rate_image": 1.0,
    "rate_text": 1.0,
    "standardised": False,
    "optimizer": "sgd",
    "lr": 0.05,
    "batch_size": 100,
    "patience": 0,
    "codes": "none",
}
"""Sizes, steps and constants of the sources, where they agree.

Where RBMs differ from the sources': biases begin at the mean of the data, weights at deviations of 0.01, and a
replicated softmax weighs what it sees as its energy says, without a factor between the ways up and down.
"""


class Reader(Part, Protocol):
    """What turns images and texts into the network's inputs, a part."""

    @property
    def sizes(self) -> tuple[int, int]:
        """P and Q."""
        ...

    def memory(self, train: Split) -> int:
        """See Estimating."""
        ...

    def read_images(self, split: Split) -> Tensor:
        """(N, P)."""
        ...

    def read_texts(self, split: Split) -> Tensor:
        """(T, Q)."""
        ...


class Coder(nn.Module):
    """A network that codes images and texts; all inputs are (n, P) or (n, Q)."""

    def image(self, p: Tensor) -> Tensor:
        """(n, K) codes."""
        raise NotImplementedError

    def text(self, q: Tensor) -> Tensor:
        """(n, K) codes."""
        raise NotImplementedError

    def loss(self, p: Tensor, q: Tensor, owner: Tensor, step: int) -> Tensor:
        """Of matched rows, and the images (n,) they are of; a scalar."""
        raise NotImplementedError

    def measures(self, p: Tensor, q: Tensor, owner: Tensor) -> dict[str, float]:
        """What the curve says of matched rows of the validation data, beside recall and the spread of codes."""
        raise NotImplementedError


def explained(found: Tensor, rows: Tensor) -> float:
    """The share of the variance of (n, D) rows that a reconstruction explains; 0 for their mean."""
    missed = (rows - found).square().sum() / (rows - rows.mean(dim=0)).square().sum().clamp_min(1e-12)
    return 1 - float(missed)


@dataclass
class CodeMethod:
    """Hyper-parameters of the stacks, and of the training of the network above them.

    Attributes:
        image: scaling of image features before they are standardised, see `_linear.scaled`.
        text: word counts (`bow`), or their `tfidf`.
        vocabulary: words that are counted.
        hidden_image: units of the image stack's layers, from below; on a few thousand images each layer loses more of
            what images and texts share than it adds, and one did best.
        hidden_text: likewise of the text stack.
        stack_steps: steps of training for each layer, to the nearest pass; 0 leaves the stacks as they are drawn.
        rate_image: factor of the image stack's learning rates.
        rate_text: likewise of the text stack's.
        grain: what the stacks read: `whole` images and texts, or their `parts`, regions and runs of words.
        standardised: whether the network sees its inputs less their mean over their deviation, and rebuilds such
            values; without, they are probabilities, and differences between images are small beside their mean.
        optimizer: `sgd` with the schedule of the source, see `schedule`; or `adam`.
        lr: its learning rate.
        decay: of the weights.
        batch_size: pairs of a step.
        steps: of training at most, to the nearest pass.
        patience: passes over the training pairs without a better rsum on validation before it ends; 0 for none.
        codes: compared less their mean over the training data (`centred`), also over their deviation (`standard`), or
            as they are (`none`).
    """

    image: ImageScaling = "sqrt"
    text: TextFeature = "tfidf"
    vocabulary: int = 3000
    hidden_image: tuple[int, ...] = (1024,)
    hidden_text: tuple[int, ...] = (1024,)
    stack_steps: int = 600
    rate_image: float = 5.0
    rate_text: float = 3.0
    grain: Literal["whole", "parts"] = "whole"
    standardised: bool = True
    optimizer: Literal["sgd", "adam"] = "adam"
    lr: float = 1e-3
    decay: float = 1e-4
    batch_size: int = 200
    steps: int = 900
    patience: int = 8
    codes: Literal["none", "centred", "standard"] = "centred"

    similarity: ClassVar = COSINE

    def __post_init__(self) -> None:
        for name in ("hidden_image", "hidden_text"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} is the units of one layer or two, at least 1 each, not {getattr(self, name)}")
            if len(getattr(self, name)) > 2:
                raise ValueError(f"{name} has one layer or two, not {len(getattr(self, name))}")
        at_least(self, 1, "vocabulary", "batch_size", "steps")
        at_least(self, 0, "stack_steps", "patience")

    @property
    def part_name(self) -> str:
        """Of its curve, beside that of the same method on the other grain."""
        return type(self).__name__ + (" of parts" if self.grain == "parts" else "")

    def reader(self) -> Reader:
        """What is below the network, not yet fitted."""
        sides: tuple[Literal["image", "region"], Literal["text", "piece"]]
        sides = ("image", "text") if self.grain == "whole" else ("region", "piece")
        return Stacks(
            Stack(sides[0], self.image, self.hidden_image, self.stack_steps, self.rate_image),
            Stack(sides[1], self.text, self.hidden_text, self.stack_steps, self.rate_text, self.vocabulary),
        )

    def parts(self) -> list[Reader]:
        """What is below."""
        return [self.reader()]

    def schedule(self, count: int) -> tuple[Callable[[float], float], Callable[[float], float]]:
        """Factor of the learning rate and momentum of `sgd`, for epochs of so many steps."""
        return slowed(count), gathering(count)

    def build(self, p: int, q: int) -> Coder:
        """A network for inputs of these sizes."""
        raise NotImplementedError

    def memory(self, train: Split) -> int:
        """What is below needs; what it says of images and texts; and the network, as wide as both."""
        reader = self.reader()
        p, q = reader.sizes
        said = 4 * (len(train) * p + len(train.texts) * q)
        return reader.memory(train) + said + 24 * (p + q) ** 2

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """What is below, a part; then the network."""
        self.inputs = run.part(self.reader())
        P, Q, owner = self.inputs.read_images(train), self.inputs.read_texts(train), train.image_of
        self.scales = {
            f"{side}_inputs": deviations(dense_blocks(rows, rows.device)) for side, rows in (("image", P), ("text", Q))
        }
        P, Q = self._given(P, "image"), self._given(Q, "text")
        seen, read = (
            self._given(self.inputs.read_images(val), "image"),
            self._given(self.inputs.read_texts(val), "text"),
        )
        looked = torch.arange(min(LOOK, len(read)), device=read.device)
        self.coder = self.build(*self.inputs.sizes).to(run.device)
        count, epochs = passes(len(owner), self.batch_size, self.steps)

        def batches(epoch: int, generator: torch.Generator) -> Iterator[tuple[Tensor, int]]:
            for step, rows in enumerate(shuffled(len(owner), self.batch_size, count, generator)):
                yield rows.to(run.device), (epoch - 1) * count + step

        def loss(batch: tuple[Tensor, int]) -> Tensor:
            rows, step = batch
            return self.coder.loss(P[owner[rows]], Q[rows], owner[rows], step)

        def validate() -> dict[str, float]:
            self._measure(*(rows[:: 1 + len(rows) // SAMPLE] for rows in (P, Q)))
            images = by_blocks(self.coder.image, seen, run.device)
            texts = by_blocks(self.coder.text, read, run.device)
            rsum = run.score(self._compared(images, "image"), self._compared(texts, "text")).rsum
            spread = float(torch.cat([images, texts]).std(dim=0, correction=0).mean())
            shown = val.image_of[looked]
            return {"rsum": rsum, "spread": spread} | self.coder.measures(seen[shown], read[looked], shown)

        is_sgd = self.optimizer == "sgd"
        rate, momentum = self.schedule(count)
        groups = weights_and_biases(self.coder, self.decay)
        Training(
            module=self.coder,
            optimizer=torch.optim.SGD(groups, self.lr, momentum=0.5) if is_sgd else torch.optim.Adam(groups, self.lr),
            steps=count,
            batches=batches,
            loss=loss,
            validate=validate,
            epochs=epochs,
            patience=self.patience,
            rate=rate if is_sgd else lambda _: 1.0,
            momentum=momentum if is_sgd else None,
        ).run(run)
        self.coder.eval()
        with torch.inference_mode():
            self._measure(P, Q)

    def _given(self, rows: Tensor, side: str) -> Tensor:
        """What the network is given of its inputs, which are overwritten: there may be gigabytes of them."""
        return standardise_(rows, self.scales[f"{side}_inputs"]) if self.standardised else rows

    def _measure(self, P: Tensor, Q: Tensor) -> None:
        """How codes of these inputs lie."""
        for side, network, rows in (("image", self.coder.image, P), ("text", self.coder.text, Q)):
            self.scales[f"{side}_codes"] = deviations(map(network, dense_blocks(rows, rows.device)))

    def _compared(self, codes: Tensor, side: str) -> Tensor:
        """What is compared of codes."""
        if self.codes == "none":
            return codes
        found = self.scales[f"{side}_codes"]
        return standardised(codes, found) if self.codes == "standard" else codes - found[0]

    def codes_of_images(self, split: Split) -> Tensor:
        """(N, K) codes as the network gives them."""
        with torch.inference_mode():
            given = self._given(self.inputs.read_images(split), "image")
            return by_blocks(self.coder.image, given, given.device)

    def codes_of_texts(self, split: Split) -> Tensor:
        """(T, K) likewise."""
        with torch.inference_mode():
            given = self._given(self.inputs.read_texts(split), "text")
            return by_blocks(self.coder.text, given, given.device)

    def embed_images(self, split: Split) -> Tensor:
        """(N, K)."""
        return self._compared(self.codes_of_images(split), "image")

    def embed_texts(self, split: Split) -> Tensor:
        """(T, K)."""
        return self._compared(self.codes_of_texts(split), "text")

    def state(self) -> dict[str, Tensor]:
        """What is below, the network, and how inputs and codes are scaled."""
        own = with_prefix("scales", self.scales) | with_prefix("coder", self.coder.state_dict())
        return own | with_prefix("inputs", self.inputs.state())

    def load(self, state: dict[str, Tensor]) -> None:
        """See `state`."""
        self.scales = below("scales", state)
        self.inputs = self.reader()
        self.inputs.load(below("inputs", state))
        self.coder = self.build(*self.inputs.sizes).to(self.scales["image_inputs"].device)
        self.coder.load_state_dict(below("coder", state))
        self.coder.eval()


def at_least(method: object, least: int, *names: str) -> None:
    """Raise ValueError for a field below its least value."""
    for name in names:
        if getattr(method, name) < least:
            raise ValueError(f"{name} is at least {least}, not {getattr(method, name)}")
