"""Losses of methods that learn by ranking."""

from __future__ import annotations

import torch
from torch import Tensor


def margin_loss(
    scores: Tensor,
    owner: Tensor,
    margin: float,
    negatives: str,
    text_negatives: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean over matched pairs of max(0, margin - s(i+, t+) + s(mismatched)): Eqs. 6-8; 9 and 10 vary the image only.

    Args:
        scores: (B, B), images by texts; pair b is image b with text b.
        owner: (B,) image of each pair; pairs of one image are never negatives of each other.
        margin: alpha.
        negatives: `random` takes one for each pair, `all` the mean over them, `hardest` the best-scoring.
        text_negatives: also hold the image and vary the text (Eq. 7); else only the image varies (Eqs. 8, 9, 10).
        generator: of the random choice.

    Returns:
        A scalar; 0, with a zero gradient, for a batch without any negative.
    """
    positive = scores.diagonal()
    allowed = owner[:, None] != owner
    total = scores.new_zeros(())
    for by_anchor in (scores.T, scores)[: 2 if text_negatives else 1]:  # rows: texts with image negatives; the reverse
        hinge = torch.relu(margin - positive[:, None] + by_anchor)
        if negatives == "all":
            loss = (hinge * allowed).sum(dim=1) / allowed.sum(dim=1).clamp_min(1)
        elif negatives == "hardest":
            loss = hinge.masked_fill(~allowed, 0.0).amax(dim=1)
        else:
            draw = torch.rand(allowed.shape, generator=generator).to(allowed.device).masked_fill(~allowed, -1.0)
            chosen = draw.argmax(dim=1, keepdim=True)
            loss = (hinge * allowed).gather(1, chosen).squeeze(1)
        anchors = allowed.any(dim=1).sum().clamp_min(1)
        total = total + loss.sum() / anchors
    return total
