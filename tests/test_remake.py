"""results/remake.py: what is done stays, on whatever machine it was made, and everything else is measured again."""

import importlib.util
import json
import os
import re
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cran_bench
from cran_bench.errors import BadInput
from cran_bench.protocols import parse_protocols
from cran_bench.ranking.agreement import Agreement
from cran_bench.ranking.precisions import CATEGORY_METRICS
from cran_bench.ranking.relevance import Retrieved
from cran_bench.records.archive import read_record
from cran_bench.records.schema import Address
from cran_bench.records.store import ResultStore
from cran_bench.records.tasks import evidence_metrics
from cran_bench.registry import DATASETS, METHODS, each, quick_dataset
from cran_bench.running import past
from cran_bench.running.doctor import examine_results
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


def test_a_dry_run_prints_the_plan_and_does_nothing(remake, monkeypatch):
    monkeypatch.setattr(past, "read_journal", lambda *_: [])  # of a machine on which other tests ran nothing
    code, said = remake("--dry-run", clean=True)
    assert code == 3 and "7 rows left of 7" in said and "never ran, not counted" in said
    assert not remake.results.exists()


def test_all_is_done_once(complete, monkeypatch):
    monkeypatch.setattr(cran_bench, "run", None)
    monkeypatch.setattr(complete.module, "examine", lambda results: True)
    assert complete()[0] == 0
    before = {path: path.stat().st_mtime_ns for path in paths(complete.results)}
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
    assert "removed old records: 1" in said and "; by other code than the present: 0" in said
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
    assert "map" not in read_record(first).metrics and not remake.module.beside(first, ".answers.npz").exists()
    monkeypatch.setattr(ResultStore, "write", write)
    before = first.stat().st_mtime_ns
    assert "5 rows left of 7" in remake("--dry-run")[1]  # the record is of a row in two calls
    assert "removed old records: 0" in remake()[1]
    assert first.stat().st_mtime_ns == before and len(paths(remake.results)) == 6


@pytest.fixture
def large(quick_scenes, tmp_path):
    """``large()``: a record of a hundred scenes as `cran-bench run` stores it, with contrasts and made-up judgments."""
    about = {"data": quick_scenes.data, "cache": quick_scenes.cache, "results": tmp_path / "large"}
    cran_bench.run("cca", quick_scenes.spec, contrasts="swap", **about)
    store = ResultStore(tmp_path / "large")
    (run,) = store.runs()
    count = np.array([0, 2], dtype=np.int32)
    found = Retrieved(count, count + 1, *(np.array([0.0, 1.0]) for _ in range(6)))
    places = np.arange(4, dtype=np.int32)
    rated = Agreement(places, places, places, np.array([[1.0], [2], [4], [3]]))
    ranks = replace(run.ranks, relevant={"people": {"i2t": found}}, agreements={"people": rated})
    metrics = run.record.metrics | evidence_metrics(ranks)
    address = Address(run.record.data.label, "captions", 0, "cca:tuned", 0, run.record.fingerprint)
    store.write(address, run.record.model_copy(update={"metrics": metrics}), ranks)

    def call():
        (run,) = store.runs()
        return run

    call.results = tmp_path / "large"
    return call


PARTS = {"contrasts": ["contrasts."], "judgments": ["agreement.", "relevant."]}
PRECISIONS = {"labels", *(f"{side}_{name}" for side in ("i2t", "t2i") for name in ("ap", "ap50", "relevant"))}


@pytest.mark.parametrize("by_category", [False, True])
@pytest.mark.parametrize("keep", [(), ("contrasts",), ("judgments", "examples"), ("contrasts", "judgments")])
def test_a_small_record_is_the_same_but_for_what_is_left_out(large, keep, by_category):
    module, before = load(), large()
    arrays = before.ranks.arrays()
    gone = [start for part, starts in PARTS.items() if part not in keep for start in starts]
    kept = {name for name in arrays if not name.startswith(tuple(gone) or "-")}
    kept -= set() if by_category else PRECISIONS
    assert module.slim(before, by_category, keep)
    assert [*examine_results(large.results)] == []
    after = large()
    with np.load(after.path.with_suffix(".npz")) as stored:
        assert set(stored) == kept
        for name in kept:
            assert stored[name].dtype == arrays[name].dtype and np.array_equal(stored[name], arrays[name]), name
    here, there = (one.record.model_dump(exclude={"metrics", "ranks_sha", "checksum"}) for one in (before, after))
    assert here == there
    assert before.record.metrics.items() >= after.record.metrics.items()
    lost = before.record.metrics.keys() - after.record.metrics.keys()
    assert lost == {
        name
        for name in before.record.metrics
        if (name.startswith("contrasts") and "contrasts" not in keep)
        or (name.startswith("people.") and "judgments" not in keep)
        or (name in CATEGORY_METRICS and not by_category)
    }
    assert {path.name.partition(".")[2] for path in after.path.parent.iterdir() if path.is_file()} == {
        "npz",
        "json",
        *(["examples.json"] if "examples" in keep else []),
    }
    bytes_of = [path.read_bytes() for path in (after.path, after.path.with_suffix(".npz"))]
    assert not module.slim(after, by_category, keep)
    assert bytes_of == [path.read_bytes() for path in (after.path, after.path.with_suffix(".npz"))]


