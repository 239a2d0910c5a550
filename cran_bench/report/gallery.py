"""Example queries and hard contrasts with thumbnails: ids are recorded, images and captions come from the dataset."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cran_bench.contrasts import Contrasts
from cran_bench.dataset import Collection
from cran_bench.errors import BadInput
from cran_bench.frontend.extraction import image_digests
from cran_bench.frontend.text.characters import ALPHABET, encode
from cran_bench.machine.progress import say
from cran_bench.protocols import Unit
from cran_bench.ranking.contrasted import HEADLINE
from cran_bench.records.archive import read_examples
from cran_bench.records.examples import Example, Examples, HardContrast
from cran_bench.records.schema import TESTED_ON
from cran_bench.records.store import ResultStore
from cran_bench.registry import DATASETS
from cran_bench.specs import parse_spec
from cran_bench.tables.tables import Group, Row, Table

SIDE = 144  # pixels, longer side of a thumbnail
MOST_BYTES = 3_200_000  # of all thumbnails, as encoded in the page


class Gallery:
    """Collects the examples of all sections with their thumbnails and captions."""

    def __init__(self, data: Path, cache: Path) -> None:
        self.data, self.cache = data, cache
        self._collections: dict[str, Collection | None] = {}
        self._rows: dict[str, dict[str, int]] = {}
        self._made: dict[Group, Contrasts | None] = {}
        self._sections: dict[int, dict[str, Any]] = {}
        self._images: dict[str, dict[str, str]] = {}
        self._texts: dict[str, dict[str, list[str]]] = {}
        self._bytes = 0

    def add(self, number: int, table: Table, rows: Sequence[Row], store: ResultStore) -> None:
        """Add the examples of the first seed of each row of a table: queries, or the hardest contrasts."""
        records, runs = [record for row in rows for record in row.records], []
        images_sha = max((record.data.images_sha for record in records), default="")
        label = f"{table.group.dataset} {table.group.split_sha[:12]} {images_sha[:12]}".strip()
        unit: Unit = "documents" if table.group.protocol == "documents" else "captions"
        for row in rows:
            record = row.records[0]
            stored = read_examples(store.path_of(record))
            if stored is not None and table.task.name == HEADLINE:
                if stored.contrasts:
                    hard = self._hard(label, table.group, images_sha, stored.contrasts)
                    runs.append({"method": row.label, "seed": record.seed, "contrasts": hard})
            elif stored is not None and stored.examples:
                self._collect(label, table.group, images_sha, stored)
                examples = [self._shown(label, unit, example) for example in stored.examples]
                runs.append({"method": row.label, "seed": record.seed, "examples": examples})
        if runs:
            self._sections[number] = {"title": table.title, "dataset": label, "unit": unit, "runs": runs}

    def has(self, number: int) -> bool:
        """Whether a section has examples."""
        return number in self._sections

    def contents(self) -> dict[str, Any]:
        """The data of the gallery for the page's script."""
        return {"sections": self._sections, "images": self._images, "texts": self._texts}

    def _collect(self, label: str, group: Group, images_sha: str, stored: Examples) -> None:
        collection = self._collection(label, group, images_sha)
        self._images.setdefault(label, {})
        texts = self._texts.setdefault(label, {})
        if collection is None:
            return
        for example in stored.examples:
            answers = [answer.image for answer in example.found]
            for name in dict.fromkeys((example.image, *answers)):
                row = self._rows[label].get(name)
                if row is None:
                    continue
                if name not in texts:
                    own = np.flatnonzero(np.asarray(collection.image_of) == row)
                    texts[name] = [collection.captions[k] for k in own.tolist()]
                is_shown = name == example.image if example.direction == "i2t" else name in answers
                if is_shown:
                    self._show(label, collection, row)

    def _show(self, label: str, collection: Collection, row: int) -> None:
        """Add the thumbnail of an image, if there is room."""
        images, name = self._images[label], collection.images.ids[row]
        if name not in images and self._bytes < MOST_BYTES:
            images[name] = self._thumbnail(collection, row)
            self._bytes += len(images[name])

    def _hard(self, label: str, group: Group, images_sha: str, stored: Sequence[HardContrast]) -> list[dict[str, Any]]:
        """Hard contrasts in their form for the page, with picture and captions if the dataset is there."""
        collection = self._collection(label, group, images_sha)
        pairs, shown = self._contrasts(group, collection), []
        self._images.setdefault(label, {})
        self._texts.setdefault(label, {})
        for one in stored:
            card = one.model_dump()
            if pairs and collection and one.pair < len(pairs):
                card["captions"] = [pairs.true[one.pair], pairs.false[one.pair]]
                self._show(label, collection, int(pairs.image[one.pair]))
            shown.append(card)
        return shown

    def _contrasts(self, group: Group, collection: Collection | None) -> Contrasts | None:
        """The contrasts of a group, made again; None after a message if they are not those of the records."""
        if group not in self._made:
            from cran_bench.running.evidence import contrasts_of  # not at the top: it imports torch

            made = contrasts_of(collection, group.of) if collection else None
            if made and collection and made.sha(collection.images.ids) != group.contrasts:
                say(f"the gallery of {group.dataset} has no contrasts: their captions differ from those of the records")
                made = None
            self._made[group] = made
        return self._made[group]

    def _shown(self, label: str, unit: Unit, example: Example) -> dict[str, Any]:
        """An example with the text under its attention weights, in the form the method read it."""
        shown = example.model_dump(exclude_none=True)
        if example.why is not None and example.why.attention:
            described = example if example.direction == "t2i" else example.found[0]
            own = self._texts[label].get(described.image, [])
            text = " ".join(own) if unit == "documents" else next(iter(own[described.text - 1 : described.text]), "")
            shown["read"] = "".join(ALPHABET[code - 1] for code in encode([text])[0].tolist() if code)
        return shown

    def _collection(self, label: str, group: Group, images_sha: str) -> Collection | None:
        """The dataset of a group; None after a message if it is not there, or has other images or captions."""
        if label not in self._collections:
            try:
                tested = group.dataset.rpartition(TESTED_ON)[2]
                if parse_spec(tested).name.endswith(".py"):
                    raise BadInput("its records name a Python file, which is not executed here")
                collection: Collection | None = DATASETS.configure(tested).build().load(self.data)
                if collection and collection.split_sha() != group.split_sha:
                    raise BadInput("its images or captions differ from those of the records")
                if collection and images_sha not in ("", collection.images_sha(image_digests(collection, self.cache))):
                    raise BadInput("the files of its images differ from those of the records")
            except BadInput as error:
                say(f"the gallery of {group.dataset} has no images: {error}")
                collection = None
            self._collections[label] = collection
            self._rows[label] = {name: row for row, name in enumerate(collection.images.ids)} if collection else {}
        return self._collections[label]

    def _thumbnail(self, collection: Collection, row: int) -> str:
        try:
            image = collection.images.read(row)
        except BadInput:
            return ""
        image.thumbnail((SIDE, SIDE))
        return data_uri(image)


def data_uri(image: Image.Image) -> str:
    """An image as a data URI, for the page."""
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=70)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
