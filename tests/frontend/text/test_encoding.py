"""Features of captions by a text encoder: stored once, resumed, and never those of other captions."""

import errno
import hashlib
import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cran_bench.errors import BadInput, CannotWrite
from cran_bench.frontend.catalogue import open_text_encoder
from cran_bench.frontend.text import encoding
from cran_bench.frontend.text.encoding import encode, forecast_texts, load_texts
from cran_bench.machine.storage import sha256_file, write_json
from cran_bench.split import MissingFeature, Split

CPU = torch.device("cpu")
DIM = 5


def vector(text):
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
    return np.random.default_rng(seed).normal(size=DIM).astype(np.float32)


class ByHash:
    """An encoder that knows each text by its hash, notes what it has encoded, and may be killed."""

    dim = DIM

    def __init__(self, killed_after=None, spoilt=lambda rows: rows):
        self.seen, self.killed_after, self.spoilt = [], killed_after, spoilt

    def identity(self):
        return {"name": "by-hash"}

    def embed(self, texts):
        if self.killed_after is not None and len(self.seen) >= self.killed_after:
            raise KeyboardInterrupt
        self.seen += texts
        return self.spoilt(np.array([vector(text) for text in texts]))


@pytest.fixture
def collection(tiny):
    """That of `tiny`, where every ninth caption is that before it."""
    own = tiny.train._collection
    return replace(own, captions=[own.captions[k - (k % 9 == 8)] for k in range(len(own.captions))])


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(encoding, "SHARD", 16)


@pytest.fixture
def given(collection, tmp_path):
    """``given(rows, lines)``: the spec of a file of features, with one of ids if there are lines."""

    def write(rows, lines=None):
        np.save(tmp_path / "rows.npy", rows)
        if lines is None:
            return f"npy:{tmp_path / 'rows.npy'}"
        (tmp_path / "ids.txt").write_text("\n".join(lines) + "\n")
        return f"npy:{tmp_path / 'rows.npy'}[ids={tmp_path / 'ids.txt'}]"

    return write


def rows_of(collection):
    return np.array([vector(text) for text in collection.captions])


@pytest.fixture
def split(collection, tiny):
    """``split(texts)``: a split with these features of the captions."""

    def made(texts, name="train", unit="captions"):
        return Split(name, unit, collection, tiny.train._features, None, CPU, encoded=texts)

    return made


