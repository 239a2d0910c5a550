"""SIGKILL at any moment of prepare, run and table: nothing finished is lost, nothing is corrupt, a rerun completes.

`CRAN_BENCH_FAULTS` says at how many moments; tox environment `faults` takes 200.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest

from cran_bench.machine.storage import sha256_file
from cran_bench.records.store import ResultStore

MOMENTS = int(os.environ.get("CRAN_BENCH_FAULTS", "8"))
DATASET = "scenes[train=60,val=20,test=20]"
METHODS = "cca[ridge_image=0.1,ridge_text=0.1,dim=8],cran-baseline:quick[max_epochs=2,batch_size=100]"

# Commands run in forks of a process that has everything imported and all sources read, so that a moment is one of work.
# A fork is killed after some seconds, or when it is about to make its n-th change of a file.
NURSERY = """
import json, os, signal, sys, time
import torch, torch._dynamo  # which otherwise comes with the first optimiser
import sklearn.feature_extraction.text
import cran_bench.bench.measuring, cran_bench.running.experiment, cran_bench.running.preparation
import cran_bench.tables.tables
from cran_bench.cli import main
from cran_bench.frontend import extraction
from cran_bench.registry import DATASETS, METHODS
from cran_bench.running.fits.store import fit_fingerprint

METHODS.usable(), DATASETS.usable()
for name in ("cca", "cran-baseline"):
    fit_fingerprint({}, "captions", METHODS.configure(name).build(), 0, torch.device("cpu"))
extraction.SHARD = extraction.BATCH = 16
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.chmod", "os.truncate", "shutil.rmtree")

def count(event, arguments):
    global changes
    if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
        changes += 1
        if changes == last:
            os.kill(os.getpid(), signal.SIGKILL)

for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        changes, last = 0, job["changes"]
        with open(job["log"], "w") as log:
            os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
        sys.argv = ["cran-bench", *job["arguments"]]
        sys.addaudithook(count)
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        sys.stdout.flush(), sys.stderr.flush()
        with open(job["log"], "a") as log:
            log.write(f"\\nchanges {changes}")
        os._exit(code)
    if job["seconds"] is not None:
        time.sleep(job["seconds"])
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Runs commands in one folder, and kills them."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder / "log"
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *arguments, seconds=None, changes=0):
        job = {"arguments": list(map(str, arguments)), "seconds": seconds, "changes": changes, "log": str(self.log)}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def verbs(self, tree):
        """The three commands, in a tree of their own."""
        where = ("--data", tree, "--cache", tree / "cache")
        front_end = ("--backbone", "pixels[dim=16]", "--regions", "none")
        return {
            "prepare": ("prepare", DATASET, *where, *front_end),
            "run": ("run", "-d", DATASET, *where, "-m", METHODS, "-s", "0:2", "--results", tree / "results"),
            "table": ("table", "--results", tree / "results", "-f", "csv", "-o", tree / "table.csv"),
        }


def made(tree):
    """What a tree holds in the end: records' figures and ranks, digests of features, the table without its seconds."""
    runs = ResultStore(tree / "results").runs()
    table = pd.read_csv(tree / "table.csv")
    return (
        {(r.record.method.label, r.record.seed): (r.record.metrics, arrays(r)) for r in runs},
        {path.name: sha256_file(path) for path in (tree / "cache").rglob("*.npy")},
        table[[name for name in table if not name.endswith("_s")]].to_csv(),
    )


def arrays(run):
    return {name: array.tolist() for name, array in run.ranks.arrays().items()}


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    """With a tree in which nothing was killed, what it holds, and how many changes and seconds each command takes."""
    folder = tmp_path_factory.mktemp("faults")
    found = Nursery(folder)
    found.whole, found.changes = folder / "whole", {}
    for verb, arguments in found.verbs(found.whole).items():
        assert found.run(*arguments) == 0, found.log.read_text()
        found.changes[verb] = int(found.log.read_text().rsplit(maxsplit=1)[1])
    found.expected = made(found.whole)
    assert len(found.expected[0]) == 4
    yield found
    found.process.stdin.close()
    assert found.process.wait() == 0
    found.process.stdout.close()


def contents(tree):
    """Bytes of everything that is finished: records with ranks, fits, and arrays of features that have a manifest."""
    store = ResultStore(tree / "results")
    kept = [store.path_of(run.record) for run in store.runs()]
    kept += [path.with_suffix(".npz") for path in kept]
    kept += (tree / "cache").rglob("*.safetensors")
    for manifest in (tree / "cache").rglob("manifest.json"):
        kept += [manifest, *manifest.parent.glob("*.npy")]
    return {path: path.read_bytes() for path in kept}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_kill_loses_nothing(nursery, tmp_path, moment):
    rng = random.Random(moment)
    verb = ("prepare", "run", "run", "table")[moment % 4]
    verbs = nursery.verbs(tmp_path)
    for folder in {"prepare": (), "run": ("cache/features",), "table": ("cache", "results")}[verb]:
        shutil.copytree(nursery.whole / folder, tmp_path / folder)
    for _ in range(rng.choice((1, 1, 3))):
        before = contents(tmp_path)
        if rng.random() < 0.7:
            code = nursery.run(*verbs[verb], changes=rng.randint(1, nursery.changes[verb]))
        else:
            code = nursery.run(*verbs[verb], seconds=rng.random() * 1.5)
        assert code in (-signal.SIGKILL, 0), nursery.log.read_text()
        after = contents(tmp_path)  # reads and verifies every record
        assert all(after.get(path) == data for path, data in before.items())
        if (tmp_path / "table.csv").exists():
            assert len(pd.read_csv(tmp_path / "table.csv")) == 2
        for run in ResultStore(tmp_path / "results").runs():
            assert arrays(run) == nursery.expected[0][run.record.method.label, run.record.seed][1]
    for arguments in verbs.values():
        assert nursery.run(*arguments) == 0, nursery.log.read_text()
    assert made(tmp_path) == nursery.expected
