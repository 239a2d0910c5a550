"""The grammar of specs, names with options: ``name:argument[field=value,field=value]``.

``cca``, ``cca:paper``, ``cran:paper[margin=0.2,top=5]``, ``pixels[dim=256]``, ``onnx:model.onnx[tensor=pool]`` and
``mine.py:Mine`` are all specs.  A field that holds several candidates takes them separated by ``|``, as in
``ridge=0.01|0.1``.  A field may itself be a dataclass, a group of fields, which are set one by one, by their own name,
``margin=0.2``, or by their full name, ``loss.margin=0.2``.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, reduce
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cran_bench.errors import BadInput, did_you_mean

T = TypeVar("T")

_SPEC = re.compile(r"^(?P<head>[^\[\]]+?)(\[(?P<options>[^\[\]]*)\])?$")


@dataclass(frozen=True)
class Spec:
    """A parsed spec: ``Spec("cran", "paper", {"top": "5"})``.  The argument is '' if none was given."""

    name: str
    argument: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        head = f"{self.name}:{self.argument}" if self.argument else self.name
        return head + format_options(self.options)

    def without_folders(self) -> Spec:
        """The spec with the names of files in place of their paths: ``scores:/data/a.npy`` -> ``scores:a.npy``."""
        options = {key: Path(value).name if isinstance(value, str) else value for key, value in self.options.items()}
        return Spec(self.name, Path(self.argument).name, options)


def format_options(options: Mapping[str, object]) -> str:
    """``{"top": 5, "margin": 0.2}`` -> ``"[margin=0.2,top=5]"``; '' if there are none."""
    return f"[{','.join(f'{key}={format_value(options[key])}' for key in sorted(options))}]" if options else ""


def format_value(value: object) -> str:
    """A field's value in the grammar of specs, so that labels can be pasted into the command line."""
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


def recorded_spec(text: str) -> Spec:
    """The spec in a record; of a text that does not follow the grammar, as of a forged record, all is the name."""
    try:
        return parse_spec(text)
    except BadInput:
        return Spec(text)


class FlatField(NamedTuple):
    """A field of a dataclass or of a nested group; required if neither it nor an enclosing group has a default."""

    path: tuple[str, ...]
    field: dataclasses.Field[Any]
    hint: Any
    is_required: bool

    def of(self, instance: object) -> Any:
        """The field's value in an instance of the dataclass."""
        return reduce(getattr, self.path, instance)


def flat_fields(cls: type) -> dict[str, FlatField]:
    """The fields of a dataclass and its groups by name, or by full name where several share a name."""
    return _by_name((leaf.path, leaf) for leaf in _leaves(cls))


def flat_values(instance: object) -> dict[str, Any]:
    """The values of the fields of a dataclass and its groups, by the names of `flat_fields`."""
    return _by_name(_values(instance))


def _by_name(items: Iterable[tuple[tuple[str, ...], T]]) -> dict[str, T]:
    leaves = list(items)
    uses = Counter(path[-1] for path, _ in leaves)
    return {path[-1] if uses[path[-1]] == 1 else ".".join(path): item for path, item in leaves}


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _leaves(cls: Any, above: tuple[str, ...] = (), has_default: bool = False) -> Iterator[FlatField]:
    hints = _hints(cls)
    for f in (f for f in dataclasses.fields(cls) if f.init):
        path, is_set = (*above, f.name), has_default or _default(f) is not dataclasses.MISSING
        if _is_group(hints[f.name]):
            yield from _leaves(hints[f.name], path, is_set)
        else:
            yield FlatField(path, f, hints[f.name], not is_set)


def _values(instance: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for f in dataclasses.fields(instance):
        value, path = getattr(instance, f.name), (*above, f.name)
        yield from _values(value, path) if _is_group(type(value)) else [(path, value)]


def _is_group(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def by_flat_name(cls: type, options: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Rename options to the names of `flat_fields`; their keys may be full names, or groups with a dataclass as value.

    Raises:
        BadInput: a field is unknown or given twice.
    """
    fields, named = flat_fields(cls), dict[str, Any]()
    full = {".".join(leaf.path): name for name, leaf in fields.items()}
    for key, value in options.items():
        group = [name for name, leaf in fields.items() if ".".join(leaf.path).startswith(f"{key}.")]
        if key in fields or key in full:
            items = {full.get(key, key): value}
        elif group and dataclasses.is_dataclass(value):
            items = {name: reduce(getattr, fields[name].path[key.count(".") + 1 :], value) for name in group}
        elif group:
            raise BadInput(f"{what}: '{key}' is a group of fields; set one, as {what}[{group[0]}=...]")
        else:
            raise BadInput(f"{what} has no field '{key}'{did_you_mean(key, fields)}")
        if items.keys() & named:
            raise BadInput(f"{what}: the field '{min(items.keys() & named)}' is given twice; keep one")
        named |= items
    return named


def build(cls: type[T], options: Mapping[str, Any], what: str) -> T:
    """Make an instance of the dataclass `cls` from `options`; strings are converted to the types of the fields.

    Raises:
        BadInput: an unknown field, a value of the wrong type, or one that the class refuses with ValueError.
    """
    fields, given = flat_fields(cls), by_flat_name(cls, options, what)
    missing = [name for name, leaf in fields.items() if leaf.is_required and name not in given]
    if missing:
        raise BadInput(f"{what} needs {', '.join(missing)}: write {what}[{missing[0]}=...]")
    values = {}
    for name, value in given.items():
        leaf, is_text = fields[name], isinstance(value, str)
        values[leaf.path] = _convert(value, leaf.hint, f"{what}: field '{name}'") if is_text else value
    try:
        return typing.cast(T, _built(cls, values))
    except ValueError as error:
        raise BadInput(f"{what}: {error}") from error


def _built(cls: Any, values: Mapping[tuple[str, ...], Any], default: Any = dataclasses.MISSING) -> Any:
    """An instance with the given values by path and otherwise those of `default`."""
    hints, own = _hints(cls), {}
    for f in dataclasses.fields(cls):
        inside = {path[1:]: value for path, value in values.items() if path[0] == f.name}
        if () in inside:
            own[f.name] = inside[()]
        elif inside or (f.init and _is_group(hints[f.name]) and _default(f) is dataclasses.MISSING):
            own[f.name] = _built(hints[f.name], inside, _default(f))
    return cls(**own) if default is dataclasses.MISSING else dataclasses.replace(default, **own)


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
    if hint is bool and text.lower() in ("true", "yes", "1", "false", "no", "0"):
        return text.lower() in ("true", "yes", "1")
    if hint is bool:
        raise BadInput(f"{where} takes true or false, not '{text}'")
    if hint in (int, float, str):
        try:
            return hint(text)
        except ValueError:
            raise BadInput(f"{where} takes {_named(hint)}, not '{text}'") from None
    raise BadInput(f"{where} cannot be set from the command line")


def _named(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", type(None): "none"}
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_named(a) for a in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"{_named(typing.get_args(hint)[0])} (several separated by |)"
    return names.get(hint, str(hint))
