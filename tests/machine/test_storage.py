"""Files are whole or absent, whatever happens while they are written; one process at a time."""

import errno
import os
import stat
import subprocess
import sys
import tempfile
import time

import pytest

from cran_bench.errors import BadInput, CannotWrite
from cran_bench.machine.storage import (
    LOCKS,
    canonical_json,
    locked,
    sha256_file,
    sha256_json,
    write_atomically,
    write_json,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_below_new_folders(tmp_path):
    path = tmp_path / "a" / "b" / "café.txt"
    write_text(path, "naïve\n")
    assert path.read_bytes() == "naïve\n".encode()
    write_text(path, "again")
    assert path.read_text() == "again"
    assert names(path.parent) == ["café.txt"]


@pytest.mark.parametrize("error", [ValueError("half-way"), KeyboardInterrupt()])
def test_old_content_stays_where_writing_fails(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(file):
        file.write(b"new but not whole")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(tmp_path, monkeypatch, number):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def full(descriptor):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CannotWrite, match=r"the disk is full while writing .*a\.json: free some space"):
            write_json(path, {"a": 2})
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert names(tmp_path) == ["a.json"]
    write_json(path, {"a": 2})
    assert path.read_text() == '{\n "a": 2\n}\n'


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_folder_without_write_permission(tmp_path, monkeypatch, number):
    def refuse(**_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(CannotWrite, match=r"cannot write .*a\.txt: .*; choose another folder"):
        write_text(tmp_path / "a.txt", "a")
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_real_read_only_folder(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(CannotWrite, match=r"cannot write .*: Permission denied"):
        write_text(tmp_path / "a.txt", "a")
    with pytest.raises(CannotWrite, match="cannot write"), locked(tmp_path / "a.txt", "testing"):
        pass


def test_what_exists_is_read_without_a_lock_where_none_can_be_made(tmp_path):
    (tmp_path / ".locks").write_text("in the way, as a read-only file system would be")
    (tmp_path / "fit.safetensors").write_text("complete")
    with locked(tmp_path / "fit.safetensors", "fitting"):
        assert (tmp_path / "fit.safetensors").read_text() == "complete"
    with pytest.raises(CannotWrite, match="cannot write"), locked(tmp_path / "other", "fitting"):
        pass


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "a").write_text("a file")
    for path in (tmp_path / "a" / "b.txt", tmp_path / "a" / "b" / "c.txt"):
        with pytest.raises(CannotWrite, match="cannot write"):
            write_text(path, "x")
        with pytest.raises(CannotWrite, match="cannot write"), locked(path, "testing"):
            pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(CannotWrite, match=r"cannot write .*folder: .*directory"):
        write_text(tmp_path / "folder", "x")
    assert names(tmp_path) == ["a", "folder"]


def test_no_device_or_pipe_is_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(CannotWrite, match="it is no regular file; give the name of a file"):
        write_text(pipe, "text")
    assert pipe.is_fifo() and [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_other_errors_of_the_system_are_not_disguised(tmp_path):
    def fail(file):
        raise OSError(errno.EIO, "broken disk")

    with pytest.raises(OSError, match="broken disk"):
        write_atomically(tmp_path / "a", fail)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, mask, mode):
    old = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "a")
        assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode
    finally:
        assert os.umask(old) == mask


def test_numbers_that_are_no_json_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert names(tmp_path) == []


def test_one_text_for_one_value():
    assert canonical_json({"b": [1, 2.5], "a": None}) == '{"a":null,"b":[1,2.5]}'
    assert sha256_json({"b": 1, "a": 2}) == sha256_json({"a": 2, "b": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})


def test_digest_of_a_missing_file(tmp_path):
    with pytest.raises(BadInput, match=r"cannot read .*gone: No such file"):
        sha256_file(tmp_path / "gone")


HOLD = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(path, seconds):
    lock = path.parent / LOCKS / f"{path.name}.lock"
    lock.parent.mkdir()
    command = [sys.executable, "-c", HOLD, str(lock), str(seconds)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_lock_is_waited_for_and_said_so(tmp_path, capsys):
    path = tmp_path / "deep" / "a.json"
    path.parent.mkdir()
    with hold(path, 1.5) as holder:
        start = time.monotonic()
        with locked(path, "running cca"):
            assert time.monotonic() - start > 1
        assert holder.wait() == 0
    assert capsys.readouterr().err == "another process is running cca; waiting for it\n"
    with locked(path, "running cca"):
        assert capsys.readouterr().err == ""


def test_a_killed_process_holds_no_lock(tmp_path, capsys):
    with hold(tmp_path / "a.json", 60) as holder:
        holder.kill()
        holder.wait()
    with locked(tmp_path / "a.json", "running cca"):
        assert capsys.readouterr().err == ""


def test_a_lock_is_freed_by_an_error(tmp_path, capsys):
    with pytest.raises(ValueError, match="inside"), locked(tmp_path / "a", "testing"):
        raise ValueError("inside")
    with locked(tmp_path / "a", "testing"):
        assert capsys.readouterr().err == ""
