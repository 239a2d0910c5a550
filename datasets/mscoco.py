"""MS-COCO 2014: 123,287 photographs of everyday scenes, five captions each, 80 categories (Lin et al., ECCV 2014)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import FailFast, TypeAdapter, ValidationError

from cran_bench import SPLITS, BadInput, Collection, Need, first_of, first_wrong, register_dataset

from ._annotations import (
    KARPATHY_ZIP,
    Photographs,
    check_disjoint,
    check_images,
    home,
    image_path,
    limited,
    make_collection,
    random_split,
    read_json,
    read_karpathy,
)

YEARS = ("train2014", "val2014")
KARPATHY = "dataset_coco.json"
HELD_OUT = 5000  # images in each of val and test


@dataclass
class _Image:
    id: int
    file_name: str


@dataclass
class _Caption:
    id: int
    image_id: int
    caption: str


@dataclass
class _Instance:
    image_id: int
    category_id: int


@dataclass
class _Category:
    id: int


T = TypeVar("T")
IMAGES = TypeAdapter(Annotated[list[_Image], FailFast()])
CAPTIONS = TypeAdapter(Annotated[list[_Caption], FailFast()])
INSTANCES = TypeAdapter(Annotated[list[_Instance], FailFast()])
CATEGORIES = TypeAdapter(Annotated[list[_Category], FailFast()])


@register_dataset("mscoco", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class MSCOCO(Photographs):
    """The original files in the data folder or in ``mscoco/`` or ``coco/`` below it.

    The folders ``train2014`` and ``val2014`` may be in ``images/``; ``captions_train2014.json``,
    ``captions_val2014.json`` and, for categories, ``instances_*2014.json`` may be in ``annotations/``.

    Attributes:
        split: `karpathy`, from ``dataset_coco.json`` in Karpathy's caption_datasets.zip, with `restval` as training
            images; or `random`, with 5,000 images each for val and test, as described in the CRAN paper.
        seed: seed of the split `random`.
        captions: number of captions used per image, in the order of their ids; some images have six or seven.
    """

    split: Literal["karpathy", "random"] = "karpathy"
    seed: int = 0
    captions: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.captions < 1:
            raise ValueError(f"captions must be at least 1, not {self.captions}; the usual number is 5")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, not {self.seed}")

    def needs(self, data: Path) -> list[Need]:
        folder = _home(data)
        zips = "http://images.cocodataset.org/zips/{}.zip"
        annotations = "http://images.cocodataset.org/annotations/annotations_trainval2014.zip"

        def annotated(kind: str, optional: bool) -> list[Need]:
            names = [f"{kind}_{year}.json" for year in YEARS]
            return [Need(n, first_of(folder, n, f"annotations/{n}"), annotations, optional) for n in names]

        return [
            *(Need(year, first_of(folder, f"images/{year}", year), zips.format(year)) for year in YEARS),
            *annotated("captions", optional=False),
            *([Need(KARPATHY, first_of(folder, KARPATHY), KARPATHY_ZIP)] if self.split == "karpathy" else []),
            *annotated("instances", optional=True),
        ]

    def load(self, data: Path) -> Collection:
        folder = _home(data)
        photographs = next((f for f in (folder / "images", folder) if any((f / y).is_dir() for y in YEARS)), None)
        if photographs is None:
            raise BadInput(
                f"{folder} does not contain MS-COCO (no folder train2014 or val2014): pass --data DIR or set "
                "CRAN_BENCH_DATA; cran-bench prepare mscoco --check lists the files"
            )
        files = {year: _annotations(folder, f"captions_{year}.json") for year in YEARS}
        contents = {year: _read(path, "caption") for year, path in files.items()}
        names = {
            image.id: image_path(f"{year}/{image.file_name}")
            for year, content in contents.items()
            for image in _entries(IMAGES, content["images"], files[year], "an image has no id or file_name")
        }
        captions = _captions(contents, names, files, self.captions)
        members, origin = self._split(folder, names, files)
        kept = limited(members, self.limit)
        for split in SPLITS:
            check_images(kept[split], origin, photographs)
        by_name = {name: captions.get(image, []) for image, name in names.items()}
        labels, remarks = _labels(folder, names, [name for split in SPLITS for name in kept[split]])
        return make_collection("mscoco", photographs, kept, by_name, labels, remarks)

    def _split(
        self, folder: Path, names: Mapping[int, str], files: Mapping[str, Path]
    ) -> tuple[dict[str, list[str]], Path]:
        if self.split == "random":
            return _random_members(sorted(names.values()), self.seed), files[YEARS[0]]
        path = folder / KARPATHY
        if not path.is_file():
            raise BadInput(
                f"there is no {KARPATHY} in {folder}: it is in Karpathy's caption_datasets.zip; or use a random split, "
                "as in the paper, with mscoco[split=random]"
            )
        images = read_karpathy(path, "coco")
        members = {
            s: [image_path(f"{i.folder or _year(i.name)}/{i.name}") for i in images if i.split == s] for s in SPLITS
        }
        check_disjoint(members, dict.fromkeys(SPLITS, path))
        known = set(names.values())
        unknown = [name for split in SPLITS for name in members[split] if name not in known]
        if unknown:
            raise BadInput(
                f"{len(unknown)} images of {path} are in neither {files[YEARS[0]].name} nor {files[YEARS[1]].name}, "
                f"the first is {unknown[0]}; use files of one release"
            )
        return members, path


def _home(data: Path) -> Path:
    return home(data, "mscoco" if (data / "mscoco").is_dir() else "coco")


def _random_members(names: Sequence[str], seed: int) -> dict[str, list[str]]:
    """A random split with `HELD_OUT` images each in val and test, or a tenth each of a smaller dataset."""
    count = min(HELD_OUT, len(names) // 10)
    rows = random_split(len(names), count, seed)
    return {split: [names[row] for row in rows[split]] for split in SPLITS}


def _year(name: str) -> str:
    return YEARS[1] if "val2014" in name else YEARS[0]


def _annotations(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / "annotations" / name):
        if path.is_file():
            return path
    raise BadInput(
        f"there is no {name} in {folder} or {folder / 'annotations'}; unpack annotations_trainval2014.zip there"
    )


def _entries(kind: TypeAdapter[list[T]], entries: object, path: Path, wrong: str) -> list[T]:
    """Validate the entries of a list in an annotation file, and keep the fields that are used."""
    try:
        return kind.validate_python(entries)
    except ValidationError as error:
        raise BadInput(f"{path}: {wrong} ({first_wrong(error, 'the list')}); download the file again") from None


def _read(path: Path, key: str) -> dict[str, list[dict[str, Any]]]:
    """Read an annotation file whose annotations have `key`."""
    content = read_json(path)
    parts = [content.get(part) for part in ("images", "annotations")] if isinstance(content, dict) else [None]
    if not all(isinstance(part, list) and part for part in parts):
        raise BadInput(f"{path} is not an MS-COCO annotation file: expected an object with 'images' and 'annotations'")
    first = content["annotations"][0]
    if not isinstance(first, dict) or key not in first:
        kind = "instances" if isinstance(first, dict) and "category_id" in first else "other annotations"
        raise BadInput(f"{path} holds {kind}: its annotations have no '{key}'; download the file again")
    return dict(content)


def _captions(
    contents: Mapping[str, Mapping[str, list[dict[str, Any]]]],
    names: Mapping[int, str],
    files: Mapping[str, Path],
    most: int,
) -> dict[int, list[str]]:
    """The first `most` captions of each image, sorted by id."""
    numbered: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for year, content in contents.items():
        wrong = "an annotation has no image_id, id or caption"
        for annotation in _entries(CAPTIONS, content["annotations"], files[year], wrong):
            if annotation.image_id not in names:
                raise BadInput(
                    f"{files[year]}: caption {annotation.id} belongs to image {annotation.image_id}, "
                    "which the file does not list; download the file again"
                )
            text = " ".join(annotation.caption.split())
            if text:
                numbered[annotation.image_id].append((annotation.id, text))
    return {image: [text for _, text in sorted(own)[:most]] for image, own in numbered.items()}


def _labels(
    folder: Path, names: Mapping[int, str], wanted: Sequence[str]
) -> tuple[NDArray[np.uint8] | None, list[str]]:
    """Multi-hot categories (N, C) in the order of their ids; None, with a remark, if there are no instance files."""
    try:
        files = [_annotations(folder, f"instances_{year}.json") for year in YEARS]
    except BadInput:
        return None, ["no categories: instances_train2014.json and instances_val2014.json are missing"]
    row = {name: k for k, name in enumerate(wanted)}
    column: dict[int, int] = {}
    labels = np.zeros((len(wanted), 0), dtype=np.uint8)
    for path in files:  # one at a time: these files are large
        content = _read(path, "category_id")
        if not column:
            categories = _entries(CATEGORIES, content.get("categories", []), path, "a category has no id")
            column = {number: k for k, number in enumerate(sorted({category.id for category in categories}))}
            labels = np.zeros((len(wanted), len(column)), dtype=np.uint8)
        wrong = "an annotation has no image_id or category_id"
        for annotation in _entries(INSTANCES, content["annotations"], path, wrong):
            if annotation.category_id not in column:
                raise BadInput(
                    f"{path}: category {annotation.category_id} is not among its 'categories'; download the file again"
                )
            image = row.get(names.get(annotation.image_id, ""))
            if image is not None:
                labels[image, column[annotation.category_id]] = 1
    return labels, []
