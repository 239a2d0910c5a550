"""Pages for tests: of real runs on scenes and on a folder with awkward names, and of very many records."""

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from PIL import Image

import cran_bench
from cran_bench.cli.options import load_tables
from cran_bench.records.tasks import TASKS
from cran_bench.report import write_page
from cran_bench.report.contents import table_ids

EVIL = '</script><img src=x onerror=alert(1)> & "quoted"'
HEBREW = "כלב שחור רץ על החוף"


@dataclass(frozen=True)
class Example:
    """A page of one file, the same as a folder, and what to look at in them."""

    page: Path
    folder: Path
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


def write_example(folder, tiny):
    """The page of a few rows on scenes, whose records `tiny` has, one of which failed, and on awkward data."""
    results, cache, data = folder / "results", folder / "cache", folder / "data"
    shutil.copytree(tiny.results, results)
    shutil.copytree(tiny.cache, cache)
    kept = {"results": results, "cache": cache}
    scenes = {"dataset": tiny.spec, "data": folder, "backbone": tiny.backbone, **kept}
    cran_bench.run("cca,cfa,cca[text=encoder]", contrasts="swap", **scenes)
    cran_bench.run("cca,cfa", protocols="documents", **scenes)
    write_awkward_data(data)
    cran_bench.run("cfa[dim=4],cca[dim=4]", "folder", data=data, backbone="pixels[dim=16]", **kept)
    page = page_of(results, data, cache, folder / "page.html")
    index = page_of(results, data, cache, folder=folder / "site")
    return Example(page, index, routes_of(load_tables(results, [], [], [], *TASKS)))


def routes_of(tables):
    """The address of every view: of each table, and one of each other kind."""
    ids = table_ids(tables)
    first = next(table for table in tables if table.finished)
    label = quote(first.finished[0].label, safe="")
    views = [f"#/table/{quote(name, safe='')}" for name in ids]
    views += [f"#/{view}/{quote(ids[tables.index(first)], safe='')}/{label}" for view in ("row",)]
    views += [f"#/queries/{quote(ids[tables.index(first)], safe='')}", "#/paper", f"#/method/{label}"]
    views += [f"#/contrasts/{quote(name, safe='')}" for name in ids if name.endswith("contrasts-swap")]
    return ("#/", *views, f"#/dataset/{quote(first.group.dataset, safe='')}")
