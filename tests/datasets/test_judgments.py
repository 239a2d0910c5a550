"""Readers of what people judged: on made folders, and on Flickr8k's Expert file where CRAN_BENCH_DATA names it."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cran_bench import SPLITS, BadInput
from cran_bench.registry import DATASETS
from cran_bench.split import Split

EXPERT = "t0.jpg\tt0.jpg#2\t4\t4\t1\nt0.jpg\tt1.jpg#2\t3\t3\t3\nt1.jpg\tt2.jpg#2\t1\t2\t4\nt2.jpg\tt1.jpg#0\t4\t4\t4\n"
CROWD = "t0.jpg\tt1.jpg#2\t0.666666666666667\t2\t1\nt2.jpg\tt1.jpg#2\t0.6\t3\t2\nt1.jpg\tt1.jpg#2\t0\t0\t3\n"


def load(folder, spec=""):
    return DATASETS.configure(spec or folder.name).build().load(folder.parent)


@pytest.fixture
def flickr8k(tmp_path):
    """Train, dev and test images r*, d* and t*, twelve, three and three, each with the captions #0 to #2."""
    home = tmp_path / "flickr8k"
    (home / "images").mkdir(parents=True)
    tokens = []
    for owners, count in (("train", 12), ("dev", 3), ("test", 3)):
        names = [f"{owners[0] if owners != 'train' else 'r'}{k}.jpg" for k in range(count)]
        (home / f"Flickr_8k.{owners}Images.txt").write_text("\n".join(names))
        tokens += [f"{name}#{k}\tcaption {k} of {name}" for name in names for k in (2, 0, 1)]
        for name in names:
            (home / "images" / name).touch()
    (home / "Flickr8k.token.txt").write_text("\n".join(tokens))
    return home


@pytest.fixture
def mscoco(tmp_path):
    """The images 1 to 30, of which 21 to 30 are the test split; caption 100 n + k is the k-th of image n, six each."""
    home = tmp_path / "mscoco"
    (home / "val2014").mkdir(parents=True)
    images = [{"id": n, "file_name": f"COCO_val2014_{n:012}.jpg"} for n in range(1, 31)]
    captions = [{"image_id": n, "id": 100 * n + k, "caption": f"{k} of {n}"} for k in range(6) for n in range(1, 31)]
    (home / "captions_val2014.json").write_text(json.dumps({"images": images, "annotations": captions}))
    for image in images:
        (home / "val2014" / image["file_name"]).touch()
    karpathy = [{"filename": i["file_name"], "split": "test" if i["id"] > 20 else "val"} for i in images]
    (home / "dataset_coco.json").write_text(json.dumps({"dataset": "coco", "images": karpathy}))
    return home


def names(data):
    """A key of each row: of images and of captions."""
    return list(data.images.ids), [
        f"{data.images.ids[i]}#{text[8]}" for i, text in zip(data.image_of, data.captions, strict=True)
    ]


def right(data, name, ids):
    """The right answers of either direction of the relevance `name`, as {query: {answer: grade}}."""
    (found,) = [one for one in data.relevance if one.name == name]
    images, captions = ids
    answers = []
    for qrels, asked, other in ((found.i2t, images, captions), (found.t2i, captions, images)):
        answers.append({})
        for query, answer, grade in zip(*vars(qrels).values(), strict=True) if qrels else ():
            answers[-1].setdefault(asked[query], {})[other[answer]] = grade
    return answers


def ratings(data, name, ids):
    (found,) = [one for one in data.judgments if one.name == name]
    pairs = zip(found.image, found.caption, found.ratings.tolist(), strict=True)
    return {(ids[0][image], ids[1][caption]): own for image, caption, own in pairs}


