"""Pages for tests: of real runs on scenes and on a folder with awkward names, and of very many records."""

import csv
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

import cran_bench
from cran_bench.cli.options import load_tables
from cran_bench.records.tasks import TASKS
from cran_bench.report import write_page
from cran_bench.report.contents import table_ids
from cran_bench.report.paper import same_data
from tests.conftest import RECORDED

EVIL = '</script><img src=x onerror=alert(1)> & "quoted"'
HEBREW = "כלב שחור רץ על החוף"


@dataclass(frozen=True)
class Example:
    """A page of one file, the same as a folder, and what to look at in them."""

    page: Path
    folder: Path
    large: Path
    routes: tuple[str, ...]


def write_awkward_data(folder):
    """A folder dataset whose captions and image names are markup, or run from right to left."""
    folder.mkdir()
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "split"])
        for row in range(24):
            name = f"<i {row:02}>&.png" if row % 2 else f"תמונה {row:02}.png"
            Image.new("RGB", (32, 32), (10 * row, 255 - 10 * row, 40 * (row % 4))).save(folder / name)
            split = "train" if row < 12 else "val" if row < 18 else "test"
            rows.writerows([name, f"{text} {row} {EVIL}", split] for text in ("a dog", HEBREW))


def page_of(results, data, cache, out=None, folder=None):
    """Write the page of all records below a folder."""
    tables = load_tables(results, [], [], [], *TASKS)
    return write_page(tables, data, cache, out, folder)


def write_example(folder):
    """The page of a few rows on scenes, one of which failed, and on awkward data."""
    results, cache, data = folder / "results", folder / "cache", folder / "data"
    kept = {"results": results, "cache": cache}
    scenes = "scenes[train=60,val=20,test=20]"
    options = {"data": folder, "backbone": "pixels[dim=64]", **kept}
    cran_bench.run(f"{RECORDED},cca[text=encoder]", scenes, contrasts="swap", **options)
    cran_bench.run("cca,cfa", scenes, "documents", **options)
    write_awkward_data(data)
    cran_bench.run("cfa[dim=4],cca[dim=4]", "folder", data=data, backbone="pixels[dim=16]", **kept)
    page = page_of(results, data, cache, folder / "page.html")
    index = page_of(results, data, cache, folder=folder / "site")
    table = next(name for name in table_ids(load_tables(results)) if "captions-recall" in name and "scenes" in name)
    routes = ("#/", f"#/table/{table}", f"#/row/{table}/cca%3Atuned", "#/method/cca%3Atuned", "#/dataset/folder")
    beside = next(data.id for data in same_data(load_tables(results)) if "scenes" in data.id)
    routes += ("#/paper", f"#/paper?table=1&on={beside}&preset=tuned", f"#/paper?table=3&on={beside}&figure=t2i_r5")
    return Example(page, index, page, routes)
