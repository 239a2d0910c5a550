"""Every backend counts what the reference counts, whatever the levels, masks, ties and sizes."""

import dataclasses
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cran_bench.embeddings import Levels, Relations, region_pairs, rows_of
from cran_bench.errors import BadInput
from cran_bench.ranking import backends, filtering
from cran_bench.ranking.backends import choose
from cran_bench.ranking.filtering import SMALLEST, Filtering, Limits, float32_error, limits, measured
from cran_bench.ranking.problem import KernelInfo, Problem, make_problem, pair_scores
from cran_bench.ranking.rank import rank
from cran_bench.ranking.reference import Reference
from cran_bench.ranking.tiles import ImageLevel, LevelPlan, Tiles, compare, power_of_two, sum_of_best, tiles_for
from cran_bench.similarity import COSINE, DOT, MultiLevel, Similarity

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
CPU = torch.device("cpu")


def filtering_by(dtype, bound="measured", image_rows=5, text_rows=7):
    return Filtering(partial(Tiles, dtype=dtype, image_rows=image_rows, text_rows=text_rows), bound)


BACKENDS = {
    f"{dtype} {bound}": filtering_by(getattr(torch, dtype), bound)
    for dtype in ("float32", "bfloat16", "float16")
    for bound in ("measured", "proven")
}


