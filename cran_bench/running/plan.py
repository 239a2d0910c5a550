"""What a run has to compute: in which order, in how much memory, and how long that takes."""

from __future__ import annotations

import contextlib
import heapq
import math
import textwrap
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from tabulate import tabulate

from cran_bench.contract import Method, Part
from cran_bench.machine.progress import duration
from cran_bench.protocols import Protocol as ProtocolName
from cran_bench.protocols import Unit
from cran_bench.ranking.pairs import require_ranked
from cran_bench.registry import METHODS
from cran_bench.running.fits import FitStore
from cran_bench.running.fits.run import part_name, parts_of
from cran_bench.running.fits.store import like
from cran_bench.running.memory import GIB, available, estimate, require_room
from cran_bench.running.past import SOURCES, Cost, Past
from cran_bench.running.remote import AskedRow, Request, with_full_path
from cran_bench.running.runner import (
    Count,
    Outcome,
    Runner,
    each_once,
    fit_metric,
    fit_unit,
    like_row,
    row_count,
    shortened,
)
from cran_bench.running.tuning import trials

BASE = 1 << 29  # bytes of a worker beside the estimate of its fit
START = "worker"  # what the journal calls the start of a worker
WIDTH, NARROW = 80, 14  # characters of a table, and at least of its longest cells
NEVER = "never ran"
RECORDED, STORED, TO_FIT, CANNOT = "recorded", "stored fit", "to fit", "cannot run"


