"""The scores of pairs that people rated: only their order is kept, which rank correlations need.

Every rating counts by itself in Kendall's tau: with C concordant and D discordant pairs of the n ratings, T_x and T_y
pairs that tie in the scores and in the ratings, and m the smaller number of distinct values,

    tau_b = (C - D) / sqrt((n (n - 1) / 2 - T_x) (n (n - 1) / 2 - T_y)),    tau_c = 2 (C - D) m / (n^2 (m - 1)).

Spearman's correlation is that of the scores with the mean rating of each pair, both as mid-ranks.  An image that a
resample holds w times weighs w, which gives the same figures as w copies of its ratings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cran_bench.errors import BadInput

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from cran_bench.ranking.problem import Problem

CORRELATIONS = "tau_b", "tau_c", "spearman"

_BLOCK = 32, 1 << 22  # most draws, and weights of pairs, that are held at a time


@dataclass(frozen=True)
class Agreement:
    """J pairs of an image and a caption that people rated, in the order of a method's scores.

    Attributes:
        image: (J,) int32, positions of images in the test split.
        caption: (J,) int32, positions of captions.
        rank: (J,) int32, dense rank of the pair's score among all J, from 0 for the lowest; equal scores share one.
        ratings: (J, R) float64, the ratings of R people.
    """

    image: NDArray[np.int32]
    caption: NDArray[np.int32]
    rank: NDArray[np.int32]
    ratings: NDArray[np.float64]

    ARRAYS: ClassVar[Mapping[str, Any]] = {
        **dict.fromkeys(("image", "caption", "rank"), np.int32),
        "ratings": np.float64,
    }
    """The arrays as which it is stored, with their types; `ratings` in one row."""

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """`ARRAYS` by name."""
        return {**vars(self), "ratings": self.ratings.ravel()}

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]], images: int, captions: int) -> Agreement:
        """What is stored as `arrays`, of a split of so many images and captions.

        Raises:
            ValueError: the arrays do not fit together, or name a pair that does not exist.
        """
        image, caption, rank = (arrays[name] for name in ("image", "caption", "rank"))
        people, rest = divmod(len(arrays["ratings"]), max(1, len(image)))
        if not len(image) or any(x.shape != image.shape for x in (caption, rank)) or rest or not people:
            raise ValueError("the ratings do not belong to the pairs")
        if min(image.min(), caption.min(), rank.min()) < 0 or image.max() >= images or caption.max() >= captions:
            raise ValueError("a rated pair does not exist")
        return Agreement(image, caption, rank, arrays["ratings"].reshape(len(image), people))


def agree(
    problem: Problem, image: NDArray[np.int64], caption: NDArray[np.int64], ratings: NDArray[np.float64]
) -> Agreement:
    """Score J pairs that people rated.

    Args:
        problem: images and captions of the whole test split.
        image: (J,) positions of images; a pair scorer scores them as queries.
        caption: (J,) positions of captions.
        ratings: (J, R) the ratings of R people.

    Returns:
        The order of the scores; those that differ by less than their rounding errors are equal.

    Raises:
        BadInput: a score is not finite, or every caption is rated with its own image only.
    """
    import torch  # not at the top: tables read what is stored here, without torch

    from cran_bench.similarity import one_way, rounding

    _others(problem.owners.numpy(), image, caption)
    way = replace(problem, similarity=one_way(problem.similarity, for_images=True))
    rows, columns = (torch.as_tensor(x, dtype=torch.int64, device=problem.device) for x in (image, caption))
    scores = way.own_scores(rows, columns).cpu().numpy()
    tolerance = way.reach.of_pairs(rows, columns, rounding).cpu().numpy()
    if not np.isfinite(scores).all():
        raise BadInput("the score of a rated pair is not finite: scale the embeddings down, or correct the pair scorer")
    return Agreement(image.astype(np.int32), caption.astype(np.int32), _dense(scores, tolerance), ratings)


def correlations(agreement: Agreement, image_of: NDArray[np.int64]) -> dict[str, float]:
    """`CORRELATIONS` of scores and ratings, times 100; without the pairs of a caption and its own image.

    A figure is 0 where all scores, or all ratings, are equal.

    Args:
        agreement: J rated pairs.
        image_of: (T,) the position of each caption's own image.

    Raises:
        BadInput: every caption is rated with its own image only.
    """
    once = np.ones((1, int(image_of.max()) + 1), dtype=np.uint8)
    values = 100.0 * weighted_correlations(agreement, image_of, once)[0]
    return dict(zip(CORRELATIONS, values.tolist(), strict=True))


def between_people(agreement: Agreement, image_of: NDArray[np.int64]) -> dict[tuple[int, int], dict[str, float]]:
    """`correlations` of the ratings of each two of the R people, by their columns; empty where R = 1."""
    ratings = agreement.ratings
    pairs = {}
    for a, b in combinations(range(ratings.shape[1]), 2):
        scored = replace(agreement, rank=_dense(ratings[:, a], np.zeros(len(ratings))), ratings=ratings[:, [b]])
        pairs[a, b] = correlations(scored, image_of)
    return pairs


def weighted_correlations(
    agreement: Agreement, image_of: NDArray[np.int64], times: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """(draws, 3) `CORRELATIONS` of scores and ratings on resamples of images, as fractions; 0 where undefined.

    Args:
        agreement: J rated pairs; those of a caption and its own image are left out.
        image_of: (T,) the position of each caption's own image.
        times: (draws, N) how often each image of the split is drawn, with all its rated pairs.

    Raises:
        BadInput: every caption is rated with its own image only.
    """
    others = _others(image_of, agreement.image, agreement.caption)
    (used, image), ratings = np.unique(agreement.image[others], return_inverse=True), agreement.ratings[others]
    score = np.unique(agreement.rank[others], return_inverse=True)[1]
    level = np.unique(ratings, return_inverse=True)[1].reshape(ratings.shape)
    images, people = len(used), ratings.shape[1]
    mean = _dense(ratings.mean(axis=1), 4 * people * np.finfo(np.float64).eps * np.abs(ratings).max(axis=1))
    by_score, by_mean = (_by_group(group, image, 1, images) for group in (score, mean))
    by_level = _by_group(level.ravel(), image.repeat(people), 1, images)
    splits = list(_splits(score, image, level, images))
    found, size = np.zeros((len(times), len(CORRELATIONS))), max(1, min(_BLOCK[0], _BLOCK[1] // len(image)))
    for start in range(0, len(times), size):
        block = slice(start, start + size)
        drawn = np.ascontiguousarray(times[block, used].T, dtype=np.float64)
        scores, levels, means = by_score @ drawn, by_level @ drawn, by_mean @ drawn
        apart = np.zeros(drawn.shape[1])
        for low, high in splits:
            apart += np.einsum("gb,gb->b", high @ drawn, _place(low @ drawn))
        n = levels.sum(axis=0)
        untied = [n**2 - np.square(x).sum(axis=0) for x in (people * scores, levels)]
        found[block, 0] = _ratio(2 * apart, np.sqrt(untied[0] * untied[1]))
        m = np.minimum(np.count_nonzero(scores, axis=0), np.count_nonzero(levels, axis=0))
        found[block, 1] = _ratio(2 * apart * m, n**2 * (m - 1))
        u, v = _place(scores), _place(means)
        spread = [np.einsum("gb,gb,gb->b", w, x, x) for w, x in ((scores, u), (means, v))]
        found[block, 2] = _ratio((drawn[image] * u[score] * v[mean]).sum(axis=0), np.sqrt(spread[0] * spread[1]))
    return found


def _others(
    image_of: NDArray[np.int64], image: NDArray[np.integer[Any]], caption: NDArray[np.integer[Any]]
) -> NDArray[np.bool_]:
    """(J,) which rated pairs are not of a caption and its own image."""
    others: NDArray[np.bool_] = image_of[caption] != image
    if not others.any():
        raise BadInput("every caption is rated with its own image only, which correlations leave out: rate other pairs")
    return others


def _dense(values: NDArray[np.float64], tolerance: NDArray[np.float64]) -> NDArray[np.int32]:
    """(J,) dense ranks; neighbours in order that differ by no more than the sum of their tolerances are equal."""
    order = np.argsort(values, kind="stable")
    ordered, near = values[order], tolerance[order]
    ranks = np.zeros(len(values), dtype=np.int32)
    ranks[order[1:]] = np.cumsum(np.diff(ordered) > near[1:] + near[:-1])
    return ranks


def _by_group(
    group: NDArray[np.integer[Any]], image: NDArray[np.int64], count: NDArray[np.int64] | int, images: int
) -> csr_array:
    """(G, N) the sum of `count` by group, of 0 to G - 1, and by image."""
    from scipy.sparse import csr_array  # which takes a tenth of a second to import

    counts = np.broadcast_to(count, group.shape).astype(np.float64)
    summed = csr_array((counts, (group, image)), shape=(int(group.max()) + 1, images))
    summed.eliminate_zeros()
    return summed


def _splits(
    score: NDArray[np.int64], image: NDArray[np.int64], level: NDArray[np.int64], images: int
) -> Iterator[tuple[csr_array, csr_array]]:
    """Yield ratings of lower and of higher levels by score and image, so that each two levels are split just once."""
    parts = [(0, int(level.max()) + 1, np.arange(len(level)))]
    while parts:
        start, stop, rows = parts.pop()
        middle, some = (start + stop) // 2, level[rows]
        if middle > start:
            low = ((some >= start) & (some < middle)).sum(axis=1)
            high = ((some >= middle) & (some < stop)).sum(axis=1)
            group = np.unique(score[rows], return_inverse=True)[1]
            yield _by_group(group, image[rows], low, images), _by_group(group, image[rows], high, images)
            parts += [(start, middle, rows[low > 0]), (middle, stop, rows[high > 0])]


def _place(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(G, B) the weight before each of G groups in order, minus that after it: twice its mid-rank from the middle."""
    until = weights.cumsum(axis=0)
    place: NDArray[np.float64] = 2 * until - weights - until[-1]
    return place


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """`a` / `b`, 0 where that is not defined."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)
