"""The backend `triton`: the steps after the matrix products in one Triton kernel; never chosen by `auto`.

So far it has run only in Triton's interpreter, on small problems, and has been compiled for GPUs, but not timed on one.

A program reads the products of BI images and BT texts, adds the scores certainly above the thresholds to the counts of
its images and texts, and appends the undecided pairs to a list.  The scores are never written to memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import triton
import triton.language as tl
from torch import Tensor

from cran_bench.errors import BadInput
from cran_bench.ranking.filtering import Limits, TileCounts, Undecided
from cran_bench.ranking.tiles import UNROLLED, ImageLevel, Tiles

BI, BT, WARPS = 8, 128, 8  # images and texts of a program, and its warps: four pairs for each thread


@triton.jit
def insert(best, x, TOP: tl.constexpr):
    """The TOP largest of TOP sorted tensors and one more, sorted."""
    larger = ()
    for place in tl.static_range(TOP):
        larger = larger + (tl.maximum(best[place], x, propagate_nan=tl.PropagateNan.ALL),)
        x = tl.minimum(best[place], x, propagate_nan=tl.PropagateNan.ALL)
    return larger


@triton.jit
def level(
    products, scale, exists, factor, images, texts, I, T,
    PAIRS: tl.constexpr, M: tl.constexpr, TOP: tl.constexpr, SCALED: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """(BI, BT) contribution of one level to the score, from its (G, I, T) products."""
    is_image = images < I
    there = is_image[:, None] & (texts < T)[None, :]
    plane = I.to(tl.int64) * T
    at = products + images[:, None].to(tl.int64) * T + texts[None, :]
    zeros = tl.load(at, mask=there, other=0.0).to(tl.float32) * 0  # and NaN beyond the images and texts
    best = ()
    for _ in tl.static_range(TOP):
        best = best + (zeros + float("-inf"),)
    for member in tl.static_range(M):
        if PAIRS is None:
            x = tl.load(at + member * plane, mask=there, other=0.0).to(tl.float32)
        else:
            x = tl.load(at + PAIRS[member][0] * plane, mask=there, other=0.0).to(tl.float32)
            x += tl.load(at + PAIRS[member][1] * plane, mask=there, other=0.0).to(tl.float32)
        if SCALED:
            x *= tl.load(scale + member * I + images, mask=is_image, other=0.0)[:, None]
        if MASKED:
            x = tl.where(tl.load(exists + member * I + images, mask=is_image, other=0)[:, None] != 0, x, float("-inf"))
        best = insert(best, x, TOP)
    total = zeros
    for place in tl.static_range(TOP):
        total += tl.where(best[place] == float("-inf"), zeros, best[place]) if MASKED else best[place]
    return total * tl.load(factor + images, mask=is_image, other=0.0)[:, None]


@triton.jit
def compare_tile(
    p0, s0, e0, f0, p1, s1, e1, f1, p2, s2, e2, f2, tolerance, low_i, high_i, low_t, high_t,
    counts_i, counts_t, number, places, scores, codes, base, room, I, T,
    PAIRS0: tl.constexpr, M0: tl.constexpr, TOP0: tl.constexpr, SCALED0: tl.constexpr, MASKED0: tl.constexpr,
    PAIRS1: tl.constexpr, M1: tl.constexpr, TOP1: tl.constexpr, SCALED1: tl.constexpr, MASKED1: tl.constexpr,
    PAIRS2: tl.constexpr, M2: tl.constexpr, TOP2: tl.constexpr, SCALED2: tl.constexpr, MASKED2: tl.constexpr,
    BI: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """Compare one tile of I images and T texts with its limits, as `TileCounts` and `Undecided` describe."""
    images, texts = tl.program_id(1) * BI + tl.arange(0, BI), tl.program_id(0) * BT + tl.arange(0, BT)
    is_image, is_text = images < I, texts < T
    score = level(p0, s0, e0, f0, images, texts, I, T, PAIRS0, M0, TOP0, SCALED0, MASKED0)
    if M1 > 0:
        score += level(p1, s1, e1, f1, images, texts, I, T, PAIRS1, M1, TOP1, SCALED1, MASKED1)
    if M2 > 0:
        score += level(p2, s2, e2, f2, images, texts, I, T, PAIRS2, M2, TOP2, SCALED2, MASKED2)
    there = is_image[:, None] & is_text[None, :]
    error = tl.load(tolerance + images, mask=is_image, other=0.0)[:, None]
    least, most = score - error, score + error
    above_i = there & (least > tl.load(high_i + images, mask=is_image, other=0.0)[:, None])
    above_t = there & (least > tl.load(high_t + texts, mask=is_text, other=0.0)[None, :])
    open_i = there & (most >= tl.load(low_i + images, mask=is_image, other=0.0)[:, None]) & (above_i == 0)
    open_t = there & (most >= tl.load(low_t + texts, mask=is_text, other=0.0)[None, :]) & (above_t == 0)
    tl.atomic_add(counts_i + images, tl.sum(above_i.to(tl.int32), axis=1), mask=is_image)
    tl.atomic_add(counts_t + texts, tl.sum(above_t.to(tl.int32), axis=0), mask=is_text)
    code = tl.reshape(open_i.to(tl.int32) + 2 * open_t.to(tl.int32), (BI * BT,))
    undecided = (code != 0).to(tl.int32)
    count = tl.sum(undecided, axis=0)
    if count > 0:
        where = tl.atomic_add(number, count) + tl.cumsum(undecided, axis=0) - 1
        keeps = (undecided != 0) & (where < room)
        place = images[:, None].to(tl.int64) * T + texts[None, :] + base
        tl.store(places + where, tl.reshape(place, (BI * BT,)), mask=keeps)
        tl.store(scores + where, tl.reshape(score, (BI * BT,)), mask=keeps)
        tl.store(codes + where, code.to(tl.uint8), mask=keeps)


@dataclass
class Fused(Tiles):
    """An `ApproximateScorer` with one kernel after the products; its attributes are those of `Tiles`."""

    name: ClassVar[str] = "triton"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, plan in self.plans.items():
            if plan.members > UNROLLED:
                raise BadInput(
                    f"the backend triton handles up to {UNROLLED} {name} per image, not {plan.members}: "
                    "use --backend torch"
                )

    def compare(
        self, images: list[ImageLevel], texts: list[Tensor], limits: Limits, base: int, undecided: Undecided
    ) -> TileCounts:
        I, T = self.image_rows, self.text_rows
        counts = torch.zeros(I + T + 1, dtype=torch.int32, device=texts[0].device)
        of_images, of_texts, number = counts.split_with_sizes([I, T, 1])
        pointers: list[Tensor] = []
        sizes: dict[str, object] = {}
        levels = list(zip(images, self.products(images, texts), self.plans.values(), strict=True))
        for k in range(3):
            level, products, plan = levels[k] if k < len(levels) else levels[0]
            scale, exists = (level.factor if x is None else x for x in (level.scale, level.exists))
            pointers += [
                products,
                scale,
                exists.view(torch.uint8) if level.exists is not None else exists,
                level.factor,
            ]
            sizes |= {
                f"PAIRS{k}": plan.pairs,
                f"M{k}": plan.members if k < len(levels) else 0,
                f"TOP{k}": plan.top,
                f"SCALED{k}": level.scale is not None,
                f"MASKED{k}": level.exists is not None,
            }
        grid = triton.cdiv(T, BT), triton.cdiv(I, BI)
        compare_tile[grid](
            *pointers, *limits, of_images, of_texts, number, *undecided, base, len(undecided.places), I, T,
            **sizes, BI=BI, BT=BT, num_warps=WARPS,
        )  # fmt: skip
        return TileCounts(of_images, of_texts, number[0])
