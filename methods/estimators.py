"""CCA, CFA and KCCA as scikit-learn estimators on two arrays, with the closed forms of the methods of the same name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn import base, utils  # type: ignore[import-untyped]
from sklearn.utils.validation import check_array, check_is_fitted, validate_data  # type: ignore[import-untyped]
from torch import Tensor

from cran_bench import BadInput, did_you_mean
from cran_bench.toolbox import kernels
from cran_bench.toolbox.linalg import Matrix, Moments, canonical_correlations, cross_factors, moments, spectral_norm

SecondView: TypeAlias = "ArrayLike | sparse.sparray | sparse.spmatrix"
Solution: TypeAlias = "tuple[Matrix, Matrix, Matrix]"  # Wx (p, k), Wy (q, k), spectrum (k,)
Solver: TypeAlias = Literal["exact"] | kernels.Approximation

ANY, NOT_NEGATIVE = {"target_type": Real}, {"target_type": Real, "min_val": 0}
POSITIVE = NOT_NEGATIVE | {"include_boundaries": "neither"}


class TwoViews(base.ClassNamePrefixFeaturesOutMixin, base.TransformerMixin, base.BaseEstimator):  # type: ignore[misc]
    """Base class of `CCA`, `CFA` and `KCCA`, which project paired rows of two views, each by its own matrix.

    Views are arrays, tensors, data frames or lists; the second may be sparse.  Projections are computed in
    float64, and kernels in the type of their view; the result has the type of the view.

    Attributes:
        x_weights_: (p, k) projection of X - x_mean_; its columns are weighted by the spectrum to `power`.
        y_weights_: (q, k) projection of y - y_mean_, with the same weighting.
        x_mean_: (p,) mean of X.
        y_mean_: (q,) mean of y.
        n_components_: number of dimensions k.
        n_features_in_: number of columns of X.
        n_features_y_: number of columns of y.
    """

    n_components: int | None
    power: float
    columns_: tuple[kernels.Columns | None, kernels.Columns | None] = (None, None)
    _limits: ClassVar[dict[str, dict[str, Any]]] = {}

    def fit(self, X: ArrayLike, y: SecondView) -> Self:
        """Fit the projections of both views.

        Consecutive equal rows of X (an image with several texts) are processed once, as in the suite.

        Args:
            X: (n, p) first view.
            y: (n, q) second view, its row i paired with row i of X; (n,) is one column.

        Raises:
            ValueError: a parameter is out of range, the views are not finite or differ in their number of rows, or
                there is no solution: a covariance needs a larger ridge, or the views are uncorrelated.
        """
        for name, limits in self._limits.items():
            utils.check_scalar(getattr(self, name), name, **limits)
        if self.n_components is not None:
            utils.check_scalar(self.n_components, "n_components", Integral, min_val=1)
        images, texts = self._validated(X, y, is_fit=True, least=2)
        utils.check_consistent_length(images, texts)
        is_new = np.append(True, (images[1:] != images[:-1]).any(axis=1))
        image_of = torch.from_numpy(is_new.cumsum() - 1)
        try:
            kernels.require_varied("values of X", torch.from_numpy(images))
            kernels.require_varied("values of y", _rows(texts))
            Wx, Wy, spectrum = self._solve(torch.from_numpy(images[is_new]), _rows(texts), image_of)
        except BadInput as error:
            raise ValueError(str(error)) from error
        weight = (spectrum / spectrum[0]) ** self.power
        self.x_weights_, self.y_weights_ = Wx * weight, Wy * weight
        self.n_components_ = self._n_features_out = len(spectrum)
        self.n_features_y_ = texts.shape[1]
        return self

    def transform(self, X: ArrayLike | None, y: SecondView | None = None) -> Any:
        """Project one view, or both; they may differ in their number of rows, as images and their texts do.

        Args:
            X: (n, p) first view; None to project y only.
            y: (m, q) second view; None to project X only.

        Returns:
            (n, k) for X, (m, k) for y, or a tuple of both.
        """
        check_is_fitted(self)
        scores = tuple(self._projected(*self._validated(X, y)))
        return scores if len(scores) == 2 else scores[0]

    def fit_transform(self, X: ArrayLike, y: SecondView) -> Any:
        """Fit and project the same pairs; return (n, k) for X and (n, k) for y."""
        return self.fit(X, y).transform(X, y)

    def score(self, X: ArrayLike, y: SecondView) -> float:
        """The correlation between the projections of the given pairs, averaged over dimensions; higher is better.

        On held-out pairs it can select ridges, widths and kernels (`GridSearchCV`), but not `n_components`, because the
        first dimensions correlate best.  A constant dimension counts as 0.

        Args:
            X: (n, p) first view.
            y: (n, q) second view.
        """
        check_is_fitted(self)
        views = self._validated(X, y, least=2)
        utils.check_consistent_length(*views)
        a, b = (
            (scores - scores.mean(axis=0, dtype=np.float64))
            * (np.ptp(scores, axis=0) > 1e-6 * np.abs(scores).max(axis=0))
            for scores in self._projected(*views)
        )
        scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
        return float(np.divide((a * b).sum(axis=0), scale, out=np.zeros_like(scale), where=scale > 0).mean())

    def _solve(self, images: Tensor, texts: kernels.Block, image_of: Tensor) -> Solution:
        raise NotImplementedError

    @property
    def _rank(self) -> int:
        return self.n_components or sys.maxsize

    def _moments(self, images: Tensor, texts: kernels.Block, image_of: Tensor) -> Moments:
        first, second = self.columns_
        blocks = kernels.dense_blocks(images, images.device)
        C = moments(
            (first(block) if first else block for block in blocks),
            kernels.Mapped(texts, second) if second else texts,
            image_of,
        )
        self.x_mean_, self.y_mean_ = C.mean_x, C.mean_y
        return C

    def _projected(self, X: Any, y: Any) -> Iterator[NDArray[Any]]:
        weights = (self.x_mean_, self.x_weights_), (self.y_mean_, self.y_weights_)
        for view, columns, (mean, W) in zip((X, y), self.columns_, weights, strict=True):
            if view is None:
                continue
            rows = _rows(view)
            if isinstance(rows, sparse.csr_array) and columns is None:
                scores = rows @ W - mean @ W  # stays sparse
            else:
                blocks = (rows[a : a + kernels.BLOCK] for a in range(0, rows.shape[0], kernels.BLOCK))
                values = (kernels.dense(columns(block) if columns else block) for block in blocks)
                scores = np.concatenate([(block.double().numpy() - mean) @ W for block in values])
            yield scores.astype(view.dtype)

    def _validated(self, X: Any, y: Any, is_fit: bool = False, least: int = 1) -> tuple[Any, Any]:
        """Both views as floating-point matrices; one may be None if `least` is 1."""
        X, y = (view.numpy(force=True) if isinstance(view, Tensor) else view for view in (X, y))
        tags = utils.get_tags(self)
        both = {"dtype": (np.float64, np.float32), "order": "C", "force_writeable": True, "ensure_min_samples": least}
        first = {**both, "ensure_non_negative": tags.input_tags.positive_only}
        second = {
            **both,
            "ensure_non_negative": tags.target_tags.positive_only,
            "ensure_2d": False,
            "accept_sparse": "csr",
        }
        if y is None and least == 1:
            return validate_data(self, X, reset=False, **first), None
        if X is None and least == 1:
            y = check_array(y, input_name="y", **second)
        else:
            X, y = validate_data(self, X, y, reset=is_fit, validate_separately=(first, second))
        y = y.reshape(-1, 1) if y.ndim == 1 else y
        if not is_fit and y.shape[1] != self.n_features_y_:
            expected = f"{type(self).__name__} is expecting {self.n_features_y_} features as input"
            raise ValueError(f"y has {y.shape[1]} features, but {expected}")
        return X, y

    def __sklearn_tags__(self) -> utils.Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = tags.target_tags.multi_output = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


@dataclass(eq=False, repr=False)
class CCA(TwoViews):
    """Canonical correlation analysis with ridges (H. Hotelling, Biometrika 1936), as the method `cca`.

        max  w' Cxy v   subject to   w' (Cxx + rx I) w = v' (Cyy + ry I) v = 1

    Args:
        n_components: largest number of dimensions; None for the rank.
        ridge_x: rx as a fraction of the largest variance of X; 0 for CCA without ridge.
        ridge_y: ry as a fraction of the largest variance of y.
        power: exponent of the correlations that weights the dimensions: 0 for none, 1 as in Klein et al. 2015.

    Attributes:
        correlations_: (k,) canonical correlations, decreasing; the other attributes are those of `TwoViews`.

    Example:
        >>> import numpy as np
        >>> from cran_bench.methods.estimators import CCA
        >>> random = np.random.default_rng(0)
        >>> shared = random.normal(size=(200, 2))
        >>> X, Y = (np.hstack([shared @ random.normal(size=(2, 2)), random.normal(size=(200, 3))]) for _ in "xy")
        >>> cca = CCA(n_components=2, ridge_x=0, ridge_y=0).fit(X, Y)
        >>> cca.correlations_.round(3)
        array([1., 1.])
        >>> images, texts = cca.transform(X, Y)
        >>> images.shape, texts.shape, round(cca.score(X, Y), 3)
        ((200, 2), (200, 2), 1.0)
    """

    n_components: int | None = None
    _: KW_ONLY
    ridge_x: float = 1e-3
    ridge_y: float = 1e-3
    power: float = 0.0
    _limits: ClassVar = {"ridge_x": NOT_NEGATIVE, "ridge_y": NOT_NEGATIVE, "power": ANY}

    def _solve(self, images: Tensor, texts: kernels.Block, image_of: Tensor) -> Solution:
        solution = _ridge_cca(self._moments(images, texts, image_of), self.ridge_x, self.ridge_y, self._rank)
        self.correlations_ = solution[2]
        return solution


@dataclass(eq=False, repr=False)
class CFA(TwoViews):
    """Cross-modal factor analysis (Li, Dimitrova, Li, Sethi, ACM Multimedia 2003), as the method `cfa`.

        max  tr(A' Cxy B)   subject to   A' A = B' B = I

    Args:
        n_components: largest number of dimensions; None for the rank.
        y_std_power: columns of y are divided by this power of their standard deviation; 0 for none, 1 to standardise.
        power: exponent of the singular values that weights the dimensions; 0 for none.

    Attributes:
        singular_values_: (k,) of the cross-covariance, decreasing; the other attributes are those of `TwoViews`.

    Example:
        >>> import numpy as np
        >>> from cran_bench.methods.estimators import CFA
        >>> X = np.random.default_rng(0).normal(size=(200, 3)) * [3, 2, 1]
        >>> images, texts = CFA(n_components=2).fit_transform(X, X[:, ::-1])
        >>> bool(np.allclose(images, texts))
        True
    """

    n_components: int | None = None
    _: KW_ONLY
    y_std_power: float = 0.0
    power: float = 0.0
    _limits: ClassVar = {"y_std_power": ANY, "power": ANY}

    def _solve(self, images: Tensor, texts: kernels.Block, image_of: Tensor) -> Solution:
        solution = cross_factors(self._moments(images, texts, image_of), self.y_std_power, self._rank)
        self.singular_values_ = solution[2]
        return solution


@dataclass(eq=False, repr=False)
class KCCA(TwoViews):
    """Kernel canonical correlation analysis (Hardoon, Szedmak, Shawe-Taylor, Neural Computation 2004), as `kcca`.

        max  a' Kx Ky b   subject to   a' (Kx^2 + kx Kx) a = b' (Ky^2 + ky Ky) b = 1

    over centred kernels.  The exact solver stores several n x n matrices: use another beyond a few thousand pairs.

    Args:
        n_components: largest number of dimensions; None for the rank.
        kernel_x: linear, rbf, chi2 or intersection; the last two need non-negative features.
        kernel_y: kernel of the second view.
        width_x: width of rbf and chi2, as a multiple of that by the median heuristic.
        width_y: width for the second view.
        ridge_x: kx / (n - 1) as a fraction of the largest variance in the kernel of X.
        ridge_y: ky / (n - 1) as a fraction of the largest variance in the kernel of y.
        power: exponent of the correlations that weights the dimensions; 0 for none.
        solver: `exact`, or ridge CCA on kernels with pivots (`cholesky`) or landmarks (`nystrom`) or on random
            features (`fourier`, for rbf); these use the features themselves if the kernel is linear.
        columns: largest number of pivots, landmarks or random features of each view.
        tol: share of the trace of the kernel at which `cholesky` stops.
        random_state: seed of the landmarks, random features, and rows for the median heuristic.

    Attributes:
        correlations_: (k,) canonical correlations, decreasing; the other attributes are those of `TwoViews`, with p = q
            = n kernel values for the exact solver, otherwise the numbers of columns.

    Example:
        >>> import numpy as np
        >>> from cran_bench.methods.estimators import KCCA
        >>> x = np.random.default_rng(0).uniform(-1, 1, size=(200, 1))
        >>> kcca = KCCA(n_components=1, ridge_x=1e-4, ridge_y=1e-4).fit(x[:100], x[:100] ** 2)
        >>> kcca.score(x[100:], x[100:] ** 2) > 0.99
        True
    """

    n_components: int | None = None
    _: KW_ONLY
    kernel_x: kernels.Name = "rbf"
    kernel_y: kernels.Name = "rbf"
    width_x: float = 1.0
    width_y: float = 1.0
    ridge_x: float = 1e-2
    ridge_y: float = 1e-2
    power: float = 0.0
    solver: Solver = "exact"
    columns: int = 1000
    tol: float = 0.01
    random_state: int | np.random.RandomState | None = 0
    _limits: ClassVar = {
        **dict.fromkeys(("width_x", "width_y", "ridge_x", "ridge_y"), POSITIVE),
        "power": ANY,
        "columns": {"target_type": Integral, "min_val": 2},
        "tol": NOT_NEGATIVE | {"max_val": 1, "include_boundaries": "left"},
    }

    def _solve(self, images: Tensor, texts: kernels.Block, image_of: Tensor) -> Solution:
        names, solvers = get_args(kernels.Name), ("exact", *get_args(kernels.Approximation))
        for name, known in (("kernel_x", names), ("kernel_y", names), ("solver", solvers)):
            if (value := getattr(self, name)) not in known:
                raise BadInput(f"{name} is {value!r}{did_you_mean(str(value), known)}")
        state, is_exact = self.random_state, self.solver == "exact"
        seed = state if isinstance(state, Integral) else utils.check_random_state(state).randint(2**31 - 1)
        if is_exact:
            images, texts = images[image_of], kernels.dense(texts)
        first, Mx = self._side(images, self.kernel_x, self.width_x, seed)
        second, My = self._side(texts, self.kernel_y, self.width_y, seed)
        self.columns_ = first, second
        if is_exact:
            self.x_mean_, self.y_mean_ = Mx.mean(axis=0), My.mean(axis=0)
            spectra = kernels.centred_spectrum(Mx), kernels.centred_spectrum(My)
            solution = kernels.dual_correlations(*spectra, self.ridge_x, self.ridge_y, self._rank)
        else:
            C = self._moments(images, texts, image_of).mapped(Mx, My)
            Wx, Wy, rho = _ridge_cca(C, self.ridge_x, self.ridge_y, self._rank)
            solution = Wx if Mx is None else Mx @ Wx, Wy if My is None else My @ Wy, rho
        self.correlations_ = solution[2]
        return solution

    def _side(self, rows: kernels.Block, name: kernels.Name, width: float, seed: int) -> tuple[Any, Any]:
        """The columns of a view, with their kernel (exact) or the matrix W."""
        if self.solver != "exact" and name == "linear":
            return None, None
        kernel = kernels.Kernel.fitted(name, rows, width, seed)
        if self.solver != "exact":
            return kernels.approximate(kernel, rows, self.solver, self.columns, seed, self.tol)
        columns = kernels.Landmarks(kernel, kernels.dense(rows))
        return columns, columns(rows).double().numpy()

    def __sklearn_tags__(self) -> utils.Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = self.kernel_x in ("chi2", "intersection")
        tags.target_tags.positive_only = self.kernel_y in ("chi2", "intersection")
        return tags


def _ridge_cca(C: Moments, ridge_x: float, ridge_y: float, rank: int) -> Solution:
    return canonical_correlations(C, ridge_x * spectral_norm(C.xx), ridge_y * spectral_norm(C.yy), rank)


def _rows(view: Any) -> kernels.Block:
    return torch.from_numpy(view) if isinstance(view, np.ndarray) else sparse.csr_array(view)
