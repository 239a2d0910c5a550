import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cran_bench.embeddings import Levels, Relations, on_device, region_pairs, rows_of
from cran_bench.errors import BadInput
from cran_bench.similarity import COSINE, DOT, MultiLevel, Similarity, mean_by_image, rounding

N, T, R, D = 5, 4, 5, 6


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def texts():
    return Levels(normal(T, D, seed=1), normal(T, D, seed=2), normal(T, D, seed=3))


@pytest.fixture
def images():
    """Three levels, the relations as explicit vectors; from all regions masked to none."""
    mask = torch.arange(R) >= torch.arange(N)[:, None]
    mask[-1] = False
    return Levels(normal(N, D, seed=4), normal(N, R, D, seed=5), normal(N, R * (R - 1), D, seed=6), mask)


@pytest.fixture(params=[False, True])
def factored(request, images):
    """Three levels, the relations factored, with and without a norm."""
    norm = normal(N, R, R, seed=9).abs() + 0.5 if request.param else None
    relations = Relations(normal(N, R, D, seed=7), normal(N, R, D, seed=8), norm)
    return Levels(images.globals, images.regions, relations, images.mask)


def close(found, expected, tolerance=1e-12):
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), np.asarray(expected), rtol=0, atol=tolerance)


# one vector -------------------------------------------------------------------------------------------------------


def test_dot_and_cosine_are_numpys():
    images, texts = normal(N, D), normal(T, D, seed=1)
    x, y = images.double().numpy(), texts.double().numpy()
    close(DOT.scores(images, texts), x @ y.T)
    lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)
    close(COSINE.scores(images, texts), x @ y.T / lengths)


def test_a_zero_vector_scores_zero():
    images, texts = normal(N, D), normal(T, D, seed=1)
    images[2], texts[1] = 0, 0
    for similarity in (COSINE, DOT):
        scores = similarity.scores(images, texts)
        assert not scores[2].any()
        assert not scores[:, 1].any()
        assert bool(scores[0, 0])


def test_a_cosine_does_not_depend_on_length():
    images, texts = normal(N, D), normal(T, D, seed=1)
    close(COSINE.scores(images * 2.0**-60, texts * 2.0**60), COSINE.scores(images, texts))


# levels -----------------------------------------------------------------------------------------------------------


def unit(vector):
    return vector / np.linalg.norm(vector)


def explicit(relations, cosine):
    """All ordered pairs of factored relations as vectors."""
    first, second = relations.first.double(), relations.second.double()
    rows = []
    for i in range(len(first)):
        row = []
        for j in range(first.shape[1]):
            for k in range(first.shape[1]):
                if j != k:
                    divisor = 1.0 if relations.norm is None or cosine else float(relations.norm[i, j, k])
                    row.append((first[i, j] + second[i, k]) / divisor)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def by_loops(images, texts, similarity):
    """Eq. 11 read literally, for explicit relations."""
    length = unit if similarity.cosine else np.asarray
    scores = np.zeros((N, T))
    for i in range(N):
        exists = np.ones(R, dtype=bool) if images.mask is None else images.mask[i].numpy()
        pairs = [exists[j] and exists[k] for j in range(R) for k in range(R) if j != k]
        for t in range(T):
            if images.globals is not None:
                x, y = images.globals[i].double().numpy(), texts.globals[t].double().numpy()
                scores[i, t] += similarity.weights[0] * length(x) @ length(y)
            for weight, vectors, text, valid in (
                (similarity.weights[1], images.regions, texts.regions, exists),
                (similarity.weights[2], images.relations, texts.relations, pairs),
            ):
                if vectors is None:
                    continue
                y = length(text[t].double().numpy())
                found = [length(v) @ y for v, there in zip(vectors[i].double().numpy(), valid, strict=True) if there]
                best = sorted(found, reverse=True)[: similarity.top]
                scores[i, t] += weight * np.mean(best) if best else 0.0
    return scores


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("top", [1, 3, 5, 100])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 0.0), (0.0, 0.0, 3.0)])
def test_multi_level_against_loops(images, texts, cosine, top, masked, weights):
    similarity = MultiLevel(cosine=cosine, top=top, weights=weights)
    if not masked:
        images = Levels(images.globals, images.regions, images.relations)
    close(similarity.scores(images, texts), by_loops(images, texts, similarity))


@pytest.mark.parametrize("missing", ["globals", "regions", "relations"])
def test_a_level_left_out_adds_nothing(images, texts, missing):
    images = Levels(**{**vars(images), missing: None})
    texts = Levels(**{**vars(texts), missing: None})
    similarity = MultiLevel()
    similarity.check(images, texts)
    close(similarity.scores(images, texts), by_loops(images, texts, similarity))


