"""Records as the lines of one data frame: finished runs, older ones of the same row, and runs that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cran_bench.errors import BadInput
from cran_bench.machine.extras import require
from cran_bench.machine.storage import canonical_json, write_atomically
from cran_bench.ranking.agreement import CORRELATIONS
from cran_bench.ranking.precisions import CATEGORY_METRICS
from cran_bench.records.schema import DataInfo, Failure, FittedOn, Record
from cran_bench.records.store import Finished, folder_of
from cran_bench.records.tasks import FIGURES, evidence_metrics
from cran_bench.tables.figures import PHASES
from cran_bench.tables.tables import build_tables

if TYPE_CHECKING:
    import pandas as pd

_SECONDS = tuple(f"{phase}_s" for phase in PHASES)
OF_RECALL = *FIGURES, "i2t_medr", "i2t_meanr", "t2i_medr", "t2i_meanr", "rsum"
ENDINGS = ".csv", ".parquet"
COLUMNS = {
    "row": "dataset quick fitted_on front_end vectors text_encoder contrasts_made protocol folds images captions "
    "method plugin preset paper_row reference unit seed status reason shown exposures",
    "figures": " ".join(OF_RECALL),
    "cost": " ".join(("ties", *_SECONDS, "peak_memory", "peak_memory_gpu", "device", "cpu", "gpu", "threads", "torch")),
    "fit": "parameters chose tuning refit encoders trained_on overlap",
    "scores": "similarity kernel kernel_dtype kernel_bound kernel_tolerance kernel_rescored kernel_error",
    "origin": "environment commit started fingerprint fit_fingerprint code_sha split_sha features_sha sources_sha "
    "images_sha extras_sha labels_sha texts_sha contrasts_sha judgments_sha ranks_sha checksum schema_version "
    "folder path",
}
"""The columns in their order; further figures, where any record has them, follow those here: `twin_accuracy`, the
figures by category, and those of contrasts and judgments by name.  Columns of JSON are objects as text."""

_COUNTS = "ties", "peak_memory", "peak_memory_gpu", "threads", "kernel_rescored"
_SIZES = "kernel_tolerance", "kernel_error", *_SECONDS
_ABSENT = {
    **{name: "" for group, names in COLUMNS.items() if group != "figures" for name in names.split()},
    **{**dict.fromkeys((*_COUNTS, *_SIZES)), "refit": False},
}
"""What a line has in a column that says nothing of it; figures are NaN."""


def record_frame(
    runs: Sequence[Finished], failures: Sequence[Failure] = (), related: Sequence[Finished] = ()
) -> pd.DataFrame:
    """A line for each finished or failed run, sorted by dataset, protocol, folds, method, seed and start.

    `shown` is true for the newest run of a row and seed, which tables of recall show; `path` leads there from
    `folder`, that of results.  Texts that are absent are '', numbers NaN.

    Args:
        runs: finished runs.
        failures: failed or damaged ones, whose `status` and `reason` say so.
        related: other runs, as for `build_tables`.
    """
    import pandas as pd

    tables = build_tables(runs, failures, related)
    shown = {id(one) for table in tables for row in table.rows for one in (*row.runs, *row.failures)}
    lines = [{**_line(run.record), **_correlations(run)} for run in runs]
    for one in failures:
        about = {"method": one.method_label, "reason": one.error, "status": one.status}
        lines.append(_cells({**dict(one), **_row(one.data, one.environment), **about}))
    several: list[Finished | Failure] = [*runs, *failures]
    for line, run in zip(lines, several, strict=True):
        line |= {"folder": str(folder_of(run)), "path": address(run.path), "shown": id(run) in shown}
    columns = {group: names.split() for group, names in COLUMNS.items()}
    known = [name for names in columns.values() for name in names]
    more = {name for line in lines for name in line}.difference(known)
    ordered = [name for name in ("twin_accuracy", *CATEGORY_METRICS) if name in more]
    columns["figures"] += [*ordered, *sorted(more.difference(ordered))]
    frame = pd.DataFrame(lines, columns=[name for names in columns.values() for name in names])
    frame = frame.astype(dict.fromkeys(_COUNTS, "Int64") | dict.fromkeys((*columns["figures"], *_SIZES), float))
    frame["started"] = pd.to_datetime(frame["started"], utc=True, format="ISO8601", errors="coerce")
    return frame.sort_values(["dataset", "protocol", "folds", "method", "seed", "started"], ignore_index=True)


def require_ending(path: Path) -> None:
    """Require a file that `write_frame` can write.

    Raises:
        BadInput: another ending than `ENDINGS`, or Parquet without pyarrow.
    """
    if path.suffix.lower() not in ENDINGS:
        raise BadInput(f"records are written as FILE.csv or FILE.parquet, not as {path.name}: choose one of the two")
    if path.suffix.lower() == ".parquet":
        require("pyarrow", "parquet", "Parquet files")


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as CSV or Parquet, as the ending says, atomically.

    Raises:
        BadInput: as for `require_ending`.
    """
    require_ending(path)
    is_text = path.suffix.lower() == ".csv"
    data = frame.to_csv(index=False).encode() if is_text else frame.to_parquet(index=False, engine="pyarrow")
    write_atomically(path, lambda file: file.write(data))


def _correlations(run: Finished) -> dict[str, float]:
    """The correlations with people's ratings that a record has, from its ranks, as reading does not verify them."""
    rated = {name for name in run.record.metrics if name.rpartition(".")[2] in CORRELATIONS}
    return {name: value for name, value in evidence_metrics(run.ranks).items() if name in rated} if rated else {}


def _line(record: Record) -> dict[str, Any]:
    method, scores = record.method, record.similarity.model_dump()
    values = {
        **method.model_dump(),
        **record.model_dump(),
        **_row(record.data, record.environment),
        **{"method": method.label, "plugin": method.name, "status": "ok"},
        **{"exposures": "; ".join(record.exposures), "encoders": " ".join(method.encoders)},
        **{f"{phase}_s": seconds for phase, seconds in record.seconds.model_dump().items()},
        **{"similarity": scores.pop("name"), "kernel": scores.pop("kernel")},
        **{f"kernel_{name}": value for name, value in scores.items()},
    }
    return {**record.metrics, **_cells(values)}


def _row(data: DataInfo, environment: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: str(environment.get(name) or "") for name in ("cpu", "gpu", "torch", "commit")}
    own = {"dataset": data.label, "fitted_on": data.fitted_on and data.fitted_on.label, "overlap": data.fitted_on}
    threads = environment.get("threads")
    known = {"environment": dict(environment), "threads": threads if isinstance(threads, int) else None}
    return {**data.model_dump(), **own, "contrasts_made": data.contrasts, **texts, **known}


def _cells(values: Mapping[str, Any]) -> dict[str, Any]:
    """A value for every column but the figures; objects as JSON."""
    known = {name: values[name] for name in _ABSENT if values.get(name) is not None}
    objects = {name: dict(value) for name, value in known.items() if isinstance(value, dict | FittedOn)}
    return {**_ABSENT, **known, **{name: canonical_json(value) for name, value in objects.items()}}


def address(path: Path) -> str:
    """The path of a record in its folder of results: ``runs/<dataset>/<protocol>/<name>``."""
    return "/".join(path.parts[-4:])
