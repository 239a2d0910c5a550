"""The training loop of all gradient-based methods: epochs, validation, early stopping, checkpoints, resuming.

A method provides a module, the batches of an epoch, the loss of a batch and a validation function.  The batches of an
epoch depend only on the seed and the epoch, so a resumed fit reaches exactly the numbers of an uninterrupted one.  If
several processes train together, each runs this loop; the first validates and stores for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from cran_bench.contract import Run
from cran_bench.errors import BadInput
from cran_bench.machine.processes import current
from cran_bench.toolbox.states import below, with_prefix

B = TypeVar("B")

CHECK_EVERY = 50  # steps between checks of the loss, as each waits for the device


@dataclass
class Training(Generic[B]):
    """How a module is trained.

    Attributes:
        module: the module to train, on its device.
        optimizer: optimizer of the module's parameters.
        steps: maximum number of batches in an epoch, on which progress and `rate` are based.
        batches: callable (epoch, generator) returning the batches; epochs count from 1, and the generator is seeded
            for each.
        loss: maps a batch to a scalar with gradients.
        validate: returns metrics of the module on the validation split, for the training curve.
        criterion: the metric that selects the best epoch; larger is better.  Without `rsum` it is `map`.
        epochs: maximum number of epochs.
        stop_at: stop once `criterion` is at least this.
        patience: stop after this many epochs without a better `criterion`; 0 never stops.
        patience_from: first epoch that counts towards `patience`, such as the one that unfreezes an encoder.
        seed: seed of the batches; None for that of the run.
        is_trial: whether it only leads to a choice: it reads and writes no checkpoint, and reports no best epoch.
        rate: maps (fractional) elapsed epochs to a learning-rate multiplier.
        momentum: maps (fractional) elapsed epochs to the optimizer's momentum; None keeps it.
        clip: maximum gradient norm of a step; 0 for no limit.

    Raises:
        BadInput: `epochs` is less than 1.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    batches: Callable[[int, torch.Generator], Iterator[B]]
    loss: Callable[[B], Tensor]
    validate: Callable[[], Mapping[str, float]]
    epochs: int
    criterion: str = "rsum"
    stop_at: float = math.inf
    patience: int = 0
    rate: Callable[[float], float] = lambda _: 1.0
    momentum: Callable[[float], float] | None = None
    clip: float = 0.0
    patience_from: int = 1
    seed: int | None = None
    is_trial: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise BadInput(f"epochs is {self.epochs}; give at least 1")

    def run(self, run: Run) -> float:
        """Train the module, load the weights of its best epoch on validation, and return the criterion there.

        Raises:
            BadInput: the loss is not finite; the checkpoint of the last good epoch is kept.
        """
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._best: dict[str, Tensor] = {}
        self._best_value, self._best_epoch = -math.inf, 0
        self._device = run.device
        first = self._restore(None if self.is_trial else run.resume()) + 1
        if not self._is_over(first - 1):
            total, done = self.epochs * self.steps, (first - 1) * self.steps
            for _ in run.progress(self._train(run, first), "steps", total, done):
                pass
        self.module.load_state_dict(self._best)
        return self._best_value

    def _train(self, run: Run, first: int) -> Iterator[None]:
        """Yield once per step."""
        processes, seed = current(), run.seed if self.seed is None else self.seed
        for epoch in range(first, self.epochs + 1):
            self.module.train()
            if processes.count > 1:  # so that each process draws its own dropout, also after resuming
                torch.manual_seed((1_000_003 * seed + epoch) * processes.count + processes.number)
            losses: list[Tensor] = []
            for batch in self.batches(epoch, torch.Generator().manual_seed(1_000_003 * seed + epoch)):
                self._update_schedules(epoch - 1 + len(losses) / self.steps)
                self.optimizer.zero_grad(set_to_none=True)
                loss = self.loss(batch)
                loss.backward()  # type: ignore[no-untyped-call]
                if self.clip:
                    nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
                self.optimizer.step()
                losses.append(loss.detach())
                if len(losses) % CHECK_EVERY == 0:
                    _require_finite(float(losses[-1]), epoch)
                yield
            mean = float(torch.stack(losses).mean())
            _require_finite(mean, epoch)
            self._validate(run, epoch, mean)
            if not self.is_trial:
                run.checkpoint(self._state(epoch), at=f"after epoch {epoch} of at most {self.epochs}")
            if self._is_over(epoch):
                return

    def _update_schedules(self, passed: float) -> None:
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.rate(passed)
            if self.momentum:
                group["momentum"] = self.momentum(passed)

    def _validate(self, run: Run, epoch: int, loss: float) -> None:
        self.module.eval()
        with torch.inference_mode():
            metrics = current().lead(self.validate)
        run.log(epoch=epoch, loss=loss, **metrics)
        criterion = self.criterion if self.criterion in metrics else "map"
        _require_finite(metrics[criterion], epoch, criterion)
        if metrics[criterion] > self._best_value:
            self._best_value, self._best_epoch = metrics[criterion], epoch
            if not self.is_trial:
                run.chose(epoch=epoch, **{criterion: round(self._best_value, 4 if criterion == "map" else 2)})
            self._best = {key: value.detach().clone() for key, value in self.module.state_dict().items()}

    def _is_over(self, epoch: int) -> bool:
        since = epoch - max(self._best_epoch, self.patience_from - 1)
        is_idle = bool(self.patience and since >= self.patience)
        return epoch >= self.epochs or is_idle or self._best_value >= self.stop_at

    def _state(self, epoch: int) -> dict[str, Tensor]:
        state = with_prefix("module", self.module.state_dict()) | with_prefix("best", self._best)
        for index, values in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
        state["progress"] = torch.tensor([epoch, self._best_epoch, self._best_value], dtype=torch.float64)
        state["random"] = torch.get_rng_state()
        if self._device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def _restore(self, state: Mapping[str, Tensor] | None) -> int:
        """Load a checkpoint and return its epoch; 0 if there is none."""
        if state is None:
            return 0
        self.module.load_state_dict(below("module", state))
        self._best = below("best", state)
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in below("optimizer", state).items():
            index, _, name = key.partition(".")
            # Adam keeps its step count on the CPU by default.
            moments.setdefault(int(index), {})[name] = value.cpu() if name == "step" else value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        epoch, self._best_epoch, self._best_value = (
            kind(value) for kind, value in zip((int, int, float), state["progress"].tolist(), strict=True)
        )
        torch.set_rng_state(state["random"].cpu())
        if "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self._device)
        return int(epoch)


