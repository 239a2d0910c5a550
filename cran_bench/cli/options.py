"""Shared command-line options and parsing."""

from __future__ import annotations

import gc
import shlex
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cran_bench.errors import BadInput, escaped
from cran_bench.machine.progress import say
from cran_bench.machine.storage import cache_folder, require_folder, write_text

if TYPE_CHECKING:
    from cran_bench.records.schema import Failure
    from cran_bench.records.store import Finished
    from cran_bench.records.tasks import TaskName
    from cran_bench.tables.tables import Table

app = typer.Typer(
    name="cran-bench",
    help="Benchmark suite for image-text retrieval.  Start with: cran-bench run --quick",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

CACHE = cache_folder()
RESULTS = [Path("results")]


def echo(text: object) -> None:
    """Print to stdout, with control characters escaped."""
    typer.echo(escaped(str(text)))


def print_or_write(text: str, out: Path | None) -> None:
    """Print text, or write it to a file, with control characters escaped."""
    if out is None:
        echo(text)
    else:
        write_text(out, escaped(text))
        say(f"wrote {out}")


def typed(context: typer.Context, **changed: Any) -> str:
    """Return the command as it was typed, with other values of some of its parameters."""
    words = ["cran-bench", str(context.info_name)]
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        value = changed.get(name, context.params[name] if source and source.name == "COMMANDLINE" else None)
        for one in value if isinstance(value, list | tuple) else [value] if value else []:
            words += [parameter.opts[0], *([] if one is True else [str(one)])]
    return shlex.join(words)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"cran-bench {version('cran-bench')}")
        raise typer.Exit


