"""Embeddings on up to three levels, as methods return them: whole images, regions and pairs of regions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from cran_bench.errors import BadInput, kind_of

BLOCK = 4096  # rows checked at once
PAIRS = 1 << 28  # numbers in vectors of pairs that a GPU holds at once

Rows: TypeAlias = slice | Tensor
"""Selected rows of a tensor: a slice, or a tensor of row numbers."""

PairKind: TypeAlias = Literal["ordered", "unordered", "all"]


@dataclass(frozen=True)
class Relations:
    """Embeddings of the region pairs of N images in factored form: r_jk = (first_j + second_k) / norm_jk.

    A linear layer on the concatenation [l_j; l_k] has this form, so 2n vectors represent n(n - 1) pairs.

    Attributes:
        first: (N, n, D) float32, the term of the first region.
        second: (N, n, D) float32, the term of the second region; a bias goes into one of the two terms.
        norm: (N, n, n) positive divisors, ignored where (j, k) is not a pair; None for no division.
        kind: which (j, k) are pairs, as in `region_pairs`.
    """

    first: Tensor
    second: Tensor
    norm: Tensor | None = None
    kind: PairKind = "ordered"

    def rows(self, rows: Rows) -> Relations:
        """Return the relations of selected images."""
        return self.map(lambda x: take(x, rows))

    def map(self, function: Callable[[Tensor], Tensor]) -> Relations:
        """Apply `function` to every tensor."""
        norm = None if self.norm is None else function(self.norm)
        return Relations(function(self.first), function(self.second), norm, self.kind)

    def pairs(self) -> Tensor:
        """Return the (P, 2) int64 region indices of the pairs, on the device of the vectors."""
        return region_pairs(self.first.shape[1], self.kind).to(self.first.device, non_blocking=True)


@dataclass(frozen=True)
class Levels:
    """Embeddings of N images or T texts on up to three levels; a level that is not used is None on both sides.

    Attributes:
        globals: (N, D) float32 for images, (T, D) for texts.
        regions: (N, n, D) float32 for images, (T, D) for texts.
        relations: for images `Relations`, or (N, P, D) float32 in the order of `region_pairs`; (T, D) for texts.
        mask: (N, n) bool for images, True where a region exists; None if all exist.

    For a pair scorer (`Pairwise`) both sides may be sets of vectors: `regions` of texts are then (T, L, D), such as the
    vectors of their words, and `mask` is (T, L).

    Raises:
        BadInput: all three levels are None.
    """

    globals: Tensor | None = None
    regions: Tensor | None = None
    relations: Tensor | Relations | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if all(level is None for level in (self.globals, self.regions, self.relations)):
            raise BadInput("Levels needs at least one of globals, regions and relations")

    def __len__(self) -> int:
        return len(self.tensors()[0])

    def tensors(self) -> list[Tensor]:
        """Return all tensors of embeddings, without norms and masks."""
        tensors: list[Tensor] = []
        for level in (self.globals, self.regions, self.relations):
            if isinstance(level, Relations):
                tensors += [level.first, level.second]
            elif level is not None:
                tensors.append(level)
        return tensors

    def rows(self, rows: Rows) -> Levels:
        """Return the embeddings of selected images or texts."""
        return self.map(lambda x: take(x, rows))

    def map(self, function: Callable[[Tensor], Tensor]) -> Levels:
        """Apply `function` to every tensor, norms and mask included."""
        relations = self.relations
        if isinstance(relations, Relations):
            relations = relations.map(function)
        elif relations is not None:
            relations = function(relations)
        return Levels(
            None if self.globals is None else function(self.globals),
            None if self.regions is None else function(self.regions),
            relations,
            None if self.mask is None else function(self.mask),
        )


Embedding: TypeAlias = Tensor | Levels
"""What a method returns: (N, D) rows, or `Levels`."""


def as_levels(embedding: Embedding) -> Levels:
    """Return the embedding as `Levels`; a plain (N, D) tensor becomes the global level."""
    return embedding if isinstance(embedding, Levels) else Levels(globals=embedding)


def no_tensor(embedding: object) -> str:
    """Say what is given in place of a tensor, such as ``"a numpy array"``; '' if every level is a tensor."""
    values = embedding.tensors() if isinstance(embedding, Levels) else [embedding]
    return next((kind_of(value) for value in values if not isinstance(value, Tensor)), "")


def require_finite(embedding: Embedding, what: str) -> None:
    """Reject NaN and infinite values.

    Raises:
        BadInput: a vector contains NaN or infinity; the message starts with `what` and names the first such row.
    """
    for tensor in as_levels(embedding).tensors():
        bad = (~torch.isfinite(maxima(tensor))).nonzero().flatten() // max(1, tensor.shape[1:-1].numel())
        if len(bad):
            count = len(set(bad.tolist()))
            raise BadInput(f"{what}: {count} of {len(tensor)} vectors contain NaN or infinity, the first is {bad[0]}")


def maxima(x: Tensor) -> Tensor:
    """Return (V,) the maximum norms of all vectors of a tensor, in blocks, since vector_norm copies its argument."""
    blocks = torch.split(x, BLOCK) if x.numel() else []
    return torch.cat([torch.linalg.vector_norm(x, torch.inf, dim=-1).flatten() for x in blocks] or [x.flatten()])


def region_pairs(regions: int, kind: PairKind = "ordered") -> Tensor:
    """Return the pairs (j, k) of n regions in row-major order.

    Args:
        regions: n.
        kind: ``ordered`` for all n(n - 1) pairs with j != k: (0, 1), (0, 2), ..., (1, 0), ...; ``unordered`` for those
            with j < k; ``all`` for all n^2 pairs, each region with itself included.

    Returns:
        (P, 2) int64 region indices.
    """
    j, k = torch.meshgrid(torch.arange(regions), torch.arange(regions), indexing="ij")
    pairs = torch.stack([j.flatten(), k.flatten()], dim=1)
    wanted = {"ordered": pairs[:, 0] != pairs[:, 1], "unordered": pairs[:, 0] < pairs[:, 1]}
    return pairs[wanted[kind]] if kind != "all" else pairs


def pairs_by_count(regions: int, count: int) -> Tensor:
    """Return the region pairs, (count, 2) int64, of the kind that has `count` of them.

    Raises:
        BadInput: no kind of pairs has `count` members.
    """
    for kind in get_args(PairKind):
        pairs = region_pairs(regions, kind)
        if len(pairs) == count:
            return pairs
    raise BadInput(
        f"expected one relation for each pair of {regions} regions, got {count}; give them in the order of region_pairs"
    )


def take(x: Tensor, rows: Rows) -> Tensor:
    """Return selected rows of a tensor."""
    return x[rows] if isinstance(rows, slice) else x.index_select(0, rows.to(x.device))


def rows_of(embedding: Embedding, rows: Rows) -> Embedding:
    """Return selected rows of an embedding."""
    return embedding.rows(rows) if isinstance(embedding, Levels) else take(embedding, rows)


def on_device(embedding: Embedding, device: torch.device) -> Embedding:
    """Move an embedding to a device."""
    moved = as_levels(embedding).map(lambda x: x.to(device))
    return moved if isinstance(embedding, Levels) else moved.tensors()[0]


def both_exist(mask: Tensor, pairs: Tensor) -> Tensor:
    """Return (N, P) bool, True where both regions of a pair exist, from masks (N, n) and pairs (P, 2)."""
    return mask[:, pairs[:, 0]] & mask[:, pairs[:, 1]]


def pair_lengths(relations: Relations) -> Tensor:
    """Return (N, n, n) float64, the lengths |first_j + second_k|, computed in blocks of images."""
    first, second = relations.first, relations.second
    # a GPU takes few kernels, and on a CPU vectors stay in the caches
    block, several = (2 * BLOCK, PAIRS // (2 * BLOCK * first.shape[1:].numel() + 1) + 1) if first.is_cuda else (64, 1)
    lengths = []
    for start in range(0, max(1, len(first)), block):
        left, right = (x[start : start + block].double() for x in (first, second))
        pairs = (part[:, :, None] + right[:, None] for part in torch.split(left, several, dim=1))
        lengths.append(torch.cat([torch.linalg.vector_norm(x, dim=-1) for x in pairs], dim=1))
    return torch.cat(lengths)


def vector_lengths(levels: Levels) -> Tensor:
    """Return (rows, V) float64, the lengths of all vectors of a row, tensor by tensor; computed in blocks of rows."""
    block = max(1, len(levels)) if levels.tensors()[0].is_cuda else 256  # a CPU copies them to float64
    lengths = []
    for start in range(0, max(1, len(levels)), block):
        rows = slice(start, start + block)
        parts = [torch.linalg.vector_norm(x[rows], dim=-1, dtype=torch.float64) for x in levels.tensors()]
        lengths.append(torch.cat([x if x.dim() == 2 else x[:, None] for x in parts], dim=1))
    return torch.cat(lengths)


def unit(x: Tensor) -> Tensor:
    """Scale vectors along the last dimension to unit length; a zero vector stays zero."""
    lengths: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * lengths.reciprocal().nan_to_num(nan=torch.nan, posinf=0.0)
