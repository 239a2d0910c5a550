"""`cran-bench export rankings`: a plain reader finds the figures of the record, and the row `trec` its very ranks."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import cran_bench
from cran_bench.dataset import Collection
from cran_bench.errors import BadInput
from cran_bench.records.archive import read_ranks, read_record
from cran_bench.records.store import ResultStore
from cran_bench.split import Split

CCA = "cca[ridge_image=0.01,ridge_text=0.01,dim=32,power=1]"
COARSE = """
from dataclasses import dataclass

import torch

from cran_bench import DOT


@dataclass
class Coarse:
    "Whole numbers, whose products tie."

    similarity = DOT

    def fit(self, train, val, run):
        pass

    def embed_images(self, split):
        return split.images[:, :3].mul(2).round()

    def embed_texts(self, split):
        return torch.from_numpy(split.bow(3).toarray())

    def state(self):
        return {}

    def load(self, state):
        pass
"""


@pytest.fixture(scope="module")
def _recorded(prepared_scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    shutil.copytree(prepared_scenes.cache, folder / "cache")
    (folder / "coarse.py").write_text(COARSE)
    tiny = replace(prepared_scenes, cache=folder / "cache", results=folder / "results")
    rows = [CCA, f"{folder / 'coarse.py'}:Coarse"]
    for results, protocols, folds in (("results", "all", 0), ("folds", "captions", 3)):
        where = {"data": tiny.data, "cache": tiny.cache, "results": folder / results}
        made = cran_bench.run(rows, tiny.spec, protocols, folds=folds, **where)
        assert not made.failures, made.failures
    return tiny, dict(zip(("cca", "coarse"), rows, strict=True))


@pytest.fixture
def recorded(_recorded, tmp_path):
    """The hundred scenes with two recorded rows, one with ties, in folders of the test's own; and their specs."""
    tiny, rows = _recorded
    for folder in ("cache", "results", "folds"):
        shutil.copytree(tiny.cache.with_name(folder), tmp_path / folder)
    return replace(tiny, cache=tmp_path / "cache", results=tmp_path / "results"), rows


@pytest.fixture
def write(recorded):
    """``write("cca", trec="there")``: `cran_bench.export` of a row."""
    tiny, rows = recorded
    where = {"data": tiny.data, "cache": tiny.cache, "results": tiny.results}

    def call(row, **options):
        return cran_bench.export(rows.get(str(row), row), dataset=tiny.spec, **{**where, **options})

    return call


def record_of(results, row, protocol="captions"):
    """The path of a record and the record."""
    store = ResultStore(results)
    (run,) = (run for run in store.runs([], [protocol]) if row in run.record.method.label.lower())
    return store.path_of(run.record), run.record


def lists(path):
    """Candidates and scores of each query in a run file."""
    found = {}
    for line in path.read_text().splitlines():
        query, q0, name, rank, score, _ = line.split(" ")
        found.setdefault(query, []).append((name, float(score)))
        assert q0 == "Q0" and int(rank) == len(found[query]) and repr(float(score)) == score
    return found


def answers(path):
    right = {}
    for line in path.read_text().splitlines():
        query, zero, name, one = line.split(" ")
        right.setdefault(query, set()).add(name)
        assert (zero, one) == ("0", "1")
    return right


def first_right(run, right):
    """The rank of the first right candidate of each query, as the lines stand."""
    return np.array([[name in right[query] for name, _ in run[query]].index(True) + 1 for query in right])


@pytest.mark.parametrize("protocol", ["captions", "documents", "mean", "single"])
def test_a_plain_reader_finds_the_figures_of_the_record(write, recorded, tmp_path, protocol):
    files = write("cca", trec=tmp_path / "there", protocol=protocol)
    assert [path.name for path in files] == ["i2t.run", "t2i.run", "i2t.qrels", "t2i.qrels"]
    path, record = record_of(recorded[0].results, "cca", protocol)
    assert record.ties == 0
    for side in ("i2t", "t2i"):
        run, right = lists(tmp_path / "there" / f"{side}.run"), answers(tmp_path / "there" / f"{side}.qrels")
        assert run.keys() == right.keys()
        for found in run.values():
            assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
        ranks = first_right(run, right)
        for k in (1, 5, 10):
            assert 100 * np.mean(ranks <= k) == pytest.approx(record.metrics[f"{side}_r{k}"], abs=1e-12)
        np.testing.assert_array_equal(ranks, getattr(read_ranks(path, record), side).ranks())
    assert sum(map(len, right.values())) == (100 if protocol == "captions" else 20)


