"""Retrieval by category: the average precision of every query, where all that shares a category with it is right.

The expectation over random order of ties is that of McSherry and Najork, *Computing Information Retrieval Performance
Measures Efficiently in the Presence of Tied Scores*, ECIR 2008.  A group of m equal candidates on ranks a + 1 to a + m,
k of them right, with b right ones before it, adds to the sum of precisions

    sum_{j=1..m} (k / m) (b + 1 + (j - 1) (k - 1) / (m - 1)) / (a + j).

Of the group that rank 50 cuts, the first n = 50 - a places hold a hypergeometric number X of right candidates; given X,
its part of the sum is that of a group of n with X right ones, and AP@50 is the expectation of sum / (b + X).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from cran_bench.errors import BadInput
from cran_bench.ranking.precisions import CUT, Precision, Precisions
from cran_bench.ranking.problem import Problem, blocks, make_problem
from cran_bench.similarity import Pairwise, one_way, rounding

BLOCK_BYTES = 1 << 28  # of the arrays for one block of queries
ENTRY_BYTES = 256  # of one candidate of one query in them


def average_precisions(problem: Problem, labels: Tensor, block_bytes: int = BLOCK_BYTES) -> Precisions:
    """The expected average precision of every query of a ranking problem.

    Args:
        problem: N images and T texts; those of a fold are ranked against each other.
        labels: (N, C) the categories of each image, 0 or 1; a text has those of its image.  Images that the folds leave
            over may follow.
        block_bytes: memory for the queries that are ranked at a time.

    Raises:
        BadInput: the labels do not belong to the images, or no image has one, or a score is not finite.
    """
    n = len(problem.images)
    if labels.dim() != 2 or len(labels) < n or not bool(((labels == 0) | (labels == 1)).all()):
        raise BadInput(f"labels must be {n} rows of 0 and 1, one column for each category, not {_described(labels)}")
    labels = labels[:n].to(problem.device)
    if not bool(labels.any()):
        raise BadInput("no image to rank has a label: label some, or say metric=rsum where validation has none")
    sides: list[Precision] = []
    top = problem.similarity.rerank if isinstance(problem.similarity, Pairwise) else 0
    cheap = _cheap(problem) if top else None
    for is_text in (False, True):
        way = replace(problem, similarity=one_way(problem.similarity, not is_text))
        of = labels[problem.image_of], labels
        asked, gallery = (x.float() for x in (of if is_text else of[::-1]))
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for rows, columns in problem.folds:
            queries, others = (columns, rows) if is_text else (rows, columns)
            size = max(1, block_bytes // (ENTRY_BYTES * (others.stop - others.start)))
            for part in blocks(queries, size):
                is_right = asked[part] @ gallery[others].T > 0
                order, starts = _ordered(way, cheap or way, top, part, others, is_text)
                found.append(_expected(is_right.gather(1, order), starts))
        ap, ap50, relevant = (torch.cat(x).cpu().numpy() for x in zip(*found, strict=True))
        sides.append(Precision(ap, ap50, relevant))
    return Precisions(sides[0], sides[1], problem.owners.numpy(), labels.to("cpu", torch.uint8).numpy())


def _described(labels: Tensor) -> str:
    return f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"


def _ordered(
    way: Problem, cheap: Problem, top: int, part: slice, others: slice, is_text: bool
) -> tuple[Tensor, Tensor]:
    """Sort the candidates `others` of the queries `part`, the best first.

    Args:
        way: images and texts, with the similarity of this direction.
        cheap: the same with the similarity by which all candidates are sorted first.
        top: only so many of the best of those, and what ties with the last, are then sorted by `way`; 0 for none.
        part: Q queries.
        others: M candidates.
        is_text: whether the queries are texts.

    Returns:
        (Q, M) positions of candidates in their order, and (Q, M) bool, whether a candidate scores less than the one
        before it; scores that differ by less than the rounding error of either are equal.
    """
    pair = (others, part) if is_text else (part, others)
    scores, tolerance = cheap.scores(*pair), cheap.reach.of_all(*pair, rounding)
    if is_text:
        scores, tolerance = scores.T.contiguous(), tolerance.T
    _require_finite(scores)
    chosen: list[tuple[Tensor, Tensor]] = []
    if top:
        worst = scores.topk(min(top, scores.shape[1]), dim=1).values[:, -1:]
        is_chosen = scores >= worst - tolerance
        chosen = list(_reranked(way, is_chosen, part, others, is_text))
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


def _cheap(problem: Problem) -> Problem:
    """The problem of the scores that choose the candidates of `Pairwise.rerank`."""
    similarity = problem.similarity
    assert isinstance(similarity, Pairwise) and problem.images.globals is not None
    assert problem.texts.globals is not None
    sides = problem.images.globals, problem.texts.globals, problem.image_of
    return make_problem(*sides, similarity.cheap, len(problem.folds))


def _reranked(
    way: Problem, is_chosen: Tensor, part: slice, others: slice, is_text: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each query the positions of its chosen candidates by decreasing score, and where that decreases."""
    for query, row in enumerate(is_chosen, part.start):
        candidates = row.nonzero().flatten()
        one, some = torch.tensor([query], device=row.device), others.start + candidates
        scores = way.scores(some, one) if is_text else way.scores(one, some)
        _require_finite(scores)
        ordered, order = scores.flatten().sort(descending=True)
        yield candidates[order], pad(ordered[:-1] > ordered[1:], (1, 0), value=True)


