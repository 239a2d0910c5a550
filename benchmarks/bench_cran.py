"""CRAN at the paper's size: time and memory of a training step, and time saved by the text encoder's shortcuts.

`tox -e benchmarks -- -k cran`.  A step has 40 images with 4096-d features and five regions, and 40 captions as
long as Flickr's.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from cran_bench.frontend.text.characters import ALPHABET
from cran_bench.methods.cran.model import LENGTH, CharacterEncoder
from cran_bench.methods.cran.recipe import EncoderOptions, Recipe

# a separate process, for the peak memory of the step alone: three levels, forward, backward and an RMSprop update.
FULL_STEP = """
import resource, time, torch
from cran_bench import MultiLevel
from cran_bench.toolbox.losses import margin_loss
from cran_bench.methods.cran.model import LENGTH, Network, Views, only
from cran_bench.methods.cran.recipe import LEVELS, PAPER, Recipe
from cran_bench.specs import build
torch.manual_seed(0)
recipe = build(Recipe, PAPER, "cran")
network = Network(recipe, LEVELS, 4096, 4096)
texts = [[*level.encoder.parameters(), *level.text.parameters()] for level in network.levels.values()]
count = sum(p.numel() for p in texts[0] if p.requires_grad)
learned = [p for p in network.parameters() if p.requires_grad]
optimizer = torch.optim.RMSprop(learned, lr=recipe.optimiser.lr, alpha=0.99)
B = 40
views = Views(torch.rand(B, 4096), torch.rand(B, 5, 4096), torch.rand(B, 5, 4), torch.ones(B, 5, dtype=torch.bool))
chars = torch.randint(1, 70, (B, LENGTH), dtype=torch.uint8)
chars[torch.arange(LENGTH) >= torch.randint(30, 100, (B, 1))] = 0
start = time.perf_counter()
images, captions = network.images(views), network.texts(network.read(chars))
loss = sum(
    margin_loss(MultiLevel(top=3).scores_as_given(only(images, level), only(captions, level)), torch.arange(B), 1.0,
                "random", level == "global")
    for level in LEVELS
)
loss.backward()
optimizer.step()
seconds = time.perf_counter() - start
print(count / 1e6, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def test_full_size_step(benchmark):
    def step() -> list[float]:
        done = subprocess.run([sys.executable, "-c", FULL_STEP], capture_output=True, text=True, check=True)
        return [float(value) for value in done.stdout.split()]

    millions, seconds, peak = benchmark.pedantic(step, rounds=1)
    benchmark.extra_info |= {"parameters_M": millions, "step_s": seconds, "peak_GiB": peak}
    print(f"\nfull size, batch 40: {millions:.2f} M per encoder, {seconds:.1f} s, peak {peak:.2f} GiB")  # noqa: T201
    assert round(millions, 2) == 40.75
    assert peak < 6


def captions(count: int) -> torch.Tensor:
    torch.manual_seed(0)
    chars = torch.randint(1, len(ALPHABET) + 1, (count, LENGTH), dtype=torch.uint8)
    chars[torch.arange(LENGTH) >= torch.randint(30, 100, (count, 1))] = 0
    return chars


@pytest.mark.benchmark(group="compact text encoder, 50 captions, forward and backward")
@pytest.mark.parametrize("mask", [True, False], ids=["padded steps left out", "padded steps computed once"])
def test_text_encoder(benchmark, mask):
    encoder, chars = CharacterEncoder(Recipe(encoder=EncoderOptions(mask_padding=mask))), captions(50)[:, :99]
    benchmark.pedantic(lambda: encoder(chars)[0].sum().backward(), rounds=10, warmup_rounds=2)


@pytest.mark.benchmark(group="compact text encoder, 50 captions, forward and backward")
def test_text_encoder_without_shortcuts(benchmark):
    """All steps of all texts, padding included, with one-hot characters and plain layers."""
    encoder, chars = CharacterEncoder(Recipe(encoder=EncoderOptions(mask_padding=False))), captions(50)

    def step() -> None:
        x = torch.nn.functional.one_hot(chars.long(), len(ALPHABET) + 1)[..., 1:].float().transpose(1, 2)[:, :, None]
        for convolution, norm, (size, stride) in zip(encoder.convolutions, encoder.norms, encoder.pools, strict=True):
            x = torch.relu(torch.nn.functional.max_pool2d(norm(convolution(x)), (1, size), (1, stride)))
        encoder.lstm(x.squeeze(2).transpose(1, 2))[0].sum().backward()

    benchmark.pedantic(step, rounds=10, warmup_rounds=2)
