"""Search with a fitted method: a sentence among images, or a picture among texts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cran_bench.contract import Method
from cran_bench.errors import BadInput
from cran_bench.split import MissingFeature, Split
from cran_bench.viewing.drawing import require_drawable, write_png

if TYPE_CHECKING:
    from PIL.Image import Image

ACROSS = 5  # pictures in a row of the drawing


@dataclass(frozen=True)
class Hit:
    """One of the best.

    Attributes:
        position: of the image in the split.
        image: its id.
        text: the text that was found, or the first one of an image that was.
        score: its similarity to the query.
    """

    position: int
    image: str
    text: str
    score: float


def images_for(method: Method, split: Split, sentence: str, top: int) -> list[Hit]:
    """The `top` images of a split that a sentence describes best, the best first."""
    with torch.inference_mode():
        images = method.embed_images(split)
        texts = method.embed_texts(split.asking([sentence]))
        scores = method.similarity.scores(images, texts)[:, 0]
    best = scores.topk(min(top, len(scores)))
    first, ids = torch.searchsorted(split.image_of.cpu(), torch.arange(len(split))), split.image_ids
    return [
        Hit(position, ids[position], split.texts[int(first[position])], score)
        for position, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def texts_for(method: Method, split: Split, picture: Split, top: int) -> list[Hit]:
    """The `top` texts of a split that describe a picture best, the best first.

    Raises:
        BadInput: the method needs regions, and the picture has none.
    """
    with torch.inference_mode():
        try:
            image = method.embed_images(picture)
        except MissingFeature:
            raise BadInput(
                "the method needs regions, but those of this dataset come with its data and a new picture has none: "
                "prepare the dataset with --regions grid or a detector, or search with one that needs none"
            ) from None
        scores = method.similarity.scores(image, method.embed_texts(split))[0]
    best = scores.topk(min(top, len(scores)))
    owner, ids = split.image_of.tolist(), split.image_ids
    return [
        Hit(owner[place], ids[owner[place]], split.texts[place], score)
        for place, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def describe(hits: Sequence[Hit]) -> str:
    """A line for each: rank, score, image and text."""
    width = max((len(hit.image) for hit in hits), default=0)
    return "\n".join(
        f"  {rank:>2}  {hit.score:7.4f}  {hit.image:<{width}}  {hit.text}" for rank, hit in enumerate(hits, start=1)
    )


def draw(hits: Sequence[Hit], images: Sequence[Image], title: str, query: Image | None, path: Path) -> None:
    """The best as pictures with rank, score and text, below the query, as a PNG.

    Args:
        hits: what was found.
        images: the image of each.
        title: over all.
        query: the picture that was searched with, or None.
        path: the file.

    Raises:
        BadInput: see `require_drawable`.
    """
    require_drawable(path)
    from matplotlib.figure import Figure

    shown: list[tuple[Image, str]] = [] if query is None else [(query, "searched with")]
    shown += [
        (image, f"{rank}   {hit.score:.3f}\n" + textwrap.fill(hit.text, 34, max_lines=3))
        for rank, (hit, image) in enumerate(zip(hits, images, strict=True), start=1)
    ]
    rows = -(-len(shown) // ACROSS)
    figure = Figure(figsize=(2.6 * ACROSS, 0.5 + 2.9 * rows), layout="constrained")
    figure.suptitle(textwrap.fill(title, 110), fontsize=11, parse_math=False)
    axes: Any = figure.subplots(rows, ACROSS, squeeze=False)
    for place in axes.flat:
        place.set_axis_off()
    for place, (image, text) in zip(axes.flat, shown, strict=False):
        place.imshow(image)
        place.set_title(text, fontsize=8, loc="left", parse_math=False)
    write_png(figure, path)
