"""What the owners' files have in common: lines, caption lists, JSON, splits by Karpathy, folders of images."""

from __future__ import annotations

import json
import os
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
    """A dataset that a quick look may cut down.

    Attributes:
        limit: about so many images in all, the first of each split in the splits' proportions; all where None.
    """

    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 2 * len(SPLITS):
            raise ValueError(f"limit must be at least {2 * len(SPLITS)}, two images for each split, not {self.limit}")


@dataclass(frozen=True)
class Photographs(Limited):
    """A folder of photographs."""

    def defaults(self) -> Mapping[str, Any]:
        """See Dataset."""
        return {"images": "pixels", "regions": "grid"}


KARPATHY_ZIP = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"


def home(data: Path, name: str) -> Path:
    """The folder of a dataset: `name` below the data folder, or that folder itself."""
    return data / name if (data / name).is_dir() else data


def read_lines(path: Path) -> list[str]:
    """All lines of a UTF-8 file, empty ones too, so that positions are line numbers.

    Raises:
        BadInput: the file is empty or not UTF-8.
    """
    lines = _text_of(path).split("\n")
    if not any(map(str.strip, lines)):
        raise BadInput(f"{path} is empty; copy it again from the owners' archive")
    return lines


def _text_of(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{path}, line {line}: the bytes are not UTF-8, perhaps Latin-1; convert the file") from None


def read_list(path: Path, suffix: str = "") -> list[str]:
    """The image names of a split, one a line, each with `suffix`.

    Raises:
        BadInput: a name comes twice.
    """
    seen: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        name = line.strip()
        if name in seen:
            raise BadInput(f"{path}, line {number}: {name} is already on line {seen[name]}; remove one of them")
        if name:
            seen[name] = number
    return [name + suffix for name in seen]


def read_captions(path: Path, members: set[str]) -> tuple[dict[str, list[str]], int]:
    """Captions from lines ``name.jpg#k<TAB>caption``.

    Returns:
        The captions of each of `members` in the order of their numbers, and how many captions belong to none of them.

    Raises:
        BadInput: a line of another form, a key that comes twice, an empty caption.
    """
    captions: dict[str, dict[int, str]] = {}
    outside = 0
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        key, tab, caption = line.partition("\t")
        name, _, k = key.strip().partition("#")
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
                f"{where}: '{key}' should end in #k, the number of the caption, as {name}#0; correct the line"
            )
        own = captions.setdefault(name, {})
        if int(k) in own:
            raise BadInput(f"{where}: the key {key} comes a second time; remove one of the two lines")
        if not caption.strip():
            raise BadInput(f"{where}: the caption of {key} is empty; write one or remove the line")
        own[int(k)] = caption.strip()
    return {name: [text for _, text in sorted(own.items())] for name, own in captions.items()}, outside


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        BadInput: it is not one.
    """
    try:
        return json.loads(_text_of(path))
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{path} is not whole JSON ({error.msg}, line {error.lineno}); copy it again from its owners"
        ) from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise BadInput(f"{path} cannot be read as JSON ({error}); copy it again from its owners") from None


class Karpathy(NamedTuple):
    """An image of Karpathy's lists: file name, folder below the images ('' for none), and split."""

    name: str
    folder: str
    split: str


def read_karpathy(path: Path, dataset: str) -> list[Karpathy]:
    """The images of Karpathy's ``dataset_*.json`` in its order; its ``restval`` is train.

    Raises:
        BadInput: the file is of another kind, or of another dataset.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list) or "dataset" not in content:
        raise BadInput(
            f"{path} is not one of Karpathy's split files: expected an object with 'dataset' and 'images'; "
            f"take dataset_{dataset}.json from his caption_datasets.zip"
        )
    if content["dataset"] != dataset:
        raise BadInput(
            f"{path} is the split of '{content['dataset']}', not of '{dataset}'; take dataset_{dataset}.json"
        )
    found = []
    for number, image in enumerate(content["images"]):
        try:
            split = "train" if image["split"] == "restval" else image["split"]
            found.append(Karpathy(str(image["filename"]), str(image.get("filepath", "")), split))
        except (KeyError, TypeError, AttributeError):
            raise BadInput(f"{path}: image {number} has no 'filename' or 'split'; copy the file again") from None
        if split not in SPLITS:
            raise BadInput(
                f"{path}: image {found[-1].name} is of split '{split}'; expected train, restval, val or test"
            )
    return found


def check_there(names: Iterable[str], origin: Path, root: Path) -> None:
    """Refuse image names, as paths below `root`, of which there is no file.

    Raises:
        BadInput: some are missing, or leave the folder; tells how many, and the first.
    """
    by_folder: dict[str, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise BadInput(f"{origin} names the image {name}, which is outside {root}; give names below that folder")
        by_folder.setdefault(str(path.parent), []).append(name)
    absent: list[str] = []
    for folder, wanted in by_folder.items():
        try:
            with os.scandir(root / folder) as entries:
                there = {entry.name for entry in entries}
        except PermissionError:
            raise BadInput(
                f"the folder {root / folder} cannot be listed; give yourself permission to read it"
            ) from None
        except (OSError, ValueError):  # no folder, or no name that a folder can have
            there = set()
        absent += [name for name in wanted if PurePosixPath(name).name not in there]
    if absent:
        raise BadInput(
            f"{len(absent)} images of {origin} are not in {root}, the first is {absent[0]}; "
            "complete the folder or take them off the list"
        )


def check_disjoint(members: Mapping[str, Sequence[str]], origins: Mapping[str, Path]) -> None:
    """Refuse an image in two splits.

    Raises:
        BadInput: there is one.
    """
    seen: dict[str, Path] = {}
    for split, names in members.items():
        for name in names:
            if name in seen:
                raise BadInput(
                    f"{name} is in both {seen[name]} and {origins[split]}; splits must not overlap, remove one"
                )
            seen[name] = origins[split]


def dealt(count: int, held_out: int, seed: int) -> dict[str, list[int]]:
    """So many places by lot: `held_out` for test, as many for val, the others for train."""
    order = np.random.default_rng(seed).permutation(count).tolist()
    return {"test": order[:held_out], "val": order[held_out : 2 * held_out], "train": order[2 * held_out :]}


def limited(members: Mapping[str, Sequence[T]], limit: int | None) -> dict[str, list[T]]:
    """About `limit` images in all, the first of each split in the splits' proportions; all where None."""
    total = sum(map(len, members.values()))
    return {
        split: list(names if limit is None else names[: max(2, round(limit * len(names) / total))])
        for split, names in members.items()
    }


def collected(
    name: str,
    images: Path,
    members: Mapping[str, Sequence[str]],
    captions: Mapping[str, Sequence[str]],
    labels: NDArray[np.uint8] | None = None,
    remarks: Sequence[str] = (),
) -> Collection:
    """The images of train, val and test, in this order, with their captions.

    Args:
        name: of the collection.
        images: the folder that `members` are paths below.
        members: image names of each split.
        captions: of each image.
        labels: (N, C), in the order of the images.
        remarks: see Collection.
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
