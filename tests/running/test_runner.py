"""The runner: nothing is computed twice, a failure stops nothing else, and what was asked for is what is recorded."""

import itertools
import json
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from cran_bench.contract import Run
from cran_bench.errors import BadInput
from cran_bench.ranking.evaluation import metrics_of
from cran_bench.ranking.metrics import mean_metrics
from cran_bench.ranking.rank import rank
from cran_bench.records.archive import read_answers, read_record
from cran_bench.records.schema import Failure
from cran_bench.registry import DATASETS, METHODS, Configured, Plugin
from cran_bench.running import runner as running
from cran_bench.running.experiment import evaluate
from cran_bench.running.fits import FitStore
from cran_bench.running.preparation import find_prepared
from cran_bench.running.runner import Runner, embed, parse_seeds
from cran_bench.similarity import COSINE, DOT, Pairwise
from cran_bench.split import Split

CPU = torch.device("cpu")


@dataclass
class Toy:
    """Ridge regression from words to image features."""

    ridge: float = 1.0

    similarity = COSINE
    calls: ClassVar = []

    def note(self, what):
        Toy.calls.append(f"{what} {type(self).__name__}")

    def fit(self, train: Split, val: Split, run: Run):
        self.note(f"fit {train.unit}")
        self.mean = train.images.mean(dim=0)
        x, y = words(train), (train.images - self.mean)[train.image_of].double()
        self.W = torch.linalg.solve(x.T @ x + self.ridge * torch.eye(x.shape[1]), x.T @ y).float()
        run.chose(ridge=self.ridge, score=round(run.score(self.embed_images(val), self.embed_texts(val)).rsum, 1))

    def embed_images(self, split):
        self.note(f"images of {split.name}")
        return split.images - self.mean

    def embed_texts(self, split):
        return words(split).float() @ self.W

    def state(self):
        return {"mean": self.mean, "W": self.W}

    def load(self, state):
        self.note("load")
        self.mean, self.W = state["mean"], state["W"]


def words(split):
    return torch.from_numpy(split.tfidf(300).toarray()).double()


def configured(cls=Toy, unit="", label="", **options):
    return Configured(Plugin(cls.__name__.lower(), cls, {}), "", label or cls.__name__.lower(), options, unit)


@pytest.fixture(autouse=True)
def calls():
    Toy.calls.clear()
    return Toy.calls


def fits(calls):
    return [call for call in calls if call.startswith("fit ")]


@pytest.fixture
def prepared(quick_scenes):
    return find_prepared(DATASETS.configure(quick_scenes.spec), quick_scenes.data, quick_scenes.cache)


@pytest.fixture
def runner(prepared, quick_scenes, tmp_path):
    return Runner(prepared, tmp_path / "results", quick_scenes.cache, CPU)


def again(runner, **changes):
    about = {"folds": runner.folds, "force": runner.force, **changes}
    return Runner(runner.data, runner.results, runner.cache, CPU, **about)


def one(outcomes):
    (outcome,) = outcomes
    if outcome.failure is not None:
        raise AssertionError(outcome.failure.traceback)
    return outcome


def test_a_record_says_what_was_run(runner, prepared):
    outcome = one(runner.run([configured()], ["captions"], [3]))
    record = outcome.record
    assert not outcome.reused
    assert (record.protocol, record.folds, record.seed, record.ties) == ("captions", 0, 3, 0)
    assert record.data.label == prepared.dataset.label == "scenes[test=20,train=60,val=20]"
    assert (record.data.images, record.data.captions, record.data.quick) == (20, 100, False)
    assert record.data.front_end == "pixels[dim=64] + boxes"
    assert record.data.split_sha == prepared.collection.split_sha()
    assert record.method.parameters == {"ridge": 1.0}
    assert record.method.chose["ridge"] == 1.0 and record.method.chose["score"] > 0
    assert record.method.unit == "captions"
    assert record.metrics["rsum"] > 160 * 1.2
    assert min(record.seconds.model_dump().values()) >= 0 and record.seconds.fit > 0
    assert record.device == "cpu"
    assert record.environment["torch"] and record.environment["cores"] > 0
    assert record.environment["threads"] == 1
    assert read_record(runner.store.path(outcome.address)) == record


def test_a_fit_has_the_threads_that_its_record_names(runner, monkeypatch):
    seen, fit = [], Toy.fit
    monkeypatch.setattr(Toy, "fit", lambda *given: (seen.append(torch.get_num_threads()), fit(*given))[1])
    runner.threads = 3
    assert one(runner.run([configured()], ["captions"], [0])).record.environment["threads"] == seen[0] == 3


