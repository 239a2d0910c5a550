"""Image features that are read in batches, so that the features of a large dataset need not fit into memory."""

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
"""Bytes up to which a table of features is read once and kept in memory."""
SHARE = 1 / 8
"""Fraction of a GPU's memory that such a table may take there, where reading it again costs more than on the CPU."""


@dataclass(frozen=True)
class FeatureRows:
    """A table of features, (n, ..., D) float32, read from disk whenever it is indexed; a small table only once.

    Attributes:
        shape: shape of the whole table.
        held: bytes kept in memory once a row has been read; 0 if rows are read from disk every time.
        read: returns the rows at an index, on the run's device.
    """

    shape: tuple[int, ...]
    held: int
    read: Callable[[slice | Tensor], Tensor]

    @classmethod
    def of(cls, array: NDArray[Any], rows: NDArray[np.int64], device: torch.device) -> FeatureRows:
        """The table of selected rows of an array on disk.

        Args:
            array: (m, ..., D), memory-mapped.
            rows: (n,) the rows to select.
            device: the device on which rows are returned.
        """
        shape = (len(rows), *array.shape[1:])
        size = 4 * math.prod(shape)

        def read(index: slice | Tensor) -> Tensor:
            some = rows[index if isinstance(index, slice) else index.cpu().numpy()]
            values = np.empty((len(some), *shape[1:]), dtype=np.float32)
            for a in range(0, len(some), BLOCK):  # in blocks, so that no half-precision copy takes up memory
                values[a : a + BLOCK] = array[some[a : a + BLOCK]]
            with torch.inference_mode(False):  # a kept table may be used for training later
                return torch.from_numpy(values).to(device)

        if size > room(device):
            return cls(shape, 0, read)
        whole = cache(lambda: read(slice(None)))
        return cls(shape, size, lambda index: whole()[index])

    def __len__(self) -> int:
        """Return n, the number of rows."""
        return self.shape[0]

    def __getitem__(self, index: Index) -> Tensor:
        """Return the rows at a slice or at positions (k,): (k, ..., D) float32."""
        return self.read(torch.from_numpy(index) if isinstance(index, np.ndarray) else index)

    def map(self, change: Callable[[Tensor], Tensor]) -> FeatureRows:
        """Apply a function to every row when it is read, in blocks; it must be row-wise and preserve the shape."""

        def read(index: slice | Tensor) -> Tensor:
            places = torch.arange(len(self))[index] if isinstance(index, slice) else index
            if len(places) <= BLOCK:
                return change(self.read(index))
            first = change(self.read(places[:BLOCK]))
            values = first.new_empty(len(places), *self.shape[1:])
            values[:BLOCK] = first
            for a in range(BLOCK, len(places), BLOCK):
                values[a : a + BLOCK] = change(self.read(places[a : a + BLOCK]))
            return values

        return FeatureRows(self.shape, self.held, read)


def room(device: torch.device) -> int:
    """Bytes up to which a table of features is kept in the memory of a device."""
    if device.type != "cuda":
        return HELD
    return max(HELD, int(SHARE * torch.cuda.get_device_properties(device).total_memory))
