"""Everything that is stored of a ranked test split: its ranks, and the answers to contrasts and judgments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cran_bench.ranking.agreement import Agreement
from cran_bench.ranking.contrasted import Contrasted
from cran_bench.ranking.metrics import Direction, Ranks
from cran_bench.ranking.relevance import Retrieved

_PARTS = {"contrasts": Contrasted.ARRAYS, "relevant": Retrieved.ARRAYS, "agreement": Agreement.ARRAYS}


@dataclass(frozen=True)
class RecordedRanks(Ranks):
    """Ranks, and what else was asked of a method; a class of its own, as fits depend on the code of `Ranks`.

    Attributes:
        contrasts: the outcomes of contrasts; None without any.
        relevant: the figures of queries with several right answers, by the name of the `Relevance` and the direction.
        agreements: the order of the pairs that people rated, by the name of the `Judgments`.
    """

    contrasts: Contrasted | None = None
    relevant: Mapping[str, Mapping[Direction, Retrieved]] = field(default_factory=dict)
    agreements: Mapping[str, Agreement] = field(default_factory=dict)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        parts: dict[str, Mapping[str, NDArray[np.generic]]] = {}
        if self.contrasts:
            parts["contrasts"] = self.contrasts.arrays()
        for name, ways in self.relevant.items():
            parts |= {f"relevant.{name}.{way}": vars(of) for way, of in ways.items()}
        parts |= {f"agreement.{name}": of.arrays() for name, of in self.agreements.items()}
        return super().arrays() | {f"{part}.{key}": x for part, values in parts.items() for key, x in values.items()}

    @staticmethod
    def types(names: Iterable[str]) -> dict[str, Any]:
        """The types of the arrays among `names` that belong to contrasts, relevance or agreement."""
        found = {}
        for name in names:
            first, last = name.partition(".")[0], name.rpartition(".")[2]
            if first in _PARTS and last in _PARTS[first]:
                found[name] = _PARTS[first][last]
        return found

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> RecordedRanks:
        ranks = Ranks.from_arrays(arrays)
        images, texts = len(ranks.i2t.better), len(ranks.image_of)
        parts: dict[str, dict[str, NDArray[Any]]] = {}
        for name in RecordedRanks.types(arrays):
            part, _, key = name.rpartition(".")
            parts.setdefault(part, {})[key] = arrays[name]
        relevant: dict[str, dict[Direction, Retrieved]] = {}
        agreements: dict[str, Agreement] = {}
        contrasts: Contrasted | None = None
        for part, values in parts.items():
            match part.split("."):
                case ["contrasts"]:
                    contrasts = Contrasted.from_arrays(values, images)
                case ["relevant", name, "i2t" | "t2i" as way]:
                    found = Retrieved.from_arrays(values, images if way == "i2t" else texts)
                    relevant.setdefault(name, {})[way] = found
                case ["agreement", name]:
                    agreements[name] = Agreement.from_arrays(values, images, texts)
                case _:
                    raise ValueError(f"{part} is no part of a file of ranks")
        return RecordedRanks(**vars(ranks), contrasts=contrasts, relevant=relevant, agreements=agreements)
