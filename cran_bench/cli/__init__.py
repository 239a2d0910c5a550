"""The command line.  Verbs import heavy modules themselves, so that ``--help`` is quick."""

from __future__ import annotations

import signal
import sys

from cran_bench.errors import BadInput, how_to_go_on
from cran_bench.machine.progress import say

from . import exporting, plugins, running, using, verdicts
from .options import app

__all__ = ["app", "exporting", "main", "plugins", "running", "using", "verdicts"]


class _Interrupted(BaseException):
    """Raised on SIGINT and SIGTERM."""


def _interrupt(number: int, _: object) -> None:
    raise _Interrupted(number)


def main() -> None:
    """Run the command line; an error that users can fix is one sentence on stderr, and exit code 2.

    Ctrl-C ends with exit code 130 and SIGTERM with 143, as shells expect.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    code = 2
    try:
        app()
        return
    except _Interrupted as stop:
        code = 128 + stop.args[0]
        message = f"interrupted; {how_to_go_on(' '.join(sys.argv[1:2]), '--force' in sys.argv)}"
    except BadInput as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or 'the system'}: {error.strerror or error}"
    say(f"error: {message}")
    sys.exit(code)
