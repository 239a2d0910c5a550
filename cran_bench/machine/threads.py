"""Threads of torch, OpenMP and BLAS: how many compute a fit, and that those which wait for work sleep."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""The variables from which torch, MKL and OpenBLAS read their number of threads when they are loaded."""

_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


def stop_spinning() -> None:
    """Let idle OpenMP threads sleep, unless the user says how they wait; without effect once torch is loaded.

    Threads that spin keep a core busy that another process could use, and both become many times slower.
    """
    if "torch" not in sys.modules and os.environ.keys().isdisjoint({*_WAITING, "GOMP_SPINCOUNT"}):
        os.environ.update(_WAITING)


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
