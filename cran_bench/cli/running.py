"""Compute: prepare, run, bench."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cran_bench.errors import BadInput, escaped
from cran_bench.machine.progress import say

from . import options
from .options import app, echo

if TYPE_CHECKING:
    from cran_bench.dataset import Dataset
    from cran_bench.ranking.filtering import Bound
    from cran_bench.registry import Configured


@app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Dataset, such as scenes or flickr8k.")],
    data: options.Data = Path("data"),
    backbone: options.Backbone = None,
    regions: options.Regions = None,
    text_encoder: options.TextEncoder = None,
    cache: options.Cache = options.CACHE,
    force: Annotated[bool, typer.Option("--force", help="Extract finished features again.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")] = False,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="DIR", help="Only export images (PNG) and captions.")
    ] = None,
    only_check: Annotated[
        bool,
        typer.Option("--check", help="Only report what is there, what is missing, and how long extraction will take."),
    ] = False,
) -> None:
    """Validate a dataset and extract its features, once.  It can be interrupted at any time and resumed.

    Example: cran-bench prepare flickr8k --data DIR --check

    Example: cran-bench prepare flickr8k --data DIR --backbone "onnx:net.onnx[tensor=penultimate]"
    --regions yolox:detector.onnx

    Example: cran-bench prepare scenes --export look/
    """
    from cran_bench.registry import DATASETS
    from cran_bench.running import preparation

    configured = DATASETS.configure(dataset)
    if only_check and (force or export is not None):
        raise BadInput("--check changes nothing: leave out either --check, or --force and --export")
    if export is not None:
        _export(configured, data, export)
        return
    if only_check:
        lines, is_complete = preparation.check(configured, data, cache, backbone, regions, text_encoder)
        echo(lines)
        raise typer.Exit(not is_complete)
    made = preparation.prepare(
        configured, data, cache, backbone, regions, force=force, skip_bad=skip_bad, text_encoder=text_encoder
    )
    encoded = f", captions by {made.texts.manifest.encoder}" if made.texts else ""
    echo(f"{configured.label} is ready: {made.features.label}{encoded}")


@app.command()
def run(
    context: typer.Context,
    methods: options.Methods = None,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[METHOD]...", help="Methods may also be given without -m.")
    ] = None,
    dataset: options.Dataset = "scenes",
    protocol: Annotated[
        str,
        typer.Option("-p", "--protocol", metavar="NAMES", help="captions, documents, mean, single, or all."),
    ] = "captions",
    seeds: Annotated[str, typer.Option("-s", "--seeds", metavar="SEEDS", help="0, 0,3 or 0:5 (0 to 4).")] = "0",
    everything: Annotated[bool, typer.Option("--all", help="Without methods: further methods too (see list).")] = False,
    test_on: options.TestOn = None,
    test_data: options.TestData = None,
    quick: Annotated[bool, typer.Option("--quick", help="Less data and training; not for comparison.")] = False,
    folds: Annotated[int, typer.Option("--folds", min=0, help="Average over this many folds of the test images.")] = 0,
    contrasts: options.Contrasts = "",
    tune: options.Tune = None,
    force: Annotated[bool, typer.Option("--force", help="Repeat recorded runs.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is recorded, what is to fit, and how long that takes.")
    ] = False,
    data: options.Data = Path("data"),
    backbone: options.Backbone = None,
    regions: options.Regions = None,
    vectors: options.Vectors = "ppmi-svd",
    text_encoder: options.TextEncoder = None,
    results: options.Results = Path("results"),
    cache: options.Cache = options.CACHE,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    bound: options.Bound = "measured",
    jobs: options.Jobs = None,
    threads: options.Threads = None,
    cluster: options.Cluster = None,
) -> None:
    """Fit methods, rank the test split in both directions and print the table.  Existing records are reused.

    Example: cran-bench run

    Example: cran-bench run --dry-run

    Example: cran-bench run -m cca,cca:paper,mine.py:Mine -d flickr8k -p captions,documents -s 0:3

    Example: cran-bench run -m cca,linear-head -d flickr8k --tune 20

    Example: cran-bench run -m cca -d flickr8k --test-on folder --test-data DIR

    Example: cran-bench run -m cca,scan -d flickr8k --contrasts swap

    Example: cran-bench run -d mscoco --cluster "slurm[queue=gpu,gres=gpu:1,cores=8,memory=64GB,jobs=10]"
    """
    from cran_bench.machine.processes import is_first, started
    from cran_bench.running import experiment
    from cran_bench.running.runner import row_count
    from cran_bench.tables.tables import render

    workers = None
    if cluster is not None:
        from cran_bench.cluster.dispatch import ClusterWorkers

        if started() > 1:
            raise BadInput("torchrun shares one training, --cluster distributes rows: use only one of them")
        workers = ClusterWorkers.of(cluster)
    made = experiment.run(
        [*(methods or []), *(more or [])],
        dataset,
        protocol,
        seeds,
        everything=everything,
        test_on=test_on,
        test_data=test_data,
        quick=quick,
        folds=folds,
        contrasts=contrasts,
        tune=tune,
        force=force,
        dry_run=dry_run,
        data=data,
        backbone=backbone,
        regions=regions,
        vectors=vectors,
        text_encoder=text_encoder,
        results=results,
        cache=cache,
        device=device,
        backend=backend,
        bound=cast("Bound", bound),
        jobs=jobs,
        threads=threads,
        workers=workers,
    )
    if is_first() and dry_run:
        echo(made.told)
    elif is_first():
        echo(render(made.tables, "terminal", width=options.width(), failures=False))
        say(f"records: {made.store.root}\n{made.told}")  # why rows failed is told here
        if failed := [outcome.address for outcome in made.outcomes if outcome.failure]:
            chosen = {name: dict.fromkeys(str(getattr(row, name)) for row in failed) for name in ("protocol", "seed")}
            narrow = {"protocol": ",".join(chosen["protocol"]), "seeds": ",".join(chosen["seed"])} if force else {}
            asked = [",".join(dict.fromkeys(made.specs[row.method] for row in failed))]
            again = options.typed(context, methods=asked, more=[], everything=False, **narrow)
            raise BadInput(f"{len(failed)} of {row_count(len(made.outcomes))} failed, try them again with: {again}")


@app.command()
def bench(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="similarity, ranking or training.")],
    images: Annotated[int, typer.Option("--images", min=100, help="Number of images.")] = 5000,
    texts: Annotated[int, typer.Option("--texts", min=100, help="Number of texts.")] = 25000,
    dim: Annotated[int, typer.Option("--dim", min=1, help="Dimension of every vector.")] = 1024,
    method: Annotated[
        str, typer.Option("-m", "--method", metavar="METHOD", help="Method whose training step is timed.")
    ] = "cran",
    device: options.Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Also write HARDWARE.csv and HARDWARE.md there."),
    ] = None,
) -> None:
    """Benchmark the kernels against common alternatives.

    `similarity` scores three levels (Eq. 11) and ranks in both directions, `ranking` does so for one vector per image
    and text, and `training` times a training step of a method.

    Example: cran-bench bench similarity --texts 5000

    Example: cran-bench bench training -m "cran[width=full]" -o results/kernels
    """
    from cran_bench.bench.measuring import render, save
    from cran_bench.errors import did_you_mean
    from cran_bench.machine.environment import pick_device

    kinds = ("similarity", "ranking", "training")
    if what not in kinds:
        raise BadInput(f"there is no benchmark '{what}'{did_you_mean(what, kinds)}")
    if texts < images:
        raise BadInput(f"every image needs a text: give at least as many --texts as --images, not {texts} for {images}")
    where = pick_device(device)
    if what == "training":
        from cran_bench.bench.training import bench_training
        from cran_bench.registry import METHODS

        rows = list(bench_training(METHODS.configure(method), where))
    else:
        from cran_bench.bench.ranking import bench_ranking
        from cran_bench.bench.similarity import bench_similarity

        timed = bench_similarity if what == "similarity" else bench_ranking
        rows = list(timed(images, texts, dim, where))
    echo(f"{what}: {rows[0]['task']}\n\n{render(rows)}")
    if out is not None:
        say(f"wrote {save(rows, out, where)}")


def _export(dataset: Configured[Dataset], data: Path, folder: Path) -> None:
    from cran_bench.dataset import SPLITS
    from cran_bench.machine.progress import track
    from cran_bench.machine.storage import slug, write_atomically, write_text
    from cran_bench.running.preparation import load_collection

    collection = load_collection(dataset, data)
    for split in SPLITS:
        rows = collection.splits[split].tolist()
        names = [f"{slug(str(Path(collection.images.ids[row]).with_suffix('')))}.png" for row in rows]
        for row, name in zip(track(rows, f"writing {split}", total=len(rows)), names, strict=True):
            write_atomically(folder / split / name, partial(collection.images.read(row).save, format="PNG"))
        texts, owner = collection.captions_of(collection.splits[split])
        lines = [f"{names[image]}\t{escaped(text, '')}\n" for text, image in zip(texts, owner.tolist(), strict=True)]
        write_text(folder / split / "captions.tsv", "".join(lines))
    keys = zip(collection.caption_keys(), collection.captions, strict=True)
    write_text(folder / "caption-ids.tsv", "".join(f"{key}\t{' '.join(text.split())}\n" for key, text in keys))
    say(f"wrote the images and captions.tsv of every split, and caption-ids.tsv, to {folder}")
