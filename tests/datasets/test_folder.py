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


PLAIN = [(f"pictures/{k}.png", f"a {k}", ("train", "val", "test", "test")[k % 4]) for k in range(20)]


def table(delimiter=",", header=("image", "caption", "split"), before=""):
    return before + "".join(delimiter.join(line) + "\n" for line in (header, *PLAIN))


JSON_LINES = "".join(json.dumps({"file_name": i, "text": c, "split": s}) + "\n" for i, c, s in PLAIN)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.csv", table(";").encode()),
        ("captions.csv", table(";", before="sep=;\r\n").encode()),
        ("captions.csv", table("\t").encode("utf-16")),
        ("captions.csv", table(";").encode("utf-8-sig").replace(b"\n", b"\r")),
        ("captions.csv", (table(";") + ";;\r\n;;\r\n").encode()),
        ("captions.tsv", table("\t").encode()),
        ("captions.txt", table(header=("Image", " Caption", "split")).encode()),
        ("metadata.csv", table(header=("file_name", "text", "split")).encode()),
        ("metadata.jsonl", JSON_LINES.encode()),
    ],
)
def test_spreadsheets_kaggle_and_hugging_face(home, name, content):
    (home / name).write_bytes(content)
    data = load(home)
    assert dict(zip(data.images.ids, data.captions, strict=True)) == {image: text for image, text, _ in PLAIN}
    assert {split: len(r) for split, r in data.splits.items()} == {"train": 5, "val": 5, "test": 10}


def test_hugging_faces_folders_of_splits(home):
    for split, numbers in (("train", range(4)), ("validation", range(2)), ("test", range(3))):
        (home / split).mkdir()
        for k in numbers:
            (home / split / f"{k}.png").touch()
        content = "".join(json.dumps({"file_name": f"{k}.png", "text": f"{split} {k}"}) + "\n" for k in numbers)
        (home / split / "metadata.jsonl").write_text(content)
    data = load(home)
    assert data.images.ids[:5] == [*(f"train/{k}.png" for k in range(4)), "validation/0.png"]
    assert [len(rows) for rows in data.splits.values()] == [4, 2, 3]
    (home / "test" / "0.png").unlink()
    with pytest.raises(BadInput, match=r"1 images of .*/\*/metadata\.jsonl are not in .*, the first is test/0\.png"):
        load(home)


def test_kaggles_folder_of_images(home):
    (home / "pictures").rename(home / "Images")
    (home / "captions.txt").write_text("image,caption\n" + "".join(f"{k}.png,a {k}\n" for k in range(20)))
    assert load(home).images.folder == home / "Images"


def test_karpathys_json(home):
    images = [
        {"filename": i, "filepath": None, "split": s, "sentences": [{"raw": c}, {"raw": "b"}]} for i, c, s in PLAIN
    ]
    (home / "dataset_mine.json").write_text(json.dumps({"dataset": "mine", "images": images}))
    data = load(home, "folder[file=dataset_mine.json]")
    assert data.captions[:4] == ["a 0", "b", "a 4", "b"]
    images[0]["sentences"] = [{"raw": None}]  # never the caption "None"
    (home / "dataset_mine.json").write_text(json.dumps({"dataset": "mine", "images": images}))
    with pytest.raises(BadInput, match="image 0 has no 'filename' or 'split', or a sentence no 'raw'"):
        load(home, "folder[file=dataset_mine.json]")


def test_numbered_captions_belong_to_one_image_and_may_be_left_out(home):
    lines = [f"pictures/{k}.png,test,second {k},,first {k}" for k in range(3)]
    (home / "captions.csv").write_text("\n".join(["image,split,caption_2,caption 3,Caption1", *lines]))
    assert load(home).captions[:3] == ["first 0", "second 0", "first 1"]