def test_metrics_are_those_of_the_embeddings(runner, prepared):
    outcome = one(runner.run([configured()], ["captions"], [0]))
    (fit,) = (runner.cache / "fits").glob("toy-*.safetensors")
    method, test = Toy(), prepared.split("test", "captions", CPU)
    method.load(load_file(fit))
    found = rank(method.embed_images(test), method.embed_texts(test), test.image_of, COSINE)
    recalls = found.metrics().values()
    assert {name: outcome.record.metrics[name] for name in recalls} == recalls


def test_a_second_run_computes_nothing(runner, monkeypatch):
    first = one(runner.run([configured()], ["captions"], [0]))

    def refuse(*_):
        raise AssertionError("computed again")

    for name in ("fit", "embed_images", "embed_texts", "load"):
        monkeypatch.setattr(Toy, name, refuse)
    second = one(again(runner).run([configured()], ["captions"], [0]))
    assert second.reused and second.record == first.record


def test_force_computes_again_to_the_same_figures(runner, calls):
    first = one(runner.run([configured()], ["captions"], [0]))
    second = one(again(runner, force=True).run([configured()], ["captions"], [0]))
    assert not second.reused and len(fits(calls)) == 2
    assert second.record.metrics == first.record.metrics
    assert second.record.ranks_sha == first.record.ranks_sha
    assert len(runner.store.runs()) == 1


def test_one_fit_serves_captions_mean_and_single(runner, calls):
    outcomes = runner.run([configured()], ["captions", "mean", "single"], [0])
    assert fits(calls) == ["fit captions Toy"]
    assert calls.count("images of test Toy") == 1
    records = [outcome.record for outcome in outcomes]
    assert [record.protocol for record in records] == ["captions", "mean", "single"]
    assert len({record.method.fit_fingerprint for record in records}) == 1
    assert len({record.fingerprint for record in records}) == 3
    assert len(outcomes[0].record.metrics) == len(outcomes[2].record.metrics)
    assert len(runner.store.finished(outcomes[0].address, outcomes[0].record).ranks.image_of) == 100
    assert len(runner.store.finished(outcomes[1].address, outcomes[1].record).ranks.image_of) == 20


def test_documents_are_fitted_apart(runner, calls):
    outcomes = runner.run([configured()], ["captions", "documents", "mean"], [0])
    assert sorted(fits(calls)) == ["fit captions Toy", "fit documents Toy"]
    units = {outcome.record.protocol: outcome.record.method.unit for outcome in outcomes}
    assert units == {"captions": "captions", "mean": "captions", "documents": "documents"}


def test_the_unit_can_be_chosen(runner, calls):
    outcomes = runner.run([configured(unit="documents", label="toy[unit=documents]")], ["captions", "documents"], [0])
    assert fits(calls) == ["fit documents Toy"]
    assert [outcome.record.method.unit for outcome in outcomes] == ["documents", "documents"]
    assert len(runner.store.finished(outcomes[0].address, outcomes[0].record).ranks.image_of) == 100
    assert METHODS.configure("cca[unit=documents]").label == "cca:tuned[unit=documents]"
    with pytest.raises(BadInput, match=r"unit is 'document'; did you mean 'documents'\?"):
        METHODS.configure("cca[unit=document]")


def test_what_determines_a_result_determines_its_fingerprint(runner, calls):
    methods = [configured(), configured(ridge=2.0, label="toy[ridge=2]")]
    outcomes = runner.run(methods, ["captions"], [0, 1]) + again(runner, folds=2).run(methods[:1], ["captions"], [0])
    assert len({outcome.record.fingerprint for outcome in outcomes}) == 5
    assert len(fits(calls)) == 4


