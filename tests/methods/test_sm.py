"""SM and SCM: class probabilities against scikit-learn's, limits with known answers, and published figures."""

import numpy as np
import pytest
import torch
from labelled import Given, evaluate, fit, invented, maps, one_hot, wikipedia
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from cran_bench.errors import BadInput
from cran_bench.methods.scm import SCM
from cran_bench.methods.sm import SM
from cran_bench.ranking.evaluation import evaluate as rank_all
from cran_bench.registry import DATASETS, METHODS
from cran_bench.similarity import COSINE, DOT

ONE = {"C": (1.0,), "regression": ("multinomial",), "compare": "dot"}
WHOLE = {"dim": (20,), "power": (0.0,), "ridge_image": (1e-12,), "ridge_text": (1e-12,)}


def fitted(method, train, val=None):
    fit(method, train, val)
    return method


def probabilities(method, split):
    return method.embed_images(split).double().numpy(), method.embed_texts(split).double().numpy()


def z_scores(rows):
    rows = rows.double().numpy()
    return (rows - rows.mean(axis=0)) / rows.std(axis=0)


@pytest.mark.parametrize("kind", ["multinomial", "ovr"])
@pytest.mark.parametrize("standardize", [True, False])
def test_probabilities_are_those_of_scikit_learn(kind, standardize, monkeypatch):
    monkeypatch.setattr("cran_bench.methods.sm.STOP", 1e-8)
    split = invented()
    found = probabilities(fitted(SM(**ONE | {"regression": (kind,), "standardize": standardize}), split), split)
    one = LogisticRegression(solver="liblinear", tol=1e-8)
    for rows, ours in zip((split.images, split.text_features), found, strict=True):
        theirs = LogisticRegression(tol=1e-8) if kind == "multinomial" else OneVsRestClassifier(one)
        rows = z_scores(rows) if standardize else rows.double().numpy()
        theirs.fit(rows, split.given.argmax(dim=1).numpy())
        np.testing.assert_allclose(ours, theirs.predict_proba(rows), atol=2e-3)
        np.testing.assert_allclose(ours.sum(axis=1), 1, atol=1e-6)


def test_the_bias_of_one_against_the_rest_is_penalised():
    split = invented()
    weak = fitted(SM(**ONE | {"regression": ("ovr",), "C": (1e-9,)}), split)
    np.testing.assert_allclose(probabilities(weak, split)[0], 1 / 3, atol=1e-4)


@pytest.mark.parametrize("method", [SM, SCM])
@pytest.mark.parametrize("kind", ["multinomial", "ovr"])
def test_perfect_features_are_matched_perfectly(method, kind):
    labels = one_hot(np.arange(40) % 4)
    split = Given(labels, labels, labels)
    options = {"C": (1e3,), "regression": (kind,)} | ({} if method is SM else WHOLE)
    for compare in ("cosine", "centred", "dot"):
        assert evaluate(fitted(method(**options, compare=compare), split), split) == pytest.approx((1, 1))


@pytest.mark.parametrize("method", [SM, SCM])
@pytest.mark.parametrize("compare", ["cosine", "centred", "dot"])
def test_with_all_weight_on_the_penalty_all_scores_tie_and_chance_is_exact(method, compare):
    classes = np.repeat([0, 1, 2], [30, 20, 10])
    split = invented(60)
    split = Given(split.images, split.text_features, one_hot(classes))
    model = fitted(method(C=(1e-12,), regression=("multinomial",), compare=compare), split)
    constant = maps(torch.ones(60, 1), torch.ones(60, 1), split, DOT)
    assert evaluate(model, split) == constant
    assert constant[0] < 0.5


def test_a_strong_penalty_leaves_the_shares_of_the_classes():
    split = invented(60)
    split = Given(split.images, split.text_features, one_hot(np.repeat([0, 1, 2], [30, 20, 10])))
    for found in probabilities(fitted(SM(**ONE | {"C": (1e-6,)}), split), split):
        np.testing.assert_allclose(found, np.tile([1 / 2, 1 / 3, 1 / 6], (60, 1)), atol=1e-3)


