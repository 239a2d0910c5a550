"""Rows and parts side by side: every part once, whatever dies; the numbers of one process."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Future

import pytest
import torch
from held import begun
from safetensors.torch import load_file

import cran_bench
from cran_bench.errors import BadInput, CannotWrite
from cran_bench.records.schema import ERROR
from cran_bench.records.store import ResultStore
from cran_bench.registry import METHODS
from cran_bench.running import experiment, jobs
from cran_bench.running.jobs import run_side_by_side
from cran_bench.running.plan import Job, Plan
from cran_bench.running.remote import Lines, Request
from cran_bench.running.runner import Runner

CPU = torch.device("cpu")

SCRIPT = """
from cran_bench.cli import main
main()  # without a guard, which loky does not need
"""


def labels(plan):
    return [job.label.removeprefix("held.py:") for job in plan.waiting]


# without processes ----------------------------------------------------------------------------------------------


class Inline:
    """In place of a worker: computes in this process, or dies."""

    deaths, done = {}, []

    def __init__(self, spec):
        self.spec = spec

    def start(self, job):
        self.job, future = job, Future()
        about = self.spec, job.row.spec, job.row.seed, job.expected
        Inline.done.append(job.label)
        try:
            if Inline.deaths.get(job.label, 0) > 0:
                Inline.deaths[job.label] -= 1
                raise BrokenExecutor
            compute, more = (jobs._row, ()) if job.number is not None else (jobs._part, (*job.place, job.label))
            future.set_result(compute(*about, *more))
        except Exception as error:
            future.set_exception(error)
        return future

    def messages(self):
        return [f"hello from {self.job.label}"]

    def stop(self):
        pass


@pytest.fixture
def inline(monkeypatch, quick_scenes):
    """``inline(runner, methods)``: the outcomes of `run_side_by_side` where workers are `Inline`."""
    monkeypatch.setattr(jobs, "Worker", Inline)
    monkeypatch.setattr(Inline, "deaths", {})
    monkeypatch.setattr(Inline, "done", [])

    def run(runner, methods, count=2, seeds=(0,)):
        request = Request(quick_scenes.spec, quick_scenes.data, methods, ["captions"], seeds)
        return run_side_by_side(runner, Plan(runner, request), count)

    return run


def test_a_part_that_fails_is_reported_by_the_rows_that_need_it(make_runner, inline, held, capsys):
    methods = [f"{held}:Held[fails=true]", f"{held}:Held[fails=true,ridge=2]", f"{held}:Held"]
    bad, worse, good = inline(make_runner(), methods)
    assert bad.failure.error.startswith("RuntimeError: no mean (") and good.record is not None
    assert worse.failure.error == bad.failure.error
    assert len(begun(held, "parts")) == 2 + 2  # each row tries it once more
    said = capsys.readouterr().err
    assert said.count("FAILED, RuntimeError: no mean (") == 2
    assert [line[:5] for line in said.splitlines() if line.startswith("[")] == ["[1/3]", "[2/3]", "[3/3]"]


def test_rows_that_kill_their_workers_fail(make_runner, inline, held, capsys):
    methods = [f"{held}:Held", f"{held}:Held[ridge=2]", f"{held}:Held[ridge=3]"]
    Inline.deaths |= {"held.py:Held · seed 0": 1, "held.py:Held[ridge=2] · seed 0": 2}
    once, twice, never = inline(make_runner(), methods)
    assert once.record is not None and never.record is not None
    assert twice.failure.error == (
        "its worker died 2 times; it may have too little memory, or the method's code ended the process"
    )
    assert capsys.readouterr().err.count(" died\n") == 3


def test_a_part_that_kills_its_worker_is_tried_by_its_rows_alone(make_runner, inline, held):
    Inline.deaths |= {"held.py:Held / Mean": 9, "held.py:Held · seed 0": 1}
    dead, alive, other = inline(make_runner(), [f"{held}:Held", f"{held}:Held[ridge=2]", "cfa[dim=8]"])
    assert "died 2 times" in dead.failure.error and alive.record is not None and other.record is not None
    assert Inline.done.count("held.py:Held / Mean") == 1


def test_deaths_of_a_part_count_once_for_a_row_that_needs_it_twice(make_runner, plan, held):
    made = plan(make_runner(), [f"{held}:Held"])
    part, row = made.waiting
    between = [Job("", row.row, None, [], row.place, needs={part}, needed_by=[row]) for _ in range(2)]
    part.needed_by, row.needs = between, set(between)
    made.settle(part, is_stored=False, deaths=1)
    assert row.deaths == 1 and row.is_ready and not any(job.is_ready for job in between)


def test_trials_of_a_tuned_row_run_side_by_side(make_runner, plan, inline, held):
    row = f"{held}:Held[tune=3]"
    made = plan(make_runner("planned"), [row])
    assert sorted(labels(made)) == ["Held", "Held / Mean", "Held[ridge=2]", "Held[ridge=3]", "Held[tune=3] · seed 0"]
    (side_by_side,) = inline(make_runner(), [row])
    assert Inline.done[0] == "held.py:Held / Mean" and Inline.done[-1] == "held.py:Held[tune=3] · seed 0"
    assert len(Inline.done) == 5 and len(begun(held)) == 3
    (alone,) = make_runner("alone").run([METHODS.configure(row)], ["captions"], [0])
    assert alone.record.method.tuning == side_by_side.record.method.tuning
    assert alone.record.metrics == side_by_side.record.metrics


def test_a_trial_that_fails_stops_no_other(make_runner, inline, held, monkeypatch):
    plugin, space = METHODS.configure(f"{held}:Held").plugin, (1.0, 2.0, -1.0, 3.0)
    monkeypatch.setattr(plugin.cls, "search", {"ridge": space})
    (outcome,) = inline(make_runner(), [f"{held}:Held[tune=4]"])
    assert "less than nothing" in outcome.failure.error
    assert len([label for label in Inline.done if "ridge" in label]) == 3


def test_a_worker_is_stopped_if_ctrl_c_comes_as_it_starts(make_runner, inline, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    stopped = []
    monkeypatch.setattr(Inline, "start", interrupt)
    monkeypatch.setattr(Inline, "stop", lambda worker: stopped.append(worker))
    with pytest.raises(KeyboardInterrupt):
        inline(make_runner(), ["cca", "cfa"])
    assert len(stopped) == 1


def test_what_workers_do_not_know_is_computed_here(make_runner, inline, held, monkeypatch):
    monkeypatch.setattr(jobs, "_row", lambda *_: None)
    monkeypatch.setattr(jobs, "_part", lambda *_: False)
    assert all(outcome.record for outcome in inline(make_runner(), [f"{held}:Held", "cfa[dim=8]"]))
    assert begun(held) == [os.getpid()]


def test_a_row_with_a_chain_of_parts_needs_no_worker(make_runner, inline, held):
    (outcome,) = inline(make_runner(), [f"{held}:Held"])
    assert outcome.record is not None and Inline.done == [] and len(begun(held, "parts")) == 1


def test_other_code_is_not_computed_by_a_worker(make_runner, plan, held, quick_scenes):
    run = make_runner()
    (job,) = (job for job in plan(run, [f"{held}:Held"]).waiting if job.number is not None)
    request = Request(quick_scenes.spec, quick_scenes.data, [], ["captions"], [0])
    spec = jobs.RunSpec.of(run, request, "cpu")
    assert jobs._row(spec, job.row.spec, 0, ["of other code"]) is None
    assert jobs._row(spec, "registered-elsewhere", 0, job.expected) is None
    assert jobs._part(spec, job.row.spec, 0, ["of other code"], "captions", (0,), "") is False
    assert not begun(held) and not begun(held, "parts")


def test_a_full_disk_ends_the_run(make_runner, inline, monkeypatch):
    def refuse(*_):
        raise CannotWrite("the disk is full")

    monkeypatch.setattr(jobs, "_row", refuse)
    with pytest.raises(CannotWrite, match="the disk is full"):
        inline(make_runner(), ["cca", "cfa"])
    assert len(Inline.done) <= 2


def test_lines_are_passed_on_whole_as_they_stand_in_the_end():
    said = []
    lines = Lines(said.append)
    for text in ("a\r\nb", "c\n\n", "10 %\r", "20 %\r", "30 %", "\r40 %\n", "\udc80\nrest"):
        lines.write(text)
    lines.buffer.write(" é\n".encode()[:2])
    lines.buffer.write(" é\n".encode()[2:])
    assert said == ["a", "bc", "40 %", "\\udc80", "rest é"]
    assert lines.fileno() == 2 and lines.encoding == "utf-8" and not lines.isatty()


# in processes ---------------------------------------------------------------------------------------------------


def left_of(session):
    """The processes of a session that still run."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.cmdline())
        except (psutil.Error, ProcessLookupError):
            pass
    return found


