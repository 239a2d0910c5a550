"""Printed figures: the CRAN paper's recalls and orders, which records are comparable, and others' mAP by category."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from typing import Literal, cast

from cran_bench.protocols import Protocol
from cran_bench.records.schema import TESTED_ON, Record
from cran_bench.records.tasks import CATEGORY, FIGURES
from cran_bench.registry import METHODS
from cran_bench.specs import Spec, parse_spec, recorded_spec
from cran_bench.tables.rows import Row
from cran_bench.tables.tables import Table

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
"""Rows of the paper from better to worse, both by rsum and by R@1 in each direction."""

_WITH_REGIONS = ("CRAN", "CRAN-local", "CRAN-relation", "CCL")

OF_PAPER = {
    "torchvision:vgg19": {"weights": "DEFAULT", "node": "none", "relu": "true", "crop": "center"},
    "paper": {"detector": "DEFAULT", "vgg16": "DEFAULT", "iou": "0.5"},
}
"""Fields of the paper's backbone and regions, beside `precision=float32` and any device."""


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper.

    Attributes:
        table: number of the table.
        dataset: `flickr30k` or `mscoco`.
        name: as in the paper, "CRAN" for "Our CRAN Approach".
        values: the six recalls in percent.
        rules: how each direction is compared with records.
        provenance: where the numbers come from.
    """

    table: int
    dataset: str
    name: str
    values: Mapping[str, float]
    rules: Mapping[str, Rule]
    provenance: str

    @property
    def rsum(self) -> float:
        """The sum of the six recalls."""
        return sum(self.values.values())

    @property
    def protocol(self) -> Protocol:
        """The protocol that best matches the row: `mean` for CRAN, `captions` if copied, otherwise `documents`."""
        return "captions" if "copied" in self.rules.values() else matching(self.name)


def matching(name: str) -> Protocol:
    """The one-to-one protocol that best matches how the paper measured a row."""
    return "mean" if name.startswith("CRAN") else "documents"


def paper_rows(table: int, dataset: str = "") -> list[PaperRow]:
    """The rows of a table, of one dataset or of all, in the order of the paper."""
    return [
        PaperRow(
            table,
            line["dataset"],
            line["row"],
            {figure: round(100 * float(line[figure]), 1) for figure in FIGURES},
            {direction: cast("Rule", line[f"{direction}_rule"]) for direction in ("i2t", "t2i")},
            line["provenance"],
        )
        for line in _printed(f"table{table}.csv")
        if dataset in ("", line["dataset"])
    ]


@dataclass(frozen=True)
class PublishedRow:
    """Mean average precisions by category that others published.

    Attributes:
        dataset: name of the dataset.
        split: its test split.
        row: name of the method there.
        preset: the method and preset here; '' if there is none.
        values: `i2t_map` and `t2i_map` as fractions.
        provenance: `M` if quoted without the paper at hand, `C` if printed with public code.
        source: the publication.
    """

    dataset: str
    split: str
    row: str
    preset: str
    values: Mapping[str, float]
    provenance: Literal["M", "C"]
    source: str

    @property
    def is_quoted(self) -> bool:
        """Whether the figure was not checked, so that it is shown and never judged."""
        return self.provenance == "M"

    @property
    def label(self) -> str:
        """The label of the method here, with the fields that are always shown."""
        name = parse_spec(self.preset).name if self.preset else ""
        return METHODS.configure(self.preset).label if name in METHODS.names() else self.preset


def published_rows(dataset: str) -> list[PublishedRow]:
    """The published figures of a dataset, by its name; none for most."""
    lines = _printed("category.csv")
    texts = ("dataset", "split", "row", "preset")
    return [
        PublishedRow(
            **{name: line[name] for name in texts},
            values={figure: float(line[figure]) for figure in CATEGORY.directions.values()},
            provenance=cast("Literal['M', 'C']", line["provenance"]),
            source=line["source"],
        )
        for line in lines
        if line["dataset"] == dataset
    ]


def _printed(file: str) -> list[dict[str, str]]:
    text = resources.files("cran_bench.printed").joinpath(file).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def orders(dataset: str) -> list[tuple[str, str]]:
    """Pairs (better, worse) of adjacent rows in the paper's orders; for other data, those of both its datasets."""
    chains = CHAINS.get(dataset) or [chain for of_set in CHAINS.values() for chain in of_set]
    return list(dict.fromkeys(pair for chain in chains for pair in pairwise(chain)))