@pytest.mark.parametrize("protocol", ["captions", "documents", "single"])
@pytest.mark.parametrize("row", ["cca", "coarse"])
def test_what_is_written_and_read_again_has_the_same_ranks(write, recorded, tmp_path, row, protocol):
    same_ranks(write, recorded[0], tmp_path, row, protocol, "results")


def same_ranks(write, tiny, tmp_path, row, protocol, results):
    write(row, trec=tmp_path / "there", protocol=protocol, results=tmp_path / results)
    path, record = record_of(tmp_path / results, row, protocol)
    assert (record.ties > 0) == (row == "coarse")
    spec = f"trec:{tmp_path}/there/i2t.run[t2i={tmp_path}/there/t2i.run]"
    where = {"data": tiny.data, "cache": tiny.cache, "results": tmp_path / "again"}
    made = cran_bench.run(spec, tiny.spec, protocol, folds=record.folds, **where)
    assert not made.failures, made.failures
    before, (after,) = read_ranks(path, record), made.records
    twins = (
        {"twin_accuracy": after.metrics["twin_accuracy"]} if record.folds else {}
    )  # of all images, unlisted ones too
    assert after.metrics == {**record.metrics, **twins}
    again = read_ranks(made.store.path_of(after), after)
    for name, array in before.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array, err_msg=name)


@pytest.mark.parametrize("row", ["cca", "coarse"])
def test_folds_are_ranked_by_themselves(write, recorded, tmp_path, row):
    same_ranks(write, recorded[0], tmp_path, row, "captions", "folds")
    run = lists(tmp_path / "there" / "t2i.run")
    assert len(run) == 90 and {len(found) for found in run.values()} == {6}


def test_a_row_with_made_contrasts_is_exported(write, recorded, tmp_path):
    tiny, rows = recorded
    where = {"data": tiny.data, "cache": tiny.cache, "results": tmp_path / "swap"}
    made = cran_bench.run(rows["coarse"], tiny.spec, contrasts="swap", **where)
    assert not made.failures
    write("coarse", topk=tmp_path / "best.csv", results=tmp_path / "swap")
    assert (tmp_path / "best.csv").is_file()


def test_ties_are_in_the_order_of_the_data_and_told(write, recorded, tmp_path, capsys):
    write("coarse", trec=tmp_path / "there", top=12)
    said = capsys.readouterr().err
    for side, queries in (("i2t", 20), ("t2i", 100)):
        run = lists(tmp_path / "there" / f"{side}.run")
        order = list(run if side == "t2i" else lists(tmp_path / "there" / "t2i.run"))
        order = order if side == "i2t" else list(dict.fromkeys(name.rpartition("#")[0] for name in order))
        tied = 0
        for found in run.values():
            assert len(found) == 12
            keys = [(-score, order.index(name)) for name, score in found]
            assert keys == sorted(keys)
            tied += len({score for _, score in found}) < 12
        assert f"{side}: {tied} of {queries} queries list equal scores" in said
    assert "the last place falls among equal scores" in said


def test_a_table_has_the_lines_of_the_runs(write, recorded, tmp_path):
    write("cca", trec=tmp_path / "there", top=7)
    (table,) = write("cca", topk=tmp_path / "best.csv", top=7)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 * 120
    for side in ("i2t", "t2i"):
        right = answers(tmp_path / "there" / f"{side}.qrels")
        lines = (tmp_path / "there" / f"{side}.run").read_text().splitlines()
        expected = [line.split()[:5] for line in lines]
        of_side = [row for row in rows if row["direction"] == side]
        assert [[row["query"], "Q0", row["candidate"], row["rank"], row["score"]] for row in of_side] == expected
        assert all((row["candidate"] in right[row["query"]]) == (row["is_right"] == "1") for row in of_side)


