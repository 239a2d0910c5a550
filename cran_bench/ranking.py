"""Ranks by counting, never by sorting, and Recall@K.

For every query three integers are kept: how many wrong candidates score better than the best right one, how many wrong
ones tie with it, and how many right ones tie with it (one, but for queries with several right answers).  Ties are
resolved in expectation over a random order, so a constant scorer gets chance and no implementation detail can help.

Recall@K here is the field's: the share of queries with a right answer among the first K (a hit rate).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cran_bench.errors import BadInput
from cran_bench.similarity import Embedding, Levels, Similarity, require_finite, rows_of

KS = (1, 5, 10)
TILE_BYTES = 1 << 28

Direction = Literal["i2t", "t2i"]


@dataclass(frozen=True)
class Counts:
    """One direction's ranks, an entry per query.

    Attributes:
        better: (Q,) int32, wrong candidates strictly better than the best right one.
        tied: (Q,) int32, wrong candidates tied with the best right one.
        right: (Q,) int32, right candidates tied with the best right one, itself included.
    """

    better: NDArray[np.int32]
    tied: NDArray[np.int32]
    right: NDArray[np.int32]

    def hits(self, k: int) -> NDArray[np.float64]:
        """(Q,) probability of a right answer among the first `k` under a random order of ties.

        With one right answer this is min(1, max(0, (k - better) / (tied + 1))).  With r tied right answers it is one
        minus the chance that the k - better places left all go to wrong ones (hypergeometric).
        """
        places = np.maximum(0, k - self.better.astype(np.float64))
        tied, right = self.tied.astype(np.float64), self.right.astype(np.float64)
        miss = np.ones(len(places))
        for place in range(k):
            left = tied - place
            miss = np.where(place < places, miss * np.clip(left / np.maximum(left + right, 1.0), 0.0, 1.0), miss)
        return np.where(places > 0, 1.0 - miss, 0.0)

    def ranks(self) -> NDArray[np.float64]:
        """(Q,) expected rank of the first right answer, from 1: better + tied / (right + 1) + 1."""
        return np.asarray(self.better + self.tied / (self.right + 1.0) + 1.0, dtype=np.float64)

    def take(self, queries: NDArray[np.int64]) -> Counts:
        """The counts of some queries."""
        return Counts(self.better[queries], self.tied[queries], self.right[queries])


@dataclass(frozen=True)
class Ranks:
    """Both directions: N image queries and T text queries.

    Attributes:
        image_of: (T,) int64, the image position of each text query.
    """

    i2t: Counts
    t2i: Counts
    image_of: NDArray[np.int64]

    def metrics(self) -> Metrics:
        """Recall in percent, median and mean rank, from 1."""
        values: dict[str, float] = {}
        for direction, counts in (("i2t", self.i2t), ("t2i", self.t2i)):
            for k in KS:
                values[f"{direction}_r{k}"] = 100.0 * float(counts.hits(k).mean())
            values[f"{direction}_medr"] = float(np.median(counts.ranks()))
            values[f"{direction}_meanr"] = float(counts.ranks().mean())
        return Metrics(**values)

    def ties(self) -> int:
        """Queries, of both directions, whose rank depends on the order of ties."""
        return int(np.count_nonzero(self.i2t.tied) + np.count_nonzero(self.t2i.tied))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The integers as named arrays, as they are stored."""
        found: dict[str, NDArray[np.generic]] = {"image_of": self.image_of.astype(np.int32)}
        for direction, counts in (("i2t", self.i2t), ("t2i", self.t2i)):
            for name, array in vars(counts).items():
                found[f"{direction}_{name}"] = array
        return found

    @staticmethod
    def from_arrays(arrays: dict[str, NDArray[np.int32]]) -> Ranks:
        """The inverse of `arrays`."""

        def counts(direction: str) -> Counts:
            return Counts(*(arrays[f"{direction}_{name}"] for name in ("better", "tied", "right")))

        return Ranks(counts("i2t"), counts("t2i"), arrays["image_of"].astype(np.int64))


@dataclass(frozen=True)
class Metrics:
    """Recalls in percent; ranks count from 1."""

    i2t_r1: float
    i2t_r5: float
    i2t_r10: float
    i2t_medr: float
    i2t_meanr: float
    t2i_r1: float
    t2i_r5: float
    t2i_r10: float
    t2i_medr: float
    t2i_meanr: float

    @property
    def rsum(self) -> float:
        """Sum of the six recalls, at most 600."""
        return self.i2t_r1 + self.i2t_r5 + self.i2t_r10 + self.t2i_r1 + self.t2i_r5 + self.t2i_r10

    def values(self) -> dict[str, float]:
        """Every figure by name, `rsum` included."""
        return {**asdict(self), "rsum": self.rsum}


def mean_metrics(metrics: list[Metrics]) -> Metrics:
    """The mean of each figure (over folds)."""
    names = asdict(metrics[0])
    return Metrics(**{name: float(np.mean([getattr(m, name) for m in metrics])) for name in names})


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


