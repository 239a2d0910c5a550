"""The backend `torch`: scores of tiles by matrix products in float32 or bfloat16.

Vectors are stored group-major, (G, I, D), so the products of one tile are (G, I, T) and the mean over the best of G is
a few maxima and minima of (I, T) slices that stay in the cache; nothing is sorted.  Factored relations cost n + n
products for their n (n - 1) pairs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from cran_bench.embeddings import Relations, Rows, both_exist, pairs_by_count, take, unit
from cran_bench.machine.progress import say
from cran_bench.ranking.filtering import Limits, TileCounts, float32_error
from cran_bench.ranking.problem import Problem, blocks

BFLOAT16 = 2.0**-8  # unit roundoff
BLOCK = 1024  # rows at a time
UNROLLED = 64  # most members of a level whose comparison is compiled


class LevelPlan(NamedTuple):
    """How the products of one level become its part of the score, for all tiles.

    Attributes:
        pairs: R pairs of products whose sums are the members, or None if each product is a member.
        members: R, the number of members (regions or region pairs).
        top: the number of best members that are averaged.
    """

    pairs: tuple[tuple[int, int], ...] | None
    members: int
    top: int


class ImageLevel(NamedTuple):
    """One level of I prepared images.

    Attributes:
        vectors: (G, I, D) in the scorer's dtype.
        scale: (R, I, 1) float32 factors of the R members, or None.
        exists: (R, I, 1) bool, which members exist; None for all.
        factor: (I, 1) float32, the level's weight divided by the number of members that are averaged.
    """

    vectors: Tensor
    scale: Tensor | None
    exists: Tensor | None
    factor: Tensor


def sum_of_best(members: Iterable[Tensor], top: int, some_missing: bool) -> Tensor:
    """The elementwise sum of the `top` largest of equally shaped tensors, by insertion into a sorted list.

    With `some_missing`, members that are minus infinity do not exist and add nothing.
    """
    best: list[Tensor] = []
    for member in members:
        for place, kept in enumerate(best):
            is_last = place == top - 1
            best[place], member = torch.maximum(kept, member), member if is_last else torch.minimum(kept, member)
        if len(best) < top:
            best.append(member)
    if some_missing:
        best = [torch.where(kept == -torch.inf, 0.0, kept) for kept in best]
    return functools.reduce(torch.add, best)


def score(levels: list[ImageLevel], products: list[Tensor], plans: tuple[LevelPlan, ...]) -> Tensor:
    """(I, T) float32 scores from the (G, I, T) products of all levels."""
    parts = [
        level.factor * sum_of_best(members(level, x, plan), plan.top, level.exists is not None)
        for level, x, plan in zip(levels, products, plans, strict=True)
    ]
    return functools.reduce(torch.add, parts)


def members(level: ImageLevel, products: Tensor, plan: LevelPlan) -> Iterable[Tensor]:
    """Yield the R members of a level, (I, T) each; float32 if there is more than one."""
    products = products.float() if plan.members > 1 else products
    for member in range(plan.members):
        if plan.pairs is None:
            values = products[member]
        else:
            first, second = plan.pairs[member]
            values = products[first] + products[second]
        if level.scale is not None:
            values = values * level.scale[member]
        if level.exists is not None:
            values = torch.where(level.exists[member], values, -torch.inf)
        yield values


def compare(
    levels: list[ImageLevel], products: list[Tensor], plans: tuple[LevelPlan, ...], of_images: Limits, of_texts: Limits
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The counts of a tile as in `TileCounts`, its (I, T) scores, and (I, T) whether each pair is undecided."""
    scores = score(levels, products, plans)
    above_i, above_t = scores > of_images.high[:, None], scores > of_texts.high
    open_i = (scores >= of_images.low[:, None]) & ~above_i
    open_t = (scores >= of_texts.low) & ~above_t
    counts = above_i.sum(dim=1, dtype=torch.int32), above_t.sum(dim=0, dtype=torch.int32)
    return *counts, scores, open_i | open_t


