"""Measure every row of the committed results again, whatever is missing: ``python results/remake.py``.

The rows are listed in remake.toml.  A row is done if the folder has a record of it by the present code, on the same
data and features of the same sources, on whatever machine it was made.  The command can be stopped at any time and goes
on where it was, here or on a machine that has only the records.

Records are made small: see `slim`.

Exit codes: 0 all is done; 1 something is wrong with the results; 2 it cannot run; 3 rows are left; 130 it was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import runpy
import signal
import sys
import textwrap
import time
import tomllib
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from joblib import cpu_count  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from tabulate import tabulate

import cran_bench
from cran_bench.cli.options import echo, load_tables
from cran_bench.errors import BadInput, escaped, first_wrong
from cran_bench.machine.checkout import commit
from cran_bench.machine.environment import pick_device
from cran_bench.machine.progress import duration, say
from cran_bench.machine.storage import canonical_json, sha256_bytes, write_atomically, write_text
from cran_bench.protocols import Protocol, parse_protocols
from cran_bench.ranking.contrasted import HEADLINE
from cran_bench.ranking.precisions import CATEGORY_METRICS
from cran_bench.records.schema import ANSWERS, CURVES, ERROR, EXAMPLES, Failure, Record, StrictModel
from cran_bench.records.store import Finished, ResultStore
from cran_bench.records.tasks import TaskName
from cran_bench.registry import DATASETS, METHODS, each, quick_dataset, quick_method
from cran_bench.running.doctor import count_provenance, examine_results
from cran_bench.running.experiment import folders
from cran_bench.running.plan import CANNOT, Plan
from cran_bench.running.preparation import Prepared, at_hand
from cran_bench.running.present import is_by_present_code, is_of_data
from cran_bench.running.remote import Request
from cran_bench.running.runner import Runner, each_once, parse_seeds, row_count, shortened
from cran_bench.specs import parse_spec
from cran_bench.tables.tables import render

HERE = Path(__file__).resolve().parent
PLAN = HERE / "remake.toml"
MOST = 10_000_000  # bytes of committed results
LEFT = 3  # the exit code
Part = Literal["contrasts", "judgments", "examples"]
"""Of a record: outcomes and figures of contrasts or of judgments, or example queries."""
Key = tuple[str, Protocol, int]
"""Label of the method, protocol and seed."""


class FrontEnd(StrictModel):
    """Specs of images and regions; files by name alone."""

    backbone: str
    regions: str


class Call(StrictModel):
    """Rows that are measured together, as for `cran-bench run`.

    Attributes:
        dataset: its spec.
        methods: specs; none for all rows of the paper.
        protocols: names, with commas.
        seeds: such as ``0:5``.
        quick: as `--quick`.
        contrasts: as `--contrasts`.
        front_end: one of the plan's; '' for that of the dataset.
        text_encoder: its spec, with the file's name alone, as for the next.
        vectors: spec of the word vectors.
        keep: what records of the first seed keep beside ranks; those of other seeds keep nothing else.
    """

    dataset: str
    methods: list[str] = Field(default_factory=list)
    protocols: str = "captions"
    seeds: str = "0"
    quick: bool = False
    contrasts: str = ""
    front_end: str = ""
    text_encoder: str = ""
    vectors: str = "ppmi-svd"
    keep: list[Part] = Field(default_factory=list)


class Sheet(StrictModel):
    """A file of tables, written as .md and .csv.

    Attributes:
        file: its path beside the folder of records, without suffix.
        datasets: their specs.
        protocols: names, with commas.
        task: what rows are measured by.
    """

    file: str
    datasets: list[str]
    protocols: str = "captions"
    task: TaskName = "recall"


class Book(StrictModel):
    """What remake.toml holds; calls are run in its order."""

    front_ends: dict[str, FrontEnd] = Field(default_factory=dict)
    calls: list[Call]
    tables: list[Sheet] = Field(default_factory=list)


class Group(NamedTuple):
    """Rows that are left: each method under each protocol with each seed."""

    methods: list[str]
    protocols: list[Protocol]
    seeds: list[int]

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.methods) * len(self.protocols) * len(self.seeds)


@dataclass
class Work:
    """What a call still has to do.

    Attributes:
        call: the call.
        options: for `cran_bench.run`, without methods, protocols and seeds.
        done: the records of rows that are done.
        groups: the rows that are left.
        seconds: how long these take, as far as it is known.
        unknown: number of rows of which it is not.
        remarks: why rows cannot run.
        failed: rows that failed when they last ran, or are damaged, and why.
        error: why the call cannot be planned.
    """

    call: Call
    options: dict[str, Any] = field(default_factory=dict)
    done: list[Finished] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    seconds: float = 0.0
    unknown: int = 0
    remarks: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def left(self) -> int:
        """Number of rows that are left; 1 for a call that cannot be planned."""
        return sum(group.size for group in self.groups) or int(bool(self.error))


@dataclass(frozen=True)
class Remake:
    """The rows of a plan, and the folder of their records.

    Attributes:
        book: the plan.
        results: folder of results.
        models: the folder below which the files of networks and word vectors are.
        jobs: rows computed at a time.
        uncommitted: whether records of code that was not committed count.
    """

    book: Book
    results: Path
    models: Path
    jobs: int
    uncommitted: bool = False
    _records: dict[str, tuple[list[Finished], list[Failure]]] = field(default_factory=dict)

    def work(self, call: Call) -> Work:
        """Look up which rows of a call are done, and estimate the others."""
        try:
            return self._work(call)
        except BadInput as error:
            return Work(call, error=str(error))

    def _work(self, call: Call) -> Work:
        runner, options = self._made(call)
        made = Work(call, options)
        runs, failures = self._recorded(runner.data.label)
        known = self._known(runner, runs)
        left: dict[str, list[tuple[Protocol, int]]] = {}
        for spec, row in _rows(call):
            if found := known.get(row):
                made.done.append(max(found, key=lambda run: run.record.started))
            else:
                left.setdefault(spec, []).append(row[1:])
        rows = {(METHODS.configure(spec).label, *row) for spec, some in left.items() for row in some}
        for one in failures:
            if one.data.cell == runner.data_info.cell and (one.method_label, one.protocol, one.seed) in rows:
                made.failed.append(f"{one.protocol}, {one.sentence}")
        made.groups = [*_products(left)]
        for group in made.groups:
            plan = Plan(runner, Request(options["dataset"], folders()[0], *group), elsewhere=True)
            made.seconds += plan.seconds(self.jobs)[0]
            made.unknown += sum(bool(row.costs) and not row.source for row in plan.table)
            made.remarks += each_once((row.remark, row.method) for row in plan.table if row.state == CANNOT)
        return made

    def _made(self, call: Call) -> tuple[Runner, dict[str, Any]]:
        """What looks up the rows of a call, and its options for `cran_bench.run`."""
        data, _, cache = folders()
        front_end = self.book.front_ends.get(call.front_end)
        if call.front_end and front_end is None:
            raise BadInput(f"the plan has no front end '{call.front_end}'")
        specs: dict[str, Any] = {
            "backbone": front_end and self.found(front_end.backbone),
            "regions": front_end and self.found(front_end.regions),
            "vectors": self.found(call.vectors),
            "text_encoder": self.found(call.text_encoder) or None,
        }
        dataset = quick_dataset(call.dataset) if call.quick else call.dataset
        runner = _runner(dataset, data, self.results, cache, call.contrasts, self.jobs, **specs)
        return runner, {"dataset": dataset, "contrasts": call.contrasts, "results": self.results, **specs}

    def _known(self, runner: Runner, runs: Iterable[Finished]) -> dict[Key, list[Finished]]:
        """The records that count, by row."""
        known: dict[Key, list[Finished]] = {}
        for run in runs:
            if is_uncommitted(run.record) and not self.uncommitted:
                continue
            if is_of_data(run.record, runner.data_info) and is_by_present_code(run.record):
                known.setdefault(_key(run.record), []).append(run)
        return known

    def slim(self, calls: Iterable[Call]) -> int:
        """Make the records of the rows of these calls small; return how many were not."""
        store = ResultStore(self.results)
        recorded: dict[str, list[Finished]] = {}
        found: dict[Path, tuple[Finished, bool]] = {}
        kept: dict[Path, set[Part]] = {}
        for call in calls:
            try:
                runner, _ = self._made(call)
            except BadInput:  # its rows cannot be measured
                continue
            label, collection = runner.data.label, runner.data.tested.collection
            if label not in recorded:
                recorded[label] = store.runs([label], damaged={})
            known, first = self._known(runner, recorded[label]), parse_seeds(call.seeds)[0]
            for _, row in _rows(call):
                for run in known.get(row, ()):
                    found[run.path] = run, collection.metric == "map"
                    kept.setdefault(run.path, set()).update(call.keep if row[2] == first else ())
        drawn, count = set[str](), 0
        for path, (run, by_category) in sorted(found.items(), key=lambda one: one[1][0].record.protocol):
            with contextlib.suppress(BadInput):  # a damaged record is measured again
                count += slim(run, by_category, kept[path])
            fit, curves = run.record.method.fit_fingerprint, beside(path, CURVES)
            if curves.exists():
                if fit in drawn:  # of the same fit under another protocol
                    curves.unlink()
                drawn.add(fit)
        return count

    def found(self, spec: str) -> str:
        """A spec with the path of its file, which is given by name.

        Raises:
            BadInput: there is no file of that name below `models`, or several.
        """
        parsed = parse_spec(spec) if spec else None
        if parsed is None or not Path(parsed.argument).suffix:
            return spec
        paths = _files(self.models).get(parsed.argument, [])
        if len(paths) != 1:
            raise BadInput(f"there are {len(paths)} files {parsed.argument} below {self.models}: give --models")
        return str(replace(parsed, argument=str(paths[0])))

    def _recorded(self, label: str) -> tuple[list[Finished], list[Failure]]:
        if label not in self._records:
            self._records[label] = ResultStore(self.results).read([label])
        return self._records[label]

    def again(self) -> Remake:
        """The same, with records read anew."""
        return replace(self, _records={})


def is_uncommitted(record: Record) -> bool:
    """Whether the code that made a record had changes that were not committed."""
    return str(record.environment.get("commit")).endswith("+")


def slim(run: Finished, by_category: bool, keep: Collection[Part] = ()) -> bool:
    """Store a record again, smaller; return whether it was larger.

    Ranks, figures that stay and all other fields are as they were, but for the digests of the two files.  Arrays
    are packed by LZMA, which `numpy.load` reads too.  The best answers to all queries are left out.

    Args:
        run: the record.
        by_category: whether its data is judged by category; if not, average precisions and their means are left out.
        keep: which other parts stay.

    Raises:
        BadInput: the ranks are not those of the record.
    """
    record, file = run.record, run.path.with_suffix(".npz")
    left_out = {name for name in record.metrics if (part := _part(name)) and part not in keep}
    if not by_category:
        left_out |= record.metrics.keys() & set(CATEGORY_METRICS)
    is_large = bool(left_out) or not _is_packed(file)
    if is_large:
        ranks = run.ranks if by_category else replace(run.ranks, precisions=None)
        ranks = ranks if "contrasts" in keep else replace(ranks, contrasts=None)
        ranks = ranks if "judgments" in keep else replace(ranks, relevant={}, agreements={})
        data = _packed(ranks.arrays())
        metrics = {name: value for name, value in record.metrics.items() if name not in left_out}
        small = record.model_copy(update={"metrics": metrics, "ranks_sha": sha256_bytes(data)}).sealed()
        write_atomically(file, lambda to: to.write(data))
        write_text(run.path, canonical_json(small.model_dump()) + "\n")
    spare = [beside(run.path, ending) for ending in ((ANSWERS,) if "examples" in keep else (ANSWERS, EXAMPLES))]
    spare = [path for path in spare if path.exists()]
    for path in spare:
        path.unlink()
    return is_large or bool(spare)


def _part(figure: str) -> Part | None:
    """The part of a record that a figure is of; None for recalls, twins and categories."""
    if figure.partition(".")[0] == HEADLINE:
        return "contrasts"
    return "judgments" if "." in figure else None


def beside(path: Path, ending: str) -> Path:
    """A file beside that of a record."""
    return path.with_name(path.stem + ending)


def _packed(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_LZMA)
    return buffer.getvalue()


def _is_packed(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return all(member.compress_type == zipfile.ZIP_LZMA for member in archive.infolist())
    except (OSError, zipfile.BadZipFile) as error:
        raise BadInput(f"{file} cannot be read: {error}") from error


def _key(record: Record) -> Key:
    return record.method.label, record.protocol, -1 if record.folds else record.seed


@functools.cache
def _prepared(dataset: str, data: Path, cache: Path, **specs: Any) -> Prepared:
    """The data of calls, loaded once: to draw scenes, or to read photographs, takes a while."""
    return at_hand(DATASETS.configure(dataset), data, cache, **specs)


@functools.cache
def _runner(dataset: str, data: Path, results: Path, cache: Path, contrasts: str, jobs: int, **specs: Any) -> Runner:
    """What looks up rows, made once, as contrasts take a while too."""
    prepared = _prepared(dataset, data, cache, **specs)
    return Runner(prepared, results, cache, pick_device("auto"), contrasts=contrasts, jobs=jobs)


def _methods(call: Call) -> list[str]:
    specs = each(call.methods) or [name for name in METHODS.usable() if METHODS.describe(name).paper_row]
    return [quick_method(spec) if call.quick else spec for spec in specs]


def _rows(call: Call) -> Iterator[tuple[str, Key]]:
    """The rows of a call, with the spec of each."""
    protocols, seeds = parse_protocols(call.protocols), parse_seeds(call.seeds)
    for spec in _methods(call):
        label = METHODS.configure(spec).label
        yield from ((spec, (label, protocol, seed)) for protocol in protocols for seed in seeds)


@functools.cache
def _files(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for where, _, names in os.walk(folder):
        for name in names:
            found.setdefault(name, []).append(Path(where, name))
    return found


def _products(left: dict[str, list[tuple[Protocol, int]]]) -> Iterator[Group]:
    """Put methods with the same rows left together, seed by seed where the protocols of a method differ by seed."""
    alike: dict[tuple[tuple[Protocol, int], ...], list[str]] = {}
    for spec, rows in left.items():
        by_seed = {seed: [protocol for protocol, other in rows if other == seed] for _, seed in rows}
        is_whole = len({*map(tuple, by_seed.values())}) == 1
        for some in [rows] if is_whole else [[(p, seed) for p in each_p] for seed, each_p in by_seed.items()]:
            alike.setdefault(tuple(some), []).append(spec)
    for pairs, specs in alike.items():
        yield Group(specs, [*dict.fromkeys(p for p, _ in pairs)], [*dict.fromkeys(seed for _, seed in pairs)])


def told(works: Sequence[Work], jobs: int, only_left: bool = False) -> str:
    """The plan and its estimate, or only the calls of which rows are left."""
    numbered = [(number, work) for number, work in enumerate(works, 1) if work.left or not only_left]
    lines = [
        [
            number,
            ", ".join(filter(None, [work.call.dataset + " --quick" * work.call.quick, work.call.front_end])),
            work.call.protocols.replace(",", " "),
            work.call.seeds,
            textwrap.shorten(", ".join(each(work.call.methods)) or "all rows of the paper", 40, placeholder=" …"),
            len(work.done),
            work.left,
            f"{duration(work.seconds)}{' +' * bool(work.unknown)}" if work.left and not work.error else "",
        ]
        for number, work in numbered
    ]
    headings = ["", "data", "protocols", "seeds", "methods", "done", "left", "about"]
    table = tabulate(lines, headings, disable_numparse=True, maxcolwidths=[None, None, 10])
    left, unknown = sum(work.left for work in works), sum(work.unknown for work in works)
    line = f"{row_count(left)} left of {sum(len(work.done) + work.left for work in works):,}"
    if left:
        line += f"; about {duration(sum(work.seconds for work in works))} with {jobs} at a time, as far as it is known"
        line += f" (+: {row_count(unknown)} never ran, not counted)" * bool(unknown)
    said = [(text, number) for number, work in numbered for text in (*work.remarks, *work.failed, work.error) if text]
    notes = each_once((text, f"call {number}") for text, number in said)
    return "\n".join([table, "", line, *notes])


def run(works: Sequence[Work], until: float, jobs: int, after: Callable[[], object]) -> None:
    """Run the calls in order, and `after` each part of them, though it is stopped.

    Args:
        works: what is left.
        until: when no part begins any more, a time of `time.monotonic`.
        jobs: rows computed at a time.
        after: called without arguments.
    """
    for number, work in enumerate(works, 1):
        for group in work.groups:
            if time.monotonic() >= until:
                say("the time is up: the same command goes on with what is left")
                return
            about = f"{row_count(group.size)} of {work.call.dataset}, {shortened(group.methods)}"
            say(f"call {number} of {len(works)}: {about}")
            try:
                rows: dict[str, Any] = {"methods": group.methods, "protocols": group.protocols, "seeds": group.seeds}
                made = cran_bench.run(**rows, **work.options, jobs=jobs)
            except BadInput as error:
                say(f"call {number} cannot run: {error}")
            else:
                say(made.told)
            finally:
                after()


def write_tables(book: Book, results: Path) -> None:
    """Write the files of tables beside the folder of records, and the pictures drawn from them."""
    for sheet in book.tables:
        try:
            labels = [DATASETS.configure(dataset).label for dataset in sheet.datasets]
            found = load_tables(results, labels, parse_protocols(sheet.protocols), [], sheet.task)
        except BadInput as error:
            say(f"{sheet.file}: {error}")
            continue
        for style, suffix in (("markdown", ".md"), ("csv", ".csv")):
            path = results.parent / f"{sheet.file}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, escaped(render(found, style)))
            say(f"wrote {path}")
    if results.parent == HERE:
        runpy.run_path(str(HERE.parent / "docs" / "draw.py"), run_name="__main__")


def remove_old(done: Iterable[Finished], results: Path) -> int:
    """Remove the records that are of other code or superseded, and errors; return how many.

    In the folder of the committed results these are also those of the other folders beside it.
    """
    kept = {run.path.resolve(): run.record for run in done}
    current = {(record.data.cell, *_key(record)) for record in kept.values()}
    count = 0
    others = {runs.parent for runs in HERE.glob("*/runs")} if results.resolve().parent == HERE else set()
    for folder in sorted({results.resolve(), *others}):
        store = ResultStore(folder)
        for error in store.root.rglob(f"*{ERROR}"):
            error.unlink()
        for run in store.runs(damaged={}):
            record = run.record
            is_old = not is_by_present_code(record) or (record.data.cell, *_key(record)) in current
            if is_old and run.path.resolve() not in kept:
                count += 1
                for ending in (".npz", EXAMPLES, ANSWERS, CURVES, ".json"):
                    beside(run.path, ending).unlink(missing_ok=True)
        for empty in sorted((path for path in store.root.rglob("*") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):  # it is not empty
                empty.rmdir()
    return count


def examine(results: Path) -> bool:
    """Say what doctor says, how many records are of other code, and the size of results; return whether all is well."""
    complaints = [*examine_results(results)]
    for one in complaints:
        say(f"{one.path}: {one.what}")
    bad = {one.path for one in complaints}
    runs = [run for run in ResultStore(results).runs(damaged={}) if run.path not in bad]
    others = sum(not is_by_present_code(run.record) for run in runs)
    changed = sum(is_uncommitted(run.record) for run in runs)
    say(count_provenance(results, bad))
    size = sum(path.stat().st_size for path in results.parent.rglob("*") if path.is_file())
    say(f"{results.parent}: {size / 1e6:.1f} MB" + f", more than {MOST / 1e6:.0f}" * (size > MOST))
    return not (complaints or others or changed or size > MOST)


def read_book(path: Path) -> Book:
    """Read a plan.

    Raises:
        BadInput: it cannot be read, or is no plan.
    """
    try:
        return Book.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise BadInput(f"{path} is no plan: {first_wrong(error, 'all of it')}") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Measure every row of the committed results again.")
    add = parser.add_argument
    add("--plan", type=Path, default=PLAN, metavar="FILE", help="the rows (default: %(default)s)")
    add("--results", type=Path, default=HERE / "reference", metavar="DIR", help="the records (default: %(default)s)")
    add("--models", type=Path, metavar="DIR", help="networks and word vectors (default: $CRAN_BENCH_DATA, or data)")
    add("-d", "--dataset", action="append", metavar="NAME", help="only calls on this dataset; may be repeated")
    add("--hours", type=float, default=float("inf"), metavar="H", help="begin no call after so many hours")
    add("-j", "--jobs", type=int, metavar="N", help="rows at a time (default: $CRAN_BENCH_JOBS, or the cores)")
    add("--dry-run", action="store_true", help="only print the plan and its estimate")
    add("--tables", action="store_true", help="write tables and pictures though rows are left")
    add("--uncommitted", action="store_true", help="run though the code has changes that are not committed")
    return parser.parse_args(arguments)


def remake(given: argparse.Namespace, until: float) -> int:
    """Do what the command line asks for; return the exit code."""
    book, now = read_book(given.plan), commit()
    if not (given.uncommitted or given.dry_run) and (now is None or now.endswith("+")):
        why = "has changes that are not committed" if now else "is not that of a checkout (pip install -e .)"
        raise BadInput(f"the code that runs {why}: commit it first, so that all records name it, or give --uncommitted")
    jobs = given.jobs or int(os.environ.get("CRAN_BENCH_JOBS") or 0) or cpu_count()
    remaking = Remake(book, given.results.resolve(), (given.models or folders()[0]).resolve(), jobs, given.uncommitted)
    calls = [c for c in book.calls if not given.dataset or parse_spec(c.dataset).name in given.dataset]
    if not given.dry_run:
        remaking.slim(calls)  # what a run left that was killed
    works = [remaking.work(call) for call in calls]
    echo(told(works, jobs))
    if not given.dry_run and any(work.groups for work in works):
        run(works, until, jobs, functools.partial(remaking.slim, calls))
        remaking = remaking.again()
        works = [remaking.work(call) for call in calls]
        echo(told(works, jobs, only_left=True))
    left = sum(work.left for work in works)
    if given.dry_run:
        return LEFT if left else 0
    is_whole = not left and len(calls) == len(book.calls)
    is_committed_plan = given.plan.resolve() == PLAN
    if is_whole and (is_committed_plan or given.results.resolve().parent != HERE):
        say(f"removed old records: {remove_old([run for work in works for run in work.done], given.results)}")
    if is_whole or given.tables:
        write_tables(book, given.results.resolve())
    is_well = examine(given.results.resolve())
    return LEFT if left else int(not is_well and is_whole)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; an error that users can fix is one sentence."""
    given = parse(arguments)
    until = time.monotonic() + 3600 * given.hours
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return remake(given, until)
    except BadInput as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        say("stopped: the same command goes on")
        return 130
    finally:
        signal.signal(signal.SIGTERM, handler)


if __name__ == "__main__":
    sys.exit(main())
