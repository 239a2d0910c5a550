"""Dual-path embedding with instance loss: every training image is a class of its own (Zheng et al., 2017).

    L_instance = CE(W' f_img, i) + CE(W' f_txt, i)

    L_ranking = sum over pairs (i, t):  [m - s(i, t) + s(i, t-)]_+  +  [m - s(i, t) + s(i-, t)]_+

where f_img and f_txt are the embeddings of image i and of one of its texts, W (D, n) is a classifier of the n training
images that both paths share, and s the cosine.  Stage I minimises L_instance, stage II a weighted sum of both.  With
`negatives=mined`, as in the authors' release, the first half of a batch are pairs (i, t) in stage II; the images of the
second half are their random negatives i-, and the texts of the second half their hard ones: t- is the most similar to i
of `candidates` texts of images outside the first half, by the network in test mode.  All images and texts of the batch
are classified, as what they are.

f_txt is a residual network over 32 word positions, with batch normalisation after every convolution, over word vectors
that are hardly trained.  Words without a vector are skipped; a text is placed at a random offset in training, and
embedded as the mean of its embeddings at all offsets in the test.  f_img is two layers on frozen image features.  Tests
compare embeddings before their last ReLU, the losses those after it.

Z. Zheng, L. Zheng, M. Garrett, Y. Yang, M. Xu, Y.-D. Shen, "Dual-path convolutional image-text embeddings with instance
loss", arXiv 1711.05535, 2017 (ACM TOMM 2020), who also train the image network in stage II and embed an image together
with its mirror image, of which frozen features have none: rows are not comparable with the published ones.  Kernels of
two words are padded after the last word; the authors' release pads before the first, by which the last three of 32
positions are lost.  `tuned` has both losses from the start, all negatives of the batch, and AdamW.

Memory: the features of images where they are few, see docs/scaling.md; 264 bytes for each text; for each training
image 20 bytes for each dimension of the embeddings; and 4 MB for each text of a batch, 1 MB if `compact`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, normalize, pad, relu

from cran_bench import COSINE, BadInput, FeatureRows, Run, Split, register, say
from cran_bench.toolbox.kernels import by_blocks, require_varied
from cran_bench.toolbox.losses import margin_loss
from cran_bench.toolbox.training import Training, linear_decay

from ._codes import at_least
from ._linear import ImageScaling, scaled

POSITIONS = 32
BLOCKS = (
    *((128, 256, 1), (64, 256, 1), (64, 256, 1)),
    *((512, 512, 2), (128, 512, 1), (128, 512, 1), (128, 512, 1)),
    *((1024, 1024, 2), *5 * ((256, 1024, 1),)),
    (2048, 2048, 1),
)
"""Inner and outer channels and stride of each residual block: sequences of 32, 16, 8 and 8 positions."""
DIM = 2048
WORD_LR = 1e-3
"""Factor of the learning rate of word vectors."""
ROWS = 1024  # placed texts that are embedded at a time

PAPER = {
    "weights": (2.0, 1.0, 0.1),
    "negatives": "mined",
    "margin": 1.0,
    "image": "none",
    "dropout": 0.75,
    "batch_size": 32,
    "optimiser": "sgd",
    "lr": 0.1,
    "stage1_epochs": 240,
    "epochs": 300,
    "decay_at": 280,
    "patience": 0,
}
"""The constants for Flickr30K; the weights of the losses in stage II are those for MS-COCO."""


def blocks_of(d: int, divisor: int) -> list[tuple[int, int, int, int]]:
    """Channels a, b, c and stride of each residual block, the first of which has d channels as input."""
    inputs = [d, *(outer // divisor for _, outer, _ in BLOCKS[:-1])]
    return [(a, b // divisor, c // divisor, stride) for a, (b, c, stride) in zip(inputs, BLOCKS, strict=True)]


class Block(nn.Module):
    """A residual block over (B, a, L) sequences: convolutions of one, two and one positions, to (B, c, L / stride)."""

    def __init__(self, a: int, b: int, c: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv1d(a, b, 1, bias=False), nn.BatchNorm1d(b), nn.ReLU(inplace=True)),
            *(nn.ConstantPad1d((0, 1), 0.0), nn.Conv1d(b, b, 2, stride, bias=False)),
            *(nn.BatchNorm1d(b), nn.ReLU(inplace=True)),
            nn.Conv1d(b, c, 1, bias=False),
        )
        self.last = nn.BatchNorm1d(c)
        self.shortcut = nn.Sequential(nn.Conv1d(a, c, 1, stride, bias=False), nn.BatchNorm1d(c)) if a != c else None

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.last(self.layers(x)) + (x if self.shortcut is None else self.shortcut(x)))


class DualPath(nn.Module):
    """Both paths.

    Args:
        table: (V, d) word vectors; row 0, of positions without a word, is zero.
        p: dimension of image features.
        divisor: what the channels of `BLOCKS` and `DIM` are divided by.
    """

    def __init__(self, table: Tensor, p: int, divisor: int) -> None:
        super().__init__()
        self.dim = dim = DIM // divisor
        self.words = nn.Embedding(len(table), table.shape[1], padding_idx=0)
        self.words.weight = nn.Parameter(table)
        self.norm = nn.BatchNorm1d(table.shape[1])
        self.blocks = nn.Sequential(*(Block(*sizes) for sizes in blocks_of(table.shape[1], divisor)))
        self.text_out = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.BatchNorm1d(dim))
        self.image_path = nn.Sequential(
            *(nn.Linear(p, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU(inplace=True)),
            *(nn.Linear(dim, dim, bias=False), nn.BatchNorm1d(dim)),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, Block):  # blocks begin as their shortcuts, from which a deep network learns faster
                nn.init.zeros_(module.last.weight)

    def images(self, x: Tensor) -> Tensor:
        """(B, D) embeddings before the last ReLU of (B, P) image features."""
        embedded: Tensor = self.image_path(x)
        return embedded

    def texts(self, ids: Tensor) -> Tensor:
        """(B, D) embeddings before the last ReLU of (B, 32) word ids."""
        x = self.blocks(self.norm(self.words(ids).transpose(1, 2)))
        embedded: Tensor = self.text_out(x.amax(dim=2))
        return embedded


def known_words(ids: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """The first 32 words of each text that have a vector: word ids (T, 32), 0 after the last, and lengths (T,).

    Args:
        ids: (T, L) word ids.
        table: (V, d) the vector of each id, zero for words without one.
    """
    has_vector = table.any(dim=1).index_fill(0, torch.zeros(1, dtype=torch.long, device=table.device), False)
    ids = pad(ids.long(), (0, POSITIONS))
    order = has_vector[ids].logical_not().byte().argsort(dim=1, stable=True)[:, :POSITIONS]
    words = ids.gather(1, order)
    words = words.where(has_vector[words], 0)
    return words, words.ne(0).sum(dim=1)


def placed(words: Tensor, offsets: Tensor) -> Tensor:
    """Move texts, (B, 32) word ids, to the right by (B,) offsets, which become positions without a word."""
    source = torch.arange(POSITIONS, device=words.device) - offsets[:, None]
    return words.gather(1, source.clamp_min(0)).where(source >= 0, 0)


def mined_loss(images: Tensor, texts: Tensor, margin: float) -> Tensor:
    """L_ranking, divided by B, of (B, D) images and texts: B / 2 pairs, then the negatives of each."""
    i, t = normalize(images), normalize(texts)
    half = len(i) // 2
    right = (i[:half] * t[:half]).sum(dim=1)
    wrong = (i[:half] * t[half:]).sum(dim=1), (i[half:] * t[:half]).sum(dim=1)
    return sum((relu(margin - right + scores).sum() for scores in wrong), right.new_zeros(())) / len(i)


class Batch(NamedTuple):
    """B images with a text of each, and K candidates for hard negatives, which are texts of other images.

    Attributes:
        images: (B,) different images.
        ids: (B + K, 32) word ids of the texts.
        owner: (B + K,) image of each text.
        weights: weights of L_ranking and of the two terms of L_instance, of images and of texts.
    """

    images: Tensor
    ids: Tensor
    owner: Tensor
    weights: tuple[float, float, float]


class Objective(nn.Module):
    """Both paths and W, (n, D), for n training images, with the losses of a batch."""

    def __init__(self, paths: DualPath, n: int, method: DualPathMethod) -> None:
        super().__init__()
        self.paths, self.method = paths, method
        self.classifier = nn.Linear(paths.dim, n, bias=False)
        nn.init.normal_(self.classifier.weight, std=1e-3)  # so that at first all classes are as likely

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """The loss, a scalar, of a batch with (B, P) image features."""
        ranking, *instance = batch.weights
        size, rows = len(x), torch.arange(len(x), device=x.device)
        negatives, margin = self.method.negatives, self.method.margin
        is_mined = bool(ranking) and negatives == "mined"
        if is_mined:
            rows = rows[: size // 2]
            x, rows = x[: 2 * len(rows)], torch.cat([rows, size + self.hardest(x[: len(rows)], batch.ids[size:])])
        v, t = relu(self.paths.images(x)), relu(self.paths.texts(batch.ids[rows]))
        total = v.new_zeros(())
        if ranking and negatives != "mined":
            total = total + ranking * margin_loss(normalize(v) @ normalize(t).T, batch.owner[rows], margin, negatives)
        elif ranking:
            total = total + ranking * mined_loss(v, t, margin)
        for weight, f, label in zip(instance, (v, t), (batch.owner[: len(x)], batch.owner[rows]), strict=True):
            if weight:
                logits = self.classifier(dropout(f, self.method.dropout))
                total = total + weight * cross_entropy(logits, label)
        return total

    def hardest(self, x: Tensor, ids: Tensor) -> Tensor:
        """The most similar of K texts, (K, 32) word ids, to each of n images, (n, P) features, in test mode: (n,)."""
        self.eval()
        with torch.no_grad():
            scores = relu(self.paths.images(x)) @ normalize(relu(self.paths.texts(ids))).T
        self.train()
        return scores.argmax(dim=1)

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups: matrices with weight decay, vectors without, and word vectors with a lower rate."""
        table, method = self.paths.words.weight, self.method
        others = [weight for weight in self.parameters() if weight is not table]
        return [
            {"params": [weight for weight in others if weight.ndim > 1], "weight_decay": method.weight_decay},
            {"params": [weight for weight in others if weight.ndim == 1], "weight_decay": 0.0},
            {"params": [table], "weight_decay": 0.0, "lr": WORD_LR * method.lr},
        ]


