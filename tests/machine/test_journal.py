"""The journal of what was computed: lines of several processes, whatever happens to the file."""

import os

from cran_bench.machine import journal
from cran_bench.machine.journal import Journal, Noted, journal_file, read_journal


def test_notes_are_read_in_their_order_and_damaged_lines_left_out(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert list(read_journal()) == []
    here, there = Journal({"cpu": "a", "gpu": None}), Journal({"cpu": "b"}, jobs=2)
    here.note("x" * 64, "CCA 12", 500, 1.23456)
    there.note("y", "CFA 34", 5, 2.0)
    with journal_file().open("a") as file:
        file.write('nonsense\n["too", "few"]\n["a", "b", "many", 1, {}, 1]\n[1, 2')
        file.write("\n" + "[" * 9000 + "\n")
        for size, seconds in (("1e999", 1), (5, "NaN"), (5, "Infinity"), (5, -1), (-5, 1)):
            file.write(f'["a", "b", {size}, {seconds}, {{}}, 1]\n')
    here.note("z", "CCA 12", 500, 3.0)
    first = Noted("x" * 64, "CCA 12", 500, 1.235, {"cpu": "a", "gpu": None}, 1)
    assert next(read_journal()) == first
    assert [(note.what[0], note.jobs) for note in read_journal()] == [("x", 1), ("y", 2), ("z", 1)]
    assert here.total == 1.23456 + 3 and there.total == 2


def test_a_long_journal_begins_anew_beside_its_past(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(journal, "LONGEST", 200)
    for number in range(30):
        Journal({}).note(str(number), "CCA", 1, 1.0)
    read = [int(note.what) for note in read_journal()]
    assert read == list(range(read[0], 30)) and 0 < read[0] < 29
    assert sum(file.stat().st_size for file in journal_file().parent.iterdir()) < 2 * 250


def test_a_journal_that_cannot_be_written_costs_nothing_else(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    Journal({}).note("x", "CCA", 1, 1.0)
    assert list(read_journal()) == []


def test_a_pipe_in_place_of_a_journal_stops_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    journal_file().parent.mkdir()
    os.mkfifo(journal_file())
    Journal({}).note("x", "CCA", 1, 1.0)
    assert list(read_journal()) == []
