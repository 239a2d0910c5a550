"""The command line: every mistake is one sentence and exit code 2, nothing is half-written, and a rerun goes on."""

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cran_bench.dataset import Collection, FolderImages
from cran_bench.errors import BadInput
from cran_bench.frontend import extraction
from cran_bench.images import open_image
from cran_bench.records.archive import read_ranks, read_record
from cran_bench.records.store import ResultStore
from cran_bench.registry import METHODS, quick_method

SCRIPT = str(Path(sys.executable).with_name("cran-bench"))


def half_written(folder):
    return [path.name for path in folder.rglob("*") if path.name.endswith(".part")]


def records(folder):
    found = (folder / "results").rglob("*.json")
    return [path for path in found if not path.name.endswith((".error.json", ".examples.json"))]


@pytest.fixture
def run(command, quick_scenes, tmp_path):
    """``run("-m", "cca")``: cran-bench run on the tiny scenes."""

    def call(*arguments):
        return command("run", *quick_scenes.arguments, "--results", tmp_path / "results", *arguments)

    return call


# what is said of a mistake --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-m", "ccaa"], "there is no method 'ccaa'; did you mean 'cca'?"),
        (["ccaa"], "there is no method 'ccaa'; did you mean 'cca'?"),
        (["-d", "scenez"], "there is no dataset 'scenez'; did you mean 'scenes'?"),
        (["-d", "scenes:quik"], "scenes has no preset 'quik'; did you mean 'quick'?"),
        (["-m", "cca:papr"], "cca has no preset 'papr'; did you mean 'paper'?"),
        (["-m", "cca[rigde_text=1]"], "cca has no field 'rigde_text'; did you mean 'ridge_text'?"),
        (["-d", "scenes[trian=4]"], "scenes has no field 'trian'; did you mean 'train'?"),
        (["-p", "caption"], "there is no protocol 'caption'; did you mean 'captions'?"),
        (["-p", "captions,meen"], "there is no protocol 'meen'; did you mean 'mean'?"),
        (["-m", "cca[text=tdidf]"], "field 'text' is 'tdidf'; did you mean 'tfidf'?"),
        (["-m", "cca[unit=document]"], "unit is 'document'; did you mean 'documents'?"),
        (["-m", "cca[vocabulary=0]"], "cca: vocabulary is at least 1"),
        (["-m", "cca[ridge_text=-1]"], "cca: ridge_image and ridge_text are not negative"),
        (["-m", "cca[vocabulary=many]"], "field 'vocabulary' takes a whole number, not 'many'"),
        (["-d", "scenes[train=3]"], "scenes: train is 3, but scenes come in pairs of twins"),
        (["-m", "cca:paper:foo"], "'cca:paper:foo' has too many colons: write one preset, as cca:paper"),
        (["-m", "cca[ridge"], "'cca[ridge' is not of the form name, name:preset"),
        (["-m", "cca[ridge]"], "'ridge' is not of the form field=value"),
        (["-m", "gone.py:Mine"], "there is no file gone.py; write the path of a Python file and the class"),
        (["-s", "one"], "seeds are whole numbers from 0"),
        (["--device", "gpu"], "there is no device 'gpu'; did you mean 'cpu'?"),
        (["--device", "cuda:99"], "there is no 'cuda:99', as torch finds"),
        (["--backbone", "pixel"], "there is no backbone 'pixel'; did you mean 'pixels'?"),
        (["--backbone", "pixels[dim=3]"], "pixels: dim is 3; use 16 to 8192"),
        (["--regions", "gird"], "there is no region proposer 'gird'; did you mean 'grid'?"),
        (["--backbone", "onnx:gone.onnx"], "gone.onnx"),
        (["--vectors", "glvoe:gone.txt"], "glove"),
        (["--vectors", "glove:gone.txt"], "gone.txt"),
        (["-d", "flickr8k"], "does not contain Flickr8k (no folder images"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence(run, tmp_path, arguments, sentence):
    said = run(*(arguments if set(arguments) & {"-m", "ccaa"} else ["-m", "cca", *arguments]))
    assert said.code == 2
    assert sentence in said.sentence
    assert not (tmp_path / "results").exists() and not half_written(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("def broken(:\n", "could not be imported: SyntaxError"),
        ("import a_module_that_is_not_there\n", "could not be imported: ModuleNotFoundError"),
        ("class Mime: ...\n", "has no class 'Mine'; did you mean 'Mime'?"),
        ("class Mine: ...\n", "is not a dataclass; put @dataclass above it"),
        (
            "from dataclasses import dataclass\n@dataclass\nclass Mine:\n    similarity: int = 1\n",
            "is not a method: it lacks fit, embed_images",
        ),
    ],
)
def test_a_file_that_holds_no_method(run, tmp_path, content, sentence):
    (tmp_path / "mine.py").write_text(content)
    said = run("-m", f"{tmp_path}/mine.py:Mine")
    assert said.code == 2 and sentence in said.sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["info", "ccaa"], "there is no method or dataset 'ccaa'; did you mean 'cca'?"),
        (["check", "ccaa"], "there is no method or dataset 'ccaa'; did you mean 'cca'?"),
        (["prepare", "flikr8k"], "there is no dataset 'flikr8k'; did you mean 'flickr8k'?"),
        (["table", "-p", "means"], "there is no protocol 'means'; did you mean 'mean'?"),
        (["table", "-d", "scene"], "there is no dataset 'scene'; did you mean 'scenes'?"),
        (["table", "--results", "nowhere"], "there are no records below nowhere/runs: make some"),
        (["run", "--quick", "-d", "scenes:other"], "--quick means the preset quick; leave it out, or write scenes"),
    ],
)
def test_mistakes_of_other_verbs(command, arguments, sentence):
    said = command(*arguments)
    assert said.code == 2 and sentence in said.sentence


