"""One training by several processes, as `torchrun` starts them: who leads, who helps, and what goes between them.

The first process does everything but train: it alone reads stored fits, writes, locks, ranks and prints.  The others
wait for it (`lead`) and do the jobs that it hands out meanwhile (`together`).  `current` are the processes that are in
one job at this moment; elsewhere, and without torchrun, that is `ALONE`, to which nothing here does anything.
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

STEP = timedelta(minutes=30)  # whoever waits so long within a job has lost the others
TALK = timedelta(days=7)  # what the first process does by itself may take long


class OutOfStep(BadInput):
    """A process failed by itself in the midst of a job; the others wait for it in vain, so the run has to end."""


class Told(BadInput):
    """The first process failed, and has said why."""


@dataclass(eq=False)
class Processes:
    """Processes that run the same program.

    Attributes:
        number: of this one, from 0.
        count: of all.
        helper: what a process that is not the first does with a job.
    """

    number: int = 0
    count: int = 1
    helper: Callable[[Any], None] = field(default=lambda _: None, repr=False)
    _talk: Any = field(default=None, repr=False)

    # who does what -------------------------------------------------------------------------------------------------

    def lead(self, function: Callable[[], T]) -> T:
        """What `function` gives in the first process; the others wait, do its jobs, and are sent the same.

        Raises:
            Told: in the others, where `function` failed.
        """
        if self.count == 1:
            return function()
        return self._call(function) if self.number == 0 else self._serve()

    def in_turn(self, first: Callable[[], T], others: Callable[[], T]) -> T:
        """`first` in the first process, and once that is done `others` in the others; each keeps what it gave."""
        made: list[T] = []
        self.lead(lambda: made.append(first()))
        return made[0] if made else others()

    @contextlib.contextmanager
    def together(self, job: object) -> Iterator[None]:
        """In the first process, within `lead`: what follows is done by all, by the others as their `helper` does `job`.

        Raises:
            OutOfStep: it failed here, in a way that the others cannot know of.
        """
        if self.count == 1:
            yield
            return
        self._tell("job", job)
        with self._as_current():
            try:
                yield
            except Exception as error:
                if isinstance(error, BadInput) or getattr(error, "is_told", False):
                    raise
                raise self._out_of_step(error) from error

    def _call(self, function: Callable[[], T]) -> T:
        try:
            with ALONE._as_current():
                value = function()
        except OutOfStep:
            raise
        except Exception as error:
            error.is_told = True  # type: ignore[attr-defined]
            self._tell("failed", f"{type(error).__name__}: {error}")
            raise
        self._tell("done", value)
        return value

    def _serve(self) -> Any:
        while True:
            kind, what = self._tell("", None)
            if kind == "failed":
                raise Told(what)
            if kind == "done":
                return what
            with self._as_current():
                try:
                    self.helper(what)
                except OutOfStep:
                    raise
                except BadInput:  # the first process meets it too, and deals with it
                    pass
                except Exception as error:
                    raise self._out_of_step(error) from error

    def _tell(self, kind: str, what: object) -> tuple[str, Any]:
        message = [(kind, what)]
        dist.broadcast_object_list(message, src=0, group=self._talk)
        return message[0]

    def _out_of_step(self, error: Exception) -> OutOfStep:
        return OutOfStep(
            f"process {self.number} of {self.count} failed in a training that they share ({type(error).__name__}: "
            f"{error}); start the run again, without --force, to go on from the last checkpoint"
        )

    @contextlib.contextmanager
    def _as_current(self) -> Iterator[None]:
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    # a batch, shared -----------------------------------------------------------------------------------------------

    def among(self, rows: int) -> Processes:
        """Those that share a batch; one of fewer rows than processes is computed by each of them, whole."""
        return self if rows >= self.count else ALONE

    def shares(self, rows: int) -> list[int]:
        """How many of a batch's rows each process encodes."""
        return [rows // self.count + (number < rows % self.count) for number in range(self.count)]

    def mine(self, rows: int) -> slice:
        """Which of a batch's rows this process encodes."""
        shares = self.shares(rows)
        start = sum(shares[: self.number])
        return slice(start, start + shares[self.number])

    def gather(self, x: Tensor, rows: int) -> Tensor:
        """What each process has for its share of a batch, as that of all `rows`.

        The gradient is right where every process computes the same loss from it and gradients are averaged.
        """
        if self.count == 1:
            return x
        gathered: Tensor = _Gathered.apply(x, self.shares(rows), self.mine(rows))  # type: ignore[no-untyped-call]
        return gathered

    def total(self, x: Tensor) -> Tensor:
        """The sum of what each process has, with its gradient."""
        total: Tensor = _Total.apply(x)  # type: ignore[no-untyped-call]
        return total

    def parallel(self, module: nn.Module, some_unused: bool) -> nn.Module:
        """A module that begins with the first process's weights and buffers, its gradients averaged over all.

        Args:
            module: what is trained.
            some_unused: whether losses leave some of its weights out.
        """
        if self.count == 1:
            return module
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the name that this argument has up to torch 2.12
            return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=some_unused)


ALONE = Processes()
_CURRENT: ContextVar[Processes] = ContextVar("processes", default=ALONE)


def current() -> Processes:
    """The processes that do a job together at this moment."""
    return _CURRENT.get()


def started() -> int:
    """How many processes torchrun started; 1 without."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


def started_here() -> int:
    """How many of them on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if started() > 1 else 1


def is_first() -> bool:
    """Whether this is the only process, or the first that torchrun started."""
    return started() == 1 or int(os.environ["RANK"]) == 0


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """All processes that torchrun started; of them only the first is heard on stderr.

    A process that is not the first ends where the first failed, without a word.

    Args:
        device: where this process computes.
    """
    if started() == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=STEP)
    processes = Processes(dist.get_rank(), dist.get_world_size(), _talk=dist.new_group(backend="gloo", timeout=TALK))
    try:
        with _quiet() if processes.number else contextlib.nullcontext():
            yield processes
    except OutOfStep:
        raise
    except Exception as error:
        _part(processes)
        if isinstance(error, Told):
            sys.exit(2)
        raise
    _part(processes)


def _part(processes: Processes) -> None:
    """Leave nothing that holds a group: its threads would abort the process when the interpreter ends."""
    processes._talk = None
    gc.collect()  # what `parallel` made
    dist.destroy_process_group()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        try:
            yield
        except Exception:
            raise
        except BaseException:  # a signal, which the first process has too
            sys.exit(2)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shares: list[int], mine: slice) -> Tensor:
        ctx.mine, ctx.count = mine, len(shares)
        padded = x.new_zeros(max(shares), *x.shape[1:])
        padded[: len(x)] = x
        found = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(found, padded)
        return torch.cat([part[:share] for part, share in zip(found, shares, strict=True)])

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
