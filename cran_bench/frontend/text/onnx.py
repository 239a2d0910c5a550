"""``onnx:FILE``: a BERT-like ONNX network as a text encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cran_bench.errors import BadInput
from cran_bench.frontend.onnx_network import load_model, open_session
from cran_bench.machine.extras import require
from cran_bench.machine.progress import say
from cran_bench.machine.storage import sha256_file

if TYPE_CHECKING:
    from onnx import ModelProto

LONGEST = 256  # tokens of a text; further ones are left out
BATCH = 64
SPECIAL = "[UNK]", "[CLS]", "[SEP]", "[PAD]"
_DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


@dataclass
class OnnxTextEncoder:
    """``onnx:FILE[vocab=FILE,pooling=mean|cls]``: vectors of sentences, at unit length.

    Texts are put in lower case and cut into the word pieces of an uncased BERT vocabulary.  The network takes
    `input_ids` and, where it has these inputs, `attention_mask` and `token_type_ids`, (batch, tokens) each; its output
    `last_hidden_state`, or else its first, is (batch, tokens, dim).

    Attributes:
        file: path of the model.
        vocab: path of the vocabulary, one token per line; by default vocab.txt beside the model.
        pooling: mean over the tokens, or the vector of the first token, [CLS].

    Raises:
        BadInput: a file is missing or unreadable; when it is used, the network has other inputs or outputs, or the
            vocabulary is not its own.
    """

    file: str
    vocab: str | None = None
    pooling: Literal["mean", "cls"] = "mean"

    def __post_init__(self) -> None:
        self._model, self._sha256 = load_model(Path(self.file))
        self._vocabulary = Path(self.vocab) if self.vocab else Path(self.file).with_name("vocab.txt")
        self._tokens, self._vocab = _read(self._vocabulary), sha256_file(self._vocabulary)

    @cached_property
    def dim(self) -> int:
        """Dimension of a feature."""
        return int(self._vectors([[self._tokens[name] for name in SPECIAL]]).shape[1])

    @cached_property
    def _network(self) -> tuple[Callable[[Mapping[str, Any]], Any], Mapping[str, Any], int]:
        """The network as a function of its inputs, their dtypes, and how many texts it takes at once."""
        name = Path(self.file).name
        if (rows := _table_rows(self._model)) not in (None, len(self._tokens)):
            raise BadInput(
                f"{self._vocabulary} has {len(self._tokens):,} tokens, but {name} has vectors of {rows:,}: give the "
                "vocabulary of this encoder with vocab=FILE"
            )
        session = open_session(self._model, name)
        inputs = {i.name: _DTYPES.get(i.type) for i in session.get_inputs()}
        known = {"input_ids", "attention_mask", "token_type_ids"}
        if "input_ids" not in inputs or inputs.keys() - known or None in inputs.values():
            raise BadInput(
                f"{name} takes {', '.join(inputs)}, but a text encoder takes whole numbers named input_ids, "
                "attention_mask and token_type_ids: export it so"
            )
        outputs = [output.name for output in session.get_outputs()]
        output = "last_hidden_state" if "last_hidden_state" in outputs else outputs[0]
        # where values are quantised by the range of their batch, a text's vector would depend on the others
        is_dynamic = any(node.op_type.startswith("DynamicQuantize") for node in self._model.graph.node)
        del self._model  # of which the session has a copy
        return (lambda feed: session.run([output], feed)[0]), inputs, 1 if is_dynamic else BATCH

    def identity(self) -> Mapping[str, Any]:
        options = {"vocab": self._vocab, "pooling": self.pooling, "longest": LONGEST}
        return {"name": "onnx", "sha256": self._sha256, **options}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts in batches of similar length: (n, dim) features."""
        tokenizer = _tokenizer(self._tokens)
        encodings = [tokenizer.encode(text) for text in texts]
        if cut := sum(bool(own.overflowing) for own in encodings):
            say(f"{cut:,} of {len(texts):,} texts are cut after {LONGEST} tokens")
        tokens = [own.ids for own in encodings]
        order = sorted(range(len(tokens)), key=lambda k: len(tokens[k]))
        vectors, batch = np.empty((len(texts), self.dim), np.float32), self._network[-1]
        for a in range(0, len(order), batch):
            rows = order[a : a + batch]
            vectors[rows] = self._vectors([tokens[k] for k in rows])
        return vectors

    def _vectors(self, tokens: list[list[int]]) -> NDArray[np.float32]:
        places = np.arange(max(map(len, tokens)))
        mask = places < np.array([len(own) for own in tokens])[:, None]
        ids = np.full(mask.shape, self._tokens["[PAD]"])
        ids[mask] = [token for own in tokens for token in own]
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        run, inputs, _ = self._network
        try:
            states = run({name: given[name].astype(dtype) for name, dtype in inputs.items()})
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise BadInput(f"{self.file} fails on texts of up to {len(places)} tokens: {error}") from error
        if states.shape[:2] != ids.shape or states.ndim != 3:
            raise BadInput(
                f"{self.file} returns an array of shape {states.shape} for tokens of shape {ids.shape}, not a vector "
                "for each: export last_hidden_state"
            )
        weights = mask if self.pooling == "mean" else mask & (places == 0)
        pooled = (states * weights[:, :, None].astype(np.float64)).sum(axis=1)  # to be divided by its length
        return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True).clip(1e-12), np.float32)


def _read(path: Path) -> dict[str, int]:
    """The number of each token of a vocabulary."""
    try:
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise BadInput(f"there is no vocabulary {path}: give the encoder's own with vocab=FILE") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not UTF-8 text ({error}): give the encoder's own with vocab=FILE") from error
    tokens = {token: number for number, token in enumerate(lines)}
    missing = [token for token in SPECIAL if token not in tokens]
    if missing or len(tokens) != len(lines):
        what = f"does not have {', '.join(missing)}" if missing else "has a token twice"
        raise BadInput(f"{path} {what}: give a vocabulary of BERT with one token on each line")
    return tokens


def _tokenizer(tokens: dict[str, int]) -> Any:
    """A tokeniser of texts in lower case into word pieces, between [CLS] and [SEP]."""
    library = require("tokenizers", "onnx", "text encoders")
    tokenizer = library.Tokenizer(library.models.WordPiece(tokens, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    ends = [(name, tokens[name]) for name in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = library.processors.BertProcessing(*ends)
    tokenizer.enable_truncation(LONGEST)
    return tokenizer


def _table_rows(model: ModelProto) -> int | None:
    """Rows of the table from which a network takes the vectors of `input_ids`; None if it is not found."""
    graph = require("onnx", "onnx", "ONNX models").shape_inference.infer_shapes(model).graph
    rows = {v.name: v.type.tensor_type.shape.dim[0].dim_value for v in graph.value_info if v.type.tensor_type.shape.dim}
    rows |= {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    ids = {"input_ids"}
    for node in graph.node:
        if node.op_type in ("Cast", "Identity") and node.input[0] in ids:
            ids.update(node.output)
        if node.op_type == "Gather" and node.input[1] in ids:
            return int(rows.get(node.input[0], 0)) or None
    return None