def test_each_distinct_caption_is_encoded_once_and_kept(collection, tmp_path, capsys):
    encoder = ByHash()
    texts = encode(collection, encoder, "by-hash", tmp_path)
    assert sorted(encoder.seen) == sorted(set(collection.captions)) and len(encoder.seen) < len(collection.captions)
    np.testing.assert_array_equal(texts.array[texts.rows], rows_of(collection))
    again = encode(collection, encoder, "by-hash", tmp_path)
    assert len(encoder.seen) == len(set(collection.captions)) and "already encoded" in capsys.readouterr().err
    assert again.manifest == texts.manifest and {path.name for path in again.path.parent.iterdir()} == {
        ".locks",
        texts.path.name,
        texts.path.with_suffix(".json").name,
    }


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("killed_after", [0, 1, 40])
def test_a_killed_encoding_resumes_to_the_same_bytes(collection, tmp_path, killed_after):
    whole = encode(collection, ByHash(), "by-hash", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        encode(collection, ByHash(killed_after), "by-hash", tmp_path / "killed")
    (left,) = (tmp_path / "killed" / "texts").glob("unfinished-*")
    with left.open("ab") as file:
        file.write(b"half a row")
    second = ByHash()
    resumed = encode(collection, second, "by-hash", tmp_path / "killed")
    assert resumed.path.read_bytes() == whole.path.read_bytes() and not left.exists()
    first = -(-killed_after // 16) * 16
    assert second.seen == list(dict.fromkeys(collection.captions))[first:]


def test_force_encodes_again(collection, tmp_path):
    encode(collection, ByHash(), "by-hash", tmp_path)
    encoder = ByHash()
    encode(collection, encoder, "by-hash", tmp_path, force=True)
    assert len(encoder.seen) == len(set(collection.captions))


def test_a_kill_never_leaves_an_array_beside_the_manifest_of_another(collection, tmp_path, monkeypatch):
    encode(collection, ByHash(), "by-hash", tmp_path)

    def killed(*arguments):
        write_json(*arguments)
        raise KeyboardInterrupt

    other = ByHash(spoilt=lambda rows: 2 * rows)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encoding, "write_json", killed)
        encode(collection, other, "by-hash", tmp_path, force=True)
    texts = encode(collection, other, "by-hash", tmp_path)
    assert texts.manifest.sha256 == sha256_file(texts.path)
    np.testing.assert_array_equal(texts.array[texts.rows], 2 * rows_of(collection))


def test_a_full_disk_is_told_and_what_is_written_is_kept(collection, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "SHARD", 16)

    def full(file):
        if os.fstat(file).st_size > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(CannotWrite, match="the disk is full while writing"):
        patch.setattr(os, "fsync", full)
        encode(collection, ByHash(), "by-hash", tmp_path)
    encoder = ByHash()
    texts = encode(collection, encoder, "by-hash", tmp_path)
    assert 0 < len(encoder.seen) < len(set(collection.captions))
    np.testing.assert_array_equal(texts.array[texts.rows], rows_of(collection))


def test_one_caption(tiny, given, tmp_path):
    own = tiny.train._collection
    one = replace(own, captions=["a dog"], image_of=[0], splits={"test": [0]})
    texts = encode(one, open_text_encoder(given(np.ones((1, DIM)))), "npy:rows.npy", tmp_path)
    assert texts.array.shape == (1, DIM) and (texts.array == 1).all()
    with pytest.raises(BadInput, match=r"rows.npy has 5 rows for 1 captions"):  # five rows are for images only
        encode(one, open_text_encoder(given(np.ones((5, DIM)))), "npy:rows.npy", tmp_path)


def test_what_a_spec_declares_is_noted_also_later(collection, tmp_path):
    def noted(spec):
        return encode(collection, ByHash(), spec, tmp_path).manifest.trained_on

    assert [noted(f"by-hash{own}") for own in ("", "[trained_on=coco]", "", "[trained_on=none]")] == [
        None,
        ["coco"],
        ["coco"],
        [],
    ]


def test_other_captions_and_other_encoders_have_other_files(collection, tmp_path):
    texts = encode(collection, ByHash(), "by-hash", tmp_path)
    other = replace(collection, captions=[*collection.captions[:-1], "another caption"])
    assert encode(other, ByHash(), "by-hash", tmp_path).path != texts.path
    with pytest.raises(BadInput, match="holds features of other captions: prepare tiny again"):
        load_texts(texts.path, other)
    encoder = ByHash()
    encoder.identity = lambda: {"name": "by-another-hash"}
    assert encode(collection, encoder, "by-hash", tmp_path).path != texts.path


@pytest.mark.parametrize(
    ("spoilt", "what"),
    [
        (lambda rows: np.where(np.arange(len(rows))[:, None] == 3, np.nan, rows), "with NaN"),
        (lambda rows: rows[:-1], "of shape"),
        (lambda rows: rows[:, :-1], "of shape"),
    ],
)
def test_an_encoder_that_fails_is_told_in_one_sentence(collection, tmp_path, spoilt, what):
    with pytest.raises(BadInput, match=f"by-hash returns features {what}"):
        encode(collection, ByHash(spoilt=spoilt), "by-hash", tmp_path)
    assert not list((tmp_path / "texts").glob("*.json"))


@pytest.mark.parametrize("damage", ["gone", "not json", "of another", "short"])
def test_damaged_files_are_named(collection, tmp_path, damage):
    texts = encode(collection, ByHash(), "by-hash", tmp_path)
    manifest = texts.path.with_suffix(".json")
    if damage == "gone":
        manifest.unlink()
    elif damage == "not json":
        manifest.write_text("{")
    elif damage == "of another":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "identity": {}}))
    else:
        np.save(texts.path, np.zeros((3, DIM), np.float32))
    with pytest.raises(BadInput, match="--force"):
        encode(collection, ByHash(), "by-hash", tmp_path)
    assert encode(collection, ByHash(), "by-hash", tmp_path, force=True).manifest == texts.manifest


# features computed elsewhere ------------------------------------------------------------------------------------------


def test_rows_in_the_order_of_the_captions_need_no_ids(collection, given, tmp_path):
    texts = encode(collection, open_text_encoder(given(rows_of(collection))), "npy:rows.npy", tmp_path)
    np.testing.assert_array_equal(texts.array[texts.rows], rows_of(collection))
    assert texts.encoder is None


