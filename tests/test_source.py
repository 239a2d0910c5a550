import sys

import pytest

from cran_bench.machine import fingerprint as source
from cran_bench.machine.fingerprint import code_sha
from cran_bench.registry import METHODS

PLUGIN = """
from dataclasses import dataclass
from cran_bench import COSINE
from cran_bench.toolbox.linalg import moments

@dataclass
class Mine:
    width: int = 1
    similarity = COSINE
    def fit(self, train, val, run): pass
    def embed_images(self, split): pass
    def embed_texts(self, split): pass
    def state(self): return {}
    def load(self, state): pass
"""


@pytest.fixture(autouse=True)
def nothing_remembered():
    code_sha.cache_clear()
    yield
    code_sha.cache_clear()


@pytest.fixture
def plugin(tmp_path):
    def sha(folder, text=PLUGIN, name="mine.py"):
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return code_sha(METHODS.configure(f"{path}:Mine").plugin.cls.__module__)

    return sha


@pytest.fixture
def closure(monkeypatch):
    """``closure(module)``: the modules of this project whose sources count."""

    def modules(name):
        seen = set()
        whole = source._file_of

        def noted(module):
            path = whole(module)
            if path is not None:
                seen.add(module)
            return path

        monkeypatch.setattr(source, "_file_of", noted)
        code_sha(name)
        return seen

    return modules


def test_a_plugin_is_known_by_its_content(plugin):
    assert plugin("one") == plugin("two") == plugin("three", name="other.py")
    assert plugin("four", PLUGIN.replace("int = 1", "int = 2")) != plugin("one")


def test_a_plugins_imports_count(plugin):
    unused = PLUGIN.replace(
        "from cran_bench.toolbox.linalg import moments", "from cran_bench.running.preparation import prepare"
    )
    assert plugin("five", unused) != plugin("one")


@pytest.mark.parametrize("method", ["cca", "cfa"])
def test_a_method_depends_on_what_changes_its_numbers(closure, method):
    found = closure(f"cran_bench.methods.{method}")
    names = ("linalg", "split", "similarity", "frontend.text", "frontend.vectors", "protocols")
    assert {f"cran_bench.methods.{method}", *(f"cran_bench.{name}" for name in names)} <= found
    assert all(name.startswith("cran_bench") for name in found)


@pytest.mark.parametrize("method", ["cca", "cfa"])
def test_a_method_does_not_depend_on_what_prints_it(closure, method):
    other = {"cca": "cfa", "cfa": "cca"}[method]
    names = ("cli", "tables", "runner", "results", "environment", "checks", f"methods.{other}")
    assert not {f"cran_bench.{name}" for name in names} & closure(f"cran_bench.methods.{method}")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one's own: a imports b and the package sub relatively, b imports c inside a function."""
    folder = tmp_path / "small_project"
    (folder / "sub").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "a": "import numpy\nfrom . import b\nfrom .sub import deep\n",
        "b": "def late():\n    from small_project.c import VALUE\n    return VALUE\n",
        "c": "from .a import b\nVALUE = 1\n",
        "d": "VALUE = 1\n",
        "sub/__init__": "from ..c import VALUE\n",
        "sub/deep": "",
    }.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(source, "PROJECT", "small_project")
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "small_project"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["a", "b", "c", "sub/__init__", "sub/deep"])
def test_a_change_of_anything_imported_changes_the_code(project, name):
    before = code_sha("small_project.a")
    file = project / f"{name}.py"
    file.write_text(file.read_text() + "CHANGED = 1\n")
    assert code_sha("small_project.a") == before  # within one process the code is what was loaded
    code_sha.cache_clear()
    assert code_sha("small_project.a") != before


def test_comments_and_docstrings_do_not_count(project):
    before = code_sha("small_project.a")
    file = project / "b.py"
    file.write_text('"""What b is."""\n# A remark.\n' + file.read_text())
    code_sha.cache_clear()
    assert code_sha("small_project.a") == before


def test_a_file_beside_a_plugin_counts(plugin, tmp_path):
    text = PLUGIN.replace(
        "from cran_bench.toolbox.linalg import moments", "try:\n    import model\nexcept ImportError: pass"
    )
    before = plugin("six", text)
    (tmp_path / "six" / "model.py").write_text("WIDTH = 1\n")
    code_sha.cache_clear()
    assert plugin("six", text) != before


def test_a_change_of_anything_else_does_not(project):
    before = code_sha("small_project.a")
    (project / "d.py").write_text("VALUE = 2\n")
    code_sha.cache_clear()
    assert code_sha("small_project.a") == before
    assert code_sha("small_project.a") != code_sha("small_project.d")
