"""Progress where there is no terminal: lines on stderr, with words of the job's own, and where it was taken up."""

from cran_bench.machine import progress
from cran_bench.machine.progress import track


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_lines_tell_how_far_a_resumed_job_is(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_LINE_EVERY", -1.0)
    assert list(track("abc", "training", total=5, done=2, quiet_below=0.0, status=lambda: "loss 0.5")) == list("abc")
    said = lines(capsys)
    assert [line.split(",")[0] for line in said[:2]] == ["training: 3 of 5", "training: 4 of 5"]
    assert all("loss 0.5, about" in line for line in said[:2])
    assert said[-1].startswith("training: 5 of 5 in ")


def test_a_job_that_ends_early_says_where(capsys):
    assert len(list(track(range(3), "training", total=10, quiet_below=0.0))) == 3
    assert lines(capsys)[-1].startswith("training: 3 of 10 in ")


def test_short_jobs_are_silent(capsys):
    list(track(range(3), "training", total=3))
    assert lines(capsys) == []
