"""Contrasts, true and false captions of one image: datasets of contrasts only, and those of a dataset's own images."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from PIL import Image
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as strict

from cran_bench import (
    NO_PARTNER,
    SPLITS,
    BadInput,
    Collection,
    Contrasts,
    FolderImages,
    ImageSource,
    Need,
    did_you_mean,
    first_of,
    first_wrong,
)

from ._annotations import Photographs, entries_of, image_path, limited, make_collection, read_json
from ._captions import json_lines

T = TypeVar("T")
CONTRASTS = "contrasts.jsonl"
KIND = re.compile(r"\w[\w -]{0,39}")
COCO_ZIP = "http://images.cocodataset.org/zips/{}.zip"
Box = tuple[float, float, float, float]


class Contrast(NamedTuple):
    """A true and a false caption of an image, as `contrast` makes it.

    Attributes:
        where: the file and the entry.
        image: name of the image.
        true: the caption that describes it.
        false: the caption that does not.
        kind: kind of the contrast.
        pair: what a crossed pair has in common with its other half; '' if the pair is not crossed.
        box: left, top, width and height in pixels of the part of the image that is meant, or None for all of it.
    """

    where: str
    image: str
    true: str
    false: str
    kind: str
    pair: str
    box: Box | None

    @property
    def id(self) -> str:
        """The id of the image, which differs between parts of one image."""
        return self.image + (f"@{','.join(f'{side:g}' for side in self.box)}" if self.box else "")


def contrast(
    where: str, image: str, true: str, false: str, kind: str, pair: str = "", box: Box | None = None
) -> Contrast:
    """Check a contrast, of which `where` says the file and the entry.

    Raises:
        BadInput: a caption is empty, both are equal, or the image is no path below a folder.
    """
    path = PurePosixPath(image_path(image.strip())) if image.strip() else PurePosixPath()
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise BadInput(f"{where}: the image is {image!r}; write its path below the folder of the images")
    for what, text in (("true", true), ("false", false)):
        if not text.strip() or any("\ud800" <= character <= "\udfff" for character in text):
            raise BadInput(f"{where}: the {what} caption is {text!r}; write a text or remove the contrast")
    if true.split() == false.split():
        raise BadInput(f"{where}: both captions are {true.strip()!r}; change one or remove the contrast")
    return Contrast(where, str(path), true.strip(), false.strip(), kind, pair, box)


def validated(kind: TypeAdapter[T], content: object, where: str, remedy: str = "download the file again") -> T:
    """Return `content` as a `kind`.

    Raises:
        BadInput: it is none.
    """
    try:
        return kind.validate_python(content)
    except ValidationError as error:
        raise BadInput(f"{where}: {first_wrong(error, 'the whole')}; {remedy}") from None


def parsed(path: Path, kind: TypeAdapter[T]) -> T:
    """Read a JSON file as a `kind`."""
    return validated(kind, read_json(path, unique=True), str(path))


def complete(given: Iterable[Contrast], images: Container[str]) -> list[Contrast]:
    """Return the contrasts whose image has one of the ids `images`; of crossed pairs, those with both halves there."""
    there = [one for one in given if one.id in images]
    halves = Counter(one.pair for one in there)
    return [one for one in there if not one.pair or halves[one.pair] == 2]


def as_contrasts(given: Sequence[Contrast], row_of: Mapping[str, int]) -> Contrasts:
    """Return contrasts of images whose rows are given by id; every crossed pair is complete."""
    kinds = list(dict.fromkeys(one.kind for one in given))
    partner, waiting = np.full(len(given), NO_PARTNER), dict[str, int]()
    for k, one in enumerate(given):
        if one.pair and (other := waiting.setdefault(one.pair, k)) != k:
            partner[[k, other]] = other, k
    return Contrasts(
        np.array([row_of[one.id] for one in given], dtype=np.int64),
        [one.true for one in given],
        [one.false for one in given],
        np.array([kinds.index(one.kind) for one in given], dtype=np.int64),
        kinds,
        partner if waiting else None,
    )


@strict(config=ConfigDict(extra="forbid"))
class _Own:
    image: str
    true: str
    false: str
    kind: str
    pair: str | int = ""


_OWN = TypeAdapter(_Own)


def with_contrasts(collection: Collection, folder: Path, limit: int | None) -> Collection:
    """Add the contrasts in ``contrasts.jsonl`` in the folder of a dataset, if it is there.

    Each line is an object with the image (its id), captions `true` and `false`, a `kind` and, for crossed pairs, a
    `pair`, which both halves share.  Contrasts of images outside the test split are left out, and counted in a remark.

    Raises:
        BadInput: a line is wrong, a contrast is there twice, a crossed pair lacks its other half or, without a `limit`
            on the images, no contrast is of a test image.
    """
    path = folder / CONTRASTS
    if not path.is_file():
        return collection
    given = list(_own_contrasts(path))
    ids = collection.images.ids
    row_of = {ids[row]: row for row in collection.splits["test"].tolist()}
    kept, every = complete(given, row_of), set(ids)
    unknown = [one.image for one in given if one.image not in every]
    if not kept and limit is None:
        other = next((one.image for one in given if one.image not in row_of), "no image")
        raise BadInput(
            f"none of the {len(given):,} contrasts in {path} is of a test image: {len(unknown):,} name no image of the "
            f"data, and the first names {other}; write ids of test images, such as {next(iter(row_of))}"
        )
    remark = (
        f"{len(given) - len(kept):,} of {len(given):,} contrasts in {CONTRASTS} are left out, as their images are not "
        "in the test split" + (f"; {len(unknown):,} name no image that was read, as {unknown[0]}" if unknown else "")
    )
    remarks = [*collection.remarks, *([remark] if len(kept) < len(given) else [])]
    return replace(collection, contrasts=as_contrasts(kept, row_of) if kept else None, remarks=remarks)


def own_need(folder: Path) -> Need:
    """Return the optional need of ``contrasts.jsonl``."""
    return Need(CONTRASTS, first_of(folder, CONTRASTS), "true and false captions of your own", optional=True)


def _own_contrasts(path: Path) -> Iterator[Contrast]:
    seen: dict[tuple[str, ...], str] = {}
    crossed: dict[str, list[Contrast]] = defaultdict(list)
    for where, row in json_lines(path, "image, true, false and kind"):
        own = validated(_OWN, row, where, "give image, true, false and kind")
        if not KIND.fullmatch(own.kind):
            wanted = "name it with up to 40 letters, digits, _, - and spaces"
            raise BadInput(f"{where}: the kind is {own.kind[:60]!r}; {wanted}")
        one = contrast(where, own.image, own.true, own.false, own.kind, str(own.pair))
        key = (one.id, one.true, one.false)
        if key in seen:
            raise BadInput(f"{where}: the contrast is already there ({seen[key]}); remove one of them")
        seen[key] = where
        if one.pair:
            crossed[one.pair].append(one)
        yield one
    for pair, halves in crossed.items():
        check_crossed(pair, halves)


def check_crossed(pair: str, halves: Sequence[Contrast]) -> None:
    """Check the contrasts of one crossed pair: two, of two images, with the same two captions exchanged.

    Raises:
        BadInput: they are not.
    """
    if len(halves) != 2:
        raise BadInput(
            f"{halves[-1].where}: the crossed pair {pair!r} has {len(halves)} contrasts; give two with the same 'pair'"
        )
    a, b = halves
    if (a.true, a.false, a.kind) != (b.false, b.true, b.kind) or a.id == b.id:
        raise BadInput(
            f"{b.where}: the halves of the crossed pair {pair!r} need two images, one kind, and the same two captions "
            f"with true and false exchanged; correct them, or remove 'pair' (the other half: {a.where})"
        )


class Place(NamedTuple):
    """Where images may be: ``FOLDER/BEFORE + name + AFTER``."""

    folder: Path
    before: str = ""
    after: str = ""


def coco_roots(home: Path, data: Path) -> list[Path]:
    """Return the folders in which the folders of MS-COCO's images may be."""
    return [root / below for root in (home, data, data / "mscoco", data / "coco") for below in (".", "images")]


