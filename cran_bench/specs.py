"""The command line's grammar for things with options: ``name:argument[field=value,field=value]``.

``cca``, ``cca:paper``, ``cran:paper[margin=0.2,top=5]``, ``pixels[dim=256]``, ``onnx:model.onnx[tensor=pool]`` and
``mine.py:Mine`` are all specs.  A field that holds several candidates takes them separated by ``|``, as in
``ridge=0.01|0.1``.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cran_bench.errors import BadInput, did_you_mean

T = TypeVar("T")

_SPEC = re.compile(r"^(?P<head>[^\[\]]+?)(\[(?P<options>[^\[\]]*)\])?$")


@dataclass(frozen=True)
class Spec:
    """A parsed spec: ``Spec("cran", "paper", {"top": "5"})``.  The argument is '' where none was given."""

    name: str
    argument: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        head = f"{self.name}:{self.argument}" if self.argument else self.name
        return head + format_options(self.options)


def format_options(options: Mapping[str, object]) -> str:
    """``{"top": 5, "margin": 0.2}`` -> ``"[margin=0.2,top=5]"``; nothing for no options."""
    if not options:
        return ""
    return "[" + ",".join(f"{key}={format_value(options[key])}" for key in sorted(options)) + "]"


def format_value(value: object) -> str:
    """A field's value as the grammar writes it, so that labels can be pasted back to the command line."""
    if isinstance(value, tuple | list):
        return "|".join(format_value(item) for item in value)
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def parse_spec(text: str) -> Spec:
    """Parse ``name:argument[field=value,...]``.

    Raises:
        BadInput: the text does not follow the grammar.
    """
    match = _SPEC.match(text.strip())
    if match is None:
        raise BadInput(f"'{text}' is not of the form name, name:preset or name:preset[field=value,field=value]")
    name, _, argument = match["head"].partition(":")
    options: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in (match["options"] or "").split(","))):
        key, equals, value = item.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise BadInput(f"in '{text}', '{item}' is not of the form field=value")
        if key.strip() in options:
            raise BadInput(f"in '{text}', the field '{key.strip()}' is given twice; keep one")
        options[key.strip()] = value.strip()
    if not name.strip():
        raise BadInput(f"'{text}' has no name before ':' or '['")
    return Spec(name.strip(), argument.strip(), options)


def build(cls: type[T], options: Mapping[str, Any], what: str) -> T:
    """An instance of the dataclass `cls` with fields from `options`; texts are converted to each field's type.

    Raises:
        BadInput: an unknown field, a value of the wrong type, or one that the class refuses with ValueError.
    """
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls)) if f.init}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in options.items():
        if key not in fields:
            raise BadInput(f"{what} has no field '{key}'{did_you_mean(key, fields)}")
        values[key] = _convert(value, hints[key], f"{what}: field '{key}'") if isinstance(value, str) else value
    missing = [
        name
        for name, f in fields.items()
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise BadInput(f"{what} needs {', '.join(missing)}: write {what}[{missing[0]}=...]")
    try:
        return cls(**values)
    except ValueError as error:
        raise BadInput(f"{what}: {error}") from error


def _convert(text: str, hint: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and text.lower() == "none":
            return None
        for option in (a for a in arguments if a is not type(None)):
            try:
                return _convert(text, option, where)
            except BadInput:
                continue
        raise BadInput(f"{where} takes {_named(hint)}, not '{text}'")
    if origin is tuple:
        return tuple(_convert(part.strip(), arguments[0], where) for part in text.split("|"))
    if origin is typing.Literal:
        for choice in arguments:
            if text == str(choice):
                return choice
        raise BadInput(f"{where} is '{text}'{did_you_mean(text, map(str, arguments))}")
    if hint is bool:
        if text.lower() in ("true", "yes", "1"):
            return True
        if text.lower() in ("false", "no", "0"):
            return False
        raise BadInput(f"{where} takes true or false, not '{text}'")
    if hint in (int, float, str):
        try:
            return hint(text)
        except ValueError:
            raise BadInput(f"{where} takes {_named(hint)}, not '{text}'") from None
    raise BadInput(f"{where} cannot be set from the command line")


def _named(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "none"}
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_named(a) for a in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"{_named(typing.get_args(hint)[0])} (several separated by |)"
    return names.get(hint, str(hint))
