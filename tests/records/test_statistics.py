from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import chdtrc, ndtri, stdtrit
from scipy.stats import bootstrap, chi2, norm
from scipy.stats import t as student

from cran_bench.errors import BadInput
from cran_bench.ranking.evaluation import evaluate
from cran_bench.ranking.metrics import Counts, Ranks
from cran_bench.ranking.rank import rank
from cran_bench.records.statistics import Interval, _widened, behind_best, holm, mcnemar, sample, samples, times_drawn
from cran_bench.records.tasks import CATEGORY, FIGURES, SUMS
from cran_bench.similarity import DOT


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
    samples = []
    for row in times_drawn(n, draws):
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
    found = sample([ranks], draws=60).interval(figure)
    samples = resampled(ranks, figure, 60)
    assert found.value == pytest.approx(ranks.metrics().values()[figure])
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(samples, [2.5, 97.5])))
    assert found.low < found.value < found.high


def by_category(noise=2.0, seed=0, images=60):
    """Ranks with average precisions: four categories, and three images without any."""
    random = torch.Generator().manual_seed(seed)
    image_of = torch.repeat_interleave(torch.arange(images), torch.arange(images) % 3 + 1)
    x = torch.randn(images, 8, generator=torch.Generator().manual_seed(10))
    texts = x[image_of] + noise * torch.randn(len(image_of), 8, generator=random)
    labels = torch.eye(4)[(x[:, 0] > 0).long() * 2 + (x[:, 1] > 0).long()]
    labels[:3] = 0
    return evaluate(x, texts, image_of, None, DOT, "captions", labels=labels).ranks


@pytest.mark.parametrize("figure", ["i2t_map", "t2i_map", "t2i_map50", "map"])
def test_an_interval_of_mean_average_precision_against_a_loop(figure):
    ranks = by_category()
    found = sample([ranks], draws=60, task=CATEGORY).interval(figure)
    one, owners = ranks.precisions, ranks.image_of
    i2t, t2i = (one.i2t.ap50, one.t2i.ap50) if figure.endswith("50") else (one.i2t.ap, one.t2i.ap)
    drawn = []
    for row in times_drawn(60, 60):
        images = np.repeat(np.arange(60), row)
        both = {"i2t": i2t[images], "t2i": np.concatenate([t2i[owners == image] for image in images])}
        means = {side: np.nanmean(values) for side, values in both.items()}
        drawn.append(np.mean(list(means.values())) if figure == "map" else means[figure[:3]])
    assert found.value == pytest.approx(one.figures()[figure], abs=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=1e-12)
    assert 0 < found.low < found.value < found.high < 1


def test_mean_average_precisions_are_compared_in_pairs():
    better, worse = (sample([by_category(noise, seed)], task=CATEGORY) for noise, seed in ((1.0, 0), (3.0, 1)))
    gap = better.minus(worse, "map")
    assert gap.value == pytest.approx(better.interval("map").value - worse.interval("map").value)
    alone = [one.interval("map") for one in (better, worse)]
    assert gap.low > 0 and gap.high - gap.low < np.hypot(*(one.high - one.low for one in alone))
    behind = behind_best({"better": better, "worse": worse})
    assert behind["better"].low > 0 > behind["worse"].high
    assert behind["worse"].value == pytest.approx(-gap.value)


def test_mean_average_precisions_need_the_same_labels():
    ranks = by_category()
    other = replace(ranks, precisions=replace(ranks.precisions, labels=ranks.precisions.labels[:, ::-1]))
    with pytest.raises(BadInput, match="the same queries"):
        samples([[ranks], [other]], task=CATEGORY)
    with pytest.raises(BadInput, match="the same queries"):
        sample([ranks], task=CATEGORY).minus(sample([other], task=CATEGORY), "map")
    with pytest.raises(BadInput, match="the same queries"):
        sample([ranks], task=CATEGORY).minus(sample([ranks]), "i2t")
    with pytest.raises(BadInput, match=r"no figure 'rsum'; known: i2t_map, t2i_map, i2t_map50, t2i_map50, map"):
        sample([ranks], task=CATEGORY).interval("rsum")
    with pytest.raises(BadInput, match="have no average precisions, as the data had no labels"):
        sample([noisy()], task=CATEGORY)


def test_several_methods_are_drawn_as_each_by_itself():
    rows = [[noisy(seed=10 * row + k, noise=1.0 + row) for k in range(seeds)] for row, seeds in enumerate((1, 3, 2))]
    for together, alone in zip(samples(rows, draws=700), [sample(row, draws=700) for row in rows], strict=True):
        np.testing.assert_allclose(together.draws, alone.draws, rtol=0, atol=1e-11)
        np.testing.assert_array_equal(together.values, alone.values)
    with pytest.raises(BadInput, match="ranks of the same queries"):
        samples([*rows, [noisy(images=59)]])


