"""Ranks of lists made elsewhere: what a full score matrix gives in which everything unlisted scores below all."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cran_bench.protocols import PROTOCOLS
from cran_bench.ranking.evaluation import evaluate
from cran_bench.ranking.lists import evaluate_lists, ids_of
from cran_bench.similarity import DOT


def counted(scores, is_right):
    """Better, tied and right of each row of a matrix, one pair after the other."""
    counts = []
    for row, right in zip(scores.tolist(), is_right.tolist(), strict=True):
        best = max(score for score, is_own in zip(row, right, strict=True) if is_own)
        better = sum(score > best for score in row)
        tied = sum(score == best and not is_own for score, is_own in zip(row, right, strict=True))
        counts.append((better, tied, sum(score == best for score in row) - tied))
    return np.array(counts).T


def listing(matrices, is_listed):
    """``listed`` of a method whose lists are entries of a matrix for each direction."""

    def listed(direction, queries, candidates):
        chosen = is_listed[direction]
        assert chosen.shape == (len(queries), len(candidates))
        return *(rows.astype(np.int32) for rows in np.nonzero(chosen)), matrices[direction][chosen]

    return listed


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    st.sampled_from([2, 5, 1000]),
    st.sampled_from([0, 2, 3]),
)
def test_what_is_not_listed_ranks_below_and_ties(seed, share, levels, folds):
    random = np.random.default_rng(seed)
    images = int(random.integers(3, 9))
    image_of = np.sort(np.concatenate([np.arange(images), random.integers(0, images, 7)]))
    shapes = {"i2t": (images, len(image_of)), "t2i": (len(image_of), images)}
    scores = {side: random.integers(0, levels, shape).astype(float) for side, shape in shapes.items()}
    is_listed = {side: random.random(shape) < share for side, shape in shapes.items()}
    twins = torch.from_numpy(random.permutation(images))
    names = [f"image {k}" for k in range(images)]
    method = listing(scores, is_listed)
    made = evaluate_lists(method, "captions", names, torch.from_numpy(image_of), twins, folds)

    size = images // folds if folds else images
    kept, kept_texts = np.arange(images) < size * (folds or 1), image_of < size * (folds or 1)
    for side, counts in (("i2t", made.ranks.i2t), ("t2i", made.ranks.t2i)):
        full = np.where(is_listed[side], scores[side], -1.0)
        owners, answers = (np.arange(images), image_of) if side == "i2t" else (image_of, np.arange(images))
        is_right = owners[:, None] == answers
        expected = []
        for row in np.flatnonzero(kept if side == "i2t" else kept_texts):
            here = answers // size == owners[row] // size
            expected.append(counted(full[row, None, here], is_right[row, None, here])[:, 0])
        np.testing.assert_array_equal(np.array(expected).T, list(vars(counts).values()))
    full = np.where(is_listed["t2i"], scores["t2i"], -1.0)
    rows = np.arange(len(image_of))
    gap = full[rows, image_of] - full[rows, twins.numpy()[image_of]]
    assert made.metrics["twin_accuracy"] == pytest.approx(100 * np.mean((gap > 0) + 0.5 * (gap == 0)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("folds", [0, 3])
def test_full_lists_of_scores_have_the_figures_of_the_embeddings(protocol, folds):
    random = torch.Generator().manual_seed(3)
    images = torch.randint(-2, 3, (10, 4), generator=random).float()  # integers, so that scores tie
    image_of = torch.arange(10) if protocol == "documents" else torch.arange(10).repeat_interleave(3)
    texts = images[image_of] + torch.randint(-1, 2, (len(image_of), 4), generator=random)
    if protocol == "single":
        queries = texts[::3]
    elif protocol == "mean":
        texts = texts * 3  # whose means are integers
        queries = texts.view(10, 3, 4).mean(dim=1)
    else:
        queries = texts
    twins = torch.arange(10) ^ 1
    expected = evaluate(images, texts, image_of, twins, DOT, protocol, folds)
    scores = (images @ queries.T).double().numpy()
    every = np.ones(scores.shape, bool)
    method = listing({"i2t": scores, "t2i": scores.T}, {"i2t": every, "t2i": every.T})
    made = evaluate_lists(method, protocol, [f"{k}" for k in range(10)], image_of, twins, folds)
    assert made.metrics == expected.metrics
    assert expected.ranks.ties() > 0
    for name, array in expected.ranks.arrays().items():
        np.testing.assert_array_equal(made.ranks.arrays()[name], array)


def test_ids_are_single_words_and_differ():
    names = ["a b.jpg", "a%20b.jpg", "c\td", "e\u00a0\u2028f", "g\x85\x00", "ordinary/é#1.jpg"]
    image_of = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5])
    images, texts = ids_of("captions", names, image_of)
    assert all(name.split() == [name] and name.isprintable() for name in (*images, *texts))
    assert len({*images, *texts}) == len(names) + len(image_of)
    assert images[0] == "a%20b.jpg" and images[1] == "a%2520b.jpg" and images[-1] == names[-1]
    assert texts[:3] == ["a%20b.jpg#0", "a%20b.jpg#1", "a%2520b.jpg#0"] and texts[5] == "c%09d#2"
    kinds = {protocol: ids_of(protocol, ["x"], np.array([0, 0]))[1] for protocol in PROTOCOLS}
    assert kinds == {"captions": ["x#0", "x#1"], "documents": ["x#documents"], "mean": ["x#mean"], "single": ["x#0"]}