def test_a_path_names_a_record_as_a_label_does(write, recorded, command, tmp_path):
    tiny, _ = recorded
    by_label = write("cca", topk=tmp_path / "label.csv", protocol="mean", top=3)
    path, _ = record_of(tiny.results, "cca", "mean")
    folders = ["--data", tiny.data, "--cache", tiny.cache]
    said = command("export", "rankings", path, "--topk", tmp_path / "path.csv", "--top", "3", *folders)
    assert said.code == 0 and f"wrote {tmp_path / 'path.csv'}" in said.err
    assert (tmp_path / "path.csv").read_bytes() == by_label[0].read_bytes()


def test_names_with_spaces_are_words_and_come_back(flickr, command, tmp_path):
    home = flickr / "flickr8k"
    for text in [home / "Flickr8k.token.txt", *home.glob("Flickr_8k.*Images.txt")]:
        text.write_text(text.read_text().replace("test0", "test%20 0"))
    for image in (home / "images").glob("test0*"):
        image.rename(image.with_name(image.name.replace("test0", "test%20 0")))
    folders = ["-d", "flickr8k", "--data", flickr, "--cache", tmp_path / "cache", "--results", tmp_path / "results"]
    front_end = ["--backbone", "pixels[dim=16]", "--regions", "none"]
    row = "cca[ridge_image=0.1,ridge_text=0.1,dim=4,power=1]"
    run = command("run", "-m", row, *folders, *front_end)
    assert run.code == 0, run.err
    said = command("export", "rankings", row, "--trec", tmp_path / "there", *folders)
    assert said.code == 0, said.err
    assert set(lists(tmp_path / "there/i2t.run")) == {f"test%2520%20{k:02}.jpg" for k in range(6)}
    spec = f"trec:{tmp_path}/there/i2t.run[t2i={tmp_path}/there/t2i.run]"
    assert command("run", "-m", spec, *folders).code == 0
    one, other = (read_record(path) for path in (tmp_path / "results").rglob("*-s0-*[0-9a-f].json"))
    assert one.metrics == other.metrics


def test_ids_are_single_words_and_differ():
    ids = ["a b.jpg", "a%20b.jpg", "c\td", "e\u00a0\u2028f", "g\x85\x00", "ordinary/é#1.jpg"]
    owners = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5])
    collection = Collection("odd", SimpleNamespace(ids=ids), ["a text"] * 9, owners, {"test": np.arange(6)})
    images, texts = Split("test", "captions", collection, None, None, torch.device("cpu")).escaped_ids()
    assert all(name.split() == [name] and name.isprintable() for name in (*images, *texts))
    assert len({*images, *texts}) == 6 + 9
    assert images[:3] == ["a%20b.jpg", "a%2520b.jpg", "c%09d"] and images[-1] == ids[-1]
    assert texts[:3] == ["a%20b.jpg#0", "a%20b.jpg#1", "a%2520b.jpg#0"] and texts[5] == "c%09d#2"
    documents = Split("test", "documents", collection, None, None, torch.device("cpu"))
    assert documents.escaped_ids()[1] == [f"{name}#document" for name in images]


