"""The reference backend: every score is computed in float64, tile by tile, and compared with its threshold."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cran_bench.embeddings import Relations
from cran_bench.errors import BadInput
from cran_bench.ranking.problem import Clock, KernelInfo, Problem, Tally
from cran_bench.similarity import rounding

TILE_BYTES = 1 << 28


@dataclass(frozen=True)
class Reference:
    """The backend `reference`.

    Attributes:
        tile_bytes: memory for one tile of scores; the N x T matrix is never stored.
    """

    tile_bytes: int = TILE_BYTES

    def count(self, problem: Problem, clock: Clock) -> tuple[Tally, KernelInfo]:
        clock.start()
        tally = problem.tally()
        for rows, columns in problem.tiles(*tile_shape(problem, self.tile_bytes)):
            count_tile(problem, tally, rows, columns, clock)
        return tally.read()[0], KernelInfo("reference", "float64")


def count_tile(problem: Problem, tally: Tally, rows: slice, columns: slice, clock: Clock | None = None) -> int:
    """Add the counts of one tile to the tally and return its number of positive pairs (a text and its own image).

    Raises:
        BadInput: a score is not finite.
    """
    scores = problem.scores(rows, columns)
    if clock is not None:
        clock.lap("similarity")
    if not bool(torch.isfinite(scores).all()):
        i, j = (~torch.isfinite(scores)).nonzero()[0].tolist()
        raise BadInput(
            f"the score of image {rows.start + i} and text {columns.start + j} is not finite: "
            "scale the embeddings down, or correct the scores of a pair scorer"
        )
    tolerance = problem.reach.of_all(rows, columns, rounding)
    own = problem.image_of[columns]
    positives = ((own >= rows.start) & (own < rows.stop)).nonzero().flatten()
    scores[own[positives] - rows.start, positives] = -torch.inf
    for threshold, axis, better, tied in (
        (problem.best[rows, None], 1, tally.images[0][rows], tally.images[1][rows]),
        (problem.positive[None, columns], 0, tally.texts[0][columns], tally.texts[1][columns]),
    ):
        above = (scores > threshold + tolerance).sum(dim=axis, dtype=torch.int32)
        better += above
        tied += (scores >= threshold - tolerance).sum(dim=axis, dtype=torch.int32) - above
    if clock is not None:
        clock.lap("rank")
    return len(positives)


def tile_shape(problem: Problem, tile_bytes: int) -> tuple[int, int]:
    """Image and text rows of a tile whose float64 vectors and scores, on all levels, fit into `tile_bytes`."""
    images = problem.images
    tensors = images.tensors()
    vectors = 1 + sum(x.shape[1] for x in tensors if x.dim() == 3)
    if isinstance(images.relations, Relations):
        vectors += images.relations.first.shape[1] ** 2
    text_rows = min(len(problem.texts), 4096)
    dims = max(x.shape[-1] for x in tensors)
    return max(1, tile_bytes // (4 * 8 * vectors * max(text_rows, dims))), text_rows
