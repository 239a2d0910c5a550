"""Kernels between rows of features, and finite maps whose inner products equal or approximate a kernel.

A map consists of `columns` (n, m) for n rows and a matrix W (m, r): columns W W' columns' is the kernel.  The columns
of Nystrom and of the incomplete Cholesky are the kernel with m training rows; random Fourier features are cosines.
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
PIVOTS = 64  # candidates per block
SAMPLED = 1000  # rows whose distances determine the scale of a kernel

PIVOTS_AMONG = 50_000
"""Number of rows, drawn at random if there are more, from which the incomplete Cholesky chooses pivots."""


@dataclass(frozen=True)
class Kernel:
    """A kernel between rows.

    linear: x'y.  rbf: exp(-|x - y|^2 / scale).  intersection: sum_j min(x_j, y_j).  chi2: exp(-chi2(x, y) / scale) with
    chi2(x, y) = sum_j (x_j - y_j)^2 / (x_j + y_j).

    Attributes:
        name: name of the kernel.
        scale: divisor of the distance, for rbf and chi2.
    """

    name: Name
    scale: float = 1.0

    @classmethod
    def fitted(cls, name: Name, rows: Rows, width: float, seed: int) -> Kernel:
        """Set the scale by the median heuristic: 2 width^2 times the median distance (squared, for rbf) of a sample.

        Raises:
            BadInput: the sampled rows are all equal, or negative although the kernel does not allow it.
        """
        if name in ("linear", "intersection"):
            return cls(name)
        count = rows.shape[0]
        chosen = np.sort(np.random.default_rng(seed).permutation(count)[:SAMPLED])
        sample = dense(rows[chosen]).double()
        first, second = torch.triu_indices(len(sample), len(sample), offset=1)
        distances = _distances(name, sample, sample)[first, second]
        median = float(distances[distances > 0].median()) if bool((distances > 0).any()) else 0.0
        if not median > 0:
            raise BadInput(
                f"the kernel {name} needs rows that differ, but {len(chosen)} sampled rows are all equal: use features "
                "that are not constant"
            )
        return cls(name, 2 * width**2 * median)

    def __call__(self, rows: Rows, others: Tensor) -> Tensor:
        """Evaluate the (n, m) kernel of `rows` (n, D) with `others` (m, D), in the type and on the device of `others`.

        Raises:
            BadInput: a value is negative although the kernel does not allow it.
        """
        values = others.new_empty(rows.shape[0], len(others))
        for a in range(0, len(values), BLOCK):
            x = rows[a : a + BLOCK]
            if self.name == "linear":
                values[a : a + BLOCK] = _products(x, others)
            elif self.name == "intersection":
                values[a : a + BLOCK] = _sums(torch.minimum, dense(x).to(others), others, self.name)
            else:
                values[a : a + BLOCK] = _distances(self.name, x, others).div_(-self.scale).exp_()
        return values

    def diagonal(self, rows: Rows) -> Matrix:
        """(n,) values of k(x, x)."""
        if self.name in ("rbf", "chi2"):
            return np.ones(rows.shape[0])
        values = (dense(rows[a : a + BLOCK]).double() for a in range(0, rows.shape[0], BLOCK))
        sums = [(x.square() if self.name == "linear" else x).sum(dim=1).cpu().numpy() for x in values]
        return np.concatenate(sums)


def dense(rows: Rows) -> Tensor:
    """Rows as a dense tensor."""
    if isinstance(rows, FeatureRows):
        return rows[:]
    return rows if isinstance(rows, Tensor) else torch.from_numpy(rows.toarray())


def column_means(rows: Rows) -> Tensor:
    """(D,) float32 means of the columns."""
    if isinstance(rows, FeatureRows):
        return deviations(rows[a : a + BLOCK] for a in range(0, len(rows), BLOCK))[0]
    return torch.as_tensor(rows.mean(0), dtype=torch.float32)


def dense_blocks(rows: Rows, device: torch.device) -> Iterator[Tensor]:
    """Yield dense blocks of up to `BLOCK` rows on a device; one empty block if there are no rows."""
    for a in range(0, max(1, rows.shape[0]), BLOCK):
        yield dense(rows[a : a + BLOCK]).to(device)


def require_varied(what: str, rows: Rows) -> None:
    """Check that some row differs from the first by more than rounding; only the first block is read if one does.

    Raises:
        BadInput: all rows of `what`, a plural, are the same.
    """
    device = torch.device("cpu")
    first = next(dense_blocks(rows, device))[:1]
    if all(torch.allclose(block, first, rtol=1e-6, atol=0) for block in dense_blocks(rows, device)):
        raise BadInput(f"the {what} are the same in all rows, so nothing can be learned: check them")


def by_blocks(network: Callable[[Tensor], Tensor], rows: Rows, device: torch.device) -> Tensor:
    """(n, K) outputs of a network, which treats rows independently, for (n, D) rows."""
    outputs, done = torch.empty(0), 0
    for block in dense_blocks(rows, device):
        output = network(block)
        if not done:
            outputs = output.new_empty(rows.shape[0], *output.shape[1:])
        outputs[done : done + len(output)] = output
        done += len(output)
    return outputs


def _products(x: Block, y: Tensor) -> Tensor:
    """Inner products x y' in the type of y; the cost for a sparse x is proportional to its non-zeros."""
    if isinstance(x, Tensor):
        return x.to(y) @ y.T
    return torch.from_numpy(x @ y.T.cpu().numpy()).to(y)


