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
    """sha256 over the sources of `module` and, transitively, of every module of this project that it imports.

    So a record is made anew when anything that could change its numbers has changed, and not when a table's layout has.
    """
    sources: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file_of(name)
        if name in sources or path is None:
            continue
        sources[name] = path.read_bytes()
        waiting += _imports(ast.parse(sources[name]), name, path.name == "__init__.py")
    digest = hashlib.sha256()
    for name in sorted(sources):
        # A plugin file outside the project is known by its content, not by where it lies.
        digest.update((name if name.startswith(PROJECT + ".") else "plugin").encode())
        digest.update(hashlib.sha256(sources[name]).digest())
    return digest.hexdigest()


def _file_of(module: str) -> Path | None:
    if module in sys.modules:
        file = getattr(sys.modules[module], "__file__", None)
        return Path(file) if file else None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


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
    return [name for name in found if name.split(".")[0] == PROJECT]
