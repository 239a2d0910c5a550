"""Contrasts and judgments of a test split: what a fitted method is asked beside ranking its images and texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cran_bench.contract import Method
from cran_bench.contrasts import NO_PARTNER, Contrasts
from cran_bench.dataset import Collection, ImageSource
from cran_bench.embeddings import Embedding, as_levels, on_device, require_finite
from cran_bench.errors import BadInput, did_you_mean
from cran_bench.frontend.text.blind import Blind, blind_scores
from cran_bench.frontend.text.encoding import TextFeatures, captions_of, encode, encoded_at
from cran_bench.frontend.text.swaps import make_swaps
from cran_bench.judgments import Judgments, Qrels
from cran_bench.machine.arithmetic import in_full_precision, reproducible
from cran_bench.machine.progress import say
from cran_bench.machine.storage import sha256_json
from cran_bench.protocols import Unit
from cran_bench.ranking.agreement import agree, correlations
from cran_bench.ranking.contrasted import NOT_CROSSED, Contrasted, halves
from cran_bench.ranking.metrics import Direction, Ranks
from cran_bench.ranking.problem import make_problem
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.ranking.relevance import Retrieved
from cran_bench.ranking.retrieval import figures, own_r1, retrieve
from cran_bench.records.examples import HardContrast, find_hard_contrasts
from cran_bench.running.preparation import Prepared
from cran_bench.similarity import Similarity, one_way
from cran_bench.specs import parse_spec
from cran_bench.split import MissingFeature, Split

BLOCK = 2048  # contrasts that are encoded and scored at a time


def parse_contrasts(spec: str) -> int | None:
    """Parse the contrasts to make of a dataset's captions: '' for none, ``swap`` or ``swap[seed=1]``; return the seed.

    Raises:
        BadInput: the spec is another.
    """
    if not spec:
        return None
    parsed = parse_spec(spec)
    if parsed.name != "swap" or parsed.argument or not {*parsed.options} <= {"seed"}:
        known = did_you_mean(parsed.name, ["swap"])
        what = f"--contrasts makes contrasts of the test captions by swap or swap[seed=1], not by '{spec}'"
        raise BadInput(what + known)
    seed = parsed.options.get("seed", "0")
    if not (seed.isascii() and seed.isdecimal() and len(seed) < 10):
        raise BadInput(f"the seed of --contrasts is a whole number from 0, such as swap[seed=1], not '{seed}'")
    return int(seed)


def swapped(collection: Collection, seed: int) -> Contrasts:
    """Contrasts made of the test captions of a collection by the rules of `cran_bench.frontend.text.swaps`.

    Raises:
        BadInput: the texts are features, or no caption gives a contrast.
    """
    if not collection.has_words:
        raise BadInput(f"the texts of {collection.name} are features: leave --contrasts out")
    rows = collection.splits["test"]
    captions, _ = captions_of(collection.image_of, rows)
    texts = [collection.captions[row] for row in captions.tolist()]
    made = make_swaps(texts, seed)
    if not len(made.caption):
        raise BadInput(f"no test caption of {collection.name} gives a contrast by swap: leave --contrasts out")
    image = collection.image_of[captions[made.caption]]
    return Contrasts(image, [texts[k] for k in made.caption.tolist()], made.false, made.kind, made.kinds)


def contrasts_of(collection: Collection, spec: str) -> Contrasts | None:
    """The contrasts that come with a collection, then those made; in the order of their images, or None."""
    own, seed = collection.contrasts, parse_contrasts(spec)
    if seed is not None:
        made = swapped(collection, seed)
        own = own.and_also(made) if own else made
    if not own:
        return None
    position = np.empty(len(collection.images.ids), dtype=np.int64)
    position[collection.splits["test"]] = np.arange(len(collection.splits["test"]))
    return own.take(np.argsort(position[own.image], kind="stable"))


@dataclass(frozen=True)
class Evidence:
    """The contrasts and judgments of the test split of some data.

    Attributes:
        data: the data, and what its methods are fitted on.
        spec: contrasts to make of the test captions, as `parse_contrasts` takes them.
        cache: folder of the features of their captions.
    """

    data: Prepared
    spec: str
    cache: Path

    @property
    def _collection(self) -> Collection:
        return self.data.tested.collection

    @cached_property
    def contrasts(self) -> Contrasts | None:
        """All contrasts, in the order of their images; None without any."""
        return contrasts_of(self._collection, self.spec)

    @cached_property
    def shas(self) -> dict[str, str]:
        """The sha256 of contrasts and judgments, by the fields of `DataInfo`, where there are any."""
        pairs, judged = self.contrasts, self._collection.judgments_sha()
        made = {"contrasts": self.spec, "contrasts_sha": pairs.sha(self._collection.images.ids)} if pairs else {}
        return {name: sha for name, sha in {**made, "judgments_sha": judged}.items() if sha}

    @cached_property
    def judgments(self) -> list[Judgments]:
        """The ratings, without those that are of captions with their own images only, which have no correlations."""
        found, image_of = [], self._collection.image_of
        for one in self._collection.judgments:
            if (image_of[one.caption] != one.image).any():
                found.append(one)
            else:
                say(f"{one.name} has no correlations, as every caption is rated with its own image only")
        return found

    @cached_property
    def blind(self) -> Blind:
        """What text-only models, fitted on the training captions, make of the contrasts."""
        assert self.contrasts
        of = self.data.collection
        train, val = (of.captions_of(of.splits[split])[0] if of.has_words else [] for split in ("train", "val"))
        return blind_scores(self.contrasts, train, val) if train else Blind.unknown(self.contrasts)

    @cached_property
    def captions(self) -> Collection:
        """The captions of the contrasts as a collection, whose images are blocks of contrasts."""
        assert self.contrasts
        texts: list[str] = []
        owners: list[int] = []
        for block in range(-(-len(self.contrasts) // BLOCK)):
            own = dict.fromkeys((*self._block(self.contrasts.true, block), *self._block(self.contrasts.false, block)))
            texts += own
            owners += [block] * len(own)
        name = f"the contrasts of {self._collection.name}"
        images = _NoImages([f"block {block}" for block in range(owners[-1] + 1)])
        return Collection(name, images, texts, np.array(owners), {"test": np.arange(len(images.ids))})

    @cached_property
    def encoded(self) -> TextFeatures | None:
        """The features of these captions by the data's text encoder; None if there is none for new captions."""
        texts = self.data.tested.texts
        if texts is None or self.contrasts is None:
            return None
        if texts.encoder is None:
            return encoded_at(self.captions, texts.manifest.identity, self.cache)
        return encode(self.captions, texts.encoder, texts.manifest.encoder, self.cache)

    @staticmethod
    def _block(texts: Sequence[str], block: int) -> Sequence[str]:
        return texts[block * BLOCK : (block + 1) * BLOCK]

    @staticmethod
    def _position(collection: Collection, of_captions: bool = False) -> NDArray[np.int64]:
        """The position in the test split of each image, or caption, of a collection; -1 for others."""
        test = collection.splits["test"]
        rows = captions_of(collection.image_of, test)[0] if of_captions else test
        position = np.full(len(collection.captions if of_captions else collection.images.ids), -1, dtype=np.int64)
        position[rows] = np.arange(len(rows))
        return position

    def measured(
        self, method: Method, test: Split, fit_unit: Unit, images: Embedding, texts: Embedding, ranks: Ranks, label: str
    ) -> tuple[RecordedRanks, dict[str, float], list[HardContrast]]:
        """What contrasts and judgments say of a fitted method, added to its ranks; figures by name; hard contrasts.

        Args:
            method: the method.
            test: the test split, with captions.
            fit_unit: the unit whose training texts gave the method's words.
            images: N embeddings of its images.
            texts: T embeddings of its captions.
            ranks: their ranks.
            label: the method's label.

        Raises:
            BadInput: a score is not finite.
        """
        values: dict[str, float] = {}
        hard: list[HardContrast] = []
        answers, collection = RecordedRanks(**vars(ranks)), self._collection
        if self.contrasts is not None:
            try:
                contrasted, hard = self._contrasted(method, test, fit_unit, images)
            except MissingFeature as error:
                say(f"{label} has no contrasts, as it cannot encode new captions: {error}")
            else:
                answers, values = replace(answers, contrasts=contrasted), contrasted.figures()
        if not (collection.relevance or self.judgments):
            return answers, values, hard
        with torch.no_grad(), in_full_precision(test.image_of.device):
            problem = make_problem(images, texts, test.image_of, method.similarity)
            image, caption = self._position(collection), self._position(collection, of_captions=True)
            relevant: dict[str, dict[Direction, Retrieved]] = {}
            for some in collection.relevance:
                ways: list[tuple[Direction, Qrels | None]] = [("i2t", some.i2t), ("t2i", some.t2i)]
                for way, right in ways:
                    if right is not None:
                        sides = (image, caption) if way == "i2t" else (caption, image)
                        query, answer = sides[0][right.query], sides[1][right.answer]
                        found = retrieve(problem, query, answer, right.grade, is_text=way == "t2i")
                        relevant.setdefault(some.name, {})[way] = found
                        values[f"{some.name}.{way}_own_r1"] = own_r1(getattr(ranks, way), found)
                values |= {f"{some.name}.{figure}": value for figure, value in figures(relevant[some.name]).items()}
            agreements = {
                one.name: agree(problem, image[one.image], caption[one.caption], one.ratings) for one in self.judgments
            }
        for name, agreement in agreements.items():
            values |= {f"{name}.{figure}": value for figure, value in correlations(agreement, ranks.image_of).items()}
        return replace(answers, relevant=relevant, agreements=agreements), values, hard

    def _contrasted(
        self, method: Method, test: Split, fit_unit: Unit, images: Embedding
    ) -> tuple[Contrasted, list[HardContrast]]:
        pairs, device, levels = self.contrasts, test.image_of.device, as_levels(images)
        assert pairs is not None
        position = self._position(self._collection)[pairs.image]
        asked = Split(
            "test",
            "captions",
            self.captions,
            self.data.tested.features,
            self.data.text(fit_unit),
            device,
            encoded=self.encoded,
        )
        similarity = one_way(method.similarity, for_images=True)
        scores, errors = np.empty((2, len(pairs))), np.empty((2, len(pairs)))  # true, false
        for block in range(len(asked)):
            part = asked.take(np.array([block]))
            place = {text: row for row, text in enumerate(part.texts)}
            own = slice(block * BLOCK, (block + 1) * BLOCK)
            with reproducible(device), torch.inference_mode():
                texts = on_device(method.embed_texts(part), device)
            require_finite(texts, "embed_texts")
            shown, owner = np.unique(position[own], return_inverse=True)
            columns = [[place[text] for text in self._block(side, block)] for side in (pairs.true, pairs.false)]
            some = levels.rows(torch.from_numpy(shown).to(device))
            both = as_levels(texts).rows(torch.tensor(columns, device=device).flatten())
            scores[:, own], errors[:, own] = _scored(some, both, np.tile(owner, 2), similarity, device)
        true, false = scores
        text = halves(true - false, errors.sum(axis=0))
        crossed = np.full(len(pairs), NOT_CROSSED, dtype=np.uint8)
        partner = np.full(len(pairs), NO_PARTNER) if pairs.partner is None else pairs.partner
        half = np.flatnonzero(partner != NO_PARTNER)
        other = partner[half]
        crossed[half] = halves(true[half] - false[other], errors[0, half] + errors[1, other])
        blind = self.blind
        none = np.zeros(len(pairs))
        contrasted = Contrasted(
            tuple(pairs.kinds),
            position.astype(np.int32),
            pairs.kind.astype(np.uint8),
            text,
            crossed,
            partner.astype(np.int32),
            halves(blind.first, none),
            halves(blind.second, none),
            blind.balanced.astype(np.uint8),
            blind.same_words.astype(np.uint8),
        )
        return contrasted, find_hard_contrasts(
            self._collection.images.ids, pairs, true, false, blind.balanced & (text == 0)
        )


def embedding_error(dim: int) -> float:
    """Bound the error of a score that comes from float32 embeddings, of unit vectors of any dimension.

    The same words in another order give the same embedding up to the rounding of sums, which decides no contrast.
    """
    return 8 * torch.finfo(torch.float32).eps


def _scored(
    images: Embedding, texts: Embedding, owner: NDArray[np.int64], similarity: Similarity, device: torch.device
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(2, P) scores of P images, each with its true and then its false caption, and bounds on their errors."""
    with torch.no_grad(), in_full_precision(device):
        problem = make_problem(images, texts, torch.from_numpy(owner).to(device), similarity)
        every = torch.arange(len(owner), device=device)
        error: Tensor = problem.reach.of_pairs(problem.image_of, every, embedding_error)
        both = torch.stack([problem.positive, error]).view(2, 2, -1).cpu().numpy()
        return both[0], both[1]


class _NoImages(ImageSource):
    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = ids

    def read(self, row: int) -> Image.Image:
        raise BadInput(f"{self.ids[row]} has no image")

    def digest(self, row: int) -> str:
        return sha256_json(self.ids[row])
