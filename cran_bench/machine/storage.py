"""Atomic writes, so that a file is either complete or absent, checksums, and locks between processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from cran_bench.errors import BadInput, CannotWrite
from cran_bench.machine.progress import say

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOCKS = ".locks"
"""Name of the folder of lock files, beside the locked files."""

SHORT = 1.0  # seconds that a process waits without a message, such as while another one reads the same fit
LONGEST_HEADER = 10_000  # bytes; numpy would read a longer header before rejecting it

_LFS = b"version https://git-lfs.github.com/spec/"
_NOT_WRITABLE = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)


def sha256_bytes(data: bytes) -> str:
    """Return the hexadecimal sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_json(value: Any) -> str:
    """Return the hexadecimal sha256 of a JSON value in canonical form."""
    return sha256_bytes(canonical_json(value).encode())


def canonical_json(value: Any) -> str:
    """Return the JSON of a value with sorted keys and no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_file(path: Path) -> str:
    """Return the hexadecimal sha256 of a file.

    Raises:
        BadInput: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error


def cache_folder() -> Path:
    """The default folder of features and fits: ``$XDG_CACHE_HOME/cran-bench`` or ``~/.cache/cran-bench``."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "cran-bench"


def slug(label: str) -> str:
    """Return a label as a file name: ``cran:paper[top=5]`` -> ``cran-paper-top-5``."""
    name = "-".join(filter(None, "".join(c if c.isalnum() or c in "._" else "-" for c in label).split("-")))
    return name.lstrip(".") or "unnamed"  # never `..`, the parent folder


def is_file(path: Path) -> bool:
    """Whether a file exists; False also if `path` is not a possible file name."""
    try:
        return path.is_file()
    except OSError:
        return False


def remedy(path: Path, usual: str) -> str:
    """Return what to do about a file that cannot be read: `usual`, or how to replace it if it is a Git LFS pointer."""
    is_pointer = first_bytes(path, len(_LFS)) == _LFS
    return "it is a Git LFS pointer, not the file itself: run git lfs pull in its repository" if is_pointer else usual


def first_bytes(path: Path, count: int) -> bytes:
    """Return the first bytes of a file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except (OSError, ValueError):
        return b""


def read_bounded(path: Path, most: int) -> bytes:
    """Read a regular file of at most `most` bytes.

    Raises:
        BadInput: the file is larger, or no regular file, such as a device.
        OSError: it cannot be read.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise BadInput(f"{path} is no regular file: delete it")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise BadInput(f"{path} has more than {most:,} bytes, which no such file has: delete it")
    return data


def require_folder(path: Path | None) -> Path | None:
    """Return the path of a file to be written, if its folder exists.

    Raises:
        BadInput: the folder does not exist, or `path` is one.
    """
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        why = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise BadInput(f"cannot write {path}: {why}; give the name of a file in an existing folder")
    return path


def map_array(path: Path) -> NDArray[Any]:
    """Memory-map a .npy file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a complete .npy file, or contains Python objects.
    """
    from numpy.lib.format import open_memmap

    with path.open("rb") as file:
        start = file.read(12)
    if start[6:7] > b"\1" and int.from_bytes(start[8:], "little") > LONGEST_HEADER:
        raise ValueError(f"its header claims {int.from_bytes(start[8:], 'little'):,} bytes")
    try:
        return open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # numpy raises many kinds of errors for a damaged header
        raise ValueError(str(error) or type(error).__name__) from error


@contextlib.contextmanager
def clear_os_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a full disk or an unwritable path into `CannotWrite`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CannotWrite(
                f"the disk is full while writing {path}: free some space or choose another folder; no data was lost"
            ) from error
        if error.errno in _NOT_WRITABLE:
            raise CannotWrite(f"cannot write {path}: {error.strerror}; choose another folder") from error
        raise


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a temporary file beside `path` with `write`, sync it and rename it to `path`.

    Raises:
        CannotWrite: the disk is full, the folder is not writable, or `path` is a device or a pipe, which a file would
            replace; it keeps its previous content, if any.
    """
    with clear_os_errors(path):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise CannotWrite(f"cannot write {path}: it is no regular file; give the name of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                with contextlib.suppress(OSError):  # some file systems do not support locks
                    fcntl.flock(file, fcntl.LOCK_EX)  # until the process ends, for `is_abandoned`
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def is_abandoned(temporary: Path) -> bool:
    """Whether the process that was writing a temporary file of `write_atomically` has ended."""
    try:
        with temporary.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value, indented, atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


@contextlib.contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold the inter-process lock of `path`, after a message if another process keeps it; released if a process dies.

    Where nothing can be written, what exists is read without a lock.

    Args:
        path: the file or folder to lock.
        doing: what the lock is held for, such as "extracting these features", for that message.
    """
    with clear_os_errors(path):
        lock = _lock_of(path)
        try:
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=SHORT)
        except Timeout:
            say(f"another process is {doing}; waiting for it")
            lock.acquire()
        except OSError as error:
            if error.errno not in _NOT_WRITABLE or not path.exists():
                raise  # else a store that may only be read, whose files are complete
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of `path`."""
    lock = _lock_of(path)
    if not Path(lock.lock_file).exists():
        return False
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


def _lock_of(path: Path) -> FileLock:
    return FileLock(path.parent / LOCKS / f"{path.name}.lock")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
