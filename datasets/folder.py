"""Your own data: a folder of images, and a CSV or JSON Lines file with their captions."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cran_bench import SPLITS, BadInput, Collection, did_you_mean, register_dataset

from ._annotations import Photographs, check_images, image_path, limited, make_collection, random_split, read_lines

FILES = ("captions.csv", "captions.jsonl")
ALIASES = {"dev": "val", "valid": "val", "validation": "val", "training": "train"}


@register_dataset("folder", presets={"quick": {"limit": 1000}})
@dataclass(frozen=True)
class Folder(Photographs):
    """Your images and captions: ``cran-bench run -d folder --data DIR``.

    DIR contains ``captions.csv`` with the header ``image,caption`` or ``image,caption,split``, or ``captions.jsonl``
    with one object with these keys per line; instead of `caption` an object may have a list `captions`.  An image is a
    path below DIR and may be on several lines.  The splits are train, val and test; if no split is given, images are
    split at random (80/10/10).

    Attributes:
        file: name of the caption file below DIR; empty for ``captions.csv`` or ``captions.jsonl``.
        images: folder below DIR to which image paths are relative.
        seed: seed of the random split.
    """

    file: str = ""
    images: str = "."
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, not {self.seed}")

    def load(self, data: Path) -> Collection:
        path = self._find(data)
        captions: dict[str, list[str]] = {}
        split_of: dict[str, str] = {}
        rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
        for where, image, texts, split in rows:
            if not image:
                raise BadInput(f"{where}: the image is empty; write its path below {data / self.images}")
            image = image_path(image)
            if not any(text.strip() for text in texts):
                raise BadInput(f"{where}: {image} has no caption; write one or remove the line")
            if split_of.setdefault(image, split) != split:
                raise BadInput(
                    f"{where}: {image} is in split '{split}' here but in '{split_of[image]}' on an earlier line; "
                    "choose one"
                )
            captions.setdefault(image, []).extend(text.strip() for text in texts if text.strip())
        members = self._split(path, split_of)
        kept = limited(members, self.limit)
        check_images([name for split in SPLITS for name in kept[split]], path, data / self.images)
        return make_collection("folder", data / self.images, kept, captions)

    def _find(self, data: Path) -> Path:
        for name in (self.file,) if self.file else FILES:
            if (data / name).is_file():
                return data / name
        wanted = self.file or " or ".join(FILES)
        raise BadInput(
            f"there is no {wanted} in {data}; give the folder of your data with --data (see cran-bench info folder)"
        )

    def _split(self, path: Path, split_of: Mapping[str, str]) -> dict[str, list[str]]:
        without = [image for image, split in split_of.items() if not split]
        if without and len(without) < len(split_of):
            raise BadInput(
                f"{path}: {len(without)} of {len(split_of)} images have no split, the first is {without[0]}; "
                "give a split for every image or for none"
            )
        if not without:
            return {split: [image for image, own in split_of.items() if own == split] for split in SPLITS}
        if len(without) < 10:
            raise BadInput(
                f"{path} has {len(without)} images, but a random split needs at least 10; give a split for every image"
            )
        rows = random_split(len(without), len(without) // 10, self.seed)
        return {split: [without[k] for k in sorted(rows[split])] for split in SPLITS}


Row = tuple[str, str, list[str], str]  # file and line, image, captions, split


def _csv_rows(path: Path) -> Iterator[Row]:
    reader = csv.DictReader([f"{line}\n" for line in read_lines(path)], strict=True)
    try:
        header = [(name or "").strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = header
        _check_keys(f"{path}, line 1", header, {"image", "caption"})
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise BadInput(f"{where}: expected {len(header)} columns; put captions with commas in double quotes")
            yield where, row["image"].strip(), [row["caption"]], _split_name(where, row.get("split", ""))
    except csv.Error as error:
        raise BadInput(
            f"{path}, line {reader.reader.line_num}: not valid CSV ({error}); double the quotes inside quoted captions"
        ) from None


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise BadInput(f"{where}: not valid JSON ({reason}); write one object per line") from None
        if not isinstance(row, dict):
            raise BadInput(f"{where}: expected an object with image and caption, got {line.strip()[:40]}")
        _check_keys(where, row, {"image", "captions" if "captions" in row else "caption"})
        texts = row.get("captions", row.get("caption"))
        texts = texts if isinstance(texts, list) else [texts]
        split = row.get("split") or ""
        if not all(isinstance(text, str) for text in (row["image"], split, *texts)):
            raise BadInput(f"{where}: image, captions and split must be strings; put them in double quotes")
        yield where, row["image"].strip(), texts, _split_name(where, split)


def _check_keys(where: str, keys: Iterable[str], wanted: set[str]) -> None:
    missing = sorted(wanted - set(keys))
    if missing:
        raise BadInput(
            f"{where}: '{missing[0]}' is missing among {', '.join(keys) or 'no columns'}; see cran-bench info folder"
        )


def _split_name(where: str, text: str) -> str:
    split = ALIASES.get(text.strip().lower(), text.strip().lower())
    if split and split not in SPLITS:
        raise BadInput(f"{where}: the split is '{text}'{did_you_mean(split, SPLITS)}")
    return split
