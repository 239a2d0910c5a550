"""From the embeddings of a test split to ranks and figures, under a protocol, over the whole or over folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cran_bench.protocols import Protocol, as_queries, fold_rows
from cran_bench.ranking import Clock, Counts, Metrics, Ranks, mean_metrics, rank, twin_accuracy
from cran_bench.similarity import Embedding, Similarity, rows_of


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
    """
    queries, query_of = as_queries(protocol, texts, image_of, len(images), similarity)
    clock = Clock(image_of.device)
    ranks, metrics = rank_folds(images, queries, query_of, similarity, folds, clock)
    values = metrics.values()
    if twins is not None:
        values["twin_accuracy"] = twin_accuracy(images, queries, query_of, twins, similarity)
    return Evaluation(ranks, values, clock)


def rank_folds(
    images: Embedding, texts: Embedding, image_of: Tensor, similarity: Similarity, folds: int, clock: Clock
) -> tuple[Ranks, Metrics]:
    """Ranks and metrics of N images and T texts, over the whole (0 folds) or as the mean over folds of images.

    Under folds every query is ranked within its fold, and the ranks are put together again.
    """
    if not folds:
        ranks = rank(images, texts, image_of, similarity, clock)
        return ranks, ranks.metrics()
    parts: list[Ranks] = []
    for rows in fold_rows(len(images), folds):
        inside = ((image_of >= int(rows[0])) & (image_of <= int(rows[-1]))).nonzero().flatten()
        part_images = rows_of(images, slice(int(rows[0]), int(rows[-1]) + 1))
        parts.append(rank(part_images, rows_of(texts, inside), image_of[inside] - int(rows[0]), similarity, clock))
    size = len(parts[0].i2t.better)
    joined = Ranks(
        _joined([part.i2t for part in parts]),
        _joined([part.t2i for part in parts]),
        np.concatenate([part.image_of + k * size for k, part in enumerate(parts)]),
    )
    return joined, mean_metrics([part.metrics() for part in parts])


def _joined(counts: Sequence[Counts]) -> Counts:
    return Counts(*(np.concatenate([getattr(c, name) for c in counts]) for name in ("better", "tied", "right")))
