"""Several right answers: all 5,000 images and 25,000 captions of MS-COCO's size ask, with 18 right answers on average.

`tox -e benchmarks -- -k relevance`.  The targets are two minutes of CPU time a direction, and 1 GiB beyond the problem.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from cran_bench.bench.measuring import memory
from cran_bench.machine.progress import say
from cran_bench.ranking.problem import make_problem
from cran_bench.ranking.retrieval import retrieve
from cran_bench.similarity import COSINE

IMAGES, TEXTS, DIM, RIGHT = 5000, 25000, 1024, 18
GIB = 1 << 30


@pytest.mark.benchmark(group=f"several right answers, {IMAGES:,} x {TEXTS:,}, D {DIM}")
@pytest.mark.parametrize("is_text", [False, True], ids=["i2t", "t2i"])
def test_retrieval_with_several_right_answers(benchmark, is_text):
    draw, random = torch.Generator().manual_seed(0), np.random.default_rng(0)
    images, texts = (torch.randn(count, DIM, generator=draw) for count in (IMAGES, TEXTS))
    sizes = (TEXTS, IMAGES) if is_text else (IMAGES, TEXTS)
    query = np.repeat(np.arange(sizes[0]), random.integers(1, 2 * RIGHT, sizes[0]))
    pairs = np.unique(np.stack([query, random.integers(0, sizes[1], len(query))]), axis=1)
    problem = make_problem(images, texts, torch.arange(TEXTS) * IMAGES // TEXTS, COSINE)
    given = problem, *pairs, np.ones(pairs.shape[1]), is_text
    start = time.process_time()
    with memory(torch.device("cpu")) as used, torch.inference_mode():
        found = benchmark.pedantic(retrieve, given, rounds=1)
    cpu = time.process_time() - start
    benchmark.extra_info |= {"cpu_s": cpu, "peak_GiB": used.peak / GIB}
    say(f"{len(found.query):,} queries: {cpu:.0f} s of CPU time, peak {used.peak / GIB:.2f} GiB")
    assert len(found.query) == sizes[0] and used.peak < GIB and cpu < 120
