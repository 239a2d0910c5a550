"""Where the workers of ``run --cluster`` come from: processes of this machine, a Dask scheduler, or SLURM's jobs.

Engines are those of dask.distributed and dask-jobqueue.  A worker computes one row at a time, with as many threads as
``OMP_NUM_THREADS`` tells torch; one that dies is replaced, and what it was computing is given to another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from cran_bench.errors import BadInput, did_you_mean
from cran_bench.machine.environment import pick_device
from cran_bench.machine.extras import require
from cran_bench.machine.progress import say
from cran_bench.specs import build, parse_spec

if TYPE_CHECKING:
    from distributed import Client

EXTRA = "distributed"
KINDS = {"local": "local:N", "dask": "dask://ADDRESS", "slurm": "slurm[queue=NAME,...]"}
ANSWER_WITHIN = 5  # seconds, of a scheduler
DEATHS = 5  # of workers in the midst of a row, after which it counts as failed
LOOK_EVERY = 30  # seconds, after SLURM's jobs
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What tells torch, MKL and OpenBLAS; Dask sets each of them to 1 in a worker unless it is set."""
GPU = "GPU"  # the resource that a worker with a GPU offers, and that a row on one asks for


class Cluster(Protocol):
    """Workers to be had."""

    def device(self, name: str) -> torch.device:
        """The kind of device that ``--device`` means there.

        Raises:
            BadInput: there is no such device.
        """
        ...

    def connected(self, device: torch.device, rows: int, logs: Path) -> contextlib.AbstractContextManager[Client]:
        """Workers for so many rows at a time, which end with the context if it has started them.

        Args:
            device: what a row computes on.
            rows: how many there are; more workers than these are of no use.
            logs: folder for what jobs print.

        Raises:
            BadInput: they are not to be had.
        """
        ...


def find_cluster(text: str) -> Cluster:
    """The cluster of a spec.

    Raises:
        BadInput: an unknown kind, bad options, or dask.distributed is not installed.
    """
    spec = parse_spec(text)
    if spec.name not in KINDS:
        raise BadInput(f"there is no cluster '{spec.name}'{did_you_mean(spec.name, KINDS)}; write {_ways()}")
    distributed = require("distributed", EXTRA, "runs on a cluster")
    for handler in logging.getLogger(distributed.__name__).handlers:
        handler.setLevel(logging.CRITICAL)  # what matters to a run is told by it
    if spec.name == "slurm":
        if spec.argument:
            raise BadInput(f"slurm takes options and no '{spec.argument}'; write {KINDS['slurm']}")
        require("dask_jobqueue", EXTRA, "runs on slurm")
        return build(Slurm, spec.options, "slurm")
    if spec.options:
        raise BadInput(f"{spec.name} takes no options in brackets; write {KINDS[spec.name]}")
    if spec.name == "local":
        if not spec.argument.isdecimal() or not int(spec.argument):
            raise BadInput(f"local takes a number of workers, at least 1, not '{spec.argument}'; write local:2")
        return Local(int(spec.argument))
    address = spec.argument.removeprefix("//")
    if not spec.argument.startswith("//") or not re.search(r":\d+$", address):
        raise BadInput(f"'{text}' names no scheduler; write dask://HOST:PORT, the address that dask scheduler prints")
    return Scheduler(address if "://" in address else f"tcp://{address}")


def resources(device: torch.device) -> dict[str, float]:
    """What a row asks for of a worker besides one of its threads."""
    return {GPU: 1.0} if device.type == "cuda" else {}