@st.composite
def problems(draw):
    """Images, texts, owners and a similarity; small whole numbers tie often, real values hardly ever."""
    captions = draw(st.lists(st.integers(1, 4), min_size=1, max_size=12))
    n, t, d = len(captions), sum(captions), draw(st.sampled_from([1, 2, 3, 33]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ties = draw(st.booleans())

    def vectors(*shape):
        found = random.integers(-2, 3, shape) if ties else random.normal(size=shape)
        return torch.from_numpy(found.astype(np.float32))

    image_of = torch.repeat_interleave(torch.arange(n), torch.tensor(captions))
    if draw(st.booleans()):
        image_of = image_of[torch.from_numpy(random.permutation(t))]
    if draw(st.booleans()):
        return vectors(n, d), vectors(t, d), image_of, draw(st.sampled_from([COSINE, DOT]))
    regions = draw(st.integers(0, 5))
    kind = draw(st.sampled_from(["ordered", "unordered", "all"]))
    form = draw(st.sampled_from(["none", "vectors", "factored", "divided"]))
    count = len(region_pairs(regions, kind))
    divisors = torch.from_numpy(random.uniform(0.5, 2.0, (n, regions, regions)).astype(np.float32))
    relations = {
        "none": None,
        "vectors": vectors(n, count, d),
        "factored": Relations(vectors(n, regions, d), vectors(n, regions, d), kind=kind),
        "divided": Relations(vectors(n, regions, d), vectors(n, regions, d), divisors, kind),
    }[form]
    mask = torch.from_numpy(random.random((n, regions)) < 0.7) if draw(st.booleans()) else None
    if form == "vectors" and mask is not None and regions < 2:
        mask = None
    has_globals = draw(st.booleans())
    images = Levels(vectors(n, d) if has_globals else None, vectors(n, regions, d), relations, mask)
    texts = Levels(vectors(t, d) if has_globals else None, vectors(t, d), None if form == "none" else vectors(t, d))
    weights = draw(st.sampled_from([(1.0, 1.0, 1.0), (0.5, 2.0, 0.25)]))
    return images, texts, image_of, MultiLevel(draw(st.booleans()), draw(st.integers(1, 7)), weights)


@settings(deadline=None, max_examples=120)
@given(problems(), st.sampled_from(sorted(BACKENDS)))
def test_every_backend_counts_as_the_reference(problem, name):
    images, texts, image_of, similarity = problem
    expected = rank(images, texts, image_of, similarity, backend=Reference(1 << 14)).arrays()
    found = rank(images, texts, image_of, similarity, backend=BACKENDS[name])
    for key, value in expected.items():
        assert np.array_equal(found.arrays()[key], value), key


def levels(n, t, d=64, regions=5, seed=0, noise=1.0):
    """Three levels that find their own pairs, more or less."""
    draw = torch.Generator().manual_seed(seed)
    image_of = torch.arange(t) * n // t

    def side(*shape):
        return torch.randn(*shape, generator=draw)

    globals, parts, first, second = side(n, d), side(n, regions, d), side(n, regions, d), side(n, regions, d)
    texts = (
        own[image_of] + noise * side(t, d) for own in (globals, parts.sum(dim=1) / 3, (first[:, 0] + second[:, 1]) / 2)
    )
    return Levels(globals, parts, Relations(first, second)), Levels(*texts), image_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bound", ["measured", "proven"])
@pytest.mark.parametrize("cosine", [False, True])
def test_low_precision_leaves_few_pairs_open(dtype, bound, cosine):
    images, texts, image_of = levels(120, 600, noise=3.0)
    similarity = MultiLevel(cosine)
    expected = rank(images, texts, image_of, similarity, backend="reference")
    found = rank(images, texts, image_of, similarity, backend=filtering_by(dtype, bound, 50, 200))
    for key, value in expected.arrays().items():
        assert np.array_equal(found.arrays()[key], value), key
    kernel = found.kernel
    assert kernel.bound == bound and kernel.error <= kernel.tolerance
    wide = 0.25 if bound == "proven" else 0.05
    most = {torch.float32: 0.01, torch.bfloat16: wide, torch.float16: wide / 5}[dtype]
    assert kernel.rescored < most * 120 * 600
    assert dtype == torch.float32 or kernel.error > 0


def test_the_proven_bound_holds_and_is_wider_than_the_measured_one():
    images, texts, image_of = levels(40, 200)
    for similarity in (MultiLevel(), MultiLevel(cosine=True)):
        problem = make_problem(images, texts, image_of, similarity)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            scorer = Tiles(problem, dtype)
            everything = slice(None)
            found = scorer.scores(scorer.images(everything), scorer.texts(everything)).double()
            off = (found - similarity.scores(images, texts)).abs()
            proven = problem.reach.of_all(everything, everything, scorer.unit_error)
            six = problem.reach.of_all(everything, everything, measured(problem, scorer))
            assert bool((off <= proven).all()) and bool((off <= six).all())
            assert bool((six < proven).all())


def test_a_bound_that_was_too_narrow_is_noticed_and_the_proven_one_taken(monkeypatch, capsys):
    images, texts, image_of = levels(60, 300)
    monkeypatch.setattr(filtering, "measured", lambda problem, scorer: lambda dim: 1e-5)
    found = rank(images, texts, image_of, MultiLevel(), backend=filtering_by(torch.bfloat16, "measured", 60, 300))
    assert found.kernel.bound == "proven"
    assert "counting again with the proven bound" in capsys.readouterr().err
    expected = rank(images, texts, image_of, MultiLevel(), backend="reference")
    assert np.array_equal(found.t2i.better, expected.t2i.better)


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_collapsed_embeddings_are_counted_by_the_reference(name, monkeypatch):
    """Where every pair ties, every pair is open."""
    monkeypatch.setattr(filtering, "rescore", None)
    image_of = torch.arange(60) // 3
    ranks = rank(torch.ones(20, 8), torch.ones(60, 8), image_of, COSINE, backend=BACKENDS[name])
    assert ranks.i2t.tied.tolist() == [57] * 20 and ranks.t2i.tied.tolist() == [19] * 60
    assert ranks.kernel.rescored == 20 * 60 and ranks.kernel.bound in name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, in its own compiler
def test_tiles_are_compiled_to_the_same_counts():
    images, texts, image_of = levels(40, 90, d=8)
    images = Levels(images.globals, images.regions, images.relations, torch.rand(40, 5) < 0.8)
    plain = rank(
        images, texts, image_of, MultiLevel(cosine=True), backend=filtering_by(torch.float32, "proven", 32, 64)
    )
    compiled = Filtering(partial(Tiles, is_compiled=True, image_rows=32, text_rows=64), "proven")
    found = rank(images, texts, image_of, MultiLevel(cosine=True), backend=compiled)
    for key, value in plain.arrays().items():
        assert np.array_equal(found.arrays()[key], value), key


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))
def test_the_sum_of_the_best_is_that_of_topk(count, top, seed):
    values = torch.randn(count, 4, 5, generator=torch.Generator().manual_seed(seed))
    top = min(top, count)
    torch.testing.assert_close(sum_of_best(iter(values), top), values.topk(top, dim=0).values.sum(dim=0))
    missing = values.masked_fill(values < 0, -torch.inf)
    expected = missing.topk(top, dim=0).values
    expected = expected.masked_fill(expected == -torch.inf, 0).sum(dim=0)
    torch.testing.assert_close(sum_of_best(iter(missing), top, torch.zeros(4, 5)), expected)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 200), st.sampled_from([1, 3000, 1 << 20]), st.integers(0, 999))
def test_pairs_are_scored_as_in_the_matrix(count, pair_bytes, seed):
    images, texts, _ = levels(9, 30, d=6, regions=3)
    draw = torch.Generator().manual_seed(seed)
    rows, columns = torch.randint(9, (count,), generator=draw), torch.randint(30, (count,), generator=draw)
    found = pair_scores(images, texts, MultiLevel(), rows, columns, pair_bytes=pair_bytes)
    torch.testing.assert_close(found, MultiLevel().scores(images, texts)[rows, columns], atol=1e-12, rtol=0)


