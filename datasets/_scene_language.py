"""Captions of scenes: sentences generated from relations that are true of a scene and false of its twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import permutations
from typing import Literal, NamedTuple

from ._scene_layout import Scene, Stream, Thing

CLEAR = 16  # minimum distance along an axis for two objects to be clearly apart, in 96ths of the side


class Fact(NamedTuple):
    """A relation: along `axis` (0 to the right, 1 downwards) the object `before` is clearly ahead of `after`."""

    axis: int
    before: int
    after: int


class Caption(NamedTuple):
    """A sentence, the facts that it states, its template, and by object the attributes that its noun phrase names."""

    text: str
    form: tuple[Fact, ...]
    pattern: str
    named: Mapping[int, tuple[str, ...]]


def holds(form: tuple[Fact, ...], scene: Scene) -> bool:
    """Whether all facts in `form` are clearly true of `scene`."""
    return all(scene.places[after][axis] - scene.places[before][axis] >= CLEAR for axis, before, after in form)


def fails(form: tuple[Fact, ...], scene: Scene) -> bool:
    """Whether some fact in `form` is clearly false of `scene`, that is, its opposite holds."""
    return any(holds((Fact(axis, after, before),), scene) for axis, before, after in form)


class _Direction(NamedTuple):
    """Phrases for one direction from `b` to `a`: ``a {of} b``, ``b has a {its}``, ``go {way} from b to a``."""

    axis: int
    ahead: bool
    of: tuple[str, ...]
    its: tuple[str, ...]
    way: str


_DIRECTIONS = (
    _Direction(
        axis=0,
        ahead=True,
        of=("to the left of", "left of", "on the left of", "on the left-hand side of"),
        its=("on its left", "to its left", "on its left-hand side"),
        way="left",
    ),
    _Direction(
        axis=0,
        ahead=False,
        of=("to the right of", "right of", "on the right of", "on the right-hand side of"),
        its=("on its right", "to its right", "on its right-hand side"),
        way="right",
    ),
    _Direction(
        axis=1,
        ahead=True,
        of=("above", "above", "over", "higher than", "higher up than"),
        its=("above it", "above it", "over it"),
        way="up",
    ),
    _Direction(
        axis=1,
        ahead=False,
        of=("below", "below", "under", "beneath", "underneath", "lower than"),
        its=("below it", "below it", "under it", "beneath it"),
        way="down",
    ),
)

# {a} {b} {c} are objects, {some_a} one with an indefinite article; {of}, {its}, {way} relate the first pair of objects,
# {of2}, {its2}, {way2} the second.
_SIMPLE = (
    "{a} is {of} {b}",
    "{a} {of} {b}",
    "{a} sits {of} {b}",
    "{a} lies {of} {b}",
    "{a} is placed {of} {b}",
    "{a} can be seen {of} {b}",
    "{a} was drawn {of} {b}",
    "{a} is further {way} than {b}",
    "there is {some_a} {of} {b}",
    "you can see {a} {of} {b}",
    "we see {a} {of} {b}",
    "this picture shows {a} {of} {b}",
    "somebody drew {a} {of} {b}",
    "{of} {b} is {a}",
    "{of} {b} there is {some_a}",
    "{of} {b} you can see {a}",
    "look {of} {b} and you will find {a}",
    "{b} has {a} {its}",
    "{b} with {a} {its}",
    "{b}, and {its} {a}",
    "go {way} from {b} to reach {a}",
    "it is {a} that is {of} {b}",
)


class _Joint(NamedTuple):
    """Templates of sentences with two relations; the pairs ``("ab", "bc")`` relate a to b and b to c."""

    patterns: tuple[str, ...]
    pairs: tuple[str, ...]
    need: Literal["any", "one direction", "two axes"]


_JOINT = (
    _Joint(
        ("{a} is {of} {b} and {of2} it", "{a} {of} {b} and also {of2} it", "{a} is both {of} and {of2} {b}"),
        pairs=("ab", "ab"),
        need="two axes",
    ),
    _Joint(
        ("{a} is {of} {b} and {of2} {c}", "{a} {of} {b} and {of2} {c}", "there is {some_a} {of} {b} and {of2} {c}"),
        pairs=("ab", "ac"),
        need="any",
    ),
    _Joint(
        ("{a} is {of} {b}, which is {of2} {c}", "{a} {of} {b} that is {of2} {c}"),
        pairs=("ab", "bc"),
        need="any",
    ),
    _Joint(
        ("{b} has {a} {its} and {c} {its2}", "{b} with {a} {its} and {c} {its2}"),
        pairs=("ab", "cb"),
        need="any",
    ),
    _Joint(("both {a} and {c} are {of} {b}", "{of} {b} are {a} and {c}"), pairs=("ab", "cb"), need="one direction"),
    _Joint(("{a} is {of} both {b} and {c}",), pairs=("ab", "ac"), need="one direction"),
    _Joint(("going {way} from {c}, first comes {b} and then {a}",), pairs=("ab", "bc"), need="one direction"),
)

PATTERNS = (*_SIMPLE, *(pattern for joint in _JOINT for pattern in joint.patterns))

_WORDS: Mapping[str, tuple[str, ...]] = {
    "red": ("red", "red", "crimson"),
    "green": ("green", "green", "emerald"),
    "blue": ("blue", "blue", "azure"),
    "yellow": ("yellow", "yellow", "golden"),
    "purple": ("purple", "purple", "violet"),
    "black": ("black", "black", "dark"),
    "circle": ("circle", "circle", "disc"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "cross": ("cross", "cross", "plus sign"),
    "star": ("star",),
    "small": ("small", "small", "little", "tiny"),
    "large": ("large", "large", "big", "huge"),
}

_MENTIONS: tuple[tuple[str, ...], ...] = (
    ("colour", "shape"),
    ("colour", "shape"),
    ("size", "colour", "shape"),
    ("size", "colour", "shape"),
    ("size", "shape"),
    ("size", "colour"),
    ("colour",),
    ("shape",),
)


def refer(stream: Stream, things: tuple[Thing, ...], which: int, *, definite: bool) -> tuple[str, tuple[str, ...]]:
    """Return a noun phrase whose attributes identify one of `things` uniquely, and these attributes."""
    thing = things[which]
    mention = stream.choose(_fitting(things, which))
    named = tuple(getattr(thing, kind) for kind in mention)
    words = [stream.choose(_WORDS[attribute]) for attribute in named]
    if "shape" not in mention:
        words.append(stream.choose(("one", "shape", "object") if definite else ("shape", "object")))
    article = "the" if definite else "an" if words[0][0] in "aeiou" else "a"
    return " ".join((article, *words)), named


@lru_cache(maxsize=16)
def _fitting(things: tuple[Thing, ...], which: int) -> list[tuple[str, ...]]:
    wanted = things[which]
    return [m for m in _MENTIONS if sum(all(getattr(o, k) == getattr(wanted, k) for k in m) for o in things) == 1]


def can_tell_apart(scene: Scene, twin: Scene) -> bool:
    """Whether some fact is clearly true of `scene` and clearly false of `twin`, where its opposite is then true."""
    pairs = permutations(range(len(scene.things)), 2)
    facts = [(Fact(axis, before, after),) for before, after in pairs for axis in (0, 1)]
    return any(holds(fact, scene) and fails(fact, twin) for fact in facts)


def describe(stream: Stream, scene: Scene, twin: Scene, count: int) -> list[Caption]:
    """Generate `count` different captions, each clearly true of `scene` and clearly false of `twin`.

    `can_tell_apart` must hold for the two.
    """
    captions: dict[str, Caption] = {}
    while len(captions) < count:
        pattern, pairs, directions = _draw_sentence(stream)
        slots = dict(zip("abc", stream.shuffle(range(len(scene.things))), strict=False))
        if not slots.keys() >= set("".join(pairs)):
            continue
        form = tuple(
            Fact(way.axis, *(slots[slot] for slot in (pair if way.ahead else pair[::-1])))
            for pair, way in zip(pairs, directions, strict=True)
        )
        if holds(form, scene) and fails(form, twin):
            text, named = _say(stream, scene, pattern, slots, directions)
            captions.setdefault(text, Caption(text, form, pattern, named))
    return list(captions.values())


def _draw_sentence(stream: Stream) -> tuple[str, tuple[str, ...], list[_Direction]]:
    if stream.below(5) < 3:
        return stream.choose(_SIMPLE), ("ab",), [stream.choose(_DIRECTIONS)]
    joint = stream.choose(_JOINT)
    first, second = stream.choose(_DIRECTIONS), stream.choose(_DIRECTIONS)
    if joint.need == "one direction":
        second = first
    while joint.need == "two axes" and second.axis == first.axis:
        second = stream.choose(_DIRECTIONS)
    return stream.choose(joint.patterns), joint.pairs, [first, second]


def _say(
    stream: Stream, scene: Scene, pattern: str, slots: Mapping[str, int], directions: Sequence[_Direction]
) -> tuple[str, dict[int, tuple[str, ...]]]:
    """Return a sentence, and by object the attributes of its noun phrases."""
    words, named = {}, {}
    for slot, which in slots.items():
        definite = f"{{some_{slot}}}" not in pattern and stream.below(2) == 0
        phrase, attributes = refer(stream, scene.things, which, definite=definite)
        words[slot] = words[f"some_{slot}"] = phrase
        if f"{slot}}}" in pattern:
            named[which] = attributes
    for number, direction in zip(("", "2"), directions, strict=False):
        words["of" + number] = stream.choose(direction.of)
        words["its" + number] = stream.choose(direction.its)
        words["way" + number] = direction.way
    text = pattern.format(**words)
    return (f"{text[0].upper()}{text[1:]}." if stream.below(3) else text), named
