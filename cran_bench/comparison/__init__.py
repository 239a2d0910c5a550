"""Comparisons with the paper and with committed records, and significance tests between methods."""

from __future__ import annotations

from collections.abc import Sequence

from cran_bench.tables.paper import is_of_paper
from cran_bench.tables.tables import Group, Table

from .verdict import Verdict
from .with_paper import compare_with_paper, paper_orders
from .with_reference import compare_with_reference

__all__ = ["Verdict", "compare_dataset"]


def compare_dataset(tables: Sequence[Table], label: str, reference: Sequence[Table] | None) -> list[Verdict]:
    """Compare the records of a dataset with the paper or a reference; only rows of the same data are compared.

    Records of `--quick` are not compared with the paper.

    Args:
        tables: the records of the dataset.
        label: label of the dataset.
        reference: committed records of a dataset that is not in the paper, or None to check only the paper's orders.

    Raises:
        BadInput: the reference is of different data.
    """
    compare = compare_with_paper if is_of_paper(label) else paper_orders
    same_data: dict[Group, list[Table]] = {}
    for table in (table for table in tables if not table.group.quick):
        same_data.setdefault(table.group.data(), []).append(table)
    return [
        *(compare_with_reference(tables, reference) if reference is not None else []),
        *(verdict for group in same_data.values() for verdict in compare(group)),
    ]
