"""Rankings by a pair scorer whose order depends on the query: reranked candidates, or a score for each direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cran_bench.errors import BadInput
from cran_bench.protocols import Protocol
from cran_bench.ranking.problem import Backend, Clock, KernelInfo, Problem, Tally, blocks, make_problem
from cran_bench.ranking.reference import Reference
from cran_bench.similarity import Pairwise, Similarity, rounding


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
        of_texts, kernel = Reference().count(problem, clock)
        similarity = replace(self.similarity, score=self.similarity.i2t or self.similarity.score, i2t=None)
        other = make_problem(problem.images, problem.texts, problem.image_of, similarity, len(problem.folds))
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
        all_images = torch.arange(len(images), device=owner.device)

        def of_image(image: int, chosen: Tensor) -> Tensor:
            score = similarity.i2t or similarity.score
            return similarity.scores_by(score, images.rows(slice(image, image + 1)), texts.rows(chosen))[0]

        def of_text(text: int, chosen: Tensor) -> Tensor:
            return similarity.scores_by(similarity.score, images.rows(chosen), texts.rows(slice(text, text + 1)))[:, 0]

        def timed(exact: Callable[[int, Tensor], Tensor], query: int, first: int) -> Callable[[Tensor], Tensor]:
            def scored(chosen: Tensor) -> Tensor:
                clock.lap("rank")
                scores = exact(query, first + chosen)
                clock.lap("similarity")
                return scores

            return scored

        for rows, columns in problem.folds:
            for part in blocks(rows, self.queries):
                scores, tolerance = cheap.scores(part, columns), cheap.reach.of_all(part, columns, rounding)
                own = owner[columns] == all_images[part, None]
                for k, image in enumerate(range(part.start, part.stop)):
                    exact = timed(of_image, image, columns.start)
                    found = _place(scores[k], tolerance[k], own[k], similarity.rerank, exact)
                    tally.images[0][image], tally.images[1][image], right[image] = found
            for part in blocks(columns, self.queries):
                scores, tolerance = cheap.scores(rows, part), cheap.reach.of_all(rows, part, rounding)
                own = all_images[rows, None] == owner[part]
                for k, text in enumerate(range(part.start, part.stop)):
                    exact = timed(of_text, text, rows.start)
                    found = _place(scores[:, k], tolerance[:, k], own[:, k], similarity.rerank, exact)
                    tally.texts[0][text], tally.texts[1][text], _ = found
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
