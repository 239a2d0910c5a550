"""``transformers:FOLDER`` and ``clip:FOLDER``: sentence encoders and CLIP from folders of Hugging Face models."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from cran_bench.errors import BadInput
from cran_bench.machine.environment import pick_device
from cran_bench.machine.extras import require
from cran_bench.machine.ledger import noted_sha256
from cran_bench.machine.progress import say

AT_ONCE = 32  # images or texts in one pass
CONFIG, WEIGHTS = ("config.json",), ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
BESIDE = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
PROCESSOR = ("preprocessor_config.json", "processor_config.json")
_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_SUPPORTED = ("Transformer", "Pooling", "Normalize", *_MODES.values())


@dataclass
class HuggingFaceModel:
    """A model in a folder, read in float32 when it is first used, without a network and without the folder's own code.

    Attributes:
        folder: a folder with config.json, weights as safetensors, and what prepares the model's inputs.
        device: the device to compute on, which does not affect the features' identity.

    Raises:
        BadInput: the folder or one of its files is missing; when it is used, damaged or of another kind of model.
    """

    folder: str
    device: str = "auto"
    name: ClassVar[str]
    needs: ClassVar[tuple[str, Sequence[str]]]  # what prepares inputs, and its files

    def __post_init__(self) -> None:
        self._path = Path(self.folder)
        if not self._path.is_dir():
            raise BadInput(
                f"there is no folder {self.folder}, and nothing is downloaded: fetch a model with hf download NAME "
                "--local-dir FOLDER, from the package huggingface_hub, and give that folder"
            )
        for what, names in (("configuration", CONFIG), ("weights", WEIGHTS), self.needs):
            if not self._matching(names):
                raise BadInput(
                    f"{self._path} has no {what} ({names[0]}): give a folder with all files of a model, as its "
                    "save_pretrained or hf download writes it; pickles, which could execute code, are not read"
                )

    def identity(self) -> Mapping[str, Any]:
        what, names = self.needs
        files = {"config": CONFIG, "weights": WEIGHTS, what: (*names, *BESIDE)}
        digests = {key: {path.name: noted_sha256(path) for path in self._matching(files[key])} for key in files}
        return {"name": self.name, **digests}

    @cached_property
    def dim(self) -> int:
        """Dimension of a feature; of a CLIP that of the space of images and texts."""
        config, device = self._model.config, self._model.device
        if self.name != "clip":
            return int(config.hidden_size)
        with self._usable(), torch.inference_mode():
            pixels = torch.zeros(1, 3, *2 * (config.vision_config.image_size,), device=device)
            tokens = torch.ones(1, 2, dtype=torch.long, device=device)
            images = self._model.get_image_features(pixel_values=pixels).pooler_output.shape[1]
            texts = self._model.get_text_features(input_ids=tokens).pooler_output.shape[1]
        if images != texts:
            raise BadInput(
                f"the projections of {self._path} differ, with {images} dimensions for images and {texts} for texts: "
                "choose a model that embeds both in one space"
            )
        return int(images)

    @cached_property
    def _model(self) -> Any:
        options = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, found = self._read("AutoModel", dtype=torch.float32, **options)
        wrong = [f"they lack {key}" for key in found["missing_keys"] if not key.startswith("pooler.")]
        wrong += [f"{key} has shape {tuple(own)}, not {tuple(due)}" for key, own, due in found["mismatched_keys"]]
        if wrong:
            raise BadInput(f"the weights in {self._path} do not fit its config.json ({min(wrong)}): get both again")
        is_clip = hasattr(model, "get_image_features") and hasattr(model, "get_text_features")
        if is_clip != (self.name == "clip"):
            right = "clip" if is_clip else "--text-encoder transformers"
            raise BadInput(f"{self._path} holds a {type(model).__name__}: read it as {right}:{self._path}")
        return model.eval().to(pick_device(self.device))

    def _matching(self, patterns: Sequence[str]) -> list[Path]:
        return sorted({path for pattern in patterns for path in self._path.glob(pattern) if path.is_file()})

    def _read(self, cls: str, **options: Any) -> Any:
        library = require("transformers", "encoders", "models from folders")
        library.utils.logging.set_verbosity(library.utils.logging.CRITICAL)
        library.utils.logging.disable_progress_bar()
        with self._usable():
            options |= {"local_files_only": True, "trust_remote_code": False}
            return getattr(library, cls).from_pretrained(self._path, **options)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Blame the folder for errors, of which damaged files and models of other kinds raise many kinds."""
        try:
            yield
        except BadInput:
            raise
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            raise BadInput(f"the model in {self._path} cannot be used ({first}): choose another") from error

    def _in_batches(self, order: NDArray[np.intp], embed: Callable[[NDArray[np.intp]], Tensor]) -> NDArray[np.float32]:
        """Embed images or texts in this order by `embed`, which takes the positions of a few: (n, dim)."""
        found = np.zeros((len(order), self.dim), np.float32)
        with self._usable(), torch.inference_mode():
            for start in range(0, len(order), AT_ONCE):
                rows = order[start : start + AT_ONCE]
                found[rows] = embed(rows).cpu().numpy()
        return found


