"""torchvision's networks as backbones and detectors, with weights drawn at random: the tox environment `images`."""

import os
import pickle
import subprocess
import sys
import time
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cran_bench.errors import BadInput
from cran_bench.frontend.catalogue import open_backbone, open_proposer
from cran_bench.frontend.extraction import extract
from cran_bench.frontend.front_end import FrontEnd
from cran_bench.frontend.regions.faster_rcnn import FasterRCNN, PaperRegions
from cran_bench.registry import DATASETS

torchvision = pytest.importorskip("torchvision", reason="needs the extra images")
transforms = torchvision.transforms

CLASSES = 7
SMALL_DETECTOR = "fasterrcnn_mobilenet_v3_large_320_fpn"


def photo(seed=0, width=320, height=240):
    """Blocks of colour with noise."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (6, 8, 3)).repeat(height // 6, axis=0).repeat(width // 8, axis=1)
    return Image.fromarray((blocks * 0.8 + random.integers(0, 50, blocks.shape)).clip(0, 255).astype(np.uint8))


def generated(path, name, **options):
    """Random weights of a network, saved; the network itself."""
    torch.manual_seed(zlib.crc32(name.encode()))
    network = torchvision.models.get_model(name, weights=None, **options).eval()
    if path.suffix == ".safetensors":
        save_file(network.state_dict(), path)
    else:
        torch.save(network.state_dict(), path)
    return network


def as_input(crop):
    return transforms.functional.normalize(
        transforms.functional.to_tensor(crop), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )


@pytest.fixture(scope="module")
def vgg19(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vgg19.safetensors"
    return path, generated(path, "vgg19", num_classes=CLASSES)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    return path, generated(path, "resnet18", num_classes=CLASSES)


@pytest.fixture(scope="module")
def scenes():
    return DATASETS.configure("scenes[train=4,val=2,test=2]").build().load(Path())


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    return path, generated(path, SMALL_DETECTOR, weights_backbone=None, num_classes=5)


def test_vgg19_gives_the_rectified_fc7(vgg19):
    path, network = vgg19
    backbone = open_backbone(f"torchvision:vgg19[weights={path}]")
    assert backbone.dim == 4096
    pictures = [photo(seed) for seed in range(3)]
    found = backbone.embed(np.stack([backbone.prepare(picture) for picture in pictures]))
    crops = [transforms.CenterCrop(224)(picture.resize((256, 256), Image.Resampling.BILINEAR)) for picture in pictures]
    with torch.inference_mode():
        x = torch.flatten(network.avgpool(network.features(torch.stack([as_input(crop) for crop in crops]))), 1)
        before = network.classifier[:4](x).numpy()
    assert (before < 0).any()
    np.testing.assert_allclose(found, before.clip(0), rtol=1e-5, atol=1e-5 * before.max())
    plain = open_backbone(f"torchvision:vgg19[weights={path},relu=false]")
    np.testing.assert_allclose(
        plain.embed(plain.prepare(pictures[0])[None])[0], before[0], rtol=1e-5, atol=1e-5 * before.max()
    )
    assert plain.identity() != backbone.identity()


def test_ten_crops_are_averaged(resnet18):
    path, network = resnet18
    backbone = open_backbone(f"torchvision:resnet18[weights={path},crop=ten]")
    found = backbone.embed(np.stack([backbone.prepare(photo(seed)) for seed in range(2)]))
    network = torch.nn.Sequential(*list(network.children())[:-1], torch.nn.Flatten())
    for seed in range(2):
        crops = transforms.TenCrop(224)(photo(seed).resize((256, 256), Image.Resampling.BILINEAR))
        with torch.inference_mode():
            expected = network(torch.stack([as_input(crop) for crop in crops])).mean(dim=0).numpy()
        np.testing.assert_allclose(found[seed], expected, rtol=1e-4, atol=1e-5)


def test_any_classifier_and_any_node(resnet18, tmp_path):
    path, _ = resnet18
    picture = photo()
    last, averaged, pooled = (
        open_backbone(f"torchvision:resnet18[weights={path}{node}]") for node in ("", ",node=layer4", ",node=avgpool")
    )
    batch = last.prepare(picture)[None]
    expected = last.embed(batch)
    assert expected.shape == (1, 512)
    np.testing.assert_allclose(averaged.embed(batch), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(pooled.embed(batch), expected, rtol=1e-4, atol=1e-6)
    assert last.embed(batch[:0]).shape == (0, 512)
    generated(tmp_path / "vit.safetensors", "vit_b_16", num_classes=3)
    assert open_backbone(f"torchvision:vit_b_16[weights={tmp_path}/vit.safetensors]").dim == 768
    generated(tmp_path / "squeeze.pth", "squeezenet1_0")
    with pytest.raises(BadInput, match=r"last layer of squeezenet1_0 is a convolution: name the node .* node=NAME"):
        open_backbone(f"torchvision:squeezenet1_0[weights={tmp_path}/squeeze.pth]")
    assert open_backbone(f"torchvision:squeezenet1_0[weights={tmp_path}/squeeze.pth,node=features]").dim == 512


def test_features_do_not_depend_on_the_file_that_held_the_weights(resnet18, tmp_path):
    path, network = resnet18
    save_file(network.state_dict(), tmp_path / "other.safetensors")
    one = open_backbone(f"torchvision:resnet18[weights={path}]")
    other = open_backbone(f"torchvision:resnet18[weights={tmp_path}/other.safetensors]")
    assert one.identity() == other.identity()
    generated(tmp_path / "new.pth", "resnet18")
    assert open_backbone(f"torchvision:resnet18[weights={tmp_path}/new.pth]").identity() != one.identity()


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="the processor has no bfloat16")
@pytest.mark.parametrize("name", ["resnet18", "vgg19"])
def test_bfloat16_stays_close(request, name):
    path, _ = request.getfixturevalue(name)
    exact, quick = (open_backbone(f"torchvision:{name}[weights={path},precision={p}]") for p in ("float32", "bfloat16"))
    batch = np.stack([exact.prepare(photo(seed)) for seed in range(4)])
    a, b = exact.embed(batch), quick.embed(batch)
    assert 0 < np.linalg.norm(a - b) <= 1e-2 * np.linalg.norm(a)
    assert exact.identity()["precision"] == "float32" and quick.identity()["precision"] == "bfloat16"


def test_bfloat16_is_only_for_processors_that_have_it(resnet18, detector, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    for opened in (
        lambda: open_backbone(f"torchvision:resnet18[weights={resnet18[0]},precision=bfloat16,device=cpu]"),
        lambda: FasterRCNN(SMALL_DETECTOR, str(detector[0]), precision="bfloat16", device="cpu"),
    ):
        with pytest.raises(BadInput, match="no bfloat16 instructions: leave out precision=bfloat16"):
            opened()


class Code:
    def __reduce__(self):
        return os.system, ("echo this must not run",)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision", "needs the name of a network; write torchvision:vgg19"),
        ("torchvision:vgg91", "no classification network 'vgg91'; did you mean 'vgg19'"),
        ("torchvision:fasterrcnn_resnet50_fpn_v2", "no classification network"),
        ("torchvision:resnet18[weights=IMAGENET1K_V3]", "no file IMAGENET1K_V3, .* known: .*IMAGENET1K_V1"),
        ("torchvision:resnet18[weights=GONE.pth]", "there is no file .*GONE.pth"),
        ("torchvision:resnet18[weights=RESNET.pth,node=layer5]", "no node 'layer5'; did you mean 'layer"),
        ("torchvision:resnet18[weights=RESNET.pth,node=layer4,relu=false]", "leave relu out"),
        ("torchvision:resnet18[weights=RESNET.pth,relu=false]", "no ReLU directly precedes the last layer of resnet18"),
        ("torchvision:resnet18[weights=RESNET.pth,node=fc.weight]", "no node 'fc.weight'; known: avgpool"),
        ("torchvision:resnet18[weights=PAGE.pth]", "PAGE.pth is not a state dict .*download it again"),
        ("torchvision:resnet18[weights=SCALAR.pth]", "a network other than resnet18"),
        ("torchvision:resnet18[weights=WEIGHTS.bin]", "a file ending in .safetensors, .pth, .pt, not WEIGHTS.bin"),
        ("torchvision:resnet34[weights=RESNET.pth]", "a network other than resnet34 .it lacks layer1.2.bn1"),
        ("torchvision:resnet50[weights=RESNET.pth]", "a network other than resnet50"),
        ("torchvision:resnet18[weights=CUT.pth]", "cannot be read .*download it again"),
        ("torchvision:resnet18[weights=CUT.safetensors]", "cannot be read .*download it again"),
        ("torchvision:resnet18[weights=CODE.pth]", "holds more than tensors, .* and is not loaded"),
        ("torchvision:resnet18[weights=OLD.pth]", "holds more than tensors, .* and is not loaded"),
        ("torchvision:resnet18[weights=LIST.pth]", "is not a state dict"),
        ("torchvision:resnet18[weights=RESNET.pth,crop=five]", "field 'crop' is 'five'"),
    ],
)
def test_bad_backbones(resnet18, tmp_path, capfd, spec, message):
    path, network = resnet18
    (tmp_path / "RESNET.pth").symlink_to(path)
    (tmp_path / "CUT.pth").write_bytes(path.read_bytes()[:100_000])
    save_file(network.state_dict(), tmp_path / "CUT.safetensors")
    whole = (tmp_path / "CUT.safetensors").read_bytes()
    (tmp_path / "CUT.safetensors").write_bytes(whole[:100_000])
    torch.save({"weight": torch.zeros(2), "code": Code()}, tmp_path / "CODE.pth")
    (tmp_path / "OLD.pth").write_bytes(pickle.dumps(Code()))
    torch.save([torch.zeros(2)], tmp_path / "LIST.pth")
    torch.save({"fc.weight": torch.tensor(1.0)}, tmp_path / "SCALAR.pth")
    (tmp_path / "PAGE.pth").write_text("<html>please log in</html>")
    with pytest.raises(BadInput, match=message):
        open_backbone(spec.replace("weights=", f"weights={tmp_path}/") if "." in spec else spec)
    assert "this must not run" not in capfd.readouterr().out


def test_a_rectifier_that_is_used_elsewhere_too_is_left_alone(tmp_path):
    generated(tmp_path / "bottleneck.pth", "resnet50", num_classes=CLASSES)
    with pytest.raises(BadInput, match="no ReLU directly precedes the last layer of resnet50"):
        open_backbone(f"torchvision:resnet50[weights={tmp_path}/bottleneck.pth,relu=false]")


def test_what_a_network_cannot_take_is_said(tmp_path):
    generated(tmp_path / "large.pth", "vit_b_32", image_size=384, num_classes=3)
    with pytest.raises(BadInput, match="a network other than vit_b_32"):
        open_backbone(f"torchvision:vit_b_32[weights={tmp_path}/large.pth]")
    generated(tmp_path / "small.pth", "shufflenet_v2_x0_5", num_classes=3)
    with pytest.raises(BadInput, match=r"not a tensor|no node"):
        open_backbone(f"torchvision:shufflenet_v2_x0_5[weights={tmp_path}/small.pth,node=stage2.0.size]")


def test_weights_that_cannot_be_downloaded(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(BadInput, match=r"DEFAULT of resnet18 cannot be downloaded .*resnet18-\w+\.pth yourself"):
        open_backbone("torchvision:resnet18")


def test_a_detector_gives_five_regions(detector):
    path, _ = detector
    proposer = open_proposer(f"torchvision:{SMALL_DETECTOR}[weights={path}]", None)
    pictures = [photo(0), photo(1), photo(2, 240, 320), photo(3, 160, 120), photo(4)]
    found = proposer.propose(range(5), pictures)
    for proposals in found:
        assert proposals.boxes.shape == (5, 4) and proposals.features is None
        assert all(a >= b for a, b in pairwise(proposals.scores))
        assert proposals.boxes.min() >= 0 and proposals.boxes.max() <= 1
        assert ((proposals.boxes[:, 2:] - proposals.boxes[:, :2]) > 0).all()
        assert proposals.classes is None  # of five, which are not those of MS-COCO
    for picture, proposals in zip(pictures, found, strict=True):
        (alone,) = proposer.propose([0], [picture])
        np.testing.assert_allclose(alone.boxes, proposals.boxes, atol=1e-4)


def test_the_box_head_is_that_of_the_boxes(detector):
    path, network = detector
    spec = f"torchvision:{SMALL_DETECTOR}[weights={path},feature=box_head]"
    proposer = open_proposer(spec, None)
    assert proposer.features_dim == 1024
    (found,) = proposer.propose([0], [photo()])
    assert found.features.shape == (6, 1024)
    with torch.inference_mode():
        batch, _ = network.transform([transforms.functional.to_tensor(photo())])
        maps = network.backbone(batch.tensors)
        ((height, width),) = batch.image_sizes
        boxes = torch.tensor(np.concatenate([found.boxes, [[0, 0, 1, 1]]]) * [width, height, width, height]).float()
        heads = network.roi_heads
        expected = heads.box_head(heads.box_roi_pool(maps, [boxes], batch.image_sizes)).numpy()
    np.testing.assert_allclose(found.features, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_regions_reach_the_arrays(detector, resnet18, scenes, tmp_path):
    name = SMALL_DETECTOR
    images = f"torchvision:resnet18[weights={resnet18[0]}]"
    for feature, dim in (("crop", 512), ("box_head", 1024)):
        regions = f"torchvision:{name}[weights={detector[0]},feature={feature}]"
        opened = FrontEnd.open(images, regions, scenes)
        found = extract(opened.plan(scenes, tmp_path / feature))
        n = len(scenes.images.ids)
        assert found.globals.shape == (n, 512) and found.regions.shape == (n, 5, dim)
        assert found.mask.all() and np.isfinite(found.regions).all()
        assert (found.regions.std(axis=(0, 1)) > 0).any()
    image = scenes.images.read(3)
    x0, y0, x1, y1 = (found.boxes[3, 0] * [image.width, image.height, image.width, image.height]).tolist()
    crop = image.crop((int(x0), int(y0), round(x1), round(y1)))
    backbone = opened.backbone
    crops = extract(FrontEnd.open(images, regions.replace("box_head", "crop"), scenes).plan(scenes, tmp_path / "crop"))
    np.testing.assert_allclose(
        crops.regions[3, 0], backbone.embed(backbone.prepare(crop)[None])[0], rtol=1e-3, atol=1e-4
    )


def test_the_papers_regions(tmp_path, scenes):
    generated(tmp_path / "detector.safetensors", "fasterrcnn_resnet50_fpn_v2", weights_backbone=None, num_classes=3)
    generated(tmp_path / "vgg16.safetensors", "vgg16", num_classes=2)
    opened = open_proposer(f"paper[detector={tmp_path}/detector.safetensors,vgg16={tmp_path}/vgg16.safetensors]", None)
    assert isinstance(opened, PaperRegions) and opened.crops_with.dim == 4096
    (found,) = opened.propose([0], [photo()])
    assert found.boxes.shape == (5, 4)
    assert opened.identity()["boxes"]["model"] == "fasterrcnn_resnet50_fpn_v2"


def test_bad_regions(resnet18, detector):
    for spec, message in (
        ("torchvision:fasterrcnn", "no detection network 'fasterrcnn'; did you mean 'fasterrcnn_"),
        ("torchvision", "write torchvision:fasterrcnn_resnet50_fpn_v2"),
        (f"torchvision:ssdlite320_mobilenet_v3_large[weights={resnet18[0]}]", "a network other than ssdlite320"),
        (f"torchvision:fasterrcnn_resnet50_fpn_v2[weights={resnet18[0]}]", "a network other than fasterrcnn_resnet50"),
        (f"torchvision:{SMALL_DETECTOR}[weights={detector[0]},iou=0]", "iou must be above 0"),
        (f"torchvision:{SMALL_DETECTOR}[weights={detector[0]},threshold=1]", "threshold must be"),
        ("paper:3", "'paper' takes nothing after a colon"),
    ):
        with pytest.raises(BadInput, match=message):
            open_proposer(spec, None)


def test_selective_search_finds_what_stands_out():
    pytest.importorskip("cv2.ximgproc", reason="needs the extra images")
    picture = Image.new("RGB", (400, 300), (240, 240, 240))
    shapes = {(40, 60, 160, 200): (220, 30, 30), (220, 120, 380, 260): (30, 60, 220)}
    for box, colour in shapes.items():
        picture.paste(colour, box)
    proposer = open_proposer("selective_search", None)
    assert proposer.count == 10
    (found,) = proposer.propose([0], [picture])
    again = proposer.propose([0, 1], [photo(), picture])[1]
    assert np.array_equal(found.boxes, again.boxes)
    assert len(found.boxes) <= 10 and all(a >= b for a, b in pairwise(found.scores))
    for box in shapes:
        nearest = min(np.abs(found.boxes * [400, 300, 400, 300] - box).max(axis=1))
        assert nearest < 8
    for wrong in ("regions=1", "iou=1", "least=0"):
        with pytest.raises(BadInput, match=wrong.split("=")[0]):
            open_proposer(f"selective_search[{wrong}]", None)


def test_a_killed_run_ends_with_the_same_bytes(resnet18, detector, tmp_path):
    def prepare(cache):
        return [
            *(
                sys.executable,
                "-c",
                "from cran_bench.cli import main; main()",
                "prepare",
                "scenes[train=120,val=40,test=40]",
            ),
            *("--cache", str(cache)),
            *("--backbone", f"torchvision:resnet18[weights={resnet18[0]}]"),
            *("--regions", f"torchvision:{SMALL_DETECTOR}[weights={detector[0]}]"),
        ]

    whole = subprocess.run(prepare(tmp_path / "whole"), capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    with subprocess.Popen(prepare(tmp_path / "killed"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as killed:
        try:
            while killed.poll() is None and not list((tmp_path / "killed").rglob("journal.json")):
                time.sleep(0.01)
        finally:
            killed.kill()
    assert not list((tmp_path / "killed").rglob("manifest.json")), "it ended before it was killed"
    resumed = subprocess.run(prepare(tmp_path / "killed"), capture_output=True, text=True)
    assert resumed.returncode == 0 and "shards are already done" in resumed.stderr, resumed.stderr
    arrays = {path.name: path.read_bytes() for path in (tmp_path / "whole").rglob("*.npy")}
    assert len(arrays) == 5
    assert arrays == {path.name: path.read_bytes() for path in (tmp_path / "killed").rglob("*.npy")}
