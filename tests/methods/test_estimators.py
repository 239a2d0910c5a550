"""The scikit-learn estimators against the suite's rows, scikit-learn and scipy, and under scikit-learn's own checks."""

import doctest

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.cross_decomposition import CCA as SklearnCCA
from sklearn.cross_decomposition import PLSSVD
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from cran_bench.methods import estimators
from cran_bench.methods.estimators import CCA, CFA, KCCA
from cran_bench.ranking.rank import rank
from cran_bench.registry import METHODS
from cran_bench.similarity import COSINE

PLAIN_CCA = {"ridge_x": 0, "ridge_y": 0}
PAPER_KCCA = {"n_components": 512, "ridge_x": 1e-3, "ridge_y": 1e-3}
ALL = [CCA(), CFA(), KCCA()]


def views(n=200, p=6, q=5, shared=3, seed=0):
    random = np.random.default_rng(seed)
    z = random.normal(size=(n, shared)) * np.linspace(2, 0.7, shared)
    X = z @ random.normal(size=(shared, p)) + random.normal(size=(n, p)) + 1
    Y = z @ random.normal(size=(shared, q)) + random.normal(size=(n, q)) - 2
    return X, Y


# the suite's rows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "estimator"),
    [
        ("cca:paper", CCA(4096, ridge_x=1e-8, ridge_y=1e-8)),
        ("cca[ridge_image=1e-3,ridge_text=1e-2,dim=5,power=1]", CCA(5, ridge_x=1e-3, ridge_y=1e-2, power=1)),
        ("cca[ridge_image=0.1,ridge_text=1e-2,dim=9,power=0,text=vectors]", CCA(9, ridge_x=0.1, ridge_y=1e-2)),
        ("cfa:paper", CFA(300)),
        ("cfa[dim=6,power=-0.25,text_std_power=0.5]", CFA(6, y_std_power=0.5, power=-0.25)),
        ("kcca:paper", KCCA(**PAPER_KCCA, solver="cholesky", columns=3000)),
        (
            "kcca:paper[solver=exact,dim=8,power=1,width_text=0.5]",
            KCCA(8, width_y=0.5, ridge_x=1e-3, ridge_y=1e-3, power=1),
        ),
        (
            "kcca:paper[solver=nystrom,columns=40,width_image=2,kernel_text=linear]",
            KCCA(**PAPER_KCCA, solver="nystrom", columns=40, width_x=2, kernel_y="linear"),
        ),
        ("kcca:paper[solver=fourier,columns=40]", KCCA(**PAPER_KCCA, solver="fourier", columns=40)),
        (
            "kcca:paper[kernel_image=linear,kernel_text=intersection,text=bow,tolerance=0.1]",
            KCCA(**PAPER_KCCA, kernel_x="linear", kernel_y="intersection", solver="cholesky", columns=3000, tol=0.1),
        ),
    ],
)
def test_equal_to_the_row_of_the_suite(spec, estimator, tiny, run_on):
    method = METHODS.configure(spec).build()
    method.fit(tiny.train, tiny.val, run_on(tiny.val, COSINE))
    images, texts = method.image_rows(tiny.train)[:], method.text_features(tiny.train)
    estimator = clone(estimator).fit(images[tiny.train.image_of], texts)

    spectrum = estimator.singular_values_ if isinstance(estimator, CFA) else estimator.correlations_
    for ours, theirs in (
        (estimator.x_weights_, method.Wx),
        (estimator.y_weights_, method.Wy),
        (estimator.x_mean_, method.mean_x),
        (estimator.y_mean_, method.mean_y),
        (spectrum, method.spectrum[: len(spectrum)]),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10 * float(theirs.abs().max()))

    images, texts = estimator.transform(method.image_rows(tiny.test)[:], method.text_features(tiny.test))
    ours, theirs = (images, texts), (method.embed_images(tiny.test), method.embed_texts(tiny.test))
    for view, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_max_ulp(view, other.numpy(), maxulp=1)  # rounded to float32 after the same float64
    ours, theirs = (rank(*map(torch.as_tensor, both), tiny.test.image_of, COSINE).metrics() for both in (ours, theirs))  # type: ignore[call-arg]
    assert ours == theirs


# oracles ----------------------------------------------------------------------------------------------------------


