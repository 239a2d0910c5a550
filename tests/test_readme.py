"""The README's method works as printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    assert len(code.splitlines()) <= 40
    folder = tmp_path_factory.mktemp("user")
    (folder / "mine.py").write_text(code)
    return folder


def cran_bench(folder, *arguments):
    """Run the console script from a directory that is not the checkout."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("cran-bench")), *arguments, "--cache", str(folder / "cache")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_example_passes_the_contract(example):
    done = cran_bench(example, "check", "mine.py:Regression")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BROKEN" not in done.stdout


def test_the_example_becomes_a_row(example):
    dataset = "scenes[train=100,val=40,test=40]"
    done = cran_bench(example, "run", "-m", "mine.py:Regression[ridge=0.1]", "-m", "cca", "-d", dataset)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^regression\[ridge=0.1\] +\d", done.stdout, re.MULTILINE)
    assert re.search(r"^cca:tuned +\d", done.stdout, re.MULTILINE)