def test_the_quantiles_are_those_of_scipy_stats():
    q = np.array([1e-9, 1e-3, 0.025, 0.5, 0.8, 0.975, 0.99999])
    np.testing.assert_allclose(ndtri(q), norm.ppf(q), rtol=1e-12)
    for freedom in (1, 1.5, 4, 37.3, 1e4):
        np.testing.assert_allclose(stdtrit(freedom, q), student.ppf(q, freedom), rtol=1e-12, atol=1e-12)
    x = np.array([0.0, 1e-6, 0.3, 3.84, 50.0, 300.0])
    np.testing.assert_allclose(chdtrc(1, x), chi2.sf(x, 1), rtol=1e-12)


def test_draws_are_as_many_images_each_as_likely():
    times = times_drawn(40, 3000)
    assert (times.sum(axis=1) == 40).all()
    assert times.mean(axis=0) == pytest.approx(1.0, abs=0.1)
    assert times.var(axis=0).mean() == pytest.approx(1 - 1 / 40, rel=0.05)
    assert np.array_equal(times, times_drawn.__wrapped__(40, 3000))


@pytest.mark.parametrize("figure", SUMS)
def test_sums_against_a_loop(figure):
    ranks = noisy(seed=1)
    found = sample([ranks], draws=30).interval(figure)
    samples = sum(resampled(ranks, name, 30) for name in SUMS[figure])
    assert found.value == pytest.approx(sum(ranks.metrics().values()[name] for name in SUMS[figure]))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(samples, [2.5, 97.5])))


def test_several_seeds_add_their_variance_in_quadrature():
    """The distance of a bound: that over images, and Student's t quantile of the deviation of a mean over seeds."""
    seeds = [noisy(seed=seed, noise=noise) for seed, noise in ((1, 1.0), (2, 2.0), (3, 3.0))]
    values = [ranks.metrics().i2t_r1 for ranks in seeds]
    draws = sample(seeds, draws=500).draws[:, 0]
    of_seeds = np.std(values, ddof=1) / np.sqrt(3) * student.ppf(0.975, 2)
    away = [np.hypot(of_seeds, np.quantile(draws, q) - np.mean(values)) for q in (0.025, 0.975)]
    found = sample(seeds, draws=500).interval("i2t_r1")
    assert found.value == pytest.approx(np.mean(values))
    assert (found.value - found.low, found.high - found.value) == pytest.approx(away, rel=0.04)


@pytest.mark.parametrize("level", [0.05, 0.05 / 28])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_widening_by_seeds_is_that_of_the_level(level, count):
    draws = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    wider = _widened(draws, 0.0, [(4.0, count - 1)])
    expected = np.hypot(norm.ppf(1 - level / 2), 2 * student.ppf(1 - level / 2, count - 1))
    assert np.quantile(wider, [level / 2, 1 - level / 2]) == pytest.approx([-expected, expected], rel=0.01)
    welch = 13**2 / (4**2 / (count - 1) + 9**2 / 4)
    two = np.hypot(norm.ppf(1 - level / 2), np.sqrt(13) * student.ppf(1 - level / 2, welch))
    assert np.quantile(_widened(draws, 0.0, [(4.0, count - 1), (9.0, 4)]), 1 - level / 2) == pytest.approx(
        two, rel=0.01
    )


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_the_p_value_is_the_level_at_which_the_interval_reaches_zero(seeds):
    one, other = ([noisy(seed=seed + s, noise=x) for s in range(seeds)] for seed, x in ((1, 2.0), (20, 2.5)))
    gap = sample(one, 4000).minus(sample(other, 4000), "i2t_r1")
    assert 0.001 < gap.p < 0.9
    for factor in (0.8, 1.25):
        at = sample(one, 4000).minus(sample(other, 4000), "i2t_r1", level=min(0.99, gap.p * factor))
        assert at.excludes_zero() == (factor > 1)


def test_behind_best_against_loops():
    """Hsu's intervals from those of all pairs; the critical value is the quantile of the largest deviation."""
    rows = {
        name: sample([noisy(seed=k, noise=x)], 300) for k, (name, x) in enumerate(dict(a=1.5, b=1.7, c=2, d=6).items())
    }
    drawn = {name: row.draws.sum(axis=1) - row.by_seed("rsum").mean() for name, row in rows.items()}
    deviation = {(a, b): np.std(drawn[a] - drawn[b]) for a in rows for b in rows if a != b}
    largest = [max(abs(drawn[a][k] - drawn[b][k]) / s for (a, b), s in deviation.items()) for k in range(300)]
    critical = student.ppf(norm.cdf(np.quantile(largest, 0.95)), 59)
    half = {pair: critical * s * np.sqrt(60 / 59) for pair, s in deviation.items()}
    value = {name: row.by_seed("rsum").mean() for name, row in rows.items()}
    high = {a: min(value[a] - value[b] + half[a, b] for b in rows if b != a) for a in rows}
    maybe = [name for name in rows if high[name] >= 0]
    assert "a" in maybe and len(maybe) > 1 and high["d"] < 0
    for name, gap in behind_best(rows).items():
        low = min(value[name] - value[b] - half[name, b] for b in maybe if b != name)
        rival = max(value[b] for b in rows if b != name)
        assert (gap.value, gap.low, gap.high) == pytest.approx((value[name] - rival, low, high[name]), abs=1e-6)


