"""A training step of a method, against its plain implementation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import torch

from cran_bench.contract import Method, Timed
from cran_bench.errors import BadInput
from cran_bench.machine.environment import environment
from cran_bench.machine.progress import say
from cran_bench.ranking.problem import Clock
from cran_bench.registry import METHODS, Configured

from .measuring import gemm_peak, on_gpu

WARM = 3  # steps before the timed ones


def bench_training(method: Configured[Method], device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield a row for each implementation, over the same steps from the same weights.

    Rates count the operations of the plain implementation, whatever another one leaves out.

    Raises:
        BadInput: the method has no training step to time.
    """
    if not hasattr(method.plugin.cls, "training_benchmark"):
        able = [name for name in METHODS.usable() if hasattr(METHODS.get(name).cls, "training_benchmark")]
        raise BadInput(f"{method.plugin.name} has no training step to time; these have one: {', '.join(able)}")
    benchmark = cast("Timed", method.build()).training_benchmark(device)
    clock = Clock(device)
    peak = gemm_peak(torch.float32, device) if benchmark.flop else None
    first: tuple[float, torch.Tensor] | None = None
    for name, prepare in benchmark.variants.items():
        step = prepare()
        losses = [step(number) for number in range(WARM)]
        start = clock.now()
        losses += [step(number) for number in range(WARM, WARM + benchmark.steps)]
        seconds, curve = (clock.now() - start) / benchmark.steps, torch.stack(losses)
        say(f"  {name}: {1000 * seconds:.1f} ms a step")
        yield {
            "bench": "training",
            "task": benchmark.task,
            "what": f"{name}, one step",
            "dtype": "float32",
            "part": f"{benchmark.steps} steps",
            "seconds": seconds,
            "gflops": benchmark.flop / seconds / 1e9 if peak else None,
            "peak_percent": 100 * benchmark.flop / seconds / peak if peak else None,
            "times_faster": first[0] / seconds if first else 1.0,
            "error": float((curve - first[1]).abs().max()) if first else None,
            "commit": environment()["commit"],
            **on_gpu(partial(step, WARM + benchmark.steps), device),
        }
        first = first or (seconds, curve)
