from itertools import product

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.cross_decomposition import CCA as Reference
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

from cran_bench.errors import BadInput
from cran_bench.frontend.text.words import tokenize
from cran_bench.methods.cca import CCA
from cran_bench.methods.cfa import CFA
from cran_bench.methods.dcca import DCCA
from cran_bench.registry import METHODS
from cran_bench.running.fits import FitStore
from cran_bench.similarity import COSINE


def correlated(n=500, p=6, q=5, shared=4, seed=0):
    random = np.random.default_rng(seed)
    z = random.normal(size=(n, shared)) * np.linspace(2, 0.5, shared)
    X = z @ random.normal(size=(shared, p)) + random.normal(size=(n, p)) + 1
    Y = z @ random.normal(size=(shared, q)) + random.normal(size=(n, q)) - 2
    return X, Y


@pytest.fixture
def fit(plain_split, run_on):
    """``fit(X, Y)``: everything kept, unweighted, with features as they are."""

    def fitted(X, Y, ridge=0.0, image_of=None):
        train = plain_split(X, Y, image_of)
        method = CCA(text="vectors", image="none", ridge_image=(ridge,), ridge_text=(ridge,), dim=(1000,), power=(0.0,))
        method.fit(train, train, run_on(train, COSINE))
        return method

    return fitted


@pytest.mark.parametrize("method", [CCA, CFA, DCCA])
@pytest.mark.parametrize("side", ["image", "text"])
def test_constant_features_are_named(plain_split, run_on, method, side):
    X, Y = np.random.default_rng(0).normal(size=(50, 4)), np.random.default_rng(1).normal(size=(60, 3))
    X, Y = (np.full_like(X, 1 / 3), Y) if side == "image" else (X, np.full_like(Y, 1 / 3))
    train = plain_split(X, Y, np.sort(np.arange(60) % 50))
    with pytest.raises(BadInput, match=f"the {side} features are the same in all rows"):
        method(text="vectors", image="none").fit(train, train, run_on(train, COSINE))


def covariances(X, Y, ridge=0.0):
    p = X.shape[1]
    C = np.cov(X.T, Y.T)
    Cxx, Cyy = C[:p, :p], C[p:, p:]
    rx, ry = (ridge * np.linalg.eigvalsh(part)[-1] for part in (Cxx, Cyy))
    return Cxx + rx * np.eye(len(Cxx)), C[:p, p:], Cyy + ry * np.eye(len(Cyy))


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
@pytest.mark.parametrize("shape", [(6, 5), (4, 9)])
def test_the_correlations_solve_the_eigenproblems(fit, ridge, shape):
    X, Y = correlated(p=shape[0], q=shape[1])
    rho = fit(X, Y, ridge).spectrum.numpy()
    Cxx, Cxy, Cyy = covariances(X, Y, ridge)
    squared = np.linalg.eigvals(np.linalg.solve(Cxx, Cxy) @ np.linalg.solve(Cyy, Cxy.T)).real
    np.testing.assert_allclose(rho, np.sqrt(np.sort(squared)[::-1][: len(rho)]), atol=1e-8)

    whole = np.block([[Cxx, Cxy], [Cxy.T, Cyy]])
    values = scipy.linalg.eigh(whole, scipy.linalg.block_diag(Cxx, Cyy), eigvals_only=True)
    np.testing.assert_allclose(rho, values[::-1][: len(rho)] - 1, atol=1e-8)
    assert len(rho) == min(shape)


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_the_constraints_hold(fit, ridge):
    X, Y = correlated()
    method = fit(X, Y, ridge)
    Cxx, Cxy, Cyy = covariances(X, Y, ridge)
    Wx, Wy = method.Wx.numpy(), method.Wy.numpy()
    np.testing.assert_allclose(Wx.T @ Cxx @ Wx, np.eye(5), atol=1e-9)
    np.testing.assert_allclose(Wy.T @ Cyy @ Wy, np.eye(5), atol=1e-9)
    np.testing.assert_allclose(Wx.T @ Cxy @ Wy, np.diag(method.spectrum.numpy()), atol=1e-9)


def test_invertible_maps_of_either_view_change_nothing(fit):
    X, Y = correlated()
    random = np.random.default_rng(5)
    A, B = random.normal(size=(6, 6)), random.normal(size=(5, 5))
    before, after = fit(X, Y, 1e-13), fit(X @ A + 3, Y @ B, 1e-13)
    np.testing.assert_allclose(after.spectrum, before.spectrum, atol=1e-8)
    scaled = fit(X @ A, Y, 1e-1)
    assert not np.allclose(scaled.spectrum, before.spectrum, atol=1e-3)


