"""Rankings of a record in the forms that other tools read: TREC runs and judgements, or a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import IO, cast, get_args

import numpy as np
import torch
from torch import Tensor

from cran_bench.contract import Method
from cran_bench.errors import BadInput, did_you_mean
from cran_bench.machine.arithmetic import in_full_precision
from cran_bench.machine.environment import pick_device
from cran_bench.machine.progress import say, track
from cran_bench.machine.storage import slug, write_atomically
from cran_bench.protocols import parse_protocols
from cran_bench.ranking.evaluation import as_queries
from cran_bench.ranking.metrics import Direction
from cran_bench.ranking.pairs import backend_of
from cran_bench.ranking.problem import Clock, Problem, blocks, make_problem
from cran_bench.ranking.rank import count
from cran_bench.ranking.reference import tile_shape
from cran_bench.records.archive import read_ranks, read_record
from cran_bench.records.schema import TESTED_ON
from cran_bench.records.store import Finished, ResultStore
from cran_bench.registry import DATASETS, METHODS, Configured
from cran_bench.running.experiment import folders
from cran_bench.running.preparation import find_tested
from cran_bench.running.runner import Runner
from cran_bench.similarity import depends_on_query, rounding

BLOCK_BYTES = 1 << 25  # of the scores of a block of queries, of which there are several copies
COLUMNS = "direction", "query", "rank", "candidate", "score", "is_right"


def export(
    record: str | PathLike[str],
    trec: str | PathLike[str] | None = None,
    topk: str | PathLike[str] | None = None,
    *,
    top: int = 1000,
    force: bool = False,
    dataset: str = "scenes",
    protocol: str = "captions",
    seed: int = 0,
    test_on: str | None = None,
    test_data: str | PathLike[str] | None = None,
    data: str | PathLike[str] | None = None,
    backbone: str | None = None,
    regions: str | None = None,
    vectors: str = "ppmi-svd",
    text_encoder: str | None = None,
    results: str | PathLike[str] | None = None,
    cache: str | PathLike[str] | None = None,
    device: str = "auto",
) -> list[Path]:
    """Write the rankings behind a record, for both directions, so that other tools can recompute its figures.

    The test split is embedded again with the stored fit, and its ranks must be those of the record.  Scores are
    float64 in full; those that tie with the best right answer, within rounding, are equal to it, and equal scores are
    in the order of the data.

    Args:
        record: path of the record's JSON file, or the method as `run` takes it, for the newest record of the row.
        trec: folder for ``i2t.run``, ``i2t.qrels``, ``t2i.run`` and ``t2i.qrels``.
        topk: CSV file of direction, query, rank, candidate, score and is_right.
        top: candidates listed for each query.
        force: replace existing files.
        dataset: spec of the dataset of a row; this and what follows as in `run`.
        protocol: protocol of a row.
        seed: seed of a row.
        test_on: spec of the dataset whose test split a row of `dataset` ranks, if that is another.
        test_data: folder of that dataset, also for the record of a path; by default the same as `data`.
        data: folder of the datasets.
        backbone: spec of the image features.
        regions: spec of the regions.
        vectors: spec of the word vectors.
        text_encoder: spec of the encoder of texts.
        results: folder of the records.
        cache: folder of features and fits.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        The files written.

    Raises:
        BadInput: there is no such record, it was made with other data, features or code, or a file exists.
    """
    if (trec is None) == (topk is None):
        raise BadInput("export writes TREC files or a table: give either --trec DIR or --topk FILE")
    if top < 1:
        raise BadInput(f"top is {top}; list at least one candidate for each query")
    names = [f"{side}.{kind}" for kind in ("run", "qrels") for side in get_args(Direction)]
    files = [Path(topk)] if topk is not None else [Path(cast("str", trec)) / name for name in names]
    if not force and (there := [path for path in files if path.exists()]):
        raise BadInput(f"{there[0]} exists: name another place, or replace it with --force")
    where, below, store = folders(data, results, cache)
    label = TESTED_ON.join(DATASETS.configure(text).label for text in (dataset, test_on) if text)
    method, found = _records(str(record), label, protocol, seed, below)
    newest = found[0].record
    own, *others = [DATASETS.configure(text) for text in newest.data.label.split(TESTED_ON)]
    other = (others[0], Path(test_data or where)) if others else None
    prepared = find_tested((own, where), other, store, (backbone, regions, vectors, text_encoder))
    threads = newest.environment.get("threads")  # the last bits of embeddings depend on it
    runner = Runner(
        prepared, Path(), store, pick_device(device), newest.folds, contrasts=newest.data.contrasts, threads=threads
    )
    rankings = _rankings(runner, method, found, top)
    writers: list[Callable[[IO[bytes]], None]] = [partial(_write_table, rankings)]
    if topk is None:
        writers = [*(ranking.write_run for ranking in rankings), *(ranking.write_qrels for ranking in rankings)]
    for path, write in zip(files, writers, strict=True):
        write_atomically(path, write)
    for ranking in rankings:
        if ranking.tied:
            say(
                f"{ranking.direction}: {ranking.tied} of {ranking.asked} queries list equal scores, which "
                f"are ties, in the order of the data; for {ranking.cut} the last place falls among equal scores"
            )
    return files


def _records(
    text: str, label: str, protocol: str, seed: int, results: Path
) -> tuple[Configured[Method], list[Finished]]:
    """The method that a path or a spec names, and its records, the newest first."""
    path = Path(text)
    if path.suffix == ".json":
        try:
            record = read_record(path)
        except FileNotFoundError:
            near = [other.name for other in path.parent.glob("*.json")]
            raise BadInput(f"there is no record {path}{did_you_mean(path.name, near)}") from None
        return METHODS.configure(record.method.label), [Finished(record, partial(read_ranks, path, record))]
    method, protocols = METHODS.configure(text), parse_protocols(protocol)
    if len(protocols) > 1:
        raise BadInput(f"one record is exported, of one protocol, not {len(protocols)}: give one with -p")
    runs = ResultStore(results).runs([label], protocols)
    found = [run for run in runs if (run.record.method.label, run.record.seed) == (method.label, seed)]
    if not found:
        known = did_you_mean(method.label, {run.record.method.label for run in runs if run.record.seed == seed})
        what = f"{method.label} on {label}, {protocol}, seed {seed}"
        raise BadInput(f"there is no record of {what}, below {results}{known}")
    if len(folds := {run.record.folds for run in found}) > 1:
        raise BadInput(
            f"{method.label} is recorded with {sorted(folds)} folds: give the path of one record's JSON file"
        )
    return method, sorted(found, key=lambda run: run.record.started, reverse=True)


def _rankings(runner: Runner, method: Configured[Method], found: list[Finished], top: int) -> list[Ranking]:
    """The rankings of both directions for the record that the present data, features and code would give."""
    record = found[0].record
    prints = runner.fingerprints(method, [record.protocol], record.seed)
    same = [run for run in found if run.record.fingerprint in prints]
    if not same:
        raise BadInput(
            f"{method.label} was recorded with other data, features or code than are here now: "
            "run it again with cran-bench run, then export"
        )
    part, test, images, texts = runner.embedded(method, record.protocol, record.seed)
    similarity = part.similarity
    if depends_on_query(similarity):
        raise BadInput(f"{method.label} has no single score of an image and a text: export another row")
    queries, query_of = as_queries(record.protocol, texts, test.image_of, len(test), similarity)
    with torch.no_grad(), in_full_precision(runner.device):
        problem = make_problem(images, queries, query_of, similarity, record.folds)
        now, then = count(problem, Clock(problem.device), backend_of(similarity)).arrays(), same[0].ranks.arrays()
    if not all(np.array_equal(now[name], then[name]) for name in now):
        raise BadInput("the embeddings give other ranks than the record has: run it again with --force, then export")
    image_ids, text_ids = test.escaped_ids()
    if record.protocol in ("mean", "single"):
        text_ids = [f"{name}#{'mean' if record.protocol == 'mean' else 0}" for name in image_ids]
    names = image_ids, text_ids
    return [Ranking(side, problem, *names, top, slug(method.label)) for side in get_args(Direction)]


@dataclass
class Ranking:
    """The candidates of one direction, ranked for each query.

    Attributes:
        direction: which.
        problem: embeddings, with the scores of the right answers.
        images: ids of the images, in the order of the problem.
        texts: ids of the texts, likewise.
        top: candidates listed for each query.
        tag: name of the run, a word.
        asked: number of queries so far.
        tied: number of them that list equal scores.
        cut: number of them whose last place falls among equal scores.
    """

    direction: Direction
    problem: Problem
    images: Sequence[str]
    texts: Sequence[str]
    top: int
    tag: str
    asked: int = 0
    tied: int = 0
    cut: int = 0

    def __iter__(self) -> Iterator[tuple[str, int, str, float, bool]]:
        """Yield a query and the rank, name and score of one of its best candidates, and whether it is right."""
        to_texts = self.direction == "i2t"
        queries, candidates = (self.images, self.texts) if to_texts else (self.texts, self.images)
        tasks = []
        for asked, other in (fold if to_texts else fold[::-1] for fold in self.problem.folds):
            tasks += [(part, other) for part in blocks(asked, max(1, BLOCK_BYTES // (8 * (other.stop - other.start))))]
        for part, other in track(tasks, f"ranking {self.direction}", len(tasks)):
            scores, is_right = self._scored(part, other) if to_texts else map(torch.t, self._scored(other, part))
            best, places = scores.sort(dim=1, descending=True, stable=True)
            listed = best[:, : self.top]
            self.asked += len(best)
            self.tied += int((listed[:, 1:] == listed[:, :-1]).any(dim=1).sum())
            self.cut += int((best[:, self.top : self.top + 1] == listed[:, -1:]).sum())
            places = places[:, : self.top]
            columns = places + other.start, listed, is_right.gather(1, places)
            for query, *lines in zip(queries[part], *(column.tolist() for column in columns), strict=True):
                for rank, (k, score, right) in enumerate(zip(*lines, strict=True), 1):
                    yield query, rank, candidates[k], score, right

    def write_run(self, file: IO[bytes]) -> None:
        """Write ``query Q0 candidate rank score tag``."""
        for query, rank, name, score, _ in self:
            file.write(f"{query} Q0 {name} {rank} {score!r} {self.tag}\n".encode())

    def write_qrels(self, file: IO[bytes]) -> None:
        """Write ``query 0 candidate 1`` for every right answer."""
        for text, row in zip(self.texts, self.problem.owners.tolist(), strict=False):  # folds leave the last ones out
            pair = (self.images[row], text) if self.direction == "i2t" else (text, self.images[row])
            file.write(f"{pair[0]} 0 {pair[1]} 1\n".encode())

    def _scored(self, images: slice, texts: slice) -> tuple[Tensor, Tensor]:
        """(I, T) scores, where those that tie with a query's best right answer equal it, and (I, T) whether right."""
        problem = self.problem
        height, width = tile_shape(problem, BLOCK_BYTES)
        with torch.no_grad(), in_full_precision(problem.device):
            bands = [[problem.scores(i, j) for j in blocks(texts, width)] for i in blocks(images, height)]
            scores = torch.cat([torch.cat(band, dim=1) for band in bands])
            rows = torch.arange(images.start, images.stop, device=problem.device)
            is_right = problem.image_of[texts] == rows[:, None]
            scores = torch.where(is_right, problem.positive[texts], scores)
            best = problem.best[images, None] if self.direction == "i2t" else problem.positive[None, texts]
            tolerance = problem.reach.of_all(images, texts, rounding)
            scores = torch.where((scores - best).abs() <= tolerance, best, scores)
        return scores, is_right


def _write_table(rankings: Sequence[Ranking], file: IO[bytes]) -> None:
    """Write a line for each listed candidate as CSV."""
    text = io.TextIOWrapper(file, "utf-8", newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for ranking in rankings:
        for query, rank, name, score, right in ranking:
            table.writerow([ranking.direction, query, rank, name, repr(score), int(right)])
    text.detach()
