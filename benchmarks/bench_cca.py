"""CCA compared with cca-zoo and scikit-learn, and at the size of Flickr-30K.

`tox -e benchmarks -- -k cca`.  The full-size fit is `cca` with one ridge, 1,024 dimensions and
dense texts; it needs 4 GiB and one minute.  The others are compared at smaller sizes.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from cran_bench.toolbox.linalg import canonical_correlations, moments, spectral_norm

# a separate process, for the peak memory of the fit alone: 29,000 images of 4096-d, 145,000 dense texts of 3000-d.
FULL_SIZE = """
import resource, time, torch
from cran_bench.toolbox.linalg import canonical_correlations, moments, spectral_norm
images, texts, p, q = 29_000, 145_000, 4096, 3000
rng = torch.Generator().manual_seed(0)
latent = torch.randn(images, 256, generator=rng)
X = torch.empty(images, p)
Y = torch.empty(texts, q)
A, B = torch.randn(256, p, generator=rng), torch.randn(256, q, generator=rng)
for a in range(0, images, 4096):
    X[a:a+4096] = latent[a:a+4096] @ A + 16 * torch.randn(X[a:a+4096].shape, generator=rng)
owner = torch.arange(texts) // 5
for a in range(0, texts, 8192):
    Y[a:a+8192] = latent[owner[a:a+8192]] @ B + 32 * torch.randn(Y[a:a+8192].shape, generator=rng)
start = time.perf_counter()
C = moments(X.split(4096), Y, owner)
covariances = time.perf_counter() - start
Wx, Wy, R = canonical_correlations(C, 1e-2 * spectral_norm(C.xx), 1e-2 * spectral_norm(C.yy), 1024)
total = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"{covariances:.1f} {total:.1f} {peak:.2f} {R[0]:.4f}")
"""


def test_full_size_fit(benchmark):
    def fit() -> list[float]:
        done = subprocess.run([sys.executable, "-c", FULL_SIZE], capture_output=True, text=True, check=True)
        return [float(value) for value in done.stdout.split()]

    covariances, total, peak, first = benchmark.pedantic(fit, rounds=1)
    benchmark.extra_info |= {"fit_s": total, "covariances_s": covariances, "peak_GiB": peak, "first_correlation": first}
    print(f"\n145,000 x (4096, 3000): {total:.1f} s, covariances {covariances:.1f} s; peak {peak:.2f} GiB")  # noqa: T201


def views(n: int, p: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((n, 16))
    X = latent @ rng.standard_normal((16, p)) + 4 * rng.standard_normal((n, p))
    Y = latent @ rng.standard_normal((16, q)) + 4 * rng.standard_normal((n, q))
    return X, Y


def ours(X: np.ndarray, Y: np.ndarray, dim: int) -> np.ndarray:
    C = moments([torch.from_numpy(X)], torch.from_numpy(Y), torch.arange(len(X)))
    return canonical_correlations(C, 1e-9 * spectral_norm(C.xx), 1e-9 * spectral_norm(C.yy), dim)[2]


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    values = [abs(np.corrcoef(a[:, k], b[:, k])[0, 1]) for k in range(a.shape[1])]
    return np.sort(values)[::-1]


SMALL, LARGE = (4000, 512, 256), (29_000, 2048, 1000)
small = pytest.mark.benchmark(group=f"cca {SMALL}, 8 components")
large = pytest.mark.benchmark(group=f"cca {LARGE}, 8 components")


@pytest.mark.parametrize("size", [pytest.param(SMALL, marks=small), pytest.param(LARGE, marks=large)])
def test_ours(benchmark, size):
    X, Y = views(*size)
    benchmark.pedantic(lambda: ours(X, Y, 8), rounds=5 if size == SMALL else 2, warmup_rounds=1)


@pytest.mark.parametrize("size", [pytest.param(SMALL, marks=small), pytest.param(LARGE, marks=large)])
def test_cca_zoo(benchmark, size):
    linear = pytest.importorskip("cca_zoo.linear")
    X, Y = views(*size)
    model = linear.CCA(n_components=8)
    benchmark.pedantic(lambda: model.fit([X, Y]), rounds=5 if size == SMALL else 2, warmup_rounds=1)
    assert np.allclose(correlations(*model.transform([X, Y])), ours(X, Y, 8), atol=1e-6)


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
@small
def test_scikit_learn(benchmark):
    cross = pytest.importorskip("sklearn.cross_decomposition")
    X, Y = views(*SMALL)
    model = cross.CCA(n_components=8, scale=False, max_iter=500)
    benchmark.pedantic(lambda: model.fit(X, Y), rounds=1)
    assert np.allclose(correlations(*model.transform(X, Y)), ours(X, Y, 8), atol=2e-3)
