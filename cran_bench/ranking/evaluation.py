"""Ranks and metrics of a test split's embeddings under a protocol, on the whole split or averaged over folds."""

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
    """The result of ranking a test split.

    Attributes:
        ranks: integers per query, and average precisions if images have labels.
        metrics: recalls in percent, ranks counted from 1, `rsum`, `twin_accuracy` in percent if images have twins, and
            if they have labels the figures of `Precisions`, as fractions.
        clock: seconds spent scoring and counting.
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
    labels: Tensor | None = None,
) -> Evaluation:
    """Rank images and texts under a protocol and compute the metrics.

    Args:
        images: N rows.
        texts: T rows, captions or documents as the protocol requires.
        image_of: (T,) the row of each text's own image.
        twins: (N,) the twin of each image, or None.
        similarity: scores a pair.
        protocol: how texts become queries.
        folds: 0 ranks the whole split; otherwise the metrics are averaged over this number of folds of images.
        backend: how candidates are counted, one of `cran_bench.ranking.backends`.
        bound: error bound of low-precision scores, `measured` or `proven`.
        labels: (N, C) the categories of each image, 0 or 1, or None.
    """
    queries, query_of = as_queries(protocol, texts, image_of, len(images), similarity)
    clock = Clock(image_of.device)
    with torch.no_grad(), in_full_precision(image_of.device):
        clock.start()
        problem = make_problem(images, queries, query_of, similarity, folds)
        ranks = count(problem, clock, backend, bound, labels)
        values = metrics_of(ranks, folds).values()
        if twins is not None:
            whole = make_problem(images, queries, query_of, similarity) if folds else problem
            values["twin_accuracy"] = twin_accuracy(whole, twins)
        if ranks.precisions:
            values |= ranks.precisions.figures(folds)
    return Evaluation(ranks, values, clock)


def as_queries(
    protocol: Protocol, texts: Embedding, image_of: Tensor, images: int, similarity: Similarity
) -> tuple[Embedding, Tensor]:
    """Turn the embeddings of texts into those of a protocol's Q queries, with the (Q,) rows of their own images.

    `documents` and `captions` use the embeddings unchanged.
    """
    if protocol == "mean":
        return mean_by_image(texts, image_of, images, similarity), torch.arange(images, device=image_of.device)
    if protocol == "single":
        first = torch.searchsorted(image_of, torch.arange(images, device=image_of.device))
        return rows_of(texts, first), image_of[first]
    return texts, image_of


def metrics_of(ranks: Ranks, folds: int) -> Metrics:
    """Metrics of a ranking: of the whole split (`folds` 0), or averaged over folds that were ranked separately."""
    if not folds:
        return ranks.metrics()
    return mean_metrics([ranks.of_images(rows).metrics() for rows in fold_rows(len(ranks.i2t.better), folds)])
