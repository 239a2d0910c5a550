"""The table of known files below a data folder, and of the front ends that can be made of them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from cran_bench.frontend.catalogue import open_backbone
from cran_bench.frontend.trained_on import declared
from cran_bench.running import materials
from cran_bench.running.materials import MATERIALS, WIDTH


@pytest.fixture
def networks(tmp_path):
    """A backbone that takes the mean colour, and a YOLOX that sees 21 equal objects; as files below two folders."""
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    make, value, real = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    row = onnx.numpy_helper.from_array(np.full((1, 21, 7), 0.5, np.float32), "rows")
    head = onnx.numpy_helper.from_array(np.ones((3, 2), np.float32), "head")
    mean = make("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0)
    classify = make("MatMul", ["mean", "head"], ["out"])
    zero = [make("ReduceMean", ["image"], ["one"], keepdims=0), make("Sub", ["one", "one"], ["zero"])]
    graphs = {
        "models/EfficientNet_Lite0.onnx": ([mean, classify], ["n", 3, 8, 8], ["n", 2], [head]),
        "yolox-nano.onnx": ([*zero, make("Add", ["rows", "zero"], ["out"])], [1, 3, 32, 32], [1, 21, 7], [row]),
    }
    for name, (nodes, takes, gives, constants) in graphs.items():
        ends = [value("image", real, takes)], [value("out", real, gives)]
        graph = onnx.helper.make_graph(nodes, "network", *ends, constants)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        onnx.save(model, str(tmp_path / name))


def test_the_table_before_a_front_end_is_chosen(command, flickr, networks, tmp_path):
    for name in ("models", "yolox-nano.onnx"):
        shutil.move(tmp_path / name, flickr / name)
    where = ("flickr8k", "--data", flickr, "--cache", tmp_path / "cache")
    said = command("prepare", *where, "--check")
    assert said.code == 0 and "known files below" in said.out
    table = said.out[said.out.index("\nEfficientNet") + 1 : said.out.index("\nThe first")].splitlines()
    assert max(map(len, table)) <= WIDTH
    lines = {line[:18].strip(): line[18:].split() for line in table[: table.index("")]}
    assert lines["EfficientNet-Lite0"] == ["backbone", "models/EfficientNet_Lite0.onnx"]
    assert lines["YOLOX-nano"] == ["regions", "yolox-nano.onnx"]
    assert lines["NanoDet-m"] == ["regions", "missing:", "github.com/RangiLyu/nanodet"]
    costs = [line for line in table if " about " in line]
    assert [line.split("about")[0].strip() for line in costs] == [
        "EfficientNet-Lite0 + YOLOX-nano",
        "pixels + grid (default)",
    ]
    assert all(line.endswith("0.00 GB") for line in costs)
    shown = said.out[said.out.index("The first: ") :].splitlines()[0]
    assert f"EfficientNet_Lite0.onnx[tensor=penultimate]' --regions yolox:{flickr}/yolox-nano.onnx" in shown
    assert not (tmp_path / "cache").exists()

    said = command("prepare", *where)
    assert said.code == 0 and "known files below" in said.err
    assert "flickr8k is ready: pixels + grid" in said.out
    assert "known files below" not in command("prepare", *where).err  # they are ready
    chosen = command("prepare", *where, "--check", "--backbone", "pixels")
    assert "known files below" not in chosen.out


def test_a_file_that_cannot_be_used_is_told(command, flickr, tmp_path):
    (flickr / "mobilenet_v2.onnx").write_bytes(b"<html>")
    said = command("prepare", "flickr8k", "--data", flickr, "--cache", tmp_path / "cache", "--check")
    assert said.code == 0
    assert "MobileNetV2 + grid" in said.out and "unusable" in said.out
    assert said.out.count("mobilenet_v2.onnx cannot be read as an ONNX model") == 1


def test_nothing_is_said_where_nothing_is_found(command, flickr, tmp_path):
    where = ("flickr8k", "--data", flickr, "--cache", tmp_path / "cache")
    said = command("prepare", *where, "--check")
    assert said.out.count("missing: ") == len(MATERIALS) and "The first" not in said.out
    assert "known files" not in command("prepare", *where).err


def test_scenes_have_their_own_regions(command, tmp_path):
    said = command("prepare", "scenes:quick", "--cache", tmp_path / "cache", "--check")
    assert said.code == 0 and "known files" not in said.out


@pytest.mark.real
def test_the_real_files_are_found():
    if "CRAN_BENCH_DATA" not in os.environ:
        pytest.skip("CRAN_BENCH_DATA does not name the folder of the real data")
    data = Path(os.environ["CRAN_BENCH_DATA"])
    found = {material.name: material.spec(material.find(data)) for material in MATERIALS}
    assert found["EfficientNet-Lite0"] == f"onnx:{data}/models/efficientnet_lite0_imagenet.onnx"
    assert found["MobileNetV2"] == f"onnx:{data}/models/mobilenet_v2_imagenet.onnx[tensor=penultimate]"
    assert found["GloVe, 100-d"].startswith("word2vec:") and found["GloVe, 50-d"].startswith("glove:")
    assert declared(found["all-MiniLM-L6-v2"])[0] == "flickr30k"
    assert open_backbone(found["EfficientNet-Lite0"]).dim == 1280
    assert materials.PROBE <= 12
