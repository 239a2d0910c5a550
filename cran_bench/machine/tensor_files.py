"""The checksum of a file of tensors, which is verified without importing torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

_TORCH = {
    **{f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("float", "int", "uint") for bits in (8, 16, 32, 64)},
    **{f"F8_{kind}": f"float8_{kind.lower()}" for kind in ("E4M3FNUZ", "E5M2", "E5M2FNUZ")},
    **{"F8_E4M3": "float8_e4m3fn", "BF16": "bfloat16", "C64": "complex64", "BOOL": "bool"},
}


def checksum(about: str, tensors: Iterable[tuple[str, str, Sequence[int], Any]]) -> str:
    """Return the sha256 of JSON values and of tensors: their name, torch's name of the dtype, shape and bytes."""
    digest = hashlib.sha256(about.encode())
    for key, dtype, shape, data in sorted(tensors, key=lambda one: one[0]):
        digest.update(f"{key} {dtype} {tuple(shape)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def require_intact(path: Path) -> None:
    """Verify the checksum of a file written by `cran_bench.running.fits.save_state`.

    Raises:
        ValueError: the content has changed since.  For a damaged file safetensors and JSON raise many other errors.
    """
    with safetensors.safe_open(path, framework="numpy") as file:  # which checks the header
        metadata: dict[str, str] = file.metadata()
        own_sum, about = metadata["sha256"], metadata["about"]
    data = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header: dict[str, Any] = json.loads(data[8:start].tobytes())
    rows = []
    for key in header.keys() - {"__metadata__"}:
        first, last = header[key]["data_offsets"]
        dtype, shape = _TORCH[header[key]["dtype"]], header[key]["shape"]
        rows.append((key, f"torch.{dtype}", shape, data[start + first : start + last]))
    if own_sum != checksum(about, rows):
        raise ValueError("its checksum does not match")
