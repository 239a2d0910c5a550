"""Bench `similarity`: all pairs of images and texts on three levels (Eq. 11), ranked in both directions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cran_bench.embeddings import Levels, Relations
from cran_bench.machine.arithmetic import has_bfloat16, in_full_precision
from cran_bench.machine.environment import environment
from cran_bench.machine.progress import say
from cran_bench.ranking.backends import fused_scorer
from cran_bench.ranking.filtering import ApproximateScorer, Bound, Filtering
from cran_bench.ranking.metrics import Ranks
from cran_bench.ranking.problem import Clock, Problem, make_problem
from cran_bench.ranking.rank import rank
from cran_bench.ranking.reference import Reference
from cran_bench.ranking.tiles import tiles_for
from cran_bench.similarity import MultiLevel

from .contestants import Plain, by_einsum_and_topk, caption_by_caption
from .measuring import gemm_peak, memory, on_gpu, timed, tried

REGIONS, TOP = 5, 3
NOISE = 12.0  # of texts relative to their image, for an R@1 of about one half
BLOCKS = (128, 256, 512, 1024, 2048)
LONG = 5e7  # pairs from which timing takes one round instead of three
HUGE = 1e9  # pairs from which only the fastest implementation is timed
EVERY = 3e7  # pairs up to which all ranks are checked in float64
SPOT = 200  # images, and texts, whose ranks are checked in float64 otherwise


def three_levels(images: int, texts: int, dim: int, device: torch.device) -> tuple[Levels, Levels, Tensor]:
    """Embeddings that resemble those of a trained method: a caption is its image plus noise."""
    draw = torch.Generator(device=device).manual_seed(0)

    def side(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, device=device)

    image_of = torch.arange(texts, device=device) * images // texts
    globals, regions = side(images, dim), side(images, REGIONS, dim)
    first, second = side(images, REGIONS, dim), side(images, REGIONS, dim)
    sources = globals, regions[:, :3].sum(dim=1) / 3**0.5, (first[:, 0] + second[:, 1]) / 2**0.5
    queries = (own[image_of] + NOISE * side(texts, dim) for own in sources)
    return Levels(globals, regions, Relations(first, second)), Levels(*queries), image_of


def precisions(device: torch.device) -> list[torch.dtype]:
    """The precisions in which a device scores tiles."""
    return [torch.float32, *([torch.bfloat16] if has_bfloat16(device) else [])]


def bench_similarity(images: int, texts: int, dim: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield a row of timings per implementation: the products alone, public code, and ours."""
    left, right, image_of = three_levels(images, texts, dim, device)
    similarity = MultiLevel(cosine=True, top=TOP)
    problem = make_problem(left, right, image_of, similarity)
    bench = Bench("similarity", f"{images:,} x {texts:,}, D {dim:,}, 5 regions, 20 relations, top 3", problem)
    dots = {"factored": 1 + 3 * REGIONS, "plain": 1 + REGIONS + REGIONS * (REGIONS - 1)}
    bench.formula, bench.work = dots["plain"] * 2 * dim, dots["factored"] * 2 * dim
    types = precisions(device)

    for dtype in types:
        bench.peaks[dtype] = gemm_peak(dtype, device)
        bare = bare_products(problem, dtype, dots["factored"], dim)
        yield bench.row("bare products, 16 for each pair", dtype, bare, problem.pairs)
    yield from tried(others(bench, left, right, image_of))
    part = min(images, 500)
    own = slice(int((image_of < part).sum()))
    piece = make_problem(left.rows(slice(part)), right.rows(own), image_of[own], similarity)
    seconds, _ = timed(lambda: Reference().count(piece, Clock(device)), device, 1, warm=False)
    yield bench.row("ours, reference", torch.float64, seconds, piece.pairs)
    for dtype in types:
        for bound in ("measured", "proven"):
            yield from bench.ours(dtype, bound)
        scorers: dict[str, Callable[[Problem], ApproximateScorer]] = {}
        scorers[", compiled"] = partial(tiles_for, dtype=dtype, is_compiled=True)
        if device.type == "cuda" and find_spec("triton") is not None:
            scorers[", one Triton kernel"] = partial(fused_scorer(device), dtype=dtype)
        for how, scorer in scorers.items():
            yield from tried(bench.ours(dtype, "measured", how, scorer))


