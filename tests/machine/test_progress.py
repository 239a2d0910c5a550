"""Progress where there is no terminal: lines on stderr, with words of the job's own, and where it was taken up."""

import io

from rich.console import Console

from cran_bench.machine import progress
from cran_bench.machine.progress import say, track


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
