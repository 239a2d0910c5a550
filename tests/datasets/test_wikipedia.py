"""The Wikipedia data: the owners' files in their layout, and the real data, with the figures that its users know."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from cran_bench.datasets.wikipedia import CATEGORIES, LISTS
from cran_bench.errors import BadInput
from cran_bench.frontend.feature_files import DataImages
from cran_bench.needs import missing
from cran_bench.registry import DATASETS

REAL = Path(os.environ.get("CRAN_BENCH_DATA", "")) / "wikipedia"
real = pytest.mark.skipif(
    not os.environ.get("CRAN_BENCH_DATA") or not list(REAL.glob("*.npz")),
    reason="CRAN_BENCH_DATA does not name a folder with the real data of Wikipedia",
)


def load(data, spec="wikipedia"):
    return DATASETS.configure(spec).build().load(data)


@pytest.fixture
def owners(tmp_path):
    """``raw_features.mat`` and the lists as in the authors' wikipedia_dataset.zip, with 60 and 20 pairs."""
    home = tmp_path / "wikipedia_dataset"
    home.mkdir()
    random = np.random.default_rng(0)
    arrays = {
        f"{kind}_{part}": random.dirichlet(np.ones(dim), size=count)
        for kind, dim in (("I", 128), ("T", 10))
        for part, count in (("tr", 60), ("te", 20))
    }
    savemat(home / "raw_features.mat", arrays)
    for name, first, count in zip(LISTS, (0, 60), (60, 20), strict=True):
        lines = [f"{k:032x}-{k % 9}\t{k + 500:032x}\t{k % 10 + 1}" for k in range(first, first + count)]
        (home / name).write_text("\n".join(lines) + "\n")
    return home, arrays


def test_the_authors_files(owners, tmp_path):
    home, arrays = owners
    data = load(tmp_path)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 51, "val": 9, "test": 20}
    assert (data.metric, data.refit, data.has_words) == ("map", True, False)
    assert data.label_names == CATEGORIES and data.labels[:12].argmax(axis=1).tolist() == [*range(10), 0, 1]
    assert data.images.ids[0] == f"{500:032x}" and data.captions[61] == f"{61:032x}-{61 % 9}"
    images, texts = (np.concatenate([arrays[f"{kind}_tr"], arrays[f"{kind}_te"]]) for kind in "IT")
    np.testing.assert_array_equal(DataImages.of(data).features(data.images.ids), images.astype(np.float32))
    np.testing.assert_array_equal(data.text_features, texts.astype(np.float32))
    (home / "categories.list").write_text("\n".join(f"name {k}" for k in range(10)))
    assert load(tmp_path).label_names[9] == "name 9"
    assert not missing(DATASETS.configure("wikipedia").build().needs(tmp_path))
    home.rename(tmp_path / "wikipedia")
    assert load(tmp_path).split_sha() == data.split_sha()


def test_texts_that_are_equal_are_found_by_their_features(owners, tmp_path):
    home, arrays = owners
    arrays["T_te"][3] = arrays["T_tr"][[5, 7]] = arrays["T_tr"][8]
    savemat(home / "raw_features.mat", arrays)
    data = load(tmp_path)
    said = data.repeated(data.images.digest(row) for row in range(80))
    assert said.startswith("1 of 20 test texts also stand in train; 1 texts and 0 images occur more than once, 1 and 0")


