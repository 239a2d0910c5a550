"""Rows of a run, and the parts that they declare, side by side in worker processes of this machine.

joblib's loky starts the workers, so that the caller's script needs no ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, cast

from joblib.externals.loky import ProcessPoolExecutor, process_executor  # type: ignore[import-untyped]
from joblib.externals.loky.backend import get_context  # type: ignore[import-untyped]

from cran_bench.contract import Part
from cran_bench.errors import BadInput, CannotWrite
from cran_bench.machine.progress import Board, Step, say, send_progress
from cran_bench.machine.threads import LIBRARIES, limited
from cran_bench.protocols import Metric, Unit
from cran_bench.registry import METHODS
from cran_bench.running.fits import FitStore
from cran_bench.running.fits.run import part_name, parts_of
from cran_bench.running.memory import available, estimate
from cran_bench.running.remote import AskedRow, Lines, Request, RunSpec, gather
from cran_bench.running.runner import Outcome, Runner, fit_metric, fit_unit
from cran_bench.running.tuning import trials

DEATHS = 2  # a row counts as failed after this many workers died while computing it
TICK = 0.2  # seconds between looks at what workers send
MESSAGES = 1 << 12  # that are read from a worker at a time: all that a pipe holds, as it may send without end
BASE = 1 << 29  # bytes of a worker beside the estimate of its fit


@dataclass(eq=False)
class Job:
    """A row under all protocols, a trial of a tuned row, or a part that rows declare.

    Attributes:
        row: the row, or one of those that need the part.
        number: the row's number; None for a trial or a part.
        expected: the fingerprints, which the worker must find too.
        place: the unit, and positions in `parts()` from the method down to the part; none for a trial.
        memory: estimated bytes; infinite if nothing may run beside it.
        seconds: how long such a fit took before, or 1.
        needs: the parts to be fitted before.
        needed_by: the jobs that need this part.
    """

    label: str
    row: AskedRow
    number: int | None
    expected: list[str]
    place: tuple[Unit, tuple[int, ...]]
    memory: float = 0
    seconds: float = 1
    deaths: int = 0
    needs: set[Job] = field(default_factory=set)
    needed_by: list[Job] = field(default_factory=list)

    @property
    def urgency(self) -> float:
        """Seconds from its start to the end of the last job that waits for it."""
        return self.seconds + max((job.urgency for job in self.needed_by), default=0)

    @property
    def is_ready(self) -> bool:
        """Whether it waits for nothing and, if it is a part, another job waits for it."""
        return not self.needs and (self.number is not None or any(self in job.needs for job in self.needed_by))


class Plan:
    """The jobs of a run, `waiting` being those that have not started, the most urgent first."""

    def __init__(self, runner: Runner, request: Request, rows: Sequence[AskedRow], left: Sequence[int]) -> None:
        self._free = available(runner.device)
        self._jobs: dict[Hashable, Job] = {}
        self._before: dict[type, float | None] = {}
        stores: dict[tuple[Unit, Metric], FitStore] = {}
        for number in left:
            row = rows[number]
            expected = runner.fingerprints(row.method, request.protocols, row.seed)
            units = dict.fromkeys(fit_unit(row.method, protocol) for protocol in request.protocols)
            job = Job(f"{row.method.label} · seed {row.seed}", row, number, expected, (next(iter(units)), ()))
            self._jobs[number] = job
            with contextlib.suppress(Exception):  # which the row reports
                for key in ((unit, fit_metric(row.method, runner.data)) for unit in units):
                    stores[key] = stores.get(key) or runner.fits(*key)
                    self._add_parts(job, row.method.build(), stores[key], (), row.method.label)
        self.waiting = sorted(self._jobs.values(), key=lambda job: (job.urgency, job.memory), reverse=True)

    def _add_parts(self, owner: Job, part: Part, store: FitStore, path: tuple[int, ...], label: str) -> None:
        """Estimate a job, and add the trials of its row, or the parts of its part, that are not stored."""
        if type(part) not in self._before:
            self._before[type(part)] = store.seconds_before(part)
        owner.seconds = self._before[type(part)] or owner.seconds
        owner.memory = max(owner.memory, estimate(part, store.train, store.val))
        row, seed = owner.row, owner.row.seed
        inner = [(row, p, (*path, k), f"{label} / {part_name(p)}") for k, p in enumerate(parts_of(part))]
        if owner.number is not None and row.method.tune:
            inner = [(row.as_trial(trial), trial.build(), (), trial.label) for trial in trials(row.method, seed)]
        elif store.has(part, seed):
            inner = []
        for asked, part, below, name in inner:
            if store.has(part, seed):
                continue
            key = store.fingerprint(part, seed)
            if key not in self._jobs:
                self._jobs[key] = Job(name, asked, None, [key], (store.train.unit, below), owner.memory)
                self._add_parts(self._jobs[key], part, store, below, name)
            owner.needs.add(self._jobs[key])
            self._jobs[key].needed_by.append(owner)

    def pop(self, running: Sequence[Job]) -> Job | None:
        """Take the most urgent job for which there is memory beside the `running` ones, or any if none runs."""
        used = sum(job.memory + BASE for job in running)
        fits = (job for job in self.waiting if not running or used + job.memory + BASE <= self._free)
        job = next((job for job in fits if job.is_ready), None)
        if job is not None:
            self.waiting.remove(job)
        return job

    def settle(self, part: Job, is_stored: bool, deaths: int = 0) -> None:
        """Let the jobs that need a part go on; if it is not stored, their rows fit it again and report the error.

        A trial that failed stops no other trial of its row.
        """
        for job in part.needed_by:
            if is_stored or (not part.place[1] and not deaths):
                job.needs.discard(part)
            elif job.number is None:
                job.needs = {job}  # never ready
                self.settle(job, is_stored, deaths)
            elif job.needs:  # else it has been counted
                job.needs.clear()
                job.deaths, job.memory = job.deaths + deaths, math.inf if deaths else job.memory


class Worker:
    """A process that computes one job after the other."""

    job: Job

    def __init__(self, spec: RunSpec) -> None:
        self._spec, context = spec, get_context("loky")
        self._messages, self._sender = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(
            1,
            context=context,
            initializer=_begin,
            initargs=(self._sender, os.getpid(), multiprocessing.get_start_method(allow_none=True)),
            env=dict.fromkeys(LIBRARIES, str(spec.options["threads"])) if spec.options["threads"] else {},
        )

    def start(self, job: Job) -> Future[Any]:
        """Begin a job; the future has the value of `_row` or `_part`."""
        self.job = job
        kept = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C is for this process only
        try:
            call = (_row,) if job.number is not None else (_part, *job.place, job.label)
            about = self._spec, job.row.spec, job.row.seed, job.expected
            return cast("Future[Any]", self._pool.submit(_computed, call[0], *about, *call[1:]))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, kept)
            self._sender.close()  # of which the worker has a copy

    def messages(self) -> Iterator[str | Step | None]:
        """What it has sent since the last call."""
        with contextlib.suppress(EOFError, OSError):  # it died
            while self._messages.poll():
                yield self._messages.recv()

    def stop(self) -> None:
        """End the process at once."""
        self._pool.shutdown(kill_workers=True)
        self._messages.close()


def run_side_by_side(runner: Runner, request: Request, jobs: int) -> list[Outcome]:
    """Compute the rows of a request, and the parts that they declare, at most `jobs` at a time.

    Jobs of which only one can run at a time, and rows of methods that workers do not know, run in this process.

    Returns:
        Outcomes in the order of `Runner.run`.

    Raises:
        CannotWrite: the disk is full, or a folder is not writable.
    """

    def compute(rows: list[AskedRow], left: list[int]) -> Generator[tuple[int, list[Outcome]]]:
        plan, here = Plan(runner, request, rows, left), left
        if len(left) > 1 or any(len(job.needs) > 1 for job in plan.waiting):
            here, spec = [], RunSpec.of(runner, request, str(runner.device))
            with contextlib.closing(_side_by_side(plan, spec, jobs)) as finished:
                for job, result in finished:
                    assert job.number is not None
                    if isinstance(result, BaseException):  # also a plugin that exits
                        result = runner.failed(job.row.method, request.protocols, job.row.seed, result)
                    if result is None:
                        here.append(job.number)
                    else:
                        yield job.number, result
        for number in here:
            yield number, list(runner.outcomes(rows[number].method, request.protocols, rows[number].seed))

    return gather(runner, request, compute)


def _side_by_side(plan: Plan, spec: RunSpec, jobs: int) -> Generator[tuple[Job, list[Outcome] | Exception | None]]:
    """Yield each row with its outcomes, an error, or None if workers have other code or data for it."""
    workers: list[Worker] = []
    idle: list[Worker] = []
    running: dict[Future[Any], Worker] = {}
    with Board() as board:
        try:
            while True:
                while len(running) < jobs and (job := plan.pop([worker.job for worker in running.values()])):
                    if not idle:
                        idle.append(Worker(spec))
                        workers += idle  # before it starts, as Ctrl-C may come then
                    worker = idle.pop()
                    running[worker.start(job)] = worker
                    board.show(worker, Step(job.label))
                if not running:
                    return
                done, _ = wait(running, TICK, FIRST_COMPLETED)
                for worker in running.values():
                    for message in islice(worker.messages(), MESSAGES):
                        if isinstance(message, str):
                            say(message)
                        else:
                            board.show(worker, message or Step(worker.job.label))
                for future in done:
                    worker = running.pop(future)
                    job, error = worker.job, cast("Exception | None", future.exception())
                    board.show(worker, None)
                    if isinstance(error, BrokenExecutor):
                        workers.remove(worker)
                        worker.stop()
                        job.deaths += 1
                        say(f"the worker of {job.label} died")
                        if job.number is not None and job.deaths < DEATHS:
                            job.memory = math.inf
                            plan.waiting.append(job)
                            continue
                        causes = "it may have too little memory, or the method's code ended the process"
                        error = BadInput(f"its worker died {job.deaths} times; {causes}")
                    else:
                        idle.append(worker)
                    if isinstance(error, CannotWrite):
                        raise error
                    if job.number is None:
                        plan.settle(job, error is None and future.result(), job.deaths)
                    else:
                        yield job, error or future.result()
        finally:
            for worker in workers:
                worker.stop()


# in the worker ------------------------------------------------------------------------------------------------------


def _begin(sender: Connection, parent: int, start_method: str | None) -> None:
    """Prepare a worker: it reports to the process that started it, and does not outlive it."""
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize  # it keeps what it has read, which is no reason to restart it
    multiprocessing.set_start_method(start_method, force=True)  # for the processes of methods, as loky sets its own
    lock = threading.RLock()

    def send(message: str | Step | None) -> None:
        with lock:
            sender.send(message)

    def write_directly() -> None:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        send_progress(None)
        sender.close()

    send_progress(send)
    os.dup2(2, 1)  # the command's stdout is for its table
    sys.stdout = sys.stderr = Lines(say)
    os.register_at_fork(after_in_child=write_directly)  # the processes of a method, which have no part in the lock
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _computed(compute: Callable[..., Any], *about: Any) -> Any:
    try:
        return compute(*about)
    finally:
        sys.stdout.write("\n")  # ends a line that was begun; empty ones are not shown


def _row(spec: RunSpec, method: str, seed: int, expected: list[str]) -> list[Outcome] | None:
    """Compute a row; None if this process has other code or data than the one that asks."""
    try:
        runner, configured = spec.runner(), METHODS.configure(method)
    except Exception:  # such as a method that only the other process has registered
        return None
    if not expected or runner.fingerprints(configured, spec.protocols, seed) != expected:
        return None
    return list(runner.outcomes(configured, spec.protocols, seed))


def _part(
    spec: RunSpec, method: str, seed: int, expected: list[str], unit: Unit, path: Sequence[int], label: str
) -> bool:
    """Fit and store a part; False if this process has other code or data than the one that asks."""
    runner, configured = spec.runner(), METHODS.configure(method)
    part: Part = configured.build()
    for k in path:
        part = parts_of(part)[k]
    store = runner.fits(unit, fit_metric(configured, runner.data))
    if [store.fingerprint(part, seed)] != expected:
        return False
    with limited(runner.threads):
        store.fitted(part, seed, label)
    return True