@pytest.mark.parametrize("kind", ["float16", "float64", "int8", "captions", "windows"])
def test_ids_name_rows_in_any_order(collection, given, tmp_path, kind):
    collection = replace(collection, images=SimpleNamespace(ids=[f"ü {name}" for name in collection.images.ids]))
    keys = collection.caption_keys()
    assert keys[0] == "ü image0#0" and len(set(keys)) == len(keys)
    order = np.random.default_rng(0).permutation(len(keys))
    lines = [f"{keys[k]}\t{collection.captions[k]}  " if kind == "captions" else keys[k] for k in order]
    rows = (9 * rows_of(collection)).astype(kind if kind[-1].isdigit() else "float32")
    spec = given(np.concatenate([rows[order], np.ones((1, DIM), rows.dtype)]), [*lines, "ü image100#0"])
    if kind == "windows":
        path = tmp_path / "ids.txt"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    texts = encode(collection, open_text_encoder(spec), "npy:rows.npy", tmp_path)
    np.testing.assert_array_equal(texts.array[texts.rows], rows.astype(np.float32))


def spoil(collection, how):
    rows, keys = rows_of(collection), collection.caption_keys()
    lines = [f"{key}\t{caption}" for key, caption in zip(keys, collection.captions, strict=True)]
    if how == "too few":
        return rows[:-1], None
    if how == "another order":
        return rows[::-1], None
    if how == "infinite":
        rows[7, 2] = np.inf
        return rows, None
    if how == "missing":
        return rows[1:], lines[1:]
    if how == "doubled":
        return rows, [*lines[:-1], lines[0]]
    if how == "lines":
        return rows, lines[:-1]
    return rows, [lines[0].replace("\t", "\tno "), *lines[1:]]


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("too few", r"rows.npy has \d+ rows for \d+ captions; give one row per caption"),
        ("another order", "whose captions are equal: give rows in the order of the captions"),
        ("infinite", "rows.npy: row 7 has a value that is not a finite float32"),
        ("missing", r"1 of \d+ captions have no row in .*ids.txt, the first is image0#0"),
        ("doubled", r"ids.txt names image0#0 2 times; name every caption once$"),
        ("lines", r"ids.txt names \d+ captions, but .*rows.npy has \d+ rows"),
        ("other captions", "ids.txt: image0#0 is 'no .*', but in tiny it is"),
    ],
)
def test_rows_that_are_not_those_of_the_captions_are_refused(collection, given, tmp_path, how, sentence):
    encoder = open_text_encoder(given(*spoil(collection, how)))
    with pytest.raises(BadInput, match=sentence):
        encode(collection, encoder, "npy:rows.npy", tmp_path)
    assert not [*(tmp_path / "texts").glob("[!.]*")]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("nyp:rows.npy", "there is no text encoder 'nyp'; did you mean 'npy'"),
        ("npy", "'npy' needs a file; write npy:FILE"),
        ("a/texts.npy", "there is no text encoder 'a/texts.npy'; write npy:a/texts.npy$"),
        ("net.onnx[pooling=cls]", r"there is no text encoder 'net.onnx'; write onnx:net.onnx\[pooling=cls\]$"),
        ("npy:gone.npy", "there is no file gone.npy"),
        ("npy:gone.npy[idz=x]", "no field 'idz'"),
    ],
)
def test_a_wrong_spec_is_told(spec, sentence):
    with pytest.raises(BadInput, match=sentence):
        open_text_encoder(spec)


def test_the_forecast_counts_captions(collection, given, tmp_path, monkeypatch):
    said, has_room = forecast_texts(collection, ByHash(), "by-hash", tmp_path)
    assert said.startswith(f"captions by by-hash: {len(set(collection.captions))} different ones, 0 MB, about ")
    assert has_room and "free" not in said
    with pytest.raises(BadInput, match="rows for"):
        forecast_texts(collection, open_text_encoder(given(rows_of(collection)[1:])), "npy:rows.npy", tmp_path)
    monkeypatch.setattr(encoding, "free_bytes", lambda _: 20)
    said, has_room = forecast_texts(collection, ByHash(), "by-hash", tmp_path)
    assert said.endswith("; 0 MB are free: too little") and not has_room


def documents_of(collection):
    return np.random.default_rng(1).normal(size=(len(collection.images.ids), DIM)).astype(np.float32)


def with_documents(collection, given, drop=0, text="", spoilt=lambda rows: rows):
    """The spec of features of the captions and, named by images, of their documents, less `drop`, in any order."""
    ids, own = collection.images.ids, collection.texts_of(np.arange(len(collection.images.ids)), "documents")[0]
    rows = np.concatenate([rows_of(collection), spoilt(documents_of(collection))])
    lines = [*collection.caption_keys(), *(f"{name}\t{text or told}" for name, told in zip(ids, own, strict=True))]
    order = np.random.default_rng(0).permutation(len(rows) - drop)
    return given(rows[order], [lines[k] for k in order])


