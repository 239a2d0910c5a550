"""`run --test-on`: fits of one dataset on the test split of another, as the engine called by hand would test them."""

import csv
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cran_bench
from cran_bench.errors import BadInput
from cran_bench.records.archive import read_record
from cran_bench.records.schema import TESTED_ON
from cran_bench.registry import DATASETS, METHODS, Configured, Plugin
from cran_bench.running import jobs
from cran_bench.running.preparation import find_prepared, prepare
from cran_bench.running.remote import Request, RunSpec
from cran_bench.running.runner import Runner, embed
from cran_bench.similarity import COSINE
from cran_bench.split import Split
from cran_bench.tables.tables import build_tables

CPU = torch.device("cpu")
CCA = "cca[dim=16,ridge_image=0.01,ridge_text=0.01]"


def write_folder(folder, images, split="test"):
    """A dataset `folder` of these images, pairs of a PIL image or a path and its captions, in one split."""
    folder.mkdir()
    with (folder / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "split"])
        for number, (image, captions) in enumerate(images):
            name = f"{number:02}.{'png' if isinstance(image, Image.Image) else 'jpg'}"
            image.save(folder / name) if isinstance(image, Image.Image) else shutil.copy(image, folder / name)
            table.writerows([name, caption, split] for caption in captions)
    return folder


def captions_of(collection, row):
    return collection.captions_of(np.array([row]))[0]


@pytest.fixture
def pictures(tmp_path):
    """Twelve other scenes as image files with captions, all of them for testing."""
    collection = DATASETS.configure("scenes[train=2,val=2,test=12,seed=5]").build().load(tmp_path)
    images = [(collection.images.read(row), captions_of(collection, row)) for row in collection.splits["test"].tolist()]
    return write_folder(tmp_path / "pictures", images)


@pytest.fixture
def photographs(flickr, tmp_path):
    """Eight test images: three of Flickr8k's training images and two of validation, with words that it lacks."""
    images, captions = flickr / "flickr8k" / "images", ["red beside green .", "a zeppelin"]
    again = [images / f"{name}.jpg" for name in ("train00", "train01", "train01", "dev00", "dev05")]
    new = [Image.new("RGB", (40, 40), colour) for colour in ("white", "black", "pink")]
    return write_folder(tmp_path / "photographs", [(image, captions) for image in again + new])


@pytest.fixture
def both(quick_scenes, pictures):
    """The scenes, and the same tested on `pictures`, with the features of both."""
    own = find_prepared(DATASETS.configure(quick_scenes.spec), quick_scenes.data, quick_scenes.cache)
    other = find_prepared(DATASETS.configure("folder"), pictures, quick_scenes.cache, like=own)
    return own, own.tested_on(other)


def options_of(tiny, tmp_path):
    return {"data": tiny.data, "cache": tiny.cache, "results": tmp_path / "results"}


def times(folder, pattern):
    return {path: path.stat().st_mtime_ns for path in folder.glob(pattern)}


def test_figures_are_those_of_the_engine_called_by_hand(quick_scenes, pictures, tmp_path):
    options, protocols = options_of(quick_scenes, tmp_path), ("captions", "documents", "mean", "single")
    own_rows = cran_bench.run([CCA, "cfa"], quick_scenes.spec, protocols, **options)
    fits = times(quick_scenes.cache, "fits/*.safetensors")
    made = cran_bench.run([CCA, "cfa"], quick_scenes.spec, protocols, test_on="folder", test_data=pictures, **options)
    assert not made.failures and len(made.records) == 8
    assert fits and fits == times(quick_scenes.cache, "fits/*.safetensors")

    own = find_prepared(DATASETS.configure(quick_scenes.spec), quick_scenes.data, quick_scenes.cache)
    other = find_prepared(DATASETS.configure("folder"), pictures, quick_scenes.cache, "pixels[dim=64]", "none")
    runner = Runner(own, tmp_path / "by hand", quick_scenes.cache, CPU)
    for record in made.records:
        unit = "documents" if record.protocol == "documents" else "captions"
        part = runner.fitted(METHODS.configure(record.method.label), 0, unit)
        test = Split("test", unit, other.collection, other.features, own.text(unit), CPU)
        scores = cran_bench.evaluate(
            *embed(part, test), test.image_of, similarity=part.similarity, protocol=record.protocol
        )
        assert record.metrics == scores.metrics
        assert (record.data.images, record.data.captions) == (12, 60)
        assert record.metrics not in [own.metrics for own in own_rows.records]

    folded = cran_bench.run(CCA, quick_scenes.spec, folds=3, test_on="folder", test_data=pictures, **options)
    assert "mean of 3 folds of 4 images" in folded.tables[0].title
    with pytest.raises(BadInput, match="13 folds"):
        cran_bench.run(CCA, quick_scenes.spec, folds=13, test_on="folder", test_data=pictures, **options)


