"""KCCA against CCA, against its own eigenproblem, and its solvers against each other."""

from itertools import product

import numpy as np
import pytest
import torch

from cran_bench.errors import BadInput
from cran_bench.methods import kcca
from cran_bench.methods.cca import CCA
from cran_bench.methods.kcca import KCCA
from cran_bench.ranking.rank import rank
from cran_bench.similarity import COSINE

PLAIN = {"text": "vectors", "image": "none", "dim": (1000,), "power": (0.0,)}
RBF = {**PLAIN, "kernel_image": "rbf"}


def correlated(n=60, p=6, q=5, shared=3, seed=0):
    random = np.random.default_rng(seed)
    z = random.normal(size=(n, shared))
    X = z @ random.normal(size=(shared, p)) + 0.3 * random.normal(size=(n, p)) + 1
    Y = z @ random.normal(size=(shared, q)) + 0.3 * random.normal(size=(n, q)) - 2
    return X, Y


@pytest.fixture
def fit(plain_split, run_on):
    """``fit(X, Y, method)``: fitted and chosen on the very data."""

    def fitted(X, Y, method, image_of=None):
        train = plain_split(X, Y, image_of)
        method.fit(train, train, run_on(train, COSINE))
        return method, train

    return fitted


def scores(method, split):
    sides = method.embed_images(split), method.embed_texts(split)
    a, b = (torch.nn.functional.normalize(side.double(), dim=1) for side in sides)
    return (a @ b.T).numpy()


def ridges(value):
    return {"ridge_image": (value,), "ridge_text": (value,)}


SOLVERS = [
    {"solver": "exact"},
    {"solver": "nystrom", "rcond": 0.0},
    {"solver": "cholesky", "tolerance": 0.0},
]


@pytest.mark.parametrize("value", [0.0, 0.7])
@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("kernel", ["linear", "rbf", "chi2", "intersection"])
@pytest.mark.parametrize("solver", ["exact", "nystrom", "cholesky"])
def test_constant_features_are_named(fit, solver, kernel, side, value):
    sides = dict(zip(("image", "text"), map(np.abs, correlated()), strict=True))
    sides[side] = np.full_like(sides[side], value)
    with pytest.raises(BadInput, match=f"the {side} features are the same in all rows"):
        fit(*sides.values(), KCCA(**PLAIN, **ridges(1e-2), kernel_image=kernel, kernel_text=kernel, solver=solver))


@pytest.mark.parametrize("options", SOLVERS, ids=lambda o: o["solver"])
def test_the_linear_kernel_is_ridge_cca(fit, options):
    X, Y = correlated()
    linear, split = fit(X, Y, KCCA(**PLAIN, **ridges(1e-2), kernel_text="linear", **options))
    plain, _ = fit(X, Y, CCA(**PLAIN, **ridges(1e-2)))
    assert len(linear.spectrum) == len(plain.spectrum) == 5
    np.testing.assert_allclose(linear.spectrum, plain.spectrum, rtol=1e-8)
    np.testing.assert_allclose(scores(linear, split), scores(plain, split), atol=1e-5)


@pytest.mark.parametrize("kernels", [("rbf", "rbf"), ("rbf", "linear"), ("chi2", "intersection")])
@pytest.mark.parametrize("options", SOLVERS[1:], ids=lambda o: o["solver"])
def test_with_every_row_as_a_column_the_solvers_agree(fit, kernels, options):
    X, Y = (abs(view) for view in correlated())
    same = {**PLAIN, "kernel_image": kernels[0], "kernel_text": kernels[1], **ridges(1e-2)}
    exact, split = fit(X, Y, KCCA(**same, solver="exact"))
    other, _ = fit(X, Y, KCCA(**same, **options))
    count = int((exact.spectrum > 1e-3).sum())
    np.testing.assert_allclose(other.spectrum[:count], exact.spectrum[:count], rtol=1e-6)
    np.testing.assert_allclose(scores(other, split), scores(exact, split), atol=1e-5)


def test_the_duals_solve_hardoons_eigenproblem(fit):
    X, Y = correlated(n=30)
    method, _ = fit(X, Y, KCCA(**RBF, **ridges(1e-2), solver="exact"))
    H = np.eye(30) - 1 / 30
    Kx, Ky = (
        H @ method.maps[side](view).numpy() @ H
        for side, view in (("image", torch.from_numpy(X)), ("text", torch.from_numpy(Y)))
    )
    kx, ky = (1e-2 * np.linalg.eigvalsh(K)[-1] for K in (Kx, Ky))
    eye = np.eye(30)
    squared = np.linalg.eigvals(np.linalg.solve(Kx + kx * eye, Ky) @ np.linalg.solve(Ky + ky * eye, Kx)).real
    rho = method.spectrum.numpy()
    np.testing.assert_allclose(rho[:10], np.sqrt(np.sort(squared)[::-1][:10]), rtol=1e-8)
    a, b = method.Wx.numpy(), method.Wy.numpy()
    np.testing.assert_allclose(a.T @ (Kx @ Kx + kx * Kx) @ a, np.eye(len(rho)), atol=1e-8)
    np.testing.assert_allclose(b.T @ (Ky @ Ky + ky * Ky) @ b, np.eye(len(rho)), atol=1e-8)
    np.testing.assert_allclose(a.T @ Kx @ Ky @ b, np.diag(rho), atol=1e-8)


