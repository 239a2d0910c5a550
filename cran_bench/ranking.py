"""Ranks by counting, never by sorting, and Recall@K.

For every query three integers are kept: how many wrong candidates score better than the best right one, how many wrong
ones tie with it, and how many right ones tie with it (one, but for queries with several right answers).  Ties are
resolved in expectation over a random order, so a constant scorer gets chance and no implementation detail can help.

Recall@K here is the field's: the share of queries with a right answer among the first K (a hit rate).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cran_bench.arithmetic import in_full_precision
from cran_bench.counting import Backend, Bound, Clock, Kernel, choose, pose
from cran_bench.counting.problem import pair_scores
from cran_bench.errors import BadInput
from cran_bench.protocols import fold_rows
from cran_bench.similarity import Embedding, Similarity, as_levels, rounding

KS = (1, 5, 10)

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
        kernel: how they were counted, where they were counted just now.
    """

    i2t: Counts
    t2i: Counts
    image_of: NDArray[np.int64]
    kernel: Kernel | None = None

    ARRAYS: ClassVar = (
        "image_of",
        *(f"{side}_{name}" for side in ("i2t", "t2i") for name in ("better", "tied", "right")),
    )

    def metrics(self) -> Metrics:
        """Recall in percent, median and mean rank, from 1."""
        values: dict[str, float] = {}
        for direction, counts in (("i2t", self.i2t), ("t2i", self.t2i)):
            for k in KS:
                values[f"{direction}_r{k}"] = 100.0 * float(counts.hits(k).mean())
            values[f"{direction}_medr"] = float(np.median(counts.ranks()))
            values[f"{direction}_meanr"] = float(counts.ranks().mean())
        return Metrics(**values)

    def of_images(self, rows: NDArray[np.int64]) -> Ranks:
        """The ranks of some images and of their texts."""
        texts = np.flatnonzero(np.isin(self.image_of, rows))
        return Ranks(self.i2t.take(rows), self.t2i.take(texts), self.image_of[texts], self.kernel)

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
        """The inverse of `arrays`.

        Raises:
            ValueError: they are not of as many queries, or name images that are not there.
        """

        def counts(direction: str) -> Counts:
            return Counts(*(arrays[f"{direction}_{name}"] for name in ("better", "tied", "right")))

        found = Ranks(counts("i2t"), counts("t2i"), arrays["image_of"].astype(np.int64))
        images, texts = len(found.i2t.better), len(found.image_of)
        for side, count in ((found.i2t, images), (found.t2i, texts)):
            if not count or any(array.shape != (count,) or array.min() < 0 for array in vars(side).values()):
                raise ValueError(f"the counts of {images:,} images and {texts:,} texts do not fit together")
        if found.image_of.min() < 0 or found.image_of.max() >= images:
            raise ValueError(f"a text is of an image that is not among the {images:,}")
        return found


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


@torch.no_grad()
def rank(
    images: Embedding,
    texts: Embedding,
    image_of: Tensor,
    similarity: Similarity,
    clock: Clock | None = None,
    backend: str | Backend = "auto",
    bound: Bound = "measured",
    folds: int = 0,
) -> Ranks:
    """Rank N images against T texts in both directions, in one pass over tiles of the score matrix.

    Args:
        images: N rows.
        texts: T rows.
        image_of: (T,) int64, which image row each text belongs to; every image owns at least one.
        similarity: what a pair scores; larger is better.
        clock: receives the seconds of scoring and of counting.
        backend: how it is done, see `cran_bench.counting`; the ranks do not depend on it.
        bound: `measured` or `proven`, of the error of scores in low precision.
        folds: 0 ranks everything against everything; else so many runs of equally many images, each with its own
            texts, are ranked apart.  A remainder of images is left out, and texts come fold by fold.

    Returns:
        Counts per query; scores that differ by less than float64 rounding count as tied.

    Raises:
        BadInput: embeddings that do not fit together, or scores that are not finite.
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
    clock = clock or Clock(device)
    with in_full_precision(device):
        start = clock.now()
        problem = pose(left, right, image_of, similarity, folds or 1)
        clock.similarity += clock.now() - start
        how = choose(problem, backend, bound) if isinstance(backend, str) else backend
        tally, kernel = how.count(problem, clock)
    own_tolerances = problem.reach.of_pairs(image_of, torch.arange(len(image_of), device=device), rounding)
    right_ones = torch.zeros(len(left), dtype=torch.int32, device=device)
    right_ones.index_add_(0, image_of, (problem.positive >= problem.best[image_of] - own_tolerances).int())
    better_i, tied_i, tied_right, better_t, tied_t = (
        x.cpu().numpy()
        for x in (tally.better_images, tally.tied_images, right_ones, tally.better_texts, tally.tied_texts)
    )
    ones = np.ones(len(better_t), dtype=np.int32)
    counts = Counts(better_i, tied_i, tied_right), Counts(better_t, tied_t, ones)
    return Ranks(*counts, image_of.cpu().numpy(), kernel)


def twin_accuracy(
    images: Embedding, texts: Embedding, image_of: Tensor, twins: Tensor, similarity: Similarity
) -> float:
    """How often, in percent, a text scores its own image above the image's twin; a tie counts one half.

    Args:
        images: N rows.
        texts: T rows.
        image_of: (T,) own image of each text.
        twins: (N,) twin of each image.
        similarity: what a pair scores.
    """
    left, right = as_levels(images), as_levels(texts)
    everything = torch.arange(len(right), device=right.tensors()[0].device)
    own = image_of.to(everything.device)
    other = twins.to(everything.device)[own]
    reach = similarity.reach(left, right)
    gap = pair_scores(left, right, similarity, own, everything) - pair_scores(
        left, right, similarity, other, everything
    )
    tolerance = reach.of_pairs(own, everything, rounding) + reach.of_pairs(other, everything, rounding)
    wins = float((gap > tolerance).sum()) + 0.5 * float((gap.abs() <= tolerance).sum())
    return 100.0 * wins / len(right)
