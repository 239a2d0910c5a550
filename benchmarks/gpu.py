"""What a person with an NVIDIA GPU runs first: are ranks right, how fast is it, and does it repeat?  Five minutes.

    benchmarks/gpu.sh                           or  tox -e gpu
    benchmarks/gpu.sh --device cpu --small      the script itself, on a machine without a GPU

Every stage is a process with its own time limit; one that fails or takes too long does not stop the next.  Timings go
to ``HARDWARE.csv`` and ``HARDWARE.md`` in the folder ``--out``, what is found to ``HARDWARE.json``, and all that is
printed to ``HARDWARE.log``.  The exit code is 0 if the stages that compare ranks ended and nothing was found wrong,
1 if not, and 2 without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

TOTAL = 290  # seconds of all stages together; the last ones get what is left
SHORTEST = 10  # seconds that a stage needs to import and begin
NO_GPU = 2  # exit code
CHEAPEST_FIRST = ("cca", "cfa", "kcca", "macc", "dcca", "cran-baseline", "cran-local", "corr-ae", "gmm-hglmm", "ccl")


class Finding(NamedTuple):
    """One line of a stage.

    Attributes:
        what: what was measured or compared.
        value: a JSON value.
        is_right: the outcome of a comparison; None where nothing is compared.
    """

    what: str
    value: Any
    is_right: bool | None = None

    def __str__(self) -> str:
        value = self.value
        if isinstance(value, dict):
            value = ", ".join(f"{name} {shown(number)}" for name, number in value.items())
        verdict = {True: "ok    ", False: "WRONG ", None: ""}[self.is_right]
        return f"  {verdict}{self.what}: {shown(value)}"


def shown(value: Any) -> str:
    """A value in a line."""
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


@dataclass
class Task:
    """What a stage is given.

    Attributes:
        device: name of the device.
        small: sizes for a processor.
        out: folder of the timings.
        work: folder of this run, removed at the end.
        seconds: limit of the stage.
    """

    device: str
    small: bool
    out: Path
    work: Path
    seconds: float
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until the stage would be ended, with a margin."""
        return self.started + 0.95 * self.seconds - 1 - time.monotonic()

    def pick(self) -> torch.device:
        """The device, with deterministic results."""
        from cran_bench.machine.environment import pick_device

        return pick_device(self.device)

    def findings(self, stage: str) -> list[Finding]:
        """What an earlier stage found."""
        path = self.work / f"{stage}.json"
        return [Finding(*line) for line in json.loads(path.read_text())] if path.exists() else []


# The stages, in order of worth -----------------------------------------------------------------------------------


def facts(task: Task) -> Iterator[Finding]:
    """What is here."""
    import torch

    from cran_bench.bench.measuring import chip, hardware
    from cran_bench.machine.environment import environment

    about = environment()
    yield Finding("cran-bench", f"{about['cran-bench']}, commit {about['commit']}")
    yield Finding("Python, torch", f"{about['python']}, {torch.__version__}, built for CUDA {torch.version.cuda}")
    yield Finding("machine", f"{about['cpu']}, {about['cores']} cores, {about['threads']} threads, {about['system']}")
    yield Finding("driver", driver())
    if not task.device.startswith("cpu"):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            reason = str(said[0].message).partition("(")[0].strip() if said else ""
            raise NoGpuError(without_gpu(torch.__version__, torch.version.cuda, driver(), reason))
    device = task.pick()
    yield Finding("hardware", hardware(device))
    yield Finding("chip", chip(device))
    if device.type == "cuda":
        about_gpu = torch.cuda.get_device_properties(device)
        free, total = torch.cuda.mem_get_info(device)
        yield Finding("memory, GiB", {"free": free / 2**30, "total": total / 2**30})
        capability = f"sm_{about_gpu.major}{about_gpu.minor}"
        yield Finding("multiprocessors", f"{about_gpu.multi_processor_count} of {capability}")
        yield Finding("torch was built for", " ".join(torch.cuda.get_arch_list()))
        yield Finding("cuDNN", torch.backends.cudnn.version())
    yield Finding("compiler", compiler())
    yield Finding("Triton", has_triton())
    x = torch.arange(4096, device=device)
    total = int((x[:, None] * x[:64]).sum())
    yield Finding("the device multiplies", total, total == 4095 * 2048 * 63 * 32)


