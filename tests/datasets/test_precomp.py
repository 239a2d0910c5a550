"""Features in the layout of VSE++ and SCAN: one command to a row, repeated rows, and files that do not fit."""

import re

import numpy as np
import pytest

from cran_bench.errors import BadInput
from cran_bench.frontend.catalogue import open_backbone
from cran_bench.frontend.feature_files import DataImages, DataRegions
from cran_bench.needs import missing
from cran_bench.registry import DATASETS

SIZES = {"train": 40, "dev": 12, "test": 12}
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n"
THINGS = ["dog", "ball", "tree", "boat", "man", "hat"]


@pytest.fixture
def write(tmp_path):
    """``write(shape, repeats)``: a folder whose features tell what the captions say."""

    def files(shape=(36, 32), repeats=5):
        random = np.random.default_rng(0)
        looks = np.random.default_rng(1).normal(size=(len(THINGS), shape[-1]))
        home = tmp_path / f"data{len(list(tmp_path.glob('data*')))}"  # files that are mapped must stay as they are
        folder = home / "f30k_precomp"
        folder.mkdir(parents=True)
        for name, count in SIZES.items():
            seen = random.integers(0, len(THINGS), (count, 2))
            features = looks[seen].sum(axis=1).reshape(count, *[1] * (len(shape) - 1), -1)
            features = features + 0.1 * random.normal(size=(count, *shape))
            np.save(folder / f"{name}_ims.npy", features.astype(np.float32).repeat(repeats, axis=0))
            lines = [f"A {THINGS[a]} and a {THINGS[b]} , number {k} ." for a, b in seen for k in range(5)]
            (folder / f"{name}_caps.txt").write_text("\n".join(lines) + "\n")
        return folder

    return files


def load(folder, spec="precomp[folder=f30k_precomp]"):
    return DATASETS.configure(spec).build().load(folder.parent)


@pytest.mark.parametrize("shape", [(36, 32), (32,)])
def test_one_command_gives_a_row(write, tmp_path, command, shape):
    folder = write(shape)
    spec = "precomp[folder=f30k_precomp]"
    kept = ["--cache", tmp_path / "cache", "--results", tmp_path / "results"]
    said = command("run", "-m", "cca,cca[dim=4]", "-d", spec, "--data", folder.parent, *kept)
    assert said.code == 0, said.err
    found = dict(re.findall(r"^(cca:tuned\S*) +([\d.]+)", said.out, re.MULTILINE))
    assert set(found) == {"cca:tuned", "cca:tuned[dim=4]"}
    assert float(found["cca:tuned"]) > 2 * 100 / SIZES["test"]
    assert "12 images, 60 captions" in said.out
    again = command("run", "cca", "-d", spec, "--data", folder.parent, *kept)
    assert "reused" in again.err
    sentence = command("search", "a dog and a boat", "-m", "cca", "-d", spec, "--data", folder.parent, *kept[:2])
    assert "test-" in sentence.out
    drawn = command("run", "cca", "-d", spec, "--data", folder.parent, "--backbone", "pixels", *kept)
    assert "consists of features, without images for pixels and data" in drawn.sentence


def test_regions_their_mean_and_repeated_rows(write):
    folder = write((36, 8), repeats=5)
    data = load(folder)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 40, "val": 12, "test": 12}
    assert set(np.bincount(data.image_of)) == {5}
    rows = np.load(folder / "dev_ims.npy")[::5]
    images, regions = DataImages.of(data), DataRegions.of(data)
    np.testing.assert_allclose(images.features(data.images.ids, range(40, 52)), rows.mean(axis=1), rtol=1e-6)
    found = regions.regions(data.images.ids, range(41, 43))
    assert np.array_equal(found.regions, rows[1:3, :5])
    assert found.mask.all() and np.array_equal(found.boxes[0, 0], (0, 0, 1, 1))
    once = load(write((36, 8), repeats=1))
    assert np.array_equal(DataImages.of(once).features(once.images.ids), images.features(data.images.ids))


def test_of_three_regions_two_are_masked_and_of_none_there_are_none(write):
    data = load(write((3, 8)))
    assert DataRegions.of(data).regions(data.images.ids, range(1)).mask.tolist() == [[True] * 3 + [False] * 2]
    assert DataRegions.of(load(write((8,)))) is None


def test_limit_and_other_names(write):
    folder = write((8,), repeats=1)
    small = load(folder, "precomp[folder=f30k_precomp,limit=16]")
    assert [len(rows) for rows in small.splits.values()] == [10, 3, 3]
    assert len(small.captions) == 80
    for kind in ("ims.npy", "caps.txt"):
        (folder / f"test_{kind}").rename(folder / f"testall_{kind}")
    assert len(load(folder, "precomp[folder=f30k_precomp,test=testall]").splits["test"]) == 12
    with pytest.raises(BadInput, match=r"there is no test_caps\.txt in .*precomp\[val=NAME,test=NAME\]"):
        load(folder)


def change(folder, name, change):
    array = np.load(folder / f"{name}_ims.npy")
    (folder / f"{name}_ims.npy").unlink()
    np.save(folder / f"{name}_ims.npy", change(array).astype(np.float32))


