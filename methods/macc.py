"""MACC: multimedia aggregated correlated components, a row of Tables 1 and 2.

A document, an image or a text, is a point in the space of KCCA.  It is completed with a second point: the mean of what
its nearest training documents of the same kind are paired with.  Its points are then aggregated on a codebook that both
kinds share:

    v_i = sum over points p with c_i among the n nearest codewords of (p - c_i),     v = [v_1 ... v_k], at unit length.

T. Q. N. Tran, H. Le Borgne, M. Crucianu, "Aggregating image and text quantized correlated components", CVPR 2016.  The
abstract says that projections of both kinds are aggregated on their aligned subspaces into a quantised representation,
and that neighbourhoods in these subspaces complete documents of one kind.  The rest is our reconstruction: the codebook
by k-means, the residuals, equal weights of neighbours, and all constants below, which validation chooses.

Their task is to find an image that illustrates a text.  Completing images helps in that direction and harms the other,
which may be why t2i is so much better than i2t in Tables 1 and 2; so validation considers t2i by default.

Memory: that of `kcca`, or that of the projections of the training images and texts, d numbers for each and some copies,
if it is larger; and k d numbers for each image or text that is embedded.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cran_bench import Part, Run, Split, register
from cran_bench.toolbox.states import below, with_prefix

from .kcca import KCCA, PAPER, QUICK

BLOCK = 512  # points whose neighbours are computed at a time


class Known(NamedTuple):
    """The training data in the space of KCCA, which completes documents.

    Attributes:
        images: (N, d) images at unit length.
        texts: (T, d) texts at unit length.
        texts_of_images: (N, d) mean of each image's texts.
        image_of: (T,) image of each text.
    """

    images: Tensor
    texts: Tensor
    texts_of_images: Tensor
    image_of: Tensor


class Constants(NamedTuple):
    """One combination of the constants that validation chooses, with the names of the fields of MACC."""

    codewords: int
    assignments: int
    signed_sqrt: bool
    neighbours: int = 1
    completion_image: float = 0.0
    completion_text: float = 0.0


PAPER_CONSTANTS = {
    "codewords": (64,),
    "assignments": (1,),
    "signed_sqrt": (False,),
    "neighbours": (10,),
    "completion_image": (1.0,),
    "completion_text": (1.0,),
}


@register(
    "macc",
    paper_row="MACC",
    presets={"paper": {**PAPER, **PAPER_CONSTANTS, "kcca_dim": 128}, "tuned": {}, "quick": QUICK},
    search={"image": ("sqrt", "l2", "none"), "vocabulary": (1500, 3000, 6000), "kcca_dim": (128, 256, 512)},
)
@dataclass
class MACC(KCCA):
    """Aggregation on top of KCCA, whose fit with the same fields is reused.

    Attributes:
        codewords: size k of the codebook.
        assignments: number n of codewords to which each point is assigned; with n = k nothing is quantised.
        signed_sqrt: whether signed square roots of v are taken before it is normalised.
        neighbours: number of training documents of the same kind that complete a document.
        completion_image: weight of the completion of an image relative to its own point; 0 for none.
        completion_text: weight of the completion of a text relative to its own point; 0 for none.
        kcca_dim: number d of dimensions of KCCA's projections that are used, the first ones.
        criterion: recalls that validation compares: those of `t2i`, or of `both` directions.
    """

    codewords: tuple[int, ...] = (64,)
    assignments: tuple[int, ...] = (1, 32, 64)
    signed_sqrt: tuple[bool, ...] = (False, True)
    neighbours: tuple[int, ...] = (5, 20, 50)
    completion_image: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4, 0.8)
    completion_text: tuple[float, ...] = (0.0, 0.2)
    kcca_dim: int = 256
    criterion: Literal["t2i", "both"] = "t2i"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(*self.codewords, *self.assignments, *self.neighbours, self.kcca_dim) < 1:
            raise ValueError("codewords, assignments, neighbours and kcca_dim are at least 1")
        if min(*self.completion_image, *self.completion_text) < 0:
            raise ValueError("completion_image and completion_text are at least 0")
        if min(self.assignments) > min(self.codewords):
            raise ValueError(f"assignments is {min(self.assignments)}, but there are {min(self.codewords)} codewords")
        self.kcca = KCCA(**{f.name: getattr(self, f.name) for f in fields(KCCA)})

    def parts(self) -> Sequence[Part]:
        return [self.kcca]

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Fit KCCA and a codebook for each k; choose the constants of aggregation first, then those of completion."""
        self.kcca = run.part(self.kcca)
        images, texts = self._points(self.kcca.embed_images(train)), self._points(self.kcca.embed_texts(train))
        sums = torch.zeros_like(images).index_add_(0, train.image_of, texts)
        counts = torch.bincount(train.image_of, minlength=len(images))
        self.known = Known(images, texts, sums / counts[:, None].clamp_min(1), train.image_of)
        books = {k: self._codebook(k, run) for k in self.codewords}
        seen, read = self._points(self.kcca.embed_images(val)), self._points(self.kcca.embed_texts(val))

        completed_images = {mu: self._completed_images(seen, mu) for mu in self.neighbours}
        completed_texts = {mu: self._completed_texts(read, mu) for mu in self.neighbours}

        @lru_cache(2)
        def images_by(by: Constants) -> Tensor:
            other = completed_images.get(by.neighbours)
            return _aggregated(seen, other, books[by.codewords], by, by.completion_image)

        @lru_cache(2)
        def texts_by(by: Constants) -> Tensor:
            return _aggregated(read, completed_texts.get(by.neighbours), books[by.codewords], by, by.completion_text)

        def recalls(by: Constants) -> float:
            # constants that a side does not use are the same for it, so that it is aggregated once for them
            metrics = run.score(
                images_by(by._replace(completion_text=0.0, neighbours=by.neighbours if by.completion_image else 0)),
                texts_by(by._replace(completion_image=0.0, neighbours=by.neighbours if by.completion_text else 0)),
            )
            if self.criterion == "both":
                return metrics.criterion
            return metrics.t2i_r1 + metrics.t2i_r5 + metrics.t2i_r10

        combinations = product(self.codewords, self.assignments, self.signed_sqrt)
        tried = [Constants(k, n, signed_sqrt) for k, n, signed_sqrt in combinations if n <= k]
        alone = max(run.progress(tried, "aggregation", len(tried)), key=recalls)
        weights = [pair for pair in product(self.completion_image, self.completion_text) if any(pair)]
        completed = [
            alone._replace(neighbours=mu, completion_image=a, completion_text=b)
            for mu in self.neighbours
            for a, b in weights
        ]
        if 0.0 in self.completion_image and 0.0 in self.completion_text:
            completed.insert(0, alone)
        self.chosen = max(run.progress(completed, "completion", len(completed)), key=recalls)
        self.codebook = books[self.chosen.codewords]
        run.chose(**self.chosen._asdict())

    def memory(self, train: Split) -> int:
        """Bytes at the peak of KCCA, or of its projections with their copies."""
        return max(self.kcca.memory(train), 4 * self.kcca_dim * (8 * len(train) + 10 * len(train.texts)))

    def _codebook(self, k: int, run: Run) -> Tensor:
        """(k, d) k-means centres of all training points."""
        from sklearn.cluster import KMeans  # type: ignore[import-untyped]
        from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]

        points = torch.cat([self.known.images, self.known.texts])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # raised for points that coincide
            means = KMeans(min(k, len(points)), n_init=1, random_state=run.seed).fit(points.cpu().numpy())
        return torch.from_numpy(means.cluster_centers_).to(points)

    def _points(self, projections: Tensor) -> Tensor:
        return normalize(projections[:, : self.kcca_dim], dim=1)

    def _completed_images(self, points: Tensor, mu: int) -> Tensor:
        return complete(points, self.known.images, self.known.texts_of_images, mu)

    def _completed_texts(self, points: Tensor, mu: int) -> Tensor:
        return complete(points, self.known.texts, self.known.images[self.known.image_of], mu)

    def embed_images(self, split: Split) -> Tensor:
        """(N, k d) image embeddings."""
        by, own = self.chosen, self._points(self.kcca.embed_images(split))
        other = self._completed_images(own, by.neighbours) if by.completion_image else None
        return _aggregated(own, other, self.codebook, by, by.completion_image)

    def embed_texts(self, split: Split) -> Tensor:
        """(T, k d) text embeddings."""
        by, own = self.chosen, self._points(self.kcca.embed_texts(split))
        other = self._completed_texts(own, by.neighbours) if by.completion_text else None
        return _aggregated(own, other, self.codebook, by, by.completion_text)

    def state(self) -> dict[str, Tensor]:
        """KCCA, the training data in its space, the codebook, and the constants chosen."""
        own = {"codebook": self.codebook, "chosen": torch.tensor(self.chosen, dtype=torch.float64)}
        return {**own, **with_prefix("known", self.known._asdict()), **with_prefix("kcca", self.kcca.state())}

    def load(self, state: dict[str, Tensor]) -> None:
        k, n, signed_sqrt, mu, a, b = state["chosen"].tolist()
        self.chosen = Constants(int(k), int(n), bool(signed_sqrt), int(mu), a, b)
        self.codebook = state["codebook"]
        self.known = Known(**below("known", state))
        self.kcca.load(below("kcca", state))


