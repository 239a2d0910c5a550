"""Distributed training: how the processes started by `torchrun` share the fits of a run.

Only training is shared.  The first process does everything else: it alone reads stored fits, writes, locks, ranks and
prints.  The others wait for it (`lead`) and meanwhile run the jobs it distributes (`together`).  `current` returns the
processes that share the present job; outside a job, and without torchrun, that is `ALONE`, for which all of this is a
no-op.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cran_bench.errors import BadInput

T = TypeVar("T")

STEP_TIMEOUT = timedelta(minutes=30)  # within a job, after which the other processes count as lost
WAIT_TIMEOUT = timedelta(days=7)  # outside jobs, where the first process may work for long


class OutOfStep(BadInput):
    """One process failed during a shared job; the others cannot continue without it, so the run has to end."""


class LeaderFailed(BadInput):
    """The first process failed and has already reported the error."""


@dataclass(eq=False)
class Processes:
    """A group of processes that run the same program.

    Attributes:
        number: rank of this process, from 0.
        count: number of processes.
        helper: runs a job in the processes other than the first.
    """

    number: int = 0
    count: int = 1
    helper: Callable[[Any], None] = field(default=lambda _: None, repr=False)
    _messages: Any = field(default=None, repr=False)

    # jobs ----------------------------------------------------------------------------------------------------------

    def lead(self, function: Callable[[], T]) -> T:
        """Call `function` in the first process, while the others wait and run its jobs; return its value in all.

        Raises:
            LeaderFailed: in the other processes, if `function` failed.
        """
        if self.count == 1:
            return function()
        return self._call(function) if self.number == 0 else self._serve()

    def in_turn(self, first: Callable[[], T], others: Callable[[], T]) -> T:
        """Call `first` in the first process and then `others` in the other processes; each returns its own value."""
        values: list[T] = []
        self.lead(lambda: values.append(first()))
        return values[0] if values else others()

    @contextlib.contextmanager
    def together(self, job: object) -> Iterator[None]:
        """Within `lead`, run a block in the first process while the others pass `job` to their `helper`.

        Raises:
            OutOfStep: the block failed in this process only.
        """
        if self.count == 1:
            yield
            return
        self._broadcast("job", job)
        with self._as_current():
            try:
                yield
            except Exception as error:
                if isinstance(error, BadInput) or getattr(error, "is_broadcast", False):
                    raise
                raise self._out_of_step(error) from error

    def _call(self, function: Callable[[], T]) -> T:
        try:
            with ALONE._as_current():
                value = function()
        except OutOfStep:
            raise
        except Exception as error:
            error.is_broadcast = True  # type: ignore[attr-defined]
            self._broadcast("failed", f"{type(error).__name__}: {error}")
            raise
        self._broadcast("done", value)
        return value

    def _serve(self) -> Any:
        while True:
            kind, what = self._broadcast("", None)
            if kind == "failed":
                raise LeaderFailed(what)
            if kind == "done":
                return what
            with self._as_current():
                try:
                    self.helper(what)
                except OutOfStep:
                    raise
                except BadInput:  # the first process gets the same error and handles it
                    pass
                except Exception as error:
                    raise self._out_of_step(error) from error

    def _broadcast(self, kind: str, what: object) -> tuple[str, Any]:
        """Send a message from the first process; return it in all processes."""
        message = [(kind, what)]
        dist.broadcast_object_list(message, src=0, group=self._messages)
        return message[0]

    def _out_of_step(self, error: Exception) -> OutOfStep:
        return OutOfStep(
            f"process {self.number} of {self.count} failed during distributed training ({type(error).__name__}: "
            f"{error}); start the run again without --force to resume from the last checkpoint"
        )

    @contextlib.contextmanager
    def _as_current(self) -> Iterator[None]:
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    # batches -------------------------------------------------------------------------------------------------------

    def among(self, rows: int) -> Processes:
        """Return the processes that share a batch; `ALONE` if it has fewer rows than there are processes."""
        return self if rows >= self.count else ALONE

    def shares(self, rows: int) -> list[int]:
        """Return the number of rows of a batch that each process encodes."""
        return [rows // self.count + (number < rows % self.count) for number in range(self.count)]

    def mine(self, rows: int) -> slice:
        """Return the rows of a batch that this process encodes."""
        shares = self.shares(rows)
        start = sum(shares[: self.number])
        return slice(start, start + shares[self.number])

    def gather(self, x: Tensor, rows: int) -> Tensor:
        """Concatenate each process's share (share, ...) of a batch to (rows, ...), in all processes.

        The gradient is correct if every process computes the same loss from it and gradients are averaged.
        """
        if self.count == 1:
            return x
        gathered: Tensor = _Gathered.apply(x, self.shares(rows), self.mine(rows))  # type: ignore[no-untyped-call]
        return gathered

    def total(self, x: Tensor) -> Tensor:
        """Sum a tensor of any shape over all processes; differentiable."""
        total: Tensor = _Total.apply(x)  # type: ignore[no-untyped-call]
        return total

    def parallel(self, module: nn.Module, some_unused: bool) -> nn.Module:
        """Wrap a module: it starts with the first process's weights and buffers, and its gradients are averaged.

        Args:
            module: the module to train.
            some_unused: whether some of its weights may not contribute to a loss.
        """
        if self.count == 1:
            return module
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the argument is renamed after torch 2.12
            return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=some_unused)


ALONE = Processes()
_CURRENT: ContextVar[Processes] = ContextVar("processes", default=ALONE)


def current() -> Processes:
    """Return the processes that share the present job."""
    return _CURRENT.get()


def started() -> int:
    """Return the number of processes that torchrun started; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


def started_here() -> int:
    """Return the number of processes that torchrun started on this machine; 1 without torchrun."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if started() > 1 else 1


def is_first() -> bool:
    """Whether this is the only process, or the first that torchrun started."""
    return started() == 1 or int(os.environ["RANK"]) == 0


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started; only the first one prints to stderr.

    If the first process fails, the others exit silently.

    Args:
        device: the device of this process.
    """
    if started() == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=STEP_TIMEOUT)
    processes = Processes(
        dist.get_rank(), dist.get_world_size(), _messages=dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)
    )
    try:
        with _quiet() if processes.number else contextlib.nullcontext():
            yield processes
    except OutOfStep:
        raise
    except Exception as error:
        _leave(processes)
        if isinstance(error, LeaderFailed):
            sys.exit(2)
        raise
    _leave(processes)


def _leave(processes: Processes) -> None:
    """Drop all references to process groups, whose threads would abort the process when the interpreter exits."""
    processes._messages = None
    gc.collect()  # the modules wrapped by `parallel`
    dist.destroy_process_group()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with Path(os.devnull).open("w") as devnull, contextlib.redirect_stderr(devnull):
        try:
            yield
        except Exception:
            raise
        except BaseException:  # a signal, which the first process gets as well
            sys.exit(2)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shares: list[int], mine: slice) -> Tensor:
        ctx.mine, ctx.count = mine, len(shares)
        padded = x.new_zeros(max(shares), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(parts, padded)
        return torch.cat([part[:share] for part, share in zip(parts, shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.count * gradient[ctx.mine], None, None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
