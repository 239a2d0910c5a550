"""Rows on a cluster, whatever dies; specs of clusters."""

import logging
import os
import re
import shutil
import signal
import sys
import threading
import time

import pytest
import torch
from held import begun

from cran_bench.cluster import dispatch
from cran_bench.cluster import workers as cluster
from cran_bench.cluster.workers import find_cluster
from cran_bench.machine.threads import LIBRARIES
from cran_bench.records.store import ResultStore
from cran_bench.registry import DATASETS, METHODS
from cran_bench.running.preparation import find_prepared
from cran_bench.running.remote import AskedRow, Request, RunSpec
from cran_bench.running.runner import Runner

pytest.importorskip("distributed", reason="needs the extra distributed")


def until(is_so, seconds=180):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def client(monkeypatch):
    """The client of a scheduler with one worker, on this machine."""
    from distributed import Client, Nanny, Scheduler, SpecCluster

    silent = {"silence_logs": logging.CRITICAL}
    worker = {"nthreads": 1, "memory_limit": 0, "host": "127.0.0.1", "env": dict.fromkeys(LIBRARIES, "1"), **silent}
    options = {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}
    with (
        SpecCluster(
            {0: {"cls": Nanny, "options": worker}}, scheduler={"cls": Scheduler, "options": options}, **silent
        ) as started,
        Client(started, set_as_default=False) as connected,
    ):
        yield connected


def test_a_scheduler_that_runs_already(client, command, quick_scenes, held, tmp_path, monkeypatch):
    def read(spec):
        from cran_bench.registry import METHODS
        from cran_bench.running.fits import code_of

        code_of(METHODS.configure(spec).build())

    other = held.with_name("other.py")
    shutil.copy(held, other)
    monkeypatch.chdir(held.parent)
    arguments = ["run", *quick_scenes.arguments, "--results", tmp_path / "results", "--device", "cpu"]
    rows = ["-m", "held.py:Held,held.py:Held[ridge=-1],held.py:Held[ridge=2]", "-p", "captions,mean,documents"]
    there = ["--cluster", client.scheduler.address.replace("tcp", "dask")]
    said = command(*arguments, *rows, *there)
    assert said.code == 2 and said.sentence.startswith("3 of 9 rows failed, ")
    assert said.out.count("held.py:Held[ridge=2]") == 3
    assert said.err.count("FAILED, RuntimeError: less than nothing (") == 3
    assert "workers at tcp://127.0.0.1" in said.err and "dashboard: http" in said.err
    assert len(ResultStore(tmp_path / "results").runs()) == 6
    assert len(begun(held)) == 6 and len(begun(held, "parts")) == 2  # captions and documents

    good = ["-m", "held.py:Held,held.py:Held[ridge=2]"]
    forced = command(*arguments, *good, *there, "--force")
    assert forced.code == 0 and "reused" not in forced.err
    assert len(begun(held)) == 8 and len(begun(held, "parts")) == 3
    assert "no worker at tcp" in command(*arguments[:-1], "cuda", *good, *there).sentence

    client.run(read, f"{other}:Held")  # and keep to it
    other.write_text(held.read_text().replace("self.ridge * torch", "2 * self.ridge * torch"))
    said = command(*arguments, "-m", "other.py:Held", *there)
    assert re.search(r"FAILED, .*other\.py was changed after it was imported: start Python again", said.err)
    nobody = ["--cluster", "dask://127.0.0.1:9"]
    reused = command(*arguments, *good, *nobody)  # nobody is asked where all is recorded
    assert reused.code == 0 and reused.err.count("(reused)") == 2


def test_a_row_whose_workers_die_is_given_again_and_then_fails(quick_scenes, tmp_path):
    from distributed import KilledWorker

    class Killed:
        def result(self):
            raise KilledWorker("task", None, 0)

    prepared = find_prepared(DATASETS.configure(quick_scenes.spec), quick_scenes.data, quick_scenes.cache)
    runner = Runner(prepared, tmp_path / "results", quick_scenes.cache, torch.device("cpu"))
    request = Request(quick_scenes.spec, quick_scenes.data, ["cca"], ["captions"], [0])
    tasks = dispatch._Tasks(
        None, runner, RunSpec.of(runner, request, "cpu"), [AskedRow("cca", METHODS.configure("cca"), 0)]
    )
    tasks.begun[0] = tasks.given[0] = cluster.DEATHS
    assert tasks._outcomes(Killed(), 0) is None
    tasks.begun[0] += 1
    (failed,) = tasks._outcomes(Killed(), 0)
    assert (
        failed.failure.error
        == "its worker died 6 times: see the output of the workers; they may have too little memory"
    )
    assert list(runner.results.rglob("*.error.json"))


