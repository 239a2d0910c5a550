"""`cca3v`, `ml-cca` and `jrl` on 145,000 generated pairs of 4096-d images and 3000-d texts, with 80 labels.

`tox -e benchmarks -- -k category`, 20 minutes on two cores and 6 GB of disk space.  Each image has one to five labels,
the frequent ones more often.  CRAN_BENCH_SCALE=0.02 takes 2 % of the pairs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cran_bench.frontend.feature_rows import FeatureRows
from cran_bench.machine.progress import say

PAIRS, P, Q, LABELS = 145_000, 4096, 3000, 80
GIB = 6
CORRELATED = {"dim": (256,), "power": (1.0,)}
ROWS = {
    "cca3v": {**CORRELATED, "ridge": (1e-2,)},
    "ml-cca": {**CORRELATED, "kappa": (0.25,)},
    "ml-cca fast": {**CORRELATED, "kappa": (0.25,), "few": 20, "weights": "l2exp"},
    "jrl": {},
}
MINUTES = {"jrl": 15}
SCALE = float(os.environ.get("CRAN_BENCH_SCALE", "1"))


class Pairs:
    """What these methods ask of a split, read from files."""

    name, has_words = "train", False
    image_dim, text_dim = P, Q

    def __init__(self, folder: Path, rows: np.ndarray) -> None:
        self.rows, self.labels = rows, np.load(folder / "labels.npy")[rows]
        self.files = [np.load(folder / f"{side}.npy", mmap_mode="r") for side in ("images", "texts")]
        self.texts, self.image_of = range(len(rows)), torch.arange(len(rows))

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def image_rows(self) -> FeatureRows:
        return FeatureRows.of(self.files[0], self.rows, torch.device("cpu"))

    @cached_property
    def text_rows(self) -> FeatureRows:
        return FeatureRows.of(self.files[1], self.rows, torch.device("cpu"))

    def image_blocks(self, size: int = 4096) -> Iterator[torch.Tensor]:
        for a in range(0, len(self), size):
            yield self.image_rows[a : a + size]

    def categories(self, source: str) -> torch.Tensor:
        return torch.from_numpy(self.labels)


class Run:
    """Scores nothing."""

    seed, device = 0, torch.device("cpu")
    progress = staticmethod(lambda items, label, total, done=0: items)
    chose = staticmethod(lambda **values: None)
    score = staticmethod(lambda images, texts, similarity=None: SimpleNamespace(criterion=0.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of generated features, float16, and of labels."""
    home, random = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    n = max(1000, round(SCALE * PAIRS))
    shares = 1 / np.arange(1, LABELS + 1)
    drawn = random.choice(LABELS, (n, 5), p=shares / shares.sum())
    labels = np.zeros((n, LABELS), np.uint8)
    np.put_along_axis(labels, np.where(np.arange(5) < random.integers(1, 6, (n, 1)), drawn, drawn[:, :1]), 1, axis=1)
    np.save(home / "labels.npy", labels)
    for side, dim in (("images", P), ("texts", Q)):
        centres = random.standard_normal((LABELS, dim), dtype=np.float32)
        file = np.lib.format.open_memmap(home / f"{side}.npy", mode="w+", dtype=np.float16, shape=(n, dim))
        for a in range(0, n, 4096):
            file[a : a + 4096] = labels[a : a + 4096] @ centres + random.standard_normal(
                (len(labels[a : a + 4096]), dim), dtype=np.float32
            )
    return home


@pytest.mark.parametrize("row", ROWS)
def test_full_size_fit(benchmark, folder, row):
    def fit() -> list[float]:
        done = subprocess.run([sys.executable, __file__, row, folder], stdout=subprocess.PIPE, text=True, check=True)
        return [float(value) for value in done.stdout.split()]

    seconds, cpu, peak, estimate = benchmark.pedantic(fit, rounds=1)
    benchmark.extra_info |= {"fit_s": seconds, "cpu_s": cpu, "peak_GiB": peak}
    say(f"{row}: {seconds:.0f} s, {cpu:.0f} s of CPU time; peak {peak:.2f} GiB, {estimate:.2f} estimated")
    assert seconds < 60 * MINUTES.get(row, 6) and peak < GIB


def fitted(row: str, folder: Path) -> tuple[float, float, float, float]:
    """Seconds, CPU seconds, peak memory in GiB and its estimate."""
    from cran_bench.bench.measuring import memory
    from cran_bench.registry import METHODS

    rows = np.arange(len(np.load(folder / "labels.npy", mmap_mode="r")))
    train, val = Pairs(folder, rows), Pairs(folder, rows[:1000])
    options = ROWS[row] | {"image": "none", "text_scaling": "none"}
    method = METHODS.get(row.split()[0]).cls(**options)
    estimate = method.memory(train)
    start, cpu = time.perf_counter(), time.process_time()
    with memory(torch.device("cpu")) as measured:
        method.fit(train, val, Run())
    return time.perf_counter() - start, time.process_time() - cpu, measured.peak / 2**30, estimate / 2**30


if __name__ == "__main__":
    sys.stdout.write("{} {} {} {}".format(*fitted(sys.argv[1], Path(sys.argv[2]))))
