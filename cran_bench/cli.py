"""The command line.  Heavy modules are imported by the verbs that need them, so that ``--help`` is quick."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from cran_bench.errors import BadInput
from cran_bench.progress import say

if TYPE_CHECKING:
    from cran_bench.contract import Explaining
    from cran_bench.counting import Bound
    from cran_bench.dataset import Collection, Dataset
    from cran_bench.registry import Configured, Registry
    from cran_bench.tables import Table

app = typer.Typer(
    name="cran-bench",
    help="Benchmark suite for image-text retrieval.  Start with: cran-bench run --quick",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "cran-bench"


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
ImagesOption = Annotated[
    str | None,
    typer.Option(
        "--images-with",
        metavar="SPEC",
        help="Backbone: pixels[dim=512], onnx:FILE[tensor=NAME], torchvision:vgg19[weights=FILE], npy:FILE[ids=FILE] "
        "or data.",
    ),
]
RegionsOption = Annotated[
    str | None,
    typer.Option(
        "--regions-with",
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
DeviceOption = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")]


@app.command("list")
def list_plugins() -> None:
    """Methods and datasets that are installed, and those whose import failed.

    Example: cran-bench list
    """
    from cran_bench.registry import DATASETS, METHODS

    for registry in (METHODS, DATASETS):
        typer.echo(f"{registry.kind}s")
        for name in registry.names():
            plugin = registry.plugins[name]
            presets = f"  [{', '.join(plugin.presets)}]" if plugin.presets else ""
            typer.echo(f"  {name:<18} {_first_line(plugin.cls, registry)}{presets}")
        for name, reason in registry.failures.items():
            typer.echo(f"  {name:<18} could not be imported: {reason}")


@app.command()
def info(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A method or dataset, or the method file.py:Name.")
    ] = None,
    pages: Annotated[
        Path | None, typer.Option("--pages", metavar="DIR", help="Write a page for every method instead.")
    ] = None,
    results: ResultsOption = Path("results/reference"),
) -> None:
    """What a method or dataset is, its fields with their values, and its presets.

    Example: cran-bench info cca

    Example: cran-bench info --pages docs/methods
    """
    if (name is None) == (pages is None):
        raise BadInput("info takes a name, or --pages DIR for all methods: cran-bench info cca")
    if pages is not None:
        from cran_bench.method_pages import method_pages
        from cran_bench.storage import write_text

        for file, text in method_pages(_recorded(results)).items():
            write_text(pages / file, text)
        say(f"wrote a page for every method to {pages}")
        return
    assert name is not None
    _print_info(name)


def _print_info(name: str) -> None:
    import dataclasses
    import inspect

    from cran_bench.errors import did_you_mean
    from cran_bench.registry import DATASETS, METHODS
    from cran_bench.specs import format_value, parse_spec

    head = parse_spec(name).name
    if not head.endswith(".py") and head not in (*METHODS.names(), *DATASETS.names()):
        raise BadInput(
            f"there is no method or dataset '{head}'{did_you_mean(head, METHODS.names() + DATASETS.names())}"
        )
    configured: Configured[Any] = (DATASETS if head in DATASETS.names() else METHODS).configure(name)
    plugin = configured.plugin
    module = inspect.getdoc(sys.modules[plugin.cls.__module__])
    described = [c for c in plugin.cls.__mro__ if dataclasses.is_dataclass(c) and "__doc__" in vars(c)]
    typer.echo("\n\n".join([module or "", *(inspect.cleandoc(c.__doc__ or "") for c in described)]) + "\n")
    values = configured.build()
    for field in dataclasses.fields(plugin.cls):
        typer.echo(f"  {field.name:<14} {field.type!s:<22} {format_value(getattr(values, field.name))}")
    if head not in DATASETS.names():
        typer.echo(f"  {'unit':<14} {'what to train on':<22} captions, or documents for the protocol documents")
    for preset, fields in plugin.presets.items():
        changes = ", ".join(f"{key}={format_value(value)}" for key, value in fields.items())
        typer.echo(f"  preset {preset:<10} {changes or 'the defaults above'}")


@app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Dataset, such as scenes or flickr8k.")],
    data: DataOption = Path("data"),
    images_with: ImagesOption = None,
    regions_with: RegionsOption = None,
    cache: CacheOption = _cache(),  # noqa: B008 - the default is shown in --help
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

    Example: cran-bench prepare flickr8k --data DIR --images-with "onnx:net.onnx[tensor=penultimate]"
    --regions-with nanodet:detector.onnx

    Example: cran-bench prepare mscoco --data DIR --check

    Example: cran-bench prepare scenes --export look/
    """
    from cran_bench import preparation
    from cran_bench.registry import DATASETS

    configured = DATASETS.configure(dataset)
    if only_check and (force or export is not None):
        raise BadInput("--check only looks: leave out --force and --export, or --check")
    if export is not None:
        _export(configured, data, export)
        return
    if only_check:
        found, complete = preparation.check(configured, data, cache, images_with, regions_with)
        typer.echo(found)
        if not complete:
            raise typer.Exit(1)
        return
    made = preparation.prepare(configured, data, cache, images_with, regions_with, force=force, skip_bad=skip_bad)
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
    images_with: ImagesOption = None,
    regions_with: RegionsOption = None,
    vectors: VectorsOption = "ppmi-svd",
    results: ResultsOption = Path("results"),
    cache: CacheOption = _cache(),  # noqa: B008
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    bound: BoundOption = "measured",
) -> None:
    """Fit methods, rank the test split both ways and print the table.  What is recorded is reused.

    Example: cran-bench run

    Example: cran-bench run -m cca,cca:paper,mine.py:Mine -d flickr8k -p captions,documents -s 0:3
    """
    from cran_bench import runner
    from cran_bench.counting import require_known
    from cran_bench.environment import pick_device
    from cran_bench.preparation import find_prepared
    from cran_bench.protocols import parse_protocols
    from cran_bench.registry import DATASETS, METHODS
    from cran_bench.tables import build_tables, render

    named = _each([*(methods or []), *(more or [])])
    rows = [METHODS.configure(_quick_method(text) if quick else text) for text in named or METHODS.names()]
    for name, reason in () if named else METHODS.failures.items():
        say(f"left out: method {name} could not be imported: {reason}")
    protocols, numbers, where = parse_protocols(protocol), runner.parse_seeds(seeds), pick_device(device)
    configured = DATASETS.configure(_quick_dataset(dataset) if quick else dataset)
    prepared = find_prepared(configured, data, cache, images_with, regions_with, vectors)
    require_known(backend, bound)
    job = runner.Runner(prepared, results, cache, where, folds, backend, cast("Bound", bound), force)
    outcomes = job.run(rows, protocols, numbers)
    finished = [(o.record, job.store.ranks(o.address)) for o in outcomes if o.record is not None]
    failures = [o.failure for o in outcomes if o.failure is not None]
    typer.echo(render(build_tables(finished, failures), "terminal"))
    say(f"records: {job.store.root}")
    if failures:
        first = f"{failures[0].method_label}: {failures[0].error}"
        raise BadInput(f"{len(failures)} of {len(outcomes)} runs failed, the first is {first}")


