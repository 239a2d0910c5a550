"""The ranking problem: count the wrong candidates of each query that beat, or tie with, its best right one."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from cran_bench.embeddings import Embedding, Levels, Rows, as_levels, require_finite, take
from cran_bench.errors import BadInput
from cran_bench.protocols import fold_rows
from cran_bench.similarity import Lengths, MultiLevel, Reach, Similarity, rounding, without_zeros

RANGE = 1e-10, 1e10  # of vector sizes that float32 holds with a margin
PAIR_BYTES = 1 << 28  # of a CPU's memory, for float64 vectors of pairs that are scored one by one
PAIR_SHARE = 12  # part of a GPU's memory for them


@dataclass(frozen=True)
class Problem:
    """N images to be ranked against T texts, with the scores of the positive pairs.

    Attributes:
        images: N image embeddings.
        texts: T text embeddings.
        image_of: (T,) int64, the row of each text's own image.
        similarity: scores a pair.
        lengths: what vectors are divided by under cosine similarity, otherwise None.
        extent: the length of the shortest non-zero vector (at most 1), and of the longest (at least 1).
        reach: bounds on the magnitude of scores.
        is_in_range: whether float32 represents all scores and squared vectors, with a margin below and above.
        owners: `image_of` on the host.
        positive: (T,) float64, the score of each text with its own image.
        best: (N,) float64, the best score among an image's own texts.
        right: (N,) int32, the number of an image's own texts that tie with it, itself included.
        folds: slices of images and texts that are ranked against each other; together they cover all rows.
    """

    images: Levels
    texts: Levels
    image_of: Tensor
    similarity: Similarity
    lengths: Lengths | None
    extent: tuple[float, float]
    reach: Reach
    is_in_range: bool
    owners: Tensor
    positive: Tensor
    best: Tensor
    right: Tensor
    folds: tuple[tuple[slice, slice], ...]

    @property
    def device(self) -> torch.device:
        """The device of the embeddings and of the counts."""
        return self.positive.device

    def tally(self) -> Tally:
        """Counts of zero, with the number of right texts."""
        size = len(self.images) + len(self.texts)
        better, tied = torch.zeros(2, size, dtype=torch.int32, device=self.device)
        return Tally(better, tied, self.right)

    @cached_property
    def thresholds(self) -> Tensor:
        """(N + T,) float64, the scores that a wrong candidate has to exceed: `best` and `positive`."""
        return torch.cat([self.best, self.positive])

    @property
    def top(self) -> int:
        """The largest number of members of a level that contribute to a score."""
        return self.similarity.top if isinstance(self.similarity, MultiLevel) else 1

    @property
    def pairs(self) -> int:
        """The number of image-text pairs that are compared."""
        return sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in self.folds)

    @property
    def flop(self) -> int:
        """Floating-point operations of all inner products, with relations in the form given (factored or not)."""
        return 2 * self.pairs * sum(x[0].numel() for x in self.images.tensors())

    def scores(self, rows: Rows, columns: Rows) -> Tensor:
        """(I, T) float64 scores of the selected images and texts."""
        lengths = lengths_of_some(self.lengths, rows, columns)
        return self.similarity.scores(self.images.rows(rows), self.texts.rows(columns), lengths)

    def own_scores(self, rows: Tensor, columns: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """(P,) scores of image `rows[p]` with text `columns[p]`, in `dtype`."""
        return pair_scores(self.images, self.texts, self.similarity, rows, columns, dtype, self.lengths)

    def tiles(self, image_rows: int, text_rows: int) -> Iterator[tuple[slice, slice]]:
        """Cover all pairs with tiles of at most `image_rows` x `text_rows`."""
        for rows, columns in self.folds:
            for images in blocks(rows, image_rows):
                for texts in blocks(columns, text_rows):
                    yield images, texts


@dataclass(frozen=True)
class Tally:
    """Running int32 counts of N images, followed by T texts.

    Attributes:
        better: (N + T,) wrong candidates that score strictly better than a query's best right one.
        tied: (N + T,) wrong candidates that tie with it.
        right: (N,) an image's own texts that tie with the best of them, itself included.
    """

    better: Tensor
    tied: Tensor
    right: Tensor

    @property
    def images(self) -> tuple[Tensor, Tensor]:
        """The better and tied counts of the images."""
        return self.better[: len(self.right)], self.tied[: len(self.right)]

    @property
    def texts(self) -> tuple[Tensor, Tensor]:
        """The better and tied counts of the texts."""
        return self.better[len(self.right) :], self.tied[len(self.right) :]

    def read(self, more: Tensor | None = None) -> tuple[Tally, list[float]]:
        """Copy the counts from the device at once, together with some more numbers (float64)."""
        sizes = [len(x) for x in vars(self).values()]
        both = torch.cat([*vars(self).values(), *([] if more is None else [more])]).cpu()
        *counts, rest = both.split_with_sizes([*sizes, len(both) - sum(sizes)])
        return Tally(*(x.int() for x in counts)), rest.tolist()


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
        """Count better and tied candidates for every query, in both directions, and copy the counts to the host.

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
    last: float | None = None

    def start(self) -> None:
        """Start, unless the clock runs already."""
        self.last = self.now() if self.last is None else self.last

    def lap(self, phase: Literal["similarity", "rank"]) -> None:
        """Add the seconds since the last reading to a phase."""
        now = self.now()
        setattr(self, phase, getattr(self, phase) + now - (now if self.last is None else self.last))
        self.last = now

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
    owners = image_of.to("cpu", torch.int64)
    for row in (int(owners.min()), int(owners.max())):
        if not 0 <= row < n:
            raise BadInput(f"image_of contains row {row}, but there are {n} images, counted from 0")
    similarity.check(left, right)
    image_of = image_of.to(device, torch.int64)
    if folds:
        size = len(fold_rows(n, folds)[0])
        fold = owners // size
        order = fold.argsort(stable=True)
        order = order[fold[order] < folds]
        if n % folds or not torch.equal(order, torch.arange(t)):
            left, right, owners = left.rows(slice(folds * size)), right.rows(order), owners[order]
            image_of = take(image_of, order)
    return _scored(left, right, image_of, owners, similarity, folds or 1)


