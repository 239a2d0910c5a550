"""The ranking problem: count the wrong candidates of each query that beat, or tie with, its best right one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from cran_bench.embeddings import Embedding, Levels, Relations, as_levels, pair_lengths, require_finite
from cran_bench.errors import BadInput
from cran_bench.protocols import fold_rows
from cran_bench.similarity import MultiLevel, Reach, Similarity, rounding

RANGE = 1e-10, 1e10  # of vector sizes that float32 holds with a margin
PAIR_BYTES = 1 << 28  # of float64 vectors, for pairs that are scored one by one


@dataclass(frozen=True)
class Problem:
    """N images to be ranked against T texts, with the scores of the positive pairs.

    Attributes:
        images: N image embeddings.
        texts: T text embeddings.
        image_of: (T,) int64, the row of each text's own image.
        similarity: scores a pair.
        lengths: (N, n, n) float64 lengths of factored region pairs under cosine similarity, otherwise None.
        extent: the largest coordinate of the smallest non-zero vector, and of the largest vector.
        reach: bounds on the magnitude of scores.
        positive: (T,) float64, the score of each text with its own image.
        best: (N,) float64, the best score among an image's own texts.
        folds: slices of images and texts that are ranked against each other; together they cover all rows.
    """

    images: Levels
    texts: Levels
    image_of: Tensor
    similarity: Similarity
    lengths: Tensor | None
    extent: tuple[float, float]
    reach: Reach
    positive: Tensor
    best: Tensor
    folds: tuple[tuple[slice, slice], ...]

    @property
    def device(self) -> torch.device:
        """The device of the embeddings and of the counts."""
        return self.positive.device

    def tally(self) -> Tally:
        """A tally of zeros."""
        return Tally(
            *(torch.zeros(size, dtype=torch.int32, device=self.device) for size in 2 * [len(self.images)]),
            *(torch.zeros(size, dtype=torch.int32, device=self.device) for size in 2 * [len(self.texts)]),
        )

    @property
    def top(self) -> int:
        """The largest number of members of a level that contribute to a score."""
        return self.similarity.top if isinstance(self.similarity, MultiLevel) else 1

    @property
    def is_in_range(self) -> bool:
        """Whether float32 represents all scores and squared vectors, with a margin below and above."""
        sizes = [side for level in self.reach.levels for side in (level.images, level.texts)]
        within = all(bool(((x == 0) | (x >= RANGE[0]) & (x <= RANGE[1])).all()) for x in sizes)
        return within and RANGE[0] <= self.extent[0] and self.extent[1] <= RANGE[1]

    @property
    def pairs(self) -> int:
        """The number of image-text pairs that are compared."""
        return sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in self.folds)

    @property
    def flop(self) -> int:
        """Floating-point operations of all inner products, with relations in the form given (factored or not)."""
        return 2 * self.pairs * sum(x[0].numel() for x in self.images.tensors())

    def tiles(self, image_rows: int, text_rows: int) -> Iterator[tuple[slice, slice]]:
        """Cover all pairs with tiles of at most `image_rows` x `text_rows`."""
        for rows, columns in self.folds:
            for images in blocks(rows, image_rows):
                for texts in blocks(columns, text_rows):
                    yield images, texts


@dataclass(frozen=True)
class Tally:
    """Running int32 counts.

    Attributes:
        better_images: (N,) wrong texts that score strictly better than the best of an image's own texts.
        tied_images: (N,) wrong texts that tie with it.
        better_texts: (T,) wrong images that score strictly better than a text's own image.
        tied_texts: (T,) wrong images that tie with it.
    """

    better_images: Tensor
    tied_images: Tensor
    better_texts: Tensor
    tied_texts: Tensor


@dataclass(frozen=True)
class KernelInfo:
    """How a ranking was counted; the counts do not depend on it.

    Attributes:
        name: the backend.
        dtype: of its matrix products.
        bound: the error bound of its scores: `exact` (float64), `measured` (six standard deviations on a sample) or
            `proven` (worst case).
        tolerance: the largest value of the bound; scores closer than this to a threshold are recomputed in float64.
        rescored: the number of pairs recomputed.
        error: the largest error observed among them.
    """

    name: str
    dtype: str
    bound: str = "exact"
    tolerance: float = 0.0
    rescored: int = 0
    error: float = 0.0


class Backend(Protocol):
    """A way of counting better and tied candidates."""

    def count(self, problem: Problem, clock: Clock) -> tuple[Tally, KernelInfo]:
        """Count better and tied candidates for every query, in both directions.

        Raises:
            BadInput: a score is not finite.
        """
        ...


@dataclass
class Clock:
    """Seconds spent scoring and counting; a GPU is synchronised before each reading."""

    device: torch.device
    similarity: float = 0.0
    rank: float = 0.0

    def now(self) -> float:
        """The current time in seconds, from an arbitrary origin."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def blocks(rows: slice, size: int) -> Iterator[slice]:
    """Split a slice into consecutive slices of at most `size` rows."""
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))


