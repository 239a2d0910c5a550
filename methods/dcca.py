"""DCCA: deep canonical correlation analysis, a row of Tables 1 and 2.

    max  corr(f(x), g(y)) = |S11^(-1/2) S12 S22^(-1/2)|_*,     S11 = cov f(x) + r I,  S22 likewise

over a network f for images and a network g for texts, by gradient on large batches; linear CCA of what the networks say
of the training data comes on top.  G. Andrew, R. Arora, J. Bilmes, K. Livescu, "Deep canonical correlation analysis",
ICML 2013; F. Yan, K. Mikolajczyk, "Deep correlation for matching images and text", CVPR 2015.

Memory: the images' features where they are few, see docs/scaling.md, the outputs of both networks, and a batch with its
gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cran_bench import Run, Split, register
from cran_bench.machine.progress import say
from cran_bench.toolbox.kernels import by_blocks, dense
from cran_bench.toolbox.linalg import canonical_correlations, covariance_bytes, moments, spectral_norm
from cran_bench.toolbox.states import below, with_prefix
from cran_bench.toolbox.training import Training

from ._linear import WORDS_BYTES, LinearMethod

PAPER = {
    "image": "l2",
    "hidden_image": (),
    "hidden_text": (1024, 1024),
    "out": 128,
    "batch_size": 1000,
    "dropout": 0.0,
    "dim": (128,),
    "power": (0.0,),
    "ridge_image": (1e-3,),
    "ridge_text": (1e-3,),
    "epochs": 50,
    "patience": 0,
}
"""Widths and constants of public code for images and texts; Yan and Mikolajczyk give none."""


def network(inputs: int, hidden: tuple[int, ...], out: int, activation: str, dropout: float) -> nn.Sequential:
    """Linear layers with batch normalisation and an activation between them; the last layer is linear."""
    layers: list[nn.Module] = []
    for width in hidden:
        act = {"elu": nn.ELU, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}[activation]()
        layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), act, nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(nn.Dropout(dropout), *layers, nn.Linear(inputs, out))


@register("dcca", paper_row="DCCA", presets={"paper": PAPER, "tuned": {}, "quick": {"epochs": 5}})
@dataclass
class DCCA(LinearMethod):
    """Hyper-parameters beyond those of every linear method, whose features the networks read.

    Attributes:
        hidden_image: units of f's hidden layers; none for a linear f.
        hidden_text: units of g's hidden layers; on a few thousand images every hidden layer that we tried learned them
            by heart, and linear networks with dropout did best.
        activation: of the hidden layers.
        out: o, outputs of each network; at most a quarter of the training texts.
        regular: r, as the outputs are.
        dropout: share of each layer's inputs that a step of training leaves out.
        decay: of the weights.
        batch_size: texts of a step at least; at least o, and better several times as many: correlations of few samples
            are large whatever the networks say.
        lr: of Adam.
        epochs: passes over the training texts at most.
        patience: passes without a better rsum on validation before it ends; 0 for none.
        ridge_image: of the CCA on top, as a fraction of the largest variance of f's outputs.
        ridge_text: likewise of g's.
    """

    hidden_image: tuple[int, ...] = ()
    hidden_text: tuple[int, ...] = ()
    activation: Literal["elu", "relu", "sigmoid"] = "elu"
    out: int = 256
    regular: float = 1e-3
    dropout: float = 0.2
    decay: float = 1e-4
    batch_size: int = 2000
    lr: float = 1e-3
    epochs: int = 40
    patience: int = 8
    ridge_image: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    ridge_text: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < self.out:
            raise ValueError(
                f"batch_size is {self.batch_size}, below the {self.out} outputs of a network: correlations of fewer "
                "samples than outputs are all 1; several times as many are better"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is at least 0 and below 1, not {self.dropout}")
        if self.regular < 0:
            raise ValueError("regular is not negative")

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """The networks; then CCA of what the best of them say of the whole training data."""
        self.begin(run)
        X, Y, owner = self.image_rows(train), self.text_features(train), train.image_of
        out = min(self.out, max(1, len(owner) // 4))
        if out < self.out:
            say(f"dcca: {len(owner)} texts are too few for {self.out} outputs of a network; it has {out}")
        self._build(X.shape[1], Y.shape[1], out)
        self.networks.to(run.device)
        count = max(1, len(owner) // self.batch_size)

        def batches(epoch: int, generator: torch.Generator) -> Iterator[Tensor]:
            yield from torch.tensor_split(torch.randperm(len(owner), generator=generator), count)

        def loss(rows: Tensor) -> Tensor:
            images = self.networks["image"](X[owner[rows]])
            texts = self.networks["text"](dense(Y[rows.numpy()]).to(images))
            return -total_correlation(images.double(), texts.double(), self.regular)

        def validate() -> dict[str, float]:
            C = moments(self.image_view(train), self.text_view(train), owner)
            self.centre(C.mean_x, C.mean_y, run)
            rx, ry = 1e-3 * spectral_norm(C.xx), 1e-3 * spectral_norm(C.yy)
            Wx, Wy, rho = canonical_correlations(C, rx, ry, out)
            A, B = (torch.from_numpy(W * rho).to(run.device) for W in (Wx, Wy))
            rsum = run.score(self.project_images(val, A), self.project_texts(val, B)).rsum
            return {"rsum": rsum, "correlation": float(rho.sum())}

        Training(
            module=self.networks,
            optimizer=torch.optim.Adam(self.networks.parameters(), lr=self.lr, weight_decay=self.decay),
            steps=count,
            batches=batches,
            loss=loss,
            validate=validate,
            epochs=self.epochs,
            patience=self.patience,
        ).run(run)
        self.networks.eval()
        self.correlate(self.moments(train, run), val, run, self.ridge_image, self.ridge_text)

    def memory(self, train: Split) -> int:
        """Features that are held; outputs of both networks and their covariances; weights with what Adam keeps."""
        p, q, texts = train.image_dim, self.text_dim(train), len(train.texts)
        layers = [*pairwise((p, *self.hidden_image, self.out)), *pairwise((q, *self.hidden_text, self.out))]
        weights, widest = sum(a * b for a, b in layers), max(map(max, layers))
        batch = 32 * self.batch_size * (p + q + widest * len(layers))
        outputs = 16 * texts * self.out + covariance_bytes(self.out, self.out)
        return train.image_rows.held + WORDS_BYTES * texts + 24 * weights + batch + outputs

    def _build(self, p: int, q: int, out: int) -> None:
        sides = {"image": (p, self.hidden_image), "text": (q, self.hidden_text)}
        self.networks = nn.ModuleDict(
            {side: network(n, hidden, out, self.activation, self.dropout) for side, (n, hidden) in sides.items()}
        )

    def image_view(self, split: Split) -> Iterator[Tensor]:
        """Blocks of (n, o) outputs of f."""
        with torch.inference_mode():
            yield from (self.networks["image"](block) for block in super().image_view(split))

    def text_view(self, split: Split) -> Tensor:
        """(T, o) outputs of g."""
        with torch.inference_mode():
            return by_blocks(self.networks["text"], self.text_features(split), split.image_of.device)

    def state(self) -> dict[str, Tensor]:
        """Those of the projections, and the networks' weights."""
        return {**super().state(), **with_prefix("networks", self.networks.state_dict())}

    def load(self, state: dict[str, Tensor]) -> None:
        """See `state`."""
        super().load(state)
        weights = below("networks", state)
        matrices = {side: [W for W in below(side, weights).values() if W.ndim == 2] for side in ("image", "text")}
        self._build(matrices["image"][0].shape[1], matrices["text"][0].shape[1], len(matrices["text"][-1]))
        self.networks.load_state_dict(weights)
        self.networks.to(state["mean_x"].device).eval()


