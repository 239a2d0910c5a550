"""The test splits that the records were measured on, where the datasets are there: ids, captions and thumbnails."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cran_bench.dataset import Collection
from cran_bench.errors import BadInput
from cran_bench.frontend.extraction import image_digests
from cran_bench.machine.progress import say
from cran_bench.machine.storage import sha256_json, slug
from cran_bench.protocols import Unit
from cran_bench.records.schema import TESTED_ON
from cran_bench.registry import DATASETS
from cran_bench.specs import parse_spec
from cran_bench.tables.tables import Table

from .details import Details


@dataclass(frozen=True)
class Shown:
    """A test split, and the name under which the page has its texts and its pictures."""

    name: str
    collection: Collection

    @cached_property
    def ids(self) -> list[str]:
        """The ids of its images, in order."""
        return [self.collection.images.ids[row] for row in self.collection.splits["test"].tolist()]

    @cached_property
    def place_of(self) -> dict[str, int]:
        """The place of each image in the split, counted from 0, by its id."""
        return {name: place for place, name in enumerate(self.ids)}

    def read(self, place: int) -> Image.Image:
        """Read an image; errors as in `ImageSource.read`."""
        return self.collection.images.read(int(self.collection.splits["test"][place]))

    @cached_property
    def has_pictures(self) -> bool:
        """Whether images can be read, and not only features; the first one tells."""
        try:
            self.read(0)
        except BadInput:
            return False
        return True

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """(N + 1,) the number of captions before those of each image."""
        owners = self.collection.captions_of(self.collection.splits["test"])[1]
        return np.searchsorted(owners, np.arange(len(self.ids) + 1))

    @cached_property
    def texts(self) -> dict[Unit, list[str]]:
        """Its captions and its documents."""
        rows = self.collection.splits["test"]
        return {unit: self.collection.texts_of(rows, unit)[0] for unit in get_args(Unit)}


class Pictures:
    """Finds the test splits of tables below a folder of datasets, and keeps their thumbnails.

    Args:
        data: folder of the datasets.
        cache: folder in which the digests of images are noted.
        details: keeps texts and thumbnails.
    """

    def __init__(self, data: Path, cache: Path, details: Details) -> None:
        self.data, self.cache, self.details = data, cache, details
        self._shown: dict[tuple[str, str, str], Shown | None] = {}
        self._said = set[str]()

    def of(self, table: Table) -> Shown | None:
        """The test split of a table; None after a message if it is not there, or has other images or captions."""
        shas = (record.data.images_sha for row in table.rows for record in row.records)
        key = table.group.dataset, table.group.split_sha, max(shas, default="")
        if key not in self._shown:
            self._shown[key] = self._found(*key)
        return self._shown[key]

    def _found(self, dataset: str, split_sha: str, images_sha: str) -> Shown | None:
        try:
            tested = dataset.rpartition(TESTED_ON)[2]
            if parse_spec(tested).name.endswith(".py"):
                raise BadInput("its records name a Python file, which is not executed here")
            collection = DATASETS.configure(tested).build().load(self.data)
            if collection.split_sha() != split_sha:
                raise BadInput("its images or captions differ from those of the records")
            if images_sha not in ("", collection.images_sha(image_digests(collection, self.cache))):
                raise BadInput("the files of its images differ from those of the records")
        except BadInput as error:
            sentence = f"{dataset} is shown without its captions and images: {error}"
            if sentence not in self._said:
                say(sentence)
            self._said.add(sentence)
            return None
        shown = Shown(f"{slug(dataset)[:40]}-{sha256_json([dataset, split_sha, images_sha])[:6]}", collection)
        texts = {"ids": shown.ids, "captions": shown.texts["captions"], "first": shown.first.tolist()}
        kinds = {"words": collection.has_words, "pictures": shown.has_pictures}
        self.details.put(f"texts-{shown.name}", {**texts, **kinds})
        return shown
