"""Rankings by pair scorers, against two loops: every tiling, ties, masks, reranking, and a score for each direction."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import cran_bench
from cran_bench.embeddings import Levels
from cran_bench.errors import BadInput
from cran_bench.machine.fingerprint import code
from cran_bench.ranking.evaluation import evaluate
from cran_bench.ranking.metrics import mean_metrics
from cran_bench.ranking.pairs import Reranking, backend_of, require_ranked
from cran_bench.ranking.rank import rank
from cran_bench.ranking.reference import Reference
from cran_bench.running.fits import FitStore, code_of
from cran_bench.similarity import COSINE, DOT, Pairwise, Similarity


def best_regions(images: Levels, texts: Levels):
    """The sum over existing words of the best existing region's inner product; exact for small whole numbers."""
    products = torch.einsum("ird,twd->itrw", images.regions, texts.regions)
    if images.mask is not None:
        products = products.masked_fill(~images.mask[:, None, :, None], -100.0)
    best = products.amax(dim=2)
    return (best if texts.mask is None else best * texts.mask).sum(dim=2)


def slowly(images, texts):
    """The same scores in two loops."""
    scores = np.zeros((len(images), len(texts)))
    for i in range(len(images)):
        regions = images.regions[i][images.mask[i]].numpy()
        for k in range(len(texts)):
            words = texts.regions[k][texts.mask[k]].numpy()
            scores[i, k] = sum((max(float(r @ w) for r in regions) if len(regions) else -100.0) for w in words)
    return scores


def sets(seed, largest=1, per_image=4):
    """Sets of vectors of small whole numbers with masks and global vectors, so that many scores tie."""
    random = np.random.default_rng(seed)
    captions = random.integers(1, per_image + 1, random.integers(2, 12))
    n, t, dim = len(captions), int(captions.sum()), int(random.integers(1, 4))

    def draw(*shape):
        return torch.from_numpy(random.integers(-largest, largest + 1, shape).astype(np.float32))

    masks = [torch.from_numpy(random.random(shape) < 0.8) for shape in ((n, 3), (t, 4))]
    images = Levels(globals=draw(n, 2), regions=draw(n, 3, dim), mask=masks[0])
    texts = Levels(globals=draw(t, 2), regions=draw(t, 4, dim), mask=masks[1])
    image_of = torch.repeat_interleave(torch.arange(n), torch.from_numpy(captions))
    if seed % 2:
        image_of = image_of[torch.from_numpy(random.permutation(t))]
    return images, texts, image_of


def counted(candidates, right):
    """(better, tied, right) of a query from the sortable scores of its candidates."""
    best = max(score for score, is_right in zip(candidates, right, strict=True) if is_right)
    pairs = list(zip(candidates, right, strict=True))
    return (
        sum(score > best for score, is_right in pairs if not is_right),
        sum(score == best for score, is_right in pairs if not is_right),
        sum(score == best for score, is_right in pairs if is_right),
    )


def by_loops(of_images, of_texts, image_of):
    """The counts of all queries from (N, T) nested lists of scores, for image queries and for text queries."""
    owner = image_of.tolist()
    n, t = len(of_images), len(owner)
    images = [counted(of_images[i], [owner[k] == i for k in range(t)]) for i in range(n)]
    texts = [counted([of_texts[i][k] for i in range(n)], [owner[k] == i for i in range(n)]) for k in range(t)]
    return images, texts


def triples(ranks):
    return tuple(
        list(zip(side.better.tolist(), side.tied.tolist(), side.right.tolist(), strict=True))
        for side in (ranks.i2t, ranks.t2i)
    )


TILES = (64, 256), (1, 1), (2, 5), (7, 3)


@pytest.mark.parametrize("seed", range(4))
def test_sets_of_vectors_are_counted_as_by_two_loops_in_every_tiling(seed):
    images, texts, image_of = sets(seed)
    scores = slowly(images, texts).tolist()
    expected = by_loops(scores, scores, image_of)
    for tile in TILES:
        similarity = Pairwise(best_regions, tile=tile)
        for backend in ("auto", "torch", Reference(3000)):
            assert triples(rank(images, texts, image_of, similarity, backend=backend)) == expected


