"""Records as one table: every figure and digest of every file, older versions and failures, as CSV and as Parquet."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from recorded import IMAGES, TEXTS, ranks_of, record_of

import cran_bench
from cran_bench.errors import BadInput
from cran_bench.ranking.metrics import Counts
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.records.schema import Address, DataInfo, Failure, FittedOn, TuningInfo
from cran_bench.records.store import ResultStore
from cran_bench.records.tasks import evidence_metrics
from cran_bench.tables.record_frame import COLUMNS, OF_RECALL

DOCS = Path(__file__).parents[2] / "docs"
ODD = 'scenes[note=<b>"x", כלב\r\n]'
FIT = dict.fromkeys(("split_sha", "features_sha", "sources_sha", "images_sha", "extras_sha"), "7b" * 32)
FITTED = FittedOn(label="flickr8k", **FIT, in_train=1, in_val=2, words=30, unknown_words=4, unknown_captions=5)
TUNING = TuningInfo(
    trials=2, seed=0, space={"dim": [8, 16]}, tried=[{"dim": 8}, {"dim": 16}], rsum=[1.5, None], chosen=0
)


def data_info(label="scenes", **data):
    about = {"label": label, "quick": False, "split_sha": "5a" * 32, "images": 10, "captions": 20}
    about |= {"front_end": "pixels + boxes", "features_sha": "f" * 64, "vectors": "ppmi-svd"}
    return DataInfo(**about | data)


def written(store, better, method="cca:tuned", label="scenes", *, seed=0, day=1, ranks=None, about=None, **data):
    """The path of a new record: every right answer is behind `better` wrong ones, or it is of other ranks."""
    counts = [Counts(*(np.full(size, value, np.int32) for value in (better, 0, 1))) for size in (10, 20)]
    ranks = ranks or RecordedRanks(counts[0], counts[1], np.arange(10).repeat(2))
    figures = {**ranks.metrics().values(), "twin_accuracy": 50 + 1 / 3, **evidence_metrics(ranks)}
    environment = {"commit": "0123456789ab+", "cpu": "a, cpu", "gpu": None, "threads": 2, "torch": "2.13.0"}
    parameters = {"dim": [8, 16], "text": 'tf "idf"', "power": None}
    made = record_of(method, data_info(label, **data), figures, f"{better}{seed}{day}".ljust(64, "a"), seed=seed)
    details = {"parameters": parameters, "chose": {"dim": 8 + seed}, "encoders": ["backbone"]}
    changes = {"method": made.method.model_copy(update=details | (about or {})), "environment": environment}
    made = made.model_copy(update={**changes, "started": f"2026-01-0{day}T00:00:00+00:00"})
    address = Address(label, "captions", 0, method, seed, made.fingerprint)
    store.write(address, made, ranks)
    return store.path(address)


@pytest.fixture
def results(tmp_path):
    """Two seeds, an older version of one of them, another dataset, a failure, and a record that was changed."""
    store = ResultStore(tmp_path / "results")
    older = written(store, 1)
    for seed in (0, 1):
        written(store, 2, seed=seed, day=2)
    written(store, 3, "cfa:tuned", about={"tuning": TUNING, "refit": True})
    written(store, 1, "cfa:tuned", ODD, ranks=ranks_of(), images=IMAGES, captions=TEXTS, fitted_on=FITTED)
    lost = {
        "error": "RuntimeError: no, „<b>“",
        "traceback": "",
        "started": "2026-01-03T00:00:00+00:00",
        "environment": {},
    }
    failure = Failure(data=data_info(), method_label="kcca:tuned", protocol="captions", folds=0, seed=0, **lost)
    store.write_failure(Address("scenes", "captions", 0, "kcca:tuned", 0, "9" * 64), failure)
    return tmp_path / "results", older


def changed(path, **values):
    """A record's file with other values, as a hand might change it."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def plain(frame, kinds):
    """A frame as CSV can hold it: no types of integers with gaps, and no difference between '' and nothing."""
    counts = [name for name, kind in kinds.items() if kind == "Int64"]
    texts = [name for name, kind in kinds.items() if pd.api.types.is_string_dtype(kind)]
    return frame.astype(dict.fromkeys(counts, float) | dict.fromkeys(texts, object)).fillna(dict.fromkeys(texts, ""))