def test_usage_errors_also_exit_with_two(command):
    for arguments in (["runn"], ["run", "--sedes", "1"], ["check"], ["run", "--folds", "-1"]):
        said = command(*arguments)
        assert said.code == 2 and "Usage" in said.err and "Traceback" not in said.err


# bad data -------------------------------------------------------------------------------------------------------

TOKENS, TRAIN, TEST = "Flickr8k.token.txt", "Flickr_8k.trainImages.txt", "Flickr_8k.testImages.txt"


@pytest.fixture
def prepare(command, flickr, tmp_path):
    def call(*arguments):
        said = command(
            *("prepare", "flickr8k", "--data", flickr, "--cache", tmp_path / "cache"),
            *("--backbone", "pixels[dim=16]", "--regions", "none", *arguments),
        )
        assert not half_written(tmp_path)
        return said

    return call


def ready(tmp_path):
    return list((tmp_path / "cache").rglob("manifest.json"))


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        (TOKENS, lambda text: b"", "Flickr8k.token.txt is empty; extract it again from the original archive"),
        (
            TOKENS,
            lambda text: text.replace(b"red beside", b"ros\xe9 beside", 1),
            "line 1: not UTF-8, perhaps Latin-1; convert the file",
        ),
        (
            TOKENS,
            lambda text: text.replace(b"#1\t", b"#1 ", 1),
            "line 2: expected name.jpg#k, a tab and a caption, got 'train00.jpg#1 ",
        ),
        (TRAIN, lambda text: text + b"gone.jpg\n", "the first is gone.jpg; add them to the folder"),
        (TEST, lambda text: text + b"train03.jpg\n", "remove one, as splits must not overlap"),
    ],
    ids=["empty", "latin-1", "no tab", "no such image", "overlap"],
)
def test_bad_texts(prepare, flickr, tmp_path, file, change, sentence):
    path = flickr / "flickr8k" / file
    path.write_bytes(change(path.read_bytes()))
    said = prepare()
    assert said.code == 2 and sentence in said.sentence
    assert not (tmp_path / "cache").exists()


def test_bad_images_are_listed_and_mended_or_skipped(prepare, flickr, tmp_path):
    photographs = flickr / "flickr8k" / "images"
    whole = (photographs / "train03.jpg").read_bytes()
    (photographs / "train03.jpg").write_bytes(b"")
    (photographs / "test02.jpg").write_bytes((photographs / "test02.jpg").read_bytes()[:300])
    said = prepare()
    assert said.code == 2
    assert said.sentence.startswith("2 of 30 images cannot be used (listed above); all others are extracted")
    assert "train03.jpg is empty (0 bytes): download it again" in said.err
    assert "test02.jpg cannot be decoded" in said.err
    assert not ready(tmp_path)

    (photographs / "train03.jpg").write_bytes(whole)
    assert "1 of 30 images cannot be used" in prepare().sentence
    said = prepare("--skip-bad")
    assert said.code == 0 and "flickr8k is ready: pixels[dim=16] + none" in said.out
    assert json.loads(ready(tmp_path)[0].read_text())["failed"] == {"26": "test02.jpg"}


def test_images_that_are_skipped_are_not_ranked(prepare, command, flickr, tmp_path):
    (flickr / "flickr8k" / "images" / "test02.jpg").write_bytes(b"")
    assert prepare("--skip-bad").code == 0
    where = ("-d", "flickr8k", "--data", flickr, "--cache", tmp_path / "cache", "--results", tmp_path / "results")
    assert command("run", "-m", "cfa", *where).code == 0
    (path,) = records(tmp_path)
    assert json.loads(path.read_text())["data"]["images"] == 5


def test_images_that_changed(prepare, flickr, tmp_path):
    assert prepare().code == 0
    assert "are already prepared" in prepare().err
    Image.new("RGB", (8, 8)).save(flickr / "flickr8k" / "images" / "dev00.jpg")
    said = prepare()
    assert said.code == 0 and "extracting pixels[dim=16] + none of 30 images" in said.err
    assert len(ready(tmp_path)) == 2


def test_check_says_what_extraction_will_take(prepare, flickr, tmp_path):
    said = prepare("--check")
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0] == f"flickr8k below {flickr}"
    assert "30 files in" in lines[1] and all(line.split()[0] == "exists" for line in lines[1:6])
    assert "features by pixels[dim=16] + none: 30 images, 0.00 GB; " in said.out and "GB are free" in said.out
    assert lines[-1].startswith("12 images took")
    assert not (tmp_path / "cache").exists()
    (flickr / "flickr8k" / "Flickr8k.token.txt").unlink()
    said = prepare("--check")
    assert said.code == 1 and said.out.splitlines()[-1] == "missing: 1 of 5"
    assert "  missing   Flickr8k.token.txt" in said.out and "Flickr8k_text.zip from the authors" in said.out


