"""Kernels between rows of features, and finite maps whose inner products are a kernel or approach it.

A map is a table of `columns` (n, m) of n rows, and a matrix W (m, r): columns W W' columns' is the kernel.  The columns
of Nystrom and of the incomplete Cholesky are the kernel to m of the training rows; random Fourier features are cosines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg.lapack import dpstrf
from torch import Tensor

from cran_bench.errors import BadInput
from cran_bench.frontend.feature_rows import FeatureRows
from cran_bench.toolbox.linalg import Matrix, deviations, truncated_svd

Block: TypeAlias = "Tensor | sparse.csr_array[Any, tuple[int, int]]"
Rows: TypeAlias = "Block | FeatureRows"
Name = Literal["linear", "rbf", "chi2", "intersection"]
Approximation = Literal["cholesky", "nystrom", "fourier"]

BLOCK = 4096
PIVOTS = 64  # candidates looked at together
SAMPLED = 1000  # rows whose distances give a kernel its scale

PIVOTS_AMONG = 50_000
"""Rows, drawn at random where there are more, among which the incomplete Cholesky looks for pivots."""


@dataclass(frozen=True)
class Kernel:
    """A kernel between rows.

    linear: x'y.  rbf: exp(-|x - y|^2 / scale).  intersection: sum_j min(x_j, y_j).  chi2: exp(-chi2(x, y) / scale) with
    chi2(x, y) = sum_j (x_j - y_j)^2 / (x_j + y_j).

    Attributes:
        name: which.
        scale: of the distance, for rbf and chi2.
    """

    name: Name
    scale: float = 1.0

    @classmethod
    def fitted(cls, name: Name, rows: Rows, width: float, seed: int) -> Kernel:
        """With the median heuristic: scale = 2 width^2 times the median distance of some rows (for rbf, a squared one).

        Raises:
            BadInput: those rows are all alike, or negative where the kernel does not allow it.
        """
        if name in ("linear", "intersection"):
            return cls(name)
        count = rows.shape[0]
        some = np.sort(np.random.default_rng(seed).permutation(count)[:SAMPLED])
        sample = dense(rows[some]).double()
        first, second = torch.triu_indices(len(sample), len(sample), offset=1)
        distances = _distances(name, sample, sample)[first, second]
        median = float(distances[distances > 0].median()) if bool((distances > 0).any()) else 0.0
        if not median > 0:
            raise BadInput(
                f"the kernel {name} compares distances, but the {len(some)} rows looked at are all alike: the features "
                "are constant, prepare others"
            )
        return cls(name, 2 * width**2 * median)

    def __call__(self, rows: Rows, others: Tensor) -> Tensor:
        """(n, D) and (m, D) to the (n, m) kernel, of the type of `others`, where `others` are.

        Raises:
            BadInput: negative values where the kernel does not allow them.
        """
        found = others.new_empty(rows.shape[0], len(others))
        for a in range(0, len(found), BLOCK):
            x = rows[a : a + BLOCK]
            if self.name == "linear":
                found[a : a + BLOCK] = _products(x, others)
            elif self.name == "intersection":
                found[a : a + BLOCK] = _sums(torch.minimum, dense(x).to(others), others, self.name)
            else:
                found[a : a + BLOCK] = _distances(self.name, x, others).div_(-self.scale).exp_()
        return found

    def diagonal(self, rows: Rows) -> Matrix:
        """(n,) k(x, x)."""
        if self.name in ("rbf", "chi2"):
            return np.ones(rows.shape[0])
        values = (dense(rows[a : a + BLOCK]).double() for a in range(0, rows.shape[0], BLOCK))
        sums = [(x.square() if self.name == "linear" else x).sum(dim=1).cpu().numpy() for x in values]
        return np.concatenate(sums)


def dense(rows: Rows) -> Tensor:
    """Rows as a tensor."""
    if isinstance(rows, FeatureRows):
        return rows[:]
    return rows if isinstance(rows, Tensor) else torch.from_numpy(rows.toarray())


def column_means(rows: Rows) -> Tensor:
    """(D,) float32."""
    if isinstance(rows, FeatureRows):
        return deviations(rows[a : a + BLOCK] for a in range(0, len(rows), BLOCK))[0]
    return torch.as_tensor(rows.mean(0), dtype=torch.float32)


def dense_blocks(rows: Rows, device: torch.device) -> Iterator[Tensor]:
    """Some thousand rows at a time, as tensors; one empty block if there is no row."""
    for a in range(0, max(1, rows.shape[0]), BLOCK):
        yield dense(rows[a : a + BLOCK]).to(device)


def by_blocks(network: Callable[[Tensor], Tensor], rows: Rows, device: torch.device) -> Tensor:
    """(n, K) what a network, which looks at each row alone, makes of (n, D) rows."""
    found, done = torch.empty(0), 0
    for block in dense_blocks(rows, device):
        made = network(block)
        if not done:
            found = made.new_empty(rows.shape[0], *made.shape[1:])
        found[done : done + len(made)] = made
        done += len(made)
    return found


def _products(x: Block, y: Tensor) -> Tensor:
    """Products x y', of the type of y; a sparse x costs what it holds."""
    if isinstance(x, Tensor):
        return x.to(y) @ y.T
    return torch.from_numpy(x @ y.T.cpu().numpy()).to(y)


