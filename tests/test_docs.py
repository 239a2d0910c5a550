"""The documentation: its files and commands work as printed, and its API page has every public name, documented."""

import ast
import configparser
import inspect
import pkgutil
import re
import runpy
import shlex
import tomllib
import warnings
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

import pytest

import cran_bench
import cran_bench.toolbox
from cran_bench.cli.options import load_tables
from cran_bench.records.tasks import TASKS
from cran_bench.registry import DATASETS, METHODS
from cran_bench.report.contents import table_ids

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
ARRAY = re.compile(r"(Tensor|NDArray|ArrayLike|Matrix|Second)\b")
SHAPE = re.compile(r"\([A-Za-z0-9][\w.+*/ -]*,[^()]*\)|scalar|any shape")  # (N, D), (T,), (rows, 4)
FIELDS = "__dataclass_fields__"
PAGES = sorted(p.stem for p in DOCS.glob("*.md") if "```console" in p.read_text())


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def no_plugins_left():
    """Methods and datasets that a page registers end with it."""
    yield
    for registry in (METHODS, DATASETS):
        for name, plugin in list(registry.plugins.items()):
            if plugin.cls.__module__.startswith("cran_bench_file_"):
                del registry.plugins[name]


@pytest.mark.usefixtures("no_plugins_left")
@pytest.mark.parametrize("page", PAGES)
def test_files_and_commands_of_a_page_work(page, cache, command, tmp_path, monkeypatch):
    several = page in ("backbone", "encoders")  # sets of features, which a later run would have to choose from
    own = cache / (page if several else "one")
    monkeypatch.setenv("XDG_CACHE_HOME", str(own))
    monkeypatch.setenv("CRAN_BENCH_CACHE", str(own / "cran-bench"))
    monkeypatch.delenv("CRAN_BENCH_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)
    if page == "encoders":
        draw_pictures()
    for language, title, text in BLOCK.findall((DOCS / f"{page}.md").read_text()):
        if title:
            Path(title).write_text(text)
        elif language == "console":
            for line in text.replace("\\\n", " ").splitlines():
                if line.startswith("$ "):
                    run(line.removeprefix("$ "), command)


def draw_pictures():
    """The folder `pictures`, as the page on a user's own images draws it."""
    (script,) = (text for _, title, text in BLOCK.findall((DOCS / "own_images.md").read_text()) if title == "draw.py")
    exec(compile(script, "draw.py", "exec"), {})


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
    assert set(PAGES) >= {"start", "method", "dataset", "backbone", "encoders", "own_images", "python"}


def modules():
    """Public modules beside `cran_bench` itself."""
    toolbox = pkgutil.iter_modules(cran_bench.toolbox.__path__, "cran_bench.toolbox.")
    return [import_module(name) for name in ("cran_bench.methods.estimators", *(module.name for module in toolbox))]


def public(module):
    """What a module defines, or says that it exports."""
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
        if any(ARRAY.match(annotation) for annotation in takes):
            assert SHAPE.search(text), f"{name}.{member} takes {takes}, but its docstring gives no shape"


def test_the_api_page_has_every_public_name():
    listed = re.findall(
        r"^::: (\S+)$", (DOCS / "api.md").read_text().replace("::: me", "::: cran_bench.me"), re.MULTILINE
    )
    assert sorted(listed) == sorted(
        [*(f"cran_bench.{name}" for name in cran_bench.__all__), *(module.__name__ for module in modules())]
    )


def test_constants_are_documented():
    """A string follows the assignment, which is where the API page finds it."""
    for name in cran_bench.__all__:
        value = getattr(cran_bench, name)
        if name != "__version__" and not inspect.isclass(value) and not inspect.isroutine(value):
            source = Path(import_module(f"cran_bench.{cran_bench._HOME[name]}").__file__).read_text()
            assert re.search(rf'^{name}\b.* = [^\n]*\n"""', source, re.MULTILINE), f"{name} has no docstring"


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md")))
def test_linked_names_are_in_the_linked_file(page):
    """A link such as [`Counts.hits`](../cran_bench/ranking/metrics.py) names what the file defines."""
    links = re.findall(r"\[`([\w.]+)`\]\((\.\./[^)]*\.py)\)", (DOCS / page).read_text())
    for name, target in links:
        scope = ast.parse((DOCS / target).read_text()).body
        for part in name.split("."):
            found = [node for node in scope if getattr(node, "name", "") == part]
            assert found, f"{page}: there is no {name} in {target}"
            scope = getattr(found[0], "body", [])
    assert links or page != "architecture.md"


def test_the_picture_shows_the_layers():
    layers = runpy.run_path(ROOT / "tests/test_layers.py")["LAYERS"]
    names = re.findall(r'class="name"[^>]*>([^<]+)<', (DOCS / "images/layers.svg").read_text())
    drawn = [set(name.split(" · ")) for name in names if not name.endswith("/") and name != "cran_bench"]
    assert drawn[::-1] == list(layers[:-1])


def test_the_environment_of_the_site_installs_the_extra():
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert tox["testenv:docs"]["extras"].split() == ["docs"] and "docs" in extras
    assert "skip_install" not in tox["testenv:docs"]  # the suite makes the page of results


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md")))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", BLOCK.sub("", (DOCS / page).read_text())):
        assert (DOCS / target).exists() or target == "results-page/index.html", target  # made with the site


def test_links_into_the_page_of_results_lead_to_tables_and_rows_of_the_committed_records():
    tables = load_tables([path.parent for path in sorted((ROOT / "results").glob("*/runs"))], [], [], [], *TASKS)
    known = dict(zip(table_ids(tables), tables, strict=True))
    links = re.findall(
        r"results-page/index\.html#/(table|row|queries)/([^)/?]+)/?([^)?]*)\??([^)]*)", (DOCS / "page.md").read_text()
    )
    assert len(links) == 3
    for _, table, row, query in links:
        chosen = [unquote(label) for label in re.findall(r"\b[ab]=([^&]+)", query)]
        labels = [*chosen, *[unquote(row)] * bool(row)]
        assert set(labels) <= {row.label for row in known[table].rows}
