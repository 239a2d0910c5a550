"""Image features by the batch and by the block, so that those of a large dataset need not fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Index: TypeAlias = "slice | Tensor | NDArray[np.int64]"

BLOCK = 4096
HELD = 1 << 29
"""Bytes of a table of features that is read once and held."""
SHARE = 1 / 8
"""Of a GPU's memory, that such a table may take there: reading it anew costs more than on the CPU."""


@dataclass(frozen=True)
class FeatureRows:
    """(n, ..., D) float32 rows that are read from disk whenever they are indexed; where they are few, only once.

    Attributes:
        shape: of all rows.
        held: bytes that stay in memory once a row was read; 0 where rows are read anew.
        read: what `rows[index]` asks.
    """

    shape: tuple[int, ...]
    held: int
    read: Callable[[slice | Tensor], Tensor]

    @classmethod
    def of(cls, array: NDArray[Any], rows: NDArray[np.int64], device: torch.device) -> FeatureRows:
        """Some rows of an array on disk.

        Args:
            array: (m, ..., D), memory-mapped.
            rows: (n,) which of its rows.
            device: where rows are given.
        """
        shape = (len(rows), *array.shape[1:])
        size = 4 * math.prod(shape)

        def read(index: slice | Tensor) -> Tensor:
            some = rows[index if isinstance(index, slice) else index.cpu().numpy()]
            found = np.empty((len(some), *shape[1:]), dtype=np.float32)
            for a in range(0, len(some), BLOCK):  # half precision is not held beside it
                found[a : a + BLOCK] = array[some[a : a + BLOCK]]
            with torch.inference_mode(False):  # whoever asks first, others may train on it
                return torch.from_numpy(found).to(device)

        if size > room(device):
            return cls(shape, 0, read)
        whole = cache(lambda: read(slice(None)))
        return cls(shape, size, lambda index: whole()[index])

    def __len__(self) -> int:
        """Of how many images, or regions."""
        return self.shape[0]

    def __getitem__(self, index: Index) -> Tensor:
        """Rows at positions, or in a run."""
        return self.read(torch.from_numpy(index) if isinstance(index, np.ndarray) else index)

    def map(self, change: Callable[[Tensor], Tensor]) -> FeatureRows:
        """What a function, which looks at each row alone and keeps its shape, makes of them, a block at a time."""

        def read(index: slice | Tensor) -> Tensor:
            places = torch.arange(len(self))[index] if isinstance(index, slice) else index
            if len(places) <= BLOCK:
                return change(self.read(index))
            first = change(self.read(places[:BLOCK]))
            found = first.new_empty(len(places), *self.shape[1:])
            found[:BLOCK] = first
            for a in range(BLOCK, len(places), BLOCK):
                found[a : a + BLOCK] = change(self.read(places[a : a + BLOCK]))
            return found

        return FeatureRows(self.shape, self.held, read)


def room(device: torch.device) -> int:
    """Bytes of a table of features that may be held there."""
    if device.type != "cuda":
        return HELD
    return max(HELD, int(SHARE * torch.cuda.get_device_properties(device).total_memory))
