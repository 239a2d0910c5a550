"""What a kernel takes: seconds, arithmetic, memory, and how near it comes to what this machine can do."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import pandas as pd
import torch
from tabulate import tabulate

from cran_bench.errors import BadInput
from cran_bench.machine.arithmetic import has_bfloat16
from cran_bench.machine.environment import environment
from cran_bench.machine.storage import write_text
from cran_bench.ranking.problem import Clock
from cran_bench.tables.tables import require_format, typeset

T = TypeVar("T")

ROUNDS = 3
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
}
COLUMNS = (
    "bench",
    "task",
    "what",
    "dtype",
    "part",
    "seconds",
    "ns_per_pair",
    "gflops",
    "peak_percent",
    "times_faster",
    "rescored",
    "error",
    "ranks",
    "extra_mib",
    "commit",
)


def timed(call: Callable[[], T], device: torch.device, rounds: int = ROUNDS, warm: bool = True) -> tuple[float, T]:
    """Median seconds of so many calls after one that does not count, and what the last returned."""
    seconds, clock = [], Clock(device)
    found = call() if warm else None
    for _ in range(rounds):
        start = clock.now()
        found = call()
        seconds.append(clock.now() - start)
    return median(seconds), found  # type: ignore[return-value]


def gemm_peak(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP per second of this machine's own product of two square matrices, the best of five."""
    size = 8192 if device.type == "cuda" else 2048
    x, y = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: x @ y, device, 1)[0] for _ in range(5))


class Memory:
    """`peak` is by how many bytes the memory in use grew."""

    def __init__(self) -> None:
        self.peak = 0


@contextmanager
def memory(device: torch.device) -> Iterator[Memory]:
    """Watch the memory of a block: that of the GPU, or of this process, looked at every few milliseconds.

    Pages of files do not count, mapped features among them: the system takes them back where it needs them.
    """
    found = Memory()
    gc.collect()
    give_back()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.peak = torch.cuda.max_memory_allocated(device) - before
        return
    before, done = _held(), threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            found.peak = max(found.peak, _held() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def give_back() -> None:
    """Have the C library return freed memory to the system, where it can, so that what is used again is seen."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _held() -> int:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    resident, of_files = map(int, statm.read_text().split()[1:3])
    return (resident - of_files) * os.sysconf("SC_PAGE_SIZE")


def hardware() -> str:
    """A file name for this processor or GPU and its threads."""
    about = environment()
    has = "bf16" if has_bfloat16(torch.device("cpu")) else ""
    name = about["gpu"] or f"{about['cpu']} {about['threads']} threads {has}"
    return re.sub(r"[^a-z0-9]+", "-", str(name).lower()).strip("-")


def save(rows: list[dict[str, Any]], folder: Path) -> Path:
    """Put rows into `HARDWARE.csv` and `HARDWARE.md`, in place of earlier ones of the same bench and task."""
    path = folder / f"{hardware()}.csv"
    made = pd.DataFrame(rows, columns=list(COLUMNS))
    if path.exists():
        known = _read(path)
        again = set(zip(made["bench"], made["task"], strict=True))
        kept = [key not in again for key in zip(known["bench"], known["task"], strict=True)]
        made = pd.concat([known[kept], made], ignore_index=True)
    write_text(path, made.to_csv(index=False))
    about = environment()
    line = f"{about['gpu'] or about['cpu']}, {about['threads']} threads, torch {about['torch']}, {about['system']}"
    tasks = [f"## {title}\n\n{render(rows, 'pipe')}\n" for title, rows in by_task(made)]
    write_text(path.with_suffix(".md"), "\n".join([f"# {line}\n", *tasks]))
    return path.with_suffix(".md")


def by_task(made: pd.DataFrame) -> list[tuple[str, list[dict[Any, Any]]]]:
    """Rows of each bench and task, with a title."""
    groups = made.groupby(["bench", "task"], sort=False)
    return [(f"{bench}: {task}", rows.to_dict("records")) for (bench, task), rows in groups]


def render_all(folder: Path, style: str) -> str:
    """The timings of every hardware below a folder, as text in one of the formats of tables.

    Raises:
        BadInput: there are none, they are damaged, or an unknown format.
    """
    require_format(style)
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise BadInput(f"there are no timings below {folder}: make some with cran-bench bench similarity -o {folder}")
    frames = {path.stem: _read(path) for path in files}
    if style == "csv":
        return str(pd.concat([frame.assign(hardware=name) for name, frame in frames.items()]).to_csv(index=False))
    return "\n".join(
        typeset(f"{name} · {title}", *columns_of(rows), [], style)
        for name, frame in frames.items()
        for title, rows in by_task(frame)
    )


def _read(path: Path) -> pd.DataFrame:
    try:
        found = pd.read_csv(path)
        for name in NUMBERS:
            pd.to_numeric(found[name])
        found[list(COLUMNS)]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise BadInput(f"{path} holds no timings ({error}): delete it and run cran-bench bench again") from error
    return found


def columns_of(rows: Sequence[Mapping[Any, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of one task's rows, without columns that none has."""
    used = [name for name in HEADINGS if any(not _is_missing(row.get(name)) for row in rows)]
    cells = [
        ["" if _is_missing(row.get(name)) else NUMBERS.get(name, "{}").format(row[name]) for name in used]
        for row in rows
    ]
    return [HEADINGS[name] for name in used], cells


def render(rows: Sequence[Mapping[Any, Any]], style: str = "simple") -> str:
    """A table of one task's rows."""
    headings, cells = columns_of(rows)
    align = ["left" if heading in ("", "dtype", "measured on", "ranks") else "right" for heading in headings]
    return tabulate(cells, headings, tablefmt=style, colalign=align, disable_numparse=True)


def _is_missing(value: Any) -> bool:
    return value is None or value != value
