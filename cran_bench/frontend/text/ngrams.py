"""Language models of short texts from counts: n-grams, and pairs of units near each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, product

import numpy as np
from numpy.typing import NDArray

UNKNOWN, END, FIRST = 0, 1, 2
BLOCK = 20_000
GRID = 2.0**30
"""Log probabilities are whole multiples of 1 / GRID, so that their sums are exact, whatever the order of the terms."""

Rows = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class UnitStream:
    """T texts one after the other, each between a start and an end: L units in all.

    Attributes:
        units: (L,) the row of each unit in the vocabulary.
        place: (L,) the place of each unit in its text, 0 for the start.
        text: (L,) the text of each unit.
    """

    units: Rows
    place: Rows
    text: Rows


class Vocabulary:
    """The units of the training texts, words or characters; all others are one unknown unit.

    Attributes:
        size: number of units that may follow others: those of training, the unknown one and the end of a text.
    """

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self._rows = {unit: row for row, unit in enumerate(sorted(set(chain.from_iterable(texts))), FIRST)}
        self.size = FIRST + len(self._rows)

    def stream(self, texts: Sequence[Sequence[str]]) -> UnitStream:
        """The rows of the units of `texts`; the start of a text, which never follows a unit, has the row `size`."""
        lengths = np.array([len(text) + 2 for text in texts], dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        text = np.repeat(np.arange(len(texts)), lengths)
        place = np.arange(len(text)) - starts[text]
        units = np.full(len(text), END)
        units[starts] = self.size
        get = self._rows.get
        inside = (place > 0) & (place < lengths[text] - 1)
        units[inside] = np.fromiter((get(unit, UNKNOWN) for unit in chain.from_iterable(texts)), np.int64)
        return UnitStream(units, place, text)

    def scores(self, texts: Sequence[Sequence[str]], values: Callable[[UnitStream], Values]) -> Values:
        """The sum of `values` of the units over each text, (T,), computed for `BLOCK` texts at a time."""
        blocks = (self.stream(texts[row : row + BLOCK]) for row in range(0, len(texts), BLOCK))
        return np.concatenate([np.zeros(0), *(np.bincount(block.text, values(block)) for block in blocks)])


class NGrams:
    """Counts of the n-grams of training texts up to a length, from which the model of each order follows.

    For a unit w after the n - 1 units u, with u' = u without its first unit, a model of order n has

        p(w | u) = max(c(u w) - d, 0) / c(u .) + d t(u) / c(u .) p(w | u'),

    t(u) the number of different units after u and d the discount; p(w | u) = p(w | u') for a context u without counts,
    and below one unit p is uniform.  At the highest order, and for n-grams that begin a text, c counts occurrences; at
    the lower orders it counts the different units before the n-gram (interpolated Kneser-Ney smoothing: Kneser and Ney
    1995; Chen and Goodman 1999).  A context never reaches beyond the start of its text.

    Attributes:
        vocabulary: the units.
    """

    def __init__(self, texts: Sequence[Sequence[str]], longest: int) -> None:
        self.vocabulary = Vocabulary(texts)
        size = self.vocabulary.size + 1
        stream = self.vocabulary.stream(texts)
        follows = stream.place > 0
        self._keys: list[Rows] = [np.arange(size)]
        self._counts: list[Rows] = [np.bincount(stream.units[follows], minlength=size)]
        self._before: list[Rows] = []  # the different units before each n-gram
        ends = stream.units
        for n in range(1, longest):
            places = np.flatnonzero(stream.place >= n)
            keys, rows, counts = np.unique(
                ends[places - 1] * size + stream.units[places], return_inverse=True, return_counts=True
            )
            shorter = np.empty(len(keys), dtype=np.int64)
            shorter[rows] = ends[places]
            self._before.append(np.bincount(shorter, minlength=len(self._keys[-1])))
            self._keys.append(keys)
            self._counts.append(counts)
            ends = np.full(len(stream.units), -1)
            ends[places] = rows

    def find(self, stream: UnitStream) -> list[Rows]:
        """For each length, (L,) the row of the n-gram that ends at each unit; -1 if there is none in training."""
        found = [stream.units]
        for keys in self._keys[1:]:
            places = np.flatnonzero(stream.place)
            places = places[found[-1][places - 1] >= 0]
            sought = found[-1][places - 1] * (self.vocabulary.size + 1) + stream.units[places]
            row = np.minimum(np.searchsorted(keys, sought), len(keys) - 1)
            found.append(np.full(len(stream.units), -1))
            found[-1][places] = np.where(keys[row] == sought, row, -1)
        return found

    def best(
        self, texts: Sequence[Sequence[str]], orders: Sequence[int], discounts: Sequence[float]
    ) -> tuple[int, float]:
        """The order and the discount by which `texts` have the lowest perplexity."""
        stream = self.vocabulary.stream(texts)
        found = self.find(stream)
        return max(product(orders, discounts), key=lambda choice: self.log_probabilities(stream, found, *choice).sum())

    def scores(self, texts: Sequence[Sequence[str]], order: int, discount: float) -> Values:
        """(T,) the log probability of each text."""
        return self.vocabulary.scores(texts, lambda x: self.log_probabilities(x, self.find(x), order, discount))

    def log_probabilities(self, stream: UnitStream, found: Sequence[Rows], order: int, discount: float) -> Values:
        """(L,) logarithms of the probability of each unit given those before it; 0 at the starts of texts."""
        p = np.full(len(stream.units), 1 / self.vocabulary.size)
        for n in range(order):
            counts = self._counts[n]
            if n < order - 1:
                counts = np.where(self._before[n] > 0, self._before[n], counts)
            context = self._keys[n] // (self.vocabulary.size + 1) if n else np.zeros(len(counts), dtype=np.int64)
            size = len(self._keys[n - 1]) + 1 if n else 1  # without counts: the last one, of no context
            total, types = (np.bincount(context, weights, size) for weights in (counts, counts > 0))
            places = np.flatnonzero(stream.place >= max(n, 1))
            before = found[n - 1][places - 1] if n else np.zeros(len(places), dtype=np.int64)
            places, before = places[total[before] > 0], before[total[before] > 0]
            rows = found[n][places]
            own = np.where(rows >= 0, np.maximum(counts[rows] - discount, 0), 0)
            p[places] = (own + discount * types[before] * p[places]) / total[before]
        return _logarithms(p, stream)


class NearUnits:
    """The mean of what each of the nearest units before a unit says about it, whatever stands between them.

        p(w | a_1 ... a_k) = 1/k sum_i (max(c(a_i, w) - d, 0) + d t(a_i) p(w)) / c(a_i),

    c(a, w) counts the occurrences of a at most `window` units before w, c(a) is its sum and t(a) the number of its
    entries above 0 over all w; p(w) is the share of w, one added to each count.

    Attributes:
        vocabulary: the units.
        window: the number of units before a unit that say something about it.
        discount: d.
    """

    def __init__(self, texts: Sequence[Sequence[str]], window: int, discount: float) -> None:
        self.vocabulary, self.window, self.discount = Vocabulary(texts), window, discount
        stream = self.vocabulary.stream(texts)
        pairs = [self._pairs(stream, distance)[1] for distance in range(1, window + 1)]
        self._keys, self._counts = np.unique(np.concatenate(pairs), return_counts=True)
        context = self._keys // self.vocabulary.size
        self._total, self._types = (np.bincount(context, x, self.vocabulary.size + 1) for x in (self._counts, None))
        counts = np.bincount(stream.units[stream.place > 0], minlength=self.vocabulary.size) + 1
        self._alone = counts / counts.sum()

    def _pairs(self, stream: UnitStream, distance: int) -> tuple[Rows, Rows]:
        """The places with a unit so far before them, and their pairs as numbers."""
        places = np.flatnonzero(stream.place >= distance)
        return places, stream.units[places - distance] * self.vocabulary.size + stream.units[places]

    def scores(self, texts: Sequence[Sequence[str]]) -> Values:
        """(T,) the log probability of each text."""
        return self.vocabulary.scores(texts, self.log_probabilities)

    def log_probabilities(self, stream: UnitStream) -> Values:
        """(L,) logarithms of the probability of each unit given those before it; 0 at the starts of texts."""
        p = np.zeros(len(stream.units))
        for distance in range(1, self.window + 1):
            places, pairs = self._pairs(stream, distance)
            row = np.minimum(np.searchsorted(self._keys, pairs), len(self._keys) - 1)
            counts = np.where(self._keys[row] == pairs, self._counts[row], 0)
            before, alone = pairs // self.vocabulary.size, self._alone[stream.units[places]]
            own = np.maximum(counts - self.discount, 0) + self.discount * self._types[before] * alone
            p[places] += np.where(self._total[before] > 0, own / np.maximum(self._total[before], 1), alone)
        return _logarithms(p / np.clip(stream.place, 1, self.window), stream)


def _logarithms(p: Values, stream: UnitStream) -> Values:
    logarithms = np.rint(np.log(np.where(stream.place > 0, p, 1)) * GRID) / GRID
    return np.asarray(logarithms, dtype=np.float64)
