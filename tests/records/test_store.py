"""Records: what was written is what is read, anything else is refused; and the tables made of them."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cran_bench.dataset import CATEGORIES_UP_TO
from cran_bench.errors import BadInput
from cran_bench.ranking.evaluation import evaluate
from cran_bench.ranking.rank import rank
from cran_bench.records.archive import read_curves, read_examples, read_record
from cran_bench.records.schema import SCHEMA, Address, DataInfo, Failure, MethodInfo, Record, Seconds, SimilarityInfo
from cran_bench.records.store import Finished, ResultStore
from cran_bench.similarity import COSINE, DOT
from cran_bench.tables.tables import build_tables, render
from cran_bench.tables.typesetting import FORMATS

ENVIRONMENT = {"cpu": "a cpu", "gpu": None, "torch": "2.9", "commit": "abc"}
ADDRESS = Address("scenes[train=60]", "captions", 0, "cca:paper[dim=8]", 3, "0123456789abcdef")


def data_info(**changes):
    about = {"label": "scenes", "quick": False, "split_sha": "5" * 64, "images": 12, "captions": 24}
    about |= {"front_end": "pixels + boxes", "features_sha": "f" * 64, "vectors": "ppmi-svd"}
    return DataInfo(**{**about, **changes})


def run(method="cca:tuned", seed=0, *, noise=1.0, started="2026-01-01T00:00:00+00:00", protocol="captions", **data):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(12, 6, generator=generator)
    image_of = torch.arange(12).repeat_interleave(2)
    texts = images[image_of] + noise * torch.randn(24, 6, generator=generator)
    ranks = rank(images, texts, image_of, COSINE)
    record = Record(
        fingerprint=ADDRESS.fingerprint,
        data=data_info(**data),
        method=MethodInfo(
            label=method,
            name=method.split(":")[0],
            preset="tuned",
            paper_row="CCA",
            parameters={"dim": [8, 16], "text": "tfidf"},
            chose={"dim": 8},
            unit="captions",
            code_sha="c" * 64,
            fit_fingerprint="d" * 64,
        ),
        protocol=protocol,
        folds=0,
        seed=seed,
        metrics=ranks.metrics().values(),
        ties=ranks.ties(),
        seconds=Seconds(features=2.0, fit=1.25, embed=0.5, similarity=0.25, rank=0.125),
        similarity=SimilarityInfo(name="cosine", kernel="reference", dtype="float64"),
        device="cpu",
        peak_memory=1 << 30,
        environment=ENVIRONMENT,
        started=started,
        ranks_sha="",
    )
    return record, ranks


def failure(method="cfa:tuned", seed=0, **data):
    return Failure(
        data=data_info(**data),
        method_label=method,
        protocol="captions",
        folds=0,
        seed=seed,
        error="it gave | NaN_1",
        traceback="Traceback ...",
        started="2026-01-01T00:00:00+00:00",
        environment=ENVIRONMENT,
    )


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path)


@pytest.fixture
def written(store):
    store.write(ADDRESS, *run())
    return store.path(ADDRESS)


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_round_trip(store):
    record, ranks = run()
    assert store.find(ADDRESS) is None
    sealed = store.write(ADDRESS, record, ranks)
    assert store.find(ADDRESS) == sealed
    assert sealed.checksum and not record.checksum
    assert sealed.model_copy(update={"checksum": "", "ranks_sha": ""}) == record
    (found,) = store.runs()
    back = found.ranks
    assert back.metrics() == ranks.metrics()
    assert all(np.array_equal(a, b) for a, b in zip(back.arrays().values(), ranks.arrays().values(), strict=True))
    assert found.record == sealed


def labelled(images=11, categories=3):
    """A record and its ranks, with average precisions of one image without a category."""
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.standard_normal((images, 4)).astype(np.float32))
    labels = torch.from_numpy((np.arange(images)[:, None] % 4 == np.arange(categories)).astype(np.uint8))
    found = evaluate(x, x, torch.arange(images), None, DOT, "documents", labels=labels)
    record, _ = run()
    data = record.data.model_copy(update={"images": images, "captions": images})
    return record.model_copy(update={"metrics": dict(found.metrics), "data": data}), found.ranks


@pytest.mark.parametrize(("images", "categories"), [(11, 3), (3, CATEGORIES_UP_TO)])
def test_average_precisions_are_stored_with_the_ranks(store, images, categories):
    record, ranks = labelled(images, categories)
    store.write(ADDRESS, record, ranks)
    (found,) = store.runs()
    back = found.ranks.precisions
    assert back.figures() == ranks.precisions.figures() == {k: record.metrics[k] for k in back.figures()}
    assert all(np.array_equal(a, back.arrays()[name], True) for name, a in ranks.precisions.arrays().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"i2t_ap": np.zeros(11, np.float32)}, "i2t_ap is not a list of float64"),
        ({"t2i_ap50": np.zeros(10_000)}, "t2i_ap50 has 80,128 bytes for at most 11 numbers"),
        ({"labels": np.zeros(40_000, np.uint8)}, "labels has 40,128 bytes"),
        ({"i2t_relevant": np.zeros(11, np.int32)}, "an average precision is not between 0 and 1"),
        ({"i2t_ap": np.ones(10)}, "not those of 10 images|not those of 11 images"),
    ],
)
def test_damaged_average_precisions_are_told(store, monkeypatch, change, message):
    record, ranks = labelled()
    arrays = {**ranks.arrays(), **change}
    monkeypatch.setattr(type(ranks), "arrays", lambda self: arrays)
    store.write(ADDRESS, record, ranks)
    with pytest.raises(BadInput, match=message):
        _ = store.runs()[0].ranks


def test_where_it_lies(store, written):
    assert written.relative_to(store.root).as_posix() == (
        "scenes-train-60/captions/cca-paper-dim-8-s3-0123456789ab.json"
    )
    folds = dataclasses.replace(ADDRESS, folds=5)
    assert store.path(folds).parent.name == "captions-5folds"
    assert sorted(path.name for path in written.parent.iterdir()) == [written.name, written.stem + ".npz"]


def test_a_record_is_readable_json_without_folders(written, tmp_path):
    text = written.read_text()
    assert json.loads(text)["schema_version"] == SCHEMA
    assert text.endswith("}\n") and text.count("\n") > 50
    assert str(tmp_path) not in text


@pytest.mark.parametrize("changes", [{"seed": 4}, {"ties": 7}, {"checksum": ""}, {"checksum": "0" * 64}])
def test_a_record_changed_by_hand(store, written, changes):
    edit(written, **changes)
    for read in (lambda: read_record(written), lambda: store.find(ADDRESS), store.runs):
        with pytest.raises(BadInput, match=r"was changed after it was written .*: delete it .*--force"):
            read()


def test_a_better_recall_by_hand(written):
    metrics = json.loads(written.read_text())["metrics"]
    for value in (100.0, float("nan"), float("inf")):
        edit(written, metrics={**metrics, "i2t_r1": value})
        with pytest.raises(BadInput, match=r"was changed after it was written|is not a record"):
            read_record(written)


def test_a_newer_schema(written):
    edit(written, schema_version=SCHEMA + 1, something="new")
    with pytest.raises(
        BadInput, match=rf"has schema {SCHEMA + 1}, but this version reads schemas up to {SCHEMA}: upgrade"
    ):
        read_record(written)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a record"),
        ("{", "is not a record"),
        ("[]", "is not a record"),
        ("\x00\xff", "is not a record"),
        ("{}", r"is not a record \(fingerprint: Field required\)"),
    ],
)
def test_a_damaged_record(written, text, message):
    written.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=rf"\.json {message}"):
        read_record(written)


def test_what_cannot_be_opened_is_a_damaged_row(store, written):
    other = dataclasses.replace(ADDRESS, seed=4)
    store.write(other, *run(seed=4))
    for path in (written, store.path(other).with_suffix(".npz")):
        path.unlink()
        path.mkdir()
    runs, failures = store.read()
    assert not runs and [failure.seed for failure in failures] == [ADDRESS.seed, 4]
    assert "cannot be read: Is a directory; give read access" in failures[0].error


def test_fields_that_do_not_belong(written):
    edit(written, comment="mine")
    with pytest.raises(BadInput, match=r"is not a record \(comment: Extra inputs are not permitted\): delete it"):
        read_record(written)
    edit(written, protocol="words")
    with pytest.raises(BadInput, match=r"is not a record \(protocol: "):
        read_record(written)


def test_ranks_that_are_missing_or_of_another_record(store, written):
    other = dataclasses.replace(ADDRESS, seed=4)
    store.write(other, *run(seed=4))
    ranks = written.with_suffix(".npz")
    ranks.write_bytes(store.path(other).with_suffix(".npz").read_bytes())
    with pytest.raises(BadInput, match=r"\.npz is not the file its record names .*: run again with --force"):
        _ = store.runs()[0].ranks
    ranks.unlink()
    with pytest.raises(BadInput, match=r"\.npz is missing beside its record: run again with --force"):
        _ = store.runs()[0].ranks


@pytest.mark.parametrize("change", ["missing", "other"])
def test_a_record_whose_ranks_are_gone_is_run_again(store, written, capsys, change):
    ranks = written.with_suffix(".npz")
    if change == "missing":
        ranks.unlink()
    else:
        ranks.write_bytes(ranks.read_bytes()[:-1])
    assert store.find(ADDRESS) is None
    assert f"{ranks} does not match its record; running again" in capsys.readouterr().err
    sealed = store.write(ADDRESS, *run())
    assert store.find(ADDRESS) == sealed


def test_an_intact_record_copied_onto_another_run_is_refused(store, written):
    other = dataclasses.replace(ADDRESS, method="cfa:tuned", fingerprint="fedcba9876543210")
    path = store.path(other)
    path.write_bytes(written.read_bytes())
    path.with_suffix(".npz").write_bytes(written.with_suffix(".npz").read_bytes())
    assert read_record(path).checksum == json.loads(path.read_bytes())["checksum"]
    with pytest.raises(BadInput, match=r"holds the record of another run .*: delete it and run again"):
        store.find(other)
    assert store.find(ADDRESS) == read_record(written)


def test_failures_are_kept_until_the_run_finishes(store):
    store.write_failure(ADDRESS, failure())
    (kept,) = store.failures()
    assert kept == failure().model_copy(update={"path": kept.path}) and "path" not in json.loads(kept.path.read_text())
    assert store.runs() == []
    assert store.find(ADDRESS) is None
    store.write(ADDRESS, *run())
    assert store.failures() == []


def test_a_damaged_failure(store):
    store.write_failure(ADDRESS, failure())
    path = next(store.root.rglob("*.error.json"))
    for text in ("", '{"kind": "failure"}'):
        path.write_text(text)
        with pytest.raises(BadInput, match=r"\.error\.json is not an error record \(.*\): delete it"):
            store.failures()


def test_some_records_are_found_without_opening_the_others(store):
    for label, method, protocol in (
        ("scenes", "cca:tuned", "captions"),
        ("scenes", "cca:tuned[dim=8]", "captions"),
        ("scenes", "cca:tuned", "mean"),
        ("scenes[train=60]", "cca:tuned", "captions"),
    ):
        record, ranks = run(method, label=label, protocol=protocol)
        store.write(Address(label, protocol, 5, method, 0, ADDRESS.fingerprint), record, ranks)
    address = Address("flickr8k", "captions", 0, "cfa:tuned", 0, ADDRESS.fingerprint)
    store.path(address).parent.mkdir(parents=True)
    store.path(address).write_text("no record")
    store.path(address).with_suffix(".error.json").write_text("nor a failure")

    def found(*chosen):
        return [(r.record.data.label, r.record.method.label, r.record.protocol) for r in store.runs(*chosen)]

    assert found(["scenes"], ["captions"]) == [
        ("scenes", "cca:tuned[dim=8]", "captions"),
        ("scenes", "cca:tuned", "captions"),
    ]
    assert len(found((), (), ["cca:tuned"])) == 3 and len(found(["scenes", "scenes[train=60]"])) == 4
    assert found(["scenes[train.60]"]) == found(["scenes-train-60"]) == []  # a path alike, another label
    assert store.failures(["scenes"]) == []
    for everything in (store.runs, store.failures):
        with pytest.raises(BadInput, match="flickr8k"):
            everything()


# tables ---------------------------------------------------------------------------------------------------------


def finished(*about, **data):
    record, ranks = run(*about, **data)
    return Finished(record, lambda: ranks)


def parse(text):
    return pd.read_csv(io.StringIO(text))


def test_the_newest_record_of_a_cell_counts():
    old, new = (
        finished(noise=5.0, started="2026-01-01T00:00:00+00:00"),
        finished(noise=0.1, started="2026-01-02T00:00:00+00:00"),
    )
    for order in ([old, new], [new, old]):
        (table,) = build_tables(order, [])
        assert [row.runs for row in table.rows] == [[new]]


def test_a_run_starts_after_the_records_of_its_cell_though_the_clock_was_put_back(store, capsys):
    def written(letter, started, **data):
        address = dataclasses.replace(ADDRESS, fingerprint=64 * letter)
        record, ranks = run(started=started, **data)
        return store.write(address, record.model_copy(update={"fingerprint": address.fingerprint}), ranks)

    written("d", "2199-01-01T09:00:00+00:00", front_end="other")
    first = written("e", "2099-01-01T08:00:00+00:00", features_sha="1" * 64, sources_sha="5" * 64)
    address = dataclasses.replace(ADDRESS, fingerprint=64 * "a")
    remade = data_info(features_sha="2" * 64, sources_sha="5" * 64)
    assert store.now(address, remade) == "2099-01-01T08:00:01+00:00"
    assert "the system clock is behind an existing record of cca:paper[dim=8]; using its time + 1 s" in " ".join(
        capsys.readouterr().err.split()
    )
    last = written("a", store.now(address, remade), features_sha="2" * 64, sources_sha="5" * 64)
    shown = [[found.record for found in table.rows[0].runs] for table in build_tables(store.runs(), [])]
    assert [last] in shown and [first] not in shown
    assert store.now(dataclasses.replace(address, seed=4), remade) < "2099"


@pytest.mark.parametrize("odd", ["2099-01-01T09:00:00", "9999-12-31T23:59:59+00:00", "yesterday"])
def test_records_of_odd_times_stop_no_run(store, written, odd):
    record, ranks = run(started=odd)
    store.write(dataclasses.replace(ADDRESS, fingerprint=64 * "b"), record, ranks)
    assert "2026" < store.now(dataclasses.replace(ADDRESS, fingerprint=64 * "a"), record.data) < "2099"


def test_mean_and_deviation_over_seeds():
    runs = [finished(seed=seed) for seed in (2, 0, 1)]
    (table,) = build_tables([*runs, finished("cfa:tuned")], [])
    row = table.rows[0]
    assert [record.seed for record in row.records] == [0, 1, 2]
    values = [run.record.metrics["rsum"] for run in runs]
    assert row.mean("rsum") == pytest.approx(np.mean(values))
    assert row.deviation("rsum") == pytest.approx(np.std(values, ddof=1))
    frame = parse(render([table], "csv"))
    assert frame.loc[0, "rsum"] == pytest.approx(np.mean(values), abs=1e-4)
    assert frame.loc[0, "rsum_sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-4)
    assert frame.loc[0, "seeds"] == "0 1 2" and np.isnan(frame.loc[1, "rsum_sd"])
    assert f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" in render([table], "terminal")
    assert "± is the standard deviation over seeds." in render([table], "markdown")


def test_a_small_test_split_is_noted_below_the_table():
    few = "Only 12 test images: one image is 8.3 points of i2t recall."
    (table,) = build_tables([finished()], [])
    assert few in table.notes and "any method" not in " ".join(table.notes)
    record = finished(protocol="mean").record.model_copy(update={"folds": 2})
    (table,) = build_tables([Finished(record, lambda: None)], [])
    both = [f"{side} R@10: 100 for any method, with no more than 6 candidates in a fold." for side in ("i2t", "t2i")]
    assert {few, *both} <= set(table.notes)


def test_runs_on_other_data_or_protocols_stand_apart():
    runs = [
        finished(),
        finished(label="flickr8k"),
        finished(protocol="mean"),
        finished(front_end="onnx:a.onnx + grid"),
        finished(vectors="glove:a.txt"),
    ]
    assert len(build_tables(runs, [])) == 5


@pytest.mark.parametrize("sha", ["split_sha", "features_sha", "extras_sha"])
def test_records_of_other_images_never_share_a_table(sha):
    other = {sha: "b" * 64}
    here, there = finished(), finished("cfa:tuned", **other)
    tables = build_tables([here, there], [failure("cran:tuned"), failure("cran:tuned", **other)])
    assert [[row.label for row in table.rows] for table in tables] == [
        ["cca:tuned", "cran:tuned"],
        ["cfa:tuned", "cran:tuned"],
    ]
    for table, own in zip(tables, (getattr(data_info(), sha), "b" * 64), strict=True):
        assert own in (table.group.split_sha, table.group.features, table.group.extras)
        text = render([table], "terminal")
        assert f" · {sha.removesuffix('_sha')} {own[:8] or 'none'}" in text.splitlines()[0]
        assert f"Another table has this label but other data: they differ in {sha.removesuffix('_sha')}." in text
    frame = parse(render(tables, "csv"))
    assert sha == "extras_sha" or frame.loc[frame["method"] == "cfa:tuned", sha].tolist() == ["b" * 12]
    assert frame["device"].dropna().tolist() == ["cpu", "cpu"]
    assert len(build_tables([here], [failure(**other)])) == 2


def test_of_very_many_records_no_ranks_are_read(monkeypatch):
    monkeypatch.setattr("cran_bench.tables.tables.INTERVALS_UP_TO", 1)

    def read():
        raise AssertionError("read")

    tables = build_tables([Finished(run(method)[0], read) for method in ("cca:tuned", "cfa:tuned")], [])
    for style in FORMATS:
        assert "cfa:tuned" in render(tables, style)
    assert "No intervals, and figures are not verified, for over 1 records: select fewer." in render(tables, "terminal")
    assert "behind best" not in render(tables, "terminal") and "rsum_low" not in parse(render(tables, "csv"))


def test_features_made_of_the_same_share_a_table():
    here, there = finished(sources_sha="a" * 64), finished("cfa:tuned", sources_sha="a" * 64, features_sha="c" * 64)
    of_before = finished("kcca:tuned", features_sha="c" * 64)
    (table,) = build_tables([here, there, of_before], [failure("cran:tuned", features_sha="c" * 64)])
    assert [row.label for row in table.rows] == ["cca:tuned", "cfa:tuned", "kcca:tuned", "cran:tuned"]
    said = f"features sha {'c' * 12} and {'f' * 12} (from the same sources, rounded differently on another machine)."
    assert said in render([table], "terminal")
    assert len(build_tables([here, of_before], [])) == 2
    assert len(build_tables([here, of_before], [], [there])) == 1
    other = finished(sources_sha="b" * 64, features_sha="d" * 64)
    assert len(build_tables([here, other], [])) == 2


def test_csv_holds_raw_numbers():
    tables = build_tables(
        [finished(), finished("cfa:tuned", noise=4.0), finished(label="flickr8k")], [failure("cran:tuned")]
    )
    frame = parse(render(tables, "csv"))
    assert frame["method"].tolist() == ["cca:tuned", "cfa:tuned", "cran:tuned", "cca:tuned"]
    assert frame["status"].tolist() == ["ok", "ok", "failed", "ok"]
    assert frame["dataset"].tolist() == ["scenes"] * 3 + ["flickr8k"]
    for figure, value in finished().record.metrics.items():
        assert frame[figure].dtype == np.float64
        assert frame.loc[0, figure] == pytest.approx(value, abs=1e-4)
    assert frame.loc[0, "rsum_low"] <= frame.loc[0, "rsum"] <= frame.loc[0, "rsum_high"]
    assert frame.loc[0, "fit_s"] == 1.25
    assert np.isnan(frame.loc[2, "rsum"])
    behind = frame.loc[1, ["behind_best_low", "behind_best", "behind_best_high"]].tolist()
    assert behind == sorted(behind) and behind[2] < 0
    assert behind[1] == pytest.approx(frame.loc[1, "rsum"] - frame.loc[0, "rsum"], abs=1e-3)


def test_a_table_of_failures_alone():
    alone = build_tables([], [failure()])
    both = build_tables([finished(label="flickr8k")], [failure()])
    for style in FORMATS:
        assert "cfa:tuned" in render(alone, style)
        assert "failed" in render(both, style)
    assert parse(render(both, "csv"))["status"].tolist() == ["ok", "failed"]


def test_failed_rows_stay_visible_beside_finished_ones():
    (table,) = build_tables([finished()], [failure(seed=2)])
    text = render([table], "terminal")
    assert text.splitlines()[5].split()[:3] == ["cfa:tuned", "failed", "failed"]
    assert "cfa:tuned seed 2 FAILED: it gave | NaN_1" in text
    assert "FAILED" in render([table], "latex") and "FAILED" in render([table], "markdown")


def test_a_finished_run_hides_its_earlier_failure_but_not_that_of_another_seed():
    (table,) = build_tables([finished("cfa:tuned", seed=0)], [failure(seed=0), failure(seed=1)])
    (row,) = table.rows
    assert len(row.records) == 1 and [f.seed for f in row.failures] == [1]
    assert "seed 1 FAILED" in render([table], "terminal")


def lines_of(text, mark):
    return [line for line in text.splitlines() if line.startswith(mark)]


def test_every_format_lines_up():
    tables = build_tables(
        [finished(), finished(seed=1), finished("a-method-with-a-long-name:tuned[dim=8]")], [failure()]
    )
    terminal = render(tables, "terminal").splitlines()
    body = terminal[2:7]
    assert set(body[1]) == {"-", " "}
    ends = [k for k, (a, b) in enumerate(zip(body[1], body[1][1:] + " ", strict=True)) if (a, b) == ("-", " ")]
    assert all(len(line) <= len(body[1]) for line in body)
    assert all(line[end + 1 : end + 3].strip() == "" for line in body for end in ends)
    grid = lines_of(render(tables, "markdown"), "|")
    assert len(grid) == 5 and len({len(line) for line in grid}) == 1
    assert len({line.count("|") for line in grid}) == 1
    latex = render(tables, "latex").splitlines()
    rows = [line for line in latex if line.endswith(r"\\")]
    assert len(rows) == 4 and len({line.count("&") for line in rows}) == 1
    assert r"\begin{tabular}" in "\n".join(latex) and r"\toprule" in latex


def test_markdown_and_latex_escape_what_they_must():
    label = "onnx_like:tuned[text=a|b]"
    tables = build_tables([finished(label), finished()], [])
    grid = lines_of(render(tables, "markdown"), "|")
    assert len({line.replace(r"\|", "").count("|") for line in grid}) == 1
    assert r"onnx\_like" in render(tables, "latex")


def test_quick_runs_say_so():
    quick = build_tables([finished(label="scenes:quick", quick=True)], [])
    for style in ("terminal", "markdown", "latex"):
        assert "quick: not for comparison" in render(quick, style)
        assert "quick" not in render(build_tables([finished()], []), style)
    assert parse(render(quick, "csv"))["quick"].tolist() == [True]


def test_an_unknown_format():
    with pytest.raises(BadInput, match=r"there is no table format 'latx': choose terminal, markdown, csv, latex"):
        render([], "latx")
    assert render([], "csv") == ""


def test_twins_have_a_column_only_where_there_are_twins():
    record, ranks = run()
    twins = record.model_copy(update={"metrics": {**record.metrics, "twin_accuracy": 62.5}})
    assert "62.5" in render(build_tables([Finished(twins, lambda: ranks)], []), "terminal")
    assert "twins" not in render(build_tables([finished()], []), "terminal")


def test_committed_records_of_every_age_are_intact():
    committed = ResultStore(Path(__file__).resolve().parents[2] / "results" / "reference")
    found = committed.runs()
    for run in found:
        path = committed.path_of(run.record)
        assert run.ranks.image_of.size and read_record(path) == run.record
        read_curves(path), read_examples(path)
    records = [run.record for run in found]
    assert len(records) > 200
    assert {record.similarity.kernel for record in records} == {"reference", "torch"}
