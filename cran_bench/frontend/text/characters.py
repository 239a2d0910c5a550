"""Captions as characters, for CRAN's text CNN: the alphabet and the loader of Reed et al. (CVPR 2016)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cran_bench.errors import BadInput, did_you_mean

Unknown = Literal["drop", "zero", "stop"]

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/\\|_@#$%^&*~`+-=<>()[]{} "
"""Reed's 70 places.  The hyphen has two and the later one counts, so of the indices 1 .. 70 all but 37 occur."""

_INDEX = {ord(character): chr(place) for place, character in enumerate(ALPHABET, start=1)}


def encode(texts: Sequence[str], length: int = 201, unknown: Unknown = "drop") -> NDArray[np.uint8]:
    """Lower-cased texts as places in `ALPHABET`, counted from 1, in reading order, cut or padded with 0 to `length`.

    Args:
        texts: T texts.
        length: characters kept of each text; CRAN keeps 201.
        unknown: a character outside the alphabet is left out ("drop"), becomes 0 ("zero"), or ends the text as
            it does in Reed's loader ("stop").

    Returns:
        (T, length) uint8.

    Raises:
        BadInput: `length` is not positive, or `unknown` is none of the three.
    """
    if length < 1:
        raise BadInput(f"the number of characters kept of a text must be at least 1, not {length}; the paper has 201")
    if unknown not in get_args(Unknown):
        raise BadInput(
            f"an unknown character cannot be treated as '{unknown}'{did_you_mean(unknown, get_args(Unknown))}"
        )
    fallback = "" if unknown == "drop" else "\0"
    table = defaultdict(lambda: fallback, _INDEX)
    rows = (text.lower().translate(table) for text in texts)
    if unknown == "stop":
        rows = (row.partition("\0")[0] for row in rows)
    packed = bytearray().join(row[:length].encode().ljust(length, b"\0") for row in rows)
    return np.frombuffer(packed, np.uint8).reshape(-1, length)
