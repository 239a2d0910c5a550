"""Pairs with categories in feature files: the layouts of pascal-sentence, nus-wide-10k and xmedia, and the draws."""

import numpy as np
import pytest
from scipy import sparse
from scipy.io import savemat

from cran_bench.datasets._labelled import draw
from cran_bench.errors import BadInput
from cran_bench.frontend.feature_files import DataImages, DataRegions
from cran_bench.machine.ledger import Ledger
from cran_bench.needs import missing
from cran_bench.registry import DATASETS


def load(name, data):
    return DATASETS.configure(name).build().load(data)


def pairs(random, count, classes, dims=(6, 4)):
    kinds = random.permutation(np.arange(count) % classes)
    centres = [np.random.default_rng(9).normal(size=(classes, dim)) for dim in dims]
    return *(centre[kinds] + 0.3 * random.normal(size=(count, centre.shape[1])) for centre in centres), kinds


@pytest.fixture
def files(tmp_path):
    """``files("pascal", train=40, test=10)``: the files of each split, one array in each; their arrays."""

    def write(folder, classes=4, **sizes):
        random, arrays = np.random.default_rng(0), {}
        (home := tmp_path / folder).mkdir()
        for split, count in sizes.items():
            image, text, kind = pairs(random, count, classes)
            arrays |= {f"{split}_img": image, f"{split}_txt": text, f"{split}_img_lab": kind[:, None]}
        for name, array in arrays.items():
            savemat(home / f"{name}.mat", {name: array}, do_compression=True)
        return home, arrays

    return write


def test_files_of_one_array(files, tmp_path):
    _, arrays = files("pascal", train=40, test=10)
    data = load("pascal-sentence", tmp_path)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 35, "val": 5, "test": 10}
    assert (data.metric, data.refit, data.label_names) == ("map", True, ["0", "1", "2", "3"])
    both = {kind: np.concatenate([arrays[f"{split}_{kind}"] for split in ("train", "test")]) for kind in ("img", "txt")}
    images = DataImages.of(data)
    np.testing.assert_array_equal(images.features(data.images.ids), both["img"].astype(np.float32))
    np.testing.assert_array_equal(data.text_features, both["txt"].astype(np.float32))
    kinds = np.concatenate([arrays["train_img_lab"], arrays["test_img_lab"]])[:, 0]
    np.testing.assert_array_equal(data.labels, kinds[:, None] == np.arange(4))
    assert data.images.ids[39:41] == ["train-39", "test-0"] and data.captions == data.images.ids
    assert DataRegions.of(data) is None
    (remark,) = data.remarks
    assert remark == (
        "the files have 40 / 10 pairs of 4 categories, but published results are on 800 / 100 / 100 or 800 / 100 of 20"
    )


def test_validation_files_are_taken_and_names_are_read(files, tmp_path):
    home, arrays = files("nus-wide-10k", train=40, val=8, test=12)
    (home / "categories.list").write_text("animal\nclouds\nfood\nsky\n")
    data = load("nus-wide-10k", tmp_path)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 40, "val": 8, "test": 12}
    assert not data.refit and load("nus-wide-10k[refit=true]", tmp_path).refit
    assert data.label_names == ["animal", "clouds", "food", "sky"]
    np.testing.assert_array_equal(data.labels[data.splits["val"]].argmax(axis=1), arrays["val_img_lab"][:, 0])
    np.testing.assert_array_equal(data.text_features[data.splits["test"]], arrays["test_txt"].astype(np.float32))
    (home / "categories.list").write_text("animal\nclouds\n")
    with pytest.raises(BadInput, match=r"categories.list names 2 categories, but the files have 4; write one per line"):
        load("nus-wide-10k", tmp_path)


def test_rows_of_zeros_and_ones_may_have_none_or_several(files, tmp_path):
    home, _ = files("pascal", train=20, test=10)
    some = np.eye(5)[np.arange(20) % 4]
    some[3], some[5, 1:4] = 0, 1
    np.save(home / "train_img_lab.npy", some)
    np.savez(home / "test_img_lab.npz", test_img_lab=np.eye(5)[np.arange(10) % 3].astype(np.uint8))
    for split in ("train", "test"):
        (home / f"{split}_img_lab.mat").unlink()
    data = load("pascal-sentence", tmp_path)
    np.testing.assert_array_equal(data.labels[:20], some)
    assert data.labels.shape == (30, 5)
    lacking = [remark for remark in data.remarks if "has no pair" in remark]
    assert lacking[0] == "train has no pair of 1 of 5 categories, such as 4"
    assert lacking[-1] == "test has no pair of 2 of 5 categories, such as 3"


def test_xmedia_is_one_file_of_many_arrays(tmp_path):
    random = np.random.default_rng(0)
    image, text, kind = pairs(random, 60, 5)
    arrays = {
        **{"I_tr_CNN": image[:40], "I_te_CNN": image[40:], "T_tr_BOW": sparse.csc_array(text[:40])},
        **{"T_te_BOW": text[40:], "A_tr": np.zeros((3, 3)), "tr3dCat": np.ones((3, 1))},
        **{f"{s}{k}Cat": kind[rows, None] + 1 for s, rows in PARTS.items() for k in ("Img", "Txt")},
    }
    (tmp_path / "xmedia").mkdir()
    savemat(tmp_path / "xmedia" / "XMediaFeatures.mat", arrays)
    data = load("xmedia", tmp_path)
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [34, 6, 20]
    np.testing.assert_array_equal(DataImages.of(data).features(data.images.ids), image.astype(np.float32))
    np.testing.assert_array_equal(data.text_features, text.astype(np.float32))
    assert data.label_names == ["1", "2", "3", "4", "5"] and data.refit
    half = load("xmedia[split=half]", tmp_path)
    assert half.splits["val"].tolist() == [*range(40, 50)] and half.splits["test"].tolist() == [*range(50, 60)]
    assert not half.refit and len(half.splits["train"]) == 40
    arrays["teTxtCat"] = arrays["teTxtCat"][::-1]
    np.savez(tmp_path / "XMediaFeatures.npz", **arrays)
    (tmp_path / "xmedia" / "XMediaFeatures.mat").unlink()
    (tmp_path / "xmedia").rmdir()
    with pytest.raises(BadInput, match=r"XMediaFeatures.npz cannot be read .Object arrays"):  # the sparse one
        load("xmedia", tmp_path)
    np.savez(tmp_path / "XMediaFeatures.npz", **arrays | {"T_tr_BOW": text[:40]})
    with pytest.raises(BadInput, match=r"\(teTxtCat\): \d+ of 20 texts are of another category than their images"):
        load("xmedia", tmp_path)


