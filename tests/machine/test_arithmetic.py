"""Products are computed as their dtype says, whatever torch's settings are, and the settings come back as they were."""

import pytest
import torch
from torch import backends

from cran_bench.machine.arithmetic import in_full_precision, reproducible, uses_onednn

CPU = torch.device("cpu")
PLACES = [(kind, part) for kind in ("cuda", "mkldnn") for part in ("all", "matmul", "conv", "rnn")]


def settings():
    """All settings; of the older ones, that they cannot be read where they contradict the newer ones."""
    read = [(torch.get_float32_matmul_precision), lambda: backends.cudnn.allow_tf32]
    values = [torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()]
    values += [backends.cudnn.benchmark, backends.cuda.matmul.allow_bf16_reduced_precision_reduction]
    values += [getattr(backends.cuda.matmul, "allow_bf16_reduced_precision_reduction_split_k", None)]
    for getter in read:
        try:
            values.append(getter())
        except RuntimeError:
            values.append("contradictory")
    newer = getattr(torch._C, "_get_fp32_precision_getter", None)
    return values + ([newer(*place) for place in PLACES] if newer else [])


def put(owner, name, value):
    return lambda: setattr(owner, name, value)


NEW = [
    put(backends, "fp32_precision", "tf32"),
    put(backends.cudnn, "fp32_precision", "tf32"),
    put(backends.cuda.matmul, "fp32_precision", "tf32"),
    put(getattr(backends.mkldnn, "matmul", None), "fp32_precision", "bf16"),
    put(getattr(backends.cudnn, "conv", None), "fp32_precision", "ieee"),
]
OLD = [
    lambda: None,
    lambda: torch.set_float32_matmul_precision("high"),
    lambda: torch.set_float32_matmul_precision("medium"),
    lambda: torch.use_deterministic_algorithms(True),
    put(backends.cudnn, "allow_tf32", False),
    put(backends.cudnn, "benchmark", True),
    put(backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
]


@pytest.fixture
def afterwards():
    """What a fresh process has, after the test."""
    yield
    torch.use_deterministic_algorithms(False)
    backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    backends.cudnn.benchmark = False
    if hasattr(backends.cuda.matmul, "fp32_precision"):
        for owner in (backends, backends.cudnn, backends.cuda.matmul, *vars_of(backends.mkldnn)):
            owner.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.conv.fp32_precision = backends.cudnn.rnn.fp32_precision = "tf32"
        for owner in (backends.cuda.matmul, *vars_of(backends.mkldnn)):
            owner.fp32_precision = "none"
    else:
        torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = True


def vars_of(mkldnn):
    return mkldnn.matmul, mkldnn.conv, mkldnn.rnn


@pytest.mark.parametrize("user", [*OLD, *(NEW if hasattr(backends.cuda.matmul, "fp32_precision") else [])])
def test_products_are_exact_inside_and_the_settings_of_the_user_come_back(afterwards, user):
    user()
    before = settings()
    with pytest.raises(KeyError), in_full_precision(CPU):
        inside = settings()
        assert inside[3] is False and inside[5:7] == ["medium" if uses_onednn() else "highest", False]
        medium = {("cuda", "matmul"): "tf32", ("mkldnn", "matmul"): "bf16"} if uses_onednn() else {}
        for place, precision in zip(PLACES, inside[7:], strict=False):
            assert place[1] == "all" or precision == medium.get(place, "ieee")
        raise KeyError
    assert settings() == before


def test_what_is_inherited_stays_inherited(afterwards):
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        pytest.skip("torch 2.8 has no such settings")
    with in_full_precision(CPU):
        pass
    backends.fp32_precision = "tf32"
    assert backends.cuda.matmul.fp32_precision == backends.mkldnn.matmul.fp32_precision == "tf32"


def test_a_processor_needs_no_deterministic_algorithms(afterwards):
    with reproducible(CPU):
        assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("shape", [(1, 64, 64), (50, 512, 2048), (250, 132, 512), (512, 3000, 40)])
def test_products_on_this_processor_keep_the_bits_of_float32(shape):
    n, k, m = shape
    draw = torch.Generator().manual_seed(0)
    x, y = torch.rand(n, k, generator=draw), torch.rand(k, m, generator=draw)
    exact = x.double() @ y.double()
    with in_full_precision(CPU):
        for product in (x @ y, torch.addmm(torch.zeros(m), x, y), (x[None] @ y[None])[0], (y.T @ x.T).T):
            torch.testing.assert_close(product.double(), exact, rtol=3e-6, atol=0)


def test_a_processor_that_computes_in_bfloat16_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert not uses_onednn.__wrapped__()