def test_features_are_extracted_once_and_a_missing_fit_is_made_on_the_first_dataset(quick_scenes, pictures, tmp_path):
    options = {**options_of(quick_scenes, tmp_path), "test_on": "folder", "test_data": pictures}
    (record,) = cran_bench.run(CCA, quick_scenes.spec, **options).records
    manifests = times(quick_scenes.cache, "features/*/manifest.json")
    assert len(manifests) == 2
    own = find_prepared(DATASETS.configure(quick_scenes.spec), quick_scenes.data, quick_scenes.cache)
    fit = Runner(own, tmp_path, quick_scenes.cache, CPU).fits("captions").fitted(METHODS.configure(CCA).build(), 0, "")
    assert fit.reused and fit.fingerprint == record.method.fit_fingerprint
    again = cran_bench.run([CCA, "cfa"], quick_scenes.spec, **options)
    assert [outcome.reused for outcome in again.outcomes] == [True, False]
    assert times(quick_scenes.cache, "features/*/manifest.json") == manifests


def test_records_name_both_datasets_and_leave_others_as_they_are(both, quick_scenes, pictures, tmp_path):
    own, tested = both
    plain, other = (Runner(data, tmp_path / "results", quick_scenes.cache, CPU) for data in (own, tested))
    (mine,), (its,) = (run.run([METHODS.configure("cfa")], ["captions"], [0]) for run in (plain, other))
    assert "fitted_on" not in json.loads(plain.store.path(mine.address).read_text())["data"]
    assert mine.record.data.label == quick_scenes.spec.replace("train=60,val=20,test=20", "test=20,train=60,val=20")
    assert its.record.data.label == mine.record.data.label + TESTED_ON + "folder"
    assert read_record(other.store.path(its.address)) == its.record
    assert other.store.path_of(its.record) == other.store.path(its.address) != plain.store.path(mine.address)
    data, fit, second = its.record.data, its.record.data.fitted_on, tested.test_on
    for name in ("split_sha", "features_sha", "sources_sha", "images_sha", "extras_sha"):
        assert getattr(fit, name) == getattr(mine.record.data, name)
    assert data.split_sha == second.collection.split_sha() != fit.split_sha
    assert data.images_sha == second.features.manifest["images_sha"] != fit.images_sha
    assert its.record.method.fit_fingerprint == mine.record.method.fit_fingerprint
    assert its.record.fingerprint != mine.record.fingerprint and data.cell != mine.record.data.cell

    captions = pictures / "captions.csv"
    captions.write_text(captions.read_text().replace("the", "a"))
    changed = own.tested_on(find_prepared(DATASETS.configure("folder"), pictures, quick_scenes.cache, like=own))
    run = replace(other, data=changed)
    assert run.fingerprints(METHODS.configure("cfa"), ["captions"], 0) != [its.record.fingerprint]
    assert run.fits("captions").fingerprint(METHODS.configure("cfa").build(), 0) == fit_of(its)


def fit_of(outcome):
    return outcome.record.method.fit_fingerprint


def test_tables_keep_tests_on_other_datasets_apart(command, quick_scenes, pictures, tmp_path):
    arguments = [*quick_scenes.arguments, "--results", tmp_path / "results"]
    test = ["--test-on", "folder", "--test-data", pictures]
    assert command("run", "-m", f"{CCA},cfa", *arguments).code == 0
    said = command("run", "-m", f"{CCA},cfa", *arguments, *test)
    assert said.code == 0 and "scenes[test=20,train=60,val=20], tested on folder · protocol captions · 12" in said.out
    assert "Fitted on scenes[test=20,train=60,val=20] (split sha" in " ".join(said.out.split())

    results = ["--results", tmp_path / "results"]
    whole = command("table", *results).out
    assert whole.count("protocol captions ·") == 2
    label = f"{quick_scenes.spec}, tested on folder"
    for name, count in ((label, 12), (quick_scenes.spec, 20)):
        one = command("table", "-d", name, *results).out
        assert one.count("protocol captions ·") == 1 and f" {count} images" in one
    assert " 12 images" in command("significance", "-d", label, *results).out
    assert "unknown" not in command("report", "-d", label, *results, "-o", tmp_path / "page.html").err
    frame = cran_bench.read_records(tmp_path / "results")
    assert len(frame) == 4 and frame["dataset"].str.endswith("tested on folder").sum() == 2
    absent = command("table", "-d", f"{quick_scenes.spec}, tested on precomp", *results)
    assert absent.sentence.endswith("cran-bench run -d 'scenes[test=20,train=60,val=20]' --test-on precomp")
    compared = command("compare", "-d", label, *results, "--reference", tmp_path / "results")
    assert "no comparable rows" in compared.err and "12 images" not in command("table", "1", *results).out


