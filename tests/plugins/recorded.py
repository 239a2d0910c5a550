"""For tests of tables and comparisons: a record of made figures."""

from cran_bench.records.schema import MethodInfo, Record, Seconds, SimilarityInfo
from cran_bench.registry import METHODS


def record_of(
    label, data, metrics, fingerprint, *, protocol="captions", folds=0, seed=0, parameters=None, environment=None
):
    """The record of a method, given by its label, on `data`; it took a second in each phase."""
    name, _, preset = label.partition("[")[0].partition(":")
    return Record(
        fingerprint=fingerprint,
        data=data,
        method=MethodInfo(
            label=label,
            name=name,
            preset=preset,
            paper_row=METHODS.describe(name).paper_row,
            parameters=parameters or {},
            chose={},
            unit="documents" if protocol == "documents" else "captions",
            code_sha="c" * 64,
            fit_fingerprint="d" * 64,
        ),
        protocol=protocol,
        folds=folds,
        seed=seed,
        metrics=metrics,
        ties=0,
        seconds=Seconds(features=1, fit=1, embed=1, similarity=1, rank=1),
        similarity=SimilarityInfo(name="cosine", kernel="reference", dtype="float64"),
        device="cpu",
        peak_memory=1,
        environment=environment or {"commit": "0123456789ab"},
        started="2026-01-01T00:00:00+00:00",
        ranks_sha="",
    )
