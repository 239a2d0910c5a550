"""Measuring kernels: seconds, arithmetic, memory, and the share of this machine's peak rate."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import torch
from tabulate import tabulate

from cran_bench.errors import BadInput
from cran_bench.machine.arithmetic import has_bfloat16, in_full_precision
from cran_bench.machine.environment import environment
from cran_bench.machine.progress import say
from cran_bench.machine.storage import write_text
from cran_bench.ranking.problem import Clock
from cran_bench.tables.typesetting import DATA_FORMATS, export, require_format, typeset

T = TypeVar("T")

ROUNDS = 3
LONG_ENOUGH = 0.02  # seconds of a product from which its rate is the peak
HEADINGS = {
    "what": "",
    "dtype": "dtype",
    "part": "measured on",
    "seconds": "s",
    "ns_per_pair": "ns per pair",
    "gflops": "GFLOP/s",
    "peak_percent": "% of GEMM",
    "times_faster": "times faster",
    "rescored": "rescored",
    "error": "largest error",
    "ranks": "ranks",
    "extra_mib": "extra MiB",
    "launches": "launches",
    "waits": "waits",
    "idle_percent": "GPU idle %",
}
NUMBERS = {
    "seconds": "{:.3g}",
    "ns_per_pair": "{:,.1f}",
    "gflops": "{:,.0f}",
    "peak_percent": "{:.0f}",
    "times_faster": "{:.2f}",
    "rescored": "{:,.0f}",
    "error": "{:.1e}",
    "extra_mib": "{:,.0f}",
    "launches": "{:,.0f}",
    "waits": "{:,.0f}",
    "idle_percent": "{:.0f}",
}
COLUMNS = ("bench", "task", *HEADINGS, "commit")


def timed(call: Callable[[], T], device: torch.device, rounds: int = ROUNDS, warm: bool = True) -> tuple[float, T]:
    """The median seconds of `rounds` calls, after a warm-up call if `warm`, and the last result."""
    seconds, clock = [], Clock(device)
    result = call() if warm else None
    for _ in range(rounds):
        start = clock.now()
        result = call()
        seconds.append(clock.now() - start)
    return median(seconds), result  # type: ignore[return-value]


def gemm_peak(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP per second of a product of two square matrices on this machine, the best of five; without TF32."""
    size, seconds = 512, 0.0
    with in_full_precision(device):
        while seconds < LONG_ENOUGH and size < (8192 if device.type == "cuda" else 2048):
            size *= 2
            product = partial(torch.matmul, *(torch.rand(size, size, device=device).to(dtype) for _ in range(2)))
            seconds = timed(product, device, 1)[0]
        return 2 * size**3 / min(seconds, *(timed(product, device, 1, warm=False)[0] for _ in range(4)))


class Kernels(NamedTuple):
    """What a device did during a call.

    Attributes:
        number: kernels, copies and fills of a GPU; operators of a CPU.
        launches: calls of the host that launched kernels or graphs of kernels.
        waits: calls of the host that waited for the GPU.
        busy: seconds in which at least one kernel ran.
        idle: seconds between the first and the last kernel in which none ran.
        longest: name, number and seconds of the kernels, in descending order of seconds.
    """

    number: int
    launches: int
    waits: int
    busy: float
    idle: float
    longest: list[tuple[str, int, float]]


def profiled(call: Callable[[], object], device: torch.device) -> Kernels | None:
    """What a device does during `call`, by torch.profiler, and by CUPTI on a GPU; None if nothing is recorded."""
    activity = getattr(torch.profiler.ProfilerActivity, device.type.upper())
    if activity not in torch.profiler.supported_activities():  # type: ignore[no-untyped-call]
        return None
    # CUPTI may lose the first records of a session, so a call precedes the recorded one
    schedule, clock = torch.profiler.schedule(wait=0, warmup=1, active=1, repeat=1), Clock(device)
    with torch.profiler.profile(activities=[activity], schedule=schedule) as profile:
        for _ in range(2):
            call()
            clock.now()
            profile.step()
    return kernels(profile.events(), device.type.upper())


def kernels(events: Iterable[Any], kind: str) -> Kernels | None:
    """Summarise the events of torch.profiler on one kind of device, ``CUDA`` or ``CPU``; None if there is none."""
    real = [e for e in events if not (e.is_user_annotation or e.name.startswith("ProfilerStep"))]
    own = sorted((e.time_range.start, e.time_range.end, e.name) for e in real if e.device_type.name == kind)
    host = [e.name for e in real if e.device_type.name == "CPU"]
    if not own:
        return None
    busy, reached, numbers, seconds = 0.0, own[0][0], Counter[str](), defaultdict[str, float](float)
    for start, end, name in own:
        busy, reached = busy + max(0.0, end - max(start, reached)), max(reached, end)
        numbers[name] += 1
        seconds[name] += (end - start) / 1e6
    launches, waits = (sum(word in name for name in host) for word in ("Launch", "Synchronize"))
    longest = [(name, numbers[name], seconds[name]) for name in sorted(seconds, key=lambda name: -seconds[name])]
    return Kernels(len(own), launches, waits, busy / 1e6, (reached - own[0][0] - busy) / 1e6, longest)


