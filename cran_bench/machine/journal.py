"""A journal of what was computed on this machine and how long it took, from which later runs are estimated."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cran_bench.errors import BadInput
from cran_bench.machine.storage import cache_folder, read_bounded

LONGEST = 1 << 22  # bytes of a file, beside an older one


class Noted(NamedTuple):
    """Something that was computed.

    Attributes:
        what: its fingerprint.
        like: the same text for all that costs the same, up to size: what it is, a space, and how it was configured.
        size: number of texts that it was computed from.
        seconds: the time it took.
        where: the processor and whatever else these depend on.
        jobs: how many were computed at a time.
    """

    what: str
    like: str
    size: int
    seconds: float
    where: Mapping[str, Any]
    jobs: int


@dataclass
class Journal:
    """Notes of one process, added to the journal in the user's cache, whatever `--cache` is.

    Attributes:
        where: as in `Noted`, for all notes.
        jobs: as in `Noted`.
        total: seconds of all notes so far.
    """

    where: Mapping[str, Any]
    jobs: int = 1
    total: float = 0.0

    def note(self, what: str, like: str, size: int, seconds: float) -> None:
        """Add a line; a journal that cannot be written costs estimates only."""
        self.total += seconds
        line = json.dumps(Noted(what, like, size, round(seconds, 3), self.where, self.jobs)) + "\n"
        path = journal_file()
        with contextlib.suppress(OSError):
            if path.exists() and path.stat().st_size > LONGEST:
                path.replace(path.with_suffix(".old"))
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)
            with contextlib.closing(os.fdopen(file, "wb", buffering=0)) as opened:
                opened.write(line.encode())  # at once, so that lines of several processes do not mix


def journal_file() -> Path:
    """The file of the journal."""
    return cache_folder() / "journal.jsonl"


def read_journal() -> Iterator[Noted]:
    """The notes of this machine, the oldest first; damaged lines are left out."""
    path = journal_file()
    for file in (path.with_suffix(".old"), path):
        with contextlib.suppress(OSError, BadInput):
            for line in read_bounded(file, 2 * LONGEST).splitlines():
                with contextlib.suppress(ValueError, TypeError, OverflowError, RecursionError):
                    what, like, size, seconds, where, jobs = json.loads(line)
                    note = Noted(str(what), str(like), int(size), float(seconds), dict(where), int(jobs))
                    if note.size >= 0 and 0 <= note.seconds < math.inf:
                        yield note