def test_folds_are_recorded_and_averaged(runner, prepared, calls):
    whole = one(runner.run([configured()], ["captions"], [0]))
    folded = one(again(runner, folds=4).run([configured()], ["captions"], [0]))
    assert len(fits(calls)) == 1
    assert (whole.record.folds, folded.record.folds) == (0, 4)
    assert runner.store.path(folded.address).parent.name == "captions-4folds"
    assert folded.record.metrics["rsum"] > whole.record.metrics["rsum"]
    assert len(runner.store.finished(folded.address, folded.record).ranks.image_of) == 100

    generator = torch.Generator().manual_seed(0)
    images, image_of = torch.randn(8, 4, generator=generator), torch.arange(8).repeat_interleave(3)
    texts = images[image_of] + torch.randn(24, 4, generator=generator)
    ranks = rank(images, texts, image_of, COSINE, folds=2)
    halves = [rank(images[a : a + 4], texts[3 * a : 3 * a + 12], image_of[:12], COSINE) for a in (0, 4)]
    assert metrics_of(ranks, 2) == mean_metrics([half.metrics() for half in halves])
    assert np.array_equal(ranks.t2i.better, np.concatenate([half.t2i.better for half in halves]))
    assert np.array_equal(ranks.image_of, image_of)


def test_more_folds_than_images_is_told(runner):
    (outcome,) = again(runner, folds=21).run([configured()], ["captions"], [0])
    assert outcome.failure.error == "21 folds need at least 21 images; there are 20"


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", [0]), ("0,3", [0, 3]), ("2:5", [2, 3, 4]), ("3,3,1", [3, 1]), (" 1 , 2 ", [1, 2])]
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "-1", "5:5", "0:2:4", "1.5", "0,", ":"])
def test_seeds_that_are_none(text):
    with pytest.raises(BadInput, match=rf"seeds are whole numbers from 0, .* not '{text}'"):
        parse_seeds(text)


# parts ----------------------------------------------------------------------------------------------------------


@dataclass
class Centre:
    """A part: the mean image."""

    scale: float = 1.0

    def fit(self, train: Split, val: Split, run: Run):
        Toy.calls.append("fit Centre")
        self.mean = train.images.mean(dim=0) * self.scale

    def state(self):
        return {"mean": self.mean}

    def load(self, state):
        self.mean = state["mean"]


@dataclass
class First(Toy):
    scale: float = 1.0

    def fit(self, train, val, run):
        self.centre = run.part(Centre(self.scale))
        super().fit(train, val, run)


@dataclass
class Second(First):
    pass


def test_a_part_is_fitted_once_for_all_methods_that_name_it(runner, calls):
    methods = [configured(First), configured(Second)]
    assert all(outcome.record for outcome in runner.run(methods, ["captions"], [0]))
    assert calls.count("fit Centre") == 1
    assert all(o.record for o in runner.run([configured(First, scale=2.0, label="first[scale=2]")], ["captions"], [0]))
    assert calls.count("fit Centre") == 2
    assert all(outcome.record for outcome in runner.run(methods, ["captions"], [1]))
    assert calls.count("fit Centre") == 3


def test_force_fits_a_shared_part_once(runner, calls):
    methods = [configured(First), configured(Second)]
    assert all(outcome.record for outcome in runner.run(methods, ["captions", "documents"], [0]))
    assert calls.count("fit Centre") == 2  # captions and documents
    calls.clear()
    forced = again(runner, force=True).run(methods, ["captions", "documents"], [0])
    assert not any(outcome.reused for outcome in forced)
    assert calls.count("fit Centre") == 2
    rows = [f"fit {unit} {name}" for unit in ("captions", "documents") for name in ("First", "Second")]
    assert sorted(fits(calls)) == sorted(["fit Centre"] * 2 + rows)


def draws():
    return [torch.rand(1).item(), np.random.rand(), random.random()]  # noqa: NPY002 - what a library would draw


@dataclass
class Draws(Centre):
    """A part that draws while it is fitted, and while it is loaded, as building a layer does."""

    def fit(self, train, val, run):
        super().fit(train, val, run)
        self.drawn = draws()

    def load(self, state):
        draws()
        super().load(state)


@dataclass
class Drawing(Toy):
    of: ClassVar = {}

    def fit(self, train, val, run):
        before = draws()
        part = run.part(Draws())
        Drawing.of[type(self).__name__] = [*before, *draws()]
        Drawing.of["part"] = getattr(part, "drawn", Drawing.of.get("part"))
        super().fit(train, val, run)


@dataclass
class DrawingLater(Drawing):
    pass


def test_a_part_leaves_its_owners_draws_the_same_fitted_or_loaded(runner, calls):
    Drawing.of.clear()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert all(o.record for o in runner.run([configured(Drawing), configured(DrawingLater)], ["captions"], [7]))
    assert torch.equal(before, torch.get_rng_state())
    assert calls.count("fit Centre") == 1
    found = Drawing.of
    assert found["Drawing"] == found["DrawingLater"]
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    assert found["Drawing"] == draws() + draws()
    assert found["part"] == found["Drawing"][:3]  # a part's own draws are those of the seed as well