def on_gpu(call: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """The columns of a row about what a GPU does during `call`; none on a CPU."""
    seen = profiled(call, device) if device.type == "cuda" else None
    if seen is None:
        return {}
    share = 100 * seen.idle / (seen.busy + seen.idle)
    return {"launches": seen.launches, "waits": seen.waits, "idle_percent": share}


def tried(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield rows; if one fails, for lack of memory or of a compiler, say why and leave out the others."""
    try:
        yield from rows
    except Exception as error:  # compilers raise many kinds
        say(f"  left out: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")


class Memory:
    """The growth of memory in use; `peak` is its maximum in bytes."""

    def __init__(self) -> None:
        self.peak = 0


@contextmanager
def memory(device: torch.device) -> Iterator[Memory]:
    """Measure the memory used within the context, of the GPU or of this process (sampled every 5 ms).

    Pages of files, such as memory-mapped features, do not count, because the system can reclaim them.
    """
    measured = Memory()
    gc.collect()
    give_back()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield measured
        measured.peak = torch.cuda.max_memory_allocated(device) - before
        return
    before, done = _resident_bytes(), threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            measured.peak = max(measured.peak, _resident_bytes() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield measured
    finally:
        done.set()
        watcher.join()


def give_back() -> None:
    """Return freed memory to the system if the C library can, so that its reuse is measured."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    resident, shared = map(int, statm.read_text().split()[1:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def chip(device: torch.device) -> str:
    """The name of a GPU, or of this processor with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{environment()['cpu']}, {environment()['threads']} threads"


def hardware(device: torch.device) -> str:
    """The name of the files of a GPU, or of this processor and its threads."""
    bf16 = " bf16" if device.type == "cpu" and has_bfloat16(device) else ""
    return re.sub(r"[^a-z0-9]+", "-", f"{chip(device)}{bf16}".lower()).strip("-")


def save(rows: list[dict[str, Any]], folder: Path, device: torch.device) -> Path:
    """Write rows to `HARDWARE.csv` and `HARDWARE.md`, replacing earlier rows of the same bench and task."""
    path = folder / f"{hardware(device)}.csv"
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if path.exists():
        earlier = _read(path)
        replaced = set(zip(table["bench"], table["task"], strict=True))
        kept = [key not in replaced for key in zip(earlier["bench"], earlier["task"], strict=True)]
        table = pd.concat([earlier[kept], table], ignore_index=True)
    write_text(path, table.to_csv(index=False))
    about = environment()
    line = f"{chip(device)}, torch {about['torch']}, {about['system']}"
    tasks = [f"## {title}\n\n{render(rows, 'pipe')}\n" for title, rows in by_task(table)]
    write_text(path.with_suffix(".md"), "\n".join([f"# {line}\n", *tasks]))
    return path.with_suffix(".md")


def by_task(table: pd.DataFrame) -> list[tuple[str, list[dict[Any, Any]]]]:
    """Group rows by bench and task, each group with a title."""
    groups = table.groupby(["bench", "task"], sort=False)
    return [(f"{bench}: {task}", rows.to_dict("records")) for (bench, task), rows in groups]


def render_all(folder: Path, style: str, width: int | None = None) -> str:
    """Format the timings of all hardware in a folder, in one of the formats of tables, and in a width if given.

    Raises:
        BadInput: there are no timings, a file is damaged, or the format is unknown.
    """
    require_format(style)
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise BadInput(f"there are no timings below {folder}: create them with cran-bench bench similarity -o {folder}")
    frames = {path.stem: _read(path) for path in files}
    if style in DATA_FORMATS:
        return export(pd.concat([frame.assign(hardware=name) for name, frame in frames.items()]), style)
    return "\n".join(
        typeset(f"{name} · {title}", dict(zip(headings, zip(*cells, strict=True), strict=True)), [], style, width=width)
        for name, frame in frames.items()
        for title, rows in by_task(frame)
        for headings, cells in [columns_of(rows)]
    )


def _read(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
        for name in NUMBERS:
            pd.to_numeric(table[name])
        table[list(COLUMNS)]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise BadInput(f"{path} holds no timings ({error}): delete it and run cran-bench bench again") from error
    return table


def columns_of(rows: Sequence[Mapping[Any, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of one task's rows, without empty columns."""
    used = [name for name in HEADINGS if any(not _is_missing(row.get(name)) for row in rows)]
    cells = [
        ["" if _is_missing(row.get(name)) else NUMBERS.get(name, "{}").format(row[name]) for name in used]
        for row in rows
    ]
    return [HEADINGS[name] for name in used], cells


def render(rows: Sequence[Mapping[Any, Any]], style: str = "simple") -> str:
    """Format one task's rows as a table."""
    headings, cells = columns_of(rows)
    align = ["left" if heading in ("", "dtype", "measured on", "ranks") else "right" for heading in headings]
    return tabulate(cells, headings, tablefmt=style, colalign=align, disable_numparse=True)


def _is_missing(value: Any) -> bool:
    return value is None or value != value
