"""Exact counts from inexact scores: what low precision decides is counted, what it leaves open is scored again.

An `ApproximateScorer` scores tiles in float32 or bfloat16.  Where such a score is further from a threshold than its
error bound, the pair is decided; the few other pairs are scored again in float64, as the reference scores all.  The
error bound is either measured on a sample (six standard deviations) or proven from the norms of the vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from cran_bench.machine.progress import say
from cran_bench.ranking.problem import Clock, KernelInfo, Open, Problem, Tally, blocks, pair_scores, settle
from cran_bench.ranking.reference import TILE_BYTES, Reference, count_tile, tile_shape

Bound = Literal["measured", "proven"]

SIGMAS = 6
SMALLEST = 1e-24
SAMPLE_IMAGES, SAMPLE_TEXTS = 64, 512
MOSTLY_OPEN = 1 / 8  # of the pairs of a tile, as where embeddings have collapsed: from there the reference is faster
OPEN_PAIRS = 1 << 20  # pairs that are left open before they are settled
HELD_BYTES = 1 << 28  # of prepared tiles of images


def float32_unit(dim: int, top: int) -> float:
    """How wrong a product of D terms of unit vectors can be in float32, up to the end of the score.

    D roundings in the sum, D in the lengths of both, halved by the root, `top` in the sum over members, and less than
    32 in reciprocals, factors and the sum over levels.
    """
    roundings = (2 * dim + top + 32) * torch.finfo(torch.float32).eps / 2
    return roundings / (1 - roundings)


class Limits(NamedTuple):
    """Of each query, float32: a score above `high` is better for sure, one below `low` is not.

    Attributes:
        low: (Q,).
        high: (Q,).
    """

    low: Tensor
    high: Tensor

    def leave_open(self, queries: Tensor, scores: Tensor) -> Tensor:
        """(P,) bool, which scores decide nothing for their query."""
        return (scores >= self.low[queries]) & (scores <= self.high[queries])


class Screened(NamedTuple):
    """A tile of I images and T texts.

    Attributes:
        of_images: (I,) int32, how many scores are above each image's `high`.
        of_texts: (T,) int32, likewise for texts.
        rows: (P,) int64, images of the pairs that are open for either.
        columns: (P,) int64, their texts.
        scores: (P,) float32, as they were found.
    """

    of_images: Tensor
    of_texts: Tensor
    rows: Tensor
    columns: Tensor
    scores: Tensor


class ApproximateScorer(Protocol):
    """Low-precision scores of tiles; what it makes of a tile's images or texts is its own affair."""

    name: ClassVar[str]
    dtype: torch.dtype
    image_rows: int
    text_rows: int

    def unit(self, dim: int) -> float:
        """How wrong a product of two unit vectors can be at worst, up to the end of the score."""
        ...

    def images(self, rows: slice | Tensor) -> Any:
        """Images made ready."""
        ...

    def texts(self, rows: slice | Tensor) -> Any:
        """Texts made ready."""
        ...

    def scores(self, images: Any, texts: Any) -> Tensor:
        """(I, T) float32."""
        ...

    def screen(self, images: Any, texts: Any, of_images: Limits, of_texts: Limits) -> Screened:
        """Scores against limits."""
        ...


@dataclass(frozen=True)
class Filtering:
    """The backends on screens.

    Attributes:
        screen: makes a screen for a problem.
        bound: `measured` or `proven`.
    """

    screen: Callable[[Problem], ApproximateScorer]
    bound: Bound = "measured"

    def count(self, problem: Problem, clock: Clock) -> tuple[Tally, KernelInfo]:
        """See Backend."""
        if not problem.flop or not problem.is_in_range:  # no region at all, or scores that float32 does not hold
            return Reference().count(problem, clock)
        start = clock.now()
        screen = self.screen(problem)
        found = measured(problem, screen) if self.bound == "measured" else screen.unit
        clock.similarity += clock.now() - start
        tally, kernel, is_sound = count_by(problem, screen, found, self.bound, clock)
        if not is_sound and self.bound == "measured":
            say("a score was further off than six deviations of the sample: counting again with the proven bound")
            tally, kernel, is_sound = count_by(problem, screen, screen.unit, "proven", clock)
        if not is_sound:
            say("a score was further off than can be in this arithmetic: counting again in float64")
            return Reference().count(problem, clock)
        return tally, kernel


