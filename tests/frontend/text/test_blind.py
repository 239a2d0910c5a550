"""The blind baseline: n-gram models against brute force, the choice on validation, and subsets without a lean."""

import json
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cran_bench.contrasts import Contrasts
from cran_bench.errors import BadInput
from cran_bench.frontend.text.blind import (
    CALIPER,
    CHARACTERS,
    DISCOUNT,
    DISCOUNTS,
    FIRST_SHARE,
    ORDERS,
    WINDOW,
    balanced_subset,
    blind_scores,
)
from cran_bench.frontend.text.ngrams import NearUnits, NGrams
from cran_bench.frontend.text.tagging import words_of

TEXTS = ["a b a c", "b a", "c c c b a b", "a b a b", "a", "d a b"]
TRAIN = [text.split() for text in TEXTS]
SIZE = 6  # a, b, c, d, the unknown word and the end


def kneser_ney(order, discount, context, word):
    """p(word | context) from dictionaries, by the recursion itself; texts begin with <s> and end with </s>."""
    marked = [["<s>", *text, "</s>"] for text in TRAIN]
    grams = [tuple(t[i : i + n]) for t in marked for n in range(1, order + 1) for i in range(len(t) - n + 1)]
    occurrences = Counter(grams)

    def count(gram, is_highest):
        if is_highest or gram[0] == "<s>":
            return occurrences[gram]
        return len({longer[0] for longer in occurrences if longer[1:] == gram})

    def p(context):
        lower = p(context[1:]) if context else 1 / SIZE
        is_highest = len(context) == order - 1
        counts = [count((*context, w), is_highest) for w in ("a", "b", "c", "d", "</s>")]
        if not sum(counts):
            return lower
        own = max(count((*context, word), is_highest) - discount, 0)
        return (own + discount * sum(c > 0 for c in counts) * lower) / sum(counts)

    return p(tuple(context)[-(order - 1) :] if order > 1 else ())


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_text_has_the_probability_of_the_recursion(order):
    model = NGrams(TRAIN, 4)
    texts = [["a", "b", "a"], ["c", "x", "b"], [], ["d", "d", "a", "b", "a", "c"], ["x"]]
    known = {"a", "b", "c", "d"}
    for text, found in zip(texts, model.scores(texts, order, 0.7), strict=True):
        marked = ["<s>", *text, "</s>"]
        marked = [word if word in known or word[0] == "<" else "<unknown>" for word in marked]
        expected = sum(math.log(kneser_ney(order, 0.7, marked[:i], marked[i])) for i in range(1, len(marked)))
        assert found == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("context", [[], ["a"], ["a", "b"], ["c", "c"], ["x"], ["d", "x"], ["b", "d"]], ids=str)
def test_conditional_probabilities_sum_to_one(context):
    near, model = NearUnits(TRAIN, 2, 0.6), NGrams(TRAIN, 3)
    nexts = [[*context, word] for word in ("a", "b", "c", "d", "x")]
    ended = near.vocabulary.stream([context])
    stream = near.vocabulary.stream(nexts)
    last = np.append(stream.place[1:] == 0, True).nonzero()[0] - 1  # the last word, before the end of its text
    for order in (1, 2, 3):
        p = model.log_probabilities(stream, model.find(stream), order, 0.6)[last]
        end = model.log_probabilities(ended, model.find(ended), order, 0.6)[-1]
        assert np.exp(p).sum() + np.exp(end) == pytest.approx(1)
    p = near.log_probabilities(stream)[last]
    assert np.exp(p).sum() + np.exp(near.log_probabilities(ended)[-1]) == pytest.approx(1)


def test_single_words_have_the_closed_form():
    counts = Counter(word for text in TRAIN for word in (*text, "</s>"))
    total, kinds = counts.total(), len(counts)
    p = {word: (counts[word] - 0.5 + 0.5 * kinds / SIZE) / total for word in counts}
    unknown = 0.5 * kinds / SIZE / total
    found = NGrams(TRAIN, 1).scores([["a", "x", "c"]], 1, 0.5)
    assert found == pytest.approx(math.log(p["a"] * unknown * p["c"] * p["</s>"]))


