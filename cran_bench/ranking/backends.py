"""The ranking backends, which give identical counts, and the choice between them."""

from __future__ import annotations

import functools
import importlib.util
import os
import timeit
from collections.abc import Callable
from typing import get_args

import torch

from cran_bench.errors import BadInput, did_you_mean
from cran_bench.machine.arithmetic import has_bfloat16
from cran_bench.ranking.filtering import ApproximateScorer, Bound, Filtering
from cran_bench.ranking.problem import Backend, Problem
from cran_bench.ranking.reference import Reference
from cran_bench.ranking.tiles import tiles_for

BACKENDS = ("auto", "reference", "torch", "triton")
BOUNDS = get_args(Bound)

SMALL = 1e8  # FLOP; below, the set-up of the other backends takes longer than float64
LARGE = 1e11  # FLOP; above, 16 bits pay off


def choose(problem: Problem, backend: str = "auto", bound: Bound = "measured") -> Backend:
    """Return a backend by name; `auto` decides by the size of the problem and the speed of the hardware.

    Raises:
        BadInput: the backend or bound is unknown.
    """
    require_known(backend, bound)
    if backend == "reference" or (backend == "auto" and problem.flop < SMALL):
        return Reference()
    scorer = fused_scorer(problem.device) if backend == "triton" else tiles_for
    dtype = fastest(problem.device) if problem.flop >= LARGE else torch.float32
    return Filtering(functools.partial(scorer, dtype=dtype), bound)


def fused_scorer(device: torch.device) -> Callable[..., ApproximateScorer]:
    """The scorer of the backend `triton`; Triton is imported only here.

    Raises:
        BadInput: Triton is not installed, or there is no GPU and Triton's interpreter is not enabled.
    """
    if importlib.util.find_spec("triton") is None:
        raise BadInput("the backend triton needs the package triton: install cran-bench with the extra 'triton'")
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise BadInput("the backend triton needs a GPU: use --backend torch, or set TRITON_INTERPRET=1, which is slow")
    from cran_bench.ranking.triton import Fused

    return functools.partial(tiles_for, is_compiled=False, kind=Fused)


def require_known(backend: str, bound: str) -> None:
    """Check that a name is among `BACKENDS` and `BOUNDS`.

    Raises:
        BadInput: it is not; the message suggests the closest name.
    """
    for kind, name, known in (("backend", backend, BACKENDS), ("bound", bound, BOUNDS)):
        if name not in known:
            raise BadInput(f"there is no {kind} '{name}'{did_you_mean(name, known)}")


@functools.cache
def fastest(device: torch.device) -> torch.dtype:
    """A 16-bit dtype if its matrix products are more than 1.5 times as fast as those of float32, otherwise float32.

    float16 has eight times the precision of bfloat16, so it is preferred unless it is slower.  Only dtypes that the
    hardware multiplies are considered, and a CPU is timed.
    """
    if device.type == "cuda":
        return torch.float16 if torch.cuda.get_device_capability(device) >= (7, 0) else torch.float32
    half = [torch.float16] if torch.ops.mkldnn._is_mkldnn_fp16_supported() else []
    seconds = {}
    for dtype in (torch.float32, *half, *([torch.bfloat16] if has_bfloat16(device) else [])):
        x, y = torch.ones(1024, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        seconds[dtype] = min(timeit.repeat(lambda x=x, y=y: x @ y.T, number=1, repeat=4))  # type: ignore[misc]
    limit = seconds.pop(torch.float32) / 1.5
    fast = {dtype: time for dtype, time in seconds.items() if time < limit}
    return next((dtype for dtype, time in fast.items() if time <= 1.1 * min(fast.values())), torch.float32)
