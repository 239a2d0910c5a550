"""The similarities a method can declare, and their reference kernels in float64.

`COSINE` and `DOT` compare one vector per image with one vector per text.  `MultiLevel` adds to the score of the global
level the mean over the `top` best regions and the mean over the `top` best region pairs (CRAN, Eq. 11).  With
`Pairwise` a method scores pairs by a function of its own, such as an attention between regions and words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from cran_bench.embeddings import (
    Embedding,
    Levels,
    Relations,
    Rows,
    as_levels,
    both_exist,
    pair_lengths,
    pairs_by_count,
    unit,
    vector_lengths,
)
from cran_bench.errors import BadInput, kind_of

Lengths: TypeAlias = tuple[Tensor, Tensor]
"""`Similarity.lengths` of images and of texts."""


class Reach(NamedTuple):
    """Bounds on the scores, and hence on the rounding error of evaluating them in a given arithmetic.

    The contribution of a level to a score is at most weight x images x texts.  The rounding error of an inner product
    of D terms, in any order of summation, is at most about D u |x| |y|, where u is the unit roundoff.

    Attributes:
        weights: absolute weights of the L levels.
        dims: D, the dimension of each level's vectors.
        images: (L, N) float64, for each image the largest length of its vectors; for relations the largest
            (|first_j| + |second_k|) / norm_jk.
        texts: (L, T) float64, the length of each text's vector.
    """

    weights: tuple[float, ...]
    dims: tuple[int, ...]
    images: Tensor
    texts: Tensor

    def rows(self, rows: Rows, columns: Rows) -> Reach:
        """Return the bounds of selected images and texts."""
        return self._replace(images=self.images[:, rows], texts=self.texts[:, columns])

    def of_all(self, rows: Rows, columns: Rows, unit: Callable[[int], float | Tensor]) -> Tensor:
        """Return (I, T) error bounds for all pairs of the selected images and texts.

        Args:
            rows: I images.
            columns: T texts.
            unit: relative rounding error of an inner product of D terms, as a function of D.
        """
        images = self.weights_times(unit)[:, None] * self.images[:, rows]
        bounds: Tensor = images[:, :, None] * self.texts[:, None, columns]
        return bounds.sum(dim=0)

    def of_pairs(self, rows: Rows, columns: Rows, unit: Callable[[int], float | Tensor]) -> Tensor:
        """Return (P,) error bounds for P pairs of an image in `rows` and the text at the same place in `columns`."""
        bounds: Tensor = self.weights_times(unit)[:, None] * self.images[:, rows] * self.texts[:, columns]
        return bounds.sum(dim=0)

    def weights_times(self, unit: Callable[[int], float | Tensor]) -> Tensor:
        """Return (L,) the levels' weights times their rounding errors."""
        errors = torch.stack([torch.as_tensor(unit(dim), dtype=torch.float64) for dim in self.dims])
        weights = torch.tensor(self.weights, dtype=torch.float64).to(errors.device, non_blocking=True)
        return (errors * weights).to(self.images.device, non_blocking=True)


def rounding(dim: int) -> float:
    """Bound the difference of two float64 evaluations of an inner product of unit vectors; closer scores are tied.

    Embeddings are float32, so distinct scores differ by many orders of magnitude more.
    """
    return 8 * dim * torch.finfo(torch.float64).eps


def without_zeros(lengths: Tensor) -> Tensor:
    """Lengths to divide by: a zero vector is divided by 1."""
    return lengths.masked_fill(lengths == 0, 1.0)


def by_tensor(levels: Levels, lengths: Tensor) -> list[Tensor]:
    """Split (rows, V) lengths into those of each tensor of `levels`, and what follows them."""
    sizes = [x.shape[1:-1].numel() for x in levels.tensors()]
    return list(lengths.split_with_sizes([*sizes, lengths.shape[1] - sum(sizes)], dim=1))


