"""jrl, and what it shares with s2upg: the regression, the graphs and the votes."""

import numpy as np
import pytest
import scipy.optimize
import torch
from labelled import Given, Notes, average_precisions, evaluate, fit, invented, one_hot, wikipedia
from scipy.spatial.distance import cdist
from voting import BARE, brute_votes, fast_maps, standardised

from cran_bench.errors import BadInput
from cran_bench.methods import _graphs
from cran_bench.methods._graphs import Quadratic, Voters, minimise, neighbours, smoothness, votes
from cran_bench.methods.jrl import JRL
from cran_bench.registry import METHODS


def laplacian(X, k, dense):
    distances = cdist(X, X)
    graph = np.zeros_like(distances)
    for i, row in enumerate(distances):
        for j in [j for j in np.argsort(row, kind="stable") if j != i][:k]:
            graph[i, j] = graph[j, i] = 1
    half = np.diag(graph.sum(axis=1) ** -0.5)
    return np.eye(len(X)) - half @ (1 / (1 + np.exp(distances)) if dense else graph) @ half


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("block", [16, 1024])
def test_products_with_the_laplacian(monkeypatch, dense, block):
    monkeypatch.setattr(_graphs, "BLOCK", block)
    X = np.random.default_rng(0).normal(size=(60, 7))
    np.testing.assert_allclose(smoothness(X, 5, dense), X.T @ laplacian(X, 5, dense) @ X, atol=1e-10)


def test_a_row_is_not_its_own_neighbour_though_others_equal_it():
    X = np.repeat(np.random.default_rng(0).normal(size=(4, 3)), 3, axis=0)
    graph = neighbours(X, 2).toarray()
    assert not graph.diagonal().any()
    np.testing.assert_array_equal(graph, np.kron(np.eye(4), np.ones((3, 3))) - np.eye(12))


def quadratic(seed=0, p=6, q=5, C=3, n=40):
    random = np.random.default_rng(seed)
    X, Y, Z = random.normal(size=(n, p)), random.normal(size=(n, q)), random.random((n, C))
    f = Quadratic(2 * X.T @ X, 2 * Y.T @ Y, X.T @ Y, X.T @ Z, Y.T @ Z, 2 * (Z * Z).sum())
    return X, Y, Z, f


def test_the_loss_is_that_of_the_definition():
    X, Y, Z, f = quadratic()
    P, Q = np.random.default_rng(1).normal(size=(6, 3)), np.random.default_rng(2).normal(size=(5, 3))
    squares = sum((E**2).sum() for E in (X @ P - Z, Y @ Q - Z, X @ P - Y @ Q))
    norms = sum(np.sqrt((W**2).sum(axis=1)).sum() for W in (P, Q))
    assert f.loss(P, Q, 2.5) == pytest.approx(squares + 2.5 * norms, rel=1e-12)


def test_without_weights_the_projections_are_least_squares():
    X, Y, Z, f = quadratic()
    P, Q = minimise(lambda P, Q: f._replace(A=X.T @ X, B=Y.T @ Y, E=0 * f.E), (6, 5, 3), 0.0, 1, True, 0)
    np.testing.assert_allclose(P, np.linalg.lstsq(X, Z)[0], atol=1e-10)
    np.testing.assert_allclose(Q, np.linalg.lstsq(Y, Z)[0], atol=1e-10)


def test_the_fixed_point_is_the_minimum():
    *_, f = quadratic()
    P, Q = minimise(lambda P, Q: f, (6, 5, 3), 4.0, 400, True, 0)

    def loss(w):
        return f.loss(w[:18].reshape(6, 3), w[18:].reshape(5, 3), 4.0)

    start = np.concatenate([P.ravel(), Q.ravel()])
    slope = scipy.optimize.approx_fprime(start, loss, 1e-7)
    np.testing.assert_allclose(slope, 0, atol=1e-3)  # f is convex
    again = f.update(P, Q, 4.0)
    np.testing.assert_allclose(again[0], P, atol=1e-8)
    for _ in range(100):  # Gauss-Seidel: Q from the new P
        P2 = f.update(P, Q, 4.0)[0]
        Q = f.update(P2, Q, 4.0)[1]
    np.testing.assert_allclose(P2, P, atol=1e-7)


def test_the_loss_never_rises_after_the_first_update():
    *_, f = quadratic()
    losses = [f.loss(*minimise(lambda P, Q: f, (6, 5, 3), 4.0, t, True, 0), 4.0) for t in range(1, 12)]
    assert (np.diff(losses) <= 1e-9).all() and losses[-1] < losses[0]


