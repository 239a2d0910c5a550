"""GMM+HGLMM: Fisher vectors of word vectors, and CCA; a row of Tables 1 and 2.

A text is the set of its word vectors.  Two mixtures describe word vectors in general, one of Gaussians and one that
chooses a Gaussian or a Laplacian for each component and dimension (`cran_bench.mixtures`); a text becomes the gradient
of each mixture's log-likelihood at its words, both are joined, and CCA with images follows, its directions weighted by
their correlations.  B. Klein, G. Lev, G. Sadeh, L. Wolf, "Associating neural word embeddings with deep image
representations using Fisher vectors", CVPR 2015.

Memory: the Fisher vector of every known word, 8 W q bytes with a copy, and the covariances of `cca`; those of the texts
pass by in blocks.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import numpy as np
import torch
from scipy import sparse
from sklearn.decomposition import PCA, FastICA  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn.functional import normalize

from cran_bench import Run, Split, register
from cran_bench.mixtures import Mixture, fit_mixture, started
from cran_bench.progress import say
from cran_bench.states import below, with_prefix

from ._linear import Projections

WORDS = 256  # whose Fisher vectors are computed together
ICA_STEPS = 200


@dataclass
class FisherSettings:
    """How words are described.

    Attributes:
        sample: word vectors, by lot, that the transform and the mixtures are learned from.
        transform: of word vectors of unit length: `ica`, `pca` or `none`; the results have unit length again.
        factor: what they are multiplied by for the HGLMM, so that its floors do not hold everywhere.
        components: K of each mixture.
        iterations: of EM for the HGLMM.
        gmm_iterations: of EM for the GMM.
        floor: least variance, and least mean deviation, in the HGLMM.
        gmm_floor: least variance in the GMM.
        models: `both`, `hglmm` or `gmm`.
    """

    sample: int = 300_000
    transform: Literal["ica", "pca", "none"] = "ica"
    factor: float = 10.0
    components: int = 30
    iterations: int = 10
    gmm_iterations: int = 100
    floor: float = 1e-3
    gmm_floor: float = 1e-6
    models: Literal["both", "hglmm", "gmm"] = "both"

    def __post_init__(self) -> None:
        if min(self.sample, self.components) < 1 or min(self.iterations, self.gmm_iterations) < 0:
            raise ValueError("sample and components are at least 1, iterations at least 0")
        if min(self.factor, self.floor, self.gmm_floor) <= 0:
            raise ValueError("factor, floor and gmm_floor are above 0")


@dataclass
class FisherVectors(FisherSettings):
    """What is learned from word vectors alone."""

    part_name: ClassVar[str] = "fisher-vectors"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mixtures: dict[str, Mixture] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the mixtures."""
        return ("gmm", "hglmm") if self.models == "both" else (self.models,)

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """The transform, then EM for each mixture."""
        vectors = normalize(train.vector_sample(self.sample, run.seed), dim=1)
        vectors = vectors[vectors.any(dim=1)]
        if len(vectors) < self.components:
            say(f"{len(vectors)} word vectors are fewer than the {self.components} components of the mixtures")
        self.matrix = self._learn_transform(vectors, run)
        points = self._transformed(vectors)
        for name in self.names:
            hybrid = name == "hglmm"
            x = points * self.factor if hybrid else points
            count = self.iterations if hybrid else self.gmm_iterations
            self.mixtures[name], curve = fit_mixture(
                x,
                started(x, self.components, run.seed, hybrid),
                run.progress(range(count), f"{name}: steps of EM", count),
                self.floor if hybrid else self.gmm_floor,
                hybrid,
            )
            for step, value in enumerate(curve):
                run.log(**{"step": step, f"{name}_log_likelihood": value})

    def _learn_transform(self, vectors: Tensor, run: Run) -> Tensor:
        dim = vectors.shape[1]
        if self.transform == "none":
            return torch.eye(dim, device=vectors.device)
        x = vectors.double().cpu().numpy()
        rank = int(np.linalg.matrix_rank(x - x.mean(axis=0)))
        if self.transform == "pca":
            rows = PCA(rank, svd_solver="full", random_state=run.seed).fit(x).components_
        else:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ConvergenceWarning)
                ica = FastICA(rank, whiten="unit-variance", random_state=run.seed, max_iter=ICA_STEPS)
                rows = ica.fit(x).components_
            if caught:
                say(f"ICA of {len(x):,} word vectors has not settled after {ICA_STEPS} steps and is taken as it is")
        return torch.from_numpy(rows.astype(np.float32)).to(vectors.device)

    def _transformed(self, vectors: Tensor) -> Tensor:
        """(n, D) unit vectors to (n, D') unit vectors."""
        return normalize(vectors @ self.matrix.T, dim=1)

    def of_words(self, vectors: Tensor) -> list[Tensor]:
        """(W, D) word vectors to what each adds to a text's Fisher vectors, (W, 2 K D') for each mixture."""
        points = self._transformed(normalize(vectors, dim=1))
        return [self.mixtures[name].scores(points * (self.factor if name == "hglmm" else 1.0)) for name in self.names]

    def state(self) -> dict[str, Tensor]:
        """The transform and the mixtures."""
        found = {"matrix": self.matrix}
        for name, mixture in self.mixtures.items():
            found |= with_prefix(name, vars(mixture))
        return found

    def load(self, state: dict[str, Tensor]) -> None:
        """See `state`."""
        self.matrix = state["matrix"]
        self.mixtures = {name: Mixture(**below(name, state)) for name in self.names}