def _scored(
    images: Levels, texts: Levels, image_of: Tensor, owners: Tensor, similarity: Similarity, folds: int
) -> Problem:
    everything = torch.arange(len(texts), device=image_of.device)
    measured = similarity.lengths(images), similarity.lengths(texts)
    divisors = without_zeros(measured[0]), without_zeros(measured[1])
    lengths = divisors if similarity.cosine else None
    positive = pair_scores(images, texts, similarity, image_of, everything, lengths=lengths)
    reach = similarity.reach(images, texts, measured)
    vectors = sum(x.shape[1:-1].numel() for x in images.tensors())
    sizes = pad(torch.cat([divisors[0][:, :vectors].flatten(), divisors[1].flatten()]), (0, 1), value=1.0)
    reached = without_zeros(torch.cat([reach.images.flatten(), reach.texts.flatten()]))
    extremes = *sizes.aminmax(), *reached.aminmax(), torch.linalg.vector_norm(positive, torch.inf)
    smallest, largest, low, high, largest_score = torch.stack(extremes).tolist()
    if not math.isfinite(largest):
        require_finite(images, "image embeddings")
        require_finite(texts, "text embeddings")
    if not math.isfinite(largest_score):
        where = int((~torch.isfinite(positive)).nonzero()[0])
        raise BadInput(f"the score of text {where} and its own image is not finite: scale the embeddings down")
    counts = torch.bincount(owners, minlength=len(images))
    if not bool(counts.all()):
        raise BadInput(f"image {int((counts == 0).nonzero()[0])} has no text; every image needs at least one")
    best = torch.full((len(images),), -torch.inf, dtype=torch.float64, device=positive.device)
    best.scatter_reduce_(0, image_of, positive, "amax")
    is_best = positive >= best[image_of] - reach.of_pairs(image_of, everything, rounding)
    right = torch.zeros(len(images), dtype=torch.int32, device=positive.device).index_add_(0, image_of, is_best.int())
    size = len(images) // folds
    bounds = counts.view(folds, size).sum(dim=1).cumsum(0).tolist()
    slices = tuple(
        (slice(k * size, (k + 1) * size), slice(start, stop)) for k, (start, stop) in enumerate(pairwise([0, *bounds]))
    )
    extent = smallest, largest
    is_in_range = all(RANGE[0] <= x <= RANGE[1] for x in (low, high, *extent))
    return Problem(
        images, texts, image_of, similarity, lengths, extent, reach, is_in_range, owners, positive, best, right, slices
    )


