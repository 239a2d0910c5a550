"""The command line.  Heavy modules are imported by the verbs that need them, so that ``--help`` is quick."""

from __future__ import annotations

import signal
import sys

from cran_bench.errors import BadInput, how_to_go_on
from cran_bench.machine.progress import say

from . import plugins, running, using, verdicts
from .options import app

__all__ = ["app", "main", "plugins", "running", "using", "verdicts"]


class _Interrupted(BaseException):
    """Ctrl-C or a polite kill."""


def _interrupt(*_: object) -> None:
    raise _Interrupted


def main() -> None:
    """Entry point: errors a user can cure are one sentence and exit code 2."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        app()
    except _Interrupted:
        _end(f"interrupted; {how_to_go_on(' '.join(sys.argv[1:2]), '--force' in sys.argv)}")
    except BadInput as error:
        _end(str(error))
    except OSError as error:
        _end(f"{error.filename or 'the system'}: {error.strerror or error}")


def _end(sentence: str) -> None:
    say(f"error: {sentence}")
    sys.exit(2)
