"""Threads of torch, OpenMP and BLAS: how many compute a fit, and that those which wait for work sleep."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""The variables from which torch, MKL and OpenBLAS read their number of threads when they are loaded."""

_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


def stop_spinning() -> bool:
    """Let idle OpenMP threads sleep: those that spin keep a core busy that another process could use.

    Returns:
        Whether this was possible: torch is not loaded yet, and the user does not say how threads wait.
    """
    is_open = "torch" not in sys.modules and os.environ.keys().isdisjoint({*_WAITING, "GOMP_SPINCOUNT"})
    os.environ.update(_WAITING if is_open else {})
    return is_open


@contextlib.contextmanager
def limited(threads: int | None) -> Iterator[None]:
    """Compute with this number of threads within the block; None leaves the number as it is."""
    if threads is None:
        yield
        return
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    before = torch.get_num_threads()
    with threadpool_limits(threads):
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