def test_a_single_candidate_is_compared_with_all_the_others():
    rows = {name: sample([noisy(seed=k, noise=x)], 300) for k, (name, x) in enumerate(dict(a=0.5, b=6, c=7).items())}
    found = behind_best(rows)
    assert found["a"].low > 0 > found["b"].high and found["a"].low < found["a"].value < found["a"].high


def test_equal_rows_differ_by_nothing():
    same = sample([noisy()], 200)
    for gap in behind_best({"one": same, "other": same}).values():
        assert gap.value == 0 and gap.low == pytest.approx(0, abs=1e-6) and gap.high == pytest.approx(0, abs=1e-6)


def test_a_row_with_one_seed_gets_the_variance_over_seeds_of_the_others():
    """A lucky seed is no better than the mean of several; among rows with one seed each nothing changes."""
    several = [noisy(seed=seed, noise=noise) for seed, noise in enumerate((1.8, 2.0, 2.2, 2.4, 2.6))]
    rows = {"five": sample(several), "still": sample([noisy(seed=9)] * 3), "one": sample([several[0]])}
    pooled = behind_best(rows)["one"]
    alone = behind_best({"five": replace(rows["five"], values=rows["five"].values[:1]), "one": rows["one"]})["one"]
    assert pooled.high - pooled.low > 1.5 * (alone.high - alone.low)
    two = behind_best({"again": rows["five"], **rows})["one"]  # of two rows that vary alike the mean is that of one
    assert two.high - two.low == pytest.approx(pooled.high - pooled.low, rel=0.3)
    assert behind_best({"still": rows["still"], "one": rows["one"]})["one"].low == pytest.approx(
        behind_best({"still": sample([noisy(seed=9)]), "one": rows["one"]})["one"].low
    )


