"""The card of a row: what it is, what it was measured on and what came out, what it cost, and how to make it again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from cran_bench.errors import BadInput, escaped
from cran_bench.frontend.trained_on import ROLES, described
from cran_bench.protocols import MEANING
from cran_bench.ranking.metrics import small_set_notes
from cran_bench.records.schema import TESTED_ON, Record
from cran_bench.records.tasks import RECALL
from cran_bench.registry import METHODS
from cran_bench.specs import format_value, recorded_spec
from cran_bench.tables.figures import PHASES, heading
from cran_bench.tables.method_pages import module_text
from cran_bench.tables.paper import TABLES, dataset_name, differences_from_paper, paper_rows
from cran_bench.tables.record_frame import OF_RECALL, address
from cran_bench.tables.rows import Row
from cran_bench.tables.tables import Group, Table

Lines = list[tuple[str, str]]
Section = tuple[str, Lines]

_CITATION = re.compile(r'(?:[A-Z]\. ?-?)+[^."]*(?:[A-Z]\.[^."]*)*(?:et al\., )?"[^"]+",[^.;"]{0,80}?(?:19|20)\d\d')
_RECALLS = {"medr": "median rank", "meanr": "mean rank"}
_AS_THEY_ARE = "equation", "command"
_MACHINE = "threads", "cores", "cpu", "gpu"


def card(row: Row, table: Table) -> list[Section]:
    """All that is known of a row of a table, as names and values below headings; an equation may have several lines."""
    sections = {"What it is": _method(row), "Data and protocol": _data(row, table)}
    if row.records:
        sections |= {
            "Results": _results(row, table),
            "Against the CRAN paper": _paper(row),
            "Training": _training(row),
            "Hyper-parameters": _of_seeds(row, lambda record: record.method.parameters),
            "Chosen on validation": _of_seeds(row, lambda record: record.method.chose),
            "Cost": _cost(row),
            "Provenance": _provenance(row),
        }
    files = [("files", "named here without their folders")] * (":" in table.group.inputs)
    sections["Limits"] = _limits(row, table)
    sections["Make it again"] = [("command", shlex.join(command(row, table.group))), *files]
    return [(name, lines) for name, lines in sections.items() if lines]


def markdown(rows: Sequence[tuple[Row, Table]]) -> str:
    """The cards of one label in several tables as a page of Markdown; what all have in common is written once."""
    cards = [card(*one) for one in rows]
    shared = [one for one in cards[0] if len(cards) > 1 and all(one in other for other in cards)]
    parts = [f"# {_plain(rows[0][0].label)}", *(_written("##", *one) for one in shared)]
    for (_, table), sections in zip(rows, cards, strict=True):
        parts.append(f"## {_plain(table.title)}")
        parts += [_written("###", *one) for one in sections if one not in shared]
    return "\n\n".join(parts) + "\n"


def _written(head: str, name: str, lines: Lines) -> str:
    items = []
    for key, value in lines:
        block = "".join(f"\n      {escaped(line, '')}" for line in value.split("\n"))
        items.append(f"- {_plain(key)}:" + (f"\n{block}\n" if key in _AS_THEY_ARE else f" {_plain(value)}"))
    return f"{head} {name}\n\n" + "\n".join(items)


def _plain(text: str) -> str:
    """Text that in Markdown is neither a tag nor a link."""
    return escaped(text, "").replace("&", "&amp;").replace("<", "&lt;").replace("](", r"]\(")


def command(row: Row, group: Group) -> list[str]:
    """The command that makes a row again where the data, and the files that are named, are at hand."""
    own, *others = group.dataset.split(TESTED_ON)
    backbone, _, regions = group.front_end.partition(" + ")
    first = row.records[0] if row.records else None
    options = {
        "-m": row.label,
        "-d": own,
        "--test-on": "".join(others),
        "-p": group.protocol,
        "-s": _seeds(sorted({*[record.seed for record in row.records], *[failure.seed for failure in row.failures]})),
        "--folds": str(group.folds or ""),
        "--backbone": backbone,
        "--regions": regions,
        "--vectors": group.vectors,
        "--text-encoder": group.text_encoder,
        "--contrasts": first.data.contrasts if first else "",
        "--threads": str(first.environment.get("threads") or "") if first else "",
    }
    usual = {"-s": "0", "--vectors": "ppmi-svd", "--threads": "1"}
    given = [part for name, value in options.items() if value not in ("", usual.get(name)) for part in (name, value)]
    return ["cran-bench", "run", *given]


def _seeds(seeds: Sequence[int]) -> str:
    is_range = len(seeds) > 1 and all(b - a == 1 for a, b in pairwise(seeds))
    return f"{seeds[0]}:{seeds[-1] + 1}" if is_range else ",".join(map(str, seeds))


def _each(row: Row, of: Callable[[Record], str]) -> str:
    """A text of each seed: once if all have the same."""
    texts = {record.seed: of(record) for record in row.records}
    same = len(set(texts.values())) == 1
    return next(iter(texts.values())) if same else "; ".join(f"seed {seed}: {text}" for seed, text in texts.items())


def _of_seeds(row: Row, of: Callable[[Record], Mapping[str, Any]]) -> Lines:
    def shown(name: str, record: Record) -> str:
        return (format_value(of(record)[name]) or "empty") if name in of(record) else "none"

    names = dict.fromkeys(name for record in row.records for name in of(record))
    return [(name, _each(row, partial(shown, name))) for name in names]


def _said(*lines: tuple[str, str]) -> Lines:
    """The lines that have a value."""
    return [line for line in lines if line[1]]


def _method(row: Row) -> Lines:
    name, method = row.spec.name, row.records[0].method if row.records else None
    known = name in (*METHODS.names(), *METHODS.with_argument())
    changes = [
        f"{key}={value}"
        for key, value in recorded_spec(row.label).options.items()
        if key not in ("unit", "metric", "tune")
    ]
    return _said(
        ("method", METHODS.describe(name).summary if known else f"{name}, which is not installed here"),
        *(_docstring(name) if known else ()),
        ("preset", row.spec.argument or "none"),
        ("options beside the preset", ", ".join(changes) or "none"),
        ("row of the paper", (method.paper_row or "none") if method else ""),
        ("input of the text side", str(method.parameters.get("text") or "") if method else ""),
    )


def _docstring(name: str) -> Lines:
    """The papers and the first equation in the docstring of a method's module."""
    try:
        text = module_text(METHODS.get(name).cls)
    except BadInput:
        return []
    block = next((part for part in text.split("\n\n") if part.startswith("    ")), "")
    papers = "; ".join(_CITATION.findall(" ".join(text.split())))
    return [("publication", papers), ("equation", "\n".join(line.strip() for line in block.split("\n")))]


