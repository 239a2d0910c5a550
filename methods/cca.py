"""CCA: canonical correlation analysis, the first row of Tables 1 and 2.

    max  w' Cxy v   subject to   w' (Cxx + rx I) w = v' (Cyy + ry I) v = 1

H. Hotelling, "Relations between two sets of variates", Biometrika 1936; for images and texts Rasiwasia et al. 2010.
With Cxx + rx I = Lx Lx' and likewise for y, the answer is the singular value decomposition of Lx^-1 Cxy Ly^-T = U R V':
Wx = Lx^-T U and Wy = Ly^-T V, and R holds the canonical correlations.  Every (image, text) pair is one sample.
Projections are scaled by a power of the correlations (Klein et al. 2015 take 1) and compared by their cosine.

Memory: the two covariances and their factors in float64, about 32 (p + q)^2 bytes; the data passes by in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from cran_bench import Run, Split, register
from cran_bench.linalg import canonical_correlations, spectral_norm

from ._linear import LinearMethod


@register(
    "cca",
    paper_row="CCA",
    presets={
        "paper": {"image": "l2", "ridge_image": (1e-8,), "ridge_text": (1e-8,), "dim": (4096,), "power": (0.0,)},
        "tuned": {},
    },
)
@dataclass
class CCA(LinearMethod):
    """Hyper-parameters beyond those of every linear method.

    Attributes:
        ridge_image: rx as a fraction of the largest variance of the image view.
        ridge_text: ry as a fraction of the largest variance of the text view.
    """

    ridge_image: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 2e-2, 5e-2)
    ridge_text: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 2e-2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(*self.ridge_image, *self.ridge_text) < 0:
            raise ValueError("ridge_image and ridge_text are not negative")

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Covariances once, one decomposition per ridge: the image's is chosen first, then the text's."""
        C = self.moments(train, run)
        scale_x, scale_y = spectral_norm(C.xx), spectral_norm(C.yy)
        tried: dict[tuple[float, float], float] = {}

        def best_of(pairs: list[tuple[float, float]]) -> tuple[float, float]:
            for rx, ry in run.progress([pair for pair in pairs if pair not in tried], "ridges", len(pairs)):
                Wx, Wy, rho = canonical_correlations(C, rx * scale_x, ry * scale_y, max(self.dim))
                tried[rx, ry] = self.offer(val, run, Wx, Wy, rho, ridge_image=rx, ridge_text=ry)
            return max(pairs, key=lambda pair: tried[pair])

        middle = self.ridge_text[len(self.ridge_text) // 2]
        rx, _ = best_of([(rx, middle) for rx in self.ridge_image])
        best_of([(rx, ry) for ry in self.ridge_text])