def total_correlation(H1: Tensor, H2: Tensor, ridge: float) -> Tensor:
    """The sum of the canonical correlations of two outputs, differentiable in both.

    Args:
        H1: (n, o) float64.
        H2: (n, o) likewise.
        ridge: r.

    Returns:
        A scalar, at most o.
    """
    found: Tensor = _TotalCorrelation.apply(H1, H2, ridge)  # type: ignore[no-untyped-call]
    return found


class _TotalCorrelation(torch.autograd.Function):
    """With the singular value decomposition T = U D V', where T = L1^-1 S12 L2^-T and S = L L', and centred H.

        corr = tr D,   d corr / d H1 = (H2 B - H1 A D) A' / (n - 1),   A = L1^-T U,   B = L2^-T V

    and likewise for H2: Eqs. 11-13 of Andrew et al., for Cholesky factors in place of symmetric roots of S.
    """

    @staticmethod
    def forward(ctx: Any, H1: Tensor, H2: Tensor, ridge: float) -> Tensor:
        H1, H2 = H1 - H1.mean(dim=0), H2 - H2.mean(dim=0)
        scale = 1 / (len(H1) - 1)
        L1, L2 = (torch.linalg.cholesky(_covariance(H, scale, ridge)) for H in (H1, H2))
        half = torch.linalg.solve_triangular(L1, scale * (H1.T @ H2), upper=False)
        T = torch.linalg.solve_triangular(L2, half.T, upper=False).T
        values, U = torch.linalg.eigh(T @ T.T)
        D = values.clamp_min(1e-12 * values[-1]).sqrt()
        ctx.save_for_backward(H1, H2, L1, L2, T, U, D)
        found: Tensor = D.sum()
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        H1, H2, L1, L2, T, U, D = ctx.saved_tensors
        A = torch.linalg.solve_triangular(L1.T, U, upper=True)  # L1^-T U
        B = torch.linalg.solve_triangular(L2.T, T.T @ (U / D), upper=True)  # L2^-T V
        scale = grads[0] / (len(H1) - 1)
        P, Q = H1 @ A, H2 @ B
        return scale * (Q - P * D) @ A.T, scale * (P - Q * D) @ B.T, None


def _covariance(H: Tensor, scale: float, ridge: float) -> Tensor:
    found = scale * (H.T @ H)
    found.diagonal().add_(ridge)
    return found