def test_scikit_learn_agrees(fit, plain_split):
    X, Y = correlated(n=500, p=6, q=5)
    method = fit(X, Y)
    reference = Reference(n_components=5, scale=False, max_iter=100_000, tol=1e-14).fit(X, Y)
    # sklearn deflates pair by pair, so only its scores are comparable, and only up to sign and scale.
    for ours, theirs in zip(
        (method.embed_images(plain_split(X, Y)), method.embed_texts(plain_split(X, Y))),
        reference.transform(X, Y),
        strict=True,
    ):
        for k in range(5):
            assert abs(np.corrcoef(ours[:, k], theirs[:, k])[0, 1]) == pytest.approx(1, abs=1e-5)


def test_the_projections_are_as_correlated_as_the_method_says(fit, plain_split):
    X, Y = correlated()
    method, split = fit(X, Y), plain_split(X, Y)
    a, b = method.embed_images(split).double().numpy(), method.embed_texts(split).double().numpy()
    found = [np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(5)]
    np.testing.assert_allclose(found, method.spectrum, atol=1e-5)
    np.testing.assert_allclose(a.mean(axis=0), 0, atol=1e-6)


def test_independent_views_are_hardly_correlated(fit):
    random = np.random.default_rng(0)
    n, p, q = 5000, 6, 5
    rho = fit(random.normal(size=(n, p)), random.normal(size=(n, q))).spectrum
    assert float(rho.max()) < 2 * np.sqrt((p + q) / n)


def test_every_caption_is_a_sample(fit):
    random = np.random.default_rng(1)
    owner = np.repeat(np.arange(120), random.integers(1, 5, 120))
    X, _ = correlated(n=120)
    Y = X[owner] @ random.normal(size=(6, 5)) + 2 * random.normal(size=(len(owner), 5))
    rho = fit(X, Y, image_of=owner).spectrum
    np.testing.assert_allclose(rho, fit(X[owner], Y).spectrum, atol=1e-10)


def test_a_repeated_column_needs_a_ridge(fit):
    X, Y = correlated()
    X = np.hstack([X, X[:, :1], 0 * X[:, :1]])
    with pytest.raises(BadInput, match="raise the ridge"):
        fit(X, Y, 0.0)
    assert float(fit(X, Y, 1e-3).spectrum.max()) < 1


# through the suite ------------------------------------------------------------------------------------------------


def fitted(method, tiny, folder):
    return FitStore(folder, {}, tiny.train, tiny.val, torch.device("cpu")).fitted(method, 0, "cca")


@pytest.mark.parametrize("text", ["tfidf", "bow", "vectors"])
@pytest.mark.parametrize("image", ["l2", "sqrt", "none"])
def test_it_learns_and_comes_back_the_same(tiny, tmp_path, text, image):
    made = fitted(CCA(text=text, image=image), tiny, tmp_path)
    images, texts = made.part.embed_images(tiny.test), made.part.embed_texts(tiny.test)
    assert images.dtype == texts.dtype == torch.float32
    assert (len(images), len(texts)) == (len(tiny.test), len(tiny.test.texts))
    loaded = fitted(CCA(text=text, image=image), tiny, tmp_path)
    assert (made.reused, loaded.reused) == (False, True)
    assert loaded.chose == made.chose
    assert torch.equal(loaded.part.embed_images(tiny.test), images)
    assert torch.equal(loaded.part.embed_texts(tiny.test), texts)
    scores = COSINE.scores(images, texts)
    own = torch.zeros_like(scores, dtype=torch.bool)
    own[tiny.test.image_of, torch.arange(len(texts))] = True
    assert float(scores[own].mean()) > float(scores[~own].mean()) + 0.2


def test_the_state_is_everything(tiny, tmp_path):
    made = fitted(CCA(), tiny, tmp_path).part
    fresh = CCA()
    fresh.load({key: value.clone() for key, value in made.state().items()})
    assert torch.equal(fresh.embed_texts(tiny.test), made.embed_texts(tiny.test))
    assert torch.equal(fresh.embed_images(tiny.test), made.embed_images(tiny.test))


