"""ONNX text encoders: a made network whose vectors are known, and MiniLM where CRAN_BENCH_DATA names it."""

import os
from pathlib import Path

import numpy as np
import pytest

from cran_bench.errors import BadInput
from cran_bench.frontend.catalogue import open_text_encoder
from cran_bench.frontend.text import onnx as onnx_texts

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("tokenizers", reason="needs the extra onnx")

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog", "run", "##s", "cafe", ",", "##ning"]
DIM = 3
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(len(VOCABULARY), DIM)).astype(np.float32)
MIXED = RNG.normal(size=(DIM, DIM)).astype(np.float32)


def network(path, cast=False, inputs=("input_ids", "attention_mask", "token_type_ids"), kind="states", dynamic=False):
    """``table[input_ids] @ MIXED`` plus the mean over the mask's tokens, so that padding would be seen."""
    make, value, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto
    nodes = [make("Cast", ["input_ids"], ["ids"], to=tensor.INT64)] if cast else []
    nodes += [
        make("Mul", ["weights", "scale"], ["table"]),
        make("Gather", ["table", "ids" if cast else "input_ids"], ["vectors"]),
        make("MatMul", ["vectors", "mixing"], ["mixed"]),
    ]
    if dynamic:
        nodes += [
            make("DynamicQuantizeLinear", ["mixed"], ["q", "s", "z"]),
            make("DequantizeLinear", ["q", "s", "z"], ["last"]),
        ]
    elif "attention_mask" in inputs:
        nodes += [
            make("Cast", ["attention_mask"], ["real"], to=tensor.FLOAT),
            make("Unsqueeze", ["real", "last_axis"], ["wide"]),
            make("Mul", ["mixed", "wide"], ["masked"]),
            make("ReduceSum", ["masked", "token_axis"], ["sum"]),
            make("Add", ["mixed", "sum"], ["last"]),
        ]
    else:
        nodes.append(make("Identity", ["mixed"], ["last"]))
    output = "last"
    if kind == "sentences":
        nodes.append(make("ReduceMean", ["last"], ["sentences"], axes=[1], keepdims=0))
        output = "sentences"
    whole = tensor.INT32 if cast else tensor.INT64
    graph = onnx.helper.make_graph(
        nodes,
        "encoder",
        [value(name, whole, ["batch", "tokens"]) for name in inputs],
        [value(output, tensor.FLOAT, ["batch", DIM] if kind == "sentences" else ["batch", "tokens", DIM])],
        [
            onnx.numpy_helper.from_array(TABLE, "weights"),
            onnx.numpy_helper.from_array(np.ones((len(TABLE), 1), np.float32), "scale"),
            onnx.numpy_helper.from_array(MIXED, "mixing"),
            onnx.numpy_helper.from_array(np.array([2]), "last_axis"),
            onnx.numpy_helper.from_array(np.array([1]), "token_axis"),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def expected(ids, pooling="mean", with_sum=True):
    mixed = TABLE[ids] @ MIXED
    states = mixed + mixed.sum(axis=0) if with_sum else mixed
    pooled = states.mean(axis=0) if pooling == "mean" else states[0]
    return pooled / np.linalg.norm(pooled)


@pytest.fixture
def vocab(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return tmp_path / "vocab.txt"


TEXTS = ["A dog runs", "a", "Café, running zzz", "a dog a dog a dog"]
IDS = [[2, 4, 5, 6, 7, 3], [2, 4, 3], [2, 8, 9, 6, 10, 1, 3], [2, 4, 5, 4, 5, 4, 5, 3]]


@pytest.mark.usefixtures("vocab")
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 64])
def test_vectors_are_pooled_over_word_pieces_whatever_the_batch(tmp_path, monkeypatch, pooling, cast, batch):
    monkeypatch.setattr(onnx_texts, "BATCH", batch)
    encoder = open_text_encoder(f"onnx:{network(tmp_path / 'net.onnx', cast)}[pooling={pooling}]")
    rows = encoder.embed(TEXTS)
    assert encoder.dim == DIM and rows.dtype == np.float32
    np.testing.assert_allclose(rows, [expected(ids, pooling) for ids in IDS], atol=1e-6)
    assert encoder.embed([]).shape == (0, DIM)


def test_a_network_without_a_mask_is_taken_as_it_is(tmp_path, vocab):
    path = network(tmp_path / "net.onnx", inputs=("input_ids",))
    rows = open_text_encoder(f"onnx:{path}[vocab={vocab}]").embed(TEXTS[:1])
    np.testing.assert_allclose(rows, [expected(IDS[0], with_sum=False)], atol=1e-6)


@pytest.mark.usefixtures("vocab")
def test_a_text_has_the_same_vector_alone_where_values_are_quantised_by_batch(tmp_path):
    encoder = open_text_encoder(f"onnx:{network(tmp_path / 'net.onnx', dynamic=True)}")
    np.testing.assert_array_equal(encoder.embed(TEXTS)[1:2], encoder.embed(TEXTS[1:2]))


@pytest.mark.usefixtures("vocab")
def test_long_texts_are_cut_and_counted(tmp_path, capsys):
    encoder = open_text_encoder(f"onnx:{network(tmp_path / 'net.onnx')}")
    encoder.embed(["dog " * 254])
    assert "cut" not in capsys.readouterr().err
    row, _ = encoder.embed(["dog " * 300, "a"])
    np.testing.assert_allclose(row, expected([2, *[5] * 254, 3]), atol=1e-5)
    assert "1 of 2 texts are cut after 256 tokens" in capsys.readouterr().err


def test_the_identity_is_that_of_contents(tmp_path, vocab):
    def identity(**changes):
        options = ",".join(f"{key}={value}" for key, value in {"vocab": vocab, **changes}.items())
        return open_text_encoder(f"onnx:{tmp_path / 'net.onnx'}[{options}]").identity()

    network(tmp_path / "net.onnx")
    first = identity()
    (tmp_path / "copy.txt").write_bytes(vocab.read_bytes())
    assert identity(vocab=tmp_path / "copy.txt") == first
    assert identity(pooling="cls") != first
    (tmp_path / "copy.txt").write_text("\n".join([*VOCABULARY[:-2], VOCABULARY[-1], VOCABULARY[-2]]))
    assert identity(vocab=tmp_path / "copy.txt") != first


def test_a_vocabulary_written_on_windows_is_the_same(tmp_path, vocab):
    rows = [open_text_encoder(f"onnx:{network(tmp_path / 'net.onnx')}").embed(TEXTS)]
    vocab.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(VOCABULARY).encode())
    rows.append(open_text_encoder(f"onnx:{tmp_path / 'net.onnx'}").embed(TEXTS))
    np.testing.assert_array_equal(*rows)