def until(is_so, seconds=120):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_the_numbers_of_one_process_whatever_dies_until_it_is_stopped(quick_scenes, make_runner, held, tmp_path):
    """A script without a guard; a worker that is killed; a row that fails; Ctrl-C; then the rest in this process."""
    pytest.importorskip("psutil", reason="comes with the extra distributed")
    good = [f"{held}:Held", f"{held}:Held[ridge=2]", "cca[dim=8]"]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    methods = ",".join([*good, f"{held}:Held[ridge=-1]", f"{held}:Held[dies=true]"])
    arguments = [*quick_scenes.arguments, "--results", tmp_path / "results", "-m", methods, "--jobs", "2"]
    told = (tmp_path / "told").open("w+")  # as a pipe would be full
    process = subprocess.Popen(
        [sys.executable, script, "run", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=told,
        text=True,
        start_new_session=True,
    )
    until(lambda: begun(held, "held"), 60)  # alone, as its first worker was killed, so that all others have finished
    os.killpg(process.pid, signal.SIGINT)  # as terminals do
    out, _ = process.communicate(timeout=30)
    told.seek(0)
    err = told.read()
    told.close()
    assert process.returncode == 130 and out == "" and err.count("not of the table\n") == 5
    assert re.findall(".* %.*", err) == 3 * ["20 %"]  # of those that ended
    assert err.splitlines()[-1] == "error: interrupted; finished work is kept, run the same command again to resume"
    assert "Traceback" not in err and "KeyboardInterrupt" not in err
    assert err.count("the worker of held.py:Held[dies=true] · seed 0 died\n") == 1
    numbered = [line.split()[0] for line in err.splitlines() if line.startswith("[")]
    assert numbered == [f"[{k}/5]" for k in range(1, 5)]
    assert len(ResultStore(tmp_path / "results").runs()) == 3 and len(list(tmp_path.rglob(f"*{ERROR}"))) == 1
    assert len(begun(held, "parts")) == 1 and process.pid not in begun(held) + begun(held, "parts")
    until(lambda: not left_of(process.pid), 10)

    here = make_runner()
    expected = here.run([METHODS.configure(text) for text in good], ["captions"], [0])
    there = Runner(here.data, tmp_path / "results", quick_scenes.cache, CPU)
    assert [o.failure for o in expected] == 3 * [None]
    for outcome in expected:
        record = there.store.find(outcome.address)
        assert record.metrics == outcome.record.metrics and record.ranks_sha == outcome.record.ranks_sha
        assert record.environment["threads"] == outcome.record.environment["threads"] == 1
    for file in (here.cache / "fits").glob("*.safetensors"):
        ours, theirs = load_file(file), load_file(quick_scenes.cache / "fits" / file.name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


# how many -------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch, quick_scenes, tmp_path):
    """``asked(**options)``: how many jobs `cran_bench.run` asks for, and with how many threads each."""
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    monkeypatch.delenv("CRAN_BENCH_JOBS")
    seen = []
    monkeypatch.setattr(jobs, "run_side_by_side", lambda run, request, count: seen.append((count, run.threads)) or [])
    monkeypatch.setattr(Runner, "run", lambda run, *_: seen.append((1, run.threads)) or [])

    def ask(**options):
        cran_bench.run("cca", quick_scenes.spec, data=quick_scenes.data, cache=quick_scenes.cache, **options)
        return seen.pop()

    return ask


def test_as_many_jobs_as_there_are_cores_for_their_threads(asked, monkeypatch):
    assert asked() == (8, 1)
    assert asked(threads=3) == (2, 3)
    assert asked(threads=9) == (1, 9)
    assert asked(jobs=5) == (5, 1)
    monkeypatch.setenv("CRAN_BENCH_JOBS", "3")
    monkeypatch.setenv("CRAN_BENCH_THREADS", "2")
    assert asked() == (3, 2)
    assert asked(jobs=1, threads=4) == (1, 4)
    monkeypatch.setenv("CRAN_BENCH_JOBS", "many")
    with pytest.raises(BadInput, match="CRAN_BENCH_JOBS must be a whole number from 1, not 'many'"):
        asked()
    for wrong in ({"jobs": 0}, {"jobs": 2.5}, {"threads": -1}, {"threads": "many"}):
        with pytest.raises(BadInput, match=f"^{next(iter(wrong))} must be a whole number from 1, not "):
            asked(**wrong)


def test_workers_of_their_own_exclude_jobs(asked, monkeypatch):
    monkeypatch.setattr(experiment, "started", lambda: 2)
    with pytest.raises(BadInput, match="torchrun shares one training, --jobs 2 starts workers on this machine: use"):
        asked(jobs=2)
    monkeypatch.setenv("CRAN_BENCH_JOBS", "3")
    assert asked() == (1, None)  # with the threads that torchrun gives
    with pytest.raises(BadInput, match="--cluster has workers of its own"):
        asked(jobs=2, workers=object())  # which is not asked for anything


def test_a_process_that_may_start_none_computes_all_rows(asked, monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_config", {"daemon": True})
    assert asked() == asked(jobs=3) == (1, 1)
