"""Contrasts in their owners' files, and contrasts.jsonl of a dataset's own images."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cran_bench
from cran_bench.errors import BadInput
from cran_bench.machine.ledger import Ledger
from cran_bench.registry import DATASETS

REAL = Path(os.environ.get("CRAN_BENCH_DATA", "")) / "contrasts"


def load(spec, data):
    return DATASETS.configure(spec).build().load(data)


def draw(path, colour="red", size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def lines(*objects):
    return "".join(json.dumps(one) + "\n" for one in objects)


def pairs_of(collection):
    """(image id, true, false, kind) of each contrast."""
    some = collection.contrasts
    kinds = [some.kinds[k] for k in some.kind]
    return list(zip([collection.images.ids[row] for row in some.image], some.true, some.false, kinds, strict=True))


def negative(image, caption="a cat on a mat", false="a mat on a cat"):
    return {"filename": image, "caption": caption, "negative_caption": false}


@pytest.fixture
def sugarcrepe(tmp_path):
    """Two files of SugarCrepe, of whose five images three are there, one of them under its name of 2014."""
    home = tmp_path / "sugar-crepe"
    swap = {"0": negative("1.jpg"), "2": negative("2.jpg"), "3": negative("1.jpg", "a dog", "a hog")}
    write(home / "data" / "swap_obj.json", swap | {"7": negative("1.jpg", false="a mat under a cat")})
    write(home / "add_att.json", {str(k): negative(f"{k}.jpg", "a bus ") for k in (3, 4, 5)})
    for name in ("mscoco/images/val2017/1.jpg", "mscoco/images/val2014/COCO_val2014_3.jpg", "coco/val2017/2.jpg"):
        draw(tmp_path / name)
    return home


def test_sugarcrepe(sugarcrepe, tmp_path):
    data = load("sugarcrepe", tmp_path)
    assert data.images.ids == ["3.jpg", "1.jpg", "2.jpg"]
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 0, "val": 0, "test": 3}
    assert data.captions == ["a bus", "a cat on a mat", "a dog", "a cat on a mat"]
    assert data.image_of.tolist() == [0, 1, 1, 2]
    assert pairs_of(data) == [
        ("3.jpg", "a bus", "a mat on a cat", "add_att"),
        ("1.jpg", "a cat on a mat", "a mat on a cat", "swap_obj"),
        ("2.jpg", "a cat on a mat", "a mat on a cat", "swap_obj"),
        ("1.jpg", "a dog", "a hog", "swap_obj"),
        ("1.jpg", "a cat on a mat", "a mat under a cat", "swap_obj"),
    ]
    assert data.contrasts.partner is None
    absent, without = data.remarks
    assert absent.startswith("not measured, as the files are missing: add_obj.json, replace_att.json")
    assert without == (
        "contrasts are left out, as their images are missing: add_att 2 of 3, swap_obj 0 of 4; the first image is 4.jpg"
    )
    assert [data.images.read(row).size for row in range(3)] == 3 * [(8, 6)]
    assert list(data.images.digests(Ledger(tmp_path / "ledger"))) == [data.images.digest(row) for row in range(3)]


def test_kinds_and_a_limit(sugarcrepe, tmp_path):
    assert {kind for *_, kind in pairs_of(load("sugarcrepe[kinds=swap_obj]", tmp_path))} == {"swap_obj"}
    for k in range(6, 20):
        draw(sugarcrepe / "val2017" / f"{k}.jpg")
    write(sugarcrepe / "add_att.json", {str(k): negative(f"{k}.jpg") for k in range(6, 20)})
    few = load("sugarcrepe[limit=6]", tmp_path)
    assert few.images.ids == [f"{k}.jpg" for k in range(6, 12)] and len(few.contrasts) == 6
    with pytest.raises(BadInput, match="no contrasts of the kind 'swap_ob'; did you mean 'swap_obj'"):
        load("sugarcrepe[kinds=swap_ob]", tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not valid JSON"),
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("", "is empty"),
        ('{"0": {}, "0": {}}', "the key '0' is there twice"),
        ([negative("1.jpg")], "the whole: Input should be a valid dict"),
        ({"4": {"filename": "1.jpg", "caption": "a"}}, r"add_att\.json: 4\.negative_caption: Field required"),
        ({"4": negative("1.jpg", 3)}, r"4\.caption: Input should be a valid string"),
        ({"4": negative("1.jpg", " ")}, "entry 4: the true caption is ' '"),
        ({"4": negative("1.jpg", false="")}, "entry 4: the false caption is ''"),
        ({"4": negative("1.jpg", "a  dog", "a dog ")}, "entry 4: both captions are 'a  dog'; change one"),
        ({"4": negative("1.jpg", "a \ud800")}, r"entry 4: the true caption is 'a \\ud800'"),
        ({"4": negative("../1.jpg")}, r"entry 4: the image is '\.\./1\.jpg'; write its path below"),
        ({"4": negative("/etc/passwd")}, "entry 4: the image is '/etc/passwd'"),
        ({"4": negative("a/../..")}, "entry 4: the image is"),
        ({"4": negative(".")}, r"entry 4: the image is '\.'"),
        ({"4": negative("a\0.jpg")}, r"no image of the 1 contrasts .* the first is a\\x00\.jpg"),
        ({"4": negative("9.jpg")}, r"no image of the 1 contrasts of sugarcrepe .* 9\.jpg: unpack http.*val2017\.zip"),
        ({}, "no contrast of these kinds"),
    ],
)
def test_what_is_wrong_in_an_owners_file(sugarcrepe, tmp_path, content, said):
    write(sugarcrepe / "add_att.json", content)
    with pytest.raises(BadInput, match=said) as refused:
        load("sugarcrepe[kinds=add_att]", tmp_path)
    assert "\n" not in str(refused.value)


def test_a_byte_order_mark_is_no_matter(sugarcrepe, tmp_path):
    path = sugarcrepe / "add_att.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load("sugarcrepe", tmp_path).contrasts) == 5


def test_needs(tmp_path, command, winoground, read_what_they_need):
    said = command("prepare", "sugarcrepe", "--check", "--data", tmp_path / "none", "--cache", tmp_path / "cache")
    assert said.code and said.out.count("github.com/RAIVNLab/sugar-crepe") == 7 and "val2017.zip" in said.out
    read_what_they_need(DATASETS.configure("winoground").build(), tmp_path)
    assert all(need.found is None for need in DATASETS.configure("valse").build().needs(tmp_path / "none"))
    with pytest.raises(
        BadInput, match=r"does not contain aro \(none of visual_genome_relation.json.*prepare aro --check"
    ):
        load("aro", tmp_path)


def example(k, tag="Object", **changed):
    texts = {"caption_0": f"{k} old man", "caption_1": f"man {k} old"}
    return {"id": k, "image_0": f"ex_{k}_img_0", "image_1": f"ex_{k}_img_1", **texts, "collapsed_tag": tag, **changed}


@pytest.fixture
def winoground(tmp_path):
    """Three examples of Winoground, of which the second lacks an image."""
    home = tmp_path / "winoground"
    write(home / "data" / "examples.jsonl", lines(example(0), example(1), example(2, "Both")))
    for name in ("ex_0_img_0.png", "ex_0_img_1.png", "ex_1_img_0.png", "ex_2_img_0.jpg", "ex_2_img_1.jpg"):
        draw(home / "images" / name)
    return home


def test_winoground_is_crossed(winoground, tmp_path):
    data = load("winoground", tmp_path)
    assert pairs_of(data) == [
        ("ex_0_img_0", "0 old man", "man 0 old", "Object"),
        ("ex_0_img_1", "man 0 old", "0 old man", "Object"),
        ("ex_2_img_0", "2 old man", "man 2 old", "Both"),
        ("ex_2_img_1", "man 2 old", "2 old man", "Both"),
    ]
    assert data.contrasts.partner.tolist() == [1, 0, 3, 2]
    assert data.remarks == [
        "contrasts are left out, as their images are missing: Object 2 of 4, Both 0 of 2; the first image is ex_1_img_1"
    ]
    for wrong, said in (
        (example(3, image_1="ex_3_img_0"), "line 1: the halves .* need two images"),
        (example(3, "Colour"), "line 1: collapsed_tag: Input should be 'Object', 'Relation' or 'Both'"),
        ([1], "line 1: expected an object with image_0"),
    ):
        write(winoground / "data" / "examples.jsonl", lines(wrong))
        with pytest.raises(BadInput, match=said):
            load("winoground", tmp_path)


def test_valse_reads_what_people_found_valid(tmp_path):
    def foil(image, votes, **more):
        texts = {"caption": "There are no people.", "foil": "There are people."}
        return {"dataset": "visual7w", "image_file": image, **texts, "mturk": {"foil": 0, "caption": votes}, **more}

    home = tmp_path / "VALSE"
    write(home / "data" / "existence.json", {"a": foil("v7w_1.jpg", 2), "b": foil("v7w_1.jpg", 1)})
    write(home / "data" / "foil-it.json", {"c": foil("COCO_val2014_1.jpg", 3), "d": foil("x_1.jpg", 3)})
    draw(home / "images" / "visual7w" / "images" / "v7w_1.jpg")
    (home / "images" / "again").symlink_to(home / "images")
    draw(tmp_path / "mscoco" / "val2014" / "COCO_val2014_1.jpg")
    data = load("valse", tmp_path)
    assert [(image, kind) for image, _, _, kind in pairs_of(data)] == [
        ("v7w_1.jpg", "existence"),
        ("COCO_val2014_1.jpg", "foil-it"),
    ]
    assert data.remarks[1] == "existence: 1 of 2 contrasts are not valid"
    assert data.images.read(1).size == (8, 6)
    write(home / "data" / "existence.json", {"a": foil("v7w_1.jpg", None)})
    with pytest.raises(BadInput, match=r"existence\.json: a\.mturk\.caption: Input should be a valid integer"):
        load("valse", tmp_path)


def case(image, box=(1, 1, 4, 3), relation="on", true="the cup is on the table", false="the table is on the cup"):
    boxes = dict(zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), box, strict=True))
    return {"image_path": image, **boxes, "relation_name": relation, "true_caption": true, "false_caption": false}


def test_aro_cuts_images_to_the_boxes(tmp_path):
    home = tmp_path / "aro"
    rows = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    (home / "images").mkdir(parents=True)
    Image.fromarray(rows).save(home / "images" / "1.png")
    cases = [
        case("1.png"),
        case("1.png", relation="standing next to"),
        case("1.png", (2, 0, 90, 2.4)),
        case("1.png", false="the cup is on the  table"),
        case("1.png", relation="covered by", true="the bed is covered by the cat"),
    ]
    write(home / "visual_genome_relation.json", cases)
    data = load("aro[kinds=vg-relation]", tmp_path)
    assert data.images.ids == ["1.png@1,1,4,3", "1.png@2,0,90,2.4"] and len(data.contrasts) == 3
    assert data.captions_of(np.array([0]))[0] == ["the cup is on the table", "the bed is covered by the cat"]
    np.testing.assert_array_equal(np.asarray(data.images.read(0)), rows[1:4, 1:5])
    np.testing.assert_array_equal(np.asarray(data.images.read(1)), rows[:2, 2:])
    assert len({data.images.digest(row) for row in range(2)}) == 2
    assert data.remarks == [
        "vg-relation: of 5 contrasts, 1 of relations that hold both ways, 1 with two equal captions are left out"
    ]
    write(home / "visual_genome_relation.json", [case("1.png", (9, 0, 2, 2))])
    with pytest.raises(BadInput, match=r"1\.png@9,0,2,2: the box is outside the image of 8 x 6 pixels"):
        load("aro[kinds=vg-relation]", tmp_path).images.read(0)
    write(home / "visual_genome_relation.json", [case("1.png", (0, 0, 0, 2))])
    with pytest.raises(BadInput, match=r"0\.bbox_w: Input should be greater than 0"):
        load("aro[kinds=vg-relation]", tmp_path)


def test_aro_shuffles_captions(tmp_path):
    long, short = "A black dog and a white cat sit on the green grass.", "dog"
    flickr, coco = [{"image": f"flickr30k-images/{k}.jpg", "caption": [long, short]} for k in range(2)], "val2014/C.jpg"
    write(tmp_path / "aro" / "flickr30k_test.json", flickr)
    write(tmp_path / "aro" / "coco_karpathy_test.json", [{"image": coco, "caption": [long]}])
    for path in ("flickr30k/flickr30k-images/1.jpg", f"coco/{coco}"):
        draw(tmp_path / path)
    data = load("aro", tmp_path)
    assert data.images.ids == [coco, "flickr30k-images/1.jpg"] and set(data.captions) == {long}
    orders = ("nouns-adjectives", "other-words", "in-trigrams", "trigrams")
    assert list(data.contrasts.kinds) == [f"{source}-{order}" for source in ("coco", "flickr") for order in orders]
    assert long not in data.contrasts.false
    words = {tuple(sorted(re.findall("[a-z]+", text.lower()))) for text in (long, *data.contrasts.false)}
    assert len(words) == 1 and len(data.contrasts) == 8
    other = [list(load(f"aro[seed={seed},kinds=coco-trigrams]", tmp_path).contrasts.false) for seed in range(4)]
    assert (
        other[0] == [pair[2] for pair in pairs_of(data) if pair[3] == "coco-trigrams"] and len(set(map(str, other))) > 1
    )


def own(image, true="red left of blue", false="blue left of red", kind="swap", **more):
    return {"image": image, "true": true, "false": false, "kind": kind, **more}


CROSSED = own("test01.jpg", pair=1), own("test02.jpg", "blue left of red", "red left of blue", pair=1)


def test_contrasts_of_the_images_of_a_dataset(flickr):
    crossed = [own("test00.jpg", "a", "b", pair="x"), own("train00.jpg", "b", "a", pair="x")]
    path = flickr / "flickr8k" / "contrasts.jsonl"
    path.write_text(lines(own("./test03.jpg", kind="agent"), *CROSSED, own("dev00.jpg"), own("none.jpg"), *crossed))
    data = load("flickr8k", flickr)
    assert [(image, kind) for image, _, _, kind in pairs_of(data)] == [
        ("test03.jpg", "agent"),
        ("test01.jpg", "swap"),
        ("test02.jpg", "swap"),
    ]
    assert data.contrasts.partner.tolist() == [-1, 2, 1]
    assert data.remarks[-1] == (
        "4 of 7 contrasts in contrasts.jsonl are left out, as their images are not in the test split; "
        "1 name no image that was read, as none.jpg"
    )
    path.write_text(lines(own("dev00.jpg"), own("none.jpg")))
    with pytest.raises(BadInput, match=r"none of the 2 contrasts .*: 1 name no image .* such as test00\.jpg"):
        load("flickr8k", flickr)
    few = load("flickr8k[limit=6]", flickr)
    assert few.contrasts is None and "2 of 2 contrasts" in few.remarks[-1]


def test_contrasts_beside_a_list_of_captions(tmp_path):
    for k in range(2):
        draw(tmp_path / "images" / "a" / f"{k}.png")
    (tmp_path / "captions.csv").write_text("image,caption,split\na/0.png,a,test\na/1.png,b,test\n")
    (tmp_path / "contrasts.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(own("a/1.png")).encode())
    assert pairs_of(load("folder", tmp_path)) == [("a/1.png", "red left of blue", "blue left of red", "swap")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "line 1: not valid JSON"),
        (lines([1]), "line 1: expected an object with image, true, false and kind, got"),
        ('{"image": "a.jpg", "image": "b.jpg"}\n', "line 1: not valid JSON .the key 'image' is there twice"),
        (lines({"image": "test00.jpg", "true": "a", "kind": "b"}), "line 1: false: Field required; give image, true"),
        (lines(own("test00.jpg", 3)), "line 1: true: Input should be a valid string"),
        (lines(own("test00.jpg", piar=1)), "line 1: piar: Unexpected keyword argument"),
        (lines(own("test00.jpg", "a", "a")), "line 1: both captions are 'a'"),
        (lines(own("test00.jpg", "")), "line 1: the true caption is ''"),
        (lines(own("test00.jpg", kind="a.balanced")), r"line 1: the kind is 'a\.balanced'; name it with up to 40"),
        (lines(own("test00.jpg", kind="")), "line 1: the kind is ''; name it"),
        (lines(own("../test00.jpg")), r"line 1: the image is '\.\./test00\.jpg'"),
        (lines(own("test00.jpg"), own("./test00.jpg")), r"line 2: the contrast is already there \(.*line 1\)"),
        (lines(CROSSED[0]), "line 1: the crossed pair '1' has 1 contrasts; give two"),
        (lines(*CROSSED, own("test03.jpg", pair=1)), "line 3: the crossed pair '1' has 3 contrasts; give two"),
        (lines(CROSSED[0], own("test02.jpg", pair=1)), r"line 2: the halves .* need two images.*other half: .*line 1"),
        (lines(CROSSED[0], CROSSED[1] | {"image": "test01.jpg"}), "line 2: the halves .* need two images"),
    ],
)
def test_what_is_wrong_in_contrasts_jsonl(flickr, content, said):
    (flickr / "flickr8k" / "contrasts.jsonl").write_text(content)
    with pytest.raises(BadInput, match=said):
        load("flickr8k", flickr)


def test_a_run_on_a_dataset_of_contrasts(flickr, sugarcrepe, tmp_path):
    shutil.move(sugarcrepe, flickr)
    for part in ("mscoco", "coco"):
        shutil.move(tmp_path / part, flickr)
    where = {"data": flickr, "cache": tmp_path / "cache", "results": tmp_path / "results"}
    made = cran_bench.run("cca[dim=4]", "flickr8k", test_on="sugarcrepe", **where)
    assert any("their images are missing: add_att 2 of 3" in remark for remark in made.remarks)
    (record,) = made.records
    assert (record.data.images, record.data.captions) == (3, 4)
    assert {"contrasts.add_att", "contrasts.swap_obj"} <= record.metrics.keys()


def test_a_run_names_the_mistake(flickr, tmp_path, command):
    (flickr / "flickr8k" / "contrasts.jsonl").write_text(lines(own("test00.jpg", "a", "a")))
    said = command("run", "cca", "-d", "flickr8k", "--data", flickr, "--cache", tmp_path / "cache")
    assert said.code == 2 and re.search(r"contrasts\.jsonl, line 1: both captions are 'a'", said.sentence)


@pytest.mark.skipif(not REAL.is_dir(), reason="CRAN_BENCH_DATA with contrasts/ is not set")
def test_two_real_files_of_sugarcrepe(tmp_path):
    home = tmp_path / "sugarcrepe"
    shutil.copytree(REAL, home)
    every = {kind: json.loads((home / f"{kind}.json").read_text()) for kind in ("swap_obj", "replace_rel")}
    assert [len(of) for of in every.values()] == [245, 1406]
    names = list(dict.fromkeys(one["filename"] for of in every.values() for one in of.values()))
    for name in names[::10]:
        draw(home / "val2017" / name)
    data = load("sugarcrepe", tmp_path)
    there = [one for of in every.values() for one in of.values() if one["filename"] in names[::10]]
    assert sorted(data.images.ids) == sorted(names[::10]) and len(data.contrasts) == len(there)
    assert sorted(data.contrasts.false) == sorted(one["negative_caption"].strip() for one in there)
    assert f"of {1406:,}" in data.remarks[-1] and "of 245" in data.remarks[-1]
