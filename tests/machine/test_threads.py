"""Threads that wait do not spin, and a fit has as many as it is given."""

import os
import subprocess
import sys

import torch
from threadpoolctl import threadpool_info

from cran_bench.machine.threads import limited, stop_spinning

SHOW = "import os; {0}; print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('KMP_BLOCKTIME'))"


def test_importing_the_suite_stops_idle_threads_from_spinning_unless_the_user_says_how_they_wait(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)

    def shown(first):
        script = SHOW.format(f"{first}; import cran_bench, sys; assert 'torch' not in sys.modules")
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    assert shown("pass") == ["PASSIVE", "0"]
    assert shown("os.environ['GOMP_SPINCOUNT'] = '100'") == ["None", "None"]
    assert not stop_spinning()  # torch is loaded here
    assert os.environ.get("OMP_WAIT_POLICY") is None


def test_a_block_has_its_threads(monkeypatch):
    before = torch.get_num_threads(), {pool["num_threads"] for pool in threadpool_info()}
    for threads in (1, 2):
        with limited(threads):
            assert torch.get_num_threads() == threads
            assert {pool["num_threads"] for pool in threadpool_info()} == {threads}
    with limited(None):
        assert torch.get_num_threads() == before[0]
    assert (torch.get_num_threads(), {pool["num_threads"] for pool in threadpool_info()}) == before
