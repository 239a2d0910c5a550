"""Every option of a dataset is documented where `cran-bench info` shows it."""

import dataclasses
import re

import pytest

from cran_bench.registry import DATASETS
from cran_bench.tables.method_pages import documentation


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_field_has_a_line_of_its_own(name):
    cls = DATASETS.get(name).cls
    _, described = documentation(cls)
    documented = [
        field for text in described for field in re.findall(r"^    (\w+): \S", text.partition("Attributes:\n")[2], re.M)
    ]
    assert sorted(documented) == sorted(field.name for field in dataclasses.fields(cls))
