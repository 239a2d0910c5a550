"""The contract of a method: what it is given, what it must return, and what the runner provides while it fits.

A method computes no metric, measures no time, opens no file and chooses no device: its `Run` does all that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from cran_bench.embeddings import Embedding
from cran_bench.ranking.metrics import Validation
from cran_bench.similarity import Similarity
from cran_bench.split import Split

T = TypeVar("T")
P = TypeVar("P", bound="Part")


class Part(Protocol):
    """Something that is fitted once per fingerprint and stored: a method, or a component that several methods share.

    A dataclass: its fields are the hyper-parameters and, with the data and the seed, determine its fingerprint.
    A method with `refits = True` chooses on validation among values of its fields only, and tells `run.chose` under
    their names: where the dataset asks for it, it is fitted again with these values on train and validation together,
    unless it has parts.
    A class with `by_all_processes = True` is fitted by all processes that torchrun started, together
    (`cran_bench.machine.processes`).
    """

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Learn from `train`; select hyper-parameters on `val` with `run.score`.  Deterministic given `run.seed`."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return everything `fit` learned, by name; `load` on a new instance must then give the same embeddings."""
        ...

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        ...


class Estimating(Part, Protocol):
    """A part that can estimate the memory of its fit; optional."""

    def memory(self, train: Split) -> int:
        """Estimate the peak memory of `fit` in bytes, its parts included; overestimate rather than underestimate.

        Include `train.image_rows.held` and the like; the runner adds the features of the validation split.
        """
        ...


class Composite(Part, Protocol):
    """A part that declares which parts its fit uses; optional.

    Its fingerprint then covers these parts only, in place of every part that the class's code names.
    """

    def parts(self) -> Sequence[Part]:
        """The unfitted parts that `fit` will pass to `run.part`, given the fields; one of each class is enough.

        `run` fits those that are returned beforehand, side by side: return none that `fit` may do without.
        """
        ...


class Method(Part, Protocol):
    """One row of a table.

    Attributes:
        similarity: how an image is compared with a text: `COSINE`, `DOT`, `MultiLevel(top=3)`, or, for a method that
            scores pairs itself, `Pairwise(self.score)`.
    """

    @property
    def similarity(self) -> Similarity:
        """How an image is compared with a text; a class attribute suffices."""
        ...

    def embed_images(self, split: Split) -> Embedding:
        """Embed the images of a split: (N, D) float32, or `Levels` of N rows.

        Row i belongs to image i and must not depend on any other image of the split.
        """
        ...

    def embed_texts(self, split: Split) -> Embedding:
        """Embed the texts of a split: (T, D) float32, or `Levels` of T rows.

        Row k belongs to text k and must not depend on any other text of the split.
        """
        ...


@dataclass(frozen=True)
class Explanation:
    """The terms of the score of one image and one text.

    Attributes:
        scores: the weighted score of each level, and their sum under `total`.
        text: the text as the method encodes it.
        attention: for each level one weight per character of `text`; the weights sum to 1.
        regions: (region, score) of the best regions in descending order; the score of the region level is their mean
            times the level's weight.
        pairs: (first region, second region, score) of the best region pairs, in the same way for the relation level.
    """

    scores: Mapping[str, float]
    text: str
    attention: Mapping[str, Sequence[float]] = field(default_factory=dict)
    regions: Sequence[tuple[int, float]] = ()
    pairs: Sequence[tuple[int, int, float]] = ()


class Explaining(Method, Protocol):
    """A method that can explain its scores; optional."""

    def explain(self, split: Split, pairs: Sequence[tuple[int, int]]) -> list[Explanation]:
        """Return one explanation for each pair of an image and a text, given by their positions in the split."""
        ...


@dataclass(frozen=True)
class TrainingBenchmark:
    """Training steps on random data, for ``cran-bench bench training``.

    Attributes:
        task: what is trained, and how large, in a few words.
        steps: how many steps are timed.
        variants: by name, the plain implementation first, a function that prepares it and returns its training step:
            from the number of the step to the loss, a scalar without gradient.
        flop: floating-point operations of a step of the plain implementation, or 0 if unknown.
    """

    task: str
    steps: int
    variants: Mapping[str, Callable[[], Callable[[int], Tensor]]]
    flop: float = 0.0


class Timed(Method, Protocol):
    """A method whose training step can be timed; optional."""

    def training_benchmark(self, device: torch.device) -> TrainingBenchmark:
        """The step to time, with the method's own fields, on random data on `device`."""
        ...


class Run(Protocol):
    """What the runner provides to a method while it fits: seed, device, validation, progress and checkpoints."""

    @property
    def seed(self) -> int:
        """The seed of every random choice; torch's global generator has been seeded with it."""
        ...

    @property
    def device(self) -> torch.device:
        """The device to compute on."""
        ...

    def score(self, images: Embedding, texts: Embedding, similarity: Similarity | None = None) -> Validation:
        """Rank embeddings of the validation split and return recall in percent; choose what has the best `.criterion`.

        That is `rsum`, or mean average precision by category where the dataset or ``[metric=map]`` says so.  Data with
        twins adds `.twins`, the percentage of texts that score their own image above its twin, which chooses nothing.

        Args:
            images: N rows, one for each image of the validation split.
            texts: T rows, one for each text of the validation split.
            similarity: how to compare them; None for the method's own similarity.

        Raises:
            BadInput: the embeddings are not finite or not of the validation split, there is no similarity, or the run
                chooses by category and the data has no labels.
        """
        ...

    def progress(self, items: Iterable[T], label: str, total: int, done: int = 0) -> Iterator[T]:
        """Yield `items` and show the progress of the fit with the values logged last.

        Args:
            items: the steps that are left.
            label: what is being done, shown beside the bar.
            total: number of all steps.
            done: number of steps completed before, in a resumed fit.
        """
        ...

    def log(self, **values: float) -> None:
        """Add a point to the training curve, which is stored with the record: ``run.log(epoch=3, loss=0.2)``."""
        ...

    def chose(self, **values: Any) -> None:
        """Add the hyper-parameters selected on validation to the record: ``run.chose(ridge=0.01, dim=128)``."""
        ...

    def checkpoint(self, state: Mapping[str, Tensor], at: str = "") -> None:
        """Store the state of an unfinished fit, which can be resumed from it after the process was killed.

        It can be called often: where writing takes long, some states are skipped.

        Args:
            state: everything needed to continue.
            at: the position of the fit, such as "epoch 3 of 40", to be shown when it resumes.
        """
        ...

    def resume(self) -> dict[str, Tensor] | None:
        """Return the last checkpoint of this fit (same part, data and seed), or None."""
        ...

    def part(self, spec: P) -> P:
        """`spec` fitted on this run's data: loaded where this very fit is stored, else made and stored.

        Raises:
            BadInput: the part that asks says which `parts` it has, and this is none of them.
        """
        ...