def located(names: Iterable[str], places: Sequence[Place]) -> dict[str, Path]:
    """Return the paths of the images that exist, each in the first place that has it."""
    listed: dict[Path, set[str]] = {}
    found: dict[str, Path] = {}
    for name in dict.fromkeys(names):
        for place in places:
            path = place.folder / f"{place.before}{name}{place.after}"
            if path.parent not in listed:
                listed[path.parent] = entries_of(path.parent)
            if path.name in listed[path.parent]:
                found[name] = path
                break
    return found


class FoundImages(ImageSource):
    """Images in several folders below one, some of them cut out of larger images.

    Args:
        folder: the folder.
        paths: the path of each image below `folder`, by id.
        boxes: by id, the left, top, width and height in pixels of what is cut out.
    """

    def __init__(self, folder: Path, paths: Mapping[str, str], boxes: Mapping[str, Box | None]) -> None:
        self.ids, self.boxes = list(paths), [boxes[name] for name in paths]
        self.files = FolderImages(folder, list(paths.values()))

    def read(self, row: int) -> Image.Image:
        image, box = self.files.read(row), self.boxes[row]
        if box is None:
            return image
        left, top, width, height = box
        sides = (max(left, 0), max(top, 0), min(left + width, image.width), min(top + height, image.height))
        a, b, c, d = map(round, sides)
        if a >= c or b >= d:
            size = f"{image.width} x {image.height} pixels"
            raise BadInput(f"{self.ids[row]}: the box is outside the image of {size}; download image and list again")
        return image.crop((a, b, c, d))

    def digest(self, row: int) -> str:
        return self._with_box(row, self.files.digest(row))

    def digests(self, ledger: Any) -> Iterator[str]:
        for row, digest in enumerate(self.files.digests(ledger)):
            yield self._with_box(row, digest)

    def _with_box(self, row: int, digest: str) -> str:
        return digest if self.boxes[row] is None else f"{digest} {self.boxes[row]}"


