"""Flickr8k: 8,000 photographs of people and animals, five captions each (Hodosh, Young, Hockenmaier, JAIR 2013)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cran_bench.dataset import SPLITS, Collection, FolderImages
from cran_bench.errors import BadInput
from cran_bench.registry import register_dataset
from cran_bench.specs import format_options

TOKENS = "Flickr8k.token.txt"
LISTS = {split: f"Flickr_8k.{owners}Images.txt" for split, owners in zip(SPLITS, ("train", "dev", "test"), strict=True)}
FOLDERS = ("images", "Flicker8k_Dataset", "Flickr8k_Dataset")


@register_dataset("flickr8k", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class Flickr8k:
    """The owners' files below the data folder, in ``flickr8k/`` or directly.

    The texts (``Flickr8k.token.txt`` and the three ``Flickr_8k.*Images.txt``) may lie in ``Flickr8k_text/``, the
    photographs in ``images/``, ``Flicker8k_Dataset/`` or ``Flickr8k_Dataset/``.  The collection holds the images of
    train, val (the owners' dev) and test, in this order and in the lists' order; photographs and captions outside the
    splits are left out.

    Attributes:
        limit: about so many images in all, the first of each list in the splits' proportions; all where None.
    """

    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 2 * len(SPLITS):
            raise ValueError(f"limit must be at least {2 * len(SPLITS)}, two images for each split, not {self.limit}")

    def defaults(self) -> Mapping[str, Any]:
        """See Dataset."""
        return {"images": "pixels", "regions": "grid"}

    def load(self, data: Path) -> Collection:
        """See Dataset."""
        folder = data / "flickr8k" if (data / "flickr8k").is_dir() else data
        photographs = next((folder / name for name in FOLDERS if (folder / name).is_dir()), None)
        if photographs is None:
            raise BadInput(f"{folder} has no folder {' or '.join(FOLDERS)}; unpack Flickr8k_Dataset.zip there")
        lists = {split: _find(folder, name) for split, name in LISTS.items()}
        members = {split: _read_list(path) for split, path in lists.items()}
        _check_members(members, lists, photographs)
        captions, outside = _read_captions(
            _find(folder, TOKENS), {name for names in members.values() for name in names}
        )

        total = sum(map(len, members.values()))
        kept = {split: names[: self._share(len(names), total)] for split, names in members.items()}
        names = [name for split in SPLITS for name in kept[split]]
        ends = np.cumsum([0] + [len(kept[split]) for split in SPLITS])
        texts = [[text for _, text in sorted(captions.get(name, {}).items())] for name in names]
        return Collection(
            name="flickr8k" + format_options({} if self.limit is None else {"limit": self.limit}),
            images=FolderImages(photographs, names),
            captions=[text for own in texts for text in own],
            image_of=np.repeat(np.arange(len(names)), [len(own) for own in texts]),
            splits={split: np.arange(a, b) for split, a, b in zip(SPLITS, ends[:-1], ends[1:], strict=True)},
            remarks=[f"{outside} captions of images outside the splits are left out"] if outside else [],
        )

    def _share(self, count: int, total: int) -> int:
        return count if self.limit is None else max(2, round(self.limit * count / total))


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / "Flickr8k_text" / name):
        if path.is_file():
            return path
    raise BadInput(f"there is no {name} in {folder} or {folder / 'Flickr8k_text'}; unpack Flickr8k_text.zip there")


def _read_lines(path: Path) -> list[str]:
    """All lines of a UTF-8 file, empty ones too, so that positions are line numbers."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{path}, line {line}: the bytes are not UTF-8, perhaps Latin-1; convert the file") from None
    lines = text.split("\n")
    if not any(map(str.strip, lines)):
        raise BadInput(f"{path} is empty; copy it again from the owners' archive")
    return lines


def _read_list(path: Path) -> list[str]:
    """The image names of a split."""
    seen: dict[str, int] = {}
    for number, line in enumerate(_read_lines(path), start=1):
        name = line.strip()
        if name in seen:
            raise BadInput(f"{path}, line {number}: {name} is already on line {seen[name]}; remove one of them")
        if name:
            seen[name] = number
    return list(seen)


def _check_members(members: Mapping[str, list[str]], lists: Mapping[str, Path], photographs: Path) -> None:
    with os.scandir(photographs) as entries:
        there = {entry.name for entry in entries}
    home: dict[str, Path] = {}
    for split, names in members.items():
        for name in names:
            if name in home:
                raise BadInput(
                    f"{name} is in both {home[name]} and {lists[split]}; splits must not overlap, remove one"
                )
            home[name] = lists[split]
        absent = [name for name in names if name not in there]
        if absent:
            raise BadInput(
                f"{len(absent)} images of {lists[split]} are not in {photographs}, the first is {absent[0]}; "
                "complete the folder or take them off the list"
            )


def _read_captions(path: Path, members: set[str]) -> tuple[dict[str, dict[int, str]], int]:
    """The captions of each of `members` by their number, and how many captions belong to none of them."""
    captions: dict[str, dict[int, str]] = {}
    outside = 0
    for number, line in enumerate(_read_lines(path), start=1):
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
        if not k.isdecimal():
            raise BadInput(
                f"{where}: '{key}' should end in #k, the number of the caption, as {name}#0; correct the line"
            )
        own = captions.setdefault(name, {})
        if int(k) in own:
            raise BadInput(f"{where}: the key {key} comes a second time; remove one of the two lines")
        if not caption.strip():
            raise BadInput(f"{where}: the caption of {key} is empty; write one or remove the line")
        own[int(k)] = caption.strip()
    return captions, outside