@pytest.mark.parametrize("below", ["", "Flickr8k_text", "judgments"])
def test_flickr8k_experts(flickr8k, below):
    bare = load(flickr8k)
    (flickr8k / below).mkdir(exist_ok=True)
    (flickr8k / below / "ExpertAnnotations.txt").write_bytes(EXPERT.replace("\n", "\r\n").encode("utf-8-sig"))
    data = load(flickr8k)
    ids = names(data)
    assert ratings(data, "expert", ids) == {
        ("t0.jpg", "t0.jpg#2"): [4, 4, 1],
        ("t0.jpg", "t1.jpg#2"): [3, 3, 3],
        ("t1.jpg", "t2.jpg#2"): [1, 2, 4],
        ("t2.jpg", "t1.jpg#0"): [4, 4, 4],
    }
    own = {f"t{n}.jpg": {f"t{n}.jpg#{k}": 1 for k in range(3)} for n in range(3)}
    i2t, t2i = right(data, "expert", ids)
    assert i2t == own | {"t0.jpg": own["t0.jpg"] | {"t1.jpg#2": 1}, "t2.jpg": own["t2.jpg"] | {"t1.jpg#0": 1}}
    assert t2i == {
        "t0.jpg#2": {"t0.jpg": 1},
        "t1.jpg#0": {"t1.jpg": 1, "t2.jpg": 1},
        "t1.jpg#2": {"t1.jpg": 1, "t0.jpg": 1},
        "t2.jpg#2": {"t2.jpg": 1},
    }
    assert (data.split_sha(), data.extras_sha()) == (bare.split_sha(), bare.extras_sha())
    assert data.judgments_sha() and not bare.judgments_sha() and data.remarks == bare.remarks


def test_flickr8k_crowd(flickr8k):
    (flickr8k / "CrowdFlowerAnnotations.txt").write_text(CROWD)
    (flickr8k / "ExpertAnnotations.txt").write_text(EXPERT)
    data = load(flickr8k)
    ids = names(data)
    assert [one.name for one in (*data.judgments, *data.relevance)] == ["expert", "crowd"] * 2
    assert [share for (share,) in ratings(data, "crowd", ids).values()] == [2 / 3, 3 / 5, 0]
    i2t, t2i = right(data, "crowd", ids)
    assert t2i == {"t1.jpg#2": {"t0.jpg": 1, "t1.jpg": 1}}
    assert set(i2t) == {"t0.jpg", "t1.jpg", "t2.jpg"} and set(i2t["t0.jpg"]) > {"t1.jpg#2"} and len(i2t["t2.jpg"]) == 3


def test_caption_ids_are_those_of_the_captions(flickr8k):
    tokens = flickr8k / "Flickr8k.token.txt"
    text = tokens.read_text()
    (flickr8k / "ExpertAnnotations.txt").write_text(EXPERT)
    tokens.write_text("\n".join(line for line in text.split("\n") if "t1.jpg#0" not in line))  # #2 is the second now
    data = load(flickr8k)
    assert ("t0.jpg", "t1.jpg#2") in ratings(data, "expert", names(data))
    what = "1 of 4 pairs in ExpertAnnotations.txt are left out: the test split lacks caption t1.jpg#0, for example"
    assert data.remarks[-1] == what
    tokens.unlink()
    lines = [f"{name},{caption}" for line in sorted(text.split("\n")) for name, _, caption in [line.partition("#")]]
    (flickr8k / "captions.txt").write_text("\n".join(["image,caption", *(x.replace("\t", "") for x in lines)]))
    data = load(flickr8k)
    ids = data.images.ids, data.caption_keys()  # Kaggle's captions have no numbers: their order counts
    assert ("t2.jpg", "t1.jpg#0") in ratings(data, "expert", ids)


