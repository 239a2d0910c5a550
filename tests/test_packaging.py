"""What the files at the top level promise is true: tox has an environment for every method, lowest versions agree."""

import configparser
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cran_bench.registry import METHODS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tox():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "tox.ini")
    return parser


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_method_has_a_tox_environment(tox):
    sections = " ".join(tox.sections())
    factors = re.search(r"testenv:\{([^}]*)\}", sections)[1].split(",")
    assert sorted(factors) == METHODS.names()


def test_lowest_pins_the_stated_lower_bounds(tox, project):
    pinned = dict(line.split("==") for line in tox["testenv:lowest"]["deps"].split())
    extras = project["optional-dependencies"]
    stated = [
        *project["dependencies"],
        *(text for name in ("onnx", "report", "distributed", "test") for text in extras[name]),
    ]
    bounds = dict(re.match(r"([\w-]+)>=([\d.]+)", text).groups() for text in stated if ">=" in text)

    def padded(version):
        return ([int(part) for part in version.split(".")] + [0, 0])[:3]

    assert {name: padded(v) for name, v in pinned.items()} == {name: padded(v) for name, v in bounds.items()}


def test_every_dependency_has_a_lower_bound(project):
    stated = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    own = f"{project['name']}["
    assert [text for text in stated if not text.startswith(own) and not re.search(r"[\w\]](>=|==|~=)\d", text)] == []
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert all(">=" in text for text in build)


WRONG = {"id": "PYSEC-1", "fix_versions": ["2.1", "2.2"]}


@pytest.mark.parametrize(
    ("packages", "code", "words"),
    [
        ([{"name": "a", "version": "2", "vulns": []}], 0, "1 of 1 packages audited"),
        ([{"name": "a", "version": "2", "vulns": [WRONG]}], 1, "a 2: PYSEC-1, mended in 2.1, 2.2"),
        ([{"name": "a", "version": "2", "vulns": [{**WRONG, "fix_versions": []}]}], 0, "a 2: PYSEC-1, not mended yet"),
        ([{"name": "a", "skip_reason": "not found"}], 0, "left out: no advisory can be had (none is served)"),
        (None, 0, "left out: no advisory can be had (ConnectionError: no route)"),
    ],
)
def test_the_audit_tells_vulnerable_from_unreachable(tmp_path, packages, code, words):
    says = f"print({json.dumps({'dependencies': packages})!r})"
    (tmp_path / "pip_audit.py").write_text(says if packages else "raise SystemExit('ConnectionError: no route')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, ROOT / ".ci" / "audit.py"]
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (said.returncode, words in said.stdout) == (code, True), said.stdout + said.stderr


def test_versions_agree(project):
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {project['version']}\n" in citation


@pytest.mark.parametrize("folder", ["methods", "datasets"])
def test_folders_refuse_to_be_imported_by_their_bare_name(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delitem(sys.modules, folder, raising=False)
    with pytest.raises(ImportError, match=f"cran_bench.{folder}"):
        __import__(folder)
