"""Exported runs in other people's tools: the recalls and reciprocal ranks of the record where nothing ties."""

import warnings

import numpy as np
import pytest

from cran_bench.records.store import ResultStore
from cran_bench.viewing.export import export

CCA = "cca[ridge_image=0.01,ridge_text=0.01,dim=32,power=1]"
KS = (1, 5, 10)


@pytest.fixture
def exported(quick_scenes, tmp_path):
    """The folder of an exported row, and the ranks of its record."""
    import cran_bench

    where = {"data": quick_scenes.data, "cache": quick_scenes.cache, "results": tmp_path / "results"}
    made = cran_bench.run(CCA, quick_scenes.spec, **where)
    assert made.records[0].ties == 0
    export(CCA, tmp_path / "there", dataset=quick_scenes.spec, **where)
    (run,) = ResultStore(tmp_path / "results").runs()
    return tmp_path / "there", run.ranks


def expected(counts):
    """Hit rates and the mean reciprocal rank of queries without ties."""
    return [*(counts.hits(k).mean() for k in KS), np.mean(1 / counts.ranks())]


@pytest.mark.parametrize("side", ["i2t", "t2i"])
def test_ranx(request, side):
    with warnings.catch_warnings(action="ignore"):
        ranx = pytest.importorskip("ranx", reason="ranx is not installed: tox -e interchange", exc_type=ImportError)
        folder, ranks = request.getfixturevalue("exported")
        judged = ranx.Qrels.from_file(str(folder / f"{side}.qrels"), kind="trec")
        run = ranx.Run.from_file(str(folder / f"{side}.run"), kind="trec")
        names = [*(f"hit_rate@{k}" for k in KS), "mrr"]
        found = ranx.evaluate(judged, run, names)
    assert [found[name] for name in names] == pytest.approx(expected(getattr(ranks, side)), abs=1e-12)


@pytest.mark.parametrize("side", ["i2t", "t2i"])
def test_trec_eval(request, side):
    trec = pytest.importorskip("pytrec_eval", reason="pytrec_eval is not installed: tox -e interchange")
    folder, ranks = request.getfixturevalue("exported")
    with (folder / f"{side}.qrels").open() as judged, (folder / f"{side}.run").open() as lines:
        evaluator = trec.RelevanceEvaluator(trec.parse_qrel(judged), {"success", "recip_rank"})
        found = evaluator.evaluate(trec.parse_run(lines))
    names = [*(f"success_{k}" for k in KS), "recip_rank"]
    means = [np.mean([query[name] for query in found.values()]) for name in names]
    assert means == pytest.approx(expected(getattr(ranks, side)), abs=1e-12)
