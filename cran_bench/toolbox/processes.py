"""Training by several processes started with `torchrun`, for parts that set `by_all_processes`."""

from cran_bench.machine.processes import ALONE, Processes, current

__all__ = ["ALONE", "Processes", "current"]
