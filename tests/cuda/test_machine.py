"""What the engine asks of a GPU: settings, memory, random numbers and the name of the one that is used."""

import os

import pytest
import torch
from pretended_cuda import CUDA, GIB

import cran_bench
from cran_bench.errors import BadInput
from cran_bench.machine.arithmetic import reproducible
from cran_bench.machine.environment import environment, pick_device
from cran_bench.running import memory
from cran_bench.running.fits.run import own_randomness


def test_fits_are_deterministic_and_the_settings_of_the_user_come_back(gpu, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    assert pick_device("auto").type == "cuda" and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    sums, rows = torch.zeros(2, device="cuda"), torch.zeros(3, dtype=torch.int64, device="cuda")
    with reproducible(CUDA):
        assert torch.is_deterministic_algorithms_warn_only_enabled() and not torch.backends.cudnn.benchmark
        assert not torch.utils.deterministic.fill_uninitialized_memory  # which would write all memory twice
        sums.index_add_(0, rows, torch.ones(3, device="cuda"))
    assert torch.backends.cudnn.benchmark and torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled() and not +gpu.unordered


def test_memory_that_torch_holds_for_later_counts_as_free(gpu, monkeypatch):
    train = type("Train", (), {"image_dim": 2, "texts": [], "__len__": lambda self: 0})()
    monkeypatch.setattr(memory, "estimate", lambda *_: 71 * GIB)  # 70 are free, and one of torch's two is not in use
    memory.require_room(None, train, train, CUDA)
    monkeypatch.setattr(memory, "estimate", lambda *_: 71 * GIB + 1)
    with pytest.raises(BadInput, match="and 71"):
        memory.require_room(None, train, train, CUDA)


def test_only_the_gpu_in_use_is_asked_for_its_random_state(gpu, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(device) or "state")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: asked.append((state, device)))
    for device, expected in ((torch.device("cpu"), []), (CUDA, [CUDA, ("state", CUDA)])):
        with own_randomness(0, device):
            pass
        assert asked == expected


def test_the_gpu_that_is_named_is_the_one_in_use(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index or 0}")
    named = [environment(*devices)["gpu"] for devices in ((), (torch.device("cuda:1"),), (torch.device("cpu"),))]
    assert named == ["GPU 0", "GPU 1", None]


def test_a_run_on_the_gpu_says_so_and_its_fit_searches(gpu, command, quick_scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    method = "cca[ridge_image=0.02,ridge_text=0.01,dim=16]"
    said = command("run", "-m", method, "--device", "cuda", *quick_scenes.arguments, "--results", tmp_path / "results")
    assert said.code == 0, said.err
    record = cran_bench.read_records(tmp_path / "results").iloc[0]
    assert (record["device"], record["gpu"], record["peak_memory_gpu"]) == ("cuda", "Pretended GPU", 3 * GIB)
    said = command("search", "a red star", "-m", method, "--device", "cuda", *quick_scenes.arguments)
    assert said.code == 0 and "star" in said.out
