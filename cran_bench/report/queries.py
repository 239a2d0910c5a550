"""Query by query: how well each row answered, what it found, and the contrasts it got most wrong, for the page."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike

from cran_bench.contrasts import Contrasts
from cran_bench.frontend.text.characters import ALPHABET, encode
from cran_bench.machine.progress import say, track
from cran_bench.protocols import unit_of
from cran_bench.ranking.contrasted import HEADLINE
from cran_bench.ranking.metrics import Direction
from cran_bench.records.archive import read_answers, read_examples
from cran_bench.records.examples import TOP, Example
from cran_bench.records.schema import ANSWERS
from cran_bench.records.store import Finished
from cran_bench.tables.tables import Group, Table

from .details import Details
from .pictures import Pictures, Shown

WAYS: tuple[Direction, ...] = get_args(Direction)


class Explorer:
    """Puts the queries and contrasts of tables where the page finds them, with captions and pictures of the datasets.

    Of a row's seeds, it is the first one's.

    Args:
        data: folder of the datasets.
        cache: folder in which the digests of images are noted.
        details: keeps it all.
    """

    def __init__(self, data: Path, cache: Path, details: Details) -> None:
        self.details, self.pictures = details, Pictures(data, cache, details)
        self._put: dict[frozenset[str], str] = {}
        self._why: dict[str, dict[str, Any]] = {}
        self._answered: dict[str, Finished] = {}
        self._wanted: dict[tuple[str, int], Shown] = {}  # pictures
        self._made: dict[Group, Contrasts | None] = {}

    def add(self, table: Table, table_id: str) -> tuple[str, str]:
        """Put the queries of a table of recalls or categories, or the contrasts of one of contrasts.

        Returns:
            The names of queries and of contrasts; '' where there are none, or no room.
        """
        if not table.finished or not table.has_intervals:
            return "", ""
        if table.task.name == HEADLINE:
            contrasts = self._contrasts(table)
            return "", self.details.put(f"contrasts-{table_id}", contrasts) if contrasts["pairs"] else ""
        if table.task.name not in ("recall", "category"):
            return "", ""
        runs = frozenset(row.runs[0].record.fingerprint for row in table.finished)
        if runs not in self._put:  # a table by category may be of the runs of one of recalls
            self._put[runs] = self.details.put(f"queries-{table_id}", self._queries(table))
        return self._put[runs], ""

    def fill(self) -> None:
        """Put explanations, pictures and the answers to all queries, while there is room, after the last `add`."""
        for name, why in self._why.items():
            self.details.put(name, why)
        for (_, place), shown in track(self._wanted.items(), "making thumbnails", len(self._wanted)):
            self.details.picture(f"{shown.name}/{place}", partial(shown.read, place))
        for name, run in self._answered.items():
            if answers := self.details.intact(partial(read_answers, run.path, run.record)):
                self.details.put(name, {way: packed(getattr(answers, way) + 1) for way in WAYS})  # 0 for none

    def _queries(self, table: Table) -> dict[str, Any]:
        shown, group, rows = self.pictures.of(table), table.group, []
        for row in table.finished:
            run = row.runs[0]
            line = {"label": row.label, "seed": run.record.seed, **self._ranks(run)}
            if run.path.with_name(run.path.stem + ANSWERS).exists():
                line["answers"] = f"answers-{run.record.fingerprint[:16]}"
                self._answered[line["answers"]] = run
            stored = self.details.intact(partial(read_examples, run.path))
            if shown and stored and not group.folds:  # examples are of the whole split
                line["few"], why = self._few(shown, run, stored.examples)
                if why:
                    line["why"] = f"why-{run.record.fingerprint[:16]}"
                    self._why[line["why"]] = why
            rows.append(line)
        if shown and self.details.folder:
            self._want(shown, shown.ids)
        ranks = table.finished[0].ranks[0]
        sizes = {"images": len(ranks.i2t.better), "texts": len(ranks.image_of), "imageOf": packed(ranks.image_of)}
        about = {"protocol": group.protocol, "folds": group.folds, "data": shown.name if shown else ""}
        return {"rows": rows, **sizes, **about}

    @staticmethod
    def _ranks(run: Finished) -> dict[str, Any]:
        """The expected ranks of both directions in tenths, rounded up, or in ones where there are no ties."""
        ranks: dict[str, Any] = {}
        for way in WAYS:
            of = getattr(run.ranks, way)
            scale = 10 if of.tied.any() else 1
            ranks[way] = {"scale": scale, "ranks": packed(np.ceil(scale * of.ranks() - 1e-6))}
        return ranks

    def _few(self, shown: Shown, run: Finished, examples: Sequence[Example]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The answers to the example queries, and the explanations, by the row of the query."""
        is_captions = run.record.protocol == "captions"
        few: dict[str, Any] = {}
        why: dict[str, Any] = {}

        def row_of(image: str, text: int) -> int:
            place = shown.place_of[image]
            return int(shown.first[place]) + text - 1 if text and is_captions else place

        for way in WAYS:
            some = [one for one in examples if one.direction == way]
            some = [one for one in some if {one.image, *(x.image for x in one.found)} <= shown.place_of.keys()]
            queries = [row_of(one.image, one.text) for one in some]
            found = np.zeros((len(some), TOP), dtype=np.int64)
            for answers, query, one in zip(found, queries, some, strict=True):
                rows = [row_of(x.image, x.text) for x in one.found[:TOP]]
                answers[: len(rows)] = np.array(rows) + 1
                self._want(shown, [one.image] if way == "i2t" else [x.image for x in one.found])
                if one.why:
                    text = query if way == "t2i" else rows[0]
                    read = self._read(shown.texts[unit_of(run.record.protocol)][text])
                    why.setdefault(way, {})[query] = {"first": rows[0], "read": read, **one.why.model_dump()}
            few[way] = {"of": packed(queries), "found": packed(found)}
        return few, why

    @staticmethod
    def _read(text: str) -> str:
        """A text as CRAN reads it, character by character, under whose attention weights it is shown."""
        return "".join(ALPHABET[code - 1] for code in encode([text])[0].tolist() if code)

    def _want(self, shown: Shown, images: Iterable[str]) -> None:
        for name in images if shown.has_pictures else ():
            self._wanted[shown.name, shown.place_of[name]] = shown

    def _contrasts(self, table: Table) -> dict[str, Any]:
        """The contrasts that some row gets most wrong, by their position, and which rows get each right."""
        shown, rows = self.pictures.of(table), []
        made = self._contrasts_of(table.group, shown)
        pairs: dict[int, dict[str, Any]] = {}
        outcomes = [row.ranks[0].contrasts for row in table.finished]
        for row in table.finished:
            stored = self.details.intact(partial(read_examples, row.runs[0].path))
            hard = (stored and stored.contrasts) or []
            for one in hard:
                about: dict[str, Any] = {"image": one.image, "place": -1, "kind": one.kind}
                if made and shown and one.pair < len(made) and one.image in shown.place_of:
                    about["place"] = shown.place_of[one.image] if shown.has_pictures else -1
                    about["captions"] = [made.true[one.pair], made.false[one.pair]]
                    self._want(shown, [one.image])
                pairs[one.pair] = about
            scores = [[one.pair, one.true, one.false] for one in hard]
            rows.append({"label": row.label, "seed": row.records[0].seed, "hard": scores})
        for pair in pairs:
            of = [int(own.text[pair]) if own and pair < len(own.text) else 0 for own in outcomes]
            pairs[pair]["right"] = [number for number, halves in enumerate(of) if halves == 2]
        return {"rows": rows, "pairs": pairs, "data": shown.name if shown else ""}

    def _contrasts_of(self, group: Group, shown: Shown | None) -> Contrasts | None:
        """The contrasts of a group, made again; None after a message if they are not those of the records."""
        if group not in self._made:
            from cran_bench.running.evidence import contrasts_of  # not at the top: it imports torch

            made = contrasts_of(shown.collection, group.of) if shown else None
            if made and shown and made.sha(shown.collection.images.ids) != group.contrasts:
                say(f"{group.dataset} is shown without its contrasts: their captions differ from those of the records")
                made = None
            self._made[group] = made
        return self._made[group]


def packed(numbers: ArrayLike) -> str:
    """Numbers from 0 as base64 of little-endian groups of seven bits, of which the last of a number is below 128."""
    values = np.asarray(numbers).astype(np.int64).ravel()
    sizes = (values[:, None] >> np.array([0, 7, 14, 21, 28]) > 0).sum(axis=1).clip(1)
    ends = np.cumsum(sizes)
    data = np.zeros(ends[-1] if len(ends) else 0, dtype=np.uint8)
    for part in range(5):
        has = sizes > part
        data[(ends - sizes)[has] + part] = (values[has] >> 7 * part) % 128 + 128 * (sizes[has] > part + 1)
    return base64.b64encode(data.tobytes()).decode()
