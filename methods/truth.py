"""truth: which captions are true of which images, as the data says; no method, but a reference row for `scenes`.

    s(image, text) = 1 if the text is true of the image, else 0

A noun phrase may fit objects of several scenes, and a sentence is true of a scene in which objects can be found for all
its noun phrases, different ones for different phrases, between which the relations that it states hold.  So a caption
is true of other scenes than its own.  Ties count in expectation, as for every row: the recall is that of someone who
understands every sentence, sees every object, and chooses at random among what is true.

It bounds neither side from above: graded scores may prefer, of all captions that are true of a scene, those that say
most about it, which are true of few others.  The twin accuracy is 100 %.

Memory: one number for each caption and image of the split that is embedded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cran_bench import DOT, Run, Split, register


@register(
    "truth",
    reference="a caption scores 1 with each image that it is true of and 0 with the others, ties in expectation; "
    "graded scores can exceed it on i2t, as a binary score cannot say which of the true captions is the most telling",
)
@dataclass
class TruthAlone:
    """The truth of every caption; nothing is learned, and there is nothing to choose."""

    similarity = DOT

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Learn nothing."""

    def embed_images(self, split: Split) -> Tensor:
        """(N, n) one-hot: which of the n images of the whole split it is."""
        texts, own = split.truths
        return torch.eye(texts.shape[1], device=texts.device)[own]

    def embed_texts(self, split: Split) -> Tensor:
        """(T, n) of zeros and ones: which of these images the text is true of."""
        return split.truths[0].float()

    def state(self) -> dict[str, Tensor]:
        """Nothing, as nothing is learned."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        pass
