"""Embeddings on up to three levels, as methods give them: whole images, regions and pairs of regions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from cran_bench.errors import BadInput

BLOCK = 4096  # rows that are looked at together


Rows: TypeAlias = slice | Tensor
"""Some rows of a tensor: a slice, or their numbers."""


PairKind: TypeAlias = Literal["ordered", "unordered", "all"]


@dataclass(frozen=True)
class Relations:
    """Region pairs of N images kept factored: r_jk = (first_j + second_k) / norm_jk.

    A linear layer on the concatenation [l_j; l_k] is such a sum, so n + n vectors stand for n(n - 1).

    Attributes:
        first: (N, n, D).
        second: (N, n, D); a bias belongs into one of the two.
        norm: (N, n, n) positive divisors, unused where (j, k) is no pair; None for no division.
        kind: which (j, k) are pairs, see `region_pairs`.
    """

    first: Tensor
    second: Tensor
    norm: Tensor | None = None
    kind: PairKind = "ordered"

    def rows(self, rows: Rows) -> Relations:
        """The relations of some images."""
        return self.map(lambda x: take(x, rows))

    def map(self, function: Callable[[Tensor], Tensor]) -> Relations:
        """`function` applied to every tensor."""
        norm = None if self.norm is None else function(self.norm)
        return Relations(function(self.first), function(self.second), norm, self.kind)

    def pairs(self) -> Tensor:
        """(P, 2) region indices, on the device of the vectors."""
        return region_pairs(self.first.shape[1], self.kind).to(self.first.device)


@dataclass(frozen=True)
class Levels:
    """Embeddings on up to three levels; a level left out is None on both sides.

    Attributes:
        globals: (N, D) for images and for texts.
        regions: (N, n, D) for images, (T, D) for texts.
        relations: `Relations`, or (N, P, D) in the order of `region_pairs`, for images; (T, D) for texts.
        mask: (N, n) bool for images, True where a region exists; None for all.
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
        """Every tensor of embeddings held, without norms and masks."""
        found: list[Tensor] = []
        for level in (self.globals, self.regions, self.relations):
            if isinstance(level, Relations):
                found += [level.first, level.second]
            elif level is not None:
                found.append(level)
        return found

    def rows(self, rows: Rows) -> Levels:
        """The embeddings of some images or texts."""
        return self.map(lambda x: take(x, rows))

    def map(self, function: Callable[[Tensor], Tensor]) -> Levels:
        """`function` applied to every tensor, norms and mask included."""
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


def as_levels(embedding: Embedding) -> Levels:
    """A plain (N, D) tensor is the global level alone."""
    return embedding if isinstance(embedding, Levels) else Levels(globals=embedding)


def require_finite(embedding: Embedding, what: str) -> tuple[float, float]:
    """Refuse NaN and infinite values.

    Returns:
        The largest coordinate of the smallest vector that is not zero, and that of the largest vector; 1 if all are 0.

    Raises:
        BadInput: naming `what`, the first bad row and how many there are.
    """
    smallest, largest = 1.0, 1.0
    for tensor in as_levels(embedding).tensors():
        if not tensor.numel():
            continue
        some = (
            torch.linalg.vector_norm(block, torch.inf, dim=-1) for block in torch.split(tensor, BLOCK)
        )  # they are copied
        sizes = torch.cat(list(some)).reshape(len(tensor), -1)
        bad = (~torch.isfinite(sizes)).any(dim=1).nonzero().flatten()
        if len(bad):
            raise BadInput(
                f"{what}: {len(bad)} of {len(tensor)} vectors contain NaN or infinity, the first is {bad[0]}"
            )
        found = sizes[sizes > 0]
        if len(found):
            smallest, largest = min(smallest, float(found.min())), max(largest, float(found.max()))
    return smallest, largest


def region_pairs(regions: int, kind: PairKind = "ordered") -> Tensor:
    """(P, 2) region indices (j, k), row-major.

    ``ordered`` gives every j != k, n(n - 1) of them: (0, 1), (0, 2), ... (1, 0), ...; ``unordered`` those with j < k;
    ``all`` every (j, k), also a region with itself.
    """
    j, k = torch.meshgrid(torch.arange(regions), torch.arange(regions), indexing="ij")
    pairs = torch.stack([j.flatten(), k.flatten()], dim=1)
    wanted = {"ordered": pairs[:, 0] != pairs[:, 1], "unordered": pairs[:, 0] < pairs[:, 1]}
    return pairs[wanted[kind]] if kind != "all" else pairs


def pairs_by_count(regions: int, count: int) -> Tensor:
    """The pairs of which there are `count`."""
    for kind in get_args(PairKind):
        pairs = region_pairs(regions, kind)
        if len(pairs) == count:
            return pairs
    raise BadInput(
        f"{count} relations cannot be the pairs of {regions} regions; give them in the order of region_pairs"
    )


def take(x: Tensor, rows: Rows) -> Tensor:
    """Some rows of a tensor."""
    return x[rows] if isinstance(rows, slice) else x.index_select(0, rows.to(x.device))


def rows_of(embedding: Embedding, rows: Rows) -> Embedding:
    """Some rows of a tensor or of levels."""
    return embedding.rows(rows) if isinstance(embedding, Levels) else take(embedding, rows)


def on_device(embedding: Embedding, device: torch.device) -> Embedding:
    """The embedding on a device."""
    moved = as_levels(embedding).map(lambda x: x.to(device))
    return moved if isinstance(embedding, Levels) else moved.tensors()[0]


def both_exist(mask: Tensor, pairs: Tensor) -> Tensor:
    """(N, P) bool, which region pairs (P, 2) of images with such masks (N, n) exist."""
    return mask[:, pairs[:, 0]] & mask[:, pairs[:, 1]]


def pair_lengths(relations: Relations, block: int = 64) -> Tensor:
    """(N, n, n) float64 |first_j + second_k|, from so many images at a time.

    From |first_j|^2 + |second_k|^2 + 2 first_j' second_k, but of images with a pair that nearly cancels, from the sums.
    """
    found = []
    for start in range(0, len(relations.first), block):
        rows = slice(start, start + block)
        first, second = relations.first[rows].double(), relations.second[rows].double()
        alone = first.square().sum(dim=2)[:, :, None] + second.square().sum(dim=2)[:, None]
        squares = alone + 2 * first @ second.mT
        found.append(squares.clamp_min(0).sqrt())
        for image in (squares < 0.1 * alone).any(dim=2).any(dim=1).nonzero().flatten().tolist():
            found[-1][image] = _lengths(first[image][:, None] + second[image])
    return torch.cat(found) if found else relations.first.new_empty(0, *[relations.first.shape[1]] * 2).double()


def _lengths(x: Tensor) -> Tensor:
    """Of vectors along the last dimension, float64."""
    lengths: Tensor = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64)
    return lengths


def unit(x: Tensor) -> Tensor:
    """Vectors over their lengths; a zero vector stays zero."""
    return x * _inverse_lengths(x)[..., None]


def _inverse_lengths(x: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(x, dim=-1)
    return torch.where(lengths > 0, 1 / lengths, 0.0)