def not_comparable(record: Record) -> str:
    """The first of the reasons why a record is not comparable with the paper's numbers; '' if there is none."""
    return next(differences_from_paper(record), "")


def differences_from_paper(record: Record) -> Iterator[str]:
    """Yield the reasons why a record is not comparable with the paper's numbers.

    The paper uses VGG-19 features, VGG-16 regions of a Faster R-CNN, networks of full width, and 1,000 (Flickr-30K)
    and 5,000 (MS-COCO) test pairs.  Flickr-30K needs the split `entities`; both splits of MS-COCO are random.  CRAN's
    preset `tuned` is the paper's model with another training.
    """
    data, label = recorded_spec(record.data.label), recorded_spec(record.method.label)
    if record.data.fitted_on:
        yield "tested on another dataset than the paper's"
    elif data.name not in TEST_PAIRS:
        yield f"the paper has no {data.name}"
    elif record.data.quick or data.argument or record.folds or set(data.options) - {"split", "seed"}:
        yield "part of the data"
    elif data.name == "flickr30k" and data.options.get("split") != "entities":
        yield "no split=entities, whose numbers of images are the paper's"
    elif record.data.images != TEST_PAIRS[data.name]:
        yield f"{record.data.images:,} test images, but the paper has {TEST_PAIRS[data.name]:,}"
    changed = set(label.options) - {"width"}
    if changed or label.argument not in ("paper", "tuned"):
        yield f"other options ({', '.join(sorted(changed)) or label.argument or 'no preset'})"
    row = record.method.paper_row
    if row is None or paper_name(label.name) != row:
        yield "a method that the paper does not have"
        return
    width = record.method.parameters.get("width", label.options.get("width", "full"))
    if width != "full":
        yield f"width {width}"
    if row.startswith("CRAN") and label.argument == "tuned":
        yield "preset tuned has a training that was chosen on validation, not the paper's"
    backbone, _, regions = record.data.front_end.partition(" + ")
    if change := _changes(backbone, "torchvision:vgg19", "backbone"):
        yield change
    if row in _WITH_REGIONS and (change := _changes(regions, "paper", "regions")):
        yield change


def _changes(given: str, wanted: str, what: str) -> str:
    """How a backbone or the regions differ from the paper's, or ''."""
    spec = recorded_spec(given or "none")
    if str(Spec(spec.name, spec.argument)) != wanted:
        return f"other {what} than {wanted}"
    default = {**OF_PAPER[wanted], "precision": "float32", "device": spec.options.get("device")}
    changed = [f"{name}={value}" for name, value in spec.options.items() if value != default.get(name)]
    return f"other {what} than {wanted}: {', '.join(changed)}" if changed else ""


def find_row(tables: Iterable[Table], name: str, preset: str, protocol: Protocol) -> Row | None:
    """The measured row of a row of the paper, or None; preferably finished, comparable and with most seeds."""

    def quality(row: Row) -> tuple[bool, bool, int]:
        fits = not any(not_comparable(record) for record in row.records)
        return bool(row.records), fits, len(row.records)

    candidates = [
        row
        for table in tables
        if table.group.protocol == protocol and not table.group.folds
        for row in table.rows
        if paper_name(row.label) == name and is_plain(row.label, preset)
    ]
    return max(candidates, key=quality, default=None)


def paper_name(label: str) -> str | None:
    """The row of the paper that a method label reproduces, or None."""
    name = recorded_spec(label).name
    return METHODS.describe(name).paper_row if name in METHODS.names() else None


def is_plain(label: str, preset: str) -> bool:
    """Whether a label is that of a preset with no options other than the width."""
    spec = recorded_spec(label)
    return spec.argument == preset and not set(spec.options) - {"width"}


def is_of_paper(label: str) -> bool:
    """Whether the paper reports numbers on a dataset."""
    return dataset_name(label) in TEST_PAIRS


def dataset_name(label: str) -> str:
    """The name of the dataset that a label denotes; the whole label if the test split is another dataset's."""
    return label if TESTED_ON in label else recorded_spec(label).name


def of_dataset(tables: Sequence[Table], label: str) -> list[Table]:
    """The tables of a dataset; the bare name of one of the paper's datasets selects all its splits."""
    any_split = label in TEST_PAIRS
    return [
        table
        for table in tables
        if table.group.dataset == label or (any_split and dataset_name(table.group.dataset) == label)
    ]
