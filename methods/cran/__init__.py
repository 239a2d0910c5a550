"""CRAN: cross-media relation attention network, the paper's own row of Tables 1 and 2, and the four rows of Table 3.

    sim(i, t) = d(g^i, g^t) + 1/K sum_k d(l^i_k, l^t) + 1/K sum_k d(r^i_k, r^t)     (Eq. 11)

J. Qi, Y. Peng, Y. Yuan, "Cross-media multi-level alignment with relation attention network", IJCAI 2018.  An image and
a text are compared on three levels: the whole image (g), its regions (l) and ordered pairs of regions (r).  Each level
has a network of its own, trained with a margin loss.  The levels share no weights, so the sum of their losses is
minimised by training each alone; the rows of Table 3 share these fits, and the four cost one CRAN.  The options in the
group `plus` are additions that the paper does not have.

Memory: the features of images and regions where they are few, see docs/scaling.md; covariances as for `cca`; 2 kB for
each text, and 4 bytes for each text and output of a frozen encoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cran_bench import (
    BadInput,
    Explanation,
    Levels,
    MissingFeature,
    MultiLevel,
    Part,
    Run,
    Split,
    TrainingBenchmark,
    register,
)
from cran_bench.toolbox.states import below

from ..cca import CCA  # noqa: TID252 - the methods beside this folder have no other common name
from .alignment import Alignment
from .benchmark import training_benchmark
from .explanation import explain
from .model import join, only, unit
from .recipe import LEVELS, LITERAL, PAPER, PLUS, PLUS_QUICK, QUICK, Recipe

SEARCH = {"lr": (5e-4, 1e-3, 2e-3), "margin": (0.1, 0.2, 0.3), "dropout": (0.0, 0.2, 0.4)}
PRESETS = {"literal": LITERAL, "paper": PAPER, "tuned": {}, "quick": QUICK}
CHOSEN = {"fusion_weights": None}
PLUS_PRESETS = {"tuned": {**PLUS, **CHOSEN}, "quick": {**PLUS_QUICK, **CHOSEN}}


@dataclass(frozen=True)
class FusionOptions:
    """How the levels are trained and summed.

    Attributes:
        joint: train the levels in one run and choose the epoch by their summed score, instead of each level alone
            (A15).  The paper has no total loss.
        sim: d of Eq. 11 (A16): `dot`, or `cos`, which differs under `normalise=none`.  Unit embeddings are compared by
            cosine, so that averages of them (protocol `mean`) are normalised again.
        fusion_weights: weights of the global, local and relation level (A17); 1, 1, 1 in Eq. 11.  With `none`,
            validation chooses: the local level's weight is halved, or else doubled, up to four times, as long as rsum
            grows; then the relation level's.
        fusion_norm: `zscore` divides each level by the standard deviation of its scores on validation (A17), for levels
            of different scale; `none` is Eq. 11.
    """

    joint: bool = False
    sim: Literal["dot", "cos"] = "dot"
    fusion_weights: tuple[float, ...] | None = (1.0, 1.0, 1.0)
    fusion_norm: Literal["none", "zscore"] = "none"

    def __post_init__(self) -> None:
        weights = self.fusion_weights
        if weights is not None and (len(weights) != 3 or min(weights) < 0):
            raise ValueError("fusion_weights are three numbers from 0 up, of the global, local and relation level")


@register("cran", paper_row="CRAN", presets=PRESETS, search=SEARCH)
@dataclass
class CRAN(Recipe):
    """CRAN: global, local and relation level; a row of Tables 1, 2 and 3.

    Attributes:
        fusion: how the levels are trained and summed.
    """

    fusion: FusionOptions = FusionOptions()

    levels: ClassVar[tuple[str, ...]] = LEVELS

    def __post_init__(self) -> None:
        if self.encoder.encoders == "one" and not self.fusion.joint:
            raise ValueError("encoders=one is trained by all levels at once: add joint=true")
        self.fitted: list[Alignment] = []
        self.residual: CCA | None = None
        self.weights = self._initial_weights

    @property
    def similarity(self) -> MultiLevel:
        """Eq. 11."""
        on_global, on_local, on_relation, on_residual = self.weights.tolist()
        if self.residual is not None:  # the vectors have these weights already
            on_global = on_global + on_residual if self.is_cosine else 1.0
        return MultiLevel(self.is_cosine, top=self.loss.top, weights=(on_global, on_local, on_relation))

    @property
    def is_cosine(self) -> bool:
        """Whether embeddings are compared by cosine, not by dot product."""
        return self.fusion.sim == "cos" or self.encoder.normalise == "l2"

    @property
    def _initial_weights(self) -> Tensor:
        residual = float(self.plus.residual != "none")
        return torch.tensor([*(self.fusion.fusion_weights or (1.0, 1.0, 1.0)), residual], dtype=torch.float64)

    def alignments(self) -> list[Alignment]:
        """The levels, each by itself or all together."""
        together = [self.levels] if self.fusion.joint else [(level,) for level in self.levels]
        return [Alignment(**self.of(levels), levels=levels) for levels in together]

    def parts(self) -> list[Part]:
        """The levels, and the row whose similarity is added."""
        return [*self.alignments(), *([CCA()] if self.plus.residual == "cca" else [])]

    def memory(self, train: Split) -> int:
        """Bytes at the peak of the largest part; they are fitted one after the other."""
        residual = CCA().memory(train) if self.plus.residual == "cca" else 0
        return max(residual, *(part.memory(train) for part in self.alignments()))

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Fit the levels, or load their stored fits; then choose their weights.

        Raises:
            MissingFeature: the levels need regions and the features have none.
            BadInput: `top` exceeds the number of regions.
        """
        if len(self.levels) > 1 and not train.has_regions:
            raise MissingFeature(
                f"the levels {', '.join(self.levels)} need regions, and the features were prepared without; prepare "
                "the dataset again with --regions, or run a row with the global level alone, which needs none"
            )
        if len(self.levels) > 1:
            regions = train.boxes.shape[1]
            for name, value in (("top", self.loss.top), ("top_train", self.loss.k_train)):
                if value > regions:
                    raise BadInput(
                        f"{name} is {value}, but an image has {regions} regions: use {name}={regions} or less"
                    )
        self.fitted = [run.part(part) for part in self.alignments()]
        self.residual = run.part(CCA()) if self.plus.residual == "cca" else None
        self.weights = self._initial_weights
        with torch.inference_mode():
            if self.fusion.fusion_norm == "zscore":
                self._divide_by_deviations(val)
            weighted = list(self.levels[1:]) if self.fusion.fusion_weights is None else []
            weighted += ["residual"] * (self.residual is not None)
            if weighted:
                self._choose_weights(weighted, val, run)

    def _divide_by_deviations(self, val: Split, most: int = 1000) -> None:
        some = val.take(torch.arange(min(most, len(val))).numpy())
        (images, _), (texts, _) = self.image_terms(some), self.text_terms(some)
        texts = texts.rows(slice(most))
        eq11 = MultiLevel(self.is_cosine, top=self.loss.top)
        for level in self.levels:
            deviation = eq11.scores(only(images, level), only(texts, level)).std()
            self.weights[LEVELS.index(level)] /= float(deviation.clamp_min(1e-12))

    def _choose_weights(self, names: Sequence[str], val: Split, run: Run, most: int = 4) -> None:
        """Halve a term's weight, or else double it, up to `most` times, as long as rsum on validation grows."""
        images, texts = self.image_terms(val), self.text_terms(val)

        def criterion() -> float:
            return run.score(self._with_residual(*images), self._with_residual(*texts)).criterion

        best = criterion()
        for position in map((*LEVELS, "residual").index, names):
            for factor in (0.5, 2.0):
                weight = float(self.weights[position])
                for power in range(1, most + 1):
                    self.weights[position] = weight * factor**power
                    score = criterion()
                    if score <= best:
                        self.weights[position] /= factor
                        break
                    best = score
                if self.weights[position] != weight:
                    break
        run.chose(weights=self.weights.tolist())

    def embed_images(self, split: Split) -> Levels:
        """Embeddings of N images on all levels."""
        return self._with_residual(*self.image_terms(split))

    def embed_texts(self, split: Split) -> Levels:
        """Embeddings of T texts on all levels."""
        return self._with_residual(*self.text_terms(split))

    def image_terms(self, split: Split) -> tuple[Levels, Tensor | None]:
        """Embeddings of N images on all levels, and by the residual."""
        levels = self._joined([part.embed_images(split) for part in self.fitted])
        return levels, None if self.residual is None else self.residual.embed_images(split)

    def text_terms(self, split: Split) -> tuple[Levels, Tensor | None]:
        """Embeddings of T texts on all levels, and by the residual."""
        levels = self._joined([part.embed_texts(split) for part in self.fitted])
        return levels, None if self.residual is None else self.residual.embed_texts(split)

    def _joined(self, embeddings: Sequence[Levels]) -> Levels:
        return join(embeddings)

    def _with_residual(self, levels: Levels, rows: Tensor | None) -> Levels:
        """The global level with the rows of CCA beside it, so that its product has both terms, with their weights."""
        if rows is None:
            return levels
        assert levels.globals is not None
        on_global, _, _, on_residual = self.weights.sqrt().tolist()
        both = [on_global * self._comparable(levels.globals), on_residual * unit(rows).to(levels.globals)]
        return replace(levels, globals=torch.cat(both, dim=1))

    def _comparable(self, rows: Tensor) -> Tensor:
        """Rows whose dot product is the similarity of the level."""
        return unit(rows) if self.is_cosine else rows

    def explain(self, split: Split, pairs: Sequence[tuple[int, int]]) -> list[Explanation]:
        """Scores per level, attention over characters, best regions and pairs, for (image, text) positions."""
        with torch.inference_mode():
            return [explain(self, split, image, text) for image, text in pairs]

    def training_benchmark(self, device: torch.device) -> TrainingBenchmark:
        return training_benchmark(self.encoder.width, device)

    def state(self) -> dict[str, Tensor]:
        """The states of the trained levels, those of the residual, and the weights."""
        state = {f"{part.part_name}.{k}": v for part in self.fitted for k, v in part.state().items()}
        if self.residual is not None:
            state |= {f"residual.{k}": v for k, v in self.residual.state().items()}
        return {**state, "weights": self.weights}

    def load(self, state: dict[str, Tensor]) -> None:
        self.weights = state["weights"]
        self.fitted = self.alignments()
        for part in self.fitted:
            part.load(below(part.part_name, state))
        if self.plus.residual == "cca":
            self.residual = CCA()
            self.residual.load(below("residual", state))


