"""dual-path: its network by loops, its losses by loops and differences, hard negatives, offsets, empty texts."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize, relu

from cran_bench import BadInput
from cran_bench.methods import dual_path
from cran_bench.methods.dual_path import (
    BLOCKS,
    POSITIONS,
    Batch,
    DualPath,
    DualPathMethod,
    Objective,
    blocks_of,
    known_words,
    mined_loss,
)
from cran_bench.running.fits import FitStore
from cran_bench.running.fits.run import LentRun
from cran_bench.toolbox.losses import margin_loss

CPU = torch.device("cpu")
WORDS, DIVISOR = 9, 32  # sequences of 8 to 64 channels


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setattr(DualPathMethod, "divisor", DIVISOR)


def network(p=5, d=3):
    torch.manual_seed(0)
    table = torch.randn(2 + WORDS, d)
    table[0] = 0
    return DualPath(table, p, DIVISOR)


def trained_a_little(paths):
    """The network with batch normalisation that is no identity, in test mode and float64."""
    for module in paths.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            for values in (module.weight.data, module.running_var):
                values.uniform_(0.5, 1.5)
            for values in (module.bias.data, module.running_mean):
                values.uniform_(-0.2, 0.2)
    return paths.double().eval()


def texts(count, least=1):
    """(count, 32) ids of texts of `least` to 12 words, and their lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(least, 13, (count,), generator=generator)
    ids = torch.randint(2, 2 + WORDS, (count, POSITIONS), generator=generator)
    return ids.where(torch.arange(POSITIONS) < lengths[:, None], 0), lengths


# the network ----------------------------------------------------------------------------------------------------


def test_the_network_has_the_lengths_and_the_size_of_the_paper():
    x, lengths = torch.zeros(2, 3, POSITIONS), []
    for block in network().blocks:
        x = block(x)
        lengths.append(x.shape[2])
    assert lengths == [32] * 3 + [16] * 4 + [8] * 7
    counted = lambda d, divisor: sum(  # noqa: E731
        a * b + 2 * b * b + b * c + a * c * (a != c) for a, b, c, _ in blocks_of(d, divisor)
    )
    convolutions = [w for w in network().blocks.parameters() if w.ndim == 3]
    assert counted(3, DIVISOR) == sum(w.numel() for w in convolutions)
    assert 28e6 < counted(300, 1) + 2048**2 < 31e6  # and 6 million of word vectors


def by_hand(paths, ids):
    """The embedding of one text, (32,) word ids, by loops over positions."""
    as_numpy = lambda value: value.detach().numpy()  # noqa: E731

    def normed(bn, x):
        deviation = np.sqrt(as_numpy(bn.running_var) + bn.eps)
        return (x - as_numpy(bn.running_mean)) / deviation * as_numpy(bn.weight) + as_numpy(bn.bias)

    def convolved(conv, x, stride=1):
        kernel = as_numpy(conv.weight)
        x = np.vstack([x, np.zeros((kernel.shape[2] - 1, x.shape[1]))])
        starts = range(0, len(x) - kernel.shape[2] + 1, stride)
        return np.array([sum(kernel[:, :, k] @ x[t + k] for k in range(kernel.shape[2])) for t in starts])

    x = normed(paths.norm, as_numpy(paths.words.weight)[ids])
    for block, (_, _, stride) in zip(paths.blocks, BLOCKS, strict=True):
        one, bn1, _, _, two, bn2, _, three = block.layers
        y = np.maximum(normed(bn1, convolved(one, x)), 0)
        y = np.maximum(normed(bn2, convolved(two, y, stride)), 0)
        y = normed(block.last, convolved(three, y))
        x = x if block.shortcut is None else normed(block.shortcut[1], convolved(block.shortcut[0], x, stride))
        x = np.maximum(x + y, 0)
    linear, bn = paths.text_out
    return normed(bn, as_numpy(linear.weight) @ x.max(axis=0))


def test_a_text_is_embedded_as_by_loops():
    paths, (ids, _) = trained_a_little(network()), texts(3)
    found = paths.texts(ids).detach().numpy()
    for row, text in enumerate(ids):
        np.testing.assert_allclose(found[row], by_hand(paths, text.numpy()), rtol=1e-8, atol=1e-10)


def test_an_image_is_embedded_by_two_layers():
    paths, x = trained_a_little(network()), torch.randn(4, 5, dtype=torch.float64)
    one, bn1, _, two, bn2 = paths.image_path
    hidden = relu(bn1(x @ one.weight.T))
    torch.testing.assert_close(paths.images(x), bn2(hidden @ two.weight.T))