def test_a_small_record_is_a_third_of_a_large_one(large):
    def size():
        return sum(path.stat().st_size for path in large().path.parent.iterdir())

    module, before = load(), size()
    assert module.slim(large(), False) and 3 * size() < before


def test_a_damaged_record_is_not_made_small(large):
    run = large()
    run.path.with_suffix(".npz").write_bytes(b"PK")
    with pytest.raises(BadInput, match="not the file its record names"):
        load().slim(run, False)
    assert read_record(run.path) == run.record


def test_a_run_leaves_small_records_of_which_the_first_seed_keeps_what_the_plan_says(remake, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(plan.read_text().replace('seeds = "0:2"', 'seeds = "0:2"\nkeep = ["examples"]'))
    remake()
    stems = {
        path.name.partition("-tuned")[0] + path.parent.name + path.name.split("-")[2] for path in paths(remake.results)
    }
    assert stems == {"ccacaptionss0", "ccacaptionss1", "cfacaptionss0", "cfacaptionss1", "ccameans0", "ccadocumentss0"}
    for path in paths(remake.results):
        record = read_record(path)
        assert "map" not in record.metrics and "twin_accuracy" in record.metrics
        assert not remake.module.beside(path, ".answers.npz").exists()
        has_examples = remake.module.beside(path, ".examples.json").exists()
        assert has_examples == (record.protocol == "captions" and record.seed == 0), path
    assert remake("--dry-run")[0] == 0
    assert [*examine_results(remake.results)] == []


def test_everything_that_reads_records_reads_small_ones(recorded_scenes, command, tmp_path):
    shutil.copytree(recorded_scenes.results, tmp_path / "small")
    module = load()
    small, as_it_was = (["--results", str(folder)] for folder in (tmp_path / "small", recorded_scenes.results))
    for run in ResultStore(tmp_path / "small").runs():
        assert module.slim(run, False)
    compared = [
        ["table"],
        ["table", "--format", "csv"],
        ["significance", "cca", "cfa", "-d", recorded_scenes.spec],
    ]
    for asked in compared:
        said = [command(*asked, *where) for where in (small, as_it_was)]
        assert said[0].code == said[1].code == 0, said
        assert said[0].out.replace("small", "results") == said[1].out.replace("small", "results")
    said = [command("summary", *where).out.splitlines() for where in (small, as_it_was)]
    assert "protocol captions" in said[0][0] and set(said[0]) < set(said[1])  # without the figures by category
    for one, other in ((tmp_path / "small", recorded_scenes.results), (recorded_scenes.results, tmp_path / "small")):
        said = command("compare", "-d", recorded_scenes.spec, "--results", one, "--reference", other)
        assert said.code == 0 and " same" in said.out, said
    assert command("report", *small, "--data", recorded_scenes.data, "--site", tmp_path / "site").code == 0
    assert command("doctor", "--check", *small).code == 0
    said = command("run", *recorded_scenes.arguments, "-m", "cca,cfa", *small)
    assert said.code == 0 and "2 reused" in said.out + said.err


def test_curves_of_a_fit_are_kept_once(remake, tmp_path):
    plan = tmp_path / "plan.toml"
    spec = "cran[width=compact,max_epochs=1,lstm_layers=1]"
    text = plan.read_text().split("[[calls]]")
    call = text[1].split("methods")[0] + f'methods = ["{spec}"]\nprotocols = "captions,mean"\nfront_end = "small"\n'
    plan.write_text(text[0] + "[[calls]]" + call)
    remake()
    assert {path.parent.name for path in remake.results.rglob("*.curves.csv")} == {"captions"}
    assert {path.parent.name for path in paths(remake.results)} == {"captions", "mean"}


def test_rows_that_fail_are_named(remake, monkeypatch):
    def fit(self, train, val, run):
        raise ArithmeticError("no inverse")

    monkeypatch.setattr(METHODS.get("cfa").cls, "fit", fit)
    for code, said in (remake(), remake("--dry-run")):
        assert code == 3 and "2 rows left of 7" in said
        assert re.search(r"captions, cfa:tuned seed 0 FAILED: .*no inverse.* \(call 1\)", said)
        assert re.search(r"captions, cfa:tuned seed 1 FAILED", said) and "cca:tuned seed 0 FAILED" not in said


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
    measured, shown = set(), set()
    for call in book.calls:
        dataset = DATASETS.configure(quick_dataset(call.dataset) if call.quick else call.dataset).label
        usual = "category" if dataset == "wikipedia" else "recall"
        measured |= {(dataset, protocol, usual) for protocol in parse_protocols(call.protocols)}
        measured |= {(dataset, "captions", task) for task in {"contrasts", "judgments"} & {*call.keep}}
    for sheet in book.tables:
        labels = [DATASETS.configure(dataset).label for dataset in sheet.datasets]
        shown |= {(label, protocol, sheet.task) for label in labels for protocol in parse_protocols(sheet.protocols)}
    assert shown == measured
    assert "shared" not in json.dumps(book.model_dump())


def test_the_committed_plan_measures_no_row_twice():
    module = load()
    book = module.read_book(ROOT / "results" / "remake.toml")
    rows = [
        (call.dataset, call.quick, call.front_end, call.text_encoder, call.vectors, row)
        for call in book.calls
        for _, row in module._rows(call)
    ]
    assert len(rows) == len(set(rows)) > 500
    assert all("contrasts" in call.keep for call in book.calls if call.contrasts)
