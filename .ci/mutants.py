"""Mutation testing of the code that numbers depend on: ``tox -e mutants``.

cosmic-ray makes the mutants.  A seeded sample of them, in proportion to each module's number, meets the tests that run
the mutated line, in a copy of the tree.  What is finished is kept in the folder given, so that a stopped run goes on.
Exit code 1: more than 5 % of those that change anything survive.
"""

import ast
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = [
    *(f"cran_bench/ranking/{name}.py" for name in ("evaluation", "filtering", "metrics", "problem", "rank", "tiles")),
    *(f"cran_bench/{name}.py" for name in ("dataset", "similarity", "split")),
    *("cran_bench/records/statistics.py", "cran_bench/toolbox/losses.py", "cran_bench/machine/fingerprint.py"),
    *("methods/cran/alignment.py", "methods/cran/correlation.py"),
]
TESTS = ["comparison", "datasets", "machine", "methods", "ranking", "records", "running", "tables", "toolbox"]
PATHS = [*(f"tests/{name}" for name in TESTS), *(f"tests/test_{n}.py" for n in ("dataset", "similarity", "protocols"))]
SAMPLE, SEED, WORKERS = 400, 0, 2
SECONDS = 40  # of tests for one mutant; those of the module's own folder come first, the fastest before the others
ALLOWED = 0.05


