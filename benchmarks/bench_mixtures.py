"""The mixtures and Fisher vectors of GMM+HGLMM at the size of Flickr-30K, and EM compared with scikit-learn.

`tox -e benchmarks -- -k mixtures -s`.
"""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from sklearn.mixture import GaussianMixture

from cran_bench.toolbox.mixtures import Mixture, fit_mixture, started

# a separate process, for the peak memory of the fit alone: 300,000 word vectors, and the words of 145,000 captions.
FULL_SIZE = """
import resource, time, numpy as np, torch
from scipy import sparse
from cran_bench.methods.gmm_hglmm import FisherRows
from cran_bench.toolbox.mixtures import fit_mixture, started
generator = torch.Generator().manual_seed(0)
x = torch.randn(300_000, 300, generator=generator) * torch.rand(300, generator=generator)
x = 10 * torch.nn.functional.normalize(x, dim=1)
start = time.perf_counter()
mixture, _ = fit_mixture(x, started(x, 30, 0, hybrid=True), range(10), 1e-3, hybrid=True)
em, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
words, texts = 12_000, 145_000
draw = np.random.default_rng(0)
chosen = (words ** draw.random((texts, 10))).astype(int) - 1
ends = np.arange(0, texts * 10 + 1, 10)
counts = sparse.csr_array((np.ones(texts * 10, np.float32), chosen.ravel(), ends), shape=(texts, words))
start = time.perf_counter()
table = torch.cat([mixture.scores(block) for block in x[:words].split(256)])
rows = FisherRows(counts, table, [0, table.shape[1]])
total = sum(float(rows[a : a + 8192].sum()) for a in range(0, texts, 8192))
print(em, peak, time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def test_full_size(benchmark):
    def fit() -> list[float]:
        done = subprocess.run([sys.executable, "-c", FULL_SIZE], stdout=subprocess.PIPE, text=True, check=True)
        return [float(value) for value in done.stdout.split()]

    em, em_peak, encoding, peak = benchmark.pedantic(fit, rounds=1)
    benchmark.extra_info |= {"em_s": em, "em_peak_GiB": em_peak, "encoding_s": encoding, "peak_GiB": peak}
    print(  # noqa: T201
        f"\nHGLMM, 300,000 x 300, K = 30, 10 steps: {em:.0f} s, peak {em_peak:.2f} GiB; "
        f"145,000 captions to 18,000: {encoding:.0f} s, peak {peak:.2f} GiB"
    )


POINTS, DIM, COMPONENTS, STEPS = 50_000, 100, 30, 10


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, Mixture]:
    x = torch.randn(POINTS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[: POINTS // 2] *= 2
    return x, started(x, COMPONENTS, 0, hybrid=False)


@pytest.mark.benchmark(group=f"diagonal GMM, {POINTS} x {DIM}, K = {COMPONENTS}, {STEPS} steps")
def test_ours(benchmark, data):
    x, start = data
    benchmark.pedantic(lambda: fit_mixture(x, start, range(STEPS), 1e-12, hybrid=False), rounds=3, warmup_rounds=1)


@pytest.mark.benchmark(group=f"diagonal GMM, {POINTS} x {DIM}, K = {COMPONENTS}, {STEPS} steps")
def test_scikit_learn(benchmark, data):
    x, start = data
    model = GaussianMixture(
        COMPONENTS,
        covariance_type="diag",
        tol=0,
        reg_covar=0,
        max_iter=STEPS,
        weights_init=start.log_pi.exp().numpy(),
        means_init=start.m.numpy(),
        precisions_init=1 / start.s.square().numpy(),
    )

    def fit() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(x.numpy())

    benchmark.pedantic(fit, rounds=3, warmup_rounds=1)
    mixture, _ = fit_mixture(x, start, range(STEPS), 1e-12, hybrid=False)
    torch.testing.assert_close(mixture.m, torch.from_numpy(model.means_), rtol=1e-6, atol=1e-8)
