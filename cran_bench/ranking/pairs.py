"""Rankings by a pair scorer whose order depends on the query: reranked candidates, or a score for each direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from cran_bench.errors import BadInput
from cran_bench.protocols import Protocol
from cran_bench.ranking.problem import Backend, Clock, KernelInfo, Problem, Tally, blocks, make_problem
from cran_bench.ranking.reference import Reference
from cran_bench.similarity import Pairwise, Similarity, one_way, rounding


def backend_of(similarity: Similarity, given: str | Backend = "auto") -> str | Backend:
    """The backend that counts for a pair scorer; the `given` one for every other similarity."""
    if not isinstance(similarity, Pairwise):
        return given
    return Reranking(similarity) if similarity.rerank else EachDirection(similarity) if similarity.i2t else Reference()


def require_ranked(similarity: Similarity, protocol: Protocol) -> None:
    """Reject the protocol `mean` for a pair scorer.

    Raises:
        BadInput: that is what was asked for.
    """
    if isinstance(similarity, Pairwise) and protocol == "mean":
        raise BadInput(
            "the protocol mean averages the embeddings of captions, and those of a pair scorer have no average: choose "
            "captions, documents or single"
        )


@dataclass(frozen=True)
class EachDirection:
    """The backend of a pair scorer with a function of its own for image queries; the problem is that of the texts."""

    similarity: Pairwise

    def count(self, problem: Problem, clock: Clock) -> tuple[Tally, KernelInfo]:
        of_texts, kernel = Reference().count(replace(problem, similarity=one_way(self.similarity, False)), clock)
        sides = problem.images, problem.texts, problem.image_of
        other = make_problem(*sides, one_way(self.similarity, True), len(problem.folds))
        of_images, _ = Reference().count(other, clock)
        n = len(of_images.right)
        better = torch.cat([of_images.better[:n], of_texts.better[n:]])
        return Tally(better, torch.cat([of_images.tied[:n], of_texts.tied[n:]]), of_images.right), kernel


@dataclass(frozen=True)
class Reranking:
    """The backend of `Pairwise.rerank`: the best candidates by a cheap similarity are ranked by the pair scorer.

    Attributes:
        similarity: the pair scorer.
        queries: number of queries whose cheap scores are held at a time.
    """

    similarity: Pairwise
    queries: int = 64

    def count(self, problem: Problem, clock: Clock) -> tuple[Tally, KernelInfo]:
        clock.start()
        images, texts, similarity = problem.images, problem.texts, self.similarity
        assert images.globals is not None and texts.globals is not None
        owner, folds = problem.image_of, len(problem.folds)
        cheap = make_problem(images.globals, texts.globals, owner, similarity.cheap, folds)
        tally, right = problem.tally(), torch.zeros_like(problem.right)
        everyone = torch.arange(len(images), device=owner.device)

        def exact(query: int, is_text: bool, first: int, chosen: Tensor) -> Tensor:
            """(C,) scores of the candidates from `first` that are chosen for a query."""
            clock.lap("rank")
            one, others = slice(query, query + 1), first + chosen
            pair = (images.rows(others), texts.rows(one)) if is_text else (images.rows(one), texts.rows(others))
            scores = similarity.scores_by(similarity.score if is_text else similarity.i2t or similarity.score, *pair)
            clock.lap("similarity")
            return scores.flatten()

        for rows, columns in problem.folds:
            for is_text, asked, others in ((False, rows, columns), (True, columns, rows)):
                better, tied = tally.texts if is_text else tally.images
                for part in blocks(asked, self.queries):
                    pair = (others, part) if is_text else (part, others)
                    own = everyone[pair[0], None] == owner[pair[1]]
                    sides = cheap.scores(*pair), cheap.reach.of_all(*pair, rounding), own
                    by_query = zip(*(x.T if is_text else x for x in sides), strict=True)
                    for query, (scores, tolerance, is_own) in enumerate(by_query, part.start):
                        scored = partial(exact, query, is_text, others.start)
                        found = _place(scores, tolerance, is_own, similarity.rerank, scored)
                        better[query], tied[query] = found[:2]
                        if not is_text:
                            right[query] = found[2]
        clock.lap("rank")
        return Tally(tally.better, tally.tied, right).read()[0], KernelInfo(f"rerank {similarity.rerank}", "float64")


def _place(cheap: Tensor, tolerance: Tensor, own: Tensor, top: int, exact: Callable[[Tensor], Tensor]) -> list[int]:
    """How many of C candidates are better than the best right one, or tie with it, and how many right ones tie with it.

    Args:
        cheap: (C,) cheap scores.
        tolerance: (C,) by how much equal cheap scores may differ.
        own: (C,) bool, which candidates are right.
        top: how many are scored by `exact`, those that tie with the last of them included.
        exact: from the positions of candidates to their scores.
    """
    is_scored = cheap >= cheap.topk(min(top, len(cheap))).values[-1] - tolerance
    chosen = is_scored.nonzero().flatten()
    scores, right = exact(chosen), own[chosen]
    if not bool(torch.isfinite(scores).all()):
        raise BadInput("the pair scorer gave a score that is not finite: correct its score")
    if bool(right.any()):
        best = scores[right].max()
        counts = (scores > best) & ~right, (scores == best) & ~right, (scores == best) & right
    else:
        margin = cheap - cheap[own].max()
        better = is_scored | (margin > tolerance)
        tied = ~better & (margin >= -tolerance)
        counts = better, tied & ~own, tied & own
    found: list[int] = torch.stack([x.sum() for x in counts]).tolist()
    return found
