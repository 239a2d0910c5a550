"""Query by query: what the page knows of ranks and answers, with the dataset, without it, and without room."""

import base64
import json
import re

import numpy as np
import pytest
from pages import EVIL, HEBREW, write_awkward_data
from PIL import Image

from cran_bench.cli.options import load_tables
from cran_bench.machine.storage import write_json
from cran_bench.records.archive import read_answers, read_examples, read_record
from cran_bench.records.examples import QUERIES, drawn
from cran_bench.records.store import ResultStore
from cran_bench.registry import DATASETS
from cran_bench.report import details
from cran_bench.report.details import Details
from cran_bench.report.queries import Explorer, packed


def unpacked(text):
    """Numbers from groups of seven bits, byte by byte."""
    numbers, number, shift = [], 0, 0
    for byte in base64.b64decode(text):
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(number)
            number = shift = 0
    return numbers


def explored(tiny, data=None, folder=None, results=None):
    """The values of a table's queries, by name, and the pictures."""
    kept = Details(folder)
    explorer = Explorer(data or tiny.data, tiny.cache, kept)
    (table,) = load_tables(results or tiny.results)
    name, _ = explorer.add(table, "it")
    explorer.fill()
    values = {key: json.loads(text) for key, text in kept.values.items()}
    return values.get(name), values, kept


def test_numbers_are_packed():
    numbers = [0, 1, 127, 128, 16_383, 16_384, 5_000_000, 2**31]
    assert unpacked(packed(numbers)) == numbers
    assert len(base64.b64decode(packed(numbers))) == 3 + 2 + 2 + 3 + 4 + 5
    assert packed([]) == ""


def test_ranks_answers_and_texts_are_those_of_the_records(recorded_scenes):
    value, values, kept = explored(recorded_scenes)
    collection = DATASETS.configure(recorded_scenes.spec).build().load(recorded_scenes.data)
    texts, owners = collection.texts_of(collection.splits["test"], "captions")
    texts_shown = values[f"texts-{value['data']}"]
    assert texts_shown["captions"] == texts and unpacked(value["imageOf"]) == owners.tolist()
    assert texts_shown["ids"] == [collection.images.ids[row] for row in collection.splits["test"]]
    assert [texts_shown["first"][image] for image in owners] == np.searchsorted(owners, owners).tolist()
    assert (value["images"], value["texts"], value["protocol"]) == (20, 100, "captions")
    runs = {run.record.method.label: run for run in ResultStore(recorded_scenes.results).runs()}
    assert {line["label"] for line in value["rows"]} == runs.keys()
    for line in value["rows"]:
        run = runs[line["label"]]
        answers = read_answers(run.path, run.record)
        for way, counts in (("i2t", run.ranks.i2t), ("t2i", run.ranks.t2i)):
            scale, ranks = line[way]["scale"], np.array(unpacked(line[way]["ranks"]))
            assert scale == (10 if counts.tied.any() else 1)
            assert (ranks >= scale * counts.ranks() - 1e-5).all() and (ranks < scale * counts.ranks() + 1).all()
            found = unpacked(values[line["answers"]][way])
            assert (np.array(found) - 1).reshape(-1, 5).tolist() == getattr(answers, way).tolist()
        for way, of in zip(("i2t", "t2i"), drawn(20, 100, QUERIES), strict=True):
            few = line["few"][way]
            assert unpacked(few["of"]) == of.tolist()
            assert unpacked(few["found"]) == (getattr(answers, way)[of] + 1).flatten().tolist()
    assert {*kept.pictures} == {f"{value['data']}/{image}" for image in range(20)}


def test_explanations_are_of_the_first_answers(recorded_scenes):
    value, values, _ = explored(recorded_scenes)
    (line,) = (line for line in value["rows"] if "why" in line)
    assert line["label"].startswith("cran")
    captions = values[f"texts-{value['data']}"]["captions"]
    run = next(run for run in ResultStore(recorded_scenes.results).runs() if run.record.method.name == "cran")
    recorded = {(e.direction, e.image, e.text): e for e in read_examples(run.path).examples}
    assert len(recorded) == 2 * QUERIES
    for way in ("i2t", "t2i"):
        whys, found = values[line["why"]][way], dict(enumerate(unpacked(values[line["answers"]][way])[::5]))
        assert len(whys) == QUERIES
        for query, why in whys.items():
            assert why["first"] == found[int(query)] - 1
            read = captions[why["first"] if way == "i2t" else int(query)]
            assert (
                why["read"] == re.sub(r"[^a-z0-9 .,'-]", "", read.lower()) and len(why["boxes"]) == 5 and why["pairs"]
            )
            assert all(len(weights) == len(why["read"]) for weights in why["attention"].values())


