"""MACC's two steps by brute force, its limits, and what it owes to KCCA."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from cran_bench.methods.kcca import KCCA
from cran_bench.methods.macc import MACC, aggregate, complete
from cran_bench.ranking.rank import rank
from cran_bench.registry import METHODS
from cran_bench.running.fits import FitStore
from cran_bench.similarity import COSINE

SMALL = {
    "codewords": (4,),
    "assignments": (1,),
    "signed_sqrt": (False,),
    "neighbours": (3,),
    "completion_image": (0.5,),
    "completion_text": (0.5,),
    "kcca_dim": 8,
}


def unit(n, d=5, seed=0):
    return normalize(torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d))), dim=1)


@pytest.mark.parametrize("assignments", [1, 2])
@pytest.mark.parametrize("signed_sqrt", [False, True])
def test_aggregation_is_the_sum_of_residuals_by_codeword(assignments, signed_sqrt):
    own, other, book = unit(6), unit(6, seed=1), unit(4, seed=2)
    found = aggregate([(own, 1.0), (other, 0.7)], book, assignments, signed_sqrt)
    for row in range(6):
        blocks = np.zeros((4, 5))
        for x, weight in ((own[row], 1.0), (other[row], 0.7)):
            distances = [float((x - c).norm()) for c in book]
            for i in np.argsort(distances)[:assignments]:
                blocks[i] += weight * (x - book[i]).numpy()
        flat = blocks.ravel()
        flat = np.sign(flat) * np.sqrt(abs(flat)) if signed_sqrt else flat
        np.testing.assert_allclose(found[row], flat / np.linalg.norm(flat), atol=1e-12)


def test_one_codeword_at_the_origin_is_the_sum_of_the_points():
    own, other = unit(6), unit(6, seed=1)
    found = aggregate([(own, 1.0), (other, 1.0)], torch.zeros(1, 5, dtype=torch.float64))
    torch.testing.assert_close(found, normalize(own + other, dim=1))
    alone = aggregate([(own, 1.0)], torch.zeros(1, 5, dtype=torch.float64))
    torch.testing.assert_close(alone, own)


def test_a_point_on_its_codeword_leaves_nothing():
    book = unit(4, seed=2)
    assert not aggregate([(book[2:3], 1.0)], book).any()


def test_the_order_of_codewords_does_not_count():
    own, other, book = unit(9), unit(9, seed=1), unit(4, seed=2)
    order = torch.tensor([2, 0, 3, 1])
    one, two = (aggregate([(own, 1.0), (other, 0.5)], c) for c in (book, book[order]))
    torch.testing.assert_close(one @ one.T, two @ two.T)
    torch.testing.assert_close(one.view(9, 4, 5)[:, order].flatten(1), two)


def test_completion_is_the_mean_of_what_neighbours_are_paired_with(monkeypatch):
    monkeypatch.setattr("cran_bench.methods.macc.BLOCK", 4)
    points, known, paired = unit(10), unit(30, seed=1), unit(30, seed=2)
    found = complete(points, known, paired, 3)
    for row, point in enumerate(points):
        near = np.argsort(-(known @ point).numpy())[:3]
        expected = paired[near].mean(dim=0)
        torch.testing.assert_close(found[row], expected / expected.norm())
    torch.testing.assert_close(complete(known[4:5], known, paired, 1), paired[4:5])
    assert complete(points, known, paired, 99).shape == (10, 5)


@pytest.fixture
def store(tiny, tmp_path):
    return FitStore(tmp_path, {}, tiny.train, tiny.val, torch.device("cpu"))


def test_the_space_is_kccas_own_fit(tiny, store, comes_back, tmp_path):
    kcca = store.fitted(METHODS.configure("kcca").build(), 0, "kcca")
    macc = comes_back("macc")
    assert kcca.fingerprint in macc.costs and len(list(tmp_path.glob("kcca-*.safetensors"))) == 1
    torch.testing.assert_close(macc.part.kcca.embed_texts(tiny.test), kcca.part.embed_texts(tiny.test), rtol=0, atol=0)


def test_only_training_data_completes_a_document(tiny, store):
    macc = store.fitted(MACC(**SMALL), 0, "macc").part
    kcca = store.fitted(KCCA(), 0, "kcca").part
    images = normalize(kcca.embed_images(tiny.train)[:, :8], dim=1)
    torch.testing.assert_close(macc.known.images, images)
    assert len(macc.known.images) == len(tiny.train) and len(macc.known.texts) == len(tiny.train.texts)
    own = normalize(kcca.embed_texts(tiny.train)[:, :8], dim=1)
    mean = torch.stack([own[tiny.train.image_of == k].mean(dim=0) for k in range(len(tiny.train))])
    torch.testing.assert_close(macc.known.texts_of_images, mean, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("criterion", ["t2i", "both"])
def test_of_several_weights_validation_chooses_by_its_criterion(tiny, store, criterion):
    def recalls(**options):
        macc = store.fitted(MACC(**{**SMALL, "criterion": criterion, **options}), 0, "macc").part
        sides = macc.embed_images(tiny.val), macc.embed_texts(tiny.val)
        m = rank(*sides, tiny.val.image_of, COSINE).metrics()
        return m.rsum if criterion == "both" else m.t2i_r1 + m.t2i_r5 + m.t2i_r10

    weights = (0.0, 0.5, 4.0)
    alone = [recalls(completion_image=(a,), completion_text=(b,)) for a, b in product(weights, weights)]
    assert len(set(alone)) > 1
    assert recalls(completion_image=weights, completion_text=weights) == pytest.approx(max(alone))


def test_a_document_depends_on_no_other(tiny, store):
    macc = store.fitted(MACC(**SMALL), 0, "macc").part
    some = tiny.test.take(np.array([3, 5]))
    torch.testing.assert_close(macc.embed_images(some), macc.embed_images(tiny.test)[[3, 5]])
    rows = [k for k, owner in enumerate(tiny.test.image_of.tolist()) if owner in (3, 5)]
    torch.testing.assert_close(macc.embed_texts(some), macc.embed_texts(tiny.test)[rows])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codewords": (0,)}, "at least 1"),
        ({"completion_text": (-0.5,)}, "completion_image and completion_text are at least 0"),
        ({"assignments": (5,), "codewords": (4, 16)}, "assignments is 5, but there are 4 codewords"),
        ({"columns": 1}, "columns is at least 2"),
    ],
)
def test_fields_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        MACC(**options)


def test_more_codewords_than_points_are_as_many_as_points(tiny, store):
    points = len(tiny.train) + len(tiny.train.texts)
    macc = store.fitted(MACC(**{**SMALL, "codewords": (points + 7,)}), 0, "macc").part
    assert len(macc.codebook) <= points
