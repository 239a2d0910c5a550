"""Errors that a user can fix: reported in one sentence, without a traceback, with exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


LONGEST = 2000
"""Maximum length of a message in characters, as it may quote a file."""


class BadInput(Exception):  # noqa: N818 - named after the cause, as users read it
    """Unusable input; the message says what was expected, what was given and what to do.

    Long messages are shortened in the middle, and control characters are escaped.
    """

    def __init__(self, message: str) -> None:
        if len(message) > LONGEST:
            message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
        super().__init__("".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in message))


class CannotWrite(BadInput):
    """The disk is full or the folder is not writable; ends the whole run, since every row would fail."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown word: the most similar known word, or else all of them.

    Returns:
        ``"; did you mean 'cca'?"`` or ``"; known: cca, cfa"``.
    """
    known = sorted(known)
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5) if len(word) < 100 else []
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else "; none is known"


def first_wrong(error: ValidationError, whole: str) -> str:
    """Return pydantic's first error, ``seconds.fit: Field required``; `whole` names the value as a whole."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg']}"


def how_to_go_on(verb: str, forced: bool) -> str:
    """Return how to resume a command that ended early, with --force or without."""
    if not forced:
        return "finished work is kept, run the same command again to resume"
    if verb == "run":
        return "finished work is kept, run the remaining rows with --force: the same command would start over"
    return "finished work is kept, run the same command without --force to resume"
