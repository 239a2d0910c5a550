"""Ranks from lists of scored candidates, such as other systems write; what is not listed ranks below what is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cran_bench.protocols import Protocol, fold_rows
from cran_bench.ranking.evaluation import Evaluation, metrics_of
from cran_bench.ranking.metrics import Counts, Direction, Ranks
from cran_bench.ranking.problem import Clock, KernelInfo

_NO_WORD = re.compile(r"[%\s\x00-\x1f\x7f-\x9f]")


class Lists(NamedTuple):
    """L candidates listed for the queries of one direction.

    Attributes:
        queries: (L,) int32, the row of the query.
        candidates: (L,) int32, the row of the candidate; no pair occurs twice.
        scores: (L,) float64, finite; a larger one is better, equal ones are ties.
    """

    queries: NDArray[np.int32]
    candidates: NDArray[np.int32]
    scores: NDArray[np.float64]


Read: TypeAlias = Callable[
    [Direction, Sequence[str], Sequence[str]], tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]
]
"""From a direction and the ids of its queries and candidates to `Lists`; see `cran_bench.contract.Listing`."""


def ids_of(protocol: Protocol, images: Sequence[str], image_of: NDArray[np.int64]) -> tuple[list[str], list[str]]:
    """The ids of N images, and of the texts that a protocol compares them with, for files of words.

    A caption is ``image.jpg#0``, numbered from 0 among those of its image; a document is ``image.jpg#documents`` and a
    mean of captions ``image.jpg#mean``.  White space, control characters and ``%`` are escaped as in URLs.

    Args:
        protocol: how texts become queries.
        images: N image ids.
        image_of: (T,) the rows of the texts' images, in non-decreasing order.
    """
    names = [_NO_WORD.sub(lambda found: quote(found[0], safe=""), name) for name in images]
    if protocol in ("documents", "mean"):
        return names, [f"{name}#{protocol}" for name in names]
    if protocol == "single":
        return names, [f"{name}#0" for name in names]
    places = np.arange(len(image_of)) - np.searchsorted(image_of, image_of)
    return names, [f"{names[row]}#{place}" for row, place in zip(image_of.tolist(), places.tolist(), strict=True)]


def evaluate_lists(
    listed: Read,
    protocol: Protocol,
    image_ids: Sequence[str],
    image_of: Tensor,
    twins: Tensor | None,
    folds: int = 0,
) -> Evaluation:
    """Ranks and metrics of lists under a protocol; candidates that are not listed tie with each other.

    Args:
        listed: gives the lists of each direction.
        protocol: how texts become queries.
        image_ids: N ids.
        image_of: (T,) the rows of the texts' images, in non-decreasing order.
        twins: (N,) the twin of each image, or None.
        folds: as in `evaluate`; a fold ignores what is listed from others.
    """
    clock, rows = Clock(torch.device("cpu")), np.arange(len(image_ids))
    clock.start()
    images, texts = ids_of(protocol, image_ids, image_of.cpu().numpy())
    owners = image_of.cpu().numpy() if protocol == "captions" else rows
    to_texts, to_images = Lists(*listed("i2t", images, texts)), Lists(*listed("t2i", texts, images))
    clock.lap("similarity")
    size = len(fold_rows(len(rows), folds)[0]) if folds else len(rows)
    counts = _count(to_texts, rows, owners, size), _count(to_images, owners, rows, size)
    ranks = Ranks(*counts, owners, KernelInfo("lists", "float64"))
    ranks = ranks.of_images(rows[: folds * size]) if folds else ranks
    values = metrics_of(ranks, folds).values()
    if twins is not None:
        own, other = (_scores_of(to_images, of[owners]) for of in (rows, twins.cpu().numpy()))
        values["twin_accuracy"] = 100.0 * float(np.mean((own > other) + 0.5 * (own == other)))
    clock.lap("rank")
    return Evaluation(ranks, values, clock)


def _count(lists: Lists, owners: NDArray[np.int64], answers: NDArray[np.int64], size: int) -> Counts:
    """The counts of Q queries, given the images of queries (Q,) and candidates (C,), and the images in a fold."""
    fold, fold_of = owners // size, answers // size
    query, candidate, score = (x[fold[lists.queries] == fold_of[lists.candidates]] for x in lists)
    is_right = owners[query] == answers[candidate]
    best = np.full(len(owners), -np.inf)
    np.maximum.at(best, query[is_right], score[is_right])

    def number(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(query[chosen], minlength=len(owners))

    is_best = score == best[query]
    better, tied, right = number(score > best[query]), number(is_best & ~is_right), number(is_best & is_right)
    own = np.bincount(answers, minlength=owners.max() + 1)[owners]
    unlisted = np.bincount(fold_of)[fold] - own - better  # the wrong ones, where no right one is listed
    none = np.isneginf(best)
    counts = better, np.where(none, unlisted, tied), np.where(none, own, right)
    return Counts(*(x.astype(np.int32) for x in counts))


def _scores_of(lists: Lists, wanted: NDArray[np.int64]) -> NDArray[np.float64]:
    """(Q,) the scores of one candidate of each query; -inf if it is not listed."""
    scores, chosen = np.full(len(wanted), -np.inf), lists.candidates == wanted[lists.queries]
    scores[lists.queries[chosen]] = lists.scores[chosen]
    return scores
