"""The fields of a run's record and of an error record, and the paths of their files."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from cran_bench.frontend.trained_on import exposures
from cran_bench.machine.storage import sha256_json, slug
from cran_bench.protocols import Protocol, Unit
from cran_bench.ranking.metrics import Metrics

SCHEMA = 1
EXAMPLES, ANSWERS, CURVES = ".examples.json", ".answers.npz", ".curves.csv"  # files beside a record
ERROR = ".error.json"  # in its place
TESTED_ON = ", tested on "  # between the labels of the dataset of a fit and of another whose test split is ranked
EVERY_FIGURE = frozenset(("rsum", *(figure.name for figure in fields(Metrics))))


class StrictModel(BaseModel):
    """A frozen model that rejects unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Growing(StrictModel):
    """A model that omits fields absent from older records when written, so that their checksums stay valid."""

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}


class FittedOn(StrictModel):
    """The dataset that a method was fitted on, if another one's test split is ranked, and how the two overlap.

    Attributes:
        label: the dataset's label; it and the five digests are as in `DataInfo`.
        in_train: number of test images with the content of one of its training images.
        in_val: number of test images with the content of one of its validation images.
        words: number of words in the test captions.
        unknown_words: number of those words that occur in none of its training captions.
        unknown_captions: number of test captions without any word of its training captions.
    """

    label: str
    split_sha: str
    features_sha: str
    sources_sha: str
    images_sha: str
    extras_sha: str
    in_train: int
    in_val: int
    words: int
    unknown_words: int
    unknown_captions: int

    @property
    def data_sha(self) -> str:
        """sha256 of the data of the fit, whatever the test split."""
        return sha256_json([self.split_sha, self.sources_sha, self.extras_sha])

    def remark(self, images: int, captions: int) -> str:
        """A line on the overlap with a test split of so many images and captions."""
        return (
            f"{self.in_train:,} of {images:,} test images are also in train of {self.label}, {self.in_val:,} in val; "
            f"{self.unknown_words:,} of {self.words:,} words of the test captions occur in none of its training "
            f"captions, and {self.unknown_captions:,} of {captions:,} test captions have no word that does"
        )


