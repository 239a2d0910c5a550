"""What the page knows of the tables, as JSON: the figures of every row, who may be the best, and where details are."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cran_bench.machine.storage import sha256_json, slug
from cran_bench.records.tasks import FIGURES
from cran_bench.registry import METHODS
from cran_bench.tables.figures import PHASES, heading
from cran_bench.tables.paper import differences_from_paper
from cran_bench.tables.rows import Row, exposure_notes, merge_notes, reference_notes
from cran_bench.tables.tables import Group, Table

ENVIRONMENT = "unit", "kernel", "processor", "GPU", "threads", "torch", "commit"
LONGEST = 80
"""Characters of a name, as it becomes that of a file."""


def table_ids(tables: Sequence[Table]) -> list[str]:
    """A name for each table that stays the same when others are added, unless they have its labels but other data."""
    plain, told = [_plain_id(table) for table in tables], tables_apart(tables)
    return [_shortened(f"{name}-{slug(text)}" if text else name) for name, text in zip(plain, told, strict=True)]


def tables_apart(tables: Sequence[Table]) -> list[str]:
    """What tells each table from others with its labels but other data, as in `apart`."""
    return apart([table.group for table in tables], [_plain_id(table) for table in tables])


def apart(groups: Sequence[Group], labels: Sequence[str]) -> list[str]:
    """What tells groups of equal labels from each other: front end, word vectors or encoder, or a sha256; else ''."""
    found = []
    for group, label in zip(groups, labels, strict=True):
        alike = [other for other, its in zip(groups, labels, strict=True) if its == label]
        of = [tuple(getattr(one, name) for one in alike) for name in ("front_end", "vectors", "text_encoder")]
        texts = [values[alike.index(group)] or "no text encoder" for values in of if len({*values}) > 1]
        parts = [re.sub(r"\[[^\]]*\]", "", text).split(" + ") for text in texts]
        told = [" + ".join(part.rpartition(":")[2] for part in some) for some in parts]
        is_told = len({*zip(*of, strict=True)}) == len(alike)
        found.append(", ".join(told if is_told else [*told, sha256_json(asdict(group))[:6]]))
    return found


def _plain_id(table: Table) -> str:
    group = table.group
    folds = f"{group.folds}folds" if group.folds else ""
    return slug("-".join(filter(None, (group.dataset, group.protocol, folds, table.task.name, group.of))))


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}-{sha256_json(name)[:6]}"


def table_contents(table: Table, table_id: str, told: str = "") -> dict[str, Any]:
    """A table: its columns, rows and notes.

    Args:
        table: whose ranks are read.
        table_id: its name in links.
        told: what tells it from other tables, as in `tables_apart`.
    """
    group, task, finished = table.group, table.task, table.finished
    columns, lines = table.display(), len(table.above.get("method", ()))
    folds = f"{group.folds} folds" if group.folds else ""
    notes = reference_notes(finished) + exposure_notes(finished) + merge_notes(table.rows, table.folders)
    return {
        "id": table_id,
        "name": ", ".join(filter(None, (group.dataset, group.protocol, table.kind, folds, told))),
        "apart": told,
        "title": table.title,
        "dataset": group.dataset,
        "protocol": group.protocol,
        "task": task.name,
        "kind": table.kind or "recall",
        "folds": group.folds,
        "quick": group.quick,
        "inputs": group.inputs,
        "images": max((record.data.images for row in finished for record in row.records), default=0),
        "marks": notes,
        "notes": [note for note in table.notes if note not in notes],
        "headline": task.headline,
        "headlineName": heading(task.headline),
        "most": task.perfect(task.headline),
        "environment": list(ENVIRONMENT),
        "columns": [{"name": name, "heading": _heading(name)} for name in columns],
        "important": [sorted(group & columns.keys()) for group in table.importance],
        "above": [{name: cells[line] for name, cells in columns.items()} for line in range(lines)],
        "rows": [
            _row(table, row, {name: cells[lines:][at] for name, cells in columns.items()})
            for at, row in enumerate(table.rows)
        ],
    }


def _row(table: Table, row: Row, cells: dict[str, str]) -> dict[str, Any]:
    rank, headline = table.rank_intervals().get(row.label), table.task.headline
    gap, value, ends = table.behind_best().get(row.label), row.mean(headline), [math.nan]
    reasons = dict.fromkeys(reason for record in row.records for reason in differences_from_paper(record))
    if table.has_intervals and row.records and table.task.has(headline):
        ends = [round(end, 4) for end in table.samples[row.label].interval(headline).ends]
    return {
        "label": row.label,
        "method": row.spec.name,
        "preset": row.spec.argument,
        "seeds": [record.seed for record in row.records],
        "status": row.status,
        "failures": [failure.sentence for failure in row.failures],
        "marks": row.exposures,
        "cells": {column: cell.strip() for column, cell in cells.items()},
        "interval": None if math.isnan(ends[0]) else ends,
        "value": None if math.isnan(value) else value,
        "behind": [gap.value, *gap.ends] if gap else None,
        "place": table.places().get(row.label, ""),
        "rank": rank and list(rank),
        "ranked": row.is_ranked,
        "reference": row.reference,
        "seconds": {phase: round(row.seconds(phase), 4) for phase in PHASES[1:]} if row.records else {},
        "memory": row.peak_memory,
        "comparable": "; ".join(reasons),
        "environment": _environment(row),
    }


def _heading(name: str) -> str:
    """A heading that stands alone, as columns may be hidden: ``i2t R@5``."""
    return "{} R@{}".format(*name.split("_r")) if name in FIGURES else heading(name)


def _environment(row: Row) -> list[str]:
    """In which environment the first seed of a row was run, in the order of `ENVIRONMENT`."""
    if not row.records:
        return []
    record, about = row.records[0], row.records[0].environment
    machine = (str(about.get(name) or "") for name in ("cpu", "gpu", "threads", "torch"))
    return [record.method.unit, record.similarity.kernel, *machine, " ".join(row.commits)]


def method_contents(names: Sequence[str]) -> dict[str, Any]:
    """What is known of the methods of these names that are installed, without importing them."""
    known = [name for name in dict.fromkeys(names) if name in METHODS.names()]
    described = {name: METHODS.describe(name) for name in known}
    return {name: {"summary": about.summary, "paperRow": about.paper_row or ""} for name, about in described.items()}