BAD = {
    "there is no testset_txt_img_cat.list in .*copy it there": lambda home: (home / LISTS[1]).unlink(),
    "there is no raw_features.mat or .npz in .*prepare wikipedia": lambda home: (home / "raw_features.mat").unlink(),
    "has 60 rows, but trainset_txt_img_cat.list has 59; row k": lambda home: (home / LISTS[0]).write_text(
        (home / LISTS[0]).read_text().split("\n", 1)[1]
    ),
    "trainset_txt_img_cat.list, line 2: expected text id, image id and the number of the category": lambda home: (
        home / LISTS[0]
    ).write_text((home / LISTS[0]).read_text().replace("\t2\n", "\n", 1)),
    "pair 4 .from 0. is of category 11, but the categories are 1 to 10": lambda home: (home / LISTS[0]).write_text(
        (home / LISTS[0]).read_text().replace("\t5\n", "\t11\n", 1)
    ),
    "raw_features.mat cannot be read .*cut short": lambda home: (home / "raw_features.mat").write_bytes(
        (home / "raw_features.mat").read_bytes()[:5000]
    ),
    "raw_features.mat has no array T_te, but I_te, I_tr, T_tr; save it under that name": lambda home: savemat(
        home / "raw_features.mat", {"I_tr": np.ones((60, 3)), "I_te": np.ones((20, 3)), "T_tr": np.ones((60, 3))}
    ),
    "have the same id": lambda home: (home / LISTS[0]).write_text(
        (home / LISTS[0]).read_text().replace(f"{501:032x}", f"{500:032x}")
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_files(owners, tmp_path, message):
    BAD[message](owners[0])
    with pytest.raises(BadInput, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_the_split_of_pku_needs_its_order(owners, tmp_path, command):
    with pytest.raises(BadInput, match=r"no wikipedia_sift128_lda10.npz in .*which split=pku needs, .*split=ucsd"):
        load(tmp_path, "wikipedia[split=pku]")
    with pytest.raises(BadInput, match=r"val=0.2 is of split=ucsd; split=pku has 231 validation pairs"):
        DATASETS.configure("wikipedia[split=pku,val=0.2]").build()
    options = ("--check", "--data", tmp_path, "--cache", tmp_path / "cache")
    assert command("prepare", "wikipedia", *options).code == 0
    said = command("prepare", "wikipedia[split=pku]", *options)
    assert said.code and "missing   wikipedia_sift128_lda10.npz" in said.out


def packed(**changes):
    """A file like the real one, with 30 training and 10 test pairs."""
    random = np.random.default_rng(0)
    return {
        **{"image": random.random((40, 6)), "text": random.random((40, 3)), "category": np.arange(40) % 2},
        **{"categories": np.array(["art", "war"]), "train": np.arange(30), "test": np.arange(30, 40)},
        **{f"{kind}_id": np.array([f"{kind}{k}" for k in range(40)]) for kind in ("image", "text")},
        **{"pku_order": np.arange(10)[::-1]},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pku_order": np.arange(9)}, r"\(pku_order\) does not order the 10 test pairs; copy the file again"),
        (
            {"image_id": np.arange(40)},
            r"\(image_id\) holds int64 of shape .40,.; save it as a one-dim",
        ),
        ({"category": np.arange(40)}, r"\(category\): pair 2 .from 0. is of category 2, but the categories are 0 to 1"),
        ({"text": np.full((40, 3), np.nan)}, r"\(text\): 40 of 40 rows have a value that is not a finite float32"),
        ({"train": np.arange(35)}, "image image30 is in train and in test"),
        ({"test": np.arange(70, 80)}, r"\(test\) names row 79, but there are 40 pairs, rows 0 to 39"),
        ({"text_id": np.array([{}] * 40)}, "cannot be read .Object arrays"),
        (
            {"image_id": np.array([f"../{k}" for k in range(40)])},
            r"the image id '../0' has other characters",
        ),
    ],
)
def test_a_bad_npz(tmp_path, changes, message):
    np.savez(tmp_path / "wikipedia_sift128_lda10.npz", **packed())
    assert load(tmp_path).label_names == ["art", "war"]
    np.savez(tmp_path / "wikipedia_sift128_lda10.npz", **packed(**changes))
    with pytest.raises(BadInput, match=message):
        load(tmp_path)


@real
def test_the_real_data_has_the_known_sizes_and_classes():
    data = load(REAL.parent)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 1847, "val": 326, "test": 693}
    assert data.images.shape == (128,) and data.text_features.shape == (2866, 10) and data.refit
    assert data.label_names == CATEGORIES and (data.labels.sum(axis=1) == 1).all()
    counts = {split: data.labels[rows].sum(axis=0, dtype=int) for split, rows in data.splits.items()}
    assert counts["test"].tolist() == [34, 88, 96, 85, 65, 58, 51, 41, 71, 104]
    train = counts["train"] + counts["val"]
    assert train.tolist() == [138, 272, 244, 248, 202, 178, 186, 144, 214, 347]
    np.testing.assert_allclose(counts["val"], 326 * train / 2173, atol=1)
    whole = np.sort(np.concatenate([data.splits["train"], data.splits["val"]]))
    assert whole.tolist() == [*range(2173)] and data.splits["test"].tolist() == [*range(2173, 2866)]
    assert len({*data.images.ids}) == len({*data.captions}) == 2866


@real
def test_the_split_of_pku():
    data = load(REAL.parent, "wikipedia[split=pku]")
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 2173, "val": 231, "test": 462}
    assert sorted([*data.splits["val"], *data.splits["test"]]) == [*range(2173, 2866)] and not data.refit
    order = np.load(REAL / "wikipedia_sift128_lda10.npz")["pku_order"]
    assert data.splits["val"][:2].tolist() == (2173 + order[:2]).tolist()
    assert data.labels[data.splits["test"]].sum(axis=0).tolist() == [25, 60, 63, 58, 40, 39, 34, 29, 43, 71]


def whitened(X, train, cut):
    Z = (X - X[train].mean(axis=0)) / X[train].std(axis=0)
    _, singular, V = np.linalg.svd(Z[train], full_matrices=False)
    kept = singular > cut * singular[0]
    return Z @ (V[kept].T / singular[kept])


def mean_ap(scores, right):
    ranked = np.take_along_axis(right, np.argsort(-scores, axis=1), axis=1)
    precision = np.cumsum(ranked, axis=1) / np.arange(1, right.shape[1] + 1)
    return ((ranked * precision).sum(axis=1) / ranked.sum(axis=1)).mean()


@real
def test_canonical_correlations_and_correlation_matching_as_published():
    """CM, five components, by numpy: .2449 / .1929 on the 693 pairs, .2529 / .2008 on PKU's 462.

    Visual words and topics sum to one, so that their last direction is rounding in float32, 2e-8 of the first.  The
    known figures are of texts without that direction and of images with it; without it the first correlation is .558.
    """
    data, pku = load(REAL.parent), load(REAL.parent, "wikipedia[split=pku]")
    train = np.concatenate([data.splits["train"], data.splits["val"]])
    images = DataImages.of(data).features(data.images.ids).astype(float)
    X, Y = whitened(images, train, 1e-8), whitened(data.text_features.astype(float), train, 1e-6)
    U, correlations, V = np.linalg.svd(X[train].T @ Y[train], full_matrices=False)
    np.testing.assert_allclose(correlations, [0.560, 0.448, 0.437, 0.372, 0.347, 0.330, 0.295, 0.280, 0.248], atol=6e-4)
    A, B = ((Z / np.linalg.norm(Z, axis=1, keepdims=True)) for Z in (X @ U[:, :5], Y @ V[:5].T))
    for test, expected in ((data.splits["test"], (0.2449, 0.1929)), (pku.splits["test"], (0.2529, 0.2008))):
        scores, right = A[test] @ B[test].T, data.labels[test] @ data.labels[test].T > 0
        found = mean_ap(scores, right), mean_ap(scores.T, right)
        np.testing.assert_allclose(found, expected, atol=2e-4)
