"""Example queries beside a record: what a few of them found, by id; never a caption or a pixel of the data itself."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, model_validator

from cran_bench.ranks import Direction


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Found(_Strict):
    """One of the best answers.

    Attributes:
        image: id of the image, or of the image whose text it is.
        text: number of the text among those of its image, from 1; 0 for an image.
        score: its similarity to the query.
    """

    image: str
    text: NonNegativeInt
    score: FiniteFloat


class Why(_Strict):
    """Why the first answer scored as it did, see `cran_bench.Explanation`; regions are corners as fractions."""

    scores: dict[str, FiniteFloat]
    attention: dict[str, list[FiniteFloat]]
    boxes: list[tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]]
    regions: list[tuple[NonNegativeInt, FiniteFloat]]
    pairs: list[tuple[NonNegativeInt, NonNegativeInt, FiniteFloat]]

    @model_validator(mode="after")
    def _has_its_boxes(self) -> Why:
        named = {region for region, _ in self.regions} | {place for *pair, _ in self.pairs for place in pair}
        if any(place >= len(self.boxes) for place in named):
            raise ValueError(f"there are {len(self.boxes)} boxes, and region {max(named)} is named, counted from 0")
        return self


class Example(_Strict):
    """A query and its best answers.

    Attributes:
        direction: `i2t`, an image asks, or `t2i`, a text asks.
        image: id of the image that asks, or whose text asks.
        text: number of the text that asks, from 1; 0 where the image asks.
        found: the best answers, the best first; an answer is right if its image is that of the query.
        why: of the query and the first answer, where the method can explain.
    """

    direction: Direction
    image: str
    text: NonNegativeInt
    found: list[Found] = Field(min_length=1)
    why: Why | None = None


class Examples(_Strict):
    """All examples of a run."""

    examples: list[Example]
