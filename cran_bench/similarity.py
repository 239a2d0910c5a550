"""Similarities a method can declare, and their reference kernels in float64.

`COSINE` and `DOT` compare one vector of an image with one of a text.  `MultiLevel` adds, to the global level, the mean
of the `top` best regions and the mean of the `top` best ordered region pairs (CRAN, Eq. 11).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from cran_bench.errors import BadInput

Rows: TypeAlias = slice | Tensor
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
        return self.map(lambda x: x[rows])

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
        return self.map(lambda x: x[rows])

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


def require_finite(embedding: Embedding, what: str) -> None:
    """Refuse NaN and infinite values.

    Raises:
        BadInput: naming `what`, the first bad row and how many there are.
    """
    for tensor in as_levels(embedding).tensors():
        bad = (~torch.isfinite(tensor.reshape(len(tensor), -1))).any(dim=1).nonzero().flatten()
        if len(bad):
            raise BadInput(
                f"{what}: {len(bad)} of {len(tensor)} vectors contain NaN or infinity, the first is {bad[0]}"
            )


# Image vectors (N, R, D) times text vectors: (N, R, T) for all pairs, (N, R, 1) for row-wise pairs.
Product: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def _all_pairs(vectors: Tensor, texts: Tensor) -> Tensor:
    n, r, d = vectors.shape
    return (vectors.reshape(n * r, d) @ texts.T).view(n, r, len(texts))


def _row_pairs(vectors: Tensor, texts: Tensor) -> Tensor:
    return (vectors * texts[:, None]).sum(-1, keepdim=True)


@dataclass(frozen=True)
class Similarity:
    """One vector per image and per text.

    Attributes:
        cosine: every vector is divided by its length; a zero vector stays zero and scores 0.
    """

    cosine: bool

    def prepare(self, embedding: Embedding) -> Levels:
        """A block of embeddings in float64, normalised if this is a cosine."""
        levels = as_levels(embedding).map(lambda x: x if x.dtype == torch.bool else x.double())
        if not self.cosine:
            return levels
        relations = levels.relations
        if isinstance(relations, Relations):
            lengths = (relations.first[:, :, None] + relations.second[:, None]).norm(dim=-1)
            relations = replace(relations, norm=lengths.clamp_min(1e-300))
        elif relations is not None:
            relations = _unit(relations)
        return replace(
            levels,
            globals=None if levels.globals is None else _unit(levels.globals),
            regions=None if levels.regions is None else _unit(levels.regions),
            relations=relations,
        )

    def scores(self, images: Embedding, texts: Embedding) -> Tensor:
        """All pairs of a block of N images and T texts: (N, T) float64, larger is more similar."""
        return self._combine(self.prepare(images), self.prepare(texts), _all_pairs)

    def scores_as_given(self, images: Levels, texts: Levels) -> Tensor:
        """All pairs in the embeddings' own precision, not normalised, with gradients: for training.

        Shapes: N image rows and T text rows to (N, T).
        """
        return self._combine(images, texts, _all_pairs)

    def paired(self, images: Embedding, texts: Embedding) -> Tensor:
        """Row-wise pairs of N images and N texts: (N,) float64, equal to `scores` up to `rounding`."""
        return self._combine(self.prepare(images), self.prepare(texts), _row_pairs).squeeze(1)

    def rounding(self, images: Embedding, texts: Embedding, paired: bool = False) -> Tensor:
        """How far two float64 evaluations of one score can differ: scores closer than this are tied.

        The inputs are float32, so distinct scores are many orders further apart.  gamma_D |w x| |y| summed over levels.

        Returns:
            A bound for each pair of a block, broadcastable to (N, T), or to (N,) for row-wise pairs.
        """
        left, right = as_levels(images), as_levels(texts)
        total = torch.zeros(1 if paired else (1, 1), dtype=torch.float64, device=left.tensors()[0].device)
        for weight, image, text in zip(
            self._level_weights(),
            (left.globals, left.regions, left.relations),
            (right.globals, right.regions, right.relations),
            strict=True,
        ):
            if image is None or not isinstance(text, Tensor):
                continue
            reach = self._pair_reach(image, left.mask) if isinstance(image, Relations) else self._reach(image)
            gamma = 4 * text.shape[-1] * torch.finfo(torch.float64).eps * abs(weight)
            total = total + gamma * (reach if paired else reach[:, None]) * self._reach(text)
        return total

    def check(self, images: Embedding, texts: Embedding) -> None:
        """Refuse embeddings that do not fit this similarity or each other.

        Raises:
            BadInput: other levels on the two sides, other dimensions, or a level this similarity does not read.
        """
        left, right = as_levels(images), as_levels(texts)
        for name in ("globals", "regions", "relations"):
            a, b = getattr(left, name), getattr(right, name)
            if (a is None) != (b is None):
                raise BadInput(
                    f"the {name} level is given for {'texts' if a is None else 'images'} only; give both sides"
                )
            if a is None:
                continue
            if name != "globals" and not isinstance(self, MultiLevel):
                raise BadInput(f"the {name} level needs similarity = MultiLevel(...), not COSINE or DOT")
            image_dim = (a.first if isinstance(a, Relations) else a).shape[-1]
            if image_dim != b.shape[-1]:
                raise BadInput(
                    f"images have {image_dim} and texts {b.shape[-1]} dimensions on the {name} level; they must agree"
                )

    def _reach(self, level: Tensor) -> Tensor:
        """(rows,) the length of each row's longest vector; 1 under a cosine."""
        if self.cosine:
            return torch.ones(1, dtype=torch.float64, device=level.device)
        lengths: Tensor = level.double().norm(dim=-1).reshape(len(level), -1)
        return lengths.max(dim=1).values if lengths.shape[1] else lengths.sum(dim=1)

    def _pair_reach(self, relations: Relations, mask: Tensor | None) -> Tensor:
        """(rows,) the largest (|first_j| + |second_k|) / norm_jk of the pairs that exist; 2 under a cosine."""
        if self.cosine:
            return torch.full((1,), 2.0, dtype=torch.float64, device=relations.first.device)
        first, second = relations.first.double().norm(dim=-1), relations.second.double().norm(dim=-1)
        reach = first[:, :, None] + second[:, None]
        if relations.norm is not None:
            reach = reach / relations.norm.double().abs()
        pairs = relations.pairs()
        reach = reach[:, pairs[:, 0], pairs[:, 1]]
        if mask is not None:
            reach = reach.masked_fill(~_both_exist(mask, pairs), 0.0)
        largest: Tensor = reach.max(dim=1).values if reach.shape[1] else reach.sum(dim=1)
        return largest

    def _level_weights(self) -> tuple[float, float, float]:
        return (1.0, 1.0, 1.0)

    def _combine(self, images: Levels, texts: Levels, product: Product) -> Tensor:
        assert images.globals is not None and texts.globals is not None
        return product(images.globals[:, None], texts.globals)[:, 0]