# what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "options", "sentence"),
    [
        ("cca", {}, "give either --trec DIR or --topk FILE"),
        ("cca", {"trec": "a", "topk": "b"}, "give either --trec DIR or --topk FILE"),
        ("cca", {"trec": "a", "top": 0}, "top is 0; list at least one candidate"),
        ("ccaa", {"trec": "a"}, "there is no method 'ccaa'; did you mean 'cca'?"),
        ("cfa", {"trec": "a"}, "there is no record of cfa:tuned on scenes[test=20,train=60,val=20], captions, seed 0"),
        ("cca:tuned[dim=32,power=1,ridge_image=0.01]", {"trec": "a"}, "did you mean 'cca:tuned[dim=32,power=1"),
        ("cca", {"trec": "a", "seed": 1}, "captions, seed 1, below"),
        ("cca", {"trec": "a", "protocol": "all"}, "of one protocol, not 4"),
        ("cca", {"trec": "a", "protocol": "mena"}, "there is no protocol 'mena'; did you mean 'mean'?"),
        ("gone.json", {"trec": "a"}, "there is no record gone.json"),
        ("trec:their.run", {"trec": "a"}, "has no single score of an image and a text: export another row"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(write, recorded, tmp_path, monkeypatch, row, options, sentence):
    monkeypatch.chdir(tmp_path)
    tiny, _ = recorded
    if row.startswith("trec"):
        write("cca", trec="their")
        Path("their.run").write_text(Path("their/i2t.run").read_text() + Path("their/t2i.run").read_text())
        cran_bench.run(row, tiny.spec, data=tiny.data, cache=tiny.cache, results=tiny.results)
    with pytest.raises(BadInput) as said:
        write(row, **options)
    assert sentence in str(said.value)
    assert not Path("a").exists() and not list(tmp_path.rglob("*.part"))


def test_a_path_that_is_nearly_one_is_suggested(write, recorded):
    path, _ = record_of(recorded[0].results, "cca")
    near = path.with_name(path.name.replace("-s0-", "-s1-"))
    with pytest.raises(BadInput) as said:
        write(str(near), topk="any.csv")
    assert f"did you mean '{path.name}'?" in str(said.value)


def test_records_of_several_folds_are_told_apart_by_path(write, recorded, tmp_path):
    tiny, _ = recorded
    shutil.copytree(tmp_path / "folds", tiny.results, dirs_exist_ok=True)
    with pytest.raises(BadInput, match=r"is recorded with \[0, 3\] folds: give the path"):
        write("cca", topk=tmp_path / "best.csv")
    (path,) = (tiny.results / "runs").glob("*/captions-3folds/cca-*[0-9a-f].json")
    assert write(str(path), topk=tmp_path / "best.csv") == [tmp_path / "best.csv"]


def test_what_exists_is_kept_unless_forced(write, tmp_path):
    table = tmp_path / "best.csv"
    table.write_text("mine")
    with pytest.raises(BadInput, match=r"best\.csv exists: name another place, or replace it with --force"):
        write("cca", topk=table, top=2)
    assert table.read_text() == "mine"
    write("cca", topk=table, top=2, force=True)
    assert table.read_text().startswith("direction,query,rank,candidate,score,is_right\ni2t,")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "t2i.run").write_text("mine")
    with pytest.raises(BadInput, match=r"t2i\.run exists"):
        write("cca", trec=tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["t2i.run"]


def test_a_record_of_other_data_or_code_is_refused(write, recorded, tmp_path):
    _, record = record_of(recorded[0].results, "cca")
    moved = tmp_path / "old.json"
    other = record.model_copy(update={"fingerprint": "0" * 64}).sealed()
    moved.write_text(json.dumps(other.model_dump()))
    with pytest.raises(BadInput, match="was recorded with other data, features or code than are here now"):
        write(str(moved), topk=tmp_path / "best.csv")
    assert not (tmp_path / "best.csv").exists()


def test_embeddings_that_give_other_ranks_are_refused(write, recorded, tmp_path, monkeypatch):
    from cran_bench.methods.cca import CCA as Method

    embed, (_, record) = Method.embed_images, record_of(recorded[0].results, "cca")
    monkeypatch.setattr("cran_bench.viewing.export.Runner.fingerprints", lambda self, *_: [record.fingerprint])
    monkeypatch.setattr(Method, "embed_images", lambda self, split: embed(self, split).flip(0))
    with pytest.raises(BadInput, match="the embeddings give other ranks than the record has"):
        write("cca", trec=tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_nothing_is_written_if_one_direction_differs(write, tmp_path, monkeypatch):
    read = ResultStore.runs

    def changed(self, *chosen):
        runs = read(self, *chosen)
        runs[0].ranks.t2i.better[-1] += 1
        return runs

    monkeypatch.setattr(ResultStore, "runs", changed)
    with pytest.raises(BadInput, match="the embeddings give other ranks than the record has"):
        write("cca", trec=tmp_path / "there")
    assert not (tmp_path / "there").exists()
