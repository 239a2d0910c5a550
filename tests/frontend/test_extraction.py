"""Extraction: the right numbers, nothing lost to a kill, and each way that images and features can be wrong."""

import errno
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cran_bench.dataset import Collection, ImageSource
from cran_bench.errors import BadInput, CannotWrite
from cran_bench.frontend import extraction
from cran_bench.frontend import front_end as front_end_module
from cran_bench.frontend.extraction import extract
from cran_bench.frontend.features import load_features
from cran_bench.frontend.front_end import FrontEnd
from cran_bench.frontend.interfaces import PrecomputedImages, Proposals, Proposer
from cran_bench.images import UnreadableImage
from cran_bench.machine.storage import sha256_bytes
from cran_bench.registry import DATASETS, METHODS
from cran_bench.running.preparation import find_prepared
from cran_bench.running.runner import Runner
from cran_bench.split import MissingFeature

WIDTH, HEIGHT = 32, 24
NAMES = ("globals", "regions", "boxes", "scores", "mask")


class Noise(ImageSource):
    """Pictures in memory; rows in `bad` cannot be used."""

    def __init__(self, count):
        self.ids = [f"{k}.png" for k in range(count)]
        self.values = np.random.default_rng(7).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
        self.bad = set()

    def read(self, row):
        if row in self.bad:
            raise UnreadableImage(f"{self.ids[row]} cannot be decoded (torn): download it again")
        return Image.fromarray(self.values[row])

    def digest(self, row):
        return "bad" if row in self.bad else sha256_bytes(self.values[row].tobytes())


class Moments:
    """A backbone: mean and deviation of each colour.  Notes how many pictures it embeds."""

    dim = 6

    def __init__(self, delay=0.0, log=None):
        self.delay, self.log, self.pictures = delay, log, 0

    def identity(self):
        return {"name": "moments"}

    def prepare(self, image):
        return moments(np.asarray(image))

    def embed(self, batch):
        time.sleep(self.delay)
        self.pictures += len(batch)
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(f"{len(batch)}\n")
        return batch


class Two(Proposer):
    """A proposer of two boxes for every picture."""

    def identity(self):
        return {"name": "two"}

    def boxes_of(self, row):
        return 2

    def propose(self, rows, images):
        return [self.propose_one(row) for row in rows]

    def propose_one(self, row):
        rng, count = np.random.default_rng(row), self.boxes_of(row)
        corners = rng.integers(0, 4, (count, 2))
        boxes = np.concatenate([corners, corners + rng.integers(1, 5, (count, 2))], axis=1) / 8
        return Proposals(boxes.astype(np.float32), rng.random(count, dtype=np.float32))


class Varied(Two):
    """None to six boxes."""

    def boxes_of(self, row):
        return row % 7


class Named(Two):
    """The same two boxes, with classes."""

    has_classes = True

    def propose_one(self, row):
        return replace(super().propose_one(row), classes=np.array([row % 80, -1], np.int16))


def moments(values):
    values = values.astype(np.float64)
    return np.concatenate([values.mean(axis=(0, 1)), values.std(axis=(0, 1))]).astype(np.float32)


def collection(count=40):
    rows = np.arange(count)
    return Collection(
        name="noise",
        images=Noise(count),
        captions=[f"caption {k}" for k in rows],
        image_of=rows,
        splits={"train": rows[: count - 8], "val": rows[count - 8 : count - 4], "test": rows[count - 4 :]},
    )


def front_end(proposer=None, **options):
    return FrontEnd("moments", "two", Moments(**options), proposer or Two())


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in NAMES)


def leftovers(folder):
    return [path.name for path in folder.rglob("*") if path.name.endswith((".part", "journal.json"))]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(extraction, "SHARD", 4)
    monkeypatch.setattr(front_end_module, "BATCH", 5)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and no test pulls the plug


