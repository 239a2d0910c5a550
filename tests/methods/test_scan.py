"""scan: its score by loops, limit cases of the attention, no trace of padding or tiles, gradients, and a fit."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize, pad

from cran_bench.embeddings import Levels
from cran_bench.methods.scan import SCAN, RegionsAndWords
from cran_bench.ranking.rank import rank

DIRECTIONS, POOLINGS = ["t2i", "i2t"], ["lse", "average"]
T2I = {"direction": "t2i", "pooling": "average"}
both = pytest.mark.parametrize("direction", DIRECTIONS)
all_four = [pytest.mark.parametrize("pooling", POOLINGS), both]


def every(test):
    """Both poolings in both directions."""
    for mark in all_four:
        test = mark(test)
    return test


def sets(count, most, dim=4, seed=0, largest=None):
    """(count, most, dim) unit vectors, of which each row has 1 to `most`, in any place; the others are zero."""
    draw = torch.Generator().manual_seed(seed)
    vectors = normalize(torch.randn(count, most, dim, generator=draw), dim=2)
    sizes = torch.randint(1, (largest or most) + 1, (count, 1), generator=draw)
    order = torch.rand(count, most, generator=draw).argsort(dim=1).argsort(dim=1)
    return vectors * (order < sizes)[:, :, None]


def by_loops(method, regions, words):
    """The score of one image and one text: regions (k, D) and words (n, D) that exist, by Eqs. 1-8."""
    v, e = (words, regions) if method.direction == "i2t" else (regions, words)  # what is attended to, what attends
    s = [[float(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)) for b in e] for a in v]
    positive = [[max(x, 0.0) for x in row] for row in s]
    z = [[x / math.sqrt(sum(y * y for y in row)) if x else 0.0 for x in row] for row in positive]
    cosines = []
    for j, asking in enumerate(e):
        weights = [math.exp(method.attention * z[i][j]) for i in range(len(v))]
        attended = sum(weight / sum(weights) * vector for weight, vector in zip(weights, v, strict=True))
        cosines.append(float(asking @ attended) / (np.linalg.norm(asking) * np.linalg.norm(attended)))
    if method.pooling == "average":
        return sum(cosines) / len(cosines)
    return math.log(sum(math.exp(method.sharpness * cosine) for cosine in cosines)) / method.sharpness


def existing(vectors):
    return [row[row.any(dim=1)].double().numpy() for row in vectors]


@every
def test_a_score_is_that_of_loops_over_regions_and_words(direction, pooling):
    method, regions, words = SCAN(direction=direction, pooling=pooling), sets(6, 5), sets(7, 6, seed=1)
    found = method.score(Levels(regions=regions), Levels(regions=words))
    assert found.dtype == torch.float32
    expected = [[by_loops(method, v, e) for e in existing(words)] for v in existing(regions)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=2e-7)
    other = replace(method, direction=DIRECTIONS[direction == "t2i"]).score(
        Levels(regions=regions), Levels(regions=words)
    )
    assert (found - other).abs().median() > 1e-3


@every
def test_padding_leaves_no_trace(direction, pooling):
    method, regions, words = SCAN(direction=direction, pooling=pooling), sets(4, 3).double(), sets(5, 4).double()
    expected = method.compare(regions, words)
    longer = pad(regions, (0, 0, 1, 2)), pad(words, (0, 0, 0, 7))
    torch.testing.assert_close(method.compare(*longer), expected, rtol=1e-13, atol=1e-13)


@every
def test_scores_do_not_depend_on_the_tile_and_the_ranks_are_those_of_the_matrix(direction, pooling):
    similarity = SCAN(direction=direction, pooling=pooling).similarity
    images, texts = Levels(regions=sets(20, 5, 32)), Levels(regions=sets(60, 9, 32, seed=1))
    whole = similarity.scores(images, texts)
    for tile in ((20, 60), (1, 3), (7, 13)):
        assert torch.equal(replace(similarity, tile=tile).scores(images, texts), whole)
    owner = torch.arange(20).repeat_interleave(3)
    better = (whole > whole[owner, torch.arange(60)]).sum(dim=0)
    assert rank(images, texts, owner, similarity).t2i.better.tolist() == better.tolist()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_one_region_and_one_word_are_compared_by_their_cosine(pooling):
    regions, words = sets(3, 1).double(), sets(4, 1, seed=1).double()
    for direction in DIRECTIONS:
        found = SCAN(direction=direction, pooling=pooling).compare(regions, words)
        torch.testing.assert_close(found, regions[:, 0] @ words[:, 0].T)
    longer = sets(4, 5, seed=2).double()
    found = SCAN(**T2I).compare(regions, longer)  # words see one region only
    expected = torch.einsum("id,tnd->itn", regions[:, 0], longer).sum(dim=2) / longer.any(dim=2).sum(dim=1)
    torch.testing.assert_close(found, expected)


def test_with_a_large_lambda_1_each_word_is_compared_with_one_region_and_with_0_with_their_mean():
    regions, words = sets(5, 4).double(), sets(6, 3, seed=1).double()
    s = torch.einsum("ikd,tnd->iktn", regions, words)
    z = s.relu() / s.relu().norm(dim=3, keepdim=True).clamp_min(1e-9)
    z[~regions.any(dim=2)] = -1.0
    nearest = s.gather(1, z.argmax(dim=1, keepdim=True))[:, 0]
    decided = z.sort(dim=1, descending=True).values
    decided = (decided[:, 0] > 0) & (decided[:, 0] - decided[:, 1] > 1e-3)  # no region, or two, would share the weight
    decided |= regions.any(dim=2).sum(dim=1)[:, None, None] == 1
    decided = (decided | ~words.any(dim=2)).all(dim=2)
    assert decided.sum() > 8
    count = words.any(dim=2).sum(dim=1)
    found = SCAN(**T2I, attention=1e5).compare(regions, words)
    torch.testing.assert_close(found[decided], (nearest.sum(dim=2) / count)[decided])
    mean = normalize(regions.sum(dim=1), dim=1)
    torch.testing.assert_close(
        SCAN(**T2I, attention=0).compare(regions, words), torch.einsum("id,tnd->itn", mean, words).sum(dim=2) / count
    )


def test_a_large_lambda_2_is_the_best_cosine_and_lse_exceeds_it_by_at_most_log_n():
    regions, words = sets(5, 4).double(), sets(6, 3, seed=1).double()
    lse = SCAN(direction="t2i", pooling="lse", sharpness=6.0)
    best = replace(lse, sharpness=1e5).compare(regions, words)
    found = lse.compare(regions, words)
    assert bool((found >= best - 1e-4).all()) and bool((found <= best + math.log(3) / 6 + 1e-4).all())
    assert bool((replace(lse, pooling="average").compare(regions, words) <= best + 1e-4).all())


@every
def test_gradients_are_those_of_finite_differences_and_finite_without_likeness(direction, pooling):
    method = SCAN(direction=direction, pooling=pooling)
    x = [y.double().requires_grad_() for y in (sets(3, 3), sets(3, 4, seed=1))]
    exist = [y.any(dim=2, keepdim=True) for y in x]
    assert not all(bool(y.all()) for y in exist)
    assert torch.autograd.gradcheck(lambda v, e: method.compare(v * exist[0], e * exist[1]), x, fast_mode=True)
    opposite = torch.ones(1, 3, 4).requires_grad_()
    method.compare(opposite, -torch.ones(2, 2, 4)).sum().backward()
    assert bool(torch.isfinite(opposite.grad).all())


# the network and fits -------------------------------------------------------------------------------------------

IDS = torch.tensor([[2, 5, 3, 7, 4, 6], [4, 3, 0, 0, 0, 0], [9, 1, 2, 2, 0, 0]])
LENGTHS = torch.tensor([6, 2, 4], dtype=torch.int32)


def test_vectors_have_unit_length_or_do_not_exist():
    torch.manual_seed(0)
    net, regions = RegionsAndWords(torch.randn(8, 3), 5, 0, 4, 0.0).eval(), torch.randn(2, 3, 5)
    exists = torch.tensor([[True, False, True], [False, False, False]])
    found = net.images(regions, exists)
    torch.testing.assert_close(found.norm(dim=2), torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]))
    torch.testing.assert_close(found[0, 2], normalize(net.F(regions[0, 2]), dim=0))
    both, whole = RegionsAndWords(torch.randn(8, 3), 5, 6, 4, 0.0).eval(), torch.randn(2, 6)
    both.F.load_state_dict(net.F.state_dict())
    torch.testing.assert_close(both.images(regions, exists, whole)[:, 1:], found)
    torch.testing.assert_close(both.images(regions, exists, whole)[:, 0], normalize(both.G(whole), dim=1))
    words = net.texts(IDS, LENGTHS)
    torch.testing.assert_close(words.norm(dim=2), (IDS != 0).float())
    torch.testing.assert_close(net.texts(pad(IDS, (0, 4)), LENGTHS)[:, :6], words)
    torch.testing.assert_close(words[0], normalize(net.gru(net.words(IDS[:1]), LENGTHS[:1])[0], dim=1))


FIT = "scan[dim=16,word_dim=16,min_count=1,batch_size=20,epochs=6,lr=0.01,dropout=0.1]"


@pytest.mark.parametrize("options", ["", "direction=t2i,attention=9,pooling=average,whole=false,"])
def test_it_learns_and_comes_back_from_the_store(tiny, comes_back, options):
    fitted = comes_back(FIT.replace("[", "[" + options))
    assert fitted.chose["rsum"] > 1.4 * 2 * 100 * (1 + 5 + 10) / len(tiny.val)
    part = fitted.part
    assert part.embed_images(tiny.test).regions.shape[1] == tiny.test.regions.shape[1] + part.whole
    long = part.embed_texts(tiny.test.asking([" ".join(["red"] * 3 * part.longest), "red", ""])).regions
    assert long.shape == (3, part.longest, 16) and long.any(dim=2).sum(dim=1).tolist() == [part.longest, 1, 1]


@both
def test_an_image_without_any_region_scores_alike_with_all_texts(direction):
    words = sets(5, 4)
    scores = SCAN(direction=direction, pooling="average").compare(torch.zeros(1, 3, words.shape[2]), words)
    assert scores.tolist() == [[0.0] * 5]


def test_texts_are_read_to_the_length_of_99_in_100_training_texts():
    lengths = torch.randperm(200) + 1
    ids = (torch.arange(200) < lengths[:, None]).int()
    method, split = SCAN(), SimpleNamespace(tokens=(ids, lengths.int()))
    method.longest = method.longest_of(split)
    assert method.longest == 198
    ids, lengths = method.tokens(split)
    assert ids.shape == (200, 198) and torch.equal(lengths, ids.sum(dim=1)) and int(lengths.max()) == 198


def test_memory_grows_with_the_vectors(tiny):
    assert SCAN(dim=1024).memory(tiny.train) > 3 * SCAN(dim=128).memory(tiny.train)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": -1.0}, "attention is at least 0, not -1"),
        ({"sharpness": 0.0}, "sharpness is above 0, not 0"),
    ],
)
def test_fields_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SCAN(**options)