def make_problem(
    images: Embedding, texts: Embedding, image_of: Tensor, similarity: Similarity, folds: int = 0
) -> Problem:
    """Check the embeddings, score each text with its own image, and divide both sides into folds.

    Args:
        images: N rows.
        texts: T rows.
        image_of: (T,) int64, the row of each text's own image; every image needs at least one text.
        similarity: scores a pair.
        folds: 0 ranks all images against all texts; otherwise this number of consecutive, equally large sets of
            images are ranked separately, each against its own texts.  Left-over images are dropped, and the texts
            are reordered fold by fold.

    Raises:
        BadInput: the embeddings do not match or are not finite, an image has no text, or the score of a positive pair
            is not finite.
    """
    left, right = as_levels(images), as_levels(texts)
    n, t, device = len(left), len(right), left.tensors()[0].device
    if n == 0 or t == 0:
        raise BadInput(f"ranking needs at least one image and one text; there are {n} images and {t} texts")
    if len(image_of) != t:
        raise BadInput(f"image_of needs one entry per text: there are {t} texts and {len(image_of)} entries")
    for row in (int(image_of.min()), int(image_of.max())):
        if not 0 <= row < n:
            raise BadInput(f"image_of contains row {row}, but there are {n} images, counted from 0")
    similarity.check(left, right)
    image_of = image_of.to(device, torch.int64)
    if folds:
        size = len(fold_rows(n, folds)[0])
        fold = image_of // size
        order = fold.argsort(stable=True)
        order = order[fold[order] < folds]
        if n % folds or not torch.equal(order, torch.arange(t, device=device)):
            left, right, image_of = left.rows(slice(folds * size)), right.rows(order), image_of[order]
    return _scored(left, right, image_of, similarity, folds or 1)


