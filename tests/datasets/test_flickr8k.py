"""The Flickr8k loader on generated folders, and on the real one where CRAN_BENCH_DATA names it."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from cran_bench.errors import BadInput
from cran_bench.registry import DATASETS

SIZES = {"train": 12, "dev": 3, "test": 3}


def names(owners):
    return [f"{owners}{k:02}.jpg" for k in reversed(range(SIZES[owners]))]


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "flickr8k"
    (home / "images").mkdir(parents=True)
    lines = ["stray.jpg.1#0\tpeople waiting"]
    for owners in ("test", "train", "dev"):
        (home / f"Flickr_8k.{owners}Images.txt").write_text("\n".join(names(owners)) + "\n")
        for name in names(owners):
            (home / "images" / name).touch()
            lines += [f"{name}#{k}\t {name} caption {k} . " for k in (1, 0, 2)]
    (home / "images" / "stray.jpg").touch()
    (home / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    return home


def load(folder: Path, spec="flickr8k"):
    return DATASETS.configure(spec).build().load(folder.parent)


def edit(path: Path, old, new):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def test_images_come_split_by_split_in_list_order_and_captions_by_number(folder):
    data = load(folder)
    assert list(data.images.ids) == names("train") + names("dev") + names("test")
    assert data.name == "flickr8k"
    assert [list(data.splits[s]) for s in ("train", "val", "test")] == [
        list(range(12)),
        list(range(12, 15)),
        list(range(15, 18)),
    ]
    assert data.captions[:3] == [f"train11.jpg caption {k} ." for k in range(3)]
    assert np.array_equal(data.image_of, np.repeat(np.arange(18), 3))
    assert data.remarks[0] == "1 captions of images outside the splits are ignored"


def test_owners_layout_and_the_folder_itself_give_the_same(folder):
    before = load(folder).split_sha()
    (folder / "Flickr8k_text").mkdir()
    for text in folder.glob("*.txt"):
        text.rename(folder / "Flickr8k_text" / text.name)
    (folder / "images").rename(folder / "Flicker8k_Dataset")
    assert load(folder).split_sha() == before
    folder.rename(folder.with_name("elsewhere"))
    assert load(folder.with_name("elsewhere") / "any").split_sha() == before


def test_photographs_in_common_with_flickr30k_are_noted_and_counted(folder):
    known, advice = "the photographs of Flickr8k are part of Flickr30K", "; do not train on one and test on the other"
    assert load(folder).remarks[1:] == [known + advice]
    other = folder.with_name("flickr30k")
    other.mkdir()
    (other / "train.txt").write_text("test00\ntest02\n77\ndev01\n")
    assert load(folder).remarks[1:] == [known + advice]  # its other lists are missing
    (other / "test.txt").write_text("train03\n78\n")
    for name, content in (("*.txt", None), ("dataset_flickr30k.json", {"test00": "restval", "train03": "test"})):
        if content:
            images = [{"filename": f"{k}.jpg", "split": split} for k, split in content.items()]
            (other / name).write_text(json.dumps({"dataset": "flickr30k", "images": images}))
        first, second, all_of = (1, 1, 1) if content else (2, 1, 2)
        assert load(folder).remarks[1:] == [
            f"{known}: {first} of 3 test images are in the training split of flickr30k, and {second} of its {all_of} "
            f"test images in this one (matched by the numbers of the photographs in {name}){advice}"
        ]
    (other / name).write_text("{")
    assert load(folder).remarks[1:] == [known + advice]


def karpathy(folder):
    splits = {"train": "train", "dev": "val", "test": "test"}
    images = [
        {"filename": name, "split": splits[owners], "sentences": [{"raw": f"{name} caption {k} ."} for k in range(3)]}
        for owners in SIZES
        for name in names(owners)
    ]
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"dataset": "flickr8k", "images": images}))


def test_karpathys_file_alone_gives_the_same(folder, read_what_they_need):
    before = load(folder).split_sha()
    karpathy(folder)
    assert load(folder).split_sha() == before
    for text in folder.glob("*.txt"):
        text.unlink()
    assert load(folder).split_sha() == before
    (folder / "images").rename(folder / "Images")
    read_what_they_need(DATASETS.configure("flickr8k").build(), folder)


def test_kaggles_captions_replace_the_authors(folder):
    before = load(folder)
    lines = [f'{name},"{name} caption {k} ."\n' for owners in SIZES for name in names(owners) for k in range(3)]
    (folder / "captions.txt").write_text("image,caption\nstray.jpg,people\n" + "".join(lines))
    (folder / TOKENS).unlink()
    assert load(folder).split_sha() == before.split_sha() and load(folder).remarks == before.remarks
    for text in folder.glob("Flickr_8k*"):
        text.unlink()
    with pytest.raises(BadInput, match=r"there is no Flickr_8k\.trainImages.* read the folder as 'folder'"):
        load(folder)


def test_windows_line_ends_and_byte_order_mark_change_nothing(folder):
    before = load(folder).split_sha()
    for text in folder.glob("*.txt"):
        text.write_bytes(b"\xef\xbb\xbf" + text.read_bytes().replace(b"\n", b"\r\n"))
    assert load(folder).split_sha() == before


def test_other_spellings_of_a_path_are_the_same_image(folder):
    before = load(folder).split_sha()
    edit(folder / TRAIN, b"train10.jpg", b"./train10.jpg")
    edit(folder / TOKENS, b"train11.jpg#0", b"any/..//train11.jpg#0")
    assert load(folder).split_sha() == before


def test_limit_keeps_proportions_and_the_first_of_each_list(folder):
    data = load(folder, "flickr8k[limit=9]")
    assert data.name == "flickr8k"
    assert list(data.images.ids) == names("train")[:6] + names("dev")[:2] + names("test")[:2]
    assert len(data.captions) == 30
    assert data.remarks == load(folder).remarks
    assert DATASETS.configure("flickr8k:quick").options == {"limit": 1000}
    with pytest.raises(BadInput, match="limit must be at least 6"):
        DATASETS.configure("flickr8k[limit=5]")


def test_defaults_need_no_download(folder):
    assert DATASETS.configure("flickr8k").build().defaults() == {"backbone": "pixels", "regions": "grid"}


TOKENS, TRAIN, DEV = "Flickr8k.token.txt", "Flickr_8k.trainImages.txt", "Flickr_8k.devImages.txt"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (TOKENS, b"caption 0", b"caf\xe9", r"token\.txt, line 3: not UTF-8"),
        (
            TOKENS,
            b"#0\t test02",
            b"#0 test02",
            r"line 3: expected name\.jpg#k, a tab and a caption, got 'test02\.jpg#0 ",
        ),
        (TOKENS, b"test02.jpg#0", b"test02.jpg", r"line 3: 'test02\.jpg' should end in #k"),
        (TOKENS, b"test02.jpg#0", b"test02.jpg#x", r"line 3: 'test02\.jpg#x' should end in #k"),
        (TOKENS, b" test02.jpg caption 0 .", b"  ", r"line 3: the caption of test02\.jpg#0 is empty"),
        (TOKENS, b"test02.jpg#2", b"test02.jpg#0", r"line 4: the key test02\.jpg#0 is repeated"),
        (
            TRAIN,
            b"train11.jpg",
            b"gone.jpg",
            r"1 images of .*trainImages\.txt are not in .*images, the first is gone\.jpg",
        ),
        (TRAIN, b"train10.jpg", b"train11.jpg", r"trainImages\.txt, line 2: train11\.jpg is already on line 1"),
        (TRAIN, b"train10.jpg", b".//train11.jpg", r"trainImages\.txt, line 2: train11\.jpg is already on line 1"),
        (
            DEV,
            b"dev02.jpg",
            b"./train11.jpg",
            r"train11\.jpg is in both the train and the val split \(.*trainImages\.txt and .*devImages\.txt\)",
        ),
        (DEV, b"dev02.jpg", b"dev02.jpg\ndev\xff.jpg", r"devImages\.txt, line 2: not UTF-8"),
    ],
)
def test_a_wrong_line_is_named(folder, file, old, new, message):
    edit(folder / file, old, new)
    with pytest.raises(BadInput, match=message):
        load(folder)


@pytest.mark.parametrize("file", [TOKENS, TRAIN, DEV, "Flickr_8k.testImages.txt"])
def test_a_file_that_is_missing_or_empty_is_named(folder, file):
    (folder / file).write_text("\n \n")
    with pytest.raises(BadInput, match=rf"{file} is empty"):
        load(folder)
    (folder / file).unlink()
    with pytest.raises(BadInput, match=rf"there is no {file} in .*unpack"):
        load(folder)


def test_missing_photographs_are_told(folder):
    (folder / "images").rename(folder / "pictures")
    with pytest.raises(BadInput, match=r"does not contain Flickr8k \(no folder images or Flicker8k_Dataset"):
        load(folder)


def test_an_image_without_captions_is_told(folder):
    lines = (folder / TOKENS).read_text().splitlines()
    (folder / TOKENS).write_text("\n".join(line for line in lines if not line.startswith("dev01")))
    with pytest.raises(BadInput, match=r"1 images of the val split have no caption, the first is dev01\.jpg"):
        load(folder)


def test_rules_do_not_apply_to_images_outside_the_splits(folder):
    with (folder / TOKENS).open("a") as file:
        file.write("stray.jpg\t\nstray.jpg#0\ta\nstray.jpg#0\tb\n")
    assert load(folder).remarks[0] == "4 captions of images outside the splits are ignored"


@pytest.mark.real
def test_the_real_data():
    if "CRAN_BENCH_DATA" not in os.environ:
        pytest.skip("CRAN_BENCH_DATA does not name the folder of the real data")
    start = time.perf_counter()
    data = DATASETS.configure("flickr8k").build().load(Path(os.environ["CRAN_BENCH_DATA"]))
    assert time.perf_counter() - start < 2
    assert [len(data.splits[s]) for s in ("train", "val", "test")] == [6000, 1000, 1000]
    assert len(data.captions) == 40000
    assert data.remarks[0] == "460 captions of images outside the splits are ignored"
    assert data.captions_of(data.splits["test"][:1])[0][0] == "The dogs are in the snow in front of a fence ."
    assert data.images.read(0).size == (224, 224)
    assert data.repeated(map(str, range(8000))).startswith("51 of 5,000 test captions also stand in train; ")