@register("cran-baseline", paper_row="CRAN-baseline", presets=PRESETS, search=SEARCH)
@dataclass
class CRANBaseline(CRAN):
    """CRAN-baseline: global level alone; a row of Table 3."""

    levels: ClassVar[tuple[str, ...]] = ("global",)


@register("cran-local", paper_row="CRAN-local", presets=PRESETS, search=SEARCH)
@dataclass
class CRANLocal(CRAN):
    """CRAN-local: global and local level; a row of Table 3."""

    levels: ClassVar[tuple[str, ...]] = ("global", "local")


@register("cran-relation", paper_row="CRAN-relation", presets=PRESETS, search=SEARCH)
@dataclass
class CRANRelation(CRAN):
    """CRAN-relation: global and relation level; a row of Table 3."""

    levels: ClassVar[tuple[str, ...]] = ("global", "relation")


@register("cran-ensemble", presets=PRESETS, search=SEARCH)
@dataclass
class CRANEnsemble(CRANBaseline):
    """CRAN's global level, several times with seeds of their own, and their scores summed: a control for Table 3.

    A sum of several models ranks better than one, whatever they look at.  What local and relation level add beyond that
    is the difference to as many global levels.

    Attributes:
        members: number of global levels that are summed.
    """

    members: int = field(default=2, metadata={"label": "always"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.members < 1:
            raise ValueError(f"members is at least 1, not {self.members}")

    def alignments(self) -> list[Alignment]:
        """The members."""
        return [replace(level, member=member) for level in super().alignments() for member in range(self.members)]

    def _joined(self, embeddings: Sequence[Levels]) -> Levels:
        """The members' embeddings side by side, whose product is the mean of theirs."""
        rows = [self._comparable(embedding.globals) for embedding in embeddings if embedding.globals is not None]
        return Levels(globals=torch.cat(rows, dim=1) / math.sqrt(self.members))


@register("cran-plus", presets=PLUS_PRESETS, search=SEARCH)
@dataclass
class CRANPlus(CRAN):
    """CRAN with all levels and everything that helped on validation, see the group `plus`; not in the paper."""


@register("cran-plus-baseline", presets=PLUS_PRESETS, search=SEARCH)
@dataclass
class CRANPlusBaseline(CRANBaseline):
    """CRAN-plus with the global level alone."""


@register("cran-plus-local", presets=PLUS_PRESETS, search=SEARCH)
@dataclass
class CRANPlusLocal(CRANLocal):
    """CRAN-plus with global and local level."""


@register("cran-plus-relation", presets=PLUS_PRESETS, search=SEARCH)
@dataclass
class CRANPlusRelation(CRANRelation):
    """CRAN-plus with global and relation level."""


@register("cran-plus-ensemble", presets=PLUS_PRESETS, search=SEARCH)
@dataclass
class CRANPlusEnsemble(CRANEnsemble):
    """CRAN-plus with its global level several times, with seeds of their own, and their scores summed."""
