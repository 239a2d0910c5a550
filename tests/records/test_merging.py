"""Records of others: figures are those of the ranks, rows say where they are from, and no file is trusted."""

import io
import json
import os
import zipfile
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from recorded import IMAGES, change, data_of, failure_of, make_results, ranks_of, recall_ranks, store_failure, store_run

import cran_bench
from cran_bench.cli.options import load_tables
from cran_bench.errors import BadInput
from cran_bench.machine.storage import sha256_bytes
from cran_bench.ranking.evaluation import metrics_of
from cran_bench.ranking.precisions import Precision, Precisions
from cran_bench.records import archive
from cran_bench.records.archive import read_ranks, read_record
from cran_bench.records.schema import Seconds
from cran_bench.records.store import ResultStore
from cran_bench.running.doctor import examine_results
from cran_bench.tables.tables import build_tables, render

JUDGED = {"contrasts": "swap", "contrasts_sha": "c" * 64, "judgments_sha": "d" * 64}
CORRELATIONS = {"expert.tau_b", "expert.tau_c", "expert.spearman"}
KINDS = ("whole", "folds", "labelled", "judged")


def write(results, kind):
    """A record of a whole split or of folds that leave an image over, with categories, or judged; its path."""
    if kind == "judged":
        return store_run(results, "cca:tuned", ranks_of(crossed=True), data=data_of(**JUDGED))
    if kind == "folds":
        ranks = recall_ranks(images=IMAGES - 1)
        return store_run(results, "cca:tuned", ranks, folds=3, metrics=metrics_of(ranks, 3).values())
    if kind == "whole":
        return store_run(results, "cca:tuned", metrics={**recall_ranks().metrics().values(), "twin_accuracy": 61.0})
    random, ranks = np.random.default_rng(0), recall_ranks(per=1)
    labels = (np.arange(IMAGES)[:, None] % 3 == np.arange(3)).astype(np.uint8)
    nine = np.full(IMAGES, 9, np.int32)
    i2t, t2i = (Precision(random.random(IMAGES), random.random(IMAGES), nine) for _ in range(2))
    ranks = replace(ranks, precisions=Precisions(i2t, t2i, ranks.image_of, labels))
    figures = {**ranks.metrics().values(), **ranks.precisions.figures()}
    about = {"data": data_of(images=IMAGES, captions=IMAGES), "protocol": "documents"}
    return store_run(results, "cca:tuned", ranks, metrics=figures, **about)


def figures_of(path):
    return json.loads(path.read_text())["metrics"]


def said_of(results):
    """What is wrong with the only record."""
    runs, failures = ResultStore(results).read()
    assert not runs and [failure.kind for failure in failures] == ["damaged"]
    return failures[0].error


# figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_that_of_the_ranks(tmp_path, kind):
    path = write(tmp_path, kind)
    own = figures_of(path)
    assert len(own) > {"whole": 11, "folds": 10, "labelled": 20, "judged": 40}[kind]
    runs, failures = ResultStore(tmp_path).read()
    assert len(runs) == 1 and not failures
    for figure, value in own.items():
        for wrong, is_said in ((value * (1 + 1e-12), False), (value * (1 + 1e-6) + 1e-6, True)):
            change(path, metrics={**own, figure: wrong})
            record, expected = read_record(path), is_said and figure != "twin_accuracy"
            if not expected or figure in CORRELATIONS:
                read_ranks(path, record)
            if expected:
                with pytest.raises(BadInput, match=rf"is damaged: its {figure} is .*, but its ranks give .*--force"):
                    read_ranks(path, record, correlations=True)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"i2t_r1": 99.0},
            r"scenes/captions/cca-tuned-s0-\w+\.json is damaged: its i2t_r1 is 99, but its ranks give 40: ",
        ),
        ({"i2t_r2": 50.0}, "its ranks give no i2t_r2"),
        ({"map": 0.5}, "its ranks give no map"),
        ({"twin_accuracy": 101.0}, "its twin_accuracy is 101, and not from 0 to 100"),
    ],
)
def test_a_figure_that_was_not_measured_is_no_number(command, tmp_path, changes, sentence):
    path = write(tmp_path, "whole")
    change(path, metrics={**figures_of(path), **changes})
    with pytest.raises(BadInput, match=sentence):
        cran_bench.read_records(tmp_path)
    found = ResultStore(tmp_path)
    with pytest.raises(BadInput, match=sentence):
        _ = found.runs()[0].ranks
    with pytest.raises(BadInput, match=sentence):
        found.find(address_of(read_record(path)))
    said = command("table", "--results", tmp_path, "--wide")
    assert said.code == 0 and "cca:tuned" in said.out and "damaged" in said.out and "99" not in said.out.split("DAM")[0]
    (complaint,) = (one for one in examine_results(tmp_path) if one.path == path)
    assert "is damaged: its" in complaint.what


