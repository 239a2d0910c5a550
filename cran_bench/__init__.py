"""Benchmark suite for image-text retrieval: everything a method, a dataset or a notebook needs to import.

Beside these names `cran_bench.toolbox` is public: what the suite's own methods are built of.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from cran_bench.machine.threads import stop_spinning

_SLEEPS = stop_spinning()  # before torch is loaded; a call that is no assignment would count in every fingerprint

if TYPE_CHECKING:
    from cran_bench.contract import Composite as Composite
    from cran_bench.contract import Estimating as Estimating
    from cran_bench.contract import Explaining as Explaining
    from cran_bench.contract import Explanation as Explanation
    from cran_bench.contract import Method as Method
    from cran_bench.contract import Part as Part
    from cran_bench.contract import Run as Run
    from cran_bench.contract import Timed as Timed
    from cran_bench.contract import TrainingBenchmark as TrainingBenchmark
    from cran_bench.contrasts import NO_PARTNER as NO_PARTNER
    from cran_bench.contrasts import Contrasts as Contrasts
    from cran_bench.dataset import SPLITS as SPLITS
    from cran_bench.dataset import Collection as Collection
    from cran_bench.dataset import Dataset as Dataset
    from cran_bench.dataset import FolderImages as FolderImages
    from cran_bench.dataset import ImageSource as ImageSource
    from cran_bench.embeddings import Embedding as Embedding
    from cran_bench.embeddings import Levels as Levels
    from cran_bench.embeddings import Relations as Relations
    from cran_bench.embeddings import region_pairs as region_pairs
    from cran_bench.errors import BadInput as BadInput
    from cran_bench.errors import did_you_mean as did_you_mean
    from cran_bench.errors import first_wrong as first_wrong
    from cran_bench.frontend.feature_files import FeatureFile as FeatureFile
    from cran_bench.frontend.feature_files import FeatureFiles as FeatureFiles
    from cran_bench.frontend.feature_rows import FeatureRows as FeatureRows
    from cran_bench.frontend.labels import label_source as label_source
    from cran_bench.frontend.text.characters import ALPHABET as ALPHABET
    from cran_bench.frontend.text.swaps import make_swaps as make_swaps
    from cran_bench.frontend.text.words import FIRST_WORD as FIRST_WORD
    from cran_bench.judgments import Judgments as Judgments
    from cran_bench.judgments import Qrels as Qrels
    from cran_bench.judgments import Relevance as Relevance
    from cran_bench.machine.progress import say as say
    from cran_bench.needs import Need as Need
    from cran_bench.needs import first_of as first_of
    from cran_bench.registry import register as register
    from cran_bench.registry import register_dataset as register_dataset
    from cran_bench.running.experiment import Results as Results
    from cran_bench.running.experiment import Scores as Scores
    from cran_bench.running.experiment import evaluate as evaluate
    from cran_bench.running.experiment import read_records as read_records
    from cran_bench.running.experiment import run as run
    from cran_bench.similarity import COSINE as COSINE
    from cran_bench.similarity import DOT as DOT
    from cran_bench.similarity import MultiLevel as MultiLevel
    from cran_bench.similarity import Pairwise as Pairwise
    from cran_bench.similarity import Similarity as Similarity
    from cran_bench.split import MissingFeature as MissingFeature
    from cran_bench.split import Split as Split
    from cran_bench.viewing.export import export as export

_HOME = {
    name: module
    for module, names in {
        "contract": "Composite Estimating Explaining Explanation Method Part Run Timed TrainingBenchmark",
        "contrasts": "NO_PARTNER Contrasts",
        "dataset": "SPLITS Collection Dataset FolderImages ImageSource",
        "embeddings": "Embedding Levels Relations region_pairs",
        "errors": "BadInput did_you_mean first_wrong",
        "frontend.feature_files": "FeatureFile FeatureFiles",
        "frontend.feature_rows": "FeatureRows",
        "frontend.labels": "label_source",
        "frontend.text.characters": "ALPHABET",
        "frontend.text.swaps": "make_swaps",
        "frontend.text.words": "FIRST_WORD",
        "judgments": "Judgments Qrels Relevance",
        "machine.progress": "say",
        "needs": "Need first_of",
        "registry": "register register_dataset",
        "running.experiment": "Results Scores evaluate read_records run",
        "similarity": "COSINE DOT MultiLevel Pairwise Similarity",
        "split": "MissingFeature Split",
        "viewing.export": "export",
    }.items()
    for name in names.split()
}

__all__ = [*_HOME, "__version__"]

try:
    __version__ = version("cran-bench")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "unknown"


def __getattr__(name: str) -> Any:
    # Imported on first use: the command line's --help must not wait for torch.
    if name not in _HOME:
        raise AttributeError(f"module 'cran_bench' has no attribute '{name}'")
    return getattr(importlib.import_module(f"cran_bench.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