PARTS = {"tr": slice(0, 40), "te": slice(40, 60)}


def test_files_that_are_missing_are_named_with_their_source(files, tmp_path, command):
    for name in ("pascal-sentence", "nus-wide-10k", "xmedia"):
        lacking = missing(DATASETS.configure(name).build().needs(tmp_path))
        assert len(lacking) == (1 if name == "xmedia" else 6) and all("http" in need.source for need in lacking)
        with pytest.raises(BadInput, match=rf"there is no .* in .*cran-bench prepare {name} --check lists the files"):
            load(name, tmp_path)
    home, _ = files("pascal-sentence", train=40, test=10)
    said = command("prepare", "pascal-sentence", "--check", "--data", tmp_path, "--cache", tmp_path / "cache")
    assert said.code == 0 and "optional  val_img.mat, val_img.npz or val_img.npy" in said.out
    assert f"kB, {home / 'train_txt.mat'}" in said.out
    (home / "train_txt.mat").unlink()
    said = command("prepare", "pascal-sentence", "--check", "--data", tmp_path, "--cache", tmp_path / "cache")
    assert said.code and "missing   train_txt.mat" in said.out and "https://vision.cs.uiuc.edu" in said.out


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "train_txt",
            lambda x: x[:-1],
            r"train_img.mat .train_img. has 40 rows, but .*txt.mat .train_txt. has 39",
        ),
        (
            "train_img_lab",
            lambda x: x[:9],
            r"has 40 rows, but .*train_img_lab.mat .train_img_lab. has 9; row k",
        ),
        (
            "test_txt",
            lambda x: x[:, :3],
            r"test_txt. has 3 columns, but .*train_txt. has 4; give features",
        ),
        ("test_img", lambda x: x[:, :3], r"test_img.mat has features of shape .3,., but .*train_img.mat of .6,."),
        (
            "test_img_lab",
            lambda x: np.eye(4)[x[:, 0]],
            r"lab.mat .*has categories of shape .10, 4., but .*40,",
        ),
        ("test_img_lab", lambda x: x + 0.5, r"test_img_lab. holds float64 .*expected a whole number from 0"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(files, tmp_path, name, change, message):
    home, arrays = files("pascal", train=40, test=10)
    savemat(home / f"{name}.mat", {name: change(arrays[name])})
    with pytest.raises(BadInput, match=message) as error:
        load("pascal-sentence", tmp_path)
    assert "\n" not in str(error.value)


def test_draws_are_in_proportion_and_leave_some():
    labels = np.eye(4, dtype=np.uint8)[np.repeat(np.arange(4), [50, 30, 19, 1])]
    rows = np.arange(100)
    left, drawn = draw(labels, rows, 10, seed=0)
    assert labels[drawn].sum(axis=0).tolist() == [5, 3, 2, 0]
    assert sorted([*left, *drawn]) == rows.tolist() and (np.diff(drawn) > 0).all() and (np.diff(left) > 0).all()
    again, other = draw(labels, rows, 10, seed=0)[1], draw(labels, rows, 10, seed=1)[1]
    assert drawn.tolist() == again.tolist() != other.tolist()
    left, drawn = draw(labels, rows, 99, seed=0)
    assert labels[left].sum(axis=0).tolist() == [1, 1, 1, 1] and len(drawn) == 96
    assert len(draw(labels, rows, 99, seed=0, leave=0)[1]) == 99
    subset = rows[::2]
    left, drawn = draw(labels, subset, 7, seed=3)
    assert sorted([*left, *drawn]) == subset.tolist() and len(drawn) == 7


def test_a_limit_keeps_every_category(files, tmp_path):
    files("pascal", classes=5, train=400, test=100)
    data = load("pascal-sentence:quick", tmp_path)
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [210, 30, 60]
    for rows in data.splits.values():
        assert len(set(data.labels[rows].sum(axis=0).tolist())) == 1


def test_digests_of_rows_do_not_depend_on_the_split(files, tmp_path):
    """The ledger notes digests by file and row, so that a row must have one place in its file."""
    files("pascal", train=40, test=10)
    kept = Ledger(tmp_path / "ledger")
    whole, again = load("pascal-sentence", tmp_path), load("pascal-sentence[val=0.3,seed=4,limit=20]", tmp_path)
    digests = list(whole.images.digests(kept))
    assert len(set(digests)) == 50
    assert list(again.images.digests(kept)) == digests == [again.images.digest(row) for row in range(50)]


@pytest.mark.parametrize(
    ("options", "message"), [("val=0", "between 0 and 1"), ("val=1", "between"), ("seed=-1", "seed")]
)
def test_options_out_of_range(options, message):
    with pytest.raises((BadInput, ValueError), match=message):
        DATASETS.configure(f"xmedia[{options}]").build()