class ClipImages(HuggingFaceModel):
    """``clip:FOLDER`` for images: what a CLIP compares with texts, at unit length."""

    name, needs = "clip", ("image processor", PROCESSOR)

    @cached_property
    def dim(self) -> int:
        """Dimension of a feature."""
        self.prepare(Image.new("RGB", (8, 8)))  # reads the processor once, before the threads that read images
        return super().dim

    @cached_property
    def _processor(self) -> Any:
        return self._read("AutoImageProcessor", backend="pil")  # whether torchvision is there or not

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """Resize, crop and scale an image as the folder says: (3, height, width)."""
        with self._usable():
            return np.asarray(self._processor(images=image, return_tensors="np")["pixel_values"][0], np.float32)

    def embed(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Embed (B, 3, height, width) prepared images: (B, dim)."""

        def embed(rows: NDArray[np.intp]) -> Tensor:
            pixels = torch.from_numpy(batch[rows]).to(self._model.device)
            return normalize(self._model.get_image_features(pixel_values=pixels).pooler_output)

        return self._in_batches(np.arange(len(batch)), embed)


class HuggingFaceTexts(HuggingFaceModel):
    """A model that embeds texts."""

    needs = ("tokenizer", TOKENIZER)
    _lower, _longest = False, None

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizer, config = self._read("AutoTokenizer", padding_side="right"), self._model.config.get_text_config()
        last = max(tokenizer.get_vocab().values())
        if last >= config.vocab_size:
            raise BadInput(
                f"the tokenizer in {self._path} is not the model's, as it has a token number {last:,} and the model "
                f"takes {config.vocab_size:,} tokens: add the model's own"
            )
        limits = self._longest, tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)
        tokenizer.model_max_length = int(min(limit for limit in limits if limit))
        return tokenizer

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts independently of each other, in batches of similar length: (n, dim)."""
        texts = [text.strip().lower() if self._lower else text.strip() for text in texts]
        with self._usable():
            lengths = [len(ids) for ids in self._tokenizer(texts)["input_ids"]] if texts else []
        limit, is_siglip = self._tokenizer.model_max_length, self._model.config.model_type.startswith("siglip")
        if cut := sum(length > limit for length in lengths):
            say(f"{cut:,} of {len(texts):,} texts are cut after {limit} tokens, which is all that the model takes")
        padding = "max_length" if is_siglip else "longest"  # SigLIP learned from texts of one length, without a mask

        def embed(rows: NDArray[np.intp]) -> Tensor:
            some = [texts[row] for row in rows]
            tokens = self._tokenizer(some, padding=padding, truncation=True, return_tensors="pt")
            return self._pooled(tokens.to(self._model.device))

        return self._in_batches(np.argsort(lengths, kind="stable"), embed)

    @abstractmethod
    def _pooled(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Embed a batch of padded texts: (B, dim)."""


class ClipTexts(HuggingFaceTexts):
    """``clip:FOLDER`` for texts: what a CLIP compares with images, at unit length."""

    name = "clip"

    def _pooled(self, tokens: Mapping[str, Tensor]) -> Tensor:
        return normalize(self._model.get_text_features(**tokens).pooler_output)


@dataclass
class SentenceEncoder(HuggingFaceTexts):
    """``transformers:FOLDER[pooling=mean]``: a sentence encoder, used as sentence-transformers uses it.

    Features have unit length where modules.json says so, and where there is no modules.json.

    Attributes:
        pooling: the mean of the last layer over the tokens, or its first token (`cls`); by default what
            1_Pooling/config.json says, or else the mean.  Other fields as for `HuggingFaceModel`.

    Raises:
        BadInput: as for `HuggingFaceModel`, or the folder asks for a step that is not supported.
    """

    pooling: Literal["mean", "cls"] | None = None
    name = "transformers"

    def __post_init__(self) -> None:
        super().__post_init__()
        with self._usable():  # an error if a file holds anything else
            steps = [step["type"].rpartition(".")[2] for step in self._json("modules.json") or ()]
            pooled, settings = self._json("1_Pooling/config.json"), self._json("sentence_bert_config.json")
            modes = [_MODES.get(key, key) for key, on in pooled.items() if key.startswith("pooling_mode_") and on]
            self._mode = str(self.pooling or pooled.get("pooling_mode") or "+".join(modes) or "mean")
            self._unit, self._lower = not steps or "Normalize" in steps, bool(settings.get("do_lower_case"))
            self._longest = settings.get("max_seq_length")
            prompt = self._json("config_sentence_transformers.json").get("default_prompt_name")
        others = [step for step in (*steps, self._mode, prompt or "mean") if step not in _SUPPORTED]
        if others:
            raise BadInput(f"{self._path} asks for '{others[0]}', which is not supported: use onnx:FILE of all of it")

    def identity(self) -> Mapping[str, Any]:
        options = {"pooling": self._mode, "unit": self._unit, "lower": self._lower, "longest": self._longest}
        return {**super().identity(), **options}

    def _json(self, name: str) -> Any:
        path = self._path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _pooled(self, tokens: Mapping[str, Tensor]) -> Tensor:
        states, mask = self._model(**tokens).last_hidden_state, tokens["attention_mask"][:, :, None]
        found = states[:, 0] if self._mode == "cls" else (states * mask).sum(dim=1) / mask.sum(dim=1)
        return normalize(found) if self._unit else found
