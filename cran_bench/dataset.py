"""Datasets: images that are read one by one, captions, the image each caption describes, and splits."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise, repeat
from pathlib import Path
from types import FunctionType
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from cran_bench.contrasts import Contrasts
from cran_bench.errors import BadInput
from cran_bench.images import open_image
from cran_bench.judgments import Judgments, Relevance, judgments_sha
from cran_bench.machine.fingerprint import code
from cran_bench.machine.ledger import Ledger
from cran_bench.machine.storage import sha256_bytes, sha256_file, sha256_json
from cran_bench.protocols import Metric, Unit

SPLITS = ("train", "val", "test")
"""The names of the splits that every dataset has."""
Truths: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]
"""From t rows of captions and n rows of images to (t, n) bool: which captions are true of which images."""
CATEGORIES_UP_TO = 8000
"""Labels of more are refused: what is stored for a test split stays small."""


class ImageSource(ABC):
    """N images, addressed by row.

    Attributes:
        ids: N unique ids, the same whenever the same data is loaded.
    """

    ids: Sequence[str]

    @abstractmethod
    def read(self, row: int) -> Image.Image:
        """Read image `row` as upright 8-bit RGB.

        Raises:
            UnreadableImage: the file is missing, truncated or not an image; the message names the file and the reason.
        """

    @abstractmethod
    def digest(self, row: int) -> str:
        """Return a sha256 that changes whenever the pixels of image `row` may have changed.

        Raises:
            BadInput: the file cannot be read.
        """

    def digests(self, ledger: Ledger) -> Iterator[str]:
        """Yield the digest of every image, from a ledger if it is noted there; 'unreadable' if it cannot be read."""
        return ledger.digests(Path(), self.ids, repeat(None, len(self.ids)), self.digest)


class FolderImages(ImageSource):
    """Image files below one folder.

    Args:
        folder: the folder.
        names: paths of the images relative to `folder`, which become their ids.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.ids = folder, names

    def read(self, row: int) -> Image.Image:
        return open_image(self.folder / self.ids[row])

    def digest(self, row: int) -> str:
        return sha256_file(self.folder / self.ids[row])

    def digests(self, ledger: Ledger) -> Iterator[str]:
        if type(self).digest is not FolderImages.digest:  # of a subclass, which may take more into account
            return super().digests(ledger)
        return ledger.digests(self.folder, self.ids, self._stats(), self.digest)

    def _stats(self) -> Iterator[os.stat_result | None]:
        wanted, stats = set(self.ids), {}
        for above in {name.rpartition("/")[0] for name in self.ids}:
            with contextlib.suppress(OSError), os.scandir(self.folder / above) as entries:
                for entry in entries:
                    if (name := f"{above}/{entry.name}".lstrip("/")) in wanted:
                        with contextlib.suppress(OSError):  # a broken link
                            stats[name] = entry.stat()
        yield from map(stats.get, self.ids)


