"""torchvision's networks, with its weights or with weights from a file."""

from __future__ import annotations

import hashlib
import re
import warnings
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cran_bench.errors import BadInput, did_you_mean
from cran_bench.frontend.catalogue import is_path
from cran_bench.machine.extras import require
from cran_bench.machine.storage import remedy

SUFFIXES = (".safetensors", ".pth", ".pt")
EXTRA = "images", "torchvision's networks"

Precision = Literal["float32", "bfloat16"]


def build_network(name: str, weights: str, kind: Literal["classification", "detection"] = "classification") -> Any:
    """Build a torchvision network in evaluation mode.

    Args:
        name: name of the network, as in `torchvision.models.list_models`.
        weights: a file, or the name of weights that torchvision downloads.
        kind: the kind of network expected.

    Raises:
        BadInput: torchvision is not installed, there is no network or weights of that name, the download fails, or the
            file does not match the network.
    """
    models = require("torchvision.models", *EXTRA)
    where = models.detection if kind == "detection" else models
    known = models.list_models(module=where)
    if name not in known:
        raise BadInput(f"torchvision has no {kind} network '{name}'{did_you_mean(name, known)}")
    if not is_path(weights):
        enum = models.get_model_weights(name)
        if weights not in enum.__members__:
            raise BadInput(
                f"there is no file {weights}, and torchvision has no weights of that name for {name}"
                f"{did_you_mean(weights, enum.__members__)}"
            )
        try:
            return models.get_model(name, weights=enum[weights]).eval()
        except (OSError, HTTPException, RuntimeError, UnpicklingError) as error:
            raise BadInput(
                f"the weights {weights} of {name} cannot be downloaded ({_first_line(error)}): download "
                f"{enum[weights].url} yourself and give the file as weights=FILE"
            ) from None
    # DenseNet weights are saved under parameter names that torchvision no longer uses.
    state = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", k): v
        for k, v in read_state(Path(weights)).items()
    }
    options = {"weights": None} if kind == "classification" else {"weights": None, "weights_backbone": None}
    network = models.get_model(name, **options).eval()
    last = _last_layer(network) if kind == "classification" else "roi_heads.box_predictor.cls_score"
    own, known = (weights.get(f"{last}.weight", torch.zeros(0)).shape[:1] for weights in (state, network.state_dict()))
    if own and own[0] and own != known:
        network = models.get_model(name, **options, num_classes=own[0]).eval()
    if hasattr(network, "transform_input"):
        network.transform_input = True  # as for torchvision's own weights
    own = network.state_dict()
    state = {**{key: value for key, value in own.items() if key.endswith("num_batches_tracked")}, **state}
    wrong = [f"it lacks {key}" for key in own.keys() - state.keys()]
    wrong += [f"{name} has no {key}" for key in state.keys() - own.keys()]
    wrong += [
        f"its {key} has shape {tuple(state[key].shape)}, not {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    if wrong:
        raise BadInput(f"{weights} holds weights of a network other than {name} ({min(wrong)}): give matching weights")
    network.load_state_dict(state)
    return network


def _last_layer(network: nn.Module) -> str:
    """The name of the classification layer: the last linear layer or convolution."""
    layers: list[str] = [n for n, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return layers[-1]


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file or a file written by torch.save, without executing code from it.

    Raises:
        BadInput: the file is missing, truncated, not a state dict, or holds more than tensors.
    """
    if path.suffix not in SUFFIXES:
        raise BadInput(f"weights must be a state dict in a file ending in {', '.join(SUFFIXES)}, not {path.name}")
    if not path.is_file():
        raise BadInput(f"there is no file {path}; give the path of a state dict")
    again = remedy(path, "download it again")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are rejected anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if path.read_bytes()[:2] not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise BadInput(f"{path} is not a state dict ({_first_line(error)}): {again}") from None
        raise BadInput(
            f"{path} holds more than tensors, which could execute code, and is not loaded: save only the state dict, "
            "preferably as .safetensors"
        ) from None
    except Exception as error:  # damaged files raise many kinds of errors
        raise BadInput(f"{path} cannot be read ({_first_line(error)}): {again}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BadInput(f"{path} is not a state dict, which maps names to tensors: save model.state_dict()")
    return state


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]


def sha256_of_state(network: nn.Module) -> str:
    """Return the sha256 of names, shapes and values of the weights, whatever file they were loaded from."""
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