@functools.cache
def compiled_compare() -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    """`compare`, compiled to one loop over a tile."""
    return torch.compile(compare, dynamic=False)


@dataclass
class Tiles:
    """An `ApproximateScorer` that uses matrix products.

    Attributes:
        problem: the embeddings and their similarity.
        dtype: float32 or bfloat16.
        is_compiled: whether the steps after the products are compiled to one loop, for tiles of full size.
        image_rows: images per tile.
        text_rows: texts per tile.
    """

    problem: Problem
    dtype: torch.dtype = torch.float32
    is_compiled: bool = False
    image_rows: int = 256
    text_rows: int = 512

    name: ClassVar[str] = "torch"

    def __post_init__(self) -> None:
        images, similarity = self.problem.images, self.problem.similarity
        top = self.problem.top
        plans: dict[str, LevelPlan] = {}
        if images.globals is not None:
            plans["globals"] = LevelPlan(None, 1, 1)
        if images.regions is not None:
            count = images.regions.shape[1]
            plans["regions"] = LevelPlan(None, count, min(top, count))
        if isinstance(images.relations, Relations):
            n = images.relations.first.shape[1]
            pairs = tuple((j, n + k) for j, k in images.relations.pairs().tolist())
            plans["relations"] = LevelPlan(pairs, len(pairs), min(top, len(pairs)))
        elif images.relations is not None:
            count = images.relations.shape[1]
            plans["relations"] = LevelPlan(None, count, min(top, count))
            note_unfactored(count)
        self.plans = {name: plan for name, plan in plans.items() if plan.members}
        self._memory: dict[int, Tensor] = {}
        self.weights = dict(zip(("globals", "regions", "relations"), similarity.level_weights(), strict=True))

    def unit_error(self, dim: int) -> float:
        """The largest error of a score of two `dim`-dimensional unit vectors.

        In bfloat16 the operands are rounded, by at most `rounding` of their lengths, and so are the products.
        """
        summed = float32_error(dim, self.problem.top)
        if self.dtype == torch.float32:
            return summed
        return (summed + BFLOAT16) * (1 + self.rounding) ** 2 + 2 * self.rounding + self.rounding**2

    @functools.cached_property
    def rounding(self) -> float:
        """The largest bfloat16 rounding error of an operand relative to its length: at most 2^-8, usually half that."""
        all_images, all_texts = slice(0, len(self.problem.images)), slice(0, len(self.problem.texts))
        images = (x for rows in blocks(all_images, BLOCK) for x in self._vectors(rows))
        texts = (x for rows in blocks(all_texts, BLOCK) for x in self._queries(rows))
        return max(relative_rounding(x) for x in chain(images, texts))

    def _vectors(self, rows: Rows) -> list[Tensor]:
        """(I, G, D) operands of each level before rounding; those of factored relations are not of unit length."""
        levels, operands = self.problem.images.rows(rows), []
        for name in self.plans:
            level = getattr(levels, name)
            if isinstance(level, Relations):
                operands.append(torch.cat([level.first, level.second], dim=1))
            else:
                vectors = level[:, None] if name == "globals" else level
                operands.append(unit(vectors) if self.problem.similarity.cosine else vectors)
        return operands

    def _queries(self, rows: Rows) -> list[Tensor]:
        """(T, D) operands of each level before rounding."""
        levels = self.problem.texts.rows(rows)
        operands = [getattr(levels, name) for name in self.plans]
        return [unit(x) for x in operands] if self.problem.similarity.cosine else operands

    def images(self, rows: Rows) -> list[ImageLevel]:
        levels, prepared = self.problem.images.rows(rows), []
        for (name, plan), vectors in zip(self.plans.items(), self._vectors(rows), strict=True):
            level, exists, scale = getattr(levels, name), None, None
            if isinstance(level, Relations):
                j, k = level.pairs().T
                exists = None if levels.mask is None else both_exist(levels.mask, level.pairs())
                norm = level.norm if self.problem.lengths is None else take(self.problem.lengths, rows)
                if norm is not None:
                    norm = norm[:, j, k].double()
                    scale = torch.where(norm == 0, 0.0, 1 / norm).float().T[:, :, None]
            elif levels.mask is not None and name == "regions":
                exists = levels.mask
            elif levels.mask is not None and name == "relations":
                pairs = pairs_by_count(levels.mask.shape[1], level.shape[1]).to(level.device)
                exists = both_exist(levels.mask, pairs)
            count = plan.top if exists is None else exists.sum(dim=1, keepdim=True).clamp(1, plan.top)
            factor = self.weights[name] / torch.as_tensor(count, device=vectors.device).float()
            prepared.append(
                ImageLevel(
                    vectors.transpose(0, 1).to(self.dtype).contiguous(),
                    scale,
                    None if exists is None else exists.T[:, :, None],
                    factor.expand(len(levels), 1),
                )
            )
        return prepared

    def texts(self, rows: Rows) -> list[Tensor]:
        """Return the (T, D) operands of each level."""
        return [x.to(self.dtype) for x in self._queries(rows)]

    def products(self, images: list[ImageLevel], texts: list[Tensor]) -> list[Tensor]:
        """(G, I, T) inner products of each level, valid until the next call."""
        products = []
        for place, (level, queries) in enumerate(zip(images, texts, strict=True)):
            shape = (*level.vectors.shape[:2], len(queries))
            if place not in self._memory or self._memory[place].numel() < math.prod(shape):
                self._memory[place] = queries.new_empty(math.prod(shape))  # allocating each time costs 10 % more
            out = self._memory[place][: math.prod(shape)].view(shape)
            torch.mm(level.vectors.flatten(0, 1), queries.T, out=out.flatten(0, 1))
            products.append(out)
        return products

    def scores(self, images: list[ImageLevel], texts: list[Tensor]) -> Tensor:
        return score(images, self.products(images, texts), tuple(self.plans.values()))

    def compare(self, images: list[ImageLevel], texts: list[Tensor], of_images: Limits, of_texts: Limits) -> TileCounts:
        is_whole = (len(of_images.low), len(of_texts.low)) == (self.image_rows, self.text_rows)
        function = compiled_compare() if self.is_compiled and is_whole else compare
        products = self.products(images, texts)
        plans = tuple(self.plans.values())
        better_i, better_t, scores, undecided = function(images, products, plans, of_images, of_texts)
        rows, columns = undecided.nonzero(as_tuple=True)
        return TileCounts(better_i, better_t, rows, columns, scores[rows, columns])


