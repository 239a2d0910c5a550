import numpy as np
import pytest
import torch
from scipy import sparse

from cran_bench.errors import BadInput
from cran_bench.toolbox import linalg
from cran_bench.toolbox.linalg import Whitening, canonical_correlations, moments, spectral_norm, truncated_svd

CAPTIONS = np.array([1, 4, 2, 0, 3, 1, 1, 5, 2, 1])
OWNER = np.repeat(np.arange(10), CAPTIONS)


@pytest.fixture
def views():
    random = np.random.default_rng(0)
    images = (random.normal(size=(10, 4)) + 3).astype(np.float32)
    texts = (random.normal(size=(20, 6)) * (random.random((20, 6)) < 0.5)).astype(np.float32)
    return images, texts


@pytest.mark.parametrize("layout", ["dense", "sparse"])
@pytest.mark.parametrize("block", [1, 3, 10, 99])
def test_moments_are_those_of_the_repeated_rows(views, layout, block):
    images, texts = views
    blocks = (torch.from_numpy(images[a : a + block]) for a in range(0, 10, block))
    given = torch.from_numpy(texts) if layout == "dense" else sparse.csr_array(texts)
    found = moments(blocks, given, torch.from_numpy(OWNER))
    repeated = images[OWNER].astype(np.float64)
    whole = np.cov(repeated.T, texts.astype(np.float64).T)
    np.testing.assert_allclose(found.mean_x, repeated.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found.mean_y, texts.mean(axis=0, dtype=np.float64), atol=1e-12)
    np.testing.assert_allclose(found.xx, whole[:4, :4], atol=1e-12)
    np.testing.assert_allclose(found.xy, whole[:4, 4:], atol=1e-12)
    np.testing.assert_allclose(found.yy, whole[4:, 4:], atol=1e-12)
    assert all(part.dtype == np.float64 for part in vars(found).values())


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_moments_of_more_texts_than_one_block(layout):
    random = np.random.default_rng(1)
    images, texts = random.normal(size=(3000, 2)), random.normal(size=(9000, 3))
    owner = np.sort(random.integers(0, 3000, 9000))
    given = torch.from_numpy(texts) if layout == "dense" else sparse.csr_array(texts)
    found = moments(torch.from_numpy(images).split(1024), given, torch.from_numpy(owner))
    whole = np.cov(images[owner].T, texts.T)
    np.testing.assert_allclose(found.yy, whole[2:, 2:], atol=1e-12)
    np.testing.assert_allclose(found.xy, whole[:2, 2:], atol=1e-12)


def test_moments_leave_their_inputs_alone(views):
    images, texts = (torch.from_numpy(view).double() for view in views)
    before = images.clone(), texts.clone()
    moments([images], texts, torch.from_numpy(OWNER))
    assert torch.equal(images, before[0])
    assert torch.equal(texts, before[1])


@pytest.mark.parametrize("pairs", [0, 1])
def test_moments_need_two_pairs(pairs):
    with pytest.raises(BadInput, match=f"at least two image-text pairs, not {pairs}"):
        moments([torch.ones(pairs, 2)], torch.ones(pairs, 2), torch.arange(pairs))


def test_moments_need_images():
    with pytest.raises(BadInput, match="need images"):
        moments([], torch.ones(2, 2), torch.arange(2))


@pytest.fixture(params=["dense", "sparse"])
def rows(request, monkeypatch):
    """Twenty rows of six columns, with their float64 values."""
    monkeypatch.setattr(linalg, "TEXT_BLOCK", 7)
    random = np.random.default_rng(0)
    values = (random.normal(size=(20, 6)) * (random.random((20, 6)) < 0.5)).astype(np.float32)
    return (torch.from_numpy(values) if request.param == "dense" else sparse.csr_array(values)), values.astype(float)


def test_weighted_sums(rows):
    given, values = rows
    weights = np.random.default_rng(1).normal(size=(20, 5)) * (np.arange(5) != 3)
    found = linalg.weighted_sums(sparse.csr_array(weights), given)
    np.testing.assert_allclose(found, weights.T @ values, atol=1e-12)


