"""What can go wrong in a results tree is seen, said and put right, and nothing that is well is touched."""

import json
import os
import time
from types import SimpleNamespace

import pytest

from cran_bench.machine.storage import locked, write_atomically
from cran_bench.records.store import ResultStore
from cran_bench.running import doctor, present
from cran_bench.running.doctor import AT_LENGTH, cure, examine_cache, examine_results


@pytest.fixture
def tree(recorded_scenes, monkeypatch):
    monkeypatch.setenv("CRAN_BENCH_CACHE", str(recorded_scenes.cache))
    return recorded_scenes.results


def record(tree, name):
    return next(p for p in tree.rglob(f"{name}-*.json") if not p.name.endswith(".examples.json"))


def files(tree):
    return {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def test_a_healthy_tree_is_left_alone(command, tree):
    before = files(tree)
    assert list(examine_results(tree)) == []
    said = command("doctor", "--results", tree, "--check")
    assert (
        said.code == 0
        and "records: 3; commits: 1; by other code than the present: 0; with uncommitted changes: " in said.err
    )
    said = command("doctor", "--results", tree)
    assert (said.code, said.out) == (0, "no problems found\n") and files(tree) == before


def test_records_of_other_code_are_counted(monkeypatch, tmp_path):
    commits = ["aaa", "aaa+", "bbb+", None, "now", "damaged"]
    ours = ["aaa", "now"]
    records = [SimpleNamespace(environment={"commit": commit}) for commit in commits]
    runs = [SimpleNamespace(record=one, path=tmp_path / str(one.environment["commit"])) for one in records]
    monkeypatch.setattr(ResultStore, "runs", lambda self, damaged: runs)
    monkeypatch.setattr(present, "is_by_present_code", lambda record: record.environment["commit"] in ours)
    said = doctor.count_provenance(tmp_path, {tmp_path / "damaged"})
    assert said == "records: 5; commits: 5; by other code than the present: 3; with uncommitted changes: 2"


def changed(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": 7}))
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])
    return path


def removed(path):
    path.unlink()
    return path


def stale(path):
    path.write_text("half")
    return path


@pytest.mark.parametrize(
    ("harm", "what", "also"),
    [
        (lambda r: changed(r), "was changed after it was written", 4),
        (lambda r: cut(r), "is not a record", 4),
        (lambda r: cut(r.with_suffix(".npz")), "is not the file its record names", 4),
        (lambda r: removed(r.with_suffix(".npz")), "is missing beside its record", 3),
        (lambda r: removed(r), "is missing", 3),
        (lambda r: cut(r.with_name(r.stem + ".examples.json")), "holds no example queries", 0),
        (lambda r: cut(r.with_name(r.stem + ".answers.npz")), "holds no answers", 0),
        (lambda r: r.with_name(r.stem + ".curves.csv").write_text("a,b\n1,2\n"), "holds no training curves", 0),
        (lambda r: r.rename(r.with_name(r.name.replace("-s0-", "-s1-"))), "is missing beside its record", 4),
        (lambda r: stale(r.with_name(f".{r.name}.x.part")), "an interrupted write", 0),
        (lambda r: r.with_name(r.stem + ".error.json").write_text("{}"), "has finished since", 0),
    ],
)
def test_what_is_wrong_is_said_and_cured(command, tree, recorded_scenes, harm, what, also):
    path = record(tree, "cran")
    other = {p: b for p, b in files(tree).items() if "cran" not in p.name}
    harm(path)
    said = command("doctor", "--results", tree, "--check")
    assert said.code == 1 and what in said.out and said.out.count("\n") == 2 + also, said.out
    measured = [p for p in files(tree) if p.suffix != ".part" and not p.name.endswith(".error.json")]
    said = command("doctor", "--results", tree)
    assert said.code == 0 and what in said.out and said.out.endswith("all problems fixed\n")
    assert command("doctor", "--results", tree, "--check").out == "no problems found\n"
    assert {p: b for p, b in files(tree).items() if "cran" not in p.name} == other
    kept = {p.name for p in files(tree)}
    assert all(p.name in kept for p in measured), "something that was measured is gone"
    again = command("run", *recorded_scenes.arguments, "-m", "cca,cfa")
    assert again.code == 0 and command("table", "--results", tree).code == 0


