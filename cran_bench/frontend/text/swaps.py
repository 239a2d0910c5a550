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
from itertools import chain, combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from cran_bench.frontend.text import english
from cran_bench.frontend.text.tagging import tag, words_of

MOST_OF_AN_ORDER = 1000
MOST_WORDS = 200  # nothing is made of longer captions
ATTEMPTS = 8  # drawn orders of one caption, if the first are those of true captions

_WORD = re.compile(r"[^\W_]+(?:(?:['’-]|\s+['’](?=s\b))[^\W_]+)*|[^\w\s'’\"“”]", re.IGNORECASE)
_LETTERS = {"noun": "N", "verb": "V", "adjective": "J", "adverb": "R", "determiner": "D", "preposition": "P"}
_LETTERS |= {"pronoun": "Q", "conjunction": "C", "number": "M", "other": "X"}
_CHUNK = re.compile(r"D?(?:R*[JMG](?:C+R*J)*)*N+")  # of letters; G is a genitive
_SYMMETRIC = re.compile("|".join(english.SYMMETRIC.split()))
_NO_ACTION = re.compile(r"(?:is|are|was|were|be|being|been|am|has|have|had|having|wear.*|dress.*|contain.*)$")
_OF_IT = re.compile(r"(?:(?:on|to) its (?:left|right)|(?:above|below|over|under|beneath|underneath|behind) it)\b")
_INVERTED = re.compile(r"(?:there )?(?:is|are)|you can see|and you will find")
_STAYS = re.compile(r"all|bent|lean|look|tak|shak|show|made|dry|dries|com|get|fl|off|far|out|put")
_TAKES = ("in", "with", "of", "wearing")  # what follows these belongs to the noun before
_OBJECT_AFTER = ("on", "onto", "at", "after", "toward", "towards", "past", "into", "off", "through", "around")
_PUT_RIGHT = {",": "C", "both": "P", "than": "P"}
_OWN = ("his", "her", "its", "their", "whose", "my", "our", "your")
_POLES = ({"large", "small"}, {"young", "old"}, {"tall", "short"})
_GROUPS = {
    **dict.fromkeys(english.PLACES, "place"),
    **dict.fromkeys(english.CLOTHES, "clothes"),
    **dict.fromkeys(english.ANIMALS, "animal"),
    **dict.fromkeys(english.PEOPLE, "person"),
}

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
        for runs in groups:
            drawn = sorted(runs, key=lambda run: _draw(seed, name, caption.text, attempt, run[0]))
            moves += zip(chain(*runs), chain(*drawn), strict=True)
        yield caption.moved([((to, to + 1), (own, own + 1)) for to, own in moves if to != own])


def _draw(*about: object) -> str:
    return sha256("\n".join(map(str, about)).encode("utf-8", "surrogatepass")).hexdigest()


def _plain(words: Sequence[str]) -> str:
    return " ".join(word for word in words if word[0].isalnum())


@dataclass(frozen=True)
class _Chunk:
    """The words from `start` to `end` that name a thing.

    Attributes:
        inner: where its attributes start, after a determiner.
        noun: where its nouns start.
        name: the last noun, in the singular.
        group: ``person``, ``animal``, ``clothes``, ``place`` or ``thing``.
        is_bare: whether it is a singular without a determiner or number.
        is_thing: whether it can change its place with others: it is no part of something and nobody's own.
    """

    start: int
    inner: int
    noun: int
    end: int
    name: str
    group: str
    is_plural: bool
    is_bare: bool
    is_thing: bool

    @property
    def is_alive(self) -> bool:
        return self.group in ("person", "animal")