def test_an_image_with_one_region_has_no_relation(images, texts):
    mask = torch.zeros(N, R, dtype=torch.bool)
    mask[:, 3] = True
    alone = Levels(relations=images.relations, mask=mask)
    assert not MultiLevel().scores(alone, Levels(relations=texts.relations)).any()


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_factored_relations_are_the_explicit_ones(factored, texts, cosine, masked):
    similarity = MultiLevel(cosine=cosine)
    mask = factored.mask if masked else None
    vectors = Levels(factored.globals, factored.regions, explicit(factored.relations, cosine), mask)
    factored = Levels(factored.globals, factored.regions, factored.relations, mask)
    close(similarity.scores(factored, texts), similarity.scores(vectors, texts), 1e-10)
    close(similarity.scores(factored, texts), by_loops(vectors, texts, similarity), 1e-10)
    one_each = rows_of(texts, torch.arange(N) % T)
    close(similarity.own_scores(factored, one_each), similarity.own_scores(vectors, one_each), 1e-10)


@pytest.mark.parametrize("cosine", [False, True])
def test_the_order_of_regions_does_not_matter(factored, texts, cosine):
    order = torch.tensor([3, 0, 4, 1, 2])
    relations = factored.relations
    norm = None if relations.norm is None else relations.norm[:, order][:, :, order]
    moved = Levels(
        factored.globals,
        factored.regions[:, order],
        Relations(relations.first[:, order], relations.second[:, order], norm),
        factored.mask[:, order],
    )
    similarity = MultiLevel(cosine=cosine)
    close(similarity.scores(moved, texts), similarity.scores(factored, texts))


def test_relations_know_which_region_comes_first(texts):
    first, second = normal(N, R, D, seed=7), normal(N, R, D, seed=8)
    texts = Levels(relations=texts.relations)
    one, other = (Levels(relations=Relations(a, b)) for a, b in ((first, second), (second, first)))
    close(MultiLevel().scores(one, texts), MultiLevel().scores(other, texts))  # all pairs j != k: the set is the same
    one, other = (
        Levels(relations=Relations(a, b, normal(N, R, R).abs() + 1)) for a, b in ((first, second), (second, first))
    )
    assert not torch.allclose(MultiLevel().scores(one, texts), MultiLevel().scores(other, texts))


@pytest.mark.parametrize("similarity", [COSINE, DOT, MultiLevel(), MultiLevel(cosine=True, top=2)])
def test_paired_is_the_diagonal(similarity, factored, texts):
    rows = torch.arange(N) % T
    if not isinstance(similarity, MultiLevel):
        factored, texts = factored.globals, texts.globals
    expected = similarity.scores(factored, texts)[torch.arange(N), rows]
    close(similarity.own_scores(factored, rows_of(texts, rows))[:, 0], expected)


def test_blocks_are_parts_of_the_whole(factored, texts):
    whole = MultiLevel().scores(factored, texts)
    rows = torch.tensor([4, 0, 4])
    close(MultiLevel().scores(rows_of(factored, rows), rows_of(texts, slice(1, 3))), whole[rows, 1:3])
    close(MultiLevel().scores(on_device(factored, torch.device("cpu")), texts), whole)
    assert (len(factored), len(texts)) == (N, T)


def test_region_pairs_are_row_major():
    assert region_pairs(3).tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    assert region_pairs(5).shape == (20, 2)
    assert region_pairs(1).shape == (0, 2)


# rounding ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(
        [COSINE, DOT, MultiLevel(), MultiLevel(cosine=True), MultiLevel(weights=(1e6, 1e6, 1e6)), MultiLevel(top=1)]
    ),
    st.sampled_from([1, 3, 17, 400]),
    st.floats(1e-6, 1e6),
    st.integers(0, 10**6),
)
def test_two_ways_to_one_score_differ_by_less_than_the_rounding(similarity, dim, scale, seed):
    images, texts = scale * normal(12, dim, seed=seed), normal(12, dim, seed=seed + 1)
    if isinstance(similarity, MultiLevel):
        parts = normal(12, 4, dim, seed=seed + 2)
        norm = normal(12, 4, 4, seed=seed + 3).abs() + 0.1
        images = Levels(images, scale * parts, Relations(parts, parts.flip(0), None if similarity.cosine else norm))
        texts = Levels(texts, texts.flip(0), texts.flip(1))
    difference = (similarity.own_scores(images, texts)[:, 0] - similarity.scores(images, texts).diagonal()).abs()
    rows = torch.arange(12)
    bound = similarity.reach(images, texts).of_pairs(rows, rows, rounding)
    assert bool((difference <= bound).all())
    assert torch.equal(similarity.reach(images, texts).of_all(rows, rows, rounding).diagonal(), bound)