@app.command()
def table(
    which: Annotated[
        str | None, typer.Argument(metavar="[1|2|3|kernels]", help="A table of the paper in its shape, or the timings.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("-d", "--dataset", metavar="DATASET", help="Only this dataset.")
    ] = None,
    protocol: Annotated[
        str,
        typer.Option("-p", "--protocol", metavar="NAMES", help="Only these; of the paper's tables, one for all rows."),
    ] = "all",
    methods: MethodsOption = None,
    preset: Annotated[
        str, typer.Option("--preset", metavar="paper|tuned", help="Which rows fill a table of the paper.")
    ] = "paper",
    style: Annotated[
        str, typer.Option("-f", "--format", metavar="FORMAT", help="terminal, markdown, csv or latex.")
    ] = "terminal",
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write to a file.")] = None,
    results: ResultsOption = Path("results"),
) -> None:
    """Tables of what is recorded.

    Example: cran-bench table -d flickr8k -p captions -f markdown -o results/flickr8k/captions.md

    Example: cran-bench table 1 -f latex

    Example: cran-bench table 1 -d flickr8k --preset tuned --results results/reference
    """
    from cran_bench.errors import did_you_mean
    from cran_bench.paper_tables import paper_table
    from cran_bench.protocols import parse_protocols
    from cran_bench.registry import DATASETS, METHODS
    from cran_bench.storage import write_text
    from cran_bench.tables import render, render_kernels

    kinds = ("1", "2", "3", "kernels")
    if which is not None and which not in kinds:
        raise BadInput(f"there is no table '{which}'{did_you_mean(which, kinds)}")
    wanted = parse_protocols(protocol)
    label = DATASETS.configure(dataset).label if dataset else None
    labels = [METHODS.configure(text).label for text in _each(methods or [])]
    if which == "kernels":
        text = render_kernels(results / "kernels", style)
    elif which:
        if preset not in ("paper", "tuned"):
            raise BadInput(f"there is no preset '{preset}' of all rows; take paper or tuned")
        one = None if protocol == "all" else wanted[0]
        text = paper_table(int(which), _recorded(results), preset, one, style, label)
    else:
        text = render(_recorded(results, [label] if label else [], wanted, labels), style)
    if out is None:
        typer.echo(text)
    else:
        write_text(out, text)
        say(f"wrote {out}")


@app.command()
def compare(
    datasets: Annotated[
        list[str] | None,
        typer.Option("-d", "--dataset", metavar="DATASET", help="May be repeated. Default: flickr30k and mscoco."),
    ] = None,
    protocol: Annotated[str, typer.Option("-p", "--protocol", metavar="NAMES", help="Only these protocols.")] = "all",
    results: ResultsOption = Path("results"),
    reference: Annotated[
        Path, typer.Option("--reference", metavar="DIR", help="Committed records to compare other datasets with.")
    ] = Path("results/reference"),
) -> None:
    """What was measured against the paper, and on other data against committed records.  Exit code 1: a regression.

    On flickr30k and mscoco every cell is held against Tables 1 to 3.  On other data the numbers are held against a
    reference.  On both it is told which of the paper's orders hold.

    Example: cran-bench compare

    Example: cran-bench compare -d scenes

    Example: cran-bench compare -d flickr8k --results results/reference
    """
    from cran_bench.comparison import compare_dataset, is_of_paper, of_dataset
    from cran_bench.protocols import parse_protocols
    from cran_bench.registry import DATASETS

    wanted = parse_protocols(protocol)
    asked = [DATASETS.configure(text).label for text in datasets or ("flickr30k", "mscoco")]
    recorded = _recorded(results, protocols=wanted)
    found = {label: of_dataset(recorded, label) for label in asked}
    if not any(found.values()):
        raise BadInput(
            f"there are no records of {' or '.join(asked)} below {results / 'runs'}: make some with cran-bench run -d"
        )
    regressions = 0
    for label, tables in found.items():
        if not tables:
            say(f"there are no records of {label}")
            continue
        alone = is_of_paper(label) or reference.resolve() == results.resolve()
        for verdict in compare_dataset(tables, label, None if alone else _recorded(reference, [label], wanted)):
            typer.echo(verdict)
            regressions += len(verdict.regressions)
    typer.echo(f"{regressions} regressions" if regressions else "no regression")
    if regressions:
        raise typer.Exit(1)


@app.command()
def report(
    datasets: Annotated[
        list[str] | None, typer.Option("-d", "--dataset", metavar="DATASET", help="Only these; may be repeated.")
    ] = None,
    protocol: Annotated[str, typer.Option("-p", "--protocol", metavar="NAMES", help="Only these protocols.")] = "all",
    methods: MethodsOption = None,
    data: DataOption = Path("data"),
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The page.")] = Path("report.html"),
    results: ResultsOption = Path("results"),
) -> None:
    """One HTML page of what is recorded: tables that sort, charts, curves, and queries with what was found.

    It needs no network. Pictures and captions come from the datasets below --data, where they are there.

    Example: cran-bench report -d scenes --results results/reference -o report.html
    """
    from cran_bench.comparison import paper_orders
    from cran_bench.protocols import parse_protocols
    from cran_bench.registry import DATASETS, METHODS
    from cran_bench.report import build_report
    from cran_bench.results import ResultStore
    from cran_bench.specs import parse_spec
    from cran_bench.storage import write_text

    wanted = [DATASETS.configure(text).label for text in datasets or ()]
    labels = [METHODS.configure(text).label for text in _each(methods or [])]
    tables = _recorded(results, wanted, parse_protocols(protocol), labels)
    files = {record.fingerprint: path for path, record in ResultStore(results).records()}
    shown = dict.fromkeys(table.group.dataset for table in tables)
    verdicts = {
        label: paper_orders([t for t in tables if t.group.dataset == label], parse_spec(label).name) for label in shown
    }
    page = build_report(tables, files, verdicts, data)
    write_text(out, page)
    say(f"wrote {out}, {len(page.encode()) / 1e6:.1f} MB")


@app.command()
def significance(
    methods: Annotated[
        list[str] | None, typer.Argument(metavar="[METHOD]...", help="Two or more; none: all against the best.")
    ] = None,
    dataset: DatasetOption = "scenes",
    protocol: Annotated[
        str, typer.Option("-p", "--protocol", metavar="NAME", help="captions, documents, mean or single.")
    ] = "captions",
    style: Annotated[
        str, typer.Option("-f", "--format", metavar="FORMAT", help="terminal, markdown, csv or latex.")
    ] = "terminal",
    results: ResultsOption = Path("results"),
) -> None:
    """Whether methods differ: paired bootstrap over images and seeds, McNemar's test of R@1, Holm's correction.

    The first method is compared with each of the others, figure by figure; without methods the best with all others.

    Example: cran-bench significance cran cran-baseline --results results/reference

    Example: cran-bench significance -d flickr8k -p documents
    """
    from cran_bench.comparison.significance import significance_table
    from cran_bench.protocols import parse_protocols
    from cran_bench.registry import DATASETS, METHODS

    label, wanted = DATASETS.configure(dataset).label, parse_protocols(protocol)
    if len(wanted) > 1:
        raise BadInput(f"methods are compared under one protocol, not {len(wanted)}: captions and documents do not mix")
    labels = [METHODS.configure(text).label for text in _each(methods or [])]
    if len(labels) == 1:
        raise BadInput("one method differs from nothing: give two or more, or none for all")
    tables = _recorded(results, [label], wanted, labels)
    typer.echo(significance_table(tables, labels, style))


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="METHOD", help="A method, or file.py:Name.")],
    cache: CacheOption = _cache(),  # noqa: B008
    device: DeviceOption = "auto",
) -> None:
    """Try every promise of the method contract on a small set of scenes.

    Example: cran-bench check mine.py:Mine
    """
    from cran_bench.checks import check_method
    from cran_bench.environment import pick_device
    from cran_bench.registry import METHODS

    verdicts = check_method(METHODS.configure(name), cache, pick_device(device))
    for verdict in verdicts:
        typer.echo(f"  {'ok    ' if verdict.broken is None else 'BROKEN'} {verdict.promise}")
        if verdict.broken is not None:
            typer.echo(f"         {verdict.broken}")
    broken = sum(verdict.broken is not None for verdict in verdicts)
    typer.echo(f"{name}: {len(verdicts) - broken} of {len(verdicts)} promises kept")
    if broken:
        raise typer.Exit(1)