@pytest.mark.parametrize("rows", [torch.zeros(300, dtype=torch.int64), torch.arange(300) % 9])
def test_pairs_are_scored_in_blocks(rows, monkeypatch):
    """The copies and products of a block, four times its vectors in float64, stay below the memory allowed."""
    images, texts, _ = levels(9, 30, d=6, regions=3)
    sizes, whole = [], Similarity.own_scores

    def own_scores(self, left, right, *more):
        sizes.append(8 * sum(x.numel() for side in (left, right) for x in side.tensors()))
        return whole(self, left, right, *more)

    monkeypatch.setattr(Similarity, "own_scores", own_scores)
    pair_scores(images, texts, MultiLevel(), rows, torch.arange(300) % 30, pair_bytes=1 << 16)
    one_image = 8 * 6 * (1 + 3 + 2 * 3)
    assert (1 << 15) <= 4 * max(sizes) <= (1 << 16) + 4 * one_image


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 6), st.booleans(), st.sampled_from(["reference", "float32 measured"]))
def test_folds_in_one_call_are_folds_ranked_apart(folds, shuffle, name):
    images, texts, image_of = levels(6 * 4 + 1, 70, d=4, regions=2)
    if shuffle:
        order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
        texts, image_of = texts.rows(order), image_of[order]
    how = BACKENDS.get(name, name)
    joined = rank(images, texts, image_of, MultiLevel(top=2), backend=how, folds=folds)
    size = 25 // folds
    for fold in range(folds):
        inside = (image_of // size == fold).nonzero().flatten()
        rows = slice(fold * size, (fold + 1) * size)
        alone = rank(images.rows(rows), texts.rows(inside), image_of[inside] - rows.start, MultiLevel(top=2))
        part = joined.of_images(np.arange(rows.start, rows.stop))
        for one, other in ((part.i2t, alone.i2t), (part.t2i, alone.t2i)):
            for key, value in vars(other).items():
                assert np.array_equal(getattr(one, key), value), key


# bounds -----------------------------------------------------------------------------------------------------------

EPS = 2.0**-23  # of float32


@settings(deadline=None, max_examples=100)
@given(problems(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_low_precision_scores_are_within_the_proven_bound(problem, dtype):
    images, texts, image_of, similarity = problem
    problem = make_problem(images, texts, image_of, similarity)
    assume(problem.flop and problem.is_in_range)
    scorer, everything = Tiles(problem, dtype), slice(None)
    off = scorer.scores(scorer.images(everything), scorer.texts(everything)) - similarity.scores(images, texts)
    assert bool((off.abs() <= problem.reach.of_all(everything, everything, scorer.unit_error) + SMALLEST).all())


@pytest.mark.parametrize(("dim", "top"), [(1, 1), (300, 3), (4096, 20)])
def test_the_bound_of_float32_is_that_of_so_many_roundings(dim, top):
    """n roundings change a result by at most n u / (1 - n u) of itself, where u = 2^-24."""
    n = 2 * dim + top + 32
    assert float32_error(dim, top) == pytest.approx(n / (2**24 - n), rel=1e-12)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("row", [0, 2])
def test_the_bound_of_bfloat16_is_of_operands_and_products(side, row):
    """Halfway between two numbers, (1 + 2^-8) rounds to 1, 1/257 of it; the other vectors are not rounded at all."""
    sides = [torch.ones(3, 2), torch.ones(3, 2)]
    sides[0][1] = 0
    sides[side][row] = 1 + 2.0**-8
    scorer = Tiles(make_problem(sides[0], sides[1], torch.arange(3), DOT), torch.bfloat16)
    rounding = 1.001 / 257
    assert scorer.rounding == pytest.approx(rounding, rel=1e-6)
    products = float32_error(2, 1) + 2.0**-8
    assert scorer.unit_error(2) == pytest.approx((1 + rounding) ** 2 * (1 + products) - 1, rel=1e-6)


@st.composite
def adversaries(draw):
    """Vectors of lengths from tiny to huge, with zeros, duplicates and near ties: all that float16 rounds away."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.integers(2, 9)), draw(st.sampled_from([1, 5, 64]))
    spread = draw(st.sampled_from([0, 2, 4, 9]))  # decimal orders of magnitude

    def vectors(*shape):
        x = random.normal(size=(*shape, d)) * 10.0 ** random.uniform(-spread, spread / 2, (*shape, 1))
        x[random.random(shape) < 0.1] = 0
        x[random.random(len(x)) < 0.3] = x[0] * (1 + 1e-6 * random.integers(-2, 3))
        return torch.from_numpy(x.astype(np.float32))

    if draw(st.booleans()):
        return vectors(n), vectors(n), torch.arange(n), draw(st.sampled_from([COSINE, DOT]))
    images = Levels(vectors(n), vectors(n, 3), Relations(vectors(n, 3), vectors(n, 3)))
    return images, Levels(vectors(n), vectors(n), vectors(n)), torch.arange(n), MultiLevel(draw(st.booleans()))


@settings(deadline=None, max_examples=60)
@given(adversaries(), st.sampled_from(["measured", "proven"]))
def test_float16_counts_as_the_reference_whatever_the_lengths(problem, bound):
    images, texts, image_of, similarity = problem
    expected = rank(images, texts, image_of, similarity, backend="reference").arrays()
    found = rank(images, texts, image_of, similarity, backend=filtering_by(torch.float16, bound))
    for key, value in expected.items():
        assert np.array_equal(found.arrays()[key], value), key
    posed = make_problem(images, texts, image_of, similarity)
    if posed.is_in_range:
        scorer, everything = Tiles(posed, torch.float16), slice(None)
        off = scorer.scores(scorer.images(everything), scorer.texts(everything)) - posed.scores(everything, everything)
        assert bool((off.abs() <= posed.reach.of_all(everything, everything, scorer.unit_error) + SMALLEST).all())


@pytest.mark.parametrize(
    ("length", "power"), [(1.0, 1.0), (64.0, 1.0), (65.0, 0.5), (1e6, 2.0**-14), (0.75, 64.0), (2.0**-20, 2.0**26)]
)
def test_vectors_are_scaled_to_where_float16_is_precise(length, power):
    assert power_of_two(length) == power


@pytest.mark.parametrize(("shortest", "dtype"), [(1e-2, torch.float16), (1e-6, torch.bfloat16)])
def test_vectors_too_short_for_float16_are_screened_in_bfloat16(shortest, dtype):
    x = torch.ones(4, 16)
    x[2] *= shortest
    assert Tiles(make_problem(x, x, torch.arange(4), DOT), torch.float16).dtype == dtype
    assert Tiles(make_problem(x, x, torch.arange(4), COSINE), torch.float16).dtype == torch.float16  # of unit length


class Off:
    """A scorer whose relative errors are given."""

    def __init__(self, problem, errors):
        self.problem, self.errors, self.asked = problem, errors, []

    def images(self, rows):
        return rows

    texts = images

    def scores(self, rows, columns):
        self.asked.append((rows, columns))
        left, right = self.problem.images.globals[rows].double(), self.problem.texts.globals[columns].double()
        return left @ right.T + self.errors[rows][:, columns] * left.norm(dim=1)[:, None] * right.norm(dim=1)


@pytest.mark.parametrize("outlier", [None, 0.05])
def test_the_measured_bound_is_six_deviations_and_half_as_much_again_as_the_largest_error(outlier):
    draw = torch.Generator().manual_seed(0)
    images, texts = torch.randn(20, 4, generator=draw), torch.randn(20, 4, generator=draw)
    images[3] = 0  # has no relative error
    errors = 0.002 * torch.randint(0, 2, (20, 20), generator=draw).double() - 0.001
    errors.diagonal().mul_(10)  # the error of positive pairs, which are few, may be larger
    if outlier:
        errors[1, 2] = outlier
    scorer = Off(make_problem(images, texts, torch.arange(20), DOT), errors)
    deviation = 0.01 * (19 / 20) ** 0.5
    expected = (6 * deviation if outlier is None else 1.5 * outlier) + 4 * EPS
    assert measured(scorer.problem, scorer)(4) == pytest.approx(expected, rel=1e-6)


def test_half_of_the_sample_are_texts_of_its_images():
    image_of = torch.arange(1000) // 10
    problem = make_problem(torch.eye(100), torch.eye(100)[image_of], image_of, DOT)
    scorer = Off(problem, torch.zeros(100, 1000, dtype=torch.float64))
    measured(problem, scorer)
    ((rows, columns),) = scorer.asked
    assert (len(rows), len(columns)) == (64, 512)
    assert set(image_of[columns[:256]].tolist()) <= set(rows.tolist())


def test_the_limits_of_a_query_are_its_threshold_and_the_bound():
    images, texts = torch.tensor([[4.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, -8.0]])
    problem = make_problem(images, texts, torch.tensor([0, 1, 1]), DOT)
    of_all, widest = limits(problem, Tiles(problem, image_rows=1, text_rows=2), lambda _: 0.0)
    assert of_all.low_i.tolist() == [4 * (1 - 2 * EPS), 4 * (1 - 2 * EPS), 0]  # float32 rounds limits, too
    assert of_all.high_i.tolist() == [4 * (1 + 2 * EPS), 4 * (1 + 2 * EPS), 0]
    assert of_all.low_t.tolist() == [4 * (1 - 2 * EPS), 4 * (1 - 2 * EPS), -16 * (1 + 2 * EPS), 0, 0]
    assert of_all.tolerance.tolist() == [4 * 8 * EPS * (1 + 2 * EPS), 2 * 8 * EPS * (1 + 2 * EPS), 0]
    assert widest == 0
    of_all, widest = limits(problem, Tiles(problem, image_rows=1, text_rows=2), lambda _: 0.125)
    assert of_all.tolerance.tolist() == pytest.approx([0.125 * 4 * 8, 0.125 * 2 * 8, 0], rel=1e-5)  # longest text: 8
    assert widest == 0.125 * 4 * 8
    tile = of_all.tile(slice(1, 2), slice(2, 3), 1, 2)
    assert [x.tolist() for x in tile[1:]] == [
        of_all[k][of_tile].tolist()
        for k, of_tile in zip(range(1, 5), 2 * [slice(1, 2)] + 2 * [slice(2, 4)], strict=True)
    ]


class Launches(TorchDispatchMode):
    """Names of the operations that run, without views."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func._schema.name.endswith(("::view", "::slice", "::t", "::permute")):
            self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def test_a_tile_is_few_kernels(monkeypatch):
    """Three products, the comparison, and five that store the pairs it leaves undecided."""
    images, texts, image_of = levels(32, 64, d=8)
    problem = make_problem(images, texts, image_of, MultiLevel())
    tiles = Tiles(problem, torch.bfloat16, True, 32, 64)
    operands = tiles.images(slice(0, 32), 32), tiles.texts(slice(0, 64), 64)
    of_all = limits(problem, tiles, tiles.unit_error)[0].tile(slice(0, 32), slice(0, 64), 32, 64)
    whole = compare(operands[0], tiles.products(*operands), tuple(tiles.plans.values()), of_all)
    monkeypatch.setattr("cran_bench.ranking.tiles.compiled_compare", lambda: lambda *_: whole)
    memory = filtering.Undecided(*(torch.empty(999, dtype=x) for x in (torch.int64, torch.float32, torch.uint8)))
    with Launches() as launches:
        counts = tiles.compare(*operands, of_all, 7, memory)
    read = "_local_scalar_dense"  # the number of pairs, on a CPU
    assert launches.names == [*3 * ["mm"], "count_nonzero", read, "nonzero_static", "add", *2 * ["index_select"]]
    number = int(counts.number)
    assert memory.places[:number].tolist() == (7 + whole[3].flatten().nonzero().flatten()).tolist()
    assert memory.codes[:number].tolist() == whole[3][whole[3] > 0].tolist()


def test_a_score_within_the_tolerance_of_a_limit_is_undecided():
    """Scores from 0 to 4, of five images and one text; the tolerance is one half, and the limits are 1 to 2."""
    level = ImageLevel(torch.empty(0), None, None, torch.ones(5, 1))
    low, high = torch.ones(5), torch.full((5,), 2.0)
    limit = Limits(torch.full((5,), 0.5), low, high, torch.tensor([-9.0]), torch.tensor([-9.0]))
    products = torch.tensor([0.4, 0.5, 1.5, 2.5, 2.6])[None, :, None]
    of_images, of_texts, _, codes = compare([level], [products], (LevelPlan(None, 1, 1),), limit)
    assert codes.flatten().tolist() == [0, 1, 1, 1, 0] and of_images.tolist() == [0, 0, 0, 0, 1]
    assert of_texts.tolist() == [5]


def near_one(n=20):
    """Image k and text k score k + 1; the last but one image scores the last text as high as its own; all else is 0."""
    images = torch.diag(torch.arange(1.0, n + 1))
    texts = torch.eye(n)
    texts[n - 1, n - 2] = 1
    return images, texts, torch.arange(n)


def test_a_record_says_how_a_ranking_was_counted():
    images, texts, image_of = near_one()
    ranks = rank(images, texts, image_of, DOT, backend=filtering_by(torch.float32, "proven", 20, 20))
    assert ranks.i2t.tied.tolist() == [0] * 18 + [1, 0] and not ranks.t2i.tied.any()
    widest = float32_error(20, 1) * 20 * 2**0.5  # by the longest image and text
    assert ranks.kernel == KernelInfo("torch", "float32", "proven", pytest.approx(widest), rescored=1, error=0.0)
    images = images / 64  # below one
    ranks = rank(images, texts, image_of, DOT, backend=filtering_by(torch.bfloat16, "proven", 20, 20))
    assert ranks.i2t.tied.tolist() == [0] * 18 + [1, 0] and ranks.kernel.rescored == 1
    ranks = rank(images, texts, image_of, DOT, backend="reference")
    assert ranks.kernel == KernelInfo("reference", "float64", "exact", tolerance=0.0, rescored=0, error=0.0)


# the fused kernel, in Triton's interpreter -------------------------------------------------------------------------


@settings(deadline=None, max_examples=10)
@given(problems(), st.sampled_from(["measured", "proven"]))
def test_the_fused_kernel_counts_as_the_reference(problem, bound):
    pytest.importorskip("triton")
    from cran_bench.ranking.triton import Fused

    images, texts, image_of, similarity = problem
    expected = rank(images, texts, image_of, similarity, backend="reference").arrays()
    how = Filtering(partial(Fused, image_rows=9, text_rows=17), bound)
    found = rank(images, texts, image_of, similarity, backend=how)
    for key, value in expected.items():
        assert np.array_equal(found.arrays()[key], value), key


def test_the_reference_counts_where_more_pairs_are_open_than_the_fused_kernel_has_room_for():
    pytest.importorskip("triton")
    images = torch.ones(70, 3)
    ranks = rank(images, images, torch.arange(70), DOT, backend="triton")
    assert ranks.kernel.name == "triton" and ranks.t2i.tied.tolist() == [69] * 70


AHEAD_OF_TIME = """
import re, subprocess, tempfile
from pathlib import Path
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cran_bench.embeddings import region_pairs
from cran_bench.ranking.triton import BI, BT, WARPS, compare_tile

tools = Path(triton.backends.nvidia.__file__).parent / "bin"
names = compare_tile.arg_names
members = [(None, 1, 1, False, False), (None, 5, 3, False, True)]
members.append((tuple((j, 5 + k) for j, k in region_pairs(5).tolist()), 20, 3, True, True))
sizes = {f"{name}{k}": value for k, level in enumerate(members)
         for name, value in zip(("PAIRS", "M", "TOP", "SCALED", "MASKED"), level)} | {"BI": BI, "BT": BT}
kinds = dict.fromkeys(("counts_i", "counts_t", "number"), "*i32") | {"places": "*i64", "codes": "*u8", "base": "i64"}
kinds |= dict.fromkeys(("room", "I", "T"), "i32") | dict.fromkeys(sizes, "constexpr")
kinds |= {f"{name}{k}": kind for k in range(3) for name, kind in (("p", "*fp16"), ("e", "*u8"))}
signature = {name: kinds.get(name, "*fp32") for name in names}
aligned = [k for k, name in enumerate(names) if signature[name][0] == "*" and name != "number" or name in ("I", "T")]
source = ASTSource(compare_tile, signature, {(names.index(k),): v for k, v in sizes.items()},
                   {(k,): [["tt.divisibility", 16]] for k in aligned})
kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": WARPS})
with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
    Path(file.name).write_bytes(kernel.asm["cubin"])
    usage = subprocess.run([tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True).stdout
print(*re.search(r"REG:(\\d+) STACK:(\\d+) SHARED:\\d+ LOCAL:(\\d+)", usage).groups(), kernel.metadata.shared)
"""


def test_the_kernel_spills_no_registers_on_a_gpu():
    """Compiled ahead of time for compute capability 9.0, with masks: all is kept in registers, and two programs fit."""
    nvidia = pytest.importorskip("triton.backends.nvidia")
    if not (Path(nvidia.__file__).parent / "bin" / "cuobjdump").exists():
        pytest.skip("this Triton contains no cuobjdump to read a compiled kernel with")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    call = [sys.executable, "-c", AHEAD_OF_TIME]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    registers, stack, local, shared = map(int, done.stdout.split())
    assert stack == local == 0
    assert registers * 32 * 8 * 2 <= 65536 and shared <= 113 << 10


def test_without_a_gpu_the_fused_kernel_has_to_be_wanted(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(BadInput, match="the backend triton needs a GPU: use --backend torch"):
        rank(torch.eye(2), torch.eye(2), torch.arange(2), DOT, backend="triton")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"the backend triton needs the package triton: install .* extra 'triton'"):
        rank(torch.eye(2), torch.eye(2), torch.arange(2), DOT, backend="triton")


# choice -----------------------------------------------------------------------------------------------------------


def posed(n=4, d=8, scale=1.0):
    x = scale * torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    return make_problem(Levels(x), Levels(x), torch.arange(n), DOT)


def test_a_small_problem_is_counted_in_float64():
    assert isinstance(choose(posed()), Reference)
    assert isinstance(choose(posed(), "torch"), Filtering)
    assert isinstance(choose(posed(), "reference"), Reference)


def test_a_large_problem_is_screened(monkeypatch):
    monkeypatch.setattr(backends, "SMALL", 10)
    assert isinstance(choose(posed()), Filtering)
    ranks = rank(torch.eye(4), torch.eye(4), torch.arange(4), DOT)
    assert (ranks.kernel.name, ranks.kernel.dtype, ranks.kernel.bound) == ("torch", "float32", "measured")


@pytest.mark.parametrize(
    ("scale", "name"), [(1e12, "reference"), (1e8, "torch"), (1e-8, "torch"), (1e-20, "reference")]
)
def test_what_float32_does_not_hold_is_counted_in_float64(scale, name):
    x = scale * torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    x[4] = 0  # holds in any precision
    assert rank(x, x, torch.arange(9), DOT, backend="torch").kernel.name == name


def test_the_pairs_of_all_folds_and_their_operations():
    images, texts, image_of = levels(6, 12, d=8, regions=2)
    problem = make_problem(images, texts, image_of, MultiLevel(), folds=3)
    assert problem.pairs == 3 * 2 * 4  # in each fold two images and four texts
    assert problem.flop == 2 * problem.pairs * (8 + 2 * 8 + (2 + 2) * 8)  # the relations are factored


@pytest.mark.parametrize(
    ("device", "dtype", "regions", "rows", "texts", "size"),
    [
        ("cpu", torch.float32, 0, 1000, 1984, 2**23),
        ("cpu", torch.float32, 5, 250, 512, 2**23),
        ("cuda", torch.float32, 5, 5000, 3200, 2**30),
        ("cuda", torch.float16, 5, 5000, 6400, 2**30),
        ("cuda", torch.float16, 21, 5000, 1600, 2**30),
    ],
)
def test_the_products_of_a_tile_fit_the_caches_of_a_cpu_and_fill_a_gpu(
    device, dtype, regions, rows, texts, size, monkeypatch
):
    images, captions, image_of = levels(6, 12, d=8, regions=max(2, regions))
    images, captions = (images, captions) if regions else (Levels(images.globals), Levels(captions.globals))
    problem = make_problem(images, captions, image_of, MultiLevel())
    monkeypatch.setattr(Problem, "device", SimpleNamespace(type=device))
    tiles = tiles_for(dataclasses.replace(problem, folds=((slice(0, 5000), slice(0, 25600)),)), dtype)
    assert (tiles.image_rows, tiles.text_rows) == (rows, texts)
    vectors = 1 + 3 * regions  # the global one, regions, and both parts of factored relations
    assert 0.9 * size < dtype.itemsize * rows * texts * vectors <= 1.01 * size


@pytest.mark.parametrize(("device", "pairs"), [("cpu", 2_000_000_000), ("cuda", 100_000_000)])
@pytest.mark.parametrize("regions", [64, 65])
def test_tiles_are_compiled_for_many_pairs_of_few_members(device, pairs, regions, monkeypatch):
    images, texts, image_of = levels(2, 2, d=2, regions=regions)
    problem = make_problem(Levels(regions=images.regions), Levels(regions=texts.regions), image_of, MultiLevel())
    monkeypatch.setattr(Problem, "device", SimpleNamespace(type=device))
    for more in (0, 1):
        monkeypatch.setattr(Problem, "pairs", pairs + more)
        assert tiles_for(problem, torch.float32).is_compiled == (more and regions == 64)


@pytest.mark.parametrize("name", sorted(BACKENDS))
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_a_direction_counts_whatever_its_length(name, scale):
    draw = torch.Generator().manual_seed(0)
    images, texts = torch.randn(30, 16, generator=draw), torch.randn(30, 16, generator=draw)
    expected = rank(images, texts, torch.arange(30), COSINE, backend="reference")
    texts[7] *= scale
    found = rank(images, texts, torch.arange(30), COSINE, backend=BACKENDS[name])
    assert found.t2i.better.tolist() == expected.t2i.better.tolist()


def test_the_proven_bound_is_of_what_is_rounded():
    """Unit vectors of these are rounded without error; they themselves lie halfway between two numbers."""
    draw = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (4096,), generator=draw) * 2.0 - 1
    first = (1 + 2**-8) * signs.repeat(2, 2, 1)
    texts = signs.repeat(2, 1)
    texts[0, :14] *= -1
    texts[1, 20:32] *= -1
    images = Levels(relations=Relations(first, torch.zeros_like(first)))
    sides = images, Levels(relations=texts), torch.arange(2), MultiLevel(cosine=True, top=2)
    found = rank(*sides, backend=filtering_by(torch.bfloat16, "proven"))
    expected = rank(*sides, backend="reference")
    for key, value in expected.arrays().items():
        assert np.array_equal(found.arrays()[key], value), key


@pytest.mark.parametrize("setting", ["high", "medium"])
def test_settings_of_the_user_do_not_matter_and_stay(setting):
    images, texts, image_of = levels(40, 90, noise=3.0)
    expected = rank(images, texts, image_of, MultiLevel(), backend="reference")
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(setting)
        with torch.autocast("cpu", torch.bfloat16):
            found = rank(images, texts, image_of, MultiLevel(), backend=filtering_by(torch.float32, "proven"))
        assert torch.get_float32_matmul_precision() == setting
    finally:
        torch.set_float32_matmul_precision(before)
    assert np.array_equal(found.t2i.better, expected.t2i.better)


@pytest.mark.parametrize(
    ("float32", "bfloat16", "float16", "best"),
    [
        (3.0, None, None, "float32"),
        (3.0, 2.1, None, "float32"),  # less than 1.5 times as fast
        (3.0, 1.9, None, "bfloat16"),
        (3.0, 1.0, 1.1, "float16"),  # as fast, and more precise
        (3.0, 1.0, 1.2, "bfloat16"),
        (3.0, 2.1, 1.9, "float16"),
    ],
)
def test_16_bits_only_where_they_are_faster(float32, bfloat16, float16, best, monkeypatch):
    times = {name: time for name, time in (("float32", float32), ("float16", float16), ("bfloat16", bfloat16)) if time}
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: bfloat16 is not None)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: float16 is not None)
    readings = iter(times.values())
    monkeypatch.setattr(backends.timeit, "repeat", lambda *_, **__: [next(readings)])
    backends.fastest.cache_clear()
    assert backends.fastest(CPU) == getattr(torch, best)
    backends.fastest.cache_clear()


