"""Readers for the annotation files of several datasets: lists, captions, JSON, Karpathy's splits, image folders."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cran_bench import SPLITS, BadInput, Collection, FolderImages

T = TypeVar("T")


@dataclass(frozen=True)
class Limited:
    """A dataset that can be reduced to fewer images.

    Attributes:
        limit: approximate total number of images, the first of each split in the splits' proportions; None for all.
    """

    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 2 * len(SPLITS):
            raise ValueError(f"limit must be at least {2 * len(SPLITS)}, two images for each split, not {self.limit}")


@dataclass(frozen=True)
class Photographs(Limited):
    """A dataset of photographs, by default with the front end ``pixels + grid``."""

    def defaults(self) -> Mapping[str, Any]:
        return {"backbone": "pixels", "regions": "grid"}


KARPATHY_ZIP = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"


def home(data: Path, name: str) -> Path:
    """Return the folder of a dataset: `name` below the data folder if it exists, else the data folder itself."""
    return data / name if (data / name).is_dir() else data


def image_path(text: str) -> str:
    """Normalise the path of an image, so that it has one spelling: ``./a.jpg`` and ``b/../a.jpg`` become ``a.jpg``."""
    return posixpath.normpath(text)


def read_lines(path: Path) -> list[str]:
    """Read all lines of a UTF-8 file, including empty ones, so that indices correspond to line numbers.

    Raises:
        BadInput: the file is empty or not UTF-8.
    """
    lines = _text_of(path).split("\n")
    if not any(map(str.strip, lines)):
        raise BadInput(f"{path} is empty; extract it again from the original archive")
    return lines


def _text_of(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{path}, line {line}: not UTF-8 (perhaps Latin-1); convert the file to UTF-8") from None


def read_list(path: Path, suffix: str = "") -> list[str]:
    """Read the image names of a split, one per line, and append `suffix` to each.

    Raises:
        BadInput: a name is repeated.
    """
    seen: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        name = image_path(line.strip()) if line.strip() else ""
        if name in seen:
            raise BadInput(f"{path}, line {number}: {name} is already on line {seen[name]}; remove one of them")
        if name:
            seen[name] = number
    return [name + suffix for name in seen]


def read_captions(path: Path, members: set[str]) -> tuple[dict[str, list[str]], int]:
    """Read captions from lines of the form ``name.jpg#k<TAB>caption``.

    Returns:
        The captions of each image in `members`, sorted by k, and the number of captions of other images.

    Raises:
        BadInput: a line has another form, a key is repeated, or a caption is empty.
    """
    captions: dict[str, dict[int, str]] = {}
    outside = 0
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        key, tab, caption = line.partition("\t")
        image, _, k = key.strip().partition("#")
        name = image_path(image)
        where = f"{path}, line {number}"
        if not tab:
            raise BadInput(
                f"{where}: expected name.jpg#k, a tab and a caption, got '{line.strip()[:60]}'; correct the line"
            )
        if name not in members:
            outside += 1
            continue
        if not (k.isascii() and k.isdecimal() and len(k) < 10):
            raise BadInput(
                f"{where}: '{key}' should end in #k, the number of the caption, such as {name}#0; correct the line"
            )
        own = captions.setdefault(name, {})
        if int(k) in own:
            raise BadInput(f"{where}: the key {key} is repeated; remove one of the two lines")
        if not caption.strip():
            raise BadInput(f"{where}: the caption of {key} is empty; write one or remove the line")
        own[int(k)] = caption.strip()
    return {name: [text for _, text in sorted(own.items())] for name, own in captions.items()}, outside


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        BadInput: the file is not valid JSON.
    """
    try:
        return json.loads(_text_of(path))
    except json.JSONDecodeError as error:
        raise BadInput(f"{path} is not valid JSON ({error.msg}, line {error.lineno}); download it again") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of nested brackets
        raise BadInput(f"{path} cannot be read as JSON ({error}); download it again") from None


class Karpathy(NamedTuple):
    """An image in Karpathy's split files.

    Attributes:
        name: file name.
        folder: folder of the file below the image folder; '' for the image folder itself.
        split: 'train', 'val' or 'test'.
    """

    name: str
    folder: str
    split: str


