"""Winoground: 400 examples of two images and two captions with the same words (Thrush et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import TypeAdapter

from cran_bench import register_dataset

from ._captions import json_lines
from ._contrasts import Contrast, OnlyContrasts, Place, check_crossed, contrast, validated


@dataclass
class _Example:
    image_0: str
    image_1: str
    caption_0: str
    caption_1: str
    collapsed_tag: Literal["Object", "Relation", "Both"]


EXAMPLE = TypeAdapter(_Example)


@register_dataset("winoground", presets={"quick": {"limit": 200}})
@dataclass(frozen=True)
class Winoground(OnlyContrasts):
    """The owners' files in ``winoground/`` below the data folder, for testing only.

    ``examples.jsonl`` and the folder ``images`` may be in ``data/``.  The contrasts of an example are crossed: each
    caption is true of one image and false of the other.  Their kind is `collapsed_tag`, what was exchanged: ``Object``,
    ``Relation`` or ``Both``.  Examples that lack an image are left out and counted.
    """

    label = "winoground"
    folders = ("winoground",)
    files: ClassVar = {"examples.jsonl": ("Object", "Relation", "Both")}
    source = "https://huggingface.co/datasets/facebook/winoground (folder data), after agreeing to its terms"
    photographs = "unpack images.zip of https://huggingface.co/datasets/facebook/winoground there"

    def read(self, path: Path, remarks: list[str]) -> Iterator[Contrast]:
        for where, row in json_lines(path, "image_0, image_1, caption_0, caption_1 and collapsed_tag"):
            one = validated(EXAMPLE, row, where)
            halves = [
                contrast(where, one.image_0, one.caption_0, one.caption_1, one.collapsed_tag, where),
                contrast(where, one.image_1, one.caption_1, one.caption_0, one.collapsed_tag, where),
            ]
            check_crossed(where, halves)
            yield from halves

    def places(self, home: Path, data: Path) -> list[Place]:
        folders = [home / "images", home / "data" / "images"]
        return [Place(folder, after=ending) for folder in folders for ending in (".png", ".jpg", "")]
