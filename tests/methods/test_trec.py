"""Rankings in TREC's format: read as they are meant, or refused with a reason."""

import json
import random
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cran_bench
from cran_bench.errors import BadInput
from cran_bench.records.archive import read_ranks, read_record
from cran_bench.registry import DATASETS, METHODS
from cran_bench.running.fits.serialisation import fields_json
from cran_bench.running.preparation import find_prepared

IMAGES, TEXTS = ["a.jpg", "b%20c.jpg"], ["a.jpg#0", "a.jpg#1", "b%20c.jpg#0"]
I2T = "a.jpg Q0 a.jpg#1 1 0.5 x\na.jpg Q0 b%20c.jpg#0 2 -1e3 x\nb%20c.jpg Q0 a.jpg#0 7 0.25 other\n"
PAIRS = ["a.jpg Q0 a.jpg#0", "a.jpg Q0 a.jpg#1", "a.jpg Q0 b%20c.jpg#0", "b%20c.jpg Q0 a.jpg#0"]
T2I = "a.jpg#0 Q0 b%20c.jpg 1 3 x\na.jpg#1 Q0 a.jpg 1 4 x\nb%20c.jpg#0 Q0 a.jpg 1 5 x\n"


class Two:
    """Two images with three captions, as far as their ids go."""

    image_of = torch.tensor([0, 0, 1])
    texts = TEXTS

    def escaped_ids(self):
        return IMAGES, TEXTS


@pytest.fixture
def read(tmp_path):
    """``read(text)``: scores (2, 3) for image queries and (2, 3) for text queries by a run file, 0 if unlisted."""

    def call(text, t2i=None):
        (tmp_path / "made.run").write_bytes(text if isinstance(text, bytes) else text.encode())
        spec = f"trec:{tmp_path}/made.run"
        if t2i is not None:
            (tmp_path / "t2i.run").write_text(t2i)
            spec += f"[t2i={tmp_path}/t2i.run]"
        method = METHODS.configure(spec).build()
        images, texts = method.embed_images(Two()), method.embed_texts(Two())
        return [score(images, texts).tolist() for score in (method.score_for_images, method.score)]

    return call


BOTH = [[[0, 3, 1], [2, 0, 0]], [[0, 2, 3], [1, 0, 0]]]  # the places of the scores in their file


@pytest.mark.parametrize(
    "text",
    [
        I2T + T2I,
        T2I + I2T,
        "\ufeff" + I2T + T2I,
        (I2T + T2I).replace("\n", "\r\n"),
        (I2T + T2I).replace(" ", "\t"),
        "\n" + (I2T + T2I).replace("\n", "\n\n   \n"),
    ],
)
def test_a_file_of_both_directions(read, text):
    assert read(text) == BOTH


def test_a_file_for_each_direction(read):
    assert read(I2T, T2I) == BOTH


def test_scores_differ_by_their_last_bit_or_tie(read):
    values = [0.1 + 0.2, 0.3, 0.30000000000000004, 5e-324]
    lines = [f"{pair} 1 {value!r} x\n" for pair, value in zip(PAIRS, values, strict=True)]
    assert read("".join(lines), T2I)[0] == [[3, 2, 3], [1, 0, 0]]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the run ranks nothing for i2t; a row has both directions, trec:RUN[t2i=RUN]"),
        (T2I, "the run ranks nothing for i2t"),
        (I2T, "the run ranks nothing for t2i"),
        ("a,b,c\n", "is not a run, each line 'query Q0 candidate rank score tag', a finite score: line 1 is 'a,b,c'"),
        (I2T + "a.jpg Q0 a.jpg#0 3 0.1\n", "line 4 is 'a.jpg Q0 a.jpg#0 3 0.1'"),
        ("a.jpg Q0 a.jpg#0 1 best x\n", "could not convert string to float: 'best'"),
        (b"\xff\xfe\x00 x", "is not a run"),
        (I2T + "a.jpg Q0 a.jpg#0 3 nan x\n", "a finite score: line 4 is 'a.jpg Q0 a.jpg#0 3 nan x'"),
        (I2T + "a.jpg Q0 a.jpg#0 3 -inf x\n", "line 4 is"),
        (I2T + "a.jpg Q0 a.jpg#0 3 1e999 x\n", "line 4 is"),
        (I2T + T2I + "a.jpg Q0 a.jpg#1 3 0.1 x\n" * 2, "lists a.jpg#1 3 times for a.jpg; keep one line"),
        (I2T + "a.jpeg Q0 a.jpg#1 3 0.1 x\n", "has 1 lines that are not of this test split, the first of 'a.jpeg' and"),
        (I2T + "a.jpeg Q0 a.jpg#1 3 0.1 x\n", "and 'a.jpg#1'; did you mean 'a.jpg'?"),
        (I2T + "a.jpg Q0 a.jpg#11 3 0.1 x\n", "and 'a.jpg#11'; did you mean 'a.jpg#1'?"),
        (I2T + T2I + "a.jpg#1 Q0 b.jpg 3 0.1 x\n", "the first of 'a.jpg#1' and 'b.jpg'"),
        (I2T + "a.jpg Q0 a.jpg 3 0.1 x\n", "the first of 'a.jpg' and 'a.jpg'"),
        ("z Q0 z#0 1 1 x\nz Q0 z#1 1 1 x\n", "has 2 lines that are not of this test split"),
    ],
)
def test_what_is_not_a_run_of_this_split_is_refused(read, text, sentence):
    with pytest.raises(BadInput) as said:
        read(text)
    assert sentence in str(said.value)


