"""Contrasts and judgments of a run: measured as by hand, stored beside the ranks, without any effect on fits."""

import io
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import cran_bench
from cran_bench import (
    COSINE,
    Collection,
    Contrasts,
    FeatureFile,
    FeatureFiles,
    Judgments,
    MissingFeature,
    Qrels,
    Relevance,
    register,
    register_dataset,
)
from cran_bench.errors import BadInput
from cran_bench.frontend.text.words import tokenize
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.records.archive import read_examples, read_ranks
from cran_bench.records.store import ResultStore
from cran_bench.registry import DATASETS
from cran_bench.running import evidence
from cran_bench.running.evidence import contrasts_of, parse_contrasts, swapped
from cran_bench.running.preparation import find_prepared

WORDS = ("dog", "cat", "man", "boy", "red", "blue", "runs", "sits")
SIZES = {"train": 12, "val": 6, "test": 8}
ENDS = np.cumsum([0, *SIZES.values()])
TEST = np.arange(ENDS[2], ENDS[3])


@dataclass
class Positions:
    """A text is the sum of its words' vectors, each weighted by the word's place if `order` is given."""

    order: bool = True
    new: bool = True

    similarity = COSINE
    refits = True

    def fit(self, train, val, run):
        self.weights = train and weights(train)
        self.W = torch.from_numpy(np.random.default_rng(run.seed).standard_normal((len(WORDS), 8)).astype("float32"))

    def embed_images(self, split):
        return split.images

    def embed_texts(self, split):
        rows = []
        if getattr(self, "weights", None):
            assert weights(split) == self.weights  # a last fit has the words of validation too
        for text in split.texts:
            if not self.new and text.startswith("new"):
                raise MissingFeature("it has the captions of the dataset only")
            known = [(place, WORDS.index(word)) for place, word in enumerate(tokenize(text)) if word in WORDS]
            rows.append(sum((1 + place * self.order) * self.W[word] for place, word in known))
        return torch.stack(rows)

    def state(self):
        return {"W": self.W}

    def load(self, state):
        self.W = state["W"]


def weights(split):
    """The idf of the words that a split is read with."""
    return split.asking([" ".join(WORDS)]).tfidf().toarray().tolist()


def sentence(random):
    return " ".join(WORDS[k] for k in random.permutation(len(WORDS))[:5])


PAIRS = [  # image, true, false, kind, partner
    (0, "dog runs red cat", "cat runs red dog", 0, -1),
    (3, "new man sits", "new boy sits", 1, -1),
    (1, "red dog", "blue dog", 2, 3),
    (4, "blue dog", "red dog", 2, 2),
    (0, "man boy runs", "boy man runs", 0, -1),
]


@dataclass(frozen=True)
class Probed:
    """Random features and captions of two sentences an image, with contrasts and judgments."""

    probed: bool = True
    refit: bool = False

    def load(self, data):
        random, n = np.random.default_rng(0), ENDS[-1]
        np.save(data / "images.npy", random.standard_normal((n, 8)).astype(np.float32))
        files = FeatureFiles(
            [f"i{k}" for k in range(n)], [FeatureFile.open(data / "images.npy")], [(0, k) for k in range(n)]
        )
        made = Collection(
            name="probed",
            images=files,
            captions=[sentence(random) for _ in range(2 * n)],
            image_of=np.arange(n).repeat(2),
            splits={name: np.arange(ENDS[k], ENDS[k + 1]) for k, name in enumerate(SIZES)},
            refit=self.refit,
        )
        if not self.probed:
            return made
        image, true, false, kind, partner = zip(*PAIRS, strict=True)
        first = 2 * ENDS[2]  # caption of the test split
        return replace(
            made,
            contrasts=Contrasts(TEST[list(image)], true, false, kind, ("order", "word", "cross"), partner),
            relevance=[
                Relevance(
                    "more",
                    Qrels(TEST[[0, 0, 2]], first + np.array([0, 5, 4]), np.array([1.0, 2.0, 1.0])),
                    Qrels(first + np.array([3, 3]), TEST[[1, 6]], np.ones(2)),
                )
            ],
            judgments=[Judgments("people", TEST[[0, 1, 2, 3]], first + np.array([4, 0, 9, 1]), np.eye(4)[:, :2] + 1)],
        )

    def defaults(self):
        return {"backbone": "data", "regions": "none"}


@pytest.fixture
def run(tmp_path, plugins_of_its_own):
    register("positions")(Positions)
    register_dataset("probed")(Probed)

    def call(methods="positions", dataset="probed", **options):
        where = {"data": tmp_path, "cache": tmp_path / "cache", "results": tmp_path / "results"}
        return cran_bench.run(methods, dataset, **where, **options)

    return call


