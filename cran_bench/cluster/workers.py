"""The workers of ``run --cluster``: those of a Dask scheduler, or SLURM jobs that dask-jobqueue submits.

A worker computes one row at a time, with the number of threads given by ``OMP_NUM_THREADS``; a worker that dies is
replaced, and its row is given to another.
"""

from __future__ import annotations

import contextlib
import logging
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
from cran_bench.machine.extras import require
from cran_bench.machine.progress import say
from cran_bench.machine.threads import LIBRARIES
from cran_bench.specs import build, parse_spec

if TYPE_CHECKING:
    from distributed import Client

EXTRA = "distributed"
KINDS = {"dask": "dask://ADDRESS", "slurm": "slurm[queue=NAME,...]"}
CONNECT_TIMEOUT = 5  # seconds
DEATHS = 5  # a row counts as failed after this many workers died while computing it
POLL_EVERY = 30  # seconds between checks that all SLURM jobs exist
GPU = "GPU"  # the Dask resource of workers with a GPU, required by rows on a GPU


class Cluster(Protocol):
    """A source of workers."""

    def device(self, name: str) -> torch.device: ...

    def connected(self, device: torch.device, rows: int, logs: Path) -> contextlib.AbstractContextManager[Client]:
        """Connect to workers; those started here stop with the context.

        Args:
            device: the device of a row.
            rows: number of rows, which limits the number of workers.
            logs: folder for the output of jobs.

        Raises:
            BadInput: the workers cannot be reached or started.
        """
        ...


def find_cluster(text: str) -> Cluster:
    """Return the cluster described by a spec.

    Raises:
        BadInput: the kind is unknown, the options are invalid, or dask.distributed is not installed.
    """
    spec = parse_spec(text)
    if spec.name not in KINDS:
        forms = " or ".join(KINDS.values())
        raise BadInput(
            f"there is no cluster '{spec.name}'{did_you_mean(spec.name, KINDS)}; write {forms}, or --jobs N for "
            "processes on this machine"
        )
    distributed = require("distributed", EXTRA, "runs on a cluster")
    for handler in logging.getLogger(distributed.__name__).handlers:
        handler.setLevel(logging.CRITICAL)  # the run reports what matters
    if spec.name == "slurm":
        if spec.argument:
            raise BadInput(f"slurm takes options in brackets, not '{spec.argument}'; write {KINDS['slurm']}")
        require("dask_jobqueue", EXTRA, "runs on slurm")
        return build(Slurm, spec.options, "slurm")
    if spec.options:
        raise BadInput(f"{spec.name} takes no options in brackets; write {KINDS[spec.name]}")
    address = spec.argument.removeprefix("//")
    if not spec.argument.startswith("//") or not re.search(r":\d+$", address):
        raise BadInput(f"'{text}' is not a scheduler's address; write dask://HOST:PORT, as printed by dask scheduler")
    return Scheduler(address if "://" in address else f"tcp://{address}")


def resources(device: torch.device) -> dict[str, float]:
    """The Dask resources that a row on a device requires."""
    return {GPU: 1.0} if device.type == "cuda" else {}


@dataclass(frozen=True)
class Scheduler:
    """A running Dask scheduler with its own workers.

    Attributes:
        address: for example ``tcp://10.0.0.1:8786``.
    """

    address: str

    def device(self, name: str) -> torch.device:
        """The type of device on the workers; `auto` means their GPUs if any worker offers one."""
        if name == "auto":
            with self._client() as client:
                return torch.device("cuda" if _workers_with_gpu(client) else "cpu")
        return _device(name)

    @contextlib.contextmanager
    def connected(self, device: torch.device, rows: int, logs: Path) -> Iterator[Client]:
        with self._client() as client:
            workers = client.scheduler_info(n_workers=-1)["workers"]
            say(f"workers at {self.address}: {len(workers)}; dashboard: {client.dashboard_link}")
            if not workers:
                say(f"waiting for workers: dask worker {self.address} --nthreads 1 --memory-limit 0")
            elif device.type == "cuda" and not _workers_with_gpu(client):
                raise BadInput(
                    f"no worker at {self.address} offers a GPU: start it with --resources {GPU}=1, or use --device cpu"
                )
            yield client

    @contextlib.contextmanager
    def _client(self) -> Iterator[Client]:
        from distributed import Client

        try:
            client = Client(self.address, timeout=CONNECT_TIMEOUT, set_as_default=False)
        except (OSError, ValueError) as error:  # nothing listens there, or it is not an address
            raise BadInput(
                f"no Dask scheduler answers at {self.address} within {CONNECT_TIMEOUT} seconds: start one with "
                "dask scheduler and give the address it prints"
            ) from error
        with client:
            yield client


