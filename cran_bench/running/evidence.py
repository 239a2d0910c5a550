"""Contrasts and judgments of a test split: what a fitted method is asked beside ranking its images and texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cran_bench.contract import Method
from cran_bench.contrasts import NO_PARTNER, Contrasts
from cran_bench.dataset import Collection, FolderImages
from cran_bench.embeddings import Embedding, as_levels, on_device, require_finite
from cran_bench.errors import BadInput, did_you_mean
from cran_bench.frontend.text.blind import Blind, blind_scores
from cran_bench.frontend.text.encoding import TextFeatures, captions_of, encode, encoded_at
from cran_bench.frontend.text.swaps import make_swaps
from cran_bench.frontend.text.words import TextFrontEnd
from cran_bench.judgments import Judgments
from cran_bench.machine.arithmetic import in_full_precision, reproducible
from cran_bench.machine.progress import say
from cran_bench.ranking.agreement import agree
from cran_bench.ranking.contrasted import NOT_CROSSED, Contrasted, halves
from cran_bench.ranking.metrics import Direction, Ranks
from cran_bench.ranking.problem import make_problem
from cran_bench.ranking.recorded import RecordedRanks
from cran_bench.ranking.relevance import Retrieved
from cran_bench.ranking.retrieval import retrieve
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
    if spec == "":
        return None
    parsed = parse_spec(str(spec))
    if parsed.name != "swap" or parsed.argument or not {*parsed.options} <= {"seed"}:
        what = f"--contrasts makes contrasts of the test captions by swap or swap[seed=1], not by '{spec}'"
        raise BadInput(what + did_you_mean(parsed.name, ["swap"]))
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
    return own.take(np.argsort(test_positions(collection)[0][own.image], kind="stable"))


def test_positions(collection: Collection) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N,) the position of each image of a collection in its test split, and (T,) of each caption; -1 for others."""
    rows = collection.splits["test"]
    places = np.full(len(collection.images.ids), -1), np.full(len(collection.captions), -1)
    for place, some in zip(places, (rows, captions_of(collection.image_of, rows)[0]), strict=True):
        place[some] = np.arange(len(some))
    return places


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
        images = FolderImages(Path(), [f"block {block}" for block in range(owners[-1] + 1)])  # which nothing reads
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

    def measured(
        self,
        method: Method,
        test: Split,
        words: TextFrontEnd | None,
        images: Embedding,
        texts: Embedding,
        ranks: Ranks,
        label: str,
    ) -> tuple[RecordedRanks, list[HardContrast] | None]:
        """Ask a fitted method for its contrasts and judgments.

        Args:
            method: the method.
            test: the test split, with captions.
            words: the text front end through which the method read its training texts.
            images: N embeddings of its images.
            texts: T embeddings of its captions.
            ranks: their ranks on the whole split.
            label: the method's label.

        Returns:
            The ranks with the answers, and the contrasts that the method gets most wrong, None without any contrasts.

        Raises:
            BadInput: a score is not finite.
        """
        answers, collection = RecordedRanks(**vars(ranks)), self._collection
        hard: list[HardContrast] | None = None
        if self.contrasts is not None:
            try:
                contrasted, (true, false) = self._contrasted(method, test.image_of.device, words, images)
            except MissingFeature as error:
                say(f"{label} has no contrasts, as it cannot encode new captions: {error}")
            else:
                answers = replace(answers, contrasts=contrasted)
                is_wrong = (contrasted.text == 0) & (contrasted.balanced == 1)  # beyond rounding
                hard = find_hard_contrasts(collection.images.ids, self.contrasts, true, false, is_wrong)
        if not (collection.relevance or self.judgments):
            return answers, hard
        image, caption = test_positions(collection)
        relevant: dict[str, dict[Direction, Retrieved]] = {}
        with torch.no_grad(), in_full_precision(test.image_of.device):
            problem = make_problem(images, texts, test.image_of, method.similarity)
            for some in collection.relevance:
                relevant[some.name] = {}
                if (right := some.i2t) is not None:
                    pairs = image[right.query], caption[right.answer], right.grade
                    relevant[some.name]["i2t"] = retrieve(problem, *pairs, is_text=False)
                if (right := some.t2i) is not None:
                    pairs = caption[right.query], image[right.answer], right.grade
                    relevant[some.name]["t2i"] = retrieve(problem, *pairs, is_text=True)
            agreements = {
                one.name: agree(problem, image[one.image], caption[one.caption], one.ratings) for one in self.judgments
            }
        return replace(answers, relevant=relevant, agreements=agreements), hard

    def _contrasted(
        self, method: Method, device: torch.device, words: TextFrontEnd | None, images: Embedding
    ) -> tuple[Contrasted, NDArray[np.float64]]:
        """The outcomes, and the (2, P) scores of the true and of the false captions."""
        pairs, levels = self.contrasts, as_levels(images)
        assert pairs is not None
        position = test_positions(self._collection)[0][pairs.image]
        features, encoded = self.data.tested.features, self.encoded
        asked = Split("test", "captions", self.captions, features, words, device, encoded=encoded)
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
        half = np.flatnonzero(pairs.partners != NO_PARTNER)
        other = pairs.partners[half]
        crossed[half] = halves(true[half] - false[other], errors[0, half] + errors[1, other])
        blind = self.blind
        none = np.zeros(len(pairs))
        outcomes = Contrasted(
            tuple(pairs.kinds),
            position.astype(np.int32),
            pairs.kind.astype(np.uint8),
            text,
            crossed,
            pairs.partners.astype(np.int32),
            halves(blind.first, none),
            halves(blind.second, none),
            blind.balanced.astype(np.uint8),
            blind.same_words.astype(np.uint8),
        )
        return outcomes, scores


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
