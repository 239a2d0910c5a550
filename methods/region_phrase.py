"""Region-phrase CCA: the phrases of a caption are compared with the regions of an image, beside both as wholes.

    D(I, S) = alpha cos(I, S) + (1 - alpha) / L^g  sum over the L phrases p of S  max over the regions r of I  cos(r, p)

Both cosines are those of a CCA with projections weighted by the correlations, as in `cca` and `gmm-hglmm`: one of
images and captions, and one whose samples are pairs of a phrase and its box, at most ten for each distinct phrase, as
otherwise a few phrases such as "a man" would make up most of the covariance.  B. A. Plummer, L. Wang, C. M. Cervantes,
J. C. Caicedo, J. Hockenmaier, S. Lazebnik, "Flickr30k Entities: collecting region-to-phrase correspondences for richer
image-to-sentence models", ICCV 2015 and IJCV 2017, who find that what helps to locate phrases hardly helps retrieval.

The published pairs are annotated (`boxes=annotated`, for `flickr30k[phrases=true]`).  The several boxes of a phrase are
merged to one, and here the region of the image that overlaps it most stands for it, if their intersection over union is
at least 1/2; other pairs are left out.  `boxes=assigned`, the default of `tuned`, is a weak form for data without
annotations and not the published method: every noun chunk of a caption starts as a pair with the mean of the image's
regions, and CCA is fitted again, three times, on each chunk and the region that is most similar to it.  For retrieval,
the phrases of every caption are its noun chunks; a caption without any is its own phrase.

Memory: the covariances of `cca` or `gmm-hglmm`, the regions of a block of pairs, and the phrases of the validation
texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cran_bench import BadInput, Levels, Pairwise, Part, Run, Split, register
from cran_bench.toolbox.linalg import canonical_correlations, covariance_bytes, moments, spectral_norm
from cran_bench.toolbox.states import below, with_prefix

from ._codes import at_least
from ._linear import ImageScaling, scaled
from .cca import CCA
from .gmm_hglmm import GMMHGLMM

UNSAID = {"a", "an", "the", "some", "this", "that", "these", "those", "my", "your", "his", "her", "its", "our", "their"}
"""Words that annotated phrases are freed of, as noun chunks are without them."""
OVERLAP = 0.5  # least intersection over union of an annotated box and the region that stands for it
BLOCK = 256  # pairs whose regions are read at once
TILE = 64, 64  # images and texts that are compared at once
FISHER = 20_000  # more coordinates than HGLMM Fisher vectors of 30 components have
PHRASE_BYTES = 400  # memory for a phrase of a training text, with the keys by which pairs are told apart
SHARE = 0.99  # of the training texts of which every phrase is read


class Pairs(NamedTuple):
    """Phrases, each with an image and a region of it.

    Attributes:
        phrases: n phrases.
        images: (n,) int64, positions in the split, in non-decreasing order.
        regions: (n,) int64, the region's position in the image, or -1 for the mean of its regions.
    """

    phrases: list[str]
    images: Tensor
    regions: Tensor

    def drawn(self, most: int, seed: int) -> Pairs:
        """At most `most` different pairs of each phrase, drawn at random."""
        keys = zip(self.phrases, self.images.tolist(), self.regions.tolist(), strict=True)
        distinct = [*{key: place for place, key in enumerate(keys)}.values()]
        taken: Counter[str] = Counter()
        kept = []
        for place in np.random.default_rng(seed).permutation(distinct).tolist():
            taken[self.phrases[place]] += 1
            if taken[self.phrases[place]] <= most:
                kept.append(place)
        rows = torch.tensor(sorted(kept), device=self.images.device)
        return Pairs([self.phrases[place] for place in rows.tolist()], self.images[rows], self.regions[rows])


def longest_of(train: Split) -> int:
    """Number of phrases beyond which a text's are left out, so that few long texts do not set the memory for all."""
    counts = sorted(map(len, train.phrases))
    return counts[int(SHARE * (len(counts) - 1))]