def test_rows_go_to_zero_together():
    F = np.random.default_rng(0).normal(size=(6, 3)) * np.array([[9.0, 0.1, 5.0, 0.3, 0.2, 7.0]]).T
    f = Quadratic(20 * np.eye(6), np.eye(5), np.zeros((6, 5)), F, np.ones((5, 3)), 0.0)
    P, _ = minimise(lambda P, Q: f, (6, 5, 3), 4.0, 300, True, 0)
    lengths = np.linalg.norm(F, axis=1, keepdims=True)
    np.testing.assert_allclose(P, F / 20 * np.maximum(0, 1 - 2 / lengths), atol=1e-9)
    np.testing.assert_array_equal(lengths[:, 0] > 2, [1, 0, 1, 0, 0, 1])


def test_the_iteration_stops_and_hands_back_what_it_is_asked_for():
    *_, f = quadratic()
    one, two, three = (minimise(lambda P, Q: f, (6, 5, 3), 4.0, t, True, 0)[0] for t in (1, 2, 3))
    np.testing.assert_array_equal(minimise(lambda P, Q: f, (6, 5, 3), 4.0, 3, False, 0)[0], two)
    np.testing.assert_array_equal(minimise(lambda P, Q: f, (6, 5, 3), 4.0, 9, True, 0, least_fall=1.0)[0], two)
    np.testing.assert_array_equal(minimise(lambda P, Q: f, (6, 5, 3), 4.0, 9, False, 0, least_fall=1.0)[0], one)
    other = minimise(lambda P, Q: f, (6, 5, 3), 4.0, 3, True, 1)[0]
    assert np.abs(other - three).max() > 1e-6


def test_a_matrix_that_cannot_be_inverted():
    *_, f = quadratic()
    with pytest.raises(BadInput, match="raise the ridge"):
        minimise(lambda P, Q: f._replace(A=0 * f.A), (6, 5, 3), 0.0, 1, True, 0)