@pytest.mark.usefixtures("small_shards")
def test_documents_have_the_features_that_are_given(collection, given, split, tmp_path, monkeypatch, capsys):
    spec = with_documents(collection, given)
    whole = encode(collection, open_text_encoder(spec), spec, tmp_path / "whole")
    assert f" captions and {len(collection.images.ids)} documents with npy:" in capsys.readouterr().err
    expected = documents_of(collection)
    for name in ("train", "val", "test"):
        own = split(whole, name, "documents")
        np.testing.assert_array_equal(own.text_features, expected[collection.splits[name]])
        np.testing.assert_array_equal(
            own.take(np.array([5, 2])).text_rows[:], expected[collection.splits[name][[5, 2]]]
        )
        np.testing.assert_array_equal(
            split(whole, name).text_features, [vector(text) for text in split(whole, name).texts]
        )
    features = encoding._features

    def killed(*arguments):
        if arguments[-1][-1] > len(collection.captions) + 40:  # the third shard that has documents
            raise KeyboardInterrupt
        return features(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encoding, "_features", killed)
        encode(collection, open_text_encoder(spec), spec, tmp_path / "killed")
    resumed = encode(collection, open_text_encoder(spec), spec, tmp_path / "killed")
    done = (len(set(collection.captions)) + 41) // 16 * 16
    assert f"[ids=ids.txt], {done} are done" in capsys.readouterr().err
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    said, _ = forecast_texts(collection, open_text_encoder(spec), spec, tmp_path)
    assert said.startswith(f"captions by {spec}: {len(set(collection.captions))} different ones, ")


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (
            {"drop": 1},
            r"ids.txt has no line image\d+, as of 1 of \d+ images, for its document: name the documents of all",
        ),
        ({"text": "another"}, "ids.txt: image0 is 'another', but in tiny it is '"),
        ({"spoilt": lambda rows: rows * np.nan}, "has a value that is not a finite float32"),
    ],
)
def test_documents_that_are_not_those_of_the_images_are_refused(collection, given, tmp_path, how, sentence):
    encoder = open_text_encoder(with_documents(collection, given, **how))
    with pytest.raises(BadInput, match=sentence):
        encode(collection, encoder, "npy:rows.npy", tmp_path)
    assert not [*(tmp_path / "texts").glob("[!.]*")]


# splits ---------------------------------------------------------------------------------------------------------------


def test_a_split_gives_the_rows_of_its_captions(split, collection, tmp_path):
    texts = encode(collection, ByHash(), "by-hash", tmp_path)
    for name in ("train", "val", "test"):
        own = split(texts, name)
        expected = np.array([vector(text) for text in own.texts])
        assert own.text_dim == DIM and own.text_features.dtype == torch.float32
        np.testing.assert_array_equal(own.text_features, expected)
        np.testing.assert_array_equal(own.text_rows[torch.tensor([3, 1])], expected[[3, 1]])
        some = own.take(np.array([5, 2]))
        np.testing.assert_array_equal(some.text_features, [vector(text) for text in some.texts])


def test_a_document_has_the_mean_of_its_captions_at_unit_length(split, collection, tmp_path):
    texts = encode(collection, ByHash(), "by-hash", tmp_path)
    documents, captions = split(texts, unit="documents"), split(texts)
    owner = captions.image_of.numpy()
    means = np.array([captions.text_features.numpy()[owner == image].mean(axis=0) for image in range(len(documents))])
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(documents.text_features, expected, atol=1e-6)
    np.testing.assert_allclose(documents.text_rows[4:6], expected[4:6], atol=1e-6)
    assert documents.text_rows.shape == (60, DIM)


def test_other_texts_are_encoded_where_the_encoder_can(split, collection, tmp_path, given):
    asked = split(encode(collection, ByHash(), "by-hash", tmp_path)).asking(["something new", "b"])
    np.testing.assert_array_equal(asked.text_features, [vector("something new"), vector("b")])
    encoder = open_text_encoder(given(rows_of(collection)))
    asked = split(encode(collection, encoder, "npy:rows.npy", tmp_path)).asking(["something new"])
    with pytest.raises(MissingFeature, match=r"npy:rows.npy has no features of other texts than the captions of tiny"):
        _ = asked.text_features


def test_without_an_encoder_the_features_are_missed(tiny):
    assert tiny.train.text_dim == 0
    for name in ("text_features", "text_rows"):
        with pytest.raises(MissingFeature, match="tiny has no text encoder here; give one with"):
            getattr(tiny.train, name)
