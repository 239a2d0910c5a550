from dataclasses import replace

import numpy as np
import pytest
import torch
from labelled import Notes, fit, invented, wikipedia
from voting import BARE, brute_votes, fast_maps, standardised

from cran_bench.embeddings import as_levels
from cran_bench.errors import BadInput
from cran_bench.methods._graphs import hypergraph
from cran_bench.methods.s2upg import S2UPG, Items, rooted, sentences
from cran_bench.registry import METHODS
from cran_bench.similarity import DOT, Pairwise, one_way
from cran_bench.split import MissingFeature


def incidence(codes, k, own):
    """Vertices by edges, by loops."""
    N = np.zeros((len(codes), len(codes)))
    for e, code in enumerate(codes):
        distances = np.linalg.norm(codes - code, axis=1)
        for v in [v for v in np.argsort(distances, kind="stable") if v != e][:k] + ([e] if own else []):
            N[v, e] = 1
    return N


def codes_with_an_outlier(n=30):
    codes = np.random.default_rng(0).normal(size=(n, 3))
    codes[7] = 50.0  # nobody's neighbour
    return codes


def test_the_released_hypergraph():
    codes = codes_with_an_outlier()
    M = hypergraph(codes, 4, True).toarray()
    N = incidence(codes, 4, False)
    D = np.diag(1 / (N.sum(axis=1) + 1))
    np.testing.assert_allclose(M.T @ M, D @ N @ N.T @ D / 4, atol=1e-12)
    assert N[7].sum() == 0


def test_the_hypergraph_of_the_paper():
    codes = codes_with_an_outlier()
    M = hypergraph(codes, 4, False).toarray()
    N = incidence(codes, 4, True)
    degrees = N.sum(axis=1)
    assert degrees.min() == 1
    half = np.diag(degrees**-0.5)
    L = np.eye(30) - M.T @ M
    np.testing.assert_allclose(L, np.eye(30) - half @ N @ N.T @ half / 5, atol=1e-12)
    np.testing.assert_allclose(L @ np.sqrt(degrees), 0, atol=1e-12)
    values = np.linalg.eigvalsh(L)
    assert values[0] > -1e-12 and values[-1] < 1 + 1e-12


@pytest.mark.parametrize("released", [False, True])
def test_the_fit_by_matrices(released):
    train = invented(n=30)
    fields = {**BARE, "gamma": (3.0,), "sigma": (20.0,), "ridge": (0.5,), "updates": 2}
    method = S2UPG(**fields, fit_weight=1.5, patches=False, released=released)
    method.fit(train, train, Notes(train, method))
    X, Y, Z = standardised(train)
    n, Z0 = len(X), Z - Z.mean(axis=0)
    random = np.random.default_rng(0)
    P, Q = random.random((7, 3)), random.random((5, 3))
    for _ in range(2):
        N = incidence(np.concatenate([X @ P, Y @ Q]), 4, not released)
        S = np.diag(1 / (N.sum(axis=1) + 1) if released else N.sum(axis=1) ** -0.5)
        L = np.eye(2 * n) - S @ N @ N.T @ S / (4 if released else 5)
        A, B = (
            1.5 * V.T @ V
            + np.diag(3 / (2 * np.linalg.norm(W, axis=1)))
            + 20 * V.T @ part @ V
            + 0.5 * n * np.eye(len(W))
            for V, W, part in ((X, P, L[:n, :n]), (Y, Q, L[n:, n:]))
        )
        P, Q = (
            np.linalg.inv(A) @ (1.5 * X.T @ Z0 - 20 * X.T @ L[:n, n:] @ Y @ Q),
            np.linalg.inv(B) @ (1.5 * Y.T @ Z0 - 20 * Y.T @ L[n:, :n] @ X @ P),
        )
    np.testing.assert_allclose(method.Wx, P, atol=1e-5 * np.abs(P).max())
    np.testing.assert_allclose(method.Wy, Q, atol=1e-5 * np.abs(Q).max())
    groups = [(np.concatenate([X @ P, Y @ Q]), np.concatenate([Z, Z]), 1.0)]
    np.testing.assert_allclose(method.embed_images(train), brute_votes(X @ P, groups, 9), atol=1e-4)


def test_without_a_graph_or_norms_it_is_centred_ridge_regression():
    train = invented(n=40)
    method = S2UPG(**{**BARE, "ridge": (0.3,)}, updates=1, patches=False)
    fit(method, train)
    X, _, Z = standardised(train)
    P = np.linalg.solve(X.T @ X + 0.3 * 40 * np.eye(7), X.T @ (Z - Z.mean(axis=0)))
    np.testing.assert_allclose(method.Wx, P, atol=1e-6)


def test_roots_are_signed():
    x = torch.tensor([[-8.0, 0.0, 27.0]])
    torch.testing.assert_close(rooted(x, 3), torch.tensor([[-2.0, 0.0, 3.0]]))
    assert rooted(x, 1) is x


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a dog runs", ["a dog runs"]),
        ("a dog runs . it barks !", ["a dog runs .", "it barks !"]),
        ("Two dogs. Is it 3.5 m?  Yes.", ["Two dogs.", "Is it 3.5 m?", "Yes."]),
    ],
)
def test_sentences(text, parts):
    assert sentences(["x", text]) == (["x", *parts], [0, *[1] * len(parts)])