def test_a_paired_difference_against_a_loop():
    a, b = noisy(seed=1), noisy(seed=2, noise=3.0)
    found = sample([a], 60).minus(sample([b], 60), "t2i_r1")
    samples = resampled(a, "t2i_r1", 60) - resampled(b, "t2i_r1", 60)
    assert found.value == pytest.approx(a.metrics().t2i_r1 - b.metrics().t2i_r1)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(samples, [2.5, 97.5])))
    assert found.p == pytest.approx(2 * (1 + min((samples <= 0).sum(), (samples >= 0).sum())) / 61)
    opposite = sample([b], 60).minus(sample([a], 60), "t2i_r1")
    assert (opposite.value, opposite.low, opposite.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert opposite.p == found.p
    wider = sample([a], 60).minus(sample([b], 60), "t2i_r1", level=0.01)
    assert (wider.low, wider.high) == pytest.approx(tuple(np.percentile(samples, [0.5, 99.5])))


@pytest.mark.parametrize("figure", [*FIGURES, *SUMS])
def test_a_thing_differs_from_itself_by_exactly_nothing(figure):
    same = sample([noisy(seed=1)], draws=50)
    difference = same.minus(same, figure)
    assert (difference.value, difference.low, difference.high, difference.p) == (0.0, 0.0, 0.0, 1.0)
    assert not difference.excludes_zero()


def test_mcnemar_weighs_images_alike_however_many_captions_they_have():
    """Durkalski et al. 2003: d of a cluster is its mean difference."""
    better_a, better_b = np.array([0, 0, 0, 99, 0, 99]), np.array([99, 99, 99, 0, 99, 99])
    image_of = np.array([0, 0, 0, 1, 2, 3])

    def ranks(better):
        counts = Counts(*(x.astype(np.int32) for x in (better, 0 * better, 0 * better + 1)))
        return Ranks(of_hits(np.ones(4, dtype=bool)).i2t, counts, image_of)

    assert mcnemar(ranks(better_a), ranks(better_b), "t2i") == pytest.approx(chi2.sf((1 - 1 + 1) ** 2 / 3, 1))


def test_seeds_that_differ_widen_the_interval():
    apart = sample([noisy(seed=1, noise=0.5), noisy(seed=2, noise=4.0)]).interval("rsum")
    alike = sample([noisy(seed=1, noise=0.5)] * 2).interval("rsum")
    once = sample([noisy(seed=1, noise=0.5)]).interval("rsum")
    assert (alike.low, alike.high) == pytest.approx((once.low, once.high))
    assert apart.high - apart.low > 2 * (once.high - once.low)


def test_a_shared_image_effect_cancels_in_the_paired_difference():
    hits = np.random.default_rng(0).random(500) < 0.5
    worse = hits.copy()
    worse[np.flatnonzero(hits)[:15]] = False
    difference = sample([of_hits(hits)]).minus(sample([of_hits(worse)]), "t2i_r1")
    assert difference.value == pytest.approx(3.0)
    assert difference.excludes_zero()
    apart = sample([of_hits(hits)]).interval("t2i_r1")
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
            sample([a], 9).minus(sample([other], 9), "t2i_r1")
        with pytest.raises(BadInput, match="ranks of the same queries"):
            sample([a, other], 9)


@pytest.mark.parametrize("figure", ["r1", "t2i_r2", "i2t_medr", ""])
def test_unknown_figures_are_refused(figure):
    with pytest.raises(BadInput, match=f"there is no figure '{figure}'; known: i2t_r1, .*, rsum"):
        sample([noisy()], 9).interval(figure)


def test_scipys_bootstrap_agrees():
    hits = np.random.default_rng(3).random(400) < 0.3
    found = sample([of_hits(hits)]).interval("i2t_r1")
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
        found = sample([ranks], draws=300).interval("t2i_r1")
        covered += found.low <= 30 <= found.high
    assert 0.89 <= covered / runs <= 0.99


def alike(random, images, captions, seeds, spread):
    """Two methods that are equally good, seed by seed: an image's captions share its luck, all seeds in part."""
    rate = random.choice([0.15, 0.8], p=[0.6, 0.4], size=(images, 1))

    def one():
        seen, told = (
            np.where(random.random((images, n)) < rate + random.normal(0, spread), 0, 99) for n in (1, captions)
        )
        counts = [Counts(*(x.ravel().astype(np.int32) for x in (y, 0 * y, 0 * y + 1))) for y in (seen, told)]
        return Ranks(*counts, np.repeat(np.arange(images), captions))  # type: ignore[call-arg]

    return [one() for _ in range(seeds)], [one() for _ in range(seeds)]


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("seeds", "spread", "least", "most"),
    [(1, 0.0, 0.035, 0.065), (2, 0.03, 0.0, 0.05), (5, 0.03, 0.01, 0.05)],
)
def test_equal_methods_are_told_apart_in_five_percent_of_cases(seeds, spread, least, most):
    """Within 1.5 percent with one seed; with several, whose variance is poorly known, at most."""
    random, runs = np.random.default_rng(seeds), 1500 if seeds == 1 else 500
    found = dict.fromkeys(("bootstrap i2t", "bootstrap t2i", "mcnemar i2t", "mcnemar t2i"), 0)
    for _ in range(runs):
        a, b = alike(random, 300, 5, seeds, spread)
        one, other = sample(a, draws=400), sample(b, draws=400)
        for direction in ("i2t", "t2i"):
            found[f"bootstrap {direction}"] += one.minus(other, f"{direction}_r1").p < 0.05
            found[f"mcnemar {direction}"] += mcnemar(a[0], b[0], direction) < 0.05
    shares = {name: times / runs for name, times in found.items() if seeds == 1 or name.startswith("bootstrap")}
    assert all(least <= share <= most for share in shares.values()), shares


def test_mcnemar_against_the_textbook():
    """b = 121 and c = 59: (121 - 59)^2 / 180 = 21.36."""
    a, b = np.ones(314, dtype=bool), np.ones(314, dtype=bool)
    a[:59], b[59:180] = False, False
    assert mcnemar(of_hits(a), of_hits(b), "i2t") == pytest.approx(chi2.sf(62**2 / 180, 1))
    assert mcnemar(of_hits(a), of_hits(a), "i2t") == 1.0


def test_captions_of_one_image_count_as_one_for_mcnemar():
    """Five captions that are always right together are no more evidence than one."""
    hits = np.random.default_rng(0).random((2, 400)) < np.array([[0.5], [0.57]])

    def ranks(row, captions):
        better = np.where(np.repeat(row, captions), 0, 99).astype(np.int32)
        counts = Counts(better, np.zeros_like(better), np.ones_like(better))
        return Ranks(of_hits(row).i2t, counts, np.repeat(np.arange(400), captions))

    once, five = (mcnemar(ranks(hits[0], n), ranks(hits[1], n), "t2i") for n in (1, 5))
    assert once == pytest.approx(five)


def test_holm_against_the_definition():
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
