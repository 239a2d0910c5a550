"""Captions taken apart: words with their places in the text, a letter for the part of speech of each, noun chunks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cran_bench.frontend.text import english
from cran_bench.frontend.text.tagging import tag, words_of

MOST_WORDS = 200  # longer captions are not taken apart

Span = tuple[int, int]
"""The words from the first place up to, and without, the second."""

_WORD = re.compile(r"[^\W_]+(?:(?:['’-]|\s+['’](?=s\b))[^\W_]+)*|[^\w\s'’\"“”]", re.IGNORECASE)
_LETTERS = {"noun": "N", "verb": "V", "adjective": "J", "adverb": "R", "determiner": "D", "preposition": "P"}
_LETTERS |= {"pronoun": "Q", "conjunction": "C", "number": "M", "other": "X"}
_PUT_RIGHT = {",": "C", "both": "P", "than": "P"}
_CHUNK = re.compile(r"D?(?:R*[JMG](?:C+R*J)*)*N+")  # G is a genitive
_ATTRIBUTES = english.DYES | english.ADJECTIVES
_ALIVE = ("person", "animal")
_GROUPS = {
    **dict.fromkeys(english.PLACES, "place"),
    **dict.fromkeys(english.CLOTHES, "clothes"),
    **dict.fromkeys(english.ANIMALS, "animal"),
    **dict.fromkeys(english.PEOPLE, "person"),
}


@dataclass(frozen=True)
class NounChunk:
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
        return self.group in _ALIVE


class ParsedCaption:
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
            elif before + letters[place] == "NN" and _GROUPS.get(self.words[place - 1]) in _ALIVE and _is_verb(word):
                letters[place] = "V"
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
            if letters[place : place + 2] == ["N", "N"] and self.words[place] in _ATTRIBUTES:
                letters[place] = "J"
        return "".join(letters)

    def _chunk(self, match: re.Match[str]) -> NounChunk:
        (start, end), letters, noun = match.span(), match[0], self.words[match.end() - 1]
        ends = noun.endswith("s") and not noun.endswith("ss") and noun not in english.SINGULARS
        is_plural = noun in english.PLURALS or ends or (letters[0] == "M" and self.words[start] != "one")
        name = english.SINGULAR_OF.get(noun) or (noun[:-1] if ends else noun)
        return NounChunk(
            start,
            start + (letters[0] == "D"),
            start + len(letters.rstrip("N")),
            end,
            name,
            _GROUPS.get(noun) or _GROUPS.get(name, "thing"),
            is_plural,
            not is_plural and letters[0] not in "DM" and name not in english.UNCOUNTED,
            noun not in english.NAMELESS
            and noun not in english.DYES
            and (self.words[start] not in english.OWN or _GROUPS.get(noun) in _ALIVE),
        )

    def _is_clause(self, chunk: NounChunk) -> bool:
        """Whether a word that was taken for the last noun of a chunk is its verb."""
        *nouns, noun = self.words[chunk.noun : chunk.end]
        has_one = self.word(chunk.end) in ("one", "ones") or "one" in self.words[chunk.start + 1 : chunk.end]
        has_plural = any(word in english.PLURALS or (word[-1] == "s" and word in english.CLOTHES) for word in nouns)
        is_verb = _is_verb(noun) and self.words[chunk.start] in ("a", "an", "one", *nouns, noun)
        is_verb = is_verb or (
            noun[-1] == "s" and noun[:-1] in english.VERBS and self.words[chunk.start] in english.DYES
        )
        return has_one or has_plural or is_verb

    def word(self, place: int) -> str:
        return self.words[place] if 0 <= place < len(self.words) else ""

    def between(self, one: NounChunk, two: NounChunk) -> tuple[list[str], str]:
        """The words and the letters between two chunks."""
        return self.words[one.end : two.start], self.letters[one.end : two.start]

    def is_contrary(self, start: int, end: int) -> bool:
        """Whether the words are a phrase of `english.CONTRARY`: of A and B they never say the same as of B and A."""
        return self.relations.get(start) == end and tuple(self.words[start:end]) in english.CONTRARY

    def shows_number(self, start: int, end: int) -> bool:
        """Whether a verb agrees with the number of its subject."""
        pairs = zip(self.words[start:end], self.letters[start:end], strict=True)
        return any(letter == "V" and not word.endswith(("ing", "ed")) for word, letter in pairs)

    def may_exchange(self, one: NounChunk, two: NounChunk) -> bool:
        """Whether either chunk suits the place of the other: its article, the pronouns after it."""
        are_bare = one.is_bare and two.is_bare and (one.is_alive or {"a", "an", "the"}.isdisjoint(self.words))
        are_alike = english.WOMEN.isdisjoint(names := {one.name, two.name}) or english.MEN.isdisjoint(names)
        are_alike = are_alike or english.GENDERED.isdisjoint(self.words)
        return one.is_thing and two.is_thing and (are_bare or not (one.is_bare or two.is_bare)) and are_alike

    def exchanged(self, first: Span, second: Span, *chunks: NounChunk) -> str:
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


def _is_verb(word: str) -> bool:
    """Whether a word with -s may be a verb."""
    return word[-1] == "s" and not {word[:-1], word[:-2]}.isdisjoint(english.VERBS | english.RARER_VERBS)
