"""Readers for the annotation files of several datasets: lists, captions, JSON, Karpathy's splits, image folders."""

from __future__ import annotations

import codecs
import json
import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cran_bench import SPLITS, BadInput, Collection, FolderImages

T = TypeVar("T")
LFS = b"version https://git-lfs.github.com/spec/"
"""The beginning of a Git LFS pointer."""


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


def check_name(name: str) -> None:
    """Check a name for tables: '' or up to 40 characters that a label and the path of a record keep as they are.

    Raises:
        ValueError: it is another, with which two names might share a record.
    """
    if name and (len(name) > 40 or not re.fullmatch(r"[\w.]+(-[\w.]+)*", name)):
        raise ValueError(f"name must have at most 40 letters, digits, . and _, with single - between, not {name!r}")


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
    """Read all lines of a text file, including empty ones, so that indices correspond to line numbers.

    Raises:
        BadInput: as `read_text`.
    """
    return read_text(path)[0].split("\n")


def read_text(path: Path) -> tuple[str, str]:
    """Read a file of text; return it with its encoding, UTF-8, or UTF-16 if it begins with a byte order mark of that.

    Raises:
        BadInput: the file is empty, in another encoding, or a Git LFS pointer.
    """
    data = path.read_bytes()
    if data.startswith(LFS):
        raise BadInput(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull in its repository")
    name = "UTF-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "UTF-8"
    try:
        text = data.decode({"UTF-8": "utf-8-sig"}.get(name, name))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        perhaps = "perhaps Latin-1; convert the file to UTF-8, and .xlsx to CSV"
        raise BadInput(f"{path}, line {line}: not {name}, {perhaps}") from None
    if not text.strip():
        raise BadInput(f"{path} is empty; extract it again from the original archive")
    return text, name


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


def read_captions(path: Path, members: set[str]) -> tuple[dict[str, dict[int, str]], int]:
    """Read captions from lines of the form ``name.jpg#k<TAB>caption``.

    Returns:
        The captions of each image in `members` by k, in increasing order, and the number of captions of other images.

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
    return {name: dict(sorted(own.items())) for name, own in captions.items()}, outside


def read_json(path: Path, unique: bool = False) -> Any:
    """Read a JSON file.

    Raises:
        BadInput: the file is not valid JSON or, with `unique`, has a key twice in an object.
    """
    try:
        return json.loads(read_text(path)[0], object_pairs_hook=unique_keys if unique else None)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path} is not valid JSON ({error.msg}, line {error.lineno}); download it again") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of nested brackets
        raise BadInput(f"{path} cannot be read as JSON ({error}); download it again") from None


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of a JSON file; raises ValueError if it has a key twice."""
    row = dict(pairs)
    if len(row) < len(pairs):
        again = next(name for k, (name, _) in enumerate(pairs) if name in dict(pairs[:k]))
        raise ValueError(f"the key '{again}' is there twice")
    return row


class Karpathy(NamedTuple):
    """An image in Karpathy's split files.

    Attributes:
        name: file name.
        folder: folder of the file below the image folder; '' for the image folder itself.
        split: 'train', 'val' or 'test'.
        captions: its captions; empty if the file has none.
    """

    name: str
    folder: str
    split: str
    captions: list[str]

    @property
    def path(self) -> str:
        """Path of the file below the image folder."""
        return f"{self.folder}/{self.name}" if self.folder else self.name


def read_karpathy(path: Path, dataset: str | None = None) -> list[Karpathy]:
    """Read the images of Karpathy's ``dataset_*.json`` in the order of the file; ``restval`` becomes train.

    Raises:
        BadInput: the file is of another kind or for another dataset than `dataset`, or lists an image twice.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list) or "dataset" not in content:
        raise BadInput(
            f"{path} is not one of Karpathy's split files: expected an object with 'dataset' and 'images'; "
            f"use dataset_{dataset or 'flickr8k'}.json from his caption_datasets.zip"
        )
    if dataset and content["dataset"] != dataset:
        raise BadInput(f"{path} is the split of '{content['dataset']}', not of '{dataset}'; use dataset_{dataset}.json")
    images: dict[str, Karpathy] = {}
    for number, image in enumerate(content["images"]):
        try:
            split = "train" if image["split"] == "restval" else image["split"]
            captions = [sentence["raw"].strip() for sentence in image.get("sentences", [])]
            below = str(image.get("filepath") or "")
            one = Karpathy(image_path(str(image["filename"])), below and image_path(below), split, captions)
        except (KeyError, TypeError, AttributeError):
            raise BadInput(
                f"{path}: image {number} has no 'filename' or 'split', or a sentence no 'raw'; download the file again"
            ) from None
        if split not in SPLITS:
            raise BadInput(f"{path}: image {one.name} is in split '{split}'; expected train, restval, val or test")
        if one.path in images:
            where = f"in the {split} split, but was there before in the {images[one.path].split} split"
            raise BadInput(f"{path}: image {number} is {one.path} {where}; remove one of the two")
        images[one.path] = one
    return list(images.values())


def exists(path: Path) -> bool:
    """Whether a path exists; False also if it is not a possible path."""
    try:
        return path.exists()
    except OSError:
        return False


def entries_of(folder: Path) -> set[str]:
    """Return the names in a folder; none if there is no such folder.

    Raises:
        BadInput: the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except PermissionError:
        raise BadInput(f"the folder {folder} cannot be listed; change its permissions") from None
    except (OSError, ValueError):  # there is no such folder, or the name is invalid
        return set()


def check_images(names: Iterable[str], origin: Path, root: Path) -> None:
    """Check that images exist, given as paths below `root` and listed in the file `origin`.

    Raises:
        BadInput: a path is outside `root`, or images are missing; the message gives their number and the first one.
    """
    by_folder: dict[str, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            where = f"outside {root} or absolute; use relative paths below that folder"
            raise BadInput(f"{origin} names the image {name}, which is {where}")
        by_folder.setdefault(str(path.parent), []).append(name)
    absent: list[str] = []
    for folder, wanted in by_folder.items():
        existing = entries_of(root / folder)
        absent += [name for name in wanted if PurePosixPath(name).name not in existing]
    if absent:
        raise BadInput(
            f"{len(absent)} images of {origin} are not in {root}, the first is {absent[0]}; "
            + (_alike(root, absent[0]) or "add them to the folder or remove them from the list")
        )


ALIKE: Mapping[str, Callable[[str], str]] = {
    "names are case-sensitive, so write it in the same case": str.lower,
    "the letters are the same, but their accents are encoded in another way (NFC, NFD): rename one of them": (
        lambda name: unicodedata.normalize("NFC", name)
    ),
    "zeros at the front are missing in the list, which spreadsheets do to numbers: format the column as text": (
        lambda name: name.lstrip("0")
    ),
    "its ending is missing in the list, or another": lambda name: name.rpartition(".")[0] or name,
}
"""Why a name differs from that of an existing file, and a function after which both are equal."""


def _alike(root: Path, name: str) -> str:
    """Return the file that was probably meant by a name that does not exist, and what to do; '' if there is none."""
    if "\\" in name:
        return f"separate folders by /, as in {name.replace(chr(92), '/')}"
    for part in PurePosixPath(name).parts:
        try:
            existing = sorted(entry.name for entry in root.iterdir())
        except (OSError, ValueError):
            return ""
        if part not in existing:
            pairs = ((other, why) for why, key in ALIKE.items() for other in existing if key(other) == key(part))
            return next((f"there is {other}: {why}" for other, why in pairs), "")
        root /= part
    return ""


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
    remarks: Sequence[str] = (),
) -> Collection:
    """Make a collection of the images of train, val and test, in this order, with their captions.

    Args:
        name: name of the collection.
        images: the folder of the images.
        members: paths below `images`, for each split.
        captions: captions of each image.
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
        remarks=remarks,
    )
