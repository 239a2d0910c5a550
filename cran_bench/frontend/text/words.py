"""Word features of texts: word ids, counts, tf-idf and mean word vectors, all fitted on the training texts only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from cran_bench.errors import BadInput
from cran_bench.frontend.text.vectors import VectorSource, WordVectors, vector_source
from cran_bench.machine.progress import say

TOKENIZER_VERSION = 1
"""To be raised with every change of `tokenize`, so that results computed with the old one are not reused."""

PADDING, UNKNOWN = 0, 1

FIRST_WORD = 2
"""Id of the first word of the vocabulary in `Split.tokens`; 0 is padding and 1 an unknown word."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W\d_]+)?")


def tokenize(text: str) -> list[str]:
    """Split a text into lower-cased runs of letters and digits of any script, with one apostrophe inside: ``man's``."""
    return _WORD.findall(text.lower())


class TextFrontEnd:
    """Word features of texts, over the vocabulary of the training texts.

    Attributes:
        vocabulary: the V words of the training texts, by descending frequency, then alphabetically.
    """

    def __init__(
        self,
        train_texts: Sequence[str],
        vocabulary: list[str],
        train_counts: sparse.csr_array[np.float32, tuple[int, int]],
        source: VectorSource,
    ) -> None:
        self.vocabulary = vocabulary
        self._ids = {word: place for place, word in enumerate(vocabulary, start=FIRST_WORD)}
        self._train_texts = tuple(train_texts)
        self._train_counts = train_counts
        self._latest = self._train_texts, train_counts
        self._source = source

    @classmethod
    def fit(cls, train_texts: Sequence[str], vectors: str = "ppmi-svd") -> TextFrontEnd:
        """Build the vocabulary; the word vectors of the spec `vectors` are opened when they are first needed.

        Raises:
            BadInput: no text contains a word, or `vectors` is not a spec of word vectors.
        """
        from sklearn.feature_extraction.text import CountVectorizer  # type: ignore[import-untyped]

        source = vector_source(vectors)
        if not any(map(tokenize, train_texts)):
            raise BadInput(f"the {len(train_texts)} training texts contain no word; give texts with letters or digits")
        vectorizer = CountVectorizer(analyzer=tokenize, dtype=np.float32)
        counts = sparse.csr_array(vectorizer.fit_transform(train_texts))
        order = np.argsort(-counts.sum(axis=0, dtype=np.float64), kind="stable")
        counts = counts[:, order]
        counts.sort_indices()
        return cls(train_texts, vectorizer.get_feature_names_out()[order].tolist(), counts, source)

    def identity(self) -> dict[str, Any]:
        """Return JSON values that, with the training texts, determine the features."""
        return {"tokenizer": TOKENIZER_VERSION, "vectors": self._source.identity()}

    def tokens(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return word ids (T, L) int32 and lengths (T,) int32; L is the length of the longest text in words.

        0 is padding, 1 an unknown word, and i + 2 the word ``vocabulary[i]``.
        """
        rows = [[self._ids.get(word, UNKNOWN) for word in tokenize(text)] for text in texts]
        lengths = np.array([len(row) for row in rows], dtype=np.int32)
        ids = np.full((len(rows), lengths.max(initial=0)), PADDING, dtype=np.int32)
        ids[np.arange(ids.shape[1]) < lengths[:, None]] = [i for row in rows for i in row]
        return ids, lengths

    def bow(self, texts: Sequence[str], size: int = 3000) -> sparse.csr_array[np.float32, tuple[int, int]]:
        """Return counts, (T, min(size, V)) float32, of the `size` most frequent training words.

        Raises:
            BadInput: `size` is not positive.
        """
        if size < 1:
            raise BadInput(f"the number of words to count must be at least 1, not {size}; a common choice is 3000")
        return self._counts(texts)[:, :size]

    def tfidf(
        self, texts: Sequence[str], size: int = 3000, sublinear: bool = False
    ) -> sparse.csr_array[np.float32, tuple[int, int]]:
        """Return tf-idf, (T, min(size, V)) float32, with rows of unit length, or zero if a text has no counted word.

        idf = 1 + ln((1 + n) / (1 + df)) over the n training texts; tf is the count, or 1 + ln(count) if `sublinear`.

        Raises:
            BadInput: `size` is not positive.
        """
        from sklearn.feature_extraction.text import TfidfTransformer

        counts = self.bow(texts, size)
        if not counts.shape[0]:
            return counts
        transformer = TfidfTransformer(sublinear_tf=sublinear).fit(self._train_counts[:, :size])
        return sparse.csr_array(transformer.transform(counts))

    def mean_vectors(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the mean vector of each text's words, with repetitions, scaled to unit length: (T, dim) float32.

        Words without a vector, in any spelling or in parts, are skipped.  Texts without any other word have the zero
        vector; their number is reported.
        """
        counts = self.word_counts(texts)
        if absent := int((counts.sum(axis=1) == 0).sum()):
            say(f"{absent} of {len(texts)} texts contain no word with a vector; their mean vector is zero")
        return torch.nn.functional.normalize(torch.from_numpy(counts @ self.word_vectors.matrix))

    def word_counts(self, texts: Sequence[str]) -> sparse.csr_array[np.float32, tuple[int, int]]:
        """Return counts (T, W) of the rows of `word_vectors` that represent the words of each text."""
        return sparse.csr_array(self._counts(texts) @ self._vector_rows)

    @cached_property
    def word_vectors(self) -> WordVectors:
        """The word vectors of the training texts' words.

        Raises:
            BadInput: the file is malformed or has none of the words.
        """
        return self._source.open(map(tokenize, self._train_texts))

    def token_vectors(self) -> torch.Tensor:
        """Return the word vector of each token id, (V + 2, dim) float32; zero for padding and words without a vector.

        A word represented by its parts has the mean of their vectors.
        """
        parts = self._vector_rows
        share = parts.multiply(1 / np.maximum(parts.sum(axis=1), 1)[:, None])
        vectors = sparse.csr_array(share) @ self.word_vectors.matrix
        return torch.nn.functional.pad(torch.from_numpy(vectors.astype(np.float32)), (0, 0, FIRST_WORD, 0))

    def vector_sample(self, count: int, seed: int) -> torch.Tensor:
        """Return a random sample, (at most count, dim) float32, of all word vectors of the source."""
        return torch.from_numpy(self._source.sample(self.word_vectors, count, seed))

    @cached_property
    def _vector_rows(self) -> sparse.csr_array[np.float32, tuple[int, int]]:
        """(V, W) how often each row of `word_vectors` represents each word of the vocabulary."""
        rows = [self.word_vectors.rows(word) for word in self.vocabulary]
        columns = np.array([row for own in rows for row in own], dtype=np.intp)
        places = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
        shape = len(rows), len(self.word_vectors)
        return sparse.csr_array((np.ones(len(columns), np.float32), (places, columns)), shape=shape)

    def _counts(self, texts: Sequence[str]) -> sparse.csr_array[np.float32, tuple[int, int]]:
        """Counts (T, V) of all training words; cached for the training texts and for the most recent texts."""
        from sklearn.feature_extraction.text import CountVectorizer

        key = tuple(texts)
        if key == self._train_texts:
            return self._train_counts
        if key != self._latest[0]:
            vectorizer = CountVectorizer(analyzer=tokenize, dtype=np.float32, vocabulary=self.vocabulary)
            self._latest = key, sparse.csr_array(vectorizer.transform(key))
        return self._latest[1]
