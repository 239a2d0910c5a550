"""Parts of speech and noun chunks of English captions, by word lists, endings and the neighbouring words.

The tagger is made for captions: short sentences in the present tense about what can be seen.  A word of an open class
is a noun unless its ending or a list says otherwise; where a word may be a verb as well (``walks``, ``jump``), the word
before it and the verbs of the clause decide.  It needs no data and gives the same tags everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from cran_bench.frontend.text import english
from cran_bench.frontend.text.english import CLOSED, COLOURS, Tag

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s'’\"“”]")
_GENITIVE = re.compile(r"(?<=\w)\s+(?=['’]s\b)")
_ADJECTIVE_ENDING = re.compile(r"(?:ful|ous|less|ish|ible|[^tcgf]able|ive|ic|ical|ian)$")
_COMPARISON = re.compile(r"(?:er|est)$")

Kind = Literal["noun", "base", "s", "ing", "ed", "adjective"]


def words_of(text: str) -> list[str]:
    """Split a text into lower-cased words, with inner hyphens and apostrophes, and punctuation marks."""
    return _WORD.findall(_GENITIVE.sub("", text.lower().replace("’", "'")))


@lru_cache(maxsize=1 << 16)
def _kind(word: str) -> tuple[Kind, bool]:
    """The kind of a word of an open class by itself: a form of a verb, an adjective or a noun.

    The second value says whether a word that may be a verb (base form or with -s) is one more often than not.
    """
    first, _, last = word.rpartition("-")
    if word in english.ADJECTIVES:
        return "adjective", False
    if word in english.NOUNS:
        return "noun", False
    if word in english.VERBS or word in english.RARER_VERBS:
        return "base", word in english.VERBS
    for base in (word[:-1], word[:-2], word[:-3] + "y") if word.endswith("s") else ():
        if base in english.VERBS or base in english.RARER_VERBS:
            return "s", base in english.VERBS
    if len(last) > 4 and last.endswith("ing"):
        return ("adjective" if first else "ing"), True
    if first.endswith("ed") or (len(last) > 3 and last.endswith("ed")) or last in english.PARTICIPLES:
        return ("adjective" if first else "ed"), True
    stem = _COMPARISON.sub("", word)
    compared = {stem, stem + "e", stem[:-1] + "y", stem[:-1] if stem[-2:-1] == stem[-1:] else stem}
    is_adjective = _ADJECTIVE_ENDING.search(word) or (stem != word and not english.ADJECTIVES.isdisjoint(compared))
    return ("adjective" if is_adjective else "noun"), False


def _is_adverb(word: str) -> bool:
    return len(word) > 4 and word.endswith("ly") and word not in english.NOUNS and word not in english.ADJECTIVES


def _is_open(word: str) -> bool:
    """Whether a word may be part of a noun chunk: of an open class, or a number."""
    return word[:1].isalnum() and CLOSED.get(word, "number") == "number" and not _is_adverb(word)


def _is_plural(noun: str) -> bool:
    ends = noun.endswith("s") and not noun.endswith(("ss", "'s"))
    return noun in english.PLURALS or (ends and noun not in english.SINGULARS)


@dataclass
class _Sentence:
    """The words of a sentence, the tags of those before `place`, and what is known of the clause.

    Attributes:
        verb: the kind of the latest finite verb of the sentence.
        has_verb: whether the clause has a finite verb.
        is_plural: whether its subject is plural.
    """

    words: Sequence[str]
    tags: list[Tag] = field(default_factory=list)
    verb: Kind | None = None
    has_verb: bool = False
    is_plural: bool = False

    def tag_next(self) -> None:
        """Tag the next word."""
        place = len(self.tags)
        word, before, after = self.words[place], self._word(place - 1), self._word(place + 1)
        found = self._closed(word, before, after) or self._open(word, before, after)
        kind = _kind(word)[0]
        if found == "verb" and kind not in ("ing", "ed"):
            self.has_verb, self.verb = True, kind
        elif found == "noun":
            self.is_plural |= _is_plural(word)
        elif word in english.CLAUSE_ENDS or word in english.RELATIVE:
            is_second_subject = word == "and" and not self.has_verb
            self.is_plural = is_second_subject or (word in english.RELATIVE and self.is_plural)
            self.has_verb = False
        self.tags.append(found)

    def _word(self, place: int) -> str:
        return self.words[place] if 0 <= place < len(self.words) else ""

    @property
    def _previous(self) -> Tag:
        return self.tags[-1] if self.tags else "other"

    def _closed(self, word: str, before: str, after: str) -> Tag | None:
        """The tag of a mark, a number, an adverb or a word of a closed class; None for others."""
        if not word[:1].isalnum():
            return "other"
        if word[0].isdigit():
            return "number"
        if (before, word, after) in english.FIXED or (word, after) == ("next", "to"):
            return "preposition"
        if word == "back":
            is_noun = self._previous in ("determiner", "adjective", "preposition") or after == "of"
            return "noun" if is_noun else "adverb"
        is_alone = not _is_open(after) and not (word in ("all", "both") and CLOSED.get(after) == "determiner")
        if word in english.MAY_STAND_ALONE and (is_alone or (word, after) == ("each", "other") or before == "each"):
            return "pronoun"
        if (word == "that" and self._previous == "noun") or (word == "her" and _kind(after)[0] == "ing"):
            return "pronoun"
        if self._previous == "determiner" and word in ("outside", "inside"):
            return "adjective" if _is_open(after) else "noun"
        if self._previous == "determiner" and CLOSED.get(word) == "adverb" and _kind(after)[0] == "noun":
            return "adjective"
        return CLOSED.get(word) or ("adverb" if _is_adverb(word) else None)

    def _open(self, word: str, before: str, after: str) -> Tag:
        """The tag of a noun, verb or adjective."""
        kind, is_mostly_verb = _kind(word)
        previous, is_modified = self._previous, before.endswith("'s")
        is_modified |= previous in ("determiner", "adjective", "number")
        if word.endswith("'s"):
            return "noun"
        if kind == "adjective":
            return self._adjective(word, before)
        if kind == "noun":
            agrees = previous == "noun" and not self.has_verb and word.endswith("s") != self.is_plural
            has_object = CLOSED.get(after) in ("determiner", "pronoun")
            return "verb" if has_object and (agrees or before == "to") else "noun"
        if kind == "ing":
            if is_modified and (previous != "number" or _is_open(after)) and before not in COLOURS:
                return "adjective" if _is_open(after) else "noun"
            return "adjective" if before in ("with", "in") and _is_open(after) else "verb"
        if kind == "ed":
            return "adjective" if _is_open(after) and _kind(after)[0] != "ing" else "verb"
        return self._noun_or_verb(kind, is_mostly_verb, is_modified)

    def _adjective(self, word: str, before: str) -> Tag:
        """The tag of an adjective, which is a noun in ``in black``, ``the dark`` and ``on the left``."""
        end = len(self.tags) + 1
        while self._word(end) in ("and", "or", ",") and _kind(self._word(end + 1))[0] == "adjective":
            end += 2
        precedes_noun = _is_open(self._word(end)) and not (before == "in" and _kind(self._word(end)) == ("s", True))
        is_noun = self._previous in ("determiner", "adjective") or (
            word in COLOURS and before in ("in", "wearing", "all", "and")
        )
        return "noun" if is_noun and not precedes_noun else "adjective"

    def _noun_or_verb(self, kind: Kind, is_mostly_verb: bool, is_modified: bool) -> Tag:
        """The tag of a word that is a noun or a verb, in the base form or with -s."""
        place, previous = len(self.tags), self._previous
        before, after = self._word(place - 1), self._word(place + 1)
        if kind == "base" and before in english.BEFORE_INFINITIVE:
            return "verb"
        if is_modified or previous in ("preposition", "verb") or (previous == "other" and before != ","):
            return "noun"
        if previous == "pronoun":
            return "verb"
        if previous == "conjunction":
            return "verb" if is_mostly_verb and self.verb == kind else "noun"
        agrees = not self.has_verb and (kind == "s" or self.is_plural)
        if is_mostly_verb:
            return "verb" if agrees else "noun"
        has_complement = after[:1].isalnum() and (not _is_open(after) or after == "back") and after not in ("and", "of")
        return "verb" if agrees and has_complement and (kind == "s") != self.is_plural else "noun"


def tag(tokens: Sequence[str]) -> list[Tag]:
    """Return the part of speech of each token of a caption, words and punctuation marks as `words_of` gives them."""
    sentence = _Sentence([token.lower() for token in tokens])
    for _ in tokens:
        sentence.tag_next()
    return sentence.tags


def noun_chunks(text: str) -> list[str]:
    """Return the noun chunks of a text, lower-cased and in order, without determiners.

    A chunk is a noun with the numbers, adjectives, participles and nouns before it; pronouns are none.
    ``A man in a red shirt rides a bicycle`` gives ``man``, ``red shirt`` and ``bicycle``.
    """
    words = words_of(text)
    tags = tag(words)
    chunks: list[list[int]] = [[]]
    for place, found in enumerate(tags):
        chunk, following = chunks[-1], tags[place + 1] if place + 1 < len(tags) else "other"
        is_headless = all(tags[other] != "noun" for other in chunk)
        if found in ("noun", "adjective") or (found == "number" and is_headless):
            chunk.append(place)
        elif found == "number":
            chunks.append([place])
        elif following == "adjective" and (
            (found == "adverb" and (chunk or tags[max(0, place - 1)] == "determiner"))
            or (words[place] in (",", "and", "or") and is_headless and chunk and tags[chunk[-1]] == "adjective")
        ):
            chunk.append(place)
        else:
            chunks.append([])
    for chunk in chunks:
        while chunk and tags[chunk[-1]] != "noun":
            chunk.pop()
    return [" ".join(words[place] for place in chunk) for chunk in chunks if chunk]
