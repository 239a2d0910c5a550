"""MACC: multimedia aggregated correlated components, a row of Tables 1 and 2.

In the space of KCCA a document, an image or a text, is completed with what its neighbours of its own kind have on the
other side, and the points it then has are aggregated on a codebook that both kinds share:

    v_i = sum over points p with c_i among the n nearest codewords of (p - c_i),     v = [v_1 ... v_k], at unit length.

T. Q. N. Tran, H. Le Borgne, M. Crucianu, "Aggregating image and text quantized correlated components", CVPR 2016.  That
paper's abstract says that projections of both kinds are aggregated on their aligned subspaces into a quantised
representation, and that neighbourhoods in these subspaces complete documents of one kind.  The rest is reconstruction:
the codebook by k-means, the residuals, uniform neighbours, and every constant below, which validation chooses.

Their task is to illustrate a text: to find its image.  Completing images helps there and harms the other direction,
which may be why the row has so much better t2i than i2t in Tables 1 and 2; so validation looks at t2i by default.

Memory: that of `kcca`, or if it is more the projections of the training images and texts, d numbers for each and some
copies; and k d numbers for each image or text that is embedded.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn.functional import normalize

from cran_bench import Run, Split, register
from cran_bench.contract import Part
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


class Constants(NamedTuple):
    """What validation chooses; see MACC."""

    codewords: int
    nearest: int
    root: bool
    neighbours: int = 1
    share_image: float = 0.0
    share_text: float = 0.0


PAPER_CONSTANTS = {
    "codewords": (64,),
    "nearest": (1,),
    "root": (False,),
    "neighbours": (10,),
    "share_image": (1.0,),
    "share_text": (1.0,),
}


@register(
    "macc", paper_row="MACC", presets={"paper": {**PAPER, **PAPER_CONSTANTS, "space": 128}, "tuned": {}, "quick": QUICK}
)
@dataclass
class MACC(KCCA):
    """Hyper-parameters beyond those of KCCA, whose fit with the same fields is taken.

    Attributes:
        codewords: k.
        nearest: n, codewords that a point counts for; with n = k nothing is quantised.
        root: signed square roots of v before its length is taken.
        neighbours: mu, training documents of the same kind that complete one.
        share_image: of the completion beside an image's own point; 0 for none.
        share_text: likewise beside a text's.
        space: d, the first dimensions of KCCA's projections.
        goal: what validation compares: the recalls of `t2i`, or of `both` directions.
    """

    codewords: tuple[int, ...] = (64,)
    nearest: tuple[int, ...] = (1, 32, 64)
    root: tuple[bool, ...] = (False, True)
    neighbours: tuple[int, ...] = (5, 20, 50)
    share_image: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4, 0.8)
    share_text: tuple[float, ...] = (0.0, 0.2)
    space: int = 256
    goal: Literal["t2i", "both"] = "t2i"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(*self.codewords, *self.nearest, *self.neighbours, self.space) < 1:
            raise ValueError("codewords, nearest, neighbours and space are at least 1")
        if min(*self.share_image, *self.share_text) < 0:
            raise ValueError("share_image and share_text are at least 0")
        if min(self.nearest) > min(self.codewords):
            raise ValueError(f"nearest is {min(self.nearest)}, but there are {min(self.codewords)} codewords")
        self.kcca = KCCA(**{f.name: getattr(self, f.name) for f in fields(KCCA)})

    def parts(self) -> Sequence[Part]:
        """The space."""
        return [self.kcca]

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """The space, a codebook for each k; how points are aggregated is chosen first, then what completes them."""
        self.kcca = run.part(self.kcca)
        images, texts = self._points(self.kcca.embed_images(train)), self._points(self.kcca.embed_texts(train))
        sums = torch.zeros_like(images).index_add_(0, train.image_of, texts)
        counts = torch.bincount(train.image_of, minlength=len(images))
        self.known = Known(images, texts, sums / counts[:, None].clamp_min(1), train.image_of)
        books = {k: self._codebook(k, run) for k in self.codewords}
        seen, read = self._points(self.kcca.embed_images(val)), self._points(self.kcca.embed_texts(val))

        completed_images = {mu: self._completed_images(seen, mu) for mu in self.neighbours}
        completed_texts = {mu: self._completed_texts(read, mu) for mu in self.neighbours}

        def best_of(tried: list[Constants], label: str) -> Constants:
            def recalls(by: Constants) -> float:
                book, mu = books[by.codewords], by.neighbours
                found = run.score(
                    _aggregated(seen, completed_images.get(mu), book, by, by.share_image),
                    _aggregated(read, completed_texts.get(mu), book, by, by.share_text),
                )
                return found.rsum if self.goal == "both" else found.t2i_r1 + found.t2i_r5 + found.t2i_r10

            scores = [recalls(constants) for constants in run.progress(tried, label, len(tried))]
            return tried[int(np.argmax(scores))]

        ways = product(self.codewords, self.nearest, self.root)
        alone = best_of([Constants(k, n, root) for k, n, root in ways if n <= k], "aggregation")
        shares = [pair for pair in product(self.share_image, self.share_text) if any(pair)]
        completed = [
            alone._replace(neighbours=mu, share_image=a, share_text=b) for mu in self.neighbours for a, b in shares
        ]
        if 0.0 in self.share_image and 0.0 in self.share_text:
            completed.insert(0, alone)
        self.chosen = best_of(completed, "completion")
        self.codebook = books[self.chosen.codewords]
        run.chose(**self.chosen._asdict())

    def memory(self, train: Split) -> int:
        """That of KCCA, or what is made of its projections."""
        return max(self.kcca.memory(train), 4 * self.space * (8 * len(train) + 10 * len(train.texts)))

    def _codebook(self, k: int, run: Run) -> Tensor:
        """(k, d) centres of all training points."""
        points = torch.cat([self.known.images, self.known.texts])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of points that are alike
            means = KMeans(min(k, len(points)), n_init=1, random_state=run.seed).fit(points.cpu().numpy())
        return torch.from_numpy(means.cluster_centers_).to(points)

    def _points(self, projections: Tensor) -> Tensor:
        return normalize(projections[:, : self.space], dim=1)

    def _completed_images(self, points: Tensor, mu: int) -> Tensor:
        return complete(points, self.known.images, self.known.texts_of_images, mu)

    def _completed_texts(self, points: Tensor, mu: int) -> Tensor:
        return complete(points, self.known.texts, self.known.images[self.known.image_of], mu)

    def embed_images(self, split: Split) -> Tensor:
        """(N, k d)."""
        by, own = self.chosen, self._points(self.kcca.embed_images(split))
        other = self._completed_images(own, by.neighbours) if by.share_image else None
        return _aggregated(own, other, self.codebook, by, by.share_image)

    def embed_texts(self, split: Split) -> Tensor:
        """(T, k d)."""
        by, own = self.chosen, self._points(self.kcca.embed_texts(split))
        other = self._completed_texts(own, by.neighbours) if by.share_text else None
        return _aggregated(own, other, self.codebook, by, by.share_text)

    def state(self) -> dict[str, Tensor]:
        """The space, the training data in it, the codebook, and the constants chosen."""
        own = {"codebook": self.codebook, "chosen": torch.tensor(self.chosen, dtype=torch.float64)}
        return {**own, **with_prefix("known", self.known._asdict()), **with_prefix("kcca", self.kcca.state())}

    def load(self, state: dict[str, Tensor]) -> None:
        """See `state`."""
        k, n, root, mu, a, b = state["chosen"].tolist()
        self.chosen = Constants(int(k), int(n), bool(root), int(mu), a, b)
        self.codebook = state["codebook"]
        self.known = Known(**below("known", state))
        self.kcca.load(below("kcca", state))


def _aggregated(own: Tensor, other: Tensor | None, codebook: Tensor, by: Constants, share: float) -> Tensor:
    points = [(own, 1.0)]
    if other is not None and share:
        points.append((other, share))
    return aggregate(points, codebook, by.nearest, by.root)


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
        near = torch.cdist(x, codebook).topk(min(nearest, k), dim=1, largest=False).indices
        for place in near.T:
            found.index_put_((rows, place), weight * (x - codebook[place]), accumulate=True)
    flat = found.flatten(1)
    return normalize(flat.sign() * flat.abs().sqrt() if root else flat, dim=1)
