"""Other spellings and parts of words, and how they find vectors."""

import numpy as np
import pytest
import torch

from cran_bench.frontend.text.spelling import candidates, pieces, spellings
from cran_bench.frontend.text.vectors import WordVectors
from cran_bench.frontend.text.words import FIRST_WORD, TextFrontEnd


@pytest.mark.parametrize(
    ("british", "american"),
    [
        ("colourful", "colorful"),
        ("grey", "gray"),
        ("theatre", "theater"),
        ("organised", "organized"),
        ("travelling", "traveling"),
        ("jewellery", "jewelry"),
        ("pyjamas", "pajamas"),
        ("catalogue", "catalog"),
    ],
)
def test_american_spellings_are_tried(british, american):
    assert american in list(spellings(british))
    assert next(spellings(british)) == british


def test_parts_stand_at_apostrophes_and_digits():
    assert pieces("man's") == ["man"]
    assert pieces("o'clock") == ["o", "clock"]
    assert pieces("3rd") == ["rd"]
    assert pieces("dog") == pieces("2010") == []
    assert {"man's", "man", "Man", "MAN"} <= set(candidates("man's"))


def test_the_word_itself_comes_before_other_spellings_and_these_before_parts():
    words = ["grey", "gray", "Paris", "man", "clock", "o", "women's", "women", "A"]
    table = WordVectors(words, np.eye(9, dtype=np.float32), {})
    for word, rows in {
        "grey": [0],
        "paris": [2],
        "man's": [3],
        "o'clock": [5, 4],
        "women's": [6],
        "unheard": [],
        "s": [],
        "a": [],
    }.items():
        assert table.rows(word) == rows


def test_a_file_gives_what_may_stand_for_a_caption(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("color 1 0 0\nMan 0 1 0\nclock 0 0 1\no 0 0 3\nother 9 9 9\n")
    text = TextFrontEnd.fit(["a colour", "the man's hat", "o'clock o'clock"], f"glove:{path}")
    assert sorted(text.word_vectors.index) == ["Man", "clock", "color", "o"]
    means = text.mean_vectors(["a colour", "the man's hat", "o'clock", "hat", "a man's colour"])
    half = 0.5**0.5
    np.testing.assert_allclose(means, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [half, half, 0]], atol=1e-6)
    vectors = dict(zip(text.vocabulary, text.token_vectors()[FIRST_WORD:].tolist(), strict=True))
    assert vectors["o'clock"] == [0, 0, 2] and vectors["colour"] == [1, 0, 0] and vectors["hat"] == [0, 0, 0]
    assert torch.equal(text.token_vectors()[:FIRST_WORD], torch.zeros(2, 3))