def test_near_words_have_the_closed_form():
    found = NearUnits([["a", "b"], ["a", "c"]], 2, 0.5)
    stream = found.vocabulary.stream([["a", "b"]])
    alone = {"a": 3 / 11, "b": 2 / 11, "</s>": 3 / 11}  # one more than each count, the unknown word's included
    pairs = {"<s>": Counter("aabc"), "a": Counter(["b", "c", "</s>", "</s>"]), "b": Counter(["</s>"])}

    def p(before, word):
        c = pairs[before]
        return (max(c[word] - 0.5, 0) + 0.5 * len(c) * alone[word]) / c.total()

    expected = [0, p("<s>", "a"), (p("<s>", "b") + p("a", "b")) / 2, (p("a", "</s>") + p("b", "</s>")) / 2]
    logarithms = found.log_probabilities(stream)
    assert np.exp(logarithms)[1:] == pytest.approx(expected[1:])
    assert logarithms[0] == 0


def contrasts_of(pairs, kinds=("k",), kind=None, partner=None, image=None):
    true, false = zip(*pairs, strict=True)
    kind = np.zeros(len(pairs), dtype=np.int64) if kind is None else kind
    image = np.arange(len(pairs)) if image is None else image
    return Contrasts(image, true, false, kind, kinds, partner)


def test_order_and_discount_have_the_lowest_perplexity_on_validation():
    train = ["a dog runs fast", "a cat sits here", "the dog sits here", "a man runs"] * 3
    val = ["a dog sits here", "the man runs fast"]
    pair = "a dog sits", "sits dog a"
    model, words = NGrams([words_of(text) for text in train], max(ORDERS)), [words_of(text) for text in val]
    chosen = model.best(words, ORDERS, DISCOUNTS)
    best = max(model.scores(words, order, discount).sum() for order in ORDERS for discount in DISCOUNTS)
    assert model.scores(words, *chosen).sum() == best
    true, false = model.scores([words_of(text) for text in pair], *chosen)
    assert blind_scores(contrasts_of([pair]), train, val).first[0] == true - false > 0
    scrambled = [words_of(text) for text in ("fast a dog", "here sits the")]
    assert model.best(scrambled, ORDERS, DISCOUNTS)[0] < chosen[0]


def test_what_a_model_cannot_tell_apart_is_an_exact_tie():
    pairs = [("a dog runs", "A dog  runs !"), ("one b c d", "one c b d"), ("a b", "b a")]
    blind = blind_scores(contrasts_of(pairs), ["x y z"], ["z x"])
    assert blind.first[1:].tolist() == [0, 0]
    assert blind.first[0] != 0
    assert blind.same_words.tolist() == [True, True, True]
    assert blind.balanced[1:].all()


@pytest.mark.parametrize(
    "true, false, same",
    [
        ("A man on a horse.", "a horse on a man", True),
        ("a man on a horse", "a man on horse", False),
        ("the t-shirt of a man", "the shirt of a t-man", False),  # the same words only where hyphens separate them
        ("a dog 's bowl and a cat", "a cat and a dog's bowl", False),  # where a space stands before the apostrophe
    ],
)
def test_same_words(true, false, same):
    assert blind_scores(contrasts_of([(true, false)]), ["a"], ["a"]).same_words.tolist() == [same]


