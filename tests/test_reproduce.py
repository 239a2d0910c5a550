"""docs/reproduce.md as it stands: its commands, on generated folders in the owners' layouts, with random weights."""

import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch

models = pytest.importorskip("torchvision", reason="needs the extra images").models

HOME = Path(__file__).resolve().parent.parent
ELSEWHERE = (
    "python benchmarks/generate.py ",
    "python -m pip ",
    "curl ",
    "unzip ",
    "for split in ",
    "done",
    "mkdir -p data/mscoco ",
)
NETWORKS = {
    "vgg19": models.VGG19_Weights.DEFAULT,
    "vgg16": models.VGG16_Weights.DEFAULT,
    "fasterrcnn_resnet50_fpn_v2": models.detection.FasterRCNN_ResNet50_FPN_V2_Weights.DEFAULT,
}


def commands():
    """The commands of the page, but for those that install and download."""
    text = (HOME / "docs" / "reproduce.md").read_text()
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return [line for line in lines if not line.startswith(ELSEWHERE)]


def test_the_page_names_every_row_there_is():
    from cran_bench.registry import METHODS

    run = " ".join(line for line in commands() if line.startswith("cran-bench run"))
    paper = [name for name in METHODS.names() if METHODS.describe(name).paper_row]
    for dataset in ("flickr30k[split=entities]", "mscoco[split=random]"):
        own = " ".join(line for line in commands() if line.startswith("cran-bench run") and dataset in line)
        assert [name for name in paper if not re.search(rf"[ ,]{name}:paper", own)] == []
    assert "--quick" not in run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a user would stand, with data and with weights as torchvision's downloads leave them."""
    here = tmp_path_factory.mktemp("reproduce")
    for dataset in ("flickr30k", "mscoco"):
        script = [sys.executable, str(HOME / "benchmarks" / "generate.py"), dataset, str(here / "data")]
        subprocess.run([*script, "--images", "200", "--side", "160"], check=True)
    kept = here / "torch" / "hub" / "checkpoints"
    kept.mkdir(parents=True)
    for name, weights in NETWORKS.items():
        torch.manual_seed(zlib.crc32(name.encode()))
        detects = name.startswith("faster")
        network = models.get_model(name, weights=None, **({"weights_backbone": None} if detects else {}))
        torch.save(network.state_dict(), kept / Path(weights.url).name)
    return here


def test_every_command_runs(folder):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TORCH_HOME": str(folder / "torch"),
    }
    script = folder / "reproduce.sh"
    script.write_text("\n".join(["set -eux", *commands()]) + "\n")
    done = subprocess.run(["bash", str(script)], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-20_000:]
    one, two, three = ((folder / "work" / f"table{k}.md").read_text() for k in (1, 2, 3))
    for table, dataset in ((one, "flickr30k"), (two, "mscoco"), (three, "flickr30k"), (three, "mscoco")):
        assert dataset in table
    for table in (one, two):
        for protocol in ("captions", "documents", "mean", "single"):
            assert f"protocol {protocol}" in table
        for row in ("cca:paper", "cfa:paper", "cran:paper[width=full]"):
            assert table.count(f"{row} ") >= 2
    for row in ("cran", "cran-baseline", "cran-local", "cran-relation"):
        assert three.count(f"{row}:paper[width=full] ") == 4
    assert "FAILED" not in one + two + three
