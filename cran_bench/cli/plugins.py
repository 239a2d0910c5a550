"""Commands that list and check plugins and stored files: list, info, check, doctor."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from cran_bench.errors import BadInput
from cran_bench.machine.progress import say

from . import options
from .options import app, echo, load_tables


@app.command("list")
def list_plugins() -> None:
    """List the installed methods and datasets, and those whose import failed.

    Further methods reproduce no row of the paper; `run` without methods leaves them out unless --all is given.
    References are no methods, but rows that others are read beside, on data that has what they need.

    Example: cran-bench list
    """
    from cran_bench.registry import DATASETS, METHODS

    for registry in (METHODS, DATASETS):
        known = map(registry.describe, (*registry.names(), *registry.with_argument()))
        kinds = f"{registry.kind}s", "further methods", "references"
        grouped = {p: 2 if p.reference else int(registry is METHODS and not p.paper_row) for p in known}
        for kind, group in groupby(sorted(grouped, key=grouped.__getitem__), grouped.__getitem__):
            echo(kinds[kind])
            for plugin in group:
                name = f"{plugin.name}:{plugin.argument.upper()}" if plugin.argument else plugin.name
                presets = f"  [{', '.join(plugin.presets)}]" if plugin.presets else ""
                echo(f"  {name:<18} {plugin.summary}{presets}")
        for name, reason in registry.failures.items():
            echo(f"  {name:<18} could not be imported: {reason}")


@app.command()
def info(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A method or dataset, or file.py:Name.")] = None,
    pages: Annotated[
        Path | None, typer.Option("--pages", metavar="DIR", help="Instead, write a page for every method.")
    ] = None,
    results: Annotated[Path, typer.Option("--results", metavar="DIR", help="Records for the pages.")] = Path(
        "results/reference"
    ),
) -> None:
    """Describe a method or dataset: what it is, its fields with their values, and its presets.

    Example: cran-bench info cca

    Example: cran-bench info --pages docs/methods
    """
    if name is not None and pages is None:
        _print_info(name)
    elif pages is not None and name is None:
        from cran_bench.machine.storage import write_text
        from cran_bench.tables.method_pages import method_pages

        for file, text in method_pages(load_tables(results)).items():
            write_text(pages / file, text)
        say(f"wrote a page for every method to {pages}")
    else:
        raise BadInput("info takes a name, or --pages DIR for all methods: cran-bench info cca")


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A method or dataset, or file.py:Name.")],
    data: options.Data = Path("data"),
    cache: options.Cache = options.CACHE,
    device: options.Device = "auto",
) -> None:
    """Check that a method or dataset keeps its contract, on a few scenes or on a few of the dataset's images.

    A method that has a preset quick is fitted with it, unless another is named: cran-bench check cran:tuned

    Example: cran-bench check mine.py:Mine

    Example: cran-bench check flickr8k --data DIR
    """
    from cran_bench.machine.environment import pick_device
    from cran_bench.registry import METHODS, quick_method, registry_of
    from cran_bench.running.checks import check_dataset, check_method

    registry = registry_of(name)
    is_method = registry is METHODS
    spec = quick_method(name) if is_method else name
    plugin = registry.configure(spec)
    checks = check_method(plugin, cache, pick_device(device)) if is_method else check_dataset(plugin, data)
    reported: set[str | None] = {None}
    for one in checks:
        mark = "ok" if one.broken is None else "untried" if one.broken in reported else "BROKEN"
        echo(f"  {mark:<7} {one.promise}" + (f"\n          {one.broken}" if mark == "BROKEN" else ""))
        reported.add(one.broken)  # a check that fails for the same reason could not be tried
    passed = sum(one.broken is None for one in checks)
    echo(f"{spec}: {passed} of {len(checks)} checks passed")
    raise typer.Exit(passed < len(checks))


@app.command()
def doctor(
    results: options.Results = Path("results"),
    cache: options.Cache = options.CACHE,
    only_check: Annotated[
        bool, typer.Option("--check", help="Only report what is wrong; exit code 1 if anything is.")
    ] = False,
) -> None:
    """Check records, features and fits: damaged files are set aside, leftover files are deleted.

    Files are set aside below set-aside/ in the same folder; the next prepare or run regenerates them.

    Example: cran-bench doctor --results results --check
    """
    from cran_bench.running.doctor import count_provenance, cure, examine_cache, examine_results, gathered, on_features

    if not (results / "runs").is_dir() and not cache.is_dir():
        raise BadInput(f"there are neither records below {results / 'runs'} nor features and fits below {cache}")
    complaints = [*examine_results(results), *examine_cache(cache)]
    if (results / "runs").is_dir():
        say(count_provenance(results, {one.path for one in complaints}))
    for line in on_features(cache):
        say(line)
    if only_check:
        for line in gathered((one.path, f"{one.path}: {one.what}") for one in complaints):
            echo(line)
        echo(f"files with problems: {len(complaints)}" if complaints else "no problems found")
        raise typer.Exit(bool(complaints))
    for line in gathered(cure(complaints)):
        echo(line)
    echo("all problems fixed" if complaints else "no problems found")


def _print_info(name: str) -> None:
    from cran_bench.frontend.trained_on import containing
    from cran_bench.registry import METHODS, registry_of, search_space
    from cran_bench.specs import format_value
    from cran_bench.tables.method_pages import description, module_text

    registry = registry_of(name)
    configured = registry.configure(name)
    plugin = configured.plugin
    echo("\n\n".join([module_text(plugin.cls), *description(configured.build())]) + "\n")
    if registry.takes_unit:
        echo("- `unit`: texts to train on: captions, or documents for the protocol documents")
        echo("- `metric`: what it maximises on validation: rsum, or map; by default what the dataset says")
        searched = "; ".join(f"{key}={format_value(values)}" for key, values in search_space(plugin).items())
        echo(f"- `tune`: number of trials, see run --tune; searched: {searched or 'nothing'}")
    if seen := [] if registry is METHODS else containing(configured.label):
        echo(f"- test set: rows are marked if their encoder was trained on {', '.join(seen)}, which contain some of it")
    for preset, fields in plugin.presets.items():
        changes = ", ".join(f"{key}={format_value(value)}" for key, value in fields.items())
        echo(f"- preset `{preset}`: {changes or 'the defaults'}")
