"""Running methods on a dataset: fit or reuse, embed, rank, record.  An error of one method never stops the others."""

from __future__ import annotations

import secrets
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from cran_bench.contract import Method
from cran_bench.dataset import Dataset
from cran_bench.embeddings import Embedding, as_levels, no_tensor, on_device, require_finite
from cran_bench.errors import BadInput, CannotWrite, file_of, python_error
from cran_bench.frontend.text.encoding import encoders_of
from cran_bench.machine.arithmetic import in_full_precision, reproducible
from cran_bench.machine.environment import environment, peak_memory
from cran_bench.machine.fingerprint import code
from cran_bench.machine.journal import Journal
from cran_bench.machine.processes import ALONE, OutOfStep, Processes
from cran_bench.machine.progress import duration, say
from cran_bench.machine.storage import locked, sha256_json
from cran_bench.machine.threads import limited
from cran_bench.protocols import Metric, Protocol, Unit, unit_of
from cran_bench.ranking.evaluation import as_queries, evaluate
from cran_bench.ranking.filtering import Bound
from cran_bench.ranking.metrics import Ranks
from cran_bench.ranking.pairs import backend_of, require_ranked
from cran_bench.ranking.problem import Backend, Clock, make_problem
from cran_bench.records.examples import Answers, Examples, HardContrast, find_answers, find_examples
from cran_bench.records.schema import Address, DataInfo, Failure, MethodInfo, Record, Seconds, SimilarityInfo
from cran_bench.records.store import ResultStore
from cran_bench.records.tasks import evidence_metrics
from cran_bench.registry import METHODS, Configured
from cran_bench.running.evidence import Evidence
from cran_bench.running.fits import Fit, FitStore, SharedFit, code_of, fields_json, run_of
from cran_bench.running.fits.run import parts_of
from cran_bench.running.fits.store import fit_fingerprint
from cran_bench.running.preparation import Prepared
from cran_bench.running.tuning import best_of, choice, trials
from cran_bench.similarity import MultiLevel, Pairwise, Similarity, depends_on_query
from cran_bench.specs import flat_fields
from cran_bench.split import MissingFeature, Split


