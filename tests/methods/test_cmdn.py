"""CMDN: its stages one after the other, each against what it is made of."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from cran_bench.errors import BadInput
from cran_bench.methods.cmdn import CMDN, CategoryAutoencoder, Concepts, FeatureAutoencoder, Fusion, shares_of
from cran_bench.methods.multimodal_dbn import MultimodalDBN
from cran_bench.registry import METHODS
from cran_bench.running.fits import FitStore

SMALL = (
    "rbm_steps=4,steps=8,hidden_image=12,hidden_text=12,autoencoder=9|7,autoencoder_steps=8,dbn_units=10,dbn_steps=4,"
    "fusion_units=11,fusion_steps=4,hidden=8|6,category_steps=8,units=8|4|2,vocabulary=20"
)


@pytest.fixture(scope="module")
def store(tiny, tmp_path_factory):
    return FitStore(tmp_path_factory.mktemp("fits"), {}, tiny.train, tiny.val, torch.device("cpu"))


def build(**fields):
    method = METHODS.configure(f"cmdn[{SMALL}]").build()
    assert isinstance(method, CMDN)
    return replace(method, **fields)


def chain(method):
    """The bimodal autoencoders from the top, then the networks of stage 1."""
    found = [method]
    while isinstance(found[-1], CMDN):
        found.append(found[-1].inputs)
    return found


def test_each_autoencoder_reads_the_codes_of_the_one_below(store, tiny):
    fitted = store.fitted(build(), 0, "cmdn").part
    *levels, networks = chain(fitted)
    assert [level.sizes for level in levels] == [(2, 2), (4, 4), (8, 8)] and networks.sizes == (6, 6)
    for above, under in zip(levels, [*levels[1:], networks], strict=True):
        assert above.coder.joint.in_features == sum(under.sizes)
        assert len(above.coder.categories.bias) == 6
        given = torch.cat([under.encode_images(tiny.test)])
        standard = (given - above.scales["image_inputs"][0]) / above.scales["image_inputs"][1]
        p = given.shape[1]
        weight, bias = above.coder.joint.weight[:, :p], above.coder.joint.bias
        torch.testing.assert_close(above.encode_images(tiny.test), torch.sigmoid(standard @ weight.T + bias))
    assert fitted.embed_texts(tiny.test).shape == (len(tiny.test.texts), 2)
    top = networks.image
    assert (type(top), type(top.fusion)) == (Concepts, Fusion)
    assert top.fusion.rbm.W.shape == (7 + 10, 11)


def test_the_paper_has_four_autoencoders_of_half_the_width_each():
    paper = METHODS.configure("cmdn:paper").build()
    sizes, under = [], paper
    while isinstance(under, CMDN):
        sizes.append(under.sizes[0])
        under = under.input_encoder()
    assert [*sizes, under.sizes[0]] == [64, 128, 256, 512, 1024]


def test_the_deep_belief_network_is_the_row_of_that_name():
    networks = METHODS.configure("cmdn[units=64]").build().input_encoder()
    assert networks.image.fusion.dbn == METHODS.configure("multimodal-dbn").build()
    assert isinstance(networks.image.fusion.dbn, MultimodalDBN)


def test_codes_of_one_side_are_those_of_a_pair_without_the_other():
    coder = CategoryAutoencoder(3, 2, 4, True, torch.eye(5))
    p, q = torch.randn(6, 3), torch.randn(6, 2)
    torch.testing.assert_close(coder.image(p), coder.both(p, torch.zeros(6, 2)))
    torch.testing.assert_close(coder.text(q), coder.both(torch.zeros(6, 3), q))


def test_the_loss_is_that_of_reconstructions_and_of_categories():
    torch.manual_seed(0)
    shares = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5], [0, 0, 0]])
    coder, p, q, owner = CategoryAutoencoder(3, 2, 4, True, shares), *map(torch.randn, ((4, 3), (4, 2))), [0, 1, 1, 2]
    expected = torch.zeros(())
    for k in range(4):
        for x, y in ((p[k], q[k]), (p[k], 0 * q[k]), (0 * p[k], q[k])):
            z = torch.sigmoid(coder.joint(torch.cat([x, y])))
            missed = coder.decoder(z) - torch.cat([p[k], q[k]])
            expected = expected + missed.square().sum() / 2
            expected = expected - (shares[owner[k]] * log_softmax(coder.categories(z), dim=0)).sum()
    torch.testing.assert_close(coder.loss(p, q, torch.tensor(owner), 0), expected / 12)


def test_features_become_codes_from_0_to_1(store, tiny):
    for side in ("image", "text"):
        part = FeatureAutoencoder(side, "tfidf" if side == "text" else "l2", 20, (9, 7), 60, 1e-3)
        fit = store.fitted(part, 0, "autoencoder")
        codes = fit.part.codes(tiny.train)
        used = codes.std(dim=0) > 0
        torch.testing.assert_close(codes.min(dim=0).values, torch.zeros(7), atol=1e-5, rtol=0)
        torch.testing.assert_close(codes.max(dim=0).values[used], torch.ones(int(used.sum())), atol=1e-5, rtol=0)
        losses = [point["loss"] for points in fit.curves.values() for point in points]
        assert losses[-1] < 0.97 * losses[0]


def test_categories_are_learned_from_joint_codes(store, tiny):
    fusion = Fusion(FeatureAutoencoder("image", "l2", 20, (16,), 60, 1e-2), None, 20, 20)
    fit = store.fitted(Concepts(fusion, "given", (16,), 150, 1e-2), 0, "categories")
    losses = [point["loss"] for points in fit.curves.values() for point in points if "gain" in point]
    assert losses[-1] < 0.8 * np.log(6)


def test_without_categories_or_without_the_deep_belief_network_what_needs_them_is_left_out(store, tiny):
    plain = store.fitted(build(labels="none"), 0, "plain").part
    *levels, networks = chain(plain)
    assert isinstance(networks.text, Fusion) and networks.sizes == (11, 11)
    assert all(level.coder.categories is None for level in levels)
    alone = store.fitted(build(with_dbn=False), 0, "alone").part
    assert chain(alone)[-1].image.fusion.rbm.W.shape == (7, 11)
    assert not torch.equal(alone.embed_images(tiny.test), plain.embed_images(tiny.test))


def test_codes_differ_between_images(store, tiny):
    fitted = store.fitted(build(), 0, "cmdn")
    assert min(point["spread"] for point in fitted.curves["bimodal autoencoder 3"]) > 0.01
    spread = fitted.part.embed_images(tiny.train).std(dim=0, correction=0)
    torch.testing.assert_close(spread, torch.ones(2), atol=1e-3, rtol=0)


def test_images_without_categories_have_no_share_and_one_category_for_all_is_refused(tiny):
    class Some:
        name, image_of = "train", torch.zeros(3)

        def __len__(self):
            return 3

        def categories(self, source):
            return torch.tensor(self.given, dtype=torch.uint8)

    some = Some()
    some.given = [[1, 1], [0, 0], [0, 1]]
    assert shares_of(some, "given").tolist() == [[0.5, 0.5], [0, 0], [0, 1]]
    assert shares_of(some, "none").shape == (3, 0)
    some.given = [[1, 0]] * 3
    with pytest.raises(BadInput, match=r"all images of the train split have the same categories \(given\)"):
        shares_of(some, "given")


def test_it_comes_back_the_same(comes_back):
    comes_back(f"cmdn[{SMALL}]")
    comes_back(f"cmdn[{SMALL},labels=none,with_dbn=false,text=bow]")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("units=0", "units is the units of at least one layer"),
        ("hidden=4|0", "hidden is the units of at least one layer"),
        ("granularity=parts", "cmdn reads whole images and texts"),
        ("fusion_units=0", "fusion_units is at least 1"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(BadInput, match=message):
        METHODS.configure(f"cmdn[{fields}]")