def test_a_limit_leaves_judgments_out(flickr8k):
    (flickr8k / "ExpertAnnotations.txt").write_text(EXPERT)
    data = load(flickr8k, "flickr8k[limit=6]")
    assert len(data.splits["test"]) == 2 and len(data.judgments[0].image) == 2
    assert data.remarks[-1].startswith("2 of 4 pairs in ExpertAnnotations.txt are left out: the test split lacks")
    (flickr8k / "ExpertAnnotations.txt").write_text("t2.jpg\tt2.jpg#2\t4\t4\t4\n")
    data = load(flickr8k, "flickr8k[limit=6]")
    assert not data.judgments and data.remarks[-1].startswith("1 of 1 pairs in Expert")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t0.jpg\tt0.jpg#2\t4\tfour\t1", r"txt, line 1: the score is 'four', not a number from 1 to 4; correct it"),
        ("t0.jpg\tt0.jpg#2\t4\tnan\t1", r"the score is 'nan', not a number"),
        ("\nt0.jpg\tt0.jpg#2\t4\t5\t1", r"txt, line 2: the score is '5', not a number from 1 to 4"),
        (
            "t0.jpg\tt0.jpg#2\t4\t3",
            r"line 1: expected an image, name.jpg#k and three scores, .* got 4 columns; correct",
        ),
        ("t0.jpg\tt0.jpg\t4\t3\t3", r"line 1: 't0.jpg' should be name.jpg#k, the id of a caption; correct the line"),
        (
            EXPERT + "./t0.jpg\tt1.jpg#02\t1\t1\t1",
            r"line 5: image t0.jpg and caption t1.jpg#2 .* before, .*line 2; rem",
        ),
        (
            "x.jpg\tx.jpg#2\t4\t3\t3",
            r"none of the 1 pairs of .* lacks image x.jpg, .*ids such as t0.jpg and t0.jpg#0; ",
        ),
        (" \n", r"ExpertAnnotations.txt is empty"),
        ("version https://git-lfs.github.com/spec/v1\n", r"is a Git LFS pointer"),
    ],
)
def test_a_bad_expert_file(flickr8k, text, message):
    (flickr8k / "ExpertAnnotations.txt").write_text(text)
    with pytest.raises(BadInput, match=message):
        load(flickr8k)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ("1.5\t3\t0", r"line 1: the share of yes is '1.5', not a number from 0 to 1"),
        ("0.333\t2\t1", r"line 1: 2 yes and 1 no do not make a share of 0.333; correct the line"),
        ("0\t0\t0", r"0 yes and 0 no do not make"),
        ("1\tall\t0", r"the number of answers is 'all'"),
        ("1", r"expected an image, .* got 3 columns"),
    ],
)
def test_a_bad_crowd_file(flickr8k, numbers, message):
    (flickr8k / "CrowdFlowerAnnotations.txt").write_text(f"t0.jpg\tt0.jpg#2\t{numbers}")
    with pytest.raises(BadInput, match=message):
        load(flickr8k)


def coco_ids(data):
    images = [str(int(name[-16:-4])) for name in data.images.ids]
    return images, [f"{100 * int(text.split()[2]) + int(text.split()[0])}" for text in data.captions]


@pytest.mark.parametrize("below", ["", "eccv_caption", "eccv_caption/data"])
def test_eccv_caption(mscoco, below):
    bare = load(mscoco)
    (mscoco / below).mkdir(exist_ok=True, parents=True)
    answers = {"21": [2100, 2104, 2203], "30": [3002, 2105, 104]}  # a sixth caption, and one of another split
    (mscoco / below / "eccv_image_to_caption.json").write_text(json.dumps(answers))
    (mscoco / below / "eccv_caption_to_image.json").write_text(json.dumps({"2203": [22, 21, 25]}))
    data = load(mscoco)
    i2t, t2i = right(data, "eccv", coco_ids(data))
    assert i2t == {"21": {"2100": 1, "2104": 1, "2203": 1}, "30": {"3002": 1}}
    assert t2i == {"2203": {"22": 1, "21": 1, "25": 1}}
    assert data.remarks[-1].startswith("2 of 6 pairs in eccv_image_to_caption.json are left out: the test split lacks")
    assert data.split_sha() == bare.split_sha() and not data.judgments
    i2t, _ = right(load(mscoco, "mscoco[captions=6]"), "eccv", coco_ids(load(mscoco, "mscoco[captions=6]")))
    assert set(i2t["30"]) == {"3002", "2105"}