def test_weighted_covariance_is_about_the_mean_of_the_counts(rows):
    given, values = rows
    counts, weights = np.arange(20.0) % 3, np.random.default_rng(1).random(20)
    mean, variance, moment = linalg.weighted_covariance(given, counts, weights)
    repeated = np.repeat(values, counts.astype(int), axis=0)
    np.testing.assert_allclose(mean, repeated.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(variance, repeated.var(axis=0), atol=1e-12)
    centred = values - repeated.mean(axis=0)
    np.testing.assert_allclose(moment, (centred * weights[:, None]).T @ centred, atol=1e-12)


def covariance(dim, rank, seed=0):
    X = np.random.default_rng(seed).normal(size=(dim, rank))
    return X @ X.T


def test_spectral_norm():
    assert spectral_norm(covariance(9, 5)) == pytest.approx(np.linalg.norm(covariance(9, 5), 2))
    assert spectral_norm(np.array([[3.0]])) == pytest.approx(3)


@pytest.mark.parametrize("rank", [3, 8])
def test_whitening(rank):
    C = covariance(8, rank)
    before = C.copy()
    whitening = Whitening.of(C, 0.5)
    regular = C + 0.5 * np.eye(8)
    L = whitening.lower
    np.testing.assert_allclose(L @ L.T, regular, atol=1e-12)
    np.testing.assert_allclose(np.triu(L, 1), 0)
    M = np.random.default_rng(1).normal(size=(8, 3))
    np.testing.assert_allclose(L @ whitening.half(M), M, atol=1e-10)
    np.testing.assert_allclose(L.T @ whitening.back(M), M, atol=1e-10)
    np.testing.assert_allclose(whitening.half(whitening.half(regular).T), np.eye(8), atol=1e-10)
    np.testing.assert_array_equal(C, before)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (-1.0, r"a covariance of 2 dimensions with ridge 0.001 cannot be inverted .* raise"),
        (np.nan, "a covariance of 2 dimensions is not finite"),
    ],
)
def test_what_cannot_be_inverted_is_said(bad, message):
    with pytest.raises(BadInput, match=message):
        Whitening.of(np.diag([1.0, bad]), 1e-3)


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9), (1, 5), (5, 1)])
@pytest.mark.parametrize("rank", [1, 3, 6, 100])
def test_truncated_svd_against_numpy(shape, rank):
    M = np.random.default_rng(2).normal(size=shape)
    U, s, V = truncated_svd(M, rank)
    k = min(rank, *shape)
    left, values, right = np.linalg.svd(M, full_matrices=False)
    assert (U.shape, s.shape, V.shape) == ((shape[0], k), (k,), (shape[1], k))
    np.testing.assert_allclose(s, values[:k], rtol=0, atol=1e-12)
    np.testing.assert_allclose(U.T @ U, np.eye(k), atol=1e-9)
    np.testing.assert_allclose(V.T @ V, np.eye(k), atol=1e-9)
    np.testing.assert_allclose(U * s @ V.T, left[:, :k] * values[:k] @ right[:k], atol=1e-9)


@pytest.mark.parametrize("rank", [2, 10])
def test_truncated_svd_leaves_out_what_is_not_there(rank):
    random = np.random.default_rng(3)
    M = random.normal(size=(10, 2)) @ random.normal(size=(2, 14))
    U, s, V = truncated_svd(M, rank)
    assert len(s) == 2
    np.testing.assert_allclose(U * s @ V.T, M, atol=1e-10)


def test_truncated_svd_of_nothing_is_refused():
    with pytest.raises(BadInput, match="the two views are uncorrelated"):
        truncated_svd(np.zeros((3, 4)), 2)


def test_moments_by_tiles(monkeypatch):
    random = np.random.default_rng(2)
    images, texts = random.normal(size=(9, 7)), random.normal(size=(9, 11))
    blocks = [torch.from_numpy(images)]
    whole = moments(blocks, torch.from_numpy(texts), torch.arange(9))
    monkeypatch.setattr(linalg, "TILE", 3)
    tiled = moments(blocks, torch.from_numpy(texts), torch.arange(9))
    for name in ("xx", "yy", "xy"):
        np.testing.assert_allclose(getattr(tiled, name), getattr(whole, name), atol=1e-12)


def test_a_factorisation_serves_all_ridges_of_the_other_side(monkeypatch):
    X, Y = np.random.default_rng(4).normal(size=(2, 30, 5))
    C = moments([torch.from_numpy(X)], torch.from_numpy(X + Y), torch.arange(30))
    made: list[float] = []
    latest: dict[str, tuple[float, Whitening]] = {}
    factorise = Whitening.of
    monkeypatch.setattr(Whitening, "of", lambda C, ridge: made.append(ridge) or factorise(C, ridge))
    for rx, ry in ((0.1, 0.3), (0.2, 0.3), (0.2, 0.4)):
        shared = canonical_correlations(C, rx, ry, 3, latest)
        assert made == [0.1, 0.3, 0.2, 0.4][: len(made)]
        with monkeypatch.context() as patched:
            patched.setattr(Whitening, "of", factorise)
            for x, y in zip(shared, canonical_correlations(C, rx, ry, 3), strict=True):
                np.testing.assert_array_equal(x, y)
    assert len(made) == 4


def test_mapped_moments_are_those_of_the_mapped_views():
    random = np.random.default_rng(3)
    X, Y, Wx, Wy = (random.normal(size=shape) for shape in ((30, 5), (30, 4), (5, 3), (4, 2)))
    C = moments([torch.from_numpy(X)], torch.from_numpy(Y), torch.arange(30))
    for A, B in ((Wx, Wy), (None, Wy), (Wx, None)):
        mapped = [torch.from_numpy(view if W is None else view @ W) for view, W in ((X, A), (Y, B))]
        expected = moments([mapped[0]], mapped[1], torch.arange(30))
        for name, value in vars(C.mapped(A, B)).items():
            np.testing.assert_allclose(value, getattr(expected, name), atol=1e-12)
