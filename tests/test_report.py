"""The page: what is in it, what can not be in it, and that a browser opens it without complaint."""

import json
import os
import re
import shutil
import subprocess

import pytest

from cran_bench.examples import QUERIES, TOP
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
def page(command, quick_scenes, tmp_path):
    results = tmp_path / "results"
    tiny = "cran[width=compact,start=scratch,max_epochs=2,lstm_layers=1]"
    assert command("run", *quick_scenes.arguments, "--results", results, "-m", f"cca,cfa,{tiny}").code == 0
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


def test_nothing_in_the_data_ends_the_script_or_becomes_markup(command, tmp_path):
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    assert as_json({"a": "</script><b>&"}) == '{"a":"\\u003c/script\\u003e\\u003cb\\u003e\\u0026"}'
    assert json.loads(as_json({"a": "</script><b>&"})) == {"a": "</script><b>&"}


def test_without_the_dataset_there_are_placeholders(command, flickr, tmp_path):
    cache, results = tmp_path / "cache", tmp_path / "results"
    where = ["--data", flickr, "--cache", cache]
    assert command("prepare", "flickr8k", *where, "--images-with", "pixels[dim=16]").code == 0
    assert command("run", "-d", "flickr8k", *where, "--results", results, "-m", "cfa[dim=4]").code == 0
    out = tmp_path / "report.html"
    said = command("report", "--results", results, "--data", tmp_path / "elsewhere", "-o", out)
    assert said.code == 0 and "the gallery of flickr8k has no pictures" in said.err
    found = contents(out)
    assert found["images"] == {"flickr8k": {}} and found["texts"] == {"flickr8k": {}}
    text = "".join(path.read_text() for path in results.rglob("*.json"))
    assert "beside" not in text, "a caption of the data stands in a record"
    assert command("report", "--results", results, "--data", flickr, "-o", out).code == 0
    assert contents(out)["images"]["flickr8k"]


def test_damaged_companions_are_named(command, page, tmp_path):
    broken = next((tmp_path / "results").rglob("*.examples.json"))
    kept = broken.read_text()
    broken.write_text("{}")
    said = command("report", "--results", tmp_path / "results", "-o", tmp_path / "again.html")
    assert said.code == 2 and f"{broken} holds no example queries" in said.sentence
    broken.write_text(kept)
    curves = next((tmp_path / "results").rglob("*.curves.csv"))
    curves.write_text("")
    said = command("report", "--results", tmp_path / "results", "-o", tmp_path / "again.html")
    assert said.code == 2 and f"{curves} holds no training curves" in said.sentence
    assert not (tmp_path / "again.html").exists()


def test_nothing_recorded(command, tmp_path):
    said = command("report", "--results", tmp_path, "-o", tmp_path / "report.html")
    assert said.code == 2 and "there are no such records" in said.sentence


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
