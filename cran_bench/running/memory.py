"""Memory checks before a fit: the estimate of a part against the memory that is available."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from cran_bench.contract import Estimating, Part
from cran_bench.errors import BadInput
from cran_bench.machine.processes import started_here
from cran_bench.split import Split

GIB = 1 << 30
LIBRARIES = 1 << 28  # bytes that threads and libraries use in addition to the estimate of a method


class NoRoom(BadInput):
    """A fit needs more memory than is available."""


def require_room(part: Part, train: Split, val: Split, device: torch.device) -> None:
    """Refuse a fit that would exceed the memory of this machine or its GPU; a part without an estimate always passes.

    Raises:
        NoRoom: the fit needs more memory than is available.
    """
    needed, free = estimate(part, train, val), available(device)
    if device.type != "cuda":
        needed *= started_here()
    if needed > free:
        raise NoRoom(
            f"{len(train):,} images with features of {train.image_dim:,} numbers and {len(train.texts):,} texts need "
            f"up to {needed / GIB:,.1f} GiB of memory here, and {free / GIB:,.1f} GiB are free: take a larger "
            "machine, fewer images, or smaller hyper-parameters"
        )


def estimate(part: Part, train: Split, val: Split) -> int:
    """Return the peak memory of a fit in bytes, with validation features and libraries; 0 without an estimate."""
    if not hasattr(part, "memory"):
        return 0
    estimating: Estimating = part  # type: ignore[assignment]
    validation = val.image_rows.held + (val.existing_regions.held if val.has_regions else 0)
    validation += val.text_rows.held if val.text_dim else 0
    return estimating.memory(train) + validation + LIBRARIES


def available(device: torch.device | None = None) -> int:
    """Return how many more bytes this process may use: of a GPU, or by the system and the limits of its group."""
    if device is not None and device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # what torch holds
        return free + unused
    return max(0, min(_system_memory(), _group_memory()))


def _system_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux: the total memory, for want of the free memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _group_memory(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """The smallest remainder of the control groups (version 2) around this process; cached pages of files are free."""
    try:
        path = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return 1 << 62
    left = 1 << 62
    folder = root / path.strip("/")
    for group in (folder, *folder.parents):
        if root not in (group, *group.parents):
            break
        try:
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            figures = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no limit ("max"), or no such group here
            continue
        left = min(left, limit - used + int(figures.get("inactive_file", 0)) + int(figures.get("active_file", 0)))
    return left
