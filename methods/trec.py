"""Rankings made elsewhere, read from TREC run files: a row that fits and embeds nothing.

    query Q0 candidate rank score tag

Each line lists a candidate of a query.  Image annotation asks with the ids of images for captions, image retrieval with
captions for images; caption ``image.jpg#0`` is the first one of ``image.jpg``, as ``cran-bench export --trec`` writes
it.  As in trec_eval the score alone gives the order, and the rank is ignored; equal scores are ties.  Candidates that
are not listed rank below all that are, in random order: where no right one is listed, a hit is left to chance.
"""

from __future__ import annotations

import difflib
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cran_bench import BadInput, Listed, Run, Split, register, say

LINE = "query Q0 candidate rank score tag"
LARGE = 1 << 26  # bytes of a file that takes some seconds to read


@register("trec")
@dataclass
class Trec:
    """The rankings of one or two run files: ``trec:FILE`` or ``trec:FILE[t2i=FILE]``.

    Attributes:
        run: run of image annotation, or of both directions.
        t2i: run of image retrieval, if it is a file of its own.
    """

    run: str = field(default="", metadata={"file": True})
    t2i: str = field(default="", metadata={"file": True})

    similarity = Listed()

    def __post_init__(self) -> None:
        for file in filter(None, (self.run, self.t2i)):
            if not Path(file).is_file():
                raise ValueError(f"there is no run file {file}; write the path of one, trec:FILE")

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Learn nothing."""

    def listed(
        self, direction: str, queries: Sequence[str], candidates: Sequence[str]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
        """Read the lists of a direction; a file of both is read for each.

        Raises:
            BadInput: the file is not a run of the test split, or lists a candidate twice or without a finite score.
        """
        if not self.run:
            raise BadInput("trec needs a run file: write trec:FILE")
        path = Path(self.t2i if self.t2i and direction == "t2i" else self.run)
        if path.stat().st_size > LARGE:
            say(f"reading {direction} from {path}")
        try:
            lists = self._read(path, direction, queries, candidates)
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror}; give read access") from error
        except ValueError as error:  # of decoding, too
            raise BadInput(f"{path} is not a run, with lines '{LINE}': {error}") from None
        pairs = np.sort(lists[0].astype(np.int64) * len(candidates) + lists[1])
        if len(twice := pairs[1:][pairs[1:] == pairs[:-1]]):
            row, place = divmod(int(twice[0]), len(candidates))
            raise BadInput(f"{path} lists {candidates[place]} twice or more for {queries[row]}; keep one line")
        missing = len(queries) - len(np.unique(lists[0]))
        if missing == len(queries):
            raise BadInput(f"{path} ranks nothing for {direction}; a row has both directions, trec:FILE[t2i=FILE]")
        if missing:
            say(f"{path}: {missing} of {len(queries)} queries of {direction} are missing; all their candidates tie")
        return lists

    def _read(
        self, path: Path, direction: str, queries: Sequence[str], candidates: Sequence[str]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
        rows, places = ({name: row for row, name in enumerate(names)} for names in (queries, candidates))
        others = {} if self.t2i else places  # which may ask, too
        if both := rows.keys() & others.keys():
            raise BadInput(f"'{min(both)}' is an image and a caption: give a run of each, trec:FILE[t2i=FILE]")
        query, candidate, score = array("i"), array("i"), array("d")
        unknown, first, lines = 0, "", 0
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not (words := line.split()):
                    continue
                if len(words) != 6:
                    raise ValueError(f"line {number} has {len(words)} words")
                asked, _, answer, _, value, _ = words
                if not math.isfinite(points := float(value)):
                    raise BadInput(f"{path}, line {number}: the score is {value}; give a finite number")
                row, place = rows.get(asked), places.get(answer)
                lines += 1
                if row is not None and place is not None:
                    query.append(row)
                    candidate.append(place)
                    score.append(points)
                elif asked not in others or answer not in rows:
                    unknown += 1
                    first = first or (answer if row is not None or asked in others else asked)
        if unknown:
            close = difflib.get_close_matches(first, [*queries, *candidates], n=1) or [queries[0]]
            what = "is no query of this direction" if first in places else f"did you mean '{close[0]}'?"
            raise BadInput(
                f"{path}: {unknown} of {lines} lines are not of {direction} on this test split and protocol, "
                f"the first has '{first}'; {what}"
            )
        return np.array(query, np.int32), np.array(candidate, np.int32), np.array(score, np.float64)

    def embed_images(self, split: Split) -> Tensor:
        """Refuse: there is nothing to embed."""
        raise BadInput("trec reads rankings and embeds nothing; use a method that is fitted")

    def embed_texts(self, split: Split) -> Tensor:
        return self.embed_images(split)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None: ...