class FisherRows:
    """The Fisher vectors of T texts, made when they are asked for.

    Args:
        counts: (T, W) of the known words.
        words: (W, q) what each word adds.
        parts: first column of each mixture, and q.
    """

    def __init__(self, counts: sparse.csr_array, words: Tensor, parts: list[int]) -> None:
        self._counts, self._words, self._parts = counts, words.cpu().numpy(), parts
        self._device = words.device
        self.shape = (counts.shape[0], words.shape[1])

    def __getitem__(self, rows: slice) -> Tensor:
        """(n, q) float32: signed square roots, each mixture's at unit length; zero for a text without a known word."""
        sums = torch.from_numpy(self._counts[rows] @ self._words).to(self._device)
        roots = sums.sign() * sums.abs().sqrt()
        blocks = [roots[:, a:b] for a, b in zip(self._parts[:-1], self._parts[1:], strict=True)]
        return torch.cat([normalize(block, dim=1) for block in blocks], dim=1)


@register(
    "gmm-hglmm",
    paper_row="GMM+HGLMM",
    presets={
        "paper": {
            "image": "l2",
            "coordinates": 20_000,
            "dim": (4096,),
            "power": (1.0,),
            "ridge_image": (5e-5,),
            "ridge_text": (5e-5,),
        },
        "tuned": {},
        "quick": {"coordinates": 600, "gmm_iterations": 20, "components": 10},
    },
)
@dataclass
class GMMHGLMM(FisherSettings, Projections):
    """Hyper-parameters beyond those of every projection and of FisherSettings.

    Attributes:
        ridge_image: rx of CCA, as a fraction of the largest variance of the image view.
        ridge_text: ry likewise.
        coordinates: of the Fisher vectors that CCA takes, by lot, an equal share of each mixture's; all where there are
            fewer.
    """

    ridge_image: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 2e-2, 5e-2)
    ridge_text: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 2e-2)
    coordinates: int = 6000

    def __post_init__(self) -> None:
        FisherSettings.__post_init__(self)
        Projections.__post_init__(self)
        if min(*self.ridge_image, *self.ridge_text) < 0:
            raise ValueError("ridge_image and ridge_text are not negative")
        if self.coordinates < 2:
            raise ValueError(f"coordinates is at least 2, not {self.coordinates}")
        self.fisher = FisherVectors(**{f.name: getattr(self, f.name) for f in fields(FisherSettings)})
        self._words: tuple[Tensor, list[int]] | None = None

    def parts(self) -> list[FisherVectors]:
        """The mixtures."""
        return [self.fisher]

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """The mixtures, which are a part; then CCA."""
        self.begin(run)
        self.fisher, self._words = run.part(self.fisher), None
        self.correlate(self.moments(train, run), val, run, self.ridge_image, self.ridge_text)

    def text_dim(self, train: Split) -> int:
        """See Projections."""
        each = 2 * self.components * train.vector_shape[1]
        return len(self.fisher.names) * min(each, self.coordinates // len(self.fisher.names))

    def memory(self, train: Split) -> int:
        """Those of Projections, and a row of coordinates for each known word, twice."""
        return super().memory(train) + 8 * train.vector_shape[0] * self.text_dim(train)

    def text_view(self, split: Split) -> FisherRows:
        """(T, q) Fisher vectors."""
        counts, vectors = split.word_counts()
        if self._words is None:
            self._words = self._of_words(vectors)
        return FisherRows(counts, *self._words)

    def _of_words(self, vectors: Tensor) -> tuple[Tensor, list[int]]:
        """(W, q) what each word adds to the coordinates that are taken, and where each mixture's begin and end."""
        each = 2 * self.components * len(self.fisher.matrix)
        share = min(each, self.coordinates // len(self.fisher.names))
        draw = np.random.default_rng(0)
        taken = [torch.from_numpy(np.sort(draw.permutation(each)[:share])) for _ in self.fisher.names]
        blocks = (self.fisher.of_words(block) for block in torch.split(vectors, WORDS))
        rows = [
            torch.cat([part[:, some.to(part.device)] for part, some in zip(parts, taken, strict=True)], dim=1)
            for parts in blocks
        ]
        return torch.cat(rows), [share * k for k in range(len(taken) + 1)]

    def state(self) -> dict[str, Tensor]:
        """Those of the projections and of the mixtures."""
        return {**super().state(), **with_prefix("fisher", self.fisher.state())}

    def load(self, state: dict[str, Tensor]) -> None:
        """See `state`."""
        super().load(state)
        self.fisher.load(below("fisher", state))
        self._words = None
