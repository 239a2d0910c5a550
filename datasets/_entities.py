"""Reader for Flickr30K Entities: phrases of captions, and their boxes in the image (Plummer et al., ICCV 2015)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from xml.etree import ElementTree

from cran_bench import BadInput, first_of, say

from ._annotations import read_lines

FOLDERS = "Sentences", "Annotations"
SOURCE = "annotations.zip of https://github.com/BryanPlummer/flickr30k_entities"
_PHRASE = re.compile(r"\[/EN#(?P<chain>\w+)(?:/[^\s/\]]+)+\s+(?P<words>\S.*?)\](?=\s|$)")
Box: TypeAlias = tuple[float, float, float, float]
"""x0 y0 x1 y1 as fractions of width and height."""
_CORNERS = "xmin", "ymin", "xmax", "ymax"


def find_entities(folder: Path, name: str) -> Path | None:
    """Return the folder ``Sentences`` or ``Annotations`` below the folder of Flickr30K, or None."""
    return first_of(folder, name, f"annotations/{name}", f"flickr30k_entities/{name}")


def read_entities(folder: Path, names: Sequence[str]) -> list[list[tuple[str, Box]]]:
    """Read the phrases of each image, in the order of its sentences, that have a box; several boxes are merged to one.

    Args:
        folder: the folder of Flickr30K.
        names: file names of the images.

    Raises:
        BadInput: a folder or file is missing or in another format.
    """
    sentences, annotations = (find_entities(folder, name) for name in FOLDERS)
    if sentences is None or annotations is None:
        absent = FOLDERS[sentences is not None]
        raise BadInput(f"there is no folder {absent} in {folder}: extract {SOURCE} there, or leave out phrases=true")
    say(f"reading the phrases and boxes of {len(names):,} images")
    found = []
    for name in names:
        stem = PurePosixPath(name).stem
        boxes = _read_boxes(annotations / f"{stem}.xml")
        phrases = _read_phrases(sentences / f"{stem}.txt")
        found.append([(phrase, boxes[chain]) for chain, phrase in phrases if chain in boxes])
    return found


def _read_phrases(path: Path) -> list[tuple[str, str]]:
    """Chain and words of each phrase in the sentences of an image, such as ``[/EN#283585/people Two men] in a yard .``.

    Phrases of the chain 0, which cannot be seen, are left out.
    """
    _require(path)
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        phrases = [(match["chain"], match["words"]) for match in _PHRASE.finditer(line)]
        if len(phrases) != line.count("[/EN#"):
            raise BadInput(f"{path}, line {number}: expected [/EN#chain/type words], got '{line.strip()[:60]}'")
        found += [(chain, words) for chain, words in phrases if chain != "0"]
    return found


def _read_boxes(path: Path) -> dict[str, Box]:
    """The smallest box, as fractions of width and height, around all boxes of each chain that has any."""
    _require(path)
    try:
        root = ElementTree.fromstring(path.read_bytes())
        width, height = (int(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
        boxes: dict[str, list[list[int]]] = {}
        for thing in root.iter("object"):
            if (box := thing.find("bndbox")) is not None:
                corners = [int(box.findtext(corner, "")) for corner in _CORNERS]
                for name in thing.iter("name"):
                    boxes.setdefault(str(name.text).strip(), []).append(corners)
        if min(width, height) < 1:
            raise ValueError(f"the size is {width} x {height}")
    except (ElementTree.ParseError, ValueError) as error:
        raise BadInput(f"{path} is no annotation of Flickr30K Entities ({error}): extract {SOURCE} again") from None
    merged: dict[str, Box] = {}
    for chain, own in boxes.items():
        x0, y0, x1, y1 = zip(*own, strict=True)
        # pixels count from 1, and the last one belongs to the box
        left, top = max(0, min(x0) - 1) / width, max(0, min(y0) - 1) / height
        right, bottom = min(width, max(x1)) / width, min(height, max(y1)) / height
        if left < right and top < bottom:
            merged[chain] = left, top, right, bottom
    return merged


def _require(path: Path) -> None:
    if not path.is_file():
        raise BadInput(f"there is no {path.name} in {path.parent}: extract {SOURCE} again")
