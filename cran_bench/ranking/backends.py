"""Counting what scores better than the best right answer: one problem, several backends, equal counts."""

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
from cran_bench.ranking.tiles import fitting

BACKENDS = ("auto", "reference", "torch", "triton")
BOUNDS = get_args(Bound)

SMALL = 2e9  # FLOP; below, float64 is done before anything else has begun
LARGE = 1e11  # FLOP; from here on bfloat16 pays


def choose(problem: Problem, backend: str = "auto", bound: Bound = "measured") -> Backend:
    """A backend by name; `auto` goes by size, range and what the hardware is fast at.

    Raises:
        BadInput: an unknown backend or bound.
    """
    require_known(backend, bound)
    if backend == "reference" or (backend == "auto" and problem.flop < SMALL):
        return Reference()
    screen = fused_screen(problem.device) if backend == "triton" else fitting
    dtype = fastest(problem.device) if problem.flop >= LARGE else torch.float32
    return Filtering(functools.partial(screen, dtype=dtype), bound)


def fused_screen(device: torch.device) -> Callable[..., ApproximateScorer]:
    """The screen of `triton`, which is imported only here.

    Raises:
        BadInput: it is not installed, or there is no GPU and not Triton's interpreter.
    """
    if importlib.util.find_spec("triton") is None:
        raise BadInput("the backend triton needs the package triton: install cran-bench with the extra 'triton'")
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise BadInput("the backend triton needs a GPU: use --backend torch, or try it with TRITON_INTERPRET=1, slowly")
    from cran_bench.ranking.triton import Fused

    return Fused


def require_known(backend: str, bound: str) -> None:
    """Refuse other names than `BACKENDS` and `BOUNDS`.

    Raises:
        BadInput: naming the nearest one.
    """
    for kind, name, known in (("backend", backend, BACKENDS), ("bound", bound, BOUNDS)):
        if name not in known:
            raise BadInput(f"there is no {kind} '{name}'{did_you_mean(name, known)}")


@functools.cache
def fastest(device: torch.device) -> torch.dtype:
    """bfloat16 where products of it are at least half as fast again as of float32, by the best of four."""
    if not has_bfloat16(device):
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, y = torch.ones(1024, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        seconds[dtype] = min(timeit.repeat(lambda x=x, y=y: x @ y.T, number=1, repeat=4))  # type: ignore[misc]
    return torch.bfloat16 if 1.5 * seconds[torch.bfloat16] < seconds[torch.float32] else torch.float32
