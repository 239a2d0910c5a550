"""One method with all its seeds, and the notes on how rows were made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cran_bench.errors import BadInput, escaped
from cran_bench.ranking.contrasted import HEADLINE
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.records.schema import Failure, Record
from cran_bench.records.statistics import Sample, sample
from cran_bench.records.store import Finished, folder_of
from cran_bench.records.tasks import RECALL, Task
from cran_bench.specs import Spec, recorded_spec
from cran_bench.tables.figures import heading

EXPOSED = "†"
"""Marks a row of which an encoder was trained on images or captions of the test split."""
REFERENCE = "‡"
"""Marks a row that is no method but a reference for others."""


@dataclass(frozen=True)
class Row:
    """One method with all its seeds.

    Attributes:
        runs: finished runs, one per seed, in order of seed.
        failures: failed runs.
        task: what it is measured by.
        others: runs of the same seeds in other folders of results, which are not shown.
    """

    label: str
    runs: Sequence[Finished]
    failures: Sequence[Failure]
    task: Task = RECALL
    others: Sequence[Finished] = ()

    @property
    def spec(self) -> Spec:
        """The name and the preset of its method, as recorded, or else as in its label."""
        method = self.records[0].method if self.records else None
        return Spec(method.name, method.preset) if method else recorded_spec(self.label)

    @property
    def records(self) -> list[Record]:
        """The records of the finished runs."""
        return [run.record for run in self.runs]

    def values(self, figure: str) -> list[float]:
        """A figure of each seed that has it, as recorded or else from the ranks, as are correlations."""
        recorded = [record.metrics[figure] for record in self.records if figure in record.metrics]
        if figure not in self.task.rated and (recorded or not self.task.has(figure)):
            return recorded
        return [float(self.task.combined(values, figure)) for values in self._measured]

    @cached_property
    def _measured(self) -> list[NDArray[np.float64]]:
        return [self.task.values(ranks) for ranks in self.ranks]

    def mean(self, figure: str) -> float:
        """Mean over seeds; NaN if none finished."""
        values = self.values(figure)
        return float(np.mean(values)) if values else float("nan")

    def deviation(self, figure: str) -> float:
        """Sample standard deviation over seeds; NaN for fewer than two."""
        values = self.values(figure)
        return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")

    @cached_property
    def is_order_unseen(self) -> bool:
        """Whether it does not see the order of words, so that contrasts of the same words do not test it."""
        of = [ranks.contrasts for ranks in self.ranks] if self.task.name == HEADLINE else []
        return bool(of) and all(contrasts is not None and contrasts.is_order_unseen for contrasts in of)

    @property
    def reference(self) -> str:
        """What it scores, if it is no method but a reference for others; else ''."""
        return next((record.method.reference for record in self.records), "")

    @property
    def is_ranked(self) -> bool:
        """Whether it is compared by the headline, which has tested it; a reference is not."""
        headline = self.task.headline
        is_untested = headline in self.task.by_order and self.is_order_unseen
        return bool(self.records) and self.task.has(headline) and not is_untested and not self.reference

    def seconds(self, phase: str) -> float:
        """Mean seconds of a phase over seeds; NaN if none finished."""
        values = [getattr(record.seconds, phase) for record in self.records]
        return float(np.mean(values)) if values else float("nan")

    @property
    def peak_memory(self) -> int:
        """The most bytes of memory in any run; 0 if none finished."""
        return max((record.peak_memory for record in self.records), default=0)

    @property
    def exposures(self) -> list[str]:
        """A sentence for each of its encoders that was trained on images or captions of the test split."""
        return list(dict.fromkeys(sentence for record in self.records for sentence in record.exposures))

    @property
    def marked_label(self) -> str:
        """The label, with marks if it is a `reference` or there are `exposures`."""
        return self.label + f" {REFERENCE}" * bool(self.reference) + f" {EXPOSED}" * bool(self.exposures)

    @property
    def status(self) -> str:
        """``ok``, or ``failed`` or ``damaged`` if any seed is."""
        return min((failure.status for failure in self.failures), default="ok")

    @property
    def commits(self) -> list[str]:
        """The distinct commits of the records' code: 7 digits, with * if changes were uncommitted; - if unknown."""
        known = [str(record.environment.get("commit") or "-") for record in self.records]
        return sorted({commit[:7] + "*" * commit.endswith("+") for commit in known})

    @property
    def folders(self) -> list[Path]:
        """The distinct folders of results of its runs."""
        return folders_of(*self.runs, *self.failures)

    @property
    def ranks(self) -> list[RecordedRanks]:
        """The ranks of every seed."""
        return [run.ranks for run in self.runs]

    @cached_property
    def sample(self) -> Sample:
        """The bootstrap sample of the row's figures; the row must have a finished run."""
        return sample(self.ranks, task=self.task)