def _scored(images: Levels, texts: Levels, image_of: Tensor, similarity: Similarity, folds: int) -> Problem:
    extents = require_finite(images, "image embeddings"), require_finite(texts, "text embeddings")
    everything = torch.arange(len(texts), device=image_of.device)
    positive = pair_scores(images, texts, similarity, image_of, everything)
    if not bool(torch.isfinite(positive).all()):
        where = int((~torch.isfinite(positive)).nonzero()[0])
        raise BadInput(f"the score of text {where} and its own image is not finite: scale the embeddings down")
    best = torch.full((len(images),), -torch.inf, dtype=torch.float64, device=positive.device)
    best.scatter_reduce_(0, image_of, positive, "amax")
    if not bool(torch.isfinite(best).all()):
        raise BadInput(f"image {int((~torch.isfinite(best)).nonzero()[0])} has no text; every image needs at least one")
    size = len(images) // folds
    bounds = torch.bincount(image_of // size, minlength=folds).cumsum(0).tolist()
    slices = tuple(
        (slice(k * size, (k + 1) * size), slice(start, stop)) for k, (start, stop) in enumerate(pairwise([0, *bounds]))
    )
    relations = images.relations
    lengths = pair_lengths(relations) if similarity.cosine and isinstance(relations, Relations) else None
    reach = similarity.reach(images, texts, lengths)
    extent = min(smallest for smallest, _ in extents), max(largest for _, largest in extents)
    return Problem(images, texts, image_of, similarity, lengths, extent, reach, positive, best, slices)


def pair_scores(
    images: Levels,
    texts: Levels,
    similarity: Similarity,
    rows: Tensor,
    columns: Tensor,
    dtype: torch.dtype = torch.float64,
    pair_bytes: int = PAIR_BYTES,
) -> Tensor:
    """(P,) scores of image `rows[p]` with text `columns[p]`, in `dtype`.

    The texts of an image are scored together, so that its vectors are read once.
    """
    scores = torch.empty(len(rows), dtype=dtype, device=rows.device)
    if not len(rows):
        return scores
    image_bytes, text_bytes = (8 * sum(x[0].numel() for x in side.tensors()) for side in (images, texts))
    longest = max(1, pair_bytes // (4 * text_bytes))
    order = rows.argsort(stable=True)
    place = torch.arange(len(rows), device=rows.device)
    starts = torch.searchsorted(rows[order], rows[order])
    first = ((place - starts) % longest == 0).nonzero().flatten()  # of each run of at most `longest` texts of an image
    lengths = torch.diff(first, append=first.new_tensor([len(rows)]))
    longest_first = lengths.argsort(descending=True, stable=True)
    first, lengths = first[longest_first], lengths[longest_first]
    done = 0
    while done < len(first):
        width = int(lengths[done])
        run = slice(done, done + max(1, pair_bytes // (4 * (image_bytes + width * text_bytes))))
        offsets = torch.arange(width, device=rows.device)
        where = order[(first[run, None] + offsets).clamp_max(len(rows) - 1)]
        block = similarity.own_scores(images.rows(rows[where[:, 0]]), texts.rows(columns[where].flatten()), dtype)
        exists = offsets < lengths[run, None]
        scores[where[exists]] = block[exists]
        done = run.stop
    return scores


class UndecidedPairs(NamedTuple):
    """P pairs whose low-precision scores lie too close to a threshold.

    Attributes:
        rows: (P,) images.
        columns: (P,) texts.
        scores: (P,) approximate scores.
        of_image: (P,) bool, whether the pair is undecided as a candidate of its image.
        of_text: (P,) bool, whether it is undecided as a candidate of its text.
    """

    rows: Tensor
    columns: Tensor
    scores: Tensor
    of_image: Tensor
    of_text: Tensor

    @staticmethod
    def empty(count: int, device: torch.device) -> UndecidedPairs:
        """A buffer for `count` pairs; many small tensors between the large ones of tiles would fragment the memory."""
        dtypes = torch.int64, torch.int64, torch.float32, torch.bool, torch.bool
        return UndecidedPairs(*(torch.empty(count, dtype=dtype, device=device) for dtype in dtypes))

    def where(self, chosen: Tensor | slice) -> UndecidedPairs:
        """The pairs at the given indices."""
        return UndecidedPairs(*(x[chosen] for x in self))


def rescore(problem: Problem, tally: Tally, pairs: UndecidedPairs) -> Tensor:
    """Score P wrong pairs in float64, add them to the tally, and return the (P,) scores."""
    rows, columns = pairs.rows, pairs.columns
    scores = pair_scores(problem.images, problem.texts, problem.similarity, rows, columns)
    tolerance = problem.reach.of_pairs(rows, columns, rounding)
    for query, threshold, undecided, better, tied in (
        (rows, problem.best, pairs.of_image, tally.better_images, tally.tied_images),
        (columns, problem.positive, pairs.of_text, tally.better_texts, tally.tied_texts),
    ):
        above = scores > threshold[query] + tolerance
        near = (scores >= threshold[query] - tolerance) & ~above
        better.index_add_(0, query, (above & undecided).int())
        tied.index_add_(0, query, (near & undecided).int())
    return scores
