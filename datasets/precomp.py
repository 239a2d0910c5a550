"""Precomputed features in the format of VSE++ and SCAN, such as f30k_precomp and coco_precomp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cran_bench import SPLITS, BadInput, Collection, FeatureFile, FeatureFiles, register_dataset

from ._annotations import Limited, limited, read_lines

REPEATS = 5


@register_dataset("precomp", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class Precomp(Limited):
    """Image features and captions in files: ``cran-bench run cca -d "precomp[folder=f30k_precomp]" --data DIR``.

    For each of train, dev and test the folder contains features, as in ``train_ims.npy``, of shape (rows, dim) or
    (rows, regions, dim), and captions, as in ``train_caps.txt``, one per line and grouped by image.  There is one row
    per image, or one per caption if every image is repeated five times.  If there are only region features, their mean
    is the feature of the whole image, and the first five regions are used.

    Attributes:
        folder: folder of the files below the data folder; empty for the data folder itself.
        val: prefix of the validation files.
        test: prefix of the test files; `testall` for the 5,000 test images of MS-COCO.
    """

    folder: str = ""
    val: str = "dev"
    test: str = "test"

    def defaults(self) -> Mapping[str, Any]:
        return {"images": "data", "regions": "data"}

    def load(self, data: Path) -> Collection:
        folder = data / self.folder
        files: list[FeatureFile] = []
        captions: list[list[str]] = []
        for name in ("train", self.val, self.test):
            file, own = _read(folder, name)
            files.append(file)
            captions.append(own)
        rows = {split: range(len(file)) for split, file in zip(SPLITS, files, strict=True)}
        kept = [len(some) for some in limited(rows, self.limit).values()]
        places = [(k, image) for k, count in enumerate(kept) for image in range(count)]
        each = [len(own) // len(file) for own, file in zip(captions, files, strict=True)]
        ends = np.cumsum([0, *kept])
        return Collection(
            name="precomp",
            images=FeatureFiles([f"{SPLITS[k]}-{image}" for k, image in places], files, places),
            captions=[text for k, own in enumerate(captions) for text in own[: kept[k] * each[k]]],
            image_of=np.repeat(np.arange(len(places)), [each[k] for k, _ in places]),
            splits={split: np.arange(ends[k], ends[k + 1]) for k, split in enumerate(SPLITS)},
        )


def _read(folder: Path, name: str) -> tuple[FeatureFile, list[str]]:
    """Read the features and captions of a split."""
    path = folder / f"{name}_caps.txt"
    if not path.is_file():
        raise BadInput(
            f"there is no {path.name} in {folder}; give the folder with --data DIR or precomp[folder=NAME], and other "
            "file names with precomp[val=NAME,test=NAME]"
        )
    lines = read_lines(path)
    captions = [line.strip() for line in lines[: len(lines) - (not lines[-1].strip())]]
    if "" in captions:
        raise BadInput(
            f"{path}, line {captions.index('') + 1}: the caption is empty; write one, as lines correspond to images"
        )
    file = FeatureFile.open(folder / f"{name}_ims.npy")
    rows = len(file.array)
    if rows == len(captions) and rows % REPEATS == 0 and _is_repeated(file):
        file = replace(file, repeats=REPEATS)
    if len(captions) % rows and file.repeats == 1:
        raise BadInput(
            f"{file.path} has {rows:,} rows for the {len(captions):,} captions of {path.name}; expected one row per "
            "image, with the same number of captions for each, or one row per caption"
        )
    return file, captions


def _is_repeated(file: FeatureFile) -> bool:
    """Whether the first rows are identical, and so belong to one image."""
    first = file.array[:REPEATS]
    return bool((first == first[0]).all())
