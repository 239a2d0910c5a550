"""What the files at the top level promise is true: tox has an environment for every method, lowest versions agree."""

import configparser
import re
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


def test_versions_agree(project):
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {project['version']}\n" in citation


@pytest.mark.parametrize("folder", ["methods", "datasets"])
def test_folders_refuse_to_be_imported_by_their_bare_name(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delitem(sys.modules, folder, raising=False)
    with pytest.raises(ImportError, match=f"cran_bench.{folder}"):
        __import__(folder)
