"""CFA: cross-modal factor analysis (Li, Dimitrova, Li, Sethi, ACM Multimedia 2003), a row of Tables 1 and 2.

    max  tr(A' X' Y B)   subject to   A' A = B' B = I

solved by the singular value decomposition of the centred cross-product X' Y = U S V': A = U_k, B = V_k.  (For square
A and B this is the minimum of |XA - YB|; for fewer columns the decomposition is the definition.)  Nothing is inverted,
so nothing needs a ridge.  Every (image, text) pair is one sample; projections are compared by their cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from cran_bench import COSINE, Run, Split, register
from cran_bench.linalg import moments, truncated_svd
from cran_bench.views import ImageScaling, TextFeature, image_view, project_images, project_texts, text_view


@register("cfa", paper_row="CFA", presets={"paper": {"dim": (300,), "power": (0.0,)}, "tuned": {}})
@dataclass
class CFA:
    """Hyper-parameters; of several candidates the validation split chooses.

    Attributes:
        text: text feature: tf-idf, word counts, or the mean word vector.
        vocabulary: words of tf-idf or counts.
        image: scaling of image features.
        dim: dimensions kept, at most the rank.
        power: exponent of the singular values that weight the dimensions; 0 is Li's method.
    """

    text: TextFeature = "tfidf"
    vocabulary: int = 3000
    image: ImageScaling = "l2"
    dim: tuple[int, ...] = (32, 64, 128, 256, 512)
    power: tuple[float, ...] = (-0.25, 0.0)

    similarity = COSINE

    def __post_init__(self) -> None:
        if min(self.vocabulary, *self.dim) < 1:
            raise ValueError("vocabulary and dim are at least 1")

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """One decomposition; `run.score` on `val` chooses dim and power."""
        C = moments(image_view(train, self.image), text_view(train, self.text, self.vocabulary), train.image_of)
        self.mean_x, self.mean_y = (torch.from_numpy(mean).to(run.device) for mean in (C.mean_x, C.mean_y))
        A, S, B = (torch.from_numpy(part).to(run.device) for part in truncated_svd(C.xy, max(self.dim)))
        a, b = self._images(val, A), self._texts(val, B)
        best = -1.0
        for dim, power in product(self.dim, self.power):
            weight = (S[:dim] / S[0]) ** power
            rsum = run.score(a[:, :dim] * weight, b[:, :dim] * weight).rsum
            if rsum > best:
                best = rsum
                self.A, self.B = A[:, :dim] * weight, B[:, :dim] * weight
                run.chose(dim=len(weight), power=power)

    def embed_images(self, split: Split) -> Tensor:
        """(N, k)."""
        return self._images(split, self.A)

    def embed_texts(self, split: Split) -> Tensor:
        """(T, k)."""
        return self._texts(split, self.B)

    def _images(self, split: Split, A: Tensor) -> Tensor:
        return project_images(split, self.image, self.mean_x, A)

    def _texts(self, split: Split, B: Tensor) -> Tensor:
        return project_texts(split, self.text, self.vocabulary, self.mean_y, B)

    def state(self) -> dict[str, Tensor]:
        """Means and projections."""
        return {"mean_x": self.mean_x, "mean_y": self.mean_y, "A": self.A, "B": self.B}

    def load(self, state: dict[str, Tensor]) -> None:
        """See `state`."""
        self.mean_x, self.mean_y, self.A, self.B = (state[key] for key in ("mean_x", "mean_y", "A", "B"))