def test_fits_on_other_data_under_one_label_have_tables_of_their_own(both, quick_scenes, tmp_path):
    run = Runner(both[1], tmp_path / "results", quick_scenes.cache, CPU)
    (outcome,) = run.run([METHODS.configure("cfa")], ["captions"], [0])
    fit = outcome.record.data.fitted_on
    info = outcome.record.data.model_copy(update={"fitted_on": fit.model_copy(update={"split_sha": "0" * 64})})
    finished = run.store.finished(outcome.address, outcome.record)
    tables = build_tables([finished, replace(finished, record=outcome.record.model_copy(update={"data": info}))], [])
    assert [len(table.rows) for table in tables] == [1, 1]
    assert all(" · fit data " in table.title and "they differ in fit data." in table.notes[5] for table in tables)


def test_shared_images_and_unknown_words_are_counted(flickr, photographs, tmp_path, capsys):
    options = {"data": flickr, "cache": tmp_path / "cache", "results": tmp_path / "results"}
    made = cran_bench.run("cfa[dim=4]", "flickr8k", test_on="folder", test_data=photographs, **options)
    fit = made.records[0].data.fitted_on
    assert (fit.in_train, fit.in_val) == (3, 2)
    assert (fit.words, fit.unknown_words, fit.unknown_captions) == (8 * 5, 8 * 2, 8)
    line = (
        "3 of 8 test images are also in train of flickr8k, 2 in val; 16 of 40 words of the test captions occur in none "
        "of its training captions, and 8 of 16 test captions have no word that does"
    )
    assert made.remarks[-1] == line and f"  {line}\n" in capsys.readouterr().err
    assert any(note.endswith(f"{line}.") for note in made.tables[0].notes)
    assert not any("that occurs in training" in remark for remark in made.remarks)  # of a folder without any

    own = find_prepared(DATASETS.configure("flickr8k"), flickr, tmp_path / "cache")
    tested = own.tested_on(find_prepared(DATASETS.configure("folder"), photographs, tmp_path / "cache", like=own))
    for data in (tested, tested.test_on):
        (data.features.folder / "digests.json").unlink()
    assert tested.fitted_on == fit


def test_rows_side_by_side_and_on_a_cluster_have_the_same_figures(both, quick_scenes, pictures, tmp_path):
    runner = Runner(both[1], tmp_path / "here", quick_scenes.cache, CPU)
    request = Request(quick_scenes.spec, quick_scenes.data, ["cfa"], ["captions"], [0], ("folder", pictures))
    spec = RunSpec.of(runner, request, "cpu")
    there = replace(spec, folders=(str(tmp_path / "there"), str(quick_scenes.cache)))
    expected = runner.fingerprints(METHODS.configure("cfa"), ["captions"], 0)
    (here,) = runner.run([METHODS.configure("cfa")], ["captions"], [0])
    (outcome,) = jobs._row(there, "cfa", 0, expected)
    assert outcome.record.metrics == here.record.metrics and outcome.record.data == here.record.data
    assert outcome.address == here.address
    own = Runner(both[0], tmp_path / "here", quick_scenes.cache, CPU)
    assert jobs._row(RunSpec.of(own, replace(request, test=None), "cpu"), "cfa", 0, expected) is None


@dataclass
class Regional:
    """The mean region of an image; a text is nothing."""

    similarity = COSINE

    def fit(self, train, val, run):
        self.dim = train.regions.shape[2]

    def embed_images(self, split):
        return split.regions.mean(dim=1)

    def embed_texts(self, split):
        return torch.ones(len(split.texts), self.dim)

    def state(self):
        return {"dim": torch.tensor(self.dim)}

    def load(self, state):
        self.dim = int(state["dim"])


