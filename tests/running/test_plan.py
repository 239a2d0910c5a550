"""The plan of a run: what is left, in which order and memory, how long it takes, and that asking changes nothing."""

import re
from concurrent.futures import Future
from dataclasses import replace
from random import Random

import pytest

from cran_bench.machine.journal import Journal, journal_file, read_journal
from cran_bench.registry import METHODS
from cran_bench.running import jobs, memory
from cran_bench.running import plan as planning
from cran_bench.running.past import Cost, Past
from cran_bench.running.plan import START, Job, _without_parts

MEAN = "Held / Mean"


def labels(plan):
    return [job.label.removeprefix("held.py:") for job in plan.waiting]


def states(plan):
    return [(row.method.removeprefix("held.py:"), row.protocol, row.state, row.missing) for row in plan.table]


@pytest.fixture(autouse=True)
def a_journal_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


# jobs -----------------------------------------------------------------------------------------------------------


def test_parts_are_planned_once_and_rows_wait_for_them(make_runner, plan, held):
    methods = ["cfa", f"{held}:Held", f"{held}:Held[ridge=2]"]
    made = plan(make_runner(), methods, seeds=(0, 1), protocols=("captions", "mean"))
    rows = [f"{name} · seed {k}" for name in ("Held", "Held[ridge=2]") for k in (0, 1)]
    assert sorted(labels(made)) == sorted([MEAN, MEAN, *rows, "cfa:tuned · seed 0", "cfa:tuned · seed 1"])
    assert labels(made)[:2] == [MEAN, MEAN]  # for which others wait
    first = made.pop([])
    assert first.number is None and [job.is_ready for job in first.needed_by] == [False, False]
    assert made.pop([first]).number is None
    made.settle(first, is_stored=True)
    assert all(job.is_ready for job in first.needed_by)


def test_a_fit_that_is_a_row_and_a_part_of_another_is_made_once(make_runner, plan):
    run = make_runner()
    made = plan(run, ["kcca", "macc"])
    part, *rows = made.waiting
    assert part.label == "macc:tuned / KCCA" and {job.number for job in part.needed_by} == {0, 1}
    assert [job.needs for job in rows] == [{part}, {part}] and made.pop([]) is part and made.pop([part]) is None
    run.journal.note(part.expected[0], "", 1, 100.0)
    again = plan(run, ["macc", "kcca"])
    assert 100 <= sum(cost.seconds for job in again.waiting for cost in job.costs) < 110
    assert [row.costs[0].seconds for row in again.table if row.method == "kcca:tuned"] == [100]


def test_what_is_there_is_not_planned_unless_forced(make_runner, plan, held):
    run, methods = make_runner(), [f"{held}:Held", f"{held}:Held[ridge=2]"]
    run.run([METHODS.configure(methods[0])], ["captions"], [0])
    asked = plan(run, methods, protocols=("captions", "mean", "documents"))
    assert labels(asked) == [MEAN, "Held[ridge=2] · seed 0", "Held · seed 0"]  # the part is of the unit documents
    assert states(asked) == [
        ("Held", "captions", "recorded", ""),
        ("Held", "mean", "stored fit", ""),
        ("Held", "documents", "to fit", "Mean"),
        ("Held[ridge=2]", "captions", "to fit", ""),
        ("Held[ridge=2]", "mean", "to fit", ""),
        ("Held[ridge=2]", "documents", "to fit", "Mean"),
    ]
    forced = plan(replace(run, force=True), methods)
    assert len(forced.waiting) == 3 and not forced.has_results and asked.has_results
    assert plan(run, methods[:1]).forecast(1)[0] == "1 row: 1 recorded" and not plan(run, methods[:1]).waiting


def test_the_longest_comes_first_and_only_where_there_is_memory(make_runner, plan, held, monkeypatch):
    run = make_runner()
    run.journal.note("another fit", "CFA of other fields", 300, 50.0)
    assert labels(plan(run, [f"{held}:Held", "cfa"]))[0] == "cfa:tuned · seed 0"

    monkeypatch.setattr(planning, "available", lambda device=None: 3 << 30)
    made = plan(run, [f"{held}:Held[ridge=2]", f"{held}:Held[ridge=3]"])
    part = made.pop([])
    made.settle(part, is_stored=True)
    first = made.pop([])
    assert first.memory > 1 << 30
    assert made.pop([first]) is None  # 1.25 GiB each, and as much again for two processes
    assert made.pop([]) is not None