def test_many_of_these_scores_tie():
    assert sum(rank(*sets(seed), similarity=Pairwise(best_regions)).ties() for seed in range(12)) > 50


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("top", [1, 3, 1000])
@pytest.mark.parametrize("cheap", [COSINE, DOT])
def test_the_best_by_the_cheap_similarity_are_ranked_again_as_by_two_loops(seed, top, cheap):
    images, texts, image_of = sets(seed)
    exact = slowly(images, texts)
    quick = np.round(cheap.scores(images.globals, texts.globals).numpy(), 9) + 0.0

    def order(exact, quick):
        """Sortable scores of a query's candidates: those among the best first, by their exact scores."""
        kth = sorted(quick, reverse=True)[min(top, len(quick)) - 1]
        return [(1, e) if q >= kth else (0, q) for e, q in zip(exact, quick, strict=True)]

    of_images = [order(exact[i], quick[i]) for i in range(len(images))]
    of_texts = [*zip(*(order(exact[:, k], quick[:, k]) for k in range(len(texts))), strict=True)]
    similarity = Pairwise(best_regions, rerank=top, cheap=cheap, tile=(2, 3))
    ranks = rank(images, texts, image_of, similarity, backend=Reranking(similarity, queries=2))
    assert triples(ranks) == by_loops(of_images, of_texts, image_of)
    assert ranks.kernel.name == f"rerank {top}"
    if top == 1000:
        assert triples(ranks) == triples(rank(images, texts, image_of, Pairwise(best_regions)))


def negated(images, texts):
    return -best_regions(images, texts)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rerank", [0, 1000])
def test_each_direction_may_have_scores_of_its_own(seed, rerank):
    images, texts, image_of = sets(seed)
    scores = slowly(images, texts)
    similarity = Pairwise(best_regions, i2t=negated, rerank=rerank)
    ranks = rank(images, texts, image_of, similarity, backend=backend_of(similarity))
    assert triples(ranks) == by_loops((-scores).tolist(), scores.tolist(), image_of)


