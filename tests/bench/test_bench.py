"""What `cran-bench bench` measures against: the other ways give the same ranks, and the rows are kept by task."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from cran_bench.bench import measuring, similarity
from cran_bench.bench.contestants import Plain, by_argsort, by_einsum_and_topk, by_product_and_argsort
from cran_bench.bench.contestants import caption_by_caption as loop
from cran_bench.bench.ranking import bench_ranking
from cran_bench.machine.arithmetic import uses_onednn
from cran_bench.machine.environment import environment
from cran_bench.ranking.rank import rank
from cran_bench.similarity import COSINE, MultiLevel

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_long_products(monkeypatch):
    """The peak rate is that of small products."""
    monkeypatch.setattr(measuring, "LONG_ENOUGH", 1e-9)


@pytest.fixture
def small(monkeypatch):
    """Levels of 40 images and 90 texts."""
    monkeypatch.setattr(similarity, "NOISE", 2.0)
    return similarity.three_levels(40, 90, 16, CPU)


def test_other_ways_to_the_scores_give_the_same_ranks(small):
    images, texts, image_of = small
    expected = rank(images, texts, image_of, MultiLevel(cosine=True), backend="reference")
    plain = Plain.of(images), Plain.of(texts)
    scores = MultiLevel(cosine=True).scores(images, texts).float()
    for block in (16, 64, 128):
        torch.testing.assert_close(by_einsum_and_topk(*plain, block), scores)
    of_images, of_texts = by_argsort(scores, image_of)
    assert of_images.tolist() == expected.i2t.better.tolist()
    assert of_texts.tolist() == expected.t2i.better.tolist() == loop(*plain, image_of).tolist()


def test_other_ways_to_rank_vectors_give_the_same_ranks(small):
    images, texts, image_of = small
    expected = rank(images.globals, texts.globals, image_of, COSINE)
    sides = (torch.nn.functional.normalize(side.globals) for side in (images, texts))
    of_images, of_texts = by_product_and_argsort(*sides, image_of)  # type: ignore[call-arg]
    assert of_images.tolist() == expected.i2t.better.tolist()
    assert of_texts.tolist() == expected.t2i.better.tolist()


def test_faiss_finds_the_same_first_ten(small):
    pytest.importorskip("faiss")
    from cran_bench.bench.contestants import by_faiss

    images, texts, image_of = small
    expected = rank(images.globals, texts.globals, image_of, COSINE)
    of_images, of_texts = by_faiss(*(torch.nn.functional.normalize(s.globals) for s in (images, texts)), image_of)  # type: ignore[call-arg]
    assert of_images.tolist() == (expected.i2t.better < 10).tolist()
    assert of_texts.tolist() == (expected.t2i.better < 10).tolist()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, in its own compiler
def test_a_task_is_measured_and_its_ranks_checked(monkeypatch):
    monkeypatch.setattr(similarity, "BLOCKS", (64,))
    rows = list(similarity.bench_similarity(100, 200, 16, CPU))
    ours = [row for row in rows if row["what"].startswith("ours, ranks")]
    assert {row["ranks"] for row in ours} == {"identical (all)"}
    assert all(row["seconds"] > 0 and row["times_faster"] > 0 for row in ours)
    (baseline,) = [row for row in rows if row["what"].startswith("einsum")]
    assert baseline["times_faster"] == pytest.approx(1)


def test_ranks_of_a_large_task_are_checked_for_some_queries(monkeypatch):
    monkeypatch.setattr(similarity, "EVERY", 100)
    monkeypatch.setattr(similarity, "SPOT", 7)
    ours = [row for row in bench_ranking(100, 200, 16, CPU) if row["what"].startswith("ours")]
    assert ours and {row["ranks"] for row in ours} == {"identical (7 + 7)"}


def test_wrong_ranks_are_called_different(small):
    from cran_bench.ranking.problem import make_problem

    images, texts, image_of = small
    true = similarity.truth(make_problem(images, texts, image_of, MultiLevel()))
    ranks = rank(images, texts, image_of, MultiLevel())
    assert true.agrees(ranks) == "identical (all)"
    ranks.t2i.better[3] += 1
    assert true.agrees(ranks) == "DIFFERENT (all)"


def test_rows_replace_those_of_the_same_task(tmp_path):
    def rows(task, seconds):
        return [{"bench": "ranking", "task": task, "what": "ours", "dtype": "float32", "seconds": seconds}]

    for task, seconds in (("small", 1.0), ("large", 2.0), ("small", 3.0)):
        path = measuring.save(rows(task, seconds), tmp_path, CPU)
    (table,) = tmp_path.glob("*.csv")
    kept = pd.read_csv(table)
    assert list(zip(kept["task"], kept["seconds"], strict=True)) == [("large", 2.0), ("small", 3.0)]
    text = path.read_text()
    assert "## ranking: small" in text and "## ranking: large" in text


def test_timings_go_to_the_file_of_their_device(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA X{device.index or 0}")
    monkeypatch.setattr(measuring, "environment", lambda: {**environment(), "cpu": "A Chip", "gpu": "NVIDIA X0"})
    rows = [{"bench": "ranking", "task": "small", "what": "ours", "dtype": "float32", "seconds": 1.0}]
    for device in (torch.device("cuda", 1), torch.device("cuda"), CPU):
        measuring.save(rows, tmp_path, device)
    names = sorted(path.name for path in tmp_path.glob("*.csv"))
    assert names[1:] == ["nvidia-x0.csv", "nvidia-x1.csv"] and names[0].startswith("a-chip-")
    assert (tmp_path / "nvidia-x1.md").read_text().startswith("# NVIDIA X1, torch")


def event(name, start, end, kind="CUDA", annotation=False):
    """An event as torch.profiler gives it, in microseconds."""
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start, end=end),
        device_type=SimpleNamespace(name=kind),
        is_user_annotation=annotation,
    )


def test_kernels_are_summarised():
    seen = measuring.kernels(
        [
            event("ProfilerStep*", 0, 1000),
            event("a step", 0, 1000, annotation=True),
            event("gemm", 100, 200),
            event("count", 150, 250),  # on another stream
            event("inner", 160, 170),
            event("gemm", 300, 400),
            event("cudaLaunchKernel", 50, 60, "CPU"),
            event("cudaGraphLaunch", 60, 70, "CPU"),
            event("cudaStreamSynchronize", 70, 400, "CPU"),
        ],
        "CUDA",
    )
    assert seen is not None and seen[:3] == (4, 2, 1)
    assert (seen.busy, seen.idle) == pytest.approx((250e-6, 50e-6))
    assert seen.longest[0][:2] == ("gemm", 2) and seen.longest[0][2] == pytest.approx(200e-6)
    assert measuring.kernels([event("aten::mm", 0, 1, "CPU")], "CUDA") is None


def test_the_profiler_sees_the_second_call():
    calls = []
    seen = measuring.profiled(lambda: calls.append(torch.ones(3) + len(calls)), CPU)
    assert len(calls) == 2 and seen is not None and seen.number > 0
    assert [number for name, number, _ in seen.longest if name == "aten::add"] == [1]


def test_launches_are_columns_of_a_gpu(monkeypatch):
    monkeypatch.setattr(measuring, "profiled", lambda *_: measuring.Kernels(9, 7, 2, 0.3, 0.1, []))
    columns = measuring.on_gpu(int, torch.device("cuda"))
    assert columns == {"launches": 7, "waits": 2, "idle_percent": pytest.approx(25)}
    assert not measuring.on_gpu(int, CPU)


def test_the_peak_is_that_of_float32_even_if_tf32_is_on(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "matmul", lambda x, y: seen.append(torch.get_float32_matmul_precision()))
    torch.set_float32_matmul_precision("high")
    try:
        assert measuring.gemm_peak(torch.float32, CPU) > 0
        inside = "medium" if uses_onednn() else "highest"  # either way the products keep float32's bits
        assert set(seen) == {inside} and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_an_alternative_that_does_not_fit_is_left_out(monkeypatch, capsys):
    from cran_bench.bench import ranking

    def too_large(*_):
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    monkeypatch.setattr(ranking, "by_product_and_argsort", too_large)
    monkeypatch.setattr(ranking, "gemm_peak", lambda *_: 1e12)
    rows = (row["what"] for row in bench_ranking(100, 200, 16, CPU) if not row["what"].startswith("bare"))
    assert next(rows) == "product and comparison, the whole matrix"
    assert "left out: OutOfMemoryError: tried to allocate 9 GiB" in capsys.readouterr().err


def test_operations_of_a_step_are_those_of_the_paper():
    from cran_bench.methods.cran.benchmark import flop_of_pair
    from cran_bench.methods.cran.model import Network
    from cran_bench.methods.cran.recipe import LEVELS, EncoderOptions, Recipe

    recipe = Recipe(encoder=EncoderOptions(width="full"))
    with torch.device("meta"):
        network = Network(recipe, LEVELS, 4096, 4096)
    # three text encoders of 750 and image layers of 193 million products, each with two more backward
    assert flop_of_pair(network, recipe, 4096) == pytest.approx(6e6 * (3 * 752.5 + 193.2), rel=0.002)


def test_the_command(command, tmp_path, monkeypatch):
    from cran_bench.methods.cran import benchmark

    monkeypatch.setattr(benchmark, "IMAGES", 60)
    monkeypatch.setitem(benchmark.STEPS, "compact", 2)
    said = command("bench", "training", "-o", str(tmp_path))
    assert said.code == 0 and "plain module, one step" in said.out and "wrote" in said.err
    row = pd.read_csv(next(tmp_path.glob("*.csv"))).iloc[-1]
    assert row["what"] == "ours, one step" and row["error"] < 1e-3 and row["peak_percent"] > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bench", "similarty"], "there is no benchmark 'similarty'; did you mean 'similarity'?"),
        (["bench", "training", "-m", "cran[width=ful]"], "field 'width' is 'ful'; did you mean 'full'?"),
        (["bench", "training", "-m", "cca"], "cca has no training step to time; these have one: cran"),
        (["bench", "ranking", "--texts", "100"], "give at least as many --texts as --images, not 100 for 5000"),
        (["run", "cca", "--backend", "torsh"], "there is no backend 'torsh'; did you mean 'torch'?"),
        (["run", "cca", "--bound", "prove"], "there is no bound 'prove'; did you mean 'proven'?"),
    ],
)
def test_mistakes(command, arguments, sentence):
    said = command(*arguments)
    assert said.code == 2 and sentence in said.sentence
