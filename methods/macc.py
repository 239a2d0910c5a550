"""MACC: multimedia aggregated correlated components, a row of Tables 1 and 2.

In the space of KCCA a document, an image or a text, is completed with what its neighbours of its own kind have on the
other side, and the points it then has are aggregated on a codebook that both kinds share:

    v_i = sum over points p with c_i among the n nearest codewords of (p - c_i),     v = [v_1 ... v_k], at unit length.

T. Q. N. Tran, H. Le Borgne, M. Crucianu, "Aggregating image and text quantized correlated components", CVPR 2016.  That
paper's abstract says that projections of both kinds are aggregated on their aligned subspaces into a quantised
representation, and that neighbourhoods in these subspaces complete documents of one kind.  The rest is reconstruction:
the codebook by k-means, the residuals, uniform neighbours, and every constant below, which validation chooses.

Memory: beyond that of `kcca`, the projections of the training images and texts, and k d numbers for each image or text
that is embedded, of which only the blocks of its nearest codewords are computed.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from itertools import product
from typing import NamedTuple

import torch
from sklearn.cluster import KMeans  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn.functional import normalize

from cran_bench import Run, Split, register
from cran_bench.states import below, with_prefix

from .kcca import KCCA, PAPER, QUICK

BLOCK = 512  # points whose neighbours are sought together


class Known(NamedTuple):
    """The training data in the space: what completes a document.

    Attributes:
        images: (N, d) unit length.
        texts: (T, d) likewise.
        texts_of_images: (N, d) the mean of each image's texts.
        image_of: (T,) the image of each text.
    """

    images: Tensor
    texts: Tensor
    texts_of_images: Tensor
    image_of: Tensor


@register(
    "macc",
    paper_row="MACC",
    presets={"paper": {**PAPER, "codewords": (64,), "neighbours": (10,), "share": (1.0,)}, "tuned": {}, "quick": QUICK},
)
@dataclass
class MACC(KCCA):
    """Hyper-parameters beyond those of KCCA, whose fit with the same fields is taken.

    Attributes:
        codewords: k.
        nearest: n, codewords that a point counts for.
        neighbours: mu, training documents of the same kind that complete one.
        share: of the completion beside the document's own point; 0 for none.
        space: d, the first dimensions of KCCA's projections.
        root: signed square roots of v before its length is taken.
    """

    codewords: tuple[int, ...] = (16, 64)
    nearest: int = 1
    neighbours: tuple[int, ...] = (5, 20, 50)
    share: tuple[float, ...] = (0.0, 0.5, 1.0)
    space: int = 128
    root: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(*self.codewords, self.nearest, *self.neighbours, self.space) < 1 or min(self.share) < 0:
            raise ValueError("codewords, nearest, neighbours and space are at least 1, share is at least 0")
        if self.nearest > min(self.codewords):
            raise ValueError(f"nearest is {self.nearest}, but there are {min(self.codewords)} codewords")
        self.kcca = KCCA(**{f.name: getattr(self, f.name) for f in fields(KCCA)})

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """The space, a codebook for each k, and the constants that are best on validation."""
        self.kcca = run.part(self.kcca)
        images, texts = self._points(self.kcca.embed_images(train)), self._points(self.kcca.embed_texts(train))
        sums = torch.zeros_like(images).index_add_(0, train.image_of, texts)
        counts = torch.bincount(train.image_of, minlength=len(images))
        self.known = Known(images, texts, sums / counts[:, None].clamp_min(1), train.image_of)
        self.best = -1.0
        seen, read = self._points(self.kcca.embed_images(val)), self._points(self.kcca.embed_texts(val))
        completions = {
            mu: (complete(seen, images, self.known.texts_of_images, mu), self._completed_texts(read, mu))
            for mu in self.neighbours
        }
        tried = [
            (k, mu, share)
            for k, share, mu in product(self.codewords, self.share, self.neighbours)
            if share or mu == self.neighbours[0]
        ]
        books = {k: self._codebook(k, run) for k in self.codewords}
        for k, mu, share in run.progress(tried, "constants", len(tried)):
            images_of, texts_of = completions[mu]
            rsum = run.score(
                self._aggregated(seen, images_of, books[k], share), self._aggregated(read, texts_of, books[k], share)
            ).rsum
            if rsum > self.best:
                self.best, self.codebook = rsum, books[k]
                self.chosen = torch.tensor([mu, share], dtype=torch.float64)
                run.chose(codewords=k, neighbours=mu, share=share)

    def _codebook(self, k: int, run: Run) -> Tensor:
        """(k, d) centres of all training points."""
        points = torch.cat([self.known.images, self.known.texts])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of points that are alike
            means = KMeans(min(k, len(points)), n_init=1, random_state=run.seed).fit(points.cpu().numpy())
        return torch.from_numpy(means.cluster_centers_).to(points)

    def _points(self, projections: Tensor) -> Tensor:
        return normalize(projections[:, : self.space], dim=1)

    def _completed_texts(self, points: Tensor, mu: int) -> Tensor:
        known = self.known
        return complete(points, known.texts, known.images[known.image_of], mu)

    def _aggregated(self, own: Tensor, other: Tensor, codebook: Tensor, share: float) -> Tensor:
        return aggregate([(own, 1.0), (other, share)], codebook, self.nearest, self.root)

    def embed_images(self, split: Split) -> Tensor:
        """(N, k d)."""
        mu, share = self.chosen.tolist()
        own = self._points(self.kcca.embed_images(split))
        other = complete(own, self.known.images, self.known.texts_of_images, int(mu))
        return self._aggregated(own, other, self.codebook, share)

    def embed_texts(self, split: Split) -> Tensor:
        """(T, k d)."""
        mu, share = self.chosen.tolist()
        own = self._points(self.kcca.embed_texts(split))
        return self._aggregated(own, self._completed_texts(own, int(mu)), self.codebook, share)

    def state(self) -> dict[str, Tensor]:
        """The space, the training data in it, the codebook, and the constants chosen."""
        own = {"codebook": self.codebook, "chosen": self.chosen}
        return {**own, **with_prefix("known", self.known._asdict()), **with_prefix("kcca", self.kcca.state())}

    def load(self, state: dict[str, Tensor]) -> None:
        """See `state`."""
        self.codebook, self.chosen = state["codebook"], state["chosen"]
        self.known = Known(**below("known", state))
        self.kcca.load(below("kcca", state))


def complete(points: Tensor, known: Tensor, paired: Tensor, mu: int) -> Tensor:
    """What the `mu` nearest of the known points are paired with, on average, at unit length.

    Args:
        points: (n, d) unit length.
        known: (m, d) unit length, of the same kind.
        paired: (m, d) what each is paired with, of the other kind.
        mu: how many; all where there are fewer.
    """
    found = torch.empty_like(points)
    for a in range(0, len(points), BLOCK):
        near = (points[a : a + BLOCK] @ known.T).topk(min(mu, len(known)), dim=1).indices
        found[a : a + BLOCK] = paired[near].mean(dim=1)
    return normalize(found, dim=1)


def aggregate(points: list[tuple[Tensor, float]], codebook: Tensor, nearest: int = 1, root: bool = False) -> Tensor:
    """(n, k d) residuals of a document's points to their nearest codewords, summed by codeword, at unit length.

    Args:
        points: (n, d) points of each document, and their weight.
        codebook: (k, d).
        nearest: codewords that a point counts for.
        root: signed square roots before the length is taken.
    """
    k, d = codebook.shape
    n = len(points[0][0])
    found = codebook.new_zeros(n, k, d)
    rows = torch.arange(n, device=codebook.device)
    for x, weight in points:
        if not weight:
            continue
        near = torch.cdist(x, codebook).topk(min(nearest, k), dim=1, largest=False).indices
        for place in near.T:
            found.index_put_((rows, place), weight * (x - codebook[place]), accumulate=True)
    flat = found.flatten(1)
    return normalize(flat.sign() * flat.abs().sqrt() if root else flat, dim=1)
