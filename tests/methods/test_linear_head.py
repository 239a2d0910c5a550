"""linear-head: its loss against loops, its gradient, and what it is in the limit of a high temperature."""

import math

import numpy as np
import pytest
import torch
from scipy.special import expit

from cran_bench.methods.linear_head import ContrastiveHeads, LinearHead, info_nce


def pairs(n=6, d=4, seed=0):
    torch.manual_seed(seed)
    return torch.randn(n, d, dtype=torch.float64), torch.randn(n, d, dtype=torch.float64)


def scale(value):
    return torch.tensor([math.log(value)], dtype=torch.float64)


def by_loops(images, texts, s):
    x, y = (rows.numpy() / np.linalg.norm(rows.numpy(), axis=1, keepdims=True) for rows in (images, texts))
    total = 0.0
    for i in range(len(x)):
        own = s * float(x[i] @ y[i])
        total += own - math.log(sum(math.exp(s * float(x[i] @ y[j])) for j in range(len(x))))
        total += own - math.log(sum(math.exp(s * float(x[j] @ y[i])) for j in range(len(x))))
    return -total / (2 * len(x))


@pytest.mark.parametrize("s", [1.0, 14.3])
def test_the_loss_is_that_of_loops(s):
    images, texts = pairs()
    assert float(info_nce(images, texts, scale(s))) == pytest.approx(by_loops(images, texts, s), rel=1e-12)


def test_the_gradient_is_that_of_central_differences():
    images, texts = (rows.requires_grad_() for rows in pairs())
    assert torch.autograd.gradcheck(info_nce, (images, texts, scale(5.0).requires_grad_()), eps=1e-6, atol=1e-7)


def test_neither_lengths_nor_order_nor_rotation_nor_side_counts():
    images, texts = pairs()
    loss, order = info_nce(images, texts, scale(7.0)), torch.randperm(6)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    lengths = torch.rand(6, 1, dtype=torch.float64) + 0.1
    for a, b in (
        (images * lengths, texts * 3),
        (images[order], texts[order]),
        (images @ rotation, texts @ rotation),
        (texts, images),
    ):
        torch.testing.assert_close(info_nce(a, b, scale(7.0)), loss)
    assert float(info_nce(images[order], texts, scale(7.0))) != pytest.approx(float(loss), rel=1e-3)


def test_two_pairs_are_logistic_regression():
    images, texts = pairs(n=2)
    x, y = (torch.nn.functional.normalize(rows).numpy() for rows in (images, texts))
    S = 9.0 * x @ y.T
    margins = np.array([S[0, 0] - S[0, 1], S[1, 1] - S[1, 0], S[0, 0] - S[1, 0], S[1, 1] - S[0, 1]])
    assert float(info_nce(images, texts, scale(9.0))) == pytest.approx(-np.log(expit(margins)).mean(), rel=1e-12)


def test_at_a_high_temperature_it_maximises_the_cross_covariance():
    """L = log B - s tr cov(x, y) + O(s^2): the maps then follow the gradient of a cross-covariance, as in PLS."""
    images, texts = pairs(n=12)
    W, V = (torch.randn(4, 3, dtype=torch.float64).requires_grad_() for _ in range(2))
    x, y = (torch.nn.functional.normalize(rows @ M) for rows, M in ((images, W), (texts, V)))
    covariance = ((x - x.mean(dim=0)) * (y - y.mean(dim=0))).sum(dim=1).mean()
    expected = torch.autograd.grad(-covariance, (W, V))
    s = 1e-5
    loss = info_nce(images @ W, texts @ V, scale(s))
    assert (float(loss.detach()) - math.log(12)) / s == pytest.approx(-float(covariance.detach()), rel=1e-3)
    for given, wanted in zip(torch.autograd.grad(loss, (W, V)), expected, strict=True):
        torch.testing.assert_close(given / s, wanted, rtol=1e-3, atol=1e-5)


def test_the_temperature_is_learned_and_bounded():
    torch.manual_seed(0)
    heads = ContrastiveHeads((5, 4), LinearHead(dim=3, dropout=0.0, temperature=0.01))
    assert float(heads.log_scale.detach()) == pytest.approx(math.log(100))
    with torch.no_grad():
        heads.log_scale.fill_(9.0)
    heads.loss(torch.randn(8, 5), torch.randn(8, 4)).backward()
    assert float(heads.log_scale.detach()) == pytest.approx(math.log(100)) and float(heads.log_scale.grad) != 0
