"""Rows computed by the workers of a cluster.

Workers receive only strings and numbers: specs, seeds and the paths of shared folders.  They read data and features
there and write fits and records there, with the same locks as a local run; they return the contents of records.
"""

from __future__ import annotations

import contextlib
import functools
import io
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cran_bench.cluster import workers as clusters
from cran_bench.contract import Method
from cran_bench.errors import BadInput, CannotWrite, how_to_go_on
from cran_bench.machine.environment import pick_device
from cran_bench.machine.progress import say
from cran_bench.protocols import Protocol
from cran_bench.ranking.filtering import Bound
from cran_bench.records.schema import Address, Failure, Record
from cran_bench.registry import DATASETS, METHODS, Configured
from cran_bench.running.experiment import Request
from cran_bench.running.preparation import Prepared, load_prepared
from cran_bench.running.runner import Count, Outcome, Runner
from cran_bench.specs import parse_spec

if TYPE_CHECKING:
    from distributed import Client, Future

_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class RunSpec:
    """The settings shared by all rows of a run, as sent to workers.

    Attributes:
        dataset: spec of the dataset, with the full path of a plugin file.
        data: folder of the datasets.
        features: folder of this dataset's features.
        vectors: spec of the word vectors, with the full path of a file.
        results: folder of the records.
        cache: folder of fits and features.
        protocols: names of the protocols.
        device: `cpu` or `cuda`.
        folds: number of folds, as in `Runner`.
        backend: name of the ranking backend, as in `Runner`.
        bound: error bound of low-precision scores, as in `Runner`.
        force: whether existing records are replaced.
        name: id of the run.
    """

    dataset: str
    data: str
    features: str
    vectors: str
    results: str
    cache: str
    protocols: tuple[Protocol, ...]
    device: str
    folds: int
    backend: str
    bound: Bound
    force: bool
    name: str


@dataclass(frozen=True)
class ClusterWorkers:
    """The workers of a cluster in the form used by `cran_bench.run`: one task per method and seed."""

    cluster: clusters.Cluster

    @classmethod
    def of(cls, spec: str) -> ClusterWorkers:
        """Return the workers of a spec such as ``local:2``, ``dask://ADDRESS`` or ``slurm[queue=NAME]``.

        Raises:
            BadInput: the kind is unknown, the options are invalid, or dask.distributed is not installed.
        """
        return cls(clusters.find_cluster(spec))

    def device(self, name: str) -> torch.device:
        """The type of device that `name` stands for on the workers."""
        return self.cluster.device(name)

    def run(self, runner: Runner, request: Request) -> list[Outcome]:
        """Compute the rows of a request on the cluster.

        Args:
            runner: the runner of the request; it computes nothing itself.
            request: the methods, protocols and seeds.

        Returns:
            Outcomes in the order of `Runner.run`.

        Raises:
            BadInput: the cluster cannot be reached, or the connection is lost.
            CannotWrite: a worker could not write to the shared folders.
        """
        return _run_on(self.cluster, runner, request)


