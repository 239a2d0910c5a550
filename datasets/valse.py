"""VALSE: captions and foils of six linguistic phenomena, checked by people (Parcalabescu et al., ACL 2022)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import TypeAdapter

from cran_bench import register_dataset

from ._contrasts import Contrast, OnlyContrasts, Place, coco_roots, contrast, parsed

KINDS = (
    *("existence", "plurals", "counting-hard", "counting-small-quant", "counting-adversarial", "relations"),
    *("action-replacement", "actant-swap", "coreference-standard", "coreference-hard", "foil-it"),
)
VALID = 2
"""How many of three people must have chosen the caption, and not the foil, as the one that describes the image."""


@dataclass
class _Votes:
    caption: int


@dataclass
class _Foil:
    image_file: str
    caption: str
    foil: str
    mturk: _Votes


FOILS = TypeAdapter(dict[str, _Foil])


@register_dataset("valse", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class Valse(OnlyContrasts):
    """The owners' files in ``valse/`` or ``VALSE/`` below the data folder, for testing only.

    ``existence.json``, ``plurals.json``, ``counting-*.json``, ``relations.json``, ``action-replacement.json``,
    ``actant-swap.json``, ``coreference-*.json`` and ``foil-it.json``, or some of them, may be in ``data/``; the kind of
    a contrast is the name of its file.  Only contrasts that the owners call valid are read: two of three people found
    that the caption, and not the foil, describes the image.

    The images are of Visual7W, MS-COCO, SWiG and VisDial, and are found by name in any folder below ``images/``, below
    the folder of the files if there is no ``images/``, and in the folders of ``mscoco``.  Contrasts without an image
    are left out and counted.
    """

    label = "valse"
    folders = ("valse", "VALSE")
    files: ClassVar = {f"{kind}.json": (kind,) for kind in KINDS}
    source = "https://github.com/Heidelberg-NLP/VALSE (folder data)"
    photographs = "put the folders of Visual7W, MS-COCO, SWiG and VisDial below images/ there, each from its owners"

    def read(self, path: Path, remarks: list[str]) -> Iterator[Contrast]:
        foils = parsed(path, FOILS)
        valid = {key: foil for key, foil in foils.items() if foil.mturk.caption >= VALID}
        if len(valid) < len(foils):
            remarks.append(f"{path.stem}: {len(foils) - len(valid):,} of {len(foils):,} contrasts are not valid")
        for key, foil in valid.items():
            yield contrast(f"{path}, entry {key}", foil.image_file, foil.caption, foil.foil, path.stem)

    def places(self, home: Path, data: Path) -> list[Place]:
        parts = [f"{part}{year}" for part in ("val", "train") for year in (2014, 2017)]
        inside = home / "images" if (home / "images").is_dir() else home
        return [
            *map(Place, _folders(inside)),
            *(Place(root / part) for root in coco_roots(home, data) for part in parts),
        ]


def _folders(top: Path) -> list[Path]:
    """All folders below one, links followed, each once, in the order of their names."""
    found, seen = [], set[str]()
    for folder, below, _ in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = sorted(below) if real not in seen else []
        if real not in seen:
            found.append(Path(folder))
        seen.add(real)
    return found