def bare(phrase: str) -> str:
    """The phrase in lower case, without articles and possessives unless it has no other words."""
    words = phrase.lower().split()
    return " ".join([word for word in words if word not in UNSAID] or words)


def overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union, (n, R), of boxes (n, R, 4) with one other each, (n, 4); x0 y0 x1 y1."""
    others = others[:, None]
    sides = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    both = sides.clamp_min(0).prod(dim=2)
    areas = [(x[..., 2:] - x[..., :2]).prod(dim=2) for x in (boxes, others)]
    return both / (areas[0] + areas[1] - both).clamp_min(1e-12)


def existing(split: Split) -> Tensor:
    """(N, R) bool, the regions that exist; those of an image without any are the whole image."""
    mask = split.region_mask
    return torch.where(mask.any(dim=1, keepdim=True), mask, True)


@register(
    "region-phrase",
    presets={
        "paper": {"boxes": "annotated", "text": "hglmm", "image": "l2", "ridge": 1e-4, "dim": 4096},
        "tuned": {},
        "quick": {"rounds": 1, "dim": 32},
    },
    search={"image": ("sqrt", "l2", "none"), "ridge": (1e-4, 1e-3, 1e-2, 5e-2), "dim": (64, 128, 256, 512)},
)
@dataclass
class RegionPhrase:
    """Region-phrase CCA.

    Attributes:
        boxes: the pairs of a phrase and a region that are learned from: `annotated`, or `assigned` without annotations.
        text: what texts and phrases are: `hglmm` for Fisher vectors as in `gmm-hglmm`, where both CCAs have the
            constants below; `tfidf` or mean word vectors (`vectors`) as in `cca`, which is then the CCA of images and
            captions, with constants chosen on validation.
        image: scaling of features: unit length (`l2`), unit length of their signed square roots (`sqrt`), or `none`.
        ridge: ridge of both views of phrases and regions, as a fraction of the largest variance of each.
        dim: dimensions kept, at most the rank.
        per_phrase: number of pairs of a phrase that are learned from, drawn at random.
        rounds: how often regions are assigned to phrases and CCA is fitted again.
        alpha: weight of the whole image and caption.
        exponent: g, of the number of phrases; with 0 long captions have larger scores, with 1 phrases are averaged.
    """

    boxes: Literal["annotated", "assigned"] = "assigned"
    text: Literal["hglmm", "tfidf", "vectors"] = "tfidf"
    image: ImageScaling = "sqrt"
    ridge: float = 1e-2
    dim: int = 128
    per_phrase: int = 10
    rounds: int = 3
    alpha: tuple[float, ...] = (0.7, 0.8, 0.9, 0.95)
    exponent: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5)

    def __post_init__(self) -> None:
        at_least(self, 0, "ridge", "rounds")
        at_least(self, 1, "dim", "per_phrase")
        if min(self.alpha) < 0 or max(self.alpha) > 1 or min(self.exponent) < 0:
            raise ValueError("alpha is from 0 to 1, and exponent at least 0")
        self.weights = self.alpha[len(self.alpha) // 2], self.exponent[len(self.exponent) // 2]

    def of_wholes(self) -> CCA | GMMHGLMM:
        """The CCA of images and captions, unfitted."""
        if self.text != "hglmm":
            return CCA(image=self.image, text=self.text)
        return GMMHGLMM(
            models="hglmm",
            image=self.image,
            fisher_dim=FISHER,
            dim=(self.dim,),
            power=(1.0,),
            ridge_image=(self.ridge,),
            ridge_text=(self.ridge,),
        )

    def parts(self) -> Sequence[Part]:
        return [self.of_wholes()]

    @property
    def similarity(self) -> Pairwise:
        return Pairwise(self.score, tile=TILE)

    def score(self, images: Levels, texts: Levels) -> Tensor:
        """(I, T) scores D; in float64, so that a score does not depend on the tile."""
        alpha, exponent = self.weights
        assert images.globals is not None and images.regions is not None and images.mask is not None
        assert texts.globals is not None and texts.regions is not None and texts.mask is not None
        regions, phrases = images.regions.double(), texts.regions.double()
        cosines = regions.flatten(0, 1) @ phrases.flatten(0, 1).T
        cosines = cosines.view(*images.mask.shape, -1).masked_fill(~images.mask[:, :, None], -torch.inf)
        best = cosines.amax(dim=1).view(len(regions), *texts.mask.shape).masked_fill(~texts.mask, 0.0)
        phrased = best.sum(dim=2) / texts.mask.sum(dim=1).double() ** exponent
        return (alpha * (images.globals.double() @ texts.globals.double().T) + (1 - alpha) * phrased).float()

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Fit the CCA of wholes, as a part, then that of pairs, and choose g and then alpha."""
        self.whole = run.part(self.of_wholes())
        self.longest = longest_of(train)
        annotated = self.boxes == "annotated"
        pairs = (self.annotated(train) if annotated else self.mentioned(train)).drawn(self.per_phrase, run.seed)
        asked, rounds = train.asking(pairs.phrases), 1 if annotated else 1 + self.rounds
        for step in run.progress(range(rounds), "region-phrase CCA", rounds):
            if step:
                pairs = pairs._replace(regions=self.nearest(train, asked, pairs))
            self.correlate(train, asked, pairs, run)
        run.chose(pairs=len(pairs.phrases))
        self.choose(val, run)

    def annotated(self, train: Split) -> Pairs:
        """Annotated phrases, with the regions that overlap their boxes most."""
        phrases, images, given = train.phrase_boxes
        boxes, exist = train.boxes, existing(train)
        shares = [
            overlap(boxes[rows], box).masked_fill(~exist[rows], 0.0).max(dim=1)
            for rows, box in zip(torch.split(images, BLOCK), torch.split(given, BLOCK), strict=True)
        ]
        values, regions = (torch.cat(x) for x in zip(*shares, strict=True))
        kept = (values >= OVERLAP).nonzero().flatten()
        if len(kept) < 2:
            raise BadInput(
                f"{len(kept)} of {len(phrases):,} annotated boxes overlap a region by {OVERLAP} or more: use a "
                "detector that proposes more regions, or boxes=assigned"
            )
        return Pairs([bare(phrases[row]) for row in kept.tolist()], images[kept], regions[kept])

    def mentioned(self, train: Split) -> Pairs:
        """The phrases of all captions, with the mean of the image's regions."""
        images = [image for image, own in zip(train.image_of.tolist(), train.phrases, strict=True) for _ in own]
        phrases = [phrase for own in train.phrases for phrase in own]
        rows = torch.tensor(images, device=train.image_of.device)
        return Pairs(phrases, rows, torch.full_like(rows, -1))

    def blocks(self, split: Split, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (b, R, p) scaled regions and (b, R) which exist, of blocks of images."""
        exist = existing(split)
        for rows in torch.split(images, BLOCK):
            yield scaled(split.region_rows[rows], self.image), exist[rows]

    def correlate(self, train: Split, asked: Split, pairs: Pairs, run: Run) -> None:
        """Ridge CCA of pairs, of which `asked` has the phrases as texts."""

        def chosen() -> Iterator[Tensor]:
            for (v, exist), own in zip(
                self.blocks(train, pairs.images), torch.split(pairs.regions, BLOCK), strict=True
            ):
                mean = (v * exist[:, :, None]).sum(dim=1) / exist.sum(dim=1, keepdim=True)
                one = v[torch.arange(len(v), device=v.device), own]
                yield torch.where(own[:, None] < 0, mean, one)

        self.pairs = copy(self.whole)
        C = moments(chosen(), self.pairs.text_view(asked), torch.arange(len(pairs.phrases)))
        C.require_varied()
        self.pairs.centre(C.mean_x, C.mean_y, run)
        rx, ry = (self.ridge * spectral_norm(M) for M in (C.xx, C.yy))
        Wx, Wy, rho = canonical_correlations(C, rx, ry, self.dim)
        self.pairs.Wx, self.pairs.Wy, self.pairs.spectrum = (
            torch.from_numpy(np.ascontiguousarray(x)).to(run.device) for x in (Wx * rho, Wy * rho, rho)
        )

    def project(self, regions: Tensor) -> Tensor:
        """(..., k) unit vectors of scaled regions (..., p)."""
        return normalize(((regions.double() - self.pairs.mean_x) @ self.pairs.Wx).float(), dim=-1)

    def nearest(self, split: Split, asked: Split, pairs: Pairs) -> Tensor:
        """(n,) int64, for each phrase the region of its image with the largest cosine."""
        phrases = normalize(self.pairs.embed_texts(asked), dim=1)
        best = [
            (self.project(v) @ own[:, :, None])[:, :, 0].masked_fill(~exist, -torch.inf).argmax(dim=1)
            for (v, exist), own in zip(self.blocks(split, pairs.images), torch.split(phrases, BLOCK), strict=True)
        ]
        return torch.cat(best)

    def choose(self, val: Split, run: Run) -> None:
        """Choose g at the alpha in the middle of the candidates, then alpha."""
        images, texts = self.embed_images(val), self.embed_texts(val)
        middle = self.weights[0]

        def best_of(candidates: list[tuple[float, float]], what: str) -> tuple[float, float]:
            scores = []
            for self.weights in run.progress(candidates, f"choosing {what}", len(candidates)):
                scores.append(run.score(images, texts).criterion)
            return candidates[scores.index(max(scores))]

        _, exponent = best_of([(middle, g) for g in self.exponent], "the exponent")
        self.weights = best_of([(alpha, exponent) for alpha in self.alpha], "the weights")
        run.chose(alpha=self.weights[0], exponent=exponent)

    def embed_images(self, split: Split) -> Levels:
        """Whole images (N, k) and their regions (N, R, k)."""
        blocks = self.blocks(split, torch.arange(len(split), device=split.image_of.device))
        regions = torch.cat([self.project(v) for v, _ in blocks])
        return Levels(globals=normalize(self.whole.embed_images(split), dim=1), regions=regions, mask=existing(split))

    def embed_texts(self, split: Split) -> Levels:
        """Texts (T, k) and their phrases (T, longest, k)."""
        phrases = [own[: self.longest] for own in split.phrases]
        place = {phrase: row for row, phrase in enumerate(sorted({*chain(*phrases)}))}
        vectors = normalize(self.pairs.embed_texts(split.asking([*place])), dim=1)
        rows = torch.tensor([[place[p] for p in own] + [-1] * (self.longest - len(own)) for own in phrases])
        rows = rows.to(vectors.device)
        mask = rows >= 0
        sets = vectors[rows] * mask[:, :, None]
        return Levels(globals=normalize(self.whole.embed_texts(split), dim=1), regions=sets, mask=mask)

    def memory(self, train: Split) -> int:
        """Bytes of the larger CCA, regions, phrases, and vectors of validation phrases, about a sixth of those here."""
        whole, (count, dim) = self.of_wholes(), train.region_shape
        own = covariance_bytes(dim, whole.text_dim(train)) + 24 * BLOCK * count * dim + train.region_rows.held
        sets = 8 * len(train.texts) // 6 * longest_of(train) * min(self.dim, dim)
        return max(whole.memory(train), own) + sets + PHRASE_BYTES * sum(map(len, train.phrases))

    def state(self) -> dict[str, Tensor]:
        """Both CCAs, alpha and g, and the number of phrases that are read of a text."""
        own = {"weights": torch.tensor(self.weights, dtype=torch.float64), "longest": torch.tensor(self.longest)}
        return {**own, **with_prefix("pairs", self.pairs.state()), **with_prefix("whole", self.whole.state())}

    def load(self, state: dict[str, Tensor]) -> None:
        alpha, exponent = state["weights"].tolist()
        self.weights, self.longest = (alpha, exponent), int(state["longest"])
        self.whole, self.pairs = self.of_wholes(), self.of_wholes()
        self.whole.load(below("whole", state))
        self.pairs.load(below("pairs", state))