def test_classes_are_kept_beside_the_same_features(tmp_path):
    data = collection(21)
    data.images.bad.add(6)
    plain, named = (extract(front_end(proposer).plan(data, tmp_path / name), skip_bad=True)
                    for name, proposer in (("plain", Two()), ("named", Named())))  # fmt: skip
    assert plain.classes is None and named.classes.dtype == np.int16
    first = [-1 if row == 6 else row % 80 for row in range(21)]
    assert named.classes.tolist() == [[place, -1, -1, -1, -1] for place in first]
    assert same(plain, named) and plain.fingerprint() == named.fingerprint()
    assert np.array_equal(load_features(named.folder, data.images.ids).classes, named.classes)


def test_every_array_is_what_direct_computation_gives(tmp_path):
    data = collection(21)
    found = extract(front_end(Varied()).plan(data, tmp_path))
    assert found.label == "moments + two"
    for row in range(21):
        picture, wanted = data.images.values[row], Varied().propose_one(row)
        whole, count = moments(picture), min(5, row % 7)
        assert np.array_equal(found.globals[row], whole)
        assert found.mask[row].tolist() == [True] * count + [False] * (5 - count)
        assert np.array_equal(found.scores[row], np.append(wanted.scores[:count], np.zeros(5 - count, np.float32)))
        assert np.array_equal(found.boxes[row, :count], wanted.boxes[:count])
        assert np.array_equal(found.boxes[row, count:], np.tile([0, 0, 1, 1], (5 - count, 1)))
        assert np.array_equal(found.regions[row, count:], np.tile(whole, (5 - count, 1)))
        for box, vector in zip(wanted.boxes[:count], found.regions[row], strict=False):
            x0, y0, x1, y1 = (box * [WIDTH, HEIGHT, WIDTH, HEIGHT]).astype(int)
            assert np.array_equal(vector, moments(picture[y0:y1, x0:x1]))
    assert leftovers(tmp_path) == []


