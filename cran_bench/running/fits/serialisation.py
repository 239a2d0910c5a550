"""Files of tensors with JSON values about them: stored fits and checkpoints."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel
from torch import Tensor

from cran_bench.errors import BadInput, kind_of
from cran_bench.machine.storage import write_atomically
from cran_bench.machine.tensor_files import checksum
from cran_bench.specs import flat_values


class About(BaseModel):
    """Data stored beside the tensors; `run` names the run that forced the fit, if any."""

    fingerprint: str
    run: str = ""
    chose: dict[str, Any]
    curves: dict[str, list[dict[str, float]]]


def fields_json(part: object) -> dict[str, Any]:
    """Return the fields of a dataclass as JSON values, those of nested dataclasses under their own names.

    A part that reads files has a method `identity()`, which gives such values by the content of the files instead.
    """
    given = part.identity() if hasattr(part, "identity") else flat_values(part)
    values: dict[str, Any] = json.loads(json.dumps(given, default=dataclasses.asdict))
    return values


def require_state(state: object) -> None:
    """Reject a part's state that cannot be stored.

    Raises:
        BadInput: it is no mapping of texts to tensors.
    """
    if isinstance(state, Mapping):
        items = state.items()
        wrong = [f"{kind_of(x)} for {k!r}" for k, x in items if not (isinstance(k, str) and isinstance(x, Tensor))]
    else:
        wrong = [kind_of(state)]
    if wrong:
        raise BadInput(f"state returned {wrong[0]}; return a dict of tensors by name")


def save_state(path: Path, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors, and JSON values about them, to one safetensors file atomically."""
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        tensor = value.detach().cpu().contiguous()
        shared = any(tensor.untyped_storage().data_ptr() == t.untyped_storage().data_ptr() for t in tensors.values())
        tensors[key] = tensor.clone() if shared else tensor  # the format refuses tensors that share memory
    text = json.dumps(about)
    data = safetensors.torch.save(tensors, {"about": text, "sha256": _digest(tensors, text)})
    write_atomically(path, lambda file: file.write(data))


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `save_state` wrote.

    Raises:
        ValueError: the content has changed since.  For a damaged file safetensors and JSON raise many other errors.
    """
    with safetensors.safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    if metadata["sha256"] != _digest(state, metadata["about"]):
        raise ValueError("its checksum does not match")
    return state, json.loads(metadata["about"])


def _digest(state: Mapping[str, Tensor], about: str) -> str:
    rows = ((key, str(x.dtype), x.shape, x.reshape(-1).view(torch.uint8).numpy().data) for key, x in state.items())
    return checksum(about, rows)
