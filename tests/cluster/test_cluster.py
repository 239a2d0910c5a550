"""Rows on a cluster: those of a local run, whatever dies; specs of clusters."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from cran_bench.cluster import workers as cluster
from cran_bench.cluster.dispatch import ClusterWorkers
from cran_bench.cluster.workers import Local, find_cluster
from cran_bench.records.schema import ERROR, EXAMPLES
from cran_bench.registry import DATASETS, METHODS
from cran_bench.running.experiment import Request
from cran_bench.running.preparation import find_prepared
from cran_bench.running.runner import Runner

pytest.importorskip("distributed", reason="needs the extra distributed")

CPU = torch.device("cpu")
CRAN_BENCH = Path(sys.executable).with_name("cran-bench")

HELD = '''
"""Ridge regression on words that says when it is fitted, and can be held in the midst of it."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from cran_bench import COSINE

HERE = Path(__file__).parent


def words(split):
    return torch.from_numpy(split.tfidf(300).toarray()).double()


def begin(what):
    (HERE / what).mkdir(exist_ok=True)
    (HERE / what / f"{os.getpid()}-{time.time_ns()}").touch()


@dataclass
class Mean:
    """A part that all rows of a seed share."""

    def fit(self, train, val, run):
        begin("parts")
        self.mean = train.images.mean(dim=0)

    def state(self):
        return {"mean": self.mean}

    def load(self, state):
        self.mean = state["mean"]


@dataclass
class Held:
    ridge: float = 1.0
    waits: bool = False

    similarity = COSINE

    def fit(self, train, val, run):
        mean = run.part(Mean())
        begin("started")
        if self.waits:
            begin("held")
        while self.waits and not (HERE / "go").exists():
            time.sleep(0.02)
        if self.ridge < 0:
            raise RuntimeError("less than nothing")
        self.mean = mean.mean
        x, y = words(train), (train.images - self.mean)[train.image_of].double()
        self.W = torch.linalg.solve(x.T @ x + self.ridge * torch.eye(x.shape[1]), x.T @ y).float()

    def embed_images(self, split):
        return split.images - self.mean

    def embed_texts(self, split):
        return words(split).float() @ self.W

    def state(self):
        return {"mean": self.mean, "W": self.W}

    def load(self, state):
        self.mean, self.W = state["mean"], state["W"]
