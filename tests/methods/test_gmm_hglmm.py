"""GMM+HGLMM: Fisher vectors of texts, step by step and by brute force, and what CCA takes of them."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from cran_bench.methods.gmm_hglmm import GMMHGLMM, FisherVectors
from cran_bench.running.fits import FitStore

SMALL = {"components": 3, "hglmm_iterations": 4, "gmm_iterations": 6}


@pytest.fixture
def store(tiny, tmp_path):
    return FitStore(tmp_path, {}, tiny.train, tiny.val, torch.device("cpu"))


@pytest.fixture
def fitted(store):
    """``fitted(field=value)``: a small one."""
    return lambda **fields: store.fitted(GMMHGLMM(**{**SMALL, **fields}), 0, "gmm-hglmm").part


def by_brute_force(method, split, row):
    """The Fisher vector of a text, word by word, with roots and lengths; N is the number of known words."""
    counts, vectors = split.word_counts()
    words = [k for k, count in enumerate(counts[[row]].toarray()[0]) for _ in range(int(count))]
    x = normalize(normalize(vectors[words], dim=1) @ method.fisher.matrix.T, dim=1)
    parts = []
    for name in ("gmm", "hglmm"):
        mixture, points = method.fisher.mixtures[name], x * (method.hglmm_scale if name == "hglmm" else 1)
        gamma, _ = mixture.responsibilities(points)
        first, second = np.zeros((2, *mixture.m.shape))
        for i, point in enumerate(points):
            for k in range(len(mixture.m)):
                z = ((point - mixture.m[k]) / mixture.s[k]).numpy()
                b = mixture.laplace[k].numpy()
                g = float(gamma[i, k]) / np.sqrt(len(points) * float(mixture.log_pi[k].exp()))
                first[k] += g * np.where(b, np.where(z < 0, -1, 1), z)
                second[k] += g * np.where(b, abs(z) - 1, (z**2 - 1) / np.sqrt(2))
        flat = np.concatenate([first.ravel(), second.ravel()])
        flat = np.sign(flat) * np.sqrt(abs(flat))
        parts.append(flat / np.linalg.norm(flat))
    return np.concatenate(parts)


def test_a_text_is_the_sum_over_its_words(tiny, fitted):
    method = fitted(fisher_dim=10**6)
    found = method.text_view(tiny.test)
    assert found.shape == (len(tiny.test.texts), 2 * 2 * 3 * len(method.fisher.matrix))
    for row in (0, 3, 7):
        np.testing.assert_allclose(found[row : row + 1][0], by_brute_force(method, tiny.test, row), atol=1e-4)


def test_order_and_repetition_of_a_text_do_not_count(tiny, fitted):
    method = fitted()
    rows = method.text_view(tiny.test.asking(["thing0 word1", "word1 thing0", "thing0 word1 thing0 word1", "thing0"]))[
        0:4
    ]
    torch.testing.assert_close(rows[0], rows[1])
    torch.testing.assert_close(rows[0], rows[2])
    assert not torch.allclose(rows[0], rows[3])


def test_a_text_without_a_known_word_is_zero_and_can_be_ranked(tiny, fitted):
    method = fitted()
    nothing = tiny.test.asking(["", "unheard of"])
    assert not method.text_view(nothing)[0:2].any()
    assert bool(torch.isfinite(method.embed_texts(nothing)).all())


def test_coordinates_are_drawn_equally_from_each_mixture(tiny, fitted):
    whole, some = fitted(fisher_dim=10**6), fitted(fisher_dim=41)
    rows = some.text_view(tiny.test)[0:5]
    assert rows.shape == (5, 40)
    torch.testing.assert_close(rows[:, :20].norm(dim=1), torch.ones(5))
    one = fitted(fisher_dim=40, models="hglmm")
    assert one.text_view(tiny.test).shape[1] == 40
    assert len(whole.fisher.mixtures) == 2 and list(one.fisher.mixtures) == ["hglmm"]


@pytest.mark.parametrize("transform", ["ica", "pca", "none"])
def test_transforms_keep_unit_lengths(tiny, store, transform):
    part = store.fitted(FisherVectors(**SMALL, transform=transform), 0, "fisher").part
    _, vectors = tiny.train.word_counts()
    points = part._transformed(normalize(vectors, dim=1))
    torch.testing.assert_close(points.norm(dim=1), torch.ones(len(points)))
    if transform == "pca":
        torch.testing.assert_close(part.matrix @ part.matrix.T, torch.eye(len(part.matrix)), atol=1e-5, rtol=0)
    if transform == "none":
        assert torch.equal(part.matrix, torch.eye(vectors.shape[1]))


def test_the_gmm_never_chooses_laplacians_and_the_curves_are_kept(store):
    fit = store.fitted(FisherVectors(**SMALL), 0, "fisher")
    assert not fit.part.mixtures["gmm"].laplace.any()
    curve = [point["hglmm_log_likelihood"] for point in fit.curves["fisher-vectors"] if "hglmm_log_likelihood" in point]
    assert len(curve) == 4 and curve[-1] > curve[0]


def test_the_mixtures_are_a_part_that_rows_share(store, tmp_path):
    for ridge in (1e-3, 1e-2):
        store.fitted(GMMHGLMM(**SMALL, ridge_text=(ridge,)), 0, "gmm-hglmm")
    assert len(list(tmp_path.glob("fishervectors-*.safetensors"))) == 1
    assert len(list(tmp_path.glob("gmmhglmm-*.safetensors"))) == 2


@pytest.mark.parametrize("spec", ["gmm-hglmm", "gmm-hglmm:paper", "gmm-hglmm[models=gmm,transform=pca]"])
def test_a_fit_comes_back_from_the_store(comes_back, spec):
    comes_back(spec)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 0}, "sample and components are at least 1"),
        ({"hglmm_floor": 0.0}, "hglmm_floor and gmm_floor are above 0"),
        ({"fisher_dim": 1}, "fisher_dim is at least 2"),
        ({"ridge_text": (-1.0,)}, "are not negative"),
        ({"dim": (0,)}, "dim is at least 1"),
    ],
)
def test_fields_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        GMMHGLMM(**options)


def test_fewer_words_than_components_are_said(store, capsys):
    store.fitted(FisherVectors(components=40, hglmm_iterations=2, gmm_iterations=2), 0, "fisher")
    assert "word vectors are fewer than the 40 components of the mixtures" in capsys.readouterr().err
