"""Given scores: a matrix of the scores of all test images and texts, made elsewhere, is ranked as it is.

``scores:I2T.npy`` is a row whose score of image i and text k is the number in row i and column k of a .npy file of
float16 to float64, so that any model, in any program, can be compared with the rows of this suite: with the same tie
policy, folds, intervals and tests.  The file has one row for each image of the test split and one column for each text,
both in the order of the split: captions, or documents under the protocol `documents`.  Nothing is fitted.

The file is memory-mapped and read tile by tile, and identified by its content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cran_bench import BadInput, MissingFeature, Pairwise, Run, Split, register
from cran_bench.toolbox.files import noted_sha256, open_array

TILE = 1024, 4096
TYPES = "float16", "float32", "float64"


@register("scores", argument="file")
@dataclass
class GivenScores:
    """Scores of all pairs of a test image and a test text, from one .npy file, or from one for each direction.

    Attributes:
        file: path of the .npy file, (N, T), a larger score meaning more similar.
        t2i: path of a file of the same shape whose scores rank images for text queries; '' for the same scores.
        axes: what the rows of the files are, `images` or `texts`; None for images, but it must be given where there are
            as many images as texts.
    """

    file: str
    t2i: str = ""
    axes: Literal["images", "texts"] | None = None

    def __post_init__(self) -> None:
        self.image_ids: list[str] = []
        for file in self._files:
            found = open_array(file, ("images", "texts")).dtype
            if found.newbyteorder("=").name not in TYPES:
                raise BadInput(f"{file} holds {found} numbers; scores are {', '.join(TYPES[:-1])} or {TYPES[-1]}")

    @property
    def _files(self) -> list[str]:
        return [self.file, self.t2i] if self.t2i else [self.file]

    @cached_property
    def _matrices(self) -> list[NDArray[Any]]:
        """The scores for image queries and those for text queries, (N, T)."""
        matrices = [open_array(file, ("images", "texts")) for file in self._files]
        return [x.T if self.axes == "texts" else x for x in (matrices[0], matrices[-1])]

    @property
    def similarity(self) -> Pairwise:
        return Pairwise(self.score, i2t=self.score_for_images if self.t2i else None, tile=TILE)

    def identity(self) -> Mapping[str, Any]:
        """What determines the ranks, in place of the paths."""
        return {"sha256": [noted_sha256(Path(file)) for file in self._files], "axes": self.axes}

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Learn nothing."""

    def embed_images(self, split: Split) -> Tensor:
        """(N, 1) row numbers."""
        self._require_shape(split)
        self.image_ids = split.image_ids
        return torch.arange(len(split), dtype=torch.float32, device=split.image_of.device)[:, None]

    def embed_texts(self, split: Split) -> Tensor:
        """(T, 1) column numbers.

        Raises:
            MissingFeature: the texts are not those of the images that were embedded.
        """
        if self.image_ids and split.image_ids != self.image_ids:
            raise MissingFeature("it has the scores of the split's own texts only")
        self._require_shape(split)
        return torch.arange(len(split.texts), dtype=torch.float32, device=split.image_of.device)[:, None]

    def score(self, images: Tensor, texts: Tensor) -> Tensor:
        """(I, T) the scores of rows (I, 1) and columns (T, 1), for text queries."""
        return self._tile(self._matrices[1], self._files[-1], images, texts)

    def score_for_images(self, images: Tensor, texts: Tensor) -> Tensor:
        """(I, T) the scores of rows (I, 1) and columns (T, 1), for image queries."""
        return self._tile(self._matrices[0], self.file, images, texts)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        pass

    def _tile(self, matrix: NDArray[Any], file: str, images: Tensor, texts: Tensor) -> Tensor:
        rows, columns = (x[:, 0].long().cpu().numpy() for x in (images, texts))
        first, last = int(columns.min()), int(columns.max())
        tile = _of_rows(matrix, rows)[:, first : last + 1]
        if len(columns) < tile.shape[1] or np.any(np.diff(columns) != 1):
            tile = tile[:, columns - first]
        tile = np.array(tile, dtype=tile.dtype.newbyteorder("="))
        finite = np.isfinite(tile)
        if not finite.all():
            i, k = np.argwhere(~finite)[0]
            place = (rows[i], columns[k]) if self.axes != "texts" else (columns[k], rows[i])
            where = f"row {place[0]} and column {place[1]}, counted from 0"
            raise BadInput(f"{file} has {tile[i, k]} in {where}: give finite scores")
        return torch.from_numpy(tile).to(images.device)

    def _require_shape(self, split: Split) -> None:
        n, t = len(split), len(split.texts)
        what = f"the {split.name} split has {n:,} images and {t:,} {split.unit}"
        for file in self._files:
            shape = open_array(file, ("images", "texts")).shape
            if shape not in ((n, t), (t, n)):
                found = f"{file} has scores of shape ({shape[0]:,}, {shape[1]:,})"
                raise BadInput(f"{found}, but {what}: give the scores of all of them, in the order of the split")
            if n == t and self.axes is None:
                raise BadInput(f"{file} is square, as {what}: say what its rows are, with axes=images or axes=texts")
            if shape != ((t, n) if self.axes == "texts" else (n, t)):
                given = "images" if self.axes == "texts" else "texts"
                raise BadInput(f"the rows of {file} seem to be {given}, as {what}: transpose it, or give axes={given}")


def _of_rows(matrix: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """The given rows of a matrix, as a view if they are consecutive."""
    return matrix[int(rows[0]) : int(rows[-1]) + 1] if np.all(np.diff(rows) == 1) else matrix[rows]
