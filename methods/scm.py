"""SCM: semantic correlation matching, the class probabilities of `sm` on the canonical variates of `cca`.

    u = Wx' x,  v = Wy' y  by CCA of images and texts;   score(x, y) = cos(P(class | u), P(class | v))

N. Rasiwasia et al., "A new approach to cross-modal multimedia retrieval", ACM Multimedia 2010.  Their code has 7
variates of standardised features, no ridge, and one-vs-rest regressions as in `sm`.

Memory: as for `cca`, and 32 bytes for each training image or text and each variate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cran_bench import register
from cran_bench.toolbox.linalg import Matrix, canonical_correlations, spectral_norm

from ._labelled import Standardized
from .sm import SEARCH, SM


@register(
    "scm",
    presets={
        "paper": {
            "C": (30.0,),
            "regression": ("ovr",),
            "compare": "cosine",
            "dim": (7,),
            "ridge_image": (1e-10,),
            "ridge_text": (1e-10,),
        },
        "tuned": {},
    },
    search=SEARCH,
)
@dataclass
class SCM(SM):
    """Logistic regressions on canonical variates.

    Attributes:
        dim: canonical variates of each side, at most the rank.
        power: each variate has its correlation to this power as its standard deviation.
        ridge_image: ridge of the images in CCA, as a fraction of the largest variance of the image view.
        ridge_text: ridge of the texts in CCA, as a fraction of the largest variance of the text view.
    """

    dim: tuple[int, ...] = (5, 6, 7, 8, 9, 32, 64, 128)
    power: tuple[float, ...] = (0.0,)
    ridge_image: tuple[float, ...] = (1e-10, 1e-4, 1e-2)
    ridge_text: tuple[float, ...] = (1e-10, 1e-4, 1e-2)

    subspace: ClassVar = ("dim", "power", "ridge_image", "ridge_text")

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(*self.ridge_image, *self.ridge_text) < 0:
            raise ValueError("ridge_image and ridge_text are not negative")

    def projections(
        self, z: Standardized, dim: int, power: float, ridge_image: float = 0.0, ridge_text: float = 0.0
    ) -> tuple[Matrix, Matrix]:
        """The first canonical variates of images (p, k) and texts (q, k)."""
        C = z.moments
        ridges = ridge_image * spectral_norm(C.xx), ridge_text * spectral_norm(C.yy)
        A, B, rho = canonical_correlations(C, *ridges, dim)
        return A * rho**power / z.s_x[:, None], B * rho**power / z.s_y[:, None]