@dataclass(frozen=True)
class OnlyContrasts(Photographs, ABC):
    """A dataset of contrasts, whose images are all in the test split.

    Attributes:
        kinds: the kinds of contrasts to measure, as in ``kinds=a|b``; all that are there if none is named.
    """

    kinds: tuple[str, ...] = ()

    label: ClassVar[str]
    folders: ClassVar[Sequence[str]]  # of the files, below the data folder
    files: ClassVar[Mapping[str, Sequence[str]]]  # each with the kinds of its contrasts
    source: ClassVar[str]  # of the files
    photographs: ClassVar[str]  # where they come from

    def __post_init__(self) -> None:
        super().__post_init__()
        known = [kind for kinds in self.files.values() for kind in kinds]
        for kind in self.kinds:
            if kind not in known:
                raise ValueError(f"{self.label} has no contrasts of the kind '{kind}'{did_you_mean(kind, known)}")

    @abstractmethod
    def read(self, path: Path, remarks: list[str]) -> Iterator[Contrast]:
        """Yield the contrasts in one of the files, and add to `remarks` what is left out.

        Raises:
            BadInput: an entry is wrong.
        """

    @abstractmethod
    def places(self, home: Path, data: Path) -> list[Place]:
        """Return where images may be, in order of preference."""

    def needs(self, data: Path) -> list[Need]:
        home = self._home(data)
        found = self._files(home)
        needs = [
            Need(name, found.get(name), self.source, optional=bool(found.keys() - {name})) for name in self._wanted()
        ]
        folders = [place.folder for place in self.places(home, data) if place.folder not in (home, data)]
        folder = next((folder for folder in folders if folder.is_dir()), None)
        return [*needs, Need("images", folder, self.photographs)]

    def load(self, data: Path) -> Collection:
        home, name = self._home(data), self.label
        files, remarks = self._files(home), list[str]()
        if not files:
            raise BadInput(
                f"{home} does not contain {name} (none of {', '.join(self._wanted())}): pass --data DIR or set "
                f"CRAN_BENCH_DATA; cran-bench prepare {name} --check lists the files"
            )
        if absent := [file for file in self._wanted() if file not in files]:
            remarks.append(f"not measured, as the files are missing: {', '.join(absent)}")
        given = [one for path in files.values() for one in self.read(path, remarks)]
        given = [one for one in given if not self.kinds or one.kind in self.kinds]
        paths = located((one.image for one in given), self.places(home, data))
        kept = complete(given, {one.id for one in given if one.image in paths})
        if not kept:
            lost = next((one.image for one in given if one.image not in paths), "")
            what = f"no image of the {len(given):,} contrasts of {name} is below {data}, the first is {lost}"
            raise BadInput(f"{what}: {self.photographs}" if given else f"{name} has no contrast of these kinds")
        if len(kept) < len(given):
            remarks.append(_left_out(given, kept, paths))
        captions: dict[str, dict[str, None]] = defaultdict(dict)
        for one in kept:
            captions[one.id][one.true] = None
        members: dict[str, list[str]] = {split: [] for split in SPLITS} | limited({"test": list(captions)}, self.limit)
        row_of = {image: row for row, image in enumerate(members["test"])}
        made = make_collection(name, data, members, {image: list(own) for image, own in captions.items()}, remarks)
        contrasts = as_contrasts(complete(kept, row_of), row_of)
        first = {one.id: one for one in reversed(kept)}
        below = {image: paths[first[image].image].relative_to(data).as_posix() for image in members["test"]}
        images = FoundImages(data, below, {image: first[image].box for image in below})
        return replace(made, images=images, contrasts=contrasts, as_listed=False)

    def _wanted(self) -> list[str]:
        """The files with contrasts of the chosen kinds."""
        return [file for file, kinds in self.files.items() if not self.kinds or {*kinds} & {*self.kinds}]

    def _home(self, data: Path) -> Path:
        return next((data / name for name in self.folders if (data / name).is_dir()), data)

    def _files(self, home: Path) -> dict[str, Path]:
        found = {name: first_of(home, name, f"data/{name}") for name in self._wanted()}
        return {name: path for name, path in found.items() if path}


def _left_out(given: Sequence[Contrast], kept: Sequence[Contrast], found: Container[str]) -> str:
    """A remark on the contrasts without images, by kind."""
    every, there = (Counter(one.kind for one in some) for some in (given, kept))
    kinds = ", ".join(f"{kind} {count - there[kind]:,} of {count:,}" for kind, count in every.items())
    first = next(one.image for one in given if one.image not in found)
    return f"contrasts are left out, as their images are missing: {kinds}; the first image is {first}"