def test_cca_agrees_with_scikit_learn_and_scipy():
    X, Y = views()
    ours = CCA(**PLAIN_CCA).fit(X, Y)
    theirs = SklearnCCA(n_components=5, scale=False, max_iter=100_000, tol=1e-14).fit(X, Y)
    for a, b in zip(ours.transform(X, Y), theirs.transform(X, Y), strict=True):
        np.testing.assert_allclose(np.abs(np.corrcoef(a.T, b.T)[:5, 5:].diagonal()), 1, atol=1e-6)
    angles = scipy.linalg.subspace_angles(X - X.mean(axis=0), Y - Y.mean(axis=0))
    np.testing.assert_allclose(ours.correlations_, np.cos(angles[::-1]), atol=1e-12)
    scores = [np.corrcoef(a, b)[0, 1] for a, b in zip(*(view.T for view in theirs.transform(X, Y)), strict=True)]
    np.testing.assert_allclose(ours.correlations_, scores, atol=1e-6)
    assert ours.score(X, Y) == pytest.approx(ours.correlations_.mean(), abs=1e-12)


def test_ridge_cca_solves_its_eigenproblem():
    X, Y = views()
    C = np.cov(X.T, Y.T)
    for part, ridge in ((slice(6), 0.02), (slice(6, None), 0.1)):
        C[part, part] += ridge * scipy.linalg.eigvalsh(C[part, part])[-1] * np.eye(len(C[part, part]))
    values = scipy.linalg.eigh(C, scipy.linalg.block_diag(C[:6, :6], C[6:, 6:]), eigvals_only=True)
    ours = CCA(ridge_x=0.02, ridge_y=0.1).fit(X, Y)
    np.testing.assert_allclose(ours.correlations_, values[::-1][:5] - 1, atol=1e-12)
    np.testing.assert_allclose(ours.x_weights_.T @ C[:6, :6] @ ours.x_weights_, np.eye(5), atol=1e-12)


def test_cfa_agrees_with_scikit_learn_and_scipy():
    X, Y = views()
    ours, theirs = CFA(3).fit(X, Y), PLSSVD(n_components=3, scale=False).fit(X, Y)
    for a, b in zip(ours.transform(X, Y), theirs.transform(X, Y), strict=True):
        np.testing.assert_allclose(np.abs(a), np.abs(b), atol=1e-8)
    cross = np.cov(X.T, Y.T)[:6, 6:]
    np.testing.assert_allclose(ours.singular_values_, scipy.linalg.svdvals(cross)[:3], atol=1e-10)
    scaled = CFA(y_std_power=1.0).fit(X, Y)
    expected = scipy.linalg.svdvals(cross / Y.std(axis=0, ddof=1))
    np.testing.assert_allclose(scaled.singular_values_, expected, atol=1e-10)


@pytest.mark.parametrize("solver", ["exact", "nystrom", "cholesky"])
def test_kcca_with_linear_kernels_is_ridge_cca(solver):
    X, Y = views(60)
    kernel = KCCA(kernel_x="linear", kernel_y="linear", ridge_x=0.02, ridge_y=0.1, solver=solver).fit(X, Y)
    plain = CCA(ridge_x=0.02, ridge_y=0.1).fit(X, Y)
    np.testing.assert_allclose(kernel.correlations_, plain.correlations_, rtol=1e-8)
    for a, b in zip(kernel.transform(X, Y), plain.transform(X, Y), strict=True):
        np.testing.assert_allclose(np.abs(np.corrcoef(a.T, b.T)[:5, 5:].diagonal()), 1, atol=1e-8)


@pytest.mark.parametrize("kernels", [("rbf", "rbf"), ("chi2", "intersection")])
def test_kcca_with_every_row_as_a_column_is_exact(kernels):
    X, Y = map(abs, views(60))
    exact, pivots = (
        KCCA(5, kernel_x=kernels[0], kernel_y=kernels[1], **options).fit(X, Y)
        for options in ({}, {"solver": "cholesky", "tol": 0.0})
    )
    np.testing.assert_allclose(pivots.correlations_, exact.correlations_, rtol=1e-6)


@pytest.mark.parametrize("estimator", ALL, ids=str)
def test_repeated_images_count_for_each_of_their_texts_in_any_order(estimator):
    X, Y = views(60)
    X = X[np.repeat(np.arange(20), 3)]
    order = np.random.default_rng(1).permutation(60)
    one, other = clone(estimator).fit(X, Y), clone(estimator).fit(X[order], Y[order])
    for a, b in zip(one.transform(X, Y), other.transform(X, Y), strict=True):
        np.testing.assert_allclose(np.abs(a)[:, :3], np.abs(b)[:, :3], atol=1e-6)


# conventions ------------------------------------------------------------------------------------------------------