@app.command()
def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Id of an image of the dataset, such as test-00000a.")],
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="A sentence, or the number of one of the image's own captions.")
    ] = "1",
    method: Annotated[
        str, typer.Option("-m", "--method", metavar="METHOD", help="A method that can explain.")
    ] = "cran",
    dataset: DatasetOption = "scenes",
    out: DrawingOption = None,
    seed: SeedOption = 0,
    quick: QuickOption = False,
    data: DataOption = Path("data"),
    images_with: ImagesOption = None,
    regions_with: RegionsOption = None,
    vectors: VectorsOption = "ppmi-svd",
    cache: CacheOption = _cache(),  # noqa: B008
    device: DeviceOption = "auto",
) -> None:
    """Why a method scores an image and a text as it does: levels, attention, winning regions and region pairs.

    Example: cran-bench explain test-00000a

    Example: cran-bench explain test-00000a "a red star is above a blue square" -m cran-relation -o why.png
    """
    from cran_bench import explaining
    from cran_bench.environment import pick_device
    from cran_bench.preparation import find_prepared
    from cran_bench.registry import DATASETS, METHODS
    from cran_bench.runner import Runner, fit_unit

    configured = METHODS.configure(_quick_method(method) if quick else method)
    if not hasattr(configured.plugin.cls, "explain"):
        able = [name for name in METHODS.names() if hasattr(METHODS.get(name).cls, "explain")]
        raise BadInput(f"{configured.plugin.name} cannot explain itself; these can: {', '.join(able)}")
    if out is not None:
        explaining.require_drawable(out)
    where = pick_device(device)
    configured_data = DATASETS.configure(_quick_dataset(dataset) if quick else dataset)
    prepared = find_prepared(configured_data, data, cache, images_with, regions_with, vectors)
    split, row = prepared.find(image, where)
    if text.isdecimal():
        if not 1 <= int(text) <= len(split.texts):
            raise BadInput(f"{image} has captions 1 to {len(split.texts)}, not {text}; or write a sentence")
        text = split.texts[int(text) - 1]
    split = split.asking([text])
    job = Runner(prepared, Path(), cache, where)
    part = cast("Explaining", job.fitted(configured, seed, fit_unit(configured, "captions")))
    (found,) = part.explain(split, [(0, 0)])
    title = f"{configured.label}: {image}"
    typer.echo(f"{title}\n{text}\n\n{explaining.describe(found)}")
    if out is not None:
        boxes = split.boxes[0].cpu().numpy() if found.regions or found.pairs else None
        explaining.draw(found, prepared.collection.images.read(row), boxes, title, out)
        say(f"drew {out}")