def test_every_position_counts_for_every_word():
    paths, ids = trained_a_little(network()), torch.full((1, POSITIONS), 3)
    other = ids.repeat(POSITIONS, 1).fill_diagonal_(5)
    assert ((paths.texts(other) - paths.texts(ids)).abs().amax(dim=1) > 0).all()


# words and offsets ----------------------------------------------------------------------------------------------


def test_words_without_a_vector_are_skipped_and_32_kept():
    table = torch.tensor([0.0, 0, 1, 0, 1, 1])[:, None]
    long = [4, 3] * 40
    rows = [[2, 1, 3, 4, 0, 0], [3, 1, 3, 0, 0, 0], [5, 5, 5, 2, 0, 0], [1, 3, 1, 3, 1, 2], long]
    ids = torch.tensor([row + [0] * (80 - len(row)) for row in rows], dtype=torch.int32)
    words, lengths = known_words(ids, table)
    expected = [[word for word in row if table[word]][:POSITIONS] for row in rows]
    assert [row[:size] for row, size in zip(words.tolist(), lengths, strict=True)] == expected
    assert not any(any(row[size:]) for row, size in zip(words.tolist(), lengths, strict=True))
    assert lengths.tolist() == [2, 0, 4, 1, 32] and words.shape == (5, POSITIONS)
    assert known_words(torch.zeros(2, 0, dtype=torch.int32), table)[1].tolist() == [0, 0]


def fitted(tiny, **options):
    """A method with a network that is not trained, over the words of `tiny`."""
    method = DualPathMethod(**options)
    torch.manual_seed(0)
    method.network = trained_a_little(method.build(tiny.train.token_vectors(), tiny.train.image_dim)).float()
    return method


def test_a_text_is_the_mean_over_all_offsets(tiny):
    method = fitted(tiny)
    long = " ".join(["thing1", "word2", "thing3"] * 11)  # 33 words, one too many
    asked = [tiny.test.texts[0], "thing4", long]
    found = method.embed_texts(tiny.test.asking(asked))
    ids, _ = tiny.test.asking(asked).tokens
    for row, text in enumerate(asked):
        words = ids[row][: min(len(text.split()), POSITIONS)]
        sequences = [
            [0] * offset + words.tolist() + [0] * (POSITIONS - len(words) - offset)
            for offset in range(POSITIONS + 1 - len(words))
        ]
        each = torch.stack([method.network.texts(torch.tensor([sequence]))[0] for sequence in sequences])
        expected = normalize(each.mean(dim=0), dim=0)
        torch.testing.assert_close(normalize(found[row], dim=0), expected, rtol=1e-4, atol=1e-5)
    shifted = method.embed_texts(tiny.test.asking([f"never {text} never never" for text in asked[:2]]))
    assert torch.equal(shifted, method.embed_texts(tiny.test.asking(asked[:2])))
    assert len(method.embed_texts(tiny.test.asking([]))) == 0


def test_texts_without_words_are_counted_and_finite(tiny, capsys):
    found = fitted(tiny).embed_texts(tiny.test.asking(["", "never", "never seen", "thing1"]))
    assert "dual-path: 3 of 4 texts have no word with a vector" in capsys.readouterr().err
    assert found.isfinite().all() and found[0].any() and not torch.allclose(found[0], found[3])
    torch.testing.assert_close(found[0].expand(2, -1), found[1:3])


# losses ---------------------------------------------------------------------------------------------------------


def objective(n=64, **options):
    torch.manual_seed(0)
    return Objective(network(), n, DualPathMethod(**{"dropout": 0.0, **options}))


def test_the_first_instance_loss_is_that_of_chance():
    made, (ids, _) = objective(n=500), texts(100)
    owner = torch.arange(100)
    loss = made(torch.randn(100, 5), Batch(owner, ids, owner, (0.0, 1.0, 1.0)))
    assert loss.item() == pytest.approx(2 * math.log(500), abs=0.05)


