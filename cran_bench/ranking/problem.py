"""What there is to count: wrong candidates that score better than the best right one of a query, or as well."""

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

STORED = "problem.safetensors"  # file of a problem that several machines count
RANGE = 1e-10, 1e10  # sizes of vectors
PAIR_BYTES = 1 << 28  # of vectors in float64, for pairs that are scored one by one


@dataclass(frozen=True)
class Problem:
    """N images against T texts, with the scores of what belongs together.

    Attributes:
        image_of: (T,) int64, whose each text is.
        lengths: (N, n, n) float64 of factored region pairs under a cosine, else None.
        extent: of the smallest vector that is not zero, and of the largest, see `require_finite`.
        reach: how large scores can get.
        positive: (T,) float64, the score of each text with its own image.
        best: (N,) float64, the best of an image's own texts.
        folds: images and texts that are ranked with each other; together they are all.
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
        """Where embeddings are, and counts will be."""
        return self.positive.device

    def tally(self) -> Tally:
        """Nothing counted yet."""
        return Tally(
            *(torch.zeros(size, dtype=torch.int32, device=self.device) for size in 2 * [len(self.images)]),
            *(torch.zeros(size, dtype=torch.int32, device=self.device) for size in 2 * [len(self.texts)]),
        )

    @property
    def top(self) -> int:
        """Most members of a level that count for a score."""
        return self.similarity.top if isinstance(self.similarity, MultiLevel) else 1

    @property
    def is_in_range(self) -> bool:
        """Whether float32 holds all scores and the squares of all vectors, with room below and above."""
        sizes = [side for level in self.reach.levels for side in (level.images, level.texts)]
        within = all(bool(((x == 0) | (x >= RANGE[0]) & (x <= RANGE[1])).all()) for x in sizes)
        return within and RANGE[0] <= self.extent[0] and self.extent[1] <= RANGE[1]

    @property
    def pairs(self) -> int:
        """How many images and texts are compared."""
        return sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in self.folds)

    @property
    def flop(self) -> int:
        """Of all inner products, relations as they are given."""
        return 2 * self.pairs * sum(x[0].numel() for x in self.images.tensors())

    def tiles(self, image_rows: int, text_rows: int) -> Iterator[tuple[slice, slice]]:
        """All pairs in tiles of at most so many images and texts."""
        for rows, columns in self.folds:
            for images in blocks(rows, image_rows):
                for texts in blocks(columns, text_rows):
                    yield images, texts


@dataclass(frozen=True)
class Tally:
    """Counts as they come in, int32.

    Attributes:
        better_images: (N,) wrong texts that score strictly better than an image's best own.
        tied_images: (N,) wrong texts that tie with it.
        better_texts: (T,) wrong images that score strictly better than a text's own.
        tied_texts: (T,) wrong images that tie with it.
    """

    better_images: Tensor
    tied_images: Tensor
    better_texts: Tensor
    tied_texts: Tensor


@dataclass(frozen=True)
class KernelInfo:
    """How a ranking was counted; the counts are the same whichever way.

    Attributes:
        name: of the backend.
        dtype: of its products.
        bound: what tells which pairs that arithmetic decides: `exact`, a `measured` bound of six deviations, or the
            `proven` one of the worst case.
        tolerance: the widest that bound gets: scores nearer than this to a threshold are scored again in float64.
        rescored: how many pairs were.
        error: the largest error found among those.
    """

    name: str
    dtype: str
    bound: str = "exact"
    tolerance: float = 0.0
    rescored: int = 0
    error: float = 0.0


class Backend(Protocol):
    """A way to count."""

    def count(self, problem: Problem, clock: Clock) -> tuple[Tally, KernelInfo]:
        """Counts of every query.

        Raises:
            BadInput: a score that is not finite.
        """
        ...


@dataclass
class Clock:
    """Seconds spent in scoring and in counting; a device is synchronised before each reading."""

    device: torch.device
    similarity: float = 0.0
    rank: float = 0.0

    def now(self) -> float:
        """Seconds since some fixed moment."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def blocks(rows: slice, size: int) -> Iterator[slice]:
    """Rows from start to stop, at most `size` at a time."""
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))


