"""The base of the methods that learn from categories."""

from dataclasses import dataclass

import numpy as np
import pytest
from labelled import Given, Notes, fit, invented, one_hot

from cran_bench.errors import BadInput
from cran_bench.methods._labelled import Labelled
from cran_bench.methods._linear import scaled
from cran_bench.methods.cca import CCA


@dataclass
class Joint(Labelled):
    """Keeps the moments."""

    image: str = "none"
    text_scaling: str = "none"

    def fit(self, train, val, run):
        self.begin(run)
        self.rows = self.labelled(train, run)
        self.C = self.joint_moments(self.rows, run)
        self.z = self.standardized(self.C, len(self.rows.split.texts), self.rows.of_images.shape[1])


def fitted(split, **fields):
    method = Joint(**fields)
    run = Notes(split, method)
    method.fit(split, split, run)
    return method, run


def test_joint_moments_are_those_of_pairs():
    split = invented(captions=3)
    method, _ = fitted(split)
    X, Y = split.images.numpy()[split.image_of].astype(float), split.text_features.numpy().astype(float)
    Z = split.given.numpy()[split.image_of]
    V = np.hstack([X, Y, Z])
    p = X.shape[1]
    whole = np.cov(V.T)
    np.testing.assert_allclose(method.C.xx, whole[:p, :p], atol=1e-10)
    np.testing.assert_allclose(method.C.xy, whole[:p, p:], atol=1e-10)
    np.testing.assert_allclose(method.C.yy, whole[p:, p:], atol=1e-10)
    np.testing.assert_allclose(method.mean_y, Y.mean(axis=0), atol=1e-10)


def test_standardised_moments_are_those_of_standardised_features():
    split = invented(captions=2)
    split.images[:, 2], split.text_features[:, 1] = 1 / 3, 0.0
    method, _ = fitted(split)
    X, Y = split.images.numpy()[split.image_of].astype(float), split.text_features.numpy().astype(float)
    Z = split.given.numpy()[split.image_of]
    s_x, s_y = (np.where(V.std(axis=0) < 1e-9, 1, V.std(axis=0)) for V in (X, Y))
    np.testing.assert_allclose(method.z.s_x, s_x, rtol=1e-6)
    np.testing.assert_allclose(method.z.s_y, [*s_y, 1, 1, 1], rtol=1e-6)
    whole = np.cov(np.hstack([X / s_x, Y / s_y, Z]).T)
    p = X.shape[1]
    np.testing.assert_allclose(method.z.moments.xx, whole[:p, :p], atol=1e-8)
    np.testing.assert_allclose(method.z.moments.xy, whole[:p, p:], atol=1e-8)
    np.testing.assert_allclose(method.z.moments.yy, whole[p:, p:], atol=1e-8)
    raw, _ = fitted(split, standardize=False)
    assert (raw.z.s_x == 1).all() and (raw.z.s_y == 1).all()
    np.testing.assert_array_equal(raw.z.moments.xy, raw.C.xy)


def test_images_without_categories_are_left_out_and_counted():
    split = invented(n=20, captions=2)
    split.given[[3, 7]] = 0
    method, run = fitted(split)
    assert run.choices == {"unlabelled": 2}
    kept = np.delete(np.arange(20), [3, 7])
    np.testing.assert_array_equal(method.rows.split.images, split.images[kept])
    np.testing.assert_array_equal(method.rows.of_images, split.given[kept])
    alone, none = fitted(split.take(kept))
    assert none.choices == {}
    np.testing.assert_array_equal(method.C.xy, alone.C.xy)


def test_categories_of_no_image_are_left_out():
    split = invented()
    wider = Given(split.images, split.text_features, np.insert(split.given.numpy(), 1, 0, axis=1))
    assert fitted(wider)[0].rows.of_images.shape[1] == 3
    assert fitted(split)[0].rows.single
    split.given[0] = 1
    assert not fitted(split)[0].rows.single


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (np.zeros((6, 2)), "no image of the train split has a category"),
        (one_hot([1] * 6), "all images of the train split have the same categories"),
        (np.ones((6, 2)), "all images of the train split have the same categories"),
    ],
)
def test_categories_that_tell_nothing_apart(categories, message):
    random = np.random.default_rng(0)
    with pytest.raises(BadInput, match=message):
        fitted(Given(random.normal(size=(6, 3)), random.normal(size=(6, 2)), categories))


@pytest.mark.parametrize("side", ["image", "text"])
def test_constant_features_are_named_though_categories_vary(side):
    split = invented()
    (split.images if side == "image" else split.text_features)[:] = 1 / 3
    with pytest.raises(BadInput, match=f"the {side} features are the same in all rows"):
        fitted(split)


@pytest.mark.parametrize("scaling", ["none", "l2", "sqrt"])
@pytest.mark.parametrize("text", ["tfidf", "encoder"])
def test_linear_methods_read_features_of_texts_in_place_of_words(plain_split, text, scaling):
    split = invented(captions=2)
    rows = scaled(split.text_features, scaling)
    options = {"image": "none", "ridge_image": (1e-3,), "ridge_text": (1e-3,), "dim": (3,), "power": (1.0,)}
    ours, theirs = CCA(text=text, text_scaling=scaling, **options), CCA(text="vectors", **options)
    plain = plain_split(split.images, rows, split.image_of)
    plain.given = split.given
    fit(ours, split)
    fit(theirs, plain)
    assert ours.text_dim(split) == 5
    np.testing.assert_array_equal(ours.Wy, theirs.Wy)
    np.testing.assert_array_equal(ours.embed_texts(split), theirs.embed_texts(plain))
