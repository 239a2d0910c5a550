"""Replacements for words that have no word vector: other spellings, then the parts of the word.

This follows Klein et al. (CVPR 2015), except that their list of spelling errors is not published and so not used.
Captions are lower-cased here, so capitalised forms are tried as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LEFT_OUT = {"a", "and", "of", "to"}  # deliberately absent from word2vec's GoogleNews, unlike "A", "And", "Of" and "To"

AMERICAN = (  # British spellings in captions, and the American ones of most word vectors
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
    """Yield a word unchanged, in American spelling, and capitalised: ``colour`` -> colour, color, Colour, ..."""
    american = [re.sub(british, other, word) for british, other in AMERICAN if re.search(british, word)]
    for spelled in (word, *american):
        yield spelled
    for spelled in (word, *american) if word not in LEFT_OUT else ():
        yield from (spelled.capitalize(), spelled.upper())


def pieces(word: str) -> list[str]:
    """Split a word at apostrophes and digits: ``man's`` -> man; ``u2fan`` -> u, fan; ``man`` -> no parts."""
    parts = [part for part in re.split(r"['’\d]+", word) if part not in ("", "s")]
    return parts if parts != [word] else []


def candidates(word: str) -> Iterator[str]:
    """Yield all words that may replace a word: the spellings of the word and of its parts."""
    yield from spellings(word)
    for piece in pieces(word):
        yield from spellings(piece)
