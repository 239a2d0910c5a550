"""The best answers of queries are those of a full sort, in the order of the data where scores tie."""

import numpy as np
import pytest
import torch

from cran_bench.embeddings import Levels, Relations
from cran_bench.ranking import answers
from cran_bench.ranking.answers import best_answers
from cran_bench.ranking.problem import make_problem
from cran_bench.ranking.rank import rank
from cran_bench.ranking.tiles import tiles_for
from cran_bench.records import examples
from cran_bench.records.examples import Answers, drawn, find_answers
from cran_bench.similarity import COSINE, DOT, MultiLevel

IMAGES, EACH = 60, 3
OWNERS = torch.arange(IMAGES).repeat_interleave(EACH)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_copies():
    images = normal(IMAGES, 8)
    images[1::2] = images[::2]
    return images, normal(len(OWNERS), 8, seed=1), COSINE


def binary(dim=6):
    draw = np.random.default_rng(0)
    sides = (torch.from_numpy(draw.integers(0, 2, (size, dim)).astype(np.float32)) for size in (IMAGES, len(OWNERS)))
    return *sides, DOT


def nearly_equal(step):
    """Scores that differ by `step`, which float32 does not hold, in another order than the data's."""
    images, texts = torch.zeros(2, len(OWNERS), 2, dtype=torch.float64)
    images, texts = images[:IMAGES] + 1, texts + 1
    images[:, 1] += step * torch.from_numpy(np.random.default_rng(1).permutation(IMAGES))
    texts[:, 0] += step * torch.from_numpy(np.random.default_rng(2).permutation(len(OWNERS)))
    return images, texts, DOT


def permuted():
    """Sums of the same numbers in other orders, which float64 rounds differently."""
    draw = np.random.default_rng(0)
    numbers, again = draw.normal(size=40), np.random.default_rng(1).normal(size=(len(OWNERS), 1))
    images = np.stack([draw.permutation(numbers) for _ in range(IMAGES)])
    return torch.from_numpy(images), torch.from_numpy(np.abs(again) * np.ones(40)), DOT


def levels():
    draw = iter(range(9))
    mask = torch.from_numpy(np.random.default_rng(0).random((IMAGES, 4)) < 0.8)
    relations = Relations(normal(IMAGES, 4, 8, seed=next(draw)), normal(IMAGES, 4, 8, seed=next(draw)))
    images = Levels(normal(IMAGES, 8, seed=next(draw)), normal(IMAGES, 4, 8, seed=next(draw)), relations, mask)
    texts = Levels(*(normal(len(OWNERS), 8, seed=next(draw)) for _ in range(3)))
    return images, texts, MultiLevel(cosine=True, top=2)


CASES = {
    "cosine": lambda: (normal(IMAGES, 8), normal(len(OWNERS), 8, seed=1), COSINE),
    "levels": levels,
    "copies of images": with_copies,
    "many ties": binary,
    "all tie": lambda: (torch.ones(IMAGES, 4), torch.ones(len(OWNERS), 4), COSINE),
    "equal but for rounding": permuted,
    "closer than float32": lambda: nearly_equal(1e-9),
    "beyond float32": lambda: (1e20 * normal(IMAGES, 8), 1e20 * normal(len(OWNERS), 8, seed=1), DOT),
}


def sorted_rows(problem, count):
    """The rows of a stable sort of all scores, in both directions; those that float64 rounds differently are equal."""
    scores = problem.scores(slice(None), slice(None)).numpy()
    scores = np.round(scores / np.abs(scores).max(), 11)
    return [np.argsort(-way, axis=1, kind="stable")[:, :count] for way in (scores, scores.T)]


def small_tiles(*arguments, **options):
    tiles = tiles_for(*arguments, **options)
    tiles.image_rows, tiles.text_rows = 25, 70
    return tiles


@pytest.mark.parametrize("case", CASES)
def test_answers_are_those_of_a_full_sort(case, monkeypatch):
    images, texts, similarity = CASES[case]()
    problem = make_problem(images, texts, OWNERS, similarity)
    for make in (tiles_for, small_tiles):
        monkeypatch.setattr(answers, "tiles_for", make)
        found = find_answers(problem)
        for own, expected in zip((found.i2t, found.t2i), sorted_rows(problem, 5), strict=True):
            np.testing.assert_array_equal(own, expected)
            assert own.dtype == np.int32
        monkeypatch.setattr(answers, "QUERIES", 45)
        monkeypatch.setattr(answers, "BLOCK_BYTES", 20 * answers.ENTRY_BYTES * IMAGES)


def test_they_agree_with_the_ranks():
    images, texts, similarity = CASES["levels"]()
    found, ranks = (
        find_answers(make_problem(images, texts, OWNERS, similarity)),
        rank(images, texts, OWNERS, similarity),
    )
    owners = OWNERS.numpy()
    for is_right, counts in (
        (owners[found.i2t] == np.arange(IMAGES)[:, None], ranks.i2t),
        (found.t2i == owners[:, None], ranks.t2i),
    ):
        first = np.where(is_right.any(axis=1), is_right.argmax(axis=1) + 1, 6)
        np.testing.assert_array_equal(first, np.minimum(counts.ranks(), 6))


def test_fewer_candidates_than_five():
    owners = torch.tensor([0, 0, 1])
    found = find_answers(make_problem(torch.eye(2), torch.tensor([[1.0, 0.1], [1.0, 0], [0, 1.0]]), owners, DOT))
    assert found.i2t.tolist() == [[0, 1, 2, -1, -1], [2, 0, 1, -1, -1]]
    assert found.t2i.tolist() == [[0, 1, -1, -1, -1], [0, 1, -1, -1, -1], [1, 0, -1, -1, -1]]


def test_very_many_pairs_are_sampled(monkeypatch):
    problem = make_problem(*CASES["cosine"]()[:2], image_of=OWNERS, similarity=COSINE)
    every = find_answers(problem)
    monkeypatch.setattr(examples, "ALL_UP_TO", IMAGES * len(OWNERS) - 1)
    monkeypatch.setattr(examples, "SAMPLE", 20)
    some = find_answers(problem)
    for own, all_of, rows in zip(
        vars(some).values(), vars(every).values(), drawn(IMAGES, len(OWNERS), 20), strict=True
    ):
        assert len(rows) == 20 and (np.diff(rows) > 0).all()
        np.testing.assert_array_equal(np.flatnonzero(own[:, 0] >= 0), rows)
        np.testing.assert_array_equal(own[rows], all_of[rows])
    for few, more in zip(drawn(IMAGES, len(OWNERS), 10), drawn(IMAGES, len(OWNERS), 20), strict=True):
        assert set(few) < set(more)


def test_queries_in_any_order():
    problem = make_problem(*CASES["cosine"]()[:2], image_of=OWNERS, similarity=COSINE)
    queries = torch.tensor([5, 0, 59])
    np.testing.assert_array_equal(best_answers(problem, queries, False, 3), find_answers(problem).i2t[queries, :3])


@pytest.mark.parametrize("wrong", [(9, 1, 0), (10, 3, 0), (10, 1, 30), (10, 1, -2)])
def test_answers_of_other_data_are_refused(wrong):
    images, extra, row = wrong
    arrays = {"i2t": np.zeros((images, 5), np.int32), "t2i": np.zeros((29 + extra, 5), np.int32)}
    arrays["i2t"][0, 0] = row
    with pytest.raises(ValueError, match="not those of 10 images and 30 texts"):
        Answers.from_arrays(arrays, 10, 30)
