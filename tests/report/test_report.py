"""The page: what is in it, what can not be in it, and that a browser opens it without complaint."""

import csv
import json
import os
import re
import shutil
import subprocess

import pytest
from PIL import Image

from cran_bench.machine.storage import write_json
from cran_bench.records.archive import read_record
from cran_bench.records.examples import QUERIES, TOP
from cran_bench.report import as_json

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def page(command, recorded_scenes, tmp_path):
    results = recorded_scenes.results
    out = tmp_path / "report.html"
    said = command("report", "--results", results, "-o", out)
    assert said.code == 0 and f"wrote {out}" in said.err
    return out


def contents(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="gallery">(.*?)</script>', text).group(1))


def test_it_is_one_file_with_rows_charts_and_examples(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!#|data:)', text)
    assert "http://www.w3.org/2000/svg" in text and text.count("http") == text.count("http://www.w3.org/2000/svg")
    for words in ("cca:tuned", "Sum of recalls", "Seconds by phase", "Twin accuracy", "Training curves", "polyline"):
        assert words in text
    found = contents(page)
    (section,) = found["sections"].values()
    assert [run["method"].partition(":")[0] for run in section["runs"]] == ["cca", "cfa", "cran"]
    label = section["dataset"]
    for run in section["runs"]:
        assert len(run["examples"]) == 2 * QUERIES
        for example in run["examples"]:
            assert len(example["found"]) == TOP
            assert all(answer["image"] in found["texts"][label] for answer in example["found"])
    assert all(image.startswith("data:image/webp;base64,") for image in found["images"][label].values())


def test_the_same_queries_for_every_method(page):
    (section,) = contents(page)["sections"].values()
    asked = [[(e["direction"], e["image"], e["text"]) for e in run["examples"]] for run in section["runs"]]
    assert asked[0] == asked[1] == asked[2]


def test_attention_lies_over_the_characters_that_were_read(page):
    (section,) = contents(page)["sections"].values()
    explained = [e for run in section["runs"] for e in run["examples"] if "why" in e]
    assert len(explained) == 2 * QUERIES
    for example in explained:
        assert len(example["why"]["boxes"]) == 5 and example["why"]["pairs"]
        for weights in example["why"]["attention"].values():
            assert len(weights) == len(example["read"])


EVIL = '</script><img src=x onerror=alert(1)> & "quoted"'


@pytest.fixture
def evil(command, tmp_path):
    """A report of a folder whose captions and image names are markup."""
    folder = tmp_path / "mine"
    folder.mkdir()
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "split"])
        for row in range(24):
            name = f"<i {row:02}>&.png"
            colour = (10 * row, 255 - 10 * row, 40 * (row % 4))
            Image.new("RGB", (32, 32), colour).save(folder / name)
            split = "train" if row < 12 else "val" if row < 18 else "test"
            rows.writerows([name, f"a {word} {row} {EVIL}", split] for word in ("dog", "cat"))
    where = ["-d", "folder", "--data", folder, "--cache", tmp_path / "cache", "--results", tmp_path / "evil"]
    said = command("run", *where, "-m", "cfa[dim=4]", "--backbone", "pixels[dim=16]")
    assert said.code == 0, said.err
    out = tmp_path / "evil.html"
    assert command("report", "--results", tmp_path / "evil", "--data", folder, "-o", out, *where[4:6]).code == 0
    return out


def test_nothing_in_the_data_becomes_markup(evil):
    assert json.loads(as_json({"a": "</script><b>&"})) == {"a": "</script><b>&"}
    text = evil.read_text(encoding="utf-8")
    assert "<img src=x" not in text and "<i " not in text and text.count("</script>") == 2
    (texts,) = contents(evil)["texts"].values()
    assert any(EVIL in caption for own in texts.values() for caption in own)


def test_without_the_dataset_there_are_placeholders(command, flickr, tmp_path):
    cache, results = tmp_path / "cache", tmp_path / "results"
    where = ["--data", flickr, "--cache", cache]
    report = ("report", "--results", results, "--cache", cache)
    assert command("prepare", "flickr8k", *where, "--backbone", "pixels[dim=16]").code == 0
    assert command("run", "-d", "flickr8k", *where, "--results", results, "-m", "cfa[dim=4]").code == 0
    out = tmp_path / "report.html"
    said = command(*report, "--data", tmp_path / "elsewhere", "-o", out)
    assert said.code == 0 and "the gallery of flickr8k has no images" in said.err
    found = contents(out)
    assert [*found["images"].values()] == [*found["texts"].values()] == [{}]
    text = "".join(path.read_text() for path in results.rglob("*.json"))
    assert "beside" not in text, "a caption of the data stands in a record"
    assert command(*report, "--data", flickr, "-o", out).code == 0
    assert any(contents(out)["images"].values())
    Image.new("RGB", (8, 8)).save(flickr / "flickr8k" / "images" / "test02.jpg")
    said = command(*report, "--data", flickr, "-o", out)
    assert "the files of its images differ from those of the records" in said.err
    assert not any(contents(out)["images"].values())


