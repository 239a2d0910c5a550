"""The commit of the code that runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

CODE = ("cran_bench", "methods", "datasets", "pyproject.toml")
"""What is installed: other files of a checkout, such as records and documentation, change no measurement."""


def commit(file: str = __file__) -> str | None:
    """The last commit that changed `CODE` in the checkout this module runs from; None if installed.

    '+' follows if `CODE` has changes or new files that are not committed.
    """
    folder = Path(file).resolve().parents[2]
    if not (folder / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments, "--", *CODE]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        last = git("log", "-1", "--format=%h", "--abbrev=12")
        return last + "+" * bool(git("status", "--porcelain")) if last else None
    except (OSError, subprocess.SubprocessError):
        return None