'''


@pytest.fixture
def held(tmp_path):
    """The plugin file of `Held`, in a folder of its own."""
    (tmp_path / "plugin").mkdir()
    file = tmp_path / "plugin" / "held.py"
    file.write_text(HELD)
    return file


@pytest.fixture
def runner(quick_scenes, tmp_path):
    prepared = find_prepared(DATASETS.configure(quick_scenes.spec), quick_scenes.data, quick_scenes.cache)
    return Runner(prepared, tmp_path / "results", quick_scenes.cache, CPU)


def until(is_so, seconds=60):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def begun(file, what="started"):
    """The processes that began a fit, or a part, one for each time."""
    return [int(path.name.partition("-")[0]) for path in (file.parent / what).glob("*")]


def kill_in_the_midst(nanny, file):
    """Kill a worker while it is held in a fit, and return its process when another has taken its place."""
    until(lambda: nanny.pid in begun(file, "held"))
    pid = nanny.pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: nanny.pid not in (None, pid))
    return pid


@dataclass(frozen=True)
class Deadly(Local):
    """Workers, the first of which is killed three times while it is held in a fit; then none is held any more."""

    file: Path
    killed: list[int] = field(default_factory=list)

    @contextlib.contextmanager
    def connected(self, device, rows, logs):
        with super().connected(device, rows, logs) as client:

            def kill():
                for _ in range(3):
                    self.killed.append(kill_in_the_midst(client.cluster.workers[0], self.file))
                (self.file.parent / "go").touch()

            thread = threading.Thread(target=kill)
            thread.start()
            yield client
            thread.join()


def left_of(session):
    """The processes of a session that still run."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.cmdline())
    return found


def records(results):
    """The files of records, which are neither failures nor examples."""
    return [path for path in results.rglob("*.json") if not path.name.endswith((EXAMPLES, ERROR))]


def test_every_row_comes_though_a_worker_is_killed_three_times(runner, quick_scenes, held, tmp_path, capsys):
    methods = [f"{held}:Held", f"{held}:Held[waits=true]", "cca[dim=8]"]
    deadly = Deadly(2, held)
    outcomes = ClusterWorkers(deadly).run(
        runner, Request(quick_scenes.spec, quick_scenes.data, methods, ["captions"], range(4))
    )
    assert len(set(deadly.killed)) == 3
    assert len(begun(held)) == 8 + 3  # what was killed in the midst of a fit was fitted again
    assert len(begun(held, "parts")) == 4  # and what rows share was fitted once for each seed
    assert [outcome.failure for outcome in outcomes] == 12 * [None]
    assert len(records(runner.results)) == 12 and not list(runner.results.rglob("*.error.json"))
    said = capsys.readouterr().err
    assert "dashboard: http://127.0.0.1:" in said
    assert [line.split()[0] for line in said.splitlines() if line.startswith("[")] == [
        f"[{k}/12]" for k in range(1, 13)
    ]

    here = Runner(runner.data, tmp_path / "here", tmp_path / "fits", CPU)
    expected = here.run([METHODS.configure(text) for text in methods], ["captions"], range(4))
    for outcome, by_itself in zip(outcomes, expected, strict=True):
        assert outcome.address == by_itself.address
        assert outcome.record.metrics == by_itself.record.metrics
        assert outcome.record.ranks_sha == by_itself.record.ranks_sha
        assert outcome.record == runner.store.find(outcome.address)


def test_a_scheduler_that_runs_already(command, quick_scenes, held, tmp_path, monkeypatch):
    def read(spec):
        from cran_bench.registry import METHODS
        from cran_bench.running.fits import code_of

        code_of(METHODS.configure(spec).build())

    other = held.with_name("other.py")
    other.write_text(HELD)
    monkeypatch.chdir(held.parent)
    arguments = ["run", *quick_scenes.arguments, "--results", tmp_path / "results", "--device", "cpu"]
    rows = ["-m", "held.py:Held,held.py:Held[ridge=-1],held.py:Held[ridge=2]", "-p", "captions,mean,documents"]
    with Local(1).connected(CPU, 1, tmp_path) as client:
        there = ["--cluster", client.scheduler.address.replace("tcp", "dask")]
        said = command(*arguments, *rows, *there)
        assert said.code == 2 and said.sentence == "3 of 9 runs failed"
        assert said.out.count("held.py:Held[ridge=2]") == 3
        assert said.err.count("FAILED, RuntimeError: less than nothing (") == 3
        assert "workers at tcp://127.0.0.1" in said.err and "dashboard: http" in said.err
        assert len(records(tmp_path / "results")) == 6
        assert len(begun(held)) == 6 and len(begun(held, "parts")) == 2  # captions and documents

        good = ["-m", "held.py:Held,held.py:Held[ridge=2]"]
        forced = command(*arguments, *good, *there, "--force")
        assert forced.code == 0 and "reused" not in forced.err
        assert len(begun(held)) == 8 and len(begun(held, "parts")) == 3
        assert "no worker at tcp" in command(*arguments[:-1], "cuda", *good, *there).sentence

        client.run(read, f"{other}:Held")  # and keep to it
        other.write_text(HELD.replace("self.ridge * torch", "2 * self.ridge * torch"))
        said = command(*arguments, "-m", "other.py:Held", *there)
        assert "FAILED, a worker has a different version of cran-bench" in said.err
    nobody = ["--cluster", "dask://127.0.0.1:9"]
    reused = command(*arguments, *good, *nobody)  # nobody is asked where all is recorded
    assert reused.code == 0 and reused.err.count("(reused)") == 2


def test_a_row_that_kills_workers_fails_and_the_others_go_on(runner, quick_scenes, held, monkeypatch, capsys):
    """Those too which were given to the same worker meanwhile."""
    monkeypatch.setattr(cluster, "DEATHS", 1)
    held.write_text(HELD.replace('raise RuntimeError("less than nothing")', "os.kill(os.getpid(), 9)"))
    methods = [f"{held}:Held[ridge=-1]", f"{held}:Held"]
    fatal, good = ClusterWorkers(Local(1)).run(
        runner, Request(quick_scenes.spec, quick_scenes.data, methods, ["captions"], [0])
    )
    assert (
        fatal.failure.error == "its worker died 2 times: see the output of the workers; they may have too little memory"
    )
    assert good.failure is None and len(records(runner.results)) == 1
    assert capsys.readouterr().err.count("rows reassigned to other workers") == 2


def test_what_is_stopped_keeps_what_is_finished(quick_scenes, held, tmp_path):
    arguments = [*quick_scenes.arguments, "--results", str(tmp_path / "results"), "--cluster", "local:1"]
    rows = ["-m", f"{held}:Held,{held}:Held[waits=true],cca"]
    process = subprocess.Popen(
        [CRAN_BENCH, "run", *arguments, *rows], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until(lambda: len(begun(held)) == 2)
    os.killpg(process.pid, signal.SIGINT)  # as terminals do
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "error: interrupted; finished work is kept, run the same command again to resume"
    assert "Traceback" not in err and "distributed." not in err
    assert len(records(tmp_path / "results")) == 1 and not list(tmp_path.rglob("*.error.json"))
    until(lambda: not left_of(process.pid), 10)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("slrum", "there is no cluster 'slrum'; did you mean 'slurm'?; write local:N, dask://ADDRESS or slurm["),
        ("local", "local takes a number of workers, at least 1, not ''; write local:2"),
        ("local:0", "local takes a number of workers, at least 1, not '0'; write local:2"),
        ("local:2[cores=1]", "local takes no options in brackets; write local:N"),
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
    said = command("run", "--cluster", "local:2")
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
        until(lambda: begun(held))
        os.killpg(int((slurm / "submitted").read_text().split()[0]), signal.SIGKILL)
        (held.parent / "go").touch()

    thread = threading.Thread(target=end_the_first)
    thread.start()
    spec = "slurm[queue=gpu,account=us,cores=2,memory=4GB,walltime=00:30:00,jobs=5,interface=lo]"
    arguments = ["run", *quick_scenes.arguments, "--results", tmp_path / "results"]
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "500ms"}):
        said = command(*arguments, "-m", f"{held}:Held[waits=true]", "--cluster", spec)
    thread.join()
    assert said.code == 0 and "SLURM jobs: 1, with output in " in said.err
    assert "died; rows reassigned to other workers: 1" in said.err
    assert len(records(tmp_path / "results")) == 1 and len(begun(held)) == 2
    submitted = (slurm / "submitted").read_text().split()
    assert len(submitted) == 2 and submitted[-1] in (slurm / "cancelled").read_text().split()
    asked = [line.removeprefix("#SBATCH ") for line in (slurm / "script").read_text().splitlines() if "#SBATCH" in line]
    assert {"-p gpu", "-A us", "--cpus-per-task=2", "--mem=4G", "-t 00:30:00", "-n 1"} <= set(asked)
    script = (slurm / "script").read_text()
    assert all(f"export {name}=2" in script for name in cluster.THREADS)
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
