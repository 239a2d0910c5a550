"""Agreement with people's ratings: the order of scores by hand, rank correlations against scipy.stats."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, spearmanr

from cran_bench.errors import BadInput
from cran_bench.ranking import agreement
from cran_bench.ranking.agreement import (
    CORRELATIONS,
    Agreement,
    agree,
    between_people,
    correlations,
    weighted_correlations,
)
from cran_bench.ranking.problem import make_problem
from cran_bench.similarity import COSINE, DOT, Pairwise

IMAGES, EACH = 9, 2
IMAGE_OF = np.arange(IMAGES * EACH) // EACH
RATINGS = {
    "three people": lambda random, pairs: random.integers(1, 5, (pairs, 3)).astype(float),
    "a share": lambda random, pairs: random.integers(0, 4, (pairs, 1)) / 3,
    "all different": lambda random, pairs: random.random((pairs, 2)),
    "yes or no": lambda random, pairs: random.integers(0, 2, (pairs, 4)).astype(float),
}


def rated(ratings="three people", is_tied=True, pairs=70, seed=0):
    """Ratings of all images but the first two, some of them of own captions, that follow the scores a little."""
    random = np.random.default_rng(seed)
    chosen = random.permutation((IMAGES - 2) * IMAGES * EACH)[:pairs] + 2 * IMAGES * EACH
    image, caption = np.divmod(chosen, IMAGES * EACH)
    scores = random.integers(0, 9, pairs) if is_tied else random.permutation(pairs)
    values = RATINGS[ratings](random, pairs)
    order = np.argsort(scores + pairs * random.random(pairs))
    values[order] = values[np.argsort(values[:, 0], kind="stable")]
    rank = np.unique(scores, return_inverse=True)[1]
    image, caption, rank = (x.astype(np.int32) for x in (image, caption, rank))
    return Agreement(image, caption, rank, values)


def by_scipy(one, times=None):
    """The correlations of a resample, pairs repeated one by one."""
    others = IMAGE_OF[one.caption] != one.image
    times = np.ones(IMAGES, dtype=int) if times is None else times
    rows = np.repeat(np.flatnonzero(others), times[one.image[others]])
    scores, ratings = one.rank[rows], one.ratings[rows]
    flat = scores.repeat(ratings.shape[1]), ratings.ravel()
    taus = [kendalltau(*flat, variant=variant).statistic for variant in "bc"]
    return np.array([*taus, spearmanr(scores, ratings.mean(axis=1).round(12)).statistic])


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("ratings", RATINGS)
def test_the_correlations_are_those_of_scipy(ratings, is_tied, monkeypatch):
    one = rated(ratings, is_tied)
    assert (IMAGE_OF[one.caption] == one.image).any()
    found = correlations(one, IMAGE_OF)
    assert list(found) == list(CORRELATIONS)
    np.testing.assert_allclose(list(found.values()), 100 * by_scipy(one), rtol=0, atol=1e-11)
    times = np.random.default_rng(1).multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), 5).astype(np.uint8)
    drawn = weighted_correlations(one, IMAGE_OF, times)
    np.testing.assert_allclose(drawn, [by_scipy(one, row) for row in times], rtol=0, atol=1e-12)
    assert np.ptp(drawn, axis=0).min() > 0.01
    monkeypatch.setattr(agreement, "_BLOCK", (32, 150))  # two draws at a time
    np.testing.assert_array_equal(weighted_correlations(one, IMAGE_OF, times), drawn)


def test_mean_ratings_that_differ_by_rounding_are_equal():
    values = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.2, 0.2], [0.3, 0.3, 0.0], [0.9, 0.1, 0.3]])
    assert len(np.unique(values[:4].mean(axis=1))) > 1
    image, caption, rank = np.array([[0, 1, 2, 3, 4], [17, 17, 17, 17, 17], [3, 0, 1, 2, 4]], dtype=np.int32)
    one = Agreement(image, caption, rank, values)
    assert correlations(one, IMAGE_OF)["spearman"] == pytest.approx(
        100 * spearmanr(one.rank, [0, 0, 0, 0, 1]).statistic
    )


def test_nothing_to_correlate_is_zero():
    one = rated()
    nothing = dict.fromkeys(CORRELATIONS, 0.0)
    for same in ("rank", "ratings"):
        constant = Agreement(**{**vars(one), same: np.zeros_like(getattr(one, same))})
        assert correlations(constant, IMAGE_OF) == nothing
    first = np.flatnonzero(IMAGE_OF[one.caption] != one.image)[:1]
    alone = Agreement(one.image[first], one.caption[first], np.zeros(1, dtype=np.int32), np.ones((1, 3)))
    assert correlations(alone, IMAGE_OF) == nothing
    unrated = (np.arange(IMAGES) < 2).astype(np.uint8)
    assert not weighted_correlations(one, IMAGE_OF, unrated[None]).any()


def test_agreement_between_people():
    one = rated()
    found = between_people(one, IMAGE_OF)
    assert list(found) == [(0, 1), (0, 2), (1, 2)]
    others = IMAGE_OF[one.caption] != one.image
    for (a, b), values in found.items():
        both = one.ratings[others, a], one.ratings[others, b]
        expected = [*(kendalltau(*both, variant=x).statistic for x in "bc"), spearmanr(*both).statistic]
        assert list(values.values()) == pytest.approx([100 * x for x in expected], abs=1e-11)
    assert not between_people(rated("a share"), IMAGE_OF)


def problem_of(scores, similarity=DOT):
    """The problem of an (N, T) matrix of scores, as inner products with unit vectors."""
    scores = torch.as_tensor(scores, dtype=torch.float64)
    return make_problem(torch.eye(len(scores)).double(), scores.T.contiguous(), torch.from_numpy(IMAGE_OF), similarity)


def test_the_order_of_the_scores():
    random = np.random.default_rng(3)
    scores, one = random.integers(-3, 4, (IMAGES, IMAGES * EACH)), rated()
    found = agree(problem_of(scores), one.image.astype(np.int64), one.caption.astype(np.int64), one.ratings)
    expected = np.unique(scores[one.image, one.caption], return_inverse=True)[1]
    np.testing.assert_array_equal(found.rank, expected)
    assert found.rank.dtype == found.image.dtype == found.caption.dtype == np.int32
    for name in ("image", "caption", "ratings"):
        np.testing.assert_array_equal(getattr(found, name), getattr(one, name))


def test_scores_within_rounding_are_equal_and_others_are_not():
    random = np.random.default_rng(0)
    x, t = random.standard_normal((2, 64))
    images = torch.from_numpy(np.stack([x * (1 + k / 7) for k in range(IMAGES)]))
    texts = torch.from_numpy(np.stack([t] * IMAGES * EACH))
    texts[-1] += 1e-9 * (texts[-1] @ texts[-1]).sqrt() * images[0] / images[0].norm()  # a little closer to the images
    image, caption = np.arange(8), np.full(8, 2)
    image, caption = np.append(image[image != 1], 3), np.append(caption[:7], IMAGES * EACH - 1)
    unequal = torch.nn.functional.cosine_similarity(images[image[:-1]], texts[2])
    assert len(unequal.unique()) > 1
    problem = make_problem(images, texts, torch.from_numpy(IMAGE_OF), COSINE)
    assert agree(problem, image, caption, np.ones((8, 1))).rank.tolist() == [0] * 7 + [1]


def test_a_pair_scorer_scores_images_as_queries():
    scores = np.random.default_rng(0).permutation(IMAGES * IMAGES * EACH).reshape(IMAGES, -1)
    pairs = Pairwise(lambda x, y: x @ y.T, i2t=lambda x, y: -(x @ y.T), rerank=2)
    image, caption = np.arange(6), np.arange(6)[::-1].copy()
    found = agree(problem_of(scores, pairs), image, caption, np.ones((6, 1)))
    np.testing.assert_array_equal(found.rank, np.argsort(np.argsort(-scores[image, caption])))


def test_what_cannot_be_correlated_is_refused():
    scores = np.ones((IMAGES, IMAGES * EACH))
    own, one = np.arange(IMAGES), rated()
    with pytest.raises(BadInput, match="rated with its own image only, which correlations leave out: rate other pairs"):
        agree(problem_of(scores), own, own * EACH, np.ones((IMAGES, 1)))
    with pytest.raises(BadInput, match="its own image only"):
        correlations(Agreement(own, own * EACH, own, np.ones((IMAGES, 1))), IMAGE_OF)
    scores[one.image[5], one.caption[5]] = np.inf
    infinite = Pairwise(lambda x, y: torch.where((x @ y.T) == 7, torch.inf, 0.0).double())
    scores = np.where(np.isinf(scores), 7, scores)
    with pytest.raises(BadInput, match="the score of a rated pair is not finite"):
        agree(problem_of(scores, infinite), one.image.astype(np.int64), one.caption.astype(np.int64), one.ratings)


@pytest.mark.real
@pytest.mark.skipif("CRAN_BENCH_DATA" not in os.environ, reason="CRAN_BENCH_DATA names no data")
def test_the_experts_of_flickr8k():
    """Published: tau-c of 46 to 63 between experts; an independent script gave 9.5 for the length of captions."""
    folder = Path(os.environ["CRAN_BENCH_DATA"]) / "flickr8k"
    path = folder / "judgments/ExpertAnnotations.txt"
    if not path.is_file():
        pytest.skip("there are no judgments of Flickr8k's experts")
    words = dict(line.split("\t") for line in (folder / "Flickr8k.token.txt").read_text().splitlines())
    places, images = {name: k for k, name in enumerate(words)}, {}
    image_of = np.array([images.setdefault(name.split("#")[0], len(images)) for name in words])
    lines = [line.split() for line in path.read_text().splitlines()]
    image, caption = (np.array(x) for x in zip(*((images[a], places[b]) for a, b, *_ in lines), strict=True))
    length = np.array([len(words[line[1]].split()) for line in lines])
    rank = np.unique(-length, return_inverse=True)[1]
    one = Agreement(image, caption, rank, np.array([line[2:] for line in lines], dtype=float))
    assert np.count_nonzero(image_of[caption] != image) == 5664
    assert correlations(one, image_of)["tau_c"] == pytest.approx(9.5, abs=0.05)
    between = [values["tau_c"] for values in between_people(one, image_of).values()]
    assert [min(between), max(between)] == pytest.approx([46.1, 62.6], abs=0.05)
