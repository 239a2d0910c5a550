"""Comparisons with the paper and with committed records, and significance tests between methods."""

from __future__ import annotations

from collections.abc import Sequence

from cran_bench.records.tasks import CATEGORY, RECALL
from cran_bench.tables.paper import dataset_name, is_of_paper
from cran_bench.tables.tables import Group, Table

from .verdict import Verdict
from .with_paper import compare_with_paper, paper_orders
from .with_published import compare_published
from .with_reference import compare_with_reference

__all__ = ["Verdict", "compare_dataset"]


def compare_dataset(tables: Sequence[Table], label: str, reference: Sequence[Table] | None) -> list[Verdict]:
    """Compare the records of a dataset with the paper or a reference; only rows of the same data are compared.

    All are compared with the reference, those by category with published figures too.  Records of `--quick` are not
    compared with the paper.

    Args:
        tables: the records of the dataset, by all tasks.
        label: label of the dataset.
        reference: committed records of a dataset that is not in the paper, or None to check only the paper's orders.

    Raises:
        BadInput: the reference is of different data.
    """
    compare = compare_with_paper if is_of_paper(label) else paper_orders
    same_data: dict[Group, list[Table]] = {}
    recalls, others = ([t for t in tables if t.task is task] for task in (RECALL, CATEGORY))
    for table in (table for table in recalls if not table.group.quick):
        same_data.setdefault(table.group.data(), []).append(table)
    return [
        *(compare_with_reference(tables, reference) if reference is not None else []),
        *(verdict for group in same_data.values() for verdict in compare(group)),
        *compare_published(others, dataset_name(label)),
    ]
