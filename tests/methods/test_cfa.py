from itertools import product

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import PLSSVD

from cran_bench.errors import BadInput
from cran_bench.methods.cfa import CFA
from cran_bench.registry import METHODS
from cran_bench.running.fits import FitStore
from cran_bench.similarity import COSINE


def correlated(n=300, p=6, q=5, seed=0):
    random = np.random.default_rng(seed)
    z = random.normal(size=(n, 4)) * np.linspace(2, 0.5, 4)
    X = z @ random.normal(size=(4, p)) + random.normal(size=(n, p)) + 1
    Y = z @ random.normal(size=(4, q)) + random.normal(size=(n, q)) - 2
    return X, Y


@pytest.fixture
def fit(plain_split, run_on):
    """``fit(X, Y)``: everything kept, unweighted, with features as they are."""

    def fitted(X, Y, dim=1000, power=0.0, image_of=None, text_std_power=0.0):
        train = plain_split(X, Y, image_of)
        method = CFA(text="vectors", image="none", dim=(dim,), power=(power,), text_std_power=(text_std_power,))
        method.fit(train, train, run_on(train, COSINE))
        return method

    return fitted


def cross(X, Y):
    return (X - X.mean(axis=0)).T @ (Y - Y.mean(axis=0)) / (len(X) - 1)


@pytest.mark.parametrize("dim", [1, 3, 5])
@pytest.mark.parametrize("shape", [(6, 5), (5, 9)])
def test_the_trace_is_the_sum_of_the_singular_values(fit, dim, shape):
    X, Y = correlated(p=shape[0], q=shape[1])
    method = fit(X, Y, dim)
    A, B = method.Wx.numpy(), method.Wy.numpy()
    np.testing.assert_allclose(A.T @ A, np.eye(dim), atol=1e-10)
    np.testing.assert_allclose(B.T @ B, np.eye(dim), atol=1e-10)
    values = np.linalg.svd(cross(X, Y), compute_uv=False)
    np.testing.assert_allclose(np.diag(A.T @ cross(X, Y) @ B), values[:dim], atol=1e-10)
    assert np.trace(A.T @ cross(X, Y) @ B) == pytest.approx(values[:dim].sum())


def test_no_other_orthonormal_maps_have_a_larger_trace(fit):
    X, Y = correlated()
    method, random = fit(X, Y, 3), np.random.default_rng(1)
    best = np.trace(method.Wx.numpy().T @ cross(X, Y) @ method.Wy.numpy())
    for _ in range(200):
        A, B = (np.linalg.qr(random.normal(size=(dim, 3)))[0] for dim in (6, 5))
        assert np.trace(A.T @ cross(X, Y) @ B) < best


def test_scikit_learn_agrees(fit, plain_split):
    X, Y = correlated()
    method, split = fit(X, Y), plain_split(X, Y)
    reference = PLSSVD(n_components=5, scale=False).fit(X, Y)
    for ours, theirs in ((method.Wx, reference.x_weights_), (method.Wy, reference.y_weights_)):
        np.testing.assert_allclose(np.abs(ours.numpy().T @ theirs), np.eye(5), atol=1e-8)
    a, b = reference.transform(X, Y)
    signs = np.sign(np.diag(method.Wx.numpy().T @ reference.x_weights_))
    np.testing.assert_allclose(method.embed_images(split), a * signs, atol=1e-4)
    np.testing.assert_allclose(method.embed_texts(split), b * signs, atol=1e-4)
    # The covariance of the k-th scores is the k-th singular value.
    covariance = (a * b).sum(axis=0) / (len(X) - 1)
    np.testing.assert_allclose(np.linalg.svd(cross(X, Y), compute_uv=False), covariance, rtol=1e-8)


def test_scaling_a_column_changes_the_solution(fit):
    X, Y = correlated()
    before = fit(X, Y, 1).Wx.numpy().ravel()
    X[:, 2] *= 10
    assert abs(before @ fit(X, Y, 1).Wx.numpy().ravel()) < 0.99


def test_views_that_are_turned_coincide_when_projected(fit, plain_split):
    X, _ = correlated()
    Q = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0]
    method = fit(X, X @ Q)
    split = plain_split(X, X @ Q)
    a, b = method.embed_images(split).numpy(), method.embed_texts(split).numpy()
    np.testing.assert_allclose(a, b * np.sign((a * b).sum(axis=0)), atol=1e-5)
    np.testing.assert_allclose(a, b, atol=1e-5)  # singular values are positive, so the signs agree already


def test_power_weights_the_dimensions(fit):
    X, Y = correlated()
    values = np.linalg.svd(cross(X, Y), compute_uv=False)
    plain, weighted = fit(X, Y).Wx.numpy(), fit(X, Y, power=-0.25).Wx.numpy()
    np.testing.assert_allclose(weighted, plain * (values / values[0]) ** -0.25, atol=1e-8)