def new_name() -> str:
    """Return a unique name for a run."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class Outcome:
    """The result of one row: a record, with its ranks, or a failure."""

    address: Address
    record: Record | None
    failure: Failure | None
    reused: bool


@dataclass
class Runner:
    """Runs methods on prepared data.

    Attributes:
        results: folder of the records.
        cache: folder of features and fits.
        folds: number of folds to average over; 0 to rank the whole test split.
        backend: how ranks are counted, one of `cran_bench.ranking.backends`; the ranks do not depend on it.
        bound: error bound of low-precision scores, see `cran_bench.ranking.rank.rank`.
        contrasts: contrasts to make of the test captions, ``swap``; '' for none but those of the data.
        force: whether to run again what is recorded.
        name: name of this run: a forced fit is made once in it, by the process that comes first.
        processes: the processes that share a training; the first one runs the rows, the others `help`.
        threads: threads that fit and evaluate a row; None for as many as torch has.
        jobs: number of rows, or parts of rows, that are computed at a time.
    """

    data: Prepared
    results: Path
    cache: Path
    device: torch.device
    folds: int = 0
    backend: str | Backend = "auto"
    bound: Bound = "measured"
    contrasts: str = ""
    force: bool = False
    name: str = field(default_factory=new_name)
    processes: Processes = ALONE
    threads: int | None = 1
    jobs: int = 1
    _helping: dict[tuple[Unit, Metric, bool], FitStore] = field(default_factory=dict, repr=False)

    @property
    def store(self) -> ResultStore:
        """The store of the records."""
        return ResultStore(self.results)

    @cached_property
    def journal(self) -> Journal:
        """The journal of this process, with all that seconds depend on."""
        with limited(self.threads):
            about = self._environment()
        return Journal({name: about[name] for name in ("cpu", "gpu", "threads", "processes")}, self.jobs)

    @cached_property
    def evidence(self) -> Evidence:
        """The contrasts and judgments of the test split."""
        return Evidence(self.data, self.contrasts, self.cache)

    def asks(self, protocol: Protocol) -> bool:
        """Whether contrasts and judgments are measured: by captions, as they are of the whole test split."""
        return protocol == "captions" and not self.folds

    @cached_property
    def data_info(self) -> DataInfo:
        """The test split and its features, as records name them."""
        collection, fitted_on = self.data.tested.collection, self.data.fitted_on
        test, made = collection.splits["test"], self.data.tested.texts and self.data.tested.texts.manifest
        return DataInfo.model_validate(
            {
                **self.data.tested.digests,
                "label": self.data.label,
                "quick": is_quick(self.data.dataset) or is_quick(self.data.tested.dataset),
                "images": len(test),
                "captions": len(collection.captions_of(test)[0]),
                "front_end": self.data.tested.features.label,
                "vectors": _file_name(self.data.vectors),
                **({"text_encoder": made.encoder, "texts_sha": made.sources_sha()} if made else {}),
                "trained_on": self.data.trained_on,
                **self.evidence.shas,
                **({"fitted_on": fitted_on} if fitted_on else {}),
            }
        )

    def run(
        self,
        methods: Sequence[Configured[Method]],
        protocols: Sequence[Protocol],
        seeds: Sequence[int],
        count: Count | None = None,
    ) -> list[Outcome]:
        """Run every method with every seed under every protocol, in that order; print progress."""
        count = count or Count(len(methods) * len(seeds) * len(protocols), self.data.tested.collection.metric)
        outcomes: list[Outcome] = []
        for method in methods:
            for seed in seeds:
                for outcome in self.outcomes(method, protocols, seed):
                    outcomes.append(outcome)
                    count.say(outcome)
        return outcomes

    def outcomes(self, method: Configured[Method], protocols: Sequence[Protocol], seed: int) -> Iterator[Outcome]:
        """Run one method with one seed under every protocol; protocols of the same unit follow each other."""
        for fitted, protocol in self._rows(method, protocols, seed):
            with limited(self.threads):
                outcome = self._one(fitted, protocol)
            yield outcome

    def fingerprints(self, method: Configured[Method], protocols: Sequence[Protocol], seed: int) -> list[str]:
        """Return the fingerprints of the rows of `outcomes`; none if the method or a part of the data is unusable."""
        try:
            return [self._fingerprint(*row) for row in self._rows(method, protocols, seed)]
        except Exception:  # reported with the row
            return []

    def found(self, method: Configured[Method], protocol: Protocol, seed: int) -> tuple[Address, Outcome | None]:
        """Return where the record of a row is, or will be, and its outcome; None if it has to be computed."""
        fitted = _Fitted(self, method, seed, fit_unit(method, protocol))
        return self._address(fitted, protocol), self._recorded(fitted, protocol)

    def recorded(self, method: Configured[Method], protocols: Sequence[Protocol], seed: int) -> list[Outcome] | None:
        """Return what `outcomes` would yield if nothing has to be computed, else None."""
        outcomes = [self._recorded(fitted, protocol) for fitted, protocol in self._rows(method, protocols, seed)]
        return None if None in outcomes else [outcome for outcome in outcomes if outcome]

    def _recorded(self, fitted: _Fitted, protocol: Protocol) -> Outcome | None:
        if self.force:
            return None
        try:
            address = self._address(fitted, protocol)
            record = self.store.find(address)
        except Exception:  # reported with the row
            return None
        return None if record is None else Outcome(address, record, None, reused=True)

    def failed(
        self, method: Configured[Method], protocols: Sequence[Protocol], seed: int, error: BaseException
    ) -> list[Outcome]:
        """Record an error that occurred before or outside `outcomes`; rows that are already recorded are kept."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        return [
            self._recorded(fitted, protocol) or self._failed(fitted, protocol, error, started)
            for fitted, protocol in self._rows(method, protocols, seed)
        ]

    def _rows(
        self, method: Configured[Method], protocols: Sequence[Protocol], seed: int
    ) -> Iterator[tuple[_Fitted, Protocol]]:
        for unit in dict.fromkeys(fit_unit(method, p) for p in protocols):
            fitted = _Fitted(self, method, seed, unit)
            for protocol in protocols:
                if fit_unit(method, protocol) == unit:
                    yield fitted, protocol

    def fitted(self, method: Configured[Method], seed: int, unit: Unit) -> Method:
        """Fit a method on this data, or load it if this very fit is stored."""
        with limited(self.threads):
            return _Fitted(self, method, seed, unit).fit.part

    def embedded(
        self, method: Configured[Method], protocol: Protocol, seed: int
    ) -> tuple[Method, Split, Embedding, Embedding]:
        """A fitted method, the test split with the texts of a protocol, and the embeddings of its images and texts."""
        fitted = _Fitted(self, method, seed, fit_unit(method, protocol))
        with limited(self.threads):
            test, images, texts, _ = fitted.embeddings(unit_of(protocol))
            return fitted.fit.part, test, images, texts

    def help(self, job: SharedFit) -> None:
        """Do this process's share of a fit."""
        key = job.unit, job.metric, job.refit
        if key not in self._helping:
            self._helping = {key: self.fits(*key)}
        with limited(self.threads):
            self._helping[key].help(job)

    def fits(self, unit: Unit, metric: Metric | None = None, refit: bool = False) -> FitStore:
        """Return the store of fits on the texts of a unit.

        Args:
            unit: captions or documents.
            metric: the figure by which they choose on validation; None for that of the dataset.
            refit: whether they are fitted on train and validation together.
        """
        data = self.data.with_val_in_train if refit else self.data
        return FitStore(
            self.cache / "fits",
            data.identity,
            data.split("train", unit, self.device),
            data.split("val", unit, self.device),
            self.device,
            self.name if self.force else "",
            self.processes,
            metric or self.data.collection.metric,
            refit,
            self.journal,
        )

    def refits(self, method: Configured[Method]) -> bool:
        """Whether a method is fitted again, on train and validation together, with what validation chose.

        One with parts is not, as these may choose more on validation than its fields.
        """
        declares = getattr(method.plugin.cls, "refits", False) is True
        return self.data.collection.refit and declares and not parts_of(method.build())

    def data_of(self, method: Configured[Method]) -> Prepared:
        """The data with the training split of the last fit of a method, by which the words of all splits are read."""
        return self.data.with_val_in_train if self.refits(method) else self.data

    def _one(self, fitted: _Fitted, protocol: Protocol) -> Outcome:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            address = self._address(fitted, protocol)
            with locked(self.store.path(address), f"running {fitted.method.label}"):
                recorded = None if self.force else self.store.find(address)
                if recorded is not None:
                    return Outcome(address, recorded, None, reused=True)
                start, noted = time.perf_counter(), self.journal.total
                started = self.store.now(address, self.data_info)
                record, ranks, examples = self._evaluate(fitted, protocol, address.fingerprint, started)
                companions = fitted.fit.curves, examples, fitted.answers(protocol)
                record = self.store.write(address, record, ranks, *companions)
            beside = time.perf_counter() - start - (self.journal.total - noted)  # all but fits that have own notes
            kind = like_row(fitted.method.plugin.name, fitted.method.label, protocol, self.folds)
            self.journal.note(address.fingerprint, kind, record.data.captions, max(0.0, beside))
            return Outcome(address, record, None, reused=False)
        except CannotWrite:
            raise
        except (Exception, SystemExit) as error:  # recorded with its traceback; the other rows go on
            failed = self._failed(fitted, protocol, error, started)
            if isinstance(error, OutOfStep):
                raise
            return failed

    def _failed(self, fitted: _Fitted, protocol: Protocol, error: BaseException, started: str) -> Outcome:
        method, dataset = fitted.method, self.data.label
        failure = Failure(
            data=self.data_info,
            method_label=method.label,
            protocol=protocol,
            folds=self.folds,
            seed=fitted.seed,
            error=self.reason(method, error),
            traceback="".join(traceback.format_exception(error)),
            started=started,
            environment=self._environment(),
        )
        try:
            address = self._address(fitted, protocol)
        except Exception:  # such as a method that cannot be built
            address = Address(dataset, protocol, self.folds, method.label, fitted.seed, "")
        self.store.write_failure(address, failure)
        return Outcome(address, None, failure, reused=False)

    def reason(self, method: Configured[Method], error: BaseException) -> str:
        """Say in one line why a row fails."""
        is_told = isinstance(error, BadInput)
        text = " ".join(str(error).split()) if is_told else python_error(error, file_of(method.plugin.cls))
        text = text.removeprefix(f"{method.label}: ")  # which is told beside it
        if isinstance(error, MissingFeature):
            text = f"{method.label} cannot run on {self.data.label}: {text}"
            known = encoders_of(self.data.collection, self.cache) if text.endswith("--text-encoder") else []
            text += f", such as {' or '.join(known)} with its folder, by which these captions are encoded" * bool(known)
        return text

    def _address(self, fitted: _Fitted, protocol: Protocol) -> Address:
        fingerprint = self._fingerprint(fitted, protocol)
        return Address(self.data.label, protocol, self.folds, fitted.method.label, fitted.seed, fingerprint)

    def _environment(self) -> dict[str, Any]:
        return {**environment(self.device), "processes": self.processes.count}

    def _fingerprint(self, fitted: _Fitted, protocol: Protocol) -> str:
        parts = [trial.build() for trial in trials(fitted.method, fitted.seed)]
        tune = fitted.method.tune
        judged = self.asks(protocol) and self.evidence.shas
        about = fitted.seed, self.device, fit_metric(fitted.method, self.data)
        fits = [fit_fingerprint(self.data.identity, fitted.unit, part, *about) for part in parts]
        return sha256_json(
            {
                "fit": {"trials": tune, "of": fits, "choice": code(choice).sha} if tune else fits[0],
                "protocol": protocol,
                "folds": self.folds,
                "device": self.device.type,
                "evaluation": _evaluation(parts[0].similarity),
                **({"test": self.data.test_on.identity} if self.data.test_on else {}),
                **({"refit": True} if self.refits(fitted.method) else {}),
                **({"evidence": [self.evidence.shas, _judging()]} if judged else {}),
            }
        )

    def _evaluate(
        self, fitted: _Fitted, protocol: Protocol, fingerprint: str, started: str
    ) -> tuple[Record, Ranks, Examples | None]:
        require_ranked(fitted.method.build().similarity, protocol)  # before a fit
        fit = fitted.fit
        similarity = fit.part.similarity
        test, images, texts, embed_seconds = fitted.embeddings(unit_of(protocol))
        require_scorable(fit.part, images, texts)
        evaluation = evaluate(
            images,
            texts,
            test.image_of,
            test.twins,
            similarity,
            protocol,
            self.folds,
            backend_of(similarity, self.backend),
            self.bound,
            labels_of(test),
        )
        ranks, metrics, kernel = evaluation.ranks, dict(evaluation.metrics), evaluation.ranks.kernel
        assert kernel is not None
        hard: list[HardContrast] | None = None
        if self.asks(protocol):
            words = self.data_of(fitted.method).text(fitted.unit)
            asked = fit.part, test, words, images, texts, ranks, fitted.method.label
            ranks, hard = self.evidence.measured(*asked)
            metrics |= evidence_metrics(ranks)
        record = Record(
            fingerprint=fingerprint,
            data=self.data_info,
            method=MethodInfo(
                label=fitted.method.label,
                name=fitted.method.plugin.name,
                preset=fitted.method.preset,
                paper_row=fitted.method.plugin.paper_row,
                parameters=fields_json(fit.part),
                chose=dict(fit.chose),
                unit=fitted.unit,
                code_sha=code_sha(fit.part, self.asks(protocol) and bool(self.evidence.shas)),
                fit_fingerprint=fit.fingerprint,
                encoders=sorted(fitted.used),
                **fitted.about,
            ),
            protocol=protocol,
            folds=self.folds,
            seed=fitted.seed,
            metrics=metrics,
            ties=ranks.ties(),
            seconds=Seconds(
                features=self.data.features.seconds,
                fit=fit.seconds,
                embed=embed_seconds,
                similarity=evaluation.clock.similarity,
                rank=evaluation.clock.rank,
            ),
            similarity=SimilarityInfo(
                name=_similarity_name(similarity),
                kernel=kernel.name,
                dtype=kernel.dtype,
                bound=kernel.bound,
                tolerance=kernel.tolerance,
                rescored=kernel.rescored,
                error=kernel.error,
            ),
            device=self.device.type,
            peak_memory=peak_memory(),
            peak_memory_gpu=torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None,
            environment=self._environment(),
            started=started,
            ranks_sha="",
        )
        return record, ranks, fitted.examples(protocol, hard)