@pytest.mark.parametrize("cosine", [False, True])
def test_the_reach_of_relations_is_that_of_the_longest_pair_against_loops(factored, texts, cosine):
    relations, mask = factored.relations, factored.mask
    first, second = relations.first.double().numpy(), relations.second.double().numpy()
    expected = np.zeros(N)
    for i in range(N):
        for j in range(R):
            for k in range(R):
                if j != k and mask[i, j] and mask[i, k]:
                    divisor = 1.0 if relations.norm is None else float(relations.norm[i, j, k])
                    divisor = np.linalg.norm(first[i, j] + second[i, k]) if cosine else divisor
                    together = np.linalg.norm(first[i, j]) + np.linalg.norm(second[i, k])
                    expected[i] = max(expected[i], together / divisor)
    sides = Levels(relations=relations, mask=mask), Levels(relations=texts.relations)
    reach = MultiLevel(cosine).reach(*sides)
    assert reach.images.tolist() == [pytest.approx(expected.tolist())]
    ones = [1.0] * T if cosine else texts.relations.norm(dim=1).tolist()
    assert reach.texts.tolist() == [pytest.approx(ones)]


def widest(similarity, images, texts):
    return similarity.reach(images, texts).of_all(slice(None), slice(None), rounding).max()


def test_the_rounding_is_far_below_what_float32_can_tell_apart():
    images, texts = normal(50, 1024), normal(50, 1024, seed=1)
    assert rounding(1024) < 1e-11
    gap = COSINE.scores(images, texts).flatten().sort().values.diff().min()
    assert rounding(1024) < float(gap)


def test_masked_pairs_do_not_widen_the_rounding():
    """A pair that does not exist may have no length either."""
    parts, norm, mask = normal(6, 3, 8), torch.ones(6, 3, 3), torch.ones(6, 3, dtype=torch.bool)
    norm[2, 0, 1], mask[2, 1] = 0, False
    images, texts = Levels(relations=Relations(parts, parts, norm), mask=mask), Levels(relations=normal(6, 8, seed=1))
    assert bool(torch.isfinite(MultiLevel().scores(images, texts)).all())
    assert float(widest(MultiLevel(), images, texts)) < 1e-11


def test_one_region_has_no_pair_to_round():
    parts = normal(6, 1, 8)
    images, texts = Levels(relations=Relations(parts, parts, torch.ones(6, 1, 1))), Levels(relations=normal(6, 8))
    assert widest(MultiLevel(), images, texts) == 0
    assert not MultiLevel().scores(images, texts).any()


# averages over captions -------------------------------------------------------------------------------------------


def test_mean_by_image():
    texts, image_of = normal(6, D), torch.tensor([0, 1, 1, 1, 3, 3])
    plain = mean_by_image(texts, image_of, 4, DOT)
    assert plain.dtype == torch.float32
    expected = torch.stack([texts[0], texts[1:4].mean(0), torch.zeros(D), texts[4:].mean(0)])
    torch.testing.assert_close(plain, expected)
    directions = mean_by_image(texts, image_of, 4, COSINE)
    torch.testing.assert_close(directions[1], torch.nn.functional.normalize(texts[1:4]).mean(0))


def test_mean_by_image_works_on_every_level(texts):
    averaged = mean_by_image(texts, torch.tensor([0, 0, 1, 1]), 2, MultiLevel())
    for name in ("globals", "regions", "relations"):
        torch.testing.assert_close(getattr(averaged, name)[1], getattr(texts, name)[2:].mean(0))


# refusals ---------------------------------------------------------------------------------------------------------


def test_levels_needs_one_level():
    with pytest.raises(BadInput, match="at least one of globals, regions and relations"):
        Levels(mask=torch.ones(2, 5, dtype=torch.bool))


def test_top_is_positive():
    with pytest.raises(BadInput, match="top is a number of regions and must be at least 1, not 0"):
        MultiLevel(top=0)


@pytest.mark.parametrize("name", ["globals", "regions", "relations"])
def test_a_level_on_one_side_only_is_refused(factored, texts, name):
    images = Levels(**{**vars(factored), name: None})
    with pytest.raises(BadInput, match=f"the {name} level is given for texts only"):
        MultiLevel().check(images, texts)
    with pytest.raises(BadInput, match=f"the {name} level is given for images only"):
        MultiLevel().check(factored, Levels(**{**vars(texts), name: None}))


@pytest.mark.parametrize("name", ["globals", "regions", "relations"])
def test_other_dimensions_on_a_level_are_refused(factored, texts, name):
    with pytest.raises(BadInput, match=rf"on the {name} level images have dimension 6 and texts 5"):
        MultiLevel().check(factored, Levels(**{**vars(texts), name: getattr(texts, name)[:, :5]}))


