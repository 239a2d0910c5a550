"""Scores of tiles by matrix products in float32 or bfloat16: the backend `torch`.

Vectors lie group-major, (G, I, D): the products of one tile are (G, I, T), so that the mean over the best of G is a few
maxima and minima of (I, T) slices, which never leave the cache; nothing is sorted.  A relation that is factored costs
n + n products for its n (n - 1) pairs.
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
from cran_bench.ranking.filtering import Limits, Screened, float32_unit
from cran_bench.ranking.problem import Problem, blocks

BFLOAT16 = 2.0**-8  # roundoff
BLOCK = 1024  # rows at a time
UNROLLED = 64  # members, at most, of a level whose judgement is compiled


class Plan(NamedTuple):
    """How the products of one level become its part of the score; what is the same for all tiles.

    Attributes:
        pairs: of products that are added to one member, or None where each is a member by itself.
        members: R.
        top: how many of the best members count.
    """

    pairs: tuple[tuple[int, int], ...] | None
    members: int
    top: int


class Images(NamedTuple):
    """One level of some images.

    Attributes:
        vectors: (G, I, D) in the screen's dtype.
        scale: (R, I, 1) float32 factors of the R members, or None.
        exists: (R, I, 1) bool, or None for all.
        factor: (I, 1) float32, the level's weight over the number of members that count.
    """

    vectors: Tensor
    scale: Tensor | None
    exists: Tensor | None
    factor: Tensor


def sum_of_best(members: Iterable[Tensor], top: int, some_missing: bool) -> Tensor:
    """The sum of the `top` best of equally shaped tensors, elementwise: each passes once through a sorted list.

    Members that are minus infinity do not exist and add nothing.
    """
    best: list[Tensor] = []
    for member in members:
        for place, held in enumerate(best):
            is_last = place == top - 1
            best[place], member = torch.maximum(held, member), member if is_last else torch.minimum(held, member)
        if len(best) < top:
            best.append(member)
    if some_missing:
        best = [torch.where(held == -torch.inf, 0.0, held) for held in best]
    return functools.reduce(torch.add, best)


def score(levels: list[Images], products: list[Tensor], plans: tuple[Plan, ...]) -> Tensor:
    """(I, T) float32 from the (G, I, T) products of all levels."""
    parts = [
        level.factor * sum_of_best(members(level, found, plan), plan.top, level.exists is not None)
        for level, found, plan in zip(levels, products, plans, strict=True)
    ]
    return functools.reduce(torch.add, parts)


def members(level: Images, products: Tensor, plan: Plan) -> Iterable[Tensor]:
    """The R members of a level, (I, T) each, float32 unless there is but one."""
    products = products.float() if plan.members > 1 else products
    for member in range(plan.members):
        if plan.pairs is None:
            found = products[member]
        else:
            first, second = plan.pairs[member]
            found = products[first] + products[second]
        if level.scale is not None:
            found = found * level.scale[member]
        if level.exists is not None:
            found = torch.where(level.exists[member], found, -torch.inf)
        yield found


def judge(
    levels: list[Images], products: list[Tensor], plans: tuple[Plan, ...], of_images: Limits, of_texts: Limits
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `Screened` says of a tile, with (I, T) scores, and whether each is open for its image or its text."""
    scores = score(levels, products, plans)
    above_i, above_t = scores > of_images.high[:, None], scores > of_texts.high
    open_i = (scores >= of_images.low[:, None]) & ~above_i
    open_t = (scores >= of_texts.low) & ~above_t
    counts = above_i.sum(dim=1, dtype=torch.int32), above_t.sum(dim=0, dtype=torch.int32)
    return *counts, scores, open_i | open_t


@functools.cache
def compiled_judge() -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    """`judge` as one loop over a tile."""
    return torch.compile(judge, dynamic=False)


