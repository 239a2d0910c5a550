"""Features are those of the very images that are loaded, whatever a dataset is called and wherever it lies."""

import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from cran_bench.dataset import Collection
from cran_bench.errors import BadInput
from cran_bench.machine import ledger
from cran_bench.machine.storage import sha256_file
from cran_bench.registry import DATASETS, METHODS
from cran_bench.running import preparation
from cran_bench.running.preparation import find_prepared
from cran_bench.running.runner import Runner

SPECS = "pixels[dim=16]", "none"


@pytest.fixture
def precomp(tmp_path):
    """Two folders with the same captions and shapes: features that tell the captions, and noise."""
    rng, words = np.random.default_rng(0), ["dog", "ball", "tree", "boat", "man", "hat", "sea", "car"]
    for name in "AB":
        (tmp_path / name).mkdir()
    for split, count in (("train", 50), ("dev", 10), ("test", 10)):
        seen = rng.permutation(list(itertools.combinations(range(len(words)), 3)))[:count]
        bags = np.zeros((count, len(words)), np.float32)
        np.put_along_axis(bags, seen, 1, axis=1)
        for name, rows in (("A", bags), ("B", rng.normal(size=bags.shape).astype(np.float32))):
            np.save(tmp_path / name / f"{split}_ims.npy", rows)
            lines = [" ".join(words[k] for k in own) for own in seen]
            (tmp_path / name / f"{split}_caps.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    """``folder(name, start)``: a dataset of 12 pictures, numbered from `start`."""

    def make(name="one", start=0):
        rng, home = np.random.default_rng(start), tmp_path / name
        home.mkdir()
        lines = ["image,caption,split"]
        for k in range(12):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(home / f"{start + k}.png")
            lines.append(f"{start + k}.png,picture {k},{('train', 'train', 'val', 'test')[k % 4]}")
        (home / "captions.csv").write_text("\n".join(lines))
        return home

    return make


@pytest.fixture
def blurred(folder, tmp_path):
    """A dataset, and a copy whose pictures have the same names but are blurred."""
    original = folder()
    copy = Path(shutil.copytree(original, tmp_path / "copy"))
    for path in copy.glob("*.png"):
        Image.open(path).filter(ImageFilter.BoxBlur(5)).save(path)
    return original, copy


def load(data, *specs, name="folder"):
    return find_prepared(DATASETS.configure(name), data, data.parent / "cache", *specs)


def rsum(data):
    runner = Runner(load(data, name="precomp"), data.parent / "results", data.parent / "cache", torch.device("cpu"))
    (outcome,) = runner.run([METHODS.configure("cca")], ["captions"], [0])
    return outcome.record.metrics["rsum"], outcome.reused


@pytest.mark.parametrize("order", ["AB", "BA"])
def test_each_of_two_folders_of_features_gets_its_own_number(precomp, order):
    found = {name: rsum(precomp / name) for name in order}
    assert not found["A"][1] and not found["B"][1]
    assert found["A"][0] == 600 and found["B"][0] < 400
    assert {name: rsum(precomp / name) for name in order} == {name: (found[name][0], True) for name in order}
    assert len(list((precomp / "results").rglob("cca-*.answers.npz"))) == 2


def test_a_blurred_copy_is_not_the_original(blurred, capsys):
    original, copy = (load(data, *SPECS) for data in blurred)
    assert "they differ in 12 of 12 images, the first is 0.png" in capsys.readouterr().err
    assert not np.array_equal(original.features.globals, copy.features.globals)
    assert original.identity["features"] != copy.identity["features"]
    again = [load(data, *SPECS) for data in blurred]
    assert "extracting" not in capsys.readouterr().err
    assert [p.features.folder for p in again] == [original.features.folder, copy.features.folder]


def test_force_of_a_copy_leaves_the_original_alone(blurred):
    original, copy = blurred
    before = load(original, *SPECS)
    preparation.prepare(DATASETS.configure("folder"), copy, copy.parent / "cache", *SPECS, force=True)
    after = load(original, *SPECS)
    assert after.identity == before.identity and np.array_equal(after.features.globals, before.features.globals)


def test_the_same_images_under_another_name_are_not_extracted_again(blurred, capsys):
    original, _ = blurred
    made = load(original, *SPECS)
    moved = original.rename(original.with_name("moved"))
    again = find_prepared(DATASETS.configure("folder[seed=1]"), moved, moved.parent / "cache")
    assert again.features.folder == made.features.folder and again.identity == made.identity
    assert capsys.readouterr().err.count("extracting") == 1


def test_two_folders_live_in_one_cache(folder):
    one, two = folder("one"), folder("two", start=100)
    for data in (one, two):
        load(data, *SPECS)
    found = {data: load(data).features for data in (one, two)}
    assert found[one].folder != found[two].folder
    assert {data: load(data, *SPECS).features.folder for data in found} == {data: found[data].folder for data in found}


def test_replaced_images_are_not_extracted_by_another_front_end(blurred):
    original, copy = blurred
    load(original, *SPECS)
    message = (
        r"they differ in 12 of 12 images, the first is 0\.png.*; choose how to extract those of folder: "
        r"--backbone 'pixels\[dim=16\]' --regions 'none'; --backbone 'pixels' --regions 'grid'"
    )
    with pytest.raises(BadInput, match=message):
        load(copy)
    assert load(copy, *SPECS).features.globals.shape == (12, 16)
    assert load(copy).features.label == "pixels[dim=16] + none"


def test_a_swap_that_keeps_size_and_time_is_noticed(blurred, monkeypatch):
    monkeypatch.setattr(ledger, "SETTLED", -(10**9))
    original, copy = blurred
    for data in blurred:
        for path in data.glob("*.png"):
            Image.open(path).save(path.with_suffix(".bmp"))
            os.utime(path.with_suffix(".bmp"), (10**9, 10**9))
        (data / "captions.csv").write_text((data / "captions.csv").read_text().replace(".png", ".bmp"))
    before = load(original, *SPECS)
    shutil.copy2(copy / "3.bmp", original / "3.bmp")
    after = load(original, *SPECS)
    assert (original / "3.bmp").stat().st_mtime == 10**9
    changed = (before.features.globals != after.features.globals).any(axis=1)
    assert [after.collection.images.ids[row] for row in np.flatnonzero(changed)] == ["3.bmp"]


def test_swapped_word_vectors_are_noticed(folder):
    data, file = folder(), folder("vectors") / "glove.txt"
    found = []
    for values in ("1 2 3", "3 2 1"):
        file.write_text(f"picture {values}\n")
        os.utime(file, (10**9, 10**9))
        made = load(data, *SPECS, f"glove:{file}")
        info = Runner(made, data.parent, data.parent, torch.device("cpu")).data_info
        found.append((made.identity["vectors"]["sha256"], info.extras_sha))
        assert info.images_sha == made.features.manifest["images_sha"]
    assert found[0][0] != found[1][0] and found[0][1] != found[1][1] and all(sha for _, sha in found)


def test_remarks_are_kept_until_a_text_or_an_image_changes(folder, monkeypatch):
    data = folder()
    captions = data / "captions.csv"
    captions.write_text(captions.read_text().replace("picture 0", "picture 1").replace("picture 3", "zyx"))
    first = load(data, *SPECS).collection.remarks
    assert any("1 captions and 0 images occur more than once" in remark for remark in first)
    assert any("test captions without any word that occurs in training: 1 of 3" in remark for remark in first)
    with monkeypatch.context() as patch:
        patch.setattr(Collection, "repeated", lambda *_: pytest.fail("read again"))
        assert load(data, *SPECS).collection.remarks == first
    captions.write_text(captions.read_text().replace("zyx", "picture 1"))
    shutil.copy(data / "1.png", data / "0.png")
    (changed,) = load(data, *SPECS).collection.remarks[len(first) - 2 :]
    assert "1 captions and 1 images occur more than once" in changed


@pytest.mark.parametrize(("backbone", "regions"), [("npy:f.npy", "none"), ("clip:clip", "none"), ("pixels", "grid")])
def test_regions_are_left_out_by_default_where_they_cannot_be_had_or_cost_most(monkeypatch, backbone, regions):
    asked = []
    monkeypatch.setattr(preparation.FrontEnd, "open", lambda *specs: asked.append(specs[:2]))
    for given in (None, "grid"):
        preparation._front_end(None, {"backbone": "pixels", "regions": "grid"}, backbone, given)
    assert asked == [(backbone, regions), (backbone, "grid")]


def test_unchanged_word_vectors_and_features_are_not_read_again(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(ledger, "LARGE", 0)
    monkeypatch.setattr(ledger, "SETTLED", -(10**9))
    data, vectors, rows = folder(), tmp_path / "glove.txt", tmp_path / "rows.npy"
    vectors.write_text("picture 1 2 3\n")
    np.save(rows, np.eye(12, dtype=np.float32))
    ids = rows.with_suffix(".txt")
    ids.write_text("".join(f"{k}.png\n" for k in range(12)))
    made = load(data, f"npy:{rows}[ids={ids}]", "none", f"glove:{vectors}")
    monkeypatch.setattr(ledger, "sha256_file", lambda path: pytest.fail(f"{path} is read again"))
    again = load(data, f"npy:{rows}[ids={ids}]", "none", f"glove:{vectors}")
    assert again.identity == made.identity and again.features.folder == made.features.folder
    assert made.identity["vectors"]["sha256"] == sha256_file(vectors)