def test_a_folder_has_all_pictures_and_each_value_in_a_file(recorded_scenes, tmp_path):
    _, values, _ = explored(recorded_scenes)
    _, none, kept = explored(recorded_scenes, folder=tmp_path / "site")
    assert none == {} and not kept.left_out
    written = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "site" / "details").iterdir()}
    assert written.keys() == values.keys()
    for name, text in written.items():
        assert json.loads(re.fullmatch(r'keep\("([^"]*)", (.*)\);\n', text, re.DOTALL)[2]) == values[name]
    assert len(list((tmp_path / "site" / "pictures").rglob("*.webp"))) == 20


def test_what_has_no_room_is_left_out(recorded_scenes, monkeypatch):
    value, values, _ = explored(recorded_scenes)
    size = {name: len(details.as_json(value).encode()) for name, value in values.items()}
    monkeypatch.setattr(details, "ROOM", size[f"texts-{value['data']}"] + size["queries-it"])
    again, fewer, kept = explored(recorded_scenes)
    assert again == value and fewer.keys() == {"queries-it", f"texts-{value['data']}"} and not kept.pictures
    assert {name for name in values if name not in fewer} == {*kept.left_out}
    monkeypatch.setattr(details, "ROOM", size[f"texts-{value['data']}"])
    assert explored(recorded_scenes)[0] is None


def test_records_without_answers_have_those_of_the_examples(recorded_scenes):
    before, _, _ = explored(recorded_scenes)
    for path in recorded_scenes.results.rglob("*.answers.npz"):
        path.unlink()
    value, values, _ = explored(recorded_scenes)
    assert not any("answers" in line for line in value["rows"]) and not any(
        name.startswith("answers") for name in values
    )
    assert [line["few"] for line in value["rows"]] == [line["few"] for line in before["rows"]]


def test_a_table_by_category_shares_the_queries(recorded_scenes):
    kept = Details(None)
    explorer = Explorer(recorded_scenes.data, recorded_scenes.cache, kept)
    tables = load_tables(recorded_scenes.results, [], [], [], "recall", "category", "contrasts")
    assert [explorer.add(table, f"t{k}") for k, table in enumerate(tables)] == [("queries-t0", "")] * 2
    assert [*kept.values] == [next(name for name in kept.values if name.startswith("texts-")), "queries-t0"]


def test_protocols_and_folds(command, quick_scenes, tmp_path):
    where = [*quick_scenes.arguments, "--results", tmp_path, "--backbone", quick_scenes.backbone]
    for options in (["-p", "documents,single,mean"], ["--folds", "3"]):
        assert command("run", "cfa", *where, *options).code == 0
    explorer = Explorer(quick_scenes.data, quick_scenes.cache, Details(None))
    for table in load_tables(tmp_path):
        name, _ = explorer.add(table, str(table.group.folds))
        value = json.loads(explorer.details.values[name])
        (line,) = value["rows"]
        texts, has_answers = {0: 20, 3: 90}[table.group.folds], table.group.protocol in ("documents", "single")
        assert (value["protocol"], value["folds"]) == (table.group.protocol, table.group.folds)
        assert len(unpacked(line["t2i"]["ranks"])) == len(unpacked(value["imageOf"])) == value["texts"] == texts
        assert ("answers" in line) is has_answers
        assert any(few["of"] for few in line.get("few", {}).values()) is (table.group.protocol == "documents")
    assert len(list(tmp_path.rglob("*.answers.npz"))) == 2


def test_without_the_dataset_there_are_numbers_only(command, flickr, tmp_path):
    cache, results = tmp_path / "cache", tmp_path / "results"
    where = ["--data", flickr, "--cache", cache]
    assert command("prepare", "flickr8k", *where, "--backbone", "pixels[dim=16]").code == 0
    assert command("run", "-d", "flickr8k", *where, "--results", results, "-m", "cfa[dim=4]").code == 0
    text = b"".join(path.read_bytes() for path in results.rglob("*.json"))
    assert b"beside" not in text, "a caption of the data stands in a record"

    def shown(data):
        said = command("report", "--results", results, "--cache", cache, "--data", data, "-o", tmp_path / "page.html")
        assert said.code == 0
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        values = dict(re.findall(r'id="(?:detail-)?([^"]+)">(.*?)</script>', page))
        return said.err, json.loads(next(v for k, v in values.items() if k.startswith("queries"))), values

    err, value, values = shown(tmp_path / "elsewhere")
    assert "flickr8k is shown without its captions and images" in err
    assert value["data"] == "" and len(unpacked(value["rows"][0]["i2t"]["ranks"])) == 6
    assert values["pictures"] == "{}" and "test00.jpg" not in "".join(values.values())
    _, value, values = shown(flickr)
    assert len(json.loads(values["pictures"])) == 6 and "beside" in values[f"texts-{value['data']}"]
    Image.new("RGB", (8, 8)).save(flickr / "flickr8k" / "images" / "test02.jpg")
    err, value, values = shown(flickr)
    assert "the files of its images differ from those of the records" in err and values["pictures"] == "{}"