class _Caption:
    """A caption: its words and where they are in the text, a letter for the part of speech of each, and its chunks.

    Attributes:
        places: the words that are no punctuation marks.
        relations: where a phrase of `english.OPPOSITE` starts, and where it ends.
    """

    def __init__(self, text: str) -> None:
        self.text, self.words = text, words_of(text)
        self.spans = [match.span() for match in _WORD.finditer(text)]
        spelled = ["".join(text[start:end].lower().replace("’", "'").split()) for start, end in self.spans]
        if spelled != self.words or len(spelled) > MOST_WORDS:  # a lower-case letter may be two characters
            self.words, self.spans = [], []
        self.places = [place for place, word in enumerate(self.words) if word[0].isalnum()]
        self.relations: dict[int, int] = {}
        for place in range(len(self.words)):
            ends = range(min(place + 5, len(self.words)), place, -1)
            end = next((end for end in ends if tuple(self.words[place:end]) in english.OPPOSITE), 0)
            if end and place >= max(self.relations.values(), default=0):
                self.relations[place] = end
        self.letters = self._letters()
        chunks = map(self._chunk, _CHUNK.finditer(self.letters))
        self.chunks = [chunk for chunk in chunks if not self._is_clause(chunk)]

    def _letters(self) -> str:
        letters = [_LETTERS[found] for found in tag(self.words)]
        for place, word in enumerate(self.words):
            before, after = letters[place - 1] if place else "X", (letters[place + 1 :] or "X")[0]
            is_first = place == 0 and letters[0] == "V" and word.endswith("ing") and after == "N"
            is_shade = word in english.SHADES and self.word(place + 1) in english.DYES
            if is_first or is_shade or (word == "all" and before == "D"):
                letters[place] = "J"
            elif word in english.COMPOUNDS and before in "NJ" and after in "NJ":
                letters[place - 1 : place + 1] = "JJ"
            elif word in _PUT_RIGHT:
                letters[place] = _PUT_RIGHT[word]
            elif word.endswith("'s"):
                letters[place] = "G"
            elif word == "plus" and self.word(place + 1) == "sign":
                letters[place] = "N"
        for start, end in self.relations.items():
            if end - start > 1:
                letters[start:end] = "P" * (end - start)
        for place in range(len(letters) - 2, -1, -1):
            if letters[place : place + 2] == ["N", "N"] and self.words[place] in english.DYES | english.ADJECTIVES:
                letters[place] = "J"
        return "".join(letters)

    def _chunk(self, match: re.Match[str]) -> _Chunk:
        (start, end), letters, noun = match.span(), match[0], self.words[match.end() - 1]
        ends = noun.endswith("s") and not noun.endswith("ss") and noun not in english.SINGULARS
        is_plural = noun in english.PLURALS or ends or (letters[0] == "M" and self.words[start] != "one")
        name = english.SINGULAR_OF.get(noun) or (noun[:-1] if ends else noun)
        return _Chunk(
            start,
            start + (letters[0] == "D"),
            start + len(letters.rstrip("N")),
            end,
            name,
            _GROUPS.get(noun) or _GROUPS.get(name, "thing"),
            is_plural,
            not is_plural and letters[0] not in "DM" and name not in english.UNCOUNTED,
            noun not in english.NAMELESS and noun not in english.DYES and self.words[start] not in _OWN,
        )

    def _is_clause(self, chunk: _Chunk) -> bool:
        """Whether a word that was taken for the last noun of a chunk is its verb."""
        *nouns, noun = self.words[chunk.noun : chunk.end]
        is_verb = noun[-1] == "s" and {noun[:-1], noun[:-2]} & (english.VERBS | english.RARER_VERBS)
        has_one = self.word(chunk.end) in ("one", "ones") or "one" in self.words[chunk.start + 1 : chunk.end]
        has_plural = any(word in english.PLURALS or (word[-1] == "s" and word in english.CLOTHES) for word in nouns)
        starts = ("a", "an", "one", *self.words[chunk.noun : chunk.end])
        return has_one or has_plural or (bool(is_verb) and self.words[chunk.start] in starts)

    def word(self, place: int) -> str:
        return self.words[place] if 0 <= place < len(self.words) else ""

    def between(self, one: _Chunk, two: _Chunk) -> tuple[list[str], str]:
        """The words and the letters between two chunks."""
        return self.words[one.end : two.start], self.letters[one.end : two.start]

    def phrase(self, start: int, end: int) -> bool:
        """Whether the words are a phrase of `english.CONTRARY`: of A and B they never say the same as of B and A."""
        return self.relations.get(start) == end and tuple(self.words[start:end]) in english.CONTRARY

    def shows_number(self, start: int, end: int) -> bool:
        """Whether a verb agrees with the number of its subject."""
        pairs = zip(self.words[start:end], self.letters[start:end], strict=True)
        return any(letter == "V" and not word.endswith(("ing", "ed")) for word, letter in pairs)

    def may_exchange(self, one: _Chunk, two: _Chunk) -> bool:
        """Whether either chunk suits the place of the other: its article, the pronouns after it."""
        are_bare = one.is_bare and two.is_bare and {"a", "an", "the"}.isdisjoint(self.words)
        are_alike = (one.name in english.WOMEN) == (two.name in english.WOMEN)
        are_alike = are_alike or english.GENDERED.isdisjoint(self.words)
        return one.is_thing and two.is_thing and (are_bare or not (one.is_bare or two.is_bare)) and are_alike

    def exchanged(self, first: Span, second: Span, *chunks: _Chunk) -> str:
        """The text with two runs of words exchanged, and the indefinite articles of `chunks` fitted."""
        moves, articles = [(first, second), (second, first)], {}
        for chunk, (own, other) in zip(chunks, moves, strict=False):
            if self.words[chunk.start] in ("a", "an"):
                after = self.words[other[0] if own[0] == chunk.start + 1 else chunk.start + 1]
                is_an = (after[0] in "aeiou" and not after.startswith(english.A_BEFORE)) or after in english.AN_BEFORE
                articles[chunk.start, chunk.start + 1] = "an" if is_an else "a"
        return self.moved(moves, articles)

    def moved(self, moves: Sequence[tuple[Span, Span]], new: Mapping[Span, str] | None = None) -> str:
        """The text with the words of the first span of each move replaced by those of the second, others by `new` ones.

        The sentence keeps its capital.
        """
        edits = [(*span, words, -1) for span, words in (new or {}).items()]
        edits += [(*to, self.text[self.spans[own[0]][0] : self.spans[own[1] - 1][1]], own[0]) for to, own in moves]
        text, first = self.text, self.places[0] if self.places else 0
        is_capital = bool(self.spans) and text[self.spans[first][0]].isupper()
        for start, end, words, origin in sorted(edits, reverse=True):
            if is_capital and start == first:
                words = words[0].upper() + words[1:]
            elif is_capital and origin == first and not words[1:2].isupper():
                words = words[0].lower() + words[1:]
            text = text[: self.spans[start][0]] + words + text[self.spans[end - 1][1] :]
        return text


