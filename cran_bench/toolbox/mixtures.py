"""Mixtures with a Gaussian or Laplacian per dimension, fitted by EM, and Fisher vectors of sets of points.

    p(x) = sum_k pi_k prod_d f_kd(x_d),    f_kd = Laplace(m, s) where b_kd = 1, else N(m, s^2)

B. Klein, G. Lev, G. Sadeh, L. Wolf, "Associating neural word embeddings with deep image representations using Fisher
vectors", CVPR 2015: with all b = 0 this is the GMM, with b chosen by likelihood their hybrid HGLMM.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

BLOCK = 8192  # points per block
BAG = 512  # neighbours in a sorted dimension whose weights are summed first


@dataclass(frozen=True)
class Mixture:
    """A mixture of K components in D dimensions.

    Attributes:
        log_pi: (K,) logarithms of the weights.
        m: (K, D) means, or medians where `laplace`.
        s: (K, D) standard deviations, or mean absolute deviations where `laplace`.
        laplace: (K, D) bool, b.
    """

    log_pi: Tensor
    m: Tensor
    s: Tensor
    laplace: Tensor

    @property
    def components(self) -> int:
        """The number of components K."""
        return len(self.log_pi)

    def log_joint(self, x: Tensor) -> Tensor:
        """(n, K) log pi_k + log f_k(x) for (n, D) points."""
        gauss = (~self.laplace).to(x)
        precision = gauss / self.s.square()
        widths = torch.where(self.laplace, 2 * self.s, math.sqrt(2 * math.pi) * self.s)
        constant = self.log_pi - widths.log().sum(dim=1) - 0.5 * (precision * self.m.square()).sum(dim=1)
        joint = torch.addmm(constant, x, (precision * self.m).T)
        joint.addmm_(x.square(), precision.T, alpha=-0.5)
        if bool(self.laplace.any()):
            inverse = self.laplace.to(x) / self.s
            for k in range(self.components):
                (dims,) = self.laplace[k].nonzero(as_tuple=True)
                columns = x if len(dims) == x.shape[1] else x[:, dims]
                joint[:, k] -= (columns - self.m[k, dims]).abs_() @ inverse[k, dims]
        return joint

    def responsibilities(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, K) responsibilities gamma and (n,) log p(x) of (n, D) points."""
        joint = self.log_joint(x)
        log_p = joint.logsumexp(dim=1)
        return (joint - log_p[:, None]).exp_(), log_p

    def scores(self, x: Tensor) -> Tensor:
        """(n, 2 K D) contributions of (n, D) points to a Fisher vector: all first-order, then all second-order terms.

        Laplacian: gamma sign(x - m) / sqrt(pi), sign(0) = 1, and gamma (|x - m| / s - 1) / sqrt(pi).
        Gaussian: gamma (x - m) / s / sqrt(pi), and gamma ((x - m)^2 / s^2 - 1) / sqrt(2 pi).
        """
        gamma = self.responsibilities(x)[0] / (0.5 * self.log_pi).exp()
        z = (x[:, None] - self.m) / self.s
        first = torch.where(self.laplace, torch.where(z < 0, -1.0, 1.0).to(x), z)
        second = torch.where(self.laplace, z.abs() - 1, (z.square() - 1) / math.sqrt(2))
        parts = [(gamma[:, :, None] * part).flatten(1) for part in (first, second)]
        return torch.cat(parts, dim=1)


def fit_mixture(
    x: Tensor, start: Mixture, steps: Iterable[object], floor: float, hybrid: bool
) -> tuple[Mixture, list[float]]:
    """Fit a mixture by EM.

    Args:
        x: (n, D) points.
        start: initial mixture.
        steps: an iterable with one item per step.
        floor: smallest s of a Laplacian and smallest variance of a Gaussian.
        hybrid: whether to choose b by likelihood after each step; otherwise it stays fixed.

    Returns:
        The mixture, and the mean log-likelihood before each step.
    """
    mixture, curve = start, []
    order = x.T.argsort(dim=1) if hybrid or bool(start.laplace.any()) else None
    for _ in steps:
        blocks = [mixture.responsibilities(block) for block in torch.split(x, BLOCK)]
        gamma, log_p = (torch.cat(part) for part in zip(*blocks, strict=True))
        curve.append(float(log_p.double().mean()))
        mixture = _maximised(x, gamma, mixture, floor, hybrid, order)
    return mixture, curve


