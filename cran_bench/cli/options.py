"""What verbs share: the application, options, and how their texts are read."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cran_bench.errors import BadInput

if TYPE_CHECKING:
    from cran_bench.tables.tables import Table

app = typer.Typer(
    name="cran-bench",
    help="Benchmark suite for image-text retrieval.  Start with: cran-bench run --quick",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


DatasetOption = Annotated[
    str, typer.Option("-d", "--dataset", metavar="DATASET", help="Dataset, with options as in 'scenes[train=600]'.")
]
MethodsOption = Annotated[
    list[str] | None,
    typer.Option(
        "-m",
        "--method",
        metavar="METHOD",
        help="Methods: cca,cca:paper,'cca[dim=128]',mine.py:Mine; may be repeated. Default: all.",
    ),
]
DataOption = Annotated[
    Path, typer.Option("--data", envvar="CRAN_BENCH_DATA", metavar="DIR", help="Folder that holds the datasets.")
]
ResultsOption = Annotated[
    Path, typer.Option("--results", envvar="CRAN_BENCH_RESULTS", metavar="DIR", help="Folder of records.")
]
CacheOption = Annotated[
    Path,
    typer.Option("--cache", envvar="CRAN_BENCH_CACHE", metavar="DIR", help="Folder of features and fits."),
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="SPEC",
        help="Backbone: pixels[dim=512], onnx:FILE[tensor=NAME], torchvision:vgg19[weights=FILE], npy:FILE[ids=FILE] "
        "or data.",
    ),
]
RegionsOption = Annotated[
    str | None,
    typer.Option(
        "--regions",
        metavar="SPEC",
        help="Regions: boxes, grid, nanodet:FILE, torchvision:fasterrcnn_resnet50_fpn_v2, paper, selective_search, "
        "npy:FILE[boxes=FILE], data or none.",
    ),
]
VectorsOption = Annotated[
    str, typer.Option("--vectors", metavar="SPEC", help="Word vectors: ppmi-svd, glove:FILE or word2vec:FILE.")
]
SeedOption = Annotated[int, typer.Option("-s", "--seed", min=0, help="Seed of the fit.")]
QuickOption = Annotated[bool, typer.Option("--quick", help="Less data and training, as for run.")]
DrawingOption = Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Also draw it, as a PNG.")]
BackendOption = Annotated[
    str, typer.Option("--backend", metavar="NAME", help="How ranks are counted: auto, reference, torch or triton.")
]
BoundOption = Annotated[
    str, typer.Option("--bound", metavar="NAME", help="Of errors in low precision: measured, or proven.")
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="SPEC",
        help="Where rows are computed: local:N, dask://ADDRESS or slurm[queue=NAME,cores=8,memory=64GB,jobs=10].",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")]


def recorded(
    results: Path, datasets: Sequence[str] = (), protocols: Sequence[str] = (), methods: Sequence[str] = ()
) -> list[Table]:
    """Tables of the records below a folder; an empty choice is all.

    Raises:
        BadInput: there are none.
    """
    from cran_bench.records.store import ResultStore
    from cran_bench.tables.tables import build_tables

    store = ResultStore(results)
    gc.disable()  # or it looks through all records for cycles, over and over, as they are read
    try:
        runs, failures = store.runs(datasets, protocols, methods), store.failures(datasets, protocols, methods)
        knows_all = all(run.record.data.sources_sha for run in runs)
        kin = () if knows_all or not (protocols or methods) else store.runs(datasets)
    finally:
        gc.freeze()
        gc.enable()
    if not runs and not failures:
        raise BadInput(f"there are no such records below {store.root}: make some with cran-bench run")
    return build_tables(runs, failures, kin)