def _require_finite(scores: Tensor) -> None:
    if not bool(torch.isfinite(scores).all()):
        raise BadInput("a score is not finite: scale the embeddings down, or correct the scores of a pair scorer")


def _expected(is_right: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Expected AP and AP@50, float64 (Q,), and the number of right candidates, int32 (Q,).

    Args:
        is_right: (Q, M) bool, the best candidate first.
        starts: (Q, M) bool, where a group of equal candidates begins.
    """
    size = is_right.shape[1]
    place = torch.arange(size, device=starts.device)
    until = pad(is_right.cumsum(dim=1, dtype=torch.int32), (1, 0))  # right candidates before each place
    if bool(starts.all()):
        terms = is_right * until[:, 1:] / (place + 1.0).double()
    else:
        first = torch.where(starts, place, 0).cummax(dim=1).values
        ends = torch.where(pad(starts[:, 1:], (0, 1), value=True), place + 1, size)
        last = ends.flip(1).cummin(dim=1).values.flip(1)
        before = until.gather(1, first)
        right, members = (until.gather(1, last) - before).double(), last - first
        slope = (right - 1) / (members - 1).clamp_min(1)
        terms = right / members * (before + 1 + (place - first) * slope) / (place + 1)
    relevant = until[:, -1].clone()  # not a view, which would keep the whole block
    nothing = torch.where(relevant > 0, 0.0, torch.nan).double()
    ap = terms.sum(dim=1) / relevant.clamp_min(1) + nothing
    return ap, _cut(terms[:, :CUT], starts, until, min(CUT, size)) + nothing, relevant


def _cut(terms: Tensor, starts: Tensor, until: Tensor, cut: int) -> Tensor:
    """(Q,) expected AP of the first `cut` candidates.

    Args:
        terms: (Q, cut) parts of the sum of precisions.
        starts: (Q, M) bool, where a group of equal candidates begins.
        until: (Q, M + 1) number of right candidates before each place.
        cut: number of places that count.
    """
    place = torch.arange(starts.shape[1], device=starts.device)
    first = torch.where(starts, place, 0)[:, :cut].max(dim=1, keepdim=True).values  # of the group that is cut
    after = torch.where(starts & (place >= cut), place, len(place)).min(dim=1, keepdim=True).values
    before = until.gather(1, first).double()
    right, members, places = until.gather(1, after) - before, (after - first).double(), cut - first
    x = torch.arange(int(places.max()) + 1, dtype=torch.float64, device=starts.device)
    chance = (x == 0).double().expand(len(starts), -1)  # that x of the places drawn so far hold right candidates
    for drawn in range(len(x) - 1):
        hit = ((right - x) / (members - drawn).clamp_min(1)).clamp(0, 1)
        chance = torch.where(drawn < places, chance * (1 - hit) + pad((chance * hit)[:, :-1], (1, 0)), chance)
    ranks = 1.0 + torch.arange(cut, device=starts.device)
    inside = (ranks > first).double()
    level, slope = inside / ranks, inside * (ranks - 1 - first) / ranks
    sums = (
        x
        / places
        * (
            (before + 1) * level.sum(dim=1, keepdim=True)
            + (x - 1) / (places - 1).clamp_min(1) * slope.sum(dim=1, keepdim=True)
        )
    )
    earlier = (terms * (1 - inside)).sum(dim=1, keepdim=True)
    return (chance * (earlier + sums) / (before + x).clamp_min(1)).sum(dim=1)
