import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from cran_bench.errors import BadInput
from cran_bench.ranking import Counts, Ranks, rank
from cran_bench.similarity import DOT
from cran_bench.statistics import FIGURES, Interval, interval, paired_difference


def noisy(images=60, noise=2.0, seed=0, captions=None):
    random = torch.Generator().manual_seed(seed)
    per_image = torch.randint(1, 5, (images,), generator=torch.Generator().manual_seed(9))
    if captions is not None:
        per_image = torch.full((images,), captions)
    image_of = torch.repeat_interleave(torch.arange(images), per_image)
    x = torch.randn(images, 8, generator=torch.Generator().manual_seed(10))
    texts = x[image_of] + noise * torch.randn(len(image_of), 8, generator=random)
    return rank(x, texts, image_of, DOT)


def of_hits(hits):
    """One-to-one ranks whose R@1 is the mean of `hits`, both ways."""
    better = np.where(hits, 0, 99).astype(np.int32)
    counts = Counts(better, np.zeros_like(better), np.ones_like(better))
    return Ranks(counts, counts, np.arange(len(better)))


def resampled(ranks, figure, draws):
    """The figure on each resample, images repeated one by one; the draws are those of the module."""
    n = len(ranks.i2t.better)
    direction, k = figure.split("_r")
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=draws)
    samples = []
    for row in weights:
        hits = []
        for image, times in enumerate(row.tolist()):
            own = [image] if direction == "i2t" else np.flatnonzero(ranks.image_of == image).tolist()
            values = getattr(ranks, direction).hits(int(k))[own].tolist()
            hits += values * times
        samples.append(100 * np.mean(hits))
    return np.array(samples)


@pytest.mark.parametrize("figure", ["i2t_r1", "t2i_r1", "t2i_r5", "i2t_r10"])
def test_an_interval_against_a_loop(figure):
    ranks = noisy()
    found = interval([ranks], figure, draws=60)
    samples = resampled(ranks, figure, 60)
    assert found.value == pytest.approx(ranks.metrics().values()[figure])
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(samples, [2.5, 97.5])))
    assert found.low < found.value < found.high


def test_rsum_and_several_seeds_against_a_loop():
    seeds = [noisy(seed=seed) for seed in (1, 2)]
    found = interval(seeds, "rsum", draws=30)
    samples = np.mean([sum(resampled(ranks, figure, 30) for figure in FIGURES) for ranks in seeds], axis=0)
    assert found.value == pytest.approx(np.mean([ranks.metrics().rsum for ranks in seeds]))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(samples, [2.5, 97.5])))


def test_a_paired_difference_against_a_loop():
    a, b = noisy(seed=1), noisy(seed=2, noise=3.0)
    found = paired_difference([a], [b], "t2i_r1", draws=60)
    samples = resampled(a, "t2i_r1", 60) - resampled(b, "t2i_r1", 60)
    assert found.value == pytest.approx(a.metrics().t2i_r1 - b.metrics().t2i_r1)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(samples, [2.5, 97.5])))
    opposite = paired_difference([b], [a], "t2i_r1", draws=60)
    assert (opposite.value, opposite.low, opposite.high) == pytest.approx((-found.value, -found.high, -found.low))


@pytest.mark.parametrize("figure", [*FIGURES, "rsum"])
def test_a_thing_differs_from_itself_by_exactly_nothing(figure):
    seeds = [noisy(seed=1), noisy(seed=2)]
    difference = paired_difference(seeds, seeds, figure, draws=50)
    assert difference == Interval(0.0, 0.0, 0.0)
    assert not difference.excludes_zero()


def test_a_shared_image_effect_cancels_in_the_paired_difference():
    hits = np.random.default_rng(0).random(500) < 0.5
    worse = hits.copy()
    worse[np.flatnonzero(hits)[:15]] = False
    difference = paired_difference([of_hits(hits)], [of_hits(worse)], "t2i_r1")
    assert difference.value == pytest.approx(3.0)
    assert difference.excludes_zero()
    apart = interval([of_hits(hits)], "t2i_r1")
    assert difference.high - difference.low < (apart.high - apart.low) / 2


def test_excludes_zero():
    assert Interval(2, 1, 3).excludes_zero()
    assert Interval(-2, -3, -1).excludes_zero()
    assert not Interval(1, 0, 3).excludes_zero()
    assert not Interval(1, -1, 3).excludes_zero()


def test_ranks_of_other_queries_are_refused():
    a = noisy()
    for other in (noisy(images=59), noisy(captions=2)):
        with pytest.raises(BadInput, match="ranks of the same queries"):
            paired_difference([a], [other], "t2i_r1")
    with pytest.raises(BadInput, match="ranks of the same queries"):
        paired_difference([a, noisy(images=59)], [a], "t2i_r1")


@pytest.mark.parametrize("figure", ["r1", "t2i_r2", "i2t_medr", ""])
def test_unknown_figures_are_refused(figure):
    with pytest.raises(BadInput, match=f"there is no figure '{figure}'; known: i2t_r1, .*, rsum"):
        interval([noisy()], figure)


def test_scipys_bootstrap_agrees():
    hits = np.random.default_rng(3).random(400) < 0.3
    found = interval([of_hits(hits)], "i2t_r1")
    expected = bootstrap(
        (100.0 * hits,), np.mean, method="percentile", n_resamples=2000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """R@1 of 30 % in the population; an image's four captions share most of their luck."""
    random, covered, runs = np.random.default_rng(4), 0, 150
    for _ in range(runs):
        rate = random.choice([0.1, 0.9], p=[0.75, 0.25], size=150)
        hits = random.random((150, 4)) < rate[:, None]
        one = np.ones(600, dtype=np.int32)
        better = np.where(hits.ravel(), 0, 99).astype(np.int32)
        images = Counts(better[::4], 0 * one[::4], one[::4])
        ranks = Ranks(images, Counts(better, 0 * one, one), np.repeat(np.arange(150), 4))
        found = interval([ranks], "t2i_r1", draws=300)
        covered += found.low <= 30 <= found.high
    assert 0.89 <= covered / runs <= 0.99
