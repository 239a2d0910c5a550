"""The precision of matrix products: what a device supports, and products in exactly the precision of their inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.utils.deterministic


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device supports bfloat16 products in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def uses_onednn() -> bool:
    """Whether float32 products may be left to oneDNN on this processor, because it keeps all their bits.

    MKL runs kernels for AVX2 on AMD processors, which take over twice the time of oneDNN's for AVX-512.  torch leaves
    products to oneDNN if it may compute them in bfloat16, as it does with AMX only; without AVX-512, MKL goes on.
    """
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(matmul, "fp32_precision") or torch.cpu._is_amx_tile_supported():
        return False
    kept, x = _own_precision(matmul, torch.backends.mkldnn), torch.full((64, 64), 1 + 2.0**-20)
    matmul.fp32_precision = "bf16"
    try:
        return bool((x @ torch.eye(64) == x).all())  # bfloat16 would round it to 1
    finally:
        matmul.fp32_precision = kept


@contextmanager
def in_full_precision(device: torch.device) -> Iterator[None]:
    """Compute products in the dtype of their inputs, accumulated in float32, regardless of torch's global settings.

    From torch 2.9 on there are two interfaces to these settings, and the older one raises where they differ: both are
    set, and both are restored.
    """
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    reduced = cuda.allow_bf16_reduced_precision_reduction
    is_split = getattr(cuda, "allow_bf16_reduced_precision_reduction_split_k", True)
    kept = [(kind, _own_precision(kind, whole)) for kind, whole in _kinds()]
    for kind, _ in kept:
        kind.fp32_precision = "ieee"
    precision, tf32 = torch.get_float32_matmul_precision(), _allows_tf32()
    by_onednn = [cuda, getattr(torch.backends.mkldnn, "matmul", None)]  # both are set by "medium"
    by_onednn = by_onednn if device.type == "cpu" and uses_onednn() else []
    torch.set_float32_matmul_precision("medium" if by_onednn else "highest")
    cudnn.allow_tf32 = False
    for kind, _ in kept:  # again, as the older settings change the newer ones
        if kind not in by_onednn:
            kind.fp32_precision = "ieee"
    cuda.allow_bf16_reduced_precision_reduction = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        cudnn.allow_tf32 = tf32
        for kind, value in kept:
            kind.fp32_precision = value
        cuda.allow_bf16_reduced_precision_reduction = reduced if is_split else (reduced, False)


def _kinds() -> list[tuple[Any, Any]]:
    """The products whose float32 precision torch lets one choose, each with the setting that it inherits."""
    backends: Any = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):  # torch 2.8
        return []
    kinds = [(kind, backends.cudnn) for kind in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)]
    return [*kinds, *((getattr(backends.mkldnn, name), backends.mkldnn) for name in ("matmul", "conv", "rnn"))]


def _own_precision(kind: Any, whole: Any) -> str:
    """The precision that is set for a kind of products, or "none" if it is inherited."""
    precision: str = kind.fp32_precision
    return "none" if precision == whole.fp32_precision else precision


def _allows_tf32() -> bool:
    """The older setting of cuDNN, which raises if it allows TF32 and the newer ones do not."""
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return True


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Compute in full precision and, on a GPU, with algorithms that return the same bits in every run, where there are.

    Others warn.  cuBLAS also needs CUBLAS_WORKSPACE_CONFIG, which `pick_device` sets.
    """
    with in_full_precision(device):
        if device.type != "cuda":
            yield
            return
        fill: Any = torch.utils.deterministic
        cudnn = torch.backends.cudnn
        kept = torch.get_deterministic_debug_mode(), cudnn.benchmark, fill.fill_uninitialized_memory
        torch.set_deterministic_debug_mode("warn")
        cudnn.benchmark = fill.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(kept[0])
            cudnn.benchmark, fill.fill_uninitialized_memory = kept[1:]