def pair_scores(
    images: Levels,
    texts: Levels,
    similarity: Similarity,
    rows: Tensor,
    columns: Tensor,
    dtype: torch.dtype = torch.float64,
    lengths: Lengths | None = None,
    pair_bytes: int | None = None,
) -> Tensor:
    """(P,) scores of image `rows[p]` with text `columns[p]`, in `dtype`.

    The texts of an image are scored together, up to the mean number of texts per image, so that its vectors are read
    once; `lengths` are those of both sides without zeros, if already computed.
    """
    count, device = len(rows), rows.device
    if not count:
        return torch.empty(0, dtype=dtype, device=device)
    pair_bytes = pair_bytes or pair_memory(device)
    image_bytes, text_bytes = (8 * sum(x[0].numel() for x in side.tensors()) for side in (images, texts))
    width = min(-(-count // len(images)), max(1, pair_bytes // (4 * text_bytes)))
    order = rows.argsort(stable=True)
    ordered, place = rows[order], torch.arange(count, device=device)
    first = ((place - torch.searchsorted(ordered, ordered)) % width == 0).nonzero().flatten()
    where = first[:, None] + torch.arange(width, device=device)
    is_filling = where >= pad(first[1:], (0, 1), value=count)[:, None]
    pairs = order[where.clamp_max(count - 1)]
    places = pairs.masked_fill(is_filling, count)
    scores = torch.empty(count + 1, dtype=dtype, device=device)  # the last one of texts that fill a run
    for run in blocks(slice(0, len(first)), max(1, pair_bytes // (4 * (image_bytes + width * text_bytes)))):
        own, candidates = rows[pairs[run, 0]], columns[pairs[run]].flatten()
        some = lengths_of_some(lengths, own, candidates)
        scores[places[run]] = similarity.own_scores(images.rows(own), texts.rows(candidates), dtype, some)
    return scores[:count]


def lengths_of_some(lengths: Lengths | None, rows: Rows, columns: Rows) -> Lengths | None:
    """The lengths of selected images and texts."""
    return None if lengths is None else (take(lengths[0], rows), take(lengths[1], columns))


def pair_memory(device: torch.device) -> int:
    """Bytes for the vectors of pairs that are scored one by one; on a GPU enough for a whole test split at once."""
    if device.type == "cuda":
        return max(PAIR_BYTES, torch.cuda.get_device_properties(device).total_memory // PAIR_SHARE)
    return PAIR_BYTES


class UndecidedPairs(NamedTuple):
    """P pairs whose low-precision scores lie too close to a threshold.

    Attributes:
        rows: (P,) images.
        columns: (P,) texts.
        scores: (P,) approximate scores.
        undecided: (2, P) bool, whether the pair is undecided as a candidate of its image, and of its text.
    """

    rows: Tensor
    columns: Tensor
    scores: Tensor
    undecided: Tensor

    def where(self, chosen: Tensor) -> UndecidedPairs:
        """The pairs at the given indices, or where a mask is True."""
        return UndecidedPairs(*(x[..., chosen] for x in self))


def count_better(
    problem: Problem, tally: Tally, pairs: UndecidedPairs, scores: Tensor, tolerance: Tensor
) -> tuple[Tensor, Tensor]:
    """Add P pairs that score better than a threshold, by more than a tolerance (P,), to the tally.

    Returns:
        (2, P) the pairs' images and texts as places in the tally, and (2, P) bool, which lie within the tolerance.
    """
    queries = torch.stack([pairs.rows, pairs.columns + len(problem.images)])
    margin = scores - problem.thresholds[queries]
    tally.better.index_add_(0, queries.flatten(), ((margin > tolerance) & pairs.undecided).flatten().int())
    return queries, (margin.abs() <= tolerance) & pairs.undecided


def rescore(problem: Problem, tally: Tally, pairs: UndecidedPairs) -> Tensor:
    """Score P wrong pairs in float64, add them to the tally, and return the (P,) scores."""
    scores = problem.own_scores(pairs.rows, pairs.columns)
    tolerance = problem.reach.of_pairs(pairs.rows, pairs.columns, rounding)
    queries, is_tied = count_better(problem, tally, pairs, scores, tolerance)
    tally.tied.index_add_(0, queries.flatten(), is_tied.flatten().int())
    return scores
