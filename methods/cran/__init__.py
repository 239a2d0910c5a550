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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cran_bench import (
    BadInput,
    Explanation,
    Levels,
    MissingFeature,
    MultiLevel,
    Run,
    Split,
    TrainingBenchmark,
    register,
)
from cran_bench.toolbox.states import below

from .alignment import Alignment
from .benchmark import training_benchmark
from .explanation import explain
from .model import join, only
from .recipe import LEVELS, LITERAL, PAPER, QUICK, Recipe

EQUATION_11 = {"fusion_weights": (1.0, 1.0, 1.0)}
PRESETS = {"literal": {**LITERAL, **EQUATION_11}, "paper": {**PAPER, **EQUATION_11}, "tuned": {}, "quick": QUICK}
SEARCH = {"lr": (5e-4, 1e-3, 2e-3), "margin": (0.1, 0.2, 0.3), "dropout": (0.0, 0.2, 0.4)}


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
    fusion_weights: tuple[float, ...] | None = None
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
        self.weights = self._initial_weights

    @property
    def similarity(self) -> MultiLevel:
        """Eq. 11."""
        on_global, on_local, on_relation = self.weights.tolist()
        return MultiLevel(self._is_cosine, top=self.loss.top, weights=(on_global, on_local, on_relation))

    @property
    def _is_cosine(self) -> bool:
        return self.fusion.sim == "cos" or self.encoder.normalise == "l2"

    @property
    def _initial_weights(self) -> Tensor:
        return torch.tensor(self.fusion.fusion_weights or (1.0, 1.0, 1.0), dtype=torch.float64)

    def parts(self) -> list[Alignment]:
        """The levels, each by itself or all together."""
        together = [self.levels] if self.fusion.joint else [(level,) for level in self.levels]
        return [Alignment(**self.of(levels), levels=levels) for levels in together]

    def memory(self, train: Split) -> int:
        """Bytes at the peak of the largest level; the levels are trained one after the other."""
        return max(part.memory(train) for part in self.parts())

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Fit the levels, or load their stored fits; then choose their weights.

        Raises:
            MissingFeature: the levels need regions and the features have none.
            BadInput: `top` exceeds the number of regions.
        """
        if len(self.levels) > 1 and not train.has_regions:
            raise MissingFeature(
                f"the levels {', '.join(self.levels)} need regions, and the features were prepared without; prepare "
                "the dataset again with --regions, or run cran-baseline, which needs none"
            )
        if len(self.levels) > 1:
            regions = train.boxes.shape[1]
            for name, value in (("top", self.loss.top), ("top_train", self.loss.k_train)):
                if value > regions:
                    raise BadInput(
                        f"{name} is {value}, but an image has {regions} regions: use {name}={regions} or less"
                    )
        self.fitted = [run.part(part) for part in self.parts()]
        self.weights = self._initial_weights
        with torch.inference_mode():
            if self.fusion.fusion_norm == "zscore":
                self._divide_by_deviations(val)
            if self.fusion.fusion_weights is None and len(self.levels) > 1:
                self._choose_weights(val, run)

    def _divide_by_deviations(self, val: Split, most: int = 1000) -> None:
        some = val.take(torch.arange(min(most, len(val))).numpy())
        images, texts = self.embed_images(some), self.embed_texts(some)
        eq11 = MultiLevel(self._is_cosine, top=self.loss.top)
        for level in self.levels:
            deviation = eq11.scores(only(images, level), only(texts.rows(slice(most)), level)).std()
            self.weights[LEVELS.index(level)] /= float(deviation.clamp_min(1e-12))

    def _choose_weights(self, val: Split, run: Run, most: int = 4) -> None:
        """Halve a level's weight, or else double it, up to `most` times, as long as rsum on validation grows."""
        images, texts = self.embed_images(val), self.embed_texts(val)
        best = run.score(images, texts).criterion
        for position in map(LEVELS.index, self.levels[1:]):
            for factor in (0.5, 2.0):
                weight = float(self.weights[position])
                for power in range(1, most + 1):
                    self.weights[position] = weight * factor**power
                    criterion = run.score(images, texts).criterion
                    if criterion <= best:
                        self.weights[position] /= factor
                        break
                    best = criterion
                if self.weights[position] != weight:
                    break
        run.chose(weights=self.weights.tolist())

    def embed_images(self, split: Split) -> Levels:
        """Embeddings of N images on all levels."""
        return join(part.embed_images(split) for part in self.fitted)

    def embed_texts(self, split: Split) -> Levels:
        """Embeddings of T texts on all levels."""
        return join(part.embed_texts(split) for part in self.fitted)

    def explain(self, split: Split, pairs: Sequence[tuple[int, int]]) -> list[Explanation]:
        """Scores per level, attention over characters, best regions and pairs, for (image, text) positions."""
        with torch.inference_mode():
            return [explain(self, split, image, text) for image, text in pairs]

    def training_benchmark(self, device: torch.device) -> TrainingBenchmark:
        return training_benchmark(self.encoder.width, device)

    def state(self) -> dict[str, Tensor]:
        """The states of the trained levels, and the levels' weights."""
        state = {f"{part.part_name}.{key}": value for part in self.fitted for key, value in part.state().items()}
        return {**state, "weights": self.weights}

    def load(self, state: dict[str, Tensor]) -> None:
        self.weights = state["weights"]
        self.fitted = self.parts()
        for part in self.fitted:
            part.load(below(part.part_name, state))


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
