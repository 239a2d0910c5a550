"""ONNX backbones: generated networks whose features are known, and the real one where CRAN_BENCH_DATA names it."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cran_bench.errors import BadInput
from cran_bench.frontend.catalogue import open_backbone

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

SIZE, FILTERS, CLASSES = 8, 4, 3
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(FILTERS, 3, 1, 1)).astype(np.float32)
HEAD = RNG.normal(size=(FILTERS, CLASSES)).astype(np.float32)


def network(path: Path, layout="nchw", batch="n", size=SIZE, kind="tensor", quantised=False):
    """A 1 x 1 Conv -> Relu `map` -> `pooled` -> MatMul `scores` -> Softmax, and a `loose` end that needs a text."""
    make = onnx.helper.make_node
    shape = [batch, 3, size, size] if layout == "nchw" else [batch, size, size, 3]
    element = onnx.TensorProto.UINT8 if kind == "uint8" else onnx.TensorProto.FLOAT
    nodes = [make("Cast", ["image"], ["numbers"], to=onnx.TensorProto.FLOAT)]
    if layout == "nhwc":
        nodes.append(make("Transpose", ["numbers"], ["planes"], perm=[0, 3, 1, 2]))
    nodes += [
        make("Conv", [nodes[-1].output[0], "kernel"], ["conv"]),
        make("Relu", ["conv"], ["map"]),
        make("Transpose", ["map"], ["map_last"], perm=[0, 2, 3, 1]),
        make("GlobalAveragePool", ["map"], ["mean"]),
        make("Squeeze", ["mean", "axes"], ["pooled"]),
    ]
    entering = "pooled"
    if quantised:
        nodes += [
            make("DynamicQuantizeLinear", ["pooled"], ["q", "scale", "zero"]),
            make("DequantizeLinear", ["q", "scale", "zero"], ["approximate"]),
        ]
        entering = "approximate"
    nodes += [
        make("MatMul", [entering, "head"], ["scores"]),
        make("Softmax", ["scores"], ["probabilities"]),
        make("Add", ["text", "text"], ["loose"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "network",
        [value("image", element, shape), value("text", onnx.TensorProto.FLOAT, [1])],
        [
            value("probabilities", onnx.TensorProto.FLOAT, [batch, CLASSES]),
            value("loose", onnx.TensorProto.FLOAT, [1]),
        ],
        [
            onnx.numpy_helper.from_array(KERNEL, "kernel"),
            onnx.numpy_helper.from_array(HEAD, "head"),
            onnx.numpy_helper.from_array(np.array([2, 3]), "axes"),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def pooled(batch, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)):
    values = (batch.astype(np.float64) - mean) / std
    return np.maximum(values @ KERNEL[:, :, 0, 0].T, 0).mean(axis=(1, 2))


@pytest.fixture
def photo():
    return Image.fromarray(RNG.integers(0, 256, size=(30, 40, 3), dtype=np.uint8))


@pytest.fixture
def batch():
    return RNG.integers(0, 256, size=(5, SIZE, SIZE, 3), dtype=np.uint8)


IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
HALF = {"mean": (127.5, 127.5, 127.5), "std": (127.5, 127.5, 127.5)}


@pytest.mark.parametrize(("layout", "scaling"), [("nchw", IMAGENET), ("nhwc", HALF)])
@pytest.mark.parametrize("tensor", ["pooled", "mean", "map", "map_last", "penultimate"])
def test_any_tensor_pools_to_the_same_feature_with_the_layouts_scaling(tmp_path, batch, layout, scaling, tensor):
    backbone = open_backbone(f"onnx:{network(tmp_path / 'm.onnx', layout)}[tensor={tensor}]")
    assert backbone.dim == FILTERS
    np.testing.assert_allclose(backbone.embed(batch), pooled(batch, **scaling), rtol=1e-4)
    assert backbone.embed(batch).dtype == np.float32
    assert backbone.embed(batch[:0]).shape == (0, FILTERS)


def test_without_a_tensor_it_is_the_first_output(tmp_path, batch):
    backbone = open_backbone(f"onnx:{network(tmp_path / 'm.onnx')}")
    assert backbone.dim == CLASSES
    np.testing.assert_allclose(backbone.embed(batch).sum(axis=1), 1, rtol=1e-5)
    assert backbone.identity()["tensor"] == "probabilities"


def test_penultimate_sees_through_quantisation(tmp_path):
    backbone = open_backbone(f"onnx:{network(tmp_path / 'm.onnx', quantised=True)}[tensor=penultimate]")
    assert backbone.identity()["tensor"] == "pooled"


def test_an_unknown_tensor_is_answered_with_the_nearest(tmp_path):
    path = network(tmp_path / "m.onnx")
    with pytest.raises(BadInput, match=r"m\.onnx has no tensor 'poled'; did you mean 'pooled'\?"):
        open_backbone(f"onnx:{path}[tensor=poled]")
    with pytest.raises(BadInput, match=r"no tensor 'kernel'"):
        open_backbone(f"onnx:{path}[tensor=kernel]")
    with pytest.raises(BadInput, match=r"has 1 inputs|should take one square RGB image"):
        open_backbone(f"onnx:{path}[tensor=loose]")


@pytest.mark.parametrize("fixed", [1, 2])
def test_a_fixed_batch_gives_what_any_batch_gives(tmp_path, batch, fixed):
    free = open_backbone(f"onnx:{network(tmp_path / 'a.onnx')}[tensor=pooled]")
    bound = open_backbone(f"onnx:{network(tmp_path / 'b.onnx', batch=fixed)}[tensor=pooled]")
    np.testing.assert_allclose(bound.embed(batch), free.embed(batch), rtol=1e-5)


def test_uint8_inputs_are_not_scaled(tmp_path, batch):
    backbone = open_backbone(f"onnx:{network(tmp_path / 'm.onnx', kind='uint8')}[tensor=pooled]")
    np.testing.assert_allclose(backbone.embed(batch), pooled(batch), rtol=1e-4)


def test_bgr_exchanges_colours_and_defaults(tmp_path, batch):
    path = network(tmp_path / "m.onnx")
    backbone = open_backbone(f"onnx:{path}[tensor=pooled,channels=bgr]")
    exchanged = {name: values[::-1] for name, values in IMAGENET.items()}
    np.testing.assert_allclose(backbone.embed(batch), pooled(batch[..., ::-1], **exchanged), rtol=1e-4)


def test_the_json_beside_the_model_is_read_and_options_win(tmp_path, batch):
    path = network(tmp_path / "m.onnx")
    sidecar = path.with_suffix(".json")
    sidecar.write_text(json.dumps({"tensor": "penultimate", "mean": [1, 2, 3], "std": [4.5, 5, 6], "crop": "center"}))
    backbone = open_backbone(f"onnx:{path}[std=1|2|4,crop=warp]")
    np.testing.assert_allclose(backbone.embed(batch), pooled(batch, (1, 2, 3), (1, 2, 4)), rtol=1e-4)
    assert backbone.identity() == {
        "name": "onnx",
        "file": "m.onnx",
        "sha256": backbone.identity()["sha256"],
        "tensor": "pooled",
        "size": SIZE,
        "layout": "nchw",
        "channels": "rgb",
        "mean": [1, 2, 3],
        "std": [1, 2, 4],
        "crop": "warp",
        "resize": None,
    }
    sidecar.write_text('{"tensr": "pooled"}')
    with pytest.raises(BadInput, match=r"m\.json has an unknown field 'tensr'; did you mean 'tensor'\?"):
        open_backbone(f"onnx:{path}")
    sidecar.write_text("{")
    with pytest.raises(BadInput, match=r"m\.json is not JSON"):
        open_backbone(f"onnx:{path}")
    sidecar.write_text("[]")
    with pytest.raises(BadInput, match="a JSON object of fields, not a list"):
        open_backbone(f"onnx:{path}")


def test_crops(tmp_path, photo):
    path = network(tmp_path / "m.onnx")
    warp = open_backbone(f"onnx:{path}").prepare(photo)
    assert np.array_equal(warp, np.asarray(photo.resize((SIZE, SIZE), Image.Resampling.BILINEAR)))
    center = open_backbone(f"onnx:{path}[crop=center,resize=12]").prepare(photo)
    assert np.array_equal(center, np.asarray(photo.resize((16, 12), Image.Resampling.BILINEAR))[2:10, 4:12])
    assert center.dtype == np.uint8
    assert open_backbone(f"onnx:{path}[crop=center]").prepare(photo.resize((3, 500))).shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("size=9", "takes images of 8 x 8 pixels, not size=9"),
        ("mean=1|2", "mean takes three numbers"),
        ("std=1|0|1", "std must be above 0"),
        ("crop=center,resize=7", "resize=7 is smaller"),
        ("layout=nhwc", "should take one square RGB image"),
        ("tensr=x", "did you mean 'tensor'"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    with pytest.raises(BadInput, match=message):
        open_backbone(f"onnx:{network(tmp_path / 'm.onnx')}[{options},tensor=pooled]")


def test_an_open_size_must_be_said(tmp_path):
    path = network(tmp_path / "m.onnx", size="side")
    with pytest.raises(BadInput, match="images of any size; set the size"):
        open_backbone(f"onnx:{path}[tensor=pooled]")
    assert open_backbone(f"onnx:{path}[tensor=pooled,size=16]").identity()["size"] == 16


def test_weights_in_a_file_of_their_own_count_for_the_identity(tmp_path, batch):
    whole = network(tmp_path / "whole.onnx")
    path = tmp_path / "m.onnx"
    onnx.save(onnx.load(str(whole)), str(path), save_as_external_data=True, location="m.data", size_threshold=0)
    before = open_backbone(f"onnx:{path}[tensor=pooled]")
    expected = open_backbone(f"onnx:{whole}[tensor=pooled]").embed(batch)
    np.testing.assert_allclose(before.embed(batch), expected, rtol=1e-6)
    data = bytearray((tmp_path / "m.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "m.data").write_bytes(bytes(data))
    assert open_backbone(f"onnx:{path}[tensor=pooled]").identity()["sha256"] != before.identity()["sha256"]
    (tmp_path / "m.data").unlink()
    with pytest.raises(BadInput, match=r"m\.onnx cannot be read"):
        open_backbone(f"onnx:{path}[tensor=pooled]")


def test_files_that_are_no_model(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match=r"there is no ONNX model .*gone\.onnx"):
        open_backbone(f"onnx:{tmp_path / 'gone.onnx'}")
    with pytest.raises(BadInput, match="'onnx' needs a file; write onnx:FILE"):
        open_backbone("onnx")
    for content in (b"", b"<html>not found</html>"):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(BadInput, match=r"bad\.onnx cannot be read as an ONNX model"):
            open_backbone(f"onnx:{tmp_path / 'bad.onnx'}")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BadInput, match=r"pip install 'cran-bench\[onnx\]'"):
        open_backbone(f"onnx:{network(tmp_path / 'm.onnx')}[tensor=pooled]")


def test_unknown_backbones_are_answered_with_the_nearest():
    with pytest.raises(BadInput, match=r"there is no backbone 'onx'; did you mean 'onnx'\?"):
        open_backbone("onx:model.onnx")
    with pytest.raises(BadInput, match="'pixels' takes nothing after a colon"):
        open_backbone("pixels:large")


def test_a_list_of_data_beside_the_model_is_no_field(tmp_path):
    path = network(tmp_path / "m.onnx")
    before = open_backbone(f"onnx:{path}").identity()
    path.with_suffix(".json").write_text('{"trained_on": ["imagenet"]}')
    assert open_backbone(f"onnx:{path}").identity() == before
    assert open_backbone(f"onnx:{path}[trained_on=flickr30k|coco]").identity() == before
    path.with_suffix(".json").write_text('{"trained_on": "imagenet"}')
    with pytest.raises(BadInput, match=r"m\.json: trained_on takes names of data, such as imagenet"):
        open_backbone(f"onnx:{path}")


@pytest.mark.real
def test_the_real_efficientnet_needs_only_its_file():
    if "CRAN_BENCH_DATA" not in os.environ:
        pytest.skip("CRAN_BENCH_DATA does not name the folder of the real data")
    runtime = pytest.importorskip("onnxruntime")
    data = Path(os.environ["CRAN_BENCH_DATA"])
    path = data / "models/efficientnet_lite0_imagenet.onnx"
    backbone = open_backbone(f"onnx:{path}")
    assert backbone.identity() | {"sha256": ""} == {
        "name": "onnx",
        "file": path.name,
        "sha256": "",
        "tensor": "pooled",
        "size": 224,
        "layout": "nchw",
        "channels": "rgb",
        "mean": [127.0] * 3,
        "std": [128.0] * 3,
        "crop": "warp",
        "resize": None,
    }
    photos = [Image.open(path).convert("RGB") for path in sorted((data / "flickr8k/images").glob("*.jpg"))[:3]]
    batch = np.stack([backbone.prepare(photo) for photo in photos])
    planes = ((batch.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)
    (expected,) = runtime.InferenceSession(str(path)).run(["pooled"], {"image": planes})
    np.testing.assert_allclose(backbone.embed(batch), expected.reshape(3, -1), rtol=1e-3, atol=1e-4)


@pytest.mark.real
def test_the_real_mobilenet():
    if "CRAN_BENCH_DATA" not in os.environ:
        pytest.skip("CRAN_BENCH_DATA does not name the folder of the real data")
    data = Path(os.environ["CRAN_BENCH_DATA"])
    backbone = open_backbone(f"onnx:{data / 'models/mobilenet_v2_imagenet.onnx'}[tensor=penultimate]")
    assert backbone.identity()["tensor"].endswith("global_average_pooling2d_3/Mean_Squeeze__632:0")
    assert backbone.dim == 1280
    photos = [Image.open(path).convert("RGB") for path in sorted((data / "flickr8k/images").glob("*.jpg"))[:3]]
    batch = np.stack([backbone.prepare(photo) for photo in photos])
    features = backbone.embed(batch)
    np.testing.assert_allclose(features[1:2], backbone.embed(batch[1:2]), rtol=1e-3, atol=1e-4)
    assert 0.2 < features.mean() < 1.0