@pytest.mark.parametrize("kind", ["multinomial", "ovr"])
def test_the_order_of_classes_does_not_matter(kind):
    split = invented()
    swapped = Given(split.images, split.text_features, split.given[:, [2, 0, 1]])
    a, b = (probabilities(fitted(SM(**ONE | {"regression": (kind,)}), s), split) for s in (split, swapped))
    np.testing.assert_allclose(a[0][:, [2, 0, 1]], b[0], atol=1e-4)
    np.testing.assert_allclose(a[1][:, [2, 0, 1]], b[1], atol=1e-4)


def test_scm_with_all_variates_is_sm_up_to_the_penalty():
    split = invented(n=150, p=5, q=5, spread=6.0)
    strong = ONE | {"C": (1e6,)}
    ours, theirs = (probabilities(fitted(m, split), split) for m in (SCM(**strong, **WHOLE), SM(**strong)))
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-3)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-3)
    few = probabilities(fitted(SCM(**strong | WHOLE | {"dim": (1,)}), split), split)
    assert np.abs(few[0] - theirs[0]).max() > 0.05


def test_principal_components_of_full_rank_change_nothing_and_fewer_do():
    split = invented(n=150, spread=6.0)
    plain, many, few = (probabilities(fitted(SM(**ONE, dim=(d,)), split), split) for d in (7, 500, 1))
    np.testing.assert_array_equal(plain[0], many[0])
    assert np.abs(few[0] - plain[0]).max() > 0.05


def test_comparisons_are_those_of_the_probabilities():
    split = invented(n=150, spread=6.0)
    plain = fitted(SM(**ONE), split)
    pi, cosine = probabilities(plain, split), fitted(SM(**ONE | {"compare": "cosine"}), split)
    centred = fitted(SM(**ONE | {"compare": "centred"}), split)
    assert (plain.similarity, cosine.similarity, centred.similarity) == (DOT, COSINE, COSINE)
    for ours, given in zip(probabilities(centred, split), pi, strict=True):
        np.testing.assert_allclose(ours, given - given.mean(axis=0), atol=1e-6)
    for ours, given in zip(probabilities(cosine, split), pi, strict=True):
        np.testing.assert_array_equal(ours, given)


def several(n=120):
    """Images and texts with one or two of three categories."""
    split, random = invented(n), np.random.default_rng(5)
    labels = np.maximum(split.given.numpy(), one_hot(random.integers(0, 3, n), 3))
    centres = random.normal(size=(2, 3, 8))
    X, Y = (labels @ centre + 0.3 * random.normal(size=(n, 8)) for centre in centres)
    return Given(X, Y, labels)


def test_images_with_several_categories_get_a_probability_for_each():
    split = several()
    model = SM(C=(1.0,), compare="centred")
    run = fit(model, split)
    assert run.choices["regression"] == "ovr"
    pi = model.embed_images(split) + model.prior_x
    theirs = OneVsRestClassifier(LogisticRegression(solver="liblinear", tol=1e-2))
    theirs.fit(z_scores(split.images), split.given.numpy())
    np.testing.assert_allclose(pi, theirs.predict_proba(z_scores(split.images)), atol=5e-3)
    assert float(pi.sum(dim=1).max()) > 1.5
    assert min(evaluate(model, split)) > 0.9
    with pytest.raises(BadInput, match="some have several \\(given\\): use regression=ovr"):
        fit(SM(regression=("multinomial",)), split)


def test_a_category_of_all_images_is_left_out_and_one_of_a_single_image_is_learned():
    split = several()
    wider = Given(split.images, split.text_features, np.insert(split.given.numpy(), 1, 1, axis=1))
    ours, theirs = (fitted(SM(C=(1.0,)), some).embed_images(split) for some in (wider, split))
    np.testing.assert_array_equal(ours, theirs)
    lone = invented()
    lone = Given(lone.images, lone.text_features, np.hstack([lone.given.numpy(), np.zeros((90, 1))]))
    lone.given[0] = torch.tensor([0, 0, 0, 1])
    for kind in ("ovr", "multinomial"):
        assert np.isfinite(probabilities(fitted(SM(**ONE | {"regression": (kind,)}), lone), lone)[0]).all()


