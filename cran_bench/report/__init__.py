"""The report: a self-contained HTML page of recorded results, which needs no network and no server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from cran_bench.comparison.verdict import Verdict
from cran_bench.errors import escaped
from cran_bench.machine.extras import require
from cran_bench.ranking.contrasted import HEADLINE
from cran_bench.records.store import ResultStore
from cran_bench.records.tasks import RECALL
from cran_bench.tables.figures import heading
from cran_bench.tables.tables import Row, Table, exposure_notes

from .charts import bars, curves, phases
from .gallery import Gallery

CHARTS: Mapping[str, tuple[str, str, float, int | None]] = {
    "rsum": ("Sum of recalls", "out of 600, with 95 % interval", 600.0, None),
    "map": ("Mean average precision by category", "mean of both directions, with 95 % interval", 1.0, None),
    HEADLINE: ("Contrasts", "percent, mean of balanced kinds, with 95 % interval; the line marks chance", 100.0, 50),
    "tau_c": ("Agreement with people", "tau-c times 100, with 95 % interval", 100.0, None),
    "map_r": ("Several right answers", "mAP@R, with 95 % interval", 1.0, None),
}
"""The title, note, end of scale and marked percent of the chart of a task, by its headline."""
EXAMPLES = "Example queries and answers", "Hardest contrasts: the false caption scores above the true one"


def build_report(
    tables: Sequence[Table], store: ResultStore, verdicts: Mapping[str, Sequence[Verdict]], data: Path, cache: Path
) -> str:
    """Render the page.

    Args:
        tables: one section each.
        store: holds their records, with training curves and examples.
        verdicts: comparisons, by dataset.
        data: folder of the datasets, for the images and captions of the gallery.
        cache: folder in which the digests of images are noted.

    Raises:
        BadInput: jinja2 is not installed, or a file beside a record is damaged.
    """
    require("jinja2", "report", "the report")
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("cran_bench.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: escaped(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    gallery = Gallery(data, cache)
    sections = [_section(number, table, store, gallery) for number, table in enumerate(tables)]
    return templates.get_template("page.html.j2").render(
        sections=sections,
        verdicts=[(label, [_verdict(v) for v in some]) for label, some in verdicts.items() if some],
        gallery=as_json(gallery.contents()),
        style=_asset("style.css"),
        script=_asset("page.js"),
    )


def as_json(value: Any) -> str:
    """JSON that is safe inside a script element: nothing in it closes the element."""
    text = json.dumps(_visible(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _visible(value: Any) -> Any:
    """A JSON value with control characters escaped in all its strings."""
    if isinstance(value, Mapping):
        return {_visible(key): _visible(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_visible(inner) for inner in value]
    return escaped(value) if isinstance(value, str) else value


def _section(number: int, table: Table, store: ResultStore, gallery: Gallery) -> dict[str, Any]:
    columns, finished = table.display(), table.finished
    marks, task = exposure_notes(finished), table.task
    more = finished if task is RECALL else []  # what a table by category shows too is shown once
    gallery.add(number, table, more or (finished if task.name == HEADLINE else []), store)
    lines, above = list(zip(*columns.values(), strict=True)), len(table.above.get("method", ()))
    title, note, most, mark = CHARTS.get(task.headline.rpartition(".")[2], CHARTS["map_r"])
    ablation = [row for row in more if (row.records[0].method.paper_row or "").startswith("CRAN")]
    return {
        "id": f"s{number}",
        "title": table.title,
        "quick": table.group.quick,
        "marks": marks,
        "notes": [note for note in (*table.notes, *table.failed) if note not in marks],
        "headings": [heading(name) for name in columns],
        "headline": heading(task.headline),
        "above": lines[:above],
        "lines": [(line, _sort_values(line)) for line in lines[above:]],
        "chart": {"title": title, "note": note, "rows": bars(table, table.ranked, task.headline, most), "mark": mark},
        "ablation": bars(table, ablation, "rsum", 600.0) if len(ablation) > 1 else [],
        "twins": bars(table, more, "twin_accuracy", 100.0),
        "phases": phases(more),
        "curves": curves(more, store),
        "environment": _environment(more),
        "examples": EXAMPLES[task.name == HEADLINE] if gallery.has(number) else "",
    }


def _sort_values(line: Sequence[str]) -> list[float | str]:
    """The sort key of each cell: its first number, or the text of the first cell."""
    values: list[float | str] = [line[0]]
    for cell in line[1:]:
        first = cell.replace(",", "").split(" ")[0]
        try:
            values.append(float(first))
        except ValueError:
            values.append(0.0 if first == "best" else float("-inf"))
    return values


def _environment(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The environment in which the first seed of each row was run: headings and lines."""
    lines = []
    for row in rows:
        record, about = row.records[0], row.records[0].environment
        seeds = " ".join(str(record.seed) for record in row.records)
        line = [row.label, seeds, record.method.unit, record.similarity.kernel]
        lines.append([*line, *(str(about.get(name) or "") for name in ("cpu", "gpu", "torch")), " ".join(row.commits)])
    return ["method", "seeds", "unit", "kernel", "cpu", "gpu", "torch", "commit"], lines


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "title": verdict.title,
        "headings": verdict.headings,
        "lines": verdict.lines,
        "notes": [*verdict.notes, *verdict.regressions],
    }


def _asset(name: str) -> str:
    return resources.files("cran_bench.report").joinpath("page", name).read_text(encoding="utf-8")
