"""The JSON file beside an ONNX model that holds options of its spec: ``model.json`` for ``model.onnx``."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from cran_bench.errors import BadInput, did_you_mean
from cran_bench.specs import format_value

TRAINED_ON = "trained_on"
"""The option and field that says what an encoder was trained on, which changes none of its features."""


def read_sidecar(model: Path) -> dict[str, Any]:
    """Return the fields in the JSON file beside a model; none if there is no such file or the model is not ONNX.

    Raises:
        BadInput: the file does not hold a JSON object.
    """
    if model.suffix != ".onnx" or not (path := model.with_suffix(".json")).is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON ({error}); correct or remove it") from error
    if not isinstance(values, dict):
        raise BadInput(
            f"{path} should hold a JSON object of fields, not a {type(values).__name__}; correct or remove it"
        )
    return values


def sidecar_options(model: Path, cls: Any) -> dict[str, str]:
    """Return those fields as options of the dataclass that opens the model.

    Raises:
        BadInput: the file does not hold a JSON object, or has a field that the class lacks.
    """
    values, known = read_sidecar(model), {f.name for f in fields(cls) if f.init} - {"file"}
    for key in values.keys() - known - {TRAINED_ON}:
        unknown = f"{model.with_suffix('.json')} has an unknown field '{key}'"
        raise BadInput(f"{unknown}{did_you_mean(key, {*known, TRAINED_ON})}")
    return {key: format_value(value) for key, value in values.items() if key != TRAINED_ON}