def _run_on(cluster: clusters.Cluster, runner: Runner, request: Request) -> list[Outcome]:
    assert isinstance(runner.backend, str)
    job = RunSpec(
        dataset=with_full_path(request.dataset),
        data=str(request.data.resolve()),
        features=str(runner.data.features.folder.resolve()),
        vectors=_with_full_file(runner.data.vectors),
        results=str(runner.results.resolve()),
        cache=str(runner.cache.resolve()),
        protocols=tuple(request.protocols),
        device=runner.device.type,
        folds=runner.folds,
        backend=runner.backend,
        bound=runner.bound,
        force=runner.force,
        name=runner.name,
    )
    rows = [(text, METHODS.configure(text), seed) for text in request.methods for seed in request.seeds]
    count = Count(len(rows) * len(request.protocols))
    outcomes_of: dict[int, list[Outcome]] = {}

    def take(number: int, outcomes: list[Outcome]) -> None:
        outcomes_of[number] = outcomes
        for outcome in outcomes:
            count.say(outcome)

    for number, (_, method, seed) in enumerate(rows):
        recorded = runner.recorded(method, request.protocols, seed)
        if recorded is not None:
            take(number, recorded)
    left = [number for number in range(len(rows)) if number not in outcomes_of]
    if left:
        with (
            cluster.connected(runner.device, len(left), runner.cache / "jobs") as client,
            contextlib.closing(_Tasks(client, runner, job, rows).outcomes(left)) as finished,
        ):
            for number, outcomes in finished:
                take(number, outcomes)
    return [outcome for number in range(len(rows)) for outcome in outcomes_of[number]]


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
    rows: Sequence[tuple[str, Configured[Method], int]]
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
            with_full_path(text),
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
            return [unpack(packed) for packed in future.result()]
        except CannotWrite:
            raise
        except CancelledError as lost:
            raise BadInput(f"the connection to the scheduler was lost; {how_to_go_on('run', self.job.force)}") from lost
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


def work(job: RunSpec, method: str, seed: int, expected: list[str]) -> list[dict[str, Any]]:
    """Compute the rows of a method and a seed on a worker, and return them in the form of `pack`.

    Raises:
        BadInput: data or features are missing on this machine, or its fingerprints differ from those `expected`.
    """
    from distributed import get_worker
    from distributed.worker import thread_state

    report = functools.partial(get_worker().log_event, _topic(job))
    key = str(thread_state.key)
    with _ONE_AT_A_TIME, contextlib.redirect_stderr(_Lines(report)):
        report({"begun": key})
        device = pick_device(job.device)
        runner = Runner(
            _prepared(job.dataset, job.data, job.features, job.vectors),
            Path(job.results),
            Path(job.cache),
            device,
            job.folds,
            job.backend,
            job.bound,
            job.force,
            job.name,
        )
        configured = METHODS.configure(method)
        if runner.fingerprints(configured, job.protocols, seed) != expected:
            raise BadInput(
                f"a worker has a different version of cran-bench, of {configured.plugin.name} or of the data than the "
                "machine that submitted the run: install the same on both and restart the workers"
            )
        return [pack(outcome) for outcome in runner.outcomes(configured, job.protocols, seed)]


def pack(outcome: Outcome) -> dict[str, Any]:
    """An outcome as strings and numbers."""
    record, failure = outcome.record, outcome.failure
    return {
        "address": asdict(outcome.address),
        "record": record and record.model_dump(),
        "failure": failure and failure.model_dump(),
        "reused": outcome.reused,
    }


def unpack(packed: dict[str, Any]) -> Outcome:
    """The outcome packed by `pack`."""
    record, failure = packed["record"], packed["failure"]
    return Outcome(
        Address(**packed["address"]),
        record and Record.model_validate(record),
        failure and Failure.model_validate(failure),
        packed["reused"],
    )


def with_full_path(spec: str) -> str:
    """A spec of a method or dataset, with the full path of a plugin file, which is valid in any folder."""
    file, suffix, rest = spec.partition(".py")
    return f"{Path(file + suffix).resolve()}{rest}" if suffix and parse_spec(spec).name.endswith(".py") else spec


def _with_full_file(vectors: str) -> str:
    name, colon, file = vectors.partition(":")
    return f"{name}:{Path(file).resolve()}" if colon else vectors


def _topic(job: RunSpec) -> str:
    """The topic of the events that workers log for a run."""
    return f"cran-bench-{job.name}"


@functools.lru_cache(maxsize=1)
def _prepared(dataset: str, data: str, features: str, vectors: str) -> Prepared:
    return load_prepared(DATASETS.configure(dataset), Path(data), Path(features), vectors)


class _Lines(io.TextIOBase):
    """A text stream that passes each complete line to a function."""

    def __init__(self, report: Callable[[str], object]) -> None:
        self._report, self._line = report, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line.strip():
                self._report(line)
        return len(text)