def test_text_features_are_those_of_each_dataset_and_rankings_are_exported(quick_scenes, pictures, tmp_path):
    home, here = (DATASETS.configure(spec) for spec in (quick_scenes.spec, "folder"))
    both = home.build().load(quick_scenes.data), here.build().load(pictures)
    random, keys = np.random.default_rng(0), [key for data in both for key in data.caption_keys()]
    for name in ("one", "other"):
        np.save(tmp_path / f"{name}.npy", random.standard_normal((len(keys), 8), dtype=np.float32))
    (tmp_path / "keys").write_text("\n".join(keys))
    spec, other = (f"npy:{tmp_path}/{name}.npy[ids={tmp_path}/keys]" for name in ("one", "other"))
    row = "cca[text=encoder,dim=4,ridge_image=0.01,ridge_text=0.01]"
    options = {"text_encoder": spec, "test_on": "folder", "test_data": pictures, **options_of(quick_scenes, tmp_path)}
    made = cran_bench.run(row, quick_scenes.spec, **options)
    (record,) = made.records
    assert record.data.text_encoder == "npy:one.npy[ids=keys]" and record.method.encoders == ["backbone", "text"]

    specs = "pixels[dim=64]", "none", "ppmi-svd"
    own = find_prepared(home, quick_scenes.data, quick_scenes.cache, text_encoder=spec)
    test, changed = (find_prepared(here, pictures, quick_scenes.cache, *specs, text) for text in (spec, other))
    part = Runner(own, tmp_path, quick_scenes.cache, CPU).fitted(METHODS.configure(row), 0, "captions")
    split = Split("test", "captions", test.collection, test.features, None, CPU, encoded=test.texts)
    scores = cran_bench.evaluate(*embed(part, split), split.image_of, similarity=part.similarity)
    assert record.metrics == scores.metrics
    runner = Runner(own.tested_on(test), tmp_path / "worker", quick_scenes.cache, CPU)
    request = Request(quick_scenes.spec, quick_scenes.data, [row], ["captions"], [0], ("folder", pictures))
    expected = runner.fingerprints(METHODS.configure(row), ["captions"], 0)
    (outcome,) = jobs._row(RunSpec.of(runner, request, "cpu"), row, 0, expected)
    assert outcome.record.data == record.data and outcome.record.metrics == record.metrics
    assert test.texts.manifest.sources_sha() == record.data.texts_sha != own.texts.manifest.sources_sha()
    for wrong in (changed, replace(test, texts=None)):
        with pytest.raises(BadInput, match="which differ in the text encoder: a fit is tested with the features that"):
            own.tested_on(wrong)

    assert test.texts is not None
    with_documents = replace(test.texts, array=np.concatenate([test.texts.array, test.texts.array[:2]]))
    with pytest.raises(BadInput, match="the features of documents, which are given for one of them only"):
        own.tested_on(replace(test, texts=with_documents))

    cran_bench.export(row, topk=tmp_path / "row.csv", dataset=quick_scenes.spec, **options)
    options.pop("test_on")
    cran_bench.export(made.store.path_of(record), topk=tmp_path / "path.csv", **options)
    with (tmp_path / "path.csv").open(newline="") as file:
        lines = [*csv.DictReader(file)]
    assert (tmp_path / "row.csv").read_bytes() == (tmp_path / "path.csv").read_bytes() and len(lines) == 2 * 12 * 60
    first = [line["is_right"] for line in lines if line["direction"] == "t2i" and line["rank"] == "1"]
    assert 100 * first.count("1") / 60 == pytest.approx(record.metrics["t2i_r1"])


def test_a_method_that_needs_regions_says_that_the_test_set_has_none(both, quick_scenes, tmp_path):
    runner = Runner(both[1], tmp_path / "results", quick_scenes.cache, CPU)
    regional = Configured(Plugin("regional", Regional, {}), "", "regional", {}, "")
    bad, good = runner.run([regional, METHODS.configure("cfa")], ["captions"], [0])
    assert good.record is not None and good.record.data.front_end == "pixels[dim=64] + none"
    assert bad.failure.error == (
        "regional cannot run on scenes[test=20,train=60,val=20], tested on folder: folder was prepared without "
        "regions; prepare it again with --regions"
    )
    assert runner.store.failures()[0].data.fitted_on is not None


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"backbone": {"name": "pixels", "dim": 32}}, "the backbone's dim"),
        ({"backbone": {"name": "onnx", "weights": "0"}}, "the backbone's name"),
        ({"proposer": {"name": "grid", "side": 0.6}}, "the proposer's name"),
        ({"arrays": {"globals": {"shape": [12, 32], "dtype": "float32"}}}, "the shape of globals"),
    ],
)
def test_other_features_are_refused(both, changes, what):
    own, other = both[0], both[1].test_on
    manifest = {**other.features.manifest, **changes, "regions_with": "other"}
    changed = replace(other, features=replace(other.features, manifest=manifest))
    sentence = r"\] has the features pixels\[dim=64\] \+ boxes and folder pixels\[dim=64\] \+ other, which differ in .*"
    with pytest.raises(BadInput, match=sentence + what):
        own.tested_on(changed)