def test_every_value_of_every_file_is_there(results):
    folder, older = results
    frame = cran_bench.read_records(folder, everything=True)
    lines = frame[frame["status"] == "ok"].set_index("path", drop=False)
    files = [path for path in folder.rglob("*.json") if ".error" not in path.name]
    assert sorted(lines.index) == sorted(str(path.relative_to(folder)) for path in files) and len(files) == 5
    renamed = {
        "data.label": "dataset",
        "method.label": "method",
        "method.name": "plugin",
        "similarity.name": "similarity",
    }
    renamed |= {"data.contrasts": "contrasts_made", "data.fitted_on": "overlap", "similarity.kernel": "kernel"}
    for path in files:
        line, record = lines.loc[str(path.relative_to(folder))], json.loads(path.read_text())
        values = {name: value for name, value in record.items() if not isinstance(value, dict)} | record["metrics"]
        values["environment"] = record["environment"]
        values |= {f"{phase}_s": seconds for phase, seconds in record["seconds"].items()}
        for group in ("data", "method", "similarity"):
            prefix = {"similarity": "kernel_"}.get(group, "")
            values |= {renamed.get(f"{group}.{k}", prefix + k): value for k, value in record[group].items()}
        values |= {name: record["environment"][name] for name in ("cpu", "gpu", "threads", "torch", "commit")}
        for name, value in values.items():
            found = line[name]
            if isinstance(value, dict):
                assert json.loads(found) == value, name
            elif name == "started":
                assert found == pd.Timestamp(value)
            else:
                assert found == ("" if value is None else " ".join(value) if isinstance(value, list) else value), name
        assert line["fitted_on"] == ("flickr8k" if ODD in record["data"]["label"] else "")
    assert lines["shown"].to_dict() == {name: name != str(older.relative_to(folder)) for name in lines.index}
    (failed,) = frame[frame["status"] == "failed"].to_dict("records")
    assert (failed["method"], failed["reason"]) == ("kcca:tuned", "RuntimeError: no, „<b>“") and failed["shown"]
    assert np.isnan(failed["rsum"]) and failed["parameters"] == "" and not failed["refit"]
    assert (failed["folder"], Path(failed["path"]).name) == (str(folder), "kcca-tuned-s0-999999999999.error.json")


def test_columns_are_in_order_and_documented(results):
    frame = cran_bench.read_records(results[0])
    ordered = [name for names in COLUMNS.values() for name in names.split()]
    more = ["twin_accuracy", *sorted(evidence_metrics(ranks_of()))]
    at = ordered.index(OF_RECALL[-1]) + 1
    assert frame.columns.tolist() == [*ordered[:at], *more, *ordered[at:]]
    text = (DOCS / "results.md").read_text()
    assert set(ordered).difference(re.findall(r"`([a-z0-9_]+)`", text)) == set()


def test_by_default_the_newest_records_are_read(results):
    frame = cran_bench.read_records(results[0])
    assert frame["status"].eq("ok").all() and frame["shown"].all()
    assert frame.sort_values(["dataset", "method", "seed"])["i2t_medr"].tolist() == [3.0, 3.0, 4.0, 3.0]


def test_files_are_what_read_records_returns(results, command, tmp_path):
    folder, path = results
    changed(path, ties=1)
    said = command("export", "records", tmp_path / "all.csv", "--results", folder)
    assert said.code == 0 and "wrote" in said.err and "6 runs, 5 of them shown in tables" in said.err
    expected = cran_bench.read_records(folder, everything=True)
    read = pd.read_csv(tmp_path / "all.csv", parse_dates=["started"])
    pd.testing.assert_frame_equal(
        plain(read, expected.dtypes), plain(expected, expected.dtypes), check_dtype=False, rtol=1e-14
    )
    (damaged,) = expected[expected["status"] == "damaged"].to_dict("records")
    assert "was changed after it was written" in damaged["reason"]
    some = command("export", "records", tmp_path / "some.csv", "-d", "scenes", "-m", "cfa", "--results", folder)
    assert some.code == 0 and pd.read_csv(tmp_path / "some.csv")["refit"].tolist() == [True]


def test_parquet_keeps_types(results, command, tmp_path):
    pytest.importorskip("pyarrow", reason="needs the extra parquet, as in tox -e interchange")
    said = command("export", "records", tmp_path / "all.parquet", "--results", results[0])
    assert said.code == 0, said.err
    read = pd.read_parquet(tmp_path / "all.parquet")
    expected = cran_bench.read_records(results[0], everything=True)
    pd.testing.assert_frame_equal(read, expected, check_dtype=False)
    assert str(read["peak_memory_gpu"].dtype) == "Int64" and read["started"].dt.tz is not None


def test_a_record_of_a_newer_version_is_a_line_that_says_so(results):
    folder, path = results
    changed(path, schema_version=99)
    reasons = cran_bench.read_records(folder, everything=True).query("status == 'damaged'")["reason"].tolist()
    assert len(reasons) == 1 and "has schema 99" in reasons[0] and "upgrade cran-bench" in reasons[0]
    with pytest.raises(BadInput, match="has schema 99"):
        cran_bench.read_records(folder)


@pytest.mark.parametrize(
    ("file", "selection", "sentence"),
    [
        ("all.xlsx", [], "records are written as FILE.csv or FILE.parquet, not as all.xlsx: choose one of the two"),
        ("all", [], "not as all: choose"),
        ("there/all.csv", [], "there is no folder"),
        ("all.csv", ["-d", "wikipedia"], "there are no records of wikipedia below"),
        ("all.csv", ["-m", "ccaa"], "there is no method 'ccaa'; did you mean 'cca'?"),
        ("all.parquet", [], "Parquet files need the extra parquet: python -m pip install 'cran-bench[parquet]'"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(results, command, tmp_path, monkeypatch, file, selection, sentence):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = command("export", "records", tmp_path / file, *selection, "--results", results[0])
    assert said.code == 2 and sentence in " ".join(said.err.split()), said.err
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