def rank(
    images: Embedding,
    texts: Embedding,
    image_of: Tensor,
    similarity: Similarity,
    clock: Clock | None = None,
    tile_bytes: int = TILE_BYTES,
) -> Ranks:
    """Rank N images against T texts in both directions, in one pass over tiles of the score matrix.

    Args:
        images: N rows.
        texts: T rows.
        image_of: (T,) int64, which image row each text belongs to; every image owns at least one.
        similarity: what a pair scores; larger is better.
        clock: receives the seconds of scoring and of counting.
        tile_bytes: memory for one tile of scores; nothing of the size N x T is ever held.

    Returns:
        Counts per query; scores that differ by less than float64 rounding count as tied.

    Raises:
        BadInput: embeddings that do not fit together, or scores that are not finite.
    """
    n, t, device = len(images), len(texts), _device(images)
    clock = clock or Clock(device)
    if n == 0 or t == 0:
        raise BadInput(f"ranking needs images and texts; there are {n} images and {t} texts")
    if len(image_of) != t:
        raise BadInput(f"image_of names the image of each text: {t} texts came with {len(image_of)} entries")
    if not 0 <= int(image_of.min()) <= int(image_of.max()) < n:
        raise BadInput(f"image_of names image {int(image_of.max())}, but there are {n} images, counted from 0")
    similarity.check(images, texts)
    require_finite(images, "image embeddings")
    require_finite(texts, "text embeddings")
    image_of = image_of.to(device)
    image_rows, text_rows = _tile(images, texts, tile_bytes)

    start = clock.now()
    own_scores, own_tolerances = [], []
    for a in range(0, t, image_rows):
        columns = slice(a, a + image_rows)
        pair = rows_of(images, image_of[columns]), rows_of(texts, columns)
        own_scores.append(similarity.paired(*pair))
        own_tolerances.append(similarity.rounding(*pair, paired=True).expand(len(own_scores[-1])))
    positive = torch.cat(own_scores)
    clock.similarity += clock.now() - start
    if not bool(torch.isfinite(positive).all()):
        where = int((~torch.isfinite(positive)).nonzero()[0])
        raise BadInput(f"the score of text {where} and its own image is not finite; embeddings are too large")
    best = torch.full((n,), -torch.inf, dtype=torch.float64, device=device)
    best.scatter_reduce_(0, image_of, positive, "amax")
    if not bool(torch.isfinite(best).all()):
        raise BadInput(f"image {int((~torch.isfinite(best)).nonzero()[0])} has no text; every image needs at least one")
    right = torch.zeros(n, dtype=torch.int32, device=device)
    right.index_add_(0, image_of, (positive >= best[image_of] - torch.cat(own_tolerances)).int())

    better_i, tied_i = (torch.zeros(n, dtype=torch.int32, device=device) for _ in range(2))
    better_t, tied_t = (torch.zeros(t, dtype=torch.int32, device=device) for _ in range(2))
    for a in range(0, n, image_rows):
        for b in range(0, t, text_rows):
            rows, columns = slice(a, min(a + image_rows, n)), slice(b, min(b + text_rows, t))
            start = clock.now()
            tile = rows_of(images, rows), rows_of(texts, columns)
            scores = similarity.scores(*tile)
            middle = clock.now()
            tolerance = similarity.rounding(*tile)
            if not bool(torch.isfinite(scores).all()):
                i, j = (~torch.isfinite(scores)).nonzero()[0].tolist()
                raise BadInput(f"the score of image {a + i} and text {b + j} is not finite; embeddings are too large")
            own = image_of[columns]
            inside = ((own >= rows.start) & (own < rows.stop)).nonzero().flatten()
            scores[own[inside] - a, inside] = -torch.inf
            for threshold, axis, better, tied, span in (
                (best[rows, None], 1, better_i, tied_i, rows),
                (positive[None, columns], 0, better_t, tied_t, columns),
            ):
                above = (scores > threshold + tolerance).sum(dim=axis, dtype=torch.int32)
                near = (scores >= threshold - tolerance).sum(dim=axis, dtype=torch.int32)
                better[span] += above
                tied[span] += near - above
            end = clock.now()
            clock.similarity += middle - start
            clock.rank += end - middle
    ones = np.ones(t, dtype=np.int32)
    return Ranks(
        Counts(better_i.cpu().numpy(), tied_i.cpu().numpy(), right.cpu().numpy()),
        Counts(better_t.cpu().numpy(), tied_t.cpu().numpy(), ones),
        image_of.cpu().numpy(),
    )


def twin_accuracy(
    images: Embedding,
    texts: Embedding,
    image_of: Tensor,
    twins: Tensor,
    similarity: Similarity,
    tile_bytes: int = TILE_BYTES,
) -> float:
    """How often, in percent, a text scores its own image above the image's twin; a tie counts one half.

    Args:
        images: N rows.
        texts: T rows.
        image_of: (T,) own image of each text.
        twins: (N,) twin of each image.
        similarity: what a pair scores.
        tile_bytes: memory for the texts scored at a time.
    """
    image_of, twins = image_of.to(_device(images)), twins.to(_device(images))
    block, _ = _tile(images, texts, tile_bytes)
    wins = 0.0
    for a in range(0, len(texts), block):
        span = slice(a, a + block)
        own = rows_of(images, image_of[span]), rows_of(texts, span)
        other = rows_of(images, twins[image_of[span]]), rows_of(texts, span)
        gap = similarity.paired(*own) - similarity.paired(*other)
        tolerance = similarity.rounding(*own, paired=True) + similarity.rounding(*other, paired=True)
        wins += float((gap > tolerance).sum()) + 0.5 * float((gap.abs() <= tolerance).sum())
    return 100.0 * wins / len(texts)


def _device(embedding: Embedding) -> torch.device:
    return embedding.tensors()[0].device if isinstance(embedding, Levels) else embedding.device


def _tile(images: Embedding, texts: Embedding, tile_bytes: int) -> tuple[int, int]:
    """Image and text rows of a tile whose float64 vectors and scores, on every level, fit into `tile_bytes`."""
    vectors, dims = 1, 1
    if isinstance(images, Levels):
        regions = max((x.shape[1] for x in images.tensors() if x.dim() == 3), default=0)
        vectors += regions * (regions + 1)
        dims = max(x.shape[-1] for x in images.tensors())
    text_rows = min(len(texts), 4096)
    return max(1, tile_bytes // (4 * 8 * vectors * max(text_rows, dims))), text_rows
