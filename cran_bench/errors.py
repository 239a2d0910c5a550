"""Errors a user can cure: one sentence, no traceback, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


LONGEST = 2000
"""Characters of a message, which may quote a file."""


class BadInput(Exception):  # noqa: N818 - named for what happened, as it is printed to people
    """Something the user gave is not usable; the message says what was expected, what came and what to do.

    What it quotes of a file is shortened, and characters that a terminal would obey are written out.
    """

    def __init__(self, message: str) -> None:
        if len(message) > LONGEST:
            message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
        super().__init__("".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in message))


class CannotWrite(BadInput):
    """A full disk or a folder without write permission: it ends the whole run, for every row would meet it."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the nearest known one, else all of them.

    Returns:
        ``"; did you mean 'cca'?"`` or ``"; known: cca, cfa"``.
    """
    known = sorted(known)
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5) if len(word) < 100 else []
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else "; none is known"


def first_wrong(error: ValidationError, whole: str) -> str:
    """The first thing that pydantic found wrong, ``seconds.fit: Field required``; `whole` where it is all of it."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, found['loc'])) or whole}: {found['msg']}"


def how_to_go_on(verb: str, forced: bool) -> str:
    """What to do after something ended early, with --force or without."""
    if not forced:
        return "what was finished is kept, run the same command to go on"
    if verb == "run":
        return "what was finished is kept, run with --force only what is left: the same command would begin anew"
    return "what was finished is kept, run the same command without --force to go on"
