"""Progress on stderr: bars with the remaining time on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cran_bench.errors import escaped

T = TypeVar("T")

_LINE_EVERY = 30.0


def _console() -> Console:
    return Console(file=sys.stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


def say(message: str) -> None:
    """Print a line to stderr, with control characters escaped."""
    _console().print(escaped(message))


def duration(seconds: float) -> str:
    """Format a duration: ``75 -> '1 min 15 s'``, ``0.42 -> '0.4 s'``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def track(
    items: Iterable[T],
    label: str,
    total: int,
    done: int = 0,
    quiet_below: float = 2.0,
    status: Callable[[], str] = str,
) -> Iterator[T]:
    """Yield `items` and show the progress: a bar on a terminal, elsewhere a line every 30 seconds.

    Args:
        items: the remaining items.
        label: what is being done.
        total: number of all items.
        done: number of items completed before, in a resumed job.
        quiet_below: seconds within which nothing is shown.
        status: returns a text to show beside the count.
    """
    console, label = _console(), escaped(label)
    start = time.monotonic()
    count = 0
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", markup=False),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(label, total=total, completed=done, visible=False, status="")
            for count, item in enumerate(items, 1):
                yield item
                visible = time.monotonic() - start > quiet_below
                progress.update(task, completed=done + count, visible=visible, status=status())
    else:
        shown = start
        for count, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if now - shown > _LINE_EVERY and done + count < total:
                left = (now - start) / count * (total - done - count)
                note = status()
                say(f"{label}: {done + count} of {total}, {note and f'{note}, '}about {duration(left)} left")
                shown = now
    if time.monotonic() - start > quiet_below:
        reached = f"{total}" if done + count >= total else f"at most {total}"
        say(f"{label}: {done + count} of {reached} in {duration(time.monotonic() - start)}")
