"""What fits and rows cost on this machine before, from which a run is estimated."""

from __future__ import annotations

from typing import NamedTuple

from cran_bench.machine.journal import Noted, read_journal
from cran_bench.protocols import Unit
from cran_bench.registry import METHODS
from cran_bench.running.fits.store import like_fields
from cran_bench.running.runner import Runner, like_row

SOURCES = {
    "before": "the very same was computed on this machine",
    "record": "a record of this machine says so, of this code or of another",
    "similar": "another seed, code or trial, or other data, in proportion to the number of texts",
    "": "nothing like it was computed on this machine",
}
"""Where a cost is from, and what that means."""


class Cost(NamedTuple):
    """Seconds of something to be computed, a guess if `source`, one of `SOURCES`, is ''; a `record` includes parts."""

    seconds: float
    source: str = ""


class Past:
    """The seconds of fits and rows by the journal of this machine, and by the records of a run that were made here.

    What another processor or GPU, or another number of threads, computed is not used; what was computed with another
    number of jobs at a time is used only for want of better.
    """

    def __init__(self, runner: Runner, labels: list[str], anywhere: bool = False) -> None:
        """Read the journal, and the records of methods with the given labels; with `anywhere` those of all machines."""
        where = dict(runner.journal.where)
        notes: list[Noted] = []
        self._fits: dict[str, float] = {}
        self._whole: dict[tuple[str, int], float] = {}  # of fits with their parts, by what they are like and their size
        sizes = self._sizes(runner)
        for run in runner.store.runs([runner.data.label], [], labels, damaged={}):
            record, method, seconds = run.record, run.record.method, run.record.seconds
            about = {"processes": 1, **record.environment}
            if anywhere or {name: about.get(name) for name in where} == where:
                like = like_row(method.name, method.label, record.protocol, record.folds)
                beside = seconds.embed + seconds.similarity + seconds.rank
                notes.append(Noted(record.fingerprint, like, record.data.captions, beside, where, 0))
                if method.tuning:  # whose seconds are those of all trials
                    continue
                self._fits[method.fit_fingerprint] = seconds.fit
                if method.name in METHODS.names():
                    kind = like_fields(METHODS.get(method.name).cls, method.parameters)
                    self._whole[kind, sizes[method.unit]] = seconds.fit
        noted = [note for note in read_journal() if anywhere or note.where == where]
        notes += sorted(noted, key=lambda note: note.jobs == runner.jobs)
        self._same = {note.what: note for note in notes}  # the last of each
        self._like = {note.like: note for note in notes}
        self._kind = {note.like.partition(" ")[0]: note for note in notes}

    @staticmethod
    def _sizes(runner: Runner) -> dict[Unit, int]:
        """Numbers of training texts."""
        collection = runner.data.collection
        train = collection.splits["train"]
        return {"captions": len(collection.captions_of(train)[0]), "documents": len(train)}

    def cost(self, what: str, like: str, size: int, loosely: bool = False) -> Cost:
        """Return the cost of what has this fingerprint and, as in `Noted`, is like other things and of some size.

        With `loosely`, what only begins with the same word is similar too.
        """
        if same := self._same.get(what):
            return Cost(same.seconds, "before" if same.jobs else "record")
        if what in self._fits:
            return Cost(self._fits[what], "record")
        kin = self._like.get(like)
        if kin is None and (like, size) in self._whole:
            return Cost(self._whole[like, size], "record")
        other = kin or self._kind.get(like.partition(" ")[0])
        if other is None:
            return Cost(1.0)
        return Cost(other.seconds * size / max(1, other.size), "similar" if kin or loosely else "")
