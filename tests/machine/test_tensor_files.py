"""The checksum of a file of tensors is the same with torch and without."""

import pytest
import safetensors.torch
import torch

from cran_bench.machine.tensor_files import require_intact
from cran_bench.running.fits import load_state, save_state

DTYPES = sorted(set(safetensors.torch._TYPES.values()), key=str)


def test_tensors_of_every_dtype_and_shape(tmp_path):
    path, state = tmp_path / "a.safetensors", {"none": torch.zeros(0, 3), "scalar": torch.tensor(2.5)}
    for dtype in DTYPES:
        try:
            save_state(path, {"x": torch.ones(2, 3).to(dtype)}, {})
        except (KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError):
            continue  # torch or safetensors cannot store it either
        state[str(dtype)] = torch.ones(2, 3).to(dtype)
    assert {"torch.bfloat16", "torch.float64", "torch.int64", "torch.bool", "torch.uint8"} <= state.keys()
    save_state(path, state, {"about": "é"})
    require_intact(path)
    assert load_state(path)[0].keys() == state.keys()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="its checksum does not match"):
        require_intact(path)
