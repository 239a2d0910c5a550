"""Word vectors: fitted on the training captions (``ppmi-svd``), or read from ``glove:FILE`` and ``word2vec:FILE``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse
from scipy.sparse.linalg import svds

from cran_bench.errors import BadInput, did_you_mean
from cran_bench.frontend.text.spelling import candidates, pieces, spellings
from cran_bench.machine.storage import is_file, sha256_file
from cran_bench.specs import build, parse_spec

BLOCK = 1 << 20
"""Number of bytes read at a time from a binary file."""

BOM = b"\xef\xbb\xbf"
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1b]")
FOREIGN = (
    "it is neither UTF-8 text nor word2vec's binary format: of fastText give the .vec file, from gensim export with "
    "save_word2vec_format, and convert UTF-16 to UTF-8"
)

Keep = Callable[[int, bytes], bool]

DENSE_UP_TO = 1000
"""Number of words up to which a full SVD is as fast as a truncated one."""


class WordVectors:
    """A table of word vectors.

    Attributes:
        index: the row of each word.
        matrix: (W, dim) float32, the vectors.
    """

    def __init__(self, words: Iterable[str], matrix: NDArray[np.float32], identity: dict[str, Any]) -> None:
        self.index = {word: row for row, word in enumerate(words)}
        self.matrix = matrix
        self._identity = identity

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return int(self.matrix.shape[1])

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, word: str) -> list[int]:
        """Return the rows that represent a word: its own, that of another spelling, those of its parts, or none.

        `cran_bench.frontend.text.spelling` defines spellings and parts.
        """
        rows = [self._row(part) for part in (word, *([] if self._row(word) is not None else pieces(word)))]
        return [row for row in rows if row is not None]

    def _row(self, word: str) -> int | None:
        return next((self.index[spelled] for spelled in spellings(word) if spelled in self.index), None)

    def lookup(self, tokens: Iterable[str]) -> NDArray[np.float32]:
        """Return the vectors that represent `tokens`, in order and with repetitions: (K, dim) float32, K >= 0."""
        rows = [row for token in tokens for row in self.rows(token)]
        return self.matrix[np.array(rows, dtype=np.intp)]

    def identity(self) -> dict[str, Any]:
        """Return JSON values that, with the training captions, determine the vectors."""
        return self._identity


class VectorSource(Protocol):
    """A source of word vectors, whose identity is known before it is opened."""

    def identity(self) -> dict[str, Any]:
        """Return name, options and sha256 of the file as JSON values."""
        ...

    def open(self, sentences: Iterable[Sequence[str]]) -> WordVectors:
        """Fit or load vectors for the words of the tokenised training `sentences`."""
        ...

    def sample(self, opened: WordVectors, count: int, seed: int) -> NDArray[np.float32]:
        """Return a random sample, (at most count, dim), of all vectors of the source."""
        ...


def vector_source(text: str) -> VectorSource:
    """Return the source of a spec: ``ppmi-svd[dim=300,window=5]``, ``glove:FILE`` or ``word2vec:FILE``.

    Raises:
        BadInput: the name or an option is unknown, or there is no such file.
    """
    spec = parse_spec(text)
    if spec.name == "ppmi-svd":
        if spec.argument:
            raise BadInput(
                f"ppmi-svd is fitted on the training captions and takes no '{spec.argument}'; write ppmi-svd"
            )
        return build(PpmiSvd, spec.options, "ppmi-svd")
    if spec.name not in ("glove", "word2vec"):
        raise BadInput(
            f"there are no word vectors '{spec.name}'{did_you_mean(spec.name, ('ppmi-svd', 'glove', 'word2vec'))}"
        )
    if spec.options:
        raise BadInput(f"{spec.name} takes a file and no options; write {spec.name}:FILE, not '{text}'")
    path = Path(spec.argument)
    if not is_file(path):
        raise BadInput(f"word vectors '{text}' need an existing file; write {spec.name}:FILE")
    if path.suffix in (".gz", ".zip"):
        raise BadInput(f"{path} is compressed; unpack it and give the file inside")
    return VectorFile(path, header=spec.name == "word2vec")


@dataclass(frozen=True)
class PpmiSvd:
    """Truncated SVD of the shifted positive PMI matrix of word co-occurrences in the training captions.

    With #(w, c) the number of times w and c occur within `window` words of each other (Levy, Goldberg & Dagan,
    "Improving Distributional Similarity with Lessons Learned from Word Embeddings", TACL 2015):

        M_wc = max(0, log #(w, c) sum_c' #(c')^smoothing / (#(w) #(c)^smoothing) - log shift),   M ~ U S V',
        vectors = U S^(1/2).

    The result is deterministic: the start vector is fixed, and the signs make the largest entry of each column of U
    positive.

    Attributes:
        dim: dimension of the vectors; at most the rank of M.
        window: maximum distance in words at which two words of a caption co-occur.
        min_count: minimum number of occurrences of a word; rarer words have no vector but count in distances.
        shift: number of negative samples, whose logarithm is subtracted; 1 for no shift.
        smoothing: exponent of the context counts; below 1 it lowers the PMI of rare contexts.
    """

    dim: int = 300
    window: int = 5
    min_count: int = 2
    shift: float = 1.0
    smoothing: float = 0.75

    def __post_init__(self) -> None:
        for name in ("dim", "window", "min_count"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.shift < float("inf"):
            raise ValueError(f"shift must be a positive number, not {self.shift:g}")
        if not 0 <= self.smoothing <= 1:
            raise ValueError(f"smoothing must lie between 0 and 1, not {self.smoothing:g}")

    def identity(self) -> dict[str, Any]:
        """Return name and options as JSON values."""
        return {"name": "ppmi-svd", **asdict(self)}

    def open(self, sentences: Iterable[Sequence[str]]) -> WordVectors:
        """Fit vectors on tokenised sentences; words are sorted by descending frequency, then alphabetically.

        Raises:
            BadInput: no word occurs `min_count` times.
        """
        words, counts = self.cooccurrences(sentences)
        if not words:
            raise BadInput(f"ppmi-svd: no word of the training captions occurs {self.min_count} times; lower min_count")
        U, S = _truncated_svd(self.ppmi(counts), self.dim)
        largest = U[np.abs(U).argmax(axis=0), np.arange(len(S))]
        vectors = U * np.where(largest < 0, -1.0, 1.0) * np.sqrt(S)
        return WordVectors(words, vectors.astype(np.float32), self.identity())

    def sample(self, opened: WordVectors, count: int, seed: int) -> NDArray[np.float32]:
        """Return a random sample, (at most count, dim), of the vectors of the training captions' words."""
        rows = np.random.default_rng(seed).permutation(len(opened))[:count]
        return opened.matrix[np.sort(rows)]

    def cooccurrences(self, sentences: Iterable[Sequence[str]]) -> tuple[list[str], sparse.csr_array[np.float64]]:
        """Return the W sufficiently frequent words, and their symmetric (W, W) co-occurrence counts #(w, c)."""
        first_seen: dict[str, int] = {}
        flat: list[int] = []
        lengths: list[int] = []
        for sentence in sentences:
            flat.extend(first_seen.setdefault(word, len(first_seen)) for word in sentence)
            lengths.append(len(sentence))
        ids = np.array(flat, dtype=np.intp)
        frequency = np.bincount(ids, minlength=len(first_seen))
        words = [word for word, i in first_seen.items() if frequency[i] >= self.min_count]
        words.sort(key=lambda word: (-frequency[first_seen[word]], word))
        row = np.full(len(first_seen), -1, dtype=np.intp)
        row[[first_seen[word] for word in words]] = np.arange(len(words))
        ids, sentence_of = row[ids], np.repeat(np.arange(len(lengths)), lengths)
        counts = sparse.csr_array((len(words), len(words)), dtype=np.float64)
        for distance in range(1, min(self.window, max(lengths, default=1) - 1) + 1):
            left, right = ids[:-distance], ids[distance:]
            near = (sentence_of[:-distance] == sentence_of[distance:]) & (left >= 0) & (right >= 0)
            pairs = (np.ones(near.sum()), (left[near], right[near]))
            counts = counts + sparse.coo_array(pairs, shape=counts.shape).tocsr()
        return words, (counts + counts.T).tocsr()

    def ppmi(self, counts: sparse.csr_array[np.float64]) -> sparse.csr_array[np.float64]:
        """Compute the (W, W) matrix M from (W, W) counts; pairs that never co-occur are 0."""
        pairs = counts.tocoo()
        total: NDArray[np.float64] = counts.sum(axis=0)
        context = total**self.smoothing
        independent = total[pairs.row] * context[pairs.col] / context.sum()
        pmi = np.log(pairs.data / independent)
        positive = np.maximum(pmi - np.log(self.shift), 0)
        M = sparse.csr_array((positive, (pairs.row, pairs.col)), shape=counts.shape)
        M.eliminate_zeros()
        return M


def _truncated_svd(M: sparse.csr_array[np.float64], rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """U (W, r) and the r <= rank largest singular values, in descending order; r = 1 if M = 0."""
    words = M.shape[0]
    if not M.nnz:
        return np.zeros((words, 1)), np.zeros(1)
    U: NDArray[Any]
    S: NDArray[Any]
    if words <= max(DENSE_UP_TO, rank + 1):
        U, S, _ = linalg.svd(M.toarray(), full_matrices=False)
    else:
        start = np.random.default_rng(0).standard_normal(words)
        U, S, _ = svds(M, k=rank, v0=start, solver="arpack", return_singular_vectors="u")
        U, S = U[:, ::-1], S[::-1]
    # ARPACK works on M'M, so singular values below sqrt(eps) times the largest are rounding errors
    r = int((S[:rank] > 1e-7 * S[0]).sum())
    return U[:, :r].astype(np.float64), S[:r].astype(np.float64)


@dataclass(frozen=True)
class VectorFile:
    """A file of word vectors: text in UTF-8, separated by spaces or tabs, or word2vec's binary format.

    The binary format, float32 and little-endian, is recognised by control characters among the first bytes.

    Attributes:
        path: the file.
        header: whether it starts with the number of words and their dimension, as in word2vec's format but not GloVe's.
    """

    path: Path
    header: bool

    @cached_property
    def sha256(self) -> str:
        """The sha256 of the file, computed once."""
        return sha256_file(self.path)

    def identity(self) -> dict[str, Any]:
        """Return format and sha256 of the file as JSON values."""
        return {"name": "word2vec" if self.header else "glove", "sha256": self.sha256, "binary": self._binary}

    def open(self, sentences: Iterable[Sequence[str]]) -> WordVectors:
        """Load the vectors of the words of `sentences` and of their possible replacements.

        Raises:
            BadInput: the file is malformed, or has none of the words.
        """
        words = {word for sentence in sentences for word in sentence}
        return self.read({spelled for word in words for spelled in candidates(word)})

    def read(self, needed: Set[str] | None = None) -> WordVectors:
        """Load the vectors of the `needed` words, or of all words if it is None, in the order of the file.

        The file is streamed, and only the needed vectors are kept in memory.  If a word is repeated, its first vector
        is used.  The format of every line is checked, the numbers only in the lines that are used.

        Raises:
            BadInput: the file is malformed (the message names the line, or the word's number in a binary file), cannot
                be read, or has none of the words.
        """
        wanted = None if needed is None else {word.encode("utf-8", "surrogatepass") for word in needed}
        kept: dict[str, NDArray[np.float32]] = {}
        for word, vector in self._records(lambda _, word: wanted is None or word in wanted):
            kept.setdefault(word.decode("utf-8", "replace"), vector)
        if not kept:
            raise BadInput(
                f"{self.path} has none of the words of the training captions, in any of {len(needed or ())} spellings; "
                "use vectors for the language of the captions"
            )
        return WordVectors(kept, np.stack(list(kept.values())), self.identity())

    def sample(self, opened: WordVectors, count: int, seed: int) -> NDArray[np.float32]:
        """Return a random sample, (at most count, dim), of all vectors of the file, which is read as a whole."""
        with self.path.open("rb") as file:
            total = self._header(file.readline(100))[0] if self.header else sum(1 for _ in file)
        chosen = set(np.random.default_rng(seed).permutation(total)[:count].tolist())
        vectors = [vector for _, vector in self._records(lambda number, _: number - 1 in chosen)]
        return np.stack(vectors)

    def _records(self, keep: Keep) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
        """The words and vectors selected by `keep` from their number, counted from 1, and the word."""
        try:
            yield from self._binary_records(keep) if self._binary else self._text_records(keep)
        except OSError as error:
            raise BadInput(f"cannot read {self.path}: {error.strerror}; give a readable file") from error

    @cached_property
    def _holds_bytes(self) -> bool:
        with self.path.open("rb") as file:
            return _NO_TEXT.search(file.read(4096)) is not None

    @property
    def _binary(self) -> bool:
        return self.header and self._holds_bytes

    def _text_records(self, keep: Keep) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
        with self.path.open("rb") as file:
            file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0)
            words, dim = self._header(file.readline()) if self.header else (0, 0)
            number = header_lines = int(self.header)
            for number, line in enumerate(file, start=header_lines + 1):
                line = line.replace(b"\t", b" ").rstrip(b" \r\n")
                if not dim:
                    dim = self._first_dimension(line)
                # glove.840B has words that contain spaces, so the values are counted from the right
                word, *values = line.rsplit(b" ", dim)
                if len(values) < dim or not word or (b" " in word and _is_number(word.rsplit(b" ", 1)[1])):
                    raise BadInput(
                        f"{self.path}, line {number}: expected a word and {dim} values, "
                        f"got {max(0, line.count(b' '))} values; correct the line or download the file again"
                    )
                if keep(number - header_lines, word):
                    yield word, self._numbers(values, f"line {number}")
            read = number - header_lines
        if not number:
            raise BadInput(f"{self.path} is empty; expected a word and its values on each line; download it again")
        if self.header and read != words:
            raise BadInput(
                f"{self.path}, line 1: declares {words} words, but {read} follow up to line {number}; "
                "download the file again"
            )

    def _binary_records(self, keep: Keep) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
        with self.path.open("rb") as file:
            words, dim = self._header(file.readline(100))
            # Read in blocks: the pages of a memory-mapped file would all count as used memory.
            block, place, step, size = b"", 0, 4 * dim, self.path.stat().st_size
            for number in range(1, words + 1):
                space = block.find(b" ", place)
                if space < 0 or space + 1 + step > len(block):
                    block, place = block[place:] + file.read(min(BLOCK + step, size)), 0
                    space = block.find(b" ")
                end = space + 1 + step
                if space < 0 or end > len(block):
                    raise BadInput(
                        f"{self.path}, line 1: declares {words} words of {dim} values, but the file ends within "
                        f"word {number}; download it again"
                    )
                word = block[place:space].lstrip(b"\n")
                if keep(number, word):
                    yield word, self._finite(np.frombuffer(block[space + 1 : end], "<f4"), f"word {number}")
                place = end
            left = len(block) - place + size - file.tell()
            if left > 1:
                raise BadInput(
                    f"{self.path}, line 1: declares {words} words of {dim} values, but {left} bytes follow them; "
                    "download the file again"
                )

    def _header(self, line: bytes) -> tuple[int, int]:
        fields = line.removeprefix(BOM).split()
        if len(fields) != 2 or not all(field.isdigit() and len(field) < 19 and int(field) > 0 for field in fields):
            start = line[:40].decode("utf-8", "replace").strip()
            raise BadInput(
                f"{self.path}, line 1: expected the number of words and their dimension, got '{start}'; "
                + (FOREIGN if self._holds_bytes else "for a text file without this header write glove:FILE")
            )
        return int(fields[0]), int(fields[1])

    def _first_dimension(self, line: bytes) -> int:
        values = line.split(b" ")[1:]
        is_header = len(values) == 1 and line.replace(b" ", b"").isdigit()
        if not values or is_header or self._holds_bytes:
            start = line[:40].decode("utf-8", "replace")
            advice = "for a file that starts with the number of words and their dimension write word2vec:FILE"
            raise BadInput(
                f"{self.path}, line 1: expected a word and its values, got '{start}'; "
                + (FOREIGN if self._holds_bytes and not is_header else advice)
            )
        return len(values)

    def _numbers(self, values: list[bytes], where: str) -> NDArray[np.float32]:
        try:
            with np.errstate(over="ignore"):
                vector = np.array([float(value) for value in values]).astype(np.float32)
        except ValueError:
            wrong = next(value for value in values if not _is_number(value)).decode("utf-8", "replace")
            raise BadInput(
                f"{self.path}, {where}: expected numbers after the word, got '{wrong}'; "
                "correct the line or download the file again"
            ) from None
        return self._finite(vector, where)

    def _finite(self, vector: NDArray[np.float32], where: str) -> NDArray[np.float32]:
        if not np.isfinite(vector).all():
            raise BadInput(
                f"{self.path}, {where}: expected finite numbers, got NaN or infinity; "
                "correct the value or download the file again"
            )
        return vector


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