BOTH = "scikit-learn compares fit_transform, which gives both views, with transform of both for its own names only"
BY_NAME = {"check_transformer_general": BOTH, "check_transformer_data_not_an_array": BOTH}
CHECKED = [
    *ALL,
    CFA(y_std_power=0.5),
    KCCA(solver="nystrom"),
    KCCA(solver="cholesky", kernel_y="linear"),
    KCCA(solver="fourier", columns=50),
    KCCA(kernel_x="chi2", kernel_y="intersection"),
]


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        case
        for estimator in CHECKED
        for case in estimator_checks_generator(
            estimator, expected_failed_checks={} if isinstance(estimator, CCA) else BY_NAME, mark="xfail"
        )
    ],
    ids=lambda value: value.func.__name__ if hasattr(value, "func") else str(value),
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", CHECKED, ids=str)
def test_scikit_learns_checks_of_cross_decomposition(estimator):
    checks = [check for _, check in estimator_checks_generator(estimator) if check.func.__name__ in BY_NAME]
    assert len(checks) == 3
    for check in checks:
        check.func("CCA", estimator, **check.keywords)


@pytest.mark.parametrize("estimator", ALL, ids=str)
def test_views_of_many_types(estimator):
    X, Y = views()
    expected = clone(estimator).fit(X, Y).transform(X, Y)
    frame = pd.DataFrame(X, columns=list("abcdef"))
    for first, second in (
        (torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y)),
        (X.tolist(), Y.tolist()),
        (X[:, ::-1][:, ::-1], np.asfortranarray(Y)),
        (frame, sparse.csc_matrix(Y)),
        (X, sparse.coo_array(Y)),
    ):
        fitted = clone(estimator).fit(first, second)
        for a, b in zip(fitted.transform(first, second), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-8)
    single = clone(estimator).fit(torch.from_numpy(X).float(), Y)
    assert [scores.dtype for scores in single.transform(X.astype(np.float32), Y)] == [np.float32, np.float64]
    assert single.transform(torch.from_numpy(X).float()).dtype == np.float32
    column = clone(estimator).set_params(n_components=1).fit(X, Y[:, 0])
    np.testing.assert_array_equal(column.transform(None, Y[:, 0]), column.transform(None, Y[:, :1]))


@pytest.mark.parametrize("estimator", ALL, ids=str)
def test_one_view_or_both(estimator):
    X, Y = views()
    fitted = clone(estimator).set_params(n_components=2)
    both = fitted.fit_transform(X, Y)
    np.testing.assert_array_equal(fitted.transform(X), both[0])
    np.testing.assert_array_equal(fitted.transform(None, Y), both[1])
    a, b = fitted.transform(X[:7], Y[:9])  # images and their texts, as one ranks them
    assert (a.shape, b.shape) == ((7, 2), (9, 2))
    assert (fitted.n_components_, fitted.n_features_in_, fitted.n_features_y_) == (2, 6, 5)


def test_output_as_data_frames():
    X, Y = views()
    frame = pd.DataFrame(X, columns=list("abcdef"), index=np.arange(200) + 7)
    cca = CCA(2).set_output(transform="pandas").fit(frame, Y)
    assert list(cca.get_feature_names_out()) == list(cca.transform(frame).columns) == ["cca0", "cca1"]
    assert list(cca.transform(frame).index) == list(frame.index)
    assert cca.score(frame, Y) > 0.5
    with pytest.raises(ValueError, match="feature names should match"):
        cca.transform(frame.rename(columns={"a": "z"}))


def test_dimensions_are_at_most_the_rank():
    X, Y = views()
    assert CCA().fit(X, Y).n_components_ == CCA(1000).fit(X, Y).n_components_ == 5
    few = CCA(2).fit(X, Y)
    assert few.x_weights_.shape == (6, 2) and few.correlations_.shape == (2,)


def test_power_weights_the_dimensions():
    X, Y = views()
    for plain, weighted in ((CCA(), CCA(power=1.5)), (CFA(), CFA(power=1.5)), (KCCA(4), KCCA(4, power=1.5))):
        plain, weighted = plain.fit(X, Y), weighted.fit(X, Y)
        spectrum = plain.singular_values_ if isinstance(plain, CFA) else plain.correlations_
        np.testing.assert_allclose(weighted.y_weights_, plain.y_weights_ * (spectrum / spectrum[0]) ** 1.5)
        assert weighted.score(X, Y) == pytest.approx(plain.score(X, Y))


def test_score_is_the_mean_correlation_of_pairs():
    X, Y = views(400)
    for estimator in ALL:
        fitted = clone(estimator).set_params(n_components=3).fit(X[:200], Y[:200])
        a, b = fitted.transform(X[200:], Y[200:])
        expected = np.mean([np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(3)])
        assert fitted.score(X[200:], Y[200:]) == pytest.approx(expected)
        assert fitted.score(X[200:], Y[200:][::-1]) < expected / 2
    assert fitted.score(np.ones((5, 6)), Y[:5]) == 0.0


