"""Whether committed results still come out.  Run by tox: regression, regression-flickr8k and regression-paper."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cran_bench.needs import missing
from cran_bench.registry import DATASETS, METHODS

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("CRAN_BENCH_DATA", ROOT / "data"))
CLOSED_FORMS = "cca,cfa,kcca,macc,gmm-hglmm"
DEEP = "bimodal-ae,multimodal-dbn,corr-ae,ccl"
CRAN_PLUS = "cran-plus,cran-plus-baseline,cran-plus-local,cran-plus-relation"
ROWS = [name for name in METHODS.names() if METHODS.describe(name).paper_row]
PAPER = ",".join(f"{name}:paper" + "[width=full]" * name.startswith("cran") for name in ROWS)


@pytest.fixture
def cran_bench(tmp_path):
    """Call it with records of its own, with what it says where pytest shows it; the exit code comes back."""

    def call(*arguments):
        command = [Path(sys.executable).with_name("cran-bench"), *map(str, arguments), "--results", tmp_path]
        return subprocess.run(command, check=False).returncode

    return call


def need(dataset):
    absent = [need.what for need in missing(DATASETS.configure(dataset).build().needs(DATA)) if not need.optional]
    if absent:
        pytest.skip(f"{dataset} is not below {DATA}: it lacks {', '.join(absent)}; set CRAN_BENCH_DATA")


def reference_front_end():
    """The options of the front end of that name in results/remake.toml, whose files are anywhere below the data."""
    plan = tomllib.loads((ROOT / "results/remake.toml").read_text())
    options = []
    for option, spec in plan["front_ends"]["reference"].items():
        kind, _, name = spec.partition(":")
        found = sorted(DATA.rglob(name))
        if len(found) != 1:
            pytest.skip(f"there are {len(found)} files {name} below {DATA}: set CRAN_BENCH_DATA")
        options += [f"--{option}", f"{kind}:{found[0]}"]
    return options


def test_scenes(cran_bench):
    assert cran_bench("run") == 0
    assert cran_bench("run", "-m", CRAN_PLUS) == 0
    assert cran_bench("compare", "-d", "scenes", "--reference", ROOT / "results/reference") == 0


def test_flickr8k(cran_bench):
    need("flickr8k")
    data = ["-d", "flickr8k", "--data", DATA, *reference_front_end()]
    assert cran_bench("run", *data, "-m", f"{CLOSED_FORMS},dcca") == 0
    assert cran_bench("run", *data, "-p", "documents", "-m", DEEP) == 0
    assert cran_bench("compare", "-d", "flickr8k", "--reference", ROOT / "results/reference") == 0


@pytest.mark.parametrize("dataset", ["flickr30k[split=entities]", "mscoco[split=random]"])
def test_paper(cran_bench, dataset):
    need(dataset)
    assert cran_bench("run", "-d", dataset, "--data", DATA, "-p", "documents,mean,captions", "-m", PAPER) == 0
    assert cran_bench("compare", "-d", dataset.partition("[")[0]) == 0
