"""Fitted parts, stored by the fingerprint of everything that determines them, so that no fit is ever done twice."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cran_bench.contract import Part
from cran_bench.errors import BadInput
from cran_bench.progress import say, track
from cran_bench.ranking import Metrics, rank
from cran_bench.similarity import Embedding, Similarity, on_device
from cran_bench.source import code_sha
from cran_bench.split import Split
from cran_bench.storage import locked, sha256_json, write_atomically

T = TypeVar("T")
P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class Fit(Generic[P]):
    """A fitted part and how it came about.

    Attributes:
        seconds: of the fit itself, also where it was loaded.
        chose: what validation chose.
        reused: whether it was loaded.
    """

    part: P
    fingerprint: str
    seconds: float
    chose: Mapping[str, Any]
    reused: bool


@dataclass(frozen=True)
class FitStore:
    """Fits below a folder, one safetensors file each, made on `train` and `val`.

    Attributes:
        root: the folder.
        data: JSON values that identify the data and the front end.
        force: fit again even what is stored.
    """

    root: Path
    data: Mapping[str, Any]
    train: Split
    val: Split
    device: torch.device
    force: bool = False

    def fingerprint(self, part: Part, seed: int) -> str:
        """sha256 of the data, the part's class and fields, the seed and the code."""
        cls = type(part)
        return sha256_json(
            {
                "data": self.data,
                "unit": self.train.unit,
                "class": cls.__qualname__,
                "fields": fields_json(part),
                "code": code_sha(cls.__module__),
                "seed": seed,
            }
        )

    def fitted(self, part: P, seed: int, label: str) -> Fit[P]:
        """`part` fitted, or loaded where this very fit is stored."""
        fingerprint = self.fingerprint(part, seed)
        path = self.root / f"{_slug(type(part).__name__)}-{fingerprint[:16]}.safetensors"
        with locked(path, f"fitting {label}"):
            if path.exists() and not self.force:
                stored = self._load(part, path, fingerprint)
                if stored is not None:
                    return stored
            return self._fit(part, seed, label, path, fingerprint)

    def _load(self, part: P, path: Path, fingerprint: str) -> Fit[P] | None:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["fit"])
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        except Exception as error:  # safetensors raises many kinds for a damaged file
            say(f"the stored fit {path.name} is damaged ({error}); fitting again")
            return None
        if about["fingerprint"] != fingerprint:
            say(f"the stored fit {path.name} is of another configuration; fitting again")
            return None
        part.load({key: value.to(self.device) for key, value in state.items()})
        return Fit(part, fingerprint, about["seconds"], about["chose"], reused=True)

    def _fit(self, part: P, seed: int, label: str, path: Path, fingerprint: str) -> Fit[P]:
        run = LentRun(self, part, seed, label, path.with_suffix(".checkpoint"))
        seed_everything(seed)
        start = time.perf_counter()
        part.fit(self.train, self.val, run)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - start
        about = {"fingerprint": fingerprint, "seconds": seconds, "chose": run.choices}
        save_state(path, part.state(), {"fit": json.dumps(about)})
        run.checkpoint_path.unlink(missing_ok=True)
        return Fit(part, fingerprint, seconds, run.choices, reused=False)


@dataclass
class LentRun:
    """The runner's side of `contract.Run`."""

    store: FitStore
    owner: Part
    seed: int
    label: str
    checkpoint_path: Path
    choices: dict[str, Any] = field(default_factory=dict)

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
        return rank(images, texts, val.image_of, declared).metrics()

    def progress(self, items: Iterable[T], label: str, total: int) -> Iterator[T]:
        """See contract.Run."""
        return track(items, f"{self.label}: {label}", total)

    def chose(self, **values: Any) -> None:
        """See contract.Run."""
        self.choices.update(values)

    def checkpoint(self, state: Mapping[str, Tensor]) -> None:
        """See contract.Run."""
        save_state(self.checkpoint_path, state, {})

    def resume(self) -> dict[str, Tensor] | None:
        """See contract.Run."""
        if self.store.force or not self.checkpoint_path.exists():
            return None
        try:
            state = safetensors.torch.load_file(self.checkpoint_path, device=str(self.device))
        except safetensors.SafetensorError as error:
            say(f"{self.label}: the last checkpoint is damaged ({error}); fitting from the start")
            return None
        say(f"{self.label}: going on from the last checkpoint")
        return state

    def part(self, spec: P) -> P:
        """See contract.Run."""
        return self.store.fitted(spec, self.seed, f"{self.label} / {type(spec).__name__}").part


def fields_json(part: object) -> dict[str, Any]:
    """The fields of a dataclass as JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(part)))  # type: ignore[call-overload]
    return values


def save_state(path: Path, state: Mapping[str, Tensor], about: dict[str, str]) -> None:
    """Write tensors as one safetensors file, whole or not at all."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write_atomically(path, lambda file: file.write(safetensors.torch.save(tensors, about)))


def seed_everything(seed: int) -> None:
    """Seed the global generators that a method may use."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries such as scikit-learn draw from it by default


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())
