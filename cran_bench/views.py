"""The two views that the linear methods correlate: scaled image features and one dense or sparse vector per text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from scipy import sparse
from torch import Tensor

from cran_bench.split import Split

ImageScaling = Literal["l2", "sqrt", "none"]
TextFeature = Literal["tfidf", "bow", "vectors"]


def image_view(split: Split, scaling: ImageScaling) -> Iterator[Tensor]:
    """Blocks of (n, p) global features: unit rows, unit rows of their signed square roots, or as they are."""
    for block in split.image_blocks():
        if scaling == "sqrt":
            block = block.sign() * block.abs().sqrt()
        yield block if scaling == "none" else torch.nn.functional.normalize(block)


def text_view(split: Split, feature: TextFeature, vocabulary: int) -> Tensor | sparse.csr_array:
    """(T, q): tf-idf or counts of the `vocabulary` most frequent training words, or the mean word vector."""
    if feature == "tfidf":
        return split.tfidf(vocabulary)
    return split.bow(vocabulary) if feature == "bow" else split.mean_vectors()


def project_images(split: Split, scaling: ImageScaling, mean: Tensor, weights: Tensor) -> Tensor:
    """(N, k) float32: (x - mean) W, computed in float64."""
    return torch.cat([((block.double() - mean) @ weights).float() for block in image_view(split, scaling)])


def project_texts(split: Split, feature: TextFeature, vocabulary: int, mean: Tensor, weights: Tensor) -> Tensor:
    """(T, k) float32: (y - mean) W, computed in float64; a sparse view is never made dense."""
    view = text_view(split, feature, vocabulary)
    if isinstance(view, Tensor):
        projected = view.double() @ weights
    else:
        projected = torch.from_numpy(view @ weights.cpu().numpy()).to(weights.device)
    return (projected - mean @ weights).float()
