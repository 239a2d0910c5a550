"""Several right answers, against loops over all orders of ties, scikit-learn and the package of ECCV Caption."""

import warnings
from itertools import chain, groupby, permutations, product

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom
from sklearn.metrics import ndcg_score

from cran_bench.embeddings import Levels
from cran_bench.errors import BadInput
from cran_bench.ranking.problem import make_problem
from cran_bench.ranking.rank import rank
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.ranking.relevance import FIGURES, Retrieved
from cran_bench.ranking.retrieval import retrieve
from cran_bench.records.tasks import evidence_metrics
from cran_bench.similarity import COSINE, DOT, Pairwise

MEASURES = ("r1", "r5", "r10", "ap", "rp", "ndcg")


def problem_of(scores):
    """The problem of an (N, T) matrix of scores, T >= N, which are inner products with unit vectors."""
    scores = torch.as_tensor(scores, dtype=torch.float64)
    owners = torch.arange(scores.shape[1]) % len(scores)
    if scores.shape[0] > scores.shape[1]:
        raise ValueError("an image has no text")
    return make_problem(torch.eye(len(scores), dtype=torch.float64), scores.T.contiguous(), owners, DOT)


def retrieved(scores, grades, is_text=False, seed=0, **options):
    """What `retrieve` finds by (N, T) scores and (N, T) grades, 0 for wrong, of pairs listed in random order."""
    pairs = np.random.default_rng(seed).permutation(np.argwhere(grades > 0))
    query, answer = pairs.T[::-1] if is_text else pairs.T
    return retrieve(problem_of(scores), query, answer, grades[tuple(pairs.T)], is_text, **options)


def as_columns(found):
    return np.stack([getattr(found, name) for name in ("query", "right", *MEASURES)])


def measures_of(grades):
    """The figures of one order of candidates, by loops."""
    right, found, ap, gain, ideal = sum(g > 0 for g in grades), 0, 0.0, 0.0, 0.0
    for place, grade in enumerate(grades, 1):
        found += grade > 0
        ap += (grade > 0 and place <= right) * found / place
        gain += grade / np.log2(place + 1)
    for place, grade in enumerate(sorted(grades, reverse=True), 1):
        ideal += grade / np.log2(place + 1)
    hits = [any(g > 0 for g in grades[:k]) for k in (1, 5, 10)]
    return [*hits, ap / right, sum(g > 0 for g in grades[:right]) / right, gain / ideal]


def over_ties(scores, grades):
    """The mean figures over all orders of candidates that respect the scores."""
    places = sorted(range(len(scores)), key=lambda k: -scores[k])
    tied = [list(group) for _, group in groupby(places, key=lambda k: scores[k])]
    orders = product(*(permutations(group) for group in tied))
    return np.mean([measures_of([grades[k] for k in chain(*order)]) for order in orders], axis=0)


def random_case(seed, tied=False, images=6, texts=7, share=0.4):
    random = np.random.default_rng(seed)
    scores = random.standard_normal((images, texts))
    grades = np.where(random.random((images, texts)) < share, random.integers(1, 4, (images, texts)) / 2, 0.0)
    return np.round(scores) if tied else scores, grades


