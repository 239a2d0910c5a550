"""Regions: the data's own boxes, the grid, and the decoding of NanoDet and YOLOX against the obvious loops."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cran_bench.dataset import Collection, FolderImages
from cran_bench.errors import BadInput
from cran_bench.frontend.catalogue import open_backbone, open_proposer
from cran_bench.frontend.front_end import FrontEnd
from cran_bench.frontend.regions.coco import CLASSES, PLACES
from cran_bench.frontend.regions.faster_rcnn import FasterRCNN
from cran_bench.frontend.regions.nanodet import NanoDet
from cran_bench.frontend.regions.suppression import suppress
from cran_bench.frontend.regions.yolox import YOLOX

PHOTO = Image.new("RGB", (64, 48), (90, 120, 30))


def collection(boxes=None):
    return Collection(
        name="three",
        images=FolderImages(Path("nowhere"), ["a", "b", "c"]),
        captions=["a", "b", "c"],
        image_of=np.arange(3),
        splits={"train": np.array([0]), "val": np.array([1]), "test": np.array([2])},
        boxes=boxes,
    )


def test_none_and_unknown_names():
    assert open_proposer("none", collection()) is None
    with pytest.raises(BadInput, match=r"there is no region proposer 'gird'; did you mean 'grid'\?"):
        open_proposer("gird", collection())
    for text in ("none[a=1]", "boxes[a=1]"):
        with pytest.raises(BadInput, match="has no fields"):
            open_proposer(text, collection())
    with pytest.raises(BadInput, match="takes nothing after a colon"):
        open_proposer("grid:5", collection())
    with pytest.raises(BadInput, match="'nanodet' needs a file"):
        open_proposer("nanodet", collection())
    with pytest.raises(BadInput, match="there is no ONNX model"):
        open_proposer("nanodet:gone.onnx", collection())


def test_boxes_are_the_datas_own():
    own = np.random.default_rng(0).random((3, 5, 4)).astype(np.float32)
    proposer = open_proposer("boxes", collection(own))
    proposals = proposer.propose([1], [PHOTO])[0]
    assert np.array_equal(proposals.boxes, own[1])
    assert proposals.scores.tolist() == [1] * 5
    assert proposer.identity() != open_proposer("boxes", collection(own / 2)).identity()
    with pytest.raises(BadInput, match="three comes without boxes; choose grid"):
        open_proposer("boxes", collection())


def test_grid_is_the_centre_and_the_corners():
    proposals = open_proposer("grid[side=0.5]", collection()).propose([0], [PHOTO])[0]
    assert proposals.boxes.tolist() == [
        [0.25, 0.25, 0.75, 0.75],
        [0, 0, 0.5, 0.5],
        [0.5, 0, 1, 0.5],
        [0, 0.5, 0.5, 1],
        [0.5, 0.5, 1, 1],
    ]
    default = open_proposer("grid", collection())
    assert default.propose([0], [PHOTO])[0].boxes.max() == 1
    assert default.identity() == {"name": "grid", "side": 0.6}
    with pytest.raises(BadInput, match="side must be above 0"):
        open_proposer("grid[side=0]", collection())


SIZE, STRIDES = 32, (8, 16)


def maps(seed=0, classes=4):
    """Scores and distributions of two strides, as a NanoDet of `classes` classes gives them."""
    rng = np.random.default_rng(seed)
    cells = [(SIZE // stride) ** 2 for stride in STRIDES]
    scores = [rng.random((1, n, classes)).astype(np.float32) for n in cells]
    sides = [rng.normal(size=(1, n, 32)).astype(np.float32) * 3 for n in cells]
    return scores, sides


def test_decode_is_the_expected_distance_from_each_cells_centre():
    scores, sides = maps()
    boxes, best, classes = NanoDet.decode([sides[1], *scores, sides[0]], SIZE)
    expected = {}
    for stride, score, side in zip(STRIDES, scores, sides, strict=True):
        grid = SIZE // stride
        for cell in range(grid * grid):
            distances = []
            for k in range(4):
                weights = np.exp(side[0, cell, 8 * k : 8 * k + 8].astype(float))
                distances.append(stride * sum(i * w for i, w in enumerate(weights)) / weights.sum())
            x, y = (cell % grid + 0.5) * stride, (cell // grid + 0.5) * stride
            box = [x - distances[0], y - distances[1], x + distances[2], y + distances[3]]
            expected[float(score[0, cell].max())] = (int(score[0, cell].argmax()), box)
    assert len(boxes) == len(expected) == 20
    for box, score, label in zip(boxes, best, classes, strict=True):
        assert expected[float(score)][0] == label
        np.testing.assert_allclose(box, expected[float(score)][1], rtol=1e-4, atol=1e-4)


def test_decode_refuses_other_shapes():
    scores, sides = maps()
    for outputs in (
        scores,
        sides,
        [*scores, sides[0]],
        [scores[0][0], sides[0][0]],
        [scores[0][:, :7], sides[0][:, :7]],
    ):
        with pytest.raises(ValueError, match="expected scores"):
            NanoDet.decode(outputs, SIZE)


def overlap(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("most", [5, 1000])
def test_suppression_is_the_greedy_loop(seed, most):
    rng = np.random.default_rng(seed)
    corners = rng.random((60, 2))
    boxes = np.concatenate([corners, corners + 0.1 + 0.5 * rng.random((60, 2))], axis=1).astype(np.float32)
    scores, groups = rng.random(60).astype(np.float32), rng.integers(0, 2, 60)
    kept = []
    for k in np.argsort(-scores):
        if all(groups[k] != groups[j] or overlap(boxes[k], boxes[j]) <= 0.4 for j in kept) and len(kept) < most:
            kept.append(k)
    assert suppress(boxes, scores, groups, 0.4, most).tolist() == kept
    assert len(suppress(boxes[:0], scores[:0], groups[:0], 0.4, most)) == 0


def constant_network(path, arrays, size):
    """A network that sees the same objects in every image."""
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    constants = {f"array{k}": array for k, array in enumerate(arrays)}
    make, value, real = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes = [
        make("ReduceMean", ["image"], ["mean"], keepdims=0),
        make("Sub", ["mean", "mean"], ["zero"]),
        *(make("Add", [name, "zero"], [name + "_out"]) for name in constants),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "detector",
        [value("image", real, [1, 3, size, size])],
        [value(name + "_out", real, list(array.shape)) for name, array in constants.items()],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [onnx.helper.make_opsetid("", 13)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


@pytest.fixture
def detector(tmp_path):
    scores, sides = maps()
    return constant_network(tmp_path / "detector.onnx", [*scores, *sides], SIZE)


def test_nanodet_gives_the_best_five_as_fractions(detector):
    proposer = open_proposer(f"nanodet:{detector}[iou=0.4]", collection())
    proposals = proposer.propose([0], [PHOTO])[0]
    scores, sides = maps()
    boxes, best, classes = NanoDet.decode([*scores, *sides], SIZE)
    kept = suppress(boxes.clip(0, SIZE), best, classes, 0.4, 5)
    np.testing.assert_allclose(proposals.boxes, boxes[kept].clip(0, SIZE) / SIZE, rtol=1e-5)
    np.testing.assert_allclose(proposals.scores, best[kept])
    assert proposals.boxes.dtype == proposals.scores.dtype == np.float32
    assert proposer.identity() == {
        "name": "nanodet",
        "file": "detector.onnx",
        "sha256": proposer.identity()["sha256"],
        "iou": 0.4,
        "threshold": 0.0,
        "size": SIZE,
    }


def test_a_threshold_may_leave_fewer_or_none(detector):
    top = open_proposer(f"nanodet:{detector}", collection()).propose([0], [PHOTO])[0].scores
    few = open_proposer(f"nanodet:{detector}[threshold={top[2]:.7f}]", collection()).propose([0], [PHOTO])[0]
    assert 1 <= len(few.boxes) <= 3
    assert open_proposer(f"nanodet:{detector}[threshold=0.9999]", collection()).propose([0], [PHOTO])[
        0
    ].boxes.shape == (0, 4)
    for wrong in ("iou=0", "threshold=1", "size=64"):
        with pytest.raises(BadInput, match=wrong.split("=")[0]):
            open_proposer(f"nanodet:{detector}[{wrong}]", collection())


@pytest.mark.parametrize("name", ["nanodet", "yolox"])
def test_a_detector_of_mscoco_names_the_classes_of_its_boxes(tmp_path, name):
    if name == "nanodet":
        scores, sides = maps(classes=len(CLASSES))
        arrays, size = [*scores, *sides], SIZE
        boxes, best, classes = NanoDet.decode(arrays, size)
    else:
        arrays, size = [rows(classes=len(CLASSES))], YOLO[0]
        boxes, best, classes = YOLOX.decode(arrays, size)
    proposer = open_proposer(f"{name}:{constant_network(tmp_path / 'eighty.onnx', arrays, size)}", collection())
    (proposals,) = proposer.propose([0], [PHOTO.resize((size, size))])
    usable = np.flatnonzero(np.all(boxes.clip(0, size)[:, 2:] - boxes.clip(0, size)[:, :2] >= 1, axis=1))
    kept = usable[suppress(boxes[usable].clip(0, size), best[usable], classes[usable], 0.5, 5)]
    assert proposer.has_classes and proposals.classes.dtype == np.int16
    assert proposals.classes.tolist() == classes[kept].tolist() and len(set(proposals.classes.tolist())) > 1
    front_end = FrontEnd("pixels", "made", open_backbone("pixels"), proposer)
    arrays = front_end.features_of(PHOTO.resize((size, size)))
    assert arrays["classes"].tolist() == [proposals.classes.tolist()] and arrays["classes"].dtype == np.int16


def test_a_detector_of_other_classes_names_none(detector):
    proposer = open_proposer(f"nanodet:{detector}", collection())
    assert not proposer.has_classes and proposer.propose([0], [PHOTO])[0].classes is None
    assert "classes" not in FrontEnd("pixels", "made", open_backbone("pixels"), proposer).features_of(PHOTO)


def test_category_ids_have_the_places_of_their_classes():
    names = {1: "person", 11: "fire hydrant", 13: "stop sign", 25: "giraffe", 27: "backpack", 90: "toothbrush"}
    assert {number: CLASSES[PLACES[number]] for number in names} == names
    assert sorted(PLACES.tolist()) == [-1] * 11 + [*range(80)]


def test_a_faster_rcnn_names_the_classes_of_its_boxes():
    """A network that detects the same four objects in every image; the second has no area, the last no class."""
    found = {
        "boxes": torch.tensor([[0, 0, 10, 10], [0, 0, 0.5, 9], [2, 2, 8, 8], [1, 1, 9, 9]]),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.6]),
        "labels": torch.tensor([1, 2, 18, 12]),
    }
    proposer = FasterRCNN.__new__(FasterRCNN)
    proposer.precision, proposer.feature, proposer.has_classes = "float32", "crop", True
    proposer._device = torch.device("cpu")
    proposer._network = SimpleNamespace(
        transform=lambda images: (SimpleNamespace(tensors=torch.stack(images), image_sizes=[(48, 64)] * 2), None),
        backbone=lambda tensors: tensors,
        rpn=lambda batch, maps: ([None, None], None),
        roi_heads=lambda maps, proposals, sizes: ([found, found], None),
    )
    for proposals in proposer.propose([0, 1], [PHOTO, PHOTO]):
        np.testing.assert_allclose(proposals.scores, [0.9, 0.7, 0.6])
        assert proposals.classes.tolist() == [CLASSES.index("person"), CLASSES.index("dog"), -1]


@pytest.mark.real
def test_the_real_nanodet():
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    if "CRAN_BENCH_DATA" not in os.environ:
        pytest.skip("CRAN_BENCH_DATA does not name the folder of the real data")
    data = Path(os.environ["CRAN_BENCH_DATA"])
    proposer = open_proposer(f"nanodet:{data / 'models/nanodet_m_coco.onnx'}", collection())
    photos = sorted((data / "flickr8k/images").glob("*.jpg"))[100:4000:650]
    found = [proposer.propose([0], [Image.open(path).convert("RGB")])[0] for path in photos]
    assert all(len(p.boxes) == 5 and np.all(np.diff(p.scores) <= 0) for p in found)
    # The skier of the third photograph, as drawn and looked at.
    np.testing.assert_allclose(found[2].boxes[0], [0.695, 0.174, 0.935, 0.825], atol=0.02)
    assert CLASSES[found[2].classes[0]] == "person"
    with pytest.raises(BadInput, match="is not a NanoDet-m"):
        open_proposer(f"nanodet:{data / 'models/mobilenet_v2_imagenet.onnx'}", collection())


YOLO = 64, (8, 16, 32), 64 + 16 + 4  # side, strides and number of cells


def rows(seed=0, classes=3, cells=YOLO[2]):
    """An output of a YOLOX: offsets, log sizes, objectness and scores of the classes."""
    rng = np.random.default_rng(seed)
    parts = rng.random((cells, 2)), rng.normal(0.5, 0.7, (cells, 2)), rng.random((cells, 1 + classes))
    return np.concatenate(parts, axis=1)[None].astype(np.float32)


def decoded(output, side=YOLO[0]):
    """Boxes in pixels, scores and classes, cell by cell."""
    found, cell = [], 0
    for stride in YOLO[1]:
        for y in range(side // stride):
            for x in range(side // stride):
                dx, dy, w, h, objectness, *scores = map(float, output[0, cell])
                centre_x, centre_y = (x + dx) * stride, (y + dy) * stride
                width, height = np.exp(w) * stride, np.exp(h) * stride
                box = [centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2]
                found.append((box, objectness * max(scores), scores.index(max(scores))))
                cell += 1
    return found


def greedy(found, extent, iou, threshold=0.0):
    """The five best boxes of `decoded` within an image of width and height `extent` in pixels."""
    clipped = [
        ([min(max(v, 0), extent[k % 2]) for k, v in enumerate(box)], score, label)
        for box, score, label in sorted(found, key=lambda one: -one[1])
    ]
    kept = []
    for box, score, label in clipped:
        if box[2] - box[0] < 1 or box[3] - box[1] < 1 or score < threshold:
            continue
        if all(label != other[2] or overlap(box, other[0]) <= iou for other in kept) and len(kept) < 5:
            kept.append((box, score, label))
    return kept


def test_yolox_decodes_every_cell_as_the_loop_does():
    found = decoded(rows())
    boxes, scores, classes = YOLOX.decode([rows()], YOLO[0])
    np.testing.assert_allclose(boxes, [box for box, _, _ in found], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(scores, [score for _, score, _ in found], rtol=1e-6)
    assert classes.tolist() == [label for _, _, label in found]
    assert boxes.dtype == scores.dtype == np.float32


@pytest.mark.parametrize(
    ("outputs", "size", "message"),
    [
        ([rows(), rows()], 64, "expected one output"),
        ([rows()[0]], 64, "expected one output"),
        ([rows()[..., :5]], 64, "expected one output"),
        ([rows()[:, :-1]], 64, "expected one output"),
        ([rows()], 96, r"expected one output \(1, 189, 5 \+ classes\) for 96 x 96"),
        ([rows(cells=100)], 72, "a multiple of 32|expected one output"),
        ([rows() * 2], 64, "scores below 0 or above 1"),
        ([rows() + np.array([0, 0, 50, 50, 0, 0, 0, 0], np.float32)], 64, "decoded already"),
    ],
)
def test_yolox_refuses_other_outputs(outputs, size, message):
    with pytest.raises(ValueError, match=message):
        YOLOX.decode(outputs, size)


@pytest.fixture
def yolox(tmp_path):
    return constant_network(tmp_path / "yolox.onnx", [rows()], YOLO[0])


@pytest.mark.parametrize(("size", "extent"), [((64, 48), (64, 48)), ((30, 60), (32, 64)), ((300, 300), (64, 64))])
def test_yolox_gives_the_best_five_within_the_image(yolox, size, extent):
    proposer = open_proposer(f"yolox:{yolox}[iou=0.4]", collection())
    (proposals,) = proposer.propose([0], [PHOTO.resize(size)])
    kept = greedy(decoded(rows()), extent, 0.4)
    np.testing.assert_allclose(proposals.boxes, np.array([box for box, _, _ in kept]) / (extent * 2), rtol=1e-4)
    np.testing.assert_allclose(proposals.scores, [score for _, score, _ in kept], rtol=1e-6)
    assert proposals.boxes.dtype == proposals.scores.dtype == np.float32
    assert proposals.boxes.max() <= 1
    few = greedy(decoded(rows()), extent, 0.4, threshold=kept[2][1] - 1e-6)
    proposer = open_proposer(f"yolox:{yolox}[iou=0.4,threshold={kept[2][1] - 1e-6:.7f}]", collection())
    assert len(proposer.propose([0], [PHOTO.resize(size)])[0].boxes) == len(few) == 3


def test_the_input_of_yolox_is_bgr_on_grey(yolox):
    proposer = open_proposer(f"yolox:{yolox}", collection())
    pixels, extent = proposer.prepare(PHOTO, 64)
    assert pixels.shape == (64, 64, 3) and pixels.dtype == np.float32 and extent == (64, 48)
    assert np.array_equal(pixels[:48], np.broadcast_to([30, 120, 90], (48, 64, 3)))
    assert (pixels[48:] == 114).all()
    assert proposer.prepare(Image.new("RGB", (1000, 1)), 64)[1] == (64, 1)
    assert proposer.identity() == {
        "name": "yolox",
        "file": "yolox.onnx",
        "sha256": proposer.identity()["sha256"],
        "iou": 0.5,
        "threshold": 0.0,
        "size": 64,
    }


def test_wrong_options_and_files_of_yolox(yolox, detector):
    for wrong in ("iou=1.5", "threshold=-0.1", "size=416", "iuo=0.5"):
        with pytest.raises(BadInput, match=wrong.split("=")[0]):
            open_proposer(f"yolox:{yolox}[{wrong}]", collection())
    with pytest.raises(BadInput, match=r"detector\.onnx is not a YOLOX: expected one output .*, got \[\(1, 16, 4\)"):
        open_proposer(f"yolox:{detector}", collection())
    with pytest.raises(BadInput, match=r"yolox\.onnx is not a NanoDet-m: .*, got \[\(1, 84, 8\)\]"):
        open_proposer(f"nanodet:{yolox}", collection())
    with pytest.raises(BadInput, match="'yolox' needs a file"):
        open_proposer("yolox", collection())
    with pytest.raises(BadInput, match=r"there is no region proposer 'yolo'; did you mean 'yolox'\?"):
        open_proposer("yolo:a.onnx", collection())


@pytest.mark.real
def test_the_real_yolox():
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    if "CRAN_BENCH_DATA" not in os.environ:
        pytest.skip("CRAN_BENCH_DATA does not name the folder of the real data")
    data = Path(os.environ["CRAN_BENCH_DATA"])
    proposer = open_proposer(f"yolox:{data / 'models/yolox_nano_coco.onnx'}", collection())
    photos = sorted((data / "flickr8k/images").glob("*.jpg"))[100:4000:650]
    images = [Image.open(path).convert("RGB") for path in photos]
    images[1] = images[1].crop((0, 40, 224, 180))
    found = proposer.propose(range(len(images)), images)
    for image, proposals in zip(images[:2], found, strict=False):
        pixels, extent = proposer.prepare(image, 416)
        (output,) = proposer._network.run(pixels[None])
        kept = greedy(decoded(output, 416), extent, 0.5)
        expected = np.array([box for box, _, _ in kept]) / (extent * 2)
        np.testing.assert_allclose(proposals.boxes, expected, atol=1e-5)
        np.testing.assert_allclose(proposals.scores, [score for _, score, _ in kept], rtol=1e-5)
    assert all(len(p.boxes) == 5 and np.all(np.diff(p.scores) <= 0) for p in found)
