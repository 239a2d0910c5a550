"""Base of Bimodal AE, Multimodal DBN, Corr-AE and CCL: a network that maps the outputs of RBM stacks to codes.

Memory: the memory of the stacks, and their outputs for the training data, 4 bytes for each unit and each image or text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from cran_bench import COSINE, Part, Run, Split
from cran_bench.toolbox.kernels import by_blocks, dense_blocks
from cran_bench.toolbox.linalg import deviations
from cran_bench.toolbox.states import below, with_prefix
from cran_bench.toolbox.training import (
    Training,
    inverse_time_decay,
    momentum_warmup,
    passes,
    shuffled,
    weights_and_biases,
)

from ._linear import ImageScaling
from ._stacks import Stack, Stacks, TextFeature, standardise_, standardised

MEASURED = 1000  # validation pairs on which a network's own measures are computed
SAMPLE = 2000  # training images, and texts, whose codes give the mean that validation subtracts

PAPER = {
    "image": "none",
    "text": "bow",
    "hidden_image": (2048, 1024),
    "hidden_text": (1024, 1024),
    "rbm_steps": 50_000,
    "rbm_lr_scale_image": 1.0,
    "rbm_lr_scale_text": 1.0,
    "standardise_inputs": False,
    "optimiser": "sgd",
    "lr": 0.05,
    "batch_size": 100,
    "patience": 0,
    "code_scaling": "none",
}
"""Sizes, steps and constants of the published sources, where they agree.

The RBMs differ from the sources in three ways: biases start at the mean of the data, weights have a standard deviation
of 0.01, and a replicated softmax weighs its input as its energy says, without a factor between the two directions.
"""

QUICK = {"hidden_image": (512,), "hidden_text": (512,), "rbm_steps": 60, "units": 256}
"""For a first look at little data."""


class InputEncoder(Part, Protocol):
    """A part that encodes images and texts as the inputs of the network."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Dimensions P of an encoded image and Q of an encoded text."""
        ...

    def memory(self, train: Split) -> int:
        """Bytes at the peak of `fit`."""
        ...

    def encode_images(self, split: Split) -> Tensor:
        """(N, P) encoded images."""
        ...

    def encode_texts(self, split: Split) -> Tensor:
        """(T, Q) encoded texts."""
        ...


class Coder(nn.Module):
    """A network that maps encoded images (n, P) and encoded texts (n, Q) to codes."""

    def image(self, p: Tensor) -> Tensor:
        """(n, K) codes of images."""
        raise NotImplementedError

    def text(self, q: Tensor) -> Tensor:
        """(n, K) codes of texts."""
        raise NotImplementedError

    def loss(self, p: Tensor, q: Tensor, owner: Tensor, step: int) -> Tensor:
        """The loss, a scalar, of matching rows and the image (n,) of each."""
        raise NotImplementedError

    def measures(self, p: Tensor, q: Tensor, owner: Tensor) -> dict[str, float]:
        """Values for the training curve from matching validation rows, in addition to recall and spread of codes."""
        raise NotImplementedError


def explained(reconstructed: Tensor, rows: Tensor) -> float:
    """The fraction of the variance of (n, D) rows that a reconstruction explains; 0 for their mean."""
    missed = (rows - reconstructed).square().sum() / (rows - rows.mean(dim=0)).square().sum().clamp_min(1e-12)
    return 1 - float(missed)


