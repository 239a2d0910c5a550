"""Packages that only some users need, and the one line that installs each."""

from __future__ import annotations

import importlib
from types import ModuleType

from cran_bench.errors import BadInput


def require(module: str, extra: str, what: str) -> ModuleType:
    """Import a module of an extra.

    Args:
        module: its name.
        extra: of this package, that brings it.
        what: needs it, in the plural, for the message.

    Raises:
        BadInput: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # torchvision beside another build of torch raises the latter
        raise BadInput(
            f"{what} need the extra {extra}: python -m pip install 'cran-bench[{extra}]' ({error})"
        ) from error
