"""Encoders and scores that do not fit the data: one sentence, exit code 2, and nothing that looks complete."""

import json
from pathlib import Path

import numpy as np
import pytest

from cran_bench.registry import DATASETS
from cran_bench.running.preparation import load_collection


def arrays(change=lambda rows: rows, lines=lambda lines: lines):
    """Features of the captions with their keys, spoilt."""

    def write(folder, collection):
        rows = np.random.default_rng(0).normal(size=(len(collection.captions), 4))
        keys = zip(collection.caption_keys(), collection.captions, strict=True)
        np.save(folder / "texts.npy", change(rows))
        (folder / "captions.tsv").write_text("".join(f"{line}\n" for line in lines([f"{k}\t{c}" for k, c in keys])))
        return ["--text-encoder", f"npy:{folder}/texts.npy[ids={folder}/captions.tsv]"]

    return write


def not_finite(rows):
    rows[300, 2] = np.nan
    return rows


def another_vocabulary(folder, collection):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    value, tensor = onnx.helper.make_tensor_value_info, onnx.TensorProto
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
        "encoder",
        [value("input_ids", tensor.INT64, ["batch", "tokens"])],
        [value("last_hidden_state", tensor.FLOAT, ["batch", "tokens", 3])],
        [onnx.numpy_helper.from_array(np.ones((9, 3), np.float32), "table")],
    )
    opset = onnx.helper.make_opsetid("", 13)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), str(folder / "net.onnx"))
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nred\n")
    return ["--text-encoder", f"onnx:{folder}/net.onnx"]


def no_tokenizer(spec):
    def write(folder, collection):
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text(json.dumps({"model_type": "bert"}))
        (folder / "model" / "model.safetensors").write_bytes(b"")
        return ["--text-encoder", f"{spec}:{folder}/model"]

    return write


BAD_TEXTS = {
    "missing": (arrays(lambda rows: rows[1:], lambda lines: lines[1:]), "1 of 500 captions have no row in "),
    "doubled": (arrays(lines=lambda lines: [lines[1], *lines[1:]]), "captions.tsv names train-00000a#1 2 times"),
    "not a number": (arrays(not_finite), "texts.npy: row 300 has a value that is not a finite float32"),
    "of other captions": (
        arrays(lines=lambda lines: [f"{line} indeed" for line in lines]),
        "captions.tsv: train-00000a#0 is '",
    ),
    "a vocabulary of another encoder": (another_vocabulary, "vocab.txt has 6 tokens, but net.onnx has vectors of 9"),
    "a sentence encoder without a tokenizer": (no_tokenizer("transformers"), "has no tokenizer (tokenizer.json)"),
    "a CLIP without a tokenizer": (no_tokenizer("clip"), "has no tokenizer (tokenizer.json)"),
}


def files(folder):
    """All files but locks."""
    return {path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".locks"}


@pytest.mark.parametrize("kind", BAD_TEXTS)
@pytest.mark.parametrize("verb", ["prepare", "run"])
def test_text_encoders(command, quick_scenes, tmp_path, verb, kind):
    write, sentence = BAD_TEXTS[kind]
    collection = load_collection(DATASETS.configure(quick_scenes.spec), quick_scenes.data)
    given, before = write(tmp_path, collection), files(quick_scenes.cache)
    rest = ["--cache", quick_scenes.cache, "--data", quick_scenes.data, *given]
    start = [quick_scenes.spec] if verb == "prepare" else ["cca[text=encoder]", "-d", quick_scenes.spec]
    said = command(verb, *start, *rest, *(["--results", tmp_path / "results"] if verb == "run" else []))
    assert said.code == 2 and sentence in said.sentence and said.out == ""
    assert files(quick_scenes.cache) == before and not files(tmp_path / "results")


SCORER = """
from dataclasses import dataclass
from cran_bench import Pairwise, register

@register("scorer")
@dataclass
class Scorer:
    @property
    def similarity(self):
        return Pairwise(self.score)

    def fit(self, train, val, run): pass
    def embed_images(self, split): return split.images
    def embed_texts(self, split): return split.mean_vectors()
    def score(self, images, texts): return (images[:, :2] @ texts[:, :2].T).T
    def state(self): return {}
    def load(self, state): pass
"""
BAD_SCORES = {
    "transposed": (lambda s: s.T, [], "the rows of bad.npy seem to be texts, as the test split has 20 images and 100"),
    "square": (lambda s: s[:, ::5], ["-p", "documents"], "bad.npy is square, as the test split has 20 images and 20"),
    "of another split": (lambda s: s[:, 1:], [], "bad.npy has scores of shape (20, 99), but the test split has"),
    "integer": (lambda s: s.astype(int), [], "bad.npy holds int64 numbers; scores are float16, float32 or float64"),
    "infinite": (lambda s: np.where(s == s.max(), np.inf, s), [], "bad.npy has inf in row 0 and column 0, counted"),
}


@pytest.mark.parametrize("kind", BAD_SCORES)
def test_scores(command, quick_scenes, tmp_path, monkeypatch, kind):
    change, options, sentence = BAD_SCORES[kind]
    monkeypatch.chdir(tmp_path)
    np.save("bad.npy", change(-np.arange(20 * 100, dtype=float).reshape(20, 100)))
    refused(command, quick_scenes, "scores:bad.npy", sentence, *options)


@pytest.mark.usefixtures("plugins_of_its_own")
def test_a_pair_scorer_whose_tile_has_another_shape(command, quick_scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("scorer.py").write_text(SCORER)
    refused(command, quick_scenes, "scorer.py:Scorer", "Scorer.score returned float32 (5, 1); return a float tensor")


def refused(command, scenes, row, sentence, *options):
    """A run of the row fails with the sentence, and leaves at most the record of an error."""
    before = files(scenes.cache)
    said = command("run", row, *scenes.arguments, "--results", "results", *options)
    reason, *again = (line for line in said.err.splitlines() if sentence in line)
    assert said.code == 2 and (reason == f"error: {said.sentence}" or said.sentence.startswith("1 of 1 row failed, "))
    assert all(line.startswith("failed: ") for line in again) and len(again) < 2
    assert all(path.name.endswith(".error.json") for path in files(Path("results")))
    assert {path.parent.name for path in files(scenes.cache) - before} <= {"fits"}
