"""Read from the source of modules what they register, so that plugins are listed without importing them."""

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
    """The source does not show what importing the module registers."""


@dataclass(frozen=True)
class Declaration:
    """A registered class, described without importing it.

    Attributes:
        module: the module that defines the class.
        summary: first line of the module's docstring, or of the class's if the module registers several.
        presets: names of the presets.
        argument: the field that a spec ``name:TEXT`` sets, or ''.
        reference: what it scores, if it is no method but a reference for others; else ''.
    """

    name: str
    module: str
    class_name: str
    summary: str
    presets: tuple[str, ...]
    paper_row: str | None
    argument: str = ""
    reference: str = ""


def find_module(name: str) -> ModuleSpec | None:
    """The spec of a module, without importing its parent packages as importlib does; None if there is none."""
    spec: ModuleSpec | None = None
    for end in [match.start() for match in re.finditer(r"\.|$", name)]:
        folders = spec.submodule_search_locations if spec else None
        if spec and folders is None:
            return None
        spec = next(filter(None, (finder.find_spec(name[:end], folders) for finder in sys.meta_path)), None)
        if spec is None:
            return None
    return spec


def modules_of(package: str) -> list[str]:
    """Full names of the direct submodules of a package."""
    spec = find_module(package)
    return [f"{package}.{m.name}" for m in pkgutil.iter_modules((spec and spec.submodule_search_locations) or [])]


def declarations(module: str, kind: str, within: str, name: str = "", class_name: str = "") -> list[Declaration]:
    """The classes that a module registers when imported, itself or through modules below `within` that it imports.

    Args:
        module: full name.
        kind: 'method' or 'dataset'.
        within: the package whose modules are read.
        name: name of the entry point that refers to the module, '' without one.
        class_name: class that the entry point names; it is registered as `name` if it has no decorator.

    Raises:
        Unreadable: the source does not show it.
        SyntaxError: a source is not Python.
    """
    declared: list[Declaration] = []
    todo = [module, *(module[: dot.start()] for dot in re.finditer(r"\.", module))]
    for target in todo:  # grows in the loop
        spec = find_module(target) if _is_below(target, within) else None
        if spec is None or not str(spec.origin).endswith(".py"):
            if target == module:
                raise Unreadable
            continue
        text, is_package = Path(str(spec.origin)).read_bytes(), spec.submodule_search_locations is not None
        if not (name or is_package or _MENTIONED.search(text)):
            continue  # a module of the suite that registers nothing
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
            texts = (str(_literal(given.get(name)) or "") for name in ("argument", "reference"))
            about = first_line(doc), keys, row, *texts
            declared.append(Declaration(str(_literal(given["name"])), target, cls, *about))
        if name or is_package:
            package = target if is_package else target.rpartition(".")[0]
            todo += [other for other in _imported(statements, package) if other not in todo]
    if name and not declared:
        raise Unreadable
    return declared


def first_line(doc: str | None) -> str:
    """The first line of a docstring, its summary."""
    return (doc or "").strip().partition("\n")[0]


def _is_below(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """The statements that importing a module may execute, except those in functions and classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler):
            yield child
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from _executed(child)


def _registrations(tree: ast.Module, classes: Iterable[ast.ClassDef], decorator: str) -> dict[str, dict[str, ast.expr]]:
    """The arguments of the registering decorators, by class.

    Raises:
        Unreadable: the module uses the registry's decorators in any other way.
    """
    words, used, imported = set(DECORATORS.values()), set[ast.Name](), set[str]()
    calls: dict[str, dict[str, ast.expr]] = {}
    for cls in classes:
        for call in cls.decorator_list:
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in words:
                used.add(call.func)
                given = dict(zip(("name", "presets", "paper_row", "argument"), call.args, strict=False))
                given |= {str(keyword.arg): keyword.value for keyword in call.keywords}
                is_clear = isinstance(_literal(given.get("name")), str) and "None" not in given
                if not is_clear or (call.func.id == decorator and calls.setdefault(cls.name, given) is not given):
                    raise Unreadable
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _is_below(node.module or "", "cran_bench"):
            imported |= {alias.name for alias in node.names if alias.asname is None}
        is_renamed = isinstance(node, ast.alias) and node.asname is not None and node.name in words
        if is_renamed or (node not in used and {getattr(node, name, "") for name in ("id", "attr")} & words):
            raise Unreadable
    if not {function.id for function in used} <= imported:
        raise Unreadable
    return calls


def _imported(statements: Iterable[ast.AST], package: str) -> Iterator[str]:
    """Full names of everything imported, modules or not."""
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
    """The keys of a dictionary literal, given directly or by a name that is assigned once."""
    if isinstance(node, ast.Name) and len(values := _assigned(node.id, statements)) == 1:
        node = values[0]
    if isinstance(node, ast.Dict):
        return tuple(_literal(key or node) for key in node.keys)
    if _literal(node) is not None:
        raise Unreadable
    return ()


def _assigned(name: str, statements: Iterable[ast.AST]) -> list[ast.expr]:
    values: list[ast.expr] = []
    for node in statements:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            values += [node.value for target in targets if isinstance(target, ast.Name) and target.id == name]
    return values
