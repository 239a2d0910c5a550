"""CFA: cross-modal factor analysis (Li, Dimitrova, Li, Sethi, ACM Multimedia 2003), a row of Tables 1 and 2.

    max  tr(A' X' Y B)   subject to   A' A = B' B = I

The solution follows from the singular value decomposition of the centred cross-product X' Y = U S V': A = U_k, B = V_k.
(For square A and B this minimises |XA - YB|; for fewer columns the decomposition is the definition.)  No matrix is
inverted, so no ridge is needed, but unlike CCA the solution depends on the scale of the columns of X and Y.  Every
(image, text) pair is one sample; projections are compared by cosine.

Memory: the covariances and their factors in float64, at most 32 (p + q)^2 bytes; the data is read in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from cran_bench import Run, Split, register
from cran_bench.toolbox.linalg import cross_factors

from ._linear import LinearMethod


@register(
    "cfa",
    paper_row="CFA",
    presets={
        "paper": {"image": "l2", "sublinear": False, "dim": (300,), "power": (0.0,), "text_std_power": (0.0,)},
        "tuned": {},
    },
    search={"image": ("sqrt", "l2", "none"), "text": ("tfidf", "bow", "vectors"), "vocabulary": (1500, 3000, 6000)},
)
@dataclass
class CFA(LinearMethod):
    """Cross-modal factor analysis with scaled text columns.

    Attributes:
        text_std_power: each text column is divided by its standard deviation to this power, so that rare words count
            more; 0 is the method of Li et al., 1 gives every word the same variance.
    """

    power: tuple[float, ...] = (-0.5, -0.25, 0.0)
    text_std_power: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)

    refits = True

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Compute one decomposition for each scaling of the text columns."""
        self.begin(run)
        C = self.moments(train, run)
        for std_power in run.progress(self.text_std_power, "decompositions", len(self.text_std_power)):
            self.offer(val, run, *cross_factors(C, std_power, max(self.dim)), text_std_power=std_power)
