"""The pretended GPU as a fixture."""

import pytest
from pretended_cuda import pretended_cuda

from cran_bench.machine import arithmetic


@pytest.fixture
def gpu():
    """The pretended GPU of a test, and what it counts."""
    with pretended_cuda() as device:
        yield device


@pytest.fixture(autouse=True)
def _one_arithmetic(monkeypatch):
    """The CPU multiplies as the pretended GPU does, without oneDNN, so that their numbers can be compared."""
    monkeypatch.setattr(arithmetic, "uses_onednn", lambda: False)
