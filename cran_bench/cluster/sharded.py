"""The backend `Sharded`: several machines count shards, all images against a block of texts, whose counts are summed.

The embeddings are stored in a shared folder.  Idle workers take shards and write their counts there; the process that
ranks takes shards as well, from the other end, and waits only for shards that someone is counting.  So it needs no
workers, and workers may die.  The counts equal those of one machine, because every pair is compared with the thresholds
of the whole problem.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from cran_bench.embeddings import Levels, Relations
from cran_bench.machine.arithmetic import in_full_precision
from cran_bench.machine.progress import say
from cran_bench.machine.storage import locked, write_atomically
from cran_bench.ranking.backends import choose
from cran_bench.ranking.filtering import Bound
from cran_bench.ranking.problem import STORED, Clock, KernelInfo, Problem, Tally, blocks, make_problem
from cran_bench.similarity import MultiLevel, Similarity

Help = Callable[[Path, int], AbstractContextManager[object]]
"""Offers the shards of a folder, of a given number, to workers for the duration of the context."""

FLOP = {"cpu": 2e12, "cuda": 1e15}
"""FLOP per shard: about fifteen seconds on two cores, or a few seconds on a GPU."""
FROM = 4
"""Smallest number of shards; with fewer, writing and reading the embeddings costs more than it saves."""

SIMILARITIES = {"Similarity": Similarity, "MultiLevel": MultiLevel}


@dataclass(frozen=True)
class Sharded:
    """A backend that shares problems of at least `FROM` shards with workers, and counts smaller ones itself.

    The clock receives the seconds of all shards, wherever they were counted.

    Attributes:
        folder: for embeddings and counts, on shared storage; its contents are deleted afterwards.
        help: offers shards to workers.
        backend: name of the backend that counts a shard, as in `choose`.
        bound: error bound of low-precision scores, as in `choose`.
        flop: FLOP per shard; None for `FLOP`.
    """

    folder: Path
    help: Help
    backend: str = "auto"
    bound: Bound = "measured"
    flop: float | None = None

    def count(self, problem: Problem, clock: Clock) -> tuple[Tally, KernelInfo]:
        flop = FLOP[problem.device.type] if self.flop is None else self.flop
        count = math.ceil(problem.flop / flop)
        if count < FROM or type(problem.similarity).__name__ not in SIMILARITIES:
            return choose(problem, self.backend, self.bound).count(problem, clock)
        shards = list(split_texts(problem, count))
        about = {"backend": self.backend, "bound": self.bound, "shards": [_bounds(shard) for shard in shards]}
        try:
            with self._shared(problem, about) as folder, self.help(folder, len(shards)):
                for waits in (False, True):
                    for number in reversed(range(len(shards))):
                        _count(problem, folder, number, about, waits)
                return _sum(problem, folder, shards, clock)
        except (OSError, safetensors.SafetensorError) as error:
            say(f"this ranking cannot be shared ({error}); counting on this machine only")
            return choose(problem, self.backend, self.bound).count(problem, clock)

    @contextlib.contextmanager
    def _shared(self, problem: Problem, about: dict[str, Any]) -> Iterator[Path]:
        """A folder with the stored problem, locked for the duration of the context."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            with locked(folder / STORED, "counting this"):
                write_problem(problem, folder, about)
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def split_texts(problem: Problem, count: int) -> Iterator[tuple[slice, slice]]:
    """Yield the images and texts of about `count` shards; each has all images that its texts are ranked against."""
    size = math.ceil(len(problem.texts) / count)
    for rows, columns in problem.folds:
        for part in blocks(columns, size):
            yield rows, part


def shard(problem: Problem, rows: slice, columns: slice) -> Problem:
    """The problem of ranking all images of a fold (`rows`) against some of its texts, with unchanged thresholds."""
    all_pairs = slice(0, rows.stop - rows.start), slice(0, columns.stop - columns.start)
    return replace(
        problem,
        images=problem.images.rows(rows),
        texts=problem.texts.rows(columns),
        image_of=problem.image_of[columns] - rows.start,
        lengths=None if problem.lengths is None else problem.lengths[rows],
        reach=problem.reach.rows(rows, columns),
        positive=problem.positive[columns],
        best=problem.best[rows],
        folds=(all_pairs,),
    )


def count_shard(folder: Path, number: int, device: torch.device) -> bool:
    """Count one shard of the problem in a folder, unless it has been or is being counted.

    Returns:
        Whether this call counted it.
    """
    try:
        problem, about = _problem_in(folder, device)
        return _count(problem, folder, number, about, waits=False)
    except FileNotFoundError:  # all shards have been counted and the folder deleted
        return False