def address_of(record):
    from cran_bench.records.schema import Address

    about = record.data.label, record.protocol, record.folds, record.method.label, record.seed, record.fingerprint
    return Address(*about)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ties": 7}, "its number of ties is 7, but its ranks give 0"),
        ({"folds": -1}, "holds no ranks .-1 folds need"),
        ({"folds": 10**12}, "40 images and 120 captions, but its ranks are of 40 images and 120 texts"),
        ({"protocol": "documents"}, "but its ranks are of 40 images and 120 texts"),
        (
            {"data": data_of(images=400).model_dump()},
            "its data has 400 images and 120 captions, but its ranks are of 40",
        ),
        ({"data": data_of(captions=121).model_dump()}, "121 captions, but"),
    ],
)
def test_ranks_of_another_test_split(tmp_path, changes, sentence):
    change(write(tmp_path, "whole"), **changes)
    with pytest.raises(BadInput, match=sentence):
        _ = ResultStore(tmp_path).runs()[0].ranks


def test_figures_at_random(tmp_path):
    """Of a record with any figures but its own none is shown."""
    path, random = write(tmp_path, "judged"), Random(0)
    own, values = figures_of(path), [0, -0.0, -1, 1e308, 5e-324, 100, 33.3, 2**53]
    for _ in range(30):
        some = random.sample(sorted(own.keys() - CORRELATIONS), random.randint(1, 3))
        changed = {**own, **{name: random.choice([*values, own[name] + 1e-3]) for name in some}}
        change(path, metrics=changed)
        if all(np.isclose(changed[name], own[name], 1e-9, 1e-9) for name in some):
            read_ranks(path, read_record(path))
        else:
            assert any(f"its {name} is" in said_of(tmp_path) for name in some)


def test_correlations_are_shown_from_the_ranks_and_verified_by_the_doctor(command, tmp_path):
    path = write(tmp_path, "judged")
    before, value = (
        command("table", "judgments", "--results", tmp_path, "-f", "csv").out,
        figures_of(path)["expert.tau_c"],
    )
    change(path, metrics={**figures_of(path), "expert.tau_c": 99.0})
    assert command("table", "judgments", "--results", tmp_path, "-f", "csv").out == before and "tau_c" in before
    assert cran_bench.read_records(tmp_path)["expert.tau_c"][0] == value
    (complaint, *_) = examine_results(tmp_path)
    assert "its expert.tau_c is 99, but its ranks give" in complaint.what


# files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".json", ".npz", ".error.json", ".examples.json", ".answers.npz", ".curves.csv"])
@pytest.mark.parametrize("kind", ["a device", "a pipe", "too large"])
def test_no_file_is_read_without_end(tmp_path, monkeypatch, ending, kind):
    path = write(tmp_path, "whole")
    file = path.with_name(path.stem + ending)
    file.unlink(missing_ok=True)
    if kind == "a device":
        file.symlink_to("/dev/zero")
    elif kind == "a pipe":
        os.mkfifo(file)
    else:
        file.write_bytes(bytes(2000))
        monkeypatch.setattr(archive, "MOST_RANKS" if "npz" in ending else "MOST_TEXT", 1000)
    expected = "no regular file" if kind != "too large" else "more than 1,000 bytes"
    record = read_record(path) if "npz" in ending else None
    with pytest.raises(BadInput, match=f"{expected}.*: delete it"):
        match ending:
            case ".json":
                read_record(path)
            case ".npz":
                read_ranks(path, record)
            case ".error.json":
                ResultStore(tmp_path).failures()
            case ".answers.npz":
                archive.read_answers(path, record)
            case ".examples.json":
                archive.read_examples(path)
            case _:
                archive.read_curves(path)


@pytest.mark.parametrize(
    "changes",
    [
        *({"seconds": {**dict.fromkeys(Seconds.model_fields, 1.0), "fit": fit}} for fit in (-5.0, 1e300)),
        *({"peak_memory": memory} for memory in (-1, 10**30)),
    ],
    ids=str,
)
def test_impossible_costs_are_no_record(tmp_path, changes):
    path = store_run(tmp_path, "cca:tuned")
    change(path, **changes)
    with pytest.raises(BadInput, match=r"is not a record \((seconds.fit|peak_memory): "):
        read_record(path)


