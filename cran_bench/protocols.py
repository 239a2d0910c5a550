"""How texts become queries.  Four protocols, and the folds of MS-COCO's 1K figures."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cran_bench.errors import BadInput, did_you_mean

Unit = Literal["captions", "documents"]
Protocol = Literal["captions", "documents", "mean", "single"]

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

MEANING: dict[Protocol, str] = {
    "captions": "every caption is a query and a candidate; an image counts as found with any of its own",
    "documents": "an image's captions joined into one text, one to one",
    "mean": "captions embedded one by one, then averaged per image, one to one",
    "single": "the first caption of each image, one to one",
}


def parse_protocols(text: str) -> tuple[Protocol, ...]:
    """``captions,documents`` or ``all``.

    Raises:
        BadInput: an unknown name.
    """
    if text == "all":
        return PROTOCOLS
    found: list[Protocol] = []
    for name in (part.strip() for part in text.split(",")):
        match = [p for p in PROTOCOLS if p == name]
        if not match:
            raise BadInput(f"there is no protocol '{name}'{did_you_mean(name, PROTOCOLS)}")
        found += [p for p in match if p not in found]
    return tuple(found)


def unit_of(protocol: Protocol) -> Unit:
    """What the texts of a protocol are, and what a method trains on unless told otherwise."""
    return "documents" if protocol == "documents" else "captions"


def fold_rows(images: int, folds: int) -> list[NDArray[np.int64]]:
    """`folds` disjoint runs of image rows of equal size, in order; a remainder is left out (as in the 1K protocol).

    Raises:
        BadInput: fewer images than folds.
    """
    if not 1 <= folds <= images:
        raise BadInput(f"{folds} folds need at least {folds} images; there are {images}")
    size = images // folds
    return [np.arange(k * size, (k + 1) * size) for k in range(folds)]