def test_two_classes_have_two_probabilities():
    split = invented(classes=2)
    found = probabilities(fitted(SM(**ONE), split), split)[0]
    theirs = LogisticRegression(tol=1e-8).fit(z_scores(split.images), split.given.argmax(dim=1).numpy())
    np.testing.assert_allclose(found, theirs.predict_proba(z_scores(split.images)), atol=2e-3)


def test_validation_chooses_one_field_after_the_other():
    train, val = invented(spread=9.0), invented(n=60, seed=7, spread=9.0)
    grid = {"C": (1e-4, 1e-2, 1.0), "dim": (1, 2, 6), "regression": ("ovr", "multinomial")}
    model = SCM(**grid, ridge_image=(1e-6,), ridge_text=(1e-6,), compare="dot")
    run = fit(model, train, val)
    assert len(run.scored) == 1 + 2 + 2 + 1
    alone = SCM(**{name: (run.choices[name],) for name in (*model.subspace, "C", "regression")}, compare="dot")
    again = fit(alone, train, val)
    assert again.scored == [max(run.scored)]
    np.testing.assert_array_equal(model.embed_images(val), alone.embed_images(val))
    np.testing.assert_array_equal(model.embed_texts(val), alone.embed_texts(val))
    fixed = {name: (values[1],) for name, values in grid.items()}
    for dim, scored in zip((2, 1, 6), run.scored, strict=False):
        single = SCM(**fixed | {"dim": (dim,)}, ridge_image=(1e-6,), ridge_text=(1e-6,), compare="dot")
        assert fit(single, train, val).scored == [scored]


def test_the_similarity_is_always_in_the_label():
    assert METHODS.configure("sm:paper").label == "sm:paper[compare=cosine]"
    assert METHODS.configure("scm:paper[compare=dot]").label == "scm:paper[compare=dot]"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sm[C=0]", "C is above 0, not 0"),
        ("sm[compare=cosinus]", "did you mean 'cosine'"),
        ("sm[regression=ovo]", "did you mean 'ovr'"),
        ("scm[ridge_text=-1]", "ridge_image and ridge_text are not negative"),
        ("scm[dim=0]", "dim is at least 1"),
    ],
)
def test_wrong_fields_are_refused(spec, message):
    with pytest.raises(BadInput, match=message):
        METHODS.configure(spec)


@pytest.mark.real
@pytest.mark.parametrize(
    ("spec", "i2t", "t2i"),
    [
        ("sm:paper", 0.2297, 0.2220),
        ("scm:paper", 0.2684, 0.2276),
        ("scm:paper[regression=multinomial]", 0.2744, 0.2268),
        ("sm:paper[regression=multinomial,standardize=true,compare=dot]", 0.3051, 0.2127),
        ("cca:cm", 0.2449, 0.1929),
    ],
)
def test_figures_on_wikipedia(spec, i2t, t2i):
    data = wikipedia()
    model = METHODS.configure(spec).build()
    fit(model, data.train, data.train.take(np.arange(50)))
    assert evaluate(model, data.test) == (pytest.approx(i2t, abs=0.003), pytest.approx(t2i, abs=0.003))


@pytest.mark.parametrize("spec", ["sm[C=1]", "scm[C=1,dim=16]"])
def test_it_comes_back_the_same(comes_back, spec):
    assert comes_back(spec).chose["C"] == 1.0


def test_twins_have_the_same_categories_and_are_not_told_apart(tmp_path):
    scenes = DATASETS.configure("scenes[train=40,val=2,test=20]").build().load(tmp_path)
    train, test = (Given(x, x, x) for x in (scenes.labels[scenes.splits[name]] for name in ("train", "test")))
    twins = torch.arange(20) ^ 1
    for method in (SM(C=(1.0,), compare="centred"), SCM(C=(1.0,), dim=(16,), ridge_image=(1e-3,), ridge_text=(1e-3,))):
        fit(method, train)
        sides = method.embed_images(test), method.embed_texts(test)
        figures = rank_all(*sides, test.image_of, twins, method.similarity, "documents", labels=test.given).metrics
        assert figures["twin_accuracy"] == 50.0
        assert min(evaluate(method, test)) > 0.5
