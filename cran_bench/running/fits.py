"""Fitted parts, stored by the fingerprint of everything that determines them, so that no fit is ever done twice."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, NonNegativeFloat, ValidationError
from torch import Tensor

from cran_bench.contract import Composite, Part
from cran_bench.dataset import Collection
from cran_bench.embeddings import Embedding, on_device
from cran_bench.errors import BadInput, first_wrong
from cran_bench.frontend.text.words import TextFrontEnd
from cran_bench.machine.fingerprint import code, code_sha
from cran_bench.machine.processes import ALONE, OutOfStep, Processes, current
from cran_bench.machine.progress import say, track
from cran_bench.machine.storage import locked, sha256_json, write_atomically
from cran_bench.protocols import Unit
from cran_bench.ranking.metrics import Metrics
from cran_bench.ranking.rank import rank
from cran_bench.running.memory import require_room
from cran_bench.similarity import Similarity
from cran_bench.specs import flat_values
from cran_bench.split import Split

T = TypeVar("T")
P = TypeVar("P", bound=Part)


class _About(BaseModel):
    """What is stored beside tensors; `run` names the one that was told to fit again, if any."""

    fingerprint: str
    run: str = ""
    chose: dict[str, Any]
    curves: dict[str, list[dict[str, float]]]


class _Stored(_About):
    costs: dict[str, NonNegativeFloat]


class _Checkpoint(_About):
    at: str
    seconds: NonNegativeFloat
    parts: dict[str, NonNegativeFloat]


@dataclass(frozen=True)
class Fit(Generic[P]):
    """A fitted part and how it came about.

    Attributes:
        costs: seconds of the fit itself and of each part it used, by fingerprint, also where they were loaded.
        chose: what validation chose.
        curves: points of training curves by the label of what was trained, the parts' included.
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
        """What the fit cost with its parts, each counted once."""
        return sum(self.costs.values())


@dataclass(frozen=True)
class SharedFit:
    """A fit that several processes make together."""

    unit: Unit
    part: Part
    seed: int
    label: str


@dataclass(frozen=True)
class FitStore:
    """Fits below a folder, one safetensors file each, made on `train` and `val`.

    Attributes:
        root: the folder.
        data: JSON values that identify the data and the front end.
        forced_by: name of a run that fits again even what is stored, each thing once; '' for none.
        processes: those that make a fit together whose part says `by_all_processes = True`.
    """

    root: Path
    data: Mapping[str, Any]
    train: Split
    val: Split
    device: torch.device
    forced_by: str = ""
    processes: Processes = ALONE

    def fingerprint(self, part: Part, seed: int) -> str:
        """sha256 of the data, the part's class and fields, its code and its parts', the seed and the kind of device."""
        return sha256_json(
            {
                "data": self.data,
                "unit": self.train.unit,
                "class": type(part).__qualname__,
                "fields": fields_json(part),
                "code": code_of(part),
                "scoring": code_sha(LentRun.score),  # by which validation chooses
                "seed": seed,
                "device": self.device.type,
            }
        )

    def fitted(self, part: P, seed: int, label: str, is_nested: bool = False) -> Fit[P]:
        """`part` fitted, or loaded where this very fit is stored.

        Args:
            part: not fitted yet.
            seed: of the fit.
            label: for progress.
            is_nested: whether it is a part of a fit that has begun, and whose estimate of memory includes it.

        Raises:
            BadInput: the machine has no room for the fit.
        """
        fingerprint = self.fingerprint(part, seed)
        path = self._path(part, fingerprint)
        with locked(path, f"fitting {label}"):
            if path.exists():
                stored = self._load(part, seed, path, fingerprint)
                if stored is not None:
                    return stored
            if not is_nested:
                require_room(part, self.train, self.val, self.device)
            return self._fit(part, seed, label, path, fingerprint)

    def stored(self, part: P, seed: int) -> Fit[P]:
        """`part` as another process stored it just now.

        Raises:
            OutOfStep: it is not there.
        """
        fingerprint = self.fingerprint(part, seed)
        path = self._path(part, fingerprint)
        stored = self._load(part, seed, path, fingerprint) if path.exists() else None
        if stored is None:
            raise OutOfStep(
                f"a process does not find {path.name}, which the first one stored in its cache: with torchrun all "
                "machines use one cache folder, name one that they share with --cache"
            )
        return stored

    def help(self, job: SharedFit) -> None:
        """Do a process's share of a fit that the first one makes and stores."""
        fingerprint = self.fingerprint(job.part, job.seed)
        run = self._lend(job.part, job.seed, job.label, self._path(job.part, fingerprint), fingerprint)
        with own_randomness(job.seed):
            job.part.fit(self.train, self.val, run)

    def _path(self, part: Part, fingerprint: str) -> Path:
        return self.root / f"{type(part).__name__.lower()}-{fingerprint[:16]}.safetensors"

    def _lend(self, part: Part, seed: int, label: str, path: Path, fingerprint: str) -> LentRun:
        return LentRun(self, part, seed, label, fingerprint, path.with_suffix(".checkpoint"))

    def _load(self, part: P, seed: int, path: Path, fingerprint: str) -> Fit[P] | None:
        try:
            state, about = load_state(path)
            stored = _Stored.model_validate(about)
            if stored.fingerprint != fingerprint:
                say(f"the stored fit {path.name} is of another configuration; fitting again")
                return None
        except Exception as error:  # safetensors raises many kinds for a damaged file
            say(f"the stored fit {path.name} is damaged ({_in_short(error)}); fitting again")
            return None
        if self.forced_by not in ("", stored.run):
            return None
        try:
            with own_randomness(seed):  # layers that are built to be filled draw their first weights
                part.load({key: value.to(self.device) for key, value in state.items()})
        except Exception as error:
            raise BadInput(
                f"{type(part).__name__}.load does not take what state gave ({type(error).__name__}: {error}): mend it, "
                f"or delete {path}"
            ) from error
        return Fit(part, fingerprint, stored.costs, stored.chose, stored.curves, reused=True)

    def _fit(self, part: P, seed: int, label: str, path: Path, fingerprint: str) -> Fit[P]:
        run = self._lend(part, seed, label, path, fingerprint)
        processes = self.processes if getattr(part, "by_all_processes", False) else ALONE
        with processes.together(SharedFit(self.train.unit, part, seed, label)), own_randomness(seed):
            part.fit(self.train, self.val, run)
        costs = run.costs()
        about = {"fingerprint": fingerprint, "costs": costs, "chose": run.choices, "curves": run.curves}
        save_state(path, part.state(), {**about, "run": self.forced_by})
        run.checkpoint_path.unlink(missing_ok=True)
        return Fit(part, fingerprint, costs, run.choices, run.curves, reused=False)


