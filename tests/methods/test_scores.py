"""The row of given scores: the ranks of the embeddings they were exported from; every unusable file is refused."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import cran_bench
from cran_bench.machine.storage import sha256_file
from cran_bench.registry import METHODS
from cran_bench.running.remote import with_full_path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "interchange.md"
ROW = "cca[ridge_image=0.01,ridge_text=0.01,dim=32]"
N, T = 20, 100


@pytest.fixture(scope="module")
def exported(prepared_scenes, tmp_path_factory):
    """A folder with the scores of CCA's embeddings, made by the recipe of the docs, and its records."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copytree(prepared_scenes.cache, folder / "cache")
    where = {"data": prepared_scenes.data, "cache": folder / "cache", "results": folder / "results"}
    cran_bench.run(ROW, prepared_scenes.spec, ["captions", "single"], **where)
    (recipe,) = re.findall(r"```python\n(import numpy.*?)```", PAGE.read_text(), re.DOTALL)
    recipe = recipe.replace("flickr8k", prepared_scenes.spec).replace('"cca"', f'"{ROW}"')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, path in where.items():
            patch.setenv(f"CRAN_BENCH_{name.upper()}", str(path))
        exec(recipe, {})
    (folder / "cca.npy").rename(folder / "sims.npy")
    return folder


