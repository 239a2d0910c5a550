"""The pages of docs/methods are what the docstrings and the committed records give now."""

import re
from pathlib import Path

from cran_bench.registry import METHODS

ROOT = Path(__file__).parents[1]


def test_the_committed_pages_are_current(command, tmp_path):
    said = command("info", "--pages", tmp_path, "--results", ROOT / "results/reference")
    assert said.code == 0
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in (ROOT / "docs/methods").iterdir()}
    again = "docs/methods is out of date: cran-bench info --pages docs/methods"
    assert made.keys() == kept.keys(), again
    assert [name for name in made if made[name] != kept[name]] == [], again


def test_every_method_says_what_it_is_and_has_its_paper_row():
    for name in METHODS.names():
        page = (ROOT / "docs/methods" / f"{name}.md").read_text()
        for heading in ("## Options", "## Presets", "## Measured", "## In the paper"):
            assert heading in page, (name, heading)
        options = re.findall(r"^- `(\w+)`: \S", page, re.MULTILINE)
        assert len(options) >= 5 and len(options) == len(set(options)), name


def test_info_wants_a_name_or_a_folder(command, tmp_path):
    for arguments in ([], ["cca", "--pages", tmp_path]):
        said = command("info", *arguments)
        assert said.code == 2 and "info takes a name, or --pages DIR" in said.sentence
