"""What the runner provides to one fit: validation, progress, curves, checkpoints and fitted parts."""

from __future__ import annotations

import contextlib
import json
import math
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np
import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from cran_bench.contract import Composite, Part
from cran_bench.embeddings import Embedding, no_tensor, on_device
from cran_bench.errors import BadInput, first_wrong
from cran_bench.machine.arithmetic import in_full_precision
from cran_bench.machine.processes import current
from cran_bench.machine.progress import say, track
from cran_bench.protocols import Metric
from cran_bench.ranking.metrics import Validation
from cran_bench.ranking.pairs import backend_of
from cran_bench.ranking.problem import Backend, Clock, make_problem
from cran_bench.ranking.rank import count, twin_accuracy
from cran_bench.running.fits.serialisation import About, load_state, save_state
from cran_bench.similarity import Pairwise, Similarity, depends_on_query
from cran_bench.split import Split

T = TypeVar("T")
P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class Fit(Generic[P]):
    """A fitted part and how it was made.

    Attributes:
        costs: seconds spent on the fit itself and on each part it used, by fingerprint, also if they were loaded.
        chose: what was chosen on validation.
        curves: points of the training curves by the name of what was trained, those of its parts included.
        reused: whether it was loaded.
    """

    part: P
    fingerprint: str
    costs: Mapping[str, float]
    chose: Mapping[str, Any]
    curves: Mapping[str, Sequence[Mapping[str, float]]]
    reused: bool

    @property
    def seconds(self) -> float:
        """Cost of the fit and of its parts, each counted once."""
        return sum(self.costs.values())


class PartStore(Protocol):
    """What a run needs of `FitStore`, which is described there."""

    @property
    def val(self) -> Split: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def forced_by(self) -> str: ...
    @property
    def metric(self) -> Metric: ...
    def fitted(self, part: P, seed: int, label: str, is_nested: bool = False) -> Fit[P]: ...
    def stored(self, part: P, seed: int) -> Fit[P]: ...


class _Checkpoint(About):
    at: str
    seconds: NonNegativeFloat
    parts: dict[str, NonNegativeFloat]