@pytest.mark.parametrize(
    ("capability", "best"), [((6, 1), torch.float32), ((7, 0), torch.float16), ((9, 0), torch.float16)]
)
def test_a_gpu_with_tensor_cores_screens_in_float16(capability, best, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    backends.fastest.cache_clear()
    assert backends.fastest(torch.device("cuda:0")) == best
    backends.fastest.cache_clear()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backend": "torsh"}, "there is no backend 'torsh'; did you mean 'torch'"),
        ({"bound": "provven"}, "there is no bound 'provven'; did you mean 'proven'"),
    ],
)
def test_an_unknown_backend_or_bound_is_refused(options, said):
    with pytest.raises(BadInput, match=said):
        rank(torch.eye(2), torch.eye(2), torch.arange(2), DOT, **options)


def test_relations_that_are_no_sums_are_told_of_once(capsys):
    images, texts, image_of = levels(6, 12, d=4)
    j, k = images.relations.pairs().T
    vectors = images.relations.first[:, j] + images.relations.second[:, k]
    for _ in range(2):
        rank(Levels(relations=vectors), Levels(relations=texts.relations), image_of, MultiLevel(), backend="torch")
    assert capsys.readouterr().err.count("relations are not factored") <= 1


def test_only_blocks_are_held(monkeypatch):
    """Nothing of the size of all scores is made, and no block of float64 vectors beyond what a pair needs."""
    images, texts, image_of = levels(64, 256, d=4)
    largest = []
    whole = Similarity.own_scores

    def own_scores(self, *given):
        found = whole(self, *given)
        largest.append(found.numel())
        return found

    monkeypatch.setattr(Similarity, "own_scores", own_scores)
    rank(images, texts, image_of, MultiLevel(), backend=filtering_by(torch.float32, "proven", 16, 64))
    assert max(largest) < 64 * 256 / 4
    assert rows_of(images, slice(2)).globals.shape == (2, 4)


def test_few_tiles_of_images_are_prepared_at_once(monkeypatch):
    images, texts, image_of = levels(64, 64, d=4)
    monkeypatch.setattr(filtering, "PREPARED_IMAGES", 2 * 8 * 4 * sum(x[0].numel() for x in images.tensors()))
    monkeypatch.setitem(filtering.PREPARED_TEXTS, "cpu", 2 * 16 * 4 * sum(x[0].numel() for x in texts.tensors()))
    prepared, whole = [], Tiles.texts

    def texts_of(self, rows, size=0):
        prepared.append(rows)
        return whole(self, rows, size)

    monkeypatch.setattr(Tiles, "texts", texts_of)
    rank(images, texts, image_of, MultiLevel(), backend=filtering_by(torch.float32, "proven", 8, 16))
    assert len(prepared) == 64 / 8 / 2 * 64 / 16 / 2  # eight tiles of images and four of texts, two at a time


# shards -----------------------------------------------------------------------------------------------------------
