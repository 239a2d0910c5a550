"""Flickr30K: 31,783 photographs of people and animals, five captions each (Young et al., TACL 2014)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cran_bench import SPLITS, BadInput, Collection, Need, first_of, register_dataset

from ._annotations import (
    KARPATHY_ZIP,
    Photographs,
    check_disjoint,
    check_images,
    home,
    limited,
    make_collection,
    read_captions,
    read_karpathy,
    read_list,
)
from ._contrasts import own_need, with_contrasts
from ._entities import FOLDERS, SOURCE, find_entities, read_entities
from ._flickr import overlap
from ._judgments import qrels_needs, with_qrels

TOKENS = "results_20130124.token"
KARPATHY = "dataset_flickr30k.json"
IMAGES = "flickr30k-images"
ENTITIES_ONLY = f"the split is that of Flickr30K Entities, as there is no {KARPATHY}"


@register_dataset("flickr30k", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class Flickr30k(Photographs):
    """The original files in the data folder or in ``flickr30k/`` below it.

    ``results_20130124.token`` and the folder ``flickr30k-images`` are available from the authors by a form.  The split
    is ``dataset_flickr30k.json`` from Karpathy's caption_datasets.zip, or ``train.txt``, ``val.txt`` and ``test.txt``
    from the Flickr30K Entities repository.  Captions of images outside the splits are ignored.
    ``i2t.qrels`` and ``t2i.qrels`` in TREC's format give test images and captions right answers beyond their own.

    Attributes:
        split: `karpathy` (29,000 / 1,014 / 1,000 images), as used by VSE++ and SCAN, or `entities` (29,783 / 1,000 /
            1,000), which matches the 31,784 images of the CRAN paper; `auto` for Karpathy's, or Entities if only that
            is there.  The choice changes recall by 1 to 2 points.
        phrases: whether to read the phrases and boxes of Flickr30K Entities, from ``Sentences`` and ``Annotations`` in
            its ``annotations.zip``.
    """

    split: Literal["auto", "karpathy", "entities"] = "auto"
    phrases: bool = False

    def _split(self, folder: Path) -> str:
        is_entities = first_of(folder, KARPATHY) is None and all(first_of(folder, f"{s}.txt") for s in SPLITS)
        return self.split if self.split != "auto" else "entities" if is_entities else "karpathy"

    def needs(self, data: Path) -> list[Need]:
        folder = home(data, "flickr30k")
        authors = "{} from the authors, by the form at https://shannon.cs.illinois.edu/DenotationGraph"
        entities = "https://github.com/BryanPlummer/flickr30k_entities"
        splits = (
            [(KARPATHY, KARPATHY_ZIP)]
            if self._split(folder) == "karpathy"
            else [(f"{s}.txt", entities) for s in SPLITS]
        )
        return [
            Need(IMAGES, first_of(folder, IMAGES), authors.format("flickr30k-images.tar.gz")),
            Need(TOKENS, first_of(folder, TOKENS), authors.format("flickr30k.tar.gz")),
            *(Need(name, first_of(folder, name), source) for name, source in splits),
            *(Need(name, find_entities(folder, name), SOURCE, optional=not self.phrases) for name in FOLDERS),
            *(*qrels_needs(folder), own_need(folder)),
        ]

    def load(self, data: Path) -> Collection:
        folder = home(data, "flickr30k")
        photographs = folder / IMAGES
        if not photographs.is_dir():
            raise BadInput(
                f"{folder} does not contain Flickr30K (no folder {IMAGES}): pass --data DIR or set CRAN_BENCH_DATA; "
                "cran-bench prepare flickr30k --check lists the files"
            )
        chosen = self._split(folder)
        members, origins = self._karpathy(folder) if chosen == "karpathy" else self._entities(folder)
        for split, names in members.items():
            check_images(names, origins[split], photographs)
        numbered, outside = read_captions(
            _require(folder, TOKENS, "it is part of the authors' flickr30k.tar.gz"),
            {name for names in members.values() for name in names},
        )
        kept = limited(members, self.limit)
        remarks = [f"{outside} captions of images outside the splits are ignored"] if outside else []
        if (self.split, chosen) == ("auto", "entities"):
            remarks.insert(0, ENTITIES_ONLY)
        collection = make_collection(
            "flickr30k",
            photographs,
            kept,
            {name: [*own.values()] for name, own in numbered.items()},
            remarks=[*remarks, overlap(kept, "flickr8k", data)],
        )
        phrases = read_entities(folder, collection.images.ids) if self.phrases else None
        made = with_qrels(replace(collection, phrase_boxes=phrases), folder, self.limit is not None)
        return with_contrasts(made, folder, self.limit)

    def _karpathy(self, folder: Path) -> tuple[dict[str, list[str]], dict[str, Path]]:
        path = _require(
            folder,
            KARPATHY,
            "it is in Karpathy's caption_datasets.zip; or use the Flickr30K Entities split, flickr30k[split=entities]",
        )
        images = read_karpathy(path, "flickr30k")
        return {s: [i.name for i in images if i.split == s] for s in SPLITS}, dict.fromkeys(SPLITS, path)

    def _entities(self, folder: Path) -> tuple[dict[str, list[str]], dict[str, Path]]:
        remedy = "it is in the Flickr30K Entities repository; or use Karpathy's split, flickr30k[split=karpathy]"
        origins = {split: _require(folder, f"{split}.txt", remedy) for split in SPLITS}
        members = {split: read_list(path, ".jpg") for split, path in origins.items()}
        check_disjoint(members, origins)
        return members, origins


def _require(folder: Path, name: str, remedy: str) -> Path:
    if not (folder / name).is_file():
        raise BadInput(f"there is no {name} in {folder}: {remedy}")
    return folder / name
