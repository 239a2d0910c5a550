"""Tables in a terminal and as JSON, their order and notes, and rows whose records are damaged."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from recorded import record_of

from cran_bench.cli.options import load_tables
from cran_bench.errors import BadInput
from cran_bench.protocols import fold_rows
from cran_bench.ranking.metrics import Counts, Ranks
from cran_bench.records.schema import Address, DataInfo, Failure
from cran_bench.records.store import Finished, ResultStore
from cran_bench.registry import METHODS
from cran_bench.report.contents import table_contents
from cran_bench.tables.figures import heading
from cran_bench.tables.paper import TABLES, paper_rows
from cran_bench.tables.paper_tables import paper_table
from cran_bench.tables.tables import build_tables, render
from cran_bench.tables.typesetting import FORMATS

REFERENCE = Path(__file__).parents[2] / "results" / "reference"


def run(method="cca:tuned", better=0, *, seed=0, commit="0123456789ab", twins=None, folds=0, images=40, **data):
    """A record and its ranks: every right answer is behind `better` wrong ones."""

    def counts(queries):
        return Counts(*(np.full(queries, value, np.int32) for value in (better, 0, 1)))

    ranks = Ranks(counts(images), counts(2 * images), np.arange(images).repeat(2))
    about = {"label": "scenes", "quick": False, "split_sha": "5" * 64, "images": images, "captions": 2 * images}
    about |= {"front_end": "pixels + boxes", "features_sha": "f" * 64, "vectors": "ppmi-svd"}
    metrics = {**ranks.metrics().values(), **({} if twins is None else {"twin_accuracy": twins})}
    of = method, DataInfo(**about | data), metrics, f"{better:03}0123456789"
    return record_of(*of, folds=folds, seed=seed, environment={"commit": commit}), ranks


def finished(*about, **changes):
    record, ranks = run(*about, **changes)
    return Finished(record, lambda: ranks)


def written(store, *about, **changes):
    record, ranks = run(*about, **changes)
    address = Address(record.data.label, "captions", record.folds, record.method.label, record.seed, record.fingerprint)
    store.write(address, record, ranks)
    return store.path(address)


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path)


def flat(text):
    return " ".join(text.split())


# width and columns


@pytest.fixture(scope="module")
def committed():
    return load_tables(REFERENCE, ["scenes", "flickr8k"], ["captions"])


@pytest.mark.parametrize("width", [100, 80])
def test_the_committed_tables_fit(committed, width):
    for table in committed:
        lines = render([table], "terminal", width=width).splitlines()
        assert max(map(len, lines)) <= width
        head = next(line for line in lines if line.startswith("method"))
        assert all(column in head for column in ("i2t R@1", "t2i R@1", "rsum"))
        assert width == 80 or "behind best" in head
        (note,) = re.findall(r"Left out to fit \d+ characters: (.*?) \(cran-bench table --wide", flat("\n".join(lines)))
        shown = {heading(name) for name in table.display()}
        assert set(note.split(", ")) - {"± of recalls"} == {name for name in shown if name not in head}


@pytest.mark.parametrize("dataset", ["scenes", "flickr8k"])
def test_the_committed_files_are_these_tables(committed, dataset):
    file = (REFERENCE.parent / dataset / "captions.md").read_text()
    assert render([table for table in committed if table.group.dataset == dataset], "markdown") == file


def test_only_a_terminal_leaves_columns_out(committed):
    wide = render(committed, "terminal")
    assert "Left out" not in wide and "rank s" in wide and "cran-plus-ensemble:tuned[members=2,width=compact]" in wide
    for style in FORMATS[1:]:
        assert render(committed, style, width=80) == render(committed, style)


def test_a_terminal_of_any_width_shows_the_key_columns(command, monkeypatch, tmp_path):
    for method in ("cca:tuned", "cran-relation:tuned[geometry=regions,width=compact]"):
        written(ResultStore(tmp_path), method)
    monkeypatch.setenv("COLUMNS", "30")
    said = command("table", "--results", tmp_path)
    assert re.search(r"^method +i2t R@1 +t2i R@1 +rsum$", said.out, re.MULTILINE)
    assert "\n  [geometry=regions," in said.out
    assert "rank s" in command("table", "--wide", "--results", tmp_path).out
    said = command("table", "--columns", "method, medr,rank_s", "--results", tmp_path)
    assert re.search(r"^method +MedR +rank s$", said.out, re.MULTILINE)
    said = command("table", "-f", "csv", "--columns", "method,medr", "--results", tmp_path)
    assert said.out.splitlines()[:2] == ["method,i2t_medr,t2i_medr", "cca:tuned,1.0,1.0"]
    said = command("table", "--columns", "method,rsun", "--results", tmp_path)
    assert said.code == 2 and said.sentence == "there is no column 'rsun'; did you mean 'rsum'?"
    for arguments, option in ((["1", "--columns", "rsum"], "--columns"), (["kernels", "--columns", "s"], "--columns")):
        assert f"{option} does not apply to table" in command("table", *arguments, "--results", tmp_path).sentence


def test_json_has_numbers(committed):
    lines = json.loads(render([*build_tables([finished(twins=50.0)], [failed("cfa:tuned")])], "json"))
    assert [line["status"] for line in lines] == ["ok", "failed"] and lines[0]["seeds"] == [0]
    assert lines[0]["rsum"] == 600 and lines[1]["rsum"] is None and lines[0]["quick"] is False
    csv = render(committed, "csv").splitlines()
    lines = json.loads(render(committed, "json"))
    assert list(lines[0]) == csv[0].split(",") and len(lines) == len(csv) - 1
    assert all(isinstance(line[name], float) for line in lines for name in ("rsum", "rsum_low", "fit_s"))
    assert json.loads(render([], "json")) == []


# order and title


def failed(method, seed=0, **data):
    about = {"protocol": "captions", "folds": 0, "error": "it broke", "traceback": "", "started": "", "environment": {}}
    return Failure(data=run(**data)[0].data, method_label=method, seed=seed, **about)


def test_the_best_row_comes_first_and_failures_last():
    (table,) = build_tables(
        [finished("cca:tuned", 9), finished("cfa:tuned", 0), finished("macc:tuned", 4)], [failed("a")]
    )
    assert [row.label for row in table.rows] == ["cfa:tuned", "macc:tuned", "cca:tuned", "a"]


def test_the_paper_tables_keep_the_papers_order():
    rows = [line.split("  ")[0] for line in paper_table(1, [], "paper", None, "terminal").splitlines()[4:15]]
    assert rows == [row.name for row in paper_rows(1)]


def test_the_caller_chooses_whether_failures_are_told():
    tables = build_tables([finished()], [failed("cfa:tuned")])
    assert "it broke" in render(tables, "terminal") and "it broke" not in render(tables, "terminal", failures=False)


def test_the_title_of_folds_counts_the_images_that_are_ranked():
    (table,) = build_tables([finished(images=43, folds=4)], [])
    assert table.title == "scenes · protocol captions · mean of 4 folds of 10 images"
    assert {len(rows) for rows in fold_rows(43, 4)} == {10}


@pytest.mark.parametrize("name", METHODS.names())
def test_the_list_names_the_tables_a_row_stands_in(name):
    declared = METHODS.describe(name)
    said = re.search(r"rows? of Tables? ([\d, and]+\d|\d)", declared.summary)
    stands = {number for number in TABLES if declared.paper_row in {row.name for row in paper_rows(number)}}
    assert {int(number) for number in re.findall(r"\d", said[1] if said else "")} == stands
    assert "the first row" not in declared.summary


# nothing measured


def test_a_paper_table_of_nothing(command, tmp_path):
    said = command("table", "1", "--results", tmp_path / "nowhere")
    assert said.code == 0 and f"there are no records below {tmp_path / 'nowhere' / 'runs'}" in said.err
    line = next(line for line in said.out.splitlines() if line.startswith("CRAN"))
    assert line.count("- (0.") == 6 and "- (0.381)" in line and line.endswith("not measured")


def test_a_paper_table_says_which_rows_are_of_other_data_or_code():
    """Two versions of one dataset label, each with a row of the paper's table."""
    runs = [
        finished("cca:tuned", label="flickr8k"),
        finished("kcca:tuned", label="flickr8k", split_sha="6" * 64, commit="fedcba987654+"),
        finished("cfa:tuned", label="flickr8k"),
    ]
    tables, one, versions = [
        build_tables(some, [])
        for some in (runs, runs[:1], [*runs[:1], finished("cca:tuned", 9, label="flickr8k", split_sha="6" * 64)])
    ]
    text = flat(paper_table(1, tables, "tuned", "captions", "terminal", "flickr8k"))
    told = "There are records of different data, not to be compared; shown are "
    assert f"{told}KCCA: split 66666666; CFA, CCA: split 55555555." in text
    assert "Rows by the commit of the code: 0123456 2, fedcba9* 1 (*: with uncommitted changes)." in text
    lines = json.loads(paper_table(1, tables, "tuned", "captions", "json", "flickr8k"))
    assert {line["split_sha"][:2] for line in lines} == {"55", "66", ""}
    assert {line["commit"] for line in lines} == {"0123456", "fedcba9*", ""}
    assert "different data" not in paper_table(1, one, "tuned", "captions", "terminal", "flickr8k")
    text = flat(paper_table(1, versions, "tuned", "captions", "terminal", "flickr8k"))
    assert f"{told}CCA: split 55555555." in text


