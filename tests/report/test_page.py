"""What the page holds: the figures of the tables, stable addresses, and nothing that is fetched or executed."""

import json
import re
from importlib import resources

import numpy as np
import pytest

from cran_bench.cli.options import load_tables
from cran_bench.records.tasks import TASKS
from cran_bench.report import site
from cran_bench.report.contents import ENVIRONMENT, table_contents, table_ids
from cran_bench.report.details import as_json
from cran_bench.report.site import SCRIPTS

PAGE = resources.files("cran_bench.report") / "page"


def script(name):
    return (PAGE / f"{name}.js").read_text(encoding="utf-8")


@pytest.fixture
def page(command, recorded_scenes, tmp_path):
    out = tmp_path / "report.html"
    said = command("report", "--results", recorded_scenes.results, "-o", out)
    assert said.code == 0 and f"wrote {out}" in said.err
    return out


def contents(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="contents">(.*?)</script>', text).group(1))


def test_it_is_one_file_that_fetches_nothing(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!#|data:)', text)
    assert set(re.findall(r"https?:[^\"')\s]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text and "<!-- " not in text


def test_figures_are_those_of_the_table(page, recorded_scenes):
    (table,) = load_tables(recorded_scenes.results)
    (shown,) = (one for one in contents(page)["tables"] if one["task"] == "recall")
    assert shown == table_contents(table, shown["id"]) | {"details": shown["details"]}
    frame = table.frame().set_index("method")
    assert [row["label"] for row in shown["rows"]] == list(frame.index)
    for row in shown["rows"]:
        assert row["value"] == pytest.approx(frame.loc[row["label"], "rsum"], abs=1e-4)
        ends = frame.loc[row["label"], ["rsum_low", "rsum_high"]].to_numpy(float)
        np.testing.assert_allclose(row["interval"], ends, atol=1e-3)
        assert row["interval"][0] <= row["value"] <= row["interval"][1]
        assert row["cells"]["rsum"] == f"{row['value']:.1f}"
        assert len(row["environment"]) == len(ENVIRONMENT) and row["comparable"].startswith("the paper has no scenes; ")


def test_the_best_row_and_those_that_may_be(page, recorded_scenes):
    (table,) = load_tables(recorded_scenes.results)
    places = {row["label"]: row["place"] for row in contents(page)["tables"][0]["rows"]}
    behind = table.behind_best()
    best = max(table.rows, key=lambda row: row.mean("rsum")).label
    assert places.pop(best) == "best"
    assert places == {label: "maybe" if gap.high >= 0 else "behind" for label, gap in behind.items()}


def test_addresses_stay_when_tables_are_added(command, recorded_scenes):
    where = [*recorded_scenes.arguments, "--backbone", recorded_scenes.backbone]
    before = table_ids(load_tables(recorded_scenes.results, [], [], [], *TASKS))
    assert command("run", "cfa", *where, "-p", "documents,mean").code == 0
    after = table_ids(load_tables(recorded_scenes.results, [], [], [], *TASKS))
    assert len(set(after)) == 3 * len(before) and set(before) < set(after)
    assert table_ids([]) == []


def test_what_is_in_json_ends_no_script():
    assert json.loads(as_json({"a": "</script><b>&"})) == {"a": "</script><b>&"}
    assert not set("<>&") & set(as_json(["<!--", "</script>", "&"]))


def test_a_folder_holds_the_same_page_and_its_details(command, page, recorded_scenes, tmp_path):
    folder = tmp_path / "site"
    for _ in range(2):  # the second replaces the first
        said = command("report", "--results", recorded_scenes.results, "--site", folder)
        assert said.code == 0 and f"wrote {folder / 'index.html'}" in said.err
    assert contents(folder / "index.html") == contents(page)
    for name in (name for table in contents(page)["tables"] for name in table["details"].values() if name):
        assert (folder / "details" / f"{name}.js").read_text(encoding="utf-8").startswith(f'keep("{name}", {{')


def test_no_folder_of_others_is_written_over(command, recorded_scenes, tmp_path):
    for own in ("pictures", "index.html", "notes.txt"):
        folder = tmp_path / own
        folder.mkdir()
        (folder / own).mkdir() if own == "pictures" else (folder / own).write_text("mine")
        said = command("report", "--results", recorded_scenes.results, "--site", folder)
        assert said.code == 2 and f"{folder} holds {own}, and no page of cran-bench" in said.sentence
        assert [path.name for path in folder.iterdir()] == [own]
    said = command("report", "--results", recorded_scenes.results, "--site", tmp_path / "notes.txt" / "notes.txt")
    assert said.code == 2 and "is a file, but --site names a folder" in said.sentence
    said = command("report", "--results", recorded_scenes.results, "--site", tmp_path / "s", "-o", tmp_path / "a.html")
    assert said.code == 2 and "give either --out FILE or --site DIR" in said.sentence


def test_a_folder_keeps_the_earlier_page_until_the_next_is_complete(command, recorded_scenes, tmp_path, monkeypatch):
    folder = tmp_path / "site"
    build = ["report", "--results", recorded_scenes.results, "--site", folder]

    def stop(*_, **__):
        raise KeyboardInterrupt

    def files():
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    with monkeypatch.context() as patch:
        patch.setattr(site, "_page", stop)
        assert command(*build).code != 0 and not files()
    assert command(*build).code == 0
    before = files()
    with monkeypatch.context() as patch:
        patch.setattr(site, "_page", stop)
        assert command(*build, "-m", "cfa").code != 0
    assert files() == before
    mine = [folder / "CNAME", folder / "details" / "notes.md", folder / "pictures" / "mine.png"]
    for file in mine:
        file.write_text("mine")
    (folder / "details" / "stale.js").write_text("")
    assert command(*build).code == 0
    assert files() == before | {file.relative_to(folder): b"mine" for file in mine}


def test_no_link_to_a_folder_of_others_is_followed(command, recorded_scenes, tmp_path):
    folder = tmp_path / "site"
    build = ["report", "--results", recorded_scenes.results, "--site", folder]
    assert command(*build).code == 0
    (folder / "details").rename(tmp_path / "mine")
    (folder / "details").symlink_to(tmp_path / "mine")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").iterdir()}
    said = command(*build)
    assert said.code == 2 and f"{folder / 'details'} is a link" in said.sentence
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").iterdir()}


def test_nothing_recorded(command, tmp_path):
    said = command("report", "--results", tmp_path, "-o", tmp_path / "report.html")
    assert said.code == 2 and "there are no records below" in said.sentence
    assert not (tmp_path / "report.html").exists()


def test_no_name_is_declared_twice():
    """The scripts share one scope."""
    names = re.findall(r"^(?:async )?(?:function|const|let) (\w+)", "\n".join(map(script, SCRIPTS)), re.MULTILINE)
    assert len(names) > 50 and len(names) == len(set(names))
    assert {f"{name}.js" for name in SCRIPTS} == {path.name for path in PAGE.iterdir() if path.name.endswith(".js")}
