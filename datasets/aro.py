"""ARO: relations, attributes and the order of words, exchanged (Yuksekgonul et al., ICLR 2023)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, FiniteFloat, TypeAdapter

from cran_bench import make_swaps, register_dataset, say

from ._contrasts import COCO_ZIP, Contrast, OnlyContrasts, Place, coco_roots, contrast, parsed

CASES_OF = {"visual_genome_relation.json": "vg-relation", "visual_genome_attribution.json": "vg-attribution"}
CAPTIONS_OF = {"coco_karpathy_test.json": "coco", "flickr30k_test.json": "flickr"}
ORDERS = ("nouns-adjectives", "other-words", "in-trigrams", "trigrams")
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

    @property
    def both_ways(self) -> bool:
        return SYMMETRIC.fullmatch(self.relation_name) is not None

    @property
    def equal(self) -> bool:
        return self.true_caption.split() == self.false_caption.split()


@dataclass
class _Described:
    image: str
    caption: list[str]


CASES = TypeAdapter(list[_Case])
DESCRIBED = TypeAdapter(list[_Described])


@register_dataset("aro", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class Aro(OnlyContrasts):
    """The owners' files in ``aro/`` or ``ARO/`` below the data folder, or some of them, for testing only.

    ``visual_genome_relation.json`` and ``visual_genome_attribution.json`` have the kinds `vg-relation` and
    `vg-attribution`; their photographs of Visual Genome, in ``images/``, are cut to the box of each case.  Contrasts of
    relations that hold both ways, such as `near`, or with two equal captions are left out and counted.

    Of the captions in ``coco_karpathy_test.json`` and ``flickr30k_test.json``, at most 1,000 are drawn for each of four
    orders: nouns and adjectives shuffled (`coco-nouns-adjectives`, `flickr-nouns-adjectives`), all but them
    (`other-words`), the words of each three in a row (`in-trigrams`), and these threes (`trigrams`).  The images are in
    ``val2014/`` of MS-COCO and ``flickr30k-images/``.  Contrasts without an image are left out and counted.

    Attributes:
        seed: seed of the orders.
    """

    seed: int = 0

    label = "aro"
    folders = ("aro", "ARO")
    files: ClassVar = {
        **{file: (kind,) for file, kind in CASES_OF.items()},
        **{file: tuple(f"{source}-{order}" for order in ORDERS) for file, source in CAPTIONS_OF.items()},
    }
    source = "https://github.com/mertyg/vision-language-models-are-bows (dataset_zoo downloads it)"
    photographs = f"the authors' vgr_vga_images.zip for cases; Flickr30K or {COCO_ZIP.format('val2014')} for captions"

    def read(self, path: Path, remarks: list[str]) -> Iterator[Contrast]:
        return self._cases(path, remarks) if path.name in CASES_OF else self._orders(path)

    def _cases(self, path: Path, remarks: list[str]) -> Iterator[Contrast]:
        cases, kind = parsed(path, CASES), CASES_OF[path.name]
        both_ways, equal = sum(case.both_ways for case in cases), sum(case.equal for case in cases)
        if both_ways or equal:
            what = f"{both_ways:,} of relations that hold both ways, {equal:,} with two equal captions"
            remarks.append(f"{kind}: of {len(cases):,} contrasts, {what} are left out")
        for number, case in enumerate(cases):
            if not (case.both_ways or case.equal):
                where, box = f"{path}, entry {number}", (case.bbox_x, case.bbox_y, case.bbox_w, case.bbox_h)
                yield contrast(where, case.image_path, case.true_caption, case.false_caption, kind, box=box)

    def _orders(self, path: Path) -> Iterator[Contrast]:
        described = parsed(path, DESCRIBED)
        of = [(k, one.image, text) for k, one in enumerate(described) for text in one.caption]
        say(f"shuffling the words of {len(of):,} captions")
        swaps = make_swaps([text for *_, text in of], self.seed)
        for place, false, kind in zip(swaps.caption.tolist(), swaps.false, swaps.kind.tolist(), strict=True):
            if swaps.kinds[kind] in ORDERS:
                number, image, text = of[place]
                name = f"{CAPTIONS_OF[path.name]}-{swaps.kinds[kind]}"
                yield contrast(f"{path}, entry {number}", image, text, false, name)

    def places(self, home: Path, data: Path) -> list[Place]:
        return [Place(root) for root in (home / "images", home, *coco_roots(home, data), data / "flickr30k")]