def test_rows_that_are_equal_up_to_rounding_are_one_image(write):
    folder = write((6, 8))
    plain = load(folder)
    for name in SIZES:
        change(folder, name, lambda a: a + 1e-6 * np.random.default_rng(2).normal(size=a.shape))
    data = load(folder)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 40, "val": 12, "test": 12}
    assert data.remarks[1] == "dev_ims.npy: every 5 rows are equal and taken as one image (repeats=5)"
    features = [DataImages.of(each).features(each.images.ids) for each in (plain, data)]
    np.testing.assert_allclose(*features, atol=1e-5)


def test_the_number_of_rows_per_image_is_guessed_from_all_rows(write):
    folder = write((8,))
    for name in SIZES:
        change(folder, name, lambda a: np.concatenate([a[:5], np.random.default_rng(3).normal(size=a[5:].shape)]))
    data = load(folder)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 200, "val": 60, "test": 60}
    assert data.remarks[2] == "test_ims.npy: rows differ, so each is taken as an image with one caption (repeats=1)"
    assert np.isfinite(DataImages.of(data).features(data.images.ids)).all()


def test_the_number_of_rows_per_image_can_be_said(write):
    folder = write((8,), repeats=2)
    data = load(folder, "precomp[folder=f30k_precomp,repeats=2,name=mine]")
    assert [len(rows) for rows in data.splits.values()] == [40, 12, 12] and len(data.captions) == 320
    assert not data.remarks
    with pytest.raises(BadInput, match=r"has 80 rows for the 200 captions of train_caps.txt; .* .or 3 equal rows"):
        load(folder, "precomp[folder=f30k_precomp,repeats=3]")
    with pytest.raises(BadInput, match="repeats must be at least 1, not 0"):
        DATASETS.configure("precomp[repeats=0]")
    with pytest.raises(BadInput, match="name must have at most 40 printable characters"):
        DATASETS.configure("precomp[name=a/b]")


def test_the_files_of_test_are_enough(write):
    folder = write((8,))
    whole, precomp = load(folder), DATASETS.configure("precomp[folder=f30k_precomp]").build()
    for name in ("train", "dev"):
        for file in folder.glob(f"{name}_*"):
            file.unlink()
    assert not missing(precomp.needs(folder.parent))
    data = load(folder)
    assert [len(rows) for rows in data.splits.values()] == [0, 0, 12]
    assert data.remarks[:2] == [
        "without train images, as there is no train_caps.txt",
        "without val images, as there is no dev_caps.txt",
    ]
    for each in (whole, data):
        assert [each.images.ids[row] for row in each.splits["test"]] == [f"test-{k}" for k in range(12)]
    with pytest.raises(BadInput, match=r"there is no valid_caps\.txt"):
        load(folder, "precomp[folder=f30k_precomp,val=valid]")
    (folder / "test_ims.npy").unlink()
    assert [need.what for need in missing(precomp.needs(folder.parent))] == ["test_ims.npy"]


def test_files_that_do_not_fit(write):
    dev = np.load(write((6, 8)) / "dev_ims.npy")
    one_off, infinite = dev.copy(), dev.copy()
    one_off[7] += 1
    infinite[10:15, 2, 3] = np.inf

    def refused(message, name, content, option=""):
        folder = write((6, 8))
        if content is None:
            (folder / name).unlink()
        elif isinstance(content, str):
            (folder / name).write_text(content)
        else:
            np.save(folder / name, content)
        with pytest.raises(BadInput, match=message):
            data = load(folder, f"precomp[folder=f30k_precomp{option}]")
            DataImages.of(data).features(data.images.ids)

    refused("has 59 rows for the 60 captions", "dev_ims.npy", dev[:59])
    refused(r"has features of shape \(8,\), but .*train_ims", "dev_ims.npy", dev[:, 0])
    refused(r"should hold numbers of shape .* not <U1", "dev_ims.npy", dev.astype("U1"))
    refused(r"dev_ims\.npy is not a numeric \.npy array", "dev_ims.npy", "<html>")
    refused(r"there is no dev_ims\.npy", "dev_ims.npy", None)
    refused(r"dev_caps\.txt, line 2: the caption is empty", "dev_caps.txt", "a\n\nb\n")
    unclear = r"in 11 of 12 groups of 5 rows the rows are equal, .* say precomp\[repeats=5\] .* or precomp\[repeats=1\]"
    refused(unclear, "dev_ims.npy", one_off)
    refused("rows 5 and 7 belong to one image but differ", "dev_ims.npy", one_off, ",repeats=5")
    refused(r"dev_ims\.npy .*it is a Git LFS pointer", "dev_ims.npy", LFS)
    refused("dev_caps.txt is a Git LFS pointer", "dev_caps.txt", LFS)
    refused("row 10 has a value that is not a finite", "dev_ims.npy", infinite)


def test_other_datasets_have_no_features_of_their_own(flickr):
    data = DATASETS.configure("flickr8k").build().load(flickr)
    with pytest.raises(BadInput, match="has images but no precomputed features"):
        open_backbone("data", data)
