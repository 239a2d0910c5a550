"""Run, evaluate and read records from Python; the command line calls the same functions."""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import current_process
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cran_bench.embeddings import Embedding, Levels, as_levels, rows_of
from cran_bench.errors import BadInput, NotReady, did_you_mean
from cran_bench.machine.environment import own_device
from cran_bench.machine.ledger import DRY_RUN
from cran_bench.machine.processes import joined, started
from cran_bench.machine.progress import say
from cran_bench.machine.storage import cache_folder
from cran_bench.protocols import PROTOCOLS, Metric, fold_rows, parse_protocols
from cran_bench.protocols import Protocol as ProtocolName
from cran_bench.ranking.backends import require_known
from cran_bench.ranking.evaluation import evaluate as rank_and_measure
from cran_bench.ranking.filtering import Bound
from cran_bench.ranking.metrics import Ranks
from cran_bench.ranking.pairs import backend_of, require_ranked
from cran_bench.records.schema import Failure, Record
from cran_bench.records.statistics import Interval, sample
from cran_bench.records.store import ResultStore, read_folders, roots_of
from cran_bench.records.tasks import CATEGORY, RECALL
from cran_bench.registry import DATASETS, METHODS, each, number_of_trials, quick_dataset, quick_method, tuned_method
from cran_bench.running.evidence import parse_contrasts
from cran_bench.running.fits import code_of
from cran_bench.running.plan import WIDTH, Plan, Workers
from cran_bench.running.preparation import Prepared, find_tested
from cran_bench.running.remote import Request
from cran_bench.running.runner import Outcome, Runner, new_name, parse_seeds
from cran_bench.similarity import COSINE, DOT, Similarity
from cran_bench.tables.record_frame import record_frame
from cran_bench.tables.tables import Table, build_tables

if TYPE_CHECKING:
    from os import PathLike

    import pandas as pd

SIMILARITIES = {"cosine": COSINE, "dot": DOT}


@dataclass(frozen=True, repr=False)
class Results:
    """The outcome of a run.

    Attributes:
        store: where the records are kept.
        outcomes: a record or a failure for each method, seed and protocol.
        remarks: what was noted about the dataset, such as captions of the test split that also stand in train.
        metric: the figure that the tested dataset is made for: `rsum`, or `map`, retrieval by category.
        specs: of the methods, by label.
        told: what the run says in the end: the number of rows, how long they took, and why some failed; what a dry run
            says instead.
    """

    store: ResultStore
    outcomes: Sequence[Outcome]
    remarks: Sequence[str] = ()
    metric: Metric = "rsum"
    specs: Mapping[str, str] = field(default_factory=dict)
    told: str = ""

    def __repr__(self) -> str:
        return f"<Results: {len(self.records)} records, {len(self.failures)} failures>"

    @property
    def records(self) -> list[Record]:
        """Records of finished runs."""
        return [outcome.record for outcome in self.outcomes if outcome.record is not None]

    @property
    def failures(self) -> list[Failure]:
        """Runs that ended with an error."""
        return [outcome.failure for outcome in self.outcomes if outcome.failure is not None]

    @property
    def tables(self) -> list[Table]:
        """One table for each protocol, with intervals and notes, and one of contrasts if there are any."""
        finished = [self.store.finished(o.address, o.record) for o in self.outcomes if o.record is not None]
        is_by_category = self.metric == "map" and all("map" in record.metrics for record in self.records)
        usual = build_tables(finished, self.failures, task="category" if is_by_category else "recall")
        return [*usual, *build_tables(finished, self.failures, task="contrasts")]

    def table(self) -> pd.DataFrame:
        """Every figure as a number, one line for each method and protocol."""
        import pandas as pd

        usual = [table.frame() for table in self.tables if table.task in (RECALL, CATEGORY)]
        return pd.concat(usual, ignore_index=True)


