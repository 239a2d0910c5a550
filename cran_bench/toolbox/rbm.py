"""Restricted Boltzmann machines with binary hidden and three types of visible units, and contrastive divergence.

    binary     E(v, h) = -a'v - v'W h - c'h
    gaussian   E(v, h) = |v - a|^2 / 2 - v'W h - c'h
    counts     E(v, h) = -a'v - v'W h - n c'h        n is the number of words (replicated softmax)

G. Hinton, "Training products of experts by minimizing contrastive divergence", Neural Computation 2002.
R. Salakhutdinov, G. Hinton, "Replicated softmax: an undirected topic model", NIPS 2009.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

Kind = Literal["binary", "gaussian", "counts"]


class RBM(nn.Module):
    """A restricted Boltzmann machine: weights W and the biases a (visible) and c (hidden).

    Args:
        kind: type of the visible units.
        visible: number of visible units.
        hidden: number of hidden units.
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
        """Initialise the biases so that visible units have the mean (V,) and hidden units the activity given."""
        words = mean.sum().clamp_min(1) if self.kind == "counts" else 1.0
        self.c.copy_((math.log(activity / (1 - activity)) - mean @ self.W) / words)
        if self.kind == "binary":
            mean = mean.clamp(1e-3, 1 - 1e-3).logit()
        elif self.kind == "counts":
            mean = (mean / words).clamp_min(1e-6).log()
        self.a.copy_(mean - activity * self.W.sum(dim=1))

    def inputs(self, v: Tensor) -> Tensor:
        """(n, H) inputs of the hidden units."""
        if self.kind == "counts":
            return v @ self.W + v.sum(dim=1, keepdim=True) * self.c
        return torch.addmm(self.c, v, self.W)

    def hidden(self, v: Tensor) -> Tensor:
        """(n, H) probabilities p(h = 1 | v) for visible states v (n, V)."""
        return torch.sigmoid(self.inputs(v))

    def visible(self, h: Tensor, words: Tensor | None = None) -> Tensor:
        """(n, V) means of v given h (n, H); for counts, with `words` (n, 1) words per row."""
        inputs = torch.addmm(self.a, h, self.W.T)
        if self.kind == "binary":
            return torch.sigmoid(inputs)
        if self.kind == "gaussian":
            return inputs
        assert words is not None
        return words * torch.softmax(inputs, dim=1)

    def free_energy(self, v: Tensor, inputs: Tensor | None = None) -> Tensor:
        """(n,) free energies F(v), where p(v) = exp(-F(v)) / Z; hidden `inputs` for v are computed if not given."""
        own = 0.5 * (v - self.a).square().sum(dim=1) if self.kind == "gaussian" else -(v @ self.a)
        return own - softplus(self.inputs(v) if inputs is None else inputs).sum(dim=1)

    @torch.no_grad()
    def gibbs(self, v: Tensor, steps: int, sample: bool = False, h: Tensor | None = None) -> Tensor:
        """(n, V) visible states, means or samples, after some Gibbs steps from v, whose hidden probabilities are h."""
        words = v.sum(dim=1, keepdim=True) if self.kind == "counts" else None
        for _ in range(steps):
            v, h = self.visible(torch.bernoulli(self.hidden(v) if h is None else h), words), None
            if not sample:
                continue
            if self.kind == "binary":
                v = torch.bernoulli(v)
            elif self.kind == "gaussian":
                v = v + torch.randn_like(v)
            else:
                v = _sample_counts(v)
        return v


def _sample_counts(means: Tensor) -> Tensor:
    """(n, V) sampled word counts, with as many words per row as the means of the first row sum to."""
    words = round(float(means[0].sum()))
    return torch.zeros_like(means).scatter_add_(
        1, torch.multinomial(means, words, replacement=True), torch.ones_like(means[:, :1]).expand(-1, words)
    )


def contrastive_divergence(
    rbm: RBM, v: Tensor, steps: int, sample: bool = False, penalty: Callable[[Tensor], Tensor | float] = lambda h: 0.0
) -> Tensor:
    """A scalar with the gradient of CD: the mean of F(v) - F(v after some Gibbs steps), per word for counts.

    The `penalty` of the hidden probabilities (n, H) for v is added.
    """
    inputs = rbm.inputs(v)
    h = torch.sigmoid(inputs)
    difference = rbm.free_energy(v, inputs) - rbm.free_energy(rbm.gibbs(v, steps, sample, h))
    if rbm.kind == "counts":
        difference = difference / v.sum(dim=1).clamp_min(1)
    return difference.mean() + penalty(h)


class Sparsity(nn.Module):
    """A penalty that keeps the mean activity q of each hidden unit near a target.

    Its gradient is that of the cross-entropy between the target and a running average of q.

    Args:
        hidden: number of hidden units.
        target: desired q.
        cost: weight of the penalty.
    """

    activity: Tensor

    def __init__(self, hidden: int, target: float, cost: float) -> None:
        super().__init__()
        self.target, self.cost = target, cost
        self.register_buffer("activity", torch.full((hidden,), target))

    def forward(self, h: Tensor) -> Tensor:
        """The penalty, a scalar, for the activities (n, H) of a batch."""
        mean = h.mean(dim=0)
        self.activity.mul_(0.9).add_(mean.detach(), alpha=0.1)
        q = self.activity.clamp(1e-3, 1 - 1e-3)
        return self.cost * ((q - self.target) / (q * (1 - q)) * mean).sum()