def copy_tree(to):
    """Copy the tree so that ``PYTHONPATH`` alone makes it the package."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, names):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to / name)
    for name in ("methods", "datasets"):
        (to / "cran_bench" / name).symlink_to(f"../{name}")


def pytest_runtest_logreport(report):
    """As a plugin: note how long each test took, and whether it passed."""
    if "MUTANTS_TIMES" in os.environ and report.when == "call" and "PYTEST_XDIST_WORKER" not in os.environ:
        with Path(os.environ["MUTANTS_TIMES"]).open("a") as file:
            print(json.dumps([report.nodeid, report.duration, report.passed]), file=file)


def measure(tree, work):
    """Run the tests once, for their times and for which test runs which line."""
    config = work / "coveragerc"
    config.write_text("[run]\nsource_pkgs = cran_bench\n")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tree}:{tree / '.ci'}",
        "MUTANTS_TIMES": str(work / "times"),
        "COVERAGE_FILE": str(work / "coverage"),
    }
    options = ["-q", "-n", str(WORKERS), "-p", "mutants", "--cov", "--cov-context=test", "--cov-report="]
    command = [sys.executable, "-m", "pytest", *options, f"--cov-config={config}", *PATHS]
    subprocess.run(command, cwd=tree, env=environment, check=False)
    (work / "measured").touch()


def sampled(items):
    """The sample, in proportion to the number of mutants of each module."""
    modules = {}
    for item in sorted(items, key=lambda item: (*key_of(item),)):
        modules.setdefault(key_of(item)[0], []).append(item)
    total, chosen = sum(map(len, modules.values())), []
    for name, own in modules.items():
        chosen += random.Random(f"{SEED} {name}").sample(own, min(len(own), round(SAMPLE * len(own) / total)))
    random.Random(SEED).shuffle(chosen)
    return chosen


def key_of(item):
    (mutation,) = item.mutations
    return str(mutation.module_path), mutation.operator_name, mutation.occurrence


def never_run(path):
    """The lines of annotations and of ``if TYPE_CHECKING``, which are not evaluated."""
    lines = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        annotations = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            annotations += node.body
        for inner in filter(None, annotations):
            for row in range(inner.lineno, inner.end_lineno + 1):
                first = inner.col_offset if row == inner.lineno else 0
                lines |= {(row, column) for column in range(first, inner.end_col_offset + 1)}
    return lines


class Chooser:
    """Which tests meet a mutant."""

    def __init__(self, work):
        from coverage import CoverageData

        self.times = {name: seconds for name, seconds, ok in map(json.loads, (work / "times").open()) if ok}
        self.data = CoverageData(str(work / "coverage"))
        self.data.read()
        self.lines = {}

    def tests(self, path, line):
        if path not in self.lines:
            (file,) = [name for name in self.data.measured_files() if name.endswith(f"/{path}")]
            self.lines[path] = self.data.contexts_by_lineno(file)
        contexts = {name for name in self.lines[path].get(line, ()) if name}
        if not contexts:  # run when the module is imported
            contexts = {name for names in self.lines[path].values() for name in names}
        own = Path(path).parent.name
        names = {name.rpartition("|")[0] for name in contexts} & {*self.times}
        chosen, seconds = [], 0.0
        for name in sorted(names, key=lambda name: (f"/{own}" not in name, self.times[name])):
            if seconds + self.times[name] <= SECONDS or not chosen:
                chosen.append(name)
                seconds += self.times[name]
        return chosen, seconds


def survives(tree, tests, seconds):
    """Whether all tests pass, in a child of this process, which has imported what takes long."""
    child = os.fork()
    if not child:
        os.setsid()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.chdir(tree)
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests])) != 0)
    deadline = time.monotonic() + 20 + 5 * seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def work_on(items, tree, work):
    """Meet every mutant with its tests, and keep what became of it."""
    from cosmic_ray.mutating import _make_diff, use_mutation
    from cosmic_ray.plugins import get_operator
    from cosmic_ray.work_db import use_db
    from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult

    sys.path.insert(0, str(tree))
    sys.dont_write_bytecode = True
    import pandas  # noqa: F401
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.cross_decomposition  # noqa: F401
    import torch  # noqa: F401

    chooser = Chooser(work)
    for number, item in enumerate(items, start=1):
        (mutation,) = item.mutations
        path = str(mutation.module_path)
        tests, seconds = chooser.tests(path, mutation.start_pos[0])
        operator = get_operator(mutation.operator_name)(**mutation.operator_args)
        with use_mutation(tree / path, operator, mutation.occurrence) as (before, after):
            lives = not tests or survives(tree, tests, seconds)
            diff = [line for line in _make_diff(before, after, path) if line[:1] in "+-" and line[:3] not in MARKS]
        outcome = TestOutcome.SURVIVED if lives else TestOutcome.KILLED
        with use_db(work / "mutants.sqlite", mode=2) as db:
            result = WorkResult(WorkerOutcome.NORMAL, f"{len(tests)} tests", outcome, "\n".join(diff))
            db.set_result(item.job_id, result)
        print(f"{number}/{len(items)} {path}: {outcome.value}", flush=True)


MARKS = ("---", "+++")


def main(work):
    from cosmic_ray.commands import init
    from cosmic_ray.work_db import WorkDB, use_db

    start = time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    trees = [work / f"tree{k}" for k in range(WORKERS)]
    for tree in trees:
        if not tree.exists():
            copy_tree(tree)
    if not (work / "measured").exists():
        measure(trees[0], work)
    with use_db(work / "mutants.sqlite", WorkDB.Mode.create) as db:
        if not db.num_work_items:
            os.chdir(trees[0])
            init(map(Path, MODULES), db, {})
        skip = {path: never_run(path) for path in MODULES}
        mutants = [item for item in db.work_items if item.mutations[0].start_pos not in skip[key_of(item)[0]]]
        chosen = sampled(mutants)
        known = dict(db.results)
    todo = [item for item in chosen if item.job_id not in known]
    children = []
    for k, tree in enumerate(trees):
        if not (child := os.fork()):
            work_on(todo[k::WORKERS], tree, work)
            os._exit(0)
        children.append(child)
    for child in children:
        if os.waitpid(child, 0)[1]:
            sys.exit("a worker ended early: start again to go on")
    with use_db(work / "mutants.sqlite", WorkDB.Mode.open) as db:
        known = dict(db.results)
    return told(mutants, chosen, known, time.monotonic() - start)


def told(mutants, chosen, known, seconds):
    """Print the table and the survivors; 1 if too many survive."""
    listed = tomllib.loads((ROOT / ".ci" / "equivalent_mutants.toml").read_text()).get("mutant", [])
    reasons = {(one["module"], one["diff"].strip()): one["why"] for one in listed}
    alive = [item for item in chosen if known[item.job_id].test_outcome.value == "survived"]
    place = {item.job_id: (key_of(item)[0], known[item.job_id].diff.strip()) for item in alive}
    real = [item for item in alive if place[item.job_id] not in reasons]
    sizes, made, same, left = (Counter(key_of(i)[0] for i in own) for own in (mutants, chosen, alive, real))
    print(f"\n{'module':38}{'mutants':>9}{'tried':>7}{'killed':>8}{'equivalent':>12}{'survived':>10}")
    for path in MODULES:
        equivalent = same[path] - left[path]
        print(f"{path:38}{sizes[path]:9}{made[path]:7}{made[path] - same[path]:8}{equivalent:12}{left[path]:10}")
    tried = len(chosen) - (len(alive) - len(real))
    share = len(real) / max(1, tried)
    print(f"{len(real)} of {tried} survive, {share:.1%}, besides {len(alive) - len(real)} equivalent; {seconds:.0f} s")
    for item in alive:
        path, diff = place[item.job_id]
        (mutation,) = item.mutations
        why = reasons.get((path, diff), "")
        print(f"\n{path}:{mutation.start_pos[0]} {mutation.operator_name}, {known[item.job_id].output}")
        print(f"equivalent: {why}" if why else "SURVIVED", diff, sep="\n")
    return int(share > ALLOWED)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