@dataclass
class Tiles:
    """A screen by matrix products.

    Attributes:
        problem: whose embeddings are screened.
        dtype: float32 or bfloat16.
        is_compiled: whether what follows the products is compiled to one loop, for whole tiles.
        image_rows: of a tile.
        text_rows: of a tile.
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
        plans: dict[str, Plan] = {}
        if images.globals is not None:
            plans["globals"] = Plan(None, 1, 1)
        if images.regions is not None:
            count = images.regions.shape[1]
            plans["regions"] = Plan(None, count, min(top, count))
        if isinstance(images.relations, Relations):
            n = images.relations.first.shape[1]
            pairs = tuple((j, n + k) for j, k in images.relations.pairs().tolist())
            plans["relations"] = Plan(pairs, len(pairs), min(top, len(pairs)))
        elif images.relations is not None:
            count = images.relations.shape[1]
            plans["relations"] = Plan(None, count, min(top, count))
            tell_of_vectors(count)
        self.plans = {name: plan for name, plan in plans.items() if plan.members}
        self._memory: dict[int, Tensor] = {}
        self.weights = dict(zip(("globals", "regions", "relations"), similarity.level_weights(), strict=True))

    def unit(self, dim: int) -> float:
        """See ApproximateScorer: bfloat16 rounds the operands, by `off` of their lengths at most, and the products."""
        summed = float32_unit(dim, self.problem.top)
        if self.dtype == torch.float32:
            return summed
        return (summed + BFLOAT16) * (1 + self.off) ** 2 + 2 * self.off + self.off**2

    @functools.cached_property
    def off(self) -> float:
        """How far any operand is from itself in bfloat16, over its length: at most 2^-8, in practice half of that."""
        everything = slice(0, len(self.problem.images)), slice(0, len(self.problem.texts))
        images = (x for rows in blocks(everything[0], BLOCK) for x in self._vectors(rows))
        texts = (x for rows in blocks(everything[1], BLOCK) for x in self._queries(rows))
        return max(farthest(x) for x in chain(images, texts))

    def _vectors(self, rows: Rows) -> list[Tensor]:
        """(I, G, D) operands of each level, before they are rounded; of factored relations, not of unit length."""
        levels, found = self.problem.images.rows(rows), []
        for name in self.plans:
            level = getattr(levels, name)
            if isinstance(level, Relations):
                found.append(torch.cat([level.first, level.second], dim=1))
            else:
                vectors = level[:, None] if name == "globals" else level
                found.append(unit(vectors) if self.problem.similarity.cosine else vectors)
        return found

    def _queries(self, rows: Rows) -> list[Tensor]:
        """(T, D) operands of each level, before they are rounded."""
        levels = self.problem.texts.rows(rows)
        found = [getattr(levels, name) for name in self.plans]
        return [unit(x) for x in found] if self.problem.similarity.cosine else found

    def images(self, rows: Rows) -> list[Images]:
        """See ApproximateScorer."""
        levels, found = self.problem.images.rows(rows), []
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
            found.append(
                Images(
                    vectors.transpose(0, 1).to(self.dtype).contiguous(),
                    scale,
                    None if exists is None else exists.T[:, :, None],
                    factor.expand(len(levels), 1),
                )
            )
        return found

    def texts(self, rows: Rows) -> list[Tensor]:
        """(T, D) of each level."""
        return [x.to(self.dtype) for x in self._queries(rows)]

    def products(self, images: list[Images], texts: list[Tensor]) -> list[Tensor]:
        """(G, I, T) of each level, good until the next call."""
        found = []
        for place, (level, queries) in enumerate(zip(images, texts, strict=True)):
            shape = (*level.vectors.shape[:2], len(queries))
            if place not in self._memory or self._memory[place].numel() < math.prod(shape):
                self._memory[place] = queries.new_empty(math.prod(shape))  # fresh pages each time cost a tenth more
            out = self._memory[place][: math.prod(shape)].view(shape)
            torch.mm(level.vectors.flatten(0, 1), queries.T, out=out.flatten(0, 1))
            found.append(out)
        return found

    def scores(self, images: list[Images], texts: list[Tensor]) -> Tensor:
        """See ApproximateScorer."""
        return score(images, self.products(images, texts), tuple(self.plans.values()))

    def screen(self, images: list[Images], texts: list[Tensor], of_images: Limits, of_texts: Limits) -> Screened:
        """See ApproximateScorer."""
        is_whole = (len(of_images.low), len(of_texts.low)) == (self.image_rows, self.text_rows)
        verdict = compiled_judge() if self.is_compiled and is_whole else judge
        products = self.products(images, texts)
        plans = tuple(self.plans.values())
        better_i, better_t, scores, is_open = verdict(images, products, plans, of_images, of_texts)
        rows, columns = is_open.nonzero(as_tuple=True)
        return Screened(better_i, better_t, rows, columns, scores[rows, columns])


@functools.cache
def tell_of_vectors(count: int) -> None:
    """Once, that relations which are no sums of two vectors cost a product each."""
    say(f"relations are not factored, as a linear layer's are: every pair takes {count} products for them")


def farthest(x: Tensor) -> float:
    """The largest |bfloat16(v) - v| / |v| of vectors."""
    lengths = torch.linalg.vector_norm(x, dim=-1)
    off = torch.linalg.vector_norm(x.bfloat16().float() - x, dim=-1)
    return 1.001 * float(torch.where(lengths > 0, off / lengths, 0.0).max())


def fitting(problem: Problem, dtype: torch.dtype, is_compiled: bool | None = None) -> Tiles:
    """A screen whose tiles suit the problem and its device.

    On a CPU the products of a tile and a few slices stay in the caches, and compiling takes longer than it saves unless
    there are very many pairs; a GPU wants large tiles, and one kernel after the products.
    """
    on_gpu = problem.device.type == "cuda"
    vectors = sum(x.shape[1] if x.dim() == 3 else 1 for x in problem.images.tensors())
    if on_gpu:
        image_rows, text_rows = max(16, 16384 // max(vectors, 16)), 8192
    else:
        image_rows, text_rows = (max(16, 4096 // vectors), 512) if vectors > 1 else (1024, 2048)
    screen = Tiles(problem, dtype, False, image_rows, text_rows)
    if is_compiled is None:
        is_compiled = problem.pairs > (1e8 if on_gpu else 2e9)
    screen.is_compiled = is_compiled and all(plan.members <= UNROLLED for plan in screen.plans.values())
    return screen
