"""Bimodal AE, Multimodal DBN, Corr-AE and CCL: what their losses say, and what they learn on data without files."""

import dataclasses
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from cran_bench.errors import BadInput
from cran_bench.methods._codes import explained
from cran_bench.methods._stacks import Stack
from cran_bench.methods.bimodal_ae import BimodalAE, BimodalAutoencoder
from cran_bench.methods.ccl import CCL, contrastive_loss
from cran_bench.methods.corr_ae import CorrAE, CorrespondenceAutoencoder
from cran_bench.methods.multimodal_dbn import JointRBM, MultimodalDBN
from cran_bench.ranking.rank import rank
from cran_bench.registry import METHODS
from cran_bench.running.fits import FitStore, LentRun

SMALL = {
    "hidden_image": (32,),
    "hidden_text": (32,),
    "rbm_steps": 200,
    "rbm_lr_scale_image": 20.0,
    "rbm_lr_scale_text": 5.0,
    "vocabulary": 50,
    "batch_size": 20,
    "steps": 200,
}
METHODS_SMALL = [
    CorrAE(**SMALL, units=64),
    BimodalAE(**SMALL, units=64),
    MultimodalDBN(**SMALL, units=64),
    CCL(
        **SMALL,
        code_units=32,
        autoencoder_batch_size=20,
        autoencoder_steps=100,
        joint_units=48,
        joint_steps=100,
        units=64,
        margin=2.0,
    ),
]


@pytest.fixture
def store(tiny, tmp_path):
    return FitStore(tmp_path, {}, tiny.train, tiny.val, torch.device("cpu"))


@pytest.fixture(scope="module")
def shared(tiny, tmp_path_factory):
    """A store in which each layer is learned once, as its numbers depend on nothing else."""
    return FitStore(tmp_path_factory.mktemp("shared"), {}, tiny.train, tiny.val, torch.device("cpu"))


def recall(method, split):
    sides = method.embed_images(split), method.embed_texts(split)
    return rank(*sides, split.image_of, method.similarity).metrics()


def name(method):
    return type(method).__name__


@pytest.mark.no_cover
@pytest.mark.parametrize("method", METHODS_SMALL, ids=name)
def test_codes_do_not_collapse_and_find_pairs(tiny, shared, method):
    fit = shared.fitted(dataclasses.replace(method), 0, "deep")
    curve = fit.curves[name(method)]
    assert curve[-1]["spread"] > 0.005
    if name(method) == "CCL":
        assert 0 < curve[-1]["active"] < 1
    else:
        assert curve[-1]["explained"] > 0.02
    chance = 100 * (1 + 5 + 10) / len(tiny.train) * 2
    assert recall(fit.part, tiny.train).rsum > 1.5 * chance


@pytest.mark.no_cover
@pytest.mark.parametrize("method", METHODS_SMALL[:3], ids=name)
def test_probabilities_as_they_are_teach_something_too(tiny, shared, method):
    fit = shared.fitted(dataclasses.replace(method, standardise_inputs=False), 0, "deep")
    assert recall(fit.part, tiny.train).rsum > 1.1 * 100 * (1 + 5 + 10) / len(tiny.train) * 2


@pytest.mark.parametrize(
    "spec",
    ["corr-ae[variant=full]", "bimodal-ae", "multimodal-dbn[readout=generated]", "ccl[hidden=16,joint_steps=5]"],
)
def test_a_fit_comes_back_from_the_store(comes_back, spec):
    small = "hidden_image=16|12,hidden_text=16|12,vocabulary=50,rbm_steps=20,steps=20"
    comes_back(f"{spec}[{small}]" if "[" not in spec else f"{spec[:-1]},{small}]")