def test_validation_chooses_the_best_of_the_grid(tiny, run_on):
    grid = {"ridge_image": (1e-3, 1e-1), "dim": (2, 6, 4096), "power": (0.0, 1.0, 2.0)}
    run = run_on(tiny.val, COSINE)
    method = CCA(ridge_text=(1e-2,), **grid)
    method.fit(tiny.train, tiny.val, run)
    singles = {}
    for ridge, dim, power in product(*grid.values()):
        alone = run_on(tiny.val, COSINE)
        CCA(ridge_image=(ridge,), ridge_text=(1e-2,), dim=(dim,), power=(power,)).fit(tiny.train, tiny.val, alone)
        singles[ridge, alone.choices["dim"], power] = alone.scored[0]
    assert len(singles) == len(run.scored) == 18
    best = max(singles.values())
    assert max(run.scored) == pytest.approx(best)
    assert singles[run.choices["ridge_image"], run.choices["dim"], run.choices["power"]] == pytest.approx(best)
    embedded = run.score(method.embed_images(tiny.val), method.embed_texts(tiny.val))
    assert embedded.rsum == pytest.approx(best)


def test_the_image_ridge_is_chosen_first_then_the_text_ridge(tiny, run_on):
    ridges = (1e-4, 1e-2, 1.0)
    one = {"dim": (6,), "power": (1.0,)}
    singles = {}
    for rx, ry in product(ridges, ridges):
        alone = run_on(tiny.val, COSINE)
        CCA(ridge_image=(rx,), ridge_text=(ry,), **one).fit(tiny.train, tiny.val, alone)
        singles[rx, ry] = alone.scored[0]
    run = run_on(tiny.val, COSINE)
    CCA(ridge_image=ridges, ridge_text=ridges, **one).fit(tiny.train, tiny.val, run)
    assert len(run.scored) == 5  # three image ridges under the middle text ridge, then the two other text ridges
    image = max(ridges, key=lambda rx: singles[rx, 1e-2])
    assert max(run.scored) == pytest.approx(max(singles[image, ry] for ry in ridges))


@pytest.mark.parametrize("sublinear", [False, True])
def test_tfidf_damps_repeated_words_only_where_it_is_sublinear(tiny, sublinear):
    words = CountVectorizer(analyzer=tokenize).fit(tiny.train.texts)
    counts = [words.transform(split.texts) for split in (tiny.train, tiny.val)]
    assert counts[1].max() > 1
    expected = TfidfTransformer(sublinear_tf=sublinear).fit(counts[0]).transform(counts[1]).toarray()
    found = CCA(sublinear=sublinear).text_features(tiny.val).toarray()
    order = [words.vocabulary_[word] for word in tiny.train._text.vocabulary]
    np.testing.assert_allclose(found, expected[:, order], atol=1e-6)


@pytest.mark.parametrize("name", ["cca", "cfa", "kcca", "macc", "dcca"])
def test_counts_are_damped_in_tuned_and_plain_in_paper(name):
    assert METHODS.configure(name).build().sublinear
    assert not METHODS.configure(f"{name}:paper").build().sublinear


def test_dim_is_at_most_the_rank(tiny, run_on):
    run = run_on(tiny.val, COSINE)
    CCA(ridge_image=(0.01,), ridge_text=(0.01,), dim=(4096,), power=(0.0,)).fit(tiny.train, tiny.val, run)
    assert run.choices["dim"] <= min(tiny.train.images.shape[1], tiny.train.tfidf().shape[1])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cca[ridge_image=-1]", "ridge_image and ridge_text are not negative"),
        ("cca[ridge_text=1|-0.5]", "ridge_image and ridge_text are not negative"),
        ("cca[dim=0]", "dim is at least 1"),
        ("cca[vocabulary=0]", "vocabulary is at least 1"),
        ("cca[dim=1.5]", "field 'dim' takes a whole number, not '1.5'"),
        ("cca[ridge_text=small]", "field 'ridge_text' takes a number, not 'small'"),
        ("cca[image=l1]", "field 'image' is 'l1'; did you mean 'l2'"),
        ("cca[rigde_text=1]", "no field 'rigde_text'; did you mean 'ridge_text'"),
    ],
)
def test_wrong_fields_are_refused(spec, message):
    with pytest.raises(BadInput, match=message):
        METHODS.configure(spec)


def test_the_preset_of_the_paper():
    configured = METHODS.configure("cca:paper")
    plain = {"image": "l2", "sublinear": False, "power": (0.0,)}
    assert configured.build() == CCA(**plain, ridge_image=(1e-8,), ridge_text=(1e-8,), dim=(4096,))
    assert configured.plugin.paper_row == "CCA"
    assert METHODS.configure("cca").build() == CCA()