def step_decay(every: int) -> Callable[[float], float]:
    """A learning rate that is halved every `every` epochs; 0 for a constant rate."""
    return lambda passed: 0.5 ** (passed // every) if every else 1.0


def linear_decay(epochs: int) -> Callable[[float], float]:
    """A learning rate that falls linearly to 0 over `epochs`."""
    return lambda passed: max(0.0, 1.0 - passed / epochs)


def passes(rows: int, batch_size: int, steps: int) -> tuple[int, int]:
    """The number of batches in an epoch, at most `steps`, and of epochs that come closest to `steps`, at least 1."""
    count = min(math.ceil(rows / batch_size), steps)
    return count, max(1, round(steps / count))


def shuffled(rows: int, batch_size: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the first `count` batches of row numbers in random order, of about equal size."""
    yield from torch.tensor_split(torch.randperm(rows, generator=generator), math.ceil(rows / batch_size))[:count]


def inverse_time_decay(steps: int, by: int = 10_000) -> Callable[[float], float]:
    """A learning rate divided by 1 + step / by, for epochs of `steps` steps."""
    return lambda passed: 1 / (1 + passed * steps / by)


def momentum_warmup(steps: int, over: int = 10_000) -> Callable[[float], float]:
    """Momentum that grows from 0.5 to 0.9 as 0.9 - 0.4 exp(-step / over), for epochs of `steps` steps."""
    return lambda passed: 0.9 - 0.4 * math.exp(-passed * steps / over)


def weights_and_biases(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: matrices with weight decay and vectors without."""
    matrices = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in module.parameters() if parameter.ndim == 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors}]


def _require_finite(value: float, epoch: int, criterion: str = "") -> None:
    if not math.isfinite(value):
        raise BadInput(
            f"{f'{criterion} on validation' if criterion else 'the loss'} became {value} in epoch {epoch}: lower the "
            "learning rate (lr) or clip gradients (clip); "
            + ("the last checkpoint before it is kept" if epoch > 1 else "there is no checkpoint yet")
        )
