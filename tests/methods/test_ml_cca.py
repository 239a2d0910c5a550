"""ml-CCA: loops over all pairs, special cases that are CCA, neighbours by sorting, and measured figures."""

import numpy as np
import pytest
import torch
from labelled import Given, evaluate, fit, invented, wikipedia
from scipy import sparse

from cran_bench.methods.ml_cca import MLCCA, nearest
from cran_bench.registry import METHODS
from cran_bench.similarity import COSINE
from cran_bench.toolbox.linalg import canonical_correlations, moments

RAW = {"image": "none", "text_scaling": "none", "standardize": False}
ONE = {"kappa": (0.25,), "dim": (100,), "power": (0.0,)}


def fitted(split, **fields):
    method = MLCCA(**RAW | ONE | fields)
    method.run = fit(method, split)
    return method


def several(n=40, captions=1, seed=0, labels=4):
    """Pairs whose images have one to three labels; some share all of them."""
    split, random = invented(n, captions=captions, seed=seed), np.random.default_rng(seed)
    Z = (random.random((n, labels)) < 0.35).astype(np.uint8)
    Z[np.arange(n), random.integers(0, labels, n)] = 1
    return Given(split.images, split.text_features, Z, split.image_of)


def distinct(n=16, captions=1):
    """Pairs whose images all have different labels."""
    split = invented(n, captions=captions)
    return Given(split.images, split.text_features, np.arange(1, n + 1)[:, None] >> np.arange(5) & 1, split.image_of)


def pairs(split):
    """X, Y, Z in float64, one row for each pair of an image and its text."""
    owner = split.image_of
    return (x.double().numpy() for x in (split.images[owner], split.text_features, split.given[owner]))


def expected_moments(split, f):
    """Cxx, Cyy, Cxy by a loop over all pairs of pairs."""
    X, Y, Z = pairs(split)
    X, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    C, total = [np.zeros((a, b)) for a, b in ((7, 7), (5, 5), (7, 5))], 0.0
    for i in range(len(X)):
        for j in range(len(Y)):
            weight = f(i, j, Z)
            C[0] += weight * np.outer(X[i], X[i])
            C[1] += weight * np.outer(Y[j], Y[j])
            C[2] += weight * np.outer(X[i], Y[j])
            total += weight
    return [c / total for c in C]


def cosine(i, j, Z):
    return Z[i] @ Z[j] / np.linalg.norm(Z[i]) / np.linalg.norm(Z[j])


def by_distance(i, j, Z):
    return np.exp(-np.linalg.norm(Z[i] - Z[j]) / 0.7)


def neighbours(few, f):
    """Weights of the `few` nearest: the text of one's own first, others by distance, ties in equal shares."""

    def weight(i, j, Z):
        if i == j:
            return f(i, i, Z)
        distance = np.linalg.norm(Z - Z[i], axis=1)
        distance[i] = np.inf
        nearer, tied = (distance < distance[j] - 1e-9).sum(), (np.abs(distance - distance[j]) < 1e-9).sum()
        return f(i, j, Z) * min(1, max(0, (few - 1 - nearer) / tied))

    return weight


def found_moments(split, **fields):
    method = MLCCA(**RAW | ONE | fields)
    rows = method.labelled(split, fit_run := fit(method, split))
    C, s_x, s_y = method.pair_moments(rows, fit_run)
    return C, s_x, s_y