def test_images_count_once_for_each_of_their_texts(fit):
    X, Y = correlated(n=40)
    owner = np.repeat(np.arange(20), 2)
    same = {**RBF, **ridges(1e-2), "rcond": 0.0}
    shared, _ = fit(X[:20], Y, KCCA(**same, solver="nystrom"), owner)
    exact, _ = fit(X[:20], Y, KCCA(**same, solver="exact"), owner)
    repeated, _ = fit(X[:20][owner], Y, KCCA(**same, solver="exact"))
    np.testing.assert_allclose(shared.spectrum[:8], repeated.spectrum[:8], rtol=1e-6)
    np.testing.assert_allclose(exact.spectrum[:8], repeated.spectrum[:8], rtol=1e-6)


@pytest.mark.parametrize("solver", ["exact", "nystrom", "cholesky"])
def test_a_constant_added_to_features_changes_nothing_under_rbf(fit, solver):
    X, Y = correlated()
    before, split = fit(X, Y, KCCA(**RBF, **ridges(1e-2), solver=solver, columns=20))
    after, moved = fit(X + 7, Y - 3, KCCA(**RBF, **ridges(1e-2), solver=solver, columns=20))
    np.testing.assert_allclose(after.spectrum[:8], before.spectrum[:8], rtol=1e-6)
    np.testing.assert_allclose(scores(after, moved), scores(before, split), atol=1e-4)


@pytest.mark.parametrize("options", [*SOLVERS, {"solver": "fourier", "columns": 50}], ids=lambda o: o["solver"])
def test_a_training_row_is_embedded_the_same_alone(fit, plain_split, options):
    X, Y = correlated()
    method, split = fit(X, Y, KCCA(**RBF, **ridges(1e-2), **options))
    alone = plain_split(X[7:8], Y[7:8])
    np.testing.assert_allclose(method.embed_images(alone)[0], method.embed_images(split)[7], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(method.embed_texts(alone)[0], method.embed_texts(split)[7], rtol=1e-4, atol=1e-5)


def test_what_is_not_linear_is_found(fit, plain_split):
    random = np.random.default_rng(0)
    angle, radius = random.uniform(0, 2 * np.pi, 400), random.uniform(0.5, 2, 400)
    X = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    Y = radius[:, None] + 0.05 * random.normal(size=(400, 1))
    kernel, _ = fit(X, Y, KCCA(**RBF, **ridges(1e-3), solver="exact"))
    linear, _ = fit(X, Y, CCA(**PLAIN, **ridges(1e-3)))
    assert kernel.spectrum[0] > 0.95
    assert linear.spectrum[0] < 0.3


def test_of_several_widths_validation_chooses(fit):
    X, Y = correlated()
    widths = (0.05, 1.0, 30.0)

    def best(**options):
        method, split = fit(X, Y, KCCA(**RBF, **ridges(1e-2), **options))
        return rank(method.embed_images(split), method.embed_texts(split), split.image_of, COSINE).metrics().rsum

    alone = [best(width_image=(wx,), width_text=(wy,)) for wx, wy in product(widths, widths)]
    assert len(set(alone)) > 1
    assert best(width_image=widths, width_text=widths) == pytest.approx(max(alone))


def test_the_solver_goes_by_the_number_of_pairs_and_says_so(fit, monkeypatch, capsys):
    X, Y = correlated()
    exact, _ = fit(X, Y, KCCA(**RBF, **ridges(1e-2)))
    assert "60 pairs of image and text, so the solver is exact" in capsys.readouterr().err
    monkeypatch.setattr(kcca, "EXACT_UP_TO", 59)
    monkeypatch.setattr(kcca, "EXACT_BY_ITSELF", 59)
    larger, _ = fit(X, Y, KCCA(**RBF, **ridges(1e-2), columns=13))
    assert "so the solver is cholesky" in capsys.readouterr().err
    assert len(larger.maps["image"].points) == 13 and len(exact.maps["image"].points) == 60
    with pytest.raises(
        BadInput, match=r"60 x 60 numbers several times, and takes 59 pairs at most: use solver=nystrom"
    ):
        fit(X, Y, KCCA(**RBF, solver="exact"))


def test_pivots_are_looked_for_among_some_rows(fit, monkeypatch):
    X, Y = correlated()
    monkeypatch.setattr(kcca, "PIVOTS_AMONG", 10)
    method, _ = fit(X, Y, KCCA(**PLAIN, **ridges(1e-2), solver="cholesky", tolerance=0.0))
    points = method.maps["text"].points
    assert len(points) == 10
    assert all(bool((torch.from_numpy(Y) == point).all(dim=1).any()) for point in points)
    assert method.spectrum[0] > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge_image": (0.0,)}, "widths and ridges are above 0"),
        ({"width_text": (-1.0,)}, "widths and ridges are above 0"),
        ({"columns": 1}, "columns is at least 2"),
        ({"rcond": 1.0}, "below 1"),
        ({"tolerance": -0.1}, "at least 0"),
    ],
)
def test_fields_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        KCCA(**options)


def test_bad_input_is_named(fit):
    X, Y = correlated()
    with pytest.raises(BadInput, match="kernel chi2 needs non-negative features"):
        fit(X - 10, Y, KCCA(**PLAIN, kernel_image="chi2"))
    with pytest.raises(BadInput, match="need the kernel rbf, not intersection: use nystrom"):
        fit(X, abs(Y), KCCA(**RBF, kernel_text="intersection", solver="fourier"))
    more, _ = fit(X, Y, KCCA(**{**RBF, "dim": (10**6,)}, **ridges(1e-2), solver="nystrom", columns=10**6))
    assert len(more.spectrum) < 60


@pytest.mark.parametrize(
    "spec",
    [
        "kcca",
        "kcca:paper",
        "kcca[solver=nystrom,kernel_text=intersection,text=bow]",
        "kcca[solver=fourier,columns=100]",
    ],
)
def test_a_fit_comes_back_from_the_store(comes_back, spec):
    comes_back(spec)
