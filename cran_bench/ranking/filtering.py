"""Exact counts from low-precision scores: pairs that are too close to a threshold are scored again in float64.

An `ApproximateScorer` scores tiles in float32 or bfloat16.  A pair is decided if its score is further from the
threshold than the error bound; the few others are scored again in float64, as the reference backend scores all pairs.
The error bound is either measured on a sample (six standard deviations) or proven from the norms of the vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from cran_bench.machine.progress import say
from cran_bench.ranking.problem import Clock, KernelInfo, Problem, Tally, UndecidedPairs, blocks, count_better, rescore
from cran_bench.ranking.reference import TILE_BYTES, Reference, count_tile, tile_shape

Bound = Literal["measured", "proven"]

SIGMAS = 6
SMALLEST = 1e-24
EPS = torch.finfo(torch.float32).eps
SAMPLE_IMAGES, SAMPLE_TEXTS = 64, 512
MOSTLY_UNDECIDED = 1 / 8  # share of a tile's pairs above which the reference is faster, as for collapsed embeddings
BUFFERED_PAIRS = {"cpu": 1 << 20, "cuda": 1 << 24}  # undecided pairs that are collected before they are scored again
PREPARED_IMAGES = 1 << 28  # bytes of prepared image tiles
PREPARED_TEXTS = {"cpu": 1 << 25, "cuda": 1 << 30}  # bytes of prepared texts; preparing all at once takes few kernels


def float32_error(dim: int, top: int) -> float:
    """The largest float32 error of a score, relative to the lengths of its D-dimensional vectors.

    D roundings in the inner product, D in the two lengths (halved by the square root), `top` in the sum over members,
    and fewer than 32 in reciprocals, factors and the sum over levels.
    """
    roundings = (2 * dim + top + 32) * torch.finfo(torch.float32).eps / 2
    return roundings / (1 - roundings)


class Limits(NamedTuple):
    """What the scores of I images and T texts are compared with, in float32.

    A candidate is certainly better than the right one if its score minus the tolerance is above `high`, and certainly
    worse if its score plus the tolerance is below `low`.

    Attributes:
        tolerance: (I,) the largest error of an image's scores.
        low_i: (I,) the images' thresholds, rounded down.
        high_i: (I,) the same, rounded up.
        low_t: (T,) the texts' thresholds, rounded down.
        high_t: (T,) the same, rounded up.
    """

    tolerance: Tensor
    low_i: Tensor
    high_i: Tensor
    low_t: Tensor
    high_t: Tensor

    def tile(self, rows: slice, columns: slice, image_rows: int, text_rows: int) -> Limits:
        """The limits of a tile, and beyond its end those of what follows, so that all tiles have the same shape."""
        images, texts = slice(rows.start, rows.start + image_rows), slice(columns.start, columns.start + text_rows)
        return Limits(self.tolerance[images], *(x[images] for x in self[1:3]), *(x[texts] for x in self[3:]))


class Undecided(NamedTuple):
    """Memory for P undecided pairs; many small tensors between the large ones of tiles would fragment it.

    Attributes:
        places: (P,) int64, places in a tile, counted row by row and on from one tile to the next.
        scores: (P,) float32.
        codes: (P,) uint8, 1 where the pair is undecided as a candidate of its image, plus 2 where of its text.
    """

    places: Tensor
    scores: Tensor
    codes: Tensor

    def part(self, rows: slice) -> Undecided:
        """A part of the memory."""
        return Undecided(*(x[rows] for x in self))


class TileCounts(NamedTuple):
    """The result of comparing a tile of I images and T texts with their limits.

    Attributes:
        of_images: (I,) int32, the number of texts certainly better than an image's best own text.
        of_texts: (T,) int32, the number of images certainly better than a text's own image.
        number: () the number of pairs that are undecided in either direction, even where the memory holds fewer.
    """

    of_images: Tensor
    of_texts: Tensor
    number: Tensor


class ApproximateScorer(Protocol):
    """Scores tiles in low precision; each implementation chooses its own form of prepared images."""

    name: ClassVar[str]
    dtype: torch.dtype
    image_rows: int
    text_rows: int

    def unit_error(self, dim: int) -> float:
        """The largest error of a score of two `dim`-dimensional unit vectors."""
        ...

    def images(self, rows: slice | Tensor, size: int = 0) -> Any:
        """Prepare some images, followed by what has no score (NaN) up to `size` images."""
        ...

    def texts(self, rows: slice | Tensor, size: int = 0) -> list[Tensor]:
        """Prepare some texts on each level, followed by what has no score (NaN) up to `size` texts."""
        ...

    def scores(self, images: Any, texts: list[Tensor]) -> Tensor:
        """(I, T) float32 scores of prepared images and texts."""
        ...

    def compare(self, images: Any, texts: list[Tensor], limits: Limits, base: int, undecided: Undecided) -> TileCounts:
        """Compare the scores of a tile with their limits and store its undecided pairs, with places from `base` on.

        Nothing is read back from the device.  What `undecided` does not hold is dropped.
        """
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
        clock.start()
        cuda = torch.backends.cuda.matmul
        is_reduced = cuda.allow_fp16_reduced_precision_reduction
        cuda.allow_fp16_reduced_precision_reduction = False
        try:
            return self._count(problem, clock)
        finally:
            cuda.allow_fp16_reduced_precision_reduction = is_reduced

    def _count(self, problem: Problem, clock: Clock) -> tuple[Tally, KernelInfo]:
        scorer = self.make_scorer(problem)
        unit_error = measured(problem, scorer) if self.bound == "measured" else scorer.unit_error
        tally, kernel, is_sound = count_with(problem, scorer, unit_error, self.bound, clock)
        if not is_sound and self.bound == "measured":
            say("a score exceeded the error bound measured on the sample: counting again with the proven bound")
            tally, kernel, is_sound = count_with(problem, scorer, scorer.unit_error, "proven", clock)
        if not is_sound:
            say("a score exceeded the proven error bound: counting again in float64")
            return Reference().count(problem, clock)
        return tally, kernel


def measured(problem: Problem, scorer: ApproximateScorer) -> Callable[[int], Tensor]:
    """The error bound measured on a sample: six standard deviations of the relative error, whatever the dimension.

    The sample contains positive and negative pairs, because the error may grow with the score.
    """
    draw, owners = torch.Generator().manual_seed(0), problem.owners
    rows, others = (
        torch.randperm(size, generator=draw)[:most]
        for size, most in ((len(problem.images), SAMPLE_IMAGES), (len(problem.texts), SAMPLE_TEXTS // 2))
    )
    is_drawn = torch.zeros(len(problem.images), dtype=torch.bool).index_fill_(0, rows, True)
    columns = torch.cat([is_drawn[owners].nonzero().flatten()[: SAMPLE_TEXTS // 2], others])
    is_positive = (owners[columns] == rows[:, None]).flatten()
    kinds = torch.stack([is_positive, ~is_positive]).double()
    shares = kinds / kinds.sum(dim=1, keepdim=True).clamp_min(1)
    rows, columns, shares = (x.to(problem.device, non_blocking=True) for x in (rows, columns, shares))
    approximate = scorer.scores(scorer.images(rows), scorer.texts(columns))
    scale = problem.reach.of_all(rows, columns, lambda _: 1.0)
    ratio = ((approximate - problem.scores(rows, columns)) / scale).masked_fill(scale == 0, 0.0)
    deviations = (shares @ ratio.square().flatten()).sqrt()
    unit_error = torch.maximum(SIGMAS * deviations.max(), 1.5 * torch.linalg.vector_norm(ratio, torch.inf)) + 4 * EPS
    return lambda _: unit_error


class Tile(NamedTuple):
    """A tile that was compared with its limits.

    Attributes:
        rows: its images.
        columns: its texts.
        counts: the result.
        start: the place in memory of its undecided pairs.
    """

    rows: slice
    columns: slice
    counts: TileCounts
    start: int


@dataclass
class Screening:
    """One pass over all tiles.

    Attributes:
        problem: images and texts.
        scorer: scores tiles.
        unit_error: the largest error of a score of unit vectors, by their dimension.
        clock: receives the seconds spent scoring tiles and rescoring pairs.
        rescored: the number of pairs scored again.
    """

    problem: Problem
    scorer: ApproximateScorer
    unit_error: Callable[[int], float | Tensor]
    clock: Clock
    rescored: int = 0
    tiles: list[Tile] = field(default_factory=list)

    def __post_init__(self) -> None:
        device, cells = self.problem.device, self.scorer.image_rows * self.scorer.text_rows
        self.room = math.ceil(MOSTLY_UNDECIDED * cells)
        self.capacity = max(BUFFERED_PAIRS[device.type], self.room)
        self.undecided = Undecided(
            *(torch.empty(self.capacity, dtype=x, device=device) for x in (torch.int64, torch.float32, torch.uint8))
        )
        self.limits, self.widest = limits(self.problem, self.scorer, self.unit_error)
        self.tally, self.pending = self.problem.tally(), 0
        self.positives, self.wrong, self.error = torch.zeros(3, dtype=torch.float64, device=device).unbind()

    def run(self) -> None:
        """Compare all tiles with their limits and score the undecided pairs again."""
        problem, scorer = self.problem, self.scorer
        height, width = scorer.image_rows, scorer.text_rows
        image_bytes, text_bytes = (
            4 * sum(x[0].numel() for x in side.tensors()) for side in (problem.images, problem.texts)
        )
        image_block = max(1, PREPARED_IMAGES // (image_bytes * height)) * height
        text_block = max(1, PREPARED_TEXTS[problem.device.type] // (text_bytes * width)) * width
        for block, candidates in (
            (block, texts) for rows, texts in problem.folds for block in blocks(rows, image_block)
        ):
            prepared = [(rows, scorer.images(rows, height)) for rows in blocks(block, height)]
            for several in blocks(candidates, text_block):
                operands = scorer.texts(several, -(-(several.stop - several.start) // width) * width)
                for columns in blocks(several, width):
                    start = columns.start - several.start
                    texts = [x[start : start + width] for x in operands]
                    for rows, images in prepared:
                        self.compare(rows, columns, images, texts)
        self.flush()

    def compare(self, rows: slice, columns: slice, images: Any, texts: list[Tensor]) -> None:
        """Compare one tile with its limits."""
        if self.pending + self.room > self.capacity:
            self.flush()
        height, width = self.scorer.image_rows, self.scorer.text_rows
        limits = self.limits.tile(rows, columns, height, width)
        memory = self.undecided.part(slice(self.pending, self.pending + self.room))
        counts = self.scorer.compare(images, texts, limits, len(self.tiles) * height * width, memory)
        self.tiles.append(Tile(rows, columns, counts, self.pending))
        # on a GPU, to know how many pairs are undecided would mean to wait for it
        self.pending += self.room if counts.number.is_cuda else min(self.room, int(counts.number))

    def flush(self) -> None:
        """Count the tiles compared so far and score their undecided pairs again."""
        if not self.tiles:
            return
        self.clock.lap("similarity")
        tally, problem = self.tally, self.problem
        kept, height = [], tile_shape(problem, TILE_BYTES)[0]
        (better_i, _), (better_t, _) = tally.images, tally.texts
        numbers = torch.stack([tile.counts.number for tile in self.tiles]).tolist()
        for (rows, columns, counts, start), number in zip(self.tiles, numbers, strict=True):
            images, texts = rows.stop - rows.start, columns.stop - columns.start
            if number > MOSTLY_UNDECIDED * images * texts:
                self.positives += sum(count_tile(problem, tally, part, columns) for part in blocks(rows, height))
                self.rescored += images * texts
            else:
                better_i[rows].add_(counts.of_images[:images])
                better_t[columns].add_(counts.of_texts[:texts])
                kept.append(slice(start, start + number))
        if kept:
            self.rescore(Undecided(*(torch.cat([x[part] for part in kept]) for x in self.undecided)))
        self.tiles, self.pending = [], 0
        self.clock.lap("rank")

    def rescore(self, undecided: Undecided) -> None:
        """Score undecided pairs again: on a CPU in float32 first, where that takes half the time."""
        problem, cells, width = self.problem, self.scorer.image_rows * self.scorer.text_rows, self.scorer.text_rows
        corners = torch.tensor([(tile.rows.start, tile.columns.start) for tile in self.tiles])
        top, left = corners.to(problem.device, non_blocking=True)[undecided.places // cells].T
        rows, columns = top + undecided.places % cells // width, left + undecided.places % width
        is_positive = problem.image_of[columns] == rows
        self.positives += (is_positive & (undecided.codes > 1)).sum()
        wrong = (~is_positive).nonzero().flatten()
        rows, columns, scores, codes = (x[wrong] for x in (rows, columns, undecided.scores, undecided.codes))
        pairs = UndecidedPairs(rows, columns, scores, torch.stack([codes != 2, codes > 1]))
        self.rescored += len(pairs.rows)
        if self.scorer.dtype != torch.float32 and problem.device.type == "cpu" and len(pairs.rows):
            scores, is_open = rescore_in_float32(problem, self.tally, pairs)
            self.check(pairs, scores)
            pairs = pairs._replace(scores=scores, undecided=is_open).where(is_open.any(dim=0))
        if len(pairs.rows):
            self.check(pairs, rescore(problem, self.tally, pairs))

    def check(self, pairs: UndecidedPairs, scores: Tensor) -> None:
        """Compare the errors of P pairs, whose scores are now known better, with the bound."""
        errors = (pairs.scores - scores).abs()
        self.error = torch.maximum(self.error, errors.max())
        self.wrong += (errors > self.limits.tolerance[pairs.rows]).sum()


def count_with(
    problem: Problem, scorer: ApproximateScorer, unit_error: Callable[[int], float | Tensor], bound: Bound, clock: Clock
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
    screening = Screening(problem, scorer, unit_error, clock)
    screening.run()
    tally, (positives, wrong, error, widest) = screening.tally.read(
        torch.stack([screening.positives, screening.wrong, screening.error, screening.widest])
    )
    name = str(scorer.dtype).removeprefix("torch.")
    kernel = KernelInfo(scorer.name, name, bound, widest, screening.rescored, error)
    return tally, kernel, wrong == 0 and positives == len(problem.texts)


def rescore_in_float32(problem: Problem, tally: Tally, pairs: UndecidedPairs) -> tuple[Tensor, Tensor]:
    """Score P wrong pairs in float32 and add those to the tally that the proven bound decides.

    Returns:
        (P,) float32 scores, and (2, P) bool, in which directions pairs are still undecided.
    """
    scores = problem.own_scores(pairs.rows, pairs.columns, torch.float32)
    tolerance = SMALLEST + problem.reach.of_pairs(
        pairs.rows, pairs.columns, lambda dim: float32_error(dim, problem.top)
    )
    return scores, count_better(problem, tally, pairs, scores, tolerance)[1]


def limits(
    problem: Problem, scorer: ApproximateScorer, unit_error: Callable[[int], float | Tensor]
) -> tuple[Limits, Tensor]:
    """The limits of all images and texts, followed by one tile of zeros, and the largest tolerance.

    The tolerance of an image is that with the longest text of its fold, in both directions.
    """
    images, texts = problem.reach.images, problem.reach.texts
    both = torch.stack([problem.reach.weights_times(unit) for unit in (unit_error, lambda _: 1.0)])
    tolerance, largest = torch.cat(
        [both * texts[:, columns].amax(dim=1) @ images[:, rows] for rows, columns in problem.folds], dim=1
    )
    # differences of scores and tolerances are rounded as well, and products below float32's range underflow
    slack = ((tolerance + largest * EPS) * (1 + 2 * EPS) + SMALLEST).float()
    thresholds = problem.thresholds
    margin = 2 * EPS * thresholds.abs() + SMALLEST
    bounds = torch.stack([thresholds - margin, thresholds + margin]).float()
    of_images, of_texts = bounds.split_with_sizes([len(problem.best), len(problem.positive)], dim=1)
    of_images = pad(torch.cat([slack[None], of_images]), (0, scorer.image_rows))
    return Limits(*of_images, *pad(of_texts, (0, scorer.text_rows))), tolerance.max()
