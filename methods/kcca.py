"""KCCA: kernel canonical correlation analysis, a row of Tables 1 and 2.

    max  a' Kx Ky b   subject to   a' (Kx^2 + kx Kx) a = b' (Ky^2 + ky Ky) b = 1

with centred kernel matrices, where every (image, text) pair is one sample.  D. Hardoon, S. Szedmak, J. Shawe-Taylor,
"Canonical correlation analysis: an overview with application to learning methods", Neural Computation 2004.

With Kx = phi_x phi_x' this is ridge CCA of phi_x and phi_y with ridges kx / (n - 1), ky / (n - 1), as in `cca`.  An
exact solver on the n x n kernels serves up to a few thousand pairs.  For more, phi is approximated by m columns: pivots
(Hardoon's own incomplete Cholesky), landmarks (Nystrom) or random Fourier features.  The covariances are those of the
columns, and the matrix that maps columns to phi is applied to the m x m results.

Memory: covariances as for `cca`, of m columns where phi is approximated; the data is read in blocks.  The exact solver
holds eight n x n matrices; the incomplete Cholesky decomposition 16 m bytes for each of the rows among which it looks
for pivots, up to 50,000, and their features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from torch import Tensor

from cran_bench import BadInput, Run, Split, register, say
from cran_bench.toolbox.kernels import (
    PIVOTS_AMONG,
    Approximation,
    Columns,
    Kernel,
    Landmarks,
    Mapped,
    Name,
    Rows,
    approximate,
    centred_spectrum,
    columns_of,
    dense,
    dual_correlations,
    require_varied,
)
from cran_bench.toolbox.linalg import Matrix, Texts, covariance_bytes
from cran_bench.toolbox.states import below, with_prefix

from ._linear import WORDS_BYTES, LinearMethod

EXACT_UP_TO = 4000
"""Largest number of pairs for the exact solver, whose n x n kernels then have 128 MB each."""

EXACT_BY_ITSELF = 1000
"""Number of pairs up to which the exact solver is the faster one."""

PAPER = {
    "image": "l2",
    "sublinear": False,
    "kernel_image": "rbf",
    "columns": 3000,
    "solver": "cholesky",
    "dim": (512,),
    "power": (0.0,),
    "ridge_image": (1e-3,),
    "ridge_text": (1e-3,),
}
"""Gaussian kernels with Hardoon's own decomposition; the paper gives no constants."""

QUICK = {"columns": 600, "ridge_image": (2e-2,), "ridge_text": (1e-2,)}
"""For a first look at little data."""