# what is stored -------------------------------------------------------------------------------------------------


@dataclass
class Tied(Toy):
    """Two keys of one memory, a view of it, and choices as numpy and torch give them."""

    def fit(self, train, val, run):
        super().fit(train, val, run)
        run.chose(dim=np.int64(3), rate=np.float32(0.5), flag=np.bool_(True), best=torch.tensor(2), all=(np.int64(1),))

    def state(self):
        return super().state() | {"again": self.W, "rows": self.W[2:5], "turned": self.W.T}

    def load(self, state):
        super().load(state)
        assert torch.equal(state["again"], self.W) and torch.equal(state["rows"], self.W[2:5])
        assert torch.equal(state["turned"], self.W.T)


def test_tied_tensors_and_numpy_choices_are_stored(runner, calls):
    first = one(runner.run([configured(Tied)], ["captions"], [0]))
    chose = {key: first.record.method.chose[key] for key in ("dim", "rate", "flag", "best", "all")}
    assert chose == {"dim": 3, "rate": 0.5, "flag": True, "best": 2, "all": [1]}
    assert [type(value) for value in chose.values()] == [int, float, bool, int, list]
    second = one(again(runner).run([configured(Tied)], ["mean"], [0]))
    assert fits(calls) == ["fit captions Tied"] and calls.count("load Tied") == 1
    assert second.record.method.chose == first.record.method.chose
    assert second.record.seconds.fit == first.record.seconds.fit


def test_a_choice_that_cannot_be_written_is_told(runner):
    @dataclass
    class Chooses(Toy):
        def fit(self, train, val, run):
            run.chose(split=train)

    (outcome,) = runner.run([configured(Chooses)], ["captions"], [0])
    assert outcome.failure.error == "run.chose takes numbers, texts and lists of them, not Split"


def test_ranks_that_are_gone_are_made_again_without_a_fit(runner, calls):
    first = one(runner.run([configured()], ["captions"], [0]))
    runner.store.path(first.address).with_suffix(".npz").unlink()
    second = one(again(runner).run([configured()], ["captions"], [0]))
    assert not second.reused and len(fits(calls)) == 1
    assert second.record.ranks_sha == first.record.ranks_sha


# training curves --------------------------------------------------------------------------------------------------


@dataclass
class Half(Toy):
    """A part that keeps a curve of its own."""

    def fit(self, train, val, run):
        run.log(epoch=1, loss=0.5)
        super().fit(train, val, run)


@dataclass
class Learner(Toy):
    def fit(self, train, val, run):
        run.part(Half())
        for epoch in (1, 2):
            run.log(epoch=epoch, loss=1 / epoch, rsum=100.0 * epoch)
        super().fit(train, val, run)


def test_training_curves_lie_beside_the_record(runner):
    for job in (runner, again(runner, force=True)):  # made, and made again from the stored part
        outcome = one(job.run([configured(Learner)], ["captions"], [0]))
        path = runner.store.path(outcome.address)
        curves = pd.read_csv(path.with_name(path.stem + ".curves.csv"))
        assert list(curves.columns) == ["trained", "epoch", "loss", "rsum"]
        assert curves["trained"].tolist() == ["Half", "Learner", "Learner"]
        assert curves["loss"].tolist() == [0.5, 1.0, 0.5]
    assert len(runner.store.runs()) == 1
    plain = one(runner.run([configured()], ["captions"], [0]))
    assert (
        not runner.store.path(plain.address).with_name(runner.store.path(plain.address).stem + ".curves.csv").exists()
    )


# twins ------------------------------------------------------------------------------------------------------------


@dataclass
class Coarse(Toy):
    """Compares small integers, many of which tie, and keeps what `run.score` says of validation."""

    similarity = DOT
    kept: ClassVar = {}

    def fit(self, train, val, run):
        images, texts = self.embed_images(val), self.embed_texts(val)
        self.kept[val] = found = run.score(images, texts)
        run.log(epoch=1, **found.curve)

    def embed_images(self, split):
        return self.drawn(len(split), 1)

    def embed_texts(self, split):
        return self.drawn(len(split.texts), 2)

    def drawn(self, rows, seed):
        return torch.randint(-2, 3, (rows, 2), generator=torch.Generator().manual_seed(seed)).float()

    def state(self):
        return {}

    def load(self, state):
        pass