@given(st.lists(st.tuples(st.integers(-6, 6), st.integers(0, 2)), min_size=1, max_size=60), st.randoms())
def test_a_balanced_subset_has_partners_of_either_sign_in_any_order(drawn, random):
    margin = np.array([m / 5 for m, _ in drawn])
    kind = np.array([k for _, k in drawn])
    texts = [(f"t {i % 2}", f"f {i // 2 % 2}") for i in range(len(drawn))]
    contrasts = contrasts_of(texts, ("x", "y", "z"), kind, image=np.arange(len(drawn)) // 4)
    kept = balanced_subset(contrasts, margin)
    assert kept[margin == 0].all()
    for name in range(3):
        up, down = (np.sort(sign * margin[kept & (kind == name) & (sign * margin > 0)]) for sign in (1, -1))
        assert len(up) == len(down)  # in the order of their sizes the partners lie closest
        assert (np.abs(up - down) <= CALIPER + 1e-12).all()
        possible = min((margin[kind == name] > 0).sum(), (margin[kind == name] < 0).sum())
        assert len(up) > 0 or possible == 0 or not _is_close(margin[kind == name])
    rows = np.array(random.sample(range(len(drawn)), len(drawn)))
    assert balanced_subset(contrasts.take(rows), margin[rows]).tolist() == kept[rows].tolist()


def _is_close(margin):
    return bool((np.abs(margin[margin > 0][:, None] + margin[margin < 0]) <= CALIPER).any())


def test_sizes_of_margins_say_nothing_on_a_balanced_subset():
    margin = np.random.default_rng(0).normal(1.5, 1, 4000)
    kept = balanced_subset(contrasts_of([(f"t {i}", f"f {i}") for i in range(4000)]), margin)
    up, down = (np.abs(margin[kept & (sign * margin > 0)]) for sign in (1, -1))
    assert len(up) == len(down) > 0.95 * (margin < 0).sum()
    above = (up[:, None] > down).mean() + (up[:, None] == down).mean() / 2
    assert above == pytest.approx(0.5, abs=0.005)


def test_the_second_model_multiplies_letters_and_near_words_without_half_of_the_first():
    true, false, train = "A dog  on a cat", "a cat on a dog", ["a dog sits on it", "A cat on it", "it sits"]
    blind = blind_scores(contrasts_of([(true, false)]), train, ["a cat"])
    near = NearUnits([words_of(text) for text in train], WINDOW, DISCOUNT).scores([words_of(true), words_of(false)])
    letters = NGrams(train, CHARACTERS).scores(["A dog on a cat", false], CHARACTERS, DISCOUNT)
    both = near + letters
    assert blind.second[0] == both[0] - both[1] - FIRST_SHARE * blind.first[0]
    assert near[0] != near[1]
    assert letters[0] != letters[1]


def test_the_second_model_learns_from_captions_evenly_spaced(monkeypatch):
    contrasts, train = (
        contrasts_of([("a dog on a cat", "a cat on a dog")]),
        ["a dog sits", "on a cat", "a dog", "on it"],
    )
    half, blind = (blind_scores(contrasts, of, ["a cat"]) for of in (train[::2], train))
    monkeypatch.setattr("cran_bench.frontend.text.blind.MOST_CAPTIONS", 3)
    fewer = blind_scores(contrasts, train, ["a cat"])
    assert fewer.first == blind.first
    assert fewer.second + FIRST_SHARE * fewer.first == half.second + FIRST_SHARE * half.first
    assert fewer.second != blind.second


def test_texts_are_scored_in_blocks(monkeypatch):
    model, near, texts = NGrams(TRAIN, 3), NearUnits(TRAIN, 2, 0.6), [*TRAIN, [], ["x", "a"]]
    whole = [model.scores(texts, 3, 0.7).tolist(), near.scores(texts).tolist()]
    monkeypatch.setattr("cran_bench.frontend.text.ngrams.BLOCK", 3)
    assert [model.scores(texts, 3, 0.7).tolist(), near.scores(texts).tolist()] == whole
    assert model.scores([], 3, 0.7).tolist() == []


def test_crossed_pairs_are_kept_together():
    pairs = [("a dog on a cat", "a cat on a dog"), ("a cat on a dog", "a dog on a cat"), ("a man on it", "on it a man")]
    blind = blind_scores(contrasts_of(pairs, partner=np.array([1, 0, -1])), ["a man on it"], ["a cat"])
    assert blind.first[0] == -blind.first[1]
    assert blind.second[0] == -blind.second[1]
    assert blind.balanced.tolist() == [True, True, False]
    pairs[2] = ("a cow", "a cat")  # of the same margin, between the halves in the order of the captions
    contrasts = contrasts_of(pairs, partner=np.array([1, 0, -1]))
    assert balanced_subset(contrasts, np.array([-1.0, 1.0, -1.0])).tolist() == [True, True, False]


@pytest.mark.parametrize(
    "train, val, name", [([], ["a"], "training"), (["a"], [], "validation"), (["!"], ["a"], "training")]
)
def test_no_captions_to_learn_from(train, val, name):
    with pytest.raises(BadInput, match=f"needs {name}.*run it without contrasts"):
        blind_scores(contrasts_of([("a b", "b a")]), train, val)


@pytest.mark.skipif("CRAN_BENCH_DATA" not in os.environ, reason="CRAN_BENCH_DATA does not name the real data")
def test_sugarcrepe_has_the_same_words_in_164_exchanges_of_objects():
    texts = {}
    for name in ("swap_obj", "replace_rel"):
        path = Path(os.environ["CRAN_BENCH_DATA"]) / "contrasts" / f"{name}.json"
        texts[name] = [(x["caption"], x["negative_caption"]) for x in json.loads(path.read_text()).values()]
    kind = np.repeat([0, 1], [len(x) for x in texts.values()])
    contrasts = contrasts_of(texts["swap_obj"] + texts["replace_rel"], tuple(texts), kind)
    blind = blind_scores(contrasts, [*contrasts.true], [*contrasts.true[:100]])
    assert np.bincount(kind).tolist() == [245, 1406]
    assert np.bincount(kind[blind.same_words], minlength=2).tolist() == [164, 0]
