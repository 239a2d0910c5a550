"""Character encoding of texts for CRAN's text CNN, with the alphabet of Reed et al. (CVPR 2016)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cran_bench.errors import BadInput, did_you_mean

Unknown = Literal["drop", "zero", "stop"]

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/\\|_@#$%^&*~`+-=<>()[]{} "
"""The 70 characters of Reed et al.  The hyphen occurs twice and its later place is used, so index 37 never occurs."""

_INDEX = {ord(character): chr(place) for place, character in enumerate(ALPHABET, start=1)}


def encode(texts: Sequence[str], length: int = 201, unknown: Unknown = "drop") -> NDArray[np.uint8]:
    """Encode lower-cased texts as indices into `ALPHABET` from 1, truncated or padded with 0 to `length`.

    Args:
        texts: T texts.
        length: maximum number of characters of a text; CRAN uses 201.
        unknown: what happens to a character outside the alphabet: it is left out ("drop"), becomes 0 ("zero"), or ends
            the text, as in the loader of Reed et al. ("stop").

    Returns:
        (T, length) uint8.

    Raises:
        BadInput: `length` is not positive, or `unknown` is none of the three.
    """
    if length < 1:
        raise BadInput(f"the number of characters per text must be at least 1, not {length}; the paper uses 201")
    if unknown not in get_args(Unknown):
        raise BadInput(
            f"there is no way '{unknown}' to treat unknown characters{did_you_mean(unknown, get_args(Unknown))}"
        )
    fallback = "" if unknown == "drop" else "\0"
    table = defaultdict(lambda: fallback, _INDEX)
    rows = (text.lower().translate(table) for text in texts)
    if unknown == "stop":
        rows = (row.partition("\0")[0] for row in rows)
    packed = bytearray().join(row[:length].encode().ljust(length, b"\0") for row in rows)
    return np.frombuffer(packed, np.uint8).reshape(-1, length)
