"""What `cran-bench bench` measures against: the other ways give the same ranks, and the rows are kept by task."""

import pandas as pd
import pytest
import torch

from cran_bench.bench import measuring, similarity
from cran_bench.bench.contestants import Plain, by_argsort, by_einsum_and_topk, by_product_and_argsort
from cran_bench.bench.contestants import caption_by_caption as loop
from cran_bench.bench.ranking import bench_ranking
from cran_bench.ranking.rank import rank
from cran_bench.similarity import COSINE, MultiLevel

CPU = torch.device("cpu")


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
        path = measuring.save(rows(task, seconds), tmp_path)
    (table,) = tmp_path.glob("*.csv")
    kept = pd.read_csv(table)
    assert list(zip(kept["task"], kept["seconds"], strict=True)) == [("large", 2.0), ("small", 3.0)]
    text = path.read_text()
    assert "## ranking: small" in text and "## ranking: large" in text


def test_the_command(command, tmp_path, monkeypatch):
    from cran_bench.methods.cran import benchmark

    monkeypatch.setattr(benchmark, "IMAGES", 60)
    monkeypatch.setitem(benchmark.STEPS, "compact", 2)
    said = command("bench", "training", "-o", str(tmp_path))
    assert said.code == 0 and "plain module, one step" in said.out and "wrote" in said.err
    row = pd.read_csv(next(tmp_path.glob("*.csv"))).iloc[-1]
    assert row["what"] == "ours, one step" and row["error"] < 1e-3


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