def run(
    methods: str | Sequence[str] | None = None,
    dataset: str = "scenes",
    protocols: str | Sequence[str] = "captions",
    seeds: int | str | Sequence[int] = 0,
    *,
    everything: bool = False,
    test_on: str | None = None,
    test_data: str | PathLike[str] | None = None,
    quick: bool = False,
    folds: int = 0,
    contrasts: str = "",
    tune: int | None = None,
    force: bool = False,
    dry_run: bool = False,
    data: str | PathLike[str] | None = None,
    backbone: str | None = None,
    regions: str | None = None,
    vectors: str = "ppmi-svd",
    text_encoder: str | None = None,
    results: str | PathLike[str] | None = None,
    cache: str | PathLike[str] | None = None,
    device: str = "auto",
    backend: str = "auto",
    bound: Bound = "measured",
    jobs: int | None = None,
    threads: int | None = None,
    workers: Workers | None = None,
) -> Results:
    """Fit methods, rank the test split in both directions, and record the figures; existing records are reused.

    Args:
        methods: specs such as ``"cca"``, ``"cran:paper[margin=0.2]"`` or ``"mine.py:Mine"``; None for all rows of the
            paper.
        dataset: spec of the dataset, such as ``"scenes"`` or ``"flickr8k[limit=200]"``.
        protocols: names, or ``"all"``.
        seeds: seeds of the fits; ``"0:5"`` for 0 to 4.
        everything: without methods, run the further methods too, which reproduce no row of the paper.
        test_on: spec of another dataset, whose test split is ranked by fits of `dataset`; with the same front end.
        test_data: folder of that dataset; by default the same as `data`.
        quick: less data and shorter training; not for comparison.
        folds: 0 to rank the whole test split, else the number of folds to average over.
        contrasts: ``"swap"``, or ``"swap[seed=1]"``, to measure by contrasts made of the test captions as well, under
            the protocol `captions` and without `folds`; '' for those of the dataset only.
        tune: number of trials of each row: it is fitted with its own fields and with others from the method's search
            space, and the fit with the greatest rsum on validation is tested; None to fit it as it is.
        force: repeat recorded runs.
        dry_run: compute and write nothing; `told` of the result says what would be done, and how long that takes.
        data: folder of the datasets; by default ``$CRAN_BENCH_DATA`` or ``data``.
        backbone: spec of the image features; None for the dataset's own.
        regions: spec of the regions; None for the dataset's own.
        vectors: spec of the word vectors.
        text_encoder: spec of the encoder of texts for methods with ``text=encoder``, such as ``"onnx:FILE"``; None for
            none.
        results: folder of the records; by default ``$CRAN_BENCH_RESULTS`` or ``results``.
        cache: folder of features and fits; by default ``$CRAN_BENCH_CACHE`` or ``~/.cache/cran-bench``.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        backend: how ranks are computed; does not change them.
        bound: bound on the error of low-precision scores, ``"measured"`` or ``"proven"``.
        jobs: rows, and parts of rows, that are computed at a time; by default ``$CRAN_BENCH_JOBS``, or as many as
            there are cores for their threads, and one on a GPU.
        threads: threads of each; by default ``$CRAN_BENCH_THREADS`` or 1, and on a GPU those torch has.  With the same
            number of threads the figures are the same for any number of jobs.
        workers: those of a cluster, which compute the rows instead; they have threads of their own.

    Returns:
        Records and failures; a method that fails does not stop the others.

    Raises:
        BadInput: an unknown method, dataset or option, or data that is not usable.
    """
    source = quick_dataset(dataset) if quick else dataset
    where, records, folder = folders(data, results, cache)

    def parse() -> tuple[Request, Prepared]:
        given = [methods] if isinstance(methods, str) else methods or []
        if isinstance(given, type) or not all(isinstance(text, str) for text in given):
            raise BadInput(f"methods are given by name, 'cca' or 'mine.py:Mine', not as {methods!r}")
        named = each(given)
        if named and everything:
            raise BadInput(f"--all is for a run without methods, not with {', '.join(named)}: leave out one of the two")
        references = METHODS.references()
        found = named or [name for name in METHODS.usable() if name not in references]
        further = [name for name in found if not (named or everything or METHODS.describe(name).paper_row)]
        specs = [quick_method(text) if quick else text for text in found if text not in further]
        specs = specs if tune is None else [tuned_method(text, number_of_trials(tune)) for text in specs]
        texts: dict[str, str] = {}
        for text in specs:
            configured = METHODS.configure(text)
            if configured.plugin.argument and texts.setdefault(configured.label, text) != text:
                both = f"{texts[configured.label]} and {text}"
                raise BadInput(f"{both} are both called {configured.label} in tables: rename a file")
            with contextlib.suppress(Exception):  # which the row reports
                code_of(configured.build())  # reads the source now, as it runs, before anybody edits it
        for name, reason in () if named else METHODS.failures.items():
            say(f"left out: method {name}: {reason}")
        if further:
            say(f"left out: the further methods {', '.join(further)}, which --all includes")
        wanted = parse_protocols(protocols if isinstance(protocols, str) else ",".join(protocols))
        numbers = parse_seeds(seeds if isinstance(seeds, str) else ",".join(map(str, np.atleast_1d(seeds).tolist())))
        require_known(backend, bound)
        if parse_contrasts(contrasts) is not None and "captions" not in wanted:
            raise BadInput(f"--contrasts is for the protocol captions, not for {', '.join(wanted)}: leave it out")
        if contrasts and folds:
            raise BadInput("--contrasts is for the whole test split, --folds for parts of it: leave one of them out")
        if test_data is not None and test_on is None:
            raise BadInput("--test-data is the folder of the dataset of --test-on: give both")
        test = None
        if test_on is not None:
            test = quick_dataset(test_on) if quick else test_on, Path(test_data or where)
        other = (DATASETS.configure(test[0]), test[1]) if test else None
        used = backbone, regions, vectors, text_encoder
        prepared = find_tested((DATASETS.configure(source), where), other, folder, used)
        specs += references if not named and prepared.tested.collection.truths else []
        if folds:
            fold_rows(len(prepared.tested.collection.splits["test"]), folds)  # before any fit
        return Request(source, where, specs, wanted, numbers, test), prepared

    is_alone = workers is None and started() == 1
    threads = _number("threads", threads)
    jobs = _number("jobs", jobs) if is_alone or jobs is not None else 1
    if jobs is not None and jobs > 1 and not is_alone:
        other = "torchrun shares one training" if workers is None else "--cluster has workers of its own"
        raise BadInput(f"{other}, --jobs {jobs} starts workers on this machine: use only one of them")
    kind = own_device(device) if workers is None else workers.device(device)
    jobs = 1 if current_process().daemon else jobs  # as it may start no process
    if is_alone and kind.type == "cpu":
        from joblib import cpu_count  # type: ignore[import-untyped]

        threads = threads or 1
        jobs = jobs or max(1, cpu_count() // threads)
    with joined(kind) as processes, contextlib.ExitStack() as after:
        after.callback(DRY_RUN.reset, DRY_RUN.set(dry_run))
        try:
            request, prepared = processes.in_turn(parse, parse)
        except NotReady as missing:
            told = f"{missing}\nA run extracts these first, and its rows can be looked up when they are there."
            return Results(ResultStore(records), [], told=told)
        name = processes.lead(new_name)
        about = folds, backend, bound, contrasts, force, name, processes, threads, jobs or 1
        runner = Runner(prepared, records, folder, kind, *about)
        processes.helper = runner.help
        configured = [METHODS.configure(text) for text in request.methods]

        def compute() -> tuple[list[Outcome], str]:
            if "captions" in request.protocols and folds and runner.evidence.shas:
                say("left out: contrasts and judgments, which are of the whole test split: run without --folds too")
            plan, most = Plan(runner, request, workers is not None), jobs or 1
            if dry_run:
                return [], dry(plan, most)
            line, expected = plan.forecast(most)
            say(line)
            try:
                return computed(plan, most), plan.count.summary(expected)
            except BaseException:  # such as Ctrl-C
                say(plan.count.summary(expected))
                raise

        def dry(plan: Plan, most: int) -> str:
            lines = [plan.forecast(most)[0]]
            if plan.has_results:
                runner.force = True
                lines += [f"with --force: {Plan(runner, request, workers is not None).forecast(most)[0]}"]
            return "\n".join([plan.text(), "", *(textwrap.fill(line, WIDTH) for line in lines)])

        def computed(plan: Plan, most: int) -> list[Outcome]:
            if any(map(runner.asks, request.protocols)):
                _ = runner.evidence.encoded  # before rows are computed side by side
            if workers is not None:
                return workers.run(runner, plan)
            if most > 1:
                from cran_bench.running.jobs import run_side_by_side

                return run_side_by_side(runner, plan, most)
            return runner.run(configured, request.protocols, request.seeds, plan.count)

        outcomes, told = processes.lead(compute)
        specs = {method.label: text for method, text in zip(configured, request.methods, strict=True)}
        metric = prepared.tested.collection.metric
        return Results(runner.store, outcomes, prepared.remarks, metric, specs, told)


@dataclass(frozen=True)
class Scores:
    """The figures of an evaluation.

    Attributes:
        metrics: recalls in percent, median and mean ranks from 1, `rsum`, and `twin_accuracy` where there are twins;
            with labels the figures by category, as fractions: `i2t_map`, `t2i_map`, `map` (their mean), `i2t_map50`,
            `t2i_map50`, `i2t_class_map`, `t2i_class_map`, and the numbers of `classes`, `i2t_unlabelled` and
            `t2i_unlabelled` queries, which are left out.
        ranks: integers per query, from which every recall follows, and with labels the average `precisions`.
    """

    metrics: dict[str, float]
    ranks: Ranks

    def interval(self, figure: str) -> Interval:
        """A figure with its 95 % bootstrap interval over images.

        Args:
            figure: a recall (``i2t_r1`` ... ``t2i_r10``) or sum of recalls (``i2t``, ``t2i``, ``rsum``); with labels a
                mean average precision too (``i2t_map``, ``t2i_map``, ``map``, ``i2t_map50``, ``t2i_map50``).

        Raises:
            BadInput: an unknown figure, or one that needs labels, without them.
        """
        return sample([self.ranks], task=CATEGORY if CATEGORY.has(figure) else RECALL).interval(figure)

    def table(self) -> pd.DataFrame:
        """A line for each figure: `value` and the 95 % interval over images, if it has one."""
        import pandas as pd

        tasks = [RECALL, *[CATEGORY] * (self.ranks.precisions is not None)]
        of = [sample([self.ranks], task=task) for task in tasks]
        lines = []
        for figure, value in self.metrics.items():
            bounds = next((one.interval(figure) for one in of if one.task.has(figure)), None)
            low, high = (bounds.low, bounds.high) if bounds else (np.nan, np.nan)
            lines.append({"figure": figure, "value": value, "low": low, "high": high})
        return pd.DataFrame(lines).set_index("figure")


def evaluate(
    image_embeddings: ArrayLike | Tensor | Levels,
    text_embeddings: ArrayLike | Tensor | Levels,
    image_of: ArrayLike | Tensor | None = None,
    *,
    similarity: str | Similarity = "cosine",
    protocol: ProtocolName = "captions",
    folds: int = 0,
    twins: ArrayLike | Tensor | None = None,
    labels: ArrayLike | Tensor | None = None,
    backend: str = "auto",
    bound: Bound = "measured",
) -> Scores:
    """All figures of the embeddings of images and texts, with their intervals; no dataset or method is needed.

    Args:
        image_embeddings: (N, D) rows, or `Levels`; ranked in float64 if either side has it, else in float32.
        text_embeddings: (T, D) rows, or `Levels`.
        image_of: (T,) the row of each text's image; None where text k belongs to image k // (T / N).
        similarity: ``"cosine"``, ``"dot"``, or a declared similarity such as ``MultiLevel(top=3)`` or
            ``Pairwise(score)``, for a function that scores tiles of pairs.
        protocol: how texts become queries.
        folds: 0 to rank everything, else the number of folds to average over.
        twins: (N,) the row of each image's twin, for `twin_accuracy`.
        labels: for retrieval by category, where all that shares a category with the query is right: (N, C) zeros and
            ones, or (N,) the number of each image's only category; a text has those of its image.
        backend: how ranks are computed; does not change them.
        bound: bound on the error of low-precision scores, ``"measured"`` or ``"proven"``.

    Raises:
        BadInput: embeddings or labels that do not fit together, embeddings that are not finite, or an unknown option.

    Example:
        >>> import numpy as np, cran_bench
        >>> images = np.eye(4, dtype="float32")
        >>> cran_bench.evaluate(images, images.repeat(5, axis=0)).metrics["rsum"]
        600.0
    """
    if protocol not in PROTOCOLS:
        raise BadInput(f"there is no protocol '{protocol}'{did_you_mean(protocol, PROTOCOLS)}")
    if folds < 0:
        raise BadInput(f"folds is {folds}; give 0 to rank everything, or the number of folds")
    images, texts = _embedding(image_embeddings), _embedding(text_embeddings)
    if isinstance(images, Tensor) and isinstance(texts, Tensor):
        dtype = torch.promote_types(images.dtype, texts.dtype)
        images, texts = images.to(dtype), texts.to(dtype)
    device = as_levels(images).tensors()[0].device
    if image_of is None:
        per_image, rest = divmod(len(texts), max(1, len(images)))
        if rest or not per_image:
            raise BadInput(f"{len(texts)} texts cannot be divided evenly among {len(images)} images: give image_of=")
        owners = torch.arange(len(images), device=device).repeat_interleave(per_image)
    else:
        owners = _rows(image_of, "image_of").to(device)
        order = owners.argsort(stable=True)
        owners, texts = owners[order], rows_of(texts, order) if len(order) == len(texts) else texts
    if isinstance(similarity, str):
        if similarity not in SIMILARITIES:
            raise BadInput(f"similarity must be 'cosine', 'dot' or a declared similarity, not '{similarity}'")
        similarity = SIMILARITIES[similarity]
    require_known(backend, bound)
    other = None if twins is None else _rows(twins, "twins").to(device)
    if other is not None and (len(other) != len(images) or not bool(((other >= 0) & (other < len(images))).all())):
        raise BadInput(f"twins needs a row, 0 to {len(images) - 1}, for each of the {len(images)} images")
    require_ranked(similarity, protocol)
    how = backend_of(similarity, backend), bound
    classes = None if labels is None else _labels(labels, len(images)).to(device)
    evaluation = rank_and_measure(images, texts, owners, other, similarity, protocol, folds, *how, classes)
    return Scores(dict(evaluation.metrics), evaluation.ranks)


def _embedding(given: ArrayLike | Tensor | Levels) -> Embedding:
    if isinstance(given, Levels):
        return given
    rows = _tensor(given, "embeddings")
    if rows.dim() != 2:
        raise BadInput(f"embeddings must have shape (rows, dimensions), not {tuple(rows.shape)}")
    return rows if rows.dtype in (torch.float32, torch.float64) else rows.float()


def _rows(given: ArrayLike | Tensor, name: str) -> Tensor:
    rows = _tensor(given, name)
    if rows.dim() != 1 or rows.is_floating_point():
        raise BadInput(f"{name} must be row numbers, integers of shape (rows,), not {rows.dtype} {tuple(rows.shape)}")
    return rows.long()


def _labels(given: ArrayLike | Tensor, images: int) -> Tensor:
    labels = _tensor(given.view(np.uint8) if isinstance(given, np.ndarray) and given.dtype == bool else given, "labels")
    if labels.dim() == 1 and not labels.is_floating_point() and len(labels) and int(labels.min()) >= 0:
        classes = np.unique(labels.cpu().numpy(), return_inverse=True)[1]
        labels = torch.nn.functional.one_hot(torch.from_numpy(classes)).to(labels.device)
    if labels.dim() != 2 or len(labels) != images or not bool(((labels == 0) | (labels == 1)).all()):
        raise BadInput(
            f"labels must be ({images} images, categories) of zeros and ones, or {images} numbers of categories from "
            f"0, not {str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)}"
        )
    return labels


def _tensor(given: ArrayLike | Tensor, name: str) -> Tensor:
    if isinstance(given, Tensor):
        return given.detach()
    array = np.asarray(given)
    if array.dtype.kind not in "fiu":
        raise BadInput(f"{name} must be numbers, not an array of {array.dtype}")
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def folders(
    data: str | PathLike[str] | None = None,
    results: str | PathLike[str] | None = None,
    cache: str | PathLike[str] | None = None,
) -> tuple[Path, Path, Path]:
    """The folders of data, results and cache: as given, else as the environment names them, else the usual ones."""

    def folder(given: str | PathLike[str] | None, name: str, usual: str | Path) -> Path:
        return Path(given or os.environ.get(f"CRAN_BENCH_{name.upper()}") or usual)

    return folder(data, "data", "data"), folder(results, "results", "results"), folder(cache, "cache", cache_folder())


def _number(name: str, given: object) -> int | None:
    """The whole number that an argument gives, or an environment variable if it is None; None if neither does."""
    source = f"CRAN_BENCH_{name.upper()}" if given is None else name
    text = os.environ.get(source, "") if given is None else str(given)
    if text and not (text.isdecimal() and int(text)):
        raise BadInput(f"{source} must be a whole number from 1, not '{text}'")
    return int(text) if text else None


def read_records(
    folder: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None, *, everything: bool = False
) -> pd.DataFrame:
    """The records below folders of results, one line each: the run, its figures, seconds, environment and digests.

    The columns are listed in docs/results.md.

    Args:
        folder: one or several; by default ``$CRAN_BENCH_RESULTS`` or ``results``.
        everything: not only the newest record of each row and seed, but older ones too, and runs that failed or whose
            record is damaged, as `cran-bench export records` writes them.

    Raises:
        BadInput: there are no records, or without `everything` one is damaged.
    """
    given = (os.environ.get("CRAN_BENCH_RESULTS") or "results").split(os.pathsep) if folder is None else folder
    several = list(map(Path, [given] if isinstance(given, str | os.PathLike) else given))
    runs, failures = read_folders(several)
    damaged = [failure.error for failure in failures if failure.kind == "damaged"]
    if damaged and not everything:
        raise BadInput(damaged[0])
    if not runs and not (failures and everything):
        raise BadInput(f"there are no records below {roots_of(several)}: make some with cran-bench run")
    frame = record_frame(runs, failures if everything else [])
    return frame if everything else frame[frame["shown"]].reset_index(drop=True)