@dataclass(frozen=True)
class MultiLevel(Similarity):
    """Sum over levels: global + mean of the `top` best regions + mean of the `top` best region pairs (CRAN, Eq. 11).

    Regions that are masked never count: the mean is over min(top, existing) of them, and a level without any adds 0.

    Attributes:
        top: K of Eq. 11.
        weights: of the global, region and relation level.
    """

    cosine: bool = False
    top: int = 3
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.top < 1:
            raise BadInput(f"MultiLevel: top is a number of regions, at least 1, not {self.top}")

    def _level_weights(self) -> tuple[float, float, float]:
        return self.weights

    def _combine(self, images: Levels, texts: Levels, product: Product) -> Tensor:
        total: Tensor | float = 0.0
        if images.globals is not None and texts.globals is not None:
            total = self.weights[0] * product(images.globals[:, None], texts.globals)[:, 0]
        if images.regions is not None and texts.regions is not None:
            scores = product(images.regions, texts.regions)
            total = total + self.weights[1] * self._top_mean(scores, images.mask)
        if images.relations is not None and isinstance(texts.relations, Tensor):
            scores, valid = self._relation_scores(images, texts.relations, product)
            total = total + self.weights[2] * self._top_mean(scores, valid)
        assert isinstance(total, Tensor)
        return total

    def members(self, images: Embedding, texts: Embedding) -> dict[str, tuple[Tensor, Tensor | None]]:
        """What the means over the `top` best are taken of, as far as the levels are there.

        Returns:
            For `regions` and `relations`, (N, R, T) scores without the level's weight, and (N, R) which exist or None.
        """
        left, right = self.prepare(images), self.prepare(texts)
        found: dict[str, tuple[Tensor, Tensor | None]] = {}
        if left.regions is not None and right.regions is not None:
            found["regions"] = _all_pairs(left.regions, right.regions), left.mask
        if left.relations is not None and isinstance(right.relations, Tensor):
            found["relations"] = self._relation_scores(left, right.relations, _all_pairs)
        return found

    def _relation_scores(self, images: Levels, texts: Tensor, product: Product) -> tuple[Tensor, Tensor | None]:
        relations, mask = images.relations, images.mask
        if not isinstance(relations, Relations):
            assert relations is not None
            pairs = None if mask is None else _pairs_by_count(mask.shape[1], relations.shape[1]).to(mask.device)
            scores = product(relations, texts)
        else:
            first, second = product(relations.first, texts), product(relations.second, texts)
            pairs = relations.pairs()
            scores = first[:, pairs[:, 0]] + second[:, pairs[:, 1]]
            if relations.norm is not None:
                scores = scores / relations.norm[:, pairs[:, 0], pairs[:, 1]][:, :, None]
        return scores, None if mask is None or pairs is None else _both_exist(mask, pairs)

    def _top_mean(self, scores: Tensor, valid: Tensor | None) -> Tensor:
        """(N, R, T) scores and (N, R) validity to (N, T)."""
        if scores.shape[1] == 0:
            return scores.sum(dim=1)
        top = min(self.top, scores.shape[1])
        if valid is None:
            return scores.topk(top, dim=1).values.mean(dim=1)
        best = scores.masked_fill(~valid[:, :, None], -torch.inf).topk(top, dim=1).values
        count = valid.sum(dim=1).clamp(1, top)
        return best.masked_fill(best == -torch.inf, 0.0).sum(dim=1) / count[:, None]


