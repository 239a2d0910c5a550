"""Which words of a table of word vectors may stand for one that is not in it.

Klein et al. (CVPR 2015) look a missing word up in other spellings and then in its parts.  Of their steps, the list of
typing errors is not published and left out; captions are in lower case here, so capitals are tried too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LEFT_OUT = {"a", "and", "of", "to"}  # of word2vec's GoogleNews, on purpose, but for "A", "And", "Of" and "To"

AMERICAN = (  # spellings of captions that American tables lack
    (r"grey", "gray"),
    (r"plough", "plow"),
    (r"tyre", "tire"),
    (r"jeweller", "jeweler"),
    (r"jewellery", "jewelry"),
    (r"moustache", "mustache"),
    (r"pyjama", "pajama"),
    (r"aeroplane", "airplane"),
    (r"manoeuvre", "maneuver"),
    (r"our", "or"),
    (r"tre(s?)$", r"ter\1"),
    (r"is(e[ds]?|ing)$", r"iz\1"),
    (r"ys(e[ds]?|ing)$", r"yz\1"),
    (r"ll(ed|ing|er|ers)$", r"l\1"),
    (r"ogue(s?)$", r"og\1"),
    (r"mme(s?)$", r"m\1"),
)


def spellings(word: str) -> Iterator[str]:
    """A word as it is, in American spelling, and with capitals: ``colour`` -> colour, color, Colour, ..."""
    american = [re.sub(british, other, word) for british, other in AMERICAN if re.search(british, word)]
    for spelled in (word, *american):
        yield spelled
    for spelled in (word, *american) if word not in LEFT_OUT else ():
        yield from (spelled.capitalize(), spelled.upper())


def pieces(word: str) -> list[str]:
    """What a word is put together of, at apostrophes and digits: ``man's`` -> man; ``u2fan`` -> u, fan."""
    parts = [part for part in re.split(r"['’\d]+", word) if part not in ("", "s")]
    return parts if parts != [word] else []


def candidates(word: str) -> Iterator[str]:
    """Every word that may stand for one."""
    yield from spellings(word)
    for piece in pieces(word):
        yield from spellings(piece)