@dataclass
class LentRun:
    """The runner's implementation of `contract.Run`."""

    store: PartStore
    owner: Part
    seed: int
    label: str
    fingerprint: str
    checkpoint_path: Path
    choices: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    _started: float = field(default_factory=time.perf_counter)
    _elsewhere: float = 0.0
    _parts: dict[str, float] = field(default_factory=dict)
    _written: float = -math.inf
    _writing: float = 0.0

    def costs(self) -> dict[str, float]:
        """Return the seconds spent on this fit, also before it was resumed, and on its parts, by fingerprint."""
        return {**self._parts, self.fingerprint: self._own_seconds()}

    def _own_seconds(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - self._started + self._elsewhere

    @property
    def device(self) -> torch.device:
        return self.store.device

    def score(self, images: Embedding, texts: Embedding, similarity: Similarity | None = None) -> Validation:
        declared: Similarity | None = similarity or getattr(self.owner, "similarity", None)
        if declared is None:
            raise BadInput(f"{self.label}: run.score needs similarity=, as the part declares none")
        return _figures_of_val(self, images, texts, declared)

    def progress(self, items: Iterable[T], label: str, total: int, done: int = 0) -> Iterator[T]:
        return track(items, f"{self.label}: {label}", total, done, status=self._status)

    def _status(self) -> str:
        curve = self.curves.get(self._name)
        return ", ".join(f"{key} {value:.4g}" for key, value in curve[-1].items()) if curve else ""

    @property
    def _name(self) -> str:
        return part_name(self.owner)

    def log(self, **values: float) -> None:
        self.curves.setdefault(self._name, []).append({key: _number(value) for key, value in values.items()})

    def chose(self, **values: Any) -> None:
        self.choices.update(json.loads(json.dumps(values, default=_plain, allow_nan=False)))

    def checkpoint(self, state: Mapping[str, Tensor], at: str = "") -> None:
        current().lead(lambda: self._write_checkpoint(state, at))

    def _write_checkpoint(self, state: Mapping[str, Tensor], at: str) -> None:
        start = time.perf_counter()
        if start - self._written < 20 * (self._writing - 0.1):
            return
        about: dict[str, Any] = {"fingerprint": self.fingerprint, "run": self.store.forced_by, "at": at}
        about |= {"seconds": self._own_seconds(), "parts": self._parts}
        about |= {"chose": self.choices, "curves": self.curves}
        save_state(self.checkpoint_path, state, about)
        self._written = time.perf_counter()
        self._writing = self._written - start

    def resume(self) -> dict[str, Tensor] | None:
        checkpoint = current().lead(self._read_checkpoint)
        if checkpoint is None:
            return None
        state, last = checkpoint
        self._elsewhere += last.seconds
        self._parts = last.parts | self._parts  # a part that is requested again is counted once
        self.choices.update(last.chose)
        self.curves.update(last.curves)
        say(f"{self.label}: resuming from the last checkpoint" + (f", {last.at}" if last.at else ""))
        return {key: value.to(self.device) for key, value in state.items()}

    def _read_checkpoint(self) -> tuple[dict[str, Tensor], _Checkpoint] | None:
        if not self.checkpoint_path.exists():
            return None
        try:
            state, about = load_state(self.checkpoint_path)
            last = _Checkpoint.model_validate(about)
        except Exception as error:  # safetensors raises many kinds for a damaged file
            why = first_wrong(error, "all of it")
            say(f"{self.label}: the last checkpoint is damaged ({why}); fitting from the start")
            return None
        if last.fingerprint != self.fingerprint:
            say(f"{self.label}: the last checkpoint is of another configuration; fitting from the start")
            return None
        return None if self.store.forced_by not in ("", last.run) else (state, last)

    def part(self, spec: P) -> P:
        if _declares(self.owner) and not _classes(spec) <= _classes(self.owner):
            raise BadInput(
                f"{self.label} requests the part {type(spec).__name__}, which {type(self.owner).__name__}.parts does "
                "not return: add it there, as the fingerprint of a fit covers the parts that are declared"
            )
        start = time.perf_counter()
        fit = current().in_turn(
            lambda: self.store.fitted(spec, self.seed, f"{self.label} / {part_name(spec)}", is_nested=True),
            lambda: self.store.stored(spec, self.seed),
        )
        self._elsewhere -= time.perf_counter() - start
        self._parts |= fit.costs
        self.choices |= {f"{part_name(spec)}.{key}": value for key, value in fit.chose.items()}
        self.curves |= {name: [dict(point) for point in curve] for name, curve in fit.curves.items()}
        return fit.part


class PairRun(LentRun):
    """The run of a part that declares `Pairwise`, which ranks the validation split as the test split is ranked."""

    def score(self, images: Embedding, texts: Embedding, similarity: Similarity | None = None) -> Validation:
        declared: Similarity | None = similarity or getattr(self.owner, "similarity", None)
        if declared is None or not depends_on_query(declared):
            return LentRun.score(self, images, texts, declared)  # by name, which fingerprints follow
        return _figures_of_val(self, images, texts, declared, backend_of(declared))


def _of_val(run: LentRun, images: Embedding, texts: Embedding) -> tuple[Embedding, Embedding]:
    """Require embeddings of the validation split; return them on the device."""
    if wrong := no_tensor(images) or no_tensor(texts):
        raise BadInput(f"{run.label}: run.score was given {wrong}; give torch tensors (N, D) and (T, D)")
    val = run.store.val
    if (len(images), len(texts)) != (len(val), len(val.texts)):
        raise BadInput(
            f"{run.label}: run.score takes embeddings of the validation split, {len(val)} images and "
            f"{len(val.texts)} texts; it was given {len(images)} and {len(texts)}"
        )
    return on_device(images, run.device), on_device(texts, run.device)


def _figures_of_val(
    run: LentRun, images: Embedding, texts: Embedding, similarity: Similarity, backend: str | Backend = "auto"
) -> Validation:
    """The figures of the validation split, with mean average precision if the run chooses by it."""
    images, texts = _of_val(run, images, texts)
    val = run.store.val
    labels, twins = val.labels if run.store.metric == "map" else None, val.twins
    with torch.inference_mode(), in_full_precision(run.device):
        problem = make_problem(images, texts, val.image_of, similarity)
        ranks = count(problem, Clock(run.device), backend, labels=labels)
        accuracy = None if twins is None else twin_accuracy(problem, twins)
    precision = ranks.precisions.figures()["map"] if ranks.precisions else None
    return Validation(**vars(ranks.metrics()), map=precision, twins=accuracy)


def run_of(part: Part) -> type[LentRun]:
    """The kind of run that a part is lent."""
    return PairRun if isinstance(getattr(part, "similarity", None), Pairwise) else LentRun


def part_name(part: Part) -> str:
    """The name of a part in progress and curves: its own `part_name`, or the name of its class."""
    return getattr(part, "part_name", type(part).__name__)


def parts_of(part: Part) -> Sequence[Part]:
    """The parts that a part declares, see `contract.Composite`; none if it declares nothing."""
    return cast("Composite", part).parts() if _declares(part) else ()


def _declares(part: Part) -> bool:
    return callable(getattr(type(part), "parts", None))


def _classes(part: Part) -> set[type]:
    return {type(part)}.union(*map(_classes, parts_of(part)))


@contextlib.contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators that a fit may use and restore them afterwards: a part never changes its owner's."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - libraries draw from it
    kept_cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        random.setstate(kept[2])
        if kept_cuda is not None:
            torch.cuda.set_rng_state(kept_cuda, device)


def _number(value: float | Tensor) -> float:
    return float(value.detach() if isinstance(value, Tensor) else value)


def _plain(value: object) -> object:
    """Return a numpy or torch scalar as a Python number, for JSON."""
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1):
        return value.item()
    raise BadInput(f"run.chose takes numbers, texts and lists of them, not {type(value).__name__}")
