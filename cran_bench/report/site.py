"""Writes the page: one file that holds everything, or a folder whose details are loaded on demand."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from cran_bench.comparison import compare_dataset
from cran_bench.errors import BadInput
from cran_bench.machine.progress import say, track
from cran_bench.machine.storage import clear_os_errors, write_text
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
BUILDING = ".cran-bench-"
"""What the name of a folder begins with in which a page is built."""
OWN = "details/*.js", "pictures/*/*.webp"
"""Files of a page in a folder, beside its index."""
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
        BadInput: the folder holds something else, or cannot be written.
    """
    target = out if folder is None else folder / "index.html"
    assert target is not None
    with contextlib.nullcontext() if folder is None else _replaced(folder) as building:
        details = Details(building)
        contents = _contents(tables, details, data, cache)
        page = _page(contents, details, is_folder=folder is not None)
        write_text(target if building is None else building / target.name, page)
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
            trained = curve_contents(table.finished, details)
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


@contextlib.contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A folder in which a page is built; when it is complete, its files replace those of an earlier page in `folder`.

    Raises:
        BadInput: `folder` holds something, but no page, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file, but --site names a folder: give another")
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    there = [name for name in there if not name.startswith(BUILDING)]
    index = folder / "index.html"
    if there and not (index.is_file() and MARK in index.read_text(encoding="utf-8", errors="replace")):
        raise BadInput(f"{folder} holds {there[0]}, and no page of cran-bench: give --site an empty folder")
    for part in (folder / "details", folder / "pictures", *folder.glob("pictures/*")):
        if part.is_symlink():
            raise BadInput(f"{part} is a link, and files elsewhere are not replaced: delete it")
    with clear_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        building = tempfile.TemporaryDirectory(prefix=BUILDING, dir=folder)
    with building as name:
        yield Path(name)
        with clear_os_errors(folder):
            _move(Path(name), folder)


def _move(made: Path, folder: Path) -> None:
    """Move the files of a page to a folder, the index last, and delete those that only an earlier page has."""
    before = {path for pattern in OWN for path in folder.glob(pattern) if path.is_file()}
    files = [path.relative_to(made) for path in made.rglob("*") if path.is_file()]
    for file in sorted(files, key=lambda file: (len(file.parts) == 1, file)):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (made / file).replace(folder / file)
    for stale in before - {folder / file for file in files}:
        stale.unlink()
        with contextlib.suppress(OSError):  # it holds other files
            stale.parent.rmdir()


def _asset(name: str) -> str:
    return resources.files("cran_bench.report").joinpath("page", name).read_text(encoding="utf-8")
