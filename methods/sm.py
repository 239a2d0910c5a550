"""SM: semantic matching, which compares the class probabilities of an image with those of a text.

    pi_I(x) = P(class | x),   pi_T(y) = P(class | y),   score(x, y) = cos(pi_I(x), pi_T(y))

Each modality has logistic regressions of its own, fitted on the training categories with a penalty |w|^2 / (2 C): one
for every class against the rest, whose probabilities are scaled to sum to 1 (the authors' code, by liblinear, which
penalises the bias too), or a multinomial one.  Where an image may have several categories, the probabilities of
one-vs-rest regressions are compared as they are.

N. Rasiwasia et al., "A new approach to cross-modal multimedia retrieval", ACM Multimedia 2010; J. Costa Pereira et al.,
"On the role of correlation and abstraction in cross-modal multimedia retrieval", PAMI 2014, who also subtract the mean
of the training data (`centred`).  The inner product (`dot`) is the probability that an image and a text belong to the
same class.  The choice matters as much as the regressions.  Whatever it is, texts of images with the same categories
are not told apart.

Memory: the covariances of the features as for `cca`, and 32 bytes for each training image or text and each dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid

from cran_bench import COSINE, DOT, BadInput, Run, Split, register
from cran_bench.toolbox.linalg import Matrix

from ._labelled import Labelled, LabelledRows, Standardized
from ._linear import ImageScaling

Kind = Literal["ovr", "multinomial"]
LINKS = ("softmax", "normalised", "sigmoids")
SEARCH: dict[str, tuple[str | int, ...]] = {
    "compare": ("cosine", "centred", "dot"),
    "text": ("tfidf", "bow", "vectors"),
    "vocabulary": (1500, 3000, 6000),
}
STOP = 0.01  # liblinear's own tolerance, as in the authors' code
ITERATIONS = 5000


def regression(rows: NDArray[np.float32], labels: NDArray[np.uint8], kind: Kind, C: float) -> tuple[Matrix, Matrix]:
    """Weights (k, C) and biases (C,) of logistic regressions on rows (n, k) with multi-hot labels (n, C)."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    if kind == "ovr":
        model = LogisticRegression(C=C, solver="liblinear", tol=STOP)
        fits = [(model.coef_[0], model.intercept_[0]) for model in (model.fit(rows, z) for z in labels.T)]
        return np.stack([w for w, _ in fits], axis=1), np.array([b for _, b in fits])
    model = LogisticRegression(C=C, max_iter=ITERATIONS).fit(rows, labels.argmax(axis=1))
    weights, biases = model.coef_.T, model.intercept_
    return (weights, biases) if len(biases) > 1 else (np.hstack([0 * weights, weights]), np.append(0.0, biases))


def probabilities(logits: Tensor, link: str) -> Tensor:
    """(n, C) probabilities from logits: their `softmax`, or sigmoids, which are `normalised` to sum to 1 or not."""
    if link == "sigmoids":
        return logits.sigmoid()
    return (logsigmoid(logits) if link == "normalised" else logits).softmax(dim=1)


def principal_components(covariance: Matrix, dim: int, power: float) -> Matrix:
    """(p, k) projection on at most `dim` principal components, of standard deviations to this power."""
    p = len(covariance)
    variances, W = scipy.linalg.eigh(covariance, subset_by_index=[max(0, p - dim), p - 1])
    kept = (variances > 1e-12 * variances[-1]) | (power >= 1)
    return np.asarray(W[:, kept] * variances[kept].clip(0) ** ((power - 1) / 2))[:, ::-1]


class Projected(NamedTuple):
    """Training rows of one side that regressions are fitted on.

    Attributes:
        W: (p, k) the projection of the features.
        rows: (n, k) the projected features.
        labels: (n, C) their multi-hot categories.
    """

    W: Tensor
    rows: Tensor
    labels: NDArray[np.uint8]

    def learn(self, kind: Kind, C: float, link: str) -> tuple[Tensor, Tensor, Tensor]:
        """The map (p, C) to logits, their biases (C,), and the mean of the probabilities (C,)."""
        V, bias = (torch.from_numpy(x).to(self.W) for x in regression(self.rows.cpu().numpy(), self.labels, kind, C))
        logits = self.rows @ V.float() + bias.float()
        return (self.W @ V).contiguous(), bias.float(), probabilities(logits, link).mean(dim=0)