def test_arrays_are_not_unpacked_beyond_reason(tmp_path, monkeypatch):
    """A record names how many queries it has, so that a file of a few kilobytes may claim any number."""
    path, buffer = write(tmp_path, "whole"), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in recall_ranks().arrays():
            packed.writestr(f"{name}.npy", bytes(1_000_000))
    monkeypatch.setattr(archive, "MOST_RANKS", 5_000_000)
    path.with_suffix(".npz").write_bytes(buffer.getvalue())
    change(path, data=data_of(captions=10**9).model_dump(), ranks_sha=sha256_bytes(buffer.getvalue()))
    with pytest.raises(BadInput, match="its arrays have 7,000,000 bytes, more than 5,000,000"):
        read_ranks(path, read_record(path))


def test_a_newer_record_has_its_row_in_the_table_of_its_data(tmp_path):
    path = store_run(tmp_path, "cca:tuned")
    change(path, schema_version=2, data={**data_of().model_dump(), "licence": "new"})
    (table,) = load_tables(tmp_path)
    assert table.group.split_sha == "5" * 64 and [row.label for row in table.rows] == ["cca:tuned"]
    assert "has schema 2, but this version reads schemas up to 1: upgrade cran-bench" in table.failed[0]


def test_a_newer_error_record_is_no_reason_to_delete_it(tmp_path):
    path = store_failure(tmp_path, "cfa:tuned")
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2, "more": 1}))
    assert "has schema 2, but this version reads schemas up to 1: upgrade cran-bench" in said_of(tmp_path)


# folders --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders of results, given as `a` and `b|\x1b`."""
    monkeypatch.chdir(tmp_path)
    return type(tmp_path)("a"), type(tmp_path)("b \x1b")


def merged(folders, *tasks):
    (table,) = load_tables(folders, [], [], [], *tasks)
    return table


def rows(table):
    return {row.label: (row.folders, [run.record.seed for run in row.runs], row.status) for row in table.rows}


def test_rows_say_which_folder_they_are_from(command, folders):
    a, b = folders
    store_run(a, "cca:tuned")
    store_run(a, "kcca:tuned", recall_ranks(seed=1), seed=1)
    store_run(b, "kcca:tuned", recall_ranks(seed=2), seed=2)
    store_run(b, "mine:tuned", recall_ranks(0.9))
    assert not [note for note in merged([a]).notes if note.startswith("From")]
    table = merged(folders)
    assert rows(table)["kcca:tuned"] == ([a, b], [1, 2], "ok") and rows(table)["mine:tuned"] == ([b], [0], "ok")
    assert "From a: kcca:tuned (seed 1), cca:tuned." in table.notes
    assert r"From b \x1b: mine:tuned, kcca:tuned (seed 2)." in table.notes
    frame = table.frame()
    assert frame.set_index("method")["folder"].to_dict() == {
        "mine:tuned": str(b),
        "kcca:tuned": f"a; {b}",
        "cca:tuned": "a",
    }
    assert [table.folders for table in build_tables(ResultStore(a).runs(), [failure_of("cfa:tuned")])] == [[a]]
    both = ["--results", a, "--results", b]
    for verb in (
        ["table"],
        ["summary"],
        ["significance", "-d", "scenes"],
        ["table", "1", "-d", "scenes", "-p", "captions"],
    ):
        said = command(*verb, *both)
        assert said.code == 0 and "From a: " in said.out and "\x1b" not in said.out, said.err
    page = a / "page.html"
    assert command("report", *both, "-o", page).code == 0 and r"From b \\x1b: mine:tuned, kcca" in page.read_text()
    found = cran_bench.read_records([a, str(b)])
    assert len(found) == 4 and set(found["method"]) == {"cca:tuned", "kcca:tuned", "mine:tuned"}


def test_the_same_run_in_two_folders_has_the_same_ranks_or_is_not_reproduced(folders):
    a, b = folders
    for label in ("cca:tuned", "cfa:tuned", "kcca:tuned"):
        store_run(a, label, fingerprint=sha256_bytes(label.encode()))
    again = {"started": "2026-02-01T00:00:00+00:00", "fingerprint": sha256_bytes(b"cca:tuned")}
    path = store_run(b, "cca:tuned", **again)
    arrays = io.BytesIO()
    np.savez(arrays, **recall_ranks().arrays())  # equal arrays in another file
    path.with_suffix(".npz").write_bytes(arrays.getvalue())
    change(path, ranks_sha=sha256_bytes(arrays.getvalue()))
    store_run(b, "cfa:tuned", **{**again, "fingerprint": sha256_bytes(b"cfa:tuned")})
    store_run(b, "kcca:tuned", recall_ranks(0.4), **{**again, "fingerprint": sha256_bytes(b"kcca:tuned")})
    table = merged(folders)
    assert [(row.folders, len(row.runs)) for row in table.rows] == [([b], 1)] * 3
    then, now = (f"{ranks.metrics().rsum:.2f}" for ranks in (recall_ranks(), recall_ranks(0.4)))
    assert (
        rf"NOT REPRODUCED: kcca:tuned seed 0 is the same run in b \x1b and in a, but has other ranks: rsum {now} and "
        rf"{then}. The newest is shown, from b \x1b."
    ) in table.notes
    assert "Recorded in several folders with equal ranks: 2 runs." in table.notes
    again = merged([a, a.resolve(), a / ".." / "a"])
    assert again.folders == [a] and again.notes == merged([a]).notes and len(again.rows) == 3


