"""aligned: the outputs of an image and a text encoder that share a space, compared by cosine; nothing is trained.

    s(image, text) = f(image)' g(text) / (|f(image)| |g(text)|)

for encoders f and g that were trained together, such as CLIP's.  It is the zero-shot retrieval of A. Radford et al.,
"Learning transferable visual models from natural language supervision", ICML 2021, and what a head that is trained on
the same features has to beat.

Memory: the features of the split that is embedded.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cran_bench import COSINE, BadInput, MissingFeature, Run, Split, register


@register("aligned", presets={"tuned": {}})
@dataclass
class Aligned:
    """The encoders' own embeddings; there is nothing to choose."""

    similarity = COSINE

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Compare the dimensions of the encoders.

        Raises:
            MissingFeature: the data was prepared without a text encoder.
            BadInput: the dimensions differ.
        """
        p, q = train.image_dim, train.text_dim
        if p != q:
            has = f"texts have {q}" if q else "there is no text encoder"
            raise (BadInput if q else MissingFeature)(
                f"aligned compares images with texts in the space of one model, but images have {p} dimensions and "
                f"{has}: prepare with the image and the text encoder of one model, such as clip:DIR for both"
            )

    def embed_images(self, split: Split) -> Tensor:
        """(N, D) image features."""
        return split.images

    def embed_texts(self, split: Split) -> Tensor:
        """(T, D) text features."""
        return split.text_features

    def state(self) -> dict[str, Tensor]:
        """Nothing, as nothing is learned."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        pass