def scored(tmp_path):
    """The score of an image of the test split with a sentence."""
    method, images = Positions(), np.load(tmp_path / "images.npy")[TEST]
    method.fit(None, None, type("Run", (), {"seed": 0}))

    def score(image, text):
        (row,) = method.embed_texts(type("Split", (), {"texts": [text], "image_ids": ["i"]})).double().numpy()
        return images[image] @ row / np.linalg.norm(images[image]) / np.linalg.norm(row)

    return score


@pytest.mark.parametrize("block", [1, 2, 2048])
def test_contrasts_are_those_of_the_scores(run, tmp_path, monkeypatch, block):
    monkeypatch.setattr(evidence, "BLOCK", block)
    (record,) = run().records
    ranks = run().store.runs()[0].ranks
    score, found = scored(tmp_path), ranks.contrasts
    assert found.kinds == ("order", "word", "cross")
    rows = sorted(range(len(PAIRS)), key=lambda row: PAIRS[row][0])  # in the order of the images
    assert found.image.tolist() == [PAIRS[row][0] for row in rows]
    gaps = [score(PAIRS[row][0], PAIRS[row][1]) - score(PAIRS[row][0], PAIRS[row][2]) for row in rows]
    assert found.text.tolist() == [2 * (gap > 0) for gap in gaps]
    assert found.same_words.tolist() == [1, 1, 0, 0, 0]
    half, other = (rows.index(k) for k in (2, 3))
    assert found.partner[half] == other and found.partner[other] == half
    crossed = {k: score(PAIRS[k][0], PAIRS[k][1]) > score(PAIRS[5 - k][0], PAIRS[k][1]) for k in (2, 3)}
    assert (found.crossed[half], found.crossed[other]) == (2 * crossed[2], 2 * crossed[3])
    values = record.metrics
    assert values["contrasts.order"] == 50 * found.text[[0, 1]].mean()
    text, image = found.text[[half, other]].all(), crossed[2] and crossed[3]
    assert values["contrasts.cross.text"] == 100 * text
    assert values["contrasts.cross.image"] == 100 * image
    assert values["contrasts.cross.group"] == 100 * (text and image)
    assert "contrasts" not in values  # no kind has enough pairs for a headline
    hard = read_examples(run().store.path_of(record)).contrasts
    wrong = [pair for pair in np.argsort(gaps, kind="stable") if gaps[pair] < 0 and found.balanced[pair]]
    assert [one.pair for one in hard] == wrong[:10]
    for one in hard:
        assert one.true - one.false == pytest.approx(gaps[one.pair], abs=2e-4)


def test_contrasts_are_read_with_the_words_of_the_last_fit(run):
    outcomes = run(dataset="probed[refit=true]").outcomes
    assert outcomes[0].record.method.refit and "contrasts.order" in outcomes[0].record.metrics


def test_a_bag_of_words_has_half_of_the_pairs_with_the_same_words(run):
    (record,) = run("positions[order=false]").records
    assert record.metrics["contrasts.order"] == 50


def test_several_right_answers_and_ratings_are_those_of_the_scores(run, tmp_path):
    (record,) = run().records
    score, values = scored(tmp_path), record.metrics
    captions = [Probed().load(tmp_path).captions[2 * ENDS[2] + k] for k in range(16)]
    table = np.array([[score(image, text) for text in captions] for image in range(8)])
    place = {(row, k): (table[row] > table[row, k]).sum() + 1 for row in (0, 2) for k in (0, 5, 4)}
    first = min(place[0, 0], place[0, 5]), place[2, 4]
    for k in (1, 5, 10):
        assert values[f"more.i2t_r{k}"] == pytest.approx(100 * np.mean([rank <= k for rank in first]))
    gain = (1 / np.log2(1 + place[0, 0]) + 2 / np.log2(1 + place[0, 5])) / (2 + 1 / np.log2(3))
    assert values["more.i2t_ndcg"] == pytest.approx((gain + 1 / np.log2(1 + place[2, 4])) / 2)
    own = [table[row, 2 * row : 2 * row + 2].max() == table[row].max() for row in (0, 2)]
    assert values["more.i2t_own_r1"] == 100 * np.mean(own)
    column = table[:, 3]
    assert values["more.t2i_r1"] == 100 * (column.argmax() in (1, 6))
    pairs = [(0, 4), (1, 0), (2, 9), (3, 1)]
    order = np.argsort(np.argsort([table[pair] for pair in pairs]))
    ranks = run().store.runs()[0].ranks
    assert ranks.agreements["people"].rank.tolist() == order.tolist()
    assert values["people.spearman"] == pytest.approx(100 * np.corrcoef(order, [2, 2, 1, 1])[0, 1])


