"""From data to records: prepare, run, bench."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cran_bench.errors import BadInput
from cran_bench.machine.progress import say
from cran_bench.machine.storage import cache_folder

from .options import (
    BackboneOption,
    BackendOption,
    BoundOption,
    CacheOption,
    ClusterOption,
    DataOption,
    DatasetOption,
    DeviceOption,
    MethodsOption,
    RegionsOption,
    ResultsOption,
    VectorsOption,
    app,
)

if TYPE_CHECKING:
    from cran_bench.dataset import Dataset
    from cran_bench.ranking.filtering import Bound
    from cran_bench.registry import Configured


@app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Dataset, such as scenes or flickr8k.")],
    data: DataOption = Path("data"),
    backbone: BackboneOption = None,
    regions: RegionsOption = None,
    cache: CacheOption = cache_folder(),  # noqa: B008 - the default is shown in --help
    force: Annotated[bool, typer.Option("--force", help="Extract again what is finished.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")] = False,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="DIR", help="Only write images (PNG) and captions, to look at.")
    ] = None,
    only_check: Annotated[
        bool,
        typer.Option("--check", help="Only say what is there, what is missing, and what extraction will take."),
    ] = False,
) -> None:
    """Validate a dataset and extract its features, once.  Can be stopped at any moment and started again.

    Example: cran-bench prepare flickr8k --data DIR --backbone "onnx:net.onnx[tensor=penultimate]"
    --regions nanodet:detector.onnx

    Example: cran-bench prepare mscoco --data DIR --check

    Example: cran-bench prepare scenes --export look/
    """
    from cran_bench.registry import DATASETS
    from cran_bench.running import preparation

    configured = DATASETS.configure(dataset)
    if only_check and (force or export is not None):
        raise BadInput("--check only looks: leave out --force and --export, or --check")
    if export is not None:
        _export(configured, data, export)
        return
    if only_check:
        found, complete = preparation.check(configured, data, cache, backbone, regions)
        typer.echo(found)
        if not complete:
            raise typer.Exit(1)
        return
    made = preparation.prepare(configured, data, cache, backbone, regions, force=force, skip_bad=skip_bad)
    typer.echo(f"{configured.label} is ready: {made.features.label}")


@app.command()
def run(
    methods: MethodsOption = None,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[METHOD]...", help="Methods may also be given without -m.")
    ] = None,
    dataset: DatasetOption = "scenes",
    protocol: Annotated[
        str,
        typer.Option("-p", "--protocol", metavar="NAMES", help="captions, documents, mean, single, or all."),
    ] = "captions",
    seeds: Annotated[str, typer.Option("-s", "--seeds", metavar="SEEDS", help="0, 0,3 or 0:5 (0 to 4).")] = "0",
    quick: Annotated[bool, typer.Option("--quick", help="Less data and training; not for comparison.")] = False,
    folds: Annotated[int, typer.Option("--folds", min=0, help="Mean over this many folds of the test images.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Fit and rank again what is recorded.")] = False,
    data: DataOption = Path("data"),
    backbone: BackboneOption = None,
    regions: RegionsOption = None,
    vectors: VectorsOption = "ppmi-svd",
    results: ResultsOption = Path("results"),
    cache: CacheOption = cache_folder(),  # noqa: B008
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    bound: BoundOption = "measured",
    cluster: ClusterOption = None,
) -> None:
    """Fit methods, rank the test split both ways and print the table.  What is recorded is reused.

    Example: cran-bench run

    Example: cran-bench run -m cca,cca:paper,mine.py:Mine -d flickr8k -p captions,documents -s 0:3

    Example: cran-bench run -d mscoco --cluster "slurm[queue=gpu,gres=gpu:1,cores=8,memory=64GB,jobs=10]"
    """
    from cran_bench.machine.processes import is_first, started
    from cran_bench.running import experiment
    from cran_bench.tables.tables import render

    workers = None
    if cluster is not None:
        from cran_bench.cluster.dispatch import ClusterWorkers

        if started() > 1:
            raise BadInput("torchrun shares one training, --cluster distributes rows: use one of them")
        workers = ClusterWorkers.of(cluster)
    made = experiment.run(
        [*(methods or []), *(more or [])],
        dataset,
        protocol,
        seeds,
        quick=quick,
        folds=folds,
        force=force,
        data=data,
        backbone=backbone,
        regions=regions,
        vectors=vectors,
        results=results,
        cache=cache,
        device=device,
        backend=backend,
        bound=cast("Bound", bound),
        workers=workers,
    )
    if is_first():
        typer.echo(render(made.tables, "terminal"))
        say(f"records: {made.store.root}")
        if made.failures:
            first = f"{made.failures[0].method_label}: {made.failures[0].error}"
            raise BadInput(f"{len(made.failures)} of {len(made.outcomes)} runs failed, the first is {first}")


@app.command()
def bench(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="similarity, ranking or training.")],
    images: Annotated[int, typer.Option("--images", min=100, help="How many images.")] = 5000,
    texts: Annotated[int, typer.Option("--texts", min=100, help="How many texts.")] = 25000,
    dim: Annotated[int, typer.Option("--dim", min=1, help="Dimensions of every vector.")] = 1024,
    method: Annotated[
        str, typer.Option("-m", "--method", metavar="METHOD", help="Method whose training step is timed.")
    ] = "cran",
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Also write HARDWARE.csv and HARDWARE.md there."),
    ] = None,
) -> None:
    """Time the kernels against what one would use instead.

    `similarity` scores three levels (Eq. 11) and ranks both ways, `ranking` one vector for each image and text, and
    `training` a training step of a method.

    Example: cran-bench bench similarity --texts 5000

    Example: cran-bench bench training -m "cran[width=full]" -o results/kernels
    """
    from cran_bench.bench.measuring import render, save
    from cran_bench.errors import did_you_mean
    from cran_bench.machine.environment import pick_device

    kinds = ("similarity", "ranking", "training")
    if what not in kinds:
        raise BadInput(f"there is no '{what}' to bench{did_you_mean(what, kinds)}; take {' or '.join(kinds)}")
    if texts < images:
        raise BadInput(f"every image has a text: give at least as many --texts as --images, not {texts} for {images}")
    where = pick_device(device)
    if what == "training":
        from cran_bench.bench.training import bench_training
        from cran_bench.registry import METHODS

        rows = list(bench_training(METHODS.configure(method), where))
    elif what == "similarity":
        from cran_bench.bench.similarity import bench_similarity

        rows = list(bench_similarity(images, texts, dim, where))
    else:
        from cran_bench.bench.ranking import bench_ranking

        rows = list(bench_ranking(images, texts, dim, where))
    typer.echo(f"{what}: {rows[0]['task']}\n\n{render(rows)}")
    if out is not None:
        say(f"wrote {save(rows, out)}")


def _export(dataset: Configured[Dataset], data: Path, folder: Path) -> None:
    from cran_bench.dataset import SPLITS
    from cran_bench.machine.progress import track
    from cran_bench.machine.storage import write_atomically, write_text
    from cran_bench.running.preparation import load_collection

    collection = load_collection(dataset, data)
    for split in SPLITS:
        rows = collection.splits[split]
        for row in track(rows.tolist(), f"writing {split}", total=len(rows)):
            image = collection.images.read(row)
            name = Path(collection.images.ids[row]).stem
            write_atomically(folder / split / f"{name}.png", partial(image.save, format="PNG"))
        texts, owner = collection.captions_of(rows)
        names = [Path(collection.images.ids[row]).stem for row in rows.tolist()]
        lines = [f"{names[image]}.png\t{text}\n" for text, image in zip(texts, owner.tolist(), strict=True)]
        write_text(folder / split / "captions.tsv", "".join(lines))
    say(f"wrote the images and captions.tsv of every split to {folder}")
