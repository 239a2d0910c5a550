"""Progress where there is no terminal: lines on stderr, with words of the job's own, and where it was taken up."""

import io
import re

from rich.console import Console

from cran_bench.machine import progress
from cran_bench.machine.progress import Board, Step, say, send_progress, track


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_lines_tell_how_far_a_resumed_job_is(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_LINE_EVERY", -1.0)
    monkeypatch.setattr(progress, "_DRAW_EVERY", -1.0)
    assert list(track("abc", "training", total=5, done=2, quiet_below=0.0, status=lambda: "loss 0.5")) == list("abc")
    said = lines(capsys)
    assert [line.split(",")[0] for line in said[:2]] == ["training: 3 of 5", "training: 4 of 5"]
    assert all(line.endswith(" s left, loss 0.5") for line in said[:2])
    assert said[-1].startswith("training: 5 of 5 in ")


def test_a_job_that_ends_early_says_where(capsys):
    assert len(list(track(range(3), "training", total=10, quiet_below=0.0))) == 3
    assert lines(capsys)[-1].startswith("training: 3 of at most 10 in ")


def test_short_jobs_are_silent(capsys):
    list(track(range(3), "training", total=3))
    assert lines(capsys) == []


def test_what_steers_a_terminal_is_shown_and_markup_is_left_alone(capsys):
    say("[red]a[/red] :dog: \x1b[2J\0 \u2028\u202e\x9b \udc80 über 日本\u3000語 👩\u200d🚀\nc")
    expected = r"[red]a[/red] :dog: \x1b[2J\x00 \u2028\u202e\x9b \udc80 über 日本" + "\u3000語 👩\u200d🚀\nc\n"
    assert capsys.readouterr().err == expected


def test_options_in_the_label_of_a_bar_are_no_markup(monkeypatch):
    drawn = io.StringIO()
    terminal = Console(file=drawn, force_terminal=True, width=150)
    monkeypatch.setattr(progress, "_console", lambda: terminal)
    list(track("ab", "cran[epochs=1]\x1b[2J: steps", total=2, quiet_below=-1.0, status=lambda: "[b]loss[/b] 1"))
    assert r"cran[epochs=1]\x1b[2J: steps" in drawn.getvalue() and "[b]loss[/b] 1" in drawn.getvalue()


def test_lines_stand_above_the_bars(monkeypatch):
    drawn = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda **about: Console(**{**about, "file": drawn}, force_terminal=True, width=80)
    )
    with Board() as board:
        for step in (Step("cca · seed 0"), Step("cran: steps", 3, 10, "3 of 10, 2 s left"), Step("cca · seed 0")):
            board.show("first", step)
        board.show("second", Step("cfa · seed 0"))
        say("[1/2] a row")
        assert list(track("ab", "nested", total=2, quiet_below=-1.0)) == ["a", "b"]  # which has no bars of its own
        so_far = drawn.getvalue()
        board.show("first", None)
    assert re.search(r"\x1b\[2K\[1/2\] a row\r?\n", so_far)  # the bars are erased before
    assert "3 of 10" not in so_far.split("a row")[1]
    last = drawn.getvalue().removeprefix(so_far)
    assert "cfa · seed 0" in last and "cca" not in last
    assert progress._screen is None


def test_a_worker_sends_what_it_says_and_how_far_it_is(monkeypatch, capsys):
    sent = []
    monkeypatch.setattr(progress, "_send", None)
    send_progress(sent.append)
    assert list(track("ab", "steps", total=2, quiet_below=-1.0, status=lambda: "loss 1")) == ["a", "b"]
    say("a line")
    assert sent[0][:3] == ("steps", 1, 2) and sent[0].status.endswith(", loss 1")
    assert sent[1] is None and sent[2].startswith("steps: 2 of 2 in ") and sent[3] == "a line"
    assert capsys.readouterr().err == ""
