"""Extraction of VGG-19 features compared with a bare forward loop.

`tox -e images -- benchmarks/bench_extraction.py -s`.  The loop runs on tensors that are already decoded, cropped and
scaled, so it omits reading JPEGs, resizing and writing features.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cran_bench.dataset import Collection, FolderImages
from cran_bench.frontend.extraction import extract
from cran_bench.frontend.front_end import BATCH, FrontEnd
from cran_bench.machine.environment import pick_device

torchvision = pytest.importorskip("torchvision", reason="needs the extra images")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """JPEGs of Flickr's size; more of them on a GPU."""
    folder = tmp_path_factory.mktemp("photographs")
    count = 4096 if torch.cuda.is_available() else 192
    for k in range(count):
        few = np.random.default_rng(k).integers(0, 256, (38, 50, 3), dtype=np.uint8)
        Image.fromarray(few).resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{k}.jpg", quality=90)
    names = [f"{k}.jpg" for k in range(count)]
    splits = {"train": np.arange(count - 2), "val": np.array([count - 2]), "test": np.array([count - 1])}
    return Collection("photographs", FolderImages(folder, names), ["noise"] * count, np.arange(count), splits)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path: Path = tmp_path_factory.mktemp("weights") / "vgg19.pth"
    torch.manual_seed(0)
    torch.save(torchvision.models.vgg19(weights=None).state_dict(), path)
    return path


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_extraction_against_a_bare_loop(benchmark, photographs, weights, tmp_path, precision):
    if precision == "bfloat16" and not (torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        pytest.skip("the processor has no bfloat16")
    device, n = pick_device("auto"), len(photographs.images.ids)
    spec = f"torchvision:vgg19[weights={weights},precision={precision}]"
    front_end = FrontEnd.open(spec, "none", photographs)
    network = torchvision.models.vgg19(weights=None)
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.classifier = network.classifier[:-1]
    network = network.to(device).eval()
    tensors = torch.randn(2 * BATCH, 3, 224, 224, device=device)

    @torch.inference_mode()
    def loop() -> float:
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            for a in range(0, n, BATCH):
                network(tensors[: min(BATCH, n - a)]).float().cpu()
        return n / (time.perf_counter() - start)

    def extraction(round: int) -> float:
        start = time.perf_counter()
        extract(front_end.plan(photographs, tmp_path / str(round)))
        return n / (time.perf_counter() - start)

    def medians() -> list[float]:
        loop()
        rates = [(extraction(k), loop()) for k in range(3)]
        return [sorted(column)[1] for column in zip(*rates, strict=True)]

    ours, bare = benchmark.pedantic(medians, rounds=1)
    benchmark.extra_info |= {"extraction_per_s": ours, "bare_per_s": bare, "ratio": ours / bare}
    print(f"\nVGG-19, {precision}: {ours:.2f} images/s, bare loop {bare:.2f}: {ours / bare:.1%}")  # noqa: T201
