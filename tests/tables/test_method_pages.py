"""The pages of docs/methods are what the docstrings and the committed records give now."""

import dataclasses
import re
from pathlib import Path

import pytest

from cran_bench.registry import DATASETS, METHODS
from cran_bench.tables.method_pages import description, field_texts

ROOT = Path(__file__).parents[2]


def test_the_committed_pages_are_current(command, tmp_path):
    said = command("info", "--pages", tmp_path, "--results", ROOT / "results/reference")
    assert said.code == 0
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in (ROOT / "docs/methods").iterdir()}
    again = "docs/methods is out of date: cran-bench info --pages docs/methods"
    assert made.keys() == kept.keys(), again
    assert [name for name in made if made[name] != kept[name]] == [], again


def test_every_method_says_what_it_is_and_rows_of_the_paper_have_theirs():
    for name in METHODS.names():
        page = (ROOT / "docs/methods" / f"{name}.md").read_text()
        assert "## Options" in page and ("## Presets" in page) == bool(METHODS.get(name).presets), name
        in_paper = METHODS.describe(name).paper_row is not None
        assert ("## In the paper" in page) == in_paper and ("## Measured" in page or not in_paper), name
        options = re.findall(r"^- `(\w+)`(?: = `[^`]+`|, empty): \S", page, re.MULTILINE)
        assert (len(options) >= 5 or not in_paper) and len(options) == len(set(options)), name
        assert page.count("\n- `") == len(options), name


def with_groups(cls):
    """A dataclass and the dataclasses of its fields."""
    return [cls, *(type(f.default) for f in dataclasses.fields(cls) if dataclasses.is_dataclass(f.default))]


@pytest.mark.parametrize("registry", [METHODS, DATASETS], ids=lambda registry: registry.kind)
def test_every_field_is_documented_on_a_line_of_its_own(registry):
    for name in registry.names():
        for cls in with_groups(registry.get(name).cls):
            fields, texts = {f.name for f in dataclasses.fields(cls)}, field_texts(cls)
            assert fields <= texts.keys(), (name, fields - texts.keys())
            for field in fields:
                others = [other for other in fields if re.search(rf"[;.] {other}: ", texts[field])]
                assert others == [], (name, field, others)


def test_a_field_without_a_line_is_shown_without_text():
    @dataclasses.dataclass
    class Base:
        """A base.

        Attributes:
            one: the first; it
                has two lines.
        """

        one: int = 1

    @dataclasses.dataclass
    class Mine(Base):
        """Mine.

        More of it.
        """

        two: float = 0.5
        base: Base = dataclasses.field(default_factory=lambda: Base(7))

    assert description(Mine()) == [
        "Mine.\n\nMore of it.",
        "- `one` = `1`: the first; it has two lines.\n- `two` = `0.5`",
        "### base",
        "A base.",
        "- `one` = `7`: the first; it has two lines.",
    ]


def test_pages_do_not_send_readers_to_private_names():
    for name in METHODS.names():
        page = (ROOT / "docs/methods" / f"{name}.md").read_text()
        assert re.findall(r"\b[Ss]ee [`A-Z_]\S+|(?<![\w}])_[a-z]\w+|[A-Z][a-z]+Method\b", page) == [], name


def test_info_wants_a_name_or_a_folder(command, tmp_path):
    for arguments in ([], ["cca", "--pages", tmp_path]):
        said = command("info", *arguments)
        assert said.code == 2 and "info takes a name, or --pages DIR" in said.sentence
