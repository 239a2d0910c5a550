"""Explanations of a score: its levels, attention over characters, and the best regions and pairs of regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cran_bench import ALPHABET, COSINE, BadInput, Explanation, MultiLevel, Split, region_pairs

from .model import LENGTH, Attention, Level, only

if TYPE_CHECKING:
    from . import CRAN


def explain(method: CRAN, split: Split, image: int, text: int) -> Explanation:
    """Explain the score of an image and a text, given by their positions in the split.

    Raises:
        BadInput: the text contains no character of CRAN's alphabet.
    """
    pair = split.take(np.array([image])).asking([split.texts[text]])
    chars = pair.chars(LENGTH)
    if not bool((chars > 0).any()):
        raise BadInput(
            f"CRAN reads Latin letters, digits and punctuation, of which '{pair.texts[0][:60]}' has none: "
            "write a sentence in that alphabet"
        )
    (images, image_rows), (texts, text_rows) = method.image_terms(pair), method.text_terms(pair)
    on_global, on_local, on_relation, on_residual = method.weights.tolist()
    eq11 = MultiLevel(method.is_cosine, method.loss.top, (on_global, on_local, on_relation))
    members = eq11.members(images, texts)
    regions = _winners(*members["regions"], method.loss.top) if "regions" in members else []
    pairs = _winners(*members["relations"], method.loss.top) if "relations" in members else []
    names = region_pairs(split.boxes.shape[1], method.encoder.relation_pairs).tolist() if pairs else []
    scores = {level: float(eq11.scores(only(images, level), only(texts, level))) for level in method.levels}
    if image_rows is not None and text_rows is not None:
        scores["cca"] = on_residual * float(COSINE.scores(image_rows, text_rows))
    total = method.similarity.scores(method.embed_images(pair), method.embed_texts(pair))
    networks = {level: part.network.levels[level] for part in method.fitted for level in part.levels}
    return Explanation(
        scores={**scores, "total": float(total)},
        text="".join(ALPHABET[index - 1] for index in chars[0].tolist() if index),
        attention={
            name: _over_characters(level, chars)
            for name, level in networks.items()
            if isinstance(level.pooling, Attention)
        },
        regions=regions,
        pairs=[(*names[k], score) for k, score in pairs],
    )


def _winners(scores: Tensor, exists: Tensor | None, top: int) -> list[tuple[int, float]]:
    """Position and score of the `top` best existing members, of (1, R, 1) scores."""
    flat = scores.flatten() if exists is None else scores.flatten().masked_fill(~exists.flatten(), -torch.inf)
    best = flat.topk(min(top, len(flat)))
    winners = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(position, score) for position, score in winners if score > -np.inf]


def _over_characters(level: Level, chars: Tensor) -> list[float]:
    """The weight of each character: that of a step is divided evenly over its receptive field."""
    H, counts = level.encoder(chars)
    a = level.pooling.weights(H, counts)[0].tolist()
    length = int((chars > 0).sum())
    weights = np.zeros(length)
    for step, weight in enumerate(a):
        first = step * level.encoder.stride
        seen = slice(first, min(first + level.encoder.field, length))
        if first < length:
            weights[seen] += weight / (seen.stop - first)
    total = weights.sum()
    return [float(weight) for weight in (weights / total if total else weights)]
