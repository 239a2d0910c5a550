"""docs/scaling.md as it stands: its indented commands, on this machine.  `tox -e scaling` runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"


def commands():
    """The indented lines of the page; those in boxes need other machines."""
    outside = PAGE.read_text().split("```")[::2]
    return [line.strip() for part in outside for line in part.splitlines() if line.startswith("    ")]


def test_the_page_has_a_command_for_every_place():
    for words in ("run --quick", "torchrun ", "--jobs ", "--cluster dask://", "doctor"):
        assert any(words in line for line in commands()), words
    assert '--cluster "slurm[' in PAGE.read_text()


@pytest.mark.skipif("CRAN_BENCH_SCALING" not in os.environ, reason="takes minutes: tox -e scaling")
def test_every_command_runs(tmp_path):
    own = {name: str(tmp_path / name.lower()) for name in ("CRAN_BENCH_CACHE", "CRAN_BENCH_RESULTS")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "\n".join(["set -eux", *commands()])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={**os.environ, **own, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-20_000:]
    ranks = [path for path in (tmp_path / "cran_bench_results").rglob("*.npz") if not path.match("*.answers.npz")]
    assert len(ranks) == 14 + 1 + 3 + 4  # of --quick, torchrun, --jobs (seed 0 is there), and the scheduler
