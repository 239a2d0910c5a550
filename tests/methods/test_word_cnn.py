"""The Word-CNN: its windows by brute force, no trace of padding, its gradient, and what it learns."""

import numpy as np
import pytest
import torch

from cran_bench.methods._word_cnn import WIDTHS, WordCNN, WordConvolutions
from cran_bench.running.fits import FitStore


@pytest.fixture
def reader():
    torch.manual_seed(0)
    vectors = torch.randn(12, 6, dtype=torch.float64)
    vectors[:2] = 0
    return WordConvolutions(vectors, filters=4).double().eval()


def by_brute_force(reader, ids):
    x = reader.vectors.detach().numpy()[ids]
    found = []
    for width, layer in zip(WIDTHS, reader.layers, strict=True):
        W, b = (p.detach().numpy() for p in (layer.weight, layer.bias))
        padded = np.concatenate([x, np.zeros((max(0, width - len(x)), x.shape[1]))])
        windows = [padded[t : t + width] for t in range(len(padded) - width + 1)]
        found.append(np.max([np.maximum(np.einsum("fdk,kd->f", W, window) + b, 0) for window in windows], axis=0))
    return np.concatenate(found)


def test_the_largest_answer_of_every_filter(reader):
    texts = [[2, 5, 7, 3, 11, 4, 9], [3, 1, 8], [6], [2, 3, 4, 5, 6]]
    ids = torch.zeros(4, 9, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
    found = reader(ids, torch.tensor([len(text) for text in texts]))
    assert found.shape == (4, 12)
    for row, text in enumerate(texts):
        np.testing.assert_allclose(found[row].detach(), by_brute_force(reader, text), rtol=1e-12)


def test_padding_leaves_no_trace(reader):
    with torch.no_grad():
        reader.vectors[0] = 5.0  # even where the vector of padding is not zero
    ids, lengths = torch.tensor([[2, 5, 7, 3, 8, 9], [4, 6, 3, 2, 7, 0]]), torch.tensor([6, 5])
    wide = torch.nn.functional.pad(ids, (0, 7))
    torch.testing.assert_close(reader(wide, lengths), reader(ids, lengths))


def test_the_gradient_is_that_of_finite_differences(reader):
    ids, lengths = torch.tensor([[2, 5, 7, 3, 8, 9], [4, 6, 3, 2, 7, 0]]), torch.tensor([6, 5])
    weights = [layer.weight for layer in reader.layers]
    for layer in reader.layers:
        torch.nn.init.uniform_(layer.bias, 0.5, 1.0)  # off the corner of the rectifier

    def h(*values):
        names = [f"layers.{k}.weight" for k in range(len(values))]
        return torch.func.functional_call(reader, dict(zip(names, values, strict=True)), (ids, lengths))

    assert torch.autograd.gradcheck(h, weights)


def test_it_learns_to_rank_and_comes_back_from_its_state(tiny, tmp_path):
    store = FitStore(tmp_path, {}, tiny.train, tiny.val, torch.device("cpu"))
    part = WordCNN(filters=8, space=16, epochs=12, batch_size=20, dropout=0.1)
    fit = store.fitted(part, 0, "a row")
    chance = 2 * 100 * (1 + 5 + 10) / len(tiny.val)
    assert max(point["rsum"] for point in fit.curves["word-cnn"]) > 1.3 * chance
    h = part.embed_texts(tiny.test)
    assert h.shape == (len(tiny.test.texts), 24)
    again = store.fitted(WordCNN(filters=8, space=16, epochs=12, batch_size=20, dropout=0.1), 0, "a row")
    assert again.reused
    torch.testing.assert_close(again.part.embed_texts(tiny.test), h, rtol=0, atol=0)


def test_cca_takes_it_as_a_text_feature_and_shares_it(quick_scenes, tmp_path, command):
    kept = [*quick_scenes.arguments, "--results", tmp_path / "results"]
    said = command("run", "-m", "cca[text=word_cnn],cfa[text=word_cnn]", *kept)
    assert said.code == 0, said.err
    assert len(list((quick_scenes.cache / "fits").glob("wordcnn-*.safetensors"))) == 1
    again = command("search", "a red square", "-m", "cca[text=word_cnn]", *quick_scenes.arguments)
    assert again.code == 0, again.err