@dataclass(frozen=True)
class Slurm:
    """SLURM jobs with one worker each; one job per row, but at most `jobs` at a time.

    Attributes:
        queue: partition; None for SLURM's default.
        account: the account to charge.
        cores: CPU cores per job.
        memory: memory per job, such as 8GB.
        walltime: time limit of a job; its row continues in another job from the last checkpoint.
        jobs: largest number of simultaneous jobs.
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
            raise ValueError(f"cores and jobs must be at least 1, not {min(self.cores, self.jobs)}")
        if not re.fullmatch(r"\d+(\.\d+)? ?[KMGT]i?B", self.memory):
            raise ValueError(f"memory must be a size such as 64GB, not '{self.memory}'")
        if not re.fullmatch(r"(\d+-)?\d+:\d\d:\d\d", self.walltime):
            raise ValueError(f"walltime must be a time such as 04:00:00 or 1-00:00:00, not '{self.walltime}'")

    @property
    def lifetime(self) -> int:
        """Seconds after which a worker retires, before SLURM ends its job, so that it does not count as dead."""
        days, _, clock = self.walltime.rpartition("-")
        hours, minutes, seconds = map(int, clock.split(":"))
        whole = 86400 * int(days or 0) + 3600 * hours + 60 * minutes + seconds
        return whole - min(120, whole // 10)

    def device(self, name: str) -> torch.device:
        """The type of device in the jobs; `auto` means a GPU if jobs request one."""
        has_one = "gpu" in (self.gres or "")
        device = _device(("cuda" if has_one else "cpu") if name == "auto" else name)
        if device.type == "cuda" and not has_one:
            raise BadInput("slurm: the jobs request no GPU; write slurm[gres=gpu:1,...], or use --device cpu")
        return device

    @contextlib.contextmanager
    def connected(self, device: torch.device, rows: int, logs: Path) -> Iterator[Client]:
        from dask_jobqueue import SLURMCluster
        from distributed import Client
        from tornado.ioloop import PeriodicCallback

        if shutil.which("sbatch") is None:
            raise BadInput("slurm needs the command sbatch: run this on a machine from which SLURM jobs are submitted")
        offered = [f"--resources {GPU}=1"] if device.type == "cuda" else []
        jobs = min(self.jobs, rows)
        with (
            SLURMCluster(
                queue=self.queue,
                account=self.account,
                cores=1,  # Dask threads
                processes=1,
                job_cpu=self.cores,
                memory=self.memory,
                walltime=self.walltime,
                interface=self.interface,
                log_directory=str(logs),
                job_name="cran-bench",
                job_extra_directives=[f"--gres={self.gres}"] if self.gres else [],
                job_script_prologue=[f"export {name}={self.cores}" for name in LIBRARIES],
                worker_extra_args=["--memory-limit 0", f"--lifetime {self.lifetime}s", *offered],  # SLURM limits memory
                scheduler_options={"dashboard_address": ":0", "allowed_failures": DEATHS},
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            _check_job(cluster.job_script())
            say(f"SLURM jobs: {jobs}, with output in {logs}; dashboard: {client.dashboard_link}")
            cluster.scale(jobs)
            replacing = PeriodicCallback(lambda: cluster.scale(jobs), 1000 * POLL_EVERY)
            cluster.loop.add_callback(replacing.start)
            try:
                yield client
            finally:
                cluster.loop.add_callback(replacing.stop)


def _check_job(script: str) -> None:
    """Let SLURM check a job script without submitting it.

    Raises:
        BadInput: SLURM rejects it.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        checked = subprocess.run(["sbatch", "--test-only", file.name], capture_output=True, text=True, check=False)
    if checked.returncode:
        raise BadInput(f"SLURM rejects the job: {' '.join((checked.stderr or checked.stdout).split())}")


def _device(name: str) -> torch.device:
    """A device on the workers, which this machine need not have."""
    if name not in ("cpu", "cuda"):
        raise BadInput(f"there is no device '{name}' on a cluster{did_you_mean(name, ('auto', 'cpu', 'cuda'))}")
    return torch.device(name)


def _workers_with_gpu(client: Client) -> int:
    """The number of workers that offer a GPU."""
    workers: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return sum(GPU in info["resources"] for info in workers.values())
