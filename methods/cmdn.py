"""CMDN: cross-media multiple deep networks, which first represent each modality in several ways, then both together.

Stage 1, on each side: a stacked autoencoder of the features gives a, scaled to [0, 1]; a multimodal DBN, the row
`multimodal-dbn`, gives m, its joint hidden units inferred from this side alone; an RBM joins the standardised [a; m];
and of a network that learns categories from the joint code the last hidden layer is taken.

Stage 2: bimodal autoencoders, as in `bimodal-ae`, one on the codes of the other, each half as wide.  For inputs (x, y),
(x, 0) and (0, y) with the code z = sigm(Wx x + Wy y + b), the loss is

    L = (|x - x^|^2 + |y - y^|^2) / 2 + CE(softmax(V z), categories)

Y. Peng, X. Huang, J. Qi, "Cross-media shared representation by hierarchical learning with multiple deep networks",
IJCAI 2016.  The authors scale and standardise each split by its own statistics, here by those of the training data.
The layers of an autoencoder of features and of a network of categories are trained together, by Adam.  Several
categories of an image have equal shares; images without any have only reconstructions.  With labels=none nothing has
categories: the networks that learn them and the last term of L are left out.

Memory: as for `multimodal-dbn`, and for each image or text 4 bytes for each unit of a code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cran_bench import BadInput, Part, Run, Split, register
from cran_bench.toolbox.kernels import Rows, by_blocks, dense, dense_blocks, require_varied
from cran_bench.toolbox.linalg import deviations
from cran_bench.toolbox.rbm import RBM
from cran_bench.toolbox.states import below, with_prefix
from cran_bench.toolbox.training import Training, passes, shuffled

from ._codes import PAPER, QUICK, CodeMethod, Coder, InputEncoder, at_least
from ._linear import WORDS_BYTES, scaled
from ._stacks import JOINT, SAMPLE, loaded, pretrain, standardise_, standardised
from .bimodal_ae import BimodalAutoencoder
from .multimodal_dbn import MultimodalDBN

Side = Literal["image", "text"]
BATCH = 115
QUICK_STACKS = {name: value for name, value in QUICK.items() if name != "units"}


def layers(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear maps between layers of these sizes, each with a ReLU behind it."""
    return nn.Sequential(*(layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())))


