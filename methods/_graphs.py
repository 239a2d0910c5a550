"""What jrl and s2upg share: row-sparse regression to categories, graphs of neighbours, and the votes of neighbours.

    f(P, Q) = tr P'A P + tr Q'B Q - 2 tr P'E Q - 2 tr P'F - 2 tr Q'G + c + gamma (||P||_{2,1} + ||Q||_{2,1})

for projections P (p x C) and Q (q x C) is minimised by reweighting: with D_P = diag(1 / (2 |row of P|)), D_Q likewise,

    P <- (A + gamma D_P)^-1 (E Q + F),     Q <- (B + gamma D_Q)^-1 (E'P + G),     both from the old P and Q.

No matrix of the size of the graph is stored: X'X - M'M stands for X'L X, and dense kernels are read in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.neighbors import NearestNeighbors  # type: ignore[import-untyped]
from torch import Tensor

from cran_bench import DOT, Run, Split
from cran_bench.toolbox.kernels import dense, sampled
from cran_bench.toolbox.linalg import Matrix, Whitening

from ._labelled import Labelled, LabelledRows
from ._linear import ImageScaling

SEARCH: dict[str, tuple[Any, ...]] = {
    **{"standardize": (True, False), "image": ("none", "sqrt", "l2"), "text": ("tfidf", "bow", "vectors")},
    **{"vocabulary": (1500, 3000), "graph_neighbours": (50, 100)},
}
SAMPLE = 20_000
"""Rows of a graph; of more, that many are drawn at random, and X'L X is scaled up to the number of all."""
BLOCK = 1024
MOST_CATEGORIES = 300  # for the estimate of memory
SHORTEST = 1e-12  # a row of zeros is divided by it


class Quadratic(NamedTuple):
    """The objective without its norms, of which the fields are A, B, E, F, G and c."""

    A: Matrix
    B: Matrix
    E: Matrix
    F: Matrix
    G: Matrix
    c: float

    def loss(self, P: Matrix, Q: Matrix, gamma: float) -> float:
        """f(P, Q)."""
        quadratic = np.vdot(P, self.A @ P - 2 * self.E @ Q - 2 * self.F) + np.vdot(Q, self.B @ Q - 2 * self.G)
        return float(quadratic + self.c + gamma * (_lengths(P).sum() + _lengths(Q).sum()))

    def update(self, P: Matrix, Q: Matrix, gamma: float) -> tuple[Matrix, Matrix]:
        """The next P and Q.

        Raises:
            BadInput: A or B cannot be inverted.
        """
        return _solve(self.A, P, gamma, self.E @ Q + self.F), _solve(self.B, Q, gamma, self.E.T @ P + self.G)


def _lengths(P: Matrix) -> Matrix:
    return np.asarray(np.linalg.norm(P, axis=1))


def _solve(A: Matrix, P: Matrix, gamma: float, right: Matrix) -> Matrix:
    weighted = A.copy()
    weighted[np.diag_indices_from(weighted)] += gamma / (2 * np.maximum(_lengths(P), SHORTEST))
    factor = Whitening.of(weighted, 0.0)
    return factor.back(factor.half(right))


def minimise(
    objective: Callable[[Matrix, Matrix], Quadratic],
    sizes: tuple[int, int, int],
    gamma: float,
    updates: int,
    last: bool,
    seed: int,
    least_fall: float = -np.inf,
) -> tuple[Matrix, Matrix]:
    """Update P and Q, which start at uniform numbers on [0, 1).

    Args:
        objective: the quadratic part, given the latest P and Q.
        sizes: p, q and C.
        gamma: weight of the norms.
        updates: largest number of updates.
        last: whether the result is the last P and Q, or those before the last update.
        seed: random seed of the start.
        least_fall: the update after which the loss has fallen by less than this share is the last.
    """
    *dims, categories = sizes
    random = np.random.default_rng(seed)
    P, Q = (random.random((dim, categories)) for dim in dims)
    before = np.nan
    for _ in range(updates):
        f = objective(P, Q)
        loss = f.loss(P, Q, gamma)
        earlier, (P, Q) = (P, Q), f.update(P, Q, gamma)
        if before - loss < least_fall * abs(before):
            break
        before = loss
    return (P, Q) if last else earlier