def test_instances_are_means_of_wholes_and_of_their_patches():
    wholes, patches = torch.randn(4, 3), torch.randn(5, 3)
    owners = np.array([0, 0, 2, 3, 3])
    items = Items.of(wholes, patches, owners)
    expected = [
        (wholes[0] + patches[:2].mean(0)) / 2,
        wholes[1],
        (wholes[2] + patches[2]) / 2,
        (wholes[3] + patches[3:].mean(0)) / 2,
    ]
    torch.testing.assert_close(items.instances()[:], torch.stack(expected))
    torch.testing.assert_close(items.instances()[torch.tensor([3, 0])], torch.stack([expected[3], expected[0]]))


SPEC = "s2upg[gamma=10,sigma=0.1,ridge=0.1,neighbours=9,graph_neighbours=5,fit_weight=2"


@pytest.fixture(scope="module")
def fitted(tiny):
    method = METHODS.configure(SPEC + ",whole_i2t=5]").build()
    return method, fit_on(method, tiny)


def fit_on(method, data):
    class Run(Notes):
        def score(self, images, texts, similarity=None):
            raise NotImplementedError

    run = Run(data.val, method)
    run.score = lambda images, texts, similarity=None: type("Score", (), {"criterion": 1.0})
    method.fit(data.train, data.val, run)
    return run


def test_scores_of_wholes_and_patches_by_loops(tiny, fitted):
    method, _ = fitted
    split, train = tiny.test, tiny.train

    def rows(split, side):
        if side == "text":
            tfidf = torch.from_numpy(split.tfidf(3000).toarray())
            return tfidf, tfidf, np.arange(len(split.texts))
        mask = split.region_mask
        return split.images, split.regions[mask], mask.nonzero()[:, 0].numpy()

    def codes(split, side):
        W = (method.Wx if side == "image" else method.Wy).numpy()
        wholes, patches, owners = rows(split, side)
        known_wholes, known_patches, _ = rows(train, side)
        found = []
        for x, known in ((wholes, known_wholes), (patches, known_patches)):
            m, s = known.double().mean(0).numpy(), known.double().std(0, correction=0).numpy()
            found.append((x.double().numpy() - m) / np.where(s > 1e-6, s, 1) @ W)
        return (*found, owners)

    Z = train.labels.numpy()
    of = {"image": Z, "text": Z[train.image_of.numpy()]}
    known = {side: codes(train, side) for side in of}
    whole = np.concatenate([known[s][0] for s in of]), np.concatenate([of[s] for s in of])
    patch = np.concatenate([known[s][1] for s in of]), np.concatenate([of[s][known[s][2]] for s in of])
    voted = {}
    for side, embed in (("image", method.embed_images), ("text", method.embed_texts)):
        wholes, patches, owners = codes(split, side)
        a = brute_votes(wholes, [(*whole, 1.0), (*patch, 0.85)], 9)
        b = brute_votes(patches, [(*whole, 0.85), (*patch, 1.0)], 9)
        voted[side] = a, [b[owners == k] if (owners == k).any() else a[[k]] for k in range(len(a))]
        C = a.shape[1]
        np.testing.assert_allclose(embed(split)[:, :C], a, atol=1e-4)
    a, b = voted["image"], voted["text"]
    pairs = np.array([[(x @ y.T).mean() for y in b[1]] for x in a[1]])
    images, texts = method.embed_images(split), method.embed_texts(split)
    for is_i2t, weight in ((True, 5.0), (False, 1.0)):
        scores = one_way(method.similarity, is_i2t).scores(images, texts)
        np.testing.assert_allclose(scores, weight * a[0] @ b[0].T + pairs, atol=1e-3)


def test_equal_weights_are_an_inner_product(tiny, fitted):
    method, _ = fitted
    equal = METHODS.configure(SPEC + ",whole_i2t=5,whole_t2i=5]").build()
    assert equal.similarity is DOT and isinstance(method.similarity, Pairwise)
    equal.load(method.state())
    images, texts = (getattr(equal, side)(tiny.test) for side in ("embed_images", "embed_texts"))
    own = (getattr(method, side)(tiny.test) for side in ("embed_images", "embed_texts"))
    expected = one_way(method.similarity, True).scores(*own)
    np.testing.assert_allclose(DOT.scores(images, texts), expected, atol=1e-5)
    assert as_levels(images).globals.shape[1] == 2 * method.categories.shape[1]


def test_it_comes_back(comes_back):
    comes_back(SPEC + ",root=3]")
    comes_back(SPEC + ",patches=false]")


def test_data_without_regions(tiny, monkeypatch):
    train = tiny.train.take(np.arange(20))
    monkeypatch.setattr(train, "_features", replace(train._features, regions=None))
    with pytest.raises(MissingFeature, match="or say patches=false"):
        S2UPG().items("image", train)
    assert S2UPG(patches=False).items("image", train).patches.shape[0] == 0


@pytest.mark.parametrize("spec", ["s2upg[whole_i2t=0]", "s2upg[fit_weight=-1]"])
def test_fields_out_of_range(spec):
    with pytest.raises(BadInput, match="fit_weight, whole_i2t and whole_t2i are above 0"):
        METHODS.configure(spec)


def test_wikipedia():
    data = wikipedia()
    method = METHODS.configure("s2upg:code[patches=false]").build()
    fit(method, data.train, data.test.take(np.arange(5)))
    assert fast_maps(method, data.test) == pytest.approx((0.327, 0.245), abs=0.005)