def _data(row: Row, table: Table) -> Lines:
    group, data = table.group, row.records[0].data if row.records else None
    meaning = {str(name): f": {text}" for name, text in MEANING.items()}.get(group.protocol, "")
    lines = _said(
        ("dataset", group.dataset),
        ("test split", f"{data.images:,} images, {data.captions:,} captions" if data else ""),
        ("sha256 of the split", group.split_sha),
        ("protocol", group.protocol + meaning),
        ("folds", f"mean of {group.folds}" if group.folds else ""),
        ("front end", group.front_end),
        ("word vectors", group.vectors),
        ("text encoder", group.text_encoder),
    )
    if data is None:
        return lines
    fit, roles = data.fitted_on, row.records[0].method.encoders
    return lines + _said(
        ("encoders that it reads", ", ".join(ROLES.get(role, role) for role in roles) or "not recorded"),
        ("training of these", described({role: data.trained_on.get(role) for role in roles})),
        ("exposed to the test split", "; ".join(row.exposures) or ("no" if roles else "not known")),
        ("fitted on", f"{fit.label}, split {fit.split_sha}: {fit.remark(data.images, data.captions)}" if fit else ""),
    )


def _results(row: Row, table: Table) -> Lines:
    task, group, standing = table.task, table.group, table.places().get(row.label)
    order = [*OF_RECALL, *task.columns, *table.figures]
    gap, digits = table.behind_best().get(row.label), task.digits(task.headline)
    place = f"best of {len(table.ranked)} rows" if standing == "best" else ""
    if gap is not None:
        word = "may be the best" if standing == "maybe" else "is not the best"
        place = f"{gap.value:z.{digits}f} [{gap.low:z.{digits}f}, {gap.high:z.{digits}f}], {word}"
    return _said(
        *((f"sha256 of the {name}", getattr(group, name)) for name in ("labels", "contrasts", "judgments")),
        *((_named(name), _figure(row, table, name)) for name in sorted(table.figures, key=order.index)),
        (f"{heading(task.headline)} behind the best row", place),
        ("queries whose rank depends on ties", _each(row, lambda record: f"{record.ties:,}")),
    )


def _named(figure: str) -> str:
    side, _, name = figure.partition("_")
    return f"{side} {_RECALLS.get(name) or name.replace('r', 'R@')}" if figure in OF_RECALL[:-1] else heading(figure)


