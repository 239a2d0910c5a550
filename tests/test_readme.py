"""The README: short, its commands and links exist, its table is that of the committed records."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer

import cran_bench
from cran_bench.cli import app
from cran_bench.registry import DATASETS, METHODS, each

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
COMMAND = r"(?:^ *(?:\$ )?|`)(cran-bench [a-z][^`\n]*)"


def test_it_is_short():
    assert len(README.split()) <= 900


PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(str(p.relative_to(ROOT)) for p in [*ROOT.glob("docs/*.md"), *ROOT.glob("results/*/README.md")]),
]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_exist(page, tmp_path, monkeypatch):
    """Every command, with its options and the fields of its methods and datasets, though it is not run."""
    (tmp_path / "work").mkdir()
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    root = typer.main.get_command(app)
    lines = re.findall(COMMAND, (ROOT / page).read_text().replace("\\\n", " "), re.MULTILINE)
    for line in lines:
        name, *arguments = shlex.split(line, comments=True)[1:]
        verb = root.get_command(None, name)
        while arguments and hasattr(verb, "get_command"):  # export has commands of its own
            verb = verb.get_command(None, arguments.pop(0))
        assert verb, f"{page}: there is no command {name}: {line}"
        if not arguments or "..." in line:
            continue
        with verb.make_context(name, arguments) as given:
            named = [*(given.params.get("methods") or []), *(given.params.get("more") or [])]
            datasets = given.params.get("datasets") or given.params.get("dataset") or []
        for text in each(named):
            if ".py" not in text and not text.isupper():
                for file in map(Path, re.findall(r"[\w/.-]+\.(?:npy|run)", text)):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    np.save(file, np.zeros((2, 3))) if file.suffix == ".npy" else file.touch()
                METHODS.configure(text)
        for text in [datasets] if isinstance(datasets, str) else datasets:
            if ".py" not in text and not text.isupper():
                DATASETS.configure(text)
    assert lines or page not in ("README.md", "docs/start.md")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text()):
        assert (ROOT / target).exists(), target


def test_its_table_is_what_is_recorded():
    lines = re.findall(r"^\| (\S+:tuned\S*) \| (.*) \|$", README, re.MULTILINE)
    records = cran_bench.read_records(ROOT / "results/reference")
    chosen = (records["dataset"] == "scenes") & (records["protocol"] == "captions")
    runs = records[chosen].sort_values("started").drop_duplicates(["method", "seed"], keep="last").groupby("method")
    names = ["i2t_r1", "t2i_r1", "rsum", "twin_accuracy"]
    means = runs[names].mean()
    assert len(lines) == 15 and all(runs["seed"].nunique()[method] == 5 for method, _ in lines)
    for method, cells in lines:
        figures = [f"{means.loc[method, name]:.1f}" for name in names]
        assert cells.split(" | ")[:4] == figures, method


def test_the_changelog_is_of_this_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## (\S+)", text, re.MULTILINE)[1] == cran_bench.__version__
    assert not re.search(r"^[<=>]{7}", text, re.MULTILINE)
