from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cran_bench.datasets.scenes import Scenes
from cran_bench.frontend.images.pixels import SIDE, VERSION, Pixels

COLOURS = ((210, 40, 40), (40, 90, 210), (40, 150, 60), (240, 200, 40))


def picture(colour, shape, left, top, width=20, side=96):
    canvas = np.full((side, side, 3), 240, dtype=np.uint8)
    y, x = np.mgrid[:width, :width]
    inside = {
        "square": np.ones((width, width), dtype=bool),
        "disc": (x - width / 2 + 0.5) ** 2 + (y - width / 2 + 0.5) ** 2 < width**2 / 4,
        "triangle": np.abs(x - width / 2 + 0.5) < (y + 1) / 2,
    }[shape]
    canvas[top : top + width, left : left + width][inside] = colour
    return Image.fromarray(canvas)


def features(pictures, dim=512):
    backbone = Pixels(dim)
    return backbone.embed(np.stack([backbone.prepare(image) for image in pictures]))


def angle(a, b):
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


@pytest.mark.parametrize("dim", [16, 100, 512])
def test_pictures_of_any_size_become_vectors(dim):
    pictures = [Image.new("RGB", size, "teal") for size in ((1, 1), (7, 300), (64, 64), (640, 480))]
    found = features(pictures, dim)
    assert found.shape == (4, dim) and found.dtype == np.float32
    assert np.isfinite(found).all() and Pixels(dim).dim == dim


def test_deterministic_and_independent_of_the_batch_and_of_global_seeds():
    pictures = [picture(colour, "disc", 10 * k, 30) for k, colour in enumerate(COLOURS)] * 5
    once = features(pictures)
    torch.manual_seed(5)
    np.testing.assert_allclose(features(pictures[:3]), once[:3], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(features(pictures), once)


def test_layout_is_averaged_away():
    spots = ((2, 2), (74, 2), (38, 38), (2, 74), (74, 74), (21, 53))
    moved = features([picture(COLOURS[0], "triangle", *spot) for spot in spots])
    other = features([picture(COLOURS[0], "disc", 38, 38)])[0]
    near = max(np.linalg.norm(a - b) for a in moved for b in moved)
    far = min(np.linalg.norm(a - other) for a in moved)
    assert near < 0.5 * far


def test_colour_and_shape_are_bound_together():
    def two(first, second):
        one, other = (np.asarray(picture(*thing, left, 38)) for thing, left in ((first, 10), (second, 60)))  # type: ignore[call-arg]
        return Image.fromarray(np.minimum(one, other))

    red, blue = COLOURS[:2]
    straight = features([two((red, "disc"), (blue, "square"))])[0]
    exchanged = features([two((blue, "disc"), (red, "square"))])[0]
    mirrored = features([two((blue, "square"), (red, "disc"))])[0]
    assert np.linalg.norm(straight - exchanged) > 4 * np.linalg.norm(straight - mirrored)


def test_crops_of_colour_and_shape_are_told_apart_by_nearest_mean():
    kinds = [(colour, shape) for colour in COLOURS for shape in ("disc", "square", "triangle")]
    pictures = [
        picture(colour, shape, 2, 2, width=width, side=width + 4) for colour, shape in kinds for width in (16, 20, 24)
    ]
    known = features(pictures).reshape(len(kinds), 3, -1).mean(axis=1)
    for kind, (colour, shape) in enumerate(kinds):
        asked = features([picture(colour, shape, 2, 2, width=18, side=22)])[0]
        assert np.argmin(np.linalg.norm(known - asked, axis=1)) == kind


def test_scenes_are_read_but_not_their_layout():
    collection = Scenes(train=600, val=2, test=160).load(Path())
    rows = np.concatenate([collection.splits["train"], collection.splits["test"]])
    found = features([collection.images.read(row) for row in rows]).astype(np.float64)
    twins = np.linalg.norm(found[::2] - found[1::2], axis=1)
    others = np.linalg.norm(found[:-2:2] - found[2::2], axis=1)
    assert np.median(twins) < 0.2 * np.median(others)
    assert np.median([angle(a, b) for a, b in zip(found[::2], found[1::2], strict=True)]) < 2

    scenes = [collection.images.scenes[row] for row in rows]
    kinds = sorted({(thing.colour, thing.shape) for scene in scenes for thing in scene.things})
    present = np.array([[kind in {t[:2] for t in scene.things} for kind in kinds] for scene in scenes], dtype=float)
    train, test = slice(0, 600), slice(600, None)
    centred = (found - found[train].mean(axis=0)) / (found[train].std(axis=0) + 1e-6)
    gram = centred[train].T @ centred[train] + 0.6 * np.eye(found.shape[1])
    scores = centred[test] @ np.linalg.solve(gram, centred[train].T @ (present[train] - present[train].mean(axis=0)))
    truth = present[test] > 0
    areas = [(s[t][:, None] > s[~t][None]).mean() for s, t in zip(scores.T, truth.T, strict=True) if t.any()]
    assert np.mean(areas) > 0.9


def test_what_is_computed_belongs_to_the_version_in_the_identity():
    # Whoever changes these numbers raises VERSION: the identity does not depend on the source otherwise.
    pinned = [0.60252, 1.31796, 3.36413, 0, 0.21619, 0, 1.31964, 0.12233]
    pinned += [0, 0.70997, 0.10379, 0.0154, 0, 1.62501, 2.64073, 0]
    (found,) = features([picture(COLOURS[0], "triangle", 20, 30, width=40)], dim=16)
    np.testing.assert_allclose(found, pinned, rtol=0, atol=1e-4)
    assert Pixels(16).identity() == {"name": "pixels", "dim": 16, "version": VERSION} and VERSION == 1


def test_a_useless_size_is_refused():
    with pytest.raises(ValueError, match="dim is 3; use 16 to 8192"):
        Pixels(3)


def test_many_features_tell_much_apart():
    random = np.random.default_rng(0)
    noise = (random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(620))
    found = Pixels(1024).embed(np.stack(list(noise)))
    assert np.linalg.matrix_rank(found - found.mean(axis=0)) > 600