@register(
    "sm",
    presets={
        "paper": {"C": (30.0,), "regression": ("ovr",), "compare": "cosine", "standardize": False},
        "tuned": {},
    },
    search=SEARCH,
)
@dataclass
class SM(Labelled):
    """Logistic regressions on features, or on their first principal components.

    Attributes:
        dim: principal components of the features, at most; as many as features change nothing.
        power: each component has its standard deviation to this power; 1 for the features as they are.
        compare: how the probabilities of an image and a text are compared: by `cosine`, by cosine after their training
            means are subtracted (`centred`, for images with several categories), or by inner product (`dot`).
        C: inverse strength of the penalty.
        regression: `ovr` for one regression for each class, or `multinomial`, which takes images with one category.
    """

    image: ImageScaling = "none"
    text_scaling: ImageScaling = "none"
    dim: tuple[int, ...] = (512,)
    power: tuple[float, ...] = (1.0,)
    compare: Literal["cosine", "centred", "dot"] = field(default="dot", metadata={"label": "always"})
    C: tuple[float, ...] = (0.01, 0.1, 1.0, 30.0)
    regression: tuple[Kind, ...] = ("ovr", "multinomial")

    refits = True
    learned: ClassVar = ("mean_x", "mean_y", "Wx", "Wy", "bias_x", "bias_y", "prior_x", "prior_y", "link")
    subspace: ClassVar[tuple[str, ...]] = ("dim", "power")
    """Fields that determine the projections."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.C) <= 0:
            raise ValueError(f"C is above 0, not {min(self.C)}")
        self.similarity = DOT if self.compare == "dot" else COSINE

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Choose the value of one field after the other, beginning with the middle of each."""
        self.begin(run)
        rows = self.labelled(train, run)
        rows = rows._replace(of_images=rows.of_images[:, ~rows.of_images.all(axis=0)])  # what all have tells nothing
        z = self.standardized(self.moments(rows.split, run), len(rows.split.texts))
        grid: dict[str, list[Any]] = {name: list(getattr(self, name)) for name in (*self.subspace, "C")}
        grid["regression"] = self.kinds_for(rows)
        chosen = {name: values[len(values) // 2] for name, values in grid.items()}

        def candidates() -> Iterator[dict[str, Any]]:
            yield dict(chosen)
            for name, values in grid.items():
                rest = [value for k, value in enumerate(values) if k != len(values) // 2]
                yield from ({**chosen, name: value} for value in rest)

        space: dict[str, Any] = {}
        for tried in run.progress(candidates(), "regressions", 1 + sum(len(values) - 1 for values in grid.values())):
            if space != (space := {name: tried[name] for name in self.subspace}):
                images, texts = self.project(rows, self.projections(z, **space), run)
            link = "softmax" if tried["regression"] == "multinomial" else "normalised" if rows.single else "sigmoids"
            self.link = torch.tensor(LINKS.index(link))
            self.Wx, self.bias_x, self.prior_x = images.learn(tried["regression"], tried["C"], link)
            self.Wy, self.bias_y, self.prior_y = texts.learn(tried["regression"], tried["C"], link)
            score = run.score(self.embed_images(val), self.embed_texts(val)).criterion
            if score > self.best:
                self.best, best = score, self.state()
                chosen.update(tried)
                run.chose(**chosen)
        self.load(best)

    def kinds_for(self, rows: LabelledRows) -> list[Kind]:
        """The kinds of regression that the categories allow.

        Raises:
            BadInput: images have several categories, and only multinomial regression is asked for.
        """
        kinds = [kind for kind in self.regression if kind == "ovr" or rows.single]
        if not kinds:
            raise BadInput(
                f"multinomial regression takes images with one category each, and some have several ({self.labels}): "
                "use regression=ovr"
            )
        return kinds

    def projections(self, z: Standardized, dim: int, power: float) -> tuple[Matrix, Matrix]:
        """Principal components of images (p, k) and texts (q, k')."""
        if not self.standardize:  # features as they are, as their origin matters to a penalised bias
            self.mean_x, self.mean_y = torch.zeros_like(self.mean_x), torch.zeros_like(self.mean_y)
        A, B = (principal_components(S, dim, power) for S in (z.moments.xx, z.moments.yy))
        return A / z.s_x[:, None], B / z.s_y[:, None]

    def project(self, rows: LabelledRows, projections: tuple[Matrix, Matrix], run: Run) -> tuple[Projected, Projected]:
        """The training images and texts."""
        A, B = (torch.from_numpy(np.ascontiguousarray(W)).to(run.device) for W in projections)
        images, texts = self.project_images(rows.split, A), self.project_texts(rows.split, B)
        return Projected(A, images, rows.of_images), Projected(B, texts, rows.of_texts)

    def embed_images(self, split: Split) -> Tensor:
        """(N, C) probabilities of the classes."""
        return self.compared(self.project_images(split, self.Wx) + self.bias_x, self.prior_x)

    def embed_texts(self, split: Split) -> Tensor:
        """(T, C) probabilities of the classes."""
        return self.compared(self.project_texts(split, self.Wy) + self.bias_y, self.prior_y)

    def compared(self, logits: Tensor, prior: Tensor) -> Tensor:
        """(n, C) probabilities for these logits, without their training means (C,) if they are compared so."""
        found = probabilities(logits, LINKS[int(self.link)])
        return found - prior if self.compare == "centred" else found

    def memory(self, train: Split) -> int:
        """Bytes of the covariances, and of projected features with the copies that a regression makes."""
        dim = min(max(self.dim), max(train.image_dim, self.text_dim(train)))
        return super().memory(train) + 32 * dim * (len(train) + len(train.texts))