@dataclass
class LentRun:
    """The runner's side of `contract.Run`."""

    store: FitStore
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
        """Seconds of this fit, what was spent before a resume included, and of its parts, wherever they were made."""
        return {**self._parts, self.fingerprint: self._own_seconds()}

    def _own_seconds(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - self._started + self._elsewhere

    @property
    def device(self) -> torch.device:
        """See contract.Run."""
        return self.store.device

    def score(self, images: Embedding, texts: Embedding, similarity: Similarity | None = None) -> Metrics:
        """See contract.Run."""
        declared: Similarity | None = similarity or getattr(self.owner, "similarity", None)
        if declared is None:
            raise BadInput(f"{self.label}: run.score needs similarity=, as the part declares none")
        val = self.store.val
        if (len(images), len(texts)) != (len(val), len(val.texts)):
            raise BadInput(
                f"{self.label}: run.score takes embeddings of the validation split, {len(val)} images and "
                f"{len(val.texts)} texts; it was given {len(images)} and {len(texts)}"
            )
        images, texts = on_device(images, self.device), on_device(texts, self.device)
        with torch.inference_mode():
            return rank(images, texts, val.image_of, declared).metrics()

    def progress(self, items: Iterable[T], label: str, total: int, done: int = 0) -> Iterator[T]:
        """See contract.Run."""
        return track(items, f"{self.label}: {label}", total, done, status=self._status)

    def _status(self) -> str:
        curve = self.curves.get(self._name)
        return ", ".join(f"{key} {value:.4g}" for key, value in curve[-1].items()) if curve else ""

    @property
    def _name(self) -> str:
        return part_name(self.owner)

    def log(self, **values: float) -> None:
        """See contract.Run."""
        self.curves.setdefault(self._name, []).append({key: float(value) for key, value in values.items()})

    def chose(self, **values: Any) -> None:
        """See contract.Run."""
        self.choices.update(json.loads(json.dumps(values, default=_plain, allow_nan=False)))

    def checkpoint(self, state: Mapping[str, Tensor], at: str = "") -> None:
        """See contract.Run."""
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
        """See contract.Run."""
        found = current().lead(self._read_checkpoint)
        if found is None:
            return None
        state, last = found
        self._elsewhere += last.seconds
        self._parts = last.parts | self._parts  # a part that is asked for again is counted once
        self.choices.update(last.chose)
        self.curves.update(last.curves)
        say(f"{self.label}: going on from the last checkpoint" + (f", {last.at}" if last.at else ""))
        return {key: value.to(self.device) for key, value in state.items()}

    def _read_checkpoint(self) -> tuple[dict[str, Tensor], _Checkpoint] | None:
        if not self.checkpoint_path.exists():
            return None
        try:
            state, about = load_state(self.checkpoint_path)
            last = _Checkpoint.model_validate(about)
        except Exception as error:  # safetensors raises many kinds for a damaged file
            say(f"{self.label}: the last checkpoint is damaged ({_in_short(error)}); fitting from the start")
            return None
        if last.fingerprint != self.fingerprint:
            say(f"{self.label}: the last checkpoint is of another configuration; fitting from the start")
            return None
        return None if self.store.forced_by not in ("", last.run) else (state, last)

    def part(self, spec: P) -> P:
        """See contract.Run."""
        if _declares(self.owner) and not _classes(spec) <= _classes(self.owner):
            raise BadInput(
                f"{self.label} asks for the part {type(spec).__name__}, which {type(self.owner).__name__}.parts does "
                "not give: add it there, as a fit is known by the parts it declares"
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


def part_name(part: Part) -> str:
    """What a part is called in progress and curves: its own `part_name`, or its class's name."""
    return getattr(part, "part_name", type(part).__name__)


def fields_json(part: object) -> dict[str, Any]:
    """The fields of a dataclass as JSON values, those of nested dataclasses by their own names."""
    values: dict[str, Any] = json.loads(json.dumps(flat_values(part), default=dataclasses.asdict))
    return values


def save_state(path: Path, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors, and JSON values about them, as one safetensors file, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        tensor = value.detach().cpu().contiguous()
        shared = any(tensor.untyped_storage().data_ptr() == t.untyped_storage().data_ptr() for t in tensors.values())
        tensors[key] = tensor.clone() if shared else tensor  # the format refuses tensors that share memory
    text = json.dumps(about)
    data = safetensors.torch.save(tensors, {"about": text, "sha256": _digest(tensors, text)})
    write_atomically(path, lambda file: file.write(data))


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of `save_state`.

    Raises:
        ValueError: a bit has changed since.  safetensors and JSON raise many other kinds for a damaged file.
    """
    with safetensors.safe_open(path, framework="pt") as file:
        kept: dict[str, str] = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    if kept["sha256"] != _digest(state, kept["about"]):
        raise ValueError("its checksum does not match")
    return state, json.loads(kept["about"])


def _digest(state: Mapping[str, Tensor], about: str) -> str:
    digest = hashlib.sha256(about.encode())
    for key in sorted(state):
        tensor = state[key]
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _in_short(error: Exception) -> str:
    return first_wrong(error, "all of it") if isinstance(error, ValidationError) else str(error)


@contextlib.contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed the global generators a fit may use, and give back their state: a part never changes its owner's draws."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - libraries draw from it
    kept_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        random.setstate(kept[2])
        if kept_cuda:
            torch.cuda.set_rng_state_all(kept_cuda)


LENT = Split, TextFrontEnd, Collection.texts_of, Collection.captions_of, Metrics, own_randomness
"""What a part is lent, beside scores."""
ASKED = "fit", "state", "load", "similarity", "embed_images", "embed_texts"


def parts_of(part: Part) -> Sequence[Part]:
    """The parts that a part declares, see `contract.Composite`; none where it declares nothing."""
    return cast("Composite", part).parts() if _declares(part) else ()


def code_of(part: Part, asked: Iterable[str] = ASKED) -> list[Any]:
    """The code that can change what a part gives: sha256 of its own, and likewise of its parts as they are used here.

    Args:
        part: fitted or not.
        asked: names of the attributes that others ask for.
    """
    own = code(type(part), *LENT, asked=asked)
    return [own.sha, *(code_of(inner, own.names) for inner in parts_of(part))]


def _declares(part: Part) -> bool:
    return callable(getattr(type(part), "parts", None))


def _classes(part: Part) -> set[type]:
    return {type(part)}.union(*map(_classes, parts_of(part)))


def _plain(value: object) -> object:
    """A numpy or torch scalar as a Python number, for JSON."""
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1):
        return value.item()
    raise BadInput(f"run.chose takes numbers, texts and lists of them, not {type(value).__name__}")