# Inner products of image vectors (N, R, D) with text vectors: (N, R, T) for all texts, (N, R, n) for n texts per image.
Product: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def _all_pairs(vectors: Tensor, texts: Tensor) -> Tensor:
    n, r, d = vectors.shape
    return (vectors.reshape(n * r, d) @ texts.T).view(n, r, len(texts))


def _own_texts(vectors: Tensor, texts: Tensor) -> Tensor:
    return vectors @ texts.view(len(vectors), -1, texts.shape[-1]).mT


@dataclass(frozen=True)
class Similarity:
    """The inner product of one vector per image and one per text.

    Attributes:
        cosine: whether every vector is first scaled to unit length; a zero vector stays zero and scores 0.
    """

    cosine: bool

    def prepare(
        self, embedding: Embedding, dtype: torch.dtype = torch.float64, lengths: Tensor | None = None
    ) -> Levels:
        """Convert a block of embeddings to `dtype` and, for a cosine, scale its vectors to unit length.

        Args:
            embedding: N rows.
            dtype: of the result.
            lengths: (N, V) `lengths` without zeros, if already computed.
        """
        given = as_levels(embedding)
        levels = given.map(lambda x: x if x.dtype == torch.bool else x.to(dtype))
        if not self.cosine:
            return levels
        lengths = without_zeros(self.lengths(given)) if lengths is None else lengths
        *parts, pairs = by_tensor(given, lengths.to(dtype))
        of = dict(zip(levels.tensors(), parts, strict=True))

        def divided(x: Tensor | None) -> Tensor | None:
            return None if x is None else x / of[x].reshape(*x.shape[:-1], 1)

        relations = levels.relations
        if isinstance(relations, Relations):
            n, r, _ = relations.first.shape
            relations = replace(relations, norm=pairs.reshape(n, r, r))
        else:
            relations = divided(relations)
        return replace(levels, globals=divided(levels.globals), regions=divided(levels.regions), relations=relations)

    def lengths(self, embedding: Embedding) -> Tensor:
        """(N, V) float64 `vector_lengths`, for a cosine followed by the n^2 `pair_lengths` of factored relations."""
        levels = as_levels(embedding)
        lengths = vector_lengths(levels)
        if not self.cosine or not isinstance(levels.relations, Relations):
            return lengths
        return torch.cat([lengths, pair_lengths(levels.relations).flatten(1)], dim=1)

    def scores(self, images: Embedding, texts: Embedding, lengths: Lengths | None = None) -> Tensor:
        """Score all pairs of N images and T texts: (N, T) float64; a larger score means more similar.

        `lengths` are those of both sides without zeros, if already computed.
        """
        left, right = lengths or (None, None)
        return self._combine(self.prepare(images, lengths=left), self.prepare(texts, lengths=right), _all_pairs)

    def scores_as_given(self, images: Levels, texts: Levels) -> Tensor:
        """Score all pairs of N images and T texts for training: (N, T), differentiable.

        Vectors are used in their own precision and are not normalised.
        """
        return self._combine(images, texts, _all_pairs)

    def own_scores(
        self, images: Embedding, texts: Embedding, dtype: torch.dtype = torch.float64, lengths: Lengths | None = None
    ) -> Tensor:
        """Score each of N images with n texts of its own: (N, n), equal to the corresponding entries of `scores`.

        Rows i n to i n + n - 1 of the N n texts belong to image i.  `lengths` as in `scores`.
        """
        queries = as_levels(texts).map(lambda x: x.to(dtype))
        if not self.cosine:
            return self._combine(self.prepare(images, dtype), queries, _own_texts)
        left, right = lengths or (None, without_zeros(self.lengths(texts)))
        of = dict(zip(queries.tensors(), right.to(dtype).unbind(1), strict=True))

        def directions(vectors: Tensor, texts: Tensor) -> Tensor:
            """Inner products with normalised texts; dividing the products is cheaper than dividing the vectors."""
            return _own_texts(vectors, texts) / of[texts].reshape(len(vectors), 1, -1)

        return self._combine(self.prepare(images, dtype, left), queries, directions)

    def reach(self, images: Embedding, texts: Embedding, lengths: Lengths | None = None) -> Reach:
        """Bound the scores of N images and T texts; `lengths` are those of both sides, if already computed."""
        left, right = as_levels(images), as_levels(texts)
        of_images, of_texts = lengths or (self.lengths(left), self.lengths(right))
        *parts, pairs = by_tensor(left, of_images)
        if isinstance(left.relations, Relations):
            longest = [self._longest(part) for part in parts[:-2]]
            longest.append(self._longest_pair(left.relations, left.mask, parts[-2], parts[-1], pairs))
        else:
            longest = [self._longest(part) for part in parts]
        levels = zip(self.level_weights(), (right.globals, right.regions, right.relations), strict=True)
        weights = tuple(abs(weight) for weight, level in levels if level is not None)
        dims = tuple(x.shape[-1] for x in right.tensors())
        longest_texts = torch.ones_like(of_texts.T) if self.cosine else of_texts.T
        return Reach(weights, dims, torch.stack(longest), longest_texts)

    def check(self, images: Embedding, texts: Embedding) -> None:
        """Reject embeddings that do not match this similarity or each other.

        Raises:
            BadInput: the two sides have different levels or dimensions, a level has another number of rows, this
                similarity does not use a level, or dtypes or devices differ or are not float32 or float64.
        """
        left, right = as_levels(images), as_levels(texts)
        for side, levels in (("images", left), ("texts", right)):
            counts = sorted({len(x) for x in (*levels.tensors(), *([levels.mask] if levels.mask is not None else []))})
            if len(counts) > 1:
                raise BadInput(
                    f"the levels of {side} have {' and '.join(map(str, counts))} rows; give the same number on each"
                )
        if left.mask is not None and left.mask.dtype != torch.bool:
            raise BadInput(
                f"the mask has dtype {str(left.mask.dtype).removeprefix('torch.')}; give bool, True where a region "
                "exists"
            )
        tensors = [*left.tensors(), *right.tensors()]
        if min(x.shape[-1] for x in tensors) == 0:
            raise BadInput("the embeddings have dimension 0; give vectors of dimension 1 or more")
        dtypes = sorted({str(x.dtype).removeprefix("torch.") for x in tensors})
        devices = sorted({str(x.device) for x in tensors})
        for what, names in (("dtype", dtypes), ("device", devices)):
            if len(names) > 1:
                raise BadInput(
                    f"the embeddings mix {' and '.join(names)}; use one {what} for images and texts on all levels"
                )
        if dtypes[0] not in ("float32", "float64"):
            raise BadInput(f"the embeddings have dtype {dtypes[0]}; give float32")
        for name in ("globals", "regions", "relations"):
            a, b = getattr(left, name), getattr(right, name)
            if (a is None) != (b is None):
                raise BadInput(
                    f"the {name} level is given for {'texts' if a is None else 'images'} only; give it for both"
                )
            if a is None:
                continue
            if name != "globals" and not isinstance(self, MultiLevel):
                raise BadInput(f"the {name} level needs similarity = MultiLevel(...), not COSINE or DOT")
            image_dim = (a.first if isinstance(a, Relations) else a).shape[-1]
            if image_dim != b.shape[-1]:
                raise BadInput(
                    f"on the {name} level images have dimension {image_dim} and texts {b.shape[-1]}; they must be equal"
                )

    def _longest(self, lengths: Tensor) -> Tensor:
        """The largest length of each row's vectors, (rows,) float64; 1 for a cosine."""
        if self.cosine:
            return torch.ones(1, dtype=torch.float64, device=lengths.device).expand(len(lengths))
        return lengths.max(dim=1).values if lengths.shape[1] else lengths.sum(dim=1)

    def _longest_pair(
        self, relations: Relations, mask: Tensor | None, first: Tensor, second: Tensor, lengths: Tensor
    ) -> Tensor:
        """The largest (|first_j| + |second_k|) / norm_jk over each image's existing pairs, (rows,) float64."""
        bounds = first[:, :, None] + second[:, None]
        if self.cosine:
            bounds = bounds / lengths.reshape(bounds.shape).clamp_min(1e-300)
        elif relations.norm is not None:
            bounds = bounds / relations.norm.double().abs()
        pairs = relations.pairs()
        bounds = bounds[:, pairs[:, 0], pairs[:, 1]]
        if mask is not None:
            bounds = bounds.masked_fill(~both_exist(mask, pairs), 0.0)
        largest: Tensor = bounds.max(dim=1).values if bounds.shape[1] else bounds.sum(dim=1)
        return largest

    def level_weights(self) -> tuple[float, float, float]:
        """Return the weights of the global, region and relation levels in the score."""
        return (1.0, 1.0, 1.0)

    def _combine(self, images: Levels, texts: Levels, product: Product) -> Tensor:
        assert images.globals is not None and texts.globals is not None
        return product(images.globals[:, None], texts.globals)[:, 0]