@dataclass
class CoarsePairs(Coarse):
    """The same by a function of its own."""

    similarity = Pairwise(lambda images, texts: images @ texts.T)


@pytest.mark.parametrize("cls", [Coarse, CoarsePairs])
@pytest.mark.parametrize("unit", ["captions", "documents"])
@pytest.mark.parametrize("metric", ["rsum", "map"])
def test_validation_has_the_twin_accuracy_of_its_own_split(prepared, tmp_path, cls, unit, metric):
    train, val = (prepared.split(name, unit, CPU) for name in ("train", "val"))
    fit = FitStore(tmp_path, {}, train, val, CPU, metric=metric).fitted(cls(), 0, "coarse")
    found = cls.kept.pop(val)
    images, texts = fit.part.embed_images(val).tolist(), fit.part.embed_texts(val).tolist()
    gaps = [
        sum(x * (a - b) for x, a, b in zip(text, images[own], images[own ^ 1], strict=True))
        for text, own in zip(texts, val.image_of.tolist(), strict=True)
    ]
    wins = sum(1 if gap > 0 else 0.5 if gap == 0 else 0 for gap in gaps)
    assert 0 < gaps.count(0) < len(gaps)
    assert found.twins == pytest.approx(100 * wins / len(gaps))
    assert found.criterion == (found.rsum if metric == "rsum" else 100 * found.map)
    chosen = {"rsum": found.rsum} if metric == "rsum" else {"map": found.map}
    assert fit.curves == {cls.__name__: [{"epoch": 1, **chosen, "twins": found.twins}]}


def test_without_twins_validation_and_curves_have_none(tiny, tmp_path):
    fit = FitStore(tmp_path, {}, tiny.train, tiny.val, CPU).fitted(Coarse(), 0, "coarse")
    assert Coarse.kept.pop(tiny.val).twins is None
    assert fit.curves["Coarse"][0].keys() == {"epoch", "rsum"}


# answers ----------------------------------------------------------------------------------------------------------


@dataclass
class Scorer(Toy):
    similarity = Pairwise(lambda images, texts: images @ texts.T)


def test_answers_agree_with_the_ranks(runner):
    for outcome in runner.run([configured()], ["captions", "single", "mean"], [0]):
        path = runner.store.path(outcome.address)
        answers, ranks = (
            read_answers(path, outcome.record),
            runner.store.finished(outcome.address, outcome.record).ranks,
        )
        if outcome.address.protocol == "mean":
            assert answers is None
            continue
        owners = ranks.image_of
        is_right = owners[answers.i2t] == np.arange(len(answers.i2t))[:, None], answers.t2i == owners[:, None]
        for right, counts in zip(is_right, (ranks.i2t, ranks.t2i), strict=True):
            first = np.where(right.any(axis=1), right.argmax(axis=1) + 1, 6)
            untied = counts.tied == 0
            np.testing.assert_array_equal(first[untied], np.minimum(counts.better[untied] + 1, 6))


def test_pair_scorers_and_folds_record_no_answers(runner):
    for job, method in ((runner, Scorer), (again(runner, folds=2), Toy)):
        outcome = one(job.run([configured(method)], ["captions"], [0]))
        assert read_answers(runner.store.path(outcome.address), outcome.record) is None


def test_a_part_of_a_part_costs_its_seconds_once(runner):
    @dataclass
    class Outer(Toy):
        def fit(self, train, val, run):
            run.part(SlowCentre())
            run.part(Inner())
            super().fit(train, val, run)

    @dataclass
    class Inner(Toy):
        def fit(self, train, val, run):
            run.part(SlowCentre())
            super().fit(train, val, run)

    record = one(runner.run([configured(Outer)], ["captions"], [0])).record
    assert 0.5 <= record.seconds.fit < 0.95


# checkpoints ----------------------------------------------------------------------------------------------------


@dataclass
class Steps(Toy):
    """Counts to five; stops once at `stop`, as a killed process would."""

    stop = None
    started_at: ClassVar = []

    def fit(self, train, val, run):
        state = run.resume()
        step = int(state["step"]) if state else 0
        Steps.started_at.append(step)
        while step < 5:
            step += 1
            run.checkpoint({"step": torch.tensor(step)})
            if Steps.stop == step:
                Steps.stop = None
                raise KeyboardInterrupt
        super().fit(train, val, run)


