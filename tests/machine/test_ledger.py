"""Digests are noted by file, and a file that was replaced is read again whatever its times say."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from cran_bench.dataset import FolderImages
from cran_bench.errors import BadInput
from cran_bench.frontend.feature_files import FeatureFile, FeatureFiles
from cran_bench.machine import ledger, storage
from cran_bench.machine.ledger import UNREADABLE, Ledger, noted_sha256
from cran_bench.machine.storage import sha256_bytes

NAMES = ("a.jpg", "in/b.jpg", "in/c.jpg")


@pytest.fixture
def opened(monkeypatch):
    """The files that are read to be hashed, in order; digests are noted however new a file is."""
    names = []

    def digest(path, read=storage.sha256_file):
        names.append(path.name)
        return read(path)

    monkeypatch.setattr("cran_bench.dataset.sha256_file", digest)
    monkeypatch.setattr(ledger, "SETTLED", -(10**9))
    return names


@pytest.fixture
def images(tmp_path):
    for name in NAMES:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(name)
    return FolderImages(tmp_path / "data", NAMES)


def digests(images, tmp_path):
    return list(images.digests(Ledger(tmp_path / "digests")))


def contents(images):
    return [sha256_bytes((images.folder / name).read_bytes()) for name in images.ids]


def test_unchanged_files_are_not_read_again(images, tmp_path, opened):
    first = digests(images, tmp_path)
    assert first == contents(images) and len(opened) == 3
    assert digests(images, tmp_path) == first and len(opened) == 3
    some = FolderImages(images.folder, NAMES[1:])
    assert digests(some, tmp_path) == first[1:] and len(opened) == 3
    (images.folder / "a.jpg").write_text("longer than before")
    assert digests(images, tmp_path) == contents(images) and opened[3:] == ["a.jpg"]


def in_place(path, other):
    path.write_bytes(other.read_bytes())


def moved(path, other):
    shutil.move(other, path)


def linked(path, other):
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize("swap", [in_place, moved, linked])
def test_a_swap_that_keeps_size_and_mtime_is_noticed(images, tmp_path, opened, swap):
    path, other = images.folder / "in" / "b.jpg", tmp_path / "other"
    before, stat = digests(images, tmp_path), path.stat()
    other.write_text("IN/B.JPG")
    times = (stat.st_atime_ns, stat.st_mtime_ns)
    os.utime(other, ns=times)
    swap(path, other)
    os.utime(path, ns=times)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert digests(images, tmp_path) == contents(images) != before
    assert opened[3:] == ["b.jpg"]


def test_a_file_is_noted_only_once_it_has_been_left_alone(images, tmp_path, opened, monkeypatch):
    monkeypatch.undo()
    digests(images, tmp_path)
    assert not (tmp_path / "digests").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "0" * 64 + '\n{"a.jpg": [1, 2, 3, 4, "f"]}', None])
def test_a_damaged_ledger_is_made_again(images, tmp_path, opened, text):
    digests(images, tmp_path)
    (path,) = (tmp_path / "digests").iterdir()
    kept = path.read_text()
    path.write_text(kept.replace("in/b.jpg", "in/c.jpg") if text is None else text)
    assert digests(images, tmp_path) == contents(images)
    assert len(opened) == 6 and path.read_text() == kept


def test_two_processes_lose_nothing(images, tmp_path, opened):
    some, others = (
        FolderImages(images.folder, names).digests(Ledger(tmp_path / "digests")) for names in (NAMES[:1], NAMES[1:])
    )
    next(some), next(others)
    list(some), list(others)
    assert digests(images, tmp_path) == contents(images) and len(opened) == 3


def test_what_cannot_be_read_or_written_is_no_obstacle(images, tmp_path, opened):
    (images.folder / "a.jpg").unlink()
    (tmp_path / "digests").touch()
    assert digests(images, tmp_path) == [UNREADABLE, *contents(FolderImages(images.folder, NAMES[1:]))]
    shutil.rmtree(images.folder)
    assert digests(images, tmp_path) == [UNREADABLE] * 3


def test_rows_of_features_are_found_by_the_content_of_their_file(tmp_path, opened):
    path, rows = tmp_path / "train_ims.npy", np.arange(12, dtype=np.float32).reshape(6, 2)
    read = []

    class Counted(FeatureFile):
        def rows(self, image):
            read.append(image)
            return super().rows(image)

    def load():
        file = replace(Counted.open(path), repeats=2)
        return FeatureFiles(["0", "1", "2"], [file], [(0, k) for k in range(3)])

    np.save(path, rows)
    first, times = digests(load(), tmp_path), path.stat()
    assert first == [sha256_bytes(b"<f4" + two.tobytes()) for two in rows.reshape(3, 2, 2)]
    assert digests(load(), tmp_path) == first and read == [0, 1, 2]
    mapped = load()
    np.save(tmp_path / "other.npy", np.vstack([rows[:4], rows[4:] + 1]))
    (tmp_path / "other.npy").replace(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digests(mapped, tmp_path) == first  # which is still mapped, whatever has its path now
    assert [a == b for a, b in zip(digests(load(), tmp_path), first, strict=True)] == [True, True, False]


def test_a_subclass_with_digests_of_its_own_is_asked(images, tmp_path, opened):
    class Cropped(FolderImages):
        side = 1

        def digest(self, row):
            return f"{super().digest(row)} {self.side}"

    cropped = Cropped(images.folder, NAMES)
    digests(cropped, tmp_path)
    Cropped.side = 2
    assert digests(cropped, tmp_path) == [f"{digest} 2" for digest in contents(images)]


def test_a_large_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    file, read = tmp_path / "vectors.txt", []
    file.write_text("first")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(ledger, "sha256_file", lambda path: read.append(path) or storage.sha256_file(path))
    for size, times in ((6, 2), (5, 3)):  # noted from the second size on
        monkeypatch.setattr(ledger, "LARGE", size)
        monkeypatch.setattr(ledger, "SETTLED", -(10**9))
        assert [noted_sha256(file) for _ in range(2)] == 2 * [sha256_bytes(b"first")]
        assert len(read) == times
    shutil.copy2(file, tmp_path / "other")
    (tmp_path / "other").write_text("other")
    in_place(file, tmp_path / "other")
    assert noted_sha256(file) == sha256_bytes(b"other") and len(read) == 4
    monkeypatch.setattr(ledger, "SETTLED", 10**18)  # too new to be noted
    in_place(file, tmp_path / "vectors.txt")
    assert [noted_sha256(file) for _ in range(2)] == 2 * [sha256_bytes(b"other")] and len(read) == 6
    with pytest.raises(BadInput, match="cannot read"):
        noted_sha256(tmp_path / "none")
