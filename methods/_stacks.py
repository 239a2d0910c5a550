"""Stacks of RBMs, trained layer by layer, that encode images and texts for Bimodal AE, Multimodal DBN, Corr-AE and CCL.

The first layer is a Gaussian RBM for standardised features of images or of a text encoder, and a replicated softmax for
word counts or tf-idf, which are scaled to the same total for all texts.  The second layer is a binary RBM on the
probabilities of the hidden units of the first.

N. Srivastava, R. Salakhutdinov, "Multimodal learning with deep Boltzmann machines", JMLR 2014; the constants are from
the authors' release and from CCL's configurations.

Memory: the features of images, of their regions or of a text encoder where they are few; and 4 bytes for each unit
below the top layer and each image or text, or part of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from cran_bench import BadInput, FeatureRows, Run, Split
from cran_bench.toolbox.kernels import BLOCK, Rows, by_blocks, column_means, dense, dense_blocks
from cran_bench.toolbox.linalg import deviations
from cran_bench.toolbox.rbm import RBM, Kind, Sparsity, contrastive_divergence
from cran_bench.toolbox.states import below, with_prefix
from cran_bench.toolbox.training import (
    Training,
    inverse_time_decay,
    momentum_warmup,
    passes,
    shuffled,
    weights_and_biases,
)

from ._linear import WORDS_BYTES, ImageScaling, scaled

Side = Literal["image", "text", "region", "segment"]
TextFeature = Literal["tfidf", "bow", "encoder"]

SAMPLE = 4096  # rows whose mean code stands for a text or an image without parts
SEGMENT = 5  # words
LETTERS = 25  # of a segment, about
WORDS = {"text": 100.0, "segment": 30.0}
"""Total that the counts of a text or a segment are scaled to; at 100, the few words of a segment saturate units."""


class LayerTraining(NamedTuple):
    """How a layer is trained.

    Attributes:
        kind: kind of its visible units.
        lr: initial learning rate of SGD, divided by 1 + step / 10,000.
        warm: momentum is 0.9 - 0.4 exp(-step / warm).
        decay: weight decay.
        target: target of the mean activity of a hidden unit.
        cost: weight of the sparsity penalty; 0 for none.
        later: step from which chains have 2 Gibbs steps instead of one.
        every: training steps after which chains become one Gibbs step longer.
    """

    kind: Kind
    lr: float
    warm: int
    decay: float
    target: float
    cost: float
    later: int
    every: int

    def gibbs_steps(self, step: int) -> int:
        """Length of the chain at this step of training."""
        return 1 if step < self.later else 2 + (step - self.later) // self.every


IMAGE_LAYERS = (
    LayerTraining("gaussian", 0.001, 10_000, 1e-3, 0.2, 0.1, 50_000, 10_000),
    LayerTraining("binary", 0.05, 10_000, 1e-3, 0.1, 0.01, 15_000, 5_000),
)
TEXT_LAYERS = (
    LayerTraining("counts", 0.1, 5_000, 1e-4, 0.2, 0.01, 15_000, 5_000),
    LayerTraining("binary", 0.01, 10_000, 1e-3, 0.1, 0.01, 15_000, 5_000),
)
JOINT = LayerTraining("binary", 0.01, 5_000, 1e-4, 0.2, 0.0, 15_000, 5_000)
LAYERS: dict[Side, tuple[LayerTraining, LayerTraining]] = {
    "image": IMAGE_LAYERS,
    "region": IMAGE_LAYERS,
    "text": TEXT_LAYERS,
    "segment": TEXT_LAYERS,
}


@dataclass
class Stack:
    """RBMs on one side of the data.

    Attributes:
        side: `image` or `text`; or their parts, `region` and `segment`, whose codes are averaged.
        features: scaling of image features, or the text feature: `tfidf`, counts (`bow`), or the output of the text
            encoder at unit length (`encoder`), for whole texts only.
        hidden: units of each layer, from the bottom; at least one layer.
        steps: training steps of each layer, rounded to whole epochs; 0 leaves the weights at their random values.
        lr_scale: factor of the learning rate of every layer.
        vocabulary: number of words that are counted.
        batch_size: rows in a batch.
    """

    side: Side
    features: ImageScaling | TextFeature
    hidden: tuple[int, ...]
    steps: int
    lr_scale: float = 1.0
    vocabulary: int = 3000
    batch_size: int = 128

    @property
    def part_name(self) -> str:
        """The name of its curve: the side and the layer that is trained."""
        return f"{self.side} RBM {len(self.hidden)}"

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Fit the layers below, as a part, then the top layer.

        Raises:
            BadInput: there is nothing to learn from.
        """
        self.lower = run.part(replace(self, hidden=self.hidden[:-1])) if len(self.hidden) > 1 else None
        if self.lower is None and self.is_real:
            self.scale = deviations(dense_blocks(self._features(train), run.device))
        training = self.training
        rows, _ = self._below(train)
        if not rows.shape[0]:
            raise BadInput(
                f"no training image has a {self.side}" if self.is_visual else "no training text has a known word"
            )
        self.rbm = RBM(training.kind, rows.shape[1], self.hidden[-1]).to(run.device)
        if self.steps:
            pretrain(self.rbm, training, self.lr_scale, rows, self._below(val)[0], self.steps, self.batch_size, run)
        with torch.inference_mode():
            some = dense(rows[:: 1 + rows.shape[0] // SAMPLE]).to(run.device)
            self.neutral = self.rbm.hidden(some).mean(dim=0)

    def memory(self, train: Split) -> int:
        """Bytes of features or counts, outputs of lower layers, weights with copies, and blocks of rows."""
        count, inputs = len(train.texts), self.vocabulary
        if self.side == "image":
            count, inputs = len(train), train.image_dim
        elif self.side == "region":
            regions, inputs = train.region_shape
            count = len(train) * regions
        elif self.side == "segment":
            count += sum(map(len, train.texts)) // LETTERS
        elif self.is_real:
            inputs = train.text_dim
        held = self.held(train) if self.is_real else WORDS_BYTES * count
        weights = sum(a * b for a, b in pairwise((inputs, *self.hidden)))
        return held + 4 * count * sum(self.hidden[:-1]) + 24 * weights + 16 * BLOCK * (inputs + self.hidden[0])

    def held(self, train: Split) -> int:
        """Bytes of features that stay in memory."""
        if self.side == "region" and train.has_regions:
            return train.existing_regions.held
        if self.side == "image":
            return train.image_rows.held
        return train.text_rows.held if self.features == "encoder" else 0

    @property
    def is_visual(self) -> bool:
        """Whether it encodes images, not texts."""
        return self.side in ("image", "region")

    @property
    def is_real(self) -> bool:
        """Whether its inputs are real values, not counts."""
        return self.is_visual or self.features == "encoder"

    @property
    def training(self) -> LayerTraining:
        """How its top layer is trained."""
        layer = len(self.hidden) - 1
        return IMAGE_LAYERS[0] if self.is_real and layer == 0 else LAYERS[self.side][layer]

    def _features(self, split: Split) -> FeatureRows:
        """(n, D) scaled features of images, of all their regions, or of texts."""
        if not self.is_visual:
            return split.text_rows.map(partial(scaled, how="l2"))
        rows = split.image_rows if self.side == "image" else split.existing_regions
        return rows.map(partial(scaled, how=self.features))  # type: ignore[arg-type]

    def _below(self, split: Split) -> tuple[Rows, Tensor]:
        """The inputs (n, V) of the top layer, a row for each part, and the image or text (n,) of each."""
        device = split.image_of.device
        if self.lower is not None:
            return self.lower.codes_of_parts(split)
        if self.is_real:
            rows = self._features(split)
            owner = split.region_mask.nonzero()[:, 0] if self.side == "region" else torch.arange(rows.shape[0])
            return rows.map(partial(standardised, moments=self.scale)), owner.to(device)
        parts, texts_of = segments(split.texts) if self.side == "segment" else (split.texts, range(len(split.texts)))
        texts = split.asking(parts)
        counts = texts.bow(self.vocabulary) if self.features == "bow" else texts.tfidf(self.vocabulary)
        words = counts.sum(axis=1, dtype=np.float32)
        (known,) = np.nonzero(words)
        scale = np.float32(WORDS[self.side]) / words[known]
        return sparse.csr_array(counts[known].multiply(scale[:, None])), torch.tensor(texts_of, dtype=torch.int64)[
            torch.from_numpy(known)
        ].to(device)

    def codes_of_parts(self, split: Split) -> tuple[Tensor, Tensor]:
        """Probabilities (n, H) of the top hidden units, a row for each part, and the image or text (n,) of each."""
        rows, owner = self._below(split)
        with torch.inference_mode():
            return by_blocks(self.rbm.hidden, rows, owner.device), owner

    def codes(self, split: Split) -> Tensor:
        """Codes (N, H) of images or (T, H) of texts: the mean over their parts, or the training mean without any."""
        count = len(split) if self.is_visual else len(split.texts)
        rows, owner = self._below(split)
        with torch.inference_mode():
            return averaged(map(self.rbm.hidden, dense_blocks(rows, owner.device)), owner, count, self.neutral)

    def state(self) -> dict[str, Tensor]:
        """The layers, from the top."""
        top = {"neutral": self.neutral, **with_prefix("rbm", self.rbm.state_dict())}
        if self.lower is not None:
            return top | with_prefix("lower", self.lower.state())
        return top | ({"scale": self.scale} if self.is_real else {})

    def load(self, state: dict[str, Tensor]) -> None:
        self.neutral = state["neutral"]
        self.rbm = loaded(self.training.kind, below("rbm", state))
        self.lower = replace(self, hidden=self.hidden[:-1]) if len(self.hidden) > 1 else None
        if self.lower is not None:
            self.lower.load(below("lower", state))
        elif self.is_real:
            self.scale = state["scale"]


def pretrain(
    rbm: RBM, training: LayerTraining, lr_scale: float, rows: Rows, seen: Rows, steps: int, batch_size: int, run: Run
) -> None:
    """Train a layer by contrastive divergence; its biases start at the mean of its inputs.

    Args:
        rbm: the layer, on its device.
        training: learning rate, penalties and chains.
        lr_scale: factor of the learning rate.
        rows: (n, V) inputs from the training data.
        seen: (m, V) inputs from the validation data; the curve shows the fraction of their variance about the training
            mean that the reconstruction explains.
        steps: training steps, rounded to whole epochs.
        batch_size: rows in a batch.
        run: the run, for curves and checkpoints.
    """
    device = rbm.W.device
    mean = column_means(rows).to(device)
    words = float(mean.sum()) if training.kind == "counts" else 1.0
    rbm.begin_at(mean, training.target)
    model = nn.ModuleList([rbm, Sparsity(rbm.W.shape[1], training.target, training.cost)]).to(device)
    count, epochs = passes(rows.shape[0], batch_size, steps)

    def batches(epoch: int, generator: torch.Generator) -> Iterator[tuple[Tensor, int]]:
        for step, some in enumerate(shuffled(rows.shape[0], batch_size, count, generator)):
            yield dense(rows[some.numpy()]).to(device), training.gibbs_steps((epoch - 1) * count + step)

    def loss(batch: tuple[Tensor, int]) -> Tensor:
        return contrastive_divergence(rbm, *batch, penalty=penalty)

    def penalty(h: Tensor) -> Tensor | float:
        # a hidden bias of counts is added once for each word
        return model[1](h) / max(words, 1) if training.cost else 0.0

    def validate() -> dict[str, float]:
        missed = whole = 0.0
        activities = []
        for v in dense_blocks(seen, device):
            h = rbm.hidden(v)
            missed += float((v - rbm.visible(h, v.sum(dim=1, keepdim=True))).square().sum())
            whole += float((v - mean).square().sum())
            activities.append(h)
        h = torch.cat(activities)
        return {
            "explained": 1 - missed / max(whole, 1e-12),
            "activity": float(h.mean()),
            "spread": float(h.std(dim=0, correction=0).mean()),
        }

    Training(
        module=model,
        optimizer=torch.optim.SGD(weights_and_biases(rbm, training.decay), lr_scale * training.lr, 0.5, fused=True),
        steps=count,
        batches=batches,
        loss=loss,
        validate=validate,
        criterion="explained",
        epochs=epochs,
        rate=inverse_time_decay(count),
        momentum=momentum_warmup(count, training.warm),
    ).run(run)
    run.chose(steps=count * epochs)
    rbm.eval()


def loaded(kind: Kind, weights: dict[str, Tensor]) -> RBM:
    """An RBM with these weights, on their device."""
    rbm = RBM(kind, *weights["W"].shape).to(weights["W"].device).eval()
    rbm.load_state_dict(weights)
    return rbm


def standardised(rows: Tensor, moments: Tensor) -> Tensor:
    """Subtract the mean moments[0] from (n, D) rows and divide by the standard deviation moments[1]."""
    return (rows - moments[0]) / moments[1]


def standardise_(rows: Tensor, moments: Tensor) -> Tensor:
    """Do as `standardised`, in place."""
    with torch.inference_mode():
        return rows.sub_(moments[0]).div_(moments[1])


def segments(texts: list[str]) -> tuple[list[str], list[int]]:
    """Divide texts into segments of `SEGMENT` words, at least one for a text; also the text of each segment."""
    parts, owner = [], []
    for k, text in enumerate(texts):
        words = text.split()
        for a in range(0, max(1, len(words)), SEGMENT):
            parts.append(" ".join(words[a : a + SEGMENT]))
            owner.append(k)
    return parts, owner


def averaged(blocks: Iterable[Tensor], owner: Tensor, count: int, neutral: Tensor) -> Tensor:
    """(count, H) means of the rows of each owner.

    Args:
        blocks: blocks of (n, H) rows.
        owner: (n,) owner of each row of all blocks, non-decreasing.
        count: number of owners.
        neutral: (H,) value for an owner without rows.
    """
    means, done = neutral.new_zeros(count, len(neutral)), 0
    for rows in blocks:
        some = owner[done : done + len(rows)]
        done += len(rows)
        if len(some):
            first, last = int(some[0]), int(some[-1]) + 1
            lengths = torch.bincount(some - first, minlength=last - first)
            means[first:last] += torch.segment_reduce(rows, "sum", lengths=lengths, axis=0)
    lengths = torch.bincount(owner, minlength=count)
    means /= lengths[:, None].clamp_min(1)
    means[lengths == 0] = neutral
    return means


@dataclass
class Stacks:
    """A stack on each side.

    Attributes:
        image: the stack of images or regions.
        text: the stack of texts or segments.
    """

    image: Stack
    text: Stack

    part_name: ClassVar[str] = "stacks"

    def parts(self) -> list[Stack]:
        return [self.image, self.text]

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Fit both stacks, as parts."""
        self.image, self.text = run.part(self.image), run.part(self.text)

    def memory(self, train: Split) -> int:
        """Bytes at the peak of either stack, which are trained one after the other; image features stay in memory."""
        return max(self.image.memory(train), self.text.memory(train) + self.image.held(train))

    @property
    def sizes(self) -> tuple[int, int]:
        """Dimensions of the codes of an image and of a text."""
        return self.image.hidden[-1], self.text.hidden[-1]

    def encode_images(self, split: Split) -> Tensor:
        """(N, P) codes."""
        return self.image.codes(split)

    def encode_texts(self, split: Split) -> Tensor:
        """(T, Q) codes."""
        return self.text.codes(split)

    def state(self) -> dict[str, Tensor]:
        """The states of both stacks."""
        return with_prefix("image", self.image.state()) | with_prefix("text", self.text.state())

    def load(self, state: dict[str, Tensor]) -> None:
        self.image.load(below("image", state))
        self.text.load(below("text", state))