def _distances(name: str, x: Block, y: Tensor) -> Tensor:
    """(n, m) squared Euclidean (rbf) or chi2 distances."""
    if name == "rbf":
        norms = x.square().sum(dim=1) if isinstance(x, Tensor) else torch.from_numpy(x.multiply(x).sum(axis=1))
        return (norms.to(y)[:, None] + y.square().sum(dim=1)).sub_(_products(x, y), alpha=2).clamp_min_(0)
    # (a - b)^2 / (a + b) = a + b - 4 ab / (a + b), whose last term is 0 if a or b is 0
    rows = dense(x).to(y)
    shared = _sums(lambda a, b: a * b / (a + b), rows, y, name)
    return (rows.sum(dim=1)[:, None] + y.sum(dim=1) - 4 * shared).clamp_min_(0)


def _sums(term: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, name: str) -> Tensor:
    """(n, m) sums over j of term(x_ij, y_kj), which is 0 where x_ij is; zeros of x cost nothing."""
    for rows in (x, y):
        if bool((rows < 0).any()):
            least = float(rows.min())
            raise BadInput(f"the kernel {name} needs non-negative features, but one is {least:.3g}: use others, or rbf")
    columns = y.T.contiguous()
    sums = x.new_empty(len(x), len(y))
    for row, values in enumerate(x):
        (support,) = values.nonzero(as_tuple=True)
        sums[row] = term(values[support, None], columns[support]).sum(dim=0)
    return sums


class Columns(Protocol):
    """The columns of a map, before multiplication by W."""

    def __call__(self, rows: Rows) -> Tensor:
        """Compute the (n, m) columns of (n, D) rows."""
        ...

    @property
    def count(self) -> int:
        """The number of columns m."""
        ...

    def state(self) -> dict[str, Tensor]:
        """The tensors from which `columns_of` restores the columns."""
        ...


@dataclass(frozen=True)
class Landmarks:
    """The kernel with m training rows.

    Attributes:
        kernel: between rows.
        points: (m, D) training rows.
    """

    kernel: Kernel
    points: Tensor

    def __call__(self, rows: Rows) -> Tensor:
        return self.kernel(rows, self.points)

    @property
    def count(self) -> int:
        """The number of points m."""
        return len(self.points)

    def state(self) -> dict[str, Tensor]:
        """The points and the scale of the kernel."""
        return {"points": self.points, "scale": torch.tensor(self.kernel.scale, dtype=torch.float64)}


