"""What a fit will hold is known beforehand, and one that does not fit is refused before it begins."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cran_bench.registry import METHODS
from cran_bench.running import memory

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", sorted({*METHODS.names()} - {"aligned", "truth"}))  # which fit nothing
def test_every_method_says_what_it_needs_and_is_refused_where_it_does_not_fit(
    command, quick_scenes, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(memory, "available", lambda device=None: 1 << 18)
    where = (*quick_scenes.arguments, "--results", tmp_path / "results")
    said = command("run", "-m", name, *where)
    assert said.code == 2
    of = "60 images with features of 64 numbers and 300 texts need up to"
    assert re.search(rf"{name}:tuned.*: FAILED, {of} \d\.\d GiB of memory here, and 0\.0 GiB are free: ", said.err)
    assert not list((quick_scenes.cache / "fits").glob("*.safetensors"))


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_says_what_it_holds(command, name):
    assert "Memory: " in command("info", name).out


def test_a_fit_holds_what_its_method_says(tmp_path):
    subprocess.run([sys.executable, BENCHMARKS / "generate.py", "precomp", tmp_path, "--images", "400"], check=True)
    row = "cca[ridge_image=0.01,ridge_text=0.01,dim=64]"
    bench = [sys.executable, BENCHMARKS / "bench_memory.py", row, "captions", "", tmp_path, tmp_path]
    said, held = map(int, subprocess.run(bench, stdout=subprocess.PIPE, check=True).stdout.split())
    assert memory.GIB // 2 < held < said < 3 * held  # of the other methods: tox -e memory


def test_a_part_of_a_fit_that_has_begun_is_not_refused(quick_scenes, command, tmp_path, monkeypatch):
    def once(device=None):
        monkeypatch.setattr(memory, "available", lambda device=None: 0)
        return 1 << 40

    monkeypatch.setattr(memory, "available", once)
    where = (*quick_scenes.arguments, "--cache", tmp_path / "cache", "--results", tmp_path / "results")
    front_end = ("--backbone", "pixels[dim=64]")
    said = command("run", "-m", "macc:quick", "-p", "documents", *where, *front_end)
    assert said.code == 0 and memory.available() == 0


def test_what_the_system_has_left_is_less_than_what_it_has():
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory.available() <= whole


def test_the_limits_of_control_groups_count(tmp_path):
    own = tmp_path / "own"
    own.write_text("0::/job/step\n")
    for group, limit, used, files in (("job", "1000", "700", 0), ("job/step", "900", "850", 400), (".", "max", "9", 0)):
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "memory.max").write_text(limit + "\n")
        (tmp_path / group / "memory.current").write_text(used + "\n")
        (tmp_path / group / "memory.stat").write_text(f"anon 5\ninactive_file {files}\nactive_file 10\n")
    assert memory._group_memory(tmp_path, own) == 1000 - 700 + 10
    own.write_text("0::/job\n")
    (tmp_path / "job" / "memory.max").write_text("max\n")
    assert memory._group_memory(tmp_path, own) > 1 << 60
    assert memory._group_memory(tmp_path, tmp_path / "none") > 1 << 60
