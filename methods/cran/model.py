"""The CRAN network, in the order of Section 3 of the paper and with its equation numbers.

J. Qi, Y. Peng, Y. Yuan, "Cross-media Multi-level Alignment with Relation Attention Network", IJCAI 2018.  The
input text is a sequence of characters of the alphabet of Reed et al. (CVPR 2016).  In shapes, B is the number of images
or texts, m of steps, n of regions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple, cast

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, max_pool2d, pad

from cran_bench import ALPHABET, FeatureRows, Levels, Relations, region_pairs
from cran_bench.toolbox.linalg import Matrix, canonical_correlations, deviations, moments, spectral_norm
from cran_bench.toolbox.processes import ALONE, Processes

from .recipe import Recipe

BLOCK = 8192  # rows of features at a time
LENGTH = 201  # characters of a text
KERNEL = 4  # width of a convolution, in characters or pooled steps


class Views(NamedTuple):
    """Image features of B images from the front end; no regions where only the global level is built."""

    globals: Tensor  # (B, D)
    regions: Tensor | None = None  # (B, n, D)
    boxes: Tensor | None = None  # (B, n, 4), fractions x0 y0 x1 y1
    mask: Tensor | None = None  # (B, n) bool


class ViewRows(NamedTuple):
    """Image features of all N images of a split, from which batches are taken."""

    globals: FeatureRows
    regions: FeatureRows | None = None
    boxes: Tensor | None = None
    mask: Tensor | None = None

    def take(self, images: Tensor) -> Views:
        """The features of the images at these positions."""
        return Views(*(None if view is None else view[images] for view in self))  # type: ignore[arg-type]


# 3.1 Visual-language relation attention model ----------------------------------------------------------------------


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the statistics of the whole batch where several processes share one in training."""

    shared_by: Processes = ALONE

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, channels, 1, steps)."""
        if self.shared_by.count == 1 or not self.training:
            normalised: Tensor = super().forward(x)
            return normalised
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        total, here = self.shared_by.total, x.new_tensor([len(x) * x.shape[3]])
        sums = total(torch.cat([x.sum(dim=(0, 2, 3)), here]))
        count = sums[-1]
        mean = sums[:-1] / count
        centred = x - mean[:, None, None]
        variance = total(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
        scale: Tensor = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


class CharacterEncoder(nn.Module):
    """Character CNN and LSTM: characters to H = {h_1 ... h_m} (Section 3.1; the cell is Eqs. 1-3).

    Three convolutions of width 4 with ReLU, max pooling (3, 3) after the first two: 201 characters become m = 18 steps.
    The receptive field of step s is the 48 characters from position 9 s on.  Steps are laid out as images of height 1,
    channels last: convolutions, normalisation and pooling take half the time of one-dimensional layers on a CPU.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        options = recipe.encoder
        channels = (len(ALPHABET), *options.sizes.kernels)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, (1, KERNEL)) for a, b in pairwise(channels))
        self.norms = nn.ModuleList(BatchNorm(c) if options.conv_bn else nn.Identity() for c in channels[1:])
        self.pools: tuple[tuple[int, int], ...] = ((3, 3), (3, 3), (3, 2) if options.third_pool else (1, 1))
        self.lstm = nn.LSTM(channels[-1], options.sizes.lstm, options.lstm_layers, batch_first=True)
        for name, bias in self.lstm.named_parameters():
            if name.startswith("bias_hh"):  # Eqs. 1 and 2 have one bias
                nn.init.zeros_(bias).requires_grad_(False)
        self.stride, self.field = 1, 1  # characters between two steps, and in the receptive field of one
        for size, stride in self.pools:
            self.field += (KERNEL - 1) * self.stride
            self.field += (size - 1) * self.stride
            self.stride *= stride
        self.steps = (LENGTH - self.field) // self.stride + 1  # m
        self.mask_padding = options.mask_padding

    def touched(self, lengths: Tensor) -> Tensor:
        """The number of steps whose receptive field holds a character, at least 1, of texts of these lengths."""
        return ((lengths + self.stride - 1) // self.stride).clamp(1, self.steps)

    def forward(self, chars: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (B, L) uint8 characters, 0 for padding; L is at most 201, and best the length of the longest text.

        Steps beyond L see only padding and are equal before the LSTM, so they are computed once and repeated; with
        `mask_padding` they are left out, and m' is the number of steps that L characters touch.  In training, batch
        normalisation takes its statistics from the steps that are computed.

        Returns:
            H (B, m', units), and a mask (B, m') bool of the steps that count.
        """
        length = chars.shape[1]
        longest = int(self.touched(torch.tensor(length)))
        seen = longest if self.mask_padding else min(longest + 1, self.steps)
        x = one_hot_convolution(pad(chars, (0, self.stride * (seen - 1) + self.field - length)), self.convolutions[0])
        for layer, (norm, (size, stride)) in enumerate(zip(self.norms, self.pools, strict=True)):
            x = norm(self.convolutions[layer](x) if layer else x)
            x = max_pool2d(x, (1, size), (1, stride)) if size > 1 else x
            x = torch.relu(x)  # after the pooling, which it commutes with
        if not self.mask_padding and seen < self.steps:
            x = torch.cat([x, x[..., -1:].expand(-1, -1, -1, self.steps - seen)], dim=3)
        H, _ = self.lstm(x.squeeze(2).transpose(1, 2))
        steps = torch.arange(H.shape[1], device=H.device)
        touched = self.touched(lengths(chars)) if self.mask_padding else steps.new_full((len(chars),), self.steps)
        return H, steps < touched[:, None]


def lengths(chars: Tensor) -> Tensor:
    """(T,) number of characters of each text, (T, L)."""
    return (chars > 0).sum(dim=1)


def one_hot_convolution(chars: Tensor, convolution: nn.Module) -> Tensor:
    """A convolution of one-hot characters, (B, L) with 0 for none to (B, C, 1, L - 3), as sums of table rows."""
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    table = pad(convolution.weight.squeeze(2).permute(2, 1, 0), (0, 0, 1, 0))  # (4, 1 + alphabet, C), zero for padding
    offsets = torch.arange(KERNEL, device=chars.device) * table.shape[1]
    windows = chars.long().unfold(1, KERNEL, 1) + offsets
    summed = embedding_bag(windows.reshape(-1, KERNEL), table.flatten(0, 1), mode="sum") + convolution.bias
    return summed.view(len(chars), 1, -1, summed.shape[1]).permute(0, 3, 1, 2)


def unit(x: Tensor) -> Tensor:
    """Vectors of length 1; a zero vector stays zero."""
    length: Tensor = x.norm(dim=-1, keepdim=True)
    return x / length.clamp_min(1e-12)


class Mean(nn.Module):
    """g^t = 1/m sum_k h_k."""

    def weights(self, H: Tensor, counts: Tensor) -> Tensor:
        """(B, m) equal weights for the steps that count."""
        return counts / counts.sum(dim=1, keepdim=True)


class Attention(nn.Module):
    """Attention over steps: M = tanh(W_a H) (Eq. 4), a = softmax(w' M) (Eq. 5)."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        options, units, self.dropout = recipe.encoder, recipe.encoder.sizes.lstm, recipe.plus.attn_dropout
        self.W_a = nn.Linear(units, options.attn_dim, bias=False) if options.attn_proj else nn.Identity()
        self.w = nn.Linear(options.attn_dim if options.attn_proj else units, 1, bias=False)

    def weights(self, H: Tensor, counts: Tensor) -> Tensor:
        """Attention weights a (B, m), which sum to 1 over the steps that count."""
        M = torch.tanh(self.W_a(H))
        u = self.w(M).squeeze(2)
        if self.training and self.dropout:
            # Finite, so that a text whose steps are all left out keeps them all.
            u = u.masked_fill(torch.rand_like(u) < self.dropout, -1e4)
        return torch.softmax(u.masked_fill(~counts, -torch.inf), dim=1)


def in_blocks(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Consecutive blocks of `size` rows."""
    return (rows[a : a + size] for a in range(0, len(rows), size))


def with_existing(rows: FeatureRows | Tensor, exists: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Blocks of (N, dim) features or (N, n, dim) regions, with their mask of existing regions (N, n), None for all."""
    size = max(1, BLOCK * rows.shape[-1] // math.prod(rows.shape[1:]))
    for a in range(0, len(rows), size):
        yield rows[a : a + size], None if exists is None else exists[a : a + size]


def mean_of_existing(rows: Tensor, exists: Tensor | None) -> Tensor:
    """(N, dim) means of the existing regions (N, n, dim); the mean of all rows for an image without any."""
    if exists is None:
        return rows.mean(dim=1)
    weight = torch.where(exists.any(dim=1, keepdim=True), exists, True).float()
    return (rows * weight[:, :, None]).sum(dim=1) / weight.sum(dim=1, keepdim=True)


class Scaling(nn.Module):
    """A fixed affine map of image features before the image layers, fitted on the training images.

    Args:
        recipe: its group `plus` gives the kind of map.
        dim: dimension of the features.
    """

    def __init__(self, recipe: Recipe, dim: int) -> None:
        super().__init__()
        self.kind = recipe.plus.image_scaling
        self.dim = min(recipe.plus.scaled_dim, dim) if self.kind == "cca" else dim  # of the output
        self.mean: Tensor
        self.map: Tensor
        self.length: Tensor  # mean norm of the scaled training rows
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("map", torch.zeros(dim, self.dim) if self.is_projection else torch.ones(dim))
        self.register_buffer("length", torch.ones(()))

    @property
    def is_projection(self) -> bool:
        """Whether the map is a matrix; if not, it scales each column."""
        return self.kind in ("whiten", "cca")

    def fit(
        self,
        rows: FeatureRows | Tensor,
        exists: Tensor | None,
        texts: sparse.csr_array | None,
        image_of: Tensor,
        ridge: float,
    ) -> None:
        """Fit the map to the training images; a constant column is not scaled.

        Args:
            rows: (N, dim) features, or (N, n, dim) for regions.
            exists: (N, n) mask of the regions that exist, or None for all; the others are ignored.
            texts: (T, words) tf-idf, required by `cca`.
            image_of: (T,) image of each text.
            ridge: ridge of `whiten` and `cca`, as a fraction of the largest variance.
        """

        def flat() -> Iterator[Tensor]:
            for block, there in with_existing(rows, exists):
                yield block.flatten(0, -2) if there is None else block[there]

        if self.kind == "standard":
            self.mean, spread = deviations(flat())
            self.map = 1 / spread
        if self.kind == "whiten":
            count = math.prod(rows.shape[:-1]) if exists is None else int(exists.sum())
            C = moments(flat(), torch.zeros(count, 1), torch.arange(count))
            values, V = np.linalg.eigh(C.xx)
            self._take(C.mean_x, (V / np.sqrt(np.maximum(values, 0) + ridge * values[-1])) @ V.T)
        if self.kind == "cca":  # the mean of the regions: a text may be about any of them
            assert texts is not None
            images = (
                block if block.dim() == 2 else mean_of_existing(block, e) for block, e in with_existing(rows, exists)
            )
            C = moments(images, texts, image_of)
            ridges = (ridge * spectral_norm(C.xx), ridge * spectral_norm(C.yy))
            Wx, _, rho = canonical_correlations(C, *ridges, self.dim)
            self._take(C.mean_x, np.pad(Wx * rho, ((0, 0), (0, self.dim - len(rho)))))
        lengths = [self(block).norm(dim=1) for block in flat()]
        self.length = torch.cat(lengths).mean()

    def _take(self, mean: Matrix, projection: Matrix) -> None:
        device = self.mean.device
        self.mean = torch.from_numpy(mean).float().to(device)
        self.map = torch.from_numpy(np.ascontiguousarray(projection)).float().to(device)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., self.dim)."""
        if self.kind == "l2":
            return unit(x)
        centred = x - self.mean
        return centred @ self.map if self.is_projection else centred * self.map


class Level(nn.Module):
    """One of the three subnetworks: a text encoder, its own or a shared one, and fully-connected layers."""

    def __init__(self, recipe: Recipe, encoder: CharacterEncoder, attends: bool) -> None:
        super().__init__()
        self.recipe = recipe
        self.encoder = encoder
        self.pooling: Mean | Attention = Attention(recipe) if attends else Mean()
        self.divides = attends and recipe.encoder.attn_div_m
        self.dropout = nn.Dropout(recipe.encoder.dropout)
        self.text = nn.Linear(recipe.encoder.sizes.lstm, recipe.encoder.sizes.dim)

    def read(self, chars: Tensor) -> Tensor:
        """Pool the encoded steps of (B, L) characters to (B, units): their mean, or (1/m) sum_k a_k h_k."""
        H, counts = self.encoder(chars)
        a = self.pooling.weights(H, counts)
        pooled: Tensor = (a[:, None] @ H).squeeze(1)
        if self.divides:
            pooled = pooled / counts.sum(dim=1, keepdim=True)
        return pooled

    def texts(self, read: Tensor) -> Tensor:
        """Text embeddings (B, dim), g^t, l^t or r^t, of pooled steps (B, units)."""
        embedded: Tensor = self.text(self.dropout(read))
        return self.finish(embedded)

    def start_from(self, encoder: CharacterEncoder) -> None:
        """Copy the weights of a pretrained encoder and set attention to a plain mean."""
        self.encoder.load_state_dict(encoder.state_dict())
        if isinstance(self.pooling, Attention):
            nn.init.zeros_(self.pooling.w.weight)

    def images(self, views: Views) -> Levels:
        """Embeddings of B images on this level."""
        raise NotImplementedError

    def finish(self, x: Tensor, *, image: bool = False) -> Tensor:
        """Apply the last activation (to images only) and the normalisation."""
        x = torch.sigmoid(x) if image and self.recipe.encoder.image_activation == "sigmoid" else x
        return unit(x) if self.recipe.encoder.normalise == "l2" else x


class GlobalLevel(Level):
    """g^i and g^t: the whole image and the whole text."""

    def __init__(self, recipe: Recipe, encoder: CharacterEncoder, image_dim: int, region_dim: int) -> None:
        super().__init__(recipe, encoder, attends=False)
        self.scaling = Scaling(recipe, image_dim)
        self.image = nn.Linear(self.scaling.dim, recipe.encoder.sizes.dim)

    def images(self, views: Views) -> Levels:
        """(B, dim) global embeddings."""
        return Levels(globals=self.finish(self.image(self.dropout(self.scaling(views.globals))), image=True))


class LocalLevel(Level):
    """l^i_1 ... l^i_n and l^t: regions, and the attended steps of the text."""

    # values of the option `geometry` under which box geometry is part of the input
    geometry: ClassVar[tuple[str, ...]] = ("regions",)

    def __init__(self, recipe: Recipe, encoder: CharacterEncoder, image_dim: int, region_dim: int) -> None:
        super().__init__(recipe, encoder, attends=True)
        self.scaling = Scaling(recipe, region_dim)
        self.region_dim = self.scaling.dim + (4 if recipe.plus.geometry in self.geometry else 0)
        self.build_image_layers()

    def build_image_layers(self) -> None:
        """Build the fully-connected layer of regions."""
        self.image = nn.Linear(self.region_dim, self.recipe.encoder.sizes.dim)

    def inputs(self, views: Views) -> Tensor:
        """(B, n, D) scaled region features, followed by their boxes where `geometry` says so."""
        assert views.regions is not None and views.boxes is not None
        x: Tensor = self.dropout(self.scaling(views.regions))
        if self.recipe.plus.geometry not in self.geometry:
            return x
        x0, y0, x1, y1 = views.boxes.unbind(dim=2)
        boxes = torch.stack([x0 + x1 - 1, y0 + y1 - 1, x1 - x0, y1 - y0], dim=2)
        return torch.cat([x, GEOMETRY * self.scaling.length * boxes], dim=2)

    def images(self, views: Views) -> Levels:
        """(B, n, dim) region embeddings."""
        return Levels(regions=self.finish(self.image(self.inputs(views)), image=True), mask=views.mask)


class RelationLevel(LocalLevel):
    """r^i = {l_j; l_k} for every pair of regions, and r^t, the attended steps of the text.

    A linear layer on a concatenation is a sum: W [l_j; l_k] + c = A l_j + (B l_k + c), so pairs stay factored.
    """

    geometry: ClassVar[tuple[str, ...]] = ("relations", "regions")

    def build_image_layers(self) -> None:
        """Build the fully-connected layer of pairs, as its two halves."""
        self.first = nn.Linear(self.region_dim, self.recipe.encoder.sizes.dim, bias=False)
        self.second = nn.Linear(self.region_dim, self.recipe.encoder.sizes.dim)
        bound = (2 * self.region_dim) ** -0.5  # the initialisation of one layer with twice the inputs
        for weights in (*self.first.parameters(), *self.second.parameters()):
            nn.init.uniform_(weights, -bound, bound)

    def images(self, views: Views) -> Levels:
        """Pairs as factors, or as (B, P, dim) embeddings where an activation does not allow factors."""
        x = self.inputs(views)
        first, second = self.first(x), self.second(x)
        kind = self.recipe.encoder.relation_pairs
        if self.recipe.encoder.image_activation == "sigmoid":
            j, k = region_pairs(x.shape[1], kind).to(x.device).T
            return Levels(relations=self.finish(first[:, j] + second[:, k], image=True), mask=views.mask)
        norm = None
        if self.recipe.encoder.normalise == "l2":  # |a_j + b_k|^2 = |a_j|^2 + 2 a_j' b_k + |b_k|^2
            squares = first.square().sum(2)[:, :, None] + second.square().sum(2)[:, None]
            norm = (squares + 2 * first @ second.transpose(1, 2)).clamp_min(1e-12).sqrt()
        return Levels(relations=Relations(first, second, norm, kind), mask=views.mask)


LEVEL_CLASSES: dict[str, type[GlobalLevel | LocalLevel]] = {
    "global": GlobalLevel,
    "local": LocalLevel,
    "relation": RelationLevel,
}

GEOMETRY = 1.5  # scale of box coordinates, which lie in [-1, 1], relative to the norm of region features


class Network(nn.Module):
    """The levels that are trained together, each with its own text encoder or all with one.

    Args:
        recipe: the options.
        levels: names from `LEVELS`.
        image_dim: dimension of the global feature.
        region_dim: dimension of region features; 0 where there are none.
    """

    def __init__(self, recipe: Recipe, levels: Sequence[str], image_dim: int, region_dim: int = 0) -> None:
        super().__init__()
        shared = CharacterEncoder(recipe) if recipe.encoder.encoders == "one" else None
        self.by_name = nn.ModuleDict(
            {
                name: LEVEL_CLASSES[name](recipe, shared or CharacterEncoder(recipe), image_dim, region_dim)
                for name in levels
            }
        )

    @property
    def levels(self) -> dict[str, GlobalLevel | LocalLevel]:
        """The subnetworks by name."""
        return cast("dict[str, GlobalLevel | LocalLevel]", dict(self.by_name.items()))

    def fit_scaling(
        self, views: ViewRows | Views, texts: sparse.csr_array | None, image_of: Tensor, ridge: float
    ) -> None:
        """Fit the scaling of each level to the training images, with the arguments of `Scaling.fit`."""
        for name, level in self.levels.items():
            rows = views.globals if name == "global" else views.regions
            assert rows is not None
            level.scaling.fit(rows, None if name == "global" else views.mask, texts, image_of, ridge)

    def forward(self, views: Views, texts: Tensor | Mapping[str, Tensor]) -> tuple[Levels, Levels]:
        """Embeddings of images and of texts in a training step.

        Args:
            views: features of the images.
            texts: the characters (B, L) of a batch, or the outputs of `read` where they are known already.
        """
        read = self.read(texts) if isinstance(texts, Tensor) else texts
        return self.images(views), self.texts(read)

    def share(self, processes: Processes) -> None:
        """Share the statistics of batch normalisation between processes that share a batch."""
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.shared_by = processes

    def read(self, chars: Tensor) -> dict[str, Tensor]:
        """The pooled steps (B, units) of every level, of (B, L) characters."""
        return {name: level.read(chars) for name, level in self.levels.items()}

    def texts(self, read: Mapping[str, Tensor]) -> Levels:
        """Text embeddings on every level from the pooled steps of `read`."""
        return Levels(**{FIELD[name]: level.texts(read[name]) for name, level in self.levels.items()})

    def images(self, views: Views) -> Levels:
        """Embeddings of B images on every level."""
        return join(level.images(views) for level in self.levels.values())


FIELD = {"global": "globals", "local": "regions", "relation": "relations"}


def join(embeddings: Iterable[Levels]) -> Levels:
    """Join embeddings of different levels."""
    joined: dict[str, Tensor | Relations] = {}
    for embedding in embeddings:
        joined |= {name: value for name, value in vars(embedding).items() if value is not None}
    return Levels(**joined)  # type: ignore[arg-type]


def only(embedding: Levels, name: str) -> Levels:
    """One level of an embedding."""
    return Levels(**{FIELD[name]: getattr(embedding, FIELD[name])}, mask=embedding.mask)
