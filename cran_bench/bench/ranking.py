"""Bench `ranking`: one vector per image and text, as in ten of the eleven methods, ranked in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from cran_bench.embeddings import Levels
from cran_bench.ranking.problem import make_problem
from cran_bench.similarity import COSINE

from .contestants import by_faiss, by_product_and_argsort, by_product_and_comparison
from .measuring import gemm_peak, memory, timed, tried
from .similarity import HUGE, Bench, bare_products, precisions

SORTED_PAIRS = 2e8  # beyond, the whole matrix and its order do not fit into memory
NOISE = 8.0  # of texts relative to their image, for an R@1 of about one half


def bench_ranking(images: int, texts: int, dim: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield a row of timings per implementation."""
    draw = torch.Generator(device=device).manual_seed(0)
    image_of = torch.arange(texts, device=device) * images // texts
    left = torch.randn(images, dim, generator=draw, device=device)
    right = left[image_of] + NOISE * torch.randn(texts, dim, generator=draw, device=device)
    problem = make_problem(Levels(left), Levels(right), image_of, COSINE)
    bench = Bench("ranking", f"{images:,} x {texts:,}, D {dim:,}, one vector", problem, 2 * dim, 2 * dim)
    types = precisions(device)
    for dtype in types:
        bench.peaks[dtype] = gemm_peak(dtype, device)
        yield bench.row("bare product", dtype, bare_products(problem, dtype, 1, dim), problem.pairs)
    if problem.pairs <= SORTED_PAIRS:
        x, y = (torch.nn.functional.normalize(side) for side in (left, right))
        with torch.inference_mode():
            alternatives: dict[str, Callable[..., object]] = {
                "product and argsort both ways": by_product_and_argsort,
                "product and comparison, the whole matrix": by_product_and_comparison,
            }
            if find_spec("faiss") is not None and device.type == "cpu":
                alternatives["faiss, first ten both ways, no ranks"] = by_faiss
            for what, alternative in alternatives.items():
                yield from tried(other(bench, what, partial(alternative, x, y, image_of)))
    if problem.pairs >= HUGE:
        yield from bench.ours(types[-1], "measured")
        return
    for dtype in types:
        for bound in ("measured", "proven"):
            yield from bench.ours(dtype, bound)


def other(bench: Bench, what: str, call: Callable[[], object]) -> Iterator[dict[str, Any]]:
    """Yield the row of an alternative; the others are compared with the first one."""
    device, pairs = bench.problem.device, bench.problem.pairs
    with memory(device) as used:
        call()
    seconds, _ = timed(call, device, 1, warm=False)
    bench.baseline = bench.baseline or seconds / pairs
    yield bench.row(what, torch.float32, seconds, pairs, extra_mib=used.peak / 2**20)
