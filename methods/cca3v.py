"""Three-view CCA: images, texts and categories in one space.

    min  sum_{i<j} ||V_i W_i - V_j W_j||^2   subject to   W_i' (S_ii + r_i I) W_i summed over views = I

for the views V_1 = X, V_2 = Y and V_3 = Z, the categories as 0 and 1.  Y. Gong, Q. Ke, M. Isard, S. Lazebnik, "A
multi-view embedding space for modeling internet images, tags, and their semantics", IJCV 2014.  With S_ij the
covariances, the solution w = [w_1; w_2; w_3] satisfies

    (S + R) w = lambda (D + R) w,   D = blockdiag(S_11, S_22, S_33),   R = blockdiag(r_1 I, r_2 I, r_3 I)

With S_ii + r_i I = L_i L_i', it follows from the eigenvectors u of the matrix with blocks L_i^-1 S_ij L_j^-T and I on
the diagonal: w_i = L_i^-T u_i.  The eigenvalues lie between 0 and 3; those of two views alone would be 1 + rho.
Where lambda < 1, the views are correlated negatively, and such directions are never kept.  Projections are weighted by
a power of lambda and compared by cosine; categories are not needed to embed.

With C categories, at most C - 1 directions tell them apart, and the others are those of plain CCA.  The power decides
between the two: on Wikipedia, unweighted directions lose a fifth of the mean average precision.

Memory: the covariances and the joint matrix in float64, at most 32 (p + q + C)^2 bytes; the data is read in blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from cran_bench import BadInput, Run, Split, register
from cran_bench.toolbox.linalg import Matrix, Whitening, spectral_norm

from ._labelled import Labelled

CODE = {
    "image": "none",
    "text_scaling": "none",
    "ridge": (1e-4,),
    "absolute": True,
    "dim": (10,),
    "power": (4.0,),
}


def joint_correlations(
    S: Sequence[Sequence[Matrix]], ridges: Sequence[float], rank: int
) -> tuple[list[Matrix], Matrix]:
    """Solve (S + R) w = lambda (D + R) w for the largest lambda above 1.

    Args:
        S: S[i][j] is the covariance (p_i, p_j) of views i and j, for j <= i.
        ridges: r_i, absolute.
        rank: largest number k of directions.

    Returns:
        W_i (p_i, k) of each view and lambda (k,) in decreasing order.
    """
    whiten = [Whitening.of(row[i], ridge) for i, (row, ridge) in enumerate(zip(S, ridges, strict=True))]
    ends = np.cumsum([len(row[0]) for row in S])
    views = [slice(end - len(row[0]), end) for end, row in zip(ends, S, strict=True)]
    n = int(ends[-1])
    joint = np.eye(n)
    for i, row in enumerate(S):
        for j in range(i):
            joint[views[i], views[j]] = whiten[j].half(whiten[i].half(row[j]).T).T
    top = [max(0, n - rank), n - 1]
    values, U = scipy.linalg.eigh(joint, subset_by_index=top, overwrite_a=True, check_finite=False)
    kept = np.flatnonzero(values > 1 + 1e-9)[::-1]
    return [L.back(U[view][:, kept]) for L, view in zip(whiten, views, strict=True)], values[kept]


@register(
    "cca3v",
    presets={"paper": {"power": (4.0,)}, "code": CODE, "tuned": {}},
    search={
        "standardize": (False, True),
        "image": ("sqrt", "l2", "none"),
        "text": ("tfidf", "bow", "vectors"),
        "vocabulary": (1500, 3000),
    },
)
@dataclass
class CCA3V(Labelled):
    """CCA of images, texts and categories.

    Attributes:
        ridge: r_i as a fraction of the largest variance of view i.
        absolute: whether `ridge` is r_i itself, the same for all views.
        dim: dimensions kept, at most the number of eigenvalues above 1.
        power: each dimension is weighted by its eigenvalue to this power; 0 for equal weights.
    """

    standardize: bool = False
    ridge: tuple[float, ...] = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
    absolute: bool = False
    dim: tuple[int, ...] = (10, 20, 64, 128, 256)
    power: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0)

    refits = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.ridge) <= 0:
            raise ValueError(
                f"ridge is above 0, not {min(self.ridge):g}: categories of which each image has one sum to 1, and "
                "their covariance cannot be inverted"
            )

    def memory(self, train: Split) -> int:
        """Bytes of the covariances and of the joint matrix with its copies."""
        categories = train.categories(self.labels).shape[1]
        n = train.image_dim + self.text_dim(train) + categories
        return super().memory(train) + 8 * n * (2 * n + 3 * max(self.dim))

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Compute the covariances of all pairs once, then one decomposition for each ridge."""
        self.begin(run)
        rows = self.labelled(train, run)
        categories = rows.of_images.shape[1]
        C, s_x, s_y = self.standardized(self.joint_moments(rows, run), len(rows.split.texts), categories)
        q = len(s_y) - categories
        S = [[C.xx], [C.xy[:, :q].T, C.yy[:q, :q]], [C.xy[:, q:].T, C.yy[q:, :q], C.yy[q:, q:]]]
        scales = [1.0 if self.absolute else spectral_norm(row[-1]) for row in S]
        for ridge in run.progress(self.ridge, "ridges", len(self.ridge)):
            W, spectrum = joint_correlations(S, [ridge * scale for scale in scales], max(self.dim))
            if not len(spectrum):
                raise BadInput("images, texts and categories are uncorrelated, so nothing can be learned: check them")
            self.offer(val, run, W[0] / s_x[:, None], W[1] / s_y[:q, None], spectrum, ridge=ridge)
