"""The functions for Python: the same numbers as the command line, and as the engine called by hand."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import cran_bench
from cran_bench import BadInput, MultiLevel
from cran_bench.ranking.rank import rank
from cran_bench.records.statistics import sample
from cran_bench.registry import METHODS
from cran_bench.running.fits import code_of
from cran_bench.similarity import COSINE, DOT

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(30, 8)).astype(np.float32)
OWNERS = np.arange(30).repeat(5)
TEXTS = (IMAGES[OWNERS] + 1.5 * rng.normal(size=(150, 8))).astype(np.float32)


def test_the_public_names_are_complete_and_nothing_else_is_shown():
    assert dir(cran_bench) == sorted(cran_bench.__all__)
    for name in cran_bench.__all__:
        assert getattr(cran_bench, name) is not None
    assert cran_bench.__version__ == "0.1.0"


def test_evaluate_gives_what_the_engine_gives():
    expected = rank(torch.from_numpy(IMAGES), torch.from_numpy(TEXTS), torch.from_numpy(OWNERS), COSINE)
    found = cran_bench.evaluate(IMAGES, TEXTS)
    assert found.metrics == expected.metrics().values()
    interval = sample([expected]).interval("i2t_r1")
    assert found.interval("i2t_r1") == interval
    table = found.table()
    assert table.loc["i2t_r1"].tolist() == [interval.value, interval.low, interval.high]
    assert np.isnan(table.loc["i2t_medr", "low"])
    assert table.loc["rsum", "low"] < table.loc["rsum", "value"] < table.loc["rsum", "high"]


@pytest.mark.parametrize(
    ("images", "texts"),
    [
        (torch.from_numpy(IMAGES), torch.from_numpy(TEXTS)),
        (IMAGES.astype(np.float64), TEXTS.astype(np.float64)),
        (IMAGES.tolist(), TEXTS.tolist()),
    ],
)
def test_evaluate_takes_numpy_torch_and_lists(images, texts):
    expected = cran_bench.evaluate(IMAGES, TEXTS).metrics
    assert cran_bench.evaluate(images, texts).metrics == pytest.approx(expected)


def test_evaluate_takes_labels():
    classes = np.arange(30) % 4
    one_hot = np.eye(4, dtype=np.uint8)[classes]
    found = cran_bench.evaluate(IMAGES, TEXTS, labels=one_hot)
    for given in (
        classes,
        classes * 10**12,
        classes.tolist(),
        torch.from_numpy(classes),
        one_hot.astype(bool),
        one_hot.astype(float),
    ):
        assert cran_bench.evaluate(IMAGES, TEXTS, labels=given).metrics == found.metrics
    without = cran_bench.evaluate(IMAGES, TEXTS)
    assert without.metrics.items() <= found.metrics.items() and "map" not in without.metrics
    interval = found.interval("map")
    assert interval.low < interval.value < interval.high
    assert found.metrics["map"] == pytest.approx(interval.value)
    assert found.interval("rsum") == without.interval("rsum")
    table = found.table()
    assert table.loc["map"].tolist() == pytest.approx([interval.value, interval.low, interval.high])
    assert np.isnan(table.loc["i2t_class_map", "low"]) and table.loc["rsum", "low"] == without.interval("rsum").low
    with pytest.raises(BadInput, match="the data had no labels"):
        without.interval("map")


@pytest.mark.parametrize(
    "labels", [np.zeros((29, 2)), np.full((30, 2), 2), np.arange(30) - 1, np.zeros(30), np.ones(29, int)]
)
def test_evaluate_refuses_unusable_labels(labels):
    with pytest.raises(BadInput, match=r"labels must be \(30 images, categories\) of zeros and ones, or 30 numbers"):
        cran_bench.evaluate(IMAGES, TEXTS, labels=labels)


def test_evaluate_sorts_texts_by_their_image():
    order = np.random.default_rng(1).permutation(150)
    for protocol in ("captions", "mean"):
        expected = cran_bench.evaluate(IMAGES, TEXTS, protocol=protocol).metrics
        assert cran_bench.evaluate(IMAGES, TEXTS[order], OWNERS[order], protocol=protocol).metrics == expected


def test_evaluate_takes_a_similarity_folds_and_twins():
    plain = cran_bench.evaluate(IMAGES, TEXTS, similarity="dot").metrics
    assert plain == cran_bench.evaluate(IMAGES, TEXTS, similarity=DOT).metrics
    assert plain == cran_bench.evaluate(IMAGES, TEXTS, similarity=MultiLevel(top=1)).metrics
    assert plain != cran_bench.evaluate(IMAGES, TEXTS).metrics
    folds = cran_bench.evaluate(IMAGES, TEXTS, folds=3, twins=np.arange(30) ^ 1)
    parts = [cran_bench.evaluate(IMAGES[a : a + 10], TEXTS[5 * a : 5 * a + 50]).metrics for a in (0, 10, 20)]
    assert folds.metrics["rsum"] == pytest.approx(np.mean([part["rsum"] for part in parts]))
    own, other = (np.einsum("td,td->t", TEXTS / np.linalg.norm(TEXTS, axis=1)[:, None], side) for side in (
        (IMAGES / np.linalg.norm(IMAGES, axis=1)[:, None])[OWNERS],
        (IMAGES / np.linalg.norm(IMAGES, axis=1)[:, None])[OWNERS ^ 1],
    ))  # fmt: skip
    assert folds.metrics["twin_accuracy"] == pytest.approx(100 * (own > other).mean())


def test_evaluate_takes_any_memory_layout_and_precision(tmp_path):
    expected = cran_bench.evaluate(IMAGES[::-1].copy(), TEXTS, OWNERS[::-1].copy()).metrics
    assert cran_bench.evaluate(IMAGES[::-1], TEXTS, OWNERS[::-1]).metrics == expected
    np.save(tmp_path / "texts.npy", TEXTS.astype(">f4"))
    texts = np.load(tmp_path / "texts.npy", mmap_mode="r")
    plain = {p: cran_bench.evaluate(IMAGES, TEXTS, protocol=p).metrics for p in ("captions", "mean")}
    for protocol, metrics in plain.items():
        assert cran_bench.evaluate(IMAGES, texts, protocol=protocol).metrics == metrics
        for kinds in (("f8", "f8"), ("f4", "f8"), ("f8", "f4")):
            given = (IMAGES.astype(kinds[0]), TEXTS.astype(kinds[1]))
            assert cran_bench.evaluate(*given, protocol=protocol).metrics == pytest.approx(metrics)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text_embeddings": TEXTS[:-1]}, "149 texts cannot be divided evenly"),
        ({"similarity": "euclid"}, "'cosine', 'dot' or a declared similarity, not 'euclid'"),
        ({"protocol": "caption"}, "there is no protocol 'caption'; did you mean 'captions'"),
        ({"folds": -1}, "folds is -1; give 0 to rank everything"),
        ({"twins": np.arange(29)}, "twins needs a row, 0 to 29, for each of the 30 images"),
        ({"twins": np.arange(30) + 1}, "twins needs a row, 0 to 29"),
        ({"twins": np.arange(30) / 2}, "twins must be row numbers, integers"),
        ({"image_of": OWNERS + 0.5}, "image_of must be row numbers, integers"),
        ({"image_of": OWNERS.astype(str)}, "image_of must be numbers, not an array of <U"),
        ({"text_embeddings": [["a"]]}, "embeddings must be numbers, not an array of <U1"),
        ({"image_embeddings": IMAGES[0]}, r"not \(8,\)"),
        ({"image_of": OWNERS[:-1]}, "there are 150 texts and 149 entries"),
        ({"image_of": OWNERS + 1}, "row 30, but there are 30 images"),
        ({"text_embeddings": TEXTS * np.nan}, "150 of 150 vectors contain NaN"),
        ({"backend": "tortch"}, "did you mean 'torch'"),
    ],
)
def test_evaluate_says_what_is_wrong(arguments, message):
    with pytest.raises(BadInput, match=message):
        cran_bench.evaluate(**({"image_embeddings": IMAGES, "text_embeddings": TEXTS} | arguments))


def test_run_fits_records_and_tabulates(quick_scenes, tmp_path):
    options = {"data": quick_scenes.data, "cache": quick_scenes.cache, "results": tmp_path / "results"}
    methods = ["cca[dim=16,ridge_image=0.01,ridge_text=0.01]", "cfa"]
    made = cran_bench.run(methods, quick_scenes.spec, ("captions", "mean"), seeds=[0, 1], **options)
    assert len(made.records) == 8 and not made.failures
    table = made.table()
    assert isinstance(table, pd.DataFrame)
    assert sorted(set(table["method"])) == sorted({record.method.label for record in made.records})
    assert table["rsum"].iloc[0] == pytest.approx(made.records[0].metrics["rsum"], abs=1e-4)
    again = cran_bench.run(methods[0], quick_scenes.spec, "captions", "0:2", **options)
    assert all(outcome.reused for outcome in again.outcomes)
    assert again.records == [r for r in made.records if r.protocol == "captions" and r.method.name == "cca"]

    frame = cran_bench.read_records(tmp_path / "results")
    assert len(frame) == 8
    assert set(frame["protocol"]) == {"captions", "mean"}
    one = frame[(frame["method"] == made.records[0].method.label) & (frame["seed"] == 0)]
    assert made.records[0].metrics["i2t_r1"] in one["i2t_r1"].tolist()
    assert frame["fit_s"].ge(0).all() and frame["started"].notna().all()


def test_what_is_noted_about_the_data_is_printed_and_returned(flickr, tmp_path, capsys):
    photographs, texts = flickr / "flickr8k" / "images", flickr / "flickr8k" / "Flickr8k.token.txt"
    shutil.copy(photographs / "train00.jpg", photographs / "test01.jpg")
    lines = texts.read_text().splitlines()
    new = {"test00.jpg#0": "Zyx", "test00.jpg#1": "zyx", "test01.jpg#0": "RED  beside GREEN ."}
    texts.write_text("\n".join(f"{key}\t{new.get(key, text)}" for key, text in (line.split("\t") for line in lines)))
    made = cran_bench.run("cfa", "flickr8k", data=flickr, cache=tmp_path / "cache", results=tmp_path / "results")
    assert made.remarks[1:] == [
        "10 of 12 test captions also stand in train; 17 captions and 1 images occur more than once, "
        "9 and 1 of them across splits",
        "test captions without any word that occurs in training: 2 of 12",
    ]
    said = capsys.readouterr().err
    assert all(f"  {remark}\n" in said for remark in made.remarks)
    assert "Only 6 test images: one image is 16.7 points of i2t recall." in made.tables[0].notes


def test_run_keeps_failures_and_goes_on(quick_scenes, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from dataclasses import dataclass\nfrom cran_bench import COSINE\n\n\n@dataclass\nclass Mine:\n"
        "    similarity = COSINE\n"
        "    def fit(self, train, val, run): raise RuntimeError('no')\n"
        "    def embed_images(self, split): return split.images\n"
        "    def embed_texts(self, split): return split.images\n"
        "    def state(self): return {}\n"
        "    def load(self, state): pass\n"
    )
    options = {"data": quick_scenes.data, "cache": quick_scenes.cache, "results": tmp_path / "results"}
    made = cran_bench.run([f"{mine}:Mine", "cfa"], quick_scenes.spec, **options)
    assert [failure.error for failure in made.failures] == [f"RuntimeError: no ({mine}, line 8)"]
    assert len(made.records) == 1
    assert made.table()["status"].tolist() == ["ok", "failed"]


def test_read_records_says_where_there_are_none(tmp_path):
    with pytest.raises(BadInput, match="there are no records below"):
        cran_bench.read_records(tmp_path)


def test_read_records_shows_the_newest_of_a_row(quick_scenes, tmp_path):
    options = {"data": quick_scenes.data, "cache": quick_scenes.cache, "results": tmp_path}
    made = cran_bench.run("cfa", quick_scenes.spec, **options)
    (outcome,) = made.outcomes
    later = outcome.record.model_copy(update={"fingerprint": "f" * 64, "started": "2999-01-01T00:00:00+00:00"})
    address = replace(outcome.address, fingerprint="f" * 64)
    made.store.write(address, later, made.store.finished(outcome.address, outcome.record).ranks)
    assert len(made.store.runs()) == 2
    assert list(cran_bench.read_records(tmp_path)["fingerprint"]) == ["f" * 64]


def test_folders_are_taken_from_the_environment(quick_scenes, tmp_path, monkeypatch):
    for name in ("data", "cache"):
        monkeypatch.setenv(f"CRAN_BENCH_{name.upper()}", str(getattr(quick_scenes, name)))
    monkeypatch.setenv("CRAN_BENCH_RESULTS", str(tmp_path))
    made = cran_bench.run("cfa", quick_scenes.spec)
    assert repr(made) == "<Results: 1 records, 0 failures>"
    assert len(cran_bench.read_records()) == 1 == len(list(tmp_path.rglob("*.answers.npz")))


def test_a_method_edited_after_its_import_is_never_recorded_as_the_new_code(tmp_path, monkeypatch):
    def text(sign):
        functions = "".join(f"\n    def {f}(self, *given): return {sign}1" for f in ("fit", "state", "load"))
        embed = "".join(
            f"\n    def embed_{side}(self, split): return {sign}split.images" for side in ("images", "texts")
        )
        head = "from dataclasses import dataclass\nfrom cran_bench import COSINE\n@dataclass\nclass Mine:\n"
        return f"{head}    similarity = COSINE{functions}{embed}\n"

    def edit(*given):
        (tmp_path / "mine.py").write_text(text("-"))
        raise BadInput("enough")

    for name in ("mine", "copy"):
        (tmp_path / f"{name}.py").write_text(text("+"))
    mine, copy = (METHODS.configure(f"{tmp_path / name}.py:Mine").build() for name in ("mine", "copy"))
    monkeypatch.setattr("cran_bench.running.experiment.find_tested", edit)  # which may take hours
    with pytest.raises(BadInput, match="enough"):
        cran_bench.run(f"{tmp_path / 'mine.py'}:Mine")
    assert code_of(mine) == code_of(copy)
    with pytest.raises(BadInput, match=r"mine.py was changed after it was imported: start Python again"):
        cran_bench.run(f"{tmp_path / 'mine.py'}:Mine")


def test_methods_are_given_by_name():
    for methods in (dict, ["cca", dict]):
        with pytest.raises(BadInput, match="methods are given by name"):
            cran_bench.run(methods)