def _distances(name: str, x: Block, y: Tensor) -> Tensor:
    """(n, m) squared distances, or chi2."""
    if name == "rbf":
        norms = x.square().sum(dim=1) if isinstance(x, Tensor) else torch.from_numpy(x.multiply(x).sum(axis=1))
        return (norms.to(y)[:, None] + y.square().sum(dim=1)).sub_(_products(x, y), alpha=2).clamp_min_(0)
    # (a - b)^2 / (a + b) = a + b - 4 ab / (a + b), whose last term is 0 where one of both is
    rows = dense(x).to(y)
    shared = _sums(lambda a, b: a * b / (a + b), rows, y, name)
    return (rows.sum(dim=1)[:, None] + y.sum(dim=1) - 4 * shared).clamp_min_(0)


def _sums(term: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, name: str) -> Tensor:
    """(n, m) sum over j of term(x_ij, y_kj), a term being 0 where x_ij is: sparse rows cost what they hold."""
    for rows in (x, y):
        if bool((rows < 0).any()):
            raise BadInput(
                f"the kernel {name} is for counts and shares, but a feature is {float(rows.min()):.3g}: take features "
                "that are not negative, or the kernel rbf"
            )
    columns = y.T.contiguous()
    found = x.new_empty(len(x), len(y))
    for row, values in enumerate(x):
        (there,) = values.nonzero(as_tuple=True)
        found[row] = term(values[there, None], columns[there]).sum(dim=0)
    return found


class Columns(Protocol):
    """What a map says of rows before W."""

    def __call__(self, rows: Rows) -> Tensor:
        """(n, D) to (n, m)."""
        ...

    @property
    def count(self) -> int:
        """How many."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What it was made of."""
        ...


@dataclass(frozen=True)
class Landmarks:
    """The kernel to m rows of the training data.

    Attributes:
        points: (m, D).
    """

    kernel: Kernel
    points: Tensor

    def __call__(self, rows: Rows) -> Tensor:
        """See Columns."""
        return self.kernel(rows, self.points)

    @property
    def count(self) -> int:
        """See Columns."""
        return len(self.points)

    def state(self) -> dict[str, Tensor]:
        """See Columns."""
        return {"points": self.points, "scale": torch.tensor(self.kernel.scale, dtype=torch.float64)}


