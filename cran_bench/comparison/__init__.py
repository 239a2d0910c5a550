"""Verdicts: measured against the paper, against a committed reference, and methods against each other."""

from __future__ import annotations

from collections.abc import Sequence

from cran_bench.tables.paper import is_of_paper
from cran_bench.tables.tables import Table

from .verdict import Verdict
from .with_paper import compare_with_paper, paper_orders
from .with_reference import compare_with_reference

__all__ = ["Verdict", "compare_dataset"]


def compare_dataset(tables: Sequence[Table], label: str, reference: Sequence[Table] | None) -> list[Verdict]:
    """All there is to say of a dataset; rows of different data are never held against each other.

    Args:
        tables: its records.
        label: of the dataset.
        reference: committed records of a dataset that is not in the paper, or None to look at the orders alone.

    Raises:
        BadInput: the reference is of other data.
    """
    judge = compare_with_paper if is_of_paper(label) else paper_orders
    families: dict[tuple[object, ...], list[Table]] = {}
    for table in tables:
        families.setdefault(table.group.data(), []).append(table)
    return [
        *(compare_with_reference(tables, reference) if reference is not None else []),
        *(verdict for family in families.values() for verdict in judge(family)),
    ]