@dataclass(frozen=True)
class Fourier:
    """Random Fourier features sqrt(2 / m) cos(x' F + b) of the kernel rbf (Rahimi and Recht, NIPS 2007).

    Attributes:
        frequencies: (D, m), normal with variance 2 / scale.
        offsets: (m,), uniform on [0, 2 pi).
    """

    frequencies: Tensor
    offsets: Tensor

    @classmethod
    def drawn(cls, kernel: Kernel, like: Tensor, features: int, seed: int) -> Fourier:
        """Draw the frequencies and offsets for rows (n, D) with the width, type and device of `like` (m, D).

        Raises:
            BadInput: the kernel is not rbf.
        """
        if kernel.name != "rbf":
            raise BadInput(f"random Fourier features need the kernel rbf, not {kernel.name}: use nystrom")
        draw = np.random.default_rng(seed)
        frequencies = draw.normal(scale=np.sqrt(2 / kernel.scale), size=(like.shape[1], features))
        offsets = draw.uniform(0, 2 * np.pi, features)
        return cls(torch.from_numpy(frequencies).to(like), torch.from_numpy(offsets).to(like))

    def __call__(self, rows: Rows) -> Tensor:
        scale = (2 / self.count) ** 0.5
        values = self.offsets.new_empty(rows.shape[0], self.count)
        for a in range(0, len(values), BLOCK):
            x = dense(rows[a : a + BLOCK]).to(self.offsets)
            values[a : a + BLOCK] = torch.addmm(self.offsets, x, self.frequencies).cos_().mul_(scale)
        return values

    @property
    def count(self) -> int:
        """The number of features m."""
        return len(self.offsets)

    def state(self) -> dict[str, Tensor]:
        """The frequencies and the offsets."""
        return {"frequencies": self.frequencies, "offsets": self.offsets}


@dataclass(frozen=True)
class Mapped:
    """The columns of many rows, computed by block on access."""

    rows: Rows
    columns: Columns

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (n, m)."""
        return self.rows.shape[0], self.columns.count

    def __getitem__(self, rows: slice) -> Tensor:
        """Compute the columns of a block of rows."""
        return self.columns(self.rows[rows])


def columns_of(state: dict[str, Tensor], name: Name) -> Columns:
    """Restore columns from their state."""
    if "points" in state:
        return Landmarks(Kernel(name, float(state["scale"])), state["points"])
    return Fourier(state["frequencies"], state["offsets"])


def nystrom(landmarks: Landmarks, clamp: float) -> Matrix:
    """W (m, r) = U S^(-1/2) of the kernel between landmarks, without eigenvalues below `clamp` times the largest."""
    points = landmarks.points.double()
    gram = landmarks.kernel(points, points).cpu().numpy()
    values, U = scipy.linalg.eigh((gram + gram.T) / 2, check_finite=False)
    kept = values > max(clamp, 1e-14) * values[-1]
    return np.asarray(U[:, kept] / np.sqrt(values[kept]))


def incomplete_cholesky(kernel: Kernel, rows: Rows, rank: int, tolerance: float) -> tuple[NDArray[np.int64], Matrix]:
    """Pivots and W with K close to L L', L = K[:, pivots] W (Hardoon's partial Gram-Schmidt; Fine and Scheinberg 2001).

    The next pivot is the row with the largest residual diagonal, until the residual trace is `tolerance` times the
    trace.  Candidates are processed in blocks, so a pivot's residual may be as small as half the largest.

    Args:
        kernel: between rows.
        rows: (n, D).
        rank: largest number of pivots.
        tolerance: eta.

    Returns:
        (m,) row numbers of the pivots, and W (m, m), upper triangular.  Memory: 8 n m bytes.
    """
    residual = kernel.diagonal(rows)
    total, n = residual.sum(), len(residual)
    rank = min(rank, n)
    L = np.zeros((rank, n))
    pivots: list[int] = []
    least = 1e-12 * total / n
    while (k := len(pivots)) < rank and residual.sum() > tolerance * total and residual.max() > least:
        worst = np.argsort(-residual)[: min(PIVOTS, rank - k)]
        columns = kernel(rows, dense(rows[worst]).double()).cpu().numpy() - L[:k].T @ L[:k, worst]
        gram = columns[worst]
        factor, order, count, _ = dpstrf(gram, tol=max(gram.diagonal().max() / 2, least), lower=1)
        if not count:
            break
        chosen = order[:count] - 1
        L[k : k + count] = scipy.linalg.solve_triangular(factor[:count, :count], columns[:, chosen].T, lower=True)
        residual = np.maximum(residual - (L[k : k + count] ** 2).sum(axis=0), 0)
        residual[worst[chosen]] = 0
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
    """Columns, and W if the map has one, of a finite map whose inner products approximate the kernel.

    Args:
        kernel: between rows.
        rows: (n, D).
        solver: pivots (cholesky), landmarks (nystrom) or random features (fourier).
        columns: largest number of columns.
        seed: random seed.
        tolerance: share of the trace at which the incomplete Cholesky stops.
        clamp: share of the largest eigenvalue below which Nystrom drops directions.
        among: number of rows from which the incomplete Cholesky chooses pivots.
        device: device of the columns; None for that of the rows.

    Raises:
        BadInput: random Fourier features were requested for a kernel other than rbf.
    """
    if solver == "fourier":
        return Fourier.drawn(kernel, dense(rows[:1]).to(device), columns, seed), None
    if solver == "cholesky":
        rows = sampled(rows, among, seed)
        # the kernel of each block of pivots with all rows is computed
        rows = dense(rows) if isinstance(rows, FeatureRows) else rows
        pivots, W = incomplete_cholesky(kernel, rows, columns, tolerance)
        return Landmarks(kernel, dense(rows[pivots]).to(device)), W
    landmarks = Landmarks(kernel, dense(sampled(rows, columns, seed)).to(device))
    return landmarks, nystrom(landmarks, clamp)


def centred(gram: Matrix) -> Matrix:
    """Centre a kernel matrix (n, n): H K H with H = I - 11'/n."""
    means = gram.mean(axis=0)
    return np.asarray(gram - means - means[:, None] + means.mean())


