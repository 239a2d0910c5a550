"""Alternatives: how public evaluation code scores and ranks, on the same embeddings.

Each follows such code, in float32 and with the same number of threads, and returns scores or integer ranks from 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cran_bench.embeddings import Levels, Relations


class Plain(NamedTuple):
    """Embeddings on three levels without factored relations: unit vectors, one per relation.

    Attributes:
        globals: (N, D) for images, (T, D) for texts.
        regions: (N, n, D) for images, (T, D) for texts.
        relations: (N, n (n - 1), D) for images, (T, D) for texts.
    """

    globals: Tensor
    regions: Tensor
    relations: Tensor

    @staticmethod
    def of(levels: Levels) -> Plain:
        """Convert the levels of images, with factored relations, or of texts."""
        relations = levels.relations
        if isinstance(relations, Relations):
            j, k = relations.pairs().T
            relations = relations.first[:, j] + relations.second[:, k]
        assert levels.globals is not None and levels.regions is not None and relations is not None
        return Plain(*(torch.nn.functional.normalize(x, dim=-1) for x in (levels.globals, levels.regions, relations)))

    def rows(self, rows: slice) -> Plain:
        """The embeddings of some images or texts."""
        return Plain(*(x[rows] for x in self))


def by_einsum_and_topk(images: Plain, texts: Plain, block: int, top: int = 3) -> Tensor:
    """(N, T) scores in square blocks: einsum over all regions and relations, `topk`, mean."""
    out = images.globals.new_empty(len(images.globals), len(texts.globals))
    for a in range(0, out.shape[0], block):
        for b in range(0, out.shape[1], block):
            i, t = images.rows(slice(a, a + block)), texts.rows(slice(b, b + block))
            scores = i.globals @ t.globals.T
            for members, queries in ((i.regions, t.regions), (i.relations, t.relations)):
                dots = torch.einsum("ird,td->itr", members, queries)
                scores = scores + dots.topk(top, dim=-1).values.mean(dim=-1)
            out[a : a + block, b : b + block] = scores
    return out


def caption_by_caption(images: Plain, texts: Plain, image_of: Tensor, top: int = 3) -> Tensor:
    """(T,) ranks of each text's own image: a loop over captions, each against all images, and argsort."""
    ranks = []
    for text in range(len(texts.globals)):
        query = texts.rows(slice(text, text + 1))
        scores = images.globals @ query.globals[0]
        for members, vector in ((images.regions, query.regions[0]), (images.relations, query.relations[0])):
            scores = scores + (members @ vector).topk(top, dim=1).values.mean(dim=1)
        ranks.append((scores.argsort(descending=True) == image_of[text]).nonzero()[0, 0])
    return torch.stack(ranks)


def by_argsort(scores: Tensor, image_of: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) and (T,) ranks of the first right answer, by sorting the whole matrix in both directions."""
    order = scores.argsort(dim=1, descending=True)
    of_images = (image_of[order] == torch.arange(len(scores), device=scores.device)[:, None]).int().argmax(dim=1)
    order = scores.T.contiguous().argsort(dim=1, descending=True)
    return of_images, (order == image_of[:, None]).int().argmax(dim=1)


def by_product_and_argsort(images: Tensor, texts: Tensor, image_of: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) and (T,) ranks of unit vectors: one matrix product, then `by_argsort`."""
    return by_argsort(images @ texts.T, image_of)


def by_product_and_comparison(images: Tensor, texts: Tensor, image_of: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) and (T,) ranks of unit vectors: one matrix product, then counting scores above the best right one."""
    scores = images @ texts.T
    own = scores[image_of, torch.arange(len(texts), device=texts.device)]
    best = own.new_full((len(images),), -torch.inf).scatter_reduce(0, image_of, own, "amax")
    return (scores > best[:, None]).sum(dim=1), (scores > own).sum(dim=0)


def by_faiss(images: Tensor, texts: Tensor, image_of: Tensor, top: int = 10) -> tuple[Any, Any]:
    """(N,) and (T,) whether a right answer is among the first `top`, by faiss's flat index, which gives no ranks.

    Raises:
        ImportError: faiss is not installed.
    """
    import faiss  # type: ignore[import-not-found, unused-ignore]

    nearest = []
    for gallery, queries in ((texts, images), (images, texts)):
        index = faiss.IndexFlatIP(gallery.shape[1])
        index.add(gallery.numpy())
        nearest.append(torch.from_numpy(index.search(queries.numpy(), top)[1]))
    of_images = (image_of[nearest[0]] == torch.arange(len(images))[:, None]).any(dim=1)
    return of_images, (nearest[1] == image_of[:, None]).any(dim=1)
