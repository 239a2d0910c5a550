"""The commit of the code that runs."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit(file: str = __file__) -> str | None:
    """The commit of the checkout this module runs from, with '+' for uncommitted changes; None if installed."""
    folder = Path(file).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() or None
