"""What modules register, read from their source, so that methods and datasets are listed without importing them."""

from __future__ import annotations

import ast
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

DECORATORS = {"method": "register", "dataset": "register_dataset"}

_MENTIONED = re.compile(rb"\bregister(_dataset)?\b")


class Unreadable(Exception):  # noqa: N818 - a property of the source, not a mistake
    """The source does not tell what importing the module registers."""


@dataclass(frozen=True)
class Declaration:
    """A registered class, described without importing it.

    Attributes:
        module: the module that defines the class.
        summary: first line of the module's docstring, or of the class's where the module registers several.
        presets: their names.
    """

    name: str
    module: str
    class_name: str
    summary: str
    presets: tuple[str, ...]
    paper_row: str | None


def find_module(name: str) -> ModuleSpec | None:
    """The spec of a module; unlike importlib's, found without importing the packages that contain it."""
    spec: ModuleSpec | None = None
    for end in [match.start() for match in re.finditer(r"\.|$", name)]:
        places = spec.submodule_search_locations if spec else None
        if spec and places is None:
            return None
        specs = (finder.find_spec(name[:end], places) for finder in sys.meta_path)
        spec = next((found for found in specs if found), None)
        if spec is None:
            return None
    return spec


def modules_of(package: str) -> list[str]:
    """Full names of the modules directly in a package."""
    spec = find_module(package)
    return [f"{package}.{m.name}" for m in pkgutil.iter_modules((spec and spec.submodule_search_locations) or [])]


def declarations(module: str, kind: str, within: str, name: str = "", class_name: str = "") -> list[Declaration]:
    """The classes that importing a module registers, there and in the modules below `within` that it imports.

    Args:
        module: full name.
        kind: 'method' or 'dataset'.
        within: the package whose modules are read.
        name: of the entry point that leads to the module, '' without one.
        class_name: of the class that the entry point names, which is registered as `name` if it has no decorator.

    Raises:
        Unreadable: the source does not tell.
        SyntaxError: a source is not Python.
    """
    found: list[Declaration] = []
    todo = [module, *(module[: dot.start()] for dot in re.finditer(r"\.", module))]
    for target in todo:  # which grows
        spec = find_module(target) if _is_below(target, within) else None
        if spec is None or not str(spec.origin).endswith(".py"):
            if target == module:
                raise Unreadable
            continue
        text, is_package = Path(str(spec.origin)).read_bytes(), spec.submodule_search_locations is not None
        if not (name or is_package or _MENTIONED.search(text)):
            continue  # a module of the suite's own, which registers nothing
        tree = ast.parse(text, str(spec.origin))
        statements = list(_executed(tree))
        classes = {node.name: node for node in statements if isinstance(node, ast.ClassDef)}
        calls = _registrations(tree, classes.values(), DECORATORS[kind]) if _MENTIONED.search(text) else {}
        if target == module and class_name and class_name not in calls:
            if class_name not in classes or classes[class_name].bases:
                raise Unreadable
            presets = _assigned("presets", classes[class_name].body)
            calls[class_name] = {"name": ast.Constant(name), **dict(zip(["presets"], presets[-1:], strict=False))}
        for cls, given in calls.items():
            doc = (len(calls) == 1 and ast.get_docstring(tree)) or ast.get_docstring(classes[cls])
            keys, row = _keys(given.get("presets"), statements), _literal(given.get("paper_row"))
            found.append(Declaration(str(_literal(given["name"])), target, cls, first_line(doc), keys, row))
        if name or is_package:
            package = target if is_package else target.rpartition(".")[0]
            todo += [other for other in _imported(statements, package) if other not in todo]
    if name and not found:
        raise Unreadable
    return found


def first_line(doc: str | None) -> str:
    """The summary in a docstring."""
    return (doc or "").strip().partition("\n")[0]


def _is_below(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """The statements that importing a module may execute, without those of functions and classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler):
            yield child
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from _executed(child)


def _registrations(tree: ast.Module, classes: Iterable[ast.ClassDef], decorator: str) -> dict[str, dict[str, ast.expr]]:
    """By class, what its decorator is given.

    Raises:
        Unreadable: the module does anything else with the registry's decorators.
    """
    words, plain, ours = set(DECORATORS.values()), set[ast.Name](), set[str]()
    calls: dict[str, dict[str, ast.expr]] = {}
    for cls in classes:
        for call in cls.decorator_list:
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in words:
                plain.add(call.func)
                given = dict(zip(("name", "presets", "paper_row"), call.args, strict=False))
                given |= {str(keyword.arg): keyword.value for keyword in call.keywords}
                is_told = isinstance(_literal(given.get("name")), str) and "None" not in given
                if not is_told or (call.func.id == decorator and calls.setdefault(cls.name, given) is not given):
                    raise Unreadable
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _is_below(node.module or "", "cran_bench"):
            ours |= {alias.name for alias in node.names if alias.asname is None}
        is_renamed = isinstance(node, ast.alias) and node.asname is not None and node.name in words
        if is_renamed or (node not in plain and {getattr(node, name, "") for name in ("id", "attr")} & words):
            raise Unreadable
    if not {function.id for function in plain} <= ours:
        raise Unreadable
    return calls


def _imported(statements: Iterable[ast.AST], package: str) -> Iterator[str]:
    """Full names of what is imported, modules or not."""
    for node in statements:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _literal(node: ast.expr | None) -> Any:
    if not isinstance(node, ast.Constant | None):
        raise Unreadable
    return node.value if node else None


def _keys(node: ast.expr | None, statements: Iterable[ast.AST]) -> tuple[str, ...]:
    """The keys of a dictionary that is written out here, or where its name is assigned once."""
    if isinstance(node, ast.Name) and len(values := _assigned(node.id, statements)) == 1:
        node = values[0]
    if isinstance(node, ast.Dict):
        return tuple(_literal(key or node) for key in node.keys)
    if _literal(node) is not None:
        raise Unreadable
    return ()


def _assigned(name: str, statements: Iterable[ast.AST]) -> list[ast.expr]:
    found: list[ast.expr] = []
    for node in statements:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [node.value for target in targets if isinstance(target, ast.Name) and target.id == name]
    return found