@register(
    "kcca",
    paper_row="KCCA",
    presets={"paper": PAPER, "tuned": {}, "quick": QUICK},
    search={
        "image": ("sqrt", "l2", "none"),
        "vocabulary": (1500, 3000, 6000),
        "kernel_image": ("linear", "rbf"),
        "kernel_text": ("rbf", "linear"),
    },
)
@dataclass
class KCCA(LinearMethod):
    """Kernel CCA, exact or with a low-rank approximation of the kernels.

    Attributes:
        kernel_image: kernel of the image features: `linear`, `rbf`, `chi2` or `intersection`.  For the features of a
            neural network, rbf is no better than linear.
        kernel_text: kernel of the text features.
        width_image: width of the image kernel, rbf or chi2, as a multiple of the median heuristic.
        width_text: width of the text kernel, as a multiple of the median heuristic.
        solver: `exact`; the approximations `cholesky`, `nystrom` and `fourier`; or `auto`, which is exact up to 1,000
            pairs and cholesky for more, as random landmarks miss rare words.  Only the exact solver computes a linear
            kernel; the others use the features instead.
        columns: largest number of pivots, landmarks or random features on each side.
        tolerance: fraction of the kernel's trace at which the incomplete Cholesky decomposition ends.
        rcond: eigenvalues of the landmarks' kernel below this fraction of the largest are dropped (Nystrom).
        ridge_image: kx / (n - 1), as a fraction of the largest variance of the image kernel.
        ridge_text: ky / (n - 1), as a fraction of the largest variance of the text kernel.
    """

    kernel_image: Name = "linear"
    kernel_text: Name = "rbf"
    width_image: tuple[float, ...] = (1.0,)
    width_text: tuple[float, ...] = (1.0,)
    solver: Literal["auto", "exact", "cholesky", "nystrom", "fourier"] = "auto"
    columns: int = 6000
    tolerance: float = 0.01
    rcond: float = 1e-6
    ridge_image: tuple[float, ...] = (1e-3, 1e-2, 2e-2, 5e-2)
    ridge_text: tuple[float, ...] = (1e-3, 5e-3, 1e-2, 2e-2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(*self.width_image, *self.width_text, *self.ridge_image, *self.ridge_text) <= 0:
            raise ValueError("widths and ridges are above 0")
        if self.columns < 2:
            raise ValueError(f"columns is at least 2, not {self.columns}; the usual number is 6000")
        if not (0 <= self.tolerance < 1 and 0 <= self.rcond < 1):
            raise ValueError("tolerance and rcond are at least 0 and below 1")
        self.maps: dict[str, Columns] = {}

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Fit every pair of kernel widths; keep the best on validation."""
        require_varied("image features", self.image_rows(train))
        solver = self._solver(len(train.texts))
        if self.solver == "auto":
            say(f"kcca: {len(train.texts):,} pairs of image and text, so the solver is {solver}")
        widths = list(product(self.width_image, self.width_text))
        tried = [replace(self, width_image=(wx,), width_text=(wy,)) for wx, wy in widths]
        for candidate in tried:
            candidate.begin(run)
            require_varied("text features", candidate.text_features(train))
            if solver == "exact":
                candidate.solve_exactly(train, val, run)
            else:
                candidate.solve_by_columns(train, val, run, solver)
        best = max(tried, key=lambda candidate: candidate.best)
        self.load(best.state())
        run.chose(**best.choice, width_image=best.width_image[0], width_text=best.width_text[0])

    def memory(self, train: Split) -> int:
        """Bytes of image features that have a kernel, and of n x n matrices, or pivots, or covariances of columns."""
        n, p, q = len(train.texts), train.image_dim, self.text_dim(train)
        solver = self._solver(n)
        held = WORDS_BYTES * n + self.encoded_bytes(train)
        held += train.image_rows.held if solver == "exact" or self.kernel_image != "linear" else 0
        if solver == "exact":
            return held + 64 * n**2 + 8 * n * (p + q)
        m = min(self.columns, n)
        looked = 4 * p if self.kernel_image != "linear" else 0
        pivots = min(n, PIVOTS_AMONG) * (16 * m + looked) if solver == "cholesky" else 0
        columns = [m if name != "linear" else size for name, size in ((self.kernel_image, p), (self.kernel_text, q))]
        return held + 8 * m * (p + q) + max(pivots, covariance_bytes(*columns))

    def _solver(self, pairs: int) -> Literal["exact"] | Approximation:
        if self.solver == "exact" and pairs > EXACT_UP_TO:
            raise BadInput(
                f"the exact solver holds {pairs:,} x {pairs:,} numbers several times, and takes {EXACT_UP_TO:,} pairs "
                "at most: use solver=nystrom, cholesky or fourier"
            )
        if self.solver != "auto":
            return self.solver
        return "exact" if pairs <= EXACT_BY_ITSELF else "cholesky"

    def solve_exactly(self, train: Split, val: Split, run: Run) -> None:
        """Solve KCCA by the eigenvectors of the centred n x n kernels, K = U L U'.

        (Lx / (Lx + kx))^(1/2) Ux' Uy (Ly / (Ly + ky))^(1/2) = P R Q',   a = Ux (Lx (Lx + kx))^(-1/2) P,   b likewise.
        """
        X, Y = self.image_rows(train)[train.image_of], dense(self.text_features(train)).to(run.device)
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
            sides.append(centred_spectrum(gram))
        self.centre(means[0], means[1], run)
        pairs = list(product(self.ridge_image, self.ridge_text))
        for ridge_x, ridge_y in run.progress(pairs, "ridges", len(pairs)):
            A, B, rho = dual_correlations(sides[0], sides[1], ridge_x, ridge_y, max(self.dim))
            self.offer(val, run, A, B, rho, ridge_image=ridge_x, ridge_text=ridge_y)

    def solve_by_columns(self, train: Split, val: Split, run: Run, solver: Approximation) -> None:
        """Solve ridge CCA of phi, which is a linear map of the columns."""
        self.maps = {}
        Wx, Wy = self._map("image", train, solver, run), self._map("text", train, solver, run)
        self.correlate(self.moments(train, run), val, run, self.ridge_image, self.ridge_text, (Wx, Wy))

    def _map(self, side: Literal["image", "text"], train: Split, solver: Approximation, run: Run) -> Matrix | None:
        """Choose the columns of a side; returns the matrix that maps them to phi, None for the identity."""
        is_image = side == "image"
        name, (width,) = (self.kernel_image, self.width_image) if is_image else (self.kernel_text, self.width_text)
        if name == "linear":
            return None
        rows: Rows = self.image_rows(train) if is_image else self.text_features(train)
        kernel = Kernel.fitted(name, rows, width, run.seed)
        if solver == "cholesky":
            pivots = min(self.columns, rows.shape[0], PIVOTS_AMONG)
            say(f"kcca: up to {pivots:,} pivots of the {side} kernel")
        self.maps[side], W = approximate(
            kernel, rows, solver, self.columns, run.seed, self.tolerance, self.rcond, PIVOTS_AMONG, run.device
        )
        return W

    def image_view(self, split: Split) -> Iterator[Tensor]:
        """Yield blocks of (n, m) columns."""
        columns = self.maps.get("image")
        yield from (columns(block) if columns else block for block in super().image_view(split))

    def text_view(self, split: Split) -> Texts:
        """(T, m) columns."""
        rows, columns = self.text_features(split), self.maps.get("text")
        return Mapped(rows, columns) if columns else rows

    def state(self) -> dict[str, Tensor]:
        """Means, projections, and the pivots, landmarks or frequencies of the columns."""
        state = super().state()
        for side, columns in self.maps.items():
            state |= with_prefix(side, columns.state())
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        super().load(state)
        sides = (("image", self.kernel_image), ("text", self.kernel_text))
        self.maps = {side: columns_of(below(side, state), name) for side, name in sides if below(side, state)}
