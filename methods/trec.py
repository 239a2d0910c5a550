"""Given rankings: TREC run files, made elsewhere, are a row; what they do not list ranks below all that they list.

    query Q0 candidate rank score tag

A line lists a candidate of a query: a caption for an image, or an image for a caption, by the ids that
``cran-bench export --trec`` writes; ``image.jpg#0`` is the first caption of ``image.jpg``.  As in trec_eval the score
alone gives the order, not the rank, and equal scores are ties.  Candidates that are not listed tie with each other:
where no right one is listed, a hit is left to chance.  Nothing is fitted, and files are identified by their content.
"""

from __future__ import annotations

import difflib
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from cran_bench import BadInput, Pairwise, Run, Split, register, say
from cran_bench.toolbox.files import noted_sha256

LINE = "query Q0 candidate rank score tag"
LARGE = 1 << 26  # bytes of a file that takes some seconds to read
TILE = 1024, 4096


@register("trec", argument="run")
@dataclass
class GivenRankings:
    """Rankings of images and texts, from one run file, or from one for each direction.

    Attributes:
        run: path of the run for image queries, or for both.
        t2i: path of the run for text queries; '' if it is the same file.
    """

    run: str
    t2i: str = ""

    def __post_init__(self) -> None:
        for file in self._files:
            if not Path(file).is_file():
                raise ValueError(f"there is no file {file}; give the path of a run")

    @property
    def _files(self) -> list[str]:
        return [self.run, self.t2i] if self.t2i else [self.run]

    @property
    def similarity(self) -> Pairwise:
        return Pairwise(self.score, i2t=self.score_for_images, tile=TILE)

    def identity(self) -> Mapping[str, Any]:
        """What determines the ranks, in place of the paths."""
        return {"sha256": [noted_sha256(Path(file)) for file in self._files]}

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Learn nothing."""

    def embed_images(self, split: Split) -> Tensor:
        """(N, 1) row numbers; reads the rankings."""
        images, texts = split.escaped_ids()
        self.of_images = self._read(self.run, "i2t", images, texts)
        self.of_texts = self._read(self.t2i or self.run, "t2i", texts, images)
        return torch.arange(len(images), dtype=torch.float32, device=split.image_of.device)[:, None]

    def embed_texts(self, split: Split) -> Tensor:
        """(T, 1) row numbers."""
        return torch.arange(len(split.texts), dtype=torch.float32, device=split.image_of.device)[:, None]

    def score(self, images: Tensor, texts: Tensor) -> Tensor:
        """(I, T) scores of images for text queries, given their rows (I, 1) and (T, 1)."""
        return _tile(self.of_texts, texts, images).T

    def score_for_images(self, images: Tensor, texts: Tensor) -> Tensor:
        """(I, T) scores of texts for image queries, given their rows (I, 1) and (T, 1)."""
        return _tile(self.of_images, images, texts)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None: ...

    def _read(self, file: str, side: str, queries: Sequence[str], candidates: Sequence[str]) -> sparse.csr_array:
        """(Q, C) places of the listed scores among all of the file, 1 for the lowest; 0 where nothing is listed.

        Raises:
            BadInput: the file is not a run of these queries, or lists a candidate twice or without a finite score.
        """
        try:
            rows, columns, scores = self._lines(file, side, queries, candidates)
        except OSError as error:
            raise BadInput(f"cannot read {file}: {error.strerror}; give read access") from error
        except ValueError as error:  # of decoding, too
            raise BadInput(f"{file} is not a run, with lines '{LINE}': {error}") from None
        order = np.unique(scores, return_inverse=True)[1] + 1.0
        lists = sparse.csr_array((order, (rows, columns)), shape=(len(queries), len(candidates)))
        if lists.nnz < len(rows):
            pairs, counts = np.unique([rows, columns], axis=1, return_counts=True)
            row, column = pairs[:, counts.argmax()]
            raise BadInput(f"{file} lists {candidates[column]} twice or more for {queries[row]}; keep one line")
        missing = int((np.diff(lists.indptr) == 0).sum())
        if missing == len(queries):
            raise BadInput(f"{file} ranks nothing for {side}; a row has both directions, trec:RUN[t2i=RUN]")
        if missing:
            say(f"{file}: {missing} of {len(queries)} queries of {side} are missing; all their candidates tie")
        return lists

    def _lines(self, file: str, side: str, queries: Sequence[str], candidates: Sequence[str]) -> tuple[Any, ...]:
        if Path(file).stat().st_size > LARGE:
            say(f"reading {side} from {file}")
        rows, columns = ({name: row for row, name in enumerate(names)} for names in (queries, candidates))
        others = {} if self.t2i else columns  # which ask in the other direction
        if both := rows.keys() & others.keys():
            raise BadInput(f"'{min(both)}' is an image and a caption: give a run of each, trec:RUN[t2i=RUN]")
        found = array("q"), array("q"), array("d")
        strange, first, lines = 0, "", 0
        with Path(file).open(encoding="utf-8-sig") as run:
            for number, words in enumerate(map(str.split, run), 1):
                if not words:
                    continue
                if len(words) != 6:
                    raise ValueError(f"line {number} has {len(words)} words")
                query, _, candidate, _, score, _ = words
                lines += 1
                if not math.isfinite(float(score)):
                    raise BadInput(f"{file}, line {number}: the score is {score}; give a finite number")
                row, column = rows.get(query), columns.get(candidate)
                if row is not None and column is not None:
                    found[0].append(row)
                    found[1].append(column)
                    found[2].append(float(score))
                elif query not in others or candidate not in rows:
                    strange += 1
                    first = first or (candidate if row is not None or query in others else query)
        if strange:
            what = f"{file}: {strange} of {lines} lines are not of {side} on this test split, the first has '{first}'"
            close = difflib.get_close_matches(first, [*queries, *candidates], n=1) or [queries[0]]
            is_other = first in columns and not others
            raise BadInput(f"{what}; " + ("which is no query there" if is_other else f"did you mean '{close[0]}'?"))
        return tuple(map(np.array, found))


def _tile(lists: sparse.csr_array, queries: Tensor, candidates: Tensor) -> Tensor:
    """(Q, C) entries of the rows (Q, 1) and columns (C, 1) of lists."""
    rows, columns = (x[:, 0].long().cpu().numpy() for x in (queries, candidates))
    return torch.from_numpy(lists[rows][:, columns].toarray()).to(queries.device)
