"""False captions made from true ones by rules: two phrases exchanged, a preposition reversed, words shuffled.

The exchanges resemble the hard negatives of Winoground and SugarCrepe; the four orders are those of ARO (Yuksekgonul et
al., ICLR 2023).  All but reversed prepositions have exactly the words of the true caption, so that a bag of words
cannot tell the two apart.  Every choice is made by sha256, the same on all platforms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from cran_bench.frontend.text import english
from cran_bench.frontend.text.tagging import tag, words_of

MOST_OF_AN_ORDER = 1000
MOST_WORDS = 200  # nothing is made of longer captions
ATTEMPTS = 8  # drawn orders of one caption, if the first are those of true captions

_WORD = re.compile(r"[^\W_]+(?:(?:['’-]|\s+['’](?=s\b))[^\W_]+)*|[^\w\s'’\"“”]", re.IGNORECASE)
_CHUNK = re.compile(r"D?(?:R*[JMG](?:C+R*J)*)*N+")  # of one letter for each word, those of `_LETTERS`
_LETTERS = {"noun": "N", "verb": "V", "adjective": "J", "adverb": "R", "determiner": "D", "preposition": "P"}
_LETTERS |= {"pronoun": "Q", "conjunction": "C", "number": "M", "other": "X"}
_SYMMETRIC = re.compile("|".join(english.SYMMETRIC.split()))
_NO_ACTION = re.compile(r"(?:is|are|was|were|be|being|been|am|has|have|had|having|wear.*|dress.*|contain.*)$")
_OF_IT = re.compile(r"(?:(?:on|to) its (?:left|right)|(?:above|below|over|under|beneath|underneath|behind) it)\b")
_INVERTED = re.compile(r"(?:there )?(?:is|are)|you can see|and you will find")
_STAYS = re.compile(r"all|bent|lean|look|tak|shak|show|made|dry|dries|com|get|fl|off|far|out|put")
_TAKES = ("in", "with", "of", "wearing")  # what follows these belongs to the noun before
_OBJECT_AFTER = ("on", "onto", "at", "after", "toward", "towards", "past", "into", "off", "through", "around")
_OWN = ("his", "her", "its", "their", "whose", "my", "our", "your")

Span = tuple[int, int]
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
    parsed = [_Caption(text) for text in captions]
    true = {_plain(words_of(text)) for text in captions}
    rows: list[tuple[int, int, str]] = []
    for kind, name in enumerate(KINDS):
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


def _candidates(caption: _Caption, name: str, seed: int) -> Iterator[str]:
    """False captions of a kind, the best first, those of one rank in a drawn order."""
    if name not in _ORDERS:
        ranked = sorted((rank, _draw(seed, name, caption.text, text), text) for rank, text in _SWAPS[name](caption))
        yield from (text for _, _, text in ranked)
        return
    groups = _ORDERS[name](caption)
    for attempt in range(ATTEMPTS):
        moves = []
        for blocks in groups:
            drawn = sorted(blocks, key=lambda block: _draw(seed, name, caption.text, attempt, block[0]))
            pairs = zip(
                (to for block in blocks for to in block), (own for block in drawn for own in block), strict=True
            )
            moves += [((to, to + 1), (own, own + 1)) for to, own in pairs if to != own]
        yield caption.moved(moves)


def _draw(*about: object) -> str:
    return sha256("\n".join(map(str, about)).encode("utf-8", "surrogatepass")).hexdigest()


def _plain(words: Sequence[str]) -> str:
    return " ".join(word for word in words if word[0].isalnum())


@dataclass(frozen=True)
class _Chunk:
    """The words from `start` to `end` that name a thing, the nouns from `noun` on.

    Attributes:
        name: the last noun, in the singular.
        is_counted: whether a determiner, a number or the plural shows how many there are.
    """

    start: int
    noun: int
    end: int
    has_determiner: bool
    is_plural: bool
    name: str
    is_counted: bool

    @property
    def group(self) -> str:
        lists = {"person": english.PEOPLE, "animal": english.ANIMALS, "clothes": english.CLOTHES}
        return next((group for group, names in lists.items() if self.name in names), "thing")

    @property
    def is_alive(self) -> bool:
        return self.group in ("person", "animal")


class _Caption:
    """A caption: its words and where they are in the text, a letter for the part of speech of each, and its chunks.

    Attributes:
        relations: where a phrase of `english.OPPOSITE` starts, and where it ends.
    """

    def __init__(self, text: str) -> None:
        self.text, self.words = text, words_of(text)
        self.spans = [match.span() for match in _WORD.finditer(text)]
        spelled = ["".join(text[start:end].lower().replace("’", "'").split()) for start, end in self.spans]
        if spelled != self.words or len(spelled) > MOST_WORDS:  # letters whose case changes their number
            self.words, self.spans = [], []
        self.places = [place for place, word in enumerate(self.words) if word[0].isalnum()]
        self.relations: dict[int, int] = {}
        for place in range(len(self.words)):
            ends = range(min(place + 5, len(self.words)), place, -1)
            end = next((end for end in ends if tuple(self.words[place:end]) in english.OPPOSITE), 0)
            if end and place >= max(self.relations.values(), default=0):
                self.relations[place] = end
        self.letters = self._letters()
        self.is_telegraphic = {"a", "an", "the"}.isdisjoint(self.words)
        self.chunks = [self._chunk(match) for match in _CHUNK.finditer(self.letters)]

    def _letters(self) -> str:
        """A letter for each word, with some words of attributes and phrases put right."""
        letters = [_LETTERS[found] for found in tag(self.words)]
        for place, word in enumerate(self.words):
            before, after = letters[place - 1] if place else "X", (letters[place + 1 :] or "X")[0]
            if word.endswith("'s"):
                letters[place] = "G"
            elif word == ",":
                letters[place] = "C"
            elif word in ("both", "than"):
                letters[place] = "P"
            elif word == "plus" and self.word(place + 1) == "sign":
                letters[place] = "N"
            elif word in english.COMPOUNDS and before in "NJ" and after in "NJ":
                letters[place - 1 : place + 1] = "JJ"
            elif (word == "all" and before == "D") or (word in english.SHADES and self.word(place + 1) in english.DYES):
                letters[place] = "J"
        for start, end in self.relations.items():
            if end - start > 1:
                letters[start:end] = "P" * (end - start)
        for place in range(len(letters) - 2, -1, -1):
            is_attribute = self.words[place] in english.DYES or self.words[place] in english.ADJECTIVES
            if letters[place : place + 2] == ["N", "N"] and is_attribute:
                letters[place] = "J"
        return "".join(letters)

    def _chunk(self, match: re.Match[str]) -> _Chunk:
        (start, end), letters = match.span(), match[0]
        noun = self.words[end - 1]
        ends = noun.endswith("s") and not noun.endswith("ss") and noun not in english.SINGULARS
        number = self.words[start] if letters[0] == "M" else "one"
        is_plural = noun in english.PLURALS or ends or number != "one"
        is_counted = is_plural or letters[0] in "DM"
        name = english.SINGULAR_OF.get(noun) or (noun[:-1] if ends else noun)
        return _Chunk(start, start + len(letters.rstrip("N")), end, letters[0] == "D", is_plural, name, is_counted)

    def word(self, place: int) -> str:
        return self.words[place] if 0 <= place < len(self.words) else ""

    def exchanged(self, first: Span, second: Span, *chunks: _Chunk) -> str:
        """The text with two runs of words exchanged, and the indefinite articles of `chunks` fitted."""
        moves: list[tuple[Span, Span]] = [(first, second), (second, first)]
        articles = {}
        for chunk, (own, other) in zip(chunks, moves, strict=False):
            if self.words[chunk.start] in ("a", "an"):
                after = self.words[other[0] if own[0] == chunk.start + 1 else chunk.start + 1]
                is_an = (after[0] in "aeiou" and not after.startswith(english.A_BEFORE)) or after in english.AN_BEFORE
                articles[chunk.start, chunk.start + 1] = "an" if is_an else "a"
        return self.moved(moves, articles)

    def moved(self, moves: Sequence[tuple[Span, Span]], new: Mapping[Span, str] | None = None) -> str:
        """The text with the words of the first span of each move replaced by those of the second, others by `new` ones.

        A capital stays at the beginning of the sentence.
        """
        edits = [(*span, words) for span, words in (new or {}).items()]
        edits += [(*to, self.text[self.spans[own[0]][0] : self.spans[own[1] - 1][1]]) for to, own in moves]
        text, first = self.text, self.places[0] if self.places else 0
        is_capital = bool(self.spans) and text[self.spans[first][0]].isupper()
        origins = {to[0]: own[0] for to, own in moves}
        for start, end, words in sorted(edits, reverse=True):
            if is_capital and start == first:
                words = words[0].upper() + words[1:]
            elif is_capital and origins.get(start) == first and not words[1:2].isupper():
                words = words[0].lower() + words[1:]
            text = text[: self.spans[start][0]] + words + text[self.spans[end - 1][1] :]
        return text

    def may_exchange(self, one: _Chunk, two: _Chunk) -> bool:
        """Whether two chunks are things of their own, and a, the or no article suits either."""
        is_bare = [not chunk.is_counted and chunk.name not in english.UNCOUNTED for chunk in (one, two)]
        return self._is_thing(one) and self._is_thing(two) and is_bare in ([False] * 2, [self.is_telegraphic] * 2)

    def _is_thing(self, chunk: _Chunk) -> bool:
        noun, nouns = self.words[chunk.end - 1], self.words[chunk.noun : chunk.end - 1]
        is_verb = noun[-1] == "s" and {noun[:-1], noun[:-2]} & (english.VERBS | english.RARER_VERBS)
        return not (
            noun in english.NAMELESS
            or noun in english.DYES
            or self.words[chunk.start] in _OWN
            or any(word in english.PLURALS or (word[-1] == "s" and word in english.CLOTHES) for word in nouns)
            or (is_verb and not chunk.has_determiner)
        )

    def shows_number(self, start: int, end: int) -> bool:
        """Whether a verb from `start` to `end` agrees with the number of its subject."""
        pairs = zip(self.words[start:end], self.letters[start:end], strict=True)
        return any(letter == "V" and not word.endswith(("ing", "ed")) for word, letter in pairs)


def _agents(caption: _Caption) -> Ranked:
    """Two phrases exchanged around a verb or a preposition."""
    for number, (first, second) in enumerate(pairwise(caption.chunks)):
        is_finite = caption.shows_number(first.end, second.start)
        if _is_reversed(caption, first, second):
            head = number
        elif _relates(caption, first, second):
            head = _owner(caption, number, "V" in caption.letters[first.end : second.start])
        else:
            continue
        one, end, following = caption.chunks[head], second.end, number + 2
        while caption.word(end) == "of" and caption.chunks[following:] and caption.chunks[following].start == end + 1:
            end, following = caption.chunks[following].end, following + 1
        before = caption.letters[one.start - 1] if one.start else "X"
        is_relative, letters = caption.words[first.end] in english.RELATIVE, caption.letters[first.end : second.start]
        if caption.word(one.start - 1) in _TAKES or caption.word(end) == "of" or not caption.may_exchange(one, second):
            continue
        if not (is_relative or _is_reversed(caption, first, second)):
            if before in "PV" and (is_finite or ("V" in letters and not one.is_alive)):
                continue
            if before in "VPR" and "V" not in letters and caption.words[second.start - 1] in ("on", "atop"):
                continue
        if one.is_plural != second.is_plural and caption.shows_number(0, len(caption.words)):
            continue
        is_place = second.name in english.PLACES or caption.words[second.end - 1] in english.PLACES
        rank = 0 if one.is_alive and second.is_alive else 3 if is_place else 1 + (one.is_alive != second.is_alive)
        yield rank, caption.exchanged((one.start, first.end), (second.start, end))


def _is_reversed(caption: _Caption, first: _Chunk, second: _Chunk) -> bool:
    """Whether the relation is not between the two: ``above A is B``, ``A with B above it``."""
    link = " ".join(caption.words[first.end : second.start])
    start = next((start for start, end in caption.relations.items() if end == first.start), 2)
    is_after = start < 2 and tuple(caption.words[start : first.start]) in english.CONTRARY
    after = " ".join(caption.words[second.end : second.end + 3])
    return bool((is_after and _INVERTED.fullmatch(link)) or (link in ("with", "has") and _OF_IT.match(after)))


def _relates(caption: _Caption, first: _Chunk, second: _Chunk) -> bool:
    """Whether the words between two chunks are a verb or a preposition that makes a difference between them."""
    link, letters = caption.words[first.end : second.start], caption.letters[first.end : second.start]
    start = next((s for s, end in caption.relations.items() if end == second.start and s >= first.end), second.start)
    own = link[: start - first.end]
    if not 1 <= len(link) <= 7 or set(letters) & set("CXGNDMJ") or any(map(_SYMMETRIC.match, own)):
        return False
    if "Q" in letters[1:] or (letters[0] == "Q" and link[0] not in english.RELATIVE):
        return False
    if tuple(caption.words[start : second.start]) in english.CONTRARY:
        return english.PLAIN.isdisjoint(own)
    verbs = [word for word, letter in zip(link, letters, strict=True) if letter == "V"]
    is_passive = link[-1] == "by" and bool(verbs) and link[-2].endswith(("ed", "en"))
    if (not is_passive and not english.PLAIN.isdisjoint(link)) or (all(map(_NO_ACTION.match, verbs)) and verbs):
        return link[-1] == "on" and len(link) == 2
    if letters[-1] == "V":
        return not link[-1].endswith("ed")
    return letters[-1] == "P" and (is_passive or link[-1] in (_OBJECT_AFTER if verbs else ("on",)))


def _owner(caption: _Caption, number: int, is_subject: bool) -> int:
    """The chunk to which a chunk belongs by ``in``, ``with`` and the like, perhaps in a list; else itself."""
    for place in range(number, 0, -1):
        chunk, before = caption.chunks[place], caption.chunks[place - 1]
        link, letters = caption.words[before.end : chunk.start], caption.letters[before.end : chunk.start]
        if (len(link) == 1 and link[0] in _TAKES) or (is_subject and letters and not letters.strip("P")):
            number = place - 1
        elif not link or letters.strip("C") or chunk.is_alive:
            break
    return number


def _attributes(caption: _Caption) -> Ranked:
    """Two attributes exchanged that exclude one another, or that are a colour and something else."""
    runs = [(number, *run) for number, chunk in enumerate(caption.chunks) for run in _runs(caption, chunk)]
    for (number, *first), (other, *second) in combinations(runs, 2):
        one, two = caption.chunks[number], caption.chunks[other]
        spans = [(first[0], first[1]), (second[0], second[1])]
        words = [caption.words[slice(*span)] for span in spans]
        clash = [set(words[0]) & set(caption.words[two.start : two.end])]
        clash.append(set(words[1]) & set(caption.words[one.start : one.end]))
        owners = [caption.chunks[_owner(caption, place, is_subject=False)].name for place in (number, other)]
        if number == other or (clash[0] | clash[1]) - {"and", ","} or (owners[0] == owners[1] and one.name == two.name):
            continue
        is_colour = [run[-1] in english.DYES for run in words]
        kinds = [english.OPPOSED.get(run[-1], "") for run in words]
        own = [{*caption.words[chunk.start : chunk.end]} for chunk in (one, two)]
        is_person = "person" in (one.group, two.group)
        if all(is_colour) or {*kinds} in ({"large", "small"}, {"young", "old"}, {"tall", "short"}):
            rank = 0
        elif any(is_colour) and not is_person and not own[is_colour[0]] & english.DYES:
            rank = 2
        elif not any(is_colour) and not is_person and not any(kinds):
            rank = 1
        else:
            continue
        yield rank, caption.exchanged(*spans, one, two)


def _runs(caption: _Caption, chunk: _Chunk) -> Iterator[Span]:
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


def _nouns(caption: _Caption) -> Ranked:
    """The nouns of two chunks exchanged, where their attributes or what is between tells them apart."""
    for one, two in combinations(caption.chunks, 2):
        pairs = [(one.is_plural, two.is_plural), (one.name in english.UNCOUNTED, two.name in english.UNCOUNTED)]
        pairs.append((one.is_alive, two.is_alive))
        if any(a != b for a, b in pairs) or one.name == two.name or not caption.may_exchange(one, two):
            continue
        around = [caption.word(place) for place in (one.start - 1, one.end, two.start - 1, two.end)]
        link = caption.words[one.end : two.start]
        own = [caption.words[chunk.start + chunk.has_determiner : chunk.noun] for chunk in (one, two)]
        is_symmetric = around[2] in english.PLAIN or "next" in link or any(map(_SYMMETRIC.match, link))
        if "of" in around or (is_symmetric and sorted(own[0]) == sorted(own[1])):
            continue
        if (one.group == "person") != (two.group == "person") and not english.COLOURS.isdisjoint(
            own[one.group == "person"]
        ):
            continue
        rank = 0 if one.is_alive else 1 if one.group == two.group == "clothes" else 2
        yield rank, caption.exchanged((one.noun, one.end), (two.noun, two.end), one, two)


def _prepositions(caption: _Caption) -> Ranked:
    """A preposition or particle replaced by its opposite."""
    ranks = {"with": 3, "without": 3, "on": 2, "near": 1, "next to": 1, "beside": 1}
    for start, end in caption.relations.items():
        phrase = " ".join(caption.words[start:end])
        if _may_reverse(caption, start, end, phrase):
            opposite = english.OPPOSITE[tuple(caption.words[start:end])]
            yield ranks.get(phrase, 0), caption.moved([], {(start, end): opposite})


def _may_reverse(caption: _Caption, start: int, end: int, phrase: str) -> bool:
    """Whether the opposite of a phrase is English in its place, and false."""
    thing = next((chunk for chunk in caption.chunks if chunk.start == end), None)
    before, letter = caption.word(start - 1), caption.letters[start - 1] if start else "X"
    if phrase in ("inside", "outside", "indoors", "outdoors"):
        return letter != "D"
    if end - start > 2 or "than" in phrase or phrase in ("left of", "right of", "inside of", "outside of"):
        return True
    if thing is None:
        return phrase == "behind" or caption.word(end) == "it"
    noun, is_own = caption.words[thing.end - 1], caption.words[thing.start] in _OWN
    if phrase in ("up", "down"):
        return noun in english.SLOPES and not _STAYS.match(before)
    if phrase == "on":
        return noun in english.SURFACES and not is_own
    if phrase in ("with", "without"):
        return letter == "N" and not is_own
    return not (_STAYS.match(before) or noun in ("camera", "microphone", "air", "distance") or is_own) and (
        thing.is_counted or thing.name in english.UNCOUNTED
    )


def _of_letters(caption: _Caption, *letters: str) -> Blocks:
    return [[[place] for place in caption.places if caption.letters[place] in own] for own in letters]


def _by_three(caption: _Caption) -> list[list[int]]:
    return [caption.places[start : start + 3] for start in range(0, len(caption.places), 3)]


_SWAPS: dict[str, Callable[[_Caption], Ranked]] = {
    "agent": _agents,
    "attribute": _attributes,
    "noun": _nouns,
    "preposition": _prepositions,
}
_ORDERS: dict[str, Callable[[_Caption], Blocks]] = {
    "nouns-adjectives": lambda caption: _of_letters(caption, "NG", "J"),
    "other-words": lambda caption: _of_letters(caption, "DVRPQCMX"),
    "in-trigrams": lambda caption: [[[place] for place in three] for three in _by_three(caption)],
    "trigrams": lambda caption: [_by_three(caption)],
}
KINDS = (*_SWAPS, *_ORDERS)