class DataInfo(_Growing):
    """The test split and its features.

    Attributes:
        label: the dataset's label; ``flickr8k, tested on folder`` if the fit was made on another dataset.
        quick: whether it, or the dataset of the fit, is the small version of `--quick`.
        split_sha: sha256 of the split: ids, texts and labels.
        images: number of test images.
        captions: number of test captions.
        front_end: the image backbone and the region proposer.
        features_sha: sha256 of the feature arrays, whose last bits depend on the processor and the number of threads.
        vectors: the word vectors.
        sources_sha: sha256 of what the features were computed from: images, ids, backbone and proposer; '' in older
            records, as for the next two.
        images_sha: sha256 of the ids and contents of all images.
        extras_sha: sha256 of the file of word vectors and of what text features were made from, or '' if there are
            none.
        labels_sha: sha256 of the categories; '' without labels, and in older records.
        text_encoder: the encoder of the text features; '' without one, as for the next.
        texts_sha: sha256 of the encoder and of all captions.
        trained_on: names of the data on which the encoders were trained, by role (`backbone`, `regions` or `text`);
            None where they are not declared; nothing in older records.
        contrasts: how contrasts were made of the test captions, ``swap``; '' if none were, as for the next two.
        contrasts_sha: sha256 of all contrasts, those that come with the data included.
        judgments_sha: sha256 of what people judged.
        fitted_on: the dataset of the fit; None, and not written, if the test split is its own.
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
    images_sha: str = ""
    extras_sha: str = ""
    trained_on: dict[str, list[str] | None] = {}
    text_encoder: str = ""
    texts_sha: str = ""
    labels_sha: str = ""
    contrasts: str = ""
    contrasts_sha: str = ""
    judgments_sha: str = ""
    fitted_on: FittedOn | None = None

    @property
    def cell(self) -> tuple[object, ...]:
        """The fields whose values must agree for two records to share a table."""
        sources = self.sources_sha or self.features_sha
        where = self.label, self.quick, self.front_end, self.vectors, self.split_sha, sources, self.extras_sha
        return (*where, self.fitted_on.data_sha if self.fitted_on else "")


class TuningInfo(StrictModel):
    """How validation chose the hyper-parameters of a tuned row.

    Attributes:
        trials: number of trials that were asked for; a small search space has fewer.
        seed: seed of the draw.
        space: the values that were searched, by field.
        tried: these fields in each trial, the first being the row as it is.
        rsum: rsum of each trial on validation, or 100 times its mAP if that is the row's metric;
            None if it failed, or if there was nothing to choose.
        chosen: position of the trial that was tested.
    """

    trials: int
    seed: int
    space: dict[str, list[Any]]
    tried: list[dict[str, Any]]
    rsum: list[float | None]
    chosen: int


class MethodInfo(_Growing):
    """The method that ranked the split.

    Attributes:
        label: as printed in tables, with options that differ from the preset.
        name: name of the plugin.
        preset: `paper`, `tuned` or another preset.
        paper_row: the row of the paper that it reproduces, or None.
        parameters: all hyper-parameters.
        chose: hyper-parameters selected on the validation split.
        unit: what it was trained on, captions or documents.
        code_sha: sha256 of the source code that its numbers depend on.
        fit_fingerprint: fingerprint of the stored fit.
        encoders: roles of the encoders whose features of the test split it read, as in `DataInfo.trained_on`; nothing
            in older records.
        tuning: the trials of a tuned row; None, and not written, for others.
        refit: whether it was fitted again, on train and validation together, with what validation chose.
        reference: what it scores, if it is no method but a reference for others; '', and not written, for methods.
    """

    label: str
    name: str
    preset: str
    paper_row: str | None
    parameters: dict[str, Any]
    chose: dict[str, Any]
    unit: Unit
    code_sha: str
    fit_fingerprint: str
    encoders: list[str] = []
    tuning: TuningInfo | None = None
    refit: bool = False
    reference: str = ""


Duration = Annotated[float, Field(ge=0, le=1e10)]
"""Seconds, at most three centuries."""
Size = Annotated[int, Field(ge=0, lt=1 << 63)]
"""Bytes."""


class Seconds(StrictModel):
    """Wall-clock seconds per phase; `features` and `fit` are from the run that computed them, even if reused."""

    features: Duration
    fit: Duration
    embed: Duration
    similarity: Duration
    rank: Duration


class SimilarityInfo(_Growing):
    """How pairs were scored; all but `name` are the fields of `cran_bench.ranking.problem.KernelInfo`."""

    name: str
    kernel: str
    dtype: str
    bound: str = "exact"
    tolerance: float = 0.0
    rescored: int = 0
    error: float = 0.0


class Record(StrictModel):
    """The result of one run: dataset x protocol x method x preset x seed.

    Attributes:
        schema_version: version of this format.
        fingerprint: sha256 of everything that determines the result.
        data: the test split and its features.
        method: the method and its hyper-parameters.
        protocol: how texts became queries.
        folds: 0 for the whole test split, otherwise the number of folds that `metrics` is averaged over.
        seed: random seed of the fit.
        metrics: recalls in percent, ranks counted from 1, `rsum`, `twin_accuracy` in percent if images have twins, and
            if they have labels the figures of `cran_bench.ranking.precisions.Precisions`, as fractions; those of
            contrasts and judgments as described in docs/verdicts.md.
        ties: number of queries whose rank depends on the order of ties.
        seconds: per phase.
        similarity: how pairs were scored.
        device: where embedding and ranking ran, `cpu` or `cuda`.
        peak_memory: largest resident set of the process up to this run, in bytes.
        peak_memory_gpu: most bytes of tensors on the GPU up to this run; None without, and in older records.
        environment: versions, processor, threads and commit.
        started: start time, ISO 8601.
        ranks_sha: sha256 of the file of ranks beside the record.
        checksum: sha256 of the record without this field.
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
    peak_memory: Size
    peak_memory_gpu: Size | None = None
    environment: dict[str, Any]
    started: str
    ranks_sha: str
    checksum: str = ""

    @property
    def exposures(self) -> list[str]:
        """A sentence for each encoder of the method that was trained on images or captions of the test split."""
        return exposures(self.data.trained_on, self.method.encoders, self.data.label)

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        if self.peak_memory_gpu is None:  # absent from older records, whose checksums stay valid
            del values["peak_memory_gpu"]
        return values

    @field_validator("metrics")
    @classmethod
    def _has_every_figure(cls, metrics: dict[str, float]) -> dict[str, float]:
        absent = EVERY_FIGURE - metrics.keys()
        if absent:
            raise ValueError(f"{min(absent)} is missing")
        return metrics

    def sealed(self) -> Record:
        """A copy of the record with its checksum."""
        return self.model_copy(update={"checksum": self._sum()})

    def _sum(self) -> str:
        return sha256_json(self.model_dump(exclude={"checksum"}))


class Failure(StrictModel):
    """The error record of a failed run, or a record that is damaged; tables show it.

    Attributes:
        path: its file, which is not recorded.
    """

    schema_version: int = SCHEMA
    kind: Literal["failure", "damaged"] = "failure"
    data: DataInfo
    method_label: str
    protocol: Protocol
    folds: int
    seed: int
    error: str
    traceback: str
    started: str
    environment: dict[str, Any]
    path: Path = Field(default=Path(), exclude=True)

    @property
    def status(self) -> str:
        """``failed`` or ``damaged``."""
        return "failed" if self.kind == "failure" else self.kind

    @property
    def sentence(self) -> str:
        """Which run it is, and the reason."""
        return f"{self.method_label} seed {self.seed} {self.status.upper()}: {self.error}"


@dataclass(frozen=True)
class Address:
    """Identifies a run and its files, ``<dataset>/<protocol>/<method>-s<seed>-<fingerprint>``."""

    dataset: str
    protocol: Protocol
    folds: int
    method: str
    seed: int
    fingerprint: str

    def stem(self) -> Path:
        """The relative path of the run's files, without suffix."""
        folds = f"-{self.folds}folds" if self.folds else ""
        name = f"{slug(self.method)}-s{self.seed}-{self.fingerprint[:12]}"
        return Path(slug(self.dataset)) / f"{self.protocol}{folds}" / name
