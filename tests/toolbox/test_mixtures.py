"""Mixtures against scipy and scikit-learn, EM's promise, and Fisher vectors against finite differences."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.mixture import GaussianMixture

from cran_bench.toolbox import mixtures
from cran_bench.toolbox.mixtures import Mixture, fit_mixture, started


def points(n=400, D=6, seed=0):
    random = np.random.default_rng(seed)
    centres = 3 * random.normal(size=(4, D))
    noise = np.where(np.arange(D) < D // 2, random.laplace(size=(n, D)), random.normal(size=(n, D)))
    return torch.from_numpy(centres[random.integers(0, 4, n)] + noise)


@pytest.fixture
def mixture():
    random = np.random.default_rng(1)
    pi = torch.from_numpy(random.dirichlet(np.ones(3)))
    m, s = torch.from_numpy(random.normal(size=(3, 6))), torch.from_numpy(random.uniform(0.5, 2, (3, 6)))
    return Mixture(pi.log(), m, s, torch.from_numpy(random.random((3, 6)) < 0.5))


def test_the_density_is_scipys(mixture):
    x = points(50)
    m, s, b = (value.numpy() for value in (mixture.m, mixture.s, mixture.laplace))
    each = np.where(
        b,
        scipy.stats.laplace.logpdf(x.numpy()[:, None], m, s),
        scipy.stats.norm.logpdf(x.numpy()[:, None], m, s),
    )
    expected = mixture.log_pi.numpy() + each.sum(axis=2)
    np.testing.assert_allclose(mixture.log_joint(x), expected, rtol=1e-10)
    gamma, log_p = mixture.responsibilities(x)
    np.testing.assert_allclose(log_p, scipy.special.logsumexp(expected, axis=1), rtol=1e-10)
    np.testing.assert_allclose(gamma, scipy.special.softmax(expected, axis=1), rtol=1e-8, atol=1e-14)


def test_densities_of_many_dimensions_do_not_vanish():
    x = torch.randn(20, 300, dtype=torch.float32)
    mixture = started(x, 3, seed=0, hybrid=True)
    gamma, log_p = mixture.responsibilities(30 * x)
    assert bool(torch.isfinite(log_p).all()) and float(log_p.max()) < -1000
    torch.testing.assert_close(gamma.sum(dim=1), torch.ones(20))


def test_without_laplacians_it_is_scikit_learns_mixture():
    x = points()
    start = started(x, 4, seed=0, hybrid=False)
    assert not start.laplace.any()
    found, curve = fit_mixture(x, start, steps=range(20), floor=1e-12, hybrid=False)
    reference = GaussianMixture(
        4,
        covariance_type="diag",
        tol=0,
        reg_covar=0,
        max_iter=20,
        weights_init=start.log_pi.exp().numpy(),
        means_init=start.m.numpy(),
        precisions_init=1 / start.s.square().numpy(),
    )
    with pytest.warns(match="did not converge"):
        reference.fit(x.numpy())
    np.testing.assert_allclose(found.m, reference.means_, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.s.square(), reference.covariances_, rtol=1e-7)
    np.testing.assert_allclose(found.log_pi.exp(), reference.weights_, rtol=1e-8)
    assert curve[-1] == pytest.approx(reference.lower_bound_, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("hybrid", [True, False])
def test_the_likelihood_never_falls(seed, hybrid):
    x = points(seed=seed)
    start = started(x, 5, seed, hybrid=True)
    _, curve = fit_mixture(x, start, steps=range(25), floor=1e-9, hybrid=hybrid)
    assert len(curve) == 25
    assert np.diff(curve).min() > -1e-10
    assert curve[-1] > curve[0] + 0.1


def test_a_laplacian_dimension_is_told_from_a_gaussian_one():
    random = np.random.default_rng(0)
    for draw, expected in ((random.laplace, True), (random.normal, False)):
        x = torch.from_numpy(draw(size=(4000, 40)))
        found, _ = fit_mixture(x, started(x, 1, 0, hybrid=True), steps=range(3), floor=1e-9, hybrid=True)
        assert float((found.laplace == expected).float().mean()) > 0.9


@pytest.mark.parametrize("bag", [1, 7, 512])
@pytest.mark.parametrize("ties", [False, True])
def test_weighted_medians_and_deviations(monkeypatch, bag, ties):
    monkeypatch.setattr(mixtures, "BAG", bag)
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.integers(-3, 4, (93, 5)).astype(float) if ties else random.normal(size=(93, 5)))
    gamma = torch.from_numpy(random.random((93, 4)) ** 6)
    medians, absolute = mixtures._medians(x, gamma, gamma.sum(dim=0), x.T.argsort(dim=1))
    for k in range(4):
        for d in range(5):
            weights = gamma[:, k]
            costs = [(weights * (x[:, d] - candidate).abs()).sum() for candidate in x[:, d]]
            least = float(min(costs))
            assert float((weights * (x[:, d] - medians[k, d]).abs()).sum()) == pytest.approx(least, rel=1e-9)
            assert float(absolute[k, d]) == pytest.approx(least / float(weights.sum()), rel=1e-9)


def test_floors_hold():
    x = torch.cat([torch.zeros(50, 3), torch.ones(50, 3)]).double()
    found, _ = fit_mixture(x, started(x, 2, 0, hybrid=True), steps=range(5), floor=1e-3, hybrid=True)
    least = torch.where(found.laplace, 1e-3, 1e-3**0.5)
    assert bool((found.s >= least - 1e-12).all())
    assert all(bool(torch.isfinite(value).all()) for value in (found.log_pi, found.m, found.s))


def test_scores_are_the_gradient_of_the_likelihood(mixture):
    """By central differences, times what makes the Fisher information about 1."""
    x = points(12)
    found = mixture.scores(x)
    K, D = mixture.m.shape
    step = 1e-6
    root = (0.5 * mixture.log_pi).exp()
    for name, offset in (("m", 0), ("s", K * D)):
        for k in range(K):
            for d in range(D):
                moved = []
                for sign in (1, -1):
                    value = getattr(mixture, name).clone()
                    value[k, d] += sign * step
                    moved.append(replace(mixture, **{name: value}).log_joint(x).logsumexp(dim=1))
                slope = (moved[0] - moved[1]) / (2 * step)
                scale = mixture.s[k, d] / root[k]
                if name == "s" and not mixture.laplace[k, d]:
                    scale = scale / 2**0.5
                np.testing.assert_allclose(found[:, offset + k * D + d], slope * scale, atol=1e-6)


def test_a_point_on_a_median_counts_as_above():
    mixture = Mixture(torch.zeros(1), torch.tensor([[2.0]]), torch.tensor([[1.0]]), torch.tensor([[True]]))
    assert mixture.scores(torch.tensor([[2.0]])).tolist() == [[1.0, -1.0]]


def test_the_beginning_is_kleins():
    x = points()
    start = started(x, 5, seed=3, hybrid=True)
    assert bool((start.log_pi.exp() - 0.2).abs().max() < 1e-12)
    assert all(bool((x == row).all(dim=1).any()) for row in start.m)
    assert 0.2 < float(start.laplace.float().mean()) < 0.8
    assert started(x, 5, 3, hybrid=True).m.equal(start.m) and not started(x, 5, 4, hybrid=True).m.equal(start.m)
