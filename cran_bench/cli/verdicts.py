"""What records say: table, compare, significance, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cran_bench.errors import BadInput
from cran_bench.machine.progress import say

from .options import DataOption, DatasetOption, MethodsOption, ResultsOption, app, recorded


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
        str | None,
        typer.Option("--preset", metavar="paper|tuned", help="Which rows fill a table of the paper. Default: paper."),
    ] = None,
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
    from cran_bench.machine.storage import write_text
    from cran_bench.protocols import parse_protocols
    from cran_bench.tables.tables import render

    kinds = ("1", "2", "3", "kernels")
    if which is not None and which not in kinds:
        raise BadInput(f"there is no table '{which}'{did_you_mean(which, kinds)}")
    wanted = parse_protocols(protocol)
    label, labels = None, []
    if dataset or methods:
        from cran_bench.registry import DATASETS, METHODS, each

        label = DATASETS.configure(dataset).label if dataset else None
        labels = [METHODS.configure(text).label for text in each(methods or [])]
    given = {"--dataset": dataset, "--protocol": protocol != "all", "--method": labels, "--preset": preset}
    takes = {None: ("--dataset", "--protocol", "--method"), "kernels": ()}
    for option in given:
        if given[option] and option not in takes.get(which, ("--dataset", "--protocol", "--preset")):
            raise BadInput(f"table {which or ''} has no use for {option}: leave it out".replace("  ", " "))
    if which == "kernels":
        from cran_bench.bench.measuring import render_all

        text = render_all(results / "kernels", style)
    elif which:
        if preset not in (None, "paper", "tuned"):
            raise BadInput(f"there is no preset '{preset}' of all rows; take paper or tuned")
        if protocol != "all" and len(wanted) > 1:
            raise BadInput(f"a table of the paper is of one protocol for all rows, not {len(wanted)}; or leave -p out")
        from cran_bench.tables.paper_tables import paper_table

        one = None if protocol == "all" else wanted[0]
        text = paper_table(int(which), recorded(results), preset or "paper", one, style, label)
    else:
        text = render(recorded(results, [label] if label else [], () if protocol == "all" else wanted, labels), style)
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
    from cran_bench.comparison import compare_dataset
    from cran_bench.protocols import parse_protocols
    from cran_bench.registry import DATASETS
    from cran_bench.tables.paper import is_of_paper, of_dataset

    wanted = parse_protocols(protocol)
    asked = [DATASETS.configure(text).label for text in datasets or ("flickr30k", "mscoco")]
    tables = recorded(results, protocols=wanted)
    found = {label: of_dataset(tables, label) for label in asked}
    missing = [label for label in asked if not found[label]]
    if missing and (datasets or len(missing) == len(asked)):
        raise BadInput(
            f"there are no records of {' or '.join(missing)} below {results / 'runs'}: make some with cran-bench run -d"
        )
    is_reference = reference.resolve() == results.resolve()
    if not is_reference and not all(map(is_of_paper, asked)) and not (reference / "runs").is_dir():
        raise BadInput(f"there are no committed records below {reference}: name their folder with --reference")
    verdicts = []
    for label in asked:
        alone = is_of_paper(label) or is_reference
        against = None if alone else recorded(reference, [label], wanted)
        verdicts += compare_dataset(found[label], label, against) if found[label] else []
    for verdict in verdicts:
        typer.echo(verdict)
    for label in missing:
        say(f"there are no records of {label}")
    regressions, judged = sum(len(v.regressions) for v in verdicts), sum(v.judged for v in verdicts)
    if is_reference:
        say("these are the committed records themselves, so only the paper's orders were looked at")
    if not judged and not regressions:
        raise BadInput("nothing was held against anything: no row there has a counterpart, see the notes above")
    typer.echo(f"{regressions} regressions" if regressions else "no regression")
    if regressions:
        raise typer.Exit(1)


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
    from cran_bench.registry import DATASETS, METHODS, each

    label, wanted = DATASETS.configure(dataset).label, parse_protocols(protocol)
    if len(wanted) > 1:
        raise BadInput(f"methods are compared under one protocol, not {len(wanted)}: captions and documents do not mix")
    labels = [METHODS.configure(text).label for text in each(methods or [])]
    if len(labels) == 1:
        raise BadInput("one method differs from nothing: give two or more, or none for all")
    tables = recorded(results, [label], wanted, labels)
    typer.echo(significance_table(tables, labels, style))


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
    from cran_bench.comparison import compare_dataset
    from cran_bench.machine.storage import write_text
    from cran_bench.protocols import parse_protocols
    from cran_bench.records.store import ResultStore
    from cran_bench.registry import DATASETS, METHODS, each
    from cran_bench.report import build_report

    wanted = [DATASETS.configure(text).label for text in datasets or ()]
    labels = [METHODS.configure(text).label for text in each(methods or [])]
    tables = recorded(results, wanted, parse_protocols(protocol), labels)
    shown = dict.fromkeys(table.group.dataset for table in tables)
    verdicts = {label: compare_dataset([t for t in tables if t.group.dataset == label], label, None) for label in shown}
    page = build_report(tables, ResultStore(results), verdicts, data)
    write_text(out, page)
    say(f"wrote {out}, {len(page.encode()) / 1e6:.1f} MB")