def even(seed, n=12):
    """A set of `n` images with three texts each."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randint(-2, 3, shape, generator=random).float()

    owner = torch.arange(n).repeat_interleave(3)
    return Levels(draw(n, 2), draw(n, 3, 2)), Levels(draw(3 * n, 2), draw(3 * n, 4, 2)), owner


ALL = [Pairwise(best_regions), Pairwise(best_regions, i2t=negated), Pairwise(best_regions, rerank=2)]
IDS = ["plain", "two functions", "rerank"]


@pytest.mark.parametrize("similarity", ALL, ids=IDS)
@pytest.mark.parametrize("folds", [2, 5])
def test_folds_are_ranked_by_themselves(similarity, folds):
    images, texts, owner = even(folds)
    order = torch.randperm(len(owner), generator=torch.Generator().manual_seed(0))
    how = backend_of(similarity)
    found = evaluate(images, texts.rows(order), owner[order], None, similarity, "captions", folds, how)
    size, parts = 12 // folds, []
    for fold in range(folds):
        rows, columns = slice(fold * size, (fold + 1) * size), slice(3 * fold * size, 3 * (fold + 1) * size)
        own = owner[columns] - fold * size
        parts.append(rank(images.rows(rows), texts.rows(columns), own, similarity, backend=how).metrics())
    for name, value in mean_metrics(parts).values().items():
        assert found.metrics[name] == pytest.approx(value)


@pytest.mark.parametrize("similarity", ALL, ids=IDS)
def test_twins_are_told_apart_by_the_scores_of_text_queries(similarity):
    images, texts, owner = even(1)
    twins = torch.arange(12) ^ 1
    found = evaluate(images, texts, owner, twins, similarity, "captions", 0, backend_of(similarity))
    scores = best_regions(images, texts)
    gaps = [float(scores[owner[k], k] - scores[twins[owner[k]], k]) for k in range(36)]
    assert 0.0 in gaps
    assert found.metrics["twin_accuracy"] == pytest.approx(100 * np.mean([(g > 0) + 0.5 * (g == 0) for g in gaps]))


def test_the_first_caption_alone_and_documents():
    images, texts, owner = even(2)
    single = evaluate(images, texts, owner, None, ALL[0], "single").ranks
    firsts = texts.rows(torch.arange(0, 36, 3))
    documents = evaluate(images, firsts, torch.arange(12), None, ALL[0], "documents").ranks
    scores = best_regions(images, firsts).tolist()
    assert triples(single) == triples(documents) == by_loops(scores, scores, torch.arange(12))


def test_sets_have_no_mean():
    require_ranked(COSINE, "mean")
    for check in (
        lambda: require_ranked(ALL[0], "mean"),
        lambda: cran_bench.evaluate(*even(0), similarity=ALL[0], protocol="mean"),
    ):
        with pytest.raises(BadInput, match=r"the protocol mean averages .* choose captions, documents or single"):
            check()


def test_evaluate_takes_a_pair_scorer():
    images, texts, owner = even(3)
    for similarity in ALL:
        found = cran_bench.evaluate(images, texts, owner, similarity=similarity, backend="torch")
        assert triples(found.ranks) == triples(rank(images, texts, owner, similarity, backend=backend_of(similarity)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_scores_are_compared_as_they_are_given(dtype):
    """Neighbouring numbers of a type are different, and equal ones tie, whatever their size."""
    one = torch.ones((), dtype=dtype)
    near = torch.nextafter(one, 2 * one)
    matrix = torch.stack([torch.stack([one, near, one]), torch.stack([near, one, one]), torch.stack([one, one, one])])

    def score(rows, columns):
        assert rows.shape[1] == columns.shape[1] == 1  # global vectors alone are tensors
        return matrix[rows[:, 0].long()][:, columns[:, 0].long()]

    rows = torch.arange(3.0)[:, None]
    assert triples(rank(rows, rows, torch.arange(3), Pairwise(score))) == (
        [(1, 1, 1), (1, 1, 1), (0, 2, 1)],
        [(1, 1, 1), (1, 1, 1), (0, 2, 1)],
    )


@pytest.mark.parametrize("rerank", [0, 9])
def test_no_matrix_of_scores_grows_with_images_times_texts(rerank, monkeypatch):
    seen, held = [], []

    def noting(scored):
        def scores(*given, **options):
            held.append((made := scored(*given, **options)).numel())
            return made

        return scores

    for owner, name in ((Pairwise, "scores_by"), (Similarity, "scores")):
        monkeypatch.setattr(owner, name, noting(getattr(owner, name)))

    def score(images, texts):
        seen.append((len(images), len(texts)))
        return images @ texts.T

    images, texts = torch.randn(60, 2), torch.randn(300, 2)
    similarity = Pairwise(score, rerank=rerank, tile=(16, 32))
    backend = Reranking(similarity, queries=4) if rerank else Reference(1 << 15)
    rank(images, texts, torch.arange(60).repeat_interleave(5), similarity, backend=backend)
    assert max(i for i, _ in seen) <= 16 and max(t for _, t in seen) <= 32
    assert max(held) <= 1200 < 60 * 300 / 10
    assert sum(i * t for i, t in seen) == 300 + (rerank * (60 + 300) if rerank else 60 * 300)


# bad input


class Scorer:
    def transposed(self, images, texts):
        return (images @ texts.T).T

    def whole_numbers(self, images, texts):
        return (images @ texts.T).long()

    def arrays(self, images, texts):
        return (images @ texts.T).numpy()

    def vectors(self, images, texts):
        return images[:, 0]


ASKED = r"return a float tensor \(1, 2\), the scores of all pairs of an image and a text"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("transposed", r"float32 \(2, 1\)"),
        ("whole_numbers", r"int64 \(1, 2\)"),
        ("arrays", "a numpy array"),
        ("vectors", r"float32 \(1,\)"),
    ],
)
def test_what_is_no_tile_is_refused_with_the_name_of_its_method(name, what):
    similarity = Pairwise(getattr(Scorer(), name))
    with pytest.raises(BadInput, match=rf"^Scorer\.{name} returned {what}; {ASKED}$"):
        rank(torch.randn(3, 2), torch.randn(6, 2), torch.arange(3).repeat_interleave(2), similarity)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("text", "message"), [(0, "text 0 and its own image"), (4, "image 0 and text 4")])
def test_scores_that_are_not_finite_are_refused(value, text, message):
    matrix = torch.zeros(3, 6)
    matrix[0, text] = value

    def score(rows, columns):
        return matrix[rows[:, 0].long()][:, columns[:, 0].long()]

    rows, columns = torch.arange(3.0)[:, None], torch.arange(6.0)[:, None]
    owner = torch.arange(3).repeat_interleave(2)
    with pytest.raises(BadInput, match=f"the score of {message} is not finite"):
        rank(rows, columns, owner, Pairwise(score))
    reranked = Pairwise(score, rerank=6)
    with pytest.raises(BadInput, match="not finite"):
        rank(rows, columns, owner, reranked, backend=backend_of(reranked))


def test_declarations_that_make_no_sense_are_refused():
    for said, given in (
        ("takes the function that scores pairs", {"score": 3}),
        ("rerank is a number of candidates", {"score": negated, "rerank": -1}),
        ("a tile has at least one image", {"score": negated, "tile": (0, 5)}),
    ):
        with pytest.raises(BadInput, match=said):
            Pairwise(**given)


def test_embeddings_of_other_lengths_or_without_what_rerank_needs_are_refused():
    images, texts, owner = even(0)
    for said, left, similarity in (
        ("the tensors of images have 11 and 12 rows", replace(images, regions=images.regions[1:]), ALL[0]),
        (
            "the embeddings of images have dtype int64; give float32",
            replace(images, regions=images.regions.long()),
            ALL[0],
        ),
        ("rerank=2 chooses candidates by global vectors, and images have none", replace(images, globals=None), ALL[2]),
        ("images have dimension 1 and texts 2", replace(images, globals=images.globals[:, 1:]), ALL[2]),
    ):
        with pytest.raises(BadInput, match=said):
            rank(left, texts, owner, similarity, backend=backend_of(similarity))


# methods


@dataclass
class Mine:
    """Ranks validation while it fits."""

    rerank: int = 0

    @property
    def similarity(self):
        return Pairwise(self.score, rerank=self.rerank)

    def score(self, images, texts):
        return helper(images, texts)

    def fit(self, train, val, run):
        images, texts = self.embed_images(val), self.embed_texts(val)
        run.chose(rsum=run.score(images, texts).rsum)
        with pytest.raises(BadInput, match=r"run.score takes embeddings of the validation split, 24 images"):
            run.score(self.embed_images(train), texts)

    def embed_images(self, split):
        return Levels(globals=split.images, regions=split.regions, mask=split.region_mask)

    def embed_texts(self, split):
        vectors = split.mean_vectors()
        wide = torch.nn.functional.pad(vectors, (0, max(0, 16 - vectors.shape[1])))[:, :16]
        return Levels(globals=wide, regions=wide[:, None])

    def state(self):
        return {}

    def load(self, state):
        pass


@dataclass
class Other(Mine):
    """Declares another similarity than the one it asks for."""

    similarity = COSINE

    def fit(self, train, val, run):
        own = Pairwise(self.score, rerank=self.rerank)
        run.chose(rsum=run.score(self.embed_images(val), self.embed_texts(val), own).rsum)


def helper(images, texts):
    return best_regions(images, texts)


@pytest.mark.parametrize("rerank", [0, 5])
def test_a_fit_scores_validation_as_the_test_split_is_scored(tiny, tmp_path, rerank):
    store = FitStore(tmp_path, {}, tiny.train, tiny.val, torch.device("cpu"))
    fit = store.fitted(Mine(rerank), 0, "mine")
    images, texts = fit.part.embed_images(tiny.val), fit.part.embed_texts(tiny.val)
    similarity = fit.part.similarity
    ranks = rank(images, texts, tiny.val.image_of, similarity, backend=backend_of(similarity))
    assert fit.chose == {"rsum": ranks.metrics().rsum}
    if rerank:
        with pytest.raises(BadInput, match="rerank and i2t are followed for a method that declares them"):
            store.fitted(Other(rerank), 0, "other")
    else:
        assert store.fitted(Other(rerank), 0, "other").chose == fit.chose
    assert (ranks.kernel.name == "rerank 5") == bool(rerank)


def test_the_code_of_the_scores_is_part_of_the_fingerprint():
    names = {symbol.name for symbol in code(Mine, asked=("similarity",)).symbols}
    assert {"Mine.score", "helper", "best_regions"} <= names
    assert code_of(Mine()) == code_of(Mine(3))