# how long -------------------------------------------------------------------------------------------------------


class Timed:
    """In place of a worker: computes nothing, in as many seconds of a clock of its own as the job is said to take."""

    clock, begin = 0.0, 0.0

    def __init__(self, spec):
        self.late = self.begin

    def start(self, job):
        self.job, self.future = job, Future()
        self.future.end, self.late = Timed.clock + job.seconds + self.late, 0.0
        self.future.value = True if job.number is None else []
        return self.future

    def messages(self):
        return []

    def stop(self):
        pass


def next_of(running, *_):
    first = min(running, key=lambda future: future.end)
    Timed.clock = first.end
    first.set_result(first.value)
    return {first}, None


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("gib", [3, 6, 100])
def test_the_time_is_that_of_the_order_in_which_jobs_start(make_runner, plan, held, monkeypatch, count, gib):
    def cost(_, what, like, size, loosely=False):
        return Cost(7.5 if what == START else Random(what).uniform(1, 60), "before")

    monkeypatch.setattr(Past, "cost", cost)
    monkeypatch.setattr(planning, "available", lambda device=None: gib << 30)
    monkeypatch.setattr(jobs, "Worker", Timed)
    monkeypatch.setattr(jobs, "wait", next_of)
    monkeypatch.setattr(Timed, "clock", 0.0)
    monkeypatch.setattr(Timed, "begin", 7.5)
    methods = ["cfa", f"{held}:Held", f"{held}:Held[ridge=2]", f"{held}:Held[fails=true]", "cran-local:quick"]
    made = plan(make_runner(), methods, seeds=(0, 1), protocols=("captions", "documents"))
    waiting, needs = list(made.waiting), [set(job.needs) for job in made.waiting]
    assert len(waiting) > 20
    told, most = made.seconds(count)
    one, largest = made.seconds(1)
    assert made.waiting == waiting and [job.needs for job in waiting] == needs  # nothing has changed
    assert one == pytest.approx(sum(job.seconds for job in waiting))  # parts that rows share are counted once
    assert largest == max(job.memory for job in waiting) and largest < most <= count * (largest + planning.BASE)
    list(jobs._side_by_side(made, None, count))
    assert not made.waiting and told == pytest.approx(Timed.clock)
    assert one / count < told < one + 7.5


def test_a_run_is_estimated_from_the_one_before_elsewhere_on_this_machine(make_runner, plan, held):
    methods = ["cfa", f"{held}:Held", f"{held}:Held[ridge=2]"]
    first = make_runner("first")
    assert (
        plan(first, methods).forecast(1)[0].startswith("3 rows: 3 to fit; none of these ran here before, so how long")
    )
    first.run([METHODS.configure(text) for text in methods], ["captions", "mean"], [0])
    notes = list(read_journal())
    assert len(notes) == 4 + 6 and all(note.jobs == 1 for note in notes)
    made = plan(make_runner("second"), methods, protocols=("captions", "mean"))
    assert made.seconds(1)[0] == pytest.approx(sum(note.seconds for note in notes))
    assert {row.source for row in made.table} == {"before"}
    (name,) = {note.like.partition(" ")[0] for note in notes if note.like.startswith("Mean ")}
    assert name == "Mean" and "first" not in journal_file().read_text()

    other = plan(make_runner("second"), methods, seeds=(1,))
    assert {row.source for row in other.table} == {"similar"}
    beside = Past(replace(first, jobs=2), [])
    assert beside.cost(notes[0].what, "", 1) == (notes[0].seconds, "before")  # for want of better
    Journal(first.journal.where, jobs=2).note(notes[0].what, "", 1, 77.0)
    assert Past(replace(first, jobs=2), []).cost(notes[0].what, "", 1).seconds == 77
    assert Past(first, []).cost(notes[0].what, "", 1).seconds == notes[0].seconds


