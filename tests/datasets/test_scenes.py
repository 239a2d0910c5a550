import re
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from cran_bench.datasets._scene_drawing import RGB, draw, frames
from cran_bench.datasets._scene_language import PATTERNS, Caption, Fact, can_tell_apart, describe, fails, holds
from cran_bench.datasets._scene_layout import COLOURS, REGIONS, SHAPES, Placement, Scene, Stream, Thing, draw_twins
from cran_bench.datasets._scene_truths import Truths
from cran_bench.datasets.scenes import Scenes
from cran_bench.errors import BadInput
from cran_bench.machine.storage import sha256_bytes
from cran_bench.registry import DATASETS

SMALL = Scenes(train=60, val=20, test=20)


@pytest.fixture(scope="module")
def collection():
    return SMALL.load(Path())


def pairs_of_scenes(count):
    for k in range(count):
        stream = Stream(f"tests/{k}")
        scene, twin = draw_twins(stream)
        if can_tell_apart(scene, twin):
            yield stream, scene, twin


# A reader of the sentences that shares nothing with their writer: words to attributes, phrases to directions.
MEANING = {
    **{"crimson": "red", "emerald": "green", "azure": "blue", "golden": "yellow", "violet": "purple", "dark": "black"},
    **{"disc": "circle", "box": "square", "plus sign": "cross"},
    **{"little": "small", "tiny": "small", "big": "large", "huge": "large"},
    **{word: word for word in (*COLOURS, *SHAPES, "small", "large")},
}
NOUN = rf"(?:the|an?) (?:(?:{'|'.join(MEANING)}|one|shape|object)(?: (?=\w)|\b))+"
OF = {
    "left": r"(?:to the left of|on the left of|on the left-hand side of|left of)",
    "right": r"(?:to the right of|on the right of|on the right-hand side of|right of)",
    "up": r"(?:above|over|higher than|higher up than)",
    "down": r"(?:below|underneath|under|beneath|lower than)",
}
ITS = {
    "left": r"(?:on its left-hand side|on its left|to its left)",
    "right": r"(?:on its right-hand side|on its right|to its right)",
    "up": r"(?:above it|over it)",
    "down": r"(?:below it|under it|beneath it)",
}
VERB = r"(?:is|sits|lies|is placed|can be seen|was drawn)"
# A, B, C: things; R, S: 'of' phrases; I, J: 'its' phrases; W: a way.  What is said: (thing, its direction, from what).
READINGS = [
    (r"both A and C are R B", ["aRb", "cRb"]),
    (r"R B are A and C", ["aRb", "cRb"]),
    (r"A is R both B and C", ["aRb", "aRc"]),
    (r"A is both R and S B", ["aRb", "aSb"]),
    (r"A (?:is )?R B and (?:also )?S it", ["aRb", "aSb"]),
    (r"B (?:has|with) A I and C J", ["aRb", "cSb"]),
    (r"going W from C, first comes B and then A", ["aRb", "bRc"]),
    (r"A (?:is )?R B(?:, which| that) is S C", ["aRb", "bSc"]),
    (r"(?:there is )?A (?:is )?R B and S C", ["aRb", "aSc"]),
    (r"A is further W than B", ["aRb"]),
    (r"go W from B to reach A", ["aRb"]),
    (r"B (?:has|with) A I", ["aRb"]),
    (r"B, and I A", ["aRb"]),
    (r"it is A that is R B", ["aRb"]),
    (r"(?:look )?R B(?: is| there is| you can see| and you will find) A", ["aRb"]),
    (rf"(?:there is |you can see |we see |this picture shows |somebody drew )?A (?:{VERB} )?R B", ["aRb"]),
]


def compiled(reading):
    groups = {"A": NOUN, "B": NOUN, "C": NOUN}
    groups |= dict.fromkeys("RS", "|".join(OF.values())) | dict.fromkeys("IJ", "|".join(ITS.values()))
    groups["W"] = "left|right|up|down"
    return re.compile(re.sub(r"\b([A-CRSIJW])\b", lambda m: f"(?P<{m[1]}>{groups[m[1]]})", reading))


GRAMMAR = [(compiled(reading), said) for reading, said in READINGS]


def direction(found, name):
    for group, phrases in ((name, OF), ({"R": "I", "S": "J"}[name], ITS), ("W", {k: k for k in OF})):
        phrase = found.get(group)
        if phrase:
            return next(way for way, pattern in phrases.items() if re.fullmatch(pattern, phrase))
    raise AssertionError(found)


def fitting(scene, phrase):
    """Indices of the things with all attributes that a noun phrase names."""
    wanted = {MEANING[word] for word in re.findall("|".join(MEANING), phrase)}
    return [k for k, thing in enumerate(scene.things) if wanted <= {thing.colour, thing.shape, thing.size}]