@dataclass
class CodeMethod:
    """A network on stacks of RBMs.

    Attributes:
        image: scaling of image features before they are standardised: unit length (`l2`), unit length of their signed
            square roots (`sqrt`), or `none`.
        text: text feature: word counts (`bow`), `tfidf`, or the output of the text encoder at unit length (`encoder`),
            which reads whole texts only.
        vocabulary: number of words that are counted.
        hidden_image: units of the layers of the image stack, one or two, from the bottom.  On a few thousand images one
            layer did best: each layer loses more of the information that images and texts share than it adds.
        hidden_text: units of the layers of the text stack, one or two, from the bottom.
        rbm_steps: training steps of each RBM, rounded to whole epochs; 0 leaves the stacks at their random weights.
        rbm_lr_scale_image: factor of the learning rates of the image stack.
        rbm_lr_scale_text: factor of the learning rates of the text stack.
        granularity: inputs of the stacks: `whole` images and texts, or their `parts`, regions and segments of five
            words, whose codes are averaged.
        standardise_inputs: whether the inputs of the network, the outputs of the stacks, have their mean subtracted and
            are divided by their standard deviation.  Without, they are probabilities, and the differences between
            images are small compared with their mean.
        optimiser: `sgd` with the learning-rate and momentum schedule of the source, or `adam`.
        lr: learning rate of the network.
        weight_decay: weight decay of the network.
        batch_size: pairs in a batch.
        steps: largest number of training steps of the network, rounded to whole epochs.
        patience: epochs without a better rsum on validation before training ends; 0 to train for all `steps`.
        code_scaling: how codes are scaled before they are compared: with the mean of the training data subtracted
            (`centred`), also divided by the standard deviation (`standardised`), or not at all (`none`).
    """

    image: ImageScaling = "sqrt"
    text: TextFeature = "tfidf"
    vocabulary: int = 3000
    hidden_image: tuple[int, ...] = (1024,)
    hidden_text: tuple[int, ...] = (1024,)
    rbm_steps: int = 600
    rbm_lr_scale_image: float = 5.0
    rbm_lr_scale_text: float = 3.0
    granularity: Literal["whole", "parts"] = "whole"
    standardise_inputs: bool = True
    optimiser: Literal["sgd", "adam"] = "adam"
    lr: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 200
    steps: int = 900
    patience: int = 8
    code_scaling: Literal["none", "centred", "standardised"] = "centred"

    similarity: ClassVar = COSINE

    def __post_init__(self) -> None:
        for name in ("hidden_image", "hidden_text"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} is the units of one layer or two, at least 1 each, not {getattr(self, name)}")
            if len(getattr(self, name)) > 2:
                raise ValueError(f"{name} has one layer or two, not {len(getattr(self, name))}")
        at_least(self, 1, "vocabulary", "batch_size", "steps")
        at_least(self, 0, "rbm_steps", "patience")
        if self.text == "encoder" and self.granularity == "parts":
            raise ValueError("a text encoder reads whole texts: give text=tfidf or text=bow with granularity=parts")

    @property
    def part_name(self) -> str:
        """The name of its curve: the class, and whether its inputs are parts."""
        return type(self).__name__ + (" of parts" if self.granularity == "parts" else "")

    def input_encoder(self) -> InputEncoder:
        """The part below the network, not yet fitted."""
        sides: tuple[Literal["image", "region"], Literal["text", "segment"]]
        sides = ("image", "text") if self.granularity == "whole" else ("region", "segment")
        return Stacks(
            Stack(sides[0], self.image, self.hidden_image, self.rbm_steps, self.rbm_lr_scale_image),
            Stack(sides[1], self.text, self.hidden_text, self.rbm_steps, self.rbm_lr_scale_text, self.vocabulary),
        )

    def parts(self) -> list[InputEncoder]:
        return [self.input_encoder()]

    def schedule(self, count: int) -> tuple[Callable[[float], float], Callable[[float], float]]:
        """Learning-rate factor and momentum of `sgd` by epochs passed, for epochs of `count` steps."""
        return inverse_time_decay(count), momentum_warmup(count)

    def build(self, p: int, q: int) -> Coder:
        """Build the network for inputs of P and Q dimensions."""
        raise NotImplementedError

    def memory(self, train: Split) -> int:
        """Bytes of the stacks, of their outputs, and of the network, which is about as wide as both."""
        encoder = self.input_encoder()
        p, q = encoder.sizes
        outputs = 4 * (len(train) * p + len(train.texts) * q)
        return encoder.memory(train) + outputs + 24 * (p + q) ** 2

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Fit the stacks, as a part, then the network."""
        self.inputs = run.part(self.input_encoder())
        P, Q, owner = self.inputs.encode_images(train), self.inputs.encode_texts(train), train.image_of
        self.scales = {
            f"{side}_inputs": deviations(dense_blocks(rows, rows.device)) for side, rows in (("image", P), ("text", Q))
        }
        P, Q = self._given(P, "image"), self._given(Q, "text")
        seen, read = (
            self._given(self.inputs.encode_images(val), "image"),
            self._given(self.inputs.encode_texts(val), "text"),
        )
        measured = torch.arange(min(MEASURED, len(read)), device=read.device)
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
            scored = run.score(self._compared(images, "image"), self._compared(texts, "text"))
            spread = float(torch.cat([images, texts]).std(dim=0, correction=0).mean())
            images_of = val.image_of[measured]
            return scored.curve | {"spread": spread} | self.coder.measures(seen[images_of], read[measured], images_of)

        is_sgd = self.optimiser == "sgd"
        rate, momentum = self.schedule(count)
        groups = weights_and_biases(self.coder, self.weight_decay)
        sgd = partial(torch.optim.SGD, momentum=0.5)
        Training(
            module=self.coder,
            optimizer=(sgd if is_sgd else torch.optim.Adam)(groups, self.lr, fused=True),
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
        """The inputs of the network, in place of `rows`, as there may be gigabytes of them."""
        return standardise_(rows, self.scales[f"{side}_inputs"]) if self.standardise_inputs else rows

    def _measure(self, P: Tensor, Q: Tensor) -> None:
        """Compute mean and standard deviation of the codes of these inputs."""
        for side, network, rows in (("image", self.coder.image, P), ("text", self.coder.text, Q)):
            self.scales[f"{side}_codes"] = deviations(map(network, dense_blocks(rows, rows.device)))

    def _compared(self, codes: Tensor, side: str) -> Tensor:
        """Scale codes for the comparison."""
        if self.code_scaling == "none":
            return codes
        moments = self.scales[f"{side}_codes"]
        return standardised(codes, moments) if self.code_scaling == "standardised" else codes - moments[0]

    def codes_of_images(self, split: Split) -> Tensor:
        """(N, K) unscaled codes of images."""
        with torch.inference_mode():
            given = self._given(self.inputs.encode_images(split), "image")
            return by_blocks(self.coder.image, given, given.device)

    def codes_of_texts(self, split: Split) -> Tensor:
        """(T, K) unscaled codes of texts."""
        with torch.inference_mode():
            given = self._given(self.inputs.encode_texts(split), "text")
            return by_blocks(self.coder.text, given, given.device)

    def embed_images(self, split: Split) -> Tensor:
        """(N, K) scaled codes."""
        return self._compared(self.codes_of_images(split), "image")

    def embed_texts(self, split: Split) -> Tensor:
        """(T, K) scaled codes."""
        return self._compared(self.codes_of_texts(split), "text")

    def state(self) -> dict[str, Tensor]:
        """The stacks, the network, and the scales of inputs and codes."""
        own = with_prefix("scales", self.scales) | with_prefix("coder", self.coder.state_dict())
        return own | with_prefix("inputs", self.inputs.state())

    def load(self, state: dict[str, Tensor]) -> None:
        self.scales = below("scales", state)
        self.inputs = self.input_encoder()
        self.inputs.load(below("inputs", state))
        self.coder = self.build(*self.inputs.sizes).to(self.scales["image_inputs"].device)
        self.coder.load_state_dict(below("coder", state))
        self.coder.eval()


def at_least(method: object, least: float, *names: str) -> None:
    """Check fields of a method against their least value.

    Raises:
        ValueError: a field is below it.
    """
    for name in names:
        if getattr(method, name) < least:
            raise ValueError(f"{name} is at least {least}, not {getattr(method, name)}")
