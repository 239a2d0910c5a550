"""The gradient of DCCA's objective, compared with the usual one by eigendecompositions and autograd.

`tox -e benchmarks -- -k dcca`.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cran_bench.methods.dcca import total_correlation

BATCH, OUT, RIDGE = 2000, 512, 1e-3
group = pytest.mark.benchmark(group=f"gradient of the total correlation, {BATCH} x {OUT}, float64")


def views() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    H1 = torch.randn(BATCH, OUT, dtype=torch.float64)
    H2 = H1 @ torch.randn(OUT, OUT, dtype=torch.float64) / OUT**0.5 + torch.randn(BATCH, OUT, dtype=torch.float64)
    return H1.requires_grad_(), H2.requires_grad_()


def by_eigenvectors(H1: Tensor, H2: Tensor, ridge: float) -> Tensor:
    """The sum of the correlations, from symmetric roots of both covariances and the eigenvalues of T'T."""
    H1, H2 = H1 - H1.mean(dim=0), H2 - H2.mean(dim=0)
    eye = torch.eye(H1.shape[1], dtype=H1.dtype)
    roots = []
    for H in (H1, H2):
        values, vectors = torch.linalg.eigh(H.T @ H / (len(H) - 1) + ridge * eye)
        roots.append(vectors @ torch.diag(values.rsqrt()) @ vectors.T)
    T = roots[0] @ (H1.T @ H2 / (len(H1) - 1)) @ roots[1]
    return torch.linalg.eigvalsh(T.T @ T).clamp_min(1e-12).sqrt().sum()


def step(objective, H1: Tensor, H2: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(objective(H1, H2, RIDGE), (H1, H2))


@group
def test_ours(benchmark):
    H1, H2 = views()
    benchmark.pedantic(lambda: step(total_correlation, H1, H2), rounds=5, warmup_rounds=1)


@group
def test_by_eigenvectors(benchmark):
    H1, H2 = views()
    benchmark.pedantic(lambda: step(by_eigenvectors, H1, H2), rounds=5, warmup_rounds=1)
    torch.testing.assert_close(total_correlation(H1, H2, RIDGE), by_eigenvectors(H1, H2, RIDGE))
    for one, other in zip(step(total_correlation, H1, H2), step(by_eigenvectors, H1, H2), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)
