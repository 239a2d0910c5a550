"""States of several parts in one: ``part.key``."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def with_prefix(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a part, as some of its owner's: ``part.key``."""
    return {f"{part}.{key}": value for key, value in state.items()}


def below(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `with_prefix`."""
    return {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
