"""A ranking on pretended CUDA has the CPU's ranks, and few launches and synchronisations, whatever its size."""

import dataclasses
from functools import partial
from itertools import product

import pytest
import torch
from pretended_cuda import CUDA

from cran_bench.bench.similarity import three_levels
from cran_bench.embeddings import Levels
from cran_bench.ranking.filtering import Filtering
from cran_bench.ranking.pairs import backend_of
from cran_bench.ranking.problem import make_problem
from cran_bench.ranking.rank import rank
from cran_bench.ranking.retrieval import retrieve
from cran_bench.ranking.tiles import Tiles, tiles_for
from cran_bench.similarity import COSINE, DOT, MultiLevel, Pairwise

MOST_LAUNCHES, MOST_SYNCS = 400, 10  # of one ranking of 5,000 images and 25,000 texts on three levels
THREE = MultiLevel(cosine=True, top=3)
CPU = torch.device("cpu")


def small(precision):
    return Filtering(lambda problem: Tiles(problem, precision, False, 32, 128))


def on(device, embedding):
    return embedding.map(lambda x: x.to(device)) if isinstance(embedding, Levels) else embedding.to(device)


KINDS = ("levels", "masked", "cosine", "dot")
SCORERS = {"float64": "reference", "float32": small(torch.float32), "bfloat16": small(torch.bfloat16)}
EACH = [("levels", "float64", 0), ("levels", "float32", 0), ("masked", "bfloat16", 5), ("cosine", "bfloat16", 0)]


@pytest.mark.parametrize(
    ("kind", "scorer", "folds"),
    [pytest.param(*row, marks=[] if row in EACH else pytest.mark.sweep) for row in product(KINDS, SCORERS, (0, 5))],
)
def test_ranks_are_those_of_the_cpu(gpu, kind, scorer, folds):
    images, texts, owner = three_levels(60, 150, 8, CPU)
    similarity = {"cosine": COSINE, "dot": DOT}.get(kind, THREE)
    if kind == "masked":
        images = dataclasses.replace(images, mask=torch.rand(60, 5, generator=torch.Generator().manual_seed(0)) > 0.3)
    if kind in ("cosine", "dot"):
        images, texts = images.globals, texts.globals
    expected = rank(images, texts, owner, similarity, backend="reference", folds=folds)
    ranks = rank(on(CUDA, images), on(CUDA, texts), owner.to(CUDA), similarity, backend=SCORERS[scorer], folds=folds)
    for given, right in ((ranks.i2t, expected.i2t), (ranks.t2i, expected.t2i)):
        assert given.better.tolist() == right.better.tolist() and given.tied.tolist() == right.tied.tolist()
    assert not +gpu.unordered


@pytest.mark.parametrize("kind", ["random", "tied", "reranked"])
def test_average_precisions_are_those_of_the_cpu(gpu, kind):
    images, texts, owner = three_levels(60, 150, 8, CPU)
    images, texts = (side.globals.sign() if kind == "tied" else side.globals for side in (images, texts))
    labels = torch.eye(4)[torch.arange(60) % 4]
    similarity = Pairwise(lambda some, others: (some @ others.T).round(), rerank=5) if kind == "reranked" else DOT
    how = {"backend": backend_of(similarity)}
    expected = rank(images, texts, owner, similarity, labels=labels, **how).precisions.figures()
    images, texts, owner, labels = (x.to(CUDA) for x in (images, texts, owner, labels))
    found = rank(images, texts, owner, similarity, labels=labels, **how).precisions.figures()
    assert found == pytest.approx(expected, abs=1e-12)
    assert not +gpu.unordered


@pytest.mark.parametrize("kind", ["random", "tied"])
def test_several_right_answers_are_found_as_on_the_cpu(gpu, kind):
    images, texts, owner = three_levels(60, 150, 8, CPU)
    images, texts = (side.globals.sign() if kind == "tied" else side.globals for side in (images, texts))
    pairs = torch.arange(0, 60 * 150, 17)
    query, answer, grade = pairs // 60, pairs % 60, 1 + pairs % 3
    expected = retrieve(make_problem(images, texts, owner, DOT), query, answer, grade, True)
    problem = make_problem(images.to(CUDA), texts.to(CUDA), owner.to(CUDA), DOT)
    found = retrieve(problem, query, answer, grade, True)
    for name, values in vars(expected).items():
        assert getattr(found, name) == pytest.approx(values, abs=1e-12), name
    assert not +gpu.unordered


def counted(gpu, images, texts, backend):
    sides = three_levels(images, texts, 8, CUDA)
    gpu.reset()
    rank(*sides, THREE, backend=backend)
    launches, syncs = gpu.launches.total(), gpu.syncs.total()
    report = f"{launches:,} launches, {syncs:,} synchronisations, {gpu.uploads.total()} uploads; most of them at "
    return launches, syncs, report + str([counter.most_common(5) for counter in (gpu.launches, gpu.syncs)])


@pytest.mark.sweep
def test_a_large_ranking_is_few_launches_and_synchronisations(gpu):
    launches, syncs, report = counted(gpu, 5000, 25000, Filtering(partial(tiles_for, dtype=torch.bfloat16)))
    assert launches <= MOST_LAUNCHES and syncs <= MOST_SYNCS, report