class Count:
    """Prints a line for each of `total` outcomes; without the time left, as rows differ in cost."""

    def __init__(self, total: int, metric: Metric) -> None:
        self.total, self.metric, self.outcomes, self._start = total, metric, list[Outcome](), time.monotonic()

    def say(self, outcome: Outcome) -> None:
        """Print the line of one more outcome."""
        self.outcomes.append(outcome)
        say(f"[{len(self.outcomes)}/{self.total}] {_line(outcome, self.metric)}")

    def summary(self, expected: str) -> str:
        """Return how many rows there were so far, in how long and how long was `expected`, and why some failed."""
        failed = [outcome for outcome in self.outcomes if outcome.failure]
        reused = sum(outcome.reused for outcome in self.outcomes)
        computed, left = len(self.outcomes) - reused - len(failed), self.total - len(self.outcomes)
        counts = {"computed": computed, "reused": reused, "failed": len(failed), "left": left}
        of = f"{len(self.outcomes):,} of " if left else ""
        told = ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)
        first = f"{of}{row_count(self.total)} in {duration(time.monotonic() - self._start)}{expected}: {told}"
        reasons = [(f"failed: {o.failure.error}", _name(o)) for o in failed if o.failure]
        return "\n".join([first, *each_once(reasons)])


class _Fitted:
    """A method fitted on one unit with one seed, and its test embeddings, each computed once and only when needed."""

    def __init__(self, runner: Runner, method: Configured[Method], seed: int, unit: Unit) -> None:
        self.runner, self.method, self.seed, self.unit = runner, method, seed, unit
        self._fit: Fit[Method] | BaseException | None = None
        self._embedded: dict[Unit, tuple[Split, Embedding, Embedding, float]] = {}
        said = method.plugin.reference
        self.about: dict[str, Any] = {"reference": said} if said else {}  # and `tuning` and `refit`, where they apply
        self.used: set[str] = set()  # roles of the encoders whose features of the test split were read

    @cached_property
    def store(self) -> FitStore:
        return self.runner.fits(self.unit, fit_metric(self.method, self.runner.data))

    @property
    def fit(self) -> Fit[Method]:
        """The fit, made or loaded once; a fit that failed is not tried again for the next protocol."""
        if self._fit is None:
            try:
                fit, fitted = self._chosen(), self.method
                if self.method.tune:
                    fitted = METHODS.varied(fitted, self.about["tuning"].tried[self.about["tuning"].chosen])
                self._fit = self._refitted(fit, fitted) if self.runner.refits(self.method) else fit
            except (Exception, SystemExit) as error:
                self._fit = error
        if isinstance(self._fit, BaseException):
            raise self._fit
        return self._fit

    def _chosen(self) -> Fit[Method]:
        if not self.method.tune:
            return self.store.fitted(self.method.build(), self.seed, self.method.label)
        fit, self.about["tuning"] = best_of(self.method, self.seed, self.store, embed)
        return fit

    def _refitted(self, fit: Fit[Method], method: Configured[Method]) -> Fit[Method]:
        """The fit on train and validation together, with the values of fields that validation chose."""
        chosen = {name: value for name, value in fit.chose.items() if name in flat_fields(method.plugin.cls)}
        store = self.runner.fits(self.unit, fit_metric(method, self.runner.data), refit=True)
        again = store.fitted(METHODS.varied(method, chosen).build(), self.seed, f"{method.label} on train and val")
        self.about["refit"] = True
        return replace(again, costs={**fit.costs, **again.costs}, chose=fit.chose)

    def embeddings(self, unit: Unit) -> tuple[Split, Embedding, Embedding, float]:
        """Return the test split, its image and text embeddings on the device, and the seconds they took."""
        if unit not in self._embedded:
            part, device = self.fit.part, self.runner.device
            test = self.runner.data_of(self.method).split("test", unit, device, self.unit, self.used)
            clock = Clock(device)
            start = clock.now()
            images, texts = embed(part, test)
            images, texts = on_device(images, device), on_device(texts, device)
            self._embedded[unit] = test, images, texts, clock.now() - start
        return self._embedded[unit]

    def examples(self, protocol: Protocol, hard: list[HardContrast] | None) -> Examples | None:
        """Return hard contrasts, and retrieval examples for protocols that rank texts, not an average of captions.

        An order that depends on the query has none of these: examples show the answers of one score.
        """
        if protocol not in ("captions", "documents") or depends_on_query(self.fit.part.similarity):
            return Examples(examples=[], contrasts=hard) if hard else None
        test, images, texts, _ = self.embeddings(unit_of(protocol))
        with torch.inference_mode():
            return find_examples(self.fit.part, test, images, texts).model_copy(update={"contrasts": hard})

    def answers(self, protocol: Protocol) -> Answers | None:
        """Return the best answers of queries; none for averages of captions, within folds, or by a pair scorer."""
        similarity = self.fit.part.similarity
        if self.runner.folds or protocol == "mean" or isinstance(similarity, Pairwise):
            return None
        test, images, texts, _ = self.embeddings(unit_of(protocol))
        queries = as_queries(protocol, texts, test.image_of, len(images), similarity)
        with torch.inference_mode(), in_full_precision(self.runner.device):
            return find_answers(make_problem(images, *queries, similarity))