@app.command()
def search(
    sentence: Annotated[
        str | None, typer.Argument(metavar="[SENTENCE]", help="What to look for among the images.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="Look for texts that describe this picture.")
    ] = None,
    method: Annotated[str, typer.Option("-m", "--method", metavar="METHOD", help="The method that searches.")] = "cca",
    dataset: DatasetOption = "scenes",
    top: Annotated[int, typer.Option("-n", "--top", min=1, help="How many to show.")] = 10,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="train, val or test.")] = "test",
    out: DrawingOption = None,
    seed: SeedOption = 0,
    quick: QuickOption = False,
    data: DataOption = Path("data"),
    images_with: ImagesOption = None,
    regions_with: RegionsOption = None,
    vectors: VectorsOption = "ppmi-svd",
    cache: CacheOption = _cache(),  # noqa: B008
    device: DeviceOption = "auto",
) -> None:
    """Search a dataset with a sentence, or with a picture of your own, by a fitted method.

    Example: cran-bench search "a red star is above a blue square" -m cran -o found.png

    Example: cran-bench search --image dog.jpg -d flickr8k
    """
    from cran_bench import searching
    from cran_bench.dataset import SPLITS
    from cran_bench.environment import pick_device
    from cran_bench.errors import did_you_mean
    from cran_bench.explaining import require_drawable
    from cran_bench.images import open_image
    from cran_bench.preparation import find_prepared
    from cran_bench.registry import DATASETS, METHODS
    from cran_bench.runner import Runner, fit_unit

    if (sentence is None) == (image is None):
        raise BadInput('search takes a sentence or --image FILE, one of the two: cran-bench search "a red star"')
    if split not in SPLITS:
        raise BadInput(f"there is no split '{split}'{did_you_mean(split, SPLITS)}")
    if out is not None:
        require_drawable(out)
    configured = METHODS.configure(_quick_method(method) if quick else method)
    if image is not None and not image.is_file():
        raise BadInput(f"there is no picture {image}; give the path of an image file")
    picture = None if image is None else open_image(image)
    where = pick_device(device)
    configured_data = DATASETS.configure(_quick_dataset(dataset) if quick else dataset)
    prepared = find_prepared(configured_data, data, cache, images_with, regions_with, vectors)
    front_end = None if picture is None else prepared.front_end(images_with, regions_with)
    unit = fit_unit(configured, "captions")
    part = Runner(prepared, Path(), cache, where).fitted(configured, seed, unit)
    members = prepared.split(split, "captions", where, unit)
    if picture is not None and front_end is not None:
        hits = searching.texts_for(part, members, prepared.picture(picture, front_end, where), top)
    else:
        hits = searching.images_for(part, members, sentence or "", top)
    title = f"{configured.label} in {configured_data.label}, {split}: {sentence or image}"
    typer.echo(f"{title}\n\n{searching.describe(hits)}")
    if out is not None:
        rows = prepared.collection.splits[split]
        images = [prepared.collection.images.read(int(rows[hit.position])) for hit in hits]
        searching.draw(hits, images, title, picture, out)
        say(f"drew {out}")