def centred_spectrum(gram: Matrix) -> tuple[Matrix, Matrix]:
    """Increasing eigenvalues (r,) and eigenvectors (n, r) of the centred kernel, above 1e-12 of the largest.

    Raises:
        BadInput: the centred kernel is zero.
    """
    values, U = scipy.linalg.eigh(centred(gram))
    if not values[-1] > 0:
        raise BadInput("the centred kernel is zero, because all rows are equal: use features that are not constant")
    kept = values > 1e-12 * values[-1]
    return values[kept], U[:, kept]


def dual_correlations(
    x: tuple[Matrix, Matrix], y: tuple[Matrix, Matrix], ridge_x: float, ridge_y: float, rank: int
) -> tuple[Matrix, Matrix, Matrix]:
    """Exact KCCA from the eigendecompositions of the centred kernels, K = U L U'.

    (Lx / (Lx + kx))^(1/2) Ux' Uy (Ly / (Ly + ky))^(1/2) = P R Q'
    a = Ux (Lx (Lx + kx))^(-1/2) P,   b = Uy (Ly (Ly + ky))^(-1/2) Q

    Args:
        x: `centred_spectrum` of the images' kernel.
        y: `centred_spectrum` of the texts' kernel.
        ridge_x: kx as a fraction of the largest eigenvalue of x.
        ridge_y: ky as a fraction of the largest eigenvalue of y.
        rank: largest number of correlations.

    Returns:
        a (n, k), b (n, k) and the correlations R (k,), k <= rank.
    """
    (lx, Ux), (ly, Uy) = x, y
    kx, ky = ridge_x * lx[-1], ridge_y * ly[-1]
    both = np.sqrt(lx / (lx + kx))[:, None] * (Ux.T @ Uy) * np.sqrt(ly / (ly + ky))
    P, rho, Q = truncated_svd(both, rank)
    return (Ux / np.sqrt(lx * (lx + kx))) @ P, (Uy / np.sqrt(ly * (ly + ky))) @ Q, rho


def sampled(rows: Rows, count: int, seed: int) -> Any:
    """`count` distinct rows drawn at random, in their original order; all rows if there are fewer."""
    total = rows.shape[0]
    if count >= total:
        return rows
    return rows[np.sort(np.random.default_rng(seed).permutation(total)[:count])]
