import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from cran_bench.errors import BadInput
from cran_bench.frontend.text.words import TextFrontEnd, tokenize

TRAIN = ["A red star, a RED ring.", "the star is above the man's ring", "a blue_star", "a ring by a star", "!?"]
TEST = ["a red zebra a", "zebra", "", "the man's star"]


@pytest.fixture
def front_end():
    return TextFrontEnd.fit(TRAIN, "ppmi-svd[min_count=1]")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man's dog!", ["a", "man's", "dog"]),
        ("2 T-shirts, 'quoted' dogs'", ["2", "t", "shirts", "quoted", "dogs"]),
        ("under_score", ["under", "score"]),
        ("Élan ŠKODA 北京", ["élan", "škoda", "北京"]),
        ("rock'n'roll 5'4", ["rock'n", "roll", "5", "4"]),
        (" \n", []),
    ],
)
def test_tokenize(text, words):
    assert tokenize(text) == words


@given(st.text())
def test_tokens_are_their_own_tokens(text):
    words = tokenize(text)
    assert tokenize(" ".join(words)) == [part for word in words for part in tokenize(word)]
    assert all(words)


def test_vocabulary_is_by_frequency_then_alphabet(front_end):
    assert front_end.vocabulary == ["a", "star", "ring", "red", "the", "above", "blue", "by", "is", "man's"]


def test_token_ids(front_end):
    ids, lengths = front_end.tokens(TEST)
    place = {word: i + 2 for i, word in enumerate(front_end.vocabulary)}
    assert ids.dtype == lengths.dtype == np.int32
    assert lengths.tolist() == [4, 1, 0, 3]
    assert ids.tolist() == [
        [place["a"], place["red"], 1, place["a"]],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
        [place["the"], place["man's"], place["star"], 0],
    ]
    assert front_end.tokens([])[0].shape == (0, 0)
    assert front_end.tokens([""])[0].shape == (1, 0)


@pytest.mark.parametrize("size", [1, 3, 3000])
@pytest.mark.parametrize("texts", [TRAIN, TEST])
def test_counts_by_hand(front_end, texts, size):
    counts = front_end.bow(texts, size)
    words = front_end.vocabulary[:size]
    assert counts.dtype == np.float32
    assert counts.toarray().tolist() == [[tokenize(text).count(word) for word in words] for text in texts]


def test_changing_a_result_changes_nothing_else(front_end):
    for texts in (TRAIN, TEST):
        before = front_end.bow(texts).toarray()
        front_end.bow(texts).data[:] = 99
        front_end.tfidf(texts).data[:] = 99
        np.testing.assert_array_equal(front_end.bow(texts).toarray(), before)


def test_a_list_changed_in_place_is_seen(front_end):
    texts = ["a star", "a ring"]
    front_end.bow(texts)
    texts[0] = "blue"
    assert front_end.bow(texts).toarray()[0].tolist() == [float(w == "blue") for w in front_end.vocabulary]


@pytest.mark.parametrize("sublinear", [False, True])
@pytest.mark.parametrize("size", [3, 3000])
def test_tfidf_equals_sklearn_and_the_formula(front_end, size, sublinear):
    words = front_end.vocabulary[:size]
    oracle = TfidfVectorizer(analyzer=tokenize, vocabulary=words, sublinear_tf=sublinear).fit(TRAIN)
    for texts in (TRAIN, TEST):
        ours = front_end.tfidf(texts, size, sublinear)
        assert ours.dtype == np.float32 and ours.format == "csr"
        np.testing.assert_allclose(ours.toarray(), oracle.transform(texts).toarray(), atol=1e-6)
        for text, row in zip(texts, ours.toarray(), strict=True):
            weights = []
            for word in words:
                count = tokenize(text).count(word)
                df = sum(word in tokenize(t) for t in TRAIN)
                tf = (1 + math.log(count) if count else 0) if sublinear else count
                weights.append(tf * (1 + math.log((1 + len(TRAIN)) / (1 + df))))
            np.testing.assert_allclose(row, np.array(weights) / (np.linalg.norm(weights) or 1), atol=1e-6)


