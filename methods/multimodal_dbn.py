"""Multimodal DBN: a joint RBM over two stacks of RBMs, a row of Tables 1 and 2.

The joint RBM describes pairs [p; q] of what the stacks say of an image and of one of its texts.  Where one side is
missing, mean-field sweeps fill it in: h = sigm(W'[p; q] + c), q = sigm(W_q h + a_q), again and again, with p clamped.
N. Srivastava, R. Salakhutdinov, "Learning representations for multimodal data with deep belief nets", ICML 2012.

Memory: the features of images or regions where they are few, see docs/scaling.md; and for each image and text 4 bytes
for each unit of a stack.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cran_bench import register
from cran_bench.toolbox.rbm import RBM, contrastive_divergence
from cran_bench.toolbox.training import gathering, slowed

from ._codes import PAPER, CodeMethod, Coder, at_least, explained
from ._stacks import JOINT


class JointRBM(Coder):
    """The RBM over both sides.

    Args:
        p: inputs of the image.
        q: inputs of the text.
        units: hidden ones.
        sweeps: of mean-field inference.
        readout: `joint` hidden units, or [p; q] with the missing side `generated`.
        is_real: whether inputs are real values, and zero their mean; if not, probabilities.
    """

    def __init__(self, p: int, q: int, units: int, sweeps: int, readout: str, is_real: bool) -> None:
        super().__init__()
        self.p, self.sweeps, self.readout = p, sweeps, readout
        self.rbm = RBM("gaussian" if is_real else "binary", p + q, units)
        if is_real:
            self.rbm.begin_at(torch.zeros(p + q), 0.1)

    def image(self, p: Tensor) -> Tensor:
        """See Coder."""
        q = p.new_zeros(len(p), len(self.rbm.a) - self.p)
        for _ in range(self.sweeps):
            q = self.rbm.visible(self.rbm.hidden(torch.cat([p, q], dim=1)))[:, self.p :]
        return self._read(p, q)

    def text(self, q: Tensor) -> Tensor:
        """See Coder."""
        p = q.new_zeros(len(q), self.p)
        for _ in range(self.sweeps):
            p = self.rbm.visible(self.rbm.hidden(torch.cat([p, q], dim=1)))[:, : self.p]
        return self._read(p, q)

    def _read(self, p: Tensor, q: Tensor) -> Tensor:
        both = torch.cat([p, q], dim=1)
        return self.rbm.hidden(both) if self.readout == "joint" else both

    def loss(self, p: Tensor, q: Tensor, owner: Tensor, step: int) -> Tensor:
        """See Coder."""
        return contrastive_divergence(self.rbm, torch.cat([p, q], dim=1), JOINT.gibbs_steps(step))

    def measures(self, p: Tensor, q: Tensor, owner: Tensor) -> dict[str, float]:
        """See Coder."""
        both = torch.cat([p, q], dim=1)
        return {"explained": explained(self.rbm.visible(self.rbm.hidden(both)), both)}


@register(
    "multimodal-dbn",
    paper_row="Multimodal DBN",
    presets={
        "paper": {**PAPER, "lr": JOINT.lr, "decay": JOINT.decay, "batch_size": 128, "units": 2048, "steps": 200_000},
        "tuned": {},
        "quick": {"stack_steps": 60, "steps": 64, "units": 256},
    },
)
@dataclass
class MultimodalDBN(CodeMethod):
    """Hyper-parameters beyond those of every method on stacks.

    Attributes:
        units: of the joint RBM.
        sweeps: of mean-field inference where one side is missing.
        readout: codes are the `joint` hidden units, or both sides with the missing one `generated`.
    """

    lr: float = 3e-4
    steps: int = 200
    units: int = 1024
    sweeps: int = 10
    readout: Literal["joint", "generated"] = "joint"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "units", "sweeps")

    def schedule(self, count: int) -> tuple[Callable[[float], float], Callable[[float], float]]:
        """See CodeMethod."""
        return slowed(count), gathering(count, JOINT.warm)

    def build(self, p: int, q: int) -> Coder:
        """See CodeMethod."""
        return JointRBM(p, q, self.units, self.sweeps, self.readout, self.standardised)
