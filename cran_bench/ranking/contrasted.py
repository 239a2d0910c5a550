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
CROSSED = ".text", ".image", ".group"
"""Endings of the figures of crossed pairs."""
_ALL_FOUR = np.array([1, 1 / 2, 1 / 3, 1 / 6, 1 / 6])
"""Chance that both diagonal scores exceed the others, if none is smaller, by the number of ties among neighbours."""


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

    def figures(self) -> dict[str, tuple[NDArray[np.int32], NDArray[np.float64]]]:
        """By figure, the (M,) images and values, from 0 to 1, of the pairs or crossed pairs that it is the mean of.

        ``contrasts.KIND`` is of all pairs of a kind, ``contrasts.KIND.balanced`` of its balanced subset.  If the kind
        mixes them with others, ``contrasts.KIND.same_words`` and ``contrasts.KIND.same_words.balanced`` are of at least
        `FEW_PAIRS` pairs with the same words.  Of crossed pairs, which go with the first image, ``.text`` says that
        both captions of both images are in order, ``.image`` both images of both captions, ``.group`` all of them.
        """
        halves, of = self.text / 2.0, {}
        for place, kind in enumerate(self.kinds):
            is_kind = self.kind == place
            alike = is_kind & (self.same_words == 1)
            is_mixed = bool(FEW_PAIRS <= np.count_nonzero(alike) < np.count_nonzero(is_kind))
            for part, rows in ((kind, is_kind), *[(f"{kind}.same_words", alike)] * is_mixed):
                for name, some in ((part, rows), (f"{part}.balanced", rows & (self.balanced == 1))):
                    of[f"contrasts.{name}"] = self.image[some], halves[some]
            first = np.flatnonzero(is_kind & (self.partner > np.arange(len(self.partner))))
            if len(first):
                both = np.stack([first, self.partner[first]])
                text, image = self.text[both], self.crossed[both]
                four = np.concatenate([text, image])
                scores = {"text": text.prod(axis=0) / 4.0, "image": image.prod(axis=0) / 4.0}
                scores["group"] = four.all(axis=0) * _ALL_FOUR[np.count_nonzero(four == 1, axis=0)]
                of |= {f"contrasts.{kind}.{name}": (self.image[first], values) for name, values in scores.items()}
        return of

    def ranked(self) -> tuple[str, ...]:
        """The kinds whose balanced subset has at least `FEW_PAIRS` pairs; the headline is the mean over them."""
        counts = np.bincount(self.kind[self.balanced == 1], minlength=len(self.kinds))
        return tuple(kind for kind, count in zip(self.kinds, counts, strict=True) if count >= FEW_PAIRS)

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
        if (
            halves.max() > 2
            or crossed.max(initial=0) > 2
            or max(values["balanced"].max(), values["same_words"].max()) > 1
        ):
            raise ValueError("an outcome of a contrast is not 0, 1 or 2")
        partner, is_half = values["partner"], values["partner"] >= 0
        if (
            partner.min() < -1
            or partner.max() >= count
            or not np.array_equal(is_half, values["crossed"] != NOT_CROSSED)
        ):
            raise ValueError("a crossed contrast lacks its other half")
        if not np.array_equal(partner[partner[is_half]], np.flatnonzero(is_half)):
            raise ValueError("a crossed contrast lacks its other half")
        return Contrasted(kinds, **values)