@pytest.mark.parametrize("is_text", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_ties_are_the_mean_over_all_orders(seed, is_text):
    scores, grades = random_case(seed, tied=True, images=5, texts=6)
    scores[0], scores[:, 0] = 1.0, 1.0
    found = retrieved(scores, grades, is_text)
    sides = (scores.T, grades.T) if is_text else (scores, grades)
    asked = np.flatnonzero(sides[1].any(axis=1))
    assert found.query.tolist() == asked.tolist()
    assert found.right.tolist() == np.count_nonzero(sides[1][asked], axis=1).tolist()
    expected = [over_ties(sides[0][query], sides[1][query]) for query in asked]
    np.testing.assert_allclose(as_columns(found)[2:].T, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("is_text", [False, True])
def test_loops_agree_where_nothing_ties(is_text):
    scores, grades = random_case(2, images=20, texts=60, share=0.1)
    grades[::3], grades[:, ::4] = 0.0, 0.0
    found = retrieved(scores, grades, is_text)
    sides = (scores.T, grades.T) if is_text else (scores, grades)
    expected = [measures_of(sides[1][query][np.argsort(-sides[0][query])]) for query in found.query]
    np.testing.assert_allclose(as_columns(found)[2:].T, expected, rtol=0, atol=1e-14)
    for size in (1, 100_000):
        parts = retrieved(scores, grades, is_text, seed=size, block_bytes=size)
        np.testing.assert_allclose(as_columns(parts), as_columns(found), rtol=0, atol=1e-14)


def test_a_constant_scorer_has_chance_by_the_closed_forms():
    grades = np.zeros((3, 300))
    for query, right in enumerate((1, 12, 299)):
        grades[query, :right] = 2.0
    found = retrieved(np.ones((3, 300)), grades)
    for k in (1, 5, 10):
        np.testing.assert_allclose(getattr(found, f"r{k}"), hypergeom(300, found.right, k).sf(0), atol=1e-14)
    np.testing.assert_allclose(found.rp, found.right / 300, atol=1e-14)
    harmonic = np.array([(1 / np.arange(1, right + 1)).sum() for right in found.right])
    ap = (harmonic + (found.right - 1) / 299 * (found.right - harmonic)) / 300
    np.testing.assert_allclose(found.ap, ap, atol=1e-14)


@pytest.mark.parametrize("tied", [False, True])
def test_scikit_learn_agrees_on_ndcg(tied):
    scores, grades = random_case(3, tied, images=30, texts=80, share=0.1)
    found = retrieved(scores, grades)
    expected = [ndcg_score(grades[[query]], scores[[query]]) for query in found.query]
    np.testing.assert_allclose(found.ndcg, expected, rtol=0, atol=1e-12)
    assert len(np.unique(grades)) > 2 and found.ndcg.min() < 0.8


def test_scores_within_rounding_are_equal():
    """Copies of one vector, scaled, have cosines that differ in the last bits only."""
    random = torch.Generator().manual_seed(0)
    scales = torch.rand(40, 1, generator=random, dtype=torch.float64) + 0.1
    one, texts = (torch.randn(n, 300, generator=random, dtype=torch.float64) for n in (1, 40))
    query, answer = np.arange(40).repeat(2), np.concatenate([[k, (k + 7) % 40] for k in range(40)])
    found = retrieve(make_problem(one * scales, texts, torch.arange(40), COSINE), query, answer, np.ones(80), True)
    np.testing.assert_allclose(found.r1, 2 / 40, rtol=0, atol=1e-14)


@pytest.mark.parametrize("per_image", [1, 3])
def test_with_own_answers_alone_it_is_recall(per_image):
    random = torch.Generator().manual_seed(0)
    images, owners = torch.randn(20, 4, generator=random), torch.arange(20).repeat_interleave(per_image)
    texts = (2 * images[owners] + torch.randn(20 * per_image, 4, generator=random)).round()
    ranks, problem = rank(images, texts, owners, DOT), make_problem(images, texts, owners, DOT)
    rows = torch.arange(len(texts))
    i2t = retrieve(problem, owners, rows, torch.ones(len(texts)), False)
    t2i = retrieve(problem, rows[::2], owners[::2], torch.ones(len(rows[::2])), True)
    recorded, recalls = (
        RecordedRanks(**vars(ranks), relevant={"own": {"i2t": i2t, "t2i": t2i}}),
        ranks.metrics().values(),
    )
    values = {name.removeprefix("own."): value for name, value in evidence_metrics(recorded).items()}
    assert {*values} == {"map_r", *(f"{side}_{name}" for side in ("i2t", "t2i") for name in ("own_r1", *FIGURES))}
    for k in (1, 5, 10):
        assert values[f"i2t_r{k}"] == pytest.approx(recalls[f"i2t_r{k}"], abs=1e-12)
    assert values["t2i_r1"] == pytest.approx(values["t2i_own_r1"], abs=1e-12)
    assert values["t2i_r1"] == pytest.approx(100 * ranks.t2i.hits(1)[::2].mean(), abs=1e-12)
    assert values["t2i_rp"] == values["t2i_map_r"] == pytest.approx(values["t2i_r1"] / 100, abs=1e-14)
    untied = ranks.t2i.tied[::2] == 0
    np.testing.assert_allclose(t2i.ndcg[untied], 1 / np.log2(ranks.t2i.ranks()[::2][untied] + 1), atol=1e-14)
    assert 20 < values["t2i_r1"] < 80 and 20 < values["i2t_r1"] < 90


def by_table(scores, seen=None):
    """A function of pairs that reads scores by the numbers of images and texts."""
    table = torch.from_numpy(scores)

    def score(images, texts):
        of = [side.regions[:, 0] if isinstance(side, Levels) else side for side in (images, texts)]
        rows, columns = (side[:, 0].long() for side in of)
        if seen is not None:
            seen.update(product(rows.tolist(), columns.tolist()))
        return table[rows][:, columns]

    return score


def test_a_direction_has_scores_of_its_own_and_only_what_is_asked_is_scored():
    first, grades = random_case(4, tied=True)
    other, _ = random_case(5, tied=True)
    grades[:4], grades[:, 3:] = 0.0, 0.0
    seen = set()
    pairs = Pairwise(by_table(first, seen), i2t=by_table(other, seen), tile=(2, 3))
    sides = torch.arange(6.0)[:, None], torch.arange(7.0)[:, None]
    problem, (image, text) = make_problem(*sides, torch.arange(7) % 6, pairs), grades.nonzero()
    seen.clear()
    i2t = retrieve(problem, image, text, grades[image, text], False)
    assert seen == set(product(image.tolist(), range(7)))
    seen.clear()
    t2i = retrieve(problem, text, image, grades[image, text], True)
    assert seen == set(product(range(6), text.tolist()))
    np.testing.assert_array_equal(as_columns(i2t), as_columns(retrieved(other, grades)))
    np.testing.assert_array_equal(as_columns(t2i), as_columns(retrieved(first, grades, True)))


@pytest.mark.parametrize("is_text", [False, True])
def test_reranked_candidates_come_first_and_then_the_rest_by_the_cheap_score(is_text):
    cheap, grades = random_case(6, tied=True, images=12, texts=12)
    exact, _ = random_case(7, tied=True, images=12, texts=12)
    grades[::2], grades[:, 1] = 0.0, 0.0
    number = torch.arange(12, dtype=torch.float64)[:, None, None]
    images = Levels(globals=torch.eye(12, dtype=torch.float64), regions=number)
    texts = Levels(globals=torch.from_numpy(cheap.T.copy()), regions=number)
    similarity = Pairwise(by_table(exact), rerank=4, cheap=DOT)
    image, text = grades.nonzero()
    query, answer = (text, image) if is_text else (image, text)
    problem = make_problem(images, texts, torch.arange(12), similarity)
    found = retrieve(problem, query, answer, grades[image, text], is_text)
    axis = 0 if is_text else 1
    worst = np.sort(cheap, axis=axis).take([12 - 4], axis=axis)
    expected = retrieved(np.where(cheap >= worst, 100 + exact, cheap), grades, is_text)
    np.testing.assert_allclose(as_columns(found), as_columns(expected), rtol=0, atol=1e-14)


@pytest.fixture(scope="module")
def eccv():
    """The metrics of the package of ECCV Caption, with its right answers by number of image and caption."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two packages that it does without
        from eccv_caption import Metrics
    return Metrics()


RANKINGS = ("random", "first", "last", "half", "noisy")


@pytest.mark.parametrize("is_text", [False, True])
def test_the_package_of_eccv_caption_agrees(eccv, is_text, monkeypatch):
    """Every 40th query is asked; a right caption that is none of the 25,000 is a candidate here."""
    side = "t2i" if is_text else "i2t"
    asked = {name: dict(list(getattr(eccv, f"{name}_gts")[side].items())[::40]) for name in ("eccv", "cxc")}
    asked["cxc"] = dict(list(asked["cxc"].items())[:40])
    for name, right in asked.items():
        monkeypatch.setattr(eccv, f"{name}_gts", {side: right})
    given = list(eccv.coco_gts["i2t" if is_text else "t2i"])
    candidates = np.unique([*given, *chain(*asked["eccv"].values())])
    assert len(given) == (5000 if is_text else 25000) and 0 <= len(candidates) - len(given) <= 2
    for name, right in asked.items():
        queries = np.array(sorted(right))
        pairs = np.array([(q, a) for q, answers in right.items() for a in answers])
        query, answer = np.searchsorted(queries, pairs[:, 0]), np.searchsorted(candidates, pairs[:, 1])
        random = np.random.default_rng(0)
        for ranking in RANKINGS if name == "eccv" else RANKINGS[-1:]:
            scores = random.standard_normal((len(queries), len(candidates)))
            is_raised = random.random(len(query)) < (0.5 if ranking == "half" else ranking != "random")
            by = {"random": 0.0, "first": 20.0, "last": -20.0, "half": 20.0, "noisy": 3.0}[ranking]
            scores[query, answer] += by * is_raised
            top = {int(q): candidates[np.argsort(-row)[:60]].tolist() for q, row in zip(queries, scores, strict=True)}
            if is_text:  # every image needs a text, so texts that are not asked follow
                texts = torch.eye(len(candidates), len(queries), dtype=torch.float64)
                problem = make_problem(torch.from_numpy(scores.T.copy()), texts, torch.arange(len(candidates)), DOT)
            else:
                problem = problem_of(scores)
            found = retrieve(problem, query, answer, np.ones(len(query)), is_text)
            if name == "cxc":
                for k in (1, 5, 10):
                    theirs = eccv.cxc_recalls({side: top}, side, k)[side]
                    assert theirs > 0.2 and getattr(found, f"r{k}").mean() == pytest.approx(theirs, abs=1e-12)
                continue
            theirs = {key: by_side[side] for key, by_side in eccv.eccv_metrics({side: top}, side).items()}
            ours = {"eccv_r1": found.r1, "eccv_map_at_r": found.ap, "eccv_rprecision": found.rp}
            assert {key: x.mean() for key, x in ours.items()} == pytest.approx(theirs, abs=1e-12)
            assert {"first": 1, "last": 0}.get(ranking, theirs["eccv_map_at_r"]) == theirs["eccv_map_at_r"]


def test_figures_are_read_back():
    found = retrieved(*random_case(8))
    again = Retrieved.from_arrays(vars(found), 6)
    np.testing.assert_array_equal(as_columns(again), as_columns(found))
    assert {name: array.dtype for name, array in vars(found).items()} == Retrieved.ARRAYS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": [0, 9]}, "queries are positions from 0 to 9: give 0 to 5"),
        ({"answer": [-1, 2]}, "right answers are positions from -1 to 2: give 0 to 6"),
        ({"grade": [1.0, 0.0]}, "not a number above 0"),
        ({"grade": [1.0, np.nan]}, "not a number above 0"),
        ({"grade": [1.0]}, r"shapes \(2,\), \(2,\), \(1,\)"),
        ({"answer": [1, 1]}, "given twice"),
        ({"query": [], "answer": [], "grade": []}, "one or more pairs"),
    ],
)
def test_unusable_pairs_are_refused(change, message):
    given = {"query": [2, 2], "answer": [1, 2], "grade": [1.0, 2.0]} | change
    with pytest.raises(BadInput, match=message):
        retrieve(problem_of(np.ones((6, 7))), **{key: np.array(x) for key, x in given.items()}, is_text=False)


def test_scores_that_are_not_finite_are_refused():
    rows = torch.arange(4.0)[:, None]
    pairs = Pairwise(lambda images, texts: torch.where(images == texts.T, 1.0, torch.nan))
    with pytest.raises(BadInput, match="not finite"):
        retrieve(make_problem(rows, rows, torch.arange(4), pairs), rows[:, 0], rows[:, 0], torch.ones(4), True)
