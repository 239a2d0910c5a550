"""GMM+HGLMM: Fisher vectors of word vectors, and CCA; a row of Tables 1 and 2.

A text is the set of its word vectors.  Two mixture models are fitted to word vectors, a mixture of Gaussians (GMM) and
one that chooses a Gaussian or a Laplacian for each component and dimension (HGLMM).  The Fisher vector of a text is the
gradient of a mixture's log-likelihood at its words; the two Fisher vectors are concatenated and enter CCA with the
images, whose directions are weighted by their correlations.  B. Klein, G. Lev, G. Sadeh, L. Wolf, "Associating neural
word embeddings with deep image representations using Fisher vectors", CVPR 2015.

Memory: the Fisher vectors of all W known words, 8 W q bytes with a copy, and the covariances of `cca`; the Fisher
vectors of texts are computed in blocks.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn.functional import normalize

from cran_bench import Run, Split, register, say
from cran_bench.toolbox.mixtures import Mixture, fit_mixture, started
from cran_bench.toolbox.states import below, with_prefix

from ._linear import Projections

WORDS = 256  # Fisher vectors of words computed at a time
ICA_STEPS = 200


@dataclass
class FisherSettings:
    """The Fisher vectors of words.

    Attributes:
        sample: number of random word vectors on which the transform and the mixtures are fitted.
        transform: transform of word vectors at unit length, `ica`, `pca` or `none`, after which they are normalised
            again.
        hglmm_scale: factor of the vectors for the HGLMM, so that few of its variances are at their floor.
        components: number K of components of each mixture.
        hglmm_iterations: EM iterations of the HGLMM.
        gmm_iterations: EM iterations of the GMM.
        hglmm_floor: smallest variance and smallest mean absolute deviation in the HGLMM.
        gmm_floor: smallest variance in the GMM.
        models: mixtures whose Fisher vectors are used: `both`, `hglmm` or `gmm`.
    """

    sample: int = 300_000
    transform: Literal["ica", "pca", "none"] = "ica"
    hglmm_scale: float = 10.0
    components: int = 30
    hglmm_iterations: int = 10
    gmm_iterations: int = 100
    hglmm_floor: float = 1e-3
    gmm_floor: float = 1e-6
    models: Literal["both", "hglmm", "gmm"] = "both"

    def __post_init__(self) -> None:
        if min(self.sample, self.components) < 1 or min(self.hglmm_iterations, self.gmm_iterations) < 0:
            raise ValueError("sample and components are at least 1, hglmm_iterations and gmm_iterations at least 0")
        if min(self.hglmm_scale, self.hglmm_floor, self.gmm_floor) <= 0:
            raise ValueError("hglmm_scale, hglmm_floor and gmm_floor are above 0")


@dataclass
class FisherVectors(FisherSettings):
    """The transform and the mixtures, fitted to word vectors alone."""

    part_name: ClassVar[str] = "fisher-vectors"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mixtures: dict[str, Mixture] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the mixtures."""
        return ("gmm", "hglmm") if self.models == "both" else (self.models,)

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Fit the transform, then each mixture by EM."""
        vectors = normalize(train.vector_sample(self.sample, run.seed), dim=1)
        vectors = vectors[vectors.any(dim=1)]
        if len(vectors) < self.components:
            say(f"{len(vectors)} word vectors are fewer than the {self.components} components of the mixtures")
        self.matrix = self._learn_transform(vectors, run)
        points = self._transformed(vectors)
        for name in self.names:
            hybrid = name == "hglmm"
            x = points * self.hglmm_scale if hybrid else points
            count = self.hglmm_iterations if hybrid else self.gmm_iterations
            self.mixtures[name], curve = fit_mixture(
                x,
                started(x, self.components, run.seed, hybrid),
                run.progress(range(count), f"{name}: steps of EM", count),
                self.hglmm_floor if hybrid else self.gmm_floor,
                hybrid,
            )
            for step, value in enumerate(curve):
                run.log(**{"step": step, f"{name}_log_likelihood": value})

    def _learn_transform(self, vectors: Tensor, run: Run) -> Tensor:
        from sklearn.decomposition import PCA, FastICA  # type: ignore[import-untyped]
        from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]

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
        """Fisher vectors (W, 2 K D') of words (W, D), for each mixture; that of a text is their sum over its words."""
        points = self._transformed(normalize(vectors, dim=1))
        scales = {"gmm": 1.0, "hglmm": self.hglmm_scale}
        return [self.mixtures[name].scores(points * scales[name]) for name in self.names]

    def state(self) -> dict[str, Tensor]:
        """The transform and the mixtures."""
        state = {"matrix": self.matrix}
        for name, mixture in self.mixtures.items():
            state |= with_prefix(name, vars(mixture))
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        self.matrix = state["matrix"]
        self.mixtures = {name: Mixture(**below(name, state)) for name in self.names}


class FisherRows:
    """The Fisher vectors of T texts, computed when rows are read.

    Args:
        counts: (T, W) counts of the known words.
        words: (W, q) Fisher vectors of the words.
        parts: first column of each mixture, and q.
    """

    def __init__(self, counts: sparse.csr_array, words: Tensor, parts: list[int]) -> None:
        self._counts, self._words, self._parts = counts, words.cpu().numpy(), parts
        self._device = words.device
        self.shape = (counts.shape[0], words.shape[1])

    def __getitem__(self, rows: slice) -> Tensor:
        """(n, q) float32: signed square roots, normalised for each mixture; zero for a text without a known word."""
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
            "fisher_dim": 20_000,
            "dim": (4096,),
            "power": (1.0,),
            "ridge_image": (5e-5,),
            "ridge_text": (5e-5,),
        },
        "tuned": {},
        "quick": {"fisher_dim": 600, "gmm_iterations": 20, "components": 10},
    },
    search={"image": ("sqrt", "l2", "none"), "fisher_dim": (3000, 6000, 12_000), "components": (20, 30, 40)},
)
@dataclass
class GMMHGLMM(FisherSettings, Projections):
    """CCA of image features and Fisher vectors.

    Attributes:
        ridge_image: rx of CCA, as a fraction of the largest variance of the image view.
        ridge_text: ry of CCA, as a fraction of the largest variance of the text view.
        fisher_dim: number of random coordinates of the Fisher vectors that enter CCA, equally many of each mixture; all
            where there are fewer.
    """

    ridge_image: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 2e-2, 5e-2)
    ridge_text: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 2e-2)
    fisher_dim: int = 6000

    def __post_init__(self) -> None:
        FisherSettings.__post_init__(self)
        Projections.__post_init__(self)
        if min(*self.ridge_image, *self.ridge_text) < 0:
            raise ValueError("ridge_image and ridge_text are not negative")
        if self.fisher_dim < 2:
            raise ValueError(f"fisher_dim is at least 2, not {self.fisher_dim}")
        self.fisher = FisherVectors(**{f.name: getattr(self, f.name) for f in fields(FisherSettings)})
        self._words: tuple[Tensor, list[int]] | None = None

    def parts(self) -> list[FisherVectors]:
        return [self.fisher]

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Fit the mixtures, as a part, then CCA."""
        self.begin(run)
        self.fisher, self._words = run.part(self.fisher), None
        self.correlate(self.moments(train, run), val, run, self.ridge_image, self.ridge_text)

    def text_dim(self, train: Split) -> int:
        each = 2 * self.components * train.vector_shape[1]
        return len(self.fisher.names) * min(each, self.fisher_dim // len(self.fisher.names))

    def memory(self, train: Split) -> int:
        """Bytes of the covariances, and of two copies of the Fisher vectors of all known words."""
        return super().memory(train) + 8 * train.vector_shape[0] * self.text_dim(train)

    def text_view(self, split: Split) -> FisherRows:
        """(T, q) Fisher vectors."""
        counts, vectors = split.word_counts()
        if self._words is None:
            self._words = self._of_words(vectors)
        return FisherRows(counts, *self._words)

    def _of_words(self, vectors: Tensor) -> tuple[Tensor, list[int]]:
        """The chosen coordinates (W, q) of the words' Fisher vectors, and the first column of each mixture, and q."""
        each = 2 * self.components * len(self.fisher.matrix)
        share = min(each, self.fisher_dim // len(self.fisher.names))
        draw = np.random.default_rng(0)
        taken = [torch.from_numpy(np.sort(draw.permutation(each)[:share])) for _ in self.fisher.names]
        blocks = (self.fisher.of_words(block) for block in torch.split(vectors, WORDS))
        rows = [
            torch.cat([part[:, some.to(part.device)] for part, some in zip(parts, taken, strict=True)], dim=1)
            for parts in blocks
        ]
        return torch.cat(rows), [share * k for k in range(len(taken) + 1)]

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), **with_prefix("fisher", self.fisher.state())}

    def load(self, state: dict[str, Tensor]) -> None:
        super().load(state)
        self.fisher.load(below("fisher", state))
        self._words = None