@dataclass(eq=False)
class Job:
    """A row under all protocols, a trial of a tuned row, or a part that rows declare.

    Attributes:
        row: the row, or one of those that need the part.
        number: the row's number; None for a trial or a part.
        expected: the fingerprints, which the worker must find too.
        place: the unit, and positions in `parts()` from the method down to the part; none for a trial.
        memory: estimated bytes; infinite if nothing may run beside it.
        costs: of its own fits, and of what a row takes beside them under each protocol.
        needs: the parts to be fitted before.
        needed_by: the jobs that need this part.
    """

    label: str
    row: AskedRow
    number: int | None
    expected: list[str]
    place: tuple[Unit, tuple[int, ...]]
    memory: float = 0
    costs: list[Cost] = field(default_factory=list)
    deaths: int = 0
    needs: set[Job] = field(default_factory=set)
    needed_by: list[Job] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds that it takes, as far as they are known."""
        return sum(cost.seconds for cost in self.costs if cost.source)

    @property
    def urgency(self) -> float:
        """Seconds from its start to the end of the last job that waits for it, guessed where they are not known."""
        return sum(cost.seconds for cost in self.costs) + max((job.urgency for job in self.needed_by), default=0)

    @property
    def is_ready(self) -> bool:
        """Whether it waits for nothing and, if it is a part, another job waits for it."""
        return not self.needs and (self.number is not None or any(self in job.needs for job in self.needed_by))

    def below(self) -> set[Job]:
        """All jobs that it needs, and that these need."""
        return self.needs.union(*(job.below() for job in self.needs))


@dataclass
class PlannedRow:
    """A row under one protocol, as a dry run shows it.

    Attributes:
        state: `RECORDED`, `STORED`, `TO_FIT` or `CANNOT`.
        costs: of the fit and its missing parts, if no earlier protocol needs it too, and of the rest of the row.
        missing: names of the parts, or the number of trials, that are not stored.
        memory: estimated bytes of the fit; 0 if it is stored, or its method gives no estimate.
        remark: why it cannot run, or failed before.
    """

    method: str
    seed: int
    protocol: ProtocolName
    state: str = RECORDED
    costs: list[Cost] = field(default_factory=list)
    missing: str = ""
    memory: float = 0
    remark: str = ""

    @property
    def source(self) -> str:
        """Where the greatest of `costs` is from, one of `SOURCES`; '' if any of them is not known."""
        return max(self.costs, default=Cost(0)).source if self.is_known else ""

    @property
    def is_known(self) -> bool:
        """Whether all of its cost is known."""
        return all(cost.source for cost in self.costs)

    def cells(self) -> dict[str, str]:
        """Its cells in the table of a dry run."""
        return {
            "row": self.method,
            "seed": str(self.seed),
            "protocol": self.protocol,
            "state": self.state + (f": {self.missing}" if self.missing else ""),
            "time": duration(sum(cost.seconds for cost in self.costs)) if self.costs and self.is_known else "",
            "memory": f"{self.memory / GIB:.1f} GiB" if self.memory else "",
            "from": self.source or NEVER if self.costs else "",
        }


class Workers(Protocol):
    """Workers that compute the rows of a run instead of this process."""

    def device(self, name: str) -> torch.device:
        """The kind of device that `name` means on the workers."""
        ...

    def run(self, runner: Runner, plan: Plan) -> list[Outcome]:
        """Compute the rows and return the outcomes in the order of `Runner.run`."""
        ...


class Plan:
    """The rows of a run and the jobs that compute them, `waiting` being those that have not started.

    Attributes:
        request: what is asked for.
        rows: the rows, each under all protocols.
        recorded: the outcomes of those of which nothing has to be computed, by number.
        left: numbers of the others.
        table: each row under each protocol.
        count: prints the line of each outcome.
    """

    def __init__(self, runner: Runner, request: Request, elsewhere: bool = False) -> None:
        """Look up the rows of a request, which are computed by `runner` or, `elsewhere`, by workers like it."""
        methods = [(with_full_path(text), METHODS.configure(text)) for text in request.methods]
        self.request, self.elsewhere, self._runner = request, elsewhere, runner
        self.rows = [AskedRow(*method, seed) for method in methods for seed in request.seeds]
        self.recorded: dict[int, list[Outcome]] = {}
        self.table: list[PlannedRow] = []
        self._free = math.inf if elsewhere else available(runner.device)
        self._jobs: dict[Hashable, Job] = {}
        self._stores: dict[Hashable, FitStore] = {}
        self._own: list[tuple[Job, str, Cost]] = []  # of each row that is to be fitted, the fit and its cost
        for number, row in enumerate(self.rows):
            recorded = runner.recorded(row.method, request.protocols, row.seed)
            planned = [PlannedRow(row.method.label, row.seed, protocol) for protocol in request.protocols]
            self.table += planned
            if recorded is None:
                self._add_row(number, row, planned)
            else:
                self.recorded[number] = recorded
        for job, key, cost in self._own:
            if key in self._jobs:  # a part of another row, or one of its trials
                job.costs.remove(cost)
                job.needs.add(self._jobs[key])
                self._jobs[key].needed_by.append(job)
        self.left = [number for number in range(len(self.rows)) if number not in self.recorded]
        self.waiting = sorted(self._jobs.values(), key=lambda job: (job.urgency, job.memory), reverse=True)
        self.count = Count(len(self.table), runner.data.tested.collection.metric)

    @cached_property
    def _past(self) -> Past:
        return Past(self._runner, [row.method.label for row in self.rows], self.elsewhere)

    def _add_row(self, number: int, row: AskedRow, planned: list[PlannedRow]) -> None:
        """Add the job of a row, and of its parts, and say what each of its protocols costs."""
        runner, method, seed = self._runner, row.method, row.seed
        expected = runner.fingerprints(method, self.request.protocols, seed)
        first = fit_unit(method, self.request.protocols[0])
        job = self._jobs[number] = Job(f"{method.label} · seed {seed}", row, number, expected, (first, ()))
        fits: dict[Unit, tuple[list[Cost], str] | Exception] = {}
        for one in planned:
            try:
                if runner.recorded(method, [one.protocol], seed):
                    continue
                address, part = runner.address(method, one.protocol, seed), method.build()
                require_ranked(part.similarity, one.protocol)
                unit, is_first = fit_unit(method, one.protocol), False
                if unit not in fits:
                    fits[unit], is_first = self._add_fit(job, part, unit), True
                if isinstance(fit := fits[unit], Exception):
                    raise fit
                kind = like_row(method.plugin.name, method.label, one.protocol, runner.folds)
                cost = self._past.cost(address.fingerprint, kind, runner.data_info.captions, loosely=True)
                job.costs.append(cost)
                one.costs, one.missing = [*(fit[0] if is_first else ()), cost], fit[1]
                one.state, one.memory = (TO_FIT, job.memory) if fit[0] else (STORED, 0)
                if failure := runner.store.failure(address):
                    one.remark = f"failed before: {failure.error}"
            except Exception as error:  # which the row will report
                one.state, one.remark = CANNOT, f"{CANNOT}: {runner.reason(method, error)}"

    def _add_fit(self, job: Job, part: Method, unit: Unit) -> tuple[list[Cost], str] | Exception:
        """Add the fit of a row on one unit; return what it costs and what of it is missing, or an error."""
        own, before, key = len(job.costs), job.below(), (unit, fit_metric(job.row.method, self._runner.data))
        try:
            store = self._stores[key] = self._stores.get(key) or self._runner.fits(*key)
            self._add_parts(job, part, store, (), job.row.method.label)
        except Exception as error:
            return error
        new = job.below() - before
        below = [inner for inner in self._jobs.values() if inner in new]
        tried = sum(inner.place[1] == () for inner in below)
        names = [inner.label.rpartition(" / ")[2] for inner in below]
        missing = f"{tried} trials" if tried else shortened(names)
        return [*job.costs[own:], *(cost for inner in below for cost in inner.costs)], missing

    def _add_parts(
        self, owner: Job, part: Part, store: FitStore, path: tuple[int, ...], label: str, is_trial: bool = False
    ) -> None:
        """Add the cost of a fit that is not stored, and the trials of its row, or its parts, that are not stored."""
        row, seed = owner.row, owner.row.seed
        is_stored = store.has(part, seed)
        owner.memory = max(owner.memory, estimate(part, store.train, store.val))
        if owner.memory > self._free and not is_stored:
            require_room(part, store.train, store.val, store.device)
        inner = [(row, p, (*path, k), f"{label} / {part_name(p)}") for k, p in enumerate(parts_of(part))]
        is_tuned = owner.number is not None and bool(row.method.tune)
        if is_tuned:
            inner = [(row.as_trial(trial), trial.build(), (), trial.label) for trial in trials(row.method, seed)]
        elif is_stored:
            return
        missing = set[Job]()
        for asked, some, below, name in inner:
            if store.has(some, seed):
                continue
            key = store.fingerprint(some, seed)
            if key not in self._jobs:
                self._jobs[key] = Job(name, asked, None, [key], (store.train.unit, below), owner.memory)
                self._add_parts(self._jobs[key], some, store, below, name, is_tuned or is_trial)
            missing |= {self._jobs[key], *self._jobs[key].below()}
            owner.needs.add(self._jobs[key])
            self._jobs[key].needed_by.append(owner)
        if not is_tuned:
            key = store.fingerprint(part, seed)
            cost = self._past.cost(key, like(part), store.size, is_trial)
            owner.costs.append(cost if cost.source != "record" else _without_parts(cost, missing))
            if owner.number is not None:
                self._own.append((owner, key, owner.costs[-1]))

    def pop(self, running: Sequence[Job]) -> Job | None:
        """Take the most urgent job for which there is memory beside the `running` ones, or any if none runs."""
        used = sum(job.memory + BASE for job in running)
        fits = (job for job in self.waiting if not running or used + job.memory + BASE <= self._free)
        job = next((job for job in fits if job.is_ready), None)
        if job is not None:
            self.waiting.remove(job)
        return job

    def settle(self, part: Job, is_stored: bool, deaths: int = 0) -> None:
        """Let the jobs that need a part go on; if it is not stored, their rows fit it again and report the error.

        A trial that failed stops no other trial of its row.
        """
        for job in part.needed_by:
            if is_stored or (not part.place[1] and not deaths):
                job.needs.discard(part)
            elif job.number is None:
                job.needs = {job}  # never ready
                self.settle(job, is_stored, deaths)
            elif job.needs:  # else it has been counted
                job.needs.clear()
                job.deaths, job.memory = job.deaths + deaths, math.inf if deaths else job.memory

    @property
    def is_parallel(self) -> bool:
        """Whether two jobs may run at a time."""
        return len(self.left) > 1 or any(len(job.needs) > 1 for job in self.waiting)

    def seconds(self, jobs: int = 1) -> tuple[float, float]:
        """Return how long the run takes with so many jobs at a time, and the most bytes at a time; changes nothing.

        The order is that in which the jobs will start, by `pop` and `settle`; jobs of unknown cost take no time.
        """
        kept, needs = list(self.waiting), {job: set(job.needs) for job in self.waiting}
        jobs = jobs if self.is_parallel else 1
        begin = self._past.cost(START, START, 1)
        start = begin.seconds if jobs > 1 and begin.source else 0.0
        base = BASE if jobs > 1 else 0
        running: list[tuple[float, int, Job]] = []
        now, most, workers = 0.0, 0.0, 0
        while True:
            while len(running) < jobs and (job := self.pop([job for *_, job in running])):
                is_new = len(running) == workers
                workers += is_new
                heapq.heappush(running, (now + job.seconds + start * is_new, len(self.waiting), job))
                most = max(most, sum(job.memory + base for *_, job in running))
            if not running:
                break
            now, _, job = heapq.heappop(running)
            if job.number is None:
                self.settle(job, is_stored=True)
        self.waiting = kept
        for job, before in needs.items():
            job.needs = before
        return now, most

    def line(self, jobs: int) -> str:
        """Say in one line how many rows are recorded, stored and to fit, and how long that takes in how much memory."""
        of = {RECORDED: "recorded", STORED: "with stored fits", TO_FIT: "to fit", CANNOT: "that cannot run"}
        counts = {told: sum(row.state == state for row in self.table) for state, told in of.items()}
        told = f"{row_count(len(self.table))}: {', '.join(f'{n:,} {what}' for what, n in counts.items() if n)}"
        costly, unknown = self._costly
        if not costly:
            return told
        if unknown == costly:
            return f"{told}; none of these ran here before, so how long it takes is not known"
        seconds, memory = self.seconds(jobs)
        on = " of one worker" if self.elsewhere else f" on {jobs} jobs" if jobs > 1 and self.is_parallel else ""
        told += f"; about {duration(seconds)}{on}" + (f", up to {memory / GIB:.1f} GiB" if memory else "")
        return told + (f" ({row_count(unknown)} never ran here, not counted)" if unknown else "")

    def expected(self, jobs: int) -> str:
        """Return what the summary of the run says of `seconds`; '' where they are not known."""
        costly, unknown = self._costly
        if unknown == costly:
            return ""
        without = f" without {row_count(unknown)}" if unknown else ""
        return f" (estimated {duration(self.seconds(jobs)[0])}{without})"

    @property
    def _costly(self) -> tuple[int, int]:
        """The number of rows to be computed, and of those among them whose cost is not known."""
        costly = [row for row in self.table if row.costs]
        return len(costly), sum(not row.is_known for row in costly)

    @property
    def has_results(self) -> bool:
        """Whether there is a record, or a fit, that `--force` would make again."""
        return any(row.state in (RECORDED, STORED) for row in self.table)

    def text(self) -> str:
        """Return the table of a dry run in 80 columns, what its words mean, and why rows cannot run."""
        cells = [row.cells() for row in self.table]
        given = {name: {line[name] for line in cells} for name in cells[0]}
        names = [name for name in given if len(given[name]) > (name in ("seed", "protocol")) and given[name] != {""}]
        widths = {name: max(len(name) + 2, *(len(line[name]) for line in cells)) for name in names}
        free = WIDTH - sum(widths[name] + 2 for name in names if name not in ("row", "state")) - 2
        widths["row"] = min(widths["row"], free - min(widths["state"], NARROW))
        widths["state"] = min(widths["state"], free - widths["row"])
        for line in cells:
            line["row"] = line["row"] if len(line["row"]) <= widths["row"] else line["row"].replace("[", "\n[", 1)
        lines = [[line[name] for name in names] for line in cells]
        sides = ["right" if name in ("seed", "time", "memory") else "left" for name in names]
        most = [widths[name] for name in names]
        parts = [tabulate(lines, names, colalign=sides, maxcolwidths=most, disable_numparse=True), ""]
        constant = ", ".join(f"{name} {cells[0][name]}" for name in ("protocol", "seed") if name not in names)
        parts += [f"all rows: {constant}"] if constant else []
        parts += ["what several rows need is fitted once"] if any(row.missing for row in self.table) else []
        known = dict.fromkeys(line["from"] for line in cells)
        parts += [f"{source or NEVER}: {SOURCES[source]}" for source in SOURCES if (source or NEVER) in known]
        named = [(row.remark, f"{row.method} · {row.protocol} · seed {row.seed}") for row in self.table if row.remark]
        parts += each_once(named)
        wrapped = [textwrap.fill(part, WIDTH) for part in parts[1:]]
        return "\n".join([parts[0], *wrapped])

    def gather(
        self, compute: Callable[[list[AskedRow], list[int]], Generator[tuple[int, list[Outcome]]]]
    ) -> list[Outcome]:
        """Print a line for each recorded row, then for each that `compute` yields as it finishes; return all in order.

        Args:
            compute: yields the outcomes of the rows that are left, given by their numbers; closed if an error ends it.
        """
        outcomes_of: dict[int, list[Outcome]] = {}

        def take(number: int, outcomes: list[Outcome]) -> None:
            outcomes_of[number] = outcomes
            for outcome in outcomes:
                self.count.say(outcome)

        for number, recorded in self.recorded.items():
            take(number, recorded)
        if self.left:
            with contextlib.closing(compute(self.rows, self.left)) as finished:
                for number, outcomes in finished:
                    take(number, outcomes)
        return [outcome for number in range(len(self.rows)) for outcome in outcomes_of[number]]


def _without_parts(cost: Cost, missing: set[Job]) -> Cost:
    """The cost of a fit alone, given that with its parts; parts of unknown cost share what is left for them."""
    left = max(0.0, cost.seconds - sum(job.seconds for job in missing))
    unknown = [job for job in missing if not all(own.source for own in job.costs)]
    for job in unknown:
        job.costs = [Cost(left / len(unknown), cost.source)]
    return Cost(0.0 if unknown else left, cost.source)
