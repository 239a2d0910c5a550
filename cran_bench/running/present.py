"""Records that the present code would make again on the present data, up to the last bits of the features.

The fingerprint of a run has these bits in it, which depend on processor and threads: another machine finds no record of
this one by its fingerprint.
"""

from __future__ import annotations

import functools
from typing import Any

from cran_bench.records.schema import DataInfo, Record
from cran_bench.registry import METHODS
from cran_bench.running.fits import fields_json
from cran_bench.running.runner import code_sha
from cran_bench.specs import parse_spec

_FREE = "features_sha", "trained_on"  # fields of `DataInfo` that may differ: the last bits, and what is declared
_ASKED = "contrasts", "contrasts_sha", "judgments_sha"  # those that matter where a row was asked for them


def is_by_present_code(record: Record) -> bool:
    """Whether the method that a record names has the same fields today, and the same code that numbers depend on."""
    method = record.method
    found = _present(method.label, _is_asked(record) and bool(record.data.contrasts_sha or record.data.judgments_sha))
    if found is None or found[0] != method.code_sha:
        return False
    chosen = set(method.chose) if method.refit else set()
    now, then = ({k: x for k, x in of.items() if k not in chosen} for of in (found[1], method.parameters))
    return bool(method.tuning) or now == then


def is_of_data(record: Record, data: DataInfo) -> bool:
    """Whether a record is of this data: the same split, made into features from the same sources by the same encoders.

    Contrasts and judgments have to be the same only where the record may have them: captions, without folds.
    """
    left_out = {*_FREE, *(() if _is_asked(record) else _ASKED)}
    now, then = (
        {
            **{name: getattr(one, name) for name in DataInfo.model_fields if name not in left_out},
            "fitted_on": one.fitted_on and one.fitted_on.model_dump(exclude={"features_sha"}),
        }
        for one in (data, record.data)
    )
    return bool(record.data.sources_sha) and now == then


def _is_asked(record: Record) -> bool:
    return record.protocol == "captions" and not record.folds


@functools.cache
def _present(label: str, is_judged: bool) -> tuple[str, dict[str, Any]] | None:
    """The sha256 of the code and the fields of the method with this label; None if there is none today.

    A label that names a file is none either: reading a record never runs code that the record names.
    """
    try:
        if parse_spec(label).name not in METHODS.names():
            return None
        configured = METHODS.configure(label)
        if configured.label != label:
            return None
        part = configured.build()
        return code_sha(part, is_judged), fields_json(part)
    except Exception:  # of any plugin
        return None
