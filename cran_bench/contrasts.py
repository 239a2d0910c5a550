"""Contrasts: true and false captions of one image, which show whether a method reads more than the words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cran_bench.errors import BadInput
from cran_bench.machine.storage import sha256_json

MOST_CONTRASTS = 1_000_000  # as many as there may be judgments
MOST_KINDS = 200
NO_PARTNER = -1
"""The partner of a contrast that is not crossed."""
_KIND = re.compile(r"[\w][\w -]{0,39}")
_HALF = re.compile(r"[\ud800-\udfff]")  # an unpaired surrogate


@dataclass(frozen=True)
class Contrasts:
    """P pairs of a true and a false caption of an image.

    Attributes:
        image: (P,) int64, the row of each pair's image in the collection.
        true: P captions that describe the image.
        false: P captions that do not.
        kind: (P,) int64, the position of each pair's kind in `kinds`.
        kinds: names of the kinds, such as ``attribute`` or ``swap_obj``.
        partner: (P,) int64: of crossed pairs, as in Winoground, the pair of the other image, whose true caption is the
            false one here and the reverse; `NO_PARTNER` for others.  None if no pair is crossed.

    Lists in place of arrays are converted.

    Raises:
        BadInput: the two captions of a pair are equal or one is empty, the numbers of entries differ, a pair has no
            kind of `kinds`, or a crossed pair lacks its other half.
    """

    image: NDArray[np.int64]
    true: Sequence[str]
    false: Sequence[str]
    kind: NDArray[np.int64]
    kinds: Sequence[str]
    partner: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        count = len(self.true)
        rows = {name: _rows(getattr(self, name), name) for name in ("image", "kind")}
        if self.partner is not None:
            rows["partner"] = _rows(self.partner, "partner")
        sizes = {"false": len(self.false), **{name: len(values) for name, values in rows.items()}}
        for name, size in sizes.items():
            if size != count:
                raise BadInput(f"contrasts have {count:,} true captions and {size:,} entries of {name}: give one each")
        if count > MOST_CONTRASTS or len(self.kinds) > MOST_KINDS:
            what = f"{count:,} contrasts of {len(self.kinds):,} kinds"
            raise BadInput(f"{what} are too many: give at most {MOST_CONTRASTS:,} of {MOST_KINDS} kinds")
        wrong = [name for name in self.kinds if not (isinstance(name, str) and _KIND.fullmatch(name))]
        if wrong:
            raise BadInput(
                f"a kind of contrasts is named {str(wrong[0])[:80]!r}: use up to 40 letters, digits, _, - and spaces"
            )
        if len(set(self.kinds)) < len(self.kinds):
            raise BadInput(f"two kinds of contrasts have the same name, among {', '.join(self.kinds)}: rename one")
        for name, values in rows.items():
            if count and values.min() < (NO_PARTNER if name == "partner" else 0):
                raise BadInput(f"contrast {int(values.argmin())} has the {name} {values.min()}: give rows from 0")
        if count and rows["kind"].max() >= len(self.kinds):
            row = int(rows["kind"].argmax())
            raise BadInput(f"contrast {row} has kind {rows['kind'][row]}, but there are {len(self.kinds)} kinds")
        for row, (true, false) in enumerate(zip(self.true, self.false, strict=True)):
            if not all(isinstance(text, str) and text.strip() and not _HALF.search(text) for text in (true, false)):
                raise BadInput(
                    f"a caption of contrast {row} is empty or no valid text: write it or remove the contrast"
                )
            if " ".join(true.split()) == " ".join(false.split()):
                raise BadInput(f"both captions of contrast {row} are {true!r}: change one or remove the contrast")
        if "partner" in rows:
            self._check_partners(rows["partner"], rows["kind"])
        for name, values in rows.items():
            object.__setattr__(self, name, values)  # lists have become arrays

    def _check_partners(self, partner: NDArray[np.int64], kind: NDArray[np.int64]) -> None:
        for row in np.flatnonzero(partner != NO_PARTNER).tolist():
            other = int(partner[row])
            if other >= len(partner) or other == row or partner[other] != row or kind[other] != kind[row]:
                raise BadInput(f"crossed contrast {row} lacks its other half: give both, each as the other's partner")
            if self.true[row] != self.false[other] or self.false[row] != self.true[other]:
                raise BadInput(
                    f"crossed contrasts {row} and {other} do not have the same two captions: exchange them, so that "
                    "the true caption of each is the false one of the other"
                )

    def __len__(self) -> int:
        """Return P."""
        return len(self.true)

    @property
    def partners(self) -> NDArray[np.int64]:
        """(P,) int64, `partner`, or `NO_PARTNER` for every pair."""
        return np.full(len(self), NO_PARTNER) if self.partner is None else self.partner

    def take(self, rows: NDArray[np.int64]) -> Contrasts:
        """The pairs of the rows (n,); one half of a crossed pair without the other is a pair of its own."""
        place = np.full(len(self), NO_PARTNER, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        true, false = ([texts[row] for row in rows.tolist()] for texts in (self.true, self.false))
        partner = np.where(self.partners[rows] == NO_PARTNER, NO_PARTNER, place[self.partners[rows]])
        return Contrasts(self.image[rows], true, false, self.kind[rows], self.kinds, partner)

    def and_also(self, other: Contrasts) -> Contrasts:
        """These pairs, then those of `other`."""
        kinds = list(dict.fromkeys((*self.kinds, *other.kinds)))
        its = np.array([kinds.index(name) for name in other.kinds], dtype=np.int64)
        partner = np.where(other.partners == NO_PARTNER, NO_PARTNER, other.partners + len(self))
        return Contrasts(
            np.concatenate([self.image, other.image]),
            [*self.true, *other.true],
            [*self.false, *other.false],
            np.concatenate([self.kind, its[other.kind]]),
            kinds,
            np.concatenate([self.partners, partner]),
        )

    def sha(self, ids: Sequence[str]) -> str:
        """Return the sha256 of all pairs, which name their images by `ids`, those of the collection."""
        images = [ids[row] for row in self.image.tolist()]
        partner = self.partners.tolist() if (self.partners != NO_PARTNER).any() else []
        return sha256_json([images, [*self.true], [*self.false], self.kind.tolist(), [*self.kinds], partner])


def _rows(given: ArrayLike, name: str) -> NDArray[np.int64]:
    values = np.asarray(given)
    if values.ndim != 1 or (len(values) and values.dtype.kind not in "iu"):
        found = f"{values.dtype.name} of shape {values.shape}"
        raise BadInput(f"{name} of contrasts is {found}: give a one-dimensional array of integers")
    return values.astype(np.int64, copy=False)
