"""Everything that determines one trained CRAN: what the paper leaves open (A1-A23), sizes, and how it is optimised.

The defaults are the preset `tuned`; `PAPER` and `LITERAL` are the paper read with and without its sister papers.  What
is not built: attention after the fully-connected layer (A3), region proposals in place of detections (A24) and a
fine-tuned image network (A25) would need another model or front end; who shares what between levels (A4) is `encoders`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, TypeVar

T = TypeVar("T")

LEVELS = ("global", "local", "relation")


class Sizes(NamedTuple):
    """Kernels of the three convolutions, units of the LSTM, and dimensions of the common space."""

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


@dataclass
class Recipe:
    """One training.  Where the paper is silent or says two things, the attribute says what it says and what we took.

    Attributes:
        width: `full` has the paper's sizes, (384, 512, 2048) kernels, 2048 LSTM units, 1,024 dimensions; `compact` is
            for two cores.  Always part of the label.
        encoders: three text encoders, one per level, or `one` for all of them (A4).  The paper describes three; one
            needs joint training.
        start: the text encoders begin with one that has learned from the training texts where CCA puts them (`places`),
            with one that has learned which `words` occur in which quarter (see `reading`), `taught`, which is places
            for the global and local level and words for the relation level, or from `scratch`, as in the paper's
            sister papers; the paper does not say.
        start_passes: over the training texts at most, to learn that.  Not in the paper.
        heads_first: the first of `max_epochs`, in which an encoder that was taught stays as it is, attention stays a
            plain mean, and the layers on them learn alone; what was read is kept, units x texts numbers for each
            level.  Not in the paper.
        beginnings: so many random beginnings of a relation level's layers are tried for one epoch with the encoder
            held, and that which is best on validation goes on: from some, training never comes upon relations.  Not in
            the paper.
        attn_div_m: divide the attended sum by the number of steps (A1).  The paper prints 1/m; its sister papers do not
            divide, and neither do we: the softmax weights sum to one already.
        attn_proj: W_a of Eq. 4 (A2); without it M = tanh(H).
        attn_dim: rows of W_a.
        attn_dropout: share of steps that a training step's attention leaves out, at random.  Without it attention soon
            stays with one step, and so with one of the things a text names.
        third_pool: pool (3, 2) after the third convolution too (A5): 8 steps in place of 18.  The paper takes the last
            activation, before any third pool.
        mask_padding: leave steps that see only padding out of mean and attention (A6).  The paper averages all.
        lstm_layers: of the text encoder (A7).  The equations show one.
        normalize: unit length of all embeddings, `l2` or `none` (A8).  The paper says dot product and margin 1; its
            sister papers normalise.
        conv_bn: batch normalisation after each convolution (A9).  The paper has none.
        img_act: after the image layers, `linear` or `sigmoid` (A10).  The paper says fully connected.
        bidirectional: local and relation losses also with text negatives (A11).  Eqs. 9 and 10 vary only the image.
        negatives: of a batch, one at `random`, `all`, or the `hardest` (A12).  The paper writes one i- and one t-.
        warm_up: epochs before `negatives=hardest` and `top_train` hold; until then all negatives and `top`.
        margin: alpha (A8); 1 in the paper.
        batch_size: different images in a batch (A13); the paper does not say.
        optimizer: `rmsprop` (Torch's, smoothing 0.99) or `adam` (A14); the paper does not say.
        lr: learning rate; 0.0004 in the paper.
        decay: of the learning rate: `linear` to 0 at the end of `max_epochs`, or `halved`, as in the paper.
        halve_every: under `halved`, epochs after which it is; 50 in the paper, 0 for never.
        top: K, regions and relations that count (A18); 3 in the paper.
        top_train: K in the losses; none for the same.
        relation_pairs: `ordered` pairs of different regions, `unordered`, or `all`, a region with itself too (A19).
            The paper's 20 of 5 regions are ordered.
        epoch_mode: an epoch passes over all `images` once, or has as many `batches` as there are images (A20), as in
            the code the authors' group published.
        max_epochs: at most; patience: epochs without a better validation rsum before it ends, 0 for never.
        caption_sampling: of an image's captions an epoch uses one at `random`, the `first`, or `all` (A23).
        bucket: so many random batches are dealt anew by the length of their texts, so that fewer steps are padding; 1
            leaves them as they are, and the paper says nothing of it.
        image_scaling: a fixed map of image features before the image layers.  The paper takes them as they come,
            `none`.  `l2` gives rows unit length, `standard` columns mean 0 and deviation 1, `whiten` takes correlations
            out, and `cca` projects on the directions in which training images agree with tf-idf of their texts.
        scaled_dim: dimensions that `cca` keeps.
        ridge: of `whiten` and `cca`, as a fraction of the largest variance; of several, that with which CCA alone is
            best on validation.
        geometry: where box geometry joins region features: `none` (the paper's [l_j; l_k]), `relations` for
            [l_j; b_j; l_k; b_k], or `regions` for l_j and so for both levels, a control.
        lookalikes: share of the batches of an epoch that are made of look-alikes, an image and its nearest neighbours
            by the global feature, where the relation level is trained (with `joint`, for all levels), which alone can
            tell them apart; 0 in the paper.
        lookalikes_from: the first epoch that has them.
        lookalike_group: images in a group of look-alikes.
        dropout: of image features, and of what the text layers see.  The paper does not say; `paper` has none.
        weight_decay: L2 penalty, decoupled under adam.  The paper does not say; `paper` has none.
        clip: largest norm of a gradient step.  The paper does not say.
    """

    width: Literal["compact", "full"] = field(default="compact", metadata={"label": "always"})
    encoders: Literal["three", "one"] = "three"
    start: Literal["taught", "places", "words", "scratch"] = "taught"
    start_passes: int = 5
    heads_first: int = 4
    beginnings: int = _of(6, "relation")
    attn_div_m: bool = _of(False, "local", "relation")
    attn_proj: bool = _of(True, "local", "relation")
    attn_dim: int = _of(512, "local", "relation")
    attn_dropout: float = _of(0.2, "local", "relation")
    third_pool: bool = False
    mask_padding: bool = True
    lstm_layers: int = 1
    normalize: Literal["l2", "none"] = "l2"
    conv_bn: bool = True
    img_act: Literal["linear", "sigmoid"] = "linear"
    bidirectional: bool = _of(True, "local", "relation")
    negatives: Literal["random", "all", "hardest"] = "all"
    warm_up: int = 5
    margin: float = 0.2
    batch_size: int = 50
    optimizer: Literal["rmsprop", "adam"] = "adam"
    lr: float = 1e-3
    decay: Literal["linear", "halved"] = "linear"
    halve_every: int = 50
    top: int = _of(3, "local", "relation")
    top_train: int | None = _of(None, "local", "relation")
    relation_pairs: Literal["ordered", "unordered", "all"] = _of("ordered", "relation")
    epoch_mode: Literal["images", "batches"] = "images"
    max_epochs: int = 8
    patience: int = 3
    caption_sampling: Literal["random", "first", "all"] = "all"
    bucket: int = 12
    image_scaling: Literal["none", "l2", "standard", "whiten", "cca"] = "cca"
    scaled_dim: int = 128
    ridge: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    geometry: Literal["none", "relations", "regions"] = _of("relations", "local", "relation")
    lookalikes: float = _of(0.5, "relation")
    lookalikes_from: int = _of(1, "relation")
    lookalike_group: int = _of(5, "relation")
    dropout: float = 0.2
    weight_decay: float = 1e-4
    clip: float = 5.0

    def __post_init__(self) -> None:
        if self.margin < 0:
            raise ValueError(f"margin is a distance between scores, at least 0, not {self.margin:g}; the paper has 1")
        for name, low in (
            *(("attn_dim", 1), ("lstm_layers", 1), ("batch_size", 2), ("top", 1), ("max_epochs", 1)),
            *(("lookalikes_from", 1), ("lookalike_group", 2), ("halve_every", 0), ("patience", 0)),
            *(("start_passes", 1), ("heads_first", 0), ("beginnings", 1), ("bucket", 1)),
            *(("weight_decay", 0), ("clip", 0), ("scaled_dim", 1)),
        ):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is at least {low}, not {getattr(self, name):g}")
        if self.top_train is not None and self.top_train < 1:
            raise ValueError(f"top_train is at least 1, or none for the same as top, not {self.top_train}")
        if not self.lr > 0:
            raise ValueError(f"lr is above 0, not {self.lr:g}; the paper has 0.0004")
        for name in ("dropout", "attn_dropout", "lookalikes"):
            value = getattr(self, name)
            if not 0 <= value <= 1 or (value == 1 and name != "lookalikes"):
                raise ValueError(
                    f"{name} is a share from 0 to 1, not {value:g}, which would leave nothing to learn from"
                )
        if min(self.ridge) < 0:
            raise ValueError(f"ridge is at least 0, not {min(self.ridge):g}")
        if self.image_scaling == "whiten" and not min(self.ridge):
            raise ValueError(
                "image_scaling=whiten divides by deviations, of which some may be zero: use a ridge above 0"
            )

    @property
    def sizes(self) -> Sizes:
        """What `width` stands for."""
        return SIZES[self.width]

    @property
    def k_train(self) -> int:
        """K in the losses."""
        return self.top_train or self.top

    def of(self, levels: tuple[str, ...]) -> dict[str, Any]:
        """Field values of the training of `levels`; those that do not matter to them are left at their defaults."""
        found = {}
        for f in fields(Recipe):
            wanted = f.metadata.get("levels", LEVELS)
            found[f.name] = getattr(self, f.name) if set(wanted) & set(levels) else f.default
        idle = {
            "start_passes": self.start == "scratch",
            "heads_first": self.start == "scratch",
            "beginnings": self.start == "scratch" or not self.heads_first,
            "halve_every": self.decay == "linear",
            "lookalikes_from": not self.lookalikes,
            "lookalike_group": not self.lookalikes,
            "warm_up": self.negatives != "hardest" and self.k_train == self.top,
            "scaled_dim": self.start == "scratch" and self.image_scaling != "cca",
            "ridge": self.start == "scratch" and self.image_scaling not in ("cca", "whiten"),
        }
        found |= {name: getattr(Recipe, name) for name, is_idle in idle.items() if is_idle}
        if "relation" not in levels and found["geometry"] == "relations":
            found["geometry"] = "none"
        return found

    def of_encoder(self) -> dict[str, Any]:
        """The fields that a text encoder's beginning depends on."""
        names = (*ENCODER, "scaled_dim", "ridge") if self.start == "places" else ENCODER
        return {name: getattr(self, name) for name in names}


ENCODER = ("start", "start_passes", "width", "third_pool", "mask_padding", "lstm_layers", "conv_bn")

PAPER: dict[str, Any] = {
    "width": "full",
    "mask_padding": False,
    "conv_bn": False,
    "bidirectional": False,
    "negatives": "random",
    "margin": 1.0,
    "batch_size": 40,
    "optimizer": "rmsprop",
    "lr": 4e-4,
    "decay": "halved",
    "max_epochs": 150,
    "patience": 20,
    "image_scaling": "none",
    "geometry": "none",
    "caption_sampling": "random",
    "bucket": 1,
    "start": "scratch",
    "lookalikes": 0.0,
    "attn_dropout": 0.0,
    "dropout": 0.0,
    "weight_decay": 0.0,
}
"""The paper's figures, with what its sister papers' code says where it is silent: no 1/m, unit embeddings."""

LITERAL: dict[str, Any] = {**PAPER, "attn_div_m": True, "normalize": "none"}
"""The equations as printed."""

QUICK: dict[str, Any] = {"start": "scratch", "max_epochs": 5, "lookalikes": 0.0}
"""For a first look at little data: a few epochs from scratch, without look-alikes."""