def _aggregated(own: Tensor, other: Tensor | None, codebook: Tensor, by: Constants, weight: float) -> Tensor:
    points = [(own, 1.0)]
    if other is not None and weight:
        points.append((other, weight))
    return aggregate(points, codebook, by.assignments, by.signed_sqrt)


def complete(points: Tensor, known: Tensor, paired: Tensor, mu: int) -> Tensor:
    """(n, d) unit vectors: the mean of the points that the nearest known points are paired with.

    Args:
        points: (n, d) points at unit length.
        known: (m, d) training points of the same kind at unit length.
        paired: (m, d) the point of the other kind that each known point is paired with.
        mu: number of nearest points; all where there are fewer.
    """
    means = torch.empty_like(points)
    for a in range(0, len(points), BLOCK):
        near = (points[a : a + BLOCK] @ known.T).topk(min(mu, len(known)), dim=1).indices
        means[a : a + BLOCK] = paired[near].mean(dim=1)
    return normalize(means, dim=1)


def aggregate(
    points: list[tuple[Tensor, float]], codebook: Tensor, assignments: int = 1, signed_sqrt: bool = False
) -> Tensor:
    """(n, k d) unit vectors: residuals of a document's points to their nearest codewords, summed by codeword.

    Args:
        points: (n, d) points, one of each document, and their weight, for each kind of point.
        codebook: (k, d) codewords.
        assignments: number of codewords to which a point is assigned.
        signed_sqrt: whether signed square roots are taken before normalisation.
    """
    k, d = codebook.shape
    n = len(points[0][0])
    residuals = codebook.new_zeros(n, k, d)
    rows = torch.arange(n, device=codebook.device)
    for x, weight in points:
        near = torch.cdist(x, codebook).topk(min(assignments, k), dim=1, largest=False).indices
        for codeword in near.T:
            residuals.index_put_((rows, codeword), weight * (x - codebook[codeword]), accumulate=True)
    flat = residuals.flatten(1)
    return normalize(flat.sign() * flat.abs().sqrt() if signed_sqrt else flat, dim=1)
