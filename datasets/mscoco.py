"""MS-COCO: 123,287 photographs of everyday scenes, five captions each, 80 categories (Lin et al., ECCV 2014)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import FailFast, TypeAdapter, ValidationError

from cran_bench import SPLITS, BadInput, Collection, Need, first_of, first_wrong, register_dataset

from ._annotations import (
    KARPATHY_ZIP,
    Photographs,
    check_images,
    home,
    image_path,
    limited,
    make_collection,
    random_split,
    read_json,
    read_karpathy,
)
from ._contrasts import own_need, with_contrasts
from ._judgments import coco_needs, qrels_needs, tested_ids, with_coco, with_qrels

RELEASES = ("train2014", "val2014"), ("train2017", "val2017")
KARPATHY = "dataset_coco.json"
HELD_OUT = 5000  # images in each of val and test


@dataclass
class _Image:
    id: int
    file_name: str


@dataclass
class _Annotation:
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
    name: str


T = TypeVar("T")
IMAGES = TypeAdapter(Annotated[list[_Image], FailFast()])
CAPTIONS = TypeAdapter(Annotated[list[_Annotation], FailFast()])
INSTANCES = TypeAdapter(Annotated[list[_Instance], FailFast()])
CATEGORIES = TypeAdapter(Annotated[list[_Category], FailFast()])


@register_dataset("mscoco", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class MSCOCO(Photographs):
    """The original files in the data folder or in ``mscoco/`` or ``coco/`` below it.

    The folders ``train2014`` and ``val2014`` may be in ``images/``; ``captions_train2014.json``,
    ``captions_val2014.json`` and, for categories, ``instances_*2014.json`` may be in ``annotations/``.  The release of
    2017 divides the same images otherwise and serves as well.  Without the folder ``train2014``, Karpathy's val and
    test images are loaded, for evaluation.

    Right answers beyond own captions are read for Karpathy's test images where they are there, in the same folder or
    in ``eccv_caption/`` or ``cxc/`` below it: the four files ``eccv_*.json`` and ``cxc_*.json`` of ECCV Caption (Chun
    et al., ECCV 2022), or ``sits_test.csv`` of CxC (Parekh et al., EACL 2021), whose ratings of 3 and more are right.
    ``i2t.qrels`` and ``t2i.qrels`` in TREC's format give right answers of your own.

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
        _, used = self._parts(folder) or (folder, RELEASES[0])
        release = next(release for release in RELEASES if used[-1] in release)
        photographs = {part: first_of(folder, f"images/{part}", part) for part in release}
        spare = release[:1] if self.split == "karpathy" and photographs[release[1]] else ()
        zips = "http://images.cocodataset.org/zips/{}.zip"
        annotations = f"http://images.cocodataset.org/annotations/annotations_trainval{used[-1][-4:]}.zip"

        def annotated(kind: str, required: Sequence[str]) -> list[Need]:
            names = {part: f"{kind}_{part}.json" for part in release}
            places = {part: first_of(folder, name, f"annotations/{name}") for part, name in names.items()}
            return [Need(names[part], places[part], annotations, part not in required) for part in release]

        return [
            *(Need(p, place, zips.format(p), p in spare) for p, place in photographs.items()),
            *annotated("captions", required=used),
            *([Need(KARPATHY, first_of(folder, KARPATHY), KARPATHY_ZIP)] if self.split == "karpathy" else []),
            *annotated("instances", required=()),
            *(*coco_needs(folder), *qrels_needs(folder), own_need(folder)),
        ]

    def load(self, data: Path) -> Collection:
        folder = _home(data)
        found = self._parts(folder)
        if found is None:
            raise BadInput(
                f"{folder} does not contain MS-COCO (no folder train2014 or val2014): pass --data DIR or set "
                "CRAN_BENCH_DATA; cran-bench prepare mscoco --check lists the files"
            )
        photographs, parts = found
        files = {part: _annotations(folder, f"captions_{part}.json") for part in parts}
        contents = {part: _read(path, "caption") for part, path in files.items()}
        names: dict[int, str] = {}
        for part, content in contents.items():
            for image in _entries(IMAGES, content["images"], files[part], "an image has no id or file_name"):
                if image.id in names:
                    raise BadInput(f"{files[part]}: image {image.id} was there before; download the file again")
                names[image.id] = name = image_path(f"{part}/{image.file_name}")
                if not name.startswith(f"{part}/"):
                    check_images([name], files[part], photographs)
        captions = _captions(contents, names, files, self.captions)
        members, origins = self._split(folder, names, files)
        kept = limited(members, self.limit)
        for part, origin in origins.items():
            check_images([n for s in SPLITS for n in kept[s] if n.startswith(f"{part}/")], origin, photographs)
        by_name = {name: [*captions.get(image, {}).values()] for image, name in names.items()}
        labels, label_names, remarks = _labels(folder, parts, names, [name for split in SPLITS for name in kept[split]])
        if len(parts) == 1:
            remarks.append(f"without train images, as {parts[0].replace('val', 'train')} is not in {photographs}")
        made = make_collection("mscoco", photographs, kept, by_name, remarks)
        made = replace(made, labels=labels, label_names=label_names)
        number_of, limited_to = {name: number for number, name in names.items()}, self.limit is not None
        images = [number_of[name] for name in kept["test"]]
        keys = [str(caption) for image in images for caption in captions[image]]
        made = with_coco(made, folder, tested_ids(made, limited_to, [*map(str, images)], keys))
        return with_contrasts(with_qrels(made, folder, limited_to), folder, self.limit)

    def _parts(self, folder: Path) -> tuple[Path, tuple[str, ...]] | None:
        """The folder of the photographs and the parts of a release that are used; None if there is no photograph."""
        for release in RELEASES:
            for root in (folder / "images", folder):
                if there := tuple(part for part in release if (root / part).is_dir()):
                    return root, there if self.split == "karpathy" and there == release[1:] else release
        return None

    def _split(
        self, folder: Path, names: Mapping[int, str], files: Mapping[str, Path]
    ) -> tuple[dict[str, list[str]], dict[str, Path]]:
        """The images of each split, and the file that lists those of each part of the release."""
        if self.split == "random":
            return _random_members(sorted(names.values()), self.seed), dict(files)
        path = folder / KARPATHY
        if not path.is_file():
            raise BadInput(
                f"there is no {KARPATHY} in {folder}: it is in Karpathy's caption_datasets.zip; or use a random split, "
                "as in the paper, with mscoco[split=random]"
            )
        members: dict[str, list[str]] = {split: [] for split in SPLITS}
        unknown: list[str] = []
        for image in read_karpathy(path, "coco"):
            number = re.search(r"([0-9]{1,18})[.]", image.name)  # which both releases share
            name = names.get(int(number[1])) if number else None
            if image.split == "train" and len(files) == 1:
                continue
            if name is None:
                unknown.append(image.path)
            else:
                members[image.split].append(name)
        if unknown:
            lists = " or ".join(file.name for file in files.values())
            raise BadInput(
                f"{len(unknown)} images of {path} are not in {lists}, the first is {unknown[0]}; "
                "use files of one release"
            )
        return members, dict.fromkeys(files, path)


