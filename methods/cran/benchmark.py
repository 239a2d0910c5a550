"""A training step of CRAN, and a plain module that computes every step of every text and every relation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, one_hot, pad

from cran_bench import ALPHABET, Levels, MultiLevel, TrainingBenchmark, region_pairs
from cran_bench.toolbox.losses import margin_loss

from .batches import Batches
from .model import KERNEL, LENGTH, Network, Views, lengths, only, unit
from .recipe import LEVELS, EncoderOptions, PlusOptions, Recipe

IMAGES = 2000
STEPS = {"compact": 50, "full": 3}
LR = 1e-4  # small, as rounding errors grow from step to step with it


def training_benchmark(width: Literal["compact", "full"], device: torch.device) -> TrainingBenchmark:
    """The plain module and ours, over the same steps from the same weights."""
    torch.manual_seed(0)
    # without dropout, and without batch normalisation, whose statistics depend on the steps that are computed
    recipe = Recipe(
        encoder=EncoderOptions(width=width, conv_bn=False, dropout=0.0),
        plus=PlusOptions(image_scaling="l2"),
    )
    dim = 4096 if width == "full" else 1280
    views = Views(
        torch.rand(IMAGES, dim, device=device),
        torch.rand(IMAGES, 5, dim, device=device),
        torch.rand(IMAGES, 5, 4, device=device),
        torch.ones(IMAGES, 5, dtype=torch.bool, device=device),
    )
    chars = torch.randint(1, len(ALPHABET) + 1, (IMAGES, LENGTH), dtype=torch.uint8)
    drawn = (20 + torch.distributions.Gamma(5.0, 0.125).sample((IMAGES, 1))).clamp_max(LENGTH)  # as Flickr's
    chars[torch.arange(LENGTH) >= drawn] = 0
    batches = Batches(recipe, torch.arange(IMAGES), lengths(chars))
    rows = [owner for owner, _ in batches.epoch(1, torch.Generator().manual_seed(0))]
    start = Network(recipe, LEVELS, dim, dim).to(device)
    chars = chars.to(device)

    def prepare(forward: Callable[[Network, Views, Tensor], tuple[Levels, Levels]]) -> Callable[[int], Tensor]:
        network = copy.deepcopy(start)
        learned = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=LR, fused=True)

        def step(number: int) -> Tensor:
            owner = rows[number % len(rows)]
            longest, owner = int(batches.lengths[owner].max()), owner.to(device)
            optimizer.zero_grad(set_to_none=True)
            images, texts = forward(network, Views(*(x[owner] for x in views if x is not None)), chars[owner, :longest])
            loss = three_losses(images, texts, owner, recipe.loss.margin)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            return loss.detach()

        return step

    variants = {"plain module": partial(prepare, plain), "ours": partial(prepare, shared)}
    size = recipe.batches.batch_size
    flop = size * flop_of_pair(start, recipe, dim)
    return TrainingBenchmark(f"CRAN, {width}, batch {size}, three levels", STEPS[width], variants, flop)


def flop_of_pair(network: Network, recipe: Recipe, dim: int) -> int:
    """Operations of the plain module for an image of five regions and a text, forward and backward."""
    encoder, sizes, length = network.levels["global"].encoder, recipe.encoder.sizes, LENGTH
    text = 0
    for a, b, (size, stride) in zip((len(ALPHABET), *sizes.kernels), sizes.kernels, encoder.pools, strict=False):
        length -= KERNEL - 1
        text += length * KERNEL * a * b
        length = (length - size) // stride + 1
    text += length * 4 * sizes.lstm * (sizes.kernels[-1] + sizes.lstm) + sizes.lstm * sizes.dim
    images = (dim + 5 * dim + 20 * 2 * dim) * sizes.dim
    return 6 * (len(LEVELS) * text + images)  # a product and a sum, and two more products of each size backward


def three_losses(images: Levels, texts: Levels, owner: Tensor, margin: float) -> Tensor:
    """The sum of the levels' losses with all negatives."""
    total = torch.zeros((), device=owner.device)
    for level in LEVELS:
        scores = MultiLevel(top=3).scores_as_given(only(images, level), only(texts, level))
        total = total + margin_loss(scores, owner, margin, "all")
    return total


def shared(network: Network, views: Views, chars: Tensor) -> tuple[Levels, Levels]:
    """The embeddings of a batch as in CRAN's training."""
    return network.images(views), network.texts(network.read(chars))


def plain(network: Network, views: Views, chars: Tensor) -> tuple[Levels, Levels]:
    """The same embeddings without shortcuts: one-hot characters, all steps, a linear layer over concatenated pairs."""
    levels: Any = network.levels
    read, padded = {}, pad(chars, (0, LENGTH - chars.shape[1]))
    for name, level in levels.items():
        encoder = level.encoder
        x = one_hot(padded.long(), len(ALPHABET) + 1)[..., 1:].float().transpose(1, 2)[:, :, None]
        for convolution, norm, (size, stride) in zip(encoder.convolutions, encoder.norms, encoder.pools, strict=True):
            x = max_pool2d(torch.relu(norm(convolution(x))), (1, size), (1, stride))
        H, _ = encoder.lstm(x.squeeze(2).transpose(1, 2))
        counts = torch.ones(H.shape[:2], dtype=torch.bool, device=H.device)
        a = level.pooling.weights(H, counts)
        read[name] = (a[:, None] @ H).squeeze(1)
    whole, local = (levels[name].images(views) for name in ("global", "local"))
    relation: Any = levels["relation"]
    x = relation.inputs(views)
    j, k = region_pairs(x.shape[1]).to(x.device).T
    weight = torch.cat([relation.first.weight, relation.second.weight], dim=1)
    pairs = nn.functional.linear(torch.cat([x[:, j], x[:, k]], dim=2), weight, relation.second.bias)
    return Levels(whole.globals, local.regions, unit(pairs), views.mask), network.texts(read)