@dataclass(frozen=True)
class Fourier:
    """sqrt(2 / m) cos(x' F + b), random Fourier features of the kernel rbf (Rahimi and Recht, NIPS 2007).

    Attributes:
        frequencies: (D, m), normal with variance 2 / scale.
        offsets: (m,), uniform on [0, 2 pi).
    """

    frequencies: Tensor
    offsets: Tensor

    @classmethod
    def drawn(cls, kernel: Kernel, like: Tensor, features: int, seed: int) -> Fourier:
        """Frequencies for rows `like` these.

        Raises:
            BadInput: the kernel is not rbf.
        """
        if kernel.name != "rbf":
            raise BadInput(f"random Fourier features are those of the kernel rbf, not of {kernel.name}: use nystrom")
        draw = np.random.default_rng(seed)
        frequencies = draw.normal(scale=np.sqrt(2 / kernel.scale), size=(like.shape[1], features))
        offsets = draw.uniform(0, 2 * np.pi, features)
        return cls(torch.from_numpy(frequencies).to(like), torch.from_numpy(offsets).to(like))

    def __call__(self, rows: Rows) -> Tensor:
        """See Columns."""
        scale = (2 / self.count) ** 0.5
        found = self.offsets.new_empty(rows.shape[0], self.count)
        for a in range(0, len(found), BLOCK):
            x = dense(rows[a : a + BLOCK]).to(self.offsets)
            found[a : a + BLOCK] = torch.addmm(self.offsets, x, self.frequencies).cos_().mul_(scale)
        return found

    @property
    def count(self) -> int:
        """See Columns."""
        return len(self.offsets)

    def state(self) -> dict[str, Tensor]:
        """See Columns."""
        return {"frequencies": self.frequencies, "offsets": self.offsets}


@dataclass(frozen=True)
class Mapped:
    """The columns of many rows, made by the block when they are asked for."""

    rows: Rows
    columns: Columns

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        return self.rows.shape[0], self.columns.count

    def __getitem__(self, rows: slice) -> Tensor:
        """Some of them."""
        return self.columns(self.rows[rows])


def columns_of(state: dict[str, Tensor], name: Name) -> Columns:
    """The inverse of `Columns.state`."""
    if "points" in state:
        return Landmarks(Kernel(name, float(state["scale"])), state["points"])
    return Fourier(state["frequencies"], state["offsets"])


def nystrom(landmarks: Landmarks, clamp: float) -> Matrix:
    """W (m, r) = U S^(-1/2) of the kernel among landmarks; eigenvalues below `clamp` of the largest are left out."""
    points = landmarks.points.double()
    gram = landmarks.kernel(points, points).cpu().numpy()
    values, U = scipy.linalg.eigh((gram + gram.T) / 2, check_finite=False)
    kept = values > max(clamp, 1e-14) * values[-1]
    return np.asarray(U[:, kept] / np.sqrt(values[kept]))


def incomplete_cholesky(kernel: Kernel, rows: Rows, rank: int, tolerance: float) -> tuple[NDArray[np.int64], Matrix]:
    """Pivots and W: K is nearly L L', L = K[:, pivots] W (Hardoon's partial Gram-Schmidt; Fine and Scheinberg 2001).

    The next pivot is the row whose diagonal is explained worst, until what is left of the trace is `tolerance` of it.
    Rows are looked at in blocks of the worst, so a pivot may also be one that is at least half as bad as the worst.

    Args:
        kernel: of the rows.
        rows: (n, D).
        rank: pivots at most.
        tolerance: eta.

    Returns:
        (m,) pivots as row numbers, and W (m, m), upper triangular.  Memory: n m numbers of 8 bytes.
    """
    left = kernel.diagonal(rows)
    total, n = left.sum(), len(left)
    rank = min(rank, n)
    L = np.zeros((rank, n))
    pivots: list[int] = []
    least = 1e-12 * total / n
    while (k := len(pivots)) < rank and left.sum() > tolerance * total and left.max() > least:
        worst = np.argsort(-left)[: min(PIVOTS, rank - k)]
        columns = kernel(rows, dense(rows[worst]).double()).cpu().numpy() - L[:k].T @ L[:k, worst]
        gram = columns[worst]
        factor, order, count, _ = dpstrf(gram, tol=max(gram.diagonal().max() / 2, least), lower=1)
        if not count:
            break
        chosen = order[:count] - 1
        L[k : k + count] = scipy.linalg.solve_triangular(factor[:count, :count], columns[:, chosen].T, lower=True)
        left = np.maximum(left - (L[k : k + count] ** 2).sum(axis=0), 0)
        left[worst[chosen]] = 0
        pivots.extend(worst[chosen].tolist())
    factor = L[: len(pivots)][:, pivots].T  # lower triangular
    W = scipy.linalg.solve_triangular(factor, np.eye(len(pivots)), lower=True).T
    return np.array(pivots, dtype=np.int64), np.asarray(W)


