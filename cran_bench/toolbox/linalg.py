"""Blockwise covariances, whitening and truncated decompositions in float64, shared by the closed-form methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from cran_bench.errors import BadInput

Matrix: TypeAlias = NDArray[np.float64]
Texts: TypeAlias = "Tensor | sparse.csr_array | RowBlocks"

TEXT_BLOCK = 8192
TILE = 2048


class RowBlocks(Protocol):
    """Rows that are computed on access."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (T, q)."""
        ...

    def __getitem__(self, rows: slice) -> Tensor:
        """Compute a block of rows."""
        ...


@dataclass(frozen=True)
class Moments:
    """Means and covariances (divisor T - 1) of image-text pairs, one pair per text.

    Attributes:
        mean_x: (p,) mean image feature, counting each image once per text.
        mean_y: (q,) mean text feature.
        xx: (p, p) covariance of the images.
        yy: (q, q) covariance of the texts.
        xy: (p, q) cross-covariance.
    """

    mean_x: Matrix
    mean_y: Matrix
    xx: Matrix
    yy: Matrix
    xy: Matrix

    def require_varied(self) -> None:
        """Check that the features of each side differ by more than rounding.

        Raises:
            BadInput: all image features, or all text features, are the same.
        """
        for what, mean, covariance in (("image", self.mean_x, self.xx), ("text", self.mean_y, self.yy)):
            if np.trace(covariance) <= 1e-12 * (mean @ mean):
                raise BadInput(f"the {what} features are the same in all rows, so nothing can be learned: check them")

    def mapped(self, Wx: Matrix | None, Wy: Matrix | None) -> Moments:
        """The moments of X Wx and Y Wy, for Wx (p, k) and Wy (q, k); None leaves a side unchanged."""

        def left(W: Matrix | None, M: Matrix) -> Matrix:
            return M if W is None else np.asarray(W.T @ M)

        return Moments(
            left(Wx, self.mean_x),
            left(Wy, self.mean_y),
            left(Wx, left(Wx, self.xx).T),
            left(Wy, left(Wy, self.yy).T),
            left(Wy, left(Wx, self.xy).T).T,
        )


def deviations(blocks: Iterable[Tensor]) -> Tensor:
    """(2, D) means and standard deviations of columns; the deviation of a constant column is set to 1.

    Args:
        blocks: blocks of rows, (n, D) each.
    """
    count, sums, squares = 0, torch.zeros(()), torch.zeros(())
    for block in blocks:
        x = block.double()
        if not count:
            shift = x.mean(dim=0)  # near the mean, to avoid cancellation in the squares
            sums, squares = torch.zeros_like(shift), torch.zeros_like(shift)
        x = x - shift
        count, sums, squares = count + len(x), sums + x.sum(dim=0), squares + x.square().sum(dim=0)
    mean = sums / count
    spread = (squares / count - mean.square()).clamp_min(0).sqrt().float()
    return torch.stack([(shift + mean).float(), torch.where(spread > 1e-6, spread, 1.0)])


def covariance_bytes(p: int, q: int) -> int:
    """Peak memory in bytes of `moments` and `canonical_correlations` for p and q columns, covariances included."""
    return 8 * (p + q) ** 2 + max(24 * (p + q) ** 2, 24 * TEXT_BLOCK * (p + q))


def moments(images: Iterable[Tensor], texts: Texts, image_of: Tensor) -> Moments:
    """Compute the moments of all image-text pairs in float64, reading each image once for all its texts.

    Memory beyond the results is one block.

    Args:
        images: blocks of rows, (N, p) in total.
        texts: (T, q) dense, sparse, or computed by block.
        image_of: (T,) non-decreasing image row of each text.

    Raises:
        BadInput: there are fewer than two pairs.
    """
    owner = image_of.cpu().numpy()
    total = len(owner)
    if total < 2:
        raise BadInput(f"covariances need at least two image-text pairs, not {total}")
    q = texts.shape[1]
    yy, sum_y = _sparse_moments(texts) if isinstance(texts, sparse.csr_array) else (np.zeros((q, q)), np.zeros(q))
    xx = xy = sum_x = None
    row = 0
    for block in images:
        X = block.cpu().double().numpy()
        if xx is None or xy is None or sum_x is None:
            p = X.shape[1]
            xx, xy, sum_x = np.zeros((p, p)), np.zeros((p, q)), np.zeros(p)
        first, last = np.searchsorted(owner, [row, row + len(X)])
        counts = np.bincount(owner[first:last] - row, minlength=len(X)).astype(np.float64)
        weighted = X * np.sqrt(counts)[:, None]
        _add_gram(xx, weighted)
        sums = np.zeros((len(X), q))
        for a in range(first, last, TEXT_BLOCK):
            b = min(a + TEXT_BLOCK, last)
            gather = sparse.csr_array((np.ones(b - a), (owner[a:b] - row, np.arange(b - a))), shape=(len(X), b - a))
            if isinstance(texts, sparse.csr_array):
                sums += (gather @ texts[a:b].astype(np.float64)).toarray()
            else:
                Y = texts[a:b].cpu().double().numpy()
                _add_gram(yy, Y)
                sum_y += Y.sum(axis=0)
                sums += gather @ Y
        xy += X.T @ sums
        sum_x += counts @ X
        row += len(X)
    if xx is None or xy is None or sum_x is None:
        raise BadInput("covariances need images; there are none")
    mean_x, mean_y = sum_x / total, sum_y / total
    xx -= total * np.outer(mean_x, mean_x)
    yy -= total * np.outer(mean_y, mean_y)
    xy -= total * np.outer(mean_x, mean_y)
    for matrix in (xx, yy, xy):
        matrix /= total - 1
    return Moments(mean_x, mean_y, xx, yy, xy)


