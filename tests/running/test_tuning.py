"""`run --tune N`: every row is the best on validation of the same number of seeded trials, and its record says so."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

import cran_bench
from cran_bench.errors import BadInput
from cran_bench.ranking.rank import rank
from cran_bench.records.archive import read_record
from cran_bench.registry import DATASETS, METHODS, Plugin, number_of_trials, tuned_method
from cran_bench.running import checks
from cran_bench.running.checks import with_other_test
from cran_bench.running.fits import FitStore
from cran_bench.running.preparation import find_prepared
from cran_bench.running.runner import Runner, embed
from cran_bench.running.tuning import require_search, trials
from cran_bench.similarity import COSINE
from cran_bench.tables.rows import fit_notes

CPU = torch.device("cpu")
FIXED = "dim=16,power=1,ridge_image=0.01,ridge_text=0.01"  # so that a fit of CCA is one decomposition


@dataclass
class Toy:
    """Ridge regression from words to image features; it diverges where the ridge is negative."""

    ridge: float = 1.0
    words: int = 300

    similarity = COSINE
    calls: ClassVar = []

    def fit(self, train, val, run):
        Toy.calls.append("fit")
        if self.ridge < 0:
            raise BadInput(f"a ridge of {self.ridge} diverges")
        self.mean = train.images.mean(dim=0)
        x, y = self.counts(train).double(), (train.images - self.mean)[train.image_of].double()
        self.W = torch.linalg.solve(x.T @ x + self.ridge * torch.eye(x.shape[1]), x.T @ y).float()

    def counts(self, split):
        return torch.from_numpy(split.tfidf(self.words).toarray()).float()

    def embed_images(self, split):
        Toy.calls.append(split.name)
        return split.images - self.mean

    def embed_texts(self, split):
        return self.counts(split) @ self.W

    def state(self):
        return {"mean": self.mean, "W": self.W}

    def load(self, state):
        self.mean, self.W = state["mean"], state["W"]


@pytest.fixture(autouse=True)
def search(monkeypatch):
    """`search` sets what is searched of the method `toy`."""

    def of(**space):
        monkeypatch.setitem(METHODS.plugins, "toy", Plugin("toy", Toy, {}, search=space))

    of(ridge=(1.0, 10.0, 100.0, 1e5), words=(5, 20, 300))
    Toy.calls.clear()
    return of


@pytest.fixture
def prepared(quick_scenes):
    return find_prepared(DATASETS.configure(quick_scenes.spec), quick_scenes.data, quick_scenes.cache)


@pytest.fixture
def runner(prepared, quick_scenes, tmp_path):
    return Runner(prepared, tmp_path / "results", quick_scenes.cache, CPU)


def labels(spec, seed=0):
    return [trial.label for trial in trials(METHODS.configure(spec), seed)]


def run_one(runner, spec, seed=0):
    (outcome,) = runner.run([METHODS.configure(spec)], ["captions"], [seed])
    return outcome


# the draw -------------------------------------------------------------------------------------------------------


def test_trials_are_drawn_by_the_seed_and_fewer_are_the_first_of_more():
    drawn = labels("toy[tune=8]")
    assert drawn == labels("toy[tune=8]") != labels("toy[tune=8]", seed=1)
    assert [labels(f"toy[tune={n}]") for n in range(1, 9)] == [drawn[:n] for n in range(1, 9)]


def test_the_first_trial_is_the_row_as_it_is():
    assert labels("toy[tune=3]")[0] == "toy"
    assert labels("toy[tune=3,words=7]")[0] == "toy[words=7]"
    assert labels("cca:paper[tune=2,unit=documents]")[0] == "cca:paper[unit=documents]"
    assert labels("toy") == ["toy"]


def test_the_whole_space_is_drawn_without_a_repetition():
    every = {METHODS.configure(f"toy[ridge={r},words={w}]").label for r in (1, 10, 100, 1e5) for w in (5, 20, 300)}
    assert set(labels("toy[tune=12]")) == set(labels("toy[tune=10000]")) == every
    assert len(labels("toy[tune=10000]")) == len(every) == 12
    beside = labels("toy[tune=10000,words=300,ridge=7]")  # both fixed
    assert beside == ["toy[ridge=7]"]


def test_a_row_that_differs_from_the_space_is_one_more_trial(search):
    search(ridge=(2.0, 3.0))
    assert sorted(labels("toy[tune=9]")) == ["toy", "toy[ridge=2]", "toy[ridge=3]"]


def test_fields_that_a_spec_gives_are_fixed_even_if_they_are_the_presets():
    configured = METHODS.configure("toy[ridge=1,tune=5]")
    assert configured.label == "toy[ridge=1,tune=5]" == METHODS.configure(configured.label).label
    assert list(configured.space) == ["words"] and len(trials(configured, 0)) == 3
    assert METHODS.configure("toy[ridge=1]").label == "toy"


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_accepts_what_it_searches(name):
    for preset in ("", *METHODS.get(name).presets):
        require_search(METHODS.configure(f"{name}:{preset}" if preset else name))
    assert len(labels(f"{name}[tune=20]")) == (1 if name in ("aligned", "truth") else 20)


# the choice -----------------------------------------------------------------------------------------------------


def test_the_best_on_validation_is_the_one_of_a_loop(runner, prepared, tmp_path):
    outcome = run_one(runner, f"cca[{FIXED},tune=5]", seed=1)
    record = outcome.record
    train, val, test = (prepared.split(name, "captions", CPU) for name in ("train", "val", "test"))
    store = FitStore(tmp_path / "elsewhere", prepared.identity, train, val, CPU)
    found = []
    for trial in trials(METHODS.configure(f"cca[{FIXED},tune=5]"), 1):
        part = store.fitted(trial.build(), 1, trial.label).part
        on_val, on_test = (rank(*embed(part, split), split.image_of, COSINE).metrics() for split in (val, test))
        found.append((on_val.rsum, on_test.values(), part))
    rsums = [rsum for rsum, _, _ in found]
    tuning, best = record.method.tuning, int(np.argmax(rsums))
    assert tuning.rsum == rsums and tuning.chosen == best
    assert len(set(rsums)) > 1
    assert {key: record.metrics[key] for key in found[best][1]} == found[best][1]
    assert record.method.parameters["vocabulary"] == found[best][2].vocabulary
    assert tuning.tried[best] == {key: getattr(found[best][2], key) for key in ("image", "text", "vocabulary")}


def test_the_first_of_equals_is_chosen_so_the_preset_before_any_other(runner, search):
    search(words=(200, 300, 400))  # all of which are more than there are
    tuning = run_one(runner, "toy[tune=3]").record.method.tuning
    assert len(tuning.rsum) == 3 and len(set(tuning.rsum)) == 1 and tuning.chosen == 0


def test_a_record_says_what_was_tried(runner):
    outcome = run_one(runner, "toy[tune=4]", seed=2)
    record = read_record(runner.store.path(outcome.address))
    assert record == outcome.record and record.method.label == "toy[tune=4]"
    tuning = record.method.tuning
    assert (tuning.trials, tuning.seed, len(tuning.tried)) == (4, 2, 4)
    assert tuning.space == {"ridge": [1.0, 10.0, 100.0, 1e5], "words": [5, 20, 300]}
    assert tuning.tried[0] == {"ridge": 1.0, "words": 300}
    assert tuning.tried[tuning.chosen] == record.method.parameters
    assert tuning.rsum[tuning.chosen] == max(tuning.rsum)
    assert record.seconds.fit > 0


def test_a_row_that_is_not_tuned_says_nothing_of_it(runner):
    outcome = run_one(runner, "toy")
    assert "tuning" not in runner.store.path(outcome.address).read_text()


def test_tuned_rows_and_others_are_apart(runner):
    tuned, plain = run_one(runner, "toy[tune=1]"), run_one(runner, "toy")
    assert tuned.record.metrics == plain.record.metrics
    assert tuned.record.method.fit_fingerprint == plain.record.method.fit_fingerprint
    assert tuned.record.fingerprint != plain.record.fingerprint and not plain.reused
    assert Toy.calls.count("fit") == 1


def test_the_seconds_of_a_tuned_row_are_those_of_all_its_trials(runner):
    record = run_one(runner, "toy[tune=3]").record
    store = runner.fits("captions")
    tried = trials(METHODS.configure("toy[tune=3]"), 0)
    each = [store.fitted(trial.build(), 0, trial.label).seconds for trial in tried]
    assert record.seconds.fit == pytest.approx(sum(each))


# nothing of the test split --------------------------------------------------------------------------------------


def test_no_trial_sees_the_test_split(runner):
    run_one(runner, "toy[tune=4]")
    assert Toy.calls == ["fit", "val"] * 4 + ["test"]


def test_the_choice_is_the_same_for_another_test_split(runner, prepared, tmp_path):
    first = run_one(runner, "toy[tune=6]").record
    other = Runner(with_other_test(prepared), tmp_path / "other", tmp_path / "other-cache", CPU)
    second = run_one(other, "toy[tune=6]").record
    assert first.method.tuning == second.method.tuning
    assert first.metrics != second.metrics


# fits are stored ------------------------------------------------------------------------------------------------


def test_trials_are_stored_and_more_of_them_cost_only_the_new_ones(runner):
    run_one(runner, "toy[tune=3]")
    first = Toy.calls.count("fit")
    again = run_one(Runner(runner.data, runner.results, runner.cache, CPU), "toy[tune=3]")
    assert again.reused and Toy.calls.count("fit") == first == 3
    run_one(runner, "toy[tune=5]")
    assert Toy.calls.count("fit") == 5


def test_a_run_that_was_stopped_goes_on_with_the_trials_that_are_left(runner, monkeypatch):
    fit = Toy.fit

    def stop(self, *given):
        if Toy.calls.count("fit") == 2:
            raise KeyboardInterrupt
        fit(self, *given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Toy, "fit", stop)
        run_one(runner, "toy[tune=4]")
    assert run_one(runner, "toy[tune=4]").record.method.tuning.trials == 4
    assert Toy.calls.count("fit") == 4


# trials that fail -----------------------------------------------------------------------------------------------


def test_a_trial_that_fails_is_recorded_and_not_chosen(runner, search, capsys):
    search(ridge=(-1.0, 1.0))
    tuning = run_one(runner, "toy[tune=2]").record.method.tuning
    assert tuning.chosen == 0 and tuning.rsum[1] is None
    said = capsys.readouterr().err
    assert "toy[tune=2] · seed 0 · trial 2 of 2 [ridge=-1] failed: a ridge of -1.0 diverges" in said
    assert f"trial 1 of 2 [ridge=1]: rsum {tuning.rsum[0]:.1f} on validation" in said


def test_a_row_fails_if_all_its_trials_do(runner, search):
    search(ridge=(-2.0, -3.0))
    assert run_one(runner, "toy[ridge=-1,tune=1]").failure.error == "a ridge of -1.0 diverges"
    search(words=(5, 20))
    assert "a ridge of -1.0 diverges" in run_one(runner, "toy[ridge=-1,tune=3]").failure.error


def test_a_bug_in_a_trial_fails_the_row(runner, search, monkeypatch):
    monkeypatch.setattr(Toy, "embed_texts", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in run_one(runner, "toy[tune=3]").failure.error


def test_a_trial_for_which_there_is_no_memory_fails_the_row(runner, monkeypatch):
    monkeypatch.setattr(Toy, "memory", lambda self, train: 1 << (60 if self.words == 5 else 1), raising=False)
    assert "GiB are free" in run_one(runner, "toy[tune=12]").failure.error


# tables and the command -----------------------------------------------------------------------------------------


def test_all_rows_have_the_same_number_of_trials_and_the_table_names_those_with_fewer(quick_scenes, search):
    search(ridge=(1.0, 10.0))
    made = cran_bench.run(
        ["toy", f"cca[{FIXED}]"],
        quick_scenes.spec,
        tune=3,
        data=quick_scenes.data,
        cache=quick_scenes.cache,
        results=quick_scenes.cache / "results",
        jobs=1,
    )
    assert [record.method.label for record in made.records] == [
        "toy[tune=3]",
        METHODS.configure(f"cca[{FIXED},tune=3]").label,
    ]
    assert [len(record.method.tuning.tried) for record in made.records] == [2, 3]
    (table,) = made.tables
    assert "Each row: best of 3 trials on validation; fewer: toy[tune=3] 2." in table.notes
    alone = replace(table, rows=[replace(table.rows[0], runs=[])])
    assert fit_notes(alone.rows) == []


@pytest.mark.parametrize("number", [0, -1, 1.5, "x", 10_001])
def test_other_numbers_are_refused_in_one_sentence(number, quick_scenes):
    said = f"tune is the number of trials of a row, a whole number from 1 to 10,000, not '{number}'"
    with pytest.raises(BadInput) as refusal:
        number_of_trials(number)
    assert str(refusal.value) == said
    for run in (lambda: METHODS.configure(f"cca[tune={number}]"), lambda: cran_bench.run("cca", tune=number)):
        with pytest.raises(BadInput) as refusal:
            run()
        assert str(refusal.value) == said


def test_a_number_in_brackets_holds():
    assert tuned_method("cca[dim=8]", 5) == "cca[dim=8,tune=5]" == tuned_method("cca[dim=8,tune=5]", 5)
    assert tuned_method("cca[tune=4]", 5) == "cca[tune=4]"


def test_given_scores_are_left_as_they_are_and_a_row_with_nothing_to_choose_needs_no_validation(runner, tmp_path):
    file = tmp_path / "scores.npy"
    np.save(file, np.zeros((2, 3), np.float32))
    given = f"scores:{file}[t2i={file}]"
    assert (tuned_method(given, 5), tuned_method("truth", 5)) == (given, "truth")
    with pytest.raises(BadInput, match="scores has nothing to tune: leave tune=5 out"):
        METHODS.configure(f"scores:{file}[tune=5]")
    record = run_one(runner, "toy[ridge=1,words=20,tune=3]").record
    about = record.method.tuning
    assert (about.rsum, about.tried, about.chosen) == ([None], [{}], 0) and "val" not in Toy.calls
    row = SimpleNamespace(label=record.method.label, records=[record], reference="")
    assert fit_notes([row]) == [f"Each row: best of 3 trials on validation; fewer: {row.label} 1."]


# strangers' methods ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"rigde": (1.0,)}, "the search space of Toy has no field 'rigde'; did you mean 'ridge'?"),
        ({"words": (5, 2.5)}, "toy: field 'words' takes a whole number, not '2.5'"),
        ({"words": 5}, "the search space of Toy is {'words': 5}; give a list of values for each field"),
        ({"words": ()}, "the search space of Toy is {'words': ()}; give a list of values for each field"),
        ({"words": "57"}, "the search space of Toy is {'words': '57'}; give a list of values for each field"),
        (["words"], "the search space of Toy is ['words']; give a list of values for each field"),
    ],
)
def test_a_search_space_that_the_method_does_not_accept_is_told_by_check(space, said, monkeypatch, tmp_path):
    monkeypatch.setitem(METHODS.plugins, "toy", Plugin("toy", Toy, {}, search=space))
    with pytest.raises(BadInput) as refusal:
        require_search(METHODS.configure("toy"))
    assert str(refusal.value).endswith(said)


def test_check_tells_it(search, quick_scenes, monkeypatch):
    search(rigde=(1.0, 2.0))
    tried = checks._tried
    monkeypatch.setattr(checks, "_tried", lambda all_of_them, plugin: tried(all_of_them[:1], plugin))
    monkeypatch.setattr(checks, "DATASET", quick_scenes.spec)
    (first,) = checks.check_method(METHODS.configure("toy"), quick_scenes.cache, CPU)
    assert first.promise.startswith("declares") and "no field 'rigde'; did you mean 'ridge'" in first.broken


def test_the_search_space_of_a_class_of_a_file(held):
    assert METHODS.configure(f"{held}:Held[tune=2]").space == {"ridge": (1.0, 2.0, 3.0)}
    assert labels(f"{held}:Held[tune=5]")[0] == "held.py:Held"
    assert sorted(labels(f"{held}:Held[tune=5]")[1:]) == ["held.py:Held[ridge=2]", "held.py:Held[ridge=3]"]
