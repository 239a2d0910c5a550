"""Precomputed features in the format of VSE++ and SCAN, such as f30k_precomp and coco_precomp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cran_bench import SPLITS, BadInput, Collection, FeatureFile, FeatureFiles, Need, first_of, register_dataset

from ._annotations import Limited, check_name, limited, read_lines

REPEATS = 5


@register_dataset("precomp", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class Precomp(Limited):
    """Image features and captions in files: ``cran-bench run cca -d "precomp[folder=f30k_precomp]" --data DIR``.

    For each of train, dev and test the folder contains features, as in ``train_ims.npy``, of shape (rows, dim) or
    (rows, regions, dim), and captions, as in ``train_caps.txt``, one per line and grouped by image.  Only those of test
    must be there; without the others nothing can be fitted.  There is one row per image, or one per caption if every
    image is repeated.  If there are only region features, their mean is the feature of the whole image, and the first
    five regions are used.

    Attributes:
        folder: folder of the files below the data folder; empty for the data folder itself.
        val: prefix of the validation files.
        test: prefix of the test files; `testall` for the 5,000 test images of MS-COCO.
        repeats: number of rows per image; by default 5 in files with a row for each caption in which every five rows
            are equal, else 1.
        name: name of the data in tables.
    """

    folder: str = ""
    val: str = "dev"
    test: str = "test"
    repeats: int | None = None
    name: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.name)
        if self.repeats is not None and self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, not {self.repeats}; the usual numbers are 1 and 5")

    def defaults(self) -> Mapping[str, Any]:
        return {"backbone": "data", "regions": "data"}

    def needs(self, data: Path) -> list[Need]:
        folder, source = data / self.folder, "made with VSE++ or SCAN, or with your own network"
        needed = [(name, name == self.test or (folder / f"{name}_caps.txt").is_file()) for name in self._names()]
        files = [(f"{name}_{kind}", needed) for name, needed in needed for kind in ("ims.npy", "caps.txt")]
        return [Need(file, first_of(folder, file), source, not needed) for file, needed in files]

    def load(self, data: Path) -> Collection:
        folder = data / self.folder
        parts: dict[str, _Part] = {}
        remarks: list[str] = []
        for split, name in zip(SPLITS, self._names(), strict=True):
            if name in ("train", "dev") and not (folder / f"{name}_caps.txt").is_file():
                remarks.append(f"without {split} images, as there is no {name}_caps.txt")
                continue
            parts[split] = part = self._read(folder, name)
            remarks += [part.remark] if part.remark else []
        rows = {split: range(len(part.file)) for split, part in parts.items()}
        kept = [len(some) for some in limited(rows, self.limit).values()]
        places = [(k, image) for k, count in enumerate(kept) for image in range(count)]
        names, own = list(parts), list(parts.values())
        each = [len(part.captions) // len(part.file) for part in own]
        ends = np.cumsum([0, *kept])
        return Collection(
            name="precomp",
            images=FeatureFiles([f"{names[k]}-{image}" for k, image in places], [part.file for part in own], places),
            captions=[text for k, part in enumerate(own) for text in part.captions[: kept[k] * each[k]]],
            image_of=np.repeat(np.arange(len(places)), [each[k] for k, _ in places]),
            splits={split: np.arange(ends[k], ends[k + 1]) for k, split in enumerate(names)},
            remarks=remarks,
        )

    def _names(self) -> tuple[str, str, str]:
        return "train", self.val, self.test

    def _read(self, folder: Path, name: str) -> _Part:
        """Read the features and captions of a split."""
        path = folder / f"{name}_caps.txt"
        if not path.is_file():
            raise BadInput(
                f"there is no {path.name} in {folder}; give the folder with --data DIR or precomp[folder=NAME], and "
                "other file names with precomp[val=NAME,test=NAME]"
            )
        lines = read_lines(path)
        captions = [line.strip() for line in lines[: len(lines) - (not lines[-1].strip())]]
        if "" in captions:
            raise BadInput(
                f"{path}, line {captions.index('') + 1}: the caption is empty; write one, as lines correspond to images"
            )
        file = FeatureFile.open(folder / f"{name}_ims.npy")
        rows, repeats, remark = len(file.array), self.repeats, ""
        if repeats is None:
            repeats, remark = _guess(file, len(captions))
        if rows % repeats or len(captions) % (rows // repeats):
            raise BadInput(
                f"{file.path} has {rows:,} rows for the {len(captions):,} captions of {path.name}; expected one row "
                f"(or {repeats if repeats > 1 else REPEATS} equal rows) per image, with the same number of captions "
                "for each, or one row per caption"
            )
        return _Part(replace(file, repeats=repeats), captions, remark)


class _Part(NamedTuple):
    """Features and captions of a split, and how the number of rows per image was guessed."""

    file: FeatureFile
    captions: list[str]
    remark: str


def _guess(file: FeatureFile, captions: int) -> tuple[int, str]:
    """The number of rows per image and a remark, if there is a row for each caption.

    Raises:
        BadInput: most groups of five rows are equal, but not all.
    """
    groups, rest = divmod(len(file.array), REPEATS)
    if len(file.array) != captions or rest:
        return 1, ""
    equal = file.repeated(REPEATS)
    if equal == groups:
        return REPEATS, f"{file.path.name}: every {REPEATS} rows are equal and taken as one image (repeats={REPEATS})"
    if 2 * equal > groups:
        raise BadInput(
            f"{file.path}: in {equal:,} of {groups:,} groups of {REPEATS} rows the rows are equal, in the others they "
            f"differ; say precomp[repeats={REPEATS}] if each group is one image, or precomp[repeats=1] if each row is"
        )
    return 1, f"{file.path.name}: rows differ, so each is taken as an image with one caption (repeats=1)"