def _agents(caption: _Caption) -> Ranked:
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
        is_contrary = any(caption.phrase(place, second.start) for place in range(first.end, second.start))
        if caption.word(one.start - 1) in _TAKES or (second.group == "place" and is_verb and not is_contrary):
            continue
        if not (is_relative or is_reversed) and (is_other_subject if is_verb else before in "VPR" and link[-1] == "on"):
            continue
        if _may_act(caption, one, second, end := _end(caption, number + 1)):
            rank = 0 if one.is_alive and second.is_alive else 1 + (one.is_alive or second.is_alive)
            yield rank, caption.exchanged((one.start, first.end), (second.start, end))
    for (number, one), (other, two) in combinations(enumerate(caption.chunks), 2):
        spans = (one.start, _end(caption, number)), (two.start, _end(caption, other))
        link, letters = caption.words[spans[0][1] : two.start], caption.letters[spans[0][1] : two.start]
        is_clause = link[-1:] == ["and"] and caption.letters[spans[1][1] : spans[1][1] + 1] == "V"
        is_plain = link[-1:] == ["to"] or any(map(_SYMMETRIC.match, link)) or not english.PLAIN.isdisjoint(link[-1:])
        if _rank(one, two, is_modified=False) == 0 and "V" in letters and (is_clause or not is_plain):
            if caption.word(one.start - 1) not in ("in", "of", "wearing", "and") and _may_act(
                caption, one, two, spans[1][1]
            ):
                yield 0, caption.exchanged(*spans)


