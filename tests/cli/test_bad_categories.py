"""Categories that do not fit the methods: one sentence and exit code 2, or the right figures."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from scipy.io import savemat

from cran_bench.datasets.scenes import Scenes

ROWS = {
    "cca": "cca:cm",
    "sm": "sm:paper[compare=cosine]",
    "scm": "scm:paper[compare=cosine]",
    "cca3v": "cca3v[dim=3,power=1,ridge=0.1]",
    "ml-cca": "ml-cca:paper",
    "jrl": "jrl:paper",
    "s2upg": "s2upg:code[patches=false]",
}
LEARNERS = [*ROWS][1:]
SPLITS = {"train": 40, "val": 12, "test": 20}


def write(data, labels=lambda split, kind: kind, change=lambda arrays: None):
    """Pairs of four categories in the files of `pascal-sentence`, with other labels or features."""
    random = np.random.default_rng(0)
    centres = {"img": random.normal(size=(4, 6)), "txt": random.normal(size=(4, 5))}
    arrays = {}
    for split, count in SPLITS.items():
        kind = np.arange(count) % 4
        arrays |= {
            f"{split}_{side}": rows[kind] + 0.5 * random.normal(size=(count, rows.shape[1]))
            for side, rows in centres.items()
        }
        arrays[f"{split}_img_lab"] = labels(split, kind)
    change(arrays)
    (data / "pascal").mkdir()
    for name, array in arrays.items():
        np.save(data / "pascal" / f"{name}.npy", array)


@pytest.fixture
def fit(command, tmp_path):
    def call(*rows, labels=lambda split, kind: kind, change=lambda arrays: None):
        """The answer of `run`, with the records and the sentences of failures by the names of their rows."""
        write(tmp_path, labels, change)
        where = ["--data", tmp_path, "--cache", tmp_path / "cache", "--results", tmp_path / "results"]
        said = command("run", ",".join(ROWS.get(row, row) for row in rows), "-d", "pascal-sentence", *where)
        assert "Traceback" not in said.err + said.out
        records, failures = {}, {}
        for path in (tmp_path / "results").rglob("*.json"):
            held = json.loads(path.read_text())
            if path.name.endswith(".error.json"):
                failures[held["method_label"].partition(":")[0].partition("[")[0]] = held["error"]
            elif not path.name.endswith(".examples.json"):
                records[held["method"]["name"]] = held
        assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]
        return said, records, failures

    return call


def hot(split, kind):
    return np.eye(4, dtype=int)[kind]


def without(which, *, every=1):
    """Rows of zeros for each of some pairs of the splits `which`."""

    def labels(split, kind):
        rows = hot(split, kind)
        rows[:: every if split in which else len(rows) + 1] = 0
        if split not in which:
            rows[0] = hot(split, kind)[0]
        return rows

    return labels


def changed(before, after, pairs=slice(None)):
    """Training labels in which a category of some pairs becomes another."""

    def labels(split, kind):
        kind = kind.copy()
        if split == "train":
            kind[pairs] = np.where(kind[pairs] == before, after, kind[pairs])
        return kind

    return labels


@pytest.mark.parametrize(
    ("labels", "remark"),
    [
        (changed(0, 9, slice(0, 1)), "test has no pair of 1 of 5 categories, such as 9"),
        (changed(3, 2), "train has no pair of 1 of 4 categories, such as 3"),
    ],
    ids=["a class with one member", "a test class that training lacks"],
)
def test_rare_classes_are_fitted_and_told(fit, labels, remark):
    said, records, failures = fit(*ROWS, labels=labels)
    assert said.code == 0 and not failures and records.keys() == ROWS.keys()
    assert remark in said.err + said.out
    for record in records.values():
        metrics = record["metrics"]
        assert metrics["classes"] == 4 and 0.2 < metrics["map"] <= 1 and metrics["i2t_unlabelled"] == 0


def test_equal_labels_tell_nothing_apart(fit):
    said, records, failures = fit(*ROWS, labels=lambda split, kind: np.ones_like(kind))
    assert said.code == 2 and said.sentence.startswith("6 of 7 rows failed, ")
    (record,) = records.values()
    assert record["method"]["label"] == "cca:cm"
    assert record["metrics"]["map"] == 1 and "\n1 category.\n" in said.out  # everything is right
    assert failures.keys() == set(LEARNERS)
    for sentence in failures.values():
        assert "all images of the train split have the same categories (given), so nothing can be told" in sentence


def test_images_without_labels_are_left_out_and_counted(fit):
    said, records, failures = fit("sm", "ml-cca", "jrl", labels=without(SPLITS, every=5))
    assert said.code == 0 and not failures and len(records) == 3
    for record in records.values():
        assert record["method"]["chose"]["unlabelled"] == 8
        assert record["metrics"]["i2t_unlabelled"] == record["metrics"]["t2i_unlabelled"] == 4
    assert "4 categories; without any, and left out: 4 image and 4 text queries." in said.out


def test_no_training_image_has_a_label(fit):
    said, records, failures = fit(*ROWS, labels=without(["train"]))
    assert said.code == 2 and list(records) == ["cca"] and failures.keys() == set(LEARNERS)
    assert {*failures.values()} == {"no image of the train split has a category (given), and a fit needs some"}


def test_no_validation_image_has_a_label(fit):
    said, _, failures = fit(
        "sm", "cca[metric=rsum,dim=3,power=1,ridge_image=0.1,ridge_text=0.1]", labels=without(["val"])
    )
    assert said.code == 2 and said.sentence.startswith("1 of 2 rows failed, ")
    assert failures == {"sm": "no image to rank has a label: label some, or say metric=rsum where validation has none"}


def test_no_test_image_has_a_label(fit):
    said, records, failures = fit("cca:cm", "sm", labels=without(["test"]))
    assert said.code == 0 and not failures and "test has no pair of 4 of 4 categories" in said.err + said.out
    assert "R@1" in said.out and "mAP" not in said.out
    assert all("map" not in record["metrics"] and record["metrics"]["rsum"] > 0 for record in records.values())


def test_constant_columns_change_nothing(fit, tmp_path):
    def insert(arrays):
        for split in SPLITS:
            for side, value in (("img", 1 / 3), ("txt", 0.0)):
                arrays[f"{split}_{side}"] = np.insert(arrays[f"{split}_{side}"], 2, value, axis=1)

    rows = "sm", "scm", "cca3v", "ml-cca"
    _, plain, _ = fit(*rows)
    for name in ("pascal", "results", "cache"):
        shutil.rmtree(tmp_path / name)
    said, wider, failures = fit(*rows, change=insert)
    assert said.code == 0 and not failures
    for name in rows:
        assert wider[name]["metrics"]["map"] == pytest.approx(plain[name]["metrics"]["map"], abs=0.02)


def test_no_columns(fit):
    def cut(arrays):
        arrays["train_txt"] = arrays["train_txt"][:, :0]

    said, *_ = fit("sm", change=cut)
    assert (
        said.code == 2 and "train_txt.npy (train_txt) has the shape (40, 0); features have the shape" in said.sentence
    )


@pytest.mark.parametrize("side", ["img", "txt"])
def test_constant_features(fit, side):
    def flatten(arrays):
        arrays[f"train_{side}"][:] = 1 / 3

    said, _, failures = fit(*ROWS, change=flatten)
    what = {"img": "image", "txt": "text"}[side]
    assert said.code == 2 and said.sentence.startswith("7 of 7 rows failed, ")
    assert {*failures.values()} == {
        f"the {what} features are the same in all rows, so nothing can be learned: check them"
    }


def test_more_dimensions_than_there_are(fit):
    wide = "cca3v[dim=99,power=1,ridge=0.1]", "ml-cca:paper[dim=99]", "scm:paper[dim=99]", "jrl:paper[neighbours=5000]"
    said, records, failures = fit(*wide)
    assert said.code == 0 and not failures and len(records) == 4
    assert records["ml-cca"]["method"]["chose"]["dim"] <= 5


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("cca3v[ridge=0]", "cca3v: ridge is above 0, not 0: categories of which each image has one sum to 1"),
        ("ml-cca[dim=0]", "ml-cca: dim is at least 1, not 0"),
        ("cca[metric=maps]", "cca: metric is 'maps'; did you mean 'map'?"),
        ("sm[labels=cluster:5]", "there is no label source 'cluster:5'; did you mean 'clusters'?"),
    ],
)
def test_wrong_fields(fit, tmp_path, row, sentence):
    said, *_ = fit(row)
    assert said.code == 2 and sentence in said.sentence and not (tmp_path / "results").exists()


def spoil(kind, path):
    if kind == "version 7.3":
        path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512, b"\0"))
    elif kind == "objects":
        savemat(path, {"train_img": np.array([{"a": 1}, "b"], dtype=object)})
    else:
        savemat(path, {"train_img": np.random.default_rng(0).random((40, 6))})
        path.write_bytes(path.read_bytes()[:700])


@pytest.mark.parametrize("verb", ["run", "prepare"])
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("version 7.3", "is a MATLAB file of version 7.3, which is HDF5: save it again in MATLAB with -v7"),
        ("objects", "(train_img) is of MATLAB's type cell; save it as a matrix of real numbers"),
        ("cut short", "is cut short, damaged, too old or holds Python objects; copy it again"),
    ],
)
def test_damaged_files(command, tmp_path, verb, kind, sentence):
    write(tmp_path)
    (tmp_path / "pascal" / "train_img.npy").unlink()
    spoil(kind, tmp_path / "pascal" / "train_img.mat")
    where = ["--data", tmp_path, "--cache", tmp_path / "cache"]
    start = ["pascal-sentence"] if verb == "prepare" else ["sm", "-d", "pascal-sentence"]
    said = command(verb, *start, *where, *(["--results", tmp_path / "results"] if verb == "run" else []))
    assert said.code == 2 and sentence in said.sentence
    assert not (tmp_path / "results").exists() and not [*tmp_path.glob("cache/**/*.npy")]


def test_data_without_labels(command, quick_scenes, tmp_path, monkeypatch):
    load = Scenes.load
    monkeypatch.setattr(Scenes, "load", lambda self, data: replace(load(self, data), labels=None, label_names=()))
    results = ["--results", tmp_path / "results"]
    rows = "cfa:paper,cca:paper[metric=map],sm:paper,sm:paper[labels=clusters:4]"
    said = command("run", rows, *quick_scenes.arguments, *results)
    assert said.code == 2 and said.sentence.startswith("2 of 4 rows failed, ")
    first, second, third, last = (line for line in said.err.splitlines() if line.startswith("["))
    name = "scenes[test=20,train=60,val=20]"
    assert "R@1" in first and "R@1" in last and "labels=clusters:4" in last
    assert second.endswith(f"{name} has no category labels: use data that has them, or choose by metric=rsum")
    assert third.endswith(
        f"FAILED, sm:paper[compare=cosine] cannot run on {name}: {name} has no category labels; say labels=clusters:20 "
        "or labels=keywords:300"
    )
    both = "cfa:paper", "sm:paper[compare=cosine,labels=clusters:4]"
    told = "none of these records has figures by category: they need data with labels, and records of this version"
    for said in (
        command("table", "category", *results),
        command("significance", *both, "--metric", "map", "-d", name, *results),
    ):
        assert said.code == 2 and said.sentence.startswith(told)


def test_a_text_encoder_has_no_place(command, tmp_path):
    write(tmp_path)
    where = ["--data", tmp_path, "--cache", tmp_path / "cache", "--results", tmp_path / "results"]
    said = command("run", "cca:cm", "-d", "pascal-sentence", "--text-encoder", "npy:none.npy", *where)
    assert said.code == 2 and "the texts of pascal-sentence are features" in said.sentence
    assert said.sentence.endswith("leave --text-encoder out") and not (tmp_path / "results").exists()


def test_a_sentence_cannot_be_searched_for(command, tmp_path):
    write(tmp_path)
    where = ["--data", tmp_path, "--cache", tmp_path / "cache"]
    said = command("search", "a dog", "-m", "cca:cm", "-d", "pascal-sentence", *where)
    assert said.code == 2 and "pascal-sentence has features of its own texts only" in said.sentence
