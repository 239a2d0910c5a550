"""PCME++: the closed-form distance, as an inner product and by sampling; the loss and its gradient."""

import math

import numpy as np
import pytest
import torch

from cran_bench.methods.pcmepp import PCMEPP, GaussianHeads, Gaussians, matching_loss
from cran_bench.similarity import DOT


def gaussians(n, d=4, seed=0):
    torch.manual_seed(seed)
    return Gaussians(torch.randn(n, d, dtype=torch.float64), torch.randn(n, d, dtype=torch.float64) - 1)


def distances(v, t):
    """d of each pair by loops."""
    found = np.zeros((len(v.mean), len(t.mean)))
    for i in range(len(v.mean)):
        for j in range(len(t.mean)):
            for k in range(v.mean.shape[1]):
                found[i, j] += (float(v.mean[i, k]) - float(t.mean[j, k])) ** 2
                found[i, j] += math.exp(float(v.log_variance[i, k])) + math.exp(float(t.log_variance[j, k]))
    return found


def test_the_distance_is_an_inner_product():
    v, t = gaussians(5), gaussians(7, seed=1)
    scores = DOT.scores(v.vectors("image"), t.vectors("text")).numpy()
    np.testing.assert_allclose(-scores, distances(v, t), rtol=1e-12)


def test_the_distance_is_the_expected_one_of_samples():
    v, t = gaussians(2, d=3), gaussians(2, d=3, seed=1)
    generator = torch.Generator().manual_seed(0)
    samples = 50_000

    def drawn(g, k):
        noise = torch.randn(samples, 3, dtype=torch.float64, generator=generator)
        return g.mean[k] + (g.log_variance[k] / 2).exp() * noise

    for i in range(2):
        for j in range(2):
            squared = (drawn(v, i) - drawn(t, j)).square().sum(dim=1)
            error = float(squared.std()) / math.sqrt(samples)
            assert float(squared.mean()) == pytest.approx(distances(v, t)[i, j], abs=4 * error)
            assert 4 * error < 0.1


def by_loops(d, a, b, alpha):
    """Terms one and two of the objective."""
    n, total = len(d), 0.0
    for i in range(n):
        for j in range(n):
            match = 1 / (1 + math.exp(a * d[i, j] - b))
            for weight, matches in (
                (1.0, i == j),
                (alpha / 2, d[i, j] <= d[i, i]),  # texts of an image
                (alpha / 2, d[i, j] <= d[j, j]),  # images of a text
            ):
                total -= weight * math.log(match if matches else 1 - match)
    return total / n**2


@pytest.mark.parametrize("alpha", [0.0, 0.1, 2.0])
def test_the_loss_is_that_of_loops(alpha):
    d = distances(gaussians(6), gaussians(6, seed=1))
    assert (d < d.diagonal()[:, None]).any() and (d < d.diagonal()).any()  # pseudo-positives of both kinds
    a, b = (torch.tensor([value], dtype=torch.float64) for value in (0.7, 3.0))
    assert float(matching_loss(torch.from_numpy(d), a, b, alpha)) == pytest.approx(by_loops(d, 0.7, 3.0, alpha))


def test_without_nearer_pairs_the_terms_are_the_same():
    d = torch.full((5, 5), 4.0, dtype=torch.float64) - 3 * torch.eye(5, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    torch.testing.assert_close(matching_loss(d, one, one, 0.5), 1.5 * matching_loss(d, one, one, 0.0))


def test_the_gradient_is_that_of_central_differences():
    v, t = gaussians(5), gaussians(5, seed=1)

    def objective(mean, log_variance, a, b):
        images = Gaussians(mean, log_variance)
        d = -images.vectors("image") @ t.vectors("text").T
        return matching_loss(d, a, b, 0.5) + 0.1 * images.divergence()

    learned = (torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (0.5, 2.0))
    assert torch.autograd.gradcheck(objective, (*(x.requires_grad_() for x in v), *learned), eps=1e-6, atol=1e-7)


def test_the_divergence_is_that_from_the_standard_normal():
    v = gaussians(6)
    normal = torch.distributions.Normal(v.mean, (v.log_variance / 2).exp())
    standard = torch.distributions.Normal(torch.zeros_like(v.mean), torch.ones_like(v.mean))
    torch.testing.assert_close(v.divergence(), torch.distributions.kl_divergence(normal, standard).mean())


def test_heads_give_distributions_of_unit_means_and_the_whole_loss():
    torch.manual_seed(0)
    heads = GaussianHeads((5, 4), PCMEPP(dim=3, dropout=0.0, beta=0.3, log_variance=-2.0, scale=5.0, shift=5.0)).eval()
    x, y = torch.randn(7, 5), torch.randn(7, 4)
    with torch.no_grad():
        v, t = heads.gaussians("image", x), heads.gaussians("text", y)
    torch.testing.assert_close(v.mean.norm(dim=1), torch.ones(7))
    outputs = heads.layers["image"](x)
    torch.testing.assert_close(v.log_variance, outputs[:, 3:] - 2)
    torch.testing.assert_close(heads.embed("text", y), t.vectors("text"))
    terms = by_loops(distances(v, t), 5.0, 5.0, 0.1), 0.15 * float(v.divergence() + t.divergence())
    assert float(heads.loss(x, y).detach()) == pytest.approx(sum(terms), rel=1e-5)


def test_without_variance_the_order_is_that_of_the_cosine():
    torch.manual_seed(0)
    means = [torch.nn.functional.normalize(torch.randn(n, 4, dtype=torch.float64)) for n in (6, 8)]
    v, t = (Gaussians(mean, torch.full_like(mean, -60.0)) for mean in means)
    torch.testing.assert_close(-v.vectors("image") @ t.vectors("text").T, 2 - 2 * means[0] @ means[1].T)
