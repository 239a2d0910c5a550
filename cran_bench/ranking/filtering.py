"""Exact counts from low-precision scores: pairs that are too close to a threshold are scored again in float64.

An `ApproximateScorer` scores tiles in float32 or bfloat16.  A pair is decided if its score is further from the
threshold than the error bound; the few others are scored again in float64, as the reference backend scores all pairs.
The error bound is either measured on a sample (six standard deviations) or proven from the norms of the vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from cran_bench.machine.progress import say
from cran_bench.ranking.problem import Clock, KernelInfo, Problem, Tally, UndecidedPairs, blocks, pair_scores, rescore
from cran_bench.ranking.reference import TILE_BYTES, Reference, count_tile, tile_shape

Bound = Literal["measured", "proven"]

SIGMAS = 6
SMALLEST = 1e-24
SAMPLE_IMAGES, SAMPLE_TEXTS = 64, 512
MOSTLY_UNDECIDED = 1 / 8  # share of a tile's pairs above which the reference is faster, as for collapsed embeddings
BUFFERED_PAIRS = 1 << 20  # undecided pairs that are collected before they are scored again
PREPARED_BYTES = 1 << 28  # of prepared image tiles


def float32_error(dim: int, top: int) -> float:
    """The largest float32 error of a score, relative to the lengths of its D-dimensional vectors.

    D roundings in the inner product, D in the two lengths (halved by the square root), `top` in the sum over members,
    and fewer than 32 in reciprocals, factors and the sum over levels.
    """
    roundings = (2 * dim + top + 32) * torch.finfo(torch.float32).eps / 2
    return roundings / (1 - roundings)


class Limits(NamedTuple):
    """The thresholds of Q queries, minus and plus the error bound.

    Attributes:
        low: (Q,) float32; a candidate that scores less is certainly worse than the right one.
        high: (Q,) float32; a candidate that scores more is certainly better.
    """

    low: Tensor
    high: Tensor

    def contain(self, queries: Tensor, scores: Tensor) -> Tensor:
        """(P,) bool, which scores lie between the limits of their query."""
        return (scores >= self.low[queries]) & (scores <= self.high[queries])


class TileCounts(NamedTuple):
    """The result of comparing a tile of I images and T texts with their limits.

    Attributes:
        of_images: (I,) int32, the number of scores above each image's `high`.
        of_texts: (T,) int32, the number of scores above each text's `high`.
        rows: (P,) int64, the images of the pairs undecided in either direction.
        columns: (P,) int64, their texts.
        scores: (P,) float32, their scores.
    """

    of_images: Tensor
    of_texts: Tensor
    rows: Tensor
    columns: Tensor
    scores: Tensor


class ApproximateScorer(Protocol):
    """Scores tiles in low precision; each implementation chooses its own form of prepared images and texts."""

    name: ClassVar[str]
    dtype: torch.dtype
    image_rows: int
    text_rows: int

    def unit_error(self, dim: int) -> float:
        """The largest error of a score of two `dim`-dimensional unit vectors."""
        ...

    def images(self, rows: slice | Tensor) -> Any:
        """Prepare some images for `scores` and `compare`."""
        ...

    def texts(self, rows: slice | Tensor) -> Any:
        """Prepare some texts for `scores` and `compare`."""
        ...

    def scores(self, images: Any, texts: Any) -> Tensor:
        """(I, T) float32 scores of prepared images and texts."""
        ...

    def compare(self, images: Any, texts: Any, of_images: Limits, of_texts: Limits) -> TileCounts:
        """Compare the scores of prepared images and texts with their limits."""
        ...


@dataclass(frozen=True)
class Filtering:
    """The backends `torch` and `triton`: low-precision scores, with undecided pairs scored again in float64.

    Attributes:
        make_scorer: makes the approximate scorer of a problem.
        bound: error bound of its scores, `measured` or `proven`.
    """

    make_scorer: Callable[[Problem], ApproximateScorer]
    bound: Bound = "measured"

    def count(self, problem: Problem, clock: Clock) -> tuple[Tally, KernelInfo]:
        if not problem.flop or not problem.is_in_range:  # no region at all, or scores outside the range of float32
            return Reference().count(problem, clock)
        start = clock.now()
        scorer = self.make_scorer(problem)
        unit_error = measured(problem, scorer) if self.bound == "measured" else scorer.unit_error
        clock.similarity += clock.now() - start
        tally, kernel, is_sound = count_with(problem, scorer, unit_error, self.bound, clock)
        if not is_sound and self.bound == "measured":
            say("a score exceeded the error bound measured on the sample: counting again with the proven bound")
            tally, kernel, is_sound = count_with(problem, scorer, scorer.unit_error, "proven", clock)
        if not is_sound:
            say("a score exceeded the proven error bound: counting again in float64")
            return Reference().count(problem, clock)
        return tally, kernel


def measured(problem: Problem, scorer: ApproximateScorer) -> Callable[[int], float]:
    """The error bound measured on a sample: six standard deviations of the relative error, whatever the dimension.

    The sample contains positive and negative pairs, because the error may grow with the score.
    """
    draw = torch.Generator().manual_seed(0)
    image_of = problem.image_of
    rows = torch.randperm(len(problem.images), generator=draw)[:SAMPLE_IMAGES].to(image_of.device)
    others = torch.randperm(len(problem.texts), generator=draw)[: SAMPLE_TEXTS // 2].to(image_of.device)
    own = torch.isin(image_of, rows).nonzero().flatten()[: SAMPLE_TEXTS // 2]
    columns = torch.cat([own, others])
    approximate = scorer.scores(scorer.images(rows), scorer.texts(columns)).double()
    exact = problem.similarity.scores(problem.images.rows(rows), problem.texts.rows(columns))
    scale = problem.reach.of_all(rows, columns, lambda _: 1.0)
    ratio = torch.where(scale > 0, (approximate - exact) / scale, 0.0)
    is_positive = image_of[columns] == rows[:, None]
    deviation = max(
        float(ratio[kind].square().mean().sqrt()) for kind in (is_positive, ~is_positive) if bool(kind.any())
    )
    unit_error = max(SIGMAS * deviation, 1.5 * float(ratio.abs().max())) + 4 * torch.finfo(torch.float32).eps
    return lambda _: unit_error


def count_with(
    problem: Problem, scorer: ApproximateScorer, unit_error: Callable[[int], float], bound: Bound, clock: Clock
) -> tuple[Tally, KernelInfo, bool]:
    """Compare all tiles with their limits and score the undecided pairs again.

    Args:
        problem: images and texts.
        scorer: scores tiles.
        unit_error: the largest error of a score of unit vectors, by their dimension.
        bound: which bound `unit_error` is, for the record.
        clock: receives the seconds spent scoring tiles and rescoring pairs.

    Returns:
        The counts, how they were made, and whether the bound held: no rescored pair had a larger error, and every
        positive pair, which lies closest to its threshold, was found undecided.
    """
    tally = problem.tally()
    buffer = UndecidedPairs.empty(
        BUFFERED_PAIRS + math.ceil(MOSTLY_UNDECIDED * scorer.image_rows * scorer.text_rows), problem.device
    )
    rescored, pending, positives, error, widest, is_sound = 0, 0, 0, 0.0, 0.0, True

    def check(pairs: UndecidedPairs, scores: Tensor) -> None:
        nonlocal error, is_sound
        errors = (pairs.scores - scores).abs()
        error = max(error, float(errors.max()))
        is_sound &= bool((errors <= problem.reach.of_pairs(pairs.rows, pairs.columns, unit_error) + SMALLEST).all())

    def flush() -> None:
        nonlocal pending, positives, rescored, error, is_sound
        if pending:
            pairs = buffer.where(slice(pending))
            is_positive = problem.image_of[pairs.columns] == pairs.rows
            positives += int((is_positive & pairs.of_text).sum())
            pairs = pairs.where(~is_positive)
            rescored += len(pairs.rows)
            if scorer.dtype != torch.float32 and len(pairs.rows):
                scores = rescore_in_float32(problem, tally, pairs)
                check(pairs, scores)
                pairs = pairs._replace(scores=scores).where(pairs.of_image | pairs.of_text)
            if len(pairs.rows):
                check(pairs, rescore(problem, tally, pairs))
        pending = 0

    image_bytes = 4 * sum(x[0].numel() for x in problem.images.tensors())
    reference_rows = tile_shape(problem, TILE_BYTES)[0]
    prepared_rows = max(1, PREPARED_BYTES // (image_bytes * scorer.image_rows)) * scorer.image_rows
    for block, candidates in ((block, texts) for rows, texts in problem.folds for block in blocks(rows, prepared_rows)):
        start = clock.now()
        prepared = [(rows, scorer.images(rows)) for rows in blocks(block, scorer.image_rows)]
        for columns in blocks(candidates, scorer.text_rows):
            texts = scorer.texts(columns)
            for rows, images in prepared:
                of_images, of_texts, tolerance = limits(problem, rows, columns, unit_error)
                widest = max(widest, tolerance)
                tile = scorer.compare(images, texts, of_images, of_texts)
                pairs = len(of_images.low) * len(of_texts.low)
                if len(tile.rows) > MOSTLY_UNDECIDED * pairs:
                    positives += sum(count_tile(problem, tally, part, columns) for part in blocks(rows, reference_rows))
                    rescored += pairs
                    continue
                tally.better_images[rows] += tile.of_images
                tally.better_texts[columns] += tile.of_texts
                undecided = UndecidedPairs(
                    tile.rows + rows.start,
                    tile.columns + columns.start,
                    tile.scores,
                    of_images.contain(tile.rows, tile.scores),
                    of_texts.contain(tile.columns, tile.scores),
                )
                for stored, added in zip(buffer, undecided, strict=True):
                    stored[pending : pending + len(tile.rows)] = added
                pending += len(tile.rows)
                if pending > BUFFERED_PAIRS:
                    clock.similarity += clock.now() - start
                    start = clock.now()
                    flush()
                    clock.rank += clock.now() - start
                    start = clock.now()
        clock.similarity += clock.now() - start
    start = clock.now()
    flush()
    clock.rank += clock.now() - start
    name = str(scorer.dtype).removeprefix("torch.")
    kernel = KernelInfo(scorer.name, name, bound, widest, rescored, error)
    return tally, kernel, is_sound and positives == len(problem.texts)


def rescore_in_float32(problem: Problem, tally: Tally, pairs: UndecidedPairs) -> Tensor:
    """Score P wrong pairs in float32 and add those to the tally that the proven bound decides.

    Returns:
        (P,) float32 scores; `of_image` and `of_text` are set to False in place where a pair is decided.
    """
    scores = pair_scores(problem.images, problem.texts, problem.similarity, pairs.rows, pairs.columns, torch.float32)
    tolerance = SMALLEST + problem.reach.of_pairs(
        pairs.rows, pairs.columns, lambda dim: float32_error(dim, problem.top)
    )
    for query, threshold, undecided, better in (
        (pairs.rows, problem.best, pairs.of_image, tally.better_images),
        (pairs.columns, problem.positive, pairs.of_text, tally.better_texts),
    ):
        above = scores > threshold[query] + tolerance
        better.index_add_(0, query, (above & undecided).int())
        undecided &= (scores >= threshold[query] - tolerance) & ~above
    return scores


def limits(
    problem: Problem, rows: slice, columns: slice, unit_error: Callable[[int], float]
) -> tuple[Limits, Limits, float]:
    """The limits of a tile's images and of its texts, and the largest tolerance among them."""
    of_images = torch.zeros(rows.stop - rows.start, dtype=torch.float64, device=problem.device)
    of_texts = torch.zeros(columns.stop - columns.start, dtype=torch.float64, device=problem.device)
    for level in problem.reach.levels:
        scale = unit_error(level.dim) * level.weight
        images, texts = level.images[rows], level.texts[columns]
        of_images += scale * images * texts.max()
        of_texts += scale * texts * images.max()
    both = []
    for threshold, tolerance in ((problem.best[rows], of_images), (problem.positive[columns], of_texts)):
        # limits are rounded as well, and products below float32's range underflow
        slack = tolerance + threshold.abs() * 2 * torch.finfo(torch.float32).eps + SMALLEST
        both.append(Limits((threshold - slack).float(), (threshold + slack).float()))
    return both[0], both[1], float(torch.maximum(of_images.max(), of_texts.max()))
