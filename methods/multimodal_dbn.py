"""Multimodal DBN: a joint RBM over two stacks of RBMs, a row of Tables 1 and 2.

The joint RBM models pairs [p; q] of an image and one of its texts, encoded by the stacks.  Where one side is missing,
mean-field inference fills it in: h = sigm(W'[p; q] + c), q = sigm(W_q h + a_q), repeated with p clamped.
N. Srivastava, R. Salakhutdinov, "Learning representations for multimodal data with deep belief nets", ICML 2012.

Memory: the features of images or regions where they are few, see docs/scaling.md; and 4 bytes for each image or text
and each unit of a stack.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cran_bench import register
from cran_bench.toolbox.rbm import RBM, contrastive_divergence
from cran_bench.toolbox.training import inverse_time_decay, momentum_warmup

from ._codes import PAPER, QUICK, CodeMethod, Coder, at_least, explained
from ._stacks import JOINT


class JointRBM(Coder):
    """The RBM over both sides.

    Args:
        p: dimension of the encoded image.
        q: dimension of the encoded text.
        units: number of hidden units.
        mean_field_steps: iterations of mean-field inference.
        readout: the code: the `joint` hidden units, or [p; q] with the missing side `generated`.
        is_real: whether the inputs are real values with mean 0; if not, they are probabilities.
    """

    def __init__(self, p: int, q: int, units: int, mean_field_steps: int, readout: str, is_real: bool) -> None:
        super().__init__()
        self.p, self.mean_field_steps, self.readout = p, mean_field_steps, readout
        self.rbm = RBM("gaussian" if is_real else "binary", p + q, units)
        if is_real:
            self.rbm.begin_at(torch.zeros(p + q), 0.1)

    def image(self, p: Tensor) -> Tensor:
        q, h = self._inferred(p, slice(self.p), slice(self.p, None))
        return h if self.readout == "joint" else torch.cat([p, q], dim=1)

    def text(self, q: Tensor) -> Tensor:
        p, h = self._inferred(q, slice(self.p, None), slice(self.p))
        return h if self.readout == "joint" else torch.cat([p, q], dim=1)

    def _inferred(self, x: Tensor, seen: slice, missing: slice) -> tuple[Tensor, Tensor]:
        """The missing side y of rows x, and the hidden probabilities (n, H), by mean-field inference from y = 0."""
        W, a = self.rbm.W[missing], self.rbm.a[missing]
        given = torch.addmm(self.rbm.c, x, self.rbm.W[seen])
        h = torch.sigmoid(given)
        for _ in range(self.mean_field_steps):
            y = torch.addmm(a, h, W.T)
            if self.rbm.kind == "binary":
                y = torch.sigmoid(y)
            h = torch.sigmoid(torch.addmm(given, y, W))
        return y, h

    def loss(self, p: Tensor, q: Tensor, owner: Tensor, step: int) -> Tensor:
        return contrastive_divergence(self.rbm, torch.cat([p, q], dim=1), JOINT.gibbs_steps(step))

    def measures(self, p: Tensor, q: Tensor, owner: Tensor) -> dict[str, float]:
        both = torch.cat([p, q], dim=1)
        return {"explained": explained(self.rbm.visible(self.rbm.hidden(both)), both)}


@register(
    "multimodal-dbn",
    paper_row="Multimodal DBN",
    presets={
        "paper": {
            **PAPER,
            "lr": JOINT.lr,
            "weight_decay": JOINT.decay,
            "batch_size": 128,
            "units": 2048,
            "steps": 200_000,
            "mean_field_steps": 10,
        },
        "tuned": {},
        "quick": {**QUICK, "lr": 1e-3, "steps": 96},
    },
    search={"lr": (1e-4, 3e-4, 1e-3), "units": (512, 1024, 2048), "weight_decay": (1e-5, 1e-4, 1e-3)},
)
@dataclass
class MultimodalDBN(CodeMethod):
    """Multimodal deep belief network.

    Attributes:
        units: hidden units of the joint RBM.
        mean_field_steps: iterations of mean-field inference where one side is missing.
        readout: the code: the `joint` hidden units, or both sides with the missing one `generated`.
    """

    lr: float = 3e-4
    steps: int = 200
    units: int = 1024
    mean_field_steps: int = 3
    readout: Literal["joint", "generated"] = "joint"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "units", "mean_field_steps")

    def schedule(self, count: int) -> tuple[Callable[[float], float], Callable[[float], float]]:
        return inverse_time_decay(count), momentum_warmup(count, JOINT.warm)

    def build(self, p: int, q: int) -> Coder:
        return JointRBM(p, q, self.units, self.mean_field_steps, self.readout, self.standardise_inputs)