def referent(scene, phrase):
    (only,) = fitting(scene, phrase)
    return only


def parsed(text):
    """The noun phrase of each letter; and letter, way, letter for each relation that `text` states."""
    plain = (text[0].lower() + text[1:]).removesuffix(".")
    for pattern, said in GRAMMAR:
        match = pattern.fullmatch(plain)
        if match:
            found = match.groupdict()
            nouns = {letter: found[letter.upper()] for letter in "abc" if letter.upper() in found}
            return nouns, [(a, direction(found, way), b) for a, way, b in said]
    raise AssertionError(f"cannot read '{text}'")


def read(text, scene):
    """Index of the thing, way, index of the other thing; once for each relation that `text` states."""
    nouns, said = parsed(text)
    which = {letter: referent(scene, phrase) for letter, phrase in nouns.items()}
    return [(which[a], way, which[b]) for a, way, b in said]


def is_true(text, scene):
    """Whether any different things fit the noun phrases of `text` and lie as it says, 16 or more units apart."""
    nouns, said = parsed(text)
    for things in permutations(range(len(scene.things)), len(nouns)):
        which = dict(zip(nouns, things, strict=True))
        if all(which[letter] in fitting(scene, phrase) for letter, phrase in nouns.items()):
            ways = [(way, *map(scene.places.__getitem__, (which[a], which[b]))) for a, way, b in said]
            gaps = [{"left": b.x - a.x, "right": a.x - b.x, "up": b.y - a.y, "down": a.y - b.y}[w] for w, a, b in ways]
            if min(gaps) >= 16:
                return True
    return False


def is_so(thing, way, other, scene):
    (x, y), (ox, oy) = scene.places[thing], scene.places[other]
    return {"left": x < ox, "right": x > ox, "up": y < oy, "down": y > oy}[way]


def test_captions_read_by_an_independent_grammar_are_true_and_false_of_the_twin(collection):
    scenes = collection.images.scenes
    for text, row in zip(collection.captions, collection.image_of, strict=True):
        said = read(text, scenes[row])
        assert all(is_so(*fact, scenes[row]) for fact in said), text  # type: ignore[call-arg]
        assert not all(is_so(*fact, scenes[collection.twins[row]]) for fact in said), text  # type: ignore[call-arg]


def test_forms_mean_what_the_sentences_say_and_are_clear():
    used = Counter()
    for stream, scene, twin in pairs_of_scenes(150):
        for caption in describe(stream, scene, twin, 5):
            used[caption.pattern] += 1
            assert holds(caption.form, scene) and not fails(caption.form, scene)
            assert fails(caption.form, twin) and not holds(caption.form, twin)
            said = {(a, w, b) if w in ("left", "up") else (b, w, a) for a, w, b in read(caption.text, scene)}
            assert {(axis, a, b) for axis, a, b in caption.form} == {
                (0 if way in ("left", "right") else 1, a, b) for a, way, b in said
            }
    assert len(used) >= 20
    assert set(used) <= set(PATTERNS)
    joint = sum(n for pattern, n in used.items() if "{of2}" in pattern or "{c}" in pattern)
    assert 0.1 < joint / used.total() < 0.5


def test_truths_are_those_of_a_search_through_all_things_by_an_independent_grammar():
    collection = Scenes(train=2, val=2, test=40).load(Path())
    captions, images = np.arange(20, 220), collection.splits["test"]
    found = collection.truths(captions, images)
    scenes = [collection.images.scenes[row] for row in images]
    expected = np.array([[is_true(collection.captions[row], scene) for scene in scenes] for row in captions])
    assert np.array_equal(found, expected)
    own = np.repeat(np.arange(40), 5)
    assert found[np.arange(200), own].all() and not found[np.arange(200), own ^ 1].any()
    assert found.sum() > 220 and found.any(axis=0).all()
    few = np.array([3, 31, 7]), np.array([40, 4])
    assert np.array_equal(collection.truths(captions[few[0]], few[1]), found[few[0]][:, few[1] - 4])


