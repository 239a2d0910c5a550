import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cran_bench.errors import BadInput
from cran_bench.frontend.text.characters import ALPHABET, encode

# typed apart from the module, in the order of methods.md 1.3
REED = [*"abcdefghijklmnopqrstuvwxyz", *"0123456789", *"-,;.!?:'\"/\\|_@#$%^&*~`+-=<>()[]{}", " "]


def naive(text, length, unknown):
    place = {}
    for index, character in enumerate(REED, start=1):
        place[character] = index
    row = []
    for character in text.lower():
        if character in place:
            row.append(place[character])
        elif unknown == "zero":
            row.append(0)
        elif unknown == "stop":
            break
    row = row[:length]
    return row + [0] * (length - len(row))


def test_the_alphabet_is_reeds():
    assert list(ALPHABET) == REED
    assert len(ALPHABET) == 70 and len(set(ALPHABET)) == 69


def test_every_index_but_the_first_hyphen_is_used():
    used = set(encode([ALPHABET], 70)[0].tolist())
    assert used == set(range(1, 71)) - {37}
    assert encode(["-"], 1)[0, 0] == 60


def test_by_hand():
    assert encode(["A b.", "é1", ""], 5).tolist() == [[1, 70, 2, 40, 0], [28, 0, 0, 0, 0], [0] * 5]


@pytest.mark.parametrize(("unknown", "row"), [("drop", [1, 2]), ("zero", [1, 0]), ("stop", [1, 0])])
def test_unknown_characters_before_the_cut(unknown, row):
    assert encode(["aéb"], 2, unknown).tolist() == [row]


@given(
    st.lists(st.text(st.one_of(st.sampled_from(ALPHABET + "A-Zé\0\n\u0130\ud800"), st.characters()), max_size=30)),
    st.integers(1, 20),
    st.sampled_from(["drop", "zero", "stop"]),
)
def test_equals_a_naive_loop(texts, length, unknown):
    codes = encode(texts, length, unknown)
    assert codes.dtype == np.uint8 and codes.shape == (len(texts), length)
    assert codes.tolist() == [naive(text, length, unknown) for text in texts]


def test_defaults_are_the_papers_and_the_result_is_writeable():
    codes = encode(["x" * 300])
    assert codes.shape == (1, 201) and (codes == 24).all()
    codes[0, 0] = 0


def test_bad_options():
    with pytest.raises(BadInput, match="at least 1, not 0"):
        encode(["a"], 0)
    with pytest.raises(BadInput, match="did you mean 'drop'"):
        encode(["a"], 5, "dropp")