def make_problem(
    images: Embedding, texts: Embedding, image_of: Tensor, similarity: Similarity, folds: int = 0
) -> Problem:
    """Check embeddings, score each text with its own image, and divide both sides into folds.

    Args:
        images: N rows.
        texts: T rows.
        image_of: (T,) int64, which image row each text belongs to; every image owns at least one.
        similarity: what a pair scores.
        folds: 0 ranks everything against everything; else so many runs of equally many images, each with its own
            texts, are ranked apart.  A remainder of images is left out, and texts come fold by fold.

    Raises:
        BadInput: embeddings that do not fit together or are not finite, an image without a text, or the score of a
            text and its own image that is not finite.
    """
    left, right = as_levels(images), as_levels(texts)
    n, t, device = len(left), len(right), left.tensors()[0].device
    if n == 0 or t == 0:
        raise BadInput(f"ranking needs images and texts; there are {n} images and {t} texts")
    if len(image_of) != t:
        raise BadInput(f"image_of names the image of each text: {t} texts came with {len(image_of)} entries")
    for named in (int(image_of.min()), int(image_of.max())):
        if not 0 <= named < n:
            raise BadInput(f"image_of names image {named}, but there are {n} images, counted from 0")
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
        raise BadInput(f"the score of text {where} and its own image is not finite; embeddings are too large")
    best = torch.full((len(images),), -torch.inf, dtype=torch.float64, device=positive.device)
    best.scatter_reduce_(0, image_of, positive, "amax")
    if not bool(torch.isfinite(best).all()):
        raise BadInput(f"image {int((~torch.isfinite(best)).nonzero()[0])} has no text; every image needs at least one")
    size = len(images) // folds
    bounds = torch.bincount(image_of // size, minlength=folds).cumsum(0).tolist()
    runs = tuple(
        (slice(k * size, (k + 1) * size), slice(start, stop)) for k, (start, stop) in enumerate(pairwise([0, *bounds]))
    )
    relations = images.relations
    lengths = pair_lengths(relations) if similarity.cosine and isinstance(relations, Relations) else None
    reach = similarity.reach(images, texts, lengths)
    extent = min(smallest for smallest, _ in extents), max(largest for _, largest in extents)
    return Problem(images, texts, image_of, similarity, lengths, extent, reach, positive, best, runs)


def pair_scores(
    images: Levels,
    texts: Levels,
    similarity: Similarity,
    rows: Tensor,
    columns: Tensor,
    dtype: torch.dtype = torch.float64,
    pair_bytes: int = PAIR_BYTES,
) -> Tensor:
    """Scores of images `rows` (P,) with texts `columns` (P,), one to one: (P,).

    The texts of an image are scored together, so that its vectors are read once.
    """
    found = torch.empty(len(rows), dtype=dtype, device=rows.device)
    if not len(rows):
        return found
    of_image, of_text = (8 * sum(x[0].numel() for x in side.tensors()) for side in (images, texts))
    most = max(1, pair_bytes // (4 * of_text))
    order = rows.argsort(stable=True)
    place = torch.arange(len(rows), device=rows.device)
    starts = torch.searchsorted(rows[order], rows[order])
    first = ((place - starts) % most == 0).nonzero().flatten()  # of each run: an image's texts, at most `most` of them
    lengths = torch.diff(first, append=first.new_tensor([len(rows)]))
    longest_first = lengths.argsort(descending=True, stable=True)
    first, lengths = first[longest_first], lengths[longest_first]
    done = 0
    while done < len(first):
        width = int(lengths[done])
        run = slice(done, done + max(1, pair_bytes // (4 * (of_image + width * of_text))))
        offsets = torch.arange(width, device=rows.device)
        where = order[(first[run, None] + offsets).clamp_max(len(rows) - 1)]
        scores = similarity.own_scores(images.rows(rows[where[:, 0]]), texts.rows(columns[where].flatten()), dtype)
        exists = offsets < lengths[run, None]
        found[where[exists]] = scores[exists]
        done = run.stop
    return found


class Open(NamedTuple):
    """Pairs that are to be decided one by one.

    Attributes:
        rows: (P,) images.
        columns: (P,) texts.
        scores: (P,) what is known of their scores.
        of_image: (P,) bool, whether a pair is still to be counted for its image.
        of_text: (P,) bool, likewise for its text.
    """

    rows: Tensor
    columns: Tensor
    scores: Tensor
    of_image: Tensor
    of_text: Tensor

    @staticmethod
    def empty(count: int, device: torch.device) -> Open:
        """Room for so many: what is kept piecewise, between the large tensors of tiles, tears the memory to pieces."""
        kinds = torch.int64, torch.int64, torch.float32, torch.bool, torch.bool
        return Open(*(torch.empty(count, dtype=kind, device=device) for kind in kinds))

    def where(self, chosen: Tensor | slice) -> Open:
        """Some of them."""
        return Open(*(x[chosen] for x in self))


def settle(problem: Problem, tally: Tally, pairs: Open) -> Tensor:
    """Decide wrong pairs by their scores in float64, which are returned, (P,); the counts are added to the tally."""
    rows, columns = pairs.rows, pairs.columns
    scores = pair_scores(problem.images, problem.texts, problem.similarity, rows, columns)
    nearest = problem.reach.of_pairs(rows, columns, rounding)
    for query, threshold, counted, better, tied in (
        (rows, problem.best, pairs.of_image, tally.better_images, tally.tied_images),
        (columns, problem.positive, pairs.of_text, tally.better_texts, tally.tied_texts),
    ):
        above = scores > threshold[query] + nearest
        near = (scores >= threshold[query] - nearest) & ~above
        better.index_add_(0, query, (above & counted).int())
        tied.index_add_(0, query, (near & counted).int())
    return scores
