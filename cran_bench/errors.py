"""Errors a user can cure: one sentence, no traceback, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BadInput(Exception):  # noqa: N818 - named for what happened, as it is printed to people
    """Something the user gave is not usable; the message says what was expected, what came and what to do."""


class CannotWrite(BadInput):
    """A full disk or a folder without write permission: it ends the whole run, for every row would meet it."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the nearest known one, else all of them.

    Returns:
        ``"; did you mean 'cca'?"`` or ``"; known: cca, cfa"``.
    """
    known = sorted(known)
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else "; none is known"