@register(
    "dual-path",
    presets={"paper": PAPER, "tuned": {}, "quick": {"width": "compact", "epochs": 16, "batch_size": 16}},
    search={"lr": (1e-3, 2e-3, 4e-3), "dropout": (0.25, 0.5, 0.75), "margin": (0.1, 0.2, 0.4)},
)
@dataclass
class DualPathMethod:
    """Dual-path embedding.

    Attributes:
        width: `full`, of 2048 dimensions, or `compact`, with all layers a quarter as wide.
        losses: `both`, or L_`instance` or L_`ranking` alone in all epochs.
        weights: weights in stage II of L_ranking and of the two terms of L_instance, of images and of texts.
        negatives: `mined`, as above; or of the other pairs of the batch the `hardest`, or the mean over `all`, for each
            image and text.
        margin: margin m.
        candidates: texts among which a hard negative is sought, the same for all pairs of a batch.
        image: scaling of image features: unit length (`l2`), unit length of their signed square roots (`sqrt`), or
            `none`.
        dropout: dropout rate of embeddings that are classified.
        batch_size: images in a batch, at least, each with one text.
        optimiser: `sgd` with Nesterov momentum of 0.9, or `adam` (AdamW).
        lr: learning rate; that of word vectors is a thousandth of it.
        weight_decay: weight decay of matrices.
        stage1_epochs: epochs of stage I, if both losses are used.
        epochs: largest number of epochs of both stages.  An epoch has one text of each image, drawn at random.
        decay_at: epochs after which the learning rate is divided by 10; 0 to lower it linearly to 0 instead.
        patience: epochs without a better rsum on validation before training ends; 0 to train for all `epochs`.
    """

    width: Literal["full", "compact"] = "full"
    losses: Literal["both", "instance", "ranking"] = "both"
    weights: tuple[float, float, float] = (1.0, 0.05, 0.1)
    negatives: Literal["mined", "hardest", "all"] = "all"
    margin: float = 0.2
    candidates: int = 256
    image: ImageScaling = "sqrt"
    dropout: float = 0.5
    batch_size: int = 64
    optimiser: Literal["sgd", "adam"] = "adam"
    lr: float = 2e-3
    weight_decay: float = 1e-4
    stage1_epochs: int = 0
    epochs: int = 90
    decay_at: int = 0
    patience: int = 0

    similarity: ClassVar = COSINE

    def __post_init__(self) -> None:
        at_least(self, 1, "candidates", "epochs")
        at_least(self, 2, "batch_size")  # a pair needs a negative, and batch normalisation a second row
        at_least(self, 0, "margin", "weight_decay", "stage1_epochs", "decay_at", "patience")
        if len(self.weights) != 3 or min(self.weights) < 0:
            raise ValueError(f"weights are three, of ranking, images and texts, at least 0 each, not {self.weights}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is at least 0 and below 1, not {self.dropout:g}")
        if not self.lr > 0:
            raise ValueError(f"lr is above 0, not {self.lr:g}")

    @property
    def divisor(self) -> int:
        """What the width of every layer is divided by."""
        return 4 if self.width == "compact" else 1

    def image_rows(self, split: Split) -> FeatureRows:
        """(N, P) scaled image features."""
        return split.image_rows.map(partial(scaled, how=self.image))

    def build(self, table: Tensor, p: int) -> DualPath:
        """Build the network for word vectors (V, d) and image features of p numbers."""
        return DualPath(table, p, self.divisor)

    def words(self, split: Split) -> tuple[Tensor, Tensor]:
        """The known words of each text, (T, 32), and their number (T,)."""
        words, lengths = known_words(split.tokens[0], self.network.words.weight)
        if absent := int((lengths == 0).sum()):
            say(f"dual-path: {absent} of {len(words)} texts have no word with a vector; all embed them alike")
        return words, lengths

    def weights_in(self, epoch: int) -> tuple[float, float, float]:
        """Weights of L_ranking and of the two terms of L_instance in an epoch."""
        if self.losses == "ranking":
            return 1.0, 0.0, 0.0
        is_first = self.losses == "instance" or epoch <= self.stage1_epochs
        return (0.0, 1.0, 1.0) if is_first else self.weights

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Minimise L_instance, then both losses; keep the epoch with the best rsum on validation."""
        X = self.image_rows(train)
        require_varied("image features", X)
        self.network = network = self.build(train.token_vectors(), X.shape[1]).to(run.device)
        words, lengths = (x.cpu() for x in self.words(train))
        read, owner = lengths.nonzero().squeeze(1), train.image_of.cpu()
        texts = torch.bincount(owner[read], minlength=len(train))
        first, images = texts.cumsum(0) - texts, texts.nonzero().squeeze(1)
        if len(images) < 2:
            raise BadInput(
                f"dual-path needs at least 2 training images with a text of known words, not {len(images)}: give word "
                "vectors of the language of the texts with --vectors"
            )
        objective = Objective(network, len(train), self).to(run.device)
        count = max(1, len(images) // self.batch_size)

        def batches(epoch: int, generator: torch.Generator) -> Iterator[Batch]:
            weights = self.weights_in(epoch)
            order = images[torch.randperm(len(images), generator=generator)]
            for places in torch.tensor_split(torch.arange(len(order)), count):
                half, wanted = len(places) // 2, self.candidates if weights[0] and self.negatives == "mined" else 0
                others = places[0] + half + torch.randint(len(order) - half, (wanted,), generator=generator)
                owner = order[torch.cat([places, others % len(order)])]
                drawn = read[first[owner] + (torch.rand(len(owner), generator=generator) * texts[owner]).long()]
                offsets = (torch.rand(len(owner), generator=generator) * (POSITIONS + 1 - lengths[drawn])).long()
                yield Batch(owner[: len(places)], placed(words[drawn], offsets), owner, weights)

        def loss(batch: Batch) -> Tensor:
            there = batch._replace(ids=batch.ids.to(run.device), owner=batch.owner.to(run.device))
            scalar: Tensor = objective(X[batch.images], there)
            return scalar

        seen, (asked, sizes) = self.image_rows(val), self.words(val)
        middle = placed(asked, (POSITIONS - sizes) // 2)  # all offsets would take most of the time of an epoch

        def validate() -> dict[str, float]:
            texts = torch.cat([network.texts(ids) for ids in torch.split(middle, ROWS)])
            return run.score(by_blocks(network.images, seen, run.device), texts).curve

        sgd = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
        Training(
            module=objective,
            optimizer=(sgd if self.optimiser == "sgd" else torch.optim.AdamW)(objective.groups(), self.lr, fused=True),
            steps=count,
            batches=batches,
            loss=loss,
            validate=validate,
            epochs=self.epochs,
            patience=self.patience,
            patience_from=self.stage1_epochs + 1 if self.losses == "both" else 1,
            rate=(lambda passed: 0.1 ** (passed // self.decay_at)) if self.decay_at else linear_decay(self.epochs),
        ).run(run)
        network.eval()

    def memory(self, train: Split) -> int:
        """Bytes of features, word ids, weights with gradients and moments, a batch, and texts that are embedded."""
        dim, d = DIM // self.divisor, train.vector_shape[1]
        blocks = blocks_of(d, self.divisor)
        convolutions = sum(a * b + 2 * b * b + b * c + a * c for a, b, c, _ in blocks)
        words = int(train.tokens[0].max()) * d
        weights = convolutions + words + dim * (2 * dim + train.image_dim + len(train))
        activations = POSITIONS * sum(2 * b + 2 * c for _, b, c, _ in blocks) + 4 * len(train)
        held = train.image_rows.held + (8 * POSITIONS + 300) * len(train.texts)
        return held + 24 * weights + 4 * self.batch_size * activations + 128 * ROWS * dim

    def embed_images(self, split: Split) -> Tensor:
        """(N, D) image embeddings."""
        with torch.inference_mode():
            return by_blocks(self.network.images, self.image_rows(split), split.image_of.device)

    def embed_texts(self, split: Split) -> Tensor:
        """(T, D) text embeddings: the mean over all offsets at which a text fits into the 32 positions."""
        words, lengths = self.words(split)
        embedded = torch.empty(len(words), self.network.dim, device=words.device)
        for some in torch.split(torch.arange(len(words), device=words.device), ROWS // POSITIONS):
            counts, first = POSITIONS + 1 - lengths[some], some[:1]
            row = some.repeat_interleave(counts)
            offsets = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row - first]
            with torch.inference_mode():
                embedded[some] = (
                    (some[:, None] == row) / counts[:, None] @ self.network.texts(placed(words[row], offsets))
                )
        return embedded

    def state(self) -> dict[str, Tensor]:
        """Both paths; the classifier is of no use any more."""
        return dict(self.network.state_dict())

    def load(self, state: dict[str, Tensor]) -> None:
        table = state["words.weight"]
        self.network = self.build(torch.zeros(table.shape), state["image_path.0.weight"].shape[1])
        self.network.load_state_dict(state)
        self.network.to(table.device).eval()