def test_a_caption_is_true_where_different_things_fit_it_and_are_clearly_so():
    def scene(*given):
        kinds = [kind.split() for kind, _, _ in given]
        things = tuple(Thing(colour, shape, size, (0, 0, 0)) for colour, shape, size in kinds)
        return Scene(things, tuple(Placement(x, y) for _, x, y in given), (), None)

    caption = Caption("a red shape is left of a circle", (Fact(0, 0, 1),), "", {0: ("red",), 1: ("circle",)})
    scenes = {
        scene(("red circle small", 20, 50), ("blue circle large", 80, 50)): True,  # the first may be either
        scene(("blue circle large", 80, 50), ("green star large", 50, 50), ("red circle small", 20, 50)): True,
        scene(("red circle small", 20, 50), ("blue square large", 80, 50)): False,  # the only circle is the red shape
        scene(("red star small", 20, 50), ("blue circle large", 36, 50)): True,
        scene(("red star small", 20, 50), ("blue circle large", 35, 50)): False,  # not clearly
        scene(("red star small", 80, 50), ("blue circle large", 20, 50)): False,
        scene(("red star small", 80, 50), ("blue circle large", 50, 50), ("red cross small", 20, 50)): True,
    }
    assert Truths([caption], list(scenes))(np.arange(1), np.arange(len(scenes))).tolist() == [list(scenes.values())]


def test_captions_say_no_absolute_place(collection):
    words = Counter(word for text in collection.captions for word in re.findall("[a-z]+", text.lower()))
    absolute = "centre center middle corner top bottom edge leftmost rightmost topmost upper half side-by"
    assert not set(absolute.split()) & set(words)


def test_captions_are_five_and_different(collection):
    assert np.array_equal(collection.image_of, np.repeat(np.arange(100), 5))
    for row in range(100):
        assert len(set(collection.captions[5 * row : 5 * row + 5])) == 5


def test_captions_of_a_scene_do_not_tell_by_their_words_which_twin_they_belong_to(collection):
    by_letter = [Counter(), Counter()]
    for text, row in zip(collection.captions, collection.image_of, strict=True):
        by_letter[row % 2].update(w for w in ("left", "right", "above", "below") if w in text.lower())
    for word in by_letter[0]:
        first, second = by_letter[0][word], by_letter[1][word]
        assert abs(first - second) < 4 * np.sqrt(first + second)


def test_twins_have_the_same_things_none_at_its_place(collection):
    scenes, twins = collection.images.scenes, collection.twins
    assert np.array_equal(twins[twins], np.arange(100))
    assert np.all(twins != np.arange(100))
    for rows in collection.splits.values():
        assert set(twins[rows].tolist()) == set(rows.tolist())
    for row, twin in enumerate(twins):
        one, other = scenes[row], scenes[twin]
        assert one.things == other.things and one.empty == other.empty and one.backdrop == other.backdrop
        assert sorted(one.places) == sorted(other.places)
        assert all(a != b for a, b in zip(one.places, other.places, strict=True))
        assert 2 <= len(one.things) <= 4
        assert len({(thing.colour, thing.shape) for thing in one.things}) == len(one.things)


def test_categories_are_the_things_with_their_colours_and_those_of_twins_are_equal(collection):
    names = collection.label_names
    assert len(names) == len(set(names)) == len(COLOURS) * len(SHAPES) == collection.labels.shape[1]
    for scene, labels in zip(collection.images.scenes, collection.labels, strict=True):
        own = {names[column] for column in np.flatnonzero(labels)}
        assert own == {f"{thing.colour} {thing.shape}" for thing in scene.things}
    assert np.array_equal(collection.labels[collection.twins], collection.labels)
    assert collection.labels.any(axis=0).sum() > 25 and collection.metric == "rsum"


def test_splits_follow_one_another_and_ids_name_twins(collection):
    assert [len(collection.splits[split]) for split in ("train", "val", "test")] == [60, 20, 20]
    assert np.array_equal(np.concatenate([collection.splits[s] for s in ("train", "val", "test")]), np.arange(100))
    assert collection.images.ids[0] == "train-00000a" and collection.images.ids[61] == "val-00000b"
    assert len({collection.images.digest(row) for row in range(100)}) == 100


@pytest.mark.parametrize("size", [64, 71, 96, 130, 512])
def test_regions_do_not_overlap_and_stay_inside(size):
    for _, scene, twin in pairs_of_scenes(40):
        for one in (scene, twin):
            boxes = np.array(frames(one, size))
            assert boxes.shape == (REGIONS, 4)
            assert boxes.min() >= 0 and boxes.max() <= size
            assert np.all(boxes[:, :2] < boxes[:, 2:])
            for j in range(REGIONS):
                for k in range(j):
                    a, b = boxes[j], boxes[k]
                    assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_boxes_hold_their_thing_and_nothing_else(collection):
    for row in range(0, 100, 7):
        scene, picture = collection.images.scenes[row], np.asarray(collection.images.read(row)).astype(int)
        ground = np.ptp(picture, axis=2) + 255 - picture.max(axis=2) < 36
        boxes = np.rint(collection.boxes[row] * 96).astype(int)
        for k, (x0, y0, x1, y1) in enumerate(boxes):
            if k < len(scene.things):
                inside = picture[y0:y1, x0:x1][~ground[y0:y1, x0:x1]]
                away = {name: np.abs(np.median(inside, axis=0) - rgb).sum() for name, rgb in RGB.items()}
                assert min(away, key=away.get) == scene.things[k].colour
                assert not ground[y0:y1, x0:x1][2:-2, 2:-2].all(axis=0).any(), "the box is tight"
            ground[y0:y1, x0:x1] = True
        assert ground.all(), "no ink outside the boxes"