@functools.cache
def note_unfactored(count: int) -> None:
    """Print once that relations that are not sums of two vectors cost one product each."""
    say(f"the relations are not factored: each image-text pair takes {count} inner products for them")


def relative_rounding(x: Tensor) -> float:
    """The largest |bfloat16(v) - v| / |v| among vectors v, with a margin of 0.1 %."""
    lengths = torch.linalg.vector_norm(x, dim=-1)
    errors = torch.linalg.vector_norm(x.bfloat16().float() - x, dim=-1)
    return 1.001 * float(torch.where(lengths > 0, errors / lengths, 0.0).max())


def tiles_for(problem: Problem, dtype: torch.dtype, is_compiled: bool | None = None) -> Tiles:
    """A scorer whose tile size suits the problem and its device.

    On a CPU the products of a tile and a few slices should fit into the caches, and compiling pays off only for very
    many pairs; a GPU needs large tiles and one kernel after the products.
    """
    on_gpu = problem.device.type == "cuda"
    vectors = sum(x.shape[1] if x.dim() == 3 else 1 for x in problem.images.tensors())
    if on_gpu:
        image_rows, text_rows = max(16, 16384 // max(vectors, 16)), 8192
    else:
        image_rows, text_rows = (max(16, 4096 // vectors), 512) if vectors > 1 else (1024, 2048)
    tiles = Tiles(problem, dtype, False, image_rows, text_rows)
    if is_compiled is None:
        is_compiled = problem.pairs > (1e8 if on_gpu else 2e9)
    tiles.is_compiled = is_compiled and all(plan.members <= UNROLLED for plan in tiles.plans.values())
    return tiles
