"""Base of sm, scm, cca3v, ml-cca, jrl and s2upg: linear methods that learn from categories of the training images.

Images without any category are left out of the fit and counted.  Features can be standardised: z = (x - mean) / s with
the mean and standard deviation (divisor n) of each training column, s = 1 where a column is constant.  As
z W = (x - mean) (W / s), the scaling is part of covariances and projections, and rows are read as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from cran_bench import BadInput, FeatureRows, Run, Split, label_source
from cran_bench.toolbox.linalg import Matrix, Moments, Texts, moments

from ._linear import LinearMethod, beside


class LabelledRows(NamedTuple):
    """The training images that have a category, with their texts.

    Attributes:
        split: these N images and their T texts.
        of_images: (N, C) uint8, multi-hot categories of the images, each of which at least one image has.
    """

    split: Split
    of_images: NDArray[np.uint8]

    @property
    def of_texts(self) -> NDArray[np.uint8]:
        """(T, C) uint8, the categories of each text's image."""
        owners: NDArray[np.int64] = self.split.image_of.cpu().numpy()
        return np.take(self.of_images, owners, axis=0)

    @property
    def single(self) -> bool:
        """Whether every image has exactly one category."""
        return bool((self.of_images.sum(axis=1) == 1).all())


class Standardized(NamedTuple):
    """Moments of standardised features.

    Attributes:
        moments: the moments of z; the means are those of x, divided by s.
        s_x: (p,) divisors of the image columns.
        s_y: (q,) divisors of the text columns.
    """

    moments: Moments
    s_x: Matrix
    s_y: Matrix


@dataclass
class Labelled(LinearMethod):
    """Projections learned from images, texts and categories.

    Attributes:
        labels: where the categories of training images come from: the dataset (`given`), k-means of their texts
            (`clusters:20`), their most frequent words (`keywords:300`), or an object detector (`detected`).
        standardize: whether every column of the features is standardised by its training mean and deviation.
    """

    sublinear: bool = False
    labels: str = "given"
    standardize: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        label_source(self.labels)

    def labelled(self, train: Split, run: Run) -> LabelledRows:
        """The training images that have a category; the number of others is added to the record.

        Raises:
            BadInput: no image has a category, or all have the same.
            MissingFeature: the data has no such categories.
        """
        given = train.categories(self.labels).cpu().numpy()
        kept = given.any(axis=1)
        if not kept.any():
            raise BadInput(f"no image of the {train.name} split has a category ({self.labels}), and a fit needs some")
        if not kept.all():
            run.chose(unlabelled=int((~kept).sum()))
            train, given = train.take(np.flatnonzero(kept)), given[kept]
        if (given == given[0]).all():
            raise BadInput(
                f"all images of the {train.name} split have the same categories ({self.labels}), so nothing can be "
                "told apart: give at least two"
            )
        return LabelledRows(train, np.ascontiguousarray(given[:, given.any(axis=0)]))

    def joint_moments(self, rows: LabelledRows, run: Run) -> Moments:
        """Moments over all pairs of images (p) and of texts with their categories at the right (q + C).

        Also sets the means for `centre`.

        Raises:
            BadInput: all image features, or all text features, are the same.
        """
        texts = self.text_features(rows.split)
        q, labels = texts.shape[1], sparse.csr_array(rows.of_texts.astype(np.float32))
        joined: Texts
        if isinstance(texts, sparse.csr_array):
            joined = sparse.hstack([texts, labels], format="csr")
        else:
            joined = beside(texts if isinstance(texts, FeatureRows) else _as_rows(texts), labels)
        C = moments(self.image_view(rows.split), joined, rows.split.image_of)
        Moments(C.mean_x, C.mean_y[:q], C.xx, C.yy[:q, :q], C.xy[:, :q]).require_varied()
        self.centre(C.mean_x, C.mean_y[:q], run)
        return C

    def standardized(self, C: Moments, pairs: int, categories: int = 0) -> Standardized:
        """Divide the features by their standard deviations, or by 1 if they are not standardised.

        Args:
            C: moments of the views.
            pairs: number T of image-text pairs.
            categories: number of columns at the right of the texts that are categories and stay as they are.
        """
        s_x, s_y = (
            self.divisors(mean, np.diag(covariance) * (pairs - 1) / pairs)
            for mean, covariance in ((C.mean_x, C.xx), (C.mean_y, C.yy))
        )
        s_y[len(s_y) - categories :] = 1.0
        return Standardized(divided(C, s_x, s_y), s_x, s_y)

    def divisors(self, mean: Matrix, variance: Matrix) -> Matrix:
        """(D,) standard deviations of columns with these means and variances, or 1; 1 for constant columns."""
        varies = (variance > 1e-12 * mean**2) & self.standardize
        return np.sqrt(np.where(varies, variance, 1.0))


def divided(C: Moments, s_x: Matrix, s_y: Matrix) -> Moments:
    """The moments of features that are divided by s_x (p,) and s_y (q,)."""
    return Moments(
        C.mean_x / s_x,
        C.mean_y / s_y,
        C.xx / s_x[:, None] / s_x,
        C.yy / s_y[:, None] / s_y,
        C.xy / s_x[:, None] / s_y,
    )


def _as_rows(texts: Tensor) -> FeatureRows:
    return FeatureRows(tuple(texts.shape), 0, texts.__getitem__)