def exposure_notes(rows: Iterable[Row]) -> list[str]:
    """A line on each encoder that was trained on images or captions of the test split, with the rows that use it."""
    of: dict[str, list[str]] = {}
    for row in rows:
        for sentence in row.exposures:
            of.setdefault(sentence, []).append(row.label)
    return [f"{EXPOSED} {', '.join(labels)}: {sentence}." for sentence, labels in of.items()]


def reference_notes(rows: Iterable[Row]) -> list[str]:
    """A line on each row that is no method but a reference for others."""
    told = {row.label: row.reference for row in rows if row.reference}
    return [
        f"{REFERENCE} {label}: a reference row, not a method and not ranked: {what}." for label, what in told.items()
    ]


def fit_notes(rows: Iterable[Row]) -> list[str]:
    """Lines on the trials of tuned rows, naming those that had fewer, and on rows fitted on validation too."""
    finished = [row for row in rows if row.records and not row.reference]
    of: dict[int, dict[str, int]] = {}
    for row in finished:
        for record in row.records:
            if about := record.method.tuning:
                of.setdefault(about.trials, {})[row.label] = sum(rsum is not None for rsum in about.rsum) or 1
    lines = []
    for trials, counts in of.items():
        which = "Each row" if len(counts) == len(finished) else ", ".join(counts)
        fewer = ", ".join(f"{label} {count}" for label, count in counts.items() if count < trials)
        lines.append(f"{which}: best of {trials} trials on validation{f'; fewer: {fewer}' * bool(fewer)}.")
    again = [row.label for row in finished if all(record.method.refit for record in row.records)]
    if again:
        which = "Each row" if len(again) == len(finished) else ", ".join(again)
        lines.append(f"{which}: fitted on train and validation together, with what validation chose from train alone.")
    return lines


def commit_note(rows: Iterable[Row]) -> list[str]:
    """A line on the commits of the code that measured the rows; none if no commit is known."""
    commits = Counter(mark for row in rows for mark in row.commits)
    counts = ", ".join(f"{mark} {count}" for mark, count in commits.most_common())
    stars = " (*: with uncommitted changes)" if "*" in counts else ""
    many = f"Rows by the commit of the code: {counts}" if len(commits) > 1 else f"Code of commit {counts.split(' ')[0]}"
    return [f"{many}{stars}."] if set(commits) - {"-"} else []


def merge_notes(rows: Iterable[Row], folders: Sequence[Path]) -> list[str]:
    """Lines on which of several folders of results rows are from, and on runs that are in more than one of them."""
    if len(folders) < 2:
        return []
    named = {folder: escaped(str(folder), "") for folder in folders}
    of: dict[Path, list[str]] = {folder: [] for folder in folders}
    older: dict[Path, list[str]] = {}
    lines, equal = [], 0
    for row in rows:
        for folder in row.folders:
            seeds = [str(run.record.seed) for run in row.runs if folder_of(run) == folder]
            of[folder].append(row.label + f" (seed {', '.join(seeds)})" * (len(row.folders) > 1 and bool(seeds)))
        for other in row.others:
            run = next(run for run in row.runs if run.record.seed == other.record.seed)
            here, there, seed = named[folder_of(run)], named[folder_of(other)], other.record.seed
            if run.record.fingerprint != other.record.fingerprint:
                older.setdefault(folder_of(other), []).append(f"{row.label} seed {seed}")
            elif _is_equal(run, other):
                equal += 1
            else:
                task, digits = row.task, row.task.digits(row.task.headline) + 1
                both = (Row(row.label, [one], [], task).mean(task.headline) for one in (run, other))
                figures = " and ".join(f"{value:.{digits}f}" for value in both)
                lines.append(
                    f"NOT REPRODUCED: {row.label} seed {seed} is the same run in {here} and in {there}, but has other "
                    f"ranks: {heading(task.headline)} {figures}. The newest is shown, from {here}."
                )
    if equal:
        lines.append(f"Recorded in several folders with equal ranks: {equal} run{'s' * (equal > 1)}.")
    for folder, labels in older.items():
        lines.append(f"In {named[folder]} too, but older and not shown: {', '.join(labels)}.")
    origins = {named[folder]: ", ".join(dict.fromkeys(labels)) for folder, labels in of.items() if labels}
    return [*(f"From {folder}: {labels}." for folder, labels in origins.items()), *lines]


def _is_equal(run: Finished, other: Finished) -> bool:
    """Whether two runs have the same ranks, and of what else both have kept, the same."""
    if run.record.ranks_sha == other.record.ranks_sha:
        return True
    try:
        here, there = run.ranks.arrays(), other.ranks.arrays()
    except BadInput:  # which is not told of very many records
        return False
    both = ((here[name], there[name]) for name in here.keys() & there.keys())
    return all(x.shape == y.shape and np.allclose(x, y, 1e-9, equal_nan=True) for x, y in both)


def folders_of(*runs: Finished | Failure) -> list[Path]:
    """The distinct folders of results of those runs that are stored."""
    return list(dict.fromkeys(folder_of(run) for run in runs if run.path.name))
