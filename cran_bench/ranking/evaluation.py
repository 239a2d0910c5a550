"""From the embeddings of a test split to ranks and figures, under a protocol, over the whole or over folds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cran_bench.embeddings import Embedding, rows_of
from cran_bench.machine.arithmetic import in_full_precision
from cran_bench.protocols import Protocol, fold_rows
from cran_bench.ranking.filtering import Bound
from cran_bench.ranking.metrics import Metrics, Ranks, mean_metrics
from cran_bench.ranking.problem import Backend, Clock, make_problem
from cran_bench.ranking.rank import count, twin_accuracy
from cran_bench.similarity import Similarity, mean_by_image


@dataclass(frozen=True)
class Evaluation:
    """What a record needs of a ranking.

    Attributes:
        metrics: recalls in percent, ranks from 1, rsum, and `twin_accuracy` in percent where there are twins.
        clock: seconds of scoring and of counting.
    """

    ranks: Ranks
    metrics: Mapping[str, float]
    clock: Clock


def evaluate(
    images: Embedding,
    texts: Embedding,
    image_of: Tensor,
    twins: Tensor | None,
    similarity: Similarity,
    protocol: Protocol,
    folds: int = 0,
    backend: str | Backend = "auto",
    bound: Bound = "measured",
) -> Evaluation:
    """Rank under a protocol.

    Args:
        images: N rows.
        texts: T rows, of the protocol's unit.
        image_of: (T,) owner of each text.
        twins: (N,) twin of each image, or None.
        similarity: what a pair scores.
        protocol: how texts become queries.
        folds: 0 for the whole, else figures are the mean over so many folds of images.
        backend: how it is counted, see `cran_bench.ranking.backends`.
        bound: see `rank`.
    """
    queries, query_of = as_queries(protocol, texts, image_of, len(images), similarity)
    clock = Clock(image_of.device)
    with torch.no_grad(), in_full_precision(image_of.device):
        start = clock.now()
        problem = make_problem(images, queries, query_of, similarity, folds)
        clock.similarity += clock.now() - start
        ranks = count(problem, clock, backend, bound)
        values = metrics_of(ranks, folds).values()
        if twins is not None:
            whole = make_problem(images, queries, query_of, similarity) if folds else problem
            values["twin_accuracy"] = twin_accuracy(whole, twins)
    return Evaluation(ranks, values, clock)


def as_queries(
    protocol: Protocol, texts: Embedding, image_of: Tensor, images: int, similarity: Similarity
) -> tuple[Embedding, Tensor]:
    """From the embeddings of a unit's texts to those of a protocol's queries, and their (Q,) owners.

    `documents` and `captions` take the embeddings as they are.
    """
    if protocol == "mean":
        return mean_by_image(texts, image_of, images, similarity), torch.arange(images, device=image_of.device)
    if protocol == "single":
        first = torch.searchsorted(image_of, torch.arange(images, device=image_of.device))
        return rows_of(texts, first), image_of[first]
    return texts, image_of


def metrics_of(ranks: Ranks, folds: int) -> Metrics:
    """Metrics of a ranking: of the whole (0 folds), or the mean over the folds that were ranked apart."""
    if not folds:
        return ranks.metrics()
    return mean_metrics([ranks.of_images(rows).metrics() for rows in fold_rows(len(ranks.i2t.better), folds)])