def others(bench: Bench, left: Levels, right: Levels, image_of: Tensor) -> Iterator[dict[str, Any]]:
    """Yield the rows of public code."""
    images, texts = Plain.of(left), Plain.of(right)
    part = min(len(left), 1000), min(len(right), 2000)
    with torch.inference_mode():
        seconds_of = {
            block: timed(
                partial(by_einsum_and_topk, images.rows(slice(part[0])), texts.rows(slice(part[1])), block),
                image_of.device,
                1,
            )[0]
            for block in BLOCKS
        }
        best = min(seconds_of, key=lambda block: seconds_of[block])
        whole = partial(by_einsum_and_topk, images, texts, best)
        rounds = 3 if bench.problem.pairs < LONG else 1
        with memory(image_of.device) as used:
            scores = whole()
        seconds, _ = timed(whole, image_of.device, rounds, warm=False)
        bench.baseline = seconds / bench.problem.pairs
        exact = bench.problem.similarity.scores(left.rows(slice(SPOT)), right.rows(slice(SPOT)))
        error = float((scores[:SPOT, :SPOT] - exact).abs().max())
        yield bench.row(
            f"einsum and topk, blocks of {best}, no ranks",
            torch.float32,
            seconds,
            bench.problem.pairs,
            is_plain=True,
            error=error,
            extra_mib=used.peak / 2**20,
        )
        count = len(right) // 100
        loop = partial(caption_by_caption, images, texts.rows(slice(count)), image_of)
        seconds, _ = timed(loop, image_of.device, 1)
    pairs = count * len(left)
    yield bench.row("caption by caption, argsort, t2i only", torch.float32, seconds, pairs, is_plain=True, part="1/100")