@pytest.mark.usefixtures("vocab")
def test_no_session_is_opened_before_something_is_embedded(tmp_path, monkeypatch):
    encoder = open_text_encoder(f"onnx:{network(tmp_path / 'net.onnx')}")
    monkeypatch.setattr(onnx_texts, "open_session", None)
    assert encoder.identity()["pooling"] == "mean"
    with pytest.raises(TypeError):
        encoder.embed(["a"])


def test_a_vocabulary_of_another_encoder_is_refused(tmp_path, vocab):
    path = network(tmp_path / "net.onnx")
    for tokens, sentence in (
        ([*VOCABULARY, "more"], "vocab.txt has 12 tokens, but net.onnx has vectors of 11"),
        ([*VOCABULARY[:-1], "a"], "vocab.txt has a token twice"),
        (VOCABULARY[1:], r"vocab.txt does not have \[PAD\]"),
    ):
        vocab.write_text("\n".join(tokens))
        with pytest.raises(BadInput, match=sentence):
            open_text_encoder(f"onnx:{path}").embed(["a"])
    vocab.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="is not UTF-8 text"):
        open_text_encoder(f"onnx:{path}")
    vocab.unlink()
    with pytest.raises(BadInput, match=r"there is no vocabulary .*vocab.txt: give the encoder's own with vocab=FILE"):
        open_text_encoder(f"onnx:{path}")


@pytest.mark.usefixtures("vocab")
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"inputs": ("input_ids", "position_ids")}, "net.onnx takes input_ids, position_ids, but a text encoder takes"),
        ({"kind": "sentences"}, "not a vector for each: export last_hidden_state"),
    ],
)
def test_a_network_that_is_no_text_encoder_is_refused(tmp_path, changes, sentence):
    path = network(tmp_path / "net.onnx", **changes)
    with pytest.raises(BadInput, match=sentence):
        open_text_encoder(f"onnx:{path}").embed(["a"])


@pytest.mark.real
@pytest.mark.skipif("CRAN_BENCH_DATA" not in os.environ, reason="CRAN_BENCH_DATA names no data")
def test_minilm_knows_what_means_the_same():
    home = Path(os.environ["CRAN_BENCH_DATA"]) / "text"
    if not home.is_dir():
        pytest.skip("there is no text encoder in CRAN_BENCH_DATA")
    encoder = open_text_encoder(f"onnx:{home / 'all_minilm_l6_v2_int8.onnx'}")
    rows = encoder.embed(
        ["A dog runs along the beach.", "A puppy is running by the sea.", "A man plays guitar on stage."]
    )
    assert rows.shape == (3, 384)
    np.testing.assert_allclose(rows @ rows[0], [1, 0.66, 0.07], atol=0.01)
    np.testing.assert_allclose(encoder.embed(["A dog runs along the beach."])[0], rows[0], atol=1e-5)
