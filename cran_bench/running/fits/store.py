"""The store of fitted parts: a fit is looked up by its fingerprint, and made if it is not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import NonNegativeFloat

from cran_bench.contract import Part
from cran_bench.dataset import Collection
from cran_bench.embeddings import Embedding
from cran_bench.errors import BadInput, file_of, first_wrong, python_error
from cran_bench.frontend.text.words import TextFrontEnd
from cran_bench.machine.arithmetic import reproducible
from cran_bench.machine.fingerprint import code
from cran_bench.machine.journal import Journal
from cran_bench.machine.processes import ALONE, OutOfStep, Processes
from cran_bench.machine.progress import say
from cran_bench.machine.storage import locked, sha256_json
from cran_bench.protocols import Metric, Unit
from cran_bench.ranking.metrics import Validation
from cran_bench.running.fits.run import Fit, LentRun, own_randomness, parts_of, run_of
from cran_bench.running.fits.serialisation import About, fields_json, load_state, require_state, save_state
from cran_bench.running.memory import require_room
from cran_bench.split import MissingFeature, Split

P = TypeVar("P", bound=Part)


class _Stored(About):
    costs: dict[str, NonNegativeFloat]


@dataclass(frozen=True)
class SharedFit:
    """A fit that several processes make together."""

    unit: Unit
    metric: Metric
    refit: bool
    part: Part
    seed: int
    label: str


LENT = Split, TextFrontEnd, Collection.texts_of, Collection.captions_of, Validation, own_randomness
"""What a part is given, besides `run.score`."""
ASKED = "fit", "state", "load", "similarity", "embed_images", "embed_texts", "twins", "labels"
"""What the runner asks of a part, and `run.score` of a split."""


def code_of(part: Part, asked: Iterable[str] = ASKED) -> list[Any]:
    """The code that can change what a part returns: the sha256 of its own, then in the same form that of its parts.

    Args:
        part: fitted or not.
        asked: names of the attributes that its users mention.
    """
    own = code(type(part), *LENT, asked=asked)
    return [own.sha, *(code_of(inner, own.names) for inner in parts_of(part))]


def like(part: Part) -> str:
    """The class of a part, a space, and the sha256 of its fields: the same for fits that cost the same, up to size."""
    return like_fields(type(part), fields_json(part))


def like_fields(cls: type, fields: Mapping[str, Any]) -> str:
    """As `like`, of a class and fields, as `fields_json` gives them."""
    return f"{cls.__name__} {sha256_json(fields)[:12]}"


def fit_fingerprint(
    data: Mapping[str, Any], unit: Unit, part: Part, seed: int, device: torch.device, metric: Metric = "rsum"
) -> str:
    """The sha256 of data, class, fields and code of a part and its parts, seed, device type, and metric of choices."""
    return sha256_json(
        {
            "data": data,
            "unit": unit,
            "class": type(part).__qualname__,
            "fields": fields_json(part),
            "code": code_of(part),
            "scoring": code(run_of(part).score).sha,  # which validation relies on
            "seed": seed,
            "device": device.type,
            **({"metric": metric} if metric != "rsum" else {}),
        }
    )


@dataclass(frozen=True)
class FitStore:
    """Fits on `train` and `val` in a folder, one safetensors file each.

    Attributes:
        root: the folder.
        data: JSON values that identify the data and the front end.
        forced_by: name of a run that makes every fit again once, even if it is stored; '' for none.
        processes: those that together make the fits of parts with `by_all_processes = True`.
        metric: the figure by which fits choose on validation.
        refit: whether `train` has the images of `val` too.
        journal: where the seconds of fits are noted, but not those of the last fit of a row, which are the row's.
    """

    root: Path
    data: Mapping[str, Any]
    train: Split
    val: Split
    device: torch.device
    forced_by: str = ""
    processes: Processes = ALONE
    metric: Metric = "rsum"
    refit: bool = False
    journal: Journal | None = None

    @property
    def size(self) -> int:
        """Number of training texts; 0 where there are none, as what fits nothing needs none."""
        try:
            return len(self.train.texts)
        except MissingFeature:
            return 0

    def fingerprint(self, part: Part, seed: int) -> str:
        """See `fit_fingerprint`."""
        return fit_fingerprint(self.data, self.train.unit, part, seed, self.device, self.metric)

    def has(self, part: Part, seed: int) -> bool:
        """Whether this very fit is stored, and need not be made again."""
        return not self.forced_by and self._path(part, self.fingerprint(part, seed)).exists()

    def fitted(self, part: P, seed: int, label: str, is_nested: bool = False) -> Fit[P]:
        """Fit `part`, or load it if this very fit is stored.

        Args:
            part: an unfitted part.
            seed: seed of the fit.
            label: name of the fit in progress lines.
            is_nested: whether it belongs to a fit that has begun, whose estimate of memory includes it.

        Raises:
            BadInput: the machine does not have enough memory for the fit.
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
        """Load a fit that another process has just stored.

        Raises:
            OutOfStep: it is not in the cache.
        """
        fingerprint = self.fingerprint(part, seed)
        path = self._path(part, fingerprint)
        stored = self._load(part, seed, path, fingerprint) if path.exists() else None
        if stored is None:
            raise OutOfStep(
                f"{path.name}, which the first process stored in its cache, is not in the cache of this one: with "
                "torchrun all machines need one cache folder, give one that they share with --cache"
            )
        return stored

    def score(self, fit: Fit[P], seed: int, label: str, images: Embedding, texts: Embedding) -> Validation:
        """Recall on the validation split, as `run.score` gives it to the fit itself."""
        run = self._lend(fit.part, seed, label, self._path(fit.part, fit.fingerprint), fit.fingerprint)
        return run.score(images, texts)

    def help(self, job: SharedFit) -> None:
        """Do this process's share of a fit that the first process makes and stores."""
        fingerprint = self.fingerprint(job.part, job.seed)
        run = self._lend(job.part, job.seed, job.label, self._path(job.part, fingerprint), fingerprint)
        with reproducible(self.device), own_randomness(job.seed, self.device):
            job.part.fit(self.train, self.val, run)

    def _path(self, part: Part, fingerprint: str) -> Path:
        return self.root / f"{type(part).__name__.lower()}-{fingerprint[:16]}.safetensors"

    def _lend(self, part: Part, seed: int, label: str, path: Path, fingerprint: str) -> LentRun:
        return run_of(part)(self, part, seed, label, fingerprint, path.with_suffix(".checkpoint"))

    def _load(self, part: P, seed: int, path: Path, fingerprint: str) -> Fit[P] | None:
        try:
            state, about = load_state(path)
            stored = _Stored.model_validate(about)
            if stored.fingerprint != fingerprint:
                say(f"the stored fit {path.name} is of another configuration; fitting again")
                return None
        except Exception as error:  # safetensors raises many kinds for a damaged file
            say(f"the stored fit {path.name} is damaged ({first_wrong(error, 'all of it')}); fitting again")
            return None
        if self.forced_by not in ("", stored.run):
            return None
        try:
            with own_randomness(seed, self.device):  # layers draw initial weights before they are overwritten
                part.load({key: value.to(self.device) for key, value in state.items()})
        except Exception as error:
            raise BadInput(
                f"{type(part).__name__}.load does not accept what state returned "
                f"({python_error(error, file_of(type(part)))}): correct it, or delete {path}"
            ) from error
        return Fit(part, fingerprint, stored.costs, stored.chose, stored.curves, reused=True)

    def _fit(self, part: P, seed: int, label: str, path: Path, fingerprint: str) -> Fit[P]:
        run = self._lend(part, seed, label, path, fingerprint)
        processes = self.processes if getattr(part, "by_all_processes", False) else ALONE
        shared = processes.together(SharedFit(self.train.unit, self.metric, self.refit, part, seed, label))
        with shared, reproducible(self.device), own_randomness(seed, self.device):
            part.fit(self.train, self.val, run)
        costs = run.costs()
        if self.journal and not self.refit:
            self.journal.note(fingerprint, like(part), self.size, costs[fingerprint])
        about = {"fingerprint": fingerprint, "costs": costs, "chose": run.choices, "curves": run.curves}
        state = part.state()
        require_state(state)
        save_state(path, state, {**about, "run": self.forced_by})
        run.checkpoint_path.unlink(missing_ok=True)
        return Fit(part, fingerprint, costs, run.choices, run.curves, reused=False)
