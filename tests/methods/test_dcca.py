"""DCCA: its objective and gradient, and linear networks against CCA in closed form."""

import numpy as np
import pytest
import torch

from cran_bench.methods.dcca import DCCA, network, total_correlation
from cran_bench.registry import METHODS
from cran_bench.running.fits import FitStore
from cran_bench.similarity import COSINE
from cran_bench.toolbox.linalg import canonical_correlations, moments


def outputs(n=40, o=5, seed=0):
    torch.manual_seed(seed)
    H1 = torch.randn(n, o, dtype=torch.float64)
    return H1, H1 @ torch.randn(o, o, dtype=torch.float64) + torch.randn(n, o, dtype=torch.float64)


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_the_objective_is_the_sum_of_singular_values(ridge):
    H1, H2 = outputs()
    a, b = (H.numpy() - H.numpy().mean(axis=0) for H in (H1, H2))
    S = [view.T @ view / 39 + ridge * np.eye(5) for view in (a, b)]
    roots = []
    for matrix in S:
        values, vectors = np.linalg.eigh(matrix)
        roots.append(vectors / np.sqrt(values) @ vectors.T)
    expected = np.linalg.svd(roots[0] @ (a.T @ b / 39) @ roots[1], compute_uv=False).sum()
    assert float(total_correlation(H1, H2, ridge)) == pytest.approx(expected, rel=1e-10)
    single = total_correlation(H1.float(), H2.float(), ridge)
    assert single.dtype == torch.float32 and float(single) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_that_of_central_differences():
    H1, H2 = (H.requires_grad_() for H in outputs())
    assert torch.autograd.gradcheck(
        lambda a, b: total_correlation(a, b, 1e-3), (H1, H2), eps=1e-6, atol=1e-6, rtol=1e-6
    )


def test_an_output_is_fully_correlated_with_itself_and_with_its_linear_maps():
    H1, H2 = outputs()
    assert float(total_correlation(H1, H1, 0.0)) == pytest.approx(5, rel=1e-6)
    A = torch.randn(5, 5, dtype=torch.float64)
    same = float(total_correlation(H1 @ A + 3, H2, 0.0))
    assert same == pytest.approx(float(total_correlation(H1, H2, 0.0)), rel=1e-8)


def test_linear_networks_reach_cca():
    random = np.random.default_rng(0)
    z = random.normal(size=(200, 3))
    X, Y = (
        torch.from_numpy(z @ random.normal(size=(3, p)) + random.normal(size=(200, p))).float().double() for p in (8, 6)
    )
    torch.manual_seed(0)
    nets = [network(p, (), 6, "elu", 0.0).double() for p in (8, 6)]
    optimizer = torch.optim.LBFGS(
        [w for net in nets for w in net.parameters()], max_iter=500, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = -total_correlation(nets[0](X), nets[1](Y), 0.0)
        loss.backward()
        return loss

    optimizer.step(closure)
    rho = canonical_correlations(moments([X], Y, torch.arange(200)), 0.0, 0.0, 6)[2]
    assert -float(closure().detach()) == pytest.approx(rho.sum(), abs=1e-3)


SMALL = {
    "text": "vectors",
    "image": "none",
    "output_dim": 4,
    "batch_size": 60,
    "dropout": 0.0,
    "dim": (4,),
    "power": (0.0,),
}


def test_noise_has_no_correlation_on_other_data(plain_split, run_on):
    torch.manual_seed(0)
    train, val = (plain_split(torch.randn(300, 6), torch.randn(300, 6)) for _ in range(2))
    run = run_on(val, COSINE)
    run.progress = lambda items, label, total, done=0: iter(items)
    run.log, run.checkpoint, run.resume = lambda **values: None, lambda state, at="": None, lambda: None
    method = DCCA(**{**SMALL, "batch_size": 300}, hidden_text=(16,), epochs=30)
    method.fit(train, val, run)
    a, b = (side.numpy() for side in (method.embed_images(val), method.embed_texts(val)))
    assert max(abs(np.corrcoef(a[:, k], b[:, k])[0, 1]) for k in range(4)) < 0.2


def test_few_texts_have_few_outputs(tiny, tmp_path, capsys):
    store = FitStore(tmp_path, {}, tiny.train, tiny.val, torch.device("cpu"))
    method = store.fitted(METHODS.configure("dcca[epochs=1,dim=500]").build(), 0, "dcca").part
    texts = len(tiny.train.texts)
    assert f"{texts} texts are too few for 256 outputs of a network; it has {texts // 4}" in capsys.readouterr().err
    assert method.embed_texts(tiny.test).shape[1] <= texts // 4


def test_a_fit_comes_back_from_the_store(comes_back):
    comes_back("dcca[output_dim=8,epochs=4,batch_size=60,hidden_image=16,dim=8]")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"output_dim": 100, "batch_size": 60},
            "batch_size is 60, below the 100 outputs of a network: correlations of",
        ),
        ({"dropout": 1.0}, "dropout is at least 0 and below 1"),
        ({"regularisation": -1.0}, "regularisation is at least 0, not -1"),
    ],
)
def test_fields_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        DCCA(**options)
