"""truth: which captions are true of which scenes, ranked as every row is, and shown beside the methods."""

from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch

from cran_bench.datasets.scenes import Scenes
from cran_bench.methods.truth import TruthAlone
from cran_bench.ranking.evaluation import evaluate
from cran_bench.registry import METHODS
from cran_bench.split import MissingFeature, Split

CPU = torch.device("cpu")


def split_of(collection, unit="captions"):
    return Split("test", unit, collection, None, None, CPU)


@pytest.fixture(scope="module")
def collection():
    """The test split of `scenes`, which does not depend on the sizes of the others."""
    return Scenes(train=2, val=2).load(Path())


def recalls(truths, owners):
    """i2t and t2i R@1, 5, 10 where those that are true are in random order, before all others."""
    own = np.bincount(owners)
    others = truths.sum(axis=0) - own
    i2t = [[1 - comb(w, k) / max(1, comb(w + n, k)) for w, n in zip(others, own, strict=True)] for k in (1, 5, 10)]
    t2i = [np.minimum(1, k / truths.sum(axis=1)) for k in (1, 5, 10)]
    return [100 * np.mean(hits) for hits in (*i2t, *t2i)]


@pytest.mark.parametrize("unit", ["captions", "documents"])
def test_recall_is_that_of_a_choice_at_random_among_what_is_true(collection, unit):
    split = split_of(collection, unit)
    captions = np.arange(len(collection.captions))[collection.image_of >= 4]
    truths = collection.truths(captions, np.arange(4, 504))
    if unit == "documents":
        truths = np.array([truths[5 * row : 5 * row + 5].all(axis=0) for row in range(500)])
    owners = split.image_of.numpy()
    assert truths[np.arange(len(owners)), owners].all() and not truths[np.arange(len(owners)), owners ^ 1].any()
    embeddings = TruthAlone().embed_images(split), TruthAlone().embed_texts(split)
    found = evaluate(*embeddings, split.image_of, split.twins, TruthAlone.similarity, unit).metrics
    figures = [found[f"{side}_r{k}"] for side in ("i2t", "t2i") for k in (1, 5, 10)]
    assert figures == pytest.approx(recalls(truths, owners))
    assert found["twin_accuracy"] == 100.0
    if unit == "captions":
        assert [round(figure, 1) for figure in figures] == [26.3, 72.0, 89.7, 51.2, 86.4, 94.0]


def test_scenes_that_are_taken_have_the_rows_that_they_have_in_their_split(collection):
    split, order = split_of(collection), np.random.default_rng(0).permutation(500)[:40]
    some = split.take(order)
    rows = np.concatenate([np.flatnonzero(split.image_of == row) for row in order])
    assert torch.equal(TruthAlone().embed_images(some), TruthAlone().embed_images(split)[order])
    assert torch.equal(TruthAlone().embed_texts(some), TruthAlone().embed_texts(split)[rows])


def test_truth_is_of_the_captions_of_the_data(collection):
    asked = split_of(collection).asking(["a red circle is above a blue square"])
    with pytest.raises(MissingFeature, match="says of its own captions only which images they are true of"):
        TruthAlone().embed_texts(asked)


def test_data_that_does_not_say_what_is_true_is_refused(command, flickr, tmp_path, tiny):
    with pytest.raises(MissingFeature, match="does not say which captions are true of which images"):
        TruthAlone().embed_images(tiny.test)
    where = ("-d", "flickr8k", "--data", flickr, "--backbone", "pixels[dim=16]", "--regions", "none")
    said = command("run", "-m", "truth", *where, "--cache", tmp_path / "cache", "--results", tmp_path / "results")
    assert said.code == 2
    why = "truth cannot run on flickr8k: flickr8k does not say which captions are true of which images: use data that"
    assert said.err.count(why) == 2  # beside the row, and in the end


def test_a_run_without_methods_has_it_where_truths_are_known(command, quick_scenes, flickr, tmp_path):
    told = command("run", "--dry-run", *quick_scenes.arguments, "--results", tmp_path).out
    assert [line.partition(" ")[0] for line in told.splitlines()].count("truth") == 1
    where = ("-d", "flickr8k", "--data", flickr, "--backbone", "pixels[dim=16]", "--regions", "none")
    where = (*where, "--cache", tmp_path / "cache", "--results", tmp_path)
    command("prepare", "flickr8k", *where[2:-2])
    told = command("run", "--dry-run", "--all", *where)
    assert "cca:tuned" in told.out and "truth" not in told.out + told.err


def test_it_is_recorded_as_a_reference(quick_scenes, tmp_path):
    import cran_bench

    about = {"data": quick_scenes.data, "cache": quick_scenes.cache, "results": tmp_path}
    made = cran_bench.run(["truth", "cca"], quick_scenes.spec, tune=2, **about)
    first, second = (record.method for record in made.records)
    assert (first.label, first.name, first.preset) == ("truth", "truth", "")
    assert first.reference == METHODS.get("truth").reference and not second.reference
    assert "reference" not in second.model_dump()
    assert made.records[0].metrics["twin_accuracy"] == 100.0
    (table,) = made.tables
    assert [row.label for row in table.ranked] == ["cca:tuned[tune=2]"]
    assert any(note.startswith("Each row: best of 2 trials") for note in table.notes)
