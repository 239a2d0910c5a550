"""S2UPG: semi-supervised unified patch graph, row-sparse regression to categories with one hypergraph over both sides.

    min  mu (||H (X P - Z)||^2 + ||H (Y Q - Z)||^2) + sigma tr O'L O + gamma (||P||_{2,1} + ||Q||_{2,1})

over P (p x C) and Q (q x C), for standardised images X and texts Y, categories Z, O = [X P; Y Q] and H = I - 11'/n.
Every image and every text has a hyperedge, which holds its k nearest neighbours in the space of O and is found anew
for every update.  With incidence matrix N (vertices x edges),

    L = I - D_v^-1/2 N D_e^-1 N' D_v^-1/2      (paper);       I - D_v^-1 N D_e^-1 N' D_v^-1, D_v one larger      (code).

An image is the mean of its feature and of the mean of its patches, the regions; a text likewise, with sentences as
patches.  Patches are projected by the same P and Q.  The categories of the nearest training items vote as in `jrl`, the
items being images, texts and their patches; a vote of a patch counts 0.85 for a whole, and that of a whole for a patch.
The score is w times the inner product of the votes of the wholes, plus the mean of those of all pairs of patches; w = 5
for image queries and 1 for text queries.  Y. Peng, X. Zhai, Y. Zhao, X. Huang, "Semi-supervised cross-media feature
learning with unified patch graph regularization", IEEE TCSVT 2016.

The paper's graph includes test data, which no method sees here.  At the released weight the hypergraph does nothing: on
the Wikipedia data, without patches, the mean average precision of `code` is .326 / .246 with it and without.

Memory: as `jrl`, with the votes of all patches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from cran_bench import DOT, FeatureRows, MissingFeature, Pairwise, Run, Similarity, Split, register
from cran_bench.toolbox.kernels import Rows, dense, dense_blocks
from cran_bench.toolbox.linalg import Matrix, deviations
from cran_bench.toolbox.states import below, with_prefix

from ._graphs import MOST_CATEGORIES, SAMPLE, SEARCH, Quadratic, Sums, Voters, Voting, hypergraph, minimise, votes
from ._labelled import LabelledRows
from ._linear import scaled

RELEASED = {
    **{"gamma": (1000.0,), "sigma": (0.1,), "ridge": (0.0,), "neighbours": (100,), "fit_weight": 10.0},
    **{"whole_i2t": 5.0, "whole_t2i": 1.0},
}
TILE = 512, 2048
OTHER_KIND = 0.85  # of the vote of a patch for a whole, and of a whole for a patch
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=\w)")

Side = Literal["image", "text"]
SIDES: tuple[Side, Side] = ("image", "text")


def sentences(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Divide texts after full stops, exclamation and question marks; also the text of each sentence."""
    parts = [(sentence, k) for k, text in enumerate(texts) for sentence in SENTENCE.split(text.strip())]
    return [sentence for sentence, _ in parts], [k for _, k in parts]


def rooted(rows: Rows, root: int) -> Rows:
    """Signed roots of (n, D) features."""
    if root == 1:
        return rows
    if isinstance(rows, sparse.csr_array):
        changed = rows.copy()
        changed.data = np.cbrt(changed.data)
        return changed
    if isinstance(rows, Tensor):
        return rows.sign() * rows.abs() ** (1 / 3)
    return rows.map(lambda x: x.sign() * x.abs() ** (1 / 3))


class Items(NamedTuple):
    """The images or texts of a split, and their patches.

    Attributes:
        wholes: (n, D) features.
        patches: (m, D) features; m may be 0.
        mean: (n, m) averages over the patches of each whole; a row of zeros where it has none.
    """

    wholes: Rows
    patches: Rows
    mean: sparse.csr_array

    @classmethod
    def of(cls, wholes: Rows, patches: Rows, owners: NDArray[np.int64]) -> Items:
        """Items whose patches belong to the wholes `owners` (m,)."""
        n, m = wholes.shape[0], len(owners)
        weights = 1.0 / np.maximum(np.bincount(owners, minlength=n), 1)[owners]
        return cls(wholes, patches, sparse.csr_array((weights, (owners, np.arange(m))), shape=(n, m)))

    def averaged(
        self, patches: NDArray[Any], wholes: NDArray[Any], rows: NDArray[np.int64] | slice = slice(None)
    ) -> NDArray[Any]:
        """(k, C) means of (m, C) values over the patches of some wholes, or the values (k, C) of those without any."""
        mean = self.mean[rows]
        return np.where(np.diff(mean.indptr)[:, None] > 0, mean @ patches, wholes)

    def instances(self) -> FeatureRows:
        """(n, D) float32 means of a whole and of the mean of its patches, computed when they are read."""

        def read(index: slice | Tensor) -> Tensor:
            rows = np.arange(self.wholes.shape[0])[index if isinstance(index, slice) else index.cpu().numpy()]
            wholes = dense(self.wholes[rows])
            needed = np.unique(self.mean[rows].indices).astype(np.int64)
            some = self._replace(mean=self.mean[:, needed])
            means = some.averaged(dense(self.patches[needed]).cpu().numpy(), wholes.cpu().numpy(), rows)
            return (wholes + torch.from_numpy(means).to(wholes)) / 2

        return FeatureRows((self.wholes.shape[0], self.wholes.shape[1]), 0, read)


