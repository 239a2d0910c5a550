"""The best answers of queries, by float32 scores; where those are too close to each other, float64 scores decide."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cran_bench.embeddings import Rows
from cran_bench.machine.arithmetic import in_full_precision
from cran_bench.ranking.filtering import measured
from cran_bench.ranking.ordering import BLOCK_BYTES, ENTRY_BYTES
from cran_bench.ranking.problem import Problem, blocks
from cran_bench.ranking.tiles import Tiles, score, tiles_for
from cran_bench.similarity import rounding

SPARE = 3  # candidates beyond those asked for, among which float64 scores usually decide
QUERIES = 1024  # at a time


@torch.no_grad()
def best_answers(problem: Problem, queries: Tensor, is_text: bool, count: int) -> Tensor:
    """The best candidates of queries, the best first; those that tie are in the order of the data.

    Args:
        problem: N images and T texts, not divided into folds, of a similarity that is no `Pairwise`.
        queries: (Q,) rows of images, or of texts.
        is_text: whether the queries are texts.
        count: K, the number of candidates to find.

    Returns:
        (Q, K) int32 rows of texts, or of images, on the host; -1 where there are fewer.
    """
    own, others = (problem.reach.texts, problem.reach.images) if is_text else problem.reach[2:]
    size = others.shape[1]
    found = torch.full((len(queries), count), -1, dtype=torch.int32)
    with in_full_precision(problem.device):
        scorer, width = tiles_for(problem, torch.float32, is_compiled=False), min(count + SPARE, size)
        is_rough = bool(problem.flop) and problem.is_in_range  # otherwise float32 does not hold the scores
        unit = measured(problem, scorer) if is_rough else rounding
        error = problem.reach.weights_times(lambda dim: unit(dim) + 2 * rounding(dim))[:, None]
        for part in blocks(slice(0, len(queries)), QUERIES):
            some = queries[part].to(problem.device)
            everyone = torch.arange(len(some), device=some.device)
            places, undecided = torch.zeros_like(some)[:, None].repeat(1, width), everyone
            if is_rough:
                values, places = _best(problem, scorer, some, is_text, width)
                unsure = (error * own[:, some] * others.amax(dim=1, keepdim=True)).sum(dim=0)
                is_close = (values[:, :-1] - values[:, 1:] <= 2 * unsure[:, None])[:, :count].any(dim=1)
                close = is_close.nonzero().flatten()
                near = places[close].sort(dim=1).values
                rows, columns = some[close][:, None].expand_as(near).flatten(), near.flatten()
                rows, columns = (columns, rows) if is_text else (rows, columns)
                sides = problem.own_scores(rows, columns), problem.reach.of_pairs(rows, columns, rounding)
                exact, order = _ordered(*(x.view_as(near) for x in sides))
                places[close] = near.gather(1, order)
                is_open = values[close, -1] + unsure[close] >= exact[:, min(count, width) - 1]
                undecided = close[is_open] if width < size else close[:0]
            for few in torch.split(undecided, max(1, BLOCK_BYTES // (ENTRY_BYTES * size))):
                pair: tuple[Rows, Rows] = (slice(0, size), some[few]) if is_text else (some[few], slice(0, size))
                sides = problem.scores(*pair), problem.reach.of_all(*pair, rounding)
                places[few] = _ordered(*(x.T if is_text else x for x in sides))[1][:, :width]
            found[part, :width] = places[:, :count].int().cpu()
    return found


def _best(problem: Problem, scorer: Tiles, queries: Tensor, is_text: bool, count: int) -> tuple[Tensor, Tensor]:
    """(Q, K) best float32 scores of queries, the best first, and the rows of their candidates."""
    values = queries.new_empty(len(queries), 0, dtype=torch.float32)
    places = queries.new_empty(len(queries), 0)
    size = len(problem.images if is_text else problem.texts)
    asked: Any = scorer.texts(queries) if is_text else scorer.images(queries)
    for rows in blocks(slice(0, size), scorer.image_rows if is_text else scorer.text_rows):
        given: Any = scorer.images(rows) if is_text else scorer.texts(rows)
        images, texts = (given, asked) if is_text else (asked, given)
        scores = score(images, scorer.products(images, texts), tuple(scorer.plans.values()))
        top = (scores.T.contiguous() if is_text else scores).topk(min(count, rows.stop - rows.start), dim=1)
        values = torch.cat([values, top.values], dim=1)
        places = torch.cat([places, top.indices + rows.start], dim=1)
        values, order = values.topk(min(count, values.shape[1]), dim=1)
        places = places.gather(1, order)
    return values, places


def _ordered(scores: Tensor, tolerance: Tensor) -> tuple[Tensor, Tensor]:
    """Falling (Q, K) scores, and their places; those within the tolerance of the next keep their order."""
    ordered, order = scores.sort(dim=1, descending=True)
    near = tolerance.gather(1, order)
    is_less = torch.zeros_like(order)
    is_less[:, 1:] = ordered[:, :-1] - ordered[:, 1:] > torch.maximum(near[:, :-1], near[:, 1:])
    ranked = is_less.cumsum(dim=1) * order.shape[1] + order
    return ordered, ranked.sort(dim=1).values % order.shape[1]