@pytest.mark.parametrize("hours", [-24, 0, 24])
def test_a_write_that_is_going_on_is_left_alone_whatever_the_clock_says(tree, monkeypatch, hours):
    def look(file):
        (part,) = tree.rglob("*.part")
        os.utime(part, (time.time() + 3600 * hours,) * 2)
        assert list(examine_results(tree)) == []
        file.write(b"{}")

    write_atomically(tree / "runs" / "b.error.json", look)
    assert (tree / "runs" / "b.error.json").read_bytes() == b"{}"


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)


def left(path):
    path.with_suffix(".checkpoint").write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("where", "harm", "what"),
    [
        ("globals.npy", flipped, "globals.npy was changed after it was written"),
        ("globals.npy", removed, "cannot read"),
        ("manifest.json", cut, "is damaged"),
        ("cca-*.safetensors", flipped, "it is not a usable fit (its checksum does not match)"),
        ("cca-*.safetensors", cut, "it is not a usable fit"),
        ("cca-*.safetensors", left, "a checkpoint of a fit that has finished since"),
        ("cca-*.safetensors", lambda path: stale(path.with_name(".a.part")), "an interrupted write"),
    ],
)
def test_features_and_fits_are_looked_over_too(command, tree, recorded_scenes, where, harm, what):
    cache = recorded_scenes.cache
    assert list(examine_cache(cache)) == []
    (path,) = cache.rglob(where)
    harm(path)
    said = command("doctor", "--results", tree, "--check")
    assert said.code == 1 and what in said.out and said.out.endswith("files with problems: 1\n"), said.out
    assert command("doctor", "--results", tree).out.endswith("all problems fixed\n")
    assert list(examine_cache(cache)) == []
    again = command("run", *recorded_scenes.arguments, "-m", "cca", "--force", "--backbone", "pixels[dim=64]")
    assert again.code == 0, again.err
    assert command("doctor", "--results", tree, "--check").out == "no problems found\n"


def test_features_that_are_being_extracted_are_left_alone(recorded_scenes):
    (manifest,) = recorded_scenes.cache.rglob("manifest.json")
    flipped(manifest.with_name("globals.npy"))
    with locked(manifest.parent, "extracting these features"):
        assert list(examine_cache(recorded_scenes.cache)) == []
    assert len(list(examine_cache(recorded_scenes.cache))) == 1


def test_a_cache_without_records_is_looked_over(command, tmp_path):
    (tmp_path / "fits").mkdir()
    (tmp_path / "fits" / "a.safetensors").write_bytes(b"no")
    said = command("doctor", "--results", tmp_path / "none", "--cache", tmp_path, "--check")
    assert said.code == 1 and "it is not a usable fit" in said.out


def test_what_has_yet_to_be_finished_is_left_alone(recorded_scenes):
    (manifest,) = recorded_scenes.cache.rglob("manifest.json")
    manifest.rename(manifest.with_name("journal.json"))
    (fit,) = recorded_scenes.cache.rglob("cca-*.safetensors")
    fit.rename(fit.with_suffix(".checkpoint"))
    assert list(examine_cache(recorded_scenes.cache)) == []


def test_a_folder_that_cannot_be_written_ends_in_a_sentence(command, tree, tmp_path):
    record(tree, "cca").write_text("{}")
    (tree / "set-aside").write_text("a file where a folder should be")
    said = command("doctor", "--results", tree)
    assert said.code == 2 and "cannot write" in said.sentence


def test_a_thousand_foreign_files_are_one_line(command, tmp_path):
    (tmp_path / "runs").mkdir()
    for k in range(1000):
        (tmp_path / "runs" / f"{chr(97 + k % 26)} {k}.json").write_text(f'{{"a": {k}}}')
    few = [tmp_path / "runs" / f"{name}.csv" for name in "abcdefgh"[:AT_LENGTH]]
    for path in few:
        path.write_text("a,b")
    for arguments, code in ((["--check"], 1), ([], 0)):
        said = command("doctor", "--results", tmp_path, "--cache", tmp_path / "none", *arguments)
        (line,) = [line for line in said.out.splitlines() if "is not a record" in line]
        assert said.code == code and line.endswith("and 999 more files alike") and "runs/a 0.json" in line
        assert len(said.out.splitlines()) == 2 + len(few)
    assert len(list((tmp_path / "set-aside" / "runs").iterdir())) == 1000 + len(few)


def test_nothing_there(command, tmp_path):
    said = command("doctor", "--results", tmp_path, "--cache", tmp_path / "none")
    assert said.code == 2 and "there are neither records below" in said.sentence
    assert list(cure([])) == []