def _may_act(caption: _Caption, one: _Chunk, two: _Chunk, end: int) -> bool:
    """Whether two phrases, the second up to `end`, can be exchanged, and differ in more than a determiner."""
    own = [[word for word in caption.words[c.inner : c.end] if word != "one"] for c in (one, two)]
    are_alike = one.is_plural == two.is_plural and english.GROUPS.isdisjoint((one.name, two.name))
    may_differ = are_alike or not caption.shows_number(0, len(caption.words))
    return may_differ and caption.word(end) != "of" and own[0] != own[1] and caption.may_exchange(one, two)


def _end(caption: _Caption, number: int) -> int:
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


def _is_reversed(caption: _Caption, first: _Chunk, second: _Chunk) -> bool:
    """Whether other words than those between two chunks relate them: ``above A is B``, ``A with B above it``."""
    link = " ".join(caption.between(first, second)[0])
    is_after = any(caption.phrase(place, first.start) for place in (0, 1))
    after = " ".join(caption.words[second.end : second.end + 3])
    return bool((is_after and _INVERTED.fullmatch(link)) or (link in ("with", "has") and _OF_IT.match(after)))


def _relates(caption: _Caption, first: _Chunk, second: _Chunk) -> bool:
    """Whether the words between two chunks are a verb or a preposition that makes a difference between them."""
    link, letters = caption.between(first, second)
    starts = range(first.end, second.start)
    start = next((place for place in starts if caption.relations.get(place) == second.start), second.start)
    own = link[: start - first.end]
    if not 1 <= len(link) <= 7 or set(letters) & set("CXGNDMJ") or any(map(_SYMMETRIC.match, own)):
        return False
    if "Q" in letters[1:] or (letters[0] == "Q" and link[0] not in english.RELATIVE):
        return False
    if caption.phrase(start, second.start):
        return english.PLAIN.isdisjoint(own)
    verbs = [word for word, letter in zip(link, letters, strict=True) if letter == "V"]
    is_passive = link[-1] == "by" and bool(verbs) and link[-2].endswith(("ed", "en"))
    if (not is_passive and not english.PLAIN.isdisjoint(link)) or (verbs and all(map(_NO_ACTION.match, verbs))):
        return link[-1] == "on" and len(link) == 2
    if letters[-1] == "V":
        return not link[-1].endswith("ed")
    return letters[-1] == "P" and (is_passive or link[-1] in (_OBJECT_AFTER if verbs else ("on",)))


def _owner(caption: _Caption, number: int, is_subject: bool) -> int:
    """The chunk to which a chunk belongs by ``in``, ``with`` and the like, perhaps in a list; else itself."""
    for place in range(number, 0, -1):
        link, letters = caption.between(caption.chunks[place - 1], caption.chunks[place])
        if (len(link) == 1 and link[0] in _TAKES) or (is_subject and letters and not letters.strip("P")):
            number = place - 1
        elif not link or letters.strip("C") or caption.chunks[place].is_alive:
            break
    return number