def test_a_stopped_fit_goes_on_from_its_checkpoint(runner, quick_scenes, capsys):
    Steps.stop, Steps.started_at = 3, []
    with pytest.raises(KeyboardInterrupt):
        runner.run([configured(Steps)], ["captions"], [0])
    assert runner.store.runs() == [] and runner.store.failures() == []
    assert len(list(quick_scenes.cache.rglob("*.checkpoint"))) == 1
    stopped = one(again(runner).run([configured(Steps)], ["captions"], [0]))
    assert Steps.started_at == [0, 3]
    assert "steps: resuming from the last checkpoint" in capsys.readouterr().err
    assert list(quick_scenes.cache.rglob("*.checkpoint")) == []
    straight = one(again(runner, force=True).run([configured(Steps)], ["captions"], [0]))
    assert Steps.started_at == [0, 3, 0]
    assert straight.record.metrics == stopped.record.metrics


@dataclass
class SlowCentre(Centre):
    def fit(self, train, val, run):
        super().fit(train, val, run)
        time.sleep(0.5)


@dataclass
class Chooser(Toy):
    """Chooses, works for a while and stores a checkpoint; then stops the first time."""

    stop: ClassVar = True

    def fit(self, train, val, run):
        run.part(SlowCentre())
        state = run.resume()
        if state is None:
            run.chose(depth=4)
            time.sleep(0.3)
            run.checkpoint({"half": torch.ones(1)})
            if Chooser.stop:
                raise KeyboardInterrupt
        super().fit(train, val, run)


def test_going_on_keeps_the_seconds_and_the_choices_from_before(runner, calls):
    Chooser.stop = True
    with pytest.raises(KeyboardInterrupt):
        runner.run([configured(Chooser)], ["captions"], [0])
    record = one(again(runner).run([configured(Chooser)], ["captions"], [0])).record
    assert calls.count("fit Centre") == 1
    assert record.method.chose["depth"] == 4 and record.method.chose["ridge"] == 1.0
    Chooser.stop = False
    straight = one(again(runner, force=True).run([configured(Chooser)], ["captions"], [0])).record
    assert straight.method.chose == record.method.chose
    # The part's half second counts once, though both halves of the fit asked for the part.
    assert record.seconds.fit >= 0.8
    assert record.seconds.fit == pytest.approx(straight.seconds.fit, abs=0.4)


def test_a_damaged_checkpoint_is_not_used(runner, quick_scenes):
    Steps.stop, Steps.started_at = 3, []
    with pytest.raises(KeyboardInterrupt):
        runner.run([configured(Steps)], ["captions"], [0])
    next(quick_scenes.cache.rglob("*.checkpoint")).write_bytes(b"\x00" * 20)
    one(again(runner).run([configured(Steps)], ["captions"], [0]))
    assert Steps.started_at == [0, 0]


def test_a_damaged_fit_is_made_again(runner, quick_scenes, calls, capsys):
    first = one(runner.run([configured()], ["captions"], [0]))
    (fit,) = quick_scenes.cache.rglob("toy-*.safetensors")
    fit.write_bytes(fit.read_bytes()[:100])
    second = one(again(runner).run([configured()], ["mean"], [0]))
    assert len(fits(calls)) == 2
    assert f"the stored fit {fit.name} is damaged" in capsys.readouterr().err
    assert second.record.method.fit_fingerprint == first.record.method.fit_fingerprint


# failures -------------------------------------------------------------------------------------------------------


@dataclass
class TrainScores(Toy):
    def fit(self, train, val, run):
        super().fit(train, val, run)
        run.score(self.embed_images(train), self.embed_texts(train))


@dataclass
class TooFew(Toy):
    def embed_texts(self, split):
        return super().embed_texts(split)[: 1 if split.name == "test" else None]


@dataclass
class Raises(Toy):
    def fit(self, train, val, run):
        self.note("fit")
        raise RuntimeError("over\nseveral   lines")


@dataclass
class Exits(Toy):
    def fit(self, train, val, run):
        self.note("fit")
        raise SystemExit(3)


def test_scores_are_bound_to_validation(runner):
    (outcome,) = runner.run([configured(TrainScores)], ["captions"], [0])
    assert outcome.failure.error == (
        "run.score takes embeddings of the validation split, 20 images and 100 texts; it was given 60 and 300"
    )