@dataclass(frozen=True)
class Local:
    """Worker processes on this machine, which share its cores and its GPUs evenly.

    Attributes:
        workers: how many.
    """

    workers: int

    def device(self, name: str) -> torch.device:
        """See Cluster."""
        return pick_device(name)

    @contextlib.contextmanager
    def connected(self, device: torch.device, rows: int, logs: Path) -> Iterator[Client]:
        """See Cluster."""
        from dask.system import CPU_COUNT
        from distributed import Client, Nanny, SpecCluster
        from distributed import Scheduler as DaskScheduler

        count = min(self.workers, rows)
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, CPU_COUNT // count))
        gpus = _gpus() if device.type == "cuda" else []
        workers = {}
        for number in range(count):
            environ = dict.fromkeys(THREADS, threads)
            if gpus:
                environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
            options = {"nthreads": 1, "memory_limit": 0, "host": "127.0.0.1", "env": environ}
            options |= {"silence_logs": logging.CRITICAL, "resources": resources(device)}
            workers[number] = {"cls": Nanny, "options": options}
        options = {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0", "allowed_failures": DEATHS}
        scheduler = {"cls": DaskScheduler, "options": options}
        with (
            SpecCluster(workers=workers, scheduler=scheduler, silence_logs=logging.CRITICAL) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            say(f"workers: {count}, threads of each: {threads}; dashboard: {client.dashboard_link}")
            yield client


@dataclass(frozen=True)
class Scheduler:
    """A Dask scheduler that runs already, with workers of its own.

    Attributes:
        address: such as ``tcp://10.0.0.1:8786``.
    """

    address: str

    def device(self, name: str) -> torch.device:
        """See Cluster: with `auto`, rows go to the workers with a GPU where there are any."""
        if name == "auto":
            with self._client() as client:
                return torch.device("cuda" if _offering(client) else "cpu")
        return _device(name)

    @contextlib.contextmanager
    def connected(self, device: torch.device, rows: int, logs: Path) -> Iterator[Client]:
        """See Cluster."""
        with self._client() as client:
            workers = client.scheduler_info(n_workers=-1)["workers"]
            say(f"workers at {self.address}: {len(workers)}; dashboard: {client.dashboard_link}")
            if not workers:
                say(f"waiting for workers: dask worker {self.address} --nthreads 1 --memory-limit 0")
            elif device.type == "cuda" and not _offering(client):
                raise BadInput(
                    f"no worker at {self.address} offers a GPU: start it with --resources {GPU}=1, or take --device cpu"
                )
            yield client

    @contextlib.contextmanager
    def _client(self) -> Iterator[Client]:
        from distributed import Client

        try:
            client = Client(self.address, timeout=ANSWER_WITHIN, set_as_default=False)
        except (OSError, ValueError) as error:  # nobody there, or no address
            raise BadInput(
                f"no Dask scheduler answers at {self.address} within {ANSWER_WITHIN} seconds: start one with "
                "dask scheduler, and give the address it prints"
            ) from error
        with client:
            yield client


@dataclass(frozen=True)
class Slurm:
    """Jobs of SLURM with a worker each, submitted from here; as many are kept as there were rows, `jobs` at most.

    Attributes:
        queue: partition; SLURM's own default where none is given.
        account: to charge.
        cores: of a job, all for one row.
        memory: of a job.
        walltime: after which SLURM ends a job; its row goes on in another from the last checkpoint.
        jobs: how many at a time.
        gres: generic resources of a job, such as gpu:1.
        interface: network interface on which jobs reach this machine, such as ib0.
    """

    queue: str | None = None
    account: str | None = None
    cores: int = 1
    memory: str = "8GB"
    walltime: str = "01:00:00"
    jobs: int = 1
    gres: str | None = None
    interface: str | None = None

    def __post_init__(self) -> None:
        if min(self.cores, self.jobs) < 1:
            raise ValueError(f"cores and jobs are at least 1, not {min(self.cores, self.jobs)}")
        if not re.fullmatch(r"\d+(\.\d+)? ?[KMGT]i?B", self.memory):
            raise ValueError(f"memory is a size such as 64GB, not '{self.memory}'")
        if not re.fullmatch(r"(\d+-)?\d+:\d\d:\d\d", self.walltime):
            raise ValueError(f"walltime is a time such as 04:00:00 or 1-00:00:00, not '{self.walltime}'")

    @property
    def lifetime(self) -> int:
        """Seconds after which a worker leaves by itself, before SLURM ends its job, so that it has not died."""
        days, _, clock = self.walltime.rpartition("-")
        hours, minutes, seconds = map(int, clock.split(":"))
        whole = 86400 * int(days or 0) + 3600 * hours + 60 * minutes + seconds
        return whole - min(120, whole // 10)

    def device(self, name: str) -> torch.device:
        """See Cluster: with `auto`, a GPU where jobs have one."""
        has_one = "gpu" in (self.gres or "")
        device = _device(("cuda" if has_one else "cpu") if name == "auto" else name)
        if device.type == "cuda" and not has_one:
            raise BadInput("slurm: jobs have no GPU to compute on; write slurm[gres=gpu:1,...], or use --device cpu")
        return device

    @contextlib.contextmanager
    def connected(self, device: torch.device, rows: int, logs: Path) -> Iterator[Client]:
        """See Cluster."""
        from dask_jobqueue import SLURMCluster
        from distributed import Client
        from tornado.ioloop import PeriodicCallback

        if shutil.which("sbatch") is None:
            raise BadInput("slurm needs the command sbatch: run this where SLURM's jobs are submitted from")
        offered = [f"--resources {GPU}=1"] if device.type == "cuda" else []
        jobs = min(self.jobs, rows)
        with (
            SLURMCluster(
                queue=self.queue,
                account=self.account,
                cores=1,  # threads of Dask
                processes=1,
                job_cpu=self.cores,
                memory=self.memory,
                walltime=self.walltime,
                interface=self.interface,
                log_directory=str(logs),
                job_name="cran-bench",
                job_extra_directives=[f"--gres={self.gres}"] if self.gres else [],
                job_script_prologue=[f"export {name}={self.cores}" for name in THREADS],
                worker_extra_args=[
                    "--memory-limit 0",
                    f"--lifetime {self.lifetime}s",
                    *offered,
                ],  # SLURM minds the memory
                scheduler_options={"dashboard_address": ":0", "allowed_failures": DEATHS},
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            _try_out(cluster.job_script())
            say(f"jobs of SLURM: {jobs}, which print into {logs}; dashboard: {client.dashboard_link}")
            cluster.scale(jobs)
            replacing = PeriodicCallback(lambda: cluster.scale(jobs), 1000 * LOOK_EVERY)
            cluster.loop.add_callback(replacing.start)
            try:
                yield client
            finally:
                cluster.loop.add_callback(replacing.stop)


def _try_out(script: str) -> None:
    """Have SLURM look over a job without running it.

    Raises:
        BadInput: it would refuse it.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        found = subprocess.run(["sbatch", "--test-only", file.name], capture_output=True, text=True, check=False)
    if found.returncode:
        raise BadInput(f"SLURM refuses such a job: {' '.join((found.stderr or found.stdout).split())}")


def _device(name: str) -> torch.device:
    """A device that is not here but where workers are."""
    if name not in ("cpu", "cuda"):
        raise BadInput(f"there is no device '{name}' on a cluster{did_you_mean(name, ('auto', 'cpu', 'cuda'))}")
    return torch.device(name)


def _offering(client: Client) -> int:
    """How many workers offer a GPU."""
    workers: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return sum(GPU in about["resources"] for about in workers.values())


def _gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


def _ways() -> str:
    *most, last = KINDS.values()
    return f"{', '.join(most)} or {last}"
