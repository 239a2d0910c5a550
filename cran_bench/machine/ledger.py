"""A ledger of digests, so that files that have not changed are not read again to be identified."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cran_bench.errors import BadInput
from cran_bench.machine.storage import cache_folder, sha256_bytes, sha256_file, write_text

UNREADABLE = "unreadable"
"""The digest of a file that cannot be read, which decoding will report."""
LARGE = 1 << 24
"""Size in bytes of files that take some 10 ms to read."""
SETTLED = 2_000_000_000
"""Nanoseconds for which a file must be unchanged before its digest is noted: the coarsest clock of a file system."""


DRY_RUN: ContextVar[bool] = ContextVar("dry run", default=False)
"""Whether nothing is kept for later, and whatever makes features says how long that takes instead."""


@dataclass(frozen=True)
class Ledger:
    """Digests of the contents of files, each noted with the size, both times and the inode of its file.

    A file that is replaced changes ctime and inode even if size and mtime are kept (``cp -p``, ``rsync -a``).  Without
    the ledger, or if it is damaged, files are read.

    Attributes:
        folder: a folder with one file for each folder of data.
    """

    folder: Path

    def digests(
        self, home: Path, keys: Sequence[str], stats: Iterable[os.stat_result | None], digest: Callable[[int], str]
    ) -> Iterator[str]:
        """Yield the digest of each of `keys`, and note those that are new.

        Args:
            home: the folder of the files.
            keys: names of what is digested, each in one file.
            stats: what `os.stat` returned for the file of each key, before the file is read; None if it failed.
            digest: computes the digest of a position in `keys`; called only if the ledger does not have it.
        """
        path, latest = self.folder / f"{sha256_bytes(os.fsencode(home.resolve()))[:16]}.json", time.time_ns() - SETTLED
        known, new = read_sealed(path), {}
        try:
            for k, (key, stat) in enumerate(zip(keys, stats, strict=True)):
                now = stat and [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
                *then, value = known.get(key, [""])
                if now is None or now != then:
                    try:
                        value = digest(k)
                    except BadInput:
                        value = UNREADABLE
                    if stat and now and stat.st_ctime_ns < latest and value != UNREADABLE:
                        new[key] = [*now, value]
                yield value
        finally:
            if new:
                write_sealed(path, {**read_sealed(path), **new})


def noted_sha256(path: Path) -> str:
    """Return the sha256 of a file; a file of at least `LARGE` bytes is noted in the user's cache and not read again.

    Raises:
        BadInput: the file cannot be read.
    """
    with contextlib.suppress(OSError):
        if (stat := path.stat()).st_size >= LARGE:
            ledger = Ledger(cache_folder() / "digests")
            (value,) = ledger.digests(path.parent, [path.name], [stat], lambda _: sha256_file(path))
            if value != UNREADABLE:
                return value
    return sha256_file(path)


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON values by key with a checksum; a cache that cannot be written costs time only."""
    with contextlib.suppress(BadInput, OSError):
        text = json.dumps(values, separators=(",", ":"))
        if not DRY_RUN.get():
            write_text(path, f"{sha256_bytes(text.encode())}\n{text}")


def read_sealed(path: Path) -> dict[str, Any]:
    """The values that `write_sealed` wrote, in a ledger size, mtime, ctime, inode and digest; none if damaged."""
    with contextlib.suppress(OSError, ValueError):
        seal, _, text = path.read_text(encoding="utf-8").partition("\n")
        if sha256_bytes(text.encode()) == seal:
            return dict(json.loads(text))
    return {}
