"""What a number was measured on: versions, processor, accelerator, threads, commit."""

from __future__ import annotations

import functools
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from cran_bench.errors import BadInput, did_you_mean
from cran_bench.machine.arithmetic import has_bfloat16
from cran_bench.machine.processes import started, started_here

PACKAGES = ("cran-bench", "torch", "numpy", "scipy", "scikit-learn", "pandas", "onnxruntime")


@functools.cache
def environment() -> dict[str, Any]:
    """JSON values describing this machine and installation; no names of hosts, users or folders."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "commit": _commit(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def peak_memory() -> int:
    """The largest resident set of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one.

    Raises:
        BadInput: an unknown device, or a GPU where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise BadInput(f"there is no device '{name}'{did_you_mean(name, ('auto', 'cpu', 'cuda'))}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise BadInput(f"torch finds {torch.cuda.device_count()} GPUs here, so there is no '{name}'; use --device cpu")
    if kind == "cuda":
        _be_deterministic()
    return torch.device(name)


def own_device(name: str) -> torch.device:
    """`pick_device`, where each of the processes that torchrun starts on a machine has a GPU of its own.

    Raises:
        BadInput: there are more processes than GPUs, or one GPU is named for all.
    """
    device = pick_device(name)
    if device.type != "cuda" or started() == 1:
        return device
    here, gpus = started_here(), torch.cuda.device_count()
    if device.index is not None or here > gpus:
        raise BadInput(
            f"torchrun started {here} processes here, each of which takes a GPU of its own, and torch finds {gpus}: "
            "use --device cuda and one process for each GPU, or --device cpu"
        )
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def require_bfloat16(device: torch.device) -> None:
    """See that a device computes with bfloat16 in hardware.

    Raises:
        BadInput: it is a processor without such instructions, where bfloat16 is slower than float32.
    """
    if device.type == "cpu" and not has_bfloat16(device):
        raise BadInput("this processor has no bfloat16 instructions: leave out precision=bfloat16")


def _be_deterministic() -> None:
    """Have a GPU give the same numbers for the same seed, in full float32."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Commit of the checkout this package is run from, with '+' for uncommitted changes; None when installed."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() or None