def measured(problem: Problem, screen: ApproximateScorer) -> Callable[[int], float]:
    """Six deviations of the error of scores, over what the proven bound is proportional to.

    The sample has own pairs as well as others, since the error may grow with the score.
    """
    draw = torch.Generator().manual_seed(0)
    image_of = problem.image_of
    rows = torch.randperm(len(problem.images), generator=draw)[:SAMPLE_IMAGES].to(image_of.device)
    others = torch.randperm(len(problem.texts), generator=draw)[: SAMPLE_TEXTS // 2].to(image_of.device)
    own = torch.isin(image_of, rows).nonzero().flatten()[: SAMPLE_TEXTS // 2]
    columns = torch.cat([own, others])
    found = screen.scores(screen.images(rows), screen.texts(columns)).double()
    true = problem.similarity.scores(problem.images.rows(rows), problem.texts.rows(columns))
    scale = problem.reach.of_all(rows, columns, lambda _: 1.0)
    ratio = torch.where(scale > 0, (found - true) / scale, 0.0)
    is_own = image_of[columns] == rows[:, None]
    deviation = max(float(ratio[kind].square().mean().sqrt()) for kind in (is_own, ~is_own) if bool(kind.any()))
    unit = max(SIGMAS * deviation, 1.5 * float(ratio.abs().max())) + 4 * torch.finfo(torch.float32).eps
    return lambda _: unit


def count_by(
    problem: Problem, screen: ApproximateScorer, unit: Callable[[int], float], bound: Bound, clock: Clock
) -> tuple[Tally, KernelInfo, bool]:
    """ApproximateScorer all tiles and settle what is left open.

    Args:
        problem: what is counted.
        screen: scores tiles.
        unit: how wrong a product of D terms of unit vectors can be.
        bound: what `unit` is, for the record.
        clock: receives the seconds of screening, and of settling.

    Returns:
        The counts, how they came about, and whether nothing speaks against the bound: no score that was checked is
        further off, and every own pair, as near to its threshold as can be, was left open.
    """
    tally = problem.tally()
    opened = Open.empty(OPEN_PAIRS + math.ceil(MOSTLY_OPEN * screen.image_rows * screen.text_rows), problem.device)
    rescored, pending, own, error, widest, is_sound = 0, 0, 0, 0.0, 0.0, True

    def check(pairs: Open, scores: Tensor) -> None:
        nonlocal error, is_sound
        off = (pairs.scores - scores).abs()
        error = max(error, float(off.max()))
        is_sound &= bool((off <= problem.reach.of_pairs(pairs.rows, pairs.columns, unit) + SMALLEST).all())

    def close() -> None:
        nonlocal pending, own, rescored, error, is_sound
        if pending:
            pairs = opened.where(slice(pending))
            is_own = problem.image_of[pairs.columns] == pairs.rows
            own += int((is_own & pairs.of_text).sum())
            pairs = pairs.where(~is_own)
            rescored += len(pairs.rows)
            if screen.dtype != torch.float32 and len(pairs.rows):
                scores = narrow(problem, tally, pairs)
                check(pairs, scores)
                pairs = pairs._replace(scores=scores).where(pairs.of_image | pairs.of_text)
            if len(pairs.rows):
                check(pairs, settle(problem, tally, pairs))
        pending = 0

    image_bytes = 4 * sum(x[0].numel() for x in problem.images.tensors())
    reference_rows = tile_shape(problem, TILE_BYTES)[0]
    held = max(1, HELD_BYTES // (image_bytes * screen.image_rows)) * screen.image_rows
    for some, against in ((some, columns) for rows, columns in problem.folds for some in blocks(rows, held)):
        start = clock.now()
        ready = [(rows, screen.images(rows)) for rows in blocks(some, screen.image_rows)]
        for columns in blocks(against, screen.text_rows):
            texts = screen.texts(columns)
            for rows, images in ready:
                of_images, of_texts, tolerance = limits(problem, rows, columns, unit)
                widest = max(widest, tolerance)
                found = screen.screen(images, texts, of_images, of_texts)
                pairs = len(of_images.low) * len(of_texts.low)
                if len(found.rows) > MOSTLY_OPEN * pairs:
                    own += sum(count_tile(problem, tally, some, columns) for some in blocks(rows, reference_rows))
                    rescored += pairs
                    continue
                tally.better_images[rows] += found.of_images
                tally.better_texts[columns] += found.of_texts
                added = Open(
                    found.rows + rows.start,
                    found.columns + columns.start,
                    found.scores,
                    of_images.leave_open(found.rows, found.scores),
                    of_texts.leave_open(found.columns, found.scores),
                )
                for held_open, some_open in zip(opened, added, strict=True):
                    held_open[pending : pending + len(found.rows)] = some_open
                pending += len(found.rows)
                if pending > OPEN_PAIRS:
                    clock.similarity += clock.now() - start
                    start = clock.now()
                    close()
                    clock.rank += clock.now() - start
                    start = clock.now()
        clock.similarity += clock.now() - start
    start = clock.now()
    close()
    clock.rank += clock.now() - start
    name = str(screen.dtype).removeprefix("torch.")
    kernel = KernelInfo(screen.name, name, bound, widest, rescored, error)
    return tally, kernel, is_sound and own == len(problem.texts)


def narrow(problem: Problem, tally: Tally, pairs: Open) -> Tensor:
    """Decide what float32 can, with the proven bound; the other pairs stay open.

    Returns:
        (P,) scores in float32; `of_image` and `of_text` are changed to what is open still.
    """
    scores = pair_scores(problem.images, problem.texts, problem.similarity, pairs.rows, pairs.columns, torch.float32)
    tolerance = SMALLEST + problem.reach.of_pairs(pairs.rows, pairs.columns, lambda dim: float32_unit(dim, problem.top))
    for query, threshold, is_open, better in (
        (pairs.rows, problem.best, pairs.of_image, tally.better_images),
        (pairs.columns, problem.positive, pairs.of_text, tally.better_texts),
    ):
        above = scores > threshold[query] + tolerance
        better.index_add_(0, query, (above & is_open).int())
        is_open &= (scores >= threshold[query] - tolerance) & ~above
    return scores


def limits(problem: Problem, rows: slice, columns: slice, unit: Callable[[int], float]) -> tuple[Limits, Limits, float]:
    """Of the images and texts of a tile, and the largest tolerance among them."""
    of_images = torch.zeros(rows.stop - rows.start, dtype=torch.float64, device=problem.device)
    of_texts = torch.zeros(columns.stop - columns.start, dtype=torch.float64, device=problem.device)
    for level in problem.reach.levels:
        scale = unit(level.dim) * level.weight
        images, texts = level.images[rows], level.texts[columns]
        of_images += scale * images * texts.max()
        of_texts += scale * texts * images.max()
    found = []
    for threshold, tolerance in ((problem.best[rows], of_images), (problem.positive[columns], of_texts)):
        # limits are rounded themselves, and products below float32's range are lost
        slack = tolerance + threshold.abs() * 2 * torch.finfo(torch.float32).eps + SMALLEST
        found.append(Limits((threshold - slack).float(), (threshold + slack).float()))
    return found[0], found[1], float(torch.maximum(of_images.max(), of_texts.max()))
