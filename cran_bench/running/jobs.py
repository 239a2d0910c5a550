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
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, cast

from joblib.externals.loky import ProcessPoolExecutor, process_executor  # type: ignore[import-untyped]
from joblib.externals.loky.backend import get_context  # type: ignore[import-untyped]

from cran_bench.contract import Part
from cran_bench.errors import BadInput, CannotWrite
from cran_bench.machine.progress import Board, Step, say, send_progress
from cran_bench.machine.threads import LIBRARIES, limited
from cran_bench.protocols import Unit
from cran_bench.registry import METHODS
from cran_bench.running.fits.run import parts_of
from cran_bench.running.plan import START, Job, Plan
from cran_bench.running.remote import AskedRow, Lines, RunSpec
from cran_bench.running.runner import Outcome, Runner, fit_metric

DEATHS = 2  # a row counts as failed after this many workers died while computing it
TICK = 0.2  # seconds between looks at what workers send
MESSAGES = 1 << 12  # that are read from a worker at a time: all that a pipe holds, as it may send without end


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
            initargs=(self._sender, os.getpid(), multiprocessing.get_start_method(allow_none=True), time.time()),
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


def run_side_by_side(runner: Runner, plan: Plan, jobs: int) -> list[Outcome]:
    """Compute the rows of a plan, and the parts that they declare, at most `jobs` at a time.

    Jobs of which only one can run at a time, and rows of methods that workers do not know, run in this process.

    Returns:
        Outcomes in the order of `Runner.run`.

    Raises:
        CannotWrite: the disk is full, or a folder is not writable.
    """

    def compute(rows: list[AskedRow], left: list[int]) -> Generator[tuple[int, list[Outcome]]]:
        here = left
        if plan.is_parallel:
            here, spec = [], RunSpec.of(runner, plan.request, str(runner.device))
            with contextlib.closing(_side_by_side(plan, spec, jobs)) as finished:
                for job, result in finished:
                    assert job.number is not None
                    if isinstance(result, BaseException):  # also a plugin that exits
                        result = runner.failed(job.row.method, plan.request.protocols, job.row.seed, result)
                    if result is None:
                        here.append(job.number)
                    else:
                        yield job.number, result
        for number in here:
            yield number, list(runner.outcomes(rows[number].method, plan.request.protocols, rows[number].seed))

    return plan.gather(compute)


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


_started: list[float] = []  # when this worker was started, until its first job begins


def _begin(sender: Connection, parent: int, start_method: str | None, started: float) -> None:
    """Prepare a worker: it reports to the process that started it, and does not outlive it."""
    _started.append(started)
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
    _note_start(runner)
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
    _note_start(runner)
    with limited(runner.threads):
        store.fitted(part, seed, label)
    return True


def _note_start(runner: Runner) -> None:
    """Note how long this worker took until its first job could begin."""
    while _started:
        runner.journal.note(START, START, 1, time.time() - _started.pop())
