"""KCCA at the size of Flickr-30K, and compared with mvlearn.

`tox -e benchmarks -- -k kcca -s`, and `tox -e benchmarks-mvlearn`: mvlearn 0.5 needs scikit-learn 1.6.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from cran_bench.frontend.feature_rows import FeatureRows
from cran_bench.methods.kcca import KCCA
from cran_bench.ranking.metrics import Metrics


class Views:
    """The part of `Split` that KCCA uses, with given features."""

    def __init__(self, images: Tensor, texts: Tensor | sparse.csr_array, image_of: Tensor) -> None:
        self.images, self.rows, self.image_of = images, texts, image_of
        self.image_rows = FeatureRows(tuple(images.shape), 0, images.__getitem__)
        self.texts = range(texts.shape[0])

    def __len__(self) -> int:
        return len(self.images)

    def image_blocks(self) -> Iterator[Tensor]:
        return iter(self.images.split(4096))

    def tfidf(self, size: int) -> Tensor | sparse.csr_array:
        return self.rows


class FixedScore:
    """The part of `Run` that KCCA uses, with a constant validation score."""

    seed, device = 0, torch.device("cpu")

    def score(self, images: Tensor, texts: Tensor) -> Metrics:
        return Metrics(*[0.0] * 10)

    def progress(self, items: Iterable[object], label: str, total: int) -> Iterable[object]:
        return items

    def chose(self, **values: object) -> None:
        pass


def full_size() -> None:
    """Fit 29,000 images of 4096-d and 145,000 sparse texts of 3000-d; print seconds and peak GiB."""
    p, q = 4096, 3000
    draw = np.random.default_rng(0)
    latent = torch.from_numpy(draw.normal(size=(29_000, 64)).astype(np.float32))
    mix = torch.from_numpy(draw.normal(size=(64, p)).astype(np.float32))

    def generated(n: int) -> Views:
        X = (latent[:n] @ mix + 4 * torch.randn(n, p, generator=torch.Generator().manual_seed(0))).relu_()
        words, weights = draw.integers(0, q, 50 * n), np.full(50 * n, 10**-0.5, np.float32)
        rows = sparse.csr_array((weights, words, np.arange(0, 50 * n + 1, 10)), shape=(5 * n, q))
        return Views(X, rows, torch.arange(5 * n) // 5)

    train, val = generated(29_000), generated(200)
    method = KCCA(
        kernel_image="rbf",
        solver="nystrom",
        columns=3000,
        ridge_image=(1e-2,),
        ridge_text=(1e-2,),
        dim=(512,),
        power=(1.0,),
    )
    start = time.perf_counter()
    method.fit(train, val, FixedScore())
    seconds = time.perf_counter() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)  # noqa: T201


def test_full_size_fit(benchmark):
    def fit() -> list[float]:  # a separate process, for the peak memory of the fit alone
        done = subprocess.run([sys.executable, __file__], stdout=subprocess.PIPE, text=True, check=True)
        return [float(value) for value in done.stdout.split()]

    seconds, peak = benchmark.pedantic(fit, rounds=1)
    benchmark.extra_info |= {"fit_s": seconds, "peak_GiB": peak}
    print(f"\nRBF, 3,000 landmarks, 145,000 x (4096, 3000): {seconds:.0f} s, peak {peak:.2f} GiB")  # noqa: T201


PAIRS, COMPONENTS, RIDGE = 2000, 8, 1e-2
group = pytest.mark.benchmark(group=f"linear KCCA, {PAIRS} pairs, {COMPONENTS} components")


def views() -> tuple[np.ndarray, np.ndarray]:
    """Centred features, because mvlearn centres features and not kernels."""
    draw = np.random.default_rng(0)
    latent = draw.standard_normal((PAIRS, 16))
    X, Y = (latent @ draw.standard_normal((16, p)) + 4 * draw.standard_normal((PAIRS, p)) for p in (200, 100))
    return X - X.mean(axis=0), Y - Y.mean(axis=0)


def ours(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    pairs = Views(torch.from_numpy(X), torch.from_numpy(Y), torch.arange(PAIRS))
    method = KCCA(
        image="none",
        kernel_image="linear",
        kernel_text="linear",
        solver="exact",
        ridge_image=(RIDGE,),
        ridge_text=(RIDGE,),
        dim=(COMPONENTS,),
        power=(0.0,),
    )
    method.fit(pairs, pairs, FixedScore())
    return method.spectrum.numpy()


@group
def test_ours(benchmark):
    X, Y = views()
    benchmark.pedantic(lambda: ours(X, Y), rounds=3, warmup_rounds=1)


@pytest.mark.filterwarnings("ignore")
@group
def test_mvlearn(benchmark):
    embed = pytest.importorskip("mvlearn.embed")
    X, Y = views()
    # mvlearn's constraint is (1 - r) K^2 + r K, so k = r / (1 - r); its eigenvalues are 1 + correlation / (1 - r)
    kappa = np.array([RIDGE * np.linalg.norm(view, 2) ** 2 for view in (X, Y)])
    r = kappa / (1 + kappa)
    model = embed.KMCCA(n_components=COMPONENTS, kernel="linear", regs=list(r), diag_mode="A", sval_thresh=0)
    benchmark.pedantic(lambda: model.fit([X, Y]), rounds=3, warmup_rounds=1)
    np.testing.assert_allclose((model.evals_ - 1) * np.sqrt(np.prod(1 - r)), ours(X, Y), rtol=1e-6)


if __name__ == "__main__":
    full_size()