def test_every_caption_is_a_sample(fit):
    random = np.random.default_rng(1)
    owner = np.repeat(np.arange(80), random.integers(1, 5, 80))
    X, _ = correlated(n=80)
    Y = X[owner] @ random.normal(size=(6, 5)) + random.normal(size=(len(owner), 5))
    one, other = fit(X, Y, image_of=owner), fit(X[owner], Y)
    np.testing.assert_allclose((one.Wx.T @ other.Wx).abs().numpy(), np.eye(5), atol=1e-8)
    np.testing.assert_allclose(one.mean_x, X[owner].mean(axis=0), atol=1e-10)


# through the suite ------------------------------------------------------------------------------------------------


def fitted(method, tiny, folder):
    return FitStore(folder, {}, tiny.train, tiny.val, torch.device("cpu")).fitted(method, 0, "cfa")


@pytest.mark.parametrize("text", ["tfidf", "bow", "vectors"])
@pytest.mark.parametrize("image", ["l2", "sqrt", "none"])
def test_it_learns_and_comes_back_the_same(tiny, tmp_path, text, image):
    made = fitted(CFA(text=text, image=image), tiny, tmp_path)
    images, texts = made.part.embed_images(tiny.test), made.part.embed_texts(tiny.test)
    assert images.dtype == texts.dtype == torch.float32
    assert (len(images), len(texts)) == (len(tiny.test), len(tiny.test.texts))
    loaded = fitted(CFA(text=text, image=image), tiny, tmp_path)
    assert (made.reused, loaded.reused) == (False, True)
    assert torch.equal(loaded.part.embed_images(tiny.test), images)
    assert torch.equal(loaded.part.embed_texts(tiny.test), texts)
    fresh = CFA(text=text, image=image)
    fresh.load(made.part.state())
    assert torch.equal(fresh.embed_texts(tiny.test), texts)
    scores = COSINE.scores(images, texts)
    own = torch.zeros_like(scores, dtype=torch.bool)
    own[tiny.test.image_of, torch.arange(len(texts))] = True
    assert float(scores[own].mean()) > float(scores[~own].mean()) + 0.2


def test_validation_chooses_the_best_of_the_grid(tiny, run_on):
    grid = {"dim": (1, 3, 4096), "power": (-0.5, 0.0, 1.0), "text_std_power": (0.0, 0.5)}
    run = run_on(tiny.val, COSINE)
    method = CFA(**grid)
    method.fit(tiny.train, tiny.val, run)
    singles = {}
    for dim, power, text_std_power in product(*grid.values()):
        alone = run_on(tiny.val, COSINE)
        CFA(dim=(dim,), power=(power,), text_std_power=(text_std_power,)).fit(tiny.train, tiny.val, alone)
        singles[alone.choices["dim"], power, text_std_power] = alone.scored[0]
    assert len(singles) == len(run.scored) == 18
    best = max(singles.values())
    assert singles[run.choices["dim"], run.choices["power"], run.choices["text_std_power"]] == pytest.approx(best)
    embedded = run.score(method.embed_images(tiny.val), method.embed_texts(tiny.val))
    assert embedded.rsum == pytest.approx(best)


def test_evening_is_the_method_on_scaled_text_columns(fit, plain_split):
    X, Y = correlated()
    Y[:, 1] *= 20
    whole = fit(X, Y, text_std_power=1.0)
    scaled = (Y - Y.mean(axis=0)) / Y.std(axis=0, ddof=1)
    np.testing.assert_allclose(whole.spectrum, np.linalg.svd(cross(X, scaled), compute_uv=False), atol=1e-8)
    expected = fit(X, scaled).embed_texts(plain_split(X, scaled))
    np.testing.assert_allclose(whole.embed_texts(plain_split(X, Y)).abs(), expected.abs(), atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cfa[dim=0]", "dim is at least 1"),
        ("cfa[vocabulary=-3]", "vocabulary is at least 1"),
        ("cfa[power=x]", "field 'power' takes a number, not 'x'"),
        ("cfa[text=tf-idf]", "field 'text' is 'tf-idf'; did you mean 'tfidf'"),
        ("cfa[ridge=1]", "cfa has no field 'ridge'"),
    ],
)
def test_wrong_fields_are_refused(spec, message):
    with pytest.raises(BadInput, match=message):
        METHODS.configure(spec)


def test_the_preset_of_the_paper():
    configured = METHODS.configure("cfa:paper")
    assert configured.build() == CFA(image="l2", sublinear=False, dim=(300,), power=(0.0,), text_std_power=(0.0,))
    assert configured.plugin.paper_row == "CFA"
