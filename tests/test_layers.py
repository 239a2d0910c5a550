"""The layers of the engine: a module imports from its own folder and from below, plugins only what is public."""

import ast
from pathlib import Path

import pytest

import cran_bench

ROOT = Path(__file__).parent.parent
ENGINE = ROOT / "cran_bench"
LAYERS = (  # from the bottom up
    {"errors"},
    {"machine"},
    {"contrasts", "embeddings", "images", "judgments", "needs", "protocols", "specs"},
    {"dataset", "similarity"},
    {"frontend"},
    {"ranking"},
    {"split"},
    {"contract"},
    {"registry"},
    {"toolbox"},
    {"records"},
    {"tables"},
    {"running"},
    {"cluster", "comparison"},
    {"bench", "report", "viewing"},
    {"cli"},
    {"__init__", "__main__"},
)
FLOOR = {name: floor for floor, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> set[str]:
    """Full names of what a file imports from this project, wherever in the file, type checking included."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("cran_bench", "methods", "datasets")}


def module_of(name: str) -> str:
    """``cran_bench.records.schema.Record`` -> ``cran_bench.records.schema``."""
    parts = name.split(".")
    while parts and not ((ROOT / Path(*parts)).is_dir() or (ROOT / Path(*parts)).with_suffix(".py").is_file()):
        parts.pop()
    return ".".join(parts)


def room(name: str) -> str:
    """The file or folder directly below the engine that a module belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


MODULES = sorted(ENGINE.rglob("*.py"))


def test_every_file_and_folder_has_a_floor():
    there = {p.stem if p.suffix == ".py" else p.name for p in ENGINE.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert there - {"__pycache__"} == set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ENGINE)))
def test_nothing_is_imported_from_above_or_beside(path):
    own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for name in imports(path):
        other = room(module_of(name))
        assert name.split(".")[1:2] not in (["methods"], ["datasets"]), f"the engine imports a plugin: {name}"
        if own not in ("__init__", "__main__"):
            assert other == own or FLOOR[other] < FLOOR[own], f"{own} imports {name}, from {other} above or beside it"


PLUGINS = sorted([*(ROOT / "methods").rglob("*.py"), *(ROOT / "datasets").rglob("*.py")])


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_plugin_imports_only_what_is_public(path):
    for name in imports(path):
        own, *parts = name.split(".")
        if own != path.relative_to(ROOT).parts[0]:
            assert parts[0] in cran_bench.__all__ or parts[0] == "toolbox", name
            assert not any(part.startswith("_") for part in parts), name


def test_there_is_no_circle_of_modules():
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in MODULES}
    graph = {name: {module_of(i) for i in imports(path)} & names.keys() - {name} for name, path in names.items()}
    graph["cran_bench"] = set()  # which imports on first use
    while True:
        leaves = {name for name, needed in graph.items() if not needed}
        if not leaves:
            break
        graph = {name: needed - leaves for name, needed in graph.items() if name not in leaves}
    assert not graph, f"a circle among {sorted(graph)}"


def test_no_class_name_is_used_twice():
    where: dict[str, list[str]] = {}
    for path in [*MODULES, *PLUGINS]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    for name in ("CCA", "CFA", "KCCA"):
        where[name].remove("methods/estimators.py")  # the rows' names, for arrays
    assert not {name: files for name, files in where.items() if len(files) > 1}
