"""Errors a user can cure: one sentence, no traceback, exit code 2."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def place(thing: Any) -> str:
    """Where a class or function is defined, ``mine.py, line 7``; its full name where there is no source."""
    try:
        lines, first = inspect.getsourcelines(thing)
        decorators = next(k for k, line in enumerate(lines) if line.lstrip().startswith(("class ", "def ", "async ")))
        return f"{inspect.getsourcefile(thing)}, line {max(1, first) + decorators}"
    except (OSError, TypeError, StopIteration):
        return f"{thing.__module__}.{thing.__qualname__}"


def file_of(cls: type) -> str | None:
    """The source file of a class's module."""
    return getattr(sys.modules.get(cls.__module__), "__file__", None)


def python_error(error: BaseException, file: str | None) -> str:
    """An error of someone's code in one line, with the statement that failed: the last one in `file` or beside it.

    Returns:
        ``"ZeroDivisionError: division by zero (mine.py, line 3)"``.
    """
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    folder = Path(file).resolve().parent if file else None
    frames = traceback.extract_tb(error.__traceback__)
    near = [frame for frame in frames if Path(frame.filename).parent == folder]
    where = [f" ({frame.filename}, line {frame.lineno})" for frame in near[-1:]]
    return " ".join(f"{type(error).__name__}: {error}".split()) + "".join(where)


@contextlib.contextmanager
def one_sentence(what: str, file: str | None) -> Iterator[None]:
    """Turn any error of someone's code within into a BadInput that begins with `what` and names the statement.

    Raises:
        BadInput: the code failed.
    """
    try:
        yield
    except (BadInput, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(f"{what}: {python_error(error, file)}") from error


def how_to_go_on(verb: str, forced: bool) -> str:
    """What to do after something ended early, with --force or without."""
    if not forced:
        return "what was finished is kept, run the same command to go on"
    if verb == "run":
        return "what was finished is kept, run with --force only what is left: the same command would begin anew"
    return "what was finished is kept, run the same command without --force to go on"
