"""False captions made from true ones by rules: two phrases exchanged, a preposition reversed, words shuffled.

The exchanges follow the hard negatives of Winoground and SugarCrepe, the four orders are those of ARO (Yuksekgonul et
al., ICLR 2023).  All but the reversed prepositions have exactly the words of the true caption, so a bag of words cannot
tell the two apart.  Every choice is drawn by sha256 and is the same on all platforms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from cran_bench.frontend.text import english
from cran_bench.frontend.text.tagging import tag, words_of

MOST_OF_AN_ORDER = 1000
MOST_WORDS = 200  # longer captions are left as they are

_WORD = re.compile(r"[^\W_]+(?:(?:['’-]|\s+['’](?=s\b))[^\W_]+)*|[^\w\s'’\"“”]", re.IGNORECASE)
_CHUNK = re.compile(r"D?(?:R*[JMG](?:C+R*J)*)*N+")
_LETTERS = {
    "noun": "N",
    "verb": "V",
    "adjective": "J",
    "adverb": "R",
    "determiner": "D",
    "preposition": "P",
    "pronoun": "Q",
    "conjunction": "C",
    "number": "M",
    "other": "X",
}
_SYMMETRIC = re.compile("|".join(english.SYMMETRIC.split()))
_OWN = ("his", "her", "its", "their", "whose", "my", "our", "your")
_BE = ("is", "are", "was", "were", "be", "being", "been", "am")
_TAKES = ("in", "with", "of", "wearing")  # a phrase after one of these belongs to the noun before
_AFTER_VERB = ("on", "onto", "at", "after", "toward", "towards", "past", "into", "off", "through", "around", "over")
_INVERTED = re.compile(r"(?:there )?(?:is|are)|you can see|and you will find")
_TO_IT = re.compile(r"(?:(?:on|to) its (?:left|right)|(?:above|below|over|under|beneath|underneath|behind) it)\b")

Edit = tuple[int, int, str]  # the characters from start to end are replaced by a text


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
    """Make at most one false caption of each kind for every caption, and at most 1,000 of each order.

    A false caption that is one of the captions, up to case and punctuation, is left out.
    """
    parsed = [_Caption(text) for text in captions]
    true = {one.plain for one in parsed}
    rows: list[tuple[int, int, str]] = []
    for kind, (name, make) in enumerate(_KINDS.items()):
        order = range(len(parsed))
        is_order = kind >= len(_KINDS) - 4
        if is_order:
            order = sorted(order, key=lambda place: (_draw(seed, name, captions[place]), place))
        found: list[tuple[int, int, str]] = []
        for place in order:
            if is_order and len(found) == MOST_OF_AN_ORDER:
                break
            for text in make(parsed[place], f"{seed}\n{name}\n{captions[place]}"):
                words = words_of(text)
                is_same = name == "preposition" or sorted(words) == sorted(parsed[place].words)
                if is_same and _plain(words) not in true:
                    found.append((kind, place, text))
                    break
        rows += sorted(found)
    kinds = np.array([kind for kind, _, _ in rows], dtype=np.int64)
    places = np.array([place for _, place, _ in rows], dtype=np.int64)
    return Swaps(places, [text for _, _, text in rows], kinds, tuple(_KINDS))


def _draw(*about: object) -> str:
    return sha256("\n".join(map(str, about)).encode("utf-8", "surrogatepass")).hexdigest()


def _plain(words: Sequence[str]) -> str:
    return " ".join(word for word in words if word[0].isalnum())


@dataclass(frozen=True)
class _Chunk:
    """A noun chunk: the tokens from `start` to `end`, its nouns from `noun` on, a determiner at `start` if `has_one`."""

    start: int
    noun: int
    end: int
    has_one: bool


class _Caption:
    """A caption with its tokens, their tags as one letter each, and its noun chunks."""

    def __init__(self, text: str) -> None:
        self.text = text
        spans = [match.span() for match in _WORD.finditer(text)]
        self.words = words_of(text)
        usual = ["".join(text[start:end].lower().replace("’", "'").split()) for start, end in spans]
        is_usual = usual == self.words and len(usual) <= MOST_WORDS
        self.spans = spans if is_usual else []
        self.plain = _plain(self.words)
        if not is_usual:
            self.words = []
        self.first = next((place for place, word in enumerate(self.words) if word[0].isalnum()), 0)

    @cached_property
    def relations(self) -> dict[int, int]:
        """Where a phrase of `english.OPPOSITE` starts, and where it ends; the longest, from left to right."""
        found, place = {}, 0
        while place < len(self.words):
            for size in range(5, 0, -1):
                if tuple(self.words[place : place + size]) in english.OPPOSITE and place + size <= len(self.words):
                    found[place] = place + size
                    place += size - 1
                    break
            place += 1
        return found

    @cached_property
    def letters(self) -> str:
        letters = [_LETTERS[found] for found in tag(self.words)]
        for place, word in enumerate(self.words):
            if word.endswith("'s"):
                letters[place] = "G"
            elif word == "," and letters[place] == "X":
                letters[place] = "C"
            elif word == "plus" and self.words[place + 1 : place + 2] == ["sign"]:
                letters[place] = "N"
            elif word in ("both", "than"):
                letters[place] = "P"
        for start, end in self.relations.items():
            if end - start > 1:
                letters[start:end] = "P" * (end - start)
        for place in range(len(letters) - 1, 0, -1):
            is_attribute = self.words[place - 1] in english.DYES or self.words[place - 1] in english.ADJECTIVES
            if letters[place] == "N" and letters[place - 1] == "N" and is_attribute:
                letters[place - 1] = "J"
        return "".join(letters)

    @cached_property
    def chunks(self) -> list[_Chunk]:
        found = []
        for match in _CHUNK.finditer(self.letters):
            start, end = match.span()
            noun = end - len(match[0]) + len(match[0].rstrip("N"))
            found.append(_Chunk(start, noun, end, match[0][0] == "D"))
        return found

    def word(self, place: int) -> str:
        return self.words[place] if 0 <= place < len(self.words) else ""

    def piece(self, start: int, end: int) -> str:
        return self.text[self.spans[start][0] : self.spans[end - 1][1]]

    def exchanged(self, moves: Sequence[tuple[tuple[int, int], tuple[int, int]]], edits: Sequence[Edit] = ()) -> str:
        """The text with tokens replaced by others of it; the first word keeps or passes on its capital."""
        capital = self.text[self.spans[self.first][0]].isupper()
        done = list(edits)
        for (start, end), (its_start, its_end) in moves:
            text = self.piece(its_start, its_end)
            if capital and its_start == self.first != start and not text[1:2].isupper():
                text = text[0].lower() + text[1:]
            if capital and start == self.first != its_start:
                text = text[0].upper() + text[1:]
            done.append((self.spans[start][0], self.spans[end - 1][1], text))
        return self.edited(done)

    def edited(self, edits: Sequence[Edit]) -> str:
        text = self.text
        for start, end, new in sorted(edits, reverse=True):
            text = text[:start] + new + text[end:]
        return text

    def is_plural(self, chunk: _Chunk) -> bool:
        noun = self.words[chunk.end - 1]
        ends = noun.endswith("s") and not noun.endswith("ss") and noun not in english.SINGULARS
        return noun in english.PLURALS or ends or (self.letters[chunk.start] == "M" and self.words[chunk.start] != "one")

    def name(self, chunk: _Chunk) -> str:
        """The head of a chunk, in the singular."""
        noun = self.words[chunk.end - 1]
        return english.SINGULAR_OF.get(noun) or (noun[:-1] if self.is_plural(chunk) and noun[-1] == "s" else noun)

    def rank(self, *chunks: _Chunk) -> int:
        """0 if all chunks are alive, 1 if none is, else 2."""
        alive = [self.words[c.end - 1] in english.PEOPLE or self.words[c.end - 1] in english.ANIMALS for c in chunks]
        return 0 if all(alive) else 1 if not any(alive) else 2

    def article(self, chunk: _Chunk, following: str) -> Edit | None:
        """The edit that fits an indefinite article to a new word after it; None if it fits."""
        word = self.word(chunk.start)
        starts = following.lower().startswith(tuple("aeiou")) and not following.lower().startswith(english.LIKE_A)
        wanted = "an" if starts or following.lower() in english.LIKE_AN else "a"
        if word not in ("a", "an") or word == wanted:
            return None
        start, end = self.spans[chunk.start]
        return start, end, wanted.capitalize() if self.text[start].isupper() else wanted


def _agents(caption: _Caption, about: str) -> Iterator[str]:
    """Two phrases exchanged around a verb or a preposition."""
    found = []
    for number, (first, second) in enumerate(zip(caption.chunks, caption.chunks[1:], strict=False)):
        if (span := _subject(caption, number, second)) is None:
            continue
        end, following = second.end, number + 2
        while caption.word(end) == "of" and following < len(caption.chunks):
            if caption.chunks[following].start != end + 1:
                break
            end, following = caption.chunks[following].end, following + 1
        head = next(chunk for chunk in caption.chunks if chunk.start == span[0])
        if caption.word(end) == "of" or not _may_exchange(caption, head, second):
            continue
        found.append((caption.rank(head, second), span, (second.start, end)))
    yield from _each(found, about, lambda one, two: caption.exchanged([(one, two), (two, one)]))


def _each(
    found: Sequence[tuple[int, tuple[int, int], tuple[int, int]]],
    about: str,
    make: Callable[[tuple[int, int], tuple[int, int]], str],
) -> Iterator[str]:
    """What becomes of the candidates, those of the lowest rank first, in a drawn order."""
    for _, one, two in sorted(found, key=lambda each: (each[0], _draw(about, *each[1:]))):
        yield make(one, two)


def _may_exchange(caption: _Caption, one: _Chunk, two: _Chunk) -> bool:
    """Whether two chunks are things of their own, differ, and both have or lack a determiner."""
    for chunk in (one, two):
        if caption.words[chunk.end - 1] in english.NAMELESS or caption.words[chunk.start] in _OWN:
            return False
    bare = [
        not chunk.has_one and caption.letters[chunk.start] != "M" and not caption.is_plural(chunk)
        and caption.words[chunk.end - 1] not in english.UNCOUNTED
        for chunk in (one, two)
    ]  # fmt: skip
    return bare[0] == bare[1] and caption.name(one) != caption.name(two)


def _shows_number(caption: _Caption, start: int, end: int) -> bool:
    pairs = zip(caption.words[start:end], caption.letters[start:end], strict=True)
    return any(letter == "V" and not word.endswith(("ing", "ed")) for word, letter in pairs)


def _subject(caption: _Caption, number: int, second: _Chunk) -> tuple[int, int] | None:
    """The tokens that may change places with the chunk `second`, the one after chunk `number`; None if none may."""
    first = caption.chunks[number]
    link = caption.words[first.end : second.start]
    letters = caption.letters[first.end : second.start]
    after = " ".join(caption.words[second.end : second.end + 3])
    is_inverted = _INVERTED.fullmatch(" ".join(link)) and _comes_after_contrary(caption, first.start)
    is_of_it = link[-1:] in (["with"], ["has"]) and len(link) == 1 and _TO_IT.match(after)
    if is_inverted or is_of_it:
        return first.start, first.end
    if not 1 <= len(link) <= 7 or set(letters) & set("CXGNDMJ") or any(map(_SYMMETRIC.match, link)):
        return None
    if "Q" in letters and not (letters[0] == "Q" and link[0] in english.RELATIVE):
        return None
    relation = next((s for s, e in caption.relations.items() if e == second.start), -1)
    phrase = tuple(caption.words[relation : second.start]) if relation >= first.end else ()
    verbs = [word for word, letter in zip(link, letters, strict=True) if letter == "V"]
    last, is_contrary = link[-1], phrase in english.CONTRARY
    if letters[-1] == "V":
        if last in _BE or last.startswith(("wear", "hav", "has", "had", "dress")) or last.endswith("ed"):
            return None
    elif letters[-1] == "P":
        is_passive = last == "by" and len(verbs) > 0 and link[-2].endswith(("ed", "en"))
        if not (is_contrary or is_passive or (verbs and last in _AFTER_VERB) or (not verbs and last == "on")):
            return None
    else:
        return None
    start, number = first.start, number
    is_finite = _shows_number(caption, first.end, second.start)
    while number and caption.chunks[number - 1].end == start - 1:
        if not (caption.word(start - 1) in _TAKES or (is_finite and caption.letters[start - 1] == "P")):
            break
        number -= 1
        start = caption.chunks[number].start
    before, word = (caption.letters[start - 1], caption.words[start - 1]) if start else ("X", "")
    if word in _TAKES or (is_finite and before in "PV" and not link[0] in english.RELATIVE):
        return None
    if not verbs and before in "VPR" and not is_contrary:
        return None
    head = caption.chunks[number]
    if caption.is_plural(head) != caption.is_plural(second) and _shows_number(caption, 0, len(caption.words)):
        return None
    return start, first.end


def _comes_after_contrary(caption: _Caption, place: int) -> bool:
    starts = [start for start, end in caption.relations.items() if end == place]
    return bool(starts) and starts[0] <= 1 and tuple(caption.words[starts[0] : place]) in english.CONTRARY


def _attributes(caption: _Caption, about: str) -> Iterator[str]:
    """Two attributes of one class exchanged."""
    found = []
    runs = [(chunk, run) for chunk in caption.chunks for run in _attribute_runs(caption, chunk)]
    for (one, first), (two, second) in combinations(runs, 2):
        its = [caption.words[first[0] : first[1]], caption.words[second[0] : second[1]]]
        kinds = [english.POLES.get(words[-1], "colour") for words in its]
        clash = set(its[0]) & set(caption.words[two.start : two.end]) | set(its[1]) & set(
            caption.words[one.start : one.end]
        )
        fits = kinds[0] == kinds[1] == "colour" or set(kinds) in _OPPOSED
        if one is two or caption.name(one) == caption.name(two) or clash - {"and"} or not fits:
            continue
        found.append((kinds[0] != "colour", first, second, one, two))
    for _, first, second, one, two in sorted(found, key=lambda each: (each[0], _draw(about, *each[1:3]))):
        yield _with_articles(caption, one, two, first, second)


_OPPOSED = [{"large", "small"}, {"tall", "short"}, {"young", "old"}, {"stuff"}]


def _attribute_runs(caption: _Caption, chunk: _Chunk) -> Iterator[tuple[int, int]]:
    place = chunk.start
    while place < chunk.noun:
        start, word = place, caption.words[place]
        place += 1
        if word in english.POLES:
            yield start, place
        elif word in english.DYES:
            while place + 1 < chunk.noun and caption.words[place] in ("and", ",") and (
                caption.words[place + 1] in english.DYES
            ):
                place += 2
            shaded = start > chunk.start and caption.words[start - 1] in english.SHADES
            yield start - shaded, place


def _with_articles(
    caption: _Caption, one: _Chunk, two: _Chunk, first: tuple[int, int], second: tuple[int, int]
) -> str:
    edits = []
    for chunk, own, other in ((one, first, second), (two, second, first)):
        if chunk.has_one:
            following = other[0] if own[0] == chunk.start + 1 else chunk.start + 1
            edits.append(caption.article(chunk, caption.words[following]))
    return caption.exchanged([(first, second), (second, first)], [edit for edit in edits if edit])


def _nouns(caption: _Caption, about: str) -> Iterator[str]:
    """The nouns of two chunks exchanged."""
    found = []
    for one, two in combinations(caption.chunks, 2):
        if caption.is_plural(one) != caption.is_plural(two) or not _may_exchange(caption, one, two):
            continue
        own = [set(caption.words[chunk.start + chunk.has_one : chunk.noun]) for chunk in (one, two)]
        heads = [caption.words[chunk.end - 1] for chunk in (one, two)]
        before = caption.word(two.start - 1)
        link = caption.words[one.end : two.start]
        if "of" in (caption.word(one.start - 1), caption.word(one.end), caption.word(two.end)) or before == "of":
            continue
        if (heads[0] in english.UNCOUNTED) != (heads[1] in english.UNCOUNTED):
            continue
        is_symmetric = before in english.PLAIN or any(map(_SYMMETRIC.match, link)) or "next" in link
        if is_symmetric and own[0] == own[1]:
            continue
        people = [head in english.PEOPLE for head in heads]
        if people[0] != people[1] and (own[people[0]] & english.COLOURS):
            continue
        kinds = [_class(head) for head in heads]
        if kinds[0] != kinds[1]:
            continue
        found.append((kinds[0] == "thing", one, two))
    for _, one, two in sorted(found, key=lambda each: (each[0], _draw(about, each[1], each[2]))):
        yield _with_articles(caption, one, two, (one.noun, one.end), (two.noun, two.end))


def _class(noun: str) -> str:
    if noun in english.PEOPLE or noun in english.ANIMALS:
        return "alive"
    return "clothes" if noun in english.CLOTHES else "thing"


def _prepositions(caption: _Caption, about: str) -> Iterator[str]:
    """A preposition or particle replaced by its opposite."""
    found = []
    for start, end in caption.relations.items():
        phrase = " ".join(caption.words[start:end])
        rank = {"with": 3, "without": 3, "on": 2, "near": 1, "next to": 1, "beside": 1}.get(phrase, 0)
        if _may_reverse(caption, start, end, phrase):
            found.append((rank, start, end))
    for _, start, end in sorted(found, key=lambda each: (each[0], _draw(about, each[1]))):
        new = english.OPPOSITE[tuple(caption.words[start:end])]
        if caption.text[caption.spans[start][0]].isupper():
            new = new[0].upper() + new[1:]
        yield caption.edited([(caption.spans[start][0], caption.spans[end - 1][1], new)])


def _may_reverse(caption: _Caption, start: int, end: int, phrase: str) -> bool:
    """Whether the opposite of a phrase is English in its place, and false."""
    after = next((chunk for chunk in caption.chunks if chunk.start == end), None)
    noun = caption.words[after.end - 1] if after else ""
    before, letter = caption.word(start - 1), caption.letters[start - 1] if start else "X"
    if phrase in ("up", "down"):
        return noun in english.SLOPES
    if phrase == "on":
        return noun in english.SURFACES and caption.words[end] not in _OWN
    if phrase in ("with", "without"):
        return after is not None and letter == "N" and caption.words[end] not in _OWN
    if phrase in ("outside", "inside", "outdoors", "indoors"):
        return letter != "D" and caption.word(end) not in ("down",)
    if phrase in ("over", "off", "into", "onto", "out of", "near", "beside", "next to"):
        stays = before.startswith(("all", "bent", "lean", "look", "tak", "shak", "show", "mad", "dr", "com", "get", "fl"))
        return after is not None and not stays and noun not in ("camera", "microphone") and before != "off"
    return True


def _shuffles(caption: _Caption, about: str, groups: Sequence[Sequence[int]]) -> Iterator[str]:
    """The words at the places of each group in up to eight drawn orders."""
    for attempt in range(8):
        moves = []
        for group in groups:
            drawn = sorted(group, key=lambda place: _draw(about, attempt, place))
            moves += [((to, to + 1), (own, own + 1)) for to, own in zip(group, drawn, strict=True) if to != own]
        if moves:
            yield caption.exchanged(moves)


def _nouns_and_adjectives(caption: _Caption, about: str) -> Iterator[str]:
    places = [[place for place, found in enumerate(caption.letters) if found in of] for of in ("NG", "J")]
    yield from _shuffles(caption, about, places)


def _other_words(caption: _Caption, about: str) -> Iterator[str]:
    places = [place for place in _places(caption) if caption.letters[place] not in "NGJ"]
    yield from _shuffles(caption, about, [places])


def _in_trigrams(caption: _Caption, about: str) -> Iterator[str]:
    places = _places(caption)
    yield from _shuffles(caption, about, [places[start : start + 3] for start in range(0, len(places), 3)])


def _trigrams(caption: _Caption, about: str) -> Iterator[str]:
    places = _places(caption)
    groups = [places[start : start + 3] for start in range(0, len(places), 3)]
    for attempt in range(8):
        drawn = sorted(groups, key=lambda group: _draw(about, attempt, group[0]))
        pairs = zip(places, [place for group in drawn for place in group], strict=True)
        if moves := [((to, to + 1), (own, own + 1)) for to, own in pairs if to != own]:
            yield caption.exchanged(moves)


def _places(caption: _Caption) -> list[int]:
    return [place for place, word in enumerate(caption.words) if word[0].isalnum()]


_KINDS: dict[str, Callable[[_Caption, str], Iterator[str]]] = {
    "agent": _agents,
    "attribute": _attributes,
    "noun": _nouns,
    "preposition": _prepositions,
    "nouns-adjectives": _nouns_and_adjectives,
    "other-words": _other_words,
    "in-trigrams": _in_trigrams,
    "trigrams": _trigrams,
}