def test_what_another_processor_computed_is_not_used(make_runner, plan, held):
    run, methods = make_runner(), ["cfa", f"{held}:Held"]
    run.run([METHODS.configure(text) for text in methods], ["captions"], [0])
    journal_file().unlink()
    forced = replace(run, force=True)
    known = plan(forced, methods)
    assert known.forecast(1)[0].startswith("2 rows: 2 to fit; about ") and "never" not in known.forecast(1)[0]
    records = [run.recorded(METHODS.configure(text), ["captions"], 0)[0].record for text in methods]
    told = sum(sum(r.seconds.model_dump(exclude={"features"}).values()) for r in records)
    assert known.seconds(1)[0] == pytest.approx(told)
    assert {row.source for row in known.table} == {"record"}
    run.journal.note(records[0].method.fit_fingerprint, "CFA", 1, 5.0)
    for about in ({"cpu": "another"}, {"threads": 3}, {"processes": 2}, {"gpu": "one"}):
        other = replace(forced)
        other.journal = Journal({**run.journal.where, **about})
        assert "none of these ran here before" in plan(other, methods).forecast(1)[0], about
    somewhere = plan(other, methods, elsewhere=True)
    assert re.search(r"; about \S+ s of one worker, up to", somewhere.forecast(1)[0])


def test_the_record_of_a_row_tells_what_its_fit_costs_with_another_seed_or_code(make_runner, plan, held):
    run, methods = make_runner(), ["cfa", f"{held}:Held"]
    run.run([METHODS.configure(text) for text in methods], ["captions", "documents"], [0])
    journal_file().unlink()
    record = run.recorded(METHODS.configure("cfa"), ["captions"], 0)[0].record
    other = plan(run, methods, seeds=(1,))
    (fit, beside), unknown = (row.costs for row in other.table)
    assert fit == (pytest.approx(record.seconds.fit), "record") and beside.source == "similar"
    assert any(not cost.source for cost in unknown)  # a file of the test's own is known by its records only


def test_a_cost_is_that_of_the_nearest_thing_that_was_computed(make_runner):
    run = make_runner()
    assert Past(run, []).cost("a", "CCA x", 100) == (1.0, "")
    run.journal.note("a", "CCA x", 100, 8.0)
    run.journal.note("b", "CCA y", 100, 2.0)
    past = Past(run, [])
    assert past.cost("a", "CCA x", 100) == (8.0, "before")
    assert past.cost("c", "CCA x", 25) == (2.0, "similar")  # a quarter of the texts
    assert past.cost("c", "CCA z", 50) == (1.0, "")
    assert past.cost("c", "CCA z", 50, loosely=True) == (1.0, "similar")
    assert past.cost("c", "CFA x", 50, loosely=True) == (1.0, "")


def test_the_parts_of_a_recorded_fit_share_its_seconds():
    known, *unknown = (Job("", None, None, [], ("captions", ())) for _ in range(3))
    known.costs = [Cost(2.0, "before")]
    for job in unknown:
        job.costs = [Cost(1.0)]
    assert _without_parts(Cost(10.0, "record"), {known, *unknown}) == (0.0, "record")
    assert [job.costs for job in unknown] == [[(4.0, "record")], [(4.0, "record")]]
    assert _without_parts(Cost(13.0, "record"), {known, *unknown}) == (3.0, "record")
    assert _without_parts(Cost(9.0, "record"), {known, *unknown}) == (0.0, "record")  # never less than nothing


def test_trials_that_are_not_stored_are_left(make_runner, plan, held):
    run = make_runner()
    run.run([METHODS.configure(f"{held}:Held")], ["captions"], [0])
    made = plan(run, [f"{held}:Held[tune=3]"])
    assert states(made) == [("Held[tune=3]", "captions", "to fit", "2 trials")]
    assert [cost.source for cost in made.table[0].costs] == 3 * ["similar"]
    assert sorted(labels(made)) == ["Held[ridge=2]", "Held[ridge=3]", "Held[tune=3] · seed 0"]


# what cannot be -------------------------------------------------------------------------------------------------


