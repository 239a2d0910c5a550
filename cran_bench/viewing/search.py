"""Search with a fitted method: images for a sentence, or texts for an image."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from cran_bench.contract import Method
from cran_bench.errors import BadInput, escaped
from cran_bench.frontend.text.words import FIRST_WORD
from cran_bench.similarity import one_way
from cran_bench.split import MissingFeature, Split
from cran_bench.viewing.drawing import require_drawable, write_png

if TYPE_CHECKING:
    from PIL.Image import Image

ACROSS = 5  # images per row of the drawing
INPUTS = ("chars", "bow", "tfidf", "mean_vectors", "word_counts")


@dataclass(frozen=True)
class Hit:
    """A search result.

    Attributes:
        position: row of the image in the split.
        image: id of the image.
        text: the matching text; of a matching image, the text that shares most words with the query, by tf-idf.
        score: similarity to the query.
    """

    position: int
    image: str
    text: str
    score: float


def images_for(method: Method, split: Split, sentence: str, top: int) -> list[Hit]:
    """The `top` images of a split with the highest scores for a sentence, best first.

    Raises:
        BadInput: nothing of the sentence is known: no word to a method that reads words, no character to one that reads
            characters or the text itself.
    """
    asked, known = split.asking([sentence]), list[bool]()
    with torch.inference_mode():
        texts = method.embed_texts(cast("Split", _Asked(asked, known))) if sentence.strip() else None
        if texts is None or not any(known or [True]):
            raise BadInput(f"no word of '{sentence}' is known to the method: use words of the training captions")
        scores = one_way(method.similarity, False).scores(method.embed_images(split), texts)[:, 0]
    best = scores.topk(min(top, len(scores)))
    shared, ids = (split.tfidf() @ asked.tfidf().T).toarray()[:, 0], split.image_ids
    owner = split.image_of.cpu().numpy()

    def closest(position: int) -> str:
        own = np.flatnonzero(owner == position)
        return split.texts[int(own[shared[own].argmax()])]

    return [
        Hit(position, ids[position], closest(position), score)
        for position, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


class _Asked:
    """A split of one text, which notes in `known` whether each text input that a method reads holds anything of it."""

    def __init__(self, split: Split, known: list[bool]) -> None:
        self._split, self._known = split, known

    def __len__(self) -> int:
        return len(self._split)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._split, name)
        if name == "asking":
            return lambda texts: _Asked(value(texts), self._known)
        if name in ("text_features", "text_rows"):
            self._known.append(True)
        if name == "tokens":
            self._known.append(bool((value[0] >= FIRST_WORD).any()))
        return partial(self._noted, value) if name in INPUTS else value

    def _noted(self, read: Callable[..., Any], *args: Any, **options: Any) -> Any:
        value = read(*args, **options)
        self._known.append(bool(((value[0] if isinstance(value, tuple) else value) != 0).sum()))
        return value


def texts_for(method: Method, split: Split, picture: Split, top: int) -> list[Hit]:
    """The `top` texts of a split with the highest scores for an image, best first.

    Args:
        method: fitted.
        split: split of the texts.
        picture: the query image as a split of its own.
        top: number of results.

    Raises:
        BadInput: the method needs regions and the image has none.
    """
    with torch.inference_mode():
        try:
            image = method.embed_images(picture)
        except MissingFeature:
            if picture.has_regions == split.has_regions:
                raise
            raise BadInput(
                "the method needs regions, but this dataset comes with its own and a new image has none: prepare the "
                "dataset with --regions grid or a detector, or use a method without regions"
            ) from None
        scores = one_way(method.similarity, True).scores(image, method.embed_texts(split))[0]
    best = scores.topk(min(top, len(scores)))
    owner, ids = split.image_of.tolist(), split.image_ids
    return [
        Hit(owner[row], ids[owner[row]], split.texts[row], score)
        for row, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def describe(hits: Sequence[Hit]) -> str:
    """One line per hit: rank, score, image and text."""
    width = max((len(hit.image) for hit in hits), default=0)
    return "\n".join(
        escaped(f"  {rank:>2}  {hit.score:7.4f}  {hit.image:<{width}}  {hit.text}", "")
        for rank, hit in enumerate(hits, start=1)
    )


def draw(hits: Sequence[Hit], images: Sequence[Image], title: str, query: Image | None, path: Path) -> None:
    """Draw the images of the hits with rank, score and text, after the query image if there is one.

    Args:
        hits: search results.
        images: the image of each hit.
        title: above the drawing.
        query: the query image, or None.
        path: a PNG file.

    Raises:
        BadInput: matplotlib is not installed, or the path does not end in .png.
    """
    require_drawable(path)
    from matplotlib.figure import Figure

    shown: list[tuple[Image, str]] = [] if query is None else [(query, "query")]
    shown += [
        (image, f"{rank}   {hit.score:.3f}\n" + textwrap.fill(hit.text, 34, max_lines=3))
        for rank, (hit, image) in enumerate(zip(hits, images, strict=True), start=1)
    ]
    rows = -(-len(shown) // ACROSS)
    figure = Figure(figsize=(2.6 * ACROSS, 0.5 + 2.9 * rows), layout="constrained")
    figure.suptitle(textwrap.fill(title, 110), fontsize=11)
    axes: Any = figure.subplots(rows, ACROSS, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (image, text) in zip(axes.flat, shown, strict=False):
        axis.imshow(image)
        axis.set_title(text, fontsize=8, loc="left")
    write_png(figure, path)
