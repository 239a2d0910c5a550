"""Flickr8k: 8,000 photographs of people and animals, five captions each (Hodosh, Young, Hockenmaier, JAIR 2013)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cran_bench import SPLITS, BadInput, Collection, Need, first_of, register_dataset

from ._annotations import (
    Photographs,
    check_disjoint,
    check_images,
    home,
    limited,
    make_collection,
    read_captions,
    read_list,
)
from ._flickr import overlap

TOKENS = "Flickr8k.token.txt"
LISTS = {split: f"Flickr_8k.{name}Images.txt" for split, name in zip(SPLITS, ("train", "dev", "test"), strict=True)}
FOLDERS = ("images", "Flicker8k_Dataset", "Flickr8k_Dataset")


@register_dataset("flickr8k", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class Flickr8k(Photographs):
    """The original files in the data folder or in ``flickr8k/`` below it.

    The texts (``Flickr8k.token.txt`` and the three ``Flickr_8k.*Images.txt``) may be in ``Flickr8k_text/``; the
    photographs are in ``images/``, ``Flicker8k_Dataset/`` or ``Flickr8k_Dataset/``.  The validation split is the
    authors' dev split.  Images and captions outside the splits are ignored.
    """

    def needs(self, data: Path) -> list[Need]:
        folder = home(data, "flickr8k")
        source = "{} from the authors, by the form of the University of Illinois: https://hockenmaier.cs.illinois.edu"
        texts = source.format("Flickr8k_text.zip")
        return [
            Need(" or ".join(FOLDERS), first_of(folder, *FOLDERS), source.format("Flickr8k_Dataset.zip")),
            *(Need(name, first_of(folder, name, f"Flickr8k_text/{name}"), texts) for name in (TOKENS, *LISTS.values())),
        ]

    def load(self, data: Path) -> Collection:
        folder = home(data, "flickr8k")
        photographs = next((folder / name for name in FOLDERS if (folder / name).is_dir()), None)
        if photographs is None:
            raise BadInput(
                f"{folder} does not contain Flickr8k (no folder {' or '.join(FOLDERS)}): pass --data DIR or set "
                "CRAN_BENCH_DATA; cran-bench prepare flickr8k --check lists the files"
            )
        lists = {split: _find(folder, name) for split, name in LISTS.items()}
        members = {split: read_list(path) for split, path in lists.items()}
        check_disjoint(members, lists)
        for split, path in lists.items():
            check_images(members[split], path, photographs)
        every = {name for names in members.values() for name in names}
        captions, outside = read_captions(_find(folder, TOKENS), every)
        kept = limited(members, self.limit)
        ignored = [f"{outside} captions of images outside the splits are ignored"] if outside else []
        return make_collection(
            "flickr8k",
            photographs,
            kept,
            captions,
            remarks=[*ignored, overlap(kept, "flickr30k", data)],
        )


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / "Flickr8k_text" / name):
        if path.is_file():
            return path
    raise BadInput(f"there is no {name} in {folder} or {folder / 'Flickr8k_text'}; unpack Flickr8k_text.zip there")