def test_other_data_than_was_measured_is_not_shown(recorded_scenes, capsys):
    for path in recorded_scenes.results.rglob("*-s0-*.json"):
        if not path.name.endswith(".examples.json"):
            record = read_record(path)
            data = record.data.model_copy(update={"split_sha": "0" * 64})
            write_json(path, record.model_copy(update={"data": data}).sealed().model_dump())
    value, values, kept = explored(recorded_scenes)
    assert "its images or captions differ from those of the records" in capsys.readouterr().err
    assert value["data"] == "" and not kept.pictures and not any(name.startswith("texts") for name in values)
    assert all("few" not in line and "answers" in line for line in value["rows"])


def test_names_in_markup_and_from_right_to_left(command, tmp_path):
    data = tmp_path / "data"
    write_awkward_data(data)
    where = ["--data", data, "--cache", tmp_path / "cache", "--results", tmp_path / "results"]
    said = command("run", "-d", "folder", *where, "-m", "cfa[dim=4]", "--backbone", "pixels[dim=16]")
    assert said.code == 0, said.err
    assert command("report", *where, "-o", tmp_path / "page.html").code == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page and "<i " not in page
    texts = json.loads(re.search(r'id="detail-texts-[^"]*">(.*?)</script>', page)[1])
    assert f"a dog 18 {EVIL}" in texts["captions"] and f"{HEBREW} 18 {EVIL}" in texts["captions"]
    assert texts["ids"] == [f"<i {row}>&.png" if row % 2 else f"תמונה {row}.png" for row in range(18, 24)]


def test_each_version_of_a_dataset_has_its_own_captions(command, tmp_path):
    """Two folders with the same image names and one label: the page shows those that --data holds, not the others."""
    kept = ("--cache", tmp_path / "cache", "--results", tmp_path / "results")
    for word in ("old", "new"):
        (tmp_path / word).mkdir()
        lines = ["image,caption,split"]
        for k in range(12):
            Image.new("RGB", (8, 8), (20 * k, 0, 0)).save(tmp_path / word / f"{k}.png")
            lines.append(f"{k}.png,{word} picture {k},{('train', 'train', 'val', 'test')[k % 4]}")
        (tmp_path / word / "captions.csv").write_text("\n".join(lines))
        where = ("-d", "folder", "--data", tmp_path / word, "--backbone", "pixels[dim=16]", "--regions", "none")
        assert command("run", "cfa[dim=2]", *where, *kept).code == 0
    for word in ("old", "new"):
        said = command("report", "--data", tmp_path / word, *kept, "-o", tmp_path / "report.html")
        assert said.err.count("its images or captions differ from those of the records") == 1
        page = (tmp_path / "report.html").read_text()
        (texts,) = re.findall(r'id="detail-texts-[^"]*">(.*?)</script>', page)
        assert {caption.split()[0] for caption in json.loads(texts)["captions"]} == {word}
        queries = [json.loads(one) for one in re.findall(r'id="detail-queries-[^"]*">(.*?)</script>', page)]
        assert sorted(bool(value["data"]) for value in queries) == [False, True]
    said = command("table", "--results", tmp_path / "results")
    titles = [line for line in said.out.splitlines() if line.startswith("folder")]
    assert len(titles) == len(set(titles)) == 2 and all(" · split " in title for title in titles)
    assert said.out.count("Another table has this label but other data: they differ in split.") == 2


@pytest.mark.parametrize(
    ("ending", "change"),
    [
        (".examples.json", lambda data: b"{}"),
        (".examples.json", lambda data: data[:-30]),
        (".examples.json", lambda data: re.sub(rb'"found":\[\{.*?\}\]', b'"found":[]', data, count=1)),
        (".examples.json", lambda data: re.sub(rb'"score":[\d.-]+', b'"score":NaN', data, count=1)),
        (".examples.json", lambda data: re.sub(rb'"pairs":\[\[\d', b'"pairs":[[9', data, count=1)),
        (".answers.npz", lambda data: data[:-30]),
        (".answers.npz", lambda data: b""),
        (".curves.csv", lambda data: b""),
        (".curves.csv", lambda data: b"a,b\n1,2\n"),
        (".curves.csv", lambda data: re.sub(rb"[\d.]+\n", b"much\n", data, count=1)),
    ],
)
def test_damaged_companions_are_named_and_left_out(command, recorded_scenes, tmp_path, ending, change):
    broken = next(path for path in recorded_scenes.results.rglob("*" + ending) if "cran" in path.name)
    broken.write_bytes(change(broken.read_bytes()))
    said = command("report", "--results", recorded_scenes.results, "-o", tmp_path / "again.html")
    assert said.code == 0 and said.err.count(f"left out: {broken} holds no ") == 1
    assert (tmp_path / "again.html").exists()
