"""CCL: cross-modal correlation learning with multi-grained fusion, a row of Tables 1 and 2.

Stage 1: a correspondence autoencoder on whole images and texts, and another one on their parts (regions and segments of
five words), each over stacks of RBMs; on each side, an RBM joins the coarse and the fine code.  Stage 2: a network on
each side maps the joint code to e, and c = sigm(e) is compared over all pairs of a batch of B:

    L = (1 / 2B) [sum over pairs that match |c_I - c_T|^2  +  sum over the others max(0, margin - |c_I - c_T|)^2]

Y. Peng, J. Qi, X. Huang, Y. Yuan, "CCL: cross-modal correlation learning with multi-grained fusion by hierarchical
network", IEEE Transactions on Multimedia 2018.  Its intra-modality branch classifies categories, which these datasets
do not have; here a pair matches if the text is one of the image's own, and there is no such branch.

Memory: the features of images or regions where they are few, see docs/scaling.md; and for each image or text, 4 bytes
for each unit of a stack and 16 for each unit of a code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from cran_bench import Run, Split, register
from cran_bench.toolbox.kernels import by_blocks, dense_blocks
from cran_bench.toolbox.linalg import deviations
from cran_bench.toolbox.rbm import RBM
from cran_bench.toolbox.states import below, with_prefix

from ._codes import PAPER, QUICK, CodeMethod, Coder, InputEncoder, at_least
from ._stacks import JOINT, loaded, pretrain, standardise_
from .corr_ae import CorrAE


def of_parts(coarse: CorrAE) -> CorrAE:
    """The autoencoder on parts with the fields of `coarse`; segments are tf-idf where an encoder reads whole texts."""
    return replace(coarse, granularity="parts", text="tfidf" if coarse.text == "encoder" else coarse.text)


@dataclass
class FusionRBM:
    """An RBM over the coarse and the fine code of one side.

    Attributes:
        side: the side, `image` or `text`.
        coarse: the autoencoder on whole images and texts; the fine one, on parts, is `of_parts` of it.
        hidden: number of hidden units.
        steps: training steps, rounded to whole epochs; 0 leaves the weights at their random values.
    """

    side: Literal["image", "text"]
    coarse: CorrAE
    hidden: int
    steps: int

    @property
    def part_name(self) -> str:
        """The name of its curve."""
        return f"joint {self.side} RBM"

    def parts(self) -> list[CorrAE]:
        return [self.coarse, of_parts(self.coarse)]

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Fit the autoencoders, as parts, then the RBM."""
        autoencoders = [run.part(autoencoder) for autoencoder in self.parts()]
        rows, seen = (codes_of(self.side, autoencoders, split) for split in (train, val))
        self.scale = deviations(dense_blocks(rows, rows.device))
        training = JOINT._replace(kind=self.kind)
        self.rbm = RBM(training.kind, rows.shape[1], self.hidden).to(run.device)
        if self.steps:
            pretrain(self.rbm, training, 1.0, self._given(rows), self._given(seen), self.steps, 128, run)

    @property
    def kind(self) -> Literal["gaussian", "binary"]:
        """Kind of its visible units."""
        return "gaussian" if self.coarse.standardise_inputs else "binary"

    def _given(self, rows: Tensor) -> Tensor:
        """The inputs of the RBM, in place of the codes."""
        return standardise_(rows, self.scale) if self.coarse.standardise_inputs else rows

    def join(self, rows: Tensor) -> Tensor:
        """Joint codes (n, H) of coarse and fine codes (n, 2 K)."""
        with torch.inference_mode():
            return by_blocks(self.rbm.hidden, self._given(rows), rows.device)

    def state(self) -> dict[str, Tensor]:
        """The RBM, and the scale of its inputs."""
        return {"scale": self.scale, **with_prefix("rbm", self.rbm.state_dict())}

    def load(self, state: dict[str, Tensor]) -> None:
        self.scale, self.rbm = state["scale"], loaded(self.kind, below("rbm", state))


def codes_of(side: str, autoencoders: list[CorrAE], split: Split) -> Tensor:
    """(N or T, 2 K) coarse and fine code of each image or text."""
    encode = CorrAE.codes_of_images if side == "image" else CorrAE.codes_of_texts
    return torch.cat([encode(autoencoder, split) for autoencoder in autoencoders], dim=1)


