"""The four evaluation protocols, that is how texts become queries, and the folds of MS-COCO's 1K evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from cran_bench.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Unit = Literal["captions", "documents"]
Protocol = Literal["captions", "documents", "mean", "single"]
Metric = Literal["rsum", "map"]
"""Figures by which methods choose on validation: the sum of recalls, or mean average precision by category."""

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

MEANING: dict[Protocol, str] = {
    "captions": "every caption is a query and a candidate; for an image query, any of its captions is correct",
    "documents": "the captions of an image are joined into one text; one text per image",
    "mean": "captions are embedded one by one and averaged per image; one text per image",
    "single": "the first caption of each image; one text per image",
}


def parse_protocols(text: str) -> tuple[Protocol, ...]:
    """Parse a list of protocols, ``captions,documents`` or ``all``; repeated names count once.

    Raises:
        BadInput: there is no protocol of that name.
    """
    if text == "all":
        return PROTOCOLS
    protocols: list[Protocol] = []
    for name in (part.strip() for part in text.split(",")):
        match = [p for p in PROTOCOLS if p == name]
        if not match:
            raise BadInput(f"there is no protocol '{name}'{did_you_mean(name, PROTOCOLS)}")
        protocols += [p for p in match if p not in protocols]
    return tuple(protocols)


def unit_of(protocol: Protocol) -> Unit:
    """Return the kind of text a protocol uses, which is also the default for training."""
    return "documents" if protocol == "documents" else "captions"


def fold_rows(images: int, folds: int) -> list[NDArray[np.int64]]:
    """Return `folds` consecutive blocks of image rows of equal size, without the remainder, as in the 1K evaluation.

    Raises:
        BadInput: there are fewer images than folds.
    """
    import numpy as np

    if not 1 <= folds <= images:
        raise BadInput(f"{folds} folds need at least {folds} images; there are {images}")
    size = images // folds
    return [np.arange(k * size, (k + 1) * size) for k in range(folds)]
