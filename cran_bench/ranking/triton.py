"""The backend `triton`: inner products, best members and comparison in one Triton kernel; never chosen by `auto`.

So far it has run only in Triton's interpreter, on small problems, and has not been timed on a GPU.

A program scores BI images against BT texts, level by level, adds the scores above the limits to the counts of its
images and texts, and appends the undecided pairs to a list.  The scores are never written to memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cran_bench.embeddings import Rows
from cran_bench.errors import BadInput
from cran_bench.ranking.filtering import Limits, TileCounts
from cran_bench.ranking.tiles import ImageLevel, LevelPlan, Tiles

BI, BT, BK = 16, 32, 64  # images, texts and dimensions that a program processes at a time
MEMBERS = 128  # most members of an image on one level


@triton.jit
def product(vectors, texts, i0, t0, I, T, D, NP: tl.constexpr, BI: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr):
    """(BI NP, BT) inner products of each image's NP vectors (I, NP, D) with texts (T, D)."""
    rows = i0 * NP + tl.arange(0, BI * NP)
    columns = t0 + tl.arange(0, BT)
    total = tl.zeros((BI * NP, BT), tl.float32)
    for k in range(0, D, BK):
        dims = k + tl.arange(0, BK)
        x_mask = (rows[:, None] < I * NP) & (dims[None, :] < D)
        y_mask = (columns[None, :] < T) & (dims[:, None] < D)
        x = tl.load(vectors + rows[:, None].to(tl.int64) * D + dims[None, :], mask=x_mask, other=0.0)
        y = tl.load(texts + columns[None, :].to(tl.int64) * D + dims[:, None], mask=y_mask, other=0.0)
        total = tl.dot(x, y, total, input_precision="ieee")
    return total


@triton.jit
def sum_of_best(x, TOP: tl.constexpr, M: tl.constexpr):
    """(BI, BT) sums of the TOP largest of (BI, M, BT) over M; minus infinity adds nothing."""
    places = tl.arange(0, M)[None, :, None]
    total = tl.zeros_like(tl.max(x, axis=1))
    for _ in tl.static_range(TOP):
        best = tl.max(x, axis=1)
        total += tl.where(best == float("-inf"), 0.0, best)
        first = tl.min(tl.where(x == best[:, None, :], places, M), axis=1)
        x = tl.where(places == first[:, None, :], float("-inf"), x)
    return total


@triton.jit
def members_of(scale, exists, i0, I, M: tl.constexpr, BI: tl.constexpr):
    """(BI, M) factors of the members, and which members exist."""
    images = i0 + tl.arange(0, BI)
    where = images[:, None] * M + tl.arange(0, M)[None, :]
    is_image = (images[:, None] < I) & (tl.arange(0, M)[None, :] < M)
    return tl.load(scale + where, mask=is_image, other=0.0), tl.load(exists + where, mask=is_image, other=0) != 0


