"""Combine the states of several parts in one dictionary, with keys ``part.key``."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def with_prefix(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a part with its keys prefixed, ``part.key``."""
    return {f"{part}.{key}": value for key, value in state.items()}


def below(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a part taken from a combined state; the inverse of `with_prefix`."""
    return {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
