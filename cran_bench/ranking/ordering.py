"""Candidates of queries, sorted by score, and the expectation over random order of those that tie.

The expectation is that of McSherry and Najork, *Computing Information Retrieval Performance Measures Efficiently in the
Presence of Tied Scores*, ECIR 2008.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from cran_bench.embeddings import Rows
from cran_bench.errors import BadInput
from cran_bench.ranking.problem import Problem, make_problem
from cran_bench.similarity import Pairwise, one_way, rounding

BLOCK_BYTES = 1 << 28  # of the arrays for one block of queries
ENTRY_BYTES = 256  # of one candidate of one query in them


class Sorter:
    """Sorts the candidates of queries in one direction, the best first.

    With `Pairwise.rerank`, all candidates are sorted by the cheap similarity, and the best of them, with what ties with
    the last of those, by the scores of pairs.

    Args:
        problem: images and texts.
        is_text: whether the queries are texts.
    """

    def __init__(self, problem: Problem, is_text: bool) -> None:
        similarity = problem.similarity
        self.is_text = is_text
        self.way = replace(problem, similarity=one_way(similarity, not is_text))
        self.top = similarity.rerank if isinstance(similarity, Pairwise) else 0
        self.cheap = _cheap(problem) if self.top else self.way

    def sort(self, queries: Rows, others: slice) -> tuple[Tensor, Tensor]:
        """Sort the candidates `others` of the queries.

        Args:
            queries: Q rows of images or texts.
            others: M rows of the other side.

        Returns:
            (Q, M) positions of candidates in their order, and (Q, M) bool, whether a candidate scores less than the one
            before it; scores that differ by less than the rounding error of either are equal.

        Raises:
            BadInput: a score is not finite.
        """
        pair: tuple[Rows, Rows] = (others, queries) if self.is_text else (queries, others)
        scores, tolerance = self.cheap.scores(*pair), self.cheap.reach.of_all(*pair, rounding)
        if self.is_text:
            scores, tolerance = scores.T.contiguous(), tolerance.T
        _require_finite(scores)
        chosen: list[tuple[Tensor, Tensor]] = []
        if self.top:
            worst = scores.topk(min(self.top, scores.shape[1]), dim=1).values[:, -1:]
            is_chosen = scores >= worst - tolerance
            chosen = list(self._reranked(is_chosen, queries, others))
            scores = scores.masked_fill(is_chosen, torch.inf)  # first, in the order of the scores of pairs
        ordered, order = scores.sort(dim=1, descending=True)
        starts = torch.ones_like(order, dtype=torch.bool)
        gaps = ordered[:, :-1] - ordered[:, 1:]
        starts[:, 1:] = gaps > tolerance.max()
        if not bool(starts.all()):
            near = tolerance.expand_as(scores).gather(1, order)
            starts[:, 1:] = gaps > torch.maximum(near[:, :-1], near[:, 1:])
        for query, (best, is_less) in enumerate(chosen):
            order[query, : len(best)], starts[query, : len(best)] = best, is_less
            starts[query, len(best) : len(best) + 1] = True
        return order, starts

    def _reranked(self, is_chosen: Tensor, queries: Rows, others: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each query the positions of its chosen candidates by decreasing score, and where that decreases."""
        side = self.way.texts if self.is_text else self.way.images
        for query, row in zip(torch.arange(len(side), device=is_chosen.device)[queries], is_chosen, strict=True):
            candidates = row.nonzero().flatten()
            one, some = query[None], others.start + candidates
            scores = self.way.scores(some, one) if self.is_text else self.way.scores(one, some)
            _require_finite(scores)
            ordered, order = scores.flatten().sort(descending=True)
            yield candidates[order], pad(ordered[:-1] > ordered[1:], (1, 0), value=True)


def groups(starts: Tensor) -> tuple[Tensor, Tensor]:
    """For each place, the first place of its group of equal candidates, and the place after the last: (Q, M) int64.

    Args:
        starts: (Q, M) bool, where a group begins.
    """
    size = starts.shape[1]
    place = torch.arange(size, device=starts.device)
    if bool(starts.all()):
        return place.expand_as(starts), (place + 1).expand_as(starts)
    first = torch.where(starts, place, 0).cummax(dim=1).values
    ends = torch.where(pad(starts[:, 1:], (0, 1), value=True), place + 1, size)
    return first, ends.flip(1).cummin(dim=1).values.flip(1)


def precision_terms(before: Tensor, right: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """(Q, K) float64, what each of the first K places adds to the sum of precisions at right candidates, as expected.

    A group of m equal candidates on ranks a + 1 to a + m, k of them right, with b right ones before it, adds on its
    place j the probability that a right candidate is there, times the precision if it is:
    (k / m) (b + 1 + (j - 1) (k - 1) / (m - 1)) / (a + j).

    Args:
        before: (Q, K) b, the number of right candidates before the group of each place.
        right: (Q, K) k, the number of those in it.
        first: (Q, K) a, the first place of the group.
        last: (Q, K) a + m, the place after its last.
    """
    place = torch.arange(first.shape[1], device=first.device)
    right, members = right.double(), last - first
    slope = (right - 1) / (members - 1).clamp_min(1)
    return right / members * (before + 1 + (place - first) * slope) / (place + 1)


def _cheap(problem: Problem) -> Problem:
    """The problem of the scores that choose the candidates of `Pairwise.rerank`."""
    similarity = problem.similarity
    assert isinstance(similarity, Pairwise) and problem.images.globals is not None
    assert problem.texts.globals is not None
    sides = problem.images.globals, problem.texts.globals, problem.image_of
    return make_problem(*sides, similarity.cheap, len(problem.folds))


def _require_finite(scores: Tensor) -> None:
    if not bool(torch.isfinite(scores).all()):
        raise BadInput("a score is not finite: scale the embeddings down, or correct the scores of a pair scorer")
