"""The objects, positions and background of a scene, and the random generation of a scene and its twin."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")

COLOURS = ("red", "green", "blue", "yellow", "purple", "black")
SHAPES = ("circle", "square", "triangle", "cross", "star")
RADII = {"small": 8, "large": 12}

SIDE = 96  # side of a scene, in the unit of positions and radii
REGIONS = 5
SPACING = 2 * max(RADII.values()) + 4
BORDER = max(RADII.values()) + 2


class Stream:
    """A random generator that is the same on every platform and Python version, as it uses `getrandbits` only."""

    def __init__(self, seed: str) -> None:
        self._bits = random.Random(seed).getrandbits

    def below(self, n: int) -> int:
        """Return a random integer from 0 to n - 1."""
        width = (n - 1).bit_length()
        while True:
            draw = self._bits(width) if width else 0
            if draw < n:
                return draw

    def choose(self, items: Sequence[T]) -> T:
        """Return one of `items` at random."""
        return items[self.below(len(items))]

    def shuffle(self, items: Sequence[T]) -> list[T]:
        """Return `items` in random order."""
        deck = list(items)
        for k in range(len(deck) - 1, 0, -1):
            j = self.below(k + 1)
            deck[k], deck[j] = deck[j], deck[k]
        return deck


class Thing(NamedTuple):
    """An object; `shade` is added to the RGB values of its colour."""

    colour: str
    shape: str
    size: str
    shade: tuple[int, int, int]


class Placement(NamedTuple):
    """The centre of an object or of an empty region; x grows to the right, y downwards."""

    x: int
    y: int


class Backdrop(NamedTuple):
    """A light background: a tint, and faint stripes with a direction and a period in 96ths of the side."""

    tint: tuple[int, int, int]
    direction: tuple[int, int]
    period: int


class Scene(NamedTuple):
    """Two to four objects, their positions in the same order, empty regions that make up five, and the background."""

    things: tuple[Thing, ...]
    places: tuple[Placement, ...]
    empty: tuple[tuple[Placement, str], ...]
    backdrop: Backdrop


def draw_twins(stream: Stream) -> tuple[Scene, Scene]:
    """Generate a scene and its twin, which has the same objects at exchanged positions, and is otherwise the same.

    No object keeps its position.  Every position has room for the largest object and is at least `SPACING` away from
    the others along one of the axes.
    """
    count = stream.choose((2, 2, 3, 3, 4))
    kinds = stream.shuffle([(colour, shape) for colour in COLOURS for shape in SHAPES])[:count]
    sizes = [stream.choose(tuple(RADII)) for _ in range(REGIONS)]
    things = tuple(Thing(*kind, size, _jitter(stream, 12)) for kind, size in zip(kinds, sizes, strict=False))
    places = _draw_places(stream)
    order = stream.shuffle(range(count))
    while any(k == moved for k, moved in enumerate(order)):
        order = stream.shuffle(range(count))
    empty = tuple(zip(places[count:], sizes[count:], strict=True))
    red, green, blue = _jitter(stream, 8)
    direction = stream.choose(((1, 0), (0, 1), (1, 1), (1, -1), (2, 1), (1, 2), (2, -1), (1, -2)))
    backdrop = Backdrop((238 + red, 238 + green, 238 + blue), direction, 4 + stream.below(9))
    scene = Scene(things, tuple(places[:count]), empty, backdrop)
    return scene, scene._replace(places=tuple(places[k] for k in order))


def _jitter(stream: Stream, most: int) -> tuple[int, int, int]:
    red, green, blue = (stream.below(2 * most + 1) - most for _ in range(3))
    return red, green, blue


def _draw_places(stream: Stream) -> list[Placement]:
    room = SIDE - 2 * BORDER + 1
    places: list[Placement] = []
    misses = 0
    while len(places) < REGIONS:
        new = Placement(BORDER + stream.below(room), BORDER + stream.below(room))
        if all(max(abs(new.x - old.x), abs(new.y - old.y)) >= SPACING for old in places):
            places.append(new)
        elif (misses := misses + 1) > 20:  # the first positions may leave no room for the others
            places, misses = [], 0
    return stream.shuffle(places)
