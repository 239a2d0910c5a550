import hashlib
import json
import math

import numpy as np
import pytest
from scipy import sparse

from cran_bench.errors import BadInput
from cran_bench.frontend.text import vectors
from cran_bench.frontend.text.vectors import PpmiSvd, VectorFile, WordVectors, vector_source

SENTENCES = [
    s.split() for s in ("a red star above a blue ring", "the star is red", "a ring", "rare", "", "blue blue a")
]


def brute_counts(sentences, window, min_count):
    frequency = {}
    for word in (w for s in sentences for w in s):
        frequency[word] = frequency.get(word, 0) + 1
    words = sorted((w for w in frequency if frequency[w] >= min_count), key=lambda w: (-frequency[w], w))
    counts = np.zeros((len(words), len(words)))
    for sentence in sentences:
        for i, w in enumerate(sentence):
            for j, c in enumerate(sentence):
                if i != j and abs(i - j) <= window and w in words and c in words:
                    counts[words.index(w), words.index(c)] += 1
    return words, counts


def brute_ppmi(counts, shift, smoothing):
    M = np.zeros_like(counts)
    joint = counts / counts.sum()
    p_word = counts.sum(1) / counts.sum()
    p_context = counts.sum(0) ** smoothing / (counts.sum(0) ** smoothing).sum()
    for w, c in zip(*counts.nonzero(), strict=True):
        M[w, c] = max(0.0, math.log(joint[w, c] / (p_word[w] * p_context[c])) - math.log(shift))
    return M


def random_sentences(words=60, sentences=200, seed=0):
    rng = np.random.default_rng(seed)
    return [[f"w{i}" for i in rng.geometric(0.08, rng.integers(1, 12)) if i < words] for _ in range(sentences)]


@pytest.mark.parametrize("window", [1, 2, 5, 100])
@pytest.mark.parametrize("min_count", [1, 2])
@pytest.mark.parametrize("sentences", [SENTENCES, random_sentences()])
def test_counts_and_ppmi_by_brute_force(sentences, window, min_count):
    source = PpmiSvd(window=window, min_count=min_count, shift=1.5, smoothing=0.75)
    words, counts = source.cooccurrences(sentences)
    expected_words, expected = brute_counts(sentences, window, min_count)
    assert words == expected_words
    np.testing.assert_array_equal(counts.toarray(), expected)
    np.testing.assert_allclose(source.ppmi(counts).toarray(), brute_ppmi(expected, 1.5, 0.75), atol=1e-12)


@pytest.mark.parametrize("dense_up_to", [1000, 0])
def test_vectors_are_the_best_approximation(monkeypatch, dense_up_to):
    monkeypatch.setattr(vectors, "DENSE_UP_TO", dense_up_to)
    source = PpmiSvd(dim=7, min_count=1)
    fitted = source.open(random_sentences())
    M = source.ppmi(source.cooccurrences(random_sentences())[1]).toarray()
    U, S, Vt = np.linalg.svd(M)
    assert fitted.matrix.shape == (len(M), 7) and fitted.matrix.dtype == np.float32 and fitted.dim == 7
    # W W' = U S U', whatever the signs; and W S^(1/2) V' is the best approximation of rank 7
    np.testing.assert_allclose(fitted.matrix @ fitted.matrix.T, U[:, :7] * S[:7] @ U[:, :7].T, atol=1e-4)
    left = fitted.matrix / np.sqrt(S[:7])
    np.testing.assert_allclose(left @ (left.T @ M), U[:, :7] * S[:7] @ Vt[:7], atol=1e-4)
    largest = np.abs(fitted.matrix).argmax(0)
    assert (fitted.matrix[largest, np.arange(7)] > 0).all()


def test_the_truncated_solver_agrees_with_the_dense_one_and_itself(monkeypatch):
    dense = PpmiSvd(dim=5, min_count=1).open(random_sentences())
    monkeypatch.setattr(vectors, "DENSE_UP_TO", 0)
    first, second = (PpmiSvd(dim=5, min_count=1).open(random_sentences()) for _ in range(2))
    np.testing.assert_array_equal(first.matrix, second.matrix)
    np.testing.assert_allclose(first.matrix, dense.matrix, atol=1e-4)
    assert first.index == dense.index


def test_fewer_words_than_dimensions():
    fitted = PpmiSvd(dim=300, min_count=1).open(SENTENCES)
    M = PpmiSvd(min_count=1).ppmi(PpmiSvd(min_count=1).cooccurrences(SENTENCES)[1]).toarray()
    assert fitted.dim == np.linalg.matrix_rank(M) <= len(fitted)
    assert not fitted.lookup(["rare"]).any()


def test_words_that_never_meet_have_zero_vectors():
    fitted = PpmiSvd(min_count=1).open([["a"], ["b"]])
    assert fitted.matrix.tolist() == [[0.0], [0.0]]