@app.command()
def bench(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="similarity, ranking or training.")],
    images: Annotated[int, typer.Option("--images", min=100, help="How many images.")] = 5000,
    texts: Annotated[int, typer.Option("--texts", min=100, help="How many texts.")] = 25000,
    dim: Annotated[int, typer.Option("--dim", min=1, help="Dimensions of every vector.")] = 1024,
    width: Annotated[str, typer.Option("--width", help="Of CRAN, for training: compact or full.")] = "compact",
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Also write HARDWARE.csv and HARDWARE.md there."),
    ] = None,
) -> None:
    """Time the kernels against what one would use instead.

    `similarity` scores three levels (Eq. 11) and ranks both ways, `ranking` one vector for each image and text, and
    `training` is a step of CRAN.

    Example: cran-bench bench similarity --texts 5000

    Example: cran-bench bench training -o results/kernels
    """
    from cran_bench.bench.measuring import render, save
    from cran_bench.environment import pick_device
    from cran_bench.errors import did_you_mean

    kinds, widths = ("similarity", "ranking", "training"), ("compact", "full")
    for name, known in ((what, kinds), (width, widths)):
        if name not in known:
            raise BadInput(f"there is no '{name}' to bench{did_you_mean(name, known)}; take {' or '.join(known)}")
    if texts < images:
        raise BadInput(f"every image has a text: give at least as many --texts as --images, not {texts} for {images}")
    where = pick_device(device)
    if what == "training":
        rows = list(import_module("cran_bench.methods.cran.timing").bench_training(width, where))
    elif what == "similarity":
        from cran_bench.bench.similarity import bench_similarity

        rows = list(bench_similarity(images, texts, dim, where))
    else:
        from cran_bench.bench.ranking import bench_ranking

        rows = list(bench_ranking(images, texts, dim, where))
    typer.echo(f"{what}: {rows[0]['task']}\n\n{render(rows)}")
    if out is not None:
        say(f"wrote {save(rows, out)}")


