"""Anyone's data: CSV and JSON-lines, given and random splits, and what is wrong on which line."""

import json

import pytest

from cran_bench.errors import BadInput
from cran_bench.registry import DATASETS


@pytest.fixture
def home(tmp_path):
    (tmp_path / "pictures").mkdir()
    for k in range(20):
        (tmp_path / "pictures" / f"{k}.png").touch()
    return tmp_path


def load(home, spec="folder"):
    return DATASETS.configure(spec).build().load(home)


def rows(count=20, split=lambda k: ("train", "train", "dev", "test")[k % 4]):
    return [(f"pictures/{k}.png", f'a "{k}", and {c}', split(k)) for c in "ab" for k in range(count)]


def csv(home, lines, name="captions.csv"):
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in line) for line in lines]
    (home / name).write_text("\n".join(["image,caption,split", *quoted]) + "\n")


def test_csv_and_json_lines_say_the_same(home):
    csv(home, rows())
    one = load(home)
    assert one.captions[:2] == ['a "0", and a', 'a "0", and b']
    assert {split: len(r) for split, r in one.splits.items()} == {"train": 10, "val": 5, "test": 5}
    (home / "captions.csv").unlink()
    lines = [
        {"image": f"pictures/{k}.png", "captions": [f'a "{k}", and {c}' for c in "ab"], "split": rows()[k][2]}
        for k in range(20)
    ]
    (home / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert load(home).split_sha() == one.split_sha()


def test_other_spellings_of_a_path_are_the_same_image(home):
    csv(home, rows())
    one = load(home)
    csv(home, [(image if c.endswith("a") else image.replace("/", "/.//"), c, split) for image, c, split in rows()])
    assert load(home).split_sha() == one.split_sha()


def test_images_may_lie_elsewhere_and_the_file_have_another_name(home):
    csv(home, [(image.removeprefix("pictures/"), *rest) for image, *rest in rows()], "mine.csv")
    data = load(home, "folder[file=mine.csv,images=pictures]")
    assert data.images.ids[0] == "0.png" and data.images.folder == home / "pictures"


def test_without_splits_images_are_split_at_random(home):
    (home / "captions.csv").write_text("image,caption\n" + "".join(f"{i},{c[-1]}\n" for i, c, _ in rows()))
    one, other = load(home), load(home, "folder[seed=1]")
    assert [len(one.splits[s]) for s in ("train", "val", "test")] == [16, 2, 2]
    assert one.split_sha() == load(home).split_sha() != other.split_sha()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,caption\n", "line 1: 'image' is missing among picture, caption"),
        ("image,text\n", "line 1: 'caption' is missing among image, text"),
        ("image,caption\npictures/1.png,a, b\n", r"line 2: expected 2 columns; .* double quotes"),
        ('image,caption\npictures/1.png,"a" b"\n', "line 2: not valid CSV"),
        ("image,caption\npictures/1.png,a\n,b\n", "line 3: the image is empty"),
        ("image,caption\npictures/1.png, \n", r"line 2: pictures/1\.png has no caption"),
        ("image,caption,split\npictures/1.png,a,tests\n", "line 2: the split is 'tests'; did you mean 'test'"),
        (
            "image,caption,split\npictures/1.png,a,val\npictures/1.png,b,test\n",
            r"line 3: pictures/1\.png is in split 'test' here but in 'val' on an earlier line",
        ),
        (
            "image,caption,split\npictures/1.png,a,train\n./pictures//1.png,b,test\n",
            r"line 3: pictures/1\.png is in split 'test' here but in 'train' on an earlier line",
        ),
        (
            "image,caption,split\npictures/1.png,a,val\npictures/2.png,b,\n",
            "1 of 2 images have no split, the first is pictures/2.png",
        ),
        ("image,caption\npictures/1.png,a\n", "has 1 images, but a random split needs at least 10"),
        (" \n", "is empty"),
    ],
)
def test_a_wrong_csv_is_told(home, text, message):
    (home / "captions.csv").write_text(text)
    with pytest.raises(BadInput, match=message):
        load(home)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a.png"', "line 2: not valid JSON"),
        ("[1]", "line 2: expected an object"),
        ('{"image": "a.png"}', "line 2: 'caption' is missing among image"),
        ('{"image": "a.png", "caption": 3}', "line 2: image, captions and split must be strings"),
    ],
)
def test_a_wrong_line_of_json_is_told(home, line, message):
    (home / "captions.jsonl").write_text('{"image": "pictures/1.png", "caption": "a"}\n' + line)
    with pytest.raises(BadInput, match=message):
        load(home)


def test_missing_files_are_told(home):
    with pytest.raises(BadInput, match=r"there is no captions\.csv or captions\.jsonl in"):
        load(home)
    with pytest.raises(BadInput, match=r"there is no mine\.csv in"):
        load(home, "folder[file=mine.csv]")
    csv(home, rows())
    (home / "pictures" / "4.png").unlink()
    with pytest.raises(BadInput, match=r"1 images of .*captions\.csv are not in .*, the first is pictures/4\.png"):
        load(home)
    csv(home, [("/etc/passwd", "a", "train"), *rows()])
    with pytest.raises(BadInput, match="names the image /etc/passwd, which is outside"):
        load(home)