# damaged records


def edited(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


HARM = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is not a record"),
    "empty": (lambda path: path.write_text(""), "is not a record"),
    "a field too many": (lambda path: edited(path, comment="mine"), "comment: Extra inputs are not permitted"),
    "no metrics": (lambda path: edited(path, metrics={}), "is missing"),
    "a better recall": (lambda path: edited(path, ties=7), "was changed after it was written"),
    "a newer schema": (lambda path: edited(path, schema_version=9), "upgrade cran-bench"),
    "other data": (lambda path: edited(path, data={"label": "flickr8k"}), "Field required"),
    "a list": (lambda path: path.write_text("[]"), "is not a record"),
    "other ranks": (lambda path: path.with_suffix(".npz").write_bytes(b"x"), "is not the file its record names"),
    "no ranks": (lambda path: path.with_suffix(".npz").unlink(), "is missing beside its record"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_record_is_a_row_with_its_reason(store, harm):
    change, why = HARM[harm]
    written(store, "cca:tuned")
    written(store, "cfa:tuned", seed=0)
    path = written(store, "cfa:tuned", seed=1)
    worst = written(store, "macc:tuned[text=vectors]", 9)
    change(path)
    change(worst)
    (table,) = build_tables(*store.read())
    assert [row.status for row in table.rows] == ["ok", "damaged", "damaged"]
    assert [len(row.records) for row in table.rows] == [1, 1, 0]
    text = render([table], "terminal")
    label = "macc-tuned-text-vectors" if harm in ("cut", "empty", "a list") else "macc:tuned[text=vectors]"
    assert re.search(rf"^{re.escape(label)}( +damaged){{8}}", text, re.MULTILINE)
    assert f"cfa:tuned seed 1 DAMAGED: {path.with_suffix('')}." in text and why in text
    assert store.read(["scenes"], ["captions"], ["macc:tuned[text=vectors]"])[1][0].method_label.startswith(
        "macc:tuned["
    )


def test_a_damaged_record_never_uncovers_an_older_one(store):
    written(store, "cca:tuned", 4)
    edited(written(store, "cca:tuned", 0), ties=7)
    (table,) = build_tables(*store.read())
    assert [(row.status, row.records) for row in table.rows] == [("damaged", [])]


def test_the_only_record_of_all_may_be_damaged(store):
    written(store, "cran:paper", folds=3).write_text("")
    (table,) = build_tables(*store.read())
    assert [(row.label, row.status) for row in table.rows] == [("cran:paper", "damaged")]
    assert table.title == "scenes · protocol captions" and table.group.folds == 3


def test_a_damaged_error_record_and_a_foreign_file_are_rows_too(store):
    path = written(store)
    path.with_name("cfa-tuned-s2-0123456789ab.error.json").write_text("{")
    path.with_name("notes.json").write_text("{}")
    (table,) = build_tables(*store.read())
    assert {(row.label, row.status) for row in table.rows[1:]} == {("cfa:tuned", "damaged"), ("notes", "damaged")}
    with pytest.raises(BadInput):
        store.runs()


# provenance


def test_the_commit_of_each_row_where_they_differ():
    same = build_tables([finished(), finished("cfa:tuned", 1)], [])
    assert "commit" not in same[0].display() and "Code of commit 0123456." in same[0].notes
    mixed = [
        finished(),
        finished("cfa:tuned", 1, commit="fedcba987654+"),
        finished("cfa:tuned", 2, seed=1, commit=None),
    ]
    (table,) = build_tables(mixed, [])
    assert table.display()["commit"] == ["0123456", "- fedcba9*"]
    note = "Rows by the commit of the code: 0123456 1, - 1, fedcba9* 1 (*: with uncommitted changes)."
    assert note in table.notes
    assert json.loads(render([table], "json"))[1]["commit"] == "- fedcba9*"
    shown = table_contents(table, "mine")["rows"]
    assert [row["environment"][-1] for row in shown] == ["0123456", "- fedcba9*"]
    assert not [line for line in build_tables([finished(commit=None)], [])[0].notes if "ommit" in line]


def test_medr_is_explained():
    (table,) = build_tables([finished()], [])
    assert any("plain median of the ranks (vsepp and SCAN print floor(median of zero-" in line for line in table.notes)


# --quick


def quick(cran, relation, better=0, worse=4):
    rows = [("cran:quick", better, cran), ("cran-relation:quick", 1, relation), ("cran-baseline:quick", worse, 50.0)]
    data = {"quick": True, "label": "scenes:quick", "images": 200}
    (table,) = build_tables([finished(*about, twins=twins, **data) for *about, twins in rows], [])
    return [line for line in table.notes if line.startswith("So short a training cannot show")]


def test_quick_says_what_it_cannot_show_by_its_own_figures():
    (line,) = quick(49.3, 56.9)  # 50 ± 98 / sqrt(200)
    assert "cran:quick 49.3 % and cran-relation:quick 56.9 % cannot be told from chance (50 ± 6.9 %)" in line
    (line,) = quick(90.2, 49.9)
    assert "on twins, cran-relation:quick 49.9 % cannot" in line
    assert quick(90.2, 57.0) == []
    (line,) = quick(90.2, 90.2, better=4, worse=4)
    assert line == "So short a training cannot show that cran:quick has more rsum than cran-baseline:quick."
    long = [finished("cran:tuned", twins=50.0)]
    assert not [line for line in build_tables(long, [])[0].notes if "So short" in line]


# references


def test_a_reference_stands_below_the_rows_and_is_not_compared_with_them():
    rows = [finished("cca:tuned", 1), finished("cfa:tuned", 6)]
    (plain,), (table,) = build_tables(rows, []), build_tables([finished("truth", 0), *rows], [])
    assert [row.label for row in table.rows] == ["cca:tuned", "cfa:tuned", "truth"]
    assert table.rows[2].mean("rsum") > table.rows[0].mean("rsum")
    assert table.ranked == table.rows[:2] and table.behind_best().keys() == {"cfa:tuned"}
    assert (table.places(), table.rank_intervals()) == (plain.places(), plain.rank_intervals())
    cells = table.display()
    assert cells["method"] == ["cca:tuned", "cfa:tuned", "truth ‡"] and cells["behind_best"][2] == ""
    (note,) = (note for note in table.notes if "‡" in note)
    assert note.startswith("‡ truth: a reference row, not a method and not ranked: a caption scores 1 with each image")
    contents = table_contents(table, "scenes")
    assert [row["ranked"] for row in contents["rows"]] == [True, True, False]
    assert [bool(row["reference"]) for row in contents["rows"]] == [False, False, True]
    assert contents["marks"] == [note] and note not in contents["notes"]
    frame = table.frame().set_index("method")
    assert frame["reference"].tolist() == [False, False, True] and "reference" not in plain.frame()
    assert frame.loc["truth", "rsum_low"] > 0 and np.isnan(frame.loc["truth", "behind_best"])


def test_a_reference_has_no_part_in_tests_of_the_best_unless_it_is_named(store, command, tmp_path):
    for method, better in (("truth", 0), ("cca:tuned", 1), ("cfa:tuned", 6)):
        written(store, method, better)
    where = ("-d", "scenes", "--results", tmp_path)
    assert "truth" not in command("significance", *where).out
    assert "truth" in command("significance", "truth", "cca", *where).out