def code_sha(method: Method, is_judged: bool) -> str:
    """The sha256 of the code that the numbers of a record depend on.

    Args:
        method: fitted or not.
        is_judged: whether it was asked for contrasts or judgments, too.
    """
    scoring, judging = code(run_of(method).score).sha, [_judging()] * is_judged
    return sha256_json([code_of(method), scoring, _evaluation(method.similarity), *judging])


def _judging() -> str:
    """The sha256 of the code that computes figures of contrasts and judgments."""
    return code(Evidence, asked=["measured"]).sha


def _evaluation(similarity: Similarity) -> list[str]:
    """The sha256 of the code that computes metrics from embeddings."""
    pairs = [code(backend_of).sha] if isinstance(similarity, Pairwise) else []
    return [code(evaluate).sha, code(Split, asked=("image_of", "twins", "labels")).sha, *pairs]


def labels_of(split: Split) -> Tensor | None:
    """The (N, C) categories of a split's images; None if the data has none, or none of these images has one."""
    try:
        labels = split.labels
    except MissingFeature:
        return None
    return labels if bool(labels.any()) else None


def embed(method: Method, split: Split) -> tuple[Embedding, Embedding]:
    """Return the image and text embeddings of a split, one row for each image and each text.

    Raises:
        BadInput: a side is no tensor, or has another number of rows or another dtype.
    """
    with reproducible(split.image_of.device), torch.inference_mode():
        images, texts = method.embed_images(split), method.embed_texts(split)
    for side, rows, expected, shape in (
        ("images", images, len(split), "(N, D)"),
        ("texts", texts, len(split.texts), "(T, D)"),
    ):
        if wrong := no_tensor(rows):
            raise BadInput(f"embed_{side} returned {wrong}; return a torch tensor {shape}")
        if len(rows) != expected:
            raise BadInput(f"embed_{side} returned {len(rows)} rows for {expected} {side}; return one for each")
    left, right = (str(as_levels(x).tensors()[0].dtype).removeprefix("torch.") for x in (images, texts))
    if left != right:
        raise BadInput(f"embed_images returned {left}, embed_texts {right}; return one dtype, float32")
    return images, texts