def test_a_run_has_workers_here_or_on_a_cluster(command, quick_scenes):
    said = command("run", *quick_scenes.arguments, "--jobs", 2, "--cluster", "dask://127.0.0.1:9", "--device", "cpu")
    assert said.code == 2 and said.sentence.startswith("--cluster has workers of its own, --jobs 2 starts workers on")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            "slrum",
            "there is no cluster 'slrum'; did you mean 'slurm'?; write dask://ADDRESS or slurm[queue=NAME,...], or",
        ),
        ("dask://here:1[cores=1]", "dask takes no options in brackets; write dask://ADDRESS"),
        ("dask", "'dask' is not a scheduler's address; write dask://HOST:PORT"),
        ("dask://somewhere", "'dask://somewhere' is not a scheduler's address; write dask://HOST:PORT"),
        ("slurm:gpu", "slurm takes options in brackets, not 'gpu'; write slurm[queue=NAME,...]"),
        ("slurm[que=gpu]", "slurm has no field 'que'; did you mean 'queue'?"),
        ("slurm[jobs=0]", "slurm: cores and jobs must be at least 1, not 0"),
        ("slurm[cores=many]", "slurm: field 'cores' takes a whole number, not 'many'"),
        ("slurm[memory=64]", "slurm: memory must be a size such as 64GB, not '64'"),
        ("slurm[walltime=4h]", "slurm: walltime must be a time such as 04:00:00 or 1-00:00:00, not '4h'"),
        (
            "slurm[gres=gpu:1]",
            "slurm needs the command sbatch: run this on a machine from which SLURM jobs are submitted",
        ),
    ],
)
def test_clusters_that_are_none(spec, sentence, command, quick_scenes):
    if spec.startswith("slurm"):
        pytest.importorskip("dask_jobqueue", reason="needs the extra distributed")
    said = command("run", *quick_scenes.arguments, "--cluster", spec)
    assert said.code == 2 and said.sentence.startswith(sentence)


def test_nobody_answers(command, quick_scenes, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", 1)
    start = time.monotonic()
    said = command("run", *quick_scenes.arguments, "-m", "cca", "--cluster", "dask://127.0.0.1:9")
    assert time.monotonic() - start < 20
    assert said.code == 2 and said.sentence.startswith(
        "no Dask scheduler answers at tcp://127.0.0.1:9 within 1 seconds"
    )


def test_the_extra_is_named(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    said = command("run", "--cluster", "dask://127.0.0.1:9")
    assert said.code == 2
    assert said.sentence.startswith("runs on a cluster need the extra distributed: python -m pip install 'cran-bench[")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    assert command("run", "--cluster", "slurm").sentence.startswith("runs on slurm need the extra distributed: ")


SBATCH = """#!/bin/sh
for file; do :; done
grep -q "^#SBATCH -p closed" "$file" && { echo "sbatch: error: no such partition" >&2; exit 1; }
[ "$1" = --test-only ] && exit 0
cp "$file" "$JOBS/script"
setsid sh "$JOBS/script" > "$JOBS/out" 2>&1 &
echo "Submitted batch job $!"
echo $! >> "$JOBS/submitted"
"""
SCANCEL = """#!/bin/sh
echo "$1" >> "$JOBS/cancelled"
kill -9 -- "-$1"
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The folder of what is told of jobs; sbatch starts them here, scancel ends them."""
    pytest.importorskip("dask_jobqueue", reason="needs the extra distributed")
    folder = tmp_path / "jobs"
    folder.mkdir()
    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("JOBS", str(folder))
    return folder


def test_jobs_of_slurm(command, quick_scenes, held, slurm, tmp_path, monkeypatch):
    """A job that is ended from outside is submitted again, and its row comes."""
    import dask

    monkeypatch.setattr(cluster, "POLL_EVERY", 0.5)

    def end_the_first():
        try:
            until(lambda: begun(held))
            os.killpg(int((slurm / "submitted").read_text().split()[0]), signal.SIGKILL)
        finally:
            (held.parent / "go").touch()  # else the row would wait without end

    thread = threading.Thread(target=end_the_first)
    thread.start()
    spec = "slurm[queue=gpu,account=us,cores=2,memory=4GB,walltime=00:30:00,jobs=5,interface=lo]"
    arguments = ["run", *quick_scenes.arguments, "--results", tmp_path / "results"]
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "500ms"}):
        said = command(*arguments, "-m", f"{held}:Held[waits=true]", "--cluster", spec)
    thread.join()
    assert said.code == 0 and "SLURM jobs: 1, with output in " in said.err
    assert "died; rows reassigned to other workers: 1" in said.err
    assert len(ResultStore(tmp_path / "results").runs()) == 1 and len(begun(held)) == 2
    submitted = (slurm / "submitted").read_text().split()
    assert len(submitted) == 2 and submitted[-1] in (slurm / "cancelled").read_text().split()
    asked = [line.removeprefix("#SBATCH ") for line in (slurm / "script").read_text().splitlines() if "#SBATCH" in line]
    assert {"-p gpu", "-A us", "--cpus-per-task=2", "--mem=4G", "-t 00:30:00", "-n 1"} <= set(asked)
    script = (slurm / "script").read_text()
    assert all(f"export {name}=2" in script for name in LIBRARIES)
    assert "--lifetime 1680s" in (slurm / "script").read_text()


def test_jobs_that_slurm_refuses(command, quick_scenes, slurm):
    said = command("run", *quick_scenes.arguments, "-m", "cca", "--cluster", "slurm[queue=closed]")
    assert said.sentence == "SLURM rejects the job: sbatch: error: no such partition"
    assert command("run", "--device", "cuda", "--cluster", "slurm").sentence.startswith(
        "slurm: the jobs request no GPU"
    )
    assert find_cluster("slurm[gres=gpu:1]").device("auto").type == "cuda"
    assert find_cluster("slurm").device("auto").type == "cpu"
    assert not (slurm / "submitted").exists()
