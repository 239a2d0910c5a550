"""Average precision by category, against hand examples, loops over orders of ties, scikit-learn and closed forms."""

from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from cran_bench.embeddings import Levels
from cran_bench.errors import BadInput
from cran_bench.ranking import category
from cran_bench.ranking.category import average_precisions
from cran_bench.ranking.evaluation import evaluate
from cran_bench.ranking.metrics import Ranks
from cran_bench.ranking.precisions import CATEGORY_FIGURES, Precisions
from cran_bench.ranking.problem import make_problem
from cran_bench.ranking.rank import rank
from cran_bench.similarity import COSINE, DOT, MultiLevel, Pairwise

WIKIPEDIA = (34, 88, 96, 85, 65, 58, 51, 41, 71, 104)  # test pairs of each class


def ranked(scores, labels, image_of=None, folds=0, similarity=DOT, **options):
    """The precisions of an (N, T) matrix of scores, which are inner products with unit vectors."""
    scores = torch.as_tensor(scores, dtype=torch.float64)
    owners = torch.arange(len(scores)) if image_of is None else torch.as_tensor(image_of)
    sides = torch.eye(len(scores), dtype=torch.float64), scores.T.contiguous()
    return average_precisions(make_problem(*sides, owners, similarity, folds), torch.as_tensor(labels), **options)


def by_category(images, texts, image_of, labels, similarity, protocol="documents", folds=0):
    return evaluate(images, texts, image_of, None, similarity, protocol, folds, labels=labels)


def one_hot(classes):
    return np.eye(max(classes) + 1, dtype=np.uint8)[list(classes)]


def ap_of(right, cut=None):
    """The AP of one order of candidates, by a loop."""
    found, total = 0, 0.0
    for place, is_right in enumerate(right[:cut], 1):
        found += is_right
        total += is_right * found / place
    return total / (sum(right) if cut is None else max(1, found))


def over_ties(scores, right, cut=None):
    """The mean AP over all orders of candidates that respect the scores."""
    orders = [p for p in permutations(range(len(scores))) if all(scores[a] >= scores[b] for a, b in pairwise(p))]
    return np.mean([ap_of([right[k] for k in order], cut) for order in orders])


def random_case(seed, tied=False, images=12, per_image=1):
    random = np.random.default_rng(seed)
    image_of = np.repeat(np.arange(images), per_image)
    scores = random.standard_normal((images, len(image_of)))
    labels = (random.random((images, 4)) < 0.4).astype(np.uint8)
    return np.round(scores) if tied else scores, labels, image_of


def as_columns(precisions):
    return np.concatenate([np.stack([x.ap, x.ap50, x.relevant]) for x in (precisions.i2t, precisions.t2i)], axis=1)


def test_an_example_by_hand():
    scores = np.full((6, 6), -9.0)
    scores[0] = [6, 5, 4, 3, 2, 1]
    found = ranked(scores, one_hot([0, 1, 0, 1, 1, 0]))
    assert found.i2t.ap[0] == pytest.approx((1 + 2 / 3 + 3 / 6) / 3, abs=1e-15)
    assert found.i2t.ap50[0] == found.i2t.ap[0]
    assert found.i2t.relevant.tolist() == [3] * 6


def test_all_are_right():
    found = ranked(np.random.default_rng(0).standard_normal((70, 70)), np.ones((70, 1), dtype=np.uint8))
    assert (found.i2t.ap == 1).all() and (found.t2i.ap50 == 1).all()


def test_a_constant_scorer_has_chance_by_the_closed_form():
    labels = one_hot(np.repeat(np.arange(10), WIKIPEDIA))
    rows = torch.ones(693, 3)
    found = rank(rows, rows, torch.arange(693), COSINE, labels=torch.from_numpy(labels)).precisions.figures()
    harmonic = (1 / np.arange(1, 694)).sum()
    closed = [(harmonic + (r - 1) / 692 * (693 - harmonic)) / 693 for r in WIKIPEDIA]
    assert found["i2t_map"] == pytest.approx(np.average(closed, weights=WIKIPEDIA), abs=1e-12)
    assert found["map"] == pytest.approx(0.1184, abs=5e-5)
    assert found["t2i_class_map"] == pytest.approx(np.mean(closed), abs=1e-12)
    assert (found["classes"], found["i2t_unlabelled"]) == (10, 0)