def test_boxes_list_things_in_no_order_of_place(collection):
    boxes = Scenes(train=400, val=2, test=2).load(Path()).boxes[:400]
    middle = (boxes[:, :2, :2] + boxes[:, :2, 2:]) / 2
    assert np.all(np.abs((middle[:, 0] < middle[:, 1]).mean(axis=0) - 0.5) < 0.1)


def test_boxes_of_the_collection():
    boxes = SMALL.load(Path()).boxes
    assert boxes.shape == (100, 5, 4) and boxes.dtype == np.float32
    assert boxes.min() > 0 and boxes.max() < 1


def test_same_bytes_everywhere(collection):
    assert collection.split_sha() == "cab0c3146cbc8d53f3953f0b4f01c641179b6d76b38867c265379c30af773659"
    assert (
        sha256_bytes(collection.images.read(3).tobytes())
        == "e6bc6a5f36c838051455d1e1a4a633716a95f9fad89166d044b2cbe1569b9c2a"
    )
    assert (
        sha256_bytes(collection.boxes.astype("<f4").tobytes())
        == "b8c38a8dd1ef0484f926c9de2813ca16b7612fa9eaf3652a2fe63ccd2dde0361"
    )


def test_shapes_are_drawn_as_named():
    ink = {}
    for _, scene, _twin in pairs_of_scenes(60):
        picture, boxes = draw(scene, 96), frames(scene, 96)
        for thing, (x0, y0, x1, y1) in zip(scene.things, boxes, strict=False):
            if thing.size == "large":
                dark = picture[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].min(axis=2) < 200
                ink.setdefault(thing.shape, []).append((dark.mean(), dark[:4].mean(), dark[-4:].mean()))
    share = {shape: np.mean(values, axis=0) for shape, values in ink.items()}
    assert set(share) == set(SHAPES)
    assert share["square"][0] > 0.99
    assert 0.74 < share["circle"][0] < 0.83
    assert 0.5 < share["cross"][0] < 0.62
    assert 0.45 < share["triangle"][0] < 0.56 and share["triangle"][1] < share["triangle"][2]
    assert 0.25 < share["star"][0] < 0.42


def test_scenes_of_a_split_do_not_depend_on_the_sizes(collection):
    other = Scenes(train=10, val=40, test=20).load(Path())
    for split, count in (("train", 10), ("val", 20), ("test", 20)):
        ours, theirs = collection.splits[split][:count], other.splits[split][:count]
        assert collection.captions_of(ours)[0] == other.captions_of(theirs)[0]
        assert [collection.images.digest(r) for r in ours] == [other.images.digest(r) for r in theirs]


def test_seed_and_size_count():
    plain, seeded, larger = (
        Scenes(train=2, val=2, test=2, **options).load(Path()) for options in ({}, {"seed": 1}, {"size": 128})
    )
    assert plain.split_sha() != seeded.split_sha()
    assert plain.split_sha() == larger.split_sha()
    assert plain.images.digest(0) != larger.images.digest(0)
    assert larger.images.read(0).size == (128, 128)
    assert plain.name == "scenes"


def test_splits_share_no_scene(collection):
    seen = {split: {collection.images.digest(row) for row in rows} for split, rows in collection.splits.items()}
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["val"] and not seen["val"] & seen["test"]


def test_wrong_sizes_are_refused_in_one_sentence():
    with pytest.raises(BadInput, match="val is 7, but scenes come in pairs of twins; use an even number, 2 or more"):
        DATASETS.configure("scenes[val=7]")
    with pytest.raises(BadInput, match="train is 0"):
        DATASETS.configure("scenes[train=0]")
    with pytest.raises(BadInput, match="size is 20 pixels; use 64 to 512"):
        DATASETS.configure("scenes[size=20]")


def test_quick_preset_and_defaults():
    scenes = DATASETS.configure("scenes:quick").build()
    assert (scenes.train, scenes.val, scenes.test) == (300, 100, 200)
    assert scenes.defaults() == {"backbone": "pixels", "regions": "boxes"}


def test_stream_is_uniform_and_shuffles():
    stream = Stream("uniform")
    counts = np.bincount([stream.below(6) for _ in range(6000)], minlength=6)
    assert counts.min() > 850 and counts.max() < 1150
    assert stream.below(1) == 0
    assert sorted(stream.shuffle(range(9))) == list(range(9))