@pytest.mark.no_cover
def test_stacks_are_trained_once_for_all(tiny, store, tmp_path):
    for method in METHODS_SMALL:
        few = {"autoencoder_steps": 1, "joint_steps": 1} if isinstance(method, CCL) else {}
        store.fitted(dataclasses.replace(method, steps=1, rbm_steps=1, **few), 0, "deep")
    assert len(list(tmp_path.glob("stack-*.safetensors"))) == 4  # images, texts, regions, segments


@pytest.fixture
def stopping(monkeypatch):
    """``with stopping(when):`` what is fitted is stopped once a checkpoint says so."""

    @contextmanager
    def stop(when):
        write = LentRun.checkpoint

        def write_and_stop(self, state, at=""):
            write(self, state, at)
            if at.startswith(when):
                raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(LentRun, "checkpoint", write_and_stop)
            yield

    return stop


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "part",
    [
        Stack("image", "none", (16,), 40, batch_size=20),
        Stack("text", "bow", (16,), 40, vocabulary=50, batch_size=20),
        CorrAE(**{**SMALL, "steps": 40}, units=16, optimiser="sgd"),
        MultimodalDBN(**{**SMALL, "steps": 40}, units=16),
    ],
    ids=lambda part: getattr(part, "side", type(part).__name__),
)
def test_a_stopped_training_goes_on_to_the_same_numbers(tiny, store, tmp_path, stopping, part, capsys):
    elsewhere = FitStore(tmp_path / "stopped", {}, tiny.train, tiny.val, torch.device("cpu"))
    straight = store.fitted(dataclasses.replace(part), 0, "deep")
    with stopping("after epoch 3"):
        elsewhere.fitted(dataclasses.replace(part), 0, "deep")
    stopped = elsewhere.fitted(dataclasses.replace(part), 0, "deep")
    assert "resuming from the last checkpoint, after epoch 3" in capsys.readouterr().err
    assert stopped.curves == straight.curves
    for key, value in straight.part.state().items():
        assert torch.equal(value, stopped.part.state()[key]), key


def test_a_checkpoint_of_other_sizes_is_not_taken_up(tiny, tmp_path, stopping, capsys):
    found = []
    for units in (16, 24):
        store = FitStore(tmp_path / str(units), {}, tiny.train, tiny.val, torch.device("cpu"))
        with stopping("after epoch 1"):
            store.fitted(Stack("image", "none", (units,), 40, batch_size=20), 0, "stack")
        found += (tmp_path / str(units)).glob("*.checkpoint")
    found[1].write_bytes(found[0].read_bytes())
    fit = store.fitted(Stack("image", "none", (24,), 40, batch_size=20), 0, "stack")
    assert "the last checkpoint is of another configuration; fitting from the start" in capsys.readouterr().err
    assert fit.part.codes(tiny.test).shape == (len(tiny.test), 24)


def test_ccl_reuses_the_row_corr_ae():
    coarse = METHODS.configure("ccl").build().input_encoder().coarse
    assert coarse == METHODS.configure("corr-ae").build()


@pytest.mark.parametrize("is_real", [True, False])
def test_the_loss_of_corr_ae_by_hand(is_real):
    torch.manual_seed(0)
    p, q = torch.rand(3, 5), torch.rand(3, 4)
    for variant, reconstructed in (("plain", "pp qq"), ("cross", "pq qp"), ("full", "pp qq pq qp")):
        net = CorrespondenceAutoencoder(5, 4, 6, 0.3, variant, is_real)
        codes, inputs = {"p": net.image(p), "q": net.text(q)}, {"p": p, "q": q}
        side = {"p": "image", "q": "text"}
        expected = 0.3 * 0.5 * ((codes["p"] - codes["q"]) ** 2).sum() / 3
        for source, target in reconstructed.split():
            decoder = net.decoders[f"{side[source]}_{side[target]}"]
            found = codes[source] @ decoder.weight.T + decoder.bias
            found = found if is_real else 1 / (1 + torch.exp(-found))
            expected = expected + 0.7 * 0.5 * ((found - inputs[target]) ** 2).sum() / 3
        assert len(net.decoders) == len(reconstructed.split())
        torch.testing.assert_close(net.loss(p, q, torch.arange(3), 0), expected)


