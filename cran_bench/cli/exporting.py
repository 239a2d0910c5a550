"""Commands that write what is recorded for other programs and for people: export records, card, figures, rankings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cran_bench.errors import BadInput, did_you_mean
from cran_bench.machine.progress import say
from cran_bench.machine.storage import require_folder

from . import options
from .options import app, dataset_label, labels_of, load_runs, load_tables, print_or_write

exports = typer.Typer(help="Write what is recorded for other programs and for papers.", no_args_is_help=True)
app.add_typer(exports, name="export")


@exports.command()
def records(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", callback=require_folder, help="FILE.csv, or FILE.parquet (extra parquet).")
    ],
    datasets: options.Datasets = None,
    protocol: options.Protocols = "all",
    methods: options.Methods = None,
    results: options.ResultFolders = options.RESULTS,
) -> None:
    """Write every record as a line of one table, with older versions of rows and with failed runs.

    The column `shown` says which ones tables show, `status` which ones failed.

    Example: cran-bench export records records.csv

    Example: cran-bench export records flickr8k.parquet -d flickr8k --results results/reference
    """
    from cran_bench.protocols import parse_protocols
    from cran_bench.tables.record_frame import record_frame, require_ending, write_frame

    require_ending(file)
    wanted = [dataset_label(text) for text in datasets or ()]
    found = load_runs(results, wanted, parse_protocols(protocol), labels_of(methods))
    frame = record_frame(*found)
    write_frame(frame, file)
    say(f"wrote {file}: {len(frame):,} runs, {frame['shown'].sum():,} of them shown in tables")


@exports.command()
def card(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="A row, by its label or as in run.")],
    datasets: options.Datasets = None,
    protocol: options.Protocols = "all",
    out: options.Out = None,
    results: options.ResultFolders = options.RESULTS,
) -> None:
    """Print all that is known of a row as Markdown: data, figures, hyper-parameters, cost, code, limits, the command.

    Example: cran-bench export card cca -d flickr8k -p captions -o cca.md --results results/reference
    """
    from cran_bench.protocols import parse_protocols
    from cran_bench.records.tasks import TASKS
    from cran_bench.registry import METHODS
    from cran_bench.specs import parse_spec
    from cran_bench.tables.card import markdown

    wanted = [dataset_label(text) for text in datasets or ()]
    tables = load_tables(results, wanted, parse_protocols(protocol), (), *TASKS)
    known = {row.label for table in tables for row in table.rows}
    is_installed = parse_spec(method).name in (*METHODS.names(), *METHODS.with_argument())
    (label,) = [method] if method in known or not is_installed else labels_of([method])
    if label not in known:
        raise BadInput(f"there is no record of {label}{did_you_mean(label, known)}")
    print_or_write(markdown([(row, table) for table in tables for row in table.rows if row.label == label]), out)


@exports.command()
def figures(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; files of the same names are replaced.")],
    datasets: options.Datasets = None,
    protocol: options.Protocols = "all",
    methods: options.Methods = None,
    formats: Annotated[str, typer.Option("-f", "--format", metavar="NAMES", help="svg, pdf or both.")] = "svg,pdf",
    results: options.ResultFolders = options.RESULTS,
) -> None:
    """Draw figures for papers: each table's headline, quality against fit time, and the paper's tables beside yours.

    They are as wide as a column, legible in black and white, and the same bytes every time.

    Example: cran-bench export figures figures -d flickr8k --results results/reference

    Example: cran-bench export figures figures -d scenes -f pdf
    """
    from cran_bench.protocols import parse_protocols
    from cran_bench.records.tasks import TASKS
    from cran_bench.report.figures import write_figures

    wanted = [dataset_label(text) for text in datasets or ()]
    tables = load_tables(results, wanted, parse_protocols(protocol), labels_of(methods), *TASKS)
    files = write_figures(tables, folder, [name.strip() for name in formats.split(",")])
    say(f"wrote {len(files)} files below {folder}")


@exports.command()
def rankings(
    record: Annotated[
        str, typer.Argument(metavar="RECORD", help="Path of a record's JSON file, or a method as in run.")
    ],
    trec: Annotated[
        Path | None, typer.Option("--trec", metavar="DIR", help="Write i2t.run, i2t.qrels, t2i.run, t2i.qrels there.")
    ] = None,
    topk: Annotated[
        Path | None,
        typer.Option("--topk", metavar="FILE", callback=require_folder, help="Write one table, a CSV file."),
    ] = None,
    top: Annotated[int, typer.Option("-n", "--top", min=1, help="Candidates listed for each query.")] = 1000,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    dataset: options.Dataset = "scenes",
    protocol: options.Protocol = "captions",
    seed: options.Seed = 0,
    test_on: options.TestOn = None,
    test_data: options.TestData = None,
    data: options.Data = Path("data"),
    backbone: options.Backbone = None,
    regions: options.Regions = None,
    vectors: options.Vectors = "ppmi-svd",
    text_encoder: options.TextEncoder = None,
    results: options.Results = Path("results"),
    cache: options.Cache = options.CACHE,
    device: options.Device = "auto",
) -> None:
    """Write the rankings behind a record, for trec_eval, ranx and other tools, or as a table.

    The test split is embedded again with the stored fit, and its ranks must be those of the record.

    Example: cran-bench export rankings cca --trec exported

    Example: cran-bench export rankings results/runs/flickr8k/captions/cca-tuned-s0-0123456789ab.json --data DIR
    --topk best.csv --top 10
    """
    from cran_bench.viewing.export import export as write_rankings

    write = partial(write_rankings, record, trec, topk, top=top, force=force, device=device)
    write = partial(write, dataset=dataset, protocol=protocol, seed=seed, test_on=test_on, test_data=test_data)
    write = partial(write, backbone=backbone, regions=regions, vectors=vectors, text_encoder=text_encoder)
    for path in write(data=data, results=results, cache=cache):
        say(f"wrote {path}")