def test_files_may_come_in_any_order_but_not_twice(read):
    assert read(T2I, I2T) == BOTH
    with pytest.raises(BadInput, match=r"lists \S+ 2 times for \S+; keep one line"):
        read(I2T + T2I, T2I)


def test_an_id_of_an_image_and_a_caption_is_refused(read, monkeypatch):
    monkeypatch.setattr(Two, "escaped_ids", lambda self: (["a", "a#0"], ["a#0", "a#1", "a#0#0"]))
    with pytest.raises(BadInput, match="'a#0' is the id of an image and of a caption; rename the image"):
        read("a Q0 a#0 1 1 x\n")


def test_missing_queries_are_counted(read, capsys):
    assert read("a.jpg Q0 a.jpg#1 1 0.5 x\n", T2I)[0] == [[0, 1, 0], [0, 0, 0]]
    assert "1 of 2 queries of i2t are not in the run; all their candidates tie" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("trec", "trec needs one run: write trec:RUN"),
        ("trec:gone.run", "trec: there is no file gone.run; give the path of a run"),
        ("trec:made.run[t2i=gone.run]", "there is no file gone.run"),
        ("trec:made.run[i2t=made.run]", "trec has no field 'i2t'; known: run, t2i"),
        ("trec:.", "there is no file ."),
    ],
)
def test_what_is_not_a_file_is_one_sentence(tmp_path, monkeypatch, spec, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made.run").write_text(I2T + T2I)
    with pytest.raises(BadInput) as said:
        METHODS.configure(spec)
    assert sentence in str(said.value)


WORD = st.sampled_from([*IMAGES, *TEXTS, "Q0", "0", "0.5", "-3", "nan", "1e400", "x", "\u2028", "\x85", '"', "#"])
LINES = st.lists(st.lists(WORD, max_size=7).map(" ".join), max_size=6).map("\n".join)


@settings(max_examples=150, deadline=None)
@given(st.one_of(LINES.map(str.encode), st.binary(max_size=60)))
def test_any_file_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.run"
    path.write_bytes(content)
    method = METHODS.configure(f"trec:{path}").build()
    try:
        images, texts = method.embed_images(Two()), method.embed_texts(Two())
    except BadInput:
        return
    for scores in (method.score(images, texts), method.score_for_images(images, texts)):
        assert scores.shape == (2, 3) and torch.equal(scores, scores.round()) and scores.min() >= 0 < scores.max()


def counted(scores, is_right):
    """Better, tied and right of a query, one candidate after the other."""
    best = max(score for score, is_own in zip(scores, is_right, strict=True) if is_own)
    better = sum(score > best for score in scores)
    tied = sum(score == best and not is_own for score, is_own in zip(scores, is_right, strict=True))
    return better, tied, sum(score == best for score in scores) - tied


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.sampled_from([2, 5, 1000]),
    st.sampled_from([0, 2, 3]),
)
def test_what_is_not_listed_ranks_below_and_ties(tmp_path_factory, seed, share, levels, folds):
    draw = np.random.default_rng(seed)
    count = int(draw.integers(3, 9))
    owners = np.sort(np.concatenate([np.arange(count), draw.integers(0, count, 7)]))
    names = [f"{k}" for k in range(count)], [f"text{k}" for k in range(len(owners))]
    scores, lines = {}, []
    for side, (queries, candidates) in (("i2t", names), ("t2i", names[::-1])):
        full = np.where(draw.random((len(queries), len(candidates))) < share, 0, -np.inf)
        full[0, 0] = 0  # at least one line
        full += draw.integers(0, levels, full.shape)
        scores[side] = full if side == "i2t" else full.T
        pairs = np.argwhere(np.isfinite(full)).tolist()
        lines += [f"{queries[q]} Q0 {candidates[c]} 0 {full[q, c]} x" for q, c in pairs]
    path = tmp_path_factory.getbasetemp() / "drawn.run"
    path.write_text("\n".join(lines))
    method, twins = METHODS.configure(f"trec:{path}").build(), draw.permutation(count)
    split = SimpleNamespace(image_of=torch.from_numpy(owners), texts=names[1], escaped_ids=lambda: names)
    sides = method.embed_images(split), method.embed_texts(split), owners
    found = cran_bench.evaluate(*sides, similarity=method.similarity, folds=folds, twins=twins)

    size = count // folds if folds else count
    ranked, is_right = size * (folds or 1), np.arange(count)[:, None] == owners
    of_images, of_texts = [], []
    for k in range(ranked):
        here = owners // size == k // size
        of_images.append(counted(scores["i2t"][k, here], is_right[k, here]))
    for k in np.flatnonzero(owners < ranked):
        here = np.arange(count) // size == owners[k] // size
        of_texts.append(counted(scores["t2i"][here, k], is_right[here, k]))
    for expected, counts in ((of_images, found.ranks.i2t), (of_texts, found.ranks.t2i)):
        np.testing.assert_array_equal(np.array(expected).T, list(vars(counts).values()))
    own, other = (scores["t2i"][rows, np.arange(len(owners))] for rows in (owners, twins[owners]))
    assert found.metrics["twin_accuracy"] == pytest.approx(100 * np.mean((own > other) + 0.5 * (own == other)))