def test_votes_by_loops():
    random = np.random.default_rng(0)
    groups = [(random.normal(size=(n, 3)), one_hot(random.integers(0, 4, n), 4), b) for n, b in ((30, 1.0), (20, 0.85))]
    codes = random.normal(size=(11, 3))
    voters = [(Voters(torch.from_numpy(C), torch.from_numpy(Z)), b) for C, Z, b in groups]
    for k, found in zip((5, 50, 70), votes(torch.from_numpy(codes), voters, (5, 50, 70)), strict=True):
        np.testing.assert_allclose(found, brute_votes(codes, groups, k), atol=1e-6)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
        assert found.min() >= 0
    alone = votes(torch.from_numpy(codes), voters[:1], (7,))[0]
    np.testing.assert_allclose(alone, brute_votes(codes, groups[:1], 7), atol=1e-6)
    far = votes(torch.from_numpy(1e4 + codes), voters, (5,))[0]
    np.testing.assert_allclose(far.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("captions", [1, 2])
def test_the_fit_by_matrices(dense, captions):
    train = invented(n=40, captions=captions)
    fields = {**BARE, "gamma": (3.0,), "sigma": (2.0,), "ridge": (0.5,), "updates": 3}
    method = JRL(**fields, fit_weight=1.5, pair_weight=0.7, dense=dense)
    method.fit(train, train, Notes(train, method))
    X, Y, Z = standardised(train)
    T = len(Y)
    first = np.unique(train.image_of.numpy(), return_index=True)[1]
    random = np.random.default_rng(0)
    P, Q = random.random((7, 3)), random.random((5, 3))
    L = [V.T @ laplacian(V, 4, dense) @ V for V in (X[first], Y)]
    for _ in range(3):
        D = [np.diag(3 / (2 * np.linalg.norm(W, axis=1))) + 0.5 * T * np.eye(len(W)) for W in (P, Q)]
        A, B = (2.2 * V.T @ V + d + 2 * product for V, d, product in zip((X, Y), D, L, strict=True))
        P, Q = np.linalg.inv(A) @ X.T @ (0.7 * Y @ Q + 1.5 * Z), np.linalg.inv(B) @ Y.T @ (0.7 * X @ P + 1.5 * Z)
    X0 = train.images.numpy().astype(float)[train.image_of]
    np.testing.assert_allclose(method.Wx.numpy(), P / X0.std(axis=0)[:, None], atol=1e-6 * np.abs(P).max())
    np.testing.assert_allclose(method.Wy.numpy(), Q / train.text_features.numpy().std(axis=0)[:, None], rtol=1e-5)
    codes = np.concatenate([X[first] @ P, Y @ Q])
    groups = [(codes, np.concatenate([Z[first], Z]), 1.0)]
    np.testing.assert_allclose(method.embed_images(train), brute_votes(X[first] @ P, groups, 9), atol=1e-4)
    np.testing.assert_allclose(method.embed_texts(train), brute_votes(Y @ Q, groups, 9), atol=1e-4)


def test_when_all_vote_alike_everything_ties():
    train = invented(n=40)
    method = JRL(**{**BARE, "gamma": (1e12,), "neighbours": (1000,)})
    fit(method, train)
    np.testing.assert_allclose(
        method.embed_images(train), np.tile(train.given.numpy().mean(axis=0), (40, 1)), atol=1e-5
    )
    relevant = train.given.numpy() @ train.given.numpy().T > 0
    chance = average_precisions(np.zeros((40, 40)), relevant).mean()
    scores = (method.embed_images(train).double() @ method.embed_texts(train).double().T).numpy().round(6)
    assert average_precisions(scores, relevant).mean() == pytest.approx(chance, abs=1e-9)


def test_perfect_features_retrieve_perfectly():
    classes = np.arange(60) % 4
    split = Given(one_hot(classes), one_hot(classes), one_hot(classes))
    method = JRL(**{**BARE, "ridge": (1e-3,), "neighbours": (20,)}, standardize=False)
    fit(method, split)
    assert evaluate(method, split) == (1.0, 1.0)


def test_images_with_several_categories():
    train = invented(n=40)
    train.given[:10, 0] = 1
    method = JRL(**{**BARE, "ridge": (0.1,)})
    fit(method, train)
    images = method.embed_images(train)
    assert images.shape == (40, 3) and float(images.sum(dim=1).max()) > 1.2 and float(images.max()) <= 1 + 1e-6


def test_validation_chooses_the_best_of_what_was_scored():
    train, val = invented(n=60, spread=4.0), invented(n=30, spread=4.0, seed=5)
    fields = {"gamma": (0.0, 50.0, 5000.0), "sigma": (0.0, 5.0), "ridge": (0.1, 10.0), "neighbours": (2, 15)}
    method = JRL(**fields, graph_neighbours=4)
    run = fit(method, train, val)
    assert max(run.scored) == method.best == 50 * sum(evaluate(method, val))
    assert set(run.choices) == set(fields) and all(run.choices[name] in values for name, values in fields.items())
    again = JRL(**{name: (value,) for name, value in run.choices.items()}, graph_neighbours=4)
    fit(again, train, val)
    np.testing.assert_array_equal(again.embed_images(val), method.embed_images(val))


def test_a_sample_of_the_rows_stands_for_all(monkeypatch):
    train = invented(n=400, spread=0.5)
    rows = {**BARE, "sigma": (300.0,), "ridge": (0.1,), "graph_neighbours": 10}
    whole, part = JRL(**rows), JRL(**rows)
    fit(whole, train)
    monkeypatch.setattr(_graphs.Voting.graph_rows, "__defaults__", ((200, 200),))
    fit(part, train)
    assert not np.array_equal(whole.Wx, part.Wx)
    np.testing.assert_allclose(part.Wx, whole.Wx, atol=0.25 * float(whole.Wx.abs().max()))


def test_it_comes_back(comes_back):
    comes_back("jrl[gamma=1|100,sigma=0|1,ridge=0.1,neighbours=5|9,graph_neighbours=5]")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("jrl[gamma=-1]", "gamma is at least 0, not -1"),
        ("jrl[neighbours=0]", "neighbours is at least 1, not 0"),
        ("jrl[updates=0]", "updates is at least 1, not 0"),
        ("jrl[fit_weight=0]", "fit_weight is above 0, and pair_weight at least 0"),
    ],
)
def test_fields_out_of_range(spec, message):
    with pytest.raises(BadInput, match=message):
        METHODS.configure(spec)


@pytest.mark.parametrize(
    ("spec", "i2t", "t2i"),
    [("jrl:code", 0.335, 0.252), ("jrl:code[last=true]", 0.315, 0.232), ("jrl:paper", 0.307, 0.221)],
)
def test_wikipedia(spec, i2t, t2i):
    data = wikipedia()
    method, some = METHODS.configure(spec).build(), data.test.take(np.arange(5))
    fit(method, data.train, some)
    assert fast_maps(method, data.test) == pytest.approx((i2t, t2i), abs=0.005)