@pytest.mark.parametrize("per_image", [1, 3])
def test_scikit_learn_agrees_where_nothing_ties(per_image):
    scores, labels, image_of = random_case(3, images=40, per_image=per_image)
    found, right = ranked(scores, labels, image_of), (labels @ labels[image_of].T > 0)
    for query in np.flatnonzero(labels.any(axis=1)):
        assert found.i2t.ap[query] == pytest.approx(average_precision_score(right[query], scores[query]), abs=1e-12)
    for query in np.flatnonzero(labels.any(axis=1)[image_of]):
        own = average_precision_score(right[:, query], scores[:, query])
        assert found.t2i.ap[query] == pytest.approx(own, abs=1e-12)


@pytest.mark.parametrize("cut", [1, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_ties_are_the_mean_over_all_orders(monkeypatch, seed, cut):
    monkeypatch.setattr(category, "CUT", cut)
    scores, labels, _ = random_case(seed, tied=True, images=6)
    found, right = ranked(scores, labels), (labels @ labels.T > 0)
    for query in np.flatnonzero(labels.any(axis=1)):
        for of, row in ((found.i2t, scores[query]), (found.t2i, scores[:, query])):
            assert of.ap[query] == pytest.approx(over_ties(row, right[query]), abs=1e-12)
            assert of.ap50[query] == pytest.approx(over_ties(row, right[query], cut), abs=1e-12)


def test_the_first_50_of_a_tie_are_drawn_at_random():
    """The mean over 4,000 random orders of 80 equal candidates, of which 10 are right, within four standard errors."""
    right = np.arange(80) < 10
    found = ranked(np.zeros((80, 80)), one_hot(1 - right.astype(int)))
    random = np.random.default_rng(0)
    drawn = [ap_of(random.permutation(right), 50) for _ in range(4000)]
    assert abs(found.i2t.ap50[0] - np.mean(drawn)) < 4 * np.std(drawn) / 4000**0.5
    assert found.t2i.ap50[0] == pytest.approx(found.i2t.ap50[0], abs=1e-15)


def test_the_order_in_memory_does_not_matter():
    scores, labels, _ = random_case(5, tied=True, images=70)
    order = np.random.default_rng(1).permutation(70)
    first, other = as_columns(ranked(scores, labels)), as_columns(ranked(scores[order][:, order], labels[order]))
    places = np.concatenate([order, order + 70])
    np.testing.assert_allclose(other, first[:, places], rtol=0, atol=1e-14)


def test_scores_within_rounding_are_equal():
    """Copies of one vector, scaled, have cosines that differ in the last bits only."""
    random = torch.Generator().manual_seed(0)
    scales = torch.rand(60, 1, generator=random, dtype=torch.float64) + 0.1
    one, texts = (torch.randn(n, 300, generator=random, dtype=torch.float64) for n in (1, 60))
    sides = one * scales, texts
    labels = torch.from_numpy(one_hot(np.arange(60) % 3))
    found = by_category(*sides, torch.arange(60), labels, COSINE).ranks.precisions
    constant = ranked(np.ones((60, 60)), labels)
    np.testing.assert_allclose(found.t2i.ap, constant.t2i.ap, rtol=0, atol=1e-14)
    assert len(set(np.round(found.i2t.ap, 12))) <= 3


@pytest.mark.parametrize("per_image", [1, 3])
def test_with_the_own_partner_alone_it_is_the_reciprocal_rank(per_image):
    scores, _, image_of = random_case(6, images=30, per_image=per_image)
    found = ranked(scores, np.eye(30, dtype=np.uint8), image_of)
    sides = torch.eye(30, dtype=torch.float64), torch.from_numpy(scores.T.copy())
    ranks = rank(*sides, torch.from_numpy(image_of), DOT)
    np.testing.assert_allclose(found.t2i.ap, 1 / ranks.t2i.ranks(), rtol=1e-14)
    if per_image == 1:
        np.testing.assert_allclose(found.i2t.ap, 1 / ranks.i2t.ranks(), rtol=1e-14)


def test_blocks_of_queries_give_the_same_as_the_whole():
    scores, labels, image_of = random_case(7, tied=True, images=60, per_image=2)
    whole = as_columns(ranked(scores, labels, image_of))
    for size in (1, 100_000, 400_000):
        parts = as_columns(ranked(scores, labels, image_of, block_bytes=size))
        np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-14)


def test_of_a_block_only_the_figures_of_its_queries_are_kept(monkeypatch):
    kept, expected = [], category._expected
    monkeypatch.setattr(category, "_expected", lambda *given: kept.append(expected(*given)) or kept[-1])
    ranked(*random_case(7, images=60), block_bytes=100_000)
    assert len(kept) > 2
    assert all(x.untyped_storage().nbytes() == x.nbytes for block in kept for x in block)


def test_folds_are_ranked_by_themselves_and_averaged():
    scores, labels, image_of = random_case(8, images=14, per_image=2)
    order = np.random.default_rng(0).permutation(28)
    found = ranked(scores[:, order], labels, image_of[order], folds=3)
    parts = []
    for k in range(3):
        rows, columns = np.arange(4 * k, 4 * k + 4), np.flatnonzero(image_of // 4 == k)
        parts.append(ranked(scores[np.ix_(rows, columns)], labels[rows], image_of[columns] - 4 * k))
    for name in CATEGORY_FIGURES:
        assert found.figures(3)[name] == pytest.approx(np.mean([part.figures()[name] for part in parts]), abs=1e-14)
    assert len(found.labels) == 12


def test_images_without_labels_are_left_out_and_counted():
    scores, labels, image_of = random_case(9, images=20, per_image=2)
    labels[:3] = 0
    found = ranked(scores, labels, image_of)
    known = labels.any(axis=1)
    assert np.isnan(found.i2t.ap[~known]).all() and not np.isnan(found.i2t.ap[known]).any()
    figures = found.figures()
    assert figures["i2t_unlabelled"] == np.count_nonzero(~known) and figures["t2i_unlabelled"] == 2 * np.sum(~known)
    assert figures["i2t_map"] == pytest.approx(found.i2t.ap[known].mean())
    of_class = [found.i2t.ap[labels[:, c] > 0].mean() for c in range(4)]
    assert figures["i2t_class_map"] == pytest.approx(np.mean(of_class))
    assert figures["map"] == pytest.approx((figures["i2t_map"] + figures["t2i_map"]) / 2)


def test_a_direction_has_scores_of_its_own():
    first, labels, _ = random_case(10, tied=True)
    other, _, _ = random_case(11, tied=True)

    def by(scores):
        table = torch.from_numpy(scores)
        return lambda images, texts: table[images[:, 0].long()][:, texts[:, 0].long()]

    rows = torch.arange(12.0)[:, None]
    pairs = Pairwise(by(first), i2t=by(other), tile=(5, 7))
    found = average_precisions(make_problem(rows, rows, torch.arange(12), pairs), torch.from_numpy(labels))
    np.testing.assert_array_equal(found.i2t.ap, ranked(other, labels).i2t.ap)
    np.testing.assert_array_equal(found.t2i.ap, ranked(first, labels).t2i.ap)


@pytest.mark.parametrize("top", [1, 4, 40])
def test_reranked_candidates_come_first_and_then_the_rest_by_the_cheap_score(top):
    cheap, labels, _ = random_case(12, tied=True)
    exact, _, _ = random_case(13, tied=True)
    table = torch.from_numpy(exact)
    images = torch.eye(12, dtype=torch.float64)
    texts = torch.from_numpy(cheap.T.copy())

    def score(some, others):
        rows, columns = some.argmax(dim=1), [int((texts == x).all(dim=1).nonzero()[0]) for x in others]
        return table[rows][:, columns]

    pairs = Pairwise(score, rerank=top, cheap=DOT)
    found = average_precisions(make_problem(images, texts, torch.arange(12), pairs), torch.from_numpy(labels))
    for by_cheap, by_pairs, of in ((cheap, exact, found.i2t), (cheap.T, exact.T, found.t2i)):
        worst = np.sort(by_cheap, axis=1)[:, ::-1][:, min(top, 12) - 1]
        keys = np.where(by_cheap >= worst[:, None], 100 + by_pairs, by_cheap)
        np.testing.assert_allclose(of.ap, ranked(keys, labels).i2t.ap, rtol=0, atol=1e-14)


def test_levels_are_scored_as_declared():
    random = torch.Generator().manual_seed(0)
    images = Levels(globals=torch.randn(20, 8, generator=random), regions=torch.randn(20, 3, 8, generator=random))
    texts = Levels(globals=torch.randn(20, 8, generator=random), regions=torch.randn(20, 8, generator=random))
    labels = torch.from_numpy(one_hot(np.arange(20) % 4))
    similarity = MultiLevel(top=2)
    found = by_category(images, texts, torch.arange(20), labels, similarity).ranks.precisions
    scores = similarity.scores(images, texts).numpy()
    np.testing.assert_allclose(found.i2t.ap, ranked(scores, labels).i2t.ap, rtol=0, atol=1e-14)


def test_protocols_make_queries():
    random = torch.Generator().manual_seed(0)
    images, texts = torch.randn(6, 4, generator=random), torch.randn(12, 4, generator=random)
    labels, image_of = torch.from_numpy(one_hot([0, 1] * 3)), torch.arange(6).repeat_interleave(2)
    found = {p: by_category(images, texts, image_of, labels, DOT, p) for p in ("single", "mean", "captions")}
    direct = by_category(images, texts[::2], torch.arange(6), labels, DOT)
    single = found["single"].ranks.precisions
    np.testing.assert_array_equal(as_columns(single), as_columns(direct.ranks.precisions))
    assert {p: len(one.ranks.precisions.t2i.ap) for p, one in found.items()} == {"single": 6, "mean": 6, "captions": 12}


def test_figures_stand_beside_recalls():
    scores, labels, image_of = random_case(16, images=9, per_image=2)
    sides = torch.eye(9), torch.from_numpy(scores.T.copy()).float()
    found = by_category(*sides, torch.from_numpy(image_of), torch.from_numpy(labels), DOT, "captions", folds=2)
    without = evaluate(*sides, torch.from_numpy(image_of), None, DOT, "captions", folds=2)
    assert found.metrics == {**without.metrics, **found.ranks.precisions.figures(2)}
    assert without.ranks.precisions is None
    again = Ranks.from_arrays({**found.ranks.arrays()})
    assert again.precisions.figures(2) == found.ranks.precisions.figures(2)
    assert Ranks.from_arrays(without.ranks.arrays()).precisions is None


def test_stored_precisions_are_read_back():
    scores, labels, image_of = random_case(14, images=11, per_image=2)
    labels[0] = 0
    found = ranked(scores, labels, image_of)
    arrays = found.arrays()
    assert {name: array.dtype for name, array in arrays.items()} == dict(Precisions.ARRAYS)
    again = Precisions.from_arrays(arrays, found.image_of)
    np.testing.assert_array_equal(as_columns(again), as_columns(found))
    np.testing.assert_array_equal(again.labels, labels)
    assert again.figures() == found.figures()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"i2t_ap": np.zeros(3)}, "11 images|3 images"),
        ({"t2i_ap": np.full(11, 2.0)}, "between 0 and 1"),
        ({"i2t_relevant": np.zeros(11, dtype=np.int32)}, "between 0 and 1, or not missing"),
        ({"labels": np.zeros(3, dtype=np.uint8)}, "the labels are not those"),
    ],
)
def test_damaged_precisions_are_refused(change, message):
    found = ranked(random_case(15, images=11)[0], np.ones((11, 2), dtype=np.uint8))
    with pytest.raises(ValueError, match=message):
        Precisions.from_arrays(found.arrays() | change, found.image_of)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(4, 2, dtype=torch.uint8), "no image to rank has a label"),
        (torch.ones(3, 2, dtype=torch.uint8), r"4 rows of 0 and 1, one column for each category, not uint8 of shape"),
        (torch.full((4, 2), 3), "rows of 0 and 1"),
        (torch.ones(4), "rows of 0 and 1"),
    ],
)
def test_unusable_labels_are_refused(labels, message):
    with pytest.raises(BadInput, match=message):
        ranked(np.zeros((4, 4)), labels)


def test_scores_that_are_not_finite_are_refused():
    rows = torch.arange(4.0)[:, None]
    pairs = Pairwise(lambda images, texts: torch.where(images == texts.T, 1.0, torch.nan))
    problem = make_problem(rows, rows, torch.arange(4), pairs)
    with pytest.raises(BadInput, match="not finite"):
        average_precisions(problem, torch.ones(4, 1))
