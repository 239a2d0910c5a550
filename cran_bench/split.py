"""The features of one split that the shared front end provides to every method, each of a documented shape."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from cran_bench.dataset import Collection
from cran_bench.embeddings import region_pairs
from cran_bench.errors import BadInput
from cran_bench.frontend.feature_rows import FeatureRows
from cran_bench.frontend.features import Features
from cran_bench.frontend.labels import SOURCES, LabelSource, detected_labels, fit_source, label_source
from cran_bench.frontend.text import characters
from cran_bench.frontend.text.encoding import Documents, TextFeatures, captions_of
from cran_bench.frontend.text.tagging import noun_chunks
from cran_bench.frontend.text.words import TextFrontEnd
from cran_bench.protocols import Unit

_NO_WORD = re.compile(r"[%\s\x00-\x1f\x7f-\x9f]")


class MissingFeature(BadInput):
    """The data lacks a feature that the method needs."""


class Split:
    """N images and T texts of one split, with the features of both.

    Vocabulary, idf and word vectors were fitted on the training texts of the method's `unit`.  Features are read from
    disk when they are first used.  Tensors are on the run's device; sparse matrices are scipy's, in memory.

    Attributes:
        name: 'train', 'val' or 'test'.
        unit: 'captions' or 'documents', the kind of the texts.
    """

    def __init__(
        self,
        name: str,
        unit: Unit,
        collection: Collection,
        features: Features,
        text: TextFrontEnd | None,
        device: torch.device,
        rows: NDArray[np.int64] | None = None,
        asked: list[str] | None = None,
        encoded: TextFeatures | None = None,
        sources: Callable[[str, int], LabelSource] | None = None,
    ) -> None:
        self.name, self.unit = name, unit
        self._collection, self._features, self._words, self._device = collection, features, text, device
        self._given, self._asked, self._encoded, self._sources = rows, asked, encoded, sources

    @property
    def _rows(self) -> NDArray[np.int64]:
        """(N,) int64, the rows of the images in the collection; all that is known of images and texts begins here."""
        rows = self._collection.splits[self.name] if self._given is None else self._given
        if self._given is None and not len(rows):
            absent = " and ".join(split for split, rows in self._collection.splits.items() if not len(rows))
            raise MissingFeature(
                f"{self._collection.name} has no {absent} images, which a fit needs: add some, or score embeddings "
                "made elsewhere with cran_bench.evaluate"
            )
        return rows

    @property
    def _text(self) -> TextFrontEnd:
        self._require_words()
        if self._words is None:
            raise MissingFeature(f"{self._collection.name} has no train images, whose texts give the words: add some")
        return self._words

    @property
    def has_words(self) -> bool:
        """Whether the texts are captions or documents; otherwise only their `text_features` are available."""
        return self._collection.text_features is None

    def _require_words(self) -> None:
        if not self.has_words:
            raise MissingFeature(
                f"the texts of {self._collection.name} are features: it has no words or characters; use a method that "
                "takes text=encoder"
            )

    def __len__(self) -> int:
        """Return N, the number of images."""
        return len(self._rows)

    def take(self, positions: NDArray[np.int64]) -> Split:
        """Return the images at `positions` (n,) of this split, in that order, with their texts."""
        rows = self._rows[positions]
        front_end = (self._collection, self._features, self._words, self._device)
        return Split(self.name, self.unit, *front_end, rows, encoded=self._encoded, sources=self._sources)

    def asking(self, texts: list[str]) -> Split:
        """Return the same images with other texts, all of which are assigned to the first image."""
        front_end = (self._collection, self._features, self._words, self._device)
        return Split(self.name, self.unit, *front_end, self._rows, texts, self._encoded, self._sources)

    def _tensor(self, array: NDArray[Any], dtype: type[np.generic] | None = None) -> Tensor:
        array = array if dtype is None else array.astype(dtype, copy=False)
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    # images -----------------------------------------------------------------------------------------------------

    @property
    def image_ids(self) -> list[str]:
        """The N image ids."""
        return [self._collection.images.ids[row] for row in self._rows.tolist()]

    def escaped_ids(self) -> tuple[list[str], list[str]]:
        """Return N image ids and T text ids for files of words: white space, control characters and ``%`` as in URLs.

        Caption ``image.jpg#0`` is the first one of ``image.jpg``, ``image.jpg#document`` its document.
        """
        images = [_NO_WORD.sub(lambda found: quote(found[0], safe=""), name) for name in self.image_ids]
        if self.unit == "documents":
            return images, [f"{name}#document" for name in images]
        owners = self._texts[1]
        places = np.arange(len(owners)) - np.searchsorted(owners, owners)
        return images, [f"{images[row]}#{place}" for row, place in zip(owners.tolist(), places.tolist(), strict=True)]

    @property
    def image_dim(self) -> int:
        """D, the dimension of the global image features."""
        return int(self._features.globals.shape[1])

    @property
    def region_shape(self) -> tuple[int, int]:
        """(R, D): regions per image and dimension of their features; (0, 0) without regions."""
        regions = self._features.regions
        return (0, 0) if regions is None else (int(regions.shape[1]), int(regions.shape[2]))

    @cached_property
    def images(self) -> Tensor:
        """(N, D) float32, the global features of the images."""
        return self.image_rows[:]

    @cached_property
    def image_rows(self) -> FeatureRows:
        """The rows of `images` for reading in batches; a small table is kept in memory."""
        return FeatureRows.of(self._features.globals, self._rows, self._device)

    def image_blocks(self, size: int = 4096) -> Iterator[Tensor]:
        """Yield the rows of `images` in blocks of at most `size`, without keeping all of them in memory."""
        for a in range(0, len(self), size):
            yield self._tensor(self._features.globals[self._rows[a : a + size]], np.float32)

    @cached_property
    def regions(self) -> Tensor:
        """(N, R, D) float32, the features of R regions per image, best first; padding where `region_mask` is False.

        Raises:
            MissingFeature: the dataset was prepared without regions, as for every property of regions.
        """
        return self.region_rows[:]

    @cached_property
    def region_rows(self) -> FeatureRows:
        """The rows of `regions` for reading in batches; a small table is kept in memory."""
        return FeatureRows.of(self._whole_array("regions"), self._rows, self._device)

    @cached_property
    def existing_regions(self) -> FeatureRows:
        """The n rows (n, D) of `regions` where `region_mask` is True, in order; a small table is kept in memory."""
        array, all_rows = self._whole_array("regions"), self.region_rows
        _, count, dim = array.shape
        image, region = np.nonzero(self._region_array("mask"))
        if not all_rows.held:
            return FeatureRows.of(array.reshape(-1, dim), self._rows[image] * count + region, self._device)
        places = torch.from_numpy(image * count + region).to(self._device)
        return FeatureRows((len(places), dim), all_rows.held, lambda index: all_rows[:].flatten(0, 1)[places[index]])

    @cached_property
    def boxes(self) -> Tensor:
        """(N, R, 4) float32, the boxes of the regions: x0 y0 x1 y1 as fractions of width and height."""
        return self._tensor(self._region_array("boxes"))

    @cached_property
    def box_scores(self) -> Tensor:
        """(N, R) float32, the proposer's confidence."""
        return self._tensor(self._region_array("scores"))

    @cached_property
    def region_mask(self) -> Tensor:
        """(N, R) bool, False where the image has no such region and the full image is used as padding."""
        return self._tensor(self._region_array("mask"))

    @cached_property
    def relation_pairs(self) -> Tensor:
        """(R (R - 1), 2) int64, the ordered pairs (j, k) of regions, j != k, in row-major order."""
        return region_pairs(self._region_array("boxes").shape[1]).to(self._device)

    @property
    def labels(self) -> Tensor:
        """(N, C) uint8, multi-hot categories.

        Raises:
            MissingFeature: the dataset has no categories.
        """
        if self._collection.labels is None:
            raise MissingFeature(
                f"{self._collection.name} has no category labels: use data that has them, or choose by metric=rsum"
            )
        return self._tensor(self._collection.labels[self._rows])

    def categories(self, source: str = "given") -> Tensor:
        """Return categories to learn from, (N, C) uint8, multi-hot; a row of zeros for an image without any.

        Args:
            source: `given` for `labels`; `clusters:C`, clusters of the training documents; `keywords:C`, the most
                frequent nouns of the training captions; `detected`, the 80 MS-COCO classes of the regions.

        Raises:
            BadInput: there is no such source, or there are fewer than C different documents or nouns.
            MissingFeature: the dataset has no labels or no words, or its features were prepared without a detector.
        """
        kind, count = label_source(source)
        if not self._has_source(kind):
            raise MissingFeature(self._without(source, kind))
        if kind == "given":
            return self.labels
        if kind == "detected":
            return self._tensor(detected_labels(self._features, self._rows))
        fitted = self._sources(kind, count) if self._sources else fit_source(self._collection, kind, count)
        return self._tensor(fitted.labels(self._collection, self._rows))

    def _has_source(self, kind: str) -> bool:
        if kind == "detected":
            return self._features.classes is not None
        return self._collection.labels is not None if kind == "given" else self.has_words

    def _without(self, source: str, kind: str) -> str:
        """A sentence on a label source that this data does not have, and on those that it has."""
        lacks = {"given": "has no category labels", "detected": "was prepared without the classes of a detector"}
        others = [f"labels={usual}" for other, usual in SOURCES.items() if self._has_source(other)]
        remedies = [f"say {' or '.join(filter(None, (', '.join(others[:-1]), others[-1])))}"] if others else []
        if kind == "detected":
            remedies.insert(0, "prepare it again with --force and a detector of MS-COCO, such as --regions yolox:FILE")
        what = lacks.get(kind, f"has no words, which labels={source} needs")
        return "; ".join([f"{self._collection.name} {what}", ", or ".join(remedies)]).removesuffix("; ")

    @property
    def phrase_boxes(self) -> tuple[list[str], Tensor, Tensor]:
        """The annotated phrases, the position (n,) int64 of each one's image, and its box (n, 4) float32 as in `boxes`.

        Raises:
            MissingFeature: the dataset has no annotated phrases.
        """
        own = self._collection.phrase_boxes
        if own is None:
            others = "use data that has them, such as flickr30k[phrases=true], or boxes=assigned"
            raise MissingFeature(f"{self._collection.name} has no annotated boxes of phrases: {others}")
        found = [(phrase, image, box) for image, row in enumerate(self._rows.tolist()) for phrase, box in own[row]]
        boxes = np.array([box for _, _, box in found], np.float32).reshape(-1, 4)
        images = np.array([image for _, image, _ in found], np.int64)
        return [phrase for phrase, _, _ in found], self._tensor(images), self._tensor(boxes)

    @property
    def has_regions(self) -> bool:
        """Whether `regions`, `boxes`, `box_scores` and `region_mask` are available."""
        return self._features.regions is not None

    def _region_array(self, name: str) -> NDArray[np.generic]:
        return self._whole_array(name)[self._rows]

    def _whole_array(self, name: str) -> NDArray[np.generic]:
        array: NDArray[np.generic] | None = getattr(self._features, name)
        if array is None:
            raise MissingFeature(
                f"{self._collection.name} was prepared without regions; prepare it again with --regions"
            )
        return array

    # texts ------------------------------------------------------------------------------------------------------

    @cached_property
    def _texts(self) -> tuple[list[str], NDArray[np.int64]]:
        if self._asked is not None:
            return self._asked, np.zeros(len(self._asked), dtype=np.int64)
        return self._collection.texts_of(self._rows, self.unit)

    @property
    def texts(self) -> list[str]:
        """The T captions, or N documents: the captions of an image joined by spaces."""
        return self._texts[0]

    @cached_property
    def phrases(self) -> list[list[str]]:
        """The noun chunks of each of the T texts, in order; of a text without any, the text itself."""
        self._require_words()
        return [noun_chunks(text) or [text] for text in self.texts]

    @property
    def image_of(self) -> Tensor:
        """(T,) int64, the position in this split of each text's image, in non-decreasing order."""
        return self._tensor(self._texts[1])

    def chars(self, length: int = 201, unknown: characters.Unknown = "drop") -> Tensor:
        """Encode the texts as characters: (T, length) uint8 indices into `ALPHABET` from 1, 0 for padding.

        Args:
            length: maximum number of characters of a text; longer texts are truncated.
            unknown: what happens to a character outside the alphabet: it is left out ("drop"), becomes 0 ("zero"), or
                ends the text ("stop").

        Raises:
            BadInput: `length` is not positive, or `unknown` is none of the three.
        """
        self._require_words()
        return self._tensor(characters.encode(self.texts, length, unknown))

    @cached_property
    def tokens(self) -> tuple[Tensor, Tensor]:
        """(T, L) int32 word ids, 0 for padding, 1 for unknown words, `FIRST_WORD` and up; and (T,) int32 lengths."""
        ids, lengths = self._text.tokens(self.texts)
        return self._tensor(ids), self._tensor(lengths)

    def token_vectors(self) -> Tensor:
        """Return (V + 2, D) float32, the word vector of each id in `tokens`; zero for ids without a vector."""
        return self._text.token_vectors().to(self._device)

    def word_counts(self) -> tuple[sparse.csr_array, Tensor]:
        """Return (T, W) float32 counts of the words that have a vector, and those vectors, (W, D) float32."""
        vectors = torch.from_numpy(self._text.word_vectors.matrix).to(self._device)
        return self._text.word_counts(self.texts), vectors

    @property
    def vector_shape(self) -> tuple[int, int]:
        """(W, D): number of words that have a vector, and the dimension of the vectors."""
        words, dim = self._text.word_vectors.matrix.shape
        return int(words), int(dim)

    def vector_sample(self, count: int, seed: int) -> Tensor:
        """Return a random sample, (at most count, D) float32, of all word vectors of the source."""
        return self._text.vector_sample(count, seed).to(self._device)

    def bow(self, size: int = 3000) -> sparse.csr_array:
        """Return (T, V) float32 counts of the `size` most frequent training words, V <= size.

        Raises:
            BadInput: `size` is not positive.
        """
        return self._text.bow(self.texts, size)

    def tfidf(self, size: int = 3000, sublinear: bool = False) -> sparse.csr_array:
        """Return (T, V) float32 tf-idf of the `size` most frequent training words, V <= size, rows of unit length.

        Args:
            size: number of words.
            sublinear: use 1 + ln(count) in place of the count.

        Raises:
            BadInput: `size` is not positive.
        """
        return self._text.tfidf(self.texts, size, sublinear)

    def mean_vectors(self) -> Tensor:
        """Return (T, D) float32, the mean word vectors of the texts at unit length; zero if no word is known."""
        return self._text.mean_vectors(self.texts).to(self._device)

    @property
    def text_dim(self) -> int:
        """q, the dimension of `text_features`; 0 if there are none."""
        if self._collection.text_features is not None:
            return int(self._collection.text_features.shape[1])
        return 0 if self._encoded is None else int(self._encoded.array.shape[1])

    @cached_property
    def text_features(self) -> Tensor:
        """(T, q) float32, the features that the data has in place of captions, or else the text encoder's.

        The encoder's feature of a document, unless given, is its captions' mean at unit length.

        Raises:
            MissingFeature: there is no text encoder, or only features of the dataset's own texts, and these are others.
        """
        return self.text_rows[:]

    @cached_property
    def text_rows(self) -> FeatureRows:
        """The rows of `text_features` for reading in batches; a small table is kept in memory."""
        encoded, own = self._encoded, self._collection.text_features
        if own is not None and self._asked is None:
            return FeatureRows.of(own, self._rows, self._device)
        if own is not None:
            raise MissingFeature(
                f"{self._collection.name} has features of its own texts only, which no new sentence has"
            )
        if encoded is None:
            raise MissingFeature(f"{self._collection.name} has no text encoder here; give one with --text-encoder")
        if self._asked is not None:
            if encoded.encoder is None:
                raise MissingFeature(
                    f"{encoded.manifest.encoder} has no features of other texts than the captions of "
                    f"{self._collection.name}: use a text encoder such as onnx:FILE"
                )
            asked = self._tensor(encoded.encoder.embed(self._asked))
            return FeatureRows(tuple(asked.shape), asked.nbytes, asked.__getitem__)
        image_of = self._collection.image_of
        if self.unit == "captions":
            captions, _ = captions_of(image_of, self._rows)
            return FeatureRows.of(encoded.array, encoded.rows[captions], self._device)
        documents: Any = Documents(encoded, image_of)  # of which only rows are read
        return FeatureRows.of(documents, self._rows, self._device)

    # truths and twins -------------------------------------------------------------------------------------------

    @cached_property
    def truths(self) -> tuple[Tensor, Tensor]:
        """(T, n) bool, which texts are true of which images; and (N,) int64, the columns of this split's own images.

        The n columns are the images of the dataset's split of this name, also where only some are taken from it.  A
        document is true of an image if all its captions are.

        Raises:
            MissingFeature: the data does not say, or the texts are not its own.
        """
        truths = self._collection.truths
        if truths is None:
            raise MissingFeature(
                f"{self._collection.name} does not say which captions are true of which images: use data that does, "
                "such as scenes"
            )
        if self._asked is not None:
            raise MissingFeature(f"{self._collection.name} says of its own captions only which images they are true of")
        every = np.union1d(self._collection.splits[self.name], self._rows)
        captions, first = captions_of(self._collection.image_of, self._rows)
        found = truths(captions, every)
        found = np.logical_and.reduceat(found, first) if self.unit == "documents" else found
        return self._tensor(found), self._tensor(np.searchsorted(every, self._rows))

    @property
    def twins(self) -> Tensor | None:
        """(N,) int64, the position in this split of each image's twin; None if the data has no twins."""
        if self._collection.twins is None:
            return None
        position = np.full(len(self._collection.images.ids), -1, dtype=np.int64)
        position[self._rows] = np.arange(len(self))
        twins = position[self._collection.twins[self._rows]]
        return self._tensor(twins) if bool((twins >= 0).all()) else None