def approximate(
    kernel: Kernel,
    rows: Rows,
    solver: Approximation,
    columns: int,
    seed: int,
    tolerance: float = 0.01,
    clamp: float = 1e-6,
    among: int = PIVOTS_AMONG,
    device: torch.device | None = None,
) -> tuple[Columns, Matrix | None]:
    """Columns, and W where there is one, of a finite map whose inner products approximate the kernel.

    Args:
        kernel: of the rows.
        rows: (n, D).
        solver: pivots (cholesky), landmarks (nystrom) or random features (fourier).
        columns: how many, at most.
        seed: of what is drawn at random.
        tolerance: share of the trace at which the incomplete Cholesky ends.
        clamp: share of the largest eigenvalue below which Nystrom leaves directions out.
        among: rows among which the incomplete Cholesky looks for pivots.
        device: where the columns are computed; None for where the rows are.

    Raises:
        BadInput: random Fourier features of another kernel than rbf.
    """
    if solver == "fourier":
        return Fourier.drawn(kernel, dense(rows[:1]).to(device), columns, seed), None
    if solver == "cholesky":
        rows = sampled(rows, among, seed)
        rows = dense(rows) if isinstance(rows, FeatureRows) else rows  # each block of pivots is compared with all
        pivots, W = incomplete_cholesky(kernel, rows, columns, tolerance)
        return Landmarks(kernel, dense(rows[pivots]).to(device)), W
    landmarks = Landmarks(kernel, dense(sampled(rows, columns, seed)).to(device))
    return landmarks, nystrom(landmarks, clamp)


def centred(gram: Matrix) -> Matrix:
    """H K H, H = I - 11'/n."""
    means = gram.mean(axis=0)
    return np.asarray(gram - means - means[:, None] + means.mean())


def centred_spectrum(gram: Matrix) -> tuple[Matrix, Matrix]:
    """Rising eigenvalues (r,) and eigenvectors (n, r) of the centred kernel, without those below 1e-12 of the largest.

    Raises:
        BadInput: the centred kernel is zero.
    """
    values, U = scipy.linalg.eigh(centred(gram))
    if not values[-1] > 0:
        raise BadInput(
            "the centred kernel is zero, as the rows are all alike: the features are constant, prepare others"
        )
    kept = values > 1e-12 * values[-1]
    return values[kept], U[:, kept]


def dual_correlations(
    x: tuple[Matrix, Matrix], y: tuple[Matrix, Matrix], ridge_x: float, ridge_y: float, rank: int
) -> tuple[Matrix, Matrix, Matrix]:
    """Exact KCCA by the eigenvectors of the centred kernels, K = U L U'.

    (Lx / (Lx + kx))^(1/2) Ux' Uy (Ly / (Ly + ky))^(1/2) = P R Q',   a = Ux (Lx (Lx + kx))^(-1/2) P,   b likewise.

    Args:
        x: `centred_spectrum` of the images' kernel.
        y: likewise of the texts'.
        ridge_x: kx as a fraction of the largest eigenvalue.
        ridge_y: ky likewise.
        rank: correlations at most.

    Returns:
        a (n, k), b (n, k) and the correlations R (k,), k <= rank.
    """
    (lx, Ux), (ly, Uy) = x, y
    kx, ky = ridge_x * lx[-1], ridge_y * ly[-1]
    both = np.sqrt(lx / (lx + kx))[:, None] * (Ux.T @ Uy) * np.sqrt(ly / (ly + ky))
    P, rho, Q = truncated_svd(both, rank)
    return (Ux / np.sqrt(lx * (lx + kx))) @ P, (Uy / np.sqrt(ly * (ly + ky))) @ Q, rho


def sampled(rows: Rows, count: int, seed: int) -> Any:
    """`count` different rows by lot, in their order; all where there are fewer."""
    total = rows.shape[0]
    if count >= total:
        return rows
    return rows[np.sort(np.random.default_rng(seed).permutation(total)[:count])]
