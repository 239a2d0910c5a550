"""Kernels against scikit-learn and brute force; maps against the kernel they stand for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics.pairwise import chi2_kernel, rbf_kernel

from cran_bench.errors import BadInput
from cran_bench.toolbox.kernels import (
    Fourier,
    Kernel,
    Landmarks,
    Mapped,
    centred,
    columns_of,
    incomplete_cholesky,
    nystrom,
    sampled,
)

NAMES = ("linear", "rbf", "chi2", "intersection")


def rows(n=30, d=7, seed=0):
    random = np.random.default_rng(seed)
    return random.random((n, d)) * (random.random((n, d)) < 0.6)


def expected(name, X, Y, scale):
    if name == "linear":
        return X @ Y.T
    if name == "rbf":
        return rbf_kernel(X, Y, gamma=1 / scale)
    if name == "chi2":
        return chi2_kernel(X, Y, gamma=1 / scale)
    return np.minimum(X[:, None], Y[None]).sum(axis=2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_kernels_are_those_of_scikit_learn(name, layout, monkeypatch):
    monkeypatch.setattr("cran_bench.toolbox.kernels.BLOCK", 8)
    X, Y = rows(), rows(11, seed=1)
    given = torch.from_numpy(X) if layout == "dense" else sparse.csr_array(X)
    found = Kernel(name, 0.7)(given, torch.from_numpy(Y))
    np.testing.assert_allclose(found, expected(name, X, Y, 0.7), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(Kernel(name, 0.7).diagonal(given), np.diag(expected(name, X, X, 0.7)), rtol=1e-10)


def test_the_scale_is_the_median_distance():
    X = rows(20)
    squares = ((X[:, None] - X[None]) ** 2).sum(axis=2)[np.triu_indices(20, 1)]
    assert Kernel.fitted("rbf", torch.from_numpy(X), 0.5, seed=3).scale == pytest.approx(
        2 * 0.25 * np.sort(squares)[(len(squares) - 1) // 2]
    )
    with pytest.raises(BadInput, match=r"5 sampled rows are all equal: use features that are not constant"):
        Kernel.fitted("rbf", torch.ones(5, 3), 1.0, 0)


@pytest.mark.parametrize("name", ["chi2", "intersection"])
def test_kernels_for_counts_refuse_negative_features(name):
    with pytest.raises(BadInput, match=f"kernel {name} needs non-negative features, but one is -0.5"):
        Kernel(name)(torch.tensor([[0.5, -0.5]]), torch.ones(1, 2))


@pytest.mark.parametrize("name", ["linear", "rbf", "chi2"])
def test_nystrom_with_every_row_is_the_kernel(name):
    X = torch.from_numpy(rows(25, 40))
    landmarks = Landmarks(Kernel(name, 0.9), X)
    phi = landmarks(X).numpy() @ nystrom(landmarks, clamp=0)
    K = landmarks.kernel(X, X).numpy()
    np.testing.assert_allclose(phi @ phi.T, K, rtol=1e-6, atol=1e-6 * K.max())


def test_the_clamp_leaves_directions_out():
    X = torch.from_numpy(rows(25, 40))
    landmarks = Landmarks(Kernel("rbf", 5.0), X)
    values = np.linalg.eigvalsh(landmarks(X).numpy())
    assert nystrom(landmarks, clamp=0.15).shape[1] == (values > 0.15 * values[-1]).sum() < 25


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_incomplete_cholesky_to_the_end_is_the_kernel(layout):
    X = rows(25, 40)
    given = torch.from_numpy(X) if layout == "dense" else sparse.csr_array(X)
    kernel = Kernel("rbf", 0.9)
    pivots, W = incomplete_cholesky(kernel, given, rank=99, tolerance=0)
    assert sorted(pivots) == list(range(25))
    K = kernel(torch.from_numpy(X), torch.from_numpy(X)).numpy()
    L = K[:, pivots] @ W
    np.testing.assert_allclose(L @ L.T, K, rtol=1e-8, atol=1e-10)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 20), st.integers(1, 30), st.integers(0, 99))
def test_incomplete_cholesky_never_takes_more_than_it_may(n, rank, seed):
    X = torch.from_numpy(rows(n, 5, seed))
    X[0] = 0.5  # no row of zeros alone
    kernel = Kernel("linear")
    pivots, W = incomplete_cholesky(kernel, X, rank, tolerance=1e-2)
    K = kernel(X, X).numpy()
    L = K[:, pivots] @ W
    left = np.trace(K) - (L**2).sum()
    assert len(set(pivots)) == len(pivots) <= min(n, rank)
    assert left >= -1e-9 * np.trace(K)
    assert left <= 1e-2 * np.trace(K) + 1e-9 or len(pivots) == min(n, rank)


def test_the_pivots_are_those_explained_worst():
    X = torch.tensor([[1.0, 0], [0, 3], [0, 2.9], [2, 0]], dtype=torch.float64)
    pivots, _ = incomplete_cholesky(Kernel("linear"), X, rank=4, tolerance=0)
    assert pivots.tolist() == [1, 3]


@pytest.mark.parametrize("features", [256, 4096])
def test_fourier_features_approach_the_kernel(features):
    X = torch.from_numpy(rows(40))
    kernel = Kernel.fitted("rbf", X, 1.0, 0)
    phi = Fourier.drawn(kernel, X, features, seed=0)(X)
    assert float((phi @ phi.T - kernel(X, X)).abs().mean()) < 1 / features**0.5
    assert float((phi @ phi.T - kernel(X, X)).abs().max()) < 4 / features**0.5
    with pytest.raises(BadInput, match="need the kernel rbf, not chi2: use nystrom"):
        Fourier.drawn(Kernel("chi2"), X, 8, 0)


def test_columns_come_back_from_their_state():
    X = torch.from_numpy(rows())
    for columns in (Landmarks(Kernel("chi2", 0.3), X[:9]), Fourier.drawn(Kernel("rbf", 0.3), X, 8, 0)):
        torch.testing.assert_close(columns_of(columns.state(), "chi2")(X), columns(X), rtol=0, atol=0)


def test_columns_are_made_by_the_block():
    X = torch.from_numpy(rows())
    for columns in (Landmarks(Kernel("rbf", 0.3), X[:9]), Fourier.drawn(Kernel("rbf", 0.3), X, 8, 0)):
        some = Mapped(X, columns)
        assert some.shape == columns(X).shape
        torch.testing.assert_close(some[5:12], columns(X)[5:12])


def test_centring_takes_row_and_column_means_out():
    K = rbf_kernel(rows())
    H = np.eye(30) - 1 / 30
    np.testing.assert_allclose(centred(K), H @ K @ H, atol=1e-12)


def test_a_sample_is_different_rows_in_their_order():
    X = torch.arange(20)[:, None]
    some = sampled(X, 7, seed=1)[:, 0].tolist()
    assert some == sorted(set(some)) and len(some) == 7
    assert sampled(X, 20, seed=1) is X
