"""KCCA: kernel canonical correlation analysis, a row of Tables 1 and 2.

    max  a' Kx Ky b   subject to   a' (Kx^2 + kx Kx) a = b' (Ky^2 + ky Ky) b = 1

over centred kernels, where every (image, text) pair is one sample.  D. Hardoon, S. Szedmak, J. Shawe-Taylor, "Canonical
correlation analysis: an overview with application to learning methods", Neural Computation 2004.

With Kx = phi_x phi_x' this is ridge CCA of phi_x and phi_y with ridges kx / (n - 1), ky / (n - 1), see `cca`.  So the
exact solver serves up to a few thousand pairs, and beyond them phi is made of m columns: landmarks (Nystrom), pivots
(Hardoon's own incomplete Cholesky) or random Fourier features.  Covariances are of the columns, and what makes phi of
them is applied to the m x m results.

Memory: the columns of the texts, 4 n m bytes, and some m x m matrices; the images pass by in blocks.  The exact solver
holds a few n x n matrices; the incomplete Cholesky 8 n m bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from cran_bench import Run, Split, register
from cran_bench.errors import BadInput
from cran_bench.kernels import (
    AsTheyAre,
    Columns,
    Fourier,
    Kernel,
    Landmarks,
    Name,
    Rows,
    centred,
    columns_of,
    dense,
    incomplete_cholesky,
    nystrom,
    sampled,
)
from cran_bench.linalg import Matrix, truncated_svd
from cran_bench.progress import say
from cran_bench.states import below, with_prefix

from ._linear import LinearMethod

EXACT_UP_TO = 4000
"""Pairs up to which the n x n kernels are held: 128 MB each."""

EXACT_BY_ITSELF = 1000
"""Pairs up to which the exact solver is the quicker one."""


PAPER = {
    "image": "l2",
    "solver": "cholesky",
    "dim": (512,),
    "power": (0.0,),
    "ridge_image": (1e-3,),
    "ridge_text": (1e-3,),
}
"""Gaussian kernels under Hardoon's own decomposition; the paper gives no constants."""

QUICK = {"columns": 300, "ridge_image": (1e-2,)}
"""For a first look at little data."""


