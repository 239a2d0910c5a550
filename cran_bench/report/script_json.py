"""JSON that is safe inside a script element."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cran_bench.errors import escaped


def as_json(value: Any) -> str:
    """JSON that is safe inside a script element: nothing in it closes the element."""
    text = json.dumps(_visible(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _visible(value: Any) -> Any:
    """A JSON value with control characters escaped in all its strings."""
    if isinstance(value, Mapping):
        return {_visible(key): _visible(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_visible(inner) for inner in value]
    return escaped(value) if isinstance(value, str) else value
