"""SugarCrepe: 7,511 pairs of a caption and a hard negative on photographs of MS-COCO (Hsieh et al., NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import TypeAdapter

from cran_bench import register_dataset

from ._contrasts import COCO_ZIP, Contrast, OnlyContrasts, Place, coco_roots, contrast, parsed

KINDS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")


@dataclass
class _Pair:
    filename: str
    caption: str
    negative_caption: str


PAIRS = TypeAdapter(dict[str, _Pair])


@register_dataset("sugarcrepe", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class SugarCrepe(OnlyContrasts):
    """The owners' files in ``sugarcrepe/`` or ``sugar-crepe/`` below the data folder, for testing only.

    ``add_att.json``, ``add_obj.json``, ``replace_att.json``, ``replace_obj.json``, ``replace_rel.json``,
    ``swap_att.json`` and ``swap_obj.json``, or some of them, may be in ``data/``; the kind of a contrast is the name of
    its file.  The images are those of MS-COCO in ``val2017/`` or ``val2014/``, which may be in ``images/``,
    ``mscoco/`` or ``coco/``.  Contrasts without an image are left out and counted.
    """

    label = "sugarcrepe"
    folders = ("sugarcrepe", "sugar-crepe")
    files: ClassVar = {f"{kind}.json": (kind,) for kind in KINDS}
    source = "https://github.com/RAIVNLab/sugar-crepe (folder data)"
    photographs = f"unpack {COCO_ZIP.format('val2017')} there, or val2014.zip"

    def read(self, path: Path, remarks: list[str]) -> Iterator[Contrast]:
        for key, pair in parsed(path, PAIRS).items():
            yield contrast(f"{path}, entry {key}", pair.filename, pair.caption, pair.negative_caption, path.stem)

    def places(self, home: Path, data: Path) -> list[Place]:
        roots = coco_roots(home, data)
        return [
            *(Place(root / "val2017") for root in roots),
            *(Place(root / "val2014", "COCO_val2014_") for root in roots),
        ]