def require_scorable(method: Method, images: Embedding, texts: Embedding) -> None:
    """Reject embeddings that the method's similarity cannot score.

    Raises:
        BadInput: they do not match or are not finite.
    """
    method.similarity.check(images, texts)
    require_finite(images, "embed_images")
    require_finite(texts, "embed_texts")


def like_row(name: str, label: str, protocol: Protocol, folds: int) -> str:
    """As `Noted.like`, of a row without its fit, by the name and the label of its method."""
    return f"{name} {label} {protocol} {folds}"


def fit_unit(method: Configured[Method], protocol: Protocol) -> Unit:
    """Return what a method trains on for a protocol: the protocol's own unit, or the one given as ``[unit=...]``."""
    return cast("Unit", method.unit) if method.unit else unit_of(protocol)


def fit_metric(method: Configured[Method], data: Prepared) -> Metric:
    """Return the figure that a method chooses by: that of the dataset, or the one given as ``[metric=...]``."""
    return cast("Metric", method.metric) if method.metric else data.collection.metric


def is_quick(dataset: Configured[Dataset]) -> bool:
    """Whether the dataset is reduced for a quick look."""
    return dataset.preset == "quick"


MOST_SEEDS = 10_000


def parse_seeds(text: str) -> list[int]:
    """Parse seeds: ``0``, ``0,3`` or ``0:5`` (0 to 4).

    Raises:
        BadInput: the text has another form, or gives too many or too large seeds.
    """
    try:
        if ":" in text:
            first, last = (int(part) for part in text.split(":"))
            seeds = list(range(first, min(last, first + MOST_SEEDS + 1)))
        else:
            seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise BadInput(f"seeds are whole numbers from 0, such as 0 or 0,3 or 0:5 (which is 0 to 4), not '{text}'")
    if len(seeds) > MOST_SEEDS or max(seeds) >= 2**32:
        raise BadInput(
            f"'{text}' gives more than {MOST_SEEDS:,} seeds, or one above 2^32 - 1; give fewer or smaller ones"
        )
    return list(dict.fromkeys(seeds))