def test_ratings_of_own_captions_only_have_no_correlations(run, monkeypatch, capsys):
    load, first = Probed.load, 2 * ENDS[2]
    own = Judgments("own", TEST[:2], [first, first + 2], [[1], [2]])
    monkeypatch.setattr(Probed, "load", lambda *a: replace(made := load(*a), judgments=[*made.judgments, own]))
    (record,) = run().records
    assert "people.tau_c" in record.metrics and "own.tau_c" not in record.metrics
    assert "own has no correlations" in capsys.readouterr().err


def test_contrasts_change_neither_fits_nor_recall(run, tmp_path):
    (plain,) = run(dataset="probed[probed=false]").records
    fits = list((tmp_path / "cache" / "fits").glob("*.safetensors"))
    (probed,) = run().records
    (made,) = run(dataset="probed[probed=false]", contrasts="swap[seed=3]").records
    assert list((tmp_path / "cache" / "fits").glob("*.safetensors")) == fits
    (documents,) = run(protocols="documents").records
    assert plain.method.fit_fingerprint == probed.method.fit_fingerprint == made.method.fit_fingerprint
    assert len({plain.fingerprint, probed.fingerprint, made.fingerprint}) == 3
    assert plain.metrics.items() <= probed.metrics.items()
    assert not any("." in name for name in documents.metrics)  # they are asked under the protocol captions
    assert (made.data.contrasts, probed.data.contrasts) == ("swap[seed=3]", "")
    assert made.data.contrasts_sha and probed.data.contrasts_sha != made.data.contrasts_sha
    store = ResultStore(tmp_path / "results")
    contrasts = next(one.ranks.contrasts for one in store.runs() if one.record == made)
    wrong = np.flatnonzero((contrasts.balanced == 1) & (contrasts.text == 0))
    hard = read_examples(store.path_of(made)).contrasts
    assert {one.pair for one in hard} <= {*wrong.tolist()} and all(one.true < one.false for one in hard)
    assert len(hard) == min(10, len({*contrasts.image[wrong].tolist()})) > 0
    again = run(dataset="probed[probed=false]", contrasts="swap[seed=3]")
    assert again.outcomes[0].reused


def test_a_method_of_given_captions_has_no_contrasts(run, capsys):
    (record,) = run("positions[new=false]").records
    assert "contrasts.order" not in record.metrics and "people.tau_c" in record.metrics
    said = "has no contrasts, as it cannot encode new captions: it has the captions of the dataset only"
    assert said in capsys.readouterr().err


def test_folds_have_neither_contrasts_nor_judgments(run, capsys):
    (finished,) = run(folds=3).store.runs()  # of eight images two are left over
    assert "left out: contrasts and judgments, which are of the whole test split" in capsys.readouterr().err
    assert not finished.ranks.contrasts and not finished.ranks.relevant and not finished.ranks.agreements
    assert len(finished.ranks.i2t.better) == 6 and not any("." in name for name in finished.record.metrics)


def test_given_scores_and_rankings_have_judgments_and_no_contrasts(run, tmp_path, capsys):
    np.save(tmp_path / "given.npy", np.random.default_rng(0).standard_normal((8, 16)))
    lines = [f"i{image} Q0 i{image}#0 1 1.0 run\ni{image}#0 Q0 i{image} 1 1.0 run\n" for image in TEST]
    (tmp_path / "given.run").write_text("".join(lines))
    for record in run([f"scores:{tmp_path}/given.npy", f"trec:{tmp_path}/given.run"]).records:
        assert "contrasts.order" not in record.metrics and {"people.tau_c", "more.i2t_r1"} <= {*record.metrics}
    assert capsys.readouterr().err.count("own texts only") == 2


def test_answers_are_stored_whole_and_damage_is_found(run, tmp_path):
    results = run()
    stored = results.store.runs()[0].ranks
    again = RecordedRanks.from_arrays(stored.arrays())
    for name, values in stored.arrays().items():
        np.testing.assert_array_equal(values, again.arrays()[name])
    arrays = stored.arrays()
    for name, values in {
        "contrasts.text": arrays["contrasts.text"] + 3,
        "contrasts.image": arrays["contrasts.image"] + 8,
        "contrasts.partner": arrays["contrasts.partner"] * 0,
        "contrasts.kind": arrays["contrasts.kind"][1:],
        "relevant.more.i2t.right": arrays["relevant.more.i2t.right"] * 0,
        "relevant.more.t2i.ap": arrays["relevant.more.t2i.ap"] + 2,
        "agreement.people.caption": arrays["agreement.people.caption"] + 100,
        "agreement.people.ratings": arrays["agreement.people.ratings"][1:],
        "relevant.more.both.right": arrays["relevant.more.i2t.right"],
    }.items():
        with pytest.raises((ValueError, KeyError)):
            RecordedRanks.from_arrays({**arrays, name: values})
    record = results.records[0]
    path = results.store.path_of(record)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{k: x for k, x in arrays.items() if k != "contrasts.blind"})
    path.with_suffix(".npz").write_bytes(buffer.getvalue())
    with pytest.raises(BadInput, match="is not the file its record names"):
        read_ranks(path, record)