def _attributes(caption: _Caption) -> Ranked:
    """Two attributes exchanged that exclude one another, or that are a colour and something else."""
    runs = [(number, run) for number, chunk in enumerate(caption.chunks) for run in _runs(caption, chunk)]
    for (number, first), (other, second) in combinations(runs, 2):
        one, two = caption.chunks[number], caption.chunks[other]
        its = [caption.words[slice(*run)] for run in (first, second)]
        own = [{*caption.words[chunk.inner : chunk.end]} - {"and", ","} for chunk in (one, two)]
        owners = [caption.chunks[_owner(caption, place, is_subject=False)].name for place in (number, other)]
        names = {o if c.name in english.DYES else c.name for c, o in zip((one, two), owners, strict=True)}
        is_apart = len(names) > 1 or owners[0] != owners[1] or (other == number + 1 and _relates(caption, one, two))
        if not is_apart or own[0] & {*its[1]} or own[1] & {*its[0]}:
            continue
        is_dyed = [words[-1] in english.DYES for words in its]
        plain, dyed = own[is_dyed[0]], own[is_dyed[1]]
        if _exclude(*its):
            yield one.group != two.group, caption.exchanged(first, second, one, two)
            continue
        are_things = "person" not in (one.group, two.group) and own[0].isdisjoint(own[1])
        is_only = plain.isdisjoint(english.DYES) and dyed.isdisjoint(english.OPPOSED)
        if is_dyed[0] != is_dyed[1] and are_things and is_only:
            yield 2, caption.exchanged(first, second, one, two)


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
    if chunk.name in english.DYES and caption.word(chunk.start - 1) in ("in", "wearing") and chunk.inner == chunk.noun:
        yield chunk.noun, chunk.end


def _nouns(caption: _Caption) -> Ranked:
    """The nouns of two chunks exchanged, where their attributes or what is between tells them apart."""
    for one, two in combinations(caption.chunks, 2):
        own = [caption.words[chunk.inner : chunk.noun] for chunk in (one, two)]
        rank = _rank(one, two, is_modified=own[0] != own[1])
        is_uncounted = [chunk.name in english.UNCOUNTED for chunk in (one, two)]
        if rank < 0 or one.is_plural != two.is_plural or len({*is_uncounted}) > 1 or not caption.may_exchange(one, two):
            continue
        link, _ = caption.between(one, two)
        is_symmetric = link[-1:] == ["to"] or any(map(_SYMMETRIC.match, link))
        is_symmetric = is_symmetric or not {*link[-1:]}.isdisjoint(english.PLAIN) or not {"and", ","}.isdisjoint(link)
        around = {caption.word(place) for place in (one.start - 1, one.end, two.start - 1, two.end)}
        if "of" in around or (is_symmetric and not _exclude(*own)):
            continue
        if (one.group == "person") == (two.group == "person") or english.COLOURS.isdisjoint(own[one.group == "person"]):
            yield rank, caption.exchanged((one.noun, one.end), (two.noun, two.end), one, two)


def _rank(one: _Chunk, two: _Chunk, is_modified: bool) -> int:
    """How well the nouns of two chunks exchange, 0 best; -1 if one thing may have both names."""
    if _are_same(one.name, two.name) or ("person" in (one.name, two.name) and one.group == two.group):
        return -1
    if one.is_alive and two.is_alive:
        return 0
    if one.group == two.group:
        return {"clothes": 1, "thing": 2}.get(one.group, 4)
    return 3 if is_modified and {one.group, two.group} <= {"person", "animal", "thing"} else -1


def _are_same(one: str, two: str) -> bool:
    return one == two or any(one in names and two in names for names in english.SAME)


def _exclude(one: Sequence[str], two: Sequence[str]) -> bool:
    """Whether each of two lists of attributes has a colour or a size that a thing with the other cannot have."""
    colours = [[word for word in words if word in english.DYES] for words in (one, two)]
    if all(colours):
        return not any(_are_same(word, other) for word in colours[0] for other in colours[1])
    return any({english.OPPOSED.get(a), english.OPPOSED.get(b)} in _POLES for a in one for b in two)


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
    return not (_STAYS.match(before) or noun in ("camera", "microphone", "air", "distance") or is_own or thing.is_bare)


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