def neighbours(rows: Matrix, count: int) -> sparse.csr_array:
    """(n, n) float64 graph with a one in row i for each of the `count` nearest other rows of row i (Euclidean)."""
    search = NearestNeighbors(n_neighbors=min(count, len(rows) - 1), algorithm="brute").fit(rows)
    return sparse.csr_array(search.kneighbors_graph())


def smoothness(X: Matrix, count: int, is_dense: bool) -> Matrix:
    """X'L X (p, p) with L = I - D^-1/2 K D^-1/2, where D holds the degrees of the symmetric graph of neighbours.

    Args:
        X: (n, p) rows, which are compared by Euclidean distance.
        count: neighbours of a row; rows are joined if either is a neighbour of the other.
        is_dense: whether K is the kernel 1 / (1 + exp(distance)) of all rows, or the graph itself, of ones and zeros.
    """
    graph = neighbours(X, count)
    graph = graph.maximum(graph.T)
    scale = 1 / np.sqrt(graph.sum(axis=1))
    scaled = X * scale[:, None]
    if not is_dense:
        return np.asarray(X.T @ X - scaled.T @ (graph @ scaled))
    products, every = X.T @ X, torch.from_numpy(X)
    for a in range(0, len(X), BLOCK):
        K = torch.cdist(every[a : a + BLOCK], every).exp_().add_(1).reciprocal_().numpy()
        K[np.arange(len(K)), np.arange(a, a + len(K))] = 0.5  # a distance of exactly 0
        products -= scaled[a : a + BLOCK].T @ (K @ scaled)
    return np.asarray(products)


def hypergraph(codes: Matrix, count: int, released: bool) -> sparse.csr_array:
    """(n, n) factor M of the Laplacian I - M'M of a hypergraph with an edge for each row of codes (n, C).

    Args:
        codes: rows, which are compared by Euclidean distance.
        count: an edge holds a row's nearest neighbours, that many.
        released: whether M is that of the released code: D_v^-1 in place of D_v^-1/2, degrees one larger, and an edge
            without the row itself.
    """
    edges = neighbours(codes, count)
    if not released:
        edges = edges + sparse.eye_array(len(codes), format="csr")
    degrees = edges.sum(axis=0)
    scale = 1 / (degrees + 1) if released else degrees**-0.5
    return sparse.csr_array(edges.multiply(scale / np.sqrt(edges[[0]].sum())))


class Voters(NamedTuple):
    """Training items whose codes vote.

    Attributes:
        codes: (n, C) projections.
        categories: (n, C) uint8, multi-hot.
    """

    codes: Tensor
    categories: Tensor


def votes(codes: Tensor, voters: Sequence[tuple[Voters, float]], counts: Sequence[int]) -> list[NDArray[np.float32]]:
    """The mean of the categories of the nearest voters, weighted by w = b / (1 + exp(distance)), for several counts k.

    Args:
        codes: (n, C).
        voters: groups of voters with their factors b.
        counts: for each the k voters of the largest w vote; all of them if there are fewer.

    Returns:
        For each count (n, C) float32; rows sum to 1 if each voter has one category.
    """
    logs, found, start = [], [], 0
    for (known, _), factor in voters:
        search = NearestNeighbors(n_neighbors=min(max(counts), len(known)), algorithm="brute")
        distances, places = search.fit(known.double().cpu().numpy()).kneighbors(codes.double().cpu().numpy())
        logs.append(np.log(factor) - np.logaddexp(0, distances))
        found.append(places + start)
        start += len(known)
    log, place = np.concatenate(logs, axis=1), np.concatenate(found, axis=1)
    if len(voters) > 1:
        order = np.argsort(-log, axis=1, kind="stable")
        log, place = (np.take_along_axis(x, order, axis=1) for x in (log, place))
    categories = np.concatenate([group.categories.cpu().numpy() for group, _ in voters]).astype(np.float64)
    results = []
    for k in counts:
        w = np.exp(log[:, :k] - log[:, :1])
        w /= w.sum(axis=1, keepdims=True)
        ends = np.arange(len(w) + 1) * w.shape[1]
        shares = sparse.csr_array((w.ravel(), place[:, :k].ravel(), ends), shape=(len(w), start))
        results.append((shares @ categories).astype(np.float32))
    return results


