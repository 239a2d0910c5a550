"""Rendered scenes in pairs of twins, with the same objects at exchanged positions, which differ in relations only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cran_bench import SPLITS, Collection, ImageSource, register_dataset

from ._scene_drawing import VERSION, draw, frames
from ._scene_language import Caption, can_tell_apart, describe
from ._scene_layout import COLOURS, SHAPES, Scene, Stream, draw_twins
from ._scene_truths import Truths

CAPTIONS = 5
KINDS = [(colour, shape) for colour in COLOURS for shape in SHAPES]


class SceneImages(ImageSource):
    """Scenes, rendered when they are read."""

    def __init__(self, ids: Sequence[str], scenes: Sequence[Scene], size: int) -> None:
        self.ids, self.scenes, self.size = ids, scenes, size

    def read(self, row: int) -> Image.Image:
        return Image.fromarray(draw(self.scenes[row], self.size))

    def digest(self, row: int) -> str:
        return hashlib.sha256(json.dumps([VERSION, self.size, self.scenes[row]]).encode()).hexdigest()


@register_dataset("scenes", presets={"quick": {"train": 300, "val": 100, "test": 200}})
@dataclass(frozen=True)
class Scenes:
    """Images of two to four shapes, each with five captions about the spatial relations between the shapes.

    Every scene has a twin in its split with the same shapes, none of them at the same position.  A caption is true of
    its scene and false of the twin, so a model that sees objects but not relations ranks the two at chance.  The five
    regions are the shapes in random order, then empty background.  The categories of a scene are its shapes with their
    colours, the same for both twins.  Scenes do not depend on the sizes of the splits.

    Attributes:
        train: number of training images, twins included; even.
        val: number of validation images, twins included; even.
        test: number of test images, twins included; even.
        seed: seed of the generator.
        size: width and height of the images in pixels, 64 to 512.
    """

    train: int = 4000
    val: int = 500
    test: int = 500
    seed: int = 0
    size: int = 96

    def __post_init__(self) -> None:
        for split in SPLITS:
            count = getattr(self, split)
            if count < 2 or count % 2:
                raise ValueError(
                    f"{split} is {count}, but scenes come in pairs of twins; use an even number, 2 or more"
                )
        if not 64 <= self.size <= 512:
            raise ValueError(f"size is {self.size} pixels; use 64 to 512")

    def load(self, data: Path) -> Collection:
        """Generate the scenes; nothing is read from `data`."""
        ids: list[str] = []
        scenes: list[Scene] = []
        captions: list[Caption] = []
        splits = {}
        for split in SPLITS:
            count: int = getattr(self, split)
            splits[split] = np.arange(len(ids), len(ids) + count, dtype=np.int64)
            for pair in range(count // 2):
                stream = Stream(f"{self.seed}/{split}/{pair}")
                first, second = draw_twins(stream)
                while not can_tell_apart(first, second):
                    first, second = draw_twins(stream)
                for letter, scene, twin in (("a", first, second), ("b", second, first)):
                    ids.append(f"{split}-{pair:05}{letter}")
                    scenes.append(scene)
                    captions += describe(stream, scene, twin, CAPTIONS)
        return Collection(
            name="scenes",
            images=SceneImages(ids, scenes, self.size),
            captions=[caption.text for caption in captions],
            image_of=np.repeat(np.arange(len(ids), dtype=np.int64), CAPTIONS),
            splits=splits,
            boxes=np.array([frames(scene, self.size) for scene in scenes], dtype=np.float32) / np.float32(self.size),
            twins=np.arange(len(ids), dtype=np.int64) ^ 1,
            truths=Truths(captions, scenes),
            labels=np.array([_contains(scene) for scene in scenes], dtype=np.uint8),
            label_names=[f"{colour} {shape}" for colour, shape in KINDS],
        )

    def defaults(self) -> Mapping[str, Any]:
        return {"backbone": "pixels", "regions": "boxes"}


def _contains(scene: Scene) -> list[bool]:
    """Whether a scene has an object of each colour and shape in `KINDS`."""
    kinds = {(thing.colour, thing.shape) for thing in scene.things}
    return [kind in kinds for kind in KINDS]
