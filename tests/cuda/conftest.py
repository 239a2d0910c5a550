"""The pretended GPU as a fixture."""

import pytest
from pretended_cuda import pretended_cuda


@pytest.fixture
def gpu():
    """The pretended GPU of a test, and what it counts."""
    with pretended_cuda() as device:
        yield device
