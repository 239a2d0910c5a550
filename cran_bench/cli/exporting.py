"""What other programs read: export rankings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cran_bench.machine.progress import say
from cran_bench.machine.storage import require_folder

from . import options
from .options import app

exports = typer.Typer(help="Write what is recorded for other programs and for papers.", no_args_is_help=True)
app.add_typer(exports, name="export")


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
    protocol: Annotated[
        str, typer.Option("-p", "--protocol", metavar="NAME", help="captions, documents, mean or single.")
    ] = "captions",
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
