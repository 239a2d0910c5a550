"""Rows computed by other processes, on this machine or elsewhere: what these are told, and how their outcomes are kept.

They receive only strings and numbers: specs, seeds and the paths of folders.  They read data and features there and
write fits and records there, with the same locks as a run in one process.
"""

from __future__ import annotations

import functools
import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from cran_bench.contract import Method
from cran_bench.machine.environment import pick_device
from cran_bench.protocols import Protocol as ProtocolName
from cran_bench.registry import DATASETS, METHODS, Configured
from cran_bench.running.preparation import Prepared, load_prepared
from cran_bench.running.runner import Runner
from cran_bench.specs import Spec, parse_spec


@dataclass(frozen=True)
class Request:
    """What to run.

    Attributes:
        dataset: spec of the dataset.
        data: folder of the datasets.
        methods: specs, one per row.
        protocols: how texts become queries.
        seeds: seeds of the fits.
        test: spec and folder of another dataset whose test split is ranked; None for the dataset's own.
    """

    dataset: str
    data: Path
    methods: Sequence[str]
    protocols: Sequence[ProtocolName]
    seeds: Sequence[int]
    test: tuple[str, Path] | None = None


class AskedRow(NamedTuple):
    """A row of a run: the spec of its method, valid in any folder, the method, and the seed."""

    spec: str
    method: Configured[Method]
    seed: int

    def as_trial(self, trial: Configured[Method]) -> AskedRow:
        """A trial of this row."""
        return AskedRow(str(replace(parse_spec(self.spec), options=parse_spec(trial.label).options)), trial, self.seed)


@dataclass(frozen=True)
class RunSpec:
    """What the rows of a run have in common, as sent to workers.

    Attributes:
        data: spec of the dataset, folder of the datasets, folder of its features, spec of the word vectors, and file of
            the text features or ''; the same of the dataset whose test split is ranked, if it is another.
        folders: those of the records, and of fits and features.
        protocols: names of the protocols.
        device: such as `cpu` or `cuda`.
        options: the other fields of `Runner`.
    """

    data: tuple[tuple[str, str, str, str, str], ...]
    folders: tuple[str, str]
    protocols: tuple[ProtocolName, ...]
    device: str
    options: dict[str, Any]

    @classmethod
    def of(cls, runner: Runner, request: Request, device: str) -> RunSpec:
        """Describe a runner to workers that compute on `device`."""
        name, colon, file = runner.data.vectors.partition(":")
        vectors = f"{name}:{Path(file).resolve()}" if colon else name
        data = [(request.dataset, request.data, runner.data)]
        if request.test and runner.data.test_on:
            data.append((*request.test, runner.data.test_on))
        about = []
        for spec, where, made in data:
            folder, texts = str(made.features.folder.resolve()), str(made.texts.path.resolve()) if made.texts else ""
            about.append((with_full_path(spec), str(where.resolve()), folder, vectors, texts))
        return cls(
            tuple(about),
            (str(runner.results.resolve()), str(runner.cache.resolve())),
            tuple(request.protocols),
            device,
            {
                name: getattr(runner, name)
                for name in ("folds", "backend", "bound", "contrasts", "force", "name", "threads", "jobs")
            },
        )

    def runner(self) -> Runner:
        """The same runner in a worker.

        Raises:
            BadInput: data or features are missing on this machine.
        """
        results, cache = map(Path, self.folders)
        return Runner(_prepared(self.data), results, cache, pick_device(self.device), **self.options)


def with_full_path(spec: str) -> str:
    """A spec of a method or dataset, with the full paths of its plugin file or of given files, valid in any folder."""
    parsed = parse_spec(spec)
    if parsed.name.endswith(".py"):
        return str(replace(parsed, name=str(Path(parsed.name).resolve())))
    if parsed.name not in METHODS.with_argument():
        return spec
    texts = {key: str(Path(text).resolve()) if Path(text).is_file() else text for key, text in parsed.options.items()}
    return str(Spec(parsed.name, str(Path(parsed.argument).resolve()), texts))


@functools.lru_cache(maxsize=1)
def _prepared(about: tuple[tuple[str, str, str, str, str], ...]) -> Prepared:
    own, *other = [
        load_prepared(DATASETS.configure(spec), Path(data), Path(features), vectors, Path(texts) if texts else None)
        for spec, data, features, vectors, texts in about
    ]
    return own.tested_on(*other) if other else own


class Lines(io.TextIOWrapper):
    """A text stream that passes each complete line to a function; programs that are given it write to stderr."""

    def __init__(self, report: Callable[[str], object]) -> None:
        super().__init__(_Bytes(report), "utf-8", "backslashreplace", newline="\n", write_through=True)


class _Bytes(io.RawIOBase):
    name = "<stderr>"

    def __init__(self, report: Callable[[str], object]) -> None:
        self._report, self._begun, self._lock = report, b"", threading.RLock()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def write(self, data: Any) -> int:
        with self._lock:
            lines = (self._begun + data).split(b"\n")
            *lines, self._begun = (x[x.rstrip(b"\r").rfind(b"\r") + 1 :] for x in lines)  # as bars stand in the end
        for line in lines:
            if text := line.decode(errors="replace").rstrip():
                self._report(text)
        return len(data)