@app.callback()
def _options(
    is_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None: ...


TestOn = Annotated[
    str | None,
    typer.Option("--test-on", metavar="DATASET", help="Rank the test split of this dataset; fits stay as they are."),
]
TestData = Annotated[
    Path | None, typer.Option("--test-data", metavar="DIR", help="Folder of the dataset of --test-on. Default: --data.")
]
Dataset = Annotated[
    str, typer.Option("-d", "--dataset", metavar="DATASET", help="Dataset, with options as in 'scenes[train=600]'.")
]
Datasets = Annotated[
    list[str] | None, typer.Option("-d", "--dataset", metavar="DATASET", help="Only these; may be repeated.")
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "-m",
        "--method",
        metavar="METHOD",
        help="Methods: cca,cca:paper,'cca[dim=128]',mine.py:Mine; may be repeated. Default: all rows of the paper.",
    ),
]
Protocol = Annotated[str, typer.Option("-p", "--protocol", metavar="NAME", help="captions, documents, mean or single.")]
Protocols = Annotated[str, typer.Option("-p", "--protocol", metavar="NAMES", help="Only these protocols.")]
Format = Annotated[str, typer.Option("-f", "--format", metavar="FORMAT", help="terminal, markdown, csv, latex, json.")]
Data = Annotated[Path, typer.Option("--data", envvar="CRAN_BENCH_DATA", metavar="DIR", help="Folder of the datasets.")]
Results = Annotated[
    Path, typer.Option("--results", envvar="CRAN_BENCH_RESULTS", metavar="DIR", help="Folder of records.")
]
ResultFolders = Annotated[
    list[Path],
    typer.Option(
        "--results", envvar="CRAN_BENCH_RESULTS", metavar="DIR", help="Folder of records; may be repeated, to merge."
    ),
]
Cache = Annotated[
    Path, typer.Option("--cache", envvar="CRAN_BENCH_CACHE", metavar="DIR", help="Folder of features and fits.")
]
Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="SPEC",
        help="Backbone: pixels[dim=512], onnx:FILE[tensor=NAME], torchvision:vgg19[weights=FILE], clip:FOLDER, "
        "npy:FILE[ids=FILE] or data.",
    ),
]
Regions = Annotated[
    str | None,
    typer.Option(
        "--regions",
        metavar="SPEC",
        help="Regions: boxes, grid, yolox:FILE, nanodet:FILE, torchvision:fasterrcnn_resnet50_fpn_v2, paper, "
        "selective_search, npy:FILE[boxes=FILE], data or none.",
    ),
]
Vectors = Annotated[
    str, typer.Option("--vectors", metavar="SPEC", help="Word vectors: ppmi-svd, glove:FILE or word2vec:FILE.")
]
TextEncoder = Annotated[
    str | None,
    typer.Option(
        "--text-encoder",
        metavar="SPEC",
        help="Encoder of texts, for text=encoder: npy:FILE[ids=FILE], onnx:FILE[vocab=FILE,pooling=mean], "
        "transformers:FOLDER[pooling=mean] or clip:FOLDER.",
    ),
]
Seed = Annotated[int, typer.Option("-s", "--seed", min=0, help="Seed of the fit.")]
Quick = Annotated[bool, typer.Option("--quick", help="Less data and training, as in run.")]
Out = Annotated[
    Path | None, typer.Option("-o", "--out", metavar="FILE", callback=require_folder, help="Write to a file.")
]
Wide = Annotated[bool, typer.Option("--wide", help="All columns, however wide the terminal is.")]
Drawing = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="FILE", callback=require_folder, help="Also draw it, as a PNG."),
]
Backend = Annotated[
    str, typer.Option("--backend", metavar="NAME", help="How ranks are computed: auto, reference, torch or triton.")
]
Bound = Annotated[
    str, typer.Option("--bound", metavar="NAME", help="Error bound for low-precision scores: measured or proven.")
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="SPEC",
        help="Workers that compute the rows: dask://ADDRESS or slurm[queue=NAME,cores=8,memory=64GB,jobs=10].",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "-j",
        "--jobs",
        min=1,
        metavar="N",
        help="Rows and parts of rows computed at a time. Default: CRAN_BENCH_JOBS, or as many as there are cores for; "
        "one on a GPU.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        help="Threads of each fit. Default: CRAN_BENCH_THREADS, or 1; on a GPU torch's own.",
    ),
]
Contrasts = Annotated[
    str,
    typer.Option(
        "--contrasts",
        metavar="swap",
        help="Also ask for the true caption beside a false one, made by exchanging words of it.",
    ),
]
Tune = Annotated[
    int | None,
    typer.Option(
        "--tune",
        metavar="N",
        help="Fit every row N times, as it is and with values from its search space; test the best on validation.",
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")]


def width() -> int:
    """Characters per line of a table: those of the terminal, at most 100."""
    return min(100, shutil.get_terminal_size((100, 24)).columns)


def load_runs(
    results: Path | Sequence[Path],
    datasets: Sequence[str] = (),
    protocols: Sequence[str] = (),
    methods: Sequence[str] = (),
) -> tuple[list[Finished], list[Failure], list[Finished]]:
    """Read the finished and failed runs below folders, and related ones that may reveal the sources of features.

    Args:
        results: one or several folders.
        datasets: labels of datasets; an empty selection means all.
        protocols: names of protocols.
        methods: labels of methods.

    Raises:
        BadInput: there are no records of this selection, or none at all in one of several folders.
    """
    from cran_bench.protocols import PROTOCOLS
    from cran_bench.records.store import read_folders, roots_of

    folders = [results] if isinstance(results, Path) else results
    gc.disable()  # or reading many records triggers collection after collection over all of them
    try:
        runs, failures = read_folders(folders, datasets, protocols, methods)
        know_sources = all(run.record.data.sources_sha for run in runs)
        related = [] if know_sources or not (protocols or methods) else read_folders(folders, datasets)[0]
    finally:
        gc.freeze()
        gc.enable()
    if not runs and not failures:
        kinds = (
            ("of", methods),
            ("on" if methods else "of", datasets),
            ("under protocol", () if len(protocols) == len(PROTOCOLS) else protocols),
        )
        chosen = f" -d {to_run(datasets[0])}" if len(datasets) == 1 else ""
        selection = "".join(f" {word} {' or '.join(names)}" for word, names in kinds if names)
        where = roots_of(folders)
        raise BadInput(f"there are no records{selection} below {where}: make some with cran-bench run{chosen}")
    return runs, failures, related


def load_tables(
    results: Path | Sequence[Path],
    datasets: Sequence[str] = (),
    protocols: Sequence[str] = (),
    methods: Sequence[str] = (),
    *tasks: TaskName,
) -> list[Table]:
    """Build tables of the records that `load_runs` reads, with the same errors.

    Args:
        results: as for `load_runs`, as are the next three.
        datasets: labels of datasets.
        protocols: names of protocols.
        methods: labels of methods.
        *tasks: which of `recall`, `category`, `contrasts` and `judgments`, where measured; by default recall.
    """
    from cran_bench.tables.tables import build_tables

    found, wanted = load_runs(results, datasets, protocols, methods), tasks or ("recall",)
    tables = [table for task in wanted for table in build_tables(*found, task)]
    if not tables:
        raise BadInput(f"none of these records has {MEASURED_BY[wanted[0]]}, and records of this version")
    return tables


MEASURED_BY = {
    "recall": "recalls: they need captions",
    "category": "figures by category: they need data with labels",
    "contrasts": "contrasts: they need data with contrasts, or run --contrasts swap, protocol captions without folds",
    "judgments": "judgments: they need data that people judged, protocol captions without folds",
}


def to_run(label: str) -> str:
    """The options of ``run -d`` for a label of a dataset."""
    from cran_bench.records.schema import TESTED_ON

    return " --test-on ".join(map(shlex.quote, label.split(TESTED_ON)))


def dataset_label(text: str) -> str:
    """The label of a dataset, or of one that was tested on another, as tables name it."""
    from cran_bench.records.schema import TESTED_ON
    from cran_bench.registry import DATASETS

    return TESTED_ON.join(DATASETS.configure(part).label for part in text.split(TESTED_ON))


def labels_of(methods: Sequence[str] | None) -> list[str]:
    """The labels of the methods that an option names; one that is given a file, which may be elsewhere, is its own."""
    from cran_bench.registry import METHODS, each
    from cran_bench.specs import parse_spec

    given = METHODS.with_argument()
    return [
        str(spec.without_folders()) if (spec := parse_spec(text)).name in given else METHODS.configure(text).label
        for text in each(methods or [])
    ]