SITS = "caption,image,agg_score,sampling_method\n" + "".join(
    f"COCO_val2014:sentid:{caption},COCO_val2014_{image:012}.jpg,{score},c2i_intrasim\n"
    for caption, image, score in ((2100, 21, 4.97), (2203, 22, 2.9), (2203, 25, 3.0), (2504, 26, 0.0))
)


def test_cxc_by_its_ratings_or_by_the_pairs_above_3(mscoco):
    (mscoco / "cxc_image_to_caption.json").write_text('{"21": [2100], "25": [2203]}')
    (mscoco / "cxc_caption_to_image.json").write_text('{"2100": [21], "2203": [25]}')
    pairs = load(mscoco)
    (mscoco / "cxc").mkdir()
    (mscoco / "cxc" / "sits_test.csv").write_text(SITS)
    rated = load(mscoco)
    expected = [{"21": {"2100": 1}, "25": {"2203": 1}}, {"2100": {"21": 1}, "2203": {"25": 1}}]
    assert right(pairs, "cxc", coco_ids(pairs)) == right(rated, "cxc", coco_ids(rated)) == expected
    assert len(rated.relevance) == 1 and not pairs.judgments
    assert list(ratings(rated, "cxc", coco_ids(rated)).values()) == [[4.97], [2.9], [3.0], [0.0]]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "eccv_image_to_caption.json",
            '{"21": ["x"]}',
            r"expected lists of ids by id \(21.0: .*; take it from the eccv",
        ),
        ("eccv_image_to_caption.json", "[1]", r"expected lists of ids by id"),
        ("eccv_image_to_caption.json", '{"21": [2100, 2100]}', r"answer 1 of 21: .* caption 2100 were there before, "),
        (
            "eccv_caption_to_image.json",
            '{"21": [2100]}',
            r"none of the 1 pairs .* lacks image 2100.* as 21 and 2100; use",
        ),
        ("cxc_caption_to_image.json", "{}", r"cxc_caption_to_image.json has no pair of an image and a caption"),
        (
            "sits_test.csv",
            SITS.replace("4.97", "4,97"),
            r"csv, line 2: expected the columns caption,image,.* got 5 col",
        ),
        ("sits_test.csv", SITS.replace("4.97", "5.97"), r"the score is '5.97', not a number from 0 to 5"),
        ("sits_test.csv", SITS.replace("sentid:2100", "2100x"), r"line 2: 'COCO_val2014:2100x' and .*; download it"),
    ],
)
def test_a_bad_file_of_right_answers(mscoco, file, text, message):
    (mscoco / file).write_text(text)
    with pytest.raises(BadInput, match=message):
        load(mscoco)


@pytest.fixture
def folder(tmp_path):
    """Twelve images in each of the three splits, of odd names, with two captions each."""
    (tmp_path / "a b").mkdir()
    lines = [f"a b/{split} 5%{k}.png,{text},{split}" for split in SPLITS for k in range(12) for text in ("one", "two")]
    (tmp_path / "captions.csv").write_text("image,caption,split\n" + "\n".join(lines))
    for line in lines:
        (tmp_path / line.split(",")[0]).touch()
    return tmp_path


def load_folder(folder):
    return DATASETS.configure("folder").build().load(folder)