def test_rows_that_cannot_run_are_told_with_the_reason_of_the_run(make_runner, plan, held, monkeypatch):
    run, methods = make_runner(), ["cca[text=encoder]", "cfa", f"{held}:Held[ridge=-1]"]
    monkeypatch.setattr(memory, "available", lambda device=None: 1 << 28)
    monkeypatch.setattr(planning, "available", lambda device=None: 1 << 28)
    made = plan(run, methods, protocols=("captions", "mean"))
    assert [row.state for row in made.table] == 6 * ["cannot run"] and made.seconds(1) == (0, made.seconds(1)[1])
    assert made.forecast(1)[0] == "6 rows: 6 that cannot run"
    outcomes = run.run([METHODS.configure(text) for text in methods], ["captions", "mean"], [0])
    assert [row.remark for row in made.table] == [f"cannot run: {outcome.failure.error}" for outcome in outcomes]
    assert made.table[0].remark.startswith("cannot run: cca:tuned[text=encoder] cannot run on scenes[")
    assert "of memory here, and 0.2 GiB are free" in made.table[2].remark == made.table[3].remark
    text = made.text()
    assert " ".join(text.split()).count("no text encoder here") == 1 and max(map(len, text.splitlines())) <= 80

    monkeypatch.undo()
    run.run([METHODS.configure(methods[2])], ["captions"], [0])
    row = plan(run, methods).table[2]
    assert row.state == "to fit" and row.remark.startswith("failed before: RuntimeError: less than nothing (")


# the command ----------------------------------------------------------------------------------------------------


def listing(folder):
    """Every file and folder below a folder, with size and time of change."""
    stats = {path: path.stat() for path in folder.rglob("*")}
    return {path: (stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in stats.items()}


def test_a_dry_run_changes_nothing(command, recorded_scenes, tmp_path):
    arguments = ["run", *recorded_scenes.arguments, "--dry-run"]
    before = listing(tmp_path)
    said = command(*arguments, "-m", "cca,cfa[dim=8],cca[dim=8,tune=3]", "-p", "captions,documents", "-s", "0,1")
    assert said.code == 0 and listing(tmp_path) == before
    table, _, told = said.out.partition("\n\n")
    first, *rows = [line.split() for line in table.splitlines() if not line.startswith("-")]
    assert first[:4] == ["row", "seed", "protocol", "state"] and len(rows) >= 12
    assert rows[0] == ["cca:tuned", "0", "captions", "recorded"]
    assert max(map(len, said.out.splitlines())) <= 80
    last = " ".join(told.split())
    assert re.search(r"12 rows: 1 recorded, 11 to fit; .* with --force: 12 rows: 12 to fit; ", last)
    other = recorded_scenes.spec.replace("60", "50")
    for more, words in (
        (["--contrasts", "swap"], "1 row: 1 with stored fits; about"),
        (["--folds", 2], "1 row: 1 with stored fits; about"),
        (["--force"], "1 row: 1 to fit; about"),
        (["--test-on", other], "12 images took"),
    ):
        said = command(*arguments, "-m", "cca", *more)
        assert said.code == 0 and words in said.out, said.err
        assert listing(tmp_path) == before, more


def test_the_estimate_the_summary_and_how_to_go_on(command, quick_scenes, held, tmp_path, monkeypatch):
    arguments = ["run", *quick_scenes.arguments, "--results", tmp_path / "results"]
    methods = f"cfa,{held}:Held[ridge=-1],{held}:Held[ridge=-2]"
    said = command(*arguments, "cfa")
    assert "\n1 row: 1 to fit; none of these ran here before, so how long it takes is not known\n" in said.err
    assert re.search(r"^1 row in \S+ s: 1 computed$", said.err, re.MULTILINE)
    said = command(*arguments, "-m", methods, "-p", "captions,mean", "--force")
    assert re.search(r"\n6 rows: 6 to fit; about \S+ s, up to 1\.. GiB \(4 rows never ran here, not", said.err)
    assert re.search(r"\n6 rows in \S+ s \(estimated \S+ s without 4 rows\): 2 computed, 4 failed\n", said.err)
    (line,) = re.findall("^failed: .*", said.err, re.MULTILINE)
    assert line.startswith("failed: RuntimeError: less than nothing (") and line.endswith(" · seed 0 and 1 more)")
    told = said.sentence.partition(" with: cran-bench ")
    assert told[0] == "4 of 6 rows failed, try them again"
    asked = f"run -m '{held}:Held[ridge=-1],{held}:Held[ridge=-2]' -d '{quick_scenes.spec}' -p captions,mean -s 0"
    assert told[2].startswith(f"{asked} --force --data ") and str(tmp_path / "results") in told[2]
