"""The tagger on captions annotated by hand, and on words whose class only the context tells."""

import re
from collections import Counter
from pathlib import Path

import pytest

from cran_bench.frontend.text.tagging import noun_chunks, tag, words_of

ANNOTATED = (Path(__file__).parent / "noun_chunks.txt").read_text().splitlines()


def tags_of(text):
    words = words_of(text)
    return dict(zip(words, tag(words), strict=True))


def test_chunks_of_annotated_captions():
    right = found = annotated = 0
    for line in ANNOTATED:
        chunks = Counter(" ".join(words_of(chunk)) for chunk in re.findall(r"\[(.*?)\]", line))
        mine = Counter(noun_chunks(re.sub(r"[\[\]]", "", line)))
        right, found, annotated = right + (chunks & mine).total(), found + mine.total(), annotated + chunks.total()
    assert len(ANNOTATED) >= 60
    assert right / found >= 0.97
    assert right / annotated >= 0.97


@pytest.mark.parametrize(
    "text, chunks",
    [
        ("a man in a red shirt rides a bicycle", ["man", "red shirt", "bicycle"]),
        ("A black and white dog , one in red", ["black and white dog", "red"]),
        ("someone holds one 's hat in front of them", ["hat"]),
        ("a very tall tree", ["very tall tree"]),
        ("The DOGS’ bowls", ["dogs bowls"]),
        ("they swim", []),
        ("?!", []),
        ("", []),
        ("ein Hund läuft", ["ein hund läuft"]),
    ],
)
def test_chunks(text, chunks):
    assert noun_chunks(text) == chunks


@pytest.mark.parametrize(
    "text, word, expected",
    [
        ("a dog jumps over a log", "jumps", "verb"),
        ("a boy does two jumps", "jumps", "noun"),
        ("two dogs run home", "run", "verb"),
        ("a dog run", "run", "noun"),
        ("she wants to swim", "swim", "verb"),
        ("a smiling man waves", "smiling", "adjective"),
        ("a man smiling at a child", "smiling", "verb"),
        ("a man climbing a wall", "climbing", "verb"),
        ("a man on a climbing wall", "climbing", "adjective"),
        ("a tall building", "building", "noun"),
        ("a covered wagon", "covered", "adjective"),
        ("a field covered in snow", "covered", "verb"),
        ("a boy in blue", "blue", "noun"),
        ("a boy in blue shorts", "blue", "adjective"),
        ("the ball is blue", "blue", "adjective"),
        ("a dog devours a bone", "devours", "verb"),
        ("a zorb flattens the grass", "flattens", "verb"),  # a word of no list, before an object
        ("a farmer sings", "farmer", "noun"),
        ("a bigger horse", "bigger", "adjective"),
        ("a nearby house", "nearby", "adjective"),
        ("a house nearby", "nearby", "adverb"),
        ("they look at each other", "other", "pronoun"),
        ("the other player", "other", "adjective"),
        ("she looks at her", "her", "pronoun"),
        ("she drops her hat", "her", "determiner"),
        ("he slowly eats", "slowly", "adverb"),
        ("a family", "family", "noun"),
        ("three boys", "three", "number"),
        ("21 boys", "21", "number"),
        ("a cat and a dog", "and", "conjunction"),
        ("a cat .", ".", "other"),
    ],
)
def test_the_context_decides(text, word, expected):
    assert tags_of(text)[word] == expected


def test_tags_take_any_tokens():
    assert tag([]) == []
    assert tag(["A", "", "Dog"]) == ["determiner", "other", "noun"]