@pytest.mark.parametrize("captions", [1, 2])
@pytest.mark.parametrize(
    ("fields", "f"),
    [
        ({"weights": "dot"}, cosine),
        ({"weights": "l2exp", "sigma": 0.7}, by_distance),
        ({"weights": "dot", "few": 6}, neighbours(6, cosine)),
        ({"weights": "l2exp", "sigma": 0.7, "few": 3}, neighbours(3, by_distance)),
        ({"weights": "l2exp", "sigma": 0.7, "few": 9}, neighbours(9, by_distance)),
        ({"few": 1}, neighbours(1, cosine)),
    ],
)
def test_covariances_are_those_of_all_weighted_pairs(fields, f, captions, monkeypatch):
    monkeypatch.setattr("cran_bench.methods.ml_cca.BLOCK", 50)  # a few label sets at a time
    monkeypatch.setattr("cran_bench.methods.ml_cca.IMAGES", 9)
    split = several(40 // captions, captions)
    C, _, _ = found_moments(split, **fields)
    for found, expected in zip((C.xx, C.yy, C.xy), expected_moments(split, f), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("fields", [{}, {"weights": "l2exp"}, {"few": 7}])
def test_sparse_texts_have_the_covariances_of_dense_ones(fields, monkeypatch):
    split = several(captions=2)
    split.text_features[split.text_features < 0] = 0
    dense = found_moments(split, **fields)[0]
    monkeypatch.setattr(MLCCA, "text_features", lambda _, split: sparse.csr_array(split.text_features.numpy()))
    for a, b in zip(vars(dense).values(), vars(found_moments(split, **fields)[0]).values(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_the_fit_is_ridge_cca_of_these_covariances():
    split = several()
    method = fitted(split, few=4)
    C = found_moments(split, few=4)[0]
    rx, ry = (0.25 * np.diag(part).mean() for part in (C.xx, C.yy))
    Wx, Wy, rho = canonical_correlations(C, rx, ry, 100)
    np.testing.assert_allclose(method.spectrum, rho, atol=1e-10)
    np.testing.assert_allclose(method.Wx.abs(), np.abs(Wx), atol=1e-8)
    np.testing.assert_allclose(method.Wy.abs(), np.abs(Wy), atol=1e-8)
    weighted = fitted(split, few=4, power=(1.0,))
    np.testing.assert_allclose(weighted.Wx, method.Wx * method.spectrum / method.spectrum[0], atol=1e-10)


def assert_cca(method, split):
    images = [split.images.double()]
    C = moments(images, split.text_features.double(), split.image_of)
    rx, ry = (0.25 * np.diag(part).mean() for part in (C.xx, C.yy))
    Wx, Wy, rho = canonical_correlations(C, rx, ry, 100)
    share = (len(split.texts) - 1) / len(split.texts)  # the divisor of the covariances
    np.testing.assert_allclose(method.spectrum, rho, atol=1e-8)
    np.testing.assert_allclose(method.Wx.abs() * share**0.5, np.abs(Wx), atol=1e-8)
    np.testing.assert_allclose(method.Wy.abs() * share**0.5, np.abs(Wy), atol=1e-8)


@pytest.mark.parametrize("captions", [1, 3])
@pytest.mark.parametrize("weights", ["dot", "l2exp"])
def test_with_one_neighbour_it_is_cca(weights, captions):
    for split in (distinct(captions=captions), several(captions=captions)):
        assert_cca(fitted(split, weights=weights, few=1), split)


def test_with_a_label_of_its_own_for_each_image_it_is_cca():
    split = invented(30)
    split = Given(split.images, split.text_features, np.eye(30))
    assert_cca(fitted(split), split)
    assert_cca(fitted(split, weights="l2exp", sigma=0.01), split)


def test_with_as_many_neighbours_as_texts_it_is_exact():
    split = several()
    for weights in ("dot", "l2exp"):
        few, exact = (found_moments(split, weights=weights, few=few)[0] for few in (40, 0))
        for a, b in zip(vars(few).values(), vars(exact).values(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


def test_single_labels_pair_all_samples_of_a_class():
    """Cxy is the sum of n_c^2 m_c^x m_c^y' over classes, divided by that of n_c^2."""
    split = invented(50, classes=4)
    X, Y, Z = pairs(split)
    X, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    C = found_moments(split)[0]
    np.testing.assert_allclose(C.xy, (Z.T @ X).T @ (Z.T @ Y) / (Z.sum(axis=0) ** 2).sum(), atol=1e-10)
    assert len(fitted(split).spectrum) == 4 - 1


@pytest.mark.parametrize("fields", [{}, {"weights": "l2exp"}])
def test_every_sample_twice_changes_nothing(fields):
    split = several()
    twice = Given(*(torch.cat([x, x]) for x in (split.images, split.text_features, split.given)))
    a, b = (fitted(s, **fields) for s in (split, twice))
    np.testing.assert_allclose(a.spectrum, b.spectrum, atol=1e-10)
    np.testing.assert_allclose(a.embed_images(split).abs(), b.embed_images(split).abs(), atol=1e-6)


@pytest.mark.parametrize("few", [0, 1, 2, 5, 12])
def test_the_order_of_rows_does_not_matter(few):
    """With one label each, all texts of a class are at distance 0: neighbours by index would be the first ones."""
    for split in (invented(60), several()):
        order = np.random.default_rng(0).permutation(len(split))
        other = Given(split.images[order], split.text_features[order], split.given[order])
        a, b = (fitted(s, few=few) for s in (split, other))
        np.testing.assert_allclose(a.spectrum, b.spectrum, atol=1e-10)
        np.testing.assert_allclose(a.embed_images(split).abs(), b.embed_images(split).abs(), atol=1e-5)


def test_shares_of_neighbours_by_hand():
    sizes = np.array([2.0, 3.0, 1.0, 5.0])
    distance = np.array([[0, 1, 1, 4.0], [1, 0, 2, 1.0]])
    # one other text of the first set, then two of the four at distance 1
    np.testing.assert_allclose(nearest(distance, sizes, 4).toarray(), [[1, 0.5, 0.5, 0], [1 / 7, 1, 0, 1 / 7]])
    np.testing.assert_allclose(nearest(distance, sizes, 1).toarray(), 0)
    np.testing.assert_allclose(nearest(distance, sizes, 11).toarray(), 1)


def nearest_by_lot(distance, sizes, few, random):
    """For each label set, how many texts of each set are drawn on average over random orders of ties."""
    owner, shares = np.repeat(np.arange(len(sizes)), sizes.astype(int)), []
    for row in distance:
        own, total = int(np.flatnonzero(row == 0)[0]), np.zeros(len(sizes))
        others = np.delete(np.arange(len(owner)), np.flatnonzero(owner == own)[0])
        for _ in range(2000):
            order = others[random.permutation(len(others))]
            taken = order[np.argsort(row[owner[order]], kind="stable")][: few - 1]
            total += np.bincount(owner[taken], minlength=len(sizes))
        shares.append(total / 2000 / (sizes - (np.arange(len(sizes)) == own)).clip(1))
    return np.array(shares)


def test_shares_are_the_mean_over_random_choices_among_ties():
    Z = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 1, 1]])
    sizes, distance = np.array([2.0, 3.0, 1.0, 2.0]), ((Z[:, None] - Z) ** 2).sum(axis=2).astype(float)
    drawn = nearest_by_lot(distance, sizes, 4, np.random.default_rng(0))
    alone = (distance == 0) & (sizes == 1)  # nothing to draw from beside its own
    np.testing.assert_allclose(np.where(alone, 0, nearest(distance, sizes, 4).toarray()), drawn, atol=0.05)


def test_standardisation_is_that_of_pairs():
    split = several(captions=2)
    X, Y, _ = pairs(split)
    C, s_x, s_y = found_moments(split, standardize=True)
    np.testing.assert_allclose(s_x, X.std(axis=0), rtol=1e-8)
    np.testing.assert_allclose(s_y, Y.std(axis=0), rtol=1e-8)
    raw = found_moments(split)[0]
    np.testing.assert_allclose(C.xy, raw.xy / X.std(axis=0)[:, None] / Y.std(axis=0), atol=1e-10)
    wider = Given(split.images.numpy() * np.arange(1, 8) - 1, split.text_features, split.given, split.image_of)
    a, b = (fitted(s, standardize=True).spectrum for s in (split, wider))
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_images_without_labels_are_left_out():
    split = several()
    split.given[[2, 5]] = 0
    kept = np.delete(np.arange(40), [2, 5])
    method = fitted(split)
    assert method.run.choices["unlabelled"] == 2
    assert torch.equal(method.spectrum, fitted(split.take(kept)).spectrum)


def test_validation_chooses_the_ridge_and_the_dimensions():
    split, val = invented(), invented(seed=3)
    run = fit(MLCCA(**RAW, kappa=(0.01, 1.0), dim=(1, 100), power=(0.0, 1.0)), split, val)
    assert len(run.scored) == 8 and run.choices.keys() == {"kappa", "dim", "power"}
    again = fit(MLCCA(**RAW, **{name: (value,) for name, value in run.choices.items()}), split, val)
    assert again.scored == [max(run.scored)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"few": -1}, "few and kappa are not negative"),
        ({"kappa": (0.1, -0.1)}, "few and kappa are not negative"),
        ({"sigma": 0.0}, "sigma is above 0, not 0"),
    ],
)
def test_fields_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        MLCCA(**fields)


def test_states_give_the_same_embeddings():
    split = several()
    method = fitted(split, few=5)
    other = MLCCA(**RAW | ONE)
    other.load(method.state())
    assert torch.equal(other.embed_images(split), method.embed_images(split))
    assert torch.equal(other.embed_texts(split), method.embed_texts(split))
    assert method.similarity is COSINE


@pytest.mark.parametrize(
    ("fields", "figures"),
    [
        ({"power": (1.0,)}, (0.2796, 0.2251)),
        ({"power": (0.0,)}, (0.2471, 0.1940)),
        ({"power": (1.0,), "few": 20}, (0.2804, 0.2249)),
    ],
)
def test_measured_figures_of_wikipedia(fields, figures):
    data = wikipedia()
    method = MLCCA(**RAW | {"standardize": True}, kappa=(0.25,), dim=(10,), **fields)
    fit(method, data.train, data.train.take(np.arange(20)))
    assert evaluate(method, data.test) == pytest.approx(figures, abs=5e-3)


def test_presets():
    code = METHODS.configure("ml-cca:code").build()
    assert (code.weights, code.few, code.power, code.kappa) == ("l2exp", 20, (0.0,), (0.25,))