@pytest.mark.parametrize(("dataset", "count"), [("flickr30k", 3), ("flickr30k[split=entities]", 5), ("mscoco", 5)])
def test_check_names_the_owners_where_nothing_is_there(command, tmp_path, dataset, count):
    said = command("prepare", dataset, "--data", tmp_path, "--check")
    assert said.code == 1 and said.out.splitlines()[-1].startswith(f"missing: {count} of ")
    missing = [line for line in said.out.splitlines() if line.startswith("  missing")]
    assert len(missing) == count and all("http" in line for line in missing)


def test_check_of_a_disk_that_is_too_small_and_with_other_options(prepare, monkeypatch):
    said = prepare("--check", "--force")
    assert said.code == 2 and "--check changes nothing" in said.sentence
    monkeypatch.setattr("cran_bench.frontend.front_end.free_bytes", lambda path: 100)
    said = prepare("--check")
    assert said.code == 1 and "0.00 GB are free: too little" in said.out


def test_a_row_whose_encoder_saw_the_test_set_is_marked(command, flickr, tmp_path):
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32))
    where = ("-d", "flickr8k", "--data", flickr, "--cache", tmp_path / "cache", "--results", tmp_path / "results")
    spec = f"npy:{tmp_path}/f.npy"
    plain = command("run", "-m", "cfa", *where, "--backbone", spec)
    assert plain.code == 0 and "†" not in plain.out
    (path,) = records(tmp_path)
    record = json.loads(path.read_text())
    assert record["data"]["trained_on"] == {"backbone": None, "regions": []}
    assert record["method"]["encoders"] == ["backbone"]
    folders = ready(tmp_path)

    declared = f"{spec}[trained_on=Flickr30K]"
    said = command("run", "-m", "cfa,cca", *where, "--backbone", declared)
    sentence = "the image backbone was trained on images of Flickr30K, among them images of this test set"
    assert f"{sentence}: rows that use it are marked" in said.err
    assert ready(tmp_path) == folders and "cfa:tuned · captions · seed 0" in said.err and "(reused)" in said.err
    said = command("run", "-m", "cca", *where)  # as the manifest says
    assert "cca:tuned †" in said.out and f"† cca:tuned: {sentence}." in " ".join(said.out.split())
    table = ("table", "--results", tmp_path / "results", "-d", "flickr8k")
    markdown = command(*table, "-f", "markdown").out
    assert "| cca:tuned † " in markdown and "| cfa:tuned   " in markdown
    frame = pd.read_csv(io.StringIO(command(*table, "-f", "csv").out)).set_index("method")["exposures"]
    assert frame["cca:tuned"] == sentence and pd.isna(frame["cfa:tuned"])
    compared = command("significance", "cca", "cfa", *where[:2], "--results", tmp_path / "results")
    assert f"† cca:tuned: {sentence}." in " ".join(compared.out.split())
    said = command("doctor", "--check", "--results", tmp_path / "results", "--cache", tmp_path / "cache")
    assert (
        said.code == 0 and "flickr8k: npy:f.npy + none: backbone trained on flickr30k, regions trained on" in said.err
    )
    assert (
        "rows are marked if their encoder was trained on flickr30k, flickr8k, snli" in command("info", "flickr8k").out
    )
    assert "rows are marked" not in command("info", "scenes").out
    for wrong in (f"{spec}[trained_on=|]", f"onnx:{tmp_path}/m.onnx[trained_on=|]"):
        said = command("run", "-m", "cfa", *where, "--backbone", wrong)
        assert said.code == 2 and "trained_on takes names of data" in said.sentence
    said = command("run", "-m", "cfa", *where, "--regions", "grid[trained_on=coco]")
    assert said.code == 2 and "grid has no field 'trained_on'" in said.sentence


def test_check_of_data_that_cannot_be_used(prepare, flickr):
    (flickr / "flickr8k" / "Flickr8k.token.txt").write_bytes(b"no tab here\n")
    assert prepare("--check").code == 2


def test_features_whose_ids_do_not_match(command, flickr, tmp_path):
    np.save(tmp_path / "f.npy", np.zeros((30, 4), np.float32))
    (tmp_path / "ids.txt").write_text("\n".join(f"{k}.jpg" for k in range(30)))
    where = ("--data", flickr, "--cache", tmp_path / "cache")
    spec = f"npy:{tmp_path}/f.npy[ids={tmp_path}/ids.txt]"
    said = command("prepare", "flickr8k", *where, "--backbone", spec, "--regions", "none")
    assert said.code == 2
    assert "30 of 30 images have no row in" in said.sentence and "the first is train00.jpg" in said.sentence
    assert not ready(tmp_path) and not half_written(tmp_path)


def test_a_manifest_of_other_weights(run, quick_scenes, tmp_path):
    (path,) = quick_scenes.cache.rglob("manifest.json")
    manifest = json.loads(path.read_text())
    manifest["backbone"]["version"] = "0" * 64
    path.write_text(json.dumps(manifest))
    said = run("-m", "cca", "--backbone", quick_scenes.backbone)
    assert said.code == 2 and "holds features made of other images, weights" in said.sentence
    assert not (tmp_path / "results").exists()


# records --------------------------------------------------------------------------------------------------------