def test_of_two_runs_of_a_row_the_newest_is_shown_and_the_other_is_named(folders):
    a, b = folders
    store_run(a, "cca:tuned", recall_ranks(0.9), started="2026-01-02T00:00:00+00:00")
    store_run(a, "cca:tuned", fingerprint="d" * 64)
    store_run(b, "cca:tuned", fingerprint="e" * 64)
    store_run(b, "cca:tuned", fingerprint="f" * 64, started="2025-01-01T00:00:00+00:00")
    for order in (folders, folders[::-1]):
        table = merged(order)
        (row,) = table.rows
        assert row.mean("rsum") == recall_ranks(0.9).metrics().rsum and row.folders == [a]
        told = [note for note in table.notes if "not shown" in note]
        assert told == [r"In b \x1b too, but older and not shown: cca:tuned seed 0, cca:tuned seed 0."]


def test_what_is_damaged_elsewhere_hides_no_figure(folders):
    a, b = folders
    store_run(a, "cca:tuned")
    path = store_run(b, "cca:tuned", fingerprint="f" * 64, started="2027-01-01T00:00:00+00:00")
    change(path, metrics={**figures_of(path), "rsum": 600.0})
    store_run(b, "cca:tuned", fingerprint="e" * 64)
    store_failure(b, "cca:tuned")
    table = merged(folders)
    assert rows(table) == {"cca:tuned": ([a, b], [0], "damaged")}
    assert [x.count("its rsum is 600, but") for x in table.failed] == [1]
    assert merged([b]).rows[0].runs == [] and [row.status for row in merged([b]).rows] == ["damaged"]


def test_a_folder_without_records(command, folders):
    a, b = folders
    store_run(a, "cca:tuned")
    assert command("table", "--results", a, "--results", b).sentence == (
        r"there are no records in b \x1b: give folders of results, each with a folder runs"
    )
    (b / "runs").mkdir(parents=True)
    assert rows(merged(folders)) == {"cca:tuned": ([a], [0], "ok")}
    assert command("table", "--results", b).sentence.startswith(r"there are no records below b \x1b/runs: make some")
    said = command("table", "-d", "flickr8k", "--results", a, "--results", b).sentence
    assert said.startswith(r"there are no records of flickr8k below a/runs and b \x1b/runs: make some")
    inside = a / "runs" / "scenes"
    store_run(inside, "cfa:tuned")
    assert set(rows(merged([a, inside]))) == {"cca:tuned", "cfa:tuned"} and set(rows(merged([a]))) == {"cca:tuned"}
    assert command("table", "kernels", "--results", a, "--results", b).sentence.endswith("give --results once")


def test_several_folders_by_the_environment(command, folders, monkeypatch):
    a, b = folders
    store_run(a, "cca:tuned")
    store_run(b, "cfa:tuned")
    monkeypatch.setenv("CRAN_BENCH_RESULTS", os.pathsep.join(map(str, folders)))
    assert "From a: " in command("table").out and len(cran_bench.read_records()) == 2


@pytest.mark.parametrize("kind", ["newer schema", "failed rows", "damaged rows", "markup"])
def test_every_verb_reads_them_or_says_why(command, tmp_path, kind):
    results = make_results(tmp_path / "results", kind)
    runs, failures = ResultStore(results).read()
    labels = dict.fromkeys(data.label for data in (*(run.record.data for run in runs), *(f.data for f in failures)))
    for table in load_tables(results):
        for style in ("terminal", "csv", "json", "latex"):
            assert render([table], style)
    page = tmp_path / "page.html"
    for verb in (["report", "-o", page], ["table", "1"], ["export", "records", tmp_path / "all.csv"]):
        said = command(*verb, "--results", results)
        assert said.code == 0 and "\x1b" not in said.out + said.err, said.err
    for label in labels:
        if "scenes" in label or "flickr8k" in label:
            for verb in (["compare", "-d", label, "--reference", results], ["significance", "-d", label]):
                assert command(*verb, "--results", results).code in (0, 1, 2)