def _recorded(
    results: Path, datasets: Sequence[str] = (), protocols: Sequence[str] = (), methods: Sequence[str] = ()
) -> list[Table]:
    """Tables of the records below a folder; an empty choice is all.

    Raises:
        BadInput: there are none.
    """
    from cran_bench.results import ResultStore, read_ranks
    from cran_bench.tables import build_tables

    store = ResultStore(results)

    def wanted(dataset: str, protocol: str, method: str) -> bool:
        chosen = ((datasets, dataset), (protocols, protocol), (methods, method))
        return all(not some or name in some for some, name in chosen)

    runs = [
        (record, read_ranks(path))
        for path, record in store.records()
        if wanted(record.data.label, record.protocol, record.method.label)
    ]
    failures = [f for f in store.failures() if wanted(f.data.label, f.protocol, f.method_label)]
    if not runs and not failures:
        raise BadInput(f"there are no such records below {store.root}: make some with cran-bench run")
    return build_tables(runs, failures)


def _each(methods: list[str]) -> list[str]:
    """The methods of texts that may name several, separated by commas outside brackets."""
    return [part.strip() for text in methods for part in re.split(r",(?![^\[]*\])", text) if part.strip()]


def _quick_method(method: str) -> str:
    """The method with its preset `quick`, where it has one and the user names no other."""
    from cran_bench.registry import METHODS
    from cran_bench.specs import format_options, parse_spec

    spec = parse_spec(method)
    has_one = spec.name in METHODS.names() and "quick" in METHODS.get(spec.name).presets
    return f"{spec.name}:quick{format_options(spec.options)}" if has_one and not spec.argument else method


def _quick_dataset(dataset: str) -> str:
    from cran_bench.specs import format_options, parse_spec

    spec = parse_spec(dataset)
    if spec.argument and spec.argument != "quick":
        raise BadInput(f"--quick means the preset quick; leave it out, or write {spec.name} instead of {dataset}")
    return f"{spec.name}:quick{format_options(spec.options)}"


def _export(dataset: Configured[Dataset], data: Path, folder: Path) -> None:
    from cran_bench.dataset import SPLITS
    from cran_bench.progress import track
    from cran_bench.storage import write_atomically, write_text

    collection: Collection = dataset.build().load(data)
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


def _first_line(cls: type, registry: Registry[Any]) -> str:
    """Of the module's docstring, or of the class's where several are registered in one module."""
    alone = sum(plugin.cls.__module__ == cls.__module__ for plugin in registry.plugins.values()) == 1
    doc = (alone and sys.modules[cls.__module__].__doc__) or cls.__doc__ or ""
    return doc.strip().splitlines()[0] if doc.strip() else ""


class _Interrupted(BaseException):
    """Ctrl-C or a polite kill."""


def _interrupt(*_: object) -> None:
    raise _Interrupted


def main() -> None:
    """Entry point: errors a user can cure are one sentence and exit code 2."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        app()
    except _Interrupted:
        _end("interrupted; what was finished is kept, run the same command to go on")
    except BadInput as error:
        _end(str(error))
    except OSError as error:
        _end(f"{error.filename or 'the system'}: {error.strerror or error}")


def _end(sentence: str) -> None:
    say(f"error: {sentence}")
    sys.exit(2)
