"""The page "What is true of CRAN": every difference on it is that of the committed records."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

import cran_bench
from cran_bench.cli.options import load_tables
from cran_bench.comparison.significance import significance_table
from cran_bench.registry import DATASETS, METHODS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "claims.md"
REFERENCE = ROOT / "results" / "reference"
ROWS = ["cran", "cran-relation", "cran-local", "cran-baseline"]
CELL = r"[+-]\d+\.\d \[-?\d+\.\d, -?\d+\.\d\]"


def label_of(name: str, preset: str) -> str:
    """The label of a row that a table calls by its method alone, or for other rows than CRAN's by its label."""
    if not name.startswith("cran"):
        return METHODS.configure(name).label
    plugin, _, fields = name.removesuffix("]").partition("[")
    plus = preset == "plus"
    plugin = plugin.replace("cran", "cran-plus", 1) if plus else plugin
    fields = ",".join(filter(None, [fields, "width=compact"]))
    return METHODS.configure(f"{plugin}:{'tuned' if plus else preset}[{fields}]").label


def differences() -> list[tuple[str, str, str, str]]:
    """Dataset, labels of both rows, and the difference as printed, for every cell of the tables of differences."""
    found = []
    columns: list[tuple[str, str]] = []
    for line in PAGE.read_text().splitlines():
        first, *cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else [""]
        if first == "difference of rsum":
            columns = [(heading.split(" on ")[1], heading.split(" on ")[0].strip("`")) for heading in cells]
        elif not cells:
            columns = []
        elif columns and (names := re.findall(r"`([^`]+)`", first)):
            for (dataset, preset), cell in zip(columns, cells, strict=True):
                if cell:
                    assert re.fullmatch(CELL, cell), cell
                    found.append((dataset, *(label_of(name, preset) for name in names), cell))
    return found


def test_there_are_differences():
    assert len(differences()) >= 20


@pytest.mark.parametrize(("dataset", "first", "other", "cell"), differences())
def test_a_difference_is_that_of_the_records(dataset, first, other, cell):
    tables = load_tables(REFERENCE, [DATASETS.configure(dataset).label], ["captions"], [first, other])
    lines = json.loads(significance_table(tables, [first, other], "json"))
    found = next(line for line in lines if line["figure"] == "rsum")
    assert cell == f"{found['difference']:+.1f} {found['95 % interval'].replace('+', '')}"


@pytest.fixture(scope="module")
def records():
    return cran_bench.read_records(REFERENCE).query("protocol == 'captions'")


def test_twins_on_unseen_scenes_are_those_of_the_records(records):
    chosen = records["dataset"].isin(["scenes[seed=1]", "scenes[seed=2]"])
    found = records[chosen & (records["method"] == METHODS.configure("cran-plus-relation").label)]["twin_accuracy"]
    assert len(found) == 10
    page = " ".join(PAGE.read_text().split())
    assert f"{min(found):.1f} to {max(found):.1f} % of twins in ten runs on unseen scenes" in page
    assert (found >= 85).sum() == 8 and "eight reach the 85 % that we had set for each" in page


@pytest.mark.parametrize(
    ("dataset", "told"), [("scenes", "of 4 to 13 on scenes"), ("flickr8k", "of 1 to 3 on Flickr8k")]
)
def test_the_deviation_of_differences_over_seeds_is_that_of_the_records(records, dataset, told):
    rows = records[
        (records["dataset"] == dataset) & records["method"].isin([f"{row}:tuned[width=compact]" for row in ROWS])
    ]
    rsum = rows.pivot(index="seed", columns="method", values="rsum")
    assert rsum.shape[1] == len(ROWS)
    found = [(rsum[one] - rsum[other]).std() for one, other in combinations(rsum, 2)]
    assert f"of {min(found):.0f} to {max(found):.0f} on" in told
    assert told in " ".join(PAGE.read_text().split())


@pytest.mark.parametrize("method", ROWS)
@pytest.mark.parametrize("preset", ["paper", "tuned"])
def test_the_papers_model_has_twins_at_chance(records, method, preset):
    chosen = records["method"] == f"{method}:{preset}[width=compact]"
    found = records[chosen & (records["dataset"] == "scenes")]["twin_accuracy"]
    assert len(found) == {"paper": 1, "tuned": 5}[preset]
    assert found.between(49, 51).all() and "in 49 to 51 %" in PAGE.read_text()
