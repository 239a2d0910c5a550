"""Intervals of ranks against loops and scipy, chance against a constant scorer, and exact cases."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from cran_bench.ranking.evaluation import evaluate
from cran_bench.ranking.problem import make_problem
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.ranking.retrieval import retrieve
from cran_bench.records.chance import chance_and_perfect
from cran_bench.records.standings import Estimates, Scored, gaps_like_these, mean_over, rank_intervals, weights
from cran_bench.records.tasks import CATEGORY, RECALL, judgments_task
from cran_bench.similarity import DOT


def of_rows(values, seed=0, spread=1.0, draws=400, variance=0.0, freedom=2.0, images=50):
    """Rows whose errors share half of their variance."""
    values, random = np.array(values, float), np.random.default_rng(seed)
    noise = random.normal(size=(draws, 1)) + random.normal(size=(draws, len(values)))
    variance, freedom = (np.broadcast_to(x, values.shape).astype(float) for x in (variance, freedom))
    return Estimates(values, spread * noise, variance, freedom, images, 1e-9)


def test_gaps_against_loops():
    """All pairs share a critical value; images and seeds have Student's quantiles of their own, seeds Welch's."""
    rows = of_rows([15, 1, 14, 0], variance=[0.5, 0.2, 0, 1.5], freedom=[2, 4, 1, 3])
    noise = np.sqrt(rows.variance) * np.random.default_rng(0).standard_normal(rows.draws.shape)
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    apart = {(a, b): rows.draws[:, a] - rows.draws[:, b] for a, b in pairs}
    seeds = {(a, b): rows.variance[a] + rows.variance[b] for a, b in pairs}
    largest = [
        max(abs(apart[p][k] + noise[k, p[0]] - noise[k, p[1]]) / np.sqrt(apart[p].var() + seeds[p]) for p in pairs)
        for k in range(len(rows.draws))
    ]
    percentile = ndtr(np.quantile(largest, 0.95))
    found = rows.gaps(0.05)
    certain = np.zeros((4, 4), bool)
    for a, b in pairs:
        parts = [x**2 / f for x, f in zip(rows.variance[[a, b]], rows.freedom[[a, b]], strict=True)]
        of_seeds = student.ppf(percentile, seeds[a, b] ** 2 / sum(parts)) ** 2 * seeds[a, b]
        half = np.sqrt(student.ppf(percentile, 49) ** 2 * apart[a, b].var() * 50 / 49 + of_seeds)
        assert found.half[a, b] == pytest.approx(half, rel=1e-6)
        certain[a, b] = rows.values[a] - rows.values[b] > half
    assert np.array_equal(found.certain, certain) and 0 < certain.sum() < 6
    ranks = rank_intervals(found.certain).tolist()
    assert ranks == [[1 + certain[:, k].sum(), 4 - certain[k].sum()] for k in range(4)]


def test_ranks_of_what_is_certain():
    nothing, order = np.zeros((4, 4), bool), np.triu(np.ones((4, 4), bool), 1)
    assert rank_intervals(nothing).tolist() == [[1, 4]] * 4
    assert rank_intervals(order).tolist() == [[k, k] for k in (1, 2, 3, 4)]
    pair = order.copy()
    pair[1, 2] = False  # the two in the middle are not told apart
    assert rank_intervals(order, pair).tolist() == [[1, 1], [2, 3], [2, 3], [4, 4]]
    assert rank_intervals(np.zeros((1, 1), bool)).tolist() == [[1, 1]]


@pytest.mark.parametrize("seed", range(5))
def test_a_row_may_be_the_best_if_its_ranks_begin_with_one(seed):
    gaps = of_rows(np.random.default_rng(seed).normal(0, 3, 8), seed, variance=0.1).gaps(0.05)
    value, low, high = gaps.to_best().T
    assert np.array_equal(rank_intervals(gaps.certain)[:, 0] == 1, high >= 0)
    assert (low <= value).all() and (value <= high).all()


def test_equal_rows_share_all_ranks():
    same = Estimates(np.zeros(3), np.zeros((50, 3)), np.zeros(3), np.ones(3), 20, 1e-9)
    assert rank_intervals(same.gaps(0.05).certain).tolist() == [[1, 3]] * 3


def test_estimates_on_another_scale_have_the_same_ranks():
    rows = of_rows([10, 12, 30], variance=0.3)
    scaled = rows.scaled(10, 60)
    assert scaled.values.tolist() == [0, 4, 40] and scaled.variance == pytest.approx(4 * rows.variance)
    assert np.array_equal(scaled.gaps(0.05).certain, rows.gaps(0.05).certain)


def test_a_mean_over_datasets_against_loops():
    """The two tables of one dataset weigh half as much as that of the other."""
    tables = [
        of_rows(x, k, variance=0.1 * k, freedom=2 + k, images=90 - k) for k, x in enumerate([(3, 1), (6, 2), (0, 4)])
    ]
    scored = [Scored(one, *name) for one, name in zip(tables, (("a", "x"), ("b", "y"), ("a", "z")), strict=True)]
    assert weights(["a", "b", "a"]).tolist() == [[0.25, 0, 0.25], [0, 0.5, 0]]
    mean, parts = mean_over(scored), [0.1**2 * w**4 * k**2 / (2 + k) for k, w in enumerate((0.25, 0.5, 0.25))]
    assert mean.values.tolist() == [3 / 4 + 6 / 2 + 0, 1 / 4 + 2 / 2 + 4 / 4]
    assert mean.variance == pytest.approx([0.1 * 0.5**2 + 0.2 * 0.25**2] * 2)
    assert mean.freedom == pytest.approx(mean.variance**2 / sum(parts)) and mean.images == 88
    expected = sum(w**2 * x.draws.var(axis=0) for w, x in zip((0.25, 0.5, 0.25), tables, strict=True))
    assert mean.draws.var(axis=0) == pytest.approx(expected, rel=0.2)


def test_images_are_drawn_together_for_tables_of_the_same_split_only():
    """Datasets of the same size have the same draws, in another order."""
    one = of_rows([1, 2], draws=5000)
    same, other = (mean_over([Scored(one, "a", "x"), Scored(one, "b", split)]) for split in ("x", "y"))
    assert same.draws.var(axis=0) == pytest.approx(one.draws.var(axis=0))
    assert other.draws.var(axis=0) == pytest.approx(one.draws.var(axis=0) / 2, rel=0.1)


def test_gaps_on_datasets_like_these_against_scipy():
    """The t interval of differences, one per dataset, at a level for all three pairs; tables of one are averaged."""
    values = np.random.default_rng(1).normal([0, 2, 60], 4, (5, 3))
    names = ["a", "b", "c", "c", "d"]
    found = gaps_like_these([Scored(of_rows(x), name, "x") for x, name in zip(values, names, strict=True)], 0.05)
    by_dataset = np.stack([values[0], values[1], values[2:4].mean(axis=0), values[4]])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        low, high = ttest_1samp(by_dataset[:, a] - by_dataset[:, b], 0).confidence_interval(1 - 0.05 / 3)
        assert (found.values - found.half)[a, b] == pytest.approx(low)
        assert (found.values + found.half)[a, b] == pytest.approx(high)
    assert rank_intervals(found.certain).tolist() == [[2, 3], [2, 3], [1, 1]]


def test_one_dataset_says_nothing_of_others_like_it():
    assert gaps_like_these([Scored(of_rows([1, 2]), "a", x) for x in "xy"], 0.05) is None


def test_few_datasets_leave_all_ranks_open():
    """A gap of 49 to 50 in each of two is certain; one of 40 to 60 is not, however well it was measured."""
    for other, ranks in (([1, 0], [[2, 2], [1, 1]]), ([10, 0], [[1, 2], [1, 2]])):
        two = [Scored(of_rows([x, 50]), name, name) for x, name in zip(other, "ab", strict=True)]
        assert rank_intervals(gaps_like_these(two, 0.05).certain).tolist() == ranks


UNEVEN = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 4, 4, 5, 5])


@pytest.mark.parametrize("protocol, folds", [("captions", 0), ("captions", 2), ("mean", 0), ("single", 3)])
def test_chance_and_perfection_are_what_such_scorers_reach(protocol, folds):
    labels = torch.tensor([[1, 0], [0, 1], [1, 0], [1, 1], [0, bool(folds)], [0, 1]])  # a fold is weighed by queries
    images, same = torch.eye(6), torch.ones(6, 6)
    for x, at in ((same, 0), (images, 1)):
        found = evaluate(x, x[UNEVEN], UNEVEN, None, DOT, protocol, folds, labels=labels)
        ranks = RecordedRanks(**vars(found.ranks))
        assert chance_and_perfect(RECALL, ranks, folds)[at] == pytest.approx(found.metrics["rsum"])
        if at == 0:
            assert chance_and_perfect(CATEGORY, ranks, folds)[0] == pytest.approx(found.metrics["map"])
    assert chance_and_perfect(CATEGORY, ranks, folds)[1] == 1


def test_chance_of_several_right_answers():
    ranks = evaluate(torch.eye(6), torch.eye(6)[UNEVEN], UNEVEN, None, DOT, "captions").ranks
    problem = make_problem(torch.ones(6, 2), torch.ones(12, 2), UNEVEN, DOT)
    texts = retrieve(problem, [0, 0, 3, 11], [0, 4, 2, 5], [1, 1, 1, 1], is_text=True)
    images = retrieve(problem, [0, 1, 1, 1], [0, 1, 2, 7], [1, 1, 1, 1], is_text=False)
    both = replace(RecordedRanks(**vars(ranks)), relevant={"set": {"i2t": images, "t2i": texts}})
    task = judgments_task("set", both)
    chance, perfect = chance_and_perfect(task, both)
    assert chance == pytest.approx((images.ap.mean() + texts.ap.mean()) / 2) and perfect == 1
