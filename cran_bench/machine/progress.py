"""Progress on stderr: bars with the remaining time on a terminal, occasional lines elsewhere.

A worker process shows nothing itself: it sends its lines and steps to the process that started it.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from cran_bench.errors import escaped

T = TypeVar("T")

_LINE_EVERY = 30.0
_DRAW_EVERY = 0.2


class Step(NamedTuple):
    """How far a job is: done of a total, which is 0 if unknown, and the same in words."""

    label: str
    done: int = 0
    total: int = 0
    status: str = ""


_send: Callable[[str | Step | None], object] | None = None


def send_progress(send: Callable[[str | Step | None], object] | None) -> None:
    """Pass lines and steps to `send`, and None after a count, instead of showing them; None shows them again."""
    global _send
    _send = send


_screen: Console | None = None  # which has bars at its foot; another one would write over them


def _console() -> Console:
    return _screen or Console(file=sys.stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


def say(message: str) -> None:
    """Print a line to stderr, with control characters escaped."""
    if _send is None:
        _console().print(escaped(message))
    else:
        _send(message)


def duration(seconds: float) -> str:
    """Format a duration: ``75 -> '1 min 15 s'``, ``0.42 -> '0.4 s'``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Board(contextlib.AbstractContextManager["Board"]):
    """How far each of several jobs is: bars at the foot of a terminal, elsewhere a line every 30 seconds."""

    def __init__(self) -> None:
        console = _console()
        self._tasks: dict[Hashable, TaskID] = {}
        self._shown: dict[Hashable, float] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=3, no_wrap=True)),
            BarColumn(bar_width=10),
            TimeElapsedColumn(),
            TextColumn("{task.fields[status]}", markup=False, table_column=Column(ratio=2, no_wrap=True)),
            console=console,
            transient=True,
            expand=True,
            refresh_per_second=4,
            disable=not console.is_terminal or _screen is not None,
        )

    def __enter__(self) -> Board:
        global _screen
        if not self._progress.disable:
            _screen = self._progress.console
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        global _screen
        self._progress.stop()
        if not self._progress.disable:
            _screen = None

    def show(self, job: Hashable, step: Step | None) -> None:
        """Show how far a job is; None if it is over."""
        now = time.monotonic()
        if self._progress.disable:
            if step is None or not step.total:
                self._shown[job] = now
            elif step.done < step.total and now - self._shown.setdefault(job, now) > _LINE_EVERY:
                self._shown[job] = now
                say(f"{step.label}: {step.status}")
            return
        if job not in self._tasks:
            self._tasks[job] = self._progress.add_task("", total=None, status="", visible=False)
        task = self._progress.tasks[self._tasks[job]]
        if step and (task.description, task.total) != (step.label, step.total or None):
            self._progress.reset(task.id, description=step.label, status="")
            task.total = step.total or None
        _, done, _, status = step or Step("")
        self._progress.update(task.id, completed=done, status=status, visible=step is not None)


@contextlib.contextmanager
def _display() -> Iterator[Callable[[Step | None], object]]:
    """A function that shows steps, here or in the process that started this one."""
    if _send is None:
        with Board() as board:
            yield partial(board.show, None)
    else:
        try:
            yield _send
        finally:
            _send(None)


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
    label, start, count, shown = escaped(label), time.monotonic(), 0, -math.inf
    with _display() as show:
        for count, item in enumerate(items, 1):
            yield item
            now, reached = time.monotonic(), done + count
            if now - start > quiet_below and now - shown > _DRAW_EVERY:
                left = duration((now - start) / count * (total - reached))
                note = status()
                show(Step(label, reached, total, f"{reached} of {total}, {left} left{note and f', {note}'}"))
                shown = now
    if time.monotonic() - start > quiet_below:
        most = f"{total}" if done + count >= total else f"at most {total}"
        say(f"{label}: {done + count} of {most} in {duration(time.monotonic() - start)}")
