"""The Flickr30K loader on generated folders in the owners' layout, under both kinds of split."""

import json

import pytest

from cran_bench.errors import BadInput
from cran_bench.registry import DATASETS

SIZES = {"train": 8, "val": 3, "test": 3}


def names(split):
    return [f"{split}{k}.jpg" for k in reversed(range(SIZES[split]))]


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "flickr30k"
    (home / "flickr30k-images").mkdir(parents=True)
    lines = ["stray.jpg#0\tnobody"]
    karpathy = []
    for split in ("test", "train", "val"):
        (home / f"{split}.txt").write_text("".join(name.removesuffix(".jpg") + "\n" for name in names(split)))
        for name in names(split):
            (home / "flickr30k-images" / name).touch()
            lines += [f"{name}#{k}\t{name} caption {k} ." for k in (1, 0)]
            karpathy.append({"filename": name, "split": split, "sentids": [0], "sentences": []})
    (home / "results_20130124.token").write_text("\n".join(lines) + "\n")
    (home / "dataset_flickr30k.json").write_text(json.dumps({"dataset": "flickr30k", "images": karpathy}))
    for kind in ("Sentences", "Annotations"):
        (home / kind).mkdir()
    size, corners = "<size><width>9</width><height>9</height></size>", "<xmin>1</xmin><ymin>1</ymin><ymax>9</ymax>"
    for k, image in enumerate(karpathy):
        stem = image["filename"].removesuffix(".jpg")
        (home / "Sentences" / f"{stem}.txt").write_text(f"[/EN#{k}1/other {stem}] caption .\n")
        thing = f"<object><name>{k}1</name><bndbox>{corners}<xmax>{1 + k % 9}</xmax></bndbox></object>"
        (home / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{size}{thing}</annotation>")
    return home


def load(folder, spec="flickr30k"):
    return DATASETS.configure(spec).build().load(folder.parent)


@pytest.mark.parametrize("spec", ["flickr30k", "flickr30k[split=entities]"])
def test_both_splits_name_the_same_images(folder, spec):
    data = load(folder, spec)
    assert data.name == "flickr30k"
    assert list(data.images.ids) == names("train") + names("val") + names("test")
    assert {split: len(rows) for split, rows in data.splits.items()} == SIZES
    assert data.captions[:2] == ["train7.jpg caption 0 .", "train7.jpg caption 1 ."]
    assert data.remarks[0] == "1 captions of images outside the splits are ignored"


def test_photographs_in_common_with_flickr8k_are_noted_and_counted(folder):
    texts = folder.with_name("flickr8k") / "Flickr8k_text"
    texts.mkdir(parents=True)
    (texts / "Flickr_8k.trainImages.txt").write_text("test0_693b08cb0e.jpg\ntrain0_1.jpg\n")
    (texts / "Flickr_8k.testImages.txt").write_text("train1_ab.jpg\ntrain2_ab.jpg\n9_ab.jpg\n")
    assert load(folder).remarks[1:] == [
        "the photographs of Flickr8k are part of Flickr30K: 1 of 3 test images are in the training split of flickr8k, "
        "and 2 of its 3 test images in this one (matched by the numbers of the photographs in "
        "Flickr8k_text/Flickr_8k.*Images.txt); do not train on one and test on the other"
    ]


def test_entities_alone_are_taken_and_said(folder):
    (folder / "dataset_flickr30k.json").unlink()
    data = load(folder)
    assert data.split_sha() == load(folder, "flickr30k[split=entities]").split_sha()
    assert data.remarks[0] == "the split is that of Flickr30K Entities, as there is no dataset_flickr30k.json"
    with pytest.raises(BadInput, match=r"there is no dataset_flickr30k\.json .*flickr30k\[split=entities\]"):
        load(folder, "flickr30k[split=karpathy]")


def test_phrases_and_boxes_are_read_on_request_and_count_in_fits(folder):
    data, plain = load(folder, "flickr30k[phrases=true]"), load(folder)
    assert plain.phrase_boxes is None and plain.extras_sha() != data.extras_sha()
    stems = [name.removesuffix(".jpg") for name in data.images.ids]
    assert [[phrase for phrase, _ in own] for own in data.phrase_boxes] == [[stem] for stem in stems]
    assert [box[2] for _, box in data.phrase_boxes[stems.index("train5")]] == [pytest.approx(6 / 9)]
    path = folder / "Annotations" / "train5.xml"
    path.write_text(path.read_text().replace("<xmax>6", "<xmax>7"))
    assert load(folder, "flickr30k[phrases=true]").extras_sha() != data.extras_sha()


def test_limit_keeps_every_split(folder):
    assert [len(rows) for rows in load(folder, "flickr30k[limit=7]").splits.values()] == [4, 2, 2]
    with pytest.raises(BadInput, match="limit must be at least 6"):
        DATASETS.configure("flickr30k[limit=3]")


@pytest.mark.parametrize(
    ("spec", "gone", "message"),
    [
        (
            "flickr30k[split=karpathy]",
            "dataset_flickr30k.json",
            r"there is no dataset_flickr30k\.json .*flickr30k\[split=entities\]",
        ),
        ("flickr30k[split=entities]", "val.txt", r"there is no val\.txt .*flickr30k\[split=karpathy\]"),
        ("flickr30k", "results_20130124.token", r"there is no results_20130124\.token"),
        ("flickr30k", "flickr30k-images/train3.jpg", r"1 images of .*json are not in .*, the first is train3\.jpg"),
    ],
)
def test_what_is_missing_is_named(folder, spec, gone, message):
    (folder / gone).unlink()
    with pytest.raises(BadInput, match=message):
        load(folder, spec)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"dataset": "coco", "images": []}', "is the split of 'coco', not of 'flickr30k'"),
        ('{"annotations": []}', "is not one of Karpathy's split files"),
        ('{"dataset": "flickr30k", "images": [{"filena', "is not valid JSON"),
        ('{"dataset": "flickr30k", "images": [{"filename": "a.jpg"}]}', "image 0 has no 'filename' or 'split'"),
        ('{"dataset": "flickr30k", "images": [{"filename": "a.jpg", "split": "dev"}]}', "a.jpg is in split 'dev'"),
        (
            '{"dataset": "flickr30k", "images": [%s, %s]}' % (('{"filename": "a.jpg", "split": "val"}',) * 2),
            "image 1 is a.jpg in the val split, but was there before in the val split; remove one of the two",
        ),
        ("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the file itself: run git lfs pull"),
        (
            '{"dataset": "flickr30k", "images": [{"filename": "../a.jpg", "split": "val"}]}',
            r"the image \.\./a\.jpg, which is outside",
        ),
    ],
)
def test_a_wrong_split_file_is_refused(folder, content, message):
    (folder / "dataset_flickr30k.json").write_text(content)
    with pytest.raises(BadInput, match=message):
        load(folder)


def test_an_image_in_two_splits_is_refused(folder):
    path = folder / "dataset_flickr30k.json"
    content = json.loads(path.read_text())
    again = {**content["images"][0], "filename": "./test2.jpg"}
    for split in ("train", "test"):
        path.write_text(json.dumps({**content, "images": [*content["images"], {**again, "split": split}]}))
        with pytest.raises(
            BadInput, match=rf"test2\.jpg in the {split} split, .* before in the test split; remove one"
        ):
            load(folder)
    (folder / "val.txt").write_text("val0\ntrain1\n")
    with pytest.raises(
        BadInput, match=r"train1\.jpg is in both the train and the val split \(.*train\.txt and .*val\.txt\)"
    ):
        load(folder, "flickr30k[split=entities]")


@pytest.mark.parametrize("spec", ["flickr30k[split=karpathy]", "flickr30k[split=entities,phrases=true]"])
def test_what_it_needs_is_what_it_reads(folder, spec, read_what_they_need):
    read_what_they_need(DATASETS.configure(spec).build(), folder)
