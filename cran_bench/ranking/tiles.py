"""The backend `torch`: scores of tiles by matrix products in float32, bfloat16 or float16.

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
from torch.nn.functional import pad

from cran_bench.embeddings import Relations, Rows, both_exist, pairs_by_count, region_pairs, take, unit
from cran_bench.machine.progress import say
from cran_bench.ranking.filtering import Limits, TileCounts, Undecided, float32_error
from cran_bench.ranking.problem import Problem, blocks

ROUNDOFF = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}  # unit roundoffs
HALF_STEP = 2.0**-25  # largest rounding error of a float16 below its normal range
LONGEST = 64.0  # length up to which vectors are scaled for float16; products are then far below its largest number
BLOCK = 1024  # rows at a time
UNROLLED = 64  # most members of a level whose comparison is compiled
CPU_PAIRS, GPU_PAIRS = 2e9, 1e8  # pairs from which the steps after the products are compiled
GPU_BYTES = 1 << 30  # of a tile's products on a GPU


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

    def part(self, rows: Rows, size: int) -> ImageLevel:
        """Selected images, followed by images without score (NaN) up to `size` of them."""
        vectors, scale, exists = (
            None if x is None else filled(x[:, rows], 1, size) for x in (self.vectors, self.scale, self.exists)
        )
        assert vectors is not None
        return ImageLevel(vectors.contiguous(), scale, exists, filled(self.factor[rows], 0, size))


def sum_of_best(members: Iterable[Tensor], top: int, nothing: Tensor | None = None) -> Tensor:
    """The elementwise sum of the `top` largest of equally shaped tensors, by insertion into a sorted list.

    Where members are minus infinity, they do not exist, and `nothing` is added instead.
    """
    best: list[Tensor] = []
    for member in members:
        for place, kept in enumerate(best):
            is_last = place == top - 1
            best[place], member = torch.maximum(kept, member), member if is_last else torch.minimum(kept, member)
        if len(best) < top:
            best.append(member)
    if nothing is not None:
        best = [torch.where(kept == -torch.inf, nothing, kept) for kept in best]
    return functools.reduce(torch.add, best)


def score(levels: list[ImageLevel], products: list[Tensor], plans: tuple[LevelPlan, ...]) -> Tensor:
    """(I, T) float32 scores from the (G, I, T) products of all levels."""
    parts = []
    for level, x, plan in zip(levels, products, plans, strict=True):
        nothing = None if level.exists is None else 0 * x[0].float()  # and NaN beyond the texts
        parts.append(level.factor * sum_of_best(members(level, x, plan), plan.top, nothing))
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
    levels: list[ImageLevel], products: list[Tensor], plans: tuple[LevelPlan, ...], limits: Limits
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The counts of a tile as in `TileCounts`, its (I, T) scores, and the (I, T) codes of `Undecided`, 0 if decided."""
    scores = score(levels, products, plans)
    least, most = scores - limits.tolerance[:, None], scores + limits.tolerance[:, None]
    above_i, above_t = least > limits.high_i[:, None], least > limits.high_t
    open_i = (most >= limits.low_i[:, None]) & ~above_i
    open_t = (most >= limits.low_t) & ~above_t
    codes = open_i.to(torch.uint8).add(open_t.to(torch.uint8), alpha=2)
    return above_i.sum(dim=1, dtype=torch.int32), above_t.sum(dim=0, dtype=torch.int32), scores, codes


@functools.cache
def compiled_compare() -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    """`compare`, compiled to one loop over a tile."""
    return torch.compile(compare, dynamic=False)