def test_embeddings_of_other_rows_are_refused(runner):
    (outcome,) = runner.run([configured(TooFew)], ["captions"], [0])
    assert outcome.failure.error == "embed_texts returned 1 rows for 100 texts; return one for each"


@dataclass
class Wrong(Toy):
    """Returns something else than tensors from one of its functions."""

    where: str = ""
    what: str = ""

    def wrong(self, where, value):
        if where != self.where:
            return value
        kinds = {"numpy": np.asarray, "nothing": lambda _: None, "list": list}
        return {**kinds, "nan": lambda x: x * np.nan, "double": torch.Tensor.double}[self.what](value)

    def fit(self, train, val, run):
        self.mean, self.W = train.images.mean(dim=0), torch.ones(300, train.images.shape[1])
        if self.where == "score":
            run.score(self.wrong("score", self.embed_images(val)), self.embed_texts(val))

    def embed_images(self, split):
        return self.wrong("images", split.images - self.mean)

    def embed_texts(self, split):
        return self.wrong("texts", torch.ones(len(split.texts), len(self.mean)))

    def state(self):
        return self.wrong("state", super().state())


@pytest.mark.parametrize(
    ("where", "what", "said"),
    [
        ("images", "numpy", "embed_images returned a numpy array; return a torch tensor (N, D)"),
        ("texts", "nothing", "embed_texts returned nothing; return a torch tensor (T, D)"),
        ("texts", "double", "embed_images returned float32, embed_texts float64; return one dtype, float32"),
        ("texts", "nan", "embed_texts: 100 of 100 vectors contain NaN or infinity, the first is 0"),
        ("state", "list", "state returned a list; return a dict of tensors by name"),
        ("score", "numpy", "run.score was given a numpy array; give torch tensors (N, D) and (T, D)"),
    ],
)
def test_what_is_no_tensor_is_told_by_the_function_that_returned_it(runner, where, what, said):
    (outcome,) = runner.run([configured(Wrong, where=where, what=what)], ["captions"], [0])
    assert outcome.failure.error == said


@dataclass
class LogsTensors(Toy):
    def fit(self, train, val, run):
        super().fit(train, val, run)
        run.log(loss=torch.ones(1, requires_grad=True).sum())


@pytest.mark.filterwarnings("error")
def test_a_loss_with_gradients_is_logged(runner, calls):
    one(runner.run([configured(LogsTensors)], ["captions"], [0]))


def test_a_method_that_exits_fails_and_does_not_end_the_run(runner, calls):
    failed, again = runner.run([configured(Exits)], ["captions", "mean"], [0])
    assert failed.failure.error.startswith("SystemExit: 3 (") and failed.failure.error == again.failure.error
    assert fits(calls) == ["fit Exits"]


def test_one_failure_does_not_stop_the_others_and_is_tried_again(runner, calls, capsys):
    methods = [configured(Raises), configured()]
    outcomes = runner.run(methods, ["captions", "mean"], [0])
    assert [outcome.record is None for outcome in outcomes] == [True, True, False, False]
    assert fits(calls) == ["fit Raises", "fit captions Toy"]
    (path, _) = sorted(runner.store.root.rglob("*.error.json"))
    stored = Failure.model_validate(json.loads(path.read_text()))
    line = 1 + Path(__file__).read_text().splitlines().index('        raise RuntimeError("over\\nseveral   lines")')
    assert stored.error == f"RuntimeError: over several lines ({__file__}, line {line})"
    assert "Traceback" in stored.traceback and "raise RuntimeError" in stored.traceback
    assert f"[1/4] raises · captions · seed 0: FAILED, {stored.error}\n" in capsys.readouterr().err
    outcomes = again(runner).run(methods, ["captions"], [0])
    assert [outcome.reused for outcome in outcomes] == [False, True]
    assert fits(calls)[-1] == "fit Raises"


def test_twin_accuracy_is_of_scenes_only(runner, flickr, tmp_path):
    assert "twin_accuracy" in one(runner.run([configured()], ["captions"], [0])).record.metrics
    photographs = find_prepared(DATASETS.configure("flickr8k"), flickr, tmp_path / "c", "pixels[dim=16]", "grid")
    outcome = one(Runner(photographs, tmp_path / "r", tmp_path / "c", CPU).run([configured()], ["captions"], [0]))
    assert "twin_accuracy" not in outcome.record.metrics
    assert outcome.record.data.images == 6


# what is prepared -----------------------------------------------------------------------------------------------