def read_karpathy(path: Path, dataset: str) -> list[Karpathy]:
    """Read the images of Karpathy's ``dataset_*.json`` in the order of the file; ``restval`` becomes train.

    Raises:
        BadInput: the file is of another kind or for another dataset.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list) or "dataset" not in content:
        raise BadInput(
            f"{path} is not one of Karpathy's split files: expected an object with 'dataset' and 'images'; "
            f"use dataset_{dataset}.json from his caption_datasets.zip"
        )
    if content["dataset"] != dataset:
        raise BadInput(f"{path} is the split of '{content['dataset']}', not of '{dataset}'; use dataset_{dataset}.json")
    images = []
    for number, image in enumerate(content["images"]):
        try:
            split = "train" if image["split"] == "restval" else image["split"]
            images.append(Karpathy(image_path(str(image["filename"])), str(image.get("filepath", "")), split))
        except (KeyError, TypeError, AttributeError):
            raise BadInput(f"{path}: image {number} has no 'filename' or 'split'; download the file again") from None
        if split not in SPLITS:
            raise BadInput(
                f"{path}: image {images[-1].name} is in split '{split}'; expected train, restval, val or test"
            )
    return images


def check_images(names: Iterable[str], origin: Path, root: Path) -> None:
    """Check that images exist, given as paths below `root` and listed in the file `origin`.

    Raises:
        BadInput: a path is outside `root`, or images are missing; the message gives their number and the first one.
    """
    by_folder: dict[str, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise BadInput(f"{origin} names the image {name}, which is outside {root}; use paths below that folder")
        by_folder.setdefault(str(path.parent), []).append(name)
    absent: list[str] = []
    for folder, wanted in by_folder.items():
        try:
            with os.scandir(root / folder) as entries:
                existing = {entry.name for entry in entries}
        except PermissionError:
            raise BadInput(f"the folder {root / folder} cannot be listed; change its permissions") from None
        except (OSError, ValueError):  # there is no such folder, or the name is invalid
            existing = set()
        absent += [name for name in wanted if PurePosixPath(name).name not in existing]
    if absent:
        raise BadInput(
            f"{len(absent)} images of {origin} are not in {root}, the first is {absent[0]}; "
            "add them to the folder or remove them from the list"
        )


def check_disjoint(members: Mapping[str, Sequence[str]], origins: Mapping[str, Path]) -> None:
    """Check that no image is in two splits.

    Raises:
        BadInput: an image is in two splits, or twice in one.
    """
    seen: dict[str, str] = {}
    for split, names in members.items():
        for name in names:
            if (other := seen.get(name)) is not None:
                where = f"in both the {other} and" if other != split else "twice in"
                files = " and ".join(dict.fromkeys(str(origins[own]) for own in (other, split)))
                raise BadInput(f"{name} is {where} the {split} split ({files}); remove one, as splits must not overlap")
            seen[name] = split


def random_split(count: int, held_out: int, seed: int) -> dict[str, list[int]]:
    """Split the indices 0 to count - 1 at random: `held_out` for test, `held_out` for val, and the rest for train."""
    order = np.random.default_rng(seed).permutation(count).tolist()
    return {"test": order[:held_out], "val": order[held_out : 2 * held_out], "train": order[2 * held_out :]}


def limited(members: Mapping[str, Sequence[T]], limit: int | None) -> dict[str, list[T]]:
    """Reduce the splits to about `limit` images, the first of each in the splits' proportions; None keeps all."""
    total = sum(map(len, members.values()))
    return {
        split: list(names if limit is None else names[: max(2, round(limit * len(names) / total))])
        for split, names in members.items()
    }


def make_collection(
    name: str,
    images: Path,
    members: Mapping[str, Sequence[str]],
    captions: Mapping[str, Sequence[str]],
    labels: NDArray[np.uint8] | None = None,
    remarks: Sequence[str] = (),
) -> Collection:
    """Make a collection of the images of train, val and test, in this order, with their captions.

    Args:
        name: name of the collection.
        images: the folder of the images.
        members: paths below `images`, for each split.
        captions: captions of each image.
        labels: (N, C) uint8, multi-hot categories in the order of the images.
        remarks: notes to print once.
    """
    names = [member for split in SPLITS for member in members[split]]
    ends = np.cumsum([0] + [len(members[split]) for split in SPLITS])
    texts = [captions.get(member, ()) for member in names]
    return Collection(
        name=name,
        images=FolderImages(images, names),
        captions=[text for own in texts for text in own],
        image_of=np.repeat(np.arange(len(names)), [len(own) for own in texts]),
        splits={split: np.arange(a, b) for split, a, b in zip(SPLITS, ends[:-1], ends[1:], strict=True)},
        labels=labels,
        remarks=remarks,
    )
