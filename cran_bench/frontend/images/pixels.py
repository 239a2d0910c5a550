"""``pixels``: the built-in backbone, random features of colour and edge filters; no weights to download."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool1d, pad

VERSION = 1
"""Part of the identity of the features, to be raised with every change of what is computed."""

SIDE = 64  # images are resized to SIDE x SIDE
CELL = 4  # pixels per side of the cells in which colours and edges are averaged
WINDOW = 4  # cells per side of the windows from which random features are computed
BORDER = CELL * WINDOW  # pixels of padding, so that every pixel is in the same number of windows
STEP = 2  # pixels to either side over which brightness differences are taken
SOFTNESS = 0.03  # temperature of the softmax over squared colour distances
FAINT = 0.01, 0.05  # edge energies below which a window's edge directions, and its edge strength, are damped
DIRECTIONS = 8
AT_ONCE = 4  # images whose windows fit into a core's cache
SCALE = 10.0  # of the random weights; window descriptors have a spread of about 1 / SCALE

# Prototypes of the soft colour channels: white, grey, black, red, orange, yellow, green, cyan, blue, violet, pink.
PALETTE = (
    *((255, 255, 255), (128, 128, 128), (20, 20, 20), (210, 40, 40), (240, 140, 30), (240, 200, 40)),
    *((40, 150, 60), (60, 190, 200), (40, 90, 210), (140, 60, 170), (240, 160, 190)),
)


@dataclass(frozen=True)
class Pixels:
    """Random features of small windows, averaged over the image, so that they do not encode its layout.

    A window is described by the proportions of eleven colours, the distribution of its edges over eight directions, and
    their strength.  A feature is a rectified random projection of this descriptor, so it responds to conjunctions such
    as red and round.  It is averaged over all windows, including those that overlap the border, so that all positions
    count equally; the square root of the average brings rare and frequent responses to a common scale.

    Attributes:
        dim: dimension of a feature, 16 to 8192.
    """

    dim: int = 512

    def __post_init__(self) -> None:
        if not 16 <= self.dim <= 8192:
            raise ValueError(f"dim is {self.dim}; use 16 to 8192")

    def identity(self) -> Mapping[str, Any]:
        return {"name": "pixels", "dim": self.dim, "version": VERSION}

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize an RGB image to (SIDE, SIDE, 3) uint8."""
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))

    def embed(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Embed (B, SIDE, SIDE, 3) uint8 images: (B, dim) float32."""
        few, threads = torch.split(torch.tensor(batch), AT_ONCE), torch.get_num_threads()
        torch.set_num_threads(1)  # for each thread of the pool
        try:
            features: NDArray[np.float32] = torch.cat(list(_pool(threads, os.getpid()).map(self._embed, few))).numpy()
        finally:
            torch.set_num_threads(threads)
        return features

    @torch.inference_mode()
    def _embed(self, images: Tensor) -> Tensor:
        weights, bias = _projection(self.dim)
        windows = _describe_windows(images)
        features = torch.relu_(torch.addmm(bias, windows.flatten(0, 1), weights))
        return features.view(*windows.shape[:2], self.dim).mean(dim=1).sqrt()


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of a process, kept because the memory of new ones has to be mapped anew."""
    return ThreadPoolExecutor(threads)


def _describe_windows(images: Tensor) -> Tensor:
    """The descriptors of all windows: (B, SIDE, SIDE, 3) uint8 to (B, windows, colours + directions + 1) float32."""
    x = images.permute(0, 3, 1, 2).float() / 255
    colours = _average(_pad(_colour_shares(x), BORDER))
    edges = _average(_edge_energies(_pad(x.mean(dim=1, keepdim=True), BORDER + STEP)))
    energy = edges.sum(dim=1, keepdim=True)
    faint, weak = FAINT
    descriptors = [colours, edges / (energy + faint), energy / (energy + weak)]
    return torch.cat(descriptors, dim=1).flatten(2).transpose(1, 2)


def _colour_shares(x: Tensor) -> Tensor:
    """Soft assignment of pixels to the palette, a softmax of negative squared distances: (B, colours, H, W)."""
    palette = torch.tensor(PALETTE) / 255
    nearness = torch.einsum("pc,bchw->bphw", 2 * palette, x) - palette.square().sum(dim=1)[:, None, None]
    return torch.softmax(nearness / SOFTNESS, dim=1)


def _edge_energies(grey: Tensor) -> Tensor:
    """Squared positive brightness slopes by direction: (B, 1, H, W) to (B, DIRECTIONS, H - 2 STEP, W - 2 STEP)."""
    right = grey[:, :, STEP:-STEP, 2 * STEP :] - grey[:, :, STEP:-STEP, : -2 * STEP]
    down = grey[:, :, 2 * STEP :, STEP:-STEP] - grey[:, :, : -2 * STEP, STEP:-STEP]
    angles = [2 * math.pi * k / DIRECTIONS for k in range(DIRECTIONS // 2)]
    slopes = torch.cat([math.cos(angle) * right + math.sin(angle) * down for angle in angles], dim=1)
    return torch.cat([slopes.relu(), (-slopes).relu()], dim=1).square_()


def _pad(x: Tensor, width: int) -> Tensor:
    return pad(x, (width, width, width, width), mode="replicate")


def _average(x: Tensor) -> Tensor:
    """Average over windows of cells, (..., H, W) to (..., windows, windows), which a small shift changes little."""
    down, across = _window_weights(x.shape[-2]), _window_weights(x.shape[-1])
    return down @ x @ across.T


@lru_cache(maxsize=4)
def _window_weights(side: int) -> Tensor:
    """(windows, side) weights of the pixels in each window, tapered towards its ends."""
    cells = avg_pool1d(torch.eye(side)[:, None], CELL)
    return avg_pool1d(avg_pool1d(cells, WINDOW, stride=1), 2, stride=1)[:, 0].T.contiguous()


@lru_cache(maxsize=4)
def _projection(dim: int) -> tuple[Tensor, Tensor]:
    """Random weights (D, dim) and biases (dim,), with thresholds just above typical windows of one colour on white.

    Only random integers are used, as the generators of torch and numpy may change between versions.
    """
    bits = random.Random("pixels").getrandbits
    colours = len(PALETTE)
    weights = SCALE * torch.tensor([[_bell(bits) for _ in range(colours + DIRECTIONS + 1)] for _ in range(dim)])
    typical = torch.zeros_like(weights)
    typical[:, colours:] = 1 / DIRECTIONS
    for row in typical:
        share = bits(16) / 2**17
        row[0] = 1 - share
        row[bits(16) % colours] += share
    threshold = (weights * typical).sum(dim=1) + weights.norm(dim=1) / SCALE
    return weights.T.contiguous(), -threshold


def _bell(bits: Callable[[int], int]) -> float:
    """An approximately normal deviate: the sum of twelve uniform ones."""
    return sum(bits(16) for _ in range(12)) / 2**16 - 6
