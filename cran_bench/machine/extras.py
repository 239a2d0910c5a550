"""Optional dependencies, and how to install them."""

from __future__ import annotations

import importlib
from types import ModuleType

from cran_bench.errors import BadInput


def require(module: str, extra: str, what: str) -> ModuleType:
    """Import a module of an optional dependency.

    Args:
        module: name of the module.
        extra: the extra of this package that installs it.
        what: what needs the module, in the plural, for the error message.

    Raises:
        BadInput: the module is not installed or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision built for another version of torch
        raise BadInput(
            f"{what} need the extra {extra}: python -m pip install 'cran-bench[{extra}]' ({error})"
        ) from error