def test_words_in_like_contexts_are_near():
    sentences = [["the", f"c{i % 5}", pet, f"v{i % 7}"] for i in range(70) for pet in ("cat", "dog")]
    sentences += [[f"x{i % 5}", "tin", f"y{i % 7}"] for i in range(70)]
    fitted = PpmiSvd(dim=6).open(sentences)
    cat, dog, tin = fitted.lookup(["cat", "dog", "tin"])
    assert cat @ dog > 0.95 * np.linalg.norm(cat) * np.linalg.norm(dog) > abs(cat @ tin)


def test_lookup_skips_unknown_words_and_keeps_repeated_ones():
    table = WordVectors(["a", "b"], np.array([[1, 2], [3, 4]], np.float32), {})
    assert table.lookup(["b", "?", "a", "b"]).tolist() == [[3, 4], [1, 2], [3, 4]]
    assert table.lookup(["?"]).shape == (0, 2)
    assert len(table) == 2


WORDS = ["the", "man's", "élan", "x"]
MATRIX = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def write_glove(path, end="\n"):
    path.write_bytes("".join(f"{w} {' '.join(map(str, v))}{end}" for w, v in zip(WORDS, MATRIX, strict=True)).encode())
    return path


def write_word2vec(path, end=" \n"):
    write_glove(path, end)
    path.write_bytes(b"4 3\n" + path.read_bytes())
    return path


def write_binary(path, end=b"\n"):
    records = [w.encode() + b" " + v.tobytes() + end for w, v in zip(WORDS, MATRIX, strict=True)]
    path.write_bytes(b"4 3\n" + b"".join(records))
    return path


FILES = {
    "glove": lambda folder: f"glove:{write_glove(folder / 'g.txt')}",
    "glove-crlf": lambda folder: f"glove:{write_glove(folder / 'g.txt', chr(13) + chr(10))}",
    "word2vec": lambda folder: f"word2vec:{write_word2vec(folder / 'w.txt')}",
    "binary": lambda folder: f"word2vec:{write_binary(folder / 'w.bin')}",
    "binary-gensim": lambda folder: f"word2vec:{write_binary(folder / 'w.bin', b'')}",
}


@pytest.mark.parametrize("kind", FILES)
def test_files_round_trip(tmp_path, kind):
    source = vector_source(FILES[kind](tmp_path))
    full = source.read()
    assert list(full.index) == WORDS
    np.testing.assert_array_equal(full.matrix, MATRIX)
    some = source.open([["x", "élan"], ["unheard"]])
    assert list(some.index) == ["élan", "x"]
    np.testing.assert_array_equal(some.matrix, MATRIX[[2, 3]])


@pytest.mark.parametrize("kind", FILES)
def test_a_file_with_none_of_the_words(tmp_path, kind):
    with pytest.raises(BadInput, match=r"none of the words of the training captions, in any of \d+ spellings"):
        vector_source(FILES[kind](tmp_path)).open([["unheard"]])