def test_a_run_its_record_and_its_reuse(run, tmp_path):
    said = run("-m", "cca", "-m", "cfa:tuned", "-p", "captions,mean")
    assert said.code == 0
    assert said.out.count("scenes[test=20,train=60,val=20] · protocol ") == 2
    assert "[4/4] cfa:tuned · mean · seed 0: R@1" in said.err and "records: " in said.err
    assert len(records(tmp_path)) == 4
    before = {path: path.read_bytes() for path in records(tmp_path)}
    said = run("cca", "cfa", "-p", "captions,mean")
    assert said.code == 0 and said.err.count("(reused)") == 4
    assert {path: path.read_bytes() for path in records(tmp_path)} == before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 5}, "was changed after it was written (its checksum does not match): delete it and run again"),
        ({"schema_version": 9}, "has schema 9, but this version reads schemas up to 1: upgrade cran-bench"),
    ],
    ids=["by hand", "newer"],
)
def test_a_record_that_cannot_be_trusted(run, command, tmp_path, changes, sentence):
    assert run("-m", "cca").code == 0
    (path,) = records(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    edited = path.read_bytes()
    said = run("-m", "cca")
    assert said.code == 2 and sentence in said.err
    said = command("table", "--results", tmp_path / "results")
    assert said.code == 0 and sentence in " ".join(said.out.split())
    assert re.search(r"^cca:tuned( +damaged){8}", said.out, re.MULTILINE)
    assert path.read_bytes() == edited
    assert run("-m", "cca", "--force").code == 0
    assert run("-m", "cca").code == 0
    assert not list(tmp_path.rglob("*.error.json"))


@pytest.mark.parametrize("writes", range(4), ids=["fit", "ranks", "examples", "record"])
def test_a_full_disk(run, tmp_path, monkeypatch, writes):
    left = [writes]

    def full(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        said = run("-m", "cca", "-m", "cfa")
    assert said.code == 2 and said.sentence.startswith("the disk is full while writing ")
    assert not records(tmp_path) and not half_written(tmp_path)
    assert len(list(tmp_path.rglob("*.safetensors"))) == min(writes, 1)
    assert run("-m", "cca", "-m", "cfa").code == 0
    assert len(records(tmp_path)) == 2


def test_results_that_cannot_be_written(command, quick_scenes, tmp_path):
    (tmp_path / "taken").write_text("a file")
    said = command("run", "-m", "cca", *quick_scenes.arguments, "--results", tmp_path / "taken")
    assert said.code == 2 and re.search(r"cannot write .*taken.*: .*; choose another folder", said.sentence)


# methods that misbehave -----------------------------------------------------------------------------------------

METHOD = """
import os, signal, time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
import torch
from cran_bench import COSINE

LOG = Path(__file__).with_suffix(".log")

@dataclass
class Mine:
    similarity = COSINE

    def fit(self, train, val, run):
        self.note("fit")
        self.mean = train.images.mean(dim=0)
{fit}

    def note(self, word):
        with LOG.open("a") as file:
            file.write(word + "\\n")

    def embed_images(self, split):
        self.note("embed")
        return {images}

    def embed_texts(self, split):
        return torch.ones(len(split.texts), len(self.mean))

    def state(self):
        return {{"mean": self.mean}}

    def load(self, state):
        self.mean = state["mean"]
"""


@pytest.fixture
def mine(tmp_path):
    def write(fit="pass", images="split.images - self.mean"):
        path = tmp_path / "mine.py"
        path.write_text(METHOD.format(fit="\n".join(f"        {line}" for line in fit.splitlines()), images=images))
        return f"{path}:Mine"

    return write


def noted(tmp_path):
    return (tmp_path / "mine.log").read_text().split()


def test_scores_with_nan(run, mine, command, tmp_path):
    method = mine(images="split.images * float('nan')")
    said = run("-m", method, "-m", "cca")
    assert said.code == 2
    assert said.sentence.startswith("1 of 2 rows failed, ")
    why = "seed 0: FAILED, embed_images: 20 of 20 vectors contain NaN or infinity"
    assert (said.out + said.err).count("vectors contain") == 2 and said.err.count(why) == 1  # then, and in the end
    summary = r"^2 rows in .*: 1 computed, 1 failed\nfailed: embed_images: 20 .* seed 0\)$"
    assert re.search(summary, said.err, re.MULTILINE)
    assert f" failed, try them again with: cran-bench run -m {method} -d " in said.sentence
    assert re.search(r"^mine\.py:Mine +failed +failed", said.out, re.MULTILINE)
    assert re.search(r"^cca:tuned +\d", said.out, re.MULTILINE)
    assert len(records(tmp_path)) == 1 and not half_written(tmp_path)
    (path,) = tmp_path.rglob("*.error.json")
    stored = json.loads(path.read_text())
    assert stored["method_label"] == "mine.py:Mine" and "Traceback (most recent call last)" in stored["traceback"]

    shown = command("table", "--results", tmp_path / "results", "-f", "csv")
    assert shown.code == 0 and ",mine.py:Mine,,failed," in shown.out
    shown = command("table", "--results", tmp_path / "results")
    assert "mine.py:Mine seed 0 FAILED: embed_images: 20 of 20 vectors contain NaN" in shown.out
    assert noted(tmp_path) == ["fit", "embed"]
    said = run("-m", method, "-m", "cca")
    assert said.code == 2 and said.err.count("(reused)") == 1
    assert noted(tmp_path) == ["fit", "embed", "embed"]


def test_a_method_that_raises(run, mine):
    said = run("-m", mine(fit="raise RuntimeError('first line\\nsecond line')"))
    line = METHOD[: METHOD.index("{fit}")].count("\n") + 1
    assert said.code == 2 and said.sentence.startswith("1 of 1 row failed, ")
    assert re.search(rf"FAILED, RuntimeError: first line second line \(.*mine\.py, line {line}\)", said.err)


@pytest.mark.parametrize(
    ("number", "code", "force", "then"),
    [
        ("SIGINT", 130, (), "run the same command again to resume"),
        ("SIGTERM", 143, ("--force",), "run the remaining rows with --force: the same command would start over"),
    ],
)
def test_a_signal_while_fitting_here(run, mine, tmp_path, number, code, force, then):
    said = run("-m", mine(fit=f"os.kill(os.getpid(), signal.{number}); time.sleep(5)"), "-m", "cca", *force)
    assert said.code == code
    assert said.sentence == f"interrupted; finished work is kept, {then}"
    assert re.search(r"^0 of 2 rows in .*: 2 left$", said.err, re.MULTILINE)
    assert not records(tmp_path) and not list(tmp_path.rglob("*.error.json")) and not half_written(tmp_path)


def test_a_signal_while_features_are_extracted_anew(command, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr("cran_bench.running.preparation.extract", interrupted)
    said = command("prepare", "scenes:quick", "--cache", tmp_path, "--force")
    then = "finished work is kept, run the same command without --force to resume"
    assert said.code == 130 and said.sentence == f"interrupted; {then}"


# real processes -------------------------------------------------------------------------------------------------


def start(*arguments, program=(SCRIPT,), stderr=subprocess.PIPE, **environment):
    return subprocess.Popen(
        [*program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def wait_for(found, process):
    deadline = time.monotonic() + 60
    while not found():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def stop(process):
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert err.splitlines()[-1] == "error: interrupted; finished work is kept, run the same command again to resume"
    return err


def test_two_runs_of_the_same_record_at_once(quick_scenes, mine, tmp_path):
    method = mine(fit="while not LOG.with_suffix('.go').exists(): time.sleep(0.01)")
    arguments = ("run", "-m", method, *quick_scenes.arguments, "--results", tmp_path / "results")
    files = [tmp_path / "0.err", tmp_path / "1.err"]
    both = []
    for file in files:
        with file.open("w") as stderr:
            both.append(start(*arguments, stderr=stderr))
    waiting = "another process is running mine.py:Mine; waiting for it"
    wait_for(lambda: any(waiting in file.read_text() for file in files), both[0])
    (tmp_path / "mine.go").touch()
    said = [process.communicate(timeout=120)[0] for process in both]
    errors = sorted((file.read_text() for file in files), key=lambda err: waiting in err)
    assert [process.returncode for process in both] == [0, 0], errors
    assert "(reused)" not in errors[0] and "(reused)" in errors[1]
    assert all("mine.py:Mine" in out for out in said)
    assert noted(tmp_path) == ["fit", "embed"]
    (path,) = records(tmp_path)
    assert read_ranks(path, read_record(path)).image_of.shape == (100,)
    assert not half_written(tmp_path)


SLOW = """
import time
from cran_bench.cli import main
from cran_bench.frontend import extraction
from cran_bench.frontend.images import pixels
extraction.SHARD = extraction.BATCH = 16
embed = pixels.Pixels.embed
def slow(self, batch):
    time.sleep(0.1)
    return embed(self, batch)
pixels.Pixels.embed = slow
main()
"""


def test_control_c_while_extracting(command, tmp_path, monkeypatch):
    arguments = ("prepare", "scenes[train=200,val=20,test=20]", "--cache", tmp_path / "cache")
    arguments += ("--backbone", "pixels[dim=16]", "--regions", "none")
    process = start(*arguments, program=(sys.executable, "-c", SLOW))
    wait_for(lambda: list(tmp_path.rglob("journal.json")), process)
    stop(process)
    assert not ready(tmp_path) and not half_written(tmp_path)
    monkeypatch.setattr(extraction, "SHARD", 16)
    said = command(*arguments)
    assert said.code == 0
    assert 1 <= int(re.search(r"resuming: (\d+) of 15 shards are already done", said.err)[1]) < 15
    assert ready(tmp_path) and not list(tmp_path.rglob("journal.json"))


def test_control_c_while_fitting(run, quick_scenes, mine, tmp_path):
    method = mine(
        fit="state = run.resume()\n"
        "for step in range(int(state['step']) if state else 0, 40):\n"
        "    self.note(str(step))\n"
        "    run.checkpoint({'step': torch.tensor(step + 1)})\n"
        "    time.sleep(0.1 if 'SLOW' in os.environ else 0)"
    )
    arguments = ("run", "-m", "cfa", "-m", method, *quick_scenes.arguments, "--results", tmp_path / "results")
    process = start(*arguments, SLOW="1")
    wait_for(lambda: list(tmp_path.rglob("*.checkpoint")), process)
    assert "[1/2] cfa:tuned" in stop(process)
    assert len(records(tmp_path)) == 1 and not half_written(tmp_path)
    said = run("-m", "cfa", "-m", method)
    assert said.code == 0 and "mine.py:Mine: resuming from the last checkpoint" in said.err and "(reused)" in said.err
    steps = [word for word in noted(tmp_path) if word.isdecimal()]
    assert len(steps) <= 41 and sorted(set(map(int, steps))) == list(range(40))
    assert not list(tmp_path.rglob("*.checkpoint"))


def test_training_goes_on_after_a_kill(run, quick_scenes, tmp_path):
    method = "cran-baseline:quick[max_epochs=6,patience=0,caption_sampling=random,batch_size=20]"
    arguments = ("run", "-m", method, *quick_scenes.arguments, "--results", tmp_path / "results")
    process = start(*arguments)
    wait_for(lambda: list(tmp_path.rglob("*.checkpoint")), process)
    process.kill()
    process.communicate(timeout=60)
    assert not records(tmp_path) and list(tmp_path.rglob("*.checkpoint"))
    said = run("-m", method)
    assert said.code == 0, said.err
    assert re.search(r"global: resuming from the last checkpoint, after epoch \d+ of at most 6", said.err)
    assert len(records(tmp_path)) == 1 and not list(tmp_path.rglob("*.checkpoint"))
    (curves,) = tmp_path.rglob("*.curves.csv")
    assert [line.split(",")[1] for line in curves.read_text().splitlines()[1:]] == [f"{k}" for k in range(1, 7)]


# verbs ----------------------------------------------------------------------------------------------------------


def test_list(command, monkeypatch):
    METHODS.names()
    monkeypatch.setitem(METHODS.failures, "cran_bench.methods.dreams", "ImportError: no such thing")
    said = command("list")
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0] == "methods" and "datasets" in lines
    assert any(re.match(r"  cca +CCA: canonical correlation analysis.*\[paper, cm, tuned\]$", line) for line in lines)
    assert any(re.match(r"  scenes +Rendered scenes.*\[quick\]$", line) for line in lines)
    further = lines[lines.index("further methods") + 1 : lines.index("datasets")]
    assert {"scan", "vsepp", "vse-infinity"} < {line.split()[0] for line in further} and "  cca " not in "".join(
        further
    )
    assert any("dreams could not be imported: ImportError: no such thing" in line for line in lines)
    assert "could not be imported: ImportError: no such thing" in command("run", "-m", "dreams").sentence


def test_info(command, mine):
    said = command("info", "cca")
    assert said.code == 0
    assert said.out.startswith("CCA: canonical correlation analysis")
    assert re.search(r"^- `vocabulary` = `3000`: number of words", said.out, re.MULTILINE)
    assert re.search(r"^- preset `paper`: .*ridge_text=1e-08", said.out, re.MULTILINE)
    assert re.search(r"^- `unit`: texts to train on: captions, or documents for the protocol", said.out, re.MULTILINE)
    said = command("info", "scenes")
    assert "Rendered scenes" in said.out and "`unit`" not in said.out
    assert command("info", mine()).code == 0


def test_info_gives_the_values_that_were_asked_for(command):
    assert "\n- `dim` = `17`: " in command("info", "cca[dim=17]").out
    assert "\n- `ridge_text` = `1e-08`: " in command("info", "cca:paper").out
    assert "\n- `train` = `8`: " in command("info", "scenes[train=8]").out
    assert (
        "\n### loss\n" in command("info", "cran").out
        and "\n- `margin` = `0.5`: " in command("info", "cran[loss.margin=0.5]").out
    )


def test_table(run, command, tmp_path):
    where = ("--results", tmp_path / "results")
    assert run("-m", "cca", "-m", "cfa", "-s", "0:2", "-p", "captions,documents").code == 0
    said = command("table", *where)
    assert said.code == 0 and said.out.count(" · protocol ") == 2 and "±" in said.out
    said = command("table", *where, "-p", "documents", "-m", "cfa")
    assert "protocol captions" not in said.out and "cca" not in said.out and "cfa:tuned" in said.out
    said = command("table", *where, "-d", "scenes")
    assert said.code == 2 and "there are no records of scenes below" in said.sentence
    assert "latex" in command("table", *where, "-f", "latx").sentence
    said = command("table", *where, "-f", "csv", "-o", tmp_path / "all.csv")
    assert said.out == "" and "wrote " in said.err
    frame = pd.read_csv(tmp_path / "all.csv")
    assert len(frame) == 4 and frame["i2t_r1"].dtype == float and set(frame["seeds"]) == {"0 1"}
    for style, mark in (("markdown", "| cca:tuned "), ("latex", r"\begin{tabular}")):
        assert mark in command("table", *where, "-f", style).out


@pytest.mark.parametrize("verb", [("table",), ("report",), ("explain", "test-00000a"), ("search", "a star")])
def test_no_folder_is_made_for_an_output_file(command, tmp_path, verb):
    said = command(*verb, "-o", tmp_path / "no" / "such" / "x.png")
    folder = tmp_path / "no" / "such"
    assert said.code == 2 and f"there is no folder {folder}; give" in said.sentence
    assert not list(tmp_path.iterdir())
    said = command(*verb, "-o", tmp_path)
    assert said.code == 2 and "it is a folder; give the name of a file" in said.sentence


def test_quick_runs_are_marked(command, flickr, tmp_path):
    where = ("--data", flickr, "--cache", tmp_path / "cache", "--results", tmp_path / "results")
    said = command("run", "--quick", "-d", "flickr8k", "-m", "cfa", "--backbone", "pixels[dim=16]", *where)
    assert said.code == 0, said.err
    assert said.out.splitlines()[1] == "quick: not for comparison"
    (path,) = records(tmp_path)
    assert json.loads(path.read_text())["data"]["quick"] is True
    assert [run.record.data.label for run in ResultStore(tmp_path / "results").runs()] == ["flickr8k:quick"]


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("cran", "cran:quick"),
        ("cran-local[top=1]", "cran-local:quick[top=1]"),
        ("cran:paper", "cran:paper"),
        ("cca", "cca"),
        ("nothing", "nothing"),
    ],
)
def test_quick_takes_the_quick_preset_where_there_is_one(given, taken):
    assert quick_method(given) == taken


def test_export(command, tmp_path):
    said = command("prepare", "scenes[train=4,val=2,test=2]", "--export", tmp_path / "look")
    assert said.code == 0
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        pictures = sorted((tmp_path / "look" / split).glob("*.png"))
        assert len(pictures) == count and open_image(pictures[0]).size == (96, 96)
        lines = (tmp_path / "look" / split / "captions.tsv").read_text().splitlines()
        assert len(lines) == 5 * count
        assert {line.split("\t")[0] for line in lines} == {path.name for path in pictures}
        assert all(len(line.split("\t")) == 2 for line in lines)
    lines = (tmp_path / "look" / "caption-ids.tsv").read_text().splitlines()
    assert len(lines) == 40 and lines[6].startswith("train-00000b#1\t")
    assert not half_written(tmp_path)


def test_exported_names_and_captions_stay_on_their_line(command, tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    names = [f"{place}/\x1b{k}.png" for place in "ab" for k in range(2)]
    for name in names:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes((tmp_path / "x.png").read_bytes())
    captions = ["one\ttwo\nthree\u2028four"] * 4
    splits = {"train": [0, 3], "val": [1], "test": [2]}
    made = Collection("made", FolderImages(tmp_path / "images", names), captions, np.arange(4), splits)
    monkeypatch.setattr("cran_bench.running.preparation.load_collection", lambda *_: made)
    assert command("prepare", "scenes", "--export", tmp_path / "look").code == 0
    assert sorted(path.name for path in (tmp_path / "look" / "train").glob("*.png")) == ["a-0.png", "b-1.png"]
    lines = (tmp_path / "look" / "train" / "captions.tsv").read_text().split("\n")
    assert lines == [rf"{name}.png	one\ttwo\nthree\u2028four" for name in ("a-0", "b-1")] + [""]


READERS = "table", "summary", "compare", "significance", "report"
VERBS = "list", "info", "prepare", "run", *READERS, "check", "doctor", "explain"
EXPORTS = "export records", "export card", "export rankings"


@pytest.mark.parametrize("verb", [*VERBS, *EXPORTS])
def test_help_gives_an_example_of_every_verb(command, verb):
    for option in ("--help", "-h"):
        said = command(*verb.split(), option)
        assert said.code == 0
        assert re.search(rf"Example: cran-bench {verb}\b", " ".join(said.out.split()))


def test_help_names_every_verb_and_where_to_start(command):
    said = command("--help")
    assert said.code == 0 and "cran-bench run --quick" in said.out
    for verb in VERBS:
        assert re.search(rf"\b{verb}\b", said.out)


def test_check(command, prepared_scenes, monkeypatch, mine):
    from cran_bench.running import checks

    monkeypatch.setattr(checks, "DATASET", prepared_scenes.spec)
    where = ("--cache", prepared_scenes.cache)
    said = command("check", "kcca", *where)
    assert said.code == 0 and said.out.endswith("kcca:quick: 8 of 8 checks passed\n")
    method = mine(images="split.images - split.images.mean(dim=0)")
    said = command("check", method, *where)
    assert said.code == 1
    assert "  BROKEN  embeds each item by itself, whatever else is in the split\n" in said.out
    assert said.out.splitlines()[-1] == f"{method}: 6 of 8 checks passed"


def test_check_of_a_dataset(command, flickr, tmp_path, plugins_of_its_own):
    said = command("check", "flickr8k", "--data", flickr)
    assert said.code == 0 and said.out.endswith("flickr8k: 8 of 8 checks passed\n")
    assert said.out.count("\n  ok      ") == 7
    said = command("check", "flickr8k", "--data", tmp_path / "nowhere")
    assert said.code == 1 and said.out.splitlines()[-1] == "flickr8k: 2 of 8 checks passed"
    assert said.out.count("(no folder images") == said.out.count("  BROKEN ") == 1  # one mistake is told once
    assert said.out.count("\n  untried ") == 5
    both = "from dataclasses import dataclass\nfrom cran_bench.registry import register, register_dataset\n"
    both += "".join(f"@{name}('{name}')\n@dataclass\nclass A{name}: ...\n" for name in ("register", "register_dataset"))
    (tmp_path / "both.py").write_text(both)
    said = command("check", tmp_path / "both.py")
    assert said.code == 2 and "both.py registers methods and datasets: write the file and one class" in said.sentence
    said = command("check", f"{tmp_path}/both.py:Aregister_dataset")
    assert said.code == 2 and "line 8: Aregister_dataset is not a dataset: it lacks load, defaults" in said.sentence


@pytest.fixture
def also_registered(tmp_path, monkeypatch, plugins_of_its_own):
    """Two methods of the registry that are of no use: one fails on import, one lacks a promise."""
    text = METHOD.format(fit="        pass", images="split.images").replace("state", "stat")
    text = text.replace("@dataclass", "from cran_bench import register\n@register('lacks')\n@dataclass")
    (tmp_path / "lacks.py").write_text(text)
    with pytest.raises(BadInput):
        METHODS.configure(f"{tmp_path}/lacks.py")
    declared = METHODS.describe("cca")
    failing = {"fails": (replace(declared, name="fails"), lambda: 1 / 0)}
    monkeypatch.setattr(METHODS, "_declared", {**METHODS._declared, **failing})


def test_too_many_folds_are_refused_before_anything_is_done(run, tmp_path):
    said = run("-m", "cca", "--folds", "999")
    assert said.code == 2 and "999 folds need at least 999 images; there are 20" in said.sentence
    assert not (tmp_path / "results").exists()


def test_a_method_that_lacks_a_promise_is_refused_before_anything_is_done(run, also_registered, tmp_path):
    said = run("-m", "cca,lacks", "-p", "all", "-s", "0:3")
    assert said.code == 2 and re.search(r"lacks.py, line 14: Mine is not a method: it lacks state;", said.sentence)
    assert (said.out + said.err).count("is not a method") == 1 and not (tmp_path / "results").exists()


def test_what_cannot_be_used_is_left_out_and_told_once(run, also_registered, monkeypatch):
    names = {"cca", "cfa"}
    monkeypatch.setattr(METHODS, "plugins", {k: p for k, p in METHODS.plugins.items() if k in {*names, "lacks"}})
    read = {k: p for k, p in METHODS._declared.items() if k in {*names, "fails"}}
    monkeypatch.setattr(METHODS, "_declared", read)
    said = run()
    assert said.code == 0 and "cca:tuned" in said.out and "cfa:tuned" in said.out
    told = [line for line in said.err.splitlines() if line.startswith("left out: method")]
    assert len(told) == 2 and said.err.count("ZeroDivisionError") == said.err.count("is not a method") == 1
    assert told[0].startswith("left out: method fails: ZeroDivisionError: division by zero")


def test_methods_that_are_no_rows_of_the_paper_run_only_when_asked_for(run, monkeypatch, plugins_of_its_own):
    read, named = METHODS._declared, {"cca", "vsepp"}
    monkeypatch.setattr(METHODS, "plugins", {name: METHODS.get(name) for name in named})
    monkeypatch.setattr(METHODS, "_declared", {name: read[name] for name in named})
    monkeypatch.setitem(METHODS.get("vsepp").presets, "tuned", {"dim": 4, "epochs": 1})
    said = run()
    assert said.code == 0 and "cca:tuned" in said.out and "vsepp:tuned" not in said.out
    assert "left out: the further methods vsepp, which --all includes\n" in said.err
    said = run("--all")
    assert said.code == 0 and "cca:tuned" in said.out and "vsepp:tuned" in said.out and "left out" not in said.err
    said = run("--all", "-m", "cca")
    assert said.code == 2 and "--all is for a run without methods, not with cca" in said.sentence


HEAVY = {"torch", "scipy.stats", "sklearn", "pandas"}
STARTS = {  # all in one process, which keeps what it has imported
    "--help": HEAVY | {"numpy"},
    "run --help": HEAVY | {"numpy"},
    "list": HEAVY | {"numpy", "PIL", "cran_bench.methods.cca", "cran_bench.datasets.scenes"},
    "table": HEAVY,
    "table -d SCENES": HEAVY,
    "significance -d SCENES": HEAVY,
    "run -m cca,cfa": HEAVY - {"torch"},
    "table -f csv": {"scipy.stats", "sklearn"},
    "doctor": {"scipy.stats", "sklearn"},  # which asks methods whether records are by their present code
}
STARTED = """
import contextlib, io, json, sys
from cran_bench.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["cran-bench", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        main()
    print(json.dumps([said.getvalue(), [*sys.modules]]))
"""


def test_a_verb_imports_only_what_it_needs(recorded_scenes, monkeypatch):
    monkeypatch.setenv("CRAN_BENCH_RESULTS", str(recorded_scenes.results))
    monkeypatch.setenv("CRAN_BENCH_CACHE", str(recorded_scenes.cache))
    verbs = [[recorded_scenes.spec if word == "SCENES" else word for word in verb.split()] for verb in STARTS]
    verbs = [[*verb, *recorded_scenes.arguments] if verb[:2] == ["run", "-m"] else verb for verb in verbs]
    command = [sys.executable, "-c", STARTED, json.dumps(verbs)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for (verb, avoided), (said, imported) in zip(STARTS.items(), map(json.loads, lines), strict=True):
        assert not avoided & {*imported}, verb
        word = "Usage" if "--help" in verb else {"list": "scenes", "doctor": "no problems"}.get(verb, "rsum")
        assert word in said, verb


def test_the_installed_command_answers():
    assert shutil.which(SCRIPT) is not None


def test_the_version(command):
    assert command("--version").out == f"cran-bench {metadata.version('cran-bench')}\n"
