"""Rows computed by the workers of a cluster."""

from __future__ import annotations

import contextlib
import functools
import threading
import uuid
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from cran_bench.cluster import workers as clusters
from cran_bench.errors import BadInput, CannotWrite, how_to_go_on
from cran_bench.machine.progress import say
from cran_bench.registry import METHODS
from cran_bench.running.plan import Plan
from cran_bench.running.remote import AskedRow, Lines, RunSpec
from cran_bench.running.runner import Outcome, Runner

if TYPE_CHECKING:
    from distributed import Client, Future

_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class ClusterWorkers:
    """The workers of a cluster in the form used by `cran_bench.run`: one task per method and seed."""

    cluster: clusters.Cluster

    @classmethod
    def of(cls, spec: str) -> ClusterWorkers:
        """Return the workers of a spec such as ``dask://ADDRESS`` or ``slurm[queue=NAME]``.

        Raises:
            BadInput: the kind is unknown, the options are invalid, or dask.distributed is not installed.
        """
        return cls(clusters.find_cluster(spec))

    def device(self, name: str) -> torch.device:
        """The type of device that `name` stands for on the workers."""
        return self.cluster.device(name)

    def run(self, runner: Runner, plan: Plan) -> list[Outcome]:
        """Compute the rows of a plan on the cluster.

        Args:
            runner: the runner of the plan; it computes nothing itself.
            plan: the rows.

        Returns:
            Outcomes in the order of `Runner.run`.

        Raises:
            BadInput: the cluster cannot be reached, or the connection is lost.
            CannotWrite: a worker could not write to the shared folders.
        """
        job = RunSpec.of(runner, plan.request, runner.device.type)

        def compute(rows: list[AskedRow], left: list[int]) -> Generator[tuple[int, list[Outcome]]]:
            with (
                self.cluster.connected(runner.device, len(left), runner.cache / "jobs") as client,
                contextlib.closing(_Tasks(client, runner, job, rows).outcomes(left)) as finished,
            ):
                yield from finished

        return plan.gather(compute)


@dataclass
class _Tasks:
    """The rows of a run (methods and seeds) as tasks of the scheduler.

    A scheduler fails a task after several workers that it was assigned to have died, whether or not they had started
    it.  Such a task is submitted again unless `DEATHS` workers died while computing it.

    Attributes:
        numbers: row numbers by the key of their task.
        begun: number of times that workers reported having started each row.
        given: number of times each row was submitted.
    """

    client: Client
    runner: Runner
    job: RunSpec
    rows: Sequence[AskedRow]
    numbers: dict[str, int] = field(default_factory=dict)
    begun: Counter[int] = field(default_factory=Counter)
    given: Counter[int] = field(default_factory=Counter)

    def outcomes(self, left: Sequence[int]) -> Generator[tuple[int, list[Outcome]]]:
        """Yield the outcomes of rows as they finish; unfinished rows are cancelled when the generator is closed."""
        from distributed import as_completed

        handlers = {_topic(self.job): self._hear_worker, "all": self._hear_scheduler}
        for topic, handler in handlers.items():
            self.client.subscribe_topic(topic, handler)
        futures = {self._give(number) for number in left}
        try:
            finished = as_completed(futures, loop=self.client.loop)
            for future in finished:
                number = self.numbers[str(future.key)]
                outcomes = self._outcomes(future, number)
                futures.remove(future)  # otherwise its result is lost with its worker and computed again
                future.release()
                if outcomes is None:
                    again = self._give(number)
                    futures.add(again)
                    finished.add(again)
                else:
                    yield number, outcomes
        finally:
            self.client.cancel(list(futures))
            for topic in handlers:
                self.client.unsubscribe_topic(topic)

    def _give(self, number: int) -> Future:
        text, method, seed = self.rows[number]
        key = f"{method.plugin.name}-{uuid.uuid4().hex}"
        self.numbers[key] = number
        self.given[number] += 1
        return self.client.submit(
            work,
            self.job,
            text,
            seed,
            self.runner.fingerprints(method, self.job.protocols, seed),
            key=key,
            pure=False,
            fifo_timeout="0ms",  # rows start in the order of the table
            resources=clusters.resources(self.runner.device),
        )

    def _outcomes(self, future: Future, number: int) -> list[Outcome] | None:
        """The outcomes of a finished task, or None if it has to be submitted again."""
        from distributed import KilledWorker

        error: Exception
        try:
            outcomes: list[Outcome] = future.result()
            return outcomes
        except CannotWrite:
            raise
        except CancelledError as lost:
            raise BadInput(
                f"the connection to the scheduler was lost; {how_to_go_on('run', self.runner.force)}"
            ) from lost
        except KilledWorker:
            deaths = max(self.begun[number], self.given[number])
            if deaths <= clusters.DEATHS:
                return None
            error = BadInput(
                f"its worker died {deaths} times: see the output of the workers; they may have too little memory"
            )
        except Exception as other:
            error = other
        _, method, seed = self.rows[number]
        return self.runner.failed(method, self.job.protocols, seed, error)

    def _hear_worker(self, event: tuple[float, Any]) -> None:
        if isinstance(event[1], dict):
            self.begun[self.numbers[event[1]["begun"]]] += 1
        else:
            say(event[1])

    def _hear_scheduler(self, event: tuple[float, Any]) -> None:
        about = event[1]
        if isinstance(about, dict) and about.get("action") == "remove-worker" and not about.get("expected"):
            assigned = sum(str(key) in self.numbers for key in about.get("processing-tasks", ()))
            if assigned:
                say(f"the worker {about['worker']} died; rows reassigned to other workers: {assigned}")


def work(job: RunSpec, method: str, seed: int, expected: list[str]) -> list[Outcome]:
    """Compute the rows of a method and a seed on a worker.

    Raises:
        BadInput: data or features are missing on this machine, or its fingerprints differ from those `expected`.
    """
    from distributed import get_worker
    from distributed.worker import thread_state

    report = functools.partial(get_worker().log_event, _topic(job))
    key = str(thread_state.key)
    with _ONE_AT_A_TIME, contextlib.redirect_stderr(Lines(report)):
        report({"begun": key})
        runner = job.runner()
        configured = METHODS.configure(method)
        if runner.fingerprints(configured, job.protocols, seed) != expected:
            raise BadInput(
                f"a worker has a different version of cran-bench, of {configured.plugin.name} or of the data than the "
                "machine that submitted the run: install the same on both and restart the workers"
            )
        return list(runner.outcomes(configured, job.protocols, seed))


def _topic(job: RunSpec) -> str:
    """The topic of the events that workers log for a run."""
    return f"cran-bench-{job.options['name']}"
