"""Given rankings: TREC run files, made elsewhere, are a row; what they do not list ranks below all that they list.

    query Q0 candidate rank score tag

A line lists a candidate of a query: a caption for an image, or an image for a caption, by the ids that ``cran-bench
export rankings --trec`` writes; ``image.jpg#0`` is the first caption of ``image.jpg``.  As in trec_eval the score alone
gives the order, not the rank, and equal scores are ties.  Candidates that are not listed tie with each other:
where no right one is listed, a hit is left to chance.  Nothing is fitted, and files are identified by their content.
"""

from __future__ import annotations

import difflib
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from cran_bench import BadInput, MissingFeature, Pairwise, Run, Split, register, say
from cran_bench.toolbox.files import noted_sha256

LARGE = 1 << 26  # bytes of a file that takes some seconds to read
TILE = 1024, 4096


@register("trec", argument="run")
@dataclass
class GivenRankings:
    """Rankings of images and texts, from one run file, or from one for each direction.

    Attributes:
        run: path of the run.
        t2i: path of the run of text queries, if that is another file; '' if not.
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
        self.ids = ids = split.escaped_ids()
        keys, scores = self._read(*ids)
        self.of_images = _lists("i2t", keys[0], scores[0], *ids)
        self.of_texts = _lists("t2i", keys[1], scores[1], *ids[::-1])
        return torch.arange(len(ids[0]), dtype=torch.float32, device=split.image_of.device)[:, None]

    def embed_texts(self, split: Split) -> Tensor:
        """(T, 1) row numbers.

        Raises:
            MissingFeature: the texts are not those of the images that were embedded.
        """
        if split.escaped_ids() != self.ids:
            raise MissingFeature("it has the ranks of the split's own texts only")
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

    def _read(self, images: Sequence[str], texts: Sequence[str]) -> tuple[list[array[int]], list[array[float]]]:
        """Keys, row of the query x candidates + row of the candidate, and scores, by image queries and by text queries.

        Raises:
            BadInput: a file is not a run of these images and texts.
        """
        of_image, of_text = ({name: row for row, name in enumerate(names)} for names in (images, texts))
        if both := of_image.keys() & of_text.keys():
            raise BadInput(f"'{min(both)}' is the id of an image and of a caption; rename the image")
        keys, scores = [array("q"), array("q")], [array("d"), array("d")]
        for file in self._files:
            strange: list[tuple[str, str]] = []
            for query, candidate, score in _lines(file):
                side = query in of_text
                rows, columns = (of_text, of_image) if side else (of_image, of_text)
                if query in rows and candidate in columns:
                    keys[side].append(rows[query] * len(columns) + columns[candidate])
                    scores[side].append(score)
                else:
                    strange.append((query, candidate))
            if strange:
                (query, candidate), known = strange[0], [*images, *texts]
                close = difflib.get_close_matches(candidate if query in known else query, known, n=1) or texts[:1]
                raise BadInput(
                    f"{file} has {len(strange)} lines that are not of this test split, the first of '{query}' and "
                    f"'{candidate}'; did you mean '{close[0]}'?"
                )
        return keys, scores


def _lines(file: str) -> Iterator[tuple[str, str, float]]:
    """The query, the candidate and the score of each line."""
    try:
        if Path(file).stat().st_size > LARGE:
            say(f"reading {file}")
        with Path(file).open(encoding="utf-8-sig") as run:
            for number, words in enumerate(map(str.split, run), 1):
                if words:
                    if len(words) != 6 or not math.isfinite(float(words[4])):
                        raise ValueError(f"line {number} is '{' '.join(words)}'")
                    yield words[0], words[2], float(words[4])
    except (OSError, ValueError) as error:  # of decoding, too
        form = "'query Q0 candidate rank score tag', a finite score"
        raise BadInput(f"{file} is not a run, each line {form}: {error}") from None


def _lists(
    side: str, keys: array[int], scores: array[float], queries: Sequence[str], candidates: Sequence[str]
) -> sparse.csr_array:
    """(Q, C) places of the listed scores among all, 1 for the lowest; 0 where nothing is listed.

    Raises:
        BadInput: a candidate is listed twice, or nothing at all.
    """
    pairs, counts = np.unique(np.array(keys), return_counts=True)
    if len(pairs) < len(keys):
        row, column = divmod(int(pairs[counts.argmax()]), len(candidates))
        raise BadInput(f"the run lists {candidates[column]} {counts.max()} times for {queries[row]}; keep one line")
    order = np.unique(np.array(scores), return_inverse=True)[1] + 1.0
    shape = len(queries), len(candidates)
    lists = sparse.csr_array((order, np.divmod(np.array(keys), len(candidates))), shape=shape)
    missing = int((np.diff(lists.indptr) == 0).sum())
    if missing == len(queries):
        raise BadInput(f"the run ranks nothing for {side}; a row has both directions, trec:RUN[t2i=RUN]")
    if missing:
        say(f"{missing} of {len(queries)} queries of {side} are not in the run; all their candidates tie")
    return lists


def _tile(lists: sparse.csr_array, queries: Tensor, candidates: Tensor) -> Tensor:
    """(Q, C) entries of the rows (Q, 1) and columns (C, 1) of lists."""
    rows, columns = (x[:, 0].long().cpu().numpy() for x in (queries, candidates))
    return torch.from_numpy(lists[rows][:, columns].toarray()).to(queries.device)
