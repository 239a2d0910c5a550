"""ml-CCA: CCA in which every image is paired with every text, weighted by how similar their labels are.

    max  w' Cxy v   subject to   w' (Cxx + rx I) w = v' (Cyy + ry I) v = 1

    Cxy = sum_ij f_ij x_i y_j' / F,   Cxx = sum_i f_i. x_i x_i' / F,   Cyy = sum_j f_.j y_j y_j' / F,   F = sum_ij f_ij

V. Ranjan, N. Rasiwasia, C. V. Jawahar, "Multi-label cross-modal retrieval", ICCV 2015.  x and y are features less
their training means, f_i. and f_.j are sums over texts and over images, and a ridge is kappa times the mean of the
diagonal.  With z the labels as 0 and 1,

    f_ij = z_i z_j / (|z_i| |z_j|)   (`dot`)   or   exp(-|z_i - z_j| / sigma)   (`l2exp`)

In fast ml-CCA, j runs over the `few` texts with the labels nearest to z_i only, the image's own text first.  Texts at
the same distance share what is left of `few`: each has the weight that it has on average over random choices among
them.  So neither the order of rows nor a seed matters, and a class with more than `few` texts enters by its sum.

f depends on labels alone.  With L (n, U) the label set of each sample and K (U, U) the weights between label sets, f is
L K L' and Cxy is (L' X)' K (L' Y): n^2 pairs cost a product with K.  For `dot` without `few`, L is z / |z| and K is I.
With one label per sample, ml-CCA pairs all samples of a class, and Cxy has rank C - 1 for C classes.  Projections are
weighted by a power of the correlations and compared by cosine; images without labels are left out.

Memory: the covariances and their factors in float64, at most 32 (p + q)^2 bytes; and, but for `dot` without `few`, the
sums of each label set, 8 U (p + q) bytes.  The data is read in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import sparse

from cran_bench import FeatureRows, Run, Split, register
from cran_bench.toolbox.linalg import (
    Matrix,
    Moments,
    Texts,
    canonical_correlations,
    weighted_covariance,
    weighted_sums,
)

from ._labelled import Labelled, LabelledRows, divided

PAPER = {"image": "none", "text_scaling": "none", "standardize": True, "kappa": (0.25,)}
BLOCK = 1 << 24
"""Weights between label sets that are computed at a time."""
IMAGES = 4096


def nearest(distance: Matrix, sizes: Matrix, few: int) -> sparse.csr_array:
    """Which share of a label set is among the `few` nearest texts of a sample, its own text not counted.

    Args:
        distance: (n, U) squared distances of n label sets to all, integers; 0 only to the label set itself.
        sizes: (U,) texts with each label set.
        few: how many texts, the sample's own included.

    Returns:
        (n, U) shares between 0 and 1.
    """
    steps, place = int(distance.max()) + 1, distance.astype(np.int64)
    texts = np.stack([np.bincount(row, sizes, steps) for row in place])
    texts[:, 0] -= 1
    nearer = np.cumsum(texts, axis=1) - texts
    share = np.clip((few - 1 - nearer) / np.maximum(texts, 1), 0, 1)
    reach = np.where(share > 0, np.arange(steps), -1).max(axis=1)
    row, column = np.nonzero(place <= reach[:, None])
    return sparse.csr_array((share[row, place[row, column]], (row, column)), shape=distance.shape)


@register(
    "ml-cca",
    presets={
        "paper": PAPER,
        "code": PAPER | {"weights": "l2exp", "few": 20, "power": (0.0,)},
        "tuned": {},
    },
    search={
        **{"weights": ("dot", "l2exp"), "sigma": (0.5, 1.0, 2.0), "few": (0, 5, 20, 100)},
        **{"standardize": (False, True), "image": ("sqrt", "l2", "none"), "vocabulary": (1500, 3000, 6000)},
    },
)
@dataclass
class MLCCA(Labelled):
    """ml-CCA, and fast ml-CCA.

    Attributes:
        weights: the weight of two label sets: the cosine of their vectors (`dot`), or the exponential of their
            negative distance (`l2exp`).
        sigma: scale of distances in `l2exp`.
        few: texts that an image is paired with, those of the nearest labels; 0 for all texts.
        kappa: ridge of each side as a fraction of the mean variance.
        dim: dimensions kept, at most the rank.
        power: each dimension is weighted by its correlation to this power; 0 for equal weights, as in the authors'
            code.
    """

    standardize: bool = False
    weights: Literal["dot", "l2exp"] = "dot"
    sigma: float = 1.0
    few: int = 0
    kappa: tuple[float, ...] = (0.01, 0.05, 0.25, 1.0, 4.0)
    dim: tuple[int, ...] = (10, 20, 64, 128, 256)
    power: tuple[float, ...] = (1.0,)

    refits = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.few < 0 or min(self.kappa) < 0:
            raise ValueError("few and kappa are not negative")
        if self.sigma <= 0:
            raise ValueError(f"sigma is above 0, not {self.sigma:g}")

    @property
    def by_label(self) -> bool:
        """Whether weights are inner products of the labels at unit length."""
        return self.weights == "dot" and not self.few

    def memory(self, train: Split) -> int:
        """Bytes of the covariances and their factors, of the sums of each label set, and of a table of images."""
        Z = train.categories(self.labels).cpu().numpy()
        sets = Z.shape[1] if self.by_label else len(np.unique(Z, axis=0))
        sums = 8 * sets * (train.image_dim + self.text_dim(train))
        return super().memory(train) + sums + 80 * min(sets * sets, BLOCK) + train.image_rows.held

    def label_sets(self, labels: Matrix) -> tuple[sparse.csr_array, Matrix]:
        """L (N, U) and the label sets (U, C), given labels (N, C)."""
        if self.by_label:
            return sparse.csr_array(labels / np.linalg.norm(labels, axis=1, keepdims=True)), np.eye(labels.shape[1])
        Z, group = np.unique(labels, axis=0, return_inverse=True)
        ones, rows = np.ones(len(labels)), np.arange(len(labels))
        return sparse.csr_array((ones, (rows, group.ravel())), shape=(len(labels), len(Z))), Z

    def weights_between(self, Z: Matrix, sizes: Matrix) -> Iterator[tuple[slice, Any]]:
        """Yield blocks of rows of K (U, U), and where they are, for label sets Z (U, C) with so many texts each."""
        if self.by_label:
            yield slice(0, len(Z)), sparse.eye_array(len(Z), format="csr")
            return
        labels, size = Z.sum(axis=1), max(1, BLOCK // len(Z))
        for a in range(0, len(Z), size):
            where = slice(a, a + size)
            common = Z[where] @ Z.T
            if not self.few:
                yield where, self.similarities(common, labels[where, None], labels)
                continue
            share = nearest(labels[where, None] + labels - 2 * common, sizes, self.few).tocoo()
            row, column = share.coords
            weights = share.data * self.similarities(common[row, column], labels[a + row], labels[column])
            yield where, sparse.csr_array((weights, (row, column)), shape=share.shape)

    def similarities(self, common: Matrix, labels: Matrix, others: Matrix) -> Matrix:
        """Weights of label sets with so many labels each, of which so many are common."""
        if self.weights == "dot":
            return common / np.sqrt(labels * others)
        return np.exp(-np.sqrt(labels + others - 2 * common) / self.sigma)

    def pair_moments(self, rows: LabelledRows, run: Run) -> tuple[Moments, Matrix, Matrix]:
        """Cxx, Cyy and Cxy of standardised features, and the divisors of both sides (p,) and (q,).

        Also sets the means for `centre`.
        """
        owner = rows.split.image_of.cpu().numpy()
        images, texts = self.image_rows(rows.split), self.text_features(rows.split)
        counts = np.bincount(owner, minlength=len(rows.split)).astype(np.float64)
        L, Z = self.label_sets(rows.of_images.astype(np.float64))
        sizes = counts @ L
        X, Y = weighted_sums(sparse.diags_array(counts) @ L, images), weighted_sums(L[owner], texts)

        xy, from_images, from_texts, own = np.zeros((X.shape[1], Y.shape[1])), *np.zeros((3, len(sizes)))
        for where, K in self.weights_between(Z, sizes):
            xy += X[where].T @ (K @ Y)
            from_images[where], own[where] = K @ sizes, 1 - K.diagonal(where.start)
            from_texts += sizes[where] @ K
        x_sum, y_sum = from_images @ X, from_texts @ Y
        del X, Y
        if not self.few:
            own[:] = 0.0  # a text's weight with its own image, beyond that of its label set
        f_images, f_texts = L @ (from_images + own), L @ (from_texts + own)
        mean_x, var_x, xx = weighted_covariance(images, counts, counts * f_images)
        mean_y, var_y, yy = weighted_covariance(texts, np.ones(len(owner)), f_texts[owner])
        xy -= np.outer(mean_x, y_sum) + np.outer(x_sum - from_images @ sizes * mean_x, mean_y)
        if own.any():
            xy += own_pairs(images, texts, owner, L @ own, mean_x, mean_y)
        total = float(counts @ f_images)
        C = Moments(mean_x, mean_y, xx / total, yy / total, xy / total)
        C.require_varied()
        self.centre(mean_x, mean_y, run)
        s_x, s_y = self.divisors(mean_x, var_x), self.divisors(mean_y, var_y)
        return divided(C, s_x, s_y), s_x, s_y

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Compute the weighted covariances once, then one decomposition for each ridge."""
        self.begin(run)
        C, s_x, s_y = self.pair_moments(self.labelled(train, run), run)
        for kappa in run.progress(self.kappa, "ridges", len(self.kappa)):
            rx, ry = (kappa * float(np.diag(covariance).mean()) for covariance in (C.xx, C.yy))
            Wx, Wy, rho = canonical_correlations(C, rx, ry, max(self.dim))
            self.offer(val, run, Wx / s_x[:, None], Wy / s_y[:, None], rho, kappa=kappa)


def own_pairs(images: FeatureRows, texts: Texts, owner: Any, own: Matrix, mean_x: Matrix, mean_y: Matrix) -> Matrix:
    """Sum over texts of own_i (x_i - mean_x) (y_j - mean_y)' with i = owner[j]: (p, q), for weights own (N,)."""
    xy = np.zeros((len(mean_x), len(mean_y)))
    for a in range(0, len(images), IMAGES):
        X = images[a : a + IMAGES].cpu().double().numpy() - mean_x
        first, last = np.searchsorted(owner, [a, a + len(X)])
        some = np.arange(last - first), owner[first:last] - a
        of = sparse.csr_array((np.ones(last - first), some), shape=(last - first, len(X)))
        Y = weighted_sums(of, texts[first:last]) - of.sum(axis=0)[:, None] * mean_y
        xy += (own[a : a + IMAGES, None] * X).T @ Y
    return xy
