"""Pretended CUDA: CPU tensors that claim to lie on ``cuda:0``, to run the GPU's paths on a machine without a GPU.

``with pretended_cuda() as gpu:`` makes torch report one GPU.  A tensor that is created on it or moved to it is a
`Pretended`, which holds an ordinary CPU tensor; each operation computes on the tensors that are held.

What is faithful.  Python sees the device `cuda:0` (and torch's C++ the device `meta`).  An operation on tensors of both
devices raises, except where CUDA allows it: 0-dimensional CPU tensors, and CPU tensors that index CUDA tensors.
`numpy()` of a CUDA tensor raises, and so does a generator of the other device.  Modules and states move as on a GPU.
Optimisers take the paths they take there: `foreach` by default, `fused` with the step on the device, otherwise with the
step on the CPU.  Operations are counted by the line of the package that called them:

- `launches`: operations that start a kernel.  A compiled function, an LSTM or GRU and its gradient count as one each.
- `syncs`: operations that wait for the device: copies to the CPU, `item`, boolean masks, `nonzero`, `torch.equal`, ...
- `uploads`: copies to the device, which wait as well unless they are `non_blocking`.
- `unordered`: float sums by atomic additions, whose last bits change from run to run on a GPU, outside of
  `torch.use_deterministic_algorithms`.

What is not.  Numbers are those of the CPU, so nothing shows what TF32, cuDNN or another order of summation does; random
numbers come from the CPU's generators, also where a GPU has streams of its own.  Nothing is asynchronous, so a missing
synchronisation goes unnoticed, and seconds mean nothing.  Memory is that of the CPU: figures of `torch.cuda` are
constants.  An operation counts as one launch, however many kernels it takes.  Neither Triton nor the code that
`torch.compile` generates is run, and no second GPU or process group can be pretended.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

CUDA = torch.device("cuda:0")
GIB = 1 << 30


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


NO_KERNEL = names(
    """_local_scalar_dense _reshape_alias _unsafe_view alias as_strided detach diagonal empty empty_like empty_strided
    expand is_pinned is_same_size lift_fresh new_empty new_empty_strided permute select set_ slice split
    split_with_sizes squeeze sym_numel sym_size sym_storage_offset sym_stride t transpose unbind unfold unsqueeze view
    view_as_real"""
)
"""Operations that return a view or unwritten memory."""

WAITING = names(
    """_linalg_check_errors _linalg_eigh _local_scalar_dense _unique2 bincount equal is_nonzero linalg_eig linalg_lstsq
    masked_select nonzero segment_reduce unique_consecutive unique_dim"""
)
"""Operations that wait for the device: those that return a number or a shape that depends on data, or check it."""

ATOMIC = names("_index_put_impl_ index_add index_add_ scatter_add scatter_add_ scatter_reduce scatter_reduce_")
"""Operations whose CUDA kernels add floats in any order unless torch is told to be deterministic."""

CPU_INDEX = names("index index_put index_put_ _index_put_impl_ _unsafe_index")
BETWEEN_DEVICES = names("copy_ _to_copy")


class DeviceError(RuntimeError):
    """Tensors, or a tensor and a generator, of different devices."""


class Pretended(Tensor):
    """A tensor on `cuda:0`.

    Attributes:
        held: the CPU tensor of its values.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        return Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device="meta",
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """As torch's, which returns the tensor itself where nothing changes."""
        return moved(self, *args, **kwargs)

    def cpu(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.to("cpu")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise DeviceError(f"numpy() of a tensor on cuda:0, at {line()}: copy it to the CPU first")

    __array__ = numpy

    def new_tensor(self, data: Any, dtype: Any = None, device: Any = CUDA, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return torch.tensor(data, dtype=dtype or self.dtype, device=device, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return current().run(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretended({self.held!r})"


class Device(TorchDispatchMode):
    """The pretended GPU, with what was done on it.

    Attributes:
        launches: kernels by line, as ``"methods/cca.py:30"``.
        syncs: waits for the device, by line and operation.
        uploads: copies to the device by line.
        unordered: float sums whose order is not fixed, by line and operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.syncs, self.uploads, self.unordered = Counter(), Counter(), Counter(), Counter()
        self.generators: set[int] = set()
        self.is_counting = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # which would import the compiler

    def reset(self) -> None:
        """Forget what was done."""
        for counter in (self.launches, self.syncs, self.uploads, self.unordered):
            counter.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute an operation on the CPU, count it, and return its results on the device where CUDA's would lie."""
        name = func._schema.name.split("::")[1]
        given: list[Tensor] = []
        inner_args = mapped(lambda x: given.append(x) or held(x), args)
        inner = {key: mapped(lambda x: given.append(x) or held(x), x) for key, x in kwargs.items()}
        mine = [x for x in given if isinstance(x, Pretended)]
        asked = kwargs.get("device")
        on_device = torch.device(asked).type in ("cuda", "meta") if asked is not None else bool(mine)
        if name == "copy_":
            on_device = isinstance(args[0], Pretended)
        if mine or on_device or kwargs.get("generator") is not None:
            self._check(name, func, args, given, bool(mine), on_device, kwargs.get("generator"))
        if (mine or on_device) and self.is_counting:
            self._count(name, args, kwargs, bool(mine), on_device)
        if asked is not None:
            inner["device"] = torch.device("cpu")
        if inner.get("pin_memory"):
            inner["pin_memory"] = False
        with torch.no_grad():
            result = EMULATED[name](*inner_args, **inner) if mine and name in EMULATED else func(*inner_args, **inner)
            if not on_device or name == "_local_scalar_dense":
                return result
            known = {id(x.held): x for x in mine}  # an operation in place returns its argument
            return mapped(lambda x: known[id(x)] if id(x) in known else Pretended(x), result)

    def _check(
        self, name: str, func: Any, args: Any, given: list[Tensor], has_mine: bool, on_device: bool, generator: Any
    ) -> None:
        if generator is not None and (generator._cdata in self.generators) != on_device:
            raise DeviceError(f"{func}: a generator of another device, at {line()}")
        if not has_mine or name in BETWEEN_DEVICES:
            return
        indices = given[1:] if name in CPU_INDEX else []
        for x in given:
            if not isinstance(x, Pretended) and x.dim():
                if (
                    isinstance(args[0], Pretended)
                    and any(x is index for index in indices)
                    and not is_value(name, args, x)
                ):
                    self.uploads[line()] += self.is_counting
                    continue
                raise DeviceError(f"{func}: a CPU tensor {tuple(x.shape)} beside tensors on cuda:0, at {line()}")

    def _count(self, name: str, args: Any, kwargs: Any, has_mine: bool, on_device: bool) -> None:
        where = line()
        if name in BETWEEN_DEVICES:
            is_free = kwargs.get("non_blocking") or args[2:] == (True,)
            source_is_mine = isinstance(args[1 if name == "copy_" else 0], Pretended)
            if source_is_mine and not on_device:
                self.syncs[f"{where} to the CPU"] += not is_free
                return
            if on_device and not source_is_mine:
                self.uploads[where] += not is_free
                return
        if name in WAITING or (name in CPU_INDEX and masks(name, args)):
            self.syncs[f"{where} {name}"] += 1
        if name in ATOMIC and args[0].dtype.is_floating_point and not torch.are_deterministic_algorithms_enabled():
            is_sum = not name.startswith("scatter_reduce") or args[4] in ("sum", "mean")
            self.unordered[f"{where} {name}"] += is_sum and not name.startswith("_index_put")  # which sorts first
        self.launches[where] += name not in NO_KERNEL

    def synchronize(self, device: object = None) -> None:
        """In place of `torch.cuda.synchronize`."""
        self.syncs[f"{line()} synchronize"] += 1

    @contextmanager
    def as_one(self, counts: bool = True) -> Iterator[None]:
        """Count everything inside as one launch, or as none."""
        self.launches[line()] += self.is_counting and counts
        was, self.is_counting = self.is_counting, False
        try:
            yield
        finally:
            self.is_counting = was


_entered: list[Device] = []


def current() -> Device:
    """The device of the innermost `pretended_cuda`.

    Raises:
        DeviceError: there is none, as a tensor outlived it.
    """
    if not _entered:
        raise DeviceError("a tensor on pretended CUDA is used outside of pretended_cuda()")
    return _entered[-1]


def moved(x: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
    """`Tensor.to`, for which a pretended device is torch's `meta`."""
    other = kwargs.pop("other", args[0] if args and isinstance(args[0], Tensor) else None)
    if other is None:
        device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **kwargs)
    else:
        device, dtype, non_blocking, layout = other.device, other.dtype, False, None
    is_there = device is None or device.type == x.device.type
    place = x.device if is_there else device
    options = {"dtype": dtype or x.dtype, "non_blocking": non_blocking, "copy": copy, "memory_format": layout}
    return _to(x, device="meta" if place.type == "cuda" else place, **options)


def made(function: Callable[..., Tensor], data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
    """`torch.tensor` or `torch.as_tensor`."""
    if isinstance(data, Tensor):
        copied = data.detach().clone() if function.__name__ == "tensor" else data
        return copied.to(data.device if device is None else device, kwargs.get("dtype") or data.dtype)
    return function(data, *args, **kwargs).to("cpu" if device is None else device)


_to = Tensor.to


def held(x: Tensor) -> Tensor:
    """The CPU tensor in which the values of a tensor lie."""
    return x.held if isinstance(x, Pretended) else x


def mapped(function: Callable[[Tensor], Any], x: Any) -> Any:
    """Apply a function to all tensors in nested lists and tuples."""
    if isinstance(x, Tensor):
        return function(x)
    if isinstance(x, (list, tuple)):
        return type(x)(mapped(function, y) for y in x)
    return x


def is_value(name: str, args: Any, x: Tensor) -> bool:
    """Whether a tensor is what `index_put` writes, and no index."""
    return name not in ("index", "_unsafe_index") and x is args[2]


def masks(name: str, args: Any) -> bool:
    """Whether an indexing operation has a boolean mask, whose `nonzero` is taken; one value is filled in without."""
    has_mask = any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    return has_mask and not ("put" in name and args[2].numel() == 1 and not any(args[3:4]))


@functools.cache
def package_folders() -> dict[str, str]:
    """The folders of the package with the names that lines are reported under."""
    import cran_bench.datasets
    import cran_bench.methods

    return {
        f"{Path(str(module.__file__)).parent}/": name
        for name, module in (("methods/", cran_bench.methods), ("datasets/", cran_bench.datasets), ("", cran_bench))
    }


def line() -> str:
    """The innermost line of the package that is being executed, or of the tests where there is none."""
    frame: Any = sys._getframe(1)
    outermost = "?"
    while frame is not None:
        file = frame.f_code.co_filename
        for folder, name in package_folders().items():
            if file.startswith(folder):
                return f"{name}{file.removeprefix(folder)}:{frame.f_lineno}"
        if file != __file__ and "/tests/" in file:
            outermost = f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return outermost


EMULATED: dict[str, Callable[..., Any]] = {
    "pin_memory": lambda x, device=None: x.clone(),
    "_pin_memory": lambda x, device=None: x.clone(),
}
"""Operations that the CPU has in another form, or does not have."""


class _Recurrent(torch.autograd.Function):
    """cuDNN's LSTM or GRU, one launch in each direction, or the CPU's."""

    @staticmethod
    def forward(ctx: Any, kind: str, options: tuple[Any, ...], x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        ctx.on_device = isinstance(x, Pretended)
        with current().as_one(ctx.on_device), _disable_current_modes(), torch.enable_grad():
            ctx.inputs = [held(y).detach().requires_grad_(y.requires_grad) for y in (x, *others)]
            x, h, *weights = ctx.inputs
            hx = (h, weights.pop(0)) if kind == "lstm" else h
            ctx.outputs = CPU_RECURRENT[kind](x, hx, weights, *options)
        return tuple(Pretended(y.detach()) if ctx.on_device else y.detach() for y in ctx.outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        heads = [None if g is None else held(g) for g in gradients]
        wanted = [x for x in ctx.inputs if x.requires_grad]
        with current().as_one(ctx.on_device), _disable_current_modes():
            computed = torch.autograd.grad(ctx.outputs, wanted, heads, allow_unused=True)
        known = iter([Pretended(g) if ctx.on_device else g for g in computed])
        return None, None, *(next(known) if x.requires_grad else None for x in ctx.inputs)


CPU_RECURRENT, COMPILE = {"lstm": torch._VF.lstm, "gru": torch._VF.gru}, torch.compile


def _recurrent(kind: str, x: Tensor, hx: Any, weights: Any, *options: Any) -> Any:
    states = hx if kind == "lstm" else (hx,)
    if len({y.device for y in (x, *states, *weights)}) > 1:
        raise DeviceError(f"{kind}: input, states and weights on two devices, at {line()}")
    return _Recurrent.apply(kind, options, x, *states, *weights)


class _Generator(torch.Generator):
    """A generator of either device, which draws the CPU's numbers."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        generator = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        generators = current().generators
        (generators.add if torch.device(device).type == "cuda" else generators.discard)(generator._cdata)
        _kept.append(generator)  # so that no other gets its address
        return generator


_kept: list[torch.Generator] = []


def _compiled(function: Any = None, **options: Any) -> Any:
    """In place of `torch.compile`: the function itself, as one launch, and torch's once the pretence is over."""
    compiled = functools.cache(lambda: COMPILE(function, **options))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not _entered:
            return compiled()(*args, **kwargs)
        with current().as_one():
            return function(*args, **kwargs)

    return call


@contextmanager
def pretended_cuda() -> Iterator[Device]:
    """Make torch report one GPU, and compute on the CPU what is done on it."""
    device, random = Device(), torch.get_rng_state
    constants = {
        "is_available": True,
        "is_initialized": False,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": "Pretended GPU",
        "get_device_capability": (9, 0),
        "get_device_properties": SimpleNamespace(
            total_memory=80 * GIB, multi_processor_count=132, name="Pretended GPU"
        ),
        "mem_get_info": (70 * GIB, 80 * GIB),
        "memory_allocated": GIB,
        "memory_reserved": 2 * GIB,
        "max_memory_allocated": 3 * GIB,
        "reset_peak_memory_stats": None,
        "empty_cache": None,
        "set_device": None,
        "set_rng_state": None,
        "_lazy_init": None,
    }
    supporting = [importlib.import_module(f"torch.{name}") for name in ("optim.optimizer", "utils._foreach_utils")]
    with ExitStack() as stack:
        for name, value in constants.items():
            stack.enter_context(patch.object(torch.cuda, name, lambda *_, value=value, **__: value))
        stack.enter_context(patch.object(torch.cuda, "synchronize", device.synchronize))
        stack.enter_context(patch.object(torch.cuda, "get_rng_state", lambda *_: random()))
        stack.enter_context(patch.object(torch.backends.cudnn, "is_acceptable", lambda _: False))
        stack.enter_context(patch.object(Tensor, "to", moved))
        # composite operations would not be decomposed in inference mode
        without = lambda mode=True: torch.no_grad() if mode else torch.enable_grad()  # noqa: E731
        stack.enter_context(patch.object(torch, "inference_mode", without))
        for name in ("tensor", "as_tensor"):
            stack.enter_context(patch.object(torch, name, functools.partial(made, getattr(torch, name))))
        stack.enter_context(patch.object(torch, "Generator", _Generator))
        stack.enter_context(patch.object(torch, "compile", _compiled))
        for kind in CPU_RECURRENT:
            stack.enter_context(patch.object(torch._VF, kind, functools.partial(_recurrent, kind)))
        for module in supporting:
            types = [*module._foreach_supported_types, Pretended]
            stack.enter_context(patch.object(module, "_foreach_supported_types", types))
        _entered.append(device)
        stack.callback(_entered.pop)
        with device:
            yield device
