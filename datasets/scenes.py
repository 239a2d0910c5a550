"""Rendered scenes that come in twins: the same objects in exchanged places, told apart by relations alone."""

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
from ._scene_language import can_tell_apart, describe
from ._scene_layout import Scene, Stream, draw_twins

CAPTIONS = 5


class SceneImages(ImageSource):
    """Scenes, drawn when they are read."""

    def __init__(self, ids: Sequence[str], scenes: Sequence[Scene], size: int) -> None:
        self.ids, self.scenes, self.size = ids, scenes, size

    def read(self, row: int) -> Image.Image:
        """See ImageSource."""
        return Image.fromarray(draw(self.scenes[row], self.size))

    def digest(self, row: int) -> str:
        """See ImageSource."""
        return hashlib.sha256(json.dumps([VERSION, self.size, self.scenes[row]]).encode()).hexdigest()


@register_dataset("scenes", presets={"quick": {"train": 300, "val": 100, "test": 200}})
@dataclass(frozen=True)
class Scenes:
    """Pictures of two to four shapes, five captions each, that say how the shapes lie to one another.

    Every scene has a twin in its split: the same shapes, none of them at its old place.  A caption is true of its
    scene and false of the twin, so a model that sees objects but no relations ranks the two by a coin.  Regions
    are the shapes in random order, then empty ground, five in all.  The sizes of the splits do not change the scenes.

    Attributes:
        train: images for training, twins counted.
        val: images for validation.
        test: images for testing.
        seed: another number gives other scenes.
        size: width and height of the pictures in pixels.
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
                raise ValueError(f"{split} is {count}, but scenes come in twins; use an even number from 2 up")
        if not 64 <= self.size <= 512:
            raise ValueError(f"size is {self.size} pixels; use 64 to 512")

    def load(self, data: Path) -> Collection:
        """See Dataset; nothing is read from `data`."""
        ids: list[str] = []
        scenes: list[Scene] = []
        captions: list[str] = []
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
                    captions += [caption.text for caption in describe(stream, scene, twin, CAPTIONS)]
        return Collection(
            name="scenes",
            images=SceneImages(ids, scenes, self.size),
            captions=captions,
            image_of=np.repeat(np.arange(len(ids), dtype=np.int64), CAPTIONS),
            splits=splits,
            boxes=np.array([frames(scene, self.size) for scene in scenes], dtype=np.float32) / np.float32(self.size),
            twins=np.arange(len(ids), dtype=np.int64) ^ 1,
        )

    def defaults(self) -> Mapping[str, Any]:
        """See Dataset."""
        return {"images": "pixels", "regions": "boxes"}
