"""Retrieval with several right answers, graded or not: the figures of each query that is asked.

AP@R is that of Musgrave, Belongie and Lim, *A Metric Learning Reality Check*, ECCV 2020: for a query with R right
answers, the precisions at the right ones among the first R places are added and divided by R.  nDCG is that of Järvelin
and Kekäläinen, *Cumulated Gain-Based Evaluation of IR Techniques*, TOIS 2002, over the whole list; the gain is the
grade and the discount 1 / log2(rank + 1).  All figures are expectations over random order of ties.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from cran_bench.errors import BadInput
from cran_bench.machine.progress import track
from cran_bench.ranking.metrics import Counts
from cran_bench.ranking.ordering import BLOCK_BYTES, ENTRY_BYTES, Sorter, groups, precision_terms
from cran_bench.ranking.problem import Problem, blocks
from cran_bench.ranking.relevance import Retrieved


def retrieve(
    problem: Problem,
    query: Tensor | NDArray[Any],
    answer: Tensor | NDArray[Any],
    grade: Tensor | NDArray[Any],
    is_text: bool,
    block_bytes: int = BLOCK_BYTES,
) -> Retrieved:
    """Rank all candidates for the queries that have right answers, in one direction.

    Args:
        problem: N images and T texts, not divided into folds.
        query: (P,) positions of images, or of texts; those not listed are not asked.
        answer: (P,) positions of texts, or of images, that are right for them; all others are wrong.
        grade: (P,) how right they are, above 0.
        is_text: whether the queries are texts.
        block_bytes: memory for the queries that are ranked at a time.

    Raises:
        BadInput: the pairs do not belong to the images and texts, or are none, or one is given twice, or a score is not
            finite.
    """
    device, sides = problem.device, (len(problem.images), len(problem.texts))
    size, candidates = sides[::-1] if is_text else sides
    query, answer = (torch.as_tensor(x).to(device, torch.int64) for x in (query, answer))
    grade = torch.as_tensor(grade).to(device, torch.float64)
    _check(query, answer, grade, size, candidates)
    asked, of, right = torch.unique(query, return_inverse=True, return_counts=True)
    pairs = of.argsort(stable=True)
    of, answer, grade = of[pairs], answer[pairs], grade[pairs]
    ends = pad(right.cumsum(0), (1, 0))
    column = torch.arange(len(of), device=device) - ends[of]
    discount = 1 / torch.arange(2.0, candidates + 2, dtype=torch.float64).log2()
    discounts = pad(discount.cumsum(0), (1, 0)).to(device)
    place = torch.arange(candidates, device=device)
    sorter, found = Sorter(problem, is_text), []
    parts = list(blocks(slice(0, len(asked)), max(1, block_bytes // (ENTRY_BYTES * candidates))))
    for part in track(parts, f"right answers of {'captions' if is_text else 'images'}", len(parts)):
        own = slice(int(ends[part.start]), int(ends[part.stop]))
        order, starts = sorter.sort(asked[part], slice(0, candidates))
        place_of = torch.empty_like(order).scatter_(1, order, place.expand_as(order))
        places = place_of.new_full((len(order), int(right[part].max())), candidates)
        grades = torch.zeros_like(places, dtype=torch.float64)
        where = of[own] - part.start, column[own]
        places[where], grades[where] = place_of[where[0], answer[own]], grade[own]
        found.append(_measured(places, grades, *groups(starts), discounts))
    counts, measures = (torch.cat(x, dim=1).cpu().numpy() for x in zip(*found, strict=True))
    first = Counts(*counts.astype("int32"))
    hits = (first.hits(k) for k in (1, 5, 10))
    return Retrieved(asked.int().cpu().numpy(), right.int().cpu().numpy(), *hits, *measures)


def _check(query: Tensor, answer: Tensor, grade: Tensor, queries: int, candidates: int) -> None:
    if not query.shape == answer.shape == grade.shape == (query.numel(),) or not len(query):
        shapes = ", ".join(str(tuple(x.shape)) for x in (query, answer, grade))
        raise BadInput(
            f"queries, right answers and grades have shapes {shapes}: give one of each for one or more pairs"
        )
    for what, rows, size in (("queries", query, queries), ("right answers", answer, candidates)):
        if not 0 <= int(rows.min()) <= int(rows.max()) < size:
            raise BadInput(f"{what} are positions from {int(rows.min())} to {int(rows.max())}: give 0 to {size - 1}")
    if not bool((torch.isfinite(grade) & (grade > 0)).all()):
        raise BadInput("a grade of a right answer is not a number above 0: leave wrong answers out")
    if len(torch.unique(query * candidates + answer)) < len(query):
        raise BadInput("a right answer is given twice for a query: give each pair once")


def _measured(places: Tensor, grades: Tensor, first: Tensor, last: Tensor, discounts: Tensor) -> tuple[Tensor, Tensor]:
    """The figures of Q queries, which have up to R right candidates, from where those lie among M.

    Args:
        places: (Q, R) places of right candidates, in any order; M where a query has fewer.
        grades: (Q, R) float64, their grades; 0 where a query has fewer.
        first: (Q, M) first place of the group of each place.
        last: (Q, M) the place after its last.
        discounts: (M + 1,) float64, the sum of the discounts before each place.

    Returns:
        (3, Q), how many wrong candidates are better than the best right one, and how many wrong and right ones are in
        its group; and (3, Q) float64 expected AP@R, R-precision and nDCG.
    """
    ordered, most = places.sort(dim=1).values, places.shape[1]
    right = (grades > 0).sum(dim=1, keepdim=True)
    better, after = (x.gather(1, ordered[:, :1]) for x in (first, last))
    beside = torch.searchsorted(ordered, after)
    begin, end = (x.gather(1, places.clamp_max(x.shape[1] - 1)) for x in (first, last))
    dcg = grades * (discounts[end] - discounts[begin]) / (end - begin)
    ideal = grades.sort(dim=1, descending=True).values * discounts[: most + 1].diff()
    begin, end = (x[:, :most].contiguous() for x in (first, last))
    before = torch.searchsorted(ordered, begin)
    inside = torch.searchsorted(ordered, end) - before
    terms = torch.stack([precision_terms(before, inside, begin, end), inside / (end - begin).double()])
    is_counted = torch.arange(most, device=right.device) < right
    means = (terms * is_counted).sum(dim=2) / right.T
    counts = torch.cat([better, after - better - beside, beside], dim=1)
    return counts.T, torch.cat([means, (dcg.sum(dim=1) / ideal.sum(dim=1))[None]])
