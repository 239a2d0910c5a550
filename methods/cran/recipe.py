"""The options of one CRAN training, in groups: what the paper leaves open (A1-A23), sizes and optimisation.

The defaults are the preset `tuned` of `cran`: the paper's model, its training chosen on validation.  `PAPER` and
`LITERAL` follow the paper with and without the code of the authors' other papers; `PLUS` is the recipe of `cran-plus`.
Three of the open questions have no option, as they need another model or front end: attention after the fully-connected
layer (A3), region proposals in place of detections (A24) and a fine-tuned image network (A25).  Which levels share a
text encoder (A4) is the option `encoders`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, TypeVar

T = TypeVar("T")

LEVELS = ("global", "local", "relation")


class Sizes(NamedTuple):
    """Channels of the three convolutions, units of the LSTM, and dimensions of the common space."""

    kernels: tuple[int, int, int]
    lstm: int
    dim: int


SIZES: dict[str, Sizes] = {
    "full": Sizes((384, 512, 2048), 2048, 1024),
    "compact": Sizes((128, 192, 256), 512, 512),
}


def _of(default: T, *levels: str) -> T:
    """A field that only matters where one of `levels` is trained."""
    return field(default=default, metadata={"levels": levels})


def _require_at_least(group: object, **least: int) -> None:
    for name, low in least.items():
        if getattr(group, name) < low:
            raise ValueError(f"{name} is at least {low}, not {getattr(group, name):g}")


def _require_fraction(name: str, value: float, *, may_be_one: bool = False) -> None:
    if not 0 <= value <= 1 or (value == 1 and not may_be_one):
        raise ValueError(f"{name} is a fraction from 0 to 1, not {value:g}, which would leave nothing to learn from")


@dataclass(frozen=True)
class EncoderOptions:
    """The networks that map images and texts to embeddings.

    Attributes:
        width: `full` has the sizes of the paper, (384, 512, 2048) channels, 2,048 LSTM units and 1,024 dimensions;
            `compact` is for two CPU cores.  Always part of the label.
        encoders: `three` text encoders, one for each level, or `one` for all of them (A4).  The paper describes three;
            one requires `joint`.
        attn_div_m: divide the attended sum by the number m of steps (A1).  The paper prints 1/m; the authors' other
            papers do not divide, nor do we: the softmax weights already sum to one.
        attn_proj: use the projection W_a of Eq. 4 (A2); without it M = tanh(H).
        attn_dim: rows of W_a.
        third_pool: also pool (3, 2) after the third convolution (A5), which leaves 8 steps instead of 18.  The paper
            takes the last activation before any third pooling.
        mask_padding: leave steps that see only padding out of the mean and of attention (A6).  The paper averages all.
        lstm_layers: layers of the LSTM (A7).  The equations show one.
        normalise: scale all embeddings to unit length, `l2`, or `none` (A8).  The paper says dot product and margin 1;
            the authors' other papers normalise.
        conv_bn: batch normalisation after each convolution (A9).  The paper has none.
        image_activation: activation after the image layers, `linear` or `sigmoid` (A10).  The paper says fully
            connected.
        relation_pairs: `ordered` pairs of different regions, `unordered` pairs, or `all`, which also pairs a region
            with itself (A19).  The paper's 20 pairs of 5 regions are ordered.
        dropout: dropout rate of image features and of the text layers' inputs.  The paper does not say; the preset
            `paper` has none.
    """

    width: Literal["compact", "full"] = field(default="compact", metadata={"label": "always"})
    encoders: Literal["three", "one"] = "three"
    attn_div_m: bool = _of(False, "local", "relation")
    attn_proj: bool = _of(True, "local", "relation")
    attn_dim: int = _of(512, "local", "relation")
    third_pool: bool = False
    mask_padding: bool = False
    lstm_layers: int = 1
    normalise: Literal["l2", "none"] = "l2"
    conv_bn: bool = True
    image_activation: Literal["linear", "sigmoid"] = "linear"
    relation_pairs: Literal["ordered", "unordered", "all"] = _of("ordered", "relation")
    dropout: float = 0.2

    def __post_init__(self) -> None:
        _require_at_least(self, attn_dim=1, lstm_layers=1)
        _require_fraction("dropout", self.dropout)

    @property
    def sizes(self) -> Sizes:
        """The sizes that `width` stands for."""
        return SIZES[self.width]


@dataclass(frozen=True)
class LossOptions:
    """The margin losses of the levels, Eqs. 7 to 10.

    Attributes:
        bidirectional: local and relation losses also with text negatives (A11).  Eqs. 9 and 10 vary only the image.
        negatives: negatives taken from a batch: one at `random`, `all`, or the `hardest` (A12).  The paper writes one
            i- and one t-.
        warm_up: epochs before `negatives=hardest` and `top_train` apply; until then all negatives and `top`.
        margin: alpha (A8); 1 in the paper.
        top: K, the best regions and relations that are averaged, in the losses and in Eq. 11 (A18); 3 in the paper.
        top_train: K in the losses where it differs from `top`; none for the same.
    """

    bidirectional: bool = _of(True, "local", "relation")
    negatives: Literal["random", "all", "hardest"] = "all"
    warm_up: int = 5
    margin: float = 0.2
    top: int = _of(3, "local", "relation")
    top_train: int | None = _of(None, "local", "relation")

    def __post_init__(self) -> None:
        if self.margin < 0:
            raise ValueError(f"margin is a distance between scores, at least 0, not {self.margin:g}; the paper has 1")
        _require_at_least(self, top=1)
        if self.top_train is not None and self.top_train < 1:
            raise ValueError(f"top_train is at least 1, or none for the same as top, not {self.top_train}")

    @property
    def k_train(self) -> int:
        """K in the losses."""
        return self.top_train or self.top

    @property
    def changes(self) -> bool:
        """Whether the loss is another one after `warm_up`."""
        return self.negatives == "hardest" or self.k_train != self.top


@dataclass(frozen=True)
class OptimiserOptions:
    """Gradient steps and when they end.

    Attributes:
        optimiser: `rmsprop` (PyTorch's, smoothing 0.99) or `adam` with decoupled weight decay (A14); the paper does not
            say.
        lr: learning rate; 0.0004 in the paper.
        lr_decay: decay of the learning rate: `linear` to 0 at the end of `max_epochs`, or by `step`, as in the paper.
        halve_every: epochs between two halvings under `lr_decay=step`; 50 in the paper, 0 for none.
        max_epochs: largest number of epochs.
        patience: epochs without a better validation rsum before training ends; 0 to train for all of `max_epochs`.
        weight_decay: L2 penalty.  The paper does not say; the preset `paper` has none.
        clip: largest norm of a step's gradient; 0 for no limit.  The paper does not say.
    """

    optimiser: Literal["rmsprop", "adam"] = "adam"
    lr: float = 1e-3
    lr_decay: Literal["linear", "step"] = "linear"
    halve_every: int = 50
    max_epochs: int = 15
    patience: int = 4
    weight_decay: float = 0.5
    clip: float = 5.0

    def __post_init__(self) -> None:
        _require_at_least(self, max_epochs=1, halve_every=0, patience=0, weight_decay=0, clip=0)
        if not self.lr > 0:
            raise ValueError(f"lr is above 0, not {self.lr:g}; the paper has 0.0004")


@dataclass(frozen=True)
class BatchOptions:
    """How batches are drawn from the training pairs.

    Attributes:
        batch_size: different images in a batch (A13); the paper does not say.
        epoch_mode: an epoch passes over all `images` once, or has as many `batches` as there are images (A20), as in
            code that the authors' group published.
        caption_sampling: captions of an image that an epoch uses: one at `random`, the `first`, or `all` (A23).
        bucket: number of random batches whose pairs are sorted by text length and divided anew, so that fewer steps are
            padding; 1 for none.  The paper does not mention it.
    """

    batch_size: int = 50
    epoch_mode: Literal["images", "batches"] = "images"
    caption_sampling: Literal["random", "first", "all"] = "all"
    bucket: int = 12

    def __post_init__(self) -> None:
        _require_at_least(self, batch_size=2, bucket=1)


@dataclass(frozen=True)
class PlusOptions:
    """Departures from the paper, each by itself; `cran` has none of them, `cran-plus` has those of `PLUS`.

    Attributes:
        text_init: initial weights of the text encoders: `cca-targets`, pretrained to predict the text's projection by
            CCA with the images; `word-positions`, pretrained to predict which words occur in which quarter of the text;
            `pretrained`, the former for the global and local level and the latter for the relation level; or `random`,
            as in the authors' other papers.
        pretraining_epochs: largest number of epochs of that pretraining.
        frozen_encoder_epochs: the first of `max_epochs`, in which a pretrained encoder is frozen, attention is a plain
            mean, and only the layers after them learn.  The outputs of frozen encoders are kept in memory, units x
            texts numbers for each level.
        restarts: random initialisations of a relation level's layers that are tried for one epoch with the encoder
            frozen; training goes on from the best on validation.  From some of them it never learns relations.
        attn_dropout: fraction of steps that attention leaves out at random in training.  Without it attention soon
            stays on one step, and so on one of the things that a text names.
        image_scaling: a fixed map of image features before the image layers, fitted on the training images.  The paper
            uses the features as they are, `none`.  `l2` gives rows unit length, `standard` gives columns mean 0 and
            deviation 1, `whiten` removes correlations, and `cca` projects on the canonical directions with tf-idf.
        scaled_dim: canonical directions of `image_scaling=cca` and of `text_init=cca-targets`.
        ridge: ridge of `whiten` and `cca`, as a fraction of the largest variance; of several, validation chooses the
            one with which CCA alone is best.
        geometry: where box geometry is appended to region features: `none` (the paper's [l_j; l_k]), `relations` for
            [l_j; b_j; l_k; b_k], or `regions` for l_j and so for both levels, a control.
        hard_negative_batches: fraction of an epoch's batches that are made of hard negatives, groups of an image and
            its nearest neighbours by the global feature.  They are used where the relation level is trained (with
            `joint`, for all levels), the only one that can tell such images apart.
        hard_negatives_from: first epoch that has such batches.
        hard_negative_group: images in such a group.
        residual: `cca` adds the similarity of the row `cca` as a fourth term, whose weight validation chooses; the
            levels are trained without it.  Of several texts, it is averaged together with the global level.
    """

    text_init: Literal["pretrained", "cca-targets", "word-positions", "random"] = "random"
    pretraining_epochs: int = 4
    frozen_encoder_epochs: int = 4
    restarts: int = _of(1, "relation")
    attn_dropout: float = _of(0.0, "local", "relation")
    image_scaling: Literal["none", "l2", "standard", "whiten", "cca"] = "none"
    scaled_dim: int = 128
    ridge: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    geometry: Literal["none", "relations", "regions"] = _of("none", "local", "relation")
    hard_negative_batches: float = _of(0.0, "relation")
    hard_negatives_from: int = _of(1, "relation")
    hard_negative_group: int = _of(5, "relation")
    residual: Literal["none", "cca"] = _of("none")

    def __post_init__(self) -> None:
        _require_at_least(self, pretraining_epochs=1, frozen_encoder_epochs=0, restarts=1, scaled_dim=1)
        _require_at_least(self, hard_negatives_from=1, hard_negative_group=2)
        _require_fraction("attn_dropout", self.attn_dropout)
        _require_fraction("hard_negative_batches", self.hard_negative_batches, may_be_one=True)
        if min(self.ridge) < 0:
            raise ValueError(f"ridge is at least 0, not {min(self.ridge):g}")
        if self.image_scaling == "whiten" and not min(self.ridge):
            raise ValueError("image_scaling=whiten divides by deviations, some of which may be 0: use a ridge above 0")

    @property
    def frozen(self) -> int:
        """Epochs for which the text encoders are frozen: 0 where they are not pretrained."""
        return self.frozen_encoder_epochs if self.text_init != "random" else 0


@dataclass
class Recipe:
    """The options of one training, in groups.

    Where the paper is silent or contradicts itself, the option says what the paper says and what we took.

    Attributes:
        encoder: the networks that map images and texts to embeddings.
        loss: the margin losses.
        optimiser: gradient steps and when they end.
        batches: how batches are drawn.
        plus: additions that the paper does not have.
    """

    encoder: EncoderOptions = EncoderOptions()
    loss: LossOptions = LossOptions()
    optimiser: OptimiserOptions = OptimiserOptions()
    batches: BatchOptions = BatchOptions()
    plus: PlusOptions = PlusOptions()

    def of(self, levels: tuple[str, ...]) -> dict[str, Any]:
        """The groups for a training of `levels`; options that have no effect there are at their defaults."""
        plus, is_random = self.plus, self.plus.text_init == "random"
        idle = {
            "pretraining_epochs": is_random,
            "frozen_encoder_epochs": is_random,
            "restarts": not plus.frozen,
            "halve_every": self.optimiser.lr_decay == "linear",
            "hard_negatives_from": not plus.hard_negative_batches,
            "hard_negative_group": not plus.hard_negative_batches,
            "warm_up": not self.loss.changes,
            "scaled_dim": is_random and plus.image_scaling != "cca",
            "ridge": is_random and plus.image_scaling not in ("cca", "whiten"),
        }
        groups: dict[str, Any] = {}
        for name in (group.name for group in fields(Recipe)):
            group = getattr(self, name)
            unread = {
                f.name: f.default
                for f in fields(group)
                if idle.get(f.name) or not set(f.metadata.get("levels", LEVELS)) & set(levels)
            }
            groups[name] = replace(group, **unread)
        if "relation" not in levels and groups["plus"].geometry == "relations":
            groups["plus"] = replace(groups["plus"], geometry="none")
        return groups

    def of_encoder(self) -> dict[str, Any]:
        """The groups for the pretraining of a text encoder; options that have no effect there are at their defaults."""
        encoder = EncoderOptions(**{name: getattr(self.encoder, name) for name in TEXT_ENCODER})
        names: tuple[str, ...] = ("text_init", "pretraining_epochs")
        names += ("scaled_dim", "ridge") if self.plus.text_init == "cca-targets" else ()
        return {"encoder": encoder, "plus": PlusOptions(**{name: getattr(self.plus, name) for name in names})}


TEXT_ENCODER = ("width", "third_pool", "mask_padding", "lstm_layers", "conv_bn")

PAPER: dict[str, Any] = {
    # encoder
    "width": "full",
    "mask_padding": False,
    "conv_bn": False,
    "dropout": 0.0,
    # loss
    "bidirectional": False,
    "negatives": "random",
    "margin": 1.0,
    # optimiser
    "optimiser": "rmsprop",
    "lr": 4e-4,
    "lr_decay": "step",
    "max_epochs": 150,
    "patience": 20,
    "weight_decay": 0.0,
    "clip": 0.0,
    # batches
    "batch_size": 40,
    "caption_sampling": "random",
    "bucket": 1,
}
"""The paper's figures, with what the authors' other code does where the paper is silent: no 1/m, unit embeddings."""

LITERAL: dict[str, Any] = {**PAPER, "attn_div_m": True, "normalise": "none"}
"""The equations as printed."""

QUICK: dict[str, Any] = {"max_epochs": 3, "caption_sampling": "random"}
"""For a first look at little data: a few epochs, with one caption of each image in each."""

PLUS: dict[str, Any] = {
    # encoder
    "mask_padding": True,
    # optimiser
    "max_epochs": 8,
    "patience": 2,
    "weight_decay": 1e-4,
    # plus
    "text_init": "pretrained",
    "restarts": 6,
    "attn_dropout": 0.2,
    "image_scaling": "cca",
    "geometry": "relations",
    "hard_negative_batches": 0.5,
    "residual": "cca",
}
"""The recipe of `cran-plus`: everything that helped on validation."""

PLUS_QUICK: dict[str, Any] = {**PLUS, **QUICK, "text_init": "random", "hard_negative_batches": 0.0}
"""For a first look at little data: a few epochs from random weights, without hard negatives."""
