"""Retrieval by category: the average precision of every query, where all that shares a category with it is right.

Ties are resolved in expectation over random order (see `precision_terms`).  Of the group on ranks a + 1 to a + m that
rank 50 cuts, with b right candidates before it, the first n = 50 - a places hold a hypergeometric number X of right
ones; given X, its part of the sum is that of a group of n with X right ones, and AP@50 is the expectation of
sum / (b + X).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from cran_bench.errors import BadInput
from cran_bench.ranking.ordering import BLOCK_BYTES, ENTRY_BYTES, Sorter, groups, precision_terms
from cran_bench.ranking.precisions import CUT, Precision, Precisions
from cran_bench.ranking.problem import Problem, blocks


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
    for is_text in (False, True):
        sorter = Sorter(problem, is_text)
        of = labels[problem.image_of], labels
        asked, gallery = (x.float() for x in (of if is_text else of[::-1]))
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for rows, columns in problem.folds:
            queries, others = (columns, rows) if is_text else (rows, columns)
            size = max(1, block_bytes // (ENTRY_BYTES * (others.stop - others.start)))
            for part in blocks(queries, size):
                is_right = asked[part] @ gallery[others].T > 0
                order, starts = sorter.sort(part, others)
                found.append(_expected(is_right.gather(1, order), starts))
        ap, ap50, relevant = (torch.cat(x).cpu().numpy() for x in zip(*found, strict=True))
        sides.append(Precision(ap, ap50, relevant))
    return Precisions(sides[0], sides[1], problem.owners.numpy(), labels.to("cpu", torch.uint8).numpy())


def _described(labels: Tensor) -> str:
    return f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"


def _expected(is_right: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Expected AP and AP@50, float64 (Q,), and the number of right candidates, int32 (Q,).

    Args:
        is_right: (Q, M) bool, the best candidate first.
        starts: (Q, M) bool, where a group of equal candidates begins.
    """
    size = is_right.shape[1]
    until = pad(is_right.cumsum(dim=1, dtype=torch.int32), (1, 0))  # right candidates before each place
    if bool(starts.all()):
        terms = is_right * until[:, 1:] / torch.arange(1.0, size + 1, dtype=torch.float64, device=starts.device)
    else:
        first, last = groups(starts)
        before = until.gather(1, first)
        terms = precision_terms(before, until.gather(1, last) - before, first, last)
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