def test_boxes_thinner_than_a_pixel_still_give_a_crop(tmp_path):
    class Thin(Two):
        def propose_one(self, row):
            edge = np.array([[0.5, 0.5, 0.501, 0.501], [0.999, 0.999, 1, 1], [1, 1, 1, 1]], np.float32)
            return Proposals(edge, np.ones(3, np.float32))

    data = collection(12)
    found = extract(front_end(Thin()).plan(data, tmp_path))
    assert np.array_equal(found.regions[3, 0, :3], data.images.values[3, HEIGHT // 2, WIDTH // 2])
    assert np.array_equal(found.regions[3, 1], found.regions[3, 2])
    assert np.array_equal(found.regions[3, 1, :3], data.images.values[3, -1, -1])


def test_what_is_finished_is_taken_and_force_extracts_again(tmp_path, capsys):
    data, first, second = collection(), front_end(), front_end()
    made = extract(first.plan(data, tmp_path))
    assert first.backbone.pictures == 120
    assert same(extract(second.plan(data, tmp_path)), made)
    assert second.backbone.pictures == 0
    assert "features of noise are already prepared" in capsys.readouterr().err
    again = extract(second.plan(data, tmp_path), force=True)
    assert second.backbone.pictures == 120
    assert again.fingerprint() == made.fingerprint()


DRIVER = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("driven", sys.argv[1])
driven = importlib.util.module_from_spec(spec)
spec.loader.exec_module(driven)
driven.extraction.SHARD = 4
driven.extract(driven.front_end(delay=0.1, log=sys.argv[3]).plan(driven.collection(), Path(sys.argv[2])))
"""


def test_after_a_kill_less_than_one_shard_is_redone(tmp_path):
    data, log = collection(), tmp_path / "log"
    whole = extract(front_end().plan(data, tmp_path / "whole"))
    command = [sys.executable, "-c", DRIVER, __file__, str(tmp_path / "killed"), str(log)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (log.exists() and len(log.read_text().split()) > 4) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert not list((tmp_path / "killed").rglob("manifest.json"))
    embedded = sum(map(int, log.read_text().split()))
    assert 0 < embedded < 120
    rest = front_end()
    found = extract(rest.plan(data, tmp_path / "killed"))
    assert embedded + rest.backbone.pictures - 120 <= 3 * 4
    assert rest.backbone.pictures < 120
    assert same(found, whole)
    assert found.fingerprint() == whole.fingerprint()
    assert leftovers(tmp_path) == []


def stop_after(monkeypatch, syncs, error):
    """Make the file system fail at one of the next writes."""
    real, left = os.fsync, [syncs]

    def fail(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise error
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.parametrize("syncs", [0, 3, 5, 17, 29, 60])
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, syncs):
    data = collection()
    with monkeypatch.context() as patch:
        stop_after(patch, syncs, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(CannotWrite, match=r"the disk is full while writing .*: free some space"):
            extract(front_end().plan(data, tmp_path))
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob("manifest.json"))
    rest = front_end()
    found = extract(rest.plan(data, tmp_path))
    assert rest.backbone.pictures == 12 * (10 - syncs // 6)
    assert same(found, extract(front_end().plan(data, tmp_path / "again")))


def test_a_disk_that_is_full_at_the_first_byte(tmp_path, monkeypatch):
    def full(path, **_):
        Path(path).touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "open_memmap", full)
        with pytest.raises(CannotWrite, match="the disk is full"):
            extract(front_end().plan(collection(), tmp_path))
    assert not list(tmp_path.rglob("*.npy*"))
    extract(front_end().plan(collection(), tmp_path))


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "free_bytes", lambda path: 1000)
        with pytest.raises(BadInput, match=r"need 0\.00 GB below .*, but only 0\.00 GB are free: .* with --cache"):
            extract(front_end().plan(collection(), tmp_path))
    assert not list(tmp_path.rglob("*.npy*"))
    whole = extract(front_end().plan(collection(), tmp_path))
    monkeypatch.setattr(extraction, "free_bytes", lambda path: 0)
    assert same(whole, extract(front_end().plan(collection(), tmp_path)))  # what is written needs no room


def interrupt(tmp_path, monkeypatch, syncs=30):
    with monkeypatch.context() as patch:
        stop_after(patch, syncs, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            extract(front_end().plan(collection(), tmp_path))
    return next(tmp_path.rglob("journal.json"))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"done": 3, "seconds": 1, "failed": {}}', ""])
def test_a_damaged_journal_starts_anew(tmp_path, monkeypatch, text):
    interrupt(tmp_path, monkeypatch).write_text(text)
    rest = front_end()
    extract(rest.plan(collection(), tmp_path))
    assert rest.backbone.pictures == 120


@pytest.mark.parametrize("damage", ["delete", "truncate", "empty"])
def test_an_unfinished_array_that_is_damaged_starts_anew(tmp_path, monkeypatch, damage):
    path = interrupt(tmp_path, monkeypatch).with_name("regions.npy")
    if damage == "delete":
        path.unlink()
    else:
        os.truncate(path, 1000 if damage == "truncate" else 0)
    rest = front_end()
    found = extract(rest.plan(collection(), tmp_path))
    assert rest.backbone.pictures == 120
    assert same(found, extract(front_end().plan(collection(), tmp_path / "again")))


def test_a_journal_of_other_shards_is_not_misread(tmp_path, monkeypatch):
    interrupt(tmp_path, monkeypatch)
    monkeypatch.setattr(extraction, "SHARD", 7)
    found = extract(front_end().plan(collection(), tmp_path))
    assert same(found, extract(front_end().plan(collection(), tmp_path / "again")))


def test_bad_images_are_listed_and_all_others_done(tmp_path, capsys):
    data = collection()
    data.images.bad = {5, 22}
    with pytest.raises(
        BadInput,
        match=r"2 of 40 images cannot be used \(listed above\); .* skip them with cran-bench prepare \.\.\. --skip-bad",
    ):
        extract(front_end().plan(data, tmp_path))
    err = capsys.readouterr().err
    assert "unusable: 5.png cannot be decoded (torn)" in err and "unusable: 22.png" in err
    assert not list(tmp_path.rglob("manifest.json"))

    rest = front_end()
    found = extract(rest.plan(data, tmp_path), skip_bad=True)
    assert rest.backbone.pictures == 2 * 3 * 3
    assert found.failed == [5, 22]
    assert not found.globals[[5, 22]].any()
    kept = data.without(found.failed)
    assert {5, 22}.isdisjoint(kept.splits["train"]) and len(kept.splits["train"]) == 30
    assert load_features(found.folder, data.images.ids).failed == [5, 22]


def test_of_a_mended_image_only_its_shard_is_redone(tmp_path):
    data = collection()
    data.images.bad = {5, 22}
    with pytest.raises(BadInput):
        extract(front_end().plan(data, tmp_path))
    data.images.bad = {22}
    rest = front_end()
    with pytest.raises(BadInput, match="1 of 40 images cannot be used"):
        extract(rest.plan(data, tmp_path))
    assert rest.backbone.pictures == (4 + 3) * 3
    data.images.bad = set()
    rest = front_end()
    assert extract(rest.plan(data, tmp_path)).failed == []
    assert rest.backbone.pictures == 4 * 3


def test_an_image_that_changes_between_two_starts_is_redone(tmp_path, monkeypatch):
    interrupt(tmp_path, monkeypatch)
    data, rest = collection(), front_end()
    data.images.values[1] = 255 - data.images.values[1]
    found = extract(rest.plan(data, tmp_path))
    assert rest.backbone.pictures == 12 * (10 - 5 + 1)
    assert np.array_equal(found.globals[1], moments(data.images.values[1]))


def test_images_that_change_after_the_end_get_features_of_their_own(tmp_path):
    data = collection()
    before = extract(front_end().plan(data, tmp_path))
    old, data.images.values[7] = data.images.values[7].copy(), 0
    found = extract(front_end().plan(data, tmp_path), force=True)
    assert found.fingerprint() != before.fingerprint() and not found.globals[7].any()
    data.images.values[7] = old
    again = front_end()
    assert same(extract(again.plan(data, tmp_path)), before) and again.backbone.pictures == 0


def test_an_image_that_changes_during_the_extraction_is_noticed(tmp_path):
    class Replacing(Moments):
        def embed(self, batch):
            data.images.values[39] = 0
            return super().embed(batch)

    data = collection()
    data.images.values[39] = 1
    with pytest.raises(BadInput, match="images of noise changed while their features were extracted: try again"):
        extract(FrontEnd("moments", "two", Replacing(), Two()).plan(data, tmp_path))
    assert not list(tmp_path.rglob("manifest.json"))
    rest = front_end()
    assert not extract(rest.plan(data, tmp_path)).globals[39].any()
    assert rest.backbone.pictures == 4 * 3


def test_values_that_are_not_finite_are_refused(tmp_path, capsys):
    class Broken(Moments):
        def embed(self, batch):
            return np.full_like(batch, np.nan)

    with pytest.raises(BadInput, match="40 of 40 images cannot be used"):
        extract(FrontEnd("broken", "none", Broken(), None).plan(collection(), tmp_path))
    assert "0.png: broken returns NaN or infinity" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("", "is damaged"),
        ("[]", "is damaged"),
        ("{}", "has schema None, but this version reads 1: prepare the dataset again"),
        ('{"schema": 2}', "has schema 2, but this version reads 1"),
        ('{"schema": 1}', "is damaged"),
    ],
)
def test_a_manifest_that_is_damaged_or_of_another_schema(tmp_path, text, message):
    data = collection()
    made = extract(front_end().plan(data, tmp_path))
    (made.folder / "manifest.json").write_text(text)
    for attempt in (
        lambda: load_features(made.folder, data.images.ids),
        lambda: extract(front_end().plan(data, tmp_path)),
    ):
        with pytest.raises(BadInput, match=f"manifest.json {message}"):
            attempt()
    extract(front_end().plan(data, tmp_path), force=True)


def test_a_manifest_of_other_weights_or_images(tmp_path):
    data = collection()
    made = extract(front_end().plan(data, tmp_path))
    path = made.folder / "manifest.json"
    text = path.read_text()
    assert text.count('"name": "moments"') == 1
    path.write_text(text.replace('"name": "moments"', '"name": "others"'))
    for attempt in (
        lambda: load_features(made.folder, data.images.ids),
        lambda: extract(front_end().plan(data, tmp_path)),
    ):
        with pytest.raises(BadInput, match=r"holds features made of other images, weights or regions .*: delete it"):
            attempt()
    path.write_text(text)
    with pytest.raises(BadInput, match=r"holds features of other images \(their ids differ\)"):
        load_features(made.folder, data.images.ids[::-1])
    path.unlink()
    with pytest.raises(BadInput, match=r"has no manifest\.json: its extraction is incomplete; run prepare again"):
        load_features(made.folder, data.images.ids)


def test_arrays_that_do_not_match_the_manifest(tmp_path):
    data = collection()
    made = extract(front_end().plan(data, tmp_path))
    path = made.folder / "globals.npy"
    os.truncate(path, path.stat().st_size - 10)
    with pytest.raises(BadInput, match=r"globals\.npy cannot be read .*: prepare the dataset again with --force"):
        load_features(made.folder, data.images.ids)
    os.truncate(path, 0)
    with pytest.raises(BadInput, match=r"globals\.npy cannot be read"):
        load_features(made.folder, data.images.ids)
    np.save(path, np.zeros((40, 7), np.float32))
    with pytest.raises(BadInput, match=r"float32 of shape \(40, 7\), but its manifest says float32 of shape \(40, 6\)"):
        load_features(made.folder, data.images.ids)
    path.unlink()
    with pytest.raises(BadInput, match=r"globals\.npy cannot be read .*No such file"):
        load_features(made.folder, data.images.ids)


def test_finished_vectors_are_found_by_id(tmp_path):
    data = collection()
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    order = np.random.default_rng(1).permutation(40)
    np.save(tmp_path / "f.npy", rows[order])
    (tmp_path / "ids.txt").write_text("\n".join(data.images.ids[k] for k in order))
    opened = FrontEnd.open(f"npy:{tmp_path}/f.npy[ids={tmp_path}/ids.txt]", "none", data)
    assert isinstance(opened.backbone, PrecomputedImages)
    found = extract(opened.plan(data, tmp_path))
    assert np.array_equal(found.globals, rows)
    assert found.regions is None
    assert found.label == "npy:f.npy[ids=ids.txt] + none"
    assert str(tmp_path) not in (found.folder / "manifest.json").read_text()


def test_finished_vectors_whose_ids_do_not_match(tmp_path):
    data = collection()
    np.save(tmp_path / "f.npy", np.zeros((40, 3)))
    (tmp_path / "ids.txt").write_text("\n".join(["other.png", *data.images.ids[1:]]))
    opened = FrontEnd.open(f"npy:{tmp_path}/f.npy[ids={tmp_path}/ids.txt]", "none", data)
    with pytest.raises(BadInput, match=r"1 of 40 images have no row in .*ids\.txt, the first is 0\.png"):
        extract(opened.plan(data, tmp_path / "cache"))
    assert not [*(tmp_path / "cache" / "features").glob("[!.]*")]
    with pytest.raises(BadInput, match="holds precomputed features and cannot embed crops: use --regions"):
        FrontEnd.open(f"npy:{tmp_path}/f.npy", "grid", data)


def test_bad_regions_leave_nothing_that_no_other_file_would_resume(tmp_path):
    data = collection()
    rows = np.ones((40, 2, 3))
    rows[39, 1, 2] = np.nan
    np.save(tmp_path / "r.npy", rows)
    np.save(tmp_path / "b.npy", np.tile([0.0, 0, 1, 1], (40, 2, 1)))
    opened = FrontEnd.open("pixels[dim=16]", f"npy:{tmp_path}/r.npy[boxes={tmp_path}/b.npy]", data)
    with pytest.raises(BadInput, match="row 39 has a value that is not a finite float32"):
        extract(opened.plan(data, tmp_path / "cache"))
    assert not [*(tmp_path / "cache" / "features").glob("[!.]*")]


def test_without_regions_a_method_that_needs_them_is_told(tmp_path):
    script = tmp_path / "needs.py"
    script.write_text(
        "from dataclasses import dataclass\n"
        "from cran_bench import COSINE\n"
        "@dataclass\n"
        "class Needs:\n"
        "    similarity = COSINE\n"
        "    def fit(self, train, val, run):\n"
        "        train.regions\n"
        "    def embed_images(self, split): ...\n"
        "    def embed_texts(self, split): ...\n"
        "    def state(self): ...\n"
        "    def load(self, state): ...\n"
    )
    scenes = DATASETS.configure("scenes[train=4,val=2,test=2]")
    prepared = find_prepared(scenes, tmp_path, tmp_path / "cache", "pixels[dim=16]", "none")
    split = prepared.split("train", "captions", torch.device("cpu"))
    assert not split.has_regions and split.region_shape == (0, 0) and split.images.shape == (4, 16)
    for name in ("regions", "boxes", "box_scores", "region_mask"):
        with pytest.raises(MissingFeature, match="was prepared without regions; prepare it again with --regions"):
            getattr(split, name)
    runner = Runner(prepared, tmp_path / "results", tmp_path / "cache", torch.device("cpu"))
    (outcome,) = runner.run([METHODS.configure(f"{script}:Needs")], ["captions"], [0])
    assert outcome.record is None
    assert outcome.failure.error.startswith("needs.py:Needs cannot run on scenes[test=2,train=4,val=2]: scenes")
    assert "prepared without regions" in outcome.failure.error
    assert json.loads(next((tmp_path / "results").rglob("*.error.json")).read_text())["error"] == outcome.failure.error


def test_features_change_only_with_their_schema(tmp_path):
    """Stored features are reused by schema and front end: raise features.SCHEMA when these numbers change."""
    scenes = DATASETS.configure("scenes[train=2,val=2,test=2]").build().load(tmp_path)
    found = extract(FrontEnd.open("pixels[dim=16]", "grid", scenes).plan(scenes, tmp_path))
    kept = np.array([found.globals[0, :4], found.regions[3, 0, 4:8], found.regions[5, 4, 8:12]])
    golden = [
        [0.38758, 1.21826, 3.50960, 0.0],
        [0.36298, 0.0, 1.44164, 0.06818],
        [0.95944, 0.79317, 0.0, 0.0],
    ]
    np.testing.assert_allclose(kept, golden, atol=1e-4)


def test_a_long_extraction_says_beforehand_how_long(tmp_path, monkeypatch, capsys):
    shards = -(-40 // extraction.SHARD)
    monkeypatch.setattr(extraction, "LONG", shards + 1)
    extract(front_end().plan(collection(), tmp_path / "short"))
    assert "of 40 images, 0 MB\n" in capsys.readouterr().err
    monkeypatch.setattr(extraction, "LONG", shards)
    extract(front_end().plan(collection(), tmp_path / "long"))
    assert re.search(r"of 40 images, 0 MB, about [\d.]+ s\n", capsys.readouterr().err)
