"""Which sentences are true of which scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from ._scene_language import CLEAR, Caption
from ._scene_layout import COLOURS, RADII, SHAPES, Scene

MOST = 4  # objects of a scene
ATTRIBUTES = (*COLOURS, *SHAPES, *RADII)


@dataclass(frozen=True)
class Truths:
    """Which of these captions are true of which of these scenes.

    A caption is true of a scene if different objects can be found there for its noun phrases, each with the attributes
    that its phrase names, between which all facts clearly hold.
    """

    captions: Sequence[Caption]
    scenes: Sequence[Scene]

    def __call__(self, captions: NDArray[np.int64], scenes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Decide of T rows of captions and N rows of scenes: (T, N)."""
        has, ahead = _objects([self.scenes[row] for row in scenes.tolist()])
        found = np.zeros((len(captions), len(scenes)), dtype=np.bool_)
        fitting: dict[tuple[str, ...], NDArray[np.bool_]] = {}
        for row, caption in enumerate(self.captions[row] for row in captions.tolist()):
            slots = {which: place for place, which in enumerate(caption.named)}
            for attributes in caption.named.values():
                if attributes not in fitting:
                    fitting[attributes] = np.logical_and.reduce(has[[ATTRIBUTES.index(name) for name in attributes]])
            fits = [fitting[attributes] for attributes in caption.named.values()]
            for chosen in permutations(range(MOST), len(slots)):
                parts = [fit[which] for fit, which in zip(fits, chosen, strict=True)]
                parts += [
                    ahead[axis, chosen[slots[before]], chosen[slots[after]]] for axis, before, after in caption.form
                ]
                found[row] |= np.stack(parts).all(axis=0)
        return found


def _objects(scenes: Sequence[Scene]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The attributes of each object, (A, 4, N), and along each axis which is clearly ahead of which, (2, 4, 4, N)."""
    has = np.zeros((len(ATTRIBUTES), MOST, len(scenes)), dtype=np.bool_)
    places = np.full((2, MOST, len(scenes)), np.nan)
    for row, scene in enumerate(scenes):
        for which, (thing, place) in enumerate(zip(scene.things, scene.places, strict=True)):
            for attribute in (thing.colour, thing.shape, thing.size):
                has[ATTRIBUTES.index(attribute), which, row] = True
            places[:, which, row] = place
    return has, places[:, None] - places[:, :, None] >= CLEAR
