"""Arrays in .mat, .npz and .npy files: what is read, and one sentence for every file that cannot be."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.io import savemat

from cran_bench.datasets._arrays import FileArray, check_rows, read_arrays, stacked
from cran_bench.errors import BadInput

X = np.random.default_rng(0).normal(size=(7, 3))
WRITERS = {
    "mat": lambda path, arrays: savemat(path, arrays),
    "compressed": lambda path, arrays: savemat(path, arrays, do_compression=True),
    "npz": lambda path, arrays: np.savez(path.with_suffix(".npz"), **arrays),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_arrays_are_read_by_name(tmp_path, kind):
    WRITERS[kind](tmp_path / "all.mat", {"other": np.zeros((2, 2)), "I_tr": X, "T_tr": X[:, :2]})
    found = read_arrays(tmp_path / "all", ["T_tr", "I_tr"], "some")
    assert list(found) == ["T_tr", "I_tr"]
    np.testing.assert_array_equal(found["I_tr"].values, X)
    features = found["T_tr"].features()
    assert features.values.dtype == np.float32 and features.values.tolist() == X[:, :2].astype(np.float32).tolist()
    assert features.inode == features.path.stat().st_ino


def test_one_array_may_have_any_name_and_be_sparse(tmp_path):
    savemat(tmp_path / "train_txt.mat", {"bow": sparse.csc_array(X)})
    np.testing.assert_array_equal(read_arrays(tmp_path / "train_txt", ["train_txt"], "some")["train_txt"].values, X)
    np.save(tmp_path / "train_img.npy", X)
    np.testing.assert_array_equal(read_arrays(tmp_path / "train_img", ["train_img"], "some")["train_img"].values, X)
    savemat(tmp_path / "two.mat", {"bow": X, "lda": X})
    with pytest.raises(BadInput, match=r"two.mat has no array two, but bow, lda; save it under that name"):
        read_arrays(tmp_path / "two", ["two"], "some")


def hdf5(path):
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n" + bytes(100))


def cut(path):
    savemat(path, {"x": X}, do_compression=True)
    path.write_bytes(path.read_bytes()[:-40])


def pickled(path):
    np.savez(path.with_suffix(".npz"), x=np.array([{"a": 1}], dtype=object))


BAD = {
    "there is no x.mat or .npz or .npy in .*prepare some --check lists the files": lambda path: None,
    "x.mat is a MATLAB file of version 7.3, which is HDF5: save it again in MATLAB with -v7, or write x to x.npz": hdf5,
    "x.mat cannot be read .*: it is cut short, damaged, too old or holds Python objects; copy it again, save": cut,
    "x.npz cannot be read .Object arrays cannot be loaded when allow_pickle=False.*holds Python objects": pickled,
    "x.mat is a Git LFS pointer, not the file itself: run git lfs pull": lambda path: path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n"
    ),
    "x.mat cannot be read .it is of version 4": lambda path: savemat(path, {"x": X}, format="4"),
    "x.mat cannot be read": lambda path: path.write_bytes(b""),
    "x.mat cannot be read .Unknown mat file type": lambda path: path.write_text("no such file " * 50),
    "x.mat .x. is of MATLAB's type cell; save it as a matrix of real numbers": lambda path: savemat(
        path, {"x": np.array([[1, "a"], [np.zeros(3), 2]], dtype=object)}
    ),
    "x.mat .x. is of MATLAB's type struct": lambda path: savemat(path, {"x": {"a": X, "b": 1}}),
    "x.mat .x. is of MATLAB's type char": lambda path: savemat(path, {"x": np.array(["ab", "cd"])}),
    "x.mat .x. holds complex128": lambda path: savemat(path, {"x": X * 1j}),
    "x.mat .x. has the shape .7, 3, 1.; features have the shape .pairs, dim.": lambda path: savemat(
        path, {"x": np.zeros((7, 3, 1)) + X[:, :, None]}
    ),
    "x.mat .x.: 1 of 7 rows have a value that is not a finite float32, the first is row 4": lambda path: savemat(
        path, {"x": np.where(np.arange(7)[:, None] == 4, np.nan, X)}
    ),
    "x.mat .x.: 7 of 7 rows have a value that is not a finite float32": lambda path: savemat(path, {"x": X + 1e60}),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_read_is_said_in_one_sentence(tmp_path, message):
    BAD[message](tmp_path / "x.mat")
    with pytest.raises(BadInput, match=message) as error:
        read_arrays(tmp_path / "x", ["x"], "some")["x"].features()
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@settings(deadline=None, max_examples=120, derandomize=True)
@given(st.sampled_from([*WRITERS]), st.floats(0, 1), st.binary(max_size=4))
def test_damaged_files_never_raise_anything_else(tmp_path_factory, kind, where, noise):
    folder = Path(tmp_path_factory.mktemp("damaged"))
    WRITERS[kind](folder / "x.mat", {"a": np.arange(9.0), "x": X})
    (path,) = folder.iterdir()
    data = path.read_bytes()
    place = int(where * len(data))
    path.write_bytes(data[:place] + (noise + data[place + len(noise) :] if noise else b""))
    try:
        read_arrays(folder / "x", ["x", "a"], "some")
    except BadInput as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("place", [176, 304])
def test_an_unknown_type_does_not_end_the_process(tmp_path, place):
    savemat(tmp_path / "x.mat", {"a": np.arange(9.0), "x": X})
    data = (tmp_path / "x.mat").read_bytes()
    assert data[place] == 9
    (tmp_path / "x.mat").write_bytes(data[:place] + b"\x36" + data[place + 1 :])
    with pytest.raises(BadInput, match=rf"cannot be read .there is an element of the unknown type 54 at byte {place}"):
        read_arrays(tmp_path / "x", ["x", "a"], "some")


def integers(values):
    return FileArray(Path("lab.mat"), "lab", np.array(values)).integers()


def test_categories_are_numbers_or_rows_of_zeros_and_ones():
    assert integers([[3], [1], [2]]).tolist() == integers([3.0, 1.0, 2.0]).tolist() == [3, 1, 2]
    assert integers([[3, 1, 2]]).tolist() == [3, 1, 2]
    assert integers([[True, False], [False, False]]).tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    "values",
    [[1.5, 2], [np.nan, 1], [-1, 2], [np.inf, 1], [1e12, 1], [[1, 2], [0, 1]], [[[1]], [[2]]], np.zeros((0, 1))],
)
def test_other_categories_are_refused(values):
    with pytest.raises(BadInput, match=r"lab.mat .lab. holds .*expected a whole number from 0 for each pair, or rows"):
        integers(values)


def test_shapes_must_agree():
    images, texts = FileArray(Path("a.mat"), "I", np.zeros((5, 3))), FileArray(Path("b.mat"), "T", np.zeros((4, 2)))
    with pytest.raises(BadInput, match=r"a.mat .I. has 5 rows, but T has 4; row k of each is of pair k"):
        check_rows(images, {"T": texts.values})
    with pytest.raises(BadInput, match=r"has 5 rows, but T has 3; are its rows and columns exchanged"):
        check_rows(images, {"T": images.values.T})
    with pytest.raises(BadInput, match=r"b.mat .T. has 2 columns, but a.mat .I. has 3; give features of one kind"):
        stacked([images, texts])