@triton.jit
def level(
    vectors, second, texts, scale, exists, factor, i0, t0, I, T, D,
    NP: tl.constexpr, TOP: tl.constexpr, IN_PAIRS: tl.constexpr, BI: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """(BI, BT) contribution of one level to the score."""
    x = tl.reshape(product(vectors, texts, i0, t0, I, T, D, NP, BI, BT, BK), (BI, NP, BT))
    M: tl.constexpr = NP * NP if IN_PAIRS else NP
    if IN_PAIRS:
        y = tl.reshape(product(second, texts, i0, t0, I, T, D, NP, BI, BT, BK), (BI, NP, BT))
        x = tl.reshape(x[:, :, None, :] + y[:, None, :, :], (BI, M, BT))
    scales, there = members_of(scale, exists, i0, I, M, BI)
    x = tl.where(there[:, :, None], x * scales[:, :, None], float("-inf"))
    images = i0 + tl.arange(0, BI)
    return sum_of_best(x, TOP, M) * tl.load(factor + images, mask=images < I, other=0.0)[:, None]


@triton.jit
def compare_tile(
    low_i, high_i, low_t, high_t, counts_i, counts_t, number, rows, columns, scores, capacity, I, T,
    v0, s0, t0_, c0, e0, f0, D0, v1, s1, t1_, c1, e1, f1, D1, v2, s2, t2_, c2, e2, f2, D2,
    LEVELS: tl.constexpr,
    NP0: tl.constexpr, TOP0: tl.constexpr, IN0: tl.constexpr,
    NP1: tl.constexpr, TOP1: tl.constexpr, IN1: tl.constexpr,
    NP2: tl.constexpr, TOP2: tl.constexpr, IN2: tl.constexpr,
    BI: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Compare one tile of I images and T texts with its limits, as `TileCounts` describes."""
    i0, t0 = tl.program_id(0) * BI, tl.program_id(1) * BT
    score = level(v0, s0, t0_, c0, e0, f0, i0, t0, I, T, D0, NP0, TOP0, IN0, BI, BT, BK)
    if LEVELS > 1:
        score += level(v1, s1, t1_, c1, e1, f1, i0, t0, I, T, D1, NP1, TOP1, IN1, BI, BT, BK)
    if LEVELS > 2:
        score += level(v2, s2, t2_, c2, e2, f2, i0, t0, I, T, D2, NP2, TOP2, IN2, BI, BT, BK)
    images, texts = i0 + tl.arange(0, BI), t0 + tl.arange(0, BT)
    there = (images[:, None] < I) & (texts[None, :] < T)
    inf = float("inf")
    above_i = score > tl.load(high_i + images, mask=images < I, other=inf)[:, None]
    above_t = score > tl.load(high_t + texts, mask=texts < T, other=inf)[None, :]
    near_i = score >= tl.load(low_i + images, mask=images < I, other=inf)[:, None]
    near_t = score >= tl.load(low_t + texts, mask=texts < T, other=inf)[None, :]
    tl.atomic_add(counts_i + images, tl.sum((above_i & there).to(tl.int32), axis=1), mask=images < I)
    tl.atomic_add(counts_t + texts, tl.sum((above_t & there).to(tl.int32), axis=0), mask=texts < T)
    undecided = tl.reshape(((near_i & ~above_i) | (near_t & ~above_t)) & there, (BI * BT,)).to(tl.int32)
    count = tl.sum(undecided, axis=0)
    if count > 0:
        place = tl.atomic_add(number, count) + tl.cumsum(undecided, axis=0) - 1
        keeps = (undecided != 0) & (place < capacity)
        every_i = tl.reshape(tl.broadcast_to(images[:, None], (BI, BT)), (BI * BT,))
        every_t = tl.reshape(tl.broadcast_to(texts[None, :], (BI, BT)), (BI * BT,))
        tl.store(rows + place, every_i, mask=keeps)
        tl.store(columns + place, every_t, mask=keeps)
        tl.store(scores + place, tl.reshape(score, (BI * BT,)), mask=keeps)


class Operands(NamedTuple):
    """One level of I images in the layout of the kernel, with M = NP members, or NP^2 for pairs.

    Attributes:
        first: (I, NP, D) vectors, padded to a power of two.
        second: (I, NP, D) second vectors of pairs; otherwise `first` again.
        scale: (I, M) float32 factors of the members.
        exists: (I, M) int8, whether a member exists.
        factor: (I,) float32, the level's weight divided by the number of members that are averaged.
        padded: NP.
        in_pairs: whether the members are sums of a first and a second vector.
    """

    first: Tensor
    second: Tensor
    scale: Tensor
    exists: Tensor
    factor: Tensor
    padded: int
    in_pairs: bool


@dataclass
class Fused(Tiles):
    """An `ApproximateScorer` with one kernel per tile; its attributes are those of `Tiles`."""

    image_rows: int = 1024
    text_rows: int = 4096

    name: ClassVar[str] = "triton"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, plan in self.plans.items():
            if plan.members > MEMBERS:
                raise BadInput(
                    f"the backend triton handles up to {MEMBERS} {name} per image, not {plan.members}: "
                    "use --backend torch"
                )

    def images(self, rows: Rows) -> Any:
        return [operands(level, plan) for level, plan in zip(super().images(rows), self.plans.values(), strict=True)]

    def scores(self, images: Any, texts: list[Tensor]) -> Tensor:
        """(I, T) float32 scores, by the kernel with infinite limits, so that every pair is undecided."""
        I, T = len(images[0].first), len(texts[0])
        of_images, of_texts = (
            Limits(*(torch.full((size,), sign * torch.inf, device=texts[0].device) for sign in (-1, 1)))
            for size in (I, T)
        )
        tile = self._launch(images, texts, of_images, of_texts, I * T)
        out = torch.empty(I, T, device=texts[0].device)
        out[tile.rows, tile.columns] = tile.scores
        return out

    def compare(self, images: Any, texts: list[Tensor], of_images: Limits, of_texts: Limits) -> TileCounts:
        pairs = len(of_images.low) * len(of_texts.low)
        return self._launch(images, texts, of_images, of_texts, max(4096, pairs // 8))

    def _launch(
        self, images: Any, texts: list[Tensor], of_images: Limits, of_texts: Limits, capacity: int
    ) -> TileCounts:
        I, T, device = len(of_images.low), len(of_texts.low), texts[0].device
        counts = [torch.zeros(size, dtype=torch.int32, device=device) for size in (I, T, 1)]
        where = [torch.empty(capacity, dtype=torch.int32, device=device) for _ in range(2)]
        scores = torch.empty(capacity, device=device)
        levels = [(level, queries) for level, queries in zip(images, texts, strict=True)]
        levels += [levels[0]] * (3 - len(levels))
        pointers = [
            x
            for level, queries in levels
            for x in (level.first, level.second, queries, level.scale, level.exists, level.factor, queries.shape[1])
        ]
        tops = [plan.top for plan in self.plans.values()] + [1, 1]
        sizes = {
            f"{name}{k}": value
            for k, (level, _) in enumerate(levels)
            for name, value in (("NP", level.padded), ("TOP", tops[k]), ("IN", level.in_pairs))
        }
        grid = triton.cdiv(I, BI), triton.cdiv(T, BT)
        compare_tile[grid](
            *of_images, *of_texts, *counts, *where, scores, capacity, I, T, *pointers,
            LEVELS=len(images), **sizes, BI=BI, BT=BT, BK=BK,
        )  # fmt: skip
        number = int(counts[2])
        if number > capacity:
            return self._launch(images, texts, of_images, of_texts, number)
        rows, columns = (x[:number].long() for x in where)
        return TileCounts(counts[0], counts[1], rows, columns, scores[:number])


def operands(level: ImageLevel, plan: LevelPlan) -> Operands:
    """Arrange one level of a tile image by image, with padding."""
    vectors = level.vectors.transpose(0, 1)
    count, in_pairs = vectors.shape[1], plan.pairs is not None
    halves = (vectors[:, : count // 2], vectors[:, count // 2 :]) if in_pairs else (vectors, vectors)
    n = halves[0].shape[1]
    padded = triton.next_power_of_2(n)
    pad = torch.nn.functional.pad
    first, second = (pad(half, (0, 0, 0, padded - n)).contiguous() for half in halves)
    M = padded**2 if in_pairs else padded
    places = [j * padded + (k - n) for j, k in plan.pairs] if plan.pairs is not None else list(range(n))
    scale = torch.ones(len(first), M, device=first.device)
    exists = torch.zeros(len(first), M, dtype=torch.int8, device=first.device)
    exists[:, places] = 1 if level.exists is None else level.exists[:, :, 0].T.to(torch.int8)
    if level.scale is not None:
        scale[:, places] = level.scale[:, :, 0].T
    return Operands(first, second, scale, exists, level.factor[:, 0].contiguous(), padded, in_pairs)