def train_on_rows(
    module: nn.Module, count: int, loss: Callable[[Tensor], Tensor], batch_size: int, steps: int, lr: float, run: Run
) -> None:
    """Train a module on rows 0 to count - 1 by Adam; `loss` is the loss, a scalar, of some of them."""
    sample = torch.arange(count)[:: 1 + count // SAMPLE]
    each, epochs = passes(count, batch_size, steps)

    def batches(epoch: int, generator: torch.Generator) -> Iterator[Tensor]:
        yield from shuffled(count, batch_size, each, generator)

    Training(
        module=module,
        optimizer=torch.optim.Adam(module.parameters(), lr, fused=True),
        steps=each,
        batches=batches,
        loss=loss,
        validate=lambda: {"gain": -float(loss(sample))},
        criterion="gain",
        epochs=epochs,
    ).run(run)
    module.eval()


def shares_of(split: Split, labels: str) -> Tensor:
    """(N, C) the share of each category in an image's, which sum to 1, or to 0 without any; (N, 0) for labels=none."""
    if labels == "none":
        return torch.zeros(len(split), 0, device=split.image_of.device)
    given = split.categories(labels).float()
    if bool((given == given[0]).all()):
        raise BadInput(
            f"all images of the {split.name} split have the same categories ({labels}), so nothing can be told apart: "
            "give at least two, or labels=none"
        )
    return given / given.sum(dim=1, keepdim=True).clamp_min(1)


@dataclass
class FeatureAutoencoder:
    """A stacked autoencoder of the features of one side.

    Attributes:
        side: the side.
        features: scaling of image features, or the text feature.
        vocabulary: number of words that are counted.
        hidden: units of its layers, from the bottom.
        steps: training steps, rounded to whole epochs.
        lr: learning rate of Adam.
    """

    side: Side
    features: str
    vocabulary: int
    hidden: tuple[int, ...]
    steps: int
    lr: float

    @property
    def part_name(self) -> str:
        """The name of its curve."""
        return f"{self.side} autoencoder"

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Train the layers, then measure the range of the code."""
        rows = self._rows(train)
        require_varied(f"{self.side} features", rows)
        self.moments = deviations(dense_blocks(rows, run.device))
        if isinstance(rows, sparse.csr_array):  # by their own, rare words would be large
            self.moments[1] = self.moments[1].square().mean().sqrt()
        sizes = (rows.shape[1], *self.hidden)
        self.encoder = layers(sizes).to(run.device)
        model = nn.Sequential(self.encoder, layers(sizes[::-1])[:-1]).to(run.device)

        def loss(some: Tensor) -> Tensor:
            x = standardised(dense(rows[some.numpy()]).to(run.device), self.moments)
            missed: Tensor = (model(x) - x).square().sum(dim=1).mean() / 2
            return missed

        train_on_rows(model, rows.shape[0], loss, BATCH, self.steps, self.lr, run)
        self.bounds = torch.stack([torch.zeros(sizes[-1]), torch.ones(sizes[-1])]).to(run.device)
        codes = self.codes(train)
        low, high = codes.min(dim=0).values, codes.max(dim=0).values
        self.bounds = torch.stack([low, torch.where(high > low, high - low, 1.0)])

    def _rows(self, split: Split) -> Rows:
        if self.side == "image":
            return split.image_rows.map(partial(scaled, how=self.features))  # type: ignore[arg-type]
        if self.features == "encoder":
            return split.text_rows.map(partial(scaled, how="l2"))
        return split.bow(self.vocabulary) if self.features == "bow" else split.tfidf(self.vocabulary)

    def codes(self, split: Split) -> Tensor:
        """(N, H) or (T, H) codes, from 0 to 1 on the training data."""

        def code(x: Tensor) -> Tensor:
            return standardised(self.encoder(standardised(x, self.moments)), self.bounds)

        with torch.inference_mode():
            return by_blocks(code, self._rows(split), split.image_of.device)

    def state(self) -> dict[str, Tensor]:
        """The layers, and the moments of features and bounds of codes."""
        return {"moments": self.moments, "bounds": self.bounds, **with_prefix("encoder", self.encoder.state_dict())}

    def load(self, state: dict[str, Tensor]) -> None:
        self.moments, self.bounds = state["moments"], state["bounds"]
        self.encoder = layers((self.moments.shape[1], *self.hidden)).to(self.moments.device).eval()
        self.encoder.load_state_dict(below("encoder", state))


@dataclass
class Fusion:
    """An RBM over the codes of an autoencoder and of a multimodal DBN.

    Attributes:
        autoencoder: the autoencoder of this side.
        dbn: the multimodal DBN; None for the autoencoder alone.
        units: hidden units.
        steps: training steps, rounded to whole epochs; 0 leaves the weights at their random values.
    """

    autoencoder: FeatureAutoencoder
    dbn: MultimodalDBN | None
    units: int
    steps: int

    @property
    def part_name(self) -> str:
        """The name of its curve."""
        return f"{self.autoencoder.side} fusion RBM"

    def parts(self) -> list[Part]:
        return [self.autoencoder, *([self.dbn] if self.dbn else [])]

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Fit what it joins, as parts, then the RBM."""
        self.autoencoder = run.part(self.autoencoder)
        self.dbn = run.part(self.dbn) if self.dbn else None
        rows = self._rows(train)
        self.scale = deviations(dense_blocks(rows, rows.device))
        self.rbm = RBM("gaussian", rows.shape[1], self.units).to(run.device)
        if self.steps:
            rows, seen = (standardise_(x, self.scale) for x in (rows, self._rows(val)))
            pretrain(self.rbm, JOINT._replace(kind="gaussian"), 1.0, rows, seen, self.steps, BATCH, run)

    def _rows(self, split: Split) -> Tensor:
        codes = [self.autoencoder.codes(split)]
        if self.dbn:
            is_image = self.autoencoder.side == "image"
            codes.append(self.dbn.codes_of_images(split) if is_image else self.dbn.codes_of_texts(split))
        return torch.cat(codes, dim=1)

    def codes(self, split: Split) -> Tensor:
        """(N, H) or (T, H) joint codes."""
        with torch.inference_mode():
            rows = standardise_(self._rows(split), self.scale)
            return by_blocks(self.rbm.hidden, rows, rows.device)

    def state(self) -> dict[str, Tensor]:
        """The RBM, the scale of its inputs, and what it joins."""
        own = {"scale": self.scale, **with_prefix("rbm", self.rbm.state_dict())}
        own |= with_prefix("autoencoder", self.autoencoder.state())
        return own | (with_prefix("dbn", self.dbn.state()) if self.dbn else {})

    def load(self, state: dict[str, Tensor]) -> None:
        self.scale, self.rbm = state["scale"], loaded("gaussian", below("rbm", state))
        self.autoencoder.load(below("autoencoder", state))
        if self.dbn:
            self.dbn.load(below("dbn", state))


@dataclass
class Concepts:
    """A network that learns categories from a joint code; its last hidden layer is the code.

    Attributes:
        fusion: the RBM below.
        labels: source of the categories.
        hidden: units of its layers.
        steps: training steps, rounded to whole epochs.
        lr: learning rate of Adam.
    """

    fusion: Fusion
    labels: str
    hidden: tuple[int, ...]
    steps: int
    lr: float

    @property
    def part_name(self) -> str:
        """The name of its curve."""
        return f"{self.fusion.autoencoder.side} categories"

    def parts(self) -> list[Part]:
        return [self.fusion]

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Fit the RBM, as a part, then the network."""
        self.fusion = run.part(self.fusion)
        rows, shares = self.fusion.codes(train), shares_of(train, self.labels)
        owner = (
            train.image_of if self.fusion.autoencoder.side == "text" else torch.arange(len(train), device=run.device)
        )
        self.network = layers((rows.shape[1], *self.hidden)).to(run.device)
        model = nn.Sequential(self.network, nn.Linear(self.hidden[-1], shares.shape[1])).to(run.device)

        def loss(some: Tensor) -> Tensor:
            there = some.to(run.device)
            return cross_entropy(model(rows[there]), shares[owner[there]])

        train_on_rows(model, len(rows), loss, BATCH, self.steps, self.lr, run)

    def codes(self, split: Split) -> Tensor:
        """(N, H) or (T, H) units of the last hidden layer."""
        with torch.inference_mode():
            return by_blocks(self.network, self.fusion.codes(split), split.image_of.device)

    def state(self) -> dict[str, Tensor]:
        """The network up to the last hidden layer, and what is below."""
        return with_prefix("network", self.network.state_dict()) | with_prefix("fusion", self.fusion.state())

    def load(self, state: dict[str, Tensor]) -> None:
        self.fusion.load(below("fusion", state))
        self.network = layers((self.fusion.units, *self.hidden)).to(self.fusion.scale.device).eval()
        self.network.load_state_dict(below("network", state))


@dataclass
class Networks:
    """Stage 1: a network on each side.

    Attributes:
        image: the top network of images.
        text: the top network of texts.
    """

    image: Fusion | Concepts
    text: Fusion | Concepts

    part_name: ClassVar[str] = "stage 1 of CMDN"

    def parts(self) -> list[Part]:
        return [self.image, self.text]

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Fit both sides, as parts."""
        self.image, self.text = run.part(self.image), run.part(self.text)

    @property
    def sizes(self) -> tuple[int, int]:
        """Dimensions of the codes of an image and of a text."""
        sizes = [top.units if isinstance(top, Fusion) else top.hidden[-1] for top in (self.image, self.text)]
        return sizes[0], sizes[1]

    def memory(self, train: Split) -> int:
        """Bytes of the multimodal DBN, and of codes and weights above it."""
        fusion = self.image if isinstance(self.image, Fusion) else self.image.fusion
        units = fusion.units + sum(fusion.autoencoder.hidden) + (fusion.dbn.units if fusion.dbn else 0)
        below_it = fusion.dbn.memory(train) if fusion.dbn else WORDS_BYTES * len(train.texts)
        inputs = max(train.image_dim, train.text_dim, fusion.autoencoder.vocabulary)
        held = train.image_rows.held + (train.text_rows.held if self.reads_encoder else 0)
        return below_it + held + 12 * units * (len(train) + len(train.texts)) + 48 * units * (units + inputs)

    @property
    def reads_encoder(self) -> bool:
        """Whether texts are given by a text encoder."""
        fusion = self.text if isinstance(self.text, Fusion) else self.text.fusion
        return fusion.autoencoder.features == "encoder"

    def encode_images(self, split: Split) -> Tensor:
        """(N, P) codes."""
        return self.image.codes(split)

    def encode_texts(self, split: Split) -> Tensor:
        """(T, Q) codes."""
        return self.text.codes(split)

    def state(self) -> dict[str, Tensor]:
        """The states of both sides."""
        return with_prefix("image", self.image.state()) | with_prefix("text", self.text.state())

    def load(self, state: dict[str, Tensor]) -> None:
        self.image.load(below("image", state))
        self.text.load(below("text", state))


class CategoryAutoencoder(BimodalAutoencoder):
    """A bimodal autoencoder whose code also predicts categories.

    Args:
        p: dimension of an image's input.
        q: dimension of a text's input.
        units: units of the code.
        is_real: whether the inputs are real values with mean 0.
        shares: (N, C) the share of each category in each training image's.
    """

    def __init__(self, p: int, q: int, units: int, is_real: bool, shares: Tensor) -> None:
        super().__init__(p, q, units, is_real)
        self.categories = nn.Linear(units, shares.shape[1]) if shares.shape[1] else None
        self.shares = shares

    def loss(self, p: Tensor, q: Tensor, owner: Tensor, step: int) -> Tensor:
        missed = super().loss(p, q, owner, step)
        if self.categories is None:
            return missed
        logits = self.categories(torch.cat([self.both(p, q), self.image(p), self.text(q)]))
        return missed + cross_entropy(logits, self.shares[owner].repeat(3, 1))


@register(
    "cmdn",
    presets={
        "paper": {
            **PAPER,
            "weight_decay": 1e-4,
            "autoencoder": (1024, 1024),
            "autoencoder_steps": 100_000,
            "dbn_units": 2048,
            "dbn_steps": 200_000,
            "fusion_units": 2048,
            "fusion_steps": 100_000,
            "hidden": (1024, 1024, 1024),
            "category_steps": 50_000,
            "units": (512, 256, 128, 64),
            "batch_size": 231,
            "steps": 20_000,
            "code_scaling": "standardised",
        },
        "tuned": {},
        "quick": {
            **QUICK_STACKS,
            "autoencoder": (128,),
            "autoencoder_steps": 150,
            "dbn_units": 256,
            "dbn_steps": 100,
            "fusion_units": 256,
            "fusion_steps": 30,
            "hidden": (128,),
            "category_steps": 200,
            "units": (128, 64),
            "steps": 200,
        },
    },
    search={
        "lr": (5e-4, 1e-3, 2e-3),
        "units": ((256, 128), (256, 128, 64)),
        "weight_decay": (1e-5, 1e-4, 1e-3),
        "vocabulary": (1500, 3000),
    },
)
@dataclass
class CMDN(CodeMethod):
    """CMDN; `lr`, `weight_decay`, `batch_size` and `steps` are those of each bimodal autoencoder.

    Attributes:
        labels: where the categories of training images come from: the dataset (`given`), k-means of their texts
            (`clusters:20`), their most frequent words (`keywords:300`), an object detector (`detected`), or `none`.
        with_dbn: whether the multimodal DBN is part of stage 1.
        autoencoder: units of the layers of each side's autoencoder, from the bottom.
        autoencoder_steps: training steps of these, rounded to whole epochs, as for the other steps.
        dbn_units: joint hidden units of the multimodal DBN, whose other options are those of `multimodal-dbn`.
        dbn_steps: largest number of training steps of its joint RBM.
        fusion_units: hidden units of the RBM over both codes.
        fusion_steps: training steps of these RBMs.
        hidden: units of the layers of the network that learns categories, from the bottom.
        category_steps: training steps of these networks.
        units: units of the bimodal autoencoders, from the bottom.
    """

    code_scaling: Literal["none", "centred", "standardised"] = "standardised"
    steps: int = 200
    labels: str = "given"
    with_dbn: bool = True
    autoencoder: tuple[int, ...] = (256, 256)
    autoencoder_steps: int = 300
    dbn_units: int = 1024
    dbn_steps: int = 200
    fusion_units: int = 512
    fusion_steps: int = 200
    hidden: tuple[int, ...] = (256, 256, 256)
    category_steps: int = 200
    units: tuple[int, ...] = (256, 128, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.granularity == "parts":
            raise ValueError("cmdn reads whole images and texts: leave out granularity")
        at_least(self, 1, "autoencoder_steps", "dbn_units", "dbn_steps", "fusion_units", "category_steps")
        at_least(self, 0, "fusion_steps")
        for name in ("autoencoder", "hidden", "units"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(
                    f"{name} is the units of at least one layer, at least 1 each, not {getattr(self, name)}"
                )

    @property
    def part_name(self) -> str:
        """The name of its curve."""
        return f"bimodal autoencoder {len(self.units)}"

    def input_encoder(self) -> InputEncoder:
        """Stage 1, or the bimodal autoencoder below."""
        if len(self.units) > 1:
            return replace(self, units=self.units[:-1])
        options: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(CodeMethod)}
        options |= {"lr": MultimodalDBN.lr, "steps": self.dbn_steps, "batch_size": 200, "code_scaling": "centred"}
        dbn = MultimodalDBN(**options, units=self.dbn_units) if self.with_dbn else None
        return Networks(self._side("image", dbn), self._side("text", dbn))

    def _side(self, side: Side, dbn: MultimodalDBN | None) -> Fusion | Concepts:
        features = self.image if side == "image" else self.text
        below_it = FeatureAutoencoder(side, features, self.vocabulary, self.autoencoder, self.autoencoder_steps, 1e-3)
        fusion = Fusion(below_it, dbn, self.fusion_units, self.fusion_steps)
        return (
            fusion if self.labels == "none" else Concepts(fusion, self.labels, self.hidden, self.category_steps, 1e-3)
        )

    @property
    def sizes(self) -> tuple[int, int]:
        """Dimensions of the codes."""
        return self.units[-1], self.units[-1]

    def encode_images(self, split: Split) -> Tensor:
        """(N, K) codes, for the bimodal autoencoder above."""
        return self.codes_of_images(split)

    def encode_texts(self, split: Split) -> Tensor:
        """(T, K) codes, for the bimodal autoencoder above."""
        return self.codes_of_texts(split)

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Fit what is below, as a part, then the top bimodal autoencoder."""
        self.shares = shares_of(train, self.labels)
        if self.labels != "none" and (without := int((self.shares.sum(dim=1) == 0).sum())):
            run.chose(unlabelled=without)
        super().fit(train, val, run)

    def build(self, p: int, q: int) -> Coder:
        return CategoryAutoencoder(p, q, self.units[-1], self.standardise_inputs, self.shares)

    def load(self, state: dict[str, Tensor]) -> None:
        self.shares = torch.zeros(0, len(state.get("coder.categories.bias", ())))
        super().load(state)
