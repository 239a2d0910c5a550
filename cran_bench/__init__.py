"""Benchmark suite for image-text retrieval: what a method file needs to import."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cran_bench.contract import Explanation, Method, Run
    from cran_bench.embeddings import Levels, Relations
    from cran_bench.registry import register, register_dataset
    from cran_bench.similarity import COSINE, DOT, MultiLevel
    from cran_bench.split import Split

_HOME = {
    "Explanation": "contract",
    "Method": "contract",
    "Run": "contract",
    "register": "registry",
    "register_dataset": "registry",
    "COSINE": "similarity",
    "DOT": "similarity",
    "Levels": "embeddings",
    "MultiLevel": "similarity",
    "Relations": "embeddings",
    "Split": "split",
}

__all__ = [  # noqa: RUF022 - in the order of _HOME
    "Explanation",
    "Method",
    "Run",
    "register",
    "register_dataset",
    "COSINE",
    "DOT",
    "Levels",
    "MultiLevel",
    "Relations",
    "Split",
]


def __getattr__(name: str) -> Any:
    # Imported on first use: the command line's --help must not wait for torch.
    if name not in _HOME:
        raise AttributeError(f"module 'cran_bench' has no attribute '{name}'")
    return getattr(importlib.import_module(f"cran_bench.{_HOME[name]}"), name)
