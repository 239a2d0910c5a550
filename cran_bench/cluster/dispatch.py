"""Rows computed by the workers of a cluster: what is sent to them, what they do, and what comes back.

Sent are texts and numbers: specs, seeds, and folders that all machines share.  Workers read data and features there
and write fits and records there, under the locks of a local run; what comes back is the content of records.
"""

from __future__ import annotations

import contextlib
import functools
import io
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cran_bench.cluster import workers as clusters
from cran_bench.cluster.sharded import Sharded, count_shard, forget_shards
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

SHARDS_FIRST = 1
"""Priority of shards over rows."""

_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class RunSpec:
    """What all rows of a run have in common, as a worker is told it.

    Attributes:
        dataset: its spec; a plugin file by its full path.
        data: folder of the datasets.
        features: the folder of the features themselves.
        vectors: spec of word vectors; a file by its full path.
        results: folder of the records.
        cache: folder of fits and features.
        protocols: names.
        device: as on the command line.
        folds: see `Runner`.
        backend: likewise.
        bound: likewise.
        force: likewise.
        name: of the run.
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
    """The workers of a cluster, as `cran_bench.run` takes them: a task for each method and seed."""

    cluster: clusters.Cluster

    @classmethod
    def of(cls, spec: str) -> ClusterWorkers:
        """The workers of a spec such as ``local:2``, ``dask://ADDRESS`` or ``slurm[queue=NAME]``.

        Raises:
            BadInput: an unknown kind, bad options, or dask.distributed is not installed.
        """
        return cls(clusters.find_cluster(spec))

    def device(self, name: str) -> torch.device:
        """The kind of device that `name` means on the workers."""
        return self.cluster.device(name)

    def run(self, runner: Runner, request: Request) -> list[Outcome]:
        """Compute the rows of a request on the cluster.

        Args:
            runner: the runner of the request; it computes nothing itself.
            request: what was asked for.

        Returns:
            Outcomes in the order of `Runner.run`.

        Raises:
            BadInput: the cluster cannot be reached, or went away.
            CannotWrite: a worker could not write into the shared folders.
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
    found: dict[int, list[Outcome]] = {}

    def take(number: int, outcomes: list[Outcome]) -> None:
        found[number] = outcomes
        for outcome in outcomes:
            count.say(outcome)

    for number, (_, method, seed) in enumerate(rows):
        recorded = runner.recorded(method, request.protocols, seed)
        if recorded is not None:
            take(number, recorded)
    left = [number for number in range(len(rows)) if number not in found]
    if left:
        with (
            cluster.connected(runner.device, len(left), runner.cache / "jobs") as client,
            contextlib.closing(_Tasks(client, runner, job, rows).outcomes(left)) as finished,
        ):
            for number, outcomes in finished:
                take(number, outcomes)
    return [outcome for number in range(len(rows)) for outcome in found[number]]


@dataclass
class _Tasks:
    """The rows of a run, as methods and seeds, as they are with the scheduler.

    A scheduler fails a task after some deaths of workers that it was given to, whether or not they had begun it.  Such
    a task is given again, unless workers have begun it as often as they may die of it.

    Attributes:
        numbers: of rows, by the key of their task.
        begun: how often each row was, as far as has been heard.
        given: how often each row was.
    """

    client: Client
    runner: Runner
    job: RunSpec
    rows: Sequence[tuple[str, Configured[Method], int]]
    numbers: dict[str, int] = field(default_factory=dict)
    begun: Counter[int] = field(default_factory=Counter)
    given: Counter[int] = field(default_factory=Counter)

    def outcomes(self, left: Sequence[int]) -> Generator[tuple[int, list[Outcome]]]:
        """Those of some rows, as they come; what is not finished when this ends is cancelled."""
        from distributed import as_completed

        heard = {_topic(self.job): self._hear_worker, "all": self._hear_scheduler}
        for topic, hear in heard.items():
            self.client.subscribe_topic(topic, hear)
        futures = {self._give(number) for number in left}
        try:
            finished = as_completed(futures, loop=self.client.loop)
            for future in finished:
                number = self.numbers[str(future.key)]
                outcomes = self._outcomes(future, number)
                futures.remove(future)  # or its result is lost with its worker, and made again
                future.release()
                if outcomes is None:
                    again = self._give(number)
                    futures.add(again)
                    finished.add(again)
                else:
                    yield number, outcomes
        finally:
            self.client.cancel(list(futures))
            for topic in heard:
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
            fifo_timeout="0ms",  # rows begin in the order of the table
            resources=clusters.resources(self.runner.device),
        )

    def _outcomes(self, future: Future, number: int) -> list[Outcome] | None:
        """Those of a task that has come to an end, or None where it is to be given again."""
        from distributed import KilledWorker

        error: Exception
        try:
            return [received(found) for found in future.result()]
        except CannotWrite:
            raise
        except CancelledError as lost:
            raise BadInput(f"the scheduler has gone away; {how_to_go_on('run', self.job.force)}") from lost
        except KilledWorker:
            deaths = max(self.begun[number], self.given[number])
            if deaths <= clusters.DEATHS:
                return None
            error = BadInput(f"its worker died {deaths} times: the memory may be too small; see what workers printed")
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
            held = sum(str(key) in self.numbers for key in about.get("processing-tasks", ()))
            if held:
                say(f"the worker {about['worker']} died; what it was given goes to others: {held} of the rows left")


