"""Training by several processes, as `torchrun` starts them: what a part needs that sets `by_all_processes`."""

from cran_bench.machine.processes import ALONE, Processes, current

__all__ = ["ALONE", "Processes", "current"]
