"""Errors that a user can fix: reported in one sentence, without a traceback, with exit code 2."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

LONGEST = 2000
"""Maximum length of a message in characters, as it may quote a file."""


_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def escaped(text: str, kept: str = "\n\t") -> str:
    r"""Return `text` with escapes for what would steer a terminal or reorder a line: ``\x1b``, ``\u2028``.

    These are control characters, line separators, marks of direction and surrogates, except those in `kept`.
    """
    return _UNSEEN.sub(lambda found: found[0] if found[0] in kept else ascii(found[0])[1:-1], text)


class BadInput(Exception):  # noqa: N818 - named after the cause, as users read it
    """Unusable input; the message says what was expected, what was given and what to do.

    Long messages are shortened in the middle, and control characters are escaped.
    """

    def __init__(self, message: str) -> None:
        if len(message) > LONGEST:
            message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
        super().__init__(escaped(message))


class CannotWrite(BadInput):
    """The disk is full or the folder is not writable; ends the whole run, since every row would fail."""


class NotReady(BadInput):
    """Features are missing that a run would make first; the message says how long that takes."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown word: the most similar known word, or all of them.

    Returns:
        ``"; did you mean 'cca'?"`` or ``"; known: cca, cfa"``.
    """
    known = sorted({*known})
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5) if len(word) < 100 else []
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else "; none is known"


def first_wrong(error: Exception, whole: str) -> str:
    """Return pydantic's first error, ``seconds.fit: Field required``, where `whole` names all; of others the text."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg']}"


def kind_of(value: object) -> str:
    """Say what a plugin returned: ``"nothing"``, ``"a list"``, ``"a numpy array"``."""
    name = {"NoneType": "nothing", "ndarray": "numpy array"}.get(type(value).__name__, type(value).__name__)
    return name if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def place(thing: Any) -> str:
    """Return where a class or function is defined, ``mine.py, line 7``; its qualified name if it has no source."""
    try:
        lines, first = inspect.getsourcelines(thing)
        decorators = next(k for k, line in enumerate(lines) if line.lstrip().startswith(("class ", "def ", "async ")))
        return f"{inspect.getsourcefile(thing)}, line {max(1, first) + decorators}"
    except (OSError, TypeError, StopIteration):
        return f"{thing.__module__}.{thing.__qualname__}"


def file_of(cls: type) -> str | None:
    """Return the source file of a class's module, or None."""
    return getattr(sys.modules.get(cls.__module__), "__file__", None)


def python_error(error: BaseException, file: str | None) -> str:
    """Describe an error of a plugin in one line, with the statement that failed: the last in the folder of `file`.

    Returns:
        ``"ZeroDivisionError: division by zero (mine.py, line 3)"``.
    """
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    folder = Path(file).resolve().parent if file else None
    frames = traceback.extract_tb(error.__traceback__)
    own = [f" ({frame.filename}, line {frame.lineno})" for frame in frames if Path(frame.filename).parent == folder]
    return " ".join(f"{type(error).__name__}: {error}".split()) + "".join(own[-1:])


@contextlib.contextmanager
def one_sentence(what: str, file: str | None) -> Iterator[None]:
    """Turn any error of a plugin's code into a BadInput that begins with `what` and names the statement.

    Raises:
        BadInput: the code in the block failed.
    """
    try:
        yield
    except (BadInput, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(f"{what}: {python_error(error, file)}") from error


def how_to_go_on(verb: str, forced: bool) -> str:
    """Return how to resume a command that ended early, with --force or without."""
    if not forced:
        return "finished work is kept, run the same command again to resume"
    if verb == "run":
        return "finished work is kept, run the remaining rows with --force: the same command would start over"
    return "finished work is kept, run the same command without --force to resume"
