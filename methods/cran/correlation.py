"""CCA of the training images and the words of their texts, shared by image scaling and text pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from cran_bench import COSINE, Run, Split
from cran_bench.toolbox.linalg import Matrix, canonical_correlations, moments, spectral_norm

WORDS = 3000  # vocabulary of the tf-idf


@dataclass
class Correlation:
    """CCA of global image features and tf-idf.

    After `fit`, `best` is the ridge, and `words` (V, dim) float64 holds the projection of each word, with directions
    weighted by their correlation and words by idf.  The sum over the words of a text is its projection, up to the
    norm of its tf-idf and the mean.

    Attributes:
        ridge: ridge of both sides, as a fraction of the largest variance; of several, the best on validation.
        dim: directions kept.
    """

    ridge: tuple[float, ...]
    dim: int

    part_name: ClassVar[str] = "cca"

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Choose the ridge with the best rsum on validation."""
        C = moments(train.image_blocks(), train.tfidf(WORDS), train.image_of)
        C.require_varied()
        scale_x, scale_y = spectral_norm(C.xx), spectral_norm(C.yy)
        rsums: dict[float, float] = {}
        kept: dict[float, Matrix] = {}
        for ridge in run.progress(self.ridge, "ridges", len(self.ridge)):
            Wx, Wy, rho = canonical_correlations(C, ridge * scale_x, ridge * scale_y, self.dim)
            kept[ridge] = Wy * rho
            images = np.concatenate([(x.cpu().double().numpy() - C.mean_x) @ (Wx * rho) for x in val.image_blocks()])
            texts = val.tfidf(WORDS) @ kept[ridge] - C.mean_y @ kept[ridge]
            rsums[ridge] = run.score(torch.from_numpy(images), torch.from_numpy(texts), COSINE).criterion
        self.best = max(rsums, key=rsums.__getitem__)
        counts = train.bow(WORDS)
        idf = 1 + np.log((1 + counts.shape[0]) / (1 + (counts > 0).sum(axis=0)))  # as in Split.tfidf
        self.words = torch.from_numpy(idf[:, None] * kept[self.best])
        run.chose(ridge=self.best)

    def state(self) -> dict[str, Tensor]:
        """The ridge, and the projections of words."""
        return {"ridge": torch.tensor(self.best, dtype=torch.float64), "words": self.words}

    def load(self, state: dict[str, Tensor]) -> None:
        self.best, self.words = float(state["ridge"]), state["words"]
