"""What fits and rows cost on this machine before, from which a run is estimated."""

from __future__ import annotations

from typing import NamedTuple

from cran_bench.machine.journal import Noted, read_journal
from cran_bench.running.runner import Runner, like_row

SOURCES = {
    "before": "the very same was computed on this machine",
    "record": "a record of this machine says so",
    "similar": "another seed, code or trial, or other data, in proportion to the number of texts",
    "": "nothing like it was computed on this machine",
}
"""Where a cost is from, and what that means; the most certain first."""


class Cost(NamedTuple):
    """Seconds of something to be computed.

    Attributes:
        seconds: how long it takes, as far as is known; a guess where `source` is ''.
        source: one of `SOURCES`; the seconds of a `record` are those of a fit with all its parts.
    """

    seconds: float
    source: str = ""


class Past:
    """The seconds of fits and rows by the journal of this machine, and by the records of a run that were made here.

    What was computed by another processor or GPU, or with another number of threads, is not used, and what was computed
    beside another number of jobs only if there is nothing else.
    """

    def __init__(self, runner: Runner, labels: list[str], anywhere: bool = False) -> None:
        """Read the journal, and the records of methods with the given labels; with `anywhere` those of all machines."""
        where = dict(runner.journal.where)
        notes: list[Noted] = []
        self._fits: dict[str, float] = {}
        for run in runner.store.runs([runner.data.label], [], labels, damaged={}):
            record, method, seconds = run.record, run.record.method, run.record.seconds
            about = {"processes": 1, **record.environment}
            if anywhere or {name: about.get(name) for name in where} == where:
                beside = seconds.embed + seconds.similarity + seconds.rank
                like = like_row(method.name, method.label, record.protocol, record.folds)
                notes.append(Noted(record.fingerprint, like, record.data.captions, beside, where, 0))
                if not method.tuning:  # whose seconds are those of all trials
                    self._fits[method.fit_fingerprint] = seconds.fit
        noted = [note for note in read_journal() if anywhere or note.where == where]
        notes += sorted(noted, key=lambda note: note.jobs == runner.jobs)
        self._same = {note.what: note for note in notes}  # the last of each
        self._like = {note.like: note for note in notes}
        self._kind = {_kind(note.like): note for note in notes}

    def cost(self, what: str, like: str, size: int, loosely: bool = False) -> Cost:
        """Return the cost of what has this fingerprint, in proportion to the number of texts if these are others.

        Args:
            what: its fingerprint.
            like: as in `Noted`.
            size: number of texts that it is computed from.
            loosely: whether what differs in its configuration, but not in what it is, is similar enough.
        """
        if what in self._same:
            return Cost(self._same[what].seconds, "before")
        if what in self._fits:
            return Cost(self._fits[what], "record")
        if like in self._like:
            return Cost(_scaled(self._like[like], size), "similar")
        other = self._kind.get(_kind(like))
        return Cost(_scaled(other, size), "similar" if loosely else "") if other else Cost(1.0)


def _kind(like: str) -> str:
    return like.partition(" ")[0]


def _scaled(note: Noted, size: int) -> float:
    return note.seconds * size / max(1, note.size)