def region_pairs(regions: int, kind: PairKind = "ordered") -> Tensor:
    """(P, 2) region indices (j, k), row-major.

    ``ordered`` gives every j != k, n(n - 1) of them: (0, 1), (0, 2), ... (1, 0), ...; ``unordered`` those with j < k;
    ``all`` every (j, k), also a region with itself.
    """
    j, k = torch.meshgrid(torch.arange(regions), torch.arange(regions), indexing="ij")
    pairs = torch.stack([j.flatten(), k.flatten()], dim=1)
    wanted = {"ordered": pairs[:, 0] != pairs[:, 1], "unordered": pairs[:, 0] < pairs[:, 1]}
    return pairs[wanted[kind]] if kind != "all" else pairs


def _pairs_by_count(regions: int, count: int) -> Tensor:
    """The pairs of which there are `count`."""
    for kind in get_args(PairKind):
        pairs = region_pairs(regions, kind)
        if len(pairs) == count:
            return pairs
    raise BadInput(
        f"{count} relations cannot be the pairs of {regions} regions; give them in the order of region_pairs"
    )


def mean_by_image(texts: Embedding, image_of: Tensor, images: int, similarity: Similarity) -> Embedding:
    """Average the text embeddings of each image (protocol `mean`); under a cosine the vectors are unit before.

    Shapes: T text rows and (T,) owners to `images` rows.
    """
    counts = torch.bincount(image_of, minlength=images).clamp_min(1)

    def mean(x: Tensor) -> Tensor:
        x = _unit(x.double()) if similarity.cosine else x.double()
        total = torch.zeros(images, x.shape[1], dtype=torch.float64, device=x.device).index_add_(0, image_of, x)
        return (total / counts[:, None]).float()

    averaged = as_levels(texts).map(mean)
    return averaged if isinstance(texts, Levels) else averaged.tensors()[0]


def rows_of(embedding: Embedding, rows: Rows) -> Embedding:
    """Some rows of a tensor or of levels."""
    return embedding.rows(rows) if isinstance(embedding, Levels) else embedding[rows]


def on_device(embedding: Embedding, device: torch.device) -> Embedding:
    """The embedding on a device."""
    moved = as_levels(embedding).map(lambda x: x.to(device))
    return moved if isinstance(embedding, Levels) else moved.tensors()[0]


def _both_exist(mask: Tensor, pairs: Tensor) -> Tensor:
    return mask[:, pairs[:, 0]] & mask[:, pairs[:, 1]]


def _unit(x: Tensor) -> Tensor:
    length: Tensor = x.norm(dim=-1, keepdim=True)
    return x / length.clamp_min(1e-300)


COSINE = Similarity(cosine=True)
DOT = Similarity(cosine=False)
