"""The MS-COCO loader on generated folders in the owners' layout: captions, splits, categories."""

import json
import shutil

import numpy as np
import pytest

from cran_bench.errors import BadInput
from cran_bench.machine import ledger
from cran_bench.needs import missing
from cran_bench.registry import DATASETS

YEARS = {"train2014": range(30), "val2014": range(100, 120)}
CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 44, "name": "bottle"}]


def file_name(year, number):
    return f"COCO_{year}_{number:012}.jpg"


def write(path, content):
    path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "mscoco"
    (home / "annotations").mkdir(parents=True)
    karpathy = []
    for year, numbers in YEARS.items():
        (home / year).mkdir()
        images = [{"id": number, "file_name": file_name(year, number)} for number in numbers]
        for image in images:
            (home / year / image["file_name"]).touch()
        captions = [
            {"image_id": n, "id": 1000 * n + k, "caption": f"caption {k} of\n {n} "}
            for n in numbers
            for k in reversed(range(5 + n % 3))
        ]
        write(home / "annotations" / f"captions_{year}.json", {"images": images, "annotations": captions})
        instances = [{"image_id": n, "id": n, "category_id": c} for n in numbers for c in (1, 90) if n % 4 != c % 4]
        write(
            home / "annotations" / f"instances_{year}.json",
            {"images": images, "annotations": instances, "categories": CATEGORIES},
        )
        for n in numbers:
            split = "train" if year == "train2014" else ("restval", "val", "test")[n % 3]
            karpathy.append({"filename": file_name(year, n), "filepath": year, "cocoid": n, "split": split})
    write(home / "dataset_coco.json", {"dataset": "coco", "images": karpathy})
    return home


def load(folder, spec="mscoco"):
    return DATASETS.configure(spec).build().load(folder.parent)


def numbers(data, split):
    return [int(data.images.ids[row].rpartition("_")[2].removesuffix(".jpg")) for row in data.splits[split]]


def test_karpathys_split_counts_restval_as_training(folder):
    data = load(folder)
    assert data.name == "mscoco"
    assert numbers(data, "train") == [*range(30), *(n for n in range(100, 120) if n % 3 == 0)]
    assert numbers(data, "val") == [n for n in range(100, 120) if n % 3 == 1]
    assert numbers(data, "test") == [n for n in range(100, 120) if n % 3 == 2]
    assert data.images.ids[0] == "train2014/COCO_train2014_000000000000.jpg"


def test_the_first_five_captions_count_in_the_order_of_their_ids(folder):
    data = load(folder)
    assert data.captions[:5] == [f"caption {k} of 0" for k in range(5)]
    assert set(np.bincount(data.image_of)) == {5}
    assert max(np.bincount(load(folder, "mscoco[captions=7]").image_of)) == 7


def test_categories_are_columns_by_their_id(folder):
    data = load(folder)
    assert data.label_names == ["person", "bottle", "toothbrush"]
    for split in data.splits:
        for row, number in zip(data.splits[split], numbers(data, split), strict=True):
            assert data.labels[row].tolist() == [number % 4 != 1, 0, number % 4 != 2]
    (folder / "annotations" / "instances_val2014.json").unlink()
    without = load(folder)
    assert without.labels is None and not without.label_names and "no categories" in without.remarks[0]


def test_a_random_split_is_drawn_by_its_seed(folder):
    one, again, other = (load(folder, f"mscoco[split=random,seed={seed}]") for seed in (0, 0, 1))
    assert {split: len(rows) for split, rows in one.splits.items()} == {"train": 40, "val": 5, "test": 5}
    assert one.split_sha() == again.split_sha() != other.split_sha()
    assert sorted(n for split in one.splits for n in numbers(one, split)) == [*range(30), *range(100, 120)]


def test_other_spellings_of_a_path_are_the_same_image(folder):
    before = load(folder)
    for file, key, old, new in (
        ("dataset_coco.json", "filepath", "val2014", "./val2014/"),
        ("annotations/captions_train2014.json", "file_name", "COCO", ".//COCO"),
    ):
        content = json.loads((folder / file).read_text())
        for image in content["images"]:
            image[key] = image[key].replace(old, new)
        write(folder / file, content)
    data = load(folder)
    assert data.split_sha() == before.split_sha() and (data.labels == before.labels).all()


def test_the_release_of_2017_has_the_same_split(folder):
    before = load(folder)
    for part in YEARS:
        (folder / part).rename(folder / part.replace("2014", "2017"))
        for kind in ("captions", "instances"):
            path = folder / "annotations" / f"{kind}_{part}.json"
            content = path.read_text().replace(f"COCO_{part}_", "")
            path.with_name(path.name.replace("2014", "2017")).write_text(content)
            path.unlink()
        for image in (folder / part.replace("2014", "2017")).iterdir():
            image.rename(image.with_name(image.name.rpartition("_")[2]))
    data = load(folder)
    assert [name.replace("2017/", "2014/") for name in data.images.ids] == [
        name.replace(f"COCO_{name.partition('/')[0]}_", "") for name in before.images.ids
    ]
    assert data.captions == before.captions and np.array_equal(data.labels, before.labels)
    assert {split: list(rows) for split, rows in data.splits.items()} == {
        split: list(rows) for split, rows in before.splits.items()
    }


