"""CFA: cross-modal factor analysis (Li, Dimitrova, Li, Sethi, ACM Multimedia 2003), a row of Tables 1 and 2.

    max  tr(A' X' Y B)   subject to   A' A = B' B = I

solved by the singular value decomposition of the centred cross-product X' Y = U S V': A = U_k, B = V_k.  (For square
A and B this is the minimum of |XA - YB|; for fewer columns the decomposition is the definition.)  Nothing is inverted,
so nothing needs a ridge, but unlike CCA the solution depends on how the columns of X and Y are scaled.  Every
(image, text) pair is one sample; projections are compared by their cosine.

Memory: covariances in float64 and what is made of them, at most 32 (p + q)^2 bytes; the data passes by in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from cran_bench import Run, Split, register
from cran_bench.toolbox.linalg import cross_factors

from ._linear import LinearMethod


@register(
    "cfa",
    paper_row="CFA",
    presets={"paper": {"image": "l2", "dim": (300,), "power": (0.0,), "evening": (0.0,)}, "tuned": {}},
)
@dataclass
class CFA(LinearMethod):
    """Hyper-parameters beyond those of every linear method.

    Attributes:
        evening: text columns are divided by this power of their standard deviation, so that rare words count more; 0
            is Li's method, 1 gives every word the same variance.
    """

    power: tuple[float, ...] = (-0.5, -0.25, 0.0)
    evening: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """One decomposition for each way of scaling the text columns."""
        self.begin(run)
        C = self.moments(train, run)
        for evening in run.progress(self.evening, "decompositions", len(self.evening)):
            self.offer(val, run, *cross_factors(C, evening, max(self.dim)), evening=evening)
