"""Runners on the hundred scenes, and their plans."""

import pytest
import torch

from cran_bench.registry import DATASETS
from cran_bench.running.plan import Plan
from cran_bench.running.preparation import find_prepared
from cran_bench.running.remote import Request
from cran_bench.running.runner import Runner


@pytest.fixture
def make_runner(quick_scenes, tmp_path):
    """``make_runner(name)``: a runner with results and a cache of that name."""
    prepared = find_prepared(DATASETS.configure(quick_scenes.spec), quick_scenes.data, quick_scenes.cache)

    def make(name="here", **about):
        return Runner(prepared, tmp_path / name, tmp_path / f"{name}-cache", torch.device("cpu"), **about)

    return make


@pytest.fixture
def plan(quick_scenes):
    """``plan(runner, methods)``: a plan of these rows."""

    def make(runner, methods, seeds=(0,), protocols=("captions",), **about):
        return Plan(runner, Request(quick_scenes.spec, quick_scenes.data, methods, protocols, seeds), **about)

    return make