@pytest.mark.parametrize(
    "build",
    [
        lambda: CorrespondenceAutoencoder(5, 4, 6, 0.3, "full", False),
        lambda: BimodalAutoencoder(5, 4, 6, True),
    ],
    ids=["corr-ae", "bimodal-ae"],
)
def test_gradients_are_central_differences(build):
    torch.manual_seed(0)
    net = build().double()
    p, q = torch.rand(3, 5, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    net.loss(p, q, torch.arange(3), 0).backward()
    for parameter in net.parameters():
        flat, step = parameter.data.view(-1), 1e-6
        values = []
        for sign in (1, -1):
            flat[0] += sign * step
            values.append(net.loss(p, q, torch.arange(3), 0).item())
            flat[0] -= sign * step
        assert np.isclose((values[0] - values[1]) / (2 * step), float(parameter.grad.view(-1)[0]), atol=1e-7)


@pytest.mark.no_cover
def test_without_the_distance_the_sides_know_nothing_of_each_other(tiny, shared):
    alone = shared.fitted(CorrAE(**SMALL, units=64, alpha=0.0), 0, "alone").part
    together = shared.fitted(CorrAE(**SMALL, units=64), 0, "together").part
    assert recall(alone, tiny.train).rsum < 0.6 * recall(together, tiny.train).rsum


@pytest.mark.no_cover
def test_only_the_distance_collapses_the_codes(tiny, shared):
    curves = [shared.fitted(CorrAE(**SMALL, units=64, alpha=alpha), 0, "deep").curves["CorrAE"] for alpha in (0.9, 1.0)]
    assert curves[1][-1]["spread"] < 0.5 * curves[0][-1]["spread"]
    assert curves[1][-1]["explained"] < 0 < curves[0][-1]["explained"]


def test_bimodal_training_shows_each_side_alone_and_asks_for_both():
    torch.manual_seed(0)
    net = BimodalAutoencoder(5, 4, 6, is_real=False)
    p, q = torch.rand(3, 5), torch.rand(3, 4)
    zero_p, zero_q = torch.zeros(3, 5), torch.zeros(3, 4)
    torch.testing.assert_close(net.image(p), net.both(p, zero_q))
    torch.testing.assert_close(net.text(q), net.both(zero_p, q))
    expected = torch.zeros(())
    for x, y in ((p, q), (p, zero_q), (zero_p, q)):
        found = torch.sigmoid(net.decoder(net.both(x, y)))
        expected = expected + 0.5 * (found - torch.cat([p, q], dim=1)).square().sum() / 9
    torch.testing.assert_close(net.loss(p, q, torch.arange(3), 0), expected)


@pytest.mark.no_cover
def test_a_text_is_reconstructed_from_its_image_better_than_by_the_mean(tiny, shared):
    fit = shared.fitted(BimodalAE(**SMALL, units=64), 0, "bimodal")
    assert max(point["text_from_image"] for point in fit.curves["BimodalAE"]) > 0.05


def test_with_the_text_a_copy_of_the_image_bimodal_codes_find_every_pair():
    torch.manual_seed(0)
    rows = torch.randn(40, 12)
    net = BimodalAutoencoder(12, 12, 64, is_real=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(400):
        optimizer.zero_grad()
        net.loss(rows, rows, torch.arange(40), 0).backward()
        optimizer.step()
    with torch.inference_mode():
        sides = net.image(rows), net.text(rows)
    centred = [side - side.mean(dim=0) for side in sides]
    assert rank(*centred, torch.arange(40), CorrAE.similarity).metrics().i2t_r1 > 95  # type: ignore[call-arg]


def test_joint_inference_is_exact_where_both_sides_are_seen():
    torch.manual_seed(0)
    net = JointRBM(3, 3, 2, 10, "joint", is_real=False)
    for parameter in net.parameters():
        parameter.data.normal_()
    v = torch.rand(1, 6)
    h = torch.tensor(list(product((0.0, 1.0), repeat=2)))
    weights = torch.exp(v @ net.rbm.W @ h.T + h @ net.rbm.c)
    expected = (weights @ h) / weights.sum()
    torch.testing.assert_close(net.rbm.hidden(v), expected)


@pytest.mark.parametrize("is_real", [True, False])
def test_the_side_that_is_seen_stays_as_it_is(is_real):
    torch.manual_seed(0)
    net = JointRBM(3, 4, 8, 20, "generated", is_real)
    p, q = torch.rand(2, 3), torch.rand(2, 4)
    torch.testing.assert_close(net.image(p)[:, :3], p)
    torch.testing.assert_close(net.text(q)[:, 3:], q)
    filled = net.image(p)[:, 3:]
    net.readout = "joint"
    torch.testing.assert_close(net.image(p), net.rbm.hidden(torch.cat([p, filled], dim=1)))
    settled = net.rbm.visible(net.rbm.hidden(torch.cat([p, filled], dim=1)))[:, 3:]
    np.testing.assert_allclose(filled.detach(), settled.detach(), atol=0.05)


def test_the_contrastive_loss_by_hand():
    images = torch.tensor([[0.0, 0], [3, 0], [0, 1]])
    texts = torch.tensor([[0.0, 1], [3, 4], [0, 1]])
    # distances: (0,0) 1, (1,1) 4, (2,2) 0; of the others (0,2) 1 and (2,0) 0 are below the margin 2
    expected = ((1 + 16 + 0) + (2 - 1) ** 2 + (2 - 0) ** 2) / 6
    found = contrastive_loss(images, texts, torch.arange(3), 2.0)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)
    # with the last row of the first row's image, these two match as well: 1 and 0
    expected = ((1 + 16 + 0) + 1 + 0) / 6
    found = contrastive_loss(images, texts, torch.tensor([0, 1, 0]), 2.0)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.no_cover
def test_the_published_margin_leaves_pairs_alone_and_a_wider_one_does_not(tiny, shared):
    method: Any = METHODS_SMALL[3]
    published = shared.fitted(dataclasses.replace(method, units=512, margin=1.0, steps=1), 0, "ccl").curves["CCL"]
    wider = shared.fitted(dataclasses.replace(method, units=512, margin=4.0, steps=1), 0, "ccl").curves["CCL"]
    assert published[0]["active"] < 0.2 < wider[0]["active"]


def test_explained_is_one_for_a_copy_and_zero_for_the_mean():
    rows = torch.randn(9, 3)
    assert explained(rows, rows) == 1
    assert abs(explained(rows.mean(dim=0).expand(9, -1), rows)) < 1e-6


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("corr-ae[alpha=1.5]", "alpha is a fraction between 0 and 1, not 1.5"),
        ("corr-ae[hidden_text=9|9|9]", "hidden_text has one layer or two, not 3"),
        ("ccl[margin=0]", "margin is above 0, not 0.0"),
        ("ccl[dropout=1]", "dropout is at least 0 and below 1, not 1.0"),
        ("bimodal-ae[steps=0]", "steps is at least 1, not 0"),
        ("multimodal-dbn[rbm_steps=-1]", "rbm_steps is at least 0, not -1"),
        ("ccl[granularity=parts]", "leave out granularity"),
        ("ccl[autoencoder_steps=0]", "autoencoder_steps is at least 1, not 0"),
        ("ccl[joint_steps=-1]", "joint_steps is at least 0, not -1"),
    ],
)
def test_fields_that_cannot_be(spec, said):
    with pytest.raises(BadInput, match=said.replace("|", r"\|")):
        METHODS.configure(spec).build()
