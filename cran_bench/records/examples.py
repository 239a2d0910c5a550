"""Best answers of queries, some of them explained, and the hardest contrasts; no caption or pixel is ever stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, NonNegativeInt, model_validator

from cran_bench.errors import BadInput
from cran_bench.ranking.metrics import Direction
from cran_bench.records.schema import StrictModel

if TYPE_CHECKING:  # tables are read without importing torch
    from torch import Tensor

    from cran_bench.contract import Explaining, Explanation, Method
    from cran_bench.contrasts import Contrasts
    from cran_bench.embeddings import Embedding
    from cran_bench.ranking.problem import Problem
    from cran_bench.split import Split

QUERIES = 10  # per direction
TOP = 5
ALL_UP_TO = 20_000_000  # pairs of images and texts; above, a sample is answered, as all would take longer than ranking
SAMPLE = 1000  # queries per direction


@dataclass(frozen=True)
class Answers:
    """The best answers of queries by row, the best first; -1 where there are fewer, or where a query is not answered.

    Attributes:
        i2t: (N, 5) int32, rows of texts for each image.
        t2i: (T, 5) int32, rows of images for each text.
    """

    i2t: NDArray[np.int32]
    t2i: NDArray[np.int32]

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]], images: int, texts: int) -> Answers:
        """The answers stored as `i2t` and `t2i`.

        Raises:
            ValueError: they are not those of so many images and texts.
        """
        found = Answers(arrays["i2t"], arrays["t2i"])
        for rows, queries, others in ((found.i2t, images, texts), (found.t2i, texts, images)):
            if len(rows) != queries or rows.min() < -1 or rows.max() >= others:
                raise ValueError(f"the answers are not those of {images:,} images and {texts:,} texts")
        return found


class Answer(StrictModel):
    """One of the best answers.

    Attributes:
        image: id of the image, or of the text's image.
        text: number of the text among those of its image, counted from 1; 0 for an image.
        score: similarity to the query.
    """

    image: str
    text: NonNegativeInt
    score: FiniteFloat


class Why(StrictModel):
    """A rounded `cran_bench.Explanation` of the first answer; boxes are corners (x0, y0, x1, y1) as fractions."""

    scores: dict[str, FiniteFloat]
    attention: dict[str, list[FiniteFloat]]
    boxes: list[tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]]
    regions: list[tuple[NonNegativeInt, FiniteFloat]]
    pairs: list[tuple[NonNegativeInt, NonNegativeInt, FiniteFloat]]

    @model_validator(mode="after")
    def _has_its_boxes(self) -> Why:
        named = {region for region, _ in self.regions} | {place for *pair, _ in self.pairs for place in pair}
        if any(place >= len(self.boxes) for place in named):
            raise ValueError(f"region {max(named)} is named, but there are {len(self.boxes)} boxes, counted from 0")
        return self


class Example(StrictModel):
    """A query and its best answers.

    Attributes:
        direction: `i2t` for an image query, `t2i` for a text query.
        image: id of the query image, or of the query text's image.
        text: number of the query text, counted from 1; 0 for an image query.
        found: answers by decreasing score; an answer is right if its image is that of the query.
        why: explanation of the first answer, if the method gives one.
    """

    direction: Direction
    image: str
    text: NonNegativeInt
    found: list[Answer] = Field(min_length=1)
    why: Why | None = None


class HardContrast(StrictModel):
    """A pair of captions, the false one of which scores above the true one.

    Attributes:
        image: id of the image.
        pair: position among all contrasts of the run, counted from 0, by which both captions are found again.
        kind: name of its kind.
        true: score of the true caption.
        false: score of the false caption.
    """

    image: str
    pair: NonNegativeInt
    kind: str
    true: FiniteFloat
    false: FiniteFloat


class Examples(StrictModel):
    """All examples of a run: queries, and the hardest contrasts if it had any."""

    examples: list[Example]
    contrasts: list[HardContrast] | None = None


def find_hard_contrasts(
    ids: Sequence[str],
    contrasts: Contrasts,
    true: NDArray[np.float64],
    false: NDArray[np.float64],
    among: NDArray[np.bool_],
) -> list[HardContrast]:
    """The ten pairs, of different images, that a method gets most wrong, the worst first.

    Args:
        ids: of the images of the collection.
        contrasts: P pairs.
        true: (P,) scores of the true captions.
        false: (P,) scores of the false captions.
        among: (P,) which pairs to choose from, such as those of the balanced subset.
    """
    rows, hard = np.flatnonzero(among), dict[int, HardContrast]()
    for pair in rows[np.argsort((true - false)[rows], kind="stable")].tolist():
        image, kind = int(contrasts.image[pair]), contrasts.kinds[contrasts.kind[pair]]
        scores = {"true": round(float(true[pair]), 4), "false": round(float(false[pair]), 4)}
        hard.setdefault(image, HardContrast(image=ids[image], pair=pair, kind=kind, **scores))
        if len(hard) == QUERIES:
            break
    return list(hard.values())


def drawn(images: int, texts: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of at most `count` images and texts, the same for every method and seed; fewer are among more."""
    draw = np.random.default_rng(0)
    some_images, some_texts = (np.sort(draw.permutation(size)[:count]) for size in (images, texts))
    return some_images, some_texts