class NoGpuError(Exception):
    """There is no GPU that torch can use."""


def without_gpu(version: str, cuda: str | None, nvidia: str, reason: str) -> str:
    """The sentence that is said then."""
    if cuda is None:
        came, do = f"torch {version}, which is built without CUDA", "install one with CUDA (https://pytorch.org)"
    elif nvidia == "none":
        came, do = "no NVIDIA driver (nvidia-smi does not run)", "install the driver, or pass the GPU to this container"
    else:
        came = f"driver {nvidia}, with which torch {version} for CUDA {cuda} finds none" + (
            f": {reason}" * bool(reason)
        )
        do = "update the driver or install a torch for an older CUDA, and check CUDA_VISIBLE_DEVICES"
    return f"expected an NVIDIA GPU, came {came}; {do} (--device cpu --small tries the script itself)"


def driver() -> str:
    """Version and state of the driver, or ``none``."""
    query = "driver_version,pstate,clocks.max.sm,power.limit,mig.mode.current"
    for what in (query, "driver_version"):
        with_format = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]
        try:
            said = subprocess.run(with_format, capture_output=True, text=True, timeout=10, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            continue
        return said.strip().replace("\n", "; ")
    return "none"


def compiler() -> str | None:
    """The C compiler with which Triton builds what starts its kernels."""
    return next(filter(None, map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang", "cc")))), None)


def has_triton() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


def identical(task: Task) -> Iterator[Finding]:
    """Ranks of every backend and precision, compared with those of the reference in float64 on the processor."""
    import torch

    from cran_bench.bench.similarity import precisions, three_levels
    from cran_bench.embeddings import Levels, on_device
    from cran_bench.machine.progress import say
    from cran_bench.ranking.backends import fused_scorer
    from cran_bench.ranking.filtering import Filtering
    from cran_bench.ranking.rank import rank
    from cran_bench.ranking.tiles import tiles_for
    from cran_bench.similarity import COSINE, DOT, MultiLevel

    device, processor = task.pick(), torch.device("cpu")
    # more than one tile in both directions on a GPU, and of odd sizes
    images, texts, image_of = three_levels(*((61, 307, 32) if task.small else (1203, 9017, 256)), processor)
    few = slice(61)
    own = slice(int((image_of < 61).sum()))
    masked = Levels(images.globals, images.regions, images.relations, torch.rand(len(images), 5) < 0.7)
    twice = texts.rows(torch.arange(len(texts)) // 2 * 2)
    levels = MultiLevel(cosine=True)
    cases = {
        "three levels": (images, texts, image_of, levels, 0),
        "one vector": (images.globals, texts.globals, image_of, COSINE, 0),
        "one vector, dot product, five folds": (images.globals, texts.globals, image_of, DOT, 5),
        "three levels, regions missing": (masked.rows(few), texts.rows(own), image_of[own], levels, 0),
        "three levels, equal texts": (images.rows(few), twice.rows(own), image_of[own], levels, 0),
    }
    plain: dict[str, Callable[[], Any]] = {"reference": lambda: "reference", "auto": lambda: "auto"}
    fused: dict[str, Callable[[], Any]] = {}
    compiled: dict[str, Callable[[], Any]] = {}
    for dtype in precisions(device):
        name = str(dtype).removeprefix("torch.")
        for bound in ("measured", "proven"):
            tiles = partial(tiles_for, dtype=dtype, is_compiled=False)
            plain[f"torch, {name}, {bound} bound"] = partial(Filtering, tiles, bound)
        if device.type == "cuda" and compiler():
            compiled[f"torch, {name}, compiled"] = partial(Filtering, partial(tiles_for, dtype=dtype, is_compiled=True))
        if device.type == "cuda" and compiler() and has_triton():
            fused[f"triton, {name}"] = lambda dtype=dtype: Filtering(partial(fused_scorer(device), dtype=dtype))
    if not (fused and compiled):
        say("  compiled kernels and the backend triton are left out: they need a GPU, a C compiler and Triton")
    # the quick ones first; a kernel is compiled for seconds
    turns = [
        *product(cases, plain.items()),
        *product(cases, fused.items()),
        *product(list(cases)[:1], compiled.items()),
    ]
    expected: dict[str, list[Any]] = {}
    for case, (name, make) in turns:
        left, right, owner, similarity, folds = cases[case]
        what = f"{case}: {name}"
        if task.left < 0:
            yield Finding(f"no time for {what}", None)
            continue
        if case not in expected:
            expected[case] = counts(rank(left, right, owner, similarity, backend="reference", folds=folds))
        there = on_device(left, device), on_device(right, device), owner.to(device)
        try:
            ranks = rank(*there, similarity, backend=make(), folds=folds)
        except Exception as error:  # kernels and compilers raise many kinds
            traceback.print_exc(file=sys.stdout)
            yield Finding(what, first_line(error), False)
            continue
        differing = sum(int((a != b).sum()) for a, b in zip(counts(ranks), expected[case], strict=True))
        used = ranks.kernel
        assert used is not None
        value = {"differing": differing, "kernel": f"{used.name} {used.dtype} {used.bound}", "rescored": used.rescored}
        yield Finding(what, value, not differing)


def counts(ranks: Any) -> list[Any]:
    """The integers of every query, in both directions."""
    return [getattr(side, name) for side in (ranks.i2t, ranks.t2i) for name in ("better", "tied", "right")]


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


def speed(task: Task) -> Iterator[Finding]:
    """One ranking in detail, then every row of `bench similarity` and `bench ranking`."""
    import torch

    from cran_bench.bench.measuring import gemm_peak, save, timed
    from cran_bench.bench.ranking import bench_ranking
    from cran_bench.bench.similarity import bench_similarity, precisions, three_levels
    from cran_bench.ranking.rank import rank
    from cran_bench.similarity import MultiLevel

    device = task.pick()
    types = [*precisions(device), *([torch.float16] if device.type == "cuda" else [])]
    peaks = {str(dtype).removeprefix("torch."): gemm_peak(dtype, device) for dtype in types}
    yield Finding("GEMM peak, TFLOP/s (float32 without TF32)", {name: peak / 1e12 for name, peak in peaks.items()})
    images, texts, dim = (100, 500, 32) if task.small else (5000, 25000, 1024)
    if device.type == "cuda":
        share = min(1.0, torch.cuda.mem_get_info(device)[0] / (12 << 30))
        images, texts = (max(100, int(share * size) // 100 * 100) for size in (images, texts))
    sides = three_levels(images, texts, dim, device)
    call = partial(rank, *sides, MultiLevel(cosine=True))
    title = f"ranking {images:,} x {texts:,}, D {dim:,}, three levels"
    try:
        first = timed(call, device, 1, warm=False)[0]
        seconds, ranks = timed(call, device, 5, warm=False)
    except Exception as error:  # kernels and compilers raise many kinds
        traceback.print_exc(file=sys.stdout)
        yield Finding(title, first_line(error), False)
    else:
        peak = peaks.get(ranks.kernel.dtype if ranks.kernel else "float64")
        flop = images * texts * dim * 2
        rates = {f"percent of peak, {n} products a pair": 100 * n * flop / seconds / peak for n in (26, 16) if peak}
        yield Finding(title, {"first, s": first, "then, ms": 1000 * seconds, **rates, "kernel": str(ranks.kernel)})
        yield from in_detail(title, call, device)
    del sides, call
    for bench in (bench_similarity, bench_ranking):
        rows: list[dict[str, Any]] = []
        left = bench(images, texts, dim, device)
        while task.left > 0:
            try:
                row = next(left)
            except StopIteration:
                break
            except Exception as error:
                traceback.print_exc(file=sys.stdout)
                yield Finding(bench.__name__, first_line(error), False)
                break
            rows.append(row)
            save(rows, task.out, device)
            wanted = (
                "seconds",
                "peak_percent",
                "times_faster",
                "rescored",
                "ranks",
                "launches",
                "waits",
                "idle_percent",
            )
            value = {name: row[name] for name in wanted if row.get(name) is not None}
            is_right = None if "ranks" not in row else row["ranks"].startswith("identical")
            yield Finding(f"{row['bench']}: {row['what']}, {row['dtype']}", value, is_right)


def in_detail(title: str, call: Callable[[], object], device: torch.device) -> Iterator[Finding]:
    """What a device does during a call, and its longest kernels."""
    from cran_bench.bench.measuring import profiled

    try:
        seen = profiled(call, device)
    except RuntimeError as error:
        yield Finding(f"{title}: kernels", first_line(error))
        return
    if seen is None:
        yield Finding(f"{title}: kernels", "none recorded; CUPTI may be missing, or not allowed here")
        return
    times = {"busy, ms": 1000 * seen.busy, "idle, ms": 1000 * seen.idle}
    numbers = {"kernels": seen.number, "launches": seen.launches, "waits": seen.waits}
    yield Finding(f"{title}: kernels", numbers | times)
    for name, number, seconds in seen.longest[:12]:
        yield Finding(f"    {name[:90]}", {"number": number, "ms": 1000 * seconds})


def rows(task: Task) -> Iterator[Finding]:
    """The rows of `run --quick`, the cheapest first."""
    from cran_bench.registry import METHODS

    usable = METHODS.usable()
    ordered = [name for name in CHEAPEST_FIRST if name in usable]
    ordered += [name for name in usable if name not in CHEAPEST_FIRST]
    yield from fitted(task, ordered[:1] if task.small else ordered, "first", task.device)


def rows_again(task: Task) -> Iterator[Finding]:
    """The same rows once more in another process: ranks and metrics must be equal."""
    yield from compared(task, "again", task.device)


def rows_on_the_cpu(task: Task) -> Iterator[Finding]:
    """The same rows on the processor; the differences in recall are printed, not judged."""
    if task.device != "cpu":
        yield from compared(task, "cpu", "cpu")


def fitted(task: Task, methods: Sequence[str], folder: str, device: str) -> Iterator[Finding]:
    """A finding for each row, by its label: sha256 of the ranks, metrics and seconds."""
    import cran_bench
    from cran_bench.registry import DATASETS
    from cran_bench.running.preparation import prepare

    if task.small:
        os.environ.setdefault("CRAN_BENCH_JOBS", "1")
    dataset = "scenes:quick" + "[train=60,val=20,test=20]" * task.small
    features = task.work / "features"
    if not features.exists():
        prepare(DATASETS.configure(dataset), task.work, features)
    if not (task.work / folder).exists():
        shutil.copytree(features, task.work / folder)
    for method in methods:
        if task.left < 0:
            yield Finding(f"no time for {method}", None)
            continue
        start = time.monotonic()
        made = cran_bench.run(
            method,
            dataset.replace(":quick", ""),
            quick=True,
            device=device,
            data=task.work,
            cache=task.work / folder,
            results=task.work / "results" / folder,
        )
        for failure in made.failures:
            yield Finding(method, failure.error, False)
        for record in made.records:
            seconds = {"s": time.monotonic() - start, "fit, s": record.seconds.fit}
            figures = {name: record.metrics[name] for name in sorted(record.metrics)}
            yield Finding(method, {"ranks": record.ranks_sha, **seconds, "metrics": figures})


def compared(task: Task, folder: str, device: str) -> Iterator[Finding]:
    """The rows of the stage `rows` as far as there is time, compared with what it found."""
    earlier = {line.what: line.value for line in task.findings("rows") if isinstance(line.value, dict)}
    for method, before in earlier.items():
        if task.left < (before["s"] if folder == "again" else 0):
            yield Finding(f"no time for {method}", None)
            continue
        for line in fitted(task, [method], folder, device):
            if not isinstance(line.value, dict):
                yield line
                continue
            now = line.value
            is_equal = (now["ranks"], now["metrics"]) == (before["ranks"], before["metrics"])
            changes = {n: [old, now["metrics"][n]] for n, old in before["metrics"].items() if old != now["metrics"][n]}
            value = {"equal": is_equal, "s": now["s"], "s before": before["s"], **changes}
            yield Finding(method, value, is_equal if folder == "again" else None)


def training(task: Task) -> Iterator[Finding]:
    """`bench training` of CRAN in full width, and one step in detail."""
    from cran_bench.bench.measuring import save
    from cran_bench.bench.training import WARM, bench_training
    from cran_bench.methods.cran import benchmark
    from cran_bench.registry import METHODS

    if task.small:
        benchmark.IMAGES, benchmark.STEPS["compact"] = 60, 2
    device = task.pick()
    method = METHODS.configure("cran" if task.small else "cran[width=full]")
    rows = []
    for row in bench_training(method, device):
        rows.append(row)
        save(rows, task.out, device)
        value = {"steps a second": 1 / row["seconds"], "percent of GEMM peak": row["peak_percent"]}
        yield Finding(f"{row['task']}: {row['what']}", {**value, "largest error": row["error"]})
    if task.left > 0:
        step = method.build().training_benchmark(device).variants["ours"]()  # type: ignore[attr-defined]
        for number in range(WARM):
            step(number)
        yield from in_detail("a training step", partial(step, WARM), device)


def memory(task: Task) -> Iterator[Finding]:
    """The memory that fits take on the device, compared with the estimates of their methods."""
    from cran_bench.bench.measuring import memory as measured
    from cran_bench.registry import DATASETS, METHODS
    from cran_bench.running.fits import FitStore
    from cran_bench.running.memory import estimate
    from cran_bench.running.preparation import find_prepared, prepare

    device = task.pick()
    dataset = DATASETS.configure("scenes:quick" + "[train=60,val=20,test=20]" * task.small)
    features = task.work / "features"
    if not features.exists():
        prepare(dataset, task.work, features)
    prepared = find_prepared(dataset, task.work, features)
    train, val = (prepared.split(name, "captions", device) for name in ("train", "val"))
    methods = ["cca", "kcca", "dcca:quick", "corr-ae:quick", "cran:paper[max_epochs=1]"]
    for spec in methods[:1] if task.small else methods:
        if task.left < 0:
            return
        method = METHODS.configure(spec).build()
        estimated = estimate(method, train, val)
        with measured(device) as used:
            FitStore(task.work / "fits", prepared.identity, train, val, device).fitted(method, 0, spec)
        value = {"MiB": used.peak / 2**20, "estimated": estimated / 2**20}
        yield Finding(spec, value, used.peak <= estimated)


class Stage(NamedTuple):
    """A stage and its share of the time.

    Attributes:
        run: yields what it finds.
        seconds: its limit, imports and compilation included.
        decides: whether it must end and compare something for the exit code 0.
    """

    run: Callable[[Task], Iterator[Finding]]
    seconds: float
    decides: bool = False


STAGES = {
    "facts": Stage(facts, 30),
    "identical": Stage(identical, 75, decides=True),
    "speed": Stage(speed, 75),
    "rows": Stage(rows, 45),
    "rows again": Stage(rows_again, 45, decides=True),
    "training": Stage(training, 30),
    "memory": Stage(memory, 25),
    "rows on the CPU": Stage(rows_on_the_cpu, 25),
}


# Running them ------------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """How a stage ended.

    Attributes:
        state: ``done``, ``failed``, ``stopped`` by its time limit, or ``left out`` for want of time.
        code: the exit code of its process.
        seconds: how long it took.
    """

    state: str
    code: int
    seconds: float


@dataclass
class Log:
    """All that is printed, which is also written to a file."""

    path: Path

    def tell(self, text: str) -> None:
        """Print text as it is."""
        sys.stdout.write(text)
        sys.stdout.flush()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)


def supervise(command: Sequence[str], seconds: float, log: Log) -> Outcome:
    """Run a command in a process group of its own, print what it says, and kill the group after its time."""
    start, is_late = time.monotonic(), False
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    assert process.stdout is not None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not is_late:
                if selector.select(timeout=0.2):
                    said = os.read(process.stdout.fileno(), 1 << 16)
                    if not said:
                        break
                    log.tell(said.decode(errors="replace"))
                elif process.poll() is not None:  # what it started may keep the pipe open
                    break
                is_late = time.monotonic() - start > seconds
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0 if is_late else 5)
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the driver
            process.wait(timeout=5)
        process.stdout.close()
    code = -signal.SIGKILL if process.returncode is None else process.returncode
    return Outcome("stopped" if is_late else "failed" if code else "done", code, time.monotonic() - start)


def child(stage: str, task: Task) -> int:
    """Run a stage in this process; what it has found is on the disk at any time.  Returns the exit code."""
    found: list[Finding] = []
    path = task.work / f"{stage}.json"
    try:
        for finding in STAGES[stage].run(task):
            found.append(finding)
            sys.stdout.write(f"{finding}\n")
            sys.stdout.flush()
            part = path.with_suffix(".part")
            part.write_text(json.dumps(found, default=str))
            part.replace(path)
    except NoGpuError as error:
        sys.stdout.write(f"{error}\n")
        return NO_GPU
    except Exception:  # the next stage follows
        traceback.print_exc(file=sys.stdout)
        return 1
    return 0


def has_passed(outcome: Outcome, found: Sequence[Finding]) -> bool:
    """Whether a stage ended, compared something, and found nothing wrong."""
    verdicts = [line.is_right for line in found if line.is_right is not None]
    return outcome.state == "done" and bool(verdicts) and all(verdicts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages, or one of them.  Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--small", action="store_true", help="sizes for a processor")
    parser.add_argument("--out", type=Path, default=Path("results/kernels"), help="folder of the timings")
    parser.add_argument("--only", default=",".join(STAGES), help="stages, separated by commas")
    for internal in ("--stage", "--work", "--seconds"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stage:
        task = Task(options.device, options.small, options.out, Path(options.work), float(options.seconds))
        return child(options.stage, task)
    unknown = [name for name in options.only.split(",") if name not in STAGES]
    if unknown:
        parser.error(f"expected stages among {', '.join(STAGES)}, came '{unknown[0]}'; give these, or leave out --only")
    if options.device.startswith("cpu") and options.out == Path("results/kernels"):
        options.out = Path(tempfile.mkdtemp(prefix="gpu-"))  # not a measurement to keep
    with tempfile.TemporaryDirectory(prefix="gpu-work-") as work:
        return in_turn(options, Path(work))


def in_turn(options: argparse.Namespace, work: Path) -> int:
    """Run the stages one after the other, print a summary, and write log and JSON.  Returns the exit code."""
    log, start, report = Log(work / "log"), time.monotonic(), {}
    verdicts: dict[str, bool] = {}
    try:
        for name in options.only.split(","):
            stage, seconds = STAGES[name], min(STAGES[name].seconds, TOTAL - (time.monotonic() - start))
            log.tell(f"\n== {name}: {(stage.run.__doc__ or '').partition(chr(10))[0]} (at most {seconds:.0f} s)\n")
            command = [sys.executable, "-u", __file__, "--stage", name, "--device", options.device]
            command += ["--out", options.out, "--work", work, "--seconds", seconds] + ["--small"] * options.small
            outcome = Outcome("left out", 0, 0.0)
            if seconds > min(SHORTEST, stage.seconds / 2):
                outcome = supervise([str(word) for word in command], seconds, log)
            if outcome.code == NO_GPU and name == "facts":
                return NO_GPU
            if outcome.state != "done":
                log.tell(f"  {outcome.state} after {outcome.seconds:.0f} s\n")
            found = Task(options.device, options.small, options.out, work, 0).findings(name)
            report[name] = {**outcome._asdict(), "found": [line._asdict() for line in found]}
            if stage.decides:
                verdicts[name] = has_passed(outcome, found)
        wrong = [line for stage in report.values() for line in stage["found"] if line["is_right"] is False]
        code = 1 if wrong or not all(verdicts.values()) else 0
    except KeyboardInterrupt:
        code = 130
    facts_found = report.get("facts", {}).get("found", [])
    hardware = next((line["value"] for line in facts_found if line["what"] == "hardware"), "unknown")
    seconds = time.monotonic() - start
    log.tell(f"\n== summary: {hardware}, {seconds:.0f} s\n{summary(report)}\n")
    decided = ", ".join(f"{name} {'PASSED' if passed else 'NOT PASSED'}" for name, passed in verdicts.items())
    log.tell(f"{decided or 'no ranks were compared'}; written: {options.out / hardware}.*\n")
    options.out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(log.path, options.out / f"{hardware}.log")
    written = {"exit_code": code, "seconds": seconds, "device": options.device, "small": options.small}
    text = json.dumps({**written, "stages": report}, indent=1)
    (options.out / f"{hardware}.json").write_text(f"{text}\n")
    return code


def summary(report: dict[str, Any]) -> str:
    """A line for each stage."""
    lines = []
    for name, stage in report.items():
        verdicts = [line["is_right"] for line in stage["found"] if line["is_right"] is not None]
        wrong = [line["what"] for line in stage["found"] if line["is_right"] is False]
        lines.append(
            f"{name:<16} {stage['state']:<8} {stage['seconds']:>4.0f} s  {len(stage['found']):>3} findings"
            + (f", {sum(verdicts)} of {len(verdicts)} right" if verdicts else "")
            + "".join(f"\n    WRONG {what}" for what in wrong)
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
