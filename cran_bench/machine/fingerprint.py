"""The version of the code behind a number: sha256 of a module and of all it imports from this project."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
from pathlib import Path

PROJECT = "cran_bench"


@functools.cache
def code_sha(module: str) -> str:
    """sha256 over the code of `module` and, transitively, of every module of this project or its own that it imports.

    So a record is made anew when anything that could change its numbers has changed, and not when a table's layout has.
    Docstrings and comments do not count.  A plugin's own modules are those of its package and those beside its file.
    """
    home = _file_of(module)
    sources: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        if name.split(".")[0] in (PROJECT, module.split(".")[0]):
            path = _file_of(name)
        else:
            path = home and home.with_name(name.split(".")[0] + ".py")
        if path is None or path.suffix != ".py" or not path.is_file():
            continue
        tree = ast.parse(path.read_bytes())
        waiting += _imports(tree, name, path.name == "__init__.py")
        sources[name] = ast.unparse(_without_docstrings(tree))
    digest = hashlib.sha256()
    for name in sorted(sources):
        # A plugin file is known by its content, not by where it lies.
        digest.update((name if name != module or name.startswith(PROJECT + ".") else "plugin").encode())
        digest.update(hashlib.sha256(sources[name].encode()).digest())
    return digest.hexdigest()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _file_of(module: str) -> Path | None:
    if module in sys.modules:
        file = getattr(sys.modules[module], "__file__", None)
        return Path(file) if file else None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def _imports(tree: ast.AST, module: str, is_package: bool) -> list[str]:
    found: list[str] = []
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parents = parts[: len(parts) - (node.level - 1)]
                base = ".".join([*parents, base] if base else parents)
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return found
