"""Restricted Boltzmann machines: binary hidden units over visible units of three kinds, and contrastive divergence.

    binary     E(v, h) = -a'v - v'W h - c'h
    gaussian   E(v, h) = |v - a|^2 / 2 - v'W h - c'h
    counts     E(v, h) = -a'v - v'W h - n c'h        n words in all; the replicated softmax

G. Hinton, "Training products of experts by minimizing contrastive divergence", Neural Computation 2002.
R. Salakhutdinov, G. Hinton, "Replicated softmax: an undirected topic model", NIPS 2009.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

Kind = Literal["binary", "gaussian", "counts"]


class RBM(nn.Module):
    """Weights and biases.

    Args:
        kind: of the visible units.
        visible: how many.
        hidden: how many.
    """

    W: Tensor  # (V, H)
    a: Tensor  # (V,)
    c: Tensor  # (H,)

    def __init__(self, kind: Kind, visible: int, hidden: int) -> None:
        super().__init__()
        self.kind = kind
        self.W = nn.Parameter(0.01 * torch.randn(visible, hidden))
        self.a, self.c = nn.Parameter(torch.zeros(visible)), nn.Parameter(torch.zeros(hidden))

    @torch.no_grad()
    def begin_at(self, mean: Tensor, activity: float) -> None:
        """Set biases so that visible units begin at a mean (V,), and hidden ones at an activity."""
        words = mean.sum().clamp_min(1) if self.kind == "counts" else 1.0
        self.c.copy_((math.log(activity / (1 - activity)) - mean @ self.W) / words)
        if self.kind == "binary":
            mean = mean.clamp(1e-3, 1 - 1e-3).logit()
        elif self.kind == "counts":
            mean = (mean / words).clamp_min(1e-6).log()
        self.a.copy_(mean - activity * self.W.sum(dim=1))

    def _inputs(self, v: Tensor) -> Tensor:
        """(n, H) what each hidden unit is given."""
        if self.kind == "counts":
            return v @ self.W + v.sum(dim=1, keepdim=True) * self.c
        return torch.addmm(self.c, v, self.W)

    def hidden(self, v: Tensor) -> Tensor:
        """(n, V) to (n, H): p(h = 1 | v)."""
        return torch.sigmoid(self._inputs(v))

    def visible(self, h: Tensor, words: Tensor | None = None) -> Tensor:
        """(n, H) to (n, V): the mean of v given h; for counts, of so many `words` (n, 1)."""
        given = torch.addmm(self.a, h, self.W.T)
        if self.kind == "binary":
            return torch.sigmoid(given)
        if self.kind == "gaussian":
            return given
        assert words is not None
        return words * torch.softmax(given, dim=1)

    def free_energy(self, v: Tensor) -> Tensor:
        """(n,) F(v), p(v) = exp(-F(v)) / Z."""
        own = 0.5 * (v - self.a).square().sum(dim=1) if self.kind == "gaussian" else -(v @ self.a)
        return own - softplus(self._inputs(v)).sum(dim=1)

    @torch.no_grad()
    def gibbs(self, v: Tensor, steps: int, sample: bool = False) -> Tensor:
        """(n, V) after so many steps of a chain from v; it hands on means for v, unless it is to `sample` them too."""
        words = v.sum(dim=1, keepdim=True) if self.kind == "counts" else None
        for _ in range(steps):
            v = self.visible(torch.bernoulli(self.hidden(v)), words)
            if not sample:
                continue
            if self.kind == "binary":
                v = torch.bernoulli(v)
            elif self.kind == "gaussian":
                v = v + torch.randn_like(v)
            else:
                v = _drawn(v)
        return v


def _drawn(means: Tensor) -> Tensor:
    """(n, V) counts of as many words as the means of a row add up to, the same for all rows."""
    words = round(float(means[0].sum()))
    found = torch.zeros_like(means)
    return found.scatter_add_(
        1, torch.multinomial(means, words, replacement=True), torch.ones_like(means[:, :1]).expand(-1, words)
    )


def contrastive_divergence(rbm: RBM, v: Tensor, steps: int, sample: bool = False) -> Tensor:
    """A scalar with the gradient of CD: mean F(v) - F(v after so many Gibbs steps), per word where v are counts."""
    model = rbm.gibbs(v, steps, sample)
    difference = rbm.free_energy(v) - rbm.free_energy(model)
    if rbm.kind == "counts":
        difference = difference / v.sum(dim=1).clamp_min(1)
    return difference.mean()


class Sparsity(nn.Module):
    """A penalty that keeps the mean activity q of each hidden unit near a target.

    The gradient of the cross-entropy between target and q, with a running average for q.

    Args:
        hidden: how many units.
        target: of q.
        cost: of the penalty.
    """

    activity: Tensor

    def __init__(self, hidden: int, target: float, cost: float) -> None:
        super().__init__()
        self.target, self.cost = target, cost
        self.register_buffer("activity", torch.full((hidden,), target))

    def forward(self, h: Tensor) -> Tensor:
        """(n, H) activities of a batch to a scalar."""
        mean = h.mean(dim=0)
        self.activity.mul_(0.9).add_(mean.detach(), alpha=0.1)
        q = self.activity.clamp(1e-3, 1 - 1e-3)
        return self.cost * ((q - self.target) / (q * (1 - q)) * mean).sum()