@dataclass(frozen=True)
class MultiLevel(Similarity):
    """Sum over levels: global + mean of the `top` best regions + mean of the `top` best region pairs (CRAN, Eq. 11).

    Masked regions are ignored: the mean is over min(top, existing) regions, and a level without any contributes 0.

    Attributes:
        cosine: whether every vector is first scaled to unit length.
        top: K of Eq. 11, at least 1.
        weights: weights of the global, region and relation levels.

    Raises:
        BadInput: `top` is less than 1.
    """

    cosine: bool = False
    top: int = 3
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.top < 1:
            raise BadInput(f"MultiLevel: top is a number of regions and must be at least 1, not {self.top}")

    def level_weights(self) -> tuple[float, float, float]:
        return self.weights

    def _combine(self, images: Levels, texts: Levels, product: Product) -> Tensor:
        total: Tensor | int = 0
        if images.globals is not None and texts.globals is not None:
            total = weighted(self.weights[0], product(images.globals[:, None], texts.globals)[:, 0])
        if images.regions is not None and texts.regions is not None:
            scores = product(images.regions, texts.regions)
            total = total + weighted(self.weights[1], self._top_mean(scores, images.mask))
        if images.relations is not None and isinstance(texts.relations, Tensor):
            scores, valid = self._relation_scores(images, texts.relations, product)
            total = total + weighted(self.weights[2], self._top_mean(scores, valid))
        assert isinstance(total, Tensor)
        return total

    def members(self, images: Embedding, texts: Embedding) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Return the scores of single regions and region pairs, from which the means over the `top` best are taken.

        Returns:
            For each given level of `regions` and `relations`: (N, R, T) float64 scores without the level's weight, and
            (N, R) bool, True where the region or pair exists, or None if all exist.
        """
        left, right = self.prepare(images), self.prepare(texts)
        scores: dict[str, tuple[Tensor, Tensor | None]] = {}
        if left.regions is not None and right.regions is not None:
            scores["regions"] = _all_pairs(left.regions, right.regions), left.mask
        if left.relations is not None and isinstance(right.relations, Tensor):
            scores["relations"] = self._relation_scores(left, right.relations, _all_pairs)
        return scores

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
        """The mean over the `top` best valid regions: (N, R, T) scores and (N, R) bool to (N, T)."""
        if scores.shape[1] == 0:
            return scores.sum(dim=1)
        top = min(self.top, scores.shape[1])
        if valid is None:
            return scores.topk(top, dim=1).values.mean(dim=1)
        best = scores.masked_fill(~valid[:, :, None], -torch.inf).topk(top, dim=1).values
        count = valid.sum(dim=1).clamp(1, top)
        return best.masked_fill(best == -torch.inf, 0.0).sum(dim=1) / count[:, None]


def weighted(weight: float, scores: Tensor) -> Tensor:
    """Scores times a weight."""
    return scores if weight == 1 else weight * scores


def mean_by_image(texts: Embedding, image_of: Tensor, images: int, similarity: Similarity) -> Embedding:
    """Average the text embeddings of each image (protocol `mean`), for a cosine after scaling them to unit length.

    Args:
        texts: T rows.
        image_of: (T,) int64, the image of each text.
        images: N, the number of images.
        similarity: the method's similarity.

    Returns:
        N rows, in the precision of `texts`.
    """
    counts = torch.bincount(image_of, minlength=images).clamp_min(1)

    def mean(x: Tensor) -> Tensor:
        rows = unit(x.double()) if similarity.cosine else x.double()
        total = torch.zeros(images, x.shape[1], dtype=torch.float64, device=x.device)
        total.index_put_((image_of,), rows, accumulate=True)  # index_add_ adds in any order on a GPU
        return (total / counts[:, None]).to(x.dtype)

    averaged = as_levels(texts).map(mean)
    return averaged if isinstance(texts, Levels) else averaged.tensors()[0]


COSINE = Similarity(cosine=True)
"""The cosine of the angle between an image's and a text's vector."""

DOT = Similarity(cosine=False)
"""The inner product of an image's and a text's vector."""

PairScores: TypeAlias = Callable[[Any, Any], Tensor]
"""From the embeddings of I images and of T texts to their scores, (I, T) floating point."""

UNBOUNDED = 1e300  # a size of scores beyond float32, so that no backend approximates them


@dataclass(frozen=True)
class Pairwise(Similarity):
    """A function of the method scores pairs, for what no inner product expresses: ``Pairwise(self.score)``.

    The function is given the embeddings of I images and of T texts, as `Levels` or, if they are global vectors only, as
    tensors (I, D) and (T, D).  It returns scores (I, T) of any floating-point type; a larger score means more similar.
    In `Levels` both sides may have sets of vectors as `regions`, such as regions (I, n, D) and words (T, L, D), each
    with its `mask`.  Scores are compared exactly as they are returned, so the score of a pair must be the same, to the
    last bit, whatever else is in the tile.

    Attributes:
        score: the function.
        i2t: the function that scores the candidates of image queries, if it is another; `score` is then for texts.
        rerank: K; only the K best candidates of each query by `cheap` are scored by the function, and those that tie
            with the K-th.  All others rank below them, in the order of `cheap`.  0 for all pairs.
        cheap: compares the `globals` of both sides for `rerank`.
        tile: the largest number of images and of texts that the function is given at once; it bounds its memory.

    Raises:
        BadInput: `score` is not a function, or `rerank` or `tile` is out of range.
    """

    cosine: bool = field(default=False, init=False)
    score: PairScores
    i2t: PairScores | None = None
    rerank: int = 0
    cheap: Similarity = COSINE
    tile: tuple[int, int] = (64, 256)

    def __post_init__(self) -> None:
        if not callable(self.score):
            raise BadInput(f"Pairwise takes the function that scores pairs, Pairwise(self.score), not {self.score!r}")
        if self.rerank < 0:
            raise BadInput(f"Pairwise: rerank is a number of candidates, 0 to score all pairs, not {self.rerank}")
        if min(self.tile) < 1:
            raise BadInput(f"Pairwise: a tile has at least one image and one text, not {self.tile}")

    def scores(self, images: Embedding, texts: Embedding, lengths: Lengths | None = None) -> Tensor:
        if depends_on_query(self):
            raise BadInput("rerank and i2t are followed for a method that declares them: declare this Pairwise")
        return self.scores_by(self.score, images, texts)

    def scores_by(self, score: PairScores, images: Embedding, texts: Embedding) -> Tensor:
        """Score all pairs of N images and T texts by a function, tile by tile: (N, T) float64.

        Raises:
            BadInput: the function does not return a floating-point tensor of the tile's shape.
        """
        left, right = as_levels(images), as_levels(texts)
        device = left.tensors()[0].device
        scores = torch.empty(len(left), len(right), dtype=torch.float64, device=device)
        for i in range(0, len(left), self.tile[0]):
            rows = left.rows(slice(i, i + self.tile[0]))
            for k in range(0, len(right), self.tile[1]):
                columns = right.rows(slice(k, k + self.tile[1]))
                tile = score(_plain(rows), _plain(columns))
                shape, name = (len(rows), len(columns)), getattr(score, "__qualname__", repr(score))
                if not isinstance(tile, Tensor) or tile.shape != shape or not tile.is_floating_point():
                    what = f"{tile.dtype} {tuple(tile.shape)}" if isinstance(tile, Tensor) else kind_of(tile)
                    asked = f"a float tensor {shape}, the scores of all pairs of an image and a text"
                    raise BadInput(f"{name} returned {what.removeprefix('torch.')}; return {asked}")
                scores[i : i + shape[0], k : k + shape[1]] = tile
        return scores

    def own_scores(
        self, images: Embedding, texts: Embedding, dtype: torch.dtype = torch.float64, lengths: Lengths | None = None
    ) -> Tensor:
        left, right = as_levels(images), as_levels(texts)
        each = len(right) // len(left)
        tiles = [
            self.scores_by(self.score, left.rows(slice(i, i + 1)), right.rows(slice(i * each, (i + 1) * each)))
            for i in range(len(left))
        ]
        return torch.cat(tiles).to(dtype)

    def lengths(self, embedding: Embedding) -> Tensor:
        """(N, 1) float64 ones, as nothing is divided by lengths."""
        first = as_levels(embedding).tensors()[0]
        return torch.ones(len(first), 1, dtype=torch.float64, device=first.device)

    def reach(self, images: Embedding, texts: Embedding, lengths: Lengths | None = None) -> Reach:
        """Bounds of weight 0, as scores have no rounding error, and of a size that keeps them in float64."""
        of_images, of_texts = lengths or (self.lengths(images), self.lengths(texts))
        return Reach((0.0,), (1,), UNBOUNDED * of_images[:, :1].T, of_texts[:, :1].T)

    def check(self, images: Embedding, texts: Embedding) -> None:
        """Reject embeddings of which a row of every tensor cannot be taken, or that lack what `rerank` needs.

        Raises:
            BadInput: the tensors of a side have different numbers of rows or hold integers, or `rerank` lacks the
                `globals` of a side or cannot compare them.
        """
        left, right = as_levels(images), as_levels(texts)
        for side, levels in (("images", left), ("texts", right)):
            counts = {len(x) for x in (*levels.tensors(), *([levels.mask] if levels.mask is not None else []))}
            if len(counts) > 1:
                numbers = " and ".join(map(str, sorted(counts)))
                raise BadInput(f"the tensors of {side} have {numbers} rows; give the same number in each")
            for kind in (x.dtype for x in levels.tensors() if not x.is_floating_point()):
                raise BadInput(f"the embeddings of {side} have dtype {str(kind).removeprefix('torch.')}; give float32")
            if self.rerank and levels.globals is None:
                raise BadInput(
                    f"rerank={self.rerank} chooses candidates by global vectors, and {side} have none: give globals in "
                    "Levels, or rerank=0"
                )
        if self.rerank and left.globals is not None and right.globals is not None:
            self.cheap.check(left.globals, right.globals)


def depends_on_query(similarity: Similarity) -> bool:
    """Whether the order of two pairs may depend on which side is the query."""
    return isinstance(similarity, Pairwise) and bool(similarity.rerank or similarity.i2t)


def one_way(similarity: Similarity, for_images: bool) -> Similarity:
    """The similarity that scores all candidates of image queries, or of text queries."""
    if not isinstance(similarity, Pairwise):
        return similarity
    score = similarity.i2t if for_images and similarity.i2t else similarity.score
    return replace(similarity, score=score, i2t=None, rerank=0)


def _plain(levels: Levels) -> Embedding:
    """Global vectors alone as the tensor they were given as."""
    is_alone = levels.regions is None and levels.relations is None and levels.mask is None
    return levels.globals if levels.globals is not None and is_alone else levels