@dataclasses.dataclass
class Bench:
    """Makes the rows of one task.

    Attributes:
        name: name of the benchmark.
        task: its size in words.
        problem: the images and texts to be ranked.
        formula: FLOP per pair by definition.
        work: FLOP per pair of our implementation, with factored relations.
        peaks: FLOP per second of square matrix products, by dtype.
        baseline: seconds per pair of the alternative that the others are compared with.
    """

    name: str
    task: str
    problem: Problem
    formula: int = 0
    work: int = 0
    peaks: dict[torch.dtype, float] = dataclasses.field(default_factory=dict)
    baseline: float | None = None

    @cached_property
    def truth(self) -> Truth:
        """The counts that ranks are checked against."""
        return truth(self.problem)

    def row(
        self,
        what: str,
        dtype: torch.dtype,
        seconds: float,
        pairs: int,
        is_plain: bool = False,
        part: str | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """A row of timings on all pairs or a part of them; `is_plain` means that relations are not factored.

        GFLOP/s count the operations of the definition; the share of the peak rate counts those actually performed.
        """
        rate = (self.formula if is_plain else self.work) * pairs / seconds
        share = pairs / self.problem.pairs
        peak = self.peaks.get(dtype)
        line = {
            "bench": self.name,
            "task": self.task,
            "what": what,
            "dtype": str(dtype).removeprefix("torch."),
            "part": part or ("all" if share > 0.999 else f"1/{round(1 / share):,}"),
            "seconds": seconds,
            "ns_per_pair": 1e9 * seconds / pairs,
            "gflops": self.formula * pairs / seconds / 1e9,
            "peak_percent": None if peak is None else 100 * rate / peak,
            "times_faster": None if self.baseline is None else self.baseline * pairs / seconds,
            "commit": environment()["commit"],
            **more,
        }
        say(f"  {what}, {line['dtype']}: {seconds:.3g} s, {line['ns_per_pair']:.1f} ns per pair")
        return line

    def ours(
        self,
        dtype: torch.dtype,
        bound: Bound,
        how: str = "",
        make_scorer: Callable[[Problem], ApproximateScorer] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield the row of our ranking, by matrix products unless another scorer is given; compilation is not timed.

        Precision and bound are those with which the ranks were counted in the end.
        """
        problem = self.problem
        sides = problem.images, problem.texts, problem.image_of, problem.similarity
        backend = Filtering(make_scorer or partial(tiles_for, dtype=dtype), bound)
        rounds = 3 if problem.pairs < LONG else 1
        with memory(problem.device) as used:
            ranks = rank(*sides, backend=backend)
        seconds, _ = timed(lambda: rank(*sides, backend=backend), problem.device, rounds, warm=False)
        assert ranks.kernel is not None
        yield self.row(
            f"ours, ranks both ways, {ranks.kernel.bound} bound{how}",
            getattr(torch, ranks.kernel.dtype),
            seconds,
            problem.pairs,
            rescored=ranks.kernel.rescored,
            error=ranks.kernel.error,
            ranks=self.truth.agrees(ranks),
            extra_mib=used.peak / 2**20,
            **on_gpu(lambda: rank(*sides, backend=backend), problem.device),
        )


class Truth(NamedTuple):
    """Counts of the reference backend for some queries.

    Attributes:
        rows: (n,) query images.
        columns: (m,) query texts.
        of_images: (n,) better and tied counts of the images.
        of_texts: (m,) better and tied counts of the texts.
        words: number of queries, for the table.
    """

    rows: Tensor
    columns: Tensor
    of_images: tuple[Tensor, Tensor]
    of_texts: tuple[Tensor, Tensor]
    words: str

    def agrees(self, ranks: Ranks) -> str:
        """Compare ranks with these counts: ``identical (all)`` or ``DIFFERENT (all)``."""
        is_same = all(
            np.array_equal(getattr(counts, name)[queries.cpu().numpy()], exact.cpu().numpy())
            for counts, queries, expected in (
                (ranks.i2t, self.rows, self.of_images),
                (ranks.t2i, self.columns, self.of_texts),
            )
            for name, exact in zip(("better", "tied"), expected, strict=True)
        )
        return f"{'identical' if is_same else 'DIFFERENT'} ({self.words})"


def truth(problem: Problem) -> Truth:
    """The counts of the reference, for all queries or, if that would take minutes, for a sample of each direction."""
    n, t, clock = len(problem.images), len(problem.texts), Clock(problem.device)
    if problem.pairs <= EVERY:
        tally, _ = Reference().count(problem, clock)
        of_images, of_texts = (tally.better_images, tally.tied_images), (tally.better_texts, tally.tied_texts)
        rows, columns = (torch.arange(size, device=problem.device) for size in (n, t))
        return Truth(rows, columns, of_images, of_texts, "all")
    draw = torch.Generator().manual_seed(1)
    rows, columns = (torch.randperm(size, generator=draw)[:SPOT].to(problem.device) for size in (n, t))
    place = torch.full((n,), -1, device=problem.device)  # row of each image in the sample
    place[rows] = torch.arange(len(rows), device=problem.device)
    images = dataclasses.replace(
        problem,
        images=problem.images.rows(rows),
        lengths=None if problem.lengths is None else problem.lengths[rows],
        best=problem.best[rows],
        image_of=place[problem.image_of],
        reach=problem.reach.rows(rows, slice(None)),
        folds=((slice(0, len(rows)), slice(0, t)),),
    )
    texts = dataclasses.replace(
        problem,
        texts=problem.texts.rows(columns),
        positive=problem.positive[columns],
        image_of=problem.image_of[columns],
        reach=problem.reach.rows(slice(None), columns),
        folds=((slice(0, n), slice(0, len(columns))),),
    )
    one, other = (Reference().count(part, clock)[0] for part in (images, texts))
    return Truth(
        rows,
        columns,
        (one.better_images, one.tied_images),
        (other.better_texts, other.tied_texts),
        f"{len(rows)} + {len(columns)}",
    )


def bare_products(problem: Problem, dtype: torch.dtype, dots: int, dim: int) -> float:
    """Seconds of the matrix products alone, timed in one efficient shape on random numbers and scaled up."""
    n, t = len(problem.images), len(problem.texts)
    rows, columns = min(n, 256) * dots, min(t, 4096)
    x, y = (torch.rand(size, dim, device=problem.device).to(dtype) for size in (rows, columns))
    out = torch.empty(rows, columns, dtype=dtype, device=problem.device)
    with in_full_precision(problem.device):
        seconds, _ = timed(lambda: torch.mm(x, y.T, out=out), problem.device, 5)
    return seconds * n * t * dots / (rows * columns)
