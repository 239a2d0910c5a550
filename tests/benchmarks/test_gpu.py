"""benchmarks/gpu.py: what a stage finds, stages that fail or take too long, and the files that are left."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"

# Stages that behave as those on a real machine may; the script is the same.
STAGED = f"""
import importlib.util, os, signal, subprocess, sys, time
spec = importlib.util.spec_from_file_location("gpu", {str(SCRIPT)!r})
gpu = sys.modules["gpu"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu)

def facts(task):
    "What is here."
    yield gpu.Finding("hardware", "some-chip")

def breaks(task):
    yield gpu.Finding("before", {{"ms": 1.5}})
    raise ValueError("broken beyond repair")

def hangs(task):
    yield gpu.Finding("begun", 1)
    subprocess.Popen(["sleep", "77.25"])
    time.sleep(60)

def dies(task):
    yield gpu.Finding("lived", 1)
    os.kill(os.getpid(), signal.SIGSEGV)

def compares(task):
    yield gpu.Finding("ranks", {{"differing": int(task.small)}}, not task.small)

gpu.STAGES = {{
    "facts": gpu.Stage(facts, 20),
    "breaks": gpu.Stage(breaks, 20),
    "hangs": gpu.Stage(hangs, 1.0),
    "dies": gpu.Stage(dies, 20),
    "compares": gpu.Stage(compares, 20, decides=True),
}}
gpu.__file__ = __file__
sys.exit(gpu.main())
"""


@pytest.fixture(scope="module")
def gpu():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("gpu_script", SCRIPT)
    sys.modules["gpu_script"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_script"]


@pytest.fixture
def small(gpu, tmp_path):
    """What a stage is given in a trial on the processor."""
    return gpu.Task("cpu", True, tmp_path / "out", tmp_path, 600)


def staged(tmp_path, *arguments):
    script = tmp_path / "staged.py"
    script.write_text(STAGED)
    done = subprocess.run(
        [sys.executable, script, "--out", tmp_path / "out", *arguments], capture_output=True, text=True, timeout=60
    )
    return done, json.loads((tmp_path / "out" / "some-chip.json").read_text())


def test_a_stage_that_fails_or_takes_too_long_does_not_stop_the_next(tmp_path):
    done, report = staged(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr  # no stage that decides went wrong
    assert {name: stage["state"] for name, stage in report["stages"].items()} == {
        "facts": "done",
        "breaks": "failed",
        "hangs": "stopped",
        "dies": "failed",
        "compares": "done",
    }
    found = {name: [line["what"] for line in stage["found"]] for name, stage in report["stages"].items()}
    assert found["breaks"] == ["before"] and found["hangs"] == ["begun"] and found["dies"] == ["lived"]
    assert report["stages"]["hangs"]["seconds"] < 10
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert b"sleep\00077.25\0" not in running  # what a stage started ends with it
    log = (tmp_path / "out" / "some-chip.log").read_text()
    assert log == done.stdout and "ValueError: broken beyond repair" in log
    assert "compares         done" in log and "1 of 1 right" in log and "compares PASSED; written:" in log


def test_wrong_ranks_decide_the_exit_code(tmp_path):
    done, report = staged(tmp_path, "--small", "--only", "facts,compares")
    assert done.returncode == report["exit_code"] == 1
    assert "WRONG ranks" in done.stdout and "compares NOT PASSED" in done.stdout


@pytest.mark.parametrize(
    ("state", "verdicts", "passed"),
    [("done", [True, None], True), ("done", [True, False], False), ("done", [None], False), ("stopped", [True], False)],
)
def test_a_stage_that_decides_ends_and_compares(gpu, state, verdicts, passed):
    found = [gpu.Finding("x", 1, verdict) for verdict in verdicts]
    outcome = gpu.Outcome(state, 0, 1.0)
    assert gpu.has_passed(outcome, found) is passed


@pytest.mark.parametrize(("interrupted", "code"), [(False, 1), (True, 130)])
def test_without_time_and_after_ctrl_c_there_is_a_summary(gpu, tmp_path, monkeypatch, interrupted, code):
    def ctrl_c(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "TOTAL", 100 if interrupted else 0)
    monkeypatch.setattr(gpu, "supervise", ctrl_c)
    options = SimpleNamespace(only="facts,identical", device="cuda", small=False, out=tmp_path / "out")
    assert gpu.in_turn(options, tmp_path) == code
    report = json.loads((tmp_path / "out" / "unknown.json").read_text())
    assert report["exit_code"] == code
    assert [stage["state"] for stage in report["stages"].values()] == ([] if interrupted else 2 * ["left out"])


def test_the_budget(gpu):
    limits = [stage.seconds for stage in gpu.STAGES.values()]
    assert gpu.TOTAL <= 295 and sum(limits[:5]) <= gpu.TOTAL - gpu.SHORTEST
    assert [name for name, stage in gpu.STAGES.items() if stage.decides] == ["identical", "rows again"]


def test_without_a_gpu_it_says_what_to_do(gpu, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.child("facts", gpu.Task("cuda", True, tmp_path, tmp_path, 60)) == 2
    assert "expected an NVIDIA GPU, came" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("cuda", "nvidia", "words"),
    [
        (None, "none", "torch 2.9, which is built without CUDA; install one with CUDA"),
        ("13.0", "none", "no NVIDIA driver (nvidia-smi does not run); install the driver"),
        ("13.0", "535.1", "driver 535.1, with which torch 2.9 for CUDA 13.0 finds none: too old; update the driver"),
    ],
)
def test_the_sentence_names_the_cause(gpu, cuda, nvidia, words):
    assert words in gpu.without_gpu("2.9", cuda, nvidia, "too old")


def test_the_facts_of_a_processor(gpu, small):
    found = {line.what: line for line in gpu.facts(small)}
    assert found["the device multiplies"].is_right and "threads" in found["hardware"].value


def test_ranks_are_compared(gpu, small, monkeypatch):
    right = list(gpu.identical(small))
    assert len(right) >= 15 and all(line.is_right for line in right), [str(line) for line in right]
    from cran_bench.ranking import rank as ranking

    correct = ranking.rank

    def wrong(*arguments, backend="auto", **options):
        if backend == "auto":
            raise RuntimeError("no kernel image\nis available")
        ranks = correct(*arguments, backend=backend, **options)
        if not isinstance(backend, str):
            ranks.t2i.better[3] += 1
        return ranks

    monkeypatch.setattr(ranking, "rank", wrong)
    found = {line.what: line for line in gpu.identical(small)}
    assert found["one vector: torch, float32, proven bound"].is_right is False
    assert found["one vector: torch, float32, proven bound"].value["differing"] == 1
    assert found["one vector: auto"] == ("one vector: auto", "RuntimeError: no kernel image", False)
    assert found["one vector: reference"].is_right


def test_a_bench_that_fails_does_not_stop_the_other(gpu, small, monkeypatch):
    from cran_bench.bench import measuring, ranking, similarity

    def breaks(*_):
        yield {"bench": "similarity", "task": "tiny", "what": "einsum", "dtype": "float32", "seconds": 2.0}
        raise RuntimeError("CUDA error: out of memory")

    def differs(*_):
        row = {"bench": "ranking", "task": "tiny", "what": "ours", "dtype": "bfloat16", "seconds": 1.0}
        yield {**row, "ranks": "DIFFERENT (all)", "launches": 7}
        small.seconds = 0  # no time is left for the next row
        yield {**row, "what": "slow"}
        yield {**row, "what": "too late"}

    monkeypatch.setattr(measuring, "gemm_peak", lambda *_: 1e12)
    monkeypatch.setattr(similarity, "bench_similarity", breaks)
    monkeypatch.setattr(ranking, "bench_ranking", differs)
    found = {line.what: line for line in gpu.speed(small)}
    assert found["similarity: einsum, float32"].value["seconds"] == 2
    assert found["breaks"] == ("breaks", "RuntimeError: CUDA error: out of memory", False)
    ours = found["ranking: ours, bfloat16"]
    assert ours.is_right is False and ours.value["launches"] == 7
    assert "ranking: slow, bfloat16" in found and "ranking: too late, bfloat16" not in found
    assert any(what.endswith("three levels: kernels") for what in found)
    assert len(next(small.out.glob("*.csv")).read_text().splitlines()) == 4  # rows are kept as they come


def test_rows_are_compared_with_the_first_run(gpu, small, monkeypatch):
    def line(method, ranks, rsum, seconds=1.0):
        return gpu.Finding(method, {"ranks": ranks, "s": seconds, "fit, s": 0.5, "metrics": {"rsum": rsum}})

    first = [line("cca", "a", 1.0), line("dcca", "b", 2.0), gpu.Finding("ccl", "out of memory", False)]
    first.append(line("slow", "c", 3.0, 1e9))
    (small.work / "rows.json").write_text(json.dumps(first))
    again = {"cca": line("cca", "a", 1.0), "dcca": line("dcca", "b", 2.5), "slow": line("slow", "c", 3.0)}
    monkeypatch.setattr(gpu, "fitted", lambda task, methods, folder, device: iter([again[methods[0]]]))
    found = list(gpu.rows_again(small))
    verdicts = [(line.what, line.is_right) for line in found]
    assert verdicts == [("cca", True), ("dcca", False), ("no time for slow", None)]
    assert found[1].value["rsum"] == [2.0, 2.5]
    assert not list(gpu.rows_on_the_cpu(small))  # they were fitted there already
    small.device = "cuda"
    assert [(line.what, line.is_right) for line in gpu.rows_on_the_cpu(small)] == [
        ("cca", None),
        ("dcca", None),
        ("slow", None),
    ]


@pytest.mark.skipif("CRAN_BENCH_SCALING" not in os.environ, reason="takes half a minute: tox -e scaling")
def test_the_whole_script_on_a_processor(tmp_path):
    start = time.monotonic()
    command = ["sh", SCRIPT.with_suffix(".sh"), "--device", "cpu", "--small", "--out", tmp_path]
    done = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.json")
    stages = json.loads(path.read_text())["stages"]
    assert {stage["state"] for stage in stages.values()} == {"done"}
    assert [name for name, stage in stages.items() if not stage["found"]] == ["rows on the CPU"]
    assert path.with_suffix(".csv").exists() and path.with_suffix(".md").exists() and path.with_suffix(".log").exists()
    sys.stdout.write(f"{time.monotonic() - start:.0f} s\n")