@dataclass(frozen=True)
class Collection:
    """A validated dataset of N images and T captions.

    Attributes:
        name: the label used on the command line, ``flickr8k`` or ``scenes[train=600]``.
        images: the N images.
        captions: the T captions.
        image_of: (T,) int64, the row of the image that each caption describes, in non-decreasing order.
        splits: image rows of 'train', 'val' and 'test'; disjoint.  Data that is only evaluated has no train or val.
        boxes: (N, 5, 4) float32 or None, region boxes that come with the data: x0 y0 x1 y1 as fractions of width and
            height.
        twins: (N,) int64 or None, the row of the image with the same objects in exchanged positions.
        truths: says which captions are true of which images, or None where nobody knows; an object of a class with
            `__call__`, or a function of a module, whose code identifies the data.  It is called when it is needed.
        labels: (N, C) uint8 or None, multi-hot categories; a row of zeros for an image without any.
        label_names: C names of the categories, or none.
        text_features: (T, q) float32 or None, features that the data has in place of captions, one text per image; the
            `captions` are then ids of the texts, which no method reads.
        phrase_boxes: the annotated phrases of each of the N images, each with its box as in `boxes`, or None.
        metric: the figure by which methods choose hyper-parameters on validation, unless their label says otherwise:
            `rsum`, or `map`, mean average precision by category.
        refit: whether methods that choose among fields only are fitted again, on train and validation together, with
            what validation chose.
        contrasts: true and false captions of images of the test split, or None.
        relevance: right answers of the test split beyond a caption's own image, each under its name.
        judgments: people's ratings of images and captions of the test split, each under its name.
        remarks: notes to print once, such as how many captions were ignored.
        as_listed: False if the user's list has images or captions in another order, so that arrays need names of rows.

    Lists in place of arrays are converted.

    Raises:
        BadInput: an id or a caption is empty, not a string or contains an unpaired surrogate, two ids are one path,
            `image_of` is not sorted, an array has the wrong length or names a row that is no image, the test split is
            empty, a split has another name, splits overlap, an image of a split has no caption, labels are not zeros
            and ones, features of texts are not finite, `map` is the metric of data without labels, or a contrast or a
            judgment is of an image or a caption outside the test split.
    """

    name: str
    images: ImageSource
    captions: Sequence[str]
    image_of: NDArray[np.int64]
    splits: Mapping[str, NDArray[np.int64]]
    boxes: NDArray[np.float32] | None = None
    twins: NDArray[np.int64] | None = None
    truths: Truths | None = None
    labels: NDArray[np.uint8] | None = None
    label_names: Sequence[str] = field(default=())
    text_features: NDArray[np.float32] | None = None
    phrase_boxes: Sequence[Sequence[tuple[str, tuple[float, float, float, float]]]] | None = None
    metric: Metric = "rsum"
    refit: bool = False
    contrasts: Contrasts | None = None
    relevance: Sequence[Relevance] = field(default=())
    judgments: Sequence[Judgments] = field(default=())
    remarks: Sequence[str] = field(default=())
    as_listed: bool = True

    def __post_init__(self) -> None:
        ids, n = self.images.ids, len(self.images.ids)
        self._check_texts(ids, lambda row: f"image id {row}")
        paths = [posixpath.normpath(name) for name in ids]
        if len(set(paths)) != n:
            row_of: dict[str, int] = {}
            again = next(row for row, path in enumerate(paths) if row_of.setdefault(path, row) != row)
            names = " and ".join(dict.fromkeys((ids[row_of[paths[again]]], ids[again])))
            what = f"images {row_of[paths[again]]} and {again} have the same id, {names}"
            raise BadInput(f"{self.name}: {what}; ids must be unique paths")
        image_of = self._as_rows("image_of", self.image_of)
        if len(image_of) != len(self.captions):
            what = f"image_of has {len(image_of)} entries for {len(self.captions)} captions"
            raise BadInput(f"{self.name}: {what}; give the row of each caption's image")
        self._check_texts(self.captions, lambda row: f"caption {row} of image {ids[image_of[row]]}")
        if np.any(np.diff(image_of) < 0):
            raise BadInput(f"{self.name}: image_of must be in non-decreasing order; sort the captions by image")
        if extra := next((split for split in self.splits if split not in SPLITS), None):
            raise BadInput(f"{self.name}: there is a split '{extra}'; the splits are train, val and test")
        given = {k: self.splits.get(k) for k in SPLITS}
        splits = {k: self._as_rows(f"the {k} split", () if rows is None else rows) for k, rows in given.items()}
        extras = {k: np.asarray(v) for k in ("boxes", "twins", "labels") if (v := getattr(self, k)) is not None}
        for key, values in extras.items():
            if values.shape[:1] != (n,):
                what = f"{key} has {len(np.atleast_1d(values))} rows for {n} images"
                raise BadInput(f"{self.name}: {what}; give one per image, or None")
        if "twins" in extras:
            extras["twins"] = self._as_rows("twins", extras["twins"])
        if "labels" in extras:
            extras["labels"] = self._as_labels(extras["labels"])
        elif self.label_names or self.metric == "map":
            raise BadInput(f"{self.name}: it has no labels, which label_names and the metric map need: give labels")
        if self.phrase_boxes is not None and len(self.phrase_boxes) != n:
            what = f"phrase_boxes has {len(self.phrase_boxes)} rows for {n} images"
            raise BadInput(f"{self.name}: {what}; give a list for each image, or None")
        if self.text_features is not None:
            extras["text_features"] = self._as_text_features(self.text_features, image_of)
        for key, value in {"image_of": image_of, "splits": splits, **extras}.items():
            object.__setattr__(self, key, value)  # lists have become arrays
        counts = np.bincount(image_of, minlength=n)
        seen: dict[int, str] = {}
        if not len(splits["test"]):
            raise BadInput(f"{self.name}: the test split is empty; a dataset needs test images")
        for split, rows in splits.items():
            for row in rows.tolist():
                if row in seen:
                    other = f"in {seen[row]} and in {split}" if seen[row] != split else f"twice in {split}"
                    raise BadInput(f"{self.name}: image {self.images.ids[row]} is {other}; splits must not overlap")
                seen[row] = split
            bare = rows[counts[rows] == 0]
            if len(bare):
                raise BadInput(
                    f"{self.name}: {len(bare)} images of the {split} split have no caption, "
                    f"the first is {self.images.ids[bare[0]]}; give each at least one"
                )
        self._check_evidence()

    def _check_texts(self, texts: Sequence[str], what: Callable[[int], str]) -> None:
        for row, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise BadInput(f"{self.name}: {what(row)} is {text!r}; give a non-empty string (rows count from 0)")
        try:
            "\n".join(texts).encode()
        except UnicodeEncodeError as error:
            character = error.object[error.start]
            row = next(row for row, text in enumerate(texts) if character in text)
            what_is = f"{what(row)} contains an unpaired surrogate, {character}"
            raise BadInput(f"{self.name}: {what_is}; rewrite it as valid Unicode") from None

    def _check_evidence(self) -> None:
        """Check that contrasts and judgments are of the test split and have different names."""
        if not (self.contrasts or self.relevance or self.judgments):
            return
        if not self.has_words:
            raise BadInput(
                f"{self.name}: contrasts and judgments are of captions, but its texts are features: drop them"
            )
        images = np.isin(np.arange(len(self.images.ids)), self.splits["test"])
        captions = images[self.image_of]
        rows = [("contrasts", images, self.contrasts.image)] if self.contrasts else []
        for one in self.judgments:
            rows += [(one.name, images, one.image), (one.name, captions, one.caption)]
        for some in self.relevance:
            for right, asked, found in ((some.i2t, images, captions), (some.t2i, captions, images)):
                rows += [(some.name, asked, right.query), (some.name, found, right.answer)] if right else []
        for name, inside, named in rows:
            if len(named) and (named.max() >= len(inside) or not inside[named].all()):
                what = "an image" if inside is images else "a caption"
                raise BadInput(f"{self.name}: {name} has {what} outside the test split; leave it out")
        for kind in (self.relevance, self.judgments):
            names = [one.name for one in kind]
            if again := next((name for name in names if names.count(name) > 1), None):
                raise BadInput(f"{self.name}: two sets of judgments are named {again}; rename one")

    def _as_rows(self, what: str, given: ArrayLike) -> NDArray[np.int64]:
        """The row numbers of images as an array (n,)."""
        rows, n = np.asarray(given), len(self.images.ids)
        if rows.ndim != 1 or (len(rows) and rows.dtype.kind not in "iu"):
            found = f"{rows.dtype.name} of shape {rows.shape}"
            raise BadInput(f"{self.name}: {what} is {found}; give a one-dimensional array of integers, rows of images")
        wrong = rows[(rows < 0) | (rows >= n)]
        if len(wrong):
            raise BadInput(f"{self.name}: {what} has the row {wrong[0]}; the rows of the {n} images are 0 to {n - 1}")
        return rows.astype(np.int64, copy=False)

    def _as_labels(self, given: NDArray[Any]) -> NDArray[np.uint8]:
        if given.ndim != 2 or not given.shape[1] or given.dtype.kind not in "biu" or not np.isin(given, (0, 1)).all():
            found = f"{given.dtype.name} of shape {given.shape}"
            raise BadInput(f"{self.name}: labels is {found}; give zeros and ones, (images, categories)")
        if given.shape[1] > CATEGORIES_UP_TO:
            what = f"labels has {given.shape[1]:,} categories, and at most {CATEGORIES_UP_TO:,} are recorded"
            raise BadInput(f"{self.name}: {what}; leave rare ones out")
        if self.label_names and len(self.label_names) != given.shape[1]:
            what = f"label_names has {len(self.label_names)} names for {given.shape[1]} categories"
            raise BadInput(f"{self.name}: {what}; give one for each, or none")
        return given.astype(np.uint8, copy=False)

    def _as_text_features(self, given: ArrayLike, image_of: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = np.asarray(given)
        if not np.array_equal(image_of, np.arange(len(self.images.ids))):
            raise BadInput(f"{self.name}: data with text_features needs one text per image, in the images' order")
        if rows.ndim != 2 or len(rows) != len(image_of) or rows.dtype.kind not in "fiub" or not rows.shape[1]:
            found = f"{rows.dtype.name} of shape {rows.shape}"
            raise BadInput(f"{self.name}: text_features is {found}; give numbers, ({len(image_of)} texts, dimensions)")
        with np.errstate(over="ignore"):
            rows = rows.astype(np.float32, copy=False)
        if not np.isfinite(rows).all():
            row = int((~np.isfinite(rows)).any(axis=1).argmax())
            raise BadInput(f"{self.name}: row {row} of text_features is not finite in float32; correct it")
        return rows

    def captions_of(self, rows: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
        """Return the captions of the images `rows` (n,), in order, and for each the position of its image in `rows`."""
        first = np.searchsorted(self.image_of, rows, side="left")
        last = np.searchsorted(self.image_of, rows, side="right")
        texts = [self.captions[k] for a, b in zip(first, last, strict=True) for k in range(a, b)]
        return texts, np.repeat(np.arange(len(rows)), last - first)

    def caption_keys(self) -> list[str]:
        """Return a key of each caption, the id of its image and its number there from 0: ``1000.jpg#0``."""
        first = np.searchsorted(self.image_of, self.image_of)
        pairs = zip(self.image_of.tolist(), (np.arange(len(first)) - first).tolist(), strict=True)
        return [f"{self.images.ids[image]}#{number}" for image, number in pairs]

    def texts_of(self, rows: NDArray[np.int64], unit: Unit) -> tuple[list[str], NDArray[np.int64]]:
        """Return the texts of the images `rows` (n,) and the position of each text's image in `rows`.

        The texts are the captions, or one document per image: its captions joined by spaces.
        """
        captions, owner = self.captions_of(rows)
        if unit == "captions":
            return captions, owner
        first = np.searchsorted(owner, np.arange(len(rows) + 1))
        return [" ".join(captions[a:b]) for a, b in pairwise(first)], np.arange(len(rows))

    def split_sha(self) -> str:
        """Return the sha256 of the image ids and captions of all splits, in order."""
        return self._split_sha

    @cached_property
    def _split_sha(self) -> str:
        digest = hashlib.sha256()
        for split in SPLITS:
            digest.update(f"\0{split}\0".encode())
            texts, image_of = self.captions_of(self.splits[split])
            for row in self.splits[split].tolist():
                digest.update(f"{self.images.ids[row]}\n".encode())
            for text, image in zip(texts, image_of.tolist(), strict=True):
                digest.update(f"{image}\t{text}\n".encode())
        return digest.hexdigest()

    @property
    def has_words(self) -> bool:
        """Whether the texts are captions; otherwise only their features are available."""
        return self.text_features is None

    def extras_sha(self) -> str:
        """Return the sha256 of labels, twins, annotated phrases, and the code that says what is true."""
        parts = [b"" if extra is None else np.ascontiguousarray(extra).tobytes() for extra in (self.labels, self.twins)]
        if self.truths is not None:
            truths = self.truths if isinstance(self.truths, FunctionType) else type(self.truths)
            parts.append(code(truths, asked=["__call__"]).sha.encode())
        if self.phrase_boxes is not None:
            parts.append(sha256_json([[*map(list, own)] for own in self.phrase_boxes]).encode())
        return sha256_bytes(b"\0".join(parts))

    def labels_sha(self) -> str:
        """Return the sha256 of the categories of all images and of their names; '' without labels."""
        if self.labels is None:
            return ""
        return sha256_bytes(np.packbits(self.labels, axis=1).tobytes() + "\0".join(self.label_names).encode())

    def judgments_sha(self) -> str:
        """Return the sha256 of relevance and judgments; '' without any."""
        return judgments_sha(*self.relevance, *self.judgments)

    def text_features_sha(self) -> str:
        """Return the sha256 of the features of the texts; '' if the texts are captions."""
        return "" if self.text_features is None else sha256_bytes(np.ascontiguousarray(self.text_features).tobytes())

    def images_sha(self, digests: Iterable[str]) -> str:
        """Return one sha256 for all images, from their digests in order."""
        lines = "".join(f"{name} {digest}\n" for name, digest in zip(self.images.ids, digests, strict=True))
        return sha256_bytes(lines.encode())

    def repeated(self, digests: Iterable[str]) -> str:
        """Return a line that counts identical captions and images within and across splits; '' if there are none.

        Captions are compared without case and with every run of white space as one space, or by the features given in
        their place; images by `digests`.
        """
        split_of = {row: split for split in SPLITS for row in self.splits[split].tolist()}

        def places(keys: Iterable[str], rows: Iterable[int]) -> list[list[str]]:
            splits: dict[str, list[str]] = {}
            for key, row in zip(keys, rows, strict=True):
                if row in split_of:
                    splits.setdefault(key, []).append(split_of[row])
            return list(splits.values())

        keys, what = (" ".join(text.casefold().split()) for text in self.captions), "captions"
        if self.text_features is not None:
            keys, what = (row.tobytes().hex() for row in self.text_features), "texts"
        captions = places(keys, self.image_of.tolist())
        images = places(digests, range(len(self.images.ids)))
        more, across = ([sum(len(of(own)) > 1 for own in kind) for kind in (captions, images)] for of in (list, set))
        if not any(more):
            return ""
        known = sum(own.count("test") for own in captions if "train" in own)
        tests = sum(own.count("test") for own in captions)
        return (
            f"{known:,} of {tests:,} test {what} also stand in train; {more[0]:,} {what} and {more[1]:,} images "
            f"occur more than once, {across[0]:,} and {across[1]:,} of them across splits"
        )

    def without(self, rows: Iterable[int]) -> Collection:
        """Return the collection with the image `rows` removed from every split (unreadable images with --skip-bad)."""
        drop = np.fromiter(rows, dtype=np.int64)
        if not len(drop):
            return self
        images = ~np.isin(np.arange(len(self.images.ids)), drop)
        captions = images[self.image_of]
        pairs = self.contrasts and self.contrasts.take(np.flatnonzero(images[self.contrasts.image]))
        return replace(
            self,
            splits={k: v[images[v]] for k, v in self.splits.items()},
            contrasts=pairs or None,
            relevance=[some for all_of in self.relevance if (some := all_of.within(images, captions))],
            judgments=[kept for one in self.judgments if (kept := one.within(images, captions))],
        )

    def describe(self) -> str:
        """Return a summary to print: the sha256 of the splits, and the images and captions of each split."""
        lines = []
        for split in SPLITS:
            texts, _ = self.captions_of(self.splits[split])
            kind = "captions" if self.has_words else "texts (features only)"
            lines.append(f"  {split:<5} {len(self.splits[split]):>7,} images {len(texts):>8,} {kind}")
        return f"{self.name}, split sha {self.split_sha()[:12]}\n" + "\n".join(lines)


class Dataset(Protocol):
    """A dataset plugin: a dataclass whose fields are its options.  Registered with ``@register_dataset("name")``."""

    def load(self, data: Path) -> Collection:
        """Read and validate the data below the folder `data`.

        Raises:
            BadInput: something is missing or wrong; the message names the file, the line and the remedy.
        """
        ...

    def defaults(self) -> Mapping[str, Any]:
        """Return the front end used when the user chooses none: ``{"backbone": "pixels", "regions": "grid"}``."""
        ...
