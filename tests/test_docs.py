"""The documentation: its files and commands work as printed, and its API page has every public name, documented."""

import inspect
import pkgutil
import re
import runpy
import shlex
import warnings
from importlib import import_module
from pathlib import Path

import pytest

import cran_bench
import cran_bench.toolbox

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
ARRAY = re.compile(r"\b(Tensor|NDArray|ArrayLike|Matrix)\b")
SHAPE = re.compile(r"\([A-Za-z0-9][\w.+*/ -]*,[^()]*\)|scalar")  # (N, D), (T,), (rows, 4)
FIELDS = "__dataclass_fields__"
PAGES = sorted(p.stem for p in DOCS.glob("*.md") if "```console" in p.read_text())


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("caches")


@pytest.mark.parametrize("page", PAGES)
def test_files_and_commands_of_a_page_work(page, cache, command, tmp_path, monkeypatch):
    own = cache / ("several features" if page == "backbone" else "one")  # which a later run would have to choose from
    monkeypatch.setenv("XDG_CACHE_HOME", str(own))
    monkeypatch.setenv("CRAN_BENCH_CACHE", str(own / "cran-bench"))
    monkeypatch.chdir(tmp_path)
    for language, title, text in BLOCK.findall((DOCS / f"{page}.md").read_text()):
        if title:
            Path(title).write_text(text)
        elif language == "console":
            for line in text.splitlines():
                if line.startswith("$ "):
                    run(line.removeprefix("$ "), command)


def run(line, command):
    program, *arguments = shlex.split(line)
    if program == "cran-bench":
        done = command(*arguments)
        assert done.code == 0, f"{line}\n{done.out}{done.err}"
    else:
        assert program == "python", line
        with warnings.catch_warnings(action="ignore"):
            runpy.run_path(*arguments, run_name="__main__")


def test_pages_with_examples_are_there():
    assert set(PAGES) >= {"start", "method", "dataset", "backbone", "own_images", "python"}


def modules():
    return [
        import_module(f"cran_bench.toolbox.{m.name}") for m in pkgutil.iter_modules(cran_bench.toolbox.__path__)
    ]


def public(module):
    """Names that a module of the toolbox defines, or says that it exports."""
    if hasattr(module, "__all__"):
        return {name: getattr(module, name) for name in module.__all__}
    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return {name: value for name, value in own.items() if getattr(value, "__module__", None) == module.__name__}


def documented():
    """(name, object) of every public class and function."""
    for name in cran_bench.__all__:
        value = getattr(cran_bench, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            yield f"cran_bench.{name}", value
    for module in modules():
        for name, value in public(module).items():
            if inspect.isclass(value) or inspect.isroutine(value):
                yield f"{module.__name__}.{name}", value


@pytest.mark.parametrize(("name", "value"), [pytest.param(*pair, id=pair[0]) for pair in documented()])
def test_what_is_public_is_documented_with_shapes(name, value):
    assert inspect.getdoc(value), f"{name} has no docstring"
    own = vars(value).items() if inspect.isclass(value) else [("", value)]
    for member, defined in own:
        function = getattr(defined, "__func__", getattr(defined, "fget", getattr(defined, "func", defined)))
        if member.startswith("_") or not inspect.isfunction(function) or member in getattr(value, FIELDS, ()):
            continue
        text = inspect.getdoc(getattr(value, member) if member else value)
        assert text, f"{name}.{member} has no docstring"
        takes = [str(p.annotation) for p in inspect.signature(function).parameters.values()]
        if any(ARRAY.search(annotation) for annotation in takes):
            assert SHAPE.search(text), f"{name}.{member} takes {takes}, but its docstring gives no shape"


def test_the_api_page_has_every_public_name():
    listed = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(
        [*(f"cran_bench.{name}" for name in cran_bench.__all__), *(module.__name__ for module in modules())]
    )
