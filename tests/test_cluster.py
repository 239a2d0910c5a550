"""Rows on a cluster: those of a local run, whatever dies; specs of clusters; counts in shards that add up."""

import contextlib
import logging
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

from cran_bench.cluster import Local, find_cluster
from cran_bench.dispatch import run_on
from cran_bench.errors import BadInput
from cran_bench.preparation import find_prepared
from cran_bench.registry import DATASETS, METHODS
from cran_bench.runner import Runner

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


@dataclass
class Held:
    ridge: float = 1.0
    waits: bool = False

    similarity = COSINE

    def fit(self, train, val, run):
        (HERE / "started").mkdir(exist_ok=True)
        (HERE / "started" / f"{os.getpid()}-{time.time_ns()}").touch()
        while self.waits and not (HERE / "go").exists():
            time.sleep(0.02)
        if self.ridge < 0:
            raise RuntimeError("less than nothing")
        self.mean = train.images.mean(dim=0)
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


def started(file):
    return [int(path.name.partition("-")[0]) for path in (file.parent / "started").glob("*")]


@dataclass(frozen=True)
class Deadly(Local):
    """Workers, the first of which is killed three times while it fits; then fits are no longer held."""

    file: Path
    killed: list[int] = field(default_factory=list)

    @contextlib.contextmanager
    def connected(self, device, rows, logs):
        with super().connected(device, rows, logs) as client:

            def kill():
                for _ in range(3):
                    until(lambda: client.cluster.workers[0].pid in started(self.file))
                    pid = client.cluster.workers[0].pid
                    os.kill(pid, signal.SIGKILL)
                    self.killed.append(pid)
                    until(lambda pid=pid: client.cluster.workers[0].pid not in (None, pid))
                (self.file.parent / "go").touch()

            thread = threading.Thread(target=kill)
            thread.start()
            yield client
            thread.join()


def test_every_row_comes_though_a_worker_is_killed_three_times(runner, quick_scenes, held, tmp_path, capsys):
    cluster = Deadly(2, held)
    methods = [f"{held}:Held", f"{held}:Held[waits=true]", "cca[dim=8]"]
    outcomes = run_on(cluster, runner, quick_scenes.spec, quick_scenes.data, methods, ["captions"], range(4))
    assert len(set(cluster.killed)) == 3
    assert len(started(held)) == 8 + 3  # what was killed in the midst of a fit was fitted again
    assert [outcome.failure for outcome in outcomes] == 12 * [None]
    assert (
        len(list(runner.store.records()))
        == len(list(runner.store.root.rglob("*.json"))) - len(list(runner.store.root.rglob("*.examples.json")))
        == 12
    )

    said = capsys.readouterr().err
    assert "dashboard: http://127.0.0.1:" in said
    assert [line.split()[0] for line in said.splitlines() if line.startswith("[")] == [
        f"[{k}/12]" for k in range(1, 13)
    ]

    here = Runner(runner.data, tmp_path / "here", tmp_path / "fits-of-here", CPU)
    expected = here.run([METHODS.configure(text) for text in methods], ["captions"], range(4))
    for outcome, by_itself in zip(outcomes, expected, strict=True):
        assert outcome.address == by_itself.address
        assert outcome.record.metrics == by_itself.record.metrics
        assert outcome.record.ranks_sha == by_itself.record.ranks_sha
