"""Stacks of RBMs, trained layer by layer: what Bimodal AE, Multimodal DBN, Corr-AE and CCL read images and texts with.

Image features, each standardised, enter a Gaussian RBM; counts of words, or their tf-idf, a replicated softmax, scaled
to a number of words that is the same for all; what the first layer makes of them, probabilities, enters a binary RBM.

N. Srivastava, R. Salakhutdinov, "Multimodal learning with deep Boltzmann machines", JMLR 2014; the constants are those
of the authors' release and of CCL's configurations.

Memory: the features of images or of their regions where they are few; and for each unit of a layer
below the topmost 4 bytes for each image or text, or part of one.
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

from cran_bench import Run, Split
from cran_bench.errors import BadInput
from cran_bench.feature_rows import FeatureRows
from cran_bench.kernels import BLOCK, Rows, by_blocks, column_means, dense, dense_blocks
from cran_bench.linalg import deviations
from cran_bench.rbm import RBM, Kind, Sparsity, contrastive_divergence
from cran_bench.states import below, with_prefix
from cran_bench.training import Training, gathering, passes, shuffled, slowed, weights_and_biases

from ._linear import WORDS_BYTES, ImageScaling, scaled

Side = Literal["image", "text", "region", "piece"]
TextFeature = Literal["tfidf", "bow"]

SAMPLE = 4096  # rows whose hidden units tell the code of a text or an image without parts
PIECE = 5  # words
LETTERS = 25  # of a piece, about
WORDS = {"text": 100.0, "piece": 30.0}
"""What the counts of a text, or of a piece of one, add up to; with 100, the few words of a piece saturate units."""


class Recipe(NamedTuple):
    """How a layer is trained.

    Attributes:
        kind: of its visible units.
        lr: of SGD, over 1 + step / 10,000.
        warm: momentum is 0.9 - 0.4 exp(-step / warm).
        decay: of the weights.
        target: mean activity of a hidden unit.
        cost: of leaving it; 0 for no such penalty.
        later: step from which chains are longer than one Gibbs step: 2, and one more after every `every` steps.
        every: see `later`.
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
        """Of the chain at this step of training."""
        return 1 if step < self.later else 2 + (step - self.later) // self.every


SEEN = (
    Recipe("gaussian", 0.001, 10_000, 1e-3, 0.2, 0.1, 50_000, 10_000),
    Recipe("binary", 0.05, 10_000, 1e-3, 0.1, 0.01, 15_000, 5_000),
)
READ = (
    Recipe("counts", 0.1, 5_000, 1e-4, 0.2, 0.01, 15_000, 5_000),
    Recipe("binary", 0.01, 10_000, 1e-3, 0.1, 0.01, 15_000, 5_000),
)
JOINT = Recipe("binary", 0.01, 5_000, 1e-4, 0.2, 0.0, 15_000, 5_000)
RECIPES: dict[Side, tuple[Recipe, Recipe]] = {"image": SEEN, "region": SEEN, "text": READ, "piece": READ}


