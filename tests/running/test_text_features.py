"""A text encoder from the command line to the record: features are made once, named, and belong to the captions."""

import json

import numpy as np
import pytest
import torch

import cran_bench
from cran_bench.registry import DATASETS
from cran_bench.running.doctor import examine_cache
from cran_bench.running.preparation import find_prepared, load_collection
from cran_bench.running.remote import Request, RunSpec
from cran_bench.running.runner import Runner
from cran_bench.tables.tables import build_tables


@pytest.fixture
def collection(quick_scenes):
    return load_collection(DATASETS.configure(quick_scenes.spec), quick_scenes.data)


@pytest.fixture
def encoder(collection, tmp_path):
    """The spec of a file with a row for each caption that tells its words."""
    random, of_words = np.random.default_rng(0), {}
    for text in collection.captions:
        for word in text.split():
            of_words.setdefault(word, random.normal(size=12))
    rows = np.array([sum(of_words[word] for word in text.split()) for text in collection.captions])
    np.save(tmp_path / "texts.npy", rows.astype(np.float32))
    return f"npy:{tmp_path / 'texts.npy'}"


def records(folder):
    return [json.loads(path.read_text()) for path in folder.rglob("cca*s0-*.json") if path.name.count(".") == 1]


def test_a_run_names_the_encoder_and_is_reused(command, quick_scenes, encoder, tmp_path):
    arguments = [*quick_scenes.arguments, "--results", tmp_path / "results", "--text-encoder", encoder]
    said = command("run", "-m", "cca[text=encoder]", *arguments)
    assert said.code == 0 and "encoding 500 captions with npy:texts.npy" in said.err, said.err
    assert "cca:tuned[text=encoder]" in said.out and "text encoder npy:texts.npy." in said.out
    (record,) = records(tmp_path)
    assert record["data"]["text_encoder"] == "npy:texts.npy" and len(record["data"]["texts_sha"]) == 64
    assert record["metrics"]["rsum"] > 200  # chance has 150
    assert "reused" in command("run", "-m", "cca[text=encoder]", *arguments).err
    assert cran_bench.read_records(tmp_path / "results")["text_encoder"].tolist() == ["npy:texts.npy"]
    header, line, *_ = command("table", "--results", tmp_path / "results", "-f", "csv").out.splitlines()
    assert "text_encoder" in header and "npy:texts.npy" in line


def test_without_an_encoder_nothing_is_named_and_the_row_says_what_it_needs(command, quick_scenes, tmp_path):
    arguments = [*quick_scenes.arguments, "--results", tmp_path / "results"]
    said = command("run", "-m", "cca,cca[text=encoder]", *arguments)
    assert said.code == 2 and "has no text encoder here; give one with --text-encoder" in said.err
    (record,) = records(tmp_path)
    assert not {"text_encoder", "texts_sha"} & set(record["data"]) and record["data"]["extras_sha"] == ""
    assert not (quick_scenes.cache / "texts").exists()
    assert "text_encoder" not in command("table", "--results", tmp_path / "results", "-f", "csv").out


def test_a_row_that_lacks_an_encoder_says_which_is_prepared(command, quick_scenes, encoder, tmp_path):
    configured = DATASETS.configure(quick_scenes.spec)
    find_prepared(configured, quick_scenes.data, quick_scenes.cache, text_encoder=encoder)
    said = command("run", "cca[text=encoder]", *quick_scenes.arguments, "--results", tmp_path / "results")
    assert (
        said.code == 2 and "give one with --text-encoder, such as npy:texts.npy with its folder, by which" in said.err
    )


def test_only_an_encoder_changes_the_identity_of_the_data(quick_scenes, encoder, collection, tmp_path):
    def found(text_encoder=None):
        configured = DATASETS.configure(quick_scenes.spec)
        return find_prepared(configured, quick_scenes.data, quick_scenes.cache, text_encoder=text_encoder)

    plain, encoded = found().identity, found(encoder).identity
    assert set(plain) == {"split", "extras", "features", "vectors"}
    assert {key: encoded[key] for key in plain} == plain and set(encoded) - set(plain) == {"texts"}
    np.save(tmp_path / "other.npy", np.load(tmp_path / "texts.npy")[:, ::-1])
    assert found(f"npy:{tmp_path / 'other.npy'}").identity != encoded
    keys = collection.caption_keys()
    assert keys[:6] == ["train-00000a#0", *(f"train-00000a#{k}" for k in range(1, 5)), "train-00000b#0"]


def test_records_of_different_encoders_do_not_share_a_table(quick_scenes, encoder, tmp_path):
    np.save(tmp_path / "other.npy", np.load(tmp_path / "texts.npy")[:, ::-1])
    folders = {"data": quick_scenes.data, "cache": quick_scenes.cache, "results": tmp_path / "results"}
    made = [
        cran_bench.run("cca[text=encoder,dim=8]", quick_scenes.spec, text_encoder=spec, **folders)
        for spec in (encoder, f"npy:{tmp_path / 'other.npy'}")
    ]
    runs = [run for one in made for run in one.store.runs()]
    assert len(build_tables(runs, [])) == 2


