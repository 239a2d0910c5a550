"""Flickr8k: 8,000 photographs of people and animals, five captions each (Hodosh, Young, Hockenmaier, JAIR 2013)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
from ._captions import caption_rows
from ._contrasts import own_need, with_contrasts
from ._flickr import overlap
from ._judgments import flickr8k_needs, qrels_needs, tested_ids, with_flickr8k, with_qrels

TOKENS = "Flickr8k.token.txt"
LISTS = {split: f"Flickr_8k.{name}Images.txt" for split, name in zip(SPLITS, ("train", "dev", "test"), strict=True)}
FOLDERS = ("images", "Flicker8k_Dataset", "Flickr8k_Dataset", "Images")
KARPATHY, KAGGLE = "dataset_flickr8k.json", "captions.txt"


@register_dataset("flickr8k", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class Flickr8k(Photographs):
    """The original files in the data folder or in ``flickr8k/`` below it.

    The texts (``Flickr8k.token.txt`` and the three ``Flickr_8k.*Images.txt``) may be in ``Flickr8k_text/``; the
    photographs are in ``images/``, ``Flicker8k_Dataset/``, ``Flickr8k_Dataset/`` or ``Images/``.  The validation split
    is the authors' dev split.  Images and captions outside the splits are ignored.

    ``dataset_flickr8k.json`` from Karpathy's caption_datasets.zip may replace the lists, which it agrees with, and the
    captions; Kaggle's ``captions.txt`` may replace the captions.

    The authors' human judgments are read where they are there, in the same folders or in ``judgments/``:
    ``ExpertAnnotations.txt``, three scores from 1 to 4 for a test image and a test caption, and
    ``CrowdFlowerAnnotations.txt``, the share of yes.  Beside agreement they give recall that counts what people
    approved, by a mean score of 3 or two thirds of yes, with the images and captions they judged as queries and own
    captions always right.  ``i2t.qrels`` and ``t2i.qrels`` in TREC's format give right answers of your own.
    """

    def needs(self, data: Path) -> list[Need]:
        folder = home(data, "flickr8k")
        source = "{} from the authors, by the form of the University of Illinois: https://hockenmaier.cs.illinois.edu"
        texts = source.format("Flickr8k_text.zip")
        json = first_of(folder, KARPATHY)
        captions = Need(f"{TOKENS} or {KAGGLE}", _path(folder, TOKENS) or first_of(folder, KAGGLE), texts, bool(json))
        lists = [Need(name, _path(folder, name), texts, bool(json)) for name in LISTS.values()]
        return [
            Need(" or ".join(FOLDERS), first_of(folder, *FOLDERS), source.format("Flickr8k_Dataset.zip")),
            *(captions, *lists, Need(KARPATHY, json, KARPATHY_ZIP, optional=True)),
            *(*flickr8k_needs(folder), *qrels_needs(folder), own_need(folder)),
        ]

    def load(self, data: Path) -> Collection:
        folder = home(data, "flickr8k")
        photographs = next((folder / name for name in FOLDERS if (folder / name).is_dir()), None)
        if photographs is None:
            raise BadInput(
                f"{folder} does not contain Flickr8k (no folder {' or '.join(FOLDERS)}): pass --data DIR or set "
                "CRAN_BENCH_DATA; cran-bench prepare flickr8k --check lists the files"
            )
        json, kaggle = folder / KARPATHY, folder / KAGGLE
        images = read_karpathy(json, "flickr8k") if json.is_file() else []
        if images and not any(_path(folder, name) for name in LISTS.values()):
            lists = dict.fromkeys(SPLITS, json)
            members = {split: [image.path for image in images if image.split == split] for split in SPLITS}
        else:
            lists = {split: _find(folder, name) for split, name in LISTS.items()}
            members = {split: read_list(path) for split, path in lists.items()}
            check_disjoint(members, lists)
        for split, path in lists.items():
            check_images(members[split], path, photographs)
        every = {name for names in members.values() for name in names}
        if images and not _path(folder, TOKENS):
            numbered, outside = {image.path: dict(enumerate(image.captions)) for image in images}, 0
        elif kaggle.is_file() and not _path(folder, TOKENS):
            captions, outside = _kaggle(kaggle, every)
            numbered = {name: dict(enumerate(own)) for name, own in captions.items()}
        else:
            numbered, outside = read_captions(_find(folder, TOKENS), every)
        kept = limited(members, self.limit)
        ignored = [f"{outside} captions of images outside the splits are ignored"] if outside else []
        every_caption = {name: [*own.values()] for name, own in numbered.items()}
        remarks = [*ignored, overlap(kept, "flickr30k", data)]
        made = make_collection("flickr8k", photographs, kept, every_caption, remarks)
        limit = self.limit is not None
        keys = [f"{name}#{k}" for name in kept["test"] for k in numbered[name]]
        made = with_flickr8k(made, folder, tested_ids(made, limit, kept["test"], keys))
        return with_contrasts(with_qrels(made, folder, limit), folder, self.limit)


def _kaggle(path: Path, members: set[str]) -> tuple[dict[str, list[str]], int]:
    """The captions of each image in `members`, and the number of captions of other images."""
    captions: dict[str, list[str]] = {}
    outside = 0
    for row in caption_rows(path):
        if row.image in members:
            captions.setdefault(row.image, []).extend(text.strip() for text in row.captions)
        outside += row.image not in members
    return captions, outside


def _path(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / "Flickr8k_text" / name) if path.is_file()), None)


def _find(folder: Path, name: str) -> Path:
    if path := _path(folder, name):
        return path
    raise BadInput(
        f"there is no {name} in {folder} or {folder / 'Flickr8k_text'}; unpack Flickr8k_text.zip there, or add "
        f"{KARPATHY} of Karpathy's caption_datasets.zip (without a list of splits, read the folder as 'folder')"
    )
