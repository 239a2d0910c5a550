"""RBMs against enumeration, their chain against the distribution it has to keep, and what training does."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from cran_bench.toolbox.rbm import RBM, Sparsity, contrastive_divergence


def machine(kind="binary", visible=4, hidden=3, seed=0):
    torch.manual_seed(seed)
    rbm = RBM(kind, visible, hidden).double()
    for parameter in rbm.parameters():
        parameter.data.normal_()
    return rbm


def states(count):
    return torch.tensor(list(product((0.0, 1.0), repeat=count)), dtype=torch.float64)


def energy(rbm, v, h):
    """E of (n, V) and (m, H) states, (n, m)."""
    own = 0.5 * (v - rbm.a).square().sum(dim=1) if rbm.kind == "gaussian" else -(v @ rbm.a)
    words = v.sum(dim=1)[:, None] if rbm.kind == "counts" else 1.0
    return own[:, None] - v @ rbm.W @ h.T - words * (h @ rbm.c)


@pytest.mark.parametrize("kind", ["binary", "gaussian", "counts"])
def test_the_free_energy_sums_over_hidden_states(kind):
    rbm = machine(kind)
    v = torch.randn(5, 4, dtype=torch.float64) if kind == "gaussian" else 2 * states(4)
    expected = -torch.logsumexp(-energy(rbm, v, states(3)), dim=1)
    torch.testing.assert_close(rbm.free_energy(v), expected)


def test_conditionals_are_those_of_the_energy():
    rbm = machine()
    joint = torch.softmax(-energy(rbm, states(4), states(3)).flatten(), dim=0).view(16, 8)
    given_v = (joint / joint.sum(dim=1, keepdim=True)) @ states(3)
    torch.testing.assert_close(rbm.hidden(states(4)), given_v)
    given_h = (joint / joint.sum(dim=0)).T @ states(4)
    torch.testing.assert_close(rbm.visible(states(3)), given_h)
    torch.testing.assert_close(torch.softmax(-rbm.free_energy(states(4)), dim=0), joint.sum(dim=1))


def exact(rbm, data):
    """Mean negative log-likelihood, with Z by enumeration."""
    return (rbm.free_energy(data) + torch.logsumexp(-rbm.free_energy(states(rbm.W.shape[0])), dim=0)).mean()


def gradients(rbm, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(rbm.parameters()))])


@pytest.mark.no_cover
def test_long_chains_give_the_gradient_of_the_likelihood():
    rbm = machine()
    data = states(4)[[3, 5, 6, 15]].repeat(5000, 1)
    found = gradients(rbm, contrastive_divergence(rbm, data, 2000, sample=True))
    expected = gradients(rbm, exact(rbm, data))
    np.testing.assert_allclose(found, expected, atol=0.02)
    short = gradients(rbm, contrastive_divergence(rbm, data, 1, sample=True))
    assert (short - expected).abs().max() > 3 * (found - expected).abs().max()


def test_the_chain_keeps_the_distribution():
    rbm = machine()
    v = rbm.gibbs(torch.zeros(20_000, 4, dtype=torch.float64), 200, sample=True)
    codes = (v @ torch.tensor([8.0, 4, 2, 1], dtype=torch.float64)).long()
    counts = torch.bincount(codes, minlength=16)
    expected = torch.softmax(-rbm.free_energy(states(4)), dim=0) * len(v)
    assert chisquare(counts.numpy(), expected.detach().numpy()).pvalue > 0.01


def test_one_word_is_a_softmax_unit():
    rbm = machine("counts", 5)
    words = torch.eye(5, dtype=torch.float64)
    weights = rbm.a.exp() * (1 + (rbm.W + rbm.c).exp()).prod(dim=1)
    torch.testing.assert_close(torch.softmax(-rbm.free_energy(words), dim=0), weights / weights.sum())
    h = states(3)
    torch.testing.assert_close(rbm.visible(h, torch.ones(8, 1)), torch.softmax(h @ rbm.W.T + rbm.a, dim=1))
    v = rbm.gibbs(words[:1].repeat(20_000, 1), 100, sample=True)
    assert chisquare(v.sum(dim=0).numpy(), (20_000 * weights / weights.sum()).detach().numpy()).pvalue > 0.01


def test_the_chain_keeps_the_number_of_words():
    rbm = machine("counts", 5)
    v = torch.tensor([[3.0, 2, 0, 0, 0], [0, 0, 0, 1, 4]], dtype=torch.float64)
    for sample in (False, True):
        found = rbm.gibbs(v, 3, sample)
        torch.testing.assert_close(found.sum(dim=1), v.sum(dim=1))
        assert bool((found >= 0).all())
    assert bool((found == found.round()).all())


def test_the_gradient_of_counts_is_by_word():
    rbm = machine("counts", 5)
    v = torch.tensor([[3.0, 2, 0, 0, 0]], dtype=torch.float64)
    torch.manual_seed(1)
    per_word = contrastive_divergence(rbm, v, 1)
    torch.manual_seed(1)
    whole = rbm.free_energy(v) - rbm.free_energy(rbm.gibbs(v, 1))
    torch.testing.assert_close(per_word, whole[0] / 5)


def test_a_gaussian_chain_has_unit_noise():
    rbm = machine("gaussian", 2, 1)
    rbm.W.data.zero_()
    v = rbm.gibbs(torch.zeros(20_000, 2, dtype=torch.float64), 1, sample=True)
    torch.testing.assert_close(v.mean(dim=0), rbm.a.detach(), atol=0.05, rtol=0)
    torch.testing.assert_close(v.std(dim=0), torch.ones(2, dtype=torch.float64), atol=0.05, rtol=0)


def test_sparsity_brings_activity_to_its_target():
    torch.manual_seed(0)
    c = torch.nn.Parameter(torch.full((6,), 1.0))
    sparsity = Sparsity(6, target=0.2, cost=1.0)
    optimizer = torch.optim.SGD([c], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        sparsity(torch.sigmoid(c + torch.randn(64, 6))).backward()
        optimizer.step()
    torch.testing.assert_close(sparsity.activity, torch.full((6,), 0.2), atol=0.03, rtol=0)


@pytest.mark.parametrize("kind", ["binary", "gaussian", "counts"])
def test_units_begin_at_the_mean_and_the_activity(kind):
    rbm = machine(kind)
    rbm.W.data.mul_(1e-4)
    mean = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64) * (20 if kind == "counts" else 1)
    rbm.begin_at(mean, 0.2)
    torch.testing.assert_close(rbm.hidden(mean[None]), torch.full((1, 3), 0.2, dtype=torch.float64), atol=1e-6, rtol=0)
    found = rbm.visible(torch.full((1, 3), 0.2, dtype=torch.float64), mean.sum())
    torch.testing.assert_close(found[0], mean, atol=1e-3, rtol=0)