def test_a_worker_finds_the_same_features(quick_scenes, encoder, tmp_path):
    configured = DATASETS.configure(quick_scenes.spec)
    prepared = find_prepared(configured, quick_scenes.data, quick_scenes.cache, text_encoder=encoder)
    runner = Runner(prepared, tmp_path / "results", quick_scenes.cache, torch.device("cpu"))
    request = Request(quick_scenes.spec, quick_scenes.data, ["cca"], ("captions",), [0])
    there = RunSpec.of(runner, request, "cpu").runner()
    assert there.data.identity == prepared.identity


def test_prepare_encodes_and_checks_and_the_doctor_sees_changes(command, quick_scenes, encoder, tmp_path):
    arguments = [quick_scenes.spec, "--data", quick_scenes.data, "--cache", quick_scenes.cache]
    said = command("prepare", *arguments, "--check", "--text-encoder", encoder)
    assert said.code == 0 and "captions by npy:" in said.out and not (quick_scenes.cache / "texts").exists()
    said = command("prepare", *arguments, "--text-encoder", "onxx:gone.onnx")
    assert said.code == 2 and "there is no text encoder 'onxx'; did you mean 'onnx'?" in said.sentence
    prepare = ["prepare", *arguments, "--text-encoder", encoder]
    said = command(*prepare)
    assert said.code == 0 and said.out.endswith(", captions by npy:texts.npy\n")
    results = tmp_path / "results"
    assert [*examine_cache(quick_scenes.cache)] == []
    (path,) = (quick_scenes.cache / "texts").glob("*.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    doctor = ["doctor", "--results", results, "--cache", quick_scenes.cache]
    said = command(*doctor, "--check")
    assert said.code == 1 and f"{path}: {path.name} was changed after it was written" in said.out
    assert command(*doctor).out.endswith("all problems fixed\n")
    assert "encoding 500 captions" in command(*prepare).err and [*examine_cache(quick_scenes.cache)] == []


def test_a_search_needs_an_encoder_of_new_sentences(command, quick_scenes, encoder):
    spec = "cca[text=encoder,dim=8,ridge_image=0.01,ridge_text=0.01]"
    said = command("search", "a red star", "-m", spec, *quick_scenes.arguments, "--text-encoder", encoder)
    assert said.code == 2 and "npy:texts.npy has no features of other texts than the captions" in said.sentence


def test_rows_that_read_an_encoder_which_saw_the_captions_are_marked(command, flickr, tmp_path):
    captions = load_collection(DATASETS.configure("flickr8k"), flickr).captions
    of_text = {text: k for k, text in enumerate(dict.fromkeys(captions))}
    rows = np.random.default_rng(0).normal(size=(len(of_text), 8))[[of_text[text] for text in captions]]
    np.save(tmp_path / "texts.npy", rows.astype(np.float32))
    where = ["-d", "flickr8k", "--data", flickr, "--cache", tmp_path / "cache", "--results", tmp_path / "results"]
    where += ["--backbone", "pixels[dim=16]", "--regions", "none"]
    spec = f"npy:{tmp_path / 'texts.npy'}"
    said = command("run", "-m", "cca[text=encoder],cca", *where, "--text-encoder", f"{spec}[trained_on=snli|Flickr30K]")
    what = "captions of SNLI and Flickr30K, among them captions of this test set"
    assert said.code == 0 and f"the text encoder was trained on {what}: rows that use it are marked" in said.err
    made = {record["method"]["label"]: record for record in records(tmp_path)}
    assert made["cca:tuned"]["method"]["encoders"] == ["backbone"]
    assert made["cca:tuned[text=encoder]"]["method"]["encoders"] == ["backbone", "text"]
    assert made["cca:tuned"]["data"]["trained_on"]["text"] == ["snli", "flickr30k"]
    table = command("table", "--results", tmp_path / "results", "-d", "flickr8k", "-f", "markdown").out
    assert "| cca:tuned[text=encoder] † |" in table and "| cca:tuned   " in table
    assert f"† cca:tuned[text=encoder]: the text encoder was trained on {what}." in table
    said = command("run", "-m", "cfa[text=encoder]", *where, "--text-encoder", spec)  # as noted with the features
    assert f"the text encoder was trained on {what}" in said.err and "cfa:tuned[text=encoder] †" in said.out
    said = command("doctor", "--check", "--results", tmp_path / "results", "--cache", tmp_path / "cache")
    assert said.code == 0 and "by npy:texts.npy: text trained on snli and flickr30k" in said.err