@dataclass
class Tiles:
    """An `ApproximateScorer` that uses matrix products.

    Attributes:
        problem: the embeddings and their similarity.
        dtype: float32, bfloat16 or float16; bfloat16 instead of float16 where vectors differ too much in length.
        is_compiled: whether the steps after the products are compiled to one loop.
        image_rows: images per tile; all tiles have this size, and the last ones are filled up with NaN, which no
            comparison counts.
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
            pairs = tuple((j, n + k) for j, k in region_pairs(n, images.relations.kind).tolist())
            plans["relations"] = LevelPlan(pairs, len(pairs), min(top, len(pairs)))
        elif images.relations is not None:
            count = images.relations.shape[1]
            plans["relations"] = LevelPlan(None, count, min(top, count))
            note_unfactored(count)
        self.plans = {name: plan for name, plan in plans.items() if plan.members}
        self._memory: dict[int, Tensor] = {}
        self.weights = dict(zip(("globals", "regions", "relations"), similarity.level_weights(), strict=True))
        self.powers = {name: (1.0, 1.0) for name in self.plans}
        self.underflow = 0.0
        if self.dtype == torch.float16:
            self._scale()

    def unit_error(self, dim: int) -> float:
        """The largest error of a score of two `dim`-dimensional unit vectors.

        In 16 bits the operands are rounded, by at most `rounding` of their lengths, and so are the products.
        """
        summed = float32_error(dim, self.problem.top)
        if self.dtype == torch.float32:
            return summed
        products = summed + ROUNDOFF[self.dtype] + self.underflow
        return products * (1 + self.rounding) ** 2 + 2 * self.rounding + self.rounding**2

    @functools.cached_property
    def rounding(self) -> float:
        """The largest 16-bit rounding error of an operand relative to its length: at most about the unit roundoff."""
        all_images, all_texts = slice(0, len(self.problem.images)), slice(0, len(self.problem.texts))
        images = (x for rows in blocks(all_images, BLOCK) for x in self._vectors(rows))
        texts = (x for rows in blocks(all_texts, BLOCK) for x in self._queries(rows))
        return max(relative_rounding(x, self.dtype) for x in chain(images, texts))

    def _scale(self) -> None:
        """Choose the powers of two by which the vectors of each level and side are scaled for float16.

        Then no product overflows.  If vectors are so short that numbers below float16's normal range, which are
        rounded by up to `HALF_STEP`, would cost more than its unit roundoff, the dtype becomes bfloat16.
        """
        dim = max(x.shape[-1] for x in self.problem.images.tensors())
        shortest, largest = self.problem.extent
        raw, one = (shortest, largest * math.sqrt(dim)), (1.0, 1.0)  # bounds on lengths
        text = one if self.problem.similarity.cosine else raw
        rounding = 0.0
        for name in self.plans:
            image = raw if isinstance(getattr(self.problem.images, name), Relations) else text
            self.powers[name] = power_of_two(image[1]), power_of_two(text[1])
            least = [power * side[0] for power, side in zip(self.powers[name], (image, text), strict=True)]
            rounding = max(rounding, math.sqrt(dim) * HALF_STEP / min(least))
            self.underflow = max(self.underflow, HALF_STEP / (least[0] * least[1]))
        if max(rounding, self.underflow) > ROUNDOFF[torch.float16]:
            self.dtype, self.underflow, self.powers = torch.bfloat16, 0.0, dict.fromkeys(self.plans, (1.0, 1.0))

    def _vectors(self, rows: Rows) -> list[Tensor]:
        """(I, G, D) operands of each level before rounding; those of factored relations are not of unit length."""
        levels, operands = self.problem.images.rows(rows), []
        for name in self.plans:
            level = getattr(levels, name)
            if isinstance(level, Relations):
                vectors = torch.cat([level.first, level.second], dim=1)
            else:
                vectors = level[:, None] if name == "globals" else level
                vectors = unit(vectors) if self.problem.similarity.cosine else vectors
            operands.append(scaled(vectors, self.powers[name][0]))
        return operands

    def _queries(self, rows: Rows) -> list[Tensor]:
        """(T, D) operands of each level before rounding."""
        levels, operands = self.problem.texts.rows(rows), []
        for name in self.plans:
            vectors = getattr(levels, name)
            vectors = unit(vectors) if self.problem.similarity.cosine else vectors
            operands.append(scaled(vectors, self.powers[name][1]))
        return operands

    @functools.cached_property
    def everything(self) -> tuple[list[ImageLevel], list[Tensor]]:
        """All images and texts, prepared once: on a GPU each step on a part of them is a kernel, too."""
        images, texts = slice(0, len(self.problem.images)), slice(0, len(self.problem.texts))
        return self._images(images), [x.to(self.dtype) for x in self._queries(texts)]

    def images(self, rows: Rows, size: int = 0) -> list[ImageLevel]:
        if self.problem.device.type == "cuda":
            return [level.part(rows, size) for level in self.everything[0]]
        return [level.part(slice(None), size) for level in self._images(rows)]

    def texts(self, rows: Rows, size: int = 0) -> list[Tensor]:
        """Return the (T, D) operands of each level."""
        if self.problem.device.type == "cuda":
            texts = [take(x, rows) for x in self.everything[1]]
        else:
            texts = [x.to(self.dtype) for x in self._queries(rows)]
        return [filled(x, 0, size) for x in texts]

    def _images(self, rows: Rows) -> list[ImageLevel]:
        levels, prepared = self.problem.images.rows(rows), []
        for (name, plan), vectors in zip(self.plans.items(), self._vectors(rows), strict=True):
            level, exists, scale = getattr(levels, name), None, None
            if isinstance(level, Relations):
                j, k = level.pairs().T
                exists = None if levels.mask is None else both_exist(levels.mask, level.pairs())
                norm = level.norm if self.problem.lengths is None else take(self.problem.lengths, rows)
                if norm is not None:
                    norm = norm[:, j, k].double()
                    scale = norm.reciprocal().nan_to_num(nan=torch.nan, posinf=0.0, neginf=0.0).float().T[:, :, None]
            elif levels.mask is not None and name == "regions":
                exists = levels.mask
            elif levels.mask is not None and name == "relations":
                pairs = pairs_by_count(levels.mask.shape[1], level.shape[1]).to(level.device, non_blocking=True)
                exists = both_exist(levels.mask, pairs)
            weight = self.weights[name] / math.prod(self.powers[name])
            if exists is None:
                factor = torch.full((1, 1), weight / plan.top, dtype=torch.float32, device=vectors.device)
            else:
                factor = weight / exists.sum(dim=1, keepdim=True).clamp(1, plan.top).float()
            vectors = vectors.transpose(0, 1)
            operand = torch.empty(vectors.shape, dtype=self.dtype, device=vectors.device).copy_(vectors)
            there = None if exists is None else exists.T[:, :, None]
            prepared.append(ImageLevel(operand, scale, there, factor.expand(len(levels), 1)))
        return prepared

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
        parts = []
        for level, x, plan in zip(images, self.products(images, texts), self.plans.values(), strict=True):
            x = x.float()
            if plan.pairs is not None:
                first, second = torch.tensor(plan.pairs).to(x.device, non_blocking=True).T
                x = x[first] + x[second]
            x = x if level.scale is None else x * level.scale
            x = x if level.exists is None else torch.where(level.exists, x, -torch.inf)
            best = x.topk(plan.top, dim=0).values
            parts.append(level.factor * torch.where(best == -torch.inf, 0.0, best).sum(dim=0))
        return functools.reduce(torch.add, parts)

    def compare(
        self, images: list[ImageLevel], texts: list[Tensor], limits: Limits, base: int, undecided: Undecided
    ) -> TileCounts:
        function = compiled_compare() if self.is_compiled else compare
        plans = tuple(self.plans.values())
        of_images, of_texts, scores, codes = function(images, self.products(images, texts), plans, limits)
        scores, codes = scores.view(-1), codes.view(-1)
        number, room = codes.count_nonzero(), len(undecided.places)
        size = room if number.is_cuda else min(room, int(number))  # a GPU would have to be waited for
        places = torch.nonzero_static(codes, size=size, fill_value=0).view(-1)
        memory = undecided.part(slice(size))
        torch.add(places, base, out=memory.places)
        torch.index_select(scores, 0, places, out=memory.scores)
        torch.index_select(codes, 0, places, out=memory.codes)
        return TileCounts(of_images, of_texts, number)


@functools.cache
def note_unfactored(count: int) -> None:
    """Print once that relations that are not sums of two vectors cost one product each."""
    say(f"the relations are not factored: each image-text pair takes {count} inner products for them")


def power_of_two(longest: float) -> float:
    """The factor for vectors of at most this length: 1 if it lies between 1 and `LONGEST`, as for unit vectors."""
    return 1.0 if 1 <= longest <= LONGEST else 2.0 ** math.floor(math.log2(LONGEST / longest))


def scaled(x: Tensor, power: float) -> Tensor:
    """Scale by a power of two."""
    return x if power == 1 else x * power


def filled(x: Tensor, dim: int, size: int) -> Tensor:
    """Append rows of NaN, or of True, along a dimension, up to `size` rows."""
    missing = size - x.shape[dim]
    return pad(x, (0, 0) * (x.dim() - 1 - dim) + (0, missing), value=torch.nan) if missing > 0 else x


def relative_rounding(x: Tensor, dtype: torch.dtype) -> float:
    """The largest |v rounded to `dtype` - v| / |v| among vectors v, with a margin of 0.1 %."""
    lengths = torch.linalg.vector_norm(x, dim=-1)
    errors = torch.linalg.vector_norm(x.to(dtype).float() - x, dim=-1)
    return 1.001 * float(torch.where(lengths > 0, errors / lengths, 0.0).max())


def even(total: int, most: int, step: int) -> int:
    """The size of equal parts of `total` rows, a multiple of `step`, if a part should have at most `most` rows."""
    return -(-total // -(-total // most) // step) * step


def tiles_for(
    problem: Problem, dtype: torch.dtype, is_compiled: bool | None = None, kind: type[Tiles] = Tiles
) -> Tiles:
    """A scorer whose tile size suits the problem and its device.

    On a CPU the products of a tile and a few slices should fit into the caches.  A GPU needs few kernels: with 16
    products of 16 bits for a pair, 5,000 x 25,000 are 4 tiles of 5,000 x 6,272.  Their products are written to memory
    and read once, 8 GB in all, or 1.9 ms at 4.3 TB/s.  Tiles whose products stay in 50 MB of L2 (5,000 x 312) would
    avoid that, but take 80 times a dozen launches of about 4 microseconds each, or 4 ms.

    Compiling takes 3 to 20 s the first time on a machine.  On a CPU thread it saves at most 20 ns for a pair in 16 bits
    and nothing in float32, so it pays off only for very many pairs.  On a GPU, by arithmetic, the 160 kernels of the
    uncompiled comparison move 1.9 KB for a pair, 0.4 ns or 8 times as long as its products take.
    """
    on_gpu = problem.device.type == "cuda"
    vectors = sum(x.shape[1] if x.dim() == 3 else 1 for x in problem.images.tensors())
    n, t = (max(side.stop - side.start for side in sides) for sides in zip(*problem.folds, strict=True))
    if on_gpu:
        image_rows = even(n, 8192, 8)
        most = max(64, GPU_BYTES // (dtype.itemsize * max(vectors, 4) * image_rows) // 64 * 64)
        image_rows, text_rows = image_rows, even(t, most, 64)
    elif vectors > 1:
        image_rows, text_rows = even(n, max(16, 4096 // vectors), 2), even(t, 512, 32)
    else:
        image_rows, text_rows = even(n, 1024, 2), even(t, 2048, 32)
    tiles = kind(problem, dtype, False, image_rows, text_rows)
    if is_compiled is None:
        is_compiled = problem.pairs > (GPU_PAIRS if on_gpu else CPU_PAIRS)
    tiles.is_compiled = is_compiled and all(plan.members <= UNROLLED for plan in tiles.plans.values())
    return tiles
