"""Bugs that are put in on purpose: each must make `compare` against a reference end with exit code 1."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import cran_bench
from cran_bench.embeddings import as_levels
from cran_bench.ranking.evaluation import metrics_of
from cran_bench.registry import DATASETS
from cran_bench.running import runner
from cran_bench.running.preparation import Prepared, prepare
from cran_bench.split import Split

SPEC = "scenes[train=400,val=100,test=200]"


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    prepare(DATASETS.configure(SPEC), folder, folder / "cache", "pixels[dim=64]")
    return folder / "cache"


def measure(features, folder):
    """Run cca on captions and documents, with features made once and fits of its own."""
    shutil.copytree(features, folder / "cache")
    where = {"cache": folder / "cache", "results": folder / "results"}
    cran_bench.run("cca[dim=64]", SPEC, protocols="captions,documents", **where)
    return folder / "results"


@pytest.fixture(scope="module")
def reference(features, tmp_path_factory):
    return measure(features, tmp_path_factory.mktemp("reference"))


@pytest.fixture
def verdict(command, features, reference, tmp_path):
    """``verdict()``: what compare says of a run made now, against one that was made before."""

    def call():
        now = measure(features, tmp_path)
        return command("compare", "-d", SPEC, "--reference", reference, "--results", now)

    return call


def evaluating(monkeypatch, change):
    """Put `change(ranks) -> ranks` behind every evaluation."""
    evaluate = runner.evaluate

    def changed(*arguments, **named):
        found = evaluate(*arguments, **named)
        ranks = change(found.ranks)
        return replace(found, ranks=ranks, metrics={**found.metrics, **metrics_of(ranks, 0).values()})

    monkeypatch.setattr(runner, "evaluate", changed)


def test_without_a_bug_nothing_is_said(verdict):
    said = verdict()
    assert said.code == 0 and said.out.endswith("no regression\n")


def test_shuffled_captions(verdict, monkeypatch):
    evaluate = runner.evaluate

    def shuffled(images, texts, *others):
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(texts)))
        return evaluate(images, as_levels(texts).rows(order), *others)

    monkeypatch.setattr(runner, "evaluate", shuffled)
    said = verdict()
    assert said.code == 1 and "LOWER" in said.out


def test_swapped_directions(verdict, monkeypatch):
    def swapped(ranks):
        if len(ranks.i2t.better) == len(ranks.t2i.better):
            return replace(ranks, i2t=ranks.t2i, t2i=ranks.i2t)
        first = np.searchsorted(ranks.image_of, np.arange(len(ranks.i2t.better)))
        return replace(ranks, i2t=ranks.t2i.take(first), t2i=ranks.i2t.take(ranks.image_of))

    evaluating(monkeypatch, swapped)
    said = verdict()
    assert said.code == 1 and "LOWER" in said.out and "HIGHER" in said.out


def test_a_rank_off_by_one(verdict, monkeypatch):
    def later(counts):
        return replace(counts, better=counts.better + 1)

    evaluating(monkeypatch, lambda ranks: replace(ranks, i2t=later(ranks.i2t), t2i=later(ranks.t2i)))
    said = verdict()
    assert said.code == 1 and "LOWER" in said.out


def test_test_data_in_training(verdict, monkeypatch):
    split = Prepared.split

    def leaking(self, name, unit, device, fit_unit=None, used=None):
        found = split(self, name, unit, device, fit_unit, used)
        if name != "train":
            return found
        rows = self.collection.splits
        leaked = np.concatenate([rows["train"], rows["test"], rows["test"]])
        return Split(name, unit, self.collection, self.features, found._text, device, leaked)

    monkeypatch.setattr(Prepared, "split", leaking)
    said = verdict()
    assert said.code == 1 and "HIGHER" in said.out and "check for a leak" in said.out
