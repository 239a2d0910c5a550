"""The contract suite of ``cran-bench check``: what every method must hold to, ours or a stranger's, tried on scenes."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cran_bench.contract import Method
from cran_bench.embeddings import Embedding, as_levels, rows_of
from cran_bench.errors import BadInput
from cran_bench.protocols import Unit
from cran_bench.ranking.metrics import KS
from cran_bench.ranking.rank import rank
from cran_bench.records.statistics import sample
from cran_bench.registry import DATASETS, Configured
from cran_bench.running.fits import Fit, FitStore, code_of
from cran_bench.running.preparation import Prepared, find_prepared
from cran_bench.running.runner import embed
from cran_bench.similarity import Similarity
from cran_bench.split import MissingFeature

DATASET = "scenes[train=200,val=60,test=100]"
SEED = 0


class Broken(Exception):  # noqa: N818 - it is the verdict on a plugin
    """A promise of the contract that the plugin does not keep."""


@dataclass(frozen=True)
class Verdict:
    """One check: what was promised and, where it is broken, how."""

    promise: str
    broken: str | None


def check_method(method: Configured[Method], cache: Path, device: torch.device) -> list[Verdict]:
    """Try every promise of the contract on a small set of scenes; one broken promise does not hide the others.

    Raises:
        BadInput: the scenes cannot be prepared.
    """
    prepared = find_prepared(DATASETS.configure(DATASET), Path(), cache)
    with tempfile.TemporaryDirectory() as folder:
        trial = _Trial(method, prepared, Path(folder), device)
        checks: list[tuple[str, Callable[[], None]]] = [
            ("declares a similarity and is a dataclass of hyper-parameters", trial.declares),
            ("fits, and embeds every image and text to one finite float32 row", trial.shapes),
            ("gives the same embeddings for the same seed", trial.deterministic),
            ("embeds each item by itself, whatever else is in the split", trial.independent),
            ("learns nothing from the test split", trial.blind),
            ("gives the same embeddings after saving and loading", trial.storable),
            ("takes documents as well as captions", trial.documents),
            ("learns more than chance on scenes", trial.learns),
        ]
        return [Verdict(promise, _broken(check)) for promise, check in checks]


def _broken(check: Callable[[], None]) -> str | None:
    try:
        check()
    except (Broken, BadInput) as error:
        return str(error)
    except Exception as error:  # whatever a stranger's code raises is a verdict, not a crash
        return f"{type(error).__name__}: {error}"
    return None


class _Trial:
    def __init__(self, method: Configured[Method], prepared: Prepared, folder: Path, device: torch.device) -> None:
        self.method, self.prepared, self.folder, self.device = method, prepared, folder, device
        self._fit: Fit[Method] | Exception | None = None

    def fitted(self, name: str, prepared: Prepared | None = None, unit: Unit = "captions") -> Fit[Method]:
        data = prepared or self.prepared
        splits = data.split("train", unit, self.device), data.split("val", unit, self.device)
        store = FitStore(self.folder / name, data.identity, *splits, self.device)
        return store.fitted(self.method.build(), SEED, self.method.label)

    @property
    def fit(self) -> Fit[Method]:
        if self._fit is None:
            try:
                self._fit = self.fitted("first")
            except MissingFeature as error:
                self._fit = BadInput(f"{self.method.label} cannot run on scenes: {error}")
            except Exception as error:
                self._fit = error
        if isinstance(self._fit, Exception):
            raise self._fit
        return self._fit

    def embeddings(self, fit: Fit[Method]) -> tuple[Embedding, Embedding]:
        return embed(fit.part, self.prepared.split("test", "captions", self.device), self.method.label)

    def declares(self) -> None:
        part = self.method.build()
        if not isinstance(getattr(part, "similarity", None), Similarity):
            raise Broken(
                f"similarity must be COSINE, DOT or MultiLevel(...), not {getattr(part, 'similarity', None)!r}"
            )
        if not dataclasses.is_dataclass(part):
            raise Broken("put @dataclass above the class")
        code_of(part)

    def shapes(self) -> None:
        images, texts = self.embeddings(self.fit)
        for side, embedding in (("images", images), ("texts", texts)):
            for tensor in as_levels(embedding).tensors():
                if tensor.dtype != torch.float32:
                    raise Broken(f"embed_{side} gives {tensor.dtype}; give float32")
                if not bool(torch.isfinite(tensor).all()):
                    raise Broken(f"embed_{side} gives NaN or infinity")
        self.fit.part.similarity.check(images, texts)

    def deterministic(self) -> None:
        _same(self.embeddings(self.fit), self.embeddings(self.fitted("again")), 0.0, "two fits with one seed differ")

    def independent(self) -> None:
        test = self.prepared.split("test", "captions", self.device)
        order = np.random.default_rng(0).permutation(len(test))[: len(test) // 2]
        images, texts = self.embeddings(self.fit)
        part_images, part_texts = embed(self.fit.part, test.take(order), self.method.label)
        owners = test.image_of.cpu().numpy()
        rows = np.concatenate([np.flatnonzero(owners == image) for image in order])
        taken = torch.from_numpy(order).to(self.device), torch.from_numpy(rows).to(self.device)
        whole = rows_of(images, taken[0]), rows_of(texts, taken[1])
        _same(whole, (part_images, part_texts), 1e-4, "an item's embedding changes with the rest of its split")

    def blind(self) -> None:
        collection = self.prepared.collection
        test = collection.splits["test"]
        other = replace(collection, splits={**collection.splits, "test": test[: len(test) // 2]})
        fit = self.fitted("blind", replace(self.prepared, collection=other, _text={}))
        _same(self.embeddings(self.fit), self.embeddings(fit), 0.0, "the fit changes with the test split")

    def storable(self) -> None:
        loaded = self.fitted("first")
        if not loaded.reused:
            raise Broken("the stored fit was not found again: fields must not change while fitting")
        _same(self.embeddings(self.fit), self.embeddings(loaded), 0.0, "load(state()) gives other embeddings")

    def documents(self) -> None:
        fit = self.fitted("documents", unit="documents")
        embed(fit.part, self.prepared.split("test", "documents", self.device), self.method.label)

    def learns(self) -> None:
        test = self.prepared.split("test", "captions", self.device)
        images, texts = self.embeddings(self.fit)
        found = sample([rank(images, texts, test.image_of, self.fit.part.similarity)]).interval("rsum")
        chance = 2 * sum(100.0 * k / len(test) for k in KS)
        if found.low <= chance:
            raise Broken(
                f"rsum {found.value:.1f} [{found.low:.1f}, {found.high:.1f}] is not above chance, {chance:.1f}"
            )


def _same(a: tuple[Embedding, Embedding], b: tuple[Embedding, Embedding], tolerance: float, otherwise: str) -> None:
    for left, right in zip(a, b, strict=True):
        for x, y in zip(_all_tensors(left), _all_tensors(right), strict=True):
            scale = float(x.abs().max()) or 1.0
            gap = float((x - y).abs().max()) / scale if x.shape == y.shape else float("inf")
            if not gap <= tolerance:
                raise Broken(f"{otherwise} (by {gap:.2g} of the largest value)")


def _all_tensors(embedding: Embedding) -> list[torch.Tensor]:
    """Vectors, norms and masks as float tensors."""
    found: list[torch.Tensor] = []

    def take(x: torch.Tensor) -> torch.Tensor:
        found.append(x.float())
        return x

    as_levels(embedding).map(take)
    return found
