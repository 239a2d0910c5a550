"""The page to read before writing a method: what it is given, what it must answer, and what the runner lends it.

A method computes no metric, reads no clock, opens no file and picks no device; it asks its `Run` for those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from cran_bench.ranks import Metrics
from cran_bench.similarity import Embedding, Similarity
from cran_bench.split import Split

T = TypeVar("T")
P = TypeVar("P", bound="Part")


class Part(Protocol):
    """Something fitted once per fingerprint and stored: a method, or a named piece that several methods share.

    A dataclass; its fields are its hyper-parameters and, with the data and the seed, its fingerprint.  One that says
    `by_all_processes = True` is fitted by all processes of torchrun together, see `cran_bench.processes`.
    """

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Learn from `train`; choose between candidates on `val` through `run.score`.  Deterministic for `run.seed`."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything `fit` learned, as tensors, so that `load` on a fresh instance gives the same embeddings."""
        ...

    def load(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        ...


class Estimating(Part, Protocol):
    """A part that says beforehand what its fit will hold; optional."""

    def memory(self, train: Split) -> int:
        """Bytes at the peak of `fit`, its parts' included; rather some times too many than too few.

        Count `train.image_rows.held` and its like; features of the validation split are counted elsewhere.
        """
        ...


class Dividing(Part, Protocol):
    """A part that says beforehand which parts its fit will ask for; optional.

    Its fit is then known by theirs, not by the code of all parts that it might have.
    """

    def parts(self) -> Sequence[Part]:
        """What `fit` will give to `run.part`, as far as the fields tell: one of each class will do."""
        ...


class Method(Part, Protocol):
    """One row of a table.

    Attributes:
        similarity: how the runner compares an image with a text: `COSINE`, `DOT` or `MultiLevel(top=3)`.
    """

    @property
    def similarity(self) -> Similarity:
        """See above; a class attribute does."""
        ...

    def embed_images(self, split: Split) -> Embedding:
        """(N, D) float32, or `Levels` of N rows: row i is image i of the split and depends on no other row."""
        ...

    def embed_texts(self, split: Split) -> Embedding:
        """(T, D) float32, or `Levels` of T rows: row k is text k of the split and depends on no other row."""
        ...


@dataclass(frozen=True)
class Explanation:
    """Why an image and a text score what they score.

    Attributes:
        scores: by level, with the weights of the sum, and their `total`.
        text: the text as the method read it.
        attention: by level, one weight for each character of `text`; they sum to 1.
        regions: region and score, the best first: their mean, times the level's weight, is the regions' level.
        pairs: first region, second region and score, likewise for the relations' level.
    """

    scores: Mapping[str, float]
    text: str
    attention: Mapping[str, Sequence[float]] = field(default_factory=dict)
    regions: Sequence[tuple[int, float]] = ()
    pairs: Sequence[tuple[int, int, float]] = ()


class Explaining(Method, Protocol):
    """A method that can say why; optional."""

    def explain(self, split: Split, pairs: Sequence[tuple[int, int]]) -> list[Explanation]:
        """One explanation for each (image, text) pair of positions in the split."""
        ...


class Run(Protocol):
    """What the runner lends a method while it fits."""

    @property
    def seed(self) -> int:
        """Seed of every random choice; torch's global generator was seeded with it."""
        ...

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        ...

    def score(self, images: Embedding, texts: Embedding, similarity: Similarity | None = None) -> Metrics:
        """Recall of embeddings of the validation split by the suite's own ranking; `.rsum` is the usual criterion.

        Raises:
            BadInput: the embeddings are not finite, or not of the validation split.
        """
        ...

    def progress(self, items: Iterable[T], label: str, total: int, done: int = 0) -> Iterator[T]:
        """Yield `items` and show how far the fit is, with what was logged last; `done` of `total` came before."""
        ...

    def log(self, **values: float) -> None:
        """Add a point to the training curve, which is kept with the record: ``run.log(epoch=3, loss=0.2)``."""
        ...

    def chose(self, **values: Any) -> None:
        """Note what validation chose, for the record: ``run.chose(ridge=0.01, dim=128)``."""
        ...

    def checkpoint(self, state: Mapping[str, Tensor], at: str = "") -> None:
        """Store the state of an unfinished fit; the last one stored survives a kill.

        Call it as often as you like: of states that take long to write some are passed over.
        `at` says where the fit was ("epoch 3 of 40"), for the one who resumes.
        """
        ...

    def resume(self) -> dict[str, Tensor] | None:
        """The last checkpoint of this very fit, or None."""
        ...

    def part(self, spec: P) -> P:
        """`spec` fitted on this run's data: loaded where this very fit is stored, else made and stored.

        Raises:
            BadInput: the part that asks says which `parts` it has, and this is none of them.
        """
        ...
