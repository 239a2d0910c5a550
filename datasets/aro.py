"""ARO: relations, attributes and the order of words, exchanged (Yuksekgonul et al., ICLR 2023)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, FiniteFloat, TypeAdapter

from cran_bench import register_dataset

from ._contrasts import COCO_ZIP, Contrast, OnlyContrasts, Owned, Place, coco_roots, contrast, parsed

VISUAL_GENOME = {"visual_genome_relation.json": "vg-relation", "visual_genome_attribution.json": "vg-attribution"}
ORDER = {"coco_karpathy_test.json": "coco", "flickr30k_test.json": "flickr"}
SYMMETRIC = re.compile(
    r"((lying|parked|sitting|standing|walking) )?(beside|near|next to|on the side of)"
    r"|by|close to|facing|hugging|mixed with|talking to|touching|with"
)
"""Relations that hold both ways, so that exchanging their objects makes no false caption."""
Side = Annotated[FiniteFloat, Field(gt=0)]


@dataclass
class _Case:
    image_path: str
    bbox_x: FiniteFloat
    bbox_y: FiniteFloat
    bbox_w: Side
    bbox_h: Side
    true_caption: str
    false_caption: str
    relation_name: str = ""


CASES = TypeAdapter(list[_Case])


@register_dataset("aro", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class Aro(OnlyContrasts):
    """The owners' files in ``aro/`` or ``ARO/`` below the data folder, or some of them, for testing only.

    ``visual_genome_relation.json`` and ``visual_genome_attribution.json`` are read with the photographs of Visual
    Genome in ``images/``, cut to the box of each case.  Contrasts whose two captions are equal, and those of relations
    that hold both ways, such as `near`, are left out and counted, as are contrasts without an image.
    """

    owned = Owned(
        name="aro",
        folders=("aro", "ARO"),
        files={name: (kind,) for name, kind in VISUAL_GENOME.items()},
        source="https://github.com/mertyg/vision-language-models-are-bows (VG_Relation with download=True)",
        images="unpack vgr_vga_images.zip of the authors there",
    )

    def read(self, path: Path, remarks: list[str]) -> Iterator[Contrast]:
        cases, kind = parsed(path, CASES), VISUAL_GENOME[path.name]
        both_ways = [bool(SYMMETRIC.fullmatch(case.relation_name)) for case in cases]
        equal = [case.true_caption.split() == case.false_caption.split() for case in cases]
        for what, some in (("relations that hold both ways", both_ways), ("two equal captions", equal)):
            if any(some):
                remarks.append(f"{kind}: {sum(some):,} of {len(cases):,} contrasts of {what} are left out")
        for number, case in enumerate(cases):
            if not (both_ways[number] or equal[number]):
                box = (case.bbox_x, case.bbox_y, case.bbox_w, case.bbox_h)
                yield contrast(
                    f"{path}, entry {number}", case.image_path, case.true_caption, case.false_caption, kind, box=box
                )

    def places(self, home: Path, data: Path) -> list[Place]:
        return [Place(root) for root in (home / "images", home, *coco_roots(home, data))]