@register(
    "s2upg",
    presets={"paper": {**RELEASED, "root": 3}, "code": {**RELEASED, "released": True, "last": False}, "tuned": {}},
    search=SEARCH,
)
@dataclass
class S2UPG(Voting):
    """S2UPG; data without regions takes ``patches=false``, and the label says so.

    A text is divided into sentences after full stops; a caption is its own only sentence.

    Attributes:
        patches: whether regions and sentences take part; if not, images and texts are instances by themselves.
        root: 3 for the signed cube root of all features before they are standardised, 1 for none.  The released code
            takes it of test features only.
        fit_weight: mu.
        whole_i2t: w for image queries, the weight of whole images and texts against patches.
        whole_t2i: w for text queries.
        released: whether the Laplacian is that of the released code.
    """

    gamma: tuple[float, ...] = (0.0, 1.0, 100.0, 1000.0)
    sigma: tuple[float, ...] = (0.0, 0.1, 10.0)
    ridge: tuple[float, ...] = (0.1, 1.0, 10.0)
    neighbours: tuple[int, ...] = (30, 100, 300)
    updates: int = 3
    patches: bool = True
    root: Literal[1, 3] = 1
    fit_weight: float = 1.0
    whole_i2t: float = 1.0
    whole_t2i: float = 1.0
    released: bool = False

    learned: ClassVar[tuple[str, ...]] = (*Voting.learned, "patch_codes", "patch_categories")

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.fit_weight, self.whole_i2t, self.whole_t2i) <= 0:
            raise ValueError("fit_weight, whole_i2t and whole_t2i are above 0")

    @property
    def similarity(self) -> Similarity:  # type: ignore[override]
        if not self.patches or self.whole_i2t == self.whole_t2i:
            return DOT
        return Pairwise(partial(self.score, self.whole_t2i), i2t=partial(self.score, self.whole_i2t), tile=TILE)

    def score(self, whole: float, images: Tensor, texts: Tensor) -> Tensor:
        """(I, T) scores of votes (I, 2 C) and (T, 2 C), those of wholes before those of patches."""
        x, y = images.double(), texts.double()
        C = x.shape[1] // 2
        return (whole * (x[:, :C] @ y[:, :C].T) + x[:, C:] @ y[:, C:].T).float()

    def items(self, side: Side, split: Split) -> Items:
        """Images with their regions, or texts with their sentences.

        Raises:
            MissingFeature: the data has no regions.
        """
        if side == "image":
            wholes: Rows = super().image_rows(split)
            patches: Rows = wholes[:0]
            owners = np.empty(0, dtype=np.int64)
            if self.patches and not split.has_regions:
                raise MissingFeature(
                    "s2upg takes regions as patches, and the data has none: prepare it with --regions, or say "
                    "patches=false"
                )
            if self.patches:
                patches = split.existing_regions.map(partial(scaled, how=self.image))
                owners = split.region_mask.nonzero()[:, 0].cpu().numpy()
        else:
            wholes = super().text_features(split)
            patches, owners = wholes[:0], np.empty(0, dtype=np.int64)
            if self.patches:
                parts, of = sentences(split.texts) if split.has_words else (split.texts, range(len(split.texts)))
                owners = np.array(of, dtype=np.int64)
                patches = wholes if len(parts) == len(split.texts) else super().text_features(split.asking(parts))
        return Items.of(rooted(wholes, self.root), rooted(patches, self.root), owners)

    def image_rows(self, split: Split) -> FeatureRows:
        return self.items("image", split).instances()

    def image_view(self, split: Split) -> Iterator[Tensor]:
        yield from dense_blocks(self.image_rows(split), split.image_of.device)

    def text_features(self, split: Split) -> FeatureRows:
        return self.items("text", split).instances()

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Compute the sums over pairs of instances once, then P and Q for each choice."""
        self.begin(run)
        rows = self.labelled(train, run)
        S = self.sums(rows, run)
        items = {side: self.items(side, rows.split) for side in SIDES}
        self.scales = {
            f"{kind}_of_{side}": deviations(dense_blocks(features, run.device))
            for side, of in items.items()
            for kind, features in (("wholes", of.wholes), ("patches", of.patches))
        }
        N, T = len(rows.split), len(rows.split.texts)
        share = min(1.0, SAMPLE / (N + T))
        counts = max(1, round(share * N)), max(1, round(share * T))
        sample = [X for X, _ in self.graph_rows(rows, S, run, counts)] if any(self.sigma) else []
        self.choose(partial(self.solve, S, sample, (N + T) / sum(counts), run.seed), rows, val, run)

    def solve(
        self, S: Sums, sample: list[Matrix], scale: float, seed: int, gamma: float, sigma: float, ridge: float
    ) -> tuple[Matrix, Matrix]:
        """P and Q, for standardised features."""
        mu = self.fit_weight
        A, B = (mu * G + ridge * S.pairs * np.eye(len(G)) for G in (S.xx, S.yy))
        E = np.zeros_like(S.xy)
        if sigma:
            X, Y = sample
            A, B = A + sigma * scale * (X.T @ X), B + sigma * scale * (Y.T @ Y)

        def objective(P: Matrix, Q: Matrix) -> Quadratic:
            f = Quadratic(A, B, E, mu * S.xz, mu * S.yz, 2 * mu * S.zz)
            if not sigma:
                return f
            M = hypergraph(np.concatenate([X @ P, Y @ Q]), self.graph_neighbours, self.released)
            MX, MY = M[:, : len(X)] @ X, M[:, len(X) :] @ Y
            weight = sigma * scale
            return f._replace(A=A - weight * MX.T @ MX, B=B - weight * MY.T @ MY, E=weight * MX.T @ MY)

        return minimise(objective, (*S.xy.shape, len(S.mean)), gamma, self.updates, self.last, seed)

    def codes_of(self, side: Side, kind: Literal["wholes", "patches"], rows: Rows) -> Tensor:
        """(n, C) float32 projections of (n, D) features, standardised as the wholes or the patches of training."""
        mean, s = self.scales[f"{kind}_of_{side}"].double()
        W = (self.Wx if side == "image" else self.Wy) / s[:, None]
        return torch.cat([((block.double() - mean) @ W).float() for block in dense_blocks(rows, W.device)])

    def enrol(self, rows: LabelledRows) -> None:
        """Make the training images, texts and patches voters."""
        codes, patch_codes, categories, patch_categories = [], [], [], []
        of_side: dict[Side, NDArray[np.uint8]] = {"image": rows.of_images, "text": rows.of_texts}
        for side, of in of_side.items():
            items = self.items(side, rows.split)
            codes.append(self.codes_of(side, "wholes", items.wholes))
            patch_codes.append(self.codes_of(side, "patches", items.patches))
            categories.append(of)
            patch_categories.append(of[items.mean.tocsc().indices])
        self.codes, self.patch_codes = torch.cat(codes), torch.cat(patch_codes)
        device = self.codes.device
        self.categories = torch.from_numpy(np.concatenate(categories)).to(device)
        self.patch_categories = torch.from_numpy(np.concatenate(patch_categories)).to(device)

    def votes_of_images(self, split: Split, counts: Sequence[int]) -> list[Tensor]:
        return self.votes_of("image", split, counts)

    def votes_of_texts(self, split: Split, counts: Sequence[int]) -> list[Tensor]:
        return self.votes_of("text", split, counts)

    def votes_of(self, side: Side, split: Split, counts: Sequence[int]) -> list[Tensor]:
        """For each number of voters (n, 2 C) votes: those for the wholes, and the means of those for their patches."""
        items = self.items(side, split)
        wholes, patches = Voters(self.codes, self.categories), Voters(self.patch_codes, self.patch_categories)
        codes, device = self.codes_of(side, "wholes", items.wholes), self.codes.device
        if not self.patches:
            return [torch.from_numpy(of).to(device) for of in votes(codes, [(wholes, 1.0)], counts)]
        of_wholes = votes(codes, [(wholes, 1.0), (patches, OTHER_KIND)], counts)
        codes = self.codes_of(side, "patches", items.patches)
        of_patches = votes(codes, [(wholes, OTHER_KIND), (patches, 1.0)], counts)
        weight = self.whole_i2t**0.5 if self.whole_i2t == self.whole_t2i else 1.0
        return [
            torch.from_numpy(np.concatenate([weight * a, items.averaged(b, a)], axis=1).astype(np.float32)).to(device)
            for a, b in zip(of_wholes, of_patches, strict=True)
        ]

    def state(self) -> dict[str, Tensor]:
        """What `jrl` has, the codes of patches, and means and deviations of wholes and patches."""
        return {**super().state(), **with_prefix("scales", self.scales)}

    def load(self, state: dict[str, Tensor]) -> None:
        super().load(state)
        self.scales = below("scales", state)

    def memory(self, train: Split) -> int:
        """Bytes as in `jrl`, and of the factors of the hypergraph, of regions that are kept, and of patches' codes."""
        p, q, C = train.image_dim, self.text_dim(train), MOST_CATEGORIES
        held, patches = 0, len(train.texts)
        if self.patches and train.has_regions:
            held = train.existing_regions.held
            patches += len(train) * train.region_shape[0] + sum(text.count(".") for text in train.texts)
        factors = 8 * min(SAMPLE, len(train) + len(train.texts)) * (p + q)
        return super().memory(train) + held + factors + 5 * C * patches
