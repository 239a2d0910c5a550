"""Base of the linear methods: image and text views of the data, projected by two matrices and compared by cosine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import ClassVar, Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from cran_bench import COSINE, FeatureRows, Part, Run, Split
from cran_bench.toolbox.linalg import (
    TEXT_BLOCK,
    Matrix,
    Moments,
    Texts,
    Whitened,
    canonical_correlations,
    covariance_bytes,
    moments,
    spectral_norm,
)
from cran_bench.toolbox.states import below, with_prefix

from ._word_cnn import WordCNN

WORDS_BYTES = 400  # memory for a text's word counts, with their copies


ImageScaling = Literal["l2", "sqrt", "none"]


def scaled(rows: Tensor, how: ImageScaling) -> Tensor:
    """Scale (..., p) features to unit length (l2), after a signed square root (sqrt), or not at all (none)."""
    if how == "none":
        return rows
    return torch.nn.functional.normalize(rows.sign() * rows.abs().sqrt() if how == "sqrt" else rows, dim=-1)


def beside(rows: FeatureRows, words: sparse.csr_array) -> FeatureRows:
    """(T, q + V) rows with those of a sparse matrix at their right, which become dense when they are read."""

    def read(index: slice | Tensor) -> Tensor:
        own = rows[index]
        right = words[index if isinstance(index, slice) else index.cpu().numpy()].toarray()
        return torch.cat([own, torch.from_numpy(right).to(own)], dim=1)

    return FeatureRows((rows.shape[0], rows.shape[1] + words.shape[1]), rows.held, read)


@dataclass
class Projections:
    """Projections of an image vector and a text vector; the validation split chooses between several candidates.

    Attributes:
        image: scaling of image features: unit length (`l2`), unit length of their signed square roots (`sqrt`), or
            `none`.
        dim: dimensions kept, at most the rank.
        power: each dimension is weighted by its correlation or singular value to this power; 0 for equal weights.
    """

    image: ImageScaling = "sqrt"
    dim: tuple[int, ...] = (64, 96, 128, 192, 256, 512)
    power: tuple[float, ...] = (0.5, 1.0, 1.5)

    similarity = COSINE
    learned: ClassVar[tuple[str, ...]] = ("mean_x", "mean_y", "Wx", "Wy", "spectrum")
    """Tensors that `fit` sets, for `state`."""

    def __post_init__(self) -> None:
        if min(self.dim) < 1:
            raise ValueError(f"dim is at least 1, not {min(self.dim)}")

    def image_rows(self, split: Split) -> FeatureRows:
        """(N, p) scaled image features, read when rows are taken."""
        return split.image_rows.map(partial(scaled, how=self.image))

    def image_view(self, split: Split) -> Iterator[Tensor]:
        """Yield blocks of (n, p) scaled image features, or of what a subclass makes of them."""
        for block in split.image_blocks():
            yield scaled(block, self.image)

    def text_view(self, split: Split) -> Texts:
        """(T, q) text features that are projected."""
        raise NotImplementedError

    def text_dim(self, train: Split) -> int:
        """Upper bound of the dimension q of the text features."""
        raise NotImplementedError

    def memory(self, train: Split) -> int:
        """Bytes of the covariances and their factors; features are read in blocks."""
        return covariance_bytes(train.image_dim, self.text_dim(train)) + WORDS_BYTES * len(train.texts)

    def begin(self, run: Run) -> None:
        """Prepare for a new fit."""
        self.best = -1.0

    def moments(self, train: Split, run: Run) -> Moments:
        """Means and covariances over all pairs of an image and one of its texts; also sets the means for `centre`."""
        C = moments(self.image_view(train), self.text_view(train), train.image_of)
        C.require_varied()
        self.centre(C.mean_x, C.mean_y, run)
        return C

    def centre(self, mean_x: Matrix, mean_y: Matrix, run: Run) -> None:
        """Set the means that are subtracted from the views before projection."""
        self.mean_x, self.mean_y = (torch.from_numpy(mean).to(run.device) for mean in (mean_x, mean_y))

    def correlate(
        self,
        C: Moments,
        val: Split,
        run: Run,
        ridges_x: tuple[float, ...],
        ridges_y: tuple[float, ...],
        maps: tuple[Matrix | None, Matrix | None] = (None, None),
    ) -> None:
        """Ridge CCA of the views, or of their products with `maps`; the image ridge is chosen first, then the text's.

        Args:
            C: moments of the views.
            val: the validation split.
            run: the run, for scores on validation.
            ridges_x: image ridges, as fractions of the largest variance of the image view.
            ridges_y: text ridges, as fractions of the largest variance of the text view.
            maps: matrices that the views are multiplied by on the right; None for the view itself.
        """
        C = C.mapped(*maps)
        scale_x, scale_y = spectral_norm(C.xx), spectral_norm(C.yy)
        tried: dict[tuple[float, float], float] = {}
        latest: Whitened = {}

        def whole(W: Matrix, mapped: Matrix | None) -> Matrix:
            return W if mapped is None else np.asarray(mapped @ W)

        def best_of(pairs: list[tuple[float, float]]) -> tuple[float, float]:
            todo = [pair for pair in pairs if pair not in tried]
            for rx, ry in run.progress(todo, "ridges", len(pairs), len(pairs) - len(todo)):
                Wx, Wy, rho = canonical_correlations(C, rx * scale_x, ry * scale_y, max(self.dim), latest)
                A, B = whole(Wx, maps[0]), whole(Wy, maps[1])
                tried[rx, ry] = self.offer(val, run, A, B, rho, ridge_image=rx, ridge_text=ry)
            return max(pairs, key=lambda pair: tried[pair])

        middle = ridges_y[len(ridges_y) // 2]
        rx, _ = best_of([(rx, middle) for rx in ridges_x])
        best_of([(rx, ry) for ry in ridges_y])

    def offer(self, val: Split, run: Run, Wx: Matrix, Wy: Matrix, spectrum: Matrix, **choice: float) -> float:
        """Try every `dim` and `power` on these projections and keep the best of this fit.

        Args:
            val: the validation split.
            run: the run, for scores on validation.
            Wx: (p, k) image projection, columns in descending order of importance.
            Wy: (q, k) text projection, likewise.
            spectrum: (k,) positive weights of the columns.
            choice: hyper-parameters that led to these projections, recorded if they are kept.

        Returns:
            The best score of these projections.
        """
        A, B, s = (torch.from_numpy(array).to(run.device) for array in (Wx, Wy, spectrum / spectrum[0]))
        images, texts = self.project_images(val, A), self.project_texts(val, B)
        best = -1.0
        for dim, power in product(self.dim, self.power):
            weight = s[:dim] ** power
            score = run.score(images[:, :dim] * weight, texts[:, :dim] * weight).criterion
            best = max(best, score)
            if score > self.best:
                # contiguous, as after loading: products differ in the last bits by memory layout
                self.best, self.Wx, self.Wy = score, *((W[:, :dim] * weight).contiguous() for W in (A, B))
                self.spectrum = torch.from_numpy(spectrum).to(run.device)
                self.choice = {**choice, "dim": len(weight), "power": power}
                run.chose(**self.choice)
        return best

    def project_images(self, split: Split, W: Tensor) -> Tensor:
        """(N, k) float32: (x - mean) W, computed in float64."""
        return torch.cat([((block.double() - self.mean_x) @ W).float() for block in self.image_view(split)])

    def project_texts(self, split: Split, W: Tensor) -> Tensor:
        """(T, k) float32: (y - mean) W, computed in float64; a sparse view stays sparse."""
        view = self.text_view(split)
        if isinstance(view, sparse.csr_array):
            return (torch.from_numpy(view @ W.cpu().numpy()).to(W.device) - self.mean_y @ W).float()
        blocks = (view[a : a + TEXT_BLOCK].double() for a in range(0, max(1, view.shape[0]), TEXT_BLOCK))
        return torch.cat([((block - self.mean_y) @ W).float() for block in blocks])

    def embed_images(self, split: Split) -> Tensor:
        """(N, k) image embeddings."""
        return self.project_images(split, self.Wx)

    def embed_texts(self, split: Split) -> Tensor:
        """(T, k) text embeddings."""
        return self.project_texts(split, self.Wy)

    def state(self) -> dict[str, Tensor]:
        """Everything that was learned: means, weighted projections and their spectrum, or what a subclass has."""
        return {name: getattr(self, name) for name in self.learned}

    def load(self, state: dict[str, Tensor]) -> None:
        for name in self.learned:
            setattr(self, name, state[name])


@dataclass
class LinearMethod(Projections):
    """Projections of image features and one of the text features of the front end.

    Attributes:
        text: text feature: `tfidf`, word counts (`bow`), the mean word vector (`vectors`), the output of a Word-CNN
            (`word_cnn`), that of the text encoder (`encoder`), or the latter and tf-idf side by side, by default both
            at unit length, so that each has the same share in an inner product (`encoder+tfidf`).  Where the data has
            text features in place of words, `tfidf` and `encoder` stand for these.
        text_scaling: scaling of the text encoder's features, or of those of the data: unit length (`l2`), unit length
            of their signed square roots (`sqrt`), or `none`.
        vocabulary: number of words of tf-idf or counts, the most frequent ones.
        sublinear: whether tf-idf takes 1 + ln(count) in place of a word's count, so that a word in all five captions of
            a document does not hide the others.
    """

    text: Literal["tfidf", "bow", "vectors", "word_cnn", "encoder", "encoder+tfidf"] = "tfidf"
    text_scaling: ImageScaling = "l2"
    vocabulary: int = 3000
    sublinear: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocabulary < 1:
            raise ValueError(f"vocabulary is at least 1, not {self.vocabulary}")

    def memory(self, train: Split) -> int:
        word_cnn = WordCNN().memory(train) if self.text == "word_cnn" else 0
        return super().memory(train) + word_cnn + self.encoded_bytes(train)

    def encoded_bytes(self, train: Split) -> int:
        """Bytes of the features of a text encoder, or of the data."""
        return train.text_rows.held if self.text_kind(train).startswith("encoder") else 0

    def text_kind(self, split: Split) -> str:
        """The text feature that is read: `encoder` in place of `tfidf` where the data has text features, no words."""
        return "encoder" if self.text == "tfidf" and not split.has_words else self.text

    def parts(self) -> Sequence[Part]:
        return [WordCNN()] if self.text == "word_cnn" else []

    def begin(self, run: Run) -> None:
        """Prepare for a new fit: fit the Word-CNN, or load its stored fit, where it makes the text features."""
        super().begin(run)
        if self.text == "word_cnn":
            self.word_cnn = run.part(WordCNN())

    def text_view(self, split: Split) -> Texts:
        return self.text_features(split)

    def text_dim(self, train: Split) -> int:
        if self.text == "vectors":
            return train.vector_shape[1]
        if self.text_kind(train).startswith("encoder"):
            return train.text_dim + (self.vocabulary if self.text == "encoder+tfidf" else 0)
        return WordCNN().dim if self.text == "word_cnn" else self.vocabulary

    def tfidf(self, split: Split) -> sparse.csr_array:
        """(T, V) tf-idf of the texts."""
        return split.tfidf(self.vocabulary, self.sublinear)

    def text_features(self, split: Split) -> Tensor | sparse.csr_array | FeatureRows:
        """(T, q) text features of the chosen kind."""
        if self.text_kind(split).startswith("encoder"):
            encoded = split.text_rows.map(partial(scaled, how=self.text_scaling))
            return encoded if self.text != "encoder+tfidf" else beside(encoded, self.tfidf(split))
        if self.text == "tfidf":
            return self.tfidf(split)
        if self.text == "word_cnn":
            return self.word_cnn.embed_texts(split)
        return split.bow(self.vocabulary) if self.text == "bow" else split.mean_vectors()

    def state(self) -> dict[str, Tensor]:
        part = self.word_cnn.state() if self.text == "word_cnn" else {}
        return {**super().state(), **with_prefix("word_cnn", part)}

    def load(self, state: dict[str, Tensor]) -> None:
        super().load(state)
        if self.text == "word_cnn":
            self.word_cnn = WordCNN()
            self.word_cnn.load(below("word_cnn", state))
