"""Scoring and ranking 1,000 images and 5,000 captions (one fold), compared with common alternatives.

`tox -e benchmarks -- -k kernels`; `cran-bench bench` times larger tasks, with memory and ranks checked.
"""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch

from cran_bench.bench.contestants import (
    Plain,
    by_argsort,
    by_einsum_and_topk,
    by_faiss,
    by_product_and_argsort,
    by_product_and_comparison,
)
from cran_bench.bench.similarity import three_levels
from cran_bench.machine.arithmetic import has_bfloat16
from cran_bench.ranking.filtering import Filtering
from cran_bench.ranking.rank import rank
from cran_bench.ranking.tiles import tiles_for
from cran_bench.similarity import COSINE, MultiLevel

IMAGES, TEXTS, DIM = 1000, 5000, 1024
DTYPES = [torch.float32, *([torch.bfloat16] if has_bfloat16(torch.device("cpu")) else [])]
levels = pytest.mark.benchmark(group=f"three levels, {IMAGES:,} x {TEXTS:,}, D {DIM:,}")
vectors = pytest.mark.benchmark(group=f"one vector, {IMAGES:,} x {TEXTS:,}, D {DIM:,}")


@cache
def embeddings():
    return three_levels(IMAGES, TEXTS, DIM, torch.device("cpu"))


def ours(dtype, similarity, images, texts, image_of):
    return rank(images, texts, image_of, similarity, backend=Filtering(partial(tiles_for, dtype=dtype)))


@levels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ours_on_levels(benchmark, dtype):
    images, texts, image_of = embeddings()
    similarity = MultiLevel(cosine=True)
    ranks = benchmark.pedantic(ours, (dtype, similarity, images, texts, image_of), rounds=3, warmup_rounds=1)
    assert (ranks.t2i.better == rank(images, texts, image_of, similarity, backend="reference").t2i.better).all()


@levels
@torch.inference_mode()
@pytest.mark.parametrize("block", [256, 512, 1024])
def test_einsum_and_topk(benchmark, block):
    images, texts, _ = embeddings()
    sides = Plain.of(images), Plain.of(texts)
    benchmark.pedantic(by_einsum_and_topk, (*sides, block), rounds=2, warmup_rounds=1)


@vectors
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ours_on_vectors(benchmark, dtype):
    images, texts, image_of = embeddings()
    sides = images.globals, texts.globals
    ranks = benchmark.pedantic(ours, (dtype, COSINE, *sides, image_of), rounds=5, warmup_rounds=1)
    _, of_texts = by_argsort(COSINE.scores(*sides), image_of)
    assert (ranks.t2i.better == of_texts.numpy()).all()


@vectors
@torch.inference_mode()
@pytest.mark.parametrize("alternative", [by_product_and_argsort, by_product_and_comparison, by_faiss])
def test_alternatives(benchmark, alternative):
    images, texts, image_of = embeddings()
    if alternative is by_faiss:
        pytest.importorskip("faiss")
    sides = (torch.nn.functional.normalize(side.globals) for side in (images, texts))
    benchmark.pedantic(alternative, (*sides, image_of), rounds=2, warmup_rounds=1)