def test_what_is_of_other_images_is_refused_and_what_is_unreadable_left_out(tmp_path):
    data = Probed().load(tmp_path)
    outside = replace(data.contrasts, image=np.zeros(5, np.int64))
    with pytest.raises(BadInput, match="contrasts has an image outside the test split"):
        replace(data, contrasts=outside)
    with pytest.raises(BadInput, match="people has a caption outside the test split"):
        replace(data, judgments=[replace(data.judgments[0], caption=np.arange(4))])
    with pytest.raises(BadInput, match="two sets of judgments are named more"):
        replace(data, relevance=[*data.relevance, *data.relevance])
    left = data.without([TEST[0], TEST[1]])
    assert left.contrasts.image.tolist() == TEST[[3, 4]].tolist()
    assert left.contrasts.partner.tolist() == [-1, -1]  # whose other halves are gone
    assert left.relevance[0].i2t.query.tolist() == [TEST[2]] and left.relevance[0].t2i is None
    assert left.judgments[0].image.tolist() == [TEST[2]]  # of another caption's image


def test_contrasts_of_the_data_come_with_those_made_of_its_captions(tmp_path):
    data = Probed().load(tmp_path)
    own, made, ids = data.contrasts, swapped(data, 0), data.images.ids
    for one, other in ((own, made), (made, own)):
        both = one.and_also(other)
        rows = [[*zip(x.image, x.true, [x.kinds[k] for k in x.kind], strict=True)] for x in (one, other, both)]
        assert rows[2] == rows[0] + rows[1]
        half = np.flatnonzero(both.partners >= 0)
        assert [both.true[row] for row in half] == [both.false[row] for row in both.partners[half]]
        assert [both.true[row] for row in half] == ["red dog", "blue dog"]
    found = contrasts_of(data, "swap")
    assert len(found) == len(own) + len(made) and (np.diff(found.image) >= 0).all()
    assert contrasts_of(data, "").sha(ids) == own.take(np.argsort(own.image, kind="stable")).sha(ids)


def test_lists_become_arrays_and_what_does_not_fit_is_told():
    made = Qrels([0, 1], [1, 0], [1, 2]), Judgments("people", [0], [1], [[1, 4]])
    assert made[0].grade.tolist() == [1.0, 2.0] and made[1].ratings.dtype == np.float64
    for wrong, told in (
        (lambda: Qrels([0.5], [0], [1]), "query of judgments is float64"),
        (lambda: Qrels([0], [0], [[1]]), "qrels have 1, 1 and 1 queries"),
        (lambda: Judgments("people", [0, 1], [0, 1], [[1], [1, 2]]), "ratings of judgments are not all numbers"),
        (lambda: Contrasts([0], ["a"], ["\ud800"], [0], ["kind"]), "no valid text"),
        (lambda: Contrasts([0], ["a"], ["b"], [0], [7]), "named '7'"),
    ):
        with pytest.raises(BadInput, match=told):
            wrong()


def test_data_without_training_captions_has_no_blind_baseline(run, tmp_path):
    data = find_prepared(DATASETS.configure("probed"), tmp_path, tmp_path / "cache")
    bare = replace(data.collection, splits={"test": data.collection.splits["test"]})
    found = evidence.Evidence(replace(data, collection=bare), "", tmp_path)
    assert not found.blind.balanced.any() and not found.blind.first.any() and found.blind.same_words.sum() == 2


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("swaps", "by swap or swap[seed=1], not by 'swaps'; did you mean 'swap'?"),
        ("swap:3", "by swap or swap[seed=1], not by 'swap:3'"),
        ("swap[seeds=1]", "by swap or swap[seed=1], not by 'swap[seeds=1]'"),
        (True, "by swap or swap[seed=1], not by 'True'"),
        ("swap[seed=-1]", "the seed of --contrasts is a whole number from 0, such as swap[seed=1], not '-1'"),
    ],
)
def test_unknown_contrasts_are_told(spec, told):
    with pytest.raises(BadInput) as caught:
        parse_contrasts(spec)
    assert told in str(caught.value)


def test_contrasts_without_their_protocol_or_without_words_are_refused(run, command):
    with pytest.raises(BadInput, match="--contrasts is for the protocol captions, not for documents"):
        run(protocols="documents", contrasts="swap")
    with pytest.raises(BadInput, match="--contrasts is for the whole test split, --folds for parts of it"):
        run(folds=3, contrasts="swap")
    said = command("run", "-m", "cca", "-d", "scenes[train=8,val=2,test=2]", "--contrasts", "swop")
    assert said.code == 2 and "did you mean 'swap'?" in said.sentence
