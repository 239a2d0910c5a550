"""Similarities a method can declare, and their reference kernels in float64.

`COSINE` and `DOT` compare one vector of an image with one of a text.  `MultiLevel` adds, to the global level, the mean
of the `top` best regions and the mean of the `top` best ordered region pairs (CRAN, Eq. 11).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from cran_bench.embeddings import (
    Embedding,
    Levels,
    Relations,
    Rows,
    _inverse_lengths,
    _lengths,
    as_levels,
    both_exist,
    pair_lengths,
    pairs_by_count,
    unit,
)
from cran_bench.errors import BadInput


class LevelReach(NamedTuple):
    """What one level adds at most to a score: weight x images x texts.

    Attributes:
        weight: of the level, at least 0.
        dim: D of its vectors.
        images: (N,) float64, the length of an image's longest vector, or of first and second of a relation over norm.
        texts: (T,) float64, the length of the text's.
    """

    weight: float
    dim: int
    images: Tensor
    texts: Tensor


class Reach(NamedTuple):
    """How large scores can get, and so how far evaluations of one score in some arithmetic can differ.

    An inner product of D terms, evaluated in any order, is off by at most about D u |x| |y|, for a unit roundoff u.
    """

    levels: tuple[LevelReach, ...]

    def rows(self, rows: Rows, columns: Rows) -> Reach:
        """Of some images and texts."""
        return Reach(
            tuple(level._replace(images=level.images[rows], texts=level.texts[columns]) for level in self.levels)
        )

    def of_all(self, rows: Rows, columns: Rows, unit: Callable[[int], float]) -> Tensor:
        """(I, T) bounds of all pairs of some images and texts, where a product of D terms is off by `unit(D)`."""
        return torch.stack(
            [unit(level.dim) * level.weight * level.images[rows, None] * level.texts[columns] for level in self.levels]
        ).sum(dim=0)

    def of_pairs(self, rows: Rows, columns: Rows, unit: Callable[[int], float]) -> Tensor:
        """(P,) likewise, of pairs row by row."""
        return torch.stack(
            [unit(level.dim) * level.weight * level.images[rows] * level.texts[columns] for level in self.levels]
        ).sum(dim=0)


def rounding(dim: int) -> float:
    """How far two float64 evaluations of a product of unit vectors differ at most: what is closer is tied.

    Embeddings are float32, so distinct scores are many orders further apart.
    """
    return 8 * dim * torch.finfo(torch.float64).eps


# Image vectors (N, R, D) times text vectors: (N, R, T) for all pairs, (N, R, n) for each image's own n of N n texts.
Product: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def _all_pairs(vectors: Tensor, texts: Tensor) -> Tensor:
    n, r, d = vectors.shape
    return (vectors.reshape(n * r, d) @ texts.T).view(n, r, len(texts))


def _own_texts(vectors: Tensor, texts: Tensor) -> Tensor:
    return vectors @ texts.view(len(vectors), -1, texts.shape[-1]).mT


def _own_directions(vectors: Tensor, texts: Tensor) -> Tensor:
    """With texts of any length, as if they were unit: dividing products is cheaper than dividing vectors."""
    return _own_texts(vectors, texts) * _inverse_lengths(texts).view(len(vectors), 1, -1)


@dataclass(frozen=True)
class Similarity:
    """One vector per image and per text.

    Attributes:
        cosine: every vector is divided by its length; a zero vector stays zero and scores 0.
    """

    cosine: bool

    def prepare(self, embedding: Embedding, dtype: torch.dtype = torch.float64) -> Levels:
        """A block of embeddings in float64, normalised if this is a cosine."""
        levels = as_levels(embedding).map(lambda x: x if x.dtype == torch.bool else x.to(dtype))
        if not self.cosine:
            return levels
        relations = levels.relations
        if isinstance(relations, Relations):
            lengths = pair_lengths(relations).to(dtype)
            relations = replace(relations, norm=lengths.clamp_min(torch.finfo(dtype).tiny))
        elif relations is not None:
            relations = unit(relations)
        return replace(
            levels,
            globals=None if levels.globals is None else unit(levels.globals),
            regions=None if levels.regions is None else unit(levels.regions),
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

    def own_scores(self, images: Embedding, texts: Embedding, dtype: torch.dtype = torch.float64) -> Tensor:
        """Each of N images with n texts of its own, rows i n to i n + n - 1 of N n: (N, n), as `scores`."""
        queries = as_levels(texts).map(lambda x: x.to(dtype))
        return self._combine(self.prepare(images, dtype), queries, _own_directions if self.cosine else _own_texts)

    def reach(self, images: Embedding, texts: Embedding, lengths: Tensor | None = None) -> Reach:
        """How large the scores of N images and T texts can get, see `Reach`; `lengths` are `pair_lengths` if known."""
        left, right = as_levels(images), as_levels(texts)
        found = []
        for weight, image, text in zip(
            self.level_weights(),
            (left.globals, left.regions, left.relations),
            (right.globals, right.regions, right.relations),
            strict=True,
        ):
            if image is not None and isinstance(text, Tensor):
                longest = (
                    self._pair_reach(image, left.mask, lengths) if isinstance(image, Relations) else self._reach(image)
                )
                found.append(LevelReach(abs(weight), text.shape[-1], longest, self._reach(text)))
        return Reach(tuple(found))

    def check(self, images: Embedding, texts: Embedding) -> None:
        """Refuse embeddings that do not fit this similarity or each other.

        Raises:
            BadInput: other levels on the two sides, other dimensions, a level this similarity does not read, tensors of
                several dtypes or devices, or of another dtype than float32 and float64.
        """
        left, right = as_levels(images), as_levels(texts)
        for side, levels in (("images", left), ("texts", right)):
            counts = sorted({len(x) for x in (*levels.tensors(), *([levels.mask] if levels.mask is not None else []))})
            if len(counts) > 1:
                raise BadInput(
                    f"levels of {side} have {' and '.join(map(str, counts))} rows; give one for each of them"
                )
        if left.mask is not None and left.mask.dtype != torch.bool:
            raise BadInput(
                f"the mask is {str(left.mask.dtype).removeprefix('torch.')}; give bool, True where a region exists"
            )
        tensors = [*left.tensors(), *right.tensors()]
        if min(x.shape[-1] for x in tensors) == 0:
            raise BadInput("embeddings have no dimensions; give vectors of at least one")
        dtypes = sorted({str(x.dtype).removeprefix("torch.") for x in tensors})
        devices = sorted({str(x.device) for x in tensors})
        for what, found in (("dtype", dtypes), ("device", devices)):
            if len(found) > 1:
                raise BadInput(
                    f"embeddings of {' and '.join(found)}: give images and texts, on every level, one {what}"
                )
        if dtypes[0] not in ("float32", "float64"):
            raise BadInput(f"embeddings are {dtypes[0]}; give float32")
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
            return torch.ones(1, dtype=torch.float64, device=level.device).expand(len(level))
        lengths = _lengths(level).reshape(len(level), -1)
        return lengths.max(dim=1).values if lengths.shape[1] else lengths.sum(dim=1)

    def _pair_reach(self, relations: Relations, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        """(rows,) the largest (|first_j| + |second_k|) / norm_jk of the pairs that exist."""
        first, second = _lengths(relations.first), _lengths(relations.second)
        reach = first[:, :, None] + second[:, None]
        if self.cosine:
            reach = reach / (pair_lengths(relations) if lengths is None else lengths).clamp_min(1e-300)
        elif relations.norm is not None:
            reach = reach / relations.norm.double().abs()
        pairs = relations.pairs()
        reach = reach[:, pairs[:, 0], pairs[:, 1]]
        if mask is not None:
            reach = reach.masked_fill(~both_exist(mask, pairs), 0.0)
        largest: Tensor = reach.max(dim=1).values if reach.shape[1] else reach.sum(dim=1)
        return largest

    def level_weights(self) -> tuple[float, float, float]:
        """Of the global, region and relation level."""
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

    def level_weights(self) -> tuple[float, float, float]:
        """See `weights`."""
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
            pairs = None if mask is None else pairs_by_count(mask.shape[1], relations.shape[1]).to(mask.device)
            scores = product(relations, texts)
        else:
            first, second = product(relations.first, texts), product(relations.second, texts)
            pairs = relations.pairs()
            scores = first[:, pairs[:, 0]] + second[:, pairs[:, 1]]
            if relations.norm is not None:
                scores = scores / relations.norm[:, pairs[:, 0], pairs[:, 1]][:, :, None]
        return scores, None if mask is None or pairs is None else both_exist(mask, pairs)

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


def mean_by_image(texts: Embedding, image_of: Tensor, images: int, similarity: Similarity) -> Embedding:
    """Average the text embeddings of each image (protocol `mean`); under a cosine the vectors are unit before.

    Shapes: T text rows and (T,) owners to `images` rows.
    """
    counts = torch.bincount(image_of, minlength=images).clamp_min(1)

    def mean(x: Tensor) -> Tensor:
        x = unit(x.double()) if similarity.cosine else x.double()
        total = torch.zeros(images, x.shape[1], dtype=torch.float64, device=x.device).index_add_(0, image_of, x)
        return (total / counts[:, None]).float()

    averaged = as_levels(texts).map(mean)
    return averaged if isinstance(texts, Levels) else averaged.tensors()[0]


COSINE = Similarity(cosine=True)


DOT = Similarity(cosine=False)