def test_prepared_in_two_ways_one_must_be_named(quick_scenes, capsys):
    scenes = DATASETS.configure(quick_scenes.spec)
    find_prepared(scenes, quick_scenes.data, quick_scenes.cache, "pixels[dim=16]", "none")
    with pytest.raises(BadInput, match=r"has 2 sets .*; choose one: --backbone .*; --backbone ") as error:
        find_prepared(scenes, quick_scenes.data, quick_scenes.cache)
    assert "--backbone 'pixels[dim=16]' --regions 'none'" in str(error.value)
    found = find_prepared(scenes, quick_scenes.data, quick_scenes.cache, "pixels[dim=64]")
    assert found.features.globals.shape == (100, 64)


def test_features_of_files_of_one_name_are_told_apart_by_their_paths(tmp_path):
    scenes = DATASETS.configure("scenes[train=4,val=2,test=2]")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "f.npy", np.random.default_rng(ord(folder)).normal(size=(8, 2)))
        find_prepared(scenes, Path(), tmp_path, f"npy:{tmp_path / folder / 'f.npy'}", "none")
    with pytest.raises(BadInput, match=r"choose one: --backbone 'npy:f.npy' --regions 'none' \(with the path of the"):
        find_prepared(scenes, Path(), tmp_path)


def test_what_is_not_prepared_is_prepared(tmp_path):
    scenes = DATASETS.configure("scenes[train=4,val=2,test=2]")
    made = find_prepared(scenes, Path(), tmp_path, "pixels[dim=16]")
    assert made.features.globals.shape == (8, 16) and made.features.regions.shape == (8, 5, 16)
    assert find_prepared(scenes, Path(), tmp_path).identity == made.identity


@dataclass
class Zero:
    """Grey values against the number of letters, without any training."""

    similarity = COSINE

    def fit(self, train: Split, val: Split, run: Run):
        pass

    def embed_images(self, split):
        return split.images[:, :4]

    def embed_texts(self, split):
        return torch.tensor([[len(text), 1.0, 2.0, 3.0] for text in split.texts])

    def state(self):
        return {"nothing": torch.zeros(1)}

    def load(self, state):
        pass


@dataclass
class Counts(Zero):
    def embed_texts(self, split):
        return words(split).float()[:, :4]


@dataclass
class Loops(Zero):
    """Training that would do nothing on an empty split."""

    def fit(self, train: Split, val: Split, run: Run):
        for _ in range(len(train)):
            pass


@dataclass
class Validates(Zero):
    def fit(self, train: Split, val: Split, run: Run):
        run.score(torch.zeros(0, 4), torch.zeros(0, 4))


def test_a_test_split_alone_is_enough_where_nothing_is_fitted(runner, prepared):
    full = one(runner.run([configured(Zero)], ["captions"], [0]))
    collection = replace(prepared.collection, splits={"test": prepared.collection.splits["test"]})
    runner = replace(runner, data=replace(prepared, collection=collection, _text={}))
    same, *failed = runner.run([configured(cls) for cls in (Zero, Toy, Loops, Validates, Counts)], ["captions"], [0])
    assert same.record.metrics == full.record.metrics and not same.reused
    said = [outcome.failure.error for outcome in failed]
    for sentence in said[:3]:
        assert "has no train and val images, which a fit needs: add some, or score embeddings made els" in sentence
    assert "has no train images, whose texts give the words: add some" in said[3]


def test_a_stored_fit_is_evaluated_on_a_test_split_alone(runner, prepared):
    full = one(runner.run([configured()], ["captions"], [0]))
    collection = replace(prepared.collection, splits={"test": prepared.collection.splits["test"]})
    other = replace(prepared, collection=collection, _text={"captions": prepared.text("captions")})
    test = other.split("test", "captions", CPU)
    images, texts = embed(runner.fitted(configured(), 0, "captions"), test)
    scores = evaluate(images, texts, test.image_of, twins=test.twins, labels=test.labels)
    assert scores.metrics == full.record.metrics


def test_rows_of_unequal_cost_give_no_time_left(capsys, monkeypatch):
    monkeypatch.setattr(running, "_line", lambda *_: "cca: rsum 1")
    monkeypatch.setattr("time.perf_counter", itertools.count(step=100).__next__)
    count = running.Count(2, "rsum")
    for _ in range(2):
        count.say(SimpleNamespace(reused=False))
    assert capsys.readouterr().err == "[1/2] cca: rsum 1\n[2/2] cca: rsum 1\n"
