"""Captions as words: ids, counts, tf-idf and mean word vectors, all fitted on the training texts only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import (  # type: ignore[import-untyped]
    CountVectorizer,
    TfidfTransformer,
)

from cran_bench.errors import BadInput
from cran_bench.frontend.text.vectors import VectorSource, WordVectors, vector_source
from cran_bench.machine.progress import say

TOKENIZER_VERSION = 1
"""To be raised with every change of `tokenize`, so that no stored feature outlives it."""

PADDING, UNKNOWN = 0, 1

FIRST_WORD = 2
"""Id of the first word of the vocabulary in `Split.tokens`; 0 is padding and 1 an unknown word."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W\d_]+)?")


def tokenize(text: str) -> list[str]:
    """Lower-cased runs of letters and digits of any script, with one apostrophe and the letters after it: ``man's``."""
    return _WORD.findall(text.lower())


class TextFrontEnd:
    """Text features of any texts in terms of the training texts' words.

    Attributes:
        vocabulary: the V words of the training texts, most frequent first, then in alphabetical order.
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
        """Learn the vocabulary; the word vectors that `vectors` names are opened when they are first needed.

        Raises:
            BadInput: no text holds a word, or `vectors` is not a spec of word vectors.
        """
        source = vector_source(vectors)
        if not any(map(tokenize, train_texts)):
            raise BadInput(f"the {len(train_texts)} training texts hold no word; give texts with letters or digits")
        vectorizer = CountVectorizer(analyzer=tokenize, dtype=np.float32)
        counts = sparse.csr_array(vectorizer.fit_transform(train_texts))
        order = np.argsort(-counts.sum(axis=0, dtype=np.float64), kind="stable")
        counts = counts[:, order]
        counts.sort_indices()
        return cls(train_texts, vectorizer.get_feature_names_out()[order].tolist(), counts, source)

    def identity(self) -> dict[str, Any]:
        """What determines the features, apart from the training texts, as JSON values."""
        return {"tokenizer": TOKENIZER_VERSION, "vectors": self._source.identity()}

    def tokens(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Word ids (T, L) int32 and lengths (T,) int32; L is the longest text's number of words.

        0 is padding, 1 a word that the training texts lack, and i + 2 the word ``vocabulary[i]``.
        """
        rows = [[self._ids.get(word, UNKNOWN) for word in tokenize(text)] for text in texts]
        lengths = np.array([len(row) for row in rows], dtype=np.int32)
        ids = np.full((len(rows), lengths.max(initial=0)), PADDING, dtype=np.int32)
        ids[np.arange(ids.shape[1]) < lengths[:, None]] = [i for row in rows for i in row]
        return ids, lengths

    def bow(self, texts: Sequence[str], size: int = 3000) -> sparse.csr_array[np.float32, tuple[int, int]]:
        """Counts (T, min(size, V)) float32 of the `size` most frequent training words.

        Raises:
            BadInput: `size` is not positive.
        """
        if size < 1:
            raise BadInput(f"the number of words counted must be at least 1, not {size}; the usual number is 3000")
        return self._counts(texts)[:, :size]

    def tfidf(
        self, texts: Sequence[str], size: int = 3000, sublinear: bool = False
    ) -> sparse.csr_array[np.float32, tuple[int, int]]:
        """tf-idf (T, min(size, V)) float32, rows of length 1, or 0 where no word is counted.

        idf = 1 + ln((1 + n) / (1 + df)) over the n training texts; tf is the count, or 1 + ln(count) if `sublinear`.

        Raises:
            BadInput: `size` is not positive.
        """
        counts = self.bow(texts, size)
        if not counts.shape[0]:
            return counts
        transformer = TfidfTransformer(sublinear_tf=sublinear).fit(self._train_counts[:, :size])
        return sparse.csr_array(transformer.transform(counts))

    def mean_vectors(self, texts: Sequence[str]) -> torch.Tensor:
        """Mean of the vectors of a text's known words, repeated words repeated, at length 1: (T, dim) float32.

        Words without a vector are skipped, after other spellings and parts were tried (see `spelling`); a text with no
        other words has the zero vector, and their number is said.
        """
        counts = self.word_counts(texts)
        if absent := int((counts.sum(axis=1) == 0).sum()):
            say(f"{absent} of {len(texts)} texts hold no word with a vector; their mean vector is zero")
        return torch.nn.functional.normalize(torch.from_numpy(counts @ self.word_vectors.matrix))

    def word_counts(self, texts: Sequence[str]) -> sparse.csr_array[np.float32, tuple[int, int]]:
        """Counts (T, W) of the words with a vector, rows of `word_vectors`; parts count where they stand for a word."""
        return sparse.csr_array(self._counts(texts) @ self._standing_for)

    @cached_property
    def word_vectors(self) -> WordVectors:
        """The vectors of the training texts' words.

        Raises:
            BadInput: the file is malformed or has none of the words.
        """
        return self._source.open(map(tokenize, self._train_texts))

    def token_vectors(self) -> torch.Tensor:
        """(V + 2, dim) float32, the word vector of each token id; zero for padding, unknown, and words without one.

        Where a word's parts stand for it, their mean.
        """
        parts = self._standing_for
        share = parts.multiply(1 / np.maximum(parts.sum(axis=1), 1)[:, None])
        vectors = sparse.csr_array(share) @ self.word_vectors.matrix
        return torch.nn.functional.pad(torch.from_numpy(vectors.astype(np.float32)), (0, 0, FIRST_WORD, 0))

    def vector_sample(self, count: int, seed: int) -> torch.Tensor:
        """(at most count, dim) float32 vectors by lot, of all words that the source has, the captions' or not."""
        return torch.from_numpy(self._source.sample(self.word_vectors, count, seed))

    @cached_property
    def _standing_for(self) -> sparse.csr_array[np.float32, tuple[int, int]]:
        """(V, W) how often each word with a vector stands for a word of the vocabulary."""
        rows = [self.word_vectors.rows(word) for word in self.vocabulary]
        columns = np.array([row for own in rows for row in own], dtype=np.intp)
        places = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
        shape = len(rows), len(self.word_vectors)
        return sparse.csr_array((np.ones(len(columns), np.float32), (places, columns)), shape=shape)

    def _counts(self, texts: Sequence[str]) -> sparse.csr_array[np.float32, tuple[int, int]]:
        """Counts (T, V) of all training words; those of the training texts and of the latest texts are remembered."""
        asked = tuple(texts)
        if asked == self._train_texts:
            return self._train_counts
        if asked != self._latest[0]:
            vectorizer = CountVectorizer(analyzer=tokenize, dtype=np.float32, vocabulary=self.vocabulary)
            self._latest = asked, sparse.csr_array(vectorizer.transform(asked))
        return self._latest[1]
