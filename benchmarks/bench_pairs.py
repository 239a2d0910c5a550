"""Ranking 1,000 images and 5,000 captions by `scan`: 5 regions and 20 words, in both directions of the attention.

`tox -e benchmarks -- -k pairs`.  The target is 2 minutes on two cores, and 1 GiB beyond the embeddings.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from cran_bench.bench.measuring import memory
from cran_bench.embeddings import Levels
from cran_bench.methods.scan import SCAN
from cran_bench.ranking.rank import rank

IMAGES, TEXTS, REGIONS, WORDS, DIM = 1000, 5000, 5, 20, 512
GIB = 1 << 30


@pytest.mark.benchmark(group=f"attention, {IMAGES:,} x {TEXTS:,}, {REGIONS} regions, {WORDS} words, D {DIM}")
@pytest.mark.parametrize("pooling", ["average", "lse"])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_ranking_by_attention(benchmark, direction, pooling):
    draw = torch.Generator().manual_seed(0)
    images, texts = (
        Levels(regions=normalize(torch.randn(*shape, DIM, generator=draw), dim=2))
        for shape in ((IMAGES, REGIONS), (TEXTS, WORDS))
    )
    image_of = torch.arange(TEXTS) * IMAGES // TEXTS
    similarity = SCAN(direction=direction, pooling=pooling).similarity
    with memory(torch.device("cpu")) as used, torch.inference_mode():
        benchmark.pedantic(rank, (images, texts, image_of, similarity), rounds=1)
    assert used.peak < GIB and benchmark.stats["mean"] < 120