def test_qrels_have_the_ids_of_export(folder):
    a, b = (f"a%20b/test%205%25{k}.png" for k in (3, 4))
    (folder / "i2t.qrels").write_bytes(f"{a} 0 {a}#1 2\n{a} 0 {b}#0\t0.5\n{b} 0 {a}#0 0\n".encode("utf-16"))
    (folder / "t2i.qrels").write_text(f"{b}#1 Q0 {a} 1\n{b}#1 0 {b} -1\n{b}#1 0 gone.png 1\n")
    data = load_folder(folder)
    a, b = (f"a b/test 5%{k}.png" for k in (3, 4))
    i2t, t2i = right(data, "qrels", (data.images.ids, data.caption_keys()))
    assert i2t == {a: {f"{a}#1": 2, f"{b}#0": 0.5}}
    assert t2i == {f"{b}#1": {a: 1}}
    assert (
        data.remarks[-1] == "1 of 3 pairs in t2i.qrels are left out: the test split lacks image gone.png, for example"
    )
    assert [(need.what, bool(need.found)) for need in DATASETS.configure("folder").build().needs(folder)][1:3] == [
        ("i2t.qrels", True),
        ("t2i.qrels", True),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 0 a#0 yes", r"i2t.qrels, line 1: the grade is 'yes', not a number"),
        (
            "a a#0 1",
            r"i2t.qrels, line 1: expected a query, 0, an answer and a grade, separated by spaces, got 3 columns",
        ),
        ("a b/test 5%3.png 0 a#0 1", r"got 6 columns"),
        (
            "a%20b/test%205%253.png#1 0 a%20b/test%205%253.png 1",
            r"none of the 1 pairs of .*test 5%3.png#1.* ids such as",
        ),
        ("a%20b/test%205%253.png 0 a%20b/test%205%253.png#1 0", r"i2t.qrels has no grade above 0, so nothing is right"),
    ],
)
def test_bad_qrels(folder, text, message):
    (folder / "i2t.qrels").write_text(text)
    with pytest.raises(BadInput, match=message):
        load_folder(folder)


@pytest.mark.parametrize(("name", "count"), [("flickr8k", 4), ("mscoco", 7)])
def test_optional_files_are_listed(request, name, count):
    folder = request.getfixturevalue(name)
    needs = [need for need in DATASETS.configure(name).build().needs(folder.parent) if need.optional][-count:]
    assert all(need.source and need.found is None for need in needs)
    for need in needs:
        (folder / need.what).write_text("")
    needs = DATASETS.configure(name).build().needs(folder.parent)[-count:]
    assert [need.found for need in needs] == [folder / need.what for need in needs]


def test_what_export_writes_is_read_back(folder):
    data = load_folder(folder)
    images, captions = Split("test", "captions", data, None, None, torch.device("cpu")).escaped_ids()
    owners = np.repeat(images, 2)
    for way, columns in (("i2t", (owners, captions)), ("t2i", (captions, owners))):
        (folder / f"{way}.qrels").write_text("".join(f"{a} 0 {b} 1\n" for a, b in zip(*columns, strict=True)))
    data = load_folder(folder)
    (qrels,) = data.relevance
    own = np.flatnonzero(np.isin(data.image_of, data.splits["test"]))
    assert np.array_equal(qrels.t2i.query, own) and np.array_equal(qrels.t2i.answer, data.image_of[own])
    assert np.array_equal(qrels.i2t.answer, own) and np.array_equal(qrels.i2t.query, data.image_of[own])


def test_the_real_expert_file():
    if "CRAN_BENCH_DATA" not in os.environ:
        pytest.skip("CRAN_BENCH_DATA does not name the folder of the real data")
    home = Path(os.environ["CRAN_BENCH_DATA"])
    if not (home / "flickr8k" / "judgments" / "ExpertAnnotations.txt").is_file():
        pytest.skip("CRAN_BENCH_DATA has no human judgments of Flickr8k")
    data = DATASETS.configure("flickr8k").build().load(home)
    (expert,) = (one for one in data.judgments if one.name == "expert")
    own = data.image_of[expert.caption] == expert.image
    assert (len(own), len(np.unique(expert.caption)), int(own.sum())) == (5822, 977, 158)
    keys = data.caption_keys()
    assert {keys[row].rpartition("#")[2] for row in expert.caption} == {"2"}
    (approved,) = (one for one in data.relevance if one.name == "expert")
    assert approved.i2t and approved.t2i
    mean = expert.ratings.mean(axis=1)
    assert len(approved.t2i.query) == 977 + int(((mean >= 3) & ~own).sum())
    assert len(approved.i2t.query) == 5 * len(np.unique(expert.image)) + int(((mean >= 3) & ~own).sum())
    assert len(np.unique(approved.t2i.query)) == 977
