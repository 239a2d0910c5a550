"""The training loop, on a module of one weight: schedule, early stopping, clipping, looks at validation."""

import pytest
import torch

from cran_bench.errors import BadInput
from cran_bench.toolbox.training import (
    Training,
    inverse_time_decay,
    linear_decay,
    momentum_warmup,
    passes,
    shuffled,
    step_decay,
    weights_and_biases,
)


class Notes:
    """A run that keeps what is logged; nothing to resume."""

    seed, device = 0, torch.device("cpu")

    def __init__(self, state=None, choices=()):
        self.points, self.choices, self.states, self.start = [], dict(choices), [], state

    def progress(self, items, label, total, done=0):
        self.shown = (label, total, done)
        return iter(items)

    def log(self, **values):
        self.points.append(values)

    def chose(self, **values):
        self.choices.update(values)

    def checkpoint(self, state, at=""):
        self.states.append(({key: value.clone() for key, value in state.items()}, at, dict(self.choices)))

    def resume(self):
        return self.start


def training(rsums, epochs=6, gradient=1.0, lr=1.0, **fields):
    """One weight that falls by lr x gradient a step, two steps an epoch; `rsums` are found in turn."""
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    found = iter(rsums)
    made = Training(
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=lr),
        steps=2,
        batches=lambda epoch, generator: iter([gradient, gradient]),
        loss=lambda batch: batch * module.weight.sum(),
        validate=lambda: {"rsum": next(found)},
        epochs=epochs,
        **fields,
    )
    return made, module


def test_the_weights_that_were_best_on_validation_stay():
    made, module = training([1, 5, 3, 4, 2, 0])
    run = Notes()
    made.run(run)
    assert float(module.weight.detach()) == -4  # after the second epoch
    assert run.choices == {"epoch": 2, "rsum": 5.0}
    assert [point["rsum"] for point in run.points] == [1, 5, 3, 4, 2, 0]
    assert run.shown == ("steps", 12, 0)


def test_a_trial_stores_nothing_and_tells_what_it_reached():
    made, module = training([1, 5, 3, 4, 2, 0], is_trial=True)
    run = Notes(state={})
    assert made.run(run) == 5 and float(module.weight.detach()) == -4
    assert len(run.points) == 6 and not run.states and not run.choices


def test_it_stops_when_validation_no_longer_improves():
    made, _ = training([1, 5, 3, 4, 9, 9], patience=2)
    run = Notes()
    made.run(run)
    assert len(run.points) == 4 and run.choices["epoch"] == 2


@pytest.mark.parametrize("epochs", [0, -1])
def test_it_needs_an_epoch(epochs):
    with pytest.raises(BadInput, match=f"epochs is {epochs}; give at least 1"):
        training([], epochs=epochs)


def test_the_rate_is_halved():
    made, module = training(range(6), rate=step_decay(2))
    made.run(Notes())
    assert float(module.weight.detach()) == pytest.approx(-2 * (1 + 1 + 0.5 + 0.5 + 0.25 + 0.25))


def test_the_rate_falls_evenly_within_epochs_too():
    made, module = training(range(6), rate=linear_decay(6))
    made.run(Notes())
    assert float(module.weight.detach()) == pytest.approx(-sum(1 - step / 12 for step in range(12)))


def test_another_criterion_can_choose_the_epoch():
    made, module = training([])
    losses = iter([-5.0, -1.0, -2.0, -3.0, -4.0, -6.0])
    made.validate, made.criterion = lambda: {"likelihood": next(losses)}, "likelihood"
    run = Notes()
    made.run(run)
    assert run.choices == {"epoch": 2, "likelihood": -1.0} and float(module.weight.detach()) == -4


def test_it_stops_when_it_is_good_enough():
    made, module = training([1, 5, 3, 7, 9, 8], stop_at=7)
    run = Notes()
    made.run(run)
    assert len(run.points) == 4 and run.choices["epoch"] == 4 and float(module.weight.detach()) == -8


def test_gradients_are_clipped():
    made, module = training(range(6), gradient=50.0, clip=0.5)
    made.run(Notes())
    assert float(module.weight.detach()) == pytest.approx(-0.5 * 12, rel=1e-4)


def test_patience_waits_for_what_is_still_to_come():
    made, _ = training([9, 1, 1, 1, 1, 1], patience=2, patience_from=3)
    run = Notes()
    made.run(run)
    assert len(run.points) == 4 and run.choices["epoch"] == 1


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_it_goes_on_from_any_epoch(stop):
    straight, module = training([1, 5, 3, 4, 2, 0], rate=step_decay(2))
    run = Notes()
    straight.run(run)
    state, at, choices = run.states[stop - 1]
    assert at == f"after epoch {stop} of at most 6"
    resumed, other = training([1, 5, 3, 4, 2, 0][stop:], rate=step_decay(2))
    again = Notes(state, choices)
    resumed.run(again)
    assert torch.equal(other.weight, module.weight)
    assert again.choices == run.choices
    assert [point["epoch"] for point in again.points] == list(range(stop + 1, 7))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_an_error(bad):
    made, _ = training(range(6))
    calls = []

    def loss(batch):
        calls.append(batch)
        return made.module.weight.sum() * (bad if len(calls) > 5 else 1.0)

    made.loss = loss
    run = Notes()
    with pytest.raises(BadInput, match=r"in epoch 3: lower the learning rate .* the last checkpoint before it is kept"):
        made.run(run)
    assert run.states[-1][1] == "after epoch 2 of at most 6"


def test_every_epoch_has_random_numbers_of_its_own():
    drawn = []

    def batches(epoch, generator):
        drawn.append(float(torch.rand(1, generator=generator)))
        return iter([1.0])

    for _ in range(2):
        made, _ = training(range(6))
        made.batches = batches
        made.run(Notes())
    assert drawn[:6] == drawn[6:] and len(set(drawn)) == 6


def test_passes_come_nearest_to_the_steps_asked_for():
    assert passes(1000, 100, 45) == (10, 4)
    assert passes(1000, 100, 3) == (3, 1)
    assert passes(5, 100, 7) == (1, 7)


def test_batches_are_shuffled_rows_each_once():
    generator = torch.Generator().manual_seed(0)
    batches = list(shuffled(25, 10, 3, generator))
    assert sorted(len(rows) for rows in batches) == [8, 8, 9]
    assert sorted(torch.cat(batches).tolist()) == list(range(25))
    assert len(list(shuffled(25, 10, 2, generator))) == 2


def test_the_schedules_of_contrastive_divergence():
    assert [inverse_time_decay(100)(passed) for passed in (0, 100, 300)] == [1.0, 0.5, 0.25]
    assert momentum_warmup(100)(0) == 0.5 and momentum_warmup(100, 100)(50) == pytest.approx(0.9, abs=1e-6)


def test_vectors_do_not_decay():
    matrices, vectors = weights_and_biases(torch.nn.Linear(3, 2), 0.1)
    assert matrices["weight_decay"] == 0.1 and [p.ndim for p in matrices["params"]] == [2]
    assert "weight_decay" not in vectors and [p.ndim for p in vectors["params"]] == [1]
