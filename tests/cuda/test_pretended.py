"""The pretended GPU refuses what a real one refuses, and counts what it is there to count."""

import warnings

import pytest
import torch
from pretended_cuda import CUDA, DeviceError, Pretended
from torch import nn


@pytest.mark.parametrize(
    "mixed",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.ones(3) @ x,
        lambda x: torch.cat([x, torch.ones(3)]),
        lambda x: x.index_select(0, torch.tensor([1])),
        lambda x: torch.ones(3)[x.long()],
        lambda x: x.__setitem__(torch.tensor([0, 1]), torch.ones(2)),
        lambda x: nn.Linear(3, 2)(x),
        lambda x: x.numpy(),
        lambda x: torch.randn(3, device="cuda", generator=torch.Generator()),
        lambda x: torch.randn(3, generator=torch.Generator("cuda")),
    ],
)
def test_what_lies_on_two_devices_is_refused(gpu, mixed):
    with pytest.raises((DeviceError, TypeError)):
        mixed(torch.zeros(3, device="cuda"))


def test_what_cuda_allows_is_allowed(gpu):
    x = torch.arange(4.0, device="cuda")
    assert (x * torch.tensor(2.0)).tolist() == [0, 2, 4, 6] and x[torch.tensor([1, 3])].tolist() == [1, 3]
    x[torch.tensor([0])] = 5
    assert x.cpu()[0] == 5 and torch.ones(4)[x.cpu() > 1].shape == (3,)
    assert torch.randn(2, device="cuda", generator=torch.Generator("cuda").manual_seed(0)).device == CUDA


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.tensor([1.0], device="cuda"),
        lambda: torch.as_tensor([1.0], device=CUDA),
        lambda: torch.ones(1).to("cuda"),
        lambda: torch.ones(1).to(torch.zeros(2, device="cuda")),
        lambda: torch.zeros(1, device="cuda").new_tensor([1.0]),
        lambda: torch.ones(1, device="cuda").double().to(torch.float32),
        lambda: torch.from_numpy(torch.ones(1).numpy()).to(CUDA, torch.float32),
        lambda: nn.Parameter(torch.ones(1)).to("cuda"),
    ],
)
def test_tensors_are_made_on_it(gpu, make):
    x = make()
    assert isinstance(x, Pretended) and x.is_cuda and x.device == CUDA and x.tolist() == [1]
    assert x.to("cuda") is x and type(x.cpu()) is torch.Tensor


def test_waits_for_the_device_are_counted(gpu):
    x = torch.arange(4.0, device="cuda")
    for waits in (
        lambda: float(x.sum()),
        lambda: x[x > 1],
        lambda: (x > 1).nonzero(),
        lambda: torch.equal(x, x),
        lambda: x.tolist(),
        lambda: x.cpu(),
        lambda: torch.cuda.synchronize(),
        lambda: torch.bincount(x.long()),
        lambda: bool((x > 1).any()),
    ):
        gpu.reset()
        waits()
        assert gpu.syncs.total() == 1
    gpu.reset()
    x[x > 1] = 0.0
    y = torch.where(x > 1, x, 0.0).view(2, 2)[0]
    torch.zeros_like(y).copy_(y).to("cpu", non_blocking=True)
    assert not gpu.syncs.total() and gpu.launches.total() == 8
    y.copy_(torch.zeros(2))
    assert gpu.uploads.total() == 1


RECURRENT = [("Adam", nn.LSTM), ("fused", nn.LSTM), ("fused", nn.GRU), ("SGD", nn.LSTM), ("RMSprop", nn.LSTM)]


@pytest.mark.parametrize(("optimiser", "recurrent"), RECURRENT)
def test_a_network_learns_as_on_the_cpu(gpu, optimiser, recurrent):
    def weights(device):
        torch.manual_seed(0)
        network = nn.ModuleList([recurrent(3, 4, batch_first=True), nn.BatchNorm1d(4), nn.Linear(4, 2)]).to(device)
        kind = getattr(torch.optim, "Adam" if optimiser == "fused" else optimiser)
        learning = kind(network.parameters(), lr=0.1, **({"fused": True} if optimiser == "fused" else {}))
        for _ in range(3):
            x = torch.linspace(0, 1, 30).view(2, 5, 3).to(device)
            h, _ = network[0](nn.functional.dropout(x, 0.5))
            learning.zero_grad()
            network[2](network[1](h[:, -1])).square().sum().backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            learning.step()
        return network.state_dict(), learning

    (given, learning), (expected, _) = weights("cuda"), weights("cpu")
    assert not gpu.syncs.total() and all(isinstance(x, Pretended) for x in given.values())
    for name, x in given.items():
        torch.testing.assert_close(x.cpu(), expected[name], rtol=1e-5, atol=1e-6)
    steps = {type(state["step"]) for state in learning.state_dict()["state"].values() if "step" in state}
    assert steps <= ({Pretended} if optimiser == "fused" else {torch.Tensor})


def test_float_sums_in_any_order_are_noted_unless_torch_is_told_otherwise(gpu):
    x, rows = torch.zeros(2, device="cuda"), torch.zeros(3, dtype=torch.int64, device="cuda")
    x.index_put_((rows,), torch.ones(3, device="cuda"), accumulate=True)  # which sorts
    x.int().index_add_(0, rows, torch.ones(3, dtype=torch.int32, device="cuda"))
    assert not +gpu.unordered
    x.index_add_(0, rows, torch.ones(3, device="cuda"))
    assert gpu.unordered.total() == 1


def test_it_ends(gpu):
    x = torch.ones(2, device="cuda")
    assert x.device == CUDA and torch.cuda.is_available()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.compile(lambda y: y + 1)(x)
    gpu.reset()