def work(job: RunSpec, method: str, seed: int, expected: list[str]) -> list[dict[str, Any]]:
    """What a worker does: the rows of a method and a seed, as `sent` puts them.

    Raises:
        BadInput: this machine has not what the row is to be made of, or makes another of it than was `expected`.
    """
    from distributed import get_worker
    from distributed.worker import thread_state

    tell = functools.partial(get_worker().log_event, _topic(job))
    key = str(thread_state.key)
    forget_shards()
    with _ONE_AT_A_TIME, contextlib.redirect_stderr(_Lines(tell)):
        tell({"begun": key})
        device = pick_device(job.device)
        backend = Sharded(
            Path(job.cache) / "counting", functools.partial(offered_to_others, device), job.backend, job.bound
        )
        runner = Runner(
            _prepared(job.dataset, job.data, job.features, job.vectors),
            Path(job.results),
            Path(job.cache),
            device,
            job.folds,
            backend,
            job.bound,
            job.force,
            job.name,
        )
        configured = METHODS.configure(method)
        if runner.fingerprints(configured, job.protocols, seed) != expected:
            raise BadInput(
                f"a worker has another version of cran-bench, of {configured.plugin.name} or of the data than the "
                "machine that asks: install the same on both, and start the workers again"
            )
        return [sent(outcome) for outcome in runner.outcomes(configured, job.protocols, seed)]


@contextlib.contextmanager
def offered_to_others(device: torch.device, folder: Path, count: int) -> Iterator[None]:
    """Offer the shards of a folder to workers that are idle, or as soon as they are."""
    from distributed import get_client

    client = get_client()
    kind = torch.device(device.type)
    futures = [
        client.submit(
            count_shard,
            folder,
            number,
            kind,
            key=f"shard-{uuid.uuid4().hex}",
            pure=False,
            priority=SHARDS_FIRST,
            resources=clusters.resources(device),
        )
        for number in range(count)
    ]
    try:
        yield
    finally:
        client.cancel(futures)


def sent(outcome: Outcome) -> dict[str, Any]:
    """An outcome as texts and numbers."""
    record, failure = outcome.record, outcome.failure
    return {
        "address": asdict(outcome.address),
        "record": record and record.model_dump(),
        "failure": failure and failure.model_dump(),
        "reused": outcome.reused,
    }


def received(found: dict[str, Any]) -> Outcome:
    """The inverse of `sent`."""
    record, failure = found["record"], found["failure"]
    return Outcome(
        Address(**found["address"]),
        record and Record.model_validate(record),
        failure and Failure.model_validate(failure),
        found["reused"],
    )


def with_full_path(spec: str) -> str:
    """A spec of a method or dataset that means the same in whatever folder a worker is."""
    file, found, rest = spec.partition(".py")
    return f"{Path(file + found).resolve()}{rest}" if found and parse_spec(spec).name.endswith(".py") else spec


def _with_full_file(vectors: str) -> str:
    name, colon, file = vectors.partition(":")
    return f"{name}:{Path(file).resolve()}" if colon else vectors


def _topic(job: RunSpec) -> str:
    """Of the events that carry what workers say of a run."""
    return f"cran-bench-{job.name}"


@functools.lru_cache(maxsize=1)
def _prepared(dataset: str, data: str, features: str, vectors: str) -> Prepared:
    return load_prepared(DATASETS.configure(dataset), Path(data), Path(features), vectors)


class _Lines(io.TextIOBase):
    """A stream that passes on every line that is written to it."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell, self._begun = tell, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.strip():
                self._tell(line)
        return len(text)
