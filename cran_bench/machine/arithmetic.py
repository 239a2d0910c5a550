"""The precision of matrix products: what a device supports, and products in exactly the precision of their inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device supports bfloat16 products in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def in_full_precision(device: torch.device) -> Iterator[None]:
    """Compute products in the dtype of their inputs, accumulated in float32, regardless of torch's global settings."""
    precision, cuda = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul
    reduced = cuda.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    cuda.allow_bf16_reduced_precision_reduction = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        cuda.allow_bf16_reduced_precision_reduction = reduced