def _similarity_name(similarity: Similarity) -> str:
    if isinstance(similarity, Pairwise):
        cheap = f", the best {similarity.rerank} by {_similarity_name(similarity.cheap)}" if similarity.rerank else ""
        return "pair scorer" + (", another for i2t" if similarity.i2t else "") + cheap
    measure = "cosine" if similarity.cosine else "dot"
    return f"multi-level {measure}, top {similarity.top}" if isinstance(similarity, MultiLevel) else measure


def _file_name(spec: str) -> str:
    name, colon, file = spec.partition(":")
    return f"{name}:{Path(file).name}" if colon else spec


def row_count(number: int) -> str:
    """``1 row``, ``1,200 rows``."""
    return f"{number:,} row{'s' * (number != 1)}"


def shortened(names: Sequence[str]) -> str:
    """``a, b, c and 7 more``."""
    return ", ".join(names[:3]) + f" and {len(names) - 3:,} more" * (len(names) > 3)


def each_once(remarks: Iterable[tuple[str, str]]) -> list[str]:
    """Lines of remarks on rows, given with the name of the row: each remark once, then the rows that it is on."""
    names: dict[str, list[str]] = {}
    for remark, name in remarks:
        names.setdefault(remark, []).append(name)
    return [f"{remark} ({shortened(of)})" for remark, of in names.items()]


def _name(outcome: Outcome) -> str:
    return f"{outcome.address.method} · {outcome.address.protocol} · seed {outcome.address.seed}"


def _line(outcome: Outcome, metric: Metric) -> str:
    where = _name(outcome)
    if outcome.record is None:
        assert outcome.failure is not None
        return f"{where}: FAILED, {outcome.failure.error}"
    metrics, seconds = outcome.record.metrics, outcome.record.seconds
    figures = f"R@1 {metrics['i2t_r1']:.1f} / {metrics['t2i_r1']:.1f}, rsum {metrics['rsum']:.1f}"
    if metric == "map" and "map" in metrics:  # not if no test image has a label
        figures = f"mAP {metrics['i2t_map']:.3f} / {metrics['t2i_map']:.3f}"
    return f"{where}: {figures} ({'reused' if outcome.reused else f'fit {duration(seconds.fit)}'})"