@pytest.mark.parametrize(
    ("ending", "change"),
    [
        (".examples.json", lambda text: "{}"),
        (".examples.json", lambda text: text[:-30]),
        (".examples.json", lambda text: re.sub(r'"found":\[\{.*?\}\]', '"found":[]', text, count=1)),
        (".examples.json", lambda text: re.sub(r'"score":[\d.-]+', '"score":NaN', text, count=1)),
        (".examples.json", lambda text: re.sub(r'"pairs":\[\[\d', '"pairs":[[9', text, count=1)),
        (".curves.csv", lambda text: ""),
        (".curves.csv", lambda text: "a,b\n1,2\n"),
        (".curves.csv", lambda text: re.sub(r"[\d.]+\n", "much\n", text, count=1)),
    ],
)
def test_damaged_companions_are_named(command, page, tmp_path, ending, change):
    broken = next(path for path in (tmp_path / "results").rglob("*" + ending) if "cran" in path.name)
    broken.write_text(change(broken.read_text()))
    said = command("report", "--results", tmp_path / "results", "-o", tmp_path / "again.html")
    assert said.code == 2 and f"{broken} holds no " in said.sentence
    assert not (tmp_path / "again.html").exists()


def test_other_data_than_was_measured_is_not_shown(command, page, tmp_path):
    for path in (tmp_path / "results").rglob("*-s0-*.json"):
        if not path.name.endswith(".examples.json"):
            record = read_record(path)
            data = record.data.model_copy(update={"split_sha": "0" * 64})
            write_json(path, record.model_copy(update={"data": data}).sealed().model_dump())
    said = command("report", "--results", tmp_path / "results", "-o", tmp_path / "again.html")
    assert said.code == 0 and "its images or captions differ from those of the records" in said.err
    assert not any(contents(tmp_path / "again.html")["images"].values())


def test_each_version_of_a_dataset_has_its_own_captions(command, tmp_path):
    """Two folders with the same image names and one label: the report shows those that --data holds, not the others."""
    kept = ("--cache", tmp_path / "cache", "--results", tmp_path / "results")
    for word in ("old", "new"):
        (tmp_path / word).mkdir()
        lines = ["image,caption,split"]
        for k in range(12):
            Image.new("RGB", (8, 8), (20 * k, 0, 0)).save(tmp_path / word / f"{k}.png")
            lines.append(f"{k}.png,{word} picture {k},{('train', 'train', 'val', 'test')[k % 4]}")
        (tmp_path / word / "captions.csv").write_text("\n".join(lines))
        where = ("-d", "folder", "--data", tmp_path / word, "--backbone", "pixels[dim=16]", "--regions", "none")
        said = command("run", "cfa[dim=2]", *where, *kept)
        assert said.code == 0, said.err
    for word in ("old", "new"):
        said = command("report", "--data", tmp_path / word, *kept, "-o", tmp_path / "report.html")
        assert said.err.count("its images or captions differ from those of the records") == 1
        found = contents(tmp_path / "report.html")
        texts = [found["texts"][section["dataset"]].values() for section in found["sections"].values()]
        words = [{caption.split()[0] for own in some for caption in own} for some in texts]
        assert sorted(words, key=len) == [set(), {word}]
    said = command("table", "--results", tmp_path / "results")
    titles = [line for line in said.out.splitlines() if line.startswith("folder")]
    assert len(titles) == len(set(titles)) == 2 and all(" · split " in title for title in titles)
    assert said.out.count("Another table has this label but other data: they differ in split.") == 2


def test_nothing_recorded(command, tmp_path):
    said = command("report", "--results", tmp_path, "-o", tmp_path / "report.html")
    assert said.code == 2 and "there are no records below" in said.sentence


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: apt-get install chromium")
def test_a_browser_opens_it(page, tmp_path):
    """No console error; a heading sorts; all pictures of the gallery decode; the verdict is left in the title."""
    probe = """
    <script>
    const complaints = [], found = {complaints};
    addEventListener("error", event => complaints.push(String(event.message)));
    addEventListener("DOMContentLoaded", () => {
      const table = document.querySelector("table.sortable");
      const column = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent === "rsum");
      const read = () => [...table.tBodies[0].rows].map(row => parseFloat(row.cells[column].textContent));
      const sort = () => { table.tHead.rows[0].cells[column].querySelector("button").click(); return read(); };
      [found.rising, found.falling] = [sort(), sort()];
      for (const details of document.querySelectorAll("details")) {
        details.open = true;
        details.dispatchEvent(new Event("toggle"));  // now, so that the load event waits for its pictures
      }
    });
    addEventListener("load", () => {
      const images = [...document.images];
      found.cards = document.querySelectorAll(".card").length;
      found.images = images.length;
      found.broken = images.filter(image => !image.naturalWidth).length;
      found.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
      found.open = performance.getEntriesByType("navigation")[0].domContentLoadedEventEnd;
      document.title = JSON.stringify(found);
    });
    </script>
    """
    probed = tmp_path / "probed.html"
    text = page.read_text(encoding="utf-8")
    probed.write_text(text.replace("<head>", "<head>" + probe, 1), encoding="utf-8")
    for width in (1280, 390):
        profile = tmp_path / f"profile{width}"
        command = [CHROMIUM, *QUIET, f"--user-data-dir={profile}", f"--window-size={width},900", "--dump-dom"]
        command += ["--enable-logging=stderr", probed.as_uri()]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(tmp_path)}
        )
        assert "CONSOLE" not in done.stderr, done.stderr
        title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
        assert title, done.stdout[:500] + done.stderr[-2000:]
        found = json.loads(title.group(1).replace("&quot;", '"').replace("&amp;", "&"))
        assert found["complaints"] == []
        assert found["rising"] == sorted(found["rising"]) and found["falling"] == found["rising"][::-1]
        assert found["cards"] == QUERIES and found["images"] > QUERIES and found["broken"] == 0
        assert found["wide"] == 0, f"the page is wider than {width} pixels"
        assert found["open"] < 1000