@dataclass
class FirstStage:
    """Stage 1: two autoencoders, and an RBM on each side that joins their codes.

    Attributes:
        coarse: the autoencoder on whole images and texts; the fine one, on parts, is `of_parts` of it.
        hidden: hidden units of each RBM.
        steps: training steps of each RBM, rounded to whole epochs.
    """

    coarse: CorrAE
    hidden: int
    steps: int

    part_name: ClassVar[str] = "stage 1"

    def __post_init__(self) -> None:
        self.autoencoders = [replace(self.coarse), of_parts(self.coarse)]
        self.image = FusionRBM("image", self.coarse, self.hidden, self.steps)
        self.text = FusionRBM("text", self.coarse, self.hidden, self.steps)

    def parts(self) -> list[CorrAE | FusionRBM]:
        return list(self._members().values())

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Fit the autoencoders and the RBMs, as parts."""
        self.autoencoders = [run.part(autoencoder) for autoencoder in self.autoencoders]
        self.image, self.text = run.part(self.image), run.part(self.text)

    def memory(self, train: Split) -> int:
        """Bytes at the peak of the larger autoencoder, with image features, and all codes before and after joining."""
        codes = 16 * max(len(train), len(train.texts)) * self.coarse.units
        return max(autoencoder.memory(train) for autoencoder in self.autoencoders) + train.image_rows.held + codes

    @property
    def sizes(self) -> tuple[int, int]:
        """Dimensions of the joint codes."""
        return self.hidden, self.hidden

    def encode_images(self, split: Split) -> Tensor:
        """(N, H) joint codes."""
        return self.image.join(codes_of("image", self.autoencoders, split))

    def encode_texts(self, split: Split) -> Tensor:
        """(T, H) joint codes."""
        return self.text.join(codes_of("text", self.autoencoders, split))

    def _members(self) -> dict[str, CorrAE | FusionRBM]:
        return dict(zip(("coarse", "fine"), self.autoencoders, strict=True)) | {"image": self.image, "text": self.text}

    def state(self) -> dict[str, Tensor]:
        """The autoencoders and the RBMs."""
        return {
            key: value
            for name, part in self._members().items()
            for key, value in with_prefix(name, part.state()).items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        for name, part in self._members().items():
            part.load(below(name, state))


class Matching(Coder):
    """Stage 2: a network on each side.

    Args:
        p: dimension of the image's joint code.
        q: dimension of the text's joint code.
        hidden: units of the layers before e.
        units: dimension of e.
        margin: distance beyond which pairs that do not match have no loss.
        dropout: dropout rate of each layer's inputs.
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
        code: Tensor = self.image_layers(p)
        return code

    def text(self, q: Tensor) -> Tensor:
        code: Tensor = self.text_layers(q)
        return code

    def loss(self, p: Tensor, q: Tensor, owner: Tensor, step: int) -> Tensor:
        return contrastive_loss(self.image(p), self.text(q), owner, self.margin)

    def measures(self, p: Tensor, q: Tensor, owner: Tensor) -> dict[str, float]:
        """The fraction of the pairs that do not match whose distance is below the margin."""
        near = torch.cdist(self.image(p), self.text(q)) < self.margin
        others = owner[:, None] != owner
        return {"active": float((near & others).sum()) / max(1, int(others.sum()))}


def contrastive_loss(images: Tensor, texts: Tensor, owner: Tensor, margin: float) -> Tensor:
    """The loss of stage 2 for matching rows (B, K); rows with the same image in `owner` (B,) also match."""
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
            "autoencoder_lr": 0.05,
            "autoencoder_batch_size": 100,
            "autoencoder_steps": 10_000,
            "code_units": 1024,
            "joint_units": 2048,
            "joint_steps": 50_000,
            "hidden": (1024,),
            "units": 1024,
            "margin": 1.0,
            "dropout": 0.0,
            "lr": 1e-4,
            "weight_decay": 4e-3,
            "batch_size": 80,
            "steps": 20_000,
        },
        "tuned": {},
        "quick": {
            **QUICK,
            "autoencoder_lr": 2e-3,
            "autoencoder_steps": 100,
            "code_units": 256,
            "joint_units": 512,
            "joint_steps": 30,
            "margin": 3.0,
            "lr": 3e-3,
            "steps": 60,
        },
    },
    search={"lr": (5e-4, 1e-3, 2e-3), "margin": (2.0, 4.0, 8.0), "dropout": (0.2, 0.4, 0.6)},
)
@dataclass
class CCL(CodeMethod):
    """CCL; `lr`, `weight_decay`, `batch_size` and `steps` are those of stage 2.

    With text=encoder whole texts are given by the text encoder, and segments by tf-idf.

    Attributes:
        alpha: weight of the distance between codes in the autoencoders; the reconstructions have weight 1 - alpha.
        code_units: units of the autoencoders' codes.
        autoencoder_lr: learning rate of the autoencoders.
        autoencoder_batch_size: pairs in a batch of the autoencoders.
        autoencoder_steps: largest number of training steps of the autoencoders, rounded to whole epochs.
        joint_units: hidden units of the RBMs over a coarse and a fine code.
        joint_steps: training steps of these RBMs, rounded to whole epochs; 0 leaves them at their random weights.
        hidden: units of the layers before e in stage 2; on a few thousand images no hidden layer did best.
        units: dimension of e.
        margin: distance beyond which pairs that do not match have no loss.  Codes of untrained networks are about
            units^(1/2) / 8 apart; with the published 1 no such pair has a loss, and stage 2 only pulls matching pairs
            together.
        dropout: dropout rate of each layer's inputs in stage 2.
    """

    batch_size: int = 500
    steps: int = 600
    alpha: float = 0.9
    code_units: int = 512
    autoencoder_lr: float = 1e-3
    autoencoder_batch_size: int = 200
    autoencoder_steps: int = 900
    joint_units: int = 1024
    joint_steps: int = 400
    hidden: tuple[int, ...] = ()
    units: int = 512
    margin: float = 4.0
    dropout: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.granularity == "parts":
            raise ValueError("ccl reads both whole images and texts and their parts: leave out granularity")
        at_least(self, 1, "joint_units", "units", "autoencoder_batch_size", "autoencoder_steps")
        at_least(self, 0, "joint_steps")
        self.input_encoder()  # which checks what it is given
        if self.margin <= 0:
            raise ValueError(f"margin is above 0, not {self.margin}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is at least 0 and below 1, not {self.dropout}")

    def input_encoder(self) -> InputEncoder:
        coarse: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(CodeMethod)}
        coarse |= {"lr": self.autoencoder_lr, "batch_size": self.autoencoder_batch_size}
        coarse |= {"steps": self.autoencoder_steps, "weight_decay": 1e-4}
        return FirstStage(CorrAE(**coarse, alpha=self.alpha, units=self.code_units), self.joint_units, self.joint_steps)

    def schedule(self, count: int) -> tuple[Callable[[float], float], Callable[[float], float]]:
        """A constant learning rate, and momentum 0.9."""
        return lambda _: 1.0, lambda _: 0.9

    def build(self, p: int, q: int) -> Coder:
        return Matching(p, q, self.hidden, self.units, self.margin, self.dropout)