@dataclass
class Stack:
    """RBMs on one side of the data.

    Attributes:
        side: `image` or `text`; or their parts, `region` and `piece`, whose codes are averaged.
        features: how image features are scaled, see `_linear.scaled`; of texts, `tfidf` or counts (`bow`).
        hidden: units of each layer, from below; at least one layer.
        steps: of training for each layer, to the nearest pass; 0 leaves weights as they are drawn.
        rate: factor of every layer's learning rate.
        vocabulary: words that are counted.
        batch_size: rows of a step.
    """

    side: Side
    features: ImageScaling | TextFeature
    hidden: tuple[int, ...]
    steps: int
    rate: float = 1.0
    vocabulary: int = 3000
    batch_size: int = 128

    @property
    def part_name(self) -> str:
        """Which layer is trained here."""
        return f"{self.side} RBM {len(self.hidden)}"

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """The layers below, which are a part; then the topmost."""
        self.lower = run.part(replace(self, hidden=self.hidden[:-1])) if len(self.hidden) > 1 else None
        if self.lower is None and self.is_seen:
            self.scale = deviations(dense_blocks(self._image_features(train), run.device))
        recipe = RECIPES[self.side][len(self.hidden) - 1]
        rows, _ = self._below(train)
        if not rows.shape[0]:
            raise BadInput(
                f"no training image has a {self.side}" if self.is_seen else "no training text has a known word"
            )
        self.rbm = RBM(recipe.kind, rows.shape[1], self.hidden[-1]).to(run.device)
        if self.steps:
            pretrain(self.rbm, recipe, self.rate, rows, self._below(val)[0], self.steps, self.batch_size, run)
        with torch.inference_mode():
            some = dense(rows[:: 1 + rows.shape[0] // SAMPLE]).to(run.device)
            self.neutral = self.rbm.hidden(some).mean(dim=0)

    def memory(self, train: Split) -> int:
        """Features that are held, or counts; what lower layers say of them; weights with copies; and blocks of rows."""
        count, inputs = len(train.texts), self.vocabulary
        if self.side == "image":
            count, inputs = len(train), train.image_dim
        elif self.side == "region":
            regions, inputs = train.region_shape
            count = len(train) * regions
        elif self.side == "piece":
            count += sum(map(len, train.texts)) // LETTERS
        held = self.held(train) if self.is_seen else WORDS_BYTES * count
        weights = sum(a * b for a, b in pairwise((inputs, *self.hidden)))
        return held + 4 * count * sum(self.hidden[:-1]) + 24 * weights + 16 * BLOCK * (inputs + self.hidden[0])

    def held(self, train: Split) -> int:
        """Bytes of features that stay in memory."""
        if self.side == "region" and train.has_regions:
            return train.existing_regions.held
        return train.image_rows.held if self.side == "image" else 0

    @property
    def is_seen(self) -> bool:
        """Whether it is of images, not of texts."""
        return self.side in ("image", "region")

    def _image_features(self, split: Split) -> FeatureRows:
        """(n, D) of images, or of all their regions."""
        found = split.image_rows if self.side == "image" else split.existing_regions
        return found.map(partial(scaled, how=self.features))  # type: ignore[arg-type]

    def _below(self, split: Split) -> tuple[Rows, Tensor]:
        """What the topmost layer sees, (n, V), a row for each part; and the image or text (n,) that each is of."""
        device = split.image_of.device
        if self.lower is not None:
            return self.lower.of_parts(split)
        if self.is_seen:
            owner = torch.arange(len(split)) if self.side == "image" else split.region_mask.nonzero()[:, 0]
            return self._image_features(split).map(partial(standardised, found=self.scale)), owner.to(device)
        found, whose = pieces(split.texts) if self.side == "piece" else (split.texts, range(len(split.texts)))
        texts = split.asking(found)
        counts = texts.bow(self.vocabulary) if self.features == "bow" else texts.tfidf(self.vocabulary)
        words = counts.sum(axis=1, dtype=np.float32)
        (known,) = np.nonzero(words)
        rows = sparse.csr_array(counts[known].multiply((np.float32(WORDS[self.side]) / words[known])[:, None]))
        return rows, torch.tensor(whose, dtype=torch.int64)[torch.from_numpy(known)].to(device)

    def of_parts(self, split: Split) -> tuple[Tensor, Tensor]:
        """(n, H) probabilities of the topmost hidden units, a row for each part; and whose part it is, (n,)."""
        rows, owner = self._below(split)
        with torch.inference_mode():
            return by_blocks(self.rbm.hidden, rows, owner.device), owner

    def codes(self, split: Split) -> Tensor:
        """(N, H) of images, (T, H) of texts: those of their parts on average, that of training where there is none."""
        count = len(split) if self.is_seen else len(split.texts)
        rows, owner = self._below(split)
        with torch.inference_mode():
            return averaged(map(self.rbm.hidden, dense_blocks(rows, owner.device)), owner, count, self.neutral)

    def state(self) -> dict[str, Tensor]:
        """The layers, from above."""
        found = {"neutral": self.neutral, **with_prefix("rbm", self.rbm.state_dict())}
        if self.lower is not None:
            return found | with_prefix("lower", self.lower.state())
        return found | ({"scale": self.scale} if self.is_seen else {})

    def load(self, state: dict[str, Tensor]) -> None:
        """See `state`."""
        self.neutral = state["neutral"]
        self.rbm = loaded(RECIPES[self.side][len(self.hidden) - 1].kind, below("rbm", state))
        self.lower = replace(self, hidden=self.hidden[:-1]) if len(self.hidden) > 1 else None
        if self.lower is not None:
            self.lower.load(below("lower", state))
        elif self.is_seen:
            self.scale = state["scale"]


def pretrain(
    rbm: RBM, recipe: Recipe, rate: float, rows: Rows, seen: Rows, steps: int, batch_size: int, run: Run
) -> None:
    """Train a layer by contrastive divergence, from biases at the mean of its rows.

    Args:
        rbm: the layer, on its device.
        recipe: how.
        rate: factor of its learning rate.
        rows: (n, V) what it sees of the training data.
        seen: (m, V) of the validation data; the curve tells how much of their variance about the training mean its
            reconstruction explains.
        steps: of training.
        batch_size: rows of a step.
        run: lends device, curve and checkpoint.
    """
    where = rbm.W.device
    mean = column_means(rows).to(where)
    words = float(mean.sum()) if recipe.kind == "counts" else 1.0
    rbm.begin_at(mean, recipe.target)
    model = nn.ModuleList([rbm, Sparsity(rbm.W.shape[1], recipe.target, recipe.cost)]).to(where)
    count, epochs = passes(rows.shape[0], batch_size, steps)

    def batches(epoch: int, generator: torch.Generator) -> Iterator[tuple[Tensor, int]]:
        for step, some in enumerate(shuffled(rows.shape[0], batch_size, count, generator)):
            yield dense(rows[some.numpy()]).to(where), recipe.gibbs_steps((epoch - 1) * count + step)

    def loss(batch: tuple[Tensor, int]) -> Tensor:
        v, gibbs_steps = batch
        if not recipe.cost:
            return contrastive_divergence(rbm, v, gibbs_steps)
        penalty: Tensor = model[1](rbm.hidden(v))
        # a hidden bias of counts is added once for each word
        return contrastive_divergence(rbm, v, gibbs_steps) + penalty / max(words, 1)

    def validate() -> dict[str, float]:
        missed = whole = 0.0
        activities = []
        for v in dense_blocks(seen, where):
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
        optimizer=torch.optim.SGD(weights_and_biases(rbm, recipe.decay), lr=rate * recipe.lr, momentum=0.5),
        steps=count,
        batches=batches,
        loss=loss,
        validate=validate,
        criterion="explained",
        epochs=epochs,
        rate=slowed(count),
        momentum=gathering(count, recipe.warm),
    ).run(run)
    run.chose(steps=count * epochs)
    rbm.eval()


def loaded(kind: Kind, weights: dict[str, Tensor]) -> RBM:
    """An RBM with these weights, where they are."""
    rbm = RBM(kind, *weights["W"].shape).to(weights["W"].device).eval()
    rbm.load_state_dict(weights)
    return rbm


def standardised(rows: Tensor, found: Tensor) -> Tensor:
    """(n, D) columns less their mean, over their deviation, see `linalg.deviations`."""
    return (rows - found[0]) / found[1]


def standardise_(rows: Tensor, found: Tensor) -> Tensor:
    """`standardised` in place."""
    with torch.inference_mode():
        return rows.sub_(found[0]).div_(found[1])


def pieces(texts: list[str]) -> tuple[list[str], list[int]]:
    """Runs of `PIECE` words, at least one for a text, and the text that each is of."""
    found, owner = [], []
    for k, text in enumerate(texts):
        words = text.split()
        for a in range(0, max(1, len(words)), PIECE):
            found.append(" ".join(words[a : a + PIECE]))
            owner.append(k)
    return found, owner


def averaged(blocks: Iterable[Tensor], owner: Tensor, count: int, neutral: Tensor) -> Tensor:
    """(count, H) means of the rows of each owner, who come in order; `neutral` (H,) for an owner of none.

    Args:
        blocks: of (n, H) rows.
        owner: (n,) of all rows.
        count: of owners.
        neutral: see above.
    """
    found, done = neutral.new_zeros(count, len(neutral)), 0
    for rows in blocks:
        some = owner[done : done + len(rows)]
        done += len(rows)
        if len(some):
            first, last = int(some[0]), int(some[-1]) + 1
            lengths = torch.bincount(some - first, minlength=last - first)
            found[first:last] += torch.segment_reduce(rows, "sum", lengths=lengths, axis=0)
    lengths = torch.bincount(owner, minlength=count)
    found /= lengths[:, None].clamp_min(1)
    found[lengths == 0] = neutral
    return found


@dataclass
class Stacks:
    """A stack on each side.

    Attributes:
        image: of images or regions.
        text: of texts or pieces.
    """

    image: Stack
    text: Stack

    part_name: ClassVar[str] = "stacks"

    def parts(self) -> list[Stack]:
        """Both."""
        return [self.image, self.text]

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Both are parts."""
        self.image, self.text = run.part(self.image), run.part(self.text)

    def memory(self, train: Split) -> int:
        """That of either side, one after the other; features stay."""
        return max(self.image.memory(train), self.text.memory(train) + self.image.held(train))

    @property
    def sizes(self) -> tuple[int, int]:
        """Of what is read of an image, and of a text."""
        return self.image.hidden[-1], self.text.hidden[-1]

    def read_images(self, split: Split) -> Tensor:
        """(N, P)."""
        return self.image.codes(split)

    def read_texts(self, split: Split) -> Tensor:
        """(T, Q)."""
        return self.text.codes(split)

    def state(self) -> dict[str, Tensor]:
        """Those of both."""
        return with_prefix("image", self.image.state()) | with_prefix("text", self.text.state())

    def load(self, state: dict[str, Tensor]) -> None:
        """See `state`."""
        self.image.load(below("image", state))
        self.text.load(below("text", state))
