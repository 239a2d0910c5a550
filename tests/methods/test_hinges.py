"""vsepp and vse-infinity: their losses by loops, a GRU by hand, pooling by hand, and no trace of padding."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cran_bench import BadInput
from cran_bench.methods import _hinges, vse_infinity
from cran_bench.methods._hinges import BiGRU, HingeMethod, of_similar_length
from cran_bench.methods.vse_infinity import CODE, GPO, PooledSets, VSEInfinity, thinned
from cran_bench.methods.vsepp import VSEPP, ImageAndGRU
from cran_bench.split import MissingFeature, Split

SMALL = {"dim": 6, "word_init": "random", "word_dim": 5, "dropout": 0.0, "min_count": 1, "batch_size": 40}
METHODS = {"vsepp": (VSEPP, SMALL), "vse-infinity": (VSEInfinity, {**SMALL, "size_augmentation": 0.0})}


@pytest.fixture
def begun(tiny, monkeypatch):
    """``begun(name, ...)``: a method whose network is built but not trained, and what it gives to `Training`."""

    def begin(name, **options):
        cls, fields = METHODS[name]
        made = {}
        monkeypatch.setattr(_hinges, "Training", lambda **given: made.update(given) or SimpleNamespace(run=id))
        method = cls(**{**fields, **options})
        torch.manual_seed(0)
        method.fit(tiny.train, tiny.val, SimpleNamespace(device=torch.device("cpu")))
        return method, SimpleNamespace(**made)

    return begin


# the loss -------------------------------------------------------------------------------------------------------


def by_loops(scores, owner, margin, negatives, same_image_too=False):
    """The sum of hinges over images and texts, for pair b of image b and text b."""
    total = 0.0
    for b in range(len(owner)):
        others = [k for k in range(len(owner)) if (k != b if same_image_too else owner[k] != owner[b])]
        for hinges in (
            [max(0.0, margin - scores[b, b] + scores[b, k]) for k in others],
            [max(0.0, margin - scores[b, b] + scores[k, b]) for k in others],
        ):
            total += max(hinges) if negatives == "hardest" else sum(hinges) / len(hinges)
    return total


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_the_first_loss_is_that_of_loops_and_no_negative_is_of_the_same_image(tiny, begun, name, negatives):
    method, training = begun(name, negatives=negatives, warm_up=0, margin=0.3)
    images, texts = method.embed_images(tiny.train).double().numpy(), method.embed_texts(tiny.train).double().numpy()
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, rtol=1e-6)
    next(training.batches(1, torch.Generator()))
    rows = torch.arange(12)
    owner = tiny.train.image_of[rows].numpy()
    assert len(set(owner)) == 7  # several texts of some images
    scores = images[owner] @ texts[rows].T
    loss = training.loss(rows).item()
    assert loss == pytest.approx(by_loops(scores, owner, 0.3, negatives), rel=1e-5)
    assert loss != pytest.approx(by_loops(scores, owner, 0.3, negatives, same_image_too=True), rel=1e-3)


def test_all_negatives_warm_up_the_hardest(tiny, begun):
    method, training = begun("vsepp", warm_up=2)
    images, texts = method.embed_images(tiny.train).numpy(), method.embed_texts(tiny.train).numpy()
    for epoch, negatives in ((1, "all"), (2, "all"), (3, "hardest")):
        rows = next(training.batches(epoch, torch.Generator().manual_seed(epoch)))
        owner = tiny.train.image_of[rows].numpy()
        expected = by_loops(images[owner] @ texts[rows].T, owner, method.margin, negatives)
        assert training.loss(rows).item() == pytest.approx(expected, rel=1e-5)
    assert training.patience_from == 3


def test_the_learning_rate_is_divided_by_ten_or_falls_linearly(begun):
    _, training = begun("vsepp", decay_at=15, epochs=30)
    assert [training.rate(passed) for passed in (0, 14.9, 15, 29.9)] == pytest.approx([1, 1, 0.1, 0.1])
    _, training = begun("vsepp", decay_at=0, epochs=10)
    assert training.rate(5.0) == pytest.approx(0.5)


def test_batches_hold_every_text_once_and_texts_of_similar_length():
    lengths = torch.randint(1, 40, (2000,), generator=torch.Generator().manual_seed(0))
    batches = list(of_similar_length(lengths, 32, torch.Generator().manual_seed(1)))
    assert sorted(torch.cat(batches).tolist()) == list(range(2000))
    assert len(batches) == 63 and max(map(len, batches)) == 32
    steps = sum(len(rows) * int(lengths[rows].max()) for rows in batches)
    assert steps < 1.2 * int(lengths.sum())
    again = list(of_similar_length(lengths, 32, torch.Generator().manual_seed(1)))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


# texts ----------------------------------------------------------------------------------------------------------


def gru_by_hand(gru, x):
    """States (L, H) of a GRU for steps (L, d)."""
    W, U, b, c = (
        getattr(gru, f"{name}_l0").detach().numpy() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    sigmoid = lambda y: 1 / (1 + np.exp(-y))  # noqa: E731
    h, states = np.zeros(U.shape[1]), []
    for step in x:
        (ir, iz, i), (hr, hz, n) = np.split(W @ step + b, 3), np.split(U @ h + c, 3)
        update = sigmoid(iz + hz)
        h = (1 - update) * np.tanh(i + sigmoid(ir + hr) * n) + update * h
        states.append(h)
    return np.array(states)


IDS = torch.tensor([[2, 5, 3, 7, 4, 6], [4, 3, 0, 0, 0, 0], [9, 1, 2, 2, 0, 0]])
LENGTHS = torch.tensor([6, 2, 4], dtype=torch.int32)


def network(name, dim=4):
    torch.manual_seed(0)
    table = torch.randn(8, 3, dtype=torch.float64)
    table[0] = 0
    made = ImageAndGRU(table, 5, dim, 0.0) if name == "vsepp" else PooledSets(table, 5, dim, 0.0, 0.2)
    return made.double().eval()


def test_a_text_of_vsepp_is_the_last_state_of_its_gru():
    net = network("vsepp")
    found = net.texts(IDS, LENGTHS).detach().numpy()
    for row, (ids, length) in enumerate(zip(IDS.tolist(), LENGTHS.tolist(), strict=True)):
        known = [k if k < 8 else 1 for k in ids[:length]]  # 9 is not in the table
        h = gru_by_hand(net.gru, net.words.table.weight.detach().numpy()[known])[-1]
        np.testing.assert_allclose(found[row], h / np.linalg.norm(h), rtol=1e-10)


def test_states_of_vse_infinity_are_the_mean_of_both_directions():
    torch.manual_seed(0)
    both, x = BiGRU(3, 4).double(), torch.randn(2, 6, 3, dtype=torch.float64)
    found = both(x, torch.tensor([6, 3])).detach().numpy()
    for row, length in enumerate((6, 3)):
        steps = x[row, :length].numpy()
        expected = (gru_by_hand(both.forth, steps) + gru_by_hand(both.back, steps[::-1])[::-1]) / 2
        np.testing.assert_allclose(found[row, :length], expected, rtol=1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_padding_leaves_no_trace(name):
    net = network(name)
    expected = net.texts(IDS, LENGTHS)
    with torch.no_grad():
        net.words.table.weight[0] = 7.0
    torch.testing.assert_close(net.texts(torch.nn.functional.pad(IDS, (0, 5)), LENGTHS), expected)
    torch.testing.assert_close(net.texts(IDS[1:2, :2], LENGTHS[1:2]), expected[1:2])


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_that_of_finite_differences(name):
    net, (names, values) = network(name, dim=2), zip(*network(name, dim=2).named_parameters(), strict=True)
    sides = {
        "vsepp": (torch.randn(2, 5),),
        "vse-infinity": (torch.randn(2, 3, 5), torch.tensor([[1, 1, 1], [0, 1, 1]])),
    }
    features = [x.double() if x.is_floating_point() else x.bool() for x in sides[name]]

    def scores(*weights):
        weights = dict(zip(names, weights, strict=True))
        images = torch.func.functional_call(net, weights, ("images", *features))
        return images @ torch.func.functional_call(net, weights, ("texts", IDS, LENGTHS)).T

    net.forward = lambda side, *given: getattr(net, side)(*given)
    assert torch.autograd.gradcheck(scores, values, fast_mode=True)  # along random directions


@pytest.mark.parametrize("name", METHODS)
def test_words_that_are_rare_share_one_embedding_and_texts_may_be_empty(tiny, begun, name):
    counts = torch.bincount(tiny.train.tokens[0].flatten())[2:]
    method, _ = begun(name, min_count=1)
    assert method.network.words.table.num_embeddings == 2 + len(counts)
    method, _ = begun(name, min_count=int(counts.median()) + 1)
    table = method.network.words.table
    assert 2 < table.num_embeddings == 2 + int((counts > counts.median()).sum()) < 2 + len(counts)
    assert not table.weight[0].any() and table.weight[1].any()
    empty, unknown, rare = method.embed_texts(tiny.test.asking(["", "never", tiny.train._text.vocabulary[-1]]))
    torch.testing.assert_close(unknown, rare)
    torch.testing.assert_close(method.embed_texts(tiny.test.asking([""]))[0], empty)
    assert len(method.embed_texts(tiny.test.asking([]))) == 0


def test_embeddings_start_from_word_vectors_where_asked_for(tiny, begun):
    method, _ = begun("vsepp", word_init="vectors")
    vectors = tiny.train.token_vectors()
    torch.testing.assert_close(method.network.words.table.weight.detach(), vectors, rtol=0, atol=0)


# pooling --------------------------------------------------------------------------------------------------------


def set_weights(gpo, first):
    """Make a GPO the mean, or the maximum if `first`: the first unit is large for rank 0 and small for others."""
    for weight in gpo.parameters():
        torch.nn.init.zeros_(weight)
    if first:
        for gru in (gpo.decoder.forth, gpo.decoder.back):
            gru.weight_ih_l0.data[2 * CODE, CODE - 2] = -1e6  # sin of the lowest frequency: 0, then about k / 5,600
            gru.bias_ih_l0.data[2 * CODE] = 1.0
            gru.bias_ih_l0.data[CODE : 2 * CODE] = -100.0  # no memory
        gpo.w.weight.data[0, 0] = 1000.0
    return gpo


@pytest.mark.parametrize("first", [False, True], ids=["mean", "max"])
def test_the_mean_and_the_maximum_are_special_cases(first):
    torch.manual_seed(0)
    gpo, x = set_weights(GPO(), first), torch.randn(3, 6, 4)
    exists = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 1, 0]]).bool()
    x[~exists] = 1e6
    for row in range(3):
        there = x[row, exists[row]]
        expected = there.amax(dim=0) if first else there.mean(dim=0)
        torch.testing.assert_close(gpo(x, exists)[row], expected, rtol=0 if first else 1e-6, atol=0 if first else 1e-6)


def test_weights_sum_to_one_over_the_set_and_depend_on_its_size_alone():
    torch.manual_seed(0)
    gpo = GPO()
    theta = gpo.weights(7)
    torch.testing.assert_close(theta.sum(dim=1), torch.ones(7))
    assert not theta.triu(1).any() and (theta.tril() > 0).sum() == 28
    torch.testing.assert_close(gpo.weights(4), theta[:4, :4])
    assert (theta[3, :4] - 0.25).abs().max() > 1e-3


def test_pooling_is_a_weighted_sum_of_sorted_values():
    torch.manual_seed(0)
    gpo, x, exists = GPO(), torch.randn(2, 5, 3), torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0]]).bool()
    found, theta = gpo(x, exists).detach().numpy(), gpo.weights(5).detach().numpy()
    for row, size in enumerate((5, 3)):
        ordered = -np.sort(-x[row, exists[row]].numpy(), axis=0)
        np.testing.assert_allclose(found[row], theta[size - 1, :size] @ ordered, rtol=1e-5)


def test_the_order_of_regions_does_not_matter_nor_do_absent_ones():
    net, regions = network("vse-infinity"), torch.randn(2, 4, 5, dtype=torch.float64)
    exists = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]]).bool()
    regions[1] = regions[1, 0]  # padding is the whole image
    order = torch.tensor([2, 3, 0, 1])
    expected = net.images(regions, exists)
    torch.testing.assert_close(net.images(regions[:, order], exists[:, order]), expected)
    regions[0, 3] = 1e3
    torch.testing.assert_close(net.images(regions, exists), expected)
    torch.testing.assert_close(net.images(regions[:1, :3], exists[:1, :3]), expected[:1])


def test_elements_are_left_out_in_training_alone(monkeypatch):
    torch.manual_seed(0)
    exists = torch.ones(4000, 6, dtype=torch.bool)
    exists[:, 4:], exists[0, 1:] = False, False
    kept = thinned(exists, 0.2)
    assert kept.any(dim=1).all() and not (kept & ~exists).any() and bool(kept[0, 0])
    assert 0.78 < float(kept[1:, :4].float().mean()) < 0.82 and torch.equal(thinned(exists, 0.0), exists)
    net = network("vse-infinity")
    shorter, expected = torch.tensor([[2, 3, 4], [4, 0, 0]]), torch.tensor([3, 1])
    expected = net.texts(shorter, expected)
    mask = torch.tensor([[1, 0, 1, 0, 1, 0], [1, 0, 0, 0, 0, 0]]).bool()
    monkeypatch.setattr(vse_infinity, "thinned", lambda exists, rate: exists & mask)
    torch.testing.assert_close(net.train().texts(IDS[:2], LENGTHS[:2]), expected)
    assert not torch.allclose(net.eval().texts(IDS[:2], LENGTHS[:2]), expected)


def test_the_whole_image_is_a_further_region(tiny):
    rows, unit = torch.tensor([4, 0, 7]), torch.nn.functional.normalize
    method = VSEInfinity(image="l2")
    (features, exists), mask = method.image_features(tiny.val), tiny.val.region_mask
    regions, wholes = tiny.val.region_rows[rows], tiny.val.image_rows[rows]
    torch.testing.assert_close(features[rows], unit(torch.cat([regions, wholes[:, None]], dim=1), dim=2))
    assert features.shape == (len(tiny.val), mask.shape[1] + 1, regions.shape[2])
    assert exists[:, -1].all() and torch.equal(exists[:, :-1], mask)
    paper, alone = VSEInfinity(whole=False, image="none").image_features(tiny.val)
    assert torch.equal(paper[rows], regions) and torch.equal(alone, mask)
    features = dataclasses.replace(tiny.val._features, globals=tiny.val._features.globals[:, 1:])
    split = Split("val", "captions", tiny.val._collection, features, tiny.val._words, torch.device("cpu"))
    with pytest.raises(BadInput, match=r"have \d+ and \d+ numbers: set whole=false"):
        method.image_features(split)


def test_without_regions_there_is_nothing_to_pool(tiny):
    features = dataclasses.replace(tiny.val._features, regions=None, boxes=None, scores=None, mask=None)
    split = Split("val", "captions", tiny.val._collection, features, tiny.val._words, torch.device("cpu"))
    assert VSEPP().memory(split) > 0
    for ask in (VSEInfinity().memory, lambda split: VSEInfinity().fit(split, split, None)):
        with pytest.raises(MissingFeature, match="prepared without regions"):
            ask(split)


# fits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_it_learns_and_comes_back_from_the_store(tiny, tmp_path, comes_back, name):
    fitted = comes_back(f"{name}[dim=16,word_dim=16,min_count=1,batch_size=20,epochs=8,lr=0.01,dropout=0.1]")
    assert fitted.chose["rsum"] > 1.4 * 2 * 100 * (1 + 5 + 10) / len(tiny.val)


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (VSEPP, {"batch_size": 1}, "batch_size is at least 2, not 1"),
        (VSEPP, {"dropout": 1.0}, "dropout is at least 0 and below 1, not 1"),
        (VSEPP, {"lr": 0.0}, "lr is above 0, not 0"),
        (VSEPP, {"margin": -0.1}, "margin is at least 0, not -0.1"),
        (VSEInfinity, {"size_augmentation": 1.0}, "size_augmentation is at least 0 and below 1, not 1"),
        (VSEInfinity, {"dim": 0}, "dim is at least 1, not 0"),
    ],
)
def test_fields_out_of_range(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(**options)


@pytest.mark.parametrize("cls", [VSEPP, VSEInfinity])
def test_memory_grows_with_the_embeddings(tiny, cls):
    assert issubclass(cls, HingeMethod)
    assert cls(dim=1024).memory(tiny.train) > 3 * cls(dim=128).memory(tiny.train)
