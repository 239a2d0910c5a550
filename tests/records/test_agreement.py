"""Intervals and paired differences of rank correlations, against loops over resamples with scipy.stats."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from cran_bench.errors import BadInput
from cran_bench.ranking.agreement import Agreement, correlations
from cran_bench.ranking.metrics import Counts
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.records.statistics import behind_best, samples, times_drawn
from cran_bench.records.tasks import judgments_task

IMAGES = 30
IMAGE_OF = np.arange(2 * IMAGES) // 2


def rated(noise, seed=0, images=IMAGES - 4):
    """Pairs of most images that three people rated; scores follow the ratings but for the noise."""
    random = np.random.default_rng(7)
    image = np.repeat(np.arange(images), random.integers(1, 9, images))
    caption = random.integers(0, len(IMAGE_OF), len(image))
    quality = random.standard_normal(len(image)) + random.standard_normal(images)[image]
    ratings = np.clip(np.round(2.5 + quality[:, None] + random.standard_normal((len(image), 3))), 1, 4)
    scores = np.round(quality + noise * np.random.default_rng(seed).standard_normal(len(image)), 1)
    rank = np.unique(scores, return_inverse=True)[1]
    image, caption, rank = (x.astype(np.int32) for x in (image, caption, rank))
    return Agreement(image, caption, rank, ratings)


def ranks_of(rated, images):
    counts = Counts(*np.zeros((3, images), dtype=np.int32)), Counts(*np.zeros((3, len(IMAGE_OF)), dtype=np.int32))
    return RecordedRanks(*counts, IMAGE_OF, agreements={"expert": rated})


def agreement_samples(rows, images=IMAGES, draws=40):
    rows = [[ranks_of(one, images) for one in seeds] for seeds in rows]
    return samples(rows, draws, judgments_task("expert", rows[0][0]))


def by_scipy(one, times):
    """The three correlations, in percent, with the pairs of each image repeated."""
    others = IMAGE_OF[one.caption] != one.image
    rows = np.repeat(np.flatnonzero(others), times[one.image[others]])
    scores, ratings = one.rank[rows], one.ratings[rows]
    taus = [kendalltau(scores.repeat(3), ratings.ravel(), variant=variant).statistic for variant in "bc"]
    return 100 * np.array([*taus, spearmanr(scores, ratings.sum(axis=1)).statistic])


def test_intervals_and_differences_against_a_loop():
    rows = [rated(0.5), rated(2.0)]
    better, worse = agreement_samples([[one] for one in rows], draws=40)
    drawn = np.array([[by_scipy(one, times) for times in times_drawn(IMAGES, 40)] for one in rows])
    for one, found, draws in zip(rows, (better, worse), drawn, strict=True):
        np.testing.assert_allclose(found.draws, draws, rtol=0, atol=1e-9)
        for k, (figure, value) in enumerate(correlations(one, IMAGE_OF).items()):
            interval = found.interval(f"expert.{figure}")
            assert interval.value == pytest.approx(value, abs=1e-11)
            assert interval.ends == pytest.approx(tuple(np.percentile(draws[:, k], [2.5, 97.5])))
    gap = better.minus(worse, "expert.tau_c")
    assert gap.value == pytest.approx(better.interval("expert.tau_c").value - worse.interval("expert.tau_c").value)
    assert gap.ends == pytest.approx(tuple(np.percentile((drawn[0] - drawn[1])[:, 1], [2.5, 97.5])))
    assert gap.low > 0
    behind = behind_best({"better": better, "worse": worse})
    assert behind["worse"].value == pytest.approx(-gap.value) and behind["worse"].high < 0 < behind["better"].low


def test_seeds_are_averaged_and_widen_the_interval():
    seeds = [rated(1.0, seed) for seed in (0, 1, 2)]
    alone = [agreement_samples([[one]], draws=200)[0] for one in seeds]
    together, same = agreement_samples([seeds, [seeds[0]] * 3], draws=200)
    np.testing.assert_array_equal(together.values, np.concatenate([one.values for one in alone]))
    np.testing.assert_allclose(together.draws, np.mean([one.draws for one in alone], axis=0), rtol=0, atol=1e-12)
    low, high = np.percentile(together.draws[:, 0], [2.5, 97.5])
    assert together.interval("expert.tau_b").low < low and together.interval("expert.tau_b").high > high
    assert same.values.shape == (3, 3)
    assert same.interval("expert.tau_b").ends == pytest.approx(alone[0].interval("expert.tau_b").ends, abs=1e-12)


def test_one_rated_image_never_changes():
    image, caption, rank = np.array([[0] * 4, [2, 3, 4, 5], [0, 1, 3, 2]], dtype=np.int32)
    one = Agreement(image, caption, rank, np.arange(12.0).reshape(4, 3))
    [found] = agreement_samples([[one]], 1, draws=20)
    assert (found.draws == found.values).all()
    interval = found.interval("expert.tau_b")
    assert interval.low == interval.value == interval.high > 0
    constant = replace(one, rank=np.zeros_like(one.rank))
    [nothing] = agreement_samples([[constant]], draws=20)
    assert not nothing.draws.any() and not nothing.values.any()


def test_only_the_same_pairs_are_compared():
    one = rated(1.0)
    for other in (replace(one, ratings=one.ratings + 1), rated(1.0, images=9)):
        with pytest.raises(BadInput, match="needs ranks of the same queries"):
            agreement_samples([[one], [other]], draws=3)
