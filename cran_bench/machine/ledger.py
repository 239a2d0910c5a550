"""A ledger of digests, so that files that have not changed are not read again to be identified."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cran_bench.errors import BadInput
from cran_bench.machine.storage import sha256_bytes, write_text

UNREADABLE = "unreadable"
"""The digest of a file that cannot be read, which decoding will report."""
SETTLED = 2_000_000_000
"""Nanoseconds for which a file must be unchanged before its digest is noted: the coarsest clock of a file system."""


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
        known, new = _read(path), {}
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
                with contextlib.suppress(BadInput, OSError):  # a cache that cannot be written costs time only
                    text = json.dumps({**_read(path), **new}, separators=(",", ":"))
                    write_text(path, f"{sha256_bytes(text.encode())}\n{text}")


def _read(path: Path) -> dict[str, list[Any]]:
    """The entries of a ledger by key: size, mtime, ctime, inode and digest; none if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        seal, _, text = path.read_text(encoding="utf-8").partition("\n")
        if sha256_bytes(text.encode()) == seal:
            return dict(json.loads(text))
    return {}