def test_what_either_side_declares_of_the_training_of_an_encoder_counts(both):
    def declaring(data, **names):
        manifest = {**data.features.manifest, "trained_on": names}
        return replace(data, features=replace(data.features, manifest=manifest))

    own, other = both[0], both[1].test_on
    tested = declaring(own, backbone=None, regions=["coco"]).tested_on(
        declaring(other, backbone=["flickr8k"], regions=["imagenet"])
    )
    assert tested.trained_on == {"backbone": ["flickr8k"], "regions": ["coco", "imagenet"]}
    assert declaring(own, backbone=None).tested_on(declaring(other, backbone=None)).trained_on["backbone"] is None


def test_boxes_and_features_that_come_with_the_data_may_differ(both):
    own, other = both[0], both[1].test_on
    manifest = {**other.features.manifest, "proposer": {"name": "boxes", "sha256": "0"}}
    assert own.tested_on(replace(other, features=replace(other.features, manifest=manifest))).test_on
    with pytest.raises(BadInput, match=r"the word vectors \(ppmi-svd and ppmi-svd\[dim=8\]\)"):
        own.tested_on(replace(other, vectors="ppmi-svd[dim=8]"))


def test_mistakes_are_one_sentence(command, quick_scenes, pictures, tmp_path):
    def sentence(*arguments):
        said = command("run", "-m", CCA, *quick_scenes.arguments, "--results", tmp_path / "results", *arguments)
        assert said.code == 2 and not (tmp_path / "results").exists()
        return said.sentence

    assert sentence("--test-data", pictures) == "--test-data is the folder of the dataset of --test-on: give both"
    assert sentence("--test-on", "foldr").endswith("did you mean 'folder'?")
    assert "there is no captions.csv" in sentence("--test-on", "folder", "--test-data", tmp_path)
    untested = write_folder(tmp_path / "untested", [(Image.new("RGB", (9, 9)), ["nothing"])], "train")
    assert "the test split is empty" in sentence("--test-on", "folder", "--test-data", untested)
    prepare(DATASETS.configure("folder"), pictures, quick_scenes.cache, "pixels[dim=32]", "grid")
    for path in (quick_scenes.cache / "features").glob("*/manifest.json"):
        path.write_text(path.read_text().replace('"pixels[dim=64]"', '"onnx:net.onnx"'))
    told = sentence("--test-on", "folder", "--test-data", pictures)
    assert told.startswith(
        "fits of scenes[test=20,train=60,val=20] are tested with its features onnx:net.onnx + boxes,"
    )
    assert "folder lacks (it has pixels[dim=32] + grid)" in told and "net.onnx" in told.rpartition("here: ")[2]


@pytest.mark.real
def test_dev_photographs_of_flickr8k_as_a_folder(tmp_path):
    if "CRAN_BENCH_DATA" not in os.environ:
        pytest.skip("CRAN_BENCH_DATA does not name the folder of the real data")
    data = Path(os.environ["CRAN_BENCH_DATA"])
    flickr = DATASETS.configure("flickr8k[limit=240]")
    collection = flickr.build().load(data)
    rows = collection.splits["val"]
    images = data / "flickr8k" / "images"
    pairs = [(images / collection.images.ids[row], captions_of(collection, row)) for row in rows.tolist()]
    folder = write_folder(tmp_path / "dev", pairs)
    options = {"data": data, "cache": tmp_path / "cache", "results": tmp_path / "results", "regions": "none"}
    (record,) = cran_bench.run(CCA, flickr.label, test_on="folder", test_data=folder, **options).records
    assert record.data.fitted_on.in_val == len(rows) == 30 and record.data.fitted_on.in_train == 0

    first = find_prepared(flickr, data, tmp_path / "cache")
    second = find_prepared(DATASETS.configure("folder"), folder, tmp_path / "cache")
    part = Runner(first, tmp_path, tmp_path / "cache", CPU).fitted(METHODS.configure(CCA), 0, "captions")
    test = Split("test", "captions", second.collection, second.features, first.text("captions"), CPU)
    assert cran_bench.evaluate(*embed(part, test), test.image_of, similarity=part.similarity).metrics == record.metrics
    val = Split("val", "captions", first.collection, first.features, first.text("captions"), CPU)
    scores = cran_bench.evaluate(*embed(part, val), val.image_of, similarity=part.similarity)
    assert scores.metrics == record.metrics  # the same photographs and captions
