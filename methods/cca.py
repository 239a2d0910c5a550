"""CCA: canonical correlation analysis, the first row of Tables 1 and 2.

    max  w' Cxy v   subject to   w' (Cxx + rx I) w = v' (Cyy + ry I) v = 1

H. Hotelling, "Relations between two sets of variates", Biometrika 1936; for images and texts Rasiwasia et al. 2010.
With Cxx + rx I = Lx Lx' and likewise for y, the answer is the singular value decomposition of Lx^-1 Cxy Ly^-T = U R V':
Wx = Lx^-T U and Wy = Ly^-T V, and R holds the canonical correlations.  Every (image, text) pair is one sample.
Projections are scaled by a power of the correlations (Klein et al. 2015 take 1) and compared by their cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from cran_bench import COSINE, Run, Split, register
from cran_bench.linalg import Whitening, moments, spectral_norm, truncated_svd
from cran_bench.views import ImageScaling, TextFeature, image_view, project_images, project_texts, text_view


@register(
    "cca",
    paper_row="CCA",
    presets={"paper": {"ridge": (1e-8,), "dim": (4096,), "power": (0.0,)}, "tuned": {}},
)
@dataclass
class CCA:
    """Hyper-parameters; of several candidates the validation split chooses.

    Attributes:
        text: text feature: tf-idf, word counts, or the mean word vector.
        vocabulary: words of tf-idf or counts.
        image: scaling of image features.
        ridge: rx and ry, each as a fraction of its view's largest variance.
        dim: dimensions kept, at most the rank.
        power: exponent of the correlations that weight the dimensions.
    """

    text: TextFeature = "tfidf"
    vocabulary: int = 3000
    image: ImageScaling = "l2"
    ridge: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1)
    dim: tuple[int, ...] = (64, 128, 256, 512, 1024)
    power: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5)

    similarity = COSINE

    def __post_init__(self) -> None:
        if min(self.vocabulary, *self.dim) < 1:
            raise ValueError("vocabulary and dim are at least 1")
        if min(*self.ridge, *self.power, 0.0) < 0:
            raise ValueError("ridge and power are not negative")

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Covariances once, one decomposition per ridge; `run.score` on `val` chooses ridge, dim and power."""
        C = moments(image_view(train, self.image), text_view(train, self.text, self.vocabulary), train.image_of)
        self.mean_x, self.mean_y = (torch.from_numpy(mean).to(run.device) for mean in (C.mean_x, C.mean_y))
        scale_x, scale_y = spectral_norm(C.xx), spectral_norm(C.yy)
        best = -1.0
        for ridge in run.progress(self.ridge, "ridge", len(self.ridge)):
            Lx, Ly = Whitening.of(C.xx, ridge * scale_x), Whitening.of(C.yy, ridge * scale_y)
            U, R, V = truncated_svd(Ly.half(Lx.half(C.xy).T).T, max(self.dim))
            Wx, Wy, rho = (torch.from_numpy(found).to(run.device) for found in (Lx.back(U), Ly.back(V), R))
            a, b = self._images(val, Wx), self._texts(val, Wy)
            for dim, power in product(self.dim, self.power):
                weight = rho[:dim] ** power
                rsum = run.score(a[:, :dim] * weight, b[:, :dim] * weight).rsum
                if rsum > best:
                    best = rsum
                    self.Wx, self.Wy, self.rho = Wx[:, :dim] * weight, Wy[:, :dim] * weight, rho
                    run.chose(ridge=ridge, dim=len(weight), power=power)

    def embed_images(self, split: Split) -> Tensor:
        """(N, k)."""
        return self._images(split, self.Wx)

    def embed_texts(self, split: Split) -> Tensor:
        """(T, k)."""
        return self._texts(split, self.Wy)

    def _images(self, split: Split, W: Tensor) -> Tensor:
        return project_images(split, self.image, self.mean_x, W)

    def _texts(self, split: Split, W: Tensor) -> Tensor:
        return project_texts(split, self.text, self.vocabulary, self.mean_y, W)

    def state(self) -> dict[str, Tensor]:
        """Means, projections and canonical correlations."""
        return {"mean_x": self.mean_x, "mean_y": self.mean_y, "Wx": self.Wx, "Wy": self.Wy, "rho": self.rho}

    def load(self, state: dict[str, Tensor]) -> None:
        """See `state`."""
        self.mean_x, self.mean_y = state["mean_x"], state["mean_y"]
        self.Wx, self.Wy, self.rho = state["Wx"], state["Wy"], state["rho"]