def test_no_texts(front_end):
    assert front_end.bow([]).shape == front_end.tfidf([]).shape == (0, 10)
    assert front_end.mean_vectors([]).shape == (0, front_end.word_vectors.dim)


def test_mean_vectors_by_hand(front_end, capfd):
    means = front_end.mean_vectors(TEST)
    assert means.dtype == torch.float32
    for text, mean in zip(TEST, means, strict=True):
        vectors = front_end.word_vectors.lookup(tokenize(text))
        expected = vectors.mean(0) if len(vectors) else np.zeros(front_end.word_vectors.dim)
        np.testing.assert_allclose(mean, expected / (np.linalg.norm(expected) or 1), atol=1e-6)
    assert not means[1:3].any()
    assert "2 of 4 texts contain no word with a vector" in capfd.readouterr().err


def test_mean_vectors_of_a_file(tmp_path, capfd):
    (tmp_path / "v.txt").write_text("zebra 9 9\nstar 0 2\nring 1 0\n")
    front_end = TextFrontEnd.fit(TRAIN, f"glove:{tmp_path / 'v.txt'}")
    means = front_end.mean_vectors(["a star", "star ring star", "zebra"])
    # a word that the training texts lack stays unknown, whatever the file has
    np.testing.assert_allclose(means, [[0, 1], [1 / math.sqrt(17), 4 / math.sqrt(17)], [0, 0]], atol=1e-6)


def features(front_end, texts):
    return (
        front_end.vocabulary,
        front_end.word_vectors.matrix.tolist(),
        front_end.tokens(texts)[0].tolist(),
        front_end.bow(texts, 5).toarray().tolist(),
        front_end.tfidf(texts, 5).toarray().tolist(),
        front_end.mean_vectors(texts).tolist(),
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.sampled_from("arest 'z")), max_size=5))
def test_only_the_training_texts_are_looked_at(others):
    fresh, used = (TextFrontEnd.fit(TRAIN, "ppmi-svd[min_count=1]") for _ in range(2))
    for transform in (used.tokens, used.bow, used.tfidf, used.mean_vectors):
        transform(others)
    assert features(used, TRAIN) == features(fresh, TRAIN)
    assert features(used, TEST) == features(fresh, TEST)
    assert used.bow(others).shape == used.tfidf(others).shape == (len(others), len(fresh.vocabulary))
    together = used.tfidf([*TEST, *others]).toarray()
    np.testing.assert_array_equal(together[: len(TEST)], fresh.tfidf(TEST).toarray())


def test_a_training_text_has_the_features_it_has_among_others(front_end):
    np.testing.assert_array_equal(front_end.mean_vectors(TRAIN)[:2], front_end.mean_vectors([*TRAIN[:2], "star"])[:2])


def test_work_is_done_once(monkeypatch):
    calls = []
    monkeypatch.setattr("cran_bench.frontend.text.words.tokenize", lambda text: calls.append(text) or tokenize(text))
    front_end = TextFrontEnd.fit(TRAIN)
    calls.clear()
    for texts in (TRAIN, TEST, TEST, TRAIN, list(TEST)):
        front_end.bow(texts)
        front_end.tfidf(texts, 3)
    assert calls == TEST


def test_identity_is_json_and_opens_nothing(front_end):
    identity = front_end.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["vectors"]["name"] == "ppmi-svd" and identity["tokenizer"] == 1
    assert "word_vectors" not in vars(front_end)
    assert identity == TextFrontEnd.fit(TEST, "ppmi-svd[min_count=1]").identity()


def test_bad_input(front_end):
    with pytest.raises(BadInput, match="2 training texts contain no word"):
        TextFrontEnd.fit(["", "?!"])
    with pytest.raises(BadInput, match="0 training texts"):
        TextFrontEnd.fit([])
    with pytest.raises(BadInput, match="at least 1, not 0"):
        front_end.bow(TEST, 0)
    with pytest.raises(BadInput, match="at least 1, not -1"):
        front_end.tfidf(TEST, -1)
    with pytest.raises(BadInput, match="did you mean 'glove'"):
        TextFrontEnd.fit(TRAIN, "glov:x")
