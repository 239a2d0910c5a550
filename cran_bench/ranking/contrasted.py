"""Which of the contrasts a method gets right: the true caption above the false one, as halves, per pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

FEW_PAIRS = 20
"""A kind with fewer pairs is shown and not ranked."""
NOT_CROSSED = 255
HEADLINE = "contrasts"
PREFIX = "contrasts."
CROSSED = ("text", "image", "group")
_IN_ORDER = np.array([1, 1 / 2, 1 / 3, 1 / 6, 1 / 6])
"""Chance that two scores exceed two others if none is smaller, by the number of ties between the four."""


def kind_and_part(figure: str) -> tuple[str, str]:
    """The kind of a figure of contrasts, and the part of its pairs, such as ``balanced``; '' for all of them."""
    kind, _, part = figure.removeprefix(PREFIX).partition(".")
    return kind, part


def halves(gaps: NDArray[np.float64], tolerance: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Outcomes in halves: 2 where a gap is above its tolerance, 1 where it is within, else 0."""
    return ((gaps > tolerance).astype(np.uint8) + (gaps >= -tolerance)).astype(np.uint8)


@dataclass(frozen=True)
class Contrasted:
    """The outcomes of P contrasts, in halves: 2 if the true caption scores above the false one, 1 for a tie, else 0.

    Attributes:
        kinds: names of the kinds.
        image: (P,) int32, the position of each pair's image in the test split.
        kind: (P,) uint8, the position of its kind in `kinds`.
        text: (P,) uint8, outcome of the method for the image's two captions.
        crossed: (P,) uint8, of crossed pairs the outcome for the true caption's two images; `NOT_CROSSED` for others.
        partner: (P,) int32, the other half of a crossed pair, -1 for others.
        blind: (P,) uint8, outcome of the text-only model by which the subsets are balanced.
        second: (P,) uint8, outcome of a second text-only model.
        balanced: (P,) uint8, 1 for a pair of the balanced subset, in which `blind` is at chance.
        same_words: (P,) uint8, 1 if both captions have the same words, so that only their order differs.
    """

    kinds: tuple[str, ...]
    image: NDArray[np.int32]
    kind: NDArray[np.uint8]
    text: NDArray[np.uint8]
    crossed: NDArray[np.uint8]
    partner: NDArray[np.int32]
    blind: NDArray[np.uint8]
    second: NDArray[np.uint8]
    balanced: NDArray[np.uint8]
    same_words: NDArray[np.uint8]

    ARRAYS: ClassVar[Mapping[str, Any]] = {
        **dict.fromkeys(("image", "partner"), np.int32),
        **dict.fromkeys(("kind", "text", "crossed", "blind", "second", "balanced", "same_words", "kinds"), np.uint8),
    }
    """The arrays as which it is stored, with their types; `kinds` as UTF-8, one name a line."""

    def by_pair(self, figure: str) -> NDArray[np.float64]:
        """(P,) the share right of each pair, in percent; NaN for a pair that does not belong to the figure.

        Args:
            figure: one of `names`.
        """
        kind, part = kind_and_part(figure)
        own = self.kind == self.kinds.index(kind)
        right = self.text / 2.0
        if part in CROSSED:
            own = own & (self.partner >= 0)
            four = np.stack([x[rows] for x in (self.text, self.crossed) for rows in (slice(None), self.partner)])
            both = np.minimum(four[0::2], 2) * np.minimum(four[1::2], 2) / 4.0
            group = four.all(axis=0) * _IN_ORDER[np.count_nonzero(four == 1, axis=0)]
            right = {"text": both[0], "image": both[1], "group": group}[part]
        elif part:
            own = own & (getattr(self, part) == 1)
        return np.where(own, 100.0 * right, np.nan)

    @property
    def names(self) -> list[str]:
        """The figures of the kinds, ``contrasts.KIND``, and of parts of their pairs, ``contrasts.KIND.balanced``."""
        found = []
        for place, kind in enumerate(self.kinds):
            own = self.kind == place
            of = {"": own, "balanced": own & (self.balanced == 1), "same_words": own & (self.same_words == 1)}
            if np.array_equal(of["same_words"], own):
                del of["same_words"]
            of |= dict.fromkeys(CROSSED, own & (self.partner >= 0))
            found += [PREFIX + kind + f".{part}" * bool(part) for part, pairs in of.items() if pairs.any()]
        return found

    @property
    def ranked(self) -> list[str]:
        """The figures of balanced subsets with at least `FEW_PAIRS` pairs, whose mean is the headline."""
        balanced = [name for name in self.names if kind_and_part(name)[1] == "balanced"]
        return [name for name in balanced if np.count_nonzero(~np.isnan(self.by_pair(name))) >= FEW_PAIRS]

    @property
    def drawn_with(self) -> NDArray[np.int64]:
        """(P,) the image with which each pair is resampled: both images of a crossed pair are drawn together."""
        if (self.partner < 0).all():
            return self.image.astype(np.int64)
        from scipy.sparse import coo_array  # which takes a tenth of a second to import
        from scipy.sparse.csgraph import connected_components

        half, size = self.partner >= 0, int(self.image.max()) + 1
        edges = self.image[half], self.image[self.partner[half]]
        group = connected_components(coo_array((np.ones(len(edges[0])), edges), shape=(size, size)), directed=False)[1]
        first = np.unique(group, return_index=True)[1]
        return np.asarray(first[group[self.image]], dtype=np.int64)

    @property
    def is_order_unseen(self) -> bool:
        """Whether all pairs with the same words tie, as they do for a bag of words."""
        alike = self.text[self.same_words == 1]
        return len(alike) > 0 and bool((alike == 1).all())

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """`ARRAYS` by name."""
        values: dict[str, NDArray[np.generic]] = {k: x for k, x in vars(self).items() if k != "kinds"}
        return {**values, "kinds": np.frombuffer("\n".join(self.kinds).encode(), dtype=np.uint8)}

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]], images: int) -> Contrasted:
        """The outcomes stored as `arrays`, on a split of so many images.

        Raises:
            ValueError: the arrays differ in length, or hold what is no outcome.
        """
        kinds = tuple(arrays["kinds"].tobytes().decode().split("\n"))
        values = {name: arrays[name] for name in Contrasted.ARRAYS if name != "kinds"}
        count = len(values["image"])
        if not count or any(x.shape != (count,) for x in values.values()):
            raise ValueError("the outcomes of contrasts differ in number")
        if values["image"].min() < 0 or values["image"].max() >= images or values["kind"].max() >= len(kinds):
            raise ValueError("a contrast names an image or a kind that does not exist")
        halves = np.concatenate([values[name] for name in ("text", "blind", "second")])
        crossed = values["crossed"][values["crossed"] != NOT_CROSSED]
        flags = np.concatenate([values[name] for name in ("balanced", "same_words")])
        if halves.max() > 2 or crossed.max(initial=0) > 2 or flags.max() > 1:
            raise ValueError("an outcome of a contrast is not 0, 1 or 2")
        partner, half = values["partner"], np.flatnonzero(values["crossed"] != NOT_CROSSED)
        is_inside = -1 <= partner.min() <= partner.max() < count and np.array_equal(np.flatnonzero(partner >= 0), half)
        if not (is_inside and np.array_equal(partner[partner[half]], half)):
            raise ValueError("a crossed contrast lacks its other half")
        return Contrasted(kinds, **values)