def _figure(row: Row, table: Table, name: str) -> str:
    """A mean over seeds, with the deviation over them and the 95 % interval over images."""
    value, task = row.mean(name), table.task
    if np.isnan(value):
        return ""
    digits = task.digits(name)
    text = f"{value:z.{digits}f}" if task.has(name) or name in task.columns else f"{value:.6g}"
    text += f" ± {row.deviation(name):.{digits}f}" * (len(row.records) > 1)
    if table.has_intervals and task.has(name):
        text += " [{:z.{d}f}, {:z.{d}f}]".format(*table.samples[row.label].interval(name).ends, d=digits)
    return text


def _paper(row: Row) -> Lines:
    reason = _each(row, lambda record: "; ".join(differences_from_paper(record)))
    first = row.records[0]
    own = dataset_name(first.data.label), first.method.paper_row, first.protocol
    rows = [one for table in TABLES for one in paper_rows(table) if not reason and row.task is RECALL]
    printed = [
        (f"printed in Table {one.table}", ", ".join(f"{_named(name)} {x:.1f}" for name, x in one.values.items()))
        for one in rows
        if (one.dataset, one.name, one.protocol) == own
    ]
    return [("comparable", f"no: {reason}" if reason else "yes"), *printed]


def _tuning(record: Record) -> str:
    about = record.method.tuning
    if about is None:
        return ""
    space = ", ".join(f"{name}={format_value(values)}" for name, values in about.space.items())
    scores = ", ".join("failed" if rsum is None else f"{rsum:.1f}" for rsum in about.rsum)
    which = f"trial {about.chosen + 1} of {len(about.tried)}, drawn with seed {about.seed} from {space or 'nothing'}"
    return f"{which}; on validation: {scores}"


def _training(row: Row) -> Lines:
    return _said(
        ("trained on", _each(row, lambda record: record.method.unit)),
        ("seeds", ", ".join(str(record.seed) for record in row.records)),
        ("fitted again with validation", _each(row, lambda record: "yes" if record.method.refit else "no")),
        ("tuned", _each(row, _tuning)),
    )


def _cost(row: Row) -> Lines:
    mean = ", mean over seeds" * (len(row.records) > 1)
    most = {
        name: max(getattr(one, name) or 0 for one in row.records) / 1e6 for name in ("peak_memory", "peak_memory_gpu")
    }
    return _said(
        *((f"{phase}, seconds", f"{row.seconds(phase):.4g}{mean}") for phase in PHASES),
        *((_plain(name.replace("_", " ")), f"{size:,.0f} MB" if size else "") for name, size in most.items()),
        ("device", _each(row, lambda record: record.device)),
        ("similarity", _each(row, lambda r: f"{r.similarity.name} by {r.similarity.kernel}, {r.similarity.dtype}")),
        *((name, _each(row, partial(_environment, name))) for name in _MACHINE),
    )


def _environment(name: str, record: Record) -> str:
    return str(record.environment.get(name) or "")


def _provenance(row: Row) -> Lines:
    def versions(record: Record) -> str:
        others = [name for name in record.environment if name not in (*_MACHINE, "commit")]
        return ", ".join(f"{name} {text}" for name in others if (text := _environment(name, record)))

    return _said(
        (
            "commit",
            _each(row, partial(_environment, "commit")).replace("+", ", with uncommitted changes") or "not known",
        ),
        ("versions", _each(row, versions)),
        ("sha256 of the code", _each(row, lambda record: record.method.code_sha)),
        ("sha256 of the features", _each(row, lambda record: record.data.features_sha)),
        ("fingerprint", _each(row, lambda record: record.fingerprint)),
        ("fingerprint of the fit", _each(row, lambda record: record.method.fit_fingerprint)),
        ("started", _each(row, lambda record: record.started)),
        ("records", "; ".join(address(run.path) for run in row.runs)),
    )


def _limits(row: Row, table: Table) -> Lines:
    """What the row cannot show."""
    group, data = table.group, row.records[0].data if row.records and row.task is RECALL else None
    small = small_set_notes(data.images, data.captions, group.protocol != "captions", group.folds) if data else []
    return _said(
        ("one seed", "intervals are over images only" if len(row.records) == 1 else ""),
        ("quick", "less data and training, not for comparison" if group.quick else ""),
        ("exposed", "; ".join(row.exposures)),
        ("order of words", "not seen: pairs with the same words tie, exactly 50 %" if row.is_order_unseen else ""),
        *(("small test split", note) for note in small),
        ("no intervals", "" if table.has_intervals else "too many records were read at once"),
        ("uncommitted changes", "the commit is not all that ran" if any("*" in c for c in row.commits) else ""),
        *((failure.status, failure.sentence) for failure in row.failures),
    )