# as a row -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ranked(quick_scenes, tmp_path):
    """A run of the tiny scenes' test split that lists eight random candidates of every query but one."""
    test = find_prepared(DATASETS.configure(quick_scenes.spec), quick_scenes.data, quick_scenes.cache)
    rows = test.collection.splits["test"]
    images = [test.collection.images.ids[row] for row in rows.tolist()]
    texts = [f"{name}#{k}" for name in images for k in range(5)]
    draw, lines = random.Random(0), []
    for queries, candidates in ((images[1:], texts), (texts, images)):
        for query in queries:
            lines += [f"{query} Q0 {name} 0 {draw.randrange(5)} x" for name in draw.sample(candidates, 8)]
    (tmp_path / "their").mkdir()
    (tmp_path / "their" / "made.run").write_text("\n".join(lines) + "\n")
    return tmp_path / "their" / "made.run"


def test_a_run_is_a_row_like_any_other(ranked, quick_scenes, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = [*quick_scenes.arguments, "--results", "results"]
    cca = "cca[ridge_image=0.01,ridge_text=0.01,dim=32]"
    said = command("run", "-m", f"{cca},trec:their/made.run", *where)
    assert said.code == 0, said.err
    assert "1 of 20 queries of i2t are not in the run; all their candidates tie" in said.err
    (path,) = (tmp_path / "results").rglob("trec-*-s0-*[0-9a-f].json")
    record = json.loads(path.read_text())
    assert (
        record["method"]["label"] == "trec:made.run" and record["similarity"]["name"] == "pair scorer, another for i2t"
    )
    assert record["method"]["parameters"] == fields_json(METHODS.configure("trec:their/made.run").build())
    assert "made.run" not in json.dumps(record["method"]["parameters"]) and record["ties"] > 0
    assert "twin_accuracy" in record["metrics"]
    ranks = read_ranks(path, read_record(path))
    assert (ranks.i2t.better[0], ranks.i2t.tied[0], ranks.i2t.right[0]) == (0, 95, 5)  # nothing is listed for it
    rows = ["trec:their/made.run", cca, "-d", quick_scenes.spec, "--results", "results"]
    compared = command("significance", *rows)
    assert compared.code == 0 and "trec:made.run" in compared.out
    assert "trec:made.run" in command("table", "-m", "trec:any/made.run", "--results", "results").out

    (tmp_path / "other").mkdir()
    shutil.copy(ranked, tmp_path / "other" / "made.run")
    assert "reused" in command("run", "-m", "trec:their/made.run", *where).err
    other = command("run", "-m", "trec:other/made.run", *where)
    assert other.code == 0 and "reused" in other.err  # the content counts, not the place
    ranked.write_text(ranked.read_text().replace(" 4 x", " 0 x"))
    changed = command("run", "-m", "trec:their/made.run", *where)
    assert changed.code == 0 and "reused" not in changed.err


def test_a_run_of_another_protocol_is_refused(ranked, quick_scenes, command, tmp_path):
    where = [*quick_scenes.arguments, "--results", tmp_path / "results"]
    said = command("run", "-m", f"trec:{ranked}", "-p", "documents", *where)
    assert said.code == 2 and "Traceback" not in said.err
    assert "lines that are not of this test split, the first of" in said.err


def test_it_is_listed_but_not_run_without_a_file(command):
    assert "trec" in METHODS.with_argument() and "trec" not in METHODS.names()
    assert "  trec:RUN           Given rankings: TREC run files" in command("list").out