def test_search_and_pipelines():
    X, Y = views(60, p=30, q=30)
    search = GridSearchCV(CCA(2), {"ridge_x": [1e-9, 0.1], "ridge_y": [1e-9, 0.1]}, cv=3).fit(X, Y)
    assert search.best_params_ == {"ridge_x": 0.1, "ridge_y": 0.1}
    piped = make_pipeline(StandardScaler(), CFA(2)).fit(X, Y)
    scaled = StandardScaler().fit_transform(X)
    assert piped.score(X, Y) == pytest.approx(CFA(2).fit(scaled, Y).score(scaled, Y))


def test_landmarks_are_drawn_by_random_state():
    X, Y = views()

    def fit(state):
        return KCCA(2, solver="nystrom", columns=20, random_state=state).fit(X, Y).correlations_

    np.testing.assert_array_equal(fit(3), fit(3))
    np.testing.assert_array_equal(fit(np.random.RandomState(3)), fit(np.random.RandomState(3)))
    assert not np.array_equal(fit(3), fit(4))
    assert not np.array_equal(fit(None), fit(None))


@pytest.mark.parametrize(
    ("estimator", "error", "message"),
    [
        (CCA(0), ValueError, "n_components == 0, must be >= 1"),
        (CCA(2.5), TypeError, "n_components must be an instance of int, not float"),
        (CCA(ridge_x=-1), ValueError, "ridge_x == -1, must be >= 0"),
        (CCA(power="high"), TypeError, "power must be an instance of float, not str"),
        (CFA(y_std_power=None), TypeError, "y_std_power must be an instance of float"),
        (KCCA(ridge_y=0), ValueError, "ridge_y == 0, must be > 0"),
        (KCCA(width_x=0), ValueError, "width_x == 0, must be > 0"),
        (KCCA(columns=1), ValueError, "columns == 1, must be >= 2"),
        (KCCA(tol=1), ValueError, "tol == 1, must be < 1"),
        (KCCA(kernel_x="rbg"), ValueError, "kernel_x is 'rbg'; did you mean 'rbf'"),
        (KCCA(solver="fast"), ValueError, "solver is 'fast'; known: cholesky, exact, fourier, nystrom"),
        (KCCA(solver="fourier", kernel_x="intersection"), ValueError, "random Fourier features need the kernel rbf"),
    ],
    ids=str,
)
def test_parameters_out_of_range(estimator, error, message):
    with pytest.raises(error, match=message):
        estimator.fit(*map(abs, views()))


def test_wrong_views_are_named():
    X, Y = views()
    fitted = CCA().fit(X, Y)
    for call, message in (
        (lambda: CCA().fit(X, None), "requires y to be passed"),
        (lambda: CCA().fit(X, Y[:9]), "inconsistent numbers of samples"),
        (lambda: CCA().fit(X[:1], Y[:1]), "minimum of 2 is required"),
        (lambda: CCA().fit(X, np.where(Y > 0, Y, np.nan)), "y contains NaN"),
        (lambda: fitted.score(X, Y[:9]), "inconsistent numbers of samples"),
        (lambda: fitted.score(X[:1], Y[:1]), "minimum of 2 is required"),
        (lambda: fitted.score(X, None), "requires y to be passed"),
        (lambda: fitted.transform(X[:, :4]), "X has 4 features, but CCA is expecting 6 features as input"),
        (lambda: fitted.transform(X, Y[:, :4]), "y has 4 features, but CCA is expecting 5 features as input"),
        (lambda: fitted.transform(None, Y[:, :4]), "y has 4 features, but CCA is expecting 5 features as input"),
        (lambda: fitted.transform(None), "Expected 2D array, got scalar array"),
        (lambda: CCA(ridge_x=0).fit(np.hstack([X, X]), Y), "raise the ridge"),
        (lambda: CFA().fit(X, 0 * Y), "the values of y are the same in all rows"),
        (lambda: KCCA().fit(np.ones_like(X), Y), "the values of X are the same"),
        (lambda: KCCA(kernel_x="chi2").fit(X, Y), "Negative values in data passed to"),
        (lambda: KCCA(kernel_y="chi2").fit(X, Y), "Negative values in data passed to"),
        (lambda: KCCA(kernel_y="chi2").fit(X, abs(Y)).transform(None, Y), "Negative values in data passed to"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(NotFittedError):
        CCA().transform(X)
    with pytest.raises(NotFittedError):
        CCA().score(X, Y)


def test_examples():
    result = doctest.testmod(estimators)
    assert result.attempted > 10 and not result.failed
