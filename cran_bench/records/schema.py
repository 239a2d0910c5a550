"""What a record of a run holds, and what one of a failure; where their files lie."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from cran_bench.machine.storage import (
    sha256_json,
    slug,
)
from cran_bench.protocols import Protocol, Unit
from cran_bench.ranking.metrics import Metrics

SCHEMA = 1


EXAMPLES, CURVES, ERROR = ".examples.json", ".curves.csv", ".error.json"  # endings beside a record, or in its place


EVERY_FIGURE = frozenset(("rsum", *(figure.name for figure in fields(Metrics))))


class StrictModel(BaseModel):
    """A frozen model that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Growing(StrictModel):
    """Written without fields that records of before did not have, so that their checksums hold."""

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}


class DataInfo(_Growing):
    """What was ranked: the test split and the features it was seen through.

    Attributes:
        features_sha: of the arrays, byte by byte, which another processor or number of threads rounds otherwise.
        sources_sha: of what they were made of: images, ids, backbone and proposer; '' in records of before.
    """

    label: str
    quick: bool
    split_sha: str
    images: int
    captions: int
    front_end: str
    features_sha: str
    vectors: str
    sources_sha: str = ""

    @property
    def cell(self) -> tuple[str, bool, str, str, str, str]:
        """What tables keep apart."""
        made_of = self.sources_sha or self.features_sha
        return self.label, self.quick, self.front_end, self.vectors, self.split_sha, made_of


class MethodInfo(StrictModel):
    """What ranked it."""

    label: str
    name: str
    preset: str
    paper_row: str | None
    parameters: dict[str, Any]
    chose: dict[str, Any]
    unit: Unit
    code_sha: str
    fit_fingerprint: str


class Seconds(StrictModel):
    """Wall-clock seconds per phase; `features` and `fit` are those of the run that made them, also where reused."""

    features: float
    fit: float
    embed: float
    similarity: float
    rank: float


class SimilarityInfo(_Growing):
    """How pairs were scored, see `cran_bench.ranking.problem.KernelInfo`."""

    name: str
    kernel: str
    dtype: str
    bound: str = "exact"
    tolerance: float = 0.0
    rescored: int = 0
    error: float = 0.0


class Record(StrictModel):
    """One run: dataset x protocol x method x preset x seed.

    Attributes:
        metrics: recalls in percent, ranks from 1, `rsum`, and `twin_accuracy` in percent where the data has twins.
        ties: queries whose rank depends on the order of ties.
        folds: 0 for the whole test split, else the number of folds `metrics` is the mean of.
        device: cpu or cuda, where it was embedded and ranked.
        peak_memory: largest resident set of the process up to this run, bytes.
        ranks_sha: sha256 of the file of ranks beside this one.
        checksum: sha256 of this record without the field itself.
    """

    schema_version: int = SCHEMA
    fingerprint: str
    data: DataInfo
    method: MethodInfo
    protocol: Protocol
    folds: int
    seed: int
    metrics: dict[str, float]
    ties: int
    seconds: Seconds
    similarity: SimilarityInfo
    device: str
    peak_memory: int
    environment: dict[str, Any]
    started: str
    ranks_sha: str
    checksum: str = ""

    @field_validator("metrics")
    @classmethod
    def _has_every_figure(cls, metrics: dict[str, float]) -> dict[str, float]:
        absent = EVERY_FIGURE - metrics.keys()
        if absent:
            raise ValueError(f"there is no {min(absent)}")
        return metrics

    def sealed(self) -> Record:
        """The same record with its checksum."""
        return self.model_copy(update={"checksum": self._sum()})

    def _sum(self) -> str:
        return sha256_json(self.model_dump(exclude={"checksum"}))


class Failure(StrictModel):
    """A run that ended with an error; shown in tables, tried again next time."""

    schema_version: int = SCHEMA
    kind: Literal["failure"] = "failure"
    data: DataInfo
    method_label: str
    protocol: Protocol
    folds: int
    seed: int
    error: str
    traceback: str
    started: str
    environment: dict[str, Any]


@dataclass(frozen=True)
class Address:
    """Where a run's files lie: ``<dataset>/<protocol>/<method>-s<seed>-<fingerprint>``."""

    dataset: str
    protocol: Protocol
    folds: int
    method: str
    seed: int
    fingerprint: str

    def stem(self) -> Path:
        """Relative path without suffix."""
        folds = f"-{self.folds}folds" if self.folds else ""
        name = f"{slug(self.method)}-s{self.seed}-{self.fingerprint[:12]}"
        return Path(slug(self.dataset)) / f"{self.protocol}{folds}" / name
