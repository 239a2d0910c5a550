"""Descriptions of plugins from their docstrings, and a page per method with its measured and published results."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from cran_bench.records.tasks import FIGURES
from cran_bench.registry import METHODS, Plugin
from cran_bench.specs import format_value
from cran_bench.tables.paper import DATASET_NAMES, TABLES, paper_rows
from cran_bench.tables.tables import Table

HEADINGS = ["i2t R@1", "R@5", "R@10", "t2i R@1", "R@5", "R@10", "rsum"]


def method_pages(tables: Sequence[Table]) -> dict[str, str]:
    """Markdown by file name: a page for each registered method, with the results in `tables`, and an index."""
    plugins = [METHODS.get(name) for name in METHODS.names()]
    index = [
        "# Methods",
        "",
        "One page each, made from the docstrings and the committed records by `cran-bench info --pages docs/methods`.",
        "",
        *(f"- [{plugin.name}]({plugin.name}.md): {METHODS.describe(plugin.name).summary}" for plugin in plugins),
        "",
    ]
    return {"README.md": "\n".join(index)} | {f"{p.name}.md": _page(p, tables) for p in plugins}


def description(instance: Any) -> list[str]:
    """Paragraphs of markdown: the docstring of a dataclass, and a list of its fields with values for each group."""
    cls, lines, groups = type(instance), [], list[str]()
    texts = field_texts(cls)
    for f in (f for f in dataclasses.fields(cls) if f.init):
        value = getattr(instance, f.name)
        if dataclasses.is_dataclass(value):
            groups += [f"### {f.name}", *description(value)]
        else:
            shown = f" = `{format_value(value)}`" if value not in ("", ()) else ", empty"
            lines.append(f"- `{f.name}`{shown}" + (f": {texts[f.name]}" if f.name in texts else ""))
    head = inspect.cleandoc(vars(cls).get("__doc__") or "").partition("Attributes:\n")[0].strip()
    return [*filter(None, [head, "\n".join(lines)]), *groups]


def field_texts(cls: type) -> dict[str, str]:
    """Descriptions of fields, from "Attributes:" in the docstrings of a dataclass and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        attributes = inspect.cleandoc(vars(base).get("__doc__") or "").partition("Attributes:\n")[2]
        for item in re.split(r"\n(?=\w+: )", inspect.cleandoc(attributes)):
            name, colon, text = " ".join(item.split()).partition(": ")
            if colon:
                texts[name] = text
    return texts


def module_text(cls: type) -> str:
    """The docstring of the module that defines a class."""
    return inspect.getdoc(sys.modules[cls.__module__]) or ""


def _page(plugin: Plugin[Any], tables: Sequence[Table]) -> str:
    parts = [
        f"# {plugin.name}",
        module_text(plugin.cls),
        "## Options",
        *description(METHODS.configure(plugin.name).build()),
        *["Values are those of the preset `tuned`."] * ("tuned" in plugin.presets),
    ]
    presets = [
        [f"`{name}`", ", ".join(f"{key}={format_value(value)}" for key, value in fields.items()) or "the values above"]
        for name, fields in plugin.presets.items()
    ]
    parts += ["## Presets", _table(["preset", "changes"], presets)] if presets else []
    measured = _measured(plugin.name, tables)
    if measured:
        parts += [
            "## Measured",
            "Recall in percent, the mean over seeds; `cran-bench table` has intervals and seconds.",
        ]
        parts.append(_table(["dataset", "protocol", "row", "seeds", *HEADINGS], measured, right=4))
    printed, provenance = _printed(plugin.paper_row)
    if printed:
        parts += ["## In the paper", _table(["table", "dataset", *HEADINGS], printed, right=2), *provenance]
    return "\n\n".join(parts) + "\n"


def _measured(name: str, tables: Sequence[Table]) -> list[list[str]]:
    rows = [
        (table.group, row)
        for table in tables
        for row in table.rows
        if row.records and row.records[0].method.name == name and not table.group.quick
    ]
    rows.sort(key=lambda pair: (pair[0].dataset, pair[0].protocol, -pair[1].mean("rsum")))
    return [
        [
            group.dataset,
            group.protocol,
            f"`{row.label}`",
            str(len(row.records)),
            *(f"{row.mean(figure):.1f}" for figure in (*FIGURES, "rsum")),
        ]
        for group, row in rows
    ]


def _printed(name: str | None) -> tuple[list[list[str]], list[str]]:
    rows = [row for table in TABLES for row in paper_rows(table) if row.name == name]
    lines = [
        [str(r.table), DATASET_NAMES[r.dataset], *(f"{r.values[f]:.1f}" for f in FIGURES), f"{r.rsum:.1f}"]
        for r in rows
    ]
    return lines, [f"{DATASET_NAMES[r.dataset]}, table {r.table}: {r.provenance}." for r in rows]


def _table(headings: list[str], lines: list[list[str]], right: int | None = None) -> str:
    align = ["left" if right is None or k < right else "right" for k in range(len(headings))]
    cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return tabulate(cells, headings, tablefmt="pipe", disable_numparse=True, colalign=align)
