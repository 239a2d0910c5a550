"""Ranks by counting, never by sorting."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cran_bench.embeddings import Embedding, as_levels
from cran_bench.machine.arithmetic import in_full_precision
from cran_bench.ranking.backends import choose
from cran_bench.ranking.filtering import Bound
from cran_bench.ranking.metrics import Counts, Ranks
from cran_bench.ranking.problem import Backend, Clock, Problem, make_problem, pair_scores
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
) -> Ranks:
    """Rank N images against T texts in both directions; for arguments and errors see `make_problem` and `count`."""
    device = as_levels(images).tensors()[0].device
    clock = clock or Clock(device)
    with in_full_precision(device):
        start = clock.now()
        problem = make_problem(images, texts, image_of, similarity, folds)
        clock.similarity += clock.now() - start
        return count(problem, clock, backend, bound)


@torch.no_grad()
def count(problem: Problem, clock: Clock, backend: str | Backend = "auto", bound: Bound = "measured") -> Ranks:
    """The ranks of a problem in both directions, in one pass over tiles of the score matrix.

    Args:
        problem: images and texts with the scores of what belongs together.
        clock: receives the seconds of scoring and of counting.
        backend: how candidates are counted, see `cran_bench.ranking.backends`; the ranks do not depend on it.
        bound: `measured` or `proven` bound on the error of scores in low precision.

    Returns:
        Counts per query; scores that differ by less than float64 rounding count as tied.

    Raises:
        BadInput: a score that is not finite, or an unknown backend or bound.
    """
    device, image_of = problem.device, problem.image_of
    with in_full_precision(device):
        chosen = choose(problem, backend, bound) if isinstance(backend, str) else backend
        tally, kernel = chosen.count(problem, clock)
    own_tolerances = problem.reach.of_pairs(image_of, torch.arange(len(image_of), device=device), rounding)
    right_ones = torch.zeros(len(problem.images), dtype=torch.int32, device=device)
    right_ones.index_add_(0, image_of, (problem.positive >= problem.best[image_of] - own_tolerances).int())
    better_i, tied_i, tied_right, better_t, tied_t = (
        x.cpu().numpy()
        for x in (tally.better_images, tally.tied_images, right_ones, tally.better_texts, tally.tied_texts)
    )
    ones = np.ones(len(better_t), dtype=np.int32)
    counts = Counts(better_i, tied_i, tied_right), Counts(better_t, tied_t, ones)
    return Ranks(*counts, image_of.cpu().numpy(), kernel)


def twin_accuracy(problem: Problem, twins: Tensor) -> float:
    """How often, in percent, a text scores its own image above the image's twin; a tie counts one half.

    Args:
        problem: N images and T texts.
        twins: (N,) twin of each image.
    """
    everything = torch.arange(len(problem.texts), device=problem.device)
    own = problem.image_of
    other = twins.to(problem.device)[own]
    gap = problem.positive - pair_scores(problem.images, problem.texts, problem.similarity, other, everything)
    tolerance = problem.reach.of_pairs(own, everything, rounding) + problem.reach.of_pairs(other, everything, rounding)
    wins = float((gap > tolerance).sum()) + 0.5 * float((gap.abs() <= tolerance).sum())
    return 100.0 * wins / len(everything)
