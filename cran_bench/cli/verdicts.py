"""Evaluate records: table, summary, compare, significance, report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cran_bench.errors import BadInput
from cran_bench.machine.progress import say
from cran_bench.machine.storage import require_folder

from . import options
from .options import app, dataset_label, echo, labels_of, load_tables, print_or_write, to_run

if TYPE_CHECKING:
    from cran_bench.records.tasks import TaskName


@app.command()
def table(
    which: Annotated[
        str | None,
        typer.Argument(
            metavar="[category|contrasts|judgments|1|2|3|kernels]",
            help="Retrieval by category, true against false captions, or what people judged, on data that has them; a "
            "table of the paper; or the kernel timings.",
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("-d", "--dataset", metavar="DATASET", help="Only this dataset.")
    ] = None,
    protocol: Annotated[
        str,
        typer.Option("-p", "--protocol", metavar="NAMES", help="Only these; paper tables use a single protocol."),
    ] = "all",
    methods: options.Methods = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="paper|literal|tuned",
            help="Preset of the rows in a table of the paper. Default: paper.",
        ),
    ] = None,
    style: options.Format = "terminal",
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="NAMES", help="Only these: method,rsum,medr. -f csv has more.")
    ] = None,
    is_wide: options.Wide = False,
    out: options.Out = None,
    results: options.ResultFolders = options.RESULTS,
) -> None:
    """Print tables of the records, the best row first; the paper's tables keep its order.

    Example: cran-bench table -d flickr8k -p captions -f markdown -o results/flickr8k/captions.md

    Example: cran-bench table -d scenes --columns method,i2t_r1,t2i_r1,rsum

    Example: cran-bench table category -d wikipedia

    Example: cran-bench table contrasts -d flickr8k

    Example: cran-bench table judgments -d flickr8k -f csv

    Example: cran-bench table 1 -f latex

    Example: cran-bench table 1 -d flickr8k --preset tuned --results results/reference
    """
    from cran_bench.errors import did_you_mean
    from cran_bench.protocols import parse_protocols
    from cran_bench.records.store import roots_of
    from cran_bench.records.tasks import TASKS
    from cran_bench.tables.paper import PRESETS
    from cran_bench.tables.tables import render

    others: tuple[TaskName, ...] = ("category", "contrasts", "judgments")
    kinds = (*others, "1", "2", "3", "kernels")
    if which is not None and which not in kinds:
        raise BadInput(f"there is no table '{which}'{did_you_mean(which, kinds)}")
    wanted = parse_protocols(protocol)
    label, labels = None, []
    if dataset or methods:
        label, labels = dataset_label(dataset) if dataset else None, labels_of(methods)
    given = {"--dataset": dataset, "--protocol": protocol != "all", "--method": labels, "--preset": preset}
    given |= {"--columns": columns, "--wide": is_wide}
    of_records = "--dataset", "--protocol", "--method", "--columns", "--wide"
    takes: dict[str | None, tuple[str, ...]] = {**dict.fromkeys((None, *others), of_records), "kernels": ("--wide",)}
    width = None if is_wide or columns else options.width()
    for option in given:
        if given[option] and option not in takes.get(which, ("--dataset", "--protocol", "--preset", "--wide")):
            raise BadInput(f"{option} does not apply to table {which or ''}".rstrip())
    if which == "kernels":
        from cran_bench.bench.measuring import render_all

        if len(results) > 1:
            raise BadInput("table kernels shows the timings of one folder: give --results once")
        text = render_all(results[0] / "kernels", style, width)
    elif which and which not in others:
        if preset not in (None, *PRESETS):
            raise BadInput(f"--preset is {' or '.join(PRESETS)}, not '{preset}'")
        if protocol != "all" and len(wanted) > 1:
            raise BadInput(f"paper tables use a single protocol, not {len(wanted)}: name one, or leave -p out")
        from cran_bench.tables.paper_tables import paper_table

        one = None if protocol == "all" else wanted[0]
        has_records = any(path for folder in results for path in (folder / "runs").glob("*/*/*.json"))
        tables = load_tables(results) if has_records else []
        if not tables:
            say(f"there are no records below {roots_of(results)}: only the paper's numbers are shown")
        text = paper_table(int(which), tables, preset or "paper", one, style, label, width)
    else:
        chosen = [label] if label else [], () if protocol == "all" else wanted, labels
        tables = load_tables(results, *chosen, *(task for task in TASKS if task == (which or "recall")))
        text = render(tables, style, [name.strip() for name in (columns or "").split(",") if name.strip()], width)
    print_or_write(text, out)


@app.command()
def summary(
    datasets: options.Datasets = None,
    protocol: options.Protocols = "all",
    methods: options.Methods = None,
    task: Annotated[
        str, typer.Option("--task", metavar="NAMES", help="Only these: recall,category,contrasts,judgments.")
    ] = "all",
    preset: Annotated[str, typer.Option("--preset", metavar="NAME", help="Only rows of this preset.")] = "",
    style: options.Format = "terminal",
    is_wide: options.Wide = False,
    out: options.Out = None,
    results: options.ResultFolders = options.RESULTS,
) -> None:
    """Print all records at a glance: methods x datasets for each task and protocol, with ranks and their intervals.

    Rows that are on all datasets have a mean score, with the interval of its rank on these datasets, and on others like
    them. It also shows fit time, memory, and for which rows no other is both as good and as cheap.

    Example: cran-bench summary --results results/reference --preset tuned

    Example: cran-bench summary -d flickr8k -d scenes --task recall,contrasts -p captions

    Example: cran-bench summary -f csv -o summary.csv
    """
    from cran_bench.errors import did_you_mean
    from cran_bench.protocols import parse_protocols
    from cran_bench.records.tasks import TASKS
    from cran_bench.tables.summary import summarise

    names = [name.strip() for name in task.split(",") if name.strip()]
    for name in names:
        if name not in ("all", *TASKS):
            raise BadInput(f"there is no task '{name}'{did_you_mean(name, TASKS)}")
    wanted = [x for x in TASKS if x in names or not names or "all" in names]
    labels = [dataset_label(text) for text in datasets or ()]
    protocols = () if protocol == "all" else parse_protocols(protocol)
    found = summarise(load_tables(results, labels, protocols, labels_of(methods), *wanted), preset)
    text = found.render(style, None if is_wide else options.width())
    print_or_write(text, out)


@app.command()
def compare(
    datasets: Annotated[
        list[str] | None,
        typer.Option("-d", "--dataset", metavar="DATASET", help="May be repeated. Default: flickr30k and mscoco."),
    ] = None,
    protocol: options.Protocols = "all",
    results: options.ResultFolders = options.RESULTS,
    reference: Annotated[
        Path,
        typer.Option("--reference", metavar="DIR", help="Committed records that other datasets are compared with."),
    ] = Path("results/reference"),
) -> None:
    """Compare records with the paper, and on other datasets with committed records.  Exit code 1: a regression.

    On flickr30k and mscoco every cell is compared with Tables 1 to 3, on other datasets with the committed records.
    Against the paper only the presets paper and literal are judged; tuned rows are shown.
    On both, the report says which of the paper's rankings of methods are reproduced. On wikipedia mean average
    precisions by category are compared with published ones, of which those marked M are shown only.

    Example: cran-bench compare

    Example: cran-bench compare -d scenes

    Example: cran-bench compare -d flickr8k --results results/reference

    Example: cran-bench compare -d wikipedia
    """
    from cran_bench.comparison import compare_dataset
    from cran_bench.machine.storage import slug
    from cran_bench.protocols import parse_protocols
    from cran_bench.records.store import roots_of
    from cran_bench.records.tasks import TASKS
    from cran_bench.tables.paper import dataset_name, is_of_paper, of_dataset, published_rows

    wanted = parse_protocols(protocol)
    labels = [dataset_label(text) for text in datasets or ("flickr30k", "mscoco")]
    roots = [folder / "runs" for folder in results]
    tables = load_tables(results, [], wanted, [], *TASKS) if any(map(Path.is_dir, roots)) else []
    measured = {label: of_dataset(tables, label) for label in labels}
    missing = [label for label in labels if not measured[label]]
    if missing and (datasets or len(missing) == len(labels)):
        raise BadInput(
            f"there are no records of {' or '.join(missing)} below {roots_of(results)}: "
            f"run cran-bench run -d {to_run(missing[0])} first"
        )
    is_reference = {reference.resolve()} == {folder.resolve() for folder in results}
    alone = {label for label in labels if is_of_paper(label)}
    alone |= {x for x in labels if published_rows(dataset_name(x)) and not (reference / "runs" / slug(x)).is_dir()}
    if not is_reference and not alone.issuperset(labels) and not (reference / "runs").is_dir():
        raise BadInput(f"there are no committed records below {reference}: name their folder with --reference")
    verdicts = []
    for label in labels:
        against = None if label in alone or is_reference else load_tables(reference, [label], wanted, [], *TASKS)
        verdicts += compare_dataset(measured[label], label, against) if measured[label] else []
    for verdict in verdicts:
        echo(verdict)
    for label in missing:
        say(f"there are no records of {label}")
    regressions, judged = sum(len(v.regressions) for v in verdicts), sum(v.judged for v in verdicts)
    if is_reference:
        say("these are the committed records themselves, so only the paper's rankings were checked")
    if not judged and not regressions:
        raise BadInput(
            "no comparable rows found: no row is judged against the paper or the reference, see the notes above"
        )
    echo(f"{regressions} regressions" if regressions else "no regression")
    if regressions:
        raise typer.Exit(1)


@app.command()
def significance(
    methods: Annotated[
        list[str] | None, typer.Argument(metavar="[METHOD]...", help="Two or more; none compares all with the best.")
    ] = None,
    dataset: options.Dataset = "scenes",
    protocol: options.Protocol = "captions",
    across: Annotated[
        bool, typer.Option("--across", help="Compare rows with different features, such as two encoders, too.")
    ] = False,
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            metavar="rsum|map|contrasts|judgments",
            help="Compare recalls, mean average precisions by category, contrasts, or what people judged.",
        ),
    ] = "rsum",
    style: options.Format = "terminal",
    results: options.ResultFolders = options.RESULTS,
) -> None:
    """Test whether methods differ: paired bootstrap over images and seeds, McNemar's test of R@1, Holm's correction.

    The figures are recalls, or with --metric map mean average precisions of data with labels, with --metric contrasts
    shares of true captions above false ones, with --metric judgments agreement with people, without McNemar's test.
    The first method is compared with each of the others, metric by metric; without methods, the best with all others.
    Rows have the same features, or with --across only the same test split.

    Example: cran-bench significance cran cran-baseline --results results/reference

    Example: cran-bench significance -d flickr8k -p documents

    Example: cran-bench significance cca -d flickr8k --across

    Example: cran-bench significance -d wikipedia --metric map

    Example: cran-bench significance -d flickr8k --metric contrasts
    """
    from cran_bench.comparison.significance import significance_table
    from cran_bench.errors import did_you_mean
    from cran_bench.protocols import parse_protocols
    from cran_bench.records.tasks import TASKS

    label, wanted = dataset_label(dataset), parse_protocols(protocol)
    if len(wanted) > 1:
        raise BadInput(f"methods are compared under one protocol, not {len(wanted)}: give one with -p")
    tasks: dict[str, TaskName] = dict(zip(("rsum", "map", "contrasts", "judgments"), TASKS, strict=True))
    if metric not in tasks:
        raise BadInput(f"--metric is rsum, map, contrasts or judgments, not '{metric}'{did_you_mean(metric, tasks)}")
    labels = labels_of(methods)
    if len(labels) == 1 and not across:
        raise BadInput("give at least two methods, or none to compare all with the best")
    tables = load_tables(results, [label], wanted, labels, tasks[metric])
    echo(significance_table(tables, labels, style, across, options.width()))


@app.command()
def report(
    datasets: options.Datasets = None,
    protocol: options.Protocols = "all",
    methods: options.Methods = None,
    data: options.Data = Path("data"),
    cache: options.Cache = options.CACHE,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", callback=require_folder, help="One file. Default: report.html."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--site", metavar="DIR", help="Instead, a folder to publish, with all details.")
    ] = None,
    results: options.ResultFolders = options.RESULTS,
) -> None:
    """Write a page of the records: who is best on what, tables, charts, and queries with what each method found.

    It needs no network and no server. Pictures and captions come from the datasets below --data, if available.

    Example: cran-bench report -d scenes --results results/reference

    Example: cran-bench report --results results/reference --site public
    """
    from cran_bench.machine.progress import duration
    from cran_bench.protocols import parse_protocols
    from cran_bench.records.tasks import TASKS
    from cran_bench.report import write_page

    if out is not None and folder is not None:
        raise BadInput("a page is one file or a folder: give either --out FILE or --site DIR")
    start = time.monotonic()
    wanted = [dataset_label(text) for text in datasets or ()]
    tables = load_tables(results, wanted, parse_protocols(protocol), labels_of(methods), *TASKS)
    order = list(dict.fromkeys(table.group.dataset for table in tables))
    tables.sort(key=lambda table: order.index(table.group.dataset))  # recalls of a dataset first
    made = write_page(tables, data, cache, out or Path("report.html"), folder)
    say(f"wrote {made}, {made.stat().st_size / 1e6:.1f} MB, in {duration(time.monotonic() - start)}")
