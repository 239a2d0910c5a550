"""Ranking losses."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from cran_bench.errors import BadInput

Negatives = Literal["random", "all", "hardest"]


def margin_loss(
    scores: Tensor,
    owner: Tensor,
    margin: float,
    negatives: Negatives,
    text_negatives: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean of max(0, margin - s(i+, t+) + s(mismatched)) over matched pairs (Eqs. 6-10 of CRAN).

    Args:
        scores: (B, B), images by texts; pair b is image b with text b.
        owner: (B,) image of each pair; pairs of the same image are never negatives of each other.
        margin: alpha.
        negatives: `random` uses one negative per pair, `all` the mean over all, `hardest` the one with the best score.
        text_negatives: whether to use text negatives as well (Eq. 7); otherwise only image negatives (Eqs. 8-10).
        generator: for the random choice.

    Returns:
        A scalar; 0 with zero gradient for a batch without negatives.

    Raises:
        BadInput: `negatives` is none of the three.
    """
    if negatives not in get_args(Negatives):
        raise BadInput(f"negatives are random, all or hardest, not '{negatives}'")
    positive = scores.diagonal()
    allowed = owner[:, None] != owner
    total = scores.new_zeros(())
    for by_anchor in (scores.T, scores)[
        : 2 if text_negatives else 1
    ]:  # text anchors with image negatives, then the reverse
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
