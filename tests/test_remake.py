"""results/remake.py: what is done stays, on whatever machine it was made, and everything else is measured again."""

import importlib.util
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import cran_bench
from cran_bench.records.archive import read_record
from cran_bench.records.schema import Address
from cran_bench.records.store import ResultStore
from cran_bench.registry import DATASETS, METHODS, each
from cran_bench.running.preparation import at_hand, find_prepared
from cran_bench.running.present import is_by_present_code, is_of_data
from cran_bench.running.runner import Runner

ROOT = Path(__file__).parent.parent


def load():
    spec = importlib.util.spec_from_file_location("remake", ROOT / "results" / "remake.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["remake"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def remake(quick_scenes, tmp_path, monkeypatch, capsys):
    """``remake("--dry-run")``: exit code and output of the command, on a plan of six rows of the hundred scenes."""
    monkeypatch.setenv("CRAN_BENCH_CACHE", str(quick_scenes.cache))
    monkeypatch.setenv("CRAN_BENCH_DATA", str(quick_scenes.data))
    monkeypatch.setenv("COLUMNS", "100")
    plan = tmp_path / "plan.toml"
    calls = [
        'methods = ["cca,cfa"]\nseeds = "0:2"\nfront_end = "small"',
        'methods = ["cca"]\nprotocols = "captions,mean"\nseeds = "0"\nfront_end = "small"',
        'methods = ["cca"]\nprotocols = "documents"\ncontrasts = ""\nfront_end = "small"',
    ]
    text = [f"[front_ends.small]\nbackbone = '{quick_scenes.backbone}'\nregions = 'boxes'"]
    text += [f'[[calls]]\ndataset = "{quick_scenes.spec}"\n{call}' for call in calls]
    text += [f'[[tables]]\nfile = "scenes/captions"\ndatasets = ["{quick_scenes.spec}"]']
    plan.write_text("\n".join(text))
    module = load()

    def call(*arguments, clean=False):
        capsys.readouterr()
        asked = ["--plan", plan, "--results", tmp_path / "results" / "reference", "-j", 1, *arguments]
        code = module.main([*map(str, asked), *(["--uncommitted"] * (not clean))])
        said = capsys.readouterr()
        return code, said.out + said.err

    call.module, call.results = module, tmp_path / "results" / "reference"
    return call


def paths(results):
    return sorted(path for path in (results / "runs").rglob("*.json") if not path.name.endswith(".examples.json"))


def moved(path, **changes):
    """The same record as one of another fingerprint, in place of the first, with other values of some fields."""
    record, stem = read_record(path), path.with_suffix("")
    names = {field: changes.pop(field) for field in ("data", "method") if field in changes}
    changes |= {name: getattr(record, name).model_copy(update=fields) for name, fields in names.items()}
    record = record.model_copy(update={"fingerprint": "0" * 64, "checksum": "", **changes})
    where = record.data.label, record.protocol, record.folds, record.method.label, record.seed
    with np.load(stem.with_suffix(".npz")) as file:
        arrays = dict(file)

    class Same:
        def arrays(self):
            return arrays

    store = ResultStore(path.parents[3])
    store.write(Address(*where, record.fingerprint), record, Same())
    for file in path.parent.glob(f"{stem.name}.*"):
        file.unlink()
    return store.path(Address(*where, record.fingerprint))


@pytest.fixture(scope="module")
def made(prepared_scenes, tmp_path_factory):
    """Records and fits of all rows of that plan."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(prepared_scenes.cache, folder / "cache")
    about = {"data": prepared_scenes.data, "cache": folder / "cache", "results": folder / "results", "jobs": 1}
    for methods, protocols, seeds in (("cca,cfa", "captions", "0:2"), ("cca", "mean,documents", "0")):
        cran_bench.run(methods, prepared_scenes.spec, protocols, seeds, **about)
    return folder


@pytest.fixture
def complete(remake, made, quick_scenes):
    """The same, when all rows are measured."""
    shutil.copytree(made / "results", remake.results)
    shutil.copytree(made / "cache", quick_scenes.cache, dirs_exist_ok=True)
    return remake


def test_a_dry_run_prints_the_plan_and_does_nothing(remake, tmp_path):
    code, said = remake("--dry-run", clean=True)
    assert code == 3 and "7 rows left of 7" in said and "never ran, not counted" in said
    assert not remake.results.exists()


def test_all_is_done_once(complete, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in paths(complete.results)}
    monkeypatch.setattr(cran_bench, "run", None)
    monkeypatch.setattr(complete.module, "examine", lambda results: True)
    assert complete()[0] == 0
    table = (complete.results.parent / "scenes" / "captions.md").read_text()
    assert "| cca:tuned" in table and "| cfa:tuned" in table
    assert complete("--dry-run")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in paths(complete.results)} == before


def test_records_of_another_machine_count_though_features_differ_in_their_last_bits(
    complete, quick_scenes, monkeypatch
):
    for path in paths(complete.results):
        other = moved(path, data={"features_sha": "e" * 64}, fingerprint=path.stem.encode().hex()[-64:].zfill(64))
        assert is_by_present_code(read_record(other))
    for path in (quick_scenes.cache / "features").glob("*/*"):
        path.unlink()
    monkeypatch.setattr(cran_bench, "run", None)
    code, said = complete("--dry-run")
    assert code == 0 and "0 rows left of 7" in said


@pytest.mark.parametrize("data", [{"sources_sha": "e" * 64}, {"split_sha": "e" * 64}, {"front_end": "other"}])
def test_records_of_other_data_do_not(complete, data):
    path = next(path for path in paths(complete.results) if path.name.startswith("cfa"))
    moved(path, data=data)
    code, said = complete("--dry-run")
    assert code == 3 and "1 row left of 7" in said


@pytest.mark.parametrize("method", [{"code_sha": "e" * 64}, {"parameters": {"dim": 3}}])
def test_records_of_other_code_are_measured_again_and_removed(complete, method):
    path = moved(next(path for path in paths(complete.results) if path.name.startswith("cfa")), method=method)
    assert not is_by_present_code(read_record(path))
    assert "1 row left of 7" in complete("--dry-run")[1]
    code, said = complete()
    assert "removed old records: 1" in said and "records by other code than the present: 0" in said
    assert not path.exists() and not path.with_suffix(".npz").exists() and len(paths(complete.results)) == 6
    assert code == int("with uncommitted changes: 0" not in said)


def test_what_is_superseded_is_removed_and_other_rows_stay(complete, quick_scenes):
    cran_bench.run(
        "kcca", quick_scenes.spec, data=quick_scenes.data, cache=quick_scenes.cache, results=complete.results
    )
    path = next(path for path in paths(complete.results) if path.name.startswith("cfa"))
    kept = path.read_bytes(), path.with_suffix(".npz").read_bytes()
    old = moved(path, started="2020-01-01T00:00:00+00:00")
    path.write_bytes(kept[0])
    path.with_suffix(".npz").write_bytes(kept[1])
    assert "removed old records: 1" in complete()[1]
    assert path.exists() and not old.exists() and any(one.name.startswith("kcca") for one in paths(complete.results))


def test_stopped_at_any_moment_it_goes_on(remake, monkeypatch):
    write = ResultStore.write

    def once(self, *about):
        record = write(self, *about)
        os.kill(os.getpid(), signal.SIGTERM)
        return record

    monkeypatch.setattr(ResultStore, "write", once)
    code, said = remake()
    assert code == 130 and said.endswith("stopped: the same command goes on\n")
    (first,) = paths(remake.results)
    monkeypatch.setattr(ResultStore, "write", write)
    before = first.stat().st_mtime_ns
    assert "5 rows left of 7" in remake("--dry-run")[1]  # the record is of a row in two calls
    assert "removed old records: 0" in remake()[1]
    assert first.stat().st_mtime_ns == before and len(paths(remake.results)) == 6


def test_no_call_begins_when_the_time_is_up(remake):
    code, said = remake("--hours", 0)
    assert code == 3 and "the time is up" in said and "7 rows left of 7" in said and not paths(remake.results)


def test_it_refuses_code_that_is_not_committed(remake, monkeypatch):
    for commit, why in (("0123456789ab+", "not committed"), (None, "not that of a checkout")):
        monkeypatch.setattr(remake.module, "commit", lambda commit=commit: commit)
        code, said = remake(clean=True)
        assert code == 2 and why in said and not remake.results.exists()


def test_what_cannot_run_is_said_and_left(remake, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(plan.read_text().replace("backbone = 'pixels[dim=64]'", "backbone = 'onnx:nowhere.onnx'"))
    code, said = remake()
    assert code == 3 and "there are 0 files nowhere.onnx below" in said and "give --models" in said
    plan.write_text("[[calls]]\nmethod = 3")
    assert remake()[0] == 2


def test_files_are_found_by_name(remake, tmp_path):
    (tmp_path / "models" / "deep").mkdir(parents=True)
    file = tmp_path / "models" / "deep" / "net.onnx"
    file.touch()
    made = remake.module.Remake(remake.module.Book(calls=[]), remake.results, tmp_path / "models", 1)
    assert made.found("onnx:net.onnx[tensor=penultimate]") == f"onnx:{file}[tensor=penultimate]"
    assert [made.found(spec) for spec in ("", "ppmi-svd", "boxes")] == ["", "ppmi-svd", "boxes"]


def test_rows_that_are_left_are_put_together(remake):
    every = [("captions", 0), ("captions", 1)]
    some = {"cca": every, "cfa": every, "kcca": [("mean", 0), ("captions", 1)], "macc": [("captions", 1)]}
    assert [*map(tuple, remake.module._products(some))] == [
        (["cca", "cfa"], ["captions"], [0, 1]),
        (["kcca"], ["mean"], [0]),
        (["kcca", "macc"], ["captions"], [1]),
    ]


def test_data_at_hand_is_what_records_say_without_extracting(quick_scenes, tmp_path):
    spec = DATASETS.configure(quick_scenes.spec)
    about = quick_scenes.backbone, "boxes"
    real = find_prepared(spec, quick_scenes.data, quick_scenes.cache, *about)
    blank = at_hand(spec, quick_scenes.data, tmp_path / "empty", *about)
    there = at_hand(spec, quick_scenes.data, quick_scenes.cache, *about)
    assert {**blank.digests, "features_sha": ""} == {**real.digests, "features_sha": ""}
    assert there.digests == real.digests and blank.digests != real.digests
    assert not list((tmp_path / "empty").glob("features/*/manifest.json"))
    assert blank.features.globals.shape == real.features.globals.shape
    cran_bench.run("cca", quick_scenes.spec, data=quick_scenes.data, cache=quick_scenes.cache, results=tmp_path / "one")
    (path,) = paths(tmp_path / "one")
    info = Runner(blank, tmp_path, tmp_path, None).data_info
    assert is_of_data(read_record(path), info)


def test_the_committed_plan_names_what_there_is():
    """Its calls, and the tables that tests, pictures and pages read."""
    module = load()
    book = module.read_book(ROOT / "results" / "remake.toml")
    for call in book.calls:
        DATASETS.configure(call.dataset)
        for spec in module._methods(call):
            METHODS.configure(spec)
        assert call.front_end in ("", *book.front_ends)
        assert len(each(call.methods)) == len(set(each(call.methods)))
        assert not call.contrasts or "captions" in call.protocols
    files = {sheet.file for sheet in book.tables}
    assert {"scenes/captions", "flickr8k/captions", "wikipedia/category"} <= files
    measured = {DATASETS.configure(call.dataset).label for call in book.calls if not call.quick}
    assert {name for sheet in book.tables for name in sheet.datasets} == measured
    assert "shared" not in json.dumps(book.model_dump())