def row_blocks(rows: Texts) -> Iterator[tuple[slice, Any]]:
    """Yield where a block of rows is, and its float64 rows; a sparse matrix is one block and stays sparse."""
    total = rows.shape[0]
    if isinstance(rows, sparse.csr_array):
        yield slice(0, total), rows.astype(np.float64)
        return
    for a in range(0, total, TEXT_BLOCK):
        where = slice(a, min(a + TEXT_BLOCK, total))
        yield where, rows[where].cpu().double().numpy()


def weighted_sums(weights: sparse.csr_array, rows: Texts) -> Matrix:
    """Sums of n rows (n, D) with several sets of weights: W' X, (U, D), for sparse weights W (n, U)."""
    sums = np.zeros((weights.shape[1], rows.shape[1]))
    for where, X in row_blocks(rows):
        part = weights[where]
        used = np.unique(part.indices)
        product = part[:, used].T @ X
        sums[used] += product.toarray() if isinstance(X, sparse.csr_array) else product
    return sums


def weighted_covariance(rows: Texts, counts: Matrix, weights: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Mean and variance of rows x_i (n, D) that count several times, and their second moment with other weights.

    Args:
        rows: the rows.
        counts: (n,) c_i, how often each row counts.
        weights: (n,) w_i, not negative.

    Returns:
        m (D,), the mean; the variance of each column (D,); and sum_i w_i (x_i - m) (x_i - m)', (D, D).
    """
    D, total = rows.shape[1], counts.sum()
    sums, squares, weighted, moment = np.zeros(D), np.zeros(D), np.zeros(D), np.zeros((D, D))
    for where, X in row_blocks(rows):
        sums += counts[where] @ X
        squares += counts[where] @ (X * X)
        weighted += weights[where] @ X
        if isinstance(X, sparse.csr_array):
            moment += (X.T @ (sparse.diags_array(weights[where]) @ X)).toarray()
        else:
            _add_gram(moment, X * np.sqrt(weights[where])[:, None])
    mean = sums / total
    shift = np.outer(mean, weighted - weights.sum() / 2 * mean)
    return mean, squares / total - mean**2, moment - shift - shift.T


def _add_gram(total: Matrix, rows: Matrix) -> None:
    """Add the Gram matrix rows' rows to a total.

    The upper triangle is computed in tiles; for those on the diagonal numpy uses OpenBLAS's symmetric kernel, which
    crashes at 20,000 columns.
    """
    q = len(total)
    for a in range(0, q, TILE):
        b = min(a + TILE, q)
        total[a:b, a:b] += rows[:, a:b].T @ rows[:, a:b]
        part = rows[:, a:b].T @ rows[:, b:]
        total[a:b, b:] += part
        total[b:, a:b] += part.T


def _sparse_moments(texts: sparse.csr_array) -> tuple[Matrix, Matrix]:
    """Uncentred second moments (q, q) and sums (q,) of the texts."""
    exact = texts.astype(np.float64)
    return (exact.T @ exact).toarray(), exact.T @ np.ones(exact.shape[0])


def spectral_norm(covariance: Matrix) -> float:
    """The largest eigenvalue of a symmetric positive semi-definite matrix (n, n)."""
    n = len(covariance)
    if n <= 64 or not covariance.any():
        return float(np.linalg.eigvalsh(covariance)[-1])
    start = np.random.default_rng(0).standard_normal(n)  # a fixed start vector makes Lanczos deterministic
    return float(scipy.sparse.linalg.eigsh(covariance, k=1, v0=start, return_eigenvectors=False)[0])


@dataclass(frozen=True)
class Whitening:
    """The factorisation C + r I = L L^T; `half` multiplies by L^-1, `back` by L^-T, both from the left."""

    lower: Matrix

    @classmethod
    def of(cls, covariance: Matrix, ridge: float) -> Whitening:
        """Factorise C + r I, for a covariance C (n, n) and a ridge r.

        Raises:
            BadInput: C + r I is not positive definite.
        """
        regular = covariance.copy()
        regular[np.diag_indices_from(regular)] += ridge
        if not np.isfinite(regular).all():
            raise BadInput(f"a covariance of {len(covariance)} dimensions is not finite: prepare the features again")
        # OpenBLAS's Cholesky crashes at 16,000 dimensions, and torch's is faster
        lower, failed = torch.linalg.cholesky_ex(torch.from_numpy(regular))
        if failed:
            raise BadInput(
                f"a covariance of {len(covariance)} dimensions with ridge {ridge:.3g} cannot be inverted (it is not "
                f"positive from direction {int(failed)} on): raise the ridge"
            )
        return cls(lower.numpy())

    def half(self, matrix: Matrix) -> Matrix:
        """Return L^-1 M for a matrix M (n, k)."""
        return np.asarray(scipy.linalg.solve_triangular(self.lower, matrix, lower=True, check_finite=False))

    def back(self, matrix: Matrix) -> Matrix:
        """Return L^-T M for a matrix M (n, k)."""
        return np.asarray(scipy.linalg.solve_triangular(self.lower, matrix, lower=True, trans="T", check_finite=False))


Whitened: TypeAlias = dict[str, tuple[float, Whitening, Matrix]]
"""For each side its ridge, its factorisation and, of the side with more dimensions, L^-1 times the cross-covariance."""


def truncated_svd(matrix: Matrix, rank: int) -> tuple[Matrix, Matrix, Matrix]:
    """Compute the `rank` largest singular triplets from the eigenvectors of the smaller Gram matrix.

    Args:
        matrix: (p, q).
        rank: number of triplets; those below 1e-7 of the largest are dropped, as the Gram matrix cannot resolve them.

    Returns:
        U (p, k), s (k,) in decreasing order, V (q, k), with k <= rank.

    Raises:
        BadInput: the matrix is zero.
    """
    if matrix.shape[0] > matrix.shape[1]:
        V, s, U = truncated_svd(np.ascontiguousarray(matrix.T), rank)
        return U, s, V
    gram = matrix @ matrix.T
    n = len(gram)
    low = max(0, n - rank)
    # a small part of the spectrum is cheaper by index, most of it by divide and conquer
    if n - low <= n // 2:
        values, U = scipy.linalg.eigh(gram, subset_by_index=[low, n - 1], check_finite=False)
    else:
        values, U = np.linalg.eigh(gram)
        values, U = values[low:], U[:, low:]
    s = np.sqrt(np.maximum(values[::-1], 0.0))
    if not s[0] > 0:
        raise BadInput("the two views are uncorrelated: their cross-covariance is zero, so nothing can be learned")
    keep = s > 1e-7 * s[0]
    U, s = np.ascontiguousarray(U[:, ::-1][:, keep]), s[keep]
    return U, s, (matrix.T @ U) / s


def canonical_correlations(
    C: Moments, rx: float, ry: float, rank: int, latest: Whitened | None = None
) -> tuple[Matrix, Matrix, Matrix]:
    """Ridge CCA: Wx (p, k), Wy (q, k) and correlations (k,), k <= rank; the ridges rx and ry are absolute values.

    `latest` keeps what was computed for the next call with the same C.
    """
    latest = {} if latest is None else latest
    larger, other = ("y", "x") if len(C.yy) > len(C.xx) else ("x", "y")
    for side, covariance, cross, ridge in (("x", C.xx, C.xy, rx), ("y", C.yy, C.xy.T, ry)):
        if side not in latest or latest[side][0] != ridge:
            factor = Whitening.of(covariance, ridge)
            latest[side] = ridge, factor, factor.half(cross) if side == larger else cross
    Lx, Ly = latest["x"][1], latest["y"][1]
    T = latest[other][1].half(latest[larger][2].T)
    U, R, V = truncated_svd(T if other == "x" else T.T, rank)
    return Lx.back(U), Ly.back(V), R


def cross_factors(C: Moments, text_std_power: float, rank: int) -> tuple[Matrix, Matrix, Matrix]:
    """CFA: A (p, k), B (q, k) and the singular values (k,) of the cross-covariance, k <= rank.

    Columns of the text view are divided by this power of their standard deviation, or of a thousandth of the largest.
    """
    deviation = np.sqrt(np.diag(C.yy))
    scale = np.maximum(deviation, 1e-3 * deviation.max() or 1.0) ** -text_std_power
    A, S, B = truncated_svd(C.xy * scale, rank)
    return A, scale[:, None] * B, S
