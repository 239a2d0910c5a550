"""What the CRAN paper printed: Tables 1 to 3, the orders in them, and which records may be held against them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from typing import Literal, cast

from cran_bench.protocols import Protocol
from cran_bench.records.schema import Record
from cran_bench.records.statistics import FIGURES
from cran_bench.registry import METHODS
from cran_bench.specs import parse_spec
from cran_bench.tables.tables import Row, Table

Rule = Literal["one_to_one", "copied", "informational"]

TABLES: dict[int, tuple[str, ...]] = {1: ("flickr30k",), 2: ("mscoco",), 3: ("flickr30k", "mscoco")}
TEST_PAIRS = {"flickr30k": 1000, "mscoco": 5000}
DATASET_NAMES = {"flickr30k": "Flickr-30K", "mscoco": "MS-COCO"}

CHAINS: dict[str, tuple[tuple[str, ...], ...]] = {
    "flickr30k": (
        ("CRAN", "CCL", "Corr-AE", "Bimodal AE", "Multimodal DBN"),
        ("CFA", "KCCA", "CCA"),
        ("CRAN", "CRAN-local", "CRAN-baseline"),
        ("CRAN", "CRAN-relation", "CRAN-baseline"),
    ),
    "mscoco": (
        ("CRAN", "CCL", "Corr-AE", "Bimodal AE", "Multimodal DBN"),
        ("CFA", "CCA"),
        ("CRAN", "CRAN-local", "CRAN-relation", "CRAN-baseline"),
    ),
}
"""Rows from better to worse, as printed; what holds in both directions at R@1 and in the sum of recalls."""

_WITH_REGIONS = ("CRAN", "CRAN-local", "CRAN-relation", "CCL")


@dataclass(frozen=True)
class PaperRow:
    """A row as printed.

    Attributes:
        table: its number.
        dataset: `flickr30k` or `mscoco`.
        name: as in the paper, "CRAN" for "Our CRAN Approach".
        values: the six recalls in percent.
        rules: by direction, what may be held against it.
        provenance: who measured it.
    """

    table: int
    dataset: str
    name: str
    values: Mapping[str, float]
    rules: Mapping[str, Rule]
    provenance: str

    @property
    def rsum(self) -> float:
        """Sum of the six recalls."""
        return sum(self.values.values())

    @property
    def protocol(self) -> Protocol:
        """Ours that matches the row best: `mean` for CRAN, `documents` for the others, `captions` where copied."""
        return "captions" if "copied" in self.rules.values() else matching(self.name)


def matching(name: str) -> Protocol:
    """The protocol of ours that matches best how a row was measured, one text to one image."""
    return "mean" if name.startswith("CRAN") else "documents"


def paper_rows(table: int) -> list[PaperRow]:
    """A table's rows, in the order of the paper."""
    text = resources.files("cran_bench.printed").joinpath(f"table{table}.csv").read_text(encoding="utf-8")
    return [
        PaperRow(
            table,
            line["dataset"],
            line["row"],
            {figure: round(100 * float(line[figure]), 1) for figure in FIGURES},
            {direction: cast("Rule", line[f"{direction}_rule"]) for direction in ("i2t", "t2i")},
            line["provenance"],
        )
        for line in csv.DictReader(text.splitlines())
    ]


def orders(dataset: str) -> list[tuple[str, str]]:
    """Pairs of rows, the better one first, that follow each other in the paper's orders; both sets' for other data."""
    chains = CHAINS.get(dataset) or [chain for of_set in CHAINS.values() for chain in of_set]
    return list(dict.fromkeys(pair for chain in chains for pair in pairwise(chain)))


def not_comparable(record: Record) -> str:
    """Why a record may not be held against the paper's numbers; '' where it may.

    The paper has VGG-19 features, VGG-16 regions of a Faster R-CNN, networks of full width, the preset's own options,
    and 1,000 and 5,000 test pairs: of Flickr-30K that is the split `entities`; of MS-COCO either, for both are random.
    """
    data, label = parse_spec(record.data.label), parse_spec(record.method.label)
    if data.name not in TEST_PAIRS:
        return f"the paper has no {data.name}"
    if record.data.quick or record.folds or set(data.options) - {"split", "seed"}:
        return "part of the data"
    if data.name == "flickr30k" and data.options.get("split") != "entities":
        return "another split: the paper's numbers of images are those of split=entities"
    if record.data.images != TEST_PAIRS[data.name]:
        return f"{record.data.images:,} test images, where the paper has {TEST_PAIRS[data.name]:,}"
    changed = set(label.options) - {"width"}
    if changed or label.argument not in ("paper", "tuned"):
        return f"other options ({', '.join(sorted(changed)) or label.argument or 'no preset'})"
    if record.method.parameters.get("width", "full") != "full":
        return f"width {record.method.parameters['width']}"
    backbone, _, regions = record.data.front_end.partition(" + ")
    seen = parse_spec(backbone)
    if (seen.name, seen.argument) != ("torchvision", "vgg19"):
        return "another backbone than VGG-19"
    if record.method.paper_row in _WITH_REGIONS and (not regions or parse_spec(regions).name != "paper"):
        return "other regions"
    return ""


def find_row(tables: Iterable[Table], name: str, preset: str, protocol: Protocol) -> Row | None:
    """The row of a paper's row: of its preset without other options, finished, comparable, with most seeds, if any."""

    def quality(row: Row) -> tuple[bool, bool, int]:
        fits = not any(not_comparable(record) for record in row.records)
        return bool(row.records), fits, len(row.records)

    found = [
        row
        for table in tables
        if table.group.protocol == protocol and not table.group.folds
        for row in table.rows
        if paper_name(row.label) == name and is_plain(row.label, preset)
    ]
    return max(found, key=quality, default=None)


def paper_name(label: str) -> str | None:
    """Which row of the paper a label reproduces."""
    name = parse_spec(label).name
    return METHODS.get(name).paper_row if name in METHODS.names() else None


def is_plain(label: str, preset: str) -> bool:
    """Whether a label is of a preset, without options but the width."""
    spec = parse_spec(label)
    return spec.argument == preset and not set(spec.options) - {"width"}


def is_of_paper(label: str) -> bool:
    """Whether the paper has numbers of this dataset."""
    return parse_spec(label).name in TEST_PAIRS


def of_dataset(tables: Sequence[Table], label: str) -> list[Table]:
    """Those of a dataset; the bare name of one that is in the paper takes every split of it."""
    takes_all = label in TEST_PAIRS
    return [
        table
        for table in tables
        if table.group.dataset == label or (takes_all and parse_spec(table.group.dataset).name == label)
    ]