def test_embeddings_of_several_or_odd_dtypes_are_refused(factored, texts):
    doubled = Levels(**{**vars(texts), "regions": texts.regions.double()})
    with pytest.raises(BadInput, match="the embeddings mix float32 and float64; use one dtype for images and texts"):
        MultiLevel().check(factored, doubled)
    with pytest.raises(BadInput, match="embeddings have dtype float16; give float32"):
        COSINE.check(torch.ones(2, 2).half(), torch.ones(2, 2).half())


def test_levels_that_do_not_fit_each_other_are_refused(factored, texts):
    with pytest.raises(BadInput, match="levels of images have 4 and 5 rows; give the same number on each"):
        MultiLevel().check(Levels(**{**vars(factored), "regions": factored.regions[:4]}), texts)
    with pytest.raises(BadInput, match="the mask has dtype int64; give bool, True where a region exists"):
        MultiLevel().check(Levels(**{**vars(factored), "mask": factored.mask.long()}), texts)
    with pytest.raises(BadInput, match="embeddings have dimension 0"):
        DOT.check(torch.ones(3, 0), torch.ones(3, 0))
    with pytest.raises(BadInput, match="embeddings have dimension 0"):
        MultiLevel().check(Levels(**{**vars(factored), "regions": factored.regions[..., :0]}), texts)


def test_embeddings_on_two_devices_are_refused():
    with pytest.raises(BadInput, match=r"embeddings mix cpu and meta; use one device"):
        COSINE.check(torch.ones(2, 2), torch.ones(2, 2, device="meta"))


@pytest.mark.parametrize("similarity", [COSINE, DOT, Similarity(cosine=True)])
@pytest.mark.parametrize("name", ["regions", "relations"])
def test_one_vector_similarities_refuse_other_levels(factored, texts, similarity, name):
    images, texts = (Levels(**{name: getattr(side, name)}) for side in (factored, texts))
    with pytest.raises(BadInput, match=f"the {name} level needs similarity = MultiLevel"):
        similarity.check(images, texts)


@pytest.mark.parametrize(("kind", "count"), [("ordered", 6), ("unordered", 3), ("all", 9)])
def test_pairs_of_every_kind_are_scored_and_masked(kind, count):
    random = torch.Generator().manual_seed(0)
    first, second = (torch.randn(4, 3, 8, generator=random) for _ in range(2))
    texts, mask = torch.randn(5, 8, generator=random), torch.tensor([[True, True, False]] * 4)
    j, k = region_pairs(3, kind).T
    assert len(j) == count
    plain = first[:, j] + second[:, k]
    exists = mask[0][j] & mask[0][k]
    dots = (plain.double() @ texts.double().T)[:, exists]
    expected = dots.topk(min(2, dots.shape[1]), dim=1).values.mean(dim=1)
    eq11 = MultiLevel(top=2)
    for relations in (Relations(first, second, kind=kind), plain):
        found = eq11.scores(Levels(relations=relations, mask=mask), Levels(relations=texts))
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_a_number_of_relations_that_fits_no_kind_of_pairs_is_refused():
    images = Levels(relations=torch.randn(2, 4, 8), mask=torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(BadInput, match="expected one relation for each pair of 3 regions, got 4"):
        MultiLevel(top=1).scores(images, Levels(relations=torch.randn(2, 8)))


def test_scores_as_given_are_the_same_with_gradients():
    random = torch.Generator().manual_seed(0)
    images = Levels(
        globals=torch.randn(3, 4, generator=random, requires_grad=True),
        regions=torch.randn(3, 5, 4, generator=random),
        relations=Relations(torch.randn(3, 5, 4, generator=random), torch.randn(3, 5, 4, generator=random)),
    )
    texts = Levels(*(torch.randn(2, 4, generator=random) for _ in range(3)))
    eq11 = MultiLevel(top=3)
    found = eq11.scores_as_given(images, texts)
    assert found.dtype == torch.float32 and found.requires_grad
    torch.testing.assert_close(found.double(), eq11.scores(images, texts), atol=1e-5, rtol=1e-5)


def test_members_are_what_the_means_are_taken_of():
    random = torch.Generator().manual_seed(0)
    images = Levels(regions=torch.randn(3, 5, 4, generator=random))
    texts = Levels(regions=torch.randn(2, 4, generator=random))
    eq11 = MultiLevel(top=3)
    members, exists = eq11.members(images, texts)["regions"]
    assert exists is None and set(eq11.members(images, texts)) == {"regions"}
    torch.testing.assert_close(members.topk(3, dim=1).values.mean(dim=1), eq11.scores(images, texts))
