"""Ranks by counting, never by sorting."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cran_bench.embeddings import Embedding, as_levels
from cran_bench.errors import BadInput
from cran_bench.machine.arithmetic import in_full_precision
from cran_bench.protocols import fold_rows
from cran_bench.ranking.backends import Backend, Bound, Clock, choose, make_problem
from cran_bench.ranking.metrics import Counts, Ranks
from cran_bench.ranking.problem import pair_scores
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
    """Rank N images against T texts in both directions, in one pass over tiles of the score matrix.

    Args:
        images: N rows.
        texts: T rows.
        image_of: (T,) int64, which image row each text belongs to; every image owns at least one.
        similarity: what a pair scores; larger is better.
        clock: receives the seconds of scoring and of counting.
        backend: how it is done, see `cran_bench.ranking.backends`; the ranks do not depend on it.
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
        problem = make_problem(left, right, image_of, similarity, folds or 1)
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