@register("kcca", paper_row="KCCA", presets={"paper": PAPER, "tuned": {}, "quick": QUICK})
@dataclass
class KCCA(LinearMethod):
    """Hyper-parameters beyond those of every linear method.

    Attributes:
        kernel_image: of the image features: rbf, linear, chi2 or intersection (see `cran_bench.kernels`).
        kernel_text: of the text features.
        width_image: of rbf and chi2, as a multiple of what the median distance suggests.
        width_text: likewise of the text.
        solver: `exact`, `cholesky`, `nystrom` or `fourier`; `auto` is exact up to 1,000 pairs and nystrom beyond.  Only
            the exact one has a use for the linear kernel; the others take the features as they are.
        columns: landmarks, pivots or random features, of each side at most.
        tolerance: share of the trace at which the incomplete Cholesky ends.
        clamp: share of the largest eigenvalue below which Nystrom leaves directions out.
        ridge_image: kx / (n - 1), as a fraction of the largest variance in the image's kernel.
        ridge_text: ky / (n - 1) likewise.
    """

    kernel_image: Name = "rbf"
    kernel_text: Name = "rbf"
    width_image: tuple[float, ...] = (1.0,)
    width_text: tuple[float, ...] = (1.0,)
    solver: Literal["auto", "exact", "cholesky", "nystrom", "fourier"] = "auto"
    columns: int = 3000
    tolerance: float = 0.01
    clamp: float = 1e-6
    ridge_image: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    ridge_text: tuple[float, ...] = (1e-4, 1e-3, 1e-2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(*self.width_image, *self.width_text, *self.ridge_image, *self.ridge_text) <= 0:
            raise ValueError("widths and ridges are above 0")
        if self.columns < 2:
            raise ValueError(f"columns is at least 2, not {self.columns}; the usual number is 3000")
        if not (0 <= self.tolerance < 1 and 0 <= self.clamp < 1):
            raise ValueError("tolerance and clamp are at least 0 and below 1")
        self.maps: dict[str, Columns] = {}

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Every pair of widths on its own; the best on validation is kept."""
        solver = self._solver(len(train.texts))
        widths = list(product(self.width_image, self.width_text))
        tried = [replace(self, width_image=(wx,), width_text=(wy,)) for wx, wy in widths]
        for candidate in tried:
            candidate.begin(run)
            if solver == "exact":
                candidate.solve_exactly(train, val, run)
            else:
                candidate.solve_by_columns(train, val, run, solver)
        best = max(tried, key=lambda candidate: candidate.best)
        self.load(best.state())
        run.chose(**best.choice, width_image=best.width_image[0], width_text=best.width_text[0])

    def _solver(self, pairs: int) -> str:
        if self.solver == "exact" and pairs > EXACT_UP_TO:
            raise BadInput(
                f"the exact solver holds {pairs:,} x {pairs:,} numbers several times, and takes {EXACT_UP_TO:,} pairs "
                "at most: use solver=nystrom, cholesky or fourier"
            )
        if self.solver != "auto":
            return self.solver
        solver = "exact" if pairs <= EXACT_BY_ITSELF else "nystrom"
        say(f"kcca: {pairs:,} pairs of image and text, so the solver is {solver}")
        return solver

    def solve_exactly(self, train: Split, val: Split, run: Run) -> None:
        """By the eigenvectors of the centred n x n kernels, K = U L U'.

        (Lx / (Lx + kx))^(1/2) Ux' Uy (Ly / (Ly + ky))^(1/2) = P R Q',   a = Ux (Lx (Lx + kx))^(-1/2) P,   b likewise.
        """
        X, Y = dense(self._images(train))[train.image_of], dense(self.text_features(train))
        means: list[Matrix] = []
        sides: list[tuple[Matrix, Matrix]] = []
        for side, name, rows, width in (
            ("image", self.kernel_image, X, self.width_image[0]),
            ("text", self.kernel_text, Y, self.width_text[0]),
        ):
            kernel = Kernel.fitted(name, rows, width, run.seed)
            self.maps[side] = Landmarks(kernel, rows)
            gram = kernel(rows, rows).double().cpu().numpy()
            means.append(gram.mean(axis=0))
            values, U = scipy.linalg.eigh(centred(gram))
            kept = values > 1e-12 * values[-1]
            sides.append((values[kept], U[:, kept]))
        self.centre(means[0], means[1], run)
        (lx, Ux), (ly, Uy) = sides
        pairs = list(product(self.ridge_image, self.ridge_text))
        for ridge_x, ridge_y in run.progress(pairs, "ridges", len(pairs)):
            kx, ky = ridge_x * lx[-1], ridge_y * ly[-1]
            both = np.sqrt(lx / (lx + kx))[:, None] * (Ux.T @ Uy) * np.sqrt(ly / (ly + ky))
            P, rho, Q = truncated_svd(both, max(self.dim))
            A, B = (Ux / np.sqrt(lx * (lx + kx))) @ P, (Uy / np.sqrt(ly * (ly + ky))) @ Q
            self.offer(val, run, A, B, rho, ridge_image=ridge_x, ridge_text=ridge_y)

    def solve_by_columns(self, train: Split, val: Split, run: Run, solver: str) -> None:
        """Ridge CCA of what the columns are mapped to."""
        X, Y = self._images(train), self.text_features(train)
        image, Wx = self._map(X, self.kernel_image, self.width_image[0], solver, run)
        text, Wy = self._map(Y, self.kernel_text, self.width_text[0], solver, run)
        self.maps = {"image": image, "text": text}
        self.correlate(self.moments(train, run), val, run, self.ridge_image, self.ridge_text, (Wx, Wy))

    def _map(self, rows: Rows, name: Name, width: float, solver: str, run: Run) -> tuple[Columns, Matrix | None]:
        if name == "linear":
            return AsTheyAre(), None
        kernel = Kernel.fitted(name, rows, width, run.seed)
        if solver == "fourier":
            return Fourier.drawn(kernel, dense(rows[:1]).to(run.device), self.columns, run.seed), None
        if solver == "cholesky":
            pivots, W = incomplete_cholesky(kernel, rows, self.columns, self.tolerance)
            return Landmarks(kernel, dense(rows[pivots]).to(run.device)), W
        landmarks = Landmarks(kernel, dense(sampled(rows, self.columns, run.seed)).to(run.device))
        return landmarks, nystrom(landmarks, self.clamp)

    def _images(self, split: Split) -> Tensor:
        """(N, p) features, scaled."""
        return torch.cat(list(super().image_view(split)))

    def image_view(self, split: Split) -> Iterator[Tensor]:
        """Blocks of (n, m) columns."""
        yield from (dense(self.maps["image"](block)) for block in super().image_view(split))

    def text_view(self, split: Split) -> Rows:
        """(T, m) columns."""
        return self.maps["text"](self.text_features(split))

    def state(self) -> dict[str, Tensor]:
        """Means, projections, and what the columns are made of."""
        found = super().state()
        for side, columns in self.maps.items():
            found |= with_prefix(side, columns.state())
        return found

    def load(self, state: dict[str, Tensor]) -> None:
        """See `state`."""
        super().load(state)
        for side, name in (("image", self.kernel_image), ("text", self.kernel_text)):
            self.maps[side] = columns_of(below(side, state), name)
