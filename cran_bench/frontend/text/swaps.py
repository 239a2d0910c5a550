"""False captions made from true ones by rules: two phrases exchanged, a preposition reversed, words shuffled.

The exchanges resemble the hard negatives of Winoground and SugarCrepe; the four orders are those of ARO (Yuksekgonul et
al., ICLR 2023).  All but reversed prepositions have exactly the words of the true caption, so that a bag of words
cannot tell the two apart.  Every choice is made by sha256, the same on all platforms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from cran_bench.frontend.text import english
from cran_bench.frontend.text.phrases import NounChunk, ParsedCaption, Span
from cran_bench.frontend.text.tagging import words_of
from cran_bench.machine.progress import track

MOST_OF_AN_ORDER = 1000
ATTEMPTS = 8  # drawn orders of one caption, if the first are those of true captions

_NO_ACTION = re.compile(r"(?:is|are|was|were|be|being|been|am|has|have|had|having|wear.*|dress.*|contain.*)$")
_OF_IT = re.compile(r"(?:(?:on|to) its (?:left|right)|(?:above|below|over|under|beneath|underneath|behind) it)\b")
_INVERTED = re.compile(r"(?:there )?(?:is|are)|you can see|and you will find")
_STAYS = re.compile(r"all|bent|lean|look|tak|shak|show|made|dry|dries|com|get|fl|off|far|out|put|hold|fight")
_TAKES = ("in", "with", "of", "wearing")  # what follows these belongs to the noun before
_OBJECT_AFTER = ("on", "onto", "at", "after", "toward", "towards", "past", "into", "off", "through", "around")
_GOVERNS = ("on", "in", "over", "under", "through", "off", "into", "onto", "up", "down", "above", "behind", "past")
_FOLLOWS = (*_GOVERNS, "near", "to", "beside", "by", "along", "toward", "towards", "across", "from", "against", "with")
_POLES = ({"large", "small"}, {"young", "old"}, {"tall", "short"})

Ranked = Iterator[tuple[int, str]]
Blocks = list[list[list[int]]]  # for each group of places: the runs that are shuffled among each other


@dataclass(frozen=True)
class Swaps:
    """P false captions, by kind and within a kind by caption.

    Attributes:
        caption: (P,) int64, the position of the true caption among those given.
        false: P captions.
        kind: (P,) int64, the position of each pair's kind in `kinds`.
        kinds: names of the kinds.
    """

    caption: NDArray[np.int64]
    false: list[str]
    kind: NDArray[np.int64]
    kinds: tuple[str, ...]


def make_swaps(captions: Sequence[str], seed: int = 0) -> Swaps:
    """Make at most one false caption of each kind for every caption, of each order for at most 1,000 drawn captions.

    A false caption that is one of `captions`, up to case and punctuation, is left out.
    """
    parsed = [ParsedCaption(text) for text in track(captions, "reading captions", total=len(captions))]
    true = {_plain(words_of(text)) for text in captions}
    rows: list[tuple[int, int, str]] = []
    for kind, name in enumerate(track(KINDS, "contrasts of the captions", total=len(KINDS))):
        places, most = list(range(len(parsed))), len(parsed)
        if name in _ORDERS:
            most = MOST_OF_AN_ORDER
            places.sort(key=lambda place: (_draw(seed, name, captions[place]), place))
        found: list[tuple[int, int, str]] = []
        for place in places:
            for text in _candidates(parsed[place], name, seed) if len(found) < most else ():
                words = words_of(text)
                has_its_words = name == "preposition" or sorted(words) == sorted(parsed[place].words)
                if has_its_words and _plain(words) not in true:
                    found.append((kind, place, text))
                    break
        rows += sorted(found)
    kinds, positions = (np.array([row[part] for row in rows], dtype=np.int64) for part in (0, 1))
    return Swaps(positions, [text for _, _, text in rows], kinds, KINDS)


def _candidates(caption: ParsedCaption, name: str, seed: int) -> Iterator[str]:
    """False captions of a kind, the best first, those of one rank in a drawn order."""
    if name not in _ORDERS:
        ranked = sorted((rank, _draw(seed, name, caption.text, text), text) for rank, text in _SWAPS[name](caption))
        yield from (text for _, _, text in ranked)
        return
    groups = _ORDERS[name](caption)
    for attempt in range(ATTEMPTS):
        moves: list[tuple[int, int]] = []
        for runs in groups:
            drawn = sorted(runs, key=lambda run: _draw(seed, name, caption.text, attempt, run[0]))
            moves += zip(chain(*runs), chain(*drawn), strict=True)
        if any(to != own for to, own in moves):
            yield caption.moved([((to, to + 1), (own, own + 1)) for to, own in moves if to != own])


def _draw(*about: object) -> str:
    return sha256("\n".join(map(str, about)).encode("utf-8", "surrogatepass")).hexdigest()


def _plain(words: Sequence[str]) -> str:
    return " ".join(word for word in words if word[0].isalnum())


def _agents(caption: ParsedCaption) -> Ranked:
    """Two phrases exchanged around a verb or a preposition, or as subjects of two verbs."""
    for number, (first, second) in enumerate(pairwise(caption.chunks)):
        link, letters = caption.between(first, second)
        is_reversed = _is_reversed(caption, first, second)
        if not is_reversed and not _relates(caption, first, second):
            continue
        is_relative, is_verb = link[0] in english.RELATIVE, "V" in letters
        one = caption.chunks[number if is_reversed else _owner(caption, number, is_verb and not is_relative)]
        before = caption.letters[one.start - 1] if one.start else "X"
        is_other_subject = before in "PV" and (caption.shows_number(first.end, second.start) or not one.is_alive)
        is_other_subject = is_other_subject if is_verb else before in "VPR" and link[-1] == "on"
        is_contrary = any(caption.is_contrary(place, second.start) for place in range(first.end, second.start))
        is_place = second.group == "place" and is_verb and not is_contrary
        is_part = caption.word(one.start - 1) in _TAKES or (is_other_subject and not is_relative)
        if is_place or (is_part and not is_reversed):
            continue
        spans = (one.start, first.end), (second.start, _end(caption, number + 1))
        if _may_act(caption, one, second, spans):
            rank = 0 if one.is_alive and second.is_alive else 1 + (one.is_alive or second.is_alive)
            yield rank, caption.exchanged(*spans)
    for (number, one), (other, two) in combinations(enumerate(caption.chunks), 2):
        spans = (one.start, _end(caption, number)), (two.start, _end(caption, other))
        if _are_objects(caption, one, two) and caption.may_exchange(one, two) and caption.word(spans[1][1]) != "of":
            yield 1, caption.exchanged(*spans)
        elif _are_subjects(caption, number, other, spans) and _may_act(caption, one, two, spans):
            yield 0, caption.exchanged(*spans)


def _are_objects(caption: ParsedCaption, one: NounChunk, two: NounChunk) -> bool:
    """Whether two things follow two verbs or prepositions, as in ``holding a bag on a bench near a tree``."""
    before, after = caption.word(one.start - 1), caption.word(two.start - 1)
    link, _ = caption.between(one, two)
    if one.group != two.group or one.group not in ("thing", "place") or {one.name, two.name} & english.UNCOUNTED:
        return False
    if {"and", ",", "of"} & {*link} or before == after or (before, after) == ("in", "on"):  # a seat on a bus
        return False
    is_acted = [caption.letters[c.start - 1 : c.start] == "V" and one.group == "thing" for c in (one, two)]
    return (before in _GOVERNS or is_acted[0]) and (after in _FOLLOWS or is_acted[1])


def _are_subjects(caption: ParsedCaption, number: int, other: int, spans: tuple[Span, Span]) -> bool:
    """Whether two beings, in two phrases, do two different things, or one of them does something to the other."""
    one, two = caption.chunks[number], caption.chunks[other]
    link, letters = caption.words[spans[0][1] : two.start], caption.letters[spans[0][1] : two.start]
    if not link or link[0] == "of" or caption.word(one.start - 1) in ("in", "of", "wearing", "and"):
        return False
    own = caption.words[caption.chunks[other - 1].end : two.start] if letters[-1] != "C" else []
    acts = [letter == "V" and not _NO_ACTION.match(word) for word, letter in zip(link, letters, strict=True)]
    if _rank(one, two, is_modified=False) != 0 or _is_symmetric(own):
        return False
    is_clause = link[-1] == "and" and caption.letters[spans[1][1] : spans[1][1] + 1] == "V"
    is_plain = link[-1] in (*english.PLAIN, "in") or link[-2:] == ["next", "to"]
    things = [c for c in caption.chunks[number:other] if c.start >= spans[0][1] and c.group == "thing"]
    is_beside = bool(things) and link[-1] in ("to", "near", "beside", "by", "and")
    return is_beside or (any(acts) and (is_clause or not is_plain))


def _may_act(caption: ParsedCaption, one: NounChunk, two: NounChunk, spans: tuple[Span, Span]) -> bool:
    """Whether two phrases, which start with the chunks, can be exchanged, and differ in more than a determiner."""
    inner = ((one.inner, spans[0][1]), (two.inner, spans[1][1]))
    own = [[word for word in caption.words[slice(*span)] if word != "one"] for span in inner]
    are_alike = one.is_plural == two.is_plural and english.GROUPS.isdisjoint((one.name, two.name))
    may_differ = are_alike or not caption.shows_number(0, len(caption.words))
    return may_differ and caption.word(spans[1][1]) != "of" and own[0] != own[1] and caption.may_exchange(one, two)


def _end(caption: ParsedCaption, number: int) -> int:
    """Where a phrase ends that starts with a chunk: after what it is of, and after what a person wears."""
    chunk = caption.chunks[number]
    end = chunk.end
    for other in caption.chunks[number + 1 :]:
        link = caption.words[end : other.start]
        is_worn = chunk.is_alive and (other.group == "clothes" or other.name in english.DYES)
        is_listed = end > chunk.end and link and {"and", ","}.issuperset(link)
        if link != ["of"] and not (is_worn and (link in (["in"], ["wearing"], ["with"]) or is_listed)):
            break
        end = other.end
    return end


def _is_reversed(caption: ParsedCaption, first: NounChunk, second: NounChunk) -> bool:
    """Whether other words than those between two chunks relate them: ``above A is B``, ``A with B above it``."""
    link = " ".join(caption.between(first, second)[0])
    is_after = any(caption.is_contrary(place, first.start) for place in (0, 1))
    after = " ".join(caption.words[second.end : second.end + 3])
    return bool((is_after and _INVERTED.fullmatch(link)) or (link in ("with", "has") and _OF_IT.match(after)))


def _relates(caption: ParsedCaption, first: NounChunk, second: NounChunk) -> bool:
    """Whether the words between two chunks are a verb or a preposition that makes a difference between them."""
    link, letters = caption.between(first, second)
    starts = range(first.end, second.start)
    start = next((place for place in starts if caption.relations.get(place) == second.start), second.start)
    own = link[: start - first.end]
    if not 1 <= len(link) <= 7 or set(letters) & set("CXGNDMJ") or _is_symmetric(own):
        return False
    is_pronoun = "Q" in letters[1:] or (letters[0] == "Q" and link[0] not in english.RELATIVE)
    if is_pronoun or (letters[0] == "P" and "V" in letters):
        return False
    if caption.is_contrary(start, second.start):
        return english.PLAIN.isdisjoint(own)
    verbs = [word for word, letter in zip(link, letters, strict=True) if letter == "V"]
    is_passive = link[-1] == "by" and bool(verbs) and link[-2].endswith(("ed", "en"))
    if (not is_passive and not english.PLAIN.isdisjoint(link)) or (verbs and all(map(_NO_ACTION.match, verbs))):
        return link[-1] == "on" and len(link) == 2
    if letters[-1] == "V":
        return not link[-1].endswith("ed")
    return letters[-1] == "P" and (is_passive or link[-1] in (_OBJECT_AFTER if verbs else ("on",)))


def _owner(caption: ParsedCaption, number: int, is_subject: bool) -> int:
    """The chunk to which a chunk belongs by ``in``, ``with`` and the like, perhaps in a list; else itself."""
    for place in range(number, 0, -1):
        link, letters = caption.between(caption.chunks[place - 1], caption.chunks[place])
        if (len(link) == 1 and link[0] in _TAKES) or (is_subject and letters and not letters.strip("P")):
            number = place - 1
        elif not link or letters.strip("C") or caption.chunks[place].is_alive:
            break
    return number


def _attributes(caption: ParsedCaption) -> Ranked:
    """Two attributes exchanged that exclude one another, or that are a colour and something else."""
    runs = [(number, run) for number, chunk in enumerate(caption.chunks) for run in _runs(caption, chunk)]
    for (number, first), (other, second) in combinations(runs, 2):
        one, two = caption.chunks[number], caption.chunks[other]
        its = [caption.words[slice(*run)] for run in (first, second)]
        own = [{*caption.words[chunk.inner : chunk.end]} - {"and", ","} for chunk in (one, two)]
        owners = [_wearer(caption, place) for place in (number, other)]
        names = {o if c.name in english.DYES else c.name for c, o in zip((one, two), owners, strict=True)}
        is_apart = len(names) > 1 or (owners[0] != owners[1] and not one.is_alive)
        is_apart = is_apart or (other == number + 1 and _relates(caption, one, two))
        if not is_apart or own[0] & {*its[1]} or own[1] & {*its[0]}:
            continue
        is_dyed = [words[-1] in english.DYES for words in its]
        plain, dyed = own[is_dyed[0]], own[is_dyed[1]]
        if _exclude(*its):
            yield one.group != two.group, caption.exchanged(first, second, one, two)
            continue
        are_things = not {one.group, two.group, one.name, two.name} & {"person", *english.DYES}
        are_apart = plain.isdisjoint(english.DYES) and dyed.isdisjoint(english.OPPOSED) and plain.isdisjoint(dyed)
        if is_dyed[0] != is_dyed[1] and are_things and are_apart:
            yield 2, caption.exchanged(first, second, one, two)


def _wearer(caption: ParsedCaption, number: int) -> str:
    """The name of the last being up to a chunk."""
    return next((chunk.name for chunk in caption.chunks[number::-1] if chunk.is_alive), "")


def _runs(caption: ParsedCaption, chunk: NounChunk) -> Iterator[Span]:
    """Where the attributes of a chunk are; several colours are one, and the colours of people are none."""
    words, place = caption.words, chunk.start
    while place < chunk.noun:
        start, place = place, place + 1
        if words[start] in english.DYES:
            while place < chunk.noun and (words[place] in english.DYES or words[place] in ("and", ",")):
                place += 1
            start -= start > chunk.start and words[start - 1] in english.SHADES
            if words[place - 1] in english.DYES and chunk.group != "person":
                yield start, place
        elif words[start] in english.OPPOSED or words[start] in english.STATES:
            yield start, place
    if chunk.name in english.DYES and caption.word(chunk.start - 1) in ("in", "wearing") and chunk.start == chunk.noun:
        yield chunk.noun, chunk.end


def _nouns(caption: ParsedCaption) -> Ranked:
    """The nouns of two chunks exchanged, where their attributes or what is between tells them apart."""
    for one, two in combinations(caption.chunks, 2):
        own = [caption.words[chunk.inner : chunk.noun] for chunk in (one, two)]
        rank = _rank(one, two, is_modified=own[0] != own[1])
        is_uncounted = [chunk.name in english.UNCOUNTED for chunk in (one, two)]
        if rank < 0 or one.is_plural != two.is_plural or len({*is_uncounted}) > 1 or not caption.may_exchange(one, two):
            continue
        link, _ = caption.between(one, two)
        is_symmetric = {*link[-1:]} & {"at", *english.PLAIN} or {"and", ","} & {*link} or link[-2:] == ["next", "to"]
        is_symmetric = is_symmetric or caption.word(one.start - 1) == caption.word(two.start - 1) != ""
        is_symmetric = is_symmetric or _is_symmetric(link)
        around = {caption.word(place) for place in (one.start - 1, one.end, two.start - 1, two.end)}
        is_owned = caption.words[one.start] in english.OWN or caption.words[two.start] in english.OWN
        if "of" in around or is_owned or (is_symmetric and not _exclude(*own)):
            continue
        if (one.group == "person") == (two.group == "person") or english.COLOURS.isdisjoint(own[one.group == "person"]):
            yield rank, caption.exchanged((one.noun, one.end), (two.noun, two.end), one, two)


def _rank(one: NounChunk, two: NounChunk, is_modified: bool) -> int:
    """How well the nouns of two chunks exchange, 0 best; -1 if one thing may have both names."""
    if _are_same(one.name, two.name) or ("person" in (one.name, two.name) and one.group == two.group):
        return -1
    if one.is_alive and two.is_alive:
        return 0
    if one.group == two.group:
        return {"clothes": 1, "thing": 2}.get(one.group, 4)
    return 3 if is_modified and {one.group, two.group} <= {"person", "animal", "thing"} else -1


def _is_symmetric(words: Sequence[str]) -> bool:
    """Whether a verb is among the words whose subject and object may change places."""
    return any(word.startswith(english.SYMMETRIC) for word in words)


def _are_same(one: str, two: str) -> bool:
    return one == two or any(one in names and two in names for names in english.SAME)


def _exclude(one: Sequence[str], two: Sequence[str]) -> bool:
    """Whether each of two lists of attributes has a colour or a size that a thing with the other cannot have."""
    colours = [[word for word in words if word in english.DYES] for words in (one, two)]
    if all(colours):
        return not any(_are_same(word, other) for word in colours[0] for other in colours[1])
    return any({english.OPPOSED.get(a), english.OPPOSED.get(b)} in _POLES for a in one for b in two)


def _prepositions(caption: ParsedCaption) -> Ranked:
    """A preposition or particle replaced by its opposite."""
    ranks = {"with": 3, "without": 3, "on": 2, "near": 1, "next to": 1, "beside": 1}
    for start, end in caption.relations.items():
        phrase = " ".join(caption.words[start:end])
        if _may_reverse(caption, start, end, phrase):
            opposite = english.OPPOSITE[tuple(caption.words[start:end])]
            yield ranks.get(phrase, 0), caption.moved([], {(start, end): opposite})


def _may_reverse(caption: ParsedCaption, start: int, end: int, phrase: str) -> bool:
    """Whether the opposite of a phrase is English in its place, and false."""
    thing = next((chunk for chunk in caption.chunks if chunk.start == end), None)
    before, letter = caption.word(start - 1), caption.letters[start - 1] if start else "X"
    if phrase in ("inside", "outside", "indoors", "outdoors"):
        return letter != "D"
    if end - start > 2 or "than" in phrase or phrase in ("left of", "right of", "inside of", "outside of"):
        return True
    if thing is None:
        return phrase == "behind" or caption.word(end) == "it"
    noun, is_own = caption.words[thing.end - 1], caption.words[thing.start] in english.OWN
    if phrase in ("up", "down"):
        return noun in english.SLOPES and not _STAYS.match(before)
    if phrase == "on":
        return noun in english.SURFACES and not is_own
    if phrase in ("with", "without"):
        return letter == "N" and not is_own and caption.words[thing.start] != "no"
    if phrase in ("off", "onto") and letter != "V":
        return False
    return not (_STAYS.match(before) or noun in ("camera", "microphone", "air", "distance") or is_own or thing.is_bare)


def _of_letters(caption: ParsedCaption, *letters: str) -> Blocks:
    return [[[place] for place in caption.places if caption.letters[place] in own] for own in letters]


def _by_three(caption: ParsedCaption) -> list[list[int]]:
    return [caption.places[start : start + 3] for start in range(0, len(caption.places), 3)]


_SWAPS: dict[str, Callable[[ParsedCaption], Ranked]] = {
    "agent": _agents,
    "attribute": _attributes,
    "noun": _nouns,
    "preposition": _prepositions,
}
_ORDERS: dict[str, Callable[[ParsedCaption], Blocks]] = {
    "nouns-adjectives": lambda caption: _of_letters(caption, "NG", "J"),
    "other-words": lambda caption: _of_letters(caption, "DVRPQCMX"),
    "in-trigrams": lambda caption: [[[place] for place in three] for three in _by_three(caption)],
    "trigrams": lambda caption: [_by_three(caption)],
}
KINDS = (*_SWAPS, *_ORDERS)