def test_whether_the_order_is_that_of_the_list_is_told(home):
    lines = rows(split=lambda k: ("train", "val", "test")[k // 7])
    by_image = sorted(lines, key=lambda line: int(line[0].split("/")[1].removesuffix(".png")))
    by_split = sorted(rows(), key=lambda line: ("train", "dev", "test").index(line[2]))
    whole = [(image, caption, "") for image, caption, _ in by_image]
    for listed, is_kept in (
        (by_image, True),
        (lines, False),
        (by_split, False),
        (whole, False),
        (by_image[::-1], False),
    ):
        csv(home, listed)
        assert load(home).as_listed == is_kept
    csv(home, by_image)
    assert load(home, "folder[limit=6]").as_listed


def test_a_test_split_is_enough(home):
    csv(home, rows(split=lambda k: "test"))
    data = load(home)
    assert {split: len(r) for split, r in data.splits.items()} == {"train": 0, "val": 0, "test": 20}


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\0", "\x1b", "\x0c"])
def test_marks_that_look_like_line_ends_belong_to_the_caption(home, mark):
    text = f"one{mark}two"
    (home / "captions.csv").write_text(f'image,caption,split\npictures/1.png,"{text}",test\n')
    assert load(home).captions == [text]
    (home / "captions.csv").unlink()
    line = {"image": "pictures/1.png", "caption": text, "split": "test"}
    (home / "captions.jsonl").write_text(json.dumps(line, ensure_ascii=False))
    assert load(home).captions == [text]


def test_a_caption_may_be_long(home):
    long = "long " * 40_000
    (home / "captions.csv").write_text(f"image,caption,split\npictures/1.png,{long},test\n")
    assert load(home).captions == [long.strip()]


def test_a_name_is_part_of_the_label():
    assert DATASETS.configure("folder[name=my-dogs_2.é]").label == "folder[name=my-dogs_2.é]"
    # "a b" and "a-b" would have one path, and so share a record
    for name in ("a/b", "a\nb", "x" * 41, "..\\a", "a b", "a;b", "a--b", "-a", "a\u0301"):
        with pytest.raises(BadInput, match=r"name must have at most 40 letters, digits, . and _"):
            DATASETS.configure(f"folder[name={name}]")


def test_what_is_missing_is_listed(home):
    need, *_ = DATASETS.configure("folder").build().needs(home)
    assert need.what.startswith("captions.csv, captions.tsv") and need.found is None
    csv(home, rows())
    need, *_ = DATASETS.configure("folder").build().needs(home)
    assert need.found == home / "captions.csv"


def test_without_splits_images_are_split_at_random(home):
    (home / "captions.csv").write_text("image,caption\n" + "".join(f"{i},{c[-1]}\n" for i, c, _ in rows()))
    one, other = load(home), load(home, "folder[seed=1]")
    assert [len(one.splits[s]) for s in ("train", "val", "test")] == [16, 2, 2]
    assert one.split_sha() == load(home).split_sha() != other.split_sha()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,caption\n", "line 1: 'image' is missing among picture, caption"),
        ("image,prose\n", r"line 1: 'caption' is missing among image, prose \(read as UTF-8 with commas\)"),
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
        ("image,caption,split\n", "names no image"),
        ("image;text,split\n", r"line 1: 'image' is missing among image;text, split \(read as UTF-8 with commas\)"),
        ("image,caption,caption\n", "line 1: 'caption' and 'caption' both hold the caption; keep one"),
        ("image,caption,caption1\n", "line 1: 'caption' and 'caption1' both hold the caption; keep one"),
        ("image,caption1,caption2,caption_2\n", "line 1: 'caption2' and 'caption_2' both hold the caption"),
        ("image,caption,Image\n", "line 1: 'image' and 'image' both hold the image"),
        ("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the file itself: run git lfs pull"),
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
        ('{"image": "a.png", "caption": "a", "captions": ["b"]}', "'caption' and 'captions' both hold the caption"),
        (
            '{"image": "a.png", "caption": "a", "caption": "b"}',
            "line 2: not valid JSON .the key 'caption' is there twice",
        ),
        ('{"image": "a.png", "caption": 3}', "line 2: image, captions and split must be strings"),
    ],
)
def test_a_wrong_line_of_json_is_told(home, line, message):
    (home / "captions.jsonl").write_text('{"image": "pictures/1.png", "caption": "a"}\n' + line)
    with pytest.raises(BadInput, match=message):
        load(home)


def test_missing_files_are_told(home):
    with pytest.raises(BadInput, match=r"there is no captions\.csv, captions\.tsv, .* or metadata\.csv in"):
        load(home)
    with pytest.raises(BadInput, match=r"there is no mine\.csv in"):
        load(home, "folder[file=mine.csv]")
    csv(home, rows())
    (home / "pictures" / "4.png").unlink()
    with pytest.raises(BadInput, match=r"1 images of .*captions\.csv are not in .*, the first is pictures/4\.png"):
        load(home)
    csv(home, [("/etc/passwd", "a", "train"), *rows()])
    with pytest.raises(BadInput, match=r"names the image /etc/passwd, which is outside .* or absolute; use relative"):
        load(home)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pictures/1.PNG", "there is 1.png: names are case-sensitive"),
        ("Pictures/1.png", "there is pictures: names are case-sensitive"),
        ("pictures\\1.png", "separate folders by /, as in pictures/1.png"),
        ("pictures/cafe\u0301.png", "their accents are encoded in another way .NFC, NFD.: rename one of them"),
        ("pictures/12.jpg", "there is 0012.jpg: zeros at the front are missing in the list"),
        ("pictures/1", "there is 1.png: its ending is missing in the list"),
        ("pictures/nothing.png", "add them to the folder or remove them"),
        ("nowhere/1.png", "add them to the folder or remove them"),
    ],
)
def test_a_name_that_is_nearly_right_is_told(home, name, said):
    for other in ("caf\u00e9.png", "0012.jpg"):
        (home / "pictures" / other).touch()
    csv(home, [(name, "a", "test")])
    with pytest.raises(BadInput, match=f"1 images of .*captions.csv are not in .*; .*{said}"):
        load(home)
