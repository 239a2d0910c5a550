"""CCL: cross-modal correlation learning with multi-grained fusion, a row of Tables 1 and 2.

Stage 1: a correspondence autoencoder on whole images and texts and another one on their parts (regions, runs of words),
each over stacks of RBMs; on each side, an RBM joins the coarse and the fine code.  Stage 2: a network on each side maps
the joint code to e, and c = sigm(e) is compared over all pairs of a batch of B:

    L = (1 / 2B) [sum over pairs that match |c_I - c_T|^2  +  sum over the others max(0, margin - |c_I - c_T|)^2]

Y. Peng, J. Qi, X. Huang, Y. Yuan, "CCL: cross-modal correlation learning with multi-grained fusion by hierarchical
network", IEEE Transactions on Multimedia 2018.  Its intra-modality branch classifies categories, which these datasets
do not have; without them a pair matches where the text is the image's own, and that branch falls away.

Memory: the features of images or regions where they are few, see docs/scaling.md; and for each image and text 4 bytes
for each unit of a stack, and 16 for each of a code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from cran_bench import Run, Split, register
from cran_bench.kernels import by_blocks, dense_blocks
from cran_bench.linalg import deviations
from cran_bench.rbm import RBM
from cran_bench.states import below, with_prefix

from ._codes import PAPER, CodeMethod, Coder, Reader, at_least
from ._stacks import JOINT, loaded, pretrain, standardise_
from .corr_ae import CorrAE


@dataclass
class JointRBM:
    """An RBM over the coarse and the fine code of one side.

    Attributes:
        side: whose.
        coarse: the autoencoder on whole images and texts; the fine one has the same fields, on parts.
        hidden: units.
        steps: of training; 0 leaves it as it is drawn.
    """

    side: Literal["image", "text"]
    coarse: CorrAE
    hidden: int
    steps: int

    @property
    def part_name(self) -> str:
        """Whose codes it joins."""
        return f"joint {self.side} RBM"

    def parts(self) -> list[CorrAE]:
        """The autoencoders."""
        return [self.coarse, replace(self.coarse, grain="parts")]

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """The autoencoders, which are parts; then the RBM."""
        autoencoders = [run.part(autoencoder) for autoencoder in self.parts()]
        rows, seen = (codes_of(self.side, autoencoders, split) for split in (train, val))
        self.scale = deviations(dense_blocks(rows, rows.device))
        recipe = JOINT._replace(kind=self.kind)
        self.rbm = RBM(recipe.kind, rows.shape[1], self.hidden).to(run.device)
        if self.steps:
            pretrain(self.rbm, recipe, 1.0, self._given(rows), self._given(seen), self.steps, 128, run)

    @property
    def kind(self) -> Literal["gaussian", "binary"]:
        """Of the codes, as they are given to it."""
        return "gaussian" if self.coarse.standardised else "binary"

    def _given(self, rows: Tensor) -> Tensor:
        """What the RBM is given of codes, which are overwritten."""
        return standardise_(rows, self.scale) if self.coarse.standardised else rows

    def read(self, rows: Tensor) -> Tensor:
        """(n, 2 K) coarse and fine codes to (n, H)."""
        with torch.inference_mode():
            return by_blocks(self.rbm.hidden, self._given(rows), rows.device)

    def state(self) -> dict[str, Tensor]:
        """The RBM, and how codes are scaled."""
        return {"scale": self.scale, **with_prefix("rbm", self.rbm.state_dict())}

    def load(self, state: dict[str, Tensor]) -> None:
        """See `state`."""
        self.scale, self.rbm = state["scale"], loaded(self.kind, below("rbm", state))


def codes_of(side: str, autoencoders: list[CorrAE], split: Split) -> Tensor:
    """(N or T, 2 K) the coarse and the fine code of each image or text."""
    read = CorrAE.codes_of_images if side == "image" else CorrAE.codes_of_texts
    return torch.cat([read(autoencoder, split) for autoencoder in autoencoders], dim=1)


@dataclass
class Grains:
    """Stage 1.

    Attributes:
        coarse: see JointRBM.
        hidden: see JointRBM.
        steps: see JointRBM.
    """

    coarse: CorrAE
    hidden: int
    steps: int

    part_name: ClassVar[str] = "grains"

    def __post_init__(self) -> None:
        self.autoencoders = [replace(self.coarse), replace(self.coarse, grain="parts")]
        self.image = JointRBM("image", self.coarse, self.hidden, self.steps)
        self.text = JointRBM("text", self.coarse, self.hidden, self.steps)

    def parts(self) -> list[CorrAE | JointRBM]:
        """The autoencoders, and what joins them."""
        return list(self._pieces().values())

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """All are parts."""
        self.autoencoders = [run.part(autoencoder) for autoencoder in self.autoencoders]
        self.image, self.text = run.part(self.image), run.part(self.text)

    def memory(self, train: Split) -> int:
        """That of the autoencoders, one after the other; images' features, which stay; all codes, apart and joined."""
        codes = 16 * max(len(train), len(train.texts)) * self.coarse.units
        return max(autoencoder.memory(train) for autoencoder in self.autoencoders) + train.image_rows.held + codes

    @property
    def sizes(self) -> tuple[int, int]:
        """Of the joint codes."""
        return self.hidden, self.hidden

    def read_images(self, split: Split) -> Tensor:
        """(N, H)."""
        return self.image.read(codes_of("image", self.autoencoders, split))

    def read_texts(self, split: Split) -> Tensor:
        """(T, H)."""
        return self.text.read(codes_of("text", self.autoencoders, split))

    def _pieces(self) -> dict[str, CorrAE | JointRBM]:
        return dict(zip(("coarse", "fine"), self.autoencoders, strict=True)) | {"image": self.image, "text": self.text}

    def state(self) -> dict[str, Tensor]:
        """The autoencoders and the RBMs."""
        return {
            key: value
            for name, part in self._pieces().items()
            for key, value in with_prefix(name, part.state()).items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """See `state`."""
        for name, part in self._pieces().items():
            part.load(below(name, state))


class Matching(Coder):
    """Stage 2.

    Args:
        p: inputs of the image.
        q: inputs of the text.
        hidden: units of the layers before e.
        units: of e.
        margin: beyond which pairs that do not match are left alone.
        dropout: share of each layer's inputs that a step of training leaves out.
    """

    def __init__(self, p: int, q: int, hidden: tuple[int, ...], units: int, margin: float, dropout: float) -> None:
        super().__init__()
        self.margin = margin
        self.image_layers, self.text_layers = (
            nn.Sequential(
                *(
                    layer
                    for inputs, outputs in pairwise((size, *hidden, units))
                    for layer in (nn.Dropout(dropout), nn.Linear(inputs, outputs), nn.Sigmoid())
                )
            )
            for size in (p, q)
        )

    def image(self, p: Tensor) -> Tensor:
        """See Coder."""
        found: Tensor = self.image_layers(p)
        return found

    def text(self, q: Tensor) -> Tensor:
        """See Coder."""
        found: Tensor = self.text_layers(q)
        return found

    def loss(self, p: Tensor, q: Tensor, owner: Tensor, step: int) -> Tensor:
        """See Coder."""
        return contrastive_loss(self.image(p), self.text(q), owner, self.margin)

    def measures(self, p: Tensor, q: Tensor, owner: Tensor) -> dict[str, float]:
        """The share of pairs that do not match and are nearer than the margin."""
        near = torch.cdist(self.image(p), self.text(q)) < self.margin
        others = owner[:, None] != owner
        return {"active": float((near & others).sum()) / max(1, int(others.sum()))}


def contrastive_loss(images: Tensor, texts: Tensor, owner: Tensor, margin: float) -> Tensor:
    """The loss of stage 2 for (B, K) codes of matching rows; rows of one image, by `owner` (B,), all match."""
    squared = torch.cdist(images, texts).square()
    matching = owner[:, None] == owner
    apart = torch.relu(margin - squared.clamp_min(1e-12).sqrt()).square()
    return torch.where(matching, squared, apart).sum() / (2 * len(images))


@register(
    "ccl",
    paper_row="CCL",
    presets={
        "paper": {
            **PAPER,
            "alpha": 0.7,
            "coarse_lr": 0.05,
            "coarse_batch": 100,
            "coarse_steps": 10_000,
            "code": 1024,
            "joint": 2048,
            "joint_steps": 50_000,
            "hidden": (1024,),
            "units": 1024,
            "margin": 1.0,
            "dropout": 0.0,
            "lr": 1e-4,
            "decay": 4e-3,
            "batch_size": 80,
            "steps": 20_000,
        },
        "tuned": {},
        "quick": {"stack_steps": 60, "joint_steps": 30, "coarse_steps": 100, "steps": 60},
    },
)
@dataclass
class CCL(CodeMethod):
    """Hyper-parameters beyond those of every method on stacks; lr, decay, batch_size and steps are those of stage 2.

    Attributes:
        alpha: of the autoencoders, see CorrAE.
        code: units of their codes.
        coarse_lr: learning rate of their training.
        coarse_batch: pairs of its steps.
        coarse_steps: how many at most.
        joint: units of the RBMs over a coarse and a fine code.
        joint_steps: of their training.
        hidden: units of the layers before e, those of stage 2; on a few thousand images none did best.
        units: of e.
        margin: beyond which pairs that do not match are left alone.  Codes that were drawn are about units^(1/2) / 8
            apart; the published 1 leaves all of them alone, and stage 2 only pulls pairs together.
        dropout: share of each layer's inputs that a step of stage 2 leaves out.
    """

    batch_size: int = 500
    steps: int = 600
    alpha: float = 0.9
    code: int = 512
    coarse_lr: float = 1e-3
    coarse_batch: int = 200
    coarse_steps: int = 900
    joint: int = 1024
    joint_steps: int = 400
    hidden: tuple[int, ...] = ()
    units: int = 512
    margin: float = 4.0
    dropout: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grain == "parts":
            raise ValueError("ccl reads both whole images and texts and their parts: leave out grain")
        self.reader()
        at_least(self, 1, "joint", "units", *(f"coarse_{name}" for name in ("batch", "steps")))
        at_least(self, 0, "joint_steps")
        if self.margin <= 0:
            raise ValueError(f"margin is above 0, not {self.margin}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is at least 0 and below 1, not {self.dropout}")

    def reader(self) -> Reader:
        """See CodeMethod."""
        coarse: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(CodeMethod)}
        coarse |= {"lr": self.coarse_lr, "batch_size": self.coarse_batch, "steps": self.coarse_steps, "decay": 1e-4}
        return Grains(CorrAE(**coarse, alpha=self.alpha, units=self.code), self.joint, self.joint_steps)

    def schedule(self, count: int) -> tuple[Callable[[float], float], Callable[[float], float]]:
        """Neither changes."""
        return lambda _: 1.0, lambda _: 0.9

    def build(self, p: int, q: int) -> Coder:
        """See CodeMethod."""
        return Matching(p, q, self.hidden, self.units, self.margin, self.dropout)