@pytest.fixture
def ranked(exported, prepared_scenes, monkeypatch, tmp_path):
    """``ranked("scores:sims.npy")``: its outcomes, with the records beside those of CCA, in a folder of its own."""
    for name in ("cache", "results"):
        shutil.copytree(exported / name, tmp_path / name)
    shutil.copy(exported / "sims.npy", tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(spec, protocols="captions", **options):
        where = {"data": prepared_scenes.data, "cache": tmp_path / "cache", "results": tmp_path / "results"}
        return cran_bench.run(spec, prepared_scenes.spec, protocols, **where, **options)

    return run


def arrays(found, name):
    """The stored ranks of the record with a label that begins with `name`."""
    (outcome,) = [o for o in found.outcomes if o.address.method.startswith(name)]
    assert outcome.failure is None, outcome.failure.traceback
    return found.store.finished(outcome.address, outcome.record).ranks.arrays()


@pytest.mark.parametrize("protocol", ["captions", "single"])
@pytest.mark.parametrize("folds", [0, 3])
def test_scores_exported_from_cca_have_its_ranks_bit_for_bit(ranked, protocol, folds):
    found = ranked(f"scores:sims.npy,{ROW}", protocol, folds=folds)
    given, own = arrays(found, "scores"), arrays(found, "cca")
    assert given.keys() == own.keys()
    assert all(np.array_equal(given[name], own[name]) and given[name].dtype == own[name].dtype for name in own)
    first, second = (o.record.metrics for o in found.outcomes)
    assert first == second and "twin_accuracy" in first


def test_a_record_says_where_its_ranks_come_from(ranked, tmp_path):
    (record,) = ranked("scores:sims.npy").records
    assert record.method.label == "scores:sims.npy" and record.method.name == "scores"
    assert record.method.parameters["sha256"] == [sha256_file(tmp_path / "sims.npy")]
    assert record.similarity.name == "pair scorer" and record.similarity.dtype == "float64"
    Path("moved").mkdir()
    shutil.move("sims.npy", "moved/again.npy")
    (moved,) = ranked("scores:moved/again.npy").records
    assert moved.fingerprint == record.fingerprint
    scores = np.load("moved/again.npy")
    scores[0, 0] += 1
    np.save("moved/again.npy", scores)
    (other,) = ranked("scores:moved/again.npy").records
    assert other.fingerprint != record.fingerprint


def test_records_and_tables_name_files_without_folders(ranked, tmp_path):
    for name in ("there", "else"):
        Path(name).mkdir()
        shutil.copy("sims.npy", name)
    spec = f"scores:{tmp_path}/there/sims.npy[t2i={tmp_path}/else/sims.npy]"
    found = ranked(spec)
    (record,) = found.records
    assert record.method.label == "scores:sims.npy[t2i=sims.npy]"
    assert str(tmp_path) not in found.store.path_of(record).read_text()
    assert [outcome.reused for outcome in ranked("scores:there/sims.npy[t2i=else/sims.npy]").outcomes] == [True]
    full = with_full_path("scores:sims.npy[t2i=there/sims.npy,axes=images]")
    assert full == f"scores:{tmp_path}/sims.npy[axes=images,t2i={tmp_path}/there/sims.npy]"  # for workers elsewhere
    np.save("else/sims.npy", -np.load("sims.npy"))
    with pytest.raises(cran_bench.BadInput) as raised:
        ranked("scores:there/sims.npy,scores:else/sims.npy")
    said = "scores:there/sims.npy and scores:else/sims.npy are both called scores:sims.npy in tables: rename a file"
    assert str(raised.value) == said


def test_it_stands_in_tables_and_in_tests_of_significance(ranked, command, prepared_scenes, tmp_path):
    ranked(f"scores:sims.npy,{ROW}")
    Path("sims.npy").unlink()
    where = "--results", tmp_path / "results", "-d", prepared_scenes.spec
    for words in (["table"], ["table", "-m", "scores:sims.npy"], ["significance", "scores:sims.npy", ROW]):
        said = command(*words, *where)
        assert said.code == 0 and "scores:sims.npy" in said.out, said


def test_a_file_for_each_direction(ranked):
    scores = np.load("sims.npy")
    np.save("other.npy", -scores)
    both, first, second = (
        arrays(ranked(spec), "scores")
        for spec in ("scores:sims.npy[t2i=other.npy]", "scores:sims.npy", "scores:other.npy")
    )
    assert any(not np.array_equal(first[name], second[name]) for name in first)
    for name, values in both.items():
        expected = second if name.startswith("t2i") else first
        assert np.array_equal(values, expected[name])


def test_rows_of_texts_and_other_layouts_of_the_same_numbers(ranked):
    scores = np.load("sims.npy")
    np.save("texts.npy", scores.T)
    np.save("fortran.npy", np.asfortranarray(scores))
    np.save("swapped.npy", scores.astype(">f8"))
    expected = arrays(ranked("scores:sims.npy"), "scores")
    for spec in ("scores:texts.npy[axes=texts]", "scores:fortran.npy", "scores:swapped.npy[axes=images]"):
        found = arrays(ranked(spec), "scores")
        assert all(np.array_equal(found[name], expected[name]) for name in expected), spec


def test_half_precision_ties_what_it_cannot_tell_apart(ranked):
    scores = np.load("sims.npy")
    np.save("half.npy", scores.astype(np.float16))
    np.save("same.npy", scores.astype(np.float16).astype(np.float64))
    half, same = arrays(ranked("scores:half.npy"), "scores"), arrays(ranked("scores:same.npy"), "scores")
    assert all(np.array_equal(half[name], same[name]) for name in same)


SPLIT = f"the test split has {N} images and {T} captions"
BAD = {
    "transposed": (
        lambda s: s.T,
        "",
        f"the rows of bad.npy seem to be texts, as {SPLIT}: transpose it, or give axes=texts",
    ),
    "not transposed": (
        lambda s: s,
        "[axes=texts]",
        f"the rows of bad.npy seem to be images, as {SPLIT}: transpose it, or give axes=images",
    ),
    "of another split": (
        lambda s: np.zeros((60, 300)),
        "",
        f"bad.npy has scores of shape (60, 300), but {SPLIT}: give the scores of all of them, in the order of",
    ),
    "one axis": (
        lambda s: s[0],
        "",
        "bad.npy should hold numbers of shape (images, texts), not float64 of shape (100,)",
    ),
    "integers": (
        lambda s: s.astype(int),
        "",
        "bad.npy holds int64 numbers; scores are float16, float32 or float64",
    ),
    "texts": (lambda s: s.astype(str), "", "bad.npy should hold numbers of shape (images, texts), not <U"),
    "nan": (
        lambda s: np.where(np.arange(T) == 7, np.nan, s),
        "",
        "bad.npy has nan in row 1 and column 7, counted from 0: give finite scores",
    ),
    "inf in rows of texts": (
        lambda s: np.where(np.arange(T) == 50, np.inf, s).T,
        "[axes=texts]",
        "bad.npy has inf in row 50 and column 10, counted from 0: give finite scores",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_unusable_files_are_refused_in_one_sentence(ranked, kind):
    change, options, sentence = BAD[kind]
    np.save("bad.npy", change(np.load("sims.npy")))
    try:
        (failure,) = ranked(f"scores:bad.npy{options}").failures
        said = failure.error
    except cran_bench.BadInput as error:
        said = str(error)
    assert sentence in said and "\n" not in said
    np.save("bad.npy", np.load("sims.npy"))
    if not options:
        assert ranked("scores:bad.npy").records  # it is tried again


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("scores:none.npy", "there is no file none.npy; give the path of a .npy array"),
        ("scores:sims.npy[t2i=none.npy]", "there is no file none.npy"),
        ("scores", "scores needs one file: write scores:FILE"),
        ("scores:sims.npy[axes=rows]", "axes"),
        ("scores:sims.npy[file=x]", "scores needs one file: write scores:FILE"),
        ("score:sims.npy", "did you mean 'scores'?"),
    ],
)
def test_unusable_specs_are_refused_in_one_sentence(ranked, command, spec, sentence):
    with pytest.raises(cran_bench.BadInput) as raised:
        ranked(spec)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_as_many_texts_as_images_need_axes_and_have_no_mean(ranked):
    scores = np.load("sims.npy")[:, ::5]
    np.save("square.npy", scores)
    np.save("turned.npy", scores.T)
    (failure,) = ranked("scores:square.npy", "documents").failures
    assert failure.error == (
        f"square.npy is square, as the test split has {N} images and {N} documents: say what its rows are, with "
        "axes=images or axes=texts"
    )
    first = arrays(ranked("scores:square.npy[axes=images]", "documents"), "scores")
    second = arrays(ranked("scores:turned.npy[axes=texts]", "documents"), "scores")
    assert all(np.array_equal(first[name], second[name]) for name in first)
    (failure,) = ranked("scores:sims.npy", "mean").failures
    assert failure.error.startswith("the protocol mean averages the embeddings of captions")


def test_it_is_listed_and_described_but_not_run_without_a_file(command, exported):
    assert "scores" not in METHODS.names() and "scores" in METHODS.with_argument()
    assert "  scores:FILE        Given scores: a matrix" in command("list").out
    assert "- `axes` = `none`" in command("info", f"scores:{exported / 'sims.npy'}").out
    assert command("info", "scores").sentence == "scores needs one file: write scores:FILE"