def _maximised(x: Tensor, gamma: Tensor, old: Mixture, floor: float, hybrid: bool, order: Tensor | None) -> Mixture:
    total = gamma.sum(dim=0).clamp_min(torch.finfo(x.dtype).tiny)
    mean = (gamma.T @ x) / total[:, None]
    square = torch.zeros_like(mean)
    for g, block in zip(torch.split(gamma, BLOCK), torch.split(x, BLOCK), strict=True):
        square.addmm_(g.T, block.square())
    variance = (square / total[:, None] - mean.square()).clamp_min(0)
    log_pi = (total / total.sum()).log()
    deviation = variance.clamp_min(floor).sqrt()
    if order is None:
        return Mixture(log_pi, mean, deviation, old.laplace)
    median, absolute = _medians(x, gamma, total, order)
    s = absolute.clamp_min(floor)
    # mean log-likelihood of a component's points, from their mean absolute and squared deviations
    as_laplace = -(2 * s).log() - absolute / s
    as_gauss = -deviation.log() - 0.5 * math.log(2 * math.pi) - 0.5 * variance / deviation.square()
    laplace = as_laplace > as_gauss if hybrid else old.laplace
    return Mixture(log_pi, torch.where(laplace, median, mean), torch.where(laplace, s, deviation), laplace)


def _medians(x: Tensor, gamma: Tensor, total: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted medians (K, D), and weighted mean absolute deviations (K, D) from them.

    The points are sorted in each dimension; weights are summed in bags of neighbours first, and then within the bag in
    which half of the total is reached.

    Args:
        x: (n, D) points.
        gamma: (n, K) weights.
        total: (K,) sums of gamma.
        order: (D, n) indices that sort the points in each dimension.
    """
    n, D = x.shape
    K = gamma.shape[1]
    starts = torch.arange(0, n, BAG, device=x.device)
    medians, absolute = x.new_empty(K, D), x.new_empty(K, D)
    within = torch.arange(BAG, device=x.device)
    columns = torch.arange(K, device=x.device)
    for d in range(D):
        ranked = order[d]
        values = x[ranked, d]
        weight = embedding_bag(ranked, gamma, starts, mode="sum").double().cumsum(dim=0)
        moment = embedding_bag(ranked, gamma, starts, mode="sum", per_sample_weights=values).double().cumsum(dim=0)
        half = 0.5 * weight[-1]
        bag = (weight < half).sum(dim=0)
        place = starts[bag] + within[:, None]  # (BAG, K)
        inside = place < n
        place = place.clamp_max(n - 1)
        weights = gamma[ranked[place], columns].double() * inside
        points = values[place].double()
        before_w = torch.where(bag > 0, weight[bag - 1, columns], 0.0)
        before_m = torch.where(bag > 0, moment[bag - 1, columns], 0.0)
        up_to = before_w + weights.cumsum(dim=0)
        last = (up_to < half).sum(dim=0).clamp_max(BAG - 1)
        median = points[last, columns]
        below_w = up_to[last, columns]
        below_m = before_m + (weights * points).cumsum(dim=0)[last, columns]
        # sum |x - m| = (sum of x above) - (sum of x below) + m (weight below - weight above)
        spread = moment[-1] - 2 * below_m + median * (2 * below_w - weight[-1])
        medians[:, d] = median.to(x)
        absolute[:, d] = (spread / weight[-1].clamp_min(1e-300)).clamp_min(0).to(x)
    return medians, absolute


def started(x: Tensor, components: int, seed: int, hybrid: bool) -> Mixture:
    """Klein's initial mixture of x (n, D): equal weights, random centres, overall spread, random b if `hybrid`."""
    draw = np.random.default_rng(seed)
    rows = torch.from_numpy(draw.choice(len(x), components, replace=len(x) < components)).to(x.device)
    laplace = torch.from_numpy(draw.random((components, x.shape[1])) < 0.5).to(x.device) & hybrid
    deviation = x.std(dim=0, correction=0)
    absolute = (x - x.median(dim=0).values).abs().mean(dim=0)
    log_pi = x.new_full((components,), -math.log(components))
    return Mixture(log_pi, x[rows], torch.where(laplace, absolute, deviation).clamp_min(1e-6), laplace)