def test_the_mined_loss_is_that_of_loops_and_of_differences():
    torch.manual_seed(0)
    images, texts = (torch.rand(6, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    i, t = (x.detach().numpy() / np.linalg.norm(x.detach().numpy(), axis=1, keepdims=True) for x in (images, texts))
    total = 0.0
    for b in range(3):
        right = i[b] @ t[b]
        total += max(0.0, 0.1 - right + i[b] @ t[b + 3]) + max(0.0, 0.1 - right + i[b + 3] @ t[b])
    assert 0 < total / 6 == pytest.approx(mined_loss(images, texts, 0.1).item())
    assert torch.autograd.gradcheck(lambda x, y: mined_loss(x, y, 0.1), (images, texts))


@pytest.mark.parametrize("negatives", ["mined", "all", "hardest"])
def test_the_loss_of_stage_two_is_the_weighted_sum(negatives):
    made, (ids, _) = objective(negatives=negatives, margin=0.3), texts(20)
    x, owner = torch.randn(9, 5), torch.randperm(64)[:20]
    rows, classified = torch.arange(9), torch.arange(9)
    if negatives == "mined":  # a batch of four pairs and their negatives; the ninth image is left over
        with torch.no_grad():
            made.eval()
            scores = normalize(relu(made.paths.images(x[:4]))) @ normalize(relu(made.paths.texts(ids[9:]))).T
            rows, classified = torch.cat([torch.arange(4), 9 + scores.argmax(dim=1)]), torch.arange(8)
    made.train()
    state = {name: value.clone() for name, value in made.state_dict().items()}
    found = made(x, Batch(owner[:9], ids, owner, (2.0, 1.0, 0.1)))
    made.load_state_dict(state)
    v, t = relu(made.paths.images(x[classified])), relu(made.paths.texts(ids[rows]))
    ranking = margin_loss(normalize(v) @ normalize(t).T, owner[rows], 0.3, "all" if negatives == "mined" else negatives)
    if negatives == "mined":
        ranking = mined_loss(v, t, 0.3)
    W = made.classifier.weight
    expected = 2 * ranking + cross_entropy(v @ W.T, owner[classified]) + 0.1 * cross_entropy(t @ W.T, owner[rows])
    torch.testing.assert_close(found, expected)
    assert made.training


def test_the_instance_loss_learns_64_images_by_heart():
    made, (ids, _) = objective(), texts(64, least=6)
    x, owner = torch.randn(64, 5), torch.arange(64)
    optimizer = torch.optim.SGD(made.groups(), 0.1, momentum=0.9, nesterov=True)
    for _ in range(50):
        optimizer.zero_grad()
        made(x, Batch(owner, ids, owner, (0.0, 1.0, 1.0))).backward()
        optimizer.step()
        with torch.no_grad():
            classified = [made.classifier(relu(f)).argmax(dim=1) for f in (made.paths.images(x), made.paths.texts(ids))]
        if all(torch.equal(found, owner) for found in classified):
            return
    pytest.fail(f"only {[int((found == owner).sum()) for found in classified]} of 64 are known")


def test_word_vectors_learn_a_thousand_times_slower_and_matrices_alone_decay():
    made = objective(lr=0.5, weight_decay=0.01)
    matrices, vectors, words = made.groups()
    assert words == {"params": [made.paths.words.weight], "weight_decay": 0.0, "lr": 0.0005}
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.01, 0.0) and {
        w.ndim for w in matrices["params"]
    } == {2, 3}
    assert len(matrices["params"]) + len(vectors["params"]) + 1 == len(list(made.parameters()))


# training -------------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(tiny, monkeypatch):
    """``begun(...)``: what a method on `tiny` gives to `Training`, and the method."""

    def begin(train=tiny.train, **options):
        made = {}
        monkeypatch.setattr(dual_path, "Training", lambda **given: made.update(given) or SimpleNamespace(run=id))
        method = DualPathMethod(**{"batch_size": 10, **options})
        torch.manual_seed(0)
        method.fit(train, tiny.val, SimpleNamespace(device=CPU))
        return SimpleNamespace(**made), method

    return begin


def test_an_epoch_has_every_image_once_with_a_text_at_a_random_offset(tiny, begun):
    training, method = begun(losses="instance")
    words, lengths = method.words(tiny.train)
    for epoch in (1, 2):
        batches = list(training.batches(epoch, torch.Generator().manual_seed(epoch)))
        assert sorted(torch.cat([batch.images for batch in batches]).tolist()) == list(range(60))
        assert {len(batch.images) for batch in batches} == {10} and len(batches) == training.steps
        starts = set()
        for image, text in zip(*(torch.cat([x[k] for x in batches]) for k in (0, 1)), strict=True):
            start, end = text.nonzero()[[0, -1], 0].tolist()
            starts.add(start)
            own = words[tiny.train.image_of == image]
            assert any(torch.equal(text[start : end + 1], row[row > 0]) for row in own)
        assert len(starts) > 15 and max(starts) <= POSITIONS - int(lengths.min())


def test_no_hard_negative_is_of_an_image_of_the_pairs(begun):
    training, _ = begun(losses="ranking", negatives="mined", candidates=40)
    drawn = set()
    for batch in training.batches(1, torch.Generator().manual_seed(0)):
        assert len(batch.owner) == len(batch.ids) == 50
        assert not set(batch.owner[10:].tolist()) & set(batch.images[:5].tolist())
        drawn |= set(batch.owner[10:].tolist())
    assert len(drawn) > 50


@pytest.mark.parametrize(
    ("losses", "first", "second"),
    [("both", (0, 1, 1), (2, 1, 0.1)), ("instance", (0, 1, 1), (0, 1, 1)), ("ranking", (1, 0, 0), (1, 0, 0))],
)
def test_the_stages_have_their_weights(begun, losses, first, second):
    training, _ = begun(losses=losses, weights=(2.0, 1.0, 0.1), stage1_epochs=2, epochs=4)
    weights = [next(training.batches(epoch, torch.Generator())).weights for epoch in (1, 2, 3, 4)]
    assert weights == [first, first, second, second]
    assert training.patience_from == (3 if losses == "both" else 1)


def test_the_learning_rate_is_divided_by_ten_or_falls_linearly(begun):
    training, _ = begun(decay_at=280, epochs=300)
    assert [training.rate(passed) for passed in (0, 279.9, 280, 299.9)] == pytest.approx([1, 1, 0.1, 0.1])
    training, _ = begun(decay_at=0, epochs=10)
    assert training.rate(5.0) == pytest.approx(0.5)


def test_images_whose_texts_have_no_known_word_are_left_out(tiny, begun, monkeypatch):
    table = tiny.train.token_vectors()
    ids = tiny.train.tokens[0]
    kept = ids[tiny.train.image_of < 2].unique().long()
    few = torch.zeros_like(table).index_copy(0, kept[1:], table[kept[1:]])
    with monkeypatch.context() as patched:
        patched.setattr(type(tiny.train), "token_vectors", lambda _: few)
        training, method = begun()
        usable = tiny.train.image_of[method.words(tiny.train)[1] > 0].unique().tolist()
        found = torch.cat([batch.images for batch in training.batches(1, torch.Generator())])
        assert sorted(found.tolist()) == usable
        patched.setattr(type(tiny.train), "token_vectors", lambda _: torch.zeros_like(table))
        with pytest.raises(BadInput, match="at least 2 training images with a text of known words, not 0"):
            begun()


def test_a_stopped_training_goes_on_to_the_same_numbers(tiny, tmp_path, monkeypatch, capsys):
    method = DualPathMethod(negatives="mined", candidates=20, batch_size=30, stage1_epochs=1, epochs=3)
    stores = [FitStore(tmp_path / name, {}, tiny.train, tiny.val, CPU) for name in ("straight", "stopped")]
    straight = stores[0].fitted(dataclasses.replace(method), 0, "dual-path")
    write = LentRun.checkpoint

    def stop(self, state, at=""):
        write(self, state, at)
        if at.startswith("after epoch 2"):
            raise KeyboardInterrupt

    monkeypatch.setattr(LentRun, "checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        stores[1].fitted(dataclasses.replace(method), 0, "dual-path")
    monkeypatch.setattr(LentRun, "checkpoint", write)
    stopped = stores[1].fitted(dataclasses.replace(method), 0, "dual-path")
    assert "resuming from the last checkpoint, after epoch" in capsys.readouterr().err
    assert stopped.curves == straight.curves
    for key, value in straight.part.state().items():
        assert torch.equal(value, stopped.part.state()[key]), key
    loaded = stores[0].fitted(dataclasses.replace(method), 0, "dual-path")
    assert loaded.reused
    for embed in ("embed_images", "embed_texts"):
        assert torch.equal(getattr(loaded.part, embed)(tiny.test), getattr(straight.part, embed)(tiny.test))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": (1.0, 1.0)}, "weights are three"),
        ({"weights": (1.0, -1.0, 0.0)}, "weights are three"),
        ({"dropout": 1.0}, "dropout is at least 0 and below 1"),
        ({"lr": 0.0}, "lr is above 0"),
        ({"batch_size": 1}, "batch_size is at least 2"),
        ({"candidates": 0}, "candidates is at least 1"),
    ],
)
def test_fields_are_checked(options, said):
    with pytest.raises(ValueError, match=said):
        DualPathMethod(**options)
