"""CCA: canonical correlation analysis, a row of Tables 1 and 2.

    max  w' Cxy v   subject to   w' (Cxx + rx I) w = v' (Cyy + ry I) v = 1

H. Hotelling, "Relations between two sets of variates", Biometrika 1936; for images and texts Rasiwasia et al. 2010.
With Cxx + rx I = Lx Lx' and likewise for y, the solution follows from the singular value decomposition
Lx^-1 Cxy Ly^-T = U R V': Wx = Lx^-T U and Wy = Ly^-T V, and R holds the canonical correlations.  Every (image, text)
pair is one sample.  Projections are weighted by a power of the correlations (Klein et al. 2015 take 1) and compared by
cosine.  The preset `cm` is the correlation matching of Rasiwasia et al.: five dimensions without weights or ridge.

Memory: the covariances and their factors in float64, at most 32 (p + q)^2 bytes; the data is read in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from cran_bench import Run, Split, register

from ._linear import LinearMethod


@register(
    "cca",
    paper_row="CCA",
    presets={
        "paper": {
            "image": "l2",
            "sublinear": False,
            "ridge_image": (1e-8,),
            "ridge_text": (1e-8,),
            "dim": (4096,),
            "power": (0.0,),
        },
        "cm": {
            "image": "none",
            "text_scaling": "none",
            "sublinear": False,
            "ridge_image": (1e-10,),
            "ridge_text": (1e-10,),
            "dim": (5,),
            "power": (0.0,),
        },
        "tuned": {},
    },
    search={"image": ("sqrt", "l2", "none"), "text": ("tfidf", "bow", "vectors"), "vocabulary": (1500, 3000, 6000)},
)
@dataclass
class CCA(LinearMethod):
    """CCA with a ridge on each side.

    Attributes:
        ridge_image: rx as a fraction of the largest variance of the image view.
        ridge_text: ry as a fraction of the largest variance of the text view.
    """

    ridge_image: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 2e-2, 5e-2)
    ridge_text: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 2e-2)

    refits = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(*self.ridge_image, *self.ridge_text) < 0:
            raise ValueError("ridge_image and ridge_text are not negative")

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Compute the covariances once, then one decomposition for each ridge."""
        self.begin(run)
        self.correlate(self.moments(train, run), val, run, self.ridge_image, self.ridge_text)
