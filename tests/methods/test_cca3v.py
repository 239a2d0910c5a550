"""Three-view CCA: the generalised eigenproblem, special cases that are CCA of two views, and measured figures."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch
from labelled import Given, evaluate, fit, invented, one_hot, wikipedia

from cran_bench.errors import BadInput
from cran_bench.methods.cca3v import CCA3V, joint_correlations
from cran_bench.registry import METHODS
from cran_bench.similarity import COSINE
from cran_bench.toolbox.linalg import Moments, canonical_correlations

RAW = {"image": "none", "text_scaling": "none", "standardize": False}
ONE = {"ridge": (1e-2,), "dim": (100,), "power": (0.0,)}


def fitted(split, **fields):
    method = CCA3V(**RAW | ONE | fields)
    method.run = fit(method, split)
    return method


def views(n=200, dims=(6, 5, 4), seed=0):
    random = np.random.default_rng(seed)
    z = random.normal(size=(n, 3))
    return [z @ random.normal(size=(3, d)) + random.normal(size=(n, d)) for d in dims]


def blocks(V):
    """The covariances S[i][j], j <= i, of views."""
    joint, ends = np.cov(np.hstack(V).T), np.cumsum([0] + [v.shape[1] for v in V])
    cut = [slice(a, b) for a, b in pairwise(ends)]
    return [[joint[cut[i], cut[j]] for j in range(i + 1)] for i in range(len(V))]


def whole(S, ridges):
    """S + R and D + R of the joint eigenproblem."""
    full = np.block([[S[max(i, j)][min(i, j)] if i >= j else S[j][i].T for j in range(len(S))] for i in range(len(S))])
    R = np.diag(np.concatenate([np.full(len(row[0]), r) for row, r in zip(S, ridges, strict=True)]))
    return full + R, scipy.linalg.block_diag(*[row[-1] for row in S]) + R


@pytest.mark.parametrize("ridges", [(0.0, 0.0, 0.0), (0.3, 0.1, 0.2)])
def test_the_directions_solve_the_eigenproblem(ridges):
    S = blocks(views())
    W, found = joint_correlations(S, ridges, 15)
    A, B = whole(S, ridges)
    expected = scipy.linalg.eigh(A, B, eigvals_only=True)[::-1]
    np.testing.assert_allclose(found, expected[expected > 1], atol=1e-8)
    w = np.vstack(W)
    np.testing.assert_allclose(A @ w, B @ w * found, atol=1e-8)
    np.testing.assert_allclose(w.T @ B @ w, np.eye(len(found)), atol=1e-8)
    assert found.min() > 1 and found.max() <= 3 and expected.sum() == pytest.approx(len(A))


def test_fewer_directions_are_the_first_ones():
    S = blocks(views())
    (all_of, values), (two, first) = (joint_correlations(S, (0.1, 0.1, 0.1), rank) for rank in (15, 2))
    np.testing.assert_allclose(first, values[:2], atol=1e-10)
    for a, b in zip(all_of, two, strict=True):
        np.testing.assert_allclose(np.abs(a[:, :2]), np.abs(b), atol=1e-8)


def two_views(S, rx, ry):
    return canonical_correlations(Moments(np.zeros(6), np.zeros(5), S[0][0], S[1][1], S[1][0].T), rx, ry, 10)


def test_two_views_are_ridge_cca():
    S = blocks(views(dims=(6, 5)))
    W, found = joint_correlations(S, (0.2, 0.1), 11)
    Wx, Wy, rho = two_views(S, 0.2, 0.1)
    np.testing.assert_allclose(found - 1, rho, atol=1e-8)
    np.testing.assert_allclose(np.abs(W[0]), np.abs(Wx) / np.sqrt(2), atol=1e-7)
    np.testing.assert_allclose(np.abs(W[1]), np.abs(Wy) / np.sqrt(2), atol=1e-7)


def test_a_third_view_of_zeros_changes_nothing():
    V = views(dims=(6, 5))
    two, three = (blocks(v) for v in (V, [*V, np.zeros((200, 4))]))
    (W, found), (W3, found3) = joint_correlations(two, (0.2, 0.1), 11), joint_correlations(three, (0.2, 0.1, 0.5), 15)
    np.testing.assert_allclose(found3, found, atol=1e-10)
    np.testing.assert_allclose(np.abs(W3[0]), np.abs(W[0]), atol=1e-8)
    np.testing.assert_allclose(W3[2], 0, atol=1e-10)


def test_a_third_view_equal_to_the_second_has_the_eigenvalues_of_its_closed_form():
    V = views(dims=(6, 5))
    S = blocks([*V, V[1]])
    found = joint_correlations(S, (0.0, 0.0, 0.0), 16)[1]
    rho = two_views(S, 0.0, 0.0)[2]
    # mu a = sqrt(2) rho b and mu b = sqrt(2) rho a + b for the shared direction b of the two equal views
    np.testing.assert_allclose(found[: len(rho)], 1 + (1 + np.sqrt(1 + 8 * rho**2)) / 2, atol=1e-8)
    assert found.max() <= 3


def test_the_fit_is_that_of_repeated_rows():
    split = invented(n=40, captions=3)
    method = fitted(split)
    X, Y, Z = (
        x.double().numpy() for x in (split.images[split.image_of], split.text_features, split.given[split.image_of])
    )
    S = blocks([X, Y, Z])
    W, found = joint_correlations(S, [1e-2 * np.linalg.norm(row[-1], 2) for row in S], 100)
    np.testing.assert_allclose(method.spectrum, found, atol=1e-8)
    for ours, theirs in ((method.Wx, W[0]), (method.Wy, W[1])):
        np.testing.assert_allclose(ours.abs(), np.abs(theirs), atol=1e-7)
    np.testing.assert_allclose(method.embed_texts(split).mean(dim=0), 0, atol=1e-5)


def test_standardised_features_have_standardised_projections():
    split = invented()
    scaled = Given(split.images.numpy() * np.arange(1, 8) + 2, split.text_features * 5, split.given)
    a, b = fitted(split, standardize=True), fitted(scaled, standardize=True)
    np.testing.assert_allclose(a.spectrum, b.spectrum, atol=1e-6)
    np.testing.assert_allclose(a.embed_images(split).abs(), b.embed_images(scaled).abs(), atol=1e-4)
    assert not np.allclose(fitted(scaled).spectrum, a.spectrum, atol=1e-3)


def test_the_order_of_categories_does_not_matter():
    split = invented()
    swapped = Given(split.images, split.text_features, split.given[:, [2, 0, 1]])
    a, b = (fitted(s).embed_images(split) for s in (split, swapped))
    np.testing.assert_allclose(a.abs(), b.abs(), atol=1e-5)


def test_categories_are_what_is_learned():
    """With the categories of a third view, images and texts of a class come together."""
    split = invented(n=150, spread=3.0)
    shuffled = Given(split.images, split.text_features, split.given.roll(1, 0))
    strong = {"dim": (2,), "power": (4.0,)}
    own, wrong = (np.mean(evaluate(fitted(s, **strong), split)) for s in (split, shuffled))
    assert own > wrong + 0.02


def test_eigenvalues_weight_the_dimensions():
    split = invented()
    plain, weighted = fitted(split), fitted(split, power=(2.0,))
    weight = (plain.spectrum / plain.spectrum[0]) ** 2
    np.testing.assert_allclose(weighted.embed_images(split), plain.embed_images(split) * weight, rtol=1e-5, atol=1e-7)


def test_an_absolute_ridge_is_the_same_for_all_views():
    split = invented()
    method = fitted(split, absolute=True, ridge=(0.5,))
    S = blocks([x.double().numpy() for x in (split.images, split.text_features, split.given)])
    np.testing.assert_allclose(method.spectrum, joint_correlations(S, (0.5, 0.5, 0.5), 100)[1], atol=1e-8)


def test_validation_chooses_among_all_candidates():
    split, val = invented(), invented(seed=3)
    many = CCA3V(**RAW, ridge=(1e-3, 1e-1), dim=(1, 2, 100), power=(0.0, 4.0))
    run = fit(many, split, val)
    assert len(run.scored) == 12 and run.choices.keys() == {"ridge", "dim", "power"}
    again = fit(CCA3V(**RAW, **{name: (value,) for name, value in run.choices.items()}), split, val)
    assert again.scored == [max(run.scored)]


def test_dimensions_stop_where_views_are_no_longer_correlated():
    method = fitted(invented(), dim=(100,))
    assert method.run.choices["dim"] == len(method.spectrum) < 7 + 5 + 3
    assert float(method.spectrum.min()) > 1


@pytest.mark.parametrize("ridge", [0.0, -1.0])
def test_a_ridge_of_zero_is_refused(ridge):
    with pytest.raises(ValueError, match="ridge is above 0, not"):
        CCA3V(ridge=(1e-2, ridge))


def test_views_without_any_correlation():
    X, Y, Z = (np.array(signs * (8 // len(signs))) for signs in ([1] * 4 + [-1] * 4, [1, 1, -1, -1], [0, 1]))
    with pytest.raises(BadInput, match="are uncorrelated, so nothing can be learned"):
        fitted(Given(X[:, None], Y[:, None], one_hot(Z)), ridge=(1e-3,))


def test_states_give_the_same_embeddings():
    split = invented()
    method = fitted(split)
    other = CCA3V(**RAW | ONE)
    other.load(method.state())
    assert torch.equal(other.embed_images(split), method.embed_images(split))
    assert torch.equal(other.embed_texts(split), method.embed_texts(split))
    assert method.similarity is COSINE


def test_measured_figures_of_wikipedia():
    data = wikipedia()
    few = data.train.take(np.arange(20))
    for method, figures in (
        (METHODS.configure("cca3v:code").build(), (0.2741, 0.2227)),
        (CCA3V(**RAW | {"standardize": True}, ridge=(0.1,), absolute=True, dim=(20,), power=(4.0,)), (0.2816, 0.2269)),
    ):
        fit(method, data.train, few)
        assert evaluate(method, data.test) == pytest.approx(figures, abs=1e-3)
