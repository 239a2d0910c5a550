"""DCCA: deep canonical correlation analysis, a row of Tables 1 and 2.

    max  corr(f(x), g(y)) = |S11^(-1/2) S12 S22^(-1/2)|_*,     S11 = cov f(x) + r I,  S22 likewise

over a network f for images and a network g for texts, by gradient ascent on large batches, followed by linear CCA of
the networks' outputs for the training data.  G. Andrew, R. Arora, J. Bilmes, K. Livescu, "Deep canonical correlation
analysis", ICML 2013; F. Yan, K. Mikolajczyk, "Deep correlation for matching images and text", CVPR 2015.

Memory: the features of images where they are few, see docs/scaling.md, the outputs of both networks, and a batch with
its gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cran_bench import Run, Split, register, say
from cran_bench.toolbox.kernels import by_blocks, dense, require_varied
from cran_bench.toolbox.linalg import canonical_correlations, covariance_bytes, moments, spectral_norm
from cran_bench.toolbox.states import below, with_prefix
from cran_bench.toolbox.training import Training

from ._linear import WORDS_BYTES, LinearMethod

PAPER = {
    "image": "l2",
    "sublinear": False,
    "hidden_image": (),
    "hidden_text": (1024, 1024),
    "output_dim": 128,
    "batch_size": 1000,
    "dropout": 0.0,
    "dim": (128,),
    "power": (0.0,),
    "ridge_image": (1e-3,),
    "ridge_text": (1e-3,),
    "lr": 1e-3,
    "epochs": 50,
    "patience": 0,
}
"""Widths and constants of public code for images and texts; Yan and Mikolajczyk give none."""


def network(inputs: int, hidden: tuple[int, ...], out: int, activation: str, dropout: float) -> nn.Sequential:
    """Linear layers with batch normalisation and an activation between them; there is none after the last."""
    layers: list[nn.Module] = []
    for width in hidden:
        act = {"elu": nn.ELU, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}[activation]()
        layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), act, nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(nn.Dropout(dropout), *layers, nn.Linear(inputs, out))


@register(
    "dcca",
    paper_row="DCCA",
    presets={"paper": PAPER, "tuned": {}, "quick": {"epochs": 5}},
    search={
        "lr": (5e-4, 1e-3, 2e-3, 5e-3),
        "output_dim": (128, 256, 512),
        "dropout": (0.0, 0.2, 0.4),
        "weight_decay": (1e-5, 1e-4, 1e-3),
    },
)
@dataclass
class DCCA(LinearMethod):
    """Deep CCA.

    Attributes:
        hidden_image: units of the hidden layers of f; empty for a linear f.
        hidden_text: units of the hidden layers of g.  On a few thousand images all hidden layers that we tried overfit,
            and linear networks with dropout did best.
        activation: activation of the hidden layers.
        output_dim: output dimension o of each network; at most a quarter of the training texts.
        regularisation: r, added to the variances of the outputs.
        dropout: dropout rate of each layer's inputs.
        weight_decay: weight decay of both networks.
        batch_size: smallest number of texts in a batch, at least o.  Several times o is better, as correlations of few
            samples are large for any networks.
        lr: learning rate of Adam.
        epochs: largest number of epochs.
        patience: epochs without a better rsum on validation before training ends; 0 to train for all `epochs`.
        ridge_image: image ridge of the final CCA, as a fraction of the largest variance of the outputs of f.
        ridge_text: text ridge of the final CCA, as a fraction of the largest variance of the outputs of g.
    """

    hidden_image: tuple[int, ...] = ()
    hidden_text: tuple[int, ...] = ()
    activation: Literal["elu", "relu", "sigmoid"] = "elu"
    output_dim: int = 256
    regularisation: float = 1e-3
    dropout: float = 0.2
    weight_decay: float = 1e-4
    batch_size: int = 2000
    lr: float = 2e-3
    epochs: int = 20
    patience: int = 8
    ridge_image: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    ridge_text: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < self.output_dim:
            raise ValueError(
                f"batch_size is {self.batch_size}, below the {self.output_dim} outputs of a network: correlations of "
                "fewer samples than outputs are all 1; several times as many are better"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is at least 0 and below 1, not {self.dropout}")
        if self.regularisation < 0:
            raise ValueError(f"regularisation is at least 0, not {self.regularisation:g}")

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Train the networks; then compute CCA of their best outputs for the whole training data."""
        self.begin(run)
        X, Y, owner = self.image_rows(train), self.text_features(train), train.image_of
        require_varied("image features", X)
        require_varied("text features", Y)
        out = min(self.output_dim, max(1, len(owner) // 4))
        if out < self.output_dim:
            say(f"dcca: {len(owner)} texts are too few for {self.output_dim} outputs of a network; it has {out}")
        self._build(X.shape[1], Y.shape[1], out)
        self.networks.to(run.device)
        count = max(1, len(owner) // self.batch_size)

        def batches(epoch: int, generator: torch.Generator) -> Iterator[Tensor]:
            yield from torch.tensor_split(torch.randperm(len(owner), generator=generator), count)

        def loss(rows: Tensor) -> Tensor:
            images = self.networks["image"](X[owner[rows]])
            texts = self.networks["text"](dense(Y[rows.numpy()]).to(images))
            return -total_correlation(images, texts, self.regularisation)

        def validate() -> dict[str, float]:
            C = moments(self.image_view(train), self.text_view(train), owner)
            self.centre(C.mean_x, C.mean_y, run)
            rx, ry = 1e-3 * spectral_norm(C.xx), 1e-3 * spectral_norm(C.yy)
            Wx, Wy, rho = canonical_correlations(C, rx, ry, out)
            A, B = (torch.from_numpy(W * rho).to(run.device) for W in (Wx, Wy))
            scored = run.score(self.project_images(val, A), self.project_texts(val, B))
            return {**scored.curve, "correlation": float(rho.sum())}

        Training(
            module=self.networks,
            optimizer=torch.optim.Adam(self.networks.parameters(), self.lr, weight_decay=self.weight_decay, fused=True),
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
        """Bytes of image features, the networks' outputs and covariances, and weights with their moments in Adam."""
        p, q, texts = train.image_dim, self.text_dim(train), len(train.texts)
        out = self.output_dim
        layers = [*pairwise((p, *self.hidden_image, out)), *pairwise((q, *self.hidden_text, out))]
        weights, widest = sum(a * b for a, b in layers), max(map(max, layers))
        batch = 32 * self.batch_size * (p + q + widest * len(layers))
        outputs = 16 * texts * out + covariance_bytes(out, out)
        rows = train.image_rows.held + self.encoded_bytes(train) + WORDS_BYTES * texts
        return rows + 24 * weights + batch + outputs

    def _build(self, p: int, q: int, out: int) -> None:
        sides = {"image": (p, self.hidden_image), "text": (q, self.hidden_text)}
        self.networks = nn.ModuleDict(
            {side: network(n, hidden, out, self.activation, self.dropout) for side, (n, hidden) in sides.items()}
        )

    def image_view(self, split: Split) -> Iterator[Tensor]:
        """Yield blocks of (n, o) outputs of f."""
        with torch.inference_mode():
            yield from (self.networks["image"](block) for block in super().image_view(split))

    def text_view(self, split: Split) -> Tensor:
        """(T, o) outputs of g."""
        with torch.inference_mode():
            return by_blocks(self.networks["text"], self.text_features(split), split.image_of.device)

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), **with_prefix("networks", self.networks.state_dict())}

    def load(self, state: dict[str, Tensor]) -> None:
        super().load(state)
        weights = below("networks", state)
        matrices = {side: [W for W in below(side, weights).values() if W.ndim == 2] for side in ("image", "text")}
        self._build(matrices["image"][0].shape[1], matrices["text"][0].shape[1], len(matrices["text"][-1]))
        self.networks.load_state_dict(weights)
        self.networks.to(state["mean_x"].device).eval()


def total_correlation(H1: Tensor, H2: Tensor, ridge: float) -> Tensor:
    """The sum of the canonical correlations of two sets of outputs, differentiable in both.

    Products with the outputs are computed in their own type, and those of (o, o) matrices in float64.

    Args:
        H1: (n, o) outputs of f.
        H2: (n, o) outputs of g.
        ridge: r, added to the variances.

    Returns:
        A scalar, at most o.
    """
    correlation: Tensor = _TotalCorrelation.apply(H1, H2, ridge)  # type: ignore[no-untyped-call]
    return correlation


class _TotalCorrelation(torch.autograd.Function):
    """From the singular value decomposition T = U D V', where T = L1^-1 S12 L2^-T, S = L L', and H is centred.

        corr = tr D,   d corr / d H1 = (H2 B - H1 A D) A' / (n - 1),   A = L1^-T U,   B = L2^-T V

    and likewise for H2: Eqs. 11-13 of Andrew et al., for Cholesky factors in place of symmetric roots of S.
    """

    @staticmethod
    def forward(ctx: Any, H1: Tensor, H2: Tensor, ridge: float) -> Tensor:
        H1, H2 = H1 - H1.mean(dim=0), H2 - H2.mean(dim=0)
        scale = 1 / (len(H1) - 1)
        L1, L2 = (torch.linalg.cholesky(_covariance(H, scale, ridge)) for H in (H1, H2))
        half = torch.linalg.solve_triangular(L1, scale * (H1.T @ H2).double(), upper=False)
        T = torch.linalg.solve_triangular(L2, half.T, upper=False).T
        values, U = torch.linalg.eigh(T @ T.T)
        D = values.clamp_min(1e-12 * values[-1]).sqrt()
        ctx.save_for_backward(H1, H2, L1, L2, T, U, D)
        correlation: Tensor = D.sum().to(H1)
        return correlation

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        H1, H2, L1, L2, T, U, D = ctx.saved_tensors
        A = torch.linalg.solve_triangular(L1.T, U, upper=True)  # L1^-T U
        B = torch.linalg.solve_triangular(L2.T, T.T @ (U / D), upper=True)  # L2^-T V
        scale, A, B, D = grads[0] / (len(H1) - 1), A.to(H1), B.to(H1), D.to(H1)
        P, Q = H1 @ A, H2 @ B
        return scale * (Q - P * D) @ A.T, scale * (P - Q * D) @ B.T, None


def _covariance(H: Tensor, scale: float, ridge: float) -> Tensor:
    S = scale * (H.T @ H).double()
    S.diagonal().add_(ridge)
    return S
