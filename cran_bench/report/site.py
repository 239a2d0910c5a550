"""Writes the page: one file that holds everything, or a folder whose details are loaded on demand."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from cran_bench.comparison import compare_dataset
from cran_bench.errors import BadInput
from cran_bench.machine.progress import say, track
from cran_bench.machine.storage import write_text
from cran_bench.tables.card import card
from cran_bench.tables.summary import summarise
from cran_bench.tables.tables import Table

from .contents import method_contents, table_contents, table_ids, tables_apart
from .curves import curve_contents
from .details import Details, as_json
from .paper import paper_contents
from .queries import Explorer

SCRIPTS = "dom", "route", "tables", "charts", "overview", "table", "row", "queries", "paper", "start"
"""The scripts of the page, in their order."""
MARK = '<meta name="generator" content="cran-bench">'
POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
"""What a page may load: its own text, and in a folder the files beside it; nothing from a network."""
POLICIES = {
    True: POLICY + "img-src 'self' file: data:; script-src 'self' file: 'unsafe-inline'",
    False: POLICY + "img-src data:; script-src 'unsafe-inline'",
}


def write_page(
    tables: Sequence[Table], data: Path, cache: Path, out: Path | None = None, folder: Path | None = None
) -> Path:
    """Write the page of some tables.

    Args:
        tables: their ranks, curves and examples are read.
        data: folder of the datasets, for images and captions.
        cache: folder in which the digests of images are noted.
        out: the file to write; or
        folder: the folder to write, with ``index.html``; files of an earlier page in it are replaced.

    Returns:
        The file to open.

    Raises:
        BadInput: a file beside a record is damaged, or the folder holds something else.
    """
    details = Details(folder)
    if folder is not None:
        _require_own(folder)
    contents = _contents(tables, details, data, cache)
    page = _page(contents, details, is_folder=folder is not None)
    target = out if folder is None else folder / "index.html"
    assert target is not None
    write_text(target, page)
    if details.left_out:
        say(f"left out for want of room: details of {len(details.left_out)} kinds; --site DIR has all")
    return target


def _contents(tables: Sequence[Table], details: Details, data: Path, cache: Path) -> dict[str, Any]:
    ids, shown, explorer = table_ids(tables), [], Explorer(data, cache, details)
    curves: dict[tuple[Path, ...], str] = {}  # tables of several tasks have the same runs
    every = zip(ids, tables_apart(tables), tables, strict=True)
    for table_id, told, table in track(every, "computing intervals", total=len(tables)):
        contents = table_contents(table, table_id, told)
        cards = details.put(f"cards-{table_id}", {row.label: card(row, table) for row in table.rows})
        first = tuple(row.runs[0].path for row in sorted(table.finished, key=lambda row: row.label))
        if first not in curves:
            trained = curve_contents(table.finished)
            curves[first] = details.put(f"curves-{table_id}", trained) if trained else ""
        shown.append(contents | {"details": {"cards": cards, "curves": curves[first]}})
    for contents, table in zip(shown, tables, strict=True):  # what takes most room comes last
        queries, contrasts = explorer.add(table, contents["id"])
        contents["details"] |= {"queries": queries, "contrasts": contrasts}
    explorer.fill()
    names = {id(table): name for table, name in zip(tables, ids, strict=True)}
    return {
        "runs": len({record.fingerprint for table in tables for row in table.rows for record in row.records}),
        "tables": shown,
        "methods": method_contents([row["method"] for contents in shown for row in contents["rows"]]),
        "standings": summarise(tables).contents(lambda table: names[id(table)]),
        "paper": paper_contents(tables),
        "comparisons": [
            {"dataset": dataset, **vars(verdict)}
            for dataset in dict.fromkeys(table.group.dataset for table in tables)
            for verdict in compare_dataset([t for t in tables if t.group.dataset == dataset], dataset, None)
        ],
    }


def _page(contents: Mapping[str, Any], details: Details, *, is_folder: bool) -> str:
    scripts = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    values = [_data(f"detail-{name}", text) for name, text in details.values.items()]
    pieces = {
        "folder": " data-folder" * is_folder,
        "policy": POLICIES[is_folder],
        "style": _asset("style.css"),
        "data": "\n".join(
            [_data("contents", as_json(contents)), _data("pictures", as_json(details.pictures)), *values]
        ),
        "script": scripts,
    }
    head, *rest = _asset("index.html").split("<!-- ")
    for part in rest:
        name, _, after = part.partition(" -->")
        head += pieces[name] + after
    return head


def _data(name: str, text: str) -> str:
    return f'<script type="application/json" id="{name}">{text}</script>'


def _require_own(folder: Path) -> None:
    """Delete the details of an earlier page in a folder.

    Raises:
        BadInput: it holds something, but no page.
    """
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file, but --site names a folder: give another")
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    index = folder / "index.html"
    if there and not (index.is_file() and MARK in index.read_text(encoding="utf-8", errors="replace")):
        raise BadInput(f"{folder} holds {there[0]}, and no page of cran-bench: give --site an empty folder")
    for name in ("details", "pictures"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _asset(name: str) -> str:
    return resources.files("cran_bench.report").joinpath("page", name).read_text(encoding="utf-8")