@torch.no_grad()
def _count(problem: Problem, folder: Path, number: int, about: dict[str, Any], waits: bool) -> bool:
    path = folder / f"{number}.npz"
    if not folder.exists():  # the lock would create it again
        return False
    try:
        with FileLock(folder / f"{number}.lock", timeout=-1 if waits else 0):
            if path.exists() or not (folder / STORED).exists():
                return False
            part = shard(problem, *(slice(*ends) for ends in about["shards"][number]))
            clock = Clock(problem.device)
            with in_full_precision(problem.device):
                tally, kernel = choose(part, about["backend"], about["bound"]).count(part, clock)
            arrays = {name: value.cpu().numpy() for name, value in vars(tally).items()}
            how = json.dumps({"kernel": asdict(kernel), "similarity": clock.similarity, "rank": clock.rank})
            buffer = io.BytesIO()
            np.savez(buffer, how=np.array(how), **arrays)
            write_atomically(path, lambda file: file.write(buffer.getvalue()))
            return True
    except Timeout:
        return False


def _sum(problem: Problem, folder: Path, shards: list[tuple[slice, slice]], clock: Clock) -> tuple[Tally, KernelInfo]:
    tally, kernels = problem.tally(), []
    for number, (rows, columns) in enumerate(shards):
        with np.load(folder / f"{number}.npz", allow_pickle=False) as counts:
            for name, total in vars(tally).items():
                total[rows if name.endswith("images") else columns] += torch.from_numpy(counts[name]).to(total.device)
            how = json.loads(str(counts["how"]))
        kernels.append(KernelInfo(**how["kernel"]))
        clock.similarity += how["similarity"]
        clock.rank += how["rank"]
    return tally, KernelInfo(
        name="+".join(dict.fromkeys(kernel.name for kernel in kernels)),
        dtype="+".join(dict.fromkeys(kernel.dtype for kernel in kernels)),
        bound="+".join(dict.fromkeys(kernel.bound for kernel in kernels)),
        tolerance=max(kernel.tolerance for kernel in kernels),
        rescored=sum(kernel.rescored for kernel in kernels),
        error=max(kernel.error for kernel in kernels),
    )


def write_problem(problem: Problem, folder: Path, about: dict[str, Any]) -> None:
    """Store a problem for `count_shard`, with the JSON values `about`."""
    tensors = {"image_of": problem.image_of, "positive": problem.positive, "best": problem.best}
    kinds: dict[str, str] = {}
    for side, levels in (("images", problem.images), ("texts", problem.texts)):
        for name, level in vars(levels).items():
            if isinstance(level, Relations):
                kinds[side] = level.kind
                parts = {"first": level.first, "second": level.second, "norm": level.norm}
                tensors |= {f"{side}.{name}.{key}": part for key, part in parts.items() if part is not None}
            elif level is not None:
                tensors[f"{side}.{name}"] = level
    similarity = {"class": type(problem.similarity).__name__, "fields": asdict(problem.similarity)}
    known = {**about, "kinds": kinds, "folds": len(problem.folds), "similarity": similarity}
    whole = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    safetensors.torch.save_file(whole, folder / STORED, {"about": json.dumps(known)})


def forget_shards() -> None:
    """Release the embeddings of the last shard from memory."""
    _problem_in.cache_clear()


@functools.lru_cache(maxsize=1)
@torch.no_grad()
def _problem_in(folder: Path, device: torch.device) -> tuple[Problem, dict[str, Any]]:
    with safetensors.safe_open(folder / STORED, framework="pt", device=str(device)) as file:
        about: dict[str, Any] = json.loads(file.metadata()["about"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    fields = about["similarity"]["fields"]
    fields |= {"weights": tuple(fields["weights"])} if "weights" in fields else {}
    similarity = SIMILARITIES[about["similarity"]["class"]](**fields)
    images, texts = (_levels(tensors, side, about["kinds"].get(side)) for side in ("images", "texts"))
    with in_full_precision(device):
        problem = make_problem(images, texts, tensors["image_of"], similarity, about["folds"])
    return replace(problem, positive=tensors["positive"], best=tensors["best"]), about


def _levels(tensors: dict[str, Tensor], side: str, kind: Any) -> Levels:
    relations: Tensor | Relations | None = tensors.get(f"{side}.relations")
    if kind is not None:
        first, second = (tensors[f"{side}.relations.{name}"] for name in ("first", "second"))
        relations = Relations(first, second, tensors.get(f"{side}.relations.norm"), kind)
    globals_, regions, mask = (tensors.get(f"{side}.{name}") for name in ("globals", "regions", "mask"))
    return Levels(globals_, regions, relations, mask)


def _bounds(pair: tuple[slice, slice]) -> list[tuple[int, int]]:
    return [(part.start, part.stop) for part in pair]
