"""Rendering of scenes in integer arithmetic, so that the pixels are the same on every machine."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ._scene_layout import RADII, SIDE, Placement, Scene

VERSION = 1
SAMPLES = 4  # antialiasing samples per pixel and axis

RGB = {
    "red": (208, 40, 44),
    "green": (40, 152, 64),
    "blue": (44, 88, 208),
    "yellow": (236, 196, 32),
    "purple": (140, 56, 168),
    "black": (36, 36, 40),
}

# Corners in thousandths of the radius, y downwards.
CORNERS = {
    "square": ((-860, -860), (860, -860), (860, 860), (-860, 860)),
    "triangle": ((0, -960), (1000, 780), (-1000, 780)),
    "cross": (
        *((-340, -1000), (340, -1000), (340, -340), (1000, -340), (1000, 340), (340, 340)),
        *((340, 1000), (-340, 1000), (-340, 340), (-1000, 340), (-1000, -340), (-340, -340)),
    ),
    "star": (
        *((0, -1000), (225, -309), (951, -309), (363, 118), (588, 809)),
        *((0, 382), (-588, 809), (-363, 118), (-951, -309), (-225, -309)),
    ),
}


def draw(scene: Scene, size: int) -> NDArray[np.uint8]:
    """Render a scene as a (size, size, 3) uint8 RGB image."""
    y, x = np.ogrid[:size, :size]
    across, down = scene.backdrop.direction
    stripe = (across * x + down * y) * SIDE // (size * scene.backdrop.period) % 2
    picture = np.array(scene.backdrop.tint) + 3 * stripe[:, :, None]
    steps = SAMPLES * SAMPLES
    for thing, place in zip(scene.things, scene.places, strict=True):
        cover = _cover(thing.shape, _radius(thing.size, size))[:, :, None]
        left, top = _corner(place, thing.size, size)
        window = picture[top : top + len(cover), left : left + len(cover)]
        ink = np.array(RGB[thing.colour]) + thing.shade
        window[:] = (window * (steps - cover) + ink * cover + steps // 2) // steps
    pixels: NDArray[np.uint8] = picture.clip(0, 255).astype(np.uint8)
    return pixels


def frames(scene: Scene, size: int) -> list[tuple[int, int, int, int]]:
    """Return x0 y0 x1 y1 in pixels of the five regions, with a margin of one pixel: the objects, then empty regions."""
    boxes = []
    for thing, place in zip(scene.things, scene.places, strict=True):
        left, top = _corner(place, thing.size, size)
        x0, y0, x1, y1 = _extent(thing.shape, _radius(thing.size, size))
        boxes.append((left + x0 - 1, top + y0 - 1, left + x1 + 1, top + y1 + 1))
    for place, extent in scene.empty:
        left, top = _corner(place, extent, size)
        width = 2 * _radius(extent, size)
        boxes.append((left - 1, top - 1, left + width + 1, top + width + 1))
    return boxes


def _radius(extent: str, size: int) -> int:
    return RADII[extent] * size // SIDE


def _corner(place: Placement, extent: str, size: int) -> tuple[int, int]:
    radius = _radius(extent, size)
    return place.x * size // SIDE - radius, place.y * size // SIDE - radius


@lru_cache(maxsize=256)
def _cover(shape: str, radius: int) -> NDArray[np.int64]:
    """The number of each pixel's samples inside the shape, (2 radius, 2 radius)."""
    n = 2 * radius * SAMPLES
    middles = (2 * np.arange(n) + 1 - n) * 1000
    x, y = middles[None, :], middles[:, None]
    if shape == "circle":
        inside = x * x + y * y <= (1000 * n) ** 2
    else:
        inside = np.zeros((n, n), dtype=bool)
        corners = [(n * a, n * b) for a, b in CORNERS[shape]]
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            turn = (x - x0) * (y1 - y0) - (x1 - x0) * (y - y0)
            inside ^= ((y0 > y) != (y1 > y)) & ((turn < 0) == (y1 > y0))
    cover: NDArray[np.int64] = inside.reshape(2 * radius, SAMPLES, 2 * radius, SAMPLES).sum(axis=(1, 3), dtype=np.int64)
    return cover


@lru_cache(maxsize=256)
def _extent(shape: str, radius: int) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(_cover(shape, radius))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
