"""The benchmarks run on pretended CUDA, with ranks that are checked; their seconds mean nothing there."""

import pytest
from pretended_cuda import CUDA

from cran_bench.bench import ranking, similarity
from cran_bench.bench.training import bench_training
from cran_bench.registry import METHODS

pytestmark = pytest.mark.sweep


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small products, tiles and steps, and no Triton, which compiles for a real GPU."""
    from cran_bench.methods.cran import benchmark

    for module in (similarity, ranking):
        monkeypatch.setattr(module, "gemm_peak", lambda *_: 1e12)
        monkeypatch.setattr(module, "find_spec", lambda _: None)
    monkeypatch.setattr(similarity, "BLOCKS", (64,))
    monkeypatch.setattr(benchmark, "IMAGES", 60)
    monkeypatch.setitem(benchmark.STEPS, "compact", 2)


@pytest.mark.parametrize("bench", [similarity.bench_similarity, ranking.bench_ranking])
def test_rankings(gpu, bench):
    rows = list(bench(60, 200, 16, CUDA))
    ours = [row for row in rows if row["what"].startswith("ours, ranks")]
    assert {row["ranks"] for row in ours} == {"identical (all)"}
    assert {row["dtype"] for row in ours} == {"float32", "bfloat16", "float16"}
    assert gpu.launches.total() and all(row["seconds"] > 0 for row in rows)


def test_training_steps(gpu):
    plain, ours = bench_training(METHODS.configure("cran"), CUDA)
    assert ours["error"] < 1e-3 and plain["seconds"] > 0
