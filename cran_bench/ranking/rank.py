"""Ranks in both directions, by counting better candidates instead of sorting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cran_bench.embeddings import Embedding, as_levels
from cran_bench.machine.arithmetic import in_full_precision
from cran_bench.ranking.backends import choose
from cran_bench.ranking.category import average_precisions
from cran_bench.ranking.filtering import Bound
from cran_bench.ranking.metrics import Counts, Ranks
from cran_bench.ranking.problem import Backend, Clock, Problem, make_problem
from cran_bench.similarity import Similarity, rounding


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
    labels: Tensor | None = None,
) -> Ranks:
    """Rank N images against T texts in both directions; arguments and errors as in `make_problem` and `count`."""
    device = as_levels(images).tensors()[0].device
    clock = clock or Clock(device)
    with in_full_precision(device):
        clock.start()
        problem = make_problem(images, texts, image_of, similarity, folds)
        return count(problem, clock, backend, bound, labels)


@torch.no_grad()
def count(
    problem: Problem,
    clock: Clock,
    backend: str | Backend = "auto",
    bound: Bound = "measured",
    labels: Tensor | None = None,
) -> Ranks:
    """Rank in both directions, in one pass over tiles of the score matrix.

    Args:
        problem: images and texts, with the scores of the positive pairs.
        clock: receives the seconds spent scoring and counting.
        backend: how candidates are counted, one of `cran_bench.ranking.backends`; the ranks do not depend on it.
        bound: error bound of low-precision scores, `measured` or `proven`.
        labels: (N, C) the categories of each image, 0 or 1, for average precisions too; None for none.

    Returns:
        Counts per query; scores that differ by less than float64 rounding count as tied.

    Raises:
        BadInput: a score is not finite, the backend or bound is unknown, or no image has a label.
    """
    with in_full_precision(problem.device):
        chosen = choose(problem, backend, bound) if isinstance(backend, str) else backend
        tally, kernel = chosen.count(problem, clock)
    clock.last = None
    (better_i, tied_i), (better_t, tied_t) = ((x.numpy() for x in side) for side in (tally.images, tally.texts))
    counts = Counts(better_i, tied_i, tally.right.numpy()), Counts(better_t, tied_t, np.ones_like(better_t))
    ranks = Ranks(*counts, problem.owners.numpy(), kernel)
    if labels is None:
        return ranks
    with in_full_precision(problem.device):
        return replace(ranks, precisions=average_precisions(problem, labels))


def twin_accuracy(problem: Problem, twins: Tensor) -> float:
    """The percentage of texts that score their own image above its twin; a tie counts one half.

    Args:
        problem: N images and T texts.
        twins: (N,) the twin of each image.
    """
    texts = torch.arange(len(problem.texts), device=problem.device)
    own = problem.image_of
    other = twins.to(problem.device)[own]
    gap = problem.positive - problem.own_scores(other, texts)
    tolerance = problem.reach.of_pairs(own, texts, rounding) + problem.reach.of_pairs(other, texts, rounding)
    wins = float((gap > tolerance).sum()) + 0.5 * float((gap.abs() <= tolerance).sum())
    return 100.0 * wins / len(texts)