def find_answers(problem: Problem) -> Answers:
    """Answer all queries of both directions, or a sample if there are more than `ALL_UP_TO` pairs."""
    import torch

    from cran_bench.ranking.answers import best_answers

    images, texts = len(problem.images), len(problem.texts)
    count = SAMPLE if images * texts > ALL_UP_TO else max(images, texts)
    found: list[NDArray[np.int32]] = []
    for some, size in zip(drawn(images, texts, count), (images, texts), strict=True):
        rows = np.full((size, TOP), -1, dtype=np.int32)
        rows[some] = best_answers(problem, torch.from_numpy(some), len(found) == 1, TOP).numpy()
        found.append(rows)
    return Answers(*found)


def find_examples(method: Method, test: Split, images: Embedding, texts: Embedding) -> Examples:
    """Answer ten queries per direction, the same for every method and seed, with the five best answers of each.

    Args:
        method: a fitted method.
        test: N images and T texts.
        images: N embeddings.
        texts: T embeddings.
    """
    import torch

    from cran_bench.embeddings import as_levels

    owners = test.image_of.cpu().numpy()
    number = np.arange(len(owners)) - np.searchsorted(owners, owners) + 1
    ids = test.image_ids
    some_images, some_texts = drawn(len(ids), len(owners), QUERIES)
    left, right = as_levels(images), as_levels(texts)

    def on_device(rows: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(rows).to(test.image_of.device)

    def best(scores: Tensor) -> list[list[tuple[int, float]]]:
        top = scores.topk(min(TOP, scores.shape[1]), dim=1)
        return [
            list(zip(rows, values, strict=True))
            for rows, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]

    examples = []
    of_images = best(method.similarity.scores(left.rows(on_device(some_images)), right))
    for image, answers in zip(some_images.tolist(), of_images, strict=True):
        found = [Answer(image=ids[owners[k]], text=int(number[k]), score=round(s, 4)) for k, s in answers]
        why = _why(method, test, image, answers[0][0])
        examples.append(Example(direction="i2t", image=ids[image], text=0, found=found, why=why))
    of_texts = best(method.similarity.scores(left, right.rows(on_device(some_texts))).T)
    for text, answers in zip(some_texts.tolist(), of_texts, strict=True):
        found = [Answer(image=ids[k], text=0, score=round(s, 4)) for k, s in answers]
        why = _why(method, test, answers[0][0], text)
        query = {"image": ids[owners[text]], "text": int(number[text])}
        examples.append(Example(direction="t2i", **query, found=found, why=why))
    return Examples(examples=examples)


def _why(method: Method, test: Split, image: int, text: int) -> Why | None:
    if not hasattr(method, "explain"):
        return None
    try:
        (explanation,) = cast("Explaining", method).explain(test, [(image, text)])
    except BadInput:  # a text without any known word has a score, but no explanation
        return None
    return _rounded(explanation, test, image)


def _rounded(explanation: Explanation, test: Split, image: int) -> Why:
    shows_regions = bool(explanation.regions or explanation.pairs)
    boxes: Sequence[Sequence[float]] = test.boxes[image].tolist() if shows_regions else []
    return Why(
        scores={name: round(value, 4) for name, value in explanation.scores.items()},
        attention={name: [round(weight, 3) for weight in weights] for name, weights in explanation.attention.items()},
        boxes=[(round(x0, 3), round(y0, 3), round(x1, 3), round(y1, 3)) for x0, y0, x1, y1 in boxes],
        regions=[(region, round(score, 4)) for region, score in explanation.regions],
        pairs=[(first, second, round(score, 4)) for first, second, score in explanation.pairs],
    )
