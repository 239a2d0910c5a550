"""Pages for tests: of real runs on scenes and on a folder with awkward names, and of very many records."""

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from PIL import Image

import cran_bench
from cran_bench.cli.options import load_tables
from cran_bench.errors import escaped
from cran_bench.records.tasks import TASKS
from cran_bench.report import write_page
from cran_bench.report.contents import table_ids
from cran_bench.report.paper import same_data

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
    tables = load_tables(results, [], [], [], *TASKS)
    beside = next(data.id for data in same_data(tables) if "scenes" in data.id)
    paper = f"#/paper?table=1&on={beside}&preset=tuned", f"#/paper?table=3&on={beside}&figure=t2i_r5"
    return Example(page, index, (*routes_of(tables), *paper))


def routes_of(tables):
    """The address of every view: of each table, the one with most rows first, and one of each other kind."""
    names = dict(zip(table_ids(tables), tables, strict=True))
    ids = [quote(name, safe="") for name in sorted(names, key=lambda name: -len(names[name].finished))]
    first = max(tables, key=lambda table: len(table.finished))
    label = quote(escaped(first.finished[0].label), safe="")
    views = [f"#/table/{name}" for name in ids]
    views += [f"#/row/{ids[0]}/{label}", f"#/queries/{ids[0]}", "#/paper", f"#/method/{label}"]
    views += [f"#/contrasts/{name}" for name in ids if "-contrasts" in name]
    return ("#/", *views, f"#/dataset/{quote(escaped(first.group.dataset), safe='')}")