class Sums(NamedTuple):
    """Sums over T image-text pairs of products of standardised features x, y and of categories z less their mean.

    Attributes:
        xx: (p, p).
        xy: (p, q).
        yy: (q, q).
        xz: (p, C).
        yz: (q, C).
        zz: sum of |z|^2.
        mean: (C,) mean of the categories.
        pairs: T.
        s_x: (p,) divisors of the image columns.
        s_y: (q,) divisors of the text columns.
    """

    xx: Matrix
    xy: Matrix
    yy: Matrix
    xz: Matrix
    yz: Matrix
    zz: float
    mean: Matrix
    pairs: int
    s_x: Matrix
    s_y: Matrix


@dataclass
class Voting(Labelled):
    """Projections to one dimension for each category, in which the nearest training items vote.

    Attributes:
        gamma: weight of the norms of rows, against sums over all training pairs.
        sigma: weight of the graph, likewise.
        ridge: weight of |P|^2 + |Q|^2, as a multiple of the number of pairs.
        neighbours: nearest training images and texts that vote for the categories of an image or a text.
        graph_neighbours: neighbours of an image or a text in the graph.
        updates: largest number of updates of P and Q.
        last: whether P and Q are those after the last update, or those before it, as in the released code.
    """

    image: ImageScaling = "none"
    text_scaling: ImageScaling = "none"
    dim: tuple[int, ...] = field(default=(1,), init=False)  # codes have one for each category, of equal weight
    power: tuple[float, ...] = field(default=(0.0,), init=False)
    gamma: tuple[float, ...] = (1000.0,)
    sigma: tuple[float, ...] = (1000.0,)
    ridge: tuple[float, ...] = (0.0,)
    neighbours: tuple[int, ...] = (100,)
    graph_neighbours: int = 100
    updates: int = 5
    last: bool = True

    similarity = DOT
    refits = True
    learned: ClassVar[tuple[str, ...]] = ("mean_x", "mean_y", "Wx", "Wy", "codes", "categories", "chosen")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma", "sigma", "ridge"):
            if min(getattr(self, name)) < 0:
                raise ValueError(f"{name} is at least 0, not {min(getattr(self, name)):g}")
        for name in ("neighbours", "graph_neighbours", "updates"):
            given: Any = getattr(self, name)
            least = given if isinstance(given, int) else min(given)
            if least < 1:
                raise ValueError(f"{name} is at least 1, not {least}")

    def sums(self, rows: LabelledRows, run: Run) -> Sums:
        """The sums over the training pairs; also sets the means for `centre`."""
        T, C = len(rows.split.texts), rows.of_images.shape[1]
        of_z, s_x, s_y = self.standardized(self.joint_moments(rows, run), T, C)
        q = len(s_y) - C
        xx, yy, xy = ((T - 1) * covariance for covariance in (of_z.xx, of_z.yy, of_z.xy))
        return Sums(
            xx, xy[:, :q], yy[:q, :q], xy[:, q:], yy[:q, q:], yy[q:, q:].trace(), of_z.mean_y[q:], T, s_x, s_y[:q]
        )

    def choose(
        self,
        solve: Callable[[float, float, float], tuple[Matrix, Matrix]],
        rows: LabelledRows,
        val: Split,
        run: Run,
    ) -> None:
        """Choose gamma, then sigma, then the ridge, each with the number of neighbours, on the validation split.

        Args:
            solve: the projections, (p, C) and (q, C), of features as they are, given gamma, sigma and the ridge.
            rows: the training images.
            val: the validation split.
            run: the run, for scores on validation.
        """
        grid = {"gamma": self.gamma, "sigma": self.sigma, "ridge": self.ridge}
        now = {name: values[len(values) // 2] for name, values in grid.items()}
        tried: dict[tuple[float, ...], float] = {}
        kept: dict[str, Tensor] = {}
        for name, values in grid.items():
            candidates = [{**now, name: value} for value in values]
            todo = [each for each in candidates if tuple(each.values()) not in tried]
            for each in run.progress(todo, f"choosing {name}", len(candidates), len(candidates) - len(todo)):
                found = solve(*each.values())
                self.Wx, self.Wy = (torch.from_numpy(np.ascontiguousarray(W)).to(run.device) for W in found)
                self.enrol(rows)
                best = -1.0
                of_val = self.votes_of_images(val, self.neighbours), self.votes_of_texts(val, self.neighbours)
                for k, images, texts in zip(self.neighbours, *of_val, strict=True):
                    score = run.score(images, texts, self.similarity).criterion
                    best = max(best, score)
                    if score > self.best:
                        self.best, self.chosen = score, torch.tensor(k)
                        kept = {key: getattr(self, key) for key in self.learned}
                        run.chose(**each, neighbours=k)
                tried[tuple(each.values())] = best
            now = max(candidates, key=lambda each: tried[tuple(each.values())])
        vars(self).update(kept)

    def enrol(self, rows: LabelledRows) -> None:
        """Make the training images and texts voters."""
        codes = self.project_images(rows.split, self.Wx), self.project_texts(rows.split, self.Wy)
        self.codes = torch.cat(codes)
        categories = np.concatenate([rows.of_images, rows.of_texts])
        self.categories = torch.from_numpy(categories).to(self.codes.device)

    def graph_rows(
        self, rows: LabelledRows, S: Sums, run: Run, counts: tuple[int, int] = (SAMPLE, SAMPLE)
    ) -> Iterator[tuple[Matrix, int]]:
        """Yield standardised images and texts (n, p), a random sample if there are more, and the number of them all."""
        images, texts = self.image_rows(rows.split), self.text_features(rows.split)
        sides = (images, self.mean_x, S.s_x), (texts, self.mean_y, S.s_y)
        for (every, mean, s), count in zip(sides, counts, strict=True):
            X = dense(sampled(every, count, run.seed)).to(torch.float64, copy=True).cpu().numpy()
            X -= mean.cpu().numpy()
            X /= s
            yield X, every.shape[0]

    def votes_of_images(self, split: Split, counts: Sequence[int]) -> list[Tensor]:
        """For each number of voters (N, C) votes for the images."""
        return self.voted(self.project_images(split, self.Wx), counts)

    def votes_of_texts(self, split: Split, counts: Sequence[int]) -> list[Tensor]:
        """For each number of voters (T, C) votes for the texts."""
        return self.voted(self.project_texts(split, self.Wy), counts)

    def voted(self, codes: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """For each number of voters (n, C) votes for codes (n, C)."""
        found = votes(codes, [(Voters(self.codes, self.categories), 1.0)], counts)
        return [torch.from_numpy(rows).to(codes.device) for rows in found]

    def embed_images(self, split: Split) -> Tensor:
        """(N, C) votes."""
        return self.votes_of_images(split, [int(self.chosen)])[0]

    def embed_texts(self, split: Split) -> Tensor:
        """(T, C) votes."""
        return self.votes_of_texts(split, [int(self.chosen)])[0]

    def memory(self, train: Split) -> int:
        """Bytes of covariances with factors, products and their sums, of a graph's rows, and of codes and voters."""
        p, q, count = train.image_dim, self.text_dim(train), len(train) + len(train.texts)
        rows = min(SAMPLE, max(len(train), len(train.texts)))
        graph = rows * (24 * max(p, q) + 64 * self.graph_neighbours + 16 * BLOCK)
        return super().memory(train) + 24 * (p * p + q * q) + graph + count * 16 * MOST_CATEGORIES