def test_identity_names_contents_and_no_folder(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    here, there = write_glove(tmp_path / "a.txt"), write_glove(tmp_path / "elsewhere" / "b.txt")
    identity = vector_source(f"glove:{here}").identity()
    assert identity == vector_source(f"glove:{there}").read().identity()
    assert identity["sha256"] == hashlib.sha256(here.read_bytes()).hexdigest()
    assert str(tmp_path) not in json.dumps(identity)
    assert vector_source("ppmi-svd").identity() == vector_source("ppmi-svd[dim=300]").identity()
    assert vector_source("ppmi-svd").identity() != vector_source("ppmi-svd[window=2]").identity()


def test_the_first_of_two_vectors_counts(tmp_path):
    text = tmp_path / "g.txt"
    text.write_text("a 1 2\nb 3 4\na 5 6\n")
    table = VectorFile(text, header=False).read()
    assert table.index == {"a": 0, "b": 1} and table.matrix.tolist() == [[1, 2], [3, 4]]


def test_words_with_spaces_as_in_glove_840b(tmp_path):
    text = tmp_path / "g.txt"
    text.write_text("a 1 2\n. . . 3 4\nat name@domain.com 5 6\n")
    assert list(VectorFile(text, header=False).read().index) == ["a", ". . .", "at name@domain.com"]


@pytest.mark.parametrize("write", [write_glove, write_word2vec])
@pytest.mark.parametrize(
    "changed",
    [
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.replace(b" ", b"\t"),
        lambda content: b"\xef\xbb\xbf" + content.replace(b" ", b"\t").replace(b"\n", b"\r\n"),
    ],
)
def test_a_byte_order_mark_and_tabs(tmp_path, write, changed):
    file = VectorFile(write(tmp_path / "v.txt"), header=write is write_word2vec)
    file.path.write_bytes(changed(file.path.read_bytes()))
    table = file.read()
    assert list(table.index) == WORDS
    np.testing.assert_array_equal(table.matrix, MATRIX)
    assert len(file.sample(table, 9, seed=0)) == len(WORDS)


def test_the_binary_format_is_recognised_by_its_content(tmp_path):
    binary, text = write_binary(tmp_path / "v.vec"), write_word2vec(tmp_path / "text.bin")
    for path in (binary, text):
        np.testing.assert_array_equal(VectorFile(path, header=True).read().matrix, MATRIX)
    assert VectorFile(binary, header=True).identity()["binary"]
    assert not VectorFile(text, header=True).identity()["binary"]


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("glove", b"", "is empty"),
        ("glove", b"4 300\na 1 2\n", "line 1: .* got '4 300'; .*word2vec:FILE"),
        ("glove", b"a\n", "line 1: expected a word and its values"),
        ("glove", b"a 1 2\nb 3\n", "line 2: expected a word and 2 values, got 1 values"),
        ("glove", b"a 1 2\nb 3 4 5\n", "line 2: expected a word and 2 values, got 3 values"),
        ("glove", b"a 1 2\n\nb 3 4\n", "line 2: expected a word and 2 values, got 0 values"),
        ("glove", b"a 1 2\nb 3 x\n", "line 2: expected numbers after the word, got 'x'"),
        ("glove", b"a 1 2\nb 3 nan\n", "line 2: expected finite numbers"),
        ("glove", b"a 1 2\nb 3 1e60\n", "line 2: expected finite numbers"),
        ("word2vec", b"", "line 1: expected the number of words and their dimension, got ''; .*glove:FILE"),
        ("word2vec", b"a 1 2\n", "line 1: expected the number of words and their dimension, got 'a 1 2'"),
        ("word2vec", b"0 2\n", "line 1: expected the number of words"),
        ("word2vec", b"2 2\na 1 2\n", "line 1: declares 2 words, but 1 follow up to line 2"),
        ("word2vec", b"1 2\na 1 2\nb 1 2\n", "line 1: declares 1 words, but 2 follow up to line 3"),
        ("word2vec", b"1 2\na 1\n", "line 2: expected a word and 2 values, got 1 values"),
        ("word2vec", "1 2\na 1 2\n".encode("utf-16"), "neither UTF-8 text nor word2vec's .*UTF-16 to UTF-8"),
        ("glove", "a 1 2\nb 3 4\n".encode("utf-16"), "neither UTF-8 text nor word2vec's .*UTF-16 to UTF-8"),
        ("word2vec", b"\xba\x16O/\x0c\0\0\0", "of fastText give the .vec file"),
        ("glove", b"\x80\x04\x95 gensim 1\n", "from gensim export with save_word2vec_format"),
        ("glove", b"4 3\na \0\0\0\0", "got '4 3'; .*word2vec:FILE"),
        ("bin", b"", "line 1: expected the number of words"),
        ("bin", b"\x80\xff" * 200, "line 1: expected the number of words"),
        ("bin", b"2 1\na \0\0\0\0\nb \0\0", "line 1: declares 2 words of 1 values, but the file ends within word 2"),
        ("bin", b"2 1\na \0\0\0\0\n", "the file ends within word 2"),
        ("bin", b"1 1\na \0\0\0\0\nb \0\0\0\0\n", "line 1: .* 8 bytes follow"),
        ("bin", b"1 1\na \0\0\x80\x7f", "word 1: expected finite numbers"),
    ],
)
def test_malformed_files(tmp_path, kind, content, message):
    path = tmp_path / ("vectors.bin" if kind == "bin" else "vectors.txt")
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        VectorFile(path, header=kind != "glove").read()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gloves:x", "did you mean 'glove'"),
        ("glove", "need an existing file; write glove:FILE"),
        ("glove:absent.txt", "'glove:absent.txt' need an existing file"),
        ("word2vec:x.bin[dim=3]", "takes a file and no options"),
        ("ppmi-svd:x", "takes no 'x'"),
        ("ppmi-svd[dims=3]", "did you mean 'dim'"),
        ("ppmi-svd[dim=0]", "dim must be at least 1, not 0"),
        ("ppmi-svd[shift=0]", "shift must be a positive number"),
        ("ppmi-svd[shift=nan]", "shift must be a positive number"),
        ("ppmi-svd[smoothing=2]", "smoothing must lie between 0 and 1"),
    ],
)
def test_bad_specs(spec, message):
    with pytest.raises(BadInput, match=message):
        vector_source(spec)


def test_packed_files_and_rare_words(tmp_path):
    (tmp_path / "v.bin.gz").touch()
    with pytest.raises(BadInput, match="unpack it"):
        vector_source(f"word2vec:{tmp_path / 'v.bin.gz'}")
    with pytest.raises(BadInput, match="occurs 2 times; lower min_count"):
        PpmiSvd().open([["a", "b"]])


def test_a_file_that_vanished(tmp_path):
    with pytest.raises(BadInput, match="cannot read"):
        VectorFile(tmp_path / "absent.txt", header=False).read()


def test_ppmi_of_independent_words_is_zero():
    counts = sparse.csr_array(np.outer([1.0, 2, 3], [1.0, 2, 3]))
    assert PpmiSvd(smoothing=1.0).ppmi(counts).nnz <= 6
    assert np.abs(PpmiSvd(smoothing=1.0).ppmi(counts).toarray()).max() < 1e-12