def test_val2014_alone_can_be_evaluated(folder):
    whole = load(folder)
    shutil.rmtree(folder / "train2014")
    (folder / "annotations" / "captions_train2014.json").unlink()
    data = load(folder)
    for split in ("val", "test"):
        assert numbers(data, split) == numbers(whole, split)
        rows, others = data.splits[split], whole.splits[split]
        assert data.captions_of(rows)[0] == whole.captions_of(others)[0]
        assert np.array_equal(data.labels[rows], whole.labels[others])
    assert not len(data.splits["train"])
    assert data.remarks == [f"without train images, as train2014 is not in {folder}"]
    with pytest.raises(BadInput, match=r"there is no captions_train2014\.json"):
        load(folder, "mscoco[split=random]")
    assert not missing(DATASETS.configure("mscoco").build().needs(folder))


def test_images_without_a_category_are_counted(folder):
    for part in YEARS:
        path = folder / "annotations" / f"instances_{part}.json"
        content = json.loads(path.read_text())
        write(path, content | {"annotations": content["annotations"][:4]})
    data = load(folder)
    bare = int((data.labels.sum(axis=1) == 0).sum())
    assert bare > 40 and data.remarks == [f"{bare} of 50 images have no category in the instances files"]


def test_a_missing_image_is_told_with_the_file_that_lists_it(folder):
    next((folder / "val2014").iterdir()).unlink()
    with pytest.raises(BadInput, match=r"1 images of .*captions_val2014\.json are not in .* first is val2014/COCO_"):
        load(folder, "mscoco[split=random]")


def test_a_changed_image_is_seen_in_any_folder(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(ledger, "SETTLED", -(10**9))
    data, kept = load(folder), ledger.Ledger(tmp_path / "digests")
    before = list(data.images.digests(kept))
    for year in YEARS:
        path = next((folder / year).iterdir())
        path.write_bytes(path.read_bytes() + b" ")
    after = list(data.images.digests(kept))
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 2


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("captions_train2014.json", lambda c: c.pop("images"), "is not an MS-COCO annotation file"),
        ("captions_val2014.json", lambda c: c["annotations"][3].pop("caption"), "has no image_id, id or caption"),
        ("captions_val2014.json", lambda c: c["annotations"][3].update(image_id=7777), "belongs to image 7777, which"),
        ("captions_val2014.json", lambda c: c["images"].pop(0), "belongs to image 100, which the file does not list"),
        ("captions_val2014.json", lambda c: c["annotations"][3].update(id=100_000), "annotation 100000 was there"),
        ("captions_val2014.json", lambda c: c["images"][3].update(id=0), "image 0 was there before"),
        ("instances_val2014.json", lambda c: c["annotations"][0].update(category_id=5), "category 5 is not among its"),
    ],
)
def test_wrong_annotations_are_told(folder, file, change, message):
    path = folder / "annotations" / file
    content = json.loads(path.read_text())
    change(content)
    write(path, content)
    with pytest.raises(BadInput, match=message):
        load(folder)


def test_instances_in_place_of_captions_are_told(folder):
    path = folder / "annotations" / "captions_val2014.json"
    path.write_text((path.parent / "instances_val2014.json").read_text())
    with pytest.raises(BadInput, match=r"captions_val2014\.json holds instances: its annotations have no 'caption'"):
        load(folder)


def test_missing_files_are_told(folder):
    next((folder / "val2014").iterdir()).unlink()
    with pytest.raises(BadInput, match=r"1 images of .*dataset_coco\.json are not in .*, the first is val2014/COCO_"):
        load(folder)
    (folder / "dataset_coco.json").unlink()
    with pytest.raises(BadInput, match=r"there is no dataset_coco\.json .* mscoco\[split=random\]"):
        load(folder)
    (folder / "annotations" / "captions_val2014.json").unlink()
    with pytest.raises(BadInput, match=r"there is no captions_val2014\.json"):
        load(folder)


def test_a_split_of_another_release_is_told(folder):
    path = folder / "dataset_coco.json"
    content = json.loads(path.read_text())
    content["images"][0]["filename"] = "COCO_train2014_000000009999.jpg"
    write(path, content)
    with pytest.raises(
        BadInput, match=r"1 images of .* are not in captions_.* first is train2014/COCO_train2014_0+9999"
    ):
        load(folder)


def test_an_image_twice_in_karpathys_file_is_told(folder):
    path = folder / "dataset_coco.json"
    content = json.loads(path.read_text())
    write(path, content | {"images": [*content["images"], content["images"][3] | {"split": "test"}]})
    with pytest.raises(
        BadInput, match=r"image 50 is train2014/COCO_\w+\.jpg in the test .* before in the train split; remove one"
    ):
        load(folder)


@pytest.mark.parametrize("spec", ["mscoco", "mscoco[split=random]"])
def test_what_it_needs_is_what_it_reads(folder, spec, read_what_they_need):
    read_what_they_need(DATASETS.configure(spec).build(), folder)
