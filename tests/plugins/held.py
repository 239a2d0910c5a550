"""A method for tests of processes: it says beside its file when it is fitted, and can fail, wait or die."""

import multiprocessing
import os
import signal
import threading
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


def begun(file, what="started"):
    """The processes that began a fit, or a part, one for each time."""
    return [int(path.name.partition("-")[0]) for path in (file.parent / what).glob("*")]


@dataclass
class Mean:
    """A part that all rows of a seed share."""

    fails: bool = False

    def fit(self, train, val, run):
        begin("parts")
        if self.fails:
            raise RuntimeError("no mean")
        self.mean = train.images.mean(dim=0) + 0 * torch.rand(1)

    def memory(self, train):
        return 1 << 20

    def state(self):
        return {"mean": self.mean}

    def load(self, state):
        self.mean = state["mean"]


@dataclass
class Held:
    """Ridge regression on words."""

    ridge: float = 1.0
    waits: bool = False
    dies: bool = False
    fails: bool = False

    similarity = COSINE
    search = {"ridge": (1.0, 2.0, 3.0)}  # noqa: RUF012

    def parts(self):
        return [Mean(self.fails)]

    def memory(self, train):
        return 1 << 30

    def fit(self, train, val, run):
        self.mean = run.part(self.parts()[0]).mean
        begin("started")
        if multiprocessing.get_start_method() == "loky":
            raise RuntimeError("which has no processes for a DataLoader")
        os.write(1, b"not of the table\n")
        threads = [threading.Thread(target=print, args=(17_000 * "x",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print("10 %\r20 %\r", end="", flush=True)  # noqa: T201 - as progress bars do
        if self.waits:
            begin("held")
        while self.waits and not (HERE / "go").exists():
            time.sleep(0.02)
        if self.dies and not (HERE / "killed").exists():
            begin("killed")
            os.kill(os.getpid(), signal.SIGKILL)
        if self.dies:
            begin("held")
            time.sleep(60)
        if self.ridge < 0:
            raise RuntimeError("less than nothing")
        x, y = words(train), (train.images - self.mean)[train.image_of].double()
        self.W = torch.linalg.solve(x.T @ x + self.ridge * torch.eye(x.shape[1]), x.T @ y).float()
        self.W += 1e-3 * torch.rand_like(self.W)

    def embed_images(self, split):
        return split.images - self.mean

    def embed_texts(self, split):
        return words(split).float() @ self.W

    def state(self):
        return {"mean": self.mean, "W": self.W}

    def load(self, state):
        self.mean, self.W = state["mean"], state["W"]
