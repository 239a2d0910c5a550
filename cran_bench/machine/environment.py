"""The environment of a measurement: versions, processor, GPU, threads and commit."""

from __future__ import annotations

import functools
import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from cran_bench.errors import BadInput, did_you_mean
from cran_bench.machine.arithmetic import has_bfloat16
from cran_bench.machine.checkout import commit
from cran_bench.machine.processes import started, started_here

PACKAGES = ("cran-bench", "torch", "numpy", "scipy", "scikit-learn", "pandas", "onnxruntime")


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """Return JSON values that describe this machine and installation, without names of hosts, users or folders.

    `gpu` is the name of `device`, None for the CPU; where no device is given, that of the first GPU, if there is one.
    `threads` are those of the present block, see `cran_bench.machine.threads.limited`.
    """
    gpu = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(gpu) if gpu.type == "cuda" else None
    return {**_installation(), "threads": torch.get_num_threads(), "gpu": name}


@functools.cache
def _installation() -> dict[str, Any]:
    values: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "commit": commit(),
    }
    for package in PACKAGES:
        try:
            values[package] = version(package)
        except PackageNotFoundError:
            values[package] = None
    return values


def peak_memory() -> int:
    """Return the peak resident set size of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; ``auto`` is the GPU if there is one.

    Raises:
        BadInput: the device is unknown, or there is no such GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise BadInput(f"there is no device '{name}'{did_you_mean(name, ('auto', 'cpu', 'cuda'))}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise BadInput(f"there is no '{name}', as torch finds {torch.cuda.device_count()} GPUs; use --device cpu")
    if kind == "cuda":  # before cuBLAS begins, which without it does not return the same bits in every run
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device(name)


def own_device(name: str) -> torch.device:
    """Return the device of this process: as `pick_device`, but under torchrun one GPU for each process of a machine.

    Raises:
        BadInput: as for `pick_device`, or there are more processes than GPUs, or `name` is a single GPU.
    """
    device = pick_device(name)
    if device.type != "cuda" or started() == 1:
        return device
    here, gpus = started_here(), torch.cuda.device_count()
    if device.index is not None or here > gpus:
        raise BadInput(
            f"torchrun started {here} processes here, each of which needs its own GPU, but torch finds {gpus}: "
            "use --device cuda with one process per GPU, or --device cpu"
        )
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def require_bfloat16(device: torch.device) -> None:
    """Check that a device supports bfloat16 in hardware.

    Raises:
        BadInput: it is a processor without bfloat16 instructions, where bfloat16 would be slower than float32.
    """
    if device.type == "cpu" and not has_bfloat16(device):
        raise BadInput("this processor has no bfloat16 instructions: leave out precision=bfloat16")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