def _home(data: Path) -> Path:
    return home(data, "mscoco" if (data / "mscoco").is_dir() else "coco")


def _random_members(names: Sequence[str], seed: int) -> dict[str, list[str]]:
    """A random split with `HELD_OUT` images each in val and test, or a tenth each of a smaller dataset."""
    count = min(HELD_OUT, len(names) // 10)
    rows = random_split(len(names), count, seed)
    return {split: [names[row] for row in rows[split]] for split in SPLITS}


def _annotations(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / "annotations" / name):
        if path.is_file():
            return path
    raise BadInput(
        f"there is no {name} in {folder} or {folder / 'annotations'}; "
        f"unpack annotations_trainval{name[-9:-5]}.zip there"
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
) -> dict[int, dict[int, str]]:
    """The first `most` captions of each image by their ids, in increasing order."""
    numbered: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for part, content in contents.items():
        seen: set[int] = set()
        wrong = "an annotation has no image_id, id or caption"
        for annotation in _entries(CAPTIONS, content["annotations"], files[part], wrong):
            if annotation.id in seen:
                raise BadInput(f"{files[part]}: annotation {annotation.id} was there before; download the file again")
            seen.add(annotation.id)
            if annotation.image_id not in names:
                raise BadInput(
                    f"{files[part]}: caption {annotation.id} belongs to image {annotation.image_id}, "
                    "which the file does not list; download the file again"
                )
            text = " ".join(annotation.caption.split())
            if text:
                numbered[annotation.image_id].append((annotation.id, text))
    return {image: dict(sorted(own)[:most]) for image, own in numbered.items()}


def _labels(
    folder: Path, parts: Sequence[str], names: Mapping[int, str], wanted: Sequence[str]
) -> tuple[NDArray[np.uint8] | None, list[str], list[str]]:
    """Multi-hot categories (N, C) in the order of their ids, their names, and remarks; None without instance files."""
    try:
        files = [_annotations(folder, f"instances_{part}.json") for part in parts]
    except BadInput:
        return None, [], [f"no categories: {' or '.join(f'instances_{part}.json' for part in parts)} is missing"]
    row = {name: k for k, name in enumerate(wanted)}
    column: dict[int, int] = {}
    label_names: list[str] = []
    labels = np.zeros((len(wanted), 0), dtype=np.uint8)
    for path in files:  # one at a time: these files are large
        content = _read(path, "category_id")
        if not column:
            categories = _entries(CATEGORIES, content.get("categories", []), path, "a category has no id or name")
            name_of = {category.id: category.name for category in categories}
            column = {number: k for k, number in enumerate(sorted(name_of))}
            label_names = [name_of[number] for number in column]
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
    bare = int((labels.sum(axis=1) == 0).sum())
    remarks = [f"{bare} of {len(wanted)} images have no category in the instances files"] if bare else []
    return labels, label_names, remarks
