"""Collections: whatever is inconsistent is refused with one sentence, and lists become arrays."""

from pathlib import Path

import numpy as np
import pytest

from cran_bench.dataset import Collection, FolderImages
from cran_bench.errors import BadInput

NAMES = [f"{k}.png" for k in range(9)]
CAPTIONS = [f"caption {k}" for k in range(18)]
OWNERS = np.repeat(np.arange(9), 2)
SPLITS = {"train": [0, 1, 2, 3, 8], "val": [4, 5], "test": [6, 7]}
INTEGERS = "give a one-dimensional array of integers, rows of images"


def collection(names=NAMES, captions=CAPTIONS, image_of=OWNERS, splits=SPLITS, **extras):
    return Collection("nine", FolderImages(Path("nowhere"), names), captions, image_of, splits, **extras)


def test_lists_become_arrays():
    one = collection(image_of=OWNERS.tolist(), twins=list(range(9)), labels=[[0, 1]] * 9)
    assert one.image_of.dtype == one.splits["val"].dtype == one.twins.dtype == np.int64
    assert one.labels.shape == (9, 2) and one.captions_of(one.splits["val"])[0] == CAPTIONS[8:12]
    assert collection().split_sha() == one.split_sha() == one.without([]).split_sha()


def test_identical_images_and_captions_are_counted():
    different = [str(row) for row in range(9)]
    assert collection().repeated(different) == ""
    # the digests of rows 0 and 1 (train), and of 2 (train), 6 and 7 (test); caption 0 in train, val and test
    digests = ["a", "a", "b", "3", "4", "5", "b", "b", "8"]
    captions = [
        "A  Dog. ",
        *CAPTIONS[1:8],
        "a dog.",
        "caption  8",
        "caption 8",
        "B",
        *["\ta DOG.\n", "b"],
        *CAPTIONS[14:],
    ]
    assert collection(captions=captions).repeated(digests) == (
        "1 of 4 test captions also stand in train; 3 captions and 2 images occur more than once, "
        "2 and 1 of them across splits"
    )
    outside = SPLITS | {"train": [1, 2, 3]}
    assert collection(splits=outside).repeated(["a", "a", *different[2:]]) == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"splits": SPLITS | {"test": [6, -1]}}, "the test split has the row -1; the rows of the 9 images are 0 to 8"),
        ({"splits": SPLITS | {"test": [6, 9]}}, "the test split has the row 9; the rows of the 9 images are 0 to 8"),
        ({"splits": SPLITS | {"test": [6.0, 7.0]}}, f"the test split is float64 of shape (2,); {INTEGERS}"),
        ({"splits": SPLITS | {"test": np.arange(9) > 5}}, f"the test split is bool of shape (9,); {INTEGERS}"),
        ({"splits": SPLITS | {"test": []}}, "the test split is empty; a dataset needs test images"),
        ({"splits": SPLITS | {"test": None}}, "the test split is empty; a dataset needs test images"),
        ({"splits": SPLITS | {"test": [6, 5]}}, "image 5.png is in val and in test; splits must not overlap"),
        ({"splits": SPLITS | {"test": [6, 6]}}, "image 6.png is twice in test; splits must not overlap"),
        ({"splits": SPLITS | {"dev": [7]}}, "there is a split 'dev'; the splits are train, val and test"),
        ({"captions": CAPTIONS[1:]}, "image_of has 18 entries for 17 captions; give the row of each caption's image"),
        ({"image_of": OWNERS[1:]}, "image_of has 17 entries for 18 captions; give the row of each caption's image"),
        ({"image_of": OWNERS * 1.0}, f"image_of is float64 of shape (18,); {INTEGERS}"),
        ({"image_of": OWNERS[:, None]}, f"image_of is int64 of shape (18, 1); {INTEGERS}"),
        ({"image_of": OWNERS.astype(str).tolist()}, f"image_of is str32 of shape (18,); {INTEGERS}"),
        ({"image_of": OWNERS + 1}, "image_of has the row 9; the rows of the 9 images are 0 to 8"),
        ({"image_of": OWNERS[::-1]}, "image_of must be in non-decreasing order; sort the captions by image"),
        (
            {"captions": ["a", " ", *CAPTIONS[2:]]},
            "caption 1 of image 0.png is ' '; give a non-empty string (rows count from 0)",
        ),
        (
            {"captions": [*CAPTIONS[:17], ""]},
            "caption 17 of image 8.png is ''; give a non-empty string (rows count from 0)",
        ),
        (
            {"captions": [*CAPTIONS[:17], None]},
            "caption 17 of image 8.png is None; give a non-empty string (rows count from 0)",
        ),
        (
            {"captions": ["two\nlines", "\ud800", *CAPTIONS[2:]]},
            "caption 1 of image 0.png contains an unpaired surrogate, \\ud800; rewrite it as valid Unicode",
        ),
        ({"names": [*NAMES[:8], 8]}, "image id 8 is 8; give a non-empty string (rows count from 0)"),
        ({"names": [*NAMES[:8], "2.png"]}, "images 2 and 8 have the same id, 2.png; ids must be unique paths"),
        (
            {"names": [*NAMES[:8], "sub/.././/2.png"]},
            "images 2 and 8 have the same id, 2.png and sub/.././/2.png; ids must be unique paths",
        ),
        ({"twins": np.arange(8)}, "twins has 8 rows for 9 images; give one per image, or None"),
        ({"twins": np.arange(9) - 1}, "twins has the row -1; the rows of the 9 images are 0 to 8"),
        ({"twins": np.arange(9) + 1}, "twins has the row 9; the rows of the 9 images are 0 to 8"),
        ({"boxes": np.zeros((8, 5, 4))}, "boxes has 8 rows for 9 images; give one per image, or None"),
        ({"labels": np.zeros((10, 3))}, "labels has 10 rows for 9 images; give one per image, or None"),
    ],
)
def test_what_is_inconsistent_is_refused(given, said):
    with pytest.raises(BadInput) as refusal:
        collection(**given)
    assert str(refusal.value) == f"nine: {said}"
